"""The demo joins a simulated cluster in real time, keeps a history, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path

import pytest

from grapevine_proto.events import PeerInfo
from grapevine_proto.ids import Address
from grapevine_tui.config.settings import load_settings
from grapevine_tui.demo.cluster import DEMO_NODES
from grapevine_tui.demo.demo import Demo

WAIT_S = 20.0


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(**flags: str) -> Demo:
    return Demo(load_settings({"app.demo": True, **flags}, {}).with_keys(), seed=1)


def connected_peers(demo: Demo) -> list[PeerInfo]:
    return [each for each in demo.host.model.peers.values() if each.state.is_connected]


@pytest.mark.asyncio
async def test_the_node_joins_the_demo_hears_messages_and_leaves_nothing_behind(
    directory: Path,
) -> None:
    demo = made()
    await demo.start()
    await demo.host.start()
    try:
        assert len(os.listdir(directory)) == 1, "the history"
        async with asyncio.timeout(WAIT_S):
            while (
                len(demo.host.model.members) < len(DEMO_NODES)
                or not demo.host.model.messages
                or len({each.zone for each in connected_peers(demo)}) < 2
            ):
                await asyncio.sleep(0.1)
                demo.host.refresh()
            found = await demo.host.search_history("")
            assert found["messages"] or demo.host.model.messages.end == 0
        assert demo.caption.name in ("overview", "deploying")
    finally:
        await demo.host.leave(0.5)
        await demo.stop()
    assert os.listdir(directory) == []


@pytest.mark.asyncio
async def test_a_demo_that_never_ran_can_be_stopped(directory: Path) -> None:
    demo = made(**{"app.history": "off"})
    await demo.stop()
    await demo.start()
    await demo.stop()
    await demo.stop()
    assert os.listdir(directory) == []


@pytest.mark.parametrize(
    ("zone", "host"), [("us-east", "10.3.0.1"), ("", "10.1.0.1"), ("mars", "10.1.0.1")]
)
@pytest.mark.asyncio
async def test_the_node_is_in_the_zone_that_it_was_given(
    zone: str, host: str, directory: Path
) -> None:
    demo = made(**{"app.history": "off"} | ({"zone": zone} if zone else {}))
    await demo.host.start()
    try:
        assert demo.host.node.address == Address(host, 8000)
        assert demo.host.config.zone == (zone or "eu-west")
        assert demo.host.config.name == "ams-1"
    finally:
        await demo.host.leave(0.1)
        await demo.stop()
