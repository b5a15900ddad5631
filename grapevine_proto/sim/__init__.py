"""Simulation of a cluster under virtual time; see docs/reference/simulation.md."""

from grapevine_proto.sim.fast_start import memoized
from grapevine_proto.sim.nat import Nat, NatKind
from grapevine_proto.sim.network import Network
from grapevine_proto.sim.node import Delivery, SimulatedNode
from grapevine_proto.sim.report import BroadcastReport
from grapevine_proto.sim.simulation import Simulation

__all__ = [
    "BroadcastReport",
    "Delivery",
    "Nat",
    "NatKind",
    "Network",
    "SimulatedNode",
    "Simulation",
    "memoized",
]
