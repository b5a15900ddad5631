"""Per-peer limits: offenses add up, decay, and lead to slowing and disconnection."""

from __future__ import annotations

import pytest

from grapevine_proto.config.sections import RateLimitConfig
from grapevine_proto.errors import DropReason, Offense
from grapevine_proto.events import PeerState, PeerStateChanged, Standing, StandingChanged
from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.effects import Credit, Penalize
from grapevine_proto.token_bucket import TokenBucket
from grapevine_proto.transport import peer_limits as limits
from grapevine_proto.transport.peer_limits import (
    EXPELLED_SCORE,
    OFFENSE_WEIGHTS,
    PROMISE_CREDIT_LIMIT,
    RECOVERED_SCORE,
    SCORE_HALF_LIFE_S,
    SCORE_LIMIT,
    SLOWED_REFILL_DIVISOR,
    SLOWED_SCORE,
    TRACKED_PEERS_LIMIT,
    WORK_PER_TOKEN,
    PeerLimitTable,
)
from grapevine_proto.wire.messages import Kind
from tests.proto.overlay.builders import peer_id
from tests.proto.test_engine import HERE, THERE, Pair
from tests.turn import take_turn

PEER = peer_id(1)
LIMIT = RateLimitConfig()


def make_table(limit: RateLimitConfig = LIMIT) -> PeerLimitTable:
    table = PeerLimitTable(limit, {PEER})
    table.get_or_create(PEER, 0.0)
    return table


def points(table: PeerLimitTable, now: float) -> float:
    peer_limits = table.get(PEER)
    assert peer_limits is not None
    return peer_limits.score_at(now)


# --- the score ------------------------------------------------------------------------------------


def test_every_offense_has_a_weight() -> None:
    assert set(OFFENSE_WEIGHTS) == set(Offense)


def test_offenses_add_up_and_halve_with_time() -> None:
    table = make_table()
    table.penalize(PEER, Offense.PROTOCOL_VIOLATION, 2, 0.0)
    assert points(table, 0.0) == 20
    assert points(table, SCORE_HALF_LIFE_S) == pytest.approx(10)
    table.penalize(PEER, Offense.REPEATED_REQUEST, 5, SCORE_HALF_LIFE_S)
    assert points(table, SCORE_HALF_LIFE_S) == pytest.approx(15)
    assert points(table, 20 * SCORE_HALF_LIFE_S) < 0.01


def test_a_score_is_limited_so_an_identity_returns_after_a_few_half_lives() -> None:
    table = make_table()
    table.penalize(PEER, Offense.BAD_SIGNATURE, 1e9, 0.0)
    table.penalize(PEER, Offense.BROKEN_PROMISE, 1e9, 0.0)
    assert points(table, 0.0) == SCORE_LIMIT


def test_kept_promises_cancel_broken_ones_and_nothing_else() -> None:
    table = make_table()
    table.penalize(PEER, Offense.BROKEN_PROMISE, 40, 0.0)
    table.credit_promises(PEER, 10, 0.0)
    assert points(table, 0.0) == 0
    table.penalize(PEER, Offense.PROTOCOL_VIOLATION, 1, 0.0)
    table.credit_promises(PEER, 100, 0.0)
    assert points(table, 0.0) == 10


def test_promises_kept_in_advance_cancel_a_limited_number() -> None:
    table = make_table()
    table.credit_promises(PEER, 1_000_000, 0.0)
    table.penalize(PEER, Offense.BROKEN_PROMISE, PROMISE_CREDIT_LIMIT + 7, 0.0)
    assert points(table, 0.0) == 7


def test_an_overloaded_node_that_keeps_a_fifth_of_its_promises_is_never_slowed() -> None:
    table = make_table()
    for second in range(600):
        table.penalize(PEER, Offense.BROKEN_PROMISE, 40, float(second))
        table.credit_promises(PEER, 10, float(second))
    assert table.slowed == 0


# --- consequences ---------------------------------------------------------------------------------


def test_a_slowed_peer_refills_more_slowly_until_its_score_recovers() -> None:
    table = make_table()
    peer_limits = table.get_or_create(PEER, 0.0)
    assert peer_limits.bucket is not None
    assert table.penalize(PEER, Offense.REPEATED_REQUEST, SLOWED_SCORE - 1, 0.0) is None
    change = table.penalize(PEER, Offense.REPEATED_REQUEST, 1, 0.0)
    assert change == StandingChanged(PEER, Standing.SLOWED, SLOWED_SCORE, "repeated request")
    assert peer_limits.bucket.refill_rate == LIMIT.refill_rate / SLOWED_REFILL_DIVISOR
    assert table.update_standings(0.9 * SCORE_HALF_LIFE_S) == []
    assert [each.standing for each in table.update_standings(1.1 * SCORE_HALF_LIFE_S)] == [
        Standing.NORMAL
    ]
    assert peer_limits.bucket.refill_rate == LIMIT.refill_rate
    assert table.update_standings(2 * SCORE_HALF_LIFE_S) == []
    assert table.slowed == 1
    assert RECOVERED_SCORE < SLOWED_SCORE


def test_an_expelled_peer_is_refused_until_half_its_score_has_decayed() -> None:
    table = make_table()
    change = table.penalize(PEER, Offense.EXCESS_WORK, EXPELLED_SCORE, 0.0)
    assert change is not None
    assert change.standing is Standing.EXPELLED
    table.update_standings(0.9 * SCORE_HALF_LIFE_S)
    assert table.is_expelled(PEER, 0.9 * SCORE_HALF_LIFE_S)
    standings = [each.standing for each in table.update_standings(1.1 * SCORE_HALF_LIFE_S)]
    assert standings == [Standing.SLOWED]
    assert not table.is_expelled(PEER, 1.1 * SCORE_HALF_LIFE_S)
    assert (table.slowed, table.expelled) == (1, 1)


def test_slowing_survives_a_reconfiguration() -> None:
    table = make_table()
    table.penalize(PEER, Offense.EXCESS_WORK, SLOWED_SCORE, 0.0)
    table.reconfigure(RateLimitConfig(capacity=10, refill_rate=8.0), 0.0)
    bucket = table.get_or_create(PEER, 0.0).bucket
    assert bucket is not None
    assert bucket.refill_rate == 8.0 / SLOWED_REFILL_DIVISOR


def test_an_untracked_identity_stays_untracked() -> None:
    table = make_table()
    other = peer_id(2)
    for _ in range(3):
        assert table.penalize(other, Offense.BAD_SIGNATURE, 1, 0.0) is None
        table.credit_promises(other, 1, 0.0)
        assert table.charge_work(other, 10**9, 0.0) is None
        assert not table.is_expelled(other, 0.0)
    assert len(table) == 1


def test_an_evicted_identity_loses_its_standing() -> None:
    table = PeerLimitTable(LIMIT, {PEER})
    for number in range(1, TRACKED_PEERS_LIMIT + 2):
        table.get_or_create(peer_id(number), 0.0)
        table.penalize(peer_id(number), Offense.BAD_SIGNATURE, 5, 0.0)
    assert (len(table), table.evicted, table.expelled) == (
        TRACKED_PEERS_LIMIT,
        1,
        TRACKED_PEERS_LIMIT + 1,
    )
    assert table.is_expelled(PEER, 0.0)
    assert not table.is_expelled(peer_id(2), 0.0)
    assert len(table.update_standings(1e6)) == TRACKED_PEERS_LIMIT


# --- work -----------------------------------------------------------------------------------------


def test_only_work_above_the_budget_is_an_offense() -> None:
    table = make_table()
    budgeted = int(LIMIT.capacity * WORK_PER_TOKEN)
    assert table.charge_work(PEER, budgeted, 0.0) is None
    assert points(table, 0.0) == 0
    table.charge_work(PEER, int(7 * WORK_PER_TOKEN), 0.0)
    assert points(table, 0.0) == pytest.approx(7, abs=0.01)
    a_second = int(LIMIT.refill_rate * WORK_PER_TOKEN)
    for second in range(1, 100):
        table.charge_work(PEER, a_second, float(second))
    assert points(table, 100.0) < 7


def test_without_a_rate_limit_work_costs_nothing() -> None:
    table = make_table(RateLimitConfig(enabled=False))
    assert table.charge_work(PEER, 10**9, 0.0) is None
    assert points(table, 0.0) == 0


# --- two engines ----------------------------------------------------------------------------------


def expelled() -> Pair:
    """A pair in which `other` has just expelled `one` for offenses that state machines reported."""
    pair = Pair()
    effects: list[Penalize | Credit] = [Penalize(pair.one.peer_id, Offense.BROKEN_PROMISE, 150)]
    effects.append(Credit(pair.one.peer_id, 1))
    pair.other._apply_effects([*effects], pair.now)
    pair.run(0.5)
    return pair


def test_an_expelled_peer_is_disconnected_and_both_ends_report_why() -> None:
    pair = expelled()
    assert not pair.other._transport.links
    assert not pair.one._transport.links
    lost = [
        each.reason
        for engine in (pair.other, pair.one)
        for each in pair.events[engine]
        if isinstance(each, PeerStateChanged) and each.peer.state is PeerState.DISCONNECTED
    ]
    assert lost == ["misconduct: broken promise", "closed: misconduct"]
    standing_changes = [
        each for each in pair.events[pair.other] if isinstance(each, StandingChanged)
    ]
    assert [(each.peer, each.standing) for each in standing_changes] == [
        (pair.one.peer_id, Standing.EXPELLED)
    ]
    stats = pair.other.stats()
    assert (stats.offenses, stats.slowed, stats.expelled) == (
        ((Offense.BROKEN_PROMISE, 150),),
        0,
        1,
    )


def test_an_expelled_peer_is_refused_in_handshakes_for_a_while_then_admitted() -> None:
    pair = expelled()
    pair.one.dial(THERE, pair.now)
    pair.run(20)
    assert not pair.other._transport.links
    assert pair.drops(pair.other)[DropReason.MISCONDUCT] >= 1
    assert pair.other._transport.handshakes._responder.pending == 0
    assert len(pair.other._transport.links.peer_limits) == 1
    pair.run(5 * SCORE_HALF_LIFE_S)
    assert pair.one.peer_id in pair.other._transport.links


def test_malformed_messages_count_against_the_peer() -> None:
    pair = Pair()
    for _ in range(int(EXPELLED_SCORE / OFFENSE_WEIGHTS[Offense.PROTOCOL_VIOLATION])):
        pair.inject(bytes([Kind.HEARTBEAT]) + b"\xc1 is no msgpack")
    assert pair.other.stats().expelled == 1


def test_packets_tampered_with_by_others_do_not_count_against_the_peer() -> None:
    pair = Pair()
    seen: list[bytes] = []
    pair.one.broadcast(b"x", pair.now)
    for datagram, _ in take_turn(pair.one, pair.now):
        seen.append(datagram)
        pair.other.receive(datagram, HERE, pair.now)
    for _ in range(1000):  # replays, and bits that were changed
        for datagram in seen:
            pair.other.receive(datagram, HERE, pair.now)
            forged = datagram[:-1] + bytes([datagram[-1] ^ 1])
            pair.other.receive(forged, HERE, pair.now)
    peer_limits = pair.other._transport.links.peer_limits.get(pair.one.peer_id)
    assert peer_limits is not None
    assert peer_limits.score_at(pair.now) == 0
    assert pair.other.stats().offenses == ()


def test_messages_far_above_the_rate_limit_count_as_excess_work() -> None:
    pair = Pair()
    table = pair.other._transport.links.peer_limits
    assert limits.RATE_LIMITED_MESSAGE_WORK == 15
    flood = int(LIMIT.capacity * WORK_PER_TOKEN / limits.RATE_LIMITED_MESSAGE_WORK)
    for _ in range(
        flood + int(EXPELLED_SCORE * WORK_PER_TOKEN / limits.RATE_LIMITED_MESSAGE_WORK) + 2
    ):
        charged = pair.other._transport.charge_work(
            pair.one.peer_id, limits.RATE_LIMITED_MESSAGE_WORK, pair.now
        )
        pair.other._on_events(charged, pair.now)
    assert table.is_expelled(pair.one.peer_id, pair.now)


# --- at the limits ------------------------------------------------------------------------------


def limits_of(table: PeerLimitTable) -> limits.PeerLimits:
    found = table.get(PEER)
    assert found is not None
    return found


def test_the_weights_of_offenses_are_those_of_the_documentation() -> None:
    assert OFFENSE_WEIGHTS == {
        Offense.BAD_SIGNATURE: 40,
        Offense.PROTOCOL_VIOLATION: 10,
        Offense.BROKEN_PROMISE: 1,
        Offense.REPEATED_REQUEST: 1,
        Offense.STALLED_ROUND: 4,
        Offense.EXCESS_WORK: 1,
    }


def test_a_score_of_fifty_slows_and_one_of_a_hundred_expels() -> None:
    table = make_table()
    assert table.penalize(PEER, Offense.REPEATED_REQUEST, 49.9, 0.0) is None
    change = table.penalize(PEER, Offense.REPEATED_REQUEST, 0.1, 0.0)
    assert change is not None
    assert (change.standing, change.score, change.reason) == (
        Standing.SLOWED,
        50,
        "repeated request",
    )
    assert table.penalize(PEER, Offense.REPEATED_REQUEST, 49.9, 0.0) is None
    change = table.penalize(PEER, Offense.STALLED_ROUND, 0.1, 0.0)
    assert change is not None
    assert change.standing is Standing.EXPELLED
    assert change.reason == "repeated request", "the main cause"
    assert (table.slowed, table.expelled) == (1, 1)


def test_a_standing_recovers_at_half_of_what_caused_it() -> None:
    table = make_table()
    table.penalize(PEER, Offense.REPEATED_REQUEST, 50, 0.0)
    assert table.update_standings(59.9) == []
    [change] = table.update_standings(60.1)
    assert change.standing is Standing.NORMAL
    table = make_table()
    table.penalize(PEER, Offense.REPEATED_REQUEST, 100, 0.0)
    assert table.update_standings(59.9) == []
    assert table.is_expelled(PEER, 59.9)
    [change] = table.update_standings(60.1)
    assert change.standing is Standing.SLOWED
    [change] = table.update_standings(120.1)
    assert change.standing is Standing.NORMAL
    assert table.update_standings(121.0) == []


def test_a_slowed_peer_refills_a_fourth_as_fast() -> None:
    table = make_table(RateLimitConfig(capacity=100, refill_rate=40.0))
    bucket = limits_of(table).bucket
    assert bucket is not None
    table.penalize(PEER, Offense.REPEATED_REQUEST, 50, 0.0)
    assert (bucket.capacity, bucket.refill_rate) == (100, 10.0)
    table.update_standings(61.0)
    assert bucket.refill_rate == 40.0


def test_a_bad_signature_takes_ten_tokens_or_what_is_left() -> None:
    table = make_table(RateLimitConfig(capacity=15, refill_rate=1.0))
    bucket = limits_of(table).bucket
    assert bucket is not None
    table.penalize(PEER, Offense.BAD_SIGNATURE, 1, 0.0)
    assert bucket.available(0.0) == 5.0
    table.penalize(PEER, Offense.PROTOCOL_VIOLATION, 1, 0.0)
    assert bucket.available(0.0) == 5.0
    table.penalize(PEER, Offense.BAD_SIGNATURE, 1, 0.0)
    assert bucket.available(0.0) == 0.0


def test_a_score_is_800_at_most_whatever_adds_to_it() -> None:
    for offense in (Offense.PROTOCOL_VIOLATION, Offense.BROKEN_PROMISE):
        table = make_table()
        table.penalize(PEER, offense, 10_000, 0.0)
        table.penalize(PEER, offense, 10_000, 0.0)
        assert points(table, 0.0) == 800
        assert points(table, 60.0) == 400
    table.penalize(PEER, Offense.PROTOCOL_VIOLATION, 60, 60.0)
    assert points(table, 60.0) == 800


def test_a_kept_promise_cancels_four_broken_ones_up_to_forty_in_advance() -> None:
    table = make_table()
    table.penalize(PEER, Offense.BROKEN_PROMISE, 9, 0.0)
    table.credit_promises(PEER, 2, 0.0)
    assert points(table, 0.0) == 1
    table.credit_promises(PEER, 99, 0.0)
    table.penalize(PEER, Offense.BROKEN_PROMISE, 40, 0.0)
    assert points(table, 0.0) == 0
    table.penalize(PEER, Offense.BROKEN_PROMISE, 1, 0.0)
    assert points(table, 0.0) == 1
    table.credit_promises(peer_id(9), 1, 0.0)
    assert len(table) == 1, "looking up an identity does not track it"


def test_offenses_are_counted_by_kind_and_at_least_one_at_a_time() -> None:
    table = make_table()
    table.penalize(PEER, Offense.EXCESS_WORK, 0.2, 0.0)
    table.penalize(PEER, Offense.EXCESS_WORK, 3.9, 0.0)
    table.penalize(peer_id(9), Offense.STALLED_ROUND, 1, 0.0)
    assert table.offenses == {Offense.EXCESS_WORK: 4, Offense.STALLED_ROUND: 1}
    assert table.get(peer_id(9)) is None


def test_shares_of_offenses_decay_so_that_the_cause_is_the_latest_main_one() -> None:
    table = make_table()
    table.penalize(PEER, Offense.PROTOCOL_VIOLATION, 4, 0.0)
    table.penalize(PEER, Offense.STALLED_ROUND, 6, 120.0)
    change = table.penalize(PEER, Offense.STALLED_ROUND, 5, 120.0)
    assert change is not None
    assert change.reason == "stalled round"
    assert limits.MisconductScore().top_offense() == ""
    score = limits.MisconductScore()
    score.add(Offense.PROTOCOL_VIOLATION, 4, 0.0)
    score.add(Offense.STALLED_ROUND, 9, 0.0)
    assert score.top_offense() == "protocol violation"
    score.add(Offense.STALLED_ROUND, 0.5, SCORE_HALF_LIFE_S)
    assert score.offenses == {Offense.PROTOCOL_VIOLATION: 20.0, Offense.STALLED_ROUND: 20.0}
    score.add(Offense.STALLED_ROUND, 0.5, SCORE_HALF_LIFE_S)
    assert score.top_offense() == "stalled round"


def test_work_beyond_a_thousand_units_per_token_is_charged_as_an_offense() -> None:
    table = make_table(RateLimitConfig(capacity=10, refill_rate=2.0))
    assert table.charge_work(PEER, 10_000, 0.0) is None
    assert table.offenses.total() == 0
    assert table.charge_work(PEER, 2_000, 1.0) is None
    assert table.offenses.total() == 0
    table.charge_work(PEER, 3_000, 1.0)
    assert points(table, 1.0) == 3
    change = table.charge_work(PEER, 49_100, 2.0)
    assert change is not None, "2,000 units were left"
    assert change.standing is Standing.SLOWED
    assert table.charge_work(peer_id(9), 99_999, 0.0) is None


def test_an_identity_is_reaped_once_it_has_no_link_no_debt_and_no_score() -> None:
    table = PeerLimitTable(RateLimitConfig(capacity=10, refill_rate=1.0), {PEER})
    ids = [PEER, *(peer_id(number) for number in range(2, 7))]
    for each in ids:
        table.get_or_create(each, 0.0)
    bucket = table.get_or_create(ids[1], 0.0).bucket
    assert bucket is not None
    bucket.try_take(0.0, 5)
    table.charge_work(ids[2], 5_000, 0.0)
    table.penalize(ids[3], Offense.REPEATED_REQUEST, 1, 0.0)
    table.keep_send_limit(ids[4], TokenBucket(10, 1, 5.0), 0.0)
    table.reap(0.0)
    assert {each for each in ids if table.get(each)} == set(ids) - {ids[5]}
    table.reap(5.0)
    assert {each for each in ids if table.get(each)} == {PEER}
    table.get_or_create(ids[5], 5.0)
    table.penalize(ids[5], Offense.REPEATED_REQUEST, 60, 5.0)
    table.reap(5.0 + 60 * 7)
    assert table.get(ids[5]), "its standing has not been updated yet"
    table.update_standings(5.0 + 60 * 7)
    table.reap(5.0 + 60 * 7)
    assert table.get(ids[5]) is None


def test_4096_identities_are_tracked_and_one_without_a_link_is_evicted() -> None:
    table = make_table()
    ids = [PeerId(number.to_bytes(32, "big")) for number in range(4096)]
    for each in ids[:4095]:
        table.get_or_create(each, 0.0)
    assert (len(table), table.evicted) == (4096, 0)
    table.get_or_create(ids[4095], 0.0)
    assert (len(table), table.evicted) == (4096, 1)
    assert table.get(PEER)
    assert table.get(ids[0]) is None


def test_throttled_messages_are_reported_once_with_the_tokens_left() -> None:
    table = make_table(RateLimitConfig(capacity=10, refill_rate=1.0))
    assert table.take_rate_limited_event(PEER, 0.0) is None
    for _ in range(3):
        table.count_throttled(PEER, 0.0)
    event = table.take_rate_limited_event(PEER, 0.0)
    assert event is not None
    assert (event.peer, event.dropped, event.tokens) == (PEER, 3, 10.0)
    assert table.take_rate_limited_event(PEER, 0.0) is None
    table.count_throttled(PEER, 0.0)
    event = table.take_rate_limited_event(PEER, 0.0)
    assert event is not None
    assert event.dropped == 1
    unlimited = make_table(RateLimitConfig(enabled=False))
    unlimited.count_throttled(PEER, 0.0)
    event = unlimited.take_rate_limited_event(PEER, 0.0)
    assert event is not None
    assert event.tokens == 0.0
