"""Reassembly: any order, limited memory, fair charges."""

from __future__ import annotations

import contextlib
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grapevine_proto.config.sections import LimitsConfig
from grapevine_proto.errors import Dropped, DropReason
from grapevine_proto.token_bucket import TokenBucket
from grapevine_proto.transport.link.fragments import BYTES_PER_TOKEN, FragmentedMessage
from grapevine_proto.transport.link.reassembly import (
    MIN_REASSEMBLY_BYTES_PER_S,
    Reassembly,
    ReassemblyBudget,
)
from grapevine_proto.transport.link.send_queues import SendQueues
from grapevine_proto.wire.messages import (
    Fragment,
    Kind,
)
from tests.proto.transport.link.test_fragments import MAX, cut, message


def refusal(reassembly: Reassembly, fragment: Fragment, now: float = 0.0) -> DropReason:
    with pytest.raises(Dropped) as refused:
        reassembly.add_fragment(fragment, now)
    return refused.value.reason


@given(
    st.integers(1, 300),
    st.lists(st.integers(0, 300), max_size=20),
    st.lists(st.integers(0, 300), max_size=20),
    st.randoms(use_true_random=False),
)
def test_fragments_arrive_in_any_order_repeatedly_and_cut_differently(
    size_bytes: int, one_way: list[int], another: list[int], rng: random.Random
) -> None:
    whole = message(size_bytes)
    pieces = cut(whole, one_way) + cut(whole, another) + cut(whole, one_way)
    rng.shuffle(pieces)
    budget = ReassemblyBudget(MAX)
    reassembly, got = Reassembly(MAX, budget), []
    for piece in pieces:
        with contextlib.suppress(Dropped):
            got.append(reassembly.add_fragment(piece, 0.0))
    assert [each for each in got if each is not None] == [whole]
    assert (reassembly.used_bytes, budget.used_bytes, reassembly.has_partials) == (0, 0, False)


@pytest.mark.parametrize(
    "contradiction",
    [
        Fragment(1, 101, 50, b"x"),  # another size
        Fragment(1, 100, 5, b"x"),  # other bytes
        Fragment(1, 100, 5, b"x", is_repair=True),
    ],
)
def test_contradicting_fragments_drop_the_whole_message(contradiction: Fragment) -> None:
    whole = message(100)
    first, second = cut(whole, [60])
    reassembly = Reassembly(MAX, ReassemblyBudget(MAX))
    reassembly.add_fragment(first, 0.0)
    assert refusal(reassembly, contradiction) is DropReason.CONTENT_CONFLICT
    assert refusal(reassembly, second) is DropReason.DUPLICATE
    assert reassembly.used_bytes == 0


def test_memory_is_charged_for_received_bytes_not_for_announced_ones() -> None:
    budget = ReassemblyBudget(MAX)
    reassembly = Reassembly(MAX, budget)
    reassembly.add_fragment(Fragment(1, MAX, 5, b"abc"), 0.0)
    assert budget.used_bytes == reassembly.used_bytes == 3 + 2 * 128


def test_a_message_of_the_maximum_size_arrives_and_a_larger_one_is_dropped() -> None:
    limit = 200_000
    reassembly = Reassembly(limit, ReassemblyBudget(MAX))
    whole = message(limit + BYTES_PER_TOKEN)
    *rest, last = cut(whole, list(range(0, len(whole), 1150)))
    for piece in rest:
        assert reassembly.add_fragment(piece, 0.0) is None
    assert reassembly.add_fragment(last, 0.0) == whole
    over = Fragment(2, limit + BYTES_PER_TOKEN + 1, 0, b"x")
    assert refusal(reassembly, over) is DropReason.TOO_LARGE


def test_above_the_limit_of_a_peer_its_stalest_message_is_dropped() -> None:
    limit = 100_000
    budget = ReassemblyBudget(MAX)
    reassembly = Reassembly(limit, budget)
    limit_bytes = (limit + BYTES_PER_TOKEN) * 9 // 8
    size = 100_000 - 2 * 128
    reassembly.add_fragment(Fragment(1, size + 1, 0, message(size)), 0.0)
    rest = limit_bytes - 100_000 - 2 * 128
    reassembly.add_fragment(Fragment(2, rest + 1, 0, message(rest - 1)), 1.0)
    assert (reassembly.used_bytes, budget.dropped) == (limit_bytes - 1, 0)
    reassembly.add_fragment(Fragment(3, 2, 0, b"x"), 2.0)
    assert budget.dropped == 1
    assert refusal(reassembly, Fragment(1, size + 1, size, b"x")) is DropReason.DUPLICATE
    assert reassembly.add_fragment(Fragment(2, rest + 1, rest - 1, b"xy"), 3.0) is not None


def test_above_the_shared_limit_the_largest_consumer_loses_a_message() -> None:
    budget = ReassemblyBudget(4 * (1000 + 2 * 128))
    peers = [Reassembly(MAX, budget) for _ in range(5)]
    for number, peer in enumerate(peers[:4]):
        peer.add_fragment(Fragment(1, 2000, 0, message(1000)), float(number))
    assert (budget.used_bytes, budget.dropped) == (budget.limit_bytes, 0)
    assert refusal(peers[2], Fragment(1, 2000, 1000, b"x"), 4.0) is DropReason.REASSEMBLY_FULL
    peers[4].add_fragment(Fragment(1, 2, 0, b"x"), 5.0)
    assert [peer.has_partials for peer in peers] == [True, True, False, True, True]
    assert budget.dropped == 1


def test_a_message_stalled_for_ten_seconds_is_dropped() -> None:
    budget = ReassemblyBudget(MAX)
    slow, steady = Reassembly(MAX, budget), Reassembly(MAX, budget)
    slow.add_fragment(Fragment(1, 2000, 0, b"x"), 0.0)
    steady.add_fragment(Fragment(1, 2000, 0, b"x"), 0.0)
    slow.add_fragment(Fragment(1, 2000, 1, b"x"), 5.0)
    steady.add_fragment(Fragment(1, 2000, 1, bytes(512)), 5.0)
    assert budget.deadline == 10.0
    budget.advance(9.999)
    assert slow.has_partials
    budget.advance(10.0)
    assert (slow.has_partials, steady.has_partials, budget.dropped) == (False, True, 1)


def dribbled(
    reassembly: Reassembly,
    budget: ReassemblyBudget,
    size_bytes: int,
    part_bytes: int,
    pause_s: float,
) -> float:
    """When a message that comes in such parts is given up; 0: never."""
    now = 0.0
    for start in range(0, size_bytes - part_bytes, part_bytes):
        reassembly.add_fragment(Fragment(1, size_bytes, start, bytes(part_bytes)), now)
        now += pause_s
        budget.advance(now)
        if not reassembly.has_partials:
            return now
    return 0.0


def test_progress_is_measured_in_bytes_not_packets() -> None:
    budget = ReassemblyBudget(MAX)
    assert dribbled(Reassembly(MAX, budget), budget, 1 << 20, 1, 0.25) <= 10.0
    assert budget.dropped == 1


def test_a_message_that_progresses_too_slowly_times_out() -> None:
    budget = ReassemblyBudget(MAX)
    ended_at = dribbled(Reassembly(MAX, budget), budget, 1 << 20, 512, 1.0)
    assert 0 < ended_at <= 30.0 + 64.0 + 1.0
    sound = ReassemblyBudget(MAX)
    assert not dribbled(Reassembly(MAX, sound), sound, 1 << 20, 1143, 1143 / 16_384)


def test_only_a_fragment_with_progress_reports_progress() -> None:
    reassembly = Reassembly(MAX, ReassemblyBudget(MAX))
    grown = []
    for start in range(0, 1024, 128):
        reassembly.add_fragment(Fragment(1, 1 << 20, start, bytes(128)), 0.0)
        grown.append(reassembly.has_progressed)
    assert grown == [False, False, False, True] * 2
    assert refusal(reassembly, Fragment(1, 1 << 20, 0, bytes(9))) is DropReason.DUPLICATE
    assert not reassembly.has_progressed


def test_a_peer_loses_no_message_because_of_other_peers() -> None:
    budget = ReassemblyBudget(100_000)
    honest, greedy = Reassembly(MAX, budget), Reassembly(MAX, budget)
    honest.add_fragment(Fragment(1, 40_000, 0, bytes(20_000)), 0.0)
    for number in range(100):
        with contextlib.suppress(Dropped):
            greedy.add_fragment(Fragment(number, 40_000, 0, bytes(20_000)), 1.0 + number / 100)
    assert budget.used_bytes <= budget.limit_bytes
    assert honest.add_fragment(Fragment(1, 40_000, 20_000, bytes([0]) * 19_999), 3.0) is None
    assert budget.dropped >= 96


def test_a_budget_smaller_than_a_fragment_drops_the_message() -> None:
    reassembly = Reassembly(MAX, ReassemblyBudget(1))
    assert refusal(reassembly, Fragment(1, 4000, 0, bytes(100))) is DropReason.REASSEMBLY_FULL


@pytest.mark.parametrize("part_bytes", [1, 16, 255])
def test_small_fragments_are_charged_a_minimum(part_bytes: int) -> None:
    reassembly = Reassembly(MAX, ReassemblyBudget(MAX))
    parts = 2 * BYTES_PER_TOKEN // 256
    charged = []
    for number in range(parts + 1):
        fragment = Fragment(1, 1 << 20, number * part_bytes, bytes(part_bytes))
        if reassembly.tokens_due(fragment):
            charged.append(number)
        reassembly.add_fragment(fragment, 0.0)
    assert charged == [0, 256, 512]


@given(st.integers(70_000, 300_000), st.integers(1143, 9000), st.randoms(use_true_random=False))
def test_fragments_of_an_honest_sender_cost_what_it_computed_in_any_order(
    size_bytes: int, part_bytes: int, rng: random.Random
) -> None:
    parts = [
        Fragment(1, size_bytes, start, bytes(min(part_bytes, size_bytes - start)))
        for start in range(0, size_bytes, part_bytes)
    ]
    rng.shuffle(parts)
    reassembly, tokens = Reassembly(MAX, ReassemblyBudget(MAX)), 0
    for fragment in parts:
        tokens += reassembly.tokens_due(fragment)
        with contextlib.suppress(Dropped):  # zeros are no message once they are whole
            reassembly.add_fragment(fragment, 0.0)
    assert tokens <= math.ceil(size_bytes / BYTES_PER_TOKEN)


def test_an_ended_link_releases_its_memory() -> None:
    budget = ReassemblyBudget(MAX)
    reassembly = Reassembly(MAX, budget)
    for number in range(3):
        reassembly.add_fragment(Fragment(number, 10, 0, b"x"), 0.0)
    reassembly.clear()
    assert (budget.used_bytes, reassembly.used_bytes) == (0, 0)


def test_the_number_of_remembered_finished_messages_is_limited() -> None:
    reassembly = Reassembly(MAX, ReassemblyBudget(MAX))
    for number in range(257):
        assert reassembly.add_fragment(Fragment(number, 1, 0, b"\x04"), 0.0) == b"\x04"
    assert refusal(reassembly, Fragment(1, 1, 0, b"\x04")) is DropReason.DUPLICATE
    assert reassembly.add_fragment(Fragment(0, 1, 0, b"\x04"), 0.0) == b"\x04"


@pytest.mark.parametrize("kind", [Kind.FRAGMENT, Kind.REPAIR_FRAGMENT, Kind.REPAIR])
def test_nested_fragments_and_disguised_repairs_are_malformed(kind: Kind) -> None:
    reassembly = Reassembly(MAX, ReassemblyBudget(MAX))
    assert refusal(reassembly, Fragment(1, 1, 0, bytes((kind,)))) is DropReason.MALFORMED


def test_a_token_is_due_when_the_bytes_it_paid_for_are_used_up() -> None:
    for used_bytes, tokens in ((65_535, 0), (65_536, 1)):
        reassembly = Reassembly(MAX, ReassemblyBudget(MAX))
        first = Fragment(1, 200_000, 0, bytes(used_bytes))
        assert reassembly.tokens_due(first) == 1
        reassembly.add_fragment(first, 0.0)
        following = Fragment(1, 200_000, used_bytes, b"x")
        assert reassembly.tokens_due(following) == tokens
        queues = SendQueues(LimitsConfig(), 1)
        queues.send_limit = TokenBucket(2, 1.0, 0.0)
        sent = FragmentedMessage(message(200_000), 1, 0)
        assert queues.try_charge(sent, 0.0)
        sent.sent_bytes = used_bytes
        assert queues.try_charge(sent, 0.0)
        assert queues.send_limit.available(0.0) == 1 - tokens


def test_a_message_has_thirty_seconds_and_one_per_16_kib_and_is_checked_once_a_second() -> None:
    for checked_at, dropped_at in ((39.0, 40.0), (39.5, 40.5)):
        budget = ReassemblyBudget(MAX)
        reassembly = Reassembly(MAX, budget)
        size_bytes = 10 * 16_384
        for number in range(5):
            piece = Fragment(1, size_bytes, number * 1000, bytes(1000))
            reassembly.add_fragment(piece, 9.0 * number)
            budget.advance(9.0 * number)
        budget.advance(checked_at)
        budget.advance(dropped_at - 0.1)
        assert reassembly.has_partials
        budget.advance(dropped_at)
        assert not reassembly.has_partials


def test_the_first_byte_of_a_message_decides_whether_it_is_a_nested_fragment() -> None:
    reassembly = Reassembly(MAX, ReassemblyBudget(MAX))
    nested = bytes((Kind.FRAGMENT, Kind.RUMORS))
    assert refusal(reassembly, Fragment(1, 2, 0, nested)) is DropReason.MALFORMED
    assert reassembly.add_fragment(Fragment(2, 2, 0, nested[::-1]), 0.0) == nested[::-1]


def test_256_finished_messages_are_remembered() -> None:
    reassembly = Reassembly(MAX, ReassemblyBudget(MAX))
    for number in range(256):
        reassembly.add_fragment(Fragment(number, 1, 0, b"\x04"), 0.0)
    assert refusal(reassembly, Fragment(0, 1, 0, b"\x04")) is DropReason.DUPLICATE
    reassembly.add_fragment(Fragment(256, 1, 0, b"\x04"), 0.0)
    assert reassembly.add_fragment(Fragment(0, 1, 0, b"\x04"), 0.0) is not None


def test_a_slow_transfer_has_a_second_for_16_kibibytes() -> None:
    assert MIN_REASSEMBLY_BYTES_PER_S == 16_384


def test_512_bytes_more_are_progress_and_511_are_not() -> None:
    for number, size_bytes, progressed in ((1, 511, False), (2, 512, True)):
        reassembly = Reassembly(MAX, ReassemblyBudget(MAX))
        assert not reassembly.has_progressed
        reassembly.add_fragment(Fragment(number, 5000, 0, bytes(size_bytes)), 0.0)
        assert reassembly.has_progressed is progressed


@pytest.mark.parametrize(("start", "end"), [(0, 15), (5, 15), (5, 20), (0, 30), (15, 30)])
def test_only_what_is_new_of_a_fragment_takes_memory(start: int, end: int) -> None:
    budget = ReassemblyBudget(MAX)
    reassembly = Reassembly(MAX, budget)
    whole = message(100)
    for known_start, known_end in ((0, 10), (20, 30)):
        body = whole[known_start:known_end]
        reassembly.add_fragment(Fragment(1, 100, known_start, body), 0.0)
    assert budget.used_bytes == 20 + 3 * 128
    reassembly.add_fragment(Fragment(1, 100, start, whole[start:end]), 0.0)
    assert budget.used_bytes == 20 + min(end, 20) - max(start, 10) + 4 * 128


def test_the_memory_of_a_peer_is_filled_to_its_last_byte() -> None:
    limit_bytes = (100_000 + BYTES_PER_TOKEN) * 9 // 8
    for over, dropped in ((0, 0), (1, 1)):
        budget = ReassemblyBudget(MAX)
        reassembly = Reassembly(100_000, budget)
        size_bytes = 90_000
        reassembly.add_fragment(Fragment(1, 95_000, 0, message(size_bytes)), 0.0)
        rest = limit_bytes - size_bytes - 4 * 128 + over
        reassembly.add_fragment(Fragment(2, rest + 1, 0, message(rest)), 1.0)
        assert (budget.dropped, reassembly.used_bytes < limit_bytes) == (dropped, bool(dropped))


def test_the_time_of_a_transfer_runs_from_its_first_fragment_to_its_last() -> None:
    reassembly = Reassembly(MAX, ReassemblyBudget(MAX))
    first, second = cut(message(1000), [600])
    reassembly.add_fragment(first, 2.0)
    assert reassembly.transfer_s == 0.0
    assert reassembly.add_fragment(second, 5.5) is not None
    assert reassembly.transfer_s == 3.5


def test_a_late_fragment_of_a_finished_message_costs_no_token() -> None:
    reassembly = Reassembly(MAX, ReassemblyBudget(MAX))
    last = Fragment(1, 1, 0, b"\x04")
    assert reassembly.tokens_due(last) == 1
    reassembly.add_fragment(last, 0.0)
    assert reassembly.tokens_due(last) == 0


def test_only_the_first_byte_of_a_message_tells_whether_it_is_a_repair() -> None:
    reassembly = Reassembly(MAX, ReassemblyBudget(MAX))
    rumors = bytes((Kind.RUMORS, Kind.REPAIR, Kind.REPAIR))
    assert reassembly.add_fragment(Fragment(1, 3, 0, rumors), 0.0) == rumors
    repair = bytes((Kind.REPAIR, Kind.RUMORS, Kind.RUMORS))
    assert refusal(reassembly, Fragment(2, 3, 0, repair)) is DropReason.MALFORMED
    assert reassembly.add_fragment(Fragment(3, 3, 0, repair, is_repair=True), 0.0) == repair
