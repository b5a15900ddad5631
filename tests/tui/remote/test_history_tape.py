"""The history of a node is played back in the same screens, from its samples and messages."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from grapevine_tui.cli.main import run
from grapevine_tui.history.database import HISTORY_FILE, HistoryUnavailable, open_for_reading
from grapevine_tui.history.records import NewSample, StoredEvent, to_key
from grapevine_tui.history.writer import HistoryWriter, Limits, NewMessage
from grapevine_tui.host.model import Model
from grapevine_tui.remote.history_tape import MAX_MESSAGES, HistoryTape
from grapevine_tui.remote.replay import RecordingOnly, ReplayClock, ReplayHost
from tests.tui.remote.test_recording import START, a_poll, a_state, texts
from tests.tui.runs import Bench
from tests.tui.values import a_message

LENGTH_S = 120
FLUSH_S = 60.0


def a_sample(second: int, frames: list[tuple[str, dict[str, Any]]], *, is_full: bool) -> NewSample:
    return NewSample(to_key(START + second), is_full, json.dumps(frames).encode())


def kept(path: Path, limits: Limits | None = None) -> Path:
    """Two minutes with a message a second, a sample every ten and a full one each minute."""
    writer = HistoryWriter(
        path, limits or Limits(2**30, 3_000.0), print, clock=lambda: START + LENGTH_S
    )
    for second in range(LENGTH_S):
        if second % 60 == 0:
            writer.put(a_sample(second, [("state", a_state(second))], is_full=True))
        elif second % 10 == 0:
            writer.put(a_sample(second, [("poll", a_poll(second))], is_full=False))
        message = a_message(2, second + 1, f"line {second}.".encode())
        writer.put(NewMessage(to_key(START + second + 0.5), message, "db-2", ""))
    writer.put(StoredEvent(to_key(START + 30), "peer", "info", "db-3 connected"))
    writer.flush(FLUSH_S)
    writer.close(FLUSH_S)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return kept(tmp_path / HISTORY_FILE)


@pytest.fixture
def host(path: Path) -> Iterator[ReplayHost]:
    clock = ReplayClock()
    tape = HistoryTape(path)
    yield ReplayHost(tape, Model(wall_clock=clock), clock, monotonic=lambda: 0.0)
    tape.close()


@pytest.mark.asyncio
async def test_a_time_shows_the_tables_and_messages_of_then(host: ReplayHost) -> None:
    await host.start()
    host.go_to(START + 75)
    assert texts(host) == [f"line {second}." for second in range(75)]
    assert sorted(peer.name for peer in host.model.peers.values()) == ["db-2", "db-3", "db-4"]
    assert host.model.stats.delivered == 70, "of the sample before"
    host.step(-60)
    assert texts(host) == [f"line {second}." for second in range(15)]
    assert [peer.name for peer in host.model.peers.values()] == ["db-2"]


@pytest.mark.asyncio
async def test_time_goes_on_from_there_as_it_went(path: Path) -> None:
    clock, now = ReplayClock(), [0.0]
    host = ReplayHost(
        HistoryTape(path), Model(wall_clock=clock), clock, speed=10, monotonic=lambda: now[0]
    )
    await host.start()
    host.go_to(START + 55)
    for _ in range(4):
        now[0] += 1.0
        host.refresh()
    assert texts(host)[-1] == "line 94."
    assert len(texts(host)) == 95, "each once"
    assert host.model.stats.delivered == 90
    assert host.config.name == "us"
    await host.leave(0.0)


@pytest.mark.asyncio
async def test_its_history_and_events_can_be_searched_and_nothing_sent(host: ReplayHost) -> None:
    await host.start()
    found = await host.search_history("line", limit=1_000)
    assert len(found["messages"]) == LENGTH_S
    events = await host.search_events("")
    assert [each["text"] for each in events["events"]] == ["db-3 connected"]
    with pytest.raises(RecordingOnly):
        await host.broadcast(b"x")


@pytest.mark.asyncio
async def test_of_many_messages_only_the_latest_are_read(tmp_path: Path) -> None:
    path = tmp_path / HISTORY_FILE
    writer = HistoryWriter(path, Limits(2**30, 3_000.0), print, clock=lambda: START)
    writer.put(a_sample(0, [("state", a_state(0))], is_full=True))
    for number in range(MAX_MESSAGES + 50):
        writer.put(NewMessage(to_key(START + 1) + number, a_message(2, number + 1), "", ""))
    writer.put(a_sample(9, [("poll", a_poll(9))], is_full=False))
    writer.flush(FLUSH_S)
    writer.close(FLUSH_S)
    tape = HistoryTape(path)
    assert sum(frame.kind == "event" for frame, _ in tape.until(START + 9)) == MAX_MESSAGES
    assert sum(frame.kind == "event" for frame, _ in tape.read(0)) == MAX_MESSAGES + 50
    tape.close()


def test_samples_are_limited_in_bytes_and_age(tmp_path: Path) -> None:
    path = tmp_path / HISTORY_FILE
    limits = Limits(2**20, 1.0)
    writer = HistoryWriter(path, limits, print, clock=lambda: START + 86_400)
    noise = [f"{number * 2654435761 % 2**64:x}" for number in range(400)]
    writer.put(a_sample(-3, [("state", a_state(0))], is_full=True))
    for second in range(10, 400):
        writer.put(
            a_sample(second, [("poll", {"noise": noise[second - 10 :]})], is_full=second % 10 == 0)
        )
    writer.flush(FLUSH_S)
    from grapevine_tui.history.history import prune

    prune(writer, None)
    writer.close(FLUSH_S)
    with closing(open_for_reading(path)) as connection:
        first, total, count = connection.execute(
            "SELECT min(key), sum(length(body)), count(*) FROM samples"
        ).fetchone()
    assert first > to_key(START), "one was older than a day"
    assert total <= limits.bytes // 8
    assert 0 < count < 390


def test_a_damaged_sample_is_left_out(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE samples SET body = x'00ff' WHERE key = ?", (to_key(START + 10),))
        connection.commit()
    tape = HistoryTape(path)
    assert sum(frame.kind == "poll" for frame, _ in tape.read(0)) == 9
    tape.close()


def test_a_directory_without_samples_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(HistoryUnavailable, match="has no history"):
        HistoryTape(tmp_path / HISTORY_FILE)
    writer = HistoryWriter(tmp_path / HISTORY_FILE, Limits(2**30, 30.0), print)
    writer.put(StoredEvent(1, "peer", "info", "x"))
    writer.flush(FLUSH_S)
    writer.close(FLUSH_S)
    with pytest.raises(HistoryUnavailable, match="no samples"):
        HistoryTape(tmp_path / HISTORY_FILE)
    with closing(sqlite3.connect(tmp_path / HISTORY_FILE)) as connection:
        connection.execute("DROP TABLE samples")
        connection.commit()
    with pytest.raises(HistoryUnavailable, match="no samples"):
        HistoryTape(tmp_path / HISTORY_FILE)
    assert run(["replay", str(tmp_path)]) != 0
    assert "Traceback" not in capsys.readouterr().err


def test_a_node_keeps_samples_that_replay_shows(bench: Bench) -> None:
    run_, _ = bench.started("--name", "one", "--state-dir", "kept")
    run_.ask(cmd="broadcast", text="from before")
    path = bench.directory / "kept" / HISTORY_FILE
    deadline = time.monotonic() + FLUSH_S
    while not _has_samples(path):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    clock = ReplayClock()
    tape = HistoryTape(path)
    host = ReplayHost(tape, Model(wall_clock=clock), clock)
    host.go_to(tape.end)
    assert host.config.name == "one"
    assert texts(host) == ["from before"]
    tape.close()


def _has_samples(path: Path) -> bool:
    try:
        HistoryTape(path).close()
    except HistoryUnavailable:
        return False
    return True
