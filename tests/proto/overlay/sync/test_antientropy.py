"""Anti-entropy rounds: they repair what broadcast missed, in both directions, at low cost."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.config.sections import AntiEntropyConfig, RateLimitConfig
from grapevine_proto.crypto.identity import Identity
from grapevine_proto.errors import DropReason, Offense
from grapevine_proto.events import (
    AntiEntropyRound,
    CaughtUp,
    Event,
    MemberStatus,
    Message,
    Round,
    RoundOutcome,
    Via,
)
from grapevine_proto.ids import MessageId, PeerId, Stream, StreamRange
from grapevine_proto.overlay.effects import (
    CountDrop,
    Credit,
    Deliver,
    Effect,
    Emit,
    Penalize,
    Send,
)
from grapevine_proto.overlay.store.message_store import MessageStore
from grapevine_proto.overlay.store.ranges import MESSAGES_PER_REQUEST
from grapevine_proto.overlay.sync.antientropy import (
    COUNTER_REQUEST_TIMEOUT_S,
    NEW_LINK_RECHECK_MAX_S,
    REMEMBERED_PEERS_LIMIT,
    ROUND_TIMEOUT_S,
    AntiEntropy,
)
from grapevine_proto.overlay.sync.outstanding_requests import BROKEN_PROMISE_S, RANGES_SCANNED_LIMIT
from grapevine_proto.overlay.sync.repair_server import BODY_REPEATS_LIMIT
from grapevine_proto.overlay.sync.sync_round import (
    ENTRIES_PER_PAGE,
    ROUND_LIMIT_S,
    STREAMS_PER_ROUND,
    SyncRound,
)
from grapevine_proto.sim import Network, Simulation
from grapevine_proto.wire.attributes import rumor_attributes
from grapevine_proto.wire.messages import (
    GAP_REQUEST_ROUND,
    LAZY_REQUEST_ROUND,
    Digest,
    Heartbeat,
    InSync,
    IWant,
    Repair,
    RumorCopy,
    Vector,
)
from grapevine_proto.wire.signed import Rumor
from tests.proto.overlay import timeline
from tests.proto.overlay.builders import EPOCH, NodeTables, copy, peer_id, record

UNLIMITED = RateLimitConfig(enabled=False)


def record_rounds(sim: Simulation) -> list[tuple[int, Round]]:
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


def test_two_nodes_in_sync_exchange_one_datagram_each() -> None:
    sim = pair()
    sim.broadcast(0, b"known to both")
    sim.run(10.0)
    rounds = record_rounds(sim)
    node = sim.nodes[0]
    assert node.engine is not None
    node.engine.start_round(node.read_clock(sim.now))
    before = sim.datagrams
    sim._drive(node)
    sim.run_until(lambda: bool(rounds), 1.0, every=0.01)
    assert sim.datagrams - before == 2
    assert rounds[0][1].outcome is RoundOutcome.IN_SYNC
    assert rounds[0][1].in_sync


def test_one_round_repairs_both_nodes() -> None:
    sim = pair(
        network=Network(per_pair=True),
        peer_timeout=200.0,
        anti_entropy=AntiEntropyConfig(interval=80_000.0),
    )
    sim.run(5.0)
    sim.partition({0})
    their_messages = [sim.broadcast(1, b"sent behind the partition %d" % n) for n in range(10)]
    ours = [sim.broadcast(0, b"sent before it %d" % n) for n in range(7)]
    sim.run(30.0)  # the links have given up retransmitting by then
    rounds = record_rounds(sim)
    sim.heal()
    node = sim.nodes[0]
    assert node.engine is not None
    node.engine.start_round(node.read_clock(sim.now))
    sim._drive(node)
    sim.run(1.0)
    assert all(sim.deliveries(each) == {0: 1} for each in their_messages)
    assert all(sim.deliveries(each) == {1: 1} for each in ours)
    [(_, done)] = [each for each in rounds if each[0] == 0]
    assert (done.sent, done.received, done.outcome) == (7, 10, RoundOutcome.REPAIRED)
    assert sim.nodes[0].deliveries[their_messages[0]].via is Via.REPAIR


def test_a_heartbeat_digest_mismatch_starts_a_round_within_seconds() -> None:
    sim = pair(anti_entropy=AntiEntropyConfig(interval=80_000.0), peer_timeout=200.0)
    sim.partition({0})
    message = sim.broadcast(1, b"lost on the way")
    sim.run(1.0)
    sim.heal()
    sim.run(12.0)
    assert sim.deliveries(message) == {0: 1}


@pytest.mark.parametrize("before_s", [0.1, 5.0])
def test_a_new_link_delivers_earlier_messages_at_once(before_s: float) -> None:
    """The digest covers older messages; IDs announce newer ones."""
    sim = Simulation(nodes=3, seed=4, config=NodeConfig(strategy="plumtree"))
    sim.run(10.0)
    sim.crash(2)
    sim.run(40.0)
    message = sim.broadcast(0, b"sent while one node was down")
    sim.run(before_s)
    sim.restart(2)
    assert sim.run_until(lambda: sim.connected(2) > 0, 10.0, every=0.01)
    sim.run(NEW_LINK_RECHECK_MAX_S + 0.5)
    assert sim.deliveries(message) == {1: 1, 2: 1}


def test_on_a_new_link_only_one_of_two_differing_nodes_starts_a_round() -> None:
    sim = Simulation(nodes=3, seed=1, config=NodeConfig())
    sim.run(10.0)
    sim.crash(2)
    sim.run(40.0)
    sim.broadcast(0, b"sent while one node was down")
    sim.run(5.0)
    rounds = record_rounds(sim)
    sim.restart(2)
    assert sim.run_until(lambda: sim.connected(2) == 2, 10.0, every=0.01)
    sim.run(NEW_LINK_RECHECK_MAX_S + 0.5)
    ids = [each.peer_id for each in sim.nodes]
    round_pairs = [frozenset((ids[number], done.peer)) for number, done in rounds]
    assert round_pairs
    assert len(round_pairs) == len(set(round_pairs))


def test_an_unanswered_round_is_repeated_at_the_next_mismatch() -> None:
    """No answer says nothing about the peer's store, so the next round may choose it again."""
    sim = pair(anti_entropy=AntiEntropyConfig(interval=80_000.0), peer_timeout=200.0)
    sim.partition({0})
    message = sim.broadcast(1, b"lost on the way")
    sim.run(3.0)
    rounds = record_rounds(sim)
    for node in sim.nodes:
        assert node.engine is not None
        node.engine.start_round(node.read_clock(sim.now))
        sim._drive(node)
    sim.run(4.0)
    assert {done.outcome for _, done in rounds} == {RoundOutcome.NO_ANSWER}
    sim.heal()
    sim.run(12.0)
    assert sim.deliveries(message) == {0: 1}


def test_a_late_joiner_receives_cached_messages() -> None:
    sim = Simulation(nodes=5, seed=3, config=NodeConfig().replace(rate_limit=UNLIMITED))
    sim.run(5.0)
    old = [sim.broadcast(n % 5, b"before the joiner %d" % n) for n in range(300)]
    sim.run(20.0)
    joiner = sim.add()
    sim.run(15.0)
    assert all(sim.nodes[joiner].deliveries[each].count == 1 for each in old)
    assert sim.nodes[joiner].stats().gaps_abandoned == 0


def test_a_large_difference_is_repaired_at_the_pace_of_the_requester() -> None:
    sim = pair(rate_limit=UNLIMITED, peer_timeout=200.0)
    sim.partition({0})
    missed = [sim.broadcast(1, b"x" * 900) for _ in range(400)]
    sim.run(1.0)
    sim.heal()
    sim.run(20.0)
    assert all(sim.deliveries(each) == {0: 1} for each in missed)


def test_expired_messages_are_neither_requested_nor_delivered() -> None:
    sim = pair(message_dedup_ttl=30.0)
    old = sim.broadcast(0, b"old news")
    sim.run(31.0)
    new = sim.broadcast(0, b"news")
    joiner = sim.add()
    sim.run(20.0)
    assert old not in sim.nodes[joiner].deliveries
    assert sim.nodes[joiner].deliveries[new].count == 1


def test_a_gap_is_requested_within_seconds_while_its_stream_continues() -> None:
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


def with_gaps(count: int) -> tuple[Simulation, list[IWant]]:
    """Two nodes, the second with `count` gaps that no node can fill; and its gap requests."""
    sim = pair(anti_entropy=AntiEntropyConfig(interval=80_000.0))
    node = sim.nodes[1]
    assert node.engine is not None
    now, origin = node.read_clock(sim.now), Identity(b"l" * 32)
    store = node.engine._overlay.store
    for number in range(1, count + 1):
        rumor = Rumor.signed(origin, "default", 1, 2 * number, (b"every other one",))
        store.insert(RumorCopy(rumor, 1, 0), origin.peer_id, True, now)
    requests: list[IWant] = []
    original = node.engine._overlay.antientropy._request_gaps

    def record(now: float) -> list[Effect]:
        effects = original(now)
        requests.extend(each.message for each in effects if isinstance(each, Send))  # type: ignore[misc]
        return effects

    node.engine._overlay.antientropy._request_gaps = record  # type: ignore[method-assign]
    sim._drive(node)
    return sim, requests


@pytest.mark.usefixtures("patch_sources")
def test_requests_for_an_unfillable_gap_back_off() -> None:
    sim, requests = with_gaps(1)
    sim.run(6.0)
    assert 4 <= len(requests) <= 6
    sim.run(94.0)
    assert len(requests) <= 16, "after 1, 1, 1, 1, 2, 4, 8, 16, 16, ... seconds"
    before = len(requests)
    node = sim.nodes[1]
    assert node.engine is not None
    new_rumor = Rumor.signed(Identity(b"l" * 32), "default", 1, 9, (b"one more gap",))
    now = node.read_clock(sim.now)
    node.engine._overlay.store.insert(RumorCopy(new_rumor, 1, 0), new_rumor.origin, True, now)
    sim._drive(node)
    sim.run(3.0)
    assert len(requests) > before, "a new gap does not wait for the backoff of old ones"


@pytest.mark.usefixtures("patch_sources")
def test_many_gaps_are_requested_in_turn() -> None:
    sim, requests = with_gaps(40)
    sim.run(6.0)
    assert len({each for request in requests for each in request.ranges}) == 40


def test_a_silent_peer_ends_a_round_after_three_seconds() -> None:
    sim = pair(peer_timeout=200.0)
    rounds = record_rounds(sim)
    sim.partition({0})
    node = sim.nodes[0]
    assert node.engine is not None
    node.engine.start_round(node.read_clock(sim.now))
    sim._drive(node)
    sim.run(3.5)
    assert [each.outcome for number, each in rounds if number == 0] == [RoundOutcome.NO_ANSWER]


def test_an_irreparable_difference_does_not_keep_nodes_busy() -> None:
    """A joining node learns of a stream whose bodies are gone; it asks once and then stops."""
    sim = pair(message_dedup_ttl=300.0, anti_entropy=AntiEntropyConfig(interval=80_000.0))
    sim.broadcast(0, b"gone soon")
    sim.run(5.0)
    for number in (0, 1):
        engine = sim.nodes[number].engine
        assert engine is not None
        for key in list(engine._overlay.store.cache._entries):
            engine._overlay.store.cache._remove(key)
    rounds = record_rounds(sim)
    joiner = sim.add()
    sim.run(60.0)
    assert sim.nodes[joiner].deliveries == {}
    assert len([each for number, each in rounds if number == joiner]) <= 6


def test_a_round_over_many_streams_accepts_pages_in_any_order() -> None:
    """60 streams make four pages, and the differing ones are on different pages."""
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
    rounds = record_rounds(sim)
    node = sim.nodes[0]
    assert node.engine is not None
    node.engine.start_round(node.read_clock(sim.now))
    sim._drive(node)
    sim.run(15.0)  # what the first three peers lack comes from the next
    assert all(sim.deliveries(each).get(0) == 1 for each in missed)
    ours = [each for number, each in rounds if number == 0]
    assert RoundOutcome.REPAIRED in {each.outcome for each in ours}
    unexpected = {DropReason.UNSOLICITED, DropReason.MALFORMED, DropReason.UNKNOWN_KIND}
    assert unexpected.isdisjoint(dict(sim.nodes[0].stats().dropped))


# --- offers in rounds of peers ------------------------------------------------------------------


class NoBroadcast:
    """Takes repaired rumors and does nothing about them but what `effects` says."""

    def __init__(self) -> None:
        self.refused_by: list[PeerId] = []
        self.accepted: list[tuple[int, Via]] = []
        self.effects: list[Effect] = []

    def accept(self, copy: RumorCopy, sender: PeerId, via: Via, now: float) -> list[Effect]:
        self.accepted.append((copy.rumor.first, via))
        return self.effects

    def on_refusal(self, sender: PeerId) -> None:
        self.refused_by.append(sender)


class SyncingNode:
    """A node with an empty store, linked to peers 1, 2 and 3, and what it requests when they offer
    messages.
    """

    def __init__(self) -> None:
        self.tables = NodeTables(1, 2, 3)
        self.store = MessageStore(self.tables.context, (), 0.0)
        self.broadcast = NoBroadcast()
        self.rounds = AntiEntropy(self.tables.context, self.store, self.broadcast, 0.0)

    def offer(self, number: int, last: int, now: float) -> list[StreamRange]:
        """Peer `number` offers a stream up to `last` in a round of its own; the ranges requested
        from it.
        """
        vector = Vector(7, False, 0, 1, (stream_up_to(last),))
        effects = self.rounds.handle(vector, peer_id(number), now)
        self.sent = [each.message for each in effects if isinstance(each, Send)]
        [request] = [each for each in self.sent if isinstance(each, IWant)]
        return list(request.ranges)

    def answer(self, number: int, now: float) -> None:
        self.rounds.handle(Repair(7, True, False, ()), peer_id(number), now)

    def begin(self, now: float) -> tuple[PeerId, SyncRound]:
        """Start a round with one peer; the peer and the round."""
        self.rounds.start_rounds(now)
        [(peer, sync_round)] = list(self.rounds._active_rounds.items())[:1]
        return peer, sync_round

    def page(
        self, peer: PeerId, page: int, pages: int, entries: Iterable[StreamRange], now: float
    ) -> list[Effect]:
        """`peer` answers our digest with a page of its vector."""
        number = self.rounds._active_rounds[peer].number
        return self.rounds.handle(Vector(number, True, page, pages, tuple(entries)), peer, now)


def stream_up_to(last: int, first: int = 1) -> StreamRange:
    return StreamRange(Stream(peer_id(90), EPOCH), first, last)


def test_concurrent_offers_are_requested_in_disjoint_batches() -> None:
    node = SyncingNode()
    for number in (1, 2):
        begin = MESSAGES_PER_REQUEST * (number - 1)
        assert node.offer(number, 1000, 0.0) == [
            stream_up_to(begin + MESSAGES_PER_REQUEST, begin + 1)
        ]
        assert any(isinstance(each, Digest) for each in node.sent), (
            "the rest is requested at our own pace"
        )
    assert node.offer(3, 2 * MESSAGES_PER_REQUEST, 0.0) == []
    assert not any(isinstance(each, Digest) for each in node.sent)


def test_an_offer_without_delivery_is_exclusive_for_a_second_and_only_once() -> None:
    node = SyncingNode()
    assert node.offer(1, 5, 0.0) == [stream_up_to(5)]
    assert node.offer(2, 5, COUNTER_REQUEST_TIMEOUT_S - 0.1) == []
    assert node.offer(2, 5, COUNTER_REQUEST_TIMEOUT_S) == [stream_up_to(5)], (
        "the exclusivity is over"
    )
    again_at = COUNTER_REQUEST_TIMEOUT_S + ROUND_TIMEOUT_S
    assert node.offer(1, 5, again_at + 1.0) == [stream_up_to(5)]
    assert node.offer(3, 5, again_at + 1.1) == [stream_up_to(5)], "it broke a promise before"
    later = again_at + BROKEN_PROMISE_S + 1.0
    assert node.offer(1, 5, later) == [stream_up_to(5)]
    assert node.offer(2, 5, later) == []


def test_an_empty_answer_ends_the_exclusivity_of_an_offer() -> None:
    node = SyncingNode()
    assert node.offer(1, 5, 0.0) == [stream_up_to(5)]
    node.answer(1, 0.1)
    assert node.offer(2, 5, 0.1) == [stream_up_to(5)]


# --- limits of a round --------------------------------------------------------------------------


def test_a_repeated_page_is_no_progress_and_is_penalized() -> None:
    node = SyncingNode()
    peer, sync_round = node.begin(0.0)
    node.page(peer, 0, 2, [stream_up_to(500)], 0.0)
    for step in range(1, 30):
        now = step / 10
        assert node.page(peer, 0, 2, [stream_up_to(500 + step)], now) == [
            CountDrop(peer, DropReason.DUPLICATE),
            Penalize(peer, Offense.STALLED_ROUND),
        ]
    assert sync_round.last_progress_at == 0.0
    node.rounds.advance(ROUND_TIMEOUT_S)
    assert peer not in node.rounds._active_rounds


def test_a_stream_repeated_in_a_page_is_requested_once() -> None:
    node = SyncingNode()
    peer, sync_round = node.begin(0.0)
    node.page(peer, 0, 2, [stream_up_to(500 + n) for n in range(64)], 0.0)
    assert len(sync_round.unrequested) == 1
    assert len(sync_round.their_vector) == 1


def test_streams_beyond_the_limit_of_a_round_are_left_to_the_next() -> None:
    node = SyncingNode()
    peer, sync_round = node.begin(0.0)
    numbers = iter(range(100, 100 + STREAMS_PER_ROUND + 1))
    left = STREAMS_PER_ROUND + 1
    page = 0
    while left:
        count = min(left, 64)
        entries = [
            StreamRange(Stream(PeerId(next(numbers).to_bytes(32, "big")), EPOCH), 1, 5)
            for _ in range(count)
        ]
        sync_round.requested = (
            stream_up_to(1),
        )  # as if a request were outstanding, so that nothing is removed meanwhile
        node.page(peer, page, 32, entries, 0.0)
        page += 1
        left -= count
    assert len(sync_round.unrequested) == len(sync_round.their_vector) == STREAMS_PER_ROUND
    assert sync_round.streams_dropped == 1


def test_pages_beyond_the_limit_of_a_round_are_ignored() -> None:
    node = SyncingNode()
    peer, sync_round = node.begin(0.0)
    node.page(peer, 32, 256, [stream_up_to(5)], 0.0)
    assert not sync_round.unrequested
    assert ENTRIES_PER_PAGE * 32 == STREAMS_PER_ROUND


def test_a_peer_that_sends_only_empty_repairs_ends_the_round() -> None:
    node = SyncingNode()
    peer, sync_round = node.begin(0.0)
    node.page(peer, 0, 1, [stream_up_to(5)], 0.0)
    assert sync_round.requested
    for step in range(1, 6):
        node.rounds.handle(Repair(sync_round.number, False, False, ()), peer, step / 2)
        node.rounds.advance(step / 2)
    node.rounds.advance(ROUND_TIMEOUT_S)
    assert peer not in node.rounds._active_rounds
    assert node.rounds._requests.broken_promises == 1
    other = next(n for n in (1, 2, 3) if peer_id(n) != peer)
    assert node.offer(other, 5, ROUND_TIMEOUT_S) == [stream_up_to(5)]


def test_no_round_exceeds_its_time_limit() -> None:
    node = SyncingNode()
    peer, sync_round = node.begin(0.0)
    node.page(peer, 0, 1, [stream_up_to(5)], 0.0)
    now = 0.0
    while now < ROUND_LIMIT_S:
        node.rounds.advance(now)
        assert peer in node.rounds._active_rounds
        node.rounds.on_fragment(peer, now)
        now += 1.0
    node.rounds.advance(ROUND_LIMIT_S)
    assert node.rounds._active_rounds.get(peer) is not sync_round


@pytest.mark.usefixtures("patch_sources")
def test_a_request_scans_a_limited_number_of_gaps() -> None:
    node = SyncingNode()
    for sequence in range(2, 2 * 256 + 1, 2):
        body = RumorCopy(Rumor(peer_id(90), EPOCH, sequence, (0,), b"", bytes(64)), 1, 0)
        node.store.insert(body, peer_id(3), True, 0.0)
    scanned: list[int] = []
    missing = node.store.missing

    def counting(theirs: StreamRange, now: float, limit: float = 0) -> list[StreamRange]:
        found = missing(theirs, now, limit)
        scanned.append(len(found))
        return found

    node.store.missing = counting  # type: ignore[method-assign]
    for number in (1, 2, 3):
        node.offer(number, 10_000, 0.0)
        assert sum(scanned) <= RANGES_SCANNED_LIMIT
        scanned.clear()


def test_peers_with_offers_are_remembered_up_to_the_limit() -> None:
    node = SyncingNode()
    entry = (stream_up_to(5),)
    for number in range(REMEMBERED_PEERS_LIMIT + 1):
        peer = PeerId(number.to_bytes(32, "big"))
        node.rounds.handle(Vector(1, False, 0, 1, entry), peer, 0.0)
    assert len(node.rounds._counter_requested_at) == REMEMBERED_PEERS_LIMIT
    node.rounds.advance(ROUND_TIMEOUT_S)
    assert not node.rounds._counter_requested_at


def test_a_peer_that_delivers_nothing_it_claimed_is_charged_with_a_broken_promise() -> None:
    node = SyncingNode()
    peer, sync_round = node.begin(0.0)
    node.page(peer, 0, 1, [stream_up_to(5)], 0.0)
    idle = node.rounds.handle(Repair(sync_round.number, False, False, ()), peer, 1.0)
    assert Penalize(peer, Offense.STALLED_ROUND) in idle
    assert Penalize(peer, Offense.BROKEN_PROMISE, 1) in node.rounds.advance(ROUND_TIMEOUT_S)


def test_repeated_requests_for_the_same_message_are_penalized() -> None:
    node = SyncingNode()
    body = RumorCopy(Rumor(peer_id(90), EPOCH, 1, (0,), b"", bytes(64)), 1, 0)
    node.store.insert(body, peer_id(3), True, 0.0)
    request = IWant(1, (stream_up_to(1),))
    offense = Penalize(peer_id(1), Offense.REPEATED_REQUEST)
    charged = [offense in node.rounds.handle(request, peer_id(1), n / 10) for n in range(10)]
    assert charged == [False] * BODY_REPEATS_LIMIT + [True] * (10 - BODY_REPEATS_LIMIT)


# --- one state machine alone, each time and number at its edge ------------------------------------


def test_repair_waits_while_fragments_arrive_and_goes_on_two_seconds_after_the_last() -> None:
    node = SyncingNode()
    node.rounds.on_fragment(peer_id(1), 10.0)
    assert node.offer(2, 5, 12.0) == []
    assert node.offer(2, 5, 12.01) == [stream_up_to(5)]


def test_requests_outside_of_rounds_have_numbers_that_no_round_reaches_soon() -> None:
    assert (GAP_REQUEST_ROUND, LAZY_REQUEST_ROUND) == (0, 2**32 - 1)
    node = SyncingNode()
    _, sync_round = node.begin(0.0)
    assert sync_round.number == 1


def test_a_digest_that_is_equal_is_answered_in_sync_and_another_by_a_vector() -> None:
    node = SyncingNode()
    streams, checksum = node.store.digest(0.0)
    equal = Digest(9, streams, checksum)
    assert node.rounds.handle(equal, peer_id(1), 0.0) == [Send((peer_id(1),), InSync(9))]
    other = Digest(9, streams + 1, checksum)
    assert node.rounds.handle(other, peer_id(1), 0.0) == [
        Send((peer_id(1),), Vector(9, True, 0, 1, ()))
    ]


def test_a_vector_is_sent_in_pages_and_the_last_one_may_be_short() -> None:
    node = SyncingNode()
    entries = [
        StreamRange(Stream(PeerId(n.to_bytes(32, "big")), EPOCH), 1, 5)
        for n in range(2 * ENTRIES_PER_PAGE + 1)
    ]
    for count, sizes in (
        (0, [0]),
        (1, [1]),
        (ENTRIES_PER_PAGE, [ENTRIES_PER_PAGE]),
        (ENTRIES_PER_PAGE + 1, [ENTRIES_PER_PAGE, 1]),
        (2 * ENTRIES_PER_PAGE + 1, [ENTRIES_PER_PAGE, ENTRIES_PER_PAGE, 1]),
    ):
        sent = node.rounds._send_vector(peer_id(1), 3, entries[:count], answering=True)
        pages = [each.message for each in sent if isinstance(each, Send)]
        assert all(isinstance(page, Vector) for page in pages)
        vectors = [page for page in pages if isinstance(page, Vector)]
        assert [len(page.entries) for page in vectors] == sizes
        assert [(page.page, page.pages) for page in vectors] == [
            (index, len(sizes)) for index in range(len(sizes))
        ]
        assert [entry for page in vectors for entry in page.entries] == entries[:count]


def test_in_sync_ends_the_round_it_names_and_any_other_is_unsolicited() -> None:
    node = SyncingNode()
    peer, sync_round = node.begin(0.0)
    unsolicited = [CountDrop(peer, DropReason.UNSOLICITED)]
    assert node.rounds.handle(InSync(sync_round.number + 99), peer, 0.0) == unsolicited
    [done] = node.rounds.handle(InSync(sync_round.number), peer, 0.5)
    assert isinstance(done, Emit)
    assert isinstance(done.event, AntiEntropyRound)
    assert done.event.round.outcome is RoundOutcome.IN_SYNC
    assert node.rounds.handle(InSync(sync_round.number), peer, 0.5) == unsolicited
    assert node.rounds.handle(Vector(99, True, 0, 1, ()), peer, 0.5) == unsolicited


def heartbeat(streams: int, checksum: bytes) -> Heartbeat:
    """The part of a heartbeat that anti-entropy reads."""
    return Heartbeat(1, 0, 0, 0, streams, checksum, ())


def test_a_heartbeat_that_differs_starts_a_round_two_seconds_later_if_it_still_differs() -> None:
    node = SyncingNode()
    rounds = node.rounds
    rounds.next_round_at = 1e6
    streams, checksum = node.store.digest(100.0)
    rounds.handle(heartbeat(streams + 1, checksum), peer_id(1), 100.0)
    rounds.handle(heartbeat(streams + 1, checksum), peer_id(1), 101.0)
    rounds.advance(101.9)
    assert not rounds._active_rounds
    rounds.advance(102.0)
    assert list(rounds._active_rounds) == [peer_id(1)]


def test_a_heartbeat_that_is_equal_again_starts_no_round() -> None:
    node = SyncingNode()
    rounds = node.rounds
    rounds.next_round_at = 1e6
    streams, checksum = node.store.digest(100.0)
    rounds.handle(heartbeat(streams + 1, checksum), peer_id(1), 100.0)
    rounds.handle(heartbeat(streams, checksum), peer_id(1), 101.0)
    rounds.advance(110.0)
    assert not rounds._active_rounds
    rounds.handle(heartbeat(streams + 1, checksum), peer_id(50), 120.0)
    rounds.advance(130.0)
    assert not rounds._active_rounds, "no link with it"


@pytest.mark.parametrize(("pause_s", "is_repeated"), [(3.0, False), (29.9, False), (30.0, True)])
def test_a_round_that_found_nothing_is_not_repeated_within_thirty_seconds(
    pause_s: float, is_repeated: bool
) -> None:
    node = SyncingNode()
    rounds = node.rounds
    rounds.next_round_at = 1e6
    streams, checksum = node.store.digest(100.0)
    rounds.handle(heartbeat(streams + 1, checksum), peer_id(1), 100.0)
    rounds.advance(102.0)
    node.page(peer_id(1), 0, 1, [], 102.0)
    assert not rounds._active_rounds
    rounds.handle(heartbeat(streams + 1, checksum), peer_id(1), 100.0 + pause_s)
    rounds.advance(102.0 + pause_s)
    assert bool(rounds._active_rounds) is is_repeated


def test_rounds_start_once_per_interval_and_never_while_disabled() -> None:
    node = SyncingNode()
    rounds = node.rounds
    interval_s = rounds._config.current.anti_entropy.interval
    assert 0.0 <= rounds.next_round_at <= interval_s
    rounds.next_round_at = 100.0
    rounds.advance(99.9)
    assert not rounds._active_rounds
    rounds.advance(100.0)
    assert len(rounds._active_rounds) == rounds._config.current.anti_entropy.fanout
    assert rounds.next_round_at == 100.0 + interval_s
    node.tables.reconfigure(anti_entropy=AntiEntropyConfig(interval=7.0))
    rounds.reconfigure(101.0)
    assert rounds.next_round_at == min(100.0 + interval_s, 108.0)
    node.tables.reconfigure(anti_entropy=AntiEntropyConfig(enabled=False))
    rounds.reconfigure(102.0)
    assert rounds.deadline == float("inf")


def test_a_round_sends_the_digest_of_the_store_and_waits_three_seconds_for_the_peer() -> None:
    node = SyncingNode()
    node.store.insert(copy(90, 1), peer_id(1), True, 0.0)
    node.rounds.next_round_at = 1e6
    node.rounds.advance(5.0)
    start = node.rounds.start_rounds(10.0)[0]
    assert isinstance(start, Send)
    assert start.message == Digest(1, *node.store.digest(10.0))
    assert node.rounds.deadline == 13.0


def test_a_reply_asks_for_what_is_missing_and_the_round_ends_when_it_has_come() -> None:
    node = SyncingNode()
    peer, sync_round = node.begin(0.0)
    [request] = node.page(peer, 0, 1, [stream_up_to(5)], 0.1)
    assert request == Send((peer,), IWant(sync_round.number, (stream_up_to(5),)))
    done = node.rounds.handle(Repair(sync_round.number, True, False, ()), peer, 0.2)
    assert any(isinstance(each, Emit) for each in done)
    assert peer not in node.rounds._active_rounds


def test_a_reply_before_the_last_page_asks_at_once_and_offers_nothing_yet() -> None:
    node = SyncingNode()
    body = RumorCopy(Rumor(peer_id(91), EPOCH, 1, (0,), b"", bytes(64)), 1, 0)
    node.store.insert(body, peer_id(3), True, 0.0)
    peer, sync_round = node.begin(1.0)
    first = node.page(peer, 0, 2, [stream_up_to(5)], 1.0)
    assert [type(each.message) for each in first if isinstance(each, Send)] == [IWant]
    second = node.page(peer, 1, 2, [], 1.0)
    offered = [each.message for each in second if isinstance(each, Send)]
    ours = StreamRange(Stream(peer_id(91), EPOCH), 1, 1)
    assert offered == [Vector(sync_round.number, False, 0, 1, (ours,))]


def test_copies_beyond_24_in_one_repair_are_dropped_and_counted() -> None:
    node = SyncingNode()
    body = RumorCopy(Rumor(peer_id(90), EPOCH, 1, (0,), b"", bytes(64)), 1, 0)
    for count, dropped in ((24, 0), (25, 1), (27, 3)):
        effects = node.rounds.handle(Repair(7, True, False, (body,) * count), peer_id(1), 0.0)
        assert effects.count(CountDrop(peer_id(1), DropReason.TOO_LARGE)) == dropped


def test_an_offer_repeated_within_three_seconds_does_not_extend_the_first_request() -> None:
    node = SyncingNode()
    node.offer(1, 5, 0.0)
    node.offer(1, 5, ROUND_TIMEOUT_S - 0.1)
    assert node.rounds._counter_requested_at[peer_id(1)] == 0.0
    node.offer(1, 5, ROUND_TIMEOUT_S)
    assert node.rounds._counter_requested_at[peer_id(1)] == ROUND_TIMEOUT_S


def test_a_closed_link_ends_its_round_and_frees_what_it_was_asked_for() -> None:
    node = SyncingNode()
    peer, _ = node.begin(0.0)
    node.page(peer, 0, 1, [stream_up_to(5)], 0.1)
    other = next(n for n in (1, 2, 3) if peer_id(n) != peer)
    assert node.offer(other, 5, 0.2) == []
    [done] = node.rounds.on_link_down(peer, 0.3)
    assert isinstance(done, Emit)
    assert node.rounds.on_link_down(peer, 0.3) == []
    assert node.offer(other, 5, 0.4) == [stream_up_to(5)]


@pytest.mark.parametrize(
    ("number", "is_asked"), [(60, True), (61, False), (62, False), (63, False), (1, False)]
)
def test_a_gap_of_five_seconds_is_requested_from_an_unlinked_member_that_can_be_dialed(
    number: int, is_asked: bool
) -> None:
    node = SyncingNode()
    members = node.tables.members
    for each in list(members):
        members.remove(each.record.peer_id)
    node.tables.reconfigure(denied=frozenset({peer_id(62)}))
    members.ensure(record(number, left=number == 61), 0.0)
    if number == 63:
        member = members.get(peer_id(63))
        assert member is not None
        member.set_status(MemberStatus.DOWN, "", 0.0)
    for first in (1, 3):
        node.store.insert(copy(90, first), peer_id(1), False, 0.0)
    request = Send((peer_id(number),), IWant(GAP_REQUEST_ROUND, (stream_up_to(2, 2),)))
    assert request not in node.rounds.start_rounds(4.9)
    assert (request in node.rounds.start_rounds(5.0)) is is_asked


@pytest.mark.usefixtures("patch_sources")
def test_eight_members_are_drawn_to_find_one_without_a_link(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = SyncingNode()
    for first in (1, 3):
        node.store.insert(copy(90, first), peer_id(1), False, 0.0)
    drawn: list[int] = []

    def sample(count: int, rng: object) -> list[object]:
        drawn.append(count)
        return []

    monkeypatch.setattr(node.tables.members, "sample", sample)
    node.rounds.start_rounds(5.0)
    assert drawn == [8]


def test_an_empty_answer_to_a_request_for_announced_rumors_is_a_refusal() -> None:
    node = SyncingNode()
    body = copy(90, 1)
    for repair in (
        Repair(LAZY_REQUEST_ROUND, True, False, ()),
        Repair(LAZY_REQUEST_ROUND, True, False, (body,)),
        Repair(LAZY_REQUEST_ROUND, False, False, ()),  # more follows
        Repair(GAP_REQUEST_ROUND, True, False, ()),
    ):
        node.rounds.handle(repair, peer_id(2), 0.0)
    assert node.broadcast.refused_by == [peer_id(2)]


# --- catching up ----------------------------------------------------------------------------------


def is_caught_up(effects: list[Effect]) -> bool:
    return any(isinstance(each, Emit) and isinstance(each.event, CaughtUp) for each in effects)


def test_a_node_that_catches_up_asks_all_peers_for_their_vectors() -> None:
    node = SyncingNode()
    streams, checksum = node.store.digest(10.0)
    sent = [each for each in node.rounds.catch_up(10.0, 60.0) if isinstance(each, Send)]
    assert {each.peers for each in sent} == {(peer_id(number),) for number in (1, 2, 3)}
    for each in sent:
        assert isinstance(each.message, Digest)
        assert (each.message.streams, each.message.checksum) != (streams, checksum)


def test_an_equal_digest_proves_what_a_peer_had_two_seconds_before() -> None:
    node = SyncingNode()
    node.rounds.catch_up(10.0, 60.0)
    equal = heartbeat(*node.store.digest(10.0))
    for now, is_proof in ((11.9, False), (12.0, True)):
        effects = [node.rounds.handle(equal, peer_id(number), now) for number in (1, 2, 3)]
        assert [is_caught_up(each) for each in effects] == [False, False, is_proof]


def test_a_node_has_not_caught_up_while_what_a_peer_has_is_on_its_way() -> None:
    """A peer that was asked and sent nothing has none; fragments hold the request itself back."""
    for is_held, brought, caught_up in (
        (False, (), True),
        (False, (copy(90, 1),), False),
        (True, (), False),
    ):
        node = SyncingNode()
        node.rounds.next_round_at = 1e6
        node.rounds.catch_up(10.0, 60.0)
        for number in (1, 2):
            assert not is_caught_up(node.page(peer_id(number), 0, 1, [], 10.1))
        if is_held:
            node.rounds.on_fragment(peer_id(2), 10.2)
        number = node.rounds._active_rounds[peer_id(3)].number
        effects = node.page(peer_id(3), 0, 1, [stream_up_to(5)], 10.2)
        assert any(isinstance(each, Send) for each in effects) is not is_held
        if not is_held:
            effects = node.rounds.handle(Repair(number, True, False, brought), peer_id(3), 10.3)
        assert is_caught_up(effects) is caught_up
        again = [each for each in node.rounds.advance(10.4) if isinstance(each, Send)]
        assert [each.peers for each in again] == ([] if caught_up else [(peer_id(3),)])


# --- when rounds are begun and which count as fruitless ---------------------------------------------


def quiet_node() -> SyncingNode:
    """A node that starts no rounds of itself."""
    node = SyncingNode()
    node.rounds.next_round_at = 1e6
    node.rounds.advance(0.0)
    return node


def digests_to(effects: list[Effect]) -> list[PeerId]:
    return [
        each.peers[0]
        for each in effects
        if isinstance(each, Send) and isinstance(each.message, Digest)
    ]


def differ(node: SyncingNode, number: int, now: float) -> list[PeerId]:
    """A heartbeat of a peer differs for two seconds; the peers with which rounds begin then."""
    streams, checksum = node.store.digest(now)
    node.rounds.handle(heartbeat(streams + 1, checksum), peer_id(number), now)
    return digests_to(node.rounds.advance(now + 2.0))


def test_a_round_without_an_answer_is_repeated_at_once() -> None:
    node = quiet_node()
    assert differ(node, 1, 10.0) == [peer_id(1)]
    node.rounds.advance(15.0)
    assert not node.rounds._active_rounds
    assert differ(node, 1, 16.0) == [peer_id(1)]


def test_a_round_that_brought_messages_is_repeated_at_once() -> None:
    node = quiet_node()
    assert differ(node, 1, 10.0) == [peer_id(1)]
    node.page(peer_id(1), 0, 1, [stream_up_to(5)], 12.0)
    number = node.rounds._active_rounds[peer_id(1)].number
    node.rounds.handle(Repair(number, True, False, (copy(90, 1),)), peer_id(1), 12.1)
    assert not node.rounds._active_rounds
    assert differ(node, 1, 13.0) == [peer_id(1)]


def test_a_round_in_which_another_peer_was_to_send_the_messages_is_repeated_at_once() -> None:
    node = quiet_node()
    node.offer(2, 5, 11.9)
    assert differ(node, 1, 10.0) == [peer_id(1)]
    node.page(peer_id(1), 0, 1, [stream_up_to(5)], 12.0)
    assert not node.rounds._active_rounds
    assert differ(node, 1, 13.0) == [peer_id(1)]


def test_a_round_that_found_nothing_is_repeated_once_something_changed_here() -> None:
    node = quiet_node()
    assert differ(node, 1, 100.0) == [peer_id(1)]
    node.page(peer_id(1), 0, 1, [], 102.0)
    assert differ(node, 1, 103.0) == []
    assert differ(node, 2, 103.0) == [peer_id(2)], "another peer may have what is missing"
    node.page(peer_id(2), 0, 1, [], 105.0)
    node.store.insert(copy(91, 1), peer_id(3), True, 105.0)
    assert differ(node, 1, 110.0) == [peer_id(1)]


def test_rounds_that_found_nothing_are_remembered_of_1024_peers() -> None:
    node = quiet_node()
    for number in range(1000, 1000 + REMEMBERED_PEERS_LIMIT + 1):
        node.tables.link(number)
        assert differ(node, number, 100.0) == [peer_id(number)]
        node.page(peer_id(number), 0, 1, [], 102.0)
    assert REMEMBERED_PEERS_LIMIT == 1024
    assert differ(node, 1001, 103.0) == []
    assert differ(node, 1000, 103.0) == [peer_id(1000)]


@pytest.mark.parametrize(("last", "begins"), [(MESSAGES_PER_REQUEST, False), (1000, True)])
def test_a_round_of_our_own_follows_an_offer_only_for_what_one_request_leaves(
    last: int, begins: bool
) -> None:
    node = quiet_node()
    node.offer(1, last, 10.0)
    assert any(isinstance(each, Digest) for each in node.sent) is begins
    node.offer(1, 1000, 20.0)
    assert any(isinstance(each, Digest) for each in node.sent) is not begins, "one at a time"


def test_no_round_follows_an_offer_of_a_peer_without_a_link_or_while_fragments_arrive() -> None:
    node = quiet_node()
    assert node.offer(50, 1000, 10.0)
    assert not any(isinstance(each, Digest) for each in node.sent)
    node.rounds.on_fragment(peer_id(2), 20.0)
    assert node.offer(1, 1000, 20.1) == []
    assert not any(isinstance(each, Digest) for each in node.sent)


def test_a_digest_that_still_differs_is_compared_by_one_round_alone() -> None:
    node = quiet_node()
    node.offer(1, 1000, 11.0)
    assert any(isinstance(each, Digest) for each in node.sent)
    assert differ(node, 1, 10.0) == []


def test_a_digest_of_a_peer_makes_a_round_for_an_earlier_difference_needless() -> None:
    node = quiet_node()
    streams, checksum = node.store.digest(10.0)
    node.rounds.handle(heartbeat(streams + 1, checksum), peer_id(1), 10.0)
    node.rounds.handle(Digest(4, streams + 1, checksum), peer_id(1), 11.0)
    assert node.rounds.advance(13.0) == []


@pytest.mark.parametrize(("age_s", "delay_s"), [(0.0, 0.25), (0.49, 0.25), (0.5, 2.0)])
def test_a_new_link_is_compared_within_half_a_second(
    age_s: float, delay_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = quiet_node()
    peer = node.tables.peers.get(peer_id(1))
    assert peer is not None
    peer.on_link_up(None, 10.0, is_self_chosen=True)
    monkeypatch.setattr(node.rounds._rng, "random", lambda: 0.5)
    streams, checksum = node.store.digest(10.0)
    node.rounds.handle(heartbeat(streams + 1, checksum), peer_id(1), 10.0 + age_s)
    assert node.rounds.deadline == 10.0 + age_s + delay_s


def test_digests_that_differ_are_answered_a_few_times_and_then_penalized() -> None:
    node = quiet_node()
    streams, checksum = node.store.digest(10.0)
    refused: list[Effect] = [
        CountDrop(peer_id(1), DropReason.RATE_LIMITED),
        Penalize(peer_id(1), Offense.REPEATED_REQUEST),
    ]
    answers = [
        node.rounds.handle(Digest(number, streams + 1, checksum), peer_id(1), 10.0)
        for number in range(20)
    ]
    answered = [each != refused for each in answers]
    assert answered == sorted(answered, reverse=True)
    assert answered.count(True) == 8


def test_our_messages_without_a_body_are_not_offered() -> None:
    node = quiet_node()
    for number in (91, 92, 93):
        node.store.insert(copy(number, 1), peer_id(3), True, 0.0)
    node.store.cache.remove_stream(Stream(peer_id(91), EPOCH))
    peer, sync_round = node.begin(1.0)
    theirs = [StreamRange(Stream(peer_id(92), EPOCH), 1, 1)]
    offered = [
        each.message for each in node.page(peer, 0, 1, theirs, 1.0) if isinstance(each, Send)
    ]
    ours = StreamRange(Stream(peer_id(93), EPOCH), 1, 1)
    assert offered == [Vector(sync_round.number, False, 0, 1, (ours,))]
    assert not sync_round.is_done
    done = node.rounds.handle(IWant(sync_round.number, ()), peer, 1.1)
    assert [type(each) for each in done] == [Emit], "it wants none of it"


def test_a_round_of_ours_requests_nothing_while_fragments_arrive() -> None:
    node = quiet_node()
    peer, _ = node.begin(1.0)
    node.rounds.on_fragment(peer, 1.0)
    (done,) = node.page(peer, 0, 1, [stream_up_to(5)], 1.1)
    assert isinstance(done, Emit)
    assert isinstance(done.event, AntiEntropyRound)
    assert done.event.round.outcome is RoundOutcome.PARTIAL


def test_a_page_that_comes_while_a_request_is_open_is_requested_after_the_answer() -> None:
    node = quiet_node()
    peer, sync_round = node.begin(1.0)
    node.page(peer, 0, 2, [stream_up_to(5)], 1.0)
    other = StreamRange(Stream(peer_id(91), EPOCH), 1, 3)
    assert node.page(peer, 1, 2, [other], 1.1) == []
    (request,) = node.rounds.handle(Repair(sync_round.number, True, False, ()), peer, 1.2)
    assert request == Send((peer,), IWant(sync_round.number, (other,)))


def test_gaps_are_not_requested_while_fragments_arrive() -> None:
    node = quiet_node()
    for first in (1, 3):
        node.store.insert(copy(90, first), peer_id(1), False, 10.0)
    node.rounds.on_fragment(peer_id(1), 10.9)
    at, _, request = timeline.sent(node.rounds, IWant, until=20.0)[0]
    assert 12.9 < at < 14.0
    assert request == IWant(GAP_REQUEST_ROUND, (stream_up_to(2, 2),))


def test_a_promise_that_was_kept_is_credited_once() -> None:
    node = quiet_node()
    node.offer(1, 5, 10.0)
    node.rounds._requests.on_progress(peer_id(1), 10.5)
    node.rounds.reconfigure(20.0)
    assert node.rounds.advance(20.0) == [Credit(peer_id(1), 1)]
    node.rounds.reconfigure(30.0)
    assert node.rounds.advance(30.0) == []


def test_each_difference_is_compared_at_its_own_time_and_each_round_waits_for_its_own() -> None:
    node = quiet_node()
    streams, checksum = node.store.digest(10.0)
    for number, now in ((1, 10.0), (2, 11.0)):
        node.rounds.handle(heartbeat(streams + 1, checksum), peer_id(number), now)
    ends: list[tuple[float, PeerId]] = []
    begins: list[tuple[float, PeerId]] = []
    while node.rounds.deadline < 100.0:
        at, effects = timeline.advance(node.rounds)
        begins += [(at, each) for each in digests_to(effects)]
        ends += [
            (at, each.event.round.peer)
            for each in effects
            if isinstance(each, Emit) and isinstance(each.event, AntiEntropyRound)
        ]
    assert begins == [(12.0, peer_id(1)), (13.0, peer_id(2))]
    assert ends == [(15.0, peer_id(1)), (16.0, peer_id(2))]


def test_a_difference_that_is_gone_after_two_seconds_was_a_message_in_transit() -> None:
    node, ahead = quiet_node(), quiet_node()
    ahead.store.insert(copy(90, 1), peer_id(3), True, 0.0)
    node.rounds.handle(heartbeat(*ahead.store.digest(10.0)), peer_id(1), 10.0)
    node.store.insert(copy(90, 1), peer_id(3), True, 10.0)
    assert node.rounds.advance(12.0) == []


def test_a_closed_link_leaves_nothing_to_compare_and_nothing_remembered() -> None:
    node = quiet_node()
    streams, checksum = node.store.digest(10.0)
    node.rounds.handle(heartbeat(streams + 1, checksum), peer_id(1), 10.0)
    node.rounds.on_link_down(peer_id(1), 11.0)
    assert node.rounds.advance(12.0) == []
    assert differ(node, 1, 20.0) == [peer_id(1)]
    node.page(peer_id(1), 0, 1, [], 22.0)
    node.rounds.on_link_down(peer_id(1), 23.0)
    assert differ(node, 1, 24.0) == [peer_id(1)], "that it found nothing is forgotten"
    node.offer(2, 5, 30.0)
    node.rounds.on_link_down(peer_id(2), 30.0)
    assert not node.rounds._counter_requested_at


def test_what_a_peer_was_asked_for_in_our_round_is_not_requested_in_its_own() -> None:
    node = quiet_node()
    peer, sync_round = node.begin(1.0)
    node.page(peer, 0, 1, [stream_up_to(5)], 1.0)
    number = next(each for each in (1, 2, 3) if peer_id(each) == peer)
    other = next(each for each in (1, 2, 3) if each != number)
    assert node.offer(number, 5, 1.1) == []
    assert node.offer(other, 5, 1.2) == [], "our request is as it was"
    node.rounds.handle(Repair(sync_round.number, True, False, ()), peer, 1.3)
    assert node.rounds._requests.broken_promises == 1
    assert node.offer(other, 5, 5.0) == [stream_up_to(5)]


def test_a_part_of_an_answer_does_not_end_the_exclusivity_of_an_offer() -> None:
    node = quiet_node()
    node.offer(1, 5, 10.0)
    node.rounds.handle(Repair(7, False, False, (copy(90, 1),)), peer_id(1), 10.1)
    assert node.offer(2, 5, 10.2) == []


def test_repairs_are_handed_on_with_the_way_that_they_came_up_to_24_of_a_message() -> None:
    node = quiet_node()
    for number, via in ((LAZY_REQUEST_ROUND, Via.LAZY), (GAP_REQUEST_ROUND, Via.REPAIR)):
        node.broadcast.accepted.clear()
        copies = tuple(copy(90, first) for first in range(1, 27))
        node.rounds.handle(Repair(number, True, False, copies), peer_id(1), 10.0)
        assert node.broadcast.accepted == [(first, via) for first in range(1, 25)]


@pytest.mark.parametrize("is_new", [True, False])
def test_what_is_new_extends_a_round_and_the_request_in_it(is_new: bool) -> None:
    node = quiet_node()
    message = Message(MessageId(peer_id(90), EPOCH, 1), b"new", 1, Via.REPAIR, 3.0)
    node.broadcast.effects = [Deliver((message,) if is_new else ())]
    peer, sync_round = node.begin(1.0)
    node.page(peer, 0, 1, [stream_up_to(5)], 1.0)
    part = Repair(sync_round.number, False, False, (copy(90, 1),))
    node.rounds.handle(part, peer, 3.0)
    node.rounds.advance(4.0)
    assert (peer in node.rounds._active_rounds) is is_new
    assert node.rounds._requests.broken_promises == (not is_new)
    node.rounds.advance(6.0)
    assert peer not in node.rounds._active_rounds


def test_a_request_that_brings_an_announcement_or_another_body_is_no_repetition() -> None:
    node = quiet_node()
    node.store.insert(copy(90, 1), peer_id(3), True, 0.0)
    for _ in range(4):
        node.rounds.handle(IWant(1, (stream_up_to(1),)), peer_id(1), 10.0)
    penalty = Penalize(peer_id(1), Offense.REPEATED_REQUEST)
    body = bytes(10_000)
    attributes = rumor_attributes(topic="deploy")
    large = Rumor(peer_id(90), EPOCH, 2, (len(body),), body, bytes(64), attributes)
    node.store.insert(RumorCopy(large, 1, 0), peer_id(3), True, 10.0)
    node.store.insert(copy(90, 3), peer_id(3), True, 10.0)
    for ranges, is_penalized in (((1, 2), False), ((3, 3), False), ((1, 1), True)):
        request = IWant(1, (stream_up_to(ranges[1], ranges[0]),))
        assert (penalty in node.rounds.handle(request, peer_id(1), 10.0)) is is_penalized
    node.rounds.handle(IWant(1, (stream_up_to(3, 3),)), peer_id(2), 10.0)
    assert penalty not in node.rounds.handle(IWant(1, (stream_up_to(3),)), peer_id(1), 10.0)


def test_a_node_that_catches_up_waits_for_a_round_that_is_on_its_way() -> None:
    node = quiet_node()
    node.begin(10.0)
    waiting = set(node.rounds._active_rounds)
    started = set(digests_to(node.rounds.catch_up(10.0, 60.0)))
    assert waiting | started == {peer_id(number) for number in (1, 2, 3)}
    assert not waiting & started


def test_a_round_without_an_answer_proves_nothing() -> None:
    node = quiet_node()
    node.rounds.catch_up(10.0, 60.0)
    for number in (1, 2):
        node.page(peer_id(number), 0, 1, [], 10.1)
    effects = node.rounds.advance(13.0)
    assert any(isinstance(each, Emit) for each in effects), "the round with the third peer ends"
    assert not is_caught_up(effects)


def test_a_node_has_not_caught_up_while_another_peer_is_to_send_what_it_lacks() -> None:
    node = quiet_node()
    node.rounds.catch_up(10.0, 60.0)
    node.page(peer_id(1), 0, 1, [stream_up_to(5)], 10.1)
    number = node.rounds._active_rounds[peer_id(1)].number
    assert not is_caught_up(node.page(peer_id(2), 0, 1, [stream_up_to(5)], 10.1))
    assert not is_caught_up(node.page(peer_id(3), 0, 1, [], 10.1))
    effects = node.rounds.handle(Repair(number, True, False, ()), peer_id(1), 10.2)
    assert not is_caught_up(effects), "the others are compared again"
