"""What an operator wants to know or do takes few keys, over real nodes, from the main screen as it opens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from textual.pilot import Pilot

from grapevine_proto.crypto.cluster_key import ClusterKey
from grapevine_proto.events import PeerState
from grapevine_tui.app.app import SHORT_DENY_S, GrapevineApp
from grapevine_tui.app.screens.node import NodeScreen
from grapevine_tui.config.settings import Settings, load_settings
from grapevine_tui.history.database import HISTORY_FILE
from grapevine_tui.host.local import Host
from tests.tui.history.conftest import Bookshelf
from tests.tui.stage import text_of
from tests.tui.values import an_id

pytestmark = pytest.mark.asyncio

KEY = ClusterKey.generate()
TIMEOUT_S = 30.0  # only reached by a hang
DAY_S = 86_400.0


def settings_of(name: str, state_dir: Path, *peers: str) -> Settings:
    edits = {"bind": "127.0.0.1:0", "app.state_dir": str(state_dir), "name": name}
    loaded = load_settings({}, {}, directory=state_dir, edits=edits)
    node = loaded.node.replace(keys=[KEY], bootstrap_peers=peers, gossip_interval=0.2)
    return replace(loaded, node=node)


class Operator:
    """Presses keys, counts them and reads the screen."""

    def __init__(
        self, app: GrapevineApp, pilot: Pilot[None], host: Host, others: dict[str, Host]
    ) -> None:
        self.app = app
        self.host = host
        self.others = others
        self.keys = 0
        self._pilot = pilot

    @property
    def screen(self) -> str:
        return text_of(self.app)

    async def press(self, *keys: str) -> None:
        self.keys += len(keys)
        await self._pilot.press(*keys)

    async def until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while not is_so():
                await self._pilot.pause(0.05)

    def state_of(self, name: str) -> PeerState:
        return self.host.model.peers[self.others[name].node.peer_id].state


@asynccontextmanager
async def an_operator(state_dir: Path, *names: str) -> AsyncIterator[Operator]:
    """The app at a node that is connected to one of each of `names`."""
    async with AsyncExitStack() as stack:
        others = {}
        for name in names:
            directory = state_dir / f"{name}-state"
            directory.mkdir()
            settings = settings_of(name, directory)
            host = others[name] = Host(settings.node, directory)
            await host.start()
            stack.push_async_callback(host.leave, 1.0)
        addresses = [str(each.node.address) for each in others.values()]
        directory = state_dir / "us"
        directory.mkdir(exist_ok=True)
        settings = settings_of("us", directory, *addresses)
        host = Host(settings.node, directory, settings=settings)
        app = GrapevineApp(host, settings)
        pilot = await stack.enter_async_context(app.run_test(size=(140, 40), notifications=True))
        operator = Operator(app, pilot, host, others)
        await operator.until(
            lambda: (
                sum(each.state is PeerState.CONNECTED for each in host.model.peers.values())
                == len(names)
            )
        )
        yield operator


async def test_the_slowest_peer_is_found_with_two_keys(tmp_path: Path) -> None:
    async with an_operator(tmp_path, "db-1", "db-2", "db-3") as operator:
        peers = operator.app.main.peers
        await operator.until(
            lambda: all(each.rtt_s is not None for each in operator.host.model.peers.values())
        )
        await operator.press("1", "R")
        assert operator.keys == 2
        await operator.until(lambda: peers.row_order is not None and "rtt▼" in operator.screen)
        rtts = [row.sort_value(peers.row_order.column) for row in peers.rows if peers.row_order]
        assert len(rtts) == 3
        assert rtts == sorted(rtts, reverse=True)
        assert peers.cursor_index == 0


async def test_the_loudest_author_is_found_with_two_keys(tmp_path: Path) -> None:
    async with an_operator(tmp_path, "db-1", "db-2") as operator:
        for number in range(12):
            await operator.others["db-2"].broadcast(f"line {number}".encode())
        await operator.others["db-1"].broadcast(b"one line")
        rates, loud = operator.app.main.rates, operator.others["db-2"].node.peer_id
        await operator.until(lambda: operator.host.model.messages.end == 13)
        await operator.press("3", "a")
        assert operator.keys == 2
        await operator.until(lambda: len(rates.rows) == 2)
        assert rates.rows[0].key == loud
        assert rates.cursor_index == 0


async def test_a_message_of_an_hour_ago_is_found_with_twelve_keys(tmp_path: Path) -> None:
    (tmp_path / "us").mkdir()
    shelf = Bookshelf(tmp_path / "us" / HISTORY_FILE)
    shelf.now = time.time()
    for minutes in range(0, 180, 10):
        text = "deploy of api finished" if minutes == 60 else f"line of {minutes} minutes ago"
        shelf.add(text, at=shelf.now - 60 * minutes, origin=3, name="db-9")
    shelf.flush()
    shelf.close()
    async with an_operator(tmp_path, "db-1") as operator:
        await operator.press("slash", *"deploy @1h", "enter")
        assert operator.keys <= 12
        await operator.until(lambda: "deploy of api finished" in operator.screen)
        assert "line of" not in operator.screen


async def test_a_peer_is_followed_with_two_keys(tmp_path: Path) -> None:
    async with an_operator(tmp_path, "db-1", "web-1") as operator:
        await operator.others["db-1"].broadcast(b"from the database")
        await operator.others["web-1"].broadcast(b"from the web")
        await operator.until(lambda: operator.host.model.messages.end == 2)
        await operator.press("1", "f")  # the first of the peers
        assert operator.keys == 2
        await operator.until(lambda: "from the web" not in operator.screen)
        assert "from the database" in operator.screen
        assert operator.app.focused is operator.app.main.log_view
        await operator.others["web-1"].broadcast(b"web again")
        await operator.others["db-1"].broadcast(b"database again")
        await operator.until(lambda: "database again" in operator.screen)
        assert "web again" not in operator.screen
        await operator.press("escape")
        await operator.until(lambda: "web again" in operator.screen)


async def test_a_peer_is_shut_out_for_ten_minutes_and_let_in_again_with_four_keys_each(
    tmp_path: Path,
) -> None:
    async with an_operator(tmp_path, "db-1") as operator:
        model, peer_id = operator.host.model, operator.others["db-1"].node.peer_id
        await operator.press("1", "D", "t")
        assert operator.keys <= 4
        await operator.until(lambda: peer_id in model.denied)
        await operator.until(lambda: operator.state_of("db-1") is PeerState.DISCONNECTED)
        assert operator.app._undo is not None
        assert operator.app._undo.description == f"deny db-1 ({peer_id.short}…) for 10 m"
        timer = operator.host._ban_timers[peer_id]
        left_s = timer.when() - asyncio.get_running_loop().time()
        assert 0 < left_s <= SHORT_DENY_S
        operator.keys = 0
        await operator.press("1", "D")
        assert operator.keys <= 4
        await operator.until(lambda: peer_id not in model.denied)
        assert timer.cancelled()


async def test_why_a_peer_went_down_yesterday_is_found_with_four_keys(tmp_path: Path) -> None:
    (tmp_path / "us").mkdir()
    shelf = Bookshelf(tmp_path / "us" / HISTORY_FILE)
    shelf.now = time.time()
    reason = "db-1 is down: suspect for 4.0 s without refuting it; accused by web-1, web-2"
    for hours in range(72):
        shelf.happen(f"event of {hours} hours ago", at=shelf.now - 3600 * hours)
    yesterday = shelf.now - DAY_S + 60
    shelf.happen(reason, at=yesterday, kind="member", peer_id=an_id(1), name="db-1")
    shelf.sql(f"UPDATE events SET level = 'warning' WHERE key = {int(yesterday * 1_000_000)}")
    shelf.flush()
    shelf.close()
    async with an_operator(tmp_path, "db-9") as operator:
        await operator.press("E", "left", "w")
        assert operator.keys <= 4
        await operator.until(lambda: "accused by web-1, web-2" in operator.screen)
        assert "hours ago" not in operator.screen


async def test_a_peers_own_screen_is_two_keys_away(tmp_path: Path) -> None:
    async with an_operator(tmp_path, "db-1") as operator:
        await operator.press("1", "enter")
        assert operator.keys == 2
        await operator.until(lambda: isinstance(operator.app.screen, NodeScreen))
        assert "db-1" in operator.screen
