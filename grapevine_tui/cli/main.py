"""The command line: parses arguments and runs the app, a headless node or a subcommand.

Invariants:

- Importing this imports no Textual, so `--help`, errors and headless nodes start quickly.
- Every failure is one printable line on stderr and an exit code of `process_exit`.
- No option takes a secret, and nothing here prints one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Final, NoReturn

import click

from grapevine_proto import compiled
from grapevine_proto.errors import (
    ConfigError,
    GrapevineError,
)
from grapevine_proto.storage.atomic_file import (
    SHARED_MODE,
    atomic_create,
    make_private_directory,
    quarantine_empty,
)
from grapevine_tui import __version__, early_signals, garbage_collection, logs
from grapevine_tui.cli.run import run_app, run_headless, run_web
from grapevine_tui.config.hook_spec import Hook
from grapevine_tui.config.options import OPTIONS, PROFILES, Option
from grapevine_tui.config.settings import load_settings
from grapevine_tui.config.user_files import user_config_file, user_key_file
from grapevine_tui.process_exit import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_USAGE,
    exit_code_for,
)
from grapevine_tui.text import printable

PROGRAM: Final = "grapevine-tui"

logger = logging.getLogger("grapevine")


def main() -> NoReturn:
    """Entry point of the console script."""
    code = run()
    early_signals.EXIT_CODE_BY_SIGNAL.update(
        dict.fromkeys(early_signals.EXIT_CODE_BY_SIGNAL, code)
    )  # a late signal no longer changes the exit code
    if early_signals.is_own_process():
        early_signals.install_signal_handlers()
    sys.exit(code)


def _open_missing_standard_streams() -> None:
    """Open /dev/null for each of stdin, stdout and stderr that the caller closed.

    Otherwise a socket would get its descriptor and be written to like a terminal.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _escape_unencodable_text() -> None:
    """Read and write what the encoding of a stream lacks as escapes: Latin-1, ASCII, invalid UTF-8."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def run(arguments: list[str] | None = None) -> int:
    """Run with `arguments` (None: those of the process) and return the exit code."""
    _open_missing_standard_streams()
    _escape_unencodable_text()
    garbage_collection.resume()
    try:
        code = ROOT_COMMAND.main(args=arguments, prog_name=PROGRAM, standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except (KeyboardInterrupt, click.Abort):
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output is gone; prevent the interpreter's error message at exit.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except Exception as error:  # noqa: BLE001  the outermost handler: one line and an exit code, never a traceback
        return print_error(error)
    finally:
        logs.flush()
    return code if isinstance(code, int) else EXIT_OK


def print_error(error: BaseException) -> int:
    """Print `error` as one line on stderr and return its exit code. For a group without a command,
    print its help.
    """
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        lines = error.format_message().splitlines()
    else:
        lines = [f"{PROGRAM}: {format_error(error)}"]
    with contextlib.suppress(OSError):
        for line in lines:
            click.echo(printable(line), err=True)
    return EXIT_USAGE if isinstance(error, click.UsageError) else exit_code_for(error)


def format_error(error: BaseException) -> str:
    """Describe `error` in one line. The text may be hostile: pass it through `printable`."""
    if isinstance(error, click.ClickException):
        problem = error.format_message()
    elif isinstance(error, GrapevineError):
        problem = str(error)
    elif isinstance(error, OSError):
        problem = error.strerror or str(error)
        if error.filename is not None:
            problem = f"{error.filename}: {problem}"
    elif isinstance(error, UnicodeError):
        problem = f"not text in UTF-8: {error}"
    elif isinstance(error, MemoryError):
        problem = "out of memory"
    else:
        problem = f"internal error: {type(error).__name__}: {error}"
        logger.debug("internal error", exc_info=error)
    return " ".join(problem.split())


# --- the shape of the command line ----------------------------------------------------------------


def _parameter_name(flags: tuple[str, ...]) -> str:
    return flags[-1].lstrip("-").replace("-", "_")


def _flag_value_arguments(option: Option) -> dict[str, Any]:
    """Arguments for click of a flag that needs no argument."""
    return {"is_flag": False, "flag_value": option.flag_value} if option.flag_value else {}


def _click_options() -> list[click.Parameter]:
    options: list[click.Parameter] = [
        click.Option(
            [*option.flags, _parameter_name(option.flags)],
            multiple=option.is_list,
            nargs=option.nargs,
            metavar=option.metavar,
            help=option.help + (f" (${option.env})" if option.env else ""),
            **_flag_value_arguments(option),
        )
        for option in OPTIONS
    ]
    for name, help_text in (
        ("headless", "Run without the UI: JSON Lines on stdin and stdout"),
        ("demo", "Run a demo cluster in this process"),
        ("show-config", "Print every setting with its value and source"),
    ):
        options.append(click.Option([f"--{name}"], is_flag=True, help=help_text))
    return options


def _given_flags(parameters: dict[str, Any]) -> dict[str, Any]:
    """Options given on the command line, by setting name."""
    flags = {option.name: parameters.get(_parameter_name(option.flags)) for option in OPTIONS}
    flags["app.on"] = tuple(" ".join(pair) for pair in parameters.get("on") or ())
    for name in ("headless", "demo"):
        flags[f"app.{name}"] = parameters.get(name)
    return {name: value for name, value in flags.items() if value not in (None, (), False)}


def _start(**parameters: Any) -> int | None:
    context = click.get_current_context()
    flags = context.obj = _given_flags(parameters)
    if context.invoked_subcommand is not None:
        early_signals.restore_signal_handlers()
        return None
    settings = load_settings(flags, os.environ)
    if parameters["show_config"]:
        for line in settings.format_lines():
            click.echo(printable(line))
        return EXIT_OK
    if settings.headless:
        return run_headless(settings)
    return run_web(settings) if settings.web else run_app(settings)


class _LazyGroup(click.Group):
    """A group that imports its larger subcommands on demand, so that nodes start quickly."""

    LAZY: Final = ("attach", "ctl", "fleet", "invite", "join", "replay", "sim")

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted([*super().list_commands(context), *self.LAZY])

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name == "ctl":
            from grapevine_tui.cli.ctl import ctl

            return ctl
        if name == "attach":
            from grapevine_tui.cli.attach import attach

            return attach
        if name == "fleet":
            from grapevine_tui.cli.fleet import fleet

            return fleet
        if name == "replay":
            from grapevine_tui.cli.replay import replay

            return replay
        if name == "sim":
            from grapevine_tui.cli.sim import sim

            return sim
        if name in self.LAZY:
            from grapevine_tui.cli import invite

            return invite.invite if name == "invite" else invite.join
        return super().get_command(context, name)


ROOT_COMMAND: Final = _LazyGroup(
    PROGRAM,
    callback=_start,
    invoke_without_command=True,
    params=_click_options(),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="Run an encrypted gossip node with a terminal UI.\n\n"
    "With --headless, the node reads and writes JSON Lines instead.",
)
click.version_option(
    __version__,
    prog_name=PROGRAM,
    message=f"%(prog)s, version %(version)s\ncompiled: {compiled}",
)(ROOT_COMMAND)


@ROOT_COMMAND.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
def keygen(file: Path | None) -> int:
    """Create a cluster key in FILE [default: the user's own key].

    The file is readable by its owner only. An existing file is never overwritten.
    """
    from grapevine_proto.crypto.cluster_key import ClusterKey

    path = user_key_file() if file is None else file
    if file is None:
        make_private_directory(path.parent)
    key = ClusterKey.generate()
    key.save(path)
    click.echo(printable(f"saved cluster key {key.fingerprint} to {path}; keep it secret"))
    return EXIT_OK


@ROOT_COMMAND.group()
def config() -> None:
    """Create, show or check a config file."""


@config.command("init")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option(
    "--profile", type=click.Choice(list(PROFILES)), help="Profile whose values to write [local]"
)
@click.pass_obj
def config_init(flags: dict[str, Any], file: Path | None, profile: str | None) -> int:
    """Write a config file with every setting and its explanation.

    The default for FILE is the user's own config file. An existing file is never overwritten.
    """
    from grapevine_tui.config.template import render

    path = user_config_file() if file is None else file
    if file is None:
        make_private_directory(path.parent)
    chosen = profile or flags.get("app.profile", "local")
    if chosen not in PROFILES:
        raise ConfigError("app.profile", f"must be one of {', '.join(PROFILES)}; got {chosen!r}")
    try:
        quarantine_empty(path)
        # A service reads it as another user.
        atomic_create(path, render(chosen).encode(), mode=SHARED_MODE)
    except FileExistsError:
        raise ConfigError("config", f"{path}: file exists; not overwritten") from None
    click.echo(printable(f"wrote {path}, profile {chosen}"))
    return EXIT_OK


@config.command("show")
@click.pass_obj
def config_show(flags: dict[str, Any]) -> int:
    """Print every setting with its value and source."""
    for line in load_settings(flags, os.environ).format_lines():
        click.echo(printable(line))
    return EXIT_OK


@config.command("check")
@click.argument("file", required=False, type=click.Path())
@click.pass_obj
def config_check(flags: dict[str, Any], file: str | None) -> int:
    """Validate FILE [default: the settings in effect]. Changes nothing."""
    settings = load_settings(flags | ({"app.config": file} if file else {}), os.environ)
    if settings.key_files:
        settings.with_keys()
    if settings.on:
        for hook in settings.on:
            Hook.parse(hook).check()
    for warning in settings.warnings:
        click.echo(printable(f"{PROGRAM}: {warning}"), err=True)
    config_file = next(each.value for each in settings.values if each.name == "app.config")
    click.echo(printable(f"{config_file or 'the settings'}: OK"))
    return EXIT_OK
