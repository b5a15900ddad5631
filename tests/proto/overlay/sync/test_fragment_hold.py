"""How long fragments hold repair back, at the edges of each limit."""

from __future__ import annotations

from grapevine_proto.overlay.sync.fragment_hold import (
    FRAGMENTS_IDLE_S,
    HOLD_BACK_LIMIT_S,
    FragmentHold,
)


def test_repair_waits_until_two_seconds_after_the_last_fragment() -> None:
    hold = FragmentHold()
    assert not hold.is_active(10.0)
    hold.on_fragment(10.0)
    assert hold.is_active(12.0)
    assert not hold.is_active(12.01)
    assert FRAGMENTS_IDLE_S == 2.0


def test_repair_waits_for_fragments_of_one_message_for_30_seconds_and_then_goes_on_as_long() -> (
    None
):
    hold = FragmentHold()
    waits: dict[int, bool] = {}
    for second in range(100):
        hold.on_fragment(float(second))
        waits[second] = hold.is_active(float(second))
    assert [second for second, is_waiting in waits.items() if is_waiting] == list(range(30))
    assert HOLD_BACK_LIMIT_S == 30.0
    hold.on_fragment(104.0)  # after a pause shorter than it held back
    assert not hold.is_active(104.0)
    hold.on_fragment(300.0)
    assert hold.is_active(300.0)


def test_slow_fragments_hold_repair_back_at_most_half_of_the_time() -> None:
    hold = FragmentHold()
    step_s, waiting_steps = 0.5, 0
    steps = int(10 * HOLD_BACK_LIMIT_S / step_s)
    for step in range(steps):
        now = step * step_s
        if step % 70 < 60:  # 30 s of fragments, then a pause that is just long enough
            hold.on_fragment(now)
        waiting_steps += hold.is_active(now)
    assert 1 * FRAGMENTS_IDLE_S < waiting_steps * step_s <= steps * step_s * 0.6
