"""The message store: which sequences of each stream have been seen, with the bodies still cached.

Invariants:

- `insert` returns each payload once, also across restarts with saved trackers. Only authentic
  rumors are inserted: a forged copy must not mark a sequence as seen.
- Sequence trackers outlive bodies (`cache`); they expire 24 h after a stream's last message.
- A stream superseded by a newer epoch stays repairable for `message_dedup_ttl`, then closes. A
  member record announces a newer epoch as well as a rumor does; of earlier epochs only the one
  known here is awaited.
- `origin_table` decides which origins stay when there is no room for all. The tracker state of an
  evicted origin is kept, so that its messages are not delivered twice.
- Iteration follows insertion order, never hash order: a seed reproduces a run.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from grapevine_proto import work
from grapevine_proto.errors import DropReason
from grapevine_proto.events import Via
from grapevine_proto.ids import MessageId, PeerId, Stream, StreamRange
from grapevine_proto.overlay.context import OverlayContext
from grapevine_proto.overlay.store.message_cache import MessageCache
from grapevine_proto.overlay.store.origin_table import OriginTable
from grapevine_proto.overlay.store.sequence_tracker import SequenceTracker
from grapevine_proto.overlay.store.stream_digest import StreamDigest
from grapevine_proto.overlay.store.unsaved_streams import UnsavedStreams
from grapevine_proto.wire.messages import RumorCopy
from grapevine_proto.wire.signed import Rumor

FORGET_STREAM_S: Final = 24 * 3600.0
STORE_TICK_S: Final = 1.0
STREAM_SWEEP_S: Final = 600.0  # between sweeps over all streams
CROWDED_FRACTION: Final = 0.75  # of the table; above it unknown origins count against their source


class _EvictedOrigin(NamedTuple):
    """The tracker state kept of an evicted origin."""

    epoch: int
    high: int
    last_published_at: float


@dataclass(frozen=True, slots=True)
class SavedStream:
    """The tracker state of one stream as saved over restarts; `idle_s` is the running time since
    its last message.
    """

    origin: PeerId
    epoch: int
    high: int
    gaps: tuple[tuple[int, int], ...]
    idle_s: float

    def lacks(self, sequence: int) -> bool:
        """Whether the next run requests `sequence`."""
        return sequence > self.high or any(first <= sequence <= last for first, last in self.gaps)


class _StreamState:
    """The tracker and timestamps of one stream."""

    __slots__ = (
        "last_inserted_at",
        "last_published_at",
        "opened_at",
        "stream",
        "superseded_at",
        "tracker",
    )

    def __init__(self, stream: Stream, gaps_limit: int, now: float) -> None:
        self.stream = stream
        self.tracker = SequenceTracker(gaps_limit)
        self.opened_at = now
        self.last_published_at = now
        self.last_inserted_at = now  # latest new rumor
        self.superseded_at: float | None = None


class MessageStore:
    """The messages of one node. Passive: it answers calls; call `tick` about once a second."""

    def __init__(self, context: OverlayContext, saved: Iterable[SavedStream], now: float) -> None:
        config = context.config.current
        self._members = context.members
        self._work = context.work
        self._ttl_s = config.message_dedup_ttl
        self._limits = config.limits
        self._started_at = now
        self.cache = MessageCache(config, context.verifier)
        self._stream_digest = StreamDigest(config.cluster, config.message_dedup_ttl)
        self._states: dict[tuple[PeerId, int], _StreamState] = {}  # by stream
        self._streams_by_origin: dict[PeerId, list[_StreamState]] = {}  # one or two, by epoch
        self._streams_with_gaps: dict[Stream, _StreamState] = {}
        self.newest_gap_at = -math.inf  # when it opened
        self._origin_table = OriginTable(context.members)
        self._evicted: OrderedDict[PeerId, _EvictedOrigin] = OrderedDict()
        self.origins_evicted = 0
        self.origins_rejected = 0  # because none could be evicted
        self._swept_at = now
        self.version = 0  # increments with every change of a tracker
        self._unsaved = UnsavedStreams(2 * self._limits.origins)
        self._abandoned_before = 0  # by streams since removed
        for each in saved:
            self._restore(each, now)

    def _restore(self, saved: SavedStream, now: float) -> None:
        if saved.origin not in self._streams_by_origin:
            if len(self._streams_by_origin) >= self._limits.origins:
                self._remember_evicted(
                    saved.origin,
                    _EvictedOrigin(saved.epoch, saved.high, now - max(saved.idle_s, 0.0)),
                )
                return
            self._origin_table.add_restored(saved.origin)
        state = self._open(Stream(saved.origin, saved.epoch), now)
        state.opened_at = -math.inf  # known before this run, so nothing older is awaited
        state.tracker.restore(saved.high, saved.gaps, now)
        state.last_published_at = now - max(saved.idle_s, 0.0)
        if state.tracker.gaps:
            self._streams_with_gaps[state.stream] = state
            self.newest_gap_at = now
        self._record_change(state, now)

    # --- insertion ------------------------------------------------------------------------------

    def is_duplicate(self, rumor: Rumor, now: float) -> bool:
        """Whether nothing in `rumor` is new here."""
        state = self._states.get((rumor.origin, rumor.epoch))
        if state is None:
            evicted = self._evicted.get(rumor.origin) if self._evicted else None
            return (
                evicted is not None and evicted.epoch == rumor.epoch and rumor.last <= evicted.high
            )
        tracker = state.tracker
        if rumor.first <= tracker.high and tracker.contains_all(rumor.first, rumor.last):
            return True
        return self._is_closed(state, now)

    def admission_error(
        self, stream: Stream, source: PeerId, origin_is_linked: bool, now: float
    ) -> DropReason | None:
        """Why nothing of `stream` may be accepted from `source`; None if it may."""
        if stream in self._states:
            return None
        if self._is_stale(stream, now):
            return DropReason.STALE_EPOCH
        if stream.origin in self._streams_by_origin or origin_is_linked:
            return None
        is_full = len(self._streams_by_origin) >= self._limits.origins
        return DropReason.TABLE_FULL if is_full and not self._origin_table.can_evict() else None

    def _is_stale(self, stream: Stream, now: float) -> bool:
        """Whether `stream`, which has no tracker here, was superseded too long ago."""
        streams = self._streams_by_origin.get(stream.origin, ())
        member = self._members.get(stream.origin)
        if member is not None and stream.epoch < member.record.epoch:
            is_recent = now - member.epoch_known_at < self._ttl_s
            if not (is_recent and stream.epoch == member.earlier_epoch):
                return True
        if streams:
            return self._is_superseded(stream, streams, now)
        evicted = self._evicted.get(stream.origin)
        return evicted is not None and stream.epoch < evicted.epoch

    def _is_superseded(self, stream: Stream, streams: Sequence[_StreamState], now: float) -> bool:
        """Whether `stream`, which is not among `streams` of its origin, was superseded too long
        ago.
        """
        newest = streams[-1]
        if stream.epoch >= newest.stream.epoch:
            return False
        return len(streams) > 1 or now - newest.opened_at >= self._ttl_s

    @property
    def _is_crowded(self) -> bool:
        """Whether sources are held to their share. In a tree one link brings nearly all origins, so
        the share does not apply while there is room.
        """
        return len(self._streams_by_origin) >= CROWDED_FRACTION * self._limits.origins

    def _make_room(self, origin: PeerId, source: PeerId, origin_is_linked: bool) -> bool:
        """Make room for the first stream of `origin`; False if it is to be rejected.

        In a crowded table, a source above its share of unknown origins evicts its own. In a full
        one, an origin of the source with most of them is evicted. If none can be evicted, only a
        linked origin is accepted.
        """
        is_known = origin_is_linked or origin in self._members
        is_full = len(self._streams_by_origin) >= self._limits.origins
        share = self._limits.new_origins_per_link
        only_own = (
            not is_known and self._is_crowded and self._origin_table.count_from(source) >= share
        )
        if is_full or only_own:
            victim = self._origin_table.pick_victim(source, only_own=only_own)
            if victim is None:
                return origin_is_linked or not is_full
            self._evict(victim)
        return True

    def _evict(self, origin: PeerId) -> None:
        streams = self._streams_by_origin.pop(origin)
        self._origin_table.remove(origin)
        self.origins_evicted += 1
        newest = streams[-1]
        for state in streams:
            self._remove_stream(state)
        self._remember_evicted(
            origin,
            _EvictedOrigin(newest.stream.epoch, newest.tracker.high, newest.last_published_at),
        )

    def _remember_evicted(self, origin: PeerId, evicted: _EvictedOrigin) -> None:
        self._evicted[origin] = evicted
        self._evicted.move_to_end(origin)
        self._unsaved.mark(Stream(origin, evicted.epoch))
        if len(self._evicted) > self._limits.origins:
            oldest, forgotten = self._evicted.popitem(last=False)
            self._unsaved.mark(Stream(oldest, forgotten.epoch))

    def insert(
        self,
        copy: RumorCopy,
        source: PeerId,
        origin_is_linked: bool,
        now: float,
        *,
        is_verified: bool = True,
        via: Via = Via.LOCAL,
    ) -> list[tuple[MessageId, bytes]]:
        """Insert an authentic rumor whose `admission_error` is None; returns its new payloads, none of a
        local one. `is_verified` means that its signature was checked; `via` is how `source` brought it.
        """
        rumor = copy.rumor
        state = self._states.get((rumor.origin, rumor.epoch))
        if state is None:
            if rumor.origin not in self._streams_by_origin and not self._make_room(
                rumor.origin, source, origin_is_linked
            ):
                self.origins_rejected += 1
                return []
            state = self._open(rumor.stream, now)
        self._origin_table.on_rumor(rumor.origin, source, is_linked=origin_is_linked)
        tracker = state.tracker
        if kibibytes := (len(rumor.body) + len(rumor.attributes)) >> 10:
            self._work.add(work.KIBIBYTE * kibibytes)
        new_payloads = [] if via is Via.LOCAL else rumor.payloads()
        if rumor.first <= tracker.high:  # otherwise all of it is new
            missing = tracker.missing(rumor.first, rumor.last)
            new_payloads = [
                each
                for a, b in missing
                for each in new_payloads[a - rumor.first : b - rumor.first + 1]
            ]
        # Messages published before this node started are no loss.
        is_loss = tracker.high > 0 or now - self._started_at >= self._ttl_s
        tracker.add(rumor.first, rumor.last, now, is_loss=is_loss)
        if tracker.gaps:
            self._streams_with_gaps[state.stream] = state
            self.newest_gap_at = max(self.newest_gap_at, tracker.gaps[-1].opened_at)
        self.cache.insert(copy, now, is_verified=is_verified, via=via, source=source)
        state.last_published_at = max(state.last_published_at, now - copy.age_ms / 1000)
        state.last_inserted_at = now
        self._record_change(state, now)
        return new_payloads

    def tracker(self, stream: Stream) -> SequenceTracker | None:
        """The tracker of `stream`, to read; None if it is not tracked."""
        state = self._states.get(stream)
        return None if state is None else state.tracker

    def freshen(self, rumor: Rumor, published_at: float, now: float) -> None:
        """Lower the age of a stream after another copy of `rumor` claims that it is younger, but
        not below the age at which it arrived.
        """
        state = self._states.get((rumor.origin, rumor.epoch))
        if (
            state is not None
            and min(published_at, state.last_inserted_at) > state.last_published_at
        ):
            state.last_published_at = min(published_at, state.last_inserted_at)
            self._record_change(state, now)

    def _open(self, stream: Stream, now: float) -> _StreamState:
        state = self._states[stream] = _StreamState(stream, self._limits.gaps, now)
        self._unsaved.mark(stream)
        evicted = self._evicted.pop(stream.origin, None)
        if evicted is not None:
            self._unsaved.mark(Stream(stream.origin, evicted.epoch))
            if evicted.epoch == stream.epoch:
                state.tracker.restore(evicted.high, (), now)
        streams = self._streams_by_origin.setdefault(stream.origin, [])
        streams.append(state)
        streams.sort(key=lambda each: each.stream.epoch)
        if len(streams) > 2:
            self._remove_stream(streams.pop(0))
        for older in streams[:-1]:
            if older.superseded_at is None:
                older.superseded_at = now
        return state

    def _is_closed(self, state: _StreamState, now: float) -> bool:
        if state.superseded_at is not None and now - state.superseded_at >= self._ttl_s:
            return True
        member = self._members.get(state.stream.origin)
        return (
            member is not None
            and state.stream.epoch < member.record.epoch
            and now - member.epoch_known_at >= self._ttl_s
        )

    def _remove_stream(self, state: _StreamState) -> None:
        del self._states[state.stream]
        self._unsaved.mark(state.stream)
        self.cache.remove_stream(state.stream)
        self._stream_digest.remove(state.stream)
        self._streams_with_gaps.pop(state.stream, None)
        state.tracker.abandon_all()
        self._abandoned_before += state.tracker.abandoned

    # --- reconciliation -------------------------------------------------------------------------

    def _record_change(self, state: _StreamState, now: float) -> None:
        self.version += 1
        self._unsaved.mark(state.stream)
        self._stream_digest.update(state.stream, state.tracker.high, state.last_published_at, now)

    def digest(self, now: float) -> tuple[int, bytes]:
        """The number of settled, recently active streams and the sum of their hashes."""
        return self._stream_digest.digest(now)

    def vector(self, now: float, limit: float = math.inf) -> list[StreamRange]:
        """Recently active streams, each from its lowest cached to its highest seen sequence; up to
        `limit`, the next ones in turn.
        """
        found: list[StreamRange] = []
        for stream in self._stream_digest.next_streams(limit):
            state = self._states.get(stream)
            if (
                state is None
                or state.last_published_at + self._ttl_s <= now
                or self._is_closed(state, now)
            ):
                continue
            found.append(StreamRange(stream, self._lowest_cached(state), state.tracker.high))
        return found

    def _lowest_cached(self, state: _StreamState) -> int:
        lowest = self.cache.lowest_first(state.stream)
        return state.tracker.high + 1 if lowest is None else lowest

    def missing(
        self, theirs: StreamRange, now: float, limit: float = math.inf
    ) -> list[StreamRange]:
        """Up to `limit` ranges of `theirs` not seen here, ascending; none of closed streams."""
        first, last = max(theirs.first, 1), theirs.last
        if first > last:
            return []
        state = self._states.get(theirs.stream)
        if state is None:
            if self._is_stale(theirs.stream, now):
                return []
            evicted = self._evicted.get(theirs.stream.origin)
            if evicted is not None and evicted.epoch == theirs.stream.epoch:
                first = max(first, evicted.high + 1)
            return [_subrange(theirs, first, last)] if first <= last else []
        if self._is_closed(state, now):
            return []
        return [_subrange(theirs, a, b) for a, b in state.tracker.missing(first, last, limit)]

    def lacks(self, theirs: StreamRange, now: float) -> bool:
        """Whether any of `theirs` is missing here."""
        return bool(self.missing(theirs, now, limit=1))

    def gaps(self, now: float, older_than_s: float, limit: int) -> list[StreamRange]:
        """Up to `limit` gaps that have been open for `older_than_s`."""
        found: list[StreamRange] = []
        for state in self._streams_with_gaps.values():
            for gap in state.tracker.gaps:
                if now - gap.opened_at < older_than_s:
                    break  # later gaps opened later
                found.append(StreamRange(state.stream, gap.first, gap.last))
                if len(found) == limit:
                    return found
        return found

    @property
    def has_gaps(self) -> bool:
        return bool(self._streams_with_gaps)

    # --- time -----------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Remove what has expired. Work is bounded by what expires, except for a sweep over all
        streams every `STREAM_SWEEP_S`.
        """
        self.cache.tick(now)
        for stream, state in list(self._streams_with_gaps.items()):
            abandoned = state.tracker.abandoned
            state.tracker.abandon_before(now - self._ttl_s)
            if self._is_closed(state, now):
                state.tracker.abandon_all()
            if state.tracker.abandoned != abandoned:
                self._unsaved.mark(stream)
            if not state.tracker.gaps:
                del self._streams_with_gaps[stream]
        if now - self._swept_at >= STREAM_SWEEP_S:
            self._swept_at = now
            self._remove_idle_streams(now)

    def _remove_idle_streams(self, now: float) -> None:
        for origin, streams in list(self._streams_by_origin.items()):
            for state in [
                each for each in streams if now - each.last_published_at > FORGET_STREAM_S
            ]:
                self._remove_stream(state)
                streams.remove(state)
            if not streams:
                del self._streams_by_origin[origin]
                self._origin_table.remove(origin)
        for origin, evicted in list(self._evicted.items()):
            if now - evicted.last_published_at > FORGET_STREAM_S:
                del self._evicted[origin]
                self._unsaved.mark(Stream(origin, evicted.epoch))

    @property
    def abandoned(self) -> int:
        """Sequences abandoned: they were never received and are no longer requested."""
        return self._abandoned_before + sum(
            state.tracker.abandoned
            for streams in self._streams_by_origin.values()
            for state in streams
        )

    @property
    def streams(self) -> int:
        return sum(len(streams) for streams in self._streams_by_origin.values())

    # --- saving ---------------------------------------------------------------------------------

    def snapshot(self, now: float, unhandled: Iterable[MessageId] = ()) -> tuple[SavedStream, ...]:
        """The tracker state of all streams, to be saved; see `saved_streams`."""
        return tuple(self.saved_streams(self.tracked_streams(), now, unhandled))

    def tracked_streams(self) -> list[Stream]:
        """All streams of which anything is to be saved."""
        tracked = [
            state.stream for streams in self._streams_by_origin.values() for state in streams
        ]
        evicted = [Stream(origin, each.epoch) for origin, each in self._evicted.items()]
        return tracked + evicted

    def take_unsaved(self) -> list[Stream] | None:
        """The streams that changed, appeared or were removed since the last call; None if any may have."""
        return self._unsaved.take()

    def saved_streams(
        self, streams: Iterable[Stream], now: float, unhandled: Iterable[MessageId] = ()
    ) -> list[SavedStream]:
        """The tracker state of those of `streams` that are still tracked, to be saved.

        `unhandled` messages were delivered but not processed by the application: they count as not seen and
        are delivered again.
        """
        pending: dict[Stream, list[int]] = {}
        for message_id in unhandled:
            pending.setdefault(message_id.stream, []).append(message_id.sequence)
        found: list[SavedStream] = []
        for stream in streams:
            state = self._states.get(stream)
            if state is not None:
                high, gaps = state.tracker.excluding(sorted(pending.get(stream, ())))
                published_at = state.last_published_at
            else:
                evicted = self._evicted.get(stream.origin)
                if evicted is None or evicted.epoch != stream.epoch:
                    continue
                high, gaps, published_at = evicted.high, (), evicted.last_published_at
            found.append(SavedStream(stream.origin, stream.epoch, high, gaps, now - published_at))
        return found


def _subrange(theirs: StreamRange, first: int, last: int) -> StreamRange:
    if first == theirs.first and last == theirs.last:
        return theirs
    return StreamRange(theirs.stream, first, last)
