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
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import IntEnum
from hashlib import blake2b
from heapq import heappop, heappush
from typing import Any, Final, TypeAlias

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.crypto.cluster_key import ClusterKey
from grapevine_proto.crypto.identity import KEY_BYTES
from grapevine_proto.engine import Engine
from grapevine_proto.errors import NotRunning
from grapevine_proto.events import (
    AnswerStatus,
    Event,
    InternalErrorContained,
    MessageReceived,
    PeerInfo,
    PeerState,
    QueryAnswered,
    QueryReceived,
    QueryReport,
    Question,
)
from grapevine_proto.ids import Address, MessageId, PeerId, Zone
from grapevine_proto.overlay.query.request import QueryRequest
from grapevine_proto.sim.fast_start import establish_link, regular_overlay
from grapevine_proto.sim.nat import NatModel
from grapevine_proto.sim.network import Network, NetworkModel
from grapevine_proto.sim.node import SimulatedNode
from grapevine_proto.sim.recording import values_of
from grapevine_proto.sim.report import BroadcastLog, BroadcastReport
from grapevine_proto.topics import TopicPatterns

PORT: Final = 8000
MIN_STEP_S: Final = (
    0.001  # resolution of a real driver's timers; a deadline in the past waits this long
)
SAVE_INTERVAL_S: Final = 1.0
LEAVE_TIMEOUT_S: Final = 5.0
START_WINDOW_S: Final = 1.0  # nodes do not start at the same instant

_TRACE_ENTRY = struct.Struct(">cdII")


class _StepKind(IntEnum):
    ARRIVE = 0
    WAKE = 1
    SAVE = 2
    START = 3
    LEAVE_TIMEOUT = 4
    RESUME = 5
    ARRIVE_AT_NAT = 6


_Entry: TypeAlias = tuple[float, int, _StepKind, SimulatedNode, bytes, Address | None, int]
EventListener = Callable[[float, int, Event], None]
DatagramListener = Callable[[float, int, bytes, Address], None]
QueryHandler = Callable[[int, Question], bytes | None]


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
        start_window: virtual seconds over which the nodes start, in order.
        zones: names of zones, assigned to the nodes in turn.
        initial_links: start with this many links per node, to random others, instead of with handshakes;
            `bootstrap` and `start_window` have no effect then.
        hash_trace: whether to compute `trace_hash`. Without it a run takes a tenth less time.
    """

    def __init__(
        self,
        *,
        nodes: int,
        config: NodeConfig | None = None,
        seed: int = 0,
        network: Network | None = None,
        bootstrap: int = 3,
        start_window: float = START_WINDOW_S,
        zones: Sequence[Zone] = (),
        initial_links: int = 0,
        hash_trace: bool = True,
    ) -> None:
        self._seed = f"grapevine simulation {seed}"
        self._rng = random.Random(f"{self._seed}/arrangement")
        config = NodeConfig() if config is None else config
        if not config.keys:
            secret = random.Random(f"{self._seed}/cluster key").randbytes(KEY_BYTES)
            config = config.replace(keys=(ClusterKey(secret),))
        self._config = config
        network = Network() if network is None else network
        self._network_model = NetworkModel(network, f"{self._seed}/network")
        self._nats = NatModel(network.nat, network.mapping_ttl) if network.nat else None
        self._queue: list[_Entry] = []
        self._sequence = 0
        self._trace = blake2b(digest_size=16)
        self._hashes_trace = hash_trace
        self._event_listeners: list[EventListener] = []
        self._datagram_listeners: list[DatagramListener] = []
        self._query_handlers: dict[str, QueryHandler] = {}
        self._by_address: dict[Address, SimulatedNode] = {}
        self.now = 0.0
        self.nodes: list[SimulatedNode] = []
        self._broadcast_log = BroadcastLog(self.nodes)
        self.datagrams = 0
        self.bytes = 0
        self.bytes_between_zones = 0
        self.steps = 0
        if initial_links and self._nats is not None:
            raise ValueError("initial_links: nodes behind NATs have to link themselves")
        if initial_links > config.max_peers:
            raise ValueError(
                f"initial_links: must be at most max_peers, {config.max_peers}, got {initial_links}"
            )
        for number in range(nodes):
            zone: dict[str, Any] = {"zone": zones[number % len(zones)]} if zones else {}
            after = 0.0 if initial_links else start_window * number / nodes
            self.add(bootstrap=0 if initial_links else bootstrap, after=after, **zone)
        if initial_links:
            neighbors = regular_overlay(nodes, initial_links, self._rng)
            self.link(
                (one, other) for one in range(nodes) for other in neighbors[one] if other > one
            )

    # --- actions --------------------------------------------------------------------------------

    def link(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Starts all nodes that are down, and links these pairs as handshakes would, at once."""
        down = [node for node in self.nodes if node.engine is None and node.receive is None]
        for node in down:
            node.start(self.now)
        key = self._config.keys[0]
        for first, second in pairs:
            rtt_s = self._network_model.mean_rtt_s(first, second)
            establish_link(self.nodes[first], self.nodes[second], key, self._rng, self.now, rtt_s)
        for node in self.nodes:
            self._respond(node)

    def add(
        self,
        *,
        bootstrap: int | Iterable[int] = 3,
        after: float = 0.0,
        address: Address | None = None,
        **changes: object,
    ) -> int:
        """Adds a node.

        Args:
            bootstrap: how many random earlier nodes it knows, of those without a NAT, or their numbers.
            after: virtual seconds until it starts.
            address: where it is; None: 10.x.y.z by its number. A NAT gives its nodes addresses of its own.
            changes: its own settings, which override `config`.

        Returns:
            The number of the node.
        """
        number = len(self.nodes)
        if isinstance(bootstrap, int):
            known = list(range(number))
            if self._nats is not None:
                known = [each for each in known if self._nats.is_public(each)]
            bootstrap = self._rng.sample(known, min(bootstrap, len(known)))
        config = self._config.replace(
            name=f"node {number}",
            bootstrap_peers=tuple(str(self.nodes[each].address) for each in bootstrap),
        ).replace(**changes)
        address = _address(number, 0) if address is None else address
        if self._nats is not None:
            address = self._nats.add(number, address)
        node = SimulatedNode(number, address, config, f"{self._seed}/node {number}")
        self.nodes.append(node)
        self._by_address[node.address] = node
        self._network_model.set_zone(number, config.zone)
        self._schedule(self.now + after, _StepKind.START, node)
        return number

    def attach(
        self, receive: Callable[[bytes, Address], None], address: Address, *, zone: Zone = ""
    ) -> int:
        """Adds a place in the network for a node that runs elsewhere; see `LiveSimulation`.

        Args:
            receive: called with each datagram that arrives there, and its source.
            address: where it is. It must be free.
            zone: the zone that decides its latencies.

        Returns:
            The number of the place, which `send_as` needs.
        """
        if address in self._by_address:
            raise ValueError(f"{address} is in use")
        number = len(self.nodes)
        node = SimulatedNode(number, address, self._config, f"{self._seed}/node {number}")
        node.receive = receive
        self.nodes.append(node)
        self._by_address[address] = node
        self._network_model.set_zone(number, zone)
        return number

    def send_as(self, number: int, datagram: bytes, to: Address) -> None:
        """Sends a datagram from a place that `attach` added."""
        self._send(self.nodes[number], datagram, to)

    def broadcast(self, number: int, payload: bytes, *, attributes: bytes = b"") -> MessageId:
        """Broadcasts `payload` from a node; with encoded `attributes` (`wire.attributes`) also as a node of
        another version would. Raises NotRunning or MessageTooLarge."""
        node, engine = self._running_engine(number)
        now = node.read_clock(self.now)
        message_id = engine.broadcast(payload, now, attributes=attributes)
        return self._record_broadcast(node, message_id)

    def publish(
        self,
        number: int,
        topic: str,
        payload: bytes,
        *,
        expires_s: int = 0,
        retain: str | None = None,
    ) -> MessageId:
        """Publishes `payload` under `topic` from a node; with `retain` it keeps it under that name for later
        subscribers. Raises NotRunning, MessageTooLarge, InvalidArgument or StateFull."""
        node, engine = self._running_engine(number)
        now = node.read_clock(self.now)
        message_id = engine.publish(topic, payload, now, expires_s=expires_s, retain=retain)
        return self._record_broadcast(node, message_id)

    def set_entry(
        self, number: int, key: str, value: bytes, *, ttl_s: int = 0, durable: bool = False
    ) -> None:
        """Sets an entry of a node in the keyed state. Raises NotRunning, InvalidArgument, MessageTooLarge or
        StateFull."""
        node, engine = self._running_engine(number)
        now = node.read_clock(self.now)
        engine.set_entry(key, value, now, ttl_s=ttl_s, is_durable=durable)
        self._drive(node)

    def delete_entry(self, number: int, key: str) -> bool:
        """Deletes a key; returns whether it had a value at that node. Raises NotRunning or
        InvalidArgument."""
        node, engine = self._running_engine(number)
        was_set = engine.delete_entry(key, node.read_clock(self.now))
        self._drive(node)
        return was_set

    def set_tags(self, number: int, tags: Mapping[str, str]) -> None:
        """Replaces the tags of a node until it restarts. Raises NotRunning or InvalidArgument."""
        node, engine = self._running_engine(number)
        engine.set_tags(tags, node.read_clock(self.now))
        self._drive(node)

    def value(self, number: int, key: str) -> bytes | None:
        """Returns the value of a key as a node sees it. Raises NotRunning."""
        node, engine = self._running_engine(number)
        return engine.state.shared.get(key, node.read_clock(self.now))

    def values_of(self, number: int, owner: int) -> dict[str, bytes]:
        """Returns the entries of node `owner` as node `number` sees them. Raises NotRunning."""
        node, engine = self._running_engine(number)
        peer_id = self.nodes[owner].peer_id
        return (
            {}
            if peer_id is None
            else engine.state.shared.values_of(peer_id, node.read_clock(self.now))
        )

    def subscribe(self, number: int, *patterns: str) -> None:
        """Replaces the patterns that a node subscribes to besides those of its configuration, until it
        restarts. Raises NotRunning or InvalidArgument."""
        self._running_engine(number)[1].subscribe(TopicPatterns.parse(*patterns))

    def trace(self, number: int, payload: bytes) -> MessageId:
        """Broadcasts `payload` and asks members to confirm it. Raises NotRunning or MessageTooLarge."""
        node, engine = self._running_engine(number)
        return self._record_broadcast(node, engine.trace(payload, node.read_clock(self.now)))

    def _record_broadcast(self, node: SimulatedNode, message_id: MessageId) -> MessageId:
        self._broadcast_log.record(message_id, node.number, self.now, self.datagrams, self.bytes)
        self._drive(node)
        return message_id

    def query(self, number: int, name: str, payload: bytes = b"", **terms: Any) -> MessageId:
        """Asks members and gathers their answers in the node's `answers`; `terms` are as in `QueryRequest`.
        Raises NotRunning, MessageTooLarge, InvalidArgument, NoMatchingMember or TooManyQueries."""
        node, engine = self._running_engine(number)
        request = QueryRequest(name, payload, **terms)
        message_id = engine.query(request, node.read_clock(self.now))
        self._drive(node)
        return message_id

    def on_query(self, name: str, handler: QueryHandler) -> None:
        """Answers queries of this name on every node with `handler(number, question)`; None refuses, as a
        node without a handler does."""
        self._query_handlers[name] = handler

    def query_report(self, message_id: MessageId) -> QueryReport:
        """Returns the report of one of the latest queries. Raises LookupError if it is none of them."""
        reports = (
            report
            for node in self.nodes
            if node.engine is not None
            for report in node.engine.queries()
        )
        return next(report for report in reports if report.id == message_id)

    def send(self, number: int, to: int | PeerId, payload: bytes) -> MessageId:
        """Sends a direct message to a node, by its number or ID. Raises NotRunning, UnknownPeer or
        MessageTooLarge."""
        node, engine = self._running_engine(number)
        peer_id = self.nodes[to].peer_id if isinstance(to, int) else to
        if peer_id is None:
            raise NotRunning(f"node {to} has not started")
        message_id = engine.send(peer_id, payload, node.read_clock(self.now))
        self._drive(node)
        return message_id

    def crash(self, number: int, *, lose_last_save: bool = False) -> None:
        """Stops a node as kill -9 does: its disk keeps the last save. `lose_last_save` simulates a power
        failure: a save of the last tenth of a second is lost, and the one before it remains."""
        if lose_last_save:
            self.nodes[number].lose_last_save(self.now)
        self._stop(self.nodes[number])

    def restart(
        self, number: int, *, lose_state: bool = False, lose_all_but_identity: bool = False
    ) -> None:
        """Starts a node again; with `lose_state` on an empty disk, and therefore with a new identity.
        `lose_all_but_identity`: what it kept is gone or damaged, except that."""
        node = self.nodes[number]
        self._stop(node)
        if lose_all_but_identity:
            node.lose_all_but_identity()
        node.start(self.now, lose_state=lose_state)
        self._respond(node)

    def reconfigure(self, number: int, **changes: object) -> None:
        """Changes settings of a node. A node that is down starts with them."""
        node = self.nodes[number]
        node.config = node.config.replace(**changes)
        if node.engine is not None:
            node.engine.reconfigure(node.config, node.read_clock(self.now))
            self._drive(node)

    def leave(self, number: int) -> None:
        """Shuts a node down gracefully: it sends what is queued, for at most five seconds."""
        node, engine = self._running_engine(number)
        node.is_leaving = True
        engine.leave(node.read_clock(self.now))
        self._schedule(self.now + LEAVE_TIMEOUT_S, _StepKind.LEAVE_TIMEOUT, node)
        self._drive(node)

    def suspend(self, number: int, seconds: float) -> None:
        """Suspends a machine: only its clock advances, and datagrams to it are lost."""
        node, _ = self._running_engine(number)
        node.suspended_at = self.now
        self._schedule(self.now + seconds, _StepKind.RESUME, node)

    def degrade(self, number: int, loss: float) -> None:
        """Loses datagrams from and to a node with this probability; 0 ends it."""
        self._network_model.set_loss(number, loss)

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
        self._schedule(self.now, _StepKind.ARRIVE, node, datagram, source, node.address_changes)

    def change_network(self, network: Network) -> None:
        """Changes the network from now on. Partitions, per-pair latencies and NATs remain."""
        self._network_model.network = network

    def move(self, number: int) -> None:
        """Changes the address of a node, as a NAT does. The node is not informed. A node behind a NAT is seen
        from another host from now on."""
        node = self.nodes[number]
        if self._nats is not None and not self._nats.is_public(number):
            self._nats.move(number)
            return
        del self._by_address[node.address]
        node.address_changes += 1
        before, node.address = node.address, _address(number, node.address_changes)
        self._by_address[node.address] = node
        if self._nats is not None:
            self._nats.rename(number, before, node.address)

    def rebind(self, number: int) -> None:
        """The NAT that this node is behind forgets its mappings."""
        if self._nats is None:
            raise ValueError("the network has no NATs")
        self._nats.rebind(number)

    def partition(self, *groups: Iterable[int], one_way: bool = False) -> None:
        """Blocks traffic between groups of nodes. Nodes in no group form another one. With
        `one_way`, only traffic from the first group to the second is blocked."""
        named = [frozenset(group) for group in groups]
        rest = frozenset(range(len(self.nodes))).difference(*named)
        if one_way:
            self._network_model.block(named[0], named[1] if len(named) > 1 else rest)
            return
        for group in (parts := [*named, rest]):
            for other in parts:
                if other is not group and group and other:
                    self._network_model.block(group, other)

    def heal(self) -> None:
        """Ends all partitions."""
        self._network_model.heal()

    # --- time -----------------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        """Advances virtual time."""
        until = self.now + seconds
        queue = self._queue
        while queue and queue[0][0] <= until:
            at, _, step, node, datagram, source, address_changes = heappop(queue)
            self.now = at
            self.steps += 1
            if step is _StepKind.ARRIVE and source is not None:
                self._on_arrival(node, datagram, source, address_changes)
            elif step is _StepKind.ARRIVE_AT_NAT and source is not None:
                self._on_arrival_at_nat(node, datagram, source, address_changes)
            else:
                self._run_step(step, node)
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

    # --- observation ----------------------------------------------------------------------------

    @property
    def next_at(self) -> float:
        """The virtual time at which something happens next; infinite if nothing ever does."""
        return self._queue[0][0] if self._queue else float("inf")

    def listen(self, listener: EventListener) -> None:
        """Calls `listener(time, number, event)` for every event of every node."""
        self._event_listeners.append(listener)

    def watch(self, listener: DatagramListener) -> None:
        """Calls `listener(time, number, datagram, to)` for every datagram that a node sends."""
        self._datagram_listeners.append(listener)

    def peers(self, number: int) -> list[PeerInfo]:
        """Returns the peers of a node; empty while it is down."""
        node = self.nodes[number]
        return [] if node.engine is None else node.engine.peers(node.read_clock(self.now))

    def connected(self, number: int) -> int:
        """Returns how many peers a node is connected to."""
        return sum(peer.state is PeerState.CONNECTED for peer in self.peers(number))

    def deliveries(self, message_id: MessageId) -> dict[int, int]:
        """Returns how often each node received a message; nodes that did not are omitted."""
        return self._broadcast_log.deliveries(message_id)

    def report(self, message_id: MessageId) -> BroadcastReport:
        """Returns how far a broadcast has spread by now."""
        return self._broadcast_log.report(message_id, self.datagrams, self.bytes)

    def latencies(self, message_id: MessageId) -> list[float]:
        """Returns the delivery times of a broadcast in virtual seconds, sorted."""
        return self._broadcast_log.latencies(message_id)

    @property
    def trace_hash(self) -> str:
        """Hash of everything that happened so far; equal for equal runs."""
        return self._trace.hexdigest()

    # --- steps ----------------------------------------------------------------------------------

    def _on_arrival(
        self, node: SimulatedNode, datagram: bytes, source: Address, address_changes: int
    ) -> None:
        engine = node.engine
        if node.receive is not None:
            node.receive(datagram, source)
            return
        if (
            engine is None
            or node.suspended_at is not None
            or node.address_changes != address_changes
        ):
            return
        if self._hashes_trace:
            self._trace.update(_TRACE_ENTRY.pack(b"a", self.now, node.number, len(datagram)))
        engine.receive(datagram, source, node.read_clock(self.now))
        self._respond(node)

    def _on_arrival_at_nat(
        self, node: SimulatedNode, datagram: bytes, source: Address, mapped_port: int
    ) -> None:
        nats = self._nats
        if nats is not None and nats.admits(node.number, mapped_port, source, self.now):
            self._on_arrival(node, datagram, source, node.address_changes)

    def _run_step(self, step: _StepKind, node: SimulatedNode) -> None:
        engine = node.engine
        if step is _StepKind.START:
            if engine is None:
                node.start(self.now)
                self._respond(node)
        elif engine is None:
            return
        elif step is _StepKind.WAKE:
            if node.wake_at == self.now and node.suspended_at is None:
                self._wake(node, engine)
        elif step is _StepKind.SAVE:
            node.is_save_scheduled = False
            node.save(self.now)
        elif step is _StepKind.LEAVE_TIMEOUT:
            if node.is_leaving:
                self._end(node, engine)
        elif step is _StepKind.RESUME and node.suspended_at is not None:
            now = node.read_clock(self.now)
            engine.on_lag(self.now - node.suspended_at, now)
            node.due_at = engine.deadline
            node.suspended_at = None
            self._wake(node, engine)

    def _wake(self, node: SimulatedNode, engine: Engine) -> None:
        node.wake_at = float("inf")
        now = node.wake(self.now)
        is_due = node.due_at <= now
        if is_due and node.lag_s:
            engine.on_lag(node.lag_s, now)
            is_due = engine.deadline <= now
        if is_due:
            engine.advance(now)
        self._respond(node)

    def _drive(self, node: SimulatedNode) -> None:
        """Takes a turn, as a driver does: what is due is done, then sent."""
        engine, now = node.engine, node.read_clock(self.now)
        if engine is not None and node.suspended_at is None and engine.deadline <= now:
            engine.advance(now)
        self._respond(node)

    def _respond(self, node: SimulatedNode) -> None:
        """Saves, sends, reports events, sleeps. After an arrival or a start that is all: what else is due
        follows within `MIN_STEP_S`, because a driver reads all datagrams that have come before it takes a
        turn."""
        engine, now = node.engine, node.read_clock(self.now)
        if engine is None or node.suspended_at is not None:
            return
        if node.has_unsaved_epoch:
            node.save(self.now)
        if node.has_unsaved_entries:
            node.save_entries(self.now)
        for datagram, address in engine.datagrams_to_send(now):
            self._send(node, datagram, address)
        while events := engine.events():  # a node that answers itself causes more
            for event in events:
                self._record(node, event)
                if isinstance(event, QueryReceived):
                    self._answer(node, engine, event.question)
        if engine.stop_reason is not None or (node.is_leaving and engine.is_drained):
            node.stop_reason = engine.stop_reason or ""
            self._end(node, engine)
            return
        if node.has_unsaved_state and not node.is_save_scheduled:
            node.is_save_scheduled = True
            self._schedule(self.now + SAVE_INTERVAL_S, _StepKind.SAVE, node)
        node.due_at = engine.deadline
        wake_at = max(node.to_virtual(node.due_at), self.now + MIN_STEP_S) + node.lag_s
        if wake_at < node.wake_at:
            node.wake_at = wake_at
            self._schedule(wake_at, _StepKind.WAKE, node)

    def _send(self, node: SimulatedNode, datagram: bytes, address: Address) -> None:
        self.datagrams += 1
        self.bytes += len(datagram)
        if self._hashes_trace:
            self._trace.update(_TRACE_ENTRY.pack(b"s", self.now, node.number, len(datagram)))
            self._trace.update(datagram)
        for listener in self._datagram_listeners:
            listener(self.now, node.number, datagram, address)
        source, step = node.address, _StepKind.ARRIVE
        if self._nats is None:
            target = self._by_address.get(address)
            if target is None:  # no node has this address, or it has moved
                return
            passes_if = target.address_changes
        else:
            route = self._nats.route(node.number, source, address, self.now)
            if route is None:
                return
            target, source, passes_if = self.nodes[route.number], route.source, route.mapped_port
            if passes_if:
                step = _StepKind.ARRIVE_AT_NAT
            else:
                passes_if = target.address_changes
        if self._network_model.crosses_zones(node.number, target.number):
            self.bytes_between_zones += len(datagram)
        for delay_s, arrival in self._network_model.transmit(node.number, target.number, datagram):
            at = self.now + (delay_s + target.lag_s)
            self._schedule(at, step, target, arrival, source, passes_if)

    def _answer(self, node: SimulatedNode, engine: Engine, question: Question) -> None:
        """Runs the handler of a question. What it sends goes out in a step of its own."""
        handler = self._query_handlers.get(question.name)
        payload = None if handler is None else handler(node.number, question)
        status = AnswerStatus.REFUSED if payload is None else AnswerStatus.ANSWERED
        engine.answer(question.id, payload or b"", node.read_clock(self.now), status=status)

    def _record(self, node: SimulatedNode, event: Event) -> None:
        if self._hashes_trace:
            self._trace.update(_TRACE_ENTRY.pack(b"e", self.now, node.number, 0))
            self._trace.update(repr(values_of(event)).encode())
        if isinstance(event, MessageReceived):
            node.record_delivery(event.message, self.now)
        elif isinstance(event, QueryAnswered):
            node.answers.setdefault(event.id, []).append(event.answer)
        elif isinstance(event, InternalErrorContained):
            # a real node continues; a simulation exists to find bugs
            raise RuntimeError(f"node {node.number}: {event.problem}")  # noqa: TRY004
        for listener in self._event_listeners:
            listener(self.now, node.number, event)

    def _end(self, node: SimulatedNode, engine: Engine) -> None:
        """Ends a node as a driver does, with a last save and what it has to report."""
        engine.end_deliveries()
        for event in engine.events():
            self._record(node, event)
        node.save(self.now)
        self._stop(node)

    def _stop(self, node: SimulatedNode) -> None:
        node.stop()
        node.is_leaving = False

    def _schedule(
        self,
        at: float,
        step: _StepKind,
        node: SimulatedNode,
        datagram: bytes = b"",
        source: Address | None = None,
        address_changes: int = 0,
    ) -> None:
        self._sequence += 1  # keeps the order of simultaneous entries, so nodes are never compared
        heappush(self._queue, (at, self._sequence, step, node, datagram, source, address_changes))

    def _running_engine(self, number: int) -> tuple[SimulatedNode, Engine]:
        node = self.nodes[number]
        if node.engine is None or node.suspended_at is not None:
            raise NotRunning(f"node {number} is down")
        return node, node.engine


def _address(number: int, address_changes: int) -> Address:
    return Address(
        f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}", PORT + address_changes
    )
