"""The compose box completes commands, escapes pastes and keeps rejected lines."""

from __future__ import annotations

import pytest
from textual.events import Paste

from grapevine_proto.events import MessageReceived
from grapevine_tui.app.widgets.compose import format_hint
from grapevine_tui.app.widgets.draft import CONFIRM_PASTE_CHARACTERS, CONFIRM_PASTE_LINES
from grapevine_tui.control.commands import find_command
from tests.tui.fake_host import FakeHost
from tests.tui.stage import Stage, staged
from tests.tui.values import a_message, a_peer

pytestmark = pytest.mark.asyncio


def peopled() -> FakeHost:
    host = FakeHost()
    host.peers = [a_peer(1, "bob"), a_peer(2, "boris"), a_peer(3, "two words")]
    return host


def draft_of(stage: Stage) -> str:
    return stage.main.compose_box.draft.text


async def test_tab_completes_a_command_then_the_name_of_a_peer() -> None:
    async with staged(peopled()) as stage:
        await stage.press("i", *"/sen")
        assert stage.main.compose_box.draft.suggestion == "d"
        assert "/send PEER TEXT   Send TEXT to one member" in stage.text
        await stage.press("tab", "b", "tab")
        assert draft_of(stage) == "/send bo"
        assert "bob  boris" in stage.text
        await stage.press("b", "tab", *"hi", "enter")
        assert stage.host.sends == [("bob", b"hi")]
        await stage.press(*"/send tw", "tab")
        assert draft_of(stage) == '/send "two words" '
        assert stage.focused == "draft"


async def test_topics_seen_complete_what_is_published_subscribed_to_and_filtered() -> None:
    host = peopled()
    for number, topic in enumerate(("deploy.web", "deploy.db", "metrics")):
        host.happen(MessageReceived(a_message(1, number + 1, topic=topic)))
    async with staged(host) as stage:
        await stage.press("i", *"/publish m", "tab")
        assert draft_of(stage) == "/publish metrics "
        await stage.press("ctrl+c", *"/subscribe d")
        assert "deploy.>  deploy.db  deploy.web" in stage.text
        await stage.press("ctrl+c", "escape", "slash", *"x topic:d")
        bar = stage.main.filter_bar.line_input
        assert "topic:deploy.>" in stage.text, "as a suggestion"
        await stage.press("tab")
        assert bar.value == "x topic:deploy.>"
        assert stage.main.log_view.filter_query.text == "x topic:deploy.>"
        await stage.press("tab", "q")
        assert (stage.focused, bar.value) == (bar.id or "", "x topic:deploy.>q")


async def test_completions_are_shown_beneath_the_line() -> None:
    async with staged(peopled()) as stage:
        await stage.press("i", *"/st")
        assert "/status  /stats" in stage.text
        await stage.press(*"ats")
        assert "Show all counters" in stage.text
        await stage.press("backspace", *"x")
        assert "/status" not in stage.text
        assert format_hint("//x", (), 80) == ""
        assert format_hint("hello", (), 80) == ""
        spec = find_command("trace")
        assert format_hint("/trace ", (), 80) == f"{spec.usage}   {spec.help}"
        assert format_hint("/trace ", (), len(spec.help)) == spec.help
        assert format_hint("/trace ", (), len(spec.usage)) == spec.usage


@pytest.mark.parametrize("key", ["tab", "shift+tab"])
async def test_tab_never_leaves_the_box_so_that_no_letter_behind_it_is_a_key(key: str) -> None:
    async with staged(peopled()) as stage:
        await stage.press("i", *"hello", key, *"qzF")
        assert stage.focused == "draft"
        assert draft_of(stage) == "helloqzF"
        assert "nothing to complete" in stage.text
        assert stage.shows("peers")


async def test_ctrl_c_clears_the_line_which_waits_in_the_history_and_never_quits() -> None:
    async with staged(peopled()) as stage:
        await stage.press("i", *"hello", "ctrl+c")
        assert draft_of(stage) == ""
        assert "up restores the line" in stage.text
        await stage.press("up")
        assert draft_of(stage) == "hello"
        await stage.press("ctrl+c", "ctrl+c")
        assert "to quit, press esc, then q" in stage.text
        assert stage.host.left == 0


@pytest.mark.parametrize("line", ["q", "?", ":q", "exit", " z "])
async def test_a_line_that_resembles_a_key_is_sent_only_at_the_second_enter(line: str) -> None:
    async with staged(peopled()) as stage:
        await stage.submit(line)
        assert stage.host.broadcasts == []
        assert "was not sent" in stage.text
        assert draft_of(stage) == line
        await stage.press("enter")
        assert stage.host.broadcasts == [line.strip().encode()]


async def test_an_error_about_a_line_is_cleared_when_the_line_changes() -> None:
    async with staged(peopled()) as stage:
        await stage.submit("/nonsense")
        assert "unknown command /nonsense" in stage.text
        await stage.press("x")
        assert "unknown command /nonsense" not in stage.text
        stage.main.compose_box.show_feedback("sent to bob")
        timer = stage.main.compose_box._feedback_timer
        assert timer is not None
        timer._callback()  # type: ignore[misc]  # its ten seconds are over
        await stage.paint()
        assert "sent to bob" not in stage.text


async def test_what_is_pasted_over_the_panels_waits_in_the_compose_box() -> None:
    async with staged(peopled()) as stage:
        stage.main.log_view.post_message(Paste("q\nz\nA"))
        await stage.paint()
        assert draft_of(stage) == "q\nz\nA"
        assert stage.focused == "draft"
        assert stage.host.broadcasts == []
        assert stage.host.node.rounds_requested == 0


async def test_an_untrusted_name_in_a_completion_is_printable() -> None:
    host = FakeHost()
    host.peers = [a_peer(1, "b\x1b[2J"), a_peer(2, "b[/nope]"), a_peer(3, "b[@click=app.quit]x")]
    async with staged(host) as stage:
        await stage.press("i", *"/send b")
        assert "b[/nope]" in stage.text
        assert all(line.isprintable() for line in stage.text.split("\n"))
        await stage.press("tab", "tab")
        assert draft_of(stage).startswith("/send b[")


@pytest.mark.parametrize(
    "text",
    ["x" * (CONFIRM_PASTE_CHARACTERS + 1), "line\n" * (CONFIRM_PASTE_LINES + 1), "\x1b[2J\r" * 30],
)
async def test_a_large_paste_asks_first(text: str) -> None:
    async with staged(peopled()) as stage:
        stage.main.compose_box.draft.post_message(Paste(text))
        await stage.paint()
        assert "Paste all this?" in stage.text
        assert f"{len(text):,}" in stage.text
        await stage.press("escape")
        assert draft_of(stage) == ""
        stage.main.compose_box.draft.post_message(Paste(text))
        await stage.paint()
        await stage.press("enter")
        assert len(draft_of(stage)) >= len(text)
        assert "\x1b" not in draft_of(stage)
        assert stage.host.broadcasts == []


async def test_a_paste_at_the_limit_is_inserted_unchanged() -> None:
    async with staged(peopled()) as stage:
        stage.main.compose_box.draft.post_message(Paste("x" * CONFIRM_PASTE_CHARACTERS))
        await stage.paint()
        assert draft_of(stage) == "x" * CONFIRM_PASTE_CHARACTERS


async def test_what_exceeds_the_compose_box_is_rejected_with_a_reason() -> None:
    async with staged(peopled()) as stage:
        stage.main.compose_box.draft.post_message(Paste("x" * 1_000_001))
        await stage.paint()
        assert "1,000,001 characters are too many to paste" in stage.text
        assert draft_of(stage) == ""


async def test_alt_enter_begins_a_new_line() -> None:
    async with staged(peopled()) as stage:
        await stage.press("i", "a", "alt+enter", "b", "enter")
        assert stage.host.broadcasts == [b"a\nb"]
