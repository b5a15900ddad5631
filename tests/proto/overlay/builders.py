"""Deterministic identities, keys, records and rumors for tests."""

from __future__ import annotations

import random
from collections.abc import Iterable
from functools import lru_cache

from grapevine_proto.config.live import LiveConfig
from grapevine_proto.config.node import NodeConfig
from grapevine_proto.crypto.cluster_key import ClusterKey
from grapevine_proto.crypto.identity import Identity
from grapevine_proto.ids import Address, PeerId
from grapevine_proto.overlay.broadcast.near_peers import NearPeers
from grapevine_proto.overlay.broadcast.strategy import NewRumor
from grapevine_proto.overlay.context import OverlayContext
from grapevine_proto.overlay.effects import Effect, Send
from grapevine_proto.overlay.peers import PeerTrigger
from grapevine_proto.wire.messages import RumorCopy
from grapevine_proto.wire.signed import PeerRecord, Rumor

KEY = ClusterKey(bytes(range(32)))
EPOCH = 1_700_000_000


def identity(number: int) -> Identity:
    return Identity(random.Random(f"identity {number}").randbytes(32))


def config(**changes: object) -> NodeConfig:
    return NodeConfig(keys=(KEY,)).replace(**changes)


def record(
    number: int,
    *,
    epoch: int = EPOCH,
    incarnation: int = 0,
    left: bool = False,
    zone: str = "",
    attributes: bytes = b"",
) -> PeerRecord:
    signer = identity(number)
    bare = PeerRecord(
        signer.peer_id,
        epoch,
        incarnation,
        (Address(f"10.0.{number >> 8}.{number & 255}", 8000),),
        zone,
        f"node {number}",
        90,
        45,
        left,
        attributes=attributes,
    )
    return bare.signed(signer, "default")


def rumor(
    number: int, first: int, *payloads: bytes, epoch: int = EPOCH, cluster: str = "default"
) -> Rumor:
    return Rumor.signed(identity(number), cluster, epoch, first, payloads or (b"payload",))


def copy(number: int, first: int, *, hops: int = 1, age_ms: int = 0, size: int = 7) -> RumorCopy:
    """An unsigned copy, for components that receive verified rumors."""
    body = bytes(size)
    unsigned = Rumor(identity(number).peer_id, EPOCH, first, (size,), body, bytes(64))
    return RumorCopy(unsigned, hops, age_ms)


def context(number: int = 0, /, **changes: object) -> OverlayContext:
    """The context of node `number`, without peers and members."""
    return OverlayContext(LiveConfig(config(**changes)), identity(number), random.Random(1))


class Links:
    """Links, of which those with `in_use` carry broadcasts."""

    def __init__(self, *in_use: int) -> None:
        self.in_use = {peer_id(number) for number in in_use}

    def is_in_use(self, peer: PeerId, now: float) -> bool:
        return peer in self.in_use

    def on_path_changed(self, peer: PeerId, now: float) -> list[Effect]:
        return []


class NodeTables:
    """The tables of node `number`: linked to peers `linked`; those and `members` are known."""

    def __init__(
        self, *linked: int, members: tuple[int, ...] = (), number: int = 0, **changes: object
    ) -> None:
        self.context = context(number, **changes)
        self.peers = self.context.peers
        self.members = self.context.members
        self.rng = self.context.rng
        self.near_peers = NearPeers(self.context)
        for number in members:
            self.members.ensure(record(number), 0.0)
        for number in linked:
            self.link(number)

    def reconfigure(self, **changes: object) -> None:
        """Change settings."""
        self.context.config.replace(self.context.config.current.replace(**changes))

    def link(self, number: int, zone: str = "") -> PeerId:
        peer_record = record(number, zone=zone)
        self.members.ensure(peer_record, 0.0)
        peer = self.peers.add(peer_record.peer_id, peer_record, peer_record.addresses[0], 0.0)
        self.peers.transition(peer, PeerTrigger.LINKED)
        return peer_id(number)

    def measure(self, number: int, rtt_s: float) -> None:
        peer = self.peers.get(peer_id(number))
        assert peer is not None
        peer.update_rtt(rtt_s)

    def hear_heartbeat(self, number: int, heartbeat: int = 1, at: float = -1.0) -> None:
        peer = self.peers.get(peer_id(number))
        assert peer is not None
        peer.on_heartbeat(heartbeat, 0, 0.0, at)

    def unlink(self, number: int) -> PeerId:
        peer = self.peers.get(peer_id(number))
        assert peer is not None
        self.peers.transition(peer, PeerTrigger.LOST)
        return peer.peer_id

    def stop_answering(self, number: int) -> None:
        """Mark a peer as unresponsive: a probe of it failed."""
        peer = self.peers.get(peer_id(number))
        assert peer is not None
        peer.is_unresponsive = True


def new_rumor(
    origin: int = 0, first: int = 1, sender: int | None = None, *, hops: int = 0, size: int = 100
) -> NewRumor:
    """A rumor that is new to node 0."""
    sender_id = None if sender is None else peer_id(sender)
    return NewRumor(
        (peer_id(origin), EPOCH, first), size, hops, sender_id, is_offered=sender is None
    )


def sent_by_peer(effects: Iterable[object]) -> dict[PeerId, list[object]]:
    """The messages in Send effects, by recipient."""
    found: dict[PeerId, list[object]] = {}
    for effect in effects:
        assert isinstance(effect, Send)
        for peer in effect.peers:
            found.setdefault(peer, []).append(effect.message)
    return found


@lru_cache
def peer_id(number: int) -> PeerId:
    return identity(number).peer_id
