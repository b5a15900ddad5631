"""The garbage collector in the app's hands: what it passes over, and what it still finds."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from grapevine_tui.collector import FULL_AFTER, NEVER, Collector


class Knot:
    """A cycle: only the collector frees it."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.release()


def come(passes: int) -> list[list[object]]:
    """As many new objects as take so many passes over the middle generation."""
    wanted = gc.get_count()[2] + passes
    kept: list[list[object]] = []
    while gc.get_count()[2] < wanted:
        kept.append([])
    return kept


def test_before_it_has_settled_nothing_is_changed(collector: Collector) -> None:
    before = gc.get_threshold(), gc.get_freeze_count()
    kept = come(FULL_AFTER)
    assert not collector.tidy(is_home=True)
    assert (gc.get_threshold(), gc.get_freeze_count()) == before
    assert kept


def test_what_stays_is_passed_over_and_what_is_new_is_still_found(collector: Collector) -> None:
    collector.settle()
    assert gc.get_threshold()[2] == NEVER
    frozen = gc.get_freeze_count()
    knot = weakref.ref(Knot())
    assert not collector.tidy(is_home=True)
    kept = come(FULL_AFTER)
    assert collector.tidy(is_home=True)
    assert knot() is None
    assert gc.get_freeze_count() > frozen + len(kept) // 2
    assert not collector.tidy(is_home=True)  # not before as much has come again


def test_a_screen_in_front_is_never_taken_to_stay(collector: Collector) -> None:
    collector.settle()
    frozen = gc.get_freeze_count()
    screen = Knot()
    seen = weakref.ref(screen)
    kept = come(FULL_AFTER)
    assert collector.tidy(is_home=False)
    assert gc.get_freeze_count() <= frozen
    del screen
    kept += come(FULL_AFTER)
    assert collector.tidy(is_home=True)
    assert seen() is None


def test_released_it_is_as_it_was(collector: Collector) -> None:
    before = gc.get_threshold()
    collector.settle()
    collector.release()
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0
