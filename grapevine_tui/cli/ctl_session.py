"""What a subcommand of ``ctl`` works on: one node, or all contexts side by side.

Invariants:

- Over several contexts there is one result each, in the order of the contexts; JSON objects have the field
  ``context``. One that fails or hangs does not keep the others from answering.
- An act on several contexts asks once, and names them. What may cut members off (`ONE_CONTEXT_COMMANDS`) acts
  on one context only.
"""

from __future__ import annotations

import json
import sys
import threading
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeAlias, assert_never

import click

from grapevine_proto.errors import ConfigError
from grapevine_tui.config.environment import READ_ONLY_VARIABLE
from grapevine_tui.control.client import find_state_dir
from grapevine_tui.control.commands import (
    ONE_CONTEXT_COMMANDS,
    ArgumentType,
    CommandSpec,
    OptionType,
    parse_changes,
)
from grapevine_tui.control.jsonlines import Object
from grapevine_tui.control.lines import MAX_LINE_BYTES
from grapevine_tui.control.read_only import is_act, refuse_act_request
from grapevine_tui.control.requests import parse_request
from grapevine_tui.control.target import LocalTarget, Target
from grapevine_tui.process_exit import EXIT_FAILED
from grapevine_tui.remote.contexts import Context, all_contexts
from grapevine_tui.text import printable

read_only_option = click.option(
    "--read-only",
    "is_readonly",
    is_flag=True,
    envvar=READ_ONLY_VARIABLE,
    help="Refuse what would change the node",
)
MAX_STDIN_PAYLOAD_BYTES: Final = MAX_LINE_BYTES * 3 // 4 - 1024  # as base64 in one line


@dataclass(frozen=True, slots=True)
class CtlSession:
    """What the options of ``ctl`` select, and where its output goes. Without a context it is the node that
    the `flags` select; `is_all`: every context, which `run_on_all` asks side by side."""

    flags: dict[str, Any]
    is_json: bool
    context: Context | None = None
    is_all: bool = False
    is_confirmed: bool = False
    is_readonly: bool = False
    prepared_request: Object | None = None
    output: Callable[[str], object] = click.echo

    @property
    def target(self) -> Target:
        """The node. Raises ConfigError, NodeUnreachable, and UsageError if it would be all of them."""
        if self.context is not None:
            return self.context.target
        if self.is_all:
            raise click.UsageError("acts on one context only; choose it with --context")
        return LocalTarget(find_state_dir(self.flags), self.is_readonly)

    def request(self, spec: CommandSpec, parameters: Mapping[str, Any]) -> Object:
        """The JSON command for the parameters of a subcommand. Raises ReadOnly."""
        request = self.prepared_request
        if request is None:
            is_here = isinstance(self.target, LocalTarget)
            request = request_fields(spec, parameters, is_here=is_here)
        if self.target.is_readonly:
            refuse_act_request(request)
        return request

    def echo(self, line: str) -> None:
        self.output(line)

    def echo_json(self, fields: Object) -> None:
        """Print an object; over several contexts it says which one it is from."""
        if self.is_all and self.context is not None:
            fields = {"context": self.context.name, **fields}
        self.output(json.dumps(fields, allow_nan=False))


Run: TypeAlias = Callable[[CtlSession, CommandSpec, Mapping[str, Any]], int]


@dataclass(slots=True)
class _Result:
    """What came of one context."""

    context: Context
    code: int = EXIT_FAILED
    lines: list[str] = field(default_factory=list)
    error: str = ""


def run_on_all(
    session: CtlSession, spec: CommandSpec, parameters: Mapping[str, Any], run: Run
) -> int:
    """Run a subcommand on every context and return the highest of the exit codes. Raises ConfigError."""
    contexts = all_contexts()
    if not contexts:
        raise ConfigError("context", "there is no contexts.toml, and no node of yours runs here")
    if spec.name in ONE_CONTEXT_COMMANDS:
        raise click.UsageError(f"{spec.name} acts on one context only; choose it with --context")
    if session.is_readonly:
        contexts = [each.as_readonly() for each in contexts]
    is_here = all(isinstance(each.target, LocalTarget) for each in contexts)
    request = request_fields(spec, parameters, is_here=is_here)
    _confirm_act(session, request, contexts)
    is_live = bool(parameters.get("follow")) or spec.name == "subscribe"
    is_live = is_live or (spec.name == "state" and parameters["action"] == "watch")
    results = [_Result(each) for each in contexts]

    def work(result: _Result) -> None:
        name = result.context.name
        output: Callable[[str], object] = result.lines.append
        if is_live:
            prefix = "" if session.is_json else f"{name}: "
            output = lambda line: click.echo(prefix + line)  # noqa: E731
        own = replace(session, context=result.context, prepared_request=request, output=output)
        _run_on_one(own, spec, parameters, run, result)

    threads = [
        threading.Thread(target=work, args=(each,), name=each.context.name, daemon=True)
        for each in results
    ]
    for thread in threads:
        thread.start()
    for thread, result in zip(threads, results, strict=True):
        thread.join()
        _print_result(session, result, is_live=is_live)
    return max(each.code for each in results)


def _run_on_one(
    session: CtlSession,
    spec: CommandSpec,
    parameters: Mapping[str, Any],
    run: Run,
    result: _Result,
) -> None:
    from grapevine_tui.cli.main import format_error

    try:
        result.code = run(session, spec, parameters)
    except Exception as error:  # noqa: BLE001  of one context; the others go on
        result.error = printable(format_error(error))
        if session.is_json:
            session.echo_json({"ok": False, "error": result.error})


def _print_result(session: CtlSession, result: _Result, *, is_live: bool) -> None:
    if not session.is_json and not is_live:
        click.echo(f"== {result.context.name}")
    for line in result.lines:
        click.echo(line)
    if result.error:
        click.echo(f"{result.context.name}: {result.error}", err=True)


def _confirm_act(session: CtlSession, request: Object, contexts: list[Context]) -> None:
    """Ask before an act on several contexts. Raises UsageError where nobody can answer, Abort on no."""
    parsed = parse_request(json.dumps(request).encode())
    if session.is_confirmed or parsed is None or not is_act(parsed.command):
        return
    listed = ", ".join(each.name for each in contexts)
    what = f"{request['cmd']} acts on {len(contexts):,} contexts: {listed}"
    if not sys.stdin.isatty():
        raise click.UsageError(f"{what}; add --yes before {request['cmd']}")
    click.confirm(f"{what}. Go on?", abort=True, err=True)


def request_fields(spec: CommandSpec, parameters: Mapping[str, Any], *, is_here: bool) -> Object:
    """Returns the fields of the JSON command for the parameters of a subcommand. `is_here`: the node can read
    files of this machine."""
    fields: Object = {"cmd": spec.name}
    for argument in spec.arguments:
        value = parameters[argument.name]
        match argument.type:
            case ArgumentType.PAYLOAD:
                if value or parameters["file"] is not None or argument.is_required:
                    fields |= _payload_fields(value, parameters["file"], is_here=is_here)
            case ArgumentType.CHANGES:
                fields[argument.name] = dict(parse_changes(value))
            case (
                ArgumentType.PEER
                | ArgumentType.ADDRESS
                | ArgumentType.TOPIC
                | ArgumentType.PATTERN
                | ArgumentType.NAME
            ):
                fields |= {} if value is None else {argument.name: value}
            case ArgumentType.WORDS if isinstance(value, tuple):
                fields |= {argument.name: _join_words(value)} if value else {}
            case ArgumentType.WORDS | ArgumentType.COMMAND | ArgumentType.CHOICE | ArgumentType.KEY:
                fields |= {argument.name: value} if value else {}
            case ArgumentType.TAGS:
                is_set = any("=" in each for each in value)
                fields[argument.name] = dict(parse_changes(value)) if is_set else list(value)
            case _:
                assert_never(argument.type)
    for option in spec.options:
        value = parameters[option.name]
        if option.type is OptionType.TAGS:
            fields |= {option.name: dict(parse_changes(value))} if value else {}
        elif value is not None and value is not False:
            fields[option.name] = value
    return fields


def _join_words(words: tuple[str, ...]) -> str:
    """Returns the words of a filter; one that the shell was given in quotes stays one term."""
    is_phrase = len(words) > 1
    return " ".join(
        f'"{each}"' if is_phrase and " " in each and '"' not in each else each for each in words
    )


def _payload_fields(text: tuple[str, ...], file: str | None, *, is_here: bool) -> dict[str, str]:
    if bool(text) == (file is not None):
        raise click.UsageError("nothing to send: give TEXT, - for stdin, or --file FILE")
    if file is not None and is_here:
        return {"file": str(Path(file).absolute())}  # the node runs in another directory
    if file is not None:
        with open(file, "rb") as stream:
            return _base64_fields(stream, f"in {file}; over ssh, no more can be sent")
    if text != ("-",):
        return {"text": " ".join(text)}
    return _base64_fields(sys.stdin.buffer, "on stdin; use --file")


def _base64_fields(stream: BinaryIO, hint: str) -> dict[str, str]:
    payload = stream.read(MAX_STDIN_PAYLOAD_BYTES + 1)
    if len(payload) > MAX_STDIN_PAYLOAD_BYTES:
        raise click.UsageError(f"more than {MAX_STDIN_PAYLOAD_BYTES:,} bytes {hint}")
    return {"base64": b64encode(payload).decode("ascii")}
