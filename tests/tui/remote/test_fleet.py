"""Rows of a fleet: worst first, true of now or with an age; two views of the members side by side."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from grapevine_proto.events import MemberStatus, NodeStarted, Stats
from grapevine_proto.ids import Address
from grapevine_tui.control.client import CommandFailed
from grapevine_tui.control.target import LocalTarget, SshTarget
from grapevine_tui.host.alerts import AlertStatus
from grapevine_tui.remote.contexts import Context
from grapevine_tui.remote.fleet import (
    CONNECTING,
    LOST,
    SILENT,
    UNKNOWN,
    UP,
    Fleet,
    FleetNode,
    compare_views,
)
from tests.tui.values import a_member, a_peer, an_id

NOW = 1_800_000_000.0


def a_node(name: str, **statuses: MemberStatus) -> FleetNode:
    """A context whose node has answered and lists these members, numbered by their names."""
    node = FleetNode(Context(name, LocalTarget(Path("/nowhere"))), wall_clock=lambda: NOW)
    node.model.apply(NodeStarted(an_id(99), Address("127.0.0.1", 8000), 1))
    members = [
        replace(a_member(int(each[1:]), f"node-{each[1:]}"), status=status)
        for each, status in statuses.items()
    ]
    node.model.refresh([], members, Stats(), 1.0)
    return node


def connected(node: FleetNode, monkeypatch: pytest.MonkeyPatch) -> FleetNode:
    monkeypatch.setattr(node.host, "_connection", object())
    return node


def test_a_row_counts_the_node_itself_and_members_by_status(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = a_node("eu", n1=MemberStatus.UP, n2=MemberStatus.SUSPECT, n3=MemberStatus.DOWN)
    row = connected(node, monkeypatch).row()
    assert (row.state, row.up, row.suspect, row.down, row.as_of) == (UP, 2, 1, 1, 0.0)
    assert row.to_dict()["up"] == 2
    assert row.to_dict()["as_of"] is None


def test_a_context_that_never_answered_has_no_numbers() -> None:
    node = FleetNode(Context("eu", SshTarget("eu-1")))
    assert node.row().state == CONNECTING
    node.model.disconnect_reason = "ssh eu-1: no route \x1b[2J"
    row = node.row()
    assert (row.state, row.as_of) == (LOST, 0.0)
    assert "\x1b" not in row.reason
    assert row.to_dict()["up"] is None
    assert row.to_dict()["lag_ms"] is None


def test_a_lost_or_silent_context_says_as_of_when_its_row_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lost = a_node("eu")
    lost.model.on_disconnected("connection closed")
    assert lost.row()[-2:] == (NOW, "connection closed")
    assert lost.row().state == LOST
    silent = connected(a_node("us"), monkeypatch)
    silent.model.on_silent(NOW - 20)
    assert (silent.row().state, silent.row().as_of) == (SILENT, NOW - 20)


def test_loss_is_that_of_the_latest_datagrams_and_never_negative() -> None:
    node = a_node("eu")
    assert node.row().loss is None
    for sent, lost in ((100, 0), (200, 5), (300, 10)):
        node.model.refresh([a_peer(1, sent=sent, lost=lost)], [], Stats(), 1.0)
        node.sample()
    assert node.row().loss == 0.05
    node.model.refresh([a_peer(1, sent=10, lost=0)], [], Stats(), 1.0)  # a new link
    node.sample()
    assert node.row().loss is None


def test_the_worst_context_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("well", "laggy", "suspect", "down", "connecting", "silent", "lost")
    fleet = Fleet([Context(each, LocalTarget(Path("/nowhere"))) for each in names])
    statuses = {"suspect": MemberStatus.SUSPECT, "down": MemberStatus.DOWN}
    for name in names:
        if name != "connecting":
            status = statuses.get(name, MemberStatus.UP)
            fleet.nodes[name] = connected(a_node(name, n1=status), monkeypatch)
    monkeypatch.setattr(fleet.nodes["laggy"].host, "_lag_s", 0.3)
    fleet.nodes["silent"].model.on_silent(NOW)
    monkeypatch.setattr(fleet.nodes["lost"].host, "_connection", None)
    fleet.nodes["lost"].model.on_disconnected("x")
    assert [each.name for each in fleet.rows()] == list(reversed(names))


def test_two_views_that_differ_come_first() -> None:
    first = a_node("eu", n1=MemberStatus.UP, n2=MemberStatus.UP, n3=MemberStatus.DOWN)
    second = a_node("us", n1=MemberStatus.UP, n2=MemberStatus.SUSPECT)
    rows = compare_views(first, second)
    assert [(each.name, each.first, each.second, each.differs) for each in rows] == [
        ("node-2", "up", "suspect", True),
        ("node-3", "down", UNKNOWN, True),
        (an_id(99).short, "up", "up", False),  # the node itself, which both are here
        ("node-1", "up", "up", False),
    ]


def test_alerts_are_reported_once_with_their_context_and_not_if_it_is_muted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fleet = Fleet([Context("eu", LocalTarget(Path("/nowhere")))])
    node = fleet.nodes["eu"] = connected(a_node("eu", n1=MemberStatus.UP), monkeypatch)
    firing = AlertStatus("few", "peers < 3", "firing", value="peers 1", since_s=4.0)
    of_peer = AlertStatus("loss", "peer.loss > 2%", "firing", an_id(1), "4 %", 2.0)
    node.model.alerts = (firing, of_peer, AlertStatus("lag", "lag > 1s", "quiet"))
    assert [each.line for each in fleet.take_alert_changes()] == [
        "eu: alert few: peers 1; peers < 3",
        "eu: alert loss: node-1: 4 %; peer.loss > 2%",
    ]
    assert not fleet.take_alert_changes()
    assert fleet.alert_names == ["eu few", "eu loss"]
    assert node.row().alerts == ("few", "loss")
    assert node.row().to_dict()["alerts"] == ["few", "loss"]
    node.is_muted = True
    assert not fleet.take_alert_changes()  # it still fires, so it is not over
    assert not fleet.alert_names
    assert node.row().is_muted
    node.is_muted = False
    node.model.alerts = (firing._replace(name="f\x1b[2Jw"),)
    lines = [each.line for each in fleet.take_alert_changes()]
    assert lines == ["eu: alert f␛[2Jw: peers 1; peers < 3"]


def test_an_alert_that_no_longer_fires_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    node = connected(a_node("eu"), monkeypatch)
    firing = AlertStatus("few", "peers < 3", "firing", value="peers 1", since_s=4.0)
    node.model.alerts = (firing,)
    node.take_alert_changes()
    node.model.alerts = (firing._replace(is_muted=True),)
    assert not node.take_alert_changes()
    node.model.alerts = (firing,)
    node.take_alert_changes()
    node.model.alerts = (firing._replace(state="quiet", since_s=None),)
    (change,) = node.take_alert_changes()
    assert not change.is_firing
    assert change.line == "eu: alert few is over: it lasted 4 s"


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("reply", "shown"),
    [
        ({"events": [{"text": "db-1 \x1b[2J down", "at": 7.5, "suppressed": 0}]}, "db-1 "),
        ({"events": []}, ""),
        ({"events": [{"text": "without a time"}]}, ""),
        (CommandFailed("no history"), ""),
    ],
)
async def test_before_anything_happens_the_last_event_is_that_of_the_history(
    reply: Any, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def search(**_: Any) -> Any:
        if isinstance(reply, Exception):
            raise reply
        return reply

    node = connected(a_node("eu"), monkeypatch)
    monkeypatch.setattr(node.host, "search_events", search)
    node.ask_last_event()
    node.ask_last_event()  # once
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    row = node.row()
    assert row.last_event.startswith(shown)
    assert bool(row.last_event) == bool(shown)
    assert "\x1b" not in row.last_event
    node.model.on_silent(NOW)
    assert node.row().last_event == "the node does not answer"
