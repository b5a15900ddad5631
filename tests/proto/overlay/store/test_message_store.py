"""The store: each payload once, bodies within their budget, a digest that is always right."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from grapevine_proto import work
from grapevine_proto.config.sections import LimitsConfig
from grapevine_proto.errors import DropReason
from grapevine_proto.ids import MessageId, PeerId, Stream, StreamRange
from grapevine_proto.overlay.store.message_store import (
    FORGET_STREAM_S,
    MemberRun,
    MessageStore,
    SavedStream,
)
from grapevine_proto.overlay.store.stream_digest import DIGEST_SETTLE_S
from grapevine_proto.overlay.store.verification import Verifier
from grapevine_proto.wire.messages import RumorCopy
from grapevine_proto.wire.signed import Rumor
from tests.proto.overlay.builders import EPOCH, config, copy, peer_id

TELLER = peer_id(999)


def store_with(limits: LimitsConfig | None = None, *, now: float = 0.0) -> MessageStore:
    settings = config(limits=limits or LimitsConfig())
    return MessageStore(settings, Verifier(settings), (), now)


def take(store: MessageStore, each: RumorCopy, now: float, *, linked: bool = False) -> list[int]:
    """The sequences that were new."""
    fresh = store.insert(each, TELLER, linked, now)
    return [message_id.sequence for message_id, _ in fresh]


def in_epoch(each: RumorCopy, epoch: int) -> RumorCopy:
    return replace(each, rumor=replace(each.rumor, epoch=epoch))


# --- once ---------------------------------------------------------------------------------------


def test_a_payload_is_given_once() -> None:
    store = store_with()
    assert take(store, copy(1, 1), 0.0) == [1]
    assert store.is_duplicate(copy(1, 1).rumor, 0.0)
    assert take(store, copy(1, 1), 0.0) == []


def test_rumors_that_overlap_give_only_what_is_new() -> None:
    store = store_with()
    origin = peer_id(1)
    two = Rumor(origin, EPOCH, 2, (1, 1), b"bc")
    three = Rumor(origin, EPOCH, 1, (1, 1, 1), b"abc")
    assert take(store, RumorCopy(two, 1, 0), 0.0) == [2, 3]
    assert take(store, RumorCopy(three, 1, 0), 0.0) == [1]


def test_marks_that_were_saved_keep_a_restarted_node_from_hearing_twice() -> None:
    store = store_with()
    for first in (1, 2, 5):
        take(store, copy(1, first), 0.0)
    again = MessageStore(config(), Verifier(config()), store.snapshot(1.0), 500.0)
    assert again.is_duplicate(copy(1, 5).rumor, 500.0)
    assert not again.is_duplicate(copy(1, 3).rumor, 500.0)
    assert again.missing(StreamRange(copy(1, 1).rumor.stream, 1, 6), 500.0) == [
        StreamRange(copy(1, 1).rumor.stream, 3, 4),
        StreamRange(copy(1, 1).rumor.stream, 6, 6),
    ]
    assert again.snapshot(500.0)[0].idle_s == 1.0


# --- epochs -------------------------------------------------------------------------------------


def test_the_stream_before_stays_repairable_and_then_closes() -> None:
    store = store_with()
    take(store, copy(1, 1), 0.0)
    take(store, copy(1, 4), 0.0)
    take(store, in_epoch(copy(1, 1), EPOCH + 1), 10.0)
    assert not store.is_duplicate(copy(1, 2).rumor, 309.0)
    assert store.is_duplicate(copy(1, 2).rumor, 310.0)
    assert store.missing(StreamRange(copy(1, 1).rumor.stream, 1, 4), 310.0) == []


def test_an_epoch_before_the_last_two_is_refused() -> None:
    store = store_with()
    for epoch in (EPOCH, EPOCH + 2):
        take(store, in_epoch(copy(1, 1), epoch), 0.0)
    for epoch in (EPOCH - 1, EPOCH + 1):
        stream = Stream(peer_id(1), epoch)
        assert store.admission_error(stream, TELLER, False, 0.0) is DropReason.STALE_EPOCH
    assert store.admission_error(Stream(peer_id(1), EPOCH + 3), TELLER, False, 0.0) is None


def test_a_lower_epoch_is_taken_only_shortly_after_the_first_word_of_a_higher() -> None:
    store = store_with()
    take(store, copy(1, 1), 0.0)
    older = Stream(peer_id(1), EPOCH - 1)
    assert store.admission_error(older, TELLER, False, 299.0) is None
    assert store.admission_error(older, TELLER, False, 300.0) is DropReason.STALE_EPOCH
    assert store.missing(StreamRange(older, 1, 3), 300.0) == []


def test_a_third_epoch_lets_the_first_go() -> None:
    store = store_with()
    for epoch in (EPOCH, EPOCH + 1, EPOCH + 2):
        take(store, in_epoch(copy(1, 1), epoch), 0.0)
    assert store.streams == 2
    assert len(store.cache) == 2


# --- ceilings -----------------------------------------------------------------------------------


def test_while_there_is_room_one_teller_brings_all_origins_as_along_a_tree() -> None:
    store = store_with(LimitsConfig(origins=16, new_origins_per_link=3))
    for number in range(12):
        assert store.admission_error(copy(number, 1).rumor.stream, TELLER, False, 0.0) is None
        take(store, copy(number, 1), 0.0)


def bring(store: MessageStore, number: int, by: int, now: float = 0.0) -> None:
    """Peer `by` brings the first word of origin `number`, where nothing is against it."""
    each = copy(number, 1)
    if store.admission_error(each.rumor.stream, peer_id(by), False, now) is None:
        store.insert(each, peer_id(by), False, now)


def is_there(store: MessageStore, number: int) -> bool:
    return store._find(peer_id(number), EPOCH) is not None


def test_in_a_crowded_table_who_brought_more_than_its_share_evicts_its_own() -> None:
    store = store_with(LimitsConfig(origins=16, new_origins_per_link=3))
    for number in range(100):
        bring(store, number, by=998)
    assert store.streams == 12
    assert is_there(store, 99)
    assert not is_there(store, 0)
    assert store.origins_evicted == 88


def test_one_unknown_origin_beyond_the_cap_evicts_one_of_who_brought_most() -> None:
    store = store_with(LimitsConfig(origins=16, new_origins_per_link=3))
    for number in range(12):
        bring(store, number, by=998)
    for number in range(12, 18):
        bring(store, number, by=980 + number)
    assert store.streams == 16
    assert all(is_there(store, number) for number in range(12, 18))
    assert not is_there(store, 0)
    assert not is_there(store, 1)


def test_known_members_are_evicted_by_nobody() -> None:
    known = {peer_id(number) for number in range(10)}
    settings = config(limits=LimitsConfig(origins=16, new_origins_per_link=3))
    store = MessageStore(
        settings,
        Verifier(settings),
        (),
        0.0,
        run_of=lambda peer: MemberRun(EPOCH, 0.0) if peer in known else None,
    )
    for number in range(200):
        bring(store, number, by=900 + number % 60)
    assert store.streams == 16
    assert all(is_there(store, number) for number in range(10))


def test_a_known_member_that_speaks_for_the_first_time_has_a_place_in_a_full_table() -> None:
    known: set[PeerId] = set()
    settings = config(limits=LimitsConfig(origins=4))
    store = MessageStore(
        settings,
        Verifier(settings),
        (),
        0.0,
        run_of=lambda peer: MemberRun(EPOCH, 0.0) if peer in known else None,
    )
    for number in range(4):
        bring(store, number, by=900 + number)
    known |= {peer_id(n) for n in range(50, 54)}
    for number in range(50, 54):
        bring(store, number, by=998)
        assert is_there(store, number)
    bring(store, 60, by=998)
    assert not is_there(store, 60), "nobody unknown is left to evict"
    assert store.streams == 4
    known.clear()
    bring(store, 61, by=998)
    assert is_there(store, 61), "who is no longer a member gives way"


def test_what_an_evicted_origin_said_is_not_delivered_again() -> None:
    store = store_with(LimitsConfig(origins=2, new_origins_per_link=1))
    take(store, copy(1, 1), 0.0)
    take(store, copy(1, 2), 0.0)
    for number in (2, 3):
        bring(store, number, by=900 + number)
    assert not is_there(store, 1)
    assert store.is_duplicate(copy(1, 2).rumor, 0.0)
    assert store.missing(StreamRange(copy(1, 1).rumor.stream, 1, 3), 0.0) == [
        StreamRange(copy(1, 1).rumor.stream, 3, 3)
    ]
    again = MessageStore(config(), Verifier(config()), store.snapshot(1.0), 500.0)
    assert again.is_duplicate(copy(1, 2).rumor, 500.0)
    assert take(store, copy(1, 3), 1.0) == [3], "it may go on"
    assert store.is_duplicate(copy(1, 1).rumor, 1.0)


def test_of_saved_streams_no_more_are_restored_than_have_a_place_and_the_rest_as_marks() -> None:
    store = store_with()
    for number in range(10):
        take(store, copy(number, 1), 0.0)
    small = config(limits=LimitsConfig(origins=4))
    again = MessageStore(small, Verifier(small), store.snapshot(1.0), 0.0)
    assert again.streams == 4
    assert len(again._evicted) == 4, "one more than the cap evicts the oldest of them too"


def test_saved_streams_keep_nobody_out() -> None:
    settings = config(limits=LimitsConfig(origins=16, new_origins_per_link=3))
    store = MessageStore(settings, Verifier(settings), (), 0.0)
    for number in range(16):
        bring(store, number, by=900 + number)
    again = MessageStore(settings, Verifier(settings), store.snapshot(1.0), 0.0)
    for number in range(50, 60):
        bring(again, number, by=998)
        assert is_there(again, number)


def test_whoever_is_linked_always_has_a_place() -> None:
    settings = config(limits=LimitsConfig(origins=2))
    store = MessageStore(
        settings, Verifier(settings), (), 0.0, run_of=lambda _: MemberRun(EPOCH, 0.0)
    )
    for number in range(4):
        take(store, copy(number, 1), 0.0, linked=True)
    assert store.streams == 4
    assert (
        store.admission_error(copy(5, 1).rumor.stream, TELLER, False, 0.0) is DropReason.TABLE_FULL
    )


# --- runs that are over -------------------------------------------------------------------------


def store_that_knows(run: MemberRun) -> MessageStore:
    settings = config()
    return MessageStore(settings, Verifier(settings), (), 0.0, run_of=lambda _: run)


def test_of_a_run_before_the_members_record_nothing_is_taken() -> None:
    store = store_that_knows(MemberRun(EPOCH + 10, 0.0))
    older = copy(1, 1).rumor.stream
    assert store.admission_error(older, TELLER, False, 1.0) is DropReason.STALE_EPOCH
    assert store.missing(StreamRange(older, 1, 5), 1.0) == []
    assert store.admission_error(Stream(peer_id(1), EPOCH + 10), TELLER, False, 1.0) is None


def test_the_run_that_was_known_before_a_restart_is_waited_for_until_nothing_of_it_is_young() -> (
    None
):
    store = store_that_knows(MemberRun(EPOCH + 10, 5.0, earlier_epoch=EPOCH))
    older = copy(1, 1).rumor.stream
    assert store.admission_error(older, TELLER, False, 304.0) is None
    assert store.admission_error(older, TELLER, False, 305.0) is DropReason.STALE_EPOCH
    other = Stream(peer_id(1), EPOCH - 1)
    assert store.admission_error(other, TELLER, False, 6.0) is DropReason.STALE_EPOCH


def test_a_stream_that_was_heard_closes_when_the_record_of_a_newer_run_has_stood() -> None:
    store = store_that_knows(MemberRun(EPOCH + 10, 5.0))
    take(store, copy(1, 1), 0.0)
    take(store, copy(1, 4), 0.0)
    assert not store.is_duplicate(copy(1, 2).rumor, 304.0)
    assert store.is_duplicate(copy(1, 2).rumor, 305.0)


# --- age ----------------------------------------------------------------------------------------


def test_a_message_is_held_for_its_time_of_life_and_known_for_longer() -> None:
    store = store_with()
    take(store, copy(1, 1, age_ms=100_000), 0.0)
    store.tick(199.0)
    assert len(store.cache) == 1
    store.tick(200.0)
    assert len(store.cache) == 0
    assert store.is_duplicate(copy(1, 1).rumor, 200.0)


def test_a_hole_is_given_up_after_its_time() -> None:
    store = store_with(now=-1000.0)
    take(store, copy(1, 1), 0.0)
    take(store, copy(1, 3), 0.0)
    assert store.gaps(1.0, 1.0, 10) == [StreamRange(copy(1, 1).rumor.stream, 2, 2)]
    store.tick(300.5)
    assert store.abandoned == 1
    assert not store.has_gaps
    assert store.is_duplicate(copy(1, 2).rumor, 301.0)


def test_a_day_of_silence_forgets_a_stream() -> None:
    store = store_with()
    take(store, copy(1, 1), 0.0)
    store.tick(FORGET_STREAM_S - 1)
    assert store.streams == 1
    store.tick(FORGET_STREAM_S + 601)
    assert store.streams == 0


# --- repair and digest --------------------------------------------------------------------------


def test_two_stores_that_saw_the_same_have_the_same_digest_whatever_the_order() -> None:
    one, other = store_with(), store_with(now=7.0)
    for first in (1, 2, 3):
        for number in (1, 2):
            take(one, copy(number, first), 0.0)
    for number in (2, 1):
        for first in (3, 1, 2):
            take(other, copy(number, first), 7.0)
    assert one.digest(DIGEST_SETTLE_S) == other.digest(7.0 + DIGEST_SETTLE_S)
    assert one.digest(DIGEST_SETTLE_S)[0] == 2


@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 6), st.floats(0.0, 200.0)), max_size=60)
)
def test_the_digest_kept_up_to_date_is_the_digest_made_anew(
    steps: list[tuple[int, int, float]],
) -> None:
    store = store_with()
    now = 0.0
    for number, first, pause_s in steps:
        now += pause_s
        take(store, copy(number, first), now)
        store.digest(now)
    now += DIGEST_SETTLE_S
    anew = store_with(now=now)
    for entry in store.vector(now):
        for first in range(1, entry.last + 1):
            each = Rumor(entry.stream.origin, entry.stream.epoch, first, (1,), b"x")
            take(anew, RumorCopy(each, 1, 0), now)
    assert store.digest(now) == anew.digest(now + DIGEST_SETTLE_S)


def test_what_a_peer_says_of_streams_marks_nothing() -> None:
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
        take(store, copy(1, first), now)
    assert store.newest_gap_at == 3.0
    assert [each.first for each in store.gaps(3.0, 1.0, 10)] == [2, 4]
    assert [each.first for each in store.gaps(3.0, 0.0, 2)] == [2, 4]
    assert [each.first for each in store.gaps(3.0, 0.0, 1)] == [2]
    assert [(each.first, each.last) for each in store.gaps(9.0, 1.0, 10)] == [
        (2, 2), (4, 4), (6, 6),
    ]  # fmt: skip


def test_what_an_origin_published_before_our_start_is_no_loss_and_what_came_after_is() -> None:
    store = store_with(now=0.0)
    take(store, copy(1, 10), 299.0)
    take(store, copy(2, 10), 300.0)
    store.tick(299.0 + 300.5)
    assert store.abandoned == 0
    store.tick(300.0 + 300.5)
    assert store.abandoned == 9


def test_gaps_are_abandoned_once_they_are_older_than_the_time_to_live() -> None:
    store = store_with()
    take(store, copy(1, 1), 0.0)
    take(store, copy(1, 3), 5.0)
    store.tick(305.0)
    assert (store.has_gaps, store.abandoned) == (True, 0)
    store.tick(305.1)
    assert (store.has_gaps, store.abandoned) == (False, 1)


def test_the_gaps_of_a_closed_stream_are_abandoned_at_the_next_tick() -> None:
    store = store_with()
    take(store, copy(1, 1), 0.0)
    take(store, in_epoch(copy(1, 1), EPOCH + 1), 1.0)
    take(store, copy(1, 4), 250.0)
    store.tick(300.0)
    assert store.has_gaps
    store.tick(301.0)
    assert (store.has_gaps, store.abandoned) == (False, 2)


def test_a_vector_names_streams_that_are_young_from_the_lowest_cached_to_the_highest_seen() -> None:
    store = store_with()
    take(store, copy(1, 3, age_ms=10_000), 0.0)
    take(store, copy(1, 5), 100.0)
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
    take(store, copy(1, 1), 0.0)
    take(store, in_epoch(copy(1, 1), EPOCH + 1), 1.0)
    take(store, copy(1, 2), 200.0)
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
        take(store, copy(1, first), 0.0)
    theirs = StreamRange(STREAM, 1, 7)
    whole = [StreamRange(STREAM, n, m) for n, m in ((2, 2), (4, 4), (6, 7))]
    assert store.missing(theirs, 0.0) == whole
    assert store.missing(theirs, 0.0, 2) == whole[:2]
    assert store.lacks(theirs, 0.0)
    assert not store.lacks(StreamRange(STREAM, 3, 3), 0.0)


def test_freshening_makes_a_stream_younger_but_not_younger_than_its_arrival() -> None:
    store = store_with()
    take(store, copy(1, 1), 0.0)
    take(store, copy(1, 2, age_ms=50_000), 100.0)
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
    take(store, copy(1, 1), 0.0)
    take(store, copy(1, 3, age_ms=1_000), 100.0)
    take(store, copy(1, 2, age_ms=60_000), 101.0)
    assert only_stream(store).idle_s == -99.0


def test_a_stream_and_an_evicted_origin_are_forgotten_24_hours_after_their_last_message() -> None:
    assert FORGET_STREAM_S == 24 * 3600.0
    store = store_with(LimitsConfig(origins=1, new_origins_per_link=1))
    take(store, copy(1, 1), 0.0)
    take(store, copy(2, 1), 100.0)
    assert len(store.snapshot(100.0)) == 2
    store.tick(FORGET_STREAM_S)
    assert len(store.snapshot(0.0)) == 2
    store.tick(FORGET_STREAM_S + 599.0)
    assert len(store.snapshot(0.0)) == 2, "streams are swept every ten minutes"
    store.tick(FORGET_STREAM_S + 600.0)
    assert store.snapshot(0.0) == ()
    assert store.admission_error(copy(3, 1).rumor.stream, TELLER, False, 0.0) is None


def test_a_sweep_keeps_the_stream_of_an_origin_that_is_young() -> None:
    store = store_with()
    take(store, copy(1, 1), 0.0)
    take(store, in_epoch(copy(1, 1), EPOCH + 1), 700.0)
    store.tick(FORGET_STREAM_S + 650.0)
    assert [each.epoch for each in store.snapshot(0.0)] == [EPOCH + 1]
    assert store.abandoned == 0


def test_abandoned_sequences_of_removed_streams_stay_counted() -> None:
    store = store_with()
    take(store, copy(1, 1), 0.0)
    take(store, copy(1, 4), 0.0)
    for epoch in (EPOCH + 1, EPOCH + 2):
        take(store, in_epoch(copy(1, 1), epoch), 0.0)
    assert store.abandoned == 2
    take(store, in_epoch(copy(1, 5), EPOCH + 2), 0.0)
    store.tick(301.0)
    assert store.abandoned == 5


def test_of_an_evicted_origin_only_what_is_above_its_high_mark_is_new() -> None:
    store = store_with(LimitsConfig(origins=1, new_origins_per_link=1))
    take(store, copy(1, 3), 0.0)
    take(store, copy(2, 1), 0.0)
    assert store.is_duplicate(copy(1, 3).rumor, 0.0)
    assert not store.is_duplicate(copy(1, 4).rumor, 0.0)
    assert not store.is_duplicate(in_epoch(copy(1, 3), EPOCH + 1).rumor, 0.0)
    assert store.missing(StreamRange(STREAM, 1, 3), 0.0) == []
    assert store.missing(StreamRange(STREAM, 2, 5), 0.0) == [StreamRange(STREAM, 4, 5)]
    older, newer = Stream(peer_id(1), EPOCH - 1), Stream(peer_id(1), EPOCH + 1)
    assert store.admission_error(older, TELLER, False, 0.0) is DropReason.STALE_EPOCH
    assert store.admission_error(STREAM, TELLER, False, 0.0) is None
    assert store.missing(StreamRange(newer, 2, 5), 0.0) == [StreamRange(newer, 2, 5)]


def test_a_restored_stream_has_its_age_and_its_gaps() -> None:
    saved = (
        SavedStream(peer_id(1), EPOCH, 5, ((2, 3),), 100.0),
        SavedStream(peer_id(2), EPOCH, 5, (), -7.0),
    )
    store = MessageStore(config(), Verifier(config()), saved, 1000.0)
    assert [each.idle_s for each in store.snapshot(1000.0)] == [100.0, 0.0]
    assert store.has_gaps
    assert store.newest_gap_at == 1000.0
    assert store.gaps(1000.0, 0.0, 5) == [StreamRange(STREAM, 2, 3)]
    older = Stream(peer_id(1), EPOCH - 1)
    assert store.admission_error(older, TELLER, False, 1000.0) is DropReason.STALE_EPOCH
    assert store.version == 2


def test_messages_the_application_did_not_handle_are_saved_as_not_seen() -> None:
    store = store_with()
    for first in (1, 2, 3):
        take(store, copy(1, first), 0.0)
    take(store, copy(2, 1), 0.0)
    one, other = store.snapshot(4.0, [MessageId(peer_id(1), EPOCH, 2)])
    assert (one.high, one.gaps, one.idle_s) == (3, ((2, 2),), 4.0)
    assert (other.high, other.gaps) == (1, ())


def test_work_and_version_grow_with_each_rumor() -> None:
    store = store_with()
    before = store.work
    take(store, copy(1, 1, size=7), 0.0)
    assert (store.work, store.version) == (before, 1)
    take(store, copy(1, 2, size=4096), 0.0)
    size_bytes = copy(1, 2, size=4096).rumor.size_bytes
    assert store.work - before == work.KIBIBYTE * (size_bytes >> 10)
    assert store.version == 2
