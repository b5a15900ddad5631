"""A node of a fleet: besides its own alerts, those that this user's rules raise about it.

Invariants:

- The rules are evaluated here, over what the node reports; nothing is sent to it. A rule whose name the node
  has as well is left to the node.
- A context that is lost or does not answer is not judged: its alerts stay as they were.
- To the screens they are alerts like those of the node; muting them is a matter of this process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from grapevine_proto.events import Event, MessageReceived, MessageSent
from grapevine_tui.config.alert_rules import AlertRule
from grapevine_tui.control.target import Target
from grapevine_tui.host.alerts import STATE_ORDER, AlertBook, AlertStatus, ReadingSampler
from grapevine_tui.host.model import Model
from grapevine_tui.host.query import compile_filter, parse_query
from grapevine_tui.remote.host import RemoteHost


class FleetHost(RemoteHost):
    """The node at `target`, to which `rules` apply. `clock` returns monotonic seconds."""

    def __init__(
        self,
        target: Target,
        model: Model,
        rules: Sequence[AlertRule] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(target, model, clock)
        self._rules = tuple(rules)
        self._book = AlertBook(lambda text: compile_filter(parse_query(text), model))
        self._sampler = ReadingSampler()
        self._names_of_node: frozenset[str] | None = None  # of its alerts; None: not known yet
        self._alerts_of_node: Sequence[AlertStatus] = ()

    def evaluate(self) -> None:
        """Judge what the node reported last. Called once a second."""
        if self._names_of_node is None or not self.is_connected or self.model.disconnect_reason:
            return
        now, book, model = self._clock(), self._book, self.model
        if not book.has_rules:
            return
        readings = self._sampler.take(
            model.peers.values(),
            model.members.values() if book.reads_members else (),
            model.stats,
            lag_s=self.lag_s,
            unacknowledged=self.unacknowledged,
            now=self.now(),
        )
        for change in book.evaluate(readings, now):
            if change.peer_id is not None:
                change = change._replace(peer_name=model.name_of(change.peer_id))
            self._changes |= model.on_alert(change)
        self._show_alerts(self._alerts_of_node)

    def _show_alerts(self, alerts: Sequence[AlertStatus]) -> None:
        """Show the alerts of the node, and with them those of the rules here."""
        self._alerts_of_node = alerts
        names = frozenset(each.name for each in alerts)
        if names != self._names_of_node:
            self._names_of_node = names
            rules = [each for each in self._rules if each.name not in names]
            self._book.set_rules(rules, self._clock())
        merged = (*alerts, *self._book.statuses(self._clock()))
        super()._show_alerts(sorted(merged, key=_state_order))

    def _dispatch(self, event: Event) -> None:
        super()._dispatch(event)
        if isinstance(event, (MessageReceived, MessageSent)) and self._book.watches_messages:
            self._book.on_message(event.message, self._clock())

    async def mute(self, name: str, for_s: int | None = None) -> None:
        if self._is_judged_here(name):
            self._book.mute(name, for_s, self._clock())
            self._show_alerts(self._alerts_of_node)
        else:
            await super().mute(name, for_s)

    async def unmute(self, name: str) -> None:
        if self._is_judged_here(name):
            self._book.unmute(name)
            self._show_alerts(self._alerts_of_node)
        else:
            await super().unmute(name)

    def _is_judged_here(self, name: str) -> bool:
        """Whether the alert of that name is one of the rules here."""
        return name not in (self._names_of_node or ()) and any(
            each.name == name for each in self._rules
        )


def _state_order(alert: AlertStatus) -> int:
    """Sorts firing alerts first; a state that only a newer node knows comes last."""
    return STATE_ORDER.index(alert.state) if alert.state in STATE_ORDER else len(STATE_ORDER)
