"""Addresses that people write as names: resolved again and again, for names move.

What must stay true:

- A literal address never waits for a resolver.
- A name that does not resolve now is asked for again, and costs no other name a moment.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from grapevine_proto.ids import Address, literal

RESOLVE_INTERVAL_S: Final = 30.0

Resolve = Callable[[str], Awaitable[tuple[Address, ...]]]


class Names:
    """The names among a node's bootstrap peers. `resolve` asks the system, `on_resolved` is told."""

    def __init__(
        self, resolve: Resolve, on_resolved: Callable[[str, tuple[Address, ...]], None]
    ) -> None:
        self._resolve = resolve
        self._on_resolved = on_resolved
        self._names: list[str] = []
        self._changed = asyncio.Event()

    def follow(self, peers: Iterable[str]) -> None:
        """Follow the names among `peers` from now on, and no others."""
        self._names = [each for each in peers if literal(each) is None]
        self._changed.set()

    async def run(self) -> None:
        while True:
            self._changed.clear()
            await asyncio.gather(*map(self._ask, self._names))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RESOLVE_INTERVAL_S):
                    await self._changed.wait()

    async def _ask(self, name: str) -> None:
        addresses = await self._resolve(name)
        if addresses:
            self._on_resolved(name, addresses)
