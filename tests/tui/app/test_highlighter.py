"""What stands out: signs and tones of messages and rows of the past, live, and within a bounded time."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from grapevine_tui.app.highlighter import BUDGET_INTERVAL_S, BUDGET_S, Highlighter
from grapevine_tui.app.past_rows import compile_past_filter
from grapevine_tui.config.highlights import parse_highlights
from grapevine_tui.filter_syntax import parse_terms
from grapevine_tui.history.records import StoredEvent, StoredMessage, to_key
from grapevine_tui.history.writer import NewMessage
from grapevine_tui.host.model import Model
from tests.tui.fake_host import FakeHost, FakeSettings
from tests.tui.stage import Stage, staged
from tests.tui.values import a_message, an_id, received

HIGHLIGHTS = {"panic": "style:bad panic", "calm": "style:good /^all .*well/", "any": "a"}


def lines_with(stage: Stage, text: str) -> list[str]:
    lines = [line.replace("┃", "│") for line in stage.text.splitlines()]
    return [line for line in lines if text in line and "highlight" not in line]


def test_the_first_highlight_that_matches_decides() -> None:
    highlighter = Highlighter(Model(), parse_highlights(HIGHLIGHTS))
    payloads = (b"a panic", b"all is well", b"a", b"x")
    marks = [
        highlighter.mark_of_message(number, a_message(1, number, payload))
        for number, payload in enumerate(payloads)
    ]
    assert [each and each.sign for each in marks] == ["!", "+", "*", None]
    assert [each and each.tone for each in marks] == ["bad", "good", "accent", None]


def test_testing_ends_when_its_time_is_used_up_and_goes_on_later() -> None:
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += BUDGET_S / 2
        return now

    highlighter = Highlighter(Model(), parse_highlights({"x": "x"}), clock)
    message = a_message(1, 1, b"x")
    marks = [highlighter.mark_of_message(number, message) for number in range(4)]
    assert [each is not None for each in marks] == [True, True, False, False]
    assert highlighter.is_behind
    now += BUDGET_INTERVAL_S
    assert highlighter.mark_of_message(3, message) is not None


def test_rows_of_the_past_are_tested_as_the_search_tests_them() -> None:
    message = StoredMessage(7, a_message(1, 2, b"deploy 5", topic="deploy.web"), "bob", "eu", 8)
    event = StoredEvent(7, "peer", "warning", "db-1 down", an_id(1), "db-1", state="down")
    for words in ("deploy", "from:bob zone:eu", "/^deploy \\d$/ topic:deploy.>", "-x since:1h"):
        assert compile_past_filter("messages", parse_terms(words))(message.to_dict())
    for words in ("peer:db-1", "/db-\\d/ level:warn", f"id:{an_id(1)}", "-up"):
        assert compile_past_filter("events", parse_terms(words))(event.to_dict())
    assert not compile_past_filter("messages", parse_terms("x"))(message.to_dict())
    assert not compile_past_filter("events", parse_terms("x"))(event.to_dict())
    assert not compile_past_filter("messages", parse_terms("-x"))({"key": 1})
    assert not compile_past_filter("events", parse_terms("-x"))({"key": 1})


@pytest.mark.asyncio
async def test_highlights_are_added_and_removed_while_the_app_runs() -> None:
    host = FakeHost()
    async with staged(host, settings=FakeSettings(highlights=HIGHLIGHTS)) as stage:
        host.happen(*(received(1, n, text) for n, text in enumerate((b"a panic", b"x y"), 1)))
        await stage.paint()
        assert "│!" in lines_with(stage, "a panic")[0]
        assert "│ " in lines_with(stage, "x y")[0]
        await stage.submit("/highlight xy style:warn x y")
        assert "│~" in lines_with(stage, "x y")[-1]
        await stage.submit("/unhighlight xy")
        assert "│ " in lines_with(stage, "x y")[-1]
        await stage.submit("/unhighlight panci")
        assert "panic" in stage.text
        await stage.submit("/highlight xy fron:bob")
        assert "did you mean from:" in stage.text


@pytest.mark.asyncio
async def test_events_and_messages_of_the_past_are_highlighted_too(tmp_path: Path) -> None:
    host = FakeHost()
    settings = FakeSettings(highlights={"lost": "style:warn lost", "db": "style:bad peer:db-1"})
    async with staged(host, settings=settings) as stage:
        history, now = host.keep_history(tmp_path), time.time()
        history._writer.put(StoredEvent(to_key(now), "peer", "info", "db-1 up", name="db-1"))
        history._writer.put(StoredEvent(to_key(now) + 1, "peer", "info", "web-1 lost"))
        history._writer.put(NewMessage(to_key(now), a_message(1, 1, b"lost it"), "bob", ""))
        await stage.press("E")
        while "web-1 lost" not in stage.text:
            await stage.pilot.pause(0.01)
        signs = [line.lstrip("│┃ ")[:1] for line in lines_with(stage, "-1 ")]
        assert signs == ["!", "~"]
        await stage.press("escape", "H")
        while "lost it" not in stage.text:
            await stage.pilot.pause(0.01)
        assert "~" in lines_with(stage, "lost it")[0]
