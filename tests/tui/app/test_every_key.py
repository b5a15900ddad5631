"""Every key in the help does what it says; a key without a case here fails the test."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from textual.binding import Binding

from grapevine_proto.events import AntiEntropyRound, TraceUpdated
from grapevine_tui.app.app import GrapevineApp
from grapevine_tui.app.screens.alerts import AlertsScreen
from grapevine_tui.app.screens.help import sections
from grapevine_tui.app.screens.members import MembersScreen
from grapevine_tui.app.screens.message import MessageScreen
from grapevine_tui.app.screens.network import HoldersScreen, MatrixScreen, TopologyScreen
from grapevine_tui.app.screens.node import NodeScreen
from grapevine_tui.app.screens.past import EventsScreen, HistoryScreen, PastScreen
from grapevine_tui.app.screens.settings import SettingsScreen
from grapevine_tui.app.screens.state import StateScreen
from grapevine_tui.app.screens.trace import TraceScreen
from grapevine_tui.app.screens.traffic import TrafficScreen
from grapevine_tui.app.widgets.fact_sheet import FactSheet
from grapevine_tui.app.widgets.grid import Grid
from grapevine_tui.config.settings import load_settings
from grapevine_tui.host.alerts import AlertStatus
from grapevine_tui.host.query import MATCH_ALL
from grapevine_tui.host.views import ShowTopology
from tests.tui.fake_host import FakeHost
from tests.tui.stage import Stage
from tests.tui.values import a_member, a_peer, a_round, a_trace, received

Check = Callable[[Stage], bool]
LINES = 60


class Effect(NamedTuple):
    """After the keys in `before`, the key makes `shows` true, which was false."""

    before: tuple[str, ...]
    shows: Check


def text(expected: str) -> Check:
    return lambda stage: expected in stage.text


def front(kind: type) -> Check:
    return lambda stage: isinstance(stage.app.screen, kind)


def focused(name: str) -> Check:
    return lambda stage: stage.focused == name


def line(number: int) -> Check:
    """Return whether the cursor of the panel in front is on that line; a negative one counts from the end."""

    def is_there(stage: Stage) -> bool:
        grid = stage.main.peers
        return grid.cursor_key == grid.rows[number].key

    return is_there


def message(number: int) -> Check:
    def is_there(stage: Stage) -> bool:
        entry = stage.main.log_view.cursor_entry
        return entry is not None and entry.number == number and not stage.is_following

    return is_there


def copied(expected: str) -> Check:
    return lambda stage: expected in stage.app.clipboard


def draft(expected: str) -> Check:
    return lambda stage: stage.main.compose_box.draft.text == expected


def filtered(expected: str) -> Check:
    return lambda stage: stage.main.log_view.filter_query.text == expected


def sorted_by(title: str, *, is_descending: bool) -> Check:
    def is_there(stage: Stage) -> bool:
        grid = stage.main.peers
        order = grid.row_order
        titles = [each.title for each in grid._columns]
        return order is not None and (titles[order.column], order.is_descending) == (
            title,
            is_descending,
        )

    return is_there


def file(pattern: str) -> Check:
    return lambda stage: bool(list(Path.cwd().glob(pattern)))


def scrolled(stage: Stage) -> bool:
    return stage.app.screen.query_one(FactSheet).scroll_offset.y > 0


def top(stage: Stage) -> bool:
    return not stage.has_sheet or stage.app.screen.query_one(FactSheet).scroll_offset.y == 0


def past(stage: Stage) -> PastScreen:
    screen = stage.app.screen
    assert isinstance(screen, PastScreen)
    return screen


def around(at_least_s: float, at_most_s: float) -> Check:
    """Return whether the screen shows a time so long ago."""

    def is_there(stage: Stage) -> bool:
        key = past(stage).around
        return key is not None and at_least_s <= time.time() - key / 1e6 <= at_most_s

    return is_there


def asked(count: int) -> Check:
    """Return whether the members were asked that often, or more, since the screen was opened."""
    return lambda stage: len(stage.host.views) >= count


def tree(stage: Stage) -> bool:
    return bool(stage.host.views) and stage.host.views[-1] != ShowTopology()


EVENTS = ("E",)
PEERS = ("1", "g")
LOG = ("2", "G")
FIND = (*LOG, "ctrl+f", *"/5$/", "enter")
HELP = ("question_mark",)
QUERIES = ("i", *"/queries", "enter")
EFFECTS: dict[str, dict[str, Effect]] = {
    "Everywhere": {
        "help": Effect((), text("Everywhere")),
        "command_palette": Effect((), text("Search")),
        "members": Effect((), front(MembersScreen)),
        "status": Effect((), text("this node")),
        "events": Effect((), front(EventsScreen)),
        "history": Effect((), front(HistoryScreen)),
        "alerts": Effect((), front(AlertsScreen)),
        "traces": Effect((), front(TraceScreen)),
        "topology": Effect((), front(TopologyScreen)),
        "matrix": Effect((), front(MatrixScreen)),
        "state": Effect((), front(StateScreen)),
        "traffic": Effect((), front(TrafficScreen)),
        "settings": Effect((), front(SettingsScreen)),
        "save_screenshot": Effect((), file("*.svg")),
        "undo": Effect((), text("nothing to undo")),
        "quit": Effect((), text("Leave the cluster?")),
    },
    "Panels": {
        "next_panel(1)": Effect(("1",), focused("log")),
        "next_panel(-1)": Effect(("2",), focused("peers")),
        "panel('peers')": Effect((), focused("peers")),
        "panel('log')": Effect(("1",), focused("log")),
        "panel('rates')": Effect((), focused("rates")),
        "panel('rounds')": Effect((), focused("rounds")),
        "filter": Effect((), lambda stage: stage.main.filter_bar.display),
        "write": Effect((), focused("draft")),
        "next_tab(1)": Effect((), text("no saved filters")),
        "next_tab(-1)": Effect((), text("no saved filters")),
        "next_layout": Effect((), lambda stage: not stage.shows("rates")),
        "zoom": Effect(("1",), lambda stage: not stage.shows("log")),
        "pause": Effect((), lambda stage: stage.main.is_paused),
        "dial": Effect((), draft("/dial ")),
        "round": Effect((), lambda stage: stage.host.node.rounds_requested > 0),
        "back": Effect(("1", "z"), lambda stage: stage.shows("log")),
    },
    "Tables": {
        "select": Effect(PEERS, front(NodeScreen)),
        "sort": Effect(PEERS, lambda stage: stage.main.peers.row_order is not None),
        "reverse": Effect((*PEERS, "s"), lambda stage: falling(stage.main.peers)),
        "move(1)": Effect(PEERS, line(1)),
        "move(-1)": Effect((*PEERS, "j", "j"), line(1)),
        "page(1)": Effect(PEERS, lambda stage: not line(0)(stage)),
        "page(-1)": Effect(("1", "G"), lambda stage: not line(-1)(stage)),
        "first": Effect(("1", "G"), line(0)),
        "last": Effect(PEERS, line(-1)),
        "sort_by('name')": Effect(PEERS, sorted_by("peer", is_descending=False)),
        "sort_by('rtt')": Effect(PEERS, sorted_by("rtt", is_descending=True)),
        "sort_by('load')": Effect(PEERS, sorted_by("in/s", is_descending=True)),
        "sort_by('zone')": Effect(PEERS, sorted_by("zone", is_descending=False)),
    },
    "Peers and members, in tables and details": {
        "request('send')": Effect(PEERS, draft("/send node-00 ")),
        "request('redial')": Effect(PEERS, lambda stage: "10.0.0.7:8001" in stage.host.dials),
        "request('deny')": Effect(PEERS, text("Deny this node?")),
        "request('forget')": Effect(PEERS, text("Forget this node?")),
        "request('follow')": Effect((*PEERS, "j"), filtered("from:node-01")),
        "request('copy')": Effect(PEERS, copied("10.0.0.7:80")),
        "request('copy_id')": Effect(PEERS, copied("000000")),
    },
    "Rate limits": {"authors": Effect(("3",), text("share"))},
    "Messages": {
        "find": Effect(LOG, lambda stage: stage.main.filter_bar.display),
        "next_match(1)": Effect((*FIND, "b"), message(LINES - 6)),
        "next_match(-1)": Effect(FIND, message(LINES - 16)),
        "request('has')": Effect(LOG, front(HoldersScreen)),
        "request('copy_id')": Effect(LOG, copied(f":{LINES}")),
        "request('follow')": Effect(LOG, filtered("from:node-00")),
        "export": Effect(LOG, file("*.jsonl")),
        "select": Effect(LOG, front(MessageScreen)),
        "request('copy')": Effect(LOG, copied(f"line {LINES}")),
        "move(1)": Effect((*LOG, "k", "k", "k"), message(LINES - 2)),
        "move(-1)": Effect(LOG, message(LINES - 1)),
        "page(1)": Effect(("2", "g"), lambda stage: not message(0)(stage)),
        "page(-1)": Effect(LOG, lambda stage: not stage.is_following),
        "first": Effect(LOG, message(0)),
        "follow": Effect(("2", "g"), lambda stage: stage.is_following),
    },
    "Traces": {
        "trace": Effect(("t",), draft("/trace ")),
        "older(1)": Effect(("t",), text("─ 1 of 2")),
        "older(-1)": Effect(("t", "left"), text("─ 2 of 2")),
    },
    "Queries": {
        "query": Effect(QUERIES, draft("/query ")),
        "older(1)": Effect(QUERIES, text("─ 1 of 2")),
        "older(-1)": Effect((*QUERIES, "left"), text("─ 2 of 2")),
    },
    "Topology, latency and holders": {
        "ask_again": Effect(("O",), asked(2)),
        "tree": Effect(("O",), tree),
    },
    "Traffic over time": {
        "time_range(1)": Effect(("T",), text("15 min ago")),
        "time_range(-1)": Effect(("T", "left"), text("1 min ago")),
    },
    "Events and history": {
        "find": Effect(EVENTS, lambda stage: past(stage).filter_bar.display),
        "next_match(1)": Effect(EVENTS, lambda stage: past(stage).filter_bar.display),
        "next_match(-1)": Effect(EVENTS, lambda stage: past(stage).filter_bar.display),
        "go_to_time": Effect(EVENTS, lambda stage: past(stage).filter_bar.display),
        "travel(-86400)": Effect(EVENTS, around(80_000, 100_000)),
        "travel(86400)": Effect((*EVENTS, "left", "left"), around(80_000, 100_000)),
        "travel(-3600)": Effect(EVENTS, around(3_500, 5_000)),
        "travel(3600)": Effect((*EVENTS, *["left_curly_bracket"] * 2), around(3_500, 5_000)),
        "travel(-60)": Effect(EVENTS, around(59, 100)),
        "travel(60)": Effect((*EVENTS, *["left_square_bracket"] * 2), around(59, 100)),
        "problems": Effect(EVENTS, lambda stage: past(stage).words == "-level:info"),
    },
    "Alerts": {"mute": Effect(("exclamation_mark",), text("1 muted"))},
    "Settings": {"save": Effect(("C",), text("no changes"))},
    "Details": {
        "next_format": Effect((*LOG, "enter"), text("6c 69 6e 65")),
        "back": Effect(HELP, lambda stage: not stage.has_sheet),
        "scroll(1)": Effect(HELP, scrolled),
        "scroll(-1)": Effect((*HELP, "j"), top),
        "scroll(10)": Effect(HELP, scrolled),
        "scroll(-10)": Effect((*HELP, "j"), top),
        "scroll(-1000000)": Effect((*HELP, "G"), top),
        "scroll(1000000)": Effect(HELP, scrolled),
        "copy(0)": Effect((*LOG, "enter"), copied(f"line {LINES}")),
        "copy(1)": Effect((*LOG, "enter"), copied(f":{LINES}")),
    },
    "Compose box": {
        "submit": Effect(("i", "h", "o"), lambda stage: b"ho" in stage.host.broadcasts),
        "newline": Effect(("i", "h"), draft("h\n")),
        "release": Effect(("i",), lambda stage: stage.focused != "draft"),
        "earlier": Effect(("i", "h", "i", "enter"), draft("hi")),
        "later": Effect(("i", "h", "i", "enter", "up"), draft("")),
        "complete": Effect(("i", "slash", "s", "e"), draft("/send ")),
        "interrupt": Effect(("i", "h"), draft("")),
    },
}


def falling(grid: Grid) -> bool:
    return grid.row_order is not None and grid.row_order.is_descending


async def restart(stage: Stage) -> None:
    """Restore the state of the start, with the focus in the panels."""
    app, main, host = stage.app, stage.main, stage.host
    while app.screen is not main:
        await app.pop_screen()
    app.clear_notifications()
    app.copy_to_clipboard("")
    host.peers = a_host().peers
    host.node.rounds_requested = 0
    host.dials.clear()
    host.broadcasts.clear()
    main.compose_box.draft.clear()
    main.filter_bar.display = False
    main.peers.row_order = None
    main.log_view.set_filter(MATCH_ALL)
    if main.is_paused:
        main.action_pause()
    main.log_view.action_follow()
    main.action_panel("log")
    while not stage.shows("peers"):
        main.action_zoom()
    main.show_layout("all")
    await stage.paint()


def a_host() -> FakeHost:
    host = FakeHost()
    host.peers = [a_peer(number + 1, f"node-{number:02}") for number in range(30)]
    host.members = [a_member(number + 1, f"node-{number:02}") for number in range(30)]
    host.happen(*(received(1, n, f"line {n}".encode()) for n in range(1, LINES + 1)))
    host.happen(AntiEntropyRound(a_round(1, 1)))
    host.happen(TraceUpdated(a_trace(1, 2)), TraceUpdated(a_trace(2, 2)))
    host.model.alerts = (AlertStatus("few", "peers < 99", "firing", None, "peers 30", 5.0),)
    host.model.add_query("/query load")
    host.model.add_query("/query load again")
    return host


def keys_of(section: str) -> list[tuple[str, str]]:
    """Return the (key, action) pairs of a section of the help."""
    part = dict(sections({}))[section]
    bindings = [each if isinstance(each, Binding) else Binding(*each) for each in part]
    return [(each.key, each.action) for each in Binding.make_bindings(bindings)]


def test_every_section_of_the_help_is_looked_at_here() -> None:
    assert [name for name, _ in sections({})] == list(EFFECTS)
    for name, effects in EFFECTS.items():
        assert {action for _, action in keys_of(name)} == effects.keys()


@pytest.mark.parametrize("section", list(EFFECTS))
@pytest.mark.asyncio
async def test_every_key_of_the_help_does_what_it_describes(
    section: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    settings = load_settings({}, {}, directory=tmp_path).with_keys()
    host = a_host()
    app = GrapevineApp(host.with_settings(settings), settings)
    async with app.run_test(size=(120, 36), notifications=True) as pilot:
        stage = Stage(app, host, pilot)
        host.keep_history(tmp_path)
        for number, (key, action) in enumerate(keys_of(section)):
            effect = EFFECTS[section][action]
            directory = tmp_path / f"{number}"
            directory.mkdir()
            monkeypatch.chdir(directory)
            await restart(stage)
            for before in effect.before:
                await pilot.press(before)
            await stage.paint()
            assert not effect.shows(stage), f"{key} has nothing to do"
            await pilot.press(key)
            async with asyncio.timeout(20):
                while not effect.shows(stage):
                    await stage.paint()
