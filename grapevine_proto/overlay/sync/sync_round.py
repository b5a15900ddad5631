"""One anti-entropy round: its progress and outcome.

Invariants:

- A round stores at most `STREAMS_PER_ROUND` streams of the peer, each once, in `PAGES_PER_ROUND`
  pages.
- Only something new (a page, a message) is progress, and a round ends after `ROUND_LIMIT_S`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Final

from grapevine_proto.events import Round, RoundOutcome
from grapevine_proto.ids import PeerId, Stream, StreamRange
from grapevine_proto.overlay.store.ranges import hull, hulls_by_stream
from grapevine_proto.wire.messages import Repair, RumorCopy, Vector

ENTRIES_PER_PAGE: Final = 18  # of at most 62 bytes each
PAGES_PER_ROUND: Final = 32  # of one vector; the rest is left to the next round
STREAMS_PER_ROUND: Final = ENTRIES_PER_PAGE * PAGES_PER_ROUND
ROUND_LIMIT_S: Final = 60.0


class SyncRound:
    """A round of ours in progress."""

    __slots__ = (
        "awaits_request",
        "differs",
        "has_new_data",
        "has_requested",
        "has_vector",
        "is_answered",
        "last_progress_at",
        "number",
        "pages",
        "pages_received",
        "payload_bytes",
        "received",
        "requested",
        "sent",
        "started_at",
        "streams_dropped",
        "their_lowest",
        "their_vector",
        "unrequested",
    )

    def __init__(self, number: int, now: float) -> None:
        self.number = number
        self.started_at = now
        self.last_progress_at = now
        self.is_answered = False
        self.pages = 0  # of their vector, according to its first page; 0 before it arrives
        self.pages_received: set[int] = set()
        self.has_vector = False  # complete
        self.differs = False
        # missing, to be requested
        self.unrequested: OrderedDict[Stream, StreamRange] = OrderedDict()
        self.streams_dropped = 0  # beyond the limit; left to the next round
        self.requested: tuple[StreamRange, ...] = ()  # and not answered yet
        self.has_requested = False  # anything
        self.has_new_data = False  # the latest request brought something new
        self.their_vector: dict[Stream, int] = {}
        self.their_lowest: dict[Stream, int] = {}  # the first sequence that the peer has cached
        self.awaits_request = False
        self.sent = 0
        self.received = 0
        self.payload_bytes = 0

    def is_expired(self, now: float, timeout_s: float) -> bool:
        """Whether the peer made no progress for `timeout_s`, or the round reached its limit."""
        return now >= self.expires_at(timeout_s)

    def expires_at(self, timeout_s: float) -> float:
        return min(self.last_progress_at + timeout_s, self.started_at + ROUND_LIMIT_S)

    def on_vector_page(self, vector: Vector, now: float) -> bool:
        """Record a page of the peer's vector; False if it is a duplicate or inconsistent."""
        self.pages = self.pages or vector.pages
        is_new = (
            vector.pages == self.pages
            and vector.page < PAGES_PER_ROUND
            and vector.page not in self.pages_received
        )
        if not is_new:
            return False
        self.last_progress_at = now
        self.is_answered = True
        self.pages_received.add(vector.page)
        for stream, entry in hulls_by_stream(vector.entries).items():
            if stream in self.their_vector or len(self.their_vector) < STREAMS_PER_ROUND:
                self.their_vector[stream] = max(entry.last, self.their_vector.get(stream, 0))
                lowest = self.their_lowest.get(stream, entry.first)
                self.their_lowest[stream] = min(entry.first, lowest)
        return True

    def on_progress(self, now: float) -> None:
        """Something new came of the peer."""
        self.last_progress_at = now

    def complete_vector(self) -> bool:
        """Whether the last page of the peer's vector came just now."""
        if self.has_vector or not self.has_all_pages:
            return False
        self.has_vector = True
        return True

    @property
    def has_all_pages(self) -> bool:
        return 0 < min(self.pages, PAGES_PER_ROUND) <= len(self.pages_received)

    def add_missing(self, ranges: Iterable[StreamRange]) -> None:
        """Add ranges to request, merged per stream."""
        for stream, each in hulls_by_stream(ranges).items():
            if stream in self.unrequested or len(self.unrequested) < STREAMS_PER_ROUND:
                self.unrequested[stream] = hull(self.unrequested.get(stream), each)
            else:
                self.streams_dropped += 1

    def on_missing(self, ranges: Sequence[StreamRange]) -> None:
        """This node lacks these ranges of the peer's vector."""
        self.differs |= bool(ranges)

    def await_request(self) -> None:
        """The peer lacks what it was offered: it will request some of it."""
        self.awaits_request = self.differs = True

    def on_request(self, repairs: Iterable[Repair], now: float) -> None:
        """The peer requested what it was offered and gets `repairs`."""
        self.last_progress_at = now
        self.awaits_request = False
        for repair in repairs:
            self.sent += self.add_copies(repair.copies)

    def request(self, ranges: tuple[StreamRange, ...]) -> None:
        """These ranges are requested now. If nothing is left to request, the round does not wait for what
        others are about to send."""
        self.requested = ranges
        if not ranges:
            self.unrequested.clear()

    def on_repair(self, repair: Repair, now: float, *, is_new: bool) -> bool:
        """A repair arrived; returns whether it completes the answer to the latest request. `is_new`: it
        brought something new."""
        self.received += self.add_copies(repair.copies)
        if is_new:
            self.last_progress_at = now
            self.has_new_data = True
        if not repair.is_last or not self.requested:
            return False
        requested, self.requested = self.requested, ()
        # If truncated, the missing part goes first. Otherwise the peer has no more of it.
        if repair.has_more and self.has_new_data:
            self.requeue(requested)
        self.last_progress_at, self.has_new_data = now, False
        return True

    def requeue(self, ranges: Sequence[StreamRange]) -> None:
        """Put ranges that were not fully answered first."""
        for each in reversed(ranges):
            self.unrequested[each.stream] = hull(self.unrequested.get(each.stream), each)
            self.unrequested.move_to_end(each.stream, last=False)

    def add_copies(self, copies: Iterable[RumorCopy]) -> int:
        """Count transferred `copies`; returns the number of messages in them."""
        self.payload_bytes += sum(len(copy.rumor.body) for copy in copies)
        return sum(len(copy.rumor.lengths) for copy in copies)

    @property
    def is_done(self) -> bool:
        """Whether everything was compared and every request answered."""
        return self.has_vector and not (self.unrequested or self.requested or self.awaits_request)

    def their_ranges(self) -> list[StreamRange]:
        """What the peer has cached, as far as its vector says."""
        return [
            StreamRange(stream, self.their_lowest[stream], last)
            for stream, last in self.their_vector.items()
        ]

    @property
    def is_full(self) -> bool:
        """Whether the round is done and compared all streams of the peer, not just those that fit."""
        return (
            self.is_done and not self.streams_dropped and len(self.their_vector) < STREAMS_PER_ROUND
        )

    @property
    def has_transferred(self) -> bool:
        return self.sent + self.received > 0

    @property
    def outcome(self) -> RoundOutcome:
        """The outcome if the round ends now."""
        if not self.is_done:
            return RoundOutcome.PARTIAL if self.is_answered else RoundOutcome.NO_ANSWER
        if not self.differs:
            return RoundOutcome.IN_SYNC
        return RoundOutcome.REPAIRED if self.has_transferred else RoundOutcome.PARTIAL

    def to_round(self, peer_id: PeerId, outcome: RoundOutcome, now: float) -> Round:
        return Round(
            self.number,
            peer_id,
            self.started_at,
            now - self.started_at,
            outcome is RoundOutcome.IN_SYNC,
            self.sent,
            self.received,
            self.payload_bytes,
            outcome,
        )
