"""Timer queue: deadlines, their order, and a heap that does not grow."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from grapevine_proto.timers import TimerQueue

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["plan", "drop", "due"]),
        st.integers(0, 5),
        st.floats(0, 10) | st.just(math.inf),
    ),
    max_size=200,
)


@given(STEPS)
def test_the_queue_agrees_with_a_table_of_deadlines(steps: list[tuple[str, int, float]]) -> None:
    agenda: TimerQueue[int] = TimerQueue()
    times: dict[int, float] = {}
    for step, item, at in steps:
        if step == "plan":
            agenda.schedule(item, at)
            times[item] = at
        elif step == "drop":
            agenda.cancel(item)
            times.pop(item, None)
        else:
            due = {each for each, then in times.items() if then <= at and then < math.inf}
            assert set(agenda.pop_expired(at)) == due
            times = {each: then for each, then in times.items() if each not in due}
        times = {each: then for each, then in times.items() if then < math.inf}
        assert agenda.deadline == min(times.values(), default=math.inf)
        assert len(agenda) == len(times)


def test_equal_deadlines_expire_in_the_order_of_scheduling() -> None:
    agenda: TimerQueue[str] = TimerQueue()
    for item in ("b", "a", "c"):
        agenda.schedule(item, 1.0)
    assert agenda.pop_expired(1.0) == ["b", "a", "c"]


def test_rescheduling_ten_thousand_times_does_not_grow_the_heap() -> None:
    agenda: TimerQueue[int] = TimerQueue()
    for step in range(10_000):
        agenda.schedule(step % 7, 10_000.0 - step)
        agenda.schedule(step % 7, 20_000.0 + step)
    assert len(agenda._heap) <= 2 * 7 + 17
