"""The message cache: bodies within their byte and age limits, never unverified."""

from __future__ import annotations

from grapevine_proto.config.sections import LimitsConfig
from grapevine_proto.ids import Stream, StreamRange
from grapevine_proto.overlay.store.message_cache import (
    COMPACT_THRESHOLD,
    MessageCache,
    rumor_key,
)
from grapevine_proto.wire.messages import RumorCopy
from grapevine_proto.wire.signed import Rumor
from tests.proto.overlay.builders import EPOCH, context, copy, peer_id


def make_cache(limits: LimitsConfig | None = None) -> MessageCache:
    node = context(limits=limits or LimitsConfig())
    return MessageCache(node.config.current, node.verifier)


def test_one_origin_may_use_a_quarter_of_the_cache_and_all_origins_all_of_it() -> None:
    each = 1000 + 16 + 512
    cache = make_cache(LimitsConfig(cache_bytes=8 * each))
    for first in (1, 2, 3):
        cache.insert(copy(1, first, size=1000), 0.0, is_verified=True)
    assert (len(cache), cache.evicted) == (2, 1)
    assert cache.copy(rumor_key(copy(1, 1).rumor), 0.0) is None, "its own oldest was evicted"
    for number in (2, 3, 4):
        for first in (1, 2):
            cache.insert(copy(number, first, size=1000), 0.0, is_verified=True)
    assert (len(cache), cache.evicted) == (8, 1)
    cache.insert(copy(5, 1, size=1000), 0.0, is_verified=True)
    assert (len(cache), cache.evicted) == (8, 2)
    assert cache.copy(rumor_key(copy(1, 2).rumor), 0.0) is None, "the oldest of all was evicted"
    assert cache.size_bytes == 8 * each


def test_a_message_larger_than_a_quarter_is_still_cached_whole() -> None:
    cache = make_cache(LimitsConfig(cache_bytes=4000))
    cache.insert(copy(1, 1, size=2000), 0.0, is_verified=True)
    assert len(cache) == 1
    cache.insert(copy(1, 2, size=10), 0.0, is_verified=True)
    assert len(cache) == 1


def test_age_grows_while_cached_and_the_lowest_claim_counts() -> None:
    cache = make_cache()
    cache.insert(copy(1, 1, age_ms=50_000, hops=9), 0.0, is_verified=True)
    cache.on_duplicate(copy(1, 1, age_ms=12_000, hops=2), 10.0)
    copy_now = cache.copy(rumor_key(copy(1, 1).rumor), 20.0)
    assert copy_now is not None
    assert (copy_now.age_ms, copy_now.hops) == (22_000, 2)
    cache.on_duplicate(copy(1, 1, age_ms=200_000, hops=200), 20.0)
    copy_now = cache.copy(rumor_key(copy(1, 1).rumor), 20.0)
    assert copy_now is not None
    assert (copy_now.age_ms, copy_now.hops) == (22_000, 2), "a higher age claim has no effect"


def test_ranges_return_the_rumors_that_overlap_them() -> None:
    cache = make_cache()
    origin = peer_id(1)
    for first, count in ((1, 3), (4, 1), (5, 4), (20, 1)):
        body = bytes(count)
        each = Rumor(origin, EPOCH, first, (1,) * count, body)
        cache.insert(RumorCopy(each, 1, 0), 0.0, is_verified=True)
    stream = Stream(origin, EPOCH)

    def firsts(first: int, last: int) -> list[int]:
        return [c.rumor.first for c in cache.in_ranges(StreamRange(stream, first, last), 0.0)]

    assert firsts(1, 100) == [1, 4, 5, 20]
    assert firsts(2, 2) == [1]
    assert firsts(3, 5) == [1, 4, 5]
    assert firsts(9, 19) == []
    assert [c.hops for c in cache.in_ranges(StreamRange(stream, 20, 20), 0.0)] == [2]


def test_an_origin_received_in_reverse_order_stays_within_its_share() -> None:
    each = 1000 + 16 + 512
    cache = make_cache(LimitsConfig(cache_bytes=8 * each))
    for first in (9, 8, 7, 6):
        cache.insert(copy(1, first, size=1000), 0.0, is_verified=True)
    assert (len(cache), cache.evicted, cache.size_bytes) == (2, 2, 2 * each)
    assert cache.lowest_first(copy(1, 9).rumor.stream) == 8


def test_rumors_expired_in_order_leave_no_state() -> None:
    cache = make_cache()
    stream = copy(1, 1).rumor.stream
    for first in range(1, 3 * COMPACT_THRESHOLD):
        cache.insert(copy(1, first), float(first), is_verified=True)
    for first in range(1, 3 * COMPACT_THRESHOLD):
        cache.tick(300.0 + first)
        assert cache.lowest_first(stream) == (
            first + 1 if first < 3 * COMPACT_THRESHOLD - 1 else None
        )
    assert (len(cache), cache.size_bytes, cache._firsts, cache._bytes_by_origin) == (0, 0, {}, {})


def test_removing_a_stream_frees_its_bodies_and_no_others() -> None:
    cache = make_cache()
    for number in (1, 2):
        for first in (1, 2, 3):
            cache.insert(copy(number, first), 0.0, is_verified=True)
    cache.remove_stream(copy(1, 1).rumor.stream)
    assert len(cache) == 3
    assert cache.lowest_first(copy(1, 1).rumor.stream) is None
    assert cache.lowest_first(copy(2, 1).rumor.stream) == 1


def test_long_streams_are_scanned_in_pieces() -> None:
    cache = make_cache()
    for first in range(1, 1000, 2):
        cache.insert(copy(1, first), 0.0, is_verified=True)
    stream = Stream(peer_id(1), EPOCH)
    found = [first for _, _, first in cache.keys_in_range(StreamRange(stream, 10, 900))]
    assert found == list(range(9, 901, 2)), "the rumor before 10 may overlap"
