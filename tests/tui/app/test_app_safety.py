"""A stray key disconnects no peer and loses no work on any screen without a confirmation."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from grapevine_proto.events import MessageReceived
from grapevine_proto.ids import PeerId
from grapevine_tui.app.screens.confirm import ConfirmScreen
from grapevine_tui.config import keymap
from grapevine_tui.config.settings import load_settings
from tests.tui.fake_host import FakeHost
from tests.tui.stage import Stage, staged
from tests.tui.values import a_member, a_message, a_peer, an_id, received

pytestmark = pytest.mark.asyncio


def peopled() -> FakeHost:
    host = FakeHost()
    host.peers = [a_peer(1, "bob"), a_peer(2, "carol")]
    host.members = [a_member(1, "bob"), a_member(2, "carol")]
    host.happen(received(1, 1, b"hello"))
    return host


def of_a_demo() -> Any:
    """Return settings that can be edited and are not saved to a file."""
    return load_settings({"app.demo": True}, {}).with_keys()


def found(directory: Path, pattern: str) -> list[Path]:
    return list(directory.glob(pattern))


def is_asked(stage: Stage) -> bool:
    return isinstance(stage.app.screen, ConfirmScreen)


FRONTS = {
    "members": ("m",),
    "node": ("1", "g", "enter"),
    "message": ("2", "enter"),
    "status": ("S",),
    "help": ("question_mark",),
    "traces": ("t",),
    "traffic": ("T",),
    "settings": ("C",),
}
OPENS = {
    "help": "help", "members": "members", "status": "status", "traces": "traces", "traffic": "traffic",
    "settings": "settings",
}  # fmt: skip


async def test_q_leaves_with_connected_peers_only_after_confirmation() -> None:
    async with staged(peopled()) as stage:
        await stage.press("q")
        assert is_asked(stage)
        for expected in (
            "Leave the cluster?",
            "to 2 peers; this node leaves the cluster",
            " Leave",
            " Stay",
        ):
            assert expected in stage.text
        for no in ("escape", "n", "q", "ctrl+c"):
            await stage.press(no, "q")
            assert stage.host.left == 0
        await stage.press("enter")
    assert stage.host.left == 1
    assert stage.app.return_code == 0


async def test_an_unfinished_line_is_named_before_leaving() -> None:
    async with staged() as stage:
        stage.main.compose_box.draft.replace_text("half a line\x1b[2J")
        await stage.press("ctrl+c")
        assert is_asked(stage)
        assert "half a line" in stage.text
        await stage.press("escape", "q", "y")
    assert stage.host.left == 1


@pytest.mark.parametrize("front", list(FRONTS))
async def test_q_on_a_screen_in_front_goes_back_and_never_leaves_the_cluster(front: str) -> None:
    host = peopled()
    async with staged(host, settings=of_a_demo()) as stage:
        await stage.press(*FRONTS[front])
        assert stage.app.screen.name == front
        last = stage.text.split("\n")[-1]
        assert "q Back" in last
        assert "Quit" not in last
        await stage.press("q")
        assert stage.app.screen is stage.main
    assert host.left == 1  # only because the test ends


@pytest.mark.parametrize("front", list(FRONTS))
async def test_every_global_key_is_a_key_on_every_screen(front: str) -> None:
    async with staged(peopled(), settings=of_a_demo()) as stage:
        await stage.press(*FRONTS[front])
        names = {b.id for _, b, is_live, _ in stage.app.screen.active_bindings.values() if is_live}
        assert {key.name for key in keymap.GLOBAL_KEYS} <= names
        for name, opened in OPENS.items():
            key = next(key for key in keymap.GLOBAL_KEYS if key.name == name)
            await stage.press(key.keys)
            assert stage.app.screen.name == opened
        assert len(stage.app.screen_stack) <= 2 + len(OPENS)
        names_there = [each.name for each in stage.app.screen_stack]
        assert len(set(names_there)) == len(names_there)


async def test_edits_outlast_every_way_out_of_the_settings_but_a_yes() -> None:
    async with staged(peopled(), settings=of_a_demo()) as stage:
        await stage.press("C")
        editing = stage.app._settings_editor
        assert editing is not None
        editing.set_value("fanout", "5")
        await stage.press("m", "escape", "escape")
        assert is_asked(stage)
        assert "fanout" in stage.text
        await stage.press("escape", "t", "plus")
        assert stage.app.screen is stage.main
        await stage.press("ctrl+c", "escape", "q")
        assert is_asked(stage)
        assert "not saved" in stage.text
        await stage.press("escape", "C")
        assert "1 changed, ctrl+s saves" in stage.text
        assert editing.pending == ("fanout",)


async def test_no_key_acts_on_a_cursor_that_is_not_seen() -> None:
    host = peopled()
    host.happen(*(received(1, each, f"line {each}.".encode()) for each in range(2, 200)))
    host.peers = [a_peer(each, f"node-{each:02}") for each in range(1, 60)]
    async with staged(host) as stage:
        log, table = stage.main.log_view, stage.main.peers
        await stage.press("2", "y")
        assert stage.app.clipboard == "line 199."  # the newest, which is highlighted
        stage.app.copy_to_clipboard("")
        log.scroll_to(y=20, animate=False)
        await stage.paint()
        for key in ("y", "enter"):
            log._cursor = None
            await stage.press(key)
            assert stage.app.clipboard == ""
            assert stage.app.screen is stage.main
            assert "Cursor moved into view" in stage.text
        await stage.press("y")
        assert stage.app.clipboard.startswith("line ")
        stage.app.copy_to_clipboard("")
        await stage.press("1", "g", "j")
        table.scroll_to(y=30, animate=False)
        await stage.paint()
        await stage.press("y")
        assert stage.app.clipboard == ""
        await stage.press("y")
        assert stage.app.clipboard


async def test_a_switch_is_named_for_the_state_it_leads_to() -> None:
    async with staged(peopled(), size=(250, 40)) as stage:
        for key, before, after in (("z", "Zoom", "All panels"), ("space", "Pause", "Resume")):
            assert f" {before}" in stage.text.split("\n")[-1]
            await stage.press(key)
            last = stage.text.split("\n")[-1]
            assert f" {after}" in last
            assert f" {before}" not in last
            await stage.press(key)
            assert f" {before}" in stage.text.split("\n")[-1]
        await stage.press("3")
        assert "a By author" in stage.text.split("\n")[-1]
        await stage.press("a")
        assert "a By peer" in stage.text.split("\n")[-1]


async def test_enter_in_the_settings_is_called_what_it_does() -> None:
    async with staged(peopled(), settings=of_a_demo()) as stage:
        await stage.press("C")
        last = stage.text.split("\n")[-1]
        assert "⏎ Change" in last
        assert "Details" not in last


async def test_leaving_that_was_asked_for_elsewhere_is_not_asked_about() -> None:
    async with staged(peopled()) as stage:
        stage.app.request_shutdown()
        async with asyncio.timeout(20):
            while stage.app.is_running:
                await stage.pilot.pause(0.01)
    assert stage.host.left == 1


async def test_denying_is_asked_about_once_named_and_undone_within_ten_seconds() -> None:
    host = peopled()
    async with staged(host) as stage:
        await stage.press("1", "g", "D")
        for expected in ("Deny this node?", "bob", "disconnected at once", "this node restarts"):
            assert expected in stage.text
        await stage.press("n")
        assert host.denied == []
        await stage.press("D", "enter")
        assert host.denied == [an_id(1)]
        assert "done: deny bob" in stage.text
        assert "u undoes it for 10 s" in stage.text
        assert "⊘ denied" in stage.text
        stage.app.clear_notifications()
        await stage.press("m", "u")  # from any screen
        assert host.denied == []
        assert an_id(1) not in host.model.denied
        await stage.press("u")
        assert "nothing to undo" in stage.text
        assert [line.text.split(" (")[0] for line in host.model.commands] == [
            "deny bob", "undo: deny bob", "allow bob",
        ]  # fmt: skip
        await stage.press("S")
        assert "command log" in stage.text
        assert "undo: deny bob" in stage.text


async def test_what_was_done_longer_ago_is_not_undone() -> None:
    host = peopled()
    async with staged(host, size=(200, 40)) as stage:
        await stage.submit("/deny bob")
        assert is_asked(stage)
        await stage.press("y")
        undo = stage.app._undo
        assert undo is not None
        stage.app._undo = undo._replace(expires_at=0.0)
        await stage.press("escape", "u")
        assert host.denied == [an_id(1)]
        assert "nothing to undo" in stage.text
        await stage.press("1")
        stage.main.peers._move_cursor(1)
        await stage.paint()
        assert "D Allow" in stage.text.split("\n")[-1]


async def test_a_node_is_denied_for_a_time_by_key_or_line() -> None:
    host = peopled()
    async with staged(host) as stage:
        await stage.press("1", "g", "D")
        assert "t Deny for 10 m" in stage.text
        await stage.press("t")
        assert (host.denied, host.denied_for) == ([an_id(1)], [600])
        assert "for 10 m" in stage.text
        await stage.submit("/deny --for 90 carol")
        assert "90" not in stage.text.split("until")[1].split("\n")[0]
        assert "1 m 30 s are over" in stage.text
        await stage.press("t")  # a time was given: there is no milder way
        assert is_asked(stage)
        await stage.press("enter")
        assert host.denied_for == [600, 90]
        await stage.submit("/deny --for 0 carol")
        assert "for: expected 1 to" in stage.text


async def test_a_typed_deny_of_an_unknown_peer_is_rejected_before_confirmation() -> None:
    async with staged(peopled()) as stage:
        for line in ("/deny nobody", "/forget nobody", "/allow nobody"):
            await stage.submit(line)
            assert not is_asked(stage)
            assert "nobody" in stage.text
        assert stage.host.denied == []


async def test_discarded_edits_can_be_had_back_for_a_moment() -> None:
    async with staged(peopled(), settings=of_a_demo()) as stage:
        await stage.press("C")
        editing = stage.app._settings_editor
        assert editing is not None
        editing.set_value("fanout", "5")
        await stage.press("q")
        assert is_asked(stage)
        assert "Discard" in stage.text
        await stage.press("y")
        assert not editing.pending
        await stage.press("u", "C")
        assert stage.app._settings_editor is editing
        assert editing.pending == ("fanout",)
        assert editing.value("fanout").value == 5
        assert "1 changed, ctrl+s saves" in stage.text


async def test_every_word_does_in_the_app_what_its_key_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with staged(peopled()) as stage:
        await stage.submit("/pause")
        assert stage.main.is_paused
        await stage.submit("/pause")
        await stage.press("escape", "2")
        await stage.submit("/zoom")
        assert not stage.shows("peers")
        await stage.submit("/zoom")
        await stage.press("escape", "2")
        await stage.submit("/filter from:bob")
        assert stage.main.log_view.filter_query.text == "from:bob"
        await stage.submit("/filter")
        assert not stage.main.log_view.filter_query
        await stage.submit("/round")
        assert stage.host.node.rounds_requested == 1
        await stage.submit("/traffic")
        assert stage.app.screen.name == "traffic"
        await stage.press("escape")
        await stage.submit("/screenshot")
        assert found(tmp_path, "*.svg")
        await stage.submit("/undo")
        assert "nothing to undo" in stage.text
        await stage.submit("/forget bob")
        assert is_asked(stage)


async def test_topics_are_published_shown_and_subscribed_to_by_word() -> None:
    host = peopled()
    async with staged(host) as stage:
        await stage.submit("/publish deploy.web version 2 is out")
        assert host.published == [("deploy.web", b"version 2 is out", None)]
        assert "publish deploy.web: 16 bytes" in host.model.commands[-1].text
        host.happen(MessageReceived(a_message(1, 90, b"of a deploy", topic="deploy.db")))
        host.happen(MessageReceived(a_message(1, 91, b"of a metric", topic="metrics.cpu")))
        host.happen(MessageReceived(a_message(1, 92, b"of nothing")))
        await stage.paint()
        assert "deploy.db  of a deploy" in stage.text
        await stage.submit("/subscribe deploy.>")
        assert stage.main.log_view.filter_query.text == "topic:deploy.>"
        await stage.paint()
        assert "of a deploy" in stage.text
        assert "of a metric" not in stage.text
        assert "of nothing" not in stage.text
        await stage.submit("/subscribe a..b")
        assert "pattern: 'a..b' is empty, or has an empty part" in stage.text
        await stage.submit("/publish deploy.web")
        assert "missing TEXT" in stage.text


async def test_what_the_cursor_is_on_is_copied_by_word() -> None:
    async with staged(peopled()) as stage:
        await stage.press("escape", "1", "g")
        peer = stage.main.peers.cursor_key
        assert isinstance(peer, PeerId)
        await stage.submit("/copy_id")
        assert stage.app.clipboard == str(peer)
        await stage.submit("/copy")
        assert stage.app.clipboard == str(stage.host.model.peers[peer].address)
        await stage.press("escape", "2", "g")
        entry = stage.main.log_view.cursor_entry
        assert entry is not None
        await stage.submit("/copy_id")
        assert stage.app.clipboard == str(entry.message.id)
        await stage.press("escape", "4")
        await stage.submit("/copy")
        assert "/copy works on peers and messages" in stage.text
        assert stage.app.clipboard == str(entry.message.id)


async def test_a_table_is_sorted_by_word() -> None:
    async with staged(peopled()) as stage:
        await stage.press("escape", "1")
        await stage.submit("/sort")
        sorting = stage.main.peers.row_order
        assert sorting is not None
        await stage.submit("/reverse")
        assert stage.main.peers.row_order == sorting._replace(
            is_descending=not sorting.is_descending
        )
        await stage.press("escape", "2")
        await stage.submit("/sort")
        assert "/sort works on tables" in stage.text


async def test_e_twice_writes_one_file_and_reports_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with staged(peopled()) as stage:
        for _ in range(2):
            await stage.press("2", "e")
            await stage.pilot.pause(0.1)
        assert len(found(tmp_path, "*.jsonl")) == 1
        assert "nothing new since" in stage.text
        stage.host.happen(received(1, 2, b"more"))
        await stage.press("e")
        await stage.pilot.pause(0.1)
        assert len(found(tmp_path, "*.jsonl")) == 2


async def test_settings_are_changed_and_reloaded_by_slash_command() -> None:
    async with staged(peopled(), settings=of_a_demo()) as stage:
        await stage.submit("/set_settings fanout=5")
        assert "applied (a demo saves nothing)" in stage.text
        assert [each.fanout for each in stage.host.configs] == [5]
        await stage.submit("/set_settings fanout=6 nonsense=1")
        assert "nonsense" in stage.text
        await stage.submit("/set_settings fanout=5")
        assert "no changes" in stage.text
        assert len(stage.host.configs) == 1
        await stage.submit("/reload")
        assert "a demo has no settings or keys in files" in stage.text
        await stage.submit("/help deny")
        assert "/deny [OPTIONS] PEER: Ban a peer" in stage.text


async def test_the_palette_runs_a_command_that_has_no_key_and_begins_one_that_needs_arguments() -> (
    None
):
    async with staged(peopled()) as stage:
        entries = {each.title: each for each in stage.app.get_system_commands(stage.app.screen)}
        entries["Stats"].callback()
        await stage.paint()
        assert stage.app.screen.name == "status"
        entries["Allow"].callback()
        await stage.paint()
        assert stage.app.screen is stage.main
        assert stage.main.compose_box.draft.text == "/allow "


SENDING = frozenset({"broadcast", "publish", "query", "send", "trace"})
PLACES = {**FRONTS, "queries": ("i", *"/queries", "enter"), "peers": ("1", "g"), "rates": ("3",)}


async def test_no_letter_begins_what_is_sent_to_others() -> None:
    parts = {part for group in keymap.SIMULTANEOUS_KEYS for part in group}
    keys = [key for part in parts for key in part if key.name in SENDING]
    assert {key.name for key in keys} == {"query", "send", "trace"}
    assert not [each for key in keys for each in key.keys.split(",") if len(each) == 1]


@pytest.mark.parametrize(
    ("place", "name"),
    [*((place, "node-3") for place in ("traces", "queries", "members", "help")),
     ("peers", "inode"), ("peers", "web-1"), ("rates", "web-1"), ("node", "web-1")],
)  # fmt: skip
async def test_a_name_typed_where_nothing_is_searched_is_sent_to_nobody(
    place: str, name: str
) -> None:
    host = peopled()
    host.members.append(a_member(3, "inode-3"))
    async with staged(host, settings=of_a_demo()) as stage:
        await stage.press(*PLACES[place])
        await stage.press(*name, "enter")
        calls = (host.broadcasts, host.traced, host.sends, host.published, host.queries)
        assert not any(calls)


async def test_a_part_of_a_name_is_sent_at_the_second_enter() -> None:
    host = peopled()
    host.members.append(a_member(3, "inode-3"))
    async with staged(host) as stage:
        await stage.press("i", *"nod", "enter")
        assert "'inod' is a part of a name" in stage.text
        assert host.broadcasts == []
        await stage.press("enter")
        assert host.broadcasts == [b"nod"]
        await stage.press(*"nod", "enter")  # the box was not just opened
        assert host.broadcasts == [b"nod", b"nod"]
