"""Handshake cryptography: MACs, keys and transcripts are bound to everything they should be."""

from __future__ import annotations

from itertools import combinations

from grapevine_proto.crypto.identity import MAC_BYTES
from grapevine_proto.transport.handshake.handshake_crypto import (
    data_keys,
    has_mac,
    transcript,
    with_mac,
)
from grapevine_proto.wire.codec import CHALLENGE, HELLO, PROOF, WELCOME
from tests.proto.transport.ends import CLUSTER, KEY, OTHER_KEY


def test_each_direction_has_its_own_key_derived_from_everything() -> None:
    pairs = [
        data_keys(key, shared, messages)
        for key in (KEY, OTHER_KEY)
        for shared in (b"a" * 32, b"b" * 32)
        for messages in (b"c" * 32, b"d" * 32)
    ]
    keys = [key for pair in pairs for key in pair]

    assert len(set(keys)) == 16
    assert all(len(key) == 32 for key in keys)


def test_the_direction_in_a_data_key_is_0_to_the_responder_and_1_to_the_initiator() -> None:
    shared, messages = b"s" * 32, b"t" * 32
    assert data_keys(KEY, shared, messages) == (
        KEY.derive(b"grapevine data key 1", shared, messages, 0),
        KEY.derive(b"grapevine data key 1", shared, messages, 1),
    )


def test_a_mac_is_bound_to_key_cluster_context_type_and_body() -> None:
    bodies = [bytes([kind]) + b"body" for kind in (HELLO, CHALLENGE, PROOF, WELCOME)]
    made = [
        with_mac(key, cluster, body, context)
        for key in (KEY, OTHER_KEY)
        for cluster in (CLUSTER, "orchard")
        for body in bodies
        for context in (b"", b"context")
    ]

    assert len({datagram[-MAC_BYTES:] for datagram in made}) == len(made)
    assert sum(has_mac(KEY, CLUSTER, datagram) for datagram in made) == len(bodies)


def test_transcripts_are_unambiguous_about_message_boundaries() -> None:
    messages = [(b"ab", b"c"), (b"a", b"bc"), (b"abc",), (b"abc", b""), (b"", b"abc")]

    assert all(transcript(*one) != transcript(*other) for one, other in combinations(messages, 2))
