"""The peer table, its state transitions and peer health."""

from __future__ import annotations

import itertools

import pytest

from grapevine_proto.events import PeerState
from grapevine_proto.ids import Address
from grapevine_proto.overlay.peers import TRANSITIONS, Peer, PeerTable, PeerTrigger
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
