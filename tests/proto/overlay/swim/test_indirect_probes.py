"""Probes for others: bounded, and each answered once."""

from __future__ import annotations

import math

from grapevine_proto.overlay.swim.indirect_probes import (
    INDIRECT_PROBES_LIMIT,
    IndirectProbe,
    IndirectProbes,
)
from tests.proto.overlay.builders import peer_id

ASKER, SUBJECT, OTHER = peer_id(1), peer_id(2), peer_id(3)


def test_whoever_asked_is_answered_when_the_subject_is_heard() -> None:
    errands = IndirectProbes()
    errands.add(SUBJECT, IndirectProbe(ASKER, 7, 1.0))
    errands.add(SUBJECT, IndirectProbe(OTHER, 9, 1.0))
    assert SUBJECT in errands
    assert [(each.requester, each.number) for each in errands.pop_subject(SUBJECT)] == [
        (ASKER, 7),
        (OTHER, 9),
    ]
    assert errands.pop_subject(SUBJECT) == []
    assert errands.pop_expired(2.0) == []


def test_whoever_asked_is_answered_with_no_once_the_time_is_over() -> None:
    errands = IndirectProbes()
    errands.add(SUBJECT, IndirectProbe(ASKER, 7, 1.0))
    errands.add(SUBJECT, IndirectProbe(OTHER, 9, 2.0))
    assert errands.deadline == 1.0
    assert [each.number for each in errands.pop_expired(1.0)] == [7]
    assert errands.deadline == 2.0
    assert [each.number for each in errands.pop_expired(5.0)] == [9]
    assert (len(errands), errands.deadline) == (0, math.inf)


def test_at_the_cap_one_more_errand_is_refused_and_counted() -> None:
    errands = IndirectProbes()
    for number in range(INDIRECT_PROBES_LIMIT):
        assert errands.add(SUBJECT, IndirectProbe(ASKER, number, 1.0))
    assert not errands.add(OTHER, IndirectProbe(ASKER, 0, 1.0))
    assert (len(errands), errands.rejected) == (INDIRECT_PROBES_LIMIT, 1)
    errands.pop_subject(SUBJECT)
    assert errands.add(OTHER, IndirectProbe(ASKER, 0, 1.0))
