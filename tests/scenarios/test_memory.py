"""Memory stays within limits, whatever peers request and however many they are."""

from __future__ import annotations

import gc
import tracemalloc
from dataclasses import replace

from grapevine_proto.config.sections import AntiEntropyConfig
from grapevine_proto.ids import Stream, StreamRange
from grapevine_proto.overlay.effects import Send
from grapevine_proto.overlay.sync.repair_server import REPAIR_LIMIT_BYTES
from grapevine_proto.wire import codec
from grapevine_proto.wire.attributes import rumor_attributes
from grapevine_proto.wire.messages import (
    GAP_REQUEST_ROUND,
    REPAIR_DATAGRAMS_LIMIT,
    IWant,
    Repair,
    RumorCopy,
)
from tests.proto.overlay.builders import copy, identity, rumor
from tests.proto.transport.test_transient_sessions import Members
from tests.turn import take_turn

MIB = 2**20


def test_a_large_body_requested_by_fifty_peers_is_cached_once() -> None:
    """Each request differs, so that no two answers are the same bytes."""
    members = Members(51)
    hub, peers = members.engines[0], members.engines[1:]
    for peer in peers:
        peer._transport.handshakes.dial(
            hub.record.addresses[0], hub.peer_id, peer.record, members.now
        )
        members.exchange()
    assert len(hub._transport.links) == 50
    # no peer learns of the message yet
    members.is_cut = lambda source, target: 0 in (source, target)
    hub.broadcast(bytes(10 * MIB), members.now)
    members.exchange()
    stream = Stream(hub.peer_id, hub.epoch)
    gc.collect()
    tracemalloc.start()
    for peer in peers:
        effects = hub._overlay.antientropy.handle(
            IWant(GAP_REQUEST_ROUND, (StreamRange(stream, 1, 1),)), peer.peer_id, members.now
        )
        hub._apply_effects(effects, members.now)
    queued = sum(link.queued for link in hub._transport.links.values())
    sent = take_turn(hub, members.now)
    growth, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert queued >= 50
    assert len({to for _, to in sent}) > 40  # the others wait for their pacers
    assert peak < 8 * MIB  # 500 MiB if each answer were assembled separately
    assert growth < 8 * MIB
    stats = hub.stats()
    assert 10 * MIB < stats.cached_bytes < hub.config.limits.cache_bytes


def test_a_repeated_request_for_a_large_body_in_flight_queues_no_second_copy() -> None:
    members = Members(2)
    hub, peer = members.engines
    peer._transport.handshakes.dial(hub.record.addresses[0], hub.peer_id, peer.record, members.now)
    members.exchange()
    members.is_cut = lambda source, target: True
    hub.broadcast(bytes(2 * MIB), members.now)
    members.exchange()
    [link] = hub._transport.links.values()
    before = link.queued, link.send_drops
    request = IWant(GAP_REQUEST_ROUND, (StreamRange(Stream(hub.peer_id, hub.epoch), 1, 1),))
    for _ in range(3):
        effects = hub._overlay.antientropy.handle(request, peer.peer_id, members.now)
        hub._apply_effects(effects, members.now)
    assert (link.queued - before[0], link.send_drops - before[1]) == (1, 2)


def test_a_chunked_repair_has_the_same_bytes_as_an_assembled_one() -> None:
    for size in (codec.CHUNKED_BODY_BYTES - 1, codec.CHUNKED_BODY_BYTES, 70_001, 3 * MIB):
        payloads = bytes(range(256)) * (size // 256), b"x" * (size % 256)
        rumor_copy = RumorCopy(rumor(1, 5, *payloads), 1, 0)
        repair = Repair(7, True, False, (rumor_copy,))
        encoded, chunked = codec.encode_message(repair), codec.encode_repair(repair)
        if isinstance(chunked, bytes):
            assert size < codec.CHUNKED_BODY_BYTES
            assert chunked == encoded
            continue
        assert len(chunked) == len(encoded)
        head, tail = len(chunked.head), len(chunked) - len(chunked.tail)
        for start, end in (
            (0, len(encoded)),
            (0, 10),
            (0, head + 5),
            (head, head + 1000),
            (head - 3, tail + 2),
            (tail - 4, tail + 4),
            (tail, len(encoded)),
            (len(encoded) - 1, len(encoded)),
        ):
            assert chunked.slice_bytes(start, end) == encoded[start:end]
        assert chunked.kind == encoded[0]


def test_a_traced_rumor_is_chunked_like_any_other() -> None:
    traced = replace(rumor(1, 5, bytes(100_000)), attributes=rumor_attributes(trace_share=9))
    repair = Repair(2**32 - 1, True, True, (RumorCopy(traced, 3, 250),))
    chunked = codec.encode_repair(repair)
    assert isinstance(chunked, codec.ChunkedMessage)
    assert codec.decode_message(chunked.slice_bytes(0, len(chunked))) == repair


def test_several_small_rumors_are_not_chunked() -> None:
    repair = Repair(7, True, False, (copy(1, 1), copy(1, 2)))
    assert codec.encode_repair(repair) == codec.encode_message(repair)


def test_an_answer_is_limited_in_datagrams_and_bytes() -> None:
    for size, count in ((900, REPAIR_DATAGRAMS_LIMIT + 1), (8192, REPAIR_LIMIT_BYTES // 8192 + 1)):
        members = Members(1, anti_entropy=AntiEntropyConfig(enabled=False))
        [engine] = members.engines
        for _ in range(count):
            engine.broadcast(bytes(size), members.now)
            take_turn(engine, members.now)
        request = IWant(
            GAP_REQUEST_ROUND, (StreamRange(Stream(engine.peer_id, engine.epoch), 1, count),)
        )
        effects = engine._overlay.antientropy.handle(request, identity(2).peer_id, members.now)
        repairs = [each.message for each in effects if isinstance(each, Send)]
        assert all(isinstance(each, Repair) for each in repairs)
        copies = [
            each for repair in repairs if isinstance(repair, Repair) for each in repair.copies
        ]
        assert count - 2 <= len(copies) < count
        assert len(repairs) <= REPAIR_DATAGRAMS_LIMIT
        assert sum(len(each.rumor.body) for each in copies) <= REPAIR_LIMIT_BYTES
        last = repairs[-1]
        assert isinstance(last, Repair)
        assert last.is_last
        assert last.has_more  # the rest has to be requested again
