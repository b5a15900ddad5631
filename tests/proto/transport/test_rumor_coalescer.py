"""Send coalescer: rumors share messages, queues are limited, slow peers delay others only briefly."""

from __future__ import annotations

import math

import pytest

from grapevine_proto.config.sections import LimitsConfig
from grapevine_proto.ids import PeerId
from grapevine_proto.transport.rumor_coalescer import (
    MAX_PAUSE_S,
    RUMORS_MESSAGE_BYTES,
    RUMORS_PER_MESSAGE_LIMIT,
    SLOW_PEER_AFTER_S,
    RumorCoalescer,
)
from grapevine_proto.wire import codec
from grapevine_proto.wire.messages import RumorCopy, Rumors
from tests.proto.overlay.builders import copy, peer_id, rumor


class FakeLink:
    """A link that accepts `free` messages and records them."""

    def __init__(self, number: int, free: int = 0) -> None:
        self._peer_id = peer_id(number)
        self.free = free
        self.frees_at = math.inf
        self.room_bytes = 2**30
        self.send_drops = 0
        self.largest_bytes = 0
        self.sent: list[bytes] = []
        self.messages: list[list[RumorCopy]] = []

    @property
    def peer_id(self) -> PeerId:
        return self._peer_id

    def is_ready(self, now: float) -> bool:
        return self.free > 0

    def next_send_at(self, now: float) -> float:
        return self.frees_at

    def has_room_for(self, size_bytes: int) -> bool:
        return size_bytes <= self.room_bytes

    def count_send_drops(self, messages: int) -> None:
        self.send_drops += messages

    def send(self, plaintext: bytes, now: float) -> bool:
        self.largest_bytes = max(self.largest_bytes, len(plaintext))
        self.sent.append(plaintext)
        message = codec.decode_message(plaintext)
        assert isinstance(message, Rumors)
        self.messages.append(list(message.copies))
        self.free -= 1
        return True

    @property
    def sequences(self) -> list[list[int]]:
        return [[copy.rumor.first for copy in copies] for copies in self.messages]


def make_coalescer(**limits: int) -> RumorCoalescer:
    return RumorCoalescer(LimitsConfig(**limits), codec.BASE_PLAINTEXT_BYTES)


def test_waiting_rumors_are_coalesced_in_order() -> None:
    coalescer, link = make_coalescer(), FakeLink(1)
    for first in range(1, 6):
        assert coalescer.enqueue(copy(9, first), [link], 0.0) == 1
    assert coalescer.drain_into(link, 0.0)
    assert (link.messages, coalescer.queued_payloads(link.peer_id)) == ([], 5)
    link.free = 1
    assert not coalescer.drain_into(link, 0.0)
    assert link.sequences == [[1, 2, 3, 4, 5]]
    assert coalescer.queued_payloads(link.peer_id) == 0


def test_a_message_holds_a_limited_number_of_payloads() -> None:
    coalescer, link = RumorCoalescer(LimitsConfig(), 64_900), FakeLink(1, free=10)
    for first in (1, 301, 501, 701, 801):
        coalescer.enqueue(RumorCopy(rumor(9, first, *[b""] * 200), 1, 0), [link], 0.0)
    assert not coalescer.drain_into(link, 0.0)
    assert link.sequences == [[1, 301], [501, 701], [801]]


def test_a_waiting_payload_counts_at_least_sixteen_bytes() -> None:
    coalescer, link = make_coalescer(queue_bytes=16 * 500), FakeLink(1)
    assert coalescer.enqueue(RumorCopy(rumor(9, 1, *[b""] * 400), 1, 0), [link], 0.0) == 1
    assert coalescer.enqueue(RumorCopy(rumor(9, 401, *[b""] * 101), 1, 0), [link], 0.0) == 0
    assert coalescer.enqueue(RumorCopy(rumor(9, 401, *[b""] * 100), 1, 0), [link], 0.0) == 1


def test_a_paused_peer_gets_nothing_until_the_pause_ends() -> None:
    coalescer, link = make_coalescer(), FakeLink(1, free=10)
    coalescer.pause(link.peer_id, 0.5, 0.0)
    coalescer.enqueue(copy(9, 1), [link], 0.0)
    assert coalescer.peek_single(link) is None
    assert not coalescer.can_send_now(link, 0.1)
    assert coalescer.drain_into(link, 0.1)
    assert (link.sequences, coalescer.next_drain_at(link, 0.1)) == ([], 0.5)
    assert not coalescer.drain_into(link, 0.5)
    assert link.sequences == [[1]]


def test_a_pause_ends_on_request_or_after_one_second() -> None:
    coalescer, link = make_coalescer(), FakeLink(1, free=10)
    coalescer.pause(link.peer_id, 3600.0, 0.0)
    coalescer.enqueue(copy(9, 1), [link], 0.0)
    assert coalescer.next_drain_at(link, 0.0) == MAX_PAUSE_S
    coalescer.pause(link.peer_id, 0.0, 0.1)
    assert not coalescer.drain_into(link, 0.1)
    assert link.sequences == [[1]]


def test_a_peer_that_pauses_forever_delays_others_for_at_most_a_second() -> None:
    coalescer, paused, other = (
        make_coalescer(queue_messages=2),
        FakeLink(1, free=10),
        FakeLink(2, free=10**6),
    )
    coalescer.pause(paused.peer_id, 1.0, 0.0)
    for first in range(1, 4):
        coalescer.enqueue(copy(9, first), [paused, other], 0.0)
    assert not coalescer.has_room(2)
    for tenth in range(1, 100):
        coalescer.pause(paused.peer_id, 1.0, tenth / 10)
        coalescer.tick(tenth / 10)
        coalescer.drain_into(other, tenth / 10)
        assert coalescer.has_room(2) == (tenth / 10 >= SLOW_PEER_AFTER_S)
    coalescer.remove_peer(paused.peer_id)
    assert coalescer.has_room(1)


def test_a_coalesced_message_respects_the_size_limit() -> None:
    coalescer, link = make_coalescer(), FakeLink(1, free=10)
    for first in range(1, 6):
        coalescer.enqueue(copy(9, first, size=400), [link], 0.0)
    coalescer.drain_into(link, 0.0)
    assert link.sequences == [[1, 2], [3, 4], [5]]
    assert link.largest_bytes <= codec.BASE_PLAINTEXT_BYTES


def test_a_coalesced_message_holds_a_limited_number_of_rumors() -> None:
    coalescer, link = RumorCoalescer(LimitsConfig(), 2**16), FakeLink(1, free=1)
    for first in range(RUMORS_PER_MESSAGE_LIMIT + 1):
        coalescer.enqueue(copy(9, first + 1), [link], 0.0)
    assert coalescer.drain_into(link, 0.0)
    assert [len(copies) for copies in link.messages] == [RUMORS_PER_MESSAGE_LIMIT]


def test_coalesced_copies_equal_one_encoded_message() -> None:
    copies = (RumorCopy(rumor(1, 1, b"a", b"b"), 1, 2), RumorCopy(rumor(2, 7), 3, 4))
    coalesced = codec.encode_rumors([codec.encode_rumor_copy(each) for each in copies])
    assert coalesced == codec.encode_message(Rumors(copies))
    many = (copies[0],) * 40
    assert codec.encode_rumors(
        [codec.encode_rumor_copy(each) for each in many]
    ) == codec.encode_message(Rumors(many))


def test_a_rumor_above_the_queue_limit_is_counted_and_left_to_repair() -> None:
    coalescer, link = make_coalescer(queue_messages=3), FakeLink(1)
    for first in range(1, 4):
        assert coalescer.enqueue(copy(9, first), [link], 0.0) == 1
    several = RumorCopy(rumor(9, 4, b"four", b"five"), 1, 0)
    assert coalescer.enqueue(several, [link], 0.0) == 0
    assert (link.send_drops, coalescer.queued_payloads(link.peer_id)) == (2, 3)


def test_waiting_bytes_are_limited_but_one_rumor_always_fits() -> None:
    coalescer, link = make_coalescer(queue_bytes=1000), FakeLink(1)
    assert coalescer.enqueue(copy(9, 1, size=900), [link], 0.0) == 1
    assert coalescer.enqueue(copy(9, 2, size=10), [link], 0.0) == 0


def test_a_peer_without_room_delays_others_for_at_most_a_second() -> None:
    coalescer, slow, fast = make_coalescer(queue_messages=1), FakeLink(1), FakeLink(2, free=99)
    assert coalescer.has_room(2)
    coalescer.enqueue(copy(9, 1), [slow, fast], 10.0)
    coalescer.drain_into(fast, 10.0)
    coalescer.drain_into(slow, 10.0)
    assert not coalescer.has_room(2)
    assert coalescer.deadline == 10.0 + SLOW_PEER_AFTER_S
    coalescer.tick(10.0 + SLOW_PEER_AFTER_S)
    assert coalescer.has_room(2)
    assert not coalescer.has_room(1), "if all peers are slow, broadcasts wait"
    slow.free = 1
    coalescer.drain_into(slow, 12.0)
    assert coalescer.has_room(1)


def test_next_drain_at_is_when_the_link_accepts_more() -> None:
    coalescer, link = make_coalescer(), FakeLink(1)
    assert coalescer.next_drain_at(link, 0.0) == math.inf
    coalescer.enqueue(copy(9, 1), [link], 0.0)
    link.frees_at = 3.0
    coalescer.drain_into(link, 0.0)
    assert coalescer.next_drain_at(link, 0.0) == 3.0


def test_can_send_now_requires_an_empty_queue_and_a_ready_link() -> None:
    coalescer, link = make_coalescer(), FakeLink(1, free=1)
    assert coalescer.can_send_now(link, 0.0)
    coalescer.enqueue(copy(9, 1), [link], 0.0)
    assert not coalescer.can_send_now(link, 0.0)
    coalescer.drain_into(link, 0.0)
    assert not coalescer.can_send_now(link, 0.0), "it has no token left"


def test_rumors_for_a_removed_peer_are_dropped() -> None:
    coalescer, link = make_coalescer(queue_messages=1), FakeLink(1)
    coalescer.enqueue(copy(9, 1), [link], 0.0)
    assert coalescer.remove_peer(link.peer_id) == 1
    assert coalescer.has_room(1)
    assert coalescer.deadline == math.inf


def test_a_large_rumor_is_encoded_once_for_all_links() -> None:
    coalescer, links = RumorCoalescer(LimitsConfig(), 2**16), [FakeLink(1), FakeLink(2)]
    large = copy(9, 1, size=2**20)
    assert coalescer.enqueue(large, links, 0.0) == 2
    assert [coalescer.drain_into(link, 0.0) for link in links] == [False, False]
    [one], [two] = (link.sent for link in links)
    assert one is two
    assert one == codec.encode_message(Rumors((large,)))


def test_small_rumors_do_not_wait_for_a_large_one() -> None:
    coalescer, link = RumorCoalescer(LimitsConfig(), 2**16), FakeLink(1, free=1)
    link.room_bytes = 2**20
    coalescer.enqueue(copy(9, 1, size=2 * 2**20), [link], 0.0)
    coalescer.enqueue(copy(9, 2), [link], 0.0)
    assert coalescer.drain_into(link, 0.0)
    assert link.sequences == [[2]]
    assert coalescer.next_drain_at(link, 0.0) == math.inf, (
        "room comes when something goes, not by itself"
    )
    link.room_bytes = 2**30
    assert coalescer.next_drain_at(link, 0.0) == 0.0
    assert not coalescer.drain_into(link, 0.0)
    assert link.sequences == [[2], [1]]


def test_one_large_rumor_may_wait_and_a_second_causes_backpressure() -> None:
    coalescer, link = RumorCoalescer(LimitsConfig(), 2**16), FakeLink(1)
    link.room_bytes = 0
    size = 10 * 2**20
    assert coalescer.has_room(1, size)
    assert coalescer.enqueue(copy(9, 1, size=size), [link], 0.0) == 1
    assert coalescer.drain_into(link, 0.0)
    assert (coalescer.has_room(1, size), coalescer.has_room(1, 2**15)) == (False, True)
    assert coalescer.enqueue(copy(9, 2, size=size), [link], 0.0) == 0
    assert link.send_drops == 1
    link.room_bytes = size * 2
    coalescer.drain_into(link, 0.0)
    assert coalescer.has_room(1, size)


# --- at the limits ------------------------------------------------------------------------------


def queue_with(*firsts: int, link: FakeLink, size: int = 7, **limits: int) -> RumorCoalescer:
    coalescer = make_coalescer(**limits)
    for first in firsts:
        coalescer.enqueue(copy(9, first, size=size), [link], 0.0)
    return coalescer


def test_the_only_rumor_that_waits_may_be_sent_past_the_queue() -> None:
    link = FakeLink(1)
    coalescer = queue_with(1, link=link)
    single = coalescer.peek_single(link)
    assert single == codec.encode_message(Rumors((copy(9, 1),)))
    assert coalescer.peek_single(FakeLink(2)) is None
    coalescer.pop_single(link)
    assert coalescer.queued_payloads(link.peer_id) == 0
    assert coalescer.peek_single(link) is None
    assert queue_with(1, 2, link=link).peek_single(link) is None
    both = queue_with(1, link=link)
    both.enqueue(copy(9, 2, size=5000), [link], 0.0)
    assert both.peek_single(link) is None


def test_a_paused_peer_gets_no_rumor_past_the_queue_either() -> None:
    link = FakeLink(1, free=9)
    coalescer = queue_with(1, link=link)
    coalescer.pause(link.peer_id, 0.5, 0.0)
    coalescer.tick(0.4)
    assert coalescer.peek_single(link) is None
    assert coalescer.next_drain_at(link, 0.4) == 0.5
    assert not coalescer.can_send_now(FakeLink(1, free=9), 0.4)
    coalescer.tick(0.5)
    assert coalescer.peek_single(link) is not None
    coalescer.pause(link.peer_id, 9.0, 1.0)
    assert coalescer.next_drain_at(link, 1.0) == 2.0
    coalescer.pause(link.peer_id, 0.0, 1.0)
    assert not coalescer.drain_into(link, 1.0)
    assert link.sequences == [[1]]


def test_own_rumors_are_tracked_and_those_of_others_are_not() -> None:
    link = FakeLink(1, free=9)
    coalescer = RumorCoalescer(LimitsConfig(), codec.BASE_PLAINTEXT_BYTES, peer_id(9))
    for number in (9, 8):
        coalescer.enqueue(copy(number, 1), [link], 0.0)
        coalescer.drain_into(link, 0.0)
    assert isinstance(link.sent[0], codec.TrackedBytes)
    assert not isinstance(link.sent[1], codec.TrackedBytes)


def test_a_message_holds_sixteen_rumors_and_512_payloads() -> None:
    link = FakeLink(1, free=9)
    coalescer = RumorCoalescer(LimitsConfig(), 64_900)
    for first in range(1, 18):
        coalescer.enqueue(copy(9, first), [link], 0.0)
    coalescer.drain_into(link, 0.0)
    assert [len(each) for each in link.sequences] == [16, 1]
    link = FakeLink(1, free=9)
    for first, count in [(1, 256), (301, 256), (601, 1)]:
        coalescer.enqueue(RumorCopy(rumor(9, first, *[b""] * count), 1, 0), [link], 0.0)
    coalescer.drain_into(link, 0.0)
    assert link.sequences == [[1, 301], [601]]


def test_a_message_is_filled_to_its_last_byte() -> None:
    one = len(codec.encode_rumor_copy(copy(9, 1)))
    for spare, expected in [(0, [[1, 2, 3]]), (-1, [[1, 2], [3]])]:
        link = FakeLink(1, free=9)
        coalescer = RumorCoalescer(LimitsConfig(), 3 * one + codec.RUMORS_OVERHEAD_BYTES + spare)
        for first in (1, 2, 3):
            coalescer.enqueue(copy(9, first), [link], 0.0)
        coalescer.drain_into(link, 0.0)
        assert link.sequences == expected


def test_a_queue_is_full_at_its_number_of_rumors_and_bytes() -> None:
    link = FakeLink(1)
    coalescer = queue_with(1, 2, link=link, queue_messages=2)
    assert coalescer.enqueue(copy(9, 3), [link, FakeLink(2)], 0.0) == 1
    assert link.send_drops == 1
    one = len(codec.encode_rumor_copy(copy(9, 1)))
    for size, accepted in [(3 * one, 1), (3 * one - 1, 0)]:
        link = FakeLink(1)
        coalescer = queue_with(1, 2, link=link, queue_bytes=size)
        assert coalescer.enqueue(copy(9, 3), [link], 0.0) == accepted


def test_dropped_rumors_are_counted_per_payload() -> None:
    link = FakeLink(1)
    coalescer = queue_with(1, link=link, queue_messages=1)
    coalescer.enqueue(RumorCopy(rumor(9, 5, b"a", b"b", b"c"), 1, 0), [link], 0.0)
    assert link.send_drops == 3
    assert coalescer.remove_peer(link.peer_id) == 1
    assert coalescer.remove_peer(link.peer_id) == 0


def full_since_zero(link_count: int = 2) -> tuple[RumorCoalescer, list[FakeLink]]:
    """All links but the last have a full queue since 0.0."""
    links = [FakeLink(number) for number in range(link_count)]
    coalescer = make_coalescer(queue_messages=1)
    coalescer.enqueue(copy(9, 1), links[:-1], 0.0)
    return coalescer, links


def test_a_peer_is_slow_a_second_after_it_had_no_room() -> None:
    coalescer, _ = full_since_zero()
    assert coalescer.deadline == 1.0
    coalescer.tick(0.99)
    assert not coalescer.has_room(2)
    coalescer.tick(1.0)
    assert coalescer.has_room(2)
    assert not coalescer.has_room(1), "all peers are slow"
    assert coalescer.deadline == math.inf


def test_room_for_a_large_rumor_depends_on_large_ones_only() -> None:
    coalescer, links = full_since_zero()
    assert coalescer.has_room(2, 5000)
    coalescer.enqueue(copy(9, 2, size=5000), links[1:], 0.5)
    assert not coalescer.has_room(2, 5000)
    assert coalescer.deadline == 1.0
    coalescer.tick(1.2)
    assert coalescer.deadline == 1.5
    limit = codec.BASE_PLAINTEXT_BYTES - codec.RUMORS_OVERHEAD_BYTES
    assert coalescer.has_room(2, limit)
    assert not coalescer.has_room(2, limit + 1)


def test_a_queue_that_has_room_again_is_not_full_any_more() -> None:
    coalescer, links = full_since_zero()
    links[0].free = 1
    coalescer.drain_into(links[0], 0.5)
    assert coalescer.has_room(2)
    assert coalescer.deadline == math.inf


def test_the_next_drain_waits_for_the_link() -> None:
    link = FakeLink(1)
    coalescer = make_coalescer()
    link.frees_at = 7.0
    assert coalescer.next_drain_at(link, 0.0) == math.inf, "nothing waits"
    coalescer.enqueue(copy(9, 1), [link], 0.0)
    assert coalescer.next_drain_at(link, 0.0) == 7.0
    coalescer.enqueue(copy(9, 2, size=5000), [link], 0.0)
    assert coalescer.next_drain_at(link, 0.0) == 0.0
    link.room_bytes = 10
    assert coalescer.next_drain_at(link, 0.0) == math.inf
    assert coalescer.drain_into(link, 0.0)


def test_a_link_can_send_now_if_nothing_waits_and_it_is_ready() -> None:
    link = FakeLink(1, free=1)
    coalescer = make_coalescer()
    assert coalescer.can_send_now(link, 0.0)
    assert not coalescer.can_send_now(FakeLink(1), 0.0)
    coalescer.enqueue(copy(9, 2, size=5000), [link], 0.0)
    assert not coalescer.can_send_now(link, 0.0)


@pytest.mark.parametrize(
    ("payloads", "expected"),
    [
        ((200, 400, 100), [[1], [301, 801]]),
        ((200, 100, 400), [[1, 301], [801]]),
    ],
)
def test_a_message_ends_before_the_rumor_whose_payloads_do_not_fit(
    payloads: tuple[int, ...], expected: list[list[int]]
) -> None:
    link = FakeLink(1, free=9)
    coalescer = RumorCoalescer(LimitsConfig(), 64_900)
    for first, count in zip((1, 301, 801), payloads, strict=True):
        coalescer.enqueue(RumorCopy(rumor(9, first, *[b""] * count), 1, 0), [link], 0.0)
    coalescer.drain_into(link, 0.0)
    assert link.sequences == expected


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ((400, 400, 900), [[1, 2], [3]]),
        ((400, 900, 10), [[1], [2, 3]]),
    ],
)
def test_a_message_takes_the_next_rumor_that_fits_whatever_waits_behind_it(
    sizes: tuple[int, ...], expected: list[list[int]]
) -> None:
    coalescer, link = make_coalescer(), FakeLink(1, free=9)
    for first, size in enumerate(sizes, 1):
        coalescer.enqueue(copy(9, first, size=size), [link], 0.0)
    coalescer.drain_into(link, 0.0)
    assert link.sequences == expected
    assert link.largest_bytes <= codec.BASE_PLAINTEXT_BYTES


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [((3000, 9000), [[1]]), ((9000, 3000), []), ((3000, 3000), [[1], [2]])],
)
def test_large_rumors_go_in_order_while_the_next_one_has_room(
    sizes: tuple[int, ...], expected: list[list[int]]
) -> None:
    coalescer, link = make_coalescer(), FakeLink(1)
    link.room_bytes = 5000
    for first, size in enumerate(sizes, 1):
        coalescer.enqueue(copy(9, first, size=size), [link], 0.0)
    would_go_at = coalescer.next_drain_at(link, 0.0)
    assert coalescer.drain_into(link, 0.0) is (len(expected) < 2)
    assert link.sequences == expected
    assert would_go_at == (0.0 if expected else math.inf)
    assert coalescer.next_drain_at(link, 0.0) == math.inf


def test_nothing_can_be_sent_at_once_to_a_paused_peer_for_which_nothing_waits() -> None:
    coalescer, link = make_coalescer(), FakeLink(1, free=9)
    coalescer.pause(link.peer_id, 0.5, 0.0)
    assert not coalescer.can_send_now(link, 0.49)
    assert coalescer.can_send_now(link, 0.5)


@pytest.mark.parametrize(("size_bytes", "messages"), [(64_900, [[1, 2]]), (64_901, [[1], [2]])])
def test_rumors_share_a_message_of_64900_bytes(size_bytes: int, messages: list[list[int]]) -> None:
    coalescer, link = RumorCoalescer(LimitsConfig(), RUMORS_MESSAGE_BYTES), FakeLink(1, free=9)
    copies = [copy(9, first, size=30_000) for first in (1, 2)]
    spare_bytes = size_bytes - codec.RUMORS_OVERHEAD_BYTES
    spare_bytes -= sum(len(codec.encode_rumor_copy(each)) for each in copies)
    for each in (copies[0], copy(9, 2, size=30_000 + spare_bytes)):
        coalescer.enqueue(each, [link], 0.0)
    coalescer.drain_into(link, 0.0)
    assert link.sequences == messages
