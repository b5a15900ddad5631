"""Notifies the service manager: ready, reloading, stopping, watchdog (sd_notify(3)).

Invariants: without ``NOTIFY_SOCKET`` nothing happens, and a manager that does not read never blocks
the node. The node's event loop feeds the watchdog, so a loop that hangs is detected.
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
)  # not passed on to child processes


def notify(*lines: str) -> None:
    """Send `lines` to the service manager, if there is one."""
    socket_path = os.environ.get("NOTIFY_SOCKET", "")
    if not socket_path.startswith(("/", "@")) or not hasattr(socket, "AF_UNIX"):
        return
    address = "\0" + socket_path[1:] if socket_path.startswith("@") else socket_path
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.sendto("\n".join(lines).encode(), address)


def notify_reloading() -> None:
    """Report the start of a reload; ``READY=1`` ends it."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def notify_reloaded(host: Host, problem: str) -> None:
    """Report the end of a reload. `problem`, shown by `systemctl status`, says why nothing was
    applied; empty on success.
    """
    status = f"listening on {host.node.address}"
    line = printable(f"not reloaded: {problem}; {status}" if problem else status)
    notify(f"STATUS={line}", f"ERRNO={errno.EINVAL if problem else 0}")
    notify("READY=1")


def watchdog_timeout_s() -> float:
    """Watchdog timeout of the manager; 0 if it has none."""
    with suppress(ValueError):
        if os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid()):
            return max(0.0, int(os.environ.get("WATCHDOG_USEC", "0")) / 1e6)
    return 0.0


async def notify_ready_and_watchdog(host: Host, wait_peers: int) -> None:
    """Report ready once the host has started and `wait_peers` are connected, then feed the
    watchdog.
    """
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
