"""Reaps orphaned processes when this is process 1 of a container.

Invariants:

- Only a zombie that is still there at the next sweep is reaped. Our own children are reaped by
  their callers within milliseconds.
- It runs in a thread of its own and never delays the node.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

REAP_INTERVAL_S: Final = 0.5
PROC: Final = Path("/proc")


class Reaper:
    """Reaps zombie children that no one waits for."""

    def __init__(self) -> None:
        self._zombies: set[int] = set()

    def reap(self) -> int:
        """Reap the zombies that the previous sweep also found; return their number."""
        zombies = zombie_children()
        collected = 0
        for pid in zombies & self._zombies:
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
                collected += 1
        self._zombies = zombies
        return collected


def zombie_children() -> set[int]:
    """Process IDs of this process's zombie children."""
    own_pid = str(os.getpid()).encode()
    found: set[int] = set()
    for entry in os.scandir(PROC):
        if entry.name.isdigit():
            with suppress(OSError):  # it ended meanwhile
                # pid (name) state parent ...; the name may contain anything, even parentheses
                status = (PROC / entry.name / "stat").read_bytes().rpartition(b")")[2].split()
                if status[:2] == [b"Z", own_pid]:
                    found.add(int(entry.name))
    return found


def start_reaper_if_init() -> None:
    """Start reaping if this is process 1, which inherits every orphan of its container."""
    if os.getpid() != 1 or not (PROC / "1").is_dir():
        return

    def run() -> None:
        reaper = Reaper()
        while True:
            time.sleep(REAP_INTERVAL_S)
            with suppress(OSError):  # out of file descriptors: retry at the next sweep
                reaper.reap()

    threading.Thread(target=run, name="reaper", daemon=True).start()
