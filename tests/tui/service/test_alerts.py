"""Alerts of a running node: on stdout, at its programs, in history and metrics, in an attached app."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.crypto.cluster_key import ClusterKey
from grapevine_proto.events import NodeStopped
from grapevine_tui.config.alert_rules import parse_alerts
from grapevine_tui.host.alerts import AlertChange
from grapevine_tui.host.local import Host
from grapevine_tui.host.model import Changes, Model
from grapevine_tui.remote.host import RemoteHost
from grapevine_tui.service import alerts as alerts_module
from grapevine_tui.service.alerts import AlertMonitor, alert_monitor
from grapevine_tui.service.metrics import Metrics
from tests.tui.runs import WAIT_S, Bench
from tests.tui.service.test_hooks import KEEP, wait_for
from tests.tui.values import received

CONFIG = """\
[app.alerts]
few = "peers < 1"
panic = "message panic"
silent = "no message for 1h"
"""


def test_a_node_without_a_screen_reports_its_alerts_everywhere(bench: Bench) -> None:
    config = bench.directory / "alerts.toml"
    config.write_text(CONFIG)
    command = f'"{sys.executable}" -c "{KEEP}" seen'
    run, address = bench.started("--config", str(config), "--on", "alert:few", command)
    fired = run.expect("alert", name="few")
    assert (fired["state"], fired["value"], fired["rule"]) == ("firing", "peers 0", "peers < 1")
    (line,) = wait_for(bench.directory / "seen", 1)
    assert json.loads(line)["name"] == "few"
    listed = run.ask(cmd="alerts")["alerts"]
    assert [(each["name"], each["state"]) for each in listed] == [
        ("few", "firing"),
        ("panic", "quiet"),
        ("silent", "quiet"),
    ]
    assert run.ask(cmd="mute", name="fwe")["error"].endswith("did you mean few?")
    assert run.ask(cmd="mute", name="few", for_s=0)["ok"] is False
    assert run.ask(cmd="mute", name="few", for_s=600)["ok"] is True
    other, _ = bench.started("--peer", address)
    assert run.expect("alert", name="few")["state"] == "over"
    other.write("kernel panic\n")
    assert run.expect("alert", name="panic")["muted"] is False
    assert run.ask(cmd="unmute", name="few")["ok"] is True
    events = run.ask(cmd="events", words="alert")["events"]
    texts = [each["text"] for each in events if each["kind"] == "alert"]
    assert texts[0] == "alert few: peers 0; peers < 1"
    assert texts[1].startswith("alert few is over: it lasted")
    assert texts[1].endswith("(muted)")
    assert len((bench.directory / "seen").read_text().splitlines()) == 1  # not for a muted one
    config.write_text(CONFIG.replace("peers < 1", "peers < 9"))
    assert run.ask(cmd="reload")["ok"] is True
    assert run.expect("alert", name="few")["rule"] == "peers < 9"


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not is_so():  # noqa: ASYNC110  nothing tells of it
            await asyncio.sleep(0.01)


async def a_host(**rules: str) -> Host:
    host = Host(NodeConfig.local(keys=[ClusterKey.generate()]), None)
    await host.start()
    host.alert_book.set_rules(parse_alerts(rules), host.node.now())
    return host


@pytest.mark.asyncio
async def test_the_monitor_evaluates_in_turns_and_survives_a_node_that_has_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(alerts_module, "EVALUATION_INTERVAL_S", 0.01)
    host = await a_host(few="peers < 1", down="down > 0")
    changes: list[AlertChange] = []
    host.listen_to_alerts(changes.append)
    async with alert_monitor(host):
        await until(lambda: bool(changes))
        assert [each.name for each in changes] == ["few"]
        assert Changes.NOTICES in host.refresh()
        assert [each.name for each in host.model.audible_alerts] == ["few"]
        assert host.model.notices[-1].text == "alert few: peers 0; peers < 1"
        assert Metrics(host).snapshot().alerts == {"few": 1, "down": 0}
        await host.leave(0.1)
        await asyncio.sleep(0.05)


@pytest.mark.asyncio
async def test_only_rules_about_messages_look_at_messages() -> None:
    host = await a_host(panic="message from:bob panic")
    monitor = AlertMonitor(host)
    changes: list[AlertChange] = []
    host.listen_to_alerts(changes.append)
    for event in (received(1, 1, b"panic"), NodeStopped("")):
        monitor.on_event(event, Changes.NONE)
    monitor.evaluate()
    assert changes == []  # from nobody named bob
    host.alert_book.set_rules(parse_alerts({"panic": "message panic"}), host.node.now())
    monitor.on_event(received(1, 2, b"panic"), Changes.NONE)
    monitor.evaluate()
    assert [each.name for each in changes] == ["panic"]
    await host.leave(0.1)


@pytest.mark.asyncio
async def test_an_attached_app_gets_the_alerts_of_its_node(bench: Bench) -> None:
    config = bench.directory / "alerts.toml"
    config.write_text(CONFIG)
    run, _ = bench.started("--config", str(config), "--state-dir", "kept")
    await asyncio.to_thread(run.expect, "alert", name="few")
    host = RemoteHost(Path(bench.directory) / "kept", Model())
    await host.start()
    try:
        assert [each.name for each in host.model.audible_alerts] == ["few"]
        assert host.model.alerts[0].since_s is not None
        await host.mute("few", 60)
        assert (await host.alerts())["alerts"][0]["muted"] is True
        await host.unmute("few")
        await host.broadcast(b"panic")
        await until(lambda: any("alert panic" in each.text for each in host.model.notices))
    finally:
        await host.leave(0.0)
