"""Identities: signatures and digests are bound to their domain, and the secret is never shown."""

from __future__ import annotations

import pickle
from hashlib import blake2b

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grapevine_proto.crypto.identity import (
    KEY_BYTES,
    LARGE_PART_BYTES,
    MAC_BYTES,
    SEED_BYTES,
    SIGNATURE_BYTES,
    Identity,
    digest,
    verify,
)

SEED = bytes(range(32))


def test_a_signature_is_valid_for_exactly_what_was_signed() -> None:
    identity = Identity(SEED)
    signature = identity.sign(b"rumor", b"one", 2)
    assert verify(identity.peer_id, signature, b"rumor", b"one", 2)
    assert not verify(identity.peer_id, signature, b"record", b"one", 2)
    assert not verify(identity.peer_id, signature, b"rumor", b"one", 3)
    assert not verify(Identity(bytes(32)).peer_id, signature, b"rumor", b"one", 2)


@given(st.binary(max_size=130))
def test_verify_never_raises(signature: bytes) -> None:
    assert not verify(Identity(SEED).peer_id, signature, b"rumor", b"")


def test_the_same_seed_gives_the_same_identity() -> None:
    assert Identity(SEED).peer_id == Identity(SEED).peer_id
    assert Identity(SEED).seed == SEED


@given(st.lists(st.binary(max_size=4), max_size=4), st.lists(st.binary(max_size=4), max_size=4))
def test_different_lists_of_parts_have_different_digests(
    one: list[bytes], two: list[bytes]
) -> None:
    assert (digest(b"d", *one) == digest(b"d", *two)) is (one == two)


def test_large_and_small_parts_hash_by_the_same_definition() -> None:
    """Compares with the definition, computed in one piece."""
    for size in (LARGE_PART_BYTES, LARGE_PART_BYTES + 1, 3 * LARGE_PART_BYTES):
        parts = b"small", bytes(range(256)) * (size // 256) + bytes(size % 256), b"after"
        whole = b"".join(len(each).to_bytes(8, "big") + each for each in (b"d", *parts))
        assert digest(b"d", *parts) == blake2b(whole, digest_size=32).digest()


def test_a_secret_is_never_printed_or_pickled() -> None:
    identity = Identity(SEED)
    for shown in (repr(identity), str(identity), f"{identity}", repr([identity])):
        assert SEED.hex()[:16] not in shown
    with pytest.raises(TypeError, match="pickle"):
        pickle.dumps(identity)


def test_an_integer_is_hashed_as_eight_bytes() -> None:
    assert digest(b"d", 258) == digest(b"d", bytes.fromhex("0000000000000102"))
    assert digest(b"d", "ö") == digest(b"d", "ö".encode())


def test_keys_and_signatures_have_the_sizes_of_their_algorithms() -> None:
    assert (SEED_BYTES, KEY_BYTES, SIGNATURE_BYTES, MAC_BYTES) == (32, 32, 64, 16)
    assert len(Identity(SEED).sign(b"d", b"x")) == 64
    assert len(digest(b"d", b"x")) == 32
    assert len(digest(b"d", b"x", size=16)) == 16


@pytest.mark.parametrize("size", [0, 63, 65])
def test_a_signature_of_another_size_is_none(size: int) -> None:
    signature = Identity(SEED).sign(b"d", b"x") + b"."
    assert not verify(Identity(SEED).peer_id, signature[:size], b"d", b"x")
    assert verify(Identity(SEED).peer_id, signature[:64], b"d", b"x")
