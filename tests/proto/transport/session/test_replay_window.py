"""Replay window: every packet number is accepted once, and old ones never."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from grapevine_proto.transport.session.replay_window import ReplayWindow

WIDTH = 2048

near = st.integers(-2 * WIDTH, 2 * WIDTH)
far = st.integers(0, 1 << 32)


class WindowAgainstSet(RuleBasedStateMachine):
    """Compares the ring of words with a set of all accepted numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.window = ReplayWindow()
        self.accepted: set[int] = set()
        self.highest = -1

    @rule(step=st.one_of(near, st.integers(-70, 70), st.sampled_from([1, 64, -64, 2047, -2047])))
    def receive_near(self, step: int) -> None:
        self.receive(max(self.highest + step, 0))

    @rule(counter=far)
    def receive_anywhere(self, counter: int) -> None:
        self.receive(counter)

    @rule(count=st.integers(1, 200))
    def receive_in_order(self, count: int) -> None:
        for _ in range(count):
            self.receive(self.highest + 1)

    @rule()
    def compare_all(self) -> None:
        for counter in range(max(self.highest - WIDTH - 70, 0), self.highest + 70):
            assert self.window.is_fresh(counter) == self.expected(counter)

    def receive(self, counter: int) -> None:
        is_fresh = self.window.is_fresh(counter)
        assert is_fresh == self.expected(counter)
        if is_fresh:
            self.window.accept(counter)
            self.accepted.add(counter)
            self.highest = max(self.highest, counter)

    def expected(self, counter: int) -> bool:
        return counter not in self.accepted and counter > self.highest - WIDTH


TestWindowAgainstSet = WindowAgainstSet.TestCase
TestWindowAgainstSet.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@given(st.lists(st.integers(0, 3 * WIDTH), max_size=300))
def test_no_packet_number_is_accepted_twice(counters: list[int]) -> None:
    window, accepted = ReplayWindow(), []
    for counter in counters:
        if window.is_fresh(counter):
            window.accept(counter)
            accepted.append(counter)

    assert len(accepted) == len(set(accepted))


def test_is_fresh_changes_nothing() -> None:
    window = ReplayWindow()
    assert window.is_fresh(10_000)
    assert window.is_fresh(0)
    assert window.is_fresh(10_000)


def test_the_window_has_exactly_the_documented_width() -> None:
    window = ReplayWindow()
    window.accept(WIDTH)

    assert window.is_fresh(1)
    assert not window.is_fresh(0)


@pytest.mark.parametrize("step", [1, 2, 3, 63, 64, 65, 127, 2046, 2047, 2048, 2049, 2112, 5000])
@pytest.mark.parametrize("begin", [0, 1, 63])
def test_a_full_window_is_forgotten_as_far_as_it_is_left(begin: int, step: int) -> None:
    window = ReplayWindow()
    for counter in range(3000):
        window.accept(counter)
    accepted = set(range(3000))
    for counter in range(3000 + begin, 3000 + begin + 2 * 2112 + 3 * step, step):
        assert window.is_fresh(counter)
        window.accept(counter)
        accepted.add(counter)
        lowest = counter - 2047
        near = {counter - 64, counter - 63, counter - 1, counter, counter + 1}
        for each in near | set(range(lowest - 1, lowest + 66)):
            assert window.is_fresh(each) is (each >= lowest and each not in accepted)


def test_a_window_takes_less_than_a_kilobyte() -> None:
    ReplayWindow()  # what the first one of all takes is no part of it
    tracemalloc.start()
    window = ReplayWindow()
    size_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert window.is_fresh(0)
    assert size_bytes < 1024
