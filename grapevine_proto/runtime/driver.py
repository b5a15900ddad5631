"""What drives one engine under asyncio: reads its socket, lets its time pass, writes, and tells.

What must stay true:

- One task reads the socket, one writes it. The writer (the pump) is also the only one that lets the
  engine's time pass.
- What came is told before anything is done about it: the reader tells what it read, and wakes the
  pump only after whoever was told was woken. All is told in the order in which it happened.
- No error of the system, of a handler or of one peer ends a task or costs another peer a datagram, in
  or out.
- No turn of the loop is taken for long: reader and pump work in bounded batches.
- Nothing is sent under an epoch that is not on disk.
- When the loop comes late, the engine is told before it judges anybody by the time that passed.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, NoReturn

from grapevine_proto.engine import Engine
from grapevine_proto.errors import GrapevineError, NotRunning, StateLockedError
from grapevine_proto.events import Event, IdentityInUse, InternalErrorContained
from grapevine_proto.faults import format_error
from grapevine_proto.runtime.clock import CLOCK_POLL_INTERVAL_S, LoopLagMonitor
from grapevine_proto.runtime.udp_socket import SocketClosed, UdpSocket

logger = logging.getLogger("grapevine")

MAX_ITEMS_PER_TURN: Final = (
    64  # datagrams read, sent, or events told per turn: about 4 ms of work at 60 us each
)
MAX_UNPUBLISHED_EVENTS: Final = (
    4096  # events; a datagram on loopback brings hundreds of small messages
)
MIN_WAIT_S: Final = 0.001  # what timers can do; keeps a deadline in the past from spinning
ERROR_PAUSE_S: Final = 0.5
ERROR_LOG_INTERVAL_S: Final = 1.0


class EngineDriver:
    """Runs as two tasks, `read_loop` and `write_loop`, until they are cancelled. `publish` is told what
    happens,
    `fail` why it cannot go on; `ensure_epoch_saved` says, or sees to it, that the epoch is on disk.

    `wake` it when something is to be sent. `room_available` is set when a payload of
    `waiting_payload_bytes` finds room,
    `drained` when all was said after `Engine.leave`; `broadcasts_since_turn` broadcasts came since the
    last turn.
    """

    def __init__(
        self,
        engine: Engine,
        sock: UdpSocket,
        publish: Callable[[Event], None],
        fail: Callable[[GrapevineError], None],
        ensure_epoch_saved: Callable[[], Awaitable[bool]],
        now: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._socket = sock
        self._publish = publish
        self._fail = fail
        self._ensure_epoch_saved = ensure_epoch_saved
        self._now = now
        self.lag_monitor = LoopLagMonitor(now())
        self._unpublished: deque[Event] = deque()
        self._wake_event = asyncio.Event()
        self.room_available = asyncio.Event()
        self.waiting_payload_bytes = 0  # of the payload that waits for room longest
        self.drained = asyncio.Event()
        self.broadcasts_since_turn = 0
        self._error_logged_at = -math.inf

    def wake(self) -> None:
        """There is something to send, or time to be looked at anew."""
        if not self._wake_event.is_set():
            self._wake_event.set()

    async def read_loop(self) -> None:
        """The task that reads."""
        while True:
            try:
                await self._read_datagrams()
            except SocketClosed:
                self._fail(NotRunning("the socket was closed under the node"))
                return
            except Exception:
                logger.exception("a fault in the node; it goes on")
                await asyncio.sleep(
                    0
                )  # no longer: a peer that could cause it could silence the node

    async def _read_datagrams(self) -> NoReturn:
        """Read datagrams without end."""
        engine, sock = self._engine, self._socket
        batch_size = 0
        while True:
            datagram, source = await sock.receive()
            try:
                engine.receive(datagram, source, self._read_clock())
            except Exception as error:  # noqa: BLE001  it never raises; should it, only this datagram is lost
                self._log_internal_error(format_error(error))
            batch_size += 1
            if batch_size < MAX_ITEMS_PER_TURN and sock.is_readable:
                continue
            batch_size = 0
            self._publish_batch()
            self.wake()  # whoever was told has its turn before the pump, for it was woken before
            if sock.is_readable:
                await asyncio.sleep(0)
            while (
                len(self._unpublished) > MAX_UNPUBLISHED_EVENTS
            ):  # what is not read yet can wait where it is
                self._publish_batch()
                await asyncio.sleep(0)

    async def write_loop(self) -> None:
        """The task that lets time pass, and writes."""
        while True:
            try:
                await self._run_turn()
            except SocketClosed:
                self._fail(NotRunning("the socket was closed under the node"))
                return
            except Exception:
                logger.exception("a fault in the node; it goes on")
                await asyncio.sleep(ERROR_PAUSE_S)

    async def _run_turn(self) -> None:
        """Let time pass, send what is due, tell what happened, wait for the next reason to wake."""
        engine = self._engine
        self._wake_event.clear()
        self.broadcasts_since_turn = 0
        now = self._read_clock()
        if engine.deadline <= now:
            engine.advance(now)
        sent = await self._send_all()
        published = await self._publish_all()
        if engine.stop_reason is not None:
            self._fail(StateLockedError(engine.stop_reason))
        if engine.can_broadcast_bytes(self.waiting_payload_bytes):
            self.room_available.set()
        if engine.is_drained:
            self.drained.set()
        if self._wake_event.is_set():
            await asyncio.sleep(0)
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
        if not await self._ensure_epoch_saved():
            return 0  # nothing may be sent under an epoch that could be used again
        datagrams = engine.datagrams_to_send(self._now())
        for number, (datagram, address) in enumerate(datagrams, 1):
            try:
                await sock.send(datagram, address)
            except SocketClosed:
                raise
            except Exception as error:  # noqa: BLE001  of this datagram alone
                self._log_internal_error(format_error(error))
            if number % MAX_ITEMS_PER_TURN == 0:
                await asyncio.sleep(0)
        while sock.too_large:
            engine.on_emsgsize(*sock.too_large.pop(), self._now())
        while sock.unsendable:
            engine.on_unsendable(*sock.unsendable.popleft(), self._now())
        return len(datagrams)

    def _publish_batch(self) -> int:
        """Tell a batch of what happened; how much that was."""
        unpublished = self._unpublished
        unpublished += self._engine.events()
        count = min(len(unpublished), MAX_ITEMS_PER_TURN)
        for _ in range(count):
            event = unpublished.popleft()
            if isinstance(event, IdentityInUse):
                logger.error("%s", event.problem)
            if isinstance(event, InternalErrorContained):
                self._log_internal_error(event.problem)
            self._publish(event)
        return count

    def _log_internal_error(self, problem: str) -> None:
        """Say so in the log, at most once a second: a peer may have caused it, and may again."""
        now = self._now()
        if now - self._error_logged_at >= ERROR_LOG_INTERVAL_S:
            self._error_logged_at = now
            logger.error("a fault in the node; it goes on: %s", problem)

    async def _publish_all(self) -> int:
        count = self._publish_batch()
        while self._unpublished:
            await asyncio.sleep(0)
            count += self._publish_batch()
        return count

    def _read_clock(self) -> float:
        """The time; the engine is told first where the loop comes late to it."""
        now = self._now()
        late_s = self.lag_monitor.tick(now)
        if late_s:
            self._engine.on_lag(late_s, now)
        return now
