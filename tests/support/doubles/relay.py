"""A TCP relay that counts its connections."""

from __future__ import annotations

import socket
import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress


class Relay:
    """Forwards connections to ``target``, an endpoint ``tcp://host:port``.

    Attributes:
        endpoint: address of the relay.
        connections: number of connections so far.
        seen: every byte that was forwarded.
    """

    def __init__(self, target: str) -> None:
        host, port = target.removeprefix("tcp://").split(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections = 0
        self.seen = bytearray()
        self._ended: list[socket.socket] = []
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, name="relay")]
        self._threads[0].start()

    @property
    def closed(self) -> bool:
        """True when there was a connection and all have ended."""
        return self.connections > 0 and len(self._ended) == 2 * self.connections

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
                self._sockets += [near, far]
                self.connections += 1
                for source, sink in ((near, far), (far, near)):
                    thread = threading.Thread(target=self._copy, args=(source, sink))
                    self._threads.append(thread)
                    thread.start()

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while part := source.recv(65536):
                self.seen += part
                sink.sendall(part)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)
        self._ended.append(source)

    def close(self) -> None:
        with ExitStack() as stack:
            for each in (self._listener, *self._sockets):
                stack.callback(each.close)
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
            assert not thread.is_alive()


@contextmanager
def relay(target: str) -> Generator[Relay]:
    """Runs a relay to an endpoint while the block runs."""
    made = Relay(target)
    try:
        yield made
    finally:
        made.close()
