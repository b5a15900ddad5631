"""Broadcast: the unsigned hops and age of one copy keep no rumor from spreading, and conflicts are
detected.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from grapevine_proto.config.sections import EpidemicConfig
from grapevine_proto.errors import DropReason
from grapevine_proto.events import Message, MessagesUnsupported, Via
from grapevine_proto.ids import PeerId, Stream, StreamRange
from grapevine_proto.overlay.broadcast.broadcast import (
    DOUBTFUL_HOPS,
    DOUBTFUL_LIMIT,
    NO_FORWARD_AGE_MS,
    UNCLAIMED_LIMIT,
    URGENT_RUMOR_BYTES,
    Broadcast,
)
from grapevine_proto.overlay.broadcast.epidemic import Epidemic
from grapevine_proto.overlay.broadcast.large_messages import PULL_WINDOW_BYTES
from grapevine_proto.overlay.broadcast.strategy import NewRumor, PushPlan
from grapevine_proto.overlay.effects import CountDrop, Deliver, Effect, Emit, Send
from grapevine_proto.overlay.members import id_prefix
from grapevine_proto.overlay.store.message_cache import rumor_key
from grapevine_proto.overlay.store.message_store import STORE_TICK_S, MessageStore
from grapevine_proto.overlay.sync.antientropy import COPIES_PER_MESSAGE_LIMIT
from grapevine_proto.topics import TopicPatterns
from grapevine_proto.wire.attributes import encode_attributes, rumor_attributes
from grapevine_proto.wire.messages import (
    DIRECT_MAIL_HOPS,
    Announce,
    AnnounceTopic,
    Graft,
    IHave,
    IWant,
    MemberDigest,
    RumorCopy,
    Rumors,
    Subscribe,
)
from grapevine_proto.wire.query_terms import QueryTerms
from grapevine_proto.wire.signed import PUSH_LIMIT_BYTES, Rumor
from tests.proto.overlay.builders import EPOCH, NodeTables, identity, peer_id, record, rumor

ORIGIN = 90


class Node:
    """A node that is linked to peers 1 to 5 and receives rumors of `ORIGIN` from them."""

    def __init__(self, linked: tuple[int, ...] = (1, 2, 3, 4, 5), **changes: Any) -> None:
        self.tables = tables = NodeTables(*linked, **{"strategy": "flood"} | changes)
        self.store = MessageStore(tables.context, (), 0.0)

        self.broadcast = Broadcast(tables.context, self.store, (), 0.0)
        for number in linked[2:]:
            self.broadcast._strategy._subscribers[peer_id(number)] = None  # type: ignore[attr-defined]

    def receive(
        self,
        rumor_: Rumor,
        sender: int,
        now: float,
        *,
        hops: int = 1,
        age_ms: int = 0,
        via: Via = Via.EAGER,
    ) -> list[Effect]:
        return self.broadcast.accept(RumorCopy(rumor_, hops, age_ms), peer_id(sender), via, now)


def pushes(effects: list[Effect]) -> list[int]:
    """The number of targets of each push."""
    return [
        len(each.peers)
        for each in effects
        if isinstance(each, Send) and isinstance(each.message, Rumors)
    ]


def drop_reasons(effects: list[Effect]) -> list[DropReason]:
    return [each.reason for each in effects if isinstance(each, CountDrop)]


def test_only_the_origin_can_mark_a_rumor_as_mailed() -> None:
    node = Node()
    rumor_ = rumor(ORIGIN, 1)
    node.receive(rumor_, 1, 0.0, hops=DIRECT_MAIL_HOPS)
    lazy_push = node.broadcast.lazy_push
    assert not lazy_push._unsorted_mail, "it is announced without delay"
    assert rumor_.ids in lazy_push._unannounced


@pytest.mark.parametrize("strategy", ["flood", "plumtree", "epidemic", "direct-mail", "auto"])
def test_mail_is_announced_late_and_not_forwarded_whatever_the_strategy(strategy: str) -> None:
    node = Node((), strategy=strategy, epidemic=EpidemicConfig(forward_probability=1.0))
    for number in (1, 2, 3):
        node.tables.link(number)
        node.broadcast.handle(Graft(None), peer_id(number), 0.0)
        node.broadcast.handle(Subscribe(is_subscribed=True), peer_id(number), 0.0)
    mail = rumor(1, 1)
    effects = node.receive(mail, 1, 0.0, hops=DIRECT_MAIL_HOPS) + node.broadcast.advance(1.0)
    assert len(delivered(effects)) == 1
    assert not any(isinstance(each, Send) for each in effects)
    assert list(node.broadcast.lazy_push._unsorted_mail) == [(mail, (peer_id(1),))]
    effects = node.receive(rumor(1, 2), 1, 1.0) + node.broadcast.advance(2.0)
    assert bool(pushes(effects)) is (strategy != "direct-mail"), "this one is no mail"


@pytest.mark.parametrize("hops", [DOUBTFUL_HOPS, 200, DIRECT_MAIL_HOPS])
def test_a_rumor_beyond_the_hop_limit_is_forwarded_once_a_copy_claims_fewer_hops(hops: int) -> None:
    node = Node()
    rumor_ = rumor(ORIGIN, 1)
    assert pushes(node.receive(rumor_, 1, 0.0, hops=hops)) == []
    assert pushes(node.receive(rumor_, 2, 0.1, hops=hops)) == []
    assert pushes(node.receive(rumor_, 2, 0.2, hops=2)) == [3]
    assert pushes(node.receive(rumor_, 2, 0.3, hops=2)) == [], "once"


def test_a_nearly_expired_rumor_is_cached_and_forwarded_once_a_younger_copy_arrives() -> None:
    node = Node()
    rumor_ = rumor(ORIGIN, 1)
    node.receive(rumor_, 1, 0.0, age_ms=299_985)
    node.broadcast.advance(2.0)
    assert not node.store.cache.contains(rumor_key(rumor_))
    assert [each.first for each in node.store.vector(2.0)] == [2], "the vector does not offer it"
    assert pushes(node.receive(rumor_, 2, 2.5, age_ms=2_520)) == [3]
    assert node.store.cache.contains(rumor_key(rumor_))
    assert [each.first for each in node.store.vector(2.5)] == [1], "the vector offers it again"


@pytest.mark.parametrize(("age_ms", "count"), [(40_000, 0), (289_999, 0), (290_000, 1)])
def test_a_rumor_that_was_pushed_in_time_is_not_pushed_again_for_a_younger_copy(
    age_ms: int, count: int
) -> None:
    """A packet that was retransmitted for long carries the age of its first transmission."""
    node = Node()
    rumor_ = rumor(ORIGIN, 1)
    assert pushes(node.receive(rumor_, 1, 0.0, age_ms=age_ms)) == [3]
    assert pushes(node.receive(rumor_, 2, 1.0, age_ms=900)) == [3] * count


def announced_to(node: Node, now: float) -> list[PeerId]:
    """The peers to which an announcement is sent until `now`."""
    return [
        peer_id
        for each in node.broadcast.advance(now)
        if isinstance(each, Send) and isinstance(each.message, IHave)
        for peer_id in each.peers
    ]


@pytest.mark.parametrize(
    ("hops", "age_ms", "via", "is_announced_again"),
    [
        (DOUBTFUL_HOPS, 0, Via.EAGER, False),
        (200, 289_999, Via.EAGER, False),
        (200, 290_000, Via.EAGER, True),
        (1, 40_000, Via.REPAIR, True),
    ],
)
def test_a_rumor_whose_claim_is_corrected_is_announced_once_in_time(
    hops: int, age_ms: int, via: Via, is_announced_again: bool
) -> None:
    """Those that were announced the first copy request whatever this node has by then; what expires at
    once, or was no news, was of no use to them."""
    node = Node()
    rumor_ = rumor(ORIGIN, 1)
    node.receive(rumor_, 1, 0.0, hops=hops, age_ms=age_ms, via=via)
    first = announced_to(node, 1.0)
    assert bool(first) is (via is Via.EAGER)
    assert pushes(node.receive(rumor_, 2, 1.0, hops=2, age_ms=900))
    assert bool(announced_to(node, 3.0)) is is_announced_again


def test_a_forged_copy_that_claims_to_be_younger_is_not_cached() -> None:
    node = Node()
    rumor_ = rumor(ORIGIN, 1)
    node.receive(rumor_, 1, 0.0, age_ms=299_985)
    node.broadcast.advance(2.0)
    forged = rumor(ORIGIN, 1, b"something else", cluster="another")
    assert drop_reasons(node.receive(forged, 2, 2.5)) == [DropReason.BAD_SIGNATURE]
    assert not node.store.cache.contains(rumor_key(rumor_))


def test_no_copy_makes_a_stream_younger_than_its_last_arrival() -> None:
    node = Node()
    rumor_ = rumor(ORIGIN, 1)
    node.receive(rumor_, 1, 0.0, age_ms=NO_FORWARD_AGE_MS, via=Via.REPAIR)
    node.receive(rumor_, 2, 100.0)
    state = node.store._states.get(rumor_.stream)
    assert state is not None
    assert state.last_published_at == 0.0


def test_beyond_the_limit_the_oldest_doubtful_rumor_is_evicted() -> None:
    node = Node()
    for first in range(1, DOUBTFUL_LIMIT + 2):
        copy = RumorCopy(Rumor(peer_id(ORIGIN), 1, first, (0,), b"", bytes(64)), 200, 0)
        node.broadcast._note_doubtful(copy, [], 0.0, is_forwarded=True)
    assert len(node.broadcast._doubtful) == DOUBTFUL_LIMIT


def test_of_two_contents_under_one_id_the_first_is_delivered_and_the_second_counted() -> None:
    node = Node()
    first, second = rumor(ORIGIN, 1, b"pay Ada"), rumor(ORIGIN, 1, b"pay Bob")
    [deliver] = [each for each in node.receive(first, 1, 0.0) if isinstance(each, Deliver)]
    assert [each.payload for each in deliver.messages] == [b"pay Ada"]
    assert node.receive(second, 2, 0.1) == [CountDrop(peer_id(ORIGIN), DropReason.CONTENT_CONFLICT)]
    assert node.broadcast.conflicts == 1
    assert node.store.cache.rumor(rumor_key(first)) == first


def test_a_forged_second_content_is_charged_to_its_sender() -> None:
    node = Node()
    node.receive(rumor(ORIGIN, 1, b"pay Ada"), 1, 0.0)
    forged = rumor(ORIGIN, 1, b"pay Bob", cluster="another")
    assert node.receive(forged, 2, 0.1) == [CountDrop(peer_id(2), DropReason.BAD_SIGNATURE)]
    assert node.broadcast.conflicts == 0


def test_rumors_beyond_the_limit_per_message_are_dropped() -> None:
    node = Node()
    copies = tuple(
        RumorCopy(rumor(ORIGIN, n + 1), 1, 0) for n in range(COPIES_PER_MESSAGE_LIMIT + 1)
    )
    effects = node.broadcast.handle(Rumors(copies), peer_id(1), 0.0)
    assert len([each for each in effects if isinstance(each, Deliver)]) == COPIES_PER_MESSAGE_LIMIT
    assert drop_reasons(effects) == [DropReason.TOO_LARGE]


def test_unrequested_own_rumors_are_tracked_up_to_the_limit() -> None:
    node = Node()
    for first in range(1, UNCLAIMED_LIMIT + 2):
        node.broadcast._track_unclaimed((peer_id(0), 1, first), 10)
    assert len(node.broadcast._unclaimed) == UNCLAIMED_LIMIT
    ids = Rumor(peer_id(0), 1, 5, (0,), b"", bytes(64)).ids
    node.broadcast.on_requested(IWant(1, (ids, ids)))
    assert len(node.broadcast._unclaimed) == UNCLAIMED_LIMIT - 1


# --- at the limits ------------------------------------------------------------------------------


def own(first: int, size: int = 10, attributes: bytes = b"") -> Rumor:
    """A rumor of the node itself."""
    return Rumor.signed(identity(0), "default", EPOCH, first, (bytes(size),), attributes=attributes)


def copies_sent(effects: list[Effect]) -> list[RumorCopy]:
    return [
        copy
        for each in effects
        if isinstance(each, Send) and isinstance(each.message, Rumors)
        for copy in each.message.copies
    ]


def delivered(effects: list[Effect]) -> list[Message]:
    return [m for each in effects if isinstance(each, Deliver) for m in each.messages]


def announcements(effects: list[Effect]) -> list[tuple[tuple[PeerId, ...], Announce]]:
    return [
        (each.peers, each.message)
        for each in effects
        if isinstance(each, Send) and isinstance(each.message, Announce)
    ]


def test_nothing_has_been_counted_at_first() -> None:
    broadcast = Node().broadcast
    counts = broadcast.conflicts, broadcast.duplicates, broadcast.relayed, broadcast.repaired
    assert counts == (0, 0, 0, 0)
    assert (broadcast.unsubscribed, broadcast.expired, broadcast.unsupported) == (0, 0, 0)


def test_a_relayed_copy_has_one_hop_more_and_its_age() -> None:
    node = Node()
    [copy] = copies_sent(node.receive(rumor(ORIGIN, 1), 1, 0.0, hops=3, age_ms=500))
    assert (copy.hops, copy.age_ms) == (4, 500)
    assert node.broadcast.relayed == 3
    [copy] = copies_sent(node.broadcast.broadcast(own(1), 0.0))
    assert (copy.hops, copy.age_ms) == (1, 0)


def test_transit_ages_a_copy_by_half_of_the_round_trip() -> None:
    node = Node()
    node.tables.measure(1, 0.3)
    effects = node.receive(rumor(ORIGIN, 1), 1, 0.0, age_ms=500)
    [copy] = copies_sent(effects)
    assert copy.age_ms == 650
    assert [message.hops for message in delivered(effects)] == [1]


def test_a_claim_of_hops_below_those_of_mail_is_relayed_as_the_greatest() -> None:
    node = Node()
    node.receive(rumor(ORIGIN, 1), 1, 0.0, hops=300)
    cached = node.store.cache.copy(rumor_key(rumor(ORIGIN, 1)), 0.0)
    assert cached is not None
    assert cached.hops == DIRECT_MAIL_HOPS - 1
    assert copies_sent(node.broadcast._push(cached, (peer_id(3),)))[0].hops == 254
    assert copies_sent(node.broadcast._push(cached, (peer_id(3),), is_mail=True))[0].hops == 255
    assert node.broadcast._push(cached, ()) == []


def test_mail_counts_as_one_hop_if_its_origin_sends_it() -> None:
    node = Node()
    [message] = delivered(node.receive(rumor(1, 1), 1, 0.0, hops=DIRECT_MAIL_HOPS))
    assert message.hops == 1
    [message] = delivered(node.receive(rumor(2, 1), 1, 0.0, hops=DIRECT_MAIL_HOPS))
    assert message.hops == 254


def test_a_duplicate_is_counted_and_delivered_once() -> None:
    node = Node()
    assert len(delivered(node.receive(rumor(ORIGIN, 1), 1, 0.0))) == 1
    assert delivered(node.receive(rumor(ORIGIN, 1), 2, 0.1)) == []
    assert node.broadcast.duplicates == 1


def test_repaired_payloads_are_counted() -> None:
    node = Node()
    node.receive(rumor(ORIGIN, 1, b"a", b"b"), 1, 0.0, via=Via.REPAIR)
    node.receive(rumor(ORIGIN, 3), 1, 0.0)
    node.receive(rumor(ORIGIN, 1, b"a", b"b"), 1, 0.0, via=Via.REPAIR)
    assert node.broadcast.repaired == 2


@pytest.mark.parametrize(
    ("via", "age_ms", "is_forwarded"),
    [
        (Via.REPAIR, 9_999, True),
        (Via.REPAIR, 10_000, False),
        (Via.EAGER, 10_000, True),
        (Via.EAGER, 250_000, True),
    ],
)
def test_a_repair_ten_seconds_old_is_not_forwarded(
    via: Via, age_ms: int, is_forwarded: bool
) -> None:
    effects = Node().receive(rumor(ORIGIN, 1), 1, 0.0, age_ms=age_ms, via=via)
    assert bool(pushes(effects)) is is_forwarded
    assert len(delivered(effects)) == 1


@pytest.mark.parametrize(("age_ms", "is_accepted"), [(299_999, True), (300_000, False)])
def test_a_rumor_as_old_as_it_is_remembered_is_rejected(age_ms: int, is_accepted: bool) -> None:
    effects = Node().receive(rumor(ORIGIN, 1), 1, 0.0, age_ms=age_ms)
    assert bool(delivered(effects)) is is_accepted
    assert drop_reasons(effects) == ([] if is_accepted else [DropReason.MESSAGE_EXPIRED])


@pytest.mark.usefixtures("patch_sources")
def test_a_repeated_repair_does_not_unsubscribe_from_its_sender() -> None:
    node = Node()
    announced: list[PeerId] = []
    node.broadcast._strategy.on_duplicate = lambda key, sender, now: announced.append(sender) or []  # type: ignore[method-assign, func-returns-value]
    node.receive(rumor(ORIGIN, 1), 1, 0.0)
    node.receive(rumor(ORIGIN, 1), 2, 0.0, via=Via.REPAIR)
    node.receive(rumor(ORIGIN, 1), 3, 0.0)
    assert announced == [peer_id(3)]


# --- firsthand rumors ---------------------------------------------------------------------------


def firsthand(node: Node, sender: int, epoch: int = EPOCH) -> None:
    """The session with `sender` is of this epoch, that of its rumors."""
    peer = node.tables.peers.get(peer_id(sender))
    assert peer is not None
    peer.session_epoch = epoch


def test_a_firsthand_rumor_is_delivered_and_checked_before_it_is_forwarded() -> None:
    node = Node()
    firsthand(node, 1)
    effects = node.receive(rumor(1, 1), 1, 0.0)
    assert len(delivered(effects)) == 1
    assert pushes(effects) == [3]
    forged = replace(rumor(1, 2), signature=bytes(64))
    effects = node.receive(forged, 1, 0.0)
    assert len(delivered(effects)) == 1, "its session proves its origin"
    assert pushes(effects) == []
    assert effects[-1] == CountDrop(peer_id(1), DropReason.BAD_SIGNATURE)


def test_a_rumor_of_another_epoch_or_origin_than_its_session_is_checked_first() -> None:
    node = Node()
    firsthand(node, 1, EPOCH - 1)
    later = replace(rumor(1, 1), signature=bytes(64))
    assert drop_reasons(node.receive(later, 1, 0.0)) == [DropReason.BAD_SIGNATURE]
    of_another = replace(rumor(2, 1), signature=bytes(64))
    assert drop_reasons(node.receive(of_another, 1, 0.0)) == [DropReason.BAD_SIGNATURE]


@pytest.mark.usefixtures("patch_sources")
def test_an_origin_above_its_budget_is_rejected_even_if_its_rumors_are_firsthand() -> None:
    node = Node()
    firsthand(node, 1)
    node.tables.context.verifier.allow_origin = lambda origin, now: False  # type: ignore[method-assign]
    assert drop_reasons(node.receive(rumor(1, 1), 1, 0.0)) == [DropReason.SIGNATURE_BUDGET]


def test_two_good_signatures_of_one_content_are_no_conflict() -> None:
    node = Node()
    first = rumor(ORIGIN, 1)
    node.receive(first, 1, 0.0)
    attributes = rumor_attributes(trace_share=1)
    resigned = Rumor.signed(
        identity(ORIGIN), "default", EPOCH, 1, (b"payload",), attributes=attributes
    )
    assert node.receive(resigned, 2, 0.1) == []
    assert node.broadcast.conflicts == 0


# --- doubtful claims ----------------------------------------------------------------------------


@pytest.mark.parametrize(("younger_ms", "is_corrected"), [(1_000, False), (1_001, True)])
def test_a_copy_must_be_a_second_younger_to_correct_a_claim(
    younger_ms: int, is_corrected: bool
) -> None:
    node = Node()
    node.receive(rumor(ORIGIN, 1), 1, 0.0, age_ms=10_500, via=Via.REPAIR)
    effects = node.receive(rumor(ORIGIN, 1), 2, 0.0, age_ms=10_500 - younger_ms)
    assert bool(pushes(effects)) is is_corrected


@pytest.mark.parametrize(
    ("first_hops", "second_hops", "is_corrected"), [(10, 9, True), (10, 10, False), (9, 1, False)]
)
def test_a_copy_below_ten_hops_corrects_a_claim_of_ten(
    first_hops: int, second_hops: int, is_corrected: bool
) -> None:
    node = Node()
    node.receive(rumor(ORIGIN, 1), 1, 0.0, hops=first_hops)
    effects = node.receive(rumor(ORIGIN, 1), 2, 0.0, hops=second_hops)
    assert bool(pushes(effects)) is is_corrected


def test_a_corrected_rumor_that_is_still_old_is_not_forwarded() -> None:
    node = Node()
    node.receive(rumor(ORIGIN, 1), 1, 0.0, age_ms=100_000, via=Via.REPAIR)
    assert pushes(node.receive(rumor(ORIGIN, 1), 2, 0.0, age_ms=10_000)) == []
    node = Node()
    node.receive(rumor(ORIGIN, 1), 1, 0.0, age_ms=100_000, via=Via.REPAIR)
    assert pushes(node.receive(rumor(ORIGIN, 1), 2, 0.0, age_ms=9_999)) == [3]


def test_an_expired_copy_corrects_nothing() -> None:
    node = Node()
    node.receive(rumor(ORIGIN, 1), 1, 0.0, hops=200, age_ms=290_000)
    assert node.receive(rumor(ORIGIN, 1), 2, 100.0, age_ms=300_000) == []
    assert rumor_key(rumor(ORIGIN, 1)) in node.broadcast._doubtful


def test_1024_doubtful_claims_and_unclaimed_rumors_are_kept() -> None:
    node = Node()
    for first in range(1, 1026):
        copy = RumorCopy(Rumor(peer_id(ORIGIN), 1, first, (0,), b"", bytes(64)), 200, 500)
        node.broadcast._note_doubtful(copy, [], 2.0, is_forwarded=True)
        node.broadcast._track_unclaimed((peer_id(0), 1, first), 10)
    assert len(node.broadcast._doubtful) == len(node.broadcast._unclaimed) == 1024
    assert (peer_id(ORIGIN), 1, 1) not in node.broadcast._doubtful
    assert (peer_id(0), 1, 1) not in node.broadcast._unclaimed
    assert set(node.broadcast._doubtful.values()) == {(200, 1.5, False, True)}


# --- own rumors ---------------------------------------------------------------------------------


def test_own_rumors_that_were_pushed_await_no_request_and_announced_ones_do() -> None:
    node = Node()
    assert pushes(node.broadcast.broadcast(own(1), 0.0)) == [3]
    assert not node.broadcast.has_unclaimed
    effects = node.broadcast.broadcast(own(2, size=20_000), 0.0)
    assert len(announcements(effects)) >= 1
    assert node.broadcast.has_unclaimed


def test_a_request_claims_the_rumors_that_begin_in_its_ranges() -> None:
    node = Node()
    for first in (3, 5, 7):
        node.broadcast._track_unclaimed((peer_id(0), EPOCH, first), 10)
    stream = Stream(peer_id(0), EPOCH)
    node.broadcast.on_requested(IWant(1, (StreamRange(stream, 4, 6),)))
    assert [key[2] for key in node.broadcast._unclaimed] == [3, 7]
    other = Stream(peer_id(0), EPOCH + 1)
    node.broadcast.on_requested(IWant(1, (StreamRange(other, 1, 9),)))
    assert len(node.broadcast._unclaimed) == 2
    node.broadcast.on_requested(IWant(1, (StreamRange(stream, 3, 3), StreamRange(stream, 7, 9))))
    assert not node.broadcast.has_unclaimed


def test_another_large_rumor_waits_until_both_fit_what_peers_request_at_a_time() -> None:
    node = Node()
    assert node.broadcast.can_announce(10 * PULL_WINDOW_BYTES), "the first one always"
    node.broadcast._track_unclaimed((peer_id(0), EPOCH, 1), 100)
    assert node.broadcast.can_announce(PULL_WINDOW_BYTES - 100)
    assert not node.broadcast.can_announce(PULL_WINDOW_BYTES - 99)


def test_the_first_link_gets_what_was_published_without_any() -> None:
    node = Node(linked=())
    assert pushes(node.broadcast.broadcast(own(1), 0.0)) == []
    node.broadcast.broadcast(own(2, size=20_000), 0.0)
    claimed = [node.broadcast.has_unclaimed]
    node.tables.link(1)
    effects = node.broadcast.on_link_up(peer_id(1), 1.0)
    assert [copy.rumor.first for copy in copies_sent(effects)] == [1]
    assert announcements(effects) == [
        ((peer_id(1),), Announce(own(2, 20_000).ids, own(2, 20_000).size_bytes))
    ]
    claimed.append(node.broadcast.has_unclaimed)
    assert claimed == [False, True]
    node.tables.link(2)
    later = node.broadcast.on_link_up(peer_id(2), 1.0)
    assert copies_sent(later) == []
    assert announcements(later) == []


def test_the_last_link_takes_the_claims_of_peers_with_it() -> None:
    node = Node(linked=(1, 2))
    node.broadcast._track_unclaimed((peer_id(0), EPOCH, 1), 100)
    claimed = []
    for number in (1, 2):
        node.tables.unlink(number)
        node.broadcast.on_link_down(peer_id(number), 0.0)
        claimed.append(node.broadcast.has_unclaimed)
    assert claimed == [True, False]


def test_what_leaves_the_cache_is_awaited_no_longer() -> None:
    node = Node(linked=())
    node.broadcast.broadcast(own(1), 0.0)
    node.broadcast._track_unclaimed((peer_id(0), EPOCH, 1), 100)
    node.broadcast.advance(299.0)
    before = node.broadcast.has_unclaimed, len(node.broadcast._awaiting_first_peer)
    node.broadcast.advance(302.0)
    after = node.broadcast.has_unclaimed, len(node.broadcast._awaiting_first_peer)
    assert (before, after) == ((True, 1), (False, 0))


def test_the_first_peer_may_pull_what_was_broadcast_before_it_came() -> None:
    node = Node(linked=())
    rumor_ = own(1, PUSH_LIMIT_BYTES + 1)
    node.broadcast.broadcast(rumor_, 0.0)
    first = node.tables.link(3)
    effects = node.broadcast.on_link_up(first, 1.0)
    assert Send((first,), Announce(rumor_.ids, rumor_.size_bytes)) in effects
    peer = node.tables.peers.get(first)
    assert peer is not None
    assert peer.announced_bytes == rumor_.size_bytes


# --- large rumors of peers ----------------------------------------------------------------------


def test_a_large_rumor_is_announced_to_those_that_lack_it() -> None:
    node = Node()
    large = rumor(ORIGIN, 1, bytes(20_000))
    effects = node.receive(large, 1, 0.0)
    announced = {peer for peers, _ in announcements(effects) for peer in peers}
    assert announced == {peer_id(number) for number in (2, 3, 4, 5)}
    assert pushes(effects) == []
    effects = Node().receive(large, 1, 0.0, via=Via.REPAIR, age_ms=10_000)
    assert announcements(effects) == []
    assert len(delivered(effects)) == 1


def test_a_corrected_large_rumor_is_announced_to_all_but_its_sender() -> None:
    node = Node()
    large = rumor(ORIGIN, 1, bytes(20_000))
    node.receive(large, 1, 0.0, age_ms=20_000, via=Via.REPAIR)
    effects = node.receive(large, 2, 0.0, age_ms=10)
    announced = {peer for peers, _ in announcements(effects) for peer in peers}
    assert announced == {peer_id(number) for number in (1, 3, 4, 5)}


# --- attributes ---------------------------------------------------------------------------------


def attributed(first: int, **values: Any) -> Rumor:
    attributes = rumor_attributes(**values)
    return Rumor.signed(
        identity(ORIGIN), "default", EPOCH, first, (b"x", b"y"), attributes=attributes
    )


def test_topics_are_delivered_if_a_pattern_selects_them_and_relayed_anyway() -> None:
    node = Node(topics=("deploy.*",))
    effects = node.receive(attributed(1, topic="deploy.web"), 1, 0.0)
    assert [message.topic for message in delivered(effects)] == ["deploy.web"] * 2
    effects = node.receive(attributed(3, topic="alerts.web"), 1, 0.0)
    assert delivered(effects) == []
    assert pushes(effects) == [3]
    assert node.broadcast.unsubscribed == 2
    node.broadcast.subscribe(["alerts.*"])
    assert len(delivered(node.receive(attributed(5, topic="alerts.web"), 1, 0.0))) == 2
    assert len(delivered(node.receive(attributed(7, topic="deploy.web"), 1, 0.0))) == 2


@pytest.mark.parametrize(("age_ms", "count"), [(4_999, 2), (5_000, 0)])
def test_an_expired_message_is_relayed_and_not_delivered(age_ms: int, count: int) -> None:
    node = Node()
    effects = node.receive(attributed(1, expires_s=5), 1, 0.0, age_ms=age_ms)
    assert len(delivered(effects)) == count
    assert pushes(effects) == [3]
    assert node.broadcast.expired == 2 - count


def test_an_attribute_that_this_version_cannot_read_is_reported_once() -> None:
    node = Node()
    unknown = Rumor.signed(
        identity(ORIGIN), "default", EPOCH, 4, (b"x", b"y"), attributes=encode_attributes({200: 1})
    )
    effects = node.receive(unknown, 1, 0.0)
    assert delivered(effects) == []
    [event] = [each.event for each in effects if isinstance(each, Emit)]
    assert event == MessagesUnsupported(peer_id(ORIGIN), EPOCH, 4, 5, 200)
    assert pushes(effects) == [3]
    assert node.broadcast.unsupported == 2


def test_cached_messages_of_a_topic_are_those_of_others_that_have_not_expired() -> None:
    node = Node()
    node.receive(attributed(1, topic="deploy.web"), 1, 0.0)
    node.receive(attributed(3, topic="deploy.db", expires_s=5), 1, 0.0)
    node.receive(attributed(5, topic="alerts.web"), 1, 0.0)
    node.receive(rumor(ORIGIN, 7), 1, 0.0)
    node.broadcast.broadcast(own(1, attributes=rumor_attributes(topic="deploy.web")), 0.0)
    patterns = TopicPatterns(("deploy.*",))

    def found(now: float) -> list[tuple[int, str]]:
        messages = node.broadcast.cached_messages(patterns, now)
        assert {message.via for message in messages} <= {Via.CACHE}
        return [(message.id.sequence, message.topic) for message in messages]

    assert found(4.9) == [(1, "deploy.web"), (2, "deploy.web"), (3, "deploy.db"), (4, "deploy.db")]
    assert found(5.0) == [(1, "deploy.web"), (2, "deploy.web")]


def test_all_payloads_that_cannot_be_read_are_reported_by_their_range() -> None:
    unknown = Rumor.signed(
        identity(ORIGIN), "default", EPOCH, 4, (b"x",) * 4, attributes=encode_attributes({200: 1})
    )
    effects = Node().receive(unknown, 1, 0.0)
    [event] = [each.event for each in effects if isinstance(each, Emit)]
    assert event == MessagesUnsupported(peer_id(ORIGIN), EPOCH, 4, 7, 200)


class RecordingWatcher:
    """Records the calls for rumors with attributes."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def on_rumor(self, copy: RumorCopy, holders: Iterable[PeerId], now: float) -> list[Effect]:
        self.calls.append((copy.rumor.first, *holders))
        return []

    def on_duplicate(self, rumor: Rumor, sender: PeerId) -> None:
        self.calls.append((rumor.first, "again", sender))

    def on_conflict(self, rumor: Rumor) -> None:
        raise AssertionError("no two contents here")

    def on_ids(self, ids: object, sender: PeerId) -> None:
        self.calls.append(("ids", sender))


def test_watchers_get_rumors_with_attributes_their_holders_and_announcements() -> None:
    node, watcher = Node(), RecordingWatcher()
    node.broadcast._watchers = (watcher,)
    attributed_ = attributed(1, trace_share=7)
    node.broadcast.handle(IHave((attributed_.ids,)), peer_id(2), 0.0)
    node.receive(attributed_, 1, 0.0)
    node.receive(attributed_, 3, 0.0)
    for sender in (1, 2):
        node.receive(rumor(ORIGIN, 9), sender, 0.0)
    assert watcher.calls == [
        ("ids", peer_id(2)),
        (1, peer_id(1), peer_id(2)),
        (1, "again", peer_id(3)),
    ]


# --- announcements of topics --------------------------------------------------------------------

FAR = 50  # a member without a link


def topic_rumor(origin: int = ORIGIN, **values: Any) -> Rumor:
    attributes = rumor_attributes(**{"topic": "deploy.web"} | values)
    signer = identity(origin)
    return Rumor.signed(signer, "default", EPOCH, 1, (bytes(20_000),), attributes=attributes)


def announce_topic(
    node: Node,
    sender: int,
    rumor_: Rumor,
    *,
    holder: int = 2,
    has_body: bool = False,
    age_ms: int = 0,
    now: float = 0.0,
) -> list[Effect]:
    copy = RumorCopy(rumor_.without_body(), 3, age_ms, peer_id(holder))
    return node.broadcast.handle(AnnounceTopic(copy, has_body), peer_id(sender), now)


def topic_announcements(effects: list[Effect]) -> list[tuple[set[PeerId], AnnounceTopic]]:
    return [
        (set(each.peers), each.message)
        for each in effects
        if isinstance(each, Send) and isinstance(each.message, AnnounceTopic)
    ]


def requested_from(effects: list[Effect]) -> list[PeerId]:
    return [
        peer
        for each in effects
        if isinstance(each, Send) and isinstance(each.message, IWant)
        for peer in each.peers
    ]


def test_a_topic_of_others_is_announced_on_once_and_not_pulled() -> None:
    node = Node(topics=("alerts.*",))
    node.tables.measure(1, 0.1)
    effects = announce_topic(node, 1, topic_rumor(), age_ms=100)
    assert requested_from(effects) == []
    assert delivered(effects) == []
    [(peers, message)] = topic_announcements(effects)
    assert peers == {peer_id(number) for number in (3, 4, 5)}, "neither its sender nor its holder"
    assert (message.has_body, message.copy.holder) == (False, peer_id(2))
    assert (message.copy.hops, message.copy.age_ms) == (4, 150)
    assert node.broadcast.unsubscribed == 1
    assert announce_topic(node, 3, topic_rumor()) == []


def test_a_topic_that_this_node_delivers_is_pulled_and_not_announced_yet() -> None:
    node = Node(topics=("deploy.*",))
    effects = announce_topic(node, 1, topic_rumor(), has_body=True)
    assert requested_from(effects) == [peer_id(1)]
    assert topic_announcements(effects) == []
    assert announce_topic(node, 3, topic_rumor(), holder=4) == [], "it is requested already"
    effects = node.receive(topic_rumor(), 1, 0.1)
    assert len(delivered(effects)) == 1
    [(peers, message)] = topic_announcements(effects)
    assert peers == {peer_id(2), peer_id(3), peer_id(5)}, "those that are not known to have it"
    assert message.has_body


def test_a_large_rumor_without_a_topic_is_pulled_whatever_is_subscribed() -> None:
    attributes = rumor_attributes(trace_share=7)
    plain = Rumor.signed(
        identity(ORIGIN), "default", EPOCH, 1, (bytes(20_000),), attributes=attributes
    )
    effects = announce_topic(Node(topics=("deploy.*",)), 1, plain)
    assert requested_from(effects) == [peer_id(2)]


def test_what_is_expired_or_cannot_be_read_is_not_pulled() -> None:
    node = Node(topics=("deploy.*",))
    assert requested_from(announce_topic(node, 1, topic_rumor(expires_s=5), age_ms=5000)) == []
    assert node.broadcast.expired == 1
    unknown = Rumor.signed(
        identity(91),
        "default",
        EPOCH,
        1,
        (bytes(20_000),),
        attributes=encode_attributes({2: b"deploy.web", 200: 1}),
    )
    effects = announce_topic(node, 1, unknown)
    assert requested_from(effects) == []
    assert len(topic_announcements(effects)) == 1
    assert node.broadcast.unsupported == 1


@pytest.mark.parametrize(("age_ms", "is_announced"), [(9_999, True), (10_000, False)])
def test_an_old_announcement_is_not_passed_on(age_ms: int, is_announced: bool) -> None:
    effects = announce_topic(Node(topics=("alerts.*",)), 1, topic_rumor(), age_ms=age_ms)
    assert bool(topic_announcements(effects)) is is_announced


def test_a_forged_announcement_is_charged_to_its_sender_and_leaves_nothing() -> None:
    for topics in (("alerts.*",), ("deploy.*",)):
        node = Node(topics=topics)
        forged = replace(topic_rumor(), signature=bytes(64))
        assert announce_topic(node, 1, forged) == [CountDrop(peer_id(1), DropReason.BAD_SIGNATURE)]
        assert not node.store.cache.contains(rumor_key(forged))
        assert not node.broadcast.puller.is_pulling(forged.ids)


@pytest.mark.parametrize(
    ("holder", "is_unknown"), [(FAR, True), (0, False), (2, False), (6, False)]
)
def test_the_record_of_an_unknown_holder_is_requested_from_the_announcer(
    holder: int, is_unknown: bool
) -> None:
    node = Node(topics=("alerts.*",))
    node.tables.members.ensure(record(6), 0.0)
    effects = announce_topic(node, 1, topic_rumor(), holder=holder)
    prefix = id_prefix(peer_id(FAR))
    request = Send((peer_id(1),), MemberDigest(prefix, prefix, b"", is_reply=True))
    assert [each for each in effects if each == request] == [request] * is_unknown
    assert sum(isinstance(each, Send) for each in effects) == 1 + is_unknown


def test_an_own_rumor_of_a_topic_is_awaited_for_two_seconds() -> None:
    node = Node()
    node.broadcast.broadcast(topic_rumor(origin=0), 0.0)
    claimed = []
    for now in (1.0, 2.0):
        node.broadcast.advance(now)
        claimed.append(node.broadcast.has_unclaimed)
    assert claimed == [True, False]


def test_the_first_link_gets_a_topic_as_one_hop_away() -> None:
    node = Node(linked=())
    node.broadcast.broadcast(topic_rumor(origin=0), 0.0)
    node.tables.link(1)
    [(_, message)] = topic_announcements(node.broadcast.on_link_up(peer_id(1), 1.0))
    assert (message.copy.hops, message.has_body) == (1, True)


# --- settings and time --------------------------------------------------------------------------


def test_another_strategy_takes_over_at_run_time() -> None:
    node = Node()
    before = node.broadcast._strategy
    node.tables.reconfigure(fanout=4)
    node.broadcast.reconfigure(1.0)
    assert node.broadcast._strategy is before
    node.tables.reconfigure(strategy="epidemic")
    node.broadcast.reconfigure(2.0)
    assert isinstance(node.broadcast._strategy, Epidemic)
    node.tables.reconfigure(topics=("a.*",))
    node.broadcast.reconfigure(3.0)
    assert len(delivered(node.receive(attributed(1, topic="a.b"), 1, 3.0))) == 2


def test_an_idle_node_has_nothing_to_do_and_one_with_a_cache_ticks() -> None:
    node = Node()
    assert node.broadcast.deadline == math.inf
    node.receive(rumor(ORIGIN, 1), 1, 0.0, age_ms=20_000, via=Via.REPAIR)
    node.broadcast.lazy_push.advance(5.0)
    assert node.broadcast.deadline == STORE_TICK_S
    node.broadcast.advance(STORE_TICK_S)
    assert node.broadcast.deadline == 2 * STORE_TICK_S


def test_a_rumor_of_another_origin_is_checked_although_the_epoch_of_the_session_is_its_own() -> (
    None
):
    node = Node()
    firsthand(node, 1)
    forged = replace(rumor(2, 1), signature=bytes(64))
    assert drop_reasons(node.receive(forged, 1, 0.0)) == [DropReason.BAD_SIGNATURE]
    unlinked = replace(rumor(77, 1), signature=bytes(64))
    assert drop_reasons(node.receive(unlinked, 77, 0.0)) == [DropReason.BAD_SIGNATURE]


def test_the_strategy_gets_how_far_each_rumor_has_come(patch_sources: pytest.MonkeyPatch) -> None:
    node = Node()
    calls: list[NewRumor] = []
    original = node.broadcast._strategy.on_new_rumor

    def on_new_rumor(new: NewRumor, now: float) -> PushPlan:
        calls.append(new)
        return original(new, now)

    patch_sources.setattr(node.broadcast._strategy, "on_new_rumor", on_new_rumor)
    published, received, old = own(1), rumor(ORIGIN, 1), rumor(ORIGIN, 2)
    node.broadcast.broadcast(published, 0.0)
    node.receive(received, 2, 0.0, hops=3)
    node.receive(old, 1, 0.0, hops=3, age_ms=10_000, via=Via.REPAIR)
    node.receive(old, 2, 0.0, hops=4)
    assert calls == [
        NewRumor(rumor_key(published), published.size_bytes, 0, None, is_offered=True),
        NewRumor(rumor_key(received), 0, 3, peer_id(2)),
        NewRumor(rumor_key(old), 0, 3, peer_id(2)),
    ]


def test_a_corrected_rumor_that_had_left_the_cache_is_checked_once() -> None:
    node = Node()
    rumor_ = rumor(ORIGIN, 1)
    node.receive(rumor_, 1, 0.0, age_ms=299_985)
    node.broadcast.advance(2.0)
    assert pushes(node.receive(rumor_, 2, 2.5, age_ms=2_520)) == [3]
    assert node.store.cache.signatures_checked == 0


@pytest.mark.parametrize(
    ("size", "count"), [(0, 4), (URGENT_RUMOR_BYTES, 4), (URGENT_RUMOR_BYTES + 1, 0)]
)
def test_a_small_question_is_pushed_to_near_peers_and_prunes_nothing(size: int, count: int) -> None:
    node = Node((1, 2), strategy="plumtree")
    for number in (3, 4, 5):
        node.tables.link(number)
    attributes = rumor_attributes(query=QueryTerms("up", 5000))
    asked = Rumor.signed(
        identity(ORIGIN), "default", EPOCH, 1, (bytes(size),), attributes=attributes
    )
    sent = node.receive(asked, 1, 0.0)
    assert sum(pushes(sent)) == count
    again = node.receive(asked, 2, 0.1) + node.receive(asked, 3, 0.1)
    assert any(isinstance(each, Send) for each in again) == (not count)
