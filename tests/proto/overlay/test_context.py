"""The context of an overlay: shared tables with room for every session and link."""

from __future__ import annotations

from grapevine_proto.config.sections import LimitsConfig
from grapevine_proto.overlay.peers import PeerTrigger
from tests.proto.overlay.builders import context, peer_id, record


def test_the_peer_table_has_room_for_each_session_and_link() -> None:
    node = context(max_peers=3, limits=LimitsConfig(sessions=7))
    for number in range(10):
        node.peers.add(peer_id(number), None, record(number).addresses[0], 0.0)
    assert (len(node.peers), node.peers.evicted) == (10, 0)
    node.peers.add(peer_id(10), None, record(10).addresses[0], 0.0)
    assert (len(node.peers), node.peers.evicted) == (10, 1)


def test_the_member_table_knows_which_members_are_linked() -> None:
    node = context(5, limits=LimitsConfig(members=1))
    assert node.our_id == peer_id(5) == node.identity.peer_id
    node.members.ensure(record(1), 0.0)
    peer = node.peers.add(peer_id(1), None, record(1).addresses[0], 0.0)
    node.peers.transition(peer, PeerTrigger.LINKED)
    node.members.ensure(record(2), 0.0)
    assert node.members.get(peer_id(1)) is not None, "a linked member is not evicted"


def test_work_is_counted_from_zero() -> None:
    assert context().work.units == 0
