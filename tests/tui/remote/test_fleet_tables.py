"""Rows of the tables over all contexts, for scripts."""

from __future__ import annotations

import json

from grapevine_tui.remote.fleet_tables import rows_of
from tests.tui.made_up_fleet import a_fleet

NOW = 1_800_000_000.0


def test_members_name_their_context_and_cluster_and_the_age_of_what_is_not_of_now() -> None:
    rows = rows_of(a_fleet(NOW), "members")
    assert len(rows) == 11 + 11 + 6 + 2 + 3 + 11
    assert all(json.dumps(each, allow_nan=False) for each in rows)
    us = [each for each in rows if each["context"] == "us" and each["status"] == "down"]
    assert [(each["name"], each["cluster"], each["as_of"]) for each in us] == [
        ("node-11", "prod", None)
    ]
    assert {each["as_of"] for each in rows if each["context"] == "dr"} == {NOW - 20}


def test_messages_are_in_the_order_of_time_with_the_names_that_their_context_knows() -> None:
    rows = rows_of(a_fleet(NOW), "messages")
    assert [each["context"] for each in rows] == ["eu", "dr", "us", "billing", "eu"]
    assert [each["at"] for each in rows] == sorted(each["at"] for each in rows)
    assert rows[3]["from_name"] == "billing-1"
    assert rows[2]["text"].endswith("\x1b[2J")  # JSON escapes it; nothing is lost
    assert "\x1b" not in json.dumps(rows[2])


def test_contexts_are_the_rows_of_the_fleet() -> None:
    fleet = a_fleet(NOW)
    assert [each["context"] for each in rows_of(fleet, "contexts")] == [
        each.name for each in fleet.rows()
    ]
