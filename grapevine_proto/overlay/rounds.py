"""One round of anti-entropy: how far it is.

What must stay true:

- A round remembers `STREAMS_LIMIT` streams of the peer, each once, and `PAGES_A_ROUND` pages. Only what
  is new moves it on (a page, a message), and it ends after `ROUND_LIMIT_S` in any case.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Final

from grapevine_proto.events import Round, RoundOutcome
from grapevine_proto.ids import PeerId, Stream, StreamRange
from grapevine_proto.messages import RumorCopy, Vector
from grapevine_proto.overlay.ranges import hull, hulls

ENTRIES_A_PAGE: Final = 18  # of 62 bytes at the most
PAGES_A_ROUND: Final = 32  # of one vector; the rest has its turn in the next round
STREAMS_LIMIT: Final = ENTRIES_A_PAGE * PAGES_A_ROUND
ROUND_LIMIT_S: Final = 60.0


class Running:
    """A round of ours that has not ended."""

    __slots__ = (
        "asked",
        "bytes",
        "differs",
        "dropped",
        "has_vector",
        "heard_at",
        "is_answered",
        "is_given",
        "number",
        "pages",
        "pages_heard",
        "received",
        "sent",
        "started_at",
        "their_vector",
        "waiting_for_want",
        "wanted",
    )

    def __init__(self, number: int, now: float) -> None:
        self.number = number
        self.started_at = now
        self.heard_at = now
        self.is_answered = False
        self.pages = 0  # of their vector, as the first of them said; 0: none has come
        self.pages_heard: set[int] = set()
        self.has_vector = False  # all its pages have come
        self.differs = False
        self.wanted: OrderedDict[Stream, StreamRange] = OrderedDict()  # still to be asked for
        self.dropped = 0  # streams for which there was no room; the next round has them
        self.asked: tuple[StreamRange, ...] = ()  # and not answered yet
        self.is_given = False  # something new came of it
        self.their_vector: dict[Stream, int] = {}
        self.waiting_for_want = False
        self.sent = 0
        self.received = 0
        self.bytes = 0

    def is_over(self, now: float, patience_s: float) -> bool:
        """Whether the peer was silent for too long, or had all the time that there is."""
        return now >= self.ends_at(patience_s)

    def ends_at(self, patience_s: float) -> float:
        return min(self.heard_at + patience_s, self.started_at + ROUND_LIMIT_S)

    def turn_page(self, vector: Vector, now: float) -> bool:
        """Take in a page of the peer's vector, if it is one that has not come yet."""
        self.pages = self.pages or vector.pages
        is_new = (
            vector.pages == self.pages
            and vector.page < PAGES_A_ROUND
            and vector.page not in self.pages_heard
        )
        if not is_new:
            return False
        self.heard_at = now
        self.is_answered = True
        self.pages_heard.add(vector.page)
        for stream, entry in hulls(vector.entries).items():
            if stream in self.their_vector or len(self.their_vector) < STREAMS_LIMIT:
                self.their_vector[stream] = max(entry.last, self.their_vector.get(stream, 0))
        return True

    @property
    def has_all_pages(self) -> bool:
        return 0 < min(self.pages, PAGES_A_ROUND) <= len(self.pages_heard)

    def want(self, ranges: Iterable[StreamRange]) -> None:
        """Ask for these too, each stream once."""
        for stream, each in hulls(ranges).items():
            if stream in self.wanted or len(self.wanted) < STREAMS_LIMIT:
                self.wanted[stream] = hull(self.wanted.get(stream), each)
            else:
                self.dropped += 1

    def want_again(self, ranges: Sequence[StreamRange]) -> None:
        """What was asked for and did not all come goes first."""
        for each in reversed(ranges):
            self.wanted[each.stream] = hull(self.wanted.get(each.stream), each)
            self.wanted.move_to_end(each.stream, last=False)

    def count(self, copies: Iterable[RumorCopy]) -> int:
        """These move in this round; returns how many messages they are."""
        self.bytes += sum(len(copy.rumor.body) for copy in copies)
        return sum(len(copy.rumor.lengths) for copy in copies)

    @property
    def is_done(self) -> bool:
        """Whether all was compared, and all that was asked for answered."""
        return self.has_vector and not (self.wanted or self.asked or self.waiting_for_want)

    @property
    def has_moved(self) -> bool:
        return self.sent + self.received > 0

    @property
    def outcome(self) -> RoundOutcome:
        """What there is to say of it if it ends now."""
        if not self.is_done:
            return RoundOutcome.PARTIAL if self.is_answered else RoundOutcome.NO_ANSWER
        if not self.differs:
            return RoundOutcome.IN_SYNC
        return RoundOutcome.REPAIRED if self.has_moved else RoundOutcome.PARTIAL

    def end(self, peer_id: PeerId, outcome: RoundOutcome, now: float) -> Round:
        return Round(
            self.number,
            peer_id,
            self.started_at,
            now - self.started_at,
            outcome is RoundOutcome.IN_SYNC,
            self.sent,
            self.received,
            self.bytes,
            outcome,
        )
