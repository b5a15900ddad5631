"""Threads of our own for calls that block: files and name lookups.

asyncio's default executor belongs to the application: once it keeps all threads busy, whatever of ours
needs one waits without bound, and at its end the interpreter waits for every thread of it.

Invariants:

- At most `limit` threads at a time; further work waits in order.
- Nothing waits for a call that hangs: neither the caller, who may be cancelled, nor the end of the loop
  or of the process (threads are daemons).
- No thread outlives the work, so that an idle node has none and a forked child misses none.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class Threads:
    """At most `limit` threads, each called `name`. May be used from several event loops."""

    def __init__(self, name: str, limit: int) -> None:
        self._name = name
        self._limit = limit
        self._lock = threading.Lock()
        self._running = 0
        self._waiting: deque[Callable[[], None]] = deque()

    async def run(self, work: Callable[..., T], *args: Any) -> T:
        """What ``work(*args)`` returns or raises. OSError where the system grants no thread."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()

        def do() -> None:
            if done.cancelled():
                return
            try:
                result = work(*args)
            except BaseException as error:  # noqa: BLE001  raised where it was asked for
                _tell(loop, _fail, done, error)
            else:
                _tell(loop, _succeed, done, result)

        self._submit(do)
        return await done

    def _submit(self, do: Callable[[], None]) -> None:
        with self._lock:
            self._waiting.append(do)
            if self._running >= self._limit:
                return
            self._running += 1
        try:
            threading.Thread(target=self._work, name=self._name, daemon=True).start()
        except RuntimeError as error:  # "can't start new thread"
            with self._lock:
                self._running -= 1
                is_taken = do not in self._waiting
                if not is_taken:
                    self._waiting.remove(do)
            if not is_taken:
                raise OSError(f"no thread: {error}") from None

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._running -= 1
                    return
                do = self._waiting.popleft()
            do()


def _tell(loop: asyncio.AbstractEventLoop, tell: Callable[..., None], *args: Any) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(tell, *args)


def _succeed(done: asyncio.Future[T], result: T) -> None:
    if not done.done():
        done.set_result(result)


def _fail(done: asyncio.Future[Any], error: BaseException) -> None:
    if not done.done():
        if isinstance(error, StopIteration):  # which no future takes
            error = RuntimeError(str(error))
        done.set_exception(error)
