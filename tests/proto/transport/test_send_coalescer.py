"""What waits for links: joined in envelopes, bounded, and nobody held up for long."""

from __future__ import annotations

import math

from grapevine_proto.config.sections import LimitsConfig
from grapevine_proto.ids import PeerId
from grapevine_proto.transport.send_coalescer import (
    MAX_PAUSE_S,
    RUMORS_PER_MESSAGE_LIMIT,
    SLOW_PEER_AFTER_S,
    RumorCoalescer,
)
from grapevine_proto.wire import codec
from grapevine_proto.wire.messages import RumorCopy, Rumors
from tests.proto.overlay.builders import copy, peer_id, rumor


class Outlet:
    """A link that takes what it is told to take."""

    def __init__(self, number: int, free: int = 0) -> None:
        self._peer_id = peer_id(number)
        self.free = free
        self.frees_at = math.inf
        self.room_bytes = 2**30
        self.unsent = 0
        self.largest_bytes = 0
        self.sent: list[bytes] = []
        self.envelopes: list[list[RumorCopy]] = []

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
        self.unsent += messages

    def send(self, plaintext: bytes, now: float) -> bool:
        self.largest_bytes = max(self.largest_bytes, len(plaintext))
        self.sent.append(plaintext)
        message = codec.decode_message(plaintext)
        assert isinstance(message, Rumors)
        self.envelopes.append(list(message.copies))
        self.free -= 1
        return True

    @property
    def sequences(self) -> list[list[int]]:
        return [[copy.rumor.first for copy in copies] for copies in self.envelopes]


def outflow(**limits: int) -> RumorCoalescer:
    return RumorCoalescer(LimitsConfig(**limits), codec.BASE_PLAINTEXT_BYTES)


def test_waiting_rumors_are_coalesced_in_order() -> None:
    flow, link = outflow(), Outlet(1)
    for first in range(1, 6):
        assert flow.enqueue(copy(9, first), [link], 0.0) == 1
    assert flow.drain_into(link, 0.0)
    assert (link.envelopes, flow.queued_payloads(link.peer_id)) == ([], 5)
    link.free = 1
    assert not flow.drain_into(link, 0.0)
    assert link.sequences == [[1, 2, 3, 4, 5]]
    assert flow.queued_payloads(link.peer_id) == 0


def test_a_message_holds_a_limited_number_of_payloads() -> None:
    flow, link = RumorCoalescer(LimitsConfig(), 64_900), Outlet(1, free=10)
    for first in (1, 301, 501, 701, 801):
        flow.enqueue(RumorCopy(rumor(9, first, *[b""] * 200), 1, 0), [link], 0.0)
    assert not flow.drain_into(link, 0.0)
    assert link.sequences == [[1, 301], [501, 701], [801]]


def test_a_waiting_payload_counts_at_least_sixteen_bytes() -> None:
    flow, link = outflow(queue_bytes=16 * 500), Outlet(1)
    assert flow.enqueue(RumorCopy(rumor(9, 1, *[b""] * 400), 1, 0), [link], 0.0) == 1
    assert flow.enqueue(RumorCopy(rumor(9, 401, *[b""] * 101), 1, 0), [link], 0.0) == 0
    assert flow.enqueue(RumorCopy(rumor(9, 401, *[b""] * 100), 1, 0), [link], 0.0) == 1


def test_a_paused_peer_gets_nothing_until_the_pause_ends() -> None:
    flow, link = outflow(), Outlet(1, free=10)
    flow.pause(link.peer_id, 0.5, 0.0)
    flow.enqueue(copy(9, 1), [link], 0.0)
    assert flow.peek_single(link) is None
    assert not flow.can_send_now(link, 0.1)
    assert flow.drain_into(link, 0.1)
    assert (link.sequences, flow.next_drain_at(link, 0.1)) == ([], 0.5)
    assert not flow.drain_into(link, 0.5)
    assert link.sequences == [[1]]


def test_a_pause_ends_on_request_or_after_one_second() -> None:
    flow, link = outflow(), Outlet(1, free=10)
    flow.pause(link.peer_id, 3600.0, 0.0)
    flow.enqueue(copy(9, 1), [link], 0.0)
    assert flow.next_drain_at(link, 0.0) == MAX_PAUSE_S
    flow.pause(link.peer_id, 0.0, 0.1)
    assert not flow.drain_into(link, 0.1)
    assert link.sequences == [[1]]


def test_a_peer_that_pauses_forever_delays_others_for_at_most_a_second() -> None:
    flow, paused, other = outflow(queue_messages=2), Outlet(1, free=10), Outlet(2, free=10**6)
    flow.pause(paused.peer_id, 1.0, 0.0)
    for first in range(1, 4):
        flow.enqueue(copy(9, first), [paused, other], 0.0)
    assert not flow.has_room(2)
    for tenth in range(1, 100):
        flow.pause(paused.peer_id, 1.0, tenth / 10)
        flow.tick(tenth / 10)
        flow.drain_into(other, tenth / 10)
        assert flow.has_room(2) == (tenth / 10 >= SLOW_PEER_AFTER_S)
    flow.remove_peer(paused.peer_id)
    assert flow.has_room(1)


def test_a_coalesced_message_respects_the_size_limit() -> None:
    flow, link = outflow(), Outlet(1, free=10)
    for first in range(1, 6):
        flow.enqueue(copy(9, first, size=400), [link], 0.0)
    flow.drain_into(link, 0.0)
    assert link.sequences == [[1, 2], [3, 4], [5]]
    assert link.largest_bytes <= codec.BASE_PLAINTEXT_BYTES


def test_a_coalesced_message_holds_a_limited_number_of_rumors() -> None:
    flow, link = RumorCoalescer(LimitsConfig(), 2**16), Outlet(1, free=1)
    for first in range(RUMORS_PER_MESSAGE_LIMIT + 1):
        flow.enqueue(copy(9, first + 1), [link], 0.0)
    assert flow.drain_into(link, 0.0)
    assert [len(copies) for copies in link.envelopes] == [RUMORS_PER_MESSAGE_LIMIT]


def test_coalesced_copies_equal_one_encoded_message() -> None:
    copies = (RumorCopy(rumor(1, 1, b"a", b"b"), 1, 2), RumorCopy(rumor(2, 7), 3, 4))
    joined = codec.encode_rumors([codec.encode_rumor_copy(each) for each in copies])
    assert joined == codec.encode_message(Rumors(copies))
    many = (copies[0],) * 40
    assert codec.encode_rumors(
        [codec.encode_rumor_copy(each) for each in many]
    ) == codec.encode_message(Rumors(many))


def test_a_rumor_above_the_queue_limit_is_counted_and_left_to_repair() -> None:
    flow, link = outflow(queue_messages=3), Outlet(1)
    for first in range(1, 4):
        assert flow.enqueue(copy(9, first), [link], 0.0) == 1
    several = RumorCopy(rumor(9, 4, b"four", b"five"), 1, 0)
    assert flow.enqueue(several, [link], 0.0) == 0
    assert (link.unsent, flow.queued_payloads(link.peer_id)) == (2, 3)


def test_waiting_bytes_are_limited_but_one_rumor_always_fits() -> None:
    flow, link = outflow(queue_bytes=1000), Outlet(1)
    assert flow.enqueue(copy(9, 1, size=900), [link], 0.0) == 1
    assert flow.enqueue(copy(9, 2, size=10), [link], 0.0) == 0


def test_a_peer_without_room_delays_others_for_at_most_a_second() -> None:
    flow, slow, quick = outflow(queue_messages=1), Outlet(1), Outlet(2, free=99)
    assert flow.has_room(2)
    flow.enqueue(copy(9, 1), [slow, quick], 10.0)
    flow.drain_into(quick, 10.0)
    flow.drain_into(slow, 10.0)
    assert not flow.has_room(2)
    assert flow.deadline == 10.0 + SLOW_PEER_AFTER_S
    flow.tick(10.0 + SLOW_PEER_AFTER_S)
    assert flow.has_room(2)
    assert not flow.has_room(1), "where all are behind, all wait"
    slow.free = 1
    flow.drain_into(slow, 12.0)
    assert flow.has_room(1)


def test_next_drain_at_is_when_the_link_accepts_more() -> None:
    flow, link = outflow(), Outlet(1)
    assert flow.next_drain_at(link, 0.0) == math.inf
    flow.enqueue(copy(9, 1), [link], 0.0)
    link.frees_at = 3.0
    flow.drain_into(link, 0.0)
    assert flow.next_drain_at(link, 0.0) == 3.0


def test_can_send_now_requires_an_empty_queue_and_a_ready_link() -> None:
    flow, link = outflow(), Outlet(1, free=1)
    assert flow.can_send_now(link, 0.0)
    flow.enqueue(copy(9, 1), [link], 0.0)
    assert not flow.can_send_now(link, 0.0)
    flow.drain_into(link, 0.0)
    assert not flow.can_send_now(link, 0.0), "it has no token left"


def test_rumors_for_a_removed_peer_are_dropped() -> None:
    flow, link = outflow(queue_messages=1), Outlet(1)
    flow.enqueue(copy(9, 1), [link], 0.0)
    assert flow.remove_peer(link.peer_id) == 1
    assert flow.has_room(1)
    assert flow.deadline == math.inf


def test_a_large_rumor_is_encoded_once_for_all_links() -> None:
    flow, links = RumorCoalescer(LimitsConfig(), 2**16), [Outlet(1), Outlet(2)]
    large = copy(9, 1, size=2**20)
    assert flow.enqueue(large, links, 0.0) == 2
    assert [flow.drain_into(link, 0.0) for link in links] == [False, False]
    [one], [two] = (link.sent for link in links)
    assert one is two
    assert one == codec.encode_message(Rumors((large,)))


def test_small_rumors_do_not_wait_for_a_large_one() -> None:
    flow, link = RumorCoalescer(LimitsConfig(), 2**16), Outlet(1, free=1)
    link.room_bytes = 2**20
    flow.enqueue(copy(9, 1, size=2 * 2**20), [link], 0.0)
    flow.enqueue(copy(9, 2), [link], 0.0)
    assert flow.drain_into(link, 0.0)
    assert link.sequences == [[2]]
    assert flow.next_drain_at(link, 0.0) == math.inf, (
        "room comes when something goes, not by itself"
    )
    link.room_bytes = 2**30
    assert flow.next_drain_at(link, 0.0) == 0.0
    assert not flow.drain_into(link, 0.0)
    assert link.sequences == [[2], [1]]


def test_one_large_rumor_may_wait_and_a_second_causes_backpressure() -> None:
    flow, link = RumorCoalescer(LimitsConfig(), 2**16), Outlet(1)
    link.room_bytes = 0
    size = 10 * 2**20
    assert flow.has_room(1, size)
    assert flow.enqueue(copy(9, 1, size=size), [link], 0.0) == 1
    assert flow.drain_into(link, 0.0)
    assert (flow.has_room(1, size), flow.has_room(1, 2**15)) == (False, True)
    assert flow.enqueue(copy(9, 2, size=size), [link], 0.0) == 0
    assert link.unsent == 1
    link.room_bytes = size * 2
    flow.drain_into(link, 0.0)
    assert flow.has_room(1, size)
