"""The cluster of a mix, and the faults that can be applied to it.

Invariants:

- `Watch` is told of a fault before it happens, so that no affected node is checked wrongly and
  every other node is checked fully.
- Each method named after an action of a mix takes the number of the node it applies to.
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
from tests.swarm import attacks, inside
from tests.swarm.mix import Mix
from tests.swarm.watch import UNAUTHENTICATED, Watch

BOOTSTRAP_NODES: Final = (
    0,
    1,
)  # bootstrap peers of every node: they keep their addresses but may crash
NODES_LIMIT: Final = 16
CAPTURED_LIMIT: Final = 400  # datagrams
# span in seconds of what may be delivered again after a crash
LOST_STATE_S: Final = {"kept": 1.1, "torn": 1.3, "lost": float("inf")}
NO_NODE: Final = -1


def patterns_of(number: int) -> tuple[str, ...]:
    """The patterns of topics in the configuration of a node; nodes that join later deliver all."""
    return ("deploy.*",) if number % 3 == 1 else (">",)


class World:
    """The cluster of one mix."""

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
        self.bootstrap_addresses = [
            str(self.sim.nodes[number].address) for number in BOOTSTRAP_NODES
        ]
        for number in range(mix.nodes):
            self.sim.reconfigure(
                number, bootstrap_peers=self.bootstrap_addresses, topics=patterns_of(number)
            )
        self.watch = Watch(mix, self.sim)
        self.watch.add_secret(secret)
        self.action_counts: Counter[str] = Counter()
        self.malicious = mix.nodes - 1 if mix.has_malicious else NO_NODE
        self.stopped: set[int] = set()  # permanently
        self.stopped_at: dict[int, list[float]] = defaultdict(list)  # crash and leave times
        self.joined_at: dict[int, float] = {}  # identity replaced
        self.captured: list[tuple[int, bytes, Address]] = []
        self.sim.watch(self._capture)
        self.partition_count = 0
        if self.malicious != NO_NODE:
            self.watch.affected_at[self.malicious] = float("inf")

    def _capture(self, _: float, number: int, datagram: bytes, to: Address) -> None:
        """An observer records handshakes and some of the other datagrams."""
        is_recorded = datagram[0] != codec.DATA or datagram[16] % 16 == 0
        if is_recorded and len(self.captured) < CAPTURED_LIMIT:
            self.captured.append((number, datagram, to))

    # --- running nodes --------------------------------------------------------------------------

    def up(self) -> list[int]:
        return [
            node.number
            for node in self.sim.nodes
            if node.is_running and not node.is_leaving and node.suspended_at is None
        ]

    def random_up(self) -> int | None:
        choices = [each for each in self.up() if each != self.malicious]
        return self.rng.choice(choices) if choices else None

    # --- actions --------------------------------------------------------------------------------

    def apply(self, name: str) -> None:
        number = self.random_up()
        if number is None:
            return
        self.action_counts[name] += 1
        if name in attacks.ATTACK_FUNCTIONS:
            attacks.ATTACK_FUNCTIONS[name](self, number)
        else:
            apply: Callable[[int], object] = getattr(self, name)
            apply(number)

    def some_bytes(self, maximum: int) -> bytes:
        return self.rng.randbytes(self.rng.randint(0, maximum))

    def engine(self, number: int) -> Engine:
        engine = self.sim.nodes[number].engine
        assert engine is not None
        return engine

    def broadcast(
        self,
        number: int,
        payload: bytes | None = None,
        *,
        traced: bool = False,
        topic: str = "",
    ) -> MessageId:
        if payload is None:
            payload = b"%d sent %d" % (number, len(self.watch.sent))
        # Recorded before it is sent, because it may be delivered in the same step.
        expected = inside.next_id(self.engine(number))
        if expected in self.watch.sent:
            self.watch.fail(f"1: node {number} uses {expected.short} twice")
        self.watch.sent[expected] = (number, self.sim.now, payload)
        if topic:
            self.watch.topics[expected] = topic
            assert self.sim.publish(number, topic, payload) == expected
        else:
            publish = self.sim.trace if traced else self.sim.broadcast
            assert publish(number, payload) == expected
        return expected

    def publish(self, number: int) -> None:
        """A message of a topic that only some nodes deliver."""
        self.broadcast(number, topic=self.rng.choice(["deploy.web", "metrics.cpu"]))

    def set_entry(self, number: int) -> None:
        """A node sets one of a few keys, which others set too."""
        key, value = self.rng.choice("abcde"), b"%d sets %d" % (number, len(self.watch.written))
        self._write_entry(number, key, value)

    def delete_entry(self, number: int) -> None:
        """A node deletes a key, if it has a value."""
        key = self.rng.choice("abcde")
        if self.sim.value(number, key) is not None:
            self._write_entry(number, key, None)

    def _write_entry(self, number: int, key: str, value: bytes | None) -> None:
        message_id = inside.next_id(self.engine(number))
        self.watch.written[message_id] = (number, self.sim.now, key, value)
        if value is None:
            assert self.sim.delete_entry(number, key)
        else:
            self.sim.set_entry(number, key, value)

    def broadcast_large(self, number: int) -> None:
        """Many datagrams long; the larger ones are announced and pulled once."""
        self.broadcast(number, self.rng.randbytes(self.rng.randint(2_000, 60_000)))

    def trace(self, number: int) -> None:
        self.broadcast(number, traced=True)

    def burst(self, number: int) -> None:
        for each in range(self.rng.randint(5, 40)):
            self.broadcast(number, b"%d bursts %d" % (number, each))

    def send_direct(self, number: int) -> None:
        self.send_direct_to(number, self.rng.choice(self.up()))

    def send_direct_to(self, number: int, to: int) -> None:
        if to == number:
            return
        payload = b"%d to %d: %d" % (number, to, len(self.watch.direct_sent))
        message_id = inside.next_id(self.engine(number), is_direct=True)
        self.watch.direct_sent[message_id] = (to, self.sim.now, payload)
        try:
            assert self.sim.send(number, to, payload) == message_id
        except UnknownPeer:
            del self.watch.direct_sent[message_id]

    def crash(self, number: int, mode: str = "kept") -> None:
        self.watch.affect(number)
        self.watch.state_losses.append((number, self.sim.now, LOST_STATE_S[mode]))
        self.stopped_at[number].append(self.sim.now)
        self.sim.crash(number, lose_last_save=mode == "torn")
        self.sim.run(self.rng.uniform(0, 8))
        self.start(number, mode)

    def start(self, number: int, mode: str) -> None:
        self.watch.affect(number)
        for key in [each for each in self.watch.states if each[0] == number]:
            del self.watch.states[key]
        if mode == "lost":
            self.joined_at[number] = self.sim.now
        self.sim.restart(number, lose_state=mode == "lost")

    def crash_while_saving(self, number: int) -> None:
        """Crash while the state is being written."""
        node = self.sim.nodes[number]
        self.sim.run_until(lambda: self.sim.now - node.saved_at < 0.05, 5.0)
        if node.is_running:
            self.crash(number, "torn")

    def lose_state(self, number: int) -> None:
        self.crash(number, "lost")

    def partition(self, _: int) -> None:
        size = self.rng.randint(1, len(self.sim.nodes) - 1)
        self._partition(self.rng.sample(range(len(self.sim.nodes)), size), one_way=False)

    def partition_one_way(self, number: int) -> None:
        self._partition([number], one_way=True)

    def _partition(self, group: list[int], *, one_way: bool) -> None:
        self.partition_count += 1
        for each in range(len(self.sim.nodes)):
            self.watch.affected_at[each] = float("inf")
        self.sim.partition(group, one_way=one_way)

    def heal(self, _: int) -> None:
        self.sim.heal()
        if self.partition_count:
            self.partition_count = 0
            self.watch.affect(
                *(each for each in range(len(self.sim.nodes)) if each != self.malicious)
            )

    def suspend(self, number: int) -> None:
        seconds = self.rng.choice([1.0, 4.6, 8.0, 40.0])
        # Three accusers suspect for 3 s, after 2 s of silence. A refutation that passes several nodes and
        # links that must be dialed first may be later than one to linked peers.
        in_time_s = (0.8 if self.mix.is_full_mesh else 0.7) * self.mix.config.peer_timeout
        if seconds > in_time_s or self.mix.network.loss:
            self.watch.affect(number)  # otherwise no node has a reason to declare it dead
        self.watch.suspended_s = max(self.watch.suspended_s, seconds)
        self.sim.suspend(number, seconds)

    def slow(self, number: int) -> None:
        self.watch.affected_at[number] = float("inf")
        self.sim.slow(number, self.rng.choice([0.05, 0.5]))

    def skew_clock(self, number: int) -> None:
        error_s = self.rng.choice([-1e6, -60.0, 60.0, 1e6])
        self.sim.set_clock(number, error_s=error_s, rate=self.rng.uniform(0.999, 1.001))
        self.crash(number)

    def move(self, number: int) -> None:
        if number in BOOTSTRAP_NODES:
            return
        self.watch.affect(number)
        self.sim.move(number)

    def rotate_key(self, _: int) -> None:
        """Rotate the cluster key as in docs/how-to/rotate-keys.md: accept, use, then drop the old
        one.
        """
        secret = self.rng.randbytes(KEY_BYTES)
        self.watch.add_secret(secret)
        new = ClusterKey(secret)
        for keys in ((*self.keys, new), (new, *self.keys), (new,)):
            for each in range(len(self.sim.nodes)):
                self.sim.reconfigure(each, keys=keys)
                self.watch.affected_at.setdefault(each, 0.0)
                self.watch.affected_at[each] = max(self.sim.now, self.watch.affected_at[each])
            self.sim.run(self.rng.uniform(1, 10))
        self.keys = (new,)

    def change_strategy(self, number: int) -> None:
        """Switch to another strategy under load."""
        self.sim.reconfigure(number, strategy=self.rng.choice(STRATEGIES))

    def leave(self, number: int) -> None:
        if len(self.up()) <= 3 or number in BOOTSTRAP_NODES:
            return
        self.watch.affect(number)
        self.stopped.add(number)
        self.stopped_at[number].append(self.sim.now)
        self.sim.leave(number)

    def join(self, _: int) -> None:
        if len(self.sim.nodes) >= NODES_LIMIT:
            return
        number = self.sim.add(bootstrap=BOOTSTRAP_NODES, keys=self.keys)
        self.joined_at[number] = self.sim.now
        self.watch.affect(number)
        if self.partition_count:
            self.watch.affected_at[number] = float("inf")

    def unauthenticated(self, number: int) -> None:
        """Random bytes, corrupted Hellos and recorded Hellos, from an unauthenticated address."""
        hellos = [each for _, each, __ in self.captured if each[0] == codec.HELLO]
        for _ in range(20):
            self.sim.inject(number, self.some_bytes(1300), UNAUTHENTICATED)
        for each in hellos[-3:]:
            changed = bytearray(each)
            changed[self.rng.randrange(1, len(changed))] ^= 1 << self.rng.randrange(8)
            self.sim.inject(number, bytes(changed), UNAUTHENTICATED)
        for each in hellos[:3]:
            self.watch.unauthenticated_limit += len(each)
            self.sim.inject(number, each, UNAUTHENTICATED)

    def replay(self, _: int) -> None:
        """Recorded datagrams arrive again, from their source and from elsewhere."""
        for number, datagram, to in self.rng.sample(self.captured, min(40, len(self.captured))):
            target = next((each for each in self.sim.nodes if each.address == to), None)
            if target is None or not target.is_running:
                continue
            if datagram[0] in (codec.HELLO, codec.PROOF) or self.rng.random() < 0.7:
                self.sim.inject(target.number, datagram, self.sim.nodes[number].address)
            else:  # from a new address, which gets a path challenge of no more bytes
                self.watch.unauthenticated_limit += len(datagram)
                self.sim.inject(target.number, datagram, UNAUTHENTICATED)
