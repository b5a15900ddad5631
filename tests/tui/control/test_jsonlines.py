"""Every event becomes one JSON object of plain words, and every line one request or a refusal."""

from __future__ import annotations

import json
import math
import re
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from grapevine_tui.control.commands import (
    Broadcast,
    Dial,
    NodeAction,
    Send,
    SetSettings,
    Show,
    ShowHelp,
)
from grapevine_tui.control.jsonlines import (
    InvalidRequest,
    Request,
    encode_event,
    named_event,
    parse_request,
)
from grapevine_tui.text import printable
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


@pytest.mark.parametrize(
    ("line", "request_"),
    [
        (b"", None),
        (b"  \t ", None),
        (b"hello", Request(Broadcast(b"hello"))),
        (b"/peers", Request(Show.PEERS)),
        (b'{"cmd":"peers"}', Request(Show.PEERS)),
        (b'{"cmd":"peers","request":[1,{"a":null}]}', Request(Show.PEERS, [1, {"a": None}])),
        (b'{"cmd":"broadcast","text":""}', Request(Broadcast(b""))),
        (b'{"cmd":"broadcast","base64":"/w=="}', Request(Broadcast(b"\xff"))),
        (b'{"cmd":"send","to":"bob","text":"x"}', Request(Send("bob", b"x"))),
        (b'{"cmd":"broadcast","file":"f"}', Request(Broadcast(b""), None, "f")),
        (b'{"cmd":"dial","address":"a:1","request":5}', Request(Dial("a:1"), 5)),
        (b'{"cmd":"connect","address":"a:1"}', Request(Dial("a:1"))),
        (b'{"cmd":"leave"}', Request(NodeAction.LEAVE)),
        (b'{"cmd":"quit"}', Request(NodeAction.LEAVE)),
        (b'{"cmd":"help"}', Request(ShowHelp())),
        (b'{"cmd":"help","command":"s"}', Request(ShowHelp("send"))),
        (
            b'{"cmd":"set_settings","changes":{"fanout":"5"}}',
            Request(SetSettings((("fanout", "5"),))),
        ),
        (b'\xef\xbb\xbf{"cmd":"quit"}\r', Request(NodeAction.LEAVE)),
        (b"\xef\xbb\xbf", None),
        (b"\xef\xbb\xbf/quit", Request(NodeAction.LEAVE)),
        ("\ufeffgrüße\t👨‍👩‍👧".encode(), Request(Broadcast("grüße\t👨‍👩‍👧".encode()))),
        (b"[info] {a} is up: 5 > 4", Request(Broadcast(b"[info] {a} is up: 5 > 4"))),
        (b'he said "yes": twice', Request(Broadcast(b'he said "yes": twice'))),
    ],
)
def test_a_line_is_one_request(line: bytes, request_: Request | None) -> None:
    assert repr(parse_request(line)) == repr(request_)  # commands of two types can be equal


@pytest.mark.parametrize(
    ("line", "expected_text"),
    [
        (b"\xff\xfe{\x00", "UTF-8"),
        (b"\x00h\x00i\x00", "UTF-16"),
        (b"hello\x00", "\\x00 at character 6"),
        (b"\x1b[2Jhello", "\\x1b"),
        (b"one\rtwo", "\\x0d"),
        ("one\x85".encode(), "\\x85"),
        ("\u200b/quit".encode(), "\\u200b"),
        ('\u2066{"cmd":"quit"}'.encode(), "invisible"),
        (b"}", "part of"),
        (b"]", "part of"),
        (b"[", "part of"),
        (b'[{"cmd":"quit"}]', "part of"),
        (b'  "text": "hello"', "part of"),
        (b'"cmd":"quit"}', "part of"),
        (b"'cmd': 'quit'}", "part of"),
        (b'x{"cmd" : "quit"}', "part of"),
        (b'{"cmd":"send","to":"\\ud800","text":"x"}', "to holds half"),
        (b'{"cmd":"broadcast","file":"\\udfff"}', "file holds half"),
        (b'{"cmd":"set_settings","changes":{"\\ud800":"x"}}', "changes holds half"),
    ],
)
def test_what_may_have_been_meant_as_a_command_is_not_sent_as_a_text(
    line: bytes, expected_text: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_request(line)
    assert expected_text in str(caught.value)
    assert printable(str(caught.value)) == str(caught.value)


def test_a_refusal_repeats_the_callers_id() -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_request(b'{"cmd":"nope","request":"r1"}')
    assert caught.value.request_id == "r1"


@given(st.binary() | st.text().map(lambda text: b"{" + text.encode("utf-8", "ignore")))
def test_no_line_raises_anything_but_a_refusal(line: bytes) -> None:
    with suppress(InvalidRequest):
        parse_request(line)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(["cmd", "request", "text", "base64", "file", "to", "address"])
COMMAND_NAMES = st.sampled_from(["broadcast", "send", "dial", "peers", "quit"])


@given(st.dictionaries(NAMES, JSON | COMMAND_NAMES))
def test_no_object_raises_anything_but_a_refusal_and_every_answer_encodes(
    fields: dict[str, Any],
) -> None:
    request: Any = None
    try:
        parsed = parse_request(json.dumps(fields).encode())
        request = parsed.request_id if parsed else None
    except InvalidRequest as error:
        request = error.request_id
    assert encode_event("reply", {"request": request})


def test_every_enumeration_value_is_documented() -> None:
    page = ROOT / "docs" / "reference" / "json-lines.md"
    documented = set(re.findall(r"[a-z_]+", page.read_text(encoding="utf-8")))
    for expected_text in (Via, PeerState, MemberStatus, RoundOutcome, DropReason):
        assert {value.value for value in expected_text} <= documented
