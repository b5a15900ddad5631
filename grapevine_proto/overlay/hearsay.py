"""What peers say of members, and of us: signed records, and opinions about them.

What must stay true:

- A record is taken from anybody, since it proves itself, and only where it is higher than what is known; so
  nobody can speak for, silence or expel another.
- A record that is new here costs its sender one of the checks that it may cause, in whatever message it
  comes; beyond them it is not looked at, and comes again from others or later.
- What is said of us is answered: an accusation by a higher incarnation, told to everybody; a second node on
  our identity by what `ourselves` says of it.

Mechanism of `membership`. What becomes of an opinion is the business of `detector`.
"""

from __future__ import annotations

from grapevine_proto.config import NodeConfig
from grapevine_proto.errors import DropReason
from grapevine_proto.events import MemberChanged, MemberStatus
from grapevine_proto.ids import PeerId
from grapevine_proto.messages import CloseReason, Opinion, Opinions
from grapevine_proto.overlay.detector import Detector
from grapevine_proto.overlay.dialling import Dialling
from grapevine_proto.overlay.effects import Blame, Drop, Effect, Emit, Learn, Send
from grapevine_proto.overlay.members import Member, MemberTable
from grapevine_proto.overlay.ourselves import Ourselves
from grapevine_proto.overlay.peers import PeerTable
from grapevine_proto.overlay.rolls import Rolls
from grapevine_proto.overlay.signatures import Signatures
from grapevine_proto.signed import Record


class Hearsay:
    """See the module."""

    def __init__(
        self,
        config: NodeConfig,
        peers: PeerTable,
        members: MemberTable,
        ourselves: Ourselves,
        dialling: Dialling,
        detector: Detector,
        rolls: Rolls,
        signatures: Signatures,
    ) -> None:
        self._signatures = signatures
        self._config = config
        self._peers = peers
        self._members = members
        self._ourselves = ourselves
        self._dialling = dialling
        self._detector = detector
        self._rolls = rolls

    def reconfigure(self, config: NodeConfig) -> None:
        self._config = config

    def opinions(self, opinions: tuple[Opinion, ...], sender: PeerId, now: float) -> list[Effect]:
        """Learn the records that opinions are about; one about ourselves we refute, to everybody."""
        effects: list[Effect] = []
        for opinion in opinions:
            if opinion.record.peer_id != self._ourselves.peer_id:
                effects += self.record(opinion.record, sender, now)
                continue
            effects += self._ourselves.compare(opinion.record, sender)
            verdict = self._ourselves.refutes(opinion, sender, now)
            if verdict is True:
                self._detector.health.failed(now)  # maybe we are slow, if others do not hear us
                linked = self._peers.linked
                if linked:
                    effects.append(Send(linked, Opinions((Opinion(self._ourselves.record),))))
            elif verdict:
                effects.append(verdict)
        return effects

    def records(self, records: tuple[Record, ...], sender: PeerId, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for record in records:
            if record.peer_id == self._ourselves.peer_id:
                effects += self._ourselves.compare(record, sender)
            else:
                effects += self._detector.contradict(record, sender)
                effects += self.record(record, sender, now)
        return effects

    def _is_known(self, record: Record, member: Member | None) -> bool:
        """Whether `record` says nothing new of its subject, which may have been let go since."""
        if member is None:
            return self._members.is_let_go(record)
        if record.version == member.record.version:
            self._members.heard_again(record.peer_id)
        return record.version <= member.record.version

    def record(self, record: Record, sender: PeerId, now: float) -> list[Effect]:
        member = self._members.get(record.peer_id)
        if self._is_known(record, member):
            return []
        if not self._signatures.may_check_record(sender, now):
            return [Blame(sender, DropReason.SIGNATURE_BUDGET)]
        if not record.is_authentic(self._config.cluster):
            return [Blame(sender, DropReason.BAD_SIGNATURE)]
        before = None if member is None else member.info()
        # What takes another's place is no news, or a crowded table would tell of it all the time.
        is_news = member is not None or self._members.has_place(sender)
        if member is None:
            if not self._members.make_place(sender):
                return []
            member = self._members.add(record, sender, now)
        restarted = record.epoch > member.record.epoch
        member.take(record, now)
        if is_news:
            self._members.spread_news(record.peer_id)
        if before is None:
            self._rolls.learned(now)
        peer = self._peers.get(record.peer_id)
        if peer is not None:
            peer.record = record
        if record.left:
            self._dialling.found(record.peer_id)
            self._detector.left(record.peer_id)
            thought = member.think(MemberStatus.LEFT, now)
            linked = self._peers.is_linked(record.peer_id)
            drop = [Drop(record.peer_id, CloseReason.LEAVING, "left")] if linked else []
            return [thought, *drop]
        if restarted and member.status is not MemberStatus.UP:
            member.failures = 0
            member.dial_at = now
        effects: list[Effect] = [Learn(record)] if self._peers.is_linked(record.peer_id) else []
        effects += self._detector.renewed(member, now)
        # What it signed later than what was said against it shows that it lives, or lived then: who
        # has a link looks for himself.
        if member.status is not MemberStatus.UP:
            effects.append(member.think(MemberStatus.UP, now))
        elif member.info() != before:
            effects.append(Emit(MemberChanged(member.info())))
        return effects
