"""Loss recovery: ACKs, retransmissions, PTOs and abandoned messages."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grapevine_proto.config.sections import CongestionConfig, LimitsConfig
from grapevine_proto.errors import DropReason
from grapevine_proto.token_bucket import TokenBucket
from grapevine_proto.transport.link.fragments import FragmentedMessage
from grapevine_proto.transport.link.mtud import MtuDiscovery
from grapevine_proto.transport.link.path import Path
from grapevine_proto.transport.link.recovery import Recovery
from grapevine_proto.transport.link.send_queues import (
    BULK,
    DATA,
    FragmentRetransmission,
    QueuedItem,
    Retransmission,
    SendQueues,
)
from grapevine_proto.transport.link.sent_packets import PacketContent, SentPacket
from grapevine_proto.transport.session.ack_tracker import AckTracker
from grapevine_proto.wire.codec import TrackedBytes, encode_message, with_tracking
from grapevine_proto.wire.messages import Ack, DirectMessage, Kind, Records
from tests.proto.transport.ends import EMPTY, HEARTBEAT, RUMORS, linked_ends
from tests.proto.transport.paths import OneWayPath, PathNetwork


def message_of(number: int, size_bytes: int = 100) -> bytes:
    return encode_message(DirectMessage(number, bytes(size_bytes)))


# --- ACKs of a receiver ---------------------------------------------------------------------------


def arrivals_of(*counters: int, every_s: float = 0.001) -> tuple[AckTracker, float]:
    arrivals, now = AckTracker(), 0.0
    for counter in counters:
        now += every_s
        arrivals.on_packet(counter, now)
        arrivals.schedule_ack(counter, now)
    return arrivals, now


def test_an_ack_is_due_after_the_reordering_window() -> None:
    arrivals = AckTracker()
    arrivals.update_rtt(0.08, 0.02)
    arrivals.on_packet(0, 1.0)
    arrivals.schedule_ack(0, 1.0)
    assert arrivals.due_at == 1.02
    first, end, latest, delay_s, missing = arrivals.build_ack(1.02)
    assert (first, end, latest, missing) == (0, 1, 0, ())
    assert delay_s == pytest.approx(0.02)
    assert arrivals.due_at == float("inf")


def test_under_load_there_is_one_ack_per_rtt() -> None:
    arrivals = AckTracker()
    arrivals.update_rtt(0.08, 0.02)
    reports = 0
    for counter in range(1000):
        now = counter / 1000
        arrivals.on_packet(counter, now)
        arrivals.schedule_ack(counter, now)
        if now >= arrivals.due_at:
            arrivals.build_ack(now)
            reports += 1
    assert reports == pytest.approx(1.0 / 0.08, abs=1)


def test_a_packet_that_may_be_reordered_is_not_reported_missing() -> None:
    arrivals, now = arrivals_of(0, 1, 4)
    assert arrivals.build_ack(now).end == 2
    assert arrivals.build_ack(now + 0.02)[:2] == (0, 2)
    assert arrivals.build_ack(now + 0.04).missing == ((2, 3),)


def test_ranges_that_do_not_fit_go_in_the_next_ack_at_once() -> None:
    arrivals, now = arrivals_of(*range(1, 400, 2))
    reported: set[int] = set()
    for _ in range(10):
        now += 0.02
        first, end, _, _, missing = arrivals.build_ack(now)
        assert len(missing) <= 64
        assert all(first <= low <= high < end for low, high in missing)
        reported.update(number for low, high in missing for number in range(low, high + 1))
        if arrivals.due_at == float("inf"):
            break
    assert reported == set(range(0, 400, 2))


def test_the_number_of_tracked_gaps_is_limited() -> None:
    arrivals, now = arrivals_of(*range(1, 2 * 2048 + 2, 2))
    assert len(arrivals._missing) == 2048
    assert not arrivals.claim(0, now)
    assert arrivals.claim(2, now)
    arrivals.on_packet(2**32 - 1, now)
    assert len(arrivals._missing) == 2048
    arrivals.on_packet(2**31, now)  # in two with the largest
    assert len(arrivals._missing) == 2048


def test_a_gap_of_any_width_is_one_range_and_each_number_in_it_is_claimed_once() -> None:
    arrivals, now = arrivals_of(0, 2**32 - 1)
    for counter in (1, 2**32 - 2, 2**31, 2**31 + 1, 2**31 - 1, 2):
        assert arrivals.claim(counter, now)
        assert not arrivals.claim(counter, now)
    assert arrivals._missing == [(3, 2**31 - 2), (2**31 + 2, 2**32 - 3)]


@given(st.lists(st.integers(0, 60), unique=True, min_size=1), st.randoms(use_true_random=False))
def test_an_ack_is_correct_for_each_packet_number(counters: list[int], rng: random.Random) -> None:
    arrivals, now, came = AckTracker(), 0.0, set()
    for counter in counters:
        now += rng.choice([0.001, 0.02])
        arrivals.on_packet(counter, now)
        arrivals.schedule_ack(counter, now)
        came.add(counter)
        if rng.random() < 0.3:
            first, end, latest, _, missing = arrivals.build_ack(now)
            gone = {number for low, high in missing for number in range(low, high + 1)}
            assert gone.isdisjoint(came)
            assert set(range(first, end)) - gone <= came
            assert latest in came


def test_content_is_claimed_by_the_first_packet_that_carries_it() -> None:
    arrivals, now = arrivals_of(0, 2)
    assert arrivals.claim(1, now)
    assert not arrivals.claim(1, now)
    assert not arrivals.claim(2, now)
    assert arrivals.claim(7, now)
    assert not arrivals.claim(7, now)


# --- over a link ----------------------------------------------------------------------------------


def test_every_small_message_arrives_once_over_thirty_percent_loss() -> None:
    network = PathNetwork()
    ours, theirs = network.join(
        OneWayPath(loss=0.3, seed=1), OneWayPath(loss=0.3, seed=2), rtt_s=0.05
    )
    for number in range(300):
        ours.link.send(message_of(number), network.now)
        network.run(0.01)
    network.run(5.0)

    assert sorted(theirs.got) == sorted(message_of(number) for number in range(300))
    assert ours.link.send_drops == 0
    assert ours.link.is_idle


def test_reordering_loses_and_duplicates_nothing() -> None:
    network = PathNetwork()
    path = OneWayPath(seed=3)
    ours, theirs = network.join(path, rtt_s=0.05)
    for number in range(300):
        path.delay_s = path.rng.uniform(0.01, 0.15)
        ours.link.send(message_of(number), network.now)
        network.run(0.01)
    network.run(5.0)

    assert sorted(theirs.got) == sorted(message_of(number) for number in range(300))
    late = {DropReason.DUPLICATE, DropReason.REPLAY}
    assert set(theirs.drops) <= late


def test_the_loss_of_the_last_packet_is_detected_after_about_two_rtts() -> None:
    network = PathNetwork()
    ours, theirs = network.join(OneWayPath(), rtt_s=0.05)
    for number in range(5):
        ours.link.send(message_of(number), network.now)
        network.run(0.1)
    ours.there.drops = lambda datagram, now: True
    ours.link.send(message_of(5), network.now)
    network.run(0.01)
    ours.there.drops = lambda datagram, now: False
    took_s = network.run(1.0, until=lambda: len(theirs.got) == 6)

    assert 0.1 < took_s < 0.25


def test_an_outage_of_five_seconds_loses_nothing() -> None:
    for rate in (0.0, 1_250_000.0):
        network = PathNetwork()
        ours, theirs = network.join(OneWayPath(rate=rate), OneWayPath(), rtt_s=0.05)
        whole = encode_message(DirectMessage(1, bytes(1_000_000)))
        ours.link.send(whole, 0.0)
        network.run(0.2)
        for path in (ours.there, theirs.there):
            path.drops = lambda datagram, now: True
        for number in range(50):
            ours.link.send(message_of(number), network.now)
            network.run(0.1)
        for path in (ours.there, theirs.there):
            path.drops = lambda datagram, now: False
        network.run(10.0)

        assert len(theirs.got) == 51
        assert ours.link.send_drops == 0


def test_acks_are_not_acknowledged_and_an_idle_link_is_quiet() -> None:
    network = PathNetwork()
    ours, theirs = network.join(OneWayPath(), rtt_s=0.05)
    for side in (ours, theirs):
        side.link.send(message_of(1), network.now)
    network.run(1.0)
    sent = [side.there.entered for side in (ours, theirs)]
    assert sum(sent) == 4  # two messages, two reports
    network.run(60.0)
    assert [side.there.entered for side in (ours, theirs)] == sent
    assert all(side.link.transmit_at == math.inf for side in (ours, theirs))


def test_heartbeats_are_neither_acknowledged_nor_retransmitted() -> None:
    network = PathNetwork()
    ours, theirs = network.join(OneWayPath(), rtt_s=0.05)
    ours.link.send(HEARTBEAT, 0.0)
    network.run(5.0)
    assert (ours.there.entered, theirs.there.entered) == (1, 1)  # and the answer to our handshake
    assert ours.link.is_idle


def test_control_messages_are_retransmitted_too() -> None:
    network = PathNetwork()
    ours, theirs = network.join(OneWayPath(loss=0.5, seed=5), rtt_s=0.05)
    records = encode_message(Records(()))
    for _ in range(20):
        ours.link.send(records, network.now)
        network.run(0.2)
    network.run(3.0)
    assert theirs.got == [records] * 20


def test_after_the_last_pto_everything_in_flight_is_abandoned_and_counted() -> None:
    network = PathNetwork()
    ours, _ = network.join(OneWayPath(loss=1.0), rtt_s=0.05)
    ours.link.send(message_of(1), 0.0)
    ours.link.send(encode_message(DirectMessage(2, bytes(5000))), 0.0)
    network.run(5.0)
    assert ours.link.send_drops == 0
    took_s = 5.0 + network.run(60.0, until=lambda: ours.link.is_idle)

    assert 8.0 < took_s < 30.0
    assert ours.link.send_drops == 2
    assert ours.there.entered < 6 + 3 * 12
    entered = ours.there.entered
    network.run(60.0)
    assert ours.there.entered == entered


@pytest.mark.parametrize("size_bytes", [10, 5000])
def test_what_is_abandoned_is_listed_once_if_it_is_tracked(size_bytes: int) -> None:
    network = PathNetwork()
    ours, _ = network.join(OneWayPath(), rtt_s=0.05)
    ours.there.drops = lambda datagram, now: True
    plaintext = encode_message(DirectMessage(1, bytes(size_bytes)))
    ours.link.send(with_tracking(plaintext, [(1, 7)]), 0.0)
    ours.link.send(message_of(2), 0.0)
    network.run(60.0)
    assert ours.link.take_abandoned() == [(1, 7)]
    assert ours.link.take_abandoned() == []
    assert ours.link.take_acked() == []


def test_content_that_is_always_lost_is_abandoned_while_other_messages_arrive() -> None:
    network = PathNetwork()
    ours, theirs = network.join(OneWayPath(), rtt_s=0.05)
    tries = 0

    def drops(datagram: bytes, now: float) -> bool:
        nonlocal tries
        is_cursed = 900 < len(datagram) < 1100  # and no probe of the path
        tries += is_cursed
        return is_cursed

    ours.there.drops = drops
    ours.link.send(encode_message(DirectMessage(1, bytes(900))), 0.0)
    for number in range(2, 302):
        ours.link.send(message_of(number), network.now)
        network.run(0.02)
    network.run(5.0)
    assert len(theirs.got) == 300
    assert ours.link.send_drops == 1
    assert 16 < tries <= 18


def test_a_lost_message_costs_its_token_once() -> None:
    network = PathNetwork()
    ours, theirs = network.join(OneWayPath(loss=0.3, seed=9), rtt_s=0.05)
    ours.link.send_limit = TokenBucket(90, 45, 0.0)
    theirs.link.inbound_limit.bucket = TokenBucket(100, 50, 0.0)
    for number in range(250):
        ours.link.send(message_of(number), 0.0)
    network.run(10.0)
    assert len(theirs.got) == 250
    assert theirs.link.inbound_limit.throttled == 0


def test_packets_in_flight_during_a_rekey_arrive_once() -> None:
    for seed in range(6):
        world, ada, bob = linked_ends()
        rng = random.Random(seed)
        world.drop = lambda datagram, *_, rng=rng: datagram[0] == 5 and rng.random() < 0.3
        sent = 0
        while world.now < 6.0:
            if 3.0 < world.now < 3.05 and not ada.dials:
                ada.dial(bob.address, world.now, expected=bob.peer_id)
            ada.link.send(message_of(sent), world.now)
            sent += 1
            world.run(0.02)
        world.run(10.0)

        assert len(ada.established) >= 2
        got = [each for each in bob.opened if each not in (EMPTY, RUMORS)]
        assert sorted(got) == sorted(message_of(number) for number in range(sent))


# --- one component alone --------------------------------------------------------------------------

SESSION = b"session1"


class Alone:
    """Loss detection without a link: the test sends and acknowledges packets itself."""

    def __init__(self, rtt_s: float = 0.1) -> None:
        self.path = Path(CongestionConfig(), "192.0.2.1", rtt_s, 0.0)
        self.queues = SendQueues(LimitsConfig(), 0)
        self.recovery = Recovery(self.path, self.queues)
        self.pto_s = self.path.rtt.pto_s

    def send(self, number: int, now: float, content: PacketContent = b"", lost: int = 0) -> None:
        plaintext = message_of(number) if content == b"" else content
        self.recovery.on_sent(SentPacket(number, now, 150, plaintext, 0, 0, lost))

    def ack(self, first: int, end: int, now: float, *missing: tuple[int, int]) -> None:
        self.recovery.on_ack(Ack(SESSION, first, end, end - 1, 0, missing), now)

    def queued(self, rank: int = DATA) -> list[QueuedItem]:
        return list(self.queues.by_rank[rank])

    def retransmissions(self) -> list[tuple[int, int]]:
        """Packet numbers and attempts of what is queued, first to go first."""
        items = [each for each in self.queued() if isinstance(each, Retransmission)]
        return [(each.counter, each.attempts) for each in items]


def test_the_pto_runs_from_the_latest_packet_and_stops_when_all_are_acknowledged() -> None:
    alone = Alone()
    assert alone.recovery.pto_at == math.inf
    alone.send(0, 1.0)
    alone.send(1, 2.0)
    assert alone.recovery.pto_at == 2.0 + alone.pto_s
    alone.ack(0, 1, 2.05)
    assert alone.recovery.pto_at == 2.05 + alone.path.rtt.pto_s
    alone.ack(0, 2, 2.1)
    assert alone.recovery.pto_at == math.inf


def test_lost_packets_go_again_in_their_order_and_each_counts_one_more_attempt() -> None:
    alone = Alone()
    for number in range(5):
        alone.send(number, 1.0, lost=2 if number == 3 else 0)
    alone.ack(0, 5, 1.1, (1, 1), (3, 3))
    assert alone.retransmissions() == [(1, 1), (3, 3)]
    assert alone.recovery.packets_lost == 2
    assert alone.recovery.abandoned == 0


@pytest.mark.parametrize(("attempts", "is_abandoned"), [(15, 0), (16, 1)])
def test_content_is_retransmitted_16_times_and_then_abandoned(
    attempts: int, is_abandoned: int
) -> None:
    alone = Alone()
    alone.send(0, 1.0, lost=attempts)
    alone.send(1, 1.0)
    alone.ack(1, 2, 1.1)
    assert alone.recovery.abandoned == is_abandoned
    assert len(alone.queued()) == 1 - is_abandoned


def test_a_pto_sends_the_two_latest_packets_again_without_counting_an_attempt() -> None:
    alone = Alone()
    for number in range(4):
        alone.send(number, 1.0, lost=number)
    alone.recovery.on_pto(SESSION, 2.0)
    assert alone.retransmissions() == [(2, 2), (3, 3)]
    assert alone.recovery.pto_credit == 2
    assert [each[0] for each in alone.recovery.sent_packets] == [0, 1]
    assert alone.recovery.packets_lost == 0
    alone.send(4, 2.0)
    assert alone.recovery.pto_credit == 1
    alone.send(5, 2.0)
    alone.send(6, 2.0)
    assert alone.recovery.pto_credit == 0


def expire_ptos(alone: Alone, count: int) -> list[float]:
    """The time to the next PTO after each of `count` that nothing answered."""
    waits = []
    for number in range(count):
        now = 10.0 * number
        alone.send(number, now)
        alone.recovery.on_pto(SESSION, now)
        waits.append(alone.recovery.pto_at - now)
    return waits


def test_ptos_back_off_from_the_third_on_up_to_two_seconds() -> None:
    alone = Alone(0.05)
    waits = expire_ptos(alone, 7)
    base_s = alone.pto_s
    assert waits == pytest.approx(
        [base_s, base_s, 2 * base_s, 4 * base_s, 8 * base_s, 2.0, 2.0], rel=1e-6
    )
    assert 8 * base_s < 2.0 < 16 * base_s


def test_a_pto_longer_than_two_seconds_is_not_shortened() -> None:
    alone = Alone(2.0)
    assert alone.pto_s > 2.0
    assert expire_ptos(alone, 4) == pytest.approx([alone.pto_s] * 4)


def test_an_ack_that_resolves_a_packet_ends_the_backoff_and_another_does_not() -> None:
    alone = Alone(0.05)
    expire_ptos(alone, 4)
    alone.send(10, 50.0)
    pto_at = alone.recovery.pto_at
    alone.ack(5, 6, 50.01)
    assert alone.recovery.pto_at == pto_at
    alone.ack(10, 11, 50.05)
    assert alone.recovery.pto_at == math.inf
    alone.send(11, 60.0)
    assert alone.recovery.pto_at == 60.0 + alone.path.rtt.pto_s


def test_after_twelve_ptos_without_an_answer_everything_in_flight_is_abandoned() -> None:
    alone = Alone()
    for number in range(3):
        alone.send(number, 0.0)
    for number in range(12):
        alone.send(3 + 2 * number, 0.0)
        alone.send(4 + 2 * number, 0.0)
        alone.recovery.on_pto(SESSION, 0.0)
    assert alone.recovery.abandoned == 0
    alone.recovery.on_pto(SESSION, 0.0)
    assert alone.recovery.abandoned == 3
    assert (len(alone.recovery.sent_packets), alone.recovery.pto_at) == (0, math.inf)
    alone.send(100, 50.0)
    assert alone.recovery.pto_at == 50.0 + alone.path.rtt.pto_s


def test_the_rate_falls_from_the_fourth_pto_on() -> None:
    alone = Alone()
    rates = []
    for number in range(6):
        alone.send(number, 10.0 * number)
        alone.recovery.on_pto(SESSION, 10.0 * number)
        rates.append(alone.path.rate)
    assert rates[0] == rates[1] == rates[2] > rates[3]


def test_the_rtt_is_measured_on_the_latest_packet_without_the_peers_delay() -> None:
    alone = Alone()
    alone.send(0, 1.0)
    alone.send(1, 1.2)
    alone.recovery.on_ack(Ack(SESSION, 0, 2, 1, 20_000, ()), 1.3)
    assert alone.path.rtt.latest_rtt_s == pytest.approx(0.08)
    alone.send(7, 0.0)
    alone.recovery.on_ack(Ack(SESSION, 7, 8, 7, 3_000_000_000, ()), 3000.001)
    assert alone.path.rtt.latest_rtt_s == pytest.approx(0.001)
    alone.send(12, 2.0)
    alone.send(13, 2.1)
    late = 3002.101
    alone.recovery.on_ack(
        Ack(SESSION, 12, 13, 13, 3_000_000_000, ()), late
    )  # 13 is above the range
    assert alone.path.rtt.latest_rtt_s == pytest.approx(0.001)
    assert len(alone.recovery.sent_packets) == 1


def test_tracked_keys_are_listed_when_all_of_their_message_is_acknowledged() -> None:
    alone = Alone()
    tracked = TrackedBytes(message_of(0))
    tracked.tracked_keys = ((1, 5),)
    again = Retransmission(SESSION, 7, tracked, DATA, 1)
    whole = FragmentedMessage(TrackedBytes(bytes(300)), 1, DATA)
    whole.tracked_keys = ((1, 9),)
    recovery = alone.recovery
    recovery.on_sent(SentPacket(0, 1.0, 150, tracked, 0, 0, 0))
    recovery.on_sent(SentPacket(1, 1.0, 150, again, 0, 0, 0))
    recovery.on_sent(SentPacket(2, 1.0, 150, whole, 0, 100, 0))
    recovery.on_sent(SentPacket(3, 1.0, 250, whole, 100, 300, 0))
    alone.ack(0, 1, 1.1)
    assert recovery.acked_keys == [(1, 5)]
    alone.ack(1, 3, 1.1)
    assert recovery.acked_keys == [(1, 5), (1, 5)]
    alone.ack(3, 4, 1.1)
    assert recovery.acked_keys == [(1, 5), (1, 5), (1, 9)]


def test_a_fragmented_message_is_abandoned_once_and_its_other_fragments_go_no_more() -> None:
    alone = Alone()
    whole = FragmentedMessage(bytes(300), 1, BULK)
    for number, lost in ((0, 0), (1, 16), (2, 16)):
        alone.recovery.on_sent(
            SentPacket(number, 1.0, 150, whole, 100 * number, 100 * number + 100, lost)
        )
    alone.send(3, 1.0)
    alone.ack(3, 4, 1.1)
    assert whole.is_abandoned
    assert alone.recovery.abandoned == 1
    assert alone.queued(BULK) == []


def test_a_lost_fragment_goes_again_with_its_range() -> None:
    alone = Alone()
    whole = FragmentedMessage(bytes(300), 1, BULK)
    alone.recovery.on_sent(SentPacket(0, 1.0, 150, whole, 100, 200, 4))
    alone.send(1, 1.0)
    alone.ack(1, 2, 1.1)
    [fragment] = alone.queued(BULK)
    assert isinstance(fragment, FragmentRetransmission)
    assert (fragment.message, fragment.start, fragment.end, fragment.attempts) == (
        whole,
        100,
        200,
        5,
    )


def test_after_a_rekey_everything_in_flight_is_queued_in_order_and_the_pto_stops() -> None:
    alone = Alone()
    for number in range(3):
        alone.send(number, 1.0, lost=number)
    alone.send(3, 1.0, None)
    alone.recovery.retransmit_all(SESSION, 1.5)
    assert alone.retransmissions() == [(0, 0), (1, 1), (2, 2)]
    assert (alone.recovery.pto_at, alone.recovery.packets_lost) == (math.inf, 0)
    alone.send(4, 2.0)
    alone.recovery.clear()
    assert (len(alone.recovery.sent_packets), alone.recovery.pto_at) == (0, math.inf)


def test_an_mtu_probe_stays_in_flight_for_two_ptos_and_is_never_retransmitted() -> None:
    alone = Alone()
    for number in range(3):
        alone.send(2 * number, 0.0)
        if not number:
            alone.recovery.on_sent(SentPacket(100, 0.0, 1400, None, 0, 1400, 0))
        alone.recovery.on_pto(SESSION, 0.0)
        in_flight = [each[0] for each in alone.recovery.sent_packets]
        assert in_flight == ([100] if number < 2 else [])
    assert alone.recovery.packets_lost == 0
    assert len(alone.queued()) == 3


class RecordingPath(Path):
    """A path that records what an ACK reports to it."""

    reported: tuple[float, ...] = ()

    def on_ack(
        self, acked: int, acked_bytes: int, lost: int, latest_acked_sent_at: float, now: float
    ) -> None:
        self.reported = (acked, acked_bytes, lost, latest_acked_sent_at)
        super().on_ack(acked, acked_bytes, lost, latest_acked_sent_at, now)


class RecordingMtu(MtuDiscovery):
    """Discovery of the MTU that records how many larger packets were acknowledged and lost."""

    reported: tuple[int, ...] = ()

    def on_ack(self, large_acked: int, large_lost: int) -> None:
        self.reported = (large_acked, large_lost)


@pytest.mark.usefixtures("patch_sources")
def test_an_ack_reports_how_much_arrived_and_was_lost_and_when_the_latest_was_sent() -> None:
    alone = Alone()
    path = RecordingPath(CongestionConfig(), "192.0.2.1", 0.1, 0.0)
    mtu = path.mtu = RecordingMtu("192.0.2.1")
    recovery = alone.recovery = Recovery(path, alone.queues)
    sizes = (100, 1200, 1201, 1201, 1400, 1400)
    for number, size_bytes in enumerate(sizes):
        recovery.on_sent(
            SentPacket(number, 1.0 + number / 100, size_bytes, message_of(number), 0, 0, 0)
        )
    alone.ack(1, 6, 1.2, (3, 3), (5, 5))
    acked_bytes = 2 * 1200 + 1 + 1400
    assert list(path.reported) == [3, acked_bytes, 2, 1.04]  # 0 is below the range
    assert list(mtu.reported) == [2, 2]
    recovery.on_sent(SentPacket(6, 2.0, 1200, message_of(6), 0, 0, 0))
    recovery.on_sent(SentPacket(7, 2.0, 1200, message_of(7), 0, 0, 0))
    alone.ack(6, 8, 2.1, (6, 7))
    assert list(path.reported) == [0, 0, 2, -math.inf]
    assert list(mtu.reported) == [0, 0]


def test_after_everything_is_forgotten_the_pto_starts_with_the_next_packet() -> None:
    alone = Alone()
    for forget in (
        alone.recovery.clear,
        lambda: alone.recovery.retransmit_all(SESSION, 5.0),
    ):
        alone.send(0, 1.0)
        alone.recovery.on_pto(SESSION, 1.5)
        forget()
        assert alone.recovery.pto_at == math.inf
        alone.send(1, 9.0)
        assert alone.recovery.pto_at == 9.0 + alone.pto_s
        alone.recovery.clear()


def test_only_a_pto_lets_packets_go_at_once() -> None:
    alone = Alone()
    credit = [alone.recovery.pto_credit]
    alone.send(0, 1.0)
    credit.append(alone.recovery.pto_credit)
    alone.recovery.on_pto(SESSION, 2.0)
    credit.append(alone.recovery.pto_credit)
    alone.send(1, 2.0)
    credit.append(alone.recovery.pto_credit)
    assert credit == [0, 0, 1, 0]


def rumors(number: int) -> bytes:
    return bytes((Kind.RUMORS, number))


def test_the_pto_allows_for_the_delay_of_acks_while_the_latest_packet_carries_rumors() -> None:
    alone = Alone()
    alone.recovery.max_ack_delay_s = 1.0
    alone.send(0, 1.0, rumors(0))
    assert alone.recovery.pto_at == 1.0 + alone.pto_s + 1.0
    alone.send(1, 1.1)
    assert alone.recovery.pto_at == 1.1 + alone.pto_s
    alone.send(2, 1.2, rumors(2))
    alone.ack(0, 2, 1.3)
    assert alone.recovery.pto_at == 1.3 + alone.path.rtt.pto_s + 1.0


def test_the_pto_allows_for_no_delay_for_30_seconds_after_a_loss() -> None:
    alone = Alone()
    alone.recovery.max_ack_delay_s = 1.0
    for number in range(3):
        alone.send(number, 1.0, rumors(number))
    alone.ack(0, 3, 1.1, (1, 1))
    alone.send(3, 30.0, rumors(3))
    assert alone.recovery.pto_at == 30.0 + alone.path.rtt.pto_s
    alone.ack(0, 4, 30.1)
    alone.send(4, 31.1, rumors(4))
    assert alone.recovery.pto_at == 31.1 + alone.path.rtt.pto_s + 1.0


@pytest.mark.parametrize(("is_rumor", "delay_s"), [(True, 0.0), (False, 1.0)])
def test_a_pto_counts_as_a_loss_if_it_allowed_for_the_delay(is_rumor: bool, delay_s: float) -> None:
    alone = Alone()
    alone.recovery.max_ack_delay_s = 1.0
    alone.send(0, 1.0, rumors(0) if is_rumor else b"")
    alone.recovery.on_pto(SESSION, 3.0)
    alone.send(1, 3.0)
    alone.ack(0, 2, 3.1)
    alone.send(2, 4.0, rumors(2))
    assert alone.recovery.pto_at == pytest.approx(4.0 + alone.path.rtt.pto_s + delay_s)


def test_a_node_that_leaves_does_not_wait_for_delayed_acks() -> None:
    alone = Alone()
    alone.recovery.max_ack_delay_s = 1.0
    alone.recovery.expect_prompt_acks()
    assert alone.recovery.pto_at == math.inf
    alone.send(0, 1.0, rumors(0))
    alone.recovery.expect_prompt_acks()
    assert alone.recovery.pto_at == 1.0 + alone.pto_s  # nothing is delayed
    alone.recovery.max_ack_delay_s = 1.0
    alone.send(1, 2.0, rumors(1))
    alone.recovery.expect_prompt_acks()
    assert alone.recovery.pto_at == 2.0


def test_unless_the_peer_may_delay_its_acks_a_pto_allows_for_none() -> None:
    path = Path(CongestionConfig(), "10.0.0.1", 0.1, 0.0)
    recovery = Recovery(path, SendQueues(LimitsConfig(), 0))
    recovery.on_sent(SentPacket(0, 5.0, len(RUMORS), RUMORS, 0, len(RUMORS), 0))
    assert recovery.pto_at == 5.0 + path.rtt.pto_s
    recovery.max_ack_delay_s = 0.5
    recovery.on_sent(SentPacket(1, 50.0, len(RUMORS), RUMORS, 0, len(RUMORS), 0))
    assert recovery.pto_at == 50.0 + path.rtt.pto_s + 0.5


def test_a_peer_does_not_answer_from_the_third_pto_on_until_it_does() -> None:
    alone = Alone()
    unanswered = []
    for _ in range(4):
        expire_ptos(alone, 1)
        unanswered.append(alone.recovery.is_unanswered)
    assert unanswered == [False, False, True, True]
    alone.send(9, 100.0)
    alone.ack(9, 10, 100.1)
    assert not alone.recovery.is_unanswered


def test_the_datagram_size_returns_to_the_base_with_the_fourth_pto_alone() -> None:
    alone = Alone()
    sizes = []
    for number in range(6):
        alone.path.mtu.on_probe_sent()
        alone.path.mtu.on_probe_acked(1452)
        alone.send(number, 10.0 * number)
        alone.recovery.on_pto(SESSION, 10.0 * number)
        sizes.append(alone.path.mtu.datagram_bytes)
    assert sizes == [1452, 1452, 1452, 1200, 1452, 1452]


def test_at_a_new_address_the_pto_expires_at_once_and_the_backoff_ends() -> None:
    alone = Alone()
    alone.recovery.on_new_address(1.0)
    assert alone.recovery.pto_at == math.inf, "nothing is in flight"
    for number in range(8):
        alone.send(number, 1.0)
    for _ in range(4):
        alone.recovery.on_pto(SESSION, 5.0)
        alone.send(8, 5.0)
    alone.recovery.on_new_address(6.0)
    assert (alone.recovery.pto_at, alone.recovery.is_unanswered) == (6.0, False)
    alone.recovery.on_pto(SESSION, 6.0)
    assert alone.recovery.pto_at == 6.0 + alone.path.rtt.pto_s
    other = Alone()
    expire_ptos(other, 4)
    other.recovery.on_new_address(60.0)
    other.send(9, 60.0)
    assert other.recovery.pto_at == 60.0 + other.path.rtt.pto_s
