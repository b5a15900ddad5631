"""How who missed much comes by it, and what it costs where nobody missed anything."""

from __future__ import annotations

from collections import Counter

import pytest

from grapevine_proto.config import AntiEntropyConfig, NodeConfig, RateLimitConfig
from grapevine_proto.link.link import Link
from grapevine_proto.messages import Kind
from grapevine_proto.sim import Network, Simulation

UNLIMITED = RateLimitConfig(enabled=False)
PAYLOAD = b"x" * 800


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
    assert not {Kind.DIGEST, Kind.VECTOR, Kind.WANT, Kind.REPAIR} & set(said)
    assert len(said[Kind.HEARTBEAT]) >= 20 * 19 * 3
    assert max(said[Kind.HEARTBEAT]) < 250, "a record and the digest: one small datagram"
