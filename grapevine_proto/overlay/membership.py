"""Joining, discovery, heartbeats, states, leaving: who is there, and with whom we are linked.

What must stay true:

- Own evidence decides what is done: a working link is closed by silence, by its own end, or by a
  record that the peer itself signed; never by what somebody says of it.
- Who is late himself convicts no one: after a stall everybody's silence is forgiven by its length.

Driven by heartbeats, records and opinions, by what the engine says of links (`linked`, `unlinked`,
`dial_failed`), and by its deadline. Whom to dial is the business of `dialling`, who does not answer
that of `detector`, what is said every interval that of `heartbeats`, what peers say of others that of
`hearsay`, who goes where there is no room that of `room`, and what we say of ourselves that of `ourselves`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final, assert_never

from grapevine_proto.config import NodeConfig
from grapevine_proto.errors import DropReason, UnknownPeer
from grapevine_proto.events import MemberStatus, PeerState
from grapevine_proto.identity import Identity
from grapevine_proto.ids import Address, PeerId
from grapevine_proto.messages import (
    Ack,
    CloseReason,
    Heartbeat,
    Opinions,
    Ping,
    PingFor,
    Records,
    Roll,
)
from grapevine_proto.overlay.detector import Detector
from grapevine_proto.overlay.dialling import Dialling, words_for
from grapevine_proto.overlay.effects import (
    Drop,
    Effect,
    Moved,
    Send,
)
from grapevine_proto.overlay.hearsay import Hearsay
from grapevine_proto.overlay.heartbeats import Heartbeats, envelopes
from grapevine_proto.overlay.lookout import look_every_s
from grapevine_proto.overlay.members import MemberTable
from grapevine_proto.overlay.nearness import Nearness
from grapevine_proto.overlay.ourselves import Ourselves
from grapevine_proto.overlay.peers import LATE_INTERVALS, LINKED_STATES, Happening, Peer, PeerTable
from grapevine_proto.overlay.rolls import Rolls
from grapevine_proto.overlay.room import Room
from grapevine_proto.overlay.signatures import Signatures
from grapevine_proto.overlay.store import Store
from grapevine_proto.overlay.views import Views
from grapevine_proto.signed import Record

STALE_INTERVALS: Final = 3  # gossip intervals without a word
UNPROVED_FAILURES: Final = 3  # dials of a member that no session proved to be there
TIDY_S: Final = 60.0  # between looks for what may be let go
FORGET_PEER_S: Final = 600.0  # of one that left, from the list that is shown
WELCOME_RECORDS: Final = 12  # told to a new peer
LATE_S: Final = 0.5  # of our own timers: nobody is judged by those


class Membership:
    """The machine that owns peers and members. See the module for what drives it."""

    def __init__(
        self,
        config: NodeConfig,
        identity: Identity,
        epoch: int,
        address: Address,
        peers: PeerTable,
        store: Store,
        rng: random.Random,
        now: float,
        *,
        carries: Callable[[PeerId, float], bool],
        signatures: Signatures | None = None,
    ) -> None:
        self._config = config
        self._peers = peers
        self._rng = rng
        self.members = MemberTable(config.limits, peers.is_linked)
        self.ourselves = Ourselves(config, identity, epoch, address)
        self.views = Views(config, peers, self.members, rng, carries)
        self.nearness = Nearness(config, peers, self.members, self.views, rng, now, carries)
        self.dialling = Dialling(
            config, peers, self.members, self.views, self.nearness, rng, self.ourselves.address, now
        )
        self._heartbeats = Heartbeats(config, self.members, store, rng)
        self.rolls = Rolls(identity.peer_id, peers, self.members, rng)
        self.detector = Detector(config, identity, peers, self.members, rng, now)
        self.hearsay = Hearsay(
            config,
            peers,
            self.members,
            self.ourselves,
            self.dialling,
            self.detector,
            self.rolls,
            signatures or Signatures(config),
        )
        self.room = Room(config, peers, self.members, self.views, self.nearness, self.hearsay, rng)
        self._tick_at = now
        self._tidied_at = now

    # --- what the application and the engine say ------------------------------------------------

    def reconfigure(self, config: NodeConfig, now: float) -> list[Effect]:
        """Other settings from now on. Whoever is denied now is dropped; our record is told anew."""
        self._config = config
        self.views.reconfigure(config)
        self.nearness.reconfigure(config)
        self.dialling.reconfigure(config, now)
        denied = [peer_id for peer_id in self._peers.linked if peer_id in config.denied]
        effects: list[Effect] = [
            Drop(peer_id, CloseReason.MISCONDUCT, "denied") for peer_id in denied
        ]
        self._heartbeats.reconfigure(config)
        self.detector.reconfigure(config)
        self.hearsay.reconfigure(config)
        self.room.reconfigure(config)
        if self.ourselves.reconfigure(config):
            effects += self._tell_all(Records((self.record,)))
        return effects

    def move(self, addresses: tuple[Address, ...]) -> list[Effect]:
        """This node may be dialed at `addresses` from now on: linked peers are told."""
        if not self.ourselves.move(addresses):
            return []
        self.dialling.our_addresses = self.ourselves.addresses
        return self._tell_all(Records((self.record,)))

    @property
    def record(self) -> Record:
        """What this node says of itself."""
        return self.ourselves.record

    def leave(self) -> Records:
        """What to tell every linked peer when we go, in words nobody else could have signed."""
        return Records((self.ourselves.renew(left=True),))

    def lagged(self, lag_s: float, now: float) -> None:
        """Our own loop was late by so much: peers are told, and given more time."""
        self._heartbeats.load_permille = min(int(lag_s * 1000), 1000)
        self.detector.lagged(lag_s, now)

    def health_reason(self, peer: Peer, now: float) -> str:
        """For people: what a peer's health suffers from; empty where all is well."""
        reasons = (
            peer.why(now, self._config.gossip_interval),
            self.detector.lookout.why(peer.peer_id),
        )
        return ", ".join(each for each in reasons if each)

    def let_go(self, records: tuple[Record, ...], sender: PeerId, now: float) -> list[Effect]:
        """Whoever closed its link with us names for whom, who is short of links as we are now."""
        effects = self._referred(records, sender, now)
        return effects + (self.dialling.take_offer(now) if records else [])

    def _referred(self, records: tuple[Record, ...], sender: PeerId, now: float) -> list[Effect]:
        """Whoever has no room for us names others, who may have some."""
        if self.record.left:
            return []
        effects = self.hearsay.records(records, sender, now)
        self.dialling.hint([record.peer_id for record in records])
        return effects + (self.dialling.due(now) if self.views.is_in_need(now) else [])

    # --- what becomes of links ------------------------------------------------------------------

    def turned_away(
        self, record: Record, address: Address, others: tuple[Record, ...], now: float
    ) -> list[Effect]:
        """`record`'s subject has no room for us, but told of others."""
        peer_id = record.peer_id
        member = self.members.meet(record, now, address)
        self.dialling.turned_away(member, address, now)
        self.nearness.refused(member, now)
        effects: list[Effect] = []
        peer = self._peers.get(peer_id)
        if peer is not None and peer.state is PeerState.CONNECTING:
            effects.append(Moved(peer_id, self._peers.move(peer, Happening.LOST), "no room there"))
        if member.status is not MemberStatus.UP:
            effects.append(member.think(MemberStatus.UP, now))
        return effects + self._referred(others, peer_id, now)

    def linked(
        self,
        record: Record,
        source: Address,
        rtt_s: float | None,
        now: float,
        *,
        is_ours: bool = False,
    ) -> list[Effect]:
        """A session with `record`'s subject is live: a new link, or a restarted peer on its old one.
        `source` is where the session proved it to be, whatever its record claims; `is_ours`: this node
        dialed it."""
        self.ourselves.was_linked = True
        is_chosen = is_ours and self.dialling.has_chosen(record.peer_id)
        self.dialling.found(record.peer_id)
        peer = self._peers.add(record.peer_id, record, source, now)
        is_new = peer.state not in LINKED_STATES
        peer.record, peer.address, peer.is_proved = record, source, True
        peer.session_epoch = record.epoch
        peer.silent_since = peer.beat_at = now
        peer.is_unresponsive = False
        peer.consecutive_failures = 0
        peer.number = peer.their_number = 0
        if rtt_s is not None:
            peer.rtt_s = rtt_s
        effects: list[Effect] = []
        if is_new:
            self.nearness.changed(now)
            peer.linked_at = now
            peer.is_dialed = is_chosen
            peer.least_rtt_s = rtt_s
            peer.success_ratio = 1.0
            previous = self._peers.move(peer, Happening.LINKED)
            effects.append(Moved(peer.peer_id, previous, "linked"))
        effects += self._meet(record, source, now)
        told = self.members.some(WELCOME_RECORDS, self._rng, but=peer.peer_id)
        effects += [Send((peer.peer_id,), each) for each in envelopes(told)]
        effects.append(self._heartbeats.make(peer, now))
        return effects

    def _meet(self, record: Record, source: Address, now: float) -> list[Effect]:
        known = self.members.get(record.peer_id)
        is_news = known is None or record.version > known.record.version
        was_let_go = self.members.is_let_go(record)
        member = self.members.meet(record, now, source)
        effects: list[Effect] = []
        if was_let_go:  # others let it go as well: only a later record of its own is news to them
            effects.append(self.detector.ask_to_refute(record))
        if is_news:
            member.take(record, now)
            member.proved = source
            self.members.spread_news(record.peer_id)
        effects += self.detector.linked(member, now)
        if is_news or member.status is not MemberStatus.UP:
            effects.append(member.think(MemberStatus.UP, now))
        return effects

    def unlinked(
        self, peer_id: PeerId, words: str, reason: CloseReason | None, now: float
    ) -> list[Effect]:
        """The link with `peer_id` is gone; `reason` is None where nobody closed it."""
        peer = self._peers.get(peer_id)
        if peer is None or peer.state not in LINKED_STATES:
            return []
        was_sound = self.views.is_sound(peer_id, now)
        self.nearness.changed(now)
        previous = self._peers.move(peer, Happening.LOST)
        peer.linked_at = None
        effects: list[Effect] = [Moved(peer_id, previous, words)]
        if reason is CloseReason.LEAVING:
            self.detector.left(peer_id)
        effects += self.detector.unlinked(peer_id, now)
        member = self.members.get(peer_id)
        if member is None:
            return effects
        if reason is None:
            peer.judge(succeeded=False)
            effects += self.detector.lost(member, now)
        if reason is CloseReason.LEAVING:
            if member.status is not MemberStatus.LEFT:
                effects.append(member.think(MemberStatus.LEFT, now))
        elif reason is CloseReason.FULL and was_sound:
            self.dialling.let_go(member, now)
        else:
            self.dialling.lost(member, now)
        return effects if self.record.left else effects + self.dialling.due(now)

    def heard(self, peer_id: PeerId, now: float, address: Address | None = None) -> list[Effect]:
        """A packet of `peer_id` opened; `address` is where its link goes now."""
        peer = self._peers.get(peer_id)
        if peer is None:
            return []
        if address is not None and address != peer.address:
            self._moved(peer, address)
        peer.silent_since = self.detector.lookout.heard_at = now
        effects: list[Effect] = []
        if peer.state is PeerState.STALE:
            effects.append(Moved(peer_id, self._peers.move(peer, Happening.HEARD), "heard again"))
        if self.detector.is_concerned(peer_id):
            effects += self.detector.heard(peer_id, now)
        return effects

    def _moved(self, peer: Peer, address: Address) -> None:
        """The session of a linked peer proved that it is somewhere else now."""
        peer.address = address
        member = self.members.get(peer.peer_id)
        if member is not None:
            member.proved = address

    def dial_failed(
        self, address: Address, expected: PeerId | None, why: DropReason | str | None, now: float
    ) -> list[Effect]:
        """Nobody, or not the one expected, answered at `address`."""
        effects = self.dialling.failed(address, expected, why, now)
        if expected is None:
            return effects
        member, peer = self.members.get(expected), self._peers.get(expected)
        if member is not None:
            self.dialling.failed_member(member, now)
            # Once: it may be alive behind a door that does not open to us, and has said so then. The
            # peer remembers it better than the member: that one may have lost its place meanwhile.
            # Where only a record says that it is, a dial is few packets, which may all be lost.
            enough = 1 if member.proved is not None else UNPROVED_FAILURES
            is_first = member.failures == enough and (
                peer is None or peer.consecutive_failures < enough
            )
            is_silent = why is not DropReason.MISCONDUCT  # we did not even dial it
            if is_first and is_silent and not self._peers.is_linked(expected):
                effects += self.detector.lost(member, now)
        if peer is not None and peer.state is PeerState.CONNECTING:
            previous = self._peers.move(peer, Happening.LOST)
            peer.judge(succeeded=False)
            effects.append(Moved(expected, previous, words_for(why)))
        return effects

    def forget(self, peer_id: PeerId) -> None:
        """Strike out somebody until anyone tells of it again: an address that will not come back need
        not be tried for a day. Raises UnknownPeer where it is linked, being dialled, or not known."""
        peer = self._peers.get(peer_id)
        if peer is not None and peer.state is not PeerState.DISCONNECTED:
            raise UnknownPeer(f"{peer.state.value}: only who is gone can be forgotten")
        if peer is None and self.members.get(peer_id) is None:
            raise UnknownPeer("nobody by that id is known here")
        self._peers.remove(peer_id)
        if self.members.get(peer_id) is not None:
            self.members.remove(peer_id)
        self.detector.left(peer_id)
        self.dialling.forget(peer_id)

    # --- what peers say -------------------------------------------------------------------------

    def handle(
        self,
        message: Heartbeat | Records | Ping | PingFor | Ack | Opinions | Roll,
        sender: PeerId,
        now: float,
    ) -> list[Effect]:
        match message:
            case Heartbeat():
                return self._on_heartbeat(message, sender, now)
            case Records():
                return self.hearsay.records(message.records, sender, now)
            case Ping() | Opinions():
                effects = self.hearsay.opinions(message.opinions, sender, now)
                return effects + self.detector.handle(message, sender, now)
            case Roll():
                peer = self._peers.get(sender)
                return [] if peer is None else self.rolls.handle(message, peer, now)
            case PingFor() | Ack():
                return self.detector.handle(message, sender, now)
            case _:
                assert_never(message)

    def _on_heartbeat(self, beat: Heartbeat, sender: PeerId, now: float) -> list[Effect]:
        peer = self._peers.get(sender)
        if peer is not None:
            self._heartbeats.hear(beat, peer, now)
        return self.hearsay.records(beat.records, sender, now)

    # --- time -----------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        return min(self._tick_at, self.detector.deadline)

    def advance(self, now: float) -> list[Effect]:
        late_s = now - self.deadline
        if late_s > LATE_S:
            self._forgive(late_s, now)
        effects = self.detector.advance(now)
        if now < self._tick_at:
            return effects
        self._tick_at = now + look_every_s(self._config)
        linked = [peer for peer in map(self._peers.get, self._peers.linked) if peer is not None]
        for peer in linked:
            effects += self._look_after(peer, now)
        effects += self.detector.watch(linked, now)
        for peer in self._heartbeats.due(linked, now, look_every_s(self._config)):
            silent_s = now - peer.silent_since
            peer.judge(succeeded=silent_s <= LATE_INTERVALS * self._config.gossip_interval)
            effects.append(self._heartbeats.make(peer, now))
        effects += self.dialling.due(now) + self.rolls.due(now)
        shortest_s = min(self._config.reconnect_timeout, self._config.tombstone_timeout)
        if now - self._tidied_at > min(TIDY_S, shortest_s / 4):
            self._tidied_at = now
            self._tidy(now)
        return effects

    def _forgive(self, late_s: float, now: float) -> None:
        """We were stalled or suspended: nobody else was silent for that."""
        for peer_id in self._peers.linked:
            peer = self._peers.get(peer_id)
            if peer is not None:
                peer.silent_since += late_s
                peer.beat_at += late_s
        self.detector.forgive(late_s, now)

    def _look_after(self, peer: Peer, now: float) -> list[Effect]:
        silent_s = now - peer.silent_since
        if silent_s >= self._config.peer_timeout:
            words = f"silent for {silent_s:.0f} s"
            return [Drop(peer.peer_id, None, words)]
        effects: list[Effect] = []
        if (
            peer.state is PeerState.CONNECTED
            and silent_s >= STALE_INTERVALS * self._config.gossip_interval
        ):
            previous = self._peers.move(peer, Happening.SILENT)
            effects.append(Moved(peer.peer_id, previous, f"silent for {silent_s:.0f} s"))
        return effects

    def _tell_all(self, message: Records | Opinions) -> list[Effect]:
        linked = self._peers.linked
        return [Send(linked, message)] if linked else []

    def _tidy(self, now: float) -> None:
        config = self._config
        gone = self.members.forget_the_gone(now, config.reconnect_timeout, config.tombstone_timeout)
        for each in gone:
            self.detector.left(each.record.peer_id)
            if each.status is not MemberStatus.LEFT and each.proved is not None:
                self.dialling.remember(((each.record.peer_id, each.proved),), now)
        forget_peer_s = min(FORGET_PEER_S, config.tombstone_timeout)
        for peer in list(self._peers):
            member = self.members.get(peer.peer_id)
            if peer.state is PeerState.DISCONNECTED and (
                member is None
                or (member.status is MemberStatus.LEFT and now - peer.silent_since > forget_peer_s)
            ):
                self._peers.remove(peer.peer_id)
