"""Link eviction: who goes for whom, and with which referrals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.effects import Disconnect, Effect
from grapevine_proto.wire.messages import CloseReason, SwapRequest
from tests.proto.overlay.builders import peer_id, record
from tests.proto.overlay.membership.member_node import MemberNode, of_type

NOW = 20.0


def full_node(max_peers: int = 5, **changes: Any) -> MemberNode:
    """A node with all slots taken, by links that are old enough to be evicted."""
    node = MemberNode(
        linked=max_peers, **{"max_peers": max_peers, "optimize_links": True} | changes
    )
    for number in range(1, max_peers + 1):
        node.peer(number).last_heard_at = NOW
        node.peer(number).min_rtt_s = 0.010 * number
    for number in range(40, 50):
        node.members.add(record(number), peer_id(number), 0.0)
    return node


def evicted(effects: list[Effect]) -> PeerId:
    [one] = of_type(effects, Disconnect)
    return one.peer


def test_with_room_no_link_is_evicted() -> None:
    node = MemberNode(linked=4, max_peers=5)
    evictor = node.membership.evictor
    assert evictor.has_room
    assert evictor.make_room(record(9), NOW, wants_room=True) == []
    assert evictor.make_room_for_nearer(record(9), SwapRequest(record(8)), 0.001, NOW) == []
    assert evictor.swap_link(record(1), record(9)) == []


def test_an_evicted_peer_is_referred_to_the_newcomer() -> None:
    node = full_node()
    assert not node.membership.evictor.has_room
    [effect] = node.membership.evictor.make_room(record(9), NOW, wants_room=True)
    assert isinstance(effect, Disconnect)
    assert effect == Disconnect(effect.peer, CloseReason.FULL, "let go for node 9", (record(9),))
    assert node.peers.is_linked(effect.peer)
    assert node.membership.evictor.make_room(record(9), NOW, wants_room=False) == []


def test_a_newcomer_without_a_name_is_shown_by_its_id() -> None:
    nameless = replace(record(9), name="")
    [effect] = full_node().membership.evictor.make_room(nameless, NOW, wants_room=True)
    assert isinstance(effect, Disconnect)
    assert effect.detail == f"let go for {peer_id(9).short}"


def test_a_nearer_member_takes_the_place_of_a_farther_one_which_is_referred_to_what_it_gave_up() -> (
    None
):
    node = full_node()
    effects = node.membership.evictor.make_room_for_nearer(
        record(9), SwapRequest(record(8)), 0.001, NOW
    )
    [effect] = of_type(effects, Disconnect)
    assert effect.peer == peer_id(4), "the farthest fifth is kept"
    assert effect.detail == "let go for node 9, which is nearer"
    assert effect.referrals == (record(8),)
    assert node.membership.proximity.links_optimized == 1
    assert node.member(8).record == record(8)


def test_a_member_that_is_not_nearer_or_comes_too_soon_takes_no_place() -> None:
    node = full_node()
    swap = SwapRequest(record(8))
    evictor = node.membership.evictor
    assert evictor.make_room_for_nearer(record(9), swap, 0.5, NOW) == []
    assert evictor.make_room_for_nearer(record(9), swap, None, NOW) == []
    assert node.membership.active_view.try_take_eviction(NOW)
    assert evictor.make_room_for_nearer(record(9), swap, 0.001, NOW) == []
    assert node.membership.proximity.links_optimized == 0


def test_a_peer_is_not_referred_to_itself() -> None:
    node = full_node()
    effects = node.membership.evictor.make_room_for_nearer(
        record(9), SwapRequest(record(4)), 0.001, NOW
    )
    [effect] = of_type(effects, Disconnect)
    assert (effect.peer, effect.referrals) == (peer_id(4), ())


def test_the_dialing_end_of_a_swap_closes_its_own_link() -> None:
    node = full_node()
    [effect] = node.membership.evictor.swap_link(record(2), record(9))
    assert effect == Disconnect(peer_id(2), CloseReason.FULL, "let go for node 9, which is nearer")
    assert node.membership.evictor.swap_link(record(33), record(9)) == []
    assert node.membership.proximity.links_optimized == 1


def test_a_rejected_node_is_referred_to_linked_peers_that_fit_one_datagram() -> None:
    node = full_node(max_peers=12)
    referred = node.membership.evictor.referrals(peer_id(3))
    linked = {record(number) for number in range(1, 13)} - {record(3)}
    assert set(referred) < linked
    assert len(referred) == 6, "six records are nearly a thousand bytes"
    assert MemberNode().membership.evictor.referrals(peer_id(3)) == ()
