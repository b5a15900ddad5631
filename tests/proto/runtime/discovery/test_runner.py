"""The runner: sources become hints to the dialer, within limits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from grapevine_proto import (
    ClusterKey,
    ConfigError,
    LimitsConfig,
    Node,
    NodeConfig,
    PeerDiscovered,
)
from grapevine_proto.ids import Address
from grapevine_proto.runtime.discovery.runner import (
    DIALS_PER_MINUTE,
    REDIAL_BOUNDS_S,
    DiscoveryRunner,
    source_of,
)
from grapevine_proto.runtime.discovery.source import OwnNode

KEY = ClusterKey(bytes(range(32)))
OWN = OwnNode((Address("10.0.0.1", 8000),), False, (KEY,), "default", None)


def there(port: int) -> Address:
    return Address("10.0.0.9", port)


class Listed:
    """A source whose lists the test sets."""

    def __init__(self, *addresses: str, name: str = "listed") -> None:
        self.name = name
        self.lists: asyncio.Queue[list[str] | Exception] = asyncio.Queue()
        if addresses:
            self.lists.put_nowait(list(addresses))

    async def addresses(self) -> list[str]:
        found = await self.lists.get()
        if isinstance(found, Exception):
            raise found
        return found


class Announced(Listed):
    """A source that announces, too."""

    def __init__(self, fault: Exception | None = None) -> None:
        super().__init__(name="announced")
        self.announced: list[OwnNode] = []
        self.is_withdrawn = False
        self._fault = fault

    async def announce(self, own: OwnNode) -> None:
        if self._fault is not None:
            raise self._fault
        self.announced.append(own)

    async def withdraw(self) -> None:
        self.is_withdrawn = True


class Bench:
    """A runner with a clock that stands still, and what it did."""

    def __init__(self, *sources: Any, limit: int = 64) -> None:
        self.now = 0.0
        self.dialed: list[Address] = []
        self.events: list[PeerDiscovered] = []
        self.known: set[Address] = set()
        self.resolved: dict[str, tuple[Address, ...]] = {}
        self.runner = DiscoveryRunner(
            lambda: self.now,
            self._resolve,
            lambda: limit,
            lambda: self.known,
            self.dialed.append,
            self.events.append,
        )
        self.runner.add(sources)

    async def _resolve(self, name: str) -> tuple[Address, ...]:
        return self.resolved.get(name, ())

    def look(self) -> None:
        """Dials what is due, as the runner does every second."""
        for each in self.runner._followed.values():
            self.runner._dial_due(each)

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110  there is no event for it
                await asyncio.sleep(0.001)


def play(bench: Bench, scene: Callable[[Bench], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        task = asyncio.create_task(bench.runner.run())
        try:
            await scene(bench)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())


def test_what_a_source_names_is_reported_and_dialed_once() -> None:
    async def scene(bench: Bench) -> None:
        await bench.until(lambda: len(bench.dialed) == 2)
        bench.look()

    bench = Bench(Listed("10.0.0.9:1", "name.example:2", "10.0.0.9:1"))
    bench.resolved["name.example:2"] = (there(2),)
    play(bench, scene)
    assert bench.events == [PeerDiscovered(there(1), "listed"), PeerDiscovered(there(2), "listed")]
    assert bench.dialed == [there(1), there(2)]


def test_an_address_is_dialed_again_at_growing_intervals_unless_it_is_known() -> None:
    async def scene(bench: Bench) -> None:
        await bench.until(lambda: bench.dialed)
        dialed_at = []
        for second in range(400):
            bench.now = float(second)
            before = len(bench.dialed)
            bench.look()
            dialed_at += [second] * (len(bench.dialed) - before)
        assert dialed_at[:5] == [5, 15, 35, 75, 135]
        assert {b - a for a, b in pairwise(dialed_at[3:])} == {60}
        bench.known.add(there(1))
        bench.now += 2 * REDIAL_BOUNDS_S[1]
        bench.look()
        assert len(bench.dialed) == 1 + len(dialed_at)

    play(Bench(Listed("10.0.0.9:1")), scene)


def test_a_source_gets_sixteen_dials_a_minute() -> None:
    async def scene(bench: Bench) -> None:
        await bench.until(lambda: len(bench.events) == 40)
        bench.look()
        assert len(bench.dialed) == DIALS_PER_MINUTE
        bench.now = 60.0
        bench.look()
        assert len(bench.dialed) == 2 * DIALS_PER_MINUTE

    play(Bench(Listed(*(f"10.0.0.9:{port}" for port in range(1, 41)))), scene)


def test_addresses_beyond_the_limit_of_a_source_are_counted_and_not_dialed() -> None:
    async def scene(bench: Bench) -> None:
        await bench.until(lambda: len(bench.events) == 8)
        (source,) = bench.runner.sources()
        assert source.addresses == tuple(there(port) for port in range(1, 9))
        assert source.dropped == 1

    play(Bench(Listed(*(f"10.0.0.9:{port}" for port in range(1, 10))), limit=8), scene)


def test_an_address_that_comes_back_is_reported_again() -> None:
    async def scene(bench: Bench) -> None:
        await bench.until(lambda: len(bench.events) == 1)
        source.lists.put_nowait([])
        await bench.until(lambda: not bench.runner.sources()[0].addresses)
        source.lists.put_nowait(["10.0.0.9:1"])
        await bench.until(lambda: len(bench.events) == 2)

    source = Listed("10.0.0.9:1")
    play(Bench(source), scene)


def test_the_error_of_a_source_is_logged_once_and_stops_no_other(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(bench: Bench) -> None:
        for error in (OSError(5, "no luck"), OSError(5, "no luck"), ValueError("odd")):
            broken.lists.put_nowait(error)
        await bench.until(broken.lists.empty)
        await bench.until(lambda: bench.runner.sources()[0].problem == "ValueError: odd")
        assert bench.dialed == [there(1)]
        broken.lists.put_nowait(["not an address", "10.0.0.9:2"])
        await bench.until(lambda: "not an address" in bench.runner.sources()[0].problem)
        broken.lists.put_nowait(["10.0.0.9:2"])
        await bench.until(lambda: there(2) in bench.dialed)
        assert bench.runner.sources()[0].problem == ""

    monkeypatch.setattr("grapevine_proto.runtime.discovery.runner.RETRY_S", 0.001)
    broken = Listed(name="broken")
    with caplog.at_level(logging.WARNING, "grapevine"):
        play(Bench(broken, Listed("10.0.0.9:1")), scene)
    logged = [each.getMessage() for each in caplog.records]
    assert logged[:2] == ["discovery broken: no luck", "discovery broken: ValueError: odd"]
    assert len(logged) == 3


def test_a_node_is_announced_again_when_it_changed_and_withdrawn_at_the_end() -> None:
    async def scene(bench: Bench) -> None:
        bench.runner.set_own(OWN)
        await bench.until(lambda: source.announced == [OWN])
        bench.runner.set_own(OWN)
        moved = OwnNode((there(1),), False, (KEY,), "default", None)
        bench.runner.set_own(moved)
        await bench.until(lambda: source.announced == [OWN, moved])

    source = Announced()
    play(Bench(source), scene)
    assert source.is_withdrawn


def test_a_source_that_cannot_announce_says_why_and_still_finds() -> None:
    async def scene(bench: Bench) -> None:
        bench.runner.set_own(OWN)
        await bench.until(lambda: bench.runner.sources() and bench.runner.sources()[0].problem)
        assert bench.runner.sources()[0].problem == "port 5353 is in use"
        source.lists.put_nowait(["10.0.0.9:1"])
        await bench.until(lambda: bench.dialed)

    source = Announced(ConfigError("", "port 5353 is in use"))
    play(Bench(source), scene)


def test_bootstrap_peers_name_sources_and_settings_change_them(tmp_path: Path) -> None:
    async def scene(bench: Bench) -> None:
        bench.runner.watch([f"@{first}"])
        await bench.until(lambda: bench.dialed == [there(1)])
        bench.runner.watch([f"@{second}"])
        await bench.until(lambda: bench.dialed == [there(1), there(2)])
        assert [each.name for each in bench.runner.sources()] == [f"@{second}"]
        bench.runner.watch([])
        await bench.until(lambda: not bench.runner.sources())

    first, second = tmp_path / "1", tmp_path / "2"
    first.write_text("10.0.0.9:1\n")
    second.write_text("10.0.0.9:2\n")
    play(Bench(), scene)


@pytest.mark.parametrize("text", ["@", "srv+", "srv+_x..org", "srv+a b"])
def test_a_source_without_a_name_is_rejected(text: str) -> None:
    with pytest.raises(ConfigError, match="bootstrap_peers"):
        NodeConfig(keys=KEY, bootstrap_peers=text)


def test_the_sources_among_bootstrap_peers_are_no_addresses() -> None:
    config = NodeConfig(keys=KEY, bootstrap_peers=["@peers.txt", "10.0.0.1:1-2", "srv+_a.b"])
    assert config.bootstrap_addresses == ("10.0.0.1:1", "10.0.0.1:2")
    assert config.bootstrap_sources == ("@peers.txt", "srv+_a.b")
    assert source_of("@peers.txt").name == "@peers.txt"


def test_two_nodes_meet_by_a_source_of_the_application() -> None:
    async def meet() -> None:
        config = NodeConfig(keys=KEY, bind="127.0.0.1:0", limits=LimitsConfig())
        async with Node(config) as first:
            source = Listed(str(first.address))
            async with Node(config, discovery=[source]) as second:
                await second.ready(timeout=10)
                (shown,) = second.discovery_sources()
                assert shown.addresses == (first.address,)
                assert len(second.peers()) == 1

    asyncio.run(meet())


def test_a_running_node_follows_a_file_that_its_settings_name(tmp_path: Path) -> None:
    async def meet() -> None:
        peers = tmp_path / "peers.txt"
        config = NodeConfig(keys=KEY, bind="127.0.0.1:0")
        async with Node(config) as first, Node(config) as second:
            peers.write_text(f"{first.address}\n")
            second.reconfigure(config.replace(bootstrap_peers=f"@{peers}"))
            await second.ready(timeout=10)

    asyncio.run(meet())
