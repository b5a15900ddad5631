"""Send queues: room by rank, numbers of fragmented messages, and tokens."""

from __future__ import annotations

import pytest

from grapevine_proto.config.sections import LimitsConfig
from grapevine_proto.token_bucket import TokenBucket
from grapevine_proto.transport.link.fragments import FragmentedMessage
from grapevine_proto.transport.link.send_queues import (
    BULK,
    CLOSE,
    CONTROL,
    DATA,
    REPAIR,
    FragmentRetransmission,
    Retransmission,
    SendQueues,
)
from grapevine_proto.wire.codec import ChunkedMessage
from grapevine_proto.wire.messages import Kind

TOKEN_BYTES = 64 * 1024  # of a large message, for each token


def queues(messages: int = 3, size_bytes: int = 1000, tokens: int = 0) -> SendQueues:
    made = SendQueues(LimitsConfig(queue_messages=messages, queue_bytes=size_bytes), 40)
    if tokens:
        made.send_limit = TokenBucket(tokens, 1.0, 0.0)
    return made


def message(kind: Kind, size_bytes: int = 10) -> bytes:
    return bytes((kind,)) + bytes(size_bytes - 1)


@pytest.mark.parametrize(
    ("kind", "size_bytes", "rank"),
    [
        (Kind.HEARTBEAT, 10, CONTROL),
        (Kind.RUMORS, 10, DATA),
        (Kind.DIRECT_MESSAGE, TOKEN_BYTES, DATA),
        (Kind.DIRECT_MESSAGE, TOKEN_BYTES + 1, BULK),
        (Kind.RUMORS, TOKEN_BYTES + 1, BULK),
        (Kind.REPAIR, TOKEN_BYTES + 1, REPAIR),
        (Kind.CLOSE, 10, CLOSE),
    ],
)
def test_a_message_is_queued_by_its_kind_and_size(kind: Kind, size_bytes: int, rank: int) -> None:
    made = queues()
    assert made.push(message(kind, size_bytes), 1100)
    assert [len(queue) for queue in made.by_rank] == [int(each == rank) for each in range(5)]
    assert made.queued_bytes == [size_bytes if each == rank else 0 for each in range(5)]
    assert len(made) == 1


def test_ranks_go_from_control_to_close() -> None:
    assert (CONTROL, DATA, BULK, REPAIR, CLOSE) == (0, 1, 2, 3, 4)


def test_a_message_beyond_one_packet_is_fragmented_under_a_new_number() -> None:
    made = queues(size_bytes=10_000)
    for size in (100, 101, 500):
        assert made.push(message(Kind.RUMORS, size), 100)
    plain, first, second = made.by_rank[DATA]
    assert plain == message(Kind.RUMORS, 100)
    assert isinstance(first, FragmentedMessage)
    assert isinstance(second, FragmentedMessage)
    assert (first._message_number, second._message_number) == (41, 42)


def test_a_chunked_message_is_always_fragmented_and_ranked_by_its_head() -> None:
    made = queues(size_bytes=10_000)
    chunked = ChunkedMessage(bytes((Kind.REPAIR, Kind.RUMORS)), bytes(20), b"")
    assert made.push(chunked, 1000)
    [item] = made.by_rank[REPAIR]
    assert isinstance(item, FragmentedMessage)
    assert made.queued_bytes[REPAIR] == 22


def test_rumors_and_repairs_share_their_room_and_control_has_its_own() -> None:
    made = queues(messages=2, size_bytes=10_000)
    assert made.push(message(Kind.RUMORS), 1000)
    assert made.push(message(Kind.REPAIR), 1000)
    assert not made.push(message(Kind.RUMORS), 1000)
    assert not made.push(message(Kind.REPAIR), 1000)
    assert made.push(message(Kind.HEARTBEAT), 1000)
    assert made.push(message(Kind.CLOSE), 1000)
    assert not made.push(message(Kind.HEARTBEAT), 1000)
    assert not made.push(message(Kind.CLOSE), 1000)
    assert len(made) == 4


def test_a_queue_is_filled_to_its_last_byte_and_one_message_always_fits() -> None:
    made = queues(messages=9, size_bytes=100)
    assert made.push(message(Kind.RUMORS, 60), 1000)
    assert not made.push(message(Kind.REPAIR, 41), 1000)
    assert made.push(message(Kind.REPAIR, 40), 1000)
    assert queues(size_bytes=100).push(message(Kind.RUMORS, 900), 1000)


def test_large_messages_have_room_of_their_own_by_rank() -> None:
    made = queues(messages=2, size_bytes=3 * TOKEN_BYTES)
    large = TOKEN_BYTES + 1
    for _ in range(2):
        assert made.push(message(Kind.RUMORS, 10), 1000)
    assert made.has_room(BULK, large)
    assert made.push(message(Kind.RUMORS, large), 1000)
    assert made.push(message(Kind.RUMORS, large), 1000)
    assert not made.has_room(BULK, large)
    assert made.has_room(REPAIR, large)


def test_what_was_lost_goes_first_and_its_token_is_refunded() -> None:
    made = queues(tokens=5)
    assert made.send_limit is not None
    made.push(message(Kind.RUMORS), 1000)
    made.send_limit.try_take(0.0, 3)
    made.requeue_lost(Retransmission(bytes(8), 7, message(Kind.RUMORS), DATA, 1), 0.0)
    assert made.send_limit.available(0.0) == 3
    assert isinstance(made.by_rank[DATA][0], Retransmission)
    made.requeue_lost(Retransmission(bytes(8), 8, message(Kind.REPAIR), REPAIR, 1), 0.0)
    made.requeue_lost(Retransmission(bytes(8), 9, message(Kind.CLOSE), CLOSE, 1), 0.0)
    assert made.send_limit.available(0.0) == 3, "neither had cost one"
    assert len(made) == 4


def test_clearing_counts_what_was_queued_and_makes_room() -> None:
    made = queues(messages=1)
    for kind in (Kind.RUMORS, Kind.HEARTBEAT):
        made.push(message(kind), 1000)
    assert made.clear() == 2
    assert (len(made), made.queued_bytes, made.clear()) == (0, [0] * 5, 0)
    assert made.push(message(Kind.RUMORS), 1000)


def test_each_message_costs_a_token_and_repairs_and_free_kinds_none() -> None:
    made = queues(tokens=3)
    assert made.send_limit is not None
    assert made.send_limit.try_take(0.0)
    for kind in (Kind.REPAIR, Kind.CLOSE, Kind.CONFIRM):
        assert made.try_charge(message(kind), 0.0)
    lost_repair = Retransmission(bytes(8), 7, message(Kind.REPAIR), REPAIR, 1)
    assert made.try_charge(lost_repair, 0.0)
    fragment = FragmentRetransmission(FragmentedMessage(bytes(9), 1, BULK), 0, 9, 1)
    assert made.try_charge(fragment, 0.0)
    assert made.send_limit.available(0.0) == 2
    assert made.try_charge(message(Kind.RUMORS), 0.0)
    assert made.try_charge(Retransmission(bytes(8), 7, message(Kind.RUMORS), DATA, 1), 0.0)
    assert not made.try_charge(message(Kind.RUMORS), 0.0)
    assert made.chargeable_at(message(Kind.RUMORS), 0.0) == 1.0
    assert made.chargeable_at(message(Kind.REPAIR), 0.0) == 0.0
    assert queues().chargeable_at(message(Kind.RUMORS), 0.0) == 0.0
    assert queues().try_charge(message(Kind.RUMORS), 0.0)


def test_a_large_message_costs_a_token_when_it_reaches_the_next_64_kibibytes() -> None:
    made = queues(tokens=2)
    large = FragmentedMessage(message(Kind.RUMORS, 2 * TOKEN_BYTES), 1, BULK)
    assert made.try_charge(large, 0.0)
    large.sent_bytes = TOKEN_BYTES - 1
    assert made.try_charge(large, 0.0)
    assert made.send_limit is not None
    assert made.send_limit.available(0.0) == 1
    large.sent_bytes = TOKEN_BYTES
    assert made.try_charge(large, 0.0)
    large.sent_bytes = 2 * TOKEN_BYTES
    assert not made.try_charge(large, 0.0)


def test_only_a_message_of_more_than_64_kibibytes_has_room_of_its_own() -> None:
    made = queues(messages=1, size_bytes=3 * TOKEN_BYTES)
    assert made.push(message(Kind.RUMORS), 1000)
    for size_bytes, has_room in ((TOKEN_BYTES, False), (TOKEN_BYTES + 1, True)):
        assert made.has_room(REPAIR, size_bytes) is has_room


def test_what_both_queues_hold_counts_towards_their_common_bytes() -> None:
    made = queues(messages=9, size_bytes=100)
    assert made.push(message(Kind.RUMORS, 60), 1000)
    assert made.push(message(Kind.REPAIR, 40), 1000)
    assert not made.push(message(Kind.RUMORS, 1), 1000)
