"""The app does what its keys say, at every size, with untrusted text from the network."""

from __future__ import annotations

import asyncio
import re
import time
from functools import partial
from pathlib import Path

import pytest
from textual import events

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.errors import BindError, NotRunning, UnknownPeer
from grapevine_proto.events import (
    AntiEntropyRound,
    DialFailed,
    NodeStopped,
    PeerDiscovered,
    PeerState,
    PeerStateChanged,
    RateLimited,
    RoundOutcome,
    StateSaveFailed,
)
from grapevine_proto.ids import Address
from grapevine_tui.app import key_sequencer
from grapevine_tui.app.widgets.rate_table import FLASH_S
from grapevine_tui.config import keymap
from tests.tui.fake_host import FakeHost, FakeSettings
from tests.tui.lively import fill
from tests.tui.stage import staged, text_of
from tests.tui.values import a_member, a_peer, a_round, an_id, received

pytestmark = pytest.mark.asyncio

HOSTILE = (
    "\x1b]0;x\x07",
    "[bold]",
    "[/nope]",
    "[@click=app.quit]x[/]",
    "\x1b[2J\x1b[31m",
    "\x9b31m",
    "\u202eevil",
    "a" + "\u0301" * 500,
    "\ud800",
    "$error",
    "{{x}}",
    "\\[",
)


def lively() -> FakeHost:
    host = FakeHost()
    fill(host, seconds=3)
    return host


async def test_the_screen_shows_identity_peers_and_messages() -> None:
    async with staged(lively()) as stage:
        text = stage.text
        for expected_text in (
            "grapevine  ams-1  127.0.0.1:8000  id a3f91c02  cluster default  zone eu-west  strategy auto",
            "Peers 5 up · 1 silent · 1 down · max 50",
            "● up      carol",
            "◐ silent  日本語",
            "✕ down    heidi",
            "Messages 59 · following",
            "Traffic · 40 messages/s",
            "Rate limits · 214 throttled",
            "9/100",
            "Anti-entropy round 381 · next in 12 s",
            "+ sent 0 got 4",
            "✕ no answer",
            "= in sync",
        ):
            assert expected_text in text


async def test_a_typed_line_is_broadcast() -> None:
    async with staged() as stage:
        await stage.press("i", *"quit? z1A", "enter")
        assert stage.host.broadcasts == [b"quit? z1A"]
        assert stage.main.compose_box.draft.text == ""
        assert "quit? z1A" in stage.text
        assert "no peers connected; queued until one joins" in stage.text


async def test_a_quick_hand_is_kept_up_with() -> None:
    async with staged() as stage:
        for key in ("i", *"one", "enter", *"two", "enter", *"three", "escape"):
            stage.app.simulate_key(key)  # all at once, as from a pasting script
        await stage.paint()
        assert stage.host.broadcasts == [b"one", b"two"]
        assert stage.main.compose_box.draft.text == "three"


async def test_lines_arrive_in_their_order_and_come_back_from_the_history() -> None:
    async with staged() as stage:
        for line in ("one", "two", "three"):
            await stage.submit(line)
        assert stage.host.broadcasts == [b"one", b"two", b"three"]
        draft = stage.main.compose_box.draft
        draft.replace_text("half a th")
        await stage.press("up", "up")
        assert draft.text == "two"
        await stage.press("down", "down")
        assert draft.text == "half a th"


async def test_a_line_may_have_more_lines() -> None:
    async with staged() as stage:
        await stage.press("i", "a", "ctrl+j", "b", "enter")
        assert stage.host.broadcasts == [b"a\nb"]


async def test_a_rejected_line_is_explained_and_restored_in_the_compose_box() -> None:
    async with staged() as stage:
        await stage.submit("x" * 1101)
        assert "the message has 1,101 bytes; at most 1,100 can be sent" in stage.text
        assert stage.main.compose_box.draft.text == "x" * 1101
        assert stage.main.compose_box.has_class("-refused")
        await stage.submit("/nonsense")
        assert "unknown command /nonsense" in stage.text
        await stage.submit("short")
        assert not stage.main.compose_box.has_class("-refused")
        assert stage.host.broadcasts == [b"short"]


async def test_an_empty_line_is_nothing() -> None:
    async with staged() as stage:
        await stage.press("enter", "space", "enter")
        assert stage.host.broadcasts == []
        assert not stage.main.compose_box.has_class("-refused")


async def test_the_size_stands_beside_the_limit_in_bytes() -> None:
    settings = FakeSettings(node=NodeConfig(max_message_size=4999))
    async with staged(settings=settings) as stage:
        await stage.press("i", "ü")
        assert "2 B of 4,999 B" in stage.text
        stage.main.compose_box.draft.replace_text("x" * 5000)
        await stage.paint()
        assert stage.app.query_one("#size").has_class("-over")


async def test_a_paste_is_cleaned_of_what_would_drive_the_terminal() -> None:
    async with staged() as stage:
        draft = stage.main.compose_box.draft
        from textual.events import Paste

        draft.post_message(Paste("\x1b]0;x\x07one\r\ntwo\u202e"))
        await stage.paint()
        assert draft.text == "\\x1b]0;x\\x07one\ntwo\\u202e"


async def test_slash_commands_do_what_their_help_describes() -> None:
    host = lively()
    async with staged(host) as stage:
        await stage.submit("/send bob only for you")
        assert host.sends == [("bob", b"only for you")]
        assert "sent to bob" in stage.text
        await stage.submit("/s nobody hm")
        assert "no peer or member named nobody" in stage.text
        await stage.submit("/dial 10.0.0.1:8000")
        assert host.dials == ["10.0.0.1:8000"]
        await stage.submit("/peers")
        assert stage.focused == "peers"
        await stage.submit("/rounds")
        assert stage.focused == "rounds"
        for line, expected_text in (
            ("/status", "this node"),
            ("/stats", "counters"),
            ("/members", "No other members yet"),
            ("/help", "Everywhere"),
        ):
            await stage.submit(line)
            assert stage.app.screen is not stage.main
            assert expected_text in stage.text
            await stage.press("escape")
        assert not stage.has_sheet


async def test_the_outcome_of_a_dial_is_shown_where_it_was_typed() -> None:
    host = lively()
    async with staged(host) as stage:
        there = Address("10.0.0.1", 8000)
        for end, expected_text in (
            (DialFailed(there, "no answer"), "no answer from 10.0.0.1:8000"),
            (PeerStateChanged(a_peer(9, "eve", address=there), None, ""), "connected to eve"),
        ):
            await stage.submit("/dial 10.0.0.1:8000")
            assert "dialing 10.0.0.1:8000" in stage.text
            host.happen(DialFailed(Address("10.0.0.2", 8000), "no answer"))
            assert "dialing 10.0.0.1:8000" in stage.text
            host.happen(end)
            stage.app.clear_notifications()
            await stage.paint()
            assert expected_text in stage.text
            assert "dialing 10" not in stage.text


async def test_dialing_a_connected_peer_is_answered_at_once() -> None:
    host = FakeHost()
    host.peers = [a_peer(1, "bob", address=Address("10.0.0.1", 8000))]
    async with staged(host) as stage:
        await stage.submit("/dial 10.0.0.1:8000")
        assert "already connected to bob" in stage.text
        assert "dialing" not in stage.text


async def test_an_error_of_the_node_is_shown_as_text() -> None:
    host = FakeHost(broadcast=NotRunning("the node is leaving"), dial=UnknownPeer("no such host"))
    async with staged(host) as stage:
        await stage.submit("hello")
        assert "the node is leaving" in stage.text
        await stage.submit("/dial nowhere:1")
        assert "no such host" in stage.text


async def test_the_panels_have_the_first_keys_and_the_footer_shows_them() -> None:
    async with staged() as stage:
        assert stage.focused == "log"
        assert "i Write" in stage.text.split("\n")[-1]
        await stage.press("z")
        assert not stage.shows("peers")
        assert stage.main.compose_box.draft.text == ""


async def test_escape_leaves_the_box_and_i_enters_it() -> None:
    async with staged() as stage:
        await stage.press("i", "h", "i", "escape")
        assert stage.focused == "log"
        assert stage.main.compose_box.draft.text == "hi"  # the draft survives
        await stage.press("1")
        assert stage.focused == "peers"
        await stage.press("i")
        assert stage.focused == "draft"


async def test_tab_and_digits_go_to_the_panels() -> None:
    async with staged(lively()) as stage:
        seen = []
        for _ in range(4):
            await stage.press("tab")
            seen.append(stage.focused)
        assert seen == ["rates", "rounds", "peers", "log"]
        await stage.press("shift+tab")
        assert stage.focused == "peers"
        for key, name in (("1", "peers"), ("2", "log"), ("3", "rates"), ("4", "rounds")):
            await stage.press(key)
            assert stage.focused == name


async def test_zoom_maximizes_a_panel_and_restores_it() -> None:
    async with staged(lively()) as stage:
        await stage.press("escape", "3")
        before = stage.main.rates.size
        await stage.press("z")
        assert stage.main.rates.size.width == 118
        assert stage.main.rates.size.height > 25
        assert not stage.shows("peers")
        await stage.press("4")
        assert stage.shows("rounds")
        assert not stage.shows("rates")
        await stage.press("escape")
        assert stage.shows("peers")
        assert stage.main.rates.size.width == before.width


async def test_space_lets_the_screen_stand_still_and_then_catches_up() -> None:
    async with staged() as stage:
        await stage.press("escape", "space")
        stage.host.happen(received(1, 1, b"while you looked"))
        await stage.paint()
        assert "PAUSED" in stage.text
        assert "while you looked" not in stage.text
        await stage.press("space")
        assert "while you looked" in stage.text
        assert "PAUSED" not in stage.text


async def test_a_starts_a_round_and_c_asks_for_an_address() -> None:
    async with staged() as stage:
        await stage.press("i", "d", "r", "escape", "A")
        assert stage.host.node.rounds_requested == 1
        await stage.press("c")
        assert "❯ dial" in stage.text
        await stage.press(*"10.0.0.1:8000", "enter")
        assert stage.host.dials == ["10.0.0.1:8000"]
        await stage.press("escape", "c", "escape")
        assert "❯ dial" not in stage.text


async def test_the_draft_comes_back_when_the_question_for_an_address_is_dropped() -> None:
    async with staged() as stage:
        await stage.press("i", "d", "r", "escape", "c", "escape")
        assert stage.main.compose_box.draft.text == "dr"


async def test_a_draft_laid_aside_is_back_before_the_next_letter_is_typed() -> None:
    async with staged() as stage:
        for key in ("i", "d", "r", "escape"):
            await stage.pilot.press(key)
        await stage.press("c", *"1.2.3.4:5")
        for key in ("enter", "x"):
            stage.app.simulate_key(key)
        await stage.paint()
        assert stage.host.dials == ["1.2.3.4:5"]
        assert stage.main.compose_box.draft.text == "drx"


async def test_enter_on_a_peer_shows_all_of_it_as_it_is_now() -> None:
    async with staged(lively()) as stage:
        await stage.press("escape", "1", "j", "enter")
        assert stage.has_sheet
        for expected_text in (
            "carol",
            str(stage.host.peers[1].peer_id),
            "0.95",
            "81ms",
            "214",
            "us-east",
        ):
            assert expected_text in stage.text
        await stage.press("q")
        assert "esc Back" not in stage.text
        assert stage.app.is_running


async def test_enter_on_a_message_shows_it_whole() -> None:
    async with staged() as stage:
        stage.host.happen(received(1, 1, b'{"a": [1, 2]}'), received(2, 1, bytes(range(250, 256))))
        await stage.paint()
        await stage.press("escape", "2", "k", "k", "enter")
        assert '"a": [' in stage.text
        assert "00000001" in stage.text
        await stage.press("escape", "G", "enter")
        assert "fa fb fc fd fe ff" in stage.text


async def test_members_and_status_are_one_key_away() -> None:
    host = lively()
    host.members = [a_member(5, "ivan\x1b[2J")]
    async with staged(host) as stage:
        await stage.press("escape", "m")
        assert "ivan␛[2J" in stage.text
        await stage.press("escape", "S")
        assert "datagrams received" in stage.text


async def test_the_log_follows_until_scrolled_and_then_counts_newer_messages() -> None:
    async with staged() as stage:
        stage.host.happen(*(received(1, each, f"line {each}".encode()) for each in range(100)))
        await stage.paint()
        log = stage.main.log_view
        assert "line 99" in stage.text
        await stage.press("escape", "2", "g")
        assert "line 0 " in stage.text
        assert f"{100 - log.size.height} newer" in stage.text
        stage.host.happen(received(1, 200, b"line 200"))
        await stage.paint()
        assert "line 0 " in stage.text
        assert f"{101 - log.size.height} newer" in stage.text
        await stage.press("pagedown", "j")
        assert not stage.is_following
        await stage.press("G")
        assert "line 200" in stage.text
        assert "following" in stage.text
        await stage.press("k")
        assert not stage.is_following
        await stage.press("j")
        assert stage.is_following


async def test_scrolling_by_wheel_or_bar_stops_following_until_the_end_is_reached() -> None:
    async with staged() as stage:
        stage.host.happen(*(received(1, each, f"line {each}".encode()) for each in range(100)))
        await stage.paint()
        log = stage.main.log_view
        log.scroll_relative(y=-5, animate=False)
        await stage.paint()
        assert not stage.is_following
        assert "5 newer" in stage.text
        log.scroll_end(animate=False)
        await stage.paint()
        assert "following" in stage.text


async def test_a_click_focuses_a_panel_and_a_double_click_opens_the_row() -> None:
    async with staged(lively()) as stage:
        await stage.pilot.click("#peers", offset=(5, 3))
        await stage.paint()
        assert stage.focused == "peers"
        assert stage.main.peers.cursor_key == stage.host.peers[1].peer_id
        await stage.pilot.click("#peers", offset=(5, 3), times=2)
        await stage.paint()
        assert "esc q Back" in stage.text
        await stage.press("escape")
        await stage.pilot.click("#log", offset=(20, 2), times=2)
        await stage.paint()
        assert "this node only" in stage.text or "everyone" in stage.text
        await stage.press("escape")
        await stage.pilot.click("#draft")
        assert stage.focused == "draft"


async def test_what_one_reads_stays_in_place_while_the_ring_lets_go() -> None:
    host = FakeHost()
    host.model.messages.limit = 100
    async with staged(host) as stage:
        host.happen(*(received(1, each, f"line {each}.".encode()) for each in range(100)))
        await stage.paint()
        await stage.press("escape", "2", "k", *["pageup"] * 2)
        top = next(line for line in stage.text.split("\n") if "line " in line)
        host.happen(*(received(1, each, f"line {each}.".encode()) for each in range(100, 110)))
        await stage.paint()
        assert next(line for line in stage.text.split("\n") if "line " in line) == top
        assert "10 evicted" in stage.text


async def test_the_cursor_stays_with_its_peer_when_the_rows_are_sorted_again() -> None:
    host = FakeHost()
    host.peers = [a_peer(2, "bob"), a_peer(3, "carol")]
    async with staged(host) as stage:
        await stage.press("escape", "1", "j")
        assert stage.main.peers.cursor_key == an_id(3)
        host.peers = [a_peer(1, "alice"), *host.peers]
        await stage.paint()
        assert stage.main.peers.cursor_key == an_id(3)
        host.peers = []
        await stage.paint()
        assert not stage.main.peers.rows
        await stage.press("j", "k", "g", "G", "enter", "pageup")
        assert "No peers yet" in stage.text


async def test_the_empty_panel_of_peers_and_a_command_show_what_was_found() -> None:
    host = FakeHost()
    async with staged(host) as stage:
        await stage.submit("/discover")
        assert "nothing found; sources are --discover mdns" in stage.text
        host.happen(PeerDiscovered(Address("192.0.2.7", 8000), "mdns"))
        await stage.paint()
        assert "No peers yet. Found 192.0.2.7:8000 (mdns)" in stage.text
        await stage.submit("/discover")
        assert "found 192.0.2.7:8000 (mdns)" in stage.text


async def test_a_table_shows_its_first_lines_until_the_cursor_moves() -> None:
    host = FakeHost()
    host.peers = [a_peer(number, f"node-{number:02}") for number in range(20, 40)]
    async with staged(host) as stage:
        host.peers = [a_peer(number, f"node-{number:02}") for number in range(40)]
        for number in range(30):
            host.happen(AntiEntropyRound(a_round(number, 20)))
        await stage.paint()
        assert "node-00" in stage.text
        rounds = stage.main.rounds
        assert (rounds.cursor_key, rounds.scroll_offset.y) == ((29, an_id(20)), 0)
        await stage.press("escape", "4", *"jjjjjj")
        host.happen(AntiEntropyRound(a_round(30, 20)))
        await stage.paint()
        assert rounds.cursor_key == (23, an_id(20))  # the cursor stays on its row
        await stage.press("2")
        assert (rounds.cursor_key, rounds.scroll_offset.y) == ((30, an_id(20)), 0)


async def test_a_throttled_peer_flashes(monkeypatch: pytest.MonkeyPatch) -> None:
    host = lively()
    async with staged(host) as stage:
        throttled = host.peers[1].peer_id
        host.happen(RateLimited(throttled, 3, 0.0))
        at_unix = host.model.throttled_at[throttled]
        for later_s, expected in ((0.1, [throttled]), (FLASH_S + 0.1, [])):
            monkeypatch.setattr(host.model, "wall_now", partial(float, at_unix + later_s))
            await stage.paint()
            assert [row.key for row in stage.main.rates.rows if row.is_alarm] == expected


async def test_a_round_is_shown_with_countdown_and_outcome() -> None:
    async with staged() as stage:
        stage.host.happen(AntiEntropyRound(a_round(7, 1, outcome=RoundOutcome.RUNNING)))
        await stage.paint()
        assert "◌ running" in stage.text
        partial = a_round(
            7, 1, outcome=RoundOutcome.PARTIAL, in_sync=False, sent=3, received=1200, duration_s=2.1
        )
        stage.host.happen(AntiEntropyRound(partial))
        stage.host.node.time = 105.0
        await stage.paint()
        assert "Anti-entropy round 7 · next in 7 s" in stage.text
        assert "▲ partial" in stage.text
        assert "2.1s" in stage.text


async def test_toasts_report_only_what_needs_attention() -> None:
    async with staged() as stage:
        lost_peer = a_peer(1, "bob[/nope]\x1b[2J", state=PeerState.DISCONNECTED)
        stage.host.happen(
            PeerStateChanged(lost_peer, PeerState.STALE, "silent"),
            DialFailed(Address("10.0.0.1", 9), "no answer"),
            StateSaveFailed("disk full"),
        )
        stage.host.happen(PeerStateChanged(lost_peer, PeerState.CONNECTED, "left"))
        await stage.paint()
        text = stage.text
        assert "bob[/nope]␛[2J disconnected: silent" in text
        assert "no answer from 10.0.0.1:9" in text
        assert "state not saved: disk full" in text
        assert "STATE NOT SAVED" in text
        assert len(stage.app._notifications) == 3
        for port in range(20):
            stage.host.happen(DialFailed(Address("10.0.0.2", port), "no answer"))
        await stage.paint()
        assert len(stage.app._notifications) == 7  # at most three, and the number of others


async def test_a_node_that_stops_of_itself_stays_on_the_screen_and_gives_its_exit_code() -> None:
    async with staged() as stage:
        stage.host.happen(NodeStopped("identity in use by another node"))
        await stage.paint()
        assert re.search(r"STOPPED \d+s ago: identity in use", stage.text)
        await stage.press("escape", "q")
    assert stage.app.return_code == 5


async def test_q_leaves_and_reports_unacknowledged_messages() -> None:
    host = FakeHost()
    host.unacknowledged = 3
    async with staged(host) as stage:
        await stage.press("escape", "q")
    assert host.left == 1
    assert stage.app.return_code == 0


@pytest.mark.parametrize("line", ["/quit", "/exit", "/q"])
async def test_quit_can_be_typed(line: str) -> None:
    async with staged() as stage:
        await stage.submit(line)
    assert stage.host.left == 1
    assert stage.app.return_code == 0


async def test_asked_twice_it_ends_at_once() -> None:
    class Slow(FakeHost):
        async def leave(self, timeout_s: float) -> int:
            await asyncio.Event().wait()
            raise AssertionError

    async with staged(Slow()) as stage:
        await stage.press("escape", "q")
        assert "leaving…" in stage.text
        await stage.pilot.press("q")
    assert stage.app.return_code == 0


async def test_a_node_that_cannot_start_ends_the_app_and_its_caller_gets_the_error() -> None:
    error = BindError("the port is taken")
    app_host = FakeHost(start=error)
    async with staged(app_host) as stage:
        pass
    assert stage.app.failure is error
    assert stage.app.return_code == 1
    assert app_host.left == 0


async def test_hostile_text_is_shown_and_neither_obeyed_nor_fatal() -> None:
    host = FakeHost()
    host.peers = [a_peer(1, "".join(HOSTILE), zone="[/nope]\x1b")]
    host.peers += [a_peer(2 + each, hostile, zone=hostile) for each, hostile in enumerate(HOSTILE)]
    async with staged(host, settings=FakeSettings(node=NodeConfig(name="[/nope]\x1b]0;"))) as stage:
        texts = []
        for number, hostile in enumerate(HOSTILE):
            host.happen(received(1, number, hostile.encode(errors="surrogatepass")))
            lost_peer = a_peer(90 + number, hostile, state=PeerState.DISCONNECTED)
            host.happen(PeerStateChanged(lost_peer, PeerState.CONNECTED, hostile))
            host.happen(DialFailed(Address(hostile, 1), hostile))
            host.happen(StateSaveFailed(hostile))
            await stage.paint()
            texts.append(stage.text)
            stage.app.clear_notifications()
            await stage.submit(f"/send {hostile} x")
            texts.append(stage.text)
            await stage.submit(f"/{hostile}")
            texts.append(stage.text)
            stage.main.compose_box.draft.replace_text("")
            if hostile.isascii() and hostile.isprintable():
                assert hostile in texts[-3]
        for keys in (("escape", "1", "enter"), ("escape", "2", "k", "enter"), ("escape", "m")):
            await stage.press(*keys)
            texts.append(stage.text)
        for text in texts:
            for line in text.split("\n"):
                assert line.isprintable(), ascii(line)
        assert stage.app.is_running
        assert host.left == 0


async def test_markup_in_a_message_cannot_be_clicked() -> None:
    async with staged() as stage:
        stage.host.happen(*(received(1, each, b"[@click=app.quit]x[/]" * 4) for each in range(20)))
        await stage.paint()
        region = stage.main.log_view.region
        for x in range(region.x + 30, region.right - 2, 4):
            await stage.pilot.click(offset=(x, region.bottom - 3))
        assert stage.host.left == 0


SIZES = [(120, 36), (160, 50), (120, 15), (80, 24), (79, 20), (60, 19), (40, 12), (39, 12), (40, 11),
         (20, 5), (5, 2), (1, 1)]  # fmt: skip


@pytest.mark.parametrize("size", SIZES)
async def test_every_size_stands_every_key(size: tuple[int, int]) -> None:
    async with staged(lively(), size=size) as stage:
        await stage.press(
            *("escape", "1", "2", "3", "4", "tab", "z", "4", "z", "k", "g", "G", "space", "space"),
            *("A", "c", "escape", "m", "escape", "question_mark", "j", "escape", "enter", "escape"),
            "i",
        )
        stage.host.happen(received(1, 999, "日本語 🎉".encode()))
        await stage.paint()
        assert stage.app.is_running
        assert all(len(line) <= size[0] for line in stage.text.split("\n"))


async def test_one_column_switches_its_lower_panel() -> None:
    async with staged(lively(), size=(80, 24)) as stage:
        assert "Messages 59 · following" in stage.text
        assert "Peers 5 up" in stage.text
        assert "round 381  next in 12 s" in stage.text
        assert len(stage.main.peers.rows) == 7
        assert stage.main.peers.size.height == 6  # the header and five rows
        await stage.press("escape", "3")
        assert "Rate limits · 214 throttled" in stage.text
        assert "Messages" not in stage.text
        assert "Peers 5 up" in stage.text
        await stage.press("4")
        assert "Anti-entropy round 381" in stage.text
        await stage.press("2")
        assert "Messages 59" in stage.text


async def test_a_low_screen_has_one_panel_at_a_time() -> None:
    async with staged(lively(), size=(60, 14)) as stage:
        assert "Messages 59" in stage.text
        assert "Peers 5 up" not in stage.text
        await stage.press("escape", "1")
        assert "Peers 5 up" in stage.text
        assert "Messages 59" not in stage.text


async def test_an_error_that_textual_caught_in_a_thread_is_no_success() -> None:
    async with staged() as stage:
        assert stage.app.exit_code == 0
        stage.app.panic("a fault")
    assert stage.app.exit_code == 1
    assert stage.host.left == 1


async def test_the_compose_box_keeps_the_focus_when_a_tiny_screen_grows_again() -> None:
    async with staged() as stage:
        await stage.press("i", "h", "i")
        await stage.resize(20, 5)
        assert stage.focused == "log"
        await stage.resize(80, 24)
        assert stage.focused == "draft"
        await stage.press("escape")
        await stage.resize(20, 5)
        await stage.resize(80, 24)
        assert stage.focused == "log"


async def test_a_tiny_screen_is_one_line_of_state_and_the_log() -> None:
    async with staged(lively(), size=(30, 6)) as stage:
        lines = stage.text.split("\n")
        assert "ams-1" in lines[0]
        assert "● 5" in lines[0]
        assert len([line for line in lines[1:] if line.strip()]) == 5
        assert stage.focused == "log"
        await stage.press("q")
    assert stage.host.left == 1


async def test_growing_and_shrinking_keeps_the_draft_and_the_place() -> None:
    async with staged(lively()) as stage:
        await stage.press("i", "h", "o")
        for size in ((20, 5), (1, 1), (80, 24), (40, 12), (120, 36)):
            await stage.resize(*size)
        assert stage.main.compose_box.draft.text == "ho"
        assert "Messages 59 · following" in stage.text
        await stage.press("i")
        assert stage.focused == "draft"


async def test_help_lists_every_binding_and_every_command() -> None:
    from grapevine_tui.app.screens.main import MainScreen
    from grapevine_tui.control.commands import Surface, commands_on

    async with staged(size=(120, 150)) as stage:
        await stage.press("escape", "question_mark")
        text = stage.text
        for binding in MainScreen.BINDINGS:
            assert binding.description in text  # type: ignore[union-attr]
        for spec in commands_on(Surface.HELP):
            assert spec.usage in text


async def test_the_palette_holds_our_actions() -> None:
    async with staged(lively()) as stage:
        names = {each.title for each in stage.app.get_system_commands(stage.app.screen)}
        assert {"Help", "Leave (quit, exit)", "Pause", "Dial (connect)", "Round", "Theme"} <= names
        await stage.press("escape", "1")
        found = {each.title: each.help for each in stage.app.get_system_commands(stage.app.screen)}
        for part in (keymap.GLOBAL_KEYS, keymap.PANEL_KEYS, keymap.TABLE_KEYS, keymap.PEER_KEYS):
            for key in part:
                is_view = key.name in keymap.VIEW_KEYS - {"commands", "back"}
                assert key.description in found or not is_view
        assert found["Redial"] == "Dial the selected peer again · key d"
        assert found["Down"] == "key ↓ j"
        await stage.press("m")
        found = {each.title: each.help for each in stage.app.get_system_commands(stage.app.screen)}
        assert {"Filter", "Sort", "Copy id", "Help"} <= found.keys()
        await stage.press("escape", "ctrl+p")
        await stage.pilot.press(*"round")
        await stage.pilot.pause(0.3)
        await stage.press("enter")
        await stage.pilot.pause(0.1)
        assert stage.host.node.rounds_requested == 1


async def test_the_footer_shows_the_keys_of_the_focused_widget() -> None:
    async with staged() as stage:
        await stage.press("i")
        assert "Send" in text_of(stage.app).split("\n")[-1]
        await stage.press("escape")
        last = stage.text.split("\n")[-1]
        for expected_text in (
            "Details",
            "Write",
            "Zoom",
            "Pause",
            "Connect",
            "Help",
            "Commands",
            "Quit",
        ):
            assert expected_text in last


@pytest.mark.parametrize("size", [(120, 36), (80, 24), (40, 12)])
async def test_the_key_line_cuts_no_word_and_keeps_help_and_quit(size: tuple[int, int]) -> None:
    async with staged(lively(), size=size) as stage:
        for keys in (("escape",), ("1",), ("m",), ("escape", "T")):
            await stage.press(*keys)
            last = stage.text.split("\n")[-1].strip()
            assert "q Back" in last if keys[-1] in "mT" else "q Quit" in last
            assert "? Help" in last
            assert all(len(part.split()) > 1 for part in last.split("  "))
            assert size[0] - len(last) < 30  # filled, as far as there are keys


async def test_a_click_on_the_key_line_presses_the_key() -> None:
    async with staged(lively()) as stage:
        await stage.press("escape")
        at = stage.text.split("\n")[-1].index("z Zoom")
        await stage.pilot.click("#keys", offset=(at + 3, 0))
        await stage.paint()
        assert not stage.shows("peers")


async def test_letters_typed_at_once_behind_a_key_go_where_it_leads() -> None:
    async with staged(lively()) as stage:
        for key in ("escape", "2", "slash", *"zq", "enter", "i", *"hi", "escape", "z"):
            stage.app.simulate_key(key)  # all at once, as from a quick hand over a slow line
        await stage.paint()
        assert stage.main.log_view.filter_query.text == "zq"
        assert stage.main.compose_box.draft.text == "hi"
        assert not stage.shows("peers")
        assert stage.app.is_running


async def test_keys_after_the_end_are_dropped() -> None:
    async with staged() as stage:
        turns_, screens = stage.app._key_sequencer, stage.app._screen_stack
        await stage.paint()
        kept, screens[:] = screens[:], []
        await turns_.enqueue(events.Key("x", "x"))
        assert not turns_.is_busy
        screens[:] = kept
        await stage.press("i", "y")
        assert stage.main.compose_box.draft.text == "y"


async def test_a_stalled_event_loop_does_not_reorder_typed_keys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with staged() as stage:
        keys = ["i", "a", "escape", "slash", "q"]
        given: list[str] = []
        done: list[str] = []
        all_done = asyncio.Event()
        back, give = key_sequencer.KeySequencer.on_key_handled, stage.app._key_sequencer._deliver

        async def gives(event: events.Key | events.Paste) -> None:
            if isinstance(event, events.Key):
                given.append(event.key)
            await give(event)

        async def stalls(self: key_sequencer.KeySequencer, mark: key_sequencer.KeyHandled) -> None:
            time.sleep(key_sequencer.KEY_TIMEOUT_S / 2)  # noqa: ASYNC251  others have the processor
            if self._round_trips_left == 1:
                done.append(given[-1])
            if len(done) == len(keys):
                all_done.set()
            await back(self, mark)

        monkeypatch.setattr(stage.app._key_sequencer, "_deliver", gives)
        monkeypatch.setattr(key_sequencer.KeySequencer, "on_key_handled", stalls)
        for key in keys:
            stage.app.simulate_key(key)
        async with asyncio.timeout(20):
            await all_done.wait()
        assert done == given == keys  # each took effect before the next was delivered
        assert stage.main.filter_bar.line_input.value == "q"


async def test_a_widget_removed_while_it_handles_a_key_does_not_block_others() -> None:
    async with staged(lively()) as stage:
        await stage.press("escape", "m")
        stage.app.simulate_key("escape")
        for key in "Si":
            stage.app.simulate_key(key)
        await stage.paint()  # waits for the last of them
        await stage.press("escape", "i", *"still here")
        assert stage.main.compose_box.draft.text.endswith("still here")


async def test_a_theme_from_the_settings_is_used_and_an_unknown_one_is_reported() -> None:
    async with staged(settings=FakeSettings(theme="nord")) as stage:
        assert stage.app.theme == "nord"
    async with staged(settings=FakeSettings(theme="[/nope]")) as stage:
        assert stage.app.theme == "grapevine"
        assert "unknown theme '[/nope]'" in stage.text


async def test_every_theme_can_be_worn() -> None:
    async with staged(lively()) as stage:
        for theme in stage.app.available_themes:
            stage.app.theme = theme
            await stage.paint()
        assert stage.app.is_running


@pytest.mark.parametrize(
    ("ground", "theme"),
    [("0;15", "grapevine-light"), ("0;default;7", "grapevine-light"), ("15;0", "grapevine"),
     ("", "grapevine"), ("nonsense", "grapevine")],
)  # fmt: skip
async def test_a_light_terminal_gets_the_light_theme_unless_another_is_chosen(
    ground: str, theme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLORFGBG", ground)
    async with staged() as stage:
        assert stage.app.theme == theme
    async with staged(settings=FakeSettings(theme="nord")) as stage:
        assert stage.app.theme == "nord"


async def test_the_theme_for_a_background_is_not_remembered_and_gives_way_to_a_chosen_one(
    tmp_path: Path,
) -> None:
    settings = FakeSettings(preferences_file=tmp_path / "app.json")
    async with staged(settings=settings) as stage:
        stage.app._theme_manager.on_background(True)
        assert stage.app.theme == "grapevine-light"
        stage.app._theme_manager.on_background(False)
        assert stage.app.theme == "grapevine"
        await stage.paint()
        assert not (tmp_path / "app.json").exists()
        stage.app.theme = "nord"
        stage.app._theme_manager.on_background(True)
        assert stage.app.theme == "nord"
    async with staged(settings=settings) as stage:
        stage.app._theme_manager.on_background(True)
        assert stage.app.theme == "nord"


async def test_a_toast_covers_nothing() -> None:
    async with staged(lively()) as stage:
        before = stage.text.split("\n")
        for number in range(3):
            stage.app.notify(f"toast {number}", markup=False)
        await stage.paint()
        after = stage.text.split("\n")
        assert [line for line in after if "toast" in line]
        assert all("│" not in line and "─" not in line for line in after if "toast" in line)
        assert any("to everyone" in line for line in after)
        assert after[-1] == before[-1]  # the footer
