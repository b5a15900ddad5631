"""The demo's story in virtual time: every scene is played, and every caption is true when it is shown."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Final

import pytest

from grapevine_proto import node as node_module
from grapevine_proto.events import MemberStatus, PeerInfo, Via
from grapevine_tui.config.settings import load_settings
from grapevine_tui.demo.cluster import DEMO_NODES, HOME_RTT_MS, HOME_ZONE, LATENCIES_MS
from grapevine_tui.demo.demo import Demo
from grapevine_tui.host.protocol import Caption
from grapevine_tui.text import cells
from tests.virtual_time import run_in_virtual_time

STEP_S: Final = 0.5  # of the app between two refreshes
STORY_S: Final = 240.0  # twice as long as it takes
TOLERANCE: Final = 1  # counts of the screen are up to half a second old
MAX_TEXT_CELLS: Final = 73  # so that it fits 80 columns,
MAX_CELLS: Final = 108  # and with its key a line of 120
SCENES: Final = ("welcome", "deploy", "loss", "stall", "burst", "calm")
CAPTIONS: Final = frozenset(
    (
        *("overview", "deploying", "deployed", "losing", "repaired", "suspect"),
        *("down", "back", "throttled", "calm"),
    )
)


class Truth:
    """Says what is so from the engines of the cluster, not from what the screen shows."""

    def __init__(self, demo: Demo) -> None:
        self._demo = demo
        self._engine = demo.host.node._engine
        self._cluster = demo.cluster
        self.repaired_by_name: dict[str, int] = {}

    def holds(self, caption: Caption) -> bool:
        claim: Callable[[str], bool] = getattr(self, f"_{caption.name}")
        return claim(caption.text)

    def _status_of(self, name: str) -> MemberStatus:
        members = self._engine.members(self._demo.host.node.now())
        return next(each.status for each in members if each.name == name)

    def _peer(self, name: str) -> PeerInfo:
        return next(each for each in self._demo.host.node.peers() if each.name == name)

    def _joining(self, text: str) -> bool:
        return len(self._engine.members(self._demo.host.node.now())) <= len(DEMO_NODES)

    def _alone(self, text: str) -> bool:
        return not any(
            each.rtt_s for each in self._demo.host.node.peers() if each.state.is_connected
        )

    def _overview(self, text: str) -> bool:
        peers, zones, low, high = map(int, re.findall(r"\d+", text)[:4])
        up = [each for each in self._demo.host.node.peers() if each.state.is_connected]
        rtts = sorted(self._true_rtt_ms(each.zone) for each in up)
        return (
            (peers, zones) == (len(up), len({each.zone for each in up}))
            and abs(low - rtts[0]) <= 2
            and abs(high - rtts[-1]) <= 8
        )

    def _true_rtt_ms(self, zone: str) -> float:
        return HOME_RTT_MS if zone == HOME_ZONE else LATENCIES_MS[HOME_ZONE, zone]

    def _deploying(self, text: str) -> bool:
        version = re.findall(r"api ([\d.]+):", text)[0]
        shown, steps = map(int, re.findall(r"(\d+) of its (\d+)", text)[0])
        sent = sum(
            f"deploy api {version}".encode() in entry.message.payload
            for entry in self._demo.host.model.messages.newest_first()
        )
        return 0 < shown <= sent <= shown + TOLERANCE and shown < steps

    def _deployed(self, text: str) -> bool:
        updated, version = re.findall(r"(\d+) members run api ([\d.]+)", text)[0]
        tagged = [
            each
            for each in self._engine.members(self._demo.host.node.now())
            if each.tags.get("version") == version
        ]
        return 0 < int(updated) <= len(tagged)

    def _losing(self, text: str) -> bool:
        name, loss, lost = re.findall(r"(\S+) loses (\d+)% of its packets: (\d+)", text)[0]
        peer = self._peer(name)
        losses = self._cluster.simulation._network_model._losses
        return (
            losses.get(self._cluster.number_of(name)) == int(loss) / 100
            and 0 < int(lost) <= peer.lost
        )

    def _repaired(self, text: str) -> bool:
        name, count = re.findall(r"(\S+) missed .* got (\d+) of them", text)[0]
        deliveries = self._cluster.node(name).deliveries.values()
        return 0 < int(count) <= sum(each.via is Via.REPAIR for each in deliveries)

    def _suspect(self, text: str) -> bool:
        name = text.split()[0]
        return self._status_of(name) is MemberStatus.SUSPECT and not self._cluster.is_up(name)

    def _down(self, text: str) -> bool:
        return self._status_of(text.split()[0]) is MemberStatus.DOWN

    def _back(self, text: str) -> bool:
        name = text.split()[0]
        repaired = re.findall(r"got (\d+) missed", text)
        deliveries = self._cluster.node(name).deliveries.values()
        return (
            self._status_of(name) is MemberStatus.UP
            and self._cluster.is_up(name)
            and (not repaired or int(repaired[0]) <= sum(e.via is Via.REPAIR for e in deliveries))
        )

    def _throttled(self, text: str) -> bool:
        name, count = re.findall(r"(\S+) sent more .*: (\d+) messages dropped", text)[0]
        return 0 < int(count) <= self._peer(name).throttled

    def _calm(self, text: str) -> bool:
        members = self._engine.members(self._demo.host.node.now())
        return len(members) == int(re.findall(r"all (\d+)", text)[0]) and all(
            each.status is MemberStatus.UP for each in members
        )


async def tell_the_story(seed: int) -> tuple[set[str], set[str]]:
    """Plays until calm returns; returns the scenes and captions seen. Fails if a caption is untrue."""
    loop = asyncio.get_running_loop()
    settings = load_settings({"app.demo": True, "app.history": "off"}, {}).with_keys()
    demo = Demo(settings, seed=seed, wall_clock=loop.time)
    await demo.start()
    await demo.host.start()
    truth = Truth(demo)
    scenes, captions = set[str](), set[str]()
    started_at = loop.time()
    try:
        while "calm" not in captions or demo.story.scene != "deploy":
            assert loop.time() - started_at < STORY_S, f"still in {demo.story.scene}: {captions}"
            await asyncio.sleep(STEP_S)
            demo.host.refresh()
            caption = demo.caption
            scenes.add(demo.story.scene)
            captions.add(caption.name)
            assert truth.holds(caption), f"{loop.time() - started_at:.1f} s: not so: {caption.text}"
            assert cells(caption.text) <= MAX_TEXT_CELLS, caption.text
            assert cells(caption.text + caption.hint) <= MAX_CELLS, caption
    finally:
        await demo.host.leave(0.5)
        await demo.stop()
    return scenes, captions


def test_the_story_is_played_to_its_end_and_every_caption_is_true(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def tell() -> tuple[set[str], set[str]]:
        monkeypatch.setattr(node_module, "clock", asyncio.get_running_loop().time)
        return await tell_the_story(seed=1)

    scenes, captions = run_in_virtual_time(tell())
    assert scenes == set(SCENES)
    assert captions >= CAPTIONS
