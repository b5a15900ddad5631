"""The workloads of the stand-in and how their histories are judged, as Maelstrom's set-full checker does.

Invariants: every acknowledged element must be in every final read; what is missing, or there and was never
sent, is named.
"""

from __future__ import annotations

import random
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from tests.maelstrom.network import Body, Nodes

SETTLE_S: Final = 15.0  # at most, until all nodes read the same after the last operation
SETTLE_POLL_S: Final = 0.25
READ_INTERVAL_S: Final = 0.1  # of each node, where latencies are measured
JOIN_S: Final = 3.0  # for the nodes to connect; what they send then is not counted


@dataclass(frozen=True)
class Result:
    """What a run showed. `messages_per_op` counts every datagram between nodes. `latencies_s`, if measured:
    from the acknowledgement of each element until reads of all nodes have it, lowest first."""

    operations: int
    acknowledged: int
    lost: tuple[Any, ...]
    unexpected: tuple[Any, ...]
    duplicated: tuple[Any, ...]
    messages_per_op: float
    settled_s: float
    latencies_s: tuple[float, ...] = ()

    @property
    def is_valid(self) -> bool:
        return not (self.lost or self.unexpected or self.duplicated)

    def __str__(self) -> str:
        text = (
            f"{self.acknowledged} of {self.operations} operations acknowledged,"
            f" {self.messages_per_op:.1f} datagrams per operation, settled after {self.settled_s:.1f} s"
        )
        for name in ("lost", "unexpected", "duplicated"):
            if elements := getattr(self, name):
                text += f"\n{name}: {', '.join(map(str, elements))}"
        if self.latencies_s:
            median_s, longest_s = statistics.median(self.latencies_s), self.latencies_s[-1]
            text += f"\nlatency: median {median_s:.2f} s, maximum {longest_s:.2f} s"
        return text


class _Visibility:
    """When the elements of a broadcast workload are first read at each node."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self._asked: dict[int, str] = {}  # the node of each open read
        self._read: dict[str, set[Any]] = {each: set() for each in nodes.ids}
        self._times: dict[Any, list[float]] = defaultdict(list)
        self._next_at = 0.0

    def poll(self) -> None:
        """Takes in what was read, and reads all nodes if `READ_INTERVAL_S` have passed."""
        replies = self._nodes.replies
        for number in self._asked.keys() & replies.keys():
            known = self._read[self._asked.pop(number)]
            for element in set(replies.pop(number)["messages"]) - known:
                known.add(element)
                self._times[element].append(self._nodes.reply_times[number])
        now = time.monotonic()
        if now >= self._next_at and not self._asked:
            self._next_at = now + READ_INTERVAL_S
            self._asked = {self._nodes.request(to, {"type": "read"}): to for to in self._nodes.ids}

    def latency_s(self, element: Any, acknowledged_at: float) -> float | None:
        """From the acknowledgement until the last node has it; None: one has it not."""
        times = self._times[element]
        is_everywhere = len(times) == len(self._nodes.ids)
        return max(0.0, max(times) - acknowledged_at) if is_everywhere else None


def spread(
    nodes: Nodes,
    workload: str,
    *,
    rate: float,
    seconds: float,
    partition_s: float = 0.0,
    join_s: float = JOIN_S,
    seed: int = 1,
    measures_latency: bool = False,
) -> Result:
    """Runs ``broadcast`` or ``g-set``: operations at `rate` for `seconds`, then final reads. With
    `partition_s`, halves of the nodes are apart for that long, and then together as long. `measures_latency`
    reads all nodes all the time, of ``broadcast`` only."""
    rng = random.Random(seed)
    if workload == "broadcast":
        neighbors = {each: [other for other in nodes.ids if other != each] for each in nodes.ids}
        nodes.call_all(lambda _: {"type": "topology", "topology": neighbors})
    nodes.run_for(join_s)
    before = nodes.datagrams
    visibility = _Visibility(nodes)
    sent: dict[int, int] = {}  # the element of each request
    began_at = time.monotonic()
    for value in range(max(1, round(rate * seconds))):
        due_at = began_at + value / rate
        nodes.run_for(due_at - time.monotonic())
        if measures_latency:
            visibility.poll()
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
    latencies_s: list[float] = []
    while measures_latency and time.monotonic() < ended_at + SETTLE_S:
        visibility.poll()
        found = [visibility.latency_s(v, nodes.reply_times[n]) for n, v in sent.items()]
        latencies_s = sorted(each for each in found if each is not None)
        if len(latencies_s) == len(sent):
            break
        nodes.run_for(READ_INTERVAL_S / 4)
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
        latencies_s=tuple(latencies_s),
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
