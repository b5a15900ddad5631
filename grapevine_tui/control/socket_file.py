"""The control socket as a file: its name, a path short enough to bind, and who serves it."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from grapevine_proto.storage.permissions import UntrustedFile

SOCKET_NAME: Final = "control.sock"
MAX_SOCKET_PATH_BYTES: Final = 100  # systems accept 104 to 108
PEER_CREDENTIALS: Final = struct.Struct(
    "3i"
)  # pid, uid, gid of the other end: unix(7), SO_PEERCRED


@contextlib.contextmanager
def connectable_path(path: Path) -> Iterator[str]:
    """A name for the socket at `path` that is short enough for the system, where there is one."""
    text = str(path)
    if len(os.fsencode(text)) <= MAX_SOCKET_PATH_BYTES or not Path("/proc/self/fd").is_dir():
        yield text
        return
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def check_server_owner(sock: Any, path: Path) -> None:
    """Raises UntrustedFile where what answers at `path`, to which `sock` is connected, runs as another
    user: it would be given what was meant for the node. Root may ask anyone's node."""
    if sys.platform != "linux" or os.geteuid() == 0:
        return
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER_CREDENTIALS.size)
    _, uid, _ = PEER_CREDENTIALS.unpack(credentials)
    if uid not in (0, os.geteuid()):
        raise UntrustedFile(path, f"what answers there belongs to uid {uid}, not to this user")
