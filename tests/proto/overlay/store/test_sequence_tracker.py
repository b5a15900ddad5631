"""The sequence tracker, compared with a set as the model."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from grapevine_proto.overlay.store.sequence_tracker import Gap, SequenceTracker


def tracker_with(*sequences: int, limit: int = 256) -> SequenceTracker:
    tracker = SequenceTracker(limit)
    for sequence in sequences:
        tracker.add(sequence, sequence, 0.0)
    return tracker


def test_a_stream_received_in_order_has_no_gaps() -> None:
    tracker = tracker_with(1, 2, 3)
    assert (tracker.high, tracker.gaps) == (3, [])


def test_skipped_sequences_become_a_gap_and_arrivals_fill_it() -> None:
    tracker = tracker_with(1, 5)
    assert [(gap.first, gap.last) for gap in tracker.gaps] == [(2, 4)]
    tracker.add(3, 3, 0.0)
    assert [(gap.first, gap.last) for gap in tracker.gaps] == [(2, 2), (4, 4)]
    tracker.add(2, 4, 0.0)
    assert tracker.gaps == []


def test_an_expired_gap_is_abandoned_and_counted() -> None:
    tracker = tracker_with(1)
    tracker.add(4, 4, now=10.0)
    tracker.abandon_before(10.0)
    assert not tracker.contains(2)
    tracker.abandon_before(10.1)
    assert tracker.contains(2)
    assert tracker.abandoned == 2


def test_messages_published_before_the_node_started_are_not_counted_as_lost() -> None:
    tracker = SequenceTracker(256)
    tracker.add(1000, 1000, 0.0, is_loss=False)
    tracker.abandon_before(1.0)
    assert tracker.contains(1)
    assert tracker.abandoned == 0


def test_a_gap_beyond_the_limit_abandons_the_lowest() -> None:
    tracker = tracker_with(2, 4, 6, limit=3)
    assert len(tracker.gaps) == 3
    tracker.add(8, 8, 0.0)
    assert len(tracker.gaps) == 3
    assert tracker.contains(1)
    assert tracker.abandoned == 1


def test_unhandled_messages_are_excluded_from_the_saved_state() -> None:
    tracker = tracker_with(1, 2, 3, 5, 6, 7)
    assert tracker.excluding(()) == (7, ((4, 4),))
    assert tracker.excluding([6, 7]) == (5, ((4, 4),))  # the end of a stream needs no gap
    assert tracker.excluding([5, 6, 7]) == (3, ())
    assert tracker.excluding([2]) == (7, ((2, 2), (4, 4)))
    assert tracker.excluding([1, 2, 3, 5, 6, 7]) == (0, ())
    assert (tracker.high, [gap[:2] for gap in tracker.gaps]) == (7, [(4, 4)])


@given(st.sets(st.integers(1, 40), min_size=1), st.data())
def test_state_restored_without_some_sequences_contains_all_others(
    received: set[int], data: st.DataObject
) -> None:
    tracker = tracker_with(*sorted(received))
    unhandled = data.draw(st.sets(st.sampled_from(sorted(received))))
    restored = SequenceTracker(256)
    high, gaps = tracker.excluding(sorted(unhandled))
    restored.restore(high, gaps, 0.0)
    known = {sequence for sequence in range(1, 50) if restored.contains(sequence)}
    assert known == received - unhandled


def test_excluded_sequences_beyond_the_gap_limit_count_as_seen() -> None:
    tracker = tracker_with(*range(1, 12), limit=3)
    assert tracker.excluding([1, 3, 5, 7, 9]) == (11, ((5, 5), (7, 7), (9, 9)))


def test_splitting_a_gap_never_exceeds_the_limit() -> None:
    tracker = tracker_with(100, limit=2)
    for sequence in (10, 20, 30, 40):
        tracker.add(sequence, sequence, 0.0)
    assert len(tracker.gaps) == 2
    assert tracker.contains(5)


def test_restored_gaps_are_kept_and_inconsistent_ones_count_as_seen() -> None:
    tracker = SequenceTracker(256)
    tracker.restore(10, ((2, 3), (3, 5), (7, 7), (9, 12)), 0.0)
    assert [(gap.first, gap.last) for gap in tracker.gaps] == [(2, 3), (7, 7)]
    assert tracker.missing(1, 12) == [(2, 3), (7, 7), (11, 12)]
    assert tracker.missing(13, 12) == [], "an empty cache gives first > last"


ranges = st.tuples(st.integers(1, 60), st.integers(0, 6)).map(lambda r: (r[0], r[0] + r[1]))


class SequenceTrackerMachine(RuleBasedStateMachine):
    """Any order of additions agrees with a set of numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.tracker = SequenceTracker(256)
        self.model: set[int] = set()

    @rule(added=ranges)
    def add(self, added: tuple[int, int]) -> None:
        self.tracker.add(*added, now=0.0)
        self.model.update(range(added[0], added[1] + 1))

    @rule(queried=ranges)
    def query(self, queried: tuple[int, int]) -> None:
        first, last = queried
        unknown = [n for n in range(first, last + 1) if n not in self.model]
        assert self.tracker.contains_all(first, last) == (not unknown)
        found = [n for a, b in self.tracker.missing(first, last) for n in range(a, b + 1)]
        assert found == unknown

    @invariant()
    def gaps_are_disjoint_and_below_the_highest_sequence(self) -> None:
        edges = [edge for gap in self.tracker.gaps for edge in (gap.first, gap.last)]
        assert edges == sorted(edges)
        assert all(edge < self.tracker.high for edge in edges)


TestSequenceTracker = SequenceTrackerMachine.TestCase


@given(st.lists(ranges, max_size=40), st.integers(1, 5))
def test_seen_sequences_stay_seen_under_any_gap_limit(
    ranges_added: list[tuple[int, int]], limit: int
) -> None:
    tracker = SequenceTracker(limit)
    known: set[int] = set()
    for first, last in ranges_added:
        tracker.add(first, last, 0.0)
        assert len(tracker.gaps) <= limit
        assert all(tracker.contains(sequence) for sequence in known)
        known.update(n for n in range(1, tracker.high + 1) if tracker.contains(n))
        assert set(range(first, last + 1)) <= known


def test_a_single_skipped_sequence_is_a_gap_and_none_is_not() -> None:
    tracker = SequenceTracker(256)
    tracker.add(1, 3, 5.0)
    tracker.add(4, 4, 6.0)
    assert tracker.gaps == []
    tracker.add(6, 6, 7.0)
    assert tracker.gaps == [Gap(5, 5, 7.0, True)]
    assert tracker.gaps[0].size == 1
    assert tracker.high == 6


def test_a_first_sequence_above_1_leaves_a_gap_from_1() -> None:
    tracker = SequenceTracker(256)
    assert (tracker.high, tracker.abandoned) == (0, 0)
    tracker.add(3, 3, 0.0)
    assert [(gap.first, gap.last) for gap in tracker.gaps] == [(1, 2)]


def test_the_edges_of_a_gap_are_missing_and_their_neighbors_are_not() -> None:
    tracker = SequenceTracker(256)
    tracker.add(1, 3, 0.0)
    tracker.add(7, 9, 0.0)
    assert [sequence for sequence in range(1, 12) if not tracker.contains(sequence)] == [
        4, 5, 6, 10, 11,
    ]  # fmt: skip
    assert tracker.contains_all(1, 3)
    assert tracker.contains_all(7, 9)
    assert not tracker.contains_all(3, 4)
    assert not tracker.contains_all(6, 7)
    assert not tracker.contains_all(9, 10)
    assert tracker.missing(3, 7) == [(4, 6)]
    assert tracker.missing(5, 5) == [(5, 5)]
    assert tracker.missing(6, 10) == [(6, 6), (10, 10)]
    assert tracker.missing(9, 9) == []


def test_no_more_missing_ranges_are_listed_than_asked_for() -> None:
    tracker = SequenceTracker(256)
    for sequence in (2, 4, 6):
        tracker.add(sequence, sequence, 0.0)
    assert tracker.missing(1, 9, 0) == []
    assert tracker.missing(1, 9, 2) == [(1, 1), (3, 3)]
    assert tracker.missing(1, 9, 3) == [(1, 1), (3, 3), (5, 5)]
    assert tracker.missing(1, 9, 4) == [(1, 1), (3, 3), (5, 5), (7, 9)]


def test_what_fills_part_of_a_gap_leaves_its_age_and_what_remains_on_both_sides() -> None:
    tracker = SequenceTracker(256)
    tracker.add(10, 10, 5.0)
    tracker.add(4, 6, 8.0)
    assert tracker.gaps == [Gap(1, 3, 5.0, True), Gap(7, 9, 5.0, True)]
    tracker.add(3, 7, 9.0)
    assert tracker.gaps == [Gap(1, 2, 5.0, True), Gap(8, 9, 5.0, True)]
    assert tracker.abandoned == 0


def test_a_rumor_across_the_high_mark_fills_the_gap_below_and_opens_none() -> None:
    tracker = SequenceTracker(256)
    tracker.add(5, 5, 0.0)
    tracker.add(4, 8, 1.0)
    assert tracker.high == 8
    assert [(gap.first, gap.last) for gap in tracker.gaps] == [(1, 3)]


def test_gaps_are_abandoned_by_age_from_the_oldest_and_each_sequence_counts_once() -> None:
    tracker = SequenceTracker(256)
    for sequence, now in ((3, 1.0), (6, 2.0), (9, 3.0)):
        tracker.add(sequence, sequence, now)
    tracker.abandon_before(1.0)
    assert tracker.abandoned == 0
    tracker.abandon_before(2.5)
    assert [(gap.first, gap.last) for gap in tracker.gaps] == [(7, 8)]
    assert tracker.abandoned == 4
    tracker.abandon_all()
    assert (tracker.gaps, tracker.abandoned) == ([], 6)
    tracker.abandon_all()
    assert tracker.abandoned == 6


def test_gaps_from_before_the_start_are_abandoned_without_being_counted() -> None:
    tracker = SequenceTracker(256)
    tracker.add(10, 10, 0.0, is_loss=False)
    tracker.add(5, 5, 0.0)
    assert [gap.is_loss for gap in tracker.gaps] == [False, False]
    tracker.add(13, 13, 0.0)
    tracker.abandon_all()
    assert tracker.abandoned == 2


def test_restored_gaps_keep_their_order_their_limit_and_the_time_of_the_restart() -> None:
    tracker = SequenceTracker(2)
    tracker.add(1, 1, 0.0)
    tracker.restore(20, ((1, 1), (3, 3), (19, 19)), 7.0)
    assert tracker.high == 20
    assert tracker.gaps == [Gap(1, 1, 7.0, True), Gap(3, 3, 7.0, True)]
    other = SequenceTracker(9)
    other.restore(20, ((0, 1), (19, 20), (5, 5), (5, 6), (8, 7), (19, 19)), 0.0)
    assert [(gap.first, gap.last) for gap in other.gaps] == [(5, 5), (19, 19)]


def test_a_gap_beyond_the_limit_abandons_the_lowest_alone() -> None:
    tracker = tracker_with(3, 6, 9, limit=2)
    assert [(gap.first, gap.last) for gap in tracker.gaps] == [(4, 5), (7, 8)]
    assert tracker.abandoned == 2
    tracker.add(11, 11, 0.0)
    assert [(gap.first, gap.last) for gap in tracker.gaps] == [(7, 8), (10, 10)]
    assert tracker.abandoned == 4


def test_excluded_sequences_join_the_gaps_beside_them() -> None:
    tracker = tracker_with(1, 2, 3, 6, 7, 8, 9)
    assert tracker.excluding([3]) == (9, ((3, 5),))
    assert tracker.excluding([6]) == (9, ((4, 6),))
    assert tracker.excluding([2]) == (9, ((2, 2), (4, 5)))
    assert tracker.excluding([8]) == (9, ((4, 5), (8, 8)))
    assert tracker.excluding([9]) == (8, ((4, 5),))
    assert tracker.excluding([6, 7, 8, 9]) == (3, ())


def test_excluding_what_lies_in_a_gap_changes_nothing() -> None:
    tracker = tracker_with(1, 3, 10)
    assert tracker.excluding([5]) == tracker.excluding([]) == (10, ((2, 2), (4, 9)))


def test_the_first_gap_is_the_lowest_that_ends_at_or_after_a_sequence() -> None:
    tracker = SequenceTracker(10)
    for sequence in (3, 6, 9):
        tracker.add(sequence, sequence, 0.0)
    found = [tracker.first_gap(sequence) for sequence in (1, 2, 3, 5, 6, 8, 9, 10)]
    spans = [None if gap is None else (gap.first, gap.last) for gap in found]
    assert spans == [(1, 2), (1, 2), (4, 5), (4, 5), (7, 8), (7, 8), None, None]
