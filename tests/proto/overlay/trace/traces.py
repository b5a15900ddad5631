"""Shared by the trace tests: a node that traces messages, traced rumors, and receipts."""

from __future__ import annotations

from dataclasses import dataclass, field

from grapevine_proto.config.sections import RateLimitConfig
from grapevine_proto.errors import DropReason
from grapevine_proto.events import PeerState, Trace, TraceUpdated
from grapevine_proto.ids import MessageId, PeerId
from grapevine_proto.overlay.effects import CountDrop, Effect, Emit, Send
from grapevine_proto.overlay.members import MemberTable
from grapevine_proto.overlay.peers import PeerTable, PeerTrigger
from grapevine_proto.overlay.reverse_paths import ReversePaths
from grapevine_proto.overlay.trace.trace import Tracing
from grapevine_proto.wire.attributes import TRACE_ALL, rumor_attributes
from grapevine_proto.wire.messages import ReceiptAck, Receipts, RumorCopy
from grapevine_proto.wire.signed import Rumor, TraceReceipt
from tests.proto.overlay import timeline
from tests.proto.overlay.builders import EPOCH, context, identity, peer_id, record

OUR_NUMBER = 500
ORIGIN = 90
FAR = 40  # a member without a link to this node


def message_id(sequence: int = 1, origin: int = ORIGIN) -> MessageId:
    return MessageId(peer_id(origin), EPOCH, sequence)


def traced(sequence: int = 1, origin: int = ORIGIN, share: int = TRACE_ALL) -> RumorCopy:
    rumor = Rumor(
        peer_id(origin), EPOCH, sequence, (1,), b"x", bytes(64), rumor_attributes(trace_share=share)
    )
    return RumorCopy(rumor, 2, 70)


def receipt(
    member: int, traced_id: MessageId, *, hops: int = 3, delay_ms: int = 40
) -> TraceReceipt:
    """A receipt as `member` signs it."""
    return TraceReceipt(peer_id(member), hops, delay_ms).signed(
        identity(member), "default", traced_id
    )


@dataclass
class Node:
    """A node linked to peers 1 to `links`, with an RTT of 50 ms, that knows `members` members."""

    links: int = 4
    members: int = 0
    is_limited: bool = True
    peers: PeerTable = field(init=False)
    table: MemberTable = field(init=False)
    tracing: Tracing = field(init=False)

    def __post_init__(self) -> None:
        limit = RateLimitConfig(enabled=self.is_limited)
        node = context(OUR_NUMBER, rate_limit=limit)
        self.peers, self.table = node.peers, node.members
        self.tracing = Tracing(node)
        for number in range(1, self.links + 1):
            self.link(number)
        for number in range(1, self.members + 1):
            self.table.ensure(record(number), 0.0)

    def link(self, number: int) -> None:
        timeline.link(self.peers, number)

    def unlink(self, number: int) -> None:
        peer = self.peers.get(peer_id(number))
        assert peer is not None
        assert peer.state is PeerState.CONNECTED
        self.peers.transition(peer, PeerTrigger.LOST)

    def receive(
        self,
        sender: int,
        traced_id: MessageId,
        *receipts: TraceReceipt,
        at: float = 0.0,
        number: int = 7,
    ) -> list[Effect]:
        return self.tracing.handle(Receipts(number, traced_id, receipts), peer_id(sender), at)

    @property
    def paths(self) -> ReversePaths[TraceReceipt]:
        return self.tracing.reverse_paths

    def advance(self) -> tuple[float, list[Effect]]:
        """Advance to the next deadline; the time and the effects."""
        return timeline.advance(self.tracing)

    def sent(self, until: float = 60.0) -> list[tuple[float, PeerId, Receipts]]:
        """All Receipts messages sent until `until`."""
        return timeline.sent(self.tracing, Receipts, until)

    def report(self, traced_id: MessageId) -> Trace:
        return next(each for each in self.tracing.reports() if each.id == traced_id)


def traces_in(effects: list[Effect]) -> list[Trace]:
    return [
        effect.event.trace
        for effect in effects
        if isinstance(effect, Emit) and isinstance(effect.event, TraceUpdated)
    ]


ACKED = Send((peer_id(1),), ReceiptAck(7))
FORGED = [CountDrop(peer_id(1), DropReason.BAD_SIGNATURE)]
