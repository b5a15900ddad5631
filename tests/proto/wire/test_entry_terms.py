"""Terms of a state entry: what is encoded is decoded, and what makes no sense is not understood."""

from __future__ import annotations

from typing import Any

import pytest

from grapevine_proto.wire.entry_terms import EntryTerms, key_fault

CLOCK, SECONDS, EPOCH, SEQUENCE = 2**62 - 1, 2**32 - 1, 2**48 - 1, 2**53
DIGEST = bytes(range(16))
LARGEST = EntryTerms("k" * 128, CLOCK, SECONDS, True, True, (EPOCH, SEQUENCE), DIGEST)
SMALLEST = EntryTerms("k", 0)
VALUE = (b"key", 7, 60, 0, 1, 2, DIGEST)


@pytest.mark.parametrize(
    "terms",
    [
        LARGEST,
        SMALLEST,
        SMALLEST._replace(is_deleted=True),
        SMALLEST._replace(is_durable=True),
        SMALLEST._replace(key="ö" * 64),
    ],
)
def test_encoded_terms_are_decoded_to_the_same(terms: EntryTerms) -> None:
    assert EntryTerms.from_value(terms.to_value()) == terms


def test_terms_have_documented_fields() -> None:
    assert SMALLEST.to_value() == (b"k", 0, 0, 0, 0, 0, bytes(16))
    assert SMALLEST._replace(is_deleted=True).to_value()[3] == 1
    assert SMALLEST._replace(is_durable=True).to_value()[3] == 2
    assert LARGEST.to_value() == (b"k" * 128, CLOCK, SECONDS, 3, EPOCH, SEQUENCE, DIGEST)


@pytest.mark.parametrize(
    ("index", "value"),
    [
        (0, b""),
        (0, b"k" * 129),
        (0, b"\xff"),
        (0, "key"),
        (1, CLOCK + 1),
        (1, -1),
        (1, True),
        (1, 1.0),
        (2, SECONDS + 1),
        (2, -1),
        (3, 4),
        (3, -1),
        (4, EPOCH + 1),
        (4, -1),
        (5, SEQUENCE + 1),
        (5, -1),
        (6, bytes(15)),
        (6, bytes(17)),
        (6, 7),
    ],
)
def test_a_field_that_makes_no_sense_is_not_understood(index: int, value: Any) -> None:
    assert EntryTerms.from_value(VALUE).key == "key"
    with pytest.raises(ValueError, match=r"not|decode"):
        EntryTerms.from_value((*VALUE[:index], value, *VALUE[index + 1 :]))


@pytest.mark.parametrize("value", [None, (), VALUE[:-1], (*VALUE, 0), list(VALUE)])
def test_what_is_no_terms_is_not_understood(value: Any) -> None:
    with pytest.raises(ValueError, match="not the terms"):
        EntryTerms.from_value(value)


@pytest.mark.parametrize(
    ("key", "fault"),
    [
        ("k", ""),
        ("k" * 128, ""),
        ("ö" * 64, ""),
        ("", "expected 1 to 128 bytes, got 0"),
        ("k" * 129, "expected 1 to 128 bytes, got 129"),
        ("ö" * 65, "expected 1 to 128 bytes, got 130"),
        ("\ud800", "not valid Unicode"),
        (b"k", "expected text, got bytes"),
    ],
)
def test_a_key_is_text_of_1_to_128_bytes(key: object, fault: str) -> None:
    assert key_fault(key) == fault
