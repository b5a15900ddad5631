"""Simulation of a cluster under virtual time; see docs/reference/simulation.md."""

from grapevine_proto.sim.network import Network
from grapevine_proto.sim.report import Dissemination
from grapevine_proto.sim.shortcuts import computed_once
from grapevine_proto.sim.simulated_node import Delivery, SimulatedNode
from grapevine_proto.sim.simulation import Simulation

__all__ = ["Delivery", "Dissemination", "Network", "SimulatedNode", "Simulation", "computed_once"]
