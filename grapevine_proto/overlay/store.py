"""What was seen, by origin stream, and what is still held of it.

What must stay true:

- `take` gives each payload once, over restarts with saved marks too. What is not authentic never
  comes here: a forged copy must not mark an id as seen.
- Marks outlive bodies (`held`); they are forgotten 24 h after a stream's last word.
- A stream that a newer epoch has followed stays repairable for `message_dedup_ttl`, then closes.
- Iteration follows insertion, never hash order: the same seed gives the same run.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from grapevine_proto.config import NodeConfig
from grapevine_proto.errors import DropReason
from grapevine_proto.ids import MessageId, PeerId, Stream, StreamRange
from grapevine_proto.messages import RumorCopy
from grapevine_proto.overlay.digests import RecentStreams
from grapevine_proto.overlay.held import Held
from grapevine_proto.overlay.seen import Seen
from grapevine_proto.overlay.signatures import Signatures
from grapevine_proto.signed import Rumor

FORGET_S: Final = 24 * 3600.0
SWEEP_S: Final = 1.0
TIDY_S: Final = 600.0  # between looks at every stream
CROWDED: Final = 0.75  # of the table: from here on strangers are counted by who brings them


@dataclass(frozen=True, slots=True)
class SavedStream:
    """One stream's marks, as kept over restarts; `idle_s` is running time since its last word."""

    origin: PeerId
    epoch: int
    high: int
    holes: tuple[tuple[int, int], ...]
    idle_s: float


class _StreamState:
    """One stream's marks."""

    __slots__ = ("opened_at", "said_at", "seen", "stream", "superseded_at")

    def __init__(self, stream: Stream, holes_limit: int, now: float) -> None:
        self.stream = stream
        self.seen = Seen(holes_limit)
        self.opened_at = now
        self.said_at = now
        self.superseded_at: float | None = None


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
        self._ttl_s = config.message_dedup_ttl
        self._limits = config.limits
        self._started_at = now
        self.held = Held(config, signatures)
        self._recent = RecentStreams(config.cluster, config.message_dedup_ttl)
        self._origins: dict[PeerId, list[_StreamState]] = {}  # one or two, by epoch
        self._holed: dict[Stream, _StreamState] = {}
        self.hole_opened_at = -math.inf  # the latest
        self._told: dict[PeerId, tuple[float, int]] = {}  # by teller: since when, how many new ones
        self._swept_at = now
        self.version = 0  # grows with every mark
        self._lost_before = 0  # by streams that are forgotten
        for each in saved:
            self._restore(each, now)

    def _restore(self, saved: SavedStream, now: float) -> None:
        state = self._open(Stream(saved.origin, saved.epoch), now)
        state.opened_at = -math.inf  # known for longer than this run: nothing older is waited for
        state.seen.restore(saved.high, saved.holes, now)
        state.said_at = now - max(saved.idle_s, 0.0)
        if state.seen.holes:
            self._holed[state.stream] = state
            self.hole_opened_at = now
        self._changed(state, now)

    # --- seen -----------------------------------------------------------------------------------

    def is_known(self, rumor: Rumor, now: float) -> bool:
        """Whether nothing in `rumor` is new here."""
        state = self._find(rumor.origin, rumor.epoch)
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
        if stream.epoch >= newest.stream.epoch or any(s.stream == stream for s in streams):
            return False
        return len(streams) > 1 or now - newest.opened_at >= self._ttl_s

    def _newcomer_refusal(self, teller: PeerId, now: float) -> DropReason | None:
        if len(self._origins) >= self._limits.origins:
            return DropReason.TABLE_FULL
        if not self._is_crowded:
            return None
        since, count = self._told.get(teller, (now, 0))
        if now - since < self._ttl_s and count >= self._limits.new_origins_per_link:
            return DropReason.TABLE_FULL
        return None

    @property
    def _is_crowded(self) -> bool:
        """Along a tree one link brings nearly all origins there are, so while there is room for more
        nobody asks which link brought how many."""
        return len(self._origins) >= CROWDED * self._limits.origins

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
        state = self._find(rumor.origin, rumor.epoch)
        if state is None:
            is_stranger = rumor.origin not in self._origins and not origin_is_linked
            if is_stranger and self._is_crowded:
                self._count_newcomer(teller, now)
            state = self._open(rumor.stream, now)
        seen = state.seen
        fresh = rumor.payloads()
        if rumor.first <= seen.high:  # else none of it was seen
            unseen = seen.missing(rumor.first, rumor.last)
            fresh = [
                each for a, b in unseen for each in fresh[a - rumor.first : b - rumor.first + 1]
            ]
        # What an origin said while we were not yet here to hear it is no loss of ours.
        counted = seen.high > 0 or now - self._started_at >= self._ttl_s
        seen.mark(rumor.first, rumor.last, now, counted=counted)
        if seen.holes:
            self._holed[state.stream] = state
            self.hole_opened_at = max(self.hole_opened_at, seen.holes[-1].opened_at)
        self.held.hold(copy, now, is_proved=is_proved)
        state.said_at = max(state.said_at, now - copy.age_ms / 1000)
        self._changed(state, now)
        return fresh

    def _count_newcomer(self, teller: PeerId, now: float) -> None:
        since, count = self._told.get(teller, (now, 0))
        self._told[teller] = (now, 1) if now - since >= self._ttl_s else (since, count + 1)
        if len(self._told) > self._limits.sessions:
            self._told.pop(next(iter(self._told)))

    def _find(self, origin: PeerId, epoch: int) -> _StreamState | None:
        for state in self._origins.get(origin, ()):
            if state.stream.epoch == epoch:
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
        self.held.forget(state.stream)
        self._recent.forget(state.stream)
        self._holed.pop(state.stream, None)
        state.seen.close()
        self._lost_before += state.seen.lost

    # --- differences ----------------------------------------------------------------------------

    def _changed(self, state: _StreamState, now: float) -> None:
        self.version += 1
        self._recent.changed(state.stream, state.seen.high, state.said_at, now)

    def digest(self, now: float) -> tuple[int, bytes]:
        """How many streams spoke lately and are still, and the sum of their hashes."""
        return self._recent.digest(now)

    def vector(self, now: float, limit: float = math.inf) -> list[StreamRange]:
        """What is held of streams that spoke lately: lowest held to highest seen; where there are more
        than `limit`, of the next ones in turn."""
        found: list[StreamRange] = []
        for stream in self._recent.in_turn(limit):
            state = self._find(*stream)
            if state is None or state.said_at + self._ttl_s <= now or self._is_closed(state, now):
                continue
            found.append(StreamRange(stream, self._low_held(state), state.seen.high))
        return found

    def _low_held(self, state: _StreamState) -> int:
        lowest = self.held.lowest(state.stream)
        return state.seen.high + 1 if lowest is None else lowest

    def missing(
        self, theirs: StreamRange, now: float, limit: float = math.inf
    ) -> list[StreamRange]:
        """What of `theirs` was not seen here, ascending, `limit` ranges of it at most; nothing of streams
        that are over."""
        first, last = max(theirs.first, 1), theirs.last
        if first > last:
            return []
        state = self._find(*theirs.stream)
        if state is None:
            return [] if self._is_refused(theirs.stream, now) else [_range(theirs, first, last)]
        if self._is_closed(state, now):
            return []
        return [_range(theirs, a, b) for a, b in state.seen.missing(first, last, limit)]

    def lacks(self, theirs: StreamRange, now: float) -> bool:
        """Whether any of `theirs` is missing here."""
        return bool(self.missing(theirs, now, limit=1))

    def _is_refused(self, stream: Stream, now: float) -> bool:
        streams = self._origins.get(stream.origin)
        return streams is not None and self._is_over(stream, streams, now)

    def holes(self, now: float, older_than_s: float, limit: int) -> list[StreamRange]:
        """Up to `limit` holes that have stood open for that long."""
        found: list[StreamRange] = []
        for state in self._holed.values():
            for hole in state.seen.holes:
                if now - hole.opened_at < older_than_s:
                    break  # those above it opened later
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
        self.held.tick(now)
        for stream, state in list(self._holed.items()):
            state.seen.close_before(now - self._ttl_s)
            if self._is_closed(state, now):
                state.seen.close()
            if not state.seen.holes:
                del self._holed[stream]
        if now - self._swept_at >= TIDY_S:
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
    def streams(self) -> int:
        return sum(len(streams) for streams in self._origins.values())

    def saved(self, now: float, unhandled: Iterable[MessageId] = ()) -> tuple[SavedStream, ...]:
        """The marks, to be kept over a restart. `unhandled`: delivered, but the application is not done
        with them, so they count as not seen and come again."""
        pending: dict[Stream, list[int]] = {}
        for message_id in unhandled:
            pending.setdefault(message_id.stream, []).append(message_id.sequence)
        return tuple(
            SavedStream(
                *state.stream,
                *state.seen.without(sorted(pending.get(state.stream, ()))),
                now - state.said_at,
            )
            for streams in self._origins.values()
            for state in streams
        )


def _range(theirs: StreamRange, first: int, last: int) -> StreamRange:
    if first == theirs.first and last == theirs.last:
        return theirs
    return StreamRange(theirs.stream, first, last)
