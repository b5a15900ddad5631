"""One malicious member among a hundred: no node is expelled, silenced, or delayed by more than a
second.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from grapevine_proto import NodeConfig
from grapevine_proto.events import (
    Event,
    MemberChanged,
    MemberStatus,
    MessageReceived,
    PeerState,
    PeerStateChanged,
)
from grapevine_proto.ids import MessageId, Stream
from grapevine_proto.sim import Simulation
from grapevine_proto.wire.messages import MemberUpdate, MemberUpdates
from grapevine_proto.wire.signed import Accusation, PeerRecord
from tests.proto.overlay.builders import identity
from tests.scenarios.malicious_member import MaliciousMember

WAIT_S = 1.0
# reasons of evictions for a node short of links; nothing was lost
EVICTION_REASONS = ("let go for", "closed: full")


class Scene:
    """A cluster with a malicious member, and its effects on the others."""

    def __init__(self, nodes: int, settle_s: float) -> None:
        self.sim = Simulation(nodes=nodes, seed=1, config=NodeConfig.lan(max_peers=8))
        self.sim.run(settle_s)
        number = nodes // 2
        self.malicious = MaliciousMember(self.sim, number)
        self.malicious_name = f"node {number}"
        self.honest = [each for each in range(nodes) if each != number]
        self.violations: list[str] = []
        self.suspected: set[str] = set()
        self.suspicions: Counter[int] = Counter()  # by observing node
        self.payloads: set[bytes] = set()
        self.sim.listen(self._note)
        linked = set(self.malicious.links)
        near = [n for n in self.honest if self.sim.nodes[n].peer_id in linked]
        far = [n for n in self.honest if self.sim.nodes[n].peer_id not in linked]
        self.victims = [*near[:3], *far[:5]]

    def _note(self, at: float, number: int, event: Event) -> None:
        """Record what honest nodes report about honest nodes."""
        if number == self.malicious.number:
            return
        match event:
            case MessageReceived(message):
                self.payloads.add(message.payload)
            case MemberChanged(member) if member.name != self.malicious_name:
                if member.status is MemberStatus.SUSPECT:
                    self.suspected.add(member.name)
                    self.suspicions[number] += 1
                elif member.status is not MemberStatus.UP:
                    self.violations.append(
                        f"{at:.1f} s: {number} holds {member.name} {member.status}"
                    )
            case PeerStateChanged(peer, previous, reason) if peer.name != self.malicious_name:
                if previous is PeerState.CONNECTED and not reason.startswith(EVICTION_REASONS):
                    self.violations.append(f"{at:.1f} s: {number} lost {peer.name}: {reason}")

    def record(self, number: int) -> PeerRecord:
        engine = self.sim.nodes[number].engine
        assert engine is not None
        return engine.record

    def stream(self, number: int) -> Stream:
        record = self.record(number)
        return Stream(record.peer_id, record.epoch)

    def play(self, *attacks: Attack, seconds: int = 10) -> None:
        """Attack every second while honest nodes broadcast; all nodes must receive each message in
        time.
        """
        sent: list[tuple[float, MessageId]] = []
        for second in range(seconds):
            for attack in attacks:
                attack(self, second)
            self.sim.run(0.5)
            origin = self.victims[second % len(self.victims)]
            sent.append((self.sim.now, self.sim.broadcast(origin, b"authentic")))
            self.sim.run(0.5)
        assert self.malicious.sent > 0
        self.sim.run(3.0)
        for at, message_id in sent:
            missed = [
                number for number in self.honest if not self._was_delivered(number, message_id, at)
            ]
            assert missed == [], message_id
        assert self.violations == []
        assert self.payloads == {b"authentic"}

    def _was_delivered(self, number: int, message_id: MessageId, at: float) -> bool:
        node = self.sim.nodes[number]
        if node.peer_id == message_id.origin:
            return True
        delivery = node.deliveries.get(message_id)
        return delivery is not None and delivery.count == 1 and delivery.at - at <= WAIT_S


Attack = Callable[[Scene, int], None]


def false_accusations(scene: Scene, _: int) -> None:
    scene.malicious.accuse(*(scene.record(number) for number in scene.victims))


def false_accusations_by_three(scene: Scene, _: int) -> None:
    scene.malicious.accuse(*(scene.record(number) for number in scene.victims), accomplices=2)


def accusations_in_another_name(scene: Scene, second: int) -> None:
    accuser = scene.record(scene.honest[second]).peer_id
    scene.malicious.accuse_as(accuser, scene.record(scene.victims[second % 8]))


def false_records(scene: Scene, second: int) -> None:
    scene.malicious.forge_record(scene.record(scene.victims[second % 8]))


def false_sequences(scene: Scene, _: int) -> None:
    for number in scene.victims:
        scene.malicious.claim_sequences(scene.stream(number), 10**9)


def forged_rumors(scene: Scene, second: int) -> None:
    number = scene.victims[second % 8]
    origin, epoch = scene.stream(number)
    scene.malicious.forge_copy(origin, epoch, second // 8 + 1, b"forged")


def false_announcements(scene: Scene, _: int) -> None:
    for number in scene.victims:
        scene.malicious.announce_missing(scene.stream(number), 1, 5)
    scene.malicious.send_empty_repairs()


def false_ping_acks(scene: Scene, _: int) -> None:
    scene.malicious.claim_alive(range(1, 5))


ATTACKS = [
    false_accusations,
    false_accusations_by_three,
    accusations_in_another_name,
    false_records,
    false_sequences,
    forged_rumors,
    false_announcements,
    false_ping_acks,
]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: str(attack.__name__))
def test_one_attack_harms_no_node(attack: Attack) -> None:
    Scene(24, 15.0).play(attack, seconds=8)


def test_all_attacks_of_one_member_among_a_hundred_harm_no_node() -> None:
    Scene(100, 20.0).play(*ATTACKS, seconds=8)


def test_a_death_is_detected_although_one_member_claims_that_it_is_alive() -> None:
    scene = Scene(24, 40.0)
    dead = scene.victims[0]
    peer_id = scene.sim.nodes[dead].peer_id
    scene.sim.crash(dead)
    for _ in range(60):
        scene.malicious.claim_alive(range(1, 20))
        scene.sim.run(0.5)
    for number in set(scene.honest) - {dead}:
        engine = scene.sim.nodes[number].engine
        assert engine is not None
        [status] = [each.status for each in engine.members() if each.peer_id == peer_id]
        assert status is MemberStatus.DOWN


def test_a_falsely_accused_member_is_at_most_suspected_and_only_briefly() -> None:
    scene = Scene(30, 20.0)
    scene.play(false_accusations, false_accusations_by_three, seconds=5)
    assert scene.suspected
    assert scene.suspected <= {f"node {number}" for number in scene.victims}
    scene.sim.run(10.0)
    for number in scene.honest:
        engine = scene.sim.nodes[number].engine
        assert engine is not None
        assert {member.status for member in engine.members()} == {MemberStatus.UP}


def test_accusations_of_a_constant_accuser_are_limited() -> None:
    """The accusations accepted from one accuser are limited, so false alarms end."""
    scene = Scene(20, 20.0)
    for _ in range(30):
        scene.malicious.accuse(*(scene.record(number) for number in scene.victims))
        scene.sim.run(1.0)
    before = max(scene.suspicions.values())
    assert before > 20
    scene.suspicions.clear()
    for _ in range(20):
        scene.malicious.accuse(*(scene.record(number) for number in scene.victims))
        scene.sim.run(1.0)
    assert scene.violations == []
    # Each peer of the accuser forwards one in ten seconds; every node receives some.
    assert max(scene.suspicions.values(), default=0) <= before // 4


def test_freshly_made_accusers_do_not_count() -> None:
    scene = Scene(20, 20.0)
    cluster = scene.malicious.engine.config.cluster
    for turn in range(20):
        victim = scene.record(scene.victims[0])
        accomplices = [identity(40_000 + 3 * turn + each) for each in range(3)]
        accusations = tuple(Accusation.signed(each, cluster, victim) for each in accomplices)
        scene.malicious.send(MemberUpdates((MemberUpdate(victim, accusations),)))
        scene.sim.run(0.5)
    assert not scene.suspected
