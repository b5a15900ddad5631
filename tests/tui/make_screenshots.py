"""Makes the pictures in screenshots/: ``python -m tests.tui.make_screenshots [--fake] [FOLDER]``.

Real nodes that talk to each other on loopback, an operator who looks at them, and Textual's own
export of the screen; `--fake` draws a made-up cluster instead, for looking at the layout alone.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from textual.pilot import Pilot

from grapevine_proto.events import (
    AntiEntropyRound,
    MessageReceived,
    PeerState,
    RateLimited,
    RoundOutcome,
    Via,
)
from grapevine_proto.ids import Address
from grapevine_tui.app import GrapevineApp
from grapevine_tui.demo import Demo
from grapevine_tui.host import Host
from grapevine_tui.settings import load
from tests.tui.fake_host import FakeHost, FakeSettings
from tests.tui.values import a_message, a_peer, a_round

FOLDER = Path(__file__).parents[2] / "screenshots"
LIVE_S = 40.0  # time for rounds of repair, and for one neighbour to be too loud
CALM_S = 0.03
NAMES = ("bob", "carol", "dave", "erin", "frank", "日本語", "heidi")
WORDS = (
    "deploy of api finished", "disk 91 % on db-3", "thanks, looking", "cache warm again, 2,114 keys",
    "Grüße aus Köln 🎉", "rolling restart of web-1..web-8 begins", "backup done in 4m12s, 81 GB",
    "anyone else sees 502 from the edge?", "p99 back under 40 ms", "ticket 4211 is mine",
)  # fmt: skip


def fill(host: FakeHost, seconds: int = 120) -> None:
    """A lively cluster of seven, some of them in trouble."""
    rng = random.Random(7)
    states = [PeerState.CONNECTED] * 5 + [PeerState.STALE, PeerState.DISCONNECTED]
    stats = host.stats
    for second in range(seconds):
        host.node.time = 100.0 + second
        host.peers = [
            a_peer(
                0x1C3A5E77 * (number + 1) % 2**32,
                name,
                address=Address(f"10.0.{number // 2}.{4 + 3 * number}", 8000),
                state=states[number],
                zone=("eu-west", "us-east", "ap-south")[number % 3],
                rtt=(0.0012, 0.081, 0.012, 0.0009, 0.33, None, None)[number],
                health=(0.98, 0.95, 1.0, 0.72, 0.88, 0.41, 0.0)[number],
                tokens=(72.0, 9.0, 99.0, 48.0, 100.0, 100.0, 100.0)[number],
                throttled=214 if name == "carol" else 0,
                received=second * (41, 12, 9, 3, 7, 0, 0)[number],
            )
            for number, name in enumerate(NAMES)
        ]
        wave = 1 + 0.8 * ((second % 40) / 40) + rng.random() * 0.4
        stats = replace(
            stats,
            datagrams_in=stats.datagrams_in + int(412 * wave),
            datagrams_out=stats.datagrams_out + int(700 * wave * rng.random()),
            bytes_in=stats.bytes_in + int(81_000 * wave),
            bytes_out=stats.bytes_out + int(120_000 * wave),
            delivered=stats.delivered + 40,
            duplicates=stats.duplicates + 12,
            repaired=18,
            lost=2,
            held=1204,
            next_round_at=host.node.time + 12,
        )
        host.stats = stats
        host.refresh()
    ids = [peer.peer_id for peer in host.peers]
    for sequence in range(1, 60):
        message = a_message(1, sequence, rng.choice(WORDS).encode())
        via = Via.REPAIR if sequence % 7 == 0 else Via.EAGER
        message = message._replace(
            id=message.id._replace(origin=rng.choice(ids)),
            via=via,
            hops=rng.randint(1, 4),
        )
        host.happen(MessageReceived(message))
    for number in range(378, 382):
        for place, peer_id in enumerate(ids[:3]):
            done = replace(a_round(number, 1), peer=peer_id, bytes=61 + 6000 * (place == 1))
            if place == 1:
                done = replace(
                    done, in_sync=False, received=4, outcome=RoundOutcome.REPAIRED, duration=0.088
                )
            if place == 2 and number % 2:
                done = replace(done, in_sync=False, outcome=RoundOutcome.NO_ANSWER, bytes=0)
            host.happen(AntiEntropyRound(done))
    host.happen(RateLimited(ids[1], 214, 0.0))


Act = Callable[[Pilot[None]], Awaitable[None]]


async def type_something(pilot: Pilot[None]) -> None:
    await pilot.press("escape", "i", *"thanks, looking")


async def open_peer(pilot: Pilot[None]) -> None:
    await pilot.press("escape", "1", "down", "enter")
    await pilot.pause(0.6)


async def open_help(pilot: Pilot[None]) -> None:
    await pilot.press("escape", "question_mark")
    await pilot.pause(0.6)


async def look(pilot: Pilot[None]) -> None:
    await pilot.press("escape", "2")


async def open_members(pilot: Pilot[None]) -> None:
    await pilot.press("escape", "m")
    await pilot.pause(0.6)


async def open_traffic(pilot: Pilot[None]) -> None:
    await pilot.press("escape", "T")
    await pilot.pause(0.6)


async def open_trace(pilot: Pilot[None]) -> None:
    await pilot.press("escape", "i", *"/trace who has the new build?", "enter")
    await pilot.pause(1.5)


async def open_settings(pilot: Pilot[None]) -> None:
    await pilot.press("escape", "C")
    await pilot.pause(0.6)
    await pilot.press("down", "down", "down", "down")
    await pilot.pause(0.3)


async def sift(pilot: Pilot[None]) -> None:
    await pilot.press("escape", "2", "slash", *"zone:eu-west")
    await pilot.pause(0.3)


SHOTS: tuple[tuple[str, tuple[int, int], str, Act], ...] = (
    ("main", (120, 36), "grapevine", type_something),
    ("light", (120, 36), "grapevine-light", look),
    ("peer", (120, 36), "grapevine", open_peer),
    ("members", (120, 36), "grapevine", open_members),
    ("traffic", (120, 36), "grapevine", open_traffic),
    ("trace", (120, 36), "grapevine", open_trace),
    ("trace-light", (120, 36), "grapevine-light", open_trace),
    ("settings", (120, 36), "grapevine", open_settings),
    ("filter", (120, 36), "grapevine", sift),
    ("help", (120, 36), "grapevine", open_help),
    ("80x24", (80, 24), "grapevine", look),
    ("40x12", (40, 12), "grapevine", look),
)


async def calm_down(host: Host | FakeHost, pilot: Pilot[None]) -> None:
    """Drawing the last picture held up the loop: wait until that is forgotten, where it ever is."""
    for _ in range(30):
        if host.node.lag_s < CALM_S:
            return
        await pilot.pause(0.5)


async def shoot(app: GrapevineApp, host: Host | FakeHost, pilot: Pilot[None], folder: Path) -> None:
    """All pictures of one running app."""
    for name, size, theme, act in SHOTS:
        app.theme = theme
        await pilot.resize_terminal(*size)
        await act(pilot)
        await pilot.pause(0.4)
        await calm_down(host, pilot)
        path = folder / f"{name}.svg"
        path.write_text(app.export_screenshot(title="grapevine"), encoding="utf-8")
        await pilot.press("escape")
        if app.screen is not app.main:
            app.pop_screen()
        app.main.compose_box.draft.fill("")


async def await_trouble(host: Host | FakeHost, pilot: Pilot[None]) -> None:
    """Wait until a neighbour has just been throttled, so that the picture shows what it is like."""
    for _ in range(120):
        latest = max(host.model.throttled_at.values(), default=0.0)
        if time.time() - latest < 1.0:
            return
        await pilot.pause(0.5)


async def draw(folder: Path, *, is_fake: bool) -> None:
    """Start a cluster, let it live for a while, take the pictures."""
    if is_fake:
        fake = FakeHost()
        fill(fake)
        host: Host | FakeHost = fake
        app = GrapevineApp(fake, FakeSettings())
    else:
        settings = load({"app.demo": True, "name": "ams-1", "zone": "eu-west"}, {}).with_keys()
        host = Host(settings.node, None)
        app = GrapevineApp(host, settings, demo=Demo(host))
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.pause(1.0 if is_fake else LIVE_S)
        if not is_fake:
            await await_trouble(host, pilot)
        await shoot(app, host, pilot, folder)


def main(arguments: list[str]) -> None:
    folders = [Path(each) for each in arguments if not each.startswith("-")]
    folder = folders[0] if folders else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    asyncio.run(draw(folder, is_fake="--fake" in arguments))


if __name__ == "__main__":
    main(sys.argv[1:])
