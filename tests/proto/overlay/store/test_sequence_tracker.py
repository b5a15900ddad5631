"""Marks and holes of one stream, against a plain set as the model."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from grapevine_proto.overlay.store.sequence_tracker import Gap, SequenceTracker


def seen_of(*sequences: int, limit: int = 256) -> SequenceTracker:
    seen = SequenceTracker(limit)
    for sequence in sequences:
        seen.add(sequence, sequence, 0.0)
    return seen


def test_a_stream_heard_in_order_has_no_holes() -> None:
    seen = seen_of(1, 2, 3)
    assert (seen.high, seen.gaps) == (3, [])


def test_what_is_skipped_becomes_a_hole_and_arriving_fills_it() -> None:
    seen = seen_of(1, 5)
    assert [(hole.first, hole.last) for hole in seen.gaps] == [(2, 4)]
    seen.add(3, 3, 0.0)
    assert [(hole.first, hole.last) for hole in seen.gaps] == [(2, 2), (4, 4)]
    seen.add(2, 4, 0.0)
    assert seen.gaps == []


def test_a_hole_closes_when_its_time_is_over_and_counts_as_lost() -> None:
    seen = seen_of(1)
    seen.add(4, 4, now=10.0)
    seen.abandon_before(10.0)
    assert not seen.contains(2)
    seen.abandon_before(10.1)
    assert seen.contains(2)
    assert seen.abandoned == 2


def test_what_was_said_before_we_came_is_not_counted_as_lost() -> None:
    seen = SequenceTracker(256)
    seen.add(1000, 1000, 0.0, is_loss=False)
    seen.abandon_before(1.0)
    assert seen.contains(1)
    assert seen.abandoned == 0


def test_one_hole_beyond_the_limit_closes_the_lowest() -> None:
    seen = seen_of(2, 4, 6, limit=3)
    assert len(seen.gaps) == 3
    seen.add(8, 8, 0.0)
    assert len(seen.gaps) == 3
    assert seen.contains(1)
    assert seen.abandoned == 1


def test_what_the_application_did_not_finish_is_unseen_again() -> None:
    seen = seen_of(1, 2, 3, 5, 6, 7)
    assert seen.excluding(()) == (7, ((4, 4),))
    assert seen.excluding([6, 7]) == (5, ((4, 4),))  # the end of a stream takes no hole
    assert seen.excluding([5, 6, 7]) == (3, ())
    assert seen.excluding([2]) == (7, ((2, 2), (4, 4)))
    assert seen.excluding([1, 2, 3, 5, 6, 7]) == (0, ())
    assert (seen.high, [hole[:2] for hole in seen.gaps]) == (7, [(4, 4)])


@given(st.sets(st.integers(1, 40), min_size=1), st.data())
def test_marks_restored_without_some_know_all_others(heard: set[int], data: st.DataObject) -> None:
    seen = seen_of(*sorted(heard))
    unhandled = data.draw(st.sets(st.sampled_from(sorted(heard))))
    restored = SequenceTracker(256)
    high, holes = seen.excluding(sorted(unhandled))
    restored.restore(high, holes, 0.0)
    known = {sequence for sequence in range(1, 50) if restored.contains(sequence)}
    assert known == heard - unhandled


def test_unseen_sequences_beyond_the_limit_of_holes_count_as_seen() -> None:
    seen = seen_of(*range(1, 12), limit=3)
    assert seen.excluding([1, 3, 5, 7, 9]) == (11, ((5, 5), (7, 7), (9, 9)))


def test_splitting_a_hole_never_makes_more_than_the_limit() -> None:
    seen = seen_of(100, limit=2)
    for sequence in (10, 20, 30, 40):
        seen.add(sequence, sequence, 0.0)
    assert len(seen.gaps) == 2
    assert seen.contains(5)


def test_marks_that_were_kept_are_taken_over_and_nonsense_counts_as_seen() -> None:
    seen = SequenceTracker(256)
    seen.restore(10, ((2, 3), (3, 5), (7, 7), (9, 12)), 0.0)
    assert [(hole.first, hole.last) for hole in seen.gaps] == [(2, 3), (7, 7)]
    assert seen.missing(1, 12) == [(2, 3), (7, 7), (11, 12)]
    assert seen.missing(13, 12) == [], "a peer that holds nothing any more says first > last"


ranges = st.tuples(st.integers(1, 60), st.integers(0, 6)).map(lambda r: (r[0], r[0] + r[1]))


class SeenMachine(RuleBasedStateMachine):
    """Any order of marks agrees with a set of numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = SequenceTracker(256)
        self.model: set[int] = set()

    @rule(marked=ranges)
    def mark(self, marked: tuple[int, int]) -> None:
        self.seen.add(*marked, now=0.0)
        self.model.update(range(marked[0], marked[1] + 1))

    @rule(asked=ranges)
    def ask(self, asked: tuple[int, int]) -> None:
        first, last = asked
        unknown = [n for n in range(first, last + 1) if n not in self.model]
        assert self.seen.contains_all(first, last) == (not unknown)
        found = [n for a, b in self.seen.missing(first, last) for n in range(a, b + 1)]
        assert found == unknown

    @invariant()
    def holes_are_apart_and_below_the_mark(self) -> None:
        edges = [edge for hole in self.seen.gaps for edge in (hole.first, hole.last)]
        assert edges == sorted(edges)
        assert all(edge < self.seen.high for edge in edges)


TestSeen = SeenMachine.TestCase


@given(st.lists(ranges, max_size=40), st.integers(1, 5))
def test_what_is_known_stays_known_however_few_holes_fit(
    marks: list[tuple[int, int]], limit: int
) -> None:
    seen = SequenceTracker(limit)
    known: set[int] = set()
    for first, last in marks:
        seen.add(first, last, 0.0)
        assert len(seen.gaps) <= limit
        assert all(seen.contains(sequence) for sequence in known)
        known.update(n for n in range(1, seen.high + 1) if seen.contains(n))
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
    tracker = seen_of(3, 6, 9, limit=2)
    assert [(gap.first, gap.last) for gap in tracker.gaps] == [(4, 5), (7, 8)]
    assert tracker.abandoned == 2
    tracker.add(11, 11, 0.0)
    assert [(gap.first, gap.last) for gap in tracker.gaps] == [(7, 8), (10, 10)]
    assert tracker.abandoned == 4


def test_excluded_sequences_join_the_gaps_beside_them() -> None:
    tracker = seen_of(1, 2, 3, 6, 7, 8, 9)
    assert tracker.excluding([3]) == (9, ((3, 5),))
    assert tracker.excluding([6]) == (9, ((4, 6),))
    assert tracker.excluding([2]) == (9, ((2, 2), (4, 5)))
    assert tracker.excluding([8]) == (9, ((4, 5), (8, 8)))
    assert tracker.excluding([9]) == (8, ((4, 5),))
    assert tracker.excluding([6, 7, 8, 9]) == (3, ())
