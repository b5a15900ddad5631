"""The asyncio node: an `Engine`, a UDP socket, a clock, and a state directory if one is given.

What must stay true:

- One task reads the socket, one writes it. The writer (the pump) is also the only one that lets the
  engine's time pass.
- What came is told before anything is done about it: the reader tells what it read, and wakes the
  pump only after whoever was told has had its turn. All is told in the order in which it happened.
- No error of the system, of a handler or of one peer ends a task or costs another peer a datagram.
- No turn of the loop is taken for long: reader and pump work in bounded batches.
- An epoch is on disk before anything is sent under it.
- The clock counts the time that the machine was suspended; when the loop comes late, the engine is
  told before it judges anybody by the time that passed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import replace
from enum import Enum, auto
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

from grapevine_proto.clock import TICK_S, Lag, clock
from grapevine_proto.config import NodeConfig
from grapevine_proto.delivery import EventHub, EventListener, EventStream, MessageListener
from grapevine_proto.endpoint import Endpoint, EndpointClosed
from grapevine_proto.engine import Engine
from grapevine_proto.errors import (
    ConfigError,
    DropReason,
    GrapevineError,
    NotRunning,
    StateLockedError,
    UnknownPeer,
)
from grapevine_proto.events import (
    DatagramDropped,
    Event,
    MemberInfo,
    NodeStarted,
    NodeStopped,
    PeerInfo,
    PeerState,
    PeerStateChanged,
    Round,
    StateUnsaved,
    Stats,
    Trace,
)
from grapevine_proto.ids import Address, MessageId, PeerId, literal
from grapevine_proto.keeping import Keeping
from grapevine_proto.names import Names

logger = logging.getLogger("grapevine")

BATCH: Final = 64  # datagrams read, sent, or events told per turn: about 4 ms of work at 60 us each
BROADCASTS_PER_TURN: Final = 256  # a millisecond of work, and enough to share a signature
UNTOLD_LIMIT: Final = 4096  # events; a datagram on loopback brings hundreds of small messages
LEAST_WAIT_S: Final = 0.001  # what timers can do; keeps a deadline in the past from spinning
SAVE_INTERVAL_S: Final = 1.0  # so at most the last second is told again after a kill -9
FAULT_PAUSE_S: Final = 0.5

_MessageListenerT = TypeVar("_MessageListenerT", bound=MessageListener)
_EventListenerT = TypeVar("_EventListenerT", bound=EventListener)


class Phase(Enum):
    NEW = auto()
    RUNNING = auto()
    LEAVING = auto()
    STOPPED = auto()


class Node:
    """One member of a cluster. `start` it or enter it, inside a running loop; `leave` it or exit it.

    Methods that act raise NotRunning before `start` and after `leave`, and StateLockedError once
    the node stopped because its identity is in use elsewhere. What there is to see (`peers`,
    `stats`, ...) can be asked for until the end and after.
    """

    def __init__(self, config: NodeConfig, *, state_dir: str | Path | None = None) -> None:
        self._config = config
        self._keeping = Keeping(state_dir, lambda problem: self._publish(StateUnsaved(problem)))
        self._phase = Phase.NEW
        self._failure: GrapevineError | None = None
        self._engine_: Engine | None = None
        self._endpoint_: Endpoint | None = None
        self._names = Names(self._resolve, self._on_resolved)
        self._hub = EventHub(config.limits.events, config.limits.event_bytes)
        self._tasks: list[asyncio.Task[None]] = []
        self._asides: set[asyncio.Task[None]] = set()
        self._leaving: asyncio.Task[int] | None = None
        self._is_left_by_handler = False
        self._closing: asyncio.Task[None] | None = None
        # waiting
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._awaited_bytes = 0  # of the payload that waits for room longest
        self._in_line = asyncio.Lock()
        self._unpumped = 0
        self._drained = asyncio.Event()
        self._peers_changed = asyncio.Event()
        self._untold: deque[Event] = deque()
        self._lag = Lag(self.now())
        self._overruns_told = 0

    # --- beginning and end ----------------------------------------------------------------------

    async def start(self) -> None:
        """Bind, load what was kept and begin to gossip.

        Raises ConfigError (no key, a state directory that cannot be used), BindError and
        StateLockedError; after those nothing is open, and it may be tried again. NotRunning where
        this node was started before.
        """
        if self._phase is not Phase.NEW:
            raise NotRunning("this node was started before; make a new one")
        if not self._config.keys:
            raise ConfigError("keys", "no cluster key: ClusterKey.generate() or .load(path)")
        self._phase = Phase.RUNNING
        try:
            saved = await self._keeping.load()
            self._endpoint_ = await Endpoint.open(self._config.bind)
            self._lag = Lag(self.now())
            engine = self._engine_ = Engine(
                self._config,
                saved,
                address=self._endpoint_.dialable,
                rng=random.Random(os.urandom(16)),
                entropy=os.urandom,
                now=self.now(),
            )
        except BaseException:
            self._phase = Phase.NEW
            self._release()
            raise
        self._publish(NodeStarted(engine.peer_id, self.address, engine.epoch))
        self._names.follow(self._config.bootstrap_peers)
        self._tasks = [
            asyncio.create_task(self._read(), name="grapevine reader"),
            asyncio.create_task(self._pump(), name="grapevine pump"),
            asyncio.create_task(self._names.run(), name="grapevine names"),
            asyncio.create_task(self._keep_state(), name="grapevine state"),
        ]

    async def ready(self, min_peers: int = 1, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Wait until so many peers are connected. Raises TimeoutError after `timeout` seconds."""
        async with asyncio.timeout(timeout):
            while True:
                self._running()
                connected = [p for p in self.peers() if p.state is PeerState.CONNECTED]
                if len(connected) >= min_peers:
                    return
                self._peers_changed.clear()
                await self._peers_changed.wait()

    async def leave(self, timeout: float = 5.0) -> int:  # noqa: ASYNC109
        """Say good-bye, hand over what is queued for at most `timeout` seconds, save, close.

        Returns how many broadcasts nobody took. Asked again, answers the same.
        """
        if self._phase is Phase.NEW:
            raise NotRunning("this node has not been started")
        if self._leaving is None:
            self._is_left_by_handler = self._hub.is_called_by(asyncio.current_task())
            self._leaving = asyncio.create_task(self._leave(timeout))
        return await asyncio.shield(self._leaving)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.leave()

    async def _leave(self, timeout_s: float) -> int:
        give_up_at = self.now() + timeout_s
        try:
            if self._phase is Phase.RUNNING:
                self._phase = Phase.LEAVING
                self._engine.leave(self.now())
                self._room.set()
                self._wake.set()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(timeout_s):
                        await self._drained.wait()
            untaken = self.untaken
        finally:
            await self._close("left", max(0.0, give_up_at - self.now()))
        return untaken

    def _fail(self, error: GrapevineError) -> None:
        """Stop at once, for a reason that nobody asked for."""
        if self._closing is None and self._phase is Phase.RUNNING:
            logger.error("stopping: %s", error)
            self._failure = error
            self._closing = asyncio.create_task(self._close(str(error), 1.0))

    async def _close(self, reason: str, patience_s: float) -> None:
        """Stop the tasks, save, close the socket. `patience_s` is for handlers still at work."""
        if self._closing is not None and self._closing is not asyncio.current_task():
            await asyncio.shield(self._closing)
            return
        self._phase = Phase.STOPPED
        tasks = [*self._tasks, *self._asides]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        try:
            await self._save()
        finally:
            self._release()
        self._publish(NodeStopped(reason))
        for event in (self._room, self._peers_changed, self._drained):
            event.set()
        await self._hub.close(None if self._is_left_by_handler else patience_s)

    def _release(self) -> None:
        """Close what is open."""
        if self._endpoint_ is not None:
            self._endpoint_.close()
        self._keeping.close()

    # --- what a node can be asked to do ---------------------------------------------------------

    async def broadcast(self, payload: bytes) -> MessageId:
        """Tell everybody. Waits while no linked peer has room, and so never drops; with nobody
        linked the message is held for whoever comes in time. Raises MessageTooLarge."""
        return await self._when_there_is_room(Engine.broadcast, payload)

    async def trace(self, payload: bytes) -> MessageId:
        """Tell everybody, as `broadcast` does, and have them say that they have it: TraceUpdated
        events and `traces` tell who, how soon and over how many hops. All are asked up to 100
        members, above that a sample of about 100. Raises MessageTooLarge."""
        return await self._when_there_is_room(Engine.trace, payload)

    async def _when_there_is_room(
        self, say: Callable[[Engine, bytes, float], MessageId], payload: bytes
    ) -> MessageId:
        engine = self._running()
        self._unpumped += 1
        if self._unpumped >= BROADCASTS_PER_TURN:
            await asyncio.sleep(0)  # or a loop of broadcasts would keep the pump from its work
        if engine.has_room_for(len(payload)) and not self._in_line.locked():
            self._running()
            return self._say(engine, say, payload)
        async with self._in_line:  # whoever waits longest goes first
            self._awaited_bytes = len(payload)
            while not engine.has_room_for(len(payload)) and self._phase is Phase.RUNNING:
                self._room.clear()
                self._wake.set()
                await self._room.wait()
            self._running()
            return self._say(engine, say, payload)

    def _say(
        self, engine: Engine, say: Callable[[Engine, bytes, float], MessageId], payload: bytes
    ) -> MessageId:
        message_id = say(engine, payload, self.now())
        if not self._wake.is_set():
            self._wake.set()
        return message_id

    async def send(self, to: PeerId | Address | str, payload: bytes) -> MessageId:
        """Tell one member alone, by its id or its address: over its link, or over a short session made
        for it, and then nobody may answer, which `MessageSent` tells. Raises UnknownPeer,
        MessageTooLarge."""
        engine = self._running()
        message_id = engine.send(self._peer_id_of(to), payload, self.now())
        self._wake.set()
        await asyncio.sleep(0)
        return message_id

    def dial(self, where: str | Address) -> asyncio.Future[None]:
        """Knock at ``host:port``; how it ends is told by events. The future is done once the name
        is resolved and need not be awaited. Raises ConfigError where that is no address; the future
        raises UnknownPeer where the name does not resolve."""
        self._running()
        try:
            address = literal(str(where))
        except ValueError as error:
            raise ConfigError("address", str(error)) from None
        if address is not None:
            self._dial((address,))
            done = asyncio.get_running_loop().create_future()
            done.set_result(None)
            return done
        return self._aside(self._dial_name(str(where)))

    def start_round(self) -> None:
        """Begin an anti-entropy round now."""
        self._running().start_round(self.now())
        self._wake.set()

    def forget(self, peer_id: PeerId) -> None:
        """Strike somebody who is gone from peers and members, until anyone tells of it again. Raises
        UnknownPeer where it is linked or not known."""
        self._running().forget(peer_id)

    def reconfigure(self, config: NodeConfig) -> tuple[str, ...]:
        """Take over `config` as far as a running node can; returns the fields that need a restart."""
        if not config.keys:
            raise ConfigError("keys", "no cluster key")
        restart = self._running().reconfigure(config, self.now())
        self._config = self._config.replace(bootstrap_peers=config.bootstrap_peers)
        self._names.follow(config.bootstrap_peers)
        self._wake.set()
        return restart

    def on_message(self, listener: _MessageListenerT) -> _MessageListenerT:
        """Call `listener` with each message from now on, one after another; where it returns an
        awaitable, that is awaited first. Returns it, so that this can be a decorator."""
        self._hub.handle(listener)
        return listener

    def on_event(self, listener: _EventListenerT) -> _EventListenerT:
        """Call `listener` with every event as it happens. It runs in the pump: keep it short."""
        self._hub.listen(listener)
        return listener

    def events(self) -> EventStream:
        """Every event from now on, in a queue of the caller's own. Ends when the node has stopped."""
        return self._hub.stream()

    # --- what there is to see -------------------------------------------------------------------

    @property
    def peer_id(self) -> PeerId:
        return self._engine.peer_id

    @property
    def address(self) -> Address:
        """The bound address."""
        return self._endpoint.address

    @property
    def advertised(self) -> Address:
        """The address that others are told to dial."""
        if self._config.advertise:
            return Address.parse(self._config.advertise)
        return self._endpoint.dialable

    @property
    def epoch(self) -> int:
        return self._engine.epoch

    @property
    def untaken(self) -> int:
        """How many broadcasts of ours nobody is known to have, of all since the start."""
        return 0 if self._engine_ is None else self._engine_.untaken

    @property
    def lag_s(self) -> float:
        """How late the loop was at worst in the last seconds."""
        return self._lag.worst_s(self.now())

    @property
    def state_problem(self) -> str:
        """What was wrong with the state directory when it was read; empty: nothing."""
        return self._keeping.found_wrong

    def now(self) -> float:
        """The clock of this node's events."""
        return clock()

    def peers(self) -> list[PeerInfo]:
        return self._engine.peers(self.now())

    def members(self) -> list[MemberInfo]:
        return self._engine.members()

    def rounds(self) -> list[Round]:
        return self._engine.rounds()

    def traces(self) -> list[Trace]:
        """The latest traced messages of this node and how far they got, the oldest first."""
        return self._engine.traces()

    def stats(self) -> Stats:
        stats = self._engine.stats()
        overruns = self._endpoint.overruns
        return replace(
            stats,
            dropped=(*stats.dropped, (DropReason.NO_ROOM, overruns)) if overruns else stats.dropped,
            events_lost=stats.events_lost + self._hub.lost,
            unsent=stats.unsent + self._endpoint.errors,
        )

    # --- the tasks ------------------------------------------------------------------------------

    async def _read(self) -> None:
        engine, endpoint = self._engine, self._endpoint
        batch = 0
        while True:
            try:
                datagram, source = await endpoint.receive()
            except EndpointClosed:
                self._fail(NotRunning("the socket was closed under the node"))
                return
            engine.receive(datagram, source, self._tick())
            batch += 1
            if batch < BATCH and endpoint.has_more:
                continue
            batch = 0
            self._tell_some()
            self._wake.set()  # the pump; whoever was told has its turn before, for it was woken before
            if endpoint.has_more:
                await asyncio.sleep(0)
            while len(self._untold) > UNTOLD_LIMIT:  # what is not read yet can wait where it is
                self._tell_some()
                await asyncio.sleep(0)

    async def _pump(self) -> None:
        while self._phase in (Phase.RUNNING, Phase.LEAVING):
            try:
                await self._turn()
            except EndpointClosed:
                self._fail(NotRunning("the socket was closed under the node"))
                return
            except Exception:
                logger.exception("a fault in the node; it goes on")
                await asyncio.sleep(FAULT_PAUSE_S)

    async def _turn(self) -> None:
        """Let time pass, send what is due, tell what happened, wait for the next reason to wake."""
        engine = self._engine
        self._wake.clear()
        self._unpumped = 0
        now = self._tick()
        if engine.deadline <= now:
            engine.advance(now)
        sent = await self._send_all()
        told = await self._tell_all()
        if engine.stopped is not None:
            self._fail(StateLockedError(engine.stopped))
        if engine.has_room_for(self._awaited_bytes):
            self._room.set()
        if self._phase is Phase.LEAVING and engine.is_drained:
            self._drained.set()
        if self._wake.is_set():
            await asyncio.sleep(0)
            return
        least_s = 0.0 if sent or told else LEAST_WAIT_S
        delay_s = min(max(engine.deadline - self.now(), least_s), TICK_S)
        timer = asyncio.get_running_loop().call_later(delay_s, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()

    async def _send_all(self) -> int:
        engine, endpoint = self._engine, self._endpoint
        if not self._keeping.covers(engine.epoch) and not await self._save():
            return 0  # nothing may be sent under an epoch that could be used again
        datagrams = engine.datagrams_to_send(self.now())
        for number, (datagram, address) in enumerate(datagrams, 1):
            await endpoint.send(datagram, address)
            if number % BATCH == 0:
                await asyncio.sleep(0)
        while endpoint.too_large:
            engine.refused(*endpoint.too_large.pop(), self.now())
        return len(datagrams)

    def _tell_some(self) -> int:
        """Tell a batch of what happened; how much that was."""
        untold = self._untold
        untold += self._engine.events()
        count = min(len(untold), BATCH)
        for _ in range(count):
            self._publish(untold.popleft())
        return count

    async def _tell_all(self) -> int:
        count = self._tell_some()
        while self._untold:
            await asyncio.sleep(0)
            count += self._tell_some()
        return count

    def _tick(self) -> float:
        """The time; the engine is told first where the loop comes late to it."""
        now = self.now()
        late_s = self._lag.tick(now)
        if late_s:
            self._engine.lagged(late_s, now)
        return now

    async def _keep_state(self) -> None:
        """Once a second: save what changed, and tell what came too quick to be read."""
        while True:
            await asyncio.sleep(SAVE_INTERVAL_S)
            overruns = self._endpoint.overruns
            if overruns > self._overruns_told:
                count = overruns - self._overruns_told
                self._publish(DatagramDropped(DropReason.NO_ROOM, count))
                self._overruns_told = overruns
            await self._save()

    # --- their parts ----------------------------------------------------------------------------

    def _running(self) -> Engine:
        if self._phase is Phase.RUNNING:
            return self._engine
        if self._failure is not None:
            raise self._failure
        raise NotRunning("this node has not started" if self._phase is Phase.NEW else "it has left")

    @property
    def _engine(self) -> Engine:
        if self._engine_ is None:
            raise NotRunning("this node has not been started")
        return self._engine_

    @property
    def _endpoint(self) -> Endpoint:
        if self._endpoint_ is None:
            raise NotRunning("this node has not been started")
        return self._endpoint_

    def _publish(self, event: Event) -> None:
        self._hub.publish(event)
        if isinstance(event, PeerStateChanged):
            self._peers_changed.set()

    async def _save(self) -> bool:
        return await self._keeping.save(self._engine, self.now())

    def _dial(self, addresses: tuple[Address, ...]) -> None:
        for address in addresses:
            self._running().dial(address, self.now())
        self._wake.set()

    async def _resolve(self, name: str) -> tuple[Address, ...]:
        return await self._endpoint.resolve(name)

    async def _dial_name(self, name: str) -> None:
        addresses = await self._resolve(name)
        if not addresses:
            raise UnknownPeer(f"{name}: the name does not resolve")
        self._dial(addresses)

    def _on_resolved(self, name: str, addresses: tuple[Address, ...]) -> None:
        self._engine.resolved(name, addresses, self.now())
        self._wake.set()

    def _aside(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Do `work` beside; whoever wants to know how it went awaits the task."""
        task = asyncio.create_task(work)
        self._asides.add(task)
        task.add_done_callback(self._forget_aside)
        return task

    def _forget_aside(self, task: asyncio.Task[None]) -> None:
        self._asides.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.info("%s", task.exception())

    def _peer_id_of(self, to: PeerId | Address | str) -> PeerId:
        if isinstance(to, PeerId):
            return to
        with contextlib.suppress(ValueError):
            return PeerId.parse(str(to))
        with contextlib.suppress(ValueError):
            found = self._running().whose(Address.parse(str(to)))
            if found is not None:
                return found
        raise UnknownPeer(f"no peer {to}")
