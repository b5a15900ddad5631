"""Reverse paths: where receipts are sent, when they are resent, and what malicious members can do."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest

from grapevine_proto.config.sections import RateLimitConfig
from grapevine_proto.ids import PeerId, Stream, StreamRange
from grapevine_proto.overlay.effects import Send
from grapevine_proto.overlay.reverse_paths import (
    BATCH_DELAY_S,
    ROUNDS_OF_PATHS,
    ROUTE_MIN_LIFETIME_S,
    ROUTES_LIMIT,
    ROUTES_PER_ORIGIN,
    SOURCES_PER_ROUTE_LIMIT,
    TRIES_PER_PATH,
    PathLimits,
    ReversePaths,
)
from grapevine_proto.overlay.sample import MemberSample, sample_share
from grapevine_proto.wire.messages import Answers, IHave, Offer, ReceiptAck, Receipts
from grapevine_proto.wire.signed import AnswerCode, QueryAnswer, TraceReceipt
from tests.proto.overlay import timeline
from tests.proto.overlay.builders import EPOCH, NodeTables, peer_id
from tests.proto.overlay.query.asking import answer_of
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
    assert 5.0 <= at <= 5.1
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
    again_at, target, message = node.sent(until=at + 1.0)[-1]
    assert again_at == pytest.approx(at + 1.0)
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
    assert len({target for _, target, _ in node.sent()}) == 4


# --- limits -------------------------------------------------------------------------------------


def test_routes_per_origin_are_limited() -> None:
    node = Node()
    for sequence in range(1, 17):
        node.tracing.on_rumor(traced(sequence), [peer_id(1)], 0.0)
    assert node.tracing.refused == 0
    node.tracing.on_rumor(traced(100), [peer_id(1)], 4.9)
    assert node.tracing.refused == 1
    node.tracing.on_rumor(traced(1, origin=ORIGIN + 1), [peer_id(1)], 4.9)
    assert node.tracing.refused == 1  # another origin has its own quota
    node.tracing.on_rumor(traced(101), [peer_id(1)], 5.0)
    assert node.tracing.refused == 1
    assert len({message.message_id for _, _, message in node.sent(until=5.1)}) == 17


def test_routes_of_all_origins_are_limited() -> None:
    node = Node()
    for number in range(65):
        node.tracing.on_rumor(traced(origin=1000 + number), [peer_id(1)], 0.0)
        assert node.tracing.refused == (number == 64)
    node.tracing.on_rumor(traced(origin=3000), [peer_id(1)], 5.0)
    assert node.tracing.refused == 1
    traced_id = message_id(origin=1000)  # its route was evicted
    node.receive(1, traced_id, receipt(FAR, traced_id), at=5.0)
    assert node.tracing.refused == 2


def test_receipts_of_one_message_from_one_peer_are_limited() -> None:
    node = Node(is_limited=False)
    traced_id = message_id()
    node.tracing.on_rumor(traced(), [peer_id(3)], 0.0)
    for number in range(193):
        assert node.receive(1, traced_id, receipt(1000 + number, traced_id)) == [ACKED]
    assert (node.paths.relayed, node.tracing.refused) == (192, 1)
    node.receive(2, traced_id, receipt(FAR, traced_id))
    assert node.paths.relayed == 193


def test_receipts_per_message_are_limited() -> None:
    node = Node()
    assert node.paths._limits.items_per_route == 1024
    node.paths._limits = node.paths._limits._replace(items_per_route=20)
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
    for relays, forwarded, refused in ((32, 0, 1), (31, 1, 1)):
        relayed = TraceReceipt(
            signed.member, signed.hops, signed.delay_ms, relays, signed.signature
        )
        assert node.receive(1, traced_id, relayed) == [ACKED]
        assert (node.paths.relayed, node.tracing.refused) == (forwarded, refused)


def test_unacknowledged_batches_are_limited() -> None:
    node = Node()
    assert node.paths._limits.unacked_batches == 256
    node.paths._limits = node.paths._limits._replace(unacked_batches=3)
    for sequence in range(1, 5):
        node.tracing.on_rumor(traced(sequence), [peer_id(3)], 0.0)
    node.tracing.advance(0.1)
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


# --- limits of a kind of items ------------------------------------------------------------------

ITEM = QueryAnswer(peer_id(FAR), 0, 3, 40, AnswerCode.ANSWER, b"").size_bytes
ASKED = frozenset(peer_id(number) for number in range(1000, 1060))
LIMITS = PathLimits(
    items_per_message=4,
    bytes_per_message=100 * ITEM,
    items_per_route=50,
    bytes_per_route=100 * ITEM,
    bytes_held=100 * ITEM,
    items_per_peer=50,
    unacked_batches=50,
    second_path_after_s=1.0,
)


class Answering:
    """Reverse paths of answers on a node with links 1 to 4, an RTT of 50 ms, and given limits."""

    def __init__(self, **limits: object) -> None:
        off = RateLimitConfig(enabled=False)
        self.tables = NodeTables(1, 2, 3, 4, number=OUR_NUMBER, rate_limit=off)
        for number in range(1, 5):
            self.tables.measure(number, 0.05)
        self.paths: ReversePaths[QueryAnswer] = ReversePaths(
            self.tables.context,
            LIMITS._replace(**limits),  # type: ignore[arg-type]
            Answers,
        )

    def open(
        self, sequence: int = 1, *, origin: int = ORIGIN, at: float = 0.0, ends_at: float = math.inf
    ) -> bool:
        query_id = message_id(sequence, origin)
        return self.paths.open(query_id, ASKED, [peer_id(3)], at, ends_at)

    def relay(
        self, number: int, size: int = 0, *, sequence: int = 1, sender: int = 1, at: float = 0.0
    ) -> bool:
        """Receives the answer of member 1000 + `number`; whether it is forwarded."""
        before = self.paths.relayed
        query_id = message_id(sequence)
        item = answer_of(1000 + number, query_id, bytes(size))
        assert self.paths.relay(query_id, item, peer_id(sender), at)
        return self.paths.relayed > before

    def submit(self, sequence: int = 1, at: float = 0.0) -> bool:
        item = answer_of(OUR_NUMBER, message_id(sequence), b"", is_signed=False)
        return self.paths.submit(message_id(sequence), item, at)

    def sent(self, until: float = 60.0) -> list[tuple[float, PeerId, Answers]]:
        return timeline.sent(self.paths, Answers, until)

    def batches(self, until: float) -> list[list[int]]:
        """The payload sizes of the answers in each message that is sent by then."""
        return [
            [len(each.payload) for each in message.answers] for _, _, message in self.sent(until)
        ]


def test_a_rumor_has_one_route_and_answers_go_along_it_alone() -> None:
    node = Answering()
    assert not node.submit()
    assert node.open()
    assert not node.open()
    assert node.submit()
    assert not node.relay(1, sequence=2), "no route"
    assert not node.relay(70), "not asked"
    assert node.paths.refused == 2
    assert node.relay(1)
    assert not node.relay(1), "each once"
    assert node.paths.refused == 2
    forged = replace(answer_of(1002, message_id()), payload=b"forged")
    assert not node.paths.relay(message_id(), forged, peer_id(1), 0.0)


def test_messages_are_numbered_from_one() -> None:
    """A message with the number 0 is the reply to a fetch."""
    node = Answering()
    for sequence in (1, 2, 3):
        node.open(sequence)
        node.submit(sequence)
    assert [message.number for _, _, message in node.sent(until=0.0)] == [1, 2, 3]


def test_the_first_answers_of_a_route_wait_less_for_others() -> None:
    node = Answering(urgent_items=2)
    node.open()
    for number, delay_s in ((1, 0.005), (2, 0.005), (3, 0.02)):
        at = 100.0 * number
        node.relay(number, at=at)
        assert node.paths.deadline == at + delay_s
        node.sent(until=at + 60.0)


@pytest.mark.parametrize(
    "limits", [{"items_per_message": 3}, {"bytes_per_message": 3 * ITEM}], ids=["items", "bytes"]
)
def test_a_full_message_is_sent_at_once(limits: dict[str, int]) -> None:
    node = Answering(**limits)
    node.open()
    for number in (1, 2):
        node.relay(number)
        assert node.paths.deadline == BATCH_DELAY_S
    node.relay(3)
    assert node.paths.deadline == 0.0


@pytest.mark.parametrize(
    ("sizes", "batches"),
    [
        ([0, 0, 0, 0, 0], [[0, 0, 0, 0], [0]]),
        ([20, 20, 20], [[20, 20], [20]]),
        ([20, 21, 20], [[20], [21], [20]]),
        ([20, 20, 20, 20], [[20, 20], [20, 20]]),
        ([20, 20, 20, 21], [[20, 20], [20], [21]]),
        ([20, 90, 20], [[20], [90], [20]]),
    ],
)
def test_a_message_holds_as_many_answers_as_fit(sizes: list[int], batches: list[list[int]]) -> None:
    node = Answering(bytes_per_message=2 * ITEM + 40 if max(sizes) else 100 * ITEM)
    node.open()
    for number, size in enumerate(sizes):
        node.relay(number, size)
    assert node.batches(until=BATCH_DELAY_S) == batches


@pytest.mark.parametrize("limit", ["bytes_per_route", "bytes_held"])
@pytest.mark.parametrize(("last", "fits"), [(4, True), (5, False)])
def test_the_bytes_of_a_route_and_of_all_are_limited(limit: str, last: int, fits: bool) -> None:
    node = Answering(**{limit: 3 * ITEM + 9})
    node.open()
    assert node.relay(1, 2)
    assert node.relay(2, 3)
    assert node.relay(3, last) is fits
    assert node.paths.refused == (not fits)


def test_bytes_of_one_route_do_not_count_for_another_but_are_held_together() -> None:
    for limits, fits in (({"bytes_per_route": ITEM}, True), ({"bytes_held": ITEM}, False)):
        node = Answering(**limits)
        assert node.open(1)
        assert node.open(2)
        assert node.relay(1, sequence=1)
        assert node.relay(1, sequence=2) is fits


@pytest.mark.parametrize("is_acked", [True, False])
def test_answers_are_held_until_they_are_acknowledged_or_lost(is_acked: bool) -> None:
    node = Answering(bytes_held=2 * ITEM)
    for sequence in (1, 2):
        node.open(sequence)
    assert node.relay(1)
    [(_, target, message)] = node.sent(until=BATCH_DELAY_S)
    assert node.relay(2)
    assert not node.relay(1, sequence=2)
    if is_acked:
        node.paths.on_ack(message.number, target, 0.03)  # there is no second path
    node.sent()
    assert node.paths.lost == (1 if is_acked else 2)
    assert node.relay(3, 0, sequence=2)
    assert node.relay(4, 0, sequence=2)
    assert not node.relay(5, 0, sequence=2)


def test_an_evicted_route_holds_no_bytes() -> None:
    node = Answering(bytes_held=ITEM)
    for sequence in range(1, ROUTES_PER_ORIGIN + 1):
        assert node.open(sequence)
    assert node.relay(1)
    assert node.open(100, at=ROUTE_MIN_LIFETIME_S)
    assert node.relay(2, sequence=2)


@pytest.mark.parametrize("opened_at", [0.0, 100.0])
def test_a_route_that_nobody_needs_is_evicted_before_the_oldest(opened_at: float) -> None:
    node = Answering()
    for sequence in range(1, ROUTES_PER_ORIGIN + 1):
        assert node.open(
            sequence, at=opened_at, ends_at=opened_at + (1.0 if sequence == 5 else 60.0)
        )
    assert not node.open(100, at=opened_at + 0.9)
    assert node.open(100, at=opened_at + 1.0, ends_at=opened_at + 60.0)
    assert not node.submit(5)
    assert not node.open(101, at=opened_at + ROUTE_MIN_LIFETIME_S - 0.1)
    assert node.open(101, at=opened_at + ROUTE_MIN_LIFETIME_S)
    assert not node.submit(1)
    assert node.submit(2)


def test_the_routes_of_an_origin_stay_within_its_quota_however_many_were_evicted() -> None:
    node = Answering()
    for sequence in range(1, 3 * ROUTES_PER_ORIGIN + 1):
        assert node.open(sequence, at=10.0 * sequence)
    routed = [each for each in range(1, 3 * ROUTES_PER_ORIGIN + 1) if node.submit(each)]
    assert routed == list(range(2 * ROUTES_PER_ORIGIN + 1, 3 * ROUTES_PER_ORIGIN + 1))


def test_a_batch_is_repeated_at_doubled_intervals() -> None:
    node = Answering()
    node.open()
    node.submit(at=1.0)
    times = [at for at, _, _ in node.sent()]
    timeouts_s = [0.15, 0.3, 0.6, 1.2]
    assert len(times) == TRIES_PER_PATH * ROUNDS_OF_PATHS
    assert [b - a for a, b in itertools.pairwise(times)] == pytest.approx(
        [*timeouts_s, *timeouts_s[:-1]]
    )


def test_an_ack_of_an_unknown_batch_or_by_another_peer_changes_nothing() -> None:
    node = Answering()
    node.open()
    node.submit()
    assert len(node.sent(until=0.0)) == 1
    for number, sender in ((2, 3), (1, 2)):
        node.paths.on_ack(number, peer_id(sender), 0.01)
    assert len(node.sent()) == TRIES_PER_PATH * ROUNDS_OF_PATHS - 1


@pytest.mark.parametrize("has_path_by_any_peer", [True, False])
def test_without_another_known_path_an_item_may_go_to_any_peer(has_path_by_any_peer: bool) -> None:
    node = Answering(has_path_by_any_peer=has_path_by_any_peer)
    node.open()
    node.submit()
    [(_, target, message)] = node.sent(until=0.0)
    node.paths.on_ack(message.number, target, 0.1)
    again = node.sent(until=1.1)
    assert [at for at, _, _ in again] == ([1.1] if has_path_by_any_peer else [])
    assert all(peer != target for _, peer, _ in again)
    unacked = Answering(has_path_by_any_peer=has_path_by_any_peer)
    unacked.open()
    unacked.submit()
    tried = {peer for _, peer, _ in unacked.sent()}
    assert (len(tried) > 1) == has_path_by_any_peer
    assert len(tried) <= 1 + SOURCES_PER_ROUTE_LIMIT
    assert peer_id(3) in tried


def test_one_answer_more_than_a_route_may_have_is_refused() -> None:
    node = Answering(items_per_route=3)
    node.open()
    assert [node.relay(number) for number in range(4)] == [True, True, True, False]


def test_an_origin_whose_route_was_evicted_for_another_may_open_one_more() -> None:
    node = Answering()
    assert node.open(1, origin=91)
    for sequence in range(1, ROUTES_PER_ORIGIN + 1):
        assert node.open(sequence, ends_at=1.0 if sequence == 5 else math.inf)
    for number in range(ROUTES_LIMIT - ROUTES_PER_ORIGIN - 1):
        assert node.open(1, origin=1000 + number)
    later = ROUTE_MIN_LIFETIME_S
    assert node.open(2, origin=92, at=later)
    assert not node.submit(5)
    assert node.open(100, at=later)
    assert node.submit(1), "the oldest of all was evicted instead"
