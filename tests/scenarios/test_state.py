"""Keyed state in whole clusters: the scenarios of chitchat's `cluster_test.rs`, restarts, other versions, and
a malicious member."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest

from grapevine_proto import EntryChanged, InvalidArgument, NodeConfig, StateFull
from grapevine_proto.config.sections import StateConfig
from grapevine_proto.errors import DropReason
from grapevine_proto.events import Event, MemberStatus
from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.effects import CountDrop
from grapevine_proto.overlay.state.owner_map import MAX_KEYS, OwnerMap
from grapevine_proto.sim import Network, Simulation
from grapevine_proto.wire.attributes import rumor_attributes
from grapevine_proto.wire.entry_terms import EntryTerms
from grapevine_proto.wire.messages import (
    OverlayMessage,
    RumorCopy,
    Rumors,
    StateDelta,
    StateDigest,
    StateHead,
    StateHeads,
    StateRequest,
)
from grapevine_proto.wire.signed import Rumor
from tests.scenarios.malicious_member import MaliciousMember

LOSSY = Network(loss=0.1)
STATE_MESSAGES = (StateDigest, StateHeads, StateRequest, StateDelta)


def a_cluster(nodes: int, seed: int = 1, network: Network = LOSSY, **changes: object) -> Simulation:
    sim = Simulation(nodes=nodes, seed=seed, config=NodeConfig.local(**changes), network=network)
    sim.run(5.0)
    return sim


def agree(sim: Simulation) -> bool:
    return len({node.engine.state.sum for node in sim.nodes if node.engine is not None}) == 1


def values(sim: Simulation, key: str) -> list[bytes | None]:
    return [sim.value(node.number, key) for node in sim.nodes if node.engine is not None]


# --- the scenarios of chitchat ----------------------------------------------------------------------


def test_an_inserted_key_is_at_every_node() -> None:
    sim = a_cluster(5)
    sim.set_entry(0, "k", b"0")
    assert sim.run_until(lambda: values(sim, "k") == [b"0"] * 5, 5.0)
    sim.set_entry(0, "k", b"1")
    assert sim.run_until(lambda: values(sim, "k") == [b"1"] * 5, 5.0)


def test_a_deleted_key_is_gone_at_every_node() -> None:
    sim = a_cluster(5)
    sim.set_entry(0, "k", b"0")
    sim.run(5.0)
    assert sim.delete_entry(0, "k")
    assert sim.run_until(lambda: values(sim, "k") == [None] * 5, 5.0)
    assert not sim.delete_entry(0, "k")


def test_a_key_is_deleted_after_its_ttl() -> None:
    sim = a_cluster(4)
    sim.set_entry(0, "k", b"0", ttl_s=20)
    sim.run(15.0)
    assert values(sim, "k") == [b"0"] * 4
    sim.run(10.0)
    assert values(sim, "k") == [None] * 4
    assert agree(sim)


def test_a_key_whose_owner_is_gone_ends_at_about_its_time() -> None:
    sim = a_cluster(4)
    sim.set_entry(0, "k", b"0", ttl_s=20)
    sim.run(3.0)
    sim.crash(0)
    sim.run(15.0)
    assert values(sim, "k") == [b"0"] * 3
    sim.run(5.0)
    assert values(sim, "k") == [None] * 3


@pytest.mark.parametrize(("nodes", "group"), [(4, [0, 1]), (8, [0, 1, 2, 3])])
def test_a_partition_heals(nodes: int, group: list[int]) -> None:
    sim = a_cluster(nodes)
    sim.set_entry(0, "before", b"0")
    sim.run(3.0)
    sim.partition(group)
    sim.set_entry(0, "one side", b"1")
    sim.set_entry(nodes - 1, "other side", b"2")
    sim.delete_entry(0, "before")
    sim.run(30.0)
    assert sim.value(nodes - 1, "before") == b"0"
    assert sim.value(1, "other side") is None
    sim.heal()
    assert sim.run_until(lambda: agree(sim), 60.0)
    for key, expected in (("before", None), ("one side", b"1"), ("other side", b"2")):
        assert values(sim, key) == [expected] * nodes


def test_many_insertions_and_deletions_leave_all_copies_equal() -> None:
    sim, rng = a_cluster(4, seed=5), random.Random(5)
    for _ in range(300):
        number, key = rng.randrange(4), f"k{rng.randrange(30)}"
        if rng.random() < 0.4:
            sim.delete_entry(number, key)
        else:
            sim.set_entry(number, key, rng.randbytes(20))
        sim.run(rng.choice([0.0, 0.02, 0.1]))
    assert sim.run_until(lambda: agree(sim), 60.0)
    for number in range(30):
        assert len(set(values(sim, f"k{number}"))) == 1


def test_a_node_that_joins_late_catches_up() -> None:
    sim = a_cluster(4, message_dedup_ttl=10.0)
    for number in range(60):
        sim.set_entry(number % 4, f"k{number}", bytes(300))
    sim.delete_entry(0, "k0")
    sim.run(60.0)
    late = sim.add(bootstrap=2)
    assert sim.run_until(lambda: sim.nodes[late].engine is not None and agree(sim), 5.0)
    assert sim.value(late, "k0") is None
    assert len(sim.values_of(late, 1)) == 15


def test_a_key_that_was_deleted_and_collected_meanwhile_does_not_return() -> None:
    """A node that was away for longer than deleted keys are remembered gets the whole map
    (quickwit-oss/chitchat#121)."""
    sim = a_cluster(4, state=StateConfig(tombstone=5.0))
    for key in ("gone", "stays"):
        sim.set_entry(0, key, b"1")
    sim.run(5.0)
    sim.partition([3])
    sim.delete_entry(0, "gone")
    sim.run(30.0)
    sim.set_entry(0, "later", b"1")
    sim.run(5.0)
    owner = sim.nodes[0].engine
    assert owner is not None
    assert list(owner.state.maps[owner.peer_id].entries) == ["stays", "later"]
    assert sim.value(3, "gone") == b"1"
    returned: list[Event] = []
    sim.listen(
        lambda _, number, event: (
            returned.append(event)
            if isinstance(event, EntryChanged) and event.key == "gone" and not event.is_deleted
            else None
        )
    )
    sim.heal()
    assert sim.run_until(lambda: agree(sim), 60.0)
    assert values(sim, "gone") == [None] * 4
    assert not returned


# --- cost -------------------------------------------------------------------------------------------


def _count_and_send(
    found: Counter[str],
    send: Callable[..., int],
    peers: tuple[PeerId, ...],
    message: OverlayMessage,
    now: float,
) -> int:
    if isinstance(message, STATE_MESSAGES):
        found[type(message).__name__] += len(peers)
    return send(peers, message, now)


def state_messages(sim: Simulation) -> Counter[str]:
    found: Counter[str] = Counter()
    for node in sim.nodes:
        engine = node.engine
        assert engine is not None
        transport = engine._transport
        original = transport.send

        transport.send = partial(_count_and_send, found, original)  # type: ignore[method-assign]
    return found


@pytest.mark.usefixtures("patch_sources")
def test_nodes_without_entries_send_nothing_for_them() -> None:
    sim = Simulation(nodes=5, seed=2, config=NodeConfig.local())
    sim.run(0.0)
    sim.run(1.5)
    found = state_messages(sim)
    sim.broadcast(0, b"x")
    sim.run(120.0)
    assert not found


@pytest.mark.usefixtures("patch_sources")
def test_links_whose_ends_agree_are_silent() -> None:
    sim = a_cluster(5, network=Network())
    for number in range(5):
        sim.set_entry(number, "k", b"%d" % number)
    sim.run(60.0)
    assert agree(sim)
    found = state_messages(sim)
    sim.run(300.0)
    assert not found


# --- restarts ---------------------------------------------------------------------------------------


def test_a_node_keeps_its_entries_over_a_crash() -> None:
    sim = a_cluster(4)
    sim.set_entry(0, "k", b"1")
    sim.set_entry(0, "gone", b"1")
    sim.run(3.0)
    assert sim.delete_entry(1, "gone")
    sim.run(3.0)
    sim.crash(0)
    sim.run(10.0)
    sim.restart(0)
    sim.run(1.0)
    assert sim.values_of(0, 0) == {"k": b"1", "gone": b"1"}
    sim.set_entry(0, "later", b"2")
    assert sim.run_until(lambda: agree(sim), 30.0)
    assert values(sim, "later") == [b"2"] * 4
    assert values(sim, "k") == [b"1"] * 4
    assert values(sim, "gone") == [None] * 4


def test_an_owner_that_lost_its_state_reads_its_map_back_and_continues_above_it() -> None:
    sim = a_cluster(4)
    for number in range(40):
        sim.set_entry(0, f"k{number}", b"old")
    sim.delete_entry(0, "k0")
    sim.run(5.0)
    sim.crash(0)
    sim.run(3.0)
    sim.restart(0, lose_all_but_identity=True)
    sim.set_entry(0, "k1", b"new")
    assert sim.run_until(lambda: agree(sim) and sim.value(3, "k1") == b"new", 30.0)
    for number in range(4):
        found = sim.values_of(number, 0)
        assert len(found) == 39
        assert (found["k1"], found["k2"], "k0" in found) == (b"new", b"old", False)


def test_a_message_to_retain_waits_until_lost_entries_have_been_read_back() -> None:
    sim = a_cluster(4)
    sim.publish(0, "deploy.web", b"v1", retain="web")
    sim.set_entry(0, "k", b"old")
    sim.run(5.0)
    sim.crash(0)
    sim.run(3.0)
    sim.restart(0, lose_all_but_identity=True)
    assert sim.publish(0, "deploy.web", b"v2", retain="web").sequence == 0
    assert sim.run_until(lambda: agree(sim) and sim.value(3, "retain/web") == b"v2", 30.0)
    for number in range(4):
        assert sim.values_of(number, 0) == {"retain/web": b"v2", "k": b"old"}


def test_an_owner_that_lost_its_state_and_finds_no_entries_writes_soon() -> None:
    sim = a_cluster(3)
    sim.crash(0)
    sim.restart(0, lose_all_but_identity=True)
    sim.set_entry(0, "k", b"1")
    assert sim.run_until(lambda: values(sim, "k") == [b"1"] * 3, 15.0)


def test_tags_follow_the_configuration_over_restarts() -> None:
    sim = a_cluster(3, tags={"role": "web"})
    sim.set_tags(0, {"role": "db", "rack": "7"})
    sim.run(3.0)
    engine = sim.nodes[1].engine
    assert engine is not None
    tags = {member.peer_id: dict(member.tags) for member in engine.members()}
    assert tags[sim.nodes[0].peer_id] == {"role": "db", "rack": "7"}  # type: ignore[index]
    assert tags[sim.nodes[2].peer_id] == {"role": "web"}  # type: ignore[index]
    sim.crash(0)
    sim.restart(0)
    sim.run(5.0)
    tags = {member.peer_id: dict(member.tags) for member in engine.members()}
    assert tags[sim.nodes[0].peer_id] == {"role": "web"}  # type: ignore[index]
    sim.reconfigure(0, tags={"role": "cache"})
    sim.run(3.0)
    assert sim.values_of(1, 0) == {"tag/role": b"cache"}


def test_durable_entries_outlive_their_owner() -> None:
    sim = a_cluster(4, state=StateConfig(keep=100.0), reconnect_timeout=300.0)
    sim.set_entry(0, "durable", b"1", durable=True)
    sim.set_entry(0, "other", b"2")
    sim.run(3.0)
    sim.crash(0)
    assert sim.run_until(
        lambda: all(
            member.status is MemberStatus.DOWN
            for node in sim.nodes[1:]
            for member in node.engine.members()  # type: ignore[union-attr]
            if member.peer_id == sim.nodes[0].peer_id
        ),
        60.0,
    )
    sim.run(240.0)
    assert values(sim, "durable") == [b"1"] * 3
    assert values(sim, "other") == [None] * 3
    assert agree(sim)
    sim.restart(0)
    assert sim.run_until(lambda: agree(sim), 60.0)
    assert values(sim, "other") == [b"2"] * 4, "its owner is back, with its map"


# --- nodes of another version -----------------------------------------------------------------------


def make_older(sim: Simulation, number: int) -> None:
    """Node `number` knows neither entries nor their messages, as before there were any."""
    engine = sim.nodes[number].engine
    assert engine is not None
    overlay = engine._overlay
    overlay.dissemination._watchers = (overlay.tracing, overlay.queries)
    overlay.state_sync.handle = lambda message, sender, now: [  # type: ignore[method-assign]
        CountDrop(sender, DropReason.UNKNOWN_KIND)
    ]
    overlay.state_sync.on_link_up = lambda peer_id, now: None  # type: ignore[method-assign]


@pytest.mark.usefixtures("patch_sources")
def test_entries_pass_through_nodes_that_do_not_know_them() -> None:
    sim = a_cluster(3, seed=4, network=Network(), strategy="plumtree")
    make_older(sim, 1)
    sim._network_model.block(frozenset([0]), frozenset([2]))
    sim._network_model.block(frozenset([2]), frozenset([0]))
    sim.run(10.0)
    sim.set_entry(0, "k", b"1")
    assert sim.run_until(lambda: sim.value(2, "k") == b"1", 30.0)
    assert sim.value(1, "k") is None
    sim.run(120.0)
    assert sim.connected(1) == 2
    for number in (0, 2):
        assert not sim.nodes[number].stats().offenses


# --- a malicious member -----------------------------------------------------------------------------


def entry_rumor(
    member: MaliciousMember, sequence: int, key: str, value: bytes, clock: int
) -> Rumor:
    engine = member.engine
    owner_map = engine.state.maps.get(engine.peer_id) or OwnerMap(engine.peer_id)
    version = (engine.epoch, sequence)
    terms = EntryTerms(key, clock)
    terms = terms._replace(digest=owner_map.digest_with(version, terms, value))
    attributes = rumor_attributes(entry=terms)
    return Rumor.signed(
        engine._identity, engine.config.cluster, *version, (value,), attributes=attributes
    )


def test_a_malicious_member_cannot_bloat_others_beyond_the_limits_of_a_map() -> None:
    sim = a_cluster(4, network=Network())
    for number in range(MAX_KEYS):
        sim.set_entry(3, f"k{number}", b"x")
        if number % 50 == 0:
            sim.run(0.5)
    with pytest.raises(StateFull):
        sim.set_entry(3, "one more", b"x")
    with pytest.raises(InvalidArgument):
        sim.set_entry(3, "k" * 129, b"x")
    sim.run(10.0)
    malicious = MaliciousMember(sim, 3)
    beyond = entry_rumor(malicious, 9000, "one more", b"x", 1)
    malicious.send(Rumors((RumorCopy(beyond, 1, 0),)))
    sim.run(10.0)
    for number in range(3):
        assert len(sim.values_of(number, 3)) == MAX_KEYS


def test_a_malicious_member_cannot_write_for_others_nor_roll_them_back() -> None:
    sim = a_cluster(4, network=Network())
    sim.set_entry(0, "k", b"old")
    sim.run(3.0)
    victim = sim.nodes[0].engine
    assert victim is not None
    old = victim.state.maps[victim.peer_id].entries["k"].rumor
    sim.set_entry(0, "k", b"new")
    sim.run(3.0)
    malicious = MaliciousMember(sim, 3)
    forged = replace(old, first=old.first + 50, body=b"bad")
    head = StateHead(bytes(victim.peer_id[:8]), (victim.epoch, 1), bytes(4))
    for message in (
        Rumors((RumorCopy(old, 1, 0),)),
        Rumors((RumorCopy(forged, 1, 0),)),
        StateDelta(1, True, (RumorCopy(old, 0, 0),)),
        StateHeads(False, b"\xff" * 32, (head,)),
    ):
        malicious.send(message)
        sim.run(5.0)
    assert values(sim, "k") == [b"new"] * 4
    assert agree(sim)


@pytest.mark.usefixtures("patch_sources")
def test_a_member_that_serves_stale_heads_only_delays() -> None:
    """A node hears of the other peers what the malicious one withholds."""
    sim = a_cluster(4, network=Network())
    sim.set_entry(0, "k", b"1")
    sim.run(3.0)
    malicious = MaliciousMember(sim, 3)
    state_sync = malicious.engine._overlay.state_sync
    state_sync._on_request = lambda message, peer, sender, now: []  # type: ignore[method-assign]
    late = sim.add(bootstrap=[3, 1, 2], message_dedup_ttl=1.0)
    assert sim.run_until(lambda: sim.nodes[late].engine is not None and agree(sim), 30.0)
    assert sim.value(late, "k") == b"1"


def test_advanced_clocks_never_win_against_another_member() -> None:
    sim = a_cluster(4, network=Network())
    malicious = MaliciousMember(sim, 3)
    rumor = entry_rumor(malicious, 1, "k", b"mine", 1 << 50)
    malicious.send(Rumors((RumorCopy(rumor, 1, 0),)))
    sim.run(3.0)
    assert sim.value(0, "k") == b"mine"
    sim.set_entry(1, "k", b"right")
    sim.run(3.0)
    assert [sim.value(number, "k") for number in range(3)] == [b"right"] * 3
    engine = sim.nodes[0].engine
    assert engine is not None
    (key,) = engine.state.shared.keys("k", 0.0)
    assert [each.clock_ahead for each in key.others] == [True]


def test_a_member_that_signs_two_contents_is_shown_as_a_conflict_and_frozen() -> None:
    sim = a_cluster(4, network=Network())
    malicious = MaliciousMember(sim, 3)
    for number, value in ((0, b"one"), (1, b"two")):
        peer_id = sim.nodes[number].peer_id
        assert peer_id is not None
        sim.heal()
        sim.partition([number, 3], [1 - number], [2])
        malicious.send(
            Rumors((RumorCopy(entry_rumor(malicious, 1, "k", value, 1), 1, 0),)), peer_id
        )
        sim.run(0.5)
    sim.heal()
    sim.run(120.0)
    for number in (0, 1):
        engine = sim.nodes[number].engine
        assert engine is not None
        (key,) = engine.state.shared.keys("k", 0.0)
        assert key.winner is not None
        assert key.winner.conflict


def test_tags_that_no_peer_has_yet_are_no_broadcast_that_is_waited_for() -> None:
    sim = a_cluster(1, tags={"role": "web"})
    engine = sim.nodes[0].engine
    assert engine is not None
    assert engine.unacknowledged == 0
    sim.set_entry(0, "k", b"1")
    assert engine.unacknowledged == 1


def test_a_node_whose_map_is_full_starts_without_its_new_tags() -> None:
    sim = a_cluster(1)
    for number in range(MAX_KEYS):
        sim.set_entry(0, f"k{number}", b"x")
    sim.run(3.0)
    sim.reconfigure(0, tags={"role": "web"})
    sim.crash(0)
    sim.restart(0)
    sim.run(3.0)
    assert len(sim.values_of(0, 0)) == MAX_KEYS
    assert sim.nodes[0].stats().entries_refused == 1


@pytest.mark.parametrize("is_torn", [False, True])
def test_a_crash_right_after_a_write_takes_nothing_back(is_torn: bool) -> None:
    sim = a_cluster(4)
    sim.set_entry(0, "k", b"old")
    sim.run(5.0)
    assert sim.delete_entry(0, "k")
    sim.run(0.3)
    sim.crash(0, lose_last_save=is_torn)
    sim.restart(0)
    sim.set_entry(0, "other", b"new")
    assert sim.run_until(lambda: values(sim, "other") == [b"new"] * 4, 30.0)
    assert values(sim, "k") == [None] * 4
