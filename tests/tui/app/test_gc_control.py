"""Garbage collection in the app: what is frozen, and what is still freed."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from grapevine_tui.app.gc_control import DISABLED_THRESHOLD, MIDDLE_PASSES_PER_FULL, GcController


class Knot:
    """A cycle: only the collector frees it."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def collector() -> Iterator[GcController]:
    made = GcController()
    yield made
    made.restore()


def come(passes: int) -> list[list[object]]:
    """Create as many objects as cause that many middle collections."""
    enabled = gc.get_count()[2] + passes
    kept: list[list[object]] = []
    while gc.get_count()[2] < enabled:
        kept.append([])
    return kept


def test_before_it_has_settled_nothing_is_changed(collector: GcController) -> None:
    before = gc.get_threshold(), gc.get_freeze_count()
    kept = come(MIDDLE_PASSES_PER_FULL)
    assert not collector.collect_if_due(is_main_in_front=True)
    assert (gc.get_threshold(), gc.get_freeze_count()) == before
    assert kept


def test_what_stays_is_passed_over_and_what_is_new_is_still_found(collector: GcController) -> None:
    collector.freeze()
    assert gc.get_threshold()[2] == DISABLED_THRESHOLD
    frozen = gc.get_freeze_count()
    knot = weakref.ref(Knot())
    assert not collector.collect_if_due(is_main_in_front=True)
    kept = come(MIDDLE_PASSES_PER_FULL)
    assert collector.collect_if_due(is_main_in_front=True)
    assert knot() is None
    assert gc.get_freeze_count() > frozen + len(kept) // 2
    assert not collector.collect_if_due(is_main_in_front=True)  # too few new objects


def test_a_screen_in_front_is_never_frozen(collector: GcController) -> None:
    collector.freeze()
    frozen = gc.get_freeze_count()
    screen = Knot()
    seen = weakref.ref(screen)
    kept = come(MIDDLE_PASSES_PER_FULL)
    assert collector.collect_if_due(is_main_in_front=False)
    assert gc.get_freeze_count() <= frozen
    del screen
    kept += come(MIDDLE_PASSES_PER_FULL)
    assert collector.collect_if_due(is_main_in_front=True)
    assert seen() is None


def test_released_it_is_as_it_was(collector: GcController) -> None:
    before = gc.get_threshold()
    collector.freeze()
    collector.restore()
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0
