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


# --- at the limits ------------------------------------------------------------------------------


def test_origins_are_counted_once_for_all_senders_of_their_rumors() -> None:
    members = {made_up(9)}
    origins = OriginTable(members)
    for source in (1, 2, None):
        origins.on_rumor(made_up(0), None if source is None else peer_id(source))
        origins.on_rumor(made_up(9), peer_id(1))
    origins.on_rumor(made_up(1), peer_id(1))
    assert (len(origins), origins.count_from(peer_id(1)), origins.count_from(peer_id(2))) == (
        3,
        2,
        0,
    )
    origins.remove(made_up(9))
    origins.remove(made_up(9))
    assert len(origins) == 2


def test_an_origin_that_becomes_linked_or_a_member_no_longer_counts_against_its_source() -> None:
    members: set[PeerId] = set()
    origins = OriginTable(members)
    for number in range(3):
        origins.on_rumor(made_up(number), peer_id(1))
    origins.on_rumor(made_up(0), peer_id(1), is_linked=True)
    members.add(made_up(1))
    origins.on_rumor(made_up(1), peer_id(1))
    assert (len(origins), origins.count_from(peer_id(1))) == (3, 1)
    assert origins.pick_victim(peer_id(1), only_own=True) == made_up(2)


def test_restored_origins_are_charged_to_no_source() -> None:
    origins = OriginTable(set())
    assert not origins.can_evict()
    for number in range(2):
        origins.add_restored(made_up(number))
    origins.on_rumor(made_up(5), peer_id(1))
    assert origins.can_evict()
    assert (len(origins), origins.count_from(None)) == (3, 2)
    assert origins.pick_victim(peer_id(1)) == made_up(0)
    assert origins.pick_victim(peer_id(1), only_own=True) == made_up(5)


def test_a_former_member_can_be_evicted_if_nothing_is_unknown() -> None:
    members = {made_up(number) for number in range(3)}
    origins = OriginTable(members)
    for number in range(3):
        origins.on_rumor(made_up(number), peer_id(1))
    assert not origins.can_evict()
    members.discard(made_up(2))
    assert origins.can_evict()
    assert origins.pick_victim(peer_id(1)) == made_up(2)


def test_sixty_four_origins_are_examined_for_a_victim() -> None:
    members: set[PeerId] = set()
    for known, victim in [(63, made_up(63)), (64, None)]:
        members.clear()
        origins = OriginTable(members)
        for number in range(80):
            origins.on_rumor(made_up(number), peer_id(1))
        members |= {made_up(number) for number in range(known)}
        assert origins.pick_victim(peer_id(1)) == victim
        assert origins.count_from(peer_id(1)) == 80 - known, "members no longer count"


def test_sixty_four_members_are_examined_for_a_former_one() -> None:
    members = {made_up(number) for number in range(80)}
    for known, victim in [(63, made_up(63)), (64, None)]:
        origins = OriginTable(members)
        members |= {made_up(number) for number in range(80)}
        for number in range(80):
            origins.on_rumor(made_up(number), peer_id(1))
        members.discard(made_up(known))
        assert origins.pick_victim(peer_id(1)) == victim


def test_the_size_heap_is_rebuilt_beyond_twice_the_sources_and_256() -> None:
    origins = OriginTable(set())
    for number in range(258):
        origins.on_rumor(made_up(number), peer_id(1))
    assert len(origins._size_heap) == 258
    origins.on_rumor(made_up(258), peer_id(1))
    assert len(origins._size_heap) == 1
    origins.on_rumor(made_up(900), peer_id(2))
    assert origins.pick_victim(peer_id(2)) == made_up(0), "the heap is still ordered by size"
    for number in range(259):
        origins.remove(made_up(number))
    assert origins.pick_victim(peer_id(1)) == made_up(900)
