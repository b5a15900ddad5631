"""Daemon threads for blocking calls: files and name resolution.

asyncio's default executor belongs to the application: if its threads are all busy, our calls would wait
without limit, and at exit the interpreter waits for all of them.

Invariants:

- At most `limit` threads run at a time; further calls wait in order.
- A hanging call blocks neither its caller, which can be cancelled, nor the end of the loop or the process
  (the threads are daemons).
- A thread ends when there is no work, so an idle node has none and a forked child misses none.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class DaemonThreads:
    """Runs calls in at most `limit` threads named `name`. May be used from several event loops."""

    def __init__(self, name: str, limit: int) -> None:
        self._name = name
        self._limit = limit
        self._lock = threading.Lock()
        self._thread_count = 0
        self._jobs: deque[Callable[[], None]] = deque()

    async def run(self, work: Callable[..., T], *args: Any) -> T:
        """Returns or raises what ``work(*args)`` does, in a thread. Raises OSError if no thread can be
        started."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def job() -> None:
            if future.cancelled():
                return
            try:
                result = work(*args)
            except BaseException as error:  # noqa: BLE001  raised in the caller
                _call_in_loop(loop, _set_exception, future, error)
            else:
                _call_in_loop(loop, _set_result, future, result)

        self._submit(job)
        return await future

    def _submit(self, job: Callable[[], None]) -> None:
        with self._lock:
            self._jobs.append(job)
            if self._thread_count >= self._limit:
                return
            self._thread_count += 1
        try:
            threading.Thread(target=self._run_jobs, name=self._name, daemon=True).start()
        except RuntimeError as error:  # "can't start new thread"
            with self._lock:
                self._thread_count -= 1
                is_started = job not in self._jobs
                if not is_started:
                    self._jobs.remove(job)
            if not is_started:
                raise OSError(f"no thread: {error}") from None

    def _run_jobs(self) -> None:
        while True:
            with self._lock:
                if not self._jobs:
                    self._thread_count -= 1
                    return
                job = self._jobs.popleft()
            job()


def _call_in_loop(
    loop: asyncio.AbstractEventLoop, callback: Callable[..., None], *args: Any
) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: no caller is waiting
        loop.call_soon_threadsafe(callback, *args)


def _set_result(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _set_exception(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        if isinstance(error, StopIteration):  # a future rejects it
            error = RuntimeError(str(error))
        future.set_exception(error)
