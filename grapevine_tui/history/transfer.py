"""Exports the history as JSON Lines, and imports such files.

Invariants:

- An export is complete: imported rows equal the exported ones, to the byte.
- A second import adds nothing: a row with the same time and content as one that exists is skipped.
- A line that cannot be read ends the import with its number; the rows before it stay.

Blocks: call it in a thread, or in a process of its own.
"""

from __future__ import annotations

import json
import os
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from grapevine_proto.events import Message, Via
from grapevine_proto.ids import MessageId, PeerId
from grapevine_tui.filter_syntax import EVENT_FIELDS, MESSAGE_FIELDS, TIME_FIELDS, query_fault
from grapevine_tui.history.database import HistoryUnavailable, open_for_reading
from grapevine_tui.history.records import LEVELS, StoredEvent
from grapevine_tui.history.search import Place, search_events, search_messages
from grapevine_tui.history.terms import Query
from grapevine_tui.history.writer import BATCH_ROWS, HistoryWriter, Limits, NewMessage, Row

MAX_LINE_BYTES: Final = 64 * 2**20
IMPORT_TIMEOUT_S: Final = 60.0  # of one batch
MAX_FIELD_CHARACTERS: Final = 4_096
TEXT_FIELDS: Final = ("kind", "level", "text", "name", "address", "state", "reason")
MALFORMED: Final = (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError)


class Counts(NamedTuple):
    """Rows of one kind each."""

    messages: int
    events: int


def export_history(path: Path, target: Path, query: Query) -> Counts:
    """Write the messages and events of the history at `path` that match `query` to `target`, which must not
    exist.

    Raises HistoryUnavailable, OSError, or ValueError if the query is not valid.
    """
    if fault := query_fault(query, (*MESSAGE_FIELDS, *EVENT_FIELDS, *TIME_FIELDS)):
        raise ValueError(fault)
    open_for_reading(path).close()  # before a file is created
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    file = os.open(target, flags, 0o600)
    messages = events = 0
    try:
        with os.fdopen(file, "wb") as stream:
            for fields in _all_messages(path, query):
                stream.write(_line({"event": "message", **fields}))
                messages += 1
            for fields in _all_events(path, query):
                stream.write(_line({"event": "history_event", **fields}))
                events += 1
    except BaseException:
        with suppress(OSError):
            target.unlink()
        raise
    return Counts(messages, events)


def import_history(writer: HistoryWriter, source: Path) -> Counts:
    """Add the rows of an exported file that the history lacks; return how many.

    Raises HistoryUnavailable, OSError, or ValueError with the number of the line that cannot be read.
    """
    counts = [0, 0]
    for batch in _batches(source):

        def add(writer: HistoryWriter, _: Any, rows: list[Row] = batch) -> None:
            new = writer.table.missing(rows)
            writer.table.write(new)
            counts[0] += sum(isinstance(each, NewMessage) for each in new)
            counts[1] += sum(isinstance(each, StoredEvent) for each in new)

        writer.run(add, IMPORT_TIMEOUT_S)
    return Counts(*counts)


def _line(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, allow_nan=False, separators=(",", ":")).encode("ascii") + b"\n"


def _all_messages(path: Path, query: Query) -> Iterator[dict[str, Any]]:
    """Every matching message, oldest first, with its whole payload."""
    return _all_pages(lambda place: search_messages(path, query, place, whole=True))


def _all_events(path: Path, query: Query) -> Iterator[dict[str, Any]]:
    return _all_pages(lambda place: search_events(path, query, place))


def _all_pages(read: Callable[[Place], Any]) -> Iterator[dict[str, Any]]:
    after: int | None = 0
    while after is not None:
        page = read(Place(after=after))
        for row in page.rows:
            yield row.to_dict()
        after = page.newer


def _batches(source: Path) -> Iterator[list[Row]]:
    rows: list[Row] = []
    with source.open("rb") as stream:
        number = 0
        while line := stream.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES:
                raise ValueError(f"line {number} is longer than {MAX_LINE_BYTES:,} bytes")
            if line.strip():
                try:
                    rows.append(_parse_row(json.loads(line)))
                except MALFORMED as error:
                    raise ValueError(
                        f"line {number}: not a row of a history: {error!r:.80}"
                    ) from None
            if len(rows) >= BATCH_ROWS:
                yield rows
                rows = []
    if rows:
        yield rows


def _parse_row(fields: dict[str, Any]) -> Row:
    """The row of an exported line. Raises one of `MALFORMED`."""
    key = fields["key"]
    if type(key) is not int or not 0 < key < 2**62:
        raise ValueError("key")
    if fields["event"] == "history_event":
        if fields["level"] not in LEVELS:
            raise ValueError("level")
        texts = {name: str(fields[name])[:MAX_FIELD_CHARACTERS] for name in TEXT_FIELDS}
        peer_id = PeerId.parse(fields["peer_id"]) if fields["peer_id"] else None
        return StoredEvent(key, **texts, peer_id=peer_id, suppressed=int(fields["suppressed"]))
    if fields["event"] != "message":
        raise ValueError("event")
    payload = b64decode(fields["base64"], validate=True)
    message_id = MessageId.parse(fields["id"])
    if message_id.epoch >= 2**62 or not 0 <= message_id.sequence < 2**62:
        raise ValueError("id")
    message = Message(
        message_id,
        payload,
        min(int(fields["hops"]), 2**31),
        Via(fields["via"]),
        0.0,
        is_direct=message_id.is_direct,
        to=PeerId.parse(fields["to"]) if "to" in fields else None,
        topic=str(fields["topic"]),
        age_s=min(float(fields["age_s"] or 0.0), 1e9),
    )
    return NewMessage(key, message, str(fields.get("from_name", "")), str(fields.get("zone", "")))


def offline_writer(path: Path, limits: Limits) -> HistoryWriter:
    """A writer of a history that no node writes. Raises HistoryUnavailable."""
    problems: list[str] = []
    writer = HistoryWriter(path, limits, problems.append)
    try:
        writer.flush(IMPORT_TIMEOUT_S)
    except HistoryUnavailable:
        writer.close(1.0)
        raise
    return writer
