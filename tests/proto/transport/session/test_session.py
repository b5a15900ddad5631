"""Session: sealing, opening, replay protection and expiry."""

from __future__ import annotations

import pytest
from nacl.secret import SecretBox

from grapevine_proto.errors import Dropped, DropReason
from grapevine_proto.transport.session.session import (
    REJECT_AFTER_S,
    REKEY_AFTER_PACKETS,
    REKEY_AFTER_S,
    Session,
)
from grapevine_proto.wire.codec import (
    BASE_DATAGRAM_BYTES,
    BASE_PLAINTEXT_BYTES,
    DATA_OVERHEAD_BYTES,
    MAX_PACKETS_PER_SESSION,
    Data,
    decode_packet,
)
from tests.proto.transport.ends import KEY

KEY_A, KEY_B = b"A" * 32, b"B" * 32
ID_A, ID_B = b"aaaaaaaa", b"bbbbbbbb"


def two_ends(now: float = 0.0) -> tuple[Session, Session]:
    """The session of the end that began, and of the other."""
    ada = Session(ID_A, ID_B, KEY, True, KEY_A, KEY_B, now)
    bob = Session(ID_B, ID_A, KEY, False, KEY_B, KEY_A, now)
    return ada, bob


def packet(datagram: bytes) -> Data:
    decoded = decode_packet(datagram)
    assert isinstance(decoded, Data)
    return decoded


def refusal(session: Session, data: Data, now: float = 0.0) -> DropReason:
    with pytest.raises(Dropped) as refused:
        session.open(data, now)
    return refused.value.reason


def test_each_end_opens_what_the_other_sealed() -> None:
    ada, bob = two_ends()

    assert bob.open(packet(ada.seal(b"to bob", 1.0)), 2.0) == b"to bob"
    assert ada.open(packet(bob.seal(b"to ada", 3.0)), 4.0) == b"to ada"
    assert (bob.last_opened_at, ada.last_opened_at) == (2.0, 4.0)


def test_the_largest_plaintext_fills_a_datagram() -> None:
    ada, bob = two_ends()
    datagram = ada.seal(bytes(BASE_PLAINTEXT_BYTES), 0.0)

    assert len(datagram) == BASE_DATAGRAM_BYTES == BASE_PLAINTEXT_BYTES + DATA_OVERHEAD_BYTES
    assert bob.open(packet(datagram), 0.0) == bytes(BASE_PLAINTEXT_BYTES)


def test_packets_open_in_any_order_and_only_once() -> None:
    ada, bob = two_ends()
    packets = [packet(ada.seal(bytes([number]), 0.0)) for number in range(10)]

    for each in reversed(packets):
        bob.open(each, 0.0)
    assert {refusal(bob, each) for each in packets} == {DropReason.REPLAY}


def test_a_packet_sent_back_to_its_sender_does_not_open() -> None:
    ada, _ = two_ends()
    data = packet(ada.seal(b"hello", 0.0))

    assert refusal(ada, data) is DropReason.DECRYPT_FAILED
    assert refusal(ada, data._replace(session_id=ID_A)) is DropReason.DECRYPT_FAILED


def test_the_direction_is_authenticated_even_under_one_key() -> None:
    ada = Session(ID_A, ID_A, KEY, True, KEY_A, KEY_A, 0.0)

    assert refusal(ada, packet(ada.seal(b"hello", 0.0))) is DropReason.DECRYPT_FAILED


def test_every_flipped_bit_is_dropped_and_changes_nothing() -> None:
    ada, bob = two_ends()
    datagram = ada.seal(b"hello", 0.0)
    for bit in range(8, 8 * len(datagram)):
        flipped = bytearray(datagram)
        flipped[bit // 8] ^= 1 << bit % 8
        changed = packet(bytes(flipped))
        # the ID selects the session, and the nonce contains the right one
        if changed.session_id == ID_B:
            assert refusal(bob, changed, 9.0) in (
                DropReason.DECRYPT_FAILED,
                DropReason.SESSION_EXPIRED,
            )

    assert bob.last_opened_at == 0.0
    assert bob.open(packet(datagram), 9.0) == b"hello"


def test_truncated_and_lengthened_boxes_do_not_open() -> None:
    ada, bob = two_ends()
    data = packet(ada.seal(b"hello", 0.0))

    for box in [data.box[:size] for size in range(len(data.box))] + [data.box + b"\0"]:
        assert refusal(bob, data._replace(box=box)) is DropReason.DECRYPT_FAILED
    assert bob.open(data, 0.0) == b"hello"


def test_a_forged_counter_far_ahead_does_not_move_the_window() -> None:
    ada, bob = two_ends()
    data = packet(ada.seal(b"hello", 0.0))

    assert refusal(bob, data._replace(counter=1 << 31)) is DropReason.DECRYPT_FAILED
    assert bob.open(data, 0.0) == b"hello"


def test_a_session_expires_by_age_for_sealing_and_opening() -> None:
    ada, bob = two_ends(now=100.0)
    late = packet(ada.seal(b"late", 100.0))
    ends_at = 100.0 + REJECT_AFTER_S

    last = packet(ada.seal(b"last", ends_at - 0.001))
    assert bob.open(last, ends_at - 0.001) == b"last"
    assert not ada.is_expired(ends_at - 0.001)
    assert ada.is_expired(ends_at)
    with pytest.raises(Dropped) as refused:
        ada.seal(b"", ends_at)
    assert refused.value.reason is DropReason.SESSION_EXPIRED
    assert refusal(bob, late, ends_at) is DropReason.SESSION_EXPIRED


def test_a_session_expires_by_packet_count_before_the_counter_wraps() -> None:
    ada, bob = two_ends()
    ada._next_counter = first = MAX_PACKETS_PER_SESSION - 3
    packets = [packet(ada.seal(b"x", 0.0)) for _ in range(3)]

    assert [data.counter for data in packets] == [first, first + 1, first + 2]
    assert ada.is_expired(0.0)
    with pytest.raises(Dropped):
        ada.seal(b"", 0.0)
    assert (
        refusal(bob, packets[0]._replace(counter=MAX_PACKETS_PER_SESSION))
        is DropReason.SESSION_EXPIRED
    )


def test_the_initiator_rekeys_by_age_and_either_end_by_packet_count() -> None:
    ada, bob = two_ends()

    assert not ada.is_due_for_rekey(REKEY_AFTER_S - 0.001)
    assert ada.is_due_for_rekey(REKEY_AFTER_S)
    assert not bob.is_due_for_rekey(REKEY_AFTER_S)
    ada._next_counter = REKEY_AFTER_PACKETS - 1
    assert not ada.is_due_for_rekey(0.0)
    ada.seal(b"", 0.0)
    assert ada.is_due_for_rekey(0.0)


def test_a_session_prints_no_key() -> None:
    for session in two_ends():
        text = f"{session!r} {session}"
        for secret in (KEY_A, KEY_B):
            assert repr(secret)[2:-1] not in text
            assert secret.hex() not in text


def test_the_last_packet_number_is_sealed_and_opened_and_the_next_is_not() -> None:
    ada, bob = two_ends()
    ada._next_counter = MAX_PACKETS_PER_SESSION - 1
    assert not ada.is_expired(0.0)
    last = packet(ada.seal(b"last", 0.0))

    assert last.counter == MAX_PACKETS_PER_SESSION - 1
    assert bob.open(last, 0.0) == b"last"
    assert ada.is_expired(0.0)
    with pytest.raises(Dropped):
        ada.seal(b"one more", 0.0)
    assert refusal(bob, last._replace(counter=last.counter + 1)) is DropReason.SESSION_EXPIRED


def test_only_packet_numbers_of_the_session_can_be_claimed() -> None:
    _, bob = two_ends()

    assert bob.claim(MAX_PACKETS_PER_SESSION - 1, 0.0)
    assert not bob.claim(MAX_PACKETS_PER_SESSION, 0.0)
    assert not bob.claim(MAX_PACKETS_PER_SESSION + 1, 0.0)


def test_a_claimed_packet_is_a_replay_and_an_opened_one_cannot_be_claimed() -> None:
    ada, bob = two_ends()
    first, second = (packet(ada.seal(b"content", 0.0)) for _ in range(2))

    assert bob.claim(first.counter, 0.0)
    assert not bob.claim(first.counter, 0.0)
    assert refusal(bob, first) is DropReason.REPLAY
    bob.open(second, 0.0)
    assert not bob.claim(second.counter, 0.0)


@pytest.mark.parametrize("size_bytes", [8191 - 16, 8192 - 16, 8193 - 16, 20_000])
def test_small_and_large_boxes_open_alike(size_bytes: int) -> None:
    ada, bob = two_ends()
    data = packet(ada.seal(bytes(size_bytes), 0.0))

    assert refusal(bob, data._replace(box=data.box[:-1])) is DropReason.DECRYPT_FAILED
    assert bob.open(data, 0.0) == bytes(size_bytes)


def test_a_rekey_by_packets_is_due_at_either_end_with_16_million_packets_to_spare() -> None:
    for session in two_ends():
        session._next_counter = REKEY_AFTER_PACKETS - 1
        assert not session.is_due_for_rekey(0.0)
        session._next_counter += 1
        assert session.is_due_for_rekey(0.0)
    assert (MAX_PACKETS_PER_SESSION, REKEY_AFTER_PACKETS) == (2**32 - 1, 2**32 - 1 - 2**24)


def test_a_rekey_begins_a_minute_before_the_session_expires_as_in_wireguard() -> None:
    assert (REKEY_AFTER_S, REJECT_AFTER_S) == (120.0, 180.0)


def test_a_session_counts_what_it_sealed_and_knows_its_age() -> None:
    ada, bob = two_ends(now=7.0)

    assert (ada.next_counter, ada.created_at, ada.last_opened_at) == (0, 7.0, 7.0)
    ada.seal(b"", 7.0)
    assert (ada.next_counter, bob.next_counter) == (1, 0)
    assert repr(ada).startswith(f"Session({ID_A.hex()}, initiator")
    assert repr(bob).startswith(f"Session({ID_B.hex()}, responder")


def test_opening_a_packet_makes_an_ack_possible_and_moves_the_replay_window() -> None:
    ada, bob = two_ends()
    data = packet(ada.seal(b"content", 0.0))
    bob.open(data, 3.0)

    assert not bob.ack_tracker.claim(data.counter, 3.0)
    assert refusal(bob, data) is DropReason.REPLAY


def test_the_nonce_is_the_header_of_the_packet_and_six_zeros() -> None:
    for session, their_id, key, direction in zip(
        two_ends(), (ID_B, ID_A), (KEY_A, KEY_B), (0, 1), strict=True
    ):
        session._next_counter = 258
        data = packet(session.seal(b"content", 0.0))
        nonce = bytes([5, direction]) + their_id + bytes([0, 0, 0, 0, 0, 0, 1, 2]) + bytes(6)
        assert SecretBox(key).decrypt(data.box, nonce) == b"content"


def test_a_session_is_due_and_expires_by_its_own_age() -> None:
    ada, _ = two_ends(now=1000.0)

    assert not ada.is_due_for_rekey(1000.0 + REKEY_AFTER_S - 0.001)
    assert ada.is_due_for_rekey(1000.0 + REKEY_AFTER_S)
    assert not ada.is_expired(1000.0 + REJECT_AFTER_S - 0.001)
    assert ada.is_expired(1000.0 + REJECT_AFTER_S)
