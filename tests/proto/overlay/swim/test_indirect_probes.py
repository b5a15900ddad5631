"""Indirect probes: bounded in number, each answered once."""

from __future__ import annotations

import math

from grapevine_proto.overlay.swim.indirect_probes import (
    INDIRECT_PROBES_LIMIT,
    IndirectProbe,
    IndirectProbes,
)
from tests.proto.overlay.builders import peer_id

REQUESTER, SUBJECT, OTHER = peer_id(1), peer_id(2), peer_id(3)


def test_requesters_are_answered_when_the_subject_is_heard() -> None:
    indirect_probes = IndirectProbes()
    indirect_probes.add(SUBJECT, IndirectProbe(REQUESTER, 7, 1.0))
    indirect_probes.add(SUBJECT, IndirectProbe(OTHER, 9, 1.0))
    assert SUBJECT in indirect_probes
    assert [(each.requester, each.number) for each in indirect_probes.pop_subject(SUBJECT)] == [
        (REQUESTER, 7),
        (OTHER, 9),
    ]
    assert indirect_probes.pop_subject(SUBJECT) == []
    assert indirect_probes.pop_expired(2.0) == []


def test_expired_probes_are_answered_negatively() -> None:
    indirect_probes = IndirectProbes()
    indirect_probes.add(SUBJECT, IndirectProbe(REQUESTER, 7, 1.0))
    indirect_probes.add(SUBJECT, IndirectProbe(OTHER, 9, 2.0))
    assert indirect_probes.deadline == 1.0
    assert [each.number for each in indirect_probes.pop_expired(1.0)] == [7]
    assert indirect_probes.deadline == 2.0
    assert [each.number for each in indirect_probes.pop_expired(5.0)] == [9]
    assert (len(indirect_probes), indirect_probes.deadline) == (0, math.inf)


def test_a_probe_beyond_the_limit_is_rejected_and_counted() -> None:
    indirect_probes = IndirectProbes()
    for number in range(INDIRECT_PROBES_LIMIT):
        assert indirect_probes.add(SUBJECT, IndirectProbe(REQUESTER, number, 1.0))
    assert not indirect_probes.add(OTHER, IndirectProbe(REQUESTER, 0, 1.0))
    assert (len(indirect_probes), indirect_probes.rejected) == (INDIRECT_PROBES_LIMIT, 1)
    indirect_probes.pop_subject(SUBJECT)
    assert indirect_probes.add(OTHER, IndirectProbe(REQUESTER, 0, 1.0))
