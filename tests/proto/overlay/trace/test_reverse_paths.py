"""Ways back: which way receipts go, when they are sent again, and what liars can do."""

from __future__ import annotations

import itertools
import math

import pytest

from grapevine_proto.ids import Stream, StreamRange
from grapevine_proto.overlay.effects import Send
from grapevine_proto.overlay.trace import reverse_paths
from grapevine_proto.overlay.trace.reverse_paths import (
    ANSWER_SPREAD_S,
    RECEIPTS_PER_PEER_LIMIT,
    RECEIPTS_PER_ROUTE_LIMIT,
    RELAYS_LIMIT,
    ROUNDS_OF_PATHS,
    ROUTE_MIN_LIFETIME_S,
    ROUTES_LIMIT,
    ROUTES_PER_ORIGIN,
    SECOND_PATH_AFTER_S,
    SOURCES_PER_ROUTE_LIMIT,
    TRIES_PER_PATH,
    UNACKED_BATCHES_LIMIT,
)
from grapevine_proto.overlay.trace.sample import TraceSample, sample_share
from grapevine_proto.wire.messages import IHave, Offer, ReceiptAck, Receipts
from grapevine_proto.wire.signed import TraceReceipt
from tests.proto.overlay.builders import EPOCH, peer_id
from tests.proto.overlay.trace.traces import (
    FAR,
    FORGED,
    ME,
    ORIGIN,
    TAKEN,
    Node,
    message_id,
    receipt,
    traced,
)

# --- theirs -------------------------------------------------------------------------------------


def test_an_untraced_rumor_is_answered_by_nobody() -> None:
    node = Node()
    node.paths.on_rumor(traced(share=0), [peer_id(1)], 0.0)
    assert node.tracing.deadline == math.inf


def test_a_linked_origin_is_told_by_us_unsigned_within_a_tenth_of_a_second() -> None:
    node = Node()
    node.link(ORIGIN)
    node.paths.on_rumor(traced(), [peer_id(1)], 5.0)
    at, target, message = node.sent()[0]
    assert 5.0 <= at <= 5.0 + ANSWER_SPREAD_S
    assert target == peer_id(ORIGIN)
    assert message.message_id == message_id()
    assert message.receipts == (TraceReceipt(peer_id(ME), 2, 70),)


def test_an_origin_far_away_is_told_signed_along_the_way_the_rumor_came() -> None:
    node = Node()
    node.paths.on_rumor(traced(), [peer_id(3)], 5.0)
    _, target, message = node.sent()[0]
    assert target == peer_id(3)
    (ours,) = message.receipts
    assert ours.member == peer_id(ME)
    assert ours.is_authentic("default", message_id())
    assert not ours.is_authentic("default", message_id(2))
    assert not ours.is_authentic("other", message_id())


def test_who_is_not_in_the_sample_is_silent_and_still_passes_on() -> None:
    share = sample_share(10_000)
    sequence = next(
        n
        for n in range(1, 10_000)
        if peer_id(ME) not in (s := TraceSample("default", message_id(n), share))
        and peer_id(FAR) in s
    )
    node = Node()
    node.paths.on_rumor(traced(sequence, share=share), [peer_id(3)], 0.0)
    assert node.tracing.deadline == math.inf
    of = message_id(sequence)
    assert node.hear(1, of, receipt(FAR, of)) == [TAKEN]
    (_, target, message), *_ = node.sent()
    assert target == peer_id(3)
    assert [each.member for each in message.receipts] == [peer_id(FAR)]


def test_our_own_rumor_that_comes_back_is_not_answered() -> None:
    node = Node()
    node.paths.on_rumor(traced(origin=ME), [peer_id(1)], 0.0)
    assert node.tracing.deadline == math.inf


# --- passing on ---------------------------------------------------------------------------------


def test_receipts_of_others_go_on_together_each_once() -> None:
    node = Node(links=4)
    of = message_id()
    node.paths.on_rumor(traced(), [peer_id(4)], 0.0)
    node.hear(1, of, receipt(FAR, of), receipt(FAR + 1, of), number=7)
    node.hear(2, of, receipt(FAR, of), number=8)
    first = node.sent()[0]
    assert first[1] == peer_id(4)
    members = [each.member for each in first[2].receipts]
    assert sorted(members) == sorted([peer_id(ME), peer_id(FAR), peer_id(FAR + 1)])
    assert {each.relays for each in first[2].receipts if each.member != peer_id(ME)} == {1}
    assert node.paths.relayed == 2


def test_ten_receipts_fill_a_datagram_and_wait_for_no_more() -> None:
    node = Node()
    of = message_id()
    node.paths.on_rumor(traced(), [peer_id(4)], 0.0)
    node.hear(1, of, *(receipt(FAR + number, of) for number in range(12)))
    at, effects = node.due()
    assert at == 0.0
    messages = [effect.message for effect in effects if isinstance(effect, Send)]
    assert [len(each.receipts) for each in messages if isinstance(each, Receipts)] == [10, 3]


def test_what_is_taken_goes_one_other_way_a_second_later() -> None:
    node = Node()
    node.paths.on_rumor(traced(), [peer_id(3)], 0.0)
    node.paths.on_duplicate(traced().rumor, peer_id(2))
    node.paths.on_duplicate(traced().rumor, peer_id(1))
    at, effects = node.due()
    (first,) = effects
    assert isinstance(first, Send)
    assert isinstance(first.message, Receipts)
    node.tracing.handle(ReceiptAck(first.message.number), peer_id(3), at)
    again_at, target, message = node.sent(until=at + SECOND_PATH_AFTER_S)[-1]
    assert again_at == pytest.approx(at + SECOND_PATH_AFTER_S)
    assert (target, message) == (peer_id(2), first.message)
    node.tracing.handle(ReceiptAck(first.message.number), peer_id(2), again_at)
    assert node.sent() == []
    assert node.paths.lost == 0


def test_what_the_origin_took_needs_no_second_way() -> None:
    node = Node()
    node.link(ORIGIN)
    node.paths.on_rumor(traced(), [peer_id(3)], 0.0)
    at, effects = node.due()
    (first,) = effects
    assert isinstance(first, Send)
    assert isinstance(first.message, Receipts)
    node.tracing.handle(ReceiptAck(first.message.number), peer_id(ORIGIN), at)
    assert node.sent() == []


def test_what_is_taken_and_has_no_other_way_is_sent_once() -> None:
    node = Node()
    node.paths.on_rumor(traced(), [peer_id(3)], 0.0)
    _, effects = node.due()
    (send,) = effects
    assert isinstance(send, Send)
    assert isinstance(send.message, Receipts)
    taken = ReceiptAck(send.message.number)
    assert node.tracing.handle(taken, peer_id(2), 0.1) == []  # it was not sent to that one
    assert node.tracing.handle(taken, peer_id(3), 0.1) == []
    assert node.sent() == []
    assert node.paths.lost == 0


def test_what_nobody_takes_is_sent_again_each_way_in_turn_twice_then_given_up() -> None:
    node = Node()
    node.paths.on_rumor(traced(), [peer_id(3)], 0.0)
    node.paths.on_duplicate(traced().rumor, peer_id(2))
    sent = node.sent()
    lap = [peer_id(3)] * TRIES_PER_PATH + [peer_id(2)] * TRIES_PER_PATH
    assert [target for _, target, _ in sent] == lap * ROUNDS_OF_PATHS
    gaps = [later[0] - sooner[0] for sooner, later in itertools.pairwise(sent[:TRIES_PER_PATH])]
    assert gaps == sorted(gaps)
    assert gaps[0] >= 0.1
    assert len({message.number for _, _, message in sent}) == 1
    assert node.paths.lost == 1
    assert node.tracing.deadline == math.inf


def test_who_told_of_a_rumor_or_offers_it_is_a_way_back_too() -> None:
    node = Node()
    node.paths.on_rumor(traced(), [peer_id(3), peer_id(2)], 0.0)
    node.paths.on_ids(Offer((traced().rumor.ids,)), peer_id(4))
    assert {target for _, target, _ in node.sent()} == {peer_id(2), peer_id(3), peer_id(4)}


def test_a_way_that_is_gone_is_not_tried() -> None:
    node = Node()
    node.paths.on_rumor(traced(), [peer_id(3)], 0.0)
    node.paths.on_duplicate(traced().rumor, peer_id(2))
    node.unlink(3)
    assert node.sent()[0][1] == peer_id(2)


def test_an_origin_that_is_lost_before_it_took_our_word_gets_it_signed_by_another_way() -> None:
    node = Node()
    node.link(ORIGIN)
    node.paths.on_rumor(traced(), [peer_id(3)], 0.0)
    node.due()
    node.unlink(ORIGIN)
    _, target, message = node.sent()[0]
    assert target == peer_id(3)
    assert message.receipts[0].is_authentic("default", message_id())


def test_who_tells_the_id_of_a_traced_rumor_is_another_way_back() -> None:
    node = Node()
    node.paths.on_rumor(traced(9), [peer_id(3)], 0.0)
    stream = Stream(peer_id(ORIGIN), EPOCH)
    ids = IHave((StreamRange(stream, 8, 8), StreamRange(stream, 9, 9)))
    node.paths.on_ids(ids, peer_id(2))
    node.unlink(3)
    assert node.sent()[0][1] == peer_id(2)


def test_with_no_way_left_a_receipt_is_lost_and_counted() -> None:
    node = Node()
    node.paths.on_rumor(traced(), [peer_id(3)], 0.0)
    node.unlink(3)
    assert node.sent() == []
    assert node.paths.lost == 1


def test_only_so_many_ways_back_are_remembered() -> None:
    node = Node(links=9)
    node.paths.on_rumor(traced(), [peer_id(1)], 0.0)
    for number in range(2, 10):
        node.paths.on_duplicate(traced().rumor, peer_id(number))
    assert len({target for _, target, _ in node.sent()}) == SOURCES_PER_ROUTE_LIMIT


# --- limits -------------------------------------------------------------------------------------


def test_one_origin_is_followed_in_so_many_messages_at_once() -> None:
    node = Node()
    for sequence in range(1, ROUTES_PER_ORIGIN + 2):
        node.paths.on_rumor(traced(sequence), [peer_id(1)], 0.0)
    assert node.tracing.refused == 1
    node.paths.on_rumor(traced(1, origin=ORIGIN + 1), [peer_id(1)], 0.0)
    assert node.tracing.refused == 1  # another origin has room of its own
    node.paths.on_rumor(traced(100), [peer_id(1)], ROUTE_MIN_LIFETIME_S)
    assert node.tracing.refused == 1
    assert len(node.sent(until=ROUTE_MIN_LIFETIME_S + ANSWER_SPREAD_S)) >= ROUTES_PER_ORIGIN + 2


def test_all_origins_are_followed_in_so_many_messages_at_once() -> None:
    node = Node()
    for number in range(ROUTES_LIMIT + 1):
        node.paths.on_rumor(traced(origin=1000 + number), [peer_id(1)], 0.0)
    assert node.tracing.refused == 1
    node.paths.on_rumor(traced(origin=3000), [peer_id(1)], ROUTE_MIN_LIFETIME_S)
    assert node.tracing.refused == 1
    of = message_id(origin=1000)  # it made room
    node.hear(1, of, receipt(FAR, of), at=ROUTE_MIN_LIFETIME_S)
    assert node.tracing.refused == 2


def test_one_peer_brings_so_many_receipts_of_one_message() -> None:
    node = Node(is_limited=False)
    of = message_id()
    node.paths.on_rumor(traced(), [peer_id(3)], 0.0)
    for number in range(RECEIPTS_PER_PEER_LIMIT + 1):
        assert node.hear(1, of, receipt(1000 + number, of)) == [TAKEN]
    assert (node.paths.relayed, node.tracing.refused) == (RECEIPTS_PER_PEER_LIMIT, 1)
    node.hear(2, of, receipt(FAR, of))
    assert node.paths.relayed == RECEIPTS_PER_PEER_LIMIT + 1


def test_one_message_has_so_many_receipts_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    assert RECEIPTS_PER_ROUTE_LIMIT > 4 * RECEIPTS_PER_PEER_LIMIT
    monkeypatch.setattr(reverse_paths, "RECEIPTS_PER_ROUTE_LIMIT", 20)
    node = Node()
    of = message_id()
    node.paths.on_rumor(traced(), [peer_id(3)], 0.0)
    for number in range(20):  # ours is one of the twenty
        node.hear(1, of, receipt(1000 + number, of))
    assert (node.paths.relayed, node.tracing.refused) == (19, 1)


def test_a_receipt_that_wandered_too_far_goes_no_further() -> None:
    node = Node()
    of = message_id()
    node.paths.on_rumor(traced(), [peer_id(3)], 0.0)
    signed = receipt(FAR, of)
    tired = TraceReceipt(
        signed.member, signed.hops, signed.delay_ms, RELAYS_LIMIT, signed.signature
    )
    assert node.hear(1, of, tired) == [TAKEN]
    assert (node.paths.relayed, node.tracing.refused) == (0, 1)


def test_only_so_many_batches_wait_to_be_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert UNACKED_BATCHES_LIMIT >= 4 * ROUTES_LIMIT
    monkeypatch.setattr(reverse_paths, "UNACKED_BATCHES_LIMIT", 3)
    node = Node()
    for sequence in range(1, 5):
        node.paths.on_rumor(traced(sequence), [peer_id(3)], 0.0)
    node.tracing.advance(ANSWER_SPREAD_S)
    assert node.paths.lost == 1


def test_checks_are_within_the_budget_of_whoever_causes_them() -> None:
    node = Node()
    of = message_id()
    node.paths.on_rumor(traced(), [peer_id(3)], 0.0)
    signatures = node.tracing._verifier
    while signatures.try_charge_check(peer_id(1), 0.0):
        pass
    assert node.hear(1, of, receipt(FAR, of)) == [TAKEN]
    assert (node.paths.relayed, node.tracing.refused) == (0, 1)
    node.hear(2, of, receipt(FAR, of))
    assert node.paths.relayed == 1


# --- liars --------------------------------------------------------------------------------------


def test_unsigned_receipts_are_for_the_origin_alone() -> None:
    node = Node()
    node.paths.on_rumor(traced(), [peer_id(3)], 0.0)
    assert node.hear(1, message_id(), TraceReceipt(peer_id(1), 1, 1)) == FORGED


def test_a_forged_receipt_leaves_room_for_the_true_one() -> None:
    node = Node()
    of = message_id()
    node.paths.on_rumor(traced(), [peer_id(3)], 0.0)
    node.hear(1, of, TraceReceipt(peer_id(FAR), 1, 1, 0, bytes(64)))
    assert node.hear(2, of, receipt(FAR, of)) == [Send((peer_id(2),), ReceiptAck(7))]
    assert node.paths.relayed == 1


def test_receipts_of_an_unknown_message_are_taken_and_go_nowhere() -> None:
    node = Node()
    of = message_id(77)
    assert node.hear(1, of, receipt(FAR, of)) == [TAKEN]
    assert node.tracing.refused == 1
    assert node.tracing.deadline == math.inf
