"""Events and values: what they show of themselves, and their JSON."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest

from grapevine_proto import events
from grapevine_proto.errors import DropReason, Offense
from grapevine_proto.events import (
    SHOWN_PAYLOAD_BYTES,
    Answer,
    AnswerStatus,
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
    NodeStarted,
    NodeStopped,
    PeerDiscovered,
    PeerInfo,
    PeerState,
    PeerStateChanged,
    PortMappingChanged,
    PortMappingOutcome,
    QueryAnswered,
    QueryEnd,
    QueryEnded,
    QueryReceived,
    QueryReport,
    Question,
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
    event_to_json,
)
from grapevine_proto.ids import Address, MessageId, PeerId, Stream

ORIGIN = PeerId(bytes(range(32)))


def a_message(payload: bytes) -> Message:
    return Message(MessageId(ORIGIN, 7, 1), payload, 1, Via.EAGER, 2.5)


def test_a_message_shows_all_of_a_short_payload() -> None:
    shown = repr(a_message(b"x" * SHOWN_PAYLOAD_BYTES))
    assert f"payload=b'{'x' * SHOWN_PAYLOAD_BYTES}', hops=1" in shown
    assert "received_at=2.5" in shown


def test_a_message_shows_the_beginning_and_the_size_of_a_long_payload() -> None:
    shown = repr(a_message(b"x" * SHOWN_PAYLOAD_BYTES + b"y" * 10_000_000))
    assert f"payload=b'{'x' * SHOWN_PAYLOAD_BYTES}'... (10000080 bytes), hops=1" in shown
    assert "y" * 4 not in shown
    assert len(shown) < 600


PLACE = Address("::1", 8000)
MESSAGE = a_message(b"hi")
PEER = PeerInfo(
    ORIGIN,
    PLACE,
    "eu",
    "bob",
    PeerState.CONNECTED,
    0.5,
    0.0012,
    1,
    2,
    3,
    4,
    5.0,
    9.0,
    7.0,
    7,
    3.0,
    0,
)
QUESTION = Question(MESSAGE.id, "up", b"?", 4.9876, 65_536, 2)
ANSWER = Answer(ORIGIN, AnswerStatus.ANSWERED, b"\xff", 2, 40, 95)
REPORT = QueryReport(
    MESSAGE.id, "up", 1.0, 4, 2, 1, 0, (ORIGIN,), 0, (10, 20, 95), QueryEnd.STALLED
)
ROUND = Round(4, ORIGIN, 1.0, 0.0305, False, 1, 2, 300, RoundOutcome.REPAIRED)

# each event, its word, and one of its fields
EVENTS: list[tuple[Event, str, tuple[str, Any]]] = [
    (NodeStarted(ORIGIN, PLACE, 7), "started", ("address", "[::1]:8000")),
    (MessageReceived(MESSAGE), "message", ("text", "hi")),
    (MessageSent(MESSAGE, 3), "message", ("peers", 3)),
    (PeerStateChanged(PEER, None, "new"), "peer", ("state", "connected")),
    (
        MemberChanged(MemberInfo(ORIGIN, None, "", "", MemberStatus.UP, 7)),
        "member",
        ("status", "up"),
    ),
    (RateLimited(ORIGIN, 3, float("inf")), "rate_limited", ("tokens", None)),
    (
        StandingChanged(ORIGIN, Standing.SLOWED, 61.25, "work"),
        "standing",
        ("peer_id", str(ORIGIN)),
    ),
    (AntiEntropyRound(ROUND), "round", ("duration_ms", 30.5)),
    (TraceUpdated(Trace(MESSAGE.id, 1.0, 0, (), ())), "trace", ("id", str(MESSAGE.id))),
    (DatagramDropped(DropReason.REPLAY, 2, PLACE), "dropped", ("reason", "replay")),
    (EventsLost(7), "dropped", ("reason", "events_lost")),
    (DialFailed("name.example:1", "no answer"), "dial_failed", ("address", "name.example:1")),
    (PeerDiscovered(Address("10.0.0.1", 9), "mdns"), "discovered", ("address", "10.0.0.1:9")),
    (
        PortMappingChanged(PortMappingOutcome.GRANTED, Address("203.0.113.7", 9), "PCP", ""),
        "port_mapping",
        ("address", "203.0.113.7:9"),
    ),
    (StateSaveFailed("disk full"), "state_save_failed", ("problem", "disk full")),
    (InternalErrorContained(None, "x"), "internal_error", ("peer_id", None)),
    (IdentityInUse(PLACE, "x"), "identity_in_use", ("address", "[::1]:8000")),
    (NodeStopped("left"), "stopped", ("reason", "left")),
    (MessagesUnsupported(ORIGIN, 7, 3, 4, 200), "unsupported", ("attribute", 200)),
    (
        MessageUndelivered(
            MessageId(ORIGIN, 7, 3, is_direct=True), ORIGIN, UndeliveredReason.NO_ANSWER
        ),
        "undelivered",
        ("reason", "no_answer"),
    ),
    (MessagesSkipped(Stream(ORIGIN, 7), 3, 4), "skipped", ("origin", str(ORIGIN))),
    (CaughtUp(3), "caught_up", ("peers", 3)),
    (QueryReceived(QUESTION), "query", ("text", "?")),
    (QueryAnswered(MESSAGE.id, ANSWER), "answer", ("status", "answered")),
    (QueryEnded(REPORT), "query_done", ("end", "stalled")),
    (
        EntryChanged(ORIGIN, "cfg/a", b"1", b"0", False, True, MESSAGE.id),
        "entry",
        ("previous_base64", "MA=="),
    ),
]


@pytest.mark.parametrize(("event", "word", "field"), EVENTS)
def test_an_event_becomes_json(event: Event, word: str, field: tuple[str, Any]) -> None:
    found = json.loads(json.dumps(event_to_json(event), allow_nan=False))
    assert found["event"] == word
    assert (field[0], found[field[0]]) == field


def test_all_events_become_json() -> None:
    assert {type(event) for event, *_ in EVENTS} == set(get_args(events.Event))


def test_a_query_becomes_dictionaries_of_plain_values() -> None:
    assert QUESTION.to_dict() == {
        "id": str(MESSAGE.id),
        "name": "up",
        "origin": str(ORIGIN),
        "hops": 2,
        "remaining_s": 4.988,
        "max_answer_bytes": 65_536,
        "bytes": 1,
        "text": "?",
        "base64": "Pw==",
    }
    assert ANSWER.to_dict() == {
        "peer_id": str(ORIGIN),
        "status": "answered",
        "index": 0,
        "hops": 2,
        "delay_ms": 40,
        "arrived_ms": 95,
        "bytes": 1,
        "base64": "/w==",
    }
    assert REPORT.to_dict() == {
        "id": str(MESSAGE.id),
        "name": "up",
        "end": "stalled",
        "asked": 4,
        "answered": 2,
        "refused": 1,
        "failed": 0,
        "unanswered": [str(ORIGIN)],
        "others": 0,
        "p50_ms": 20,
        "p99_ms": 95,
        "last_ms": 95,
    }


def test_a_message_becomes_a_dictionary_of_plain_values() -> None:
    message = a_message(b"hi")._replace(age_s=0.5, topic="deploy.web")
    assert message.to_dict() == {
        "id": f"{ORIGIN}:7:1",
        "origin": str(ORIGIN),
        "sequence": 1,
        "hops": 1,
        "via": "eager",
        "direct": False,
        "bytes": 2,
        "age_s": 0.5,
        "topic": "deploy.web",
        "retained": False,
        "text": "hi",
        "base64": "aGk=",
    }
    assert message.sent_at == 2.0


def test_times_of_values_are_ages_at_the_given_time() -> None:
    assert (PEER.to_dict()["last_seen_s"], PEER.to_dict()["connected_s"]) == (None, None)
    found = PEER.to_dict(now=10.0)
    assert (found["last_seen_s"], found["connected_s"], found["rtt_ms"]) == (3.0, 7.0, 1.2)
    stats = Stats(next_round_at=12.0, offenses=((Offense.EXCESS_WORK, 2),))
    assert stats.to_dict()["next_round_s"] is None
    assert stats.to_dict(now=10.0)["next_round_s"] == 2.0
    assert stats.to_dict()["offenses"] == {"excess_work": 2}
    json.dumps([PEER.to_dict(), stats.to_dict(), ROUND.to_dict()], allow_nan=False)
