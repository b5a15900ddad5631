"""The workloads of the stand-in and how their histories are judged, as Maelstrom's set-full checker does.

Invariants: every acknowledged element must be in every final read; what is missing, or there and was never
sent, is named.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from tests.maelstrom.network import Body, Nodes

SETTLE_S: Final = 15.0  # at most, until all nodes read the same after the last operation
SETTLE_POLL_S: Final = 0.25
JOIN_S: Final = 3.0  # for the nodes to connect; what they send then is not counted


@dataclass(frozen=True)
class Result:
    """What a run showed. `messages_per_op` counts every datagram between nodes."""

    operations: int
    acknowledged: int
    lost: tuple[Any, ...]
    unexpected: tuple[Any, ...]
    duplicated: tuple[Any, ...]
    messages_per_op: float
    settled_s: float

    @property
    def is_valid(self) -> bool:
        return not (self.lost or self.unexpected or self.duplicated)


def spread(
    nodes: Nodes,
    workload: str,
    *,
    rate: float,
    seconds: float,
    partition_s: float = 0.0,
    join_s: float = JOIN_S,
    seed: int = 1,
) -> Result:
    """Runs ``broadcast`` or ``g-set``: operations at `rate` for `seconds`, then final reads. With
    `partition_s`, halves of the nodes are apart for that long, and then together as long."""
    rng = random.Random(seed)
    if workload == "broadcast":
        neighbors = {each: [other for other in nodes.ids if other != each] for each in nodes.ids}
        nodes.call_all(lambda _: {"type": "topology", "topology": neighbors})
    nodes.run_for(join_s)
    before = nodes.datagrams
    sent: dict[int, int] = {}  # the element of each request
    began_at = time.monotonic()
    for value in range(max(1, round(rate * seconds))):
        due_at = began_at + value / rate
        nodes.run_for(due_at - time.monotonic())
        if partition_s:
            _set_partition(nodes, (due_at - began_at) / partition_s, rng)
        body: Body = {"type": "broadcast", "message": value}
        if workload == "g-set":
            body = {"type": "add", "element": value}
        sent[nodes.request(rng.choice(nodes.ids), body)] = value
        if rng.random() < 0.1:
            nodes.request(rng.choice(nodes.ids), {"type": "read"})
    nodes.sides = {}
    nodes.run_until(lambda: sent.keys() <= nodes.replies.keys())
    acknowledged = {value for number, value in sent.items() if number in nodes.replies}
    ended_at = time.monotonic()
    for reads in _reads(nodes):
        if all(acknowledged <= set(read) for read in reads):
            break
        if time.monotonic() > ended_at + SETTLE_S:
            break
    return Result(
        operations=len(sent),
        acknowledged=len(acknowledged),
        lost=tuple(sorted({v for read in reads for v in acknowledged - set(read)})),
        unexpected=tuple({v for read in reads for v in set(read) - set(sent.values())}),
        duplicated=tuple(
            {value for read in reads for value, times in Counter(read).items() if times > 1}
        ),
        messages_per_op=(nodes.datagrams - before) / len(sent),
        settled_s=time.monotonic() - ended_at,
    )


def _reads(nodes: Nodes) -> Iterator[list[list[Any]]]:
    """What all nodes read, again and again."""
    while True:
        replies = nodes.call_all(lambda _: {"type": "read"})
        yield [each["messages"] if "messages" in each else each["value"] for each in replies]
        nodes.run_for(SETTLE_POLL_S)


def _set_partition(nodes: Nodes, elapsed_periods: float, rng: random.Random) -> None:
    """Halves the nodes at random in every other period."""
    is_cut = int(elapsed_periods) % 2 == 1
    if is_cut and not nodes.sides:
        order = rng.sample(nodes.ids, len(nodes.ids))
        nodes.sides = {each: index % 2 for index, each in enumerate(order)}
    elif not is_cut:
        nodes.sides = {}


def unique_ids(nodes: Nodes, *, requests: int, seed: int) -> list[Any]:
    """Asks for IDs at all nodes. Returns those that were given more than once."""
    rng = random.Random(seed)
    numbers = [nodes.request(rng.choice(nodes.ids), {"type": "generate"}) for _ in range(requests)]
    nodes.run_until(lambda: all(each in nodes.replies for each in numbers))
    given = Counter(nodes.replies[each]["id"] for each in numbers)
    return [each for each, times in given.items() if times > 1]
