"""Evaluates the alerts of a node once a second, in the process of the node.

Invariants: without rules a turn costs nothing; a problem of one turn ends none of the following.

Driven by `alert_monitor`, around a host of this process.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from grapevine_proto.errors import GrapevineError
from grapevine_proto.events import Event, MessageReceived, MessageSent
from grapevine_tui.host.alerts import ReadingSampler
from grapevine_tui.host.local import Host
from grapevine_tui.host.model import Changes

EVALUATION_INTERVAL_S: Final = 1.0


class AlertMonitor:
    """Feeds the alert book of `host` with messages and readings."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._sampler = ReadingSampler()

    def on_event(self, event: Event, _: Changes) -> None:
        book = self._host.alert_book
        if book.watches_messages and isinstance(event, (MessageReceived, MessageSent)):
            book.on_message(event.message, self._host.node.now())

    def evaluate(self) -> None:
        """Take the readings of now and report what they change. Raises GrapevineError without a node."""
        host, node = self._host, self._host.node
        if not host.alert_book.has_rules:
            return
        now = node.now()
        readings = self._sampler.take(
            node.peers(),
            node.members() if host.alert_book.reads_members else (),
            node.stats(),
            lag_s=node.lag_s,
            unacknowledged=host.unacknowledged,
            now=now,
        )
        for change in host.alert_book.evaluate(readings, now):
            host.report_alert(change)


@contextlib.asynccontextmanager
async def alert_monitor(host: Host) -> AsyncIterator[None]:
    """Evaluate the alerts of `host` from its start until the end of this context."""
    monitor = AlertMonitor(host)
    host.listen(monitor.on_event)

    async def run() -> None:
        await host.started.wait()
        while True:
            with contextlib.suppress(GrapevineError):  # the node has stopped
                monitor.evaluate()
            await asyncio.sleep(EVALUATION_INTERVAL_S)

    task = asyncio.create_task(run())
    try:
        yield
    finally:
        task.cancel()
