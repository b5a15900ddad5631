"""Find: the cursor goes from match to match, and the rows around it stay."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tui.app.screens.test_past import HOUR_S, a_past
from tests.tui.fake_host import FakeHost
from tests.tui.stage import Stage, staged
from tests.tui.values import received


def selected(stage: Stage) -> bytes:
    entry = stage.main.log_view.cursor_entry
    assert entry is not None
    return entry.message.payload


@pytest.mark.asyncio
async def test_matches_of_the_log_are_gone_through_both_ways_and_round() -> None:
    host = FakeHost()
    async with staged(host) as stage:
        texts = [b"needle %d" % n if n % 20 == 7 else b"hay %d" % n for n in range(100)]
        host.happen(*(received(1, n + 1, text) for n, text in enumerate(texts)))
        await stage.paint()
        await stage.press("2", "ctrl+f", *"/ne+dle/")
        assert "5 found /ne+dle/" in stage.text
        await stage.press("enter")
        assert selected(stage) == b"needle 87"
        assert "match 5 of 5" in stage.text
        assert "hay 86" in stage.text
        assert ">" in next(line for line in stage.text.splitlines() if "needle 87" in line)
        await stage.press("b", "b")
        assert selected(stage) == b"needle 47"
        assert "match 3 of 5" in stage.text
        assert "hay 48" in stage.text
        await stage.press("n", "n", "n")
        assert selected(stage) == b"needle 7"
        await stage.press("b")
        assert selected(stage) == b"needle 87"
        await stage.press("up")
        assert "5 found" in stage.text
        await stage.press("escape")
        assert "found" not in stage.text
        await stage.press("n")
        assert stage.main.filter_bar.display


@pytest.mark.asyncio
async def test_find_keeps_to_the_filter_and_refuses_what_does_not_exist() -> None:
    host = FakeHost()
    async with staged(host) as stage:
        host.happen(*(received(1, n, b"%d red blue" % n) for n in range(1, 5)))
        host.happen(received(1, 9, b"red"))
        await stage.paint()
        await stage.submit("/filter blue")
        await stage.submit("/find red")
        assert stage.main.log_view.match_count == 4
        await stage.submit("/find fron:x")
        assert "did you mean from:" in stage.text
        await stage.submit("/find")
        assert stage.main.log_view.match_count == 0


@pytest.mark.asyncio
@pytest.mark.parametrize("key", ["H", "E"])
async def test_a_match_of_the_past_is_found_beyond_the_rows_that_are_loaded(
    tmp_path: Path, key: str
) -> None:
    async with a_past(tmp_path) as past:
        for number in range(900):
            text = f"needle {number}" if number in (100, 890, 895) else f"hay {number}"
            (past.add if key == "H" else past.happen)(text, HOUR_S - number)
        await past.press(key, "ctrl+f", *"needle")
        assert "2 found needle" in past.stage.text
        await past.press("enter")
        assert past.selected == "needle 895"
        assert "match 2 of 2" in past.stage.text
        await past.press("b", "b")
        await past.until(lambda: past.selected == "needle 100")
        assert "hay 99" in past.shown
        assert "hay 101" in past.shown
        await past.stage.paint()
        assert "match 1 of 1" in past.stage.text
        await past.press("b")
        assert "no earlier match" in past.stage.text
        await past.press("n")
        await past.until(lambda: past.selected == "needle 890")
        await past.press("escape")
        assert "needle" not in past.stage.text.splitlines()[0]
