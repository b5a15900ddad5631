"""Our own eyes: who of those linked is silent for longer than he should be, is probed, by us and through
others; and for others we look as well.

What must stay true:

- A link that speaks when it should costs nothing: only one whose heartbeat has not come is probed, in that
  very instant, whatever else it said shortly before, unless it is saying something.
- Who hears nobody, nor from those asked to help, finds nobody silent but himself.
- Somebody whom others hear is not found silent for a road that is broken between us, unless so many sign
  that he does not answer that those who say so are not believed.

Mechanism of `detector`, which opens cases on those found silent; it has deadlines of its own.
"""

from __future__ import annotations

import math
import random
from typing import Final

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.effects import Effect, Send
from grapevine_proto.overlay.peers import Peer, PeerTable
from grapevine_proto.overlay.swim.indirect_probes import (
    PINGS_PER_PROBE,
    IndirectProbe,
    IndirectProbes,
    Probe,
    ProbeTable,
)
from grapevine_proto.overlay.swim.suspicion import Awareness
from grapevine_proto.overlay.swim.suspicion_table import SuspicionTable
from grapevine_proto.overlay.topology.selection import uniform
from grapevine_proto.wire.messages import MemberUpdate, Ping, PingAck, PingReq

MAJORITY_ACCUSERS: Final = 2  # accusers, against anybody's word that it lives: that is not signed
HELPER_CHECK_PINGS: Final = (
    4,
    PINGS_PER_PROBE,
)  # pings, after which those asked have had time to answer
INDIRECT_PROBE_FRACTION: Final = (
    0.8  # of a probe's timeout, within which we answer for somebody else
)


class Prober:
    """See the module. `awareness` is ours, and `suspicions` say what the probed are accused of."""

    def __init__(
        self,
        config: NodeConfig,
        peers: PeerTable,
        suspicions: SuspicionTable,
        awareness: Awareness,
        rng: random.Random,
        now: float,
    ) -> None:
        self._config = config
        self._peers = peers
        self._suspicions = suspicions
        self._awareness = awareness
        self._rng = rng
        self._heard_by_others_at: dict[
            PeerId, float
        ] = {}  # linked, silent, and heard by others: when
        self.last_heard_at = now  # anybody linked
        self.probes = ProbeTable()
        self.indirect_probes = IndirectProbes()

    def reconfigure(self, config: NodeConfig) -> None:
        self._config = config

    @property
    def _ping_timeout_s(self) -> float:
        return self._config.detection.probe_timeout * self._awareness.multiplier

    @property
    def _normal_duration_s(self) -> float:
        """What a probe takes where we are well."""
        return (PINGS_PER_PROBE + 1) / 2 * self._config.detection.probe_timeout

    @property
    def _retry_interval_s(self) -> float:
        return self._config.detection.probe_interval * self._awareness.multiplier

    # --- ours -----------------------------------------------------------------------------------

    def check_peer(self, peer: Peer, now: float) -> list[Effect]:
        """At every look: probe a linked peer as soon as it has missed a heartbeat and says nothing else."""
        if peer.peer_id in self.probes:
            return []
        interval_s = check_interval_s(self._config)
        # Heartbeats come a tenth of the interval late, and half of what passes between two looks of
        # whoever sends them; and then there is the way.
        expected_by_s = (
            1.1 * self._config.gossip_interval + 0.5 * interval_s + 0.5 * self._ping_timeout_s
        )
        missed_at = max(
            peer.heartbeat_expected_from + expected_by_s, peer.last_heard_at + interval_s
        )
        if missed_at < now + interval_s:
            self.start(peer.peer_id, max(missed_at, now))
        return self._notify_accused(peer.peer_id, now)

    def start(self, peer_id: PeerId, at: float) -> None:
        """Probe a peer, from `at` on, unless it is heard before."""
        self.probes.start(peer_id, at)

    def expedite(self, peer_id: PeerId, now: float) -> None:
        """Others accuse somebody whose probe may be pausing."""
        self.probes.expedite(peer_id, now + self._ping_timeout_s)

    def ping(self, peer_id: PeerId, now: float) -> Send:
        """With what is said against the receiver, which may refute it."""
        probe, suspicion = self.probes.get(peer_id), self._suspicions.get(peer_id)
        updates: tuple[MemberUpdate, ...] = ()
        if suspicion is not None and suspicion.accusations:
            updates = (suspicion.member_update,)
            suspicion.subject_notified_at = now
        return Send((peer_id,), Ping(probe.number if probe else 0, updates))

    def _notify_accused(self, peer_id: PeerId, now: float) -> list[Effect]:
        """Tell a peer that we hear, until it refutes it, what others say against it."""
        suspicion = self._suspicions.get(peer_id)
        pause_s = self._config.detection.probe_interval
        if (
            suspicion is None
            or not suspicion.is_cleared
            or now < suspicion.subject_notified_at + pause_s
        ):
            return []
        return [self.ping(peer_id, now)]

    def next_ping(self, peer_id: PeerId, probe: Probe, now: float) -> list[Effect] | None:
        """A ping's time is over: try once more, by other ways too. None: that was the last, and the peer
        is found silent, from now on to be pinged until it is heard or given up."""
        if probe.is_accused:
            self.probes.reschedule(peer_id, now + self._retry_interval_s)
            return [self.ping(peer_id, now)]
        if probe.pings_sent in HELPER_CHECK_PINGS:
            self._probe_unresponsive_helpers(probe, now)
        peer = self._peers.get(peer_id)
        is_unresponsive = (
            probe.pings_sent == PINGS_PER_PROBE or now - probe.started_at >= self._normal_duration_s
        )
        if peer is not None and is_unresponsive:
            peer.is_unresponsive = (
                True  # however little we trust ourselves, another link does no harm
            )
        if probe.pings_sent == PINGS_PER_PROBE:
            if self._retry_if_doubtful(peer_id, probe, now):
                return []
            probe.is_accused = True
            self.probes.reschedule(peer_id, now)
            return None
        probe.pings_sent += 1
        timeouts = 1.0 if probe.pings_sent == PINGS_PER_PROBE else 0.5
        self.probes.reschedule(peer_id, now + timeouts * self._ping_timeout_s)
        effects: list[Effect] = [self.ping(peer_id, now)]
        if probe.pings_sent % 2 == 0:
            effects += self._send_ping_reqs(peer_id, probe, now)
        return effects

    def _send_ping_reqs(self, peer_id: PeerId, probe: Probe, now: float) -> list[Effect]:
        helpers = uniform(
            self._peers.linked,
            self._config.detection.indirect_probes,
            self._rng,
            exclude=[peer_id, *probe.helpers],
        )
        probe.helpers.update(dict.fromkeys(helpers, now))
        return [Send(tuple(helpers), PingReq(probe.number, peer_id))] if helpers else []

    def _probe_unresponsive_helpers(self, probe: Probe, now: float) -> None:
        """Who does not answer when asked to help may be gone as well: where many die at once, whoever misses
        one soon knows of all of his."""
        for peer_id, requested_at in probe.helpers.items():
            peer = self._peers.get(peer_id)
            if peer is None or peer.last_heard_at >= requested_at or peer_id in self.probes:
                continue
            if (
                self._peers.is_linked(peer_id)
                and now - requested_at > INDIRECT_PROBE_FRACTION * self._ping_timeout_s
            ):
                self.start(peer_id, now)

    def _retry_if_doubtful(self, peer_id: PeerId, probe: Probe, now: float) -> bool:
        """Whether what we miss may be no fault of the peer's."""
        if probe.heard_by_others and not self.has_majority_against(
            peer_id
        ):  # only our road to it is broken
            self._heard_by_others_at[peer_id] = now
            self.start(peer_id, now + self._config.gossip_interval)
            return True
        if probe.helpers and not probe.has_helper_answers:
            self._awareness.increment(now)
            if self.last_heard_at < probe.started_at:  # it is we who are cut off
                self.start(peer_id, now + self._retry_interval_s)
                return True
        return False

    def probing_since(self, probe: Probe, now: float) -> float:
        """Since when a peer that was found silent has been asked for a word. Where that took longer than
        it does, we trust ourselves less, which is no reason for haste."""
        return max(probe.started_at, now - self._normal_duration_s)

    def has_majority_against(self, peer_id: PeerId) -> bool:
        """Whether so many sign that it does not answer that whoever says it lives is not believed."""
        suspicion = self._suspicions.get(peer_id)
        return suspicion is not None and len(suspicion.accusations) >= MAJORITY_ACCUSERS

    # --- for others -----------------------------------------------------------------------------

    def on_ping_req(self, ping_req: PingReq, requester: PeerId, now: float) -> list[Effect]:
        """`requester` does not hear somebody to whom we may be linked."""
        number, subject = ping_req.number, ping_req.subject
        peer = self._peers.get(subject)
        if peer is None or not self._peers.is_linked(subject):
            return [Send((requester,), PingAck(number, False))]
        detection = self._config.detection
        if now - peer.last_heard_at < detection.probe_timeout:
            return [Send((requester,), PingAck(number, True))]
        indirect_probe = IndirectProbe(
            requester, number, now + INDIRECT_PROBE_FRACTION * detection.probe_timeout
        )
        if not self.indirect_probes.add(subject, indirect_probe):
            return [Send((requester,), PingAck(number, False))]
        return [self.ping(subject, now)]

    def on_ping_ack(self, ack: PingAck, sender: PeerId) -> None:
        """An answer of the peer itself has already ended its probe, as anything heard of it does."""
        probe = self.probes.find_by_number(ack.number)
        if probe is not None and sender in probe.helpers:
            probe.has_helper_answers = True
            probe.heard_by_others = probe.heard_by_others or ack.is_alive

    # --- what becomes of links ------------------------------------------------------------------

    def tracks(self, peer_id: PeerId) -> bool:
        """Whether a word of this peer matters here."""
        return peer_id in self.probes or peer_id in self.indirect_probes

    def on_packet(self, peer_id: PeerId, now: float) -> list[Effect]:
        """A packet of a linked peer opened: it lives, and whoever asked for it is told."""
        probe, peer = self.probes.remove(peer_id), self._peers.get(peer_id)
        if probe is not None:
            self._heard_by_others_at.pop(peer_id, None)
        if peer is not None:
            peer.is_unresponsive = False
        if probe is not None and probe.pings_sent and peer is not None:
            self._awareness.decrement(now)
            # Its heartbeat was lost, and the next will not come later for that.
            interval_s = self._config.gossip_interval
            peer.heartbeat_expected_from = max(
                peer.heartbeat_expected_from + interval_s, now - interval_s
            )
        return [
            Send((indirect_probe.requester,), PingAck(indirect_probe.number, True))
            for indirect_probe in self.indirect_probes.pop_subject(peer_id)
        ]

    def on_link_up(self, peer_id: PeerId) -> None:
        """A session with it is live."""
        self._heard_by_others_at.pop(peer_id, None)

    def on_link_down(self, peer_id: PeerId) -> bool:
        """There is no link to look at any more; whether it had been asked for a word."""
        probe = self.probes.remove(peer_id)
        return probe is not None and probe.pings_sent > 0

    def is_heard_by_others(self, peer_id: PeerId, now: float) -> bool:
        """Whether others heard somebody whose link is lost."""
        reported_at = self._heard_by_others_at.pop(peer_id, -math.inf)
        return now - reported_at < self._config.peer_timeout and not self.has_majority_against(
            peer_id
        )

    def health_reason(self, peer_id: PeerId) -> str:
        """For people: what is wrong with a linked peer."""
        probe = self.probes.get(peer_id)
        if probe is not None and probe.is_accused:
            return "does not answer, nor through others"
        if peer_id in self._heard_by_others_at:
            return "heard by others, not by us"
        return "being probed" if probe is not None and probe.pings_sent else ""

    # --- time -----------------------------------------------------------------------------------

    def answer_expired(self, now: float) -> list[Effect]:
        """What we did not find out in time for others."""
        return [
            Send((indirect_probe.requester,), PingAck(indirect_probe.number, False))
            for indirect_probe in self.indirect_probes.pop_expired(now)
        ]

    @property
    def deadline(self) -> float:
        return min(self.indirect_probes.deadline, self.probes.deadline)


def check_interval_s(config: NodeConfig) -> float:
    """How often linked peers are looked after."""
    return min(config.gossip_interval / 4, 1.0)
