"""The overlay of one node: its state machines, the tables they share, and one way in.

Invariants:

- A fact has one owner, which is created here once and given to its readers.
- The overlay never sees a byte. Messages, links and time go in; effects come out, in order.
- A bug in one component is an effect too (`InternalError`) and costs no other component its turn.

Effects are returned in order. Where a component has to see what the effects before its own have
changed, they are generated one by one: the caller performs each before it takes the next.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Final, assert_never

from grapevine_proto.coordinate import Coordinate
from grapevine_proto.errors import DropReason
from grapevine_proto.ids import Address, MessageId, PeerId
from grapevine_proto.overlay.broadcast.broadcast import Broadcast
from grapevine_proto.overlay.context import OverlayContext
from grapevine_proto.overlay.effects import Effect, InternalError
from grapevine_proto.overlay.membership.local_record import LocalRecord
from grapevine_proto.overlay.membership.membership import Membership
from grapevine_proto.overlay.query.queries import Queries
from grapevine_proto.overlay.state.keyed_state import KeyedState, SavedEntry
from grapevine_proto.overlay.state.state_sync import StateSync
from grapevine_proto.overlay.store.message_store import MessageStore, SavedStream
from grapevine_proto.overlay.sync.antientropy import AntiEntropy
from grapevine_proto.overlay.trace.trace import Tracing
from grapevine_proto.wire.messages import (
    Announce,
    AnnounceTopic,
    AnswerAck,
    AnswerFetch,
    Answers,
    CloseReason,
    Digest,
    GossipMessage,
    Graft,
    Heartbeat,
    IHave,
    InSync,
    Introduction,
    IWant,
    MemberDigest,
    MemberUpdates,
    ObservedAddress,
    Offer,
    Ping,
    PingAck,
    PingReq,
    Prune,
    ReceiptAck,
    Receipts,
    Records,
    Repair,
    Rumors,
    StateDelta,
    StateDigest,
    StateHeads,
    StateRequest,
    Subscribe,
    SwapRequest,
    Vector,
)
from grapevine_proto.wire.signed import PeerRecord, Rumor

ERROR_PAUSE_S: Final = 0.5  # before the components that met an error have another turn


class Overlay:
    """Decides among many members. The components are public for reading. Each is created after those that it
    uses, so none needs a callback into a later one."""

    def __init__(
        self,
        context: OverlayContext,
        local_record: LocalRecord,
        streams: tuple[SavedStream, ...],
        known_addresses: tuple[tuple[PeerId, Address], ...],
        now: float,
        entries: tuple[SavedEntry, ...] = (),
        *,
        is_state_lost: bool = False,
        coordinate: Coordinate | None = None,
    ) -> None:
        """`streams`, `known_addresses` and `entries`: what an earlier run kept, and
        `coordinate` where it was. `is_state_lost`: it may have kept more."""
        self._is_leaving = False
        self._retry_at = -math.inf  # not before: a component met an error
        self.work = context.work
        self.verifier = context.verifier
        self.peers = context.peers
        self.store = MessageStore(context, streams, now)
        self.tracing = Tracing(context)
        self.queries = Queries(context, local_record)
        self.state = KeyedState(context, entries, now, is_lost=is_state_lost)
        self.state_sync = StateSync(context, self.state)
        watchers = (self.tracing, self.queries, self.state)
        self.dissemination = Broadcast(context, self.store, watchers, now)
        self.membership = Membership(
            context, local_record, self.store, self.dissemination, now, coordinate
        )
        self.membership.dialer.remember(known_addresses, now)
        self.antientropy = AntiEntropy(context, self.store, self.dissemination, now)

    def reconfigure(self, now: float) -> Iterator[Effect]:
        """The settings in the context changed."""
        yield from self.dissemination.reconfigure(now)
        self.antientropy.reconfigure(now)
        yield from self.membership.reconfigure(now)

    # --- messages -------------------------------------------------------------------------------

    def handle(self, message: GossipMessage, sender: PeerId, now: float) -> Iterable[Effect]:
        """Gives a message to the components that it is for. `sender` is the peer whose session carried
        it."""
        match message:
            case (
                Rumors()
                | IHave()
                | Offer()
                | Announce()
                | AnnounceTopic()
                | Subscribe()
                | Graft()
                | Prune()
            ):
                return self.dissemination.handle(message, sender, now)
            case Heartbeat():
                return self._on_heartbeat(message, sender, now)
            case (
                Records()
                | Ping()
                | PingReq()
                | PingAck()
                | MemberUpdates()
                | MemberDigest()
                | ObservedAddress()
                | Introduction()
            ):
                return self.membership.handle(message, sender, now)
            case IWant():
                self.dissemination.on_requested(message)
                return self.antientropy.handle(message, sender, now)
            case Digest() | InSync() | Vector() | Repair():
                return self.antientropy.handle(message, sender, now)
            case Receipts() | ReceiptAck():
                return self.tracing.handle(message, sender, now)
            case Answers() | AnswerAck() | AnswerFetch():
                return self.queries.handle(message, sender, now)
            case StateDigest() | StateHeads() | StateRequest() | StateDelta():
                return self.state_sync.handle(message, sender, now)
            case _:
                assert_never(message)

    def _on_heartbeat(self, message: Heartbeat, sender: PeerId, now: float) -> Iterator[Effect]:
        yield from self.membership.handle(message, sender, now)
        yield from self.antientropy.handle(message, sender, now)

    def on_fragment(self, peer_id: PeerId, now: float) -> None:
        """A large message of a peer has come closer to completion."""
        self.antientropy.on_fragment(peer_id, now)
        self.dissemination.puller.on_fragment(peer_id, now)

    # --- links ----------------------------------------------------------------------------------

    def on_link_up(
        self,
        record: PeerRecord,
        source: Address,
        rtt_s: float | None,
        now: float,
        *,
        is_outbound: bool,
    ) -> Iterator[Effect]:
        """A link with the subject of `record` is up. `source`: the address that its session proved."""
        yield from self.membership.on_link_up(record, source, rtt_s, now, is_outbound=is_outbound)
        yield from self.dissemination.on_link_up(record.peer_id, now)
        self.state_sync.on_link_up(record.peer_id, now)

    def on_peer_restarted(self, peer_id: PeerId, now: float) -> list[Effect]:
        """The link with an earlier run of a peer is gone; `on_link_up` follows."""
        return self.antientropy.on_link_down(peer_id, now)

    def on_link_down(
        self,
        peer_id: PeerId,
        detail: str,
        reason: CloseReason | None,
        referrals: tuple[PeerRecord, ...] | None,
        now: float,
    ) -> Iterator[Effect]:
        """A link is down. `referrals`: as in the Close of the peer, None if the peer sent none."""
        yield from self._contained(lambda: self.antientropy.on_link_down(peer_id, now))
        yield from self._contained(
            lambda: self.membership.on_link_down(peer_id, detail, reason, now)
        )
        yield from self._contained(lambda: self.dissemination.on_link_down(peer_id, now))
        self.state_sync.on_link_down(peer_id)
        if referrals is not None:
            yield from self.membership.on_evicted(referrals, peer_id, now)

    def on_answering_changed(
        self, peer_id: PeerId, now: float, *, is_answering: bool, is_silent: bool
    ) -> list[Effect]:
        """A linked peer acknowledges nothing that this node sends, or does so again. `is_silent`: nothing is
        heard of it either."""
        effects = self.dissemination.on_answering_changed(peer_id, is_answering=is_answering)
        if is_silent:
            effects += self.membership.renew_path(peer_id, now)
        return effects

    @staticmethod
    def _contained(step: Callable[[], list[Effect]]) -> list[Effect]:
        """The effects of one component."""
        try:
            return step()
        except Exception as error:  # noqa: BLE001  the other components have their turn
            return [InternalError(error)]

    @property
    def has_room(self) -> bool:
        """Whether one more link fits."""
        return self.membership.evictor.has_room

    def make_room(
        self,
        newcomer: PeerRecord,
        source: Address,
        rtt_s: float | None,
        now: float,
        *,
        wants_room: bool,
        swap_request: SwapRequest | None,
        is_outbound: bool,
    ) -> list[Effect]:
        """Closes a link for a newcomer if the node is full and a rule allows it."""
        evictor = self.membership.evictor
        if swap_request is not None:
            return evictor.make_room_for_nearer(newcomer, swap_request, rtt_s, now, source=source)
        return evictor.make_room(
            newcomer, now, wants_room=wants_room, source=source, is_outbound=is_outbound
        )

    def swap_link(self, victim: PeerRecord, nearer: PeerRecord) -> list[Effect]:
        """`nearer` made room for this node: closes the link to `victim` for it."""
        return self.membership.evictor.swap_link(victim, nearer)

    # --- dials ----------------------------------------------------------------------------------

    def dial(self, address: Address, now: float) -> list[Effect]:
        """Dials an address because the application asks for it."""
        return self.membership.dialer.dial_now(address, now)

    def on_dial_answered(
        self, address: Address, expected: PeerId | None, record: PeerRecord, now: float
    ) -> None:
        """The subject of `record` completed the handshake of a dial."""
        self.membership.dialer.on_answered(address, expected, record.peer_id, now)

    def on_dial_rejected(
        self,
        record: PeerRecord,
        address: Address,
        reason: CloseReason,
        referrals: tuple[PeerRecord, ...],
        now: float,
    ) -> list[Effect]:
        """The dialed peer closed the session at once."""
        if reason is CloseReason.FULL:
            return self.membership.on_rejected(record, address, referrals, now)
        return self.membership.handle(Records(referrals), record.peer_id, now)

    def on_dial_failed(
        self, address: Address, expected: PeerId | None, reason: DropReason | str | None, now: float
    ) -> list[Effect]:
        """No session came of a dial. `reason`: see `transport.events.DialFailed`."""
        return self.membership.on_dial_failed(address, expected, reason, now)

    def on_probe_done(
        self, address: Address, expected: PeerId | None, rtt_s: float | None, now: float
    ) -> None:
        """A dial that looked for a nearer peer ended without a session."""
        self.membership.dialer.probe_done(address, expected, rtt_s, now)

    # --- messages of this node ------------------------------------------------------------------

    def broadcast(self, rumor: Rumor, now: float) -> list[Effect]:
        """Spreads a rumor of this node."""
        return self.dissemination.broadcast(rumor, now)

    def start_trace(self, message_id: MessageId, now: float) -> int:
        """Traces a message; returns the share of members that confirm it, for the rumor."""
        return self.tracing.start_trace(message_id, now)

    def leave(self) -> Records:
        """Stops maintaining links; returns the farewell for every linked peer."""
        self._is_leaving = True
        return self.membership.leave()

    def start_epoch(self, epoch: int, now: float) -> None:
        """Signs the record of this node under a new epoch."""
        self.membership.start_epoch(epoch, now)

    # --- what the transport reads ---------------------------------------------------------------

    @property
    def record(self) -> PeerRecord:
        """The signed record of this node."""
        return self.membership.record

    @property
    def has_unclaimed(self) -> bool:
        """Whether a rumor of this node was announced and no peer has requested it yet."""
        return self.dissemination.has_unclaimed

    def record_of(self, peer_id: PeerId) -> PeerRecord | None:
        """The latest record of a member."""
        member = self.membership.members.get(peer_id)
        return None if member is None else member.record

    def addresses_of(self, peer_id: PeerId) -> tuple[Address, ...]:
        """Where to dial a member, all at once."""
        member = self.membership.members.get(peer_id)
        return () if member is None else self.membership.dialer.addresses_of(member)

    def introducers_of(self, peer_id: PeerId) -> tuple[PeerId, ...]:
        """Who is asked to introduce this node to a member behind a NAT; empty if it is behind none."""
        member = self.membership.members.get(peer_id)
        return () if member is None else self.membership.dialer.introducers_of(member)

    def referrals(self, peer_id: PeerId) -> tuple[PeerRecord, ...]:
        """Peers that `peer_id` may try because this node has no room."""
        return self.membership.evictor.referrals(peer_id)

    # --- time -----------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        """When to call `advance` next; math.inf: never."""
        deadline = min(
            self.membership.deadline,
            self.dissemination.deadline,
            self.antientropy.deadline,
            self.tracing.deadline,
            self.queries.deadline,
            self.state.deadline,
            self.state_sync.deadline,
        )
        return max(deadline, self._retry_at)

    def advance(self, now: float) -> Iterator[Effect]:
        """Time passed. A component that met an error has its next turn after `ERROR_PAUSE_S`, for its
        deadline may be what it was."""
        if now < self._retry_at:
            return
        components = (
            self.membership,
            self.dissemination,
            self.antientropy,
            self.tracing,
            self.queries,
            self.state,
            self.state_sync,
        )
        for component in components:
            if component is self.membership and self._is_leaving:
                continue
            try:
                effects = component.advance(now)
            except Exception as error:  # noqa: BLE001
                self._retry_at = now + ERROR_PAUSE_S
                yield InternalError(error)
            else:
                yield from effects
