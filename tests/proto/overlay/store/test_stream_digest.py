"""The stream digest: equal for equal stores, and stable while messages are in transit."""

from __future__ import annotations

import math

from grapevine_proto.crypto.identity import digest
from grapevine_proto.ids import Stream
from grapevine_proto.overlay.store.stream_digest import DIGEST_SETTLE_S, StreamDigest
from tests.proto.overlay.builders import EPOCH, peer_id

FIRST, SECOND = Stream(peer_id(1), EPOCH), Stream(peer_id(2), EPOCH)


def make_digest() -> StreamDigest:
    return StreamDigest("default", 300.0)


def test_a_changing_stream_is_not_in_the_digest_until_it_settles() -> None:
    stream_digest = make_digest()
    stream_digest.update(FIRST, 1, 0.0, 0.0)
    assert stream_digest.digest(1.9)[0] == 0
    assert stream_digest.digest(2.0)[0] == 1
    stream_digest.update(FIRST, 2, 3.0, 3.0)
    assert stream_digest.digest(3.0)[0] == 0
    assert stream_digest.digest(5.0)[0] == 1


def test_an_idle_stream_leaves_the_digest_and_returns_with_a_new_message() -> None:
    stream_digest = make_digest()
    stream_digest.update(FIRST, 1, 0.0, 0.0)
    assert stream_digest.digest(299.9)[0] == 1
    assert stream_digest.digest(300.0) == (0, bytes(16))
    stream_digest.update(FIRST, 2, 400.0, 400.0)
    assert stream_digest.digest(402.0)[0] == 1


def test_the_digest_depends_on_streams_and_their_highest_sequences() -> None:
    digests: set[bytes] = set()
    for known in ({FIRST: 1}, {FIRST: 2}, {SECOND: 1}, {FIRST: 1, SECOND: 1}):
        stream_digest = make_digest()
        for stream, high in known.items():
            stream_digest.update(stream, high, 0.0, 0.0)
        digests.add(stream_digest.digest(DIGEST_SETTLE_S)[1])
    assert len(digests) == 4


def test_digests_of_different_clusters_differ() -> None:
    ours, theirs = make_digest(), StreamDigest("other", 300.0)
    for stream_digest in (ours, theirs):
        stream_digest.update(FIRST, 1, 0.0, 0.0)
    assert ours.digest(DIGEST_SETTLE_S) != theirs.digest(DIGEST_SETTLE_S)


def test_removing_a_stream_removes_its_part_of_the_digest() -> None:
    stream_digest = make_digest()
    for stream in (FIRST, SECOND):
        stream_digest.update(stream, 7, 0.0, 0.0)
    stream_digest.digest(DIGEST_SETTLE_S)
    stream_digest.remove(SECOND)
    single = make_digest()
    single.update(FIRST, 7, 0.0, 0.0)
    assert stream_digest.digest(3.0) == single.digest(3.0)
    stream_digest.remove(FIRST)
    assert stream_digest.digest(3.0) == (0, bytes(16))


def test_a_busy_stream_uses_no_more_memory_than_another() -> None:
    stream_digest = make_digest()
    for second in range(0, 3000, 3):
        stream_digest.update(FIRST, second + 1, float(second), float(second))
        assert stream_digest.digest(second + DIGEST_SETTLE_S)[0] == 1
        assert len(stream_digest._expiry_heap) <= 1
    assert stream_digest.digest(3297.0)[0] == 0


# --- at the limits ------------------------------------------------------------------------------


def streams(count: int) -> list[Stream]:
    return [Stream(peer_id(1), EPOCH + number) for number in range(count)]


def test_the_next_streams_are_all_of_them_or_some_in_turn() -> None:
    stream_digest = make_digest()
    given = streams(5)
    for stream in given:
        stream_digest.update(stream, 1, 0.0, 0.0)
    assert stream_digest.next_streams(5) == given
    assert stream_digest.next_streams(math.inf) == given
    assert stream_digest.next_streams(2) == given[:2]
    assert stream_digest.next_streams(2) == given[2:4]
    assert stream_digest.next_streams(2) == [given[4], given[0]]
    stream_digest.remove(given[1])
    assert stream_digest.next_streams(4) == [given[2], given[3], given[4], given[0]]


def test_a_stream_settles_and_expires_at_its_very_time() -> None:
    stream_digest = make_digest()
    stream_digest.update(FIRST, 1, 10.0, 20.0)
    assert stream_digest.digest(21.99)[0] == 0
    assert stream_digest.digest(22.0)[0] == 1
    assert stream_digest.digest(309.99)[0] == 1
    assert stream_digest.digest(310.0)[0] == 0
    assert stream_digest.next_streams(9) == []


def test_a_stream_that_was_removed_does_not_keep_others_from_expiring() -> None:
    stream_digest = make_digest()
    for stream in (FIRST, SECOND):
        stream_digest.update(stream, 1, 0.0, 0.0)
    stream_digest.digest(2.0)
    stream_digest.remove(min(FIRST, SECOND))
    assert stream_digest.digest(300.0) == (0, bytes(16))


def test_each_stream_expires_at_its_own_time() -> None:
    stream_digest = make_digest()
    for published_at, stream in enumerate((SECOND, FIRST)):
        stream_digest.update(stream, 1, float(published_at), 1.0)
    counts = [stream_digest.digest(now)[0] for now in (3.0, 299.9, 300.0, 300.9, 301.0)]
    assert counts == [2, 2, 1, 1, 0]


def test_a_stream_that_became_active_again_expires_later() -> None:
    stream_digest = make_digest()
    stream_digest.update(FIRST, 1, 0.0, 0.0)
    stream_digest.digest(2.0)
    stream_digest.update(FIRST, 2, 100.0, 100.0)
    stream_digest.digest(102.0)
    assert stream_digest.digest(300.0)[0] == 1
    assert stream_digest.digest(399.9)[0] == 1
    assert stream_digest.digest(400.0) == (0, bytes(16))


def test_the_sum_of_many_terms_stays_within_sixteen_bytes() -> None:
    stream_digest = make_digest()
    given = streams(40)
    for stream in given:
        stream_digest.update(stream, 1, 0.0, 0.0)
    assert stream_digest.digest(2.0)[0] == 40
    for stream in reversed(given[1:]):
        stream_digest.remove(stream)
    single = make_digest()
    single.update(given[0], 1, 0.0, 0.0)
    assert stream_digest.digest(2.0) == single.digest(2.0)
    stream_digest.remove(given[0])
    assert stream_digest.digest(2.0) == (0, bytes(16))


def test_expiries_of_removed_streams_are_dropped_beyond_1024() -> None:
    stream_digest = make_digest()
    kept = Stream(peer_id(2), EPOCH)
    stream_digest.update(kept, 1, 0.0, 0.0)
    stream_digest.digest(2.0)
    for number, stream in enumerate(streams(1200)):
        stream_digest.update(stream, 1, 0.0, 0.0)
        stream_digest.digest(2.0)
        if number == 1026:
            assert len(stream_digest._expiry_heap) == 1028
        if number == 1027:
            assert len(stream_digest._expiry_heap) == 2, "those of the removed ones are gone"
        stream_digest.remove(stream)
    assert stream_digest.digest(299.0)[0] == 1
    assert stream_digest.digest(300.0)[0] == 0


def test_the_term_of_a_stream_is_sixteen_bytes_of_a_hash_that_other_nodes_compute_alike() -> None:
    stream_digest = make_digest()
    stream_digest.update(FIRST, 7, 0.0, 0.0)
    expected = digest(b"grapevine digest 1", "default", *FIRST, 7, size=16)
    assert stream_digest.digest(2.0) == (1, expected)
