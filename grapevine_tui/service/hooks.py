"""``--on EVENT COMMAND``: runs programs on events, with the event as JSON on stdin.

Invariants:

- No shell is involved: the command is split once, when settings are loaded, and remote text appears
  only in the JSON on stdin.
- A program that anyone but this user or root can change is not run.
- Concurrency, queue and run time are bounded, and the node never waits for a program.
- Failures, timeouts and skipped runs are counted and reported with a reason, the exit status or
  signal and the last line of stderr, each at most once per `FAILURE_REPORT_INTERVAL_S`.
- The output of a program is read in full and little of it is kept. Pipes that its children keep
  open after it ended are not waited for.
- Programs for `stopped` are started and left running, because the process is about to end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Final, NamedTuple

from grapevine_proto.errors import ConfigError, GrapevineError
from grapevine_proto.events import Event, NodeStarted, Question
from grapevine_tui.config.hook_spec import MESSAGE, QUERY, Hook
from grapevine_tui.control.event_feed import SUMMARY_INTERVAL_S, EventFeed, RateLimitedCounter
from grapevine_tui.control.jsonlines import Object, encode_event
from grapevine_tui.host import snapshot
from grapevine_tui.host.alerts import AlertChange
from grapevine_tui.host.local import Host
from grapevine_tui.host.model import Changes
from grapevine_tui.systemd import MANAGER_VARIABLES
from grapevine_tui.text import printable, printable_lines, truncate

logger = logging.getLogger("grapevine.hooks")

MAX_RUNNING_HOOKS: Final = 4  # at once
MAX_QUEUED_RUNS: Final = 64  # further events are skipped
RUN_TIMEOUT_S: Final = 10.0  # beyond that, a program and its children are killed
FAILURE_REPORT_INTERVAL_S: Final = 5.0  # for the same failure of one program
STDERR_TAIL_BYTES: Final = 4096  # kept from the end of stderr
STDERR_LINE_CELLS: Final = 200  # of the last line in a report
MAX_STDERR_ECHO_BYTES: Final = 64 * 1024  # of a program's stderr that are copied to ours
MAX_FINAL_READS: Final = 4
SHUTDOWN_GRACE_S: Final = 0.1  # for programs that run when the node stops
READ_CHUNK_BYTES: Final = 16 * 1024  # of an answer to a query
UNFINISHED_QUERY: Final = (
    "killed before it answered: the time for the query was over, or the node left"
)


class HookResult(NamedTuple):
    """Outcome of a run (`run`, `failed`, `timed_out`, `skipped`), the reason for a failure, and what it
    wrote to stdout if that was wanted."""

    outcome: str
    reason: str = ""
    output: bytes = b""


class StderrReader:
    """Reads the stderr of a program as it is written. `write_fd` is the program's end of the pipe."""

    def __init__(self, *, echoes: bool) -> None:
        self._read_fd, self.write_fd = os.pipe()
        self._echo_bytes_left = MAX_STDERR_ECHO_BYTES if echoes else 0
        self._tail = b""
        os.set_blocking(self._read_fd, False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._read_fd, self._read_available)

    def close_write_end(self) -> None:
        """Close our copy of the write end after the program has started."""
        os.close(self.write_fd)
        self.write_fd = -1

    def close(self) -> str:
        """Stop reading; return the last line, printable and truncated."""
        for _ in range(MAX_FINAL_READS):  # children of the program may never stop writing
            if not self._read_available():
                break
        self._loop.remove_reader(self._read_fd)
        os.close(self._read_fd)
        if self.write_fd >= 0:
            self.close_write_end()
        lines = self._tail.decode(errors="replace").strip().splitlines()
        return truncate(printable(lines[-1].strip()), STDERR_LINE_CELLS) if lines else ""

    def _read_available(self) -> bool:
        """Read once; return whether more may be available."""
        try:
            data = os.read(self._read_fd, MAX_STDERR_ECHO_BYTES)
        except OSError:
            return False
        if not data:
            self._loop.remove_reader(self._read_fd)
        elif self._echo_bytes_left > 0 and sys.stderr is not None:
            echoed = data[: self._echo_bytes_left].decode(errors="replace")
            self._echo_bytes_left -= len(data)
            sys.stderr.write("".join(f"{each}\n" for each in printable_lines(echoed.rstrip("\n"))))
            sys.stderr.flush()
        self._tail = (self._tail + data)[-STDERR_TAIL_BYTES:]
        return len(data) == MAX_STDERR_ECHO_BYTES


class HookRunner:
    """Runs programs for one host.

    `counts` has the number of runs by outcome. `on_hook_failed` is called with the fields of
    ``hook_failed``.
    """

    def __init__(
        self,
        host: Host,
        hooks: Sequence[Hook],
        *,
        echoes_stderr: bool,
        on_hook_failed: Callable[[Object], object] | None = None,
    ) -> None:
        self.counts = host.hook_outcomes
        self._on_hook_failed = on_hook_failed
        self._echoes_stderr = echoes_stderr
        self._failures = RateLimitedCounter(FAILURE_REPORT_INTERVAL_S)
        self._last_failures: dict[tuple[str, str], tuple[Hook, HookResult]] = {}
        self._host = host
        self._hooks = hooks
        self._event_feed = EventFeed(host, self._enqueue)
        host.listen_to_alerts(self._on_alert)
        self._queue: asyncio.Queue[tuple[Hook, bytes]] = asyncio.Queue(MAX_QUEUED_RUNS)
        self._running = 0

    @property
    def is_busy(self) -> bool:
        return self._running > 0 or not self._queue.empty()

    def on_event(self, event: Event, _: Changes) -> None:
        if isinstance(event, NodeStarted):
            for hook in self._hooks:
                if hook.is_query_handler:
                    self._host.node.on_query(hook.selector)(partial(self._answer_query, hook))
            held = {hook.selector for hook in self._hooks if hook.event == MESSAGE}
            for pattern in held - {""}:
                self._host.node.hold_topics(pattern)
        self._event_feed.on_event(event)

    def _on_alert(self, change: AlertChange) -> None:
        if not change.is_muted:
            self._enqueue("alert", change.to_dict())

    def _enqueue(self, event_name: str, fields: Object) -> None:
        for hook in self._hooks:
            if hook.wants(event_name, fields):
                try:
                    self._queue.put_nowait((hook, encode_event(event_name, fields)))
                except asyncio.QueueFull:
                    self._record_result(
                        hook, HookResult("skipped", f"{MAX_QUEUED_RUNS} events are queued")
                    )

    def _record_result(self, hook: Hook, result: HookResult) -> None:
        self.counts[result.outcome] += 1
        if result.outcome == "run":
            return
        key = (f"{hook.trigger} {shlex.join(hook.command)}", result.outcome)
        self._last_failures[key] = hook, result
        if count := self._failures.add(key, 1, time.monotonic()):
            self._report_failure(hook, result, count)

    def _report_failure(self, hook: Hook, result: HookResult, count: int) -> None:
        """Report `count` failures with the latest reason."""
        outcome_text = result.outcome.replace("_", " ")
        times = f" ({count:,} times)" if count > 1 else ""
        logger.warning(
            "--on %s: %s %s: %s%s",
            hook.trigger,
            hook.command[0],
            outcome_text,
            result.reason,
            times,
        )
        if self._on_hook_failed is not None:
            fields = {"on": hook.trigger, "command": shlex.join(hook.command)}
            self._on_hook_failed(
                fields | {"outcome": result.outcome, "reason": result.reason, "count": count}
            )

    async def run_queued(self) -> None:
        """Run queued programs, one after another."""
        while True:
            hook, line = await self._queue.get()
            self._running += 1
            try:
                result = await self._run(hook, line)
            finally:
                self._running -= 1
            self._record_result(hook, result)

    async def _answer_query(self, hook: Hook, question: Question) -> bytes:
        """Run the program of `hook`: its stdin gets the question as JSON, its stdout is the answer. Raises
        RuntimeError if it fails; the deadline of the question cancels it. Either is counted and reported."""
        self._running += 1
        result = HookResult("timed_out", UNFINISHED_QUERY)
        try:
            line = encode_event(QUERY, question.to_dict())
            result = await self._run(hook, line, max_output_bytes=question.max_answer_bytes)
        finally:
            self._running -= 1
            self._record_result(hook, result)
        if result.outcome != "run":
            raise RuntimeError(result.reason)
        return result.output

    async def run_ready_hooks(self, peers: int) -> None:
        """Emit `ready` once `peers` are connected."""
        await self._host.started.wait()
        with contextlib.suppress(GrapevineError):  # the node stopped first
            await self._host.node.ready(peers)
            self._enqueue("ready", {"peers": snapshot.connected_count(self._host)})

    def run_stopped_hooks(self, fields: Object) -> None:
        """Start the programs for `stopped`. They outlive this process, so no timeout applies."""
        line = encode_event("stopped", fields)
        for hook in self._hooks:
            if hook.event == "stopped":
                try:
                    self._start_detached(hook, line)
                except (OSError, ValueError) as error:
                    self._record_result(hook, HookResult("failed", _error_reason(error)))
                else:
                    self._record_result(hook, HookResult("run"))

    def _start_detached(self, hook: Hook, line: bytes) -> None:
        read_fd, write_fd = os.pipe()
        try:
            os.write(write_fd, line)  # shorter than PIPE_BUF, so one write takes it
            subprocess.Popen(
                hook.command,
                stdin=read_fd,
                stdout=subprocess.DEVNULL,
                stderr=None if self._echoes_stderr else subprocess.DEVNULL,
                env=child_environment(),
                start_new_session=True,
            )
        finally:
            os.close(write_fd)
            os.close(read_fd)

    async def flush_loop(self) -> None:
        while True:
            await asyncio.sleep(SUMMARY_INTERVAL_S)
            self._event_feed.flush()
            self.flush_failures()

    def flush_failures(self, *, all_pending: bool = False) -> None:
        """Report failures that were held back."""
        for key, count in self._failures.pop_due(time.monotonic(), all_pending=all_pending):
            self._report_failure(*self._last_failures[key], count)

    async def _run(
        self, hook: Hook, line: bytes, *, max_output_bytes: int | None = None
    ) -> HookResult:
        """Run a program with `line` on its stdin. With `max_output_bytes` it fails if it writes more to
        stdout, and the caller ends it in time; without, what it writes there is discarded."""
        try:
            stderr = StderrReader(echoes=self._echoes_stderr)
        except OSError as error:  # out of file descriptors
            return HookResult("failed", _error_reason(error))
        try:
            result = await self._run_once(hook, line, stderr, max_output_bytes)
        except BaseException:
            stderr.close()
            raise
        last_line = stderr.close()
        return result._replace(
            reason=f"{result.reason}; {last_line}" if last_line else result.reason
        )

    async def _run_once(
        self, hook: Hook, line: bytes, stderr: StderrReader, max_output_bytes: int | None
    ) -> HookResult:
        is_event = max_output_bytes is None
        try:
            process = await asyncio.create_subprocess_exec(
                *hook.command,
                stdin=asyncio.subprocess.PIPE,
                # our stdout belongs to the caller
                stdout=asyncio.subprocess.DEVNULL if is_event else asyncio.subprocess.PIPE,
                stderr=stderr.write_fd,
                env=child_environment(),
                start_new_session=True,
            )
        except (OSError, ValueError) as error:  # ValueError: a null byte in an argument
            return HookResult("failed", _error_reason(error))
        stderr.close_write_end()
        output = b""
        try:
            if max_output_bytes is None:
                async with asyncio.timeout(RUN_TIMEOUT_S):
                    await process.communicate(line)
            else:
                output = await _exchange(process, line, max_output_bytes)
                if len(output) > max_output_bytes:
                    return HookResult("failed", f"more than {max_output_bytes:,} bytes of answer")
                await process.wait()
        except TimeoutError:
            return HookResult("timed_out", f"killed after {RUN_TIMEOUT_S:g} s")
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        return result_from_status(process.returncode)._replace(output=output)


async def _exchange(
    process: asyncio.subprocess.Process, line: bytes, max_output_bytes: int
) -> bytes:
    """Write `line` to the stdin of `process` and read its stdout until it ends or exceeds the limit."""
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(OSError, RuntimeError):  # it may have ended without reading
        process.stdin.write(line)
        await process.stdin.drain()
        process.stdin.close()
    output = b""
    while len(output) <= max_output_bytes:
        chunk = await process.stdout.read(READ_CHUNK_BYTES)
        if not chunk:
            break
        output += chunk
    return output


def result_from_status(status: int | None) -> HookResult:
    """Convert a return code of `subprocess`."""
    if not status:
        return HookResult("run")
    if status > 0:
        return HookResult("failed", f"exit status {status}")
    try:
        return HookResult("failed", f"killed by {signal.Signals(-status).name}")
    except ValueError:
        return HookResult("failed", f"killed by signal {-status}")


def _error_reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def child_environment() -> dict[str, str]:
    """Environment of a program, without the variables the service manager meant for us."""
    return {name: value for name, value in os.environ.items() if name not in MANAGER_VARIABLES}


@contextlib.asynccontextmanager
async def running_hooks(
    host: Host,
    specs: Sequence[str],
    *,
    echoes_stderr: bool,
    ready_peers: int = 1,
    on_hook_failed: Callable[[Object], object] | None = None,
) -> AsyncIterator[HookRunner]:
    """Run programs for `host` within this context; enter it before the host starts.

    `echoes_stderr` copies their stderr to ours. `ready_peers` is the number of peers for `ready`.
    Raises ConfigError if another user can change a program.
    """
    hooks = [Hook.parse(text) for text in specs]
    for hook in hooks:
        hook.check()
    names = [hook.selector for hook in hooks if hook.is_query_handler]
    if len(set(names)) < len(names):
        raise ConfigError("app.on", "two programs answer the same query")
    runner = HookRunner(host, hooks, echoes_stderr=echoes_stderr, on_hook_failed=on_hook_failed)
    host.listen(runner.on_event)
    tasks = [asyncio.create_task(runner.run_queued()) for _ in range(MAX_RUNNING_HOOKS)]
    tasks.append(asyncio.create_task(runner.flush_loop()))
    tasks.append(asyncio.create_task(runner.run_ready_hooks(ready_peers)))
    try:
        yield runner
    finally:
        await asyncio.sleep(SHUTDOWN_GRACE_S if runner.is_busy else 0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        runner.flush_failures(all_pending=True)
