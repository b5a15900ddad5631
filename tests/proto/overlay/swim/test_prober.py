"""Our own eyes: who is probed, when, and what is made of no answer."""

from __future__ import annotations

import random

from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.effects import Effect, Send
from grapevine_proto.overlay.peers import Peer, PeerTable
from grapevine_proto.overlay.swim.prober import Prober
from grapevine_proto.overlay.swim.suspicion import Awareness
from grapevine_proto.overlay.swim.suspicion_table import SuspicionTable
from grapevine_proto.wire.messages import Ping, PingAck, PingReq
from tests.proto.overlay.builders import Surroundings, peer_id

PROBE_S = 1.5  # five pings under the lan profile


class Watch:
    """Node 0, linked to 1 and on, who heard of all of them at 0."""

    def __init__(self, links: int) -> None:
        place = Surroundings(*range(1, links + 1))
        self.peers: PeerTable = place.peers
        self.health = Awareness(0.0)
        self.lookout = Prober(
            place.config, self.peers, SuspicionTable(), self.health, random.Random(1), 0.0
        )
        self.found: list[PeerId] = []

    def peer(self, number: int) -> Peer:
        peer = self.peers.get(peer_id(number))
        assert peer is not None
        return peer

    def hear(self, number: int, now: float) -> None:
        self.peer(number).last_heard_at = self.lookout.last_heard_at = now
        self.lookout.on_packet(peer_id(number), now)

    def until(self, end: float, *, answering: set[int] | None = None) -> list[tuple[float, Effect]]:
        """Let time pass; those `answering` say that they hear nobody either."""
        said: list[tuple[float, Effect]] = []
        while self.lookout.probes.deadline <= end:
            now = self.lookout.probes.deadline
            for subject, probe in self.lookout.probes.pop_due(now):
                effects = self.lookout.next_ping(subject, probe, now)
                if effects is None:
                    self.found.append(subject)
                for effect in effects or ():
                    said.append((now, effect))
                    assert isinstance(effect, Send)
                    self._answer(effect, answering or set(), now)
        return said

    def _answer(self, send: Send, answering: set[int], now: float) -> None:
        for number in answering:
            if isinstance(send.message, PingReq) and peer_id(number) in send.peers:
                self.hear(number, now)
                self.lookout.on_ping_ack(PingAck(send.message.number, False), peer_id(number))


def test_a_probe_is_five_pings_and_others_are_asked_on_the_way() -> None:
    watch = Watch(9)
    watch.lookout.start(peer_id(1), 0.0)
    said = watch.until(PROBE_S, answering=set(range(2, 10)))
    pings = [at for at, each in said if isinstance(each, Send) and isinstance(each.message, Ping)]
    asked = [
        each.peers
        for _, each in said
        if isinstance(each, Send)
        if isinstance(each.message, PingReq)
    ]
    assert pings == [0.0, 0.25, 0.5, 0.75, 1.0, 1.5], "the last, so that it hears of what is said"
    assert [len(peers) for peers in asked] == [3, 3]
    assert watch.found == [peer_id(1)]
    assert watch.peer(1).is_unresponsive
    assert not any(watch.peer(number).is_unresponsive for number in range(2, 10))


def test_whoever_is_heard_answers_again() -> None:
    watch = Watch(9)
    watch.lookout.start(peer_id(1), 0.0)
    watch.until(PROBE_S, answering=set(range(2, 10)))
    watch.hear(1, 2.0)
    assert not watch.peer(1).is_unresponsive


def test_who_is_asked_to_help_and_does_not_answer_is_looked_at_himself() -> None:
    watch = Watch(5)
    watch.lookout.start(peer_id(1), 0.0)
    watch.until(PROBE_S, answering={2, 3})
    assert peer_id(4) in watch.lookout.probes
    assert peer_id(5) in watch.lookout.probes
    assert peer_id(2) not in watch.lookout.probes
    assert peer_id(3) not in watch.lookout.probes
    watch.until(2 * PROBE_S + 0.01, answering={2, 3})
    assert set(watch.found) == {peer_id(1), peer_id(4), peer_id(5)}


def test_who_is_all_alone_accuses_nobody_but_counts_on_nobody() -> None:
    """Nobody answered: it may be he who is cut off, and then he trusts himself less. Other links are to be
    looked for all the same, and no later for that."""
    watch = Watch(4)
    watch.lookout.start(peer_id(1), 5.0)
    watch.until(5.0 + 2 * PROBE_S + 0.01)
    assert watch.found == []
    assert watch.health.score > 0
    assert all(watch.peer(number).is_unresponsive for number in range(1, 5))
