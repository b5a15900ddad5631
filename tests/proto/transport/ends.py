"""Two ends of a link and the network between them, for tests.

Invariants: only `World` advances time, all randomness comes from its seed, and an `End` uses the link
package as the engine does.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from grapevine_proto.config.sections import LimitsConfig
from grapevine_proto.crypto.cluster_key import ClusterKey
from grapevine_proto.crypto.identity import Identity
from grapevine_proto.dial_purpose import LINK, swap
from grapevine_proto.errors import Dropped, DropReason
from grapevine_proto.ids import Address, PeerId
from grapevine_proto.token_bucket import TokenBucket
from grapevine_proto.transport.handshake.initiator import Initiator
from grapevine_proto.transport.handshake.responder import Responder
from grapevine_proto.transport.link.link import Link
from grapevine_proto.transport.session.session import EstablishedSession
from grapevine_proto.transport.session.sessions import supersedes
from grapevine_proto.wire.codec import (
    Challenge,
    Data,
    Hello,
    Proof,
    Welcome,
    decode_packet,
    encode_message,
)
from grapevine_proto.wire.messages import (
    Close,
    CloseReason,
    Confirm,
    DirectMessage,
    Heartbeat,
    Records,
    Repair,
    Rumors,
)
from grapevine_proto.wire.signed import PeerRecord

KEY: Final = ClusterKey(b"k" * 32)
OTHER_KEY: Final = ClusterKey(b"o" * 32)
CLUSTER: Final = "vineyard"
NAMES: Final = {1: "hello", 2: "challenge", 3: "proof", 4: "welcome", 5: "data"}

EMPTY: Final = encode_message(Confirm())
HEARTBEAT: Final = encode_message(Heartbeat(1, 0, 0, 0, 0, bytes(16), ()))
RECORDS: Final = encode_message(Records(()))
RUMORS: Final = encode_message(Rumors(()))
CLOSE: Final = encode_message(Close(CloseReason.LEAVING))
REPAIR: Final = encode_message(Repair(1, True, False, ()))


def direct_message(number: int, size_bytes: int = 1) -> bytes:
    """Returns a direct message that `number` distinguishes."""
    return encode_message(DirectMessage(number, bytes(size_bytes)))


def entropy_of(seed: object) -> Callable[[int], bytes]:
    """Returns a deterministic source of random bytes."""
    counter = 0

    def entropy(size: int) -> bytes:
        nonlocal counter
        counter += 1
        return hashlib.blake2b(f"{seed}/{counter}".encode(), digest_size=size).digest()

    return entropy


def name_of(datagram: bytes) -> str:
    return NAMES[datagram[0]]


@dataclass
class End:
    """A node without an overlay: handles links as the engine does."""

    name: str
    address: Address
    key: ClusterKey = KEY
    cluster: str = CLUSTER
    epoch: int = 1
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    denied: tuple[PeerId, ...] = ()
    rate: tuple[int, int] = (0, 0)
    bucket: TokenBucket | None = None
    life: int = 0
    now: float = 0.0

    def __post_init__(self) -> None:
        self.identity = Identity(hashlib.sha256(self.name.encode()).digest())
        self.rng = random.Random(self.name)
        self.start(self.now)

    def start(self, now: float) -> None:
        """Starts (again) with empty tables and new entropy."""
        self.life += 1
        self.entropy = entropy_of((self.name, self.life))
        self.responder = Responder(
            self.identity,
            (self.key,),
            self.cluster,
            self.limits,
            self.denied,
            entropy=self.entropy,
            now=now,
        )
        self.dials: dict[bytes, Initiator] = {}
        self.links: dict[PeerId, Link] = {}
        self.index: dict[bytes, Link] = {}
        self.established: list[EstablishedSession] = []
        self.opened: list[bytes] = []
        self.drops: list[DropReason] = []

    @property
    def peer_id(self) -> PeerId:
        return self.identity.peer_id

    @property
    def record(self) -> PeerRecord:
        capacity, refill = self.rate
        bare = PeerRecord(
            self.peer_id, self.epoch, 0, (self.address,), "", self.name, capacity, refill, False
        )
        return bare.signed(self.identity, self.cluster)

    @property
    def link(self) -> Link:
        (link,) = self.links.values()
        return link

    def dial(
        self,
        address: Address,
        now: float,
        *,
        expected: PeerId | None = None,
        timeout_s: float = 10.0,
        swap_for: PeerRecord | None = None,
        max_rtt_s: float = math.inf,
    ) -> Initiator:
        dial = Initiator(
            self.identity,
            self.key,
            self.cluster,
            address,
            self.record,
            expected=expected,
            purpose=LINK if swap_for is None else swap(swap_for, max_rtt_s),
            timeout_s=timeout_s,
            entropy=self.entropy,
            rng=self.rng,
            now=now,
        )
        self.dials[dial.session_id] = dial
        return dial

    def receive(self, datagram: bytes, source: Address, now: float) -> list[bytes]:
        """Handles a datagram. Returns the immediate replies; drops are recorded."""
        try:
            return self.receive_or_raise(datagram, source, now)
        except Dropped as refused:
            self.drops.append(refused.reason)
            return []

    def receive_or_raise(self, datagram: bytes, source: Address, now: float) -> list[bytes]:
        packet = decode_packet(datagram)
        match packet:
            case Hello() | Proof():
                return [self.responder.receive(packet, datagram, source, self.record, now)]
            case Challenge() | Welcome():
                dial = self.dials.get(packet.session_id)
                if dial is None:
                    raise Dropped(DropReason.UNKNOWN_SESSION)
                dial.receive(packet, datagram, source, now)
            case Data():
                self._receive_data(packet, source, now)
        return []

    def _receive_data(self, packet: Data, source: Address, now: float) -> None:
        link = self.index.get(packet.session_id)
        if link is not None:
            self._open(link.receive(packet, now))
            return
        dial = self.dials.get(packet.session_id)
        if dial is not None:
            established: EstablishedSession | None = dial.confirm(packet, source, now)
            del self.dials[packet.session_id]
        else:
            established = self.responder.confirm(packet, source, now)
        if established is None:
            raise Dropped(DropReason.UNKNOWN_SESSION)
        self._establish(established, now)

    def _establish(self, established: EstablishedSession, now: float) -> None:
        self.established.append(established)
        peer_id = established.record.peer_id
        link = self.links.get(peer_id)
        if link is None:
            link = self.links[peer_id] = Link(established, self.bucket, self.limits, now)
        elif supersedes(established, link.session, link.epoch, self.peer_id, now):
            link.replace_session(established, now)
        else:
            link.add_receive_session(established, now)
        self._index()
        session = established.session
        counter = session.ack_tracker.highest
        self._open(link.handle_payload(established.plaintext, session, counter, now))

    def _open(self, plaintext: bytes | None) -> None:
        if plaintext is not None:
            self.opened.append(plaintext)

    def _index(self) -> None:
        self.index = {
            session_id: link for link in self.links.values() for session_id in link.session_ids()
        }

    def advance(self, now: float) -> None:
        self.responder.advance(now)
        for session_id, dial in list(self.dials.items()):
            if dial.is_expired(now):
                del self.dials[session_id]
        for link in self.links.values():
            link.advance(now)
        for peer_id, link in list(self.links.items()):
            if link.is_expired(now):
                del self.links[peer_id]
        self._index()

    def transmit(self, now: float) -> list[tuple[bytes, Address]]:
        out = [(each, dial.address) for dial in self.dials.values() for each in dial.transmit(now)]
        return out + [
            (each, link.address) for link in self.links.values() for each in link.transmit(now)
        ]

    @property
    def deadline(self) -> float:
        parts: list[Initiator | Link] = [*self.dials.values(), *self.links.values()]
        return min([self.responder.deadline, *(part.deadline for part in parts)])


def snapshot(end: End) -> tuple[object, ...]:
    """Returns everything that a datagram could change at an end, except its drop counts."""
    dials = [(dial.state, dial.deadline, dial.peer_id) for dial in end.dials.values()]
    links = [
        (
            link.session_ids(),
            link.session.last_opened_at,
            link.address,
            link.received,
            link.inbound_limit.allowed,
            link.last_heard_at,
            link.queued,
            link.deadline,
        )
        for link in end.links.values()
    ]
    return (end.responder.pending, end.responder.deadline, dials, links, list(end.opened))


Drop = Callable[[bytes, End, End], bool]


def lose_nothing(datagram: bytes, sender: End, receiver: End) -> bool:
    return False


class World:
    """Several ends, the datagrams between them, and the time. `log` holds every datagram sent."""

    def __init__(self, *ends: End, latency_s: float = 0.01) -> None:
        self.ends = {end.address: end for end in ends}
        self.latency_s = latency_s
        self.now = 0.0
        self.drop: Drop = lose_nothing
        self.log: list[tuple[bytes, Address, Address]] = []
        self._flying: list[tuple[float, int, bytes, Address, Address]] = []
        self._number = 0

    def run(self, seconds: float, *, until: Callable[[], bool] = lambda: False) -> float:
        """Advances time until `until` holds, at most `seconds`. Returns the elapsed seconds."""
        began_at = self.now
        ends_at = began_at + seconds
        while not until():
            self._transmit()
            next_at = min(
                min((end.deadline for end in self.ends.values()), default=math.inf),
                min((flight[0] for flight in self._flying), default=math.inf),
            )
            if next_at > ends_at:
                self.now = ends_at
                break
            self.now = max(self.now, next_at)
            self._deliver()
            for end in self.ends.values():
                end.advance(self.now)
        return self.now - began_at

    def throw(self, datagram: bytes, source: Address, to: Address) -> list[bytes]:
        """Delivers a datagram to `to` now, with source address `source`. Returns the replies."""
        return self.ends[to].receive(datagram, source, self.now)

    def refusal(self, datagram: bytes, source: Address, to: Address) -> DropReason:
        """Returns why `to` drops a datagram. Fails if it does not, or if that changed anything."""
        end = self.ends[to]
        before = snapshot(end)
        try:
            end.receive_or_raise(datagram, source, self.now)
        except Dropped as refused:
            assert snapshot(end) == before
            return refused.reason
        raise AssertionError("the datagram was not dropped")

    def hold(self, name: str) -> tuple[bytes, Address, Address]:
        """Runs until a datagram of this kind is sent and holds it back. Returns (it, source, destination)."""
        drop, self.drop = self.drop, lambda datagram, *_: name_of(datagram) == name
        count = len(self.of(name))
        self.run(10.0, until=lambda: len(self.of(name)) > count)
        self.drop = drop
        return self.of(name)[-1]

    def of(self, name: str) -> list[tuple[bytes, Address, Address]]:
        """Returns all datagrams of one kind ("hello") sent so far, with source and destination."""
        return [entry for entry in self.log if name_of(entry[0]) == name]

    def _transmit(self) -> None:
        for end in self.ends.values():
            for datagram, to in end.transmit(self.now):
                self._send(datagram, end.address, to)

    def _send(self, datagram: bytes, source: Address, to: Address) -> None:
        self.log.append((datagram, source, to))
        receiver = self.ends.get(to)
        if receiver is None or self.drop(datagram, self.ends[source], receiver):
            return
        self._number += 1
        self._flying.append((self.now + self.latency_s, self._number, datagram, source, to))

    def _deliver(self) -> None:
        landed = sorted(flight for flight in self._flying if flight[0] <= self.now)
        self._flying = [flight for flight in self._flying if flight[0] > self.now]
        for _, _, datagram, source, to in landed:
            for answer in self.ends[to].receive(datagram, source, self.now):
                self._send(answer, to, source)


def two_ends() -> tuple[World, End, End]:
    """Returns Ada and Bob, not connected, on addresses that are not loopback."""
    ada = End("ada", Address("192.0.2.1", 1000))
    bob = End("bob", Address("192.0.2.2", 2000))
    return World(ada, bob), ada, bob


def linked_ends() -> tuple[World, End, End]:
    """Returns Ada and Bob after Ada dialed Bob."""
    world, ada, bob = two_ends()
    ada.dial(bob.address, world.now)
    world.run(1.0)
    return world, ada, bob
