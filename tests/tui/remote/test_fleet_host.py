"""Alerts about a context by the rules of this user, evaluated over what the node reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from grapevine_proto.events import MessageReceived, NodeStarted, Stats
from grapevine_proto.ids import Address
from grapevine_tui.config.alert_rules import parse_alerts
from grapevine_tui.control.target import LocalTarget
from grapevine_tui.host.alerts import AlertStatus
from grapevine_tui.host.model import Model
from grapevine_tui.remote.fleet_host import FleetHost
from tests.tui.values import a_message, a_peer, an_id

RULES = {"few": "peers < 3 for 3s", "loss": "peer.loss > 2%", "panic": "message panic"}


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Context:
    """A host that is connected, with a clock that the test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **rules: str) -> None:
        self.clock = Clock()
        self.model = Model()
        target = LocalTarget(Path("/nowhere"), is_readonly=False)
        self.host = FleetHost(target, self.model, parse_alerts(rules or RULES), self.clock)
        self.model.apply(NodeStarted(an_id(99), Address("127.0.0.1", 8000), 1))
        monkeypatch.setattr(self.host, "_connection", object())

    def polled(self, *alerts: AlertStatus, peers: int = 1, lost: int = 0) -> None:
        """The node answers with its tables; a second passes."""
        self.clock.now += 1
        sent = int(self.clock.now) * 100
        tables = [a_peer(each, f"node-{each}", sent=sent, lost=lost) for each in range(peers)]
        self.model.refresh(tables, [], Stats(), self.clock.now)
        self.host._show_alerts(alerts)
        self.host.evaluate()

    @property
    def firing(self) -> list[str]:
        return [each.name for each in self.model.audible_alerts]


@pytest.fixture
def context(monkeypatch: pytest.MonkeyPatch) -> Context:
    return Context(monkeypatch)


def test_a_rule_fires_once_it_has_held_and_is_a_notice_and_an_alert_of_the_context(
    context: Context,
) -> None:
    for _ in range(4):
        assert not context.firing
        context.polled()
    assert context.firing == ["few"]
    assert context.model.notices[-1].text == "alert few: peers 1; peers < 3 for 3s"
    context.polled(peers=3)
    assert not context.firing
    assert "few is over" in context.model.notices[-1].text


def test_a_rule_about_peers_names_the_peer(context: Context) -> None:
    context.polled(peers=4)
    context.polled(peers=4, lost=50)
    assert context.firing == ["loss"] * 4
    assert "node-" in context.model.notices[-1].text


def test_an_alert_of_the_node_takes_the_place_of_a_rule_of_that_name(context: Context) -> None:
    of_node = AlertStatus("few", "peers < 9", "firing", value="peers 1", since_s=5.0)
    for _ in range(6):
        context.polled(of_node)
    assert [each.rule for each in context.model.alerts if each.name == "few"] == ["peers < 9"]
    assert context.firing == ["few"]
    assert not context.model.notices  # the node reports it itself


def test_a_context_that_is_lost_or_silent_is_not_judged(context: Context) -> None:
    for _ in range(2):
        context.polled()
    context.model.on_silent(1.0)
    for _ in range(9):
        context.polled()
    assert not context.firing
    context.model.on_reconnected()
    for _ in range(4):
        context.polled()
    assert context.firing == ["few"]
    context.model.on_disconnected("gone")
    context.polled(peers=5)
    assert context.firing == ["few"]  # as of when it was known


def test_a_message_fires_its_rule_and_one_from_before_the_connection_does_not(
    context: Context,
) -> None:
    context.polled(peers=3)
    past = a_message(1, 1, b"panic").to_dict() | {"event": "message", "at": 1.0}
    context.host._on_event(past)
    context.polled(peers=3)
    assert len(context.model.messages) == 1
    assert not context.firing
    context.host._dispatch(MessageReceived(a_message(1, 2, b"panic")))
    context.polled(peers=3)
    assert context.firing == ["panic"]


@pytest.mark.asyncio
async def test_a_rule_is_muted_here_and_an_alert_of_the_node_there(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    async def request(command: str, **fields: Any) -> dict[str, Any]:
        asked.append((command, fields))
        return {}

    monkeypatch.setattr(context.host, "_request", request)
    of_node = AlertStatus("disk", "message disk", "quiet")
    for _ in range(5):
        context.polled(of_node)
    await context.host.mute("few")
    assert not context.firing
    await context.host.unmute("few")
    assert context.firing == ["few"]
    await context.host.mute("few", 5)
    for _ in range(6):
        context.polled(of_node)
    assert context.firing == ["few"]
    assert not asked
    await context.host.mute("disk", 60)
    await context.host.unmute("disk")
    assert asked == [("mute", {"name": "disk", "for_s": 60}), ("unmute", {"name": "disk"})]


def test_a_state_that_only_a_newer_node_knows_is_listed_last(context: Context) -> None:
    context.polled(AlertStatus("odd", "x", "dozing"))
    assert [each.name for each in context.model.alerts][-1] == "odd"
