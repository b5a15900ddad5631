"""A node on stdin and stdout: commands in, JSON Lines out, for scripts and services.

Invariants:

- `started` is the first object and `stopped` the last; everything in between is in order.
- An invalid line gets an error reply and changes nothing. Commands run one after another.
- Neither a slow reader nor an idle writer delays the node. A signal ends it within half a second, a
  second signal at once.

Driven by `cli.run.run_headless`: construct one and await `run`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Final

from grapevine_proto.errors import GrapevineError, NotRunning
from grapevine_proto.events import (
    DatagramDropped,
    Event,
    EventsLost,
    NodeStarted,
    NodeStopped,
    RateLimited,
)
from grapevine_tui import systemd
from grapevine_tui.config.settings import Settings
from grapevine_tui.control.event_feed import SUMMARY_INTERVAL_S, EventFeed
from grapevine_tui.control.jsonlines import Object, encode_event
from grapevine_tui.control.reload import ReloadFailed, reload_settings
from grapevine_tui.control.subscribers import MAX_REPLAYED_BYTES, MAX_REPLAYED_MESSAGES
from grapevine_tui.host import snapshot
from grapevine_tui.host.local import Host
from grapevine_tui.host.model import Changes, Model
from grapevine_tui.process_exit import (
    EXIT_FAILED,
    EXIT_OK,
    SIGNAL_LEAVE_TIMEOUT_S,
    force_exit_after,
)
from grapevine_tui.service.services import node_services
from grapevine_tui.service.stdio import LineWriter, read_lines

if TYPE_CHECKING:
    from grapevine_tui.control.executor import CommandExecutor

logger = logging.getLogger("grapevine.headless")

SIGNAL_FLUSH_TIMEOUT_S: Final = 0.25  # from the signal on, for the last lines
MIN_FLUSH_TIMEOUT_S: Final = 0.05  # at least this long for them
FORCED_EXIT_DELAY_S: Final = (
    2.0  # after a signal, in case a disk hangs; usually nothing is left to do
)
OUTPUT_CLOSE_TIMEOUT_S: Final = 5.0  # without a signal
ACK_POLL_INTERVAL_S: Final = 0.05  # for acknowledgments of all broadcasts
ROUND_RETRY_INTERVAL_S: Final = 0.5  # between anti-entropy rounds that deliver them
OUTPUT_POLL_INTERVAL_S: Final = 0.02  # for a reader to read replies again


class Headless:
    """One run, from `started` to `stopped`. With `stdin` None, input ends at once."""

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
            settings=settings,
            # Scripts keep their own log; these messages are for clients that subscribe later.
            model=Model(max_messages=MAX_REPLAYED_MESSAGES, max_message_bytes=MAX_REPLAYED_BYTES),
            spare_state_dirs=settings.spare_state_dirs,
        )
        self._event_feed = EventFeed(self.host, self._write_event, clock)
        self._dropped_events = 0
        self._is_leaving = False
        self._flush_deadline = 0.0
        self._loop: asyncio.AbstractEventLoop
        self._output: LineWriter
        self._stop: asyncio.Future[tuple[str, int]]
        self._run_stopped_hooks: Callable[[Object], object]
        self._tasks: list[asyncio.Task[None]] = []

    @cached_property
    def _executor(self) -> CommandExecutor:
        """Loaded with the first command: a node is ready before it knows all of them."""
        from grapevine_tui.control.executor import CommandExecutor

        return CommandExecutor(self.host, self._settings)

    async def run(self) -> int:
        """Run until asked to stop and return the exit code. Raises what `Host.start` raises; then
        nothing was printed.
        """
        loop = self._loop = asyncio.get_running_loop()
        self._stop = loop.create_future()
        self._output = LineWriter(self._stdout, self._on_output_broken)
        self._install_signal_handlers(loop)
        async with node_services(
            self.host,
            self._settings,
            lambda: self._request_stop("quit", EXIT_OK),
            self._on_hook_failed,
        ) as self._run_stopped_hooks:
            self.host.listen(self._on_event)
            self.host.listen_to_alerts(
                lambda change: self._write_if_read("alert", change.to_dict())
            )
            await self.host.start()
            self._start_tasks()
            reason, code = await self._stop
            return await self._leave(reason, code)

    def _start_tasks(self) -> None:
        self._tasks = [
            asyncio.create_task(self._read_commands()),
            asyncio.create_task(self._flush_loop()),
            asyncio.create_task(
                systemd.notify_ready_and_watchdog(self.host, self._settings.wait_peers)
            ),
        ]
        if self._settings.wait_peers:
            self._tasks.append(asyncio.create_task(self._report_ready()))
        for task in self._tasks:
            task.add_done_callback(self._on_task_done)

    # --- stopping -------------------------------------------------------------------------------

    def _install_signal_handlers(self, loop: asyncio.AbstractEventLoop) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(each, self._on_signal, each)
        loop.add_signal_handler(signal.SIGHUP, self._reload)

    def _on_signal(self, signal_number: signal.Signals) -> None:
        if self._stop.done():
            os._exit(128 + signal_number)  # second signal: exit at once, without the last lines
        self._flush_deadline = self._clock() + SIGNAL_FLUSH_TIMEOUT_S
        force_exit_after(FORCED_EXIT_DELAY_S, EXIT_OK)
        self._request_stop(signal_number.name.lower(), EXIT_OK)

    def _on_output_broken(self, error: OSError) -> None:
        # A closed pipe means the reader is done; with any other error, output is missing.
        code = EXIT_OK if isinstance(error, BrokenPipeError) else EXIT_FAILED
        detail = f"stdout: {error.strerror or error}"
        with suppress(RuntimeError):  # in the writer's thread; the event loop may be closed
            self._loop.call_soon_threadsafe(self._request_stop, "output_closed", code, detail)

    def _request_stop(self, reason: str, code: int, detail: str = "") -> None:
        if detail:
            logger.info("stopping: %s", detail)
        if not self._stop.done():
            self._stop.set_result((reason, code))

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("internal error", exc_info=error)
            self._request_stop("failed", EXIT_FAILED)

    async def _leave(self, reason: str, code: int) -> int:
        self._is_leaving = True
        systemd.notify("STOPPING=1")
        for task in self._tasks:
            task.cancel()
        is_signal = reason.startswith("sig")
        fields: Object = {"reason": reason}
        failure: GrapevineError | None = None
        if reason == "failed":
            failure = self.host.failure() or NotRunning("the node stopped by itself")
        unacknowledged = await self.host.leave(
            SIGNAL_LEAVE_TIMEOUT_S if is_signal else self.host.node.config.leave_timeout
        )
        if failure is not None:
            fields["error"] = str(failure)
        elif reason in ("eof", "eof_timeout"):
            unacknowledged = max(unacknowledged, self.host.unacknowledged)
            fields["unacknowledged"] = unacknowledged
            if unacknowledged:
                fields["reason"], code = "eof_timeout", EXIT_FAILED
                logger.error("%d of our messages are unacknowledged", unacknowledged)
        self._event_feed.flush(all_pending=True)
        self._run_stopped_hooks(fields)
        self._write_event("stopped", fields)
        flush_timeout_s = max(MIN_FLUSH_TIMEOUT_S, self._flush_deadline - self._clock())
        self._output.close(flush_timeout_s if is_signal else OUTPUT_CLOSE_TIMEOUT_S)
        if failure is not None:
            raise failure
        return code

    # --- output ---------------------------------------------------------------------------------

    def _write_event(self, event: str, fields: Object) -> None:
        self._report_dropped()
        self._output.put(encode_event(event, fields))

    def _report_dropped(self) -> None:
        if self._dropped_events and self._output.has_capacity:
            dropped, self._dropped_events = self._dropped_events, 0
            self._output.put(encode_event("dropped", {"reason": "slow_reader", "count": dropped}))

    def _on_event(self, event: Event, _: Changes) -> None:
        match event:
            case NodeStopped(reason):
                if not self._is_leaving:
                    self._request_stop("failed", EXIT_FAILED, reason)
            case NodeStarted() | RateLimited() | DatagramDropped() | EventsLost():
                self._event_feed.on_event(event)  # aggregated, and reported once there is room
            case _ if not self._output.has_capacity:
                self._dropped_events += 1
            case _:
                self._event_feed.on_event(event)

    def _on_hook_failed(self, fields: Object) -> None:
        self._write_if_read("hook_failed", fields)

    def _write_if_read(self, event: str, fields: Object) -> None:
        if self._output.has_capacity:
            self._write_event(event, fields)
        else:
            self._dropped_events += 1

    async def _flush_loop(self) -> None:
        while True:
            await asyncio.sleep(SUMMARY_INTERVAL_S / 2)
            self._report_dropped()  # also if no event follows
            if self._output.has_capacity:
                self._event_feed.flush()

    async def _report_ready(self) -> None:
        with suppress(GrapevineError):
            await self.host.node.ready(self._settings.wait_peers)
            self._write_event("ready", {"peers": snapshot.connected_count(self.host)})

    # --- commands -------------------------------------------------------------------------------

    async def _read_commands(self) -> None:
        lines = _no_lines() if self._stdin is None else read_lines(self._stdin)
        async for line in lines:
            # Do not read on while replies are not read. Polling, because the writer is a thread
            # without an event loop.
            while not self._output.has_capacity:  # noqa: ASYNC110
                await asyncio.sleep(OUTPUT_POLL_INTERVAL_S)
            await self._execute_line(line)
            if self._stop.done():
                return
        if self._settings.on_eof == "exit":
            await self._stop_when_acknowledged()

    async def _stop_when_acknowledged(self) -> None:
        deadline = self._clock() + self._settings.eof_timeout
        next_sync_at = 0.0
        while self.host.unacknowledged:
            now = self._clock()
            if now >= deadline:
                self._request_stop("eof_timeout", EXIT_FAILED)
                return
            if snapshot.connected_count(self.host) and now >= next_sync_at:
                next_sync_at = now + ROUND_RETRY_INTERVAL_S
                self.host.sync_unacknowledged()
            await asyncio.sleep(ACK_POLL_INTERVAL_S)
        self._request_stop("eof", EXIT_OK)

    async def _execute_line(self, line: bytes | None) -> None:
        reply = await self._executor.execute(line)
        if reply is not None:
            self._write_event("reply", reply.fields)
            if reply.is_leave:
                self._request_stop("quit", EXIT_OK)

    # --- reload ---------------------------------------------------------------------------------

    def _reload(self) -> None:
        """Apply changed files. An invalid file changes nothing and is reported in the log."""
        with suppress(ReloadFailed):
            reload_settings(self.host, self._settings)


async def _no_lines() -> AsyncIterator[bytes | None]:
    lines: tuple[bytes, ...] = ()
    for line in lines:
        yield line
