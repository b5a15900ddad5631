"""The trace screen: coverage, latency, hops and members without a receipt, at every size."""

from __future__ import annotations

from dataclasses import replace

import pytest

from grapevine_proto.events import MemberStatus, TraceUpdated
from grapevine_tui.app.screens.trace import TraceScreen, format_delay, trace_lines
from grapevine_tui.app.widgets.charts import eighths_bar
from grapevine_tui.app.widgets.text_view import Line
from grapevine_tui.host.model import MAX_TRACES, Changes, Model, TraceEntry
from grapevine_tui.text import cells
from tests.tui.fake_host import FakeHost
from tests.tui.stage import Stage, staged
from tests.tui.values import a_member, a_peer, a_trace


def peopled() -> FakeHost:
    host = FakeHost()
    host.peers = [a_peer(1, "bob"), a_peer(2, "carol")]
    host.members = [
        a_member(1, "bob"),
        a_member(2, "carol"),
        a_member(3, "dave"),
        replace(a_member(4, "ivan\x1b[2J[/nope]"), status=MemberStatus.DOWN),
    ]
    return host


def plain(line: Line) -> str:
    return "".join(part.text for part in line)


def is_front(stage: Stage) -> bool:
    return isinstance(stage.app.screen, TraceScreen)


async def traced(stage: Stage, text: str = "who is there") -> None:
    """Trace a message and let two of four members answer."""
    await stage.submit(f"/trace {text}")
    stage.host.happen(TraceUpdated(a_trace(len(stage.host.broadcasts), 0, 4)))
    stage.host.happen(TraceUpdated(a_trace(len(stage.host.broadcasts), 2, 2)))
    await settle(stage)


async def settle(stage: Stage) -> None:
    if isinstance(screen := stage.app.screen, TraceScreen):
        screen.show()
    await stage.paint()


@pytest.mark.asyncio
async def test_a_traced_message_is_broadcast_and_followed_to_its_last_answer() -> None:
    async with staged(peopled()) as stage:
        await traced(stage)
        assert stage.host.traced == [b"who is there"]
        assert is_front(stage)
        for expected in ("who is there", "50 %", "2 of 4", "p50 10ms", "p99 20ms", "last 20ms",
                      "hops 1", "1 hop", "2 have not confirmed", "dave",
                      "ivan␛[2J[/nope]", "✕", "down"):  # fmt: skip
            assert expected in stage.text
        stage.host.happen(TraceUpdated(a_trace(1, 4)))
        await settle(stage)
        for expected in ("100 %", "4 of 4", "last 40ms", "hops 2", "All 4 members have it"):
            assert expected in stage.text
        assert "No answer" not in stage.text
        await stage.press("escape")
        assert not is_front(stage)


@pytest.mark.asyncio
async def test_t_shows_the_traces_whether_there_are_any_or_not_and_n_there_begins_one() -> None:
    async with staged(peopled()) as stage:
        stage.main.compose_box.draft.replace_text("half a line")
        await stage.press("escape", "t")
        assert is_front(stage)
        assert "No traces yet. Press +" in stage.text
        await stage.press("t", *"jkA")
        assert is_front(stage)
        assert stage.main.compose_box.draft.text == "half a line"
        await stage.press("plus")
        assert stage.focused == "draft"
        assert stage.main.compose_box.draft.text == "/trace "
        assert "trace to everyone" in stage.text
        await traced(stage)
        await stage.press("escape", "escape", "t")
        assert is_front(stage)
        await stage.press("plus")
        assert not is_front(stage)
        assert stage.main.compose_box.draft.text == "/trace "


@pytest.mark.asyncio
async def test_older_traces_are_a_key_away() -> None:
    async with staged(peopled()) as stage:
        for text in ("first", "second", "third"):
            await traced(stage, text)
            await stage.press("escape")
        await stage.submit("/traces")
        assert "third" in stage.text
        assert "3 of 3" in stage.text
        assert "← Older" in stage.text
        await stage.press("left", "left", "left")
        assert "first" in stage.text
        assert "1 of 3" in stage.text
        await stage.press("right")
        assert "second" in stage.text


@pytest.mark.asyncio
async def test_without_a_trace_the_screen_explains_how_to_start_one() -> None:
    async with staged(peopled()) as stage:
        await stage.submit("/traces")
        assert "No traces yet" in stage.text


@pytest.mark.parametrize("size", [(120, 36), (80, 24), (40, 12), (20, 6), (1, 1)])
@pytest.mark.asyncio
async def test_a_trace_fits_every_size(size: tuple[int, int]) -> None:
    async with staged(peopled()) as stage:
        await traced(stage)
        await stage.resize(*size)
        await settle(stage)
        assert is_front(stage)
        if size[0] >= 40:
            for expected in ("2 of 4", "50 %", "p50 10ms", "last 20ms", "hops 1"):
                assert expected in stage.text


def test_no_line_is_wider_than_the_screen_and_no_control_gets_through() -> None:
    host = peopled()
    host.refresh()
    trace = a_trace(1, 60, 40, known=4000, others=3)
    for width in (10, 24, 38, 76, 116):
        lines = trace_lines(
            host.model, TraceEntry(0.0, b"\x1b]52;c;x\x07 long " * 50, trace), width
        )
        assert all("\x1b" not in plain(line) and "\x07" not in plain(line) for line in lines)
        if width >= 38:
            assert max(cells(plain(line)) for line in lines) <= width


def test_a_sample_is_labeled_with_its_size() -> None:
    trace = a_trace(1, 90, 10, known=4000, others=3)
    text = "\n".join(plain(line) for line in trace_lines(Model(), TraceEntry(0.0, b"x", trace), 80))
    assert "a sample: 100 of 4,000 members asked" in text
    assert "3 more confirmed that joined after" in text
    assert "90 of 100" in text


def test_a_trace_without_peers_is_shown_as_such() -> None:
    text = "\n".join(
        plain(line) for line in trace_lines(Model(), TraceEntry(0.0, b"x", a_trace(1, 0)), 40)
    )
    assert "No other members yet" in text
    assert "100 %" not in text
    assert "Everyone" not in text


@pytest.mark.parametrize(
    ("share", "filled"),
    [(0.0, ""), (0.5, "█████"), (0.55, "█████▌"), (1.0, "█" * 10), (7.0, "█" * 10)],
)
def test_a_bar_fills_by_eighths_and_keeps_its_width(share: float, filled: str) -> None:
    assert eighths_bar(share, 10)[0] == filled
    assert len("".join(eighths_bar(share, 10))) == 10


def test_a_bar_is_full_only_when_all_have_answered() -> None:
    assert eighths_bar(99 / 100, 10)[0] != "█" * 10


def test_the_model_keeps_the_latest_traces_and_their_payloads() -> None:
    host = FakeHost()
    for sequence in range(1, MAX_TRACES + 2):
        assert host.model.apply(TraceUpdated(a_trace(sequence, 0, 2))) == Changes.TRACES
    assert len(host.model.traces) == MAX_TRACES
    assert next(each.sequence for each in host.model.traces) == 2


@pytest.mark.parametrize(
    ("delay_ms", "expected"), [(None, "--"), (0, "<1ms"), (1, "1ms"), (81, "81ms"), (2100, "2.1s")]
)
def test_a_delay_is_formatted_with_its_precision(delay_ms: int | None, expected: str) -> None:
    assert format_delay(delay_ms) == expected
