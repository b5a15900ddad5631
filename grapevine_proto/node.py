"""The asyncio node: an `Engine` with a UDP socket, a clock and an optional state directory.

Invariants:

- It owns all tasks (`pump`, names, state) and ends them. An error in serving one peer ends none.
- Calls of `broadcast` wait for room in order, and waiting calls end when the node stops.
- An epoch is on disk before anything is sent under it.
- The clock includes the time that the machine was suspended.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
from collections.abc import Callable, Coroutine
from dataclasses import replace
from enum import Enum, auto
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

from grapevine_proto.checks import BytesLike, check_callable, check_seconds, payload_bytes
from grapevine_proto.clock import clock
from grapevine_proto.config import NodeConfig
from grapevine_proto.delivery import EventHub, EventListener, EventStream, MessageListener, OnFull
from grapevine_proto.endpoint import Endpoint
from grapevine_proto.engine import Engine
from grapevine_proto.errors import (
    ConfigError,
    DropReason,
    GrapevineError,
    InvalidArgument,
    NotRunning,
    UnknownPeer,
)
from grapevine_proto.events import (
    DatagramDropped,
    Event,
    MemberInfo,
    Message,
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
from grapevine_proto.forks import give_up_in_children
from grapevine_proto.ids import Address, MessageId, PeerId, literal
from grapevine_proto.keeping import Keeping
from grapevine_proto.names import Names
from grapevine_proto.pump import Pump

logger = logging.getLogger("grapevine")

BROADCASTS_PER_TURN: Final = 256  # a millisecond of work, and enough to share a signature
ADDRESS_INTERVAL_S: Final = 2.0  # between checks of our own addresses, 20 us each
SAVE_INTERVAL_S: Final = 1.0  # so a kill -9 repeats at most the last second

_MessageListenerT = TypeVar("_MessageListenerT", bound=MessageListener)
_EventListenerT = TypeVar("_EventListenerT", bound=EventListener)


class Phase(Enum):
    NEW = auto()
    RUNNING = auto()
    LEAVING = auto()
    STOPPED = auto()
    FORKED = auto()  # the copy in a forked child, which owns nothing


class Node:
    """One member of a cluster. Use it as an async context manager, or call `start` and `leave`.

    Methods that act raise NotRunning before `start` and after `leave`, and StateLockedError once
    the node has stopped because its identity is in use elsewhere. Status methods (`peers`, `stats`,
    ...) also work after the node has stopped. A node belongs to the event loop and the process in
    which it was started: calls from another thread or from a forked child raise NotRunning.

    Args:
        config: the settings, with at least one cluster key.
        state_dir: directory for identity, epoch and delivery state. Without one, the node has a new
            identity each time.
    """

    def __init__(self, config: NodeConfig, *, state_dir: str | Path | None = None) -> None:
        if not isinstance(config, NodeConfig):
            raise InvalidArgument(f"config: expected a NodeConfig, not {type(config).__name__}")
        self._config = config
        self._keeping = Keeping(state_dir, lambda problem: self._publish(StateUnsaved(problem)))
        self._phase = Phase.NEW
        self._failure: GrapevineError | None = None
        self._engine_: Engine | None = None
        self._endpoint_: Endpoint | None = None
        self._pump_: Pump | None = None
        self._names = Names(self._resolve, self._on_resolved)
        self._hub = EventHub(config.limits.events, config.limits.event_bytes, self._on_pause)
        self._tasks: list[asyncio.Task[None]] = []
        self._asides: set[asyncio.Task[None]] = set()
        self._leaving: asyncio.Task[int] | None = None
        self._is_left_by_handler = False
        self._closing: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped = asyncio.Event()
        # waiting
        self._in_line = asyncio.Lock()
        self._peers_changed = asyncio.Event()
        self._overruns_told = 0
        give_up_in_children(self)

    def on_forked(self) -> None:
        """Called in a forked child: releases everything; each later call raises NotRunning."""
        if self._phase not in (Phase.RUNNING, Phase.LEAVING):
            return
        self._phase = Phase.FORKED
        self._failure = NotRunning(
            "this process was forked from the one that runs the node; start a node of its own"
        )
        if self._endpoint_ is not None:
            self._endpoint_.on_forked()
        self._engine_ = self._endpoint_ = self._pump_ = None  # and with it the keys of all sessions

    def _check_process(self) -> None:
        if self._phase is Phase.FORKED and self._failure is not None:
            raise self._failure

    # --- beginning and end ----------------------------------------------------------------------

    async def start(self) -> None:
        """Loads the state, binds the address and joins the cluster. After an error nothing is open,
        and the call may be repeated.

        Raises:
            ConfigError: no cluster key, or an unusable state directory.
            BindError: the address is in use or not on this machine.
            StateLockedError: another node uses the state directory or the identity.
            NotRunning: the node was started before.
        """
        if self._phase is not Phase.NEW:
            raise NotRunning("this node was started before; make a new one")
        if not self._config.keys:
            raise ConfigError("keys", "no cluster key: ClusterKey.generate() or .load(path)")
        self._phase = Phase.RUNNING
        self._loop = asyncio.get_running_loop()
        try:
            saved = await self._keeping.load()
            self._endpoint_ = await Endpoint.open(self._config.bind)
            engine = self._engine_ = Engine(
                self._config,
                saved,
                address=self._endpoint_.dialable,
                rng=random.Random(os.urandom(16)),
                entropy=os.urandom,
                now=self.now(),
            )
            self._pump_ = Pump(
                engine, self._endpoint_, self._publish, self._fail, self._may_send, self.now
            )
        except BaseException:
            self._phase = Phase.NEW
            self._release()
            raise
        engine.moved(self._endpoint.find_addresses(), self.now())
        self._publish(NodeStarted(engine.peer_id, self.address, engine.epoch))
        self._names.follow(self._config.bootstrap_peers)
        self._tasks = [
            asyncio.create_task(self._pump.read(), name="grapevine reader"),
            asyncio.create_task(self._pump.run(), name="grapevine pump"),
            asyncio.create_task(self._names.run(), name="grapevine names"),
            asyncio.create_task(self._keep_state(), name="grapevine state"),
        ]
        if self._endpoint.is_wildcard and not self._config.advertise:
            self._tasks.append(
                asyncio.create_task(self._follow_addresses(), name="grapevine addresses")
            )
        for task in self._tasks:
            task.add_done_callback(self._on_task_done)

    async def ready(self, min_peers: int = 1, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Waits until `min_peers` peers are connected.

        Raises:
            TimeoutError: after `timeout` seconds; None waits without limit.
            InvalidArgument: an argument of the wrong type.
        """
        if type(min_peers) is not int or min_peers < 0:
            raise InvalidArgument(f"min_peers: expected a whole number, not {min_peers!r}")
        if timeout is not None:
            check_seconds("timeout", timeout)
        self._check_process()
        async with asyncio.timeout(timeout):
            while True:
                self._running()
                connected = [p for p in self.peers() if p.state is PeerState.CONNECTED]
                if len(connected) >= min_peers:
                    return
                self._peers_changed.clear()
                await self._peers_changed.wait()

    async def leave(self, timeout: float = 5.0) -> int:  # noqa: ASYNC109
        """Shuts down gracefully: sends what is queued, leaves the cluster, waits for message
        handlers, saves, closes.

        With unacknowledged broadcasts and bootstrap peers it first waits for a connection. Messages
        that no handler finished are saved as not seen, so the next run with the same state
        directory receives them again. Repeated calls return the same result.

        Args:
            timeout: maximum seconds for all of this.

        Returns:
            The number of broadcasts that no peer acknowledged.

        Raises:
            NotRunning: the node was not started.
            InvalidArgument: `timeout` is not a number of seconds.
        """
        check_seconds("timeout", timeout)
        self._check_process()
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
        if self._phase is Phase.FORKED:  # the end of a block that the parent leaves by itself
            return
        await self.leave()
        if self._failure is not None and error is None:
            raise self._failure

    @property
    def is_running(self) -> bool:
        """Whether this node has started and has neither left nor stopped."""
        return self._phase is Phase.RUNNING and self._failure is None

    async def wait_stopped(self) -> None:
        """Waits until this node has stopped. Returns after `leave`.

        Raises:
            StateLockedError: the node stopped because its identity is in use elsewhere.
            NotRunning: the node was not started, or an internal error stopped it.
        """
        self._check_process()
        if self._phase is Phase.NEW:
            raise NotRunning("this node has not been started")
        await self._stopped.wait()
        if self._failure is not None:
            raise self._failure

    async def _leave(self, timeout_s: float) -> int:
        give_up_at = self.now() + timeout_s
        try:
            if self._phase is Phase.RUNNING:
                self._phase = Phase.LEAVING
                await self._wait_for_first_peer(timeout_s)
                self._engine.leave(self.now())
                self._pump.room.set()
                self._pump.wake()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, give_up_at - self.now())):
                        await self._pump.drained.wait()
            untaken = self.untaken
            if untaken:
                logger.warning(
                    "left: %d broadcast%s not acknowledged by any peer",
                    untaken,
                    " was" if untaken == 1 else "s were",
                )
        finally:
            await self._close("left", max(0.0, give_up_at - self.now()))
        return untaken

    async def _wait_for_first_peer(self, timeout_s: float) -> None:
        """Waits for the first connection if there are unacknowledged broadcasts: a program that joins,
        broadcasts and exits is not connected yet."""
        if not self._config.bootstrap_peers or not self.untaken or self._engine.has_linked:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not self._engine.has_linked:
                    self._peers_changed.clear()
                    await self._peers_changed.wait()

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        """Stops the node if one of its tasks ended by itself: it would no longer receive or send."""
        if task.cancelled() and self._phase is Phase.STOPPED:
            return
        error = None if task.cancelled() else task.exception()
        if error is not None:
            logger.critical("%s ended", task.get_name(), exc_info=error)
        self._fail(NotRunning(f"the task {task.get_name()!r} ended"))

    def _fail(self, error: GrapevineError) -> None:
        """Stops the node because of `error`."""
        if self._closing is None and self._phase in (Phase.RUNNING, Phase.LEAVING):
            logger.error("stopping: %s", error)
            self._failure = error
            self._closing = asyncio.create_task(self._close(str(error), 1.0))

    async def _close(self, reason: str, patience_s: float) -> None:
        """Stops the tasks, saves, closes the socket. Handlers get `patience_s` seconds to finish."""
        if self._closing is not None and self._closing is not asyncio.current_task():
            await asyncio.shield(self._closing)
            return
        self._phase = Phase.STOPPED
        tasks = [*self._tasks, *self._asides]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for event in (self._pump.room, self._peers_changed, self._pump.drained):
            event.set()
        if not self._is_left_by_handler:
            await self._hub.finish(patience_s)
        self._report_unhandled()
        try:
            await self._save()
        finally:
            self._release()
        self._publish(NodeStopped(reason))
        self._hub.end()
        self._stopped.set()

    def _unhandled(self) -> list[Message]:
        return self._hub.unhandled(but_in_hand=self._is_left_by_handler)

    def _report_unhandled(self) -> None:
        unhandled = self._unhandled()
        if not unhandled:
            return
        comes_again = sum(not message.private for message in unhandled)
        if not self._keeping.is_kept:
            comes_again = 0
        logger.warning(
            "left: %d messages were not handled in time; %d of them come again after a restart",
            len(unhandled),
            comes_again,
        )

    def _release(self) -> None:
        """Closes the socket and the state directory."""
        if self._endpoint_ is not None:
            self._endpoint_.close()
        self._keeping.close()

    # --- actions ----------------------------------------------------------------------------------

    async def broadcast(self, payload: BytesLike) -> MessageId:
        """Sends `payload` to every member.

        Waits while no connected peer has room, so it never drops. With no peer connected, the message is
        cached for peers that connect within `message_dedup_ttl`.

        Raises:
            MessageTooLarge: the payload exceeds `max_message_size`.
            InvalidArgument: the payload is not bytes-like.
        """
        return await self._when_there_is_room(Engine.broadcast, payload_bytes(payload))

    async def trace(self, payload: BytesLike) -> MessageId:
        """Broadcasts `payload` and asks members to confirm it.

        TraceUpdated events and `traces` report which members have it, how fast and over how many
        hops. Up to 100 members are all asked, above that a sample of about 100. Raises as
        `broadcast`.
        """
        return await self._when_there_is_room(Engine.trace, payload_bytes(payload))

    async def _when_there_is_room(
        self, say: Callable[[Engine, bytes, float], MessageId], payload: bytes
    ) -> MessageId:
        engine, pump = self._running(), self._pump
        pump.unpumped += 1
        if pump.unpumped >= BROADCASTS_PER_TURN:
            await asyncio.sleep(0)  # or a loop of broadcasts would starve the pump
        if engine.has_room_for(len(payload)) and not self._in_line.locked():
            self._running()
            return self._say(engine, say, payload)
        async with self._in_line:  # first come, first served
            pump.awaited_bytes = len(payload)
            while not engine.has_room_for(len(payload)) and self._phase is Phase.RUNNING:
                pump.room.clear()
                pump.wake()
                await pump.room.wait()
            self._running()
            return self._say(engine, say, payload)

    def _say(
        self, engine: Engine, say: Callable[[Engine, bytes, float], MessageId], payload: bytes
    ) -> MessageId:
        message_id = say(engine, payload, self.now())
        self._pump.wake()
        return message_id

    async def send(self, to: PeerId | Address | str, payload: BytesLike) -> MessageId:
        """Sends `payload` to one member, over its link or over a transient session opened for it.

        `MessageSent` follows when it is on its way, or with 0 peers if the member did not answer.

        Args:
            to: the member's ID or address.
            payload: a bytes-like object.

        Raises:
            UnknownPeer: no peer or known member has this ID or address.
            MessageTooLarge: the payload exceeds `max_message_size`.
            InvalidArgument: the payload is not bytes-like.
        """
        engine, payload = self._running(), payload_bytes(payload)
        message_id = engine.send(self._peer_id_of(to), payload, self.now())
        self._pump.wake()
        await asyncio.sleep(0)
        return message_id

    def dial(self, where: str | Address) -> asyncio.Future[None]:
        """Dials ``host:port``. `PeerStateChanged` or `DialFailed` reports the outcome.

        Returns:
            A future that is done once the name is resolved, and raises UnknownPeer if it does not
                resolve. It need not be awaited.

        Raises:
            ConfigError: `where` is not an address.
            InvalidArgument: `where` is neither text nor an Address.
        """
        self._running()
        if not isinstance(where, (str, Address)):
            raise InvalidArgument(f"where: expected host:port, not {type(where).__name__}")
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
        """Starts an anti-entropy round now."""
        self._running().start_round(self.now())
        self._pump.wake()

    def forget(self, peer_id: PeerId) -> None:
        """Removes a dead peer from peers and members until another node reports it.

        Raises:
            UnknownPeer: the peer is connected or unknown.
            InvalidArgument: `peer_id` is not a PeerId.
        """
        if not isinstance(peer_id, PeerId):
            raise InvalidArgument(f"peer_id: expected a PeerId, not {type(peer_id).__name__}")
        self._running().forget(peer_id)

    def reconfigure(self, config: NodeConfig) -> tuple[str, ...]:
        """Applies what a running node can change of `config`.

        Returns:
            The names of the fields that need a restart.

        Raises:
            ConfigError: no cluster key.
            InvalidArgument: `config` is not a NodeConfig.
        """
        if not isinstance(config, NodeConfig):
            raise InvalidArgument(f"config: expected a NodeConfig, not {type(config).__name__}")
        if not config.keys:
            raise ConfigError("keys", "no cluster key")
        restart = self._running().reconfigure(config, self.now())
        self._config = self._config.replace(bootstrap_peers=config.bootstrap_peers)
        self._names.follow(config.bootstrap_peers)
        self._pump.wake()
        return restart

    def on_message(
        self, listener: _MessageListenerT, *, on_full: OnFull = "pause"
    ) -> _MessageListenerT:
        """Calls `listener` with each message from now on, one at a time. An awaitable result is
        awaited first.

        Dropped messages are logged, counted in `Stats.events_lost` and reported as `EventsLost`.

        Args:
            listener: a function or coroutine function.
            on_full: what happens when handlers are slower than the traffic. ``pause``: once three
                quarters of `limits.events` are queued, peers are asked to hold back, so their
                broadcasts wait as for a slow link; the oldest are dropped only beyond
                `limits.event_bytes`. ``drop_oldest``: the oldest are dropped beyond
                `limits.events`.

        Returns:
            The listener, so this method can be used as a decorator.

        Raises:
            InvalidArgument: the listener is not callable, or `on_full` is unknown.
        """
        self._check_process()
        check_callable("on_message", listener)
        self._hub.handle(listener, on_full)
        return listener

    def on_event(self, listener: _EventListenerT) -> _EventListenerT:
        """Calls `listener` with every event, in the node's own task: keep it short. Returns the
        listener, so this method can be used as a decorator. Raises InvalidArgument."""
        self._check_process()
        check_callable("on_event", listener)
        self._hub.listen(listener)
        return listener

    def events(self) -> EventStream:
        """Returns an iterator over all events from now on, with its own queue. It ends when the
        node has stopped."""
        self._check_process()
        return self._hub.stream()

    # --- status ---------------------------------------------------------------------------------

    @property
    def config(self) -> NodeConfig:
        """The configuration in effect. After `reconfigure`, fields that need a restart keep their
        old values."""
        self._check_process()
        return self._config if self._engine_ is None else self._engine_.config

    @property
    def peer_id(self) -> PeerId:
        """The identity of this node."""
        return self._engine.peer_id

    @property
    def address(self) -> Address:
        """The bound address."""
        return self._endpoint.address

    @property
    def advertised(self) -> Address:
        """The address advertised to peers: `advertise`, or what this machine has now."""
        if self._config.advertise:
            return Address.parse(self._config.advertise)
        return self._endpoint.dialable

    @property
    def epoch(self) -> int:
        """The epoch of this run."""
        return self._engine.epoch

    @property
    def untaken(self) -> int:
        """The number of broadcasts of this run that no peer has acknowledged."""
        self._check_process()
        return 0 if self._engine_ is None else self._engine_.untaken

    @property
    def lag_s(self) -> float:
        """The maximum lag of the event loop in the last few seconds."""
        self._check_process()
        return 0.0 if self._pump_ is None else self._pump_.lag.worst_s(self.now())

    @property
    def state_problem(self) -> str:
        """A warning about the state directory from start-up, for people; empty if there was none."""
        return self._keeping.found_wrong

    def now(self) -> float:
        """The clock of this node's events, in seconds."""
        return clock()

    def peers(self) -> list[PeerInfo]:
        """Returns the peers, connected or not."""
        return self._engine.peers(self.now())

    def members(self) -> list[MemberInfo]:
        """Returns the known members of the cluster, without this node."""
        return self._engine.members()

    def whose(self, address: Address) -> PeerId | None:
        """Returns the member whose session proved that it is at `address`, or None. Advertised
        addresses do not count."""
        return self._running().whose(address)

    def rounds(self) -> list[Round]:
        """Returns the latest anti-entropy rounds that this node started, oldest first."""
        return self._engine.rounds()

    def traces(self) -> list[Trace]:
        """Returns the latest traces of this node, oldest first."""
        return self._engine.traces()

    def stats(self) -> Stats:
        """Returns all counters and gauges."""
        stats = self._engine.stats()
        overruns = self._endpoint.overruns
        return replace(
            stats,
            dropped=(*stats.dropped, (DropReason.NO_ROOM, overruns)) if overruns else stats.dropped,
            events_lost=stats.events_lost + self._hub.lost,
            callback_errors=self._hub.failures,
            unsent=stats.unsent + self._endpoint.errors,
        )

    # --- the tasks ------------------------------------------------------------------------------

    async def _may_send(self) -> bool:
        """Returns whether the epoch is on disk; saves it first if it is not."""
        return self._keeping.covers(self._engine.epoch) or await self._save()

    async def _keep_state(self) -> None:
        """Saves changes and reports socket overruns once a second."""
        while True:
            await asyncio.sleep(SAVE_INTERVAL_S)
            overruns = self._endpoint.overruns
            if overruns > self._overruns_told:
                count = overruns - self._overruns_told
                self._publish(DatagramDropped(DropReason.NO_ROOM, count))
                self._overruns_told = overruns
            await self._save()

    async def _follow_addresses(self) -> None:
        """Advertises address changes of this machine: a new network, another DHCP address, a lost
        route."""
        endpoint, was_alone = self._endpoint, False
        while True:
            before, addresses = endpoint.dialable, endpoint.find_addresses()
            if addresses[0] != before:
                logger.info("others are told to dial %s now, no longer %s", addresses[0], before)
            if self._engine.moved(addresses, self.now()):
                self._pump.wake()
            is_alone = addresses[0].is_loopback
            if is_alone and not was_alone:
                logger.warning(
                    "this machine has no address but loopback, so nodes on other machines cannot dial"
                    " this one yet; an address that appears is used, another one is named by"
                    " --advertise HOST:PORT"
                )
            was_alone = is_alone
            await asyncio.sleep(ADDRESS_INTERVAL_S)

    # --- their parts ----------------------------------------------------------------------------

    def _running(self) -> Engine:
        if self._phase is Phase.RUNNING:
            self._check_loop()
            return self._engine
        if self._failure is not None:
            raise self._failure
        raise NotRunning("this node has not started" if self._phase is Phase.NEW else "it has left")

    def _check_loop(self) -> None:
        """Raises NotRunning outside of the node's event loop."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        if loop is not self._loop:
            raise NotRunning(
                "a node runs in one event loop; from another thread use"
                " asyncio.run_coroutine_threadsafe or loop.call_soon_threadsafe"
            )

    @property
    def _engine(self) -> Engine:
        if self._engine_ is None:
            self._check_process()
            raise NotRunning("this node has not been started")
        return self._engine_

    @property
    def _endpoint(self) -> Endpoint:
        if self._endpoint_ is None:
            self._check_process()
            raise NotRunning("this node has not been started")
        return self._endpoint_

    @property
    def _pump(self) -> Pump:
        if self._pump_ is None:
            self._check_process()
            raise NotRunning("this node has not been started")
        return self._pump_

    def _publish(self, event: Event) -> None:
        self._hub.publish(event)
        if isinstance(event, PeerStateChanged):
            self._peers_changed.set()

    async def _save(self) -> bool:
        return await self._keeping.save(
            self._engine,
            self.now(),
            lambda: [message.id for message in self._unhandled() if not message.private],
            self._hub.handled,
        )

    def _on_pause(self, is_paused: bool) -> None:
        """Called when message handlers fall behind, or have caught up."""
        if self._phase is Phase.RUNNING:
            (self._engine.pause if is_paused else self._engine.resume)(self.now())
            self._pump.wake()

    def _dial(self, addresses: tuple[Address, ...]) -> None:
        for address in addresses:
            self._running().dial(address, self.now())
        self._pump.wake()

    async def _resolve(self, name: str) -> tuple[Address, ...]:
        return await self._endpoint.resolve(name)

    async def _dial_name(self, name: str) -> None:
        addresses = await self._endpoint.resolve(name, is_urgent=True)
        if not addresses:
            raise UnknownPeer(f"{name}: the name does not resolve")
        self._dial(addresses)

    def _on_resolved(self, name: str, addresses: tuple[Address, ...]) -> None:
        self._engine.resolved(name, addresses, self.now())
        self._pump.wake()

    def _aside(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Runs `work` in a task of its own, which the caller may await."""
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
        if not isinstance(to, (str, Address)):
            raise InvalidArgument(f"to: expected a peer id or an address, not {type(to).__name__}")
        with contextlib.suppress(ValueError):
            return PeerId.parse(str(to))
        try:
            address = Address.parse(str(to))
        except ValueError:
            raise UnknownPeer(f"no peer {to}") from None
        found = self.whose(address)
        if found is None:
            raise UnknownPeer(
                f"no peer has proved to be at {address}: dial it, or name its peer ID"
            )
        return found
