"""What was told in JSON Lines comes out of the mirror as what it was told of."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from grapevine_proto.errors import DropReason, Offense
from grapevine_proto.events import (
    AntiEntropyRound,
    CaughtUp,
    DatagramDropped,
    DialFailed,
    Event,
    EventsLost,
    IdentityInUse,
    InternalErrorContained,
    MemberChanged,
    MemberStatus,
    MessageReceived,
    MessageSent,
    MessagesSkipped,
    MessagesUnsupported,
    MessageUndelivered,
    NodeStopped,
    PeerDiscovered,
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
    TraceUpdated,
    UndeliveredReason,
    Via,
)
from grapevine_proto.ids import Address, MessageId, PeerId, Stream
from grapevine_tui.control.jsonlines import (
    Object,
    named_event,
)
from grapevine_tui.host.alerts import AlertChange, AlertStatus
from grapevine_tui.remote.decode import (
    DECODE_ERRORS,
    alert_from_json,
    alert_status_from_json,
    event_from_json,
    member_from_json,
    message_from_json,
    peer_from_json,
    round_from_json,
    stats_from_json,
    trace_from_json,
)
from tests.tui.values import a_member, a_message, a_peer, a_round, a_trace, an_entry, an_id

NOW = 100.0


def through_json(fields: Object) -> Object:
    """What arrives of what was said."""
    received: Object = json.loads(json.dumps(fields, allow_nan=False))
    return received


@pytest.mark.parametrize(
    "peer",
    [
        a_peer(1, "bob"),
        a_peer(2, "\x1b[2J夜", zone="", rtt_s=None, connected_at=None, state=PeerState.CONNECTING),
        a_peer(
            3, subscribed=True, send_rate=6e6, lost=3, datagram_bytes=1452, health_reason="late"
        ),
        a_peer(4, tokens=math.inf, tokens_capacity=math.inf, address=Address("::1", 9)),
    ],
)
def test_a_peer_comes_out_as_it_went_in(peer: Any) -> None:
    assert peer_from_json(through_json(peer.to_dict(now=NOW)), NOW) == peer


@pytest.mark.parametrize("status", list(MemberStatus))
@pytest.mark.parametrize("address", [None, Address("::1", 8000)])
def test_a_member_comes_out_as_it_went_in(status: MemberStatus, address: Address | None) -> None:
    member = replace(a_member(1, "bob"), status=status, address=address)
    assert member_from_json(through_json(member.to_dict())) == member


@pytest.mark.parametrize("outcome", list(RoundOutcome))
def test_a_round_comes_out_as_it_went_in(outcome: RoundOutcome) -> None:
    done: Round = a_round(7, 1, outcome=outcome, in_sync=False, sent=2, received=3)
    assert round_from_json(through_json(done.to_dict()), NOW)._replace(started_at=90.0) == done


@pytest.mark.parametrize("trace", [a_trace(1, 0, 3), a_trace(2, 5, 1, known=400, others=2)])
def test_a_trace_comes_out_as_it_went_in(trace: Trace) -> None:
    assert trace_from_json(through_json(trace.to_dict()), trace.sent_at) == trace


@pytest.mark.parametrize("via", list(Via))
def test_a_message_comes_out_as_it_went_in(via: Via) -> None:
    message = a_message(1, 2, bytes(range(256)), via=via, hops=3)
    message = message._replace(topic="deploy.web", age_s=0.125, is_retained=True)
    word, fields = named_event(MessageReceived(message), lambda _: "bob")
    assert word == "message"
    assert message_from_json(through_json(fields), message.received_at) == message


def test_counters_come_out_as_they_went_in() -> None:
    names = [
        name
        for name in Stats._fields
        if name not in ("dropped", "offenses", "undelivered", "next_round_at")
    ]
    counts: dict[str, Any] = {name: number for number, name in enumerate(names, 1)}
    stats = Stats(
        **counts,
        dropped=((DropReason.REPLAY, 3),),
        offenses=((Offense.BROKEN_PROMISE, 5),),
        undelivered=((UndeliveredReason.NO_ANSWER, 2),),
        next_round_at=112.5,
    )
    assert stats_from_json(through_json(stats.to_dict(now=NOW)), NOW) == stats
    assert stats_from_json(through_json(Stats().to_dict(now=NOW)), NOW) == Stats()
    newer = through_json(stats.to_dict(now=NOW)) | {"unheard_of": 1}
    newer["dropped"]["a reason of tomorrow"] = 4
    assert stats_from_json(newer, NOW) == stats


@pytest.mark.parametrize(
    "event",
    [
        MessageSent(a_message(1, 2, via=Via.LOCAL, received_at=NOW), 4),
        MemberChanged(a_member(1, "bob")),
        MemberChanged(replace(a_member(1, "bob"), tags={"role": "web"})),
        an_entry(1, "cfg/limit", b"\xff", previous=b"10 MB", is_winner=False, topic="deploy.web"),
        an_entry(1, "cfg/limit", None),
        TraceUpdated(a_trace(1, 2, 2, sent_at=NOW)),
        AntiEntropyRound(a_round(1, 1, started_at=NOW - 0.003)),
        DialFailed(Address("10.0.0.1", 9), "no answer"),
        PeerDiscovered(Address("10.0.0.1", 9), "mdns"),
        PortMappingChanged(PortMappingOutcome.GRANTED, Address("203.0.113.7", 9), "PCP", ""),
        PortMappingChanged(PortMappingOutcome.REFUSED, None, "", "not authorized"),
        StateSaveFailed("disk full"),
        MessagesUnsupported(an_id(1), 7, 3, 4, 200),
        MessageUndelivered(
            MessageId(an_id(1), 7, 3, is_direct=True),
            an_id(2),
            UndeliveredReason.SESSION_ENDED,
            "detail",
        ),
        MessagesSkipped(Stream(an_id(1), 7), 3, 4),
        CaughtUp(3),
        StandingChanged(an_id(1), Standing.SLOWED, 61.5, "excess work"),
        InternalErrorContained(an_id(1), "ValueError: x in y (z.py:1)"),
        InternalErrorContained(None, "ValueError: x in y (z.py:1)"),
        IdentityInUse(Address("10.0.0.9", 8000), "in use by another node"),
        IdentityInUse(None, "in use by another node"),
    ],
)
def test_an_event_comes_out_as_it_went_in(event: Event) -> None:
    word, fields = named_event(event, lambda _: "")
    assert event_from_json(through_json({"event": word, **fields}), NOW) == event


@pytest.mark.parametrize("peer_id", [None, an_id(1)])
def test_alerts_come_out_as_they_went_in(peer_id: PeerId | None) -> None:
    name = "" if peer_id is None else "bob"
    for is_firing in (True, False):
        change = AlertChange("few", "peers < 3", is_firing, peer_id, "peers 2", 1.5, True, name)
        assert alert_from_json(json.loads(json.dumps(change.to_dict()))) == change
    for since_s in (None, 1.5):
        status = AlertStatus("few", "peers < 3", "firing", peer_id, "peers 2", since_s, True)
        assert alert_status_from_json(json.loads(json.dumps(status.to_dict()))) == status


def test_fields_encoded_differently_than_for_scripts_round_trip_too() -> None:
    peer = a_peer(1, "bob", state=PeerState.STALE)
    whole = peer.to_dict(now=NOW) | {"previous": "connected", "reason": "no answer"}
    changed = PeerStateChanged(peer, PeerState.CONNECTED, "no answer")
    assert event_from_json(through_json({"event": "peer", **whole}), NOW) == changed
    limited = {"event": "rate_limited", "peer_id": str(an_id(1)), "dropped": 3, "tokens": 0.5}
    assert event_from_json(limited, NOW) == RateLimited(an_id(1), 3, 0.5)
    assert event_from_json({"event": "stopped", "reason": "quit"}, NOW) == NodeStopped("quit")
    for reason, expected in (
        ("replay", DatagramDropped(DropReason.REPLAY, 2)),
        ("slow_reader", EventsLost(2)),
        ("events_lost", EventsLost(2)),
        ("a reason of tomorrow", None),
    ):
        assert event_from_json({"event": "dropped", "reason": reason, "count": 2}, NOW) == expected
    assert event_from_json({"event": "an event of tomorrow"}, NOW) is None


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"event": "message"},
        {"event": "message", "id": 7},
        {"event": "message", "id": "x:1:1", "base64": "", "hops": 1, "via": "eager", "direct": 0},
        {"event": "member", "peer_id": "00", "address": None},
        {"event": "member", **a_member(1).to_dict(), "name": 7},
        {"event": "trace", **a_trace(1, 1).to_dict(), "answers": [1]},
        {"event": "round", **a_round(1, 1).to_dict(), "outcome": "magic"},
    ],
)
def test_malformed_objects_raise_a_known_error(broken: Object) -> None:
    with pytest.raises(DECODE_ERRORS):
        event_from_json(broken, NOW)
