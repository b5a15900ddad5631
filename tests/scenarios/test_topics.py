"""Topics: every node relays, subscribers deliver, and no topic partitions the cluster."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

from grapevine_proto import ClusterKey, Message, Node, NodeConfig
from grapevine_proto.errors import DropReason, InvalidArgument
from grapevine_proto.events import Event, MessageReceived
from grapevine_proto.ids import MessageId
from grapevine_proto.sim import Network, Simulation
from grapevine_proto.topics import MAX_PATTERNS
from grapevine_proto.wire.attributes import rumor_attributes
from grapevine_proto.wire.messages import AnnounceTopic, RumorCopy
from grapevine_proto.wire.signed import Rumor
from tests.conftest import Run
from tests.scenarios.malicious_member import MaliciousMember

DEPLOY, OTHER = "deploy.web", "metrics.cpu"


def test_a_message_crosses_nodes_that_do_not_subscribe() -> None:
    """ChainSafe/js-libp2p-gossipsub#149: A and C subscribe, B between them does not."""
    a, b, c = range(3)
    sim = Simulation(nodes=3, seed=1, config=NodeConfig.local(max_peers=2, topics=()))
    sim.partition([a], [c], one_way=True)
    sim.partition([c], [a], one_way=True)
    sim.run(30.0)
    assert [sim.connected(number) for number in (a, b, c)] == [1, 2, 1]
    sim.subscribe(a, "deploy.>")
    sim.subscribe(b, "metrics.>")
    sim.subscribe(c, "deploy.*")
    message_id = sim.publish(a, DEPLOY, b"go")
    sim.run(10.0)
    assert sim.deliveries(message_id).keys() == {c}
    assert sim.nodes[b].stats().unsubscribed == 1
    assert sim.nodes[b].stats().gaps_abandoned == 0


@pytest.mark.parametrize("strategy", ["auto", "epidemic", "flood", "plumtree", "direct-mail"])
def test_exactly_the_subscribers_deliver(strategy: str) -> None:
    rng = random.Random(strategy)
    config = NodeConfig.local(strategy=strategy, max_peers=5, topics=())
    sim = Simulation(nodes=16, seed=5, config=config, network=Network(loss=0.1))
    sim.run(5.0)
    for _ in range(4):
        subscribed = set(rng.sample(range(16), rng.randint(1, 15)))
        for number in range(16):
            sim.subscribe(number, "deploy.>" if number in subscribed else "metrics.>")
        message_id = sim.publish(0, DEPLOY, b"go")
        sim.run(60.0)
        assert sim.deliveries(message_id).keys() == subscribed - {0}


def test_by_default_a_node_delivers_every_topic() -> None:
    sim = Simulation(nodes=3, seed=1)
    sim.run(5.0)
    message_id = sim.publish(0, DEPLOY, b"go")
    sim.run(2.0)
    assert sim.deliveries(message_id).keys() == {1, 2}


def test_patterns_select_topics_and_nothing_else() -> None:
    sim = Simulation(nodes=2, seed=1, config=NodeConfig.local(topics=()))
    sim.run(5.0)
    sim.subscribe(1, "metrics.>")
    plain = sim.broadcast(0, b"to everyone")
    direct = sim.send(0, 1, b"to you")
    topic = sim.publish(0, DEPLOY, b"to subscribers")
    sim.run(2.0)
    assert 1 in sim.deliveries(plain)
    assert direct in sim.nodes[1].deliveries
    assert 1 not in sim.deliveries(topic)


def test_patterns_of_the_configuration_hold_beside_those_of_a_program() -> None:
    sim = Simulation(nodes=2, seed=1, config=NodeConfig.local(topics=["deploy.>"]))
    sim.run(5.0)
    sim.subscribe(1, "metrics.>")
    found = [sim.publish(0, topic, b"x") for topic in (DEPLOY, OTHER, "logs")]
    sim.run(2.0)
    assert [1 in sim.deliveries(each) for each in found] == [True, True, False]
    sim.reconfigure(1, topics=("logs",))
    found = [sim.publish(0, topic, b"x") for topic in (DEPLOY, OTHER, "logs")]
    sim.run(2.0)
    assert [1 in sim.deliveries(each) for each in found] == [False, True, True]


def test_a_message_is_not_delivered_from_its_expiry_on() -> None:
    sim = Simulation(nodes=3, seed=1)
    sim.run(5.0)
    sim.partition([0, 1], [2])
    sim.run(1.0)
    short = sim.publish(0, DEPLOY, b"soon worthless", expires_s=20)
    long = sim.publish(0, DEPLOY, b"good for a while", expires_s=200)
    sim.run(40.0)
    sim.heal()
    sim.run(60.0)
    assert sim.deliveries(short).keys() == {1}
    assert sim.deliveries(long).keys() == {1, 2}
    assert sim.nodes[2].stats().expired == 1
    assert sim.nodes[2].stats().gaps_abandoned == 0


def test_topics_share_a_signature_only_with_their_like() -> None:
    sim = Simulation(nodes=2, seed=1)
    sim.run(5.0)
    engine = sim.nodes[0].engine
    assert engine is not None
    received: list[str] = []

    def listen(_: float, number: int, event: Event) -> None:
        if number == 1 and isinstance(event, MessageReceived):
            received.append(event.message.topic)

    sim.listen(listen)
    now = sim.nodes[0].read_clock(sim.now)
    for topic in ("a", "a", "b", "a"):
        engine.publish(topic, topic.encode(), now)
    engine.broadcast(b"plain", now)
    sim.broadcast(0, b"plain too")
    sim.run(2.0)
    assert sorted(received) == ["", "", "a", "a", "a", "b"]
    assert sim.nodes[1].stats().cached == 4, "as many rumors as runs of one topic"


@pytest.mark.parametrize("topic", ["", "Deploy", "deploy.>", "a b"])
def test_a_topic_that_is_none_is_refused_before_anything_is_sent(topic: str) -> None:
    sim = Simulation(nodes=2, seed=1)
    sim.run(3.0)
    with pytest.raises(InvalidArgument, match="topic"):
        sim.publish(0, topic, b"x")
    with pytest.raises(InvalidArgument, match="pattern"):
        sim.subscribe(0, "a..b")
    with pytest.raises(InvalidArgument, match="expires_s"):
        sim.publish(0, DEPLOY, b"x", expires_s=-1)


def test_one_pattern_more_than_a_node_may_have_is_refused() -> None:
    sim = Simulation(nodes=1, seed=1)
    sim.run(1.0)
    sim.subscribe(0, *(f"t{number}" for number in range(MAX_PATTERNS)))
    with pytest.raises(InvalidArgument, match="at most 256 patterns"):
        sim.subscribe(0, *(f"t{number}" for number in range(MAX_PATTERNS + 1)))


# --- large bodies, which only subscribers pull -----------------------------------------------------

LARGE = bytes(range(256)) * 400


def bodies_at(sim: Simulation) -> set[int]:
    """The nodes that hold a large body."""
    return {node.number for node in sim.nodes if node.stats().cached_bytes >= len(LARGE)}


@pytest.mark.parametrize("strategy", ["auto", "epidemic", "flood", "plumtree"])
def test_only_subscribers_pull_a_large_body_wherever_they_stand(strategy: str) -> None:
    config = NodeConfig.local(strategy=strategy, max_peers=4, topics=())
    sim = Simulation(nodes=24, seed=7, config=config, network=Network(loss=0.05), initial_links=4)
    sim.run(5.0)
    subscribers = {3, 11, 17}
    for number in subscribers:
        sim.subscribe(number, "deploy.>")
    message_id = sim.publish(0, DEPLOY, LARGE)
    assert sim.run_until(lambda: sim.deliveries(message_id).keys() == subscribers, 20.0)
    sim.run(60.0)
    assert bodies_at(sim) == subscribers | {0}, "nobody else ever pulls it"
    for node in sim.nodes:
        stats = node.stats()
        assert stats.gaps_abandoned == 0
        assert stats.unsubscribed == (node.number not in subscribers | {0})


def test_a_large_body_crosses_a_node_that_does_not_subscribe() -> None:
    a, c = 0, 2  # and one between them
    sim = Simulation(nodes=3, seed=1, config=NodeConfig.local(max_peers=2, topics=()))
    sim.run(5.0)
    sim.subscribe(c, "deploy.*")
    for pair in ((a, c), (c, a)):
        sim.partition([pair[0]], [pair[1]], one_way=True)
    sim.run(30.0)
    message_id = sim.publish(a, DEPLOY, LARGE)
    sim.run(10.0)
    assert not sim.deliveries(message_id), "c reaches no holder: only a has the body"
    sim.heal()
    assert sim.run_until(lambda: c in sim.deliveries(message_id), 60.0)
    assert bodies_at(sim) == {a, c}


def test_a_subscriber_that_does_not_know_the_holder_asks_the_peers_that_named_it() -> None:
    """In a young cluster most members do not know each other yet."""
    config = NodeConfig.lan(topics=(), max_peers=5)
    sim = Simulation(nodes=120, seed=1, config=config, initial_links=5)
    sim.run(1.0)
    origin, subscriber = sim.nodes[0], sim.nodes[60]
    assert subscriber.engine is not None
    assert origin.peer_id not in {each.peer_id for each in subscriber.engine.members()}
    sim.subscribe(60, "deploy.>")
    message_id = sim.publish(0, DEPLOY, LARGE)
    assert sim.run_until(lambda: 60 in sim.deliveries(message_id), 8.0)


def test_a_subscriber_that_was_away_pulls_what_it_missed() -> None:
    config = NodeConfig.local(topics=(), max_peers=4)
    sim = Simulation(nodes=10, seed=2, config=config, initial_links=4)
    sim.run(5.0)
    sim.subscribe(9, "deploy.>")
    sim.partition([9])
    sim.run(1.0)
    message_id = sim.publish(0, DEPLOY, LARGE)
    sim.run(20.0)
    sim.heal()
    assert sim.run_until(lambda: 9 in sim.deliveries(message_id), 60.0)
    assert bodies_at(sim) == {0, 9}


def test_a_forged_announcement_suppresses_nothing() -> None:
    """One that carries no valid signature of its origin marks no sequence as seen."""
    sim = Simulation(nodes=4, seed=3, config=NodeConfig.local(topics=()))
    sim.run(5.0)
    sim.subscribe(2, "deploy.>")
    first = sim.publish(0, DEPLOY, LARGE)
    sim.run(5.0)
    origin, epoch, sequence, _ = first
    attributes = rumor_attributes(topic=DEPLOY)
    forged = Rumor(
        origin, epoch, sequence + 1, (len(LARGE),), b"", bytes(64), attributes, bytes(32)
    )
    malicious = MaliciousMember(sim, 3)
    malicious.send(AnnounceTopic(RumorCopy(forged, 1, 0, malicious.engine.peer_id), True))
    sim.run(2.0)
    for number in (1, 2):
        assert dict(sim.nodes[number].stats().dropped)[DropReason.BAD_SIGNATURE] == 1
    second = sim.publish(0, DEPLOY, LARGE)
    assert second.sequence == sequence + 1
    sim.run(10.0)
    assert sim.deliveries(second).keys() == {2}
    assert sim.nodes[1].stats().unsubscribed == 2


def test_a_stripped_announcement_of_a_small_retained_message_suppresses_nothing() -> None:
    """What is pushed has no header without a body: a node without the topic would mark it as seen, and
    miss the entry that it carries."""
    sim = Simulation(nodes=4, seed=3, config=NodeConfig.local(topics=()))
    sim.run(5.0)
    sim.partition([1])
    message_id = sim.publish(0, DEPLOY, b"v42", retain="web")
    sim.run(1.0)
    malicious = MaliciousMember(sim, 3)
    clock = sim.nodes[3].read_clock(sim.now)
    copy = malicious.engine._overlay.store.cache.copy(message_id[:3], clock)
    assert copy is not None
    stripped = RumorCopy(copy.rumor.without_body(), 1, 0, malicious.engine.peer_id)
    sim.heal()
    victim = sim.nodes[1].peer_id
    assert victim is not None
    malicious.send(AnnounceTopic(stripped, False), victim)
    sim.run(0.2)
    assert dict(sim.nodes[1].stats().dropped)[DropReason.MALFORMED] == 1
    assert sim.run_until(lambda: sim.value(1, "retain/web") == b"v42", 30.0)


def test_an_announcement_that_names_a_false_holder_costs_one_attempt() -> None:
    sim = Simulation(nodes=4, seed=3, config=NodeConfig.local(topics=()))
    sim.run(5.0)
    sim.subscribe(2, "deploy.>")
    malicious = MaliciousMember(sim, 3)
    engine = malicious.engine
    attributes = rumor_attributes(topic=DEPLOY)
    own = Rumor.signed(
        engine._identity, "default", engine.epoch, 1, (LARGE,), attributes=attributes
    ).without_body()
    holder = sim.nodes[1].peer_id
    for _ in range(5):
        malicious.send(AnnounceTopic(RumorCopy(own, 1, 0, holder), False))
        sim.run(1.0)
    sim.run(20.0)
    assert not sim.deliveries(MessageId(own.origin, own.epoch, own.first))
    later = sim.publish(0, DEPLOY, LARGE)
    sim.run(10.0)
    assert sim.deliveries(later).keys() == {2}


def test_many_large_bodies_that_nobody_subscribes_to_do_not_stop_their_origin() -> None:
    sim = Simulation(nodes=3, seed=1, config=NodeConfig.local(topics=()))
    sim.run(5.0)
    engine = sim.nodes[0].engine
    assert engine is not None
    for _ in range(12):
        assert sim.run_until(lambda: engine.can_broadcast_bytes(len(LARGE)), 10.0)
        sim.publish(0, DEPLOY, LARGE)
    sim.run(5.0)
    assert bodies_at(sim) == {0}


# --- over real sockets -----------------------------------------------------------------------------


async def wait_for(is_so: Callable[[], bool]) -> None:
    while not is_so():  # noqa: ASYNC110  whatever it waits for is no event
        await asyncio.sleep(0.005)


def test_programs_publish_and_subscribe(run: Run[None]) -> None:
    run(publish_and_subscribe())


async def publish_and_subscribe() -> None:
    """Over real sockets; what was published before a subscription begins is replayed from the cache."""
    key = ClusterKey.generate()
    async with Node(NodeConfig.local(keys=[key])) as ada:
        config = NodeConfig.local(keys=[key], bootstrap_peers=[str(ada.address)], topics=())
        async with Node(config) as bob:
            await bob.ready()
            delivered: list[Message] = []
            bob.on_message(delivered.append)
            await ada.publish(DEPLOY, b"before")
            await ada.publish(OTHER, b"never")
            plain = await ada.broadcast(b"plain")
            await wait_for(lambda: any(each.id == plain for each in delivered))
            async with bob.subscribe("deploy.>") as subscription:
                assert (await anext(subscription)).payload == b"before"
                await ada.publish(DEPLOY, b"live", expires_s=60)
                message = await anext(subscription)
            assert (message.topic, message.payload, message.via.value) == (DEPLOY, b"live", "eager")
            await ada.publish(DEPLOY, b"after")
            plain = await ada.broadcast(b"plain again")
            await wait_for(lambda: any(each.id == plain for each in delivered))
            assert sorted(each.payload for each in delivered) == [b"live", b"plain", b"plain again"]
            assert bob.stats().unsubscribed == 3
            for bad in (-1, 0, float("nan"), "60", True):
                with pytest.raises(InvalidArgument, match="expires_s"):
                    await ada.publish(DEPLOY, b"x", expires_s=bad)  # type: ignore[arg-type]
