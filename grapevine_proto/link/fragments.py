"""Messages that one packet does not hold: cut when sent, put together again, forgotten in time.

What must stay true:

- A message is kept once, however many links send it: what goes out are slices of it, made when
  they go.
- What comes in costs what has arrived of it, never what was announced: each piece is charged its
  bytes and `PIECE_BYTES`, under a cap for each peer and one for all (`Budget`). Where a peer's is full
  the message of it gives way that has not grown for longest; where that of all is, one of the peer that
  takes most of it, so that no peer loses its messages to what others send.
- To grow is to gain `GROWTH_BYTES`, however many packets bring them. A message that has not grown for
  `PATIENCE_S` goes, and so does one that is not whole after `WHOLE_S` and what its size takes at
  `LEAST_RATE`.
- Pieces come in any order, twice, and cut in other places the second time; where they contradict
  one another the whole message is dropped.
- A message is given out once; what comes of it afterwards is known and refused.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import OrderedDict
from typing import Final

from grapevine_proto.codec import Ours, Spliced, fragment_header
from grapevine_proto.errors import DropReason, Refused
from grapevine_proto.messages import Fragment, Kind

PATIENCE_S: Final = 10.0  # without growth
GROWTH_BYTES: Final = 512  # half of what the smallest datagram brings of a large message
WHOLE_S: Final = 30.0  # for a message to be whole, and
LEAST_RATE: Final = 16_384  # bytes a second besides: 10 MiB have eleven minutes
SWEEP_S: Final = 1.0  # between two looks for those that are not
LEAST_PART_BYTES: Final = (
    256  # what a part counts at least towards its next token; a correct one has 1,100
)
PIECE_BYTES: Final = 128  # what keeping a piece costs besides its bytes
ENVELOPE_BYTES: Final = 1 << 16  # what one token pays for; also what may surround a payload
DONE_LIMIT: Final = 256  # messages remembered as finished, or given up, so that none begins again


class Outgoing:
    """A large message on its way out: how far it has gone, and how much of that is paid for."""

    __slots__ = (
        "_number",
        "_of_repair",
        "_plaintext",
        "arrived_bytes",
        "is_let_go",
        "keys",
        "paid_bytes",
        "rank",
        "sent_bytes",
    )

    def __init__(self, plaintext: bytes | Spliced, number: int, rank: int) -> None:
        kind = plaintext.kind if isinstance(plaintext, Spliced) else plaintext[0]
        self._plaintext = plaintext if isinstance(plaintext, Spliced) else memoryview(plaintext)
        self._number = number
        self._of_repair = kind == Kind.REPAIR
        self.rank = rank
        self.keys = plaintext.keys if isinstance(plaintext, Spliced | Ours) else ()
        self.arrived_bytes = 0
        self.sent_bytes = 0  # from the beginning; what was lost of it is sent again besides
        self.paid_bytes = 0
        self.is_let_go = False

    def __len__(self) -> int:
        return len(self._plaintext)

    @property
    def is_free(self) -> bool:
        """Whether no token is due: it was asked for."""
        return self._of_repair

    def slice(self, start: int, end: int) -> bytes:
        """The plaintext of the packet that carries this part."""
        header = fragment_header(self._number, len(self), start, of_repair=self._of_repair)
        plaintext = self._plaintext
        if isinstance(plaintext, Spliced):
            return header + plaintext.cut(start, end)
        return b"".join((header, plaintext[start:end]))


class _Partial:
    """What has come of one message."""

    __slots__ = (
        "cost_bytes",
        "ends_at",
        "grown_at",
        "grown_bytes",
        "number",
        "of_repair",
        "owner",
        "paid_bytes",
        "pieces",
        "received_bytes",
        "starts",
        "total_bytes",
        "work_bytes",
    )

    def __init__(self, owner: Reassembly, fragment: Fragment) -> None:
        self.owner = owner
        self.number = fragment.number
        self.total_bytes = fragment.total_bytes
        self.of_repair = fragment.of_repair
        self.starts: list[int] = []  # ascending, of `pieces`, which do not overlap
        self.pieces: list[bytes] = []
        self.received_bytes = 0
        self.work_bytes = 0  # what came of it, as it is charged
        self.paid_bytes = 0
        self.cost_bytes = 0
        self.grown_at = 0.0
        self.grown_bytes = 0  # `received_bytes` as of then
        self.ends_at = math.inf

    def news_in(self, fragment: Fragment) -> list[tuple[int, bytes]]:
        """The parts of `fragment` that have not come yet. Raises Refused(CONFLICT) where others have,
        but with other bytes, or where it is of another message."""
        if (self.total_bytes, self.of_repair) != (fragment.total_bytes, fragment.of_repair):
            raise Refused(DropReason.CONFLICT)
        start, body = fragment.offset, fragment.body
        end = start + len(body)
        index = bisect_left(self.starts, start)
        if index and self.starts[index - 1] + len(self.pieces[index - 1]) > start:
            index -= 1
        if index == len(self.starts) or self.starts[index] >= end:
            return [(start, body)]  # nearly always
        news, at = [], start
        while at < end:
            if index == len(self.starts) or self.starts[index] >= end:
                news.append((at, body[at - start :]))
                break
            known_at, known = self.starts[index], self.pieces[index]
            if at < known_at:
                news.append((at, body[at - start : known_at - start]))
                at = known_at
            upto = min(known_at + len(known), end)
            if known[at - known_at : upto - known_at] != body[at - start : upto - start]:
                raise Refused(DropReason.CONFLICT)
            at = upto
            index += 1
        return news

    def add(self, start: int, piece: bytes) -> None:
        if not self.starts or start > self.starts[-1]:
            self.starts.append(start)
            self.pieces.append(piece)
        else:
            index = bisect_left(self.starts, start)
            self.starts.insert(index, start)
            self.pieces.insert(index, piece)
        self.received_bytes += len(piece)

    def grow(self, now: float) -> bool:
        """Whether enough has come since it grew last, so that it has grown now."""
        if self.received_bytes - self.grown_bytes < GROWTH_BYTES:
            return False
        self.grown_bytes, self.grown_at = self.received_bytes, now
        return True


class Budget:
    """What all links together may keep of unfinished messages. One per node."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self.dropped = 0  # messages, for want of room or of growth
        self._partials: OrderedDict[_Partial, None] = OrderedDict()  # the slowest first
        self._owners: dict[Reassembly, None] = {}  # that have any
        self._sweep_at = -math.inf

    def begin(self, partial: _Partial, now: float) -> None:
        """`partial` is new."""
        partial.grown_at = now
        partial.ends_at = now + WHOLE_S + partial.total_bytes / LEAST_RATE
        self._partials[partial] = None
        self._owners[partial.owner] = None
        self.charge(partial, PIECE_BYTES)

    def grew(self, partial: _Partial) -> None:
        """`partial` grew: it is the last to give way."""
        self._partials.move_to_end(partial)

    def charge(self, partial: _Partial, cost_bytes: int) -> None:
        """`partial` costs so much more; where that is too much in all, the peer with most gives way."""
        partial.cost_bytes += cost_bytes
        partial.owner.used_bytes += cost_bytes
        self.used_bytes += cost_bytes
        while self.used_bytes > self.limit_bytes:
            largest = max(self._owners, key=lambda each: each.used_bytes)
            self._drop(largest.slowest)

    def release(self, partial: _Partial) -> None:
        """`partial` is finished or given up."""
        self.used_bytes -= partial.cost_bytes
        partial.owner.used_bytes -= partial.cost_bytes
        del self._partials[partial]
        if not partial.owner.is_busy:
            self._owners.pop(partial.owner, None)

    def advance(self, now: float) -> None:
        """Drop what has not grown for too long, or is not whole in time."""
        while self._partials:
            slowest = next(iter(self._partials))
            if now - slowest.grown_at < PATIENCE_S:
                break
            self._drop(slowest)
        if now >= self._sweep_at:
            self._sweep_at = now + SWEEP_S
            for partial in [each for each in self._partials if now >= each.ends_at]:
                self._drop(partial)

    @property
    def deadline(self) -> float:
        if not self._partials:
            return math.inf
        return next(iter(self._partials)).grown_at + PATIENCE_S

    def _drop(self, partial: _Partial) -> None:
        self.dropped += 1
        partial.owner.forget(partial)


class Reassembly:
    """Unfinished messages of one peer; charges `budget`."""

    def __init__(self, max_message_bytes: int, budget: Budget) -> None:
        self._max_bytes = max_message_bytes + ENVELOPE_BYTES
        # Of the smallest fragments that a correct peer sends, a ninth is what keeping them costs.
        self._limit_bytes = self._max_bytes + self._max_bytes // 8
        self._budget = budget
        self._partials: OrderedDict[int, _Partial] = OrderedDict()  # the slowest first
        self._done: OrderedDict[int, None] = OrderedDict()
        self.used_bytes = 0
        self.has_grown = False  # by what was received last: for whoever waits for what comes

    @property
    def slowest(self) -> _Partial:
        """The message that has not grown for longest; there is one."""
        return next(iter(self._partials.values()))

    def tokens_due(self, fragment: Fragment) -> int:
        """What taking `fragment` costs: one token for each 64 KiB of a message, as it comes to them.
        Repair was paid by asking."""
        partial = self._partials.get(fragment.number)
        if partial is None:
            return 0 if fragment.number in self._done else 1
        return int(partial.work_bytes >= partial.paid_bytes)

    def knows(self, fragment: Fragment) -> bool:
        """Whether other parts of the same message have come."""
        return fragment.number in self._partials

    def receive(self, fragment: Fragment, now: float) -> bytes | None:
        """Take in a piece; the message, when that was the last of it.

        Raises Refused: TOO_LARGE, CONFLICT, DUPLICATE or, when the message just gave way to others,
        NO_ROOM.
        """
        number = fragment.number
        self.has_grown = False
        if number in self._done:
            raise Refused(DropReason.DUPLICATE)
        partial = self._partials.get(number)
        if partial is None:
            if fragment.total_bytes > self._max_bytes:
                raise Refused(DropReason.TOO_LARGE)
            partial = self._partials[number] = _Partial(self, fragment)
            self._budget.begin(partial, now)
            if number not in self._partials:
                raise Refused(DropReason.NO_ROOM)
        news = self._news(partial, fragment)
        if not news:
            raise Refused(DropReason.DUPLICATE)
        if partial.work_bytes >= partial.paid_bytes:
            partial.paid_bytes += ENVELOPE_BYTES
        partial.work_bytes += max(sum(len(piece) for _, piece in news), LEAST_PART_BYTES)
        for start, piece in news:
            partial.add(start, piece)
        if partial.received_bytes == partial.total_bytes:
            self.forget(partial)
            return self._join(partial)
        if partial.grow(now):
            self.has_grown = True
            self._partials.move_to_end(number)
            self._budget.grew(partial)
        self._budget.charge(partial, sum(len(piece) + PIECE_BYTES for _, piece in news))
        while self.used_bytes > self._limit_bytes:
            self._budget.dropped += 1
            self.forget(next(iter(self._partials.values())))
        if number not in self._partials:
            raise Refused(DropReason.NO_ROOM)
        return None

    def clear(self) -> None:
        """Forget everything: the link is gone."""
        for partial in list(self._partials.values()):
            self.forget(partial)

    def forget(self, partial: _Partial) -> None:
        """Give `partial` up; what else comes of it is refused."""
        del self._partials[partial.number]
        self._budget.release(partial)
        self._done[partial.number] = None
        if len(self._done) > DONE_LIMIT:
            self._done.popitem(last=False)

    @property
    def is_busy(self) -> bool:
        """Whether parts of a message have come and others not."""
        return bool(self._partials)

    def _news(self, partial: _Partial, fragment: Fragment) -> list[tuple[int, bytes]]:
        try:
            return partial.news_in(fragment)
        except Refused:
            self.forget(partial)
            raise

    def _join(self, partial: _Partial) -> bytes:
        message = b"".join(partial.pieces)
        if (message[0] == Kind.REPAIR) != partial.of_repair or is_part(message[0]):
            raise Refused(DropReason.MALFORMED)
        return message


def is_part(kind: int) -> bool:
    """Whether this kind is a piece of another message: pieces of pieces are nonsense."""
    return kind in (Kind.FRAGMENT, Kind.REPAIR_FRAGMENT)
