"""Rounds: what broadcast missed is found and mended, in both directions, at little cost."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.config.sections import AntiEntropyConfig, RateLimitConfig
from grapevine_proto.crypto.identity import Identity
from grapevine_proto.errors import DropReason, Offense
from grapevine_proto.events import AntiEntropyRound, Event, Round, RoundOutcome, Via
from grapevine_proto.ids import PeerId, Stream, StreamRange
from grapevine_proto.overlay.effects import CountDrop, Effect, Penalize, Send
from grapevine_proto.overlay.store.message_store import MessageStore
from grapevine_proto.overlay.store.ranges import MESSAGES_PER_REQUEST
from grapevine_proto.overlay.store.verification import Verifier
from grapevine_proto.overlay.sync.antientropy import (
    COUNTER_REQUEST_TIMEOUT_S,
    FRAGMENTS_IDLE_S,
    HOLD_BACK_LIMIT_S,
    NEW_LINK_RECHECK_MAX_S,
    RANGES_SCANNED_LIMIT,
    REMEMBERED_PEERS_LIMIT,
    ROUND_TIMEOUT_S,
    AntiEntropy,
)
from grapevine_proto.overlay.sync.outstanding_requests import BROKEN_PROMISE_S
from grapevine_proto.overlay.sync.repair_server import BODY_REPEATS_LIMIT
from grapevine_proto.overlay.sync.sync_round import (
    ENTRIES_PER_PAGE,
    ROUND_LIMIT_S,
    STREAMS_PER_ROUND,
    SyncRound,
)
from grapevine_proto.sim import Network, Simulation
from grapevine_proto.wire.messages import Digest, IWant, Repair, RumorCopy, Vector
from grapevine_proto.wire.signed import Rumor
from tests.proto.overlay.builders import EPOCH, Surroundings, peer_id

UNLIMITED = RateLimitConfig(enabled=False)


def rounds_of(sim: Simulation) -> list[tuple[int, Round]]:
    found: list[tuple[int, Round]] = []

    def listen(now: float, number: int, event: Event) -> None:
        if isinstance(event, AntiEntropyRound):
            found.append((number, event.round))

    sim.listen(listen)
    return found


def pair(*, seed: int = 1, network: Network | None = None, **changes: object) -> Simulation:
    config = NodeConfig().replace(**changes)
    sim = Simulation(nodes=2, seed=seed, config=config, network=network)
    sim.run(3.0)
    return sim


def test_two_nodes_that_saw_the_same_find_so_in_one_datagram_each() -> None:
    sim = pair()
    sim.broadcast(0, b"known to both")
    sim.run(10.0)
    rounds = rounds_of(sim)
    node = sim.nodes[0]
    assert node.engine is not None
    node.engine.start_round(node.read_clock(sim.now))
    before = sim.datagrams
    sim._drive(node)
    sim.run_until(lambda: bool(rounds), 1.0, every=0.01)
    assert sim.datagrams - before == 2
    assert rounds[0][1].outcome is RoundOutcome.IN_SYNC
    assert rounds[0][1].in_sync


def test_what_either_side_missed_reaches_it_in_one_round() -> None:
    sim = pair(
        network=Network(per_pair=True),
        peer_timeout=200.0,
        anti_entropy=AntiEntropyConfig(interval=80_000.0),
    )
    sim.run(5.0)
    sim.partition({0})
    theirs = [sim.broadcast(1, b"said behind the wall %d" % n) for n in range(10)]
    ours = [sim.broadcast(0, b"said before it %d" % n) for n in range(7)]
    sim.run(30.0)  # the link has let go by then
    rounds = rounds_of(sim)
    sim.heal()
    node = sim.nodes[0]
    assert node.engine is not None
    node.engine.start_round(node.read_clock(sim.now))
    sim._drive(node)
    sim.run(1.0)
    assert all(sim.deliveries(each) == {0: 1} for each in theirs)
    assert all(sim.deliveries(each) == {1: 1} for each in ours)
    [(_, done)] = [each for each in rounds if each[0] == 0]
    assert (done.sent, done.received, done.outcome) == (7, 10, RoundOutcome.REPAIRED)
    assert sim.nodes[0].deliveries[theirs[0]].via is Via.REPAIR


def test_a_mismatch_on_heartbeats_begins_a_round_within_seconds() -> None:
    sim = pair(anti_entropy=AntiEntropyConfig(interval=80_000.0), peer_timeout=200.0)
    sim.partition({0})
    message = sim.broadcast(1, b"lost on the way")
    sim.run(1.0)
    sim.heal()
    sim.run(12.0)
    assert sim.deliveries(message) == {0: 1}


@pytest.mark.parametrize("before_s", [0.1, 5.0])
def test_over_a_new_link_comes_at_once_what_was_said_before_it(before_s: float) -> None:
    """What is older its digest shows; what no digest shows yet is told by ids."""
    sim = Simulation(nodes=3, seed=4, config=NodeConfig(strategy="plumtree"))
    sim.run(10.0)
    sim.crash(2)
    sim.run(40.0)
    message = sim.broadcast(0, b"said while one was away")
    sim.run(before_s)
    sim.restart(2)
    assert sim.run_until(lambda: sim.connected(2) > 0, 10.0, every=0.01)
    sim.run(NEW_LINK_RECHECK_MAX_S + 0.5)
    assert sim.deliveries(message) == {1: 1, 2: 1}


def test_of_two_who_find_on_a_new_link_that_they_differ_one_begins_a_round() -> None:
    sim = Simulation(nodes=3, seed=1, config=NodeConfig())
    sim.run(10.0)
    sim.crash(2)
    sim.run(40.0)
    sim.broadcast(0, b"said while one was away")
    sim.run(5.0)
    rounds = rounds_of(sim)
    sim.restart(2)
    assert sim.run_until(lambda: sim.connected(2) == 2, 10.0, every=0.01)
    sim.run(NEW_LINK_RECHECK_MAX_S + 0.5)
    ids = [each.peer_id for each in sim.nodes]
    between = [frozenset((ids[number], done.peer)) for number, done in rounds]
    assert between
    assert len(between) == len(set(between))


def test_a_round_that_nobody_answered_is_begun_again_with_the_next_mismatch() -> None:
    """It says nothing of what the peer holds, so the peer is not left alone for it."""
    sim = pair(anti_entropy=AntiEntropyConfig(interval=80_000.0), peer_timeout=200.0)
    sim.partition({0})
    message = sim.broadcast(1, b"lost on the way")
    sim.run(3.0)
    rounds = rounds_of(sim)
    for node in sim.nodes:
        assert node.engine is not None
        node.engine.start_round(node.read_clock(sim.now))
        sim._drive(node)
    sim.run(4.0)
    assert {done.outcome for _, done in rounds} == {RoundOutcome.NO_ANSWER}
    sim.heal()
    sim.run(12.0)
    assert sim.deliveries(message) == {0: 1}


def test_a_late_joiner_is_given_what_is_still_held() -> None:
    sim = Simulation(nodes=5, seed=3, config=NodeConfig().replace(rate_limit=UNLIMITED))
    sim.run(5.0)
    old = [sim.broadcast(n % 5, b"before you came %d" % n) for n in range(300)]
    sim.run(20.0)
    late = sim.add()
    sim.run(15.0)
    assert all(sim.nodes[late].deliveries[each].count == 1 for each in old)
    assert sim.nodes[late].stats().gaps_abandoned == 0


def test_a_large_difference_is_paced_by_whoever_asks_and_completes() -> None:
    sim = pair(rate_limit=UNLIMITED, peer_timeout=200.0)
    sim.partition({0})
    missed = [sim.broadcast(1, b"x" * 900) for _ in range(400)]
    sim.run(1.0)
    sim.heal()
    sim.run(20.0)
    assert all(sim.deliveries(each) == {0: 1} for each in missed)


def test_expired_messages_are_neither_asked_for_nor_delivered() -> None:
    sim = pair(message_dedup_ttl=30.0)
    old = sim.broadcast(0, b"old news")
    sim.run(31.0)
    new = sim.broadcast(0, b"news")
    late = sim.add()
    sim.run(20.0)
    assert old not in sim.nodes[late].deliveries
    assert sim.nodes[late].deliveries[new].count == 1


def test_a_hole_is_asked_for_within_seconds_while_the_stream_goes_on() -> None:
    sim = Simulation(
        nodes=8,
        seed=5,
        config=NodeConfig().replace(anti_entropy=AntiEntropyConfig(interval=80_000.0)),
        network=Network(loss=0.2),
    )
    sim.run(10.0)
    messages = []
    for n in range(60):
        messages.append(sim.broadcast(0, b"%d" % n))
        sim.run(0.25)
    sim.run(15.0)
    assert all(len(sim.deliveries(each)) == 7 for each in messages)
    assert all(set(sim.deliveries(each).values()) == {1} for each in messages)


def with_holes(count: int) -> tuple[Simulation, list[IWant]]:
    """Two nodes, the second of which has so many holes that nobody can fill; what it asks about them."""
    sim = pair(anti_entropy=AntiEntropyConfig(interval=80_000.0))
    node = sim.nodes[1]
    assert node.engine is not None
    now, liar = node.read_clock(sim.now), Identity(b"l" * 32)
    store = node.engine._overlay.store
    for number in range(1, count + 1):
        rumor = Rumor.signed(liar, "default", 1, 2 * number, (b"every other one",))
        store.insert(RumorCopy(rumor, 1, 0), liar.peer_id, True, now)
    asked: list[IWant] = []
    ask = node.engine._overlay.antientropy._request_gaps

    def overheard(now: float) -> list[Effect]:
        effects = ask(now)
        asked.extend(each.message for each in effects if isinstance(each, Send))  # type: ignore[misc]
        return effects

    node.engine._overlay.antientropy._request_gaps = overheard  # type: ignore[method-assign]
    sim._drive(node)
    return sim, asked


def test_a_hole_that_nobody_can_fill_is_asked_for_less_and_less() -> None:
    sim, asked = with_holes(1)
    sim.run(6.0)
    assert 4 <= len(asked) <= 6
    sim.run(94.0)
    assert len(asked) <= 16, "after 1, 1, 1, 1, 2, 4, 8, 16, 16 ... seconds"
    before = len(asked)
    node = sim.nodes[1]
    assert node.engine is not None
    fresh = Rumor.signed(Identity(b"l" * 32), "default", 1, 9, (b"a hole more",))
    now = node.read_clock(sim.now)
    node.engine._overlay.store.insert(RumorCopy(fresh, 1, 0), fresh.origin, True, now)
    sim._drive(node)
    sim.run(3.0)
    assert len(asked) > before, "a new hole does not wait for the pauses of the old"


def test_each_of_many_holes_has_its_turn() -> None:
    sim, asked = with_holes(40)
    sim.run(6.0)
    assert len({each for want in asked for each in want.ranges}) == 40


def test_a_silent_peer_ends_a_round_after_three_seconds() -> None:
    sim = pair(peer_timeout=200.0)
    rounds = rounds_of(sim)
    sim.partition({0})
    node = sim.nodes[0]
    assert node.engine is not None
    node.engine.start_round(node.read_clock(sim.now))
    sim._drive(node)
    sim.run(3.5)
    assert [each.outcome for number, each in rounds if number == 0] == [RoundOutcome.NO_ANSWER]


def test_a_difference_nobody_can_mend_does_not_keep_nodes_busy() -> None:
    """A joiner hears of a stream whose bodies are gone: asked once, then left alone."""
    sim = pair(message_dedup_ttl=300.0, anti_entropy=AntiEntropyConfig(interval=80_000.0))
    sim.broadcast(0, b"gone soon")
    sim.run(5.0)
    for number in (0, 1):
        engine = sim.nodes[number].engine
        assert engine is not None
        for key in list(engine._overlay.store.cache._entries):
            engine._overlay.store.cache._remove(key)
    rounds = rounds_of(sim)
    late = sim.add()
    sim.run(60.0)
    assert sim.nodes[late].deliveries == {}
    assert len([each for number, each in rounds if number == late]) <= 6


def test_a_round_over_many_streams_hears_every_page_whatever_their_order() -> None:
    """60 streams make four pages; the ones that differ are on different pages."""
    sim = Simulation(
        nodes=60,
        seed=2,
        config=NodeConfig().replace(
            rate_limit=UNLIMITED,
            anti_entropy=AntiEntropyConfig(interval=80_000.0),
            peer_timeout=300.0,
            message_dedup_ttl=2000.0,
        ),
        network=Network(reorder=0.5),
    )
    sim.run(20.0)
    for number in range(1, 60):
        sim.broadcast(number, b"first of %d" % number)
    sim.run(20.0)
    sim.partition({0})
    missed = [sim.broadcast(number, b"second of %d" % number) for number in range(1, 60)]
    sim.run(1.0)
    sim.heal()
    rounds = rounds_of(sim)
    node = sim.nodes[0]
    assert node.engine is not None
    node.engine.start_round(node.read_clock(sim.now))
    sim._drive(node)
    sim.run(15.0)  # what none of the first three peers has comes from the next
    assert all(sim.deliveries(each).get(0) == 1 for each in missed)
    ours = [each for number, each in rounds if number == 0]
    assert RoundOutcome.REPAIRED in {each.outcome for each in ours}
    odd = {DropReason.UNSOLICITED, DropReason.MALFORMED, DropReason.UNKNOWN_KIND}
    assert odd.isdisjoint(dict(sim.nodes[0].stats().dropped))


# --- what peers offer in rounds of their own ----------------------------------------------------


class Asked:
    """A node with nothing, linked to 1, 2 and 3, and what it asks them for when they say what they hold."""

    def __init__(self) -> None:
        place = Surroundings(1, 2, 3)
        self.store = MessageStore(place.config, Verifier(place.config), (), 0.0)
        self.rounds = AntiEntropy(
            place.config, place.peers, self.store, place.rng, lambda *_: [], 0.0
        )

    def offer(self, number: int, last: int, now: float) -> list[StreamRange]:
        """Peer `number` says in a round of its own that it holds a stream up to `last`."""
        vector = Vector(7, False, 0, 1, (held_to(last),))
        said = self.rounds.handle(vector, peer_id(number), now)
        self.said = [each.message for each in said if isinstance(each, Send)]
        [want] = [each for each in self.said if isinstance(each, IWant)]
        return list(want.ranges)

    def answer(self, number: int, now: float) -> None:
        self.rounds.handle(Repair(7, True, False, ()), peer_id(number), now)

    def begin(self, now: float) -> tuple[PeerId, SyncRound]:
        """A round of ours with one peer; the peer, and the round."""
        self.rounds.start_rounds(now)
        [(peer, running)] = list(self.rounds._active_rounds.items())[:1]
        return peer, running

    def page(
        self, peer: PeerId, page: int, pages: int, entries: Iterable[StreamRange], now: float
    ) -> list[Effect]:
        """`peer` answers our digest with a page of its vector."""
        number = self.rounds._active_rounds[peer].number
        return self.rounds.handle(Vector(number, True, page, pages, tuple(entries)), peer, now)


def held_to(last: int, first: int = 1) -> StreamRange:
    return StreamRange(Stream(peer_id(90), EPOCH), first, last)


def test_of_what_several_offer_at_once_each_is_asked_for_a_share() -> None:
    asked = Asked()
    for number in (1, 2):
        begin = MESSAGES_PER_REQUEST * (number - 1)
        assert asked.offer(number, 1000, 0.0) == [held_to(begin + MESSAGES_PER_REQUEST, begin + 1)]
        assert any(isinstance(each, Digest) for each in asked.said), "the rest, at our own pace"
    assert asked.offer(3, 2 * MESSAGES_PER_REQUEST, 0.0) == []
    assert not any(isinstance(each, Digest) for each in asked.said)


def test_who_offers_and_does_not_give_keeps_others_from_giving_it_for_a_second_once() -> None:
    asked = Asked()
    assert asked.offer(1, 5, 0.0) == [held_to(5)]
    assert asked.offer(2, 5, COUNTER_REQUEST_TIMEOUT_S - 0.1) == []
    assert asked.offer(2, 5, COUNTER_REQUEST_TIMEOUT_S) == [held_to(5)], "it had its time"
    again_at = COUNTER_REQUEST_TIMEOUT_S + ROUND_TIMEOUT_S
    assert asked.offer(1, 5, again_at + 1.0) == [held_to(5)]
    assert asked.offer(3, 5, again_at + 1.1) == [held_to(5)], "it broke its promise before"
    later = again_at + BROKEN_PROMISE_S + 1.0
    assert asked.offer(1, 5, later) == [held_to(5)]
    assert asked.offer(2, 5, later) == []


def test_who_offers_more_than_it_holds_frees_the_rest_with_its_answer() -> None:
    asked = Asked()
    assert asked.offer(1, 5, 0.0) == [held_to(5)]
    asked.answer(1, 0.1)
    assert asked.offer(2, 5, 0.1) == [held_to(5)]


# --- what a peer can make a round hold ----------------------------------------------------------


def test_a_page_that_comes_again_moves_nothing_and_keeps_no_round_open() -> None:
    asked = Asked()
    peer, running = asked.begin(0.0)
    asked.page(peer, 0, 2, [held_to(500)], 0.0)
    for step in range(1, 30):
        now = step / 10
        assert asked.page(peer, 0, 2, [held_to(500 + step)], now) == [
            CountDrop(peer, DropReason.DUPLICATE),
            Penalize(peer, Offense.STALLED_ROUND),
        ]
    assert running.last_progress_at == 0.0
    asked.rounds.advance(ROUND_TIMEOUT_S)
    assert peer not in asked.rounds._active_rounds


def test_a_stream_named_many_times_in_a_page_is_wanted_once() -> None:
    asked = Asked()
    peer, running = asked.begin(0.0)
    asked.page(peer, 0, 2, [held_to(500 + n) for n in range(64)], 0.0)
    assert len(running.unrequested) == 1
    assert len(running.their_vector) == 1


def test_one_stream_more_than_a_round_may_hold_is_left_to_the_next() -> None:
    asked = Asked()
    peer, running = asked.begin(0.0)
    numbers = iter(range(100, 100 + STREAMS_PER_ROUND + 1))
    left = STREAMS_PER_ROUND + 1
    page = 0
    while left:
        count = min(left, 64)
        entries = [
            StreamRange(Stream(PeerId(next(numbers).to_bytes(32, "big")), EPOCH), 1, 5)
            for _ in range(count)
        ]
        running.requested = (
            held_to(1),
        )  # as if a question were open: nothing is taken out meanwhile
        asked.page(peer, page, 32, entries, 0.0)
        page += 1
        left -= count
    assert len(running.unrequested) == len(running.their_vector) == STREAMS_PER_ROUND
    assert running.streams_dropped == 1


def test_one_page_more_than_a_round_has_is_not_looked_at() -> None:
    asked = Asked()
    peer, running = asked.begin(0.0)
    asked.page(peer, 32, 256, [held_to(5)], 0.0)
    assert not running.unrequested
    assert ENTRIES_PER_PAGE * 32 == STREAMS_PER_ROUND


def test_a_peer_that_says_not_the_last_yet_for_ever_ends_the_round_by_it() -> None:
    asked = Asked()
    peer, running = asked.begin(0.0)
    asked.page(peer, 0, 1, [held_to(5)], 0.0)
    assert running.requested
    for step in range(1, 6):
        asked.rounds.handle(Repair(running.number, False, False, ()), peer, step / 2)
        asked.rounds.advance(step / 2)
    asked.rounds.advance(ROUND_TIMEOUT_S)
    assert peer not in asked.rounds._active_rounds
    assert asked.rounds._requests.broken_promises == 1
    other = next(n for n in (1, 2, 3) if peer_id(n) != peer)
    assert asked.offer(other, 5, ROUND_TIMEOUT_S) == [held_to(5)]


def test_no_round_outlives_its_limit_whatever_comes() -> None:
    asked = Asked()
    peer, running = asked.begin(0.0)
    asked.page(peer, 0, 1, [held_to(5)], 0.0)
    now = 0.0
    while now < ROUND_LIMIT_S:
        asked.rounds.advance(now)
        assert peer in asked.rounds._active_rounds
        asked.rounds.on_fragment(peer, now)
        now += 1.0
    asked.rounds.advance(ROUND_LIMIT_S)
    assert asked.rounds._active_rounds.get(peer) is not running


def test_of_a_stream_full_of_gaps_only_so_many_are_looked_at_for_one_question() -> None:
    asked = Asked()
    for sequence in range(2, 2 * 256 + 1, 2):
        body = RumorCopy(Rumor(peer_id(90), EPOCH, sequence, (0,), b"", bytes(64)), 1, 0)
        asked.store.insert(body, peer_id(3), True, 0.0)
    looked_at: list[int] = []
    missing = asked.store.missing

    def counting(theirs: StreamRange, now: float, limit: float = 0) -> list[StreamRange]:
        found = missing(theirs, now, limit)
        looked_at.append(len(found))
        return found

    asked.store.missing = counting  # type: ignore[method-assign]
    for number in (1, 2, 3):
        asked.offer(number, 10_000, 0.0)
        assert sum(looked_at) <= RANGES_SCANNED_LIMIT
        looked_at.clear()


def test_one_peer_more_that_offered_something_than_are_remembered_evicts_the_oldest() -> None:
    asked = Asked()
    entry = (held_to(5),)
    for number in range(REMEMBERED_PEERS_LIMIT + 1):
        peer = PeerId(number.to_bytes(32, "big"))
        asked.rounds.handle(Vector(1, False, 0, 1, entry), peer, 0.0)
    assert len(asked.rounds._counter_requested_at) == REMEMBERED_PEERS_LIMIT
    asked.rounds.advance(ROUND_TIMEOUT_S)
    assert not asked.rounds._counter_requested_at


def test_dribbled_parts_hold_repair_back_for_half_of_the_time_at_most() -> None:
    asked = Asked()
    step_s, held_back = 0.5, 0
    steps = int(10 * HOLD_BACK_LIMIT_S / step_s)
    for step in range(steps):
        now = step * step_s
        if step % 70 < 60:  # 30 s of parts, then a pause that is just long enough
            asked.rounds.on_fragment(peer_id(1), now)
        held_back += asked.rounds._is_receiving_large(now)
    assert 1 * FRAGMENTS_IDLE_S < held_back * step_s <= steps * step_s * 0.6


def test_who_gives_nothing_of_what_it_claimed_is_charged_with_a_broken_promise() -> None:
    asked = Asked()
    peer, running = asked.begin(0.0)
    asked.page(peer, 0, 1, [held_to(5)], 0.0)
    idle = asked.rounds.handle(Repair(running.number, False, False, ()), peer, 1.0)
    assert Penalize(peer, Offense.STALLED_ROUND) in idle
    assert Penalize(peer, Offense.BROKEN_PROMISE, 1) in asked.rounds.advance(ROUND_TIMEOUT_S)


def test_who_asks_for_the_same_again_and_again_is_charged_with_it() -> None:
    asked = Asked()
    body = RumorCopy(Rumor(peer_id(90), EPOCH, 1, (0,), b"", bytes(64)), 1, 0)
    asked.store.insert(body, peer_id(3), True, 0.0)
    want = IWant(1, (held_to(1),))
    offense = Penalize(peer_id(1), Offense.REPEATED_REQUEST)
    charged = [offense in asked.rounds.handle(want, peer_id(1), n / 10) for n in range(10)]
    assert charged == [False] * BODY_REPEATS_LIMIT + [True] * (10 - BODY_REPEATS_LIMIT)
