"""The app over real nodes on the loopback interface: from keyboard to keyboard."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from textual.pilot import Pilot

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.crypto.cluster_key import ClusterKey
from grapevine_proto.errors import BindError
from grapevine_proto.events import PeerState
from grapevine_tui.app.app import GrapevineApp
from grapevine_tui.config.settings import load_settings
from grapevine_tui.demo import story
from grapevine_tui.demo.demo import Demo
from grapevine_tui.host.local import Host
from tests.tui.fake_host import FakeSettings
from tests.tui.stage import lines_of, text_of

pytestmark = pytest.mark.asyncio

KEY = ClusterKey.generate()
TIMEOUT_S = 20.0  # only reached by a hang


def a_config(name: str, *peers: str) -> NodeConfig:
    return NodeConfig.local(
        name=name, keys=[KEY], bootstrap_peers=peers, gossip_interval=0.2, peer_timeout=1.5
    )


async def until(pilot: Pilot[None], is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while not is_so():
            await pilot.pause(0.05)


@asynccontextmanager
async def an_app(name: str, *peers: str) -> AsyncIterator[tuple[GrapevineApp, Pilot[None], Host]]:
    config = a_config(name, *peers)
    host = Host(config, None)
    app = GrapevineApp(host, FakeSettings(node=config))
    async with app.run_test(size=(120, 36), notifications=True) as pilot:
        await until(pilot, lambda: host.model.local_node is not None)
        yield app, pilot, host


@asynccontextmanager
async def a_host(name: str, *peers: str) -> AsyncIterator[Host]:
    host = Host(a_config(name, *peers), None)
    await host.start()
    try:
        yield host
    finally:
        await host.leave(1.0)


async def test_a_typed_message_arrives_and_a_departure_is_seen_at_once() -> None:
    async with a_host("bob") as bob, an_app("ams-1", str(bob.node.address)) as (app, pilot, _):
        await until(pilot, lambda: "● up      bob" in text_of(app))
        await pilot.press("i", *"hello bob", "enter")
        await until(pilot, lambda: bob.model.messages.end > 0)
        entry = bob.model.messages.get(0)
        assert entry is not None
        assert entry.message.payload == b"hello bob"
        assert bob.model.name_of(entry.message.origin) == "ams-1"
        await until(pilot, lambda: "you       sent" in text_of(app))
        await bob.broadcast(b"hello \x1b[2Jyourself")
        await until(pilot, lambda: "hello ␛[2Jyourself" in text_of(app))
        await pilot.press(*"/send bob only for you", "enter")
        await until(pilot, lambda: bob.model.messages.end > 1)
        direct = bob.model.messages.get(bob.model.messages.end - 1)
        assert direct is not None
        assert direct.message.is_direct
        await bob.leave(1.0)
        await until(pilot, lambda: "● up      bob" not in text_of(app))


async def test_an_address_that_does_not_answer_is_reported() -> None:
    async with an_app("ams-1") as (app, pilot, host):
        silent = host.config.replace(connection_timeout=0.2)
        host.reconfigure(silent)
        await pilot.press("escape", "c", *"127.0.0.1:9", "enter")
        await until(pilot, lambda: "no answer from 127.0.0.1:9: down" in text_of(app))
        await pilot.press("escape", "c", *"nonsense", "enter")
        await until(pilot, lambda: "expected host:port, got 'nonsense'" in text_of(app))


async def test_a_round_can_be_asked_for_and_is_seen() -> None:
    async with a_host("bob") as bob, an_app("ams-1", str(bob.node.address)) as (app, pilot, _):
        await until(pilot, lambda: "● up      bob" in text_of(app))
        await pilot.press("escape", "A")
        await until(pilot, lambda: "= in sync" in text_of(app))


async def test_quitting_notifies_the_peers_and_stops_the_node() -> None:
    async with a_host("bob") as bob:
        async with an_app("ams-1", str(bob.node.address)) as (app, pilot, host):
            await until(pilot, lambda: "● up      bob" in text_of(app))
            await pilot.press("escape", "q", "enter")
            await until(pilot, lambda: not app.is_running)
        assert app.return_code == 0
        bob.refresh()
        assert all(peer.state is not PeerState.CONNECTED for peer in bob.model.peers.values())
        assert host.model.stop_reason == "left"


async def test_a_busy_port_ends_the_app_with_the_nodes_own_error() -> None:
    async with a_host("bob") as bob:
        config = a_config("ams-1").replace(bind=str(bob.node.address))
        app = GrapevineApp(Host(config, None), FakeSettings(node=config))
        async with app.run_test() as pilot:
            await until(pilot, lambda: not app.is_running)
        assert isinstance(app.failure, BindError)


async def test_the_demo_fills_every_panel_and_says_what_one_sees(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(story, "WELCOME_S", 1_000.0)
    settings = load_settings({"app.demo": True, "app.history": "off"}, {}).with_keys()
    settings = replace(settings, keys={"topology": "f5"})
    demo = Demo(settings)
    host = demo.host
    app = GrapevineApp(host, settings, demo=demo)
    async with app.run_test(size=(120, 36)) as pilot:
        await until(pilot, lambda: demo.caption.name == "overview")
        await pilot.press("A")
        await until(
            pilot,
            lambda: (
                demo.caption.name == "overview"
                and host.model.messages.end > 0
                and len(app.main.rates.rows) > 4
                and len(app.main.rounds.rows) > 0
                and len(host.model.traffic.in_per_s) > 0
            ),
        )
        await until(pilot, lambda: " zones, " in lines_of(app)[1])
        assert "f5 draws zones and links" in lines_of(app)[1], "the key that the settings name"
        await pilot.resize_terminal(80, 24)
        await until(pilot, lambda: "f5 draws zones" in lines_of(app)[2])
        await pilot.resize_terminal(40, 12)
        await until(pilot, lambda: "peers in" not in lines_of(app)[1])
        await pilot.press("escape", "q")
        await until(pilot, lambda: not app.is_running)
    assert app.return_code == 0
