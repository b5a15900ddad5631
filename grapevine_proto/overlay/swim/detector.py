"""The failure detector: SWIM suspicion over links (Das 2002, section 4.2) with Lifeguard's timeouts
(Dadgar 2018, section IV).

Invariants:

- A member that is heard within its suspicion timeout is not declared dead here. Elsewhere it
  refutes with a higher incarnation, which voids every suspicion of the previous one.
- Only a member that was linked, or has been known for a while, counts as an accuser. Freshly made
  identities cannot accuse.
- Each accuser counts once. Without a link of our own, three accusers shorten the timeout, and one
  alone has to stand unrefuted for `suspicion_max_factor` times as long.
- A suspicion changes the displayed status and which links are preferred. It closes no link: only
  `peer_timeout` of silence does, so that a link survives an outage of that length.
- After a local stall, all deadlines shift by its length.

A component of `membership`, which calls `check_peers` periodically and passes on packets, link
events and records. `prober` finds unresponsive peers, `suspicions` holds the accusations, and
`gossiper` spreads updates. Timeouts come from `config.detection`.
"""

from __future__ import annotations

import math
from typing import Final, assert_never

from grapevine_proto.errors import DropReason
from grapevine_proto.events import MemberStatus, PeerState
from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.context import OverlayContext
from grapevine_proto.overlay.effects import CountDrop, Effect, PeerTransitioned, Send
from grapevine_proto.overlay.members import Member
from grapevine_proto.overlay.peers import Peer, PeerTrigger
from grapevine_proto.overlay.swim.lifeguard import Awareness
from grapevine_proto.overlay.swim.prober import Prober
from grapevine_proto.overlay.swim.suspicion_table import (
    ACCUSERS_LIMIT,
    Suspicion,
    SuspicionTable,
    fit_updates,
)
from grapevine_proto.overlay.swim.update_gossip import UpdateGossiper
from grapevine_proto.overlay.verification import KeyedRateLimiter
from grapevine_proto.wire.messages import MemberUpdate, MemberUpdates, Ping, PingAck, PingReq
from grapevine_proto.wire.signed import Accusation, PeerRecord

ACCUSER_MIN_AGE_S: Final = 10.0  # known for this long, a member that was never linked may accuse
SOURCE_CHECKS_PER_S: Final = 32.0  # signature checks of accusations: a thousandth of a core
SOURCE_CHECKS_BURST: Final = 256.0
# Accusations accepted from one accuser. Half of a hundred links may die at once, but a node that
# declares another dead every few seconds, without end, is not credible.
ACCUSER_ACCUSATIONS_PER_S: Final = 0.1
ACCUSER_ACCUSATIONS_BURST: Final = 64.0
NO_ANSWER: Final = "no answer, directly or through others"


class Detector:
    """Owns the prober, the suspicions and their gossip, and has its own deadline."""

    def __init__(self, context: OverlayContext, now: float) -> None:
        self._config = context.config
        self._identity = context.identity
        self._peers = context.peers
        self._members = context.members
        self.awareness = Awareness(now)
        self.suspicions = SuspicionTable()
        self.prober = Prober(context, self.suspicions, self.awareness, now)
        self.gossiper = UpdateGossiper(context, self._update_for, now)
        self._source_limiter = KeyedRateLimiter(SOURCE_CHECKS_PER_S, SOURCE_CHECKS_BURST)
        self._accuser_limiter = KeyedRateLimiter(
            ACCUSER_ACCUSATIONS_PER_S, ACCUSER_ACCUSATIONS_BURST
        )
        self._suspected = self.suspicions.subjects
        self._probed = self.prober.probes.subjects
        self._probed_for_others = self.prober.indirect_probes.subjects
        self.deadline = math.inf

    # --- own evidence ---------------------------------------------------------------------------

    def check_peers(self, linked: list[Peer], now: float) -> list[Effect]:
        """Start probes of linked peers that missed a heartbeat."""
        effects = [effect for peer in linked for effect in self.prober.check_peer(peer, now)]
        self._rearm(now)
        return effects

    def _on_probe_failed(self, peer_id: PeerId, since: float, now: float) -> list[Effect]:
        member = self._members.get(peer_id)
        return [] if member is None else self._accuse(member, NO_ANSWER, since, now)

    def _accuse(self, member: Member, reason: str, since: float, now: float) -> list[Effect]:
        """Accuse `member` ourselves, for `reason`: it has not answered our probe since `since`.

        The suspicion timeout counts from `since`, because accusations known by then were sent with
        each ping.
        """
        suspicion = self._open_suspicion(member, now, accused_by_us=True)
        if suspicion is None or suspicion.accused_by_us:
            return []
        if suspicion.is_cleared:
            self.suspicions.reopen(suspicion, max(suspicion.opened_at, since))
        own_accusation = Accusation.signed(
            self._identity, self._config.current.cluster, suspicion.record
        )
        self.suspicions.add_own(suspicion, own_accusation)
        self._gossip_update(suspicion.record.peer_id, now)
        effects = self._suspect(member, reason, now)
        peer = self._peers.get(suspicion.record.peer_id)
        if peer is not None and peer.state is PeerState.CONNECTED:
            previous = self._peers.transition(peer, PeerTrigger.MISSED_HEARTBEATS)
            effects.append(PeerTransitioned(peer.peer_id, previous, NO_ANSWER))
        return effects

    # --- reports of peers -----------------------------------------------------------------------

    def handle(
        self, message: Ping | PingReq | PingAck | MemberUpdates, sender: PeerId, now: float
    ) -> list[Effect]:
        """Handle a message of `sender`. `membership` has applied its records already."""
        match message:
            case Ping(number, updates):
                handled = self._on_updates(updates, sender, now)
                return [Send((sender,), PingAck(number, True)), *handled]
            case MemberUpdates(updates):
                return self._on_updates(updates, sender, now)
            case PingReq():
                effects = self.prober.on_ping_req(message, sender, now)
                self._rearm(now)
                return effects
            case PingAck():
                self.prober.on_ping_ack(message, sender)
                return []
            case _:
                assert_never(message)

    def _on_updates(
        self, updates: tuple[MemberUpdate, ...], sender: PeerId, now: float
    ) -> list[Effect]:
        """Apply updates, and send `sender` newer ones in one message where it lags behind and
        gossip would not reach it soon.
        """
        effects: list[Effect] = []
        answers: list[MemberUpdate] = []
        for update in updates:
            if update.record.peer_id != self._identity.peer_id:
                effects += self._on_update(update, sender, answers, now)
        fitting = fit_updates(answers)
        return [*effects, Send((sender,), MemberUpdates(fitting))] if fitting else effects

    def _on_update(
        self, update: MemberUpdate, sender: PeerId, answers: list[MemberUpdate], now: float
    ) -> list[Effect]:
        """Apply one update. Only accusations of the latest incarnation count."""
        record = update.record
        peer_id = record.peer_id
        member = self._members.get(peer_id)
        if member is None or member.status is MemberStatus.LEFT:
            return []
        if record.version != member.record.version or not update.accusations:
            if record.version < member.record.version and update.accusations:
                answers.append(MemberUpdate(member.record))
            elif record.version == member.record.version and peer_id not in self.suspicions:
                self.gossiper.queue.note_sent(peer_id, 1)
            return []
        suspicion = self.suspicions.get(peer_id)
        known_accusations = suspicion.accusations if suspicion is not None else {}
        new_accusations: list[Accusation] = []
        for each in update.accusations:
            if not self._is_credible(each.accuser, now):
                continue
            if len(known_accusations) + len(
                new_accusations
            ) < ACCUSERS_LIMIT and self._is_new_accusation(each, suspicion, member):
                if not self._source_limiter.try_take((sender,), now):
                    return [CountDrop(sender, DropReason.SIGNATURE_BUDGET)]
                if not each.is_authentic(self._config.current.cluster, member.record):
                    return [CountDrop(sender, DropReason.BAD_SIGNATURE)]
                if self._accuser_limiter.try_take((each.accuser,), now):
                    new_accusations.append(each)
        if suspicion is not None and not suspicion.is_cleared and not new_accusations:
            if len(update.accusations) >= len(known_accusations):
                self.gossiper.queue.note_sent(peer_id, 1)  # the sender knows as much
            elif peer_id not in self.gossiper.queue:
                answers.append(suspicion.member_update)
        return self._on_accusations(member, new_accusations, now)

    def _is_credible(self, accuser: PeerId, now: float) -> bool:
        """Whether accusations of `accuser` count: identities can be made as fast as accusations."""
        member = self._members.get(accuser)
        if member is None:
            return accuser == self._identity.peer_id
        return member.was_linked or now - member.known_at >= ACCUSER_MIN_AGE_S

    def _is_new_accusation(
        self, accusation: Accusation, suspicion: Suspicion | None, member: Member
    ) -> bool:
        """Whether the accusation is new. A node does not accuse itself, and we know our own
        accusations.
        """
        if accusation.accuser in (member.record.peer_id, self._identity.peer_id):
            return False
        return suspicion is None or accusation.accuser not in suspicion.accusations

    def _on_accusations(
        self, member: Member, new_accusations: list[Accusation], now: float
    ) -> list[Effect]:
        """Apply new accusations: probe a linked member ourselves, suspect any other."""
        suspicion = (
            self._open_suspicion(member, now, accused_by_us=False) if new_accusations else None
        )
        if suspicion is None:
            return []
        is_first = not suspicion.accusations
        for each in new_accusations:
            self.suspicions.add(suspicion, each)
        peer_id = member.record.peer_id
        if self._peers.is_linked(peer_id) and not suspicion.accused_by_us:
            self.suspicions.hold(suspicion)
            if is_first and peer_id not in self.prober.probes:
                self.prober.start(peer_id, now)
            self.prober.expedite(peer_id, now)
            self._rearm(now)
            return []
        if suspicion.is_cleared:
            self.suspicions.reopen(suspicion, now)
        self._gossip_update(peer_id, now)
        return self._suspect(member, f"accused by {self._accusers(suspicion)}", now)

    def correct_sender(self, record: PeerRecord, sender: PeerId) -> list[Effect]:
        """Answer a record that `sender` sent of a member declared dead here with the accusations."""
        suspicion = self.suspicions.get(record.peer_id)
        if (
            suspicion is None
            or not suspicion.is_declared_dead
            or record.version > suspicion.record.version
        ):
            return []
        return [Send((sender,), MemberUpdates((suspicion.member_update,)))]

    # --- suspicion lifecycle --------------------------------------------------------------------

    def _open_suspicion(
        self, member: Member, now: float, *, accused_by_us: bool
    ) -> Suspicion | None:
        detection = self._config.current.detection
        return self.suspicions.open(
            member.record,
            now,
            members=len(self._members) + 1,
            per_decade_s=detection.suspicion_timeout,
            max_factor=detection.suspicion_max_factor,
            accused_by_us=accused_by_us,
        )

    def _suspect(self, member: Member, reason: str, now: float) -> list[Effect]:
        self._rearm(now)
        return (
            [member.set_status(MemberStatus.SUSPECT, reason, now)]
            if member.status is MemberStatus.UP
            else []
        )

    def _accusers(self, suspicion: Suspicion) -> str:
        """The names of the accusers, at most `ACCUSERS_LIMIT`, for people."""
        names = []
        for peer_id in suspicion.accusations:
            member = self._members.get(peer_id)
            name = "" if member is None else member.record.name
            is_local = peer_id == self._identity.peer_id
            names.append("this node" if is_local else name or peer_id.short)
        return ", ".join(names)

    def _restore_up(self, member: Member, reason: str, now: float) -> list[Effect]:
        if member.status in (MemberStatus.SUSPECT, MemberStatus.DOWN):
            return [member.set_status(MemberStatus.UP, reason, now)]
        return []

    def _on_suspicion_expired(
        self, subject: PeerId, suspicion: Suspicion, now: float
    ) -> list[Effect]:
        """Close a refuted suspicion, or declare the member dead."""
        self.gossiper.cancel_query(subject)
        member = self._members.get(subject)
        if suspicion.is_cleared or member is None:
            self._close_suspicion(subject)
            return []
        self.suspicions.declare_dead(suspicion)
        if member.status is not MemberStatus.SUSPECT:
            return []
        reason = (
            f"suspect for {now - suspicion.opened_at:.1f} s without refuting it; "
            f"accused by {self._accusers(suspicion)}"
        )
        return [member.set_status(MemberStatus.DOWN, reason, now)]

    def tracks(self, peer_id: PeerId) -> bool:
        """Whether a packet of this peer matters here: it is probed or suspected."""
        return (
            peer_id in self._suspected
            or peer_id in self._probed
            or peer_id in self._probed_for_others
        )

    def on_packet(self, peer_id: PeerId, now: float) -> list[Effect]:
        """A packet of a linked peer was authenticated: it is alive, whatever others report."""
        effects = self.prober.on_packet(peer_id, now)
        suspicion = self.suspicions.get(peer_id)
        if suspicion is not None and not suspicion.is_cleared:
            effects += self._clear_suspicion(peer_id, suspicion, now)
        self._rearm(now)
        return effects

    def _clear_suspicion(self, peer_id: PeerId, suspicion: Suspicion, now: float) -> list[Effect]:
        """Clear the suspicion and ping its subject. Only the subject itself can refute what we have
        gossiped.
        """
        self.suspicions.clear(suspicion, now)
        self.gossiper.cancel_query(peer_id)
        member = self._members.get(peer_id)
        restored = [] if member is None else self._restore_up(member, "heard from it again", now)
        return [*restored, self.prober.ping(peer_id, now)]

    def on_link_up(self, member: Member, now: float) -> list[Effect]:
        """A session with `member` is live."""
        peer_id = member.record.peer_id
        self.prober.on_link_up(peer_id)
        effects = self.on_new_incarnation(member, now)
        suspicion = self.suspicions.get(peer_id)
        if suspicion is not None:
            effects += self._clear_suspicion(peer_id, suspicion, now)
        return effects + self._restore_up(member, "connected", now)

    def on_link_down(self, peer_id: PeerId, now: float) -> list[Effect]:
        """The link is gone, so we can no longer probe. If a probe was running, accusations of
        others count.
        """
        if not self.prober.on_link_down(peer_id):
            return []
        suspicion, member = self.suspicions.get(peer_id), self._members.get(peer_id)
        if suspicion is None or member is None or not suspicion.is_cleared:
            return []
        self.suspicions.reopen(suspicion, now)
        self._gossip_update(peer_id, now)
        return self._suspect(member, f"accused by {self._accusers(suspicion)}", now)

    def on_unreachable(self, member: Member, reason: str, now: float) -> list[Effect]:
        """A link ended without a Close, or a dial was not answered, as `reason` says."""
        is_heard_by_others = self.prober.is_heard_by_others(member.record.peer_id, now)
        if member.status is not MemberStatus.UP or is_heard_by_others:
            return []
        return self._accuse(member, reason, now, now)

    def request_refutation(self, record: PeerRecord) -> Effect:
        """A member that was declared dead and removed is linked again in the same epoch: send it an
        accusation, so that it refutes with a newer record, which every node accepts.
        """
        own_accusation = Accusation.signed(self._identity, self._config.current.cluster, record)
        return Send((record.peer_id,), MemberUpdates((MemberUpdate(record, (own_accusation,)),)))

    def on_leave(self, peer_id: PeerId) -> None:
        """The member left by its own record: close its suspicion."""
        self._close_suspicion(peer_id)

    def _close_suspicion(self, subject: PeerId) -> None:
        self.suspicions.close(subject)
        self.gossiper.remove(subject)

    def on_new_incarnation(self, member: Member, now: float) -> list[Effect]:
        """A newer record of `member` was applied: suspicions of the previous version are void."""
        record = member.record
        suspicion = self.suspicions.get(record.peer_id)
        if suspicion is None or suspicion.record.version >= record.version:
            return []
        self._close_suspicion(record.peer_id)
        self._gossip_update(record.peer_id, now)
        return self._restore_up(member, "it refuted the suspicion", now)

    # --- time and gossip ------------------------------------------------------------------------

    def on_lag(self, lag_s: float, now: float) -> None:
        """Lower our confidence in our own timers after event loop lag of `lag_s`."""
        self.awareness.on_lag(lag_s, now)

    def shift_deadlines(self, late_s: float, now: float) -> None:
        """Shift all deadlines by `late_s`, during which this node was stalled, and lower our
        confidence.
        """
        self.awareness.on_lag(late_s, now)
        for suspicion in self.suspicions.shift_deadlines(late_s):
            self.gossiper.enqueue_final_query(suspicion.record, now)
        self.prober.probes.shift_deadlines(late_s)
        self._rearm(now)

    def advance(self, now: float) -> list[Effect]:
        """Do what is due: pings, expired suspicions, gossip."""
        self.awareness.decay(now)
        if now < self.deadline:
            return []
        effects: list[Effect] = []
        for peer_id, probe in self.prober.probes.pop_due(now):
            probe_effects = self.prober.next_ping(peer_id, probe, now)
            if probe_effects is None:
                probe_effects = self._on_probe_failed(
                    peer_id, self.prober.probing_since(probe, now), now
                )
            effects += probe_effects
        effects += self.prober.answer_expired(now)
        for subject, suspicion in self.suspicions.pop_due(now):
            if suspicion.is_cleared or suspicion.has_sent_queries:
                effects += self._on_suspicion_expired(subject, suspicion, now)
            # ask others first: the refutation may have been lost or died out before it reached us
            else:
                self.suspicions.record_final_query(suspicion, now)
                self.gossiper.enqueue_final_query(suspicion.record, now)
        effects += self.gossiper.advance(now)
        self._rearm(now)
        return effects

    def _gossip_update(self, peer_id: PeerId, now: float) -> None:
        """Gossip the changed status of a member."""
        member = self._members.get(peer_id)
        if member is not None:
            self.gossiper.enqueue(member.record, len(self._members) + 1, now)
            self._rearm(now)

    def _update_for(self, record: PeerRecord) -> MemberUpdate:
        """Our update about the subject of `record`, with accusations if it is suspected."""
        suspicion = self.suspicions.get(record.peer_id)
        return (
            suspicion.member_update
            if suspicion is not None and not suspicion.is_cleared
            else MemberUpdate(record)
        )

    def _rearm(self, now: float) -> None:
        """Set the deadline to the earliest of all components, at least `now`."""
        deadline = min(self.gossiper.deadline, self.suspicions.deadline, self.prober.deadline)
        self.deadline = max(deadline, now) if deadline < math.inf else deadline
