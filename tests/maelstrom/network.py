"""A stand-in for Maelstrom's network: starts nodes, passes their lines on and counts them.

Invariants: a line arrives after the latency, or never between the sides of a partition. Nodes see only lines.
"""

from __future__ import annotations

import heapq
import json
import os
import selectors
import subprocess
import time
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, Final

Body = dict[str, Any]
READ_BYTES: Final = 1 << 20
REPLY_TIMEOUT_S: Final = 60.0  # 25 processes start on two busy cores


class Nodes:
    """Processes n0, n1, ... and a client."""

    def __init__(self, command: Sequence[str], size: int, *, latency_s: float = 0.0) -> None:
        self.ids = [f"n{number}" for number in range(size)]
        self.latency_s = latency_s
        self.sides: dict[str, int] = {}  # of a partition, by node; empty: none
        self.datagrams = 0  # between nodes
        self.replies: dict[int, Body] = {}
        self.reply_times: dict[int, float] = {}
        self._numbers = count(1)
        self._ties = count()
        self._in_flight: list[tuple[float, int, str, bytes]] = []
        self._rests: dict[str, bytes] = dict.fromkeys(self.ids, b"")
        self._selector = selectors.DefaultSelector()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        for each in self.ids:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            self._processes[each] = process
            assert process.stdout is not None
            self._selector.register(process.stdout, selectors.EVENT_READ, each)

    def request(self, to: str, body: Body) -> int:
        """Sends a request of the client. Returns its number."""
        number = next(self._numbers)
        line = {"src": "c1", "dest": to, "body": body | {"msg_id": number}}
        self._write(to, json.dumps(line).encode() + b"\n")
        return number

    def call_all(self, body_of: Callable[[str], Body]) -> list[Body]:
        """Sends a request to each node and returns the replies."""
        numbers = [self.request(each, body_of(each)) for each in self.ids]
        self.run_until(lambda: all(each in self.replies for each in numbers))
        return [self.replies[each] for each in numbers]

    def start(self) -> None:
        self.call_all(lambda each: {"type": "init", "node_id": each, "node_ids": self.ids})

    def run_until(self, condition: Callable[[], bool], timeout_s: float = REPLY_TIMEOUT_S) -> None:
        """Passes lines on until `condition` holds."""
        give_up_at = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > give_up_at:
                raise AssertionError(f"not within {timeout_s:g} s")
            self._step(0.05)

    def run_for(self, seconds: float) -> None:
        """Passes lines on for that long."""
        end_at = time.monotonic() + seconds
        while (left_s := end_at - time.monotonic()) > 0:
            self._step(left_s)

    def _step(self, timeout_s: float) -> None:
        now = time.monotonic()
        while self._in_flight and self._in_flight[0][0] <= now:
            _, _, to, line = heapq.heappop(self._in_flight)
            self._write(to, line)
        if self._in_flight:
            timeout_s = min(timeout_s, max(0.0, self._in_flight[0][0] - now))
        for key, _ in self._selector.select(timeout_s):
            self._read(key.data)

    def _read(self, node: str) -> None:
        stdout = self._processes[node].stdout
        assert stdout is not None
        piece = os.read(stdout.fileno(), READ_BYTES)
        if not piece:
            raise AssertionError(f"{node} ended")
        *lines, self._rests[node] = (self._rests[node] + piece).split(b"\n")
        for line in lines:
            self._pass_on(line)

    def _pass_on(self, line: bytes) -> None:
        message = json.loads(line)
        source, to, body = message["src"], message["dest"], message["body"]
        if to not in self._processes:
            self.replies[body["in_reply_to"]] = body
            self.reply_times[body["in_reply_to"]] = time.monotonic()
            return
        self.datagrams += 1
        if self.sides.get(source) == self.sides.get(to):
            arrival = time.monotonic() + self.latency_s
            heapq.heappush(self._in_flight, (arrival, next(self._ties), to, line + b"\n"))

    def _write(self, to: str, line: bytes) -> None:
        stdin = self._processes[to].stdin
        assert stdin is not None
        stdin.write(line)
        stdin.flush()

    def close(self) -> None:
        self._selector.close()
        for process in self._processes.values():
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()
