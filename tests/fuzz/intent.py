"""A malicious member with a plan: random mixes of attacks on real engines, in virtual time.

The fuzzers of `targets` find bytes that break a promise. This one finds what a member gains by
well-formed attacks: CPU time, memory, links, or the suppression of messages. `play` is one attempt,
determined by its seed; `python -m tests.fuzz intent --seconds 600` runs as many as fit.

Invariants:

- The malicious member has what any member has: the cluster key, its identity and its sessions.
- The verdict counts and does not measure time, so a seed has the same verdict on any machine.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Final

from grapevine_proto.config.sections import AntiEntropyConfig, LimitsConfig
from grapevine_proto.coordinate import Coordinate
from grapevine_proto.errors import DropReason
from grapevine_proto.ids import Address, PeerId, Stream, StreamRange
from grapevine_proto.wire import codec
from grapevine_proto.wire.attributes import parse_record_attributes
from grapevine_proto.wire.fields import decode_record_bytes
from grapevine_proto.wire.messages import (
    Announce,
    Digest,
    DirectMessage,
    DirectReceipt,
    Fragment,
    Graft,
    Heartbeat,
    IHave,
    Introduce,
    Introduction,
    IWant,
    Kind,
    MemberDigest,
    MemberUpdate,
    MemberUpdates,
    ObservedAddress,
    Offer,
    PathChallenge,
    Pause,
    Ping,
    PingReq,
    Prune,
    Records,
    Relayed,
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

VICTIM, MALICIOUS, HONEST, OTHER = 1, 2, 3, 4
SECONDS: Final = 12
STEPS_A_SECOND: Final = 4
BURST: Final = 12  # attacks per step: what the token bucket refills, plus a burst
MIX: Final = 4  # kinds of attacks per attempt
LIMITS: Final = LimitsConfig(
    members=200,
    addresses=64,
    addresses_per_source=16,
    origins=128,
    new_origins_per_link=16,
    cache_bytes=2 * 2**20,
    reassembly_bytes=4 * 2**20,
)

CALLS: Final = 12_000  # function calls per datagram: 2 ms
ENTRIES: Final = 5_000  # in all containers of the victim together, under these limits
BYTES_OUT: Final = 2**20  # to the malicious member, per attempt
REACH_S: Final = 3  # in which every node receives each honest message


@dataclass
class Verdict:
    """The result of one attempt; `violations` is empty if the nodes resisted."""

    seed: int
    attacks: tuple[str, ...]
    violations: list[str] = field(default_factory=list)
    calls: int = 0
    entries: int = 0
    bytes_out: int = 0
    expelled: int = 0


class Attempt:
    """One cluster with one malicious member."""

    def __init__(self, seed: int, attacks: tuple[str, ...], limits: LimitsConfig) -> None:
        self.rng = random.Random(seed)
        self.cluster = Cluster(
            4,
            limits=limits,
            gossip_interval=1.0,
            peer_timeout=6.0,
            anti_entropy=AntiEntropyConfig(interval=2.0),
        )
        # In rounds the malicious member sends what it wants, and no honest answer that would end
        # them.
        self.cluster[MALICIOUS]._overlay.antientropy.handle = lambda *_: []  # type: ignore[method-assign]
        self.verdict = Verdict(seed, attacks)
        self.number = 0
        self.sent: list[tuple[float, int, bytes]] = []
        self.body = self.rng.randbytes(6000)
        self.cluster[VICTIM].broadcast(self.body, self.cluster.now)
        self.cluster.run(0.3)
        self.cluster.on_send = self._on_send
        self._engines = {
            address_of(number): self.cluster[number] for number in (VICTIM, HONEST, OTHER)
        }

    def _on_send(self, source: object, to: object, datagram: bytes) -> bool:
        if source == address_of(VICTIM) and to == address_of(MALICIOUS):
            self.verdict.bytes_out += len(datagram)
        return True

    # --- the malicious member -------------------------------------------------------------------

    def is_linked(self) -> bool:
        victim, malicious = self.cluster[VICTIM], self.cluster[MALICIOUS]
        return (
            malicious.peer_id in victim._transport.links
            and victim.peer_id in malicious._transport.links
        )

    def next(self) -> int:
        self.number += 1
        return self.number

    def origin(self) -> Stream:
        """A stream of a made-up origin."""
        return Stream(PeerId(self.rng.randbytes(32)), EPOCH)

    def known(self) -> Stream:
        """The stream of a real member."""
        engine = self.cluster[self.rng.choice((VICTIM, HONEST, OTHER))]
        return Stream(engine.peer_id, engine.epoch)

    def ranges(self, count: int) -> tuple[StreamRange, ...]:
        found = []
        for _ in range(count):
            first = self.rng.choice((1, 1 + self.rng.randrange(10_000)))
            stream = self.known() if self.rng.random() < 0.2 else self.origin()
            found.append(StreamRange(stream, first, first + self.rng.choice((0, 60, 2**40))))
        return tuple(found)

    def attack(self, message: Any) -> None:
        """Seal a message and have the victim receive it, counting calls."""
        if not self.is_linked():
            return
        plaintext = message if isinstance(message, bytes) else codec.encode_message(message)
        session = self.cluster.link(MALICIOUS, VICTIM).session
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
        self.cluster[VICTIM].receive(datagram, address_of(MALICIOUS), self.cluster.now)

    # --- the attempt ----------------------------------------------------------------------------

    def play(self) -> Verdict:
        for step in range(SECONDS * STEPS_A_SECOND):
            if step % STEPS_A_SECOND == 0:
                self._broadcast()
            for _ in range(BURST):
                self.attack(ATTACKS[self.rng.choice(self.verdict.attacks)](self))
            self.cluster.run(1 / STEPS_A_SECOND, step=1 / STEPS_A_SECOND / 2)
            if step % STEPS_A_SECOND == 0:
                self._count()
            if self.verdict.calls > CALLS or self.verdict.entries > ENTRIES:
                break
        self.cluster.on_send = lambda *_: True
        self.cluster.run(REACH_S)
        self._judge()
        return self.verdict

    def _broadcast(self) -> None:
        for number in (VICTIM, HONEST, OTHER):
            payload = b"%d at %d" % (number, len(self.sent))
            self.cluster[number].broadcast(payload, self.cluster.now)
            self.sent.append((self.cluster.now, number, payload))

    def _count(self) -> None:
        sizes = sizes_of(self.cluster[VICTIM])
        self.verdict.entries = max(self.verdict.entries, sum(map(sum, sizes.values())))

    def _judge(self) -> None:
        verdict, victim = self.verdict, self.cluster[VICTIM]
        verdict.expelled = victim.stats().expelled
        if verdict.calls > CALLS:
            verdict.violations.append(f"a datagram cost {verdict.calls:,} calls")
        if verdict.entries > ENTRIES:
            verdict.violations.append(f"{verdict.entries:,} entries are stored")
        if verdict.bytes_out > BYTES_OUT:
            verdict.violations.append(f"{verdict.bytes_out:,} bytes went to the malicious member")
        for number in (VICTIM, HONEST, OTHER):
            received = set(self.cluster.received(number))
            missing = [
                payload
                for _, origin, payload in self.sent
                if origin != number and payload not in received
            ]
            if missing:
                verdict.violations.append(
                    f"node {number} did not receive {len(missing)}: {missing[0]!r}"
                )
        for number in (HONEST, OTHER):
            if self.cluster[number].peer_id not in victim._transport.links:
                verdict.violations.append(f"the link with node {number} is gone")
            limits = victim._transport.links.peer_limits.get(self.cluster[number].peer_id)
            if limits is not None and limits.score_at(self.cluster.now) >= 25:
                verdict.violations.append(f"node {number} is honest and has a misconduct score")
        if self.cluster.drops(VICTIM).get(DropReason.INTERNAL_ERROR):
            verdict.violations.append(
                f"an internal error: {self.cluster.internal_errors(VICTIM)[0].problem}"
            )
        if verdict.attacks == ("malformed",) and not verdict.expelled:
            verdict.violations.append(
                "a peer that sends only malformed messages is never disconnected"
            )


def calls_of(act: Callable[[], None]) -> int:
    """Number of function calls, in Python and C, while `act` runs."""
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


# --- attacks ------------------------------------------------------------------------------------


def _payload_bomb(attempt: Attempt) -> Rumors:
    count = attempt.rng.choice((512, 4000))
    own = attempt.cluster[MALICIOUS]
    first = 1 + attempt.next() * 30_000
    rumor = Rumor.signed(own._identity, "default", own.epoch, first, (b"",) * count)
    return Rumors((RumorCopy(rumor, 1, 0),))


def _made_up_origin(attempt: Attempt) -> Rumors:
    number = 5000 + attempt.next()
    rumor = Rumor.signed(
        identity(number), "default", EPOCH, 1 + attempt.rng.randrange(5), (b"spam",)
    )
    return Rumors(
        (RumorCopy(rumor, attempt.rng.choice((1, 255)), attempt.rng.choice((0, 290_000))),)
    )


def _gaps(attempt: Attempt) -> Rumors:
    own = attempt.cluster[MALICIOUS]
    rumor = Rumor.signed(own._identity, "default", own.epoch, 1 + 2 * attempt.next(), (b"gap",))
    return Rumors((RumorCopy(rumor, 1, 0),))


def _vector(attempt: Attempt) -> Vector:
    """Pages of a round that the victim has started, or of one that it has not."""
    sync_round = attempt.cluster[VICTIM]._overlay.antientropy._active_rounds.get(
        attempt.cluster[MALICIOUS].peer_id
    )
    number = (
        sync_round.number
        if sync_round is not None and attempt.rng.random() < 0.9
        else attempt.next()
    )
    return Vector(number, True, attempt.next() % 250, 250, attempt.ranges(16))


def _accuse(attempt: Attempt) -> MemberUpdates:
    target = record(attempt.rng.choice((HONEST, OTHER)), incarnation=attempt.rng.randrange(3))
    accusers = [identity(7000 + attempt.rng.randrange(500)) for _ in range(2)]
    accusations = tuple(Accusation.signed(accuser, "default", target) for accuser in accusers)
    return MemberUpdates((MemberUpdate(target, accusations),))


def _records(attempt: Attempt) -> Records:
    return Records(tuple(record(20_000 + attempt.next()) for _ in range(3)))


ATTACKS: Final[dict[str, Callable[[Attempt], Any]]] = {
    "offer": lambda a: Offer(a.ranges(a.rng.randrange(1, 16))),
    "ihave": lambda a: IHave(a.ranges(a.rng.randrange(1, 16))),
    "announce": lambda a: Announce(a.ranges(1)[0], a.rng.choice((1, 9000, 2**31))),
    "payload bomb": _payload_bomb,
    "made-up origin": _made_up_origin,
    "gaps": _gaps,
    "vector": _vector,
    "digest": lambda a: Digest(a.next(), a.rng.randrange(99), a.rng.randbytes(16)),
    "heartbeat": lambda a: Heartbeat(a.next(), 1, 0, 0, 7, a.rng.randbytes(16), ()),
    "iwant": lambda a: IWant(
        a.next(),
        (StreamRange(Stream(a.cluster[VICTIM].peer_id, a.cluster[VICTIM].epoch), 1, 2**40),),
    ),
    "iwant unknown": lambda a: IWant(a.next(), a.ranges(16)),
    "repair": lambda a: Repair(a.next(), a.rng.random() < 0.5, True, ()),
    "records": _records,
    "accuse": _accuse,
    "member digest": lambda a: MemberDigest(
        0, 2**32 - 1, a.rng.randbytes(400), a.rng.random() < 0.5
    ),
    "ping": lambda a: Ping(a.next()),
    "ping-req": lambda a: PingReq(a.next(), peer_id(5000 + a.rng.randrange(3000))),
    "direct message": lambda a: DirectMessage(a.next(), a.rng.randbytes(900)),
    "direct receipt": lambda a: DirectReceipt(a.next()),
    "graft": lambda a: Graft(a.origin().origin),
    "prune": lambda a: Prune(a.origin().origin),
    "subscribe": lambda a: Subscribe(a.rng.random() < 0.5),
    "coordinate": lambda a: Heartbeat(
        a.next(),
        1,
        0,
        0,
        7,
        a.rng.randbytes(16),
        (),
        Coordinate(tuple(a.rng.uniform(-9.0, 9.0) for _ in range(8)), a.rng.random()).encode(),
    ),
    "pause": lambda a: Pause(2**32 - 1),
    "observed address": lambda a: ObservedAddress(Address("203.0.113.9", a.rng.randrange(65536))),
    "relayed": lambda a: Relayed(
        a.rng.random() < 0.5, bytes(peer_id(a.rng.randrange(9))[:8]), a.rng.randbytes(200)
    ),
    "introduce": lambda a: Introduce(peer_id(a.rng.randrange(9)), a.rng.random() < 0.5),
    "introduction": lambda a: Introduction(
        record(5000 + a.rng.randrange(3000)),
        Address("203.0.113.9", a.rng.randrange(65536)),
        a.rng.random() < 0.5,
    ),
    "slow fragments": lambda a: codec.encode_frame(Fragment(a.next(), 2**20, 0, b"x")),
    "path challenge": lambda a: codec.encode_frame(PathChallenge(a.rng.randbytes(8))),
    "malformed": lambda a: bytes([Kind.HEARTBEAT]) + a.rng.randbytes(20),
}


def play(
    seed: int, attacks: tuple[str, ...] | None = None, limits: LimitsConfig = LIMITS
) -> Verdict:
    """The attempt of this seed, restricted to `attacks` if given."""
    decode_record_bytes.cache_clear()  # the work of a verdict depends on no earlier one
    parse_record_attributes.cache_clear()
    rng = random.Random(f"mix {seed}")
    return Attempt(seed, attacks or tuple(rng.sample(sorted(ATTACKS), MIX)), limits).play()
