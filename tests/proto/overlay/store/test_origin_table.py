"""The origin table: made-up origins evict each other, at bounded cost."""

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


def test_the_longest_idle_origin_of_the_largest_source_is_evicted_first() -> None:
    origins = OriginTable(())
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


def test_a_member_is_kept_and_a_former_member_is_evicted() -> None:
    members = {made_up(0)}
    origins = OriginTable(members)
    for number in range(2):
        origins.on_rumor(made_up(number), peer_id(1))
    assert origins.pick_victim(peer_id(1)) == made_up(1)
    origins.remove(made_up(1))
    assert origins.pick_victim(peer_id(1)) is None
    assert not origins.can_evict()
    members.clear()
    assert origins.pick_victim(peer_id(1)) == made_up(0)


def test_one_call_examines_a_limited_number_of_origins() -> None:
    checked: list[object] = []

    class AllMembers:
        def __contains__(self, origin: object) -> bool:
            checked.append(origin)
            return True

    origins = OriginTable(AllMembers())
    for number in range(5 * ORIGIN_EVICTION_SCAN_LIMIT):
        origins.add_restored(made_up(number))
    assert origins.pick_victim(peer_id(1)) is None
    assert len(checked) <= 2 * ORIGIN_EVICTION_SCAN_LIMIT


def test_outdated_heap_entries_do_not_accumulate() -> None:
    origins = OriginTable(())
    for number in range(10_000):
        origins.on_rumor(made_up(number), peer_id(1))
        origins.remove(made_up(number))
    assert len(origins) == 0
    assert len(origins._size_heap) <= STALE_SIZES_ALLOWED + 2
    assert not origins._unknown_by_source
