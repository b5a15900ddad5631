"""The scheduler of a link: when a message may go, in what order, and what is counted."""

from __future__ import annotations

import math
import random

import pytest

from grapevine_proto.config.sections import CongestionConfig, LimitsConfig
from grapevine_proto.crypto.cluster_key import ClusterKey
from grapevine_proto.transport.link.acks import PendingReplies
from grapevine_proto.transport.link.fragments import FragmentedMessage
from grapevine_proto.transport.link.path import Path
from grapevine_proto.transport.link.send_queues import (
    BULK,
    DATA,
    FragmentRetransmission,
    Retransmission,
)
from grapevine_proto.transport.link.sender import Sender
from grapevine_proto.transport.link.sent_packets import SentPacket
from grapevine_proto.transport.session.session import Session
from grapevine_proto.transport.session.sessions import Sessions
from grapevine_proto.wire import codec
from grapevine_proto.wire.frames import FRAGMENT_OVERHEAD_BYTES
from grapevine_proto.wire.messages import (
    Ack,
    Close,
    CloseReason,
    Confirm,
    DirectMessage,
    Heartbeat,
    Kind,
    Repair,
)

HEARTBEAT = codec.encode_message(Heartbeat(1, 0, 0, 0, 0, bytes(16), ()))
CLOSE = codec.encode_message(Close(CloseReason.FULL))
REPAIR = codec.encode_message(Repair(1, True, False, ()))


def direct(size_bytes: int = 100) -> bytes:
    return codec.encode_message(DirectMessage(1, bytes(size_bytes)))


class SendingEnd:
    """A sender, its session, and the other end that decrypts what it sends."""

    def __init__(self, *, capacity: int = 0, refill_rate: float = 1.0, **limits: int) -> None:
        key, keys = ClusterKey(bytes(32)), (b"a" * 32, b"b" * 32)
        self.session = Session(b"1" * 8, b"2" * 8, key, True, *keys, 0.0)
        self.replies = PendingReplies(Sessions(self.session, 0.0))
        self.sender = Sender(
            LimitsConfig(**limits), CongestionConfig(), "192.0.2.2", 0.1, 0, self.replies, 0.0
        )
        self.sender.path.should_probe_mtu = False
        if capacity:
            self.sender.set_send_limit(capacity, refill_rate, 0.0)
        self.theirs = Session(b"2" * 8, b"1" * 8, key, False, *keys[::-1], 0.0)

    def push(self, *plaintexts: bytes) -> None:
        for plaintext in plaintexts:
            assert self.sender.push(plaintext)

    def sent(self, now: float = 0.0) -> list[bytes]:
        found = []
        for datagram in self.sender.transmit(self.session, now):
            packet = codec.decode_packet(datagram)
            assert isinstance(packet, codec.Data)
            found.append(self.theirs.open(packet, now))
        self.sender.path.should_probe_mtu = False
        return found


def test_a_sender_is_ready_while_nothing_is_queued_and_a_token_is_left() -> None:
    end = SendingEnd(capacity=1)
    assert end.sender.is_ready(0.0)
    assert end.sender.next_send_at(0.0) == 0.0
    end.push(direct())
    assert not end.sender.is_ready(0.0), "the queued message takes the token"
    assert end.sender.next_send_at(0.0) == math.inf
    assert len(end.sent()) == 1
    assert not end.sender.is_ready(0.0)
    assert end.sender.next_send_at(0.0) == 1.0
    assert end.sender.is_ready(1.0)


def test_without_a_limit_queued_messages_leave_a_sender_ready() -> None:
    end = SendingEnd()
    end.push(direct())
    assert end.sender.is_ready(0.0)
    limited = SendingEnd(capacity=2)
    limited.push(direct())
    assert limited.sender.is_ready(0.0)
    limited.push(HEARTBEAT)
    assert not limited.sender.is_ready(0.0)


def test_sixty_four_queued_messages_are_all_that_go_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    end = SendingEnd()
    monkeypatch.setattr(Path, "ready_at", lambda _: -math.inf)
    end.push(*[HEARTBEAT] * 63)
    ready = [end.sender.is_ready(0.0)]
    end.push(HEARTBEAT)
    assert [*ready, end.sender.is_ready(0.0)] == [True, False]
    end.push(HEARTBEAT)
    assert len(end.sent()) == 64
    assert len(end.sent()) == 1


def test_a_full_window_waits_for_acknowledgments_and_control_does_not() -> None:
    end = SendingEnd()
    end.sender.path.window_bytes = 0
    assert not end.sender.is_ready(0.0)
    assert end.sender.next_send_at(0.0) == math.inf
    end.push(direct(), HEARTBEAT)
    assert end.sent() == [HEARTBEAT]
    assert not end.sender.is_idle
    end.sender.path.window_bytes = 10**6
    assert end.sent() == [direct()]


def test_control_goes_first_then_data_then_repair_and_a_close_last() -> None:
    end = SendingEnd()
    end.push(CLOSE, REPAIR, direct(), HEARTBEAT)
    assert [plaintext[0] for plaintext in end.sent()] == [
        Kind.HEARTBEAT,
        Kind.DIRECT_MESSAGE,
        Kind.REPAIR,
        Kind.CLOSE,
    ]


def test_without_tokens_a_repair_goes_and_the_rest_waits_for_them() -> None:
    end = SendingEnd(capacity=1, refill_rate=100.0)
    end.push(direct(), direct(), REPAIR)
    assert [plaintext[0] for plaintext in end.sent()] == [Kind.DIRECT_MESSAGE, Kind.REPAIR]
    assert end.sender.transmit_at(0.0) == 0.01
    assert end.sent(0.009) == []
    assert len(end.sent(0.01)) == 1


def test_a_close_waits_for_control_without_tokens() -> None:
    end = SendingEnd(capacity=1)
    end.push(HEARTBEAT, HEARTBEAT, CLOSE)
    assert end.sent() == [HEARTBEAT]
    assert end.sender.transmit_at(0.0) <= 1.0
    assert end.sent(1.0) == [HEARTBEAT, CLOSE]


@pytest.mark.parametrize(
    ("capacity", "refill_rate", "expected"),
    [(5, 2.0, (5, 2.0)), (1, 0.0, (1, 0.09)), (0, 9.0, None)],
)
def test_the_limit_of_a_record_is_applied_and_never_stalls(
    capacity: int, refill_rate: float, expected: tuple[float, float] | None
) -> None:
    end = SendingEnd(capacity=9)
    end.sender.set_send_limit(capacity, refill_rate, 0.0)
    limit = end.sender.send_limit
    assert (None if limit is None else (limit.capacity, limit.refill_rate)) == expected


def test_tokens_that_were_spent_stay_spent_when_the_limit_changes() -> None:
    end = SendingEnd(capacity=4)
    end.push(direct())
    end.sent()
    end.sender.set_send_limit(10, 1, 0.0)
    limit = end.sender.send_limit
    assert limit is not None
    assert limit.available(0.0) == 9.0
    end.sender.set_send_limit(10, 1, 0.0)
    assert end.sender.send_limit is limit


def test_what_is_dropped_is_counted() -> None:
    end = SendingEnd(queue_messages=1)
    end.push(direct())
    assert not end.sender.push(direct())
    end.sender.count_send_drops(3)
    assert (end.sender.send_drops, end.sender.queued) == (4, 1)
    assert end.sender.clear() == 1
    assert (end.sender.send_drops, end.sender.queued) == (5, 0)
    assert end.sender.is_idle


def test_a_message_passes_the_queue_if_nothing_speaks_against_it() -> None:
    end = SendingEnd(capacity=1)
    assert end.sender.cut_through(direct(2000), end.session, 0.0) is None, "more than a packet"
    assert end.sender.cut_through(direct(), end.session, 0.0) is not None
    assert end.sender.cut_through(direct(), end.session, 0.0) is None, "no token is left"
    assert not end.sender.is_idle, "it is in flight"
    queued = SendingEnd()
    queued.push(HEARTBEAT)
    assert queued.sender.cut_through(direct(), queued.session, 0.0) is None
    probing = SendingEnd()
    probing.sender.path.should_probe_mtu = True
    assert probing.sender.cut_through(direct(), probing.session, 0.0) is None
    full = SendingEnd()
    full.sender.path.window_bytes = 0
    assert full.sender.cut_through(direct(), full.session, 0.0) is None


def test_large_and_small_messages_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    end = SendingEnd()
    monkeypatch.setattr(Path, "ready_at", lambda _: -math.inf)
    end.sender.path.window_bytes = 10**6
    end.push(direct(70_000), direct(), direct(), direct())
    kinds = [plaintext[0] for plaintext in end.sent()[:7]]
    fragment, small = Kind.FRAGMENT, Kind.DIRECT_MESSAGE
    assert kinds == [small, fragment, small, fragment, small, fragment, fragment]


@pytest.mark.parametrize("seed", range(6))
def test_the_queues_count_the_bytes_that_have_not_been_sent(seed: int) -> None:
    rng = random.Random(seed)
    end = SendingEnd(capacity=30, refill_rate=100.0, queue_messages=12, queue_bytes=200_000)
    sender, queues = end.sender, end.sender._queues
    rejected = cleared = retransmitted = 0
    now = 0.0
    for _ in range(300):
        now += rng.choice([0.0, 0.001, 0.05])
        match rng.randrange(12):
            case 0 | 1 | 2 | 3:
                rejected += not sender.push(direct(rng.choice([10, 100, 1100, 3000])))
            case 4:
                rejected += not sender.push(direct(70_000))
            case 5:
                rejected += not sender.push(rng.choice([HEARTBEAT, REPAIR]))
            case 6:
                queued = len(queues)
                sender.recovery.retransmit_all(end.session.their_id, now)
                retransmitted += len(queues) - queued
            case 7 if rng.random() < 0.2:
                cleared += len(queues)
                sender.clear()
            case _:
                sender.path.window_bytes = rng.choice([3000, 10**6])
                sender.transmit(end.session, now)
        for queue, queued_bytes in zip(queues.by_rank, queues.queued_bytes, strict=True):
            waiting_bytes = sum(
                len(item) - (0 if isinstance(item, bytes) else item.sent_bytes)
                for item in queue
                if isinstance(item, bytes | FragmentedMessage)
            )
            assert queued_bytes == waiting_bytes
        assert sender.queued == len(queues) == sum(map(len, queues.by_rank))
        assert sender.send_drops == rejected + cleared + sender.recovery.abandoned
    assert rejected
    assert retransmitted


def test_what_is_sent_is_tracked_with_its_range_and_its_attempts(
    patch_sources: pytest.MonkeyPatch,
) -> None:
    end = SendingEnd()
    sender, tracked = end.sender, list[SentPacket]()
    patch_sources.setattr(Path, "ready_at", lambda _: -math.inf)
    patch_sources.setattr(
        type(sender.recovery), "on_sent", lambda _, packet: tracked.append(packet)
    )

    def sent_as() -> list[tuple[int, int, int]]:
        found = [(each.start, each.end, each.attempts) for each in tracked]
        tracked.clear()
        return found

    end.push(direct(), direct(2000))
    sender.path.should_probe_mtu = False
    end.sent()
    part_bytes = sender.path.plaintext_limit_bytes - FRAGMENT_OVERHEAD_BYTES
    whole_bytes = len(direct(2000))
    fragments = [(0, part_bytes, 0), (part_bytes, whole_bytes, 0)]
    assert sent_as() == [(0, 0, 0), *fragments]
    assert sender.cut_through(direct(), end.session, 0.0) is not None
    assert sent_as() == [(0, 0, 0)]
    sender._queues.push_front(Retransmission(b"2" * 8, 1, direct(), DATA, 3), DATA)
    end.sent()
    assert sent_as() == [(0, 0, 3)]
    sender.path.should_probe_mtu = True
    probes = sender.transmit(end.session, 0.0)
    assert sent_as() == [(0, len(each), 0) for each in probes]
    assert len(probes) == 1


def test_a_message_passes_the_queue_at_the_instant_at_which_a_packet_may_go(
    patch_sources: pytest.MonkeyPatch,
) -> None:
    end = SendingEnd()
    patch_sources.setattr(Path, "ready_at", lambda _: 5.0)
    assert end.sender.cut_through(direct(), end.session, 4.9) is None
    assert end.sender.cut_through(direct(), end.session, 5.0) is not None
    queued = SendingEnd()
    queued.push(direct())
    assert (len(queued.sent(4.9)), queued.sender.transmit_at(4.9)) == (0, 5.0)
    assert len(queued.sent(5.0)) == 1


def test_a_sender_is_ready_while_the_window_has_room_for_what_is_queued() -> None:
    end = SendingEnd()
    end.push(direct(1000))
    for window_bytes, is_ready in ((len(direct(1000)), False), (len(direct(1000)) + 1, True)):
        end.sender.path.window_bytes = window_bytes
        assert end.sender.is_ready(0.0) is is_ready


def test_control_waits_for_the_tokens_of_its_first_message() -> None:
    end = SendingEnd(capacity=1)
    end.push(direct())
    end.sent()
    free = codec.encode_message(Confirm())
    end.push(HEARTBEAT, free)
    assert end.sent() == [], "what costs nothing stands behind"
    assert end.sender.transmit_at(0.0) > 0.0
    free_first = SendingEnd(capacity=1)
    free_first.push(direct())
    free_first.sent()
    free_first.push(free, HEARTBEAT)
    assert free_first.sent() == [free]


def test_what_no_longer_fits_the_path_is_sent_in_fragments(
    patch_sources: pytest.MonkeyPatch,
) -> None:
    end = SendingEnd()
    patch_sources.setattr(Path, "ready_at", lambda _: -math.inf)
    small, large = direct(400), direct(1000)
    end.push(large, small)
    patch_sources.setattr(Path, "plaintext_limit_bytes", len(small))
    *fragments, last = end.sent()
    assert last == small, "it fits exactly"
    assert b"".join(each[FRAGMENT_OVERHEAD_BYTES:] for each in fragments) == large
    assert all(len(each) <= len(small) for each in fragments)


def test_a_full_window_leaves_no_room_for_a_probe() -> None:
    end = SendingEnd()
    end.push(direct(1000))
    end.sent()
    for spare_bytes, probes in ((0, 0), (1, 1)):
        end.sender.path.window_bytes = end.sender.recovery.sent_packets.size_bytes + spare_bytes
        end.sender.path.should_probe_mtu = True
        assert len(end.sender.transmit(end.session, 0.0)) == probes


def test_a_sender_is_ready_once_the_path_has_paced_what_is_queued(
    patch_sources: pytest.MonkeyPatch,
) -> None:
    end = SendingEnd()
    end.push(direct(1000))
    end.sender.path.window_bytes = 10**6
    patch_sources.setattr(Path, "ready_at", lambda _: 5.0)
    patch_sources.setattr(Path, "rate", len(direct(1000)))
    assert not end.sender.is_ready(5.9)
    assert end.sender.is_ready(6.0)


def test_a_message_does_not_pass_the_queue_once_losses_are_to_be_looked_for() -> None:
    for pto_at, passes in ((5.0, False), (5.1, True)):
        end = SendingEnd()
        end.sender.recovery.pto_at = pto_at
        assert (end.sender.cut_through(direct(), end.session, 5.0) is not None) is passes


def test_messages_of_up_to_64_kibibytes_share_their_room_and_larger_ones_have_their_own() -> None:
    end = SendingEnd(queue_messages=1)
    end.push(direct())
    assert not end.sender.has_room_for(65_536)
    assert end.sender.has_room_for(65_537)


def test_a_message_that_was_abandoned_counts_as_dropped() -> None:
    end = SendingEnd()
    end.sender.count_send_drops(3)
    end.sender.recovery.abandoned += 2
    assert end.sender.send_drops == 5


def test_only_a_message_of_more_than_a_packet_makes_the_path_probe() -> None:
    end = SendingEnd()
    limit_bytes = end.sender.path.plaintext_limit_bytes
    overhead = len(direct(1000)) - 1000
    for size_bytes, probes in ((limit_bytes, False), (limit_bytes + 1, True)):
        end.push(direct(size_bytes - overhead))
        assert end.sender.path.should_probe_mtu is probes
    end.sender.path.should_probe_mtu = False
    fitting = SendingEnd()
    plaintext = direct(limit_bytes - overhead)
    assert fitting.sender.cut_through(plaintext, fitting.session, 0.0) is not None


def test_a_sender_is_ready_at_the_instant_at_which_a_packet_may_go(
    patch_sources: pytest.MonkeyPatch,
) -> None:
    end = SendingEnd()
    patch_sources.setattr(Path, "ready_at", lambda _: 5.0)
    assert [end.sender.is_ready(now) for now in (4.9, 5.0)] == [False, True]


def test_at_the_pto_what_is_in_flight_goes_again() -> None:
    end = SendingEnd()
    end.push(direct())
    end.sent()
    pto_at = end.sender.recovery.pto_at
    assert end.sent(pto_at - 0.001) == []
    [plaintext] = end.sent(pto_at)
    assert plaintext[0] == Kind.RETRANSMIT


def test_a_heartbeat_is_not_in_flight() -> None:
    end = SendingEnd()
    end.push(HEARTBEAT)
    assert end.sent() == [HEARTBEAT]
    assert end.sender.is_idle


def test_an_idle_sender_waits_for_an_event_and_a_lone_close_or_large_message_goes_at_once() -> None:
    assert SendingEnd().sender.transmit_at(3.0) == math.inf
    closing = SendingEnd()
    closing.push(CLOSE)
    assert closing.sender.transmit_at(3.0) == 3.0
    for plaintext in (direct(70_000), REPAIR):
        end = SendingEnd()
        end.push(plaintext)
        assert end.sender.transmit_at(3.0) == 3.0


def test_what_costs_nothing_at_the_head_of_a_queue_goes_without_tokens() -> None:
    end = SendingEnd(capacity=1)
    end.push(direct())
    end.sent()
    end.push(direct())
    whole = FragmentedMessage(direct(3000), 1, DATA)
    end.sender._queues.push_front(FragmentRetransmission(whole, 0, 500, 1), DATA)
    assert end.sender.transmit_at(0.0) == 0.0
    [fragment] = end.sent()
    assert fragment[FRAGMENT_OVERHEAD_BYTES:] == direct(3000)[:500]
    assert end.sender.transmit_at(0.1) == pytest.approx(end.sender.recovery.pto_at)


def test_each_of_several_large_messages_pays_for_itself(
    patch_sources: pytest.MonkeyPatch,
) -> None:
    end = SendingEnd(capacity=10)
    patch_sources.setattr(Path, "ready_at", lambda _: -math.inf)
    end.sender.path.window_bytes = 10**6
    end.push(direct(70_000), direct(70_000))
    while end.sender.queued:
        end.sent()
    assert end.sender.send_limit is not None
    assert end.sender.send_limit.available(0.0) == 10 - 2 * 2


def test_a_lost_range_of_more_than_a_packet_goes_in_parts(
    patch_sources: pytest.MonkeyPatch,
) -> None:
    end = SendingEnd()
    patch_sources.setattr(Path, "ready_at", lambda _: -math.inf)
    whole = FragmentedMessage(direct(5000), 1, BULK)
    part_bytes = end.sender.path.plaintext_limit_bytes - FRAGMENT_OVERHEAD_BYTES
    for size_bytes, parts in ((part_bytes, 1), (2 * part_bytes, 2), (2 * part_bytes + 1, 3)):
        lost = FragmentRetransmission(whole, 100, 100 + size_bytes, 1)
        end.sender._queues.push_front(lost, BULK)
        sent = end.sent()
        assert len(sent) == parts
        content = b"".join(each[FRAGMENT_OVERHEAD_BYTES:] for each in sent)
        assert content == direct(5000)[100 : 100 + size_bytes]


def test_of_an_abandoned_message_nothing_goes_any_more() -> None:
    end = SendingEnd()
    end.push(direct(70_000))
    assert len(end.sent()) < 60
    queues = end.sender._queues
    [large] = queues.by_rank[BULK]
    assert isinstance(large, FragmentedMessage)
    large.is_abandoned = True
    end.sender.recovery.clear()
    end.sender._queues.push_front(FragmentRetransmission(large, 0, 500, 1), BULK)
    assert end.sent(5.0) == []
    assert (end.sender.queued, queues.queued_bytes) == (0, [0] * 5)


def test_a_retransmission_beyond_one_packet_is_fragmented_and_stays_tracked() -> None:
    end = SendingEnd()
    limit_bytes = end.sender.path.plaintext_limit_bytes
    for size_bytes, kinds in (
        (limit_bytes - 13, {Kind.RETRANSMIT}),
        (limit_bytes - 12, {Kind.FRAGMENT}),
    ):
        plaintext = codec.with_tracking(bytes((Kind.RUMORS,)) + bytes(size_bytes - 1), [(1, 5)])
        lost = Retransmission(b"2" * 8, 1, plaintext, DATA, 1)
        end.sender._queues.push_front(lost, DATA)
        assert {each[0] for each in end.sent()} == kinds
        numbers = [each.number for each in end.sender.recovery.sent_packets]
        ack = Ack(b"2" * 8, 0, numbers[-1] + 1, numbers[-1], 0, ())
        end.sender.recovery.on_ack(ack, 0.1)
        assert end.sender.recovery.take_acked() == [(1, 5)]
