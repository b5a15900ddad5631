"""From a datagram to the link that hears it: which session it is of, and what a new session becomes.

What must stay true:

- `receive` raises Refused and nothing else, and a refusal that is a reason to end a dial ends it.
- A session is live when a packet of the other end has opened on it. Then it takes over a link, begins
  one where there is room, or only hears where else to go.
- While this node leaves, nobody comes in.
"""

from __future__ import annotations

from typing import Final, assert_never

from grapevine_proto import codec
from grapevine_proto.accounts import REFUSED_WORK
from grapevine_proto.errors import DropReason, Offense, Refused
from grapevine_proto.handshakes import Handshakes
from grapevine_proto.ids import Address
from grapevine_proto.link.link import Link
from grapevine_proto.link.session import Established
from grapevine_proto.links import Links
from grapevine_proto.machines import Machines
from grapevine_proto.messages import Close, CloseReason, Kind, Near, Private, Records, Rumors
from grapevine_proto.overlay.effects import Effect
from grapevine_proto.routing import Routing
from grapevine_proto.shorts import Shorts

VIOLATIONS: Final = (DropReason.MALFORMED, DropReason.CONFLICT)
"""Refusals of opened packets that no honest node causes."""


class Reception:
    """Where all datagrams come in. Driven by `receive`."""

    def __init__(
        self,
        links: Links,
        shorts: Shorts,
        handshakes: Handshakes,
        machines: Machines,
        routing: Routing,
    ) -> None:
        self._links = links
        self._shorts = shorts
        self._handshakes = handshakes
        self._machines = machines
        self._routing = routing

    def receive(self, datagram: bytes, source: Address, now: float) -> None:
        """Take in one datagram. Raises Refused."""
        packet = codec.decode_packet(datagram)
        match packet:
            case codec.Data():
                self._receive_data(packet, source, now)
            case codec.Hello() | codec.Proof():
                self._receive_stranger(packet, datagram, source, now)
            case codec.Challenge() | codec.Welcome():
                self._receive_answer(packet, datagram, source, now)
            case _:
                assert_never(packet)

    # --- handshakes -----------------------------------------------------------------------------

    def _receive_stranger(
        self, packet: codec.Hello | codec.Proof, datagram: bytes, source: Address, now: float
    ) -> None:
        if self._links.is_leaving:  # who came in now would be left without a word
            raise Refused(DropReason.UNEXPECTED)
        record, exempt = self._machines.membership.record, self._links.at(source) is not None
        try:
            reply = self._handshakes.welcome(packet, datagram, source, record, now, exempt=exempt)
        except Refused as refused:
            if refused.reason is DropReason.MYSELF and isinstance(packet, codec.Proof):
                self._routing.end_dial(packet.hello.session_id, refused.reason, now)
            raise
        self._links.post([(reply, source)])

    def _receive_answer(
        self, packet: codec.Challenge | codec.Welcome, datagram: bytes, source: Address, now: float
    ) -> None:
        try:
            dial = self._handshakes.answer(packet, datagram, source, now)
        except Refused as refused:
            if refused.reason in (DropReason.MYSELF, DropReason.WRONG_PEER):
                self._routing.end_dial(packet.session_id, refused.reason, now)
            raise
        if dial.is_too_far:
            self._routing.end_dial(packet.session_id, None, now)

    # --- data -----------------------------------------------------------------------------------

    def _receive_data(self, packet: codec.Data, source: Address, now: float) -> None:
        link = self._links.with_session(packet.session_id)
        if link is not None:
            self._links.touch(link)
            try:
                self._hear(link, packet, source, now)
            except Refused as refused:
                self._hold_against(link, refused.reason, now)
                raise
            return
        ours = self._handshakes.confirm_ours(packet, source, now)
        if ours is not None:
            dial, established = ours
            if dial.is_short:
                if established.plaintext[0] == Kind.CLOSE:
                    self._routing.gave_up_briefly(established.record.peer_id)
                else:
                    self._open_short(established, now)
                return
            self._machines.membership.dialling.answered(
                dial.address, dial.expected, established.record.peer_id, now
            )
            if not self._was_turned_away(established, now):
                if dial.instead is not None:
                    self._routing.perform(
                        self._machines.membership.room.swap(dial.instead, established.record), now
                    )
                self.establish(established, now, is_asked=dial.is_asking)
            self._routing.no_link_came(established.record.peer_id, now)
            return
        parted = self._links.hear_parting(packet, now)
        if parted is not None:
            link, message = parted
            if isinstance(message, (Rumors, Private)):
                self._routing.route(message, link, now)
            return
        confirmed = self._handshakes.confirm_theirs(packet, source, now)
        if confirmed is None:
            raise Refused(DropReason.UNKNOWN_SESSION)
        if confirmed.plaintext[0] == Kind.SHORT:
            self._open_short(confirmed, now)
        else:
            self.establish(confirmed, now, is_asked=confirmed.plaintext[0] == Kind.ASK)

    def _hear(self, link: Link, packet: codec.Data, source: Address, now: float) -> None:
        plaintext = self._links.open(link, packet, now, source)
        if self._links.is_link(link):
            self._routing.hear(link, plaintext, now)
        else:
            self._routing.hear_briefly(link, plaintext, now)

    def _hold_against(self, link: Link, reason: DropReason, now: float) -> None:
        """Something of `link` was refused. Only what its session proved is its peer's doing: anybody on
        the way can repeat a packet or change bits of one."""
        if reason in VIOLATIONS:
            self._routing.penalize(link.peer_id, Offense.PROTOCOL_VIOLATION, 1, now)
        elif reason is DropReason.RATE_LIMITED:
            self._routing.charge_work(link.peer_id, REFUSED_WORK, now)

    def _was_turned_away(self, established: Established, now: float) -> bool:
        """Whether the first that a dialled peer said is that it has no room for us."""
        if established.plaintext[0] != Kind.CLOSE:
            return False
        message = codec.decode_message(established.plaintext)
        record, address = established.record, established.address
        membership = self._machines.membership
        if isinstance(message, Close):
            if message.reason is CloseReason.FULL:
                effects = membership.turned_away(record, address, message.records, now)
            else:
                effects = membership.handle(Records(message.records), record.peer_id, now)
            self._routing.perform(effects, now)
        return True

    # --- sessions become links ------------------------------------------------------------------

    def establish(self, established: Established, now: float, *, is_asked: bool) -> None:
        """A session is live: it takes over a link, begins one, or only hears where else to go.
        `is_asked`: whoever dialled asked for room to be made."""
        record = established.record
        if self._is_closed_to(established, now):
            return
        link = self._links.get(record.peer_id)
        if link is None:
            membership = self._machines.membership
            self._routing.perform(self._make_room(established, now, is_asked=is_asked), now)
            if not membership.room.is_left:
                self._refer(established, now)
                return
            link = self._link(established, now)
        elif record.epoch > link.epoch:
            self._links.supersede(link, established, now)
            effects = self._machines.antientropy.unlinked(link.peer_id, now)
            self._routing.perform(effects, now)
            link = self._link(established, now)
        elif record.epoch < link.epoch:
            self._routing.drops[DropReason.OLD_EPOCH] += 1
            outranked = Close(CloseReason.OUTRANKED, (link.record,))
            self._links.turn_away(established, outranked, now)
            return
        else:
            self._links.renew(link, established, now)
        self._links.touch(link)
        session = established.session
        counter = session.arrivals.highest
        plaintext = link.take_in(established.plaintext, session, counter, now)
        self._routing.hear(link, plaintext, now)

    def _make_room(self, established: Established, now: float, *, is_asked: bool) -> list[Effect]:
        """Have a link let go for this one, where that is due."""
        membership, record = self._machines.membership, established.record
        if established.plaintext[0] == Kind.NEAR:
            near = codec.decode_message(established.plaintext)
            if isinstance(near, Near):
                return membership.room.make_nearer(
                    record, near, established.rtt_s, now, source=established.address
                )
        return membership.room.make(
            record,
            now,
            is_asked=is_asked,
            source=established.address,
            is_ours=established.session.began_by_us,
        )

    def _is_closed_to(self, established: Established, now: float) -> bool:
        """Whether nobody may come in any more. Raises Refused: DENIED, MISCONDUCT."""
        peer_id = established.record.peer_id
        if peer_id in self._routing.config.denied:
            raise Refused(DropReason.DENIED)
        if self._links.accounts.refuses(peer_id, now):
            raise Refused(DropReason.MISCONDUCT)
        if self._links.is_leaving:
            self._links.turn_away(established, Close(CloseReason.LEAVING), now)
        return self._links.is_leaving

    def _refer(self, established: Established, now: float) -> None:
        """There is no room: say who may have some."""
        others = self._machines.membership.room.referrals(established.record.peer_id)
        self._links.turn_away(established, Close(CloseReason.FULL, others), now)

    def _open_short(self, established: Established, now: float) -> None:
        """A session is live that shall be short, whoever wanted it. It changes nothing about a link
        with the same peer; but a run of the peer that is over gets no more of them."""
        if self._is_closed_to(established, now):
            return
        record = established.record
        member = self._machines.membership.members.get(record.peer_id)
        if member is not None and record.epoch < member.record.epoch:
            self._routing.drops[DropReason.OLD_EPOCH] += 1
            self._links.turn_away(established, Close(CloseReason.OUTRANKED, (member.record,)), now)
            return
        if not self._shorts.make_room(record.peer_id, now):
            self._refer(established, now)
            return
        link = self._shorts.add(established, now)
        self._links.touch(link)
        self._routing.opened_briefly(link, now)
        session = established.session
        counter = session.arrivals.highest
        plaintext = link.take_in(established.plaintext, session, counter, now)
        self._routing.hear_briefly(link, plaintext, now)

    def _link(self, established: Established, now: float) -> Link:
        record, machines, perform = established.record, self._machines, self._routing.perform
        link = self._links.add(established, now)
        self._routing.changes += 1
        rtt_s = established.rtt_s
        is_ours = established.session.began_by_us
        perform(machines.membership.linked(record, link.address, rtt_s, now, is_ours=is_ours), now)
        perform(machines.dissemination.linked(link.peer_id, now), now)
        self._routing.opened_briefly(link, now)  # what waited for a short session goes here now
        return link
