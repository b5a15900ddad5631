"""Direct messages: each ends once, acknowledged or reported."""

from __future__ import annotations

import pytest

from grapevine_proto.events import Message, MessageUndelivered, UndeliveredReason, Via
from grapevine_proto.ids import MessageId
from grapevine_proto.transport.direct_deliveries import DirectDeliveries
from grapevine_proto.transport.link.link import Link
from grapevine_proto.wire.messages import RECEIPT_ABOVE_BYTES
from tests.proto.overlay.builders import EPOCH, peer_id
from tests.proto.transport.ends import linked_ends

US, BOB = peer_id(1), peer_id(2)
LARGE = bytes(RECEIPT_ABOVE_BYTES + 1)


def direct(sequence: int, payload: bytes = b"psst") -> Message:
    message_id = MessageId(US, EPOCH, sequence, is_direct=True)
    return Message(message_id, payload, 0, Via.LOCAL, 0.0, is_direct=True, to=BOB)


def a_link() -> Link:
    return linked_ends()[1].link


def sent(deliveries: DirectDeliveries, sequence: int, payload: bytes = b"psst") -> MessageId:
    """A message that a session carries since 0.0."""
    message = direct(sequence, payload)
    deliveries.begin(message)
    deliveries.on_queued(message.id, a_link(), 0.0)
    return message.id


def report(message_id: MessageId, reason: UndeliveredReason, detail: str) -> MessageUndelivered:
    return MessageUndelivered(message_id, BOB, reason, detail)


def test_an_acknowledged_message_is_reported_by_nothing() -> None:
    deliveries = DirectDeliveries()
    message_id = sent(deliveries, 1)
    deliveries.on_acked([message_id, message_id], 1.0)
    assert len(deliveries) == 0
    assert deliveries.advance(1e9, lambda _: False) == []
    assert deliveries.fail(message_id, UndeliveredReason.NO_ANSWER) == []
    assert deliveries.undelivered == {}


def test_an_acknowledgment_of_several_messages_may_name_one_that_ended() -> None:
    deliveries = DirectDeliveries()
    ended, other = sent(deliveries, 1), sent(deliveries, 2)
    deliveries.fail(ended, UndeliveredReason.SESSION_ENDED)
    deliveries.on_acked([ended, other], 1.0)
    assert len(deliveries) == 0


def test_a_larger_message_needs_a_receipt_of_its_recipient() -> None:
    deliveries = DirectDeliveries()
    message_id = sent(deliveries, 7, LARGE)
    deliveries.on_acked([message_id], 1.0)
    deliveries.on_receipt(peer_id(3), 7)
    deliveries.on_receipt(BOB, 8)
    assert len(deliveries) == 1
    deliveries.on_receipt(BOB, 7)
    deliveries.on_receipt(BOB, 7)
    assert len(deliveries) == 0


def test_without_a_receipt_it_is_reported_five_seconds_after_its_last_acknowledgment() -> None:
    deliveries = DirectDeliveries()
    message_id = sent(deliveries, 1, LARGE)
    deliveries.on_acked([message_id], 2.0)
    assert deliveries.advance(6.999, lambda _: True) == []
    reason = UndeliveredReason.NOT_ACKNOWLEDGED
    found = deliveries.advance(7.0, lambda _: True)
    assert found == [report(message_id, reason, "no receipt")]
    deliveries.on_receipt(BOB, 1)  # too late


@pytest.mark.parametrize(("size_bytes", "limit_s"), [(0, 30.0), (16_384, 31.0), (163_840, 40.0)])
def test_a_message_has_time_for_its_size(size_bytes: int, limit_s: float) -> None:
    deliveries = DirectDeliveries()
    message_id = sent(deliveries, 1, bytes(size_bytes))
    assert deliveries.advance(limit_s - 0.001, lambda _: True) == []
    expected = report(message_id, UndeliveredReason.NOT_ACKNOWLEDGED, "no reply in time")
    assert deliveries.advance(limit_s, lambda _: True) == [expected]


def test_a_message_ends_with_the_session_that_carries_it() -> None:
    deliveries = DirectDeliveries()
    second = direct(2)
    deliveries.begin(second)  # waits for a session, which its sender ends
    first = sent(deliveries, 1)
    assert deliveries.advance(0.1, lambda _: False) == [
        report(first, UndeliveredReason.SESSION_ENDED, "")
    ]
    assert len(deliveries) == 1
    assert deliveries.fail_all(UndeliveredReason.NODE_LEFT) == [
        report(second.id, UndeliveredReason.NODE_LEFT, "")
    ]
    assert deliveries.undelivered == {
        UndeliveredReason.SESSION_ENDED: 1,
        UndeliveredReason.NODE_LEFT: 1,
    }


def test_what_a_link_gives_up_is_reported_once() -> None:
    deliveries = DirectDeliveries()
    message_id = sent(deliveries, 1)
    expected = report(message_id, UndeliveredReason.NOT_ACKNOWLEDGED, "no reply")
    assert deliveries.abandon([message_id, message_id]) == [expected]
    assert deliveries.advance(1e9, lambda _: False) == []


def test_a_message_that_was_not_accepted_leaves_nothing() -> None:
    deliveries = DirectDeliveries()
    for payload in (b"", LARGE):
        message = direct(1, payload)
        deliveries.begin(message)
        deliveries.withdraw(message.id)
    assert (len(deliveries), deliveries.undelivered) == (0, {})
    deliveries.on_receipt(BOB, 1)


def test_with_16384_messages_the_table_is_full() -> None:
    deliveries = DirectDeliveries()
    for sequence in range(1, 16_384):
        deliveries.begin(direct(sequence))
    before = deliveries.is_full
    last = sent(deliveries, 16_384)
    assert (before, deliveries.is_full) == (False, True)
    deliveries.on_acked([last], 0.0)
    assert not deliveries.is_full


def test_an_acknowledgment_gives_a_receipt_no_more_time_than_its_message_has() -> None:
    deliveries = DirectDeliveries()
    message_id = sent(deliveries, 1, LARGE)
    limit_s = 30.0 + len(LARGE) / 16_384
    deliveries.on_acked([message_id], limit_s - 1.0)
    assert deliveries.advance(limit_s - 0.001, lambda _: True) == []
    assert len(deliveries.advance(limit_s, lambda _: True)) == 1


def test_a_message_of_a_thousand_bytes_needs_no_receipt() -> None:
    deliveries = DirectDeliveries()
    message_id = sent(deliveries, 1, bytes(1000))
    deliveries.on_acked([message_id], 0.0)
    assert len(deliveries) == 0


def test_undelivered_messages_are_counted_by_reason() -> None:
    deliveries = DirectDeliveries()
    for sequence in (1, 2, 3):
        reason = UndeliveredReason.NO_ANSWER if sequence < 3 else UndeliveredReason.REFUSED
        deliveries.fail(sent(deliveries, sequence), reason)
    expected = {UndeliveredReason.NO_ANSWER: 2, UndeliveredReason.REFUSED: 1}
    assert deliveries.undelivered == expected
