"""A member that lies: a real engine with real sessions, made to say what no honest one would.

What must stay true: all it has is what any member has, the cluster key, its own identity and its links.
It joins, and goes on, like everybody else; lies are sealed on its sessions as its own words.
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


class Liar:
    """Node `number` of a simulation, turned."""

    def __init__(self, sim: Simulation, number: int) -> None:
        self._sim = sim
        self._node = sim.nodes[number]
        self.number = number
        self.told = 0

    @property
    def engine(self) -> Engine:
        assert self._node.engine is not None
        return self._node.engine

    @property
    def links(self) -> tuple[PeerId, ...]:
        return tuple(self.engine._transport.links)

    def say(self, message: OverlayMessage | Close, *to: PeerId) -> None:
        """Say anything at all to some linked peers, or to all."""
        now = self._node.read_clock(self._sim.now)
        plaintext = codec.encode_message(message)
        for peer_id in to or self.links:
            link = self.engine._transport.links.get(peer_id)
            if link is not None:
                self.engine._transport.links.enqueue(link, plaintext, now)
                self.told += 1
        self._sim._drive(self._node)

    # --- lies -----------------------------------------------------------------------------------

    def accuse(self, *victims: PeerRecord, friends: int = 0) -> None:
        """They do not answer, says it, and so say friends it has made up, each with a key of its own."""
        cluster = self.engine.config.cluster
        accusers = [self.engine._identity, *(identity(9000 + each) for each in range(friends))]
        for victim in victims:
            told = tuple(Accusation.signed(each, cluster, victim) for each in accusers)
            self.say(MemberUpdates((MemberUpdate(victim, told[:3]),)))

    def accuse_as(self, accuser: PeerId, victim: PeerRecord) -> None:
        """Somebody else said so, says it, and cannot sign for it."""
        self.say(MemberUpdates((MemberUpdate(victim, (Accusation(accuser, bytes(64)),)),)))

    def forge_record(self, victim: PeerRecord, *, left: bool = True) -> None:
        """A later record of somebody, who leaves in it; not signed by its subject."""
        forged = replace(victim, incarnation=victim.incarnation + 5, left=left)
        self.say(Records((forged,)))

    def forge_copy(self, origin: PeerId, epoch: int, first: int, payload: bytes) -> None:
        """Somebody else's next message, before it is said."""
        signature = bytes(64)
        forged = Rumor(origin, epoch, first, (len(payload),), payload, signature)
        self.say(Rumors((RumorCopy(forged, 1, 0),)))

    def claim_marks(self, stream: Stream, high: int) -> None:
        """It has seen far more of somebody than there is; and, as every peer, a digest of that."""
        entry = StreamRange(stream, 1, high)
        self.say(Vector(1, False, 0, 1, (entry,)))
        self.say(Digest(1, 5, bytes(range(16))))
        self.say(Heartbeat(1 << 31, 0, 0, 0, 7, bytes(range(16)), ()))

    def promise(self, stream: Stream, first: int, last: int) -> None:
        """It has what it has not."""
        self.say(IHave((StreamRange(stream, first, last),)))

    def refuse(self) -> None:
        """Empty answers to what nobody asked."""
        self.say(Repair(2**32 - 1, True, True, ()))

    def vouch(self, numbers: range) -> None:
        """Whoever it is, it is alive."""
        for number in numbers:
            self.say(PingAck(number, True))
