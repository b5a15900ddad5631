"""Joining, discovery, heartbeats, states, leaving: who is there, and with whom we are linked.

What must stay true:

- Own evidence decides what is done: a working link is closed by silence, by its own end, or by a
  record that the peer itself signed; never by what somebody says of it.
- Who is late himself convicts no one: after a stall everybody's silence is forgiven by its length.

Driven by heartbeats and records, by what the engine says of links (`linked`, `unlinked`,
`dial_failed`), and by its deadline. Whom to dial is the business of `dialling`.
"""

from __future__ import annotations

import random
from typing import Final, assert_never

from grapevine_proto.config import NodeConfig
from grapevine_proto.errors import DropReason, UnknownPeer
from grapevine_proto.events import (
    MemberChanged,
    MemberStatus,
    PeerState,
)
from grapevine_proto.identity import Identity
from grapevine_proto.ids import Address, PeerId
from grapevine_proto.messages import CloseReason, Heartbeat, Record, Records
from grapevine_proto.overlay.dialling import Dialling, words_for
from grapevine_proto.overlay.effects import (
    Blame,
    Drop,
    Effect,
    Emit,
    Learn,
    Moved,
    Reopen,
    Send,
    Stop,
)
from grapevine_proto.overlay.members import Member, MemberTable
from grapevine_proto.overlay.peers import LINKED_STATES, Happening, Peer, PeerTable
from grapevine_proto.overlay.selection import uniform
from grapevine_proto.overlay.store import Store

STALE_INTERVALS: Final = 3  # gossip intervals without a word
FORGET_PEER_S: Final = 600.0  # of one that left, from the list that is shown
HEARTBEAT_RECORDS: Final = 3
WELCOME_RECORDS: Final = 12  # told to a new peer
REFERRALS: Final = 8  # told to one for whom there is no room
RECORDS_BYTES: Final = 1000  # of records in one datagram, beside what else it carries


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
    ) -> None:
        self._config = config
        self._identity = identity
        self._peers = peers
        self._store = store
        self._rng = rng
        self.members = MemberTable(config.limits)
        our_address = Address.parse(config.advertise) if config.advertise else address
        self._address = our_address
        self.dialling = Dialling(config, peers, self.members, rng, our_address, now)
        self.record = self._own_record(epoch, 0, left=False)
        self._tick_at = now
        self._tidied_at = now
        self._told_of_ourselves = 0
        self.load_permille = 0

    def _own_record(self, epoch: int, incarnation: int, *, left: bool) -> Record:
        config = self._config
        limit = config.rate_limit
        # Told are nine tenths of what is allowed, so that a sender that keeps to it never loses
        # anything to clocks that differ; 0: no limit.
        capacity = max(int(limit.capacity * 0.9), 1) if limit.enabled else 0
        refill = max(int(limit.refill_rate * 0.9), 1) if limit.enabled else 0
        bare = Record(
            self._identity.peer_id,
            epoch,
            incarnation,
            (self._address,),
            config.zone,
            config.name,
            capacity,
            refill,
            left,
        )
        return bare.signed(self._identity, config.cluster)

    # --- what the application and the engine say ------------------------------------------------

    def reconfigure(self, config: NodeConfig, now: float) -> list[Effect]:
        """Other settings from now on. Whoever is denied now is dropped; our record is told anew."""
        self._config = config
        self.dialling.reconfigure(config, now)
        denied = [peer_id for peer_id in self._peers.linked if peer_id in config.denied]
        effects: list[Effect] = [
            Drop(peer_id, CloseReason.MISCONDUCT, "denied") for peer_id in denied
        ]
        bare = self._own_record(self.record.epoch, self.record.incarnation, left=False)
        if bare != self.record:
            self.record = self._own_record(
                self.record.epoch, self.record.incarnation + 1, left=False
            )
            effects += self._tell_all((self.record,))
        return effects

    def reopen(self, epoch: int) -> None:
        """Begin anew in a higher epoch."""
        self.record = self._own_record(epoch, 0, left=False)

    def leave(self) -> Records:
        """What to tell every linked peer when we go, in words nobody else could have signed."""
        self.record = self._own_record(self.record.epoch, self.record.incarnation + 1, left=True)
        return Records((self.record,))

    @property
    def has_room(self) -> bool:
        return len(self._peers.linked) < self._config.max_peers

    def referrals(self, but: PeerId) -> tuple[Record, ...]:
        """Where else a newcomer may try, when there is no room here: what fits one datagram."""
        linked = uniform(self._peers.linked, REFERRALS, self._rng, but=(but,))
        members = (self.members.get(peer_id) for peer_id in linked)
        envelopes = _envelopes([member.record for member in members if member is not None])
        return envelopes[0].records if envelopes else ()

    # --- what becomes of links ------------------------------------------------------------------

    def turned_away(
        self, record: Record, address: Address, others: tuple[Record, ...], now: float
    ) -> list[Effect]:
        """`record`'s subject has no room for us, but told of others."""
        peer_id = record.peer_id
        member = self.members.meet(record, now)
        self.dialling.turned_away(member, address, now)
        effects: list[Effect] = []
        peer = self._peers.get(peer_id)
        if peer is not None and peer.state is PeerState.CONNECTING:
            effects.append(Moved(peer_id, self._peers.move(peer, Happening.LOST), "no room there"))
        if member.status is not MemberStatus.UP:
            effects.append(self._think(member, MemberStatus.UP, now))
        return effects + self._on_records(others, peer_id, now)

    def linked(
        self, record: Record, source: Address, rtt_s: float | None, now: float
    ) -> list[Effect]:
        """A session with `record`'s subject is live: a new link, or a restarted peer on its old one."""
        self.dialling.found(record.peer_id)
        address = record.addresses[0] if record.addresses else source
        peer = self._peers.add(record.peer_id, record, address, now)
        is_new = peer.state not in LINKED_STATES
        peer.record, peer.address = record, address
        peer.session_epoch = record.epoch
        peer.silent_since = now
        peer.consecutive_failures = 0
        peer.number = peer.their_number = 0
        if rtt_s is not None:
            peer.rtt_s = rtt_s
        effects: list[Effect] = []
        if is_new:
            peer.linked_at = now
            peer.success_ratio = 1.0
            previous = self._peers.move(peer, Happening.LINKED)
            effects.append(Moved(peer.peer_id, previous, "linked"))
        effects += self._meet(record, now)
        told = self.members.some(WELCOME_RECORDS, self._rng, but=peer.peer_id)
        effects += [Send((peer.peer_id,), each) for each in _envelopes(told)]
        effects.append(self._heartbeat(peer, now))
        return effects

    def _meet(self, record: Record, now: float) -> list[Effect]:
        known = self.members.get(record.peer_id)
        is_news = known is None or record.version > known.record.version
        member = self.members.meet(record, now)
        effects: list[Effect] = []
        if is_news:
            member.record = record
            self.members.spread_news(record.peer_id)
        if is_news or member.status is not MemberStatus.UP:
            effects.append(self._think(member, MemberStatus.UP, now))
        return effects

    def _think(self, member: Member, status: MemberStatus, now: float) -> Effect:
        member.status = status
        member.changed_at = now
        return Emit(MemberChanged(member.info()))

    def unlinked(
        self, peer_id: PeerId, words: str, reason: CloseReason | None, now: float
    ) -> list[Effect]:
        """The link with `peer_id` is gone; `reason` is None where nobody closed it."""
        peer = self._peers.get(peer_id)
        if peer is None or peer.state not in LINKED_STATES:
            return []
        previous = self._peers.move(peer, Happening.LOST)
        peer.linked_at = None
        effects: list[Effect] = [Moved(peer_id, previous, words)]
        member = self.members.get(peer_id)
        if member is None:
            return effects
        if reason is None:
            peer.judge(succeeded=False)
            effects.append(self._think(member, MemberStatus.DOWN, now))
        if reason is CloseReason.LEAVING:
            if member.status is not MemberStatus.LEFT:
                effects.append(self._think(member, MemberStatus.LEFT, now))
        else:
            self.dialling.lost(member, now)
        return effects

    def heard(self, peer_id: PeerId, now: float) -> list[Effect]:
        """A packet of `peer_id` opened."""
        peer = self._peers.get(peer_id)
        if peer is None:
            return []
        peer.silent_since = now
        if peer.state is not PeerState.STALE:
            return []
        return [Moved(peer_id, self._peers.move(peer, Happening.HEARD), "heard again")]

    def dial_failed(
        self, address: Address, expected: PeerId | None, why: DropReason | None, now: float
    ) -> list[Effect]:
        """Nobody, or not the one expected, answered at `address`."""
        effects = self.dialling.failed(address, why, now)
        if expected is None:
            return effects
        member, peer = self.members.get(expected), self._peers.get(expected)
        if member is not None:
            self.dialling.failed_member(member, now)
            if member.status is MemberStatus.UP and not self._peers.is_linked(expected):
                effects.append(self._think(member, MemberStatus.DOWN, now))
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
        self.dialling.forget(peer_id)

    # --- what peers say -------------------------------------------------------------------------

    def handle(self, message: Heartbeat | Records, sender: PeerId, now: float) -> list[Effect]:
        match message:
            case Heartbeat():
                return self._on_heartbeat(message, sender, now)
            case Records():
                return self._on_records(message.records, sender, now)
            case _:
                assert_never(message)

    def _on_heartbeat(self, beat: Heartbeat, sender: PeerId, now: float) -> list[Effect]:
        peer = self._peers.get(sender)
        if peer is not None and beat.number > peer.their_number:
            peer.their_number = beat.number
            peer.echo_at = now
            if beat.echo == peer.number:
                peer.measured_rtt(now - peer.heartbeat_at - beat.echo_delay_us / 1e6)
        return self._on_records(beat.records, sender, now)

    def _on_records(self, records: tuple[Record, ...], sender: PeerId, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for record in records:
            if record.peer_id == self._identity.peer_id:
                effects += self._on_record_of_ours(record, sender)
            else:
                effects += self._on_record(record, sender, now)
        return effects

    def _on_record(self, record: Record, sender: PeerId, now: float) -> list[Effect]:
        member = self.members.get(record.peer_id)
        if member is not None and record.version <= member.record.version:
            return []
        if member is None and not self.members.has_place(sender):
            return [Blame(sender, DropReason.TABLE_FULL)]
        if not record.is_authentic(self._config.cluster):
            return [Blame(sender, DropReason.BAD_SIGNATURE)]
        if member is None:
            member = self.members.add(record, sender, now)
        restarted = record.epoch > member.record.epoch
        member.record = record
        self.members.spread_news(record.peer_id)
        peer = self._peers.get(record.peer_id)
        if peer is not None:
            peer.record = record
        if record.left:
            self.dialling.found(record.peer_id)
            thought = self._think(member, MemberStatus.LEFT, now)
            linked = self._peers.is_linked(record.peer_id)
            drop = [Drop(record.peer_id, CloseReason.LEAVING, "left")] if linked else []
            return [thought, *drop]
        if restarted and member.status is not MemberStatus.UP:
            member.failures = 0
            member.dial_at = now
        effects: list[Effect] = [Learn(record)] if self._peers.is_linked(record.peer_id) else []
        if member.status is not MemberStatus.UP and not restarted:
            return effects  # our own evidence stands until the member proves otherwise
        return [*effects, self._think(member, MemberStatus.UP, now)]

    def _on_record_of_ours(self, record: Record, sender: PeerId) -> list[Effect]:
        """A record of our own identity that is not ours: an earlier run with a clock ahead, or a
        second node on our state. Once it is outranked; the second time there are two of us."""
        if record.version < self.record.version or record == self.record:
            return []
        if record.version == self.record.version and record.addresses == self.record.addresses:
            return []
        if not record.is_authentic(self._config.cluster):
            return [Blame(sender, DropReason.BAD_SIGNATURE)]
        self._told_of_ourselves += 1
        if self._told_of_ourselves == 1:
            return [Reopen(record.epoch)]
        where = f" at {record.addresses[0]}" if record.addresses else ""
        return [Stop(f"identity {self._identity.peer_id.short} is in use by another node{where}")]

    # --- time -----------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        return self._tick_at

    def advance(self, now: float) -> list[Effect]:
        if now < self._tick_at:
            return []
        tick_s = min(self._config.gossip_interval / 4, 1.0)
        late_s = now - self._tick_at
        if late_s > 2 * tick_s:
            self._forgive(late_s)
        self._tick_at = now + tick_s
        effects: list[Effect] = []
        for peer_id in self._peers.linked:
            peer = self._peers.get(peer_id)
            if peer is not None:
                effects += self._look_after(peer, now)
        effects += self.dialling.due(now)
        if now - self._tidied_at > 60:
            self._tidied_at = now
            self._tidy(now)
        return effects

    def _forgive(self, late_s: float) -> None:
        """We were stalled or suspended: nobody else was silent for that."""
        for peer_id in self._peers.linked:
            peer = self._peers.get(peer_id)
            if peer is not None:
                peer.silent_since += late_s

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
        if now >= peer.heartbeat_due:
            peer.judge(succeeded=silent_s <= 1.5 * self._config.gossip_interval)
            effects.append(self._heartbeat(peer, now))
        return effects

    def _heartbeat(self, peer: Peer, now: float) -> Effect:
        interval_s = self._config.gossip_interval
        peer.heartbeat_due = now + interval_s * (0.9 + 0.2 * self._rng.random())
        peer.number += 1
        peer.heartbeat_at = now
        streams, total = self._store.digest(now)
        records = self.members.news(HEARTBEAT_RECORDS)
        if not records:  # nothing is new: somebody at random, so that all hear of all in the end
            records = self.members.some(1, self._rng, but=peer.peer_id)
        beat = Heartbeat(
            peer.number,
            peer.their_number,
            min(int((now - peer.echo_at) * 1e6), 2**32 - 1) if peer.their_number else 0,
            self.load_permille,
            streams,
            total,
            _envelopes(records)[0].records if records else (),
        )
        return Send((peer.peer_id,), beat)

    def _tell_all(self, records: tuple[Record, ...]) -> list[Effect]:
        linked = self._peers.linked
        return [Send(linked, Records(records))] if linked else []

    def _tidy(self, now: float) -> None:
        self.members.forget_the_gone(now)
        for peer in list(self._peers):
            member = self.members.get(peer.peer_id)
            if peer.state is PeerState.DISCONNECTED and (
                member is None
                or (member.status is MemberStatus.LEFT and now - peer.silent_since > FORGET_PEER_S)
            ):
                self._peers.remove(peer.peer_id)


def _envelopes(records: list[Record]) -> list[Records]:
    """The records, in as many messages as it takes for each to fit one datagram."""
    envelopes: list[Records] = []
    batch: list[Record] = []
    size_bytes = 0
    for record in records:
        if batch and size_bytes + record.size_bytes > RECORDS_BYTES:
            envelopes.append(Records(tuple(batch)))
            batch, size_bytes = [], 0
        batch.append(record)
        size_bytes += record.size_bytes
    return [*envelopes, Records(tuple(batch))] if batch else envelopes
