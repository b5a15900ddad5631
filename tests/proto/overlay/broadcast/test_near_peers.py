"""Near peers: few, mutual in a mesh, and enough to connect all nodes."""

from __future__ import annotations

import pytest

from grapevine_proto.events import MemberStatus
from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.broadcast.near_peers import (
    DIRECT_MAIL_RINGS,
    NEAR_PEERS_LIMIT,
    NearPeers,
)
from tests.proto.overlay.builders import NodeTables, peer_id, record


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


@pytest.mark.parametrize("links", [1, NEAR_PEERS_LIMIT])
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
        1 <= sum(peer in each for each in successors.values()) <= DIRECT_MAIL_RINGS
        for peer in views
    )


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
    assert not near_peers.is_fully_linked()
    for number, status in ((3, MemberStatus.LEFT), (4, MemberStatus.DOWN)):
        member = tables.members.get(peer_id(number))
        assert member is not None
        assert not near_peers.is_fully_linked()
        member.status = status
    assert near_peers.is_fully_linked()
    assert not NodeTables().near_peers.is_fully_linked(), "without links a node is not fully linked"


def test_the_hop_limit_grows_with_the_cluster() -> None:
    assert NodeTables(1).near_peers.hops_limit == 10
    tables = NodeTables()
    for number in range(1, 1000):
        tables.members.add(
            record(1).__class__(peer_id(number), 1, 0, (), "", "", 1, 1, False), peer_id(1), 0.0
        )
    assert tables.near_peers.hops_limit == 20
