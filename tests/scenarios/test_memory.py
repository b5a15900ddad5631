"""What a node may be made to hold stays within its ceilings, whoever asks and however many."""

from __future__ import annotations

import gc
import tracemalloc
from dataclasses import replace

from grapevine_proto.config.sections import AntiEntropyConfig
from grapevine_proto.ids import Stream, StreamRange
from grapevine_proto.overlay.effects import Send
from grapevine_proto.overlay.sync.antientropy import GAP_REQUEST_ROUND
from grapevine_proto.overlay.sync.repair_server import REPAIR_LIMIT_BYTES
from grapevine_proto.wire import codec
from grapevine_proto.wire.messages import REPAIR_DATAGRAMS_LIMIT, IWant, Repair, RumorCopy
from tests.proto.overlay.builders import copy, identity, rumor
from tests.proto.transport.test_transient_sessions import Members

MIB = 2**20


def test_a_large_body_that_fifty_peers_ask_for_is_held_once() -> None:
    """Each asks in words of its own, so that no two answers are the same bytes."""
    members = Members(51)
    hub, peers = members.engines[0], members.engines[1:]
    for peer in peers:
        peer._transport.handshakes.dial(
            hub.record.addresses[0], hub.peer_id, peer.record, members.now
        )
        members.exchange()
    assert len(hub._transport.links) == 50
    members.is_cut = lambda source, target: 0 in (source, target)  # nobody hears of it yet
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
    waiting = sum(link.queued for link in hub._transport.links.values())
    sent = hub.datagrams_to_send(members.now)
    grown, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert waiting >= 50
    assert len({to for _, to in sent}) > 40  # the others wait for their pacers
    assert peak < 8 * MIB  # 500 MiB, were each answer put together
    assert grown < 8 * MIB
    stats = hub.stats()
    assert 10 * MIB < stats.cached_bytes < hub.config.limits.cache_bytes


def test_asking_again_for_a_large_body_that_is_on_its_way_queues_it_no_second_time() -> None:
    members = Members(2)
    hub, peer = members.engines
    peer._transport.handshakes.dial(hub.record.addresses[0], hub.peer_id, peer.record, members.now)
    members.exchange()
    members.is_cut = lambda source, target: True
    hub.broadcast(bytes(2 * MIB), members.now)
    members.exchange()
    [link] = hub._transport.links.values()
    before = link.queued, link.send_drops
    want = IWant(GAP_REQUEST_ROUND, (StreamRange(Stream(hub.peer_id, hub.epoch), 1, 1),))
    for _ in range(3):
        effects = hub._overlay.antientropy.handle(want, peer.peer_id, members.now)
        hub._apply_effects(effects, members.now)
    assert (link.queued - before[0], link.send_drops - before[1]) == (1, 2)


def test_a_spliced_repair_is_the_same_bytes_as_one_put_together() -> None:
    for size in (codec.CHUNKED_BODY_BYTES - 1, codec.CHUNKED_BODY_BYTES, 70_001, 3 * MIB):
        payloads = bytes(range(256)) * (size // 256), b"x" * (size % 256)
        told = RumorCopy(rumor(1, 5, *payloads), 1, 0)
        repair = Repair(7, True, False, (told,))
        whole, spliced = codec.encode_message(repair), codec.encode_repair(repair)
        if isinstance(spliced, bytes):
            assert size < codec.CHUNKED_BODY_BYTES
            assert spliced == whole
            continue
        assert len(spliced) == len(whole)
        head, tail = len(spliced.head), len(spliced) - len(spliced.tail)
        for start, end in (
            (0, len(whole)),
            (0, 10),
            (0, head + 5),
            (head, head + 1000),
            (head - 3, tail + 2),
            (tail - 4, tail + 4),
            (tail, len(whole)),
            (len(whole) - 1, len(whole)),
        ):
            assert spliced.slice_bytes(start, end) == whole[start:end]
        assert spliced.kind == whole[0]


def test_a_traced_rumor_is_spliced_like_any_other() -> None:
    traced = replace(rumor(1, 5, bytes(100_000)), trace_share=9)
    repair = Repair(2**32 - 1, True, True, (RumorCopy(traced, 3, 250),))
    spliced = codec.encode_repair(repair)
    assert isinstance(spliced, codec.ChunkedMessage)
    assert codec.decode_message(spliced.slice_bytes(0, len(spliced))) == repair


def test_several_small_rumors_are_not_spliced() -> None:
    repair = Repair(7, True, False, (copy(1, 1), copy(1, 2)))
    assert codec.encode_repair(repair) == codec.encode_message(repair)


def test_a_question_is_answered_with_so_many_datagrams_and_so_many_bytes_and_no_more() -> None:
    for size, count in ((900, REPAIR_DATAGRAMS_LIMIT + 1), (8192, REPAIR_LIMIT_BYTES // 8192 + 1)):
        members = Members(1, anti_entropy=AntiEntropyConfig(enabled=False))
        [engine] = members.engines
        for _ in range(count):
            engine.broadcast(bytes(size), members.now)
            engine.datagrams_to_send(members.now)
        want = IWant(
            GAP_REQUEST_ROUND, (StreamRange(Stream(engine.peer_id, engine.epoch), 1, count),)
        )
        effects = engine._overlay.antientropy.handle(want, identity(2).peer_id, members.now)
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
        assert last.has_more  # ask again
