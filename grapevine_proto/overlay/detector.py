"""Who does not answer: SWIM over links (Das, Gupta, Motivala 2002), with Lifeguard's caution.

What must stay true:

- Nobody is held for dead who was heard within its time, here; elsewhere it may say so itself, by a
  higher incarnation, which ends everything that was said against the one before.
- Only a member counts as an accuser: one met, or known for a while. Keys made up on the spot accuse nobody.
- One member's word is one voice: where we have no eyes of our own it takes three who looked to make
  haste, and one alone has to stand unrefuted for six times as long.
- What is found here changes what is shown, and which links are passed over (stale). None is closed for
  it: that takes `peer_timeout` of silence, so that a link outlives an outage as long as it was told to.
- A late timer convicts no one: what we slept is given to everybody.

Part of `membership`, which calls `watch` for linked peers now and then and tells of what it hears, of links
and of records. Who is silent is found by `lookout`, what is said against whom stands in `cases`, and
`tidings` tells it. Times: `config.detection`.
"""

from __future__ import annotations

import math
import random
from typing import Final, assert_never

from grapevine_proto.config import NodeConfig
from grapevine_proto.errors import DropReason
from grapevine_proto.events import MemberStatus, PeerState
from grapevine_proto.identity import Identity
from grapevine_proto.ids import PeerId
from grapevine_proto.messages import Ack, Opinion, Opinions, Ping, PingFor
from grapevine_proto.overlay.cases import ACCUSERS, Case, Cases, message_of
from grapevine_proto.overlay.effects import Blame, Effect, Moved, Send
from grapevine_proto.overlay.lookout import Lookout
from grapevine_proto.overlay.members import Member, MemberTable
from grapevine_proto.overlay.peers import Happening, Peer, PeerTable
from grapevine_proto.overlay.signatures import Budgets
from grapevine_proto.overlay.suspicion import OwnHealth
from grapevine_proto.overlay.tidings import Tidings
from grapevine_proto.signed import Accusation, Record

KNOWN_S: Final = 10.0  # a member that was never met may accuse others after so long
CHECKS_PER_TELLER_S: Final = 32.0  # of accusations' signatures: a thousandth of a core
CHECKS_BURST: Final = 256.0
# Of what one accuser says of others: half of a hundred links may die at once, but who finds somebody
# dead every few seconds for ever is not believed.
ACCUSATIONS_PER_S: Final = 0.1
ACCUSATIONS_BURST: Final = 64.0


class Detector:
    """Mechanism of `membership`, with deadlines of its own."""

    def __init__(
        self,
        config: NodeConfig,
        identity: Identity,
        peers: PeerTable,
        members: MemberTable,
        rng: random.Random,
        now: float,
    ) -> None:
        self._config = config
        self._identity = identity
        self._peers = peers
        self._members = members
        self.health = OwnHealth(now)
        self.cases = Cases()
        self.lookout = Lookout(config, peers, self.cases, self.health, rng, now)
        self.tidings = Tidings(config, peers, self._opinion, rng, now)
        self._by_teller = Budgets(CHECKS_PER_TELLER_S, CHECKS_BURST)
        self._by_accuser = Budgets(ACCUSATIONS_PER_S, ACCUSATIONS_BURST)
        self.deadline = math.inf

    def reconfigure(self, config: NodeConfig) -> None:
        self._config = config
        self.lookout.reconfigure(config)
        self.tidings.reconfigure(config)

    # --- what we find ourselves -----------------------------------------------------------------

    def watch(self, linked: list[Peer], now: float) -> list[Effect]:
        """Look after linked peers."""
        effects = [effect for peer in linked for effect in self.lookout.watch(peer, now)]
        self._rearm(now)
        return effects

    def _found_silent(self, peer_id: PeerId, since: float, now: float) -> list[Effect]:
        member = self._members.get(peer_id)
        return [] if member is None else self._accuse(member, since, now)

    def _accuse(self, member: Member, since: float, now: float) -> list[Effect]:
        """We had no answer ourselves, though we asked for one since `since`: what others said by then
        has been known here, and told along with each ping, for as long."""
        case = self._open(member, now, is_ours=True)
        if case is None or case.is_ours:
            return []
        if case.is_dismissed:
            self.cases.reopen(case, max(case.opened_at, since))
        case.is_ours = True
        ours = Accusation.signed(self._identity, self._config.cluster, case.record)
        self.cases.add(case, ours)
        self._spread(case.record.peer_id, now)
        effects = self._suspect(member, now)
        peer = self._peers.get(case.record.peer_id)
        if peer is not None and peer.state is PeerState.CONNECTED:
            previous = self._peers.move(peer, Happening.SILENT)
            effects.append(Moved(peer.peer_id, previous, "no answer, nor through others"))
        return effects

    # --- what peers say -------------------------------------------------------------------------

    def handle(
        self, message: Ping | PingFor | Ack | Opinions, sender: PeerId, now: float
    ) -> list[Effect]:
        """`sender` asks, answers, or tells of others, whose records `membership` knows by now."""
        match message:
            case Ping(number, opinions):
                considered = self._consider_all(opinions, sender, now)
                return [Send((sender,), Ack(number, True)), *considered]
            case Opinions(opinions):
                return self._consider_all(opinions, sender, now)
            case PingFor():
                effects = self.lookout.run_errand(message, sender, now)
                self._rearm(now)
                return effects
            case Ack():
                self.lookout.answered(message, sender)
                return []
            case _:
                assert_never(message)

    def _consider_all(
        self, opinions: tuple[Opinion, ...], sender: PeerId, now: float
    ) -> list[Effect]:
        """Who knows less than we do, and would not hear it anyway soon, is told at once: all of it
        in one message."""
        effects: list[Effect] = []
        answers: list[Opinion] = []
        for opinion in opinions:
            if opinion.record.peer_id != self._identity.peer_id:
                effects += self._consider(opinion, sender, answers, now)
        told = message_of(answers)
        return [*effects, Send((sender,), Opinions(told))] if told else effects

    def _consider(
        self, opinion: Opinion, sender: PeerId, answers: list[Opinion], now: float
    ) -> list[Effect]:
        """What `sender` thinks of somebody. Only what is said of the latest incarnation counts."""
        record = opinion.record
        peer_id = record.peer_id
        member = self._members.get(peer_id)
        if member is None or member.status is MemberStatus.LEFT:
            return []
        if record.version != member.record.version or not opinion.accusations:
            if record.version < member.record.version and opinion.accusations:
                answers.append(Opinion(member.record))
            elif record.version == member.record.version and peer_id not in self.cases:
                self.tidings.news.told(peer_id, 1)
            return []
        case = self.cases.get(peer_id)
        known = case.accusations if case is not None else {}
        news: list[Accusation] = []
        for each in opinion.accusations:
            if not self._is_credible(each.accuser, now):
                continue
            if len(known) + len(news) < ACCUSERS and self._is_new(each, case, member):
                if not self._by_teller.take((sender,), now):
                    return [Blame(sender, DropReason.SIGNATURE_BUDGET)]
                if not each.is_authentic(self._config.cluster, member.record):
                    return [Blame(sender, DropReason.BAD_SIGNATURE)]
                if self._by_accuser.take((each.accuser,), now):
                    news.append(each)
        if case is not None and not case.is_dismissed and not news:
            if len(opinion.accusations) >= len(known):
                self.tidings.news.told(peer_id, 1)  # told by another: it knows as much
            elif peer_id not in self.tidings.news:
                answers.append(case.opinion)
        return self._charge(member, news, now)

    def _is_credible(self, accuser: PeerId, now: float) -> bool:
        """Whether the word of `accuser` counts: keys can be made up as fast as accusations."""
        member = self._members.get(accuser)
        if member is None:
            return accuser == self._identity.peer_id
        return member.is_met or now - member.known_at >= KNOWN_S

    def _is_new(self, accusation: Accusation, case: Case | None, member: Member) -> bool:
        """Nobody accuses himself, and we know what we say ourselves."""
        if accusation.accuser in (member.record.peer_id, self._identity.peer_id):
            return False
        return case is None or accusation.accuser not in case.accusations

    def _charge(self, member: Member, news: list[Accusation], now: float) -> list[Effect]:
        """Others accuse `member`. Where we are linked we look for ourselves; else we show it."""
        case = self._open(member, now, is_ours=False) if news else None
        if case is None:
            return []
        is_first = not case.accusations
        for each in news:
            self.cases.add(case, each)
        peer_id = member.record.peer_id
        if self._peers.is_linked(peer_id) and not case.is_ours:
            self.cases.doubt(case)
            if is_first and peer_id not in self.lookout.probes:
                self.lookout.begin(peer_id, now)
            self.lookout.hurry(peer_id, now)
            self._rearm(now)
            return []
        if case.is_dismissed:
            self.cases.reopen(case, now)
        self._spread(peer_id, now)
        return self._suspect(member, now)

    def contradict(self, record: Record, sender: PeerId) -> list[Effect]:
        """`sender` tells of a member as if it were up."""
        case = self.cases.get(record.peer_id)
        if case is None or not case.is_over or record.version > case.record.version:
            return []
        return [Send((sender,), Opinions((case.opinion,)))]

    # --- what becomes of it ---------------------------------------------------------------------

    def _open(self, member: Member, now: float, *, is_ours: bool) -> Case | None:
        detection = self._config.detection
        return self.cases.open(
            member.record,
            now,
            members=len(self._members) + 1,
            per_decade_s=detection.suspicion,
            factor=detection.suspicion_max,
            is_ours=is_ours,
        )

    def _suspect(self, member: Member, now: float) -> list[Effect]:
        self._rearm(now)
        return [member.think(MemberStatus.SUSPECT, now)] if member.status is MemberStatus.UP else []

    def _acquit(self, member: Member, now: float) -> list[Effect]:
        if member.status in (MemberStatus.SUSPECT, MemberStatus.DOWN):
            return [member.think(MemberStatus.UP, now)]
        return []

    def _convict(self, subject: PeerId, case: Case, now: float) -> list[Effect]:
        """Its time is over."""
        self.tidings.too_late(subject)
        member = self._members.get(subject)
        if case.is_dismissed or member is None:
            self._close(subject)
            return []
        self.cases.convict(case)
        return (
            [member.think(MemberStatus.DOWN, now)] if member.status is MemberStatus.SUSPECT else []
        )

    def is_concerned(self, peer_id: PeerId) -> bool:
        """Whether a word of this peer matters here."""
        return peer_id in self.cases or self.lookout.is_concerned(peer_id)

    def heard(self, peer_id: PeerId, now: float) -> list[Effect]:
        """A packet of a linked peer opened: whatever others say, it lives."""
        effects = self.lookout.heard(peer_id, now)
        case = self.cases.get(peer_id)
        if case is not None and not case.is_dismissed:
            effects += self._dismiss(peer_id, case, now)
        self._rearm(now)
        return effects

    def _dismiss(self, peer_id: PeerId, case: Case, now: float) -> list[Effect]:
        """It lives, but others have our word that it does not: only it can take that back."""
        self.cases.dismiss(case, now)
        self.tidings.too_late(peer_id)
        member = self._members.get(peer_id)
        acquitted = self._acquit(member, now) if member is not None else []
        return [*acquitted, self.lookout.ping(peer_id, now)]

    def linked(self, member: Member, now: float) -> list[Effect]:
        """A session with `member` is live."""
        peer_id = member.record.peer_id
        self.lookout.linked(peer_id)
        effects = self.renewed(member, now)
        case = self.cases.get(peer_id)
        if case is not None:
            effects += self._dismiss(peer_id, case, now)
        return effects + self._acquit(member, now)

    def unlinked(self, peer_id: PeerId, now: float) -> list[Effect]:
        """There is no link to look at any more: where it did not answer, what others say counts."""
        if not self.lookout.unlinked(peer_id):
            return []
        case, member = self.cases.get(peer_id), self._members.get(peer_id)
        if case is None or member is None or not case.is_dismissed:
            return []
        self.cases.reopen(case, now)
        self._spread(peer_id, now)
        return self._suspect(member, now)

    def lost(self, member: Member, now: float) -> list[Effect]:
        """A link ended without a word, or nobody answered a dial."""
        is_elsewhere = self.lookout.is_heard_elsewhere(member.record.peer_id, now)
        if member.status is not MemberStatus.UP or is_elsewhere:
            return []
        return self._accuse(member, now, now)

    def ask_to_refute(self, record: Record) -> Effect:
        """A member that was held for dead, and let go, is linked again in the same run: tell it, so that
        it takes that back in a later record, which all believe."""
        ours = Accusation.signed(self._identity, self._config.cluster, record)
        return Send((record.peer_id,), Opinions((Opinion(record, (ours,)),)))

    def left(self, peer_id: PeerId) -> None:
        """It said itself that it leaves: nothing more is to be found out."""
        self._close(peer_id)

    def _close(self, subject: PeerId) -> None:
        self.cases.close(subject)
        self.tidings.drop(subject)

    def renewed(self, member: Member, now: float) -> list[Effect]:
        """A higher record of `member` was taken: what was said of the one before is void."""
        record = member.record
        case = self.cases.get(record.peer_id)
        if case is None or case.record.version >= record.version:
            return []
        self._close(record.peer_id)
        self._spread(record.peer_id, now)
        return self._acquit(member, now)

    # --- time and telling -----------------------------------------------------------------------

    def lagged(self, lag_s: float, now: float) -> None:
        """Our own loop was late by so much."""
        self.health.lagged(lag_s, now)

    def forgive(self, late_s: float, now: float) -> None:
        """We slept: nobody's time ran meanwhile, and we have been slow ourselves."""
        self.health.lagged(late_s, now)
        for case in self.cases.forgive(late_s):
            self.tidings.call(case.record, now)
        self.lookout.probes.forgive(late_s)
        self._rearm(now)

    def advance(self, now: float) -> list[Effect]:
        """Time passed."""
        self.health.rested(now)
        if now < self.deadline:
            return []
        effects: list[Effect] = []
        for peer_id, probe in self.lookout.probes.due(now):
            tried = self.lookout.step(peer_id, probe, now)
            if tried is None:
                tried = self._found_silent(peer_id, self.lookout.looked_since(probe, now), now)
            effects += tried
        effects += self.lookout.overdue(now)
        for subject, case in self.cases.due(now):
            if case.is_dismissed or case.is_called_for:
                effects += self._convict(subject, case, now)
            else:  # its refutation may have been lost on its way to us, or died out before
                self.cases.call(case, now)
                self.tidings.call(case.record, now)
        effects += self.tidings.advance(now)
        self._rearm(now)
        return effects

    def _spread(self, peer_id: PeerId, now: float) -> None:
        """What is thought of somebody has changed."""
        member = self._members.get(peer_id)
        if member is not None:
            self.tidings.spread(member.record, len(self._members) + 1, now)
            self._rearm(now)

    def _opinion(self, record: Record) -> Opinion:
        """What we think of `record`'s subject, for others."""
        case = self.cases.get(record.peer_id)
        return case.opinion if case is not None and not case.is_dismissed else Opinion(record)

    def _rearm(self, now: float) -> None:
        """Be called when the next thing is due, but not for a time that is past."""
        deadline = min(self.tidings.deadline, self.cases.deadline, self.lookout.deadline)
        self.deadline = max(deadline, now) if deadline < math.inf else deadline
