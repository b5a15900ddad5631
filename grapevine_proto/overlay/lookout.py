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

from grapevine_proto.config import NodeConfig
from grapevine_proto.ids import PeerId
from grapevine_proto.messages import Ack, Opinion, Ping, PingFor
from grapevine_proto.overlay.cases import Cases
from grapevine_proto.overlay.effects import Effect, Send
from grapevine_proto.overlay.peers import Peer, PeerTable
from grapevine_proto.overlay.probes import PINGS, Errand, Errands, Probe, Probes
from grapevine_proto.overlay.selection import uniform
from grapevine_proto.overlay.suspicion import OwnHealth

OUTVOTING: Final = 2  # accusers, against anybody's word that it lives: that is not signed
LOOKS_AROUND: Final = (4, PINGS)  # pings, after which those asked have had time to answer
ERRAND_SHARE: Final = 0.8  # of a probe's timeout, within which we answer for somebody else


class Lookout:
    """See the module. `health` is ours, and `cases` say what the probed are accused of."""

    def __init__(
        self,
        config: NodeConfig,
        peers: PeerTable,
        cases: Cases,
        health: OwnHealth,
        rng: random.Random,
        now: float,
    ) -> None:
        self._config = config
        self._peers = peers
        self._cases = cases
        self._health = health
        self._rng = rng
        self._vouched: dict[PeerId, float] = {}  # linked, silent, and heard by others: when
        self.heard_at = now  # anybody linked
        self.probes = Probes()
        self.errands = Errands()

    def reconfigure(self, config: NodeConfig) -> None:
        self._config = config

    @property
    def _timeout_s(self) -> float:
        return self._config.detection.probe_timeout * self._health.stretch

    @property
    def _usual_s(self) -> float:
        """What a probe takes where we are well."""
        return (PINGS + 1) / 2 * self._config.detection.probe_timeout

    @property
    def _pause_s(self) -> float:
        return self._config.detection.probe_interval * self._health.stretch

    # --- ours -----------------------------------------------------------------------------------

    def watch(self, peer: Peer, now: float) -> list[Effect]:
        """At every look: probe a linked peer as soon as it has missed a heartbeat and says nothing else."""
        if peer.peer_id in self.probes:
            return []
        look_s = look_every_s(self._config)
        # Heartbeats come a tenth of the interval late, and half of what passes between two looks of
        # whoever sends them; and then there is the way.
        usual_s = 1.1 * self._config.gossip_interval + 0.5 * look_s + 0.5 * self._timeout_s
        missed_at = max(peer.beat_at + usual_s, peer.silent_since + look_s)
        if missed_at < now + look_s:
            self.begin(peer.peer_id, max(missed_at, now))
        return self._remind(peer.peer_id, now)

    def begin(self, peer_id: PeerId, at: float) -> None:
        """Probe a peer, from `at` on, unless it is heard before."""
        self.probes.begin(peer_id, at)

    def hurry(self, peer_id: PeerId, now: float) -> None:
        """Others accuse somebody whose probe may be pausing."""
        self.probes.hurry(peer_id, now + self._timeout_s)

    def ping(self, peer_id: PeerId, now: float) -> Send:
        """With what is said against the receiver, which may refute it."""
        probe, case = self.probes.get(peer_id), self._cases.get(peer_id)
        opinions: tuple[Opinion, ...] = ()
        if case is not None and case.accusations:
            opinions = (case.opinion,)
            case.told_at = now
        return Send((peer_id,), Ping(probe.number if probe else 0, opinions))

    def _remind(self, peer_id: PeerId, now: float) -> list[Effect]:
        """Tell a peer that we hear, until it refutes it, what others say against it."""
        case = self._cases.get(peer_id)
        pause_s = self._config.detection.probe_interval
        if case is None or not case.is_dismissed or now < case.told_at + pause_s:
            return []
        return [self.ping(peer_id, now)]

    def step(self, peer_id: PeerId, probe: Probe, now: float) -> list[Effect] | None:
        """A ping's time is over: try once more, by other ways too. None: that was the last, and the peer
        is found silent, from now on to be pinged until it is heard or given up."""
        if probe.is_accused:
            self.probes.go_on(peer_id, now + self._pause_s)
            return [self.ping(peer_id, now)]
        if probe.pings in LOOKS_AROUND:
            self._look_at_helpers(probe, now)
        peer = self._peers.get(peer_id)
        is_over = probe.pings == PINGS or now - probe.began_at >= self._usual_s
        if peer is not None and is_over:
            peer.is_unresponsive = (
                True  # however little we trust ourselves, another link does no harm
            )
        if probe.pings == PINGS:
            if self._is_to_be_tried_again(peer_id, probe, now):
                return []
            probe.is_accused = True
            self.probes.go_on(peer_id, now)
            return None
        probe.pings += 1
        patience = 1.0 if probe.pings == PINGS else 0.5
        self.probes.go_on(peer_id, now + patience * self._timeout_s)
        effects: list[Effect] = [self.ping(peer_id, now)]
        if probe.pings % 2 == 0:
            effects += self._ask_others(peer_id, probe, now)
        return effects

    def _ask_others(self, peer_id: PeerId, probe: Probe, now: float) -> list[Effect]:
        others = uniform(
            self._peers.linked,
            self._config.detection.indirect_probes,
            self._rng,
            but=[peer_id, *probe.asked],
        )
        probe.asked.update(dict.fromkeys(others, now))
        return [Send(tuple(others), PingFor(probe.number, peer_id))] if others else []

    def _look_at_helpers(self, probe: Probe, now: float) -> None:
        """Who does not answer when asked to help may be gone as well: where many die at once, whoever misses
        one soon knows of all of his."""
        for peer_id, asked_at in probe.asked.items():
            peer = self._peers.get(peer_id)
            if peer is None or peer.silent_since >= asked_at or peer_id in self.probes:
                continue
            if self._peers.is_linked(peer_id) and now - asked_at > ERRAND_SHARE * self._timeout_s:
                self.begin(peer_id, now)

    def _is_to_be_tried_again(self, peer_id: PeerId, probe: Probe, now: float) -> bool:
        """Whether what we miss may be no fault of the peer's."""
        if probe.is_vouched and not self.is_outvoted(peer_id):  # only our road to it is broken
            self._vouched[peer_id] = now
            self.begin(peer_id, now + self._config.gossip_interval)
            return True
        if probe.asked and not probe.has_answers:
            self._health.failed(now)
            if self.heard_at < probe.began_at:  # it is we who are cut off
                self.begin(peer_id, now + self._pause_s)
                return True
        return False

    def looked_since(self, probe: Probe, now: float) -> float:
        """Since when a peer that was found silent has been asked for a word. Where that took longer than
        it does, we trust ourselves less, which is no reason for haste."""
        return max(probe.began_at, now - self._usual_s)

    def is_outvoted(self, peer_id: PeerId) -> bool:
        """Whether so many sign that it does not answer that whoever says it lives is not believed."""
        case = self._cases.get(peer_id)
        return case is not None and len(case.accusations) >= OUTVOTING

    # --- for others -----------------------------------------------------------------------------

    def run_errand(self, asked: PingFor, asker: PeerId, now: float) -> list[Effect]:
        """`asker` does not hear somebody to whom we may be linked."""
        number, subject = asked.number, asked.subject
        peer = self._peers.get(subject)
        if peer is None or not self._peers.is_linked(subject):
            return [Send((asker,), Ack(number, False))]
        detection = self._config.detection
        if now - peer.silent_since < detection.probe_timeout:
            return [Send((asker,), Ack(number, True))]
        errand = Errand(asker, number, now + ERRAND_SHARE * detection.probe_timeout)
        if not self.errands.add(subject, errand):
            return [Send((asker,), Ack(number, False))]
        return [self.ping(subject, now)]

    def answered(self, ack: Ack, sender: PeerId) -> None:
        """An answer of the peer itself has already ended its probe, as anything heard of it does."""
        probe = self.probes.numbered(ack.number)
        if probe is not None and sender in probe.asked:
            probe.has_answers = True
            probe.is_vouched = probe.is_vouched or ack.is_alive

    # --- what becomes of links ------------------------------------------------------------------

    def is_concerned(self, peer_id: PeerId) -> bool:
        """Whether a word of this peer matters here."""
        return peer_id in self.probes or peer_id in self.errands

    def heard(self, peer_id: PeerId, now: float) -> list[Effect]:
        """A packet of a linked peer opened: it lives, and whoever asked for it is told."""
        probe, peer = self.probes.end(peer_id), self._peers.get(peer_id)
        if probe is not None:
            self._vouched.pop(peer_id, None)
        if peer is not None:
            peer.is_unresponsive = False
        if probe is not None and probe.pings and peer is not None:
            self._health.succeeded(now)
            # Its heartbeat was lost, and the next will not come later for that.
            interval_s = self._config.gossip_interval
            peer.beat_at = max(peer.beat_at + interval_s, now - interval_s)
        return [
            Send((errand.asker,), Ack(errand.number, True)) for errand in self.errands.done(peer_id)
        ]

    def linked(self, peer_id: PeerId) -> None:
        """A session with it is live."""
        self._vouched.pop(peer_id, None)

    def unlinked(self, peer_id: PeerId) -> bool:
        """There is no link to look at any more; whether it had been asked for a word."""
        probe = self.probes.end(peer_id)
        return probe is not None and probe.pings > 0

    def is_heard_elsewhere(self, peer_id: PeerId, now: float) -> bool:
        """Whether others heard somebody whose link is lost."""
        vouched_at = self._vouched.pop(peer_id, -math.inf)
        return now - vouched_at < self._config.peer_timeout and not self.is_outvoted(peer_id)

    def why(self, peer_id: PeerId) -> str:
        """For people: what is wrong with a linked peer."""
        probe = self.probes.get(peer_id)
        if probe is not None and probe.is_accused:
            return "does not answer, nor through others"
        if peer_id in self._vouched:
            return "heard by others, not by us"
        return "being probed" if probe is not None and probe.pings else ""

    # --- time -----------------------------------------------------------------------------------

    def overdue(self, now: float) -> list[Effect]:
        """What we did not find out in time for others."""
        return [
            Send((errand.asker,), Ack(errand.number, False)) for errand in self.errands.overdue(now)
        ]

    @property
    def deadline(self) -> float:
        return min(self.errands.deadline, self.probes.deadline)


def look_every_s(config: NodeConfig) -> float:
    """How often linked peers are looked after."""
    return min(config.gossip_interval / 4, 1.0)
