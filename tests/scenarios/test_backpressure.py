"""From `broadcast` to the other node's events: bundles, shaping and room, in virtual time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from grapevine_proto.config.sections import LimitsConfig, RateLimitConfig
from grapevine_proto.engine import Engine
from grapevine_proto.errors import DropReason
from grapevine_proto.events import MessageReceived, MessageSent
from grapevine_proto.ids import Address, MessageId
from grapevine_proto.publisher import BATCH_GROWTH_S
from grapevine_proto.transport.send_coalescer import RUMORS_MESSAGE_BYTES
from grapevine_proto.wire import codec
from grapevine_proto.wire.messages import Records
from grapevine_proto.wire.signed import MAX_PAYLOADS_PER_MESSAGE
from tests.proto.overlay.builders import EPOCH, identity
from tests.proto.test_engine import Pair

FREE = RateLimitConfig(enabled=False)


def sent(pair: Pair) -> list[MessageSent]:
    return [event for event in pair.events[pair.one] if isinstance(event, MessageSent)]


def rumors_held(engine: Engine) -> int:
    return engine.stats().cached


# --- bundles ------------------------------------------------------------------------------------


def test_payloads_said_in_one_tick_share_a_datagram_and_each_keeps_its_id_and_event() -> None:
    pair = Pair(rate_limit=FREE)
    before = pair.one.stats().datagrams_out
    ids = [pair.one.broadcast(b"%d" % n, pair.now) for n in range(20)]
    assert ids == [MessageId(pair.one.peer_id, EPOCH, n) for n in range(1, 21)]
    assert sent(pair) == [], "not before it is known to how many they go"
    pair.exchange()
    assert pair.one.stats().datagrams_out == before + 1
    assert rumors_held(pair.other) == 1
    heard = [e.message for e in pair.events[pair.other] if isinstance(e, MessageReceived)]
    assert [message.id for message in heard] == ids
    assert [message.payload for message in heard] == [b"%d" % n for n in range(20)]
    assert [(event.message.id, event.peers) for event in sent(pair)] == [(each, 1) for each in ids]
    assert pair.one.stats().published == 20


def test_a_payload_alone_waits_for_nothing_but_the_tick() -> None:
    pair = Pair()
    for number in range(3):
        pair.one.broadcast(b"%d" % number, pair.now)
        pair.exchange()
        assert len(pair.received(pair.other)) == number + 1
    assert rumors_held(pair.other) == 3


def test_with_a_bundle_delay_a_payload_waits_that_long_and_the_deadline_says_so() -> None:
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
    assert rumors_held(pair.other) == 1


def test_a_full_bundle_waits_for_nothing() -> None:
    pair = Pair(batch_delay=0.5, batch_bytes=1000)
    for _ in range(11):
        pair.one.broadcast(bytes(100), pair.now)
    pair.exchange()
    assert 8 <= len(pair.received(pair.other)) < 11


def test_with_bundles_of_one_byte_every_payload_has_a_signature_of_its_own() -> None:
    pair = Pair(batch_bytes=1)
    for _ in range(5):
        pair.one.broadcast(b"x", pair.now)
    pair.exchange()
    assert rumors_held(pair.other) == 5


@pytest.mark.parametrize("size", [0, 1, 100, 256, 40_000])
def test_bundles_fill_a_message_pushed_or_repaired(size: int) -> None:
    count = min(2 * RUMORS_MESSAGE_BYTES // (size + 1), 9000)
    pair = Pair(rate_limit=FREE)
    for _ in range(count):
        pair.one.broadcast(bytes(size), pair.now)
    pair.run(3.0)
    assert len(pair.received(pair.other)) == count
    assert rumors_held(pair.other) <= max(3, count // MAX_PAYLOADS_PER_MESSAGE + 2)
    late = Pair(linked=False, rate_limit=FREE)
    for _ in range(count):
        late.one.broadcast(bytes(size), late.now)
    late.one.dial(engine_address(late.other), late.now)
    late.run(30.0)
    assert len(late.received(late.other)) == count


def engine_address(engine: Engine) -> Address:
    return engine.record.addresses[0]


def test_with_nobody_there_a_bundle_is_held_and_says_that_it_went_to_nobody() -> None:
    pair = Pair(linked=False)
    pair.one.broadcast(b"a", pair.now)
    pair.one.broadcast(b"b", pair.now)
    pair.exchange()
    assert [event.peers for event in sent(pair)] == [0, 0]
    assert rumors_held(pair.one) == 1


def test_a_bundle_open_on_leaving_still_goes() -> None:
    pair = Pair()
    pair.one.broadcast(b"last words", pair.now)
    pair.one.leave(pair.now)
    pair.exchange()
    assert pair.received(pair.other) == [b"last words"]
    assert not pair.one.is_drained, "it is not known to have arrived"
    pair.run(0.5)
    assert pair.one.is_drained


def test_a_bundle_open_when_the_epoch_rises_is_signed_under_the_one_its_ids_name() -> None:
    pair = Pair()
    message_id = pair.other.broadcast(b"before", pair.now)
    higher = replace(pair.other.record, epoch=EPOCH + 100).signed(identity(2), "default")
    for datagram, _ in pair.one.datagrams_to_send(pair.now):
        pair.taken.append(datagram)
    pair.one._transport.links.enqueue(
        pair.one._transport.links[pair.other.peer_id],
        codec.encode_message(Records((higher,))),
        pair.now,
    )
    for datagram, _ in pair.one.datagrams_to_send(pair.now):
        pair.other.receive(datagram, engine_address(pair.one), pair.now)
    assert pair.other.epoch == EPOCH + 101
    pair.run(20.0)
    heard = [e.message for e in pair.events[pair.one] if isinstance(e, MessageReceived)]
    assert [(each.id, each.payload) for each in heard] == [(message_id, b"before")]


# --- while links wait ---------------------------------------------------------------------------


def test_while_no_link_has_a_token_a_bundle_grows_and_then_goes_whole() -> None:
    pair = Pair(rate_limit=RateLimitConfig(capacity=2, refill_rate=1.0))
    pair.run(20.0)
    link = pair.one._transport.links[pair.other.peer_id]
    assert link.send_limit is not None
    while link.send_limit.try_take(pair.now):
        pass
    held = rumors_held(pair.one)
    for number in range(5):
        pair.one.broadcast(b"%d" % number, pair.now)
        pair.exchange()
    assert sent(pair) == []
    pair.now += BATCH_GROWTH_S
    pair.exchange()
    assert rumors_held(pair.one) == held + 1, "five payloads, one signature"
    assert len(sent(pair)) == 5
    pair.run(30.0)
    assert len(pair.received(pair.other)) == 5


def test_rumors_that_wait_for_a_token_share_an_envelope() -> None:
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


def carry(pair: Pair, payload: bytes, seconds: int, at_most: int) -> int:
    """Broadcast all that there is room for; how many were."""
    said = 0
    for _ in range(seconds * 200):
        pair.now += 0.005
        while said < at_most and pair.one.can_broadcast:
            pair.one.broadcast(payload, pair.now)
            said += 1
        for engine in (pair.one, pair.other):
            if engine.deadline <= pair.now:
                engine.advance(pair.now)
        pair.exchange()
    return said


def test_the_default_limits_carry_thousands_of_small_payloads_a_second_and_throttle_none() -> None:
    pair = Pair()
    pair.run(10.0)
    said = carry(pair, bytes(8), seconds=4, at_most=200_000)
    assert len(pair.received(pair.other)) >= 5_000 * 4
    pair.run(40.0)
    assert len(pair.received(pair.other)) == said
    assert DropReason.RATE_LIMITED not in pair.drops(pair.other)
    assert (pair.other.stats().gaps_abandoned, pair.one.stats().send_drops) == (0, 0)


def test_the_default_limits_carry_ten_thousand_larger_payloads_a_second_too() -> None:
    pair = Pair()
    pair.run(10.0)
    said = carry(pair, bytes(200), seconds=2, at_most=20_000)
    assert len(pair.received(pair.other)) == said == 20_000
    assert DropReason.RATE_LIMITED not in pair.drops(pair.other)
    assert pair.one.stats().send_drops == 0


# --- room ---------------------------------------------------------------------------------------

PIECE = bytes(8000)
PIECES = 8  # fill a bundle, and an envelope


def test_the_peers_told_are_only_those_that_have_room() -> None:
    pair = Pair(
        limits=LimitsConfig(queue_messages=1),
        rate_limit=RateLimitConfig(capacity=1, refill_rate=1.0),
    )
    for _ in range(3 * PIECES):
        pair.one.broadcast(PIECE, pair.now)
    assert not pair.one.can_broadcast
    pair.run(3.0)
    told = sent(pair)
    assert [event.peers for event in told[:1]] == [1]
    assert [event.peers for event in told if not event.peers], "the last found no room"
    assert pair.one.stats().send_drops >= 1
    pair.run(30.0)
    assert len(pair.received(pair.other)) == 3 * PIECES


def test_room_comes_back_as_soon_as_something_goes() -> None:
    pair = Pair(limits=LimitsConfig(queue_messages=2))
    for _ in range(3 * PIECES):
        pair.one.broadcast(PIECE, pair.now)
    full = not pair.one.can_broadcast
    pair.exchange()
    assert (full, pair.one.can_broadcast) == (True, True)
    pair.run(2.0)
    assert len(pair.received(pair.other)) == 3 * PIECES
