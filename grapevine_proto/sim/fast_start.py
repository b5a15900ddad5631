"""Shortcuts for large simulations: memoized verification, and links without handshakes.

Invariants:

- `memoized` changes no run: it caches pure functions that many nodes of one process call with the same
  bytes, so every datagram and every event is the same without it.
- `establish_link` omits the four messages of a handshake and nothing else: both ends adopt a session with
  keys from the seed like any new session.
- Neither is used unless the caller requests it.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Final

from grapevine_proto.crypto.cluster_key import ClusterKey
from grapevine_proto.crypto.identity import KEY_BYTES
from grapevine_proto.sim.node import SimulatedNode
from grapevine_proto.transport.handshake import handshake_crypto
from grapevine_proto.transport.session.session import EstablishedSession, Session
from grapevine_proto.wire import codec, fields, signed
from grapevine_proto.wire.codec import encode_message
from grapevine_proto.wire.messages import Confirm

CACHE_SIZE: Final = 1 << 17  # per function: records and messages of 10,000 nodes
SESSION_ID_BYTES: Final = 8

# (owner, name) of each function. Each is pure and returns an immutable value.
_MEMOIZED_FUNCTIONS: Final[tuple[tuple[Any, str], ...]] = (
    (signed, "verify"),
    (handshake_crypto, "verify"),
    (signed.PeerRecord, "is_authentic"),
    (fields, "decode_record_bytes"),
)


@contextmanager
def memoized() -> Iterator[None]:
    """Context in which signature verification and record decoding are cached for the whole process and the
    garbage collector is paused. Runs are the same with and without it."""
    originals = [getattr(owner, name) for owner, name in _MEMOIZED_FUNCTIONS]
    was_gc_enabled = gc.isenabled()
    gc.disable()
    try:
        for (owner, name), function in zip(_MEMOIZED_FUNCTIONS, originals, strict=True):
            setattr(owner, name, lru_cache(maxsize=CACHE_SIZE)(function))
        yield
    finally:
        for (owner, name), function in zip(_MEMOIZED_FUNCTIONS, originals, strict=True):
            setattr(owner, name, function)
        if was_gc_enabled:
            gc.enable()


def regular_overlay(nodes: int, degree: int, rng: random.Random) -> list[list[int]]:
    """Returns the neighbors of each node in a random connected overlay (a ring plus random rings) in which
    no node has more than `degree` links and nearly all have exactly that many."""
    neighbors: list[set[int]] = [set() for _ in range(nodes)]
    if nodes <= degree + 1:
        return [[other for other in range(nodes) if other != each] for each in range(nodes)]

    def link(first: int, second: int) -> None:
        if first != second and max(len(neighbors[first]), len(neighbors[second])) < degree:
            neighbors[first].add(second)
            neighbors[second].add(first)

    for _ in range(2 * degree):  # each round adds up to two links per node
        order = list(range(nodes))
        rng.shuffle(order)
        if degree == 1:
            order = order[: nodes // 2 * 2]
            for one, other in zip(order[::2], order[1::2], strict=True):
                link(one, other)
            break
        for one, other in zip(order, order[1:] + order[:1], strict=True):
            link(one, other)
    return [sorted(each) for each in neighbors]


def establish_link(
    first: SimulatedNode,
    second: SimulatedNode,
    key: ClusterKey,
    rng: random.Random,
    at: float,
    rtt_s: float,
) -> None:
    """Links two running nodes as a handshake would, at virtual time `at`. Raises ValueError if one is
    down."""
    ends = first, second
    ids = rng.randbytes(SESSION_ID_BYTES), rng.randbytes(SESSION_ID_BYTES)
    keys = rng.randbytes(KEY_BYTES), rng.randbytes(KEY_BYTES)
    clocks = first.read_clock(at), second.read_clock(at)
    sessions = tuple(
        Session(
            ids[index], ids[1 - index], key, index == 0, keys[index], keys[1 - index], clocks[index]
        )
        for index in (0, 1)
    )
    confirms = [
        session.seal(encode_message(Confirm()), now)
        for session, now in zip(sessions, clocks, strict=True)
    ]
    for index, node in enumerate(ends):
        peer, packet = ends[1 - index], codec.decode_packet(confirms[1 - index])
        if node.engine is None or peer.engine is None or not isinstance(packet, codec.Data):
            raise ValueError(f"node {node.number} or {peer.number} is down")
        plaintext = sessions[index].open(packet, clocks[index])
        node.engine.adopt_session(
            EstablishedSession(sessions[index], peer.engine.record, peer.address, rtt_s, plaintext),
            clocks[index],
        )
