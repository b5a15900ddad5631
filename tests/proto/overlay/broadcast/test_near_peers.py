"""Who is near: few, the same from both ends, and enough to connect all."""

from __future__ import annotations

import random

import pytest

from grapevine_proto.events import MemberStatus
from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.broadcast.near_peers import (
    DIRECT_MAIL_RINGS,
    NEAR_PEERS_LIMIT,
    NearPeers,
)
from tests.proto.overlay.builders import Surroundings, peer_id, record


def mesh(nodes: int) -> dict[PeerId, NearPeers]:
    """The view of each of so many nodes that are all linked with each other."""
    views = {}
    for number in range(nodes):
        place = Surroundings(*(each for each in range(nodes) if each != number))
        views[peer_id(number)] = NearPeers(
            place.config, peer_id(number), place.peers, place.members, random.Random(1)
        )
    return views


def reached(start: PeerId, edges: dict[PeerId, set[PeerId]]) -> set[PeerId]:
    found, left = {start}, [start]
    while left:
        new = edges[left.pop()] - found
        found |= new
        left.extend(new)
    return found


@pytest.mark.parametrize("links", [1, NEAR_PEERS_LIMIT])
def test_a_few_links_are_all_near(links: int) -> None:
    place = Surroundings(*range(1, links + 1))
    assert list(place.around.near) == list(place.around.linked)


def test_in_a_mesh_both_ends_find_each_other_near_and_all_are_connected() -> None:
    views = mesh(50)
    near = {who: set(view.near) for who, view in views.items()}
    assert all(3 <= len(each) <= NEAR_PEERS_LIMIT for each in near.values())
    assert all(who in near[other] for who, others in near.items() for other in others)
    behind = {who: set(view.ring_successors) for who, view in views.items()}
    for edges in (near, behind):
        assert len(reached(peer_id(0), edges)) == 50
    assert all(
        1 <= sum(who in each for each in behind.values()) <= DIRECT_MAIL_RINGS for who in views
    )


def test_who_calls_is_near_until_links_change_and_only_so_many() -> None:
    place = Surroundings(*range(1, 51))
    strangers = [each for each in place.around.linked if each not in place.around.near]
    for caller in strangers:
        place.around.on_caller(caller)
    assert list(place.around.near)[-NEAR_PEERS_LIMIT:] == strangers[:NEAR_PEERS_LIMIT]
    assert len(place.around.near) <= 2 * NEAR_PEERS_LIMIT
    place.link(51)
    assert len(place.around.near) <= NEAR_PEERS_LIMIT
    place.around.on_caller(peer_id(99))
    assert peer_id(99) not in place.around.near, "who is not linked cannot be near"


def test_everybody_is_linked_when_all_are_who_are_not_gone() -> None:
    place = Surroundings(1, 2, members=(3, 4))
    around = place.around
    assert not around.is_fully_linked()
    for number, status in ((3, MemberStatus.LEFT), (4, MemberStatus.DOWN)):
        member = place.members.get(peer_id(number))
        assert member is not None
        assert not around.is_fully_linked()
        member.status = status
    assert around.is_fully_linked()
    assert not Surroundings().around.is_fully_linked(), "nobody is not everybody"


def test_the_hop_budget_grows_with_the_cluster() -> None:
    assert Surroundings(1).around.hops_limit == 10
    place = Surroundings()
    for number in range(1, 1000):
        place.members.add(
            record(1).__class__(peer_id(number), 1, 0, (), "", "", 1, 1, False), peer_id(1), 0.0
        )
    assert place.around.hops_limit == 20
