"""`config_store.py`: four processes over real sockets, none of which misses a change."""

from __future__ import annotations

from tests.examples.processes import Example, Start, free_ports

KEYS = 20


def started(start: Start, ports: str, number: int) -> Example:
    process = start("config_store.py", "cluster.key", ports, f"state-{number}")
    process.expect("listening on")
    return process


def set_all(writer: Example, value: str) -> None:
    for number in range(KEYS):
        writer.type(f"set key-{number} {value}")


def expect_all(reader: Example, value: str) -> None:
    for number in range(KEYS):
        reader.ask_until(f"get key-{number}", f"key-{number} is b'{value}'")


def test_no_change_is_missed_through_kills_and_restarts(start: Start) -> None:
    ports = free_ports()
    nodes = [started(start, ports, number) for number in range(4)]
    set_all(nodes[0], "first")
    nodes[1].expect(f"changed cfg/key-{KEYS - 1} b'first'")
    for node in nodes:
        expect_all(node, "first")
    nodes[3].kill()
    set_all(nodes[1], "second")
    nodes[3] = started(start, ports, 3)
    for node in nodes:
        expect_all(node, "second")
    nodes[1].kill()  # which set what the others have
    nodes[2].type("del key-0")
    nodes[3].ask_until("get key-0", "is None")
    assert nodes[0].leave() == 0
    set_all(nodes[2], "third")
    nodes[0], nodes[1] = started(start, ports, 0), started(start, ports, 1)
    for node in nodes:
        expect_all(node, "third")
    assert [node.leave() for node in nodes] == [0] * 4


def test_all_come_back_with_what_they_had(start: Start) -> None:
    ports = free_ports()
    nodes = [started(start, ports, number) for number in range(3)]
    set_all(nodes[0], "kept")
    for node in nodes:
        expect_all(node, "kept")
    assert [node.leave() for node in nodes] == [0] * 3
    nodes = [started(start, ports, number) for number in range(3)]
    for node in nodes:
        expect_all(node, "kept")
