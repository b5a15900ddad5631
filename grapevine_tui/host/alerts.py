"""Evaluates the rules of ``[app.alerts]`` over readings of the node, once a second.

Invariants:

- Pure: readings, messages and times (monotonic seconds) come in, changes go out.
- A threshold fires once it has held for its whole time, and is over at the first reading that does not hold.
  A reading that is not known does not hold.
- Firing and over alternate for each rule and peer.
- Time in which nothing was evaluated, because the process was suspended, counts for no rule.
- Rules are limited (`MAX_RULES`), and there is one state for each rule and connected peer.

`service.alerts` drives it in the process of the node, so that nodes without a screen have alerts as well.
"""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from grapevine_proto.errors import InvalidArgument
from grapevine_proto.events import MemberInfo, MemberStatus, Message, PeerInfo, PeerState, Stats
from grapevine_proto.ids import PeerId
from grapevine_tui.config.alert_rules import (
    MEMBER_READINGS,
    AlertRule,
    Trigger,
    format_reading,
)
from grapevine_tui.history.describe import format_age
from grapevine_tui.host.link_quality import LinkQuality

MAX_GAP_S: Final = 5.0  # between two evaluations; a longer one is a suspended process
MAX_LISTED: Final = 256  # states in a reply: a rule about peers has one for each

STATE_ORDER: Final = ("firing", "pending", "quiet")

Matcher = Callable[[Message], bool]


@dataclass(frozen=True, slots=True)
class Readings:
    """Values of the node by reading, and of each connected peer; what is not known is missing."""

    node: Mapping[str, float]
    peers: Mapping[PeerId, Mapping[str, float]]


class ReadingSampler:
    """Turns the tables of a node into readings. `take` is called once a second."""

    def __init__(self) -> None:
        self._quality = LinkQuality()
        self._before: tuple[float, int] | None = None  # (time, messages delivered)

    def take(
        self,
        peers: Iterable[PeerInfo],
        members: Iterable[MemberInfo],
        stats: Stats,
        *,
        lag_s: float,
        unacknowledged: int,
        now: float,
    ) -> Readings:
        """Return the readings of `now`, a time of the node's clock."""
        connected = [peer for peer in peers if peer.state.is_connected]
        self._quality.sample(connected)
        statuses = Counter(member.status for member in members)
        node: dict[str, float] = {
            "peers": sum(peer.state is PeerState.CONNECTED for peer in connected),
            "members": statuses[MemberStatus.UP],
            "suspect": statuses[MemberStatus.SUSPECT],
            "down": statuses[MemberStatus.DOWN],
            "unacknowledged": unacknowledged,
            "lag": lag_s,
        }
        if (loss := self._quality.total_loss) is not None:
            node["loss"] = loss
        if self._before is not None and now > self._before[0]:
            node["messages"] = (stats.delivered - self._before[1]) / (now - self._before[0])
        self._before = now, stats.delivered
        return Readings(node, {each.peer_id: self._of_peer(each, now) for each in connected})

    def _of_peer(self, peer: PeerInfo, now: float) -> dict[str, float]:
        found: dict[str, float | None] = {
            "peer.loss": self._quality.loss(peer.peer_id),
            "peer.health": peer.health,
            "peer.rtt": peer.rtt_s,
            "peer.jitter": self._quality.jitter_s(peer.peer_id),
            "peer.silent": max(0.0, now - peer.last_seen_at),
            "peer.queued": peer.queued,
        }
        return {name: value for name, value in found.items() if value is not None}


class AlertStatus(NamedTuple):
    """A rule, for one peer if it is one about peers, and how it stands."""

    name: str
    rule: str
    state: str
    """``quiet``, ``pending`` (it holds, but not for long enough yet) or ``firing``."""
    peer_id: PeerId | None = None
    value: str = ""
    """The reading, for people; empty if there is none."""
    since_s: float | None = None
    """How long it has been so; None while it is quiet."""
    is_muted: bool = False

    @property
    def is_firing(self) -> bool:
        return self.state == "firing"

    def to_dict(self) -> dict[str, Any]:
        """The fields of JSON."""
        return {
            "name": self.name,
            "rule": self.rule,
            "state": self.state,
            "peer_id": self.peer_id and str(self.peer_id),
            "value": self.value,
            "since_s": None if self.since_s is None else round(self.since_s, 3),
            "muted": self.is_muted,
        }


class AlertChange(NamedTuple):
    """An alert that began to fire, or is over. `value` is the reading, for people."""

    name: str
    rule: str
    is_firing: bool
    peer_id: PeerId | None = None
    value: str = ""
    held_s: float = 0.0
    """How long it fired; 0 if it begins."""
    is_muted: bool = False
    peer_name: str = ""

    @property
    def text(self) -> str:
        """What happened, in one sentence. The name of a peer is as it was received."""
        name = self.peer_name or (self.peer_id.short if self.peer_id is not None else "")
        subject = f"{name}: " if name else ""
        if not self.is_firing:
            return f"alert {self.name} is over: {subject}it lasted {format_age(self.held_s)}"
        value = f"{self.value}; " if self.value else ""
        return f"alert {self.name}: {subject}{value}{self.rule}"

    def to_dict(self) -> dict[str, Any]:
        """The fields of the JSON event ``alert``."""
        return {
            "name": self.name,
            "rule": self.rule,
            "state": "firing" if self.is_firing else "over",
            "peer_id": self.peer_id and str(self.peer_id),
            "peer_name": self.peer_name,
            "value": self.value,
            "held_s": round(self.held_s, 3),
            "muted": self.is_muted,
            "text": self.text,
        }


@dataclass(slots=True)
class _State:
    """A rule that holds, for one peer or for none."""

    rule: AlertRule
    since: float
    value: str = ""
    fired_at: float | None = None


@dataclass(slots=True)
class _Watch:
    """The messages that a rule is about: when the last one arrived, or when the watch began."""

    rule: AlertRule
    matches: Matcher
    seen_at: float
    has_seen: bool = False


@dataclass(slots=True)
class AlertBook:
    """The rules of one node and how they stand. `compile_filter` returns the test for a filter."""

    compile_filter: Callable[[str], Matcher]
    _rules: dict[str, AlertRule] = field(default_factory=dict)
    _watches: dict[str, _Watch] = field(default_factory=dict)
    _states: dict[tuple[str, PeerId | None], _State] = field(default_factory=dict)
    _muted_until: dict[str, float] = field(default_factory=dict)
    _evaluated_at: float | None = None

    @property
    def has_rules(self) -> bool:
        return bool(self._rules) or bool(self._states)

    @property
    def watches_messages(self) -> bool:
        """Whether `on_message` has any effect."""
        return bool(self._watches)

    @property
    def reads_members(self) -> bool:
        """Whether a rule is about the members, which are many."""
        return any(rule.reading in MEMBER_READINGS for rule in self._rules.values())

    def set_rules(self, rules: Iterable[AlertRule], now: float) -> None:
        """Evaluate these rules from now on. Those that did not change keep their state."""
        self._rules = {rule.name: rule for rule in rules}
        kept = {
            name: watch
            for name, watch in self._watches.items()
            if self._rules.get(name) == watch.rule
        }
        self._watches = kept | {
            rule.name: _Watch(rule, self.compile_filter(rule.filter_text), now)
            for rule in self._rules.values()
            if rule.trigger is not Trigger.READING and rule.name not in kept
        }
        for name in self._muted_until.keys() - self._rules.keys():
            del self._muted_until[name]

    def on_message(self, message: Message, now: float) -> None:
        """Note a message that was delivered or sent."""
        for watch in self._watches.values():
            if watch.matches(message):
                watch.seen_at, watch.has_seen = now, True

    def evaluate(self, readings: Readings, now: float) -> list[AlertChange]:
        """Return what changed by `readings`, those of `now`."""
        self._skip_gap(now)
        for name in [each for each, until in self._muted_until.items() if until <= now]:
            del self._muted_until[name]
        holding = {
            (rule.name, peer_id): (rule, value)
            for rule in self._rules.values()
            for peer_id, value in self._holding(rule, readings, now)
        }
        changes = []
        for key, state in list(self._states.items()):
            if key not in holding or holding[key][0] != state.rule:
                del self._states[key]
                if state.fired_at is not None:
                    changes.append(self._change(state, key[1], now, is_firing=False))
        for key, (rule, value) in holding.items():
            state = self._states.setdefault(key, _State(rule, now))
            state.value = value
            needed_s = rule.for_s if rule.trigger is Trigger.READING else 0.0
            if state.fired_at is None and now - state.since >= needed_s:
                state.fired_at = now
                changes.append(self._change(state, key[1], now, is_firing=True))
        return changes

    def _skip_gap(self, now: float) -> None:
        """Move every beginning by the time in which nothing was evaluated, if that is long."""
        before, self._evaluated_at = self._evaluated_at, now
        if before is None or now - before <= MAX_GAP_S:
            return
        for state in self._states.values():
            state.since += now - before
        for watch in self._watches.values():
            watch.seen_at = min(now, watch.seen_at + now - before)

    def _holding(
        self, rule: AlertRule, readings: Readings, now: float
    ) -> Iterator[tuple[PeerId | None, str]]:
        """Yield the peers for which `rule` holds, None for the node, with the reading for people."""
        if rule.trigger is not Trigger.READING:
            watch = self._watches[rule.name]
            is_recent = now - watch.seen_at < rule.for_s
            if rule.trigger is Trigger.NO_MESSAGE and not is_recent:
                yield None, f"none for {format_age(now - watch.seen_at)}"
            elif rule.trigger is Trigger.MESSAGE and watch.has_seen and is_recent:
                yield None, ""
            return
        sources: Iterable[tuple[PeerId | None, Mapping[str, float]]] = ((None, readings.node),)
        if rule.is_of_peers:
            sources = readings.peers.items()
        for peer_id, values in sources:
            value = values.get(rule.reading)
            if value is not None and not math.isnan(value) and rule.is_beyond(value):
                yield peer_id, f"{rule.reading} {format_reading(rule.reading, value)}"

    def _change(
        self, state: _State, peer_id: PeerId | None, now: float, *, is_firing: bool
    ) -> AlertChange:
        held_s = 0.0 if is_firing or state.fired_at is None else now - state.fired_at
        rule = state.rule
        is_muted = rule.name in self._muted_until
        return AlertChange(rule.name, rule.text, is_firing, peer_id, state.value, held_s, is_muted)

    def mute(self, name: str, for_s: float | None, now: float) -> None:
        """Mute the alert of that name for `for_s` seconds, or until it is unmuted. Raises InvalidArgument."""
        self._muted_until[self._known(name)] = math.inf if for_s is None else now + for_s

    def unmute(self, name: str) -> None:
        """Unmute the alert of that name. Raises InvalidArgument."""
        self._muted_until.pop(self._known(name), None)

    def _known(self, name: str) -> str:
        if name in self._rules:
            return name
        close = difflib.get_close_matches(name, self._rules, n=1)
        hint = f"; did you mean {close[0]}?" if close else f"; alerts: {', '.join(self._rules)}"
        if not self._rules:
            hint = "; there are none (setting app.alerts)"
        raise InvalidArgument(f"no alert is named {name!r:.80}{hint}")

    def statuses(self, now: float) -> tuple[AlertStatus, ...]:
        """How every rule stands: a line for each peer for which it holds, one line if there is none."""
        found = []
        for rule in self._rules.values():
            is_muted = rule.name in self._muted_until
            states = [(key[1], state) for key, state in self._states.items() if key[0] == rule.name]
            if not states:
                found.append(AlertStatus(rule.name, rule.text, "quiet", is_muted=is_muted))
            for peer_id, state in states:
                began = state.since if state.fired_at is None else state.fired_at
                word = "pending" if state.fired_at is None else "firing"
                since_s = max(0.0, now - began)
                found.append(
                    AlertStatus(rule.name, rule.text, word, peer_id, state.value, since_s, is_muted)
                )
        return tuple(sorted(found, key=lambda each: STATE_ORDER.index(each.state))[:MAX_LISTED])

    def firing_counts(self) -> dict[str, int]:
        """How often each rule fires: at most once, or once for each peer."""
        counts = Counter(
            key[0] for key, state in self._states.items() if state.fired_at is not None
        )
        return {name: counts[name] for name in self._rules}
