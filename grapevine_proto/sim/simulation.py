"""A whole cluster under virtual time: real engines; simulated clocks, network and disks.

Invariants:

- The same arguments and calls give the same run, to the byte: `trace_hash` covers every datagram
  sent and received and every event, with its time. Nothing here reads a clock, and every choice
  comes from the seed.
- Time advances only in `run` and `run_until`; nothing happens between two entries of the queue.
- A node has at most one live wake-up in the queue, at its engine's deadline.
- The simulation keeps the driver's guarantees, as `node.py` does: queued data is sent after every
  step, the state is saved within a second of a change, an epoch before anything is sent under it.

Tests, `grapevine-tui sim` and readers of the protocol use this module; see
docs/reference/simulation.md.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum
from hashlib import blake2b
from heapq import heappop, heappush
from typing import Final, TypeAlias

from grapevine_proto.config import NodeConfig
from grapevine_proto.engine import Engine
from grapevine_proto.errors import NotRunning
from grapevine_proto.events import Event, FaultContained, MessageReceived, PeerInfo, PeerState
from grapevine_proto.identity import KEY_BYTES, ClusterKey
from grapevine_proto.ids import Address, MessageId, Zone
from grapevine_proto.sim.network import Network, Wire
from grapevine_proto.sim.recording import values_of
from grapevine_proto.sim.report import Broadcasts, Dissemination
from grapevine_proto.sim.shortcuts import introduce, regular_overlay
from grapevine_proto.sim.simulated_node import SimulatedNode

PORT: Final = 8000
LEAST_STEP_S: Final = (
    0.001  # resolution of a real driver's timers; a deadline in the past waits this long
)
SAVE_INTERVAL_S: Final = 1.0
LEAVE_TIMEOUT_S: Final = 5.0
START_WITHIN_S: Final = 1.0  # nodes do not start at the same instant

_MARK = struct.Struct(">cdII")


class _Step(IntEnum):
    ARRIVE = 0
    WAKE = 1
    SAVE = 2
    START = 3
    GIVE_UP_LEAVING = 4
    RESUME = 5


_Entry: TypeAlias = tuple[float, int, _Step, SimulatedNode, bytes, Address | None, int]
Listener = Callable[[float, int, Event], None]
Watcher = Callable[[float, int, bytes, Address], None]


class Simulation:
    """A cluster of real engines on one simulated network, under virtual time.

    Nodes are identified by number, from 0.

    Args:
        nodes: how many nodes to start.
        config: settings of every node except its name, its bootstrap peers and, if it has none, the
            cluster key.
        seed: determines every random choice of the run.
        network: what happens to datagrams; by default, latency only.
        bootstrap: how many random earlier nodes each node knows at its start.
        start_within: virtual seconds over which the nodes start, in order.
        zones: names of zones, assigned to the nodes in turn.
        linked: start with this many links per node, to random others, instead of with handshakes;
            `bootstrap` and `start_within` have no effect then.
        traced: whether to compute `trace_hash`. Without it a run takes a tenth less time.
    """

    def __init__(
        self,
        *,
        nodes: int,
        config: NodeConfig | None = None,
        seed: int = 0,
        network: Network | None = None,
        bootstrap: int = 3,
        start_within: float = START_WITHIN_S,
        zones: Sequence[Zone] = (),
        linked: int = 0,
        traced: bool = True,
    ) -> None:
        self._seed = f"grapevine simulation {seed}"
        self._rng = random.Random(f"{self._seed}/arrangement")
        config = NodeConfig() if config is None else config
        if not config.keys:
            secret = random.Random(f"{self._seed}/cluster key").randbytes(KEY_BYTES)
            config = config.replace(keys=(ClusterKey(secret),))
        self._config = config
        self._wire = Wire(Network() if network is None else network, f"{self._seed}/network")
        self._queue: list[_Entry] = []
        self._ties = 0
        self._trace = blake2b(digest_size=16)
        self._is_traced = traced
        self._listeners: list[Listener] = []
        self._watchers: list[Watcher] = []
        self._by_address: dict[Address, SimulatedNode] = {}
        self.now = 0.0
        self.nodes: list[SimulatedNode] = []
        self._broadcasts = Broadcasts(self.nodes)
        self.datagrams = 0
        self.bytes = 0
        self.bytes_between_zones = 0
        self.steps = 0
        if linked > config.max_peers:
            raise ValueError(f"linked: {linked} are more links than max_peers, {config.max_peers}")
        for number in range(nodes):
            zone = {"zone": zones[number % len(zones)]} if zones else {}
            after = 0.0 if linked else start_within * number / nodes
            self.add(bootstrap=0 if linked else bootstrap, after=after, **zone)
        if linked:
            self._link_all(regular_overlay(nodes, linked, self._rng))

    def _link_all(self, neighbours: list[list[int]]) -> None:
        """Starts all nodes at once with these links."""
        for node in self.nodes:
            node.start(self.now)
        key = self._config.keys[0]
        for node in self.nodes:
            for number in neighbours[node.number]:
                if number > node.number:
                    rtt_s = self._wire.round_trip_s(node.number, number)
                    introduce(node, self.nodes[number], key, self._rng, self.now, rtt_s)
        for node in self.nodes:
            self._settle(node)

    # --- what can be done to it -----------------------------------------------------------------

    def add(
        self, *, bootstrap: int | Iterable[int] = 3, after: float = 0.0, **changes: object
    ) -> int:
        """Adds a node.

        Args:
            bootstrap: how many random earlier nodes it knows, or their numbers.
            after: virtual seconds until it starts.
            changes: its own settings, which override `config`.

        Returns:
            The number of the node.
        """
        number = len(self.nodes)
        if isinstance(bootstrap, int):
            bootstrap = self._rng.sample(range(number), min(bootstrap, number))
        config = self._config.replace(
            name=f"node {number}",
            bootstrap_peers=tuple(str(self.nodes[each].address) for each in bootstrap),
        ).replace(**changes)
        node = SimulatedNode(number, _address(number, 0), config, f"{self._seed}/node {number}")
        self.nodes.append(node)
        self._by_address[node.address] = node
        self._wire.place(number, config.zone)
        self._push(self.now + after, _Step.START, node)
        return number

    def broadcast(self, number: int, payload: bytes) -> MessageId:
        """Broadcasts `payload` from a node. Raises NotRunning or MessageTooLarge."""
        node, engine = self._running(number)
        return self._said(node, engine.broadcast(payload, node.read_clock(self.now)))

    def trace(self, number: int, payload: bytes) -> MessageId:
        """Broadcasts `payload` and asks members to confirm it. Raises NotRunning or MessageTooLarge."""
        node, engine = self._running(number)
        return self._said(node, engine.trace(payload, node.read_clock(self.now)))

    def _said(self, node: SimulatedNode, message_id: MessageId) -> MessageId:
        self._broadcasts.said(message_id, node.number, self.now, self.datagrams, self.bytes)
        self._settle(node)
        return message_id

    def send(self, number: int, to: int, payload: bytes) -> MessageId:
        """Sends a direct message. Raises NotRunning, UnknownPeer or MessageTooLarge."""
        node, engine = self._running(number)
        peer_id = self.nodes[to].peer_id
        if peer_id is None:
            raise NotRunning(f"node {to} has not started")
        message_id = engine.send(peer_id, payload, node.read_clock(self.now))
        self._settle(node)
        return message_id

    def crash(self, number: int, *, torn: bool = False) -> None:
        """Stops a node as kill -9 does: its disk keeps the last save. `torn` simulates a power failure: a
        save of the last tenth of a second is lost, and the one before it remains."""
        if torn:
            self.nodes[number].tear(self.now)
        self._stop(self.nodes[number])

    def restart(self, number: int, *, lose_state: bool = False) -> None:
        """Starts a node again; with `lose_state` on an empty disk, and therefore with a new identity."""
        node = self.nodes[number]
        self._stop(node)
        node.start(self.now, lose_state=lose_state)
        self._settle(node)

    def reconfigure(self, number: int, **changes: object) -> None:
        """Changes settings of a node. A node that is down starts with them."""
        node = self.nodes[number]
        node.config = node.config.replace(**changes)
        if node.engine is not None:
            node.engine.reconfigure(node.config, node.read_clock(self.now))
            self._settle(node)

    def leave(self, number: int) -> None:
        """Shuts a node down gracefully: it sends what is queued, for at most five seconds."""
        node, engine = self._running(number)
        node.is_leaving = True
        engine.leave(node.read_clock(self.now))
        self._push(self.now + LEAVE_TIMEOUT_S, _Step.GIVE_UP_LEAVING, node)
        self._settle(node)

    def suspend(self, number: int, seconds: float) -> None:
        """Suspends a machine: only its clock advances, and datagrams to it are lost."""
        node, _ = self._running(number)
        node.suspended_at = self.now
        self._push(self.now + seconds, _Step.RESUME, node)

    def slow(self, number: int, seconds: float) -> None:
        """Delays everything a node does by `seconds`; 0 ends the delay."""
        self.nodes[number].lag_s = seconds

    def set_clock(self, number: int, *, error_s: float = 0.0, rate: float = 1.0) -> None:
        """Sets the error of a node's wall clock and the rate of its seconds, from its next start on."""
        node = self.nodes[number]
        node.clock_error_s, node.clock_rate = error_s, rate

    def inject(self, number: int, datagram: bytes, source: Address) -> None:
        """Delivers a datagram to a node now, with the source address `source`."""
        node = self.nodes[number]
        self._push(self.now, _Step.ARRIVE, node, datagram, source, node.moves)

    def change_network(self, network: Network) -> None:
        """Changes the network from now on. Partitions and per-pair latencies remain."""
        self._wire.network = network

    def move(self, number: int) -> None:
        """Changes the address of a node, as a NAT does. The node is not informed."""
        node = self.nodes[number]
        del self._by_address[node.address]
        node.moves += 1
        node.address = _address(number, node.moves)
        self._by_address[node.address] = node

    def partition(self, *groups: Iterable[int], one_way: bool = False) -> None:
        """Blocks traffic between groups of nodes. Nodes in no group form another one. With
        `one_way`, only traffic from the first group to the second is blocked."""
        named = [frozenset(group) for group in groups]
        rest = frozenset(range(len(self.nodes))).difference(*named)
        if one_way:
            self._wire.raise_wall(named[0], named[1] if len(named) > 1 else rest)
            return
        for group in (parts := [*named, rest]):
            for other in parts:
                if other is not group and group and other:
                    self._wire.raise_wall(group, other)

    def heal(self) -> None:
        """Ends all partitions."""
        self._wire.heal()

    # --- time -----------------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        """Advances virtual time."""
        until = self.now + seconds
        queue = self._queue
        while queue and queue[0][0] <= until:
            at, _, step, node, datagram, source, moves = heappop(queue)
            self.now = at
            self.steps += 1
            if step is _Step.ARRIVE and source is not None:
                self._arrive(node, datagram, source, moves)
            else:
                self._step(step, node)
        self.now = until

    def run_until(
        self, condition: Callable[[], bool], timeout: float, *, every: float = 0.05
    ) -> bool:
        """Advances time until `condition` holds, checked `every` virtual seconds, for at most
        `timeout`. Returns whether it holds."""
        until = self.now + timeout
        while not condition():
            if self.now >= until:
                return False
            self.run(min(every, until - self.now))
        return True

    # --- what there is to see -------------------------------------------------------------------

    def listen(self, listener: Listener) -> None:
        """Calls `listener(time, number, event)` for every event of every node."""
        self._listeners.append(listener)

    def watch(self, watcher: Watcher) -> None:
        """Calls `watcher(time, number, datagram, to)` for every datagram that a node sends."""
        self._watchers.append(watcher)

    def peers(self, number: int) -> list[PeerInfo]:
        """Returns the peers of a node; empty while it is down."""
        node = self.nodes[number]
        return [] if node.engine is None else node.engine.peers(node.read_clock(self.now))

    def connected(self, number: int) -> int:
        """Returns how many peers a node is connected to."""
        return sum(peer.state is PeerState.CONNECTED for peer in self.peers(number))

    def deliveries(self, message_id: MessageId) -> dict[int, int]:
        """Returns how often each node received a message; nodes that did not are omitted."""
        return self._broadcasts.deliveries(message_id)

    def report(self, message_id: MessageId) -> Dissemination:
        """Returns how far a broadcast has spread by now."""
        return self._broadcasts.report(message_id, self.datagrams, self.bytes)

    def latencies(self, message_id: MessageId) -> list[float]:
        """Returns the delivery times of a broadcast in virtual seconds, sorted."""
        return self._broadcasts.latencies(message_id)

    @property
    def trace_hash(self) -> str:
        """Hash of everything that happened so far; equal for equal runs."""
        return self._trace.hexdigest()

    # --- steps ----------------------------------------------------------------------------------

    def _arrive(self, node: SimulatedNode, datagram: bytes, source: Address, moves: int) -> None:
        engine = node.engine
        if engine is None or node.suspended_at is not None or node.moves != moves:
            return
        if self._is_traced:
            self._trace.update(_MARK.pack(b"a", self.now, node.number, len(datagram)))
        engine.receive(datagram, source, node.read_clock(self.now))
        self._settle(node)

    def _step(self, step: _Step, node: SimulatedNode) -> None:
        engine = node.engine
        if step is _Step.START:
            if engine is None:
                node.start(self.now)
                self._settle(node)
        elif engine is None:
            return
        elif step is _Step.WAKE:
            if node.wake_at == self.now and node.suspended_at is None:
                self._wake(node, engine)
        elif step is _Step.SAVE:
            node.is_save_due = False
            node.save(self.now)
        elif step is _Step.GIVE_UP_LEAVING:
            if node.is_leaving:
                node.save(self.now)
                self._stop(node)
        elif step is _Step.RESUME and node.suspended_at is not None:
            now = node.read_clock(self.now)
            engine.lagged(self.now - node.suspended_at, now)
            node.suspended_at = None
            self._wake(node, engine)

    def _wake(self, node: SimulatedNode, engine: Engine) -> None:
        node.wake_at = float("inf")
        now = node.wake(self.now)
        if engine.deadline <= now:
            if node.lag_s:
                engine.lagged(node.lag_s, now)
            engine.advance(now)
        self._settle(node)

    def _settle(self, node: SimulatedNode) -> None:
        """Does what a driver does after every step: saves, sends, reports events, sleeps."""
        engine = node.engine
        if engine is None or node.suspended_at is not None:
            return
        if node.is_epoch_unsaved:
            node.save(self.now)
        for datagram, address in engine.datagrams_to_send(node.read_clock(self.now)):
            self._send(node, datagram, address)
        for event in engine.events():
            self._record(node, event)
        if engine.stopped is not None or (node.is_leaving and engine.is_drained):
            node.stopped = engine.stopped or ""
            node.save(self.now)
            self._stop(node)
            return
        if node.is_unsaved and not node.is_save_due:
            node.is_save_due = True
            self._push(self.now + SAVE_INTERVAL_S, _Step.SAVE, node)
        wake_at = max(node.virtual(engine.deadline), self.now + LEAST_STEP_S) + node.lag_s
        if wake_at < node.wake_at:
            node.wake_at = wake_at
            self._push(wake_at, _Step.WAKE, node)

    def _send(self, node: SimulatedNode, datagram: bytes, address: Address) -> None:
        self.datagrams += 1
        self.bytes += len(datagram)
        if self._is_traced:
            self._trace.update(_MARK.pack(b"s", self.now, node.number, len(datagram)))
            self._trace.update(datagram)
        for watcher in self._watchers:
            watcher(self.now, node.number, datagram, address)
        target = self._by_address.get(address)
        if target is None:  # nobody is there, or no longer
            return
        if self._wire.crosses(node.number, target.number):
            self.bytes_between_zones += len(datagram)
        for delay_s, arriving in self._wire.carry(node.number, target.number, datagram):
            delay_s += target.lag_s
            self._push(
                self.now + delay_s, _Step.ARRIVE, target, arriving, node.address, target.moves
            )

    def _record(self, node: SimulatedNode, event: Event) -> None:
        if self._is_traced:
            self._trace.update(_MARK.pack(b"e", self.now, node.number, 0))
            self._trace.update(repr(values_of(event)).encode())
        if isinstance(event, MessageReceived):
            node.deliver(event.message, self.now)
        elif isinstance(event, FaultContained):
            # a real node goes on; a simulation is there to find it
            raise RuntimeError(f"node {node.number}: {event.problem}")  # noqa: TRY004
        for listener in self._listeners:
            listener(self.now, node.number, event)

    def _stop(self, node: SimulatedNode) -> None:
        node.stop()
        node.is_leaving = False

    def _push(
        self,
        at: float,
        step: _Step,
        node: SimulatedNode,
        datagram: bytes = b"",
        source: Address | None = None,
        moves: int = 0,
    ) -> None:
        self._ties += 1  # so that entries of one instant keep their order and are never compared
        heappush(self._queue, (at, self._ties, step, node, datagram, source, moves))

    def _running(self, number: int) -> tuple[SimulatedNode, Engine]:
        node = self.nodes[number]
        if node.engine is None or node.suspended_at is not None:
            raise NotRunning(f"node {number} is down")
        return node, node.engine


def _address(number: int, moves: int) -> Address:
    return Address(f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}", PORT + moves)
