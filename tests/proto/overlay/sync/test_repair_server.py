"""The repair server: answers bounded in work, bytes and repetition."""

from __future__ import annotations

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
from grapevine_proto.wire.messages import IWant
from tests.proto.overlay.builders import EPOCH, context, copy, peer_id

PEER = peer_id(2)


class Node:
    def __init__(self) -> None:
        node = context()
        self.cache = MessageCache(node.config.current, node.verifier)
        self.server = RepairServer(self.cache)

    def insert(self, *firsts: int, size: int = 7, is_verified: bool = True) -> None:
        for first in firsts:
            self.cache.insert(copy(1, first, size=size), 0.0, is_verified=is_verified)

    def request(self, *ranges: StreamRange, peer: PeerId = PEER, now: float = 0.0) -> list[int]:
        """Request ranges; the first sequences of the rumors sent."""
        repairs = self.server.build_repairs(IWant(1, ranges), peer, now)
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
