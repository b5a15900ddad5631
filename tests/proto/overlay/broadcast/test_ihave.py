"""Lazy repair: who is told of which ids, who is asked for what, and what liars can do to it."""

from __future__ import annotations

from dataclasses import dataclass, field

from grapevine_proto.ids import PeerId, Stream, StreamRange
from grapevine_proto.overlay.broadcast import ihave as lazy_module
from grapevine_proto.overlay.broadcast.ihave import (
    IHAVE_BATCH_DELAY_S,
    IHAVE_INTERVAL_S,
    MAIL_IHAVE_DELAY_S,
    MISSING_LIMIT,
    MISSING_PER_SOURCE_LIMIT,
    SOURCES_PER_RUMOR_LIMIT,
    UNANNOUNCED_LIMIT,
    LazyPush,
)
from grapevine_proto.overlay.broadcast.near_peers import NEAR_PEERS_LIMIT
from grapevine_proto.overlay.broadcast.plumtree import Plumtree
from grapevine_proto.overlay.broadcast.strategy import NewRumor, PushPlan, Strategy
from grapevine_proto.overlay.effects import Effect, Send
from grapevine_proto.overlay.peers import PeerTable
from grapevine_proto.overlay.store.message_store import MessageStore
from grapevine_proto.overlay.store.ranges import RANGES_PER_MESSAGE_LIMIT
from grapevine_proto.overlay.store.verification import Verifier
from grapevine_proto.overlay.sync.antientropy import LAZY_REQUEST_ROUND
from grapevine_proto.wire.messages import Graft, IHave, IWant, Offer, RumorCopy
from grapevine_proto.wire.signed import Rumor
from tests.proto.overlay.builders import EPOCH, Surroundings, config, copy, peer_id

ORIGIN = 90


class Noting(Strategy):
    """Pushes nothing, and notes who is asked for whose rumors."""

    def __init__(self, grafts: list[tuple[PeerId, PeerId]]) -> None:
        self._grafts = grafts

    def on_new_rumor(self, news: NewRumor, now: float) -> PushPlan:
        return PushPlan(())

    def on_request_sent(self, source: PeerId, origin: PeerId, now: float) -> list[Effect]:
        self._grafts.append((source, origin))
        return []


class Wordless(Plumtree):
    """A tree that says nothing itself to whoever is asked."""

    def on_request_sent(self, source: PeerId, origin: PeerId, now: float) -> list[Effect]:
        return []


@dataclass
class Node:
    """What lazy repair sees of a node with a few links, whose round trips take 50 ms."""

    links: int = 4
    is_on: bool = True
    place: Surroundings = field(init=False)
    store: MessageStore = field(init=False)
    lazy: LazyPush = field(init=False)
    grafts: list[tuple[PeerId, PeerId]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.place = Surroundings(*range(1, self.links + 1), lazy_push=self.is_on)
        settings = self.place.config
        self.store = MessageStore(settings, Verifier(settings), (), 0.0)
        self.lazy = LazyPush(
            settings, self.place.peers, self.place.around, self.store, Noting(self.grafts)
        )
        for peer in self.peers:
            peer.update_rtt(0.05)

    @property
    def peers(self) -> PeerTable:
        return self.place.peers

    def unlink(self, number: int) -> None:
        self.place.unlink(number)

    def learn(self, first: int, *told: int, at: float = 0.0) -> Rumor:
        """A rumor comes, and goes on to `told`."""
        made = copy(ORIGIN, first)
        self.store.insert(made, peer_id(ORIGIN), False, at)
        foretold = self.lazy.on_rumor(made.rumor, at)
        self.lazy.announce(made.rumor, [*map(peer_id, told), *foretold.sources], at)
        return made.rumor

    def hear(self, teller: int, *ids: StreamRange, at: float = 0.0) -> None:
        assert self.lazy.handle(IHave(ids), peer_id(teller), at) == []


def ids_of(first: int, last: int | None = None, origin: int = ORIGIN) -> StreamRange:
    return StreamRange(Stream(peer_id(origin), EPOCH), first, last or first)


def told(effects: list[Effect]) -> dict[PeerId, list[StreamRange]]:
    found: dict[PeerId, list[StreamRange]] = {}
    for effect in effects:
        assert isinstance(effect, Send)
        assert isinstance(effect.message, IHave)
        for peer in effect.peers:
            found.setdefault(peer, []).extend(effect.message.ranges)
    return found


def asked(effects: list[Effect]) -> list[tuple[PeerId, tuple[StreamRange, ...]]]:
    found = []
    for effect in effects:
        assert isinstance(effect, Send)
        assert isinstance(effect.message, IWant)
        assert effect.message.round == LAZY_REQUEST_ROUND
        [peer] = effect.peers
        found.append((peer, effect.message.ranges))
    return found


# --- telling ------------------------------------------------------------------------------------


def test_links_that_were_not_sent_a_rumor_are_told_its_id_together_a_moment_later() -> None:
    node = Node()
    node.learn(1, 1)
    node.learn(2, 2)
    assert node.lazy.deadline == IHAVE_BATCH_DELAY_S
    assert told(node.lazy.advance(IHAVE_BATCH_DELAY_S)) == {
        peer_id(1): [ids_of(2)],
        peer_id(2): [ids_of(1)],
        peer_id(3): [ids_of(1), ids_of(2)],
        peer_id(4): [ids_of(1), ids_of(2)],
    }
    assert node.lazy.advance(100.0) == []


def test_those_who_get_the_same_ids_share_one_message() -> None:
    node = Node(links=8)
    node.learn(1, 1, 2, 3)
    [send] = node.lazy.advance(IHAVE_BATCH_DELAY_S)
    assert isinstance(send, Send)
    assert len(send.peers) == 5


def test_among_many_links_only_near_ones_are_told() -> None:
    node = Node(links=50)
    node.learn(1)
    [send] = node.lazy.advance(IHAVE_BATCH_DELAY_S)
    assert isinstance(send, Send)
    assert set(send.peers) == set(node.place.around.near)
    assert len(send.peers) <= NEAR_PEERS_LIMIT


def test_what_was_mailed_to_all_is_told_to_those_behind_us_alone() -> None:
    node = Node(links=50)
    made = copy(ORIGIN, 1)
    node.lazy.announce(made.rumor, (), 0.0, is_mailed=True)
    assert node.lazy.advance(IHAVE_BATCH_DELAY_S) == []
    assert node.lazy.deadline == MAIL_IHAVE_DELAY_S
    assert set(told(node.lazy.advance(MAIL_IHAVE_DELAY_S))) == set(
        node.place.around.ring_successors
    )


def test_what_was_mailed_is_told_in_ranges_and_not_to_who_has_it() -> None:
    node = Node(links=3)
    for first in (2, 1, 4):
        node.lazy.announce(copy(ORIGIN, first).rumor, (), 0.0, is_mailed=True)
    node.lazy.on_duplicate(copy(ORIGIN, 4).rumor, peer_id(3))
    ids = told(node.lazy.advance(MAIL_IHAVE_DELAY_S))
    assert ids[peer_id(1)] == [ids_of(1, 2), ids_of(4)]
    assert ids[peer_id(3)] == [ids_of(1, 2)]


def test_ids_of_mail_have_room_of_their_own_and_one_too_many_is_counted() -> None:
    node = Node(links=3)
    for first in range(1, UNANNOUNCED_LIMIT + 2):
        node.lazy.announce(copy(ORIGIN, first).rumor, (), 0.0, is_mailed=True)
    assert node.lazy.announcements_dropped == 1
    node.learn(5000)
    assert node.lazy.announcements_dropped == 1


def test_nobody_is_told_of_what_it_said_or_told_us() -> None:
    node = Node()
    rumor = node.learn(1)
    node.lazy.on_duplicate(rumor, peer_id(1))
    node.hear(2, ids_of(1))
    assert set(told(node.lazy.advance(IHAVE_BATCH_DELAY_S))) == {peer_id(3), peer_id(4)}
    own = copy(1, 1).rumor
    node.lazy.announce(own, [peer_id(2)], 1.0)
    assert set(told(node.lazy.advance(2.0))) == {peer_id(3), peer_id(4)}


def test_who_told_us_before_the_rumor_came_is_not_told_back() -> None:
    node = Node()
    node.hear(3, ids_of(1))
    node.learn(1, 1)
    assert set(told(node.lazy.advance(IHAVE_BATCH_DELAY_S))) == {peer_id(2), peer_id(4)}
    assert node.lazy.advance(10.0) == []


def test_at_most_ten_datagrams_of_ids_a_second_go_to_one_peer() -> None:
    node = Node()
    sent, at = 0, 0.0
    for sequence in range(1, 1001):  # a rumor a millisecond
        at = sequence / 1000
        node.learn(sequence, at=at)
        if node.lazy.deadline <= at:
            sent += len(node.lazy.advance(at))
    assert (
        8 <= sent <= 1 / IHAVE_INTERVAL_S + 20
    )  # 100 ids at a time take two datagrams, and twice the gap
    assert node.lazy.announcements_dropped == 0


def test_one_id_beyond_those_that_may_wait_lets_go_of_the_oldest() -> None:
    node = Node()
    for sequence in range(1, UNANNOUNCED_LIMIT + 2):
        node.learn(sequence)
    assert node.lazy.announcements_dropped == 1
    ranges = told(node.lazy.advance(IHAVE_BATCH_DELAY_S))[peer_id(1)]
    assert ranges == [ids_of(sequence) for sequence in range(2, UNANNOUNCED_LIMIT + 2)]


# --- asking -------------------------------------------------------------------------------------


def test_whoever_lacks_an_id_asks_the_first_teller_after_two_round_trips() -> None:
    node = Node()
    node.hear(2, ids_of(1))
    node.hear(1, ids_of(1), at=0.01)
    assert node.lazy.advance(0.09) == []
    assert asked(node.lazy.advance(0.1)) == [(peer_id(2), (ids_of(1),))]


def test_along_a_tree_a_near_teller_is_given_as_long_as_links_usually_take() -> None:
    node = Node()
    for peer, rtt_s in zip(node.peers, (0.01, 0.05, 0.06, 0.08), strict=True):
        peer.rtt_s = rtt_s
    node.lazy.set_strategy(Wordless(node.place.config, node.place.around))
    node.hear(1, ids_of(1))
    assert node.lazy.advance(0.24) == []
    assert asked(node.lazy.advance(0.2501)) == [(peer_id(1), (ids_of(1),))]


def test_where_the_tree_is_torn_no_push_is_waited_for() -> None:
    node = Node()
    tree = Wordless(node.place.config, node.place.around)
    node.lazy.set_strategy(tree)
    tree.handle(Graft(None), peer_id(4), 0.0)
    node.unlink(4)
    tree.on_link_down(peer_id(4), 0.0)
    node.hear(1, ids_of(1))
    assert asked(node.lazy.advance(0.0)) == [(peer_id(1), (ids_of(1),))]


def test_a_new_peer_is_told_what_no_digest_shows_yet() -> None:
    node = Node()
    for origin, first, at in ((ORIGIN, 1, 0.0), (ORIGIN, 2, 1.5), (91, 1, 2.9)):
        node.store.insert(copy(origin, first), peer_id(1), False, at)
    newcomer = peer_id(7)
    lately = sorted((ids_of(2), ids_of(1, origin=91)), key=lambda each: each.stream)
    assert told(node.lazy.announce_recent(newcomer, 3.0)) == {newcomer: lately}
    assert told(node.lazy.announce_recent(peer_id(91), 3.0)) == {peer_id(91): [ids_of(2)]}
    assert node.lazy.announce_recent(newcomer, 5.0) == []
    assert Node(is_on=False).lazy.announce_recent(newcomer, 3.0) == []


def test_a_new_peer_is_told_of_so_many_of_the_latest_and_no_more() -> None:
    node = Node()
    for first in range(1, RANGES_PER_MESSAGE_LIMIT + 2):
        node.store.insert(copy(ORIGIN, first), peer_id(1), False, 0.0)
    newcomer = peer_id(7)
    assert told(node.lazy.announce_recent(newcomer, 0.1)) == {
        newcomer: [ids_of(first) for first in range(2, RANGES_PER_MESSAGE_LIMIT + 2)]
    }


def test_what_came_meanwhile_is_not_asked_for() -> None:
    node = Node()
    node.hear(2, ids_of(1), ids_of(2, 5))
    node.store.insert(copy(ORIGIN, 1), peer_id(1), False, 0.05)
    node.store.insert(copy(ORIGIN, 3), peer_id(1), False, 0.05)
    assert asked(node.lazy.advance(0.1)) == [(peer_id(2), (ids_of(2), ids_of(4, 5)))]
    node.hear(3, ids_of(3), at=0.1)
    assert node.lazy.advance(50.0) == [], "once each"


def test_each_teller_is_asked_once_in_the_order_of_telling() -> None:
    node = Node()
    for teller in (3, 1, 3, 2, 1):
        node.hear(teller, ids_of(1))
    order, at = [], 0.0
    while node.lazy.deadline < 100.0:
        at = node.lazy.deadline
        order += [peer for peer, _ in asked(node.lazy.advance(at))]
    assert order == [peer_id(3), peer_id(1), peer_id(2)]
    assert node.lazy._missing == {}
    assert not node.lazy._missing_per_source
    node.hear(4, ids_of(1), at=at)
    assert asked(node.lazy.advance(at + 1.0)), "somebody else may still have it"


def test_a_teller_that_cannot_serve_costs_less_than_a_second_at_any_round_trip() -> None:
    for rtt_s in (0.0, 0.001, 0.05, 0.3, 5.0):
        node = Node()
        for peer in node.peers:
            peer.rtt_s = rtt_s
        node.hear(1, ids_of(1))
        node.hear(2, ids_of(1))
        asked_at: list[float] = []
        while len(asked_at) < 2:
            at = node.lazy.deadline
            asked_at += [at for _ in asked(node.lazy.advance(at))]
        assert asked_at[1] <= 1.0, rtt_s


def test_whoever_is_no_longer_linked_is_passed_over() -> None:
    node = Node()
    node.hear(1, ids_of(1))
    node.hear(2, ids_of(1))
    node.unlink(1)
    assert asked(node.lazy.advance(0.2)) == [(peer_id(2), (ids_of(1),))]


def test_questions_to_one_teller_go_together() -> None:
    node = Node()
    node.hear(1, *(ids_of(2 * number) for number in range(1, 21)))
    [(first, some), (second, rest)] = asked(node.lazy.advance(0.2))
    assert first == second == peer_id(1)
    assert (len(some), len(rest)) == (16, 4)
    assert node.lazy.requests_sent == 20


def test_what_is_offered_is_asked_for_at_once_and_of_the_next_when_that_fails() -> None:
    node = Node()
    assert asked(node.lazy.handle(Offer((ids_of(1),)), peer_id(2), 0.0)) == [
        (peer_id(2), (ids_of(1),))
    ]
    assert node.lazy.handle(Offer((ids_of(1),)), peer_id(3), 0.01) == []
    assert asked(node.lazy.advance(node.lazy.deadline)) == [(peer_id(3), (ids_of(1),))]
    assert node.grafts == [(peer_id(2), peer_id(ORIGIN)), (peer_id(3), peer_id(ORIGIN))]


def test_an_offer_of_what_was_only_told_of_hurries_the_question() -> None:
    node = Node()
    node.hear(1, ids_of(1))
    assert asked(node.lazy.handle(Offer((ids_of(1),)), peer_id(2), 0.001)) == [
        (peer_id(1), (ids_of(1),))
    ]


def test_who_was_asked_has_a_moment_to_answer_before_one_who_offers_is_asked_too() -> None:
    node = Node()
    node.hear(1, ids_of(1))
    assert asked(node.lazy.advance(0.1)) == [(peer_id(1), (ids_of(1),))]
    assert node.lazy.handle(Offer((ids_of(1),)), peer_id(2), 0.11) == []
    assert node.lazy.advance(0.19) == []
    assert asked(node.lazy.advance(0.2)) == [(peer_id(2), (ids_of(1),))]


def test_an_offer_is_heeded_with_lazy_repair_switched_off() -> None:
    node = Node(is_on=False)
    assert asked(node.lazy.handle(Offer((ids_of(1),)), peer_id(2), 0.0))
    rumor = node.learn(1)
    [send] = node.lazy.offer(rumor, [peer_id(2)])
    assert isinstance(send, Send)
    assert set(send.peers) == {peer_id(1), peer_id(3), peer_id(4)}


def test_what_foretold_a_rumor_is_known_when_it_comes() -> None:
    node = Node()
    node.hear(2, ids_of(1), at=1.0)
    node.hear(3, ids_of(1), at=1.01)
    foretold = node.lazy.on_rumor(copy(ORIGIN, 1).rumor, 1.03)
    assert foretold.first_source == peer_id(2)
    assert round(foretold.lead_s, 6) == 0.03
    assert set(foretold.sources) == {peer_id(2), peer_id(3)}
    assert not foretold.is_offered


def test_ids_mark_nothing_as_seen() -> None:
    node = Node()
    node.hear(1, ids_of(1, 2**53))
    for at in (1.0, 2.0, 3.0):
        node.lazy.advance(at)
    assert node.store.streams == 0
    node.learn(1)
    assert not node.store.has_gaps


def test_one_id_beyond_what_a_teller_may_open_is_unheeded_and_others_are_not() -> None:
    node = Node()
    for first in range(1, MISSING_PER_SOURCE_LIMIT + 2):
        node.hear(1, ids_of(first))
    assert node.lazy.announcements_dropped == 1
    node.hear(2, ids_of(10**6), ids_of(1))
    assert node.lazy.announcements_dropped == 1
    assert len(node.lazy._missing) == MISSING_PER_SOURCE_LIMIT + 1
    for at in (1.0, 2.0, 3.0):
        node.lazy.advance(at)
    assert node.lazy._missing == {}, "what nobody serves is let go"


def test_one_id_beyond_the_table_is_unheeded() -> None:
    tellers = MISSING_LIMIT // MISSING_PER_SOURCE_LIMIT
    node = Node(links=tellers + 1)
    for teller in range(1, tellers + 1):
        node.hear(
            teller, *(ids_of(n, origin=teller) for n in range(1, MISSING_PER_SOURCE_LIMIT + 1))
        )
    assert (len(node.lazy._missing), node.lazy.announcements_dropped) == (MISSING_LIMIT, 0)
    node.hear(tellers + 1, ids_of(1))
    assert (len(node.lazy._missing), node.lazy.announcements_dropped) == (MISSING_LIMIT, 1)


def test_of_one_id_no_more_tellers_are_remembered_than_will_be_asked() -> None:
    node = Node(links=SOURCES_PER_RUMOR_LIMIT + 1)
    for teller in range(1, SOURCES_PER_RUMOR_LIMIT + 2):
        node.hear(teller, ids_of(1))
    [wanted] = node.lazy._missing.values()
    assert len(wanted.pending_sources) == len(wanted.announced_by) == SOURCES_PER_RUMOR_LIMIT


def test_what_arrives_frees_its_place() -> None:
    node = Node()
    for sequence in range(1, 3 * MISSING_PER_SOURCE_LIMIT):
        node.hear(1, ids_of(sequence))
        node.learn(sequence)
    assert node.lazy._missing == {}
    assert not node.lazy._missing_per_source
    assert len(node.lazy._timer_heap) < 4 * MISSING_PER_SOURCE_LIMIT


def test_switched_off_it_neither_tells_nor_asks() -> None:
    node = Node(is_on=False)
    node.learn(1)
    node.hear(1, ids_of(2))
    assert node.lazy.deadline == float("inf")
    on = Node()
    on.learn(1)
    on.hear(1, ids_of(2))
    on.lazy.reconfigure(config(lazy_push=False))
    assert on.lazy.deadline == float("inf")
    assert on.lazy.advance(10.0) == []


def test_the_longest_waits_leave_room_for_a_teller_that_lies() -> None:
    assert lazy_module.IWANT_DELAY_BOUNDS_S[1] + lazy_module.IWANT_TIMEOUT_BOUNDS_S[1] < 1.0


def test_a_copy_that_fits_all_is_what_a_rumor_says_of_itself() -> None:
    made: RumorCopy = copy(ORIGIN, 7)
    assert made.rumor.ids == ids_of(7)


# --- the same told in other pieces --------------------------------------------------------------


def test_what_one_is_asked_for_nobody_else_is_who_told_of_it_among_others() -> None:
    node = Node()
    node.hear(1, ids_of(1, 9))
    node.hear(2, ids_of(3, 7))
    node.hear(3, ids_of(8, 12))
    questions = asked(node.lazy.advance(0.2))
    assert questions == [(peer_id(1), (ids_of(1, 9),)), (peer_id(3), (ids_of(10, 12),))]
    questions = asked(node.lazy.advance(1.0))
    assert questions == [(peer_id(2), (ids_of(3, 7),))], "no answer came: the next"


def test_lies_about_more_and_more_keep_an_honest_teller_waiting_for_two_answers_at_most() -> None:
    node = Node()
    node.hear(1, *(ids_of(1, last) for last in range(40, 20, -1)))
    node.hear(2, ids_of(5, 6))
    now = 0.0
    while not any(peer == peer_id(2) for peer, _ in asked(node.lazy.advance(now))):
        now = max(now + 0.01, node.lazy.deadline)
        assert now < 0.2 + 3 * lazy_module.IWANT_TIMEOUT_BOUNDS_S[1]


# --- what one message costs ---------------------------------------------------------------------


def test_ranges_of_one_message_that_overlap_count_once() -> None:
    node = Node()
    effects = node.lazy.handle(Offer(tuple(ids_of(1, 600 + n) for n in range(64))), peer_id(1), 0.0)
    assert asked(effects) == [(peer_id(1), (ids_of(1, 600),))]
    assert len(node.lazy._missing) == 1


def test_a_range_wider_than_any_rumor_is_cut() -> None:
    node = Node()
    effects = node.lazy.handle(Offer((ids_of(1, 2**50),)), peer_id(1), 0.0)
    assert asked(effects) == [(peer_id(1), (ids_of(1, lazy_module.PAYLOADS_PER_RANGE_LIMIT),))]


def test_of_a_stream_full_of_gaps_an_offer_asks_for_a_few() -> None:
    node = Node()
    for sequence in range(2, 2 * 256 + 1, 2):
        node.store.insert(copy(ORIGIN, sequence), peer_id(ORIGIN), True, 0.0)
    offers = Offer(tuple(ids_of(8 * n + 1, 8 * n + 8) for n in range(64)))
    effects = node.lazy.handle(offers, peer_id(1), 0.0)
    ranges = [each for _, wanted in asked(effects) for each in wanted]
    assert len(ranges) <= lazy_module.GAPS_PER_SOURCE_LIMIT + 64


def test_entries_of_what_came_do_not_pile_up_in_the_schedule() -> None:
    node = Node()
    for first in range(1, 2 * lazy_module.IWANT_STALE_TIMERS_ALLOWED):
        node.hear(1, ids_of(first))
        node.learn(first)
    node.hear(1, ids_of(10_000))
    assert len(node.lazy._timer_heap) <= lazy_module.IWANT_STALE_TIMERS_ALLOWED + 2
