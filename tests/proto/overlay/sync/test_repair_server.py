"""The repair server: answers bounded in work, bytes and repetition."""

from __future__ import annotations

import pytest

from grapevine_proto.ids import PeerId, Stream, StreamRange
from grapevine_proto.overlay.store.message_cache import MessageCache
from grapevine_proto.overlay.sync.repair_server import (
    BODIES_PER_PEER_LIMIT,
    BODIES_SCANNED_LIMIT,
    BODY_REPEAT_WINDOW_S,
    BODY_REPEATS_LIMIT,
    CHECKS_PER_REPLY_LIMIT,
    QUOTA_PEERS_LIMIT,
    REPAIR_BYTES_BURST,
    REPAIR_BYTES_PER_S,
    REPAIR_LIMIT_BYTES,
    VECTORS_BURST,
    RepairServer,
)
from grapevine_proto.wire.attributes import rumor_attributes
from grapevine_proto.wire.messages import LAZY_REQUEST_ROUND, IWant, Repair, RumorCopy
from grapevine_proto.wire.signed import Rumor
from tests.proto.overlay.builders import EPOCH, NodeTables, copy, peer_id

PEER = peer_id(2)


class Node:
    def __init__(self) -> None:
        self.tables = NodeTables(2, 3)
        node = self.tables.context
        self.cache = MessageCache(node.config.current, node.verifier)
        self.server = RepairServer(self.cache, node.peers)

    def insert(self, *firsts: int, size: int = 7, is_verified: bool = True) -> None:
        for first in firsts:
            self.cache.insert(copy(1, first, size=size), 0.0, is_verified=is_verified)

    def request(
        self, *ranges: StreamRange, peer: PeerId = PEER, now: float = 0.0, round_number: int = 1
    ) -> list[int]:
        """Request ranges; the first sequences of the rumors sent."""
        repairs = self.server.build_repairs(IWant(round_number, ranges), peer, now).repairs
        self.has_more = repairs[-1].has_more
        assert [each.is_last for each in repairs].count(True) == 1
        return [each.rumor.first for repair in repairs for each in repair.copies]


def span(first: int, last: int) -> StreamRange:
    return StreamRange(Stream(peer_id(1), EPOCH), first, last)


def test_a_rumor_in_several_ranges_is_sent_once() -> None:
    node = Node()
    node.insert(1, 2, 3)
    assert node.request(*(span(1, 3 + n) for n in range(64))) == [1, 2, 3]


def test_one_body_is_sent_to_one_peer_a_few_times_and_again_after_a_pause() -> None:
    node = Node()
    node.insert(1)
    for _ in range(BODY_REPEATS_LIMIT):
        assert node.request(span(1, 1)) == [1]
    assert node.request(span(1, 1), now=BODY_REPEAT_WINDOW_S - 1) == []
    assert node.server.withheld == 1
    assert node.request(span(1, 1), peer=peer_id(3)) == [1], "other peers have their own quota"
    assert node.request(span(1, 1), now=BODY_REPEAT_WINDOW_S) == [1]


def test_the_bytes_sent_to_one_peer_are_bounded() -> None:
    node = Node()
    size = 60_000
    node.insert(*range(1, 900), size=size)
    sent_bytes = 0
    for first in range(1, 900):
        for _ in range(BODY_REPEATS_LIMIT):
            sent_bytes += size * len(node.request(span(first, first)))
    assert REPAIR_BYTES_BURST - 4 * REPAIR_LIMIT_BYTES < sent_bytes <= REPAIR_BYTES_BURST
    assert node.request(span(899, 899)) == []
    assert node.request(span(899, 899), peer=peer_id(3)) == [899], (
        "other peers have their own quota"
    )
    later = BODY_REPEAT_WINDOW_S
    sent_bytes = 0
    for first in range(1, 900):
        sent_bytes += size * len(node.request(span(first, first), now=later))
    assert sent_bytes <= REPAIR_BYTES_BURST
    assert REPAIR_BYTES_PER_S * later > REPAIR_BYTES_BURST


def test_what_was_announced_to_a_peer_may_be_pulled_besides_its_quota() -> None:
    node = Node()
    size = 60_000
    node.insert(*range(1, 1000), size=size)
    for first in range(750, 900):  # spends the quota
        for _ in range(BODY_REPEATS_LIMIT):
            node.request(span(first, first))
    assert node.request(span(900, 900)) == []
    peer = node.tables.peers.get(PEER)
    assert peer is not None
    peer.announced_bytes = 3 * copy(1, 1, size=size).rumor.size_bytes
    assert node.request(span(901, 901)) == [], "only pulls are, and no repairs"
    for first in (902, 903, 904):
        assert node.request(span(first, first), round_number=LAZY_REQUEST_ROUND) == [first]
    assert node.request(span(905, 905), round_number=LAZY_REQUEST_ROUND) == []
    assert peer.announced_bytes == 0


def test_a_pull_is_paid_for_by_what_was_announced_first_and_then_by_the_quota() -> None:
    node = Node()
    size = 60_000
    node.insert(*range(1, 1000), size=size)
    peer = node.tables.peers.get(PEER)
    assert peer is not None
    peer.announced_bytes = 100 * copy(1, 1, size=size).rumor.size_bytes + 1
    pulled = 0
    for first in range(730, 1000):
        for _ in range(BODY_REPEATS_LIMIT):
            pulled += len(node.request(span(first, first), round_number=LAZY_REQUEST_ROUND))
    from_quota = pulled - 100
    assert REPAIR_BYTES_BURST - 3 * REPAIR_LIMIT_BYTES < from_quota * size <= REPAIR_BYTES_BURST


def test_an_answer_scans_a_limited_number_of_bodies_and_reports_more() -> None:
    node = Node()
    node.insert(*range(1, BODIES_SCANNED_LIMIT + 200))
    for _ in range(BODY_REPEATS_LIMIT):
        for first in range(1, BODIES_SCANNED_LIMIT + 200, 100):
            node.request(span(first, first + 99))
    assert node.request(span(1, BODIES_SCANNED_LIMIT + 200)) == []
    assert node.has_more


def test_an_answer_checks_a_limited_number_of_signatures_and_reports_more() -> None:
    node = Node()
    node.insert(*range(1, 2 * CHECKS_PER_REPLY_LIMIT + 1), is_verified=False)
    node.request(span(1, 2 * CHECKS_PER_REPLY_LIMIT))
    assert node.cache.signatures_checked == CHECKS_PER_REPLY_LIMIT
    assert node.has_more


def test_vectors_per_peer_are_rate_limited() -> None:
    node = Node()
    answered = [node.server.try_take_vector(PEER, 0.0) for _ in range(20)]
    assert sum(answered) == VECTORS_BURST
    assert node.server.withheld == 20 - VECTORS_BURST
    assert node.server.try_take_vector(PEER, 1.0)


def test_peers_and_bodies_are_tracked_up_to_their_limits() -> None:
    node = Node()
    for number in range(QUOTA_PEERS_LIMIT + 1):
        node.request(span(1, 1), peer=PeerId(number.to_bytes(32, "big")))
    assert len(node.server) == QUOTA_PEERS_LIMIT
    node.insert(*range(1, BODIES_PER_PEER_LIMIT + 2))
    for first in range(1, BODIES_PER_PEER_LIMIT + 2, 50):
        node.request(span(first, first + 49))
    [quota] = [each for peer, each in node.server._quotas.items() if peer == PEER]
    assert len(quota.sent) == BODIES_PER_PEER_LIMIT


# --- at the limits ------------------------------------------------------------------------------


def repairs(node: Node, *ranges: StreamRange, now: float = 0.0) -> list[Repair]:
    return node.server.build_repairs(IWant(7, ranges), PEER, now).repairs


def size_for(cost_bytes: int) -> int:
    """The payload whose copy counts as this many bytes."""
    for overhead in (151, 152, 153):
        size = cost_bytes - overhead
        if copy(1, 1, size=size).rumor.size_bytes == cost_bytes:
            return size
    raise AssertionError(cost_bytes)


def test_a_body_goes_to_a_peer_four_times_in_thirty_seconds_and_then_four_times_more() -> None:
    node = Node()
    node.insert(1)
    sent = [bool(node.request(span(1, 1), now=now)) for now in (0.0, 0.0, 0.0, 0.0, 0.0, 29.9)]
    assert sent == [True] * 4 + [False] * 2
    again = [bool(node.request(span(1, 1), now=30.0)) for _ in range(5)]
    assert again == [True] * 4 + [False]
    assert node.server.withheld == 3


def test_a_repair_repeats_the_round_and_counts_one_hop_more() -> None:
    node = Node()
    node.insert(1, 2)
    [repair] = repairs(node, span(1, 2))
    assert (repair.round, repair.is_last, repair.has_more) == (7, True, False)
    assert [each.hops for each in repair.copies] == [2, 2]


def test_a_request_for_what_is_not_cached_is_answered_with_an_empty_repair() -> None:
    assert repairs(Node(), span(1, 2)) == [Repair(7, True, False, ())]


@pytest.mark.parametrize(("cost_bytes", "per_datagram"), [(500, 2), (501, 1), (1000, 1), (333, 3)])
def test_a_datagram_of_a_repair_holds_a_thousand_bytes_of_rumors(
    cost_bytes: int, per_datagram: int
) -> None:
    node = Node()
    node.insert(*range(1, 7), size=size_for(cost_bytes))
    found = repairs(node, span(1, 6))
    assert [len(each.copies) for each in found] == [per_datagram] * (6 // per_datagram)
    assert [each.is_last for each in found] == [False] * (len(found) - 1) + [True]
    assert not any(each.has_more for each in found)


def test_an_answer_has_32_datagrams_and_the_rest_is_requested_again() -> None:
    node = Node()
    node.insert(*range(1, 33), size=size_for(600))
    assert (len(node.request(span(1, 33))), node.has_more) == (32, False)
    node.insert(33, size=size_for(600))
    assert (len(node.request(span(1, 33))), node.has_more) == (32, True)


@pytest.mark.parametrize(("cost_bytes", "sent"), [(4096, 16), (4097, 15)])
def test_an_answer_has_64_kibibytes(cost_bytes: int, sent: int) -> None:
    node = Node()
    node.insert(*range(1, 18), size=size_for(cost_bytes))
    assert (len(node.request(span(1, 17))), node.has_more) == (sent, True)
    node = Node()
    node.insert(*range(1, sent + 1), size=size_for(cost_bytes))
    assert (len(node.request(span(1, 17))), node.has_more) == (sent, False)


def test_a_rumor_larger_than_an_answer_is_sent_alone() -> None:
    node = Node()
    node.insert(1, 2, size=100_000)
    assert (node.request(span(1, 2)), node.has_more) == ([1], True)
    assert (node.request(span(2, 2)), node.has_more) == ([2], False)


def test_a_peer_gets_32_mebibytes_at_once_and_four_a_second_after_that() -> None:
    node = Node()
    node.insert(*range(1, 130), size=65_536 - 153)
    for number in range(512):
        assert node.request(span(1 + number // 4, 1 + number // 4))
    assert node.request(span(129, 129)) == []
    assert not node.has_more, "asking again at once is of no use"
    assert node.server.withheld == 1
    assert node.request(span(129, 129), now=0.0156) == []
    assert node.request(span(129, 129), now=0.0157) == [129]


def test_what_is_left_of_the_bytes_of_a_peer_limits_an_answer() -> None:
    node = Node()
    node.insert(*range(1, 130), size=65_536 - 153)
    for number in range(511):
        node.request(span(1 + number // 4, 1 + number // 4))
    node.cache.insert(copy(1, 200, size=size_for(30_000)), 0.0, is_verified=True)
    node.request(span(200, 200))  # 35,536 bytes are left
    node.cache.insert(copy(1, 201, size=size_for(20_000)), 0.0, is_verified=True)
    node.cache.insert(copy(1, 202, size=size_for(15_536)), 0.0, is_verified=True)
    node.cache.insert(copy(1, 203, size=size_for(400)), 0.0, is_verified=True)
    assert node.request(span(201, 203)) == [201, 202]
    assert node.has_more


def test_a_rumor_is_requested_by_any_of_its_sequences() -> None:
    node = Node()
    rumor = Rumor(peer_id(1), EPOCH, 1, (3, 4), bytes(7), bytes(64))
    node.cache.insert(RumorCopy(rumor, 1, 0), 0.0, is_verified=True)
    assert node.request(span(2, 2)) == [1]
    assert node.request(span(1, 1)) == [1]
    assert node.request(span(3, 3)) == []


def test_an_answer_examines_512_bodies() -> None:
    node = Node()
    node.insert(*range(1, 513))
    for _ in range(4):
        for first in range(1, 513, 128):
            assert len(node.request(span(first, first + 127))) == 128
    assert (node.request(span(1, 512)), node.has_more) == ([], False)
    node.insert(513)
    assert (node.request(span(1, 513)), node.has_more) == ([], True)
    assert node.request(span(513, 513)) == [513]


def test_an_answer_checks_twelve_signatures() -> None:
    node = Node()
    node.insert(*range(1, 13), is_verified=False)
    node.request(span(1, 12))
    assert (node.cache.signatures_checked, node.has_more) == (12, False)
    node.insert(*range(21, 34), is_verified=False)
    node.request(span(21, 33))
    assert (node.cache.signatures_checked, node.has_more) == (24, True)


def test_a_peer_gets_eight_vectors_at_once_and_one_a_second_after_that() -> None:
    server = Node().server
    assert [server.try_take_vector(PEER, 0.0) for _ in range(9)] == [True] * 8 + [False]
    assert not server.try_take_vector(PEER, 0.9)
    assert server.try_take_vector(PEER, 1.0)
    assert not server.try_take_vector(PEER, 1.0)
    assert server.withheld == 3


def test_the_peer_that_asked_longest_ago_is_forgotten_beyond_1024() -> None:
    server = Node().server
    peers = [PeerId(number.to_bytes(32, "big")) for number in range(1025)]
    for peer in peers[:1024]:
        for _ in range(8):
            server.try_take_vector(peer, 0.0)
    assert not server.try_take_vector(peers[0], 0.0)
    assert server.try_take_vector(peers[1024], 0.0)
    assert len(server) == 1024
    assert not server.try_take_vector(peers[0], 0.0), "it has just asked"
    assert server.try_take_vector(peers[1], 0.0), "its quota is new"


def test_the_body_sent_longest_ago_is_forgotten_beyond_1024() -> None:
    node = Node()
    node.insert(*range(1, 1026))
    for _ in range(4):
        assert node.request(span(1, 1)) == [1]
    for first in range(2, 1025, 128):
        node.request(span(first, min(first + 127, 1024)))
    assert node.request(span(1, 1)) == []
    node.request(span(1025, 1025))
    assert node.request(span(1, 1)) == [1]


def test_an_answer_ends_where_the_bytes_of_a_peer_do() -> None:
    node = Node()
    node.insert(1, size=size_for(1000))
    node.insert(2, size=size_for(200))
    bucket = node.server._quota_of(PEER, 0.0).bytes_bucket
    bucket.try_take(0.0, 32 * 2**20 - 300)
    assert (node.request(span(1, 2)), node.has_more) == ([], False)
    assert node.server.withheld == 1


@pytest.mark.parametrize(("left_bytes", "sent"), [(999, []), (1000, [1])])
def test_the_last_bytes_of_a_peer_are_sent_if_they_suffice(
    left_bytes: int, sent: list[int]
) -> None:
    node = Node()
    node.insert(1, size=size_for(1000))
    bucket = node.server._quota_of(PEER, 0.0).bytes_bucket
    bucket.try_take(0.0, 32 * 2**20 - left_bytes)
    assert node.request(span(1, 1)) == sent


def topic_copy(first: int, *, has_body: bool = True) -> RumorCopy:
    """A large rumor of a topic."""
    attributes = rumor_attributes(topic="deploy.web")
    body = bytes(10_000)
    rumor = Rumor(peer_id(1), EPOCH, first, (len(body),), body, bytes(64), attributes)
    return RumorCopy(rumor if has_body else rumor.without_body(), 1, 0)


@pytest.mark.parametrize(
    ("has_body", "round_number", "is_announced"),
    [
        (True, 1, True),
        (False, 1, True),
        (True, LAZY_REQUEST_ROUND, False),
        (False, LAZY_REQUEST_ROUND, True),
    ],
)
def test_a_large_rumor_of_a_topic_is_announced_unless_a_subscriber_asks_for_its_body(
    has_body: bool, round_number: int, is_announced: bool
) -> None:
    node = Node()
    node.cache.insert(topic_copy(1, has_body=has_body), 0.0, is_verified=True)
    for _ in range(BODY_REPEATS_LIMIT):
        reply = node.server.build_repairs(IWant(round_number, (span(1, 1),)), PEER, 0.0)
        assert [each.hops for each in reply.announced] == [2] * is_announced
        assert sum(len(each.copies) for each in reply.repairs) == (not is_announced)
        assert not reply.repairs[-1].has_more
    reply = node.server.build_repairs(IWant(round_number, (span(1, 1),)), PEER, 0.0)
    assert reply.announced == []
    assert node.server.withheld == 1


@pytest.mark.parametrize(("count", "announced", "has_more"), [(15, 15, False), (17, 16, True)])
def test_an_answer_announces_sixteen_rumors_and_reports_more(
    count: int, announced: int, has_more: bool
) -> None:
    node = Node()
    for first in range(1, count + 1):
        node.cache.insert(topic_copy(first), 0.0, is_verified=True)
    reply = node.server.build_repairs(IWant(1, (span(1, count),)), PEER, 0.0)
    assert [each.rumor.first for each in reply.announced] == list(range(1, announced + 1))
    assert reply.repairs[-1].has_more is has_more


def test_what_is_announced_or_was_sent_often_does_not_hide_what_is_behind_it() -> None:
    node = Node()
    node.cache.insert(topic_copy(1), 0.0, is_verified=True)
    node.insert(2, 3)
    for _ in range(4):
        node.request(span(2, 2))
    reply = node.server.build_repairs(IWant(1, (span(1, 3),)), PEER, 0.0)
    assert [each.rumor.first for each in reply.announced] == [1]
    assert [each.rumor.first for repair in reply.repairs for each in repair.copies] == [3]
    assert node.server.withheld == 1
