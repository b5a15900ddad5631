"""Ways to simulate more nodes in the same time, and what each of them leaves out.

What must stay true:

- `memoized` changes no run: it remembers answers of pure functions, which many nodes of one
  process ask for with the same bytes, so every datagram and every event is the same without it.
- `establish_link` leaves out the four messages of a handshake and nothing else: both ends get a session
  with keys from the seed, sealed and opened as any other, and take it as they take a new one.
- Both are asked for by name; a `Simulation` uses neither on its own.
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

CACHE_SIZE: Final = 1 << 17  # of each function: the records and messages of 10,000 nodes
SESSION_ID_BYTES: Final = 8

# Who looks a function up where. Each depends on its arguments alone and gives something immutable.
_MEMOIZED_FUNCTIONS: Final[tuple[tuple[Any, str], ...]] = (
    (signed, "verify"),
    (handshake_crypto, "verify"),
    (signed.PeerRecord, "is_authentic"),
    (fields, "decode_record_bytes"),
)


@contextmanager
def memoized() -> Iterator[None]:
    """A context in which signature checks and record decoding are memoized for the process, and the
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
    """Whom each node is linked to: a random overlay in which nobody has more than `degree` links,
    nearly all have as many, and everybody can be reached (a ring, and random rings over it)."""
    neighbors: list[set[int]] = [set() for _ in range(nodes)]
    if nodes <= degree + 1:
        return [[other for other in range(nodes) if other != each] for each in range(nodes)]

    def link(first: int, second: int) -> None:
        if first != second and max(len(neighbors[first]), len(neighbors[second])) < degree:
            neighbors[first].add(second)
            neighbors[second].add(first)

    for _ in range(2 * degree):  # each round gives two links where there is room for them
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
    """Link two running nodes as a handshake between them would have."""
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
    hellos = [
        session.seal(encode_message(Confirm()), now)
        for session, now in zip(sessions, clocks, strict=True)
    ]
    for index, node in enumerate(ends):
        peer, packet = ends[1 - index], codec.decode_packet(hellos[1 - index])
        if node.engine is None or peer.engine is None or not isinstance(packet, codec.Data):
            raise ValueError(f"node {node.number} or {peer.number} is down")
        plaintext = sessions[index].open(packet, clocks[index])
        node.engine.adopt_session(
            EstablishedSession(sessions[index], peer.engine.record, peer.address, rtt_s, plaintext),
            clocks[index],
        )
