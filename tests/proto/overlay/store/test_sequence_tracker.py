"""Marks and holes of one stream, against a plain set as the model."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from grapevine_proto.overlay.store.sequence_tracker import SequenceTracker


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
