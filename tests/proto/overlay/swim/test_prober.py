"""The prober: which peers are pinged, when, and what follows from no answer."""

from __future__ import annotations

from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.effects import Effect, Send
from grapevine_proto.overlay.peers import Peer, PeerTable
from grapevine_proto.overlay.swim.prober import Prober
from grapevine_proto.overlay.swim.suspicion import Awareness
from grapevine_proto.overlay.swim.suspicion_table import SuspicionTable
from grapevine_proto.wire.messages import Ping, PingAck, PingReq
from tests.proto.overlay.builders import NodeTables, peer_id

PROBE_S = 1.5  # five pings under the lan profile


class ProbingNode:
    """Node 0, linked to peers from 1 on, all of which it heard at time 0."""

    def __init__(self, links: int) -> None:
        tables = NodeTables(*range(1, links + 1))
        self.peers: PeerTable = tables.peers
        self.awareness = Awareness(0.0)
        self.prober = Prober(tables.context, SuspicionTable(), self.awareness, 0.0)
        self.accused: list[PeerId] = []

    def peer(self, number: int) -> Peer:
        peer = self.peers.get(peer_id(number))
        assert peer is not None
        return peer

    def receive_from(self, number: int, now: float) -> None:
        self.peer(number).last_heard_at = self.prober.last_heard_at = now
        self.prober.on_packet(peer_id(number), now)

    def advance_to(
        self, end: float, *, answering: set[int] | None = None
    ) -> list[tuple[float, Effect]]:
        """Advance time to `end`; helpers in `answering` report that they do not reach the subject
        either.
        """
        sent: list[tuple[float, Effect]] = []
        while self.prober.probes.deadline <= end:
            now = self.prober.probes.deadline
            for subject, probe in self.prober.probes.pop_due(now):
                effects = self.prober.next_ping(subject, probe, now)
                if effects is None:
                    self.accused.append(subject)
                for effect in effects or ():
                    sent.append((now, effect))
                    assert isinstance(effect, Send)
                    self._answer(effect, answering or set(), now)
        return sent

    def _answer(self, send: Send, answering: set[int], now: float) -> None:
        for number in answering:
            if isinstance(send.message, PingReq) and peer_id(number) in send.peers:
                self.receive_from(number, now)
                self.prober.on_ping_ack(PingAck(send.message.number, False), peer_id(number))


def test_a_probe_is_five_pings_with_ping_reqs_in_between() -> None:
    node = ProbingNode(9)
    node.prober.start(peer_id(1), 0.0)
    sent = node.advance_to(PROBE_S, answering=set(range(2, 10)))
    pings = [at for at, each in sent if isinstance(each, Send) and isinstance(each.message, Ping)]
    ping_req_targets = [
        each.peers
        for _, each in sent
        if isinstance(each, Send)
        if isinstance(each.message, PingReq)
    ]
    assert pings == [0.0, 0.25, 0.5, 0.75, 1.0, 1.5], "the last one carries the accusation"
    assert [len(peers) for peers in ping_req_targets] == [3, 3]
    assert node.accused == [peer_id(1)]
    assert node.peer(1).is_unresponsive
    assert not any(node.peer(number).is_unresponsive for number in range(2, 10))


def test_a_peer_that_is_heard_is_responsive_again() -> None:
    node = ProbingNode(9)
    node.prober.start(peer_id(1), 0.0)
    node.advance_to(PROBE_S, answering=set(range(2, 10)))
    node.receive_from(1, 2.0)
    assert not node.peer(1).is_unresponsive


def test_a_helper_that_does_not_answer_is_probed_itself() -> None:
    node = ProbingNode(5)
    node.prober.start(peer_id(1), 0.0)
    node.advance_to(PROBE_S, answering={2, 3})
    assert peer_id(4) in node.prober.probes
    assert peer_id(5) in node.prober.probes
    assert peer_id(2) not in node.prober.probes
    assert peer_id(3) not in node.prober.probes
    node.advance_to(2 * PROBE_S + 0.01, answering={2, 3})
    assert set(node.accused) == {peer_id(1), peer_id(4), peer_id(5)}


def test_an_isolated_node_accuses_no_peer_but_regards_all_as_unresponsive() -> None:
    """If no member answers, this node may be cut off, and trusts itself less. It seeks other links all
    the same, and no later.
    """
    node = ProbingNode(4)
    node.prober.start(peer_id(1), 5.0)
    node.advance_to(5.0 + 2 * PROBE_S + 0.01)
    assert node.accused == []
    assert node.awareness.score > 0
    assert all(node.peer(number).is_unresponsive for number in range(1, 5))
