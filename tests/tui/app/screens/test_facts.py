"""The status screen names every counter in words."""

from __future__ import annotations

from dataclasses import fields, replace

from grapevine_proto.events import Stats
from grapevine_tui.app.screens.facts import STATS_LABELS, status_facts
from grapevine_tui.host.model import Model

SHOWN_ELSEWHERE = {"dropped", "offenses", "undelivered", "next_round_at", "coordinate_error"}


def test_every_counter_has_one_label_in_one_group() -> None:
    names = [name for labels in STATS_LABELS.values() for name in labels]

    assert sorted(names) == sorted({each.name for each in fields(Stats)} - SHOWN_ELSEWHERE)


def test_a_counter_is_shown_under_its_label_once_it_is_not_zero() -> None:
    model = Model()
    assert "messages repaired" not in [fact.name for fact in status_facts(model)]

    model.stats = replace(model.stats, repaired=1234)

    shown = {fact.name: fact.value for fact in status_facts(model)}
    assert shown["messages repaired"] == "1,234"
    assert "repair" in shown
