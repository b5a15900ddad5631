"""No token costs a node more than a bounded number of steps, for any content and with full tables."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any, Final

from grapevine_proto.wire import codec
from grapevine_proto.wire.messages import LINK_FRAME_KINDS, Kind
from tests.cluster import Cluster
from tests.scenarios.worst_case import WORST, full_victim, is_linked, packets, plaintexts, receive

LINES: Final = 26_000
"""Lines of Python per datagram. A line takes 60 to 80 ns, so this is the 2 ms that a token may
cost. Lines are counted because time on a busy machine proves nothing.
"""


def lines_of(cluster: Cluster, datagram: bytes) -> int:
    """Number of lines executed while the node receives `datagram`."""
    count = 0

    def trace(_: FrameType, event: str, __: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        receive(cluster, datagram)
    finally:
        sys.settrace(before)
    return count


def test_each_kind_has_its_worst_case() -> None:
    assert set(WORST) == set(Kind)


def test_no_datagram_of_a_member_costs_more_than_a_bounded_number_of_lines() -> None:
    cluster = full_victim()
    max_lines: dict[str, int] = {}
    for kind in Kind:
        for plaintext in plaintexts(kind, cluster):
            if not is_linked(cluster):
                cluster = full_victim()
            cluster.now += 0.05
            for datagram in packets(cluster, plaintext):
                lines = lines_of(cluster, datagram)
                max_lines[kind.name] = max(max_lines.get(kind.name, 0), lines)
    assert {name: lines for name, lines in max_lines.items() if lines > LINES} == {}


def test_the_worst_case_of_each_kind_is_well_formed() -> None:
    cluster = Cluster(2)
    for kind in Kind:
        for plaintext in plaintexts(kind, cluster):
            assert plaintext[0] == kind
            decode = codec.decode_frame if kind in LINK_FRAME_KINDS else codec.decode_message
            decode(plaintext)
