"""Loads and saves the state of a node outside of the event loop; `state_file` defines the files.

Invariants:

- An epoch is on disk before anything is sent under it. So is an entry of this node, unless saving fails or
  takes longer than `ENTRY_SAVE_LIMIT_S`: a slow disk must not silence the node.
- One save runs at a time, and none if nothing changed.
- A save costs what changed: the streams, entries and peers that did go to a journal. The whole state is saved
  when the journal is as long, and after anything but a success.
- A cancelled `load` waits for its thread, which may still take the lock of the directory.
- A save of everything holds up the event loop for a slice of the streams at a time.
- A failed save costs no more than a crash would; it is reported once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final

from grapevine_proto.crypto.identity import SEED_BYTES
from grapevine_proto.engine import Engine, NodeState, SavedStream
from grapevine_proto.ids import MessageId, Stream
from grapevine_proto.runtime.daemon_threads import DaemonThreads
from grapevine_proto.runtime.state_encoding import StateChanges, Version
from grapevine_proto.runtime.state_file import StateDirectory

ENTRY_SAVE_LIMIT_S: Final = 0.25  # heartbeats may be late by as much
# a program that writes without a pause does not keep others from sending
ENTRY_SAVES_PER_TURN: Final = 2

logger = logging.getLogger("grapevine")

STREAMS_PER_SLICE: Final = 256  # of a save of everything: 3 ms of the event loop


class StatePersister:
    """Persists the state of one node in `directory`; without one, every run has a new identity.

    `on_problem` is called, for people, when saving starts to fail, fails differently, or works again (empty).
    """

    def __init__(self, directory: str | Path | None, on_problem: Callable[[str], None]) -> None:
        self._directory = None if directory is None else StateDirectory(directory)
        self._on_problem = on_problem
        self._lock = asyncio.Lock()
        self._threads = DaemonThreads("grapevine state", 1)
        self._saved_epoch = 0
        self._saved_version = (-1, 0)
        self._settled_entries = 0  # version of our own map that is on disk, or no longer waited for
        self._last_problem = ""
        self._whole_saved_at: float | None = None  # None: the next save is of everything
        # they were saved as if messages had not been seen
        self._unhandled_streams: list[Stream] = []
        self._entries: list[Version] = []  # saved ones

    @property
    def load_warning(self) -> str:
        """Damage that was found while loading, for people; empty if none."""
        return "" if self._directory is None else self._directory.load_warning

    @property
    def is_enabled(self) -> bool:
        """Whether there is a state directory."""
        return self._directory is not None

    def is_persisted(self, epoch: int) -> bool:
        """Whether `epoch` is on disk, so no later run reuses it."""
        return epoch == self._saved_epoch

    def has_settled(self, entries_version: int) -> bool:
        """Whether the entries of this node are on disk as of this version, or no save waits for them."""
        return self._directory is None or entries_version <= self._settled_entries

    def settle(self, entries_version: int) -> None:
        """Waits no longer for the entries of this version, saved or not."""
        self._settled_entries = max(self._settled_entries, entries_version)

    async def load(self) -> NodeState:
        """Returns the state of the last run. Raises ConfigError, StorageError or StateLockedError."""
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
        """Saves the state if it changed. Returns whether everything is saved.

        `unhandled` returns the broadcasts that message handlers have not finished, which are saved as not
        seen; `handled` counts finished ones and so reveals changes.
        """
        if self._directory is None:
            return True
        async with self._lock:
            version, epoch = (engine.state_version, handled), engine.epoch
            entries_version = engine.state.version
            if (version, epoch) == (self._saved_version, self._saved_epoch):
                return True
            problem = ""
            try:
                await self._write(self._directory, engine, now, unhandled)
                self._saved_version, self._saved_epoch = version, epoch
                self.settle(entries_version)
            except OSError as error:
                problem = f"{self._directory.path}: {error.strerror or error}"
            if problem != self._last_problem:
                self._last_problem = problem
                self._on_problem(problem)
            return not problem

    async def _write(
        self,
        directory: StateDirectory,
        engine: Engine,
        now: float,
        unhandled: Callable[[], Iterable[MessageId]],
    ) -> None:
        """Saves what changed, or everything. Raises OSError; the next save is then of everything."""
        changed = engine.take_unsaved_streams()
        whole_saved_at, self._whole_saved_at = self._whole_saved_at, None
        before: dict[Stream, SavedStream] | None = None
        if changed is None or whole_saved_at is None or directory.is_save_due:
            whole_saved_at, before = now, await _saved_in_slices(engine, now)
            changed = engine.take_unsaved_streams()  # while the slices were taken
        ids = list(unhandled())
        unhandled_streams = list(dict.fromkeys(each.stream for each in ids))
        streams: dict[Stream, None] | None = None
        if changed is not None:
            streams = dict.fromkeys((*changed, *self._unhandled_streams, *unhandled_streams))
        state = engine.snapshot(now, ids, streams)
        if before is None:
            changes = self._changes(state, streams or {}, now - whole_saved_at)
            await self._threads.run(directory.append, changes)
        else:
            if streams is not None:
                state = _merged(before, state, streams)
            await self._threads.run(directory.save, state)
        self._whole_saved_at = whole_saved_at
        self._unhandled_streams = unhandled_streams
        self._entries = [(each.epoch, each.sequence) for each in state.entries]

    def _changes(
        self, state: NodeState, streams: Iterable[Stream], elapsed_s: float
    ) -> StateChanges:
        """What there is to append: `state` has those of the changed `streams` that still exist."""
        kept = {Stream(each.origin, each.epoch) for each in state.streams}
        before = set(self._entries)
        versions = {(each.epoch, each.sequence) for each in state.entries}
        new = tuple(each for each in state.entries if (each.epoch, each.sequence) not in before)
        return StateChanges(
            replace(state, entries=new),
            elapsed_s,
            tuple(each for each in streams if each not in kept),
            tuple(each for each in self._entries if each not in versions),
        )

    def close(self) -> None:
        """Releases the state directory."""
        if self._directory is not None:
            self._directory.close()


async def _saved_in_slices(engine: Engine, now: float) -> dict[Stream, SavedStream]:
    """What is saved of all streams. The loop runs between slices, so streams may change meanwhile."""
    found: dict[Stream, SavedStream] = {}
    streams = engine.tracked_streams()
    for start in range(0, len(streams), STREAMS_PER_SLICE):
        for each in engine.saved_streams(streams[start : start + STREAMS_PER_SLICE], now):
            found[Stream(each.origin, each.epoch)] = each
        await asyncio.sleep(0)
    return found


def _merged(
    before: dict[Stream, SavedStream], state: NodeState, streams: Iterable[Stream]
) -> NodeState:
    """Returns `state` with all streams: it has those of `streams` that still exist, and `before` the rest."""
    for stream in streams:
        before.pop(stream, None)
    return replace(state, streams=(*before.values(), *state.streams))
