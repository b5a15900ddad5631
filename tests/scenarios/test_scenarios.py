"""What a cluster does, run in both worlds; the test names are the specification."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from grapevine_proto import PeerState
from tests.scenarios.worlds import LoopbackWorld, SimulatedWorld, World

Scenario = Callable[[World], Awaitable[None]]
Play = Callable[[Scenario], None]


@pytest.fixture(params=["sim", "loopback"])
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Play:
    """Run a scenario in one of the worlds and close it."""

    def play_in_world(scenario: Scenario) -> None:
        async def main() -> None:
            world = SimulatedWorld() if request.param == "sim" else LoopbackWorld(tmp_path)
            try:
                await scenario(world)
            finally:
                await world.close()

        asyncio.run(main())

    return play_in_world


def test_two_nodes_exchange_messages(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.start("ada")
        await world.start("bob", "ada")
        await world.until(lambda: world.is_linked("ada", "bob") and world.is_linked("bob", "ada"))
        await world.broadcast("ada", b"hello bob")
        await world.broadcast("bob", b"hello ada")
        await world.until(lambda: world.has("ada", b"hello ada") and world.has("bob", b"hello bob"))
        assert world.delivered == {"ada": [b"hello ada"], "bob": [b"hello bob"]}

    play(scenario)


def test_a_third_node_discovers_the_second_through_the_first(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.start("ada")
        await world.start("bob", "ada")
        await world.start("eve", "ada")
        await world.until(lambda: world.is_linked("eve", "ada", "bob"))
        await world.until(lambda: world.is_linked("bob", "ada", "eve"))

    play(scenario)


def test_a_late_joiner_catches_up(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.start("ada")
        await world.start("bob", "ada")
        payloads = [b"%d" % number for number in range(20)]
        for payload in payloads:
            await world.broadcast("ada", payload)
        await world.until(lambda: world.has("bob", *payloads))
        await world.start("eve", "bob")
        await world.until(lambda: world.has("eve", *payloads))
        assert sorted(world.delivered["eve"]) == sorted(payloads)

    play(scenario)


def test_messages_of_a_node_that_left_are_still_repaired(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.start("ada")
        await world.start("bob", "ada")
        await world.until(lambda: world.is_linked("bob", "ada"))
        await world.broadcast("bob", b"my last message")
        await world.until(lambda: world.has("ada", b"my last message"))
        await world.leave("bob")
        await world.start("eve", "ada")
        await world.until(lambda: world.has("eve", b"my last message"))

    play(scenario)


def test_a_leave_is_seen_long_before_a_timeout(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.start("ada", peer_timeout=600.0)
        await world.start("bob", "ada")
        await world.until(lambda: world.is_linked("ada", "bob"))
        await world.leave("bob")
        await world.until(lambda: world.states("ada").get("bob") is not PeerState.CONNECTED)

    play(scenario)


def test_a_crashed_node_turns_stale_then_disconnected(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.start("ada")
        await world.start("bob", "ada")
        await world.until(lambda: world.is_linked("ada", "bob"))
        await world.crash("bob")
        await world.until(lambda: world.states("ada").get("bob") is PeerState.STALE)
        await world.until(lambda: world.states("ada").get("bob") is PeerState.DISCONNECTED)

    play(scenario)


def test_a_restarted_node_receives_missed_messages_once(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.start("ada")
        await world.start("bob", "ada")
        await world.until(lambda: world.is_linked("ada", "bob") and world.is_linked("bob", "ada"))
        await world.broadcast("ada", b"before")
        await world.until(lambda: world.has("bob", b"before"))
        await world.leave("bob")
        await world.broadcast("ada", b"meanwhile")
        await world.restart("bob")
        await world.until(lambda: world.has("bob", b"meanwhile"))
        await world.until(lambda: world.is_linked("ada", "bob"))
        await world.broadcast("bob", b"I am back")
        await world.until(lambda: world.has("ada", b"I am back"))
        assert world.delivered["bob"] == [b"before", b"meanwhile"]

    play(scenario)


def test_a_node_without_bootstrap_peers_is_found_again_after_a_crash(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.start("ada")
        await world.start("bob", "ada")
        await world.until(lambda: world.is_linked("bob", "ada"))
        await world.crash("ada")
        await world.until(lambda: not world.is_linked("bob", "ada"))
        await world.restart("ada")
        await world.until(lambda: world.is_linked("bob", "ada") and world.is_linked("ada", "bob"))

    play(scenario)


def test_a_direct_message_reaches_one_node_only(play: Play) -> None:
    async def scenario(world: World) -> None:
        for name in ("ada", "bob", "eve"):
            await world.start(name, *(["ada"] if name != "ada" else []))
        await world.until(lambda: world.is_linked("ada", "bob", "eve"))
        # a direct message is not repeated by the node and may be lost
        while not world.has("bob", b"only for bob"):
            await world.send("ada", "bob", b"only for bob")
            await world.broadcast("ada", b"for all")
            await world.until(lambda: world.has("bob", b"for all") and world.has("eve", b"for all"))
        assert b"only for bob" not in world.delivered["eve"]

    play(scenario)


def test_a_trace_shows_which_members_have_the_message(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.start("ada")
        # A chain: receipts of nodes without a link to ada are forwarded.
        for name, after in (("bob", "ada"), ("cid", "bob"), ("dan", "cid")):
            await world.start(name, after, max_peers=2)
        await world.until(lambda: len(world.members("ada")) == 3)
        await world.trace("ada", b"who is there")
        await world.until(lambda: world.traces("ada")[-1].is_complete)
        (trace,) = world.traces("ada")
        assert (trace.known, trace.reached, trace.unanswered) == (3, 3, ())
        assert trace.hops is not None
        assert trace.last_ms is not None
        assert all(world.has(name, b"who is there") for name in ("bob", "cid", "dan"))
        await world.crash("dan")
        await world.trace("ada", b"and now")
        await world.until(lambda: world.traces("ada")[-1].reached == 2)
        (missing,) = world.traces("ada")[-1].unanswered
        assert missing in {
            member.peer_id for member in world.members("ada") if member.name == "dan"
        }

    play(scenario)
