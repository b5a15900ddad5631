"""The prober: pings linked peers that missed a heartbeat, directly and through helpers, and pings
for others (SWIM, Das 2002, section 3.1).

Invariants:

- A peer that sends its heartbeats on time is never pinged. One whose heartbeat is overdue is pinged
  at that moment, unless other packets are arriving.
- If no member answers, helpers included, this node suspects its own connectivity.
- A peer that others reach is not suspected because our own path is broken, unless
  `MAJORITY_ACCUSERS` signed accusations outweigh the unsigned reports.

A component of `detector`, which opens the suspicions, with its own deadline.
"""

from __future__ import annotations

import math
from typing import Final

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.context import OverlayContext
from grapevine_proto.overlay.effects import Effect, Send
from grapevine_proto.overlay.peers import Peer
from grapevine_proto.overlay.swim.indirect_probes import (
    PINGS_PER_PROBE,
    IndirectProbe,
    IndirectProbes,
    Probe,
    ProbeTable,
)
from grapevine_proto.overlay.swim.lifeguard import Awareness
from grapevine_proto.overlay.swim.suspicion_table import SuspicionTable
from grapevine_proto.overlay.topology.selection import uniform
from grapevine_proto.wire.messages import MemberUpdate, Ping, PingAck, PingReq

# accusations that outweigh a report that it is alive, which is not signed
MAJORITY_ACCUSERS: Final = 2
HELPER_CHECK_PINGS: Final = (
    4,
    PINGS_PER_PROBE,
)  # pings after which helpers have had time to answer
INDIRECT_PROBE_FRACTION: Final = 0.8  # of the ping timeout, within which a helper answers


class Prober:
    """Runs our probes and the indirect probes of others. `awareness` is our own Lifeguard score,
    and `suspicions` holds the accusations that pings carry.
    """

    def __init__(
        self,
        context: OverlayContext,
        suspicions: SuspicionTable,
        awareness: Awareness,
        now: float,
    ) -> None:
        self._config = context.config
        self._peers = context.peers
        self._rng = context.rng
        self._suspicions = suspicions
        self._awareness = awareness
        self._heard_by_others_at: dict[
            PeerId, float
        ] = {}  # linked peers silent here but heard by others: when
        self._started_at = now
        self.probes = ProbeTable()
        self.indirect_probes = IndirectProbes()

    @property
    def _ping_timeout_s(self) -> float:
        return self._config.current.detection.probe_timeout * self._awareness.multiplier

    @property
    def _normal_duration_s(self) -> float:
        """Duration of a probe while our awareness score is 0."""
        return (PINGS_PER_PROBE + 1) / 2 * self._config.current.detection.probe_timeout

    @property
    def _retry_interval_s(self) -> float:
        return self._config.current.detection.probe_interval * self._awareness.multiplier

    # --- own probes -----------------------------------------------------------------------------

    def check_peer(self, peer: Peer, now: float) -> list[Effect]:
        """Start a probe of a linked peer that missed a heartbeat and sends nothing else. Called at
        every check.
        """
        if peer.peer_id in self.probes:
            return []
        interval_s = check_interval_s(self._config.current)
        # A heartbeat is up to a tenth of the interval late, plus half of the sender's check
        # interval, plus the path delay.
        expected_by_s = (
            1.1 * self._config.current.gossip_interval
            + 0.5 * interval_s
            + 0.5 * self._ping_timeout_s
        )
        missed_at = max(
            peer.heartbeat_expected_from + expected_by_s, peer.last_heard_at + interval_s
        )
        if missed_at < now + interval_s:
            self.start(peer.peer_id, max(missed_at, now))
        return self._notify_accused(peer.peer_id, now)

    def start(self, peer_id: PeerId, at: float) -> None:
        """Probe `peer_id` starting at `at`, unless a packet arrives before."""
        self.probes.start(peer_id, at)

    def expedite(self, peer_id: PeerId, now: float) -> None:
        """Send the next ping soon: others accuse a peer whose probe may be pausing."""
        self.probes.expedite(peer_id, now + self._ping_timeout_s)

    def ping(self, peer_id: PeerId, now: float) -> Send:
        """A ping with the accusations against its receiver (Lifeguard, Dadgar 2018, section IV C)."""
        probe, suspicion = self.probes.get(peer_id), self._suspicions.get(peer_id)
        updates: tuple[MemberUpdate, ...] = ()
        if suspicion is not None and suspicion.accusations:
            updates = (suspicion.member_update,)
            suspicion.on_subject_notified(now)
        return Send((peer_id,), Ping(probe.number if probe else 0, updates))

    def _notify_accused(self, peer_id: PeerId, now: float) -> list[Effect]:
        """Send a peer that we hear the accusations against it, periodically until it refutes."""
        suspicion = self._suspicions.get(peer_id)
        pause_s = self._config.current.detection.probe_interval
        if (
            suspicion is None
            or not suspicion.is_cleared
            or now < suspicion.subject_notified_at + pause_s
        ):
            return []
        return [self.ping(peer_id, now)]

    def next_ping(self, peer_id: PeerId, probe: Probe, now: float) -> list[Effect] | None:
        """Take the next step of a probe whose ping timed out: ping again, also through helpers.

        Returns None if this was the last ping and the peer is to be accused. It is then pinged
        until it is heard or removed.
        """
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
            # regardless of our awareness score: another link does no harm
            peer.on_probe_timeout()
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
            self._config.current.detection.indirect_probes,
            self._rng,
            exclude=[peer_id, *probe.helpers],
        )
        probe.helpers.update(dict.fromkeys(helpers, now))
        return [Send(tuple(helpers), PingReq(probe.number, peer_id))] if helpers else []

    def _probe_unresponsive_helpers(self, probe: Probe, now: float) -> None:
        """Probe helpers that did not answer: they may be down too. If many peers die at once, a
        node that misses one soon knows of all of them.
        """
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
        """Restart the probe if the fault may not be the peer's: our path to it is broken, or we are
        cut off.
        """
        if probe.heard_by_others and not self.has_majority_against(
            peer_id
        ):  # only our path to it is broken
            self._heard_by_others_at[peer_id] = now
            self.start(peer_id, now + self._config.current.gossip_interval)
            return True
        if probe.helpers and not probe.has_helper_answers:
            self._awareness.increment(now)
            last_heard_at = max(self._peers.last_heard_at, self._started_at)
            if last_heard_at < probe.started_at:  # we are cut off
                self.start(peer_id, now + self._retry_interval_s)
                return True
        return False

    def probing_since(self, probe: Probe, now: float) -> float:
        """Since when the peer has been probed, at most the normal duration of a probe ago. A longer
        probe means that we trust ourselves less, which is no reason to shorten the suspicion.
        """
        return max(probe.started_at, now - self._normal_duration_s)

    def has_majority_against(self, peer_id: PeerId) -> bool:
        """Whether enough members sign accusations to outweigh reports that the peer is alive."""
        suspicion = self._suspicions.get(peer_id)
        return suspicion is not None and len(suspicion.accusations) >= MAJORITY_ACCUSERS

    # --- indirect probes ------------------------------------------------------------------------

    def on_ping_req(self, ping_req: PingReq, requester: PeerId, now: float) -> list[Effect]:
        """Handle a ping-req: ping its subject if linked, or answer at once."""
        number, subject = ping_req.number, ping_req.subject
        peer = self._peers.get(subject)
        if peer is None or not self._peers.is_linked(subject):
            return [Send((requester,), PingAck(number, False))]
        detection = self._config.current.detection
        if now - peer.last_heard_at < detection.probe_timeout:
            return [Send((requester,), PingAck(number, True))]
        indirect_probe = IndirectProbe(
            requester, number, now + INDIRECT_PROBE_FRACTION * detection.probe_timeout
        )
        if not self.indirect_probes.add(subject, indirect_probe):
            return [Send((requester,), PingAck(number, False))]
        return [self.ping(subject, now)]

    def on_ping_ack(self, ack: PingAck, sender: PeerId) -> None:
        """Record the answer of a helper. An answer of the probed peer itself has already ended the
        probe, like any other packet.
        """
        probe = self.probes.find_by_number(ack.number)
        if probe is not None and sender in probe.helpers:
            probe.has_helper_answers = True
            probe.heard_by_others = probe.heard_by_others or ack.is_alive

    # --- link events ----------------------------------------------------------------------------

    def on_packet(self, peer_id: PeerId, now: float) -> list[Effect]:
        """A packet of a linked peer was authenticated: end its probes and answer their requesters."""
        probe, peer = self.probes.remove(peer_id), self._peers.get(peer_id)
        if probe is not None:
            self._heard_by_others_at.pop(peer_id, None)
        if peer is not None:
            peer.on_responsive()
        if probe is not None and probe.pings_sent and peer is not None:
            self._awareness.decrement(now)
            peer.excuse_heartbeat(self._config.current.gossip_interval, now)
        return [
            Send((indirect_probe.requester,), PingAck(indirect_probe.number, True))
            for indirect_probe in self.indirect_probes.pop_subject(peer_id)
        ]

    def on_link_up(self, peer_id: PeerId) -> None:
        """A session with `peer_id` is live."""
        self._heard_by_others_at.pop(peer_id, None)

    def on_link_down(self, peer_id: PeerId) -> bool:
        """The link is gone; whether `peer_id` had been pinged."""
        probe = self.probes.remove(peer_id)
        return probe is not None and probe.pings_sent > 0

    def is_heard_by_others(self, peer_id: PeerId, now: float) -> bool:
        """Whether others recently heard a peer whose link is lost. Forgets the report."""
        reported_at = self._heard_by_others_at.pop(peer_id, -math.inf)
        return (
            now - reported_at < self._config.current.peer_timeout
            and not self.has_majority_against(peer_id)
        )

    def health_reason(self, peer_id: PeerId) -> str:
        """What is wrong with a linked peer, for display; empty if nothing is."""
        probe = self.probes.get(peer_id)
        if probe is not None and probe.is_accused:
            return "does not answer, directly or through others"
        if peer_id in self._heard_by_others_at:
            return "heard by others, not by us"
        return "being probed" if probe is not None and probe.pings_sent else ""

    # --- time -----------------------------------------------------------------------------------

    def answer_expired(self, now: float) -> list[Effect]:
        """Negative answers to indirect probes that expired."""
        return [
            Send((indirect_probe.requester,), PingAck(indirect_probe.number, False))
            for indirect_probe in self.indirect_probes.pop_expired(now)
        ]

    @property
    def deadline(self) -> float:
        return min(self.indirect_probes.deadline, self.probes.deadline)


def check_interval_s(config: NodeConfig) -> float:
    """Interval in seconds between two checks of the linked peers."""
    return min(config.gossip_interval / 4, 1.0)
