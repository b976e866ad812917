"""Default name of a node: the host name at its first start, kept in the state folder.

A host name may change while the machine stays the same: a DHCP server renames Macs. A Mac's
``LocalHostName`` does not follow it (``man 8 scutil``).
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import tempfile
import unicodedata
from contextlib import suppress
from pathlib import Path
from typing import Final

from pomona import host

MAX_CHARACTERS: Final = 48
FILE: Final = "node"
COMMAND_DEADLINE_S: Final = 5.0


def node_name(state_dir: Path | None) -> str:
    """Returns the name that ``state_dir`` keeps, or the host name when it keeps none."""
    if state_dir is not None:
        with suppress(OSError, UnicodeDecodeError):
            kept = (state_dir / FILE).read_text(encoding="ascii").strip()
            if kept and kept == valid_name(kept):
                return kept
    return valid_name(_host_name())


def keep_node_name(state_dir: Path, name: str) -> str:
    """Keeps ``name`` in ``state_dir`` unless it keeps one already. Returns the kept name.

    Of several processes that start at once, all get the name of the first. Where the folder
    cannot be written, the name is not kept.
    """
    with suppress(OSError):
        state_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=state_dir) as file:
            file.write(name)
            file.flush()
            with suppress(FileExistsError):
                os.link(file.name, state_dir / FILE)
    return node_name(state_dir) if (state_dir / FILE).is_file() else name


def valid_name(text: str) -> str:
    """Returns the first label of a host name as a valid name of a node, in ASCII."""
    first = text.strip().split(".")[0]
    ascii_text = unicodedata.normalize("NFKD", first).encode("ascii", "ignore").decode()
    cleaned = re.sub(r"[^A-Za-z0-9_-]+", "-", ascii_text).strip("_-")
    return cleaned[:MAX_CHARACTERS] or "node"


def _host_name() -> str:
    if host.is_mac():
        with suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run(
                [shutil.which("scutil") or "/usr/sbin/scutil", "--get", "LocalHostName"],
                capture_output=True,
                text=True,
                timeout=COMMAND_DEADLINE_S,
                check=True,
            )
            if done.stdout.strip():
                return done.stdout
    return socket.gethostname()
