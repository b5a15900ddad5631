"""Trace: who is asked, which way receipts go, when they are sent again, and what liars can do."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass, field, replace

import pytest

from grapevine_proto.errors import DropReason
from grapevine_proto.events import PeerState, Trace, TraceUpdated
from grapevine_proto.ids import MessageId, PeerId, Stream, StreamRange
from grapevine_proto.messages import Ids, Offer, Receipts, ReceiptsTaken, RumorCopy
from grapevine_proto.overlay import trace as trace_module
from grapevine_proto.overlay.effects import Blame, Effect, Emit, Send
from grapevine_proto.overlay.members import MemberTable
from grapevine_proto.overlay.peers import Happening, PeerTable
from grapevine_proto.overlay.signatures import Signatures
from grapevine_proto.overlay.trace import (
    BATCHES_LIMIT,
    LAPS,
    LEAST_S,
    OTHERS_LIMIT,
    RECEIPTS_LIMIT,
    RECEIPTS_PER_PEER,
    RELAYS_LIMIT,
    ROUTES_LIMIT,
    ROUTES_PER_ORIGIN,
    SECOND_S,
    SPREAD_S,
    TELLERS_LIMIT,
    TRACES_LIMIT,
    TRIES,
    Sample,
    Tracing,
    share_of,
)
from grapevine_proto.signed import TRACE_ALL, Receipt, Rumor
from tests.overlay.made import EPOCH, config, identity, peer_id, record

ME = 500
ORIGIN = 90
FAR = 40  # a member that is linked to nobody here


def message_id(sequence: int = 1, origin: int = ORIGIN) -> MessageId:
    return MessageId(peer_id(origin), EPOCH, sequence)


def traced(sequence: int = 1, origin: int = ORIGIN, share: int = TRACE_ALL) -> RumorCopy:
    rumor = Rumor(peer_id(origin), EPOCH, sequence, (1,), b"x", bytes(64), share)
    return RumorCopy(rumor, 2, 70)


def receipt(member: int, of: MessageId, *, hops: int = 3, delay_ms: int = 40) -> Receipt:
    """As `member` signs it."""
    return Receipt(peer_id(member), hops, delay_ms).signed(identity(member), "default", of)


@dataclass
class Node:
    """A node linked to 1 ... `links`, over round trips of 50 ms, that knows as many `members`."""

    links: int = 4
    members: int = 0
    is_limited: bool = True
    peers: PeerTable = field(init=False)
    table: MemberTable = field(init=False)
    tracing: Tracing = field(init=False)

    def __post_init__(self) -> None:
        settings = config()
        if not self.is_limited:
            limit = settings.rate_limit
            settings = settings.replace(rate_limit=type(limit)(enabled=False))
        self.peers = PeerTable(1000)
        self.table = MemberTable(settings.limits)
        signatures = Signatures(settings)
        self.tracing = Tracing(
            settings, identity(ME), self.peers, self.table, signatures, random.Random(1)
        )
        for number in range(1, self.links + 1):
            self.link(number)
        for number in range(1, self.members + 1):
            self.table.meet(record(number), 0.0)

    def link(self, number: int) -> None:
        peer = self.peers.add(peer_id(number), record(number), record(number).addresses[0], 0.0)
        self.peers.move(peer, Happening.LINKED)
        peer.measured_rtt(0.05)

    def unlink(self, number: int) -> None:
        peer = self.peers.get(peer_id(number))
        assert peer is not None
        assert peer.state is PeerState.CONNECTED
        self.peers.move(peer, Happening.LOST)

    def hear(
        self, sender: int, of: MessageId, *receipts: Receipt, at: float = 0.0, number: int = 7
    ) -> list[Effect]:
        return self.tracing.handle(Receipts(number, of, receipts), peer_id(sender), at)

    def due(self) -> tuple[float, list[Effect]]:
        """What happens next, and when."""
        at = self.tracing.deadline
        assert at < math.inf
        return at, self.tracing.advance(at)

    def sent(self, until: float = 60.0) -> list[tuple[float, PeerId, Receipts]]:
        """Every message of receipts that goes out until then."""
        found = []
        while self.tracing.deadline <= until:
            at, effects = self.due()
            for effect in effects:
                if isinstance(effect, Send) and isinstance(effect.message, Receipts):
                    found += [(at, peer, effect.message) for peer in effect.peers]
        return found

    def report(self, of: MessageId) -> Trace:
        return next(each for each in self.tracing.reports() if each.id == of)


def told(effects: list[Effect]) -> list[Trace]:
    return [
        effect.event.trace
        for effect in effects
        if isinstance(effect, Emit) and isinstance(effect.event, TraceUpdated)
    ]


TAKEN = Send((peer_id(1),), ReceiptsTaken(7))
FORGED = [Blame(peer_id(1), DropReason.BAD_SIGNATURE)]


# --- who is asked -------------------------------------------------------------------------------


@pytest.mark.parametrize("members", [0, 1, 99, 100])
def test_all_of_up_to_a_hundred_members_are_asked(members: int) -> None:
    assert share_of(members) == TRACE_ALL
    assert peer_id(1) in Sample("default", message_id(), TRACE_ALL)


@pytest.mark.parametrize("members", [101, 1000, 10_000])
def test_about_a_hundred_of_more_are_asked(members: int) -> None:
    rng = random.Random(3)
    everyone = [PeerId(rng.randbytes(32)) for _ in range(members)]
    sample = Sample("default", message_id(), share_of(members))
    assert 65 <= sum(member in sample for member in everyone) <= 140


def test_another_message_asks_others_and_every_node_agrees_whom() -> None:
    rng = random.Random(3)
    everyone = [PeerId(rng.randbytes(32)) for _ in range(1000)]
    one, other = (
        {each for each in everyone if each in Sample("default", message_id(n), share_of(1000))}
        for n in (1, 2)
    )
    assert len(one & other) < 30
    again = Sample("default", message_id(1), share_of(1000))
    assert one == {each for each in everyone if each in again}


def test_the_smallest_share_still_asks_somebody() -> None:
    assert share_of(10_000_000) == 1


# --- ours ---------------------------------------------------------------------------------------


def test_a_trace_is_told_of_at_once_and_as_answers_come() -> None:
    node = Node(links=3, members=3)
    assert node.tracing.begin(message_id(1, ME), 1.0) == TRACE_ALL
    (first,) = told(node.tracing.advance(1.0))
    assert (first.known, first.reached, first.p50_ms, first.hops) == (3, 0, None, None)
    assert set(first.unanswered) == {peer_id(1), peer_id(2), peer_id(3)}
    assert node.hear(1, message_id(1, ME), Receipt(peer_id(1), 1, 20), at=1.01) == [TAKEN]
    assert told(node.tracing.advance(1.05)) == []  # at most ten times a second
    at, effects = node.due()
    assert at == pytest.approx(1.1)
    (second,) = told(effects)
    assert (second.reached, second.p50_ms, second.last_ms, second.hops) == (1, 20, 20, 1)
    assert set(second.unanswered) == {peer_id(2), peer_id(3)}
    assert node.tracing.deadline == math.inf


def test_the_last_answer_is_told_at_once() -> None:
    node = Node(links=2, members=2)
    of = message_id(1, ME)
    node.tracing.begin(of, 1.0)
    node.tracing.advance(1.0)
    node.hear(1, of, Receipt(peer_id(1), 1, 20), receipt(2, of, delay_ms=90), at=1.01)
    at, effects = node.due()
    assert at == 1.01
    (whole,) = told(effects)
    assert whole.is_complete
    assert (whole.reached, whole.asked, whole.p50_ms, whole.p99_ms, whole.last_ms) == (
        2,
        2,
        20,
        90,
        90,
    )
    assert whole.hops == 3


def test_members_that_are_gone_are_not_asked() -> None:
    node = Node(members=2)
    node.table.add(record(3, left=True), peer_id(1), 0.0)
    node.tracing.begin(message_id(1, ME), 0.0)
    assert node.report(message_id(1, ME)).known == 2


def test_a_report_says_that_it_is_a_sample_and_of_how_many() -> None:
    node = Node(members=300)
    node.tracing.begin(message_id(1, ME), 0.0)
    report = node.report(message_id(1, ME))
    assert report.known == 300
    assert 65 <= report.asked <= 140
    assert report.is_sample
    assert not report.is_complete


def test_who_answers_and_was_not_known_is_counted_apart() -> None:
    node = Node(members=2)
    of = message_id(1, ME)
    node.tracing.begin(of, 0.0)
    for _ in range(2):
        node.hear(1, of, receipt(FAR, of))
    report = node.report(of)
    assert (report.reached, report.others) == (0, 1)


def test_an_answer_counts_once_and_the_first_one_stands() -> None:
    node = Node(members=2)
    of = message_id(1, ME)
    node.tracing.begin(of, 0.0)
    node.hear(1, of, receipt(2, of, delay_ms=40))
    node.hear(3, of, receipt(2, of, delay_ms=10))
    assert node.report(of).last_ms == 40


def test_the_oldest_of_more_traces_than_are_followed_is_let_go() -> None:
    node = Node(members=2)
    for sequence in range(1, TRACES_LIMIT + 2):
        node.tracing.begin(message_id(sequence, ME), 0.0)
    assert [each.id.sequence for each in node.tracing.reports()] == list(range(2, TRACES_LIMIT + 2))
    assert node.tracing.forgotten == 1
    node.hear(1, message_id(1, ME), Receipt(peer_id(1), 1, 20))
    assert node.tracing.refused == 1


def test_unknown_members_fill_a_table_of_their_own_only() -> None:
    node = Node(members=2, is_limited=False)
    of = message_id(1, ME)
    node.tracing.begin(of, 0.0)
    for number in range(OTHERS_LIMIT + 1):
        node.hear(1, of, receipt(1000 + number, of))
    assert node.report(of).others == OTHERS_LIMIT
    assert node.tracing.refused == 1
    node.hear(1, of, receipt(2, of))
    assert node.report(of).reached == 1


# --- theirs -------------------------------------------------------------------------------------


def test_an_untraced_rumor_is_answered_by_nobody() -> None:
    node = Node()
    node.tracing.arrived(traced(share=0), [peer_id(1)], 0.0)
    assert node.tracing.deadline == math.inf


def test_a_linked_origin_is_told_by_us_unsigned_within_a_tenth_of_a_second() -> None:
    node = Node()
    node.link(ORIGIN)
    node.tracing.arrived(traced(), [peer_id(1)], 5.0)
    at, target, message = node.sent()[0]
    assert 5.0 <= at <= 5.0 + SPREAD_S
    assert target == peer_id(ORIGIN)
    assert message.message_id == message_id()
    assert message.receipts == (Receipt(peer_id(ME), 2, 70),)


def test_an_origin_far_away_is_told_signed_along_the_way_the_rumor_came() -> None:
    node = Node()
    node.tracing.arrived(traced(), [peer_id(3)], 5.0)
    _, target, message = node.sent()[0]
    assert target == peer_id(3)
    (ours,) = message.receipts
    assert ours.member == peer_id(ME)
    assert ours.is_authentic("default", message_id())
    assert not ours.is_authentic("default", message_id(2))
    assert not ours.is_authentic("other", message_id())


def test_who_is_not_in_the_sample_is_silent_and_still_passes_on() -> None:
    share = share_of(10_000)
    sequence = next(
        n
        for n in range(1, 10_000)
        if peer_id(ME) not in (s := Sample("default", message_id(n), share)) and peer_id(FAR) in s
    )
    node = Node()
    node.tracing.arrived(traced(sequence, share=share), [peer_id(3)], 0.0)
    assert node.tracing.deadline == math.inf
    of = message_id(sequence)
    assert node.hear(1, of, receipt(FAR, of)) == [TAKEN]
    (_, target, message), *_ = node.sent()
    assert target == peer_id(3)
    assert [each.member for each in message.receipts] == [peer_id(FAR)]


def test_our_own_rumor_that_comes_back_is_not_answered() -> None:
    node = Node()
    node.tracing.arrived(traced(origin=ME), [peer_id(1)], 0.0)
    assert node.tracing.deadline == math.inf


# --- passing on ---------------------------------------------------------------------------------


def test_receipts_of_others_go_on_together_each_once() -> None:
    node = Node(links=4)
    of = message_id()
    node.tracing.arrived(traced(), [peer_id(4)], 0.0)
    node.hear(1, of, receipt(FAR, of), receipt(FAR + 1, of), number=7)
    node.hear(2, of, receipt(FAR, of), number=8)
    first = node.sent()[0]
    assert first[1] == peer_id(4)
    members = [each.member for each in first[2].receipts]
    assert sorted(members) == sorted([peer_id(ME), peer_id(FAR), peer_id(FAR + 1)])
    assert {each.relays for each in first[2].receipts if each.member != peer_id(ME)} == {1}
    assert node.tracing.relayed == 2


def test_ten_receipts_fill_a_datagram_and_wait_for_no_more() -> None:
    node = Node()
    of = message_id()
    node.tracing.arrived(traced(), [peer_id(4)], 0.0)
    node.hear(1, of, *(receipt(FAR + number, of) for number in range(12)))
    at, effects = node.due()
    assert at == 0.0
    messages = [effect.message for effect in effects if isinstance(effect, Send)]
    assert [len(each.receipts) for each in messages if isinstance(each, Receipts)] == [10, 3]


def test_what_is_taken_goes_one_other_way_a_second_later() -> None:
    node = Node()
    node.tracing.arrived(traced(), [peer_id(3)], 0.0)
    node.tracing.heard_again(traced().rumor, peer_id(2))
    node.tracing.heard_again(traced().rumor, peer_id(1))
    at, effects = node.due()
    (first,) = effects
    assert isinstance(first, Send)
    assert isinstance(first.message, Receipts)
    node.tracing.handle(ReceiptsTaken(first.message.number), peer_id(3), at)
    again_at, target, message = node.sent(until=at + SECOND_S)[-1]
    assert again_at == pytest.approx(at + SECOND_S)
    assert (target, message) == (peer_id(2), first.message)
    node.tracing.handle(ReceiptsTaken(first.message.number), peer_id(2), again_at)
    assert node.sent() == []
    assert node.tracing.lost == 0


def test_what_the_origin_took_needs_no_second_way() -> None:
    node = Node()
    node.link(ORIGIN)
    node.tracing.arrived(traced(), [peer_id(3)], 0.0)
    at, effects = node.due()
    (first,) = effects
    assert isinstance(first, Send)
    assert isinstance(first.message, Receipts)
    node.tracing.handle(ReceiptsTaken(first.message.number), peer_id(ORIGIN), at)
    assert node.sent() == []


def test_what_is_taken_and_has_no_other_way_is_sent_once() -> None:
    node = Node()
    node.tracing.arrived(traced(), [peer_id(3)], 0.0)
    _, effects = node.due()
    (send,) = effects
    assert isinstance(send, Send)
    assert isinstance(send.message, Receipts)
    taken = ReceiptsTaken(send.message.number)
    assert node.tracing.handle(taken, peer_id(2), 0.1) == []  # it was not sent to that one
    assert node.tracing.handle(taken, peer_id(3), 0.1) == []
    assert node.sent() == []
    assert node.tracing.lost == 0


def test_what_nobody_takes_is_sent_again_each_way_in_turn_twice_then_given_up() -> None:
    node = Node()
    node.tracing.arrived(traced(), [peer_id(3)], 0.0)
    node.tracing.heard_again(traced().rumor, peer_id(2))
    sent = node.sent()
    lap = [peer_id(3)] * TRIES + [peer_id(2)] * TRIES
    assert [target for _, target, _ in sent] == lap * LAPS
    gaps = [later[0] - sooner[0] for sooner, later in itertools.pairwise(sent[:TRIES])]
    assert gaps == sorted(gaps)
    assert gaps[0] >= 0.1
    assert len({message.number for _, _, message in sent}) == 1
    assert node.tracing.lost == 1
    assert node.tracing.deadline == math.inf


def test_who_told_of_a_rumor_or_offers_it_is_a_way_back_too() -> None:
    node = Node()
    node.tracing.arrived(traced(), [peer_id(3), peer_id(2)], 0.0)
    node.tracing.told(Offer((traced().rumor.ids,)), peer_id(4))
    assert {target for _, target, _ in node.sent()} == {peer_id(2), peer_id(3), peer_id(4)}


def test_a_way_that_is_gone_is_not_tried() -> None:
    node = Node()
    node.tracing.arrived(traced(), [peer_id(3)], 0.0)
    node.tracing.heard_again(traced().rumor, peer_id(2))
    node.unlink(3)
    assert node.sent()[0][1] == peer_id(2)


def test_an_origin_that_is_lost_before_it_took_our_word_gets_it_signed_by_another_way() -> None:
    node = Node()
    node.link(ORIGIN)
    node.tracing.arrived(traced(), [peer_id(3)], 0.0)
    node.due()
    node.unlink(ORIGIN)
    _, target, message = node.sent()[0]
    assert target == peer_id(3)
    assert message.receipts[0].is_authentic("default", message_id())


def test_who_tells_the_id_of_a_traced_rumor_is_another_way_back() -> None:
    node = Node()
    node.tracing.arrived(traced(9), [peer_id(3)], 0.0)
    stream = Stream(peer_id(ORIGIN), EPOCH)
    ids = Ids((StreamRange(stream, 8, 8), StreamRange(stream, 9, 9)))
    node.tracing.told(ids, peer_id(2))
    node.unlink(3)
    assert node.sent()[0][1] == peer_id(2)


def test_with_no_way_left_a_receipt_is_lost_and_counted() -> None:
    node = Node()
    node.tracing.arrived(traced(), [peer_id(3)], 0.0)
    node.unlink(3)
    assert node.sent() == []
    assert node.tracing.lost == 1


def test_only_so_many_ways_back_are_remembered() -> None:
    node = Node(links=9)
    node.tracing.arrived(traced(), [peer_id(1)], 0.0)
    for number in range(2, 10):
        node.tracing.heard_again(traced().rumor, peer_id(number))
    assert len({target for _, target, _ in node.sent()}) == TELLERS_LIMIT


# --- limits -------------------------------------------------------------------------------------


def test_one_origin_is_followed_in_so_many_messages_at_once() -> None:
    node = Node()
    for sequence in range(1, ROUTES_PER_ORIGIN + 2):
        node.tracing.arrived(traced(sequence), [peer_id(1)], 0.0)
    assert node.tracing.refused == 1
    node.tracing.arrived(traced(1, origin=ORIGIN + 1), [peer_id(1)], 0.0)
    assert node.tracing.refused == 1  # another origin has room of its own
    node.tracing.arrived(traced(100), [peer_id(1)], LEAST_S)
    assert node.tracing.refused == 1
    assert len(node.sent(until=LEAST_S + SPREAD_S)) >= ROUTES_PER_ORIGIN + 2


def test_all_origins_are_followed_in_so_many_messages_at_once() -> None:
    node = Node()
    for number in range(ROUTES_LIMIT + 1):
        node.tracing.arrived(traced(origin=1000 + number), [peer_id(1)], 0.0)
    assert node.tracing.refused == 1
    node.tracing.arrived(traced(origin=3000), [peer_id(1)], LEAST_S)
    assert node.tracing.refused == 1
    of = message_id(origin=1000)  # it made room
    node.hear(1, of, receipt(FAR, of), at=LEAST_S)
    assert node.tracing.refused == 2


def test_one_peer_brings_so_many_receipts_of_one_message() -> None:
    node = Node(is_limited=False)
    of = message_id()
    node.tracing.arrived(traced(), [peer_id(3)], 0.0)
    for number in range(RECEIPTS_PER_PEER + 1):
        assert node.hear(1, of, receipt(1000 + number, of)) == [TAKEN]
    assert (node.tracing.relayed, node.tracing.refused) == (RECEIPTS_PER_PEER, 1)
    node.hear(2, of, receipt(FAR, of))
    assert node.tracing.relayed == RECEIPTS_PER_PEER + 1


def test_one_message_has_so_many_receipts_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    assert RECEIPTS_LIMIT > 4 * RECEIPTS_PER_PEER
    monkeypatch.setattr(trace_module, "RECEIPTS_LIMIT", 20)
    node = Node()
    of = message_id()
    node.tracing.arrived(traced(), [peer_id(3)], 0.0)
    for number in range(20):  # ours is one of the twenty
        node.hear(1, of, receipt(1000 + number, of))
    assert (node.tracing.relayed, node.tracing.refused) == (19, 1)


def test_a_receipt_that_wandered_too_far_goes_no_further() -> None:
    node = Node()
    of = message_id()
    node.tracing.arrived(traced(), [peer_id(3)], 0.0)
    signed = receipt(FAR, of)
    tired = Receipt(signed.member, signed.hops, signed.delay_ms, RELAYS_LIMIT, signed.signature)
    assert node.hear(1, of, tired) == [TAKEN]
    assert (node.tracing.relayed, node.tracing.refused) == (0, 1)


def test_only_so_many_batches_wait_to_be_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert BATCHES_LIMIT >= 4 * ROUTES_LIMIT
    monkeypatch.setattr(trace_module, "BATCHES_LIMIT", 3)
    node = Node()
    for sequence in range(1, 5):
        node.tracing.arrived(traced(sequence), [peer_id(3)], 0.0)
    node.tracing.advance(SPREAD_S)
    assert node.tracing.lost == 1


def test_checks_are_within_the_budget_of_whoever_causes_them() -> None:
    node = Node()
    of = message_id()
    node.tracing.arrived(traced(), [peer_id(3)], 0.0)
    signatures = node.tracing._signatures
    while signatures.may_check(peer_id(1), 0.0):
        pass
    assert node.hear(1, of, receipt(FAR, of)) == [TAKEN]
    assert (node.tracing.relayed, node.tracing.refused) == (0, 1)
    node.hear(2, of, receipt(FAR, of))
    assert node.tracing.relayed == 1


# --- liars --------------------------------------------------------------------------------------


def test_a_receipt_in_anothers_name_is_blamed_on_whoever_brings_it() -> None:
    node = Node(members=5)
    ours, theirs = message_id(1, ME), message_id()
    node.tracing.begin(ours, 0.0)
    node.tracing.arrived(traced(), [peer_id(3)], 0.0)
    for of in (ours, theirs):
        forged = Receipt(peer_id(5), 1, 1).signed(identity(1), "default", of)
        assert node.hear(1, of, forged) == FORGED
        assert node.hear(1, of, Receipt(peer_id(5), 1, 1)) == FORGED  # unsigned, of another
        of_another = Receipt(peer_id(5), 1, 1, 0, receipt(5, message_id(9)).signature)
        assert node.hear(1, of, of_another) == FORGED
    assert node.report(ours).reached == 0
    assert node.tracing.relayed == 0


def test_nobodys_figures_can_be_changed_on_the_way() -> None:
    node = Node(members=5)
    of = message_id(1, ME)
    node.tracing.begin(of, 0.0)
    signed = receipt(5, of, delay_ms=900)
    assert node.hear(1, of, Receipt(signed.member, 1, 1, 0, signed.signature)) == FORGED


def test_unsigned_receipts_are_for_the_origin_alone() -> None:
    node = Node()
    node.tracing.arrived(traced(), [peer_id(3)], 0.0)
    assert node.hear(1, message_id(), Receipt(peer_id(1), 1, 1)) == FORGED


def test_a_forged_receipt_leaves_room_for_the_true_one() -> None:
    node = Node()
    of = message_id()
    node.tracing.arrived(traced(), [peer_id(3)], 0.0)
    node.hear(1, of, Receipt(peer_id(FAR), 1, 1, 0, bytes(64)))
    assert node.hear(2, of, receipt(FAR, of)) == [Send((peer_id(2),), ReceiptsTaken(7))]
    assert node.tracing.relayed == 1


def test_receipts_of_an_unknown_message_are_taken_and_go_nowhere() -> None:
    node = Node()
    of = message_id(77)
    assert node.hear(1, of, receipt(FAR, of)) == [TAKEN]
    assert node.tracing.refused == 1
    assert node.tracing.deadline == math.inf


def test_who_was_not_asked_cannot_answer() -> None:
    node = Node(members=300, is_limited=False)
    of = message_id(1, ME)
    share = node.tracing.begin(of, 0.0)
    sample = Sample("default", of, share)
    unasked = next(n for n in range(1, 300) if peer_id(n) not in sample)
    node.hear(1, of, receipt(unasked, of))
    assert (node.report(of).reached, node.report(of).others, node.tracing.refused) == (0, 0, 1)


def test_nobody_on_the_way_can_ask_more_or_fewer_than_the_origin_did() -> None:
    signed = Rumor.signed(identity(1), "default", EPOCH, 1, (b"x",), trace_share=300)
    assert signed.is_authentic("default")
    for share in (0, 299, TRACE_ALL):
        assert not replace(signed, trace_share=share).is_authentic("default")
