"""A repeated cause is logged once per interval."""

from __future__ import annotations

from grapevine_proto.runtime.log_throttle import LogThrottle


def test_the_first_line_is_logged_at_once_whatever_the_clock_says() -> None:
    assert LogThrottle(60.0).admits(-1e9)


def test_later_lines_wait_for_the_end_of_the_interval() -> None:
    throttle = LogThrottle(10.0)
    assert [throttle.admits(now) for now in (5.0, 5.0, 14.9, 15.0, 24.9, 25.0)] == [
        True,
        False,
        False,
        True,
        False,
        True,
    ]


def test_a_skipped_line_does_not_prolong_the_interval() -> None:
    throttle = LogThrottle(10.0)
    throttle.admits(0.0)
    assert not throttle.admits(9.0)
    assert throttle.admits(10.0)
