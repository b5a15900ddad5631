"""The peer table, its state transitions and peer health."""

from __future__ import annotations

import itertools
import math

import pytest

from grapevine_proto.events import PeerState
from grapevine_proto.ids import Address
from grapevine_proto.overlay.peers import TRANSITIONS, Peer, PeerTable, PeerTrigger, TimeBounds
from tests.proto.overlay.builders import peer_id, record

ADDRESS = Address("10.0.0.1", 8000)


def table_with(*numbers: int, limit: int = 100) -> PeerTable:
    table = PeerTable(limit)
    for number in numbers:
        table.add(peer_id(number), record(number), ADDRESS, float(number))
    return table


def linked(table: PeerTable, number: int) -> Peer:
    peer = table.get(peer_id(number))
    assert peer is not None
    table.transition(peer, PeerTrigger.LINKED)
    return peer


@pytest.mark.parametrize(("state", "trigger"), list(itertools.product(PeerState, PeerTrigger)))
def test_a_state_changes_only_along_the_transition_table(
    state: PeerState, trigger: PeerTrigger
) -> None:
    table = table_with(1)
    peer = table.get(peer_id(1))
    assert peer is not None
    peer.state = state
    if (state, trigger) in TRANSITIONS:
        assert table.transition(peer, trigger) is state
        assert peer.state is TRANSITIONS[state, trigger]
    else:
        with pytest.raises(KeyError):
            table.transition(peer, trigger)
        assert peer.state is state


def test_every_state_can_be_entered_and_left() -> None:
    assert set(TRANSITIONS.values()) == set(PeerState)
    assert {state for state, _ in TRANSITIONS} == set(PeerState)


def test_connected_and_stale_peers_are_linked() -> None:
    table = table_with(1, 2, 3)
    linked(table, 2)
    stale = linked(table, 3)
    table.transition(stale, PeerTrigger.MISSED_HEARTBEATS)
    assert [*table.linked] == [peer_id(2), peer_id(3)]
    table.transition(stale, PeerTrigger.LOST)
    assert [*table.linked] == [peer_id(2)]


def test_a_full_table_evicts_the_longest_silent_disconnected_peer() -> None:
    table = table_with(1, 2, 3, limit=3)
    linked(table, 1)
    table.add(peer_id(4), None, ADDRESS, 4.0)
    assert len(table) == 3
    assert table.get(peer_id(1)) is not None
    assert table.get(peer_id(2)) is None
    assert table.evicted == 1


def test_health_falls_with_failures_and_silence_and_is_zero_without_a_link() -> None:
    table = table_with(1)
    peer = linked(table, 1)
    peer.last_heard_at = 100.0
    best = peer.health(100.0, 30.0)
    assert best == 1.0
    assert peer.health(115.0, 30.0) < best
    peer.record_interval(succeeded=False)
    once = peer.health(100.0, 30.0)
    peer.record_interval(succeeded=False)
    assert peer.health(100.0, 30.0) < once < best
    for _ in range(60):
        peer.record_interval(succeeded=True)
    assert peer.health(100.0, 30.0) > 0.98
    table.transition(peer, PeerTrigger.LOST)
    assert peer.health(100.0, 30.0) == 0.0


def test_the_health_reason_names_each_problem() -> None:
    table = table_with(1)
    peer = linked(table, 1)
    peer.last_heard_at = 100.0
    assert peer.health_reason(107.0, 5.0) == ""
    assert peer.health_reason(108.0, 5.0) == "silent for 8 s"
    peer.record_interval(succeeded=False)
    assert peer.health_reason(100.0, 5.0) == "silent in 6% of the last intervals"
    table.transition(peer, PeerTrigger.LOST)
    assert peer.health_reason(100.0, 5.0) == "no link"


def test_one_rtt_outlier_changes_the_estimate_little() -> None:
    peer = Peer(peer_id(1), None, ADDRESS, 0.0)
    for _ in range(20):
        peer.update_rtt(0.010)
    peer.update_rtt(1.0)
    assert peer.rtt_s is not None
    assert peer.rtt_s < 0.15
    peer.update_rtt(-5.0)
    assert peer.rtt_s > 0


# --- at the limits ------------------------------------------------------------------------------


def test_a_new_peer_is_disconnected_responsive_and_has_measured_nothing() -> None:
    peer = Peer(peer_id(1), None, ADDRESS, 3.0)
    assert peer.state is PeerState.DISCONNECTED
    assert (peer.rtt_s, peer.min_rtt_s, peer.linked_at) == (None, None, None)
    assert (peer.success_ratio, peer.consecutive_failures) == (1.0, 0)
    assert not (peer.is_unresponsive)
    assert not (peer.is_address_validated)
    assert not (peer.is_self_chosen)
    assert (peer.heartbeat_number, peer.their_heartbeat_number, peer.session_epoch) == (0, 0, 0)
    assert {
        peer.last_heard_at,
        peer.heartbeat_expected_from,
        peer.heartbeat_due_at,
        peer.heartbeat_sent_at,
        peer.their_heartbeat_at,
    } == {3.0}
    assert (peer.sync_requested_at, peer.sync_answered_at) == (-math.inf, -math.inf)


def test_the_first_sample_is_the_rtt_and_later_ones_count_an_eighth() -> None:
    peer = Peer(peer_id(1), None, ADDRESS, 0.0)
    peer.update_rtt(0.080)
    assert (peer.rtt_s, peer.min_rtt_s) == (0.080, 0.080)
    peer.update_rtt(0.160)
    assert peer.rtt_s == pytest.approx(0.090)
    peer.update_rtt(-1.0)
    assert peer.rtt_s == pytest.approx(0.090 * 7 / 8)
    assert peer.min_rtt_s == 0.0


def test_the_minimum_follows_a_longer_path_half_of_the_way_in_45_samples() -> None:
    peer = Peer(peer_id(1), None, ADDRESS, 0.0)
    peer.update_rtt(0.0)
    peer.rtt_s = 0.100  # settled on the longer path
    for _ in range(44):
        peer.update_rtt(0.100)
    assert peer.min_rtt_s is not None
    assert peer.min_rtt_s == pytest.approx(0.1 * (1 - (63 / 64) ** 44), rel=1e-6)
    assert peer.min_rtt_s < 0.050 < 0.1 * (1 - (63 / 64) ** 45)


def test_the_latest_interval_counts_a_sixteenth() -> None:
    peer = Peer(peer_id(1), None, ADDRESS, 0.0)
    peer.record_interval(succeeded=False)
    peer.record_interval(succeeded=False)
    assert (peer.success_ratio, peer.consecutive_failures) == ((15 / 16) ** 2, 2)
    peer.record_interval(succeeded=True)
    assert peer.consecutive_failures == 0
    assert peer.success_ratio == pytest.approx((15 / 16) ** 3 + 1 / 16)


def test_silence_up_to_the_timeout_costs_half_of_the_health_and_each_failure_three_tenths() -> None:
    table = table_with(1)
    peer = linked(table, 1)
    peer.last_heard_at = 100.0
    assert peer.health(115.0, 30.0) == 0.75
    assert peer.health(130.0, 30.0) == peer.health(1000.0, 30.0) == 0.5
    assert peer.health(90.0, 30.0) == 1.0, "a packet that arrives in the same turn"
    peer.consecutive_failures = 2
    assert peer.health(100.0, 30.0) == pytest.approx(0.49)
    peer.consecutive_failures, peer.success_ratio = 0, 0.5
    assert peer.health(115.0, 30.0) == pytest.approx(0.375)


def test_a_peer_is_called_silent_after_one_and_a_half_intervals() -> None:
    table = table_with(1)
    peer = linked(table, 1)
    peer.last_heard_at = 100.0
    assert peer.health_reason(107.5, 5.0) == ""
    assert peer.health_reason(107.6, 5.0) == "silent for 8 s"
    peer.success_ratio = 0.95
    assert peer.health_reason(100.0, 5.0) == ""
    peer.success_ratio = 0.94
    assert peer.health_reason(110.0, 5.0) == ("silent for 10 s, silent in 6% of the last intervals")


def test_an_unknown_peer_has_no_zone_and_an_assumed_rtt() -> None:
    table = PeerTable(9)
    assert (table.zone_of(peer_id(1)), table.rtt_s(peer_id(1))) == ("", 0.050)
    peer = table.add(peer_id(1), None, ADDRESS, 0.0)
    assert (table.zone_of(peer_id(1)), table.rtt_s(peer_id(1))) == ("", 0.050)
    peer.record = record(1, zone="north")
    peer.update_rtt(0.2)
    assert (table.zone_of(peer_id(1)), table.rtt_s(peer_id(1))) == ("north", 0.2)


@pytest.mark.parametrize(("rtt_s", "timeout_s"), [(0.05, 0.5), (0.2, 0.8), (9.0, 2.0)])
def test_a_timeout_is_some_round_trips_within_its_bounds(rtt_s: float, timeout_s: float) -> None:
    table = table_with(1)
    linked(table, 1).update_rtt(rtt_s)
    assert table.timeout_for(peer_id(1), 4.0, TimeBounds(0.5, 2.0)) == timeout_s


def test_a_known_peer_is_not_added_again_and_evicts_no_peer() -> None:
    table = table_with(1, 2, limit=2)
    assert table.add(peer_id(1), None, ADDRESS, 9.0) is table.get(peer_id(1))
    assert (len(table), table.evicted) == (2, 0)
    assert [peer.peer_id for peer in table] == [peer_id(1), peer_id(2)]


def test_a_table_of_linked_peers_grows_beyond_its_limit_and_evicts_none() -> None:
    table = table_with(1, 2, limit=2)
    linked(table, 1)
    linked(table, 2)
    table.add(peer_id(3), None, ADDRESS, 9.0)
    assert (len(table), table.evicted) == (3, 0), "links have a limit of their own"


def test_removing_a_peer_removes_it_from_the_linked_ones() -> None:
    table = table_with(1, 2)
    linked(table, 1)
    linked(table, 2)
    assert list(table.linked) == [peer_id(1), peer_id(2)]
    table.remove(peer_id(1))
    table.remove(peer_id(1))
    assert list(table.linked) == [peer_id(2)]
    assert not table.is_linked(peer_id(1))
    table.add(peer_id(3), None, ADDRESS, 0.0)
    assert not table.is_linked(peer_id(3))


# --- sessions, heartbeats and probes ------------------------------------------------------------

MOVED = Address("10.0.0.2", 9000)


def test_a_new_session_validates_an_address_and_forgets_failures_and_heartbeats() -> None:
    peer = Peer(peer_id(1), None, ADDRESS, 0.0)
    peer.on_heartbeat_sent(5.0, 1.0)
    peer.on_heartbeat(7, 0, 0.0, 1.5)
    peer.record_interval(succeeded=False)
    peer.on_probe_timeout()
    assert peer.is_unresponsive
    peer.on_session(record(1, epoch=9), MOVED, None, 2.0)
    assert (peer.record, peer.address, peer.session_epoch) == (record(1, epoch=9), MOVED, 9)
    assert (peer.is_unresponsive, peer.is_address_validated) == (False, True)
    assert (peer.last_heard_at, peer.heartbeat_expected_from) == (2.0, 2.0)
    assert (peer.consecutive_failures, peer.heartbeat_number, peer.their_heartbeat_number) == (
        0,
        0,
        0,
    )
    assert peer.rtt_s is None
    peer.on_session(record(1), MOVED, 0.25, 3.0)
    peer.on_session(record(1), MOVED, None, 4.0)
    assert peer.rtt_s == 0.25, "a session that measured none keeps it"


def test_a_link_begins_and_ends() -> None:
    peer = Peer(peer_id(1), None, ADDRESS, 0.0)
    peer.record_interval(succeeded=False)
    peer.on_link_up(0.5, 2.0, is_self_chosen=True)
    assert (peer.linked_at, peer.is_self_chosen, peer.min_rtt_s) == (2.0, True, 0.5)
    assert peer.success_ratio == 1.0
    peer.on_address_changed(MOVED)
    peer.update_record(record(1, incarnation=3))
    assert (peer.address, peer.record) == (MOVED, record(1, incarnation=3))
    peer.on_link_down()
    assert peer.linked_at is None


def test_the_echo_of_the_latest_heartbeat_measures_the_round_trip() -> None:
    peer = Peer(peer_id(1), None, ADDRESS, 0.0)
    for at in (0.5, 1.0, 6.0):
        peer.on_heartbeat_sent(at + 5.0, at)
    assert (peer.heartbeat_number, peer.heartbeat_sent_at, peer.heartbeat_due_at) == (3, 6.0, 11.0)
    peer.on_heartbeat(3, 1, 0.0, 6.1)
    assert peer.rtt_s is None, "it echoes an earlier one"
    assert (peer.their_heartbeat_number, peer.their_heartbeat_at) == (3, 6.1)
    peer.on_heartbeat(3, 2, 0.0, 6.2)
    assert peer.rtt_s is None, "it arrived before"
    assert (peer.heartbeat_expected_from, peer.their_heartbeat_at) == (6.2, 6.1)
    peer.on_heartbeat(4, 3, 0.25, 6.75)
    assert peer.rtt_s == 0.5


def test_a_stalled_node_and_a_lost_heartbeat_shift_what_is_expected() -> None:
    peer = Peer(peer_id(1), None, ADDRESS, 1.0)
    peer.shift_deadlines(10.0)
    assert (peer.last_heard_at, peer.heartbeat_expected_from) == (11.0, 11.0)
    peer.excuse_heartbeat(5.0, 17.0)
    assert peer.heartbeat_expected_from == 16.0, "the schedule stays"
    peer.excuse_heartbeat(5.0, 100.0)
    assert peer.heartbeat_expected_from == 95.0, "after a pause it begins again"


def test_a_peer_is_responsive_again_once_it_is_heard() -> None:
    peer = Peer(peer_id(1), None, ADDRESS, 1.0)
    states = [peer.is_unresponsive]
    peer.on_probe_timeout()
    states.append(peer.is_unresponsive)
    peer.on_responsive()
    states.append(peer.is_unresponsive)
    assert states == [False, True, False]


def test_member_digests_are_answered_once_per_interval_and_kind() -> None:
    peer = Peer(peer_id(1), None, ADDRESS, 0.0)
    for is_reply in (True, False):
        answered = [peer.try_sync(2.0, at, is_reply=is_reply) for at in (5.0, 6.9, 7.0, 8.0)]
        assert answered == [True, False, True, False]


def test_a_packet_updates_when_its_peer_and_any_peer_was_last_heard() -> None:
    table = table_with(1, 2)
    assert table.last_heard_at == -math.inf
    peer = table.on_packet(peer_id(1), 7.0)
    assert peer is table.get(peer_id(1))
    assert peer is not None
    assert (peer.last_heard_at, table.last_heard_at) == (7.0, 7.0)
    assert table.on_packet(peer_id(9), 8.0) is None
    assert table.last_heard_at == 7.0
