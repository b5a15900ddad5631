"""What recorded runs and recorded bytes are: `python -m tests.record` prints them, `--write` keeps them.

Seeds over sizes, strategies, loss, churn, partitions and restarts, each with its trace hash, and a
digest of the golden bytes of every message and frame. A change that must not alter behavior, such as
a renaming, leaves all lines as they are; one that does alter it writes new ones and says why.
"""

from __future__ import annotations

import argparse
import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

from grapevine_proto import NodeConfig
from grapevine_proto.errors import GrapevineError
from grapevine_proto.sim import Network, Simulation
from tests.docs import test_protocol_page
from tests.proto.wire import test_codec

RECORD: Final = Path(__file__).with_name("record.txt")


CALM: Final = Network()


@dataclass(frozen=True, slots=True)
class Run:
    """One cluster and its random actions."""

    name: str
    nodes: int
    acts: tuple[str, ...]
    seconds: float = 40.0
    network: Network = CALM
    config: dict[str, Any] | None = None
    zones: tuple[str, ...] = ()
    linked: int = 0


ROUGH: Final = Network(loss=0.1, duplication=0.02, reorder=0.05, corruption=0.01)
FAR: Final = Network(latency=(0.02, 0.05), latency_between_zones=(0.1, 0.2), loss=0.02)
MESSAGES: Final = ("broadcast", "broadcast", "trace", "send")
PLAIN: Final = ("broadcast", "broadcast", "send", "crash", "restart", "partition", "heal", "large")
ENTRIES: Final = (
    *("set entry", "set entry", "delete entry", "tags", "retain"),
    *("crash", "restart", "lose entries", "partition", "heal"),
)
CHURN: Final = (*MESSAGES, "crash", "restart", "leave")
ALL: Final = (*CHURN, "suspend", "move", "partition", "heal", "large", "slow", "reconfigure", "add")

RUNS: Final = (
    Run("two nodes", 2, MESSAGES),
    Run("three nodes lose state", 3, (*MESSAGES, "crash", "lose state")),
    Run("five rough", 5, MESSAGES, network=ROUGH),
    Run("auto churn", 8, CHURN),
    Run("auto everything", 10, ALL, 60.0, ROUGH),
    Run("plumtree", 12, CHURN, network=ROUGH, config={"strategy": "plumtree", "max_peers": 4}),
    Run("flood", 8, CHURN, network=ROUGH, config={"strategy": "flood", "max_peers": 4}),
    Run("epidemic", 12, CHURN, network=ROUGH, config={"strategy": "epidemic", "max_peers": 5}),
    Run("direct mail", 6, CHURN, network=ROUGH, config={"strategy": "direct-mail"}),
    Run(
        "hub and spoke",
        12,
        ALL,
        network=FAR,
        zones=("eu", "us", "ap"),
        config={"distribution": "hub-and-spoke", "max_peers": 5},
    ),
    Run(
        "prefer local",
        12,
        CHURN,
        network=FAR,
        zones=("eu", "us"),
        config={"distribution": "prefer-local", "max_peers": 4},
    ),
    Run(
        "prefer remote",
        12,
        CHURN,
        network=FAR,
        zones=("eu", "us"),
        config={"distribution": "prefer-remote", "max_peers": 4},
    ),
    Run("partitions", 9, (*MESSAGES, "partition", "one way", "heal"), 60.0),
    Run("sleepers", 7, (*MESSAGES, "suspend", "suspend", "slow"), 60.0),
    Run("restarts", 6, (*MESSAGES, "crash", "torn", "restart", "restart"), 60.0),
    Run("large messages", 4, ("large", "large", "broadcast", "partition", "heal"), network=ROUGH),
    Run("crowded", 16, ALL, config={"max_peers": 3}),
    Run("lan profile", 8, CHURN, 60.0, config={"profile": "lan"}),
    Run("linked", 60, MESSAGES, 20.0, Network(loss=0.02), {"max_peers": 6}, linked=4),
    Run("half a hundred", 50, CHURN, 15.0, Network(loss=0.01), {"max_peers": 8}),
    Run("plain messages", 10, PLAIN, 60.0, ROUGH),
    Run("plain messages in a tree", 12, PLAIN, network=ROUGH, config={"max_peers": 4}),
    Run("entries", 8, ENTRIES, network=ROUGH),
)


def play(seed: int, run: Run) -> str:
    """The trace hash of one run."""
    changes = dict(run.config or {})
    profile = NodeConfig.lan if changes.pop("profile", None) == "lan" else NodeConfig.local
    sim = Simulation(
        nodes=run.nodes,
        seed=seed,
        config=profile(**changes),
        network=run.network,
        zones=run.zones,
        initial_links=run.linked,
    )
    rng = random.Random(f"record {seed}")
    sim.run(3.0)
    while sim.now < run.seconds:
        number = rng.randrange(len(sim.nodes))
        act = ACTS[rng.choice(run.acts)]
        with contextlib.suppress(GrapevineError):  # a node that is down or unknown does nothing
            act(sim, rng, number)
        sim.run(rng.choice([0.0, 0.05, 0.5, 1.0, 2.0]))
    sim.heal()
    sim.run(10.0)
    return sim.trace_hash


def partition(sim: Simulation, rng: random.Random, number: int) -> None:
    sim.partition(rng.sample(range(len(sim.nodes)), len(sim.nodes) // 2))


def one_way(sim: Simulation, rng: random.Random, number: int) -> None:
    sim.partition([number], one_way=True)


def add(sim: Simulation, rng: random.Random, number: int) -> None:
    if len(sim.nodes) < 20:
        sim.add()


ACTS: Final[dict[str, Callable[[Simulation, random.Random, int], object]]] = {
    "broadcast": lambda sim, rng, n: sim.broadcast(n, rng.randbytes(rng.choice([1, 200, 1500]))),
    "trace": lambda sim, rng, n: sim.trace(n, b"traced"),
    "send": lambda sim, rng, n: sim.send(n, rng.randrange(len(sim.nodes)), rng.randbytes(300)),
    "large": lambda sim, rng, n: sim.broadcast(n, rng.randbytes(rng.choice([5_000, 60_000]))),
    "set entry": lambda sim, rng, n: sim.set_entry(n, rng.choice("abcd"), rng.randbytes(20)),
    "delete entry": lambda sim, rng, n: sim.delete_entry(n, rng.choice("abcd")),
    "tags": lambda sim, rng, n: sim.set_tags(n, {"role": rng.choice(["web", "db"])}),
    "retain": lambda sim, rng, n: sim.publish(n, "deploy.web", rng.randbytes(20), retain="web"),
    "lose entries": lambda sim, rng, n: sim.restart(n, lose_all_but_identity=True),
    "crash": lambda sim, rng, n: sim.crash(n),
    "torn": lambda sim, rng, n: sim.crash(n, lose_last_save=True),
    "restart": lambda sim, rng, n: sim.restart(n),
    "lose state": lambda sim, rng, n: sim.restart(n, lose_state=True),
    "leave": lambda sim, rng, n: sim.leave(n),
    "suspend": lambda sim, rng, n: sim.suspend(n, rng.choice([2.0, 8.0])),
    "slow": lambda sim, rng, n: sim.slow(n, rng.choice([0.0, 0.3])),
    "move": lambda sim, rng, n: sim.move(n),
    "reconfigure": lambda sim, rng, n: sim.reconfigure(n, fanout=rng.choice([2, 4])),
    "partition": partition,
    "one way": one_way,
    "heal": lambda sim, rng, n: sim.heal(),
    "add": add,
}


def wire_digest() -> str:
    """Of all golden bytes, in the order of their kinds."""
    golden = [*test_codec.GOLDEN.values(), *test_codec.GOLDEN_FRAMES.values()]
    golden += [*test_protocol_page.MORE.values()]
    handshake = test_protocol_page.GOLDEN.read_text()
    return blake2b("\n".join([*sorted(golden), handshake]).encode(), digest_size=16).hexdigest()


def lines() -> list[str]:
    """One for each run, and one for the wire."""
    runs = [f"{play(seed, run)}  {seed:2} {run.name}" for seed, run in enumerate(RUNS, 1)]
    return [*runs, f"{wire_digest()}     wire"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="keep what is printed")
    text = "\n".join(lines()) + "\n"
    print(text, end="")  # noqa: T201
    if parser.parse_args().write:
        RECORD.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
