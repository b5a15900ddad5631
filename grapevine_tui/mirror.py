"""What a node in another process told in JSON Lines, as the values and events that it told it of.

What must stay true:

- Each of these undoes one of `jsonlines`: what comes out shows as what went in, to the thousandth that
  was told. `tests/tui/test_mirror.py` holds them to it.
- What is not as it should be raises one of `MALFORMED` and nothing else; words that only
  a newer node knows are such.
"""

from __future__ import annotations

import math
from base64 import b64decode
from typing import Any, Final

from grapevine_proto.errors import DropReason, Offense
from grapevine_proto.events import (
    AntiEntropyRound,
    DatagramDropped,
    DialFailed,
    Event,
    EventsLost,
    FaultContained,
    IdentityInUse,
    MemberChanged,
    MemberInfo,
    MemberStatus,
    Message,
    MessageReceived,
    MessageSent,
    NodeStopped,
    PeerInfo,
    PeerState,
    PeerStateChanged,
    RateLimited,
    Round,
    RoundOutcome,
    Standing,
    StandingChanged,
    StateUnsaved,
    Stats,
    Trace,
    TraceAnswer,
    TraceUpdated,
    Via,
)
from grapevine_proto.ids import Address, MessageId, PeerId, literal
from grapevine_tui.jsonlines import Object

MALFORMED: Final = (KeyError, ValueError, TypeError, AttributeError, OverflowError)


def peer_of(told: Object, now: float) -> PeerInfo:
    """`now`: the node's clock when it told this."""
    rtt_ms, connected_s = told["rtt_ms"], told["connected_s"]
    return PeerInfo(
        peer_id=PeerId.parse(told["peer_id"]),
        address=Address.parse(told["address"]),
        zone=_text(told["zone"]),
        name=_text(told["name"]),
        state=PeerState(told["state"]),
        health=_number(told["health"], 0.0),
        rtt=None if rtt_ms is None else float(rtt_ms) / 1000,
        sent=int(told["sent"]),
        received=int(told["received"]),
        allowed=int(told["allowed"]),
        throttled=int(told["throttled"]),
        tokens=_number(told["tokens"], math.inf),
        tokens_capacity=_number(told["tokens_capacity"], math.inf),
        last_seen=now - _number(told["last_seen_s"], math.inf),
        epoch=int(told["epoch"]),
        connected_at=None if connected_s is None else now - float(connected_s),
        queued=int(told["queued"]),
        health_reason=_text(told.get("health_reason", "")),
        subscribed=bool(told["subscribed"]),
        send_rate=_number(told["send_rate"], math.inf),
        lost=int(told["lost"]),
        datagram_bytes=int(told["datagram_bytes"]),
        score=_number(told.get("score", 0.0), 0.0),
        standing=Standing(told.get("standing", Standing.NORMAL.value)),
    )


def member_of(told: Object) -> MemberInfo:
    return MemberInfo(
        peer_id=PeerId.parse(told["peer_id"]),
        address=None if told["address"] is None else Address.parse(told["address"]),
        zone=_text(told["zone"]),
        name=_text(told["name"]),
        status=MemberStatus(told["status"]),
        epoch=int(told["epoch"]),
    )


def round_of(told: Object, now: float) -> Round:
    duration_s = _number(told["duration_ms"], 0.0) / 1000
    return Round(
        number=int(told["number"]),
        peer=PeerId.parse(told["peer_id"]),
        started_at=now - duration_s,
        duration=duration_s,
        in_sync=bool(told["in_sync"]),
        sent=int(told["sent"]),
        received=int(told["received"]),
        bytes=int(told["bytes"]),
        outcome=RoundOutcome(told["outcome"]),
    )


def trace_of(told: Object, now: float) -> Trace:
    return Trace(
        id=MessageId.parse(told["id"]),
        sent_at=now,
        known=int(told["known"]),
        answers=tuple(
            TraceAnswer(PeerId.parse(peer_id), int(hops), int(delay_ms), int(confirmed_ms))
            for (peer_id, hops, delay_ms), confirmed_ms in zip(
                told["answers"],
                told.get("confirmed_ms", [0] * len(told["answers"])),  # an older node has none
                strict=True,
            )
        ),
        unanswered=tuple(map(PeerId.parse, told["unanswered"])),
        others=int(told["others"]),
    )


def message_of(told: Object, now: float) -> Message:
    return Message(
        id=MessageId.parse(told["id"]),
        payload=b64decode(told["base64"], validate=True),
        hops=int(told["hops"]),
        via=Via(told["via"]),
        received_at=now,
        private=bool(told["private"]),
        to=None if told.get("to") is None else PeerId.parse(told["to"]),
    )


def stats_of(told: Object, now: float) -> Stats:
    fields: dict[str, Any] = {
        name: int(value)
        for name, value in told.items()
        if name in Stats.__dataclass_fields__
        and name not in ("dropped", "offenses", "next_round_at")
    }
    words = {each.value: each for each in DropReason}
    dropped = ((words[word], int(n)) for word, n in told["dropped"].items() if word in words)
    offenses = {each.value: each for each in Offense}
    told_offenses = told.get("offenses", {}).items()
    next_s = told["next_round_s"]
    return Stats(
        **fields,
        dropped=tuple(dropped),
        offenses=tuple((offenses[word], int(n)) for word, n in told_offenses if word in offenses),
        next_round_at=0.0 if next_s is None else now + float(next_s),
    )


def event_of(told: Object, now: float) -> Event | None:
    """What happened; None for a word that changes nothing here."""
    match told["event"]:
        case "message":
            message = message_of(told, now)
            return (
                MessageSent(message, int(told["peers"]))
                if "peers" in told
                else MessageReceived(message)
            )
        case "peer":
            previous = told["previous"]
            return PeerStateChanged(
                peer_of(told, now),
                None if previous is None else PeerState(previous),
                _text(told["reason"]),
            )
        case "member":
            return MemberChanged(member_of(told))
        case "rate_limited":
            tokens = _number(told["tokens"], math.inf)
            return RateLimited(PeerId.parse(told["peer_id"]), int(told["dropped"]), tokens)
        case "standing":
            score, standing = _number(told["score"], 0.0), Standing(told["standing"])
            peer_id = PeerId.parse(told["peer_id"])
            return StandingChanged(peer_id, standing, score, _text(told["reason"]))
        case "round":
            return AntiEntropyRound(round_of(told, now))
        case "trace":
            return TraceUpdated(trace_of(told, now))
        case "dial_failed":
            where = _text(told["address"])
            return DialFailed(literal(where) or where, _text(told["reason"]))
        case "state_unsaved":
            return StateUnsaved(_text(told["problem"]))
        case "fault":
            peer = None if told["peer_id"] is None else PeerId.parse(told["peer_id"])
            return FaultContained(peer, _text(told["problem"]))
        case "identity_in_use":
            at = told["address"]
            return IdentityInUse(None if at is None else Address.parse(at), _text(told["problem"]))
        case "stopped":
            return NodeStopped(_text(told["reason"]))
        case "dropped":
            return _dropped(told)
        case _:
            return None


def _dropped(told: Object) -> Event | None:
    reason, count = told["reason"], int(told["count"])
    if reason in ("slow_reader", "events_lost"):
        return EventsLost(count)
    if reason not in set(DropReason):
        return None
    address = told.get("address")
    return DatagramDropped(DropReason(reason), count, address and literal(address))


def _number(value: Any, otherwise: float) -> float:
    """`otherwise` where JSON had no such number."""
    return otherwise if value is None else float(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, not {value!r:.40}")
    return value
