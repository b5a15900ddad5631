"""The rumors that are held: bodies, kept for repair as long as they live and fit.

What must stay true:

- No rumor leaves, by `copy` or `within`, whose signature was not checked. One taken on its origin's
  session alone is checked when it is first asked for; if it is badly signed it is let go, and its
  origin is in `liars` until somebody clears that.
- A body is held for `message_dedup_ttl` of its age and within the byte budget, one origin within a
  quarter of it, but one whole message always. What makes room for another is counted.
- Of several copies the least age and hops count, so that nobody stops a rumor by claiming it old.
- Iteration follows insertion, never hash order: the same seed gives the same run.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from grapevine_proto.config import NodeConfig
from grapevine_proto.errors import DropReason
from grapevine_proto.ids import PeerId, Stream, StreamRange
from grapevine_proto.messages import RumorCopy
from grapevine_proto.overlay.signatures import Signatures
from grapevine_proto.signed import LEAST_PAYLOAD_BYTES, Rumor

OVERHEAD_BYTES: Final = 512  # what holding a rumor costs beside its body
LENGTH_BYTES: Final = LEAST_PAYLOAD_BYTES  # and each payload in it
CHUNK: Final = 64  # of a stream's rumors, looked at in one go
TIDY_AT: Final = 64  # gone entries before a list is cut: rarely, and never for short ones

Key = tuple[PeerId, int, int]  # origin, epoch, first sequence


def key_of(rumor: Rumor) -> Key:
    return rumor.origin, rumor.epoch, rumor.first


class _Body:
    """A rumor in hand, and how it came."""

    __slots__ = ("age_ms", "cost_bytes", "hops", "is_proved", "received_at", "rumor")

    def __init__(self, copy: RumorCopy, received_at: float, is_proved: bool) -> None:
        self.rumor = copy.rumor
        lengths_bytes = LENGTH_BYTES * len(self.rumor.lengths)
        self.cost_bytes = len(self.rumor.body) + lengths_bytes + OVERHEAD_BYTES
        self.is_proved = is_proved
        self.hops = copy.hops
        self.age_ms = copy.age_ms
        self.received_at = received_at

    def age_now_ms(self, now: float) -> int:
        return self.age_ms + int((now - self.received_at) * 1000)


class _Firsts:
    """The first sequences of one stream's held rumors, ascending; the oldest go first."""

    __slots__ = ("_firsts", "_gone")

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._gone = 0  # those before this index are no longer held

    def __len__(self) -> int:
        return len(self._firsts) - self._gone

    @property
    def lowest(self) -> int:
        return self._firsts[self._gone]

    def add(self, first: int) -> None:
        if not self._firsts or first > self._firsts[-1]:
            self._firsts.append(first)
        else:
            insort(self._firsts, first, lo=self._gone)

    def remove(self, first: int) -> None:
        if self._firsts[self._gone] == first:  # nearly always
            self._gone += 1
            if self._gone > TIDY_AT and 2 * self._gone > len(self._firsts):
                del self._firsts[: self._gone]
                self._gone = 0
        else:
            del self._firsts[bisect_left(self._firsts, first, lo=self._gone)]

    def touching(self, first: int, last: int, limit: int) -> list[int]:
        """Where rumors begin that may hold any of `first` to `last`, `limit` of them at most: the one
        before may reach in."""
        begin = max(bisect_right(self._firsts, first, lo=self._gone) - 1, self._gone)
        return self._firsts[
            begin : min(bisect_right(self._firsts, last, lo=self._gone), begin + limit)
        ]


class Held:
    """The bodies of one node's store."""

    def __init__(self, config: NodeConfig, signatures: Signatures) -> None:
        self._signatures = signatures
        self._ttl_ms = config.message_dedup_ttl * 1000
        self._limit_bytes = config.limits.held_bytes
        self._bodies: dict[Key, _Body] = {}  # by arrival
        self._firsts: dict[PeerId, dict[int, _Firsts]] = {}  # by origin and epoch, ascending
        self._bytes_of: dict[PeerId, int] = {}
        self.size_bytes = 0
        self.evicted = 0
        self.checked = 0  # signatures
        self.liars: list[PeerId] = []

    def __len__(self) -> int:
        return len(self._bodies)

    def hold(self, copy: RumorCopy, now: float, *, is_proved: bool) -> None:
        """Keep `copy`, if it is still young, at the cost of what is older."""
        rumor = copy.rumor
        key = key_of(rumor)
        if key in self._bodies or copy.age_ms >= self._ttl_ms:
            return
        body = self._bodies[key] = _Body(copy, now, is_proved)
        firsts = self._find(rumor.origin, rumor.epoch)
        if firsts is None:
            epochs = self._firsts.setdefault(rumor.origin, {})
            firsts = epochs[rumor.epoch] = _Firsts()
            if len(epochs) > 1:
                self._firsts[rumor.origin] = dict(sorted(epochs.items()))
        firsts.add(rumor.first)
        self.size_bytes += body.cost_bytes
        self._bytes_of[rumor.origin] = self._bytes_of.get(rumor.origin, 0) + body.cost_bytes
        while self._is_beyond_its_share(rumor.origin):
            epoch, firsts = next(iter(self._firsts[rumor.origin].items()))
            self._evict((rumor.origin, epoch, firsts.lowest))
        while self.size_bytes > self._limit_bytes:
            self._evict(next(iter(self._bodies)))

    def _is_beyond_its_share(self, origin: PeerId) -> bool:
        if self._bytes_of[origin] <= self._limit_bytes // 4:
            return False
        epochs = self._firsts[origin]
        return len(epochs) > 1 or len(next(iter(epochs.values()))) > 1

    def _evict(self, key: Key) -> None:
        self.evicted += 1
        self._let_go(key)

    def _let_go(self, key: Key) -> None:
        origin, epoch, first = key
        body = self._bodies.pop(key)
        self.size_bytes -= body.cost_bytes
        self._bytes_of[origin] -= body.cost_bytes
        epochs = self._firsts[origin]
        epochs[epoch].remove(first)
        if not epochs[epoch]:
            del epochs[epoch]
        if not epochs:
            del self._firsts[origin], self._bytes_of[origin]

    def forget(self, stream: Stream) -> None:
        """Let go of all of one stream."""
        firsts = self._find(*stream)
        while firsts:
            self._let_go((*stream, firsts.lowest))

    def tick(self, now: float) -> None:
        """Let go of what is too old."""
        while self._bodies:
            key, body = next(iter(self._bodies.items()))
            if body.age_now_ms(now) < self._ttl_ms:
                return
            self._let_go(key)

    # --- what there is --------------------------------------------------------------------------

    def _find(self, origin: PeerId, epoch: int) -> _Firsts | None:
        epochs = self._firsts.get(origin)
        return None if epochs is None else epochs.get(epoch)

    def has(self, key: Key) -> bool:
        """Whether this rumor is held."""
        return key in self._bodies

    def rumor(self, key: Key) -> Rumor | None:
        """What is held under `key`; its signature may not have been checked."""
        body = self._bodies.get(key)
        return None if body is None else body.rumor

    def since(self, moment: float) -> Iterator[Rumor]:
        """Held rumors that came after `moment`, the latest first."""
        for body in reversed(self._bodies.values()):
            if body.received_at <= moment:
                return
            yield body.rumor

    def lowest(self, stream: Stream) -> int | None:
        """The lowest first sequence held of `stream`; None: nothing is."""
        firsts = self._find(*stream)
        return firsts.lowest if firsts else None

    def heard_again(self, copy: RumorCopy, now: float) -> None:
        """A duplicate came."""
        body = self._bodies.get(key_of(copy.rumor))
        if body is not None:
            body.hops = min(body.hops, copy.hops)
            age_then_ms = copy.age_ms - int((now - body.received_at) * 1000)
            body.age_ms = max(min(body.age_ms, age_then_ms), 0)

    def copy(self, key: Key, now: float) -> RumorCopy | None:
        """The held rumor as it would travel on from here: its hops so far, its age now. None also
        where it is badly signed, or cannot be checked now."""
        body = self._bodies.get(key)
        if body is None or not (body.is_proved or self.prove(key, now)):
            return None
        age_ms = body.age_now_ms(now)
        return RumorCopy(body.rumor, body.hops, age_ms) if age_ms < self._ttl_ms else None

    def prove(self, key: Key, now: float) -> bool:
        """Whether the rumor is held and its signature good, which is checked once."""
        body = self._bodies.get(key)
        if body is None or body.is_proved:
            return body is not None
        self.checked += 1
        refusal = self._signatures.refusal(body.rumor, body.rumor.origin, now)
        body.is_proved = refusal is None
        if refusal is DropReason.BAD_SIGNATURE:
            self._let_go(key)
            self.liars.append(body.rumor.origin)
        return body.is_proved

    def keys_within(self, wanted: StreamRange) -> Iterator[Key]:
        """The held rumors that may have any sequence in `wanted`, ascending; some may be let go
        meanwhile."""
        first = wanted.first
        reached = 0
        while firsts := self._find(*wanted.stream):
            touching = firsts.touching(first, wanted.last, CHUNK)
            for each in touching:
                if each > reached:
                    yield (*wanted.stream, each)
            if len(touching) < CHUNK:
                return
            first = reached = touching[-1]

    def within(self, wanted: StreamRange, now: float) -> Iterator[RumorCopy]:
        """Held rumors with any sequence in `wanted`, ascending, each a hop further."""
        for key in self.keys_within(wanted):
            copy = self.copy(key, now)
            if copy is not None and copy.rumor.last >= wanted.first:
                yield replace(copy, hops=copy.hops + 1)
