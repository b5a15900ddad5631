"""The cluster that a mix befalls, and everything that may befall it.

What must stay true: whoever is hit by something is told to `Watch` before it happens, so that nothing is
asked of a node in the wrong, and everything is asked of all others. Each method whose name is an action
of a mix takes the node it happens to.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Final

from grapevine_proto import ClusterKey, MessageId, UnknownPeer
from grapevine_proto.config.node import STRATEGIES
from grapevine_proto.crypto.identity import KEY_BYTES
from grapevine_proto.engine import Engine
from grapevine_proto.ids import Address
from grapevine_proto.sim import Simulation
from grapevine_proto.wire import codec
from tests.swarm import inside, lies
from tests.swarm.mix import Mix
from tests.swarm.watch import STRANGER, Watch

LANDMARKS: Final = (0, 1)  # everybody's bootstrap peers: they stay where they are, but for crashes
NODES_LIMIT: Final = 16
CAPTURED_LIMIT: Final = 400  # datagrams
REPEATS_S: Final = {"kept": 1.1, "torn": 1.3, "lost": float("inf")}  # what a crash may give again
NOBODY: Final = -1


class World:
    """One mix at work."""

    def __init__(self, mix: Mix) -> None:
        self.mix = mix
        self.rng = random.Random(f"grapevine swarm {mix.seed}, what happens")
        secret = self.rng.randbytes(KEY_BYTES)
        self.keys = (ClusterKey(secret),)
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
        self.watch.keep_secret(secret)
        self.happened: Counter[str] = Counter()
        self.liar = mix.nodes - 1 if mix.has_liar else NOBODY
        self.gone: set[int] = set()  # for good
        self.gone_at: dict[int, list[float]] = defaultdict(list)  # crashed, left
        self.renewed_at: dict[int, float] = {}  # became somebody else
        self.captured: list[tuple[int, bytes, Address]] = []
        self.sim.watch(self._capture)
        self.walls = 0
        if self.liar != NOBODY:
            self.watch.hit_at[self.liar] = float("inf")

    def _capture(self, _: float, number: int, datagram: bytes, to: Address) -> None:
        """Somebody on the way records handshakes and some of the rest."""
        is_wanted = datagram[0] != codec.DATA or datagram[16] % 16 == 0
        if is_wanted and len(self.captured) < CAPTURED_LIMIT:
            self.captured.append((number, datagram, to))

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
        if name in lies.ACTS:
            lies.ACTS[name](self, number)
        else:
            act: Callable[[int], object] = getattr(self, name)
            act(number)

    def some_bytes(self, most: int) -> bytes:
        return self.rng.randbytes(self.rng.randint(0, most))

    def engine(self, number: int) -> Engine:
        engine = self.sim.nodes[number].engine
        assert engine is not None
        return engine

    def say(self, number: int, payload: bytes | None = None, *, traced: bool = False) -> MessageId:
        if payload is None:
            payload = b"%d says %d" % (number, len(self.watch.said))
        # Known before it is said, for it may come to somebody in the same step.
        expected = inside.next_id(self.engine(number))
        if expected in self.watch.said:
            self.watch.fail(f"1: node {number} uses {expected.short} twice")
        self.watch.said[expected] = (number, self.sim.now, payload)
        say = self.sim.trace if traced else self.sim.broadcast
        assert say(number, payload) == expected
        return expected

    def shout(self, number: int) -> None:
        """Of many datagrams; the larger ones are announced, and pulled once."""
        self.say(number, self.rng.randbytes(self.rng.randint(2_000, 60_000)))

    def trace(self, number: int) -> None:
        self.say(number, traced=True)

    def burst(self, number: int) -> None:
        for each in range(self.rng.randint(5, 40)):
            self.say(number, b"%d bursts %d" % (number, each))

    def whisper(self, number: int) -> None:
        self.whisper_to(number, self.rng.choice(self.up()))

    def whisper_to(self, number: int, to: int) -> None:
        if to == number:
            return
        payload = b"%d to %d: %d" % (number, to, len(self.watch.whispered))
        message_id = inside.next_id(self.engine(number), private=True)
        self.watch.whispered[message_id] = (to, self.sim.now, payload)
        try:
            assert self.sim.send(number, to, payload) == message_id
        except UnknownPeer:
            del self.watch.whispered[message_id]

    def crash(self, number: int, how: str = "kept") -> None:
        self.watch.hit(number)
        self.watch.forgot.append((number, self.sim.now, REPEATS_S[how]))
        self.gone_at[number].append(self.sim.now)
        self.sim.crash(number, lose_last_save=how == "torn")
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
        """Another cluster key, as docs/how-to/rotate-keys.md has it: accept, then use, then drop the old."""
        secret = self.rng.randbytes(KEY_BYTES)
        self.watch.keep_secret(secret)
        new = ClusterKey(secret)
        for keys in ((*self.keys, new), (new, *self.keys), (new,)):
            for each in range(len(self.sim.nodes)):
                self.sim.reconfigure(each, keys=keys)
                self.watch.hit_at.setdefault(each, 0.0)
                self.watch.hit_at[each] = max(self.sim.now, self.watch.hit_at[each])
            self.sim.run(self.rng.uniform(1, 10))
        self.keys = (new,)

    def change(self, number: int) -> None:
        """Another strategy, while all goes on."""
        self.sim.reconfigure(number, strategy=self.rng.choice(STRATEGIES))

    def leave(self, number: int) -> None:
        if len(self.up()) <= 3 or number in LANDMARKS:
            return
        self.watch.hit(number)
        self.gone.add(number)
        self.gone_at[number].append(self.sim.now)
        self.sim.leave(number)

    def join(self, _: int) -> None:
        if len(self.sim.nodes) >= NODES_LIMIT:
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
            self.sim.inject(number, self.some_bytes(1300), STRANGER)
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
