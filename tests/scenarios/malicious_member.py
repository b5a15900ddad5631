"""A malicious member: a real engine with real sessions that sends what no honest node would.

Invariants:

- It has only what any member has: the cluster key, its own identity and its links. It joins and
  keeps running like any other node; forged messages are sealed on its own sessions.
"""

from __future__ import annotations

from dataclasses import replace

from grapevine_proto.engine import Engine
from grapevine_proto.ids import PeerId, Stream, StreamRange
from grapevine_proto.sim import Simulation
from grapevine_proto.wire import codec
from grapevine_proto.wire.messages import (
    Close,
    Digest,
    Heartbeat,
    IHave,
    MemberUpdate,
    MemberUpdates,
    OverlayMessage,
    PingAck,
    Records,
    Repair,
    RumorCopy,
    Rumors,
    Vector,
)
from grapevine_proto.wire.signed import Accusation, PeerRecord, Rumor
from tests.proto.overlay.builders import identity


class MaliciousMember:
    """Node `number` of a simulation, under the control of an attacker."""

    def __init__(self, sim: Simulation, number: int) -> None:
        self._sim = sim
        self._node = sim.nodes[number]
        self.number = number
        self.sent = 0

    @property
    def engine(self) -> Engine:
        assert self._node.engine is not None
        return self._node.engine

    @property
    def links(self) -> tuple[PeerId, ...]:
        return tuple(self.engine._transport.links)

    def send(self, message: OverlayMessage | Close, *to: PeerId) -> None:
        """Send any message to some linked peers, or to all."""
        now = self._node.read_clock(self._sim.now)
        plaintext = codec.encode_message(message)
        for peer_id in to or self.links:
            link = self.engine._transport.links.get(peer_id)
            if link is not None:
                self.engine._transport.links.enqueue(link, plaintext, now)
                self.sent += 1
        self._sim._drive(self._node)

    # --- attacks --------------------------------------------------------------------------------

    def accuse(self, *victims: PeerRecord, accomplices: int = 0) -> None:
        """Accuse `victims` of not answering, also in the names of `accomplices` freshly made
        identities.
        """
        cluster = self.engine.config.cluster
        accusers = [self.engine._identity, *(identity(9000 + each) for each in range(accomplices))]
        for victim in victims:
            accusations = tuple(Accusation.signed(each, cluster, victim) for each in accusers)
            self.send(MemberUpdates((MemberUpdate(victim, accusations[:3]),)))

    def accuse_as(self, accuser: PeerId, victim: PeerRecord) -> None:
        """Send an accusation in another member's name, without its signature."""
        self.send(MemberUpdates((MemberUpdate(victim, (Accusation(accuser, bytes(64)),)),)))

    def forge_record(self, victim: PeerRecord, *, left: bool = True) -> None:
        """Send a newer record of another member, in which it leaves, without its signature."""
        forged = replace(victim, incarnation=victim.incarnation + 5, left=left)
        self.send(Records((forged,)))

    def forge_copy(self, origin: PeerId, epoch: int, first: int, payload: bytes) -> None:
        """Send the next message of another origin before it exists."""
        signature = bytes(64)
        forged = Rumor(origin, epoch, first, (len(payload),), payload, signature)
        self.send(Rumors((RumorCopy(forged, 1, 0),)))

    def claim_sequences(self, stream: Stream, high: int) -> None:
        """Claim to have seen far more of a stream than exists, in a vector and in a digest."""
        entry = StreamRange(stream, 1, high)
        self.send(Vector(1, False, 0, 1, (entry,)))
        self.send(Digest(1, 5, bytes(range(16))))
        self.send(Heartbeat(1 << 31, 0, 0, 0, 7, bytes(range(16)), ()))

    def announce_missing(self, stream: Stream, first: int, last: int) -> None:
        """Announce messages that it does not have."""
        self.send(IHave((StreamRange(stream, first, last),)))

    def send_empty_repairs(self) -> None:
        """Send empty repairs that nobody requested."""
        self.send(Repair(2**32 - 1, True, True, ()))

    def claim_alive(self, numbers: range) -> None:
        """Answer every ping-req positively."""
        for number in numbers:
            self.send(PingAck(number, True))
