"""Textual's tasks run on every event loop that the application may choose."""

from __future__ import annotations

import asyncio
import sys

import pytest

from grapevine_tui.event_loop import new_runner, supports_eager_start


def test_eager_tasks_as_textual_makes_them_run_on_it() -> None:
    async def nothing() -> str:
        return "done"

    async def main() -> str:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(getattr(asyncio, "eager_task_factory", None))  # from Python 3.12 on
        return await loop.create_task(nothing(), name="one")

    with new_runner() as runner:
        assert runner.run(main()) == "done"


@pytest.mark.skipif(sys.platform == "win32", reason="there is no uvloop")
def test_it_is_uvloop_where_that_works() -> None:
    with new_runner() as runner:
        is_uvloop = type(runner.get_loop()).__module__.startswith("uvloop")
    assert is_uvloop == supports_eager_start()
