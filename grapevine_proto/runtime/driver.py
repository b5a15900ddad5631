"""Drives one engine under asyncio: reads and writes its socket, advances its time and publishes its events.

Invariants:

- One task reads the socket, another one writes it. Only the writing task advances the engine.
- Events are published before the engine acts on them: the reader publishes what it read, and wakes the
  writer only after the readers of events. Events are published in the order in which they occurred.
- No error of the system, a handler or one peer ends a task or costs another peer a datagram, in or out.
- Both tasks work in limited batches, so other tasks of the loop get their turns.
- Nothing is sent under an epoch that is not on disk.
- The engine learns about loop lag before it judges any peer by the time that passed.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, NoReturn

from grapevine_proto.engine import Engine
from grapevine_proto.errors import GrapevineError, NotRunning, StateLockedError, format_error
from grapevine_proto.events import (
    Event,
    IdentityInUse,
    InternalErrorContained,
    Message,
    MessageReceived,
    MessagesSkipped,
)
from grapevine_proto.runtime.clock import CLOCK_POLL_INTERVAL_S, LoopLagMonitor
from grapevine_proto.runtime.log_throttle import LogThrottle
from grapevine_proto.runtime.udp_socket import DatagramSocket, SocketClosed

logger = logging.getLogger("grapevine")

MAX_ITEMS_PER_TURN: Final = 64  # datagrams or events per turn: about 4 ms at 60 us each
MAX_UNPUBLISHED_EVENTS: Final = 4096  # one loopback datagram can hold hundreds of small messages
MIN_WAIT_S: Final = 0.001  # resolution of timers; a deadline in the past does not spin the loop
ERROR_PAUSE_S: Final = 0.5
ERROR_LOG_INTERVAL_S: Final = 1.0
LOGGED_EVENTS: Final = (IdentityInUse, InternalErrorContained)


class EngineDriver:
    """Drives `engine` in two tasks, `read_loop` and `write_loop`, until they are cancelled.

    Call `wake` when there is something to send. `room_available` is set when a payload of
    `waiting_payload_bytes` has room, `drained` when everything was sent after `Engine.leave`, `flushed` when
    no broadcast is unacknowledged, `sends_begun` when no direct message waits for a session.
    `broadcasts_since_turn` counts broadcasts since the last turn.

    Args:
        engine: the engine.
        sock: its socket.
        publish: called with each event.
        publish_in_order: called with each message that may be read in order, and reports of skipped ones.
        fail: called with the error that stops the node.
        save_if_needed: saves what must be on disk before anything is sent, and whether it may be sent then;
            None if everything is.
        now: the node's monotonic clock, in seconds.
    """

    def __init__(
        self,
        engine: Engine,
        sock: DatagramSocket,
        publish: Callable[[Event], None],
        publish_in_order: Callable[[Message | MessagesSkipped], None],
        fail: Callable[[GrapevineError], None],
        save_if_needed: Callable[[], Awaitable[bool] | None],
        now: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._socket = sock
        self._publish = publish
        self._publish_in_order = publish_in_order
        self._fail = fail
        self._save_if_needed = save_if_needed
        self._now = now
        self.lag_monitor = LoopLagMonitor(now())
        self._unpublished: deque[Event] = deque()
        self._unpublished_in_order: deque[Message | MessagesSkipped] = deque()
        self._wake_event = asyncio.Event()
        self.room_available = asyncio.Event()
        self.waiting_payload_bytes = 0  # of the payload that has waited longest
        self.drained = asyncio.Event()
        self.flushed = asyncio.Event()
        self.sends_begun = asyncio.Event()
        self.broadcasts_since_turn = 0
        self._error_log = LogThrottle(ERROR_LOG_INTERVAL_S)

    def wake(self) -> None:
        """Schedules a turn of `write_loop`: there is something to send, or a new deadline."""
        if not self._wake_event.is_set():
            self._wake_event.set()

    def on_broadcast(self) -> None:
        """Counts a broadcast, and wakes."""
        self.broadcasts_since_turn += 1
        if not self._wake_event.is_set():
            self._wake_event.set()

    def await_room_for(self, payload_bytes: int) -> None:
        """From now on `room_available` means room for a payload of this size."""
        self.waiting_payload_bytes = payload_bytes

    async def read_loop(self) -> None:
        """Reads datagrams until the task is cancelled or the socket closed."""
        while True:
            try:
                await self._read_datagrams()
            except SocketClosed:
                self._fail(NotRunning("the socket was closed by the system"))
                return
            except Exception:
                logger.exception("internal error; the node continues")
                await asyncio.sleep(
                    0
                )  # not longer, or a peer that causes errors could silence the node

    async def _read_datagrams(self) -> NoReturn:
        """Passes each datagram to the engine and publishes events in batches."""
        engine, sock = self._engine, self._socket
        batch_size = 0
        while True:
            datagram, source = await sock.receive()
            try:
                engine.receive(datagram, source, self._read_clock())
            except Exception as error:  # noqa: BLE001  a bug costs only this datagram
                self._log_internal_error(format_error(error))
            batch_size += 1
            if batch_size < MAX_ITEMS_PER_TURN and sock.is_readable:
                continue
            batch_size = 0
            self._publish_batch()
            self.wake()  # after the readers of events, so they run first
            if sock.is_readable:
                await asyncio.sleep(0)
            # datagrams that are not read yet can wait in the socket
            while len(self._unpublished) + len(self._unpublished_in_order) > MAX_UNPUBLISHED_EVENTS:
                self._publish_batch()
                await asyncio.sleep(0)

    async def write_loop(self) -> None:
        """Advances the engine and sends datagrams until the task is cancelled or the socket closed."""
        while True:
            try:
                await self._run_turn()
            except SocketClosed:
                self._fail(NotRunning("the socket was closed by the system"))
                return
            except Exception:
                logger.exception("internal error; the node continues")
                await asyncio.sleep(ERROR_PAUSE_S)

    async def _run_turn(self) -> None:
        """Advances the engine, sends what is due, publishes events and waits for the next wake-up."""
        engine = self._engine
        self._wake_event.clear()
        is_broadcasting, self.broadcasts_since_turn = self.broadcasts_since_turn > 0, 0
        engine.advance(self._read_clock())  # to ask for its deadline first takes as long
        sent = await self._send_all()
        published = self._publish_batch()
        while self._unpublished or self._unpublished_in_order:
            await asyncio.sleep(0)
            published += self._publish_batch()
        if engine.stop_reason is not None:
            self._fail(StateLockedError(engine.stop_reason))
        if engine.can_broadcast_bytes(self.waiting_payload_bytes):
            self.room_available.set()
        if engine.is_drained:
            self.drained.set()
        if not engine.unacknowledged:
            self.flushed.set()
        if not engine.has_pending_sends:
            self.sends_begun.set()
        if is_broadcasting or self._wake_event.is_set():
            await asyncio.sleep(0)  # who broadcasts often does so again: a timer would be in vain
            if self._wake_event.is_set():
                return
        min_wait_s = 0.0 if sent or published else MIN_WAIT_S
        delay_s = min(max(engine.deadline - self._now(), min_wait_s), CLOCK_POLL_INTERVAL_S)
        timer = asyncio.get_running_loop().call_later(delay_s, self._wake_event.set)
        try:
            await self._wake_event.wait()
        finally:
            timer.cancel()

    async def _send_all(self) -> int:
        engine, sock = self._engine, self._socket
        saving = self._save_if_needed()
        if saving is not None and not await saving:
            return 0  # a crash now could reuse an unsaved epoch
        datagrams = engine.datagrams_to_send(self._now())
        for number, (datagram, address) in enumerate(datagrams, 1):
            try:
                if not sock.send_nowait(datagram, address):
                    await sock.send(datagram, address)
            except SocketClosed:
                raise
            except Exception as error:  # noqa: BLE001  costs only this datagram
                self._log_internal_error(format_error(error))
            if number % MAX_ITEMS_PER_TURN == 0:
                await asyncio.sleep(0)
        while sock.too_large:
            engine.on_emsgsize(*sock.too_large.pop(), self._now())
        while sock.unsendable:
            engine.on_unsendable(*sock.unsendable.popleft(), self._now())
        return len(datagrams)

    def _publish_batch(self) -> int:
        """Publishes a batch of events. Returns how many."""
        unpublished, in_order = self._unpublished, self._unpublished_in_order
        in_order += self._engine.messages_in_order(self._now())
        unpublished += self._engine.events()
        publish, count = self._publish, min(len(unpublished), MAX_ITEMS_PER_TURN)
        for _ in range(count):
            event = unpublished.popleft()
            if isinstance(event, LOGGED_EVENTS):
                self._log_event(event)
            publish(event)
        count_in_order = min(len(in_order), MAX_ITEMS_PER_TURN)
        for _ in range(count_in_order):
            self._publish_in_order(in_order.popleft())
        return count + count_in_order

    def publish_rest(self) -> None:
        """Publishes everything that is not published yet, without yielding."""
        while self._publish_batch():
            pass

    def unpublished_messages(self) -> list[Message]:
        """Returns received messages that are not published yet."""
        self._unpublished += self._engine.events()
        return [each.message for each in self._unpublished if isinstance(each, MessageReceived)]

    def unpublished_in_order(self) -> list[Message]:
        """Returns messages that may be read in order and are not published yet."""
        self._unpublished_in_order += self._engine.messages_in_order(self._now())
        return [each for each in self._unpublished_in_order if isinstance(each, Message)]

    def _log_event(self, event: IdentityInUse | InternalErrorContained) -> None:
        if isinstance(event, IdentityInUse):
            logger.error("%s", event.problem)
        else:
            self._log_internal_error(event.problem)

    def _log_internal_error(self, problem: str) -> None:
        """Logs an internal error, at most once per second, because a peer may be able to cause it
        repeatedly."""
        if self._error_log.admits(self._now()):
            logger.error("internal error; the node continues: %s", problem)

    def _read_clock(self) -> float:
        """Returns the current time, after reporting loop lag to the engine."""
        now = self._now()
        late_s = self.lag_monitor.tick(now)
        if late_s:
            self._engine.on_lag(late_s, now)
        return now
