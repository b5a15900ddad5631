"""Reverse paths: where receipts are sent, when they are resent, and what malicious members can do."""

from __future__ import annotations

import itertools
import math

import pytest

from grapevine_proto.ids import Stream, StreamRange
from grapevine_proto.overlay.effects import Send
from grapevine_proto.overlay.reverse_paths import (
    ANSWER_SPREAD_S,
    RELAYS_LIMIT,
    ROUNDS_OF_PATHS,
    ROUTE_MIN_LIFETIME_S,
    ROUTES_LIMIT,
    ROUTES_PER_ORIGIN,
    SOURCES_PER_ROUTE_LIMIT,
    TRIES_PER_PATH,
)
from grapevine_proto.overlay.sample import MemberSample, sample_share
from grapevine_proto.overlay.trace import trace
from grapevine_proto.overlay.trace.trace import (
    RECEIPTS_PER_PEER_LIMIT,
    RECEIPTS_PER_ROUTE_LIMIT,
    SECOND_PATH_AFTER_S,
    UNACKED_BATCHES_LIMIT,
)
from grapevine_proto.wire.messages import IHave, Offer, ReceiptAck, Receipts
from grapevine_proto.wire.signed import TraceReceipt
from tests.proto.overlay.builders import EPOCH, peer_id
from tests.proto.overlay.trace.traces import (
    ACKED,
    FAR,
    FORGED,
    ORIGIN,
    OUR_NUMBER,
    Node,
    message_id,
    receipt,
    traced,
)

# --- own receipts -------------------------------------------------------------------------------


def test_an_untraced_rumor_gets_no_receipts() -> None:
    node = Node()
    node.tracing.on_rumor(traced(share=0), [peer_id(1)], 0.0)
    assert node.tracing.deadline == math.inf


def test_a_linked_origin_gets_an_unsigned_receipt_within_a_tenth_of_a_second() -> None:
    node = Node()
    node.link(ORIGIN)
    node.tracing.on_rumor(traced(), [peer_id(1)], 5.0)
    at, target, message = node.sent()[0]
    assert 5.0 <= at <= 5.0 + ANSWER_SPREAD_S
    assert target == peer_id(ORIGIN)
    assert message.message_id == message_id()
    assert message.receipts == (TraceReceipt(peer_id(OUR_NUMBER), 2, 70),)


def test_an_unlinked_origin_gets_a_signed_receipt_along_the_reverse_path() -> None:
    node = Node()
    node.tracing.on_rumor(traced(), [peer_id(3)], 5.0)
    _, target, message = node.sent()[0]
    assert target == peer_id(3)
    (ours,) = message.receipts
    assert ours.member == peer_id(OUR_NUMBER)
    assert ours.is_authentic("default", message_id())
    assert not ours.is_authentic("default", message_id(2))
    assert not ours.is_authentic("other", message_id())


def test_a_node_outside_the_sample_sends_no_receipt_but_forwards_others() -> None:
    share = sample_share(10_000)
    sequence = next(
        n
        for n in range(1, 10_000)
        if peer_id(OUR_NUMBER) not in (s := MemberSample("default", message_id(n), share))
        and peer_id(FAR) in s
    )
    node = Node()
    node.tracing.on_rumor(traced(sequence, share=share), [peer_id(3)], 0.0)
    assert node.tracing.deadline == math.inf
    traced_id = message_id(sequence)
    assert node.receive(1, traced_id, receipt(FAR, traced_id)) == [ACKED]
    (_, target, message), *_ = node.sent()
    assert target == peer_id(3)
    assert [each.member for each in message.receipts] == [peer_id(FAR)]


def test_our_own_rumor_gets_no_receipt_from_us() -> None:
    node = Node()
    node.tracing.on_rumor(traced(origin=OUR_NUMBER), [peer_id(1)], 0.0)
    assert node.tracing.deadline == math.inf


# --- forwarding ---------------------------------------------------------------------------------


def test_receipts_of_others_are_forwarded_together_each_once() -> None:
    node = Node(links=4)
    traced_id = message_id()
    node.tracing.on_rumor(traced(), [peer_id(4)], 0.0)
    node.receive(1, traced_id, receipt(FAR, traced_id), receipt(FAR + 1, traced_id), number=7)
    node.receive(2, traced_id, receipt(FAR, traced_id), number=8)
    first = node.sent()[0]
    assert first[1] == peer_id(4)
    members = [each.member for each in first[2].receipts]
    assert sorted(members) == sorted([peer_id(OUR_NUMBER), peer_id(FAR), peer_id(FAR + 1)])
    assert {each.relays for each in first[2].receipts if each.member != peer_id(OUR_NUMBER)} == {1}
    assert node.paths.relayed == 2


def test_ten_receipts_fill_a_datagram_and_are_sent_at_once() -> None:
    node = Node()
    traced_id = message_id()
    node.tracing.on_rumor(traced(), [peer_id(4)], 0.0)
    node.receive(1, traced_id, *(receipt(FAR + number, traced_id) for number in range(12)))
    at, effects = node.advance()
    assert at == 0.0
    messages = [effect.message for effect in effects if isinstance(effect, Send)]
    assert [len(each.receipts) for each in messages if isinstance(each, Receipts)] == [10, 3]


def test_acknowledged_receipts_take_a_second_path_a_second_later() -> None:
    node = Node()
    node.tracing.on_rumor(traced(), [peer_id(3)], 0.0)
    node.tracing.on_duplicate(traced().rumor, peer_id(2))
    node.tracing.on_duplicate(traced().rumor, peer_id(1))
    at, effects = node.advance()
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


def test_receipts_acknowledged_by_the_origin_need_no_second_path() -> None:
    node = Node()
    node.link(ORIGIN)
    node.tracing.on_rumor(traced(), [peer_id(3)], 0.0)
    at, effects = node.advance()
    (first,) = effects
    assert isinstance(first, Send)
    assert isinstance(first.message, Receipts)
    node.tracing.handle(ReceiptAck(first.message.number), peer_id(ORIGIN), at)
    assert node.sent() == []


def test_acknowledged_receipts_without_another_path_are_sent_once() -> None:
    node = Node()
    node.tracing.on_rumor(traced(), [peer_id(3)], 0.0)
    _, effects = node.advance()
    (send,) = effects
    assert isinstance(send, Send)
    assert isinstance(send.message, Receipts)
    ack = ReceiptAck(send.message.number)
    assert node.tracing.handle(ack, peer_id(2), 0.1) == []  # it was not sent to that peer
    assert node.tracing.handle(ack, peer_id(3), 0.1) == []
    assert node.sent() == []
    assert node.paths.lost == 0


def test_unacknowledged_receipts_are_resent_over_each_path_twice_then_abandoned() -> None:
    node = Node()
    node.tracing.on_rumor(traced(), [peer_id(3)], 0.0)
    node.tracing.on_duplicate(traced().rumor, peer_id(2))
    sent = node.sent()
    path_round = [peer_id(3)] * TRIES_PER_PATH + [peer_id(2)] * TRIES_PER_PATH
    assert [target for _, target, _ in sent] == path_round * ROUNDS_OF_PATHS
    gaps = [later[0] - sooner[0] for sooner, later in itertools.pairwise(sent[:TRIES_PER_PATH])]
    assert gaps == sorted(gaps)
    assert gaps[0] >= 0.1
    assert len({message.number for _, _, message in sent}) == 1
    assert node.paths.lost == 1
    assert node.tracing.deadline == math.inf


def test_peers_that_announced_or_offer_a_rumor_are_paths_too() -> None:
    node = Node()
    node.tracing.on_rumor(traced(), [peer_id(3), peer_id(2)], 0.0)
    node.paths.on_ids(Offer((traced().rumor.ids,)), peer_id(4))
    assert {target for _, target, _ in node.sent()} == {peer_id(2), peer_id(3), peer_id(4)}


def test_a_closed_link_is_not_used_as_a_path() -> None:
    node = Node()
    node.tracing.on_rumor(traced(), [peer_id(3)], 0.0)
    node.tracing.on_duplicate(traced().rumor, peer_id(2))
    node.unlink(3)
    assert node.sent()[0][1] == peer_id(2)


def test_a_receipt_for_a_lost_origin_is_signed_and_sent_along_another_path() -> None:
    node = Node()
    node.link(ORIGIN)
    node.tracing.on_rumor(traced(), [peer_id(3)], 0.0)
    node.advance()
    node.unlink(ORIGIN)
    _, target, message = node.sent()[0]
    assert target == peer_id(3)
    assert message.receipts[0].is_authentic("default", message_id())


def test_a_peer_that_announces_a_traced_rumor_is_another_path() -> None:
    node = Node()
    node.tracing.on_rumor(traced(9), [peer_id(3)], 0.0)
    stream = Stream(peer_id(ORIGIN), EPOCH)
    ids = IHave((StreamRange(stream, 8, 8), StreamRange(stream, 9, 9)))
    node.paths.on_ids(ids, peer_id(2))
    node.unlink(3)
    assert node.sent()[0][1] == peer_id(2)


def test_without_a_path_a_receipt_is_lost_and_counted() -> None:
    node = Node()
    node.tracing.on_rumor(traced(), [peer_id(3)], 0.0)
    node.unlink(3)
    assert node.sent() == []
    assert node.paths.lost == 1


def test_paths_per_route_are_limited() -> None:
    node = Node(links=9)
    node.tracing.on_rumor(traced(), [peer_id(1)], 0.0)
    for number in range(2, 10):
        node.tracing.on_duplicate(traced().rumor, peer_id(number))
    assert len({target for _, target, _ in node.sent()}) == SOURCES_PER_ROUTE_LIMIT


# --- limits -------------------------------------------------------------------------------------


def test_routes_per_origin_are_limited() -> None:
    node = Node()
    for sequence in range(1, ROUTES_PER_ORIGIN + 2):
        node.tracing.on_rumor(traced(sequence), [peer_id(1)], 0.0)
    assert node.tracing.refused == 1
    node.tracing.on_rumor(traced(1, origin=ORIGIN + 1), [peer_id(1)], 0.0)
    assert node.tracing.refused == 1  # another origin has its own quota
    node.tracing.on_rumor(traced(100), [peer_id(1)], ROUTE_MIN_LIFETIME_S)
    assert node.tracing.refused == 1
    assert len(node.sent(until=ROUTE_MIN_LIFETIME_S + ANSWER_SPREAD_S)) >= ROUTES_PER_ORIGIN + 2


def test_routes_of_all_origins_are_limited() -> None:
    node = Node()
    for number in range(ROUTES_LIMIT + 1):
        node.tracing.on_rumor(traced(origin=1000 + number), [peer_id(1)], 0.0)
    assert node.tracing.refused == 1
    node.tracing.on_rumor(traced(origin=3000), [peer_id(1)], ROUTE_MIN_LIFETIME_S)
    assert node.tracing.refused == 1
    traced_id = message_id(origin=1000)  # its route was evicted
    node.receive(1, traced_id, receipt(FAR, traced_id), at=ROUTE_MIN_LIFETIME_S)
    assert node.tracing.refused == 2


def test_receipts_of_one_message_from_one_peer_are_limited() -> None:
    node = Node(is_limited=False)
    traced_id = message_id()
    node.tracing.on_rumor(traced(), [peer_id(3)], 0.0)
    for number in range(RECEIPTS_PER_PEER_LIMIT + 1):
        assert node.receive(1, traced_id, receipt(1000 + number, traced_id)) == [ACKED]
    assert (node.paths.relayed, node.tracing.refused) == (RECEIPTS_PER_PEER_LIMIT, 1)
    node.receive(2, traced_id, receipt(FAR, traced_id))
    assert node.paths.relayed == RECEIPTS_PER_PEER_LIMIT + 1


def test_receipts_per_message_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    assert RECEIPTS_PER_ROUTE_LIMIT > 4 * RECEIPTS_PER_PEER_LIMIT
    monkeypatch.setattr(trace, "RECEIPTS_PER_ROUTE_LIMIT", 20)
    node = Node()
    traced_id = message_id()
    node.tracing.on_rumor(traced(), [peer_id(3)], 0.0)
    for number in range(20):  # ours is one of the twenty
        node.receive(1, traced_id, receipt(1000 + number, traced_id))
    assert (node.paths.relayed, node.tracing.refused) == (19, 1)


def test_a_receipt_beyond_the_relay_limit_is_not_forwarded() -> None:
    node = Node()
    traced_id = message_id()
    node.tracing.on_rumor(traced(), [peer_id(3)], 0.0)
    signed = receipt(FAR, traced_id)
    forwarded = TraceReceipt(
        signed.member, signed.hops, signed.delay_ms, RELAYS_LIMIT, signed.signature
    )
    assert node.receive(1, traced_id, forwarded) == [ACKED]
    assert (node.paths.relayed, node.tracing.refused) == (0, 1)


def test_unacknowledged_batches_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    assert UNACKED_BATCHES_LIMIT >= 4 * ROUTES_LIMIT
    monkeypatch.setattr(trace, "UNACKED_BATCHES_LIMIT", 3)
    node = Node()
    for sequence in range(1, 5):
        node.tracing.on_rumor(traced(sequence), [peer_id(3)], 0.0)
    node.tracing.advance(ANSWER_SPREAD_S)
    assert node.paths.lost == 1


def test_signature_checks_are_within_the_budget_of_the_sender() -> None:
    node = Node()
    traced_id = message_id()
    node.tracing.on_rumor(traced(), [peer_id(3)], 0.0)
    verifier = node.tracing._verifier
    while verifier.try_charge_check(peer_id(1), 0.0):
        pass
    assert node.receive(1, traced_id, receipt(FAR, traced_id)) == [ACKED]
    assert (node.paths.relayed, node.tracing.refused) == (0, 1)
    node.receive(2, traced_id, receipt(FAR, traced_id))
    assert node.paths.relayed == 1


# --- malicious members --------------------------------------------------------------------------


def test_unsigned_receipts_are_accepted_by_the_origin_only() -> None:
    node = Node()
    node.tracing.on_rumor(traced(), [peer_id(3)], 0.0)
    assert node.receive(1, message_id(), TraceReceipt(peer_id(1), 1, 1)) == FORGED


def test_a_forged_receipt_does_not_block_the_authentic_one() -> None:
    node = Node()
    traced_id = message_id()
    node.tracing.on_rumor(traced(), [peer_id(3)], 0.0)
    node.receive(1, traced_id, TraceReceipt(peer_id(FAR), 1, 1, 0, bytes(64)))
    assert node.receive(2, traced_id, receipt(FAR, traced_id)) == [
        Send((peer_id(2),), ReceiptAck(7))
    ]
    assert node.paths.relayed == 1


def test_receipts_of_an_unknown_message_are_acknowledged_and_not_forwarded() -> None:
    node = Node()
    traced_id = message_id(77)
    assert node.receive(1, traced_id, receipt(FAR, traced_id)) == [ACKED]
    assert node.tracing.refused == 1
    assert node.tracing.deadline == math.inf
