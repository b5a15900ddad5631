"""Fields of JSON payloads, whatever the payload is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grapevine_tui.json_path import (
    MAX_PAYLOAD_BYTES,
    find_field,
    format_field,
    parse_payload,
    path_fault,
)

PAYLOAD = (
    b'{"level": "warn", "user": {"name": "bob", "ids": [7, {"a": true}]}, "n": 1.5, "z": null}'
)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("level", "warn"),
        ("user.name", "bob"),
        ("user.ids.0", "7"),
        ("user.ids.1.a", "true"),
        ("user.ids", '[7,{"a":true}]'),
        ("n", "1.5"),
        ("z", ""),
        ("user.ids.2", ""),
        ("user.ids.-1", ""),
        ("user.name.x", ""),
        ("nothing", ""),
    ],
)
def test_a_path_names_a_field(path: str, text: str) -> None:
    assert path_fault(path) == ""
    assert format_field(find_field(parse_payload(PAYLOAD), path)) == text


@pytest.mark.parametrize("path", ["", ".", "a.", ".a", "a..b", "a b", "a." * 8 + "a"])
def test_a_path_that_names_nothing_is_refused(path: str) -> None:
    assert "such as user.name" in path_fault(path)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"text",
        b"{",
        b"[" * 10_000,
        b'{"a": ' + b"1" * 6_000 + b"}",
        b"[1]" + b" " * MAX_PAYLOAD_BYTES,
    ],
)
def test_what_is_no_json_has_no_fields(payload: bytes) -> None:
    assert parse_payload(payload) is None
    assert format_field(find_field(None, "a")) == ""


@given(st.binary(max_size=60), st.text(min_size=1, max_size=8))
def test_nothing_that_a_remote_node_sends_fails(payload: bytes, path: str) -> None:
    for value in (parse_payload(payload), parse_payload(b"[" + payload + b"]")):
        assert isinstance(format_field(find_field(value, path)), str)
