"""What a headless node says and hears, as JSON objects: one a line, ASCII only.

What must stay true:

- The names and words here are promises to other people's scripts: add, never change.
- An object always encodes: no number in it is infinite or not a number, no text is left out.
- A line of input becomes one `Request` or one `BadLine`; nothing is done while reading it.
- What may have been meant as a command is never sent as a text: a line that holds a control character,
  begins with a hidden one or looks like a piece of JSON is refused.
"""

from __future__ import annotations

import binascii
import json
import math
import os
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final, NoReturn
from unicodedata import category

from grapevine_proto.errors import ConfigError, GrapevineError
from grapevine_proto.events import (
    AntiEntropyRound,
    DialFailed,
    Event,
    FaultContained,
    IdentityInUse,
    MemberChanged,
    MemberInfo,
    Message,
    MessageReceived,
    MessageSent,
    PeerInfo,
    PeerState,
    PeerStateChanged,
    Round,
    StandingChanged,
    StateUnsaved,
    Stats,
    Trace,
    TraceUpdated,
)
from grapevine_proto.ids import PeerId
from grapevine_tui import commands
from grapevine_tui.commands import (
    Allow,
    Broadcast,
    Change,
    Command,
    CommandError,
    Deny,
    Dial,
    Forget,
    Quit,
    Reload,
    Send,
    ShowHelp,
    ShowMembers,
    ShowPeers,
    ShowRounds,
    ShowSettings,
    ShowStats,
    ShowStatus,
    ShowTables,
    ShowTraces,
    StartRound,
    Watch,
    nearest,
    parse,
)
from grapevine_tui.text import escape, printable

Object = dict[str, Any]

BYTE_ORDER_MARK: Final = "\ufeff"  # what PowerShell and some editors put before UTF-8
# The end or a member of an object, the beginning of an array, a command without its brace.
LIKE_JSON: Final = re.compile(r"""^[}\]]|^["'][^"']*["']\s*:|^\[\s*(?:["'{\[]|$)|["']cmd["']\s*:""")


def encode(event: str, fields: Mapping[str, Any]) -> bytes:
    """One line: ``{"event": ..., "time": ..., ...}``."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00")
    whole = {"event": event, "time": f"{now}Z", **fields}
    return json.dumps(whole, allow_nan=False, separators=(",", ":")).encode("ascii") + b"\n"


# --- what happened --------------------------------------------------------------------------------


def describe(event: Event, name_of: Callable[[PeerId], str]) -> tuple[str, Object] | None:
    """`event` as (word, fields); None for one that is not told by itself."""
    match event:
        case MessageReceived(message):
            return "message", message_object(message, name_of)
        case MessageSent(message, peers):
            return "message", message_object(message, name_of) | {"peers": peers}
        case PeerStateChanged(peer, previous, reason):
            short = ("peer_id", "address", "zone", "name", "state")
            whole = peer_object(peer, 0.0)
            told = {name: whole[name] for name in short}
            return "peer", told | {"previous": previous and previous.value, "reason": reason}
        case MemberChanged(member):
            return "member", member_object(member)
        case StandingChanged(peer_id, standing, score, reason):
            told = {"peer_id": str(peer_id), "standing": standing.value}
            return "standing", told | {"score": _number(score), "reason": reason}
        case AntiEntropyRound(done):
            return "round", round_object(done)
        case TraceUpdated(trace):
            return "trace", trace_object(trace)
        case DialFailed(address, reason):
            return "dial_failed", {"address": str(address), "reason": reason}
        case StateUnsaved(problem):
            return "state_unsaved", {"problem": problem}
        case IdentityInUse(address, problem):
            at = None if address is None else str(address)
            return "identity_in_use", {"address": at, "problem": problem}
        case FaultContained(peer, problem):
            return "fault", {"peer_id": None if peer is None else str(peer), "problem": problem}
        case _:
            return None


def message_object(message: Message, name_of: Callable[[PeerId], str]) -> Object:
    payload = message.payload
    told: Object = {
        "id": str(message.id),
        "origin": str(message.origin),
        "sequence": message.id.sequence,
        "hops": message.hops,
        "via": message.via.value,
        "private": message.private,
        "bytes": len(payload),
    }
    if name := name_of(message.origin):
        told["from_name"] = name
    if message.to is not None:
        told["to"] = str(message.to)
        if name := name_of(message.to):
            told["to_name"] = name
    with suppress(UnicodeDecodeError):  # then base64 alone tells it
        told["text"] = payload.decode()
    told["base64"] = b64encode(payload).decode("ascii")
    return told


def peer_object(peer: PeerInfo, now: float) -> Object:
    """A peer as of `now`, the node's own clock."""
    connected = peer.connected_at
    is_linked = peer.state in (PeerState.CONNECTED, PeerState.STALE)
    return {
        "peer_id": str(peer.peer_id),
        "address": str(peer.address),
        "zone": peer.zone,
        "name": peer.name,
        "state": peer.state.value,
        "health": _number(peer.health),
        "health_reason": peer.health_reason,
        # What was measured on a link that is gone says nothing of now.
        "rtt_ms": None if peer.rtt is None or not is_linked else _number(peer.rtt * 1000),
        "sent": peer.sent,
        "received": peer.received,
        "allowed": peer.allowed,
        "throttled": peer.throttled,
        "tokens": _number(peer.tokens),
        "tokens_capacity": _number(peer.tokens_capacity),
        "last_seen_s": _number(max(0.0, now - peer.last_seen)),
        "connected_s": None if connected is None else _number(max(0.0, now - connected)),
        "epoch": peer.epoch,
        "queued": peer.queued,
        "subscribed": peer.subscribed,
        "send_rate": _number(peer.send_rate),
        "lost": peer.lost,
        "datagram_bytes": peer.datagram_bytes,
        "score": _number(peer.score),
        "standing": peer.standing.value,
    }


def member_object(member: MemberInfo) -> Object:
    return {
        "peer_id": str(member.peer_id),
        "address": None if member.address is None else str(member.address),
        "zone": member.zone,
        "name": member.name,
        "status": member.status.value,
        "epoch": member.epoch,
    }


def round_object(done: Round) -> Object:
    return {
        "number": done.number,
        "peer_id": str(done.peer),
        "in_sync": done.in_sync,
        "sent": done.sent,
        "received": done.received,
        "bytes": done.bytes,
        "duration_ms": _number(done.duration * 1000),
        "outcome": done.outcome.value,
    }


def trace_object(trace: Trace) -> Object:
    return {
        "id": str(trace.id),
        "reached": trace.reached,
        "known": trace.known,
        "asked": trace.asked,
        "sample": trace.is_sample,
        "complete": trace.is_complete,
        "p50_ms": trace.p50_ms,
        "p99_ms": trace.p99_ms,
        "last_ms": trace.last_ms,
        "hops": trace.hops,
        "unanswered": [str(peer_id) for peer_id in trace.unanswered],
        "answers": [[str(each.peer_id), each.hops, each.delay_ms] for each in trace.answers],
        "confirmed_ms": [each.confirmed_ms for each in trace.answers],
        "late": sum(each.is_late for each in trace.answers),
        "others": trace.others,
    }


def stats_object(stats: Stats, now: float) -> Object:
    told: Object = asdict(stats)
    told["dropped"] = {reason.value: count for reason, count in stats.dropped}
    told["offenses"] = {offense.value: count for offense, count in stats.offenses}
    next_at = told.pop("next_round_at")
    told["next_round_s"] = _number(max(0.0, next_at - now)) if next_at else None
    return told


def _number(value: float) -> float | None:
    """`value` to a thousandth; None where JSON has no such number."""
    return round(value, 3) if math.isfinite(value) else None


# --- what is asked --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Request:
    """A command with the caller's id for it; `file` names what the payload is to be read from."""

    command: Command
    request: Any = None
    file: str = ""


class BadLine(GrapevineError):
    """A line that is no command. `request` is the caller's id where it could be read."""

    def __init__(self, problem: str, request: Any = None) -> None:
        super().__init__(problem)
        self.request = request


def read_request(line: bytes) -> Request | None:
    """What `line` asks; None: it is blank. A byte order mark before it is skipped. Raises BadLine."""
    try:
        text = line.decode()
    except UnicodeDecodeError:
        raise BadLine("the line is not UTF-8; send other bytes as base64") from None
    text = text.removesuffix("\r")
    for place, character in enumerate(text, start=1):
        if character != "\t" and category(character) == "Cc":
            raise BadLine(
                f"control character {escape(ord(character))} at character {place} (UTF-16?); "
                "send UTF-8, and other bytes as base64"
            )
    text = text.strip().lstrip(BYTE_ORDER_MARK).strip()
    if not text:
        return None
    if text.startswith("{"):
        return _read_object(text)
    if printable(text[0]) != text[0]:
        raise BadLine(f"the line begins with the hidden character {escape(ord(text[0]))}")
    if LIKE_JSON.search(text):
        raise BadLine(
            "this looks like a piece of a JSON object, which begins with { and ends on its line; "
            'to send such a text, use {"cmd":"broadcast","text":"..."}'
        )
    try:
        return Request(parse(text))
    except CommandError as error:
        raise BadLine(str(error)) from None


def _read_object(text: str) -> Request:
    try:
        fields = json.loads(
            text, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_once
        )
    except json.JSONDecodeError as error:
        raise BadLine(f"not JSON: {error.msg} at character {error.pos + 1}") from None
    except ValueError as error:
        raise BadLine(f"not JSON: {error}") from None
    except RecursionError:
        raise BadLine("not JSON: nested too deep") from None
    request = fields.pop("request", None)
    try:
        return _read_command(fields, request)
    except (CommandError, ConfigError) as error:
        raise BadLine(str(error), request) from None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number beyond all bounds")
    return number


def _once(pairs: list[tuple[str, Any]]) -> Object:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


_ALONE: Final[Mapping[str, Command]] = {
    "peers": ShowPeers(),
    "members": ShowMembers(),
    "status": ShowStatus(),
    "stats": ShowStats(),
    "rounds": ShowRounds(),
    "traces": ShowTraces(),
    "reload": Reload(),
    "tables": ShowTables(),
    "settings": ShowSettings(),
    "watch": Watch(),
    "round": StartRound(),
    "help": ShowHelp(),
    "quit": Quit(),
    "leave": Quit(),
}
_PAYLOAD: Final = ("text", "base64", "file")
_ABOUT: Final[Mapping[str, Callable[[str], Command]]] = {
    "deny": Deny,
    "allow": Allow,
    "forget": Forget,
}
_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "broadcast": _PAYLOAD,
    "trace": _PAYLOAD,
    "send": ("to", *_PAYLOAD),
    "dial": ("address",),
    "deny": ("who",),
    "allow": ("who",),
    "forget": ("who",),
    "set": ("changes",),
    **dict.fromkeys(_ALONE, ()),
}


def _read_command(fields: Object, request: Any) -> Request:
    if "cmd" not in fields:
        raise CommandError('the object has no "cmd"')
    word = fields.pop("cmd")
    if not isinstance(word, str) or word not in _FIELDS:
        raise CommandError(f"there is no command {word!r:.80}; {nearest(str(word)[:80], _FIELDS)}")
    known = _FIELDS[word]
    for name, value in fields.items():
        if name not in known:
            raise CommandError(
                f"{word} takes no {name!r:.80}; it takes: {', '.join(known) or 'nothing'}"
            )
        if word != "set" and not isinstance(value, str):
            raise CommandError(f"{name} must be a string")
        if not is_file_name(value) if name == "file" else has_half_character(value):
            raise CommandError(f"{name} holds half a surrogate pair; send such bytes as base64")
    if word in _ALONE:
        return Request(_ALONE[word], request)
    if word == "set":
        return Request(Change(_changes(fields.get("changes"))), request)
    if word == "dial":
        return Request(Dial(_field(word, "address", fields)), request)
    if word in _ABOUT:
        return Request(_ABOUT[word](_field(word, "who", fields)), request)
    payload, file = _payload(word, fields)
    if word == "send":
        return Request(Send(_field(word, "to", fields), payload), request, file)
    command = commands.Trace(payload) if word == "trace" else Broadcast(payload)
    return Request(command, request, file)


def is_file_name(value: str) -> bool:
    """Whether the system can have a file of that name: bytes that are not UTF-8 come as surrogates."""
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        return False
    return True


def has_half_character(value: Any) -> bool:
    """Whether a text in `value` cannot be encoded: JSON may spell one half of a surrogate pair."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def _changes(given: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(given, dict) or not given:
        raise CommandError('set needs "changes", an object of settings')
    if not all(isinstance(value, str) for value in given.values()):
        raise CommandError("changes must be strings, as one would type them")
    return tuple(given.items())


def _field(word: str, name: str, fields: Object) -> str:
    value: str = fields.get(name, "").strip()
    if not value:
        raise CommandError(f"{word} needs {name!r}")
    return value


def _payload(word: str, fields: Object) -> tuple[bytes, str]:
    """(payload, the file it is still to be read from)."""
    given = [name for name in _PAYLOAD if name in fields]
    if len(given) != 1:
        raise CommandError(f"{word} needs one of: {', '.join(_PAYLOAD)}")
    value: str = fields[given[0]]
    if given[0] == "file":
        if not value or "\0" in value:
            raise CommandError("file must name a file")
        return b"", value
    try:
        return (value.encode() if given[0] == "text" else b64decode(value, validate=True)), ""
    except (binascii.Error, ValueError):
        raise CommandError("base64 is not base64") from None
