"""Keyed state: how soon a new node has the maps of all members, and what links cost that are in sync.

    python -m tests.benchmarks.bench_keyed_state                # 1,000 members with 1 KiB each: half a minute
    python -m tests.benchmarks.bench_keyed_state --owners 200 --size 4000

Runs in the simulator, with 10 to 50 ms of latency. A small cluster holds the entries of many owners, of which
all but its nodes are simulated by their signed entries alone; then a node joins. `joined_s` is the time
until it has every map, from its first datagram; `idle_bytes` what one link carries in 30 s that it would not
carry without entries; `spread_ms` how soon a new entry is at all nodes. Exit code 1: the node got less than
everything, or more than 3 s or 32 bytes were needed.
"""

from __future__ import annotations

import argparse
import random
import sys
from dataclasses import dataclass
from functools import partial

from grapevine_proto import NodeConfig
from grapevine_proto.crypto.identity import Identity
from grapevine_proto.overlay.state.owner_map import Entry, OwnerMap
from grapevine_proto.sim import Simulation
from grapevine_proto.wire.attributes import rumor_attributes
from grapevine_proto.wire.entry_terms import EntryTerms
from grapevine_proto.wire.signed import Rumor

NODES = 5
EPOCH = 1_600_000_000
JOINED_WITHIN_S = 3.0
IDLE_BYTES_LIMIT = 32.0
IDLE_S = 300.0


@dataclass(frozen=True)
class StateFigures:
    """Seconds and milliseconds of virtual time, bytes per link and 30 s, and the maps of the new node."""

    joined_s: float
    joined_bytes: int
    idle_bytes: float
    spread_ms: float
    maps: int


def signed_entry(number: int, size_bytes: int, keys: int) -> list[Rumor]:
    """The entries of one owner."""
    rng = random.Random(f"owner {number}")
    identity = Identity(rng.randbytes(32))
    owner_map, rumors = OwnerMap(identity.peer_id), []
    for sequence in range(1, keys + 1):
        key, value = f"key {sequence}", rng.randbytes(size_bytes // keys)
        terms = EntryTerms(key, 1)
        digest = owner_map.digest_with((EPOCH, sequence), terms, value)
        attributes = rumor_attributes(entry=EntryTerms(key, 1, digest=digest))
        rumor = Rumor.signed(identity, "default", EPOCH, sequence, (value,), attributes=attributes)
        entry = Entry.from_rumor(rumor, 0.0)
        assert entry is not None
        owner_map.apply(entry)
        rumors.append(rumor)
    return rumors


def sums(sim: Simulation) -> set[int]:
    return {node.engine.state.sum for node in sim.nodes if node.engine is not None}


def agree(sim: Simulation, nodes: int) -> bool:
    return sum(node.engine is not None for node in sim.nodes) == nodes and len(sums(sim)) == 1


def idle_bytes(sim: Simulation) -> float:
    """What one link carries in 30 s."""
    before = sim.bytes
    sim.run(IDLE_S)
    links = sum(sim.connected(node.number) for node in sim.nodes) / 2
    return (sim.bytes - before) / links / (IDLE_S / 30.0)


def measure(*, owners: int, size_bytes: int, keys: int = 1, seed: int = 1) -> StateFigures:
    """Lets a node join a cluster with the entries of `owners` members."""
    config = NodeConfig.lan()
    plain = Simulation(nodes=NODES + 1, seed=seed, config=config, hash_trace=False)
    plain.run(120.0)
    plain_bytes = idle_bytes(plain)

    sim = Simulation(nodes=NODES, seed=seed, config=config, hash_trace=False)
    sim.run(30.0)
    rumors = [signed_entry(number, size_bytes, keys) for number in range(owners)]
    for node in sim.nodes:
        assert node.engine is not None
        for each in rumors:
            for rumor in each:
                entry = Entry.from_rumor(rumor, node.read_clock(sim.now))
                assert entry is not None
                node.engine.state.take(entry, node.read_clock(sim.now))
    sim.run(60.0)
    number = sim.add(bootstrap=3)
    started_at, bytes_before = sim.now, sim.bytes
    sim.run_until(partial(agree, sim, NODES + 1), 60.0, every=0.01)
    joined_s, joined_bytes = sim.now - started_at, sim.bytes - bytes_before
    engine = sim.nodes[number].engine
    maps = 0 if engine is None else len(engine.state.maps)
    sim.run(120.0)
    state_bytes = idle_bytes(sim)
    sim.set_entry(0, "new", b"value")
    set_at = sim.now
    sim.run_until(partial(agree, sim, NODES + 1), 30.0, every=0.001)
    spread_ms = 1000 * (sim.now - set_at)
    return StateFigures(joined_s, joined_bytes, state_bytes - plain_bytes, spread_ms, maps)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--owners", type=int, default=1000)
    parser.add_argument("--size", type=int, default=1024, help="bytes of values per owner")
    parser.add_argument("--keys", type=int, default=1, help="keys of each owner")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    found = measure(
        owners=options.owners, size_bytes=options.size, keys=options.keys, seed=options.seed
    )
    print(
        f"{options.owners} owners with {options.size} bytes in {options.keys} keys:"
        f" joined {found.joined_s:.2f} s with {found.maps} maps, {found.joined_bytes / 1e6:.2f} MB sent;"
        f" in sync {found.idle_bytes:+.1f} bytes per link and 30 s; a new entry spreads in"
        f" {found.spread_ms:.0f} ms"
    )
    is_good = (
        found.maps == options.owners
        and found.joined_s <= JOINED_WITHIN_S
        and found.idle_bytes <= IDLE_BYTES_LIMIT
    )
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
