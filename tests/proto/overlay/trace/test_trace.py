"""Tracing: what a report contains, when it is emitted, and what malicious members can do."""

from __future__ import annotations

import math

import pytest

from grapevine_proto.overlay.sample import MemberSample
from grapevine_proto.overlay.trace.trace import UNKNOWN_MEMBERS_LIMIT
from grapevine_proto.wire.attributes import TRACE_ALL
from grapevine_proto.wire.signed import TraceReceipt
from tests.proto.overlay.builders import identity, peer_id, record
from tests.proto.overlay.trace.traces import (
    ACKED,
    FAR,
    FORGED,
    OUR_NUMBER,
    Node,
    message_id,
    receipt,
    traced,
    traces_in,
)


def test_a_trace_is_reported_at_once_and_as_receipts_arrive() -> None:
    node = Node(links=3, members=3)
    assert node.tracing.start_trace(message_id(1, OUR_NUMBER), 1.0) == TRACE_ALL
    (first,) = traces_in(node.tracing.advance(1.0))
    assert (first.known, first.reached, first.p50_ms, first.hops) == (3, 0, None, None)
    assert set(first.unanswered) == {peer_id(1), peer_id(2), peer_id(3)}
    assert node.receive(1, message_id(1, OUR_NUMBER), TraceReceipt(peer_id(1), 1, 20), at=1.01) == [
        ACKED
    ]
    assert traces_in(node.tracing.advance(1.05)) == []  # at most ten events a second
    at, effects = node.advance()
    assert at == pytest.approx(1.1)
    (second,) = traces_in(effects)
    assert (second.reached, second.p50_ms, second.last_ms, second.hops) == (1, 20, 20, 1)
    assert set(second.unanswered) == {peer_id(2), peer_id(3)}
    assert node.tracing.deadline == math.inf


def test_the_last_receipt_is_reported_at_once() -> None:
    node = Node(links=2, members=2)
    traced_id = message_id(1, OUR_NUMBER)
    node.tracing.start_trace(traced_id, 1.0)
    node.tracing.advance(1.0)
    node.receive(
        1, traced_id, TraceReceipt(peer_id(1), 1, 20), receipt(2, traced_id, delay_ms=90), at=1.01
    )
    at, effects = node.advance()
    assert at == 1.01
    (final,) = traces_in(effects)
    assert final.is_complete
    assert (final.reached, final.expected, final.p50_ms, final.p99_ms, final.last_ms) == (
        2,
        2,
        20,
        90,
        90,
    )
    assert final.hops == 3


def test_members_that_left_are_not_sampled() -> None:
    node = Node(members=2)
    node.table.add(record(3, left=True), peer_id(1), 0.0)
    node.tracing.start_trace(message_id(1, OUR_NUMBER), 0.0)
    assert node.report(message_id(1, OUR_NUMBER)).known == 2


def test_a_report_of_a_sample_has_its_size_and_the_total() -> None:
    node = Node(members=300)
    node.tracing.start_trace(message_id(1, OUR_NUMBER), 0.0)
    report = node.report(message_id(1, OUR_NUMBER))
    assert report.known == 300
    assert 65 <= report.expected <= 140
    assert report.is_sample
    assert not report.is_complete


def test_receipts_of_unknown_members_are_counted_separately() -> None:
    node = Node(members=2)
    traced_id = message_id(1, OUR_NUMBER)
    node.tracing.start_trace(traced_id, 0.0)
    for _ in range(2):
        node.receive(1, traced_id, receipt(FAR, traced_id))
    report = node.report(traced_id)
    assert (report.reached, report.others) == (0, 1)


def test_the_first_receipt_of_a_member_counts() -> None:
    node = Node(members=2)
    traced_id = message_id(1, OUR_NUMBER)
    node.tracing.start_trace(traced_id, 0.0)
    node.receive(1, traced_id, receipt(2, traced_id, delay_ms=40))
    node.receive(3, traced_id, receipt(2, traced_id, delay_ms=10))
    assert node.report(traced_id).last_ms == 40


def test_beyond_the_limit_the_oldest_trace_is_evicted() -> None:
    node = Node(members=2)
    for sequence in range(1, 18):
        node.tracing.start_trace(message_id(sequence, OUR_NUMBER), 0.0)
    assert [each.id.sequence for each in node.tracing.reports()] == list(range(2, 18))
    assert node.tracing.evicted == 1
    node.receive(1, message_id(1, OUR_NUMBER), TraceReceipt(peer_id(1), 1, 20))
    assert node.tracing.refused == 1


def test_receipts_of_unknown_members_have_their_own_limit() -> None:
    node = Node(members=2, is_limited=False)
    traced_id = message_id(1, OUR_NUMBER)
    node.tracing.start_trace(traced_id, 0.0)
    for number in range(UNKNOWN_MEMBERS_LIMIT + 1):
        node.receive(1, traced_id, receipt(1000 + number, traced_id))
    assert node.report(traced_id).others == UNKNOWN_MEMBERS_LIMIT
    assert node.tracing.refused == 1
    node.receive(1, traced_id, receipt(2, traced_id))
    assert node.report(traced_id).reached == 1


# --- malicious members --------------------------------------------------------------------------


def test_a_forged_receipt_is_charged_to_its_sender() -> None:
    node = Node(members=5)
    ours, theirs = message_id(1, OUR_NUMBER), message_id()
    node.tracing.start_trace(ours, 0.0)
    node.tracing.on_rumor(traced(), [peer_id(3)], 0.0)
    for traced_id in (ours, theirs):
        forged = TraceReceipt(peer_id(5), 1, 1).signed(identity(1), "default", traced_id)
        assert node.receive(1, traced_id, forged) == FORGED
        # unsigned, from another member
        assert node.receive(1, traced_id, TraceReceipt(peer_id(5), 1, 1)) == FORGED
        replayed = TraceReceipt(peer_id(5), 1, 1, 0, receipt(5, message_id(9)).signature)
        assert node.receive(1, traced_id, replayed) == FORGED
    assert node.report(ours).reached == 0
    assert node.paths.relayed == 0


def test_the_figures_of_a_receipt_cannot_be_changed_in_transit() -> None:
    node = Node(members=5)
    traced_id = message_id(1, OUR_NUMBER)
    node.tracing.start_trace(traced_id, 0.0)
    signed = receipt(5, traced_id, delay_ms=900)
    assert (
        node.receive(1, traced_id, TraceReceipt(signed.member, 1, 1, 0, signed.signature)) == FORGED
    )


def test_a_member_outside_the_sample_cannot_confirm() -> None:
    node = Node(members=300, is_limited=False)
    traced_id = message_id(1, OUR_NUMBER)
    share = node.tracing.start_trace(traced_id, 0.0)
    sample = MemberSample("default", traced_id, share)
    unsampled = next(n for n in range(1, 300) if peer_id(n) not in sample)
    node.receive(1, traced_id, receipt(unsampled, traced_id))
    assert (
        node.report(traced_id).reached,
        node.report(traced_id).others,
        node.tracing.refused,
    ) == (0, 0, 1)


def test_a_receipt_that_does_not_count_is_acknowledged() -> None:
    node = Node(members=300, is_limited=False)
    traced_id = message_id(1, OUR_NUMBER)
    sample = MemberSample("default", traced_id, node.tracing.start_trace(traced_id, 0.0))
    unsampled = next(n for n in range(1, 300) if peer_id(n) not in sample)
    sampled = next(n for n in range(1, 300) if peer_id(n) in sample)
    for number in (unsampled, sampled, sampled):
        assert node.receive(1, traced_id, receipt(number, traced_id)) == [ACKED]
    assert node.report(traced_id).reached == 1


def test_a_receipt_without_room_or_budget_is_acknowledged_and_no_fault_of_its_sender() -> None:
    node = Node(links=3)
    traced_id = message_id(1, OUR_NUMBER)
    node.tracing.start_trace(traced_id, 0.0)
    while node.tracing._verifier.try_charge_check(peer_id(1), 0.0):
        pass
    assert node.receive(1, traced_id, receipt(FAR, traced_id)) == [ACKED]
    assert node.tracing.refused == 1
    limited = Node(links=3, is_limited=False)
    limited.tracing.start_trace(traced_id, 0.0)
    for number in range(257):
        assert limited.receive(1, traced_id, receipt(1000 + number, traced_id)) == [ACKED]
    assert (limited.report(traced_id).others, limited.tracing.refused) == (256, 1)
