"""The asyncio node: an `Engine` with a UDP socket, a clock and an optional state directory.

Invariants:

- It owns all tasks (`driver`, names, state) and ends them. An error in serving one peer ends none.
- Calls of `broadcast` wait for room in order, and waiting calls end when the node stops.
- An epoch is on disk before anything is sent under it.
- The clock includes the time that the machine was suspended.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from enum import Enum, auto
from functools import partial
from pathlib import Path
from threading import get_ident
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar, overload

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.config.validate import (
    BytesLike,
    Seconds,
    check_callable,
    check_seconds,
    check_type,
    payload_bytes,
    whole_seconds,
)
from grapevine_proto.coordinate import Coordinate, Estimate
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
    CaughtUp,
    DatagramDropped,
    EntryChanged,
    Event,
    JsonObject,
    MemberInfo,
    MemberStatus,
    Message,
    MessageReceived,
    MessageSent,
    MessagesSkipped,
    NodeStarted,
    NodeStopped,
    PeerInfo,
    PeerState,
    PeerStateChanged,
    PortMappingOutcome,
    Round,
    StateSaveFailed,
    Stats,
    Trace,
)
from grapevine_proto.ids import Address, MessageId, PeerId, parse_literal
from grapevine_proto.overlay.query.filters import ALL_MEMBERS, MemberFilter
from grapevine_proto.overlay.query.request import STALL_S, QueryRequest, check_query_name
from grapevine_proto.runtime.builtin_queries import arrival_fields, builtin_handlers
from grapevine_proto.runtime.clock import clock
from grapevine_proto.runtime.discovery.runner import DiscoveryRunner, DiscoverySource
from grapevine_proto.runtime.discovery.source import Discovery, OwnNode
from grapevine_proto.runtime.driver import EngineDriver
from grapevine_proto.runtime.event_hub import (
    ErrorListener,
    EventHub,
    EventListener,
    MessageListener,
)
from grapevine_proto.runtime.event_queue import EventStream, MessageStream, OnFull
from grapevine_proto.runtime.fork_safety import register_at_fork
from grapevine_proto.runtime.persistence import (
    ENTRY_SAVE_LIMIT_S,
    ENTRY_SAVES_PER_TURN,
    StatePersister,
)
from grapevine_proto.runtime.port_mapping.mapper import HomeRouter, PortMapper
from grapevine_proto.runtime.query_desk import QUERY_EVENTS, Query, QueryDesk, QueryHandler
from grapevine_proto.runtime.resolver import BootstrapResolver
from grapevine_proto.runtime.shared_state import SharedState
from grapevine_proto.runtime.subscription import (
    DEFAULT_QUEUE,
    Subscription,
    Subscriptions,
    WhenFull,
)
from grapevine_proto.runtime.udp_socket import DatagramSocket, UdpSocket
from grapevine_proto.tags import includes
from grapevine_proto.topics import TopicPatterns
from grapevine_proto.wire.query_terms import MAX_LARGE_ANSWER_BYTES

logger = logging.getLogger("grapevine")

MAX_BROADCASTS_PER_TURN: Final = 256  # a millisecond of work, and enough to share a signature
ADDRESS_CHECK_INTERVAL_S: Final = 2.0  # between checks of our own addresses, 20 us each
RECOVERY_POLL_S: Final = 0.05
SAVE_INTERVAL_S: Final = 1.0  # so a kill -9 repeats at most the last second

_MessageListenerT = TypeVar("_MessageListenerT", bound=MessageListener)
_QueryHandlerT = TypeVar("_QueryHandlerT", bound=QueryHandler)
_EventListenerT = TypeVar("_EventListenerT", bound=EventListener)
_ErrorListenerT = TypeVar("_ErrorListenerT", bound=ErrorListener)
_WrittenT = TypeVar("_WrittenT")


class Phase(Enum):
    """Life cycle of a node."""

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
        discovery: sources of addresses, beside those among the bootstrap peers. What they name is a
            hint to the dialer. Raises ConfigError if a bootstrap peer needs a package that is not
            installed.
        open_socket: opens what carries datagrams, for the address to bind; by default a UDP socket. A
            simulated network has another one (`grapevine_proto.sim.live`). Raises BindError.
    """

    def __init__(
        self,
        config: NodeConfig,
        *,
        state_dir: str | Path | None = None,
        discovery: Iterable[Discovery] = (),
        open_socket: Callable[[str], Awaitable[DatagramSocket]] = UdpSocket.open,
    ) -> None:
        if not isinstance(config, NodeConfig):
            raise InvalidArgument(f"config: expected a NodeConfig, not {type(config).__name__}")
        self._config = config
        self._persister = StatePersister(
            state_dir, lambda problem: self._publish(StateSaveFailed(problem))
        )
        self._phase = Phase.NEW
        self._failure: GrapevineError | None = None
        self._engine_or_none: Engine | None = None
        self._open_socket = open_socket
        self._socket_or_none: DatagramSocket | None = None
        self._driver_or_none: EngineDriver | None = None
        self._resolver = BootstrapResolver(self._resolve, self._on_resolved)
        self._state_dir = None if state_dir is None else Path(state_dir)
        self._discovery = DiscoveryRunner(
            self.now,
            self._resolve,
            lambda: self.config.limits.addresses_per_source,
            self._addresses_not_to_dial,
            self._hint,
            self._publish,
        )
        self._discovery.add(discovery)
        self._discovery.watch(config.bootstrap_sources)
        self._port_mapper = PortMapper(
            self.now,
            HomeRouter(self.now),
            lambda: self.config.port_mapping != "off" and not self.config.advertise,
            lambda: self._socket.refresh_addresses(),
            self._on_port_mapped,
            self._publish,
        )
        self._hub = EventHub(config.limits.events, config.limits.event_bytes, self._on_pause)
        self._subscriptions = Subscriptions(self._subscribe)
        self.state = SharedState(lambda: self._engine, self.now, self._write_state, self.events)
        self._queries = QueryDesk(self._hub.on_query_failure)
        for query_name, handler in builtin_handlers(self).items():
            self._queries.add_handler(query_name, handler)
        self._tasks: list[asyncio.Task[None]] = []
        self._background_tasks: set[asyncio.Task[Any]] = set()
        self._leave_task: asyncio.Task[int] | None = None
        self._leave_deadline = math.inf
        self._leave_wait: asyncio.Timeout | None = None
        self._is_leaving_from_handler = False
        self._close_task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread_id = 0  # of the loop
        self._stopped = asyncio.Event()
        # waiting
        self._backpressure_lock = asyncio.Lock()
        self._peers_changed = asyncio.Event()
        self._caught_up = asyncio.Event()
        self._reported_dropped_reads = 0
        register_at_fork(self)

    def on_forked(self) -> None:
        """Called in a forked child: releases everything; each later call raises NotRunning."""
        if self._phase not in (Phase.RUNNING, Phase.LEAVING):
            return
        self._phase = Phase.FORKED
        self._failure = NotRunning(
            "this process was forked from the one that runs the node; start a node of its own"
        )
        if self._socket_or_none is not None:
            self._socket_or_none.on_forked()
        # releases the keys of all sessions too
        self._engine_or_none = self._socket_or_none = self._driver_or_none = None

    def _check_process(self) -> None:
        if self._phase is Phase.FORKED and self._failure is not None:
            raise self._failure

    # --- life cycle -----------------------------------------------------------------------------

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
            raise NotRunning("this node was started before; create a new one")
        if not self._config.keys:
            raise ConfigError("keys", "no cluster key: ClusterKey.generate() or .load(path)")
        self._phase = Phase.RUNNING
        self._loop = asyncio.get_running_loop()
        self._thread_id = get_ident()
        try:
            saved = await self._persister.load()
            self._socket_or_none = await self._open_socket(self._config.bind)
            engine = self._engine_or_none = Engine(
                self._config,
                saved,
                address=self._socket_or_none.dialable_address,
                rng=random.Random(os.urandom(16)),
                entropy=os.urandom,
                now=self.now(),
            )
            self._driver_or_none = EngineDriver(
                engine,
                self._socket_or_none,
                self._publish,
                self._publish_in_order,
                self._fail,
                self._save_if_needed,
                self.now,
            )
        except BaseException:
            self._phase = Phase.NEW
            self._release()
            raise
        self._keep_order_if_wanted()
        self._queries.attach(engine, self.now, self._driver.wake)
        engine.on_addresses_changed(self._socket.refresh_addresses(), self.now())
        self._publish(NodeStarted(engine.peer_id, self.address, engine.epoch))
        self._resolver.watch(self._config.bootstrap_addresses)
        self._update_own_node()
        self._tasks = [
            asyncio.create_task(self._driver.read_loop(), name="grapevine reader"),
            asyncio.create_task(self._driver.write_loop(), name="grapevine pump"),
            asyncio.create_task(self._resolver.run(), name="grapevine names"),
            asyncio.create_task(self._discovery.run(), name="grapevine discovery"),
            asyncio.create_task(self._port_mapper.run(), name="grapevine port mapping"),
            asyncio.create_task(self._state_loop(), name="grapevine state"),
        ]
        if self._socket.is_wildcard:
            self._tasks.append(
                asyncio.create_task(self._address_loop(), name="grapevine addresses")
            )
        for task in self._tasks:
            task.add_done_callback(self._on_task_done)

    async def ready(self, min_peers: int = 1, timeout: Seconds | None = None) -> None:  # noqa: ASYNC109
        """Waits until `min_peers` peers are connected.

        Raises:
            TimeoutError: after `timeout` seconds; None waits without limit.
            InvalidArgument: an argument of the wrong type.
        """
        if type(min_peers) is not int or min_peers < 0:
            raise InvalidArgument(f"min_peers: expected a whole number, not {min_peers!r}")
        timeout_s = None if timeout is None else check_seconds("timeout", timeout)
        self._check_process()
        async with asyncio.timeout(timeout_s):
            while True:
                self._running_engine()
                connected = [p for p in self.peers() if p.state is PeerState.CONNECTED]
                if len(connected) >= min_peers:
                    return
                self._peers_changed.clear()
                await self._peers_changed.wait()

    async def flush(self, timeout: Seconds | None = 5.0) -> int:  # noqa: ASYNC109
        """Waits until a peer has acknowledged each broadcast of this run, or the node stops.

        Args:
            timeout: maximum seconds; None waits without limit.

        Returns:
            The number of broadcasts that no peer has acknowledged: `unacknowledged`.

        Raises:
            NotRunning: the node has not started or has left.
            InvalidArgument: `timeout` is not a number of seconds.
        """
        timeout_s = None if timeout is None else check_seconds("timeout", timeout)
        self._running_engine()
        driver = self._driver
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self.unacknowledged and self._phase is Phase.RUNNING:
                    driver.flushed.clear()
                    driver.wake()
                    await driver.flushed.wait()
        return self.unacknowledged

    async def synced(self, timeout: Seconds | None = 5.0) -> None:  # noqa: ASYNC109
        """Waits until this node has the messages that each connected peer has: the digests are equal, or
        an anti-entropy round succeeded. Readers of events have got those messages by then.

        Starts a round with each connected peer, and with those that connect meanwhile. Without any peer
        it waits for the first; a node without bootstrap peers that knows no member returns at once.

        Args:
            timeout: maximum seconds; None waits without limit.

        Raises:
            TimeoutError: after `timeout` seconds.
            ConfigError: `anti_entropy.enabled` is false.
            NotRunning: the node has not started, has left, or stops meanwhile.
            InvalidArgument: `timeout` is not a number of seconds.
        """
        timeout_s = None if timeout is None else check_seconds("timeout", timeout)
        engine = self._running_engine()
        if not engine.config.anti_entropy.enabled:
            raise ConfigError("anti_entropy.enabled", "synced() needs anti-entropy")
        if not (engine.has_peers or engine.config.bootstrap_peers or engine.members()):
            return
        async with asyncio.timeout(timeout_s):
            self._caught_up.clear()
            engine.catch_up(self.now(), math.inf if timeout_s is None else timeout_s)
            self._driver.wake()
            await self._caught_up.wait()
        self._running_engine()

    async def leave(self, timeout: Seconds | None = None) -> int:  # noqa: ASYNC109
        """Shuts down gracefully: sends what is queued, leaves the cluster, waits for message
        handlers, saves, closes.

        With unacknowledged broadcasts and bootstrap peers it first waits for a connection. Messages
        that no handler finished are saved as not seen, so the next run with the same state
        directory receives them again. Repeated calls return the same result.
        A canceled call does not wait: the node closes at once, and then the cancellation goes on.

        Args:
            timeout: maximum seconds for all of this; by default `leave_timeout`.

        Returns:
            The number of broadcasts that no peer acknowledged.

        Raises:
            NotRunning: the node was not started.
            InvalidArgument: `timeout` is not a number of seconds.
        """
        self._check_process()
        timeout_s = (
            self.config.leave_timeout if timeout is None else check_seconds("timeout", timeout)
        )
        if self._phase is Phase.NEW:
            raise NotRunning("this node has not been started")
        if self._leave_task is None:
            self._is_leaving_from_handler = self._hub.is_called_by(asyncio.current_task())
            self._leave_task = asyncio.create_task(self._leave(timeout_s))
        try:
            return await asyncio.shield(self._leave_task)
        except asyncio.CancelledError:
            if not self._leave_task.done():
                self._hurry_leave()
                with contextlib.suppress(Exception):
                    await asyncio.shield(self._leave_task)
            raise

    def _hurry_leave(self) -> None:
        """Ends the waits of `leave`, so that only closing remains."""
        self._leave_deadline = self.now()
        if self._leave_wait is not None:
            self._leave_wait.reschedule(asyncio.get_running_loop().time())
        if not self._is_leaving_from_handler:
            self._hub.cancel_handlers()

    async def aclose(self) -> None:
        """Leaves within `leave_timeout`, for `contextlib.aclosing` and resource stacks. Does nothing
        before `start` and after `leave`."""
        self._check_process()
        if self._phase is not Phase.NEW:
            await self.leave()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._phase is Phase.FORKED:  # the parent leaves its own copy of this block
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
        self._leave_deadline = self.now() + timeout_s
        try:
            if self._phase is Phase.RUNNING:
                self._phase = Phase.LEAVING
                await self._wait_leaving(self._first_peer())
                await self._wait_leaving(self._pending_sends())
                self._engine.leave(self.now())
                self._driver.room_available.set()
                self._driver.wake()
                await self._wait_leaving(self._driver.drained.wait())
            unacknowledged = self.unacknowledged
            if unacknowledged:
                logger.warning(
                    "left: %d broadcast%s not acknowledged by any peer",
                    unacknowledged,
                    " was" if unacknowledged == 1 else "s were",
                )
            if direct := self._engine.unacknowledged_direct:
                logger.warning(
                    "left: %d direct message%s not acknowledged",
                    direct,
                    " was" if direct == 1 else "s were",
                )
        finally:
            await self._close("left", max(0.0, self._leave_deadline - self.now()))
        return unacknowledged

    async def _wait_leaving(self, waited_for: Awaitable[object]) -> None:
        """Awaits `waited_for` until the deadline of leaving."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, self._leave_deadline - self.now())) as wait:
                self._leave_wait = wait
                await waited_for
        self._leave_wait = None

    async def _first_peer(self) -> None:
        """Waits for the first connection if there are unacknowledged broadcasts: a program that joins,
        broadcasts and exits is not connected yet."""
        if not self._config.bootstrap_peers or not self.unacknowledged:
            return
        while not self._engine.has_peers:
            self._peers_changed.clear()
            await self._peers_changed.wait()

    async def _pending_sends(self) -> None:
        """Waits until no direct message waits for a session: one opens, or none can be opened."""
        while self._engine.has_pending_sends:
            self._driver.sends_begun.clear()
            self._driver.wake()
            await self._driver.sends_begun.wait()

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
        if self._close_task is None and self._phase in (Phase.RUNNING, Phase.LEAVING):
            logger.error("stopping: %s", error)
            self._failure = error
            self._close_task = asyncio.create_task(self._close(str(error), 1.0))

    async def _close(self, reason: str, handler_timeout_s: float) -> None:
        """Stops the tasks, saves, closes the socket. Handlers get `handler_timeout_s` seconds to finish."""
        if self._close_task is not None and self._close_task is not asyncio.current_task():
            await asyncio.shield(self._close_task)
            return
        self._phase = Phase.STOPPED
        tasks = [*self._tasks, *self._background_tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._port_mapper.remove()
        driver = self._driver
        for event in (driver.room_available, driver.drained, driver.flushed, driver.sends_begun):
            event.set()
        for event in (self._peers_changed, self._caught_up):
            event.set()
        self._engine.end_deliveries()
        self._driver.publish_rest()
        if not self._redelivers_waiting:
            self._engine.release_order(self.now())
            self._driver.publish_rest()
        if not self._is_leaving_from_handler:
            await self._hub.finish_handlers(handler_timeout_s)
        self._log_unhandled()
        try:
            await self._save()
        finally:
            self._release()
        self._publish(NodeStopped(reason))
        self._hub.end_streams()
        self._subscriptions.end()
        self._queries.close()
        self._stopped.set()

    def _unhandled(self) -> list[Message]:
        return self._hub.unhandled(exclude_current=self._is_leaving_from_handler)

    def _unhandled_ids(self) -> list[MessageId]:
        """The broadcasts that no handler has finished, which the next run shall receive again."""
        messages = self._unhandled()
        if self._hub.has_handlers:
            messages += self._driver.unpublished_messages()
        ids = [message.id for message in messages if not message.is_direct]
        if self._redelivers_waiting:
            in_order = self._driver.unpublished_in_order()
            ids += [message.id for message in in_order if not message.is_direct]
            ids += self._engine.waiting_for_order()
        return ids

    @property
    def _redelivers_waiting(self) -> bool:
        """Whether what waits for its order counts as unhandled: only if no handler got it already."""
        hub = self._hub
        is_redelivered = self._persister.is_enabled and not hub.has_unordered_handlers
        return is_redelivered and hub.has_handlers

    def _log_unhandled(self) -> None:
        unhandled = self._unhandled()
        if not unhandled:
            return
        redelivered = 0
        if self._persister.is_enabled:
            ids = [message.id for message in unhandled if not message.is_direct]
            saved = self._engine.snapshot(self.now(), ids).streams
            streams = {(each.origin, each.epoch): each for each in saved}
            redelivered = sum(
                each.stream in streams and streams[each.stream].lacks(each.sequence) for each in ids
            )
        logger.warning(
            "left: %d messages were not handled in time; %d of them will be delivered again after a restart",
            len(unhandled),
            redelivered,
        )

    def _release(self) -> None:
        """Closes the socket and the state directory."""
        if self._socket_or_none is not None:
            self._socket_or_none.close()
        self._persister.close()

    # --- actions ----------------------------------------------------------------------------------

    async def broadcast(self, payload: BytesLike) -> MessageId:
        """Sends `payload` to every member.

        Waits while no connected peer has room, so it never drops. With no peer connected, the message is
        cached for peers that connect within `message_dedup_ttl`.

        Raises:
            MessageTooLarge: the payload exceeds `max_message_size`.
            InvalidArgument: the payload is not bytes-like.
        """
        payload, engine = payload_bytes(payload), self._running_engine()
        # As `_write`, without a second coroutine: programs call nothing else as often.
        driver = self._driver
        if not self._has_room_for(engine, driver, len(payload)):
            await self._await_room(engine, len(payload))
        message_id = engine.broadcast(payload, clock())
        driver.on_broadcast()
        return message_id

    async def publish(
        self,
        topic: str,
        payload: BytesLike,
        *,
        expires_s: Seconds | None = None,
        retain: str | None = None,
    ) -> MessageId:
        """Sends `payload` under `topic` to the members that subscribe to it.

        A topic is up to eight parts of ``a-z``, ``0-9``, ``_`` and ``-``, joined by dots, as in NATS. Every
        node relays it, so a topic cannot partition. Waits and raises as `broadcast` does.

        Args:
            topic: such as ``deploy.web``, at most 64 bytes.
            payload: a bytes-like object.
            expires_s: the age in seconds at which nodes stop delivering it, rounded up to whole seconds;
                None: never.
            retain: a name under which this node keeps the message for members that subscribe later, until
                it publishes another with the same name or calls ``state.delete("retain/NAME")``. The
                payload then has at most 4 KiB.

        Raises:
            InvalidArgument: not a topic, an age or a name.
            StateFull: this node retains 64 messages, or has too many entries to retain one more.
        """
        expiry_s = whole_seconds("expires_s", expires_s)
        check_type("topic", topic, str)
        if retain is not None:
            check_type("retain", retain, str)
            await self._await_recovery()

        payload = payload_bytes(payload)
        return await self._write(
            lambda engine, now: engine.publish(
                topic, payload, now, expires_s=expiry_s, retain=retain
            ),
            len(payload),
        )

    async def trace(self, payload: BytesLike) -> MessageId:
        """Broadcasts `payload` and asks members to confirm it.

        TraceUpdated events and `traces` report which members have it, how fast and over how many
        hops. Up to 100 members are all asked, above that a sample of about 100. Raises as
        `broadcast`.
        """
        payload = payload_bytes(payload)
        return await self._write(lambda engine, now: engine.trace(payload, now), len(payload))

    async def _write(
        self, write: Callable[[Engine, float], _WrittenT], size_bytes: int
    ) -> _WrittenT:
        """Calls `write` once peers have room for a payload of this size; returns what it returns."""
        engine = self._running_engine()
        if not self._has_room_for(engine, self._driver, size_bytes):
            await self._await_room(engine, size_bytes)
        written = write(engine, self.now())
        self._driver.on_broadcast()
        return written

    async def _write_state(
        self, write: Callable[[Engine, float], _WrittenT], size_bytes: int
    ) -> _WrittenT:
        """As `_write`, once this node has read its entries back."""
        await self._await_recovery()
        return await self._write(write, size_bytes)

    async def _await_recovery(self) -> None:
        """Waits until this node has read its entries back, if it lost them."""
        while self._running_engine().state.is_recovering:  # noqa: ASYNC110  for seconds, after a loss
            await asyncio.sleep(RECOVERY_POLL_S)

    def _has_room_for(self, engine: Engine, driver: EngineDriver, payload_bytes: int) -> bool:
        """Whether a payload of this size can be written now: peers have room for it, nobody else waits, and
        the driver has had its turn, which a loop of broadcasts would not grant it."""
        return (
            driver.broadcasts_since_turn < MAX_BROADCASTS_PER_TURN
            and not self._backpressure_lock.locked()
            and engine.can_broadcast_bytes(payload_bytes)
        )

    async def _await_room(self, engine: Engine, payload_bytes: int) -> None:
        """Waits until peers have room for a payload of this size, first come, first served. The caller writes
        it without waiting in between."""
        driver = self._driver
        if driver.broadcasts_since_turn >= MAX_BROADCASTS_PER_TURN:
            await asyncio.sleep(0)
            self._running_engine()
        if self._backpressure_lock.locked() or not engine.can_broadcast_bytes(payload_bytes):
            async with self._backpressure_lock:
                driver.await_room_for(payload_bytes)
                while (
                    not engine.can_broadcast_bytes(payload_bytes) and self._phase is Phase.RUNNING
                ):
                    driver.room_available.clear()
                    driver.wake()
                    await driver.room_available.wait()
                self._running_engine()

    async def set_tags(self, tags: Mapping[str, str]) -> None:
        """Replaces the tags of this node, until its next start; then `NodeConfig.tags` apply again.

        Raises:
            InvalidArgument: more than 16 tags, or one that is too long.
            StateFull: no room for them among the entries of this node.
            NotRunning: the node has not started or has left.
        """
        if not isinstance(tags, Mapping):
            raise InvalidArgument(f"tags: expected a mapping, not {type(tags).__name__}")
        await self._write_state(lambda engine, now: engine.set_tags(tags, now), 0)

    async def send(self, to: PeerId | Address | str, payload: BytesLike) -> MessageId:
        """Sends `payload` to one member, over its link or over a transient session opened for it.

        `MessageSent` follows when it is on its way, or with 0 peers if it was not sent. If the member
        does not acknowledge it, `MessageUndelivered` follows with the reason: when no session opens
        within `connection_timeout`, with the session that carried it, or after 30 s and its size at
        16 KiB/s. A return does not mean that it has arrived.

        Args:
            to: the member's ID or address.
            payload: a bytes-like object.

        Raises:
            UnknownPeer: no peer or known member has this ID or address.
            MessageTooLarge: the payload exceeds `max_message_size`.
            InvalidArgument: the payload is not bytes-like.
        """
        engine, payload = self._running_engine(), payload_bytes(payload)
        message_id = engine.send(self._peer_id_of(to), payload, self.now())
        self._driver.wake()
        await asyncio.sleep(0)
        return message_id

    async def query(
        self,
        name: str,
        payload: BytesLike = b"",
        *,
        filter: MemberFilter = ALL_MEMBERS,  # noqa: A002  the word of the documentation
        timeout: float | None = None,  # noqa: ASYNC109
        limit: int | None = None,
        sample: int | None = None,
        stall: float = STALL_S,
        max_answer_bytes: int = MAX_LARGE_ANSWER_BYTES,
    ) -> Query:
        """Asks members and gathers their answers. This node is asked as well, if the filter admits it.

        A query ends when all known members that were asked have answered, after `limit` answers, `stall`
        seconds after the last answer if no member is known to be working on one, or after `timeout`
        seconds.

        Args:
            name: names the handler (`on_query`) that answers; 1 to 64 bytes.
            payload: a bytes-like object of at most 8 KiB.
            filter: which members are asked.
            timeout: at most 60 seconds; None: 2 s, and 1 s for each power of ten of the members.
            limit: how many answers are enough; None: all.
            sample: how many of the matching members are asked; None: all, at most 1,024.
            stall: see above.
            max_answer_bytes: the largest answer that is wanted, at most 64 KiB.

        Returns:
            An async iterator over the answers, as they arrive.

        Raises:
            NoMatchingMember: no member matches the filter.
            TooManyQueries: 16 queries are open or were begun within 5 s.
            MessageTooLarge: the payload exceeds 8 KiB.
            InvalidArgument: another argument is out of range or of the wrong type.
        """
        engine = self._running_engine()
        request = QueryRequest(
            name,
            payload_bytes(payload),
            filter=filter,
            timeout_s=timeout,
            limit=limit,
            sample=sample,
            stall_s=stall,
            max_answer_bytes=max_answer_bytes,
        )
        query = self._queries.open(engine.query(request, self.now()))
        self._driver.wake()
        await asyncio.sleep(0)
        return query

    def on_query(self, name: str) -> Callable[[_QueryHandlerT], _QueryHandlerT]:
        """Answers queries of this name with the decorated function or coroutine function, from now on.

        It gets the `Question` and returns the answer as a bytes-like object; None refuses. At most four
        handlers of a node run at a time, each until the deadline of its question. What a handler raises is
        logged, and the answer is `failed`.

        Raises:
            InvalidArgument: the name is not 1 to 64 bytes of text or has a handler, or what is decorated is
                not callable.
        """
        self._check_process()
        check_query_name(name)

        def register(handler: _QueryHandlerT) -> _QueryHandlerT:
            self._queries.add_handler(name, handler)
            return handler

        return register

    def dial(self, target: str | Address) -> asyncio.Future[None]:
        """Dials ``host:port``. `PeerStateChanged` or `DialFailed` reports the outcome.

        Returns:
            A future that is done once the name is resolved, and raises UnknownPeer if it does not
                resolve. It need not be awaited.

        Raises:
            ConfigError: `target` is not an address.
            InvalidArgument: `target` is neither text nor an Address.
        """
        self._running_engine()
        if not isinstance(target, (str, Address)):
            raise InvalidArgument(f"target: expected host:port, not {type(target).__name__}")
        try:
            address = parse_literal(str(target))
        except ValueError as error:
            raise ConfigError("address", str(error)) from None
        if address is not None:
            self._dial((address,))
            resolved = asyncio.get_running_loop().create_future()
            resolved.set_result(None)
            return resolved
        return self._run_in_background(self._resolve_and_dial(str(target)))

    def start_round(self) -> None:
        """Starts an anti-entropy round now."""
        self._running_engine().start_round(self.now())
        self._driver.wake()

    def forget(self, peer_id: PeerId) -> None:
        """Removes a dead peer from peers and members until another node reports it.

        Raises:
            UnknownPeer: the peer is connected or unknown.
            InvalidArgument: `peer_id` is not a PeerId.
        """
        if not isinstance(peer_id, PeerId):
            raise InvalidArgument(f"peer_id: expected a PeerId, not {type(peer_id).__name__}")
        self._running_engine().forget(peer_id)

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
        engine = self._running_engine()
        self._discovery.watch(config.bootstrap_sources)
        restart = engine.reconfigure(config, self.now())
        self._config = self._config.replace(bootstrap_peers=config.bootstrap_peers)
        self._resolver.watch(config.bootstrap_addresses)
        self._update_own_node()
        self._port_mapper.check()
        self._driver.wake()
        return restart

    @overload
    def on_message(
        self,
        listener: _MessageListenerT,
        *,
        queue: int | None = ...,
        on_full: OnFull = ...,
        ordered: bool = ...,
    ) -> _MessageListenerT: ...

    @overload
    def on_message(
        self,
        listener: None = None,
        *,
        queue: int | None = ...,
        on_full: OnFull = ...,
        ordered: bool = ...,
    ) -> Callable[[_MessageListenerT], _MessageListenerT]: ...

    def on_message(
        self,
        listener: _MessageListenerT | None = None,
        *,
        queue: int | None = None,
        on_full: OnFull = "pause",
        ordered: bool = False,
    ) -> _MessageListenerT | Callable[[_MessageListenerT], _MessageListenerT]:
        """Calls `listener` with each message from now on, one at a time. An awaitable result is
        awaited first.

        All handlers share one queue: the largest `queue` applies, and the `on_full` that keeps most.
        Dropped messages are logged, counted in `Stats.events_lost` and reported as `EventsLost`. A
        handler that runs for more than a second is named in the log.

        Args:
            listener: a function or coroutine function. Without one, the method returns a decorator.
            queue: how many messages may wait for handlers; by default `limits.events`.
            on_full: what happens when handlers are slower than the traffic. ``pause``: once the
                queue is three quarters full, peers are asked to hold back, so their broadcasts wait
                as for a slow link; the oldest messages are dropped only beyond
                `limits.event_bytes`. ``drop_oldest`` and ``drop_newest``: beyond `queue`, the oldest
                or the newest are dropped.
            ordered: whether the messages of each origin come in the order in which it sent them;
                see `messages`. What is skipped is reported as `MessagesSkipped`.

        Returns:
            The listener, so this method can be used as a decorator.

        Raises:
            InvalidArgument: an argument of the wrong type, or an unknown `on_full`.
        """
        self._check_process()
        if listener is None:
            return partial(self.on_message, queue=queue, on_full=on_full, ordered=ordered)
        check_callable("on_message", listener)
        self._hub.add_handler(listener, on_full, max_queued=queue, is_ordered=ordered)
        self._keep_order_if_wanted()
        return listener

    def subscribe(
        self,
        pattern: str,
        *,
        queue: int = DEFAULT_QUEUE,
        on_full: WhenFull = "drop_oldest",
        replay: bool = True,
        ordered: bool = False,
    ) -> Subscription:
        """Returns an iterator over the messages of the topics that `pattern` selects.

        In a pattern, ``*`` stands for one token of a topic and ``>`` at the end for one or more:
        ``deploy.*.eu``, ``deploy.>``. While the subscription lasts, this node delivers these topics, to
        handlers and events as well, even if `NodeConfig.topics` does not select them. Use it in
        ``async with``, or call its `unsubscribe`.

        Args:
            pattern: at most 64 bytes; a node has at most 256.
            queue: how many messages may wait to be read.
            on_full: ``drop_oldest`` or ``drop_newest``; dropped messages are counted in
                `Subscription.lost` and logged.
            replay: whether it begins with messages that arrived before and are still cached, and with
                those that other members retain. What they retained and this node learns later counts
                too.
            ordered: whether the messages of each origin come in the order in which it sent them; see
                `messages`. What is skipped is reported as `MessagesSkipped`.

        Raises:
            InvalidArgument: not a pattern, or an invalid limit.
        """
        engine = self._running_engine()
        topics = TopicPatterns.parse(pattern)
        cached = engine.cached_messages(topics, self.now()) if replay else []
        if replay:
            known = {each.id for each in cached}
            retained = engine.retained_messages(topics, self.now())
            cached = [each for each in retained if each.id not in known] + cached
        if ordered:
            engine.keep_order()
            cached.sort(key=lambda each: each.id)
            later = {each.id for each in self._driver.unpublished_in_order()}
            later.update(engine.waiting_for_order())
        else:
            later = {each.id for each in self._driver.unpublished_messages()}
        replayed = [each for each in cached if each.id not in later]
        return self._subscriptions.add(
            topics, queue, on_full, replayed, is_ordered=ordered, is_replayed=replay
        )

    def hold_topics(self, pattern: str) -> Callable[[], None]:
        """Has this node deliver the topics that `pattern` selects until the returned function is called, for
        programs that read them as events. Raises InvalidArgument."""
        self._running_engine()
        topics = TopicPatterns.parse(pattern)
        self._subscriptions.hold(topics)
        return partial(self._subscriptions.release, topics)

    def _subscribe(self, topics: TopicPatterns) -> None:
        if self._phase is Phase.RUNNING:
            self._engine.subscribe(topics)

    @overload
    def messages(
        self, *, queue: int | None = ..., on_full: OnFull = ..., ordered: Literal[False] = ...
    ) -> MessageStream[Message]: ...

    @overload
    def messages(
        self, *, queue: int | None = ..., on_full: OnFull = ..., ordered: Literal[True]
    ) -> MessageStream[Message | MessagesSkipped]: ...

    def messages(
        self, *, queue: int | None = None, on_full: OnFull = "pause", ordered: bool = False
    ) -> MessageStream[Message] | MessageStream[Message | MessagesSkipped]:
        """Returns an iterator over the messages received from now on, with its own queue. It ends when
        the node has stopped; end it earlier with `aclose`, because a full queue makes peers wait.

        Args:
            queue: how many messages may wait for the reader; by default `limits.events`.
            on_full: as in `on_message`.
            ordered: per origin and epoch, a message waits for those sent before it: `order_wait`
                seconds per gap, and at most 1,024 messages or 4 MiB per stream and 64 MiB in all.
                Then the iterator yields `MessagesSkipped` in place of those that are missing. What
                arrives after that is dropped and counted (`Stats.late`). Direct messages do not wait.

        Raises:
            InvalidArgument: an argument of the wrong type, or an unknown `on_full`.
        """
        self._check_process()
        stream = self._hub.message_stream(on_full, queue, is_ordered=ordered)
        self._keep_order_if_wanted()
        return stream

    def _keep_order_if_wanted(self) -> None:
        if self._engine_or_none is not None and self._hub.wants_order:
            self._engine_or_none.keep_order()

    def on_event(self, listener: _EventListenerT) -> _EventListenerT:
        """Calls `listener` with every event, in the node's own task: keep it short. Returns the
        listener, so this method can be used as a decorator. Raises InvalidArgument."""
        self._check_process()
        check_callable("on_event", listener)
        self._hub.add_listener(listener)
        return listener

    def on_error(self, listener: _ErrorListenerT) -> _ErrorListenerT:
        """Calls ``listener(error, argument)`` with each exception that a handler or listener raises,
        and the message or event that it was called with.

        The exception is also logged and counted in `Stats.callback_errors`. Returns the listener, so
        this method can be used as a decorator. Raises InvalidArgument.
        """
        self._check_process()
        check_callable("on_error", listener)
        self._hub.add_error_listener(listener)
        return listener

    def remove_handler(self, listener: Callable[..., object]) -> None:
        """Undoes `on_message`, `on_event`, `on_query` and `on_error`: does not call `listener` any more. A
        call that is running ends as usual. Messages that wait for no other handler are discarded.

        Raises:
            InvalidArgument: `listener` was not added.
        """
        self._check_process()
        check_callable("remove_handler", listener)
        if not self._queries.remove_handler(listener):
            self._hub.remove(listener)

    def events(self, *kinds: type[Event]) -> EventStream:
        """Returns an iterator over the events from now on, with its own queue. It ends when the node
        has stopped, or with `aclose`.

        Args:
            kinds: types of events. Others are not queued, so they cannot crowd out these. A reader
                that falls behind gets `EventsLost` too. Without any, all events are queued.

        Raises:
            InvalidArgument: an argument that is not a type.
        """
        self._check_process()
        for kind in kinds:
            if not isinstance(kind, type):
                raise InvalidArgument(f"events: expected types of events, not {kind!r:.80}")
        return self._hub.stream(kinds)

    # --- status ---------------------------------------------------------------------------------

    @property
    def config(self) -> NodeConfig:
        """The configuration in effect. After `reconfigure`, fields that need a restart keep their
        old values."""
        self._check_process()
        return self._config if self._engine_or_none is None else self._engine_or_none.config

    @property
    def peer_id(self) -> PeerId:
        """The identity of this node."""
        return self._engine.peer_id

    @property
    def address(self) -> Address:
        """The bound address."""
        return self._socket.address

    @property
    def advertised(self) -> Address:
        """The address advertised to peers: `advertise`, or what this machine has now."""
        if self.config.advertise:
            return Address.parse(self.config.advertise)
        return self._socket.dialable_address

    @property
    def observed(self) -> Address | None:
        """Where several peers see this node, if that is none of its own addresses; advertised as well."""
        return self._engine.observed

    @property
    def mapped(self) -> Address | None:
        """The address outside that a router maps to this node (`NodeConfig.port_mapping`), if it does;
        advertised as well."""
        return self._port_mapper.mapped

    @property
    def is_behind_nat(self) -> bool:
        """Whether peers see this node at an address that it does not have."""
        return self._engine.is_behind_nat

    @property
    def epoch(self) -> int:
        """The epoch of this run."""
        return self._engine.epoch

    @property
    def unacknowledged(self) -> int:
        """The number of broadcasts of this run that no peer has acknowledged."""
        self._check_process()
        return 0 if self._engine_or_none is None else self._engine_or_none.unacknowledged

    @property
    def lag_s(self) -> float:
        """The maximum lag of the event loop in the last few seconds."""
        self._check_process()
        return (
            0.0
            if self._driver_or_none is None
            else self._driver_or_none.lag_monitor.max_recent_s(self.now())
        )

    @property
    def state_warning(self) -> str:
        """A warning about the state directory from start-up, for people; empty if there was none."""
        return self._persister.load_warning

    def now(self) -> float:
        """The clock of this node's events, in seconds."""
        return clock()

    def peers(self) -> list[PeerInfo]:
        """Returns the peers, connected or not."""
        return self._engine.peers(self.now())

    def members(self, tags: Mapping[str, str] | None = None) -> list[MemberInfo]:
        """Returns the known members of the cluster, without this node; with `tags`, those that have all of
        them."""
        members = self._engine.members(self.now())
        return members if not tags else [each for each in members if each.has_tags(tags)]

    def rtt(
        self, a: PeerId | Address | str, b: PeerId | Address | str | None = None
    ) -> Estimate | None:
        """Returns the round-trip time between two members; `b` is this node by default.

        Measured if one of them is this node and the other is connected to it; else estimated from the
        coordinates of both, or None if one of them is not known yet.

        Raises:
            UnknownPeer: no known member has this ID or address.
        """
        first = self._peer_id_of(a)
        return self._engine.rtt(first, None if b is None else self._peer_id_of(b), self.now())

    def nearest(self, k: int, among: Iterable[PeerId] | None = None) -> list[PeerId]:
        """Returns the `k` nearest members that are up, nearest first: of all, or of `among`. Members whose
        round-trip time is not known are left out."""
        return self._engine.nearest(k, among, self.now())

    @property
    def coordinate(self) -> Coordinate | None:
        """The network coordinate of this node; None until heartbeats have shown it."""
        return self._engine.coordinate

    @property
    def tags(self) -> dict[str, str]:
        """The tags of this node."""
        return dict(self._engine.tags)

    def leader(self, tags: Mapping[str, str] | None = None) -> PeerId | None:
        """Returns the least ID of the members that are up, this node included, and have all of `tags`; None
        if none does. A hint, not a lock: during a partition each side has its own."""
        tags = tags or {}
        ids = [self.peer_id] if self.is_running and includes(self._engine.tags, tags) else []
        up = [each.peer_id for each in self.members(tags) if each.status is MemberStatus.UP]
        return min(ids + up, default=None)

    def discovery_sources(self) -> list[DiscoverySource]:
        """Returns the sources of discovery with the addresses that each has named."""
        return self._discovery.sources()

    def peer_at(self, address: Address) -> PeerId | None:
        """Returns the member whose session proved that it is at `address`, or None. Advertised
        addresses do not count."""
        check_type("address", address, Address)
        return self._running_engine().peer_at(address)

    def is_cached(self, message_id: MessageId) -> bool:
        """Whether the broadcast `message_id` is cached here, so that this node can repair it."""
        check_type("message_id", message_id, MessageId)
        return self._engine.is_cached(message_id)

    def arrival_to_dict(self, message_id: MessageId) -> JsonObject:
        """Whether the broadcast `message_id` is cached here and how it came, as the query ``grapevine.has``
        answers."""
        return arrival_fields(self._engine.arrival(message_id), self.now())

    def rounds(self) -> list[Round]:
        """Returns the latest anti-entropy rounds that this node started, oldest first."""
        return self._engine.rounds()

    def traces(self) -> list[Trace]:
        """Returns the latest traces of this node, oldest first."""
        return self._engine.traces()

    def stats(self) -> Stats:
        """Returns all counters and gauges."""
        stats = self._engine.stats()
        dropped_reads = self._socket.dropped_reads
        return stats._replace(
            dropped=(*stats.dropped, (DropReason.SOCKET_OVERRUN, dropped_reads))
            if dropped_reads
            else stats.dropped,
            events_lost=stats.events_lost + self._hub.lost + self._subscriptions.lost,
            callback_errors=self._hub.failures,
            send_drops=stats.send_drops + self._socket.error_count,
            port_mappings_granted=self._port_mapper.outcomes[PortMappingOutcome.GRANTED],
            port_mappings_refused=self._port_mapper.outcomes[PortMappingOutcome.REFUSED],
            port_mappings_lost=self._port_mapper.outcomes[PortMappingOutcome.LOST],
        )

    # --- tasks ----------------------------------------------------------------------------------

    def _save_if_needed(self) -> Awaitable[bool] | None:
        """Saves the epoch and the entries of this node; None if they are on disk. The result is whether the
        epoch is, without which nothing may be sent."""
        engine, persister = self._engine, self._persister
        if persister.is_persisted(engine.epoch) and persister.has_settled(engine.state.version):
            return None
        return self._save_before_sending()

    async def _save_before_sending(self) -> bool:
        engine, persister = self._engine, self._persister
        if not persister.is_persisted(engine.epoch):
            return await self._save()
        for _ in range(ENTRY_SAVES_PER_TURN):
            version = engine.state.version
            if persister.has_settled(version):
                break
            saving = self._run_in_background(self._save())
            await asyncio.wait({saving}, timeout=ENTRY_SAVE_LIMIT_S)
            persister.settle(version)
        return persister.is_persisted(engine.epoch)

    async def _state_loop(self) -> None:
        """Saves changes and reports socket overruns once a second."""
        while True:
            await asyncio.sleep(SAVE_INTERVAL_S)
            self._hub.update_pause()
            dropped_reads = self._socket.dropped_reads
            if dropped_reads > self._reported_dropped_reads:
                count = dropped_reads - self._reported_dropped_reads
                self._publish(DatagramDropped(DropReason.SOCKET_OVERRUN, count))
                self._reported_dropped_reads = dropped_reads
            await self._save()

    async def _address_loop(self) -> None:
        """Advertises address changes of this machine: a new network, another DHCP address, a lost
        route."""
        sock, was_loopback_only = self._socket, False
        while True:
            previous, addresses = sock.dialable_address, sock.refresh_addresses()
            if addresses[0] != previous and not self.config.advertise:
                logger.info("the advertised address changed from %s to %s", previous, addresses[0])
            if self._engine.on_addresses_changed(addresses, self.now()):
                self._driver.wake()
                self._update_own_node()
                self._port_mapper.check()
            is_loopback_only = addresses[0].is_loopback
            if is_loopback_only and not was_loopback_only and not self.config.advertise:
                logger.warning(
                    "this machine has only loopback addresses, so nodes on other machines cannot dial it;"
                    " an address that appears later is used automatically, or set --advertise HOST:PORT"
                )
            was_loopback_only = is_loopback_only
            await asyncio.sleep(ADDRESS_CHECK_INTERVAL_S)

    # --- internals ------------------------------------------------------------------------------

    def _running_engine(self) -> Engine:
        if self._phase is Phase.RUNNING:
            self._check_loop()
            return self._engine
        if self._failure is not None:
            raise self._failure
        raise NotRunning(
            "this node has not started" if self._phase is Phase.NEW else "this node has left"
        )

    def _check_loop(self) -> None:
        """Raises NotRunning outside of the node's event loop. To ask asyncio for the running one instead
        takes a system call on Python 3.11."""
        is_in_loop = self._loop is not None and self._loop.is_running()
        if not is_in_loop or get_ident() != self._thread_id:
            raise NotRunning(
                "a node runs in one event loop; from another thread use"
                " asyncio.run_coroutine_threadsafe or loop.call_soon_threadsafe"
            )

    @property
    def _engine(self) -> Engine:
        if self._engine_or_none is None:
            self._check_process()
            raise NotRunning("this node has not been started")
        return self._engine_or_none

    @property
    def _socket(self) -> DatagramSocket:
        if self._socket_or_none is None:
            self._check_process()
            raise NotRunning("this node has not been started")
        return self._socket_or_none

    @property
    def _driver(self) -> EngineDriver:
        if self._driver_or_none is None:
            self._check_process()
            raise NotRunning("this node has not been started")
        return self._driver_or_none

    def _publish(self, event: Event) -> None:
        self._hub.publish(event)
        if isinstance(event, MessageSent):
            return  # this one and the next are the most frequent ones
        if isinstance(event, MessageReceived):
            if self._subscriptions.open:
                self._subscriptions.deliver(event.message)
        elif isinstance(event, PeerStateChanged):
            self._peers_changed.set()
        elif isinstance(event, EntryChanged):
            if event.topic and event.value is not None and event.owner != self.peer_id:
                self._subscriptions.deliver_retained(self._engine.retained_message(event))
        elif isinstance(event, CaughtUp):
            self._caught_up.set()
        elif isinstance(event, QUERY_EVENTS):
            self._queries.on_event(event)

    def _publish_in_order(self, item: Message | MessagesSkipped) -> None:
        self._hub.publish_in_order(item)
        if isinstance(item, Message):
            self._subscriptions.deliver(item, is_in_order=True)

    async def _save(self) -> bool:
        return await self._persister.save(
            self._engine,
            self.now(),
            self._unhandled_ids,
            self._hub.handled,
        )

    def _on_pause(self, is_paused: bool) -> None:
        """Called when message handlers fall behind, or have caught up."""
        if self._phase is Phase.RUNNING:
            (self._engine.pause if is_paused else self._engine.resume)(self.now())
            self._driver.wake()

    def _dial(self, addresses: tuple[Address, ...]) -> None:
        for address in addresses:
            self._running_engine().dial(address, self.now())
        self._driver.wake()

    def _update_own_node(self) -> None:
        """Tells sources that announce this node where it is and which keys it has."""
        advertised = (self.advertised,) if self.config.advertise else ()
        self._discovery.set_own(
            OwnNode(
                addresses=advertised or self._socket.refresh_addresses(),
                is_wildcard=self._socket.is_wildcard,
                keys=tuple(self._engine.config.keys),
                cluster=self._engine.config.cluster,
                state_dir=self._state_dir,
            )
        )

    def _addresses_not_to_dial(self) -> set[Address]:
        """The addresses that need no hint to the dialer: our own, and once there are peers, those of peers
        and of members that are up."""
        known = set(self._engine.record.addresses)
        if self._engine.has_peers:
            known |= {p.address for p in self.peers() if p.state is PeerState.CONNECTED}
            up = (m.address for m in self.members() if m.status is MemberStatus.UP)
            known |= {each for each in up if each is not None}
        return known

    def _hint(self, address: Address) -> None:
        if self._phase is not Phase.RUNNING:
            return
        self._engine.hint(address, self.now())
        self._driver.wake()

    def _on_port_mapped(self, address: Address | None) -> None:
        self._engine.on_port_mapped(address, self.now())
        self._driver.wake()

    async def _resolve(self, name: str) -> tuple[Address, ...]:
        return await self._socket.resolve(name)

    async def _resolve_and_dial(self, name: str) -> None:
        addresses = await self._socket.resolve(name, is_urgent=True)
        if not addresses:
            raise UnknownPeer(f"{name}: the name does not resolve")
        self._dial(addresses)

    def _on_resolved(self, name: str, addresses: tuple[Address, ...]) -> None:
        self._engine.on_resolved(name, addresses, self.now())
        self._driver.wake()

    def _run_in_background(
        self, coroutine: Coroutine[None, None, _WrittenT]
    ) -> asyncio.Task[_WrittenT]:
        """Runs `coroutine` in a task of its own, which the caller may await."""
        task = asyncio.create_task(coroutine)
        self._background_tasks.add(task)
        task.add_done_callback(self._on_background_done)
        return task

    def _on_background_done(self, task: asyncio.Task[Any]) -> None:
        self._background_tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.info("%s", task.exception())

    def _peer_id_of(self, to: PeerId | Address | str) -> PeerId:
        if isinstance(to, PeerId):
            return to
        if not isinstance(to, (str, Address)):
            raise InvalidArgument(f"to: expected a peer ID or an address, not {type(to).__name__}")
        with contextlib.suppress(ValueError):
            return PeerId.parse(str(to))
        try:
            address = Address.parse(str(to))
        except ValueError:
            raise UnknownPeer(f"unknown peer {str(to)!r}") from None
        peer_id = self.peer_at(address)
        if peer_id is None:
            raise UnknownPeer(
                f"no peer is known to be at {address}; dial it first, or use its peer ID"
            )
        return peer_id
