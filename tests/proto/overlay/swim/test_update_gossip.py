"""What is told of members, to whom and how soon: pure of any network."""

from __future__ import annotations

import math
import random

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.overlay.effects import Effect, Send
from grapevine_proto.overlay.swim.update_gossip import (
    IMMEDIATE_BURST,
    UPDATE_FANOUT,
    UpdateGossiper,
)
from grapevine_proto.wire.messages import MemberUpdate, MemberUpdates
from tests.proto.overlay.builders import Surroundings, peer_id, record

PAUSE_S = NodeConfig.lan().detection.probe_timeout


def made(*linked: int) -> UpdateGossiper:
    place = Surroundings(*linked)
    return UpdateGossiper(place.config, place.peers, MemberUpdate, random.Random(1), 0.0)


def subjects(effects: list[Effect]) -> list[str]:
    """Of whom is told, in order."""
    names: list[str] = []
    for effect in effects:
        assert isinstance(effect, Send)
        assert isinstance(effect.message, MemberUpdates)
        names += [opinion.record.name for opinion in effect.message.updates]
    return names


def told_to(effects: list[Effect]) -> set[object]:
    return {peer for effect in effects if isinstance(effect, Send) for peer in effect.peers}


def test_news_goes_to_three_peers_at_once_and_to_others_a_little_later() -> None:
    tidings = made(*range(1, 20))
    tidings.enqueue(record(50), 100, 1.0)
    assert tidings.deadline == 1.0
    first = tidings.advance(1.0)
    assert (subjects(first), len(told_to(first))) == (["node 50"], UPDATE_FANOUT)
    assert tidings.advance(1.0 + PAUSE_S / 2) == []
    assert subjects(tidings.advance(1.0 + PAUSE_S)) == ["node 50"]


def test_who_has_had_much_to_tell_lately_waits_for_his_turn() -> None:
    tidings = made(*range(1, 20))
    for number in range(int(IMMEDIATE_BURST)):
        tidings.enqueue(record(50 + number), 100, 1.0)
        assert tidings.deadline == 1.0
        tidings.advance(1.0)
    tidings.enqueue(record(99), 100, 1.0)
    assert tidings.deadline == 1.0 + PAUSE_S


def test_a_last_call_goes_before_everything_else_that_waits() -> None:
    tidings = made(*range(1, 20))
    for number in range(40, 60):
        tidings.enqueue(record(number), 100, 1.0)
    tidings.enqueue_final_query(record(70), 1.0)
    assert subjects(tidings.advance(1.0))[0] == "node 70"
    assert tidings.pending_queries == 0
    assert "node 70" not in subjects(tidings.advance(1.0 + PAUSE_S)), "it is told once"


def test_who_is_called_for_is_told_once_in_a_message_though_there_is_news_of_him() -> None:
    tidings = made(*range(1, 20))
    tidings.enqueue(record(70), 100, 1.0)
    tidings.enqueue_final_query(record(70), 1.0)
    assert subjects(tidings.advance(1.0)) == ["node 70"]


def test_a_call_that_comes_too_late_is_not_made() -> None:
    tidings = made(*range(1, 20))
    tidings.enqueue_final_query(record(70), 1.0)
    tidings.cancel_query(peer_id(70))
    assert tidings.advance(1.0) == []
    assert tidings.deadline == math.inf


def test_nobody_is_told_about_himself() -> None:
    tidings = made(1, 2)
    tidings.enqueue(record(1), 100, 1.0)
    assert told_to(tidings.advance(1.0)) == {peer_id(2)}


def test_where_the_only_link_is_with_its_subject_news_dies_out_all_the_same() -> None:
    tidings, now = made(1), 1.0
    tidings.enqueue(record(1), 100, now)
    while tidings.deadline < math.inf:
        now = tidings.deadline
        assert tidings.advance(now) == []
    assert now < 10.0


def test_without_links_news_waits_and_calls_do_not() -> None:
    tidings = made()
    tidings.enqueue(record(1), 100, 1.0)
    tidings.enqueue_final_query(record(2), 1.0)
    assert tidings.advance(1.0) == []
    assert (len(tidings.queue), tidings.pending_queries) == (1, 0)
