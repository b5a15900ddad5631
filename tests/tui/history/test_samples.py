"""Values of the past, read from the samples of a history."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from grapevine_tui.history.database import HISTORY_FILE, HistoryUnavailable
from grapevine_tui.history.records import NewSample, to_key
from grapevine_tui.history.samples import PastValues, read_past_values
from grapevine_tui.history.writer import HistoryWriter
from tests.tui.history.conftest import NOW, PATIENCE_S, ROOMY


def poll(delivered: int) -> dict[str, Any]:
    return {
        "stats": {"delivered": delivered, "dropped": {"malformed": 1}},
        "peers": [{"state": "connected"}, {"state": "disconnected"}],
        "lag_ms": 2.5,
    }


def keep(path: Path, *bodies: list[Any]) -> None:
    """A sample every ten seconds."""
    writer = HistoryWriter(path, ROOMY, lambda _: None, clock=lambda: NOW)
    for number, frames in enumerate(bodies):
        writer.put(NewSample(to_key(NOW + 10 * number), number == 0, json.dumps(frames).encode()))
    writer.flush(PATIENCE_S)
    writer.close(PATIENCE_S)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / HISTORY_FILE


def test_values_are_read_from_full_samples_and_others(path: Path) -> None:
    keep(path, [["state", {"snapshot": poll(1)}]], [["members", {}], ["poll", poll(7)]])
    assert read_past_values(path, 0, 100) == [
        PastValues(NOW, {"delivered": 1.0}, 1, 2.5),
        PastValues(NOW + 10, {"delivered": 7.0}, 1, 2.5),
    ]
    assert len(read_past_values(path, to_key(NOW + 1), 100)) == 1


def test_at_most_so_many_are_read_evenly_over_the_time(path: Path) -> None:
    keep(path, *([["poll", poll(number)]] for number in range(25)))
    found = read_past_values(path, 0, 10)
    assert [each.counters["delivered"] for each in found] == [0, 3, 6, 9, 12, 15, 18, 21, 24]


def test_a_sample_without_such_values_is_left_out(path: Path) -> None:
    keep(path, [["poll", {"stats": 3}]], ["nonsense"], [["event", {}]], [["poll", poll(2)]])
    assert [each.counters for each in read_past_values(path, 0, 10)] == [{"delivered": 2.0}]


def test_without_a_history_it_says_so(path: Path) -> None:
    with pytest.raises(HistoryUnavailable):
        read_past_values(path, 0, 10)
