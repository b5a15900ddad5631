"""Members that do not return are removed after a time, and stay removed until they return."""

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
from tests.scenarios.malicious_member import MaliciousMember

SHORT = NodeConfig.local(reconnect_timeout=20.0, tombstone_timeout=60.0)


def table_sizes(sim: Simulation, number: int) -> tuple[int, int, int]:
    """Number of entries about other nodes: members, peers and peer limits."""
    engine = engine_of(sim, number)
    return len(engine.members()), len(engine.peers(1e9)), len(engine._transport.links.peer_limits)


@pytest.mark.parametrize("leaves_gracefully", [False, True])
def test_tables_stop_growing_when_nodes_restart_with_new_identities(
    leaves_gracefully: bool,
) -> None:
    sim = cluster(3, config=SHORT)
    visitor = sim.add(bootstrap=[0])
    sizes = []
    for _ in range(60):
        sim.run(6.0)
        if leaves_gracefully:
            sim.leave(visitor)
            sim.run(1.0)
        sim.restart(visitor, lose_state=True)
        sizes.append(table_sizes(sim, 0))
    kept = [max(kinds) for kinds in zip(*sizes[20:], strict=True)]
    assert max(kept) < 20, "of 60 identities, only those of the last minutes"


def test_a_removed_member_is_not_restored_by_an_old_record() -> None:
    sim = cluster(4, config=SHORT)
    sim.run(5.0)
    old = engine_of(sim, 3).record
    sim.crash(3)
    sim.run(60.0)
    assert statuses(sim, 0) == {MemberStatus.UP: 2}
    MaliciousMember(sim, 1).send(Records((old,)))
    sim.run(2.0)
    assert statuses(sim, 0) == {MemberStatus.UP: 2}
    sim.restart(3)
    sim.run(10.0)
    assert statuses(sim, 0) == {MemberStatus.UP: 3}


def test_after_a_partition_longer_than_all_timeouts_every_node_knows_every_other_again() -> None:
    sim = cluster(6, config=SHORT.replace(max_peers=3))
    sim.run(20.0)
    sim.partition({0, 1, 2})
    sim.run(200.0)
    assert sum(statuses(sim, 0).values()) == 2
    sim.heal()
    assert sim.run_until(
        lambda: all(statuses(sim, n) == {MemberStatus.UP: 5} for n in range(6)), 400.0, every=5.0
    )


def test_at_most_tombstones_limit_tombstones_are_kept() -> None:
    members = MemberTable(LimitsConfig())
    left_record = record(1, left=True)
    members.add(left_record, peer_id(900), 0.0)
    members.remove_expired(100.0, 10.0, 50.0)
    assert members.is_tombstoned(left_record)
    members._tombstones = {peer_id(n + 2000): ((1, 0), 1e9) for n in range(TOMBSTONES_LIMIT)}
    members.add(left_record, peer_id(900), 100.0)
    members.remove_expired(200.0, 10.0, 50.0)
    assert len(members._tombstones) == TOMBSTONES_LIMIT
    assert members.is_tombstoned(left_record)
