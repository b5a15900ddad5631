"""Runs the demo's cluster and its story beside a host.

Invariants: it leaves nothing behind. Driven by the app: `start` before the host, `stop` after it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Final

from grapevine_tui.config.settings import Settings
from grapevine_tui.demo.cluster import DemoCluster
from grapevine_tui.demo.story import Story
from grapevine_tui.host.local import Host
from grapevine_tui.host.model import Model
from grapevine_tui.host.protocol import Caption

TURN_S: Final = 0.01
CALM_TURNS: Final = 5
MAX_START_DELAY_S: Final = 1.0


class Demo:
    """The simulated members of a cluster, what they do, and `host`, which joins them."""

    def __init__(
        self,
        settings: Settings,
        *,
        seed: int | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.cluster = DemoCluster(settings.node, seed=seed)
        self.host = Host(
            settings.node.replace(bootstrap_peers=self.cluster.bootstrap_peers),
            None,
            settings=settings,
            model=Model(max_messages=settings.messages, wall_clock=wall_clock),
            history_dir=None if settings.history == "off" else self.cluster.history_dir(),
            open_socket=self.cluster.socket_opener(),
        )
        self.story = Story(self.cluster, self.host.model, rng=random.Random(seed))  # no secrets
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def caption(self) -> Caption:
        """What one sees now, and the key that shows more."""
        return self.story.caption()

    async def start(self) -> None:
        """Start the members and their story, once the app has painted its first screens: a busy event loop
        would be measured as a slow network."""
        await _wait_for_calm_loop()
        self.cluster.start()
        self._tasks = [
            asyncio.create_task(self._tell(), name="demo story"),
            asyncio.create_task(self.story.chat(), name="demo messages"),
        ]

    async def _tell(self) -> None:
        await self.host.started.wait()
        await self.story.run()

    async def stop(self) -> None:
        """Stop all members and remove what was kept."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        await self.cluster.close()


async def _wait_for_calm_loop() -> None:
    """Wait until the event loop keeps its timers, `MAX_START_DELAY_S` at most."""
    loop = asyncio.get_running_loop()
    started_at = loop.time()
    calm_turns = 0
    while calm_turns < CALM_TURNS and loop.time() - started_at < MAX_START_DELAY_S:
        turn_at = loop.time()
        await asyncio.sleep(TURN_S)
        calm_turns = calm_turns + 1 if loop.time() - turn_at < 2 * TURN_S else 0
