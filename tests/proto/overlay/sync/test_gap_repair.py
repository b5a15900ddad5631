"""Gap repair: when which gaps are requested, and how requests back off."""

from __future__ import annotations

import math
from collections.abc import Iterator

from grapevine_proto.ids import Stream, StreamRange
from grapevine_proto.overlay.sync.gap_repair import GapRepair
from tests.proto.overlay.builders import EPOCH, peer_id

LINKED = (peer_id(1), peer_id(2))


class Store:
    """A store with these gaps."""

    def __init__(self, count: int = 0) -> None:
        self.found = [gap(first) for first in range(1, count + 1)]
        self.newest_gap_at = 0.0
        self.asked: list[tuple[float, int]] = []

    @property
    def has_gaps(self) -> bool:
        return bool(self.found)

    def gaps(self, now: float, older_than_s: float, limit: int) -> list[StreamRange]:
        self.asked.append((older_than_s, limit))
        return self.found[:limit]


def gap(first: int) -> StreamRange:
    return StreamRange(Stream(peer_id(90), EPOCH), 10 * first, 10 * first)


def make(count: int = 1) -> tuple[GapRepair, Store]:
    store = Store(count)
    return GapRepair(store, 0.0), store


def pauses(repair: GapRepair, count: int, limit: int = 16) -> Iterator[float]:
    """How long each of `count` fruitless requests is waited for."""
    now = 10.0
    for _ in range(count):
        repair.next_request(LINKED, limit, now)
        yield repair._next_request_at - now
        now = repair._next_request_at


def test_without_gaps_nothing_is_due() -> None:
    repair, _ = make(0)
    assert repair.due_at == math.inf
    assert repair.next_request(LINKED, 16, 5.0) == ()


def test_a_gap_is_requested_when_it_is_a_second_old() -> None:
    repair, store = make()
    store.newest_gap_at = 4.5
    repair.postpone(4.0)
    assert repair.due_at == 5.0
    repair.postpone(4.4)
    assert repair.due_at == 5.4
    store.newest_gap_at = 5.0
    assert repair.due_at == 5.4
    assert repair.next_request(LINKED, 16, 6.0) == (gap(1),)
    assert store.asked == [(1.0, 256)]


def test_an_old_gap_waits_for_the_next_request_and_a_new_one_does_not_wait_for_its_backoff() -> (
    None
):
    repair, store = make()
    assert list(pauses(repair, 9))[-1] == 16.0
    last = repair._last_request_at
    assert repair.due_at == last + 16.0
    store.newest_gap_at = last - 0.9
    assert repair.due_at == last + 1.0, "a second after the request before"
    store.newest_gap_at = last + 3.0
    assert repair.due_at == last + 4.0
    store.newest_gap_at = last - 1.0
    assert repair.due_at == last + 16.0, "it was requested already"


def test_five_fruitless_requests_are_a_second_apart_and_then_ever_more_up_to_sixteen() -> None:
    repair, _ = make()
    assert list(pauses(repair, 12)) == [1, 1, 1, 1, 1, 2, 4, 8, 16, 16, 16, 16]


def test_another_gap_or_another_link_starts_the_backoff_again() -> None:
    repair, store = make()
    list(pauses(repair, 9))
    store.found.append(gap(7))
    assert list(pauses(repair, 1)) == [1]
    list(pauses(repair, 9))
    repair.next_request(LINKED[:1], 16, 500.0)
    assert repair._next_request_at == 501.0


def test_many_gaps_are_requested_in_turn_and_back_off_after_five_turns() -> None:
    repair, store = make(5)
    found = [repair.next_request(LINKED, 2, float(now)) for now in range(4)]
    assert found == [tuple(store.found[:2]), tuple(store.found[2:4]), tuple(store.found[4:]),
                     tuple(store.found[:2])]  # fmt: skip
    assert list(pauses(make(5)[0], 17, limit=2)) == [1] * 15 + [2, 4]


def test_without_links_nothing_is_requested_and_the_next_attempt_waits() -> None:
    repair, _ = make()
    assert repair.next_request((), 16, 5.0) == ()
    assert repair.due_at == 6.0
