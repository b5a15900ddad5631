"""Decodes the JSON Lines of a node in another process into values and events.

Invariants:

- Each function inverts a `to_dict` of `grapevine_proto.events`, up to the precision of the JSON.
  `tests/tui/remote/test_decode.py` checks them.
- Malformed input raises one of `DECODE_ERRORS` and nothing else; that includes enumeration values
  only a newer node knows.
"""

from __future__ import annotations

import math
from base64 import b64decode
from typing import Any, Final

from grapevine_proto.coordinate import Estimate, RttSource
from grapevine_proto.errors import DropReason, Offense
from grapevine_proto.events import (
    AntiEntropyRound,
    CaughtUp,
    DatagramDropped,
    DialFailed,
    EntryChanged,
    Event,
    EventsLost,
    IdentityInUse,
    InternalErrorContained,
    MemberChanged,
    MemberInfo,
    MemberStatus,
    Message,
    MessageReceived,
    MessageSent,
    MessagesSkipped,
    MessagesUnsupported,
    MessageUndelivered,
    NodeStopped,
    PathKind,
    PeerDiscovered,
    PeerInfo,
    PeerState,
    PeerStateChanged,
    PortMappingChanged,
    PortMappingOutcome,
    RateLimited,
    Round,
    RoundOutcome,
    Standing,
    StandingChanged,
    StateSaveFailed,
    Stats,
    Trace,
    TraceAnswer,
    TraceUpdated,
    UndeliveredReason,
    Via,
)
from grapevine_proto.ids import Address, MessageId, PeerId, Stream, parse_literal
from grapevine_tui.control.jsonlines import Object
from grapevine_tui.host.alerts import AlertChange, AlertStatus

DECODE_ERRORS: Final = (KeyError, ValueError, TypeError, AttributeError, OverflowError)


def peer_from_json(fields: Object, now: float) -> PeerInfo:
    """`now`: the node's clock when it sent this."""
    rtt_ms, connected_s = fields["rtt_ms"], fields["connected_s"]
    return PeerInfo(
        peer_id=PeerId.parse(fields["peer_id"]),
        address=Address.parse(fields["address"]),
        zone=_text(fields["zone"]),
        name=_text(fields["name"]),
        state=PeerState(fields["state"]),
        health=_number(fields["health"], 0.0),
        rtt_s=None if rtt_ms is None else float(rtt_ms) / 1000,
        sent=int(fields["sent"]),
        received=int(fields["received"]),
        allowed=int(fields["allowed"]),
        throttled=int(fields["throttled"]),
        tokens=_number(fields["tokens"], math.inf),
        tokens_capacity=_number(fields["tokens_capacity"], math.inf),
        last_seen_at=now - _number(fields["last_seen_s"], math.inf),
        epoch=int(fields["epoch"]),
        connected_at=None if connected_s is None else now - float(connected_s),
        queued=int(fields["queued"]),
        health_reason=_text(fields.get("health_reason", "")),
        subscribed=bool(fields["subscribed"]),
        send_rate=_number(fields["send_rate"], math.inf),
        lost=int(fields["lost"]),
        datagram_bytes=int(fields["datagram_bytes"]),
        score=_number(fields.get("score", 0.0), 0.0),
        standing=Standing(fields.get("standing", Standing.NORMAL.value)),
        path=_path_from_json(fields),
        advertised=tuple(map(Address.parse, fields.get("advertised", ()))),
    )


def member_from_json(fields: Object) -> MemberInfo:
    return MemberInfo(
        peer_id=PeerId.parse(fields["peer_id"]),
        address=None if fields["address"] is None else Address.parse(fields["address"]),
        zone=_text(fields["zone"]),
        name=_text(fields["name"]),
        status=MemberStatus(fields["status"]),
        epoch=int(fields["epoch"]),
        tags=tags_from_json(fields.get("tags", {})),  # absent from older nodes, as is the reason
        reason=_text(fields.get("reason", "")),
        rtt=_rtt_from_json(fields),
        path=_path_from_json(fields),
    )


def _path_from_json(fields: Object) -> PathKind | None:
    """None without a session, or if the node is older."""
    path = fields.get("path")
    return None if path is None else PathKind(path)


def _rtt_from_json(fields: Object) -> Estimate | None:
    """None if it is not known, or the node is older."""
    rtt_ms = fields.get("rtt_ms")
    if rtt_ms is None:
        return None
    error_ms = _number(fields["rtt_error_ms"], 0.0)
    return Estimate(_number(rtt_ms, 0.0) / 1000, error_ms / 1000, RttSource(fields["rtt_source"]))


def tags_from_json(fields: Any) -> dict[str, str]:
    return {_text(name): _text(value) for name, value in fields.items()}


def round_from_json(fields: Object, now: float) -> Round:
    duration_s = _number(fields["duration_ms"], 0.0) / 1000
    return Round(
        number=int(fields["number"]),
        peer=PeerId.parse(fields["peer_id"]),
        started_at=now - duration_s,
        duration_s=duration_s,
        in_sync=bool(fields["in_sync"]),
        sent=int(fields["sent"]),
        received=int(fields["received"]),
        bytes=int(fields["bytes"]),
        outcome=RoundOutcome(fields["outcome"]),
    )


def trace_from_json(fields: Object, now: float) -> Trace:
    return Trace(
        id=MessageId.parse(fields["id"]),
        sent_at=now,
        known=int(fields["known"]),
        answers=tuple(
            TraceAnswer(PeerId.parse(peer_id), int(hops), int(delay_ms), int(confirmed_ms))
            for (peer_id, hops, delay_ms), confirmed_ms in zip(
                fields["answers"],
                fields.get("confirmed_ms", [0] * len(fields["answers"])),  # absent from older nodes
                strict=True,
            )
        ),
        unanswered=tuple(map(PeerId.parse, fields["unanswered"])),
        others=int(fields["others"]),
    )


def message_from_json(fields: Object, now: float) -> Message:
    return Message(
        id=MessageId.parse(fields["id"]),
        payload=b64decode(fields["base64"], validate=True),
        hops=int(fields["hops"]),
        via=Via(fields["via"]),
        received_at=now,
        is_direct=bool(fields["direct"]),
        to=None if fields.get("to") is None else PeerId.parse(fields["to"]),
        topic=_text(fields.get("topic", "")),
        age_s=_number(fields.get("age_s", 0.0), 0.0),  # absent from older nodes
        is_retained=bool(fields.get("retained", False)),
    )


def stats_from_json(stats: Object, now: float) -> Stats:
    fields: dict[str, Any] = {
        name: int(value)
        for name, value in stats.items()
        if name in Stats._fields
        and name not in ("dropped", "offenses", "undelivered", "next_round_at")
    }
    reasons = {each.value: each for each in DropReason}
    dropped = (
        (reasons[label], int(n)) for label, n in stats["dropped"].items() if label in reasons
    )
    offenses = {each.value: each for each in Offense}
    offense_counts = stats.get("offenses", {}).items()
    failures = {each.value: each for each in UndeliveredReason}
    failure_counts = stats.get("undelivered", {}).items()  # absent from older nodes
    next_s = stats["next_round_s"]
    return Stats(
        **fields,
        dropped=tuple(dropped),
        offenses=tuple(
            (offenses[label], int(n)) for label, n in offense_counts if label in offenses
        ),
        undelivered=tuple(
            (failures[label], int(n)) for label, n in failure_counts if label in failures
        ),
        next_round_at=0.0 if next_s is None else now + float(next_s),
    )


def event_from_json(fields: Object, now: float) -> Event | None:
    """Return the event; None for one that changes nothing here."""
    match fields["event"]:
        case "message":
            message = message_from_json(fields, now)
            return (
                MessageSent(message, int(fields["peers"]))
                if "peers" in fields
                else MessageReceived(message)
            )
        case "undelivered":
            message_id, to = MessageId.parse(fields["id"]), PeerId.parse(fields["to"])
            undelivered_reason = UndeliveredReason(fields["reason"])
            return MessageUndelivered(message_id, to, undelivered_reason, _text(fields["detail"]))
        case "skipped":
            stream = Stream(PeerId.parse(fields["origin"]), int(fields["epoch"]))
            return MessagesSkipped(stream, int(fields["first"]), int(fields["last"]))
        case "caught_up":
            return CaughtUp(int(fields["peers"]))
        case "peer":
            previous = fields["previous"]
            return PeerStateChanged(
                peer_from_json(fields, now),
                None if previous is None else PeerState(previous),
                _text(fields["reason"]),
            )
        case "member":
            return MemberChanged(member_from_json(fields))
        case "rate_limited":
            tokens = _number(fields["tokens"], math.inf)
            return RateLimited(PeerId.parse(fields["peer_id"]), int(fields["dropped"]), tokens)
        case "standing":
            score, standing = _number(fields["score"], 0.0), Standing(fields["standing"])
            peer_id = PeerId.parse(fields["peer_id"])
            return StandingChanged(peer_id, standing, score, _text(fields["reason"]))
        case "round":
            return AntiEntropyRound(round_from_json(fields, now))
        case "entry":
            return _entry_from_json(fields)
        case "trace":
            return TraceUpdated(trace_from_json(fields, now))
        case "stopped":
            return NodeStopped(_text(fields["reason"]))
        case "dropped":
            return _dropped_from_json(fields)
        case _:
            return _problem_from_json(fields)


def alert_from_json(fields: Object) -> AlertChange:
    """The change of an alert."""
    peer_id = fields["peer_id"]
    return AlertChange(
        _text(fields["name"]),
        _text(fields["rule"]),
        fields["state"] == "firing",
        None if peer_id is None else PeerId.parse(peer_id),
        _text(fields["value"]),
        float(fields["held_s"]),
        bool(fields["muted"]),
        _text(fields["peer_name"]),
    )


def alert_status_from_json(fields: Object) -> AlertStatus:
    """How an alert stands."""
    peer_id, since_s = fields["peer_id"], fields["since_s"]
    return AlertStatus(
        _text(fields["name"]),
        _text(fields["rule"]),
        _text(fields["state"]),
        None if peer_id is None else PeerId.parse(peer_id),
        _text(fields["value"]),
        None if since_s is None else float(since_s),
        bool(fields["muted"]),
    )


def _entry_from_json(fields: Object) -> EntryChanged:
    owner = PeerId.parse(fields["owner"])
    value, previous = (
        None if each is None else b64decode(each, validate=True)
        for each in (fields.get("base64"), fields.get("previous_base64"))
    )
    return EntryChanged(
        owner=owner,
        key=_text(fields["key"]),
        value=value,
        previous=previous,
        is_deleted=bool(fields["deleted"]),
        is_winner=bool(fields["winner"]),
        id=MessageId(owner, int(fields["epoch"]), int(fields["sequence"])),
        topic=_text(fields.get("topic", "")),
    )


def _problem_from_json(fields: Object) -> Event | None:
    """Return an event that reports a problem of the node; None for any other."""
    match fields["event"]:
        case "dial_failed":
            address_text = _text(fields["address"])
            return DialFailed(parse_literal(address_text) or address_text, _text(fields["reason"]))
        case "discovered":
            return PeerDiscovered(Address.parse(fields["address"]), _text(fields["source"]))
        case "port_mapping":
            mapped = fields["address"]
            return PortMappingChanged(
                PortMappingOutcome(fields["outcome"]),
                None if mapped is None else Address.parse(mapped),
                _text(fields["protocol"]),
                _text(fields["reason"]),
            )
        case "unsupported":
            numbers = (int(fields[name]) for name in ("epoch", "first", "last", "attribute"))
            return MessagesUnsupported(PeerId.parse(fields["origin"]), *numbers)
        case "state_save_failed":
            return StateSaveFailed(_text(fields["problem"]))
        case "internal_error":
            peer = None if fields["peer_id"] is None else PeerId.parse(fields["peer_id"])
            return InternalErrorContained(peer, _text(fields["problem"]))
        case "identity_in_use":
            address = fields["address"]
            return IdentityInUse(
                None if address is None else Address.parse(address), _text(fields["problem"])
            )
        case _:
            return None


def _dropped_from_json(fields: Object) -> Event | None:
    reason, count = fields["reason"], int(fields["count"])
    if reason in ("slow_reader", "events_lost"):
        return EventsLost(count)
    if reason not in set(DropReason):
        return None
    address = fields.get("address")
    return DatagramDropped(DropReason(reason), count, address and parse_literal(address))


def _number(value: Any, default: float) -> float:
    """Return `default` if JSON has null in place of the number."""
    return default if value is None else float(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, not {value!r:.40}")
    return value
