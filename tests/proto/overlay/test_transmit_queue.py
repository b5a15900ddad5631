"""What is told on of members: each change so many times, the least told first, and not what all know."""

from __future__ import annotations

from collections import Counter

from grapevine_proto.overlay.transmit_queue import UPDATES_LIMIT, TransmitLimitedQueue
from grapevine_proto.wire.signed import PeerRecord
from tests.proto.overlay.builders import peer_id, record


def bare(number: int) -> PeerRecord:
    """A record that nobody checks."""
    who = (number).to_bytes(32, "big")
    return PeerRecord(type(peer_id(1))(who), 1, 0, (), "", "", 0, 0, False, bytes(64))


def test_news_is_told_so_many_times_and_the_least_told_first() -> None:
    news = TransmitLimitedQueue()
    for number in range(1, 7):
        news.enqueue(record(number), 6)
    told: Counter[str] = Counter()
    rounds = []
    while news:
        names = [each.name for each in news.peek(4)]
        for each in news.peek(4):
            news.note_sent(each.peer_id, 3)
        rounds.append(set(names))
        told.update(names)
    assert set(told.values()) == {2}, "two messages to three peers are six tellings"
    assert len(told) == 6
    assert rounds[0] | rounds[1] == set(told)


def test_news_beyond_its_cap_pushes_out_what_was_told_longest() -> None:
    news = TransmitLimitedQueue()
    for number in range(UPDATES_LIMIT):
        news.enqueue(bare(number), 4)
    news.note_sent(bare(7).peer_id, 3)
    news.enqueue(bare(UPDATES_LIMIT), 4)
    assert len(news) == UPDATES_LIMIT
    assert bare(7).peer_id not in news
    assert bare(UPDATES_LIMIT).peer_id in news


def test_what_others_tell_us_is_told_less_often_by_us() -> None:
    news = TransmitLimitedQueue()
    news.enqueue(record(1), 6)
    for _ in range(5):
        news.note_sent(peer_id(1), 1)
    assert peer_id(1) in news
    news.note_sent(peer_id(1), 1)
    assert peer_id(1) not in news
    news.note_sent(peer_id(1), 1)
    assert len(news) == 0


def test_a_later_change_is_told_as_often_as_the_first() -> None:
    news = TransmitLimitedQueue()
    news.enqueue(record(1), 6)
    news.note_sent(peer_id(1), 4)
    news.enqueue(record(1, incarnation=1), 6)
    [told] = news.peek(4)
    assert told.incarnation == 1
    news.note_sent(peer_id(1), 5)
    assert len(news) == 1
    news.remove(peer_id(1))
    assert not news.peek(4)
