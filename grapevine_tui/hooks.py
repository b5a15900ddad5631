"""``--on EVENT COMMAND``: programs that are run when something happens, with the event on their stdin.

What must stay true:

- No shell ever sees anything: the command is split once, when the settings are read, and what a
  stranger said is only ever in the JSON object on stdin.
- No program runs that someone other than this user or root can change.
- So many at once, so many waiting, so long each; the node never waits for any of it.
- What fails, hangs or is skipped is counted and told with its reason, the exit status or signal and the
  last line on stderr, at most once in `TOLD_S` each.
- However much a program says, it is read and little of it kept; what its own children still hold open
  when it has ended is not waited for.
- `stopped` comes when nothing may be waited for any more: its programs are started, and left to
  themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final, NamedTuple

from grapevine_proto.errors import ConfigError, GrapevineError
from grapevine_proto.events import Event
from grapevine_proto.trust import UntrustedFile, check_program
from grapevine_tui.answers import Answers
from grapevine_tui.host import Host
from grapevine_tui.jsonlines import Object, encode
from grapevine_tui.model import Changes
from grapevine_tui.systemd import VARIABLES
from grapevine_tui.telling import QUIET_S, Summary, Telling
from grapevine_tui.text import cut, printable, printable_lines

logger = logging.getLogger("grapevine.hooks")

WORDS: Final = (
    *("started", "ready", "message", "peer", "member", "rate_limited", "standing"),
    *("round", "trace", "dropped", "dial_failed", "state_unsaved", "stopped"),
)
AT_ONCE: Final = 4  # programs
WAITING: Final = 64  # events; then they are skipped
RUN_S: Final = 10.0  # then a program and its children are killed
TOLD_S: Final = 5.0  # between two tellings of one program that fails in one way
SAID_BYTES: Final = 4096  # of the end of what a program says on stderr
SAID_CELLS: Final = 200  # of its last line, as told
LOUD_BYTES: Final = 64 * 1024  # of what a program says on stderr that go to ours
READS_AT_END: Final = 4
END_S: Final = 0.1  # for those that run when the node ends


class Hook(NamedTuple):
    """What to run at which event."""

    event: str
    command: tuple[str, ...]

    @classmethod
    def read(cls, text: str) -> Hook:
        """``EVENT COMMAND``. Raises ValueError with words for people."""
        event, _, command = text.strip().partition(" ")
        if event not in WORDS:
            raise ValueError(f"one of {', '.join(WORDS)}, then a command")
        try:
            parts = tuple(shlex.split(command))
        except ValueError:
            raise ValueError("a command whose quotes are closed") from None
        if not parts:
            raise ValueError(f"a command after {event}")
        return cls(event, parts)

    def check(self) -> None:
        """Raises ConfigError where someone else can change the program. One that is not there is told of
        when it is to run."""
        program = shutil.which(self.command[0])
        try:
            if program is not None:
                check_program(program)
        except UntrustedFile as error:
            raise ConfigError("app.on", f"{program}: {error.strerror}") from None
        except OSError:
            pass


class Outcome(NamedTuple):
    """How a program ended: `run`, `failed`, `timed_out`; and why, in words."""

    word: str
    why: str = ""


class Said:
    """What a program says on stderr, read as it comes. `file` is its end of the pipe."""

    def __init__(self, *, is_loud: bool) -> None:
        self._reading, self.file = os.pipe()
        self._loud_bytes = LOUD_BYTES if is_loud else 0
        self._end = b""
        os.set_blocking(self._reading, False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._reading, self._read)

    def started(self) -> None:
        """The program has its end; ours of it is closed."""
        os.close(self.file)
        self.file = -1

    def close(self) -> str:
        """Read no more; the last line that was said, printable and cut."""
        for _ in range(READS_AT_END):  # its children may go on for ever
            if not self._read():
                break
        self._loop.remove_reader(self._reading)
        os.close(self._reading)
        if self.file >= 0:
            self.started()
        lines = self._end.decode(errors="replace").strip().splitlines()
        return cut(printable(lines[-1].strip()), SAID_CELLS) if lines else ""

    def _read(self) -> bool:
        """Whether there was something, and there may be more."""
        try:
            data = os.read(self._reading, LOUD_BYTES)
        except OSError:
            return False
        if not data:
            self._loop.remove_reader(self._reading)
        elif self._loud_bytes > 0 and sys.stderr is not None:
            loud = data[: self._loud_bytes].decode(errors="replace")
            self._loud_bytes -= len(data)
            sys.stderr.write("".join(f"{each}\n" for each in printable_lines(loud.rstrip("\n"))))
            sys.stderr.flush()
        self._end = (self._end + data)[-SAID_BYTES:]
        return len(data) == LOUD_BYTES


class Hooks:
    """Runs programs for one host. `counts`: how many ended well (`run`), and how many `failed`,
    `timed_out` or were `skipped`. `on_trouble` is called with the fields of ``hook_failed``."""

    def __init__(
        self,
        host: Host,
        hooks: Sequence[Hook],
        *,
        is_loud: bool,
        on_trouble: Callable[[Object], object] | None = None,
    ) -> None:
        self.counts = host.programs
        self._on_trouble = on_trouble
        self._is_loud = is_loud
        self._troubles = Summary(TOLD_S)
        self._why: dict[tuple[str, str], tuple[Hook, Outcome]] = {}
        self._host = host
        self._hooks = hooks
        self._telling = Telling(host, self._offer)
        self._waiting: asyncio.Queue[tuple[Hook, bytes]] = asyncio.Queue(WAITING)
        self._running = 0

    @property
    def is_busy(self) -> bool:
        return self._running > 0 or not self._waiting.empty()

    def hear(self, event: Event, _: Changes) -> None:
        self._telling.hear(event)

    def _offer(self, word: str, fields: Object) -> None:
        for hook in self._hooks:
            if hook.event == word:
                try:
                    self._waiting.put_nowait((hook, encode(word, fields)))
                except asyncio.QueueFull:
                    self._note(hook, Outcome("skipped", f"{WAITING} events wait already"))

    def _note(self, hook: Hook, outcome: Outcome) -> None:
        self.counts[outcome.word] += 1
        if outcome.word == "run":
            return
        key = (f"{hook.event} {shlex.join(hook.command)}", outcome.word)
        self._why[key] = hook, outcome
        if count := self._troubles.add(key, 1, time.monotonic()):
            self._tell(hook, outcome, count)

    def _tell(self, hook: Hook, outcome: Outcome, count: int) -> None:
        """Of several only the latest reason is told."""
        word = outcome.word.replace("_", " ")
        times = f" ({count:,} times)" if count > 1 else ""
        logger.warning(
            "--on %s: %s %s: %s%s", hook.event, hook.command[0], word, outcome.why, times
        )
        if self._on_trouble is not None:
            fields = {"on": hook.event, "command": shlex.join(hook.command)}
            self._on_trouble(
                fields | {"outcome": outcome.word, "reason": outcome.why, "count": count}
            )

    async def work(self) -> None:
        """Run what is waiting, one after another."""
        while True:
            hook, line = await self._waiting.get()
            self._running += 1
            try:
                outcome = await self._run(hook, line)
            finally:
                self._running -= 1
            self._note(hook, outcome)

    async def tell_ready(self, peers: int) -> None:
        """Tell `ready` once so many peers are linked."""
        await self._host.is_started.wait()
        with contextlib.suppress(GrapevineError):  # it stopped before
            await self._host.node.ready(peers)
            self._offer("ready", {"peers": Answers(self._host).connected})

    def tell_stopped(self, fields: Object) -> None:
        """Start what is to run at the end. It outlives us, so nobody kills it."""
        line = encode("stopped", fields)
        for hook in self._hooks:
            if hook.event == "stopped":
                try:
                    self._start_last(hook, line)
                except (OSError, ValueError) as error:
                    self._note(hook, Outcome("failed", _reason(error)))
                else:
                    self._note(hook, Outcome("run"))

    def _start_last(self, hook: Hook, line: bytes) -> None:
        reading, writing = os.pipe()
        try:
            os.write(writing, line)  # a short line, which a pipe takes whole
            subprocess.Popen(
                hook.command,
                stdin=reading,
                stdout=subprocess.DEVNULL,
                stderr=None if self._is_loud else subprocess.DEVNULL,
                env=_environ(),
                start_new_session=True,
            )
        finally:
            os.close(writing)
            os.close(reading)

    async def tell_sums(self) -> None:
        while True:
            await asyncio.sleep(QUIET_S)
            self._telling.flush()
            self.tell_due()

    def tell_due(self, *, everything: bool = False) -> None:
        """Tell what failed and was not told at once."""
        for key, count in self._troubles.due(time.monotonic(), everything=everything):
            self._tell(*self._why[key], count)

    async def _run(self, hook: Hook, line: bytes) -> Outcome:
        try:
            said = Said(is_loud=self._is_loud)
        except OSError as error:  # no descriptor is free
            return Outcome("failed", _reason(error))
        try:
            outcome = await self._run_once(hook, line, said)
        except BaseException:
            said.close()
            raise
        last = said.close()
        return outcome._replace(why=f"{outcome.why}; {last}" if last else outcome.why)

    async def _run_once(self, hook: Hook, line: bytes, said: Said) -> Outcome:
        try:
            process = await asyncio.create_subprocess_exec(
                *hook.command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,  # ours is the caller's
                stderr=said.file,
                env=_environ(),
                start_new_session=True,
            )
        except (OSError, ValueError) as error:  # ValueError: a null byte in a name
            return Outcome("failed", _reason(error))
        said.started()
        try:
            async with asyncio.timeout(RUN_S):
                await process.communicate(line)
        except TimeoutError:
            return Outcome("timed_out", f"killed after {RUN_S:g} s")
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        return ended_with(process.returncode)


def ended_with(status: int | None) -> Outcome:
    """What a return code says, as `subprocess` gives it."""
    if not status:
        return Outcome("run")
    if status > 0:
        return Outcome("failed", f"exit status {status}")
    try:
        return Outcome("failed", f"killed by {signal.Signals(-status).name}")
    except ValueError:
        return Outcome("failed", f"killed by signal {-status}")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _environ() -> dict[str, str]:
    """What a program inherits: nothing that was meant for us by the service manager."""
    return {name: value for name, value in os.environ.items() if name not in VARIABLES}


@contextlib.asynccontextmanager
async def hooked(
    host: Host,
    texts: Sequence[str],
    *,
    is_loud: bool,
    ready_peers: int = 1,
    on_trouble: Callable[[Object], object] | None = None,
) -> AsyncIterator[Hooks]:
    """Run programs for `host` until the end of this block; enter it before the host starts.
    `is_loud`: what they say on stderr goes to ours. `ready_peers`: how many make `ready`. Raises
    ConfigError where someone else can change a program."""
    programs = [Hook.read(text) for text in texts]
    for program in programs:
        program.check()
    hooks = Hooks(host, programs, is_loud=is_loud, on_trouble=on_trouble)
    host.listen(hooks.hear)
    tasks = [asyncio.create_task(hooks.work()) for _ in range(AT_ONCE)]
    tasks.append(asyncio.create_task(hooks.tell_sums()))
    tasks.append(asyncio.create_task(hooks.tell_ready(ready_peers)))
    try:
        yield hooks
    finally:
        await asyncio.sleep(END_S if hooks.is_busy else 0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        hooks.tell_due(everything=True)
