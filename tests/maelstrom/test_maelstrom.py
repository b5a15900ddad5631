"""The example for Maelstrom under our stand-in for it, and a node with a defect, which must fail."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.maelstrom import workloads
from tests.maelstrom.network import Nodes
from tests.maelstrom.workloads import spread, unique_ids

ROOT = Path(__file__).parents[2]
ADAPTER = ROOT / "examples" / "maelstrom_node.py"
LOSING = Path(__file__).parent / "losing_node.py"


@contextmanager
def started(program: Path = ADAPTER, *, size: int = 3, latency_s: float = 0.0) -> Iterator[Nodes]:
    nodes = Nodes([sys.executable, str(program)], size, latency_s=latency_s)
    try:
        nodes.start()
        yield nodes
    finally:
        nodes.close()


def test_every_broadcast_is_read_once_everywhere_also_across_a_partition() -> None:
    with started(latency_s=0.01) as nodes:
        result = spread(nodes, "broadcast", rate=40, seconds=2, partition_s=0.5, join_s=0.5)
    assert (result.lost, result.unexpected, result.duplicated) == ((), (), ())
    assert result.operations == result.acknowledged == 80
    assert result.messages_per_op >= 2  # two others have each


def test_the_latency_of_a_broadcast_lasts_until_all_nodes_have_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GRAPEVINE_BATCH_DELAY", "0.3")
    with started(latency_s=0.1) as nodes:
        result = spread(nodes, "broadcast", rate=10, seconds=1, join_s=0.5, measures_latency=True)
    assert result.is_valid
    assert len(result.latencies_s) == 10
    assert result.latencies_s[-1] >= 0.3, "the first of a batch waits for the others"
    assert "latency: median" in str(result)


def test_every_element_of_a_set_is_read_everywhere() -> None:
    with started() as nodes:
        result = spread(nodes, "g-set", rate=20, seconds=1, join_s=0.5)
    assert (result.lost, result.unexpected, result.acknowledged) == ((), (), 20)


def test_ids_are_unique() -> None:
    with started() as nodes:
        assert unique_ids(nodes, requests=200, seed=1) == []


def test_requests_are_answered_as_the_protocol_says() -> None:
    with started(size=1) as nodes:
        (echo,) = nodes.call_all(lambda _: {"type": "echo", "echo": [1, {"a": None}]})
        (unknown,) = nodes.call_all(lambda _: {"type": "txn"})
    assert (echo["type"], echo["echo"]) == ("echo_ok", [1, {"a": None}])
    assert (unknown["type"], unknown["code"]) == ("error", 10)


def test_the_checker_names_what_a_node_with_a_defect_lost_and_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setattr(workloads, "SETTLE_S", 0.5)
    with started(LOSING) as nodes:
        result = spread(nodes, "broadcast", rate=60, seconds=0.5, join_s=0.5)
    assert not result.is_valid
    assert result.lost
    assert result.duplicated
    assert result.unexpected == ()
