"""Catching up: a node that missed much is repaired by several peers at once and resumes after
interruptions.
"""

from __future__ import annotations

from collections import Counter

import pytest

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.config.sections import AntiEntropyConfig, RateLimitConfig
from grapevine_proto.ids import Address
from grapevine_proto.overlay.store.ranges import MESSAGES_PER_REQUEST, RANGES_PER_REQUEST
from grapevine_proto.sim import Network, Simulation
from grapevine_proto.transport.link.link import Link
from grapevine_proto.wire.codec import decode_message
from grapevine_proto.wire.messages import GAP_REQUEST_ROUND, LAZY_REQUEST_ROUND, IWant, Kind

UNLIMITED = RateLimitConfig(enabled=False)
PAYLOAD = b"x" * 800


def test_a_joining_node_catches_up_from_several_peers_without_overloading_one() -> None:
    sim = Simulation(nodes=6, seed=3, config=NodeConfig(rate_limit=UNLIMITED))
    sim.run(5.0)
    old = []
    for number in range(600):
        old.append(sim.broadcast(number % 6, PAYLOAD))
        if number % 50 == 0:
            sim.run(1.0)
    sim.run(20.0)
    served: Counter[int] = Counter()  # bytes sent to the newcomer, by sender
    newcomer = sim.add()

    def note(_: float, number: int, datagram: bytes, to: Address) -> None:
        if to == sim.nodes[newcomer].address:
            served[number] += len(datagram)

    sim.watch(note)
    sim.run(20.0)
    assert all(sim.nodes[newcomer].deliveries[each].count == 1 for each in old)
    total = sum(served.values())
    assert len(served) >= 3
    assert max(served.values()) < 0.6 * total
    assert total < 1.5 * len(old) * len(PAYLOAD), "and hardly anything is sent twice"


def test_a_node_that_was_away_gets_what_an_origin_published_before_it_was_restarted() -> None:
    """A rolling restart: the reader comes back after the origin did, so it never knew the run before."""
    sim = Simulation(nodes=4, seed=2)
    sim.run(5.0)
    earlier = [sim.broadcast(0, b"two runs before")]
    sim.run(2.0)
    sim.restart(0)
    sim.run(5.0)
    sim.crash(3)
    missed = sim.broadcast(0, b"published while a reader was away")
    sim.run(2.0)
    sim.restart(0)
    sim.run(10.0)
    sim.restart(3)
    joined = sim.add()
    assert sim.run_until(lambda: missed in sim.nodes[3].deliveries, 20.0)
    assert sim.run_until(lambda: missed in sim.nodes[joined].deliveries, 20.0)
    assert not any(each in sim.nodes[joined].deliveries for each in earlier), "only the run before"


def test_the_run_before_is_named_no_longer_than_its_messages_are_repaired() -> None:
    sim = Simulation(nodes=3, seed=1, config=NodeConfig(message_dedup_ttl=60.0))
    sim.run(5.0)
    origin = sim.nodes[0]
    assert origin.engine is not None
    assert origin.peer_id is not None
    subject, first_epoch = origin.peer_id, origin.engine.epoch
    sim.restart(0)

    def named() -> set[int]:
        engines = [node.engine for node in sim.nodes[1:]]
        members = [engine._overlay.membership.members.get(subject) for engine in engines if engine]
        return {member.record.earlier_epoch for member in members if member}

    sim.run(10.0)
    assert named() == {first_epoch}
    sim.run(55.0)
    assert named() == {0}


def test_an_interrupted_repair_resumes_where_it_stopped() -> None:
    config = NodeConfig(
        rate_limit=UNLIMITED, peer_timeout=200.0, anti_entropy=AntiEntropyConfig(interval=80_000.0)
    )
    sim = Simulation(nodes=2, seed=1, config=config, network=Network(per_pair=True))
    sim.run(3.0)
    sim.partition({0})
    missed = [sim.broadcast(1, PAYLOAD) for _ in range(1500)]
    sim.run(30.0)  # the links have given up retransmitting by then
    sim.heal()

    def count_received() -> int:
        return sum(each in sim.nodes[0].deliveries for each in missed)

    assert sim.run_until(lambda: count_received() > 300, 30.0, every=0.005)
    sim.partition({0})
    received_before = count_received()
    assert received_before < 1400, "it is interrupted in the middle"
    sim.run(20.0)
    sent = Counter[int]()
    sim.watch(lambda at, number, datagram, to: sent.update({number: len(datagram)}))
    sim.heal()
    assert sim.run_until(lambda: count_received() == len(missed), 30.0)
    assert all(sim.deliveries(each) == {0: 1} for each in missed)
    assert sent[1] < 1.25 * (len(missed) - received_before) * len(PAYLOAD), (
        "earlier messages are not sent again"
    )


def test_no_request_exceeds_the_batch_limit(patch_sources: pytest.MonkeyPatch) -> None:
    sim = Simulation(
        nodes=30, seed=8, config=NodeConfig(strategy="epidemic", rate_limit=UNLIMITED, max_peers=6)
    )
    sim.run(10.0)
    missed = [sim.broadcast(number % 30, PAYLOAD) for number in range(600)]
    missed += [sim.broadcast(1, PAYLOAD) for _ in range(300)]
    sim.run(5.0)
    requests: list[IWant] = []
    send = Link.send

    def note(link: Link, plaintext: bytes, now: float) -> bool:
        message = decode_message(plaintext) if plaintext[0] == Kind.IWANT else None
        if isinstance(message, IWant) and message.round not in (
            GAP_REQUEST_ROUND,
            LAZY_REQUEST_ROUND,
        ):
            requests.append(
                message
            )  # requests of rounds only; other answers are bounded differently
        return send(link, plaintext, now)

    patch_sources.setattr(Link, "send", note)
    newcomer = sim.add()
    sim.run(20.0)
    assert all(sim.deliveries(each).get(newcomer) == 1 for each in missed)
    assert max(len(each.ranges) for each in requests) == RANGES_PER_REQUEST, "of thirty streams"
    sizes = [sum(range_.last - range_.first + 1 for range_ in each.ranges) for each in requests]
    assert MESSAGES_PER_REQUEST / 2 < max(sizes) <= MESSAGES_PER_REQUEST


@pytest.mark.parametrize("origins", [2, 20])
def test_in_sync_the_digest_costs_a_few_bytes_per_heartbeat_with_any_number_of_origins(
    origins: int, patch_sources: pytest.MonkeyPatch
) -> None:
    config = NodeConfig(anti_entropy=AntiEntropyConfig(interval=80_000.0))
    sim = Simulation(nodes=20, seed=2, config=config)
    sim.run(30.0)
    for number in range(origins):
        sim.broadcast(number, b"hello")
        sim.run(0.1)
    sim.run(20.0)
    sizes_by_kind: dict[Kind, list[int]] = {}
    send = Link.send

    def note(link: Link, plaintext: bytes, now: float) -> bool:
        sizes_by_kind.setdefault(Kind(plaintext[0]), []).append(len(plaintext))
        return send(link, plaintext, now)

    patch_sources.setattr(Link, "send", note)
    sim.run(20.0)
    assert not {Kind.DIGEST, Kind.VECTOR, Kind.IWANT, Kind.REPAIR} & set(sizes_by_kind)
    assert len(sizes_by_kind[Kind.HEARTBEAT]) >= 20 * 19 * 3
    assert max(sizes_by_kind[Kind.HEARTBEAT]) < 250, "a record and the digest: one small datagram"
