"""A swarm of small clusters, each with its own mix of misfortune, held to design.md's section 4.

    python -m tests.sim.swarm --seeds 200            fresh seeds, one after another
    python -m tests.sim.swarm --first 4711           one seed again

A seed draws a mix (how many nodes, which settings, what weather, which faults how often), lets it
happen for a while, then heals everything and asks that all is well again soon. `Watch` checks at
every datagram and every event; whatever breaks a promise raises `Violation`.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final
from unittest.mock import patch

from grapevine_proto import (
    AntiEntropyConfig,
    ClusterKey,
    EpidemicConfig,
    LimitsConfig,
    MessageId,
    NodeConfig,
    PeerId,
    PeerState,
    RateLimitConfig,
    UnknownPeer,
    codec,
)
from grapevine_proto.config import STRATEGIES
from grapevine_proto.engine import ACCOUNTS_LIMIT, PARTING_LIMIT, Engine
from grapevine_proto.events import (
    Event,
    MemberChanged,
    MemberStatus,
    MessageReceived,
    PeerStateChanged,
    Via,
)
from grapevine_proto.ids import Address
from grapevine_proto.link.handshake import UNCONFIRMED_SESSIONS
from grapevine_proto.messages import Ids, Rumor, RumorCopy, Rumors, StreamRange, Want
from grapevine_proto.overlay.antientropy import LAZY_ROUND
from grapevine_proto.overlay.effects import Send
from grapevine_proto.overlay.peers import LINKED_STATES, TRANSITIONS
from grapevine_proto.sim import Network, SimulatedNode, Simulation

SEED_VARIABLE: Final = "GRAPEVINE_SWARM_SEED"
LEGAL: Final = {(before, after) for (before, _), after in TRANSITIONS.items()}
BACK_WITHIN_S: Final = 30.0
ALL_WITHIN_S: Final = 60.0
JUDGED_AFTER_S: Final = 90.0  # a node that was hit is not asked to be blameless for so long
REPEATS_S: Final = {"kept": 1.1, "torn": 1.3, "lost": float("inf")}  # what a crash may give again
AGES_S: Final = 6.0  # that nobody can measure: ways, and slow nodes on them
CALM_LOSS: Final = 0.1
LANDMARKS: Final = (0, 1)  # everybody's bootstrap peers: they stay where they are, but for crashes
STRANGER: Final = Address("172.16.0.1", 9999)
QUIET_PACKETS: Final = 2.0  # a peer and gossip interval
REFUSED_IN_CALM: Final = {"unknown_session", "not_opened", "bad_signature", "bad_proof"}


Life = tuple[int, int]  # which node, and which of its lives


class Violation(AssertionError):
    """A promise was broken."""


@dataclass(slots=True)
class Mix:
    """What one seed lets happen. `actions`: how often each, by weight."""

    seed: int
    nodes: int
    config: NodeConfig
    network: Network
    actions: dict[str, float]
    lasts_s: float
    has_liar: bool

    @property
    def is_calm(self) -> bool:
        """Whether nothing goes wrong at all."""
        network = self.network
        faults = network.loss + network.duplication + network.reorder + network.corruption
        has_room = self.nodes <= self.config.max_peers  # else some are turned away, in all weathers
        return not faults and has_room and self.actions.keys() <= {"say", "whisper"}


FAULTS: Final = (
    "crash", "tear", "lose", "part", "part_one_way", "heal", "suspend", "slow", "move", "rotate",
    "leave", "join", "skew", "stranger", "replay", "burst",
)  # fmt: skip


def drawn(seed: int) -> Mix:
    """The mix of `seed`."""
    rng = random.Random(f"grapevine swarm {seed}")
    is_calm = rng.random() < 0.12
    nodes = rng.randint(3, 5) if is_calm else rng.randint(4, 10)

    def some(high: float) -> float:
        return 0.0 if is_calm or rng.random() < 0.5 else rng.uniform(0, high)

    config = NodeConfig.local(
        max_peers=50,
        strategy=rng.choice(STRATEGIES),
        lazy_repair=rng.random() < 0.8,
        fanout=rng.randint(2, 4),
        bundle_delay=rng.choice([0.0, 0.0, 0.05]),
        message_dedup_ttl=rng.choice([20.0, 300.0, 300.0]),
        anti_entropy=AntiEntropyConfig(interval=5.0),
        epidemic=EpidemicConfig(hops=rng.choice([3, 10])),
        rate_limit=RateLimitConfig(capacity=40, refill_rate=30.0),
        limits=LimitsConfig(members=rng.choice([8, 10_000]), addresses=16),
    )
    network = Network(
        loss=some(0.3), duplication=some(0.3), reorder=some(0.3), corruption=some(0.05)
    )
    actions = {"say": 6.0, "whisper": 2.0}
    if not is_calm:
        for each in FAULTS:
            if rng.random() < 0.5:
                actions[each] = rng.uniform(0.2, 1.5)
    lasts_s = rng.uniform(250, 300) if is_calm else rng.uniform(30, 90)
    has_liar = not is_calm and rng.random() < 0.3
    if has_liar:
        actions |= {"forge": 1.0, "flood": 0.5, "garble": 0.5}
    return Mix(seed, nodes, config, network, actions, lasts_s, has_liar)


@dataclass
class Watch:
    """The promises, asked of everything that happens. It knows what was really said."""

    mix: Mix
    sim: Simulation
    said: dict[MessageId, tuple[int, float, bytes]] = field(default_factory=dict)
    whispered: dict[MessageId, tuple[int, float, bytes]] = field(default_factory=dict)
    heard_at: defaultdict[tuple[int, MessageId], list[float]] = field(
        default_factory=lambda: defaultdict(list)
    )
    forgot: list[tuple[int, float, float]] = field(default_factory=list)  # who, when, how far back
    hit_at: dict[int, float] = field(default_factory=dict)  # when something last befell a node
    allowed_to_stranger: int = 0
    states: dict[tuple[int, PeerId], PeerState] = field(default_factory=dict)
    sealed: dict[bytes, bytes] = field(default_factory=dict)
    pushed: set[tuple[Life, tuple[PeerId, int, int], PeerId]] = field(default_factory=set)
    copies: Counter[tuple[Life, tuple[PeerId, int, int]]] = field(default_factory=Counter)
    told: Counter[tuple[Life, StreamRange, PeerId]] = field(default_factory=Counter)
    asked_at: dict[tuple[Life, StreamRange], float] = field(default_factory=dict)
    whispers_at: defaultdict[tuple[int, PeerId], list[float]] = field(
        default_factory=lambda: defaultdict(list)
    )
    slept_s: float = 0.0  # the longest that a machine was suspended: what it had sent is that old
    datagrams: int = 0
    packets: int = 0  # sealed ones; the others knock at whoever is gone

    def __post_init__(self) -> None:
        self.sim.listen(self.on_event)
        self.sim.watch(self.on_datagram)

    def fail(self, words: str) -> None:
        raise Violation(f"{words}, at {self.sim.now:.3f} s")

    def hit(self, *numbers: int) -> None:
        """Something befalls these nodes: for a while they are not asked to be blameless."""
        for number in numbers:
            self.hit_at[number] = self.sim.now

    def is_sound(self, number: int) -> bool:
        hit_at = self.hit_at.get(number)
        return hit_at is None or self.sim.now - hit_at > JUDGED_AFTER_S

    # --- events ---------------------------------------------------------------------------------

    def on_event(self, at: float, number: int, event: Event) -> None:
        if isinstance(event, MessageReceived):
            if event.message.private:
                self._on_whisper(at, number, event)
            else:
                self._on_message(at, number, event)
        elif isinstance(event, PeerStateChanged):
            self._on_state(number, event)
        elif isinstance(event, MemberChanged):
            self._on_member(number, event)

    def _on_message(self, at: float, number: int, event: MessageReceived) -> None:
        message = event.message
        name = f"{message.id.short} at node {number}"
        if message.id not in self.said:
            self.fail(f"1: {name} was never said")
        origin, said_at, payload = self.said[message.id]
        if message.payload != payload:
            self.fail(f"1: {name} is not what node {origin} said")
        self.heard_at[number, message.id].append(at)
        times = len(self.heard_at[number, message.id])
        repeats = sum(
            who == number
            and any(0 <= when - each <= span_s for each in self._knew(number, message.id))
            for who, when, span_s in self.forgot
        )
        if times > (number != origin) + repeats:
            self.fail(f"1: {name} was delivered {times} times, {repeats} of them for crashes")
        ttl_s = self.mix.config.message_dedup_ttl
        if at - said_at > ttl_s + AGES_S + self.slept_s:
            self.fail(f"1: {name} was delivered {at - said_at:.1f} s after it was said")
        is_pushed = self.mix.config.strategy == "epidemic" and message.via is Via.EAGER
        if is_pushed and message.hops > self.mix.config.epidemic.hops:
            self.fail(f"6: {name} came over {message.hops} hops")

    def _knew(self, number: int, message_id: MessageId) -> list[float]:
        origin, said_at, _ = self.said[message_id]
        known_at = self.heard_at[number, message_id]
        return [*known_at, said_at] if number == origin else known_at

    def _on_whisper(self, at: float, number: int, event: MessageReceived) -> None:
        message = event.message
        to, _, payload = self.whispered.get(message.id, (-1, 0.0, b""))
        if (to, payload) != (number, message.payload):
            self.fail(f"1: the private {message.id.short} at node {number} was not for it")
        self.heard_at[number, message.id].append(at)
        if len(self.heard_at[number, message.id]) > 1:
            self.fail(f"1: the private {message.id.short} came twice")
        recent = self.whispers_at[number, message.origin]
        recent.append(at)
        limit = self.mix.config.rate_limit
        while recent[0] < at - 1.0:
            recent.pop(0)
        if len(recent) > limit.capacity + limit.refill_rate + 1:
            self.fail(f"5: node {number} took {len(recent)} messages of one peer in a second")

    def _on_state(self, number: int, event: PeerStateChanged) -> None:
        peer, previous, state = event.peer, event.previous, event.peer.state
        words = f"node {number} moved {peer.name} from {previous} to {state} ({event.reason})"
        if previous is not None and previous != state and (previous, state) not in LEGAL:
            self.fail(f"7: {words}")
        known = self.states.get((number, peer.peer_id))
        if None not in (known, previous) and known != previous:
            self.fail(f"7: {words}, but it was {known}")
        self.states[number, peer.peer_id] = state
        is_lost = previous in LINKED_STATES and state is PeerState.DISCONNECTED
        if is_lost and "silent" in event.reason and self.mix.network.loss <= CALM_LOSS:
            self._on_death(number, peer.peer_id, event.reason)

    def _on_member(self, number: int, event: MemberChanged) -> None:
        if event.member.status is MemberStatus.DOWN and not self.mix.network.loss:
            self._on_death(number, event.member.peer_id, "down")

    def _on_death(self, number: int, peer_id: PeerId, words: str) -> None:
        """Nobody is given up who was not hit by anything, by a node that was not either."""
        subject = next((each.number for each in self.sim.nodes if each.peer_id == peer_id), None)
        if subject is not None and self.is_sound(number) and self.is_sound(subject):
            self.fail(f"9: node {number} gave up node {subject}: {words}")

    # --- datagrams ------------------------------------------------------------------------------

    def on_datagram(self, _: float, number: int, datagram: bytes, to: Address) -> None:
        if to == STRANGER:
            self.allowed_to_stranger -= len(datagram)
            if self.allowed_to_stranger < 0:
                self.fail(f"4: node {number} answered a stranger with {len(datagram)} bytes")
        if datagram[0] == codec.DATA:
            self.packets += 1
            head = datagram[:17]  # type, receiver's session, counter
            if self.sealed.setdefault(head, datagram) != datagram:
                self.fail(f"7: node {number} used a nonce twice")
        self.datagrams += 1
        if self.datagrams % 16 == 0:
            self.check_caps(self.sim.nodes[number])

    def check_caps(self, node: SimulatedNode) -> None:
        """Every table within its limit."""
        engine = node.engine
        if engine is None:
            return
        config, stats = node.config, engine.stats()
        limits = config.limits
        for name, size, limit in (
            ("links", len(engine._links), config.max_peers),
            ("sessions", stats.sessions, limits.sessions),
            ("dials", len(engine._dials), limits.dials),
            ("parting links", len(engine._parting), PARTING_LIMIT),
            ("accounts", len(engine._accounts), ACCOUNTS_LIMIT),
            ("unconfirmed sessions", engine._responder.pending, UNCONFIRMED_SESSIONS),
            ("members", stats.members, limits.members + config.max_peers),  # linked ones always
            ("held bytes", stats.held_bytes, limits.held_bytes + config.max_message_size),
            ("streams", stats.streams, 2 * limits.origins),
        ):
            if size > limit:
                self.fail(f"5: node {node.number} has {size} {name}, of {limit}")

    # --- what nodes say to each other -----------------------------------------------------------

    def on_send(self, engine: Engine, send: Send) -> None:
        node = next((each for each in self.sim.nodes if each.engine is engine), None)
        if node is None:
            return
        life = (node.number, node.lives)
        if isinstance(send.message, Rumors):
            for copy in send.message.copies:
                self._on_push(node, life, copy, send.peers)
        elif isinstance(send.message, Ids):
            for ids in send.message.ranges:
                for peer in send.peers:
                    self.told[life, ids, peer] += 1
                    if self.told[life, ids, peer] > 1:
                        self.fail(f"6: node {node.number} told a peer twice of an id")
        elif isinstance(send.message, Want) and send.message.round == LAZY_ROUND:
            for ids in send.message.ranges:
                key = life, ids
                if self.sim.now - self.asked_at.get(key, -1.0) < 0.05:
                    self.fail(f"6: node {node.number} asked two peers at once")
                self.asked_at[key] = self.sim.now

    def _on_push(
        self, node: SimulatedNode, life: Life, copy: RumorCopy, peers: tuple[PeerId, ...]
    ) -> None:
        rumor = copy.rumor
        key = (rumor.origin, rumor.epoch, rumor.first)
        for peer in peers:
            if (life, key, peer) in self.pushed:
                self.fail(f"6: node {node.number} pushed a message to one peer twice")
            self.pushed.add((life, key, peer))
        self.copies[life, key] += len(peers)
        most = self.mix.config.epidemic.max_forwards
        if self.mix.config.strategy == "epidemic" and self.copies[life, key] > most:
            self.fail(f"6: node {node.number} pushed {self.copies[life, key]} copies of a message")


class Swarm:
    """One mix at work."""

    def __init__(self, mix: Mix) -> None:
        self.mix = mix
        self.rng = random.Random(f"grapevine swarm {mix.seed}, what happens")
        self.keys = (ClusterKey(self.rng.randbytes(32)),)
        self.sim = Simulation(
            nodes=mix.nodes,
            seed=mix.seed,
            config=mix.config.replace(keys=self.keys),
            network=mix.network,
            bootstrap=0,
        )
        self.landmarks = [str(self.sim.nodes[number].address) for number in LANDMARKS]
        for number in range(mix.nodes):
            self.sim.reconfigure(number, bootstrap_peers=self.landmarks)
        self.watch = Watch(mix, self.sim)
        self.happened: Counter[str] = Counter()
        self.liar = mix.nodes - 1 if mix.has_liar else None
        self.gone: set[int] = set()  # for good
        self.gone_at: dict[int, list[float]] = defaultdict(list)  # crashed, left
        self.renewed_at: dict[int, float] = {}  # became somebody else
        self.captured: list[tuple[int, bytes, Address]] = []
        self.sim.watch(self._capture)
        self.walls = 0
        if self.liar is not None:
            self.watch.hit_at[self.liar] = float("inf")

    def _capture(self, _: float, number: int, datagram: bytes, to: Address) -> None:
        if self.rng_captures(datagram):
            self.captured.append((number, datagram, to))

    def rng_captures(self, datagram: bytes) -> bool:
        return len(self.captured) < 400 and (datagram[0] != codec.DATA or datagram[16] % 16 == 0)

    # --- who is there ---------------------------------------------------------------------------

    def up(self) -> list[int]:
        return [
            node.number
            for node in self.sim.nodes
            if node.is_running and not node.is_leaving and node.suspended_at is None
        ]

    def one_up(self) -> int | None:
        choices = [each for each in self.up() if each != self.liar]
        return self.rng.choice(choices) if choices else None

    # --- what may happen ------------------------------------------------------------------------

    def act(self, name: str) -> None:
        number = self.one_up()
        if number is None:
            return
        self.happened[name] += 1
        getattr(self, name)(number)

    def say(self, number: int, payload: bytes | None = None) -> MessageId:
        engine = self.sim.nodes[number].engine
        assert engine is not None
        if payload is None:
            payload = b"%d says %d" % (number, len(self.watch.said))
        # Known before it is said, for it may come to somebody in the same step.
        expected = MessageId(engine.peer_id, engine.epoch, engine._sequence + 1)
        if expected in self.watch.said:
            self.watch.fail(f"1: node {number} uses {expected.short} twice")
        self.watch.said[expected] = (number, self.sim.now, payload)
        assert self.sim.broadcast(number, payload) == expected
        return expected

    def burst(self, number: int) -> None:
        for each in range(self.rng.randint(5, 40)):
            self.say(number, b"%d bursts %d" % (number, each))

    def whisper(self, number: int) -> None:
        to = self.rng.choice(self.up())
        self._whisper(number, to)

    def _whisper(self, number: int, to: int) -> None:
        engine, peer_id = self.sim.nodes[number].engine, self.sim.nodes[to].peer_id
        assert engine is not None
        if to == number or peer_id is None:
            return
        payload = b"%d to %d: %d" % (number, to, len(self.watch.whispered))
        sequence = engine._private_sequence + 1
        message_id = MessageId(engine.peer_id, engine.epoch, sequence, private=True)
        self.watch.whispered[message_id] = (to, self.sim.now, payload)
        try:
            assert self.sim.send(number, to, payload) == message_id
        except UnknownPeer:
            del self.watch.whispered[message_id]

    def crash(self, number: int, how: str = "kept") -> None:
        self.watch.hit(number)
        self.watch.forgot.append((number, self.sim.now, REPEATS_S[how]))
        self.gone_at[number].append(self.sim.now)
        self.sim.crash(number, torn=how == "torn")
        self.sim.run(self.rng.uniform(0, 8))
        self.start(number, how)

    def start(self, number: int, how: str) -> None:
        self.watch.hit(number)
        for key in [each for each in self.watch.states if each[0] == number]:
            del self.watch.states[key]
        if how == "lost":
            self.renewed_at[number] = self.sim.now
        self.sim.restart(number, lose_state=how == "lost")

    def tear(self, number: int) -> None:
        """The power fails while the state is being written."""
        node = self.sim.nodes[number]
        self.sim.run_until(lambda: self.sim.now - node.saved_at < 0.05, 5.0)
        if node.is_running:
            self.crash(number, "torn")

    def lose(self, number: int) -> None:
        self.crash(number, "lost")

    def part(self, _: int) -> None:
        size = self.rng.randint(1, len(self.sim.nodes) - 1)
        self._part(self.rng.sample(range(len(self.sim.nodes)), size), one_way=False)

    def part_one_way(self, number: int) -> None:
        self._part([number], one_way=True)

    def _part(self, group: list[int], *, one_way: bool) -> None:
        self.walls += 1
        for each in range(len(self.sim.nodes)):
            self.watch.hit_at[each] = float("inf")
        self.sim.partition(group, one_way=one_way)

    def heal(self, _: int) -> None:
        self.sim.heal()
        if self.walls:
            self.walls = 0
            self.watch.hit(*(each for each in range(len(self.sim.nodes)) if each != self.liar))

    def suspend(self, number: int) -> None:
        seconds = self.rng.choice([1.0, 4.6, 8.0, 40.0])
        if seconds > 0.8 * self.mix.config.peer_timeout or self.mix.network.loss:
            self.watch.hit(number)  # else nobody has a reason to give anybody up for it
        self.watch.slept_s = max(self.watch.slept_s, seconds)
        self.sim.suspend(number, seconds)

    def slow(self, number: int) -> None:
        self.watch.hit_at[number] = float("inf")
        self.sim.slow(number, self.rng.choice([0.05, 0.5]))

    def skew(self, number: int) -> None:
        error_s = self.rng.choice([-1e6, -60.0, 60.0, 1e6])
        self.sim.set_clock(number, error_s=error_s, rate=self.rng.uniform(0.999, 1.001))
        self.crash(number)

    def move(self, number: int) -> None:
        if number in LANDMARKS:
            return
        self.watch.hit(number)
        self.sim.move(number)

    def rotate(self, _: int) -> None:
        """Another cluster key, as docs/operations.md has it: accept, then use, then drop the old."""
        new = ClusterKey(self.rng.randbytes(32))
        for keys in ((*self.keys, new), (new, *self.keys), (new,)):
            for each in range(len(self.sim.nodes)):
                self.sim.reconfigure(each, keys=keys)
                self.watch.hit_at.setdefault(each, 0.0)
                self.watch.hit_at[each] = max(self.sim.now, self.watch.hit_at[each])
            self.sim.run(self.rng.uniform(1, 10))
        self.keys = (new,)

    def leave(self, number: int) -> None:
        if len(self.up()) <= 3 or number in LANDMARKS:
            return
        self.watch.hit(number)
        self.gone.add(number)
        self.gone_at[number].append(self.sim.now)
        self.sim.leave(number)

    def join(self, _: int) -> None:
        if len(self.sim.nodes) >= 14:
            return
        number = self.sim.add(bootstrap=LANDMARKS, keys=self.keys)
        self.renewed_at[number] = self.sim.now
        self.watch.hit(number)
        if self.walls:
            self.watch.hit_at[number] = float("inf")

    def stranger(self, number: int) -> None:
        """Junk, a Hello under another key, and a Hello of our own that somebody recorded."""
        hellos = [each for _, each, __ in self.captured if each[0] == codec.HELLO]
        for _ in range(20):
            self.sim.inject(number, self.rng.randbytes(self.rng.randint(0, 1300)), STRANGER)
        for each in hellos[-3:]:
            changed = bytearray(each)
            changed[self.rng.randrange(1, len(changed))] ^= 1 << self.rng.randrange(8)
            self.sim.inject(number, bytes(changed), STRANGER)
        for each in hellos[:3]:
            self.watch.allowed_to_stranger += len(each)
            self.sim.inject(number, each, STRANGER)

    def replay(self, _: int) -> None:
        """What was recorded arrives again, from where it came and from elsewhere."""
        for number, datagram, to in self.rng.sample(self.captured, min(40, len(self.captured))):
            target = next((each for each in self.sim.nodes if each.address == to), None)
            if target is None or not target.is_running:
                continue
            if datagram[0] in (codec.HELLO, codec.PROOF) or self.rng.random() < 0.7:
                self.sim.inject(target.number, datagram, self.sim.nodes[number].address)
            else:  # from a new address, which is asked whether it is the node's, in as few bytes
                self.watch.allowed_to_stranger += len(datagram)
                self.sim.inject(target.number, datagram, STRANGER)

    # --- what a member that lies does -----------------------------------------------------------

    def forge(self, number: int) -> None:
        """Words put into a node's mouth, under the ids that it will use next."""
        assert self.liar is not None
        liar, victim = self.sim.nodes[self.liar].engine, self.sim.nodes[number].engine
        if liar is None or victim is None or not liar._links:
            return
        first = victim._sequence + 1
        body = b"never said"
        forged = Rumor(victim.peer_id, victim.epoch, first, (len(body),), body, bytes(64))
        peers = tuple(liar._links)
        node = self.sim.nodes[self.liar]
        for peer in peers:
            liar._queue(
                liar._links[peer],
                codec.encode_message(Rumors((RumorCopy(forged, 1, 0),))),
                node.read_clock(self.sim.now),
            )
        self.sim._settle(node)
        self.sim.run(1.0)
        self.say(number) if self.sim.nodes[number].is_running else None

    def flood(self, number: int) -> None:
        """More than a peer may say, at once."""
        assert self.liar is not None
        liar, target = self.sim.nodes[self.liar], self.sim.nodes[number]
        if liar.engine is None or target.peer_id is None:
            return
        link = liar.engine._links.get(target.peer_id)
        if link is None:
            return
        link.shape = None
        for _ in range(200):
            self._whisper(self.liar, number)
        self.sim.run(1.0)

    def garble(self, _: int) -> None:
        """Sealed nonsense."""
        assert self.liar is not None
        node = self.sim.nodes[self.liar]
        if node.engine is None:
            return
        for link in list(node.engine._links.values()):
            kind = self.rng.randrange(64)
            nonsense = bytes((kind,)) + self.rng.randbytes(self.rng.randint(0, 60))
            node.engine._queue(link, nonsense, node.read_clock(self.sim.now))
        self.sim._settle(node)

    # --- the whole of it ------------------------------------------------------------------------

    def play(self) -> None:
        """A time of faults, then a time in which all must come right. Raises Violation."""
        with _overheard(self.watch):
            self.sim.run(5.0)
            until, names = self.sim.now + self.mix.lasts_s, list(self.mix.actions)
            weights = [self.mix.actions[each] for each in names]
            while self.sim.now < until:
                self.act(self.rng.choices(names, weights)[0])
                self.sim.run(self.rng.choice([0.0, 0.02, 0.3, 1.0, 2.0]))
            self._come_right()

    def _come_right(self) -> None:
        sim, watch = self.sim, self.watch
        sim.heal()
        sim.change_network(Network(loss=min(self.mix.network.loss, CALM_LOSS)))
        for node in sim.nodes:
            sim.slow(node.number, 0.0)
            if node.suspended_at is not None:
                self.crash(node.number)
            elif node.number == self.liar and node.is_running:
                sim.crash(node.number)
                self.gone.add(node.number)
        watch.hit(*range(len(sim.nodes)))
        self._are_back()
        probes = [self.say(number) for number in self.up() for _ in range(2)]
        owed = [each for each in watch.said if each in probes or self._is_owed(each)]
        if not sim.run_until(lambda: not self._missing(owed), ALL_WITHIN_S, every=0.25):
            number, message_id = self._missing(owed)[0]
            watch.fail(f"2: node {number} never heard {message_id.short}")
        if self.mix.is_calm:
            self._was_calm()
        self._is_quiet()

    def _are_back(self) -> None:
        up = self.up()
        if not self.sim.run_until(lambda: self._whole(up), BACK_WITHIN_S, every=0.25):
            links = {number: self.sim.connected(number) for number in up}
            self.watch.fail(f"9: the cluster is not one again: {links}")

    def _whole(self, up: list[int]) -> bool:
        """Whether everybody can be reached over links."""
        numbers = {node.peer_id: node.number for node in self.sim.nodes if node.number in up}
        reached, edge = {up[0]}, [up[0]]
        while edge:
            peers = [peer for each in edge for peer in self.sim.peers(each)]
            linked = {numbers.get(p.peer_id, -1) for p in peers if p.state is PeerState.CONNECTED}
            edge = [each for each in sorted(linked - {-1}) if each not in reached]
            reached.update(edge)
        return len(reached) == len(up)

    def _is_owed(self, message_id: MessageId) -> bool:
        """Whether its origin was there from then on, and it is not too old to be repaired."""
        origin, said_at, _ = self.watch.said[message_id]
        if origin == self.liar or any(at >= said_at for at in self.gone_at[origin]):
            return False
        return said_at + self.mix.config.message_dedup_ttl > self.sim.now + ALL_WITHIN_S

    def _missing(self, owed: list[MessageId]) -> list[tuple[int, MessageId]]:
        """Who lacks what; whoever became somebody else, or came later, is asked for nothing older."""
        return [
            (number, message_id)
            for number in self.up()
            for message_id in owed
            if self.watch.said[message_id][0] != number
            and self.renewed_at.get(number, 0.0) < self.watch.said[message_id][1]
            and not self.watch.heard_at[number, message_id]
        ]

    def _was_calm(self) -> None:
        """Where nothing went wrong nothing was refused, and every private word arrived."""
        for node in self.sim.nodes:
            refused = {str(reason) for reason, _ in node.stats().dropped} & REFUSED_IN_CALM
            if refused:
                self.watch.fail(f"2: node {node.number} refused {sorted(refused)} in good weather")
        for message_id, (to, _, __) in self.watch.whispered.items():
            if not self.watch.heard_at[to, message_id]:
                self.watch.fail(f"2: the private {message_id.short} was lost in good weather")

    def _is_quiet(self) -> None:
        sim, intervals = self.sim, 10
        sim.change_network(Network())
        sim.run(20.0)
        links = sum(sim.connected(number) for number in self.up())
        before = self.watch.packets
        sim.run(intervals * self.mix.config.gossip_interval)
        packets = (self.watch.packets - before) / intervals / max(links, 1)
        if packets > QUIET_PACKETS:
            self.watch.fail(f"6: an idle cluster sends {packets:.2f} packets a peer and interval")


@contextmanager
def _overheard(watch: Watch) -> Iterator[None]:
    """Let `watch` hear what engines ask to be sent."""
    send_all = Engine._send_all

    def spy(engine: Engine, send: Send, now: float) -> int:
        watch.on_send(engine, send)
        return send_all(engine, send, now)

    with patch.object(Engine, "_send_all", spy):
        yield


def swarm(seed: int, change: Callable[[Mix], None] = lambda _: None) -> Swarm:
    """Play the mix of `seed`, after `change` had its way with it. Raises Violation; anything else
    that is raised came out of a node, which breaks the third promise."""
    mix = drawn(seed)
    change(mix)
    played = Swarm(mix)
    try:
        played.play()
    except Violation as violation:
        violation.add_note(f"again: {SEED_VARIABLE}={seed} pytest tests/sim/test_swarm.py")
        raise
    except Exception as error:
        error.add_note(f"again: {SEED_VARIABLE}={seed} pytest tests/sim/test_swarm.py")
        raise
    return played


def fresh_seed() -> int:
    """One that nobody has seen, or the one asked for by the environment."""
    wanted = os.environ.get(SEED_VARIABLE)
    return int(wanted) if wanted else int.from_bytes(os.urandom(4), "big")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first", type=int, help="and the ones after it [drawn afresh]")
    arguments = parser.parse_args()
    failed = 0
    for number in range(arguments.seeds):
        seed = fresh_seed() if arguments.first is None else arguments.first + number
        began_at = time.perf_counter()
        try:
            played = swarm(seed)
            words = f"{len(played.watch.said)} messages, {played.sim.steps} steps"
        except Exception as error:  # noqa: BLE001  each seed is a run of its own
            failed += 1
            words = f"FAILED: {type(error).__name__}: {error}"
        print(f"{seed:>10}  {time.perf_counter() - began_at:6.1f} s  {words}", flush=True)  # noqa: T201
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
