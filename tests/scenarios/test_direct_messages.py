"""Direct messages: each that `send` accepts arrives, or its sender learns why not, within a bounded time."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable

import pytest

from grapevine_proto import ClusterKey, LimitsConfig, Node, NodeConfig, RateLimitConfig
from grapevine_proto.errors import UnknownPeer
from grapevine_proto.events import (
    Event,
    MessageReceived,
    MessageSent,
    MessageUndelivered,
    UndeliveredReason,
)
from grapevine_proto.ids import MessageId
from grapevine_proto.sim import Network, Simulation
from grapevine_proto.sim.simulation import LEAVE_TIMEOUT_S
from grapevine_proto.transport import direct_deliveries
from grapevine_proto.transport.direct_deliveries import DELIVERY_TIMEOUT_S
from tests.conftest import Run

TICK_S = 1.1  # sessions are checked once a second
LARGE_BYTES = 200_000


class Post:
    """What became of the direct messages of a simulation."""

    def __init__(self, sim: Simulation) -> None:
        self.sim = sim
        self.arrived: Counter[MessageId] = Counter()
        self.undelivered: dict[MessageId, MessageUndelivered] = {}
        self.reported_at: dict[MessageId, float] = {}
        self.sent: list[MessageSent] = []
        sim.listen(self._on_event)

    def _on_event(self, now: float, number: int, event: Event) -> None:
        if isinstance(event, MessageReceived) and event.message.is_direct:
            self.arrived[event.message.id] += 1
        elif isinstance(event, MessageSent) and event.message.is_direct:
            self.sent.append(event)
        elif isinstance(event, MessageUndelivered):
            assert event.id not in self.undelivered, "each ends once"
            self.undelivered[event.id] = event
            self.reported_at[event.id] = now
            assert event.to == self.recipient_of(event.id)

    def recipient_of(self, message_id: MessageId) -> object:
        return next(each.message.to for each in self.sent if each.message.id == message_id)

    def reason(self, message_id: MessageId) -> UndeliveredReason:
        return self.undelivered[message_id].reason

    def waiting(self, number: int) -> int:
        engine = self.sim.nodes[number].engine
        assert engine is not None
        return engine.stats().unacknowledged_direct


def linked_pair(**changes: object) -> tuple[Simulation, Post]:
    sim = Simulation(nodes=2, config=NodeConfig(**changes))  # type: ignore[arg-type]
    sim.run(5.0)
    assert sim.connected(0) == 1
    return sim, Post(sim)


def unlinked_pair() -> tuple[Simulation, Post, int]:
    """A simulation in which node 0 knows the member `number` and has no link with it."""
    sim = Simulation(nodes=12, config=NodeConfig(max_peers=4), seed=3)
    sim.run(30.0)
    engine = sim.nodes[0].engine
    assert engine is not None
    linked = {peer.peer_id for peer in sim.peers(0) if peer.connected_at is not None}
    known = {member.peer_id for member in engine.members()} - linked
    number = next(n for n in range(1, 12) if sim.nodes[n].peer_id in known)
    return sim, Post(sim), number


@pytest.mark.parametrize("size_bytes", [5, 1000, 1001, 1200, LARGE_BYTES])
def test_what_arrives_is_acknowledged_and_nothing_is_reported(size_bytes: int) -> None:
    sim, post = linked_pair()
    message_id = sim.send(0, 1, bytes(size_bytes))
    assert post.waiting(0) == 1
    sim.run(10.0)
    assert post.arrived == {message_id: 1}
    assert post.waiting(0) == 0
    sim.run(DELIVERY_TIMEOUT_S * 2)
    assert post.undelivered == {}


@pytest.mark.parametrize("size_bytes", [5, LARGE_BYTES])
def test_a_member_without_a_link_is_reached_by_a_transient_session(size_bytes: int) -> None:
    sim, post, to = unlinked_pair()
    message_id = sim.send(0, to, bytes(size_bytes))
    sim.run(20.0)
    assert (post.arrived, post.undelivered, post.waiting(0)) == ({message_id: 1}, {}, 0)


def test_a_member_behind_a_nat_is_reported_within_the_connection_timeout() -> None:
    sim, post, to = unlinked_pair()
    sim._network_model.block({0}, {to})  # its router drops what it did not ask for
    sent_at = sim.now
    ids = [sim.send(0, to, b"%d" % number) for number in range(3)]
    sim.run(NodeConfig().connection_timeout + TICK_S)
    assert {each: post.reason(each) for each in ids} == dict.fromkeys(
        ids, UndeliveredReason.NO_ANSWER
    )
    assert all(at - sent_at <= NodeConfig().connection_timeout for at in post.reported_at.values())
    assert {each.peers for each in post.sent} == {0}
    engine = sim.nodes[0].engine
    assert engine is not None
    assert engine.stats().undelivered == ((UndeliveredReason.NO_ANSWER, 3),)
    assert engine.stats().to_dict()["undelivered"] == {"no_answer": 3}


@pytest.mark.parametrize("size_bytes", [5, LARGE_BYTES])
@pytest.mark.parametrize("is_one_way", [False, True])
def test_a_peer_that_vanishes_with_unacknowledged_messages_is_reported(
    size_bytes: int, is_one_way: bool
) -> None:
    sim, post = linked_pair()
    if is_one_way:  # acknowledgments are lost: it may have arrived
        sim._network_model.block({1}, {0})
    else:
        sim.crash(1)
    message_id = sim.send(0, 1, bytes(size_bytes))
    sent_at = sim.now
    sim.run(DELIVERY_TIMEOUT_S * 2)
    assert post.reason(message_id) in (
        UndeliveredReason.NOT_ACKNOWLEDGED,
        UndeliveredReason.SESSION_ENDED,
    )
    assert post.reported_at[message_id] - sent_at <= DELIVERY_TIMEOUT_S + 15.0
    assert post.waiting(0) == 0


def test_messages_beyond_the_queue_are_reported_at_once() -> None:
    limits = LimitsConfig(queue_messages=8)
    sim, post = linked_pair(limits=limits, rate_limit=RateLimitConfig(capacity=5, refill_rate=1))
    ids = [sim.send(0, 1, b"%d" % number) for number in range(40)]
    refused = [each for each in ids if each in post.undelivered]
    assert 20 <= len(refused) < 40
    assert {post.reason(each) for each in refused} == {UndeliveredReason.QUEUE_FULL}
    sim.run(30.0)
    assert sorted(post.arrived) == sorted(set(ids) - set(refused))
    assert post.waiting(0) == 0


def test_a_message_that_is_too_large_for_its_recipient_is_reported() -> None:
    sim, post = linked_pair()
    sim.reconfigure(1, max_message_size=65_536)
    sim.crash(1)
    sim.nodes[1].config = sim.nodes[1].config.replace(max_message_size=65_536)
    sim.restart(1)
    sim.run(20.0)
    message_id = sim.send(0, 1, bytes(LARGE_BYTES))
    sim.run(DELIVERY_TIMEOUT_S * 2)
    assert post.arrived == {}
    assert post.reason(message_id) is UndeliveredReason.NOT_ACKNOWLEDGED
    assert post.undelivered[message_id].detail == "no receipt"


def test_a_node_that_leaves_delivers_or_reports() -> None:
    sim, post, to = unlinked_pair()
    linked = next(
        number
        for number in range(1, 12)
        if any(
            peer.peer_id == sim.nodes[number].peer_id and peer.connected_at is not None
            for peer in sim.peers(0)
        )
    )
    delivered = sim.send(0, linked, b"to a peer")
    waiting = sim.send(0, to, b"waits for a session")
    sim.leave(0)
    sim.run(10.0)
    assert post.arrived == {delivered: 1}
    assert list(post.undelivered) == [waiting]
    assert post.reason(waiting) is UndeliveredReason.NODE_LEFT


def test_a_node_that_leaves_reports_what_a_dead_peer_did_not_acknowledge() -> None:
    sim, post = linked_pair()
    sim.crash(1)
    message_id = sim.send(0, 1, b"too late")
    sim.leave(0)
    sim.run(10.0)
    assert post.reason(message_id) is UndeliveredReason.NODE_LEFT


def test_a_node_that_leaves_does_not_wait_for_a_dead_peer_once_its_messages_are_acknowledged() -> (
    None
):
    sim = Simulation(nodes=3)
    sim.run(5.0)
    post = Post(sim)
    sim.crash(2)
    sim.broadcast(0, b"everyone")
    direct = sim.send(0, 1, b"you alone")
    began_at = sim.now
    sim.leave(0)
    assert sim.run_until(lambda: sim.nodes[0].engine is None, LEAVE_TIMEOUT_S)
    assert sim.now - began_at < LEAVE_TIMEOUT_S - 1.0
    assert (post.arrived, post.undelivered) == ({direct: 1}, {})


def test_a_member_that_is_not_known_is_an_error_and_no_event() -> None:
    sim, post = linked_pair()
    engine = sim.nodes[0].engine
    assert engine is not None
    with pytest.raises(UnknownPeer):
        engine.send(type(engine.peer_id)(bytes(32)), b"x", sim.nodes[0].read_clock(sim.now))
    assert post.waiting(0) == 0


@pytest.mark.parametrize("seed", range(6))
def test_under_loss_and_churn_each_message_arrives_or_is_reported(seed: int) -> None:
    rng = random.Random(seed)
    network = Network(loss=0.25, duplication=0.05, reorder=0.1, corruption=0.02)
    sim = Simulation(nodes=8, config=NodeConfig(max_peers=4), seed=seed, network=network)
    sim.run(20.0)
    post = Post(sim)
    sent: list[tuple[int, MessageId]] = []
    senders = (0, 1)
    for _ in range(120):
        number, to = rng.choice(senders), rng.randrange(2, 8)
        act = rng.random()
        if act < 0.05 and sim.nodes[to].engine is not None:
            sim.crash(to)
        elif act < 0.1 and sim.nodes[to].engine is None:
            sim.restart(to)
        else:
            payload = rng.randbytes(rng.choice((10, 900, 1100, 30_000)))
            try:
                sent.append((number, sim.send(number, to, payload)))
            except UnknownPeer:
                continue
        sim.run(rng.random())
    sim.run(DELIVERY_TIMEOUT_S * 3)
    lost = {each for _, each in sent} - set(post.arrived) - set(post.undelivered)
    assert lost == set()
    assert max(post.arrived.values()) == 1
    assert [post.waiting(number) for number in senders] == [0, 0]
    assert len(set(post.arrived) - set(post.undelivered)) > 50


# --- over UDP -------------------------------------------------------------------------------------


async def wait_for(is_so: Callable[[], bool]) -> None:
    while not is_so():  # noqa: ASYNC110  whatever it waits for is no event
        await asyncio.sleep(0.01)


def test_programs_learn_what_became_of_their_direct_messages(
    run: Run[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct_deliveries, "DELIVERY_TIMEOUT_S", 1.0)
    run(send_to_one_that_vanishes())


async def send_to_one_that_vanishes() -> None:
    key = ClusterKey.generate()
    reported: list[MessageUndelivered] = []

    def on_event(event: Event) -> None:
        if isinstance(event, MessageUndelivered):
            reported.append(event)

    async with Node(NodeConfig.local(keys=[key])) as ada:
        ada.on_event(on_event)
        bob = Node(NodeConfig.local(keys=[key], bootstrap_peers=[str(ada.address)]))
        received: list[bytes] = []
        bob.on_message(lambda message: received.append(message.payload))
        await bob.start()
        await bob.ready()
        for payload in (b"psst", bytes(100_000)):
            await ada.send(bob.peer_id, payload)
        await wait_for(lambda: ada.stats().unacknowledged_direct == 0)
        assert sorted(received) == sorted([b"psst", bytes(100_000)])
        assert reported == []
        bob_id = bob.peer_id
        for task in bob._tasks:  # as kill -9 does: it says nothing
            task.remove_done_callback(bob._on_task_done)
            task.cancel()
        bob._release()
        lost = await ada.send(bob_id, b"to nobody")
        await wait_for(lambda: bool(reported))
        assert [(each.id, each.to) for each in reported] == [(lost, bob_id)]
        assert reported[0].reason in (
            UndeliveredReason.NOT_ACKNOWLEDGED,
            UndeliveredReason.SESSION_ENDED,
        )
        last = await ada.send(bob_id, b"and one when leaving")
        await ada.leave(0.2)
    assert (reported[-1].id, reported[-1].reason) == (last, UndeliveredReason.NODE_LEFT)
    assert sum(count for _, count in ada.stats().undelivered) == 2


def test_a_node_that_leaves_at_once_opens_the_session_that_a_message_waits_for(
    run: Run[None],
) -> None:
    run(send_and_leave())


async def send_and_leave() -> None:
    """Ada knows Bob as a member and has no room for a link with him."""
    key = ClusterKey.generate()
    config = NodeConfig.local(keys=[key], max_peers=1, gossip_interval=0.2)
    async with Node(config.replace(max_peers=8)) as hub:
        config = config.replace(bootstrap_peers=[str(hub.address)])
        async with Node(config) as bob:
            received: list[bytes] = []
            bob.on_message(lambda message: received.append(message.payload))
            ada = Node(config)
            await ada.start()
            await wait_for(lambda: any(each.peer_id == bob.peer_id for each in ada.members()))
            await ada.send(bob.peer_id, b"and off")
            await ada.leave(5.0)
            assert received == [b"and off"]
            assert ada.stats().undelivered == ()
