"""Bodies: within their budget, never without their signature's proof, younger than their time."""

from __future__ import annotations

from grapevine_proto.config.sections import LimitsConfig
from grapevine_proto.ids import Stream, StreamRange
from grapevine_proto.overlay.store.message_cache import (
    COMPACT_THRESHOLD,
    ENTRY_OVERHEAD_BYTES,
    PAYLOAD_OVERHEAD_BYTES,
    MessageCache,
    rumor_key,
)
from grapevine_proto.overlay.store.verification import Verifier
from grapevine_proto.wire.messages import RumorCopy
from grapevine_proto.wire.signed import Rumor
from tests.proto.overlay.builders import EPOCH, config, copy, peer_id


def held_with(limits: LimitsConfig | None = None) -> MessageCache:
    settings = config(limits=limits or LimitsConfig())
    return MessageCache(settings, Verifier(settings))


def test_one_origin_may_hold_a_quarter_of_the_bytes_and_all_of_them_no_more_than_all() -> None:
    each = 1000 + PAYLOAD_OVERHEAD_BYTES + ENTRY_OVERHEAD_BYTES
    held = held_with(LimitsConfig(cache_bytes=8 * each))
    for first in (1, 2, 3):
        held.insert(copy(1, first, size=1000), 0.0, is_verified=True)
    assert (len(held), held.evicted) == (2, 1)
    assert held.copy(rumor_key(copy(1, 1).rumor), 0.0) is None, "its own oldest went"
    for number in (2, 3, 4):
        for first in (1, 2):
            held.insert(copy(number, first, size=1000), 0.0, is_verified=True)
    assert (len(held), held.evicted) == (8, 1)
    held.insert(copy(5, 1, size=1000), 0.0, is_verified=True)
    assert (len(held), held.evicted) == (8, 2)
    assert held.copy(rumor_key(copy(1, 2).rumor), 0.0) is None, "the oldest of all went"
    assert held.size_bytes == 8 * each


def test_a_message_larger_than_a_quarter_is_still_held_whole() -> None:
    held = held_with(LimitsConfig(cache_bytes=4000))
    held.insert(copy(1, 1, size=2000), 0.0, is_verified=True)
    assert len(held) == 1
    held.insert(copy(1, 2, size=10), 0.0, is_verified=True)
    assert len(held) == 1


def test_age_grows_while_held_and_the_least_claim_counts() -> None:
    held = held_with()
    held.insert(copy(1, 1, age_ms=50_000, hops=9), 0.0, is_verified=True)
    held.on_duplicate(copy(1, 1, age_ms=12_000, hops=2), 10.0)
    again = held.copy(rumor_key(copy(1, 1).rumor), 20.0)
    assert again is not None
    assert (again.age_ms, again.hops) == (22_000, 2)
    held.on_duplicate(copy(1, 1, age_ms=200_000, hops=200), 20.0)
    again = held.copy(rumor_key(copy(1, 1).rumor), 20.0)
    assert again is not None
    assert (again.age_ms, again.hops) == (22_000, 2), "a claim of old age stops nothing"


def test_ranges_give_the_rumors_that_hold_them() -> None:
    held = held_with()
    origin = peer_id(1)
    for first, count in ((1, 3), (4, 1), (5, 4), (20, 1)):
        body = bytes(count)
        each = Rumor(origin, EPOCH, first, (1,) * count, body)
        held.insert(RumorCopy(each, 1, 0), 0.0, is_verified=True)
    stream = Stream(origin, EPOCH)

    def firsts(first: int, last: int) -> list[int]:
        return [c.rumor.first for c in held.in_ranges(StreamRange(stream, first, last), 0.0)]

    assert firsts(1, 100) == [1, 4, 5, 20]
    assert firsts(2, 2) == [1]
    assert firsts(3, 5) == [1, 4, 5]
    assert firsts(9, 19) == []
    assert [c.hops for c in held.in_ranges(StreamRange(stream, 20, 20), 0.0)] == [2]


def test_an_origin_that_is_heard_backwards_keeps_to_its_share_too() -> None:
    each = 1000 + PAYLOAD_OVERHEAD_BYTES + ENTRY_OVERHEAD_BYTES
    held = held_with(LimitsConfig(cache_bytes=8 * each))
    for first in (9, 8, 7, 6):
        held.insert(copy(1, first, size=1000), 0.0, is_verified=True)
    assert (len(held), held.evicted, held.size_bytes) == (2, 2, 2 * each)
    assert held.lowest_first(copy(1, 9).rumor.stream) == 8


def test_what_is_let_go_in_order_leaves_nothing_behind() -> None:
    held = held_with()
    stream = copy(1, 1).rumor.stream
    for first in range(1, 3 * COMPACT_THRESHOLD):
        held.insert(copy(1, first), float(first), is_verified=True)
    for first in range(1, 3 * COMPACT_THRESHOLD):
        held.tick(300.0 + first)
        assert held.lowest_first(stream) == (
            first + 1 if first < 3 * COMPACT_THRESHOLD - 1 else None
        )
    assert (len(held), held.size_bytes, held._firsts, held._bytes_by_origin) == (0, 0, {}, {})


def test_a_stream_that_is_forgotten_frees_its_bodies_and_no_others() -> None:
    held = held_with()
    for number in (1, 2):
        for first in (1, 2, 3):
            held.insert(copy(number, first), 0.0, is_verified=True)
    held.remove_stream(copy(1, 1).rumor.stream)
    assert len(held) == 3
    assert held.lowest_first(copy(1, 1).rumor.stream) is None
    assert held.lowest_first(copy(2, 1).rumor.stream) == 1


def test_long_streams_are_looked_through_piece_by_piece() -> None:
    held = held_with()
    for first in range(1, 1000, 2):
        held.insert(copy(1, first), 0.0, is_verified=True)
    stream = Stream(peer_id(1), EPOCH)
    found = [first for _, _, first in held.keys_in_range(StreamRange(stream, 10, 900))]
    assert found == list(range(9, 901, 2)), "the one before 10 may reach in"
