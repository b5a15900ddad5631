"""The transmit-limited queue: each update is sent a bounded number of times, the least sent first."""

from __future__ import annotations

from collections import Counter

import pytest

from grapevine_proto.overlay.transmit_queue import (
    TransmitLimitedQueue,
    retransmit_limit,
)
from grapevine_proto.wire.signed import PeerRecord
from tests.proto.overlay.builders import peer_id, record


def bare(number: int) -> PeerRecord:
    """A record whose signature is not checked."""
    public_key = (number).to_bytes(32, "big")
    return PeerRecord(type(peer_id(1))(public_key), 1, 0, (), "", "", 0, 0, False, bytes(64))


def test_updates_are_sent_up_to_their_limit_and_the_least_sent_first() -> None:
    queue = TransmitLimitedQueue()
    for number in range(1, 7):
        queue.enqueue(record(number), 6)
    sent: Counter[str] = Counter()
    rounds = []
    while queue:
        names = [each.name for each in queue.peek(4)]
        for each in queue.peek(4):
            queue.note_sent(each.peer_id, 3)
        rounds.append(set(names))
        sent.update(names)
    assert set(sent.values()) == {2}, "two messages to three peers are six transmissions"
    assert len(sent) == 6
    assert rounds[0] | rounds[1] == set(sent)


def test_beyond_the_limit_the_most_sent_update_is_evicted() -> None:
    queue = TransmitLimitedQueue()
    for number in range(1024):
        queue.enqueue(bare(number), 4)
    queue.note_sent(bare(7).peer_id, 3)
    queue.enqueue(bare(1024), 4)
    assert len(queue) == 1024
    assert bare(7).peer_id not in queue
    assert bare(1024).peer_id in queue


def test_an_update_received_from_peers_is_sent_less_often() -> None:
    queue = TransmitLimitedQueue()
    queue.enqueue(record(1), 6)
    for _ in range(5):
        queue.note_sent(peer_id(1), 1)
    assert peer_id(1) in queue
    queue.note_sent(peer_id(1), 1)
    assert peer_id(1) not in queue
    queue.note_sent(peer_id(1), 1)
    assert len(queue) == 0


def test_a_newer_update_is_sent_as_often_as_the_first() -> None:
    queue = TransmitLimitedQueue()
    queue.enqueue(record(1), 6)
    queue.note_sent(peer_id(1), 4)
    queue.enqueue(record(1, incarnation=1), 6)
    [sent] = queue.peek(4)
    assert sent.incarnation == 1
    queue.note_sent(peer_id(1), 5)
    assert len(queue) == 1
    queue.remove(peer_id(1))
    assert not queue.peek(4)


@pytest.mark.parametrize(
    ("members", "times"),
    [(0, 4), (1, 4), (9, 4), (10, 8), (99, 8), (100, 12), (999, 12), (1000, 16)],
)
def test_an_update_is_sent_four_times_per_decade_of_members(members: int, times: int) -> None:
    assert retransmit_limit(members) == times


def test_the_1025th_update_evicts_the_one_sent_most_often() -> None:
    queue = TransmitLimitedQueue()
    for number in range(1024):
        queue.enqueue(bare(number), 4)
    assert len(queue) == 1024
    queue.note_sent(bare(7).peer_id, 1)
    queue.enqueue(bare(2000), 4)
    assert len(queue) == 1024
    assert bare(7).peer_id not in queue
    queue.enqueue(bare(2000), 4)
    assert len(queue) == 1024, "one that is queued takes no other's place"
    assert bare(0).peer_id in queue


def test_an_update_leaves_the_queue_with_its_last_transmission() -> None:
    queue = TransmitLimitedQueue()
    queue.enqueue(bare(1), 3)
    queue.enqueue(bare(2), 3)
    queue.note_sent(bare(1).peer_id, 2)
    assert [each.peer_id for each in queue.peek(9)] == [bare(2).peer_id, bare(1).peer_id]
    queue.note_sent(bare(1).peer_id, 1)
    assert (len(queue), queue.peek(9)) == (1, [bare(2)])
    queue.note_sent(bare(1).peer_id, 1)
    queue.remove(bare(1).peer_id)
    queue.note_sent(bare(2).peer_id, 9)
    assert (len(queue), queue.peek(9)) == (0, [])
