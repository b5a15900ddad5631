"""What all tests share: hypothesis without a clock, loops to run nodes in, messages distinguished by type."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import settings

from grapevine_proto import compiled
from tests import message_equality  # noqa: F401

T = TypeVar("T")
Run = Callable[[Coroutine[Any, Any, T]], T]

TEST_TIMEOUT_S = 30.0  # nothing takes so long; a test that waits for ever should say where

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell ignores it for what it runs in the background, and every process that a test starts would too.
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("grapevine", deadline=None)  # a loaded machine is not a failure
# For `tests.mutation`: the same few examples in each run.
settings.register_profile("mutation", deadline=None, max_examples=20, derandomize=True)
settings.load_profile(os.environ.get("GRAPEVINE_HYPOTHESIS", "grapevine"))


@pytest.fixture
def patch_sources(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A monkeypatch for methods and constants of the core, for faults that no argument can cause. Compiled
    modules call each other directly, so such a test is about the sources alone."""
    if compiled == "yes":
        pytest.skip("replaces a part of the core, which is compiled here")
    return monkeypatch


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run[Any]:
    """Run a coroutine to its end, in a fresh loop of each kind."""
    factory = asyncio.new_event_loop
    if request.param == "uvloop":
        factory = pytest.importorskip("uvloop").new_event_loop

    def run_in_loop(main: Coroutine[Any, Any, T]) -> T:
        async def bounded() -> T:
            async with asyncio.timeout(TEST_TIMEOUT_S):
                return await main

        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(bounded())

    return run_in_loop
