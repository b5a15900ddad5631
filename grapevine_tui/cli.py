"""The command line: arguments -> settings -> app, headless node, or a small errand.

What must stay true:

- Importing this imports no Textual: `--help`, errors and headless nodes start light.
- Whatever goes wrong is one printable line on stderr and the exit code that belongs to it.
- No option takes a secret, and nothing here prints one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Final, NoReturn

import click

from grapevine_proto.errors import (
    BindError,
    ConfigError,
    GrapevineError,
    KeyFileError,
    StateLockedError,
    StorageError,
)
from grapevine_proto.files import (
    SHARED,
    is_passing,
    make_private_directory,
    put_new,
    set_aside_empty,
)
from grapevine_tui import __version__, early, logs
from grapevine_tui.folders import own_config_file, own_key_file
from grapevine_tui.loop import new_runner
from grapevine_tui.options import OPTIONS, PROFILES, Option
from grapevine_tui.reaper import collect_orphans
from grapevine_tui.settings import Settings, load
from grapevine_tui.terminal import LastingTerminal, needs_ascii, restore_terminal
from grapevine_tui.text import printable

PROGRAM: Final = "grapevine-tui"
DONE, FAILED, MISUSED, BAD_KEY, NO_BIND, IN_USE = 0, 1, 2, 3, 4, 5
INTERRUPTED: Final = 130
EXIT_CODES: Final[tuple[tuple[type[BaseException], int], ...]] = (
    (StorageError, FAILED),  # it heals by itself, so a service manager is to try again
    (ConfigError, MISUSED),
    (click.UsageError, MISUSED),
    (click.BadParameter, MISUSED),
    (KeyFileError, BAD_KEY),
    (BindError, NO_BIND),
    (StateLockedError, IN_USE),
)
LEAVE_S: Final = 5.0  # an app that is quit hands over what is queued for at most so long

logger = logging.getLogger("grapevine")


def main() -> NoReturn:
    """What the console script calls."""
    code = run()
    early.CODES.update(dict.fromkeys(early.CODES, code))  # a late signal changes nothing any more
    if early.is_our_process():
        early.take_signals()
    sys.exit(code)


def _occupy_standard_files() -> None:
    """Where the caller closed stdin, stdout or stderr, put nothing in its place: else a socket
    would get its number, and be written to as if it were the terminal."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _take_any_text() -> None:
    """What a terminal or a pipe has no letters for is written, and read, as escapes: Latin-1, ASCII,
    bytes that are not UTF-8."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def run(arguments: list[str] | None = None) -> int:
    """Do what `arguments` ask (None: the process's own); the exit code."""
    _occupy_standard_files()
    _take_any_text()
    try:
        code = COMMAND.main(args=arguments, prog_name=PROGRAM, standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone; spare the interpreter its complaint at the end.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:  # noqa: BLE001  the one door: a line and a code, never a traceback
        return complain(error)
    finally:
        logs.flush()
    return code if isinstance(code, int) else DONE


def complain(error: BaseException) -> int:
    """Say on stderr, in one printable line, what went wrong; the exit code for it. A group without a
    command shows its help instead."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        lines = error.format_message().splitlines()
    else:
        lines = [f"{PROGRAM}: {problem_of(error)}"]
    with contextlib.suppress(OSError):
        for line in lines:
            click.echo(printable(line), err=True)
    return next((code for kind, code in EXIT_CODES if isinstance(error, kind)), FAILED)


def problem_of(error: BaseException) -> str:
    """What went wrong, in one line that may hold anything: make it printable before you show it."""
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
        problem = f"a fault of this program: {type(error).__name__}: {error}"
        logger.debug("a fault", exc_info=error)
    return " ".join(problem.split())


# --- what the command line looks like -------------------------------------------------------------


def _parameter(flags: tuple[str, ...]) -> str:
    return flags[-1].lstrip("-").replace("-", "_")


def _bare(option: Option) -> dict[str, Any]:
    """What click is told of a flag that may stand alone."""
    return {"is_flag": False, "flag_value": option.bare} if option.bare else {}


def _options() -> list[click.Parameter]:
    options: list[click.Parameter] = [
        click.Option(
            [*option.flags, _parameter(option.flags)],
            multiple=option.is_list,
            nargs=option.words,
            metavar=option.metavar,
            help=option.help + (f" (${option.env})" if option.env else ""),
            **_bare(option),
        )
        for option in OPTIONS
    ]
    for name, words in (
        ("headless", "No app: JSON Lines on stdin and stdout"),
        ("demo", "Show the app with a few neighbours in this process that talk"),
        ("show-config", "Print every setting, its value and where it came from"),
    ):
        options.append(click.Option([f"--{name}"], is_flag=True, help=words))
    return options


def _flags(parameters: dict[str, Any]) -> dict[str, Any]:
    """What was given on the command line, by setting name."""
    flags = {option.name: parameters.get(_parameter(option.flags)) for option in OPTIONS}
    flags["app.on"] = tuple(" ".join(pair) for pair in parameters.get("on") or ())
    for name in ("headless", "demo"):
        flags[f"app.{name}"] = parameters.get(name)
    return {name: value for name, value in flags.items() if value not in (None, (), False)}


def _start(**parameters: Any) -> int | None:
    context = click.get_current_context()
    flags = context.obj = _flags(parameters)
    if context.invoked_subcommand is not None:
        early.release_signals()
        return None
    settings = load(flags, os.environ)
    if parameters["show_config"]:
        for line in settings.show():
            click.echo(printable(line))
        return DONE
    if settings.headless:
        return run_headless(settings)
    return run_web(settings) if settings.web else run_app(settings)


class _LazyGroup(click.Group):
    """A group whose larger errands are imported when they are asked for, so that nodes start light."""

    LAZY: Final = ("attach", "ctl", "invite", "join", "sim")

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted([*super().list_commands(context), *self.LAZY])

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name == "ctl":
            from grapevine_tui.ctl import ctl

            return ctl
        if name == "attach":
            from grapevine_tui.attach import attach

            return attach
        if name == "sim":
            from grapevine_tui.simulate import sim

            return sim
        if name in self.LAZY:
            from grapevine_tui import errands

            return errands.invite if name == "invite" else errands.join
        return super().get_command(context, name)


COMMAND: Final = _LazyGroup(
    PROGRAM,
    callback=_start,
    invoke_without_command=True,
    params=_options(),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="Run an encrypted gossip node and see its cluster: peers, messages, rates and repairs.\n\n"
    "With --headless the node speaks JSON Lines instead of drawing a screen.",
)
click.version_option(__version__, prog_name=PROGRAM)(COMMAND)


@COMMAND.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
def keygen(file: Path | None) -> int:
    """Make a cluster key in FILE, readable by its owner only [this user's own]. Never overwrites."""
    from grapevine_proto.identity import ClusterKey

    path = own_key_file() if file is None else file
    if file is None:
        make_private_directory(path.parent)
    key = ClusterKey.generate()
    key.save(path)
    click.echo(printable(f"made the cluster key {key.fingerprint} in {path}; keep it secret"))
    return DONE


@COMMAND.group()
def config() -> None:
    """Make, show or check a settings file."""


@config.command("init")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--profile", type=click.Choice(list(PROFILES)), help="Whose values [local]")
@click.pass_obj
def config_init(flags: dict[str, Any], file: Path | None, profile: str | None) -> int:
    """Write a settings file with every setting and its reason [this user's own]. Never overwrites."""
    from grapevine_tui.template import render

    path = own_config_file() if file is None else file
    if file is None:
        make_private_directory(path.parent)
    chosen = profile or flags.get("app.profile", "local")
    if chosen not in PROFILES:
        raise ConfigError("app.profile", f"{chosen!r} is not one of: {', '.join(PROFILES)}")
    try:
        set_aside_empty(path)
        # A service reads it as another user.
        put_new(path, render(chosen).encode(), mode=SHARED)
    except FileExistsError:
        raise ConfigError("config", f"{path}: there is a file already; it is left alone") from None
    click.echo(printable(f"wrote {path}, profile {chosen}"))
    return DONE


@config.command("show")
@click.pass_obj
def config_show(flags: dict[str, Any]) -> int:
    """Print every setting, its value and where it came from."""
    for line in load(flags, os.environ).show():
        click.echo(printable(line))
    return DONE


@config.command("check")
@click.argument("file", required=False, type=click.Path())
@click.pass_obj
def config_check(flags: dict[str, Any], file: str | None) -> int:
    """Say whether FILE, or what would be used, is right; touches nothing and starts nothing."""
    settings = load(flags | ({"app.config": file} if file else {}), os.environ)
    if settings.key_files:
        settings.with_keys()
    if settings.on:
        from grapevine_tui.hooks import Hook

        for hook in settings.on:
            Hook.read(hook).check()
    for warning in settings.warnings:
        click.echo(printable(f"{PROGRAM}: {warning}"), err=True)
    chosen = next(each.value for each in settings.values if each.name == "app.config")
    click.echo(printable(f"{chosen or 'the settings'}: right"))
    return DONE


# --- running --------------------------------------------------------------------------------------


def _prepare_to_serve() -> None:
    """Whatever is said on stderr from now on, by us or by a library, never waits for its reader; a
    hangup before the node runs has nothing to reload; and as process 1 we are everyone's parent."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):  # a stream of somebody's that has no file
            sys.stderr = LastingTerminal(sys.stderr)
    if hasattr(signal, "SIGHUP") and early.is_our_process():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    collect_orphans()


def run_headless(settings: Settings) -> int:
    """Run a node on stdin and stdout until it is told to stop; the exit code."""
    from grapevine_tui.headless import Headless

    _prepare_to_serve()
    _begin_log(settings, lambda: logs.to_stderr(settings.log_level))
    settings = settings.with_keys()
    if sys.stdout is None:
        raise ConfigError("", "stdout is closed; a headless node needs it")
    stdin = None if sys.stdin is None else sys.stdin.fileno()
    with new_runner() as runner:
        return runner.run(Headless(settings, stdin=stdin, stdout=sys.stdout.fileno()).run())


def run_web(settings: Settings) -> int:
    """Run a node whose app is in a browser, until a signal; the exit code."""
    from grapevine_tui import web
    from grapevine_tui.headless import Headless

    _prepare_to_serve()
    _begin_log(settings, lambda: logs.to_stderr(settings.log_level))

    async def show_demo() -> int:
        async with web.open_at(settings.web, web.program("--demo")) as (_, address):
            click.echo(f"open {address}")
            told = asyncio.Event()
            for each in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(each, told.set)
            await told.wait()
        return DONE

    with new_runner() as runner:
        if settings.demo:
            return runner.run(show_demo())
        quiet = os.open(os.devnull, os.O_WRONLY)
        settings = replace(settings, on_eof="stay").with_keys()
        return runner.run(Headless(settings, stdin=None, stdout=quiet).run())


def run_app(settings: Settings) -> int:
    """Run the app on this terminal until it is quit; the exit code."""
    _need_terminal()
    _begin_log(settings, logs.to_nowhere)
    settings = settings.with_keys()
    return on_terminal(lambda: _show(settings))


def _need_terminal() -> None:
    if os.environ.get("TEXTUAL_DRIVER"):  # it draws elsewhere: in a browser
        return
    streams = (sys.stdin, sys.stdout, sys.stderr)  # Textual draws on stderr
    if not all(each and each.isatty() for each in streams) or os.environ.get("TERM") == "dumb":
        raise ConfigError("", "the app needs a terminal; without one, use --headless")


def on_terminal(show: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """Run an app on this terminal until it is quit; the exit code."""
    _need_terminal()
    if sys.stderr is not None:
        # Textual draws on this, and says last words on the other: neither may ever wait.
        in_ascii = needs_ascii(sys.stderr.encoding, os.environ)
        terminal = LastingTerminal(sys.stderr, in_ascii=in_ascii)
        vars(sys)["__stderr__"] = sys.stderr = terminal
    if early.is_our_process():
        early.take_signals(restore_terminal)
    collect_orphans()
    with new_runner() as runner:
        return runner.run(show())


async def _show(settings: Settings) -> int:
    from grapevine_proto.events import Event, NodeStarted
    from grapevine_tui.app import GrapevineApp
    from grapevine_tui.demo import Demo
    from grapevine_tui.host import Host
    from grapevine_tui.model import Changes, Model
    from grapevine_tui.service import surroundings

    host = Host(
        settings.node,
        settings.state_dir,
        model=Model(messages=settings.messages),
        spare_state_dirs=settings.spare_state_dirs,
    )

    def begin_log(event: Event, _: Changes) -> None:
        if isinstance(event, NodeStarted) and settings.log_file is None and host.state_dir:
            # Only now it is known which state folder is ours. A log that cannot be is no reason to
            # stop: what matters is on the screen.
            with contextlib.suppress(OSError):
                logs.to_file(host.state_dir / "grapevine.log", settings.log_level)

    host.listen(begin_log)
    app = GrapevineApp(host, settings, demo=Demo(host) if settings.demo else None)

    def show_trouble(fields: dict[str, Any]) -> None:
        words = "--on {on}: {command} {outcome}: {reason}".format(**fields).replace("_", " ")
        app.call_later(partial(app.notify, printable(words), severity="warning", markup=False))

    async with surroundings(
        host, settings, lambda: app.call_later(app.end), show_trouble
    ) as tell_stopped:
        await app.run_async()
        failure = getattr(app, "failure", None)
        tell_stopped({"reason": "failed", "error": str(failure)} if failure else {"reason": "quit"})
    if failure is not None:
        raise failure
    return app.exit_code


def _begin_log(settings: Settings, otherwise: Callable[[], None]) -> None:
    if settings.log_file is None:
        otherwise()
    else:
        try:
            logs.to_file(settings.log_file, settings.log_level)
        except OSError as error:
            kind = StorageError if is_passing(error) else ConfigError
            raise kind("app.log_file", f"{settings.log_file}: {error.strerror}") from None
    for warning in settings.warnings:
        logger.warning("%s", warning)
