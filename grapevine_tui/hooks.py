"""``--on EVENT COMMAND``: programs that are run when something happens, with the event on their stdin.

What must stay true:

- No shell ever sees anything: the command is split once, when the settings are read, and what a
  stranger said is only ever in the JSON object on stdin.
- No program runs that someone other than this user or root can change.
- So many at once, so many waiting, so long each; what is skipped is counted and logged, and the node
  never waits for any of it.
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
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Final, NamedTuple

from grapevine_proto.errors import ConfigError, GrapevineError
from grapevine_proto.events import Event
from grapevine_proto.trust import UntrustedFile, check_program
from grapevine_tui.answers import Answers
from grapevine_tui.host import Host
from grapevine_tui.jsonlines import Object, encode
from grapevine_tui.model import Changes
from grapevine_tui.systemd import VARIABLES
from grapevine_tui.telling import QUIET_S, Telling

logger = logging.getLogger("grapevine.hooks")

WORDS: Final = (
    *("started", "ready", "message", "peer", "member", "rate_limited"),
    *("round", "trace", "dropped", "dial_failed", "state_unsaved", "stopped"),
)
AT_ONCE: Final = 4  # programs
WAITING: Final = 64  # events; then they are skipped
RUN_S: Final = 10.0  # then a program and its children are killed
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


class Hooks:
    """Runs programs for one host. `counts`: how many ended well (`run`), and how many `failed`,
    `timed_out` or were `skipped`."""

    def __init__(self, host: Host, hooks: Sequence[Hook], *, is_loud: bool) -> None:
        self.counts: Counter[str] = Counter()
        self._host = host
        self._hooks = hooks
        self._stderr = None if is_loud else asyncio.subprocess.DEVNULL
        self._telling = Telling(host, self._offer)
        self._waiting: asyncio.Queue[tuple[Hook, bytes]] = asyncio.Queue(WAITING)
        self._skipped_told = 0
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
                    self.counts["skipped"] += 1

    async def work(self) -> None:
        """Run what is waiting, one after another."""
        while True:
            hook, line = await self._waiting.get()
            self._running += 1
            try:
                outcome = await self._run(hook, line)
            finally:
                self._running -= 1
            self.counts[outcome] += 1
            if outcome != "run":
                logger.warning(
                    "--on %s: %s %s", hook.event, hook.command[0], outcome.replace("_", " ")
                )

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
                except (OSError, ValueError):
                    self.counts["failed"] += 1
                    logger.warning("--on stopped: %s failed", hook.command[0])
                else:
                    self.counts["run"] += 1

    def _start_last(self, hook: Hook, line: bytes) -> None:
        reading, writing = os.pipe()
        try:
            os.write(writing, line)  # a short line, which a pipe takes whole
            subprocess.Popen(
                hook.command,
                stdin=reading,
                stdout=subprocess.DEVNULL,
                stderr=self._stderr,
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
            if self.counts["skipped"] > self._skipped_told:
                logger.warning("--on: %d events skipped so far", self.counts["skipped"])
                self._skipped_told = self.counts["skipped"]

    async def _run(self, hook: Hook, line: bytes) -> str:
        try:
            process = await asyncio.create_subprocess_exec(
                *hook.command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,  # ours is the caller's
                stderr=self._stderr,
                env=_environ(),
                start_new_session=True,
            )
        except (OSError, ValueError):  # ValueError: a null byte in a name
            return "failed"
        try:
            async with asyncio.timeout(RUN_S):
                await process.communicate(line)
        except TimeoutError:
            return "timed_out"
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        return "failed" if process.returncode else "run"


def _environ() -> dict[str, str]:
    """What a program inherits: nothing that was meant for us by the service manager."""
    return {name: value for name, value in os.environ.items() if name not in VARIABLES}


@contextlib.asynccontextmanager
async def hooked(
    host: Host, texts: Sequence[str], *, is_loud: bool, ready_peers: int = 1
) -> AsyncIterator[Hooks]:
    """Run programs for `host` until the end of this block; enter it before the host starts.
    `is_loud`: what they say on stderr goes to ours. `ready_peers`: how many make `ready`. Raises
    ConfigError where someone else can change a program."""
    programs = [Hook.read(text) for text in texts]
    for program in programs:
        program.check()
    hooks = Hooks(host, programs, is_loud=is_loud)
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
