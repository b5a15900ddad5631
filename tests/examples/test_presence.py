"""`presence.py`: four workers over real sockets, of which one leads at any time."""

from __future__ import annotations

import signal

from tests.examples.processes import WAIT_S, Example, Start, free_ports


def leader_of(workers: dict[str, Example], count: int) -> str:
    """Waits until a worker leads `count`, and returns its name. Others print nothing meanwhile."""
    line = ""
    for _ in range(100):
        for worker in workers.values():
            for line in worker.read():
                if line.endswith(f" leads {count} workers"):
                    return line.split(" ")[0]
    raise AssertionError([worker.seen for worker in workers.values()])


def test_workers_see_each_other_come_and_go_and_another_leads_when_the_leader_is_killed(
    start: Start,
) -> None:
    ports = free_ports()
    workers = {
        name: start("presence.py", "cluster.key", ports, name)
        for name in ("worker-1", "worker-2", "worker-3", "worker-4")
    }
    leader = leader_of(workers, 4)
    workers.pop(leader).kill()
    witness = next(iter(workers.values()))
    witness.expect(f"'{leader}' is down")
    name, leaving = workers.popitem()
    leaving.process.send_signal(signal.SIGINT)
    assert leaving.process.wait(WAIT_S) == 0
    witness.expect(f"'{name}' is left")
    workers[leader] = start("presence.py", "cluster.key", ports, leader)
    witness.expect(f"'{leader}' is up")
    assert leader_of(workers, 3) in workers
