"""What the samples of a history say about a stretch of time, for graphs.

Invariants: at most `limit` samples are unpacked, spread evenly over the time; a damaged one is left out.
"""

from __future__ import annotations

import json
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from grapevine_tui.history.database import open_for_reading, unavailable
from grapevine_tui.history.records import MICROSECONDS

MAX_BODY_BYTES: Final = 64 * 2**20  # of a sample, unpacked

Frames = list[tuple[str, dict[str, Any]]]


def unpack_sample(body: bytes) -> Frames:
    """The kinds and fields that a sample holds; none if it is damaged."""
    with suppress(zlib.error, ValueError, TypeError):
        frames = json.loads(zlib.decompressobj().decompress(body, MAX_BODY_BYTES))
        return [(str(kind), dict(fields)) for kind, fields in frames]
    return []


class PastValues(NamedTuple):
    """Values of a node at a time. `counters` are those of its statistics, by name."""

    at_unix: float
    counters: dict[str, float]
    peers: int
    lag_ms: float


def read_past_values(path: Path, since_key: int, limit: int) -> list[PastValues]:
    """The values since then, oldest first. Blocks. Raises HistoryUnavailable."""
    import sqlite3

    connection = open_for_reading(path)
    try:
        keys = [
            key
            for (key,) in connection.execute(
                "SELECT key FROM samples WHERE key >= ? ORDER BY key", (since_key,)
            )
        ]
        step = max(1, -(-len(keys) // limit))
        found = []
        for key in keys[::step]:
            row = connection.execute("SELECT body FROM samples WHERE key = ?", (key,)).fetchone()
            values = None if row is None else _values(key / MICROSECONDS, unpack_sample(row[0]))
            if values is not None:
                found.append(values)
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):  # of a build without samples
            return []
        raise unavailable(error) from None
    except sqlite3.Error as error:
        raise unavailable(error) from None
    else:
        return found
    finally:
        connection.close()


def _values(at_unix: float, frames: Frames) -> PastValues | None:
    """The values in a sample; None if it has none that can be read."""
    for kind, fields in frames:
        with suppress(KeyError, TypeError, ValueError, AttributeError):
            values = fields["snapshot"] if kind == "state" else fields if kind == "poll" else {}
            counters = {
                name: float(each)
                for name, each in values["stats"].items()
                if isinstance(each, (int, float))
            }
            connected = sum(each["state"] == "connected" for each in values["peers"])
            return PastValues(at_unix, counters, connected, float(values["lag_ms"]))
    return None
