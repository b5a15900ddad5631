"""Plumtree: which links are eager, depending on pushes, requests and duplicates."""

from __future__ import annotations

from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.broadcast.near_peers import NEAR_PEERS_LIMIT
from grapevine_proto.overlay.broadcast.plumtree import Plumtree
from grapevine_proto.overlay.broadcast.strategy import PushPlan
from grapevine_proto.wire.messages import Graft, Prune, Subscribe
from tests.proto.overlay.builders import NodeTables, new_rumor, peer_id, sent_by_peer

ORIGIN = 90

# Of the protocol reference, and of the table of containers.
RUMORS_FOR_OWN_TREE, TREES_LIMIT = 3, 64
COUNTED_ORIGINS_LIMIT, RUMOR_SENDERS_LIMIT = 256, 512
PARENT_SWITCH_LEAD_S, OWN_TREE_LEAD_WEIGHT = 0.015, 0.5
ROOT_TIMEOUT_S, TREE_IN_USE_S, TREE_IDLE_S = 10.0, 10.0, 60.0


def plumtree(*linked: int, **changes: object) -> tuple[NodeTables, Plumtree]:
    tables = NodeTables(*linked, **changes)  # type: ignore[arg-type]
    return tables, Plumtree(tables.context, tables.near_peers)


def graft(strategy: Plumtree, *numbers: int, origin: int | None = None) -> None:
    for number in numbers:
        tree = None if origin is None else peer_id(origin)
        assert strategy.handle(Graft(tree), peer_id(number), 0.0) == []


def receive(
    strategy: Plumtree,
    sender: int | None,
    first: int = 1,
    *,
    origin: int = ORIGIN,
    first_source: int | None = None,
    lead_s: float = 0.0,
    is_offered: bool = False,
    is_urgent: bool = False,
) -> PushPlan:
    new = new_rumor(origin, first, sender, hops=1)._replace(
        is_offered=is_offered or sender is None,
        is_urgent=is_urgent,
        first_source=None if first_source is None else peer_id(first_source),
        lead_s=lead_s,
    )
    return strategy.on_new_rumor(new, float(first))


def ids(*numbers: int) -> list[PeerId]:
    return [peer_id(number) for number in numbers]


def test_a_rumor_is_pushed_along_the_tree_but_not_back() -> None:
    _, strategy = plumtree(1, 2, 3, 4)
    graft(strategy, 1, 2, 3)
    plan = receive(strategy, 1)
    assert list(plan.targets) == ids(2, 3)
    assert not plan.is_offer
    assert not plan.effects
    assert list(receive(strategy, 1, origin=2).targets) == ids(3)


def test_a_link_that_pushes_a_new_rumor_becomes_eager() -> None:
    _, strategy = plumtree(1, 2, 3)
    receive(strategy, 1)
    assert list(receive(strategy, None, 2, origin=0).targets) == ids(1)


def test_a_link_that_pushes_duplicates_is_pruned_once_in_a_fifth_of_a_second() -> None:
    _, strategy = plumtree(1, 2, 3)
    graft(strategy, 1, 2)
    key = new_rumor(ORIGIN).key
    assert sent_by_peer(strategy.on_duplicate(key, peer_id(2), 1.0)) == {peer_id(2): [Prune(None)]}
    assert strategy.on_duplicate(key, peer_id(2), 1.19) == []
    assert strategy.on_duplicate(key, peer_id(2), 1.2), "the prune was lost"
    assert list(receive(strategy, 3, 2).targets) == ids(1)


def test_pushes_in_flight_on_a_pruned_link_neither_graft_it_nor_prune_another() -> None:
    """Two rumors in flight on one cycle would each prune a link of it and cut the tree."""
    _, strategy = plumtree(1, 2, 3)
    graft(strategy, 1, 2, 3)
    strategy.on_new_rumor(new_rumor(20, 1, 1, hops=1), 1.0)
    assert strategy.on_duplicate(new_rumor(20).key, peer_id(2), 1.01), "that link is pruned"
    strategy.on_new_rumor(new_rumor(21, 1, 2, hops=1), 1.02)
    assert set(strategy.subscribers) == set(ids(1, 3))
    assert strategy.on_duplicate(new_rumor(21).key, peer_id(1), 1.03) == []
    strategy.on_new_rumor(new_rumor(22, 1, 2, hops=1), 1.22)
    assert set(strategy.subscribers) == set(ids(1, 2, 3)), (
        "that push was sent after the grace period"
    )


def test_at_high_rates_only_one_origins_rumors_prune_the_shared_tree() -> None:
    _, strategy = plumtree(1, 2, 3, 4, 5)
    graft(strategy, 1, 2, 3, 4, 5)
    origins = sorted(range(20, 26), key=peer_id)
    for turn, origin in enumerate([*origins[1:], *origins]):
        strategy.on_new_rumor(new_rumor(origin, turn + 1, 1, hops=1), 1.0 + turn / 10)
    can_prune = {
        origin: bool(strategy.on_duplicate(new_rumor(origin, 50).key, peer_id(2 + index), 2.1))
        for index, origin in enumerate(origins[:4])
    }
    assert can_prune == dict(zip(origins, (True, False, False, False), strict=False))
    last_at = 1.0 + 11 / 10 + ROOT_TIMEOUT_S
    strategy.on_new_rumor(new_rumor(origins[3], 60, 1, hops=1), last_at)
    assert strategy.on_duplicate(new_rumor(origins[3], 60).key, peer_id(3), last_at + 0.1), (
        "the first origin is idle"
    )


def test_the_last_eager_link_is_not_pruned() -> None:
    _, strategy = plumtree(1, 2)
    graft(strategy, 1)
    assert strategy.on_duplicate(new_rumor(ORIGIN).key, peer_id(1), 1.0) == []
    assert strategy.subscribers == (peer_id(1),)


def test_graft_and_prune_of_a_peer_are_followed() -> None:
    _, strategy = plumtree(1, 2)
    graft(strategy, 1, 2)
    strategy.handle(Prune(None), peer_id(1), 0.0)
    assert strategy.subscriptions == (peer_id(2),)
    strategy.handle(Subscribe(True), peer_id(1), 0.0)
    strategy.handle(Graft(None), peer_id(99), 0.0)
    assert strategy.subscribers == (peer_id(2),), "an unlinked peer is in no tree"


def test_a_requested_source_is_sent_a_graft_and_becomes_eager_once_it_delivers() -> None:
    _, strategy = plumtree(1, 2)
    assert sent_by_peer(strategy.on_request_sent(peer_id(2), peer_id(ORIGIN), 1.0)) == {
        peer_id(2): [Graft(None)]
    }
    assert not strategy.subscribers, "or a false announcement would make it the only eager link"
    receive(strategy, 2)
    assert strategy.subscribers == (peer_id(2),)


def test_a_node_without_eager_links_offers_its_rumors_and_they_are_offered_on() -> None:
    _, strategy = plumtree(1, 2, 3)
    plan = receive(strategy, None, origin=0)
    assert (list(plan.targets), plan.is_offer) == ([], True)
    _, other = plumtree(1, 2, 3)
    other.on_request_sent(peer_id(1), peer_id(ORIGIN), 0.0)
    assert receive(other, 1, is_offered=True).is_offer
    plan = receive(other, 2, 2, is_offered=True)
    assert (list(plan.targets), plan.is_offer) == (ids(1), False), "a tree exists now"


def test_a_leaf_does_not_offer_rumors_that_arrived_along_the_tree() -> None:
    _, strategy = plumtree(1, 2, 3)
    graft(strategy, 1)
    assert receive(strategy, 1) == PushPlan([], effects=[])


def test_without_lazy_push_links_start_eager() -> None:
    tables, strategy = plumtree(1, 2, lazy_push=False)
    strategy.start(0.0)
    strategy.on_link_up(tables.link(3), 0.0)
    assert set(receive(strategy, None, origin=0).targets) == set(ids(1, 2, 3))
    tables.reconfigure(lazy_push=True)
    strategy.on_link_up(tables.link(4), 0.0)
    assert peer_id(4) not in strategy.subscribers


def test_a_closed_link_is_in_no_tree() -> None:
    tables, strategy = plumtree(1, 2)
    graft(strategy, 1, 2)
    for first in range(1, RUMORS_FOR_OWN_TREE + 1):
        receive(strategy, 1, first)
    strategy.on_link_down(tables.unlink(2), 0.0)
    assert list(receive(strategy, 1, 9).targets) == []
    assert strategy.subscribers == (peer_id(1),)


def test_after_losing_an_eager_link_a_node_offers_the_next_rumor_and_requests_at_once() -> None:
    tables, strategy = plumtree(1, 2, 3)
    graft(strategy, 1, 2)
    assert not strategy.is_broken(peer_id(ORIGIN))
    strategy.on_link_down(tables.unlink(3), 0.0)
    assert not strategy.is_broken(peer_id(ORIGIN)), "that link was lazy"
    strategy.on_link_down(tables.unlink(2), 0.0)
    assert strategy.is_broken(peer_id(ORIGIN))
    assert receive(strategy, 1).is_offer
    assert not strategy.is_broken(peer_id(ORIGIN)), "nodes that were cut off can request now"
    assert not receive(strategy, 1, 2).is_offer


def test_an_unresponsive_link_leaves_the_tree_long_before_it_is_closed() -> None:
    tables, strategy = plumtree(1, 2, 3)
    graft(strategy, 1, 2, 3)
    tables.stop_answering(2)
    assert strategy.is_broken(peer_id(ORIGIN))
    plan = receive(strategy, 1)
    assert (list(plan.targets), plan.is_offer) == (ids(3), True)
    assert not receive(strategy, 1, 2).is_offer, "once"


def test_a_new_link_replaces_a_lost_eager_link() -> None:
    tables, strategy = plumtree(1, 2)
    graft(strategy, 1, 2)
    assert strategy.on_link_up(tables.link(3), 0.0) == []
    tables.stop_answering(2)
    assert sent_by_peer(strategy.on_link_up(tables.link(4), 0.0)) == {peer_id(4): [Graft(None)]}
    assert set(strategy.subscribers) == set(ids(1, 4))


def test_a_node_outside_the_tree_offers_every_new_rumor() -> None:
    """Where no node nearby is in the tree either, IDs alone would take three times as long."""
    _, strategy = plumtree(1, 2, 3)
    assert receive(strategy, 1).is_offer
    assert not receive(strategy, 1, 2).is_offer, "it is a leaf by now"


def test_an_own_tree_starts_broken_if_the_shared_one_is() -> None:
    tables, strategy = plumtree(1, 2, 3)
    graft(strategy, 1, 2)
    for first in range(1, RUMORS_FOR_OWN_TREE):
        receive(strategy, 1, first)
    strategy.on_link_down(tables.unlink(2), 0.0)
    graft(strategy, 3, origin=ORIGIN)
    assert strategy.is_broken(peer_id(ORIGIN))
    assert receive(strategy, 1, RUMORS_FOR_OWN_TREE).is_offer
    assert not strategy.is_broken(peer_id(ORIGIN))
    assert strategy.is_broken(peer_id(91)), "the shared tree carried no rumor since"


def test_a_new_link_nearer_than_an_eager_one_starts_eager() -> None:
    tables, strategy = plumtree(1, 2)
    for number, rtt_s in ((1, 0.02), (2, 0.1)):
        tables.measure(number, rtt_s)
    near, far = tables.link(3), tables.link(4)
    tables.measure(3, 0.05)
    tables.measure(4, 0.09)
    assert strategy.on_link_up(near, 0.0) == [], "no tree exists yet"
    graft(strategy, 1, 2)
    assert sent_by_peer(strategy.on_link_up(near, 0.0)) == {near: [Graft(None)]}
    assert strategy.on_link_up(far, 0.0) == []
    assert strategy.subscribers == (*ids(1, 2), near)


def test_links_of_the_shared_tree_are_in_use_while_it_carries_rumors() -> None:
    _, strategy = plumtree(1, 2, 3)
    graft(strategy, 1, 2)
    assert not strategy.is_in_use(peer_id(1), 0.0), "no rumor was received yet"
    receive(strategy, 1, 1)
    assert strategy.is_in_use(peer_id(1), 1.0)
    assert strategy.is_in_use(peer_id(2), 1.0 + TREE_IN_USE_S - 0.1)
    assert not strategy.is_in_use(peer_id(2), 1.0 + TREE_IN_USE_S)
    assert not strategy.is_in_use(peer_id(3), 1.0)


# --- own trees ----------------------------------------------------------------------------------


def with_busy_origin(*linked: int) -> tuple[NodeTables, Plumtree]:
    """Node 0 with eager links 1 and 2, after enough rumors over link 1 to give their origin its own
    tree.
    """
    tables, strategy = plumtree(*linked)
    graft(strategy, 1, 2)
    for first in range(1, RUMORS_FOR_OWN_TREE + 1):
        receive(strategy, 1, first)
    return tables, strategy


def test_a_busy_origin_gets_an_own_tree_that_starts_as_a_copy_of_the_shared_one() -> None:
    _, strategy = with_busy_origin(1, 2, 3)
    assert list(receive(strategy, 1, 10).targets) == ids(2)
    assert sent_by_peer(strategy.on_duplicate(new_rumor(ORIGIN).key, peer_id(2), 1.0)) == {
        peer_id(2): [Prune(peer_id(ORIGIN))]
    }
    assert list(receive(strategy, 1, 11).targets) == []
    assert list(receive(strategy, 1, origin=91).targets) == ids(2), "other origins keep the link"
    assert sent_by_peer(strategy.on_request_sent(peer_id(3), peer_id(ORIGIN), 2.0)) == {
        peer_id(3): [Graft(peer_id(ORIGIN))]
    }


def test_a_peer_whose_announcements_precede_the_rumors_becomes_the_parent() -> None:
    _, strategy = with_busy_origin(1, 2, 3)
    plan = receive(strategy, 1, 10, first_source=3, lead_s=0.050)
    assert sent_by_peer(plan.effects) == {
        peer_id(3): [Graft(peer_id(ORIGIN))],
        peer_id(1): [Prune(peer_id(ORIGIN))],
    }
    assert list(plan.targets) == ids(2), "it has what it announced and would prune a push of it"
    assert list(receive(strategy, 3, 11).targets) == ids(2)


def test_a_small_lead_must_last_and_the_shared_tree_keeps_its_links() -> None:
    _, strategy = with_busy_origin(1, 2, 3)
    assert not receive(strategy, 1, 10, first_source=3, lead_s=0.020).effects
    assert not receive(strategy, 1, 11).effects
    assert not receive(strategy, 1, 12, first_source=3, lead_s=0.020).effects
    assert receive(strategy, 1, 13, first_source=3, lead_s=0.020).effects
    _, shared = plumtree(1, 2, 3)
    graft(shared, 1, 2)
    assert not receive(shared, 1, first_source=3, lead_s=0.5).effects


def test_with_optimize_links_a_peer_that_keeps_leading_joins_the_shared_tree() -> None:
    _, strategy = plumtree(1, 2, 3, optimize_links=True)
    graft(strategy, 1, 2)
    lead_effects = [
        receive(strategy, 1, 1, origin=each, first_source=3, lead_s=0.050).effects
        for each in range(20, 24)
    ]
    assert lead_effects[:3] == [[], [], []], "one rumor says little about other paths"
    assert sent_by_peer(lead_effects[3]) == {peer_id(3): [Graft(None)]}
    assert set(strategy.subscribers) == set(ids(1, 2, 3))


def test_a_peer_can_name_only_trees_of_origins_that_were_received() -> None:
    _, strategy = plumtree(1, 2, 3)
    graft(strategy, 1, 2)
    graft(strategy, 3, origin=91)
    assert list(receive(strategy, 1, origin=91).targets) == ids(2)
    graft(strategy, 3, origin=91)
    assert list(receive(strategy, 1, 2, origin=91).targets) == ids(2, 3)
    strategy.handle(Prune(peer_id(91)), peer_id(2), 0.0)
    assert list(receive(strategy, 1, 3, origin=91).targets) == ids(3)
    assert set(strategy.subscribers) == set(ids(1, 2))


def test_beyond_the_limit_the_least_recently_used_idle_tree_is_evicted() -> None:
    _, strategy = with_all_trees_used()
    idle_at = 50 + TREE_IDLE_S
    for first in range(1, RUMORS_FOR_OWN_TREE + 1):
        strategy.on_new_rumor(new_rumor(200, first, 1, hops=1), idle_at)
    assert len(strategy._own_trees) == TREES_LIMIT
    assert strategy.trees_evicted == 1
    assert peer_id(100) in strategy._own_trees, "it published later than the others"
    assert peer_id(101) not in strategy._own_trees


def test_while_all_own_trees_are_in_use_another_origin_uses_the_shared_one() -> None:
    _, strategy = with_all_trees_used()
    for first in range(1, RUMORS_FOR_OWN_TREE + 1):
        strategy.on_new_rumor(new_rumor(200, first, 1, hops=1), 40.0)
    assert peer_id(200) not in strategy._own_trees
    strategy.handle(Prune(None), peer_id(2), 40.0)
    strategy.handle(Graft(peer_id(200)), peer_id(2), 40.0)
    assert peer_id(200) not in strategy._own_trees
    assert (strategy.trees_evicted, strategy.trees_rejected) == (0, 1)
    assert peer_id(2) in strategy._shared_tree.eager, (
        "a peer that asks is pushed to along the shared tree"
    )


def test_a_tree_named_by_a_peer_is_evicted_first_until_its_origin_publishes() -> None:
    _, strategy = plumtree(1, 2)
    graft(strategy, 1, 2)
    for origin in range(100, 100 + TREES_LIMIT - 1):
        for first in range(1, RUMORS_FOR_OWN_TREE + 1):
            receive(strategy, 1, first, origin=origin)
    receive(strategy, 1, origin=200)
    graft(strategy, 2, origin=200)
    assert len(strategy._own_trees) == TREES_LIMIT
    for first in range(1, RUMORS_FOR_OWN_TREE + 1):
        receive(strategy, 1, first, origin=201)
    assert peer_id(201) in strategy._own_trees
    assert peer_id(200) not in strategy._own_trees
    assert all(
        peer_id(origin) in strategy._own_trees for origin in range(100, 100 + TREES_LIMIT - 1)
    )


def test_no_state_is_kept_about_unlinked_peers() -> None:
    _, strategy = plumtree(1, 2)
    graft(strategy, 1, 2)
    receive(strategy, 1, 1)
    strategy.on_duplicate(new_rumor(ORIGIN, 1, 1).key, peer_id(77), 0.0)
    new = new_rumor(ORIGIN, 2, 1)._replace(first_source=peer_id(77), lead_s=1.0)
    strategy.on_new_rumor(new, 0.1)
    for tree in (strategy._shared_tree, *strategy._own_trees.values()):
        assert peer_id(77) not in tree.lead_by_peer_s
        assert peer_id(77) not in tree.pruned_at


def with_all_trees_used() -> tuple[NodeTables, Plumtree]:
    """The maximum number of origins with own trees, from 100 on; the first published last, at 50 s."""
    tables, strategy = plumtree(1, 2)
    graft(strategy, 1, 2)
    for origin in range(100, 100 + TREES_LIMIT):
        for first in range(1, RUMORS_FOR_OWN_TREE + 1):
            receive(strategy, 1, first, origin=origin)
    receive(strategy, 1, 50, origin=100)
    assert len(strategy._own_trees) == TREES_LIMIT
    return tables, strategy


def test_origins_are_counted_up_to_a_limit() -> None:
    _, strategy = plumtree(1)
    for origin in range(100, 100 + COUNTED_ORIGINS_LIMIT + 1):
        receive(strategy, 1, origin=origin)
    assert len(strategy._rumor_counts) == COUNTED_ORIGINS_LIMIT
    assert peer_id(100) not in strategy._rumor_counts


def test_there_is_no_hop_limit() -> None:
    _, strategy = plumtree(1, 2)
    graft(strategy, 1, 2)
    new = new_rumor(ORIGIN, sender=1)
    assert strategy.on_new_rumor(new._replace(hops=250), 0.0).targets


def test_the_first_links_of_rumors_are_tracked_up_to_a_limit() -> None:
    _, strategy = plumtree(1, 2)
    for first in range(1, RUMOR_SENDERS_LIMIT + 2):
        receive(strategy, 1, first)
    assert len(strategy._rumor_sender) == RUMOR_SENDERS_LIMIT
    assert new_rumor(ORIGIN, 1).key not in strategy._rumor_sender


def test_another_origin_takes_over_the_shared_tree_after_ten_seconds_of_silence() -> None:
    for silent_s, takes_over in [(9.9, False), (10.0, True)]:
        _, strategy = plumtree(1, 2)
        low, high = sorted([peer_id(80), peer_id(81)])
        strategy._update_rate(low, 0.0, 0.0)
        strategy._update_rate(high, 0.0, silent_s)
        assert (strategy._root == high) is takes_over
        strategy._update_rate(low, 0.0, silent_s)
        assert strategy._root == low, "the lowest origin is the same on every node"


def test_a_tree_is_idle_a_minute_after_its_last_rumor() -> None:
    for idle_s, is_evicted in ((59.9, False), (60.0, True)):
        _, strategy = with_all_trees_used()
        for first in range(1, RUMORS_FOR_OWN_TREE + 1):
            last_used_at = float(RUMORS_FOR_OWN_TREE)
            strategy.on_new_rumor(new_rumor(200, first, 1, hops=1), last_used_at + idle_s)
        assert bool(strategy.trees_evicted) is is_evicted


def test_a_peer_without_a_link_neither_becomes_eager_nor_changes_the_parent() -> None:
    for sender, first_source in ((77, 3), (1, 77), (77, 78)):
        _, strategy = with_busy_origin(1, 2, 3)
        subscribers = strategy.subscribers
        plan = receive(strategy, sender, 10, first_source=first_source, lead_s=0.5)
        assert plan.effects == []
        assert strategy.subscribers == subscribers
        assert set(receive(strategy, None, 11).targets) == set(ids(1, 2))


def test_a_rumor_of_this_node_has_no_parent_to_change() -> None:
    _, strategy = with_busy_origin(1, 2, 3)
    assert receive(strategy, None, 10, first_source=3, lead_s=0.5).effects == []


def test_a_peer_that_pushes_what_it_announced_gains_no_lead() -> None:
    _, strategy = with_busy_origin(1, 2, 3)
    receive(strategy, 1, 10, first_source=1, lead_s=0.5)
    strategy.handle(Prune(peer_id(ORIGIN)), peer_id(1), 10.0)
    assert receive(strategy, 2, 11, first_source=1, lead_s=0.001).effects == []


def test_a_lead_of_the_threshold_suffices() -> None:
    _, strategy = with_busy_origin(1, 2, 3)
    lead_s = PARENT_SWITCH_LEAD_S / OWN_TREE_LEAD_WEIGHT
    assert receive(strategy, 1, 10, first_source=3, lead_s=lead_s).effects


def test_a_node_without_eager_links_offers_a_rumor_only_if_it_has_another_link() -> None:
    for links, is_offer in (((1,), False), ((1, 2), True)):
        _, strategy = plumtree(*links)
        assert receive(strategy, 1).is_offer is is_offer


def prunes(strategy: Plumtree, origin: PeerId, at: float) -> bool:
    """Whether a duplicate of a rumor of `origin` prunes the shared tree of links 1 and 2."""
    return bool(strategy.on_duplicate((origin, 1, 99), peer_id(2), at))


def test_two_rumors_at_once_leave_the_pruning_to_the_lowest_origin() -> None:
    for between_s, prunes_both in ((0.0, False), (5.0, True)):
        low, high = sorted((80, 81), key=peer_id)
        for origin in (low, high):
            _, strategy = plumtree(1, 2)
            graft(strategy, 1, 2)
            strategy.on_new_rumor(new_rumor(low, 1, 1, hops=1), 1000.0)
            strategy.on_new_rumor(new_rumor(high, 1, 1, hops=1), 1000.0 + between_s)
            at = 1000.0 + between_s
            assert prunes(strategy, peer_id(origin), at) is (prunes_both or origin == low)


def test_the_lowest_origin_keeps_the_shared_tree_while_it_publishes() -> None:
    _, strategy = plumtree(1, 2)
    low, high = sorted([peer_id(80), peer_id(81)])
    for at, origin, root in (
        (1000.0, low, low),
        (1005.0, high, low),
        (1009.0, low, low),
        (1012.0, high, low),
        (1009.0 + ROOT_TIMEOUT_S, high, high),
    ):
        strategy._update_rate(origin, at, at)
        assert strategy._root == root


def test_a_link_that_closed_and_opened_again_is_in_no_tree() -> None:
    tables, strategy = with_busy_origin(1, 2, 3)
    strategy.on_link_down(tables.unlink(2), 9.0)
    tables.link(2)
    assert strategy.is_broken(peer_id(ORIGIN))
    assert list(receive(strategy, 1, 10).targets) == []
    assert strategy.subscribers == (peer_id(1),)


def test_a_new_link_is_nearer_by_more_than_the_threshold() -> None:
    for margin_s, is_eager in ((0.0, False), (0.001, True)):
        tables, strategy = plumtree(1)
        graft(strategy, 1)
        tables.measure(1, 0.1)
        new = tables.link(2)
        tables.measure(2, 0.1 - PARENT_SWITCH_LEAD_S - margin_s)
        assert bool(strategy.on_link_up(new, 0.0)) is is_eager


def test_an_urgent_rumor_goes_to_all_near_peers_and_leaves_the_tree_as_it_is() -> None:
    _, strategy = plumtree(1, 2, 3, 4)
    graft(strategy, 1, 2)
    plan = receive(strategy, 3, is_urgent=True)
    assert list(plan.targets) == ids(1, 2, 4)
    assert not plan.effects
    assert not plan.is_offer
    assert list(strategy.subscribers) == ids(1, 2)
    assert list(receive(strategy, 1, 2).targets) == ids(2)


def test_an_urgent_rumor_of_our_own_goes_to_all_near_peers_instead_of_being_offered() -> None:
    _, strategy = plumtree(1, 2, 3)
    plan = receive(strategy, None, origin=0, is_urgent=True)
    assert list(plan.targets) == ids(1, 2, 3)
    assert not plan.is_offer


def test_the_first_copy_of_an_urgent_rumor_grows_the_tree_where_there_is_none() -> None:
    _, strategy = plumtree(1, 2, 3)
    plan = receive(strategy, 2, is_urgent=True)
    assert list(plan.targets) == ids(1, 3)
    assert sent_by_peer(plan.effects) == {peer_id(2): [Graft(None)]}
    assert list(strategy.subscribers) == ids(2)


def test_an_urgent_rumor_mends_a_broken_tree() -> None:
    tables, strategy = plumtree(1, 2, 3)
    graft(strategy, 1, 2)
    strategy.on_link_down(tables.unlink(1), 1.0)
    assert strategy.is_broken(peer_id(ORIGIN))
    plan = receive(strategy, 3, is_urgent=True)
    assert sent_by_peer(plan.effects) == {peer_id(3): [Graft(None)]}
    assert not strategy.is_broken(peer_id(ORIGIN))
    assert list(strategy.subscribers) == ids(2, 3)


def test_of_many_links_an_urgent_rumor_takes_those_that_get_announcements() -> None:
    linked = tuple(range(1, 41))
    tables, strategy = plumtree(*linked)
    plan = receive(strategy, 1, is_urgent=True)
    assert set(plan.targets) == set(tables.near_peers.near) - {peer_id(1)}
    assert len(plan.targets) <= 2 * NEAR_PEERS_LIMIT
