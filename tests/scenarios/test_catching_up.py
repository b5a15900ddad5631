"""How who missed much comes by it: from several peers at once, and going on where it was cut off."""

from __future__ import annotations

from collections import Counter

import pytest

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.config.sections import AntiEntropyConfig, RateLimitConfig
from grapevine_proto.ids import Address
from grapevine_proto.overlay.store.ranges import MESSAGES_PER_REQUEST, RANGES_PER_REQUEST
from grapevine_proto.overlay.sync.antientropy import GAP_REQUEST_ROUND, LAZY_REQUEST_ROUND
from grapevine_proto.sim import Network, Simulation
from grapevine_proto.transport.link.link import Link
from grapevine_proto.wire.codec import decode_message
from grapevine_proto.wire.messages import IWant, Kind

UNLIMITED = RateLimitConfig(enabled=False)
PAYLOAD = b"x" * 800


def test_a_joiner_catches_up_from_several_peers_without_burdening_one() -> None:
    sim = Simulation(nodes=6, seed=3, config=NodeConfig(rate_limit=UNLIMITED))
    sim.run(5.0)
    old = []
    for number in range(600):
        old.append(sim.broadcast(number % 6, PAYLOAD))
        if number % 50 == 0:
            sim.run(1.0)
    sim.run(20.0)
    served: Counter[int] = Counter()  # bytes, by who sent them to the newcomer
    late = sim.add()

    def note(_: float, number: int, datagram: bytes, to: Address) -> None:
        if to == sim.nodes[late].address:
            served[number] += len(datagram)

    sim.watch(note)
    sim.run(20.0)
    assert all(sim.nodes[late].deliveries[each].count == 1 for each in old)
    total = sum(served.values())
    assert len(served) >= 3
    assert max(served.values()) < 0.6 * total
    assert total < 1.5 * len(old) * len(PAYLOAD), "and hardly anything comes twice"


def test_a_repair_that_was_cut_off_goes_on_where_it_was() -> None:
    config = NodeConfig(
        rate_limit=UNLIMITED, peer_timeout=200.0, anti_entropy=AntiEntropyConfig(interval=80_000.0)
    )
    sim = Simulation(nodes=2, seed=1, config=config, network=Network(per_pair=True))
    sim.run(3.0)
    sim.partition({0})
    missed = [sim.broadcast(1, PAYLOAD) for _ in range(1500)]
    sim.run(30.0)  # the link has let go of it by then
    sim.heal()

    def has() -> int:
        return sum(each in sim.nodes[0].deliveries for each in missed)

    assert sim.run_until(lambda: has() > 300, 30.0, every=0.005)
    sim.partition({0})
    had = has()
    assert had < 1400, "it is cut off in the middle"
    sim.run(20.0)
    sent = Counter[int]()
    sim.watch(lambda at, number, datagram, to: sent.update({number: len(datagram)}))
    sim.heal()
    assert sim.run_until(lambda: has() == len(missed), 30.0)
    assert all(sim.deliveries(each) == {0: 1} for each in missed)
    assert sent[1] < 1.25 * (len(missed) - had) * len(PAYLOAD), "what came before is not sent again"


def test_no_question_is_for_more_than_a_share(monkeypatch: pytest.MonkeyPatch) -> None:
    sim = Simulation(
        nodes=30, seed=7, config=NodeConfig(strategy="epidemic", rate_limit=UNLIMITED, max_peers=6)
    )
    sim.run(10.0)
    missed = [sim.broadcast(number % 30, PAYLOAD) for number in range(600)]
    missed += [sim.broadcast(1, PAYLOAD) for _ in range(300)]
    sim.run(5.0)
    wanted: list[IWant] = []
    send = Link.send

    def note(link: Link, plaintext: bytes, now: float) -> bool:
        message = decode_message(plaintext) if plaintext[0] == Kind.IWANT else None
        if isinstance(message, IWant) and message.round not in (
            GAP_REQUEST_ROUND,
            LAZY_REQUEST_ROUND,
        ):
            wanted.append(message)  # those of rounds; the answer to any is bounded by itself
        return send(link, plaintext, now)

    monkeypatch.setattr(Link, "send", note)
    late = sim.add()
    sim.run(20.0)
    assert all(sim.deliveries(each).get(late) == 1 for each in missed)
    assert max(len(each.ranges) for each in wanted) == RANGES_PER_REQUEST, "of thirty streams"
    sizes = [sum(r.last - r.first + 1 for r in each.ranges) for each in wanted]
    assert MESSAGES_PER_REQUEST / 2 < max(sizes) <= MESSAGES_PER_REQUEST


@pytest.mark.parametrize("origins", [2, 20])
def test_in_sync_the_digest_costs_a_few_bytes_of_each_heartbeat_whoever_spoke(
    origins: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = NodeConfig(anti_entropy=AntiEntropyConfig(interval=80_000.0))
    sim = Simulation(nodes=20, seed=2, config=config)
    sim.run(30.0)
    for number in range(origins):
        sim.broadcast(number, b"hello")
        sim.run(0.1)
    sim.run(20.0)
    said: dict[Kind, list[int]] = {}
    send = Link.send

    def note(link: Link, plaintext: bytes, now: float) -> bool:
        said.setdefault(Kind(plaintext[0]), []).append(len(plaintext))
        return send(link, plaintext, now)

    monkeypatch.setattr(Link, "send", note)
    sim.run(20.0)
    assert not {Kind.DIGEST, Kind.VECTOR, Kind.IWANT, Kind.REPAIR} & set(said)
    assert len(said[Kind.HEARTBEAT]) >= 20 * 19 * 3
    assert max(said[Kind.HEARTBEAT]) < 250, "a record and the digest: one small datagram"
