"""`replicated_map.py`: four processes over real sockets with one map."""

from __future__ import annotations

from tests.examples.processes import Example, Start, free_ports


def started(start: Start, ports: str) -> Example:
    process = start("replicated_map.py", "map.key", ports)
    process.expect("listening on")
    return process


def test_the_map_is_the_same_everywhere_and_outlives_its_authors(start: Start) -> None:
    ports = free_ports()
    nodes = [started(start, ports) for _ in range(3)]
    nodes[0].ask("color=red", "{")
    nodes[1].ask_until("", "{'map/color': b'red'}")
    nodes[1].ask("color=green", "{")  # it has seen red, so it wins
    nodes[2].ask("size=7", "{")
    expected = "{'map/color': b'green', 'map/size': b'7'}"
    for node in nodes:
        node.ask_until("", expected)
    nodes[1].kill()
    assert nodes[2].leave() == 0
    joiner = started(start, ports)
    joiner.ask_until("", expected)
    assert [joiner.leave(), nodes[0].leave()] == [0, 0]
