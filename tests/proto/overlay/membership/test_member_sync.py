"""Member sync: two linked nodes compare member digests while many updates are pending, and only
then.
"""

from __future__ import annotations

import random
from dataclasses import replace

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.config.sections import LimitsConfig
from grapevine_proto.events import MemberStatus
from grapevine_proto.ids import Address, PeerId
from grapevine_proto.overlay.effects import Effect, Send
from grapevine_proto.overlay.members import ID_PREFIX_MAX, id_prefix
from grapevine_proto.overlay.membership.member_sync import (
    ANSWER_MESSAGES_LIMIT,
    ANSWER_MIN_INTERVAL_S,
    PREFIXES_PER_MESSAGE,
    SYNC_LINGER_S,
    SYNC_UPDATES_THRESHOLD,
    MemberSync,
)
from grapevine_proto.overlay.peers import Peer, PeerTrigger
from grapevine_proto.sim import Network, Simulation, memoized
from grapevine_proto.wire.messages import MemberDigest, Records
from grapevine_proto.wire.signed import PeerRecord
from tests.proto.overlay.builders import context, peer_id

US, PEER = peer_id(1), peer_id(2)


def bare(number: int) -> PeerRecord:
    """A record whose signature is not checked, with a random peer ID."""
    public_key = random.Random(number).randbytes(32)
    return PeerRecord(PeerId(public_key), 1, 0, (), "", "", 0, 0, False, bytes(64))


class Node:
    """Member sync with one linked peer."""

    def __init__(self, known: range, *, members: int = 10_000) -> None:
        limits = LimitsConfig(members=members, addresses_per_source=64)
        node = context(limits=limits)
        self.peers, self.members = node.peers, node.members
        self.peer = self.link(PEER)
        for number in known:
            self.members.add(bare(number), peer_id(number % 50 + 3), 0.0)
        self.member_sync = MemberSync(node)

    def link(self, peer: PeerId) -> Peer:
        linked = self.peers.add(peer, None, Address("10.0.0.2", 8000), 0.0)
        self.peers.transition(linked, PeerTrigger.LINKED)
        return linked

    def use_up_quota(self, peer: PeerId, first: int) -> None:
        """`peer` reports as many members as it may, from `first` on."""
        for number in range(64):
            self.members.add(bare(first + number), peer, 0.0)

    def add_updates(self, now: float = 0.0) -> None:
        for number in range(SYNC_UPDATES_THRESHOLD + 1):
            self.members.queue_update(bare(number).peer_id)
        self.member_sync.on_member_added(now)


def sent(effects: list[Effect], kind: type) -> list[object]:
    return [
        each.message for each in effects if isinstance(each, Send) and type(each.message) is kind
    ]


def digest_in(effects: list[Effect]) -> MemberDigest:
    [digest] = sent(effects, MemberDigest)
    assert isinstance(digest, MemberDigest)
    return digest


def records_in(effects: list[Effect]) -> set[PeerId]:
    messages = [each for each in sent(effects, Records) if isinstance(each, Records)]
    assert len(messages) <= ANSWER_MESSAGES_LIMIT
    return {record.peer_id for each in messages for record in each.records}


def test_no_digest_is_sent_without_pending_updates_nor_after_the_linger_time() -> None:
    node = Node(range(30))
    node.member_sync.on_member_added(0.0)
    assert node.member_sync.next_request(0.0) == []
    node.add_updates()
    assert node.member_sync.next_request(1.0)
    assert node.member_sync.next_request(SYNC_LINGER_S - 0.1)
    assert node.member_sync.next_request(SYNC_LINGER_S) == []


def test_each_node_sends_the_records_that_the_other_lacks() -> None:
    ours, theirs = Node(range(20)), Node(range(15, 22))
    ours.add_updates()
    request = digest_in(ours.member_sync.next_request(0.0))
    answer = theirs.member_sync.handle(request, theirs.peer, 0.0)
    assert records_in(answer) == {bare(20).peer_id, bare(21).peer_id}
    reply = digest_in(answer)
    assert reply.is_reply
    effects = ours.member_sync.handle(reply, ours.peer, 0.0)
    assert records_in(effects) <= {bare(number).peer_id for number in range(15)}
    assert records_in(effects)
    assert not sent(effects, MemberDigest), "a reply is not answered with another digest"


def test_a_node_with_the_same_members_does_not_answer() -> None:
    ours, theirs = Node(range(20)), Node(range(20))
    ours.add_updates()
    assert (
        theirs.member_sync.handle(digest_in(ours.member_sync.next_request(0.0)), theirs.peer, 0.0)
        == []
    )


def test_a_large_table_is_compared_in_parts_that_cover_all_of_it() -> None:
    node = Node(range(1000))
    node.add_updates()
    compared: set[int] = set()
    for _ in range(60):
        digest = digest_in(node.member_sync.next_request(0.0))
        prefixes = digest.to_prefixes()
        assert len(prefixes) <= PREFIXES_PER_MESSAGE
        assert all(digest.first <= prefix <= digest.last for prefix in prefixes)
        compared.update(prefixes)
    assert compared == {id_prefix(bare(number).peer_id) for number in range(1000)}


def test_an_empty_digest_is_answered_with_two_full_datagrams() -> None:
    node = Node(range(1000))
    effects = node.member_sync.handle(MemberDigest(0, ID_PREFIX_MAX, b""), node.peer, 0.0)
    assert 10 <= len(records_in(effects)) <= 16


def test_one_peer_is_answered_once_per_check_and_further_requests_are_counted() -> None:
    node = Node(range(20))
    empty_digest = MemberDigest(0, ID_PREFIX_MAX, b"")
    assert node.member_sync.handle(empty_digest, node.peer, 0.0)
    assert node.member_sync.handle(empty_digest, node.peer, ANSWER_MIN_INTERVAL_S - 0.01) == []
    assert node.member_sync.rate_limited == 1
    assert node.member_sync.handle(empty_digest, node.peer, ANSWER_MIN_INTERVAL_S)


def test_a_peer_with_a_used_up_quota_is_not_asked() -> None:
    node = Node(range(30))
    node.use_up_quota(PEER, 1000)
    node.add_updates()
    assert node.member_sync.next_request(0.0) == []


def test_of_eight_peers_four_are_tried_to_find_one_with_quota_left() -> None:
    """So one that has some is found every other time."""
    node = Node(range(30))
    node.use_up_quota(PEER, 1000)
    for number in range(7):
        node.link(peer_id(100 + number))
        if number:
            node.use_up_quota(peer_id(100 + number), 2000 + 64 * number)
    node.add_updates()
    requests = [node.member_sync.next_request(0.0) for _ in range(1000)]
    found = [each for each in requests if each]
    assert 450 < len(found) < 550
    assert all(isinstance(each, Send) and each.peers == (peer_id(100),) for [each] in found)


def test_a_node_with_a_full_table_does_not_sync() -> None:
    node = Node(range(30), members=30)
    node.add_updates()
    assert node.member_sync.next_request(0.0) == []


def test_a_hundred_nodes_that_join_at_once_know_each_other_within_a_minute() -> None:
    config = NodeConfig.lan(max_peers=8)
    with memoized():
        sim = Simulation(
            nodes=100, seed=1, config=config, network=Network(loss=0.1), hash_trace=False
        )

        def all_known() -> bool:
            engines = [node.engine for node in sim.nodes if node.engine is not None]
            return all(len(engine.members()) == 99 for engine in engines)

        assert sim.run_until(all_known, 60.0, every=1.0)


# --- at the limits ------------------------------------------------------------------------------


def test_seventeen_pending_updates_start_ten_seconds_of_syncing() -> None:
    for pending, is_active in [(16, False), (17, True)]:
        node = Node(range(20))
        for number in range(pending):
            node.members.queue_update(bare(number).peer_id)
        node.member_sync.on_member_added(5.0)
        assert bool(node.member_sync.next_request(14.9)) is is_active
        assert node.member_sync.next_request(15.0) == []


def test_two_hundred_members_are_compared_at_once_and_beyond_that_in_parts() -> None:
    node = Node(range(200))
    node.add_updates()
    for _ in range(20):
        digest = digest_in(node.member_sync.next_request(0.0))
        assert (digest.first, digest.last, len(digest.to_prefixes())) == (0, ID_PREFIX_MAX, 200)
    node = Node(range(201))
    node.add_updates()
    digests = [digest_in(node.member_sync.next_request(0.0)) for _ in range(60)]
    assert max(len(each.to_prefixes()) for each in digests) == 200
    assert not any(
        len(each.to_prefixes()) == 200 and (each.first, each.last) == (0, ID_PREFIX_MAX)
        for each in digests
    ), "a part does not claim to be all"
    for each in digests:
        if each.first:
            assert each.first == each.to_prefixes()[0]
        if each.last != ID_PREFIX_MAX:
            assert each.last == each.to_prefixes()[-1]


def test_an_answer_shows_at_most_200_members_and_says_up_to_which() -> None:
    node = Node(range(300))
    unknown = bytes(4) + b"\0\0\0\1"
    answer = digest_in(
        node.member_sync.handle(MemberDigest(0, ID_PREFIX_MAX, unknown), node.peer, 0.0)
    )
    shown = answer.to_prefixes()
    assert (answer.is_reply, len(shown), answer.first, answer.last) == (True, 200, 0, shown[-1])
    node = Node(range(30))
    answer = digest_in(node.member_sync.handle(MemberDigest(0, 2**31, unknown), node.peer, 0.0))
    assert answer.last == 2**31


def test_a_reply_and_a_request_of_one_peer_have_intervals_of_their_own() -> None:
    node = Node(range(20))
    request = MemberDigest(0, ID_PREFIX_MAX, b"")
    reply = MemberDigest(0, ID_PREFIX_MAX, b"", True)
    assert node.member_sync.handle(request, node.peer, 1.0)
    assert node.member_sync.handle(reply, node.peer, 1.0)
    assert node.member_sync.handle(request, node.peer, 1.19) == []
    assert node.member_sync.handle(reply, node.peer, 1.19) == []
    assert node.member_sync.rate_limited == 2
    assert node.member_sync.handle(request, node.peer, 1.2)
    assert node.member_sync.handle(reply, node.peer, 1.2)


def test_only_members_that_are_up_are_sent_and_never_the_requester() -> None:
    node = Node(range(6))
    for number in (0, 1):
        member = node.members.get(bare(number).peer_id)
        assert member is not None
        member.status = MemberStatus.DOWN if number else MemberStatus.LEFT
    node.members.add(replace(bare(7), peer_id=PEER), PEER, 0.0)
    found = records_in(node.member_sync.handle(MemberDigest(0, ID_PREFIX_MAX, b""), node.peer, 0.0))
    assert found == {bare(number).peer_id for number in range(2, 6)}
