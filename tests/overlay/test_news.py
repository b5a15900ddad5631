"""What is told on of members: each change so many times, the least told first, and not what all know."""

from __future__ import annotations

from collections import Counter

from grapevine_proto.overlay.news import NEWS_LIMIT, News
from grapevine_proto.signed import Record
from tests.overlay.made import peer_id, record


def bare(number: int) -> Record:
    """A record that nobody checks."""
    who = (number).to_bytes(32, "big")
    return Record(type(peer_id(1))(who), 1, 0, (), "", "", 0, 0, False, bytes(64))


def test_news_is_told_so_many_times_and_the_least_told_first() -> None:
    news = News()
    for number in range(1, 7):
        news.spread(record(number), 6)
    told: Counter[str] = Counter()
    rounds = []
    while news:
        names = [each.name for each in news.first(4)]
        for each in news.first(4):
            news.told(each.peer_id, 3)
        rounds.append(set(names))
        told.update(names)
    assert set(told.values()) == {2}, "two messages to three peers are six tellings"
    assert len(told) == 6
    assert rounds[0] | rounds[1] == set(told)


def test_news_beyond_its_cap_pushes_out_what_was_told_longest() -> None:
    news = News()
    for number in range(NEWS_LIMIT):
        news.spread(bare(number), 4)
    news.told(bare(7).peer_id, 3)
    news.spread(bare(NEWS_LIMIT), 4)
    assert len(news) == NEWS_LIMIT
    assert bare(7).peer_id not in news
    assert bare(NEWS_LIMIT).peer_id in news


def test_what_others_tell_us_is_told_less_often_by_us() -> None:
    news = News()
    news.spread(record(1), 6)
    for _ in range(5):
        news.told(peer_id(1), 1)
    assert peer_id(1) in news
    news.told(peer_id(1), 1)
    assert peer_id(1) not in news
    news.told(peer_id(1), 1)
    assert len(news) == 0


def test_a_later_change_is_told_as_often_as_the_first() -> None:
    news = News()
    news.spread(record(1), 6)
    news.told(peer_id(1), 4)
    news.spread(record(1, incarnation=1), 6)
    [told] = news.first(4)
    assert told.incarnation == 1
    news.told(peer_id(1), 5)
    assert len(news) == 1
    news.drop(peer_id(1))
    assert not news.first(4)
