"""Every event becomes one JSON object of plain words."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest

from grapevine_proto.errors import DropReason
from grapevine_proto.events import (
    AntiEntropyRound,
    CaughtUp,
    DialFailed,
    Event,
    MemberChanged,
    MemberInfo,
    MemberStatus,
    Message,
    MessageReceived,
    MessageSent,
    MessagesSkipped,
    MessagesUnsupported,
    PeerInfo,
    PeerState,
    PeerStateChanged,
    Round,
    RoundOutcome,
    StateSaveFailed,
    Stats,
    Via,
)
from grapevine_proto.ids import Address, MessageId, PeerId, Stream
from grapevine_tui.control.jsonlines import (
    encode_event,
    named_event,
)
from tests.sources import ROOT

ID = PeerId(bytes(range(32)))
HEX = bytes(range(32)).hex()
ADDRESS = Address("::1", 8000)
MESSAGE = Message(MessageId(ID, 7, 3), b"hi \xc3\xa9", 2, Via.EAGER, 1.0, age_s=0.25)
PEER = PeerInfo(
    ID, ADDRESS, "eu", "bob", PeerState.STALE, 0.5, 0.0012, 1, 2, 3, 4, 5.0, 100.0, 9.0, 7, None, 0
)
ROUND = Round(4, ID, 1.0, 0.0305, False, 1, 2, 300, RoundOutcome.REPAIRED)


def name_of(peer_id: PeerId) -> str:
    return "bob" if peer_id == ID else ""


def to_json(event: Event) -> dict[str, Any]:
    """What is printed for `event`, without the time."""
    line = encode_event(*named_event(event, name_of))
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    found: dict[str, Any] = json.loads(line.decode("ascii"))
    assert found.pop("time").endswith("Z")
    return found


def test_a_message_has_text_and_base64() -> None:
    expected = {
        "event": "message",
        "id": f"{HEX}:7:3",
        "origin": HEX,
        "sequence": 3,
        "hops": 2,
        "via": "eager",
        "direct": False,
        "topic": "",
        "retained": False,
        "bytes": 5,
        "age_s": 0.25,
        "from_name": "bob",
        "text": "hi é",
        "base64": "aGkgw6k=",
    }
    assert to_json(MessageReceived(MESSAGE)) == expected
    assert to_json(MessageSent(MESSAGE, 2)) == expected | {"peers": 2}


def test_a_message_that_is_not_text_has_only_base64() -> None:
    direct = Message(MessageId(PeerId(bytes(32)), 7, 1, True), b"\xff", 0, Via.EAGER, 1.0, True)
    found = to_json(MessageReceived(direct))
    assert found["id"].endswith(":7:p1")
    assert found["base64"] == "/w=="
    assert not found.keys() & {"text", "from_name"}


def test_a_peer_event_has_the_previous_state() -> None:
    assert to_json(PeerStateChanged(PEER, PeerState.CONNECTED, "silent")) == {
        "event": "peer",
        "peer_id": HEX,
        "address": "[::1]:8000",
        "zone": "eu",
        "name": "bob",
        "state": "stale",
        "previous": "connected",
        "reason": "silent",
    }
    assert to_json(PeerStateChanged(PEER, None, ""))["previous"] is None


def test_members_rounds_and_errors_become_plain_objects() -> None:
    member = MemberInfo(ID, None, "", "bob", MemberStatus.SUSPECT, 7)
    assert to_json(MemberChanged(member))["status"] == "suspect"
    assert to_json(MemberChanged(member))["address"] is None
    assert to_json(AntiEntropyRound(ROUND)) == {
        "event": "round",
        "number": 4,
        "peer_id": HEX,
        "in_sync": False,
        "sent": 1,
        "received": 2,
        "bytes": 300,
        "duration_ms": 30.5,
        "outcome": "repaired",
    }
    assert to_json(DialFailed(ADDRESS, "no answer"))["address"] == "[::1]:8000"
    assert to_json(MessagesUnsupported(ID, 7, 3, 4, 200)) == {
        "event": "unsupported",
        "origin": str(ID),
        "epoch": 7,
        "first": 3,
        "last": 4,
        "attribute": 200,
    }
    assert to_json(MessagesSkipped(Stream(ID, 7), 3, 4)) == {
        "event": "skipped",
        "origin": str(ID),
        "epoch": 7,
        "first": 3,
        "last": 4,
    }
    assert to_json(CaughtUp(3)) == {"event": "caught_up", "peers": 3}
    assert to_json(StateSaveFailed("disk full")) == {
        "event": "state_save_failed",
        "problem": "disk full",
    }


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_a_number_that_json_has_not_is_null(value: float) -> None:
    peer = PeerInfo(
        ID, ADDRESS, "", "", PeerState.CONNECTED, value, value, 0, 0, 0, 0, value, value, value, 7,
        value, 0,
    )  # fmt: skip
    found = json.loads(encode_event("reply", {"peers": [peer.to_dict(now=1.0)]}))["peers"][0]
    assert found["rtt_ms"] is None
    assert found["tokens"] is None


def test_counters_are_listed_by_name() -> None:
    stats = Stats(delivered=3, dropped=((DropReason.REPLAY, 2),), next_round_at=12.0)
    found = stats.to_dict(now=10.0)
    assert found["delivered"] == 3
    assert found["dropped"] == {"replay": 2}
    assert found["next_round_s"] == 2.0
    assert encode_event("reply", {"stats": found})


def test_every_enumeration_value_is_documented() -> None:
    page = ROOT / "docs" / "reference" / "json-lines.md"
    documented = set(re.findall(r"[a-z_]+", page.read_text(encoding="utf-8")))
    for expected_text in (Via, PeerState, MemberStatus, RoundOutcome, DropReason):
        assert {value.value for value in expected_text} <= documented
