"""A cluster with one node of a later version, which signs attributes that this version does not know."""

from __future__ import annotations

import pytest

from grapevine_proto import NodeConfig
from grapevine_proto.events import Event, MessagesUnsupported, PeerStateChanged
from grapevine_proto.sim import Network, Simulation
from grapevine_proto.wire.attributes import encode_attributes

IGNORABLE = encode_attributes({100: (b"new", 1)})
CRITICAL = encode_attributes({100: 1, 200: b"new"})
FUTURE = 0


@pytest.mark.parametrize("strategy", ["auto", "epidemic", "flood", "plumtree", "direct-mail"])
def test_messages_of_a_later_version_reach_all_and_close_no_link(strategy: str) -> None:
    config = NodeConfig.local(strategy=strategy, max_peers=4)
    sim = Simulation(nodes=12, seed=3, config=config, network=Network(loss=0.1))
    closed: list[Event] = []
    unread: dict[int, list[MessagesUnsupported]] = {}

    def listen(_: float, number: int, event: Event) -> None:
        if isinstance(event, PeerStateChanged) and event.reason in ("misconduct", "denied"):
            closed.append(event)
        if isinstance(event, MessagesUnsupported):
            unread.setdefault(number, []).append(event)

    sim.listen(listen)
    sim.run(5.0)
    known, critical, plain = [], [], []
    for _ in range(5):
        plain.append(sim.broadcast(FUTURE, b"plain"))
        known.append(sim.broadcast(FUTURE, b"may be ignored", attributes=IGNORABLE))
        critical.append(sim.broadcast(FUTURE, b"must not be misread", attributes=CRITICAL))
        plain.append(sim.broadcast(1, b"plain"))
        sim.run(0.5)
    sim.run(60.0)
    others = set(range(len(sim.nodes))) - {FUTURE}
    for message_id in plain + known:
        assert sim.report(message_id).coverage == 1.0
    for message_id in critical:
        assert not others & sim.deliveries(message_id).keys(), "nobody misreads it"
    for number in others:
        stats = sim.nodes[number].stats()
        assert stats.unsupported == len(critical)
        assert stats.gaps_abandoned == 0, "what cannot be read is no gap"
        assert sum(each.last - each.first + 1 for each in unread[number]) == len(critical)
        assert {each.attribute for each in unread[number]} == {200}
        assert {each.origin for each in unread[number]} == {sim.nodes[FUTURE].peer_id}
    assert not closed
    assert sim.connected(FUTURE) > 0
