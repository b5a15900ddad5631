"""The control socket as a file: its name, a path short enough to bind, and the process that serves it."""

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
WATCH_SOCKET_NAME: Final = "watch.sock"  # answers commands that read, and no other
MAX_SOCKET_PATH_BYTES: Final = 100  # systems accept 104 to 108
PEER_CREDENTIALS: Final = struct.Struct(
    "3i"
)  # pid, uid, gid of the other end: unix(7), SO_PEERCRED


@contextlib.contextmanager
def connectable_path(path: Path) -> Iterator[str]:
    """Yield a name of the socket at `path` that is short enough to bind and connect, if there is one."""
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
    """Raise UntrustedFile if the process that serves `path` runs as another user.

    `sock` is connected to it. Such a process would receive what is meant for the node. Root may query
    the node of any user. The socket for those who only watch may also belong to the owner of its directory:
    it gets nothing but questions.
    """
    if sys.platform != "linux" or os.geteuid() == 0:
        return
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER_CREDENTIALS.size)
    _, uid, _ = PEER_CREDENTIALS.unpack(credentials)
    owners = {0, os.geteuid()}
    if path.name == WATCH_SOCKET_NAME:
        owners.add(path.parent.stat().st_uid)
    if uid not in owners:
        raise UntrustedFile(
            path, f"the process that answers belongs to uid {uid}, not to this user"
        )
