"""Near peers: few, mutual in a mesh, and enough to connect all nodes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from grapevine_proto.events import MemberStatus
from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.broadcast.near_peers import (
    NEAR_PEERS_LIMIT,
    RING_COUNT,
    RING_POINT_BYTES,
    NearPeers,
)
from tests.proto.overlay.builders import NodeTables, peer_id, record

UNSIGNED_RECORD = record(0)


def mesh(nodes: int) -> dict[PeerId, NearPeers]:
    """The near peers of each of `nodes` nodes in a full mesh."""
    views = {}
    for number in range(nodes):
        tables = NodeTables(*(each for each in range(nodes) if each != number), number=number)
        views[peer_id(number)] = tables.near_peers
    return views


def reached(start: PeerId, edges: dict[PeerId, set[PeerId]]) -> set[PeerId]:
    found, pending = {start}, [start]
    while pending:
        new = edges[pending.pop()] - found
        found |= new
        pending.extend(new)
    return found


@pytest.mark.parametrize("links", [1, 8])
def test_a_few_links_are_all_near(links: int) -> None:
    tables = NodeTables(*range(1, links + 1))
    assert list(tables.near_peers.near) == list(tables.near_peers.linked)


def test_in_a_mesh_nearness_is_mutual_and_connects_all_nodes() -> None:
    views = mesh(50)
    near = {peer: set(view.near) for peer, view in views.items()}
    assert all(3 <= len(each) <= NEAR_PEERS_LIMIT for each in near.values())
    assert all(peer in near[other] for peer, others in near.items() for other in others)
    successors = {peer: set(view.ring_successors) for peer, view in views.items()}
    for edges in (near, successors):
        assert len(reached(peer_id(0), edges)) == 50
    assert all(
        1 <= sum(peer in each for each in successors.values()) <= RING_COUNT for peer in views
    )


def test_those_to_which_a_peer_is_near_are_found_without_asking_it() -> None:
    views = mesh(50)
    silent = peer_id(7)
    found = views[peer_id(0)].near_to(silent)
    assert set(found) <= set(views[silent].near)
    assert len(found) >= 3
    few = NodeTables(1, 2, 3).near_peers
    assert list(few.near_to(peer_id(2))) == [peer_id(1), peer_id(3)]


@pytest.mark.parametrize(("newcomers", "found"), [((3,), {3}), ((1, 2, 3), set())])
def test_peers_that_linked_lately_are_newcomers_unless_most_are(
    newcomers: tuple[int, ...], found: set[int]
) -> None:
    tables = NodeTables(1, 2, 3)
    for number in newcomers:
        peer = tables.peers.get(peer_id(number))
        assert peer is not None
        peer.on_link_up(None, 100.0, is_self_chosen=False)
    assert tables.near_peers.newcomers(101.0) == set(map(peer_id, found))
    assert tables.near_peers.newcomers(111.0) == set()


def test_of_more_than_eight_links_two_on_each_of_four_rings_are_near() -> None:
    near_peers = NodeTables(*range(1, 10)).near_peers
    assert len(near_peers.near) < 9
    assert NEAR_PEERS_LIMIT == 2 * RING_COUNT == 8
    assert len(peer_id(0)) == RING_COUNT * RING_POINT_BYTES, "all of a peer ID is used"


def test_callers_are_near_until_links_change_up_to_the_limit() -> None:
    tables = NodeTables(*range(1, 51))
    distant_peers = [
        each for each in tables.near_peers.linked if each not in tables.near_peers.near
    ]
    for caller in distant_peers:
        tables.near_peers.on_caller(caller)
    assert list(tables.near_peers.near)[-NEAR_PEERS_LIMIT:] == distant_peers[:NEAR_PEERS_LIMIT]
    assert len(tables.near_peers.near) <= 2 * NEAR_PEERS_LIMIT
    tables.link(51)
    assert len(tables.near_peers.near) <= NEAR_PEERS_LIMIT
    tables.near_peers.on_caller(peer_id(99))
    assert peer_id(99) not in tables.near_peers.near, "an unlinked peer cannot be near"


def test_fully_linked_ignores_members_that_are_down_or_left() -> None:
    tables = NodeTables(1, 2, members=(3, 4))
    near_peers = tables.near_peers
    tables.hear_heartbeat(1)
    assert not near_peers.is_fully_linked(1.0)
    for number, status in ((3, MemberStatus.LEFT), (4, MemberStatus.DOWN)):
        member = tables.members.get(peer_id(number))
        assert member is not None
        assert not near_peers.is_fully_linked(1.0)
        member.status = status
    assert near_peers.is_fully_linked(1.0)
    assert not NodeTables().near_peers.is_fully_linked(1.0), (
        "without links a node is not fully linked"
    )


def test_links_are_not_all_members_before_a_peer_has_named_those_it_knows() -> None:
    tables = NodeTables(1, 2)
    assert not tables.near_peers.is_fully_linked(1.0)
    tables.measure(2, 0.1)
    tables.hear_heartbeat(2, at=1.0)
    assert not tables.near_peers.is_fully_linked(1.09), "their records may still be on the way"
    assert tables.near_peers.is_fully_linked(1.1)
    tables.hear_heartbeat(2, 2, at=6.0)
    assert tables.near_peers.is_fully_linked(6.0)


@pytest.mark.parametrize("depth", range(1, 11))
def test_the_hop_limit_is_twice_the_depth_of_a_binary_tree_of_all_nodes(depth: int) -> None:
    tables = NodeTables()
    near_peers = tables.near_peers
    for number in range(1, 2**depth - 1):  # this node and they fill a binary tree
        tables.members.add(replace(UNSIGNED_RECORD, peer_id=peer_id(number)), peer_id(1), 0.0)
    assert near_peers.hops_limit == max(10, 2 * depth)
    tables.members.add(UNSIGNED_RECORD, peer_id(1), 0.0)
    assert near_peers.hops_limit == max(10, 2 * (depth + 1))


def test_a_peer_is_responsive_if_it_is_linked_and_answered_the_last_probe() -> None:
    tables = NodeTables(1, 2, 3, members=(4,))
    tables.unlink(2)
    tables.stop_answering(3)
    assert [n for n in range(6) if tables.near_peers.is_responsive(peer_id(n))] == [1]


def test_choices_are_linked_peers_or_candidates_without_the_excluded_ones() -> None:
    near_peers = NodeTables(1, 2, 3, 4).near_peers
    assert set(near_peers.choose(9)) == {peer_id(n) for n in (1, 2, 3, 4)}
    assert set(near_peers.choose(9, exclude=(peer_id(1),))) == {peer_id(n) for n in (2, 3, 4)}
    candidates = (peer_id(2), peer_id(7))
    assert set(near_peers.choose(9, candidates=candidates)) == set(candidates)
    assert near_peers.choose(9, candidates=candidates, exclude=(peer_id(2),)) == [peer_id(7)]
    assert near_peers.choose(9, candidates=()) == []
