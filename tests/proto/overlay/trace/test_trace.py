"""Trace: what a report says of who answered, when it is told, and what liars can do to it."""

from __future__ import annotations

import math

import pytest

from grapevine_proto.overlay.trace.sample import TraceSample
from grapevine_proto.overlay.trace.trace import TRACES_LIMIT, UNKNOWN_MEMBERS_LIMIT
from grapevine_proto.wire.signed import TRACE_ALL, TraceReceipt
from tests.proto.overlay.builders import identity, peer_id, record
from tests.proto.overlay.trace.traces import (
    FAR,
    FORGED,
    ME,
    TAKEN,
    Node,
    message_id,
    receipt,
    told,
    traced,
)


def test_a_trace_is_told_of_at_once_and_as_answers_come() -> None:
    node = Node(links=3, members=3)
    assert node.tracing.start_trace(message_id(1, ME), 1.0) == TRACE_ALL
    (first,) = told(node.tracing.advance(1.0))
    assert (first.known, first.reached, first.p50_ms, first.hops) == (3, 0, None, None)
    assert set(first.unanswered) == {peer_id(1), peer_id(2), peer_id(3)}
    assert node.hear(1, message_id(1, ME), TraceReceipt(peer_id(1), 1, 20), at=1.01) == [TAKEN]
    assert told(node.tracing.advance(1.05)) == []  # at most ten times a second
    at, effects = node.due()
    assert at == pytest.approx(1.1)
    (second,) = told(effects)
    assert (second.reached, second.p50_ms, second.last_ms, second.hops) == (1, 20, 20, 1)
    assert set(second.unanswered) == {peer_id(2), peer_id(3)}
    assert node.tracing.deadline == math.inf


def test_the_last_answer_is_told_at_once() -> None:
    node = Node(links=2, members=2)
    of = message_id(1, ME)
    node.tracing.start_trace(of, 1.0)
    node.tracing.advance(1.0)
    node.hear(1, of, TraceReceipt(peer_id(1), 1, 20), receipt(2, of, delay_ms=90), at=1.01)
    at, effects = node.due()
    assert at == 1.01
    (whole,) = told(effects)
    assert whole.is_complete
    assert (whole.reached, whole.expected, whole.p50_ms, whole.p99_ms, whole.last_ms) == (
        2,
        2,
        20,
        90,
        90,
    )
    assert whole.hops == 3


def test_members_that_are_gone_are_not_asked() -> None:
    node = Node(members=2)
    node.table.add(record(3, left=True), peer_id(1), 0.0)
    node.tracing.start_trace(message_id(1, ME), 0.0)
    assert node.report(message_id(1, ME)).known == 2


def test_a_report_says_that_it_is_a_sample_and_of_how_many() -> None:
    node = Node(members=300)
    node.tracing.start_trace(message_id(1, ME), 0.0)
    report = node.report(message_id(1, ME))
    assert report.known == 300
    assert 65 <= report.expected <= 140
    assert report.is_sample
    assert not report.is_complete


def test_who_answers_and_was_not_known_is_counted_apart() -> None:
    node = Node(members=2)
    of = message_id(1, ME)
    node.tracing.start_trace(of, 0.0)
    for _ in range(2):
        node.hear(1, of, receipt(FAR, of))
    report = node.report(of)
    assert (report.reached, report.others) == (0, 1)


def test_an_answer_counts_once_and_the_first_one_stands() -> None:
    node = Node(members=2)
    of = message_id(1, ME)
    node.tracing.start_trace(of, 0.0)
    node.hear(1, of, receipt(2, of, delay_ms=40))
    node.hear(3, of, receipt(2, of, delay_ms=10))
    assert node.report(of).last_ms == 40


def test_the_oldest_of_more_traces_than_are_followed_is_let_go() -> None:
    node = Node(members=2)
    for sequence in range(1, TRACES_LIMIT + 2):
        node.tracing.start_trace(message_id(sequence, ME), 0.0)
    assert [each.id.sequence for each in node.tracing.reports()] == list(range(2, TRACES_LIMIT + 2))
    assert node.tracing.evicted == 1
    node.hear(1, message_id(1, ME), TraceReceipt(peer_id(1), 1, 20))
    assert node.tracing.refused == 1


def test_unknown_members_fill_a_table_of_their_own_only() -> None:
    node = Node(members=2, is_limited=False)
    of = message_id(1, ME)
    node.tracing.start_trace(of, 0.0)
    for number in range(UNKNOWN_MEMBERS_LIMIT + 1):
        node.hear(1, of, receipt(1000 + number, of))
    assert node.report(of).others == UNKNOWN_MEMBERS_LIMIT
    assert node.tracing.refused == 1
    node.hear(1, of, receipt(2, of))
    assert node.report(of).reached == 1


# --- liars --------------------------------------------------------------------------------------


def test_a_receipt_in_anothers_name_is_blamed_on_whoever_brings_it() -> None:
    node = Node(members=5)
    ours, theirs = message_id(1, ME), message_id()
    node.tracing.start_trace(ours, 0.0)
    node.paths.on_rumor(traced(), [peer_id(3)], 0.0)
    for of in (ours, theirs):
        forged = TraceReceipt(peer_id(5), 1, 1).signed(identity(1), "default", of)
        assert node.hear(1, of, forged) == FORGED
        assert node.hear(1, of, TraceReceipt(peer_id(5), 1, 1)) == FORGED  # unsigned, of another
        of_another = TraceReceipt(peer_id(5), 1, 1, 0, receipt(5, message_id(9)).signature)
        assert node.hear(1, of, of_another) == FORGED
    assert node.report(ours).reached == 0
    assert node.paths.relayed == 0


def test_nobodys_figures_can_be_changed_on_the_way() -> None:
    node = Node(members=5)
    of = message_id(1, ME)
    node.tracing.start_trace(of, 0.0)
    signed = receipt(5, of, delay_ms=900)
    assert node.hear(1, of, TraceReceipt(signed.member, 1, 1, 0, signed.signature)) == FORGED


def test_who_was_not_asked_cannot_answer() -> None:
    node = Node(members=300, is_limited=False)
    of = message_id(1, ME)
    share = node.tracing.start_trace(of, 0.0)
    sample = TraceSample("default", of, share)
    unasked = next(n for n in range(1, 300) if peer_id(n) not in sample)
    node.hear(1, of, receipt(unasked, of))
    assert (node.report(of).reached, node.report(of).others, node.tracing.refused) == (0, 0, 1)
