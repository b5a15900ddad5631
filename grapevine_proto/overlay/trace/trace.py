"""Tracing: which members received a broadcast of ours, after what delay and over how many hops.

    origin -> Rumor(trace_share) ...     spreads like any rumor
    member -> Receipts -> ... -> origin  from each sampled member, along `reverse_paths`
    receiver -> ReceiptAck

Invariants:

- A receipt is signed by its member, or sent by the member itself over its session with the origin.
  A peer that sends any other is charged for it.
- The first receipt of each member counts, and only if it is sampled.
- At most `TRACES_LIMIT` messages are traced, with at most `UNKNOWN_MEMBERS_LIMIT` receipts of
  unknown members each, and at most ten events a second.
- Tracing never delays or influences the broadcast itself.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from grapevine_proto.errors import DropReason
from grapevine_proto.events import MemberStatus, Trace, TraceAnswer, TraceUpdated
from grapevine_proto.ids import MessageId, PeerId
from grapevine_proto.overlay.context import OverlayContext
from grapevine_proto.overlay.effects import CountDrop, Effect, Emit, Send
from grapevine_proto.overlay.reverse_paths import (
    ANSWER_SPREAD_S,
    PathLimits,
    ReversePaths,
    message_id_of,
)
from grapevine_proto.overlay.sample import MemberSample, sample_share
from grapevine_proto.wire.messages import IHave, Offer, ReceiptAck, Receipts, RumorCopy
from grapevine_proto.wire.signed import RECEIPT_BYTES, Rumor, TraceReceipt

TRACE_EVENT_INTERVAL_S: Final = 0.100  # between two events about one trace
TRACES_LIMIT: Final = 16  # the oldest is evicted first
UNKNOWN_MEMBERS_LIMIT: Final = 256  # receipts per trace from members not in our table

RECEIPTS_PER_DATAGRAM: Final = 10  # signed receipts that fit
RECEIPTS_PER_ROUTE_LIMIT: Final = 1024  # 100 bytes each
RECEIPTS_PER_PEER_LIMIT: Final = 192  # of those; a sample of 100 hardly ever has 150 members
UNACKED_BATCHES_LIMIT: Final = 256  # the oldest is abandoned first
SECOND_PATH_AFTER_S: Final = 1.0  # by then nearly all receipts have arrived


class _ActiveTrace:
    """A traced message of ours and its receipts."""

    __slots__ = (
        "answers",
        "emit_at",
        "emitted_at",
        "members_count",
        "message_id",
        "sample",
        "sent_at",
        "unknown_members",
    )

    def __init__(
        self, message_id: MessageId, sample: MemberSample, members: list[PeerId], now: float
    ) -> None:
        self.message_id = message_id
        self.sample = sample
        self.sent_at = now
        self.members_count = len(members)
        self.answers: dict[PeerId, TraceAnswer | None] = dict.fromkeys(
            member for member in members if member in sample
        )
        self.unknown_members: set[PeerId] = set()
        self.emit_at = now
        self.emitted_at = -math.inf

    def to_trace(self) -> Trace:
        answers = [answer for answer in self.answers.values() if answer is not None]
        return Trace(
            self.message_id,
            self.sent_at,
            self.members_count,
            tuple(sorted(answers, key=lambda each: (each.bound_ms, each.peer_id))),
            tuple(member for member, answer in self.answers.items() if answer is None),
            len(self.unknown_members),
        )


class Tracing:
    """The state machine of tracing, driven by `start_trace`, receipts and its deadline. Broadcast
    reports rumors to it, see `RumorWatcher`.
    """

    def __init__(self, context: OverlayContext) -> None:
        self._cluster = context.config.current.cluster
        self._our_id = context.our_id
        self._members = context.members
        self._verifier = context.verifier
        self._rng = context.rng
        self._traces: OrderedDict[MessageId, _ActiveTrace] = OrderedDict()
        self._emit_at = math.inf  # the earliest of all traces
        self._refused = 0
        limits = PathLimits(
            items_per_message=RECEIPTS_PER_DATAGRAM,
            bytes_per_message=RECEIPTS_PER_DATAGRAM * RECEIPT_BYTES,
            items_per_route=RECEIPTS_PER_ROUTE_LIMIT,
            bytes_per_route=RECEIPTS_PER_ROUTE_LIMIT * RECEIPT_BYTES,
            bytes_held=UNACKED_BATCHES_LIMIT * RECEIPTS_PER_ROUTE_LIMIT * RECEIPT_BYTES,
            items_per_peer=RECEIPTS_PER_PEER_LIMIT,
            unacked_batches=UNACKED_BATCHES_LIMIT,
            second_path_after_s=SECOND_PATH_AFTER_S,
        )
        self.reverse_paths: ReversePaths[TraceReceipt] = ReversePaths(context, limits, Receipts)
        self.evicted = 0  # traces evicted by later ones

    @property
    def refused(self) -> int:
        """Receipts and routes refused for lack of room or reason."""
        return self._refused + self.reverse_paths.refused

    # --- own traces -----------------------------------------------------------------------------

    def start_trace(self, message_id: MessageId, now: float) -> int:
        """Start to trace a message that is about to be published; returns the share of members to
        sample.
        """
        inactive = (MemberStatus.DOWN, MemberStatus.LEFT)
        member_ids = [each.record.peer_id for each in self._members if each.status not in inactive]
        share = sample_share(len(member_ids))
        sample = MemberSample(self._cluster, message_id, share)
        self._traces[message_id] = _ActiveTrace(message_id, sample, member_ids, now)
        if len(self._traces) > TRACES_LIMIT:
            self._traces.popitem(last=False)
            self.evicted += 1
        self._emit_at = min(self._emit_at, now)
        return share

    def reports(self) -> list[Trace]:
        """Our traces, oldest first."""
        return [trace.to_trace() for trace in self._traces.values()]

    def _on_answer(
        self, trace: _ActiveTrace, receipt: TraceReceipt, sender: PeerId, now: float
    ) -> bool:
        """Record a receipt for a trace of ours; False if its signature is forged."""
        member = receipt.member
        if member not in trace.sample:
            self._refused += 1
            return True
        if trace.answers.get(member) is not None or member in trace.unknown_members:
            return True
        if member not in trace.answers and len(trace.unknown_members) >= UNKNOWN_MEMBERS_LIMIT:
            self._refused += 1
            return True
        if receipt.signature and not self._verifier.try_charge_check(sender, now):
            self._refused += 1
            return True
        if receipt.signature and not receipt.is_authentic(self._cluster, trace.message_id):
            return False
        if member in trace.answers:
            confirmed_ms = round((now - trace.sent_at) * 1000)
            answer = TraceAnswer(member, receipt.hops, receipt.delay_ms, confirmed_ms)
            trace.answers[member] = answer
        else:
            trace.unknown_members.add(member)
        is_complete = None not in trace.answers.values()
        trace.emit_at = min(
            trace.emit_at,
            now if is_complete else max(now, trace.emitted_at + TRACE_EVENT_INTERVAL_S),
        )
        self._emit_at = min(self._emit_at, trace.emit_at)
        return True

    # --- rumors of others -----------------------------------------------------------------------

    def on_rumor(self, copy: RumorCopy, holders: Iterable[PeerId], now: float) -> list[Effect]:
        """Opens a route for a traced rumor that is new here, and confirms it if this node is asked to."""
        rumor = copy.rumor
        trace_share = rumor.known_attributes.trace_share
        if not trace_share or rumor.origin == self._our_id:
            return []
        message_id = message_id_of(rumor)
        sample = MemberSample(self._cluster, message_id, trace_share)
        if self.reverse_paths.open(message_id, sample, holders, now) and self._our_id in sample:
            receipt = TraceReceipt(self._our_id, copy.hops, copy.age_ms)
            at = now + ANSWER_SPREAD_S * self._rng.random()
            self.reverse_paths.submit(message_id, receipt, at)
        return []

    def on_duplicate(self, rumor: Rumor, sender: PeerId) -> None:
        """`sender` has `rumor` too and thus a path to its origin."""
        if rumor.known_attributes.trace_share:
            self.reverse_paths.on_duplicate(message_id_of(rumor), sender)

    def on_conflict(self, rumor: Rumor) -> None:
        """Nothing to do: the first content counts."""

    def on_ids(self, ids: IHave | Offer, sender: PeerId) -> None:
        """`sender` has these rumors."""
        self.reverse_paths.on_ids(ids, sender)

    # --- receipts -------------------------------------------------------------------------------

    def handle(self, message: Receipts | ReceiptAck, sender: PeerId, now: float) -> list[Effect]:
        if isinstance(message, ReceiptAck):
            self.reverse_paths.on_ack(message.number, sender, now)
            return []
        for receipt in message.receipts:
            if not self._on_receipt(message.message_id, receipt, sender, now):
                return [CountDrop(sender, DropReason.BAD_SIGNATURE)]
        return [Send((sender,), ReceiptAck(message.number))]

    def _on_receipt(
        self, message_id: MessageId, receipt: TraceReceipt, sender: PeerId, now: float
    ) -> bool:
        """Record or forward a receipt; False if `sender` cannot have it from its member."""
        is_firsthand = not receipt.signature
        if is_firsthand and (receipt.member != sender or message_id.origin != self._our_id):
            return False
        trace = self._traces.get(message_id)
        if trace is not None:
            return self._on_answer(trace, receipt, sender, now)
        return self.reverse_paths.relay(message_id, receipt, sender, now)

    # --- time -----------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        return min(self._emit_at, self.reverse_paths.deadline)

    def advance(self, now: float) -> list[Effect]:
        if now < self.deadline:
            return []
        effects: list[Effect] = []
        for trace in self._traces.values():
            if trace.emit_at <= now:
                trace.emit_at, trace.emitted_at = math.inf, now
                effects.append(Emit(TraceUpdated(trace.to_trace())))
        self._emit_at = min((trace.emit_at for trace in self._traces.values()), default=math.inf)
        return effects + self.reverse_paths.advance(now)
