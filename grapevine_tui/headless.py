"""A node on stdin and stdout: commands in, JSON Lines out, for scripts and services.

What must stay true:

- `started` is the first object and `stopped` the last; between them everything in order.
- A bad line is answered and changes nothing. Commands are worked on one after another.
- Neither a slow reader nor a silent writer delays the node; a signal ends it within half a second,
  a second signal at once.

Driven by `cli.run_headless`: make one, await `run`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Final

from grapevine_proto.errors import GrapevineError, NotRunning, StateLockedError
from grapevine_proto.events import (
    DatagramDropped,
    Event,
    EventsLost,
    NodeStarted,
    NodeStopped,
    RateLimited,
)
from grapevine_tui import systemd
from grapevine_tui.answers import Answers
from grapevine_tui.ending import end_within
from grapevine_tui.host import Host
from grapevine_tui.jsonlines import Object, encode
from grapevine_tui.model import Changes, Model
from grapevine_tui.reloading import NotReloaded, reload
from grapevine_tui.service import surroundings
from grapevine_tui.settings import Settings
from grapevine_tui.streams import LineWriter, read_lines
from grapevine_tui.telling import QUIET_S, Telling
from grapevine_tui.watching import PAST, PAST_BYTES

logger = logging.getLogger("grapevine.headless")

SIGNAL_LEAVE_S: Final = 0.3  # of the 500 ms that a signal leaves us; the rest is for closing
LEAVE_S: Final = 5.0
SIGNAL_FLUSH_S: Final = 0.25  # from the signal on, for the last lines
FLUSH_S: Final = 0.05  # for them at least
LAST_RESORT_S: Final = 2.0  # after a signal, for a disk that hangs; usually nothing is left to do
PATIENCE_S: Final = 5.0  # for the last lines otherwise
TAKEN_POLL_S: Final = 0.05  # between looks whether all that was said is taken
ROUND_AGAIN_S: Final = 0.5  # between rounds begun for that
ROOM_POLL_S: Final = 0.02  # between looks whether replies are read again
FAILED, IN_USE = 1, 5


class Headless:
    """One run: from `started` to `stopped`. `stdin` None: there is none, which is its end."""

    def __init__(
        self,
        settings: Settings,
        *,
        stdin: int | None = 0,
        stdout: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._stdin = stdin
        self._stdout = stdout
        self._clock = clock
        self.host = Host(
            settings.node,
            settings.state_dir,
            # The log is the caller's; a little of it is kept for who begins to watch later.
            model=Model(messages=PAST, message_bytes=PAST_BYTES),
            spare_state_dirs=settings.spare_state_dirs,
        )
        self._answers = Answers(self.host, settings)
        self._telling = Telling(self.host, self._say, clock)
        self._lost = 0
        self._is_leaving = False
        self._flush_until = 0.0
        self._loop: asyncio.AbstractEventLoop
        self._output: LineWriter
        self._stop: asyncio.Future[tuple[str, int]]
        self._tell_stopped: Callable[[Object], object]
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self) -> int:
        """Run until told to stop; the exit code. Raises what `Host.start` raises: then nothing was
        printed."""
        loop = self._loop = asyncio.get_running_loop()
        self._stop = loop.create_future()
        self._output = LineWriter(self._stdout, self._output_broke)
        self._heed_signals(loop)
        async with surroundings(
            self.host,
            self._settings,
            lambda: self._end("quit", 0),
            self._tell_hook_failed,
        ) as self._tell_stopped:
            self.host.listen(self._tell)
            await self.host.start()
            self._begin_tasks()
            reason, code = await self._stop
            return await self._leave(reason, code)

    def _begin_tasks(self) -> None:
        self._tasks = [
            asyncio.create_task(self._hear()),
            asyncio.create_task(self._tell_summaries()),
            asyncio.create_task(systemd.attend(self.host, self._settings.wait_peers)),
        ]
        if self._settings.wait_peers:
            self._tasks.append(asyncio.create_task(self._tell_ready()))
        for task in self._tasks:
            task.add_done_callback(self._on_task_done)

    # --- the end --------------------------------------------------------------------------------

    def _heed_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(each, self._on_signal, each)
        loop.add_signal_handler(signal.SIGHUP, self._reload)

    def _on_signal(self, which: signal.Signals) -> None:
        if self._stop.done():
            os._exit(128 + which)  # told twice: at once, whatever is still to be said
        self._flush_until = self._clock() + SIGNAL_FLUSH_S
        end_within(LAST_RESORT_S, 0)
        self._end(which.name.lower(), 0)

    def _output_broke(self, error: OSError) -> None:
        # A reader that has gone has had enough; what could not be written for another reason is missed.
        code = 0 if isinstance(error, BrokenPipeError) else 1
        why = f"stdout: {error.strerror or error}"
        with suppress(RuntimeError):  # in the writer's thread; the loop may be closed by now
            self._loop.call_soon_threadsafe(self._end, "output_closed", code, why)

    def _end(self, reason: str, code: int, why: str = "") -> None:
        if why:
            logger.info("stopping: %s", why)
        if not self._stop.done():
            self._stop.set_result((reason, code))

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (fault := task.exception()) is not None:
            logger.error("a fault of this program", exc_info=fault)
            self._end("failed", FAILED)

    async def _leave(self, reason: str, code: int) -> int:
        self._is_leaving = True
        systemd.notify("STOPPING=1")
        for task in self._tasks:
            task.cancel()
        is_hurried = reason.startswith("sig")
        last: Object = {"reason": reason}
        failure: GrapevineError | None = None
        if reason == "failed":
            failure = self.host.failure() or NotRunning("the node stopped by itself")
        untaken = await self.host.leave(SIGNAL_LEAVE_S if is_hurried else LEAVE_S)
        if failure is not None:
            last["error"] = str(failure)
            code = IN_USE if isinstance(failure, StateLockedError) else FAILED
        elif reason in ("eof", "eof_timeout"):
            untaken = max(untaken, self.host.untaken)
            last["untaken"] = untaken
            if untaken:
                last["reason"], code = "eof_timeout", FAILED
                logger.error("%d of our messages were taken by nobody", untaken)
        self._telling.flush(everything=True)
        self._tell_stopped(last)
        self._say("stopped", last)
        hurry_s = max(FLUSH_S, self._flush_until - self._clock())
        self._output.close(hurry_s if is_hurried else PATIENCE_S)
        if failure is not None:
            raise failure
        return code

    # --- what is told ---------------------------------------------------------------------------

    def _say(self, event: str, fields: Object) -> None:
        self._tell_lost()
        self._output.put(encode(event, fields))

    def _tell_lost(self) -> None:
        if self._lost and self._output.has_room:
            lost, self._lost = self._lost, 0
            self._output.put(encode("dropped", {"reason": "slow_reader", "count": lost}))

    def _tell(self, event: Event, _: Changes) -> None:
        match event:
            case NodeStopped(reason):
                if not self._is_leaving:
                    self._end("failed", FAILED, reason)
            case NodeStarted() | RateLimited() | DatagramDropped() | EventsLost():
                self._telling.hear(event)  # sums, told when there is room
            case _ if not self._output.has_room:
                self._lost += 1
            case _:
                self._telling.hear(event)

    def _tell_hook_failed(self, fields: Object) -> None:
        if self._output.has_room:
            self._say("hook_failed", fields)
        else:
            self._lost += 1

    async def _tell_summaries(self) -> None:
        while True:
            await asyncio.sleep(QUIET_S / 2)
            self._tell_lost()  # also where nothing happens after it
            if self._output.has_room:
                self._telling.flush()

    async def _tell_ready(self) -> None:
        with suppress(GrapevineError):
            await self.host.node.ready(self._settings.wait_peers)
            self._say("ready", {"peers": self._answers.connected})

    # --- what is asked --------------------------------------------------------------------------

    async def _hear(self) -> None:
        lines = _nothing() if self._stdin is None else read_lines(self._stdin)
        async for line in lines:
            # Whoever asks without reading the answers waits; the writer is a thread without a loop.
            while not self._output.has_room:  # noqa: ASYNC110
                await asyncio.sleep(ROOM_POLL_S)
            await self._hear_line(line)
            if self._stop.done():
                return
        if self._settings.on_eof == "exit":
            await self._end_when_taken()

    async def _end_when_taken(self) -> None:
        give_up_at = self._clock() + self._settings.eof_timeout
        hand_over_at = 0.0
        while self.host.untaken:
            now = self._clock()
            if now >= give_up_at:
                self._end("eof_timeout", FAILED)
                return
            if self._answers.connected and now >= hand_over_at:
                hand_over_at = now + ROUND_AGAIN_S
                self.host.hand_over()
            await asyncio.sleep(TAKEN_POLL_S)
        self._end("eof", 0)

    async def _hear_line(self, line: bytes | None) -> None:
        reply = await self._answers.reply(line)
        if reply is not None:
            self._say("reply", reply.fields)
            if reply.is_goodbye:
                self._end("quit", 0)

    # --- reload ---------------------------------------------------------------------------------

    def _reload(self) -> None:
        """Take over what changed in files. What is wrong changes nothing and is in the log."""
        with suppress(NotReloaded):
            reload(self.host, self._settings)


async def _nothing() -> AsyncIterator[bytes | None]:
    lines: tuple[bytes, ...] = ()
    for line in lines:
        yield line
