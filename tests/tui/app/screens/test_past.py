"""The screens of the past: pages in both directions, filters, times, and what happens without a history."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from grapevine_proto.events import DialFailed, PeerState, PeerStateChanged
from grapevine_proto.ids import Address
from grapevine_tui.app.screens.message import MessageScreen
from grapevine_tui.app.screens.node import NodeScreen
from grapevine_tui.app.screens.past import (
    MAX_ROWS,
    PAGE_ROWS,
    EventsScreen,
    HistoryScreen,
    PastScreen,
)
from grapevine_tui.history import search
from grapevine_tui.history.records import StoredEvent, to_key
from grapevine_tui.history.writer import NewMessage
from tests.tui.fake_host import FakeHost
from tests.tui.hostile import HOSTILE
from tests.tui.stage import Stage, staged
from tests.tui.values import a_message, a_peer, an_id, received

HOUR_S = 3_600


class Past:
    """A stage with a history in which tests put rows of the past."""

    def __init__(self, stage: Stage, host: FakeHost, directory: Path) -> None:
        self.stage = stage
        self.host = host
        self.history = host.keep_history(directory)
        self.now = time.time()

    def add(self, text: str | bytes, ago_s: float = 0.0, **changes: Any) -> None:
        payload = text if isinstance(text, bytes) else text.encode()
        name, origin = changes.pop("name", ""), changes.pop("origin", 1)
        message = a_message(origin, self.history._writer._rows_in + 1, payload, **changes)
        assert self.history._writer.put(NewMessage(to_key(self.now - ago_s), message, name, ""))

    def happen(self, text: str, ago_s: float = 0.0, level: str = "info", **changes: Any) -> None:
        event = StoredEvent(to_key(self.now - ago_s), "peer", level, text, **changes)
        assert self.history._writer.put(event)

    @property
    def screen(self) -> PastScreen:
        screen = self.stage.app.screen
        assert isinstance(screen, PastScreen)
        return screen

    @property
    def shown(self) -> list[str]:
        return [row.cells[-1].text for row in self.screen.table.rows]

    @property
    def selected(self) -> str:
        return self.shown[self.screen.table.cursor_index]

    async def press(self, *keys: str) -> None:
        await self.stage.press(*keys)
        if isinstance(self.stage.app.screen, PastScreen):
            await self.until(lambda: not self.screen.is_waiting)
            await self.stage.paint()

    async def until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not is_so():
                await self.stage.pilot.pause(0.01)


@asynccontextmanager
async def a_past(directory: Path, host: FakeHost | None = None) -> AsyncIterator[Past]:
    host = host or FakeHost()
    async with staged(host) as stage:
        yield Past(stage, host, directory)


@pytest.mark.asyncio
async def test_why_a_peer_went_down_yesterday_takes_three_keys(tmp_path: Path) -> None:
    host = FakeHost()
    host.peers = [a_peer(1, "db-1")]
    async with a_past(tmp_path, host) as past:
        past.happen(
            "db-1 disconnected: silent for 6 s",
            24 * HOUR_S,
            "warning",
            peer_id=an_id(1),
            name="db-1",
        )
        for number in range(600):
            past.happen(f"today {number}", 600 - number)
        await past.press("E")
        assert past.selected == "today 599"
        await past.press("left", "w")
        assert past.shown == ["db-1 disconnected: silent for 6 s"]
        assert "! db-1 disconnected: silent for 6 s" in past.stage.text
        await past.press("enter")
        assert isinstance(past.stage.app.screen, NodeScreen)
        await past.press("escape", "w")
        assert past.selected == "db-1 disconnected: silent for 6 s"
        await past.press("right")
        assert past.selected.startswith("today")


@pytest.mark.asyncio
async def test_a_time_typed_after_its_key_is_gone_to(tmp_path: Path) -> None:
    async with a_past(tmp_path) as past:
        past.happen("older", HOUR_S + 600)
        past.happen("old", HOUR_S - 600)
        past.happen("new")
        await past.press("E")
        await past.press("at", *"1h", "enter")
        assert past.screen.words == "@1h"
        assert past.selected == "old"
        await past.press("at", *"2h", "enter")
        assert past.screen.words == "@2h"
        assert past.selected == "older"


@pytest.mark.asyncio
async def test_a_message_of_an_hour_ago_is_found_by_word_and_time(tmp_path: Path) -> None:
    async with a_past(tmp_path) as past:
        for number in range(500):
            past.add(f"deploy {number}", HOUR_S + 250 - number)
            past.add(f"other {number}", HOUR_S + 250 - number)
        keys = ("slash", *"deploy @1h", "enter")
        assert len(keys) == 12
        await past.press(*keys)
        assert isinstance(past.screen, HistoryScreen)
        assert all(each.startswith("deploy") for each in past.shown)
        # One of the second an hour ago; a busy machine takes some seconds to type.
        assert 250 <= int(past.selected.removeprefix("deploy ")) <= 310
        assert past.stage.main.log_view.filter_query.text == ""
        await past.press("enter")
        assert isinstance(past.stage.app.screen, MessageScreen)
        assert "Message from the history" in past.stage.text


@pytest.mark.asyncio
async def test_the_log_goes_on_in_the_history_at_its_top(tmp_path: Path) -> None:
    async with a_past(tmp_path) as past:
        past.add("old deploy", HOUR_S)
        past.add("old other", HOUR_S - 1)
        past.host.happen(received(1, 1, b"new deploy"))
        await past.press("slash", *"deploy", "enter", "up")
        assert not isinstance(past.stage.app.screen, PastScreen)
        await past.press("up")
        assert past.shown == ["old deploy", "new deploy"]
        await past.press("escape")
        assert past.shown == ["old deploy", "old other", "new deploy"]
        await past.press("escape")
        assert past.stage.app.screen is past.stage.main
        assert past.stage.main.log_view.filter_query.text == "deploy"


@pytest.mark.asyncio
async def test_the_key_for_the_history_takes_the_filter_of_the_log_along(tmp_path: Path) -> None:
    async with a_past(tmp_path) as past:
        past.add("old deploy", HOUR_S)
        past.add("old other", HOUR_S - 1)
        await past.press("slash", *"deploy", "enter")
        assert "H searches the history" in past.stage.text
        await past.press("H")
        assert past.shown == ["old deploy"]


@pytest.mark.asyncio
async def test_pages_are_loaded_at_both_ends_and_the_cursor_stays(tmp_path: Path) -> None:
    async with a_past(tmp_path) as past:
        for number in range(500):
            past.add(f"message {number:03}", 10_000 - number)
        await past.press("H")
        assert len(past.shown) == PAGE_ROWS
        assert past.selected == "message 499"
        await past.press("home", "up")
        assert past.selected == "message 300"
        assert len(past.shown) == 2 * PAGE_ROWS
        await past.press("up")
        assert past.selected == "message 299"
        await past.press("home", "home")
        assert past.shown == [f"message {n:03}" for n in range(500)]
        await past.press("home", "home")
        assert len(past.shown) == 500
        past.add("message new")
        await past.press("end", "end")
        await past.press("down")
        assert past.selected == "message new"


@pytest.mark.asyncio
async def test_rows_are_bounded(tmp_path: Path) -> None:
    async with a_past(tmp_path) as past:
        count = MAX_ROWS + 3 * PAGE_ROWS
        for number in range(count):
            past.add(f"message {number:04}", 10_000 - number)
        await past.press("H")
        for _ in range(count // PAGE_ROWS + 1):
            await past.press("home", "home")
        assert len(past.shown) == MAX_ROWS
        assert past.shown[0] == "message 0000"
        for _ in range(4):
            await past.press("end", "down")
        assert len(past.shown) == MAX_ROWS
        assert past.shown[-1] == f"message {count - 1:04}"


@pytest.mark.asyncio
async def test_typing_searches_at_once_and_escape_returns_to_everything(tmp_path: Path) -> None:
    async with a_past(tmp_path) as past:
        for text in ("deploy", "cache", "nothing"):
            past.add(text)
        await past.press("H", "slash", *"deploy")
        await past.until(lambda: past.shown == ["deploy"])
        assert "filter deploy" in past.stage.text
        await past.press("enter", "slash", *" nowhere", "enter")
        await past.until(lambda: past.shown == [])
        assert "Nothing in the history matches" in past.stage.text
        await past.press("escape")
        assert past.shown == ["deploy", "cache", "nothing"]


@pytest.mark.asyncio
async def test_a_time_that_cannot_be_read_and_a_missing_history_are_reported(
    tmp_path: Path,
) -> None:
    async with a_past(tmp_path) as past:
        await past.press("H", "slash", *"since:soon", "enter")
        await past.until(lambda: "since: expected a time such as" in past.stage.text)
        past.host.history = None
        await past.press("escape", "escape", "E")
        assert "this node keeps no history" in past.stage.text


@pytest.mark.asyncio
async def test_events_of_the_node_appear_with_their_reasons(tmp_path: Path) -> None:
    async with a_past(tmp_path) as past:
        lost = PeerStateChanged(
            a_peer(1, "db-1", state=PeerState.DISCONNECTED), PeerState.CONNECTED, "silent for 6 s"
        )
        past.host.happen(lost, DialFailed(Address("10.0.0.9", 8000), "no answer"))
        await past.press("E")
        assert past.shown == [
            "db-1 disconnected: silent for 6 s",
            "dial of 10.0.0.9:8000 failed: no answer",
        ]


@pytest.mark.asyncio
async def test_commands_open_the_screens_and_prune_asks_first(tmp_path: Path) -> None:
    async with a_past(tmp_path) as past:
        past.add("deploy", HOUR_S)
        past.add("other", HOUR_S)
        await past.stage.submit("/history --since 2h deploy")
        await past.until(lambda: isinstance(past.stage.app.screen, HistoryScreen))
        await past.until(lambda: past.shown == ["deploy"])
        await past.press("escape", "escape")
        await past.stage.submit("/events")
        await past.until(lambda: isinstance(past.stage.app.screen, EventsScreen))
        await past.press("escape")
        file = tmp_path / "past.jsonl"
        await past.stage.submit(f"/history_export {file} deploy")
        await past.until(lambda: "1 messages and 0 events written" in past.stage.text)
        await past.stage.submit("/history_prune 30m")
        assert "Delete history?" in past.stage.text
        await past.press("escape")
        assert len((await past.host.search_history())["messages"]) == 2
        await past.stage.submit("/history_prune 30m")
        await past.press("enter")
        await past.until(
            lambda: "2 messages and events deleted" in " ".join(past.stage.text.split())
        )
        await past.stage.submit(f"/history_import {file}")
        await past.until(lambda: "1 messages and 0 events added" in past.stage.text)
        await past.stage.submit("/history_import nowhere")
        await past.until(lambda: "nowhere: No such file or directory" in past.stage.text)


@pytest.mark.asyncio
async def test_hostile_text_does_not_reach_the_screen(tmp_path: Path) -> None:
    async with a_past(tmp_path) as past:
        for number, text in enumerate(HOSTILE):
            safe = text.encode(errors="replace").decode()
            past.add(text.encode(errors="replace"), len(HOSTILE) - number, name=safe, origin=number)
            past.happen(safe, len(HOSTILE) - number, name=safe)
        for key in ("H", "E"):
            await past.press(key)
            for _ in range(len(HOSTILE) // PAGE_ROWS + 2):
                assert all(line.isprintable() for line in past.stage.text.split("\n"))
                await past.press("home", "home")
            assert len(past.shown) == min(len(HOSTILE), MAX_ROWS)
            await past.press("escape")


@pytest.mark.asyncio
async def test_the_latest_ten_events_of_a_node_are_in_its_details(tmp_path: Path) -> None:
    host = FakeHost()
    host.peers = [a_peer(1, "db-1"), a_peer(2, "db-2")]
    async with a_past(tmp_path, host) as past:
        for number in range(12):
            past.happen(f"event {number}.", 60.0 - number, peer_id=an_id(1), name="db-1")
        past.happen("of another", 1.0, peer_id=an_id(2), name="db-2")
        past.happen("db-1 down: [red]\x1b[2J", 0.5, "warning", peer_id=an_id(1), suppressed=3)
        await past.stage.press("1", "g", "enter")
        await past.stage.resize(120, 80)
        async with asyncio.timeout(30):
            while "event 11." not in past.stage.text:
                await past.stage.paint()
        text = past.stage.text
        assert text.index("db-1 down: [red]␛[2J (and 3 of this kind before)") < text.index(
            "event 11."
        )
        assert "event 3." in text
        assert "event 2." not in text
        assert "of another" not in text


@pytest.mark.asyncio
async def test_a_long_payload_shows_its_true_size(tmp_path: Path) -> None:
    async with a_past(tmp_path) as past:
        past.add(b"x" * 200_000)
        past.add(b"\xff\xfe")
        await past.press("H")
        assert past.shown[-1] == "2 bytes, not text"
        await past.press("up", "enter")
        assert "200,000 bytes" in past.stage.text


@pytest.mark.asyncio
async def test_a_search_without_the_index_goes_on_in_steps_and_esc_stops_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "MAX_SCANNED_ROWS", 5)
    async with a_past(tmp_path) as past:
        for number in range(40):
            past.add(f"line {number}", HOUR_S - number)
        past.add("a needle", HOUR_S + 60)
        await past.press("H", "slash", *"/n..dle/")
        await past.until(lambda: past.shown == ["a needle"])
        await past.until(lambda: not past.screen.is_waiting)
        await past.press("enter", "escape")
        held, whole_search, screen = asyncio.Event(), past.host.search_history, past.screen

        async def search_one_step(words: str = "", **place: Any) -> dict[str, Any]:
            if "older_than" in place:
                await held.wait()
            return await whole_search(words, **place)

        monkeypatch.setattr(past.host, "search_history", search_one_step)
        await past.stage.press("slash", *"/never/", "enter")
        await past.until(lambda: screen.is_searching_on)
        await past.stage.paint()
        assert "searching at" in past.stage.text
        assert "Searching… esc stops." in past.stage.text
        await past.stage.press("escape")
        assert not screen.is_waiting
        assert "Up searches further" in past.stage.text
        assert screen.words == "/never/"
        await past.stage.press("up")
        assert "searching" in past.stage.text
        held.set()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("typed", "problem"),
    [
        ("fron:bob", "unknown field fron:; did you mean from:?"),
        ("/dis(k/", "missing )"),
        ("since:soon", "since: expected"),
    ],
)
async def test_a_filter_that_is_not_valid_is_refused_and_can_be_corrected(
    tmp_path: Path, typed: str, problem: str
) -> None:
    async with a_past(tmp_path) as past:
        past.add("from bob")
        await past.press("H", "slash", *typed, "enter")
        assert problem in past.stage.text
        assert "@ Go to a time" not in past.stage.text
        await past.press(*["backspace"] * len(typed), *"bob", "enter")
        assert not past.screen.filter_bar.display
        assert past.shown == ["from bob"]
