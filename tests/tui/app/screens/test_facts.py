"""The status screen names every counter in words."""

from __future__ import annotations

from grapevine_proto.events import NodeStarted, Stats
from grapevine_proto.ids import Address
from grapevine_tui.app.screens.facts import STATS_LABELS, status_facts
from grapevine_tui.host.model import Model
from tests.tui.values import an_id

SHOWN_ELSEWHERE = {"dropped", "offenses", "undelivered", "next_round_at", "coordinate_error"}


def test_every_counter_has_one_label_in_one_group() -> None:
    names = [name for labels in STATS_LABELS.values() for name in labels]

    assert sorted(names) == sorted(set(Stats._fields) - SHOWN_ELSEWHERE)


def test_a_counter_is_shown_under_its_label_once_it_is_not_zero() -> None:
    model = Model()
    assert "messages repaired" not in [fact.name for fact in status_facts(model)]

    model.stats = model.stats._replace(repaired=1234)

    shown = {fact.name: fact.value for fact in status_facts(model)}
    assert shown["messages repaired"] == "1,234"
    assert "repair" in shown


def test_the_address_at_which_peers_see_this_node_is_shown_if_it_is_none_of_its_own() -> None:
    model = Model()
    model.apply(NodeStarted(an_id(1), Address("192.168.1.4", 8000), 1))
    assert "seen at" not in [fact.name for fact in status_facts(model)]
    model.observed = Address("203.0.113.7", 20_000)
    shown = {fact.name: fact.value for fact in status_facts(model)}
    assert shown["seen at"] == "203.0.113.7:20000, by peers"
