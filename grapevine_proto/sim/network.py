"""The network model of the simulator: latency, loss, duplication, reordering and corruption.

Invariants:

- All randomness comes from one generator for the network alone, drawn in the order in which
  datagrams are sent: a node that behaves the same experiences the same network.
- A partition stops datagrams when they are sent; those in flight when it begins still arrive.
- Latency is never negative and, with `per_pair`, the same in both directions.
- The zones of two nodes alone decide which latency applies.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from grapevine_proto.ids import Zone
from grapevine_proto.sim.nat import Nat

REORDER_DELAY_FACTOR: Final = (
    3.0  # maximum extra delay of a reordered datagram, in maximum latencies
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """Model of the network. Times are in seconds, probabilities from 0 to 1, drawn for every datagram."""

    latency: tuple[float, float] = (0.010, 0.050)
    """Minimum and maximum one-way latency, uniform between them. A spread alone already reorders."""
    latency_between_zones: tuple[float, float] | None = None
    """The same between nodes of different zones; None: zones make no difference."""
    latency_by_zones: Mapping[tuple[Zone, Zone], tuple[float, float]] = field(
        default_factory=dict, hash=False
    )
    """The same between nodes of these two zones, in either order; it takes precedence."""
    per_pair: bool = False
    """Draw one latency per pair of nodes and keep it, instead of one per datagram."""
    loss: float = 0.0
    """Probability of loss."""
    duplication: float = 0.0
    """Probability of a second copy, with its own latency."""
    reorder: float = 0.0
    """Probability of an extra delay of up to three times the maximum latency."""
    corruption: float = 0.0
    """Probability that one bit is flipped."""
    nat: Mapping[int, Nat | str] = field(default_factory=dict, hash=False)
    """The NATs of nodes, by their numbers: a `Nat` or the value of a `NatKind`. Fixed for a run."""
    mapping_ttl: float = 30.0
    """Seconds after its last datagram to the outside that a NAT forgets a mapping."""

    def __post_init__(self) -> None:
        for name in ("latency", "latency_between_zones"):
            _check_range(name, *(getattr(self, name) or (0.0, 0.0)))
        for zones, (low, high) in self.latency_by_zones.items():
            _check_range(f"latency_by_zones[{zones}]", low, high)
        for name in ("loss", "duplication", "reorder", "corruption"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: must be between 0 and 1, got {getattr(self, name)}")


def _check_range(name: str, low: float, high: float) -> None:
    if not 0 <= low <= high:
        raise ValueError(f"{name}: expected 0 <= minimum <= maximum, got {(low, high)}")


class NetworkModel:
    """Applies a `Network` to datagrams between nodes, which are identified by number."""

    def __init__(self, network: Network, seed: str) -> None:
        self.network = network
        self._seed = seed
        self._rng = random.Random(seed)
        self._pair_positions: dict[tuple[int, int], float] = {}
        self._blocked: list[tuple[frozenset[int], frozenset[int]]] = []
        self._zones: dict[int, Zone] = {}
        self._losses: dict[int, float] = {}  # of nodes, beside the network's

    def set_zone(self, number: int, zone: Zone) -> None:
        """Sets the zone of a node; the default is the empty zone."""
        self._zones[number] = zone

    def crosses_zones(self, source: int, target: int) -> bool:
        """Whether `source` and `target` are in different zones."""
        return self._zones.get(source, "") != self._zones.get(target, "")

    def block(self, source: Collection[int], target: Collection[int]) -> None:
        """Blocks datagrams from `source` to `target`, but not in the other direction."""
        self._blocked.append((frozenset(source), frozenset(target)))

    def heal(self) -> None:
        """Removes all blocks."""
        self._blocked.clear()

    def set_loss(self, number: int, loss: float) -> None:
        """Loses datagrams from and to a node with this probability, beside those that the network loses."""
        if not 0 <= loss <= 1:
            raise ValueError(f"loss: must be between 0 and 1, got {loss}")
        self._losses[number] = loss
        if not loss:
            del self._losses[number]

    def transmit(self, source: int, target: int, datagram: bytes) -> list[tuple[float, bytes]]:
        """Returns the copies of `datagram` that arrive, each with its delay in seconds: none, one or two."""
        for blocked_sources, blocked_targets in self._blocked:
            if source in blocked_sources and target in blocked_targets:
                return []
        network, draw = self.network, self._rng.random
        if network.loss and draw() < network.loss:
            return []
        if self._losses:
            loss = max(self._losses.get(source, 0.0), self._losses.get(target, 0.0))
            if loss and draw() < loss:
                return []
        arrivals = [(self._delay_s(source, target), datagram)]
        if network.duplication and draw() < network.duplication:
            arrivals.append((self._delay_s(source, target), datagram))
        if network.corruption and draw() < network.corruption:
            arrivals[0] = (arrivals[0][0], self._flip_bit(datagram))
        return arrivals

    def mean_rtt_s(self, source: int, target: int) -> float:
        """Returns the mean RTT between two nodes in seconds. Draws no random number."""
        low, high = self._range_s(source, target)
        position = self._pair_position(source, target) if self.network.per_pair else 0.5
        return 2 * (low + (high - low) * position)

    def _range_s(self, source: int, target: int) -> tuple[float, float]:
        network = self.network
        if network.latency_by_zones:
            zones = self._zones.get(source, ""), self._zones.get(target, "")
            found = network.latency_by_zones.get(zones) or network.latency_by_zones.get(zones[::-1])
            if found is not None:
                return found
        if network.latency_between_zones is not None and self.crosses_zones(source, target):
            return network.latency_between_zones
        return network.latency

    def _delay_s(self, source: int, target: int) -> float:
        network = self.network
        low, high = self._range_s(source, target)
        if network.per_pair:
            delay_s = low + (high - low) * self._pair_position(source, target)
        else:
            delay_s = low + (high - low) * self._rng.random()
        if network.reorder and self._rng.random() < network.reorder:
            delay_s += REORDER_DELAY_FACTOR * high * self._rng.random()
        return delay_s

    def _pair_position(self, source: int, target: int) -> float:
        """Returns the latency of this pair of nodes, as a position from 0 (minimum) to 1 (maximum)."""
        pair = (source, target) if source < target else (target, source)
        position = self._pair_positions.get(pair)
        if position is None:  # seeded by the pair, so that the order of first use does not matter
            position = random.Random(f"{self._seed}/{pair[0]}/{pair[1]}").random()
            self._pair_positions[pair] = position
        return position

    def _flip_bit(self, datagram: bytes) -> bytes:
        bit = self._rng.randrange(8 * len(datagram))
        changed = bytearray(datagram)
        changed[bit // 8] ^= 1 << bit % 8
        return bytes(changed)
