"""What peers are given: within work, within bytes, and not the same again and again."""

from __future__ import annotations

from grapevine_proto.ids import PeerId, Stream, StreamRange
from grapevine_proto.overlay.store.message_cache import MessageCache
from grapevine_proto.overlay.store.verification import Verifier
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
from tests.proto.overlay.builders import EPOCH, config, copy, peer_id

PEER = peer_id(2)


class Node:
    def __init__(self) -> None:
        settings = config()
        self.held = MessageCache(settings, Verifier(settings))
        self.serving = RepairServer(self.held)

    def hold(self, *firsts: int, size: int = 7, is_proved: bool = True) -> None:
        for first in firsts:
            self.held.insert(copy(1, first, size=size), 0.0, is_verified=is_proved)

    def ask(self, *ranges: StreamRange, peer: PeerId = PEER, now: float = 0.0) -> list[int]:
        """The first sequences of what is given."""
        repairs = self.serving.build_repairs(IWant(1, ranges), peer, now)
        self.more = repairs[-1].has_more
        assert [each.is_last for each in repairs].count(True) == 1
        return [each.rumor.first for repair in repairs for each in repair.copies]


def span(first: int, last: int) -> StreamRange:
    return StreamRange(Stream(peer_id(1), EPOCH), first, last)


def test_what_several_ranges_name_is_given_once() -> None:
    node = Node()
    node.hold(1, 2, 3)
    assert node.ask(*(span(1, 3 + n) for n in range(64))) == [1, 2, 3]


def test_one_body_goes_to_one_peer_a_few_times_and_again_after_a_while() -> None:
    node = Node()
    node.hold(1)
    for _ in range(BODY_REPEATS_LIMIT):
        assert node.ask(span(1, 1)) == [1]
    assert node.ask(span(1, 1), now=BODY_REPEAT_WINDOW_S - 1) == []
    assert node.serving.withheld == 1
    assert node.ask(span(1, 1), peer=peer_id(3)) == [1], "others have theirs"
    assert node.ask(span(1, 1), now=BODY_REPEAT_WINDOW_S) == [1]


def test_the_bytes_that_one_peer_is_given_are_bounded() -> None:
    node = Node()
    size = 60_000
    node.hold(*range(1, 900), size=size)
    given = 0
    for first in range(1, 900):
        for _ in range(BODY_REPEATS_LIMIT):
            given += size * len(node.ask(span(first, first)))
    assert REPAIR_BYTES_BURST - 4 * REPAIR_LIMIT_BYTES < given <= REPAIR_BYTES_BURST
    assert node.ask(span(899, 899)) == []
    assert node.ask(span(899, 899), peer=peer_id(3)) == [899], "others have theirs"
    later = BODY_REPEAT_WINDOW_S
    given = 0
    for first in range(1, 900):
        given += size * len(node.ask(span(first, first), now=later))
    assert given <= REPAIR_BYTES_BURST
    assert REPAIR_BYTES_PER_S * later > REPAIR_BYTES_BURST


def test_an_answer_looks_at_so_many_bodies_and_says_that_there_is_more() -> None:
    node = Node()
    node.hold(*range(1, BODIES_SCANNED_LIMIT + 200))
    for _ in range(BODY_REPEATS_LIMIT):
        for first in range(1, BODIES_SCANNED_LIMIT + 200, 100):
            node.ask(span(first, first + 99))
    assert node.ask(span(1, BODIES_SCANNED_LIMIT + 200)) == []
    assert node.more


def test_an_answer_checks_so_many_signatures_and_says_that_there_is_more() -> None:
    node = Node()
    node.hold(*range(1, 2 * CHECKS_PER_REPLY_LIMIT + 1), is_proved=False)
    node.ask(span(1, 2 * CHECKS_PER_REPLY_LIMIT))
    assert node.held.signatures_checked == CHECKS_PER_REPLY_LIMIT
    assert node.more


def test_digests_are_answered_with_vectors_so_often() -> None:
    node = Node()
    answered = [node.serving.try_take_vector(PEER, 0.0) for _ in range(20)]
    assert sum(answered) == VECTORS_BURST
    assert node.serving.withheld == 20 - VECTORS_BURST
    assert node.serving.try_take_vector(PEER, 1.0)


def test_one_peer_and_one_body_more_than_are_remembered_evict_the_oldest() -> None:
    node = Node()
    for number in range(QUOTA_PEERS_LIMIT + 1):
        node.ask(span(1, 1), peer=PeerId(number.to_bytes(32, "big")))
    assert len(node.serving) == QUOTA_PEERS_LIMIT
    node.hold(*range(1, BODIES_PER_PEER_LIMIT + 2))
    for first in range(1, BODIES_PER_PEER_LIMIT + 2, 50):
        node.ask(span(first, first + 49))
    [account] = [each for peer, each in node.serving._quotas.items() if peer == PEER]
    assert len(account.sent) == BODIES_PER_PEER_LIMIT
