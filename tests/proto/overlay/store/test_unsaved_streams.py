"""Which streams are saved again: those that changed, and all where that is not known."""

from __future__ import annotations

from grapevine_proto.config.sections import LimitsConfig
from grapevine_proto.ids import MessageId, Stream
from grapevine_proto.overlay.store.message_store import FORGET_STREAM_S, MessageStore
from grapevine_proto.overlay.store.unsaved_streams import UnsavedStreams
from tests.proto.overlay.builders import EPOCH, context, copy, peer_id


def stream(number: int, epoch: int = EPOCH) -> Stream:
    return Stream(peer_id(number), epoch)


def saving_store(**changes: object) -> MessageStore:
    store = MessageStore(context(**changes), (), 0.0)
    store.take_unsaved()
    return store


def test_until_the_first_save_every_stream_is_unsaved_and_none_is_kept() -> None:
    unsaved = UnsavedStreams(2)
    for number in range(10):
        unsaved.mark(stream(number))
    assert unsaved._streams == {}
    assert unsaved.take() is None
    assert unsaved.take() == []


def test_beyond_the_limit_every_stream_is_unsaved() -> None:
    unsaved = UnsavedStreams(2)
    unsaved.take()
    for number in (1, 2, 1):
        unsaved.mark(stream(number))
    assert unsaved.take() == [stream(1), stream(2)]
    for number in (1, 2, 3, 4):
        unsaved.mark(stream(number))
    assert unsaved.take() is None
    assert unsaved.take() == []


def test_a_stream_is_unsaved_when_a_message_of_it_arrived() -> None:
    store = saving_store()
    for number in (1, 2, 1):
        store.insert(copy(number, 1), peer_id(9), False, 1.0)
    assert store.take_unsaved() == [stream(1), stream(2)]
    assert store.take_unsaved() == []
    assert [each.origin for each in store.saved_streams([stream(2)], 2.0)] == [peer_id(2)]


def test_an_evicted_origin_is_saved_and_one_that_is_forgotten_is_removed() -> None:
    store = saving_store(limits=LimitsConfig(origins=1))
    for number in (1, 2):
        store.insert(copy(number, 1), peer_id(9), True, 1.0)
    assert store.take_unsaved() == [stream(1), stream(2)]
    [evicted] = store.saved_streams([stream(1)], 2.0)
    assert (evicted.origin, evicted.high, evicted.idle_s) == (peer_id(1), 1, 1.0)
    store.insert(copy(3, 1), peer_id(9), True, 1.0)
    assert store.take_unsaved() is None, "three streams changed"
    store.insert(copy(3, 2), peer_id(9), True, 1.0)
    assert store.take_unsaved() == [stream(3)]
    assert store.saved_streams([stream(1)], 2.0) == [], "the table of evicted origins is full too"
    assert set(store.tracked_streams()) == {stream(2), stream(3)}


def test_an_evicted_origin_that_returns_in_another_epoch_is_saved_in_place_of_the_first() -> None:
    store = saving_store(limits=LimitsConfig(origins=1))
    for number in (1, 2):
        store.insert(copy(number, 1), peer_id(9), True, 1.0)
    store.take_unsaved()
    store._evicted[peer_id(1)] = store._evicted[peer_id(1)]._replace(epoch=EPOCH - 1)
    store._open(stream(1), 2.0)
    assert store.take_unsaved() == [stream(1), stream(1, EPOCH - 1)]
    assert store.saved_streams([stream(1, EPOCH - 1)], 2.0) == []


def test_a_stream_is_unsaved_when_its_gap_is_abandoned_and_when_it_is_forgotten() -> None:
    store = saving_store(message_dedup_ttl=10.0)
    store.insert(copy(1, 1), peer_id(9), False, 0.0)
    store.insert(copy(1, 3), peer_id(9), False, 0.0)
    store.take_unsaved()
    store.tick(5.0)
    assert store.take_unsaved() == []
    store.tick(20.0)
    assert store.take_unsaved() == [stream(1)]
    store.tick(FORGET_STREAM_S + 1.0)
    assert store.take_unsaved() == [stream(1)]
    assert store.saved_streams([stream(1)], FORGET_STREAM_S + 1.0) == []


def test_what_is_saved_of_some_streams_is_what_a_snapshot_has_of_them() -> None:
    store = saving_store()
    for number in (1, 2, 3):
        for first in (1, 4):
            store.insert(copy(number, first), peer_id(9), False, float(number))
    unhandled = [MessageId(peer_id(2), EPOCH, 4)]
    whole = store.snapshot(9.0, unhandled)
    assert [each.origin for each in whole] == [peer_id(1), peer_id(2), peer_id(3)]
    assert whole[1].high == 3 or whole[1].lacks(4)
    assert store.saved_streams([stream(2)], 9.0, unhandled) == [whole[1]]
