"""Gossip of member updates: targets, order and timing."""

from __future__ import annotations

import math

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.overlay.effects import Effect, Send
from grapevine_proto.overlay.swim.update_gossip import (
    IMMEDIATE_BURST,
    UPDATE_FANOUT,
    UpdateGossiper,
)
from grapevine_proto.wire.messages import MemberUpdate, MemberUpdates
from tests.proto.overlay.builders import NodeTables, peer_id, record

PAUSE_S = NodeConfig.lan().detection.probe_timeout


def make_gossiper(*linked: int) -> UpdateGossiper:
    tables = NodeTables(*linked)
    return UpdateGossiper(tables.context, MemberUpdate, 0.0)


def subjects(effects: list[Effect]) -> list[str]:
    """The names of the updates' subjects, in order."""
    names: list[str] = []
    for effect in effects:
        assert isinstance(effect, Send)
        assert isinstance(effect.message, MemberUpdates)
        names += [update.record.name for update in effect.message.updates]
    return names


def recipients(effects: list[Effect]) -> set[object]:
    return {peer for effect in effects if isinstance(effect, Send) for peer in effect.peers}


def test_an_update_goes_to_three_peers_at_once_and_to_others_later() -> None:
    gossiper = make_gossiper(*range(1, 20))
    gossiper.enqueue(record(50), 100, 1.0)
    assert gossiper.deadline == 1.0
    first = gossiper.advance(1.0)
    assert (subjects(first), len(recipients(first))) == (["node 50"], UPDATE_FANOUT)
    assert gossiper.advance(1.0 + PAUSE_S / 2) == []
    assert subjects(gossiper.advance(1.0 + PAUSE_S)) == ["node 50"]


def test_after_a_burst_updates_wait_for_the_next_interval() -> None:
    gossiper = make_gossiper(*range(1, 20))
    for number in range(int(IMMEDIATE_BURST)):
        gossiper.enqueue(record(50 + number), 100, 1.0)
        assert gossiper.deadline == 1.0
        gossiper.advance(1.0)
    gossiper.enqueue(record(99), 100, 1.0)
    assert gossiper.deadline == 1.0 + PAUSE_S


def test_a_final_query_is_sent_before_queued_updates() -> None:
    gossiper = make_gossiper(*range(1, 20))
    for number in range(40, 60):
        gossiper.enqueue(record(number), 100, 1.0)
    gossiper.enqueue_final_query(record(70), 1.0)
    assert subjects(gossiper.advance(1.0))[0] == "node 70"
    assert gossiper.pending_queries == 0
    assert "node 70" not in subjects(gossiper.advance(1.0 + PAUSE_S)), "it is sent once"


def test_a_subject_with_a_final_query_and_an_update_appears_once_per_message() -> None:
    gossiper = make_gossiper(*range(1, 20))
    gossiper.enqueue(record(70), 100, 1.0)
    gossiper.enqueue_final_query(record(70), 1.0)
    assert subjects(gossiper.advance(1.0)) == ["node 70"]


def test_a_cancelled_final_query_is_not_sent() -> None:
    gossiper = make_gossiper(*range(1, 20))
    gossiper.enqueue_final_query(record(70), 1.0)
    gossiper.cancel_query(peer_id(70))
    assert gossiper.advance(1.0) == []
    assert gossiper.deadline == math.inf


def test_an_update_is_not_sent_to_its_subject() -> None:
    gossiper = make_gossiper(1, 2)
    gossiper.enqueue(record(1), 100, 1.0)
    assert recipients(gossiper.advance(1.0)) == {peer_id(2)}


def test_an_update_dies_out_even_if_its_subject_is_the_only_peer() -> None:
    gossiper, now = make_gossiper(1), 1.0
    gossiper.enqueue(record(1), 100, now)
    while gossiper.deadline < math.inf:
        now = gossiper.deadline
        assert gossiper.advance(now) == []
    assert now < 10.0


def test_without_links_updates_wait_and_final_queries_are_dropped() -> None:
    gossiper = make_gossiper()
    gossiper.enqueue(record(1), 100, 1.0)
    gossiper.enqueue_final_query(record(2), 1.0)
    assert gossiper.advance(1.0) == []
    assert (len(gossiper.queue), gossiper.pending_queries) == (1, 0)
