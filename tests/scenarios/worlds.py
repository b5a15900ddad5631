"""Two worlds to run a scenario in: the simulator, and loopback UDP with real sockets and clocks.

Invariants:

- A scenario cannot tell the worlds apart. It names nodes, acts on them and waits for conditions;
  only the world knows how to wait.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

from grapevine_proto import (
    AntiEntropyConfig,
    ClusterKey,
    Event,
    MemberInfo,
    MessageId,
    MessageReceived,
    Node,
    NodeConfig,
    PeerInfo,
    PeerState,
    Trace,
)
from grapevine_proto.sim import Network, Simulation

KEY = ClusterKey(bytes(range(32)))
TIMEOUT_S = 20.0  # in each world's own seconds

CONFIG = NodeConfig(
    keys=(KEY,),
    gossip_interval=0.2,
    peer_timeout=1.0,
    connection_timeout=1.0,
    anti_entropy=AntiEntropyConfig(interval=1.0),
)


class World(ABC):
    """Nodes by name; `delivered` holds the payloads each received, over all restarts."""

    def __init__(self) -> None:
        self.delivered: dict[str, list[bytes]] = {}

    @abstractmethod
    async def start(self, name: str, *bootstrap: str, **changes: Any) -> None:
        """Start a node with the nodes `bootstrap` as bootstrap peers."""

    @abstractmethod
    async def crash(self, name: str) -> None:
        """Stop a node without a leave."""

    @abstractmethod
    async def restart(self, name: str) -> None:
        """Start a node again at its old address with its old state."""

    @abstractmethod
    async def leave(self, name: str) -> None: ...

    @abstractmethod
    async def broadcast(self, name: str, payload: bytes) -> MessageId: ...

    @abstractmethod
    async def trace(self, name: str, payload: bytes) -> MessageId: ...

    @abstractmethod
    def traces(self, name: str) -> list[Trace]: ...

    @abstractmethod
    async def send(self, name: str, to: str, payload: bytes) -> MessageId: ...

    @abstractmethod
    def peers(self, name: str) -> list[PeerInfo]: ...

    @abstractmethod
    def members(self, name: str) -> list[MemberInfo]: ...

    @abstractmethod
    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds; fails after `TIMEOUT_S`."""

    @abstractmethod
    async def close(self) -> None: ...

    def states(self, name: str) -> dict[str, PeerState]:
        """The states of the peers of `name`, by name."""
        return {peer.name: peer.state for peer in self.peers(name)}

    def is_linked(self, name: str, *others: str) -> bool:
        states = self.states(name)
        return all(states.get(other) is PeerState.CONNECTED for other in others)

    def has(self, name: str, *payloads: bytes) -> bool:
        return set(payloads) <= set(self.delivered[name])


class SimulatedWorld(World):
    def __init__(self) -> None:
        super().__init__()
        self.simulation = Simulation(nodes=0, config=CONFIG, network=Network(loss=0.05))
        self.simulation.listen(self._note)
        self._numbers: dict[str, int] = {}

    def _note(self, _: float, number: int, event: Event) -> None:
        if isinstance(event, MessageReceived):
            name = next(name for name, each in self._numbers.items() if each == number)
            self.delivered[name].append(event.message.payload)

    async def start(self, name: str, *bootstrap: str, **changes: Any) -> None:
        bootstrap_numbers = [self._numbers[other] for other in bootstrap]
        self.delivered[name] = []
        self._numbers[name] = self.simulation.add(bootstrap=bootstrap_numbers, name=name, **changes)
        self.simulation.run(0.0)

    async def crash(self, name: str) -> None:
        self.simulation.crash(self._numbers[name])

    async def restart(self, name: str) -> None:
        self.simulation.restart(self._numbers[name])

    async def leave(self, name: str) -> None:
        number = self._numbers[name]
        self.simulation.leave(number)
        await self.until(lambda: not self.simulation.nodes[number].is_running)

    async def broadcast(self, name: str, payload: bytes) -> MessageId:
        return self.simulation.broadcast(self._numbers[name], payload)

    async def trace(self, name: str, payload: bytes) -> MessageId:
        return self.simulation.trace(self._numbers[name], payload)

    def traces(self, name: str) -> list[Trace]:
        engine = self.simulation.nodes[self._numbers[name]].engine
        return [] if engine is None else engine.traces()

    async def send(self, name: str, to: str, payload: bytes) -> MessageId:
        return self.simulation.send(self._numbers[name], self._numbers[to], payload)

    def peers(self, name: str) -> list[PeerInfo]:
        return self.simulation.peers(self._numbers[name])

    def members(self, name: str) -> list[MemberInfo]:
        engine = self.simulation.nodes[self._numbers[name]].engine
        return [] if engine is None else engine.members()

    async def until(self, condition: Callable[[], bool]) -> None:
        assert self.simulation.run_until(condition, TIMEOUT_S), "the condition did not hold in time"

    async def close(self) -> None:
        pass


class LoopbackWorld(World):
    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._directory = directory
        self._nodes: dict[str, Node] = {}
        self._configs: dict[str, NodeConfig] = {}
        self._event_seen = asyncio.Event()

    async def start(self, name: str, *bootstrap: str, **changes: Any) -> None:
        self.delivered[name] = []
        self._configs[name] = CONFIG.replace(
            name=name,
            bootstrap_peers=tuple(str(self._nodes[other].address) for other in bootstrap),
            **changes,
        )
        await self._start(name)

    async def _start(self, name: str) -> None:
        node = Node(self._configs[name], state_dir=self._directory / name)
        delivered = self.delivered[name]

        def note(event: Event) -> None:
            if isinstance(event, MessageReceived):
                delivered.append(event.message.payload)
            self._event_seen.set()

        node.on_event(note)
        await node.start()
        self._nodes[name] = node
        self._configs[name] = self._configs[name].replace(bind=str(node.address))

    async def crash(self, name: str) -> None:
        node = self._nodes[name]
        node._socket.close()  # nothing is sent any more, not even a Close
        await node.leave(timeout=0.0)

    async def restart(self, name: str) -> None:
        await self._start(name)

    async def leave(self, name: str) -> None:
        await self._nodes[name].leave()

    async def broadcast(self, name: str, payload: bytes) -> MessageId:
        return await self._nodes[name].broadcast(payload)

    async def trace(self, name: str, payload: bytes) -> MessageId:
        return await self._nodes[name].trace(payload)

    def traces(self, name: str) -> list[Trace]:
        return self._nodes[name].traces()

    async def send(self, name: str, to: str, payload: bytes) -> MessageId:
        return await self._nodes[name].send(self._nodes[to].peer_id, payload)

    def peers(self, name: str) -> list[PeerInfo]:
        return self._nodes[name].peers()

    def members(self, name: str) -> list[MemberInfo]:
        return self._nodes[name].members()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while not condition():
                self._event_seen.clear()
                await self._event_seen.wait()

    async def close(self) -> None:
        for node in self._nodes.values():
            await node.leave(timeout=0.5)
