"""Plumtree: which links are in the tree, from what is pushed, asked for and heard twice."""

from __future__ import annotations

from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.broadcast.plumtree import (
    COUNTED_ORIGINS_LIMIT,
    PRUNE_GRACE_S,
    ROOT_TIMEOUT_S,
    RUMOR_SENDERS_LIMIT,
    RUMORS_FOR_OWN_TREE,
    TREE_IDLE_S,
    TREE_IN_USE_S,
    TREES_LIMIT,
    Plumtree,
)
from grapevine_proto.overlay.broadcast.strategy import PushPlan
from grapevine_proto.wire.messages import Graft, Prune, Subscribe
from tests.proto.overlay.builders import Surroundings, news, peer_id, said

ORIGIN = 90


def plumtree(*linked: int, **changes: object) -> tuple[Surroundings, Plumtree]:
    place = Surroundings(*linked, **changes)  # type: ignore[arg-type]
    return place, Plumtree(place.config, place.around)


def graft(strategy: Plumtree, *numbers: int, origin: int | None = None) -> None:
    for number in numbers:
        tree = None if origin is None else peer_id(origin)
        assert strategy.handle(Graft(tree), peer_id(number), 0.0) == []


def hear(
    strategy: Plumtree,
    sender: int | None,
    first: int = 1,
    *,
    origin: int = ORIGIN,
    rival: int | None = None,
    lead_s: float = 0.0,
    is_offered: bool = False,
) -> PushPlan:
    told = news(origin, first, sender, hops=1)._replace(
        is_offered=is_offered or sender is None,
        first_source=None if rival is None else peer_id(rival),
        lead_s=lead_s,
    )
    return strategy.on_new_rumor(told, float(first))


def ids(*numbers: int) -> list[PeerId]:
    return [peer_id(number) for number in numbers]


def test_a_rumor_goes_along_the_tree_but_not_back() -> None:
    _, strategy = plumtree(1, 2, 3, 4)
    graft(strategy, 1, 2, 3)
    plan = hear(strategy, 1)
    assert list(plan.targets) == ids(2, 3)
    assert not plan.is_offer
    assert not plan.effects
    assert list(hear(strategy, 1, origin=2).targets) == ids(3)


def test_who_pushes_something_new_is_in_the_tree_from_then_on() -> None:
    _, strategy = plumtree(1, 2, 3)
    hear(strategy, 1)
    assert list(hear(strategy, None, 2, origin=0).targets) == ids(1)


def test_who_pushes_something_known_is_pruned_and_told_once_a_round_trip() -> None:
    _, strategy = plumtree(1, 2, 3)
    graft(strategy, 1, 2)
    key = news(ORIGIN).key
    assert said(strategy.on_duplicate(key, peer_id(2), 1.0)) == {peer_id(2): [Prune(None)]}
    assert strategy.on_duplicate(key, peer_id(2), 1.0 + PRUNE_GRACE_S / 2) == []
    assert strategy.on_duplicate(key, peer_id(2), 1.0 + PRUNE_GRACE_S), "the word was lost"
    assert list(hear(strategy, 3, 2).targets) == ids(1)


def test_what_a_pruned_link_still_brings_does_not_bring_it_back_nor_prune_another() -> None:
    """Two rumors on their way around one ring would each take a link out of it, and cut the tree."""
    _, strategy = plumtree(1, 2, 3)
    graft(strategy, 1, 2, 3)
    strategy.on_new_rumor(news(20, 1, 1, hops=1), 1.0)
    assert strategy.on_duplicate(news(20).key, peer_id(2), 1.01), "that link goes"
    strategy.on_new_rumor(news(21, 1, 2, hops=1), 1.02)
    assert set(strategy.subscribers) == set(ids(1, 3))
    assert strategy.on_duplicate(news(21).key, peer_id(1), 1.03) == []
    strategy.on_new_rumor(news(22, 1, 2, hops=1), 1.02 + PRUNE_GRACE_S)
    assert set(strategy.subscribers) == set(ids(1, 2, 3)), "that was said since"


def test_where_much_is_said_one_origin_s_rumors_shape_the_shared_tree() -> None:
    _, strategy = plumtree(1, 2, 3, 4, 5)
    graft(strategy, 1, 2, 3, 4, 5)
    origins = sorted(range(20, 26), key=peer_id)
    for turn, origin in enumerate([*origins[1:], *origins]):
        strategy.on_new_rumor(news(origin, turn + 1, 1, hops=1), 1.0 + turn / 10)
    again = {
        origin: bool(strategy.on_duplicate(news(origin, 50).key, peer_id(2 + place), 2.1))
        for place, origin in enumerate(origins[:4])
    }
    assert again == dict(zip(origins, (True, False, False, False), strict=False))
    last = 1.0 + 11 / 10 + ROOT_TIMEOUT_S
    strategy.on_new_rumor(news(origins[3], 60, 1, hops=1), last)
    assert strategy.on_duplicate(news(origins[3], 60).key, peer_id(3), last + 0.1), (
        "the first is silent"
    )


def test_the_last_link_in_the_tree_is_not_pruned() -> None:
    _, strategy = plumtree(1, 2)
    graft(strategy, 1)
    assert strategy.on_duplicate(news(ORIGIN).key, peer_id(1), 1.0) == []
    assert strategy.subscribers == (peer_id(1),)


def test_each_end_keeps_to_what_the_other_says() -> None:
    _, strategy = plumtree(1, 2)
    graft(strategy, 1, 2)
    strategy.handle(Prune(None), peer_id(1), 0.0)
    assert strategy.subscriptions == (peer_id(2),)
    strategy.handle(Subscribe(True), peer_id(1), 0.0)
    strategy.handle(Graft(None), peer_id(99), 0.0)
    assert strategy.subscribers == (peer_id(2),), "who is not linked is in no tree"


def test_whoever_is_asked_for_a_rumor_is_grafted_and_in_the_tree_once_it_gives() -> None:
    _, strategy = plumtree(1, 2)
    assert said(strategy.on_request_sent(peer_id(2), peer_id(ORIGIN), 1.0)) == {
        peer_id(2): [Graft(None)]
    }
    assert not strategy.subscribers, "or a liar, who tells of what it has not, would be it"
    hear(strategy, 2)
    assert strategy.subscribers == (peer_id(2),)


def test_what_a_node_outside_any_tree_says_is_offered_and_offered_on() -> None:
    _, strategy = plumtree(1, 2, 3)
    plan = hear(strategy, None, origin=0)
    assert (list(plan.targets), plan.is_offer) == ([], True)
    _, other = plumtree(1, 2, 3)
    other.on_request_sent(peer_id(1), peer_id(ORIGIN), 0.0)
    assert hear(other, 1, is_offered=True).is_offer
    plan = hear(other, 2, 2, is_offered=True)
    assert (list(plan.targets), plan.is_offer) == (ids(1), False), "there is a tree now"


def test_a_leaf_does_not_offer_what_came_along_the_tree() -> None:
    _, strategy = plumtree(1, 2, 3)
    graft(strategy, 1)
    assert hear(strategy, 1) == PushPlan([], effects=[])


def test_without_lazy_repair_links_begin_in_the_tree() -> None:
    place, strategy = plumtree(1, 2, lazy_push=False)
    strategy.start(0.0)
    strategy.on_link_up(place.link(3), 0.0)
    assert set(hear(strategy, None, origin=0).targets) == set(ids(1, 2, 3))
    strategy.reconfigure(place.config.replace(lazy_push=True), 0.0)
    strategy.on_link_up(place.link(4), 0.0)
    assert peer_id(4) not in strategy.subscribers


def test_a_lost_link_is_in_no_tree() -> None:
    place, strategy = plumtree(1, 2)
    graft(strategy, 1, 2)
    for first in range(1, RUMORS_FOR_OWN_TREE + 1):
        hear(strategy, 1, first)
    strategy.on_link_down(place.unlink(2), 0.0)
    assert list(hear(strategy, 1, 9).targets) == []
    assert strategy.subscribers == (peer_id(1),)


def test_who_lost_a_link_of_the_tree_offers_what_it_hears_next_and_waits_for_no_push() -> None:
    place, strategy = plumtree(1, 2, 3)
    graft(strategy, 1, 2)
    assert not strategy.is_broken(peer_id(ORIGIN))
    strategy.on_link_down(place.unlink(3), 0.0)
    assert not strategy.is_broken(peer_id(ORIGIN)), "that one was beside the tree"
    strategy.on_link_down(place.unlink(2), 0.0)
    assert strategy.is_broken(peer_id(ORIGIN))
    assert hear(strategy, 1).is_offer
    assert not strategy.is_broken(peer_id(ORIGIN)), "whoever was cut off can ask now"
    assert not hear(strategy, 1, 2).is_offer


def test_a_link_that_does_not_answer_is_let_go_of_long_before_it_is_given_up() -> None:
    place, strategy = plumtree(1, 2, 3)
    graft(strategy, 1, 2, 3)
    place.fall_silent(2)
    assert strategy.is_broken(peer_id(ORIGIN))
    plan = hear(strategy, 1)
    assert (list(plan.targets), plan.is_offer) == (ids(3), True)
    assert not hear(strategy, 1, 2).is_offer, "once"


def test_a_new_link_takes_the_place_of_one_that_the_tree_lost() -> None:
    place, strategy = plumtree(1, 2)
    graft(strategy, 1, 2)
    assert strategy.on_link_up(place.link(3), 0.0) == []
    place.fall_silent(2)
    assert said(strategy.on_link_up(place.link(4), 0.0)) == {peer_id(4): [Graft(None)]}
    assert set(strategy.subscribers) == set(ids(1, 4))


def test_who_stands_in_no_tree_offers_what_it_is_given_by_whatever_road() -> None:
    """Where nobody around stands in one either, ids alone would take three times as long."""
    _, strategy = plumtree(1, 2, 3)
    assert hear(strategy, 1).is_offer
    assert not hear(strategy, 1, 2).is_offer, "a leaf of the tree by now"


def test_a_tree_of_its_own_begins_torn_where_the_shared_one_is() -> None:
    place, strategy = plumtree(1, 2, 3)
    graft(strategy, 1, 2)
    for first in range(1, RUMORS_FOR_OWN_TREE):
        hear(strategy, 1, first)
    strategy.on_link_down(place.unlink(2), 0.0)
    graft(strategy, 3, origin=ORIGIN)
    assert strategy.is_broken(peer_id(ORIGIN))
    assert hear(strategy, 1, RUMORS_FOR_OWN_TREE).is_offer
    assert not strategy.is_broken(peer_id(ORIGIN))
    assert strategy.is_broken(peer_id(91)), "of the shared one nothing was heard since"


def test_a_new_link_that_is_nearer_than_one_of_the_tree_begins_in_it() -> None:
    place, strategy = plumtree(1, 2)
    for number, rtt_s in ((1, 0.02), (2, 0.1)):
        place.measure(number, rtt_s)
    near, far = place.link(3), place.link(4)
    place.measure(3, 0.05)
    place.measure(4, 0.09)
    assert strategy.on_link_up(near, 0.0) == [], "there is no tree yet"
    graft(strategy, 1, 2)
    assert said(strategy.on_link_up(near, 0.0)) == {near: [Graft(None)]}
    assert strategy.on_link_up(far, 0.0) == []
    assert strategy.subscribers == (*ids(1, 2), near)


def test_links_of_the_shared_tree_carry_while_it_is_used() -> None:
    _, strategy = plumtree(1, 2, 3)
    graft(strategy, 1, 2)
    assert not strategy.is_in_use(peer_id(1), 0.0), "nothing was heard yet"
    hear(strategy, 1, 1)
    assert strategy.is_in_use(peer_id(1), 1.0)
    assert strategy.is_in_use(peer_id(2), 1.0 + TREE_IN_USE_S - 0.1)
    assert not strategy.is_in_use(peer_id(2), 1.0 + TREE_IN_USE_S)
    assert not strategy.is_in_use(peer_id(3), 1.0)


# --- trees of their own -------------------------------------------------------------------------


def busy(*linked: int) -> tuple[Surroundings, Plumtree]:
    """Node 0, whose tree is links 1 and 2, after as many rumors over link 1 as make a busy origin."""
    place, strategy = plumtree(*linked)
    graft(strategy, 1, 2)
    for first in range(1, RUMORS_FOR_OWN_TREE + 1):
        hear(strategy, 1, first)
    return place, strategy


def test_a_busy_origin_has_a_tree_of_its_own_that_begins_as_the_shared_one() -> None:
    _, strategy = busy(1, 2, 3)
    assert list(hear(strategy, 1, 10).targets) == ids(2)
    assert said(strategy.on_duplicate(news(ORIGIN).key, peer_id(2), 1.0)) == {
        peer_id(2): [Prune(peer_id(ORIGIN))]
    }
    assert list(hear(strategy, 1, 11).targets) == []
    assert list(hear(strategy, 1, origin=91).targets) == ids(2), "others keep the link"
    assert said(strategy.on_request_sent(peer_id(3), peer_id(ORIGIN), 2.0)) == {
        peer_id(3): [Graft(peer_id(ORIGIN))]
    }


def test_whose_ids_come_before_the_rumors_becomes_the_parent() -> None:
    _, strategy = busy(1, 2, 3)
    plan = hear(strategy, 1, 10, rival=3, lead_s=0.050)
    assert said(plan.effects) == {
        peer_id(3): [Graft(peer_id(ORIGIN))],
        peer_id(1): [Prune(peer_id(ORIGIN))],
    }
    assert list(plan.targets) == ids(2), "it has what it told of, and would prune whoever pushes it"
    assert list(hear(strategy, 3, 11).targets) == ids(2)


def test_a_small_lead_must_last_and_a_shared_tree_keeps_its_parents() -> None:
    _, strategy = busy(1, 2, 3)
    assert not hear(strategy, 1, 10, rival=3, lead_s=0.020).effects
    assert not hear(strategy, 1, 11).effects
    assert not hear(strategy, 1, 12, rival=3, lead_s=0.020).effects
    assert hear(strategy, 1, 13, rival=3, lead_s=0.020).effects
    _, shared = plumtree(1, 2, 3)
    graft(shared, 1, 2)
    assert not hear(shared, 1, rival=3, lead_s=0.5).effects


def test_where_links_change_whoever_keeps_being_first_joins_the_shared_tree_beside_the_parent() -> (
    None
):
    _, strategy = plumtree(1, 2, 3, optimize_links=True)
    graft(strategy, 1, 2)
    led = [
        hear(strategy, 1, 1, origin=each, rival=3, lead_s=0.050).effects for each in range(20, 24)
    ]
    assert led[:3] == [[], [], []], "one rumor says little of others' ways"
    assert said(led[3]) == {peer_id(3): [Graft(None)]}
    assert set(strategy.subscribers) == set(ids(1, 2, 3))


def test_a_peer_names_a_tree_only_of_an_origin_that_was_heard() -> None:
    _, strategy = plumtree(1, 2, 3)
    graft(strategy, 1, 2)
    graft(strategy, 3, origin=91)
    assert list(hear(strategy, 1, origin=91).targets) == ids(2)
    graft(strategy, 3, origin=91)
    assert list(hear(strategy, 1, 2, origin=91).targets) == ids(2, 3)
    strategy.handle(Prune(peer_id(91)), peer_id(2), 0.0)
    assert list(hear(strategy, 1, 3, origin=91).targets) == ids(3)
    assert set(strategy.subscribers) == set(ids(1, 2))


def test_one_tree_beyond_those_kept_lets_go_of_the_one_not_used_for_longest() -> None:
    _, strategy = full_of_trees()
    idle_at = 50 + TREE_IDLE_S
    for first in range(1, RUMORS_FOR_OWN_TREE + 1):
        strategy.on_new_rumor(news(200, first, 1, hops=1), idle_at)
    assert len(strategy._own_trees) == TREES_LIMIT
    assert strategy.trees_evicted == 1
    assert peer_id(100) in strategy._own_trees, "it spoke later than the others"
    assert peer_id(101) not in strategy._own_trees


def test_while_all_trees_are_in_use_another_origin_has_the_shared_one_whatever_a_peer_says() -> (
    None
):
    _, strategy = full_of_trees()
    for first in range(1, RUMORS_FOR_OWN_TREE + 1):
        strategy.on_new_rumor(news(200, first, 1, hops=1), 40.0)
    assert peer_id(200) not in strategy._own_trees
    strategy.handle(Prune(None), peer_id(2), 40.0)
    strategy.handle(Graft(peer_id(200)), peer_id(2), 40.0)
    assert peer_id(200) not in strategy._own_trees
    assert (strategy.trees_evicted, strategy.trees_rejected) == (0, 1)
    assert peer_id(2) in strategy._shared_tree.eager, (
        "whoever asks is pushed to, along the shared tree"
    )


def test_a_tree_that_a_peer_named_is_the_first_to_go_until_its_origin_speaks() -> None:
    _, strategy = plumtree(1, 2)
    graft(strategy, 1, 2)
    for origin in range(100, 100 + TREES_LIMIT - 1):
        for first in range(1, RUMORS_FOR_OWN_TREE + 1):
            hear(strategy, 1, first, origin=origin)
    hear(strategy, 1, origin=200)
    graft(strategy, 2, origin=200)
    assert len(strategy._own_trees) == TREES_LIMIT
    for first in range(1, RUMORS_FOR_OWN_TREE + 1):
        hear(strategy, 1, first, origin=201)
    assert peer_id(201) in strategy._own_trees
    assert peer_id(200) not in strategy._own_trees
    assert all(
        peer_id(origin) in strategy._own_trees for origin in range(100, 100 + TREES_LIMIT - 1)
    )


def test_nothing_is_remembered_of_who_has_no_link() -> None:
    _, strategy = plumtree(1, 2)
    graft(strategy, 1, 2)
    hear(strategy, 1, 1)
    strategy.on_duplicate(news(ORIGIN, 1, 1).key, peer_id(77), 0.0)
    told = news(ORIGIN, 2, 1)._replace(first_source=peer_id(77), lead_s=1.0)
    strategy.on_new_rumor(told, 0.1)
    for tree in (strategy._shared_tree, *strategy._own_trees.values()):
        assert peer_id(77) not in tree.lead_by_peer_s
        assert peer_id(77) not in tree.pruned_at


def full_of_trees() -> tuple[Surroundings, Plumtree]:
    """As many origins as may have trees, 100 and so on; the first spoke last, at 50 s."""
    place, strategy = plumtree(1, 2)
    graft(strategy, 1, 2)
    for origin in range(100, 100 + TREES_LIMIT):
        for first in range(1, RUMORS_FOR_OWN_TREE + 1):
            hear(strategy, 1, first, origin=origin)
    hear(strategy, 1, 50, origin=100)
    assert len(strategy._own_trees) == TREES_LIMIT
    return place, strategy


def test_origins_that_spoke_once_are_counted_up_to_a_cap() -> None:
    _, strategy = plumtree(1)
    for origin in range(100, 100 + COUNTED_ORIGINS_LIMIT + 1):
        hear(strategy, 1, origin=origin)
    assert len(strategy._rumor_counts) == COUNTED_ORIGINS_LIMIT
    assert peer_id(100) not in strategy._rumor_counts


def test_however_far_it_came_a_rumor_goes_on_but_not_what_was_mailed_to_all() -> None:
    _, strategy = plumtree(1, 2)
    graft(strategy, 1, 2)
    told = news(ORIGIN, sender=1)
    assert strategy.on_new_rumor(told._replace(hops=250), 0.0).targets
    assert not strategy.on_new_rumor(told._replace(is_mailed=True), 0.0).targets


def test_of_one_rumor_too_many_it_is_forgotten_which_link_brought_the_oldest() -> None:
    _, strategy = plumtree(1, 2)
    for first in range(1, RUMOR_SENDERS_LIMIT + 2):
        hear(strategy, 1, first)
    assert len(strategy._rumor_sender) == RUMOR_SENDERS_LIMIT
    assert news(ORIGIN, 1).key not in strategy._rumor_sender
