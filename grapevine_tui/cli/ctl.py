"""``grapevine-tui ctl``: sends commands to a running node over its control socket and prints the replies.

Invariants:

- A reply is printed as a table or a line of text, or with ``--json`` as the object received.
- If no node answers, or the node refuses, the error is one line on stderr and the exit code 1; with
  ``--json`` an object with ``"ok": false`` and the error is also printed on stdout.
- Text from the socket passes `printable` before it reaches a terminal.
- Neither Textual nor an event loop is imported, so that a command starts as quickly as Python.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Final, TypeAlias, assert_never

import click

from grapevine_proto.errors import GrapevineError
from grapevine_tui.cli.ctl_history import (
    HistoryRequest,
    run_export,
    run_import,
    run_page,
    run_prune,
)
from grapevine_tui.cli.ctl_session import CtlSession, read_only_option, run_on_all
from grapevine_tui.cli.replay import record
from grapevine_tui.cli.stream import stream
from grapevine_tui.control.answers import answer_summary, group_answers
from grapevine_tui.control.client import CommandFailed, send_command, stream_events
from grapevine_tui.control.commands import (
    Argument,
    ArgumentType,
    CommandOption,
    CommandSpec,
    OptionType,
    Surface,
    commands_by_name,
    commands_on,
    suggest_command,
)
from grapevine_tui.control.jsonlines import Object
from grapevine_tui.control.network_text import (
    HOLDER_COLUMNS,
    TextLine,
    age_text,
    answered_text,
    format_rtt,
    holder_rows,
    holders_summary,
    matrix_lines,
    plain,
    rtt_text,
    topology_dot,
    topology_lines,
)
from grapevine_tui.control.target import Target
from grapevine_tui.host.access_state import STATE_ACTIONS
from grapevine_tui.process_exit import EXIT_FAILED, EXIT_NO_MEMBER, EXIT_OK
from grapevine_tui.remote.contexts import find_context
from grapevine_tui.text import cells, json_payload_text, printable, truncate

TRACE_WAIT_S: Final = 5.0  # for receipts, including those of members that repair reaches
POLL_INTERVAL_S: Final = 0.1
PIPE_CELLS: Final = 120  # of a line where there is no terminal
MAX_VALUE_CELLS: Final = 60  # of a value of the keyed state in a table
COLUMN_WIDTHS: Final = {"peer_id": 12, "text": 48}  # hex digits of an ID in tables


# --- formatting -----------------------------------------------------------------------------------


def format_table(rows: Sequence[Object], columns: Sequence[str]) -> list[str]:
    """Returns lines with a header; columns fit their widest cell, numbers are right-aligned."""
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
        case dict():
            return " ".join(printable(f"{key}={text}") for key, text in value.items()) or "-"
        case list():
            return ", ".join(_format_cell("", each) for each in value) or "-"
        case _:
            return printable(str(value))[: COLUMN_WIDTHS.get(name)]


def format_facts(fields: Object) -> list[str]:
    """Returns a line per field; the counters of a group are listed below its name."""
    flat: Object = {}
    for name, value in fields.items():
        if isinstance(value, dict) and name != "tags":
            flat |= {f"{name} {each}": count for each, count in value.items()}
        else:
            flat[name] = value
    shown = {
        printable(name).replace("_", " "): _format_cell(name, value) for name, value in flat.items()
    }
    width = max(map(cells, shown), default=0)
    return [f"{name:<{width}}  {value}" for name, value in shown.items()]


TABLE_COLUMNS: Final = {
    "peers": ("name", "peer_id", "address", "path", "zone", "state", "health", "rtt_ms", "sent",
              "received", "throttled", "tokens", "queued", "last_seen_s"),
    "members": ("name", "peer_id", "address", "path", "zone", "status", "rtt_ms", "tags", "epoch", "reason"),
    "alerts": ("state", "name", "peer_name", "value", "since_s", "muted", "rule"),
    "traces": ("id", "reached", "expected", "known", "p50_ms", "p99_ms", "last_ms", "hops"),
    "rounds": ("time", "number", "peer_id", "outcome", "sent", "received", "bytes", "duration_ms"),
}  # fmt: skip
ENVELOPE_FIELDS: Final = ("event", "time", "request", "ok")
DONE_TEXTS: Final = {
    "round": "anti-entropy round started",
    "leave": "the node has left the cluster and stopped",
    "mute": "the alert is muted",
    "unmute": "the alert is unmuted",
}


def format_reply(command: str, reply: Object) -> Iterable[str]:
    """Returns the reply to the command of that name as text lines."""
    match command:
        case "rounds":
            rows = [_with_start_time(each) for each in reversed(reply[command])]
            return format_table(rows, TABLE_COLUMNS[command])
        case "peers":
            rows = [
                each | {"state": "denied"} if each.get("denied") else each
                for each in reply[command]
            ]
            return format_table(rows, TABLE_COLUMNS[command])
        case "members" | "rtt" | "has":
            return _format_distances(command, reply)
        case "traces" | "alerts":
            return format_table(reply[command], TABLE_COLUMNS[command])
        case "discover":
            return _format_discovered(reply)
        case "settings":
            return format_table(reply["values"], ("name", "value", "origin"))
        case "stats":
            return format_facts(reply["stats"] | {"compiled": reply["compiled"]})
        case "broadcast" | "publish":
            peers = "1 peer" if reply["peers"] == 1 else f"{_format_cell('', reply['peers'])} peers"
            return [f"{_format_cell('', reply['id'])}  sent to {peers}"]
        case "snapshot" | "report":
            return [_document(reply)]
        case "reload":
            return [f"reloaded{_restart_note(reply)}"]
        case "set_settings":
            overridden = [
                f"{printable(name)} is overridden by {printable(str(source))} after a reload or restart"
                for name, source in reply["overridden_by"].items()
            ]
            path = _format_cell("", reply["path"])
            saved = "applied; a demo saves nothing" if path == "-" else f"saved to {path}"
            lost = "" if reply["comments_preserved"] else "; its comments could not be kept"
            return [f"{saved}{lost}{_restart_note(reply)}", *overridden]
        case "tags":
            return [printable(f"{name}={value}") for name, value in reply["tags"].items()]
        case "round" | "leave" | "mute" | "unmute":
            return [DONE_TEXTS[command]]
        case _:
            fields = {name: value for name, value in reply.items() if name not in ENVELOPE_FIELDS}
            return format_facts(fields)


def _format_discovered(reply: Object) -> list[str]:
    """The addresses as a table, and what is wrong with a source."""
    if not reply["sources"]:
        return [
            "no source of discovery; start the node with --discover, --peer @FILE or --peer srv+NAME"
        ]
    lines = format_table(reply["discovered"], ("address", "source", "name", "state"))
    return lines + [
        printable(f"{each['source']}: {each['problem']}")
        for each in reply["sources"]
        if each["problem"]
    ]


def _document(reply: Object) -> str:
    """Returns the text of a report, or a snapshot as JSON."""
    if "report" in reply:
        return str(reply["report"])
    fields = {name: value for name, value in reply.items() if name not in ENVELOPE_FIELDS}
    return json.dumps(fields, allow_nan=False)


def _format_distances(command: str, reply: Object) -> list[str]:
    if command == "rtt":
        return [rtt_text(reply)]
    if command == "has":
        return [holders_summary(reply), *format_table(holder_rows(reply), tuple(HOLDER_COLUMNS))]
    rows = [each | {"rtt_ms": _member_rtt(each)} for each in reply[command]]
    return format_table(rows, TABLE_COLUMNS[command])


def _member_rtt(member: Object) -> str | None:
    """The round-trip time to a member; ``~`` marks an estimate. None if it is not known."""
    rtt_ms = member.get("rtt_ms")  # absent from older nodes
    return None if rtt_ms is None else format_rtt(rtt_ms, member["rtt_source"])


def _restart_note(reply: Object) -> str:
    names = reply["restart"]
    return f"; restart needed for: {_format_cell('', names)}" if names else ""


def _with_start_time(row: Object) -> Object:
    """Returns `row` with the time of day at which it started."""
    ago_s = row.get("ago_s")
    if ago_s is None:  # of an older node
        return row | {"time": None}
    return row | {"time": time.strftime("%H:%M:%S", time.localtime(time.time() - ago_s))}


# --- the command line -----------------------------------------------------------------------------


class JsonErrorGroup(click.Group):
    """A group that prints its errors also as a JSON object under `--json`, so that a script always reads one
    object from stdout. The line on stderr and the exit code are the same."""

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


class CtlGroup(JsonErrorGroup):
    """Finds subcommands also by alias, and with hyphens for underscores."""

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        spec = CTL_COMMANDS.get(name.replace("-", "_"))
        return super().get_command(context, name if spec is None else spec.name)

    def resolve_command(self, context: click.Context, args: list[str]) -> Any:
        """Also finds a command of two words: ``history export`` is ``history_export``."""
        if len(args) > 1 and args[0] == "history":
            if args[1] == "search":
                args = ["history", *args[2:]]
            elif f"history_{args[1]}" in CTL_COMMANDS:
                args = [f"history_{args[1]}", *args[2:]]
        return super().resolve_command(context, args)


@click.group("ctl", cls=CtlGroup)
@click.option("--state-dir", metavar="DIR", help="State directory of the node [that of its port]")
@click.option("-p", "--port", metavar="N", help="UDP port of the node [from the settings, or 8000]")
@click.option("--context", "name", metavar="NAME", help="The node that contexts.toml names so")
@click.option("--all-contexts", "is_all", is_flag=True, help="Every node of contexts.toml")
@click.option("--yes", "is_confirmed", is_flag=True, help="With --all-contexts: do not ask")
@read_only_option
@click.option("--json", "is_json", is_flag=True, help="Print the reply as a JSON object")
@click.pass_context
def ctl(
    context: click.Context,
    state_dir: str | None,
    port: str | None,
    name: str | None,
    is_all: bool,
    is_confirmed: bool,
    is_readonly: bool,
    is_json: bool,
) -> None:
    """Query and control a running node."""
    if (state_dir is not None or port is not None) + (name is not None) + is_all > 1:
        raise click.UsageError("give a target, --context or --all-contexts, not several of them")
    flags: dict[str, Any] = dict(context.obj or {})
    if port is not None:
        flags["port"] = port
    if state_dir is not None:
        flags["app.state_dir"] = state_dir
    chosen = None if name is None else find_context(name)
    if chosen is not None and is_readonly:
        chosen = chosen.as_readonly()
    context.obj = CtlSession(
        flags,
        is_json,
        chosen,
        is_all=is_all,
        is_confirmed=is_confirmed,
        is_readonly=is_readonly,
    )


def _run_command(session: CtlSession, spec: CommandSpec, parameters: Mapping[str, Any]) -> int:
    reply = send_command(session.target, session.request(spec, parameters))
    if session.is_json:
        session.echo_json(reply)
    else:
        for line in format_reply(spec.name, reply):
            session.echo(line)
    return 0


def _run_trace(session: CtlSession, spec: CommandSpec, parameters: Mapping[str, Any]) -> int:
    target = session.target
    report = wait_for_trace(target, session.request(spec, parameters), parameters["wait_s"])
    if session.is_json:
        session.echo_json(report)
    else:
        members = (
            send_command(target, {"cmd": "members"})["members"] if report["unanswered"] else []
        )
        for line in format_trace(report, {each["peer_id"]: each["name"] for each in members}):
            session.echo(line)
    return 0 if report["complete"] else 1


def _run_query(session: CtlSession, spec: CommandSpec, parameters: Mapping[str, Any]) -> int:
    """Exit code 1 if a member that was asked has not answered, 6 if none was asked."""
    target = session.target
    reply = send_command(target, session.request(spec, parameters))
    if session.is_json:
        session.echo_json(reply)
    else:
        for line in format_answers(reply, _names_by_id(target)):
            session.echo(line)
    if not reply["asked"]:  # the sample has no member
        return EXIT_NO_MEMBER
    return EXIT_FAILED if reply["unanswered"] and reply["end"] != "limit" else EXIT_OK


def format_answers(reply: Object, names: dict[str, str]) -> Iterable[str]:
    """The answers to a query for people, equal ones together. `names` of members by peer ID."""
    yield answer_summary(reply)
    for group in group_answers(reply["answers"]):
        authors = ", ".join(
            printable(names.get(each) or _format_cell("peer_id", each)) for each in group.peer_ids
        )
        yield f"{group.text}  ({len(group.peer_ids):,}: {authors})"
    for peer_id in reply["unanswered"]:
        name = _format_cell("", names.get(peer_id))
        yield f"no answer: {_format_cell('peer_id', peer_id)}  {name}"


def _run_state(session: CtlSession, spec: CommandSpec, parameters: Mapping[str, Any]) -> int:
    """Exit code 1 if the key to get or delete has no value."""
    target = session.target
    request = session.request(spec, parameters)
    action = parameters["action"] or STATE_ACTIONS[0]
    if action == "watch":
        return _watch_state(session, request, parameters["count"])
    reply = send_command(target, request)
    while reply.get("more"):
        page = send_command(target, request | {"after": reply["keys"][-1]["key"]})
        reply |= {"keys": reply["keys"] + page["keys"], "more": page["more"]}
    has_value = _has_value(reply["winner"]) if action == "get" else bool(reply.get("deleted", True))
    if session.is_json:
        session.echo_json(reply)
    elif action == "list":
        names = _names_by_id(target) if reply["keys"] else {}
        for line in format_table(_key_rows(reply["keys"], names), KEY_COLUMNS):
            session.echo(line)
    elif action == "get" and has_value:
        session.echo(_value_text(reply["winner"]))
    return EXIT_OK if has_value else EXIT_FAILED


def _run_view(
    to_lines: Callable[[Object, int], list[TextLine]],
    session: CtlSession,
    spec: CommandSpec,
    parameters: Mapping[str, Any],
) -> int:
    """Prints a view of the network, as wide as the terminal."""
    reply = send_command(session.target, session.request(spec, parameters))
    if session.is_json:
        session.echo_json(reply)
    elif parameters.get("is_dot"):
        session.echo("\n".join(topology_dot(reply)))
    else:
        session.echo(f"{answered_text(reply)}, {age_text(reply)}")
        width = shutil.get_terminal_size((PIPE_CELLS, 24)).columns
        for line in plain(to_lines(reply, width)):
            session.echo(line)
    return EXIT_OK


KEY_COLUMNS: Final = ("key", "value", "owner", "clock", "others")


def _key_rows(keys: Sequence[Object], names: Mapping[str, str]) -> list[Object]:
    """Returns a row for each key that has a value. `others` counts the entries besides the winner."""
    return [
        {
            "key": each["key"],
            "value": truncate(_value_text(each["winner"]), MAX_VALUE_CELLS),
            "owner": names.get(each["winner"]["owner"]) or each["winner"]["owner"][:12],
            "clock": each["winner"]["clock"],
            "others": len(each["others"]),
        }
        for each in keys
        if _has_value(each["winner"])
    ]


def _has_value(entry: Object | None) -> bool:
    return entry is not None and not entry["deleted"]


def _value_text(entry: Object) -> str:
    return printable(json_payload_text(entry))


def _names_by_id(target: Target) -> dict[str, str]:
    """Returns the names of all members, this node included, by peer ID."""
    members = send_command(target, {"cmd": "members"})["members"]
    status = send_command(target, {"cmd": "status"})
    return {each["peer_id"]: each["name"] for each in (*members, status)}


def _watch_state(session: CtlSession, request: Object, count: int) -> int:
    """Prints the values, then each change, each line flushed, until the node stops or enough changed."""
    left = count
    for event in stream_events(session.target, request, with_reply=True):
        match event["event"]:
            case "reply" | "entry" if session.is_json:
                session.echo_json(event)
            case "reply":
                for each in event["keys"]:
                    if _has_value(each["winner"]):
                        session.echo(printable(f"{each['key']} = {_value_text(each['winner'])}"))
            case "entry":
                session.echo(format_entry(event))
            case "dropped":
                shown = _format_cell("", event["count"])
                click.echo(f"{shown} changes were dropped: read too slowly", err=True)
        left -= event["event"] == "entry"
        if count and not left:
            return EXIT_OK
    return EXIT_FAILED if left > 0 else EXIT_OK


def format_entry(event: Object) -> str:
    """Returns a change of an entry as one line of text: key, value and owner."""
    owner = event.get("owner_name") or event["owner"][: COLUMN_WIDTHS["peer_id"]]
    change = "deleted" if event["deleted"] else f"= {_value_text(event)}"
    note = "" if event["winner"] else ", not the winner"
    return printable(f"{event['key']} {change}  ({owner}{note})")


def _run_subscribe(session: CtlSession, spec: CommandSpec, parameters: Mapping[str, Any]) -> int:
    """Prints messages as they arrive, each line flushed, until the node stops or enough have arrived."""
    left = parameters["count"]
    for event in stream_events(session.target, session.request(spec, parameters)):
        if event["event"] == "message":
            if session.is_json:
                session.echo_json(event)
            else:
                session.echo(format_message(event))
            left -= 1
            if not left:
                return 0
        elif event["event"] == "dropped":
            count = _format_cell("", event["count"])
            click.echo(f"{count} messages were dropped: read too slowly", err=True)
    return 1 if left > 0 else 0


def format_message(event: Object) -> str:
    """Returns a message as one line of text: topic, author and payload."""
    author = event.get("from_name") or event["origin"][: COLUMN_WIDTHS["peer_id"]]
    return printable(f"{event['topic']}  {author}: {json_payload_text(event)}")


def _run_history_command(
    run: Callable[[HistoryRequest], Iterator[str | Object]],
    session: CtlSession,
    spec: CommandSpec,
    parameters: Mapping[str, Any],
) -> int:
    """Prints each line as it comes."""
    follows = bool(parameters.get("follow"))
    request = HistoryRequest(
        session.flags,
        session.target,
        session.request(spec, parameters),
        session.is_json,
        follows,
    )
    for line in run(request):
        if isinstance(line, str):
            session.echo(line)
        else:
            session.echo_json(line)
    return EXIT_OK


def _run_help(session: CtlSession, spec: CommandSpec, parameters: Mapping[str, Any]) -> int:
    """Prints the help of ``ctl`` or of one subcommand, without a node."""
    parent = click.get_current_context().parent
    assert parent is not None
    name = parameters["command"]
    command = ctl if name is None else ctl.get_command(parent, name)
    if command is None:
        suggestion = suggest_command(name, CTL_COMMANDS) or "ctl help lists them"
        raise click.UsageError(f"unknown command {printable(name)}; {suggestion}")
    help_context = parent if name is None else click.Context(command, parent, command.name)
    click.echo(command.get_help(help_context))
    return 0


def wait_for_trace(target: Target, command: Object, wait_s: float) -> Object:
    """Traces a message. Returns the report once all members have confirmed, or after `wait_s`.

    Raises:
        NodeUnreachable: no node answers.
        CommandFailed: the node refused.
    """
    message_id = send_command(target, command)["id"]
    deadline = time.monotonic() + wait_s
    while True:
        traces: list[Object] = send_command(target, {"cmd": "traces"})["traces"]
        report = next((each for each in traces if each["id"] == message_id), None)
        if report is None:
            raise CommandFailed("the trace was evicted by newer ones")
        if report["complete"] or time.monotonic() >= deadline:
            return report
        time.sleep(POLL_INTERVAL_S)


def format_trace(report: Object, names: dict[str, str]) -> Iterable[str]:
    """Returns a trace as text lines. `names`: of members by peer ID."""
    cell = partial(_format_cell, "")
    sample = f", a sample of {cell(report['known'])}" if report["sample"] else ""
    yield f"{cell(report['reached'])} of {cell(report['expected'])} members have it{sample}"
    latencies = (f"{name} {cell(report[f'{name}_ms'])} ms" for name in ("p50", "p99", "last"))
    if report.get("late"):
        yield f"{cell(report['late'])} confirmed late; their times are upper bounds"
    if report["reached"]:
        yield f"{', '.join(latencies)}, {cell(report['hops'])} hop{'s' * (report['hops'] != 1)}"
    if report["others"]:
        yield f"also confirmed by {cell(report['others'])} that were not known members"
    for peer_id in report["unanswered"]:
        yield f"not confirmed: {_format_cell('peer_id', peer_id)}  {cell(names.get(peer_id))}"


# --- subcommands from the registry ----------------------------------------------------------------

_JSON_OPTION: Final = click.Option(
    ["--json", "is_json"], is_flag=True, help="Print the reply as a JSON object"
)
_FILE_OPTION: Final = click.Option(["--file"], metavar="FILE", help="Read TEXT from FILE")
_WAIT_OPTION: Final = click.Option(
    ["--wait", "wait_s"],
    type=float,
    default=TRACE_WAIT_S,
    help="Seconds to wait for confirmations [5]",
)
Runner: TypeAlias = Callable[[CtlSession, CommandSpec, Mapping[str, Any]], int]
_COUNT_OPTION: Final = click.Option(
    ["--count"], type=int, default=0, metavar="N", help="Stop after N messages"
)
_CHANGES_OPTION: Final = click.Option(
    ["--count"], type=int, default=0, metavar="N", help="With watch: stop after N changes"
)
_FOLLOW_OPTION: Final = click.Option(
    ["--follow"], is_flag=True, help="Then print each new row as it arrives"
)
_DOT_OPTION: Final = click.Option(
    ["--dot", "is_dot"], is_flag=True, help="Print a graph for Graphviz"
)
_RUNNERS: Final[Mapping[str, Runner]] = {
    "matrix": partial(_run_view, matrix_lines),
    "topology": partial(_run_view, topology_lines),
    "trace": _run_trace,
    "query": _run_query,
    "state": _run_state,
    "subscribe": _run_subscribe,
    "events": partial(_run_history_command, run_page),
    "history": partial(_run_history_command, run_page),
    "history_export": partial(_run_history_command, run_export),
    "history_import": partial(_run_history_command, run_import),
    "history_prune": partial(_run_history_command, run_prune),
    "help": _run_help,
}
_EXTRA_OPTIONS: Final[Mapping[str, tuple[click.Option, ...]]] = {
    "trace": (_WAIT_OPTION,),
    "subscribe": (_COUNT_OPTION,),
    "state": (_CHANGES_OPTION,),
    "topology": (_DOT_OPTION,),
    "events": (_FOLLOW_OPTION,),
    "history": (_FOLLOW_OPTION,),
}
_FILTER_NOTE: Final = (
    "WORDS are a filter as in the app, such as: deploy from:bob topic:deploy.> since:1h. Before a term that "
    "begins with a hyphen, type --. A time is an age (90s, 1h30m, 2d), a time of day, yesterday or a date."
)
# Help that only `ctl` shows, after that of the registry.
_NOTES: Final = {
    "trace": "Reports delivery times and hop counts. Exit code 1 if a member has not confirmed.",
    "query": "Prints equal answers once, with the members that gave them. Exit code 1 if a member that was "
    "asked has not answered, 6 if no member matches.",
    "subscribe": "Begins with recent ones, then prints each as it arrives. * is any one part of a topic, "
    "> all that follow. Exit code 1 if the node stops before --count messages.",
    "state": "list and watch take the beginning of keys, set takes a value. get prints the value. watch "
    "prints the values, then each change. Exit code 1 if there is no value to get or delete.",
    "tags": "set takes NAME=VALUE, unset takes names. After a restart, the setting tags applies again.",
    "rtt": "A name, an ID or an address each; one alone: from this node. ~ marks an estimate.",
    "matrix": "Asks every member for its links. ~ marks an estimate, ? what is not known yet.",
    "topology": "Asks every member for its links. A link is half-seen if one of its ends did not answer.",
    "has": "Members without it come first. Only messages that are still cached are found.",
    "set_settings": "All changes are applied, or none. Quote a value that contains spaces.",
    "reload": "If a setting or key is invalid, nothing changes; exit code 1.",
    "events": f"{_FILTER_NOTE} Needs no running node.",
    "history": f"{_FILTER_NOTE} Also spelled history search. Needs no running node.",
    "history_export": "Also spelled history export. WORDS as for history. Needs no running node.",
    "history_import": "Also spelled history import. Rows that are there already are skipped.",
    "history_prune": "Also spelled history prune. TIME as for history --since.",
    "snapshot": "Prints JSON, with --json with the fields of the reply as well. Redirect it to a file.",
    "report": "Prints the report: ctl report > report.md. It contains no key and no payload.",
    "leave": "Returns when the node has stopped.",
    "help": "The same as --help.",
}
_PAYLOAD_NOTE: Final = 'If TEXT is "-", reads stdin.'


def _click_argument(argument: Argument) -> list[click.Parameter]:
    match argument.type:
        case ArgumentType.PAYLOAD:
            return [
                click.Argument([argument.name], nargs=-1, metavar=f"[{argument.metavar}]..."),
                _FILE_OPTION,
            ]
        case ArgumentType.TAGS:
            return [click.Argument([argument.name], nargs=-1, metavar=f"[{argument.metavar}]")]
        case ArgumentType.CHANGES:
            return [
                click.Argument([argument.name], nargs=-1, required=True, metavar=argument.metavar)
            ]
        case ArgumentType.WORDS if argument.name == "words":
            return [click.Argument([argument.name], nargs=-1, metavar=f"[{argument.metavar}]...")]
        case (
            ArgumentType.PEER
            | ArgumentType.ADDRESS
            | ArgumentType.TOPIC
            | ArgumentType.PATTERN
            | ArgumentType.NAME
            | ArgumentType.CHOICE
            | ArgumentType.KEY
            | ArgumentType.WORDS
            | ArgumentType.COMMAND
        ):
            metavar = argument.metavar if argument.is_required else f"[{argument.metavar}]"
            return [click.Argument([argument.name], required=argument.is_required, metavar=metavar)]
        case _:
            assert_never(argument.type)


def _click_option(option: CommandOption) -> click.Option:
    names = [option.flag, option.name]
    match option.type:
        case OptionType.FLAG:
            return click.Option(names, is_flag=True, help=option.help)
        case OptionType.TAGS:
            return click.Option(names, multiple=True, metavar=option.metavar, help=option.help)
        case OptionType.NUMBER | OptionType.TEXT:
            value_type = int if option.type is OptionType.NUMBER else str
            return click.Option(names, type=value_type, metavar=option.metavar, help=option.help)
        case _:
            assert_never(option.type)


def _click_command(spec: CommandSpec) -> click.Command:
    has_payload = any(each.type is ArgumentType.PAYLOAD for each in spec.arguments)
    notes = [_PAYLOAD_NOTE] if has_payload else []
    notes += [_NOTES[spec.name]] if spec.name in _NOTES else []
    parameters = [each for argument in spec.arguments for each in _click_argument(argument)]
    parameters += [_click_option(each) for each in spec.options]
    run = _RUNNERS.get(spec.name, _run_command)

    @click.pass_context
    def callback(context: click.Context, /, is_json: bool, **given: Any) -> int:
        session: CtlSession = context.obj
        session = replace(session, is_json=is_json or session.is_json)
        if session.is_all and spec.name != "help":
            return run_on_all(session, spec, given, run)
        return run(session, spec, given)

    return click.Command(
        spec.name,
        callback=callback,
        params=[*parameters, *_EXTRA_OPTIONS.get(spec.name, ()), _JSON_OPTION],
        help="\n\n".join([f"{spec.help}.", " ".join(notes)]).rstrip(),
    )


CTL_COMMANDS: Final = commands_by_name(Surface.CTL)
for _spec in commands_on(Surface.CTL):
    ctl.add_command(_click_command(_spec))
for _command in (record, stream):  # of this process, not of the node
    ctl.add_command(_command)
