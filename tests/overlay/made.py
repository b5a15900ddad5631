"""Identities, keys and rumors that every run makes alike."""

from __future__ import annotations

import random

from grapevine_proto.config import NodeConfig
from grapevine_proto.identity import ClusterKey, Identity
from grapevine_proto.ids import Address, PeerId
from grapevine_proto.messages import Record, Rumor, RumorCopy

KEY = ClusterKey(bytes(range(32)))
EPOCH = 1_700_000_000


def identity(number: int) -> Identity:
    return Identity(random.Random(f"identity {number}").randbytes(32))


def config(**changes: object) -> NodeConfig:
    return NodeConfig(keys=(KEY,)).replace(**changes)


def record(
    number: int, *, epoch: int = EPOCH, incarnation: int = 0, left: bool = False, zone: str = ""
) -> Record:
    who = identity(number)
    bare = Record(
        who.peer_id,
        epoch,
        incarnation,
        (Address(f"10.0.{number >> 8}.{number & 255}", 8000),),
        zone,
        f"node {number}",
        90,
        45,
        left,
    )
    return bare.signed(who, "default")


def rumor(
    number: int, first: int, *payloads: bytes, epoch: int = EPOCH, cluster: str = "default"
) -> Rumor:
    return Rumor.signed(identity(number), cluster, epoch, first, payloads or (b"payload",))


def copy(number: int, first: int, *, hops: int = 1, age_ms: int = 0, size: int = 7) -> RumorCopy:
    """An unsigned copy, for parts that take rumors as proved."""
    body = bytes(size)
    unsigned = Rumor(identity(number).peer_id, EPOCH, first, (size,), body, bytes(64))
    return RumorCopy(unsigned, hops, age_ms)


def peer_id(number: int) -> PeerId:
    return identity(number).peer_id
