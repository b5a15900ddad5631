"""Bounded msgpack: arrays of plain values, and nothing that costs more than its bytes."""

from __future__ import annotations

import msgpack
import pytest

from grapevine_proto.wire.bounded_msgpack import UNPACK_ERRORS, unpack


@pytest.mark.parametrize(
    "fields", [(), (1, -1, 2**64 - 1), (1.5, True, None), (b"", b"bytes"), (((),), (b"a", (1,)))]
)
def test_an_array_is_a_tuple_of_plain_values(fields: tuple[object, ...]) -> None:
    assert unpack(msgpack.packb(fields)) == fields


@pytest.mark.parametrize(
    "data",
    [
        "",
        "01",  # no array
        "c40161",
        "9101ff",  # something follows
        "92c0",  # something is missing
        "91a161",  # text
        "918100c0",  # a map
        "9181a0c0",
        "91d40500",  # an extension
        "91c7000500",
        "91d6ff00000000",  # a timestamp
        "ddffffffff",  # more elements or bytes than there are
        "91dd00000004c0",
        "91c6ffffffff",
        "91c1",  # never used
    ],
)
def test_anything_else_is_rejected(data: str) -> None:
    with pytest.raises(UNPACK_ERRORS):
        unpack(bytes.fromhex(data))


def test_deep_nesting_is_rejected() -> None:
    with pytest.raises(UNPACK_ERRORS):
        unpack(b"\x91" * 100_000 + b"\x90")


def test_empty_text_is_no_bytes() -> None:
    assert unpack(b"\x91\xa0") == (b"",)
