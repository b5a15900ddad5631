"""Reassembly of messages that arrive in fragments.

Invariants:

- An incomplete message occupies what has arrived of it, never what it announced: each piece is charged its
  bytes plus `PIECE_OVERHEAD_BYTES`, against a limit per peer and one for all peers (`ReassemblyBudget`).
  When a peer exceeds its limit, its message that has stalled longest is dropped; when all together exceed
  theirs, that of the peer that occupies most, so no peer loses messages because of what others send.
- Progress means `MIN_PROGRESS_BYTES` more, in however many packets. A message is dropped after
  `REASSEMBLY_STALL_TIMEOUT_S` without progress, or if it is incomplete after `REASSEMBLY_BASE_TIMEOUT_S` plus
  its size at `MIN_REASSEMBLY_BYTES_PER_S`.
- Pieces may arrive in any order, repeatedly, and cut at other offsets. If they contradict each other, the
  whole message is dropped.
- A message is delivered once; later fragments of it are duplicates.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import OrderedDict
from typing import Final

from grapevine_proto.errors import Dropped, DropReason
from grapevine_proto.transport.link.fragments import BYTES_PER_TOKEN, FRAGMENT_KINDS
from grapevine_proto.wire.messages import Fragment, Kind

REASSEMBLY_STALL_TIMEOUT_S: Final = 10.0
MIN_PROGRESS_BYTES: Final = 512  # half of what a fragment in the smallest datagram carries
REASSEMBLY_BASE_TIMEOUT_S: Final = 30.0  # to complete a message, plus its size at the rate below
MIN_REASSEMBLY_BYTES_PER_S: Final = 16_384  # gives 10 MiB eleven minutes
REASSEMBLY_SWEEP_INTERVAL_S: Final = 1.0  # between checks for messages over their time
# Charged at least per fragment toward the next token, so tiny ones are not cheap; an honest one has 1,100.
MIN_FRAGMENT_CHARGE_BYTES: Final = 256
PIECE_OVERHEAD_BYTES: Final = 128  # memory of a stored piece besides its bytes
FINISHED_MESSAGES_LIMIT: Final = (
    256  # completed or dropped messages remembered, so that none restarts
)


class _PartialMessage:
    """The received pieces of one incomplete message."""

    __slots__ = (
        "chargeable_bytes",
        "charged_bytes",
        "cost_bytes",
        "is_repair",
        "number",
        "owner",
        "pieces",
        "progress_bytes",
        "progressed_at",
        "received_bytes",
        "started_at",
        "starts",
        "total_bytes",
    )

    def __init__(self, owner: Reassembly, fragment: Fragment, now: float) -> None:
        self.owner = owner
        self.number = fragment.number
        self.total_bytes = fragment.total_bytes
        self.is_repair = fragment.is_repair
        self.starts: list[int] = []  # offsets of `pieces`, ascending; pieces do not overlap
        self.pieces: list[bytes] = []
        self.received_bytes = 0
        self.chargeable_bytes = 0  # received bytes, each fragment with the minimum charge
        self.charged_bytes = 0
        self.cost_bytes = 0
        self.started_at = self.progressed_at = now
        self.progress_bytes = 0  # `received_bytes` at `progressed_at`

    @property
    def expires_at(self) -> float:
        """When it is dropped if it is still incomplete."""
        transfer_s = self.total_bytes / MIN_REASSEMBLY_BYTES_PER_S
        return self.started_at + REASSEMBLY_BASE_TIMEOUT_S + transfer_s

    def new_pieces(self, fragment: Fragment) -> list[tuple[int, bytes]]:
        """Returns the parts of `fragment` that are new, as (offset, bytes).

        Raises Dropped(CONTENT_CONFLICT) if the fragment contradicts what was received.
        """
        if (self.total_bytes, self.is_repair) != (fragment.total_bytes, fragment.is_repair):
            raise Dropped(DropReason.CONTENT_CONFLICT)
        start, body = fragment.offset, fragment.body
        end = start + len(body)
        index = bisect_left(self.starts, start)
        if index and self.starts[index - 1] + len(self.pieces[index - 1]) > start:
            index -= 1
        if index == len(self.starts) or self.starts[index] >= end:
            return [(start, body)]  # no overlap: the common case
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
        """Records progress if enough bytes arrived since the last time. Returns whether it did."""
        if self.received_bytes - self.progress_bytes < MIN_PROGRESS_BYTES:
            return False
        self.progress_bytes, self.progressed_at = self.received_bytes, now
        return True


class ReassemblyBudget:
    """Memory for the incomplete messages of all links. One per node."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self.dropped = 0  # messages dropped, for lack of room or progress
        self._partials: OrderedDict[_PartialMessage, None] = OrderedDict()  # longest stalled first
        self._owners: dict[Reassembly, None] = {}  # links with incomplete messages
        self._sweeps_at = -math.inf

    def begin(self, partial: _PartialMessage) -> None:
        """Admits a new incomplete message."""
        self._partials[partial] = None
        self._owners[partial.owner] = None
        self.charge(partial, PIECE_OVERHEAD_BYTES)

    def on_progress(self, partial: _PartialMessage) -> None:
        """`partial` made progress: it becomes the last to be dropped."""
        self._partials.move_to_end(partial)

    def charge(self, partial: _PartialMessage, cost_bytes: int) -> None:
        """Charges `cost_bytes` to `partial`. Above the limit, drops messages of the largest consumer."""
        partial.cost_bytes += cost_bytes
        partial.owner.used_bytes += cost_bytes
        self.used_bytes += cost_bytes
        while self.used_bytes > self.limit_bytes:
            largest = max(self._owners, key=lambda each: each.used_bytes)
            self._drop(largest.stalest)

    def release(self, partial: _PartialMessage) -> None:
        """Releases the memory of `partial`, which is complete or dropped."""
        self.used_bytes -= partial.cost_bytes
        partial.owner.used_bytes -= partial.cost_bytes
        del self._partials[partial]
        if not partial.owner.has_partials:
            self._owners.pop(partial.owner, None)

    def advance(self, now: float) -> None:
        """Drops messages that stalled or ran out of time."""
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
    """Reassembles the fragmented messages of one peer; charges `budget`."""

    def __init__(self, max_message_bytes: int, budget: ReassemblyBudget) -> None:
        self._max_bytes = max_message_bytes + BYTES_PER_TOKEN
        # With the smallest fragments that an honest peer sends, a ninth of the memory is overhead.
        self._limit_bytes = self._max_bytes + self._max_bytes // 8
        self._budget = budget
        self._partials: OrderedDict[int, _PartialMessage] = OrderedDict()  # longest stalled first
        self._finished: OrderedDict[int, None] = OrderedDict()
        self.used_bytes = 0
        self.has_progressed = False  # whether the latest fragment made progress
        self.transfer_s = 0.0  # from the first fragment of the latest complete message to its last

    @property
    def stalest(self) -> _PartialMessage:
        """The incomplete message that stalled longest. There must be one."""
        return next(iter(self._partials.values()))

    def tokens_due(self, fragment: Fragment) -> int:
        """Returns the tokens that `fragment` costs: one per 64 KiB of a message, when they begin."""
        partial = self._partials.get(fragment.number)
        if partial is None:
            return 0 if fragment.number in self._finished else 1
        return int(partial.chargeable_bytes >= partial.charged_bytes)

    def has_partial(self, fragment: Fragment) -> bool:
        """Whether other fragments of the same message have arrived."""
        return fragment.number in self._partials

    def add_fragment(self, fragment: Fragment, now: float) -> bytes | None:
        """Stores `fragment`. Returns the message if it is now complete, else None.

        Raises Dropped: TOO_LARGE, CONTENT_CONFLICT, DUPLICATE, MALFORMED or, if the message itself was
        dropped for lack of room, REASSEMBLY_FULL.
        """
        number = fragment.number
        self.has_progressed = False
        if number in self._finished:
            raise Dropped(DropReason.DUPLICATE)
        partial = self._partials.get(number)
        if partial is None:
            if fragment.total_bytes > self._max_bytes:
                raise Dropped(DropReason.TOO_LARGE)
            partial = self._partials[number] = _PartialMessage(self, fragment, now)
            self._budget.begin(partial)
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
            self.transfer_s = now - partial.started_at
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
        """Drops everything: the link has ended."""
        for partial in list(self._partials.values()):
            self.finish(partial)

    def finish(self, partial: _PartialMessage) -> None:
        """Removes `partial`; later fragments of it are duplicates."""
        del self._partials[partial.number]
        self._budget.release(partial)
        self._finished[partial.number] = None
        if len(self._finished) > FINISHED_MESSAGES_LIMIT:
            self._finished.popitem(last=False)

    @property
    def has_partials(self) -> bool:
        """Whether any message is incomplete."""
        return bool(self._partials)

    def _new_pieces(self, partial: _PartialMessage, fragment: Fragment) -> list[tuple[int, bytes]]:
        try:
            return partial.new_pieces(fragment)
        except Dropped:
            self.finish(partial)
            raise

    def _assemble(self, partial: _PartialMessage) -> bytes:
        message = b"".join(partial.pieces)
        if (message[0] == Kind.REPAIR) != partial.is_repair or message[0] in FRAGMENT_KINDS:
            raise Dropped(DropReason.MALFORMED)
        return message
