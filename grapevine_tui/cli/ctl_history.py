"""``ctl events`` and ``ctl history``: the past of a node, whether it runs or not.

Invariants:

- A running node is asked over its control socket; without one, the file in its state directory is used.
- An export is written by this process, so that it costs the node nothing.
- Text from the history passes `printable` before it reaches a terminal.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from grapevine_proto.errors import InvalidArgument
from grapevine_tui.config.settings import load_settings
from grapevine_tui.control.client import send_command
from grapevine_tui.control.jsonlines import Object
from grapevine_tui.control.target import LocalTarget, NodeUnreachable, Target
from grapevine_tui.history.database import HISTORY_FILE
from grapevine_tui.history.history import parse_key, prune
from grapevine_tui.history.pages import read_page
from grapevine_tui.history.records import LEVEL_SIGNS, event_text, to_key
from grapevine_tui.history.terms import parse_query
from grapevine_tui.history.times import format_time
from grapevine_tui.history.transfer import export_history, import_history, offline_writer
from grapevine_tui.history.writer import HistoryWriter, Limits
from grapevine_tui.text import format_payload, json_payload_text, printable

FOLLOW_INTERVAL_S: Final = 0.5
CHANGE_TIMEOUT_S: Final = 600.0  # for an import or a prune
CLOSE_TIMEOUT_S: Final = 30.0


class HistoryRequest(NamedTuple):
    """What the command line asks for. `fields` are those of the JSON command."""

    flags: dict[str, Any]
    target: Target
    fields: Object
    is_json: bool
    follows: bool

    @property
    def file(self) -> Path:
        """The file of the history. Raises InvalidArgument if it is on another host."""
        if isinstance(self.target, LocalTarget):
            return self.target.state_dir / HISTORY_FILE
        command = self.fields["cmd"]
        raise InvalidArgument(f"{command} needs the file of the node; run it on {self.target.host}")


def run_page(request: HistoryRequest) -> Iterator[str | Object]:
    """The lines of a page of events or messages; with `follows`, of each new one as well."""
    kind = "events" if request.fields["cmd"] == "events" else "messages"
    reply = _read(request, request.fields)
    if request.is_json and not request.follows:
        yield reply
        return
    newest = to_key(time.time())
    while True:
        for row in reply[kind]:
            newest = row["key"]
            yield row if request.is_json else _format_row(kind, row)
        if not request.follows:
            break
        sys.stdout.flush()
        if reply["newer"] is None or not reply[kind]:
            time.sleep(FOLLOW_INTERVAL_S)
        fields = {name: request.fields[name] for name in ("cmd", "words") if name in request.fields}
        reply = send_command(request.target, fields | {"newer_than": newest})
    for hint in _hints(kind, reply):
        print(hint, file=sys.stderr)  # noqa: T201


def run_export(request: HistoryRequest) -> Iterator[str | Object]:
    """Write the file in this process and say what it has."""
    source = request.file
    # A running node writes what is queued before it answers.
    with contextlib.suppress(NodeUnreachable):
        send_command(request.target, {"cmd": "events", "limit": 1})
    target = Path(request.fields["file_name"])
    try:
        counts = export_history(source, target, parse_query(request.fields.get("words", "")))
    except ValueError as error:
        raise InvalidArgument(str(error)) from None
    yield from _format_result(request, counts._asdict() | {"file": str(target)})


def run_import(request: HistoryRequest) -> Iterator[str | Object]:
    """Add the rows of a file and say how many."""
    source = Path(request.fields["file_name"]).absolute()  # the node runs in another directory
    try:
        result = send_command(
            request.target, request.fields | {"file_name": str(source)}, CHANGE_TIMEOUT_S
        )
    except NodeUnreachable:
        with _offline_writer(request) as writer:
            try:
                result = dict(import_history(writer, source)._asdict())
            except ValueError as error:
                raise InvalidArgument(str(error)) from None
    yield from _format_result(request, result)


def run_prune(request: HistoryRequest) -> Iterator[str | Object]:
    """Delete old rows and say how many."""
    try:
        result = send_command(request.target, request.fields, CHANGE_TIMEOUT_S)
    except NodeUnreachable:
        before = request.fields.get("before", "")
        try:
            before_key = parse_key(before) if before else None
        except ValueError as error:
            raise InvalidArgument(str(error)) from None
        with _offline_writer(request) as writer:
            result = {"deleted": prune(writer, before_key)}
    yield from _format_result(request, result)


def _read(request: HistoryRequest, fields: Object) -> Object:
    """The reply of the node, or of its file if it does not run."""
    try:
        return send_command(request.target, fields)
    except NodeUnreachable:
        if not isinstance(request.target, LocalTarget) or not request.file.exists():
            raise
    kind = "events" if fields["cmd"] == "events" else "messages"
    given = {name: value for name, value in fields.items() if name not in ("cmd", "words")}
    try:
        return read_page(request.file, kind, fields.get("words", ""), **given)
    except ValueError as error:
        raise InvalidArgument(str(error)) from None


@contextlib.contextmanager
def _offline_writer(request: HistoryRequest) -> Iterator[HistoryWriter]:
    """A writer of the file of a node that does not run, with its limits."""
    settings = load_settings(request.flags, os.environ)
    limits = Limits(settings.history_bytes, settings.history_days)
    writer = offline_writer(request.file, limits)
    try:
        yield writer
    finally:
        writer.close(CLOSE_TIMEOUT_S)


def _format_row(kind: str, row: Object) -> str:
    clock = format_time(row["at"])
    if kind == "events":
        return printable(f"{clock} {LEVEL_SIGNS.get(row['level'], ' ')} {event_text(row)}")
    author = row.get("from_name") or row["origin"][:8]
    topic = f"  {row['topic']}" if row["topic"] else ""
    return printable(f"{clock}  {author}{topic}: ") + format_payload(
        json_payload_text(row).encode()
    )


def _hints(kind: str, reply: Object) -> Iterator[str]:
    """What the page leaves out, for people."""
    if not reply[kind]:
        yield f"no {kind} match"
    if reply["note"]:
        yield printable(reply["note"])
    if reply["older"] is not None:
        yield f"older ones: --older-than {reply['older']}"


def _format_result(request: HistoryRequest, result: Object) -> Iterator[str | Object]:
    if request.is_json:
        yield {"ok": True, **result}
        return
    if "deleted" in result:
        yield f"deleted {result['deleted']:,} messages and events"
        return
    where = f" to {printable(result['file'])}" if "file" in result else ""
    verb = "wrote" if where else "added"
    yield f"{verb} {result['messages']:,} messages and {result['events']:,} events{where}"
