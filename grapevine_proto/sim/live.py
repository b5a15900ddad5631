"""A simulation that runs in real time beside real nodes, which reach it through sockets of its network.

Invariants:

- Virtual time follows the clock of the event loop. It never runs ahead, and it stands still while the
  process does: after a stall, the simulation goes on from where it was.
- A datagram between a real node and a simulated one has the latency and the losses of the network.
- A turn simulates at most `MAX_TURN_S`, so other tasks of the loop get their turns.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from grapevine_proto.ids import Address, Zone
from grapevine_proto.runtime.udp_socket import ReceiveQueue, SocketClosed
from grapevine_proto.sim.simulation import Simulation

MIN_TURN_S: Final = 0.0005  # what happens within this time happens in one turn
MAX_TURN_S: Final = 0.05
MAX_BEHIND_S: Final = 1.0  # more is a stall, which is not made up for


class LiveSimulation:
    """Advances `simulation` with the time of the event loop from `start` to `stop`.

    Pass what `socket_opener` returns to a `Node` as `open_socket`: the node is then at that address of the
    simulated network.
    """

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self._offset_s = 0.0  # of virtual time to the time of the loop
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._wake_at = math.inf  # in virtual time

    def start(self) -> None:
        """Begins to advance the simulation. Call it in the event loop of the nodes."""
        loop = asyncio.get_running_loop()
        self._offset_s = loop.time() - self.simulation.now
        self._task = loop.create_task(self._run(), name="grapevine simulation")

    async def stop(self) -> None:
        """Stops virtual time. Datagrams under way never arrive."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def socket_opener(
        self, address: Address, *, zone: Zone = ""
    ) -> Callable[[str], Awaitable[SimulatedSocket]]:
        """Returns a function for `Node(open_socket=...)`. `zone` decides the latencies of the node."""

        async def open_socket(bind: str) -> SimulatedSocket:
            return SimulatedSocket(self, address, zone)

        return open_socket

    def send_as(self, number: int, datagram: bytes, to: Address) -> None:
        """Sends a datagram from a place of the network, now."""
        if self._task is None:
            return
        self._catch_up()
        self.simulation.send_as(number, datagram, to)
        if self.simulation.next_at < self._wake_at:
            self._wake.set()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            is_behind = not self._catch_up()
            self._wake_at = self.simulation.next_at
            delay_s = max(MIN_TURN_S, self._wake_at + self._offset_s - loop.time())
            if is_behind or self._wake.is_set():
                await asyncio.sleep(0)
                continue
            timer = loop.call_later(delay_s, self._wake.set) if delay_s < math.inf else None
            try:
                await self._wake.wait()
            finally:
                if timer is not None:
                    timer.cancel()

    def _catch_up(self) -> bool:
        """Simulates what is due, at most `MAX_TURN_S` of it; returns whether that was all."""
        behind_s = asyncio.get_running_loop().time() - self._offset_s - self.simulation.now
        if behind_s > MAX_BEHIND_S:
            self._offset_s += behind_s - MAX_TURN_S
            behind_s = MAX_TURN_S
        self.simulation.run(max(0.0, min(behind_s, MAX_TURN_S)))
        return behind_s <= MAX_TURN_S


class SimulatedSocket:
    """The socket of a real node at `address` of a simulated network."""

    def __init__(self, live: LiveSimulation, address: Address, zone: Zone) -> None:
        self.address = address
        self.is_wildcard = False
        self.error_count = 0
        self.too_large: list[tuple[int, Address]] = []
        self.unsendable: deque[tuple[Address, str]] = deque(maxlen=1)
        self._live = live
        self._queue = ReceiveQueue()
        self._number = live.simulation.attach(self._on_arrival, address, zone=zone)

    def _on_arrival(self, datagram: bytes, source: Address) -> None:
        if not self._queue.is_closed:
            self._queue.put_nowait((datagram, source))

    @property
    def dropped_reads(self) -> int:
        """Datagrams dropped because the receive queue was full."""
        return self._queue.dropped_reads

    @property
    def is_readable(self) -> bool:
        """Whether `receive` would return at once."""
        return len(self._queue) > 0

    @property
    def dialable_address(self) -> Address:
        return self.address

    def refresh_addresses(self) -> tuple[Address, ...]:
        return (self.address,)

    async def receive(self) -> tuple[bytes, Address]:
        """Returns the next datagram and its source. Raises SocketClosed."""
        queue = self._queue
        while not queue or queue.is_closed:
            if queue.is_closed:
                raise SocketClosed
            await queue.next_change()
        return queue.pop()

    def send_nowait(self, datagram: bytes, to: Address) -> bool:
        """Sends `datagram` into the network, which always has room. Raises SocketClosed."""
        if self._queue.is_closed:
            raise SocketClosed
        self._live.send_as(self._number, datagram, to)
        return True

    async def send(self, datagram: bytes, to: Address) -> None:
        """As `send_nowait`."""
        self.send_nowait(datagram, to)

    async def resolve(self, name: str, *, is_urgent: bool = False) -> tuple[Address, ...]:
        """A simulated network has no names."""
        return ()

    def close(self) -> None:
        if not self._queue.is_closed:
            self._queue.put_nowait((None, None))

    def on_forked(self) -> None:
        """There is nothing to release."""
