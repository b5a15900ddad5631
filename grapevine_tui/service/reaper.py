"""As process 1 of a container: collects the orphans that others leave behind.

Invariants:

- A child that stays dead for a whole sweep is nobody's and is collected. Those of our own are collected
  by whoever started them, within milliseconds, and are left to them.
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
    """Collects the dead children of this process that nobody waits for."""

    def __init__(self) -> None:
        self._zombies: set[int] = set()

    def reap(self) -> int:
        """Collect what was dead at the sweep before, too; how many that were."""
        zombies = zombie_children()
        collected = 0
        for pid in zombies & self._zombies:
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
                collected += 1
        self._zombies = zombies
        return collected


def zombie_children() -> set[int]:
    """The zombies whose parent is this process."""
    own_pid = str(os.getpid()).encode()
    found: set[int] = set()
    for entry in os.scandir(PROC):
        if entry.name.isdigit():
            with suppress(OSError):  # it has just gone
                # pid (name) state parent ...; the name may hold anything, parentheses too
                status = (PROC / entry.name / "stat").read_bytes().rpartition(b")")[2].split()
                if status[:2] == [b"Z", own_pid]:
                    found.add(int(entry.name))
    return found


def start_reaper_if_init() -> None:
    """From now on, if this is process 1, which inherits every orphan of its container."""
    if os.getpid() != 1 or not (PROC / "1").is_dir():
        return

    def run() -> None:
        reaper = Reaper()
        while True:
            time.sleep(REAP_INTERVAL_S)
            with suppress(OSError):  # no descriptor is free: at the next sweep
                reaper.reap()

    threading.Thread(target=run, name="reaper", daemon=True).start()
