"""What was seen and what is still held, by origin stream.

What must stay true:

- `take` gives each payload once, over restarts with saved marks too. What is not authentic never
  comes here: a forged copy must not mark an id as seen.
- No rumor leaves, by `copy` or `held_in`, whose signature was not checked. One taken on its origin's
  session alone is checked when it is first asked for; if it is badly signed it is let go, and its
  origin is in `liars` until somebody clears that.
- Marks outlive bodies. A body is held for `message_dedup_ttl` of its age and within the byte
  budget, one origin within a quarter of it; marks are forgotten 24 h after a stream's last word.
- A stream that a newer epoch has followed stays repairable for `message_dedup_ttl`, then closes.
- The digest covers streams that spoke within `message_dedup_ttl` and have been still for 2 s, so
  that what is on its way does not look like a difference. It is kept up to date, never recomputed:
  a sum, not an exclusive or, in which an even number of equal terms would vanish.
- Iteration follows insertion, never hash order: the same seed gives the same run.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from grapevine_proto.config import NodeConfig
from grapevine_proto.errors import DropReason
from grapevine_proto.identity import digest
from grapevine_proto.ids import MessageId, PeerId, Stream
from grapevine_proto.messages import Rumor, RumorCopy, StreamRange
from grapevine_proto.overlay.seen import Seen
from grapevine_proto.overlay.signatures import Signatures

SETTLE_S: Final = 2.0  # longer than any push is on its way
FORGET_S: Final = 24 * 3600.0
SWEEP_S: Final = 1.0
HELD_OVERHEAD_BYTES: Final = 512  # what holding a rumor costs beside its body
LENGTH_BYTES: Final = 8  # and each payload's length
TOTAL_MODULUS: Final = 1 << 128

Key = tuple[PeerId, int, int]  # origin, epoch, first sequence


def key_of(rumor: Rumor) -> Key:
    return rumor.origin, rumor.epoch, rumor.first


@dataclass(frozen=True, slots=True)
class SavedStream:
    """One stream's marks, as kept over restarts; `idle_s` is running time since its last word."""

    origin: PeerId
    epoch: int
    high: int
    holes: tuple[tuple[int, int], ...]
    idle_s: float


class _Held:
    """A rumor in hand, and how it came."""

    __slots__ = ("age_ms", "cost_bytes", "hops", "is_proved", "received_at", "rumor")

    def __init__(
        self, rumor: Rumor, hops: int, age_ms: int, received_at: float, is_proved: bool
    ) -> None:
        self.rumor = rumor
        self.cost_bytes = len(rumor.body) + LENGTH_BYTES * len(rumor.lengths) + HELD_OVERHEAD_BYTES
        self.is_proved = is_proved
        self.hops = hops
        self.age_ms = age_ms
        self.received_at = received_at

    def age_now_ms(self, now: float) -> int:
        return self.age_ms + int((now - self.received_at) * 1000)


class _StreamState:
    """One stream: its marks, the first sequences of its held rumors, its part in the digest."""

    __slots__ = (
        "changed_at",
        "firsts",
        "gone",
        "in_expire",
        "in_settle",
        "opened_at",
        "said_at",
        "seen",
        "stream",
        "summed",
        "superseded_at",
    )

    def __init__(self, stream: Stream, holes_limit: int, now: float) -> None:
        self.stream = stream
        self.seen = Seen(holes_limit)
        self.opened_at = now
        self.said_at = now
        self.changed_at = now
        self.superseded_at: float | None = None
        self.firsts: list[int] = []  # ascending; those before index `gone` are no longer held
        self.gone = 0
        self.summed = 0  # this stream's term in the digest's total; 0: not in it
        self.in_settle = False
        self.in_expire = False

    def low_held(self) -> int:
        return self.firsts[self.gone] if self.gone < len(self.firsts) else self.seen.high + 1

    def hold(self, first: int) -> None:
        if not self.firsts or first > self.firsts[-1]:
            self.firsts.append(first)
        else:
            insort(self.firsts, first, lo=self.gone)

    def let_go(self, first: int) -> None:
        if self.firsts[self.gone] == first:  # nearly always: the oldest goes first
            self.gone += 1
            if self.gone > 64 and 2 * self.gone > len(self.firsts):
                del self.firsts[: self.gone]
                self.gone = 0
        else:
            del self.firsts[bisect_left(self.firsts, first, lo=self.gone)]


class Store:
    """The messages of one node. Mechanism, not machine: it answers, and does nothing by itself;
    `tick` wants to be called about once a second."""

    def __init__(
        self,
        config: NodeConfig,
        signatures: Signatures,
        saved: Iterable[SavedStream],
        now: float,
    ) -> None:
        self._signatures = signatures
        self._ttl_s = config.message_dedup_ttl
        self._limits = config.limits
        self._domain = config.cluster
        self._started_at = now
        self._origins: dict[PeerId, list[_StreamState]] = {}  # one or two, by epoch
        self._held: dict[Key, _Held] = {}  # by arrival
        self._held_by_origin: dict[PeerId, int] = {}
        self._holed: dict[Stream, _StreamState] = {}
        self._told: dict[
            PeerId, tuple[float, int]
        ] = {}  # new origins by teller: since when, how many
        self._settle: list[tuple[float, Stream]] = []
        self._expire: list[tuple[float, Stream]] = []
        self._total = 0
        self._summed = 0
        self._swept_at = now
        self.held_bytes = 0
        self.evicted = 0
        self.liars: list[PeerId] = []
        self.version = 0  # grows with every mark
        self._lost_before = 0  # by streams that are forgotten
        for each in saved:
            self._restore(each, now)

    def _restore(self, saved: SavedStream, now: float) -> None:
        state = self._open(Stream(saved.origin, saved.epoch), now)
        state.opened_at = -math.inf  # known for longer than this run: nothing older is waited for
        state.seen.restore(saved.high, saved.holes, now)
        state.said_at = state.changed_at = now - max(saved.idle_s, 0.0)
        if state.seen.holes:
            self._holed[state.stream] = state
        self._changed(state, now)

    # --- seen -----------------------------------------------------------------------------------

    def is_known(self, rumor: Rumor, now: float) -> bool:
        """Whether nothing in `rumor` is new here."""
        state = self._find(rumor.stream)
        return state is not None and (
            self._is_closed(state, now) or state.seen.knows_all(rumor.first, rumor.last)
        )

    def refusal(
        self, stream: Stream, teller: PeerId, origin_is_linked: bool, now: float
    ) -> DropReason | None:
        """Why nothing of `stream` may be taken from `teller`; None: it may."""
        streams = self._origins.get(stream.origin)
        if streams is None:
            return None if origin_is_linked else self._newcomer_refusal(teller, now)
        return DropReason.OLD_EPOCH if self._is_over(stream, streams, now) else None

    def _is_over(self, stream: Stream, streams: list[_StreamState], now: float) -> bool:
        """Whether `stream` is not among `streams` of its origin and came before them for too long."""
        newest = streams[-1]
        if stream.epoch > newest.stream.epoch or any(s.stream == stream for s in streams):
            return False
        return len(streams) > 1 or now - newest.opened_at >= self._ttl_s

    def _newcomer_refusal(self, teller: PeerId, now: float) -> DropReason | None:
        if len(self._origins) >= self._limits.origins:
            return DropReason.TABLE_FULL
        since, count = self._told.get(teller, (now, 0))
        if now - since < self._ttl_s and count >= self._limits.new_origins_per_link:
            return DropReason.TABLE_FULL
        return None

    def take(
        self,
        copy: RumorCopy,
        teller: PeerId,
        origin_is_linked: bool,
        now: float,
        *,
        is_proved: bool = True,
    ) -> list[tuple[MessageId, bytes]]:
        """Mark and hold an authentic rumor for which `refusal` is None; gives its payloads that are
        new. `is_proved`: its signature was checked."""
        rumor = copy.rumor
        state = self._find(rumor.stream)
        if state is None:
            if rumor.origin not in self._origins and not origin_is_linked:
                self._count_newcomer(teller, now)
            state = self._open(rumor.stream, now)
        seen = state.seen
        if rumor.first == seen.high + 1:
            fresh = rumor.payloads()
        else:
            fresh = [each for each in rumor.payloads() if not seen.knows(each[0].sequence)]
        # What an origin said while we were not yet here to hear it is no loss of ours.
        counted = seen.high > 0 or now - self._started_at >= self._ttl_s
        seen.mark(rumor.first, rumor.last, now, counted=counted)
        if seen.holes:
            self._holed[rumor.stream] = state
        self._hold(state, copy, is_proved, now)
        state.said_at = max(state.said_at, now - copy.age_ms / 1000)
        self._changed(state, now)
        return fresh

    def _count_newcomer(self, teller: PeerId, now: float) -> None:
        since, count = self._told.get(teller, (now, 0))
        self._told[teller] = (now, 1) if now - since >= self._ttl_s else (since, count + 1)
        if len(self._told) > self._limits.sessions:
            self._told.pop(next(iter(self._told)))

    def _find(self, stream: Stream) -> _StreamState | None:
        for state in self._origins.get(stream.origin, ()):
            if state.stream.epoch == stream.epoch:
                return state
        return None

    def _open(self, stream: Stream, now: float) -> _StreamState:
        state = _StreamState(stream, self._limits.holes, now)
        streams = self._origins.setdefault(stream.origin, [])
        streams.append(state)
        streams.sort(key=lambda each: each.stream.epoch)
        if len(streams) > 2:
            self._forget(streams.pop(0))
        for older in streams[:-1]:
            if older.superseded_at is None:
                older.superseded_at = now
        return state

    def _is_closed(self, state: _StreamState, now: float) -> bool:
        return state.superseded_at is not None and now - state.superseded_at >= self._ttl_s

    def _forget(self, state: _StreamState) -> None:
        for first in state.firsts[state.gone :]:
            self._release((state.stream.origin, state.stream.epoch, first))
        state.firsts.clear()
        state.gone = 0
        self._unsum(state)
        self._holed.pop(state.stream, None)
        state.seen.close()
        self._lost_before += state.seen.lost

    # --- held -----------------------------------------------------------------------------------

    def _hold(self, state: _StreamState, copy: RumorCopy, is_proved: bool, now: float) -> None:
        rumor = copy.rumor
        key = key_of(rumor)
        if key in self._held or copy.age_ms >= self._ttl_s * 1000:
            return
        held = self._held[key] = _Held(rumor, copy.hops, copy.age_ms, now, is_proved)
        state.hold(rumor.first)
        self.held_bytes += held.cost_bytes
        of_origin = self._held_by_origin.get(rumor.origin, 0) + held.cost_bytes
        self._held_by_origin[rumor.origin] = of_origin
        while self._held_by_origin[rumor.origin] > self._limits.held_bytes // 4:
            if not self._evict_oldest_of(rumor.origin, sparing=key):
                break  # one whole message is always held
        while self.held_bytes > self._limits.held_bytes:
            self._evict(next(iter(self._held)))

    def _evict_oldest_of(self, origin: PeerId, sparing: Key) -> bool:
        for state in self._origins[origin]:
            if state.gone < len(state.firsts):
                key = (origin, state.stream.epoch, state.firsts[state.gone])
                if key != sparing:
                    self._evict(key)
                    return True
        return False

    def _evict(self, key: Key) -> None:
        self.evicted += 1
        self._let_go(key)

    def _let_go(self, key: Key) -> None:
        state = self._find(Stream(key[0], key[1]))
        if state is not None:
            state.let_go(key[2])
        self._release(key)

    def _release(self, key: Key) -> None:
        held = self._held.pop(key)
        self.held_bytes -= held.cost_bytes
        left = self._held_by_origin[key[0]] - held.cost_bytes
        if left:
            self._held_by_origin[key[0]] = left
        else:
            del self._held_by_origin[key[0]]

    def heard_again(self, copy: RumorCopy, now: float) -> None:
        """A duplicate: of several copies the least age and hops count, so that nobody stops a rumor
        by claiming it old."""
        held = self._held.get(key_of(copy.rumor))
        if held is not None:
            held.hops = min(held.hops, copy.hops)
            age_then_ms = copy.age_ms - int((now - held.received_at) * 1000)
            held.age_ms = max(min(held.age_ms, age_then_ms), 0)

    def copy(self, key: Key, now: float) -> RumorCopy | None:
        """The held rumor as it would travel on from here: its hops so far, its age now. None also
        where it is badly signed, or cannot be checked now."""
        held = self._held.get(key)
        if held is None or not (held.is_proved or self.prove(key, now)):
            return None
        age_ms = held.age_now_ms(now)
        return RumorCopy(held.rumor, held.hops, age_ms) if age_ms < self._ttl_s * 1000 else None

    def prove(self, key: Key, now: float) -> bool:
        """Whether the rumor is held and its signature good, which is checked once."""
        held = self._held.get(key)
        if held is None or held.is_proved:
            return held is not None
        refusal = self._signatures.refusal(held.rumor, held.rumor.origin, now)
        held.is_proved = refusal is None
        if refusal is DropReason.BAD_SIGNATURE:
            self._let_go(key)
            self.liars.append(held.rumor.origin)
        return held.is_proved

    def held_in(self, wanted: StreamRange, now: float) -> Iterator[RumorCopy]:
        """Held rumors with any sequence in `wanted`, ascending."""
        state = self._find(wanted.stream)
        if state is None:
            return
        origin, epoch = wanted.stream
        firsts = state.firsts
        index = max(bisect_right(firsts, wanted.first, lo=state.gone) - 1, state.gone)
        for first in firsts[index : bisect_right(firsts, wanted.last, lo=state.gone)]:
            copy = self.copy((origin, epoch, first), now)
            if copy is not None and copy.rumor.last >= wanted.first:
                yield replace(copy, hops=copy.hops + 1)

    # --- digests and differences ----------------------------------------------------------------

    def _changed(self, state: _StreamState, now: float) -> None:
        self.version += 1
        state.changed_at = max(state.changed_at, now)
        self._unsum(state)
        if not state.in_settle:
            state.in_settle = True
            heapq.heappush(self._settle, (now + SETTLE_S, state.stream))

    def _unsum(self, state: _StreamState) -> None:
        if state.summed:
            self._total = (self._total - state.summed) % TOTAL_MODULUS
            self._summed -= 1
            state.summed = 0

    def digest(self, now: float) -> tuple[int, bytes]:
        """How many streams spoke lately and are still, and the sum of their hashes."""
        self._bring_digest_up_to(now)
        return self._summed, self._total.to_bytes(16, "big")

    def _bring_digest_up_to(self, now: float) -> None:
        while self._settle and self._settle[0][0] <= now:
            _, stream = heapq.heappop(self._settle)
            state = self._find(stream)
            if state is None or not state.in_settle:
                continue
            if state.changed_at + SETTLE_S > now:
                heapq.heappush(self._settle, (state.changed_at + SETTLE_S, stream))
                continue
            state.in_settle = False
            if state.said_at + self._ttl_s > now:
                self._sum(state)
        while self._expire and self._expire[0][0] <= now:
            _, stream = heapq.heappop(self._expire)
            state = self._find(stream)
            if state is None or not state.in_expire:
                continue
            if state.said_at + self._ttl_s > now:
                heapq.heappush(self._expire, (state.said_at + self._ttl_s, stream))
                continue
            state.in_expire = False
            self._unsum(state)

    def _sum(self, state: _StreamState) -> None:
        origin, epoch = state.stream
        term = digest(b"grapevine digest 1", self._domain, origin, epoch, state.seen.high, size=16)
        state.summed = int.from_bytes(term, "big")
        self._total = (self._total + state.summed) % TOTAL_MODULUS
        self._summed += 1
        if not state.in_expire:
            state.in_expire = True
            heapq.heappush(self._expire, (state.said_at + self._ttl_s, state.stream))

    def vector(self, now: float) -> list[StreamRange]:
        """What is held of every stream that spoke lately: lowest held to highest seen."""
        return [
            StreamRange(state.stream, state.low_held(), state.seen.high)
            for streams in self._origins.values()
            for state in streams
            if state.said_at + self._ttl_s > now and not self._is_closed(state, now)
        ]

    def missing(self, theirs: StreamRange, now: float) -> list[StreamRange]:
        """What of `theirs` was not seen here; nothing of streams that are over."""
        state = self._find(theirs.stream)
        first, last = max(theirs.first, 1), theirs.last
        if state is None:
            streams = self._origins.get(theirs.stream.origin)
            if first > last or (streams and self._is_over(theirs.stream, streams, now)):
                return []
            return [StreamRange(theirs.stream, first, last)]
        if self._is_closed(state, now):
            return []
        return [StreamRange(theirs.stream, a, b) for a, b in state.seen.missing(first, last)]

    def holes(self, now: float, older_than_s: float, limit: int) -> list[StreamRange]:
        """Up to `limit` holes that have stood open for that long."""
        found: list[StreamRange] = []
        for state in self._holed.values():
            for hole in state.seen.holes:
                if now - hole.opened_at >= older_than_s:
                    found.append(StreamRange(state.stream, hole.first, hole.last))
                    if len(found) == limit:
                        return found
        return found

    @property
    def has_holes(self) -> bool:
        return bool(self._holed)

    # --- time -----------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Let go of what is too old. Work is bounded by what expires, but for one look at every
        stream in ten minutes."""
        while self._held:
            key, held = next(iter(self._held.items()))
            if held.age_now_ms(now) < self._ttl_s * 1000:
                break
            self._let_go(key)
        for stream, state in list(self._holed.items()):
            state.seen.close_before(now - self._ttl_s)
            if self._is_closed(state, now):
                state.seen.close()
            if not state.seen.holes:
                del self._holed[stream]
        if now - self._swept_at >= 600:
            self._swept_at = now
            self._sweep(now)

    def _sweep(self, now: float) -> None:
        for origin, streams in list(self._origins.items()):
            for state in [each for each in streams if now - each.said_at > FORGET_S]:
                self._forget(state)
                streams.remove(state)
            if not streams:
                del self._origins[origin]

    @property
    def lost(self) -> int:
        """Sequences given up: they were never heard, and nobody may bring them any more."""
        return self._lost_before + sum(
            state.seen.lost for streams in self._origins.values() for state in streams
        )

    @property
    def held(self) -> int:
        return len(self._held)

    @property
    def streams(self) -> int:
        return sum(len(streams) for streams in self._origins.values())

    def saved(self, now: float) -> tuple[SavedStream, ...]:
        """The marks, to be kept over a restart."""
        return tuple(
            SavedStream(
                *state.stream,
                state.seen.high,
                tuple((hole.first, hole.last) for hole in state.seen.holes),
                now - state.said_at,
            )
            for streams in self._origins.values()
            for state in streams
        )
