"""Simulated nodes answer the built-in queries (`grapevine_proto.runtime.builtin_queries`) as real ones do."""

from __future__ import annotations

from typing import NamedTuple

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.engine import Engine
from grapevine_proto.events import JsonObject, PeerInfo, Question, Stats
from grapevine_proto.ids import MessageId
from grapevine_proto.runtime.builtin_queries import (
    BUILTIN_QUERIES,
    arrival_fields,
    builtin_handlers,
)
from grapevine_proto.sim.simulation import Simulation


class _EngineAt(NamedTuple):
    """An engine at a time of its own clock, for the answers."""

    engine: Engine
    now: float

    @property
    def config(self) -> NodeConfig:
        return self.engine.config

    def peers(self) -> list[PeerInfo]:
        return self.engine.peers(self.now)

    def stats(self) -> Stats:
        return self.engine.stats()

    def arrival_to_dict(self, message_id: MessageId) -> JsonObject:
        return arrival_fields(self.engine.arrival(message_id), self.now)


def answer_builtin_queries(simulation: Simulation) -> None:
    """Let every node of `simulation` answer the queries whose names begin with ``grapevine.``."""

    def answer(number: int, question: Question) -> bytes | None:
        node = simulation.nodes[number]
        if node.engine is None:
            return None
        engine = _EngineAt(node.engine, node.read_clock(simulation.now))
        return builtin_handlers(engine)[question.name](question)

    for name in BUILTIN_QUERIES:
        simulation.on_query(name, answer)
