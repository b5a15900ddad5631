"""One round of anti-entropy: how far it is.

What must stay true:

- A round remembers `STREAMS_PER_ROUND` streams of the peer, each once, and `PAGES_PER_ROUND` pages. Only what
  is new moves it on (a page, a message), and it ends after `ROUND_LIMIT_S` in any case.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Final

from grapevine_proto.events import Round, RoundOutcome
from grapevine_proto.ids import PeerId, Stream, StreamRange
from grapevine_proto.overlay.store.ranges import hull, hulls_by_stream
from grapevine_proto.wire.messages import RumorCopy, Vector

ENTRIES_PER_PAGE: Final = 18  # of 62 bytes at the most
PAGES_PER_ROUND: Final = 32  # of one vector; the rest has its turn in the next round
STREAMS_PER_ROUND: Final = ENTRIES_PER_PAGE * PAGES_PER_ROUND
ROUND_LIMIT_S: Final = 60.0


class SyncRound:
    """A round of ours that has not ended."""

    __slots__ = (
        "awaits_request",
        "differs",
        "has_new_data",
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
        "their_vector",
        "unrequested",
    )

    def __init__(self, number: int, now: float) -> None:
        self.number = number
        self.started_at = now
        self.last_progress_at = now
        self.is_answered = False
        self.pages = 0  # of their vector, as the first of them said; 0: none has come
        self.pages_received: set[int] = set()
        self.has_vector = False  # all its pages have come
        self.differs = False
        self.unrequested: OrderedDict[Stream, StreamRange] = OrderedDict()  # still to be asked for
        self.streams_dropped = 0  # streams for which there was no room; the next round has them
        self.requested: tuple[StreamRange, ...] = ()  # and not answered yet
        self.has_new_data = False  # something new came of it
        self.their_vector: dict[Stream, int] = {}
        self.awaits_request = False
        self.sent = 0
        self.received = 0
        self.payload_bytes = 0

    def is_expired(self, now: float, timeout_s: float) -> bool:
        """Whether the peer was silent for too long, or had all the time that there is."""
        return now >= self.expires_at(timeout_s)

    def expires_at(self, timeout_s: float) -> float:
        return min(self.last_progress_at + timeout_s, self.started_at + ROUND_LIMIT_S)

    def on_vector_page(self, vector: Vector, now: float) -> bool:
        """Take in a page of the peer's vector, if it is one that has not come yet."""
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
        return True

    @property
    def has_all_pages(self) -> bool:
        return 0 < min(self.pages, PAGES_PER_ROUND) <= len(self.pages_received)

    def add_missing(self, ranges: Iterable[StreamRange]) -> None:
        """Ask for these too, each stream once."""
        for stream, each in hulls_by_stream(ranges).items():
            if stream in self.unrequested or len(self.unrequested) < STREAMS_PER_ROUND:
                self.unrequested[stream] = hull(self.unrequested.get(stream), each)
            else:
                self.streams_dropped += 1

    def requeue(self, ranges: Sequence[StreamRange]) -> None:
        """What was asked for and did not all come goes first."""
        for each in reversed(ranges):
            self.unrequested[each.stream] = hull(self.unrequested.get(each.stream), each)
            self.unrequested.move_to_end(each.stream, last=False)

    def add_copies(self, copies: Iterable[RumorCopy]) -> int:
        """These move in this round; returns how many messages they are."""
        self.payload_bytes += sum(len(copy.rumor.body) for copy in copies)
        return sum(len(copy.rumor.lengths) for copy in copies)

    @property
    def is_done(self) -> bool:
        """Whether all was compared, and all that was asked for answered."""
        return self.has_vector and not (self.unrequested or self.requested or self.awaits_request)

    @property
    def has_transferred(self) -> bool:
        return self.sent + self.received > 0

    @property
    def outcome(self) -> RoundOutcome:
        """What there is to say of it if it ends now."""
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
