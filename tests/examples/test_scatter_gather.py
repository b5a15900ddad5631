"""`scatter_gather.py`: four processes over real sockets, each of which answers for its own file."""

from __future__ import annotations

import time
from pathlib import Path

from tests.examples.processes import WAIT_S, Example, Start, free_ports

PAUSE_S = 0.35  # a node begins at most 16 queries in 5 s
NAMES = ("web-1", "web-2", "db-1", "db-2")


def started(start: Start, ports: str, name: str) -> Example:
    process = start("scatter_gather.py", "cluster.key", ports, f"{name}.log")
    process.expect("listening on")
    return process


def search(process: Example, word: str) -> set[str]:
    """Returns the lines found, each without its node."""
    start_of_answers = len(process.seen)
    process.ask(word, "nodes answered in")
    return {line.split(" ", 1)[1] for line in process.seen[start_of_answers:-1]}


def search_until(process: Example, word: str, expected: set[str], summary: str) -> None:
    """Searches again while members come and go."""
    give_up_at = time.monotonic() + WAIT_S
    while search(process, word) != expected or summary not in process.seen[-1]:
        assert time.monotonic() < give_up_at, process.seen[-20:]
        time.sleep(PAUSE_S)


def test_every_live_node_answers_for_its_file_through_kills_and_restarts(
    start: Start, tmp_path: Path
) -> None:
    for name in NAMES:
        (tmp_path / f"{name}.log").write_text(f"boot\nERROR at {name}\nERROR again\n")
    ports = free_ports()
    nodes = [started(start, ports, name) for name in NAMES]
    found = {name: repr(f"ERROR at {name}\nERROR again") for name in NAMES}
    for node in nodes:
        search_until(node, "ERROR", set(found.values()), "4 of 4 nodes")
    assert search(nodes[0], "ERROR at db-1") == {"'ERROR at db-1'"}
    assert search(nodes[0], "nothing") == set()
    nodes[1].kill()
    search_until(nodes[0], "ERROR", set(found.values()) - {found["web-2"]}, "3 of ")
    nodes[1] = started(start, ports, "web-2")
    search_until(nodes[1], "ERROR", set(found.values()), "4 of ")
    assert nodes[2].leave() == 0
    search_until(nodes[1], "ERROR", set(found.values()) - {found["db-1"]}, "3 of ")
    assert [node.leave() for node in (nodes[0], nodes[1], nodes[3])] == [0] * 3
