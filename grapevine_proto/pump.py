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

from grapevine_proto.clock import TICK_S, Lag
from grapevine_proto.endpoint import Endpoint, EndpointClosed
from grapevine_proto.engine import Engine
from grapevine_proto.errors import GrapevineError, NotRunning, StateLockedError
from grapevine_proto.events import Event, FaultContained, IdentityInUse
from grapevine_proto.faults import describe

logger = logging.getLogger("grapevine")

BATCH: Final = 64  # datagrams read, sent, or events told per turn: about 4 ms of work at 60 us each
UNTOLD_LIMIT: Final = 4096  # events; a datagram on loopback brings hundreds of small messages
LEAST_WAIT_S: Final = 0.001  # what timers can do; keeps a deadline in the past from spinning
FAULT_PAUSE_S: Final = 0.5
FAULT_LOG_EVERY_S: Final = 1.0


class Pump:
    """Runs as two tasks, `read` and `run`, until they are cancelled. `publish` is told what happens,
    `fail` why it cannot go on; `may_send` says, or sees to it, that the epoch is on disk.

    `wake` it when something is to be sent. `room` is set when a payload of `awaited_bytes` finds room,
    `drained` when all was said after `Engine.leave`; `unpumped` broadcasts came since the last turn.
    """

    def __init__(
        self,
        engine: Engine,
        endpoint: Endpoint,
        publish: Callable[[Event], None],
        fail: Callable[[GrapevineError], None],
        may_send: Callable[[], Awaitable[bool]],
        now: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._endpoint = endpoint
        self._publish = publish
        self._fail = fail
        self._may_send = may_send
        self._now = now
        self.lag = Lag(now())
        self._untold: deque[Event] = deque()
        self._awake = asyncio.Event()
        self.room = asyncio.Event()
        self.awaited_bytes = 0  # of the payload that waits for room longest
        self.drained = asyncio.Event()
        self.unpumped = 0
        self._fault_logged_at = -math.inf

    def wake(self) -> None:
        """There is something to send, or time to be looked at anew."""
        if not self._awake.is_set():
            self._awake.set()

    async def read(self) -> None:
        """The task that reads."""
        while True:
            try:
                await self._read()
            except EndpointClosed:
                self._fail(NotRunning("the socket was closed under the node"))
                return
            except Exception:
                logger.exception("a fault in the node; it goes on")
                await asyncio.sleep(
                    0
                )  # no longer: a peer that could cause it could silence the node

    async def _read(self) -> NoReturn:
        """Read datagrams without end."""
        engine, endpoint = self._engine, self._endpoint
        batch = 0
        while True:
            datagram, source = await endpoint.receive()
            try:
                engine.receive(datagram, source, self._tick())
            except Exception as error:  # noqa: BLE001  it never raises; should it, only this datagram is lost
                self._log_fault(describe(error))
            batch += 1
            if batch < BATCH and endpoint.has_more:
                continue
            batch = 0
            self._tell_some()
            self.wake()  # whoever was told has its turn before the pump, for it was woken before
            if endpoint.has_more:
                await asyncio.sleep(0)
            while len(self._untold) > UNTOLD_LIMIT:  # what is not read yet can wait where it is
                self._tell_some()
                await asyncio.sleep(0)

    async def run(self) -> None:
        """The task that lets time pass, and writes."""
        while True:
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
        self._awake.clear()
        self.unpumped = 0
        now = self._tick()
        if engine.deadline <= now:
            engine.advance(now)
        sent = await self._send_all()
        told = await self._tell_all()
        if engine.stopped is not None:
            self._fail(StateLockedError(engine.stopped))
        if engine.has_room_for(self.awaited_bytes):
            self.room.set()
        if engine.is_drained:
            self.drained.set()
        if self._awake.is_set():
            await asyncio.sleep(0)
            return
        least_s = 0.0 if sent or told else LEAST_WAIT_S
        delay_s = min(max(engine.deadline - self._now(), least_s), TICK_S)
        timer = asyncio.get_running_loop().call_later(delay_s, self._awake.set)
        try:
            await self._awake.wait()
        finally:
            timer.cancel()

    async def _send_all(self) -> int:
        engine, endpoint = self._engine, self._endpoint
        if not await self._may_send():
            return 0  # nothing may be sent under an epoch that could be used again
        datagrams = engine.datagrams_to_send(self._now())
        for number, (datagram, address) in enumerate(datagrams, 1):
            try:
                await endpoint.send(datagram, address)
            except EndpointClosed:
                raise
            except Exception as error:  # noqa: BLE001  of this datagram alone
                self._log_fault(describe(error))
            if number % BATCH == 0:
                await asyncio.sleep(0)
        while endpoint.too_large:
            engine.refused(*endpoint.too_large.pop(), self._now())
        while endpoint.unsendable:
            engine.unsendable(*endpoint.unsendable.popleft(), self._now())
        return len(datagrams)

    def _tell_some(self) -> int:
        """Tell a batch of what happened; how much that was."""
        untold = self._untold
        untold += self._engine.events()
        count = min(len(untold), BATCH)
        for _ in range(count):
            event = untold.popleft()
            if isinstance(event, IdentityInUse):
                logger.error("%s", event.problem)
            if isinstance(event, FaultContained):
                self._log_fault(event.problem)
            self._publish(event)
        return count

    def _log_fault(self, problem: str) -> None:
        """Say so in the log, at most once a second: a peer may have caused it, and may again."""
        now = self._now()
        if now - self._fault_logged_at >= FAULT_LOG_EVERY_S:
            self._fault_logged_at = now
            logger.error("a fault in the node; it goes on: %s", problem)

    async def _tell_all(self) -> int:
        count = self._tell_some()
        while self._untold:
            await asyncio.sleep(0)
            count += self._tell_some()
        return count

    def _tick(self) -> float:
        """The time; the engine is told first where the loop comes late to it."""
        now = self._now()
        late_s = self.lag.tick(now)
        if late_s:
            self._engine.lagged(late_s, now)
        return now
