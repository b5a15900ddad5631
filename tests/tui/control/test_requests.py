"""A line of stdin or of the control socket is one request, or is refused in one line."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grapevine_tui.control.commands import (
    Broadcast,
    Dial,
    NodeAction,
    Send,
    SetSettings,
    Show,
    ShowHelp,
)
from grapevine_tui.control.jsonlines import encode_event
from grapevine_tui.control.requests import InvalidRequest, Request, parse_request
from grapevine_tui.text import printable


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
