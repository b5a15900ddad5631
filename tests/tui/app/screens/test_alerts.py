"""The list of alerts, its mute key, and what an alert changes on the main screen."""

from __future__ import annotations

import pytest

from grapevine_tui.host.alerts import AlertChange, AlertStatus
from tests.tui.fake_host import FakeHost
from tests.tui.stage import staged
from tests.tui.values import a_peer, an_id

pytestmark = pytest.mark.asyncio

FEW = AlertStatus("few", "peers < 3", "firing", None, "peers 2", 12.0)
SLOW = AlertStatus("slow", "peer.rtt > 1s", "quiet")


def a_host(*alerts: AlertStatus) -> FakeHost:
    host = FakeHost()
    host.model.alerts = alerts
    return host


async def test_the_list_shows_how_each_rule_stands() -> None:
    async with staged(a_host(FEW, SLOW)) as stage:
        await stage.press("exclamation_mark")
        assert "Alerts 2 · 1 firing" in stage.text
        assert "! firing" in stage.text
        assert "peers 2" in stage.text
        assert "peer.rtt > 1s" in stage.text
        await stage.press("escape")
        assert stage.app.screen is stage.main


async def test_without_rules_it_says_how_to_set_one() -> None:
    async with staged() as stage:
        await stage.submit("/alerts")
        assert "No alerts. Set them in the config file under [app.alerts]" in stage.text


async def test_the_mute_key_mutes_and_unmutes_and_the_act_can_be_undone() -> None:
    async with staged(a_host(FEW, SLOW)) as stage:
        await stage.press("exclamation_mark", "M")
        assert "1 muted" in stage.text
        assert stage.host.model.audible_alerts == []
        assert "M Unmute" in stage.text
        await stage.press("u")
        assert len(stage.host.model.audible_alerts) == 1
        await stage.press("M")
        await stage.press("M")
        assert len(stage.host.model.audible_alerts) == 1
        assert [each.text for each in stage.host.model.commands] == [
            "mute few",
            "undo: mute few",
            "mute few",
            "unmute few",
        ]


async def test_an_alert_is_named_in_the_status_line_until_it_is_muted() -> None:
    host = a_host(FEW._replace(peer_id=an_id(1)))
    host.peers = [a_peer(1, "bob\x1b[31m")]
    async with staged(host) as stage:
        await stage.paint()
        assert "ALERT few bob␛[31m" in stage.text
        host.model.alerts = (FEW, SLOW._replace(state="firing"))
        await stage.paint()
        assert "2 ALERTS" in stage.text
        await stage.submit("/mute few --for 60")
        await stage.paint()
        assert "ALERT slow" in stage.text
        await stage.submit("/unmute fwe")
        assert "no alert is named 'fwe'" in stage.text


async def test_an_alert_that_begins_is_a_toast_and_one_that_is_over_or_muted_is_none() -> None:
    change = AlertChange("few", "peers < 3", is_firing=True, value="peers 2")
    async with staged() as stage:
        for each in (
            change,
            change._replace(name="gone", is_firing=False),
            change._replace(name="quiet", is_muted=True),
        ):
            stage.app._pending_changes |= stage.host.model.on_alert(each)
        await stage.paint()
        assert "alert few: peers 2; peers < 3" in stage.text
        assert "gone" not in stage.text
        assert "quiet" not in stage.text


async def test_a_read_only_app_mutes_nothing() -> None:
    host = a_host(FEW)
    host.is_readonly = True
    async with staged(host) as stage:
        await stage.press("exclamation_mark")
        assert "M Mute" not in stage.text
        await stage.press("M")
        assert "refused: this is read-only" in stage.text
        assert len(host.model.audible_alerts) == 1
