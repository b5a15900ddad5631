"""Places of origins: made-up ones evict made-up ones, at a cost that does not grow."""

from __future__ import annotations

from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.origins import LOOKED_AT, SPARE_ENTRIES, Origins
from tests.overlay.made import peer_id


def made_up(number: int) -> PeerId:
    return PeerId(number.to_bytes(32, "big"))


def test_the_one_silent_for_longest_of_who_brought_most_goes_first() -> None:
    origins = Origins(lambda _: False)
    for number in range(5):
        origins.spoke(made_up(number), peer_id(1))
    for number in range(10, 13):
        origins.spoke(made_up(number), peer_id(2))
    origins.spoke(made_up(0), peer_id(2))
    assert origins.to_evict(peer_id(2)) == made_up(1)
    assert origins.to_evict(peer_id(2), own=True) == made_up(10)
    for number in (1, 2, 3):
        origins.remove(made_up(number))
    assert origins.to_evict(peer_id(1)) == made_up(10)


def test_who_became_a_member_is_kept_and_whoever_is_none_any_more_is_not() -> None:
    members = {made_up(0)}
    origins = Origins(members.__contains__)
    for number in range(2):
        origins.spoke(made_up(number), peer_id(1))
    assert origins.to_evict(peer_id(1)) == made_up(1)
    origins.remove(made_up(1))
    assert origins.to_evict(peer_id(1)) is None
    assert not origins.may_evict()
    members.clear()
    assert origins.to_evict(peer_id(1)) == made_up(0)


def test_only_so_many_are_looked_at_in_one_go() -> None:
    asked: list[PeerId] = []

    def is_known(origin: PeerId) -> bool:
        asked.append(origin)
        return True

    origins = Origins(is_known)
    for number in range(5 * LOOKED_AT):
        origins.restored(made_up(number))
    assert origins.to_evict(peer_id(1)) is None
    assert len(asked) <= 2 * LOOKED_AT


def test_sizes_that_are_out_of_date_do_not_pile_up() -> None:
    origins = Origins(lambda _: False)
    for number in range(10_000):
        origins.spoke(made_up(number), peer_id(1))
        origins.remove(made_up(number))
    assert len(origins) == 0
    assert len(origins._largest) <= SPARE_ENTRIES + 2
    assert not origins._unknown
