"""Lazy push: which IDs are announced and requested, and what false announcements can cause."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from grapevine_proto.ids import PeerId, Stream, StreamRange
from grapevine_proto.overlay.broadcast import ihave as ihave
from grapevine_proto.overlay.broadcast.ihave import (
    LazyPush,
)
from grapevine_proto.overlay.broadcast.near_peers import NEAR_PEERS_LIMIT
from grapevine_proto.overlay.broadcast.plumtree import Plumtree
from grapevine_proto.overlay.broadcast.strategy import NewRumor, PushPlan, Strategy
from grapevine_proto.overlay.effects import Effect, Send
from grapevine_proto.overlay.peers import PeerTable
from grapevine_proto.overlay.store.message_store import MessageStore
from grapevine_proto.overlay.store.ranges import RANGES_PER_MESSAGE_LIMIT, RANGES_PER_REQUEST
from grapevine_proto.wire.messages import LAZY_REQUEST_ROUND, Graft, IHave, IWant, Offer, RumorCopy
from grapevine_proto.wire.signed import Rumor
from tests.proto.overlay.builders import EPOCH, NodeTables, copy, peer_id

ORIGIN = 90


class RecordingStrategy(Strategy):
    """Pushes nothing, and records from which peers rumors of which origins are requested."""

    def __init__(self, grafts: list[tuple[PeerId, PeerId]]) -> None:
        self._grafts = grafts

    def on_new_rumor(self, rumor: NewRumor, now: float) -> PushPlan:
        return PushPlan(())

    def on_request_sent(self, source: PeerId, origin: PeerId, now: float) -> list[Effect]:
        self._grafts.append((source, origin))
        return []


@dataclass
class Node:
    """Lazy push on a node with a few links with an RTT of 50 ms."""

    links: int = 4
    is_enabled: bool = True
    tables: NodeTables = field(init=False)
    store: MessageStore = field(init=False)
    lazy_push: LazyPush = field(init=False)
    grafts: list[tuple[PeerId, PeerId]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tables = NodeTables(*range(1, self.links + 1), lazy_push=self.is_enabled)
        self.store = MessageStore(self.tables.context, (), 0.0)
        self.lazy_push = LazyPush(
            self.tables.context,
            self.tables.near_peers,
            self.store,
            RecordingStrategy(self.grafts),
        )
        for peer in self.peers:
            peer.update_rtt(0.05)

    @property
    def peers(self) -> PeerTable:
        return self.tables.peers

    def unlink(self, number: int) -> None:
        self.tables.unlink(number)

    def receive_rumor(self, first: int, *pushed_to: int, at: float = 0.0) -> Rumor:
        """Receive a rumor and push it on to `pushed_to`."""
        made = copy(ORIGIN, first)
        self.store.insert(made, peer_id(ORIGIN), False, at)
        announcement = self.lazy_push.on_rumor(made.rumor, at)
        self.lazy_push.announce(made.rumor, [*map(peer_id, pushed_to), *announcement.sources], at)
        return made.rumor

    def receive_ids(self, source: int, *ids: StreamRange, at: float = 0.0) -> None:
        assert self.lazy_push.handle(IHave(ids), peer_id(source), at) == []


def ids_of(first: int, last: int | None = None, origin: int = ORIGIN) -> StreamRange:
    return StreamRange(Stream(peer_id(origin), EPOCH), first, last or first)


def announced_in(effects: list[Effect]) -> dict[PeerId, list[StreamRange]]:
    found: dict[PeerId, list[StreamRange]] = {}
    for effect in effects:
        assert isinstance(effect, Send)
        assert isinstance(effect.message, IHave)
        for peer in effect.peers:
            found.setdefault(peer, []).extend(effect.message.ranges)
    return found


def requested_in(effects: list[Effect]) -> list[tuple[PeerId, tuple[StreamRange, ...]]]:
    found = []
    for effect in effects:
        assert isinstance(effect, Send)
        if isinstance(effect.message, Graft):
            continue  # with a request a tree subscribes to its source
        assert isinstance(effect.message, IWant)
        assert effect.message.round == LAZY_REQUEST_ROUND
        [peer] = effect.peers
        found.append((peer, effect.message.ranges))
    return found


# --- announcements ------------------------------------------------------------------------------


def test_links_without_a_push_get_batched_ids_after_a_delay() -> None:
    node = Node()
    node.receive_rumor(1, 1)
    node.receive_rumor(2, 2)
    assert node.lazy_push.deadline == 0.005
    assert announced_in(node.lazy_push.advance(0.005)) == {
        peer_id(1): [ids_of(2)],
        peer_id(2): [ids_of(1)],
        peer_id(3): [ids_of(1), ids_of(2)],
        peer_id(4): [ids_of(1), ids_of(2)],
    }
    assert node.lazy_push.advance(100.0) == []


def test_peers_that_get_the_same_ids_share_one_message() -> None:
    node = Node(links=8)
    node.receive_rumor(1, 1, 2, 3)
    [send] = node.lazy_push.advance(0.005)
    assert isinstance(send, Send)
    assert len(send.peers) == 5


def test_with_many_links_only_near_peers_get_ids() -> None:
    node = Node(links=50)
    node.receive_rumor(1)
    [send] = node.lazy_push.advance(0.005)
    assert isinstance(send, Send)
    assert set(send.peers) == set(node.tables.near_peers.near)
    assert len(send.peers) <= NEAR_PEERS_LIMIT


def test_mailed_rumors_are_announced_only_to_ring_successors() -> None:
    node = Node(links=50)
    made = copy(ORIGIN, 1)
    node.lazy_push.announce(made.rumor, (), 0.0, is_mailed=True)
    assert node.lazy_push.advance(0.005) == []
    assert node.lazy_push.deadline == 3.0
    assert set(announced_in(node.lazy_push.advance(3.0))) == set(
        node.tables.near_peers.ring_successors
    )


def test_mailed_rumors_are_announced_in_ranges_and_not_to_holders() -> None:
    node = Node(links=3)
    for first in (2, 1, 4):
        node.lazy_push.announce(copy(ORIGIN, first).rumor, (), 0.0, is_mailed=True)
    node.lazy_push.on_duplicate(copy(ORIGIN, 4).rumor, peer_id(3))
    ids = announced_in(node.lazy_push.advance(3.0))
    assert ids[peer_id(1)] == [ids_of(1, 2), ids_of(4)]
    assert ids[peer_id(3)] == [ids_of(1, 2)]


def test_mail_is_announced_soon_to_a_newcomer_that_its_origin_may_not_know() -> None:
    node = Node(links=3)
    newcomer = node.peers.get(peer_id(2))
    assert newcomer is not None
    newcomer.on_link_up(0.05, 100.0, is_self_chosen=False)
    node.lazy_push.announce(copy(ORIGIN, 1).rumor, (peer_id(1),), 101.0, is_mailed=True)
    assert announced_in(node.lazy_push.advance(101.01)) == {peer_id(2): [ids_of(1)]}
    assert set(announced_in(node.lazy_push.advance(104.0))) == {peer_id(3)}
    node.lazy_push.announce(copy(ORIGIN, 2).rumor, (peer_id(2),), 104.0, is_mailed=True)
    assert node.lazy_push.advance(104.01) == [], "the newcomer has it"
    node.lazy_push.advance(108.0)
    node.lazy_push.announce(copy(ORIGIN, 3).rumor, (), 111.0, is_mailed=True)
    assert node.lazy_push.advance(111.01) == [], "by now its record has spread"


def test_mail_that_a_peer_does_not_acknowledge_is_announced_to_it_by_others_at_once() -> None:
    origin, relay = Node(links=3), Node(links=3)
    made = copy(0, 1)
    origin.lazy_push.announce(made.rumor, tuple(map(peer_id, (1, 2, 3))), 0.0, is_mailed=True)
    effects = origin.lazy_push.on_mail_unanswered(peer_id(2))
    ids = made.rumor.ids
    assert announced_in(effects) == {peer_id(1): [ids], peer_id(3): [ids]}
    again = announced_in(origin.lazy_push.on_mail_unanswered(peer_id(3)))
    assert again == {peer_id(2): [ids]}, "each peer is told once, whoever else is silent"

    relay.store.insert(made, peer_id(0), True, 0.0)
    relay.lazy_push.announce(made.rumor, (peer_id(0),), 0.0, is_mailed=True)
    relay.lazy_push.handle(IHave((ids,)), peer_id(1), 0.5)
    assert relay.lazy_push.advance(0.6) == [], "that peer did not mail it"
    relay.lazy_push.handle(IHave((ids,)), peer_id(0), 0.6)
    assert peer_id(2) in announced_in(relay.lazy_push.advance(0.7))
    assert relay.lazy_push.advance(3.0) == [], "once"


def test_mail_that_a_new_peer_got_announced_is_not_announced_to_it_for_a_silent_one() -> None:
    origin, made = Node(links=3), copy(0, 1)
    origin.store.insert(made, peer_id(0), True, 0.0)
    origin.lazy_push.announce(made.rumor, tuple(map(peer_id, (1, 2, 3))), 0.0, is_mailed=True)
    newcomer = origin.tables.link(7)
    assert set(announced_in(origin.lazy_push.announce_recent(newcomer, 0.0))) == {newcomer}
    informed = announced_in(origin.lazy_push.on_mail_unanswered(peer_id(2)))
    assert set(informed) == {peer_id(1), peer_id(3)}


def test_a_silent_peer_causes_no_announcement_if_nothing_was_mailed() -> None:
    node = Node(links=3)
    node.lazy_push.announce(copy(ORIGIN, 1).rumor, (), 0.0, is_mailed=True)  # of another origin
    assert node.lazy_push.on_mail_unanswered(peer_id(2)) == []


def test_ids_of_mailed_rumors_have_their_own_limit_and_drops_are_counted() -> None:
    node = Node(links=3)
    for first in range(1, 1024 + 2):
        node.lazy_push.announce(copy(ORIGIN, first).rumor, (), 0.0, is_mailed=True)
    assert node.lazy_push.announcements_dropped == 1
    node.receive_rumor(5000)
    assert node.lazy_push.announcements_dropped == 1


def test_a_rumor_is_not_announced_to_peers_that_sent_or_announced_it() -> None:
    node = Node()
    rumor = node.receive_rumor(1)
    node.lazy_push.on_duplicate(rumor, peer_id(1))
    node.receive_ids(2, ids_of(1))
    assert set(announced_in(node.lazy_push.advance(0.005))) == {
        peer_id(3),
        peer_id(4),
    }
    own = copy(1, 1).rumor
    node.lazy_push.announce(own, [peer_id(2)], 1.0)
    assert set(announced_in(node.lazy_push.advance(2.0))) == {peer_id(3), peer_id(4)}


def test_a_rumor_is_not_announced_to_peers_that_announced_it_before_it_arrived() -> None:
    node = Node()
    node.receive_ids(3, ids_of(1))
    node.receive_rumor(1, 1)
    assert set(announced_in(node.lazy_push.advance(0.005))) == {
        peer_id(2),
        peer_id(4),
    }
    assert node.lazy_push.advance(10.0) == []


def test_one_peer_gets_at_most_ten_datagrams_of_ids_a_second() -> None:
    node = Node()
    sent, at = 0, 0.0
    for sequence in range(1, 1001):  # one rumor per millisecond
        at = sequence / 1000
        node.receive_rumor(sequence, at=at)
        if node.lazy_push.deadline <= at:
            sent += len(node.lazy_push.advance(at))
    assert 8 <= sent <= 1 / 0.1 + 20  # 100 IDs take two datagrams, and twice the interval
    assert node.lazy_push.announcements_dropped == 0


def test_beyond_the_limit_the_oldest_waiting_id_is_dropped() -> None:
    node = Node()
    for sequence in range(1, 1024 + 2):
        node.receive_rumor(sequence)
    assert node.lazy_push.announcements_dropped == 1
    ranges = announced_in(node.lazy_push.advance(0.005))[peer_id(1)]
    assert ranges == [ids_of(sequence) for sequence in range(2, 1024 + 2)]


# --- requests -----------------------------------------------------------------------------------


def test_a_missing_rumor_is_requested_from_the_first_source_after_two_round_trips() -> None:
    node = Node()
    node.receive_ids(2, ids_of(1))
    node.receive_ids(1, ids_of(1), at=0.01)
    assert node.lazy_push.advance(0.09) == []
    assert requested_in(node.lazy_push.advance(0.1)) == [(peer_id(2), (ids_of(1),))]


@pytest.mark.parametrize(("rtt_s", "delay_s"), [(0.001, 0.020), (0.010, 0.020), (0.3, 0.400)])
def test_a_request_waits_for_twenty_to_four_hundred_milliseconds_at_any_rtt(
    rtt_s: float, delay_s: float
) -> None:
    node = Node()
    for peer in node.peers:
        peer.rtt_s = rtt_s
    node.receive_ids(1, ids_of(1))
    assert node.lazy_push.deadline == pytest.approx(delay_s)


def test_along_a_tree_the_request_delay_uses_the_average_rtt() -> None:
    node = Node()
    for peer, rtt_s in zip(node.peers, (0.01, 0.05, 0.06, 0.08), strict=True):
        peer.rtt_s = rtt_s
    node.lazy_push.set_strategy(Plumtree(node.tables.context, node.tables.near_peers))
    node.receive_ids(1, ids_of(1))
    assert node.lazy_push.advance(0.24) == []
    assert requested_in(node.lazy_push.advance(0.2501)) == [(peer_id(1), (ids_of(1),))]


def test_with_a_broken_tree_a_rumor_is_requested_at_once() -> None:
    node = Node()
    tree = Plumtree(node.tables.context, node.tables.near_peers)
    node.lazy_push.set_strategy(tree)
    tree.handle(Graft(None), peer_id(4), 0.0)
    node.unlink(4)
    tree.on_link_down(peer_id(4), 0.0)
    node.receive_ids(1, ids_of(1))
    assert requested_in(node.lazy_push.advance(0.0)) == [(peer_id(1), (ids_of(1),))]


def test_a_new_peer_gets_ids_that_no_digest_covers_yet() -> None:
    node = Node()
    for origin, first, at in ((ORIGIN, 1, 0.0), (ORIGIN, 2, 1.5), (91, 1, 2.9)):
        node.store.insert(copy(origin, first), peer_id(1), False, at)
    newcomer = peer_id(7)
    recent = sorted((ids_of(2), ids_of(1, origin=91)), key=lambda each: each.stream)
    assert announced_in(node.lazy_push.announce_recent(newcomer, 3.0)) == {newcomer: recent}
    assert announced_in(node.lazy_push.announce_recent(peer_id(91), 3.0)) == {
        peer_id(91): [ids_of(2)]
    }
    assert node.lazy_push.announce_recent(newcomer, 5.0) == []
    assert Node(is_enabled=False).lazy_push.announce_recent(newcomer, 3.0) == []


def test_a_new_peer_gets_a_limited_number_of_the_latest_ids() -> None:
    node = Node()
    for first in range(1, RANGES_PER_MESSAGE_LIMIT + 2):
        node.store.insert(copy(ORIGIN, first), peer_id(1), False, 0.0)
    newcomer = peer_id(7)
    assert announced_in(node.lazy_push.announce_recent(newcomer, 0.1)) == {
        newcomer: [ids_of(first) for first in range(2, RANGES_PER_MESSAGE_LIMIT + 2)]
    }


def test_a_rumor_that_arrived_meanwhile_is_not_requested() -> None:
    node = Node()
    node.receive_ids(2, ids_of(1), ids_of(2, 5))
    node.store.insert(copy(ORIGIN, 1), peer_id(1), False, 0.05)
    node.store.insert(copy(ORIGIN, 3), peer_id(1), False, 0.05)
    assert requested_in(node.lazy_push.advance(0.1)) == [(peer_id(2), (ids_of(2), ids_of(4, 5)))]
    node.receive_ids(3, ids_of(3), at=0.1)
    assert node.lazy_push.advance(50.0) == [], "each source once"


def test_each_source_is_asked_once_in_order_of_announcement() -> None:
    node = Node()
    for source in (3, 1, 3, 2, 1):
        node.receive_ids(source, ids_of(1))
    order, at = [], 0.0
    while node.lazy_push.deadline < 100.0:
        at = node.lazy_push.deadline
        order += [peer for peer, _ in requested_in(node.lazy_push.advance(at))]
    assert order == [peer_id(3), peer_id(1), peer_id(2)]
    assert node.lazy_push._missing == {}
    assert not node.lazy_push._missing_per_source
    node.receive_ids(4, ids_of(1), at=at)
    assert requested_in(node.lazy_push.advance(at + 1.0)), "another source may still have it"


def test_a_source_that_cannot_serve_costs_less_than_a_second_at_any_rtt() -> None:
    for rtt_s in (0.0, 0.001, 0.05, 0.3, 5.0):
        node = Node()
        for peer in node.peers:
            peer.rtt_s = rtt_s
        node.receive_ids(1, ids_of(1))
        node.receive_ids(2, ids_of(1))
        requested_at: list[float] = []
        while len(requested_at) < 2:
            at = node.lazy_push.deadline
            requested_at += [at for _ in requested_in(node.lazy_push.advance(at))]
        assert requested_at[1] <= 1.0, rtt_s


def test_a_source_without_a_link_is_skipped() -> None:
    node = Node()
    node.receive_ids(1, ids_of(1))
    node.receive_ids(2, ids_of(1))
    node.unlink(1)
    assert requested_in(node.lazy_push.advance(0.2)) == [(peer_id(2), (ids_of(1),))]


def test_requests_to_one_source_are_batched() -> None:
    node = Node()
    node.receive_ids(1, *(ids_of(2 * number) for number in range(1, 21)))
    [(first, some), (second, rest)] = requested_in(node.lazy_push.advance(0.2))
    assert first == second == peer_id(1)
    assert (len(some), len(rest)) == (16, 4)
    assert node.lazy_push.requests_sent == 20


def test_an_offered_rumor_is_requested_at_once_then_from_the_next_source() -> None:
    node = Node()
    assert requested_in(node.lazy_push.handle(Offer((ids_of(1),)), peer_id(2), 0.0)) == [
        (peer_id(2), (ids_of(1),))
    ]
    assert node.lazy_push.handle(Offer((ids_of(1),)), peer_id(3), 0.01) == []
    assert requested_in(node.lazy_push.advance(node.lazy_push.deadline)) == [
        (peer_id(3), (ids_of(1),))
    ]
    assert node.grafts == [(peer_id(2), peer_id(ORIGIN)), (peer_id(3), peer_id(ORIGIN))]


def test_an_offer_of_an_announced_rumor_expedites_the_request() -> None:
    node = Node()
    node.receive_ids(1, ids_of(1))
    assert requested_in(node.lazy_push.handle(Offer((ids_of(1),)), peer_id(2), 0.001)) == [
        (peer_id(1), (ids_of(1),))
    ]


def test_a_source_already_asked_has_time_to_answer_before_an_offering_one_is_asked() -> None:
    node = Node()
    node.receive_ids(1, ids_of(1))
    assert requested_in(node.lazy_push.advance(0.1)) == [(peer_id(1), (ids_of(1),))]
    assert node.lazy_push.handle(Offer((ids_of(1),)), peer_id(2), 0.11) == []
    assert node.lazy_push.advance(0.19) == []
    assert requested_in(node.lazy_push.advance(0.2)) == [(peer_id(2), (ids_of(1),))]


def test_an_offer_is_accepted_with_lazy_push_disabled() -> None:
    node = Node(is_enabled=False)
    assert requested_in(node.lazy_push.handle(Offer((ids_of(1),)), peer_id(2), 0.0))
    rumor = node.receive_rumor(1)
    [send] = node.lazy_push.offer(rumor, [peer_id(2)])
    assert isinstance(send, Send)
    assert set(send.peers) == {peer_id(1), peer_id(3), peer_id(4)}


def test_an_arriving_rumor_reports_its_earlier_announcements() -> None:
    node = Node()
    node.receive_ids(2, ids_of(1), at=1.0)
    node.receive_ids(3, ids_of(1), at=1.01)
    announcement = node.lazy_push.on_rumor(copy(ORIGIN, 1).rumor, 1.03)
    assert announcement.first_source == peer_id(2)
    assert round(announcement.lead_s, 6) == 0.03
    assert set(announcement.sources) == {peer_id(2), peer_id(3)}
    assert not announcement.is_offered


def test_a_rumor_that_nobody_announced_has_no_earlier_announcement() -> None:
    announcement = Node().lazy_push.on_rumor(copy(ORIGIN, 1).rumor, 1.0)
    assert announcement == (None, 0.0, (), False)


def test_announcements_mark_nothing_as_seen() -> None:
    node = Node()
    node.receive_ids(1, ids_of(1, 2**53))
    for at in (1.0, 2.0, 3.0):
        node.lazy_push.advance(at)
    assert node.store.streams == 0
    node.receive_rumor(1)
    assert not node.store.has_gaps


def test_an_id_beyond_the_limit_of_its_source_is_dropped_and_others_are_not() -> None:
    node = Node()
    for first in range(1, 512 + 2):
        node.receive_ids(1, ids_of(first))
    assert node.lazy_push.announcements_dropped == 1
    node.receive_ids(2, ids_of(10**6), ids_of(1))
    assert node.lazy_push.announcements_dropped == 1
    assert len(node.lazy_push._missing) == 512 + 1
    for at in (1.0, 2.0, 3.0):
        node.lazy_push.advance(at)
    assert node.lazy_push._missing == {}, "a rumor that no source serves is given up"


def test_an_id_beyond_the_total_limit_is_dropped() -> None:
    sources = 4096 // 512
    node = Node(links=sources + 1)
    for source in range(1, sources + 1):
        node.receive_ids(source, *(ids_of(n, origin=source) for n in range(1, 512 + 1)))
    assert (len(node.lazy_push._missing), node.lazy_push.announcements_dropped) == (
        4096,
        0,
    )
    node.receive_ids(sources + 1, ids_of(1))
    assert (len(node.lazy_push._missing), node.lazy_push.announcements_dropped) == (
        4096,
        1,
    )


def test_sources_of_one_rumor_are_tracked_up_to_the_limit() -> None:
    node = Node(links=8 + 1)
    for source in range(1, 8 + 2):
        node.receive_ids(source, ids_of(1))
    [ranges_] = node.lazy_push._missing.values()
    assert len(ranges_.pending_sources) == len(ranges_.announced_by) == 8


def test_an_arriving_rumor_frees_its_entry() -> None:
    node = Node()
    for sequence in range(1, 3 * 512):
        node.receive_ids(1, ids_of(sequence))
        node.receive_rumor(sequence)
    assert node.lazy_push._missing == {}
    assert not node.lazy_push._missing_per_source
    assert len(node.lazy_push._timer_heap) < 4 * 512


def test_disabled_lazy_push_neither_announces_nor_requests() -> None:
    node = Node(is_enabled=False)
    node.receive_rumor(1)
    node.receive_ids(1, ids_of(2))
    assert node.lazy_push.deadline == float("inf")
    enabled_node = Node()
    enabled_node.receive_rumor(1)
    enabled_node.receive_ids(1, ids_of(2))
    enabled_node.tables.reconfigure(lazy_push=False)
    enabled_node.lazy_push.reconfigure()
    assert enabled_node.lazy_push.deadline == float("inf")
    assert enabled_node.lazy_push.advance(10.0) == []


def test_the_maximum_delays_stay_below_a_second() -> None:
    assert ihave.IWANT_DELAY_BOUNDS.max_s + ihave.IWANT_TIMEOUT_BOUNDS.max_s < 1.0


def test_the_ids_of_a_rumor_are_its_range() -> None:
    made: RumorCopy = copy(ORIGIN, 7)
    assert made.rumor.ids == ids_of(7)


# --- overlapping announcements ------------------------------------------------------------------


def test_a_range_requested_from_one_source_is_not_requested_from_another() -> None:
    node = Node()
    node.receive_ids(1, ids_of(1, 9))
    node.receive_ids(2, ids_of(3, 7))
    node.receive_ids(3, ids_of(8, 12))
    requests = requested_in(node.lazy_push.advance(0.2))
    assert requests == [(peer_id(1), (ids_of(1, 9),)), (peer_id(3), (ids_of(10, 12),))]
    requests = requested_in(node.lazy_push.advance(1.0))
    assert requests == [(peer_id(2), (ids_of(3, 7),))], "without an answer the next source is tried"


def test_nested_false_announcements_delay_an_honest_source_by_two_answers_at_most() -> None:
    node = Node()
    node.receive_ids(1, *(ids_of(1, last) for last in range(40, 20, -1)))
    node.receive_ids(2, ids_of(5, 6))
    now = 0.0
    while not any(peer == peer_id(2) for peer, _ in requested_in(node.lazy_push.advance(now))):
        now = max(now + 0.01, node.lazy_push.deadline)
        assert now < 0.2 + 3 * ihave.IWANT_TIMEOUT_BOUNDS.max_s


# --- cost of one message ------------------------------------------------------------------------


def test_overlapping_ranges_of_one_message_count_once() -> None:
    node = Node()
    effects = node.lazy_push.handle(
        Offer(tuple(ids_of(1, 600 + n) for n in range(64))), peer_id(1), 0.0
    )
    assert requested_in(effects) == [(peer_id(1), (ids_of(1, 600),))]
    assert len(node.lazy_push._missing) == 1


def test_a_range_wider_than_any_rumor_is_truncated() -> None:
    node = Node()
    effects = node.lazy_push.handle(Offer((ids_of(1, 2**50),)), peer_id(1), 0.0)
    assert requested_in(effects) == [(peer_id(1), (ids_of(1, ihave.PAYLOADS_PER_RANGE_LIMIT),))]


def test_an_offer_requests_few_gaps_of_a_fragmented_stream() -> None:
    node = Node()
    for sequence in range(2, 2 * 256 + 1, 2):
        node.store.insert(copy(ORIGIN, sequence), peer_id(ORIGIN), True, 0.0)
    offers = Offer(tuple(ids_of(8 * n + 1, 8 * n + 8) for n in range(64)))
    effects = node.lazy_push.handle(offers, peer_id(1), 0.0)
    ranges = [each for _, ranges_ in requested_in(effects) for each in ranges_]
    assert len(ranges) <= ihave.GAPS_PER_SOURCE_LIMIT + 64


def test_outdated_timers_do_not_accumulate() -> None:
    node = Node()
    for first in range(1, 2 * ihave.IWANT_STALE_TIMERS_ALLOWED):
        node.receive_ids(1, ids_of(first))
        node.receive_rumor(first)
    node.receive_ids(1, ids_of(10_000))
    assert len(node.lazy_push._timer_heap) <= ihave.IWANT_STALE_TIMERS_ALLOWED + 2


def test_overlapping_ranges_are_dropped_in_each_stream_and_others_stay() -> None:
    node = Node()
    first, second = sorted((ORIGIN, ORIGIN + 1), key=peer_id)
    ranges = [(1, 5), (2, 3), (5, 9), (10, 12), (11, 13), (20, 21)]
    offer = Offer(
        tuple(ids_of(*each, origin=origin) for origin in (second, first) for each in ranges)
    )
    [(_, requested)] = requested_in(node.lazy_push.handle(offer, peer_id(1), 0.0))
    assert list(requested) == [
        ids_of(*each, origin=origin)
        for origin in (first, second)
        for each in ((1, 5), (10, 12), (20, 21))
    ]


def test_beyond_a_number_of_gaps_one_gap_of_each_rumor_is_requested() -> None:
    node = Node()
    width = 2 * RANGES_PER_REQUEST
    rumors = ihave.GAPS_PER_SOURCE_LIMIT // RANGES_PER_REQUEST + 2
    for sequence in range(2, rumors * width + 1, 2):
        node.store.insert(copy(ORIGIN, sequence), peer_id(ORIGIN), True, 0.0)
    offer = Offer(tuple(ids_of(n * width + 1, (n + 1) * width) for n in range(rumors)))
    effects = node.lazy_push.handle(offer, peer_id(1), 0.0)
    requested = [each for _, ranges in requested_in(effects) for each in ranges]
    gaps = [ids_of(sequence) for sequence in range(1, rumors * width, 2)]
    assert requested == [*gaps[: -2 * RANGES_PER_REQUEST], *gaps[-2 * RANGES_PER_REQUEST :: 16]]


def test_outdated_timers_are_removed_beyond_a_limit_and_the_others_stay() -> None:
    node = Node()
    node.lazy_push._stale_timers_allowed = 4
    node.receive_ids(1, *map(ids_of, (1001, 1003, 1005)))
    outdated = []
    for first in range(1, 60):
        node.receive_ids(1, ids_of(first))
        outdated.append(len(node.lazy_push._timer_heap) - 2 * len(node.lazy_push._missing))
        node.receive_rumor(first)
    assert max(outdated) == 4
    node.lazy_push.advance(0.005)
    assert requested_in(node.lazy_push.advance(0.1)) == [
        (peer_id(1), (ids_of(1001), ids_of(1003), ids_of(1005)))
    ]
    assert node.lazy_push.advance(10.0) == []


def test_a_rumor_that_arrived_does_not_hold_up_the_request_for_another() -> None:
    node = Node()
    node.receive_ids(1, ids_of(1), ids_of(2))
    node.receive_ids(1, ids_of(3), at=0.01)
    node.receive_rumor(1)
    node.lazy_push.advance(0.005)
    assert node.lazy_push.deadline == 0.1
    assert requested_in(node.lazy_push.advance(0.1)) == [(peer_id(1), (ids_of(2),))]


def test_a_range_in_progress_is_not_requested_from_a_source_that_is_due_later() -> None:
    node = Node()
    node.receive_ids(1, ids_of(1, 9))
    node.receive_ids(2, ids_of(3, 7), at=0.02)
    assert requested_in(node.lazy_push.advance(0.1)) == [(peer_id(1), (ids_of(1, 9),))]
    assert node.lazy_push.advance(0.121) == []
    assert requested_in(node.lazy_push.advance(0.25)) == [(peer_id(2), (ids_of(3, 7),))]


def test_a_rumor_waits_for_two_requests_that_include_it_then_it_is_requested() -> None:
    node = Node()
    for last in (40, 39, 38, 37):  # in one message, these would count once
        node.receive_ids(1, ids_of(1, last))
    node.receive_ids(2, ids_of(5, 6))
    requested_at = {}
    while node.lazy_push.deadline < 1.0:
        at = node.lazy_push.deadline
        for peer, ranges in requested_in(node.lazy_push.advance(at)):
            requested_at[peer, ranges] = at
    timeout_s = 3 * 0.05
    assert requested_at[peer_id(1), (ids_of(1, 40),)] == pytest.approx(0.1)
    assert requested_at[peer_id(2), (ids_of(5, 6),)] == pytest.approx(0.1 + 2 * timeout_s)


def test_a_second_offer_during_a_request_waits_for_the_first_to_answer() -> None:
    node = Node()
    node.lazy_push.handle(Offer((ids_of(1),)), peer_id(2), 0.0)
    node.lazy_push.handle(Offer((ids_of(1),)), peer_id(3), 0.01)
    assert node.lazy_push.deadline == pytest.approx(3 * 0.05)


def test_a_new_peer_is_not_announced_again_what_it_got_on_linking() -> None:
    node = Node()
    node.receive_rumor(1)
    newcomer = node.tables.link(7)
    assert announced_in(node.lazy_push.announce_recent(newcomer, 0.0)) == {newcomer: [ids_of(1)]}
    assert set(announced_in(node.lazy_push.advance(0.005))) == {peer_id(n) for n in (1, 2, 3, 4)}


def test_the_next_announcement_waits_a_tenth_of_a_second_per_datagram() -> None:
    for ids_count, wait_s in ((1, 0.1), (RANGES_PER_MESSAGE_LIMIT + 1, 0.2)):
        node = Node()
        for first in range(1, ids_count + 1):
            node.receive_rumor(first)
        node.lazy_push.advance(0.005)
        node.receive_rumor(500, at=0.006)
        assert node.lazy_push.deadline == pytest.approx(0.005 + wait_s)


def test_an_announcement_that_no_peer_needs_delays_no_other() -> None:
    node = Node()
    node.receive_rumor(1, 1, 2, 3, 4)
    assert node.lazy_push.advance(0.005) == []
    node.receive_rumor(2, at=0.006)
    assert node.lazy_push.deadline == pytest.approx(0.006 + 0.005)


def test_the_limit_of_mailed_rumors_includes_those_that_were_merged() -> None:
    node = Node(links=3)
    for first in range(1, 1024 + 1):
        node.lazy_push.announce(copy(ORIGIN, first).rumor, (), 0.0, is_mailed=True)
    node.lazy_push.on_duplicate(copy(ORIGIN, 1).rumor, peer_id(1))  # merges them
    node.lazy_push.announce(copy(ORIGIN, 1025).rumor, (), 0.0, is_mailed=True)
    assert node.lazy_push.announcements_dropped == 1
