"""What was seen, by origin stream, and what is still held of it.

What must stay true:

- `take` gives each payload once, over restarts with saved marks too. What is not authentic never
  comes here: a forged copy must not mark an id as seen.
- Marks outlive bodies (`held`); they are forgotten 24 h after a stream's last word.
- A stream that a newer epoch has followed stays repairable for `message_dedup_ttl`, then closes. A member's
  record tells of a newer epoch as well as a rumor does; of runs before it only the one that was known
  here is waited for.
- Who has a place where there is not room for all origins, `origins` decides. Of an evicted origin the
  latest marks are kept apart, so that what it said is not delivered twice.
- Iteration follows insertion, never hash order: the same seed gives the same run.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from grapevine_proto.config import NodeConfig
from grapevine_proto.errors import DropReason
from grapevine_proto.ids import MessageId, PeerId, Stream, StreamRange
from grapevine_proto.messages import RumorCopy
from grapevine_proto.overlay import work
from grapevine_proto.overlay.digests import RecentStreams
from grapevine_proto.overlay.held import Held
from grapevine_proto.overlay.origins import Origins
from grapevine_proto.overlay.seen import Seen
from grapevine_proto.overlay.signatures import Signatures
from grapevine_proto.signed import Rumor

FORGET_S: Final = 24 * 3600.0
SWEEP_S: Final = 1.0
TIDY_S: Final = 600.0  # between looks at every stream
CROWDED: Final = 0.75  # of the table: from here on strangers are counted by who brings them


class Run(NamedTuple):
    """What is known of a member's present run: its epoch, since when that is known here, and the epoch of
    the run before, where that was known here too."""

    epoch: int
    known_since: float
    earlier_epoch: int | None = None


class _Marks(NamedTuple):
    """What is left of an evicted origin."""

    epoch: int
    high: int
    said_at: float


def _nobody(_: PeerId) -> Run | None:
    return None


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

    __slots__ = ("opened_at", "said_at", "seen", "stream", "superseded_at", "taken_at")

    def __init__(self, stream: Stream, holes_limit: int, now: float) -> None:
        self.stream = stream
        self.seen = Seen(holes_limit)
        self.opened_at = now
        self.said_at = now
        self.taken_at = now  # the latest rumor that was new here
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
        *,
        run_of: Callable[[PeerId], Run | None] = _nobody,
    ) -> None:
        """`run_of`: what the record of a member says; it is not called before this returns."""
        self._ttl_s = config.message_dedup_ttl
        self._limits = config.limits
        self._started_at = now
        self.held = Held(config, signatures)
        self._recent = RecentStreams(config.cluster, config.message_dedup_ttl)
        self._origins: dict[PeerId, list[_StreamState]] = {}  # one or two, by epoch
        self._holed: dict[Stream, _StreamState] = {}
        self.hole_opened_at = -math.inf  # the latest
        self._run_of = run_of
        self._places = Origins(lambda peer_id: self._run_of(peer_id) is not None)
        self._evicted: OrderedDict[PeerId, _Marks] = OrderedDict()
        self.evicted_origins = 0
        self.refused_origins = 0  # for which none could be evicted
        self._swept_at = now
        self.version = 0  # grows with every mark
        self.work = 0
        self._lost_before = 0  # by streams that are forgotten
        for each in saved:
            self._restore(each, now)

    def _restore(self, saved: SavedStream, now: float) -> None:
        if saved.origin not in self._origins:
            if len(self._origins) >= self._limits.origins:
                self._keep_marks(
                    saved.origin, _Marks(saved.epoch, saved.high, now - max(saved.idle_s, 0.0))
                )
                return
            self._places.restored(saved.origin)
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
        if state is None:
            marks = self._evicted.get(rumor.origin) if self._evicted else None
            return marks is not None and marks.epoch == rumor.epoch and rumor.last <= marks.high
        return self._is_closed(state, now) or state.seen.knows_all(rumor.first, rumor.last)

    def refusal(
        self, stream: Stream, teller: PeerId, origin_is_linked: bool, now: float
    ) -> DropReason | None:
        """Why nothing of `stream` may be taken from `teller`; None: it may."""
        if self._is_refused(stream, now):
            return DropReason.OLD_EPOCH
        if stream.origin in self._origins or origin_is_linked:
            return None
        is_full = len(self._origins) >= self._limits.origins
        return DropReason.TABLE_FULL if is_full and not self._places.may_evict() else None

    def _is_refused(self, stream: Stream, now: float) -> bool:
        """Whether `stream` has no place here, and came before what is known of its origin for too long."""
        streams = self._origins.get(stream.origin, ())
        if any(each.stream == stream for each in streams):
            return False
        run = self._run_of(stream.origin)
        if run is not None and stream.epoch < run.epoch:
            is_recent = now - run.known_since < self._ttl_s
            if not (is_recent and stream.epoch == run.earlier_epoch):
                return True
        if streams:
            return self._is_over(stream, streams, now)
        marks = self._evicted.get(stream.origin)
        return marks is not None and stream.epoch < marks.epoch

    def _is_over(self, stream: Stream, streams: Sequence[_StreamState], now: float) -> bool:
        """Whether `stream`, which is not among `streams` of its origin, came before them for too long."""
        newest = streams[-1]
        if stream.epoch >= newest.stream.epoch:
            return False
        return len(streams) > 1 or now - newest.opened_at >= self._ttl_s

    @property
    def _is_crowded(self) -> bool:
        """Along a tree one link brings nearly all origins there are, so while there is room for more
        nobody asks which link brought how many."""
        return len(self._origins) >= CROWDED * self._limits.origins

    def _make_room(self, origin: PeerId, teller: PeerId, origin_is_linked: bool) -> bool:
        """For the first stream of `origin`. In a crowded table whoever has brought more unknown origins than
        its share replaces its own; in a full one they replace those of whoever brought most. False:
        none of those that were looked at may go, and only a peer with a link is let in anyway."""
        is_known = origin_is_linked or self._run_of(origin) is not None
        is_full = len(self._origins) >= self._limits.origins
        share = self._limits.new_origins_per_link
        own = not is_known and self._is_crowded and self._places.brought_by(teller) >= share
        if is_full or own:
            evicted = self._places.to_evict(teller, own=own)
            if evicted is None:
                return origin_is_linked or not is_full
            self._evict(evicted)
        return True

    def _evict(self, origin: PeerId) -> None:
        streams = self._origins.pop(origin)
        self._places.remove(origin)
        self.evicted_origins += 1
        newest = streams[-1]
        for state in streams:
            self._forget(state)
        self._keep_marks(origin, _Marks(newest.stream.epoch, newest.seen.high, newest.said_at))

    def _keep_marks(self, origin: PeerId, marks: _Marks) -> None:
        self._evicted[origin] = marks
        self._evicted.move_to_end(origin)
        if len(self._evicted) > self._limits.origins:
            self._evicted.popitem(last=False)

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
            if rumor.origin not in self._origins and not self._make_room(
                rumor.origin, teller, origin_is_linked
            ):
                self.refused_origins += 1
                return []
            state = self._open(rumor.stream, now)
        self._places.spoke(rumor.origin, teller, is_linked=origin_is_linked)
        seen = state.seen
        self.work += work.KIBIBYTE * (rumor.size_bytes >> 10)
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
        state.taken_at = now
        self._changed(state, now)
        return fresh

    def renew(self, rumor: Rumor, said_at: float, now: float) -> None:
        """A copy of a known `rumor` shows that it is younger than the first one claimed; not younger than
        when it came, whatever the copy says."""
        state = self._find(rumor.origin, rumor.epoch)
        if state is not None and min(said_at, state.taken_at) > state.said_at:
            state.said_at = min(said_at, state.taken_at)
            self._changed(state, now)

    def _find(self, origin: PeerId, epoch: int) -> _StreamState | None:
        for state in self._origins.get(origin, ()):
            if state.stream.epoch == epoch:
                return state
        return None

    def _open(self, stream: Stream, now: float) -> _StreamState:
        state = _StreamState(stream, self._limits.holes, now)
        marks = self._evicted.pop(stream.origin, None)
        if marks is not None and marks.epoch == stream.epoch:
            state.seen.restore(marks.high, (), now)
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
        if state.superseded_at is not None and now - state.superseded_at >= self._ttl_s:
            return True
        run = self._run_of(state.stream.origin)
        return (
            run is not None
            and state.stream.epoch < run.epoch
            and now - run.known_since >= self._ttl_s
        )

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
            if self._is_refused(theirs.stream, now):
                return []
            marks = self._evicted.get(theirs.stream.origin)
            if marks is not None and marks.epoch == theirs.stream.epoch:
                first = max(first, marks.high + 1)
            return [_range(theirs, first, last)] if first <= last else []
        if self._is_closed(state, now):
            return []
        return [_range(theirs, a, b) for a, b in state.seen.missing(first, last, limit)]

    def lacks(self, theirs: StreamRange, now: float) -> bool:
        """Whether any of `theirs` is missing here."""
        return bool(self.missing(theirs, now, limit=1))

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
                self._places.remove(origin)
        for origin, marks in list(self._evicted.items()):
            if now - marks.said_at > FORGET_S:
                del self._evicted[origin]

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
        streams = [
            SavedStream(
                *state.stream,
                *state.seen.without(sorted(pending.get(state.stream, ()))),
                now - state.said_at,
            )
            for streams in self._origins.values()
            for state in streams
        ]
        evicted = [
            SavedStream(origin, marks.epoch, marks.high, (), now - marks.said_at)
            for origin, marks in self._evicted.items()
        ]
        return (*streams, *evicted)


def _range(theirs: StreamRange, first: int, last: int) -> StreamRange:
    if first == theirs.first and last == theirs.last:
        return theirs
    return StreamRange(theirs.stream, first, last)
