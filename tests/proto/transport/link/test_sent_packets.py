"""Packets in flight: which of them an ACK acknowledges, which are lost, and how many bytes remain."""

from __future__ import annotations

import pytest

from grapevine_proto.transport.link.sent_packets import (
    NON_ACK_ELICITING_KINDS,
    SentPacket,
    SentPackets,
)
from grapevine_proto.wire.messages import Ack, Kind

SESSION = bytes(8)


def packet(number: int) -> SentPacket:
    """Returns a packet of `number` + 100 bytes, sent at `number` seconds."""
    return SentPacket(number, float(number), 100 + number, b"content", 0, 0, 0)


def in_flight(*numbers: int) -> SentPackets:
    packets = SentPackets()
    for number in numbers:
        packets.add(packet(number))
    return packets


def ack(first: int, end: int, *missing: tuple[int, int]) -> Ack:
    return Ack(SESSION, first, end, end - 1, 0, missing)


def numbers(packets: list[SentPacket]) -> list[int]:
    return [each.number for each in packets]


def test_packets_are_kept_in_sending_order_with_their_total_size() -> None:
    packets = in_flight(3, 4, 7)
    assert [each.number for each in packets] == [3, 4, 7]
    assert (len(packets), packets.size_bytes) == (3, 314)


def test_an_ack_resolves_exactly_the_packets_below_its_end() -> None:
    packets = in_flight(0, 1, 2, 3)
    acked, lost = packets.on_ack(ack(0, 2))
    assert (numbers(acked), numbers(lost)) == ([0, 1], [])
    assert [each.number for each in packets] == [2, 3]
    assert packets.size_bytes == 102 + 103


def test_packets_below_the_start_of_an_ack_are_lost_and_the_one_at_its_start_is_not() -> None:
    acked, lost = in_flight(0, 1, 2, 3).on_ack(ack(2, 4))
    assert (numbers(acked), numbers(lost)) == ([2, 3], [0, 1])


def test_both_ends_of_each_missing_range_are_lost_and_their_neighbors_are_not() -> None:
    acked, lost = in_flight(*range(12)).on_ack(ack(0, 12, (2, 4), (6, 6), (8, 9)))
    assert numbers(lost) == [2, 3, 4, 6, 8, 9]
    assert numbers(acked) == [0, 1, 5, 7, 10, 11]


def test_missing_ranges_without_a_packet_in_flight_are_skipped() -> None:
    acked, lost = in_flight(5, 9, 10).on_ack(ack(0, 11, (1, 2), (4, 4), (6, 7), (10, 10)))
    assert (numbers(acked), numbers(lost)) == ([5, 9], [10])


def test_after_the_last_packet_is_resolved_none_are_in_flight() -> None:
    packets = in_flight(0)
    packets.on_ack(ack(0, 1))
    assert (len(packets), packets.size_bytes, packets.pop_all()) == (0, 0, [])
    packets.add(packet(5))
    assert [each.number for each in packets] == [5]
    assert len(SentPackets()) == 0, "idle links share nothing that one of them changes"


def test_the_latest_packet_and_all_packets_can_be_removed() -> None:
    packets = in_flight(1, 2, 3)
    assert packets.pop_latest() == packet(3)
    assert packets.size_bytes == 101 + 102
    assert numbers(packets.pop_all()) == [1, 2]
    assert (len(packets), packets.size_bytes) == (0, 0)


@pytest.mark.parametrize(
    ("number", "sent_at"), [(1, None), (2, 2.0), (3, None), (5, 5.0), (9, 9.0), (10, None)]
)
def test_the_time_of_sending_is_known_of_packets_in_flight_alone(
    number: int, sent_at: float | None
) -> None:
    assert in_flight(2, 5, 9).sent_at(number) == sent_at


def test_messages_with_content_for_the_application_elicit_acks() -> None:
    for kind in (Kind.RUMORS, Kind.DIRECT_MESSAGE, Kind.RECORDS, Kind.REPAIR):
        assert kind not in NON_ACK_ELICITING_KINDS
    for kind in (Kind.ACK, Kind.HEARTBEAT, Kind.CLOSE):
        assert kind in NON_ACK_ELICITING_KINDS
