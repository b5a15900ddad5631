"""One round of anti-entropy: how far it is, and what one question is answered with.

What must stay true: an answer is at most `REPLY_DATAGRAMS`, and `REPLY_LIMIT_BYTES` but for one rumor
that may be larger alone; the rest has to be asked for again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from grapevine_proto.events import Round, RoundOutcome
from grapevine_proto.ids import PeerId, Stream, StreamRange
from grapevine_proto.messages import Repair, RumorCopy, Want
from grapevine_proto.overlay.held import Held

REPLY_DATAGRAMS: Final = 32
REPLY_BYTES: Final = 1000  # of rumors in one datagram, about
REPLY_LIMIT_BYTES: Final = 64 * 1024


class Running:
    """A round of ours that has not ended."""

    __slots__ = (
        "asked",
        "bytes",
        "differs",
        "has_vector",
        "heard_at",
        "is_answered",
        "number",
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
        self.pages_heard: set[int] = set()
        self.has_vector = False  # all its pages have come
        self.differs = False
        self.wanted: list[StreamRange] = []  # still to be asked for
        self.asked: tuple[StreamRange, ...] = ()  # and not answered yet
        self.their_vector: dict[Stream, int] = {}
        self.waiting_for_want = False
        self.sent = 0
        self.received = 0
        self.bytes = 0

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


def answer(want: Want, held: Held, now: float) -> list[Repair]:
    """What is held of what is wanted, in messages of a datagram each; one at least, maybe empty."""
    batches: list[list[RumorCopy]] = [[]]
    size_bytes = total_bytes = 0
    copies = (copy for wanted in want.ranges for copy in held.within(wanted, now))
    more = False
    for copy in copies:
        cost_bytes = copy.rumor.size_bytes
        is_full = bool(batches[-1]) and size_bytes + cost_bytes > REPLY_BYTES
        more = (total_bytes > 0 and total_bytes + cost_bytes > REPLY_LIMIT_BYTES) or (
            is_full and len(batches) == REPLY_DATAGRAMS
        )
        if more:
            break
        if is_full:
            batches.append([])
            size_bytes = 0
        batches[-1].append(copy)
        size_bytes += cost_bytes
        total_bytes += cost_bytes
    last = len(batches) - 1
    return [
        Repair(want.round, index == last, more, tuple(batch)) for index, batch in enumerate(batches)
    ]
