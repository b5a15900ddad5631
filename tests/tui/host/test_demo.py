"""The demo peers are real nodes: they broadcast, exceed the rate limit, and leave nothing behind."""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
from pathlib import Path

import pytest

from grapevine_proto.events import Event, MessageReceived, RateLimited
from grapevine_tui.config.settings import load_settings
from grapevine_tui.host import demo as demo_module
from grapevine_tui.host.demo import DEMO_NODES, Demo
from grapevine_tui.host.local import Host
from grapevine_tui.host.model import Changes

WAIT_S = 20.0


@pytest.fixture
def fast_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes the demo peers act sooner, and gives the test its own temporary directory."""
    monkeypatch.setattr(demo_module, "MESSAGE_INTERVAL_S", 0.2)
    monkeypatch.setattr(demo_module, "FIRST_BURST_DELAY_S", 0.5)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shown() -> Host:
    return Host(load_settings({"app.demo": True}, {}).with_keys().node, None)


@pytest.mark.asyncio
@pytest.mark.parametrize("is_host_first", [True, False])
async def test_the_demo_peers_join_send_get_throttled_and_leave(
    is_host_first: bool, fast_demo: Path
) -> None:
    host = shown()
    demo = Demo(host, rng=random.Random(1))
    received: set[str] = set()
    is_throttled, has_received = asyncio.Event(), asyncio.Event()

    def listen(event: Event, _: Changes) -> None:
        if isinstance(event, RateLimited):
            is_throttled.set()
        elif isinstance(event, MessageReceived):
            received.add(host.name_of(event.message.origin))
            if received >= {each.name for each in DEMO_NODES}:
                has_received.set()

    host.listen(listen)
    for each in (host, demo) if is_host_first else (demo, host):
        await each.start()
    try:
        async with asyncio.timeout(WAIT_S):
            await host.node.ready(len(DEMO_NODES))
            await is_throttled.wait()
            await has_received.wait()
    finally:
        await demo.stop()
        await host.leave(0.5)
    assert os.listdir(fast_demo) == []


@pytest.mark.asyncio
async def test_demo_peers_that_never_connected_can_be_stopped(fast_demo: Path) -> None:
    demo = Demo(shown())
    await demo.start()
    assert len(set(demo.addresses)) == len(DEMO_NODES)
    await demo.stop()
    await demo.stop()
    assert os.listdir(fast_demo) == []
