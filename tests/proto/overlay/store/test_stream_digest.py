"""The digest over streams: the same for all who saw the same, and quiet about what is on its way."""

from __future__ import annotations

from grapevine_proto.ids import Stream
from grapevine_proto.overlay.store.stream_digest import DIGEST_SETTLE_S, StreamDigest
from tests.proto.overlay.builders import EPOCH, peer_id

ONE, OTHER = Stream(peer_id(1), EPOCH), Stream(peer_id(2), EPOCH)


def recent() -> StreamDigest:
    return StreamDigest("default", 300.0)


def test_a_stream_on_its_way_is_not_in_the_digest_until_it_settles() -> None:
    streams = recent()
    streams.update(ONE, 1, 0.0, 0.0)
    assert streams.digest(1.9)[0] == 0
    assert streams.digest(2.0)[0] == 1
    streams.update(ONE, 2, 3.0, 3.0)
    assert streams.digest(3.0)[0] == 0
    assert streams.digest(5.0)[0] == 1


def test_a_silent_stream_leaves_the_digest_and_its_word_brings_it_back() -> None:
    streams = recent()
    streams.update(ONE, 1, 0.0, 0.0)
    assert streams.digest(299.9)[0] == 1
    assert streams.digest(300.0) == (0, bytes(16))
    streams.update(ONE, 2, 400.0, 400.0)
    assert streams.digest(402.0)[0] == 1


def test_the_digest_tells_highs_and_streams_apart() -> None:
    seen: set[bytes] = set()
    for known in ({ONE: 1}, {ONE: 2}, {OTHER: 1}, {ONE: 1, OTHER: 1}):
        streams = recent()
        for stream, high in known.items():
            streams.update(stream, high, 0.0, 0.0)
        seen.add(streams.digest(DIGEST_SETTLE_S)[1])
    assert len(seen) == 4


def test_another_clusters_digest_is_another() -> None:
    ours, theirs = recent(), StreamDigest("other", 300.0)
    for streams in (ours, theirs):
        streams.update(ONE, 1, 0.0, 0.0)
    assert ours.digest(DIGEST_SETTLE_S) != theirs.digest(DIGEST_SETTLE_S)


def test_a_forgotten_stream_takes_its_part_along() -> None:
    streams = recent()
    for stream in (ONE, OTHER):
        streams.update(stream, 7, 0.0, 0.0)
    streams.digest(DIGEST_SETTLE_S)
    streams.remove(OTHER)
    alone = recent()
    alone.update(ONE, 7, 0.0, 0.0)
    assert streams.digest(3.0) == alone.digest(3.0)
    streams.remove(ONE)
    assert streams.digest(3.0) == (0, bytes(16))


def test_a_stream_that_never_rests_takes_no_more_room_than_another() -> None:
    streams = recent()
    for second in range(0, 3000, 3):
        streams.update(ONE, second + 1, float(second), float(second))
        assert streams.digest(second + DIGEST_SETTLE_S)[0] == 1
        assert len(streams._expiry_heap) <= 1
    assert streams.digest(3297.0)[0] == 0
