"""Members that never return are let go after a time, and stay let go until they return."""

from __future__ import annotations

import pytest

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.config.sections import LimitsConfig
from grapevine_proto.events import MemberStatus
from grapevine_proto.overlay.members import TOMBSTONES_LIMIT, MemberTable
from grapevine_proto.sim import Simulation
from grapevine_proto.wire.messages import Records
from tests.proto.overlay.builders import peer_id, record
from tests.proto.overlay.membership.test_membership import cluster, engine_of, statuses
from tests.scenarios.malicious_member import Liar

SHORT = NodeConfig.local(reconnect_timeout=20.0, tombstone_timeout=60.0)


def weight(sim: Simulation, number: int) -> tuple[int, int, int]:
    """What a node keeps of others: members, peers and accounts."""
    engine = engine_of(sim, number)
    return len(engine.members()), len(engine.peers(1e9)), len(engine._transport.links.peer_limits)


@pytest.mark.parametrize("is_polite", [False, True])
def test_a_cluster_of_containers_without_volumes_reaches_a_plateau(is_polite: bool) -> None:
    sim = cluster(3, config=SHORT)
    guest = sim.add(bootstrap=[0])
    weights = []
    for _ in range(60):
        sim.run(6.0)
        if is_polite:
            sim.leave(guest)
            sim.run(1.0)
        sim.restart(guest, lose_state=True)
        weights.append(weight(sim, 0))
    kept = [max(kinds) for kinds in zip(*weights[20:], strict=True)]
    assert max(kept) < 20, "of 60 that came and went, those of the last minutes"


def test_a_member_that_was_let_go_is_not_brought_back_by_an_old_record() -> None:
    sim = cluster(4, config=SHORT)
    sim.run(5.0)
    old = engine_of(sim, 3).record
    sim.crash(3)
    sim.run(60.0)
    assert statuses(sim, 0) == {MemberStatus.UP: 2}
    Liar(sim, 1).say(Records((old,)))
    sim.run(2.0)
    assert statuses(sim, 0) == {MemberStatus.UP: 2}
    sim.restart(3)
    sim.run(10.0)
    assert statuses(sim, 0) == {MemberStatus.UP: 3}


def test_after_a_partition_longer_than_all_timeouts_everybody_knows_everybody_again() -> None:
    sim = cluster(6, config=SHORT.replace(max_peers=3))
    sim.run(20.0)
    sim.partition({0, 1, 2})
    sim.run(200.0)
    assert sum(statuses(sim, 0).values()) == 2
    sim.heal()
    assert sim.run_until(
        lambda: all(statuses(sim, n) == {MemberStatus.UP: 5} for n in range(6)), 400.0, every=5.0
    )


def test_so_many_tombstones_are_kept_and_not_one_more() -> None:
    members = MemberTable(LimitsConfig())
    told = record(1, left=True)
    members.add(told, peer_id(900), 0.0)
    members.remove_expired(100.0, 10.0, 50.0)
    assert members.is_tombstoned(told)
    members._tombstones = {peer_id(n + 2000): ((1, 0), 1e9) for n in range(TOMBSTONES_LIMIT)}
    members.add(told, peer_id(900), 100.0)
    members.remove_expired(200.0, 10.0, 50.0)
    assert len(members._tombstones) == TOMBSTONES_LIMIT
    assert members.is_tombstoned(told)
