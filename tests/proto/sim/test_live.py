"""Real nodes join a simulated cluster through sockets of its network, which runs in real time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import pytest

from grapevine_proto import ClusterKey, Node, NodeConfig
from grapevine_proto import node as node_module
from grapevine_proto.events import MessageReceived
from grapevine_proto.ids import Address
from grapevine_proto.sim import Network, Simulation
from grapevine_proto.sim.live import MAX_BEHIND_S, LiveSimulation
from tests.virtual_time import run_in_virtual_time

OURS = Address("10.9.0.1", 8000)
ONE_WAY_S = 0.04
T = TypeVar("T")
InTime = Callable[[Coroutine[Any, Any, T]], T]


@pytest.fixture
def in_time(monkeypatch: pytest.MonkeyPatch) -> InTime[None]:
    """Runs a coroutine in virtual time, which the clock of real nodes shows."""

    async def timed(main: Coroutine[Any, Any, None]) -> None:
        monkeypatch.setattr(node_module, "clock", asyncio.get_running_loop().time)
        await main

    return lambda main: run_in_virtual_time(timed(main))


def simulated(nodes: int = 3) -> Simulation:
    config = NodeConfig.local(keys=[ClusterKey.generate()])
    network = Network(latency=(ONE_WAY_S, ONE_WAY_S))
    return Simulation(nodes=nodes, config=config, network=network)


@asynccontextmanager
async def joined(simulation: Simulation) -> AsyncIterator[tuple[Node, LiveSimulation]]:
    """A real node among the simulated ones."""
    live = LiveSimulation(simulation)
    live.start()
    config = simulation.nodes[0].config.replace(
        name="real", bootstrap_peers=(str(simulation.nodes[0].address),)
    )
    node = Node(config, open_socket=live.socket_opener(OURS))
    await node.start()
    try:
        await node.ready(len(simulation.nodes) - 1, timeout=20)
        yield node, live
    finally:
        await node.leave(1.0)
        await live.stop()


def test_a_real_node_joins_and_measures_the_latency_of_the_network(in_time: InTime[None]) -> None:
    async def main() -> None:
        async with joined(simulated()) as (node, _):
            assert node.address == OURS
            await asyncio.sleep(5)
            for peer in node.peers():
                assert peer.rtt_s == pytest.approx(2 * ONE_WAY_S, abs=0.003)

    in_time(main())


def test_messages_go_both_ways(in_time: InTime[None]) -> None:
    async def main() -> None:
        simulation = simulated()
        async with joined(simulation) as (node, _):
            received: list[bytes] = []
            node.on_event(
                lambda e: (
                    received.append(e.message.payload) if isinstance(e, MessageReceived) else None
                )
            )
            simulation.broadcast(1, b"from the simulation")
            message_id = await node.broadcast(b"to the simulation")
            await asyncio.sleep(2)
            assert received == [b"from the simulation"]
            assert all(message_id in each.deliveries for each in simulation.nodes[:3])
            simulation.send(2, node.peer_id, b"to you alone")
            await asyncio.sleep(2)
            assert received[1:] == [b"to you alone"]

    in_time(main())


def test_a_node_that_loses_all_packets_goes_silent_and_returns(in_time: InTime[None]) -> None:
    async def main() -> None:
        simulation = simulated()
        async with joined(simulation) as (node, _):
            simulation.degrade(1, 1.0)
            await asyncio.sleep(20)
            assert sum(peer.state.is_connected for peer in node.peers()) == 2
            simulation.degrade(1, 0)
            await node.ready(3, timeout=60)

    in_time(main())


def test_a_stall_of_the_process_is_not_made_up_for(in_time: InTime[None]) -> None:
    async def main() -> None:
        simulation = simulated()
        live = LiveSimulation(simulation)
        live.start()
        await asyncio.sleep(1)
        before = simulation.now
        loop = asyncio.get_running_loop()
        loop._jumping_selector.now += 100 * MAX_BEHIND_S  # type: ignore[attr-defined]
        await asyncio.sleep(1)
        assert before < simulation.now < before + 2 * MAX_BEHIND_S
        await live.stop()
        stopped_at = simulation.now
        await asyncio.sleep(1)
        assert simulation.now == stopped_at

    in_time(main())


def test_a_taken_address_is_refused_and_a_closed_socket_reports_it(in_time: InTime[None]) -> None:
    async def main() -> None:
        simulation = simulated()
        async with joined(simulation) as (_, live):
            with pytest.raises(ValueError, match="in use"):
                await live.socket_opener(OURS)("127.0.0.1:0")
            sock = await live.socket_opener(Address("10.9.0.2", 8000))("127.0.0.1:0")
            assert await sock.resolve("example.org:8000") == ()
            sock.close()
            sock.close()
            from grapevine_proto.runtime.udp_socket import SocketClosed

            with pytest.raises(SocketClosed):
                await sock.receive()
            with pytest.raises(SocketClosed):
                await sock.send(b"x", OURS)

    in_time(main())
