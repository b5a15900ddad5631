"""The cluster of the demo: fifteen simulated nodes in four zones, and the place of the node shown.

Invariants:

- The nodes run the real engine over a simulated network with the latencies of `LATENCIES_MS`. The node
  shown is an ordinary one that reaches them through a socket of that network.
- Nothing leaves this process. The history of the node shown is in a temporary directory until `close`.
- No node has as many links as the cluster has members, so most messages take several hops.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Final, NamedTuple

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.ids import Address, Zone
from grapevine_proto.sim import Network, Simulation
from grapevine_proto.sim.builtin_answers import answer_builtin_queries
from grapevine_proto.sim.live import LiveSimulation, SimulatedSocket
from grapevine_proto.sim.node import START_UNIX_S, SimulatedNode

PORT: Final = 8000
HOME_ZONE: Final = "eu-west"


class DemoNode(NamedTuple):
    name: str
    zone: Zone
    role: str


DEMO_NODES: Final = (
    DemoNode("ams-2", HOME_ZONE, "web"),
    DemoNode("lon-1", HOME_ZONE, "api"),
    DemoNode("lon-2", HOME_ZONE, "db"),
    DemoNode("fra-1", "eu-central", "ci"),
    DemoNode("fra-2", "eu-central", "api"),
    DemoNode("ber-1", "eu-central", "web"),
    DemoNode("vie-1", "eu-central", "db"),
    DemoNode("nyc-1", "us-east", "api"),
    DemoNode("nyc-2", "us-east", "web"),
    DemoNode("nyc-3", "us-east", "db"),
    DemoNode("iad-1", "us-east", "cache"),
    DemoNode("sin-1", "ap-south", "api"),
    DemoNode("sin-2", "ap-south", "web"),
    DemoNode("bom-1", "ap-south", "db"),
    DemoNode("bom-2", "ap-south", "cache"),
)
ZONES: Final = tuple(dict.fromkeys(each.zone for each in DEMO_NODES))
HOME_RTT_MS: Final = 2.0
LATENCIES_MS: Final = {
    (HOME_ZONE, "eu-central"): 30.0,
    (HOME_ZONE, "us-east"): 90.0,
    (HOME_ZONE, "ap-south"): 180.0,
    ("eu-central", "us-east"): 100.0,
    ("eu-central", "ap-south"): 160.0,
    ("us-east", "ap-south"): 220.0,
}
"""Round-trip times between zones; within one it is `HOME_RTT_MS`."""
BOOTSTRAP_NODES: Final = ("ams-2", "lon-1", "fra-1", "nyc-1", "sin-1", "fra-2", "nyc-2")
MAX_PEERS: Final = 7  # one more than `_links` gives a node: room for the node shown
UPTIMES_S: Final = (3_600.0, 20 * 86_400.0)
LOSS: Final = 0.002  # of every path


class DemoCluster:
    """The simulated nodes, not yet started. `config` is that of the node shown."""

    def __init__(self, config: NodeConfig, *, seed: int | None = None) -> None:
        self._rng = random.Random(seed)  # not used for secrets
        base = NodeConfig.local(keys=config.keys, cluster=config.cluster, max_peers=MAX_PEERS)
        self.simulation = Simulation(
            nodes=0,
            config=base,
            seed=self._rng.getrandbits(32),
            network=network(),
            hash_trace=False,
        )
        self.live = LiveSimulation(self.simulation)
        self._zone = config.zone if config.zone in ZONES else HOME_ZONE
        answer_builtin_queries(self.simulation)
        self._numbers = {each.name: self._add(each) for each in DEMO_NODES}
        self._history: tempfile.TemporaryDirectory[str] | None = None

    @property
    def bootstrap_peers(self) -> tuple[str, ...]:
        """Addresses that the node shown dials."""
        return tuple(str(address_of(name)) for name in BOOTSTRAP_NODES)

    def socket_opener(self) -> Callable[[str], Awaitable[SimulatedSocket]]:
        """What opens the socket of the node shown."""
        return self.live.socket_opener(_address(self._zone, 1), zone=self._zone)

    def history_dir(self) -> Path:
        """A directory for the history of the node shown, which `close` removes."""
        if self._history is None:
            self._history = tempfile.TemporaryDirectory(
                prefix="grapevine-demo-", ignore_cleanup_errors=True
            )
        return Path(self._history.name)

    def start(self) -> None:
        """Link the nodes and let their time pass. Call it in the event loop of the node shown."""
        self.simulation.link(_links())
        self.live.start()

    async def close(self) -> None:
        """Stop all nodes and remove the history."""
        await self.live.stop()
        if self._history is not None:
            self._history.cleanup()
            self._history = None

    def number_of(self, name: str) -> int:
        """The number of a simulated node. Raises KeyError."""
        return self._numbers[name]

    def node(self, name: str) -> SimulatedNode:
        """The simulated node of that name. Raises KeyError."""
        return self.simulation.nodes[self._numbers[name]]

    def is_up(self, name: str) -> bool:
        """Whether that node runs and is not suspended."""
        node = self.node(name)
        return node.engine is not None and node.suspended_at is None

    def _add(self, node: DemoNode) -> int:
        number = self.simulation.add(
            bootstrap=0,
            address=address_of(node.name),
            name=node.name,
            zone=node.zone,
            tags={"role": node.role, "version": "2.4.1"},
        )
        uptime_s = self._rng.uniform(*UPTIMES_S)
        self.simulation.set_clock(number, error_s=time.time() - uptime_s - START_UNIX_S)
        return number


def network() -> Network:
    """The network of the demo: the latencies between its zones, and a little loss."""
    return Network(
        latency=_one_way(HOME_RTT_MS),
        latency_by_zones={zones: _one_way(rtt_ms) for zones, rtt_ms in LATENCIES_MS.items()},
        loss=LOSS,
    )


def address_of(name: str) -> Address:
    """The address of a node of the demo. Raises StopIteration for another one."""
    node = next(each for each in DEMO_NODES if each.name == name)
    same_zone = [each for each in DEMO_NODES if each.zone == node.zone]
    return _address(node.zone, 2 + same_zone.index(node))


def _address(zone: Zone, host: int) -> Address:
    return Address(f"10.{1 + ZONES.index(zone)}.0.{host}", PORT)


def _one_way(rtt_ms: float) -> tuple[float, float]:
    return rtt_ms / 2_000, rtt_ms / 2_000 * 1.02


def _links() -> Iterator[tuple[int, int]]:
    """All pairs of one zone, and between two zones a link per node."""
    by_zone = {
        zone: [number for number, each in enumerate(DEMO_NODES) if each.zone == zone]
        for zone in ZONES
    }
    for numbers in by_zone.values():
        yield from combinations(numbers, 2)
    for shift, (one, other) in enumerate(combinations(by_zone.values(), 2)):
        for index, number in enumerate(one):
            yield number, other[(index + shift) % len(other)]
