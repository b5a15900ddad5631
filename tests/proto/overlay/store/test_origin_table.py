"""Places of origins: made-up ones evict made-up ones, at a cost that does not grow."""

from __future__ import annotations

from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.store.origin_table import (
    ORIGIN_EVICTION_SCAN_LIMIT,
    STALE_SIZES_ALLOWED,
    OriginTable,
)
from tests.proto.overlay.builders import peer_id


def made_up(number: int) -> PeerId:
    return PeerId(number.to_bytes(32, "big"))


def test_the_one_silent_for_longest_of_who_brought_most_goes_first() -> None:
    origins = OriginTable(lambda _: False)
    for number in range(5):
        origins.on_rumor(made_up(number), peer_id(1))
    for number in range(10, 13):
        origins.on_rumor(made_up(number), peer_id(2))
    origins.on_rumor(made_up(0), peer_id(2))
    assert origins.pick_victim(peer_id(2)) == made_up(1)
    assert origins.pick_victim(peer_id(2), only_own=True) == made_up(10)
    for number in (1, 2, 3):
        origins.remove(made_up(number))
    assert origins.pick_victim(peer_id(1)) == made_up(10)


def test_who_became_a_member_is_kept_and_whoever_is_none_any_more_is_not() -> None:
    members = {made_up(0)}
    origins = OriginTable(members.__contains__)
    for number in range(2):
        origins.on_rumor(made_up(number), peer_id(1))
    assert origins.pick_victim(peer_id(1)) == made_up(1)
    origins.remove(made_up(1))
    assert origins.pick_victim(peer_id(1)) is None
    assert not origins.can_evict()
    members.clear()
    assert origins.pick_victim(peer_id(1)) == made_up(0)


def test_only_so_many_are_looked_at_in_one_go() -> None:
    asked: list[PeerId] = []

    def is_known(origin: PeerId) -> bool:
        asked.append(origin)
        return True

    origins = OriginTable(is_known)
    for number in range(5 * ORIGIN_EVICTION_SCAN_LIMIT):
        origins.add_restored(made_up(number))
    assert origins.pick_victim(peer_id(1)) is None
    assert len(asked) <= 2 * ORIGIN_EVICTION_SCAN_LIMIT


def test_sizes_that_are_out_of_date_do_not_pile_up() -> None:
    origins = OriginTable(lambda _: False)
    for number in range(10_000):
        origins.on_rumor(made_up(number), peer_id(1))
        origins.remove(made_up(number))
    assert len(origins) == 0
    assert len(origins._size_heap) <= STALE_SIZES_ALLOWED + 2
    assert not origins._unknown_by_source
