"""The message store: each payload once, within limits, with a correct digest."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from grapevine_proto import work
from grapevine_proto.config.sections import LimitsConfig
from grapevine_proto.errors import DropReason
from grapevine_proto.events import Via
from grapevine_proto.ids import MessageId, Stream, StreamRange
from grapevine_proto.overlay.store.message_store import (
    FORGET_STREAM_S,
    STORE_TICK_S,
    MessageStore,
    SavedStream,
)
from grapevine_proto.overlay.store.stream_digest import DIGEST_SETTLE_S
from grapevine_proto.wire.messages import RumorCopy
from grapevine_proto.wire.signed import Rumor
from tests.proto.overlay.builders import EPOCH, context, copy, peer_id, record

SOURCE = peer_id(999)


def store_with(limits: LimitsConfig | None = None, *, now: float = 0.0) -> MessageStore:
    return MessageStore(context(limits=limits or LimitsConfig()), (), now)


def insert(store: MessageStore, each: RumorCopy, now: float, *, linked: bool = False) -> list[int]:
    """Insert a copy; the sequences that were new."""
    new_payloads = store.insert(each, SOURCE, linked, now, via=Via.EAGER)
    return [message_id.sequence for message_id, _ in new_payloads]


def in_epoch(each: RumorCopy, epoch: int) -> RumorCopy:
    return each._replace(rumor=replace(each.rumor, epoch=epoch))


# --- duplicates ---------------------------------------------------------------------------------


def test_a_payload_is_returned_once() -> None:
    store = store_with()
    assert insert(store, copy(1, 1), 0.0) == [1]
    assert store.is_duplicate(copy(1, 1).rumor, 0.0)
    assert insert(store, copy(1, 1), 0.0) == []


def test_overlapping_rumors_return_only_new_payloads() -> None:
    store = store_with()
    origin = peer_id(1)
    two = Rumor(origin, EPOCH, 2, (1, 1), b"bc")
    three = Rumor(origin, EPOCH, 1, (1, 1, 1), b"abc")
    assert insert(store, RumorCopy(two, 1, 0), 0.0) == [2, 3]
    assert insert(store, RumorCopy(three, 1, 0), 0.0) == [1]


def test_saved_trackers_prevent_duplicates_after_a_restart() -> None:
    store = store_with()
    for first in (1, 2, 5):
        insert(store, copy(1, first), 0.0)
    restored = MessageStore(context(), store.snapshot(1.0), 500.0)
    assert restored.is_duplicate(copy(1, 5).rumor, 500.0)
    assert not restored.is_duplicate(copy(1, 3).rumor, 500.0)
    assert restored.missing(StreamRange(copy(1, 1).rumor.stream, 1, 6), 500.0) == [
        StreamRange(copy(1, 1).rumor.stream, 3, 4),
        StreamRange(copy(1, 1).rumor.stream, 6, 6),
    ]
    assert restored.snapshot(500.0)[0].idle_s == 1.0


# --- epochs -------------------------------------------------------------------------------------


def test_a_superseded_stream_stays_repairable_and_then_closes() -> None:
    store = store_with()
    insert(store, copy(1, 1), 0.0)
    insert(store, copy(1, 4), 0.0)
    insert(store, in_epoch(copy(1, 1), EPOCH + 1), 10.0)
    assert not store.is_duplicate(copy(1, 2).rumor, 309.0)
    assert store.is_duplicate(copy(1, 2).rumor, 310.0)
    assert store.missing(StreamRange(copy(1, 1).rumor.stream, 1, 4), 310.0) == []


def test_an_epoch_before_the_last_two_is_rejected() -> None:
    store = store_with()
    for epoch in (EPOCH, EPOCH + 2):
        insert(store, in_epoch(copy(1, 1), epoch), 0.0)
    for epoch in (EPOCH - 1, EPOCH + 1):
        stream = Stream(peer_id(1), epoch)
        assert store.admission_error(stream, SOURCE, False, 0.0) is DropReason.STALE_EPOCH
    assert store.admission_error(Stream(peer_id(1), EPOCH + 3), SOURCE, False, 0.0) is None


def test_a_lower_epoch_is_accepted_only_shortly_after_a_higher_one_opened() -> None:
    store = store_with()
    insert(store, copy(1, 1), 0.0)
    older = Stream(peer_id(1), EPOCH - 1)
    assert store.admission_error(older, SOURCE, False, 299.0) is None
    assert store.admission_error(older, SOURCE, False, 300.0) is DropReason.STALE_EPOCH
    assert store.missing(StreamRange(older, 1, 3), 300.0) == []


def test_a_third_epoch_removes_the_first() -> None:
    store = store_with()
    for epoch in (EPOCH, EPOCH + 1, EPOCH + 2):
        insert(store, in_epoch(copy(1, 1), epoch), 0.0)
    assert store.streams == 2
    assert len(store.cache) == 2


# --- limits -------------------------------------------------------------------------------------


def test_while_there_is_room_one_source_may_send_all_origins() -> None:
    store = store_with(LimitsConfig(origins=16, new_origins_per_link=3))
    for number in range(12):
        assert store.admission_error(copy(number, 1).rumor.stream, SOURCE, False, 0.0) is None
        insert(store, copy(number, 1), 0.0)


def insert_from(store: MessageStore, number: int, source_number: int, now: float = 0.0) -> None:
    """Peer `source_number` sends the first rumor of origin `number`, which is inserted unless rejected."""
    each = copy(number, 1)
    if store.admission_error(each.rumor.stream, peer_id(source_number), False, now) is None:
        store.insert(each, peer_id(source_number), False, now)


def has_origin(store: MessageStore, number: int) -> bool:
    return (peer_id(number), EPOCH) in store._states


def test_in_a_crowded_table_a_source_above_its_share_evicts_its_own_origins() -> None:
    store = store_with(LimitsConfig(origins=16, new_origins_per_link=3))
    for number in range(100):
        insert_from(store, number, source_number=998)
    assert store.streams == 12
    assert has_origin(store, 99)
    assert not has_origin(store, 0)
    assert store.origins_evicted == 88


def test_an_unknown_origin_beyond_the_limit_evicts_one_of_the_largest_source() -> None:
    store = store_with(LimitsConfig(origins=16, new_origins_per_link=3))
    for number in range(12):
        insert_from(store, number, source_number=998)
    for number in range(12, 18):
        insert_from(store, number, source_number=980 + number)
    assert store.streams == 16
    assert all(has_origin(store, number) for number in range(12, 18))
    assert not has_origin(store, 0)
    assert not has_origin(store, 1)


def test_members_are_never_evicted() -> None:
    node = context(limits=LimitsConfig(origins=16, new_origins_per_link=3))
    store = MessageStore(node, (), 0.0)
    for number in range(10):
        node.members.ensure(record(number), 0.0)
    for number in range(200):
        insert_from(store, number, source_number=900 + number % 60)
    assert store.streams == 16
    assert all(has_origin(store, number) for number in range(10))


def test_a_member_that_publishes_first_is_inserted_into_a_full_table() -> None:
    node = context(limits=LimitsConfig(origins=4))
    store = MessageStore(node, (), 0.0)
    for number in range(4):
        insert_from(store, number, source_number=900 + number)
    for number in range(50, 54):
        node.members.ensure(record(number), 0.0)
        insert_from(store, number, source_number=998)
        assert has_origin(store, number)
    insert_from(store, 60, source_number=998)
    assert not has_origin(store, 60), "no unknown origin is left to evict"
    assert store.streams == 4
    for number in range(50, 54):
        node.members.remove(peer_id(number))
    insert_from(store, 61, source_number=998)
    assert has_origin(store, 61), "a former member is evicted"


def test_messages_of_an_evicted_origin_are_not_delivered_again() -> None:
    store = store_with(LimitsConfig(origins=2, new_origins_per_link=1))
    insert(store, copy(1, 1), 0.0)
    insert(store, copy(1, 2), 0.0)
    for number in (2, 3):
        insert_from(store, number, source_number=900 + number)
    assert not has_origin(store, 1)
    assert store.is_duplicate(copy(1, 2).rumor, 0.0)
    assert store.missing(StreamRange(copy(1, 1).rumor.stream, 1, 3), 0.0) == [
        StreamRange(copy(1, 1).rumor.stream, 3, 3)
    ]
    restored = MessageStore(context(), store.snapshot(1.0), 500.0)
    assert restored.is_duplicate(copy(1, 2).rumor, 500.0)
    assert insert(store, copy(1, 3), 1.0) == [3], "it may publish again"
    assert store.is_duplicate(copy(1, 1).rumor, 1.0)


def test_saved_streams_beyond_the_limit_are_restored_as_evicted_origins() -> None:
    store = store_with()
    for number in range(10):
        insert(store, copy(number, 1), 0.0)
    small = context(limits=LimitsConfig(origins=4))
    restored = MessageStore(small, store.snapshot(1.0), 0.0)
    assert restored.streams == 4
    assert len(restored._evicted) == 4, "their number is limited too"


def test_a_saved_stream_lacks_unhandled_messages_up_to_the_limit_of_gaps() -> None:
    store = store_with(LimitsConfig(gaps=2))
    for sequence in range(1, 11):
        insert(store, copy(1, sequence), 0.0)
    origin, epoch = copy(1, 1).rumor.stream
    unhandled = [MessageId(origin, epoch, sequence) for sequence in (2, 4, 6, 9, 10)]
    [saved] = store.snapshot(1.0, unhandled)
    lacking = [sequence for sequence in range(1, 13) if saved.lacks(sequence)]
    assert lacking == [4, 6, 9, 10, 11, 12], "2 is one gap too many"


def test_restored_streams_do_not_keep_new_origins_out() -> None:
    node = context(limits=LimitsConfig(origins=16, new_origins_per_link=3))
    store = MessageStore(node, (), 0.0)
    for number in range(16):
        insert_from(store, number, source_number=900 + number)
    restored = MessageStore(node, store.snapshot(1.0), 0.0)
    for number in range(50, 60):
        insert_from(restored, number, source_number=998)
        assert has_origin(restored, number)


def test_a_linked_origin_is_always_inserted() -> None:
    node = context(limits=LimitsConfig(origins=2))
    store = MessageStore(node, (), 0.0)
    for number in range(4):
        node.members.ensure(record(number), 0.0)
        insert(store, copy(number, 1), 0.0, linked=True)
    assert store.streams == 4
    assert (
        store.admission_error(copy(5, 1).rumor.stream, SOURCE, False, 0.0) is DropReason.TABLE_FULL
    )


# --- epochs of member records -------------------------------------------------------------------


def store_with_member(epoch: int, known_since: float, earlier_epoch: int = 0) -> MessageStore:
    """A store that knows member 1 in `epoch` since `known_since`."""
    node = context()
    member = node.members.ensure(record(1, epoch=epoch), known_since)
    member.earlier_epoch = earlier_epoch
    return MessageStore(node, (), 0.0)


def test_epochs_before_the_members_record_are_rejected() -> None:
    store = store_with_member(EPOCH + 10, 0.0)
    older = copy(1, 1).rumor.stream
    assert store.admission_error(older, SOURCE, False, 1.0) is DropReason.STALE_EPOCH
    assert store.missing(StreamRange(older, 1, 5), 1.0) == []
    assert store.admission_error(Stream(peer_id(1), EPOCH + 10), SOURCE, False, 1.0) is None


def test_the_previous_known_epoch_is_accepted_until_its_messages_expire() -> None:
    store = store_with_member(EPOCH + 10, 5.0, earlier_epoch=EPOCH)
    older = copy(1, 1).rumor.stream
    assert store.admission_error(older, SOURCE, False, 304.0) is None
    assert store.admission_error(older, SOURCE, False, 305.0) is DropReason.STALE_EPOCH
    unknown_epoch = Stream(peer_id(1), EPOCH - 1)
    assert store.admission_error(unknown_epoch, SOURCE, False, 6.0) is DropReason.STALE_EPOCH


def test_a_stream_closes_once_the_record_of_a_newer_epoch_is_old_enough() -> None:
    store = store_with_member(EPOCH + 10, 5.0)
    insert(store, copy(1, 1), 0.0)
    insert(store, copy(1, 4), 0.0)
    assert not store.is_duplicate(copy(1, 2).rumor, 304.0)
    assert store.is_duplicate(copy(1, 2).rumor, 305.0)


# --- age ----------------------------------------------------------------------------------------


def test_a_message_is_cached_until_it_expires_and_known_for_longer() -> None:
    store = store_with()
    insert(store, copy(1, 1, age_ms=100_000), 0.0)
    store.tick(199.0)
    assert len(store.cache) == 1
    store.tick(200.0)
    assert len(store.cache) == 0
    assert store.is_duplicate(copy(1, 1).rumor, 200.0)


def test_a_tick_is_due_once_a_second() -> None:
    assert STORE_TICK_S == 1.0


def test_a_gap_is_abandoned_after_the_message_lifetime() -> None:
    store = store_with(now=-1000.0)
    insert(store, copy(1, 1), 0.0)
    insert(store, copy(1, 3), 0.0)
    assert store.gaps(1.0, 1.0, 10) == [StreamRange(copy(1, 1).rumor.stream, 2, 2)]
    store.tick(300.5)
    assert store.abandoned == 1
    assert not store.has_gaps
    assert store.is_duplicate(copy(1, 2).rumor, 301.0)


def test_a_stream_is_removed_after_a_day_without_messages() -> None:
    store = store_with()
    insert(store, copy(1, 1), 0.0)
    store.tick(FORGET_STREAM_S - 1)
    assert store.streams == 1
    store.tick(FORGET_STREAM_S + 601)
    assert store.streams == 0


# --- repair and digest --------------------------------------------------------------------------


def test_stores_with_the_same_messages_have_the_same_digest_in_any_order() -> None:
    first_store, second_store = store_with(), store_with(now=7.0)
    for first in (1, 2, 3):
        for number in (1, 2):
            insert(first_store, copy(number, first), 0.0)
    for number in (2, 1):
        for first in (3, 1, 2):
            insert(second_store, copy(number, first), 7.0)
    assert first_store.digest(DIGEST_SETTLE_S) == second_store.digest(7.0 + DIGEST_SETTLE_S)
    assert first_store.digest(DIGEST_SETTLE_S)[0] == 2


@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 6), st.floats(0.0, 200.0)), max_size=60)
)
def test_the_incremental_digest_equals_a_recomputed_one(
    steps: list[tuple[int, int, float]],
) -> None:
    store = store_with()
    now = 0.0
    for number, first, pause_s in steps:
        now += pause_s
        insert(store, copy(number, first), now)
        store.digest(now)
    now += DIGEST_SETTLE_S
    rebuilt = store_with(now=now)
    for entry in store.vector(now):
        for first in range(1, entry.last + 1):
            each = Rumor(entry.stream.origin, entry.stream.epoch, first, (1,), b"x")
            insert(rebuilt, RumorCopy(each, 1, 0), now)
    assert store.digest(now) == rebuilt.digest(now + DIGEST_SETTLE_S)


def test_ranges_of_a_peer_mark_nothing_as_seen() -> None:
    store = store_with()
    store.missing(StreamRange(Stream(peer_id(1), EPOCH), 1, 2**50), 0.0)
    assert store.streams == 0
    assert not store.is_duplicate(copy(1, 1).rumor, 0.0)


# --- limits and times, each at its edge ---------------------------------------------------------


STREAM = Stream(peer_id(1), EPOCH)


def only_stream(store: MessageStore) -> SavedStream:
    [saved] = store.snapshot(0.0)
    return saved


def test_gaps_are_listed_from_their_age_on_and_up_to_the_limit() -> None:
    store = store_with()
    for first, now in ((1, 0.0), (3, 1.0), (5, 2.0), (7, 3.0)):
        insert(store, copy(1, first), now)
    assert store.newest_gap_at == 3.0
    assert [each.first for each in store.gaps(3.0, 1.0, 10)] == [2, 4]
    assert [each.first for each in store.gaps(3.0, 0.0, 2)] == [2, 4]
    assert [each.first for each in store.gaps(3.0, 0.0, 1)] == [2]
    assert [(each.first, each.last) for each in store.gaps(9.0, 1.0, 10)] == [
        (2, 2), (4, 4), (6, 6),
    ]  # fmt: skip


def test_what_an_origin_published_before_our_start_is_no_loss_and_what_came_after_is() -> None:
    store = store_with(now=0.0)
    insert(store, copy(1, 10), 299.0)
    insert(store, copy(2, 10), 300.0)
    store.tick(299.0 + 300.5)
    assert store.abandoned == 0
    store.tick(300.0 + 300.5)
    assert store.abandoned == 9


def test_gaps_are_abandoned_once_they_are_older_than_the_time_to_live() -> None:
    store = store_with()
    insert(store, copy(1, 1), 0.0)
    insert(store, copy(1, 3), 5.0)
    store.tick(305.0)
    assert (store.has_gaps, store.abandoned) == (True, 0)
    store.tick(305.1)
    assert (store.has_gaps, store.abandoned) == (False, 1)


def test_the_gaps_of_a_closed_stream_are_abandoned_at_the_next_tick() -> None:
    store = store_with()
    insert(store, copy(1, 1), 0.0)
    insert(store, in_epoch(copy(1, 1), EPOCH + 1), 1.0)
    insert(store, copy(1, 4), 250.0)
    store.tick(300.0)
    assert store.has_gaps
    store.tick(301.0)
    assert (store.has_gaps, store.abandoned) == (False, 2)


def test_a_vector_names_streams_that_are_young_from_the_lowest_cached_to_the_highest_seen() -> None:
    store = store_with()
    insert(store, copy(1, 3, age_ms=10_000), 0.0)
    insert(store, copy(1, 5), 100.0)
    store.digest(100.0 + DIGEST_SETTLE_S)
    assert store.vector(110.0) == [StreamRange(STREAM, 3, 5)]
    store.tick(300.0)
    assert store.vector(300.0) == [StreamRange(STREAM, 5, 5)]
    store.cache.remove_stream(STREAM)
    assert store.vector(300.0) == [StreamRange(STREAM, 6, 5)]
    assert store.vector(399.9) == [StreamRange(STREAM, 6, 5)]
    assert store.vector(400.0) == []


def test_a_vector_leaves_out_closed_streams() -> None:
    store = store_with()
    insert(store, copy(1, 1), 0.0)
    insert(store, in_epoch(copy(1, 1), EPOCH + 1), 1.0)
    insert(store, copy(1, 2), 200.0)
    assert {entry.stream.epoch for entry in store.vector(300.0)} == {EPOCH, EPOCH + 1}
    assert {entry.stream.epoch for entry in store.vector(301.0 - 0.5)} == {EPOCH, EPOCH + 1}
    assert {entry.stream.epoch for entry in store.vector(301.0)} <= {EPOCH + 1}


def test_missing_ranges_start_at_1_and_are_those_that_were_not_seen() -> None:
    store = store_with()
    assert store.missing(StreamRange(STREAM, 0, 2), 0.0) == [StreamRange(STREAM, 1, 2)]
    assert store.missing(StreamRange(STREAM, 1, 1), 0.0) == [StreamRange(STREAM, 1, 1)]
    assert store.missing(StreamRange(STREAM, 2, 1), 0.0) == []
    assert store.missing(StreamRange(STREAM, 0, 0), 0.0) == []
    for first in (1, 3, 5):
        insert(store, copy(1, first), 0.0)
    theirs = StreamRange(STREAM, 1, 7)
    whole = [StreamRange(STREAM, n, m) for n, m in ((2, 2), (4, 4), (6, 7))]
    assert store.missing(theirs, 0.0) == whole
    assert store.missing(theirs, 0.0, 2) == whole[:2]
    assert store.lacks(theirs, 0.0)
    assert not store.lacks(StreamRange(STREAM, 3, 3), 0.0)


def test_freshening_makes_a_stream_younger_but_not_younger_than_its_arrival() -> None:
    store = store_with()
    insert(store, copy(1, 1), 0.0)
    insert(store, copy(1, 2, age_ms=50_000), 100.0)
    assert only_stream(store).idle_s == -50.0
    rumor = copy(1, 2).rumor
    version = store.version
    store.freshen(rumor, 40.0, 101.0)
    assert (only_stream(store).idle_s, store.version) == (-50.0, version)
    store.freshen(rumor, 50.0, 101.0)
    assert store.version == version
    store.freshen(rumor, 70.0, 101.0)
    assert (only_stream(store).idle_s, store.version) == (-70.0, version + 1)
    store.freshen(rumor, 101.0, 101.0)
    assert only_stream(store).idle_s == -100.0
    store.freshen(copy(2, 1).rumor, 101.0, 101.0)
    assert store.streams == 1


def test_an_older_copy_does_not_make_a_stream_older() -> None:
    store = store_with()
    insert(store, copy(1, 1), 0.0)
    insert(store, copy(1, 3, age_ms=1_000), 100.0)
    insert(store, copy(1, 2, age_ms=60_000), 101.0)
    assert only_stream(store).idle_s == -99.0


def test_a_stream_and_an_evicted_origin_are_forgotten_24_hours_after_their_last_message() -> None:
    assert FORGET_STREAM_S == 24 * 3600.0
    store = store_with(LimitsConfig(origins=1, new_origins_per_link=1))
    insert(store, copy(1, 1), 0.0)
    insert(store, copy(2, 1), 100.0)
    assert len(store.snapshot(100.0)) == 2
    store.tick(FORGET_STREAM_S)
    assert len(store.snapshot(0.0)) == 2
    store.tick(FORGET_STREAM_S + 599.0)
    assert len(store.snapshot(0.0)) == 2, "streams are swept every ten minutes"
    store.tick(FORGET_STREAM_S + 600.0)
    assert store.snapshot(0.0) == ()
    assert store.admission_error(copy(3, 1).rumor.stream, SOURCE, False, 0.0) is None


def test_a_stream_of_24_hours_ago_is_kept_until_the_next_sweep() -> None:
    store = store_with()
    insert(store, copy(1, 1), 0.0)
    store.tick(24 * 3600.0)
    assert store.streams == 1
    store.tick(24 * 3600.0 + 600.0)
    assert store.streams == 0


def test_a_sweep_keeps_the_stream_of_an_origin_that_is_young() -> None:
    store = store_with()
    insert(store, copy(1, 1), 0.0)
    insert(store, in_epoch(copy(1, 1), EPOCH + 1), 700.0)
    store.tick(FORGET_STREAM_S + 650.0)
    assert [each.epoch for each in store.snapshot(0.0)] == [EPOCH + 1]
    assert store.abandoned == 0


def test_abandoned_sequences_of_removed_streams_stay_counted() -> None:
    store = store_with()
    insert(store, copy(1, 1), 0.0)
    insert(store, copy(1, 4), 0.0)
    for epoch in (EPOCH + 1, EPOCH + 2):
        insert(store, in_epoch(copy(1, 1), epoch), 0.0)
    assert store.abandoned == 2
    insert(store, in_epoch(copy(1, 5), EPOCH + 2), 0.0)
    store.tick(301.0)
    assert store.abandoned == 5


def test_of_an_evicted_origin_only_what_is_above_its_high_mark_is_new() -> None:
    store = store_with(LimitsConfig(origins=1, new_origins_per_link=1))
    insert(store, copy(1, 3), 0.0)
    insert(store, copy(2, 1), 0.0)
    assert store.is_duplicate(copy(1, 3).rumor, 0.0)
    assert not store.is_duplicate(copy(1, 4).rumor, 0.0)
    assert not store.is_duplicate(in_epoch(copy(1, 3), EPOCH + 1).rumor, 0.0)
    assert store.missing(StreamRange(STREAM, 1, 3), 0.0) == []
    assert store.missing(StreamRange(STREAM, 2, 5), 0.0) == [StreamRange(STREAM, 4, 5)]
    older, newer = Stream(peer_id(1), EPOCH - 1), Stream(peer_id(1), EPOCH + 1)
    assert store.admission_error(older, SOURCE, False, 0.0) is DropReason.STALE_EPOCH
    assert store.admission_error(STREAM, SOURCE, False, 0.0) is None
    assert store.missing(StreamRange(newer, 2, 5), 0.0) == [StreamRange(newer, 2, 5)]


def test_a_restored_stream_has_its_age_and_its_gaps() -> None:
    saved = (
        SavedStream(peer_id(1), EPOCH, 5, ((2, 3),), 100.0),
        SavedStream(peer_id(2), EPOCH, 5, (), -7.0),
    )
    store = MessageStore(context(), saved, 1000.0)
    assert [each.idle_s for each in store.snapshot(1000.0)] == [100.0, 0.0]
    assert store.has_gaps
    assert store.newest_gap_at == 1000.0
    assert store.gaps(1000.0, 0.0, 5) == [StreamRange(STREAM, 2, 3)]
    older = Stream(peer_id(1), EPOCH - 1)
    assert store.admission_error(older, SOURCE, False, 1000.0) is DropReason.STALE_EPOCH
    assert store.version == 2


def test_messages_the_application_did_not_handle_are_saved_as_not_seen() -> None:
    store = store_with()
    for first in (1, 2, 3):
        insert(store, copy(1, first), 0.0)
    insert(store, copy(2, 1), 0.0)
    one, other = store.snapshot(4.0, [MessageId(peer_id(1), EPOCH, 2)])
    assert (one.high, one.gaps, one.idle_s) == (3, ((2, 2),), 4.0)
    assert (other.high, other.gaps) == (1, ())


def test_work_and_version_grow_with_each_rumor() -> None:
    node = context()
    store = MessageStore(node, (), 0.0)
    insert(store, copy(1, 1, size=7), 0.0)
    assert (node.work.units, store.version) == (0, 1)
    insert(store, copy(1, 2, size=4096), 0.0)
    size_bytes = copy(1, 2, size=4096).rumor.size_bytes
    assert node.work.units == work.KIBIBYTE * (size_bytes >> 10)
    assert store.version == 2


def test_the_current_run_of_a_member_does_not_close() -> None:
    store = store_with_member(EPOCH, 0.0)
    insert(store, copy(1, 1), 0.0)
    insert(store, copy(1, 4), 0.0)
    assert not store.is_duplicate(copy(1, 2).rumor, 1000.0)


def test_an_evicted_origin_leaves_no_bodies_and_no_gaps() -> None:
    store = store_with(LimitsConfig(origins=1, new_origins_per_link=1))
    insert(store, copy(1, 1), 0.0)
    insert(store, copy(1, 3), 0.0)
    insert(store, copy(2, 1), 0.0)
    assert len(store.cache) == 1
    assert not store.has_gaps
    assert store.abandoned == 1


def test_the_oldest_evicted_origin_is_forgotten_beyond_the_limit() -> None:
    store = store_with(LimitsConfig(origins=1, new_origins_per_link=1))
    for number in (1, 2, 3):
        insert(store, copy(number, 1), 0.0)
    assert [store.is_duplicate(copy(number, 1).rumor, 0.0) for number in (1, 2)] == [False, True]


def test_of_an_evicted_origin_the_newest_stream_is_remembered() -> None:
    store = store_with(LimitsConfig(origins=1, new_origins_per_link=1))
    insert(store, copy(1, 5), 0.0)
    insert(store, in_epoch(copy(1, 2), EPOCH + 1), 0.0)
    insert(store, copy(2, 1), 0.0)
    assert store.is_duplicate(in_epoch(copy(1, 2), EPOCH + 1).rumor, 0.0)
    assert not store.is_duplicate(in_epoch(copy(1, 3), EPOCH + 1).rumor, 0.0)
    assert store.admission_error(STREAM, SOURCE, False, 0.0) is DropReason.STALE_EPOCH


def test_an_origin_restored_as_evicted_has_its_age() -> None:
    idle_s = FORGET_STREAM_S - 1000.0
    saved = [SavedStream(peer_id(n), EPOCH, 3, (), idle_s) for n in (1, 2)]
    small = context(limits=LimitsConfig(origins=1))
    restored = MessageStore(small, saved, 5000.0)
    assert restored.is_duplicate(copy(2, 3).rumor, 5000.0)
    restored.tick(5000.0 + 1200.0)
    assert not restored.is_duplicate(copy(2, 3).rumor, 6200.0)


def test_an_origin_restored_as_evicted_is_no_younger_than_it_was_and_not_from_the_future() -> None:
    saved = [SavedStream(peer_id(n), EPOCH, 3, (), idle_s) for n, idle_s in ((1, 9.0), (2, -7.0))]
    kept = [SavedStream(peer_id(n), EPOCH, 3, (), 0.0) for n in (3, 4)]
    restored = MessageStore(context(limits=LimitsConfig(origins=2)), [*kept, *saved], 50.0)
    assert [each.idle_s for each in restored.snapshot(50.0)[2:]] == [9.0, 0.0]


def test_what_was_published_before_a_late_start_is_no_loss_either() -> None:
    store = store_with(now=1000.0)
    insert(store, copy(1, 10), 1299.0)
    store.tick(1299.0 + 300.5)
    assert store.abandoned == 0


def test_an_inserted_rumor_counts_as_checked_unless_the_caller_says_otherwise() -> None:
    store = store_with()
    for first, is_verified in ((1, True), (2, False)):
        store.insert(copy(1, first), SOURCE, False, 0.0, is_verified=is_verified)
    store.insert(copy(1, 3), SOURCE, False, 0.0)
    cached = [store.cache.copy((peer_id(1), EPOCH, first), 0.0) is not None for first in (1, 2, 3)]
    assert cached == [True, False, True]


def test_in_a_crowded_table_a_source_brings_its_share_and_then_evicts_its_own() -> None:
    store = store_with(LimitsConfig(origins=16, new_origins_per_link=3))
    for number in range(12):
        insert_from(store, number, source_number=900 + number)
    for number in range(20, 23):
        insert_from(store, number, source_number=998)
    assert (store.streams, store.origins_evicted) == (15, 0)
    insert_from(store, 23, source_number=998)
    assert (store.streams, store.origins_evicted) == (15, 1)
    assert not has_origin(store, 20)
    insert_from(store, 30, source_number=997)
    assert (store.streams, store.origins_evicted) == (16, 1)


def test_a_table_is_crowded_from_three_quarters_on() -> None:
    for crowd, evicted in ((11, 0), (12, 1)):
        store = store_with(LimitsConfig(origins=16, new_origins_per_link=3))
        for number in range(3):
            insert_from(store, number, source_number=998)
        for number in range(3, crowd):
            insert_from(store, number, source_number=900 + number)
        insert_from(store, 50, source_number=998)
        assert store.origins_evicted == evicted


def test_a_source_whose_origins_have_become_members_may_bring_more_while_there_is_room() -> None:
    node = context(limits=LimitsConfig(origins=16, new_origins_per_link=3))
    store = MessageStore(node, (), 0.0)
    for number in range(12):
        insert_from(store, number, source_number=998)
    for number in range(12):
        node.members.ensure(record(number), 0.0)
    for number in range(20, 24):
        insert_from(store, number, source_number=998)
    assert (store.streams, store.origins_evicted) == (15, 1)
    assert not has_origin(store, 20)


def test_an_origin_is_rejected_and_counted_if_all_that_looked_evictable_are_members() -> None:
    node = context(limits=LimitsConfig(origins=2))
    store = MessageStore(node, (), 0.0)
    for number in (1, 2):
        insert_from(store, number, source_number=900 + number)
    for number in (1, 2):
        node.members.ensure(record(number), 0.0)
    each = copy(3, 1)
    assert store.admission_error(each.rumor.stream, SOURCE, False, 0.0) is None
    assert store.insert(each, SOURCE, False, 0.0, via=Via.EAGER) == []
    assert (store.streams, store.origins_rejected, store.origins_evicted) == (2, 1, 0)
    assert not store.is_duplicate(each.rumor, 0.0)
    assert store.admission_error(each.rumor.stream, SOURCE, False, 0.0) is DropReason.TABLE_FULL
    assert len(store.insert(each, SOURCE, True, 0.0, via=Via.EAGER)) == 1, "it is linked"


def test_a_message_of_our_own_is_seen_and_not_returned() -> None:
    store = store_with()
    assert store.insert(copy(1, 1), SOURCE, False, 0.0) == []
    assert store.is_duplicate(copy(1, 1).rumor, 0.0)
    assert len(store.cache) == 1


def test_twice_as_many_streams_as_origins_are_saved_one_by_one() -> None:
    for count, is_listed in ((4, True), (5, False)):
        store = store_with(LimitsConfig(origins=2))
        store.take_unsaved()
        for number in range(count):
            insert(store, copy(number, 1), 0.0, linked=True)
        assert (store.take_unsaved() is not None) is is_listed
