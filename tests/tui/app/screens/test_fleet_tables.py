"""Members and messages of all contexts in one table each."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from textual.pilot import Pilot

from grapevine_proto.events import MemberStatus, Stats
from grapevine_tui.app.fleet import ALL_CONTEXTS, Destination, FleetApp
from grapevine_tui.app.screens import fleet_tables
from grapevine_tui.app.screens.fleet_tables import FleetMembersScreen, FleetMessagesScreen
from grapevine_tui.app.screens.table import TableScreen
from grapevine_tui.app.widgets.grid import Row
from grapevine_tui.config.settings import load_settings
from tests.tui.made_up_fleet import a_fleet, show_state
from tests.tui.stage import text_of
from tests.tui.values import a_member, a_message, an_id

pytestmark = pytest.mark.asyncio
OPENING_KEYS = ("m", "2", "colon", "exclamation_mark")


@asynccontextmanager
async def staged(
    directory: Path, opening: Destination = ALL_CONTEXTS, alert: str = "off"
) -> AsyncIterator[tuple[FleetApp, Pilot[None]]]:
    settings = load_settings({"app.state_dir": str(directory / "none")}, {}, directory=directory)
    app = FleetApp(a_fleet(time.time()), replace(settings, alert=alert), opening)
    async with app.run_test(size=(140, 60), notifications=True) as pilot:
        await pilot.pause()
        yield app, pilot


def table(app: FleetApp) -> list[Row]:
    assert isinstance(app.screen, TableScreen)
    return list(app.screen.table.rows)


async def test_members_of_all_contexts_stand_in_one_table_worst_first(tmp_path: Path) -> None:
    async with staged(tmp_path) as (app, pilot):
        await pilot.press("m")
        await pilot.pause(0.1)
        assert isinstance(app.screen, FleetMembersScreen)
        rows = table(app)
        assert len(rows) == 44
        assert [each.key for each in rows[:3]] == [
            ("us", an_id(11)),
            ("us", an_id(10)),
            ("asia", an_id(6)),
        ]
        title = "Members 44 of 7 contexts · 1 down · 2 suspect · 41 up · dr silent, lab lost"
        assert title in text_of(app)
        texts = {each.key: [cell.text for cell in each.cells] for each in rows}
        assert texts["us", an_id(11)][:4] == ["us", "prod", "✕ down", "node-11"]


async def test_rows_of_a_context_that_is_not_of_now_are_dimmed_with_their_age(
    tmp_path: Path,
) -> None:
    async with staged(tmp_path) as (app, pilot):
        for key, count in (("m", 11), ("2", 1)):
            await pilot.press(key)
            await pilot.pause(0.1)
            rows = [row for row in table(app) if row.key[0] == "dr"]  # type: ignore[index]
            assert len(rows) == count
            for row in rows:
                assert {cell.tone for cell in row.cells} == {"dim"}
                assert any(cell.text.startswith("dr 2") for cell in row.cells)  # 20 s and more
                assert any(cell.text.endswith("s ago") for cell in row.cells)
            others = [row for row in table(app) if row.key[0] == "eu"]  # type: ignore[index]
            assert all(" ago" not in cell.text for row in others for cell in row.cells)


async def test_the_filter_works_over_all_rows_and_over_those_that_are_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_tables, "MAX_ROWS", 10)
    async with staged(tmp_path) as (app, pilot):
        await pilot.press("m")
        await pilot.pause(0.1)
        assert len(table(app)) == 10
        assert "the first 10 shown" in text_of(app)
        await pilot.press("slash", *"context:dr", "enter")
        await pilot.pause(0.1)
        assert {row.key[0] for row in table(app)} == {"dr"}  # type: ignore[index]
        assert "11 match context:dr · the first 10 shown" in text_of(app)
        await pilot.press("slash", *"context:dr node-5", "enter")
        await pilot.pause(0.1)
        assert [row.key for row in table(app)] == [("dr", an_id(5))]
        await pilot.press("escape", "s")  # by context, over all of them
        await pilot.pause(0.1)
        assert {row.key[0] for row in table(app)} == {"asia", "billing", "dr"}  # type: ignore[index]


async def test_a_member_that_changes_or_goes_is_shown_so(tmp_path: Path) -> None:
    async with staged(tmp_path, Destination(table="members")) as (app, _):
        node = app.fleet.nodes["staging"]
        down = replace(a_member(1, "node-1"), status=MemberStatus.DOWN)
        node.model.refresh([], [down], Stats(), 99.0)
        assert isinstance(app.screen, FleetMembersScreen)
        app.screen.show()
        rows = [row for row in table(app) if row.key[0] == "staging"]  # type: ignore[index]
        assert [row.cells[2].text for row in rows] == ["✕ down"]


async def test_many_members_are_built_in_several_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_tables, "MEMBERS_PER_PASS", 300)
    rows_after_pass: list[int] = []
    build = FleetMembersScreen.show

    def show(screen: FleetMembersScreen) -> None:
        build(screen)
        rows_after_pass.append(len(screen.table.rows))

    monkeypatch.setattr(FleetMembersScreen, "show", show)
    async with staged(tmp_path) as (app, pilot):
        show_state(app.fleet.nodes["eu"], [MemberStatus.UP] * 700)
        await pilot.press("m")
        await pilot.pause()
        assert rows_after_pass[0] < 700 + 33
        while len(table(app)) < 700 + 33:
            await pilot.pause(0.02)


async def test_messages_of_all_contexts_stand_in_one_table_newest_first(tmp_path: Path) -> None:
    async with staged(tmp_path) as (app, pilot):
        await pilot.press("2")
        await pilot.pause(0.1)
        assert isinstance(app.screen, FleetMessagesScreen)
        assert [row.key[0] for row in table(app)] == ["eu", "billing", "us", "dr", "eu"]  # type: ignore[index]
        assert "Messages 5 of 7 contexts · " in text_of(app)
        assert "[@click=app.exit]quota[/] exceeded ␛[2J" in text_of(app)
        assert "billing-1" in text_of(app)  # not "you", which would be seven nodes
        await pilot.press("slash", *"deploy cluster:prod", "enter")
        await pilot.pause(0.1)
        assert len(table(app)) == 3
        assert "3 match deploy cluster:prod" in text_of(app)
        late = a_message(2, 5_000, b"deploy again")
        app.fleet.nodes["us"].model.messages.append(late, time.time())
        await pilot.pause(0.6)
        assert table(app)[0].cells[-1].text == "deploy again"
        await pilot.press("escape")
        await pilot.pause(0.1)
        assert len(table(app)) == 6
        await pilot.press("slash", *"since:1h", "enter")
        await pilot.pause(0.1)
        assert "unknown field since:" in text_of(app)


async def test_only_the_newest_messages_are_shown_and_all_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_tables, "MAX_ROWS", 2)
    async with staged(tmp_path, Destination(table="messages", filter_text="deploy")) as (
        app,
        pilot,
    ):
        await pilot.pause(0.1)
        assert len(table(app)) == 2
        assert "3 match deploy · the newest 2 shown" in text_of(app)


async def test_alerts_of_all_contexts_name_the_context_in_row_title_toast_and_notification(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    monkeypatch.setattr(FleetApp, "_has_terminal", True)
    monkeypatch.setattr(FleetApp, "_write_to_terminal", lambda _, text: written.append(text))
    async with staged(tmp_path, alert="notify") as (app, pilot):
        app.tick()
        await pilot.pause(0.1)
        assert "Fleet 7" in text_of(app)
        assert "! us loss" in text_of(app)  # in the title of the table
        assert "! loss · " in text_of(app)  # in its row
        assert "us: alert loss: node-10: peer.loss 4.1 %; peer.loss > 2%" in text_of(app)
        assert "\x1b]9;us: alert loss: node-10: peer.loss 4.1 %; peer.loss > 2%\x07" in written
        assert "\x1b]2;! us loss · fleet · grapevine\x07" in written
        assert not any("staging" in each for each in written)  # it is muted
        count = len(written)
        app.tick()
        assert len(written) == count  # told once
        await pilot.press("exclamation_mark")
        await pilot.pause(0.1)
        assert "Alerts 7 of 7 contexts · 1 firing: us loss · muted here: staging" in text_of(app)
        assert [row.key for row in table(app)][:2] == [
            ("staging", ("few", None)),
            ("us", ("loss", an_id(10))),
        ]
        assert [row.is_alarm for row in table(app)][:2] == [False, True]


async def test_an_alert_is_muted_in_its_context_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    muted: list[tuple[str, str]] = []
    async with staged(tmp_path) as (app, pilot):
        for name, node in app.fleet.nodes.items():

            async def mute(alert: str, for_s: int | None = None, name: str = name) -> None:
                muted.append((name, alert))

            monkeypatch.setattr(node.host, "refresh", lambda: None)
            if not node.context.is_readonly:
                monkeypatch.setattr(node.host, "mute", mute)
        await pilot.press("exclamation_mark")
        await pilot.pause(0.1)
        await pilot.press("down", "M")
        await pilot.pause(0.1)
        assert muted == [("us", "loss")]
        assert "us: the alert loss is muted" in text_of(app)
        await pilot.press("slash", *"context:billing", "enter", "M")
        await pilot.pause(0.1)
        assert "billing is read-only; M in the table of contexts" in text_of(app)
        assert muted == [("us", "loss")]


async def test_a_context_is_muted_and_heard_again_in_this_app(tmp_path: Path) -> None:
    async with staged(tmp_path) as (app, pilot):
        await pilot.press("slash", *"context:us", "enter")
        assert app.fleet.alert_names == ["us loss"]
        await pilot.press("M")
        await pilot.pause(0.1)
        assert not app.fleet.alert_names
        assert "us muted" in text_of(app)
        assert "M Unmute" in text_of(app)
        await pilot.press("M")
        assert app.fleet.alert_names == ["us loss"]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (("m", "enter"), Destination("us", "members", an_id(11))),
        (("2", "down", "enter"), Destination("billing", "messages", 0)),
        (("exclamation_mark", "down", "enter"), Destination("us", "alerts")),
        (("alt+2",), Destination("eu")),
        (("colon", *"ctx us", "enter"), Destination("us")),
        (("colon", *"ctx buling", "enter"), Destination("billing")),
    ],
)
async def test_a_row_or_a_word_leads_to_its_context(
    keys: tuple[str, ...], expected: Destination, tmp_path: Path
) -> None:
    async with staged(tmp_path) as (app, pilot):
        for key in keys:
            await pilot.press(key)
            await pilot.pause(
                0.2
                if key in ("m", "2", "colon", "exclamation_mark") or key == keys[-2:][0]
                else 0.01
            )
        for _ in range(50):
            if app.destination is not None:
                break
            await pilot.pause(0.05)
        assert app.destination == expected


async def test_a_context_that_never_answered_is_not_opened(tmp_path: Path) -> None:
    async with staged(tmp_path) as (app, pilot):
        app.show_context("lab")
        await pilot.pause()
        assert app.destination is None
        assert "lab has not answered yet" in text_of(app)
