"""A report names what an operator asks about, and nothing in it is markup or a secret."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from grapevine_tui.config.sources import SettingValue
from grapevine_tui.history.samples import PastValues
from grapevine_tui.host.report import render_report
from grapevine_tui.host.report_format import ReportFormat
from grapevine_tui.host.snapshot import changed_settings
from tests.tui.hostile import HOSTILE
from tests.tui.values import a_member, a_peer, an_id

AT = 1_790_000_000.0


def a_snapshot(name: str = "db-1", **changes: Any) -> dict[str, Any]:
    peers = [a_peer(number, f"{name}-{number}").to_dict(now=1.0) for number in range(1, 13)]
    peers[5] |= {"health": 0.2, "health_reason": "2 of 10 intervals"}
    peers[7] |= {"state": "disconnected"}
    members = [a_member(number, f"{name}-{number}").to_dict() for number in range(1, 13)]
    members[3] |= {"status": "down", "reason": f"accused by {name}-9"}
    return {
        "at": AT,
        "status": {"name": name, "peer_id": str(an_id(1)), "version": "0.1.0", "uptime_s": 3_700.0},
        "peers": peers,
        "members": members,
        "stats": {"delivered": 7, "duplicates": 0, "dropped": {"malformed": 3}},
        "traffic": {
            "interval_s": 1.0, "messages": [1.0, 5.0, 2.0], "datagrams_in": [], "datagrams_out": [0.0],
            "duplicates": [3.0],
        },
        "settings": [{"name": "fanout", "value": 5, "origin": "grapevine.toml"}],
        **changes,
    }  # fmt: skip


def an_event(text: str) -> dict[str, Any]:
    return {"at": AT, "level": "warning", "text": text, "suppressed": 2}


@pytest.mark.parametrize("output", list(ReportFormat))
def test_a_report_has_what_a_ticket_needs(output: ReportFormat) -> None:
    text = render_report(a_snapshot(), [an_event("bob is down")], output)
    plain = text.replace("\\", "")
    for expected in (
        "Grapevine node db-1", "Members: 1 down, 11 up", "accused by db-1-9", "bob is down", "of this kind",
        "Worst peers of 12", "2 of 10 intervals", "peak 5", "last 3 s", "<svg", "malformed", "fanout",
        "1 h 1 m",
    ):  # fmt: skip
        assert expected in plain, expected
    assert "0 duplicates" not in plain
    # The worst come first: the one that is not connected, then the unhealthy one.
    worst = plain[plain.index("Worst peers") :]
    assert worst.index("db-1-8") < worst.index("db-1-6") < worst.index("db-1-1")


def test_many_members_are_cut_after_those_that_are_not_up() -> None:
    members = [a_member(number, f"node-{number:03}").to_dict() for number in range(300)]
    members[299] |= {"status": "suspect"}
    text = render_report(a_snapshot(members=members), [], ReportFormat.HTML)
    assert "node-299" in text
    assert "node-298" not in text
    assert "and 100 more" in text


def past(count: int, every_s: float = 10.0) -> list[PastValues]:
    counters = {"delivered": 0.0, "datagrams_in": 5.0, "datagrams_out": 5.0, "duplicates": 1.0}
    return [
        PastValues(
            AT + n * every_s, counters | {"delivered": 20.0 * n}, 3 + n % 2, 40.0 if n == 5 else 1.0
        )
        for n in range(count)
    ]


def test_the_graphs_are_of_the_time_that_was_asked_for() -> None:
    text = render_report(a_snapshot(), [], ReportFormat.HTML, past(361))
    assert "messages delivered per second, means of 10 s: peak 2.0, last 1 h" in text
    assert "connected peers: peak 4.0" in text
    assert "lag of the event loop in ms: peak 40.0" in text
    assert text.count("<svg") == 6


@pytest.mark.parametrize("few", [[], past(1), past(2, every_s=1.0)])
def test_without_an_older_past_the_graphs_are_of_the_latest_seconds(few: list[PastValues]) -> None:
    text = render_report(a_snapshot(), [], ReportFormat.HTML, few)
    assert "messages delivered per second: peak 5.0, last 3 s" in text
    assert text.count("<svg") == 4


def test_a_restart_of_the_node_is_no_negative_rate() -> None:
    values = past(30)
    again = [each._replace(at_unix=each.at_unix + 400.0) for each in past(30)]
    text = render_report(a_snapshot(), [], ReportFormat.HTML, [*values, *again])
    heights = [float(y) for y in re.findall(r",(-?[0-9.]+)", text[text.index("<polyline") :])]
    assert max(heights) <= 79.0
    assert min(heights) >= 0.0


class Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.add(tag)


PAGE = {
    *("html", "head", "meta", "title", "style", "body", "h1", "h2", "table", "tr", "th", "td", "p", "br"),
    *("svg", "rect", "polyline"),
}  # fmt: skip


@pytest.mark.parametrize("text", [*HOSTILE, "<script>alert(1)</script>", "a | b\n# c", "![x](y)"])
@pytest.mark.parametrize("output", list(ReportFormat))
def test_no_remote_text_is_markup(text: str, output: ReportFormat) -> None:
    report = render_report(a_snapshot(text), [an_event(text)], output)
    parser = Elements()
    parser.feed(report)
    assert parser.found <= PAGE
    assert all(each.isprintable() for line in report.split("\n") for each in line)
    if output is ReportFormat.MARKDOWN:
        headings = [line for line in report.split("\n") if line.startswith("#")]
        assert len(headings) == 8
        rows = [line for line in report.split("\n") if line.startswith("| ")]
        in_members = [row for row in rows if row.count(" | ") == 5]
        assert len(in_members) == 13


def test_settings_are_those_that_are_not_default_and_programs_are_counted() -> None:
    values = [
        SettingValue("fanout", 3, "default"),
        SettingValue("max_peers", 9, "profile wan"),
        SettingValue("zone", "eu", "grapevine.toml"),
        SettingValue("name", "", "--name"),
        SettingValue("app.on", ["message curl -H 'Token: s3cret' x", "peer y"], "--on"),
    ]
    found = changed_settings(values)
    assert [each["name"] for each in found] == ["zone", "app.on"]
    assert found[1]["value"] == "2 programs"
    assert "s3cret" not in str(found)
