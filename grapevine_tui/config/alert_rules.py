"""The rules of ``[app.alerts]``: a reading beyond a limit, a message that arrives, or one that does not.

``peers < 3``, ``peer.loss > 2% for 30s``, ``message panic``, ``no message from:web-1 for 5m``

Invariants:

- A rule is read once, here. What is wrong with it is one line that names the nearest valid word.
- Every limit and reading is in base units: seconds, shares of 1, counts.
- Importing this module imports no Textual, so that `config check` can use it.
"""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Any, Final, NamedTuple

from grapevine_proto.errors import ConfigError
from grapevine_tui.config.named_entries import NamedEntries, check_line
from grapevine_tui.filter_syntax import MESSAGE_FIELDS, parse_terms, query_fault

MAX_RULES: Final = 64
ENTRIES: Final = NamedEntries("app.alerts", "alerts", MAX_RULES, 32, has_capitals=True)
MAX_RULE_CHARACTERS: Final = 256
MAX_DURATION_S: Final = 30 * 86_400
MESSAGE_HOLD_S: Final = 60.0  # a message fires its alert for this long


class Unit(Enum):
    """What a reading measures. The value says what its limit looks like."""

    COUNT = "a number, such as 3"
    TIME = "a time with its unit, such as 200ms, 5s or 2m"
    SHARE = "a share, such as 2%"
    RATE = "a number per second, such as 50 or 50/s"


class Reading(NamedTuple):
    """A value that a rule compares. `help` completes "the ..."."""

    unit: Unit
    help: str


NODE_READINGS: Final[Mapping[str, Reading]] = {
    "peers": Reading(Unit.COUNT, "connected peers"),
    "members": Reading(Unit.COUNT, "other members that are up"),
    "suspect": Reading(Unit.COUNT, "members that are suspect"),
    "down": Reading(Unit.COUNT, "members that are down"),
    "unacknowledged": Reading(Unit.COUNT, "own broadcasts that no peer has acknowledged"),
    "messages": Reading(Unit.RATE, "messages delivered"),
    "loss": Reading(Unit.SHARE, "share of the datagrams to all peers lost in the last 30 s"),
    "lag": Reading(Unit.TIME, "largest delay of the event loop in the last seconds"),
}
MEMBER_READINGS: Final = frozenset({"members", "suspect", "down"})
PEER_READINGS: Final[Mapping[str, Reading]] = {
    "peer.loss": Reading(Unit.SHARE, "share of the datagrams to a peer lost in the last 30 s"),
    "peer.health": Reading(Unit.SHARE, "health of a peer"),
    "peer.rtt": Reading(Unit.TIME, "round-trip time to a peer"),
    "peer.jitter": Reading(Unit.TIME, "mean change of that time from second to second"),
    "peer.silent": Reading(Unit.TIME, "time since the last packet of a connected peer"),
    "peer.queued": Reading(Unit.COUNT, "messages that wait to be sent to a peer"),
}
READINGS: Final[Mapping[str, Reading]] = {**NODE_READINGS, **PEER_READINGS}
OPERATORS: Final[Mapping[str, Callable[[float, float], bool]]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
EXAMPLES: Final = '"peers < 3", "peer.loss > 2% for 30s" or "no message from:web-1 for 5m"'

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", re.ASCII)
_FOR: Final = re.compile(r"(?:^|\s+)for\s+([^\s\"]+)$")
_MESSAGE: Final = re.compile(r"(no\s+)?messages?(?=\s|$)(?!\s*[<>=])\s*(.*)", re.DOTALL)
_COMPARISON: Final = re.compile(r"(\S+?)\s*(>=|<=|==|=|>|<)\s*(.+)", re.DOTALL)
_NUMBER: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(\S*)", re.ASCII)


class Trigger(Enum):
    """What makes a rule true."""

    READING = "a reading is beyond its limit"
    MESSAGE = "a message arrived within the last `for_s` seconds"
    NO_MESSAGE = "no message arrived for `for_s` seconds"


class AlertRule(NamedTuple):
    """One rule. `for_s` is how long it must hold before the alert fires; see `Trigger`."""

    name: str
    text: str
    """The rule as it was written."""
    trigger: Trigger
    for_s: float = 0.0
    reading: str = ""
    """One of `READINGS`; empty for a rule about messages."""
    operator: str = ""
    limit: float = 0.0
    filter_text: str = ""
    """The filter of a rule about messages; empty: any message."""

    @property
    def is_of_peers(self) -> bool:
        """Whether the alert fires for each peer by itself."""
        return self.reading in PEER_READINGS

    def is_beyond(self, value: float) -> bool:
        """Whether a reading is beyond the limit."""
        return OPERATORS[self.operator](value, self.limit)


def parse_alerts(given: Any) -> tuple[AlertRule, ...]:
    """The rules that a config file has under [app.alerts]: name -> rule. Raises ConfigError."""
    rules = []
    for name, location, value in ENTRIES.parse(given):
        text = check_line(value, location, f"a rule, such as {EXAMPLES};", MAX_RULE_CHARACTERS)
        try:
            rules.append(parse_rule(name, text))
        except ValueError as problem:
            raise ConfigError(location, str(problem)) from None
    return tuple(rules)


def parse_rule(name: str, text: str) -> AlertRule:
    """Read one rule. Raises ValueError that says what is wrong with it."""
    text = " ".join(text.split())
    condition, for_s = text, None
    if found := _FOR.search(text):
        condition, for_s = text[: found.start()], _parse_duration(found[1])
    if (message := _MESSAGE.fullmatch(condition)) is not None:
        return _message_rule(name, text, bool(message[1]), message[2], for_s)
    return _reading_rule(name, text, condition, for_s or 0.0)


def _message_rule(
    name: str, text: str, is_absence: bool, filter_text: str, for_s: float | None
) -> AlertRule:
    problem = query_fault(parse_terms(filter_text), MESSAGE_FIELDS)
    if problem:
        raise ValueError(problem)
    if is_absence:
        if not for_s:
            raise ValueError('"no message" needs a time, such as "no message for 5m"')
        return AlertRule(name, text, Trigger.NO_MESSAGE, for_s, filter_text=filter_text)
    if not filter_text:
        raise ValueError('"message" needs a filter, such as "message from:web-1 panic"')
    return AlertRule(name, text, Trigger.MESSAGE, for_s or MESSAGE_HOLD_S, filter_text=filter_text)


def _reading_rule(name: str, text: str, condition: str, for_s: float) -> AlertRule:
    found = _COMPARISON.fullmatch(condition)
    if found is None:
        word = condition.split(" ", 1)[0]
        hint = "" if word in READINGS else _nearest(word, (*READINGS, "message", "no message"))
        raise ValueError(f"expected a comparison, such as {EXAMPLES}{hint}")
    reading, sign, limit_text = found.groups()
    known = READINGS.get(reading)
    if known is None:
        hint = _nearest(reading, READINGS) or f"; readings: {', '.join(READINGS)}"
        raise ValueError(f"unknown reading {reading!r}{hint}")
    if sign not in OPERATORS:
        raise ValueError(f"unknown comparison {sign!r}; expected {', '.join(OPERATORS)}")
    return AlertRule(
        name,
        text,
        Trigger.READING,
        for_s,
        reading,
        sign,
        _parse_limit(reading, known.unit, limit_text),
    )


def _nearest(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _parse_duration(text: str) -> float:
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError(f"for: expected a time, such as 30s, 5m or 1h, not {text!r}")
    seconds = float(found[1]) * SECONDS[found[2]]
    if seconds > MAX_DURATION_S:
        raise ValueError(f"for: at most {MAX_DURATION_S // 86_400}d, not {text}")
    return seconds


def _parse_limit(reading: str, unit: Unit, text: str) -> float:
    found = _NUMBER.fullmatch(text)
    number, suffix = (0.0, "") if found is None else (float(found[1]), found[2])
    if found is not None:
        match unit:
            case Unit.COUNT if not suffix:
                return number
            case Unit.RATE if suffix in ("", "/s"):
                return number
            case Unit.SHARE if suffix == "%" and number <= 100:
                return number / 100
            case Unit.TIME if suffix in SECONDS:
                return number * SECONDS[suffix]
    raise ValueError(f"{reading}: expected {unit.value}, not {text!r}")


def format_reading(reading: str, value: float) -> str:
    """A value of a reading, for people: ``4.2 %``, ``212 ms``, ``2``."""
    match READINGS[reading].unit:
        case Unit.SHARE:
            return f"{value * 100:.1f} %"
        case Unit.TIME:
            return f"{value * 1_000:.0f} ms" if value < 1 else f"{value:.1f} s"
        case Unit.RATE:
            return f"{value:.0f}/s"
        case Unit.COUNT:
            return f"{value:.0f}"
