"""Scripts of a machine that is on the network but not a member.

Each gets a JSON list of [address, port] of members as its first argument.
"""

LISTEN = """
import json, sys, zmq
context = zmq.Context()
poller, sockets = zmq.Poller(), []
for address, port in json.loads(sys.argv[1]):
    for kind in (zmq.SUB, zmq.PULL, zmq.DEALER):
        for key in (False, True):
            socket = context.socket(kind)
            socket.setsockopt(zmq.LINGER, 0)
            if key:
                public, secret = zmq.curve_keypair()
                socket.setsockopt(zmq.CURVE_PUBLICKEY, public)
                socket.setsockopt(zmq.CURVE_SECRETKEY, secret)
                socket.setsockopt(zmq.CURVE_SERVERKEY, zmq.curve_keypair()[0])
            if kind == zmq.SUB:
                socket.setsockopt(zmq.SUBSCRIBE, b"")
            socket.connect(f"tcp://{address}:{port}")
            poller.register(socket, zmq.POLLIN)
            sockets.append(socket)
heard = dict(poller.poll(2000))
for socket in heard:
    print(socket.recv_multipart()[:2])
context.destroy(linger=0)
"""
"""Prints everything readable with ZeroMQ, in clear and with keys of its own."""

FORGE = """
import json, sys, time, zmq
def beacon(name, facts, seq):
    content = {"cluster": "pomona", "name": name, "node": name.split(".")[0], "boot": "f" * 16,
               "seq": seq, "version": "0", "pid": 1, "state": "ready", "progress": 0, "queued": 0,
               "endpoints": {"data": "tcp://10.79.0.5:1", "files": "http://10.79.0.5:2"},
               "facts": facts}
    return [f"beacon/{facts['service']}/{name}".encode(), json.dumps(content).encode()]
planner = {"service": "planner", "pipelines": [
    {"model": "SmolLM2-135M-Instruct", "source": "SmolLM2-135M-Instruct", "epoch": 1 << 50,
     "layer_count": 30, "state": "active", "stages": []}], "models": []}
worker = {"service": "stage_worker", "device": "cpu", "usable_memory_bytes": 1 << 40,
          "resident_bytes": 0}
context = zmq.Context()
sockets = []
for address, port in json.loads(sys.argv[1]):
    for kind in (zmq.PUB, zmq.PUSH):
        for key in (False, True):
            socket = context.socket(kind)
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.SNDTIMEO, 0)
            if key:
                public, secret = zmq.curve_keypair()
                socket.setsockopt(zmq.CURVE_PUBLICKEY, public)
                socket.setsockopt(zmq.CURVE_SECRETKEY, secret)
                socket.setsockopt(zmq.CURVE_SERVERKEY, public)
            socket.connect(f"tcp://{address}:{port}")
            sockets.append(socket)
for seq in range(15):
    for socket in sockets:
        for name, facts in (("anna.planner", planner), ("eve.planner", planner),
                            ("eve.stage_worker", worker), ("dora.stage_worker.0", worker)):
            try:
                socket.send_multipart(beacon(name, facts, 10**9 + seq))
            except zmq.ZMQError:
                pass
    time.sleep(0.1)
context.destroy(linger=0)
"""
"""Publishes plans with a higher epoch, and workers, as members and as itself."""

FLOOD = """
import json, socket, sys, time
held = []
targets = json.loads(sys.argv[1])
ends_at = time.monotonic() + 4
while time.monotonic() < ends_at:
    for address, port in targets:
        connection = socket.socket()
        connection.setblocking(False)
        connection.connect_ex((address, port))
        held.append(connection)
        if len(held) % 3 == 0:
            try:
                connection.send(b"\\xff" + bytes(8) + b"\\x7f\\x03")
            except OSError:
                pass
    while len(held) > 800:
        held.pop(0).close()
    time.sleep(0.01)
"""
"""Opens hundreds of connections to every port and finishes no handshake."""

REPLAY = """
import json, re, socket, sys
recorded = open(sys.argv[2], "rb").read()
# ZeroMQ's greeting of a client, and what it sent after it.
starts = [found.start() for found in re.finditer(rb"\\xff\\x00{7}\\x01\\x7f\\x03", recorded)][:3]
for address, port in json.loads(sys.argv[1]):
    for start in starts:
        try:
            with socket.create_connection((address, port), timeout=1) as connection:
                connection.sendall(recorded[start:start + 4096])
                connection.settimeout(0.2)
                connection.recv(4096)
        except OSError:
            pass
"""
"""Sends recorded connections of members again. The second argument is the capture."""
