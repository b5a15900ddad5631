"""The message cache: bodies within their byte and age limits, never unverified."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import pytest

from grapevine_proto.config.sections import LimitsConfig
from grapevine_proto.events import Via
from grapevine_proto.ids import MessageId, PeerId, Stream, StreamRange
from grapevine_proto.overlay.store import message_cache
from grapevine_proto.overlay.store.message_cache import (
    COMPACT_THRESHOLD,
    Arrival,
    MessageCache,
    RumorKey,
    rumor_key,
)
from grapevine_proto.wire.messages import RumorCopy
from grapevine_proto.wire.signed import Rumor
from tests.proto.overlay.builders import EPOCH, context, copy, peer_id, rumor


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


# --- against a model ----------------------------------------------------------------------------


@dataclass
class ModelCache:
    """What the cache should hold, as a list in order of arrival that is searched from end to end."""

    limit_bytes: int
    ttl_ms: int
    entries: list[tuple[RumorCopy, float]] = field(default_factory=list)
    evicted: int = 0

    def cost_bytes(self, origin: PeerId | None = None) -> int:
        rumors = [each.rumor for each, _ in self.entries if origin in (None, each.rumor.origin)]
        return sum(512 + 16 * len(each.lengths) + len(each.body) for each in rumors)

    def insert(self, copy_: RumorCopy, now: float) -> None:
        origin = copy_.rumor.origin
        if self.find(rumor_key(copy_.rumor)) or copy_.age_ms >= self.ttl_ms:
            return
        self.entries.append((copy_, now))
        while self.cost_bytes(origin) > self.limit_bytes // 4:
            oldest, *others = sorted(
                (each for each in self.entries if each[0].rumor.origin == origin),
                key=lambda each: (each[0].rumor.epoch, each[0].rumor.first),
            )
            if not others:
                break
            self.entries.remove(oldest)
            self.evicted += 1
        while self.cost_bytes() > self.limit_bytes:
            self.entries.pop(0)
            self.evicted += 1

    def find(self, key: RumorKey) -> tuple[RumorCopy, float] | None:
        return next((each for each in self.entries if rumor_key(each[0].rumor) == key), None)

    def on_duplicate(self, copy_: RumorCopy, now: float) -> None:
        for index, (ours, received_at) in enumerate(self.entries):
            if ours.rumor is copy_.rumor:
                age_ms = max(min(ours.age_ms, copy_.age_ms - round((now - received_at) * 1000)), 0)
                hops = min(ours.hops, copy_.hops)
                self.entries[index] = ours._replace(age_ms=age_ms, hops=hops), received_at

    def remove_stream(self, stream: Stream) -> None:
        self.entries = [each for each in self.entries if each[0].rumor.stream != stream]

    def tick(self, now: float) -> None:
        while self.entries and self.aged(*self.entries[0], now).age_ms >= self.ttl_ms:
            del self.entries[0]

    def aged(self, copy_: RumorCopy, received_at: float, now: float) -> RumorCopy:
        return copy_._replace(age_ms=copy_.age_ms + round((now - received_at) * 1000))

    def copies(self, now: float) -> list[RumorCopy]:
        return [self.aged(*each, now) for each in self.entries]

    def in_stream(self, stream: Stream, now: float) -> list[RumorCopy]:
        found = [each for each in self.copies(now) if each.rumor.stream == stream]
        return sorted(found, key=lambda each: each.rumor.first)


RUMORS = [
    Rumor(peer_id(number), epoch, first, (size // count,) * count, bytes(size // count * count))
    for number in (1, 2, 3)
    for epoch in (EPOCH, EPOCH + 1)
    for first in range(1, 41, 4)
    for count, size in (((first // 4) % 4 + 1, 40 * number + first),)
]
STREAMS = [Stream(peer_id(number), EPOCH + later) for number in (1, 2, 3) for later in (0, 1)]


@pytest.mark.parametrize("seed", range(6))
def test_a_cache_holds_what_a_searched_list_would(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for constant in ("KEYS_PER_SCAN", "COMPACT_THRESHOLD"):
        monkeypatch.setattr(message_cache, constant, 3)
    rng = random.Random(seed)
    limit_bytes = rng.choice([2000, 8000, 30_000])
    node = context(limits=LimitsConfig(cache_bytes=limit_bytes), message_dedup_ttl=10.0)
    cache = MessageCache(node.config.current, node.verifier)
    model = ModelCache(limit_bytes, 10_000)
    now = 0.0
    for _ in range(400):
        now += rng.choice([0.0, 0.0, 0.25, 1.0])
        copy_ = RumorCopy(
            rng.choice(RUMORS), rng.randrange(1, 9), rng.choice([0, 500, 9000, 9999, 10_000])
        )
        match rng.randrange(12):
            case 0:
                cache.tick(now)
                model.tick(now)
            case 1 if rng.random() < 0.3:
                cache.remove_stream(copy_.rumor.stream)
                model.remove_stream(copy_.rumor.stream)
            case 2 | 3 | 4:
                cache.on_duplicate(copy_, now)
                model.on_duplicate(copy_, now)
            case _:
                cache.insert(copy_, now, is_verified=True)
                model.insert(copy_, now)
        copies = model.copies(now)
        assert list(cache.copies(now)) == copies
        assert (len(cache), cache.size_bytes) == (len(copies), model.cost_bytes())
        assert cache.evicted == model.evicted
        received = [each.rumor for each, at in reversed(model.entries) if at > now - 1.0]
        assert list(cache.received_since(now - 1.0)) == received
        alive = [each for each in copies if each.age_ms < 10_000]
        for cached in RUMORS[::7]:
            key, found = rumor_key(cached), [each for each in alive if each.rumor is cached]
            assert cache.copy(key, now) == (found[0] if found else None)
            assert cache.contains(key) is any(each.rumor is cached for each in copies)
        stream = rng.choice(STREAMS)
        in_stream = model.in_stream(stream, now)
        assert cache.lowest_first(stream) == (in_stream[0].rumor.first if in_stream else None)
        first = rng.randrange(1, 45)
        for last in (first, first + 6, 100):
            found = [
                each._replace(hops=each.hops + 1)
                for each in in_stream
                if each.rumor.first <= last and each.rumor.last >= first and each in alive
            ]
            assert list(cache.in_ranges(StreamRange(stream, first, last), now)) == found
        has_message = any(each.rumor.first <= first <= each.rumor.last for each in in_stream)
        assert cache.has_message(MessageId(*stream, first)) is has_message


def test_a_forged_rumor_leaves_no_copy_and_names_its_origin() -> None:
    cache = make_cache()
    forged, authentic = copy(1, 1).rumor, rumor(1, 2)
    for each in (forged, authentic):
        cache.insert(RumorCopy(each, 1, 0), 0.0, is_verified=False)
    assert cache.copy(rumor_key(forged), 0.0) is None
    assert not cache.contains(rumor_key(forged))
    assert cache.forgers == [peer_id(1)]
    assert not cache.verify(rumor_key(forged), 0.0)
    for _ in range(2):
        assert cache.copy(rumor_key(authentic), 0.0) == RumorCopy(authentic, 1, 0)
    assert cache.signatures_checked == 2, "each once"
    assert cache.rumor(rumor_key(authentic)) is authentic
    assert cache.rumor(rumor_key(forged)) is None


def test_without_a_budget_for_a_signature_a_rumor_stays_unchecked() -> None:
    node = context()
    cache = MessageCache(node.config.current, node.verifier)
    authentic = rumor(1, 1)
    cache.insert(RumorCopy(authentic, 1, 0), 0.0, is_verified=False)
    while node.verifier.try_charge_check(peer_id(1), 0.0):
        pass
    assert cache.copy(rumor_key(authentic), 0.0) is None
    assert cache.forgers == []
    assert cache.copy(rumor_key(authentic), 10.0) is not None


def test_a_message_is_cached_with_its_body_and_not_as_a_header() -> None:
    cache = make_cache()
    header = replace(copy(1, 1).rumor, body=b"", body_hash=bytes(32))
    cache.insert(RumorCopy(header, 1, 0), 0.0, is_verified=True)
    assert not cache.has_message(MessageId(peer_id(1), EPOCH, 1))
    cache.insert(copy(1, 2), 0.0, is_verified=True)
    assert cache.has_message(MessageId(peer_id(1), EPOCH, 2))


def test_one_byte_above_its_share_an_origin_loses_its_oldest_rumor() -> None:
    for extra_bytes, kept in ((0, 2), (1, 1)):
        cache = make_cache(LimitsConfig(cache_bytes=8 * (1000 + 16 + 512)))
        cache.insert(copy(1, 1, size=1000), 0.0, is_verified=True)
        cache.insert(copy(1, 2, size=1000 + extra_bytes), 0.0, is_verified=True)
        assert len(cache) == kept


def test_a_list_of_sequences_is_compacted_once_per_halving() -> None:
    cache = make_cache()
    count = 16 * COMPACT_THRESHOLD
    for first in range(1, count + 1):
        cache.insert(copy(1, first, size=0), float(first), is_verified=True)
    firsts = cache._firsts[peer_id(1)][EPOCH]
    compactions = removed_before = 0
    for removed in range(1, count):
        cache.tick(300.0 + removed)
        assert firsts.lowest == removed + 1
        compactions += firsts._removed_count < removed_before
        removed_before = firsts._removed_count
        assert removed_before <= max(COMPACT_THRESHOLD, len(firsts._firsts) // 2)
    assert compactions == 4


def test_a_cached_message_says_how_it_came() -> None:
    cache = make_cache()
    three = Rumor(peer_id(1), EPOCH, 4, (1, 1, 1), b"abc")
    cache.insert(RumorCopy(three, 3, 500), 7.0, is_verified=True, via=Via.EAGER, source=peer_id(2))
    cache.insert(copy(2, 1), 8.0, is_verified=True)
    expected = Arrival(Via.EAGER, peer_id(2), 3, 500, 7.0)
    found = [cache.arrival(MessageId(peer_id(1), EPOCH, sequence)) for sequence in range(3, 8)]
    assert found == [None, expected, expected, expected, None]
    assert cache.arrival(MessageId(peer_id(2), EPOCH, 1)) == Arrival(
        Via.LOCAL, peer_id(2), 1, 0, 8.0
    )
    assert cache.arrival(MessageId(peer_id(1), EPOCH + 1, 4)) is None
    assert cache.arrival(MessageId(peer_id(3), EPOCH, 1)) is None
