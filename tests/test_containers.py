"""Every container of the engine is in the table of docs/security.md, with a cap, an end and a test."""

from __future__ import annotations

import re
from typing import Final

import pytest

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.sim import Network, Simulation
from tests.containers import containers_of, declared_containers
from tests.sources import ROOT

OUTSIDE: Final = frozenset(
    # what drives the engine, and the simulation: peers reach it through events alone
    {"config", "crypto", "errors", "faults", "node", "runtime", "sim", "storage", "version"}
)


def table() -> dict[str, list[str]]:
    """The rows of the page, by container."""
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    section = text.split("\n## Containers\n")[1].split("\n## ")[0]
    rows: dict[str, list[str]] = {}
    for line in section.splitlines():
        if not line.startswith("| `"):
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        for name in re.findall(r"`([A-Za-z_]+\.[a-z_]+)`", cells[0]):
            assert name not in rows, f"{name} is listed twice"
            rows[name] = cells[1:]
    return rows


@pytest.fixture(scope="module")
def live() -> dict[str, set[int]]:
    """The containers of nodes that link, speak, trace, have tags and lose packets, under every strategy."""
    found: dict[str, set[int]] = {}
    for strategy in ("auto", "plumtree", "flood", "epidemic", "direct-mail"):
        config = NodeConfig.lan(strategy=strategy, max_peers=4)
        sim = Simulation(nodes=6, seed=1, config=config, network=Network(loss=0.1))
        sim.run(3.0)
        for number in range(6):
            sim.broadcast(number, bytes(20_000 if number % 2 else 10))
            sim.trace(number, b"traced")
            sim.set_tags(number, {"role": "web"})
        for seconds in (0.3, 10.0):
            sim.run(seconds)
            for node in sim.nodes:
                for name, sizes in containers_of(node.engine).items():
                    found.setdefault(name, set()).update(sizes)
    return found


def test_every_container_in_the_source_is_in_the_table() -> None:
    declared = declared_containers(ROOT / "grapevine_proto", OUTSIDE)
    assert sorted(declared - table().keys()) == []


def test_every_container_of_a_live_engine_is_in_the_table(live: dict[str, set[int]]) -> None:
    assert len(live) > 100
    assert sorted(live.keys() - table().keys()) == []


def test_the_table_lists_only_existing_containers(live: dict[str, set[int]]) -> None:
    declared = declared_containers(ROOT / "grapevine_proto", OUTSIDE)
    assert sorted(table().keys() - declared - live.keys()) == []


def test_every_row_has_a_limit_an_eviction_rule_and_an_existing_test() -> None:
    for name, (cap, end, _, test) in table().items():
        assert cap, name
        assert end, name
        assert (ROOT / test.strip("`")).is_file(), (name, test)
