"""Numbers and batches of our own messages, and which of them are unacknowledged."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grapevine_proto.config.sections import RateLimitConfig
from grapevine_proto.events import Message, Via
from grapevine_proto.ids import MessageId
from grapevine_proto.publisher import (
    DIGEST_SETTLE_S,
    MAX_BATCH_BYTES,
    Batch,
    UnackedBroadcasts,
)
from grapevine_proto.wire.signed import (
    MAX_PAYLOADS_PER_MESSAGE,
    PUSH_LIMIT_BYTES,
    counted_payload_bytes,
)
from tests.proto.overlay.builders import EPOCH, peer_id
from tests.proto.test_engine import HERE, THERE, Pair
from tests.turn import take_turn

REPORTED_S = 1.0  # reports come within a round trip, which nothing has measured yet

# --- batches ---------------------------------------------------------------------------------------


def message(sequence: int, payload: bytes) -> Message:
    return Message(MessageId(peer_id(1), EPOCH, sequence), payload, 0, Via.LOCAL, 0.0)


def test_it_is_open_from_the_first_payload_until_it_is_closed() -> None:
    batch = Batch()
    assert batch.opened_at == math.inf
    assert batch.try_add(message(1, b"one"), 100, 5.0)
    assert batch.try_add(message(2, b"two"), 100, 6.0)
    assert (len(batch), batch.opened_at) == (2, 5.0)
    assert [each.payload for each in batch.drain()] == [b"one", b"two"]
    assert (len(batch), batch.opened_at, batch.drain()) == (0, math.inf, [])


def test_one_payload_may_be_larger_than_the_limit_but_then_it_is_alone() -> None:
    batch = Batch()
    assert batch.try_add(message(1, bytes(100)), 10, 0.0)
    assert not batch.try_add(message(2, b""), 10, 0.0)
    assert len(batch) == 1


def test_it_holds_no_more_payloads_than_a_rumor_may() -> None:
    batch = Batch()
    for sequence in range(1, MAX_PAYLOADS_PER_MESSAGE + 1):
        assert batch.try_add(message(sequence, b""), 2**20, 0.0)
    assert not batch.try_add(message(MAX_PAYLOADS_PER_MESSAGE + 1, b""), 2**20, 0.0)


def test_messages_of_one_batch_have_the_same_attributes() -> None:
    batch = Batch()
    assert batch.try_add(message(1, b"one"), 100, 0.0, b"same")
    assert batch.try_add(message(2, b"two"), 100, 0.0, b"same")
    assert not batch.try_add(message(3, b"three"), 100, 0.0)
    assert batch.attributes == b"same"


def test_it_fits_one_datagram_whatever_the_limit_is() -> None:
    batch = Batch()
    sequence = 1
    while batch.try_add(message(sequence, bytes(8000)), 2**20, 0.0):
        sequence += 1
    assert MAX_BATCH_BYTES - 8010 < batch.size_bytes <= MAX_BATCH_BYTES


@given(st.integers(1, 2000), st.lists(st.integers(0, 400), max_size=60))
def test_what_fits_never_comes_to_more_than_the_limit(limit: int, sizes: list[int]) -> None:
    batch = Batch()
    for sequence, size in enumerate(sizes, 1):
        batch.try_add(message(sequence, bytes(size)), limit, 0.0)
    taken = [counted_payload_bytes(len(each.payload)) for each in batch.drain()]
    assert sum(taken) <= limit or len(taken) == 1


# --- what is unacknowledged ------------------------------------------------------------------------


def lose_all(pair: Pair) -> None:
    """Let what both would send now be lost."""
    for engine in (pair.one, pair.other):
        take_turn(engine, pair.now)


def test_a_broadcast_is_unacknowledged_until_a_peer_acknowledges_it() -> None:
    pair = Pair()
    assert pair.one.unacknowledged == 0
    pair.one.broadcast(b"hello", pair.now)
    assert pair.one.unacknowledged == 1  # in the batch
    pair.exchange()
    assert pair.received(pair.other) == [b"hello"]
    assert pair.one.unacknowledged == 1  # delivered, but not yet acknowledged
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
        take_turn(pair.one, pair.now)
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
    published = 0
    while published < 20:
        pair.one.broadcast(b"%d" % published, pair.now)
        published += 1
        for _ in range(10):
            pair.now += 0.1
            for engine, to in ((pair.one, pair.other), (pair.other, pair.one)):
                for datagram, _ in take_turn(engine, pair.now):
                    if len(datagram) < 150:  # heartbeats and rounds: what carries a rumor is lost
                        to.receive(datagram, THERE if to is pair.one else HERE, pair.now)
        if published % 5 == 0:
            pair.one.start_round(pair.now)
    rounds = [each for each in pair.one.rounds() if each.in_sync]
    assert pair.received(pair.other) == []
    assert rounds
    assert pair.one.unacknowledged == published


def test_acknowledgments_by_several_peers_count_once() -> None:
    unacked = UnackedBroadcasts()
    unacked.track((1, 1), 4, now=0.0)
    unacked.track((1, 5), 1, now=0.0)
    unacked.on_acked([(1, 1), (1, 1)])
    unacked.on_acked([(1, 1), (7, 7)])
    assert unacked.count == 1


def test_beyond_the_limit_the_oldest_broadcast_stays_unacknowledged() -> None:
    unacked = UnackedBroadcasts(limit=3)
    for first in range(1, 5):
        unacked.track((1, first), 1, now=0.0)
    assert (unacked.count, unacked.untracked) == (4, 1)
    unacked.on_acked([(1, first) for first in range(1, 5)])
    assert (unacked.count, unacked.untracked) == (1, 1)
