"""Messages in the order of their origin: gaps, epochs, limits, late messages."""

from __future__ import annotations

import math
import random
from typing import Final

from hypothesis import given
from hypothesis import strategies as st

from grapevine_proto.config.live import LiveConfig
from grapevine_proto.config.node import NodeConfig
from grapevine_proto.config.sections import LimitsConfig
from grapevine_proto.events import Message, MessagesSkipped, Via
from grapevine_proto.ids import MessageId, PeerId, Stream
from grapevine_proto.message_order import (
    CHECK_INTERVAL_S,
    WAITING_PER_STREAM_LIMIT,
    MessageOrder,
    Ordered,
)
from grapevine_proto.overlay.store.sequence_tracker import SequenceTracker

ADA: Final = PeerId(bytes(32))
BOB: Final = PeerId(b"b" * 32)
WAIT_S: Final = 5.0


class Receiver:
    """A message order with the sequence trackers of what was received."""

    def __init__(self, origins_limit: int = 100) -> None:
        self.trackers: dict[Stream, SequenceTracker] = {}
        limits = LimitsConfig(origins=origins_limit)
        config = LiveConfig(NodeConfig(order_wait=WAIT_S, limits=limits))
        self.order = MessageOrder(config, self.trackers.get)

    def see(self, sequence: int, *, epoch: int = 1, origin: PeerId = ADA, now: float = 0.0) -> None:
        """`sequence` arrived, and is not delivered."""
        stream = Stream(origin, epoch)
        self.trackers.setdefault(stream, SequenceTracker(256)).add(sequence, sequence, now)

    def receive(
        self,
        sequence: int,
        *,
        epoch: int = 1,
        origin: PeerId = ADA,
        now: float = 0.0,
        size_bytes: int = 1,
    ) -> list[int | tuple[int, int]]:
        """`sequence` arrived; returns what left."""
        self.see(sequence, epoch=epoch, origin=origin, now=now)
        message_id = MessageId(origin, epoch, sequence)
        message = Message(message_id, bytes(size_bytes), 1, Via.EAGER, now)
        return shown(self.order.add([message], now))


def shown(ordered: list[Ordered]) -> list[int | tuple[int, int]]:
    """The sequences of messages, and the ranges of what was skipped."""
    return [
        each.id.sequence if isinstance(each, Message) else (each.first, each.last)
        for each in ordered
    ]


def test_messages_in_order_leave_at_once() -> None:
    receiver = Receiver()
    assert [receiver.receive(number) for number in (1, 2, 3)] == [[1], [2], [3]]
    assert receiver.order.deadline == math.inf


def test_a_message_waits_for_those_before_it() -> None:
    receiver = Receiver()
    assert [receiver.receive(number) for number in (1, 4, 3)] == [[1], [], []]
    assert [each.sequence for each in receiver.order.waiting_ids()] == [4, 3]
    assert receiver.receive(2) == [2, 3, 4]
    assert receiver.order.waiting_ids() == []


@given(st.permutations(range(1, 30)))
def test_any_order_of_arrival_gives_the_order_of_the_origin(arrivals: list[int]) -> None:
    receiver = Receiver()
    left = [each for number in arrivals for each in receiver.receive(number)]
    assert left == list(range(1, 30))


def test_a_gap_is_skipped_and_reported_after_its_time() -> None:
    receiver = Receiver()
    receiver.receive(1, now=10.0)
    receiver.receive(4, now=11.0)
    receiver.receive(6, now=12.0)
    assert shown(receiver.order.advance(15.9)) == []
    assert shown(receiver.order.advance(16.0)) == [(2, 3), 4]
    assert shown(receiver.order.advance(17.0)) == [(5, 5), 6]
    assert receiver.order.skipped == 3
    assert receiver.order.deadline == math.inf


def test_a_skipped_message_that_arrives_later_is_dropped_and_counted() -> None:
    receiver = Receiver()
    receiver.receive(3)
    receiver.order.advance(WAIT_S)
    assert receiver.receive(2, now=WAIT_S) == []
    assert receiver.receive(4, now=WAIT_S) == [4]
    assert receiver.order.late == 1


def test_what_was_seen_before_the_reader_came_is_not_waited_for() -> None:
    receiver = Receiver()
    for number in (1, 2, 3):
        receiver.see(number)
    assert receiver.receive(4) == [4]


def test_what_is_not_for_this_node_is_not_waited_for() -> None:
    receiver = Receiver()
    receiver.receive(1)
    assert receiver.receive(3) == []
    receiver.see(2)  # of a topic without subscription
    assert shown(receiver.order.advance(CHECK_INTERVAL_S)) == [3]
    assert receiver.order.skipped == 0


def test_a_gap_that_the_tracker_abandons_is_reported() -> None:
    receiver = Receiver()
    receiver.receive(1)
    receiver.receive(3)
    receiver.trackers[Stream(ADA, 1)].abandon_all()
    assert shown(receiver.order.advance(CHECK_INTERVAL_S)) == [(2, 2), 3]


def test_a_stream_whose_tracker_is_gone_waits_no_longer() -> None:
    receiver = Receiver()
    receiver.receive(1)
    receiver.receive(3)
    receiver.receive(4)
    del receiver.trackers[Stream(ADA, 1)]
    assert shown(receiver.order.advance(CHECK_INTERVAL_S)) == [(2, 2), 3, 4]


def test_a_new_epoch_waits_for_the_old_one() -> None:
    receiver = Receiver()
    receiver.receive(1)
    receiver.receive(3)
    assert receiver.receive(1, epoch=2) == []
    assert receiver.receive(2, epoch=2) == []
    assert receiver.receive(2) == [2, 3, 1, 2]


def test_a_new_epoch_waits_no_longer_than_the_gap_of_the_old_one() -> None:
    receiver = Receiver()
    receiver.receive(3)
    receiver.receive(1, epoch=2)
    assert shown(receiver.order.advance(WAIT_S)) == [(1, 2), 3, 1]


def test_origins_do_not_wait_for_each_other() -> None:
    receiver = Receiver()
    assert receiver.receive(2) == []
    assert receiver.receive(1, origin=BOB) == [1]


def test_a_direct_message_does_not_wait() -> None:
    receiver = Receiver()
    receiver.receive(2)
    direct = Message(MessageId(ADA, 1, 7, is_direct=True), b"", 1, Via.EAGER, 0.0, is_direct=True)
    assert receiver.order.add([direct], 0.0) == [direct]


def test_a_stream_keeps_at_most_its_limit_waiting() -> None:
    receiver = Receiver()
    for number in range(2, WAITING_PER_STREAM_LIMIT + 2):
        assert receiver.receive(number) == []
    last = WAITING_PER_STREAM_LIMIT + 2
    assert receiver.receive(last) == [(1, 1), *range(2, last + 1)]


def test_a_stream_keeps_at_most_its_bytes_waiting() -> None:
    receiver = Receiver()
    receiver.order._stream_bytes_limit = 10_000
    assert receiver.receive(2, size_bytes=9000) == []
    assert receiver.receive(4, size_bytes=1000) == [(1, 1), 2]
    assert len(receiver.order.waiting_ids()) == 1


def test_beyond_the_limit_of_all_streams_the_largest_skips_its_gap() -> None:
    receiver = Receiver()
    receiver.order._bytes_limit = 10_000
    assert receiver.receive(2, size_bytes=6000) == []
    assert receiver.receive(2, origin=BOB, size_bytes=3000) == []
    assert receiver.receive(4, origin=BOB, size_bytes=1000) == [(1, 1), 2]
    assert [each.origin for each in receiver.order.waiting_ids()] == [BOB, BOB]


def test_a_new_epoch_beyond_its_limit_does_not_overtake_the_old_one() -> None:
    receiver = Receiver()
    receiver.order._stream_limit = 2
    receiver.receive(2)
    for number in (1, 2):
        assert receiver.receive(number, epoch=2) == []
    assert receiver.receive(3, epoch=2) == [(1, 1), 2, 1, 2, 3]


def test_positions_of_streams_are_limited_and_the_least_used_is_evicted() -> None:
    receiver = Receiver(origins_limit=1)
    receiver.receive(1, origin=BOB)
    receiver.receive(1, epoch=1)
    receiver.receive(2, origin=BOB)
    receiver.receive(1, epoch=2)
    assert receiver.order.evicted == 1
    assert receiver.receive(3, origin=BOB) == [3]


def test_at_the_end_everything_leaves() -> None:
    receiver = Receiver()
    receiver.receive(2)
    receiver.receive(5)
    receiver.receive(1, epoch=2)
    assert shown(receiver.order.release_all()) == [(1, 1), 2, (3, 4), 5, 1]
    assert receiver.order.waiting_ids() == []


def test_each_stream_leaves_in_sequence_and_nothing_vanishes_without_a_report() -> None:
    rng = random.Random(1)
    receiver, now = Receiver(), 0.0
    arrivals = [
        (origin, epoch, number)
        for origin in (ADA, BOB)
        for epoch in (1, 2)
        for number in range(1, 200)
        if rng.random() > 0.1
    ]
    arrivals.sort(key=lambda each: each[1] * 120 + each[2] + rng.uniform(0, 60))
    left: list[Ordered] = []
    for origin, epoch, number in arrivals:
        now += rng.choice([0.0, 0.1, 0.5])
        receiver.see(number, epoch=epoch, origin=origin, now=now)
        message = Message(MessageId(origin, epoch, number), b"", 1, Via.EAGER, now)
        left += receiver.order.add([message], now)
        left += receiver.order.advance(now)
    left += receiver.order.release_all()
    covered: dict[Stream, int] = {}
    for each in left:
        stream = each.id.stream if isinstance(each, Message) else each.stream
        first = each.id.sequence if isinstance(each, Message) else each.first
        assert first == covered.get(stream, 0) + 1
        covered[stream] = each.last if isinstance(each, MessagesSkipped) else first
    assert set(covered) == {Stream(origin, epoch) for origin in (ADA, BOB) for epoch in (1, 2)}
    delivered = sum(isinstance(each, Message) for each in left)
    assert delivered + receiver.order.late == len(arrivals)


def test_messages_of_one_turn_leave_in_order_though_the_tracker_knows_all_of_them() -> None:
    receiver = Receiver()
    arrivals = [(ADA, 2, 1), (ADA, 1, 3), (BOB, 1, 2), (ADA, 1, 1), (BOB, 1, 1), (ADA, 1, 2)]
    for origin, epoch, number in arrivals:
        receiver.see(number, epoch=epoch, origin=origin)
    messages = [
        Message(MessageId(origin, epoch, number), b"", 1, Via.REPAIR, 0.0)
        for origin, epoch, number in arrivals
    ]
    assert shown(receiver.order.add(messages, 0.0)) == [1, 2, 3, 1, 1, 2]


def test_what_waited_is_released_after_all_messages_of_the_turn() -> None:
    receiver = Receiver()
    receiver.receive(1)
    receiver.receive(4)
    for number in (3, 2):
        receiver.see(number)
    messages = [Message(MessageId(ADA, 1, n), b"", 1, Via.REPAIR, 0.0) for n in (3, 2)]
    assert shown(receiver.order.add(messages, 0.0)) == [2, 3, 4]
