"""``grapevine-tui ctl``: asks a running node over its control socket and shows what it says.

What must stay true:

- An answer is a table or a line for people, or with ``--json`` the reply object as it came.
- Where no node answers, and where it refuses, that is one line and exit code 1; with ``--json`` also an
  object with ``"ok": false`` and the error on stdout.
- Whatever came over the socket passes `printable` before a terminal sees it.
- Neither Textual nor an event loop is needed: this starts as quickly as Python does.
"""

from __future__ import annotations

import json
import sys
import time
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import click

from grapevine_proto.errors import GrapevineError
from grapevine_tui.control.client import CommandFailed, find_state_dir, send_command
from grapevine_tui.control.jsonlines import Object
from grapevine_tui.control.lines import MAX_LINE_BYTES
from grapevine_tui.text import cells, printable

TRACE_WAIT_S: Final = 5.0  # for the answers to a trace: repair has had its turn by then
POLL_INTERVAL_S: Final = 0.1
MAX_STDIN_PAYLOAD_BYTES: Final = MAX_LINE_BYTES * 3 // 4 - 1024  # that fit a line as base64
COLUMN_WIDTHS: Final = {"peer_id": 12, "text": 48}  # digits of an id that people are shown


# --- for people -----------------------------------------------------------------------------------


def format_table(rows: Sequence[Object], columns: Sequence[str]) -> list[str]:
    """Lines with a head, each column as wide as its widest cell; numbers stand right."""
    cell_texts = [[_format_cell(name, row.get(name)) for name in columns] for row in rows]
    titles = [name.replace("_", " ") for name in columns]
    widths = [
        max(cells(text) for text in column) for column in zip(titles, *cell_texts, strict=True)
    ]
    is_numeric = [bool(rows) and all(_is_number(row.get(name)) for row in rows) for name in columns]
    return [
        "  ".join(
            " " * (width - cells(text)) + text if right else text + " " * (width - cells(text))
            for text, width, right in zip(line, widths, is_numeric, strict=True)
        ).rstrip()
        for line in (titles, *cell_texts)
    ]


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _format_cell(name: str, value: Any) -> str:
    match value:
        case None | "":
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:,.3f}".rstrip("0").rstrip(".")
        case int() if name != "epoch":
            return f"{value:,}"
        case list():
            return ", ".join(_format_cell("", each) for each in value) or "-"
        case _:
            return printable(str(value))[: COLUMN_WIDTHS.get(name)]


def format_facts(fields: Object) -> list[str]:
    """A line for each field; counters of a kind beneath its name."""
    flat: Object = {}
    for name, value in fields.items():
        if isinstance(value, dict):
            flat |= {f"{name} {each}": count for each, count in value.items()}
        else:
            flat[name] = value
    shown = {
        printable(name).replace("_", " "): _format_cell(name, value) for name, value in flat.items()
    }
    width = max(map(cells, shown), default=0)
    return [f"{name:<{width}}  {value}" for name, value in shown.items()]


TABLE_COLUMNS: Final = {
    "peers": ("name", "peer_id", "address", "zone", "state", "health", "rtt_ms", "sent",
              "received", "throttled", "tokens", "queued", "last_seen_s"),
    "members": ("name", "peer_id", "address", "zone", "status", "epoch"),
    "traces": ("id", "reached", "expected", "known", "p50_ms", "p99_ms", "last_ms", "hops"),
    "rounds": ("time", "number", "peer_id", "outcome", "sent", "received", "bytes", "duration_ms"),
}  # fmt: skip
ENVELOPE_FIELDS: Final = ("event", "time", "request", "ok")


def format_reply(command: str, reply: Object) -> Iterable[str]:
    """What people are shown of `reply`."""
    if command == "rounds":
        return format_table(
            [_with_start_time(each) for each in reversed(reply[command])], TABLE_COLUMNS[command]
        )
    if command == "peers":
        rows = [
            each | {"state": "denied"} if each.get("denied") else each for each in reply[command]
        ]
        return format_table(rows, TABLE_COLUMNS[command])
    if command == "settings":
        return format_table(reply["values"], ("name", "value", "origin"))
    if command in TABLE_COLUMNS:
        return format_table(reply[command], TABLE_COLUMNS[command])
    fields = {name: value for name, value in reply.items() if name not in ENVELOPE_FIELDS}
    match command:
        case "stats":
            return format_facts(reply["stats"])
        case "broadcast":
            return [
                f"{_format_cell('', reply['id'])}  to {_format_cell('', reply['peers'])} peers at once"
            ]
        case "reload":
            pending_restart = _format_cell("", reply["restart"])
            return [
                "reloaded"
                if pending_restart == "-"
                else f"reloaded; a restart is needed for: {pending_restart}"
            ]
        case "round":
            return ["a round begins"]
        case "quit":
            return ["it has left"]
        case _:
            return format_facts(fields)


def _with_start_time(row: Object) -> Object:
    """`row` with the time of day at which it began."""
    ago_s = row.get("ago_s")
    if ago_s is None:  # of an older node
        return row | {"time": None}
    return row | {"time": time.strftime("%H:%M:%S", time.localtime(time.time() - ago_s))}


# --- the command line -----------------------------------------------------------------------------


class JsonErrorGroup(click.Group):
    """A group that also answers in JSON when it fails, where `--json` is asked for: a script reads one
    object from stdout in any case. The line on stderr and the exit code stay."""

    def make_context(self, info_name: Any, args: list[str], *rest: Any, **extra: Any) -> Any:
        is_json = "--json" in (args[: args.index("--")] if "--" in args else args)
        with self._errors_as_json(is_json):
            context = super().make_context(info_name, args, *rest, **extra)
        context.meta[__name__] = is_json
        return context

    def invoke(self, context: click.Context) -> Any:
        with self._errors_as_json(context.meta[__name__]):
            return super().invoke(context)

    @contextmanager
    def _errors_as_json(self, is_json: bool) -> Iterator[None]:
        try:
            yield
        except (GrapevineError, click.ClickException, OSError) as error:
            if is_json:
                from grapevine_tui.cli.main import format_error

                click.echo(json.dumps({"ok": False, "error": format_error(error)}))
            raise


@click.group("ctl", cls=JsonErrorGroup)
@click.option("--state-dir", metavar="DIR", help="State directory of the node [that of its port]")
@click.option("-p", "--port", metavar="N", help="UDP port of the node [from the settings, or 8000]")
@click.option("--json", "is_json", is_flag=True, help="Print the reply as a JSON object")
@click.pass_context
def ctl(context: click.Context, state_dir: str | None, port: str | None, is_json: bool) -> None:
    """Query and control a running node."""
    flags: dict[str, Any] = dict(context.obj or {})
    if port is not None:
        flags["port"] = port
    if state_dir is not None:
        flags["app.state_dir"] = state_dir
    context.obj = (flags, is_json)


def _run_command(context: click.Context, is_json: bool, command: str, **fields: str) -> int:
    flags, is_json_before = context.obj
    reply = send_command(find_state_dir(flags), {"cmd": command, **fields})
    if is_json or is_json_before:
        click.echo(json.dumps(reply, allow_nan=False))
    else:
        for line in format_reply(command, reply):
            click.echo(line)
    return 0


_JSON_OPTION: Final = click.option(
    "--json", "is_json", is_flag=True, help="Print the reply as a JSON object"
)
QUERY_COMMANDS: Final = {
    "peers": "List the peers of the node.",
    "members": "List all members of the cluster, connected or not.",
    "status": "Show identity, addresses, keys and health.",
    "stats": "Show all counters.",
    "rounds": "List the latest anti-entropy rounds.",
    "traces": "List the latest traces.",
    "settings": "Show every setting with its value and source.",
}
PLAIN_COMMANDS: Final = {
    "round": "Start an anti-entropy round now.",
    "reload": "Reload settings and keys. If one is invalid, nothing changes; exit code 1.",
}
ARGUMENT_COMMANDS: Final = {
    "dial": ("address", "HOST:PORT", "Connect to HOST:PORT."),
    "deny": ("peer", "PEER", "Ban a peer (name, ID or address) until the node restarts."),
    "forget": ("peer", "PEER", "Remove a peer or member that is down."),
    "allow": ("peer", "PEER", "Lift the ban on a peer."),
}


def _add_plain_command(name: str, help_text: str) -> None:
    @ctl.command(name, help=help_text)
    @_JSON_OPTION
    @click.pass_context
    def run_plain(context: click.Context, is_json: bool) -> int:
        return _run_command(context, is_json, name)


def _add_argument_command(name: str, field: str, metavar: str, help_text: str) -> None:
    @ctl.command(name, help=help_text)
    @click.argument("value", metavar=metavar)
    @_JSON_OPTION
    @click.pass_context
    def run_with_argument(context: click.Context, value: str, is_json: bool) -> int:
        return _run_command(context, is_json, name, **{field: value})


for _name, _help_text in (QUERY_COMMANDS | PLAIN_COMMANDS).items():
    _add_plain_command(_name, _help_text)
for _name, (_field, _metavar, _help_text) in ARGUMENT_COMMANDS.items():
    _add_argument_command(_name, _field, _metavar, _help_text)


_FILE_OPTION: Final = click.option("--file", metavar="FILE", help="Read the message from FILE")


@ctl.command()
@click.argument("text", nargs=-1)
@_FILE_OPTION
@_JSON_OPTION
@click.pass_context
def broadcast(
    context: click.Context, text: tuple[str, ...], file: str | None, is_json: bool
) -> int:
    """Broadcast TEXT, or stdin if TEXT is "-"."""
    return _run_command(context, is_json, "broadcast", **_payload_fields(text, file))


@ctl.command()
@click.argument("to", metavar="PEER")
@click.argument("text", nargs=-1)
@_FILE_OPTION
@_JSON_OPTION
@click.pass_context
def send(
    context: click.Context, to: str, text: tuple[str, ...], file: str | None, is_json: bool
) -> int:
    """Send TEXT, or stdin if TEXT is "-", to PEER only.

    PEER is a name, an ID or its beginning, or an address.
    """
    return _run_command(context, is_json, "send", to=to, **_payload_fields(text, file))


@ctl.command()
@click.argument("text", nargs=-1)
@_FILE_OPTION
@click.option(
    "--wait",
    "wait_s",
    type=float,
    default=TRACE_WAIT_S,
    help="Seconds to wait for confirmations [5]",
)
@_JSON_OPTION
@click.pass_context
def trace(
    context: click.Context, text: tuple[str, ...], file: str | None, wait_s: float, is_json: bool
) -> int:
    """Broadcast TEXT and report which members received it.

    The report has delivery times and hop counts. Exit code 1 if a member has not confirmed.
    """
    flags, is_json_before = context.obj
    state_dir = find_state_dir(flags)
    report = wait_for_trace(state_dir, {"cmd": "trace", **_payload_fields(text, file)}, wait_s)
    if is_json or is_json_before:
        click.echo(json.dumps(report, allow_nan=False))
    else:
        members = (
            send_command(state_dir, {"cmd": "members"})["members"] if report["unanswered"] else []
        )
        for line in format_trace(report, {each["peer_id"]: each["name"] for each in members}):
            click.echo(line)
    return 0 if report["complete"] else 1


def wait_for_trace(state_dir: Path, command: Object, wait_s: float) -> Object:
    """Trace a message and give the report once all have answered, or after so long. Raises NoAnswer,
    NotDone."""
    message_id = send_command(state_dir, command)["id"]
    deadline = time.monotonic() + wait_s
    while True:
        traces: list[Object] = send_command(state_dir, {"cmd": "traces"})["traces"]
        report = next((each for each in traces if each["id"] == message_id), None)
        if report is None:
            raise CommandFailed("other traces have taken the place of this one")
        if report["complete"] or time.monotonic() >= deadline:
            return report
        time.sleep(POLL_INTERVAL_S)


def format_trace(report: Object, names: dict[str, str]) -> Iterable[str]:
    """What people are shown of a trace."""
    cell = partial(_format_cell, "")
    sample = f", a sample of {cell(report['known'])}" if report["sample"] else ""
    yield f"{cell(report['reached'])} of {cell(report['expected'])} have it{sample}"
    latencies = (f"{name} {cell(report[f'{name}_ms'])} ms" for name in ("p50", "p99", "last"))
    if report.get("late"):
        yield f"{cell(report['late'])} answered late: they had it at the latest then, and maybe sooner"
    if report["reached"]:
        yield f"{', '.join(latencies)}, {cell(report['hops'])} hops"
    if report["others"]:
        yield f"and {cell(report['others'])} who were not known"
    for peer_id in report["unanswered"]:
        yield f"no answer: {_format_cell('peer_id', peer_id)}  {cell(names.get(peer_id))}"


@ctl.command()
@_JSON_OPTION
@click.pass_context
def leave(context: click.Context, is_json: bool) -> int:
    """Leave the cluster and stop. Returns when the node has stopped."""
    return _run_command(context, is_json, "quit")


def _payload_fields(text: tuple[str, ...], file: str | None) -> dict[str, str]:
    if bool(text) == (file is not None):
        raise click.UsageError("say what to send: a TEXT, - for stdin, or --file FILE")
    if file is not None:
        return {"file": str(Path(file).absolute())}  # the node stands elsewhere
    if text != ("-",):
        return {"text": " ".join(text)}
    payload = sys.stdin.buffer.read(MAX_STDIN_PAYLOAD_BYTES + 1)
    if len(payload) > MAX_STDIN_PAYLOAD_BYTES:
        raise click.UsageError(f"more than {MAX_STDIN_PAYLOAD_BYTES:,} bytes on stdin; use --file")
    return {"base64": b64encode(payload).decode("ascii")}
