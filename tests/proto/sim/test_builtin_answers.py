"""Simulated nodes answer the built-in queries from their engines."""

from __future__ import annotations

import json

from grapevine_proto.events import AnswerStatus
from grapevine_proto.runtime.builtin_queries import BUILTIN_QUERIES
from grapevine_proto.sim import Simulation
from grapevine_proto.sim.builtin_answers import answer_builtin_queries


def test_every_builtin_query_is_answered_by_every_node() -> None:
    simulation = Simulation(nodes=4, seed=1)
    answer_builtin_queries(simulation)
    simulation.run(10)
    message_id = simulation.broadcast(1, b"hello")
    simulation.run(2)
    found: dict[str, list[bytes]] = {}
    for name in BUILTIN_QUERIES:
        payload = str(message_id).encode() if name.endswith(".has") else b""
        query = simulation.query(0, name, payload)
        simulation.run(5)
        answers = simulation.nodes[0].answers[query]
        assert [each.status for each in answers] == [AnswerStatus.ANSWERED] * 4, name
        found[name] = [each.payload for each in answers]
    assert all(len(json.loads(each)) == 3 for each in found["grapevine.links"])
    assert all(json.loads(each)["cached"] for each in found["grapevine.has"])


def test_an_id_that_is_none_is_refused() -> None:
    simulation = Simulation(nodes=2, seed=1)
    answer_builtin_queries(simulation)
    simulation.run(5)
    query = simulation.query(0, "grapevine.has", b"nonsense")
    simulation.run(5)
    answers = simulation.nodes[0].answers[query]
    assert {each.status for each in answers} == {AnswerStatus.REFUSED}
