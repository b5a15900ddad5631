"""`cache_invalidation.py`: four processes over real sockets, none of which keeps a stale value."""

from __future__ import annotations

from tests.examples.processes import Example, Start, free_ports

KEYS = 50


def started(start: Start, ports: str) -> Example:
    process = start("cache_invalidation.py", "cluster.key", ports, "shop.db")
    process.expect("listening on")
    return process


def write_all(writer: Example, readers: list[Example], version: str) -> None:
    """Changes every value, and checks that no reader keeps an old one."""
    for number in range(KEYS):
        writer.type(f"set item-{number} {version}")
    for reader in (writer, *readers):
        for number in range(KEYS):
            reader.ask_until(f"get item-{number}", version)


def test_a_value_that_one_process_changes_is_stale_in_none_through_kills_and_restarts(
    start: Start,
) -> None:
    ports = free_ports()
    nodes = [started(start, ports) for _ in range(4)]
    write_all(nodes[0], nodes[1:], "first")
    write_all(nodes[1], [nodes[0], *nodes[2:]], "second")
    nodes[3].kill()
    write_all(nodes[0], nodes[1:3], "third")
    nodes[3] = started(start, ports)
    write_all(nodes[3], nodes[:3], "fourth")
    assert nodes[0].leave() == 0
    nodes[0] = started(start, ports)
    write_all(nodes[2], [nodes[0], nodes[1], nodes[3]], "fifth")
    assert [each.leave() for each in nodes] == [0] * 4
