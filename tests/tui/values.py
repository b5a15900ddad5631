"""Builders of values that a node returns: IDs, peers, members, messages, rounds and traces."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from grapevine_proto.events import (
    EntryChanged,
    EntryInfo,
    MemberInfo,
    MemberStatus,
    Message,
    MessageReceived,
    PeerInfo,
    PeerState,
    Round,
    RoundOutcome,
    Trace,
    TraceAnswer,
    Via,
)
from grapevine_proto.ids import Address, MessageId, PeerId

EPOCH = 1_700_000_000


def an_id(number: int) -> PeerId:
    """Return a peer ID that starts with `number`, so that short forms differ."""
    return PeerId((number.to_bytes(4, "big") * 8)[:31] + bytes([number % 251]))


def a_peer(number: int, name: str = "", **changes: Any) -> PeerInfo:
    peer = PeerInfo(
        peer_id=an_id(number),
        address=Address("10.0.0.7", 8000 + number),
        zone="eu-west",
        name=name,
        state=PeerState.CONNECTED,
        health=0.98,
        rtt_s=0.0012,
        sent=100,
        received=200,
        allowed=12_401,
        throttled=0,
        tokens=72.0,
        tokens_capacity=100.0,
        last_seen_at=99.0,
        epoch=EPOCH,
        connected_at=10.0,
        queued=0,
    )
    return peer._replace(**changes)


def a_member(number: int, name: str = "") -> MemberInfo:
    return MemberInfo(
        an_id(number), Address("10.0.0.7", 8000 + number), "eu-west", name, MemberStatus.UP, EPOCH
    )


def a_message(origin: int, sequence: int, payload: bytes = b"hello", **changes: Any) -> Message:
    message = Message(MessageId(an_id(origin), EPOCH, sequence), payload, 2, Via.EAGER, 99.0)
    return message._replace(**changes)


def received(origin: int, sequence: int, payload: bytes = b"hello") -> MessageReceived:
    return MessageReceived(a_message(origin, sequence, payload))


def an_entry(owner: int, key: str, value: bytes | None, **changes: Any) -> EntryChanged:
    """Return the change of an entry that is the winner of its key."""
    version = MessageId(an_id(owner), EPOCH, 1)
    event = EntryChanged(an_id(owner), key, value, None, value is None, True, version)
    return replace(event, **changes)


def an_entry_info(owner: int, key: str, value: bytes | None, **changes: Any) -> EntryInfo:
    return EntryInfo(an_id(owner), key, value, 1, EPOCH, 1, is_winner=True)._replace(**changes)


def a_round(number: int, peer: int, **changes: Any) -> Round:
    done = Round(number, an_id(peer), 90.0, 0.003, True, 0, 0, 61, RoundOutcome.IN_SYNC)
    return done._replace(**changes)


def a_trace(sequence: int, answered: int, unanswered: int = 0, **changes: Any) -> Trace:
    """Return a trace of our own message: node 1 answered after 10 ms and one hop, node 2 after 20 ms, ..."""
    answers = tuple(TraceAnswer(an_id(n), 1 + n // 3, 10 * n) for n in range(1, answered + 1))
    missing = tuple(an_id(answered + n) for n in range(1, unanswered + 1))
    message_id = MessageId(an_id(0xA3F91C02), EPOCH, sequence)
    trace = Trace(message_id, 90.0, answered + unanswered, answers, missing)
    return trace._replace(**changes)
