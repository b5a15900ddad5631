"""When a node's state is read and written, off the loop; `state` knows how.

What must stay true:

- An epoch is on disk before anything is sent under it.
- One save at a time, and none where nothing changed.
- Whoever is cancelled while a thread loads waits for it: it may take the directory's lock yet.
- A save that fails costs the node nothing but what a crash would lose; it is told of once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from grapevine_proto.crypto.identity import SEED_BYTES
from grapevine_proto.engine import Engine, NodeState
from grapevine_proto.ids import MessageId
from grapevine_proto.runtime.daemon_threads import DaemonThreads
from grapevine_proto.runtime.state_file import StateDirectory

logger = logging.getLogger("grapevine")


class StatePersister:
    """The state of one node, in `directory`; without one, every run begins as somebody new.

    `on_problem` is called with what is wrong with saving, in plain words, when that changes; empty:
    it works again.
    """

    def __init__(self, directory: str | Path | None, on_problem: Callable[[str], None]) -> None:
        self._directory = None if directory is None else StateDirectory(directory)
        self._on_problem = on_problem
        self._lock = asyncio.Lock()
        self._threads = DaemonThreads("grapevine state", 1)
        self._saved_epoch = 0
        self._saved_version = (-1, 0)
        self._last_problem = ""

    @property
    def load_warning(self) -> str:
        """What was wrong with the directory when it was read; empty: nothing."""
        return "" if self._directory is None else self._directory.load_warning

    @property
    def is_enabled(self) -> bool:
        """Whether there is a directory at all."""
        return self._directory is not None

    def is_persisted(self, epoch: int) -> bool:
        """Whether `epoch` is on disk, so that nobody will use it again."""
        return epoch == self._saved_epoch

    async def load(self) -> NodeState:
        """What the last run left. Raises ConfigError and StateLockedError."""
        saved = await self._load()
        self._saved_epoch = saved.epoch
        return saved

    async def _load(self) -> NodeState:
        if self._directory is None:
            return NodeState(
                seed=os.urandom(SEED_BYTES), epoch=int(time.time()), streams=(), peers=()
            )
        loading = asyncio.create_task(self._threads.run(self._directory.load, time.time()))
        try:
            saved = await asyncio.shield(loading)
        except asyncio.CancelledError:
            await asyncio.wait([loading])
            raise
        if self.load_warning:
            logger.warning("%s", self.load_warning)
        return saved

    async def save(
        self, engine: Engine, now: float, unhandled: Callable[[], Iterable[MessageId]], handled: int
    ) -> bool:
        """Save what changed; whether all is saved now. `unhandled` gives the broadcasts that the
        application is not done with, which changed if `handled` did."""
        if self._directory is None:
            return True
        async with self._lock:
            version, epoch = (engine.state_version, handled), engine.epoch
            if (version, epoch) == (self._saved_version, self._saved_epoch):
                return True
            problem = ""
            try:
                await self._threads.run(self._directory.save, engine.snapshot(now, unhandled()))
                self._saved_version, self._saved_epoch = version, epoch
            except OSError as error:
                problem = f"{self._directory.path}: {error.strerror or error}"
            if problem != self._last_problem:
                self._last_problem = problem
                self._on_problem(problem)
            return not problem

    def close(self) -> None:
        """Give the directory back."""
        if self._directory is not None:
            self._directory.close()
