"""A member that lies with intent: random mixes of lies against real engines, in virtual time.

The fuzzers of `targets` find bytes that break a promise; this one finds what a member gains by lying well:
processor time, memory, links, or the reach of honest nodes. `play` is one attempt, made by its seed alone;
`python -m tests.fuzz intent --seconds 600` makes as many as there is time for.

What must stay true: the liar has what any member has, the cluster key, its identity and its sessions. The
judge counts and does not measure, so that a seed has one verdict on any machine.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Final

from grapevine_proto.config.sections import AntiEntropyConfig, LimitsConfig
from grapevine_proto.errors import DropReason
from grapevine_proto.ids import PeerId, Stream, StreamRange
from grapevine_proto.wire import codec
from grapevine_proto.wire.messages import (
    Announce,
    Digest,
    DirectMessage,
    Fragment,
    Graft,
    Heartbeat,
    IHave,
    IWant,
    Kind,
    MemberDigest,
    MemberUpdate,
    MemberUpdates,
    Offer,
    PathChallenge,
    Pause,
    Ping,
    PingReq,
    Prune,
    Records,
    Repair,
    RumorCopy,
    Rumors,
    Subscribe,
    Vector,
)
from grapevine_proto.wire.signed import Accusation, Rumor
from tests.cluster import Cluster, address_of
from tests.containers import sizes_of
from tests.proto.overlay.builders import EPOCH, identity, peer_id, record

VICTIM, LIAR, HONEST, OTHER = 1, 2, 3, 4
SECONDS: Final = 12
STEPS_A_SECOND: Final = 4
BURST: Final = 12  # lies in one step: what the bucket refills, and a burst besides
MIX: Final = 4  # sorts of lies in one attempt
LIMITS: Final = LimitsConfig(
    members=200,
    addresses=64,
    addresses_per_source=16,
    origins=128,
    new_origins_per_link=16,
    cache_bytes=2 * 2**20,
    reassembly_bytes=4 * 2**20,
)

CALLS: Final = 12_000  # of functions for one datagram: 2 ms
ENTRIES: Final = 5_000  # in all containers of the victim together, under these limits
BYTES_OUT: Final = 2**20  # to the liar, in one attempt
REACH_S: Final = 3  # in which each honest message is heard by all


@dataclass
class Verdict:
    """What one attempt came to; `wrongs` is empty where the nodes held."""

    seed: int
    lies: tuple[str, ...]
    wrongs: list[str] = field(default_factory=list)
    calls: int = 0
    entries: int = 0
    bytes_out: int = 0
    expelled: int = 0


class Attempt:
    """One cluster, one liar."""

    def __init__(self, seed: int, lies: tuple[str, ...], limits: LimitsConfig) -> None:
        self.rng = random.Random(seed)
        self.cluster = Cluster(
            4,
            limits=limits,
            gossip_interval=1.0,
            peer_timeout=6.0,
            anti_entropy=AntiEntropyConfig(interval=2.0),
        )
        # In rounds the liar says what it wants, and gives no honest answer that would end them.
        self.cluster[LIAR]._overlay.antientropy.handle = lambda *_: []  # type: ignore[method-assign]
        self.verdict = Verdict(seed, lies)
        self.number = 0
        self.said: list[tuple[float, int, bytes]] = []
        self.body = self.rng.randbytes(6000)
        self.cluster[VICTIM].broadcast(self.body, self.cluster.now)
        self.cluster.run(0.3)
        self.cluster.on_send = self._on_send
        self._engines = {
            address_of(number): self.cluster[number] for number in (VICTIM, HONEST, OTHER)
        }

    def _on_send(self, source: object, to: object, datagram: bytes) -> bool:
        if source == address_of(VICTIM) and to == address_of(LIAR):
            self.verdict.bytes_out += len(datagram)
        return True

    # --- the liar -------------------------------------------------------------------------------

    def is_linked(self) -> bool:
        victim, liar = self.cluster[VICTIM], self.cluster[LIAR]
        return liar.peer_id in victim._transport.links and victim.peer_id in liar._transport.links

    def next(self) -> int:
        self.number += 1
        return self.number

    def origin(self) -> Stream:
        """A stream of somebody made up."""
        return Stream(PeerId(self.rng.randbytes(32)), EPOCH)

    def known(self) -> Stream:
        """The stream of somebody who is there."""
        engine = self.cluster[self.rng.choice((VICTIM, HONEST, OTHER))]
        return Stream(engine.peer_id, engine.epoch)

    def ranges(self, count: int) -> tuple[StreamRange, ...]:
        made = []
        for _ in range(count):
            first = self.rng.choice((1, 1 + self.rng.randrange(10_000)))
            stream = self.known() if self.rng.random() < 0.2 else self.origin()
            made.append(StreamRange(stream, first, first + self.rng.choice((0, 60, 2**40))))
        return tuple(made)

    def utter(self, said: Any) -> None:
        """Seal it, and let the victim take it in, counting calls."""
        if not self.is_linked():
            return
        plaintext = said if isinstance(said, bytes) else codec.encode_message(said)
        session = self.cluster.link(LIAR, VICTIM).session
        parts = [plaintext]
        if len(plaintext) > 1100:
            number = 1_000_000 + self.next()
            parts = [
                codec.encode_frame(Fragment(number, len(plaintext), at, plaintext[at : at + 1000]))
                for at in range(0, len(plaintext), 1000)
            ]
        for part in parts:
            datagram = session.seal(part, self.cluster.now)
            calls = calls_of(lambda each=datagram: self._receive(each))  # type: ignore[misc]
            self.verdict.calls = max(self.verdict.calls, calls)
            if not self.is_linked():
                return

    def _receive(self, datagram: bytes) -> None:
        self.cluster[VICTIM].receive(datagram, address_of(LIAR), self.cluster.now)

    # --- the play -------------------------------------------------------------------------------

    def play(self) -> Verdict:
        for step in range(SECONDS * STEPS_A_SECOND):
            if step % STEPS_A_SECOND == 0:
                self._speak()
            for _ in range(BURST):
                self.utter(LIES[self.rng.choice(self.verdict.lies)](self))
            self.cluster.run(1 / STEPS_A_SECOND, step=1 / STEPS_A_SECOND / 2)
            if step % STEPS_A_SECOND == 0:
                self._count()
            if self.verdict.calls > CALLS or self.verdict.entries > ENTRIES:
                break
        self.cluster.on_send = lambda *_: True
        self.cluster.run(REACH_S)
        self._judge()
        return self.verdict

    def _speak(self) -> None:
        for number in (VICTIM, HONEST, OTHER):
            payload = b"%d at %d" % (number, len(self.said))
            self.cluster[number].broadcast(payload, self.cluster.now)
            self.said.append((self.cluster.now, number, payload))

    def _count(self) -> None:
        sizes = sizes_of(self.cluster[VICTIM])
        self.verdict.entries = max(self.verdict.entries, sum(map(sum, sizes.values())))

    def _judge(self) -> None:
        verdict, victim = self.verdict, self.cluster[VICTIM]
        verdict.expelled = victim.stats().expelled
        if verdict.calls > CALLS:
            verdict.wrongs.append(f"a datagram cost {verdict.calls:,} calls")
        if verdict.entries > ENTRIES:
            verdict.wrongs.append(f"{verdict.entries:,} entries are kept")
        if verdict.bytes_out > BYTES_OUT:
            verdict.wrongs.append(f"{verdict.bytes_out:,} bytes went to the liar")
        for number in (VICTIM, HONEST, OTHER):
            heard = set(self.cluster.heard(number))
            missing = [
                said for _, origin, said in self.said if origin != number and said not in heard
            ]
            if missing:
                verdict.wrongs.append(f"node {number} did not hear {len(missing)}: {missing[0]!r}")
        for number in (HONEST, OTHER):
            if self.cluster[number].peer_id not in victim._transport.links:
                verdict.wrongs.append(f"the link with node {number} is gone")
            account = victim._transport.links.peer_limits.get(self.cluster[number].peer_id)
            if account is not None and account.score_at(self.cluster.now) >= 25:
                verdict.wrongs.append(f"node {number} is honest and is blamed")
        if self.cluster.drops(VICTIM).get(DropReason.INTERNAL_ERROR):
            verdict.wrongs.append(f"a fault: {self.cluster.faults(VICTIM)[0].problem}")
        if verdict.lies == ("malformed",) and not verdict.expelled:
            verdict.wrongs.append("a peer that sends nothing but nonsense is never disconnected")


def calls_of(act: Callable[[], None]) -> int:
    """How many functions are called while `act` runs, Python's and C's."""
    count = 0

    def profile(_: FrameType, event: str, __: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        act()
    finally:
        sys.setprofile(before)
    return count


# --- lies ---------------------------------------------------------------------------------------


def _payload_bomb(of: Attempt) -> Rumors:
    count = of.rng.choice((512, 4000))
    own = of.cluster[LIAR]
    first = 1 + of.next() * 30_000
    rumor = Rumor.signed(own._identity, "default", own.epoch, first, (b"",) * count)
    return Rumors((RumorCopy(rumor, 1, 0),))


def _made_up_origin(of: Attempt) -> Rumors:
    who = 5000 + of.next()
    rumor = Rumor.signed(identity(who), "default", EPOCH, 1 + of.rng.randrange(5), (b"spam",))
    return Rumors((RumorCopy(rumor, of.rng.choice((1, 255)), of.rng.choice((0, 290_000))),))


def _gaps(of: Attempt) -> Rumors:
    own = of.cluster[LIAR]
    rumor = Rumor.signed(own._identity, "default", own.epoch, 1 + 2 * of.next(), (b"gap",))
    return Rumors((RumorCopy(rumor, 1, 0),))


def _vector(of: Attempt) -> Vector:
    """Pages of a round that the victim has begun, or of one that it has not."""
    running = of.cluster[VICTIM]._overlay.antientropy._active_rounds.get(of.cluster[LIAR].peer_id)
    number = running.number if running is not None and of.rng.random() < 0.9 else of.next()
    return Vector(number, True, of.next() % 250, 250, of.ranges(16))


def _accuse(of: Attempt) -> MemberUpdates:
    target = record(of.rng.choice((HONEST, OTHER)), incarnation=of.rng.randrange(3))
    accusers = [identity(7000 + of.rng.randrange(500)) for _ in range(2)]
    told = tuple(Accusation.signed(who, "default", target) for who in accusers)
    return MemberUpdates((MemberUpdate(target, told),))


def _records(of: Attempt) -> Records:
    return Records(tuple(record(20_000 + of.next()) for _ in range(3)))


LIES: Final[dict[str, Callable[[Attempt], Any]]] = {
    "offer": lambda of: Offer(of.ranges(of.rng.randrange(1, 16))),
    "ids": lambda of: IHave(of.ranges(of.rng.randrange(1, 16))),
    "announce": lambda of: Announce(of.ranges(1)[0], of.rng.choice((1, 9000, 2**31))),
    "payload bomb": _payload_bomb,
    "made-up origin": _made_up_origin,
    "gaps": _gaps,
    "vector": _vector,
    "digest": lambda of: Digest(of.next(), of.rng.randrange(99), of.rng.randbytes(16)),
    "heartbeat": lambda of: Heartbeat(of.next(), 1, 0, 0, 7, of.rng.randbytes(16), ()),
    "want": lambda of: IWant(
        of.next(),
        (StreamRange(Stream(of.cluster[VICTIM].peer_id, of.cluster[VICTIM].epoch), 1, 2**40),),
    ),
    "want nothing": lambda of: IWant(of.next(), of.ranges(16)),
    "repair": lambda of: Repair(of.next(), of.rng.random() < 0.5, True, ()),
    "records": _records,
    "accuse": _accuse,
    "roll": lambda of: MemberDigest(0, 2**32 - 1, of.rng.randbytes(400), of.rng.random() < 0.5),
    "ping": lambda of: Ping(of.next()),
    "ping for": lambda of: PingReq(of.next(), peer_id(5000 + of.rng.randrange(3000))),
    "private": lambda of: DirectMessage(of.next(), of.rng.randbytes(900)),
    "graft": lambda of: Graft(of.origin().origin),
    "prune": lambda of: Prune(of.origin().origin),
    "subscribe": lambda of: Subscribe(of.rng.random() < 0.5),
    "pause": lambda of: Pause(2**32 - 1),
    "dribble": lambda of: codec.encode_frame(Fragment(of.next(), 2**20, 0, b"x")),
    "path check": lambda of: codec.encode_frame(PathChallenge(of.rng.randbytes(8))),
    "malformed": lambda of: bytes([Kind.HEARTBEAT]) + of.rng.randbytes(20),
}


def play(seed: int, lies: tuple[str, ...] | None = None, limits: LimitsConfig = LIMITS) -> Verdict:
    """The attempt of this seed; with `lies`, of those alone."""
    rng = random.Random(f"mix {seed}")
    return Attempt(seed, lies or tuple(rng.sample(sorted(LIES), MIX)), limits).play()
