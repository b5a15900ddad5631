"""Makes the screenshots in screenshots/: ``python -m tests.tui.make_screenshots [DIRECTORY] [NAME ...]``.

It runs the demo and waits until its story shows what a picture is to show; the trace over 100 members has a
larger simulated cluster, and the contexts of the fleet are made up. Time is virtual. With names, only the
pictures of those names are written.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from textual.pilot import Pilot

from grapevine_proto import node as node_module
from grapevine_proto.config.node import NodeConfig
from grapevine_proto.events import MemberStatus, RoundOutcome
from grapevine_proto.ids import Address
from grapevine_proto.sim import Simulation
from grapevine_proto.sim.builtin_answers import answer_builtin_queries
from grapevine_proto.sim.fast_start import regular_overlay
from grapevine_proto.sim.live import LiveSimulation
from grapevine_tui.app.app import GrapevineApp
from grapevine_tui.app.fleet import FleetApp
from grapevine_tui.app.replay import ReplayApp
from grapevine_tui.app.screens.network import NetworkScreen
from grapevine_tui.config.alert_rules import parse_alerts
from grapevine_tui.config.highlights import parse_highlights
from grapevine_tui.config.settings import Settings, load_settings
from grapevine_tui.demo.cluster import ZONES, network
from grapevine_tui.demo.demo import Demo
from grapevine_tui.history.database import HISTORY_FILE
from grapevine_tui.host.local import Host
from grapevine_tui.host.model import Model
from grapevine_tui.remote.history_tape import HistoryTape
from grapevine_tui.remote.replay import ReplayClock, ReplayHost
from grapevine_tui.service.alerts import alert_monitor
from tests.sources import ROOT
from tests.tui.fake_host import FakeSettings
from tests.tui.made_up_fleet import a_fleet
from tests.virtual_time import run_in_virtual_time

DIRECTORY: Final = ROOT / "screenshots"
DARK, LIGHT = "grapevine", "grapevine-light"
PATIENCE_S: Final = 400.0  # for a moment of the story
SETTLE_S: Final = 0.8  # until a screen is painted
REAL_SHARE: Final = 0.05  # of the story: lets the history, a thread, keep pace
MAX_REPAIR_WAIT_S: Final = 4.0
CROWD: Final = 99  # simulated members of the large cluster,
CROWD_LINKS: Final = 6  # with so many links each,
CROWD_DOWN: Final = (17, 33, 40, 45, 58, 62, 77, 91)  # of which these have just crashed
CROWD_MAX_PEERS: Final = 8
SITES: Final = {
    "eu-west": ("ams", "lon"),
    "eu-central": ("fra", "ber"),
    "us-east": ("nyc", "iad"),
    "ap-south": ("sin", "bom"),
}


class Shot(NamedTuple):
    """One picture: `keys` are pressed on the main screen, while `highlights` mark messages."""

    name: str
    keys: tuple[str, ...]
    size: tuple[int, int] = (120, 36)
    theme: str = DARK
    highlights: Mapping[str, str] = {}


ALERTS: Final = {
    "alone": "peers < 3 for 10s",
    "member-down": "down > 0 for 1s",
    "slow": "peer.rtt > 400ms for 30s",
    "loss": "peer.loss > 20% for 10s",
    "quiet": "no message topic:deploy.> for 10m",
    "lag": "lag > 500ms",
}
HIGHLIGHTS: Final = {
    "failed": "style:bad failed|timeout",
    "latency": "style:warn latency|offset",
    "jobs": "style:dim /^{.job/",
    "deploys": "topic:deploy.>",
    "done": "style:good done",
}
# What is shown at which moment of the story: the name of a caption.
MOMENTS: Final[dict[str, tuple[Shot, ...]]] = {
    "deployed": (
        Shot("main", ()),
        Shot("light", (), theme=LIGHT),
        Shot("highlights", ("z",), (120, 24), highlights=HIGHLIGHTS),
        Shot("zones", ("O",), (160, 26)),
        Shot("matrix", ("X",), (150, 36)),
        Shot("80x24", (), (80, 24)),
        Shot("40x12", (), (40, 12)),
        Shot("filter", ("slash", *"topic:deploy.>")),
        Shot("find", ("z", "ctrl+f", *"/deploy .* 2/", "enter", "b"), (120, 24)),
        Shot("members", ("m",)),
    ),
    "down": (
        Shot("down", ("1",)),
        Shot("alerts", ("exclamation_mark",), (120, 14)),
    ),
    "back": (Shot("repair", ("4",), (140, 34)),),
    "throttled": (Shot("limits", ("3",)),),
    "calm": (
        Shot("history", ("H", "slash", *"deploy", "enter"), (120, 20)),
        Shot("events", ("E",)),
        Shot("traffic", ("T",)),
        Shot("peer", ("1", "down", "enter")),
        Shot("settings", ("C", "down", "down", "down", "down")),
        Shot("help", ("question_mark",)),
    ),
}
TRACE_SHOTS: Final = (
    Shot("trace", ("t",), (120, 26)),
    Shot("trace-light", ("t",), (120, 26), LIGHT),
)
REPLAY_SHOT: Final = Shot("replay", ("1",))
REPLAYED_BEFORE_END_S: Final = 30.0
FLEET_SHOT: Final = Shot("fleet", (), (120, 11))

Save = Callable[[GrapevineApp, Pilot[None], Shot], Awaitable[None]]


def save_to(directory: Path, names: frozenset[str]) -> Save:
    """Return what takes a picture, if it is one of `names` or there are none."""

    async def save(app: GrapevineApp, pilot: Pilot[None], shot: Shot) -> None:
        if names and shot.name not in names:
            return
        app.theme = shot.theme
        app.highlighter.replace(parse_highlights(shot.highlights))
        await pilot.resize_terminal(*shot.size)
        await pilot.press(
            "escape", "2", "G", *shot.keys
        )  # a find may have left the newest messages
        await pilot.pause(SETTLE_S)
        if isinstance(screen := app.screen, NetworkScreen):
            await wait_until(pilot, lambda: not screen.is_asking)
            await pilot.pause(SETTLE_S)
        svg = app.export_screenshot(title="grapevine")
        (directory / f"{shot.name}.svg").write_text(svg, encoding="utf-8")
        if app.screen is not app.main:
            await pilot.press("escape")
            await pilot.pause()
        while app.screen is not app.main:
            app.pop_screen()
        await pilot.press("escape", "escape")

    return save


async def wait_until(pilot: Pilot[None], condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await pilot.pause(0.1)


def demo_settings() -> Settings:
    return load_settings({"app.demo": True}, {}).with_keys()


async def draw_story(save: Save) -> None:
    """The demo, at the moments of its story, and its past at the end."""
    settings = demo_settings()
    demo = Demo(settings, wall_clock=time.time)
    app = GrapevineApp(demo.host, settings, demo=demo)
    async with alert_monitor(demo.host), app.run_test(size=(120, 36)) as pilot:
        await demo.host.started.wait()
        demo.host.alert_book.set_rules(parse_alerts(ALERTS), demo.host.node.now())
        for moment, shots in MOMENTS.items():
            if moment == "back":
                await repair(demo.host, pilot)
            await wait_until(pilot, partial(is_shown, demo, moment))
            if moment != "back":
                await pilot.pause(1.5)
            for shot in shots:
                await save(app, pilot, shot)
        await draw_past(save, demo.cluster.history_dir())
        await pilot.press("escape", "q")


def is_shown(demo: Demo, caption: str) -> bool:
    return demo.caption.name == caption


async def repair(host: Host, pilot: Pilot[None]) -> None:
    """Wait until the node that was down returns, and compare with it before it has caught up."""
    since = host.model.wall_now()
    await wait_until(
        pilot,
        lambda: not any(each.status is MemberStatus.DOWN for each in host.model.members.values()),
    )

    def is_done() -> bool:
        return any(
            each.round.outcome is RoundOutcome.REPAIRED and each.at_unix > since
            for each in host.model.rounds
        )

    with suppress(TimeoutError):
        async with asyncio.timeout(MAX_REPAIR_WAIT_S):
            while not is_done():
                await host.start_round()
                await pilot.pause(0.1)


async def draw_past(save: Save, state_dir: Path) -> None:
    """The same node, half a minute ago."""
    clock = ReplayClock()
    tape = HistoryTape(state_dir / HISTORY_FILE)
    host = ReplayHost(tape, Model(wall_clock=clock), clock)
    await host.start()
    host.go_to(tape.end - REPLAYED_BEFORE_END_S)
    host.toggle()
    app = ReplayApp(host, FakeSettings(node=host.config))
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.pause(SETTLE_S)
        await save(app, pilot, REPLAY_SHOT)
    await host.leave(0.0)


async def draw_trace(save: Save) -> None:
    """A trace over 100 members, some of which have just crashed."""
    settings = demo_settings()
    config = NodeConfig.local(
        keys=settings.node.keys, cluster=settings.node.cluster, max_peers=CROWD_MAX_PEERS
    )
    simulation = Simulation(nodes=0, config=config, seed=1, network=network(), hash_trace=False)
    answer_builtin_queries(simulation)
    for number in range(CROWD):
        zone = ZONES[number % len(ZONES)]
        site = SITES[zone][number // len(ZONES) % 2]
        name = f"{site}-{number // len(ZONES) // 2 + 1}"
        simulation.add(bootstrap=0, name=name, zone=zone)
    neighbors = regular_overlay(CROWD, CROWD_LINKS, random.Random(1))
    simulation.link((one, other) for one in range(CROWD) for other in neighbors[one] if other > one)
    live = LiveSimulation(simulation)
    host = Host(
        settings.node.replace(bootstrap_peers=[str(each.address) for each in simulation.nodes[:6]]),
        None,
        settings=replace(settings, history="off"),
        open_socket=live.socket_opener(Address("10.1.0.1", 8000), zone=ZONES[0]),
    )
    app = GrapevineApp(host, settings)
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.pause(1.0)
        live.start()
        await wait_until(pilot, lambda: len(host.model.members) == CROWD)
        await pilot.pause(3.0)
        for number in CROWD_DOWN:
            simulation.crash(number)
        await host.trace(b"who has the new build?")
        await pilot.pause(2.0)
        for shot in TRACE_SHOTS:
            await save(app, pilot, shot)
        await pilot.press("escape", "q")
    await live.stop()


async def draw_fleet(directory: Path) -> None:
    """A table of contexts in every state."""
    app = FleetApp(a_fleet(time.time()), demo_settings())
    async with app.run_test(size=FLEET_SHOT.size) as pilot:
        app.theme = FLEET_SHOT.theme
        await pilot.pause(SETTLE_S)
        svg = app.export_screenshot(title="grapevine")
        (directory / f"{FLEET_SHOT.name}.svg").write_text(svg, encoding="utf-8")


def main(arguments: list[str]) -> None:
    groups = (*MOMENTS.values(), TRACE_SHOTS, (REPLAY_SHOT, FLEET_SHOT))
    known = {shot.name for shots in groups for shot in shots}
    directories = [Path(each) for each in arguments if each not in known]
    directory = directories[0] if directories else DIRECTORY
    directory.mkdir(parents=True, exist_ok=True)
    names = frozenset(arguments) & known
    trace_names = {shot.name for shot in TRACE_SHOTS}
    save = save_to(directory, names)
    if not names or FLEET_SHOT.name in names:
        asyncio.run(draw_fleet(directory))
    if not names or names & trace_names:
        run_in_virtual_time(in_time_of_loop(draw_trace(save)))
    if not names or names - trace_names - {FLEET_SHOT.name}:
        run_in_virtual_time(in_time_of_loop(draw_story(save)), real_share=REAL_SHARE)


async def in_time_of_loop(main: Coroutine[Any, Any, None]) -> None:
    """A busy machine would be measured as a slow network, and ages would be those of another clock."""
    loop, real_time = asyncio.get_running_loop(), time.time
    offset_s = real_time() - loop.time()
    setattr(node_module, "clock", loop.time)  # noqa: B010
    setattr(time, "time", lambda: loop.time() + offset_s)  # noqa: B010
    try:
        await main
    finally:
        setattr(time, "time", real_time)  # noqa: B010


if __name__ == "__main__":
    main(sys.argv[1:])
