"""Several nodes looked after at once: a connection and a model for each context, and a row that sums it up.

Invariants:

- Contexts share nothing: one that hangs, is lost or lies changes no row but its own.
- What a row says is of now, or carries the time as of which it was so.
- Each model keeps little, so that a context costs about 3 MB; the app over one has the same model.

Driven by `run` in the loop of the app; whoever shows one context in detail calls its `refresh` meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple, TypeAlias

from grapevine_proto.errors import GrapevineError
from grapevine_proto.events import MemberStatus
from grapevine_proto.ids import PeerId
from grapevine_tui.config.alert_rules import AlertRule
from grapevine_tui.history.records import event_text
from grapevine_tui.host.alerts import AlertChange, AlertStatus
from grapevine_tui.host.model import SILENT_TEXT, Model
from grapevine_tui.remote.contexts import Context
from grapevine_tui.remote.fleet_host import FleetHost
from grapevine_tui.remote.host import MALFORMED_REPLY_ERRORS
from grapevine_tui.text import printable

MAX_MESSAGES: Final = (
    1_000  # of each context, as many as a node sends a client that begins to watch
)
MAX_MESSAGE_BYTES: Final = 2**20
REFRESH_INTERVAL_S: Final = 1.0
LOSS_SAMPLES: Final = 30  # seconds over which loss is measured
TREND_SAMPLES: Final = 60
HIGH_LAG_S: Final = 0.2
HIGH_LOSS: Final = 0.02

CONNECTING: Final = "connecting"
UP: Final = "up"
SILENT: Final = "silent"
LOST: Final = "lost"
STATES: Final = (LOST, SILENT, CONNECTING, UP)  # worst first


class FleetRow(NamedTuple):
    """One context at a moment. `up` counts the node itself. `loss` is a fraction, None if nothing was sent;
    `alerts` are the names of those that can be heard. `as_of` is 0 if the row is of now, else the Unix time
    as of which it was so, for `reason`."""

    name: str
    cluster: str
    place: str
    is_readonly: bool
    state: str
    up: int
    suspect: int
    down: int
    messages_per_s: float
    trend: tuple[float, ...]
    loss: float | None
    lag_s: float
    unacknowledged: int
    last_event: str
    last_event_at: float
    alerts: tuple[str, ...]
    is_muted: bool
    as_of: float
    reason: str

    @property
    def severity(self) -> tuple[float, ...]:
        """Sorts rows worst first: cut off, members down or suspect, alerts, then what is slow or lossy."""
        return (
            STATES.index(self.state),
            -self.down,
            -self.suspect,
            -len(self.alerts),
            -float(self.lag_s > HIGH_LAG_S),
            -float(self.loss is not None and self.loss > HIGH_LOSS),
            -float(self.unacknowledged > 0),
        )

    def to_dict(self) -> dict[str, Any]:
        """The fields of its JSON object."""
        is_known = self.state != CONNECTING and bool(self.up)
        return {
            "context": self.name,
            "cluster": self.cluster,
            "place": self.place,
            "readonly": self.is_readonly,
            "state": self.state,
            "reason": self.reason,
            "up": self.up if is_known else None,
            "suspect": self.suspect if is_known else None,
            "down": self.down if is_known else None,
            "messages_per_s": round(self.messages_per_s, 3) if is_known else None,
            "loss": None if self.loss is None else round(self.loss, 5),
            "lag_ms": round(self.lag_s * 1000, 3) if is_known else None,
            "unacknowledged": self.unacknowledged if is_known else None,
            "alerts": list(self.alerts),
            "last_event": self.last_event,
            "last_event_at": round(self.last_event_at, 3) or None,
            "as_of": round(self.as_of, 3) or None,
        }


class Event(NamedTuple):
    """Something that happened; `text` is printable."""

    text: str
    at_unix: float


AlertKey: TypeAlias = tuple[str, PeerId | None]


class ContextAlert(NamedTuple):
    """An alert of a context that began to fire, or is over; `text` is printable."""

    context: str
    is_firing: bool
    text: str

    @property
    def line(self) -> str:
        """What happened where, in one line."""
        return f"{self.context}: {self.text}"


class FleetNode:
    """One context with its connection."""

    def __init__(
        self,
        context: Context,
        wall_clock: Callable[[], float] = time.time,
        rules: Sequence[AlertRule] = (),
    ) -> None:
        self.context = context
        self.model = Model(
            max_messages=MAX_MESSAGES, max_message_bytes=MAX_MESSAGE_BYTES, wall_clock=wall_clock
        )
        self.host = FleetHost(context.target, self.model, rules)
        self.is_muted = False
        """Whether its alerts are silent in this app."""
        self._heard: dict[AlertKey, AlertStatus] = {}  # audible alerts that were reported
        self._datagrams: deque[tuple[int, int]] = deque(maxlen=LOSS_SAMPLES)  # sent, lost
        self._kept_event = Event("", 0.0)
        self._asking: asyncio.Task[None] | None = None

    def ask_last_event(self) -> None:
        """Ask once what happened before this connection."""
        if self._asking is None and self.state == UP:
            self._asking = asyncio.create_task(self._fetch_last_event())

    async def leave(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
        await self.host.leave(0.0)

    async def _fetch_last_event(self) -> None:
        with suppress(
            GrapevineError, *MALFORMED_REPLY_ERRORS
        ):  # without a history, nothing is known
            events = (await self.host.search_events(limit=1))["events"]
            if events:
                self._kept_event = Event(printable(event_text(events[-1])), float(events[-1]["at"]))

    @property
    def _last_event(self) -> Event:
        """The latest notice of this connection, or what happened before it."""
        if not self.model.notices:
            return self._kept_event
        notice = self.model.notices[-1]
        return Event(notice.text, notice.at_unix)

    def sample(self) -> None:
        """Count what its peers were sent and lost until now."""
        peers = self.model.peers.values()
        self._datagrams.append((sum(each.sent for each in peers), sum(each.lost for each in peers)))

    @property
    def audible_alerts(self) -> list[AlertStatus]:
        """Its alerts that fire and are not muted, by their node or here."""
        return [] if self.is_muted else self.model.audible_alerts

    def toggle_mute(self) -> str:
        """Mute its alerts in this app, or unmute them; return what was done, in one line."""
        self.is_muted = not self.is_muted
        how = "muted" if self.is_muted else "unmuted"
        return f"alerts of {self.context.name} are {how}, in this app only"

    @property
    def alert_names(self) -> tuple[str, ...]:
        """The names of the alerts that can be heard."""
        return tuple(dict.fromkeys(printable(each.name) for each in self.audible_alerts))

    def take_alert_changes(self) -> list[ContextAlert]:
        """Return the alerts that can be heard, or are over, since the last call."""
        before = self._heard
        self._heard = {(each.name, each.peer_id): each for each in self.audible_alerts}
        firing = {(each.name, each.peer_id) for each in self.model.alerts if each.is_firing}
        began = [(each, True) for key, each in self._heard.items() if key not in before]
        over = [(each, False) for key, each in before.items() if key not in firing]
        return [self._alert_of(each, is_firing=is_firing) for each, is_firing in began + over]

    def _alert_of(self, alert: AlertStatus, *, is_firing: bool) -> ContextAlert:
        peer_name = "" if alert.peer_id is None else self.model.name_of(alert.peer_id)
        held_s = 0.0 if is_firing else alert.since_s or 0.0
        change = AlertChange(
            *(alert.name, alert.rule, is_firing, alert.peer_id, alert.value, held_s),
            peer_name=peer_name,
        )
        return ContextAlert(self.context.name, is_firing, printable(change.text))

    @property
    def cluster(self) -> str:
        """The name of its cluster, as it was received; empty before the first answer."""
        return self.host.config.cluster if self.model.local_node is not None else ""

    @property
    def is_current(self) -> bool:
        """Whether what is known of it is of now."""
        return self.state == UP

    @property
    def as_of(self) -> float:
        """The Unix time as of which its tables are; 0 if they are of now, or nothing is known."""
        return self.model.outdated_since if self.model.local_node is not None else 0.0

    @property
    def state(self) -> str:
        if self.host.is_connected:
            return SILENT if self.model.disconnect_reason == SILENT_TEXT else UP
        return LOST if self.model.disconnect_reason else CONNECTING

    def row(self) -> FleetRow:
        model, context = self.model, self.context
        counts = Counter(each.status for each in model.members.values())
        event = self._last_event
        return FleetRow(
            context.name,
            self.cluster,
            context.place,
            context.is_readonly,
            self.state,
            counts[MemberStatus.UP] + (model.local_node is not None),
            counts[MemberStatus.SUSPECT],
            counts[MemberStatus.DOWN],
            model.traffic.messages_per_s,
            tuple(model.traffic.messages.fine)[-TREND_SAMPLES:],
            self._loss(),
            self.host.lag_s,
            self.host.unacknowledged,
            event.text,
            event.at_unix,
            self.alert_names,
            self.is_muted,
            self.as_of,
            printable(model.disconnect_reason),
        )

    def _loss(self) -> float | None:
        """The part of the latest datagrams that was lost."""
        if len(self._datagrams) < 2:
            return None
        sent = self._datagrams[-1][0] - self._datagrams[0][0]
        lost = self._datagrams[-1][1] - self._datagrams[0][1]
        # Counters of a peer that reconnected restart at zero.
        return min(1.0, max(0.0, lost / sent)) if sent > 0 else None


class Fleet:
    """All contexts; `rules` are alerts about each of them. `opened` is the name of the one that is shown in
    detail; empty for none."""

    def __init__(
        self,
        contexts: Sequence[Context],
        wall_clock: Callable[[], float] = time.time,
        rules: Sequence[AlertRule] = (),
    ) -> None:
        self.nodes = {each.name: FleetNode(each, wall_clock, rules) for each in contexts}
        self.opened = ""

    def start(self) -> None:
        """Begin to connect to all of them, and keep connected."""
        for node in self.nodes.values():
            node.host.start_later()

    async def leave(self) -> None:
        for node in self.nodes.values():
            await node.leave()

    async def run(self) -> None:
        """Refresh all that is not shown in detail, until it is cancelled. One after the other, so that no
        turn of the loop takes long."""
        while True:
            for node in self.nodes.values():
                if node.context.name != self.opened:
                    node.host.refresh()
                node.ask_last_event()
                node.sample()
                node.host.evaluate()
                await asyncio.sleep(REFRESH_INTERVAL_S / len(self.nodes))

    def take_alert_changes(self) -> list[ContextAlert]:
        """Return the alerts of all contexts that can be heard, or are over, since the last call."""
        return [each for node in self.nodes.values() for each in node.take_alert_changes()]

    @property
    def alert_names(self) -> list[str]:
        """``CONTEXT NAME`` of each alert that can be heard."""
        return [
            f"{name} {alert}" for name, node in self.nodes.items() for alert in node.alert_names
        ]

    def rows(self) -> list[FleetRow]:
        """A row of each context, worst first."""
        rows = [node.row() for node in self.nodes.values()]
        return sorted(rows, key=lambda row: (row.severity, row.name))


# --- two views of the members ---------------------------------------------------------------------

UNKNOWN: Final = "unknown"  # the node does not list this member


class MemberViews(NamedTuple):
    """What two nodes think of a member."""

    peer_id: PeerId
    name: str
    first: str
    second: str

    @property
    def differs(self) -> bool:
        return self.first != self.second


def compare_views(first: FleetNode, second: FleetNode) -> list[MemberViews]:
    """Every member that one of two nodes lists, with the status that each gives it; those that differ come
    first. A node lists itself as up."""
    views = (_statuses(first.model), _statuses(second.model))
    names = _names(first) | _names(second)
    rows = [
        MemberViews(
            peer_id,
            printable(names.get(peer_id) or peer_id.short),
            *(view.get(peer_id, UNKNOWN) for view in views),
        )
        for peer_id in views[0].keys() | views[1].keys()
    ]
    return sorted(rows, key=lambda row: (not row.differs, row.name.casefold(), row.peer_id))


def _statuses(model: Model) -> Mapping[PeerId, str]:
    statuses = {each.peer_id: each.status.value for each in model.members.values()}
    if model.local_node is not None:
        statuses[model.local_node.peer_id] = MemberStatus.UP.value
    return statuses


def _names(node: FleetNode) -> dict[PeerId, str]:
    names = {peer_id: each.name for peer_id, each in node.model.members.items() if each.name}
    if node.model.local_node is not None:
        names[node.model.local_node.peer_id] = node.host.config.name
    return names
