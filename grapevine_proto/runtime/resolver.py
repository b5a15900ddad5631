"""Periodic resolution of bootstrap peers that are configured by name, because names move.

Invariants:

- A literal address never waits for the resolver.
- Names are resolved independently: one that does not resolve, or whose lookup hangs, delays no other and
  is retried.
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
    """Resolves the names among the bootstrap peers every `RESOLVE_INTERVAL_S` seconds.

    `resolve` looks up a ``host:port``. `on_resolved` is called with each result: the addresses, empty if
    the name does not resolve.
    """

    def __init__(
        self, resolve: Resolve, on_resolved: Callable[[str, tuple[Address, ...]], None]
    ) -> None:
        self._resolve = resolve
        self._on_resolved = on_resolved
        self._names: list[str] = []
        self._names_changed = asyncio.Event()

    def watch(self, peers: Iterable[str]) -> None:
        """Sets the bootstrap peers, ``host:port`` each, in place of the earlier ones."""
        self._names = [each for each in peers if parse_literal(each) is None]
        self._names_changed.set()

    async def run(self) -> None:
        """Resolves the watched names until cancelled."""
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
                logger.exception("%s: internal error during name resolution; retrying", name)
            await asyncio.sleep(RESOLVE_INTERVAL_S)
