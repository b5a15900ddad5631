"""What a service manager is told: ready, reloading, stopping, alive (sd_notify(3)).

What must stay true: without ``NOTIFY_SOCKET`` nothing happens; a manager that does not listen never
holds up the node. The watchdog is fed from the node's loop, so that a loop that hangs starves it.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import time
from contextlib import suppress
from typing import Final

from grapevine_proto.errors import GrapevineError
from grapevine_tui.host.local import Host
from grapevine_tui.text import printable

MANAGER_VARIABLES: Final = (
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
)  # not for our children


def notify(*lines: str) -> None:
    """Tell the manager, if there is one."""
    socket_path = os.environ.get("NOTIFY_SOCKET", "")
    if not socket_path.startswith(("/", "@")) or not hasattr(socket, "AF_UNIX"):
        return
    address = "\0" + socket_path[1:] if socket_path.startswith("@") else socket_path
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.sendto("\n".join(lines).encode(), address)


def notify_reloading() -> None:
    """Begin a reload; ``READY=1`` ends it."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def notify_reloaded(host: Host, problem: str) -> None:
    """End a reload. `problem`: why nothing was taken over, which `systemctl status` shows; empty: all was."""
    status = f"listening on {host.node.address}"
    line = printable(f"not reloaded: {problem}; {status}" if problem else status)
    notify(f"STATUS={line}", f"ERRNO={errno.EINVAL if problem else 0}")
    notify("READY=1")


def watchdog_timeout_s() -> float:
    """How often the manager wants to hear of us; 0: it does not care."""
    with suppress(ValueError):
        if os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid()):
            return max(0.0, int(os.environ.get("WATCHDOG_USEC", "0")) / 1e6)
    return 0.0


async def notify_ready_and_watchdog(host: Host, wait_peers: int) -> None:
    """Say ready once the host is started and linked to `wait_peers`, then that we are alive."""
    if "NOTIFY_SOCKET" not in os.environ:
        return
    interval_s = watchdog_timeout_s() / 2
    await host.started.wait()
    if wait_peers:
        with suppress(GrapevineError):
            await host.node.ready(wait_peers)
    notify("READY=1", f"STATUS=listening on {host.node.address}")
    while interval_s:
        notify("WATCHDOG=1")
        await asyncio.sleep(interval_s)
