"""Daemon threads: a hanging call blocks nothing else."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from typing import Any

import pytest

from grapevine_proto.runtime.daemon_threads import DaemonThreads
from tests.conftest import Run


def test_the_result_or_exception_of_a_call_is_returned(run: Run[Any]) -> None:
    async def main() -> None:
        threads = DaemonThreads("test", 1)
        assert await threads.run(divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            await threads.run(divmod, 7, 0)

    run(main())


def test_calls_beyond_the_limit_wait_in_order(run: Run[Any]) -> None:
    async def main() -> None:
        threads, gate, most = DaemonThreads("test", 2), threading.Event(), threading.Semaphore(2)
        under_way = threading.Semaphore(0)
        began: list[int] = []

        def work(number: int) -> bool:
            is_within = most.acquire(blocking=False)
            began.append(number)
            under_way.release()
            gate.wait()
            most.release()
            return is_within

        tasks = [asyncio.create_task(threads.run(work, number)) for number in range(6)]
        for _ in range(2):
            await asyncio.to_thread(under_way.acquire)
        gate.set()
        assert all(await asyncio.gather(*tasks))
        assert sorted(began[:2]) == [0, 1]
        assert sorted(began) == list(range(6))

    run(main())


def test_a_call_cancelled_before_it_starts_does_not_run(run: Run[Any]) -> None:
    async def main() -> None:
        threads, gate, done = DaemonThreads("test", 1), threading.Event(), list[str]()
        first = asyncio.create_task(threads.run(gate.wait))
        second = asyncio.create_task(threads.run(done.append, "second"))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.sleep(0)
        gate.set()
        await first
        await threads.run(done.append, "third")
        assert done == ["third"]

    run(main())


def test_a_hanging_call_blocks_neither_the_end_of_the_loop_nor_of_the_process() -> None:
    program = """if True:
        import asyncio, threading
        from grapevine_proto.runtime.daemon_threads import DaemonThreads
        async def main():
            hanging = asyncio.create_task(DaemonThreads("test", 1).run(threading.Event().wait))
            await asyncio.sleep(0)
            hanging.cancel()
        asyncio.run(main())
        print("ended")
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=30)
    assert done.stdout.strip() == b"ended"
    assert done.stderr == b""


def test_no_thread_remains_without_work(run: Run[Any]) -> None:
    async def main() -> None:
        threads = DaemonThreads("short-lived", 3)
        await asyncio.gather(*(threads.run(divmod, 7, 2) for _ in range(10)))
        for each in threading.enumerate():
            if each.name == "short-lived":
                each.join()

    run(main())
