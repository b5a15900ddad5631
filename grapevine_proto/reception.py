"""From a datagram to the link that hears it: which session it is of, and what a new session becomes.

What must stay true:

- `receive` raises Refused and nothing else, and a refusal that is a reason to end a dial ends it.
- A session is live when a packet of the other end has opened on it. Then it takes over a link, begins
  one where there is room, or only hears where else to go.
- While this node leaves, nobody comes in.
"""

from __future__ import annotations

from typing import Final, assert_never

from grapevine_proto.errors import Dropped, DropReason, Offense
from grapevine_proto.ids import Address
from grapevine_proto.overlay.effects import Effect
from grapevine_proto.overlay.overlay import Overlay
from grapevine_proto.routing import MessageDispatcher
from grapevine_proto.transport.handshakes import Handshakes
from grapevine_proto.transport.link.link import Link
from grapevine_proto.transport.link_table import LinkTable
from grapevine_proto.transport.peer_limits import RATE_LIMITED_MESSAGE_WORK
from grapevine_proto.transport.session.session import EstablishedSession
from grapevine_proto.transport.transient_sessions import TransientSessions
from grapevine_proto.wire import codec
from grapevine_proto.wire.messages import (
    Close,
    CloseReason,
    DirectMessage,
    Kind,
    Records,
    Rumors,
    SwapRequest,
)

PROTOCOL_VIOLATIONS: Final = (DropReason.MALFORMED, DropReason.CONTENT_CONFLICT)
"""Refusals of opened packets that no honest node causes."""


class PacketReceiver:
    """Where all datagrams come in. Driven by `receive`."""

    def __init__(
        self,
        links: LinkTable,
        transients: TransientSessions,
        handshakes: Handshakes,
        overlay: Overlay,
        dispatcher: MessageDispatcher,
    ) -> None:
        self._links = links
        self._transients = transients
        self._handshakes = handshakes
        self._overlay = overlay
        self._dispatcher = dispatcher

    def receive(self, datagram: bytes, source: Address, now: float) -> None:
        """Take in one datagram. Raises Refused."""
        packet = codec.decode_packet(datagram)
        match packet:
            case codec.Data():
                self._on_data(packet, source, now)
            case codec.Hello() | codec.Proof():
                self._on_initial(packet, datagram, source, now)
            case codec.Challenge() | codec.Welcome():
                self._on_response(packet, datagram, source, now)
            case _:
                assert_never(packet)

    # --- handshakes -----------------------------------------------------------------------------

    def _on_initial(
        self, packet: codec.Hello | codec.Proof, datagram: bytes, source: Address, now: float
    ) -> None:
        if self._links.is_leaving:  # who came in now would be left without a word
            raise Dropped(DropReason.UNEXPECTED)
        record, exempt = (
            self._overlay.membership.record,
            self._links.find_by_address(source) is not None,
        )
        try:
            reply = self._handshakes.on_initial(
                packet, datagram, source, record, now, exempt=exempt
            )
        except Dropped as refused:
            if refused.reason is DropReason.SELF_DIAL and isinstance(packet, codec.Proof):
                self._dispatcher.end_dial(packet.hello.session_id, refused.reason, now)
            raise
        self._links.enqueue_raw([(reply, source)])

    def _on_response(
        self, packet: codec.Challenge | codec.Welcome, datagram: bytes, source: Address, now: float
    ) -> None:
        try:
            dial = self._handshakes.on_response(packet, datagram, source, now)
        except Dropped as refused:
            if refused.reason in (DropReason.SELF_DIAL, DropReason.WRONG_PEER):
                self._dispatcher.end_dial(packet.session_id, refused.reason, now)
            raise
        if dial.is_rtt_too_high:
            self._dispatcher.end_dial(packet.session_id, None, now)

    # --- data -----------------------------------------------------------------------------------

    def _on_data(self, packet: codec.Data, source: Address, now: float) -> None:
        link = self._links.find_by_session(packet.session_id)
        if link is not None:
            self._links.mark_dirty(link)
            try:
                self._on_link_data(link, packet, source, now)
            except Dropped as refused:
                self._penalize_refusal(link, refused.reason, now)
                raise
            return
        initiated = self._handshakes.confirm_initiated(packet, source, now)
        if initiated is not None:
            dial, established = initiated
            if dial.is_transient:
                if established.plaintext[0] == Kind.CLOSE:
                    self._dispatcher.on_transient_failed(established.record.peer_id)
                else:
                    self._open_transient(established, now)
                return
            self._overlay.membership.dialer.on_answered(
                dial.address, dial.expected, established.record.peer_id, now
            )
            if not self._was_rejected(established, now):
                if dial.swap_for is not None:
                    self._dispatcher.apply_effects(
                        self._overlay.membership.evictor.swap_link(
                            dial.swap_for, established.record
                        ),
                        now,
                    )
                self.establish(established, now, wants_room=dial.wants_room)
            self._dispatcher.on_dial_ended(established.record.peer_id, now)
            return
        closed = self._links.on_closed_packet(packet, now)
        if closed is not None:
            link, message = closed
            if isinstance(message, (Rumors, DirectMessage)):
                self._dispatcher.dispatch(message, link, now)
            return
        accepted = self._handshakes.confirm_accepted(packet, source, now)
        if accepted is None:
            raise Dropped(DropReason.UNKNOWN_SESSION)
        if accepted.plaintext[0] == Kind.OPEN_TRANSIENT:
            self._open_transient(accepted, now)
        else:
            self.establish(accepted, now, wants_room=accepted.plaintext[0] == Kind.NEIGHBOR_REQUEST)

    def _on_link_data(self, link: Link, packet: codec.Data, source: Address, now: float) -> None:
        plaintext = self._links.open(link, packet, now, source)
        if self._links.is_link(link):
            self._dispatcher.on_packet(link, plaintext, now)
        else:
            self._dispatcher.on_transient_packet(link, plaintext, now)

    def _penalize_refusal(self, link: Link, reason: DropReason, now: float) -> None:
        """Something of `link` was refused. Only what its session proved is its peer's doing: anybody on
        the way can repeat a packet or change bits of one."""
        if reason in PROTOCOL_VIOLATIONS:
            self._dispatcher.penalize(link.peer_id, Offense.PROTOCOL_VIOLATION, 1, now)
        elif reason is DropReason.RATE_LIMITED:
            self._dispatcher.charge_work(link.peer_id, RATE_LIMITED_MESSAGE_WORK, now)

    def _was_rejected(self, established: EstablishedSession, now: float) -> bool:
        """Whether the first that a dialled peer said is that it has no room for us."""
        if established.plaintext[0] != Kind.CLOSE:
            return False
        message = codec.decode_message(established.plaintext)
        record, address = established.record, established.address
        membership = self._overlay.membership
        if isinstance(message, Close):
            if message.reason is CloseReason.FULL:
                effects = membership.on_rejected(record, address, message.records, now)
            else:
                effects = membership.handle(Records(message.records), record.peer_id, now)
            self._dispatcher.apply_effects(effects, now)
        return True

    # --- sessions become links ------------------------------------------------------------------

    def establish(self, established: EstablishedSession, now: float, *, wants_room: bool) -> None:
        """A session is live: it takes over a link, begins one, or only hears where else to go.
        `wants_room`: whoever dialled asked for room to be made."""
        record = established.record
        if self._is_admission_closed(established, now):
            return
        link = self._links.get(record.peer_id)
        if link is None:
            membership = self._overlay.membership
            self._dispatcher.apply_effects(
                self._make_room(established, now, wants_room=wants_room), now
            )
            if not membership.evictor.has_room:
                self._reject_with_referrals(established, now)
                return
            link = self._add_link(established, now)
        elif record.epoch > link.epoch:
            self._links.supersede(link, established, now)
            effects = self._overlay.antientropy.on_link_down(link.peer_id, now)
            self._dispatcher.apply_effects(effects, now)
            link = self._add_link(established, now)
        elif record.epoch < link.epoch:
            self._dispatcher.drops[DropReason.STALE_EPOCH] += 1
            superseded = Close(CloseReason.SUPERSEDED, (link.record,))
            self._links.reject(established, superseded, now)
            return
        else:
            self._links.add_session(link, established, now)
        self._links.mark_dirty(link)
        session = established.session
        counter = session.ack_tracker.highest
        plaintext = link.handle_payload(established.plaintext, session, counter, now)
        self._dispatcher.on_packet(link, plaintext, now)

    def _make_room(
        self, established: EstablishedSession, now: float, *, wants_room: bool
    ) -> list[Effect]:
        """Have a link let go for this one, where that is due."""
        membership, record = self._overlay.membership, established.record
        if established.plaintext[0] == Kind.SWAP_REQUEST:
            swap_request = codec.decode_message(established.plaintext)
            if isinstance(swap_request, SwapRequest):
                return membership.evictor.make_room_for_nearer(
                    record, swap_request, established.rtt_s, now, source=established.address
                )
        return membership.evictor.make_room(
            record,
            now,
            wants_room=wants_room,
            source=established.address,
            is_outbound=established.session.is_initiator,
        )

    def _is_admission_closed(self, established: EstablishedSession, now: float) -> bool:
        """Whether nobody may come in any more. Raises Refused: DENIED, MISCONDUCT."""
        peer_id = established.record.peer_id
        if peer_id in self._dispatcher.config.denied:
            raise Dropped(DropReason.DENIED)
        if self._links.peer_limits.is_expelled(peer_id, now):
            raise Dropped(DropReason.MISCONDUCT)
        if self._links.is_leaving:
            self._links.reject(established, Close(CloseReason.LEAVING), now)
        return self._links.is_leaving

    def _reject_with_referrals(self, established: EstablishedSession, now: float) -> None:
        """There is no room: say who may have some."""
        referrals = self._overlay.membership.evictor.referrals(established.record.peer_id)
        self._links.reject(established, Close(CloseReason.FULL, referrals), now)

    def _open_transient(self, established: EstablishedSession, now: float) -> None:
        """A session is live that shall be short, whoever wanted it. It changes nothing about a link
        with the same peer; but a run of the peer that is over gets no more of them."""
        if self._is_admission_closed(established, now):
            return
        record = established.record
        member = self._overlay.membership.members.get(record.peer_id)
        if member is not None and record.epoch < member.record.epoch:
            self._dispatcher.drops[DropReason.STALE_EPOCH] += 1
            self._links.reject(established, Close(CloseReason.SUPERSEDED, (member.record,)), now)
            return
        if not self._transients.make_room(record.peer_id, now):
            self._reject_with_referrals(established, now)
            return
        link = self._transients.add(established, now)
        self._links.mark_dirty(link)
        self._dispatcher.on_transient_open(link, now)
        session = established.session
        counter = session.ack_tracker.highest
        plaintext = link.handle_payload(established.plaintext, session, counter, now)
        self._dispatcher.on_transient_packet(link, plaintext, now)

    def _add_link(self, established: EstablishedSession, now: float) -> Link:
        record, overlay, apply_effects = (
            established.record,
            self._overlay,
            self._dispatcher.apply_effects,
        )
        link = self._links.add(established, now)
        self._dispatcher.state_version += 1
        rtt_s = established.rtt_s
        is_initiator = established.session.is_initiator
        apply_effects(
            overlay.membership.on_link_up(
                record, link.address, rtt_s, now, is_outbound=is_initiator
            ),
            now,
        )
        apply_effects(overlay.dissemination.on_link_up(link.peer_id, now), now)
        self._dispatcher.on_transient_open(
            link, now
        )  # what waited for a short session goes here now
        return link
