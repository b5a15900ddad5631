"""Unacknowledged broadcasts: counted from the broadcast until a peer acknowledges it."""

from __future__ import annotations

import pytest

from grapevine_proto import publisher as publisher_module
from grapevine_proto.config.sections import RateLimitConfig
from grapevine_proto.publisher import DIGEST_SETTLE_S, UnackedBroadcasts
from grapevine_proto.wire.signed import PUSH_LIMIT_BYTES
from tests.proto.test_engine import HERE, THERE, Pair

REPORTED_S = 1.0  # reports come within a round trip, which nothing has measured yet


def lose_all(pair: Pair) -> None:
    """Let what both would send now be lost."""
    for engine in (pair.one, pair.other):
        engine.datagrams_to_send(pair.now)


def test_a_broadcast_is_unacknowledged_until_a_peer_acknowledges_it() -> None:
    pair = Pair()
    assert pair.one.unacknowledged == 0
    pair.one.broadcast(b"hello", pair.now)
    assert pair.one.unacknowledged == 1  # in the bundle
    pair.exchange()
    assert pair.received(pair.other) == [b"hello"]
    assert pair.one.unacknowledged == 1  # there, but nobody has told so
    pair.run(REPORTED_S)
    assert pair.one.unacknowledged == 0
    assert pair.other.unacknowledged == 0


def test_each_payload_of_a_batch_counts() -> None:
    pair = Pair()
    for number in range(5):
        pair.one.broadcast(b"%d" % number, pair.now)
    assert pair.one.unacknowledged == 5
    pair.exchange()
    assert pair.one.unacknowledged == 5
    pair.run(REPORTED_S)
    assert pair.one.unacknowledged == 0


def test_a_lost_broadcast_is_unacknowledged_until_its_retransmission_is_acknowledged() -> None:
    pair = Pair()
    pair.one.broadcast(b"lost at first", pair.now)
    lose_all(pair)
    assert pair.one.unacknowledged == 1
    pair.run(DIGEST_SETTLE_S - 0.5)  # before any round can agree on it
    assert pair.received(pair.other) == [b"lost at first"]
    assert pair.one.unacknowledged == 0


def test_a_new_link_acknowledges_nothing_but_the_repairs_on_it_do() -> None:
    pair = Pair(linked=False)
    for number in range(3):
        pair.one.broadcast(b"%d" % number, pair.now)
        pair.run(0.1)
    assert pair.one.unacknowledged == 3
    pair.one.dial(THERE, pair.now)
    pair.exchange()
    assert len(pair.one.peers(pair.now)) == 1
    assert pair.one.unacknowledged == 3
    pair.run(REPORTED_S)
    assert sorted(pair.received(pair.other)) == [b"0", b"1", b"2"]
    assert pair.one.unacknowledged == 0


@pytest.mark.parametrize("size_bytes", [PUSH_LIMIT_BYTES + 1, 200_000])
def test_a_large_payload_is_acknowledged_with_its_last_fragment(size_bytes: int) -> None:
    pair = Pair(rate_limit=RateLimitConfig(enabled=False))
    pair.one.broadcast(bytes(size_bytes), pair.now)
    while not pair.received(pair.other):
        assert pair.one.unacknowledged == 1
        pair.run(0.05)
    pair.run(1.0)
    assert pair.one.unacknowledged == 0


def test_direct_messages_do_not_count_as_unacknowledged() -> None:
    pair = Pair()
    pair.one.send(pair.other.peer_id, b"psst", pair.now)
    assert pair.one.unacknowledged == 0


def test_relayed_and_repaired_rumors_of_other_nodes_do_not_count() -> None:
    pair = Pair()
    pair.other.broadcast(b"theirs", pair.now)
    pair.run(REPORTED_S)
    assert (pair.one.unacknowledged, pair.other.unacknowledged) == (0, 0)


def test_a_peer_that_disconnects_before_its_ack_acknowledges_nothing() -> None:
    pair = Pair(peer_timeout=10.0)
    pair.one.broadcast(b"to the dead", pair.now)
    lose_all(pair)
    while pair.now < 60.0:
        pair.now += 0.1
        if pair.one.deadline <= pair.now:
            pair.one.advance(pair.now)
        pair.one.datagrams_to_send(pair.now)
    assert pair.one.unacknowledged == 1


def test_a_retransmission_in_fragments_is_still_tracked() -> None:
    """A repeat is longer than what it repeats, so that it may no longer fit a packet."""
    pair = Pair()
    pair.one.broadcast(bytes(1040), pair.now)
    lose_all(pair)
    pair.run(DIGEST_SETTLE_S - 0.5)  # before any round can agree on it
    assert pair.received(pair.other) == [bytes(1040)]
    assert pair.one.unacknowledged == 0


# --- the count ----------------------------------------------------------------------------------


def test_a_round_in_sync_acknowledges_everything_sent_before_it() -> None:
    unacked = UnackedBroadcasts()
    unacked.track((1, 1), 2, now=10.0)
    unacked.track((1, 3), 1, now=10.5)
    unacked.on_peer_in_sync(9.9 + DIGEST_SETTLE_S)
    assert unacked.count == 3
    unacked.on_peer_in_sync(10.6 + DIGEST_SETTLE_S)
    assert unacked.count == 0


def test_a_round_whose_digests_omit_our_stream_acknowledges_nothing() -> None:
    unacked = UnackedBroadcasts()
    unacked.track((1, 1), 2, now=10.0)
    unacked.track((1, 3), 1, now=20.0)
    unacked.on_acked([(1, 3)])
    unacked.on_peer_in_sync(
        20.0 + DIGEST_SETTLE_S - 0.1
    )  # the first had long settled, its stream had not
    assert unacked.count == 2
    unacked.on_peer_in_sync(20.0 + DIGEST_SETTLE_S)
    assert unacked.count == 0


def test_rounds_acknowledge_nothing_of_a_node_that_broadcasts_continuously() -> None:
    pair = Pair()
    said = 0
    while said < 20:
        pair.one.broadcast(b"%d" % said, pair.now)
        said += 1
        for _ in range(10):
            pair.now += 0.1
            for engine, to in ((pair.one, pair.other), (pair.other, pair.one)):
                if engine.deadline <= pair.now:
                    engine.advance(pair.now)
                for datagram, _ in engine.datagrams_to_send(pair.now):
                    if len(datagram) < 150:  # heartbeats and rounds: what carries a rumor is lost
                        to.receive(datagram, THERE if to is pair.one else HERE, pair.now)
        if said % 5 == 0:
            pair.one.start_round(pair.now)
    rounds = [each for each in pair.one.rounds() if each.in_sync]
    assert pair.received(pair.other) == []
    assert rounds
    assert pair.one.unacknowledged == said


def test_acknowledgments_by_several_peers_count_once() -> None:
    unacked = UnackedBroadcasts()
    unacked.track((1, 1), 4, now=0.0)
    unacked.track((1, 5), 1, now=0.0)
    unacked.on_acked([(1, 1), (1, 1)])
    unacked.on_acked([(1, 1), (7, 7)])
    assert unacked.count == 1


def test_beyond_the_limit_the_oldest_broadcast_stays_unacknowledged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(publisher_module, "TRACKED_RUMORS_LIMIT", 3)
    unacked = UnackedBroadcasts()
    for first in range(1, 5):
        unacked.track((1, first), 1, now=0.0)
    assert (unacked.count, unacked.untracked) == (4, 1)
    unacked.on_acked([(1, first) for first in range(1, 5)])
    assert (unacked.count, unacked.untracked) == (1, 1)
