"""Follows the sources of a node and hands what they name to the dialer.

Invariants:

- An address is a hint: it is dialed unless a member that is up advertises it or a peer is connected
  there, with growing intervals, and at most `DIALS_PER_MINUTE` times a minute and source.
- Of one source at most `limits.addresses_per_source` addresses count; the rest is counted.
- An error of one source affects no other. It is logged once until it is another one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Set
from dataclasses import dataclass, field
from typing import Final

from grapevine_proto.config.validate import FILE_PREFIX, SRV_PREFIX
from grapevine_proto.errors import GrapevineError
from grapevine_proto.events import PeerDiscovered
from grapevine_proto.ids import Address, parse_literal
from grapevine_proto.runtime.discovery.files import FileDiscovery
from grapevine_proto.runtime.discovery.source import AnnouncingDiscovery, Discovery, OwnNode
from grapevine_proto.runtime.discovery.srv import SrvDiscovery
from grapevine_proto.token_bucket import TokenBucket

logger = logging.getLogger("grapevine")

DIALS_PER_MINUTE: Final = 16
RETRY_S: Final = 5.0  # after an error of a source
MIN_INTERVAL_S: Final = 0.05  # between two calls of a source
HINT_INTERVAL_S: Final = 1.0  # between looks for hints that are due
REDIAL_BOUNDS_S: Final = (5.0, 60.0)  # of one address
WITHDRAW_TIMEOUT_S: Final = 1.0


def source_of(text: str) -> Discovery:
    """Returns the source that a bootstrap peer ``@FILE`` or ``srv+NAME`` stands for. Raises ConfigError if
    its package is missing."""
    if text.startswith(FILE_PREFIX):
        return FileDiscovery(text.removeprefix(FILE_PREFIX))
    return SrvDiscovery(text.removeprefix(SRV_PREFIX))


@dataclass(frozen=True, slots=True)
class DiscoverySource:
    """What a source has done so far. `problem` is for people, empty if there is none; `dropped`: addresses
    beyond the limit."""

    name: str
    addresses: tuple[Address, ...]
    problem: str
    dropped: int


@dataclass(slots=True)
class _Hint:
    """An address of a source, and when to dial it."""

    dial_at: float
    interval_s: float = REDIAL_BOUNDS_S[0]


@dataclass(slots=True)
class _Followed:
    """A source with what it named."""

    source: Discovery
    budget: TokenBucket
    hints: dict[Address, _Hint] = field(default_factory=dict)
    problem: str = ""
    dropped: int = 0


class DiscoveryRunner:
    """Runs the sources of one node.

    Args:
        now: the clock of the node.
        resolve: looks up a ``host:port``.
        limit: the most addresses of one source.
        known: returns the addresses that are not worth a dial now.
        dial: hands a hint to the dialer.
        publish: emits an event.
    """

    def __init__(
        self,
        now: Callable[[], float],
        resolve: Callable[[str], Awaitable[tuple[Address, ...]]],
        limit: Callable[[], int],
        known: Callable[[], Set[Address]],
        dial: Callable[[Address], None],
        publish: Callable[[PeerDiscovered], None],
    ) -> None:
        self._now = now
        self._resolve = resolve
        self._limit = limit
        self._known = known
        self._dial = dial
        self._publish = publish
        self._given: list[Discovery] = []
        self._configured: dict[str, Discovery] = {}  # by bootstrap peer
        self._followed: dict[int, _Followed] = {}  # by id of the source
        self._sources_changed = asyncio.Event()
        self._own: OwnNode | None = None

    def add(self, sources: Iterable[Discovery]) -> None:
        """Adds the sources that the application gave."""
        self._given += sources
        self._sources_changed.set()

    def watch(self, bootstrap_sources: Iterable[str]) -> None:
        """Sets the sources among the bootstrap peers, in place of the earlier ones. Raises ConfigError."""
        self._configured = {
            text: self._configured.get(text) or source_of(text) for text in bootstrap_sources
        }
        self._sources_changed.set()

    def set_own(self, own: OwnNode) -> None:
        """Sets what announcing sources tell of this node. It is announced again if it changed."""
        if own != self._own:
            self._own = own
            self._sources_changed.set()

    @property
    def is_empty(self) -> bool:
        """Whether there is no source."""
        return not self._given and not self._configured

    def sources(self) -> list[DiscoverySource]:
        """Returns what each source has named."""
        return [
            DiscoverySource(each.source.name, tuple(each.hints), each.problem, each.dropped)
            for each in self._followed.values()
        ]

    async def run(self) -> None:
        """Follows the sources until cancelled."""
        tasks: dict[int, asyncio.Task[None]] = {}
        announced: OwnNode | None = None
        try:
            while True:
                self._sources_changed.clear()
                sources = {id(each): each for each in (*self._given, *self._configured.values())}
                for key in set(tasks) - set(sources):
                    tasks.pop(key).cancel()
                    del self._followed[key]
                is_new = {key for key in sources if key not in tasks}
                for key in is_new:
                    budget = TokenBucket(DIALS_PER_MINUTE, DIALS_PER_MINUTE / 60, self._now())
                    self._followed[key] = _Followed(sources[key], budget)
                changed = set(sources) if self._own != announced else is_new
                announced = self._own
                await self._announce([self._followed[key] for key in changed])
                for key in is_new:
                    tasks[key] = asyncio.create_task(self._follow(self._followed[key]))
                await self._dial_until_sources_change()
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)
            await self._withdraw()

    async def _announce(self, sources: list[_Followed]) -> None:
        for each in sources:
            if self._own is not None and isinstance(each.source, AnnouncingDiscovery):
                try:
                    await each.source.announce(self._own)
                except Exception as error:  # noqa: BLE001  of any package
                    self._on_problem(each, error)

    async def _withdraw(self) -> None:
        withdrawals = [
            each.source.withdraw()
            for each in self._followed.values()
            if isinstance(each.source, AnnouncingDiscovery)
        ]
        try:
            async with asyncio.timeout(WITHDRAW_TIMEOUT_S):
                await asyncio.gather(*withdrawals, return_exceptions=True)
        except TimeoutError:
            logger.info("discovery: an announcement was not withdrawn in time")

    async def _follow(self, followed: _Followed) -> None:
        """Asks one source again and again."""
        while True:
            try:
                texts = await followed.source.addresses()
                await self._update(followed, texts)
            except Exception as error:  # noqa: BLE001  of any package, or of the application
                self._on_problem(followed, error)
                await asyncio.sleep(RETRY_S)
            else:
                followed.problem = ""
                self._dial_due(followed)
                await asyncio.sleep(MIN_INTERVAL_S)

    def _on_problem(self, followed: _Followed, error: Exception) -> None:
        problem = _describe_error(error)
        if problem != followed.problem:
            followed.problem = problem
            logger.warning("discovery %s: %s", followed.source.name, problem)

    async def _update(self, followed: _Followed, texts: list[str]) -> None:
        """A source names these addresses, in place of the earlier ones."""
        found: dict[Address, None] = {}
        limit = self._limit()
        for text in texts[:limit]:
            literal = parse_literal(text)
            found |= dict.fromkeys(await self._resolve(text) if literal is None else (literal,))
        addresses = [each for each in found if not each.undialable_reason]
        followed.dropped += len(texts[limit:]) + len(addresses[limit:])
        known = followed.hints
        now = self._now()
        followed.hints = {each: known.get(each) or _Hint(now) for each in addresses[:limit]}
        for address in followed.hints:
            if address not in known:
                self._publish(PeerDiscovered(address, followed.source.name))

    async def _dial_until_sources_change(self) -> None:
        while not self._sources_changed.is_set():
            for each in self._followed.values():
                self._dial_due(each)
            timeout_s = HINT_INTERVAL_S if self._followed else None
            try:
                async with asyncio.timeout(timeout_s):
                    await self._sources_changed.wait()
            except TimeoutError:
                continue

    def _dial_due(self, followed: _Followed) -> None:
        now = self._now()
        due = [address for address, hint in followed.hints.items() if hint.dial_at <= now]
        known = self._known() if due else set()
        for address in due:
            hint = followed.hints[address]
            if address in known:
                hint.dial_at = now + REDIAL_BOUNDS_S[0]
                continue
            if not followed.budget.try_take(now):
                return
            hint.dial_at = now + hint.interval_s
            hint.interval_s = min(2 * hint.interval_s, REDIAL_BOUNDS_S[1])
            self._dial(address)


def _describe_error(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    if isinstance(error, GrapevineError):
        return str(error)
    return f"{type(error).__name__}: {error}"
