"""Addresses that people write as names: resolved again and again, for names move.

What must stay true:

- A literal address never waits for a resolver.
- Each name is asked for on its own: one that does not resolve, or whose lookup hangs, costs no other
  name a moment and is asked for again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from grapevine_proto.ids import Address, parse_literal

logger = logging.getLogger("grapevine")

RESOLVE_INTERVAL_S: Final = 30.0

Resolve = Callable[[str], Awaitable[tuple[Address, ...]]]


class BootstrapResolver:
    """The names among a node's bootstrap peers. `resolve` asks the system, `on_resolved` is told each
    answer as it comes: the addresses, or none where the name does not resolve now."""

    def __init__(
        self, resolve: Resolve, on_resolved: Callable[[str, tuple[Address, ...]], None]
    ) -> None:
        self._resolve = resolve
        self._on_resolved = on_resolved
        self._names: list[str] = []
        self._names_changed = asyncio.Event()

    def watch(self, peers: Iterable[str]) -> None:
        """Follow the names among `peers` from now on, and no others."""
        self._names = [each for each in peers if parse_literal(each) is None]
        self._names_changed.set()

    async def run(self) -> None:
        lookups: dict[str, asyncio.Task[None]] = {}
        try:
            while True:
                self._names_changed.clear()
                for name in set(lookups) - set(self._names):
                    lookups.pop(name).cancel()
                for name in self._names:
                    if name not in lookups:
                        lookups[name] = asyncio.create_task(self._resolve_periodically(name))
                await self._names_changed.wait()
        finally:
            for task in lookups.values():
                task.cancel()

    async def _resolve_periodically(self, name: str) -> None:
        while True:
            try:
                self._on_resolved(name, await self._resolve(name))
            except Exception:
                logger.exception("%s: internal error in its lookup; it is tried again", name)
            await asyncio.sleep(RESOLVE_INTERVAL_S)
