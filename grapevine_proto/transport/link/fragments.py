"""Messages that one packet does not hold: cut when sent, put together again, forgotten in time.

What must stay true:

- A message is kept once, however many links send it: what goes out are slices of it, made when
  they go.
- What comes in costs what has arrived of it, never what was announced: each piece is charged its
  bytes and `PIECE_OVERHEAD_BYTES`, under a cap for each peer and one for all (`ReassemblyBudget`). Where
  a peer's is full
  the message of it gives way that has not grown for longest; where that of all is, one of the peer that
  takes most of it, so that no peer loses its messages to what others send.
- To grow is to gain `MIN_PROGRESS_BYTES`, however many packets bring them. A message that has not grown for
  `REASSEMBLY_STALL_TIMEOUT_S` goes, and so does one that is not whole after `REASSEMBLY_BASE_TIMEOUT_S`
  and what its size takes at
  `MIN_REASSEMBLY_BYTES_PER_S`.
- Pieces come in any order, twice, and cut in other places the second time; where they contradict
  one another the whole message is dropped.
- A message is given out once; what comes of it afterwards is known and refused.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import OrderedDict
from typing import Final

from grapevine_proto.errors import Dropped, DropReason
from grapevine_proto.wire.codec import ChunkedMessage, TrackedBytes, fragment_header
from grapevine_proto.wire.messages import Fragment, Kind

REASSEMBLY_STALL_TIMEOUT_S: Final = 10.0  # without growth
MIN_PROGRESS_BYTES: Final = 512  # half of what the smallest datagram brings of a large message
REASSEMBLY_BASE_TIMEOUT_S: Final = 30.0  # for a message to be whole, and
MIN_REASSEMBLY_BYTES_PER_S: Final = 16_384  # bytes a second besides: 10 MiB have eleven minutes
REASSEMBLY_SWEEP_INTERVAL_S: Final = 1.0  # between two looks for those that are not
MIN_FRAGMENT_CHARGE_BYTES: Final = (
    256  # what a part counts at least towards its next token; a correct one has 1,100
)
PIECE_OVERHEAD_BYTES: Final = 128  # what keeping a piece costs besides its bytes
BYTES_PER_TOKEN: Final = 1 << 16  # what one token pays for; also what may surround a payload
FINISHED_MESSAGES_LIMIT: Final = (
    256  # messages remembered as finished, or given up, so that none begins again
)


class FragmentedMessage:
    """A large message on its way out: how far it has gone, and how much of that is paid for."""

    __slots__ = (
        "_is_repair",
        "_message_number",
        "_plaintext",
        "acked_bytes",
        "charged_bytes",
        "is_abandoned",
        "rank",
        "rumor_keys",
        "sent_bytes",
    )

    def __init__(self, plaintext: bytes | ChunkedMessage, number: int, rank: int) -> None:
        kind = plaintext.kind if isinstance(plaintext, ChunkedMessage) else plaintext[0]
        self._plaintext = (
            plaintext if isinstance(plaintext, ChunkedMessage) else memoryview(plaintext)
        )
        self._message_number = number
        self._is_repair = kind == Kind.REPAIR
        self.rank = rank
        self.rumor_keys = (
            plaintext.rumor_keys if isinstance(plaintext, ChunkedMessage | TrackedBytes) else ()
        )
        self.acked_bytes = 0
        self.sent_bytes = 0  # from the beginning; what was lost of it is sent again besides
        self.charged_bytes = 0
        self.is_abandoned = False

    def __len__(self) -> int:
        return len(self._plaintext)

    @property
    def is_free(self) -> bool:
        """Whether no token is due: it was asked for."""
        return self._is_repair

    def encode_fragment(self, start: int, end: int) -> bytes:
        """The plaintext of the packet that carries this part."""
        header = fragment_header(self._message_number, len(self), start, is_repair=self._is_repair)
        plaintext = self._plaintext
        if isinstance(plaintext, ChunkedMessage):
            return header + plaintext.slice_bytes(start, end)
        return b"".join((header, plaintext[start:end]))


class _PartialMessage:
    """What has come of one message."""

    __slots__ = (
        "chargeable_bytes",
        "charged_bytes",
        "cost_bytes",
        "expires_at",
        "is_repair",
        "number",
        "owner",
        "pieces",
        "progress_bytes",
        "progressed_at",
        "received_bytes",
        "starts",
        "total_bytes",
    )

    def __init__(self, owner: Reassembly, fragment: Fragment) -> None:
        self.owner = owner
        self.number = fragment.number
        self.total_bytes = fragment.total_bytes
        self.is_repair = fragment.is_repair
        self.starts: list[int] = []  # ascending, of `pieces`, which do not overlap
        self.pieces: list[bytes] = []
        self.received_bytes = 0
        self.chargeable_bytes = 0  # what came of it, as it is charged
        self.charged_bytes = 0
        self.cost_bytes = 0
        self.progressed_at = 0.0
        self.progress_bytes = 0  # `received_bytes` as of then
        self.expires_at = math.inf

    def new_pieces(self, fragment: Fragment) -> list[tuple[int, bytes]]:
        """The parts of `fragment` that have not come yet. Raises Refused(CONFLICT) where others have,
        but with other bytes, or where it is of another message."""
        if (self.total_bytes, self.is_repair) != (fragment.total_bytes, fragment.is_repair):
            raise Dropped(DropReason.CONTENT_CONFLICT)
        start, body = fragment.offset, fragment.body
        end = start + len(body)
        index = bisect_left(self.starts, start)
        if index and self.starts[index - 1] + len(self.pieces[index - 1]) > start:
            index -= 1
        if index == len(self.starts) or self.starts[index] >= end:
            return [(start, body)]  # nearly always
        new, position = [], start
        while position < end:
            if index == len(self.starts) or self.starts[index] >= end:
                new.append((position, body[position - start :]))
                break
            known_start, known = self.starts[index], self.pieces[index]
            if position < known_start:
                new.append((position, body[position - start : known_start - start]))
                position = known_start
            overlap_end = min(known_start + len(known), end)
            if (
                known[position - known_start : overlap_end - known_start]
                != body[position - start : overlap_end - start]
            ):
                raise Dropped(DropReason.CONTENT_CONFLICT)
            position = overlap_end
            index += 1
        return new

    def insert(self, start: int, piece: bytes) -> None:
        if not self.starts or start > self.starts[-1]:
            self.starts.append(start)
            self.pieces.append(piece)
        else:
            index = bisect_left(self.starts, start)
            self.starts.insert(index, start)
            self.pieces.insert(index, piece)
        self.received_bytes += len(piece)

    def note_progress(self, now: float) -> bool:
        """Whether enough has come since it grew last, so that it has grown now."""
        if self.received_bytes - self.progress_bytes < MIN_PROGRESS_BYTES:
            return False
        self.progress_bytes, self.progressed_at = self.received_bytes, now
        return True


class ReassemblyBudget:
    """What all links together may keep of unfinished messages. One per node."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self.dropped = 0  # messages, for want of room or of growth
        self._partials: OrderedDict[_PartialMessage, None] = OrderedDict()  # the slowest first
        self._owners: dict[Reassembly, None] = {}  # that have any
        self._sweeps_at = -math.inf

    def begin(self, partial: _PartialMessage, now: float) -> None:
        """`partial` is new."""
        partial.progressed_at = now
        partial.expires_at = (
            now + REASSEMBLY_BASE_TIMEOUT_S + partial.total_bytes / MIN_REASSEMBLY_BYTES_PER_S
        )
        self._partials[partial] = None
        self._owners[partial.owner] = None
        self.charge(partial, PIECE_OVERHEAD_BYTES)

    def on_progress(self, partial: _PartialMessage) -> None:
        """`partial` grew: it is the last to give way."""
        self._partials.move_to_end(partial)

    def charge(self, partial: _PartialMessage, cost_bytes: int) -> None:
        """`partial` costs so much more; where that is too much in all, the peer with most gives way."""
        partial.cost_bytes += cost_bytes
        partial.owner.used_bytes += cost_bytes
        self.used_bytes += cost_bytes
        while self.used_bytes > self.limit_bytes:
            largest = max(self._owners, key=lambda each: each.used_bytes)
            self._drop(largest.stalest)

    def release(self, partial: _PartialMessage) -> None:
        """`partial` is finished or given up."""
        self.used_bytes -= partial.cost_bytes
        partial.owner.used_bytes -= partial.cost_bytes
        del self._partials[partial]
        if not partial.owner.has_partials:
            self._owners.pop(partial.owner, None)

    def advance(self, now: float) -> None:
        """Drop what has not grown for too long, or is not whole in time."""
        while self._partials:
            stalest = next(iter(self._partials))
            if now - stalest.progressed_at < REASSEMBLY_STALL_TIMEOUT_S:
                break
            self._drop(stalest)
        if now >= self._sweeps_at:
            self._sweeps_at = now + REASSEMBLY_SWEEP_INTERVAL_S
            for partial in [each for each in self._partials if now >= each.expires_at]:
                self._drop(partial)

    @property
    def deadline(self) -> float:
        if not self._partials:
            return math.inf
        return next(iter(self._partials)).progressed_at + REASSEMBLY_STALL_TIMEOUT_S

    def _drop(self, partial: _PartialMessage) -> None:
        self.dropped += 1
        partial.owner.finish(partial)


class Reassembly:
    """Unfinished messages of one peer; charges `budget`."""

    def __init__(self, max_message_bytes: int, budget: ReassemblyBudget) -> None:
        self._max_bytes = max_message_bytes + BYTES_PER_TOKEN
        # Of the smallest fragments that a correct peer sends, a ninth is what keeping them costs.
        self._limit_bytes = self._max_bytes + self._max_bytes // 8
        self._budget = budget
        self._partials: OrderedDict[int, _PartialMessage] = OrderedDict()  # the slowest first
        self._finished: OrderedDict[int, None] = OrderedDict()
        self.used_bytes = 0
        self.has_progressed = False  # by what was received last: for whoever waits for what comes

    @property
    def stalest(self) -> _PartialMessage:
        """The message that has not grown for longest; there is one."""
        return next(iter(self._partials.values()))

    def tokens_due(self, fragment: Fragment) -> int:
        """What taking `fragment` costs: one token for each 64 KiB of a message, as it comes to them.
        Repair was paid by asking."""
        partial = self._partials.get(fragment.number)
        if partial is None:
            return 0 if fragment.number in self._finished else 1
        return int(partial.chargeable_bytes >= partial.charged_bytes)

    def has_partial(self, fragment: Fragment) -> bool:
        """Whether other parts of the same message have come."""
        return fragment.number in self._partials

    def add_fragment(self, fragment: Fragment, now: float) -> bytes | None:
        """Take in a piece; the message, when that was the last of it.

        Raises Refused: TOO_LARGE, CONFLICT, DUPLICATE or, when the message just gave way to others,
        NO_ROOM.
        """
        number = fragment.number
        self.has_progressed = False
        if number in self._finished:
            raise Dropped(DropReason.DUPLICATE)
        partial = self._partials.get(number)
        if partial is None:
            if fragment.total_bytes > self._max_bytes:
                raise Dropped(DropReason.TOO_LARGE)
            partial = self._partials[number] = _PartialMessage(self, fragment)
            self._budget.begin(partial, now)
            if number not in self._partials:
                raise Dropped(DropReason.REASSEMBLY_FULL)
        new = self._new_pieces(partial, fragment)
        if not new:
            raise Dropped(DropReason.DUPLICATE)
        if partial.chargeable_bytes >= partial.charged_bytes:
            partial.charged_bytes += BYTES_PER_TOKEN
        partial.chargeable_bytes += max(
            sum(len(piece) for _, piece in new), MIN_FRAGMENT_CHARGE_BYTES
        )
        for start, piece in new:
            partial.insert(start, piece)
        if partial.received_bytes == partial.total_bytes:
            self.finish(partial)
            return self._assemble(partial)
        if partial.note_progress(now):
            self.has_progressed = True
            self._partials.move_to_end(number)
            self._budget.on_progress(partial)
        self._budget.charge(partial, sum(len(piece) + PIECE_OVERHEAD_BYTES for _, piece in new))
        while self.used_bytes > self._limit_bytes:
            self._budget.dropped += 1
            self.finish(next(iter(self._partials.values())))
        if number not in self._partials:
            raise Dropped(DropReason.REASSEMBLY_FULL)
        return None

    def clear(self) -> None:
        """Forget everything: the link is gone."""
        for partial in list(self._partials.values()):
            self.finish(partial)

    def finish(self, partial: _PartialMessage) -> None:
        """Give `partial` up; what else comes of it is refused."""
        del self._partials[partial.number]
        self._budget.release(partial)
        self._finished[partial.number] = None
        if len(self._finished) > FINISHED_MESSAGES_LIMIT:
            self._finished.popitem(last=False)

    @property
    def has_partials(self) -> bool:
        """Whether parts of a message have come and others not."""
        return bool(self._partials)

    def _new_pieces(self, partial: _PartialMessage, fragment: Fragment) -> list[tuple[int, bytes]]:
        try:
            return partial.new_pieces(fragment)
        except Dropped:
            self.finish(partial)
            raise

    def _assemble(self, partial: _PartialMessage) -> bytes:
        message = b"".join(partial.pieces)
        if (message[0] == Kind.REPAIR) != partial.is_repair or is_fragment_kind(message[0]):
            raise Dropped(DropReason.MALFORMED)
        return message


def is_fragment_kind(kind: int) -> bool:
    """Whether this kind is a piece of another message: pieces of pieces are nonsense."""
    return kind in (Kind.FRAGMENT, Kind.REPAIR_FRAGMENT)
