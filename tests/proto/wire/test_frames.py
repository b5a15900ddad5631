"""Frames of links at their limits: fragments within their message, ranges in order."""

from __future__ import annotations

import pytest

from grapevine_proto.errors import Dropped, DropReason
from grapevine_proto.wire.frames import decode_frame, encode_frame
from grapevine_proto.wire.messages import (
    Ack,
    Fragment,
    LinkFrame,
    MtuProbe,
    PathChallenge,
    PathResponse,
    PiggybackedAck,
    Retransmit,
)

SESSION = b"session!"


def is_valid(frame: LinkFrame) -> bool:
    """Whether the encoded frame is decoded to the same one; otherwise it is malformed."""
    try:
        decoded = decode_frame(encode_frame(frame))
    except Dropped as dropped:
        return dropped.reason is not DropReason.MALFORMED
    return decoded == frame


@pytest.mark.parametrize(
    ("total_bytes", "offset", "body", "valid"),
    [
        (3, 0, b"abc", True),
        (3, 1, b"abc", False),
        (9, 6, b"abc", True),
        (9, 7, b"abc", False),
        (2**32 - 1, 2**32 - 2, b"a", True),
        (9, 0, b"", False),
    ],
)
def test_a_fragment_has_bytes_and_ends_within_its_message(
    total_bytes: int, offset: int, body: bytes, valid: bool
) -> None:
    for is_repair in (False, True):
        assert is_valid(Fragment(1, total_bytes, offset, body, is_repair)) is valid


@pytest.mark.parametrize(
    ("missing", "valid"),
    [
        ((), True),
        (((3, 3),), True),
        (((2, 2),), False),
        (((3, 18), (19, 19)), True),
        (((19, 20),), False),
        (((5, 4),), False),
        (((5, 6), (6, 7)), False),
        (((7, 7), (5, 5)), False),
        (tuple((3 + 2 * n, 3 + 2 * n) for n in range(8)), True),
    ],
)
def test_missing_ranges_ascend_within_what_is_acknowledged(
    missing: tuple[tuple[int, int], ...], valid: bool
) -> None:
    assert is_valid(Ack(SESSION, 3, 20, 19, 1500, missing)) is valid


@pytest.mark.parametrize(("count", "valid"), [(64, True), (65, False)])
def test_an_ack_names_64_missing_ranges(count: int, valid: bool) -> None:
    missing = tuple((2 * n, 2 * n) for n in range(count))
    assert is_valid(Ack(SESSION, 0, 1000, 999, 0, missing)) is valid


def test_an_ack_of_another_length_is_malformed() -> None:
    encoded = encode_frame(Ack(SESSION, 3, 20, 19, 1500, ((5, 5),)))
    for plaintext in (encoded[:-1], encoded + b"x"):
        with pytest.raises(Dropped, match="malformed"):
            decode_frame(plaintext)


def test_a_delay_beyond_what_the_wire_carries_is_encoded_as_the_greatest() -> None:
    decoded = decode_frame(encode_frame(Ack(SESSION, 0, 1, 0, 2**32, ())))
    assert isinstance(decoded, Ack)
    assert decoded.delay_us == 2**32 - 1


@pytest.mark.parametrize(
    ("frame", "valid"),
    [
        (Retransmit(SESSION, 7, b"x"), True),
        (Retransmit(SESSION, 7, b""), False),
        (PathChallenge(bytes(8)), True),
        (PathChallenge(bytes(7)), False),
        (PathResponse(bytes(9)), False),
        (MtuProbe(0), True),
        (MtuProbe(64_000), True),
    ],
)
def test_other_frames_have_their_lengths(frame: LinkFrame, valid: bool) -> None:
    assert is_valid(frame) is valid


@pytest.mark.parametrize("plaintext", [b"", b"\x00", b"\xff"])
def test_what_is_no_frame_is_of_an_unknown_kind(plaintext: bytes) -> None:
    with pytest.raises(Dropped) as dropped:
        decode_frame(plaintext)
    assert dropped.value.reason is DropReason.UNKNOWN_KIND


def test_an_ack_shares_a_packet_with_any_message_but_another_of_its_kind() -> None:
    ack = Ack(SESSION, 3, 20, 19, 1500, ((5, 5), (7, 9)))
    for message in (b"\x00", encode_frame(ack), encode_frame(Retransmit(SESSION, 7, b"\x04"))):
        assert is_valid(PiggybackedAck(ack, message))
    for message in (b"", encode_frame(PiggybackedAck(ack, b"\x00"))):
        assert not is_valid(PiggybackedAck(ack, message))


def test_an_ack_that_shares_a_packet_has_all_its_ranges() -> None:
    ack = Ack(SESSION, 3, 20, 19, 1500, ((5, 5), (7, 9)))
    encoded = encode_frame(PiggybackedAck(ack, b""))
    for stop in range(1, len(encoded) + 1):
        with pytest.raises(Dropped, match="malformed"):
            decode_frame(encoded[:stop])
