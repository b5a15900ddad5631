"""From `broadcast` to the other node's events: batches, pacing and backpressure, in virtual time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from grapevine_proto.config.sections import LimitsConfig, RateLimitConfig
from grapevine_proto.engine import Engine
from grapevine_proto.errors import DropReason
from grapevine_proto.events import MessageReceived, MessageSent
from grapevine_proto.ids import Address, MessageId
from grapevine_proto.publisher import BATCH_GROWTH_S
from grapevine_proto.transport.rumor_coalescer import RUMORS_MESSAGE_BYTES
from grapevine_proto.wire import codec
from grapevine_proto.wire.messages import Records
from grapevine_proto.wire.signed import MAX_PAYLOADS_PER_MESSAGE
from tests.proto.overlay.builders import EPOCH, identity
from tests.proto.test_engine import Pair
from tests.turn import take_turn

FREE = RateLimitConfig(enabled=False)


def sent(pair: Pair) -> list[MessageSent]:
    return [event for event in pair.events[pair.one] if isinstance(event, MessageSent)]


def cached_rumors(engine: Engine) -> int:
    return engine.stats().cached


# --- batches ------------------------------------------------------------------------------------


def test_payloads_of_one_tick_share_a_datagram_and_keep_their_ids_and_events() -> None:
    pair = Pair(rate_limit=FREE)
    before = pair.one.stats().datagrams_out
    ids = [pair.one.broadcast(b"%d" % n, pair.now) for n in range(20)]
    assert ids == [MessageId(pair.one.peer_id, EPOCH, n) for n in range(1, 21)]
    assert sent(pair) == [], "not before the number of targets is known"
    pair.exchange()
    assert pair.one.stats().datagrams_out == before + 1
    assert cached_rumors(pair.other) == 1
    received = [e.message for e in pair.events[pair.other] if isinstance(e, MessageReceived)]
    assert [message.id for message in received] == ids
    assert [message.payload for message in received] == [b"%d" % n for n in range(20)]
    assert [(event.message.id, event.peers) for event in sent(pair)] == [(each, 1) for each in ids]
    assert pair.one.stats().published == 20


def test_a_single_payload_is_sent_at_the_next_tick() -> None:
    pair = Pair()
    for number in range(3):
        pair.one.broadcast(b"%d" % number, pair.now)
        pair.exchange()
        assert len(pair.received(pair.other)) == number + 1
    assert cached_rumors(pair.other) == 3


def test_with_a_batch_delay_a_payload_waits_until_the_deadline() -> None:
    pair = Pair(batch_delay=0.02)
    pair.one.broadcast(b"early", pair.now)
    pair.exchange()
    assert pair.received(pair.other) == []
    assert pair.one.deadline == pair.now + 0.02
    pair.now += 0.015
    pair.one.broadcast(b"late", pair.now)
    pair.exchange()
    assert pair.received(pair.other) == []
    pair.now += 0.005
    pair.exchange()
    assert pair.received(pair.other) == [b"early", b"late"]
    assert cached_rumors(pair.other) == 1


def test_a_full_batch_is_sent_at_once() -> None:
    pair = Pair(batch_delay=0.5, batch_bytes=1000)
    for _ in range(11):
        pair.one.broadcast(bytes(100), pair.now)
    pair.exchange()
    assert 8 <= len(pair.received(pair.other)) < 11


def test_with_batches_of_one_byte_every_payload_is_signed_separately() -> None:
    pair = Pair(batch_bytes=1)
    for _ in range(5):
        pair.one.broadcast(b"x", pair.now)
    pair.exchange()
    assert cached_rumors(pair.other) == 5


@pytest.mark.parametrize("size", [0, 1, 100, 256, 40_000])
def test_batches_fill_a_message_whether_pushed_or_repaired(size: int) -> None:
    count = min(2 * RUMORS_MESSAGE_BYTES // (size + 1), 9000)
    pair = Pair(rate_limit=FREE)
    for _ in range(count):
        pair.one.broadcast(bytes(size), pair.now)
    pair.run(3.0)
    assert len(pair.received(pair.other)) == count
    assert cached_rumors(pair.other) <= max(3, count // MAX_PAYLOADS_PER_MESSAGE + 2)
    joining = Pair(linked=False, rate_limit=FREE)
    for _ in range(count):
        joining.one.broadcast(bytes(size), joining.now)
    joining.one.dial(engine_address(joining.other), joining.now)
    joining.run(30.0)
    assert len(joining.received(joining.other)) == count


def engine_address(engine: Engine) -> Address:
    return engine.record.addresses[0]


def test_without_peers_a_batch_is_cached_and_reported_as_sent_to_none() -> None:
    pair = Pair(linked=False)
    pair.one.broadcast(b"a", pair.now)
    pair.one.broadcast(b"b", pair.now)
    pair.exchange()
    assert [event.peers for event in sent(pair)] == [0, 0]
    assert cached_rumors(pair.one) == 1


def test_a_batch_pending_at_leave_is_still_sent() -> None:
    pair = Pair()
    pair.one.broadcast(b"last message", pair.now)
    pair.one.leave(pair.now)
    pair.exchange()
    assert pair.received(pair.other) == [b"last message"]
    assert not pair.one.is_drained, "it is not acknowledged yet"
    pair.run(0.5)
    assert pair.one.is_drained


def test_a_batch_pending_at_an_epoch_bump_is_signed_in_the_epoch_of_its_ids() -> None:
    pair = Pair()
    message_id = pair.other.broadcast(b"before", pair.now)
    higher = replace(pair.other.record, epoch=EPOCH + 100).signed(identity(2), "default")
    for datagram, _ in take_turn(pair.one, pair.now):
        pair.carried.append(datagram)
    pair.one._transport.links.enqueue(
        pair.one._transport.links[pair.other.peer_id],
        codec.encode_message(Records((higher,))),
        pair.now,
    )
    for datagram, _ in take_turn(pair.one, pair.now):
        pair.other.receive(datagram, engine_address(pair.one), pair.now)
    assert pair.other.epoch == EPOCH + 101
    pair.run(20.0)
    received = [e.message for e in pair.events[pair.one] if isinstance(e, MessageReceived)]
    assert [(each.id, each.payload) for each in received] == [(message_id, b"before")]


# --- links without tokens -----------------------------------------------------------------------


def test_without_tokens_a_batch_grows_and_is_then_sent_whole() -> None:
    pair = Pair(rate_limit=RateLimitConfig(capacity=2, refill_rate=1.0))
    pair.run(20.0)
    link = pair.one._transport.links[pair.other.peer_id]
    assert link.send_limit is not None
    while link.send_limit.try_take(pair.now):
        pass
    cached = cached_rumors(pair.one)
    for number in range(5):
        pair.one.broadcast(b"%d" % number, pair.now)
        pair.exchange()
    assert sent(pair) == []
    pair.now += BATCH_GROWTH_S
    pair.exchange()
    assert cached_rumors(pair.one) == cached + 1, "five payloads, one signature"
    assert len(sent(pair)) == 5
    pair.run(30.0)
    assert len(pair.received(pair.other)) == 5


def test_rumors_waiting_for_a_token_share_an_envelope() -> None:
    pair = Pair(rate_limit=RateLimitConfig(capacity=2, refill_rate=1.0), batch_bytes=1)
    pair.run(20.0)
    link = pair.one._transport.links[pair.other.peer_id]
    assert link.send_limit is not None
    while link.send_limit.try_take(pair.now):
        pass
    for _ in range(4):
        pair.one.broadcast(b"x", pair.now)
    pair.exchange()
    before = link.sent
    pair.now += 3.0
    pair.exchange()
    assert len(pair.received(pair.other)) == 4
    assert link.sent == before + 1


def broadcast_while_possible(pair: Pair, payload: bytes, seconds: int, limit: int) -> int:
    """Broadcast while the queues have room; the number of broadcasts."""
    count = 0
    for _ in range(seconds * 200):
        pair.now += 0.005
        while count < limit and pair.one.can_broadcast:
            pair.one.broadcast(payload, pair.now)
            count += 1
        pair.exchange()
    return count


def test_the_default_limits_carry_thousands_of_small_payloads_a_second_and_throttle_none() -> None:
    pair = Pair()
    pair.run(10.0)
    count = broadcast_while_possible(pair, bytes(8), seconds=2, limit=100_000)
    assert len(pair.received(pair.other)) >= 5_000 * 2
    pair.run(40.0)
    assert len(pair.received(pair.other)) == count
    assert DropReason.RATE_LIMITED not in pair.drops(pair.other)
    assert (pair.other.stats().gaps_abandoned, pair.one.stats().send_drops) == (0, 0)


def test_the_default_limits_carry_ten_thousand_larger_payloads_a_second_too() -> None:
    pair = Pair()
    pair.run(10.0)
    count = broadcast_while_possible(pair, bytes(200), seconds=2, limit=20_000)
    assert len(pair.received(pair.other)) == count == 20_000
    assert DropReason.RATE_LIMITED not in pair.drops(pair.other)
    assert pair.one.stats().send_drops == 0


# --- backpressure -------------------------------------------------------------------------------

PIECE = bytes(8000)
PIECES = 8  # fill a batch and an envelope


def test_a_sent_event_counts_only_peers_with_room() -> None:
    pair = Pair(
        limits=LimitsConfig(queue_messages=1),
        rate_limit=RateLimitConfig(capacity=1, refill_rate=1.0),
    )
    for _ in range(3 * PIECES):
        pair.one.broadcast(PIECE, pair.now)
    assert not pair.one.can_broadcast
    pair.run(3.0)
    sent_events = sent(pair)
    assert [event.peers for event in sent_events[:1]] == [1]
    assert [event.peers for event in sent_events if not event.peers], "the last had no room"
    assert pair.one.stats().send_drops >= 1
    pair.run(30.0)
    assert len(pair.received(pair.other)) == 3 * PIECES


def test_backpressure_ends_as_soon_as_something_is_sent() -> None:
    pair = Pair(limits=LimitsConfig(queue_messages=2))
    for _ in range(3 * PIECES):
        pair.one.broadcast(PIECE, pair.now)
    was_full = not pair.one.can_broadcast
    pair.exchange()
    assert (was_full, pair.one.can_broadcast) == (True, True)
    pair.run(2.0)
    assert len(pair.received(pair.other)) == 3 * PIECES
