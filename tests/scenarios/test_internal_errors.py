"""An internal error while serving one peer closes that link, is reported, and delays no other peer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grapevine_proto.coordinate import Coordinate
from grapevine_proto.errors import DropReason, format_error
from grapevine_proto.ids import EPOCH_LIMIT, SEQUENCE_LIMIT, MessageId, Stream, StreamRange
from grapevine_proto.transport.handshake.initiator import Initiator
from grapevine_proto.transport.link.link import Link
from grapevine_proto.wire import codec
from grapevine_proto.wire.attributes import rumor_attributes
from grapevine_proto.wire.codec import MAX_PACKETS_PER_SESSION
from grapevine_proto.wire.fields import MAX_PAYLOADS
from grapevine_proto.wire.messages import (
    Ack,
    Announce,
    AnswerAck,
    AnswerFetch,
    Answers,
    Digest,
    DirectMessage,
    DirectReceipt,
    Fragment,
    Graft,
    Heartbeat,
    IHave,
    InSync,
    Introduce,
    IWant,
    LinkFrame,
    MemberDigest,
    MemberUpdate,
    MemberUpdates,
    MtuProbe,
    ObservedAddress,
    Offer,
    OverlayMessage,
    PathChallenge,
    Pause,
    PiggybackedAck,
    Ping,
    PingAck,
    PingReq,
    Prune,
    ReceiptAck,
    Receipts,
    Records,
    Repair,
    Retransmit,
    RumorCopy,
    Rumors,
    StateDelta,
    StateDigest,
    StateHeads,
    StateRequest,
    Subscribe,
    Vector,
)
from grapevine_proto.wire.signed import AnswerCode, PeerRecord, QueryAnswer, Rumor, TraceReceipt
from tests.cluster import Cluster, address_of, seal_as
from tests.proto.overlay.builders import EPOCH, identity

VICTIM, MALICIOUS, HONEST = 1, 2, 3


def fail(*_: object, **__: object) -> Any:
    raise ZeroDivisionError("unexpected")


def make_fail(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, subject: object) -> None:
    """From now on attribute `name` of `owner` raises for `subject`."""
    original = owner.__dict__[name]

    def call(self: object, *args: Any, **kwargs: Any) -> Any:
        if self is subject:
            fail()
        return original(self, *args, **kwargs)

    def get(self: object) -> Any:
        if self is subject:
            fail()
        return original.fget(self)

    monkeypatch.setattr(owner, name, property(get) if isinstance(original, property) else call)


# --- one link closes, the others are served ------------------------------------------------------

SERVING = [
    "transmit",
    "validate_path",
    "advance",
    "needs_rekey",
    "is_expired",
    "send",
    "transmit_at",
]


@pytest.mark.parametrize("name", [*SERVING, "receive", "is_unanswered", "has_room_for"])
def test_an_internal_error_on_one_link_closes_it_and_the_others_are_served(
    name: str, patch_sources: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(3)
    malicious = cluster[MALICIOUS].peer_id
    make_fail(patch_sources, Link, name, cluster.link(VICTIM, MALICIOUS))
    for number in range(3):
        cluster[VICTIM].broadcast(bytes([number]) * 2000, cluster.now)
        cluster[MALICIOUS].broadcast(b"x", cluster.now)
        cluster.exchange()
        assert bytes([number]) * 2000 in cluster.received(HONEST), "in the same turn"
        cluster.run(1.0)
    [error, *_] = cluster.internal_errors(VICTIM)
    assert error.peer == malicious
    assert "ZeroDivisionError: unexpected in fail (test_internal_errors.py:" in error.problem
    assert cluster.drops(VICTIM)[DropReason.INTERNAL_ERROR] == len(cluster.internal_errors(VICTIM))
    assert cluster[HONEST].peer_id in cluster[VICTIM]._transport.links


def test_a_peer_whose_link_closed_by_an_internal_error_may_reconnect(
    patch_sources: pytest.MonkeyPatch,
) -> None:
    cluster = Cluster(2)
    make_fail(patch_sources, Link, "is_expired", cluster.link(VICTIM, MALICIOUS))
    cluster.run(1.5)
    patch_sources.undo()
    assert cluster.internal_errors(VICTIM)
    cluster.run(30.0)
    cluster[VICTIM].broadcast(b"again", cluster.now)
    cluster.run(1.0)
    assert b"again" in cluster.received(MALICIOUS)


def test_an_internal_error_in_a_message_handler_closes_the_link_it_arrived_on(
    patch_sources: pytest.MonkeyPatch,
) -> None:
    cluster = Cluster(3)
    patch_sources.setattr(cluster[VICTIM]._overlay.dissemination.lazy_push, "handle", fail)
    cluster.inject(MALICIOUS, VICTIM, IHave(()))
    cluster.exchange()
    assert list(cluster[VICTIM]._transport.links) == [cluster[HONEST].peer_id]
    assert [error.peer for error in cluster.internal_errors(VICTIM)] == [cluster[MALICIOUS].peer_id]


def test_an_internal_error_in_a_transient_session_ends_only_it(
    patch_sources: pytest.MonkeyPatch,
) -> None:
    cluster = Cluster(3)
    victim, malicious = cluster[VICTIM], cluster[MALICIOUS]
    for engine, peer in ((victim, malicious), (malicious, victim)):
        closed = engine._transport.disconnect(
            peer.peer_id, "for the test", None, notify=False, now=cluster.now
        )
        engine._on_events(closed, cluster.now)
    victim.send(malicious.peer_id, b"psst", cluster.now)
    cluster.exchange()
    transient = victim._transport.transients.get(malicious.peer_id)
    assert transient is not None
    make_fail(patch_sources, Link, "advance", transient)
    cluster.run(1.5)
    assert victim._transport.transients.get(malicious.peer_id) is None
    assert [error.peer for error in cluster.internal_errors(VICTIM)] == [malicious.peer_id]
    victim.broadcast(b"on", cluster.now)
    cluster.exchange()
    assert b"on" in cluster.received(HONEST)


def test_an_internal_error_in_one_dial_ends_only_it(patch_sources: pytest.MonkeyPatch) -> None:
    cluster = Cluster(1)
    cluster.add(HONEST)
    cluster[VICTIM].dial(address_of(9), cluster.now)
    [dial] = cluster[VICTIM]._transport.handshakes._dials.values()
    make_fail(patch_sources, Initiator, "transmit", dial)
    cluster[VICTIM].dial(address_of(HONEST), cluster.now)
    cluster.exchange()
    assert list(cluster[VICTIM]._transport.links) == [cluster[HONEST].peer_id]
    assert dial.session_id not in cluster[VICTIM]._transport.handshakes._dials
    assert len(cluster.internal_errors(VICTIM)) == 1


@pytest.mark.parametrize("component", ["membership", "dissemination", "antientropy", "tracing"])
def test_an_internal_error_in_one_component_does_not_stop_the_others(
    component: str, patch_sources: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(2)
    patch_sources.setattr(getattr(cluster[VICTIM]._overlay, component), "advance", fail)
    cluster.run(3.0)
    cluster[VICTIM].broadcast(b"still here", cluster.now)
    cluster.run(1.0)
    assert b"still here" in cluster.received(MALICIOUS)
    assert 1 <= len(cluster.internal_errors(VICTIM)) <= 5, "reported at most once a second"
    assert cluster[VICTIM].deadline > cluster.now, "the deadline does not spin"


def test_an_internal_error_in_an_effect_for_one_peer_does_not_affect_others(
    patch_sources: pytest.MonkeyPatch,
) -> None:
    cluster = Cluster(3)
    victim, original = cluster[VICTIM], cluster[VICTIM]._transport.links.enqueue
    malicious = cluster.link(VICTIM, MALICIOUS)

    def enqueue(link: Link, plaintext: bytes, now: float) -> None:
        if link is malicious:
            fail()
        original(link, plaintext, now)

    patch_sources.setattr(victim._transport.links, "enqueue", enqueue)
    cluster.run(12.0)  # until heartbeats are sent
    assert {error.peer for error in cluster.internal_errors(VICTIM)} == {cluster[MALICIOUS].peer_id}
    assert cluster[HONEST].peer_id in victim._transport.links
    assert cluster[VICTIM].peer_id in cluster[HONEST]._transport.links


def test_a_link_that_cannot_send_close_is_removed_anyway(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = Cluster(3)
    victim, link = cluster[VICTIM], cluster.link(VICTIM, MALICIOUS)
    for name in ("transmit", "clear", "send", "close"):
        make_fail(monkeypatch, Link, name, link)
    victim.broadcast(bytes(2000), cluster.now)
    cluster.exchange()
    assert list(victim._transport.links) == [cluster[HONEST].peer_id]
    assert all(each is not link for each in victim._transport.links._by_session.values())
    assert bytes(2000) in cluster.received(HONEST)


def test_an_internal_error_is_described_in_one_line_of_bounded_length() -> None:
    with pytest.raises(ValueError, match="a") as caught:
        int("a\nb" * 10_000)
    description = format_error(caught.value)
    assert description.startswith("ValueError: ")
    assert "\n" not in description
    assert len(description) < 700


# --- numbers chosen by a peer --------------------------------------------------------------------


def test_the_highest_packet_number_is_acknowledged_and_higher_ones_dropped() -> None:
    cluster = Cluster(3)
    session = cluster.link(MALICIOUS, VICTIM).session
    plaintext = codec.encode_message(Records(()))
    for counter, dropped in (
        (MAX_PACKETS_PER_SESSION - 1, 0),
        (MAX_PACKETS_PER_SESSION, 1),
        (MAX_PACKETS_PER_SESSION + 1, 2),
    ):
        datagram = seal_as(session, counter, plaintext)
        cluster[VICTIM].receive(datagram, address_of(MALICIOUS), cluster.now)
        assert cluster.drops(VICTIM).get(DropReason.SESSION_EXPIRED, 0) == dropped
    cluster.run(1.0)
    assert not cluster.internal_errors(VICTIM)
    assert (
        cluster.link(VICTIM, MALICIOUS).session.ack_tracker.highest == MAX_PACKETS_PER_SESSION - 1
    )


def test_an_ack_of_packets_that_were_not_sent_is_dropped() -> None:
    cluster = Cluster(2)
    ours = cluster.link(VICTIM, MALICIOUS)
    number = ours.session.next_counter
    ack = Ack(ours.session.their_id, 0, number + 1, 0, 0, ())
    before = ours.path.rate
    cluster.inject(MALICIOUS, VICTIM, codec.encode_frame(ack))
    assert cluster.drops(VICTIM)[DropReason.MALFORMED] == 1
    assert ours.path.rate == before


counters = st.sampled_from([0, 1, 2, 2**16, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1])
long_counters = counters | st.sampled_from([2**32, 2**53, 2**63 - 1, 2**64 - 1])
small = st.integers(0, 255)
bodies = st.binary(min_size=1, max_size=40)
OURS = identity(MALICIOUS)


@st.composite
def ranges(draw: st.DrawFn) -> StreamRange:
    stream = Stream(draw(st.sampled_from([OURS.peer_id, identity(7).peer_id])), draw(epochs))
    first = draw(st.integers(1, SEQUENCE_LIMIT) | st.sampled_from([1, SEQUENCE_LIMIT]))
    last = draw(st.sampled_from([first, SEQUENCE_LIMIT]))
    return StreamRange(stream, first, last)


epochs = st.sampled_from([0, 1, EPOCH, EPOCH + 1, EPOCH_LIMIT - 1])
many_ranges = st.lists(ranges(), max_size=4).map(tuple)


@st.composite
def copies(draw: st.DrawFn) -> RumorCopy:
    highest_first = SEQUENCE_LIMIT - MAX_PAYLOADS
    first = draw(st.sampled_from([1, 2, 1000, highest_first - 1, highest_first]))
    payloads = tuple(draw(st.lists(st.binary(max_size=3), min_size=1, max_size=4)))
    attributes = rumor_attributes(trace_share=draw(st.sampled_from([0, 1, 65535])))
    rumor = Rumor.signed(OURS, "default", draw(epochs), first, payloads, attributes=attributes)
    return RumorCopy(rumor, draw(small), draw(counters))


@st.composite
def records(draw: st.DrawFn) -> PeerRecord:
    signer = draw(st.sampled_from([OURS, identity(7)]))
    addresses = (address_of(MALICIOUS),) * draw(st.integers(0, 4))
    bare = PeerRecord(
        signer.peer_id,
        draw(epochs),
        draw(counters),
        addresses,
        "z" * draw(st.integers(0, 64)),
        "n" * draw(st.integers(0, 64)),
        draw(counters),
        draw(counters),
        False,
    )
    return bare.signed(signer, "default")


def link_frames(theirs: bytes, ours: bytes) -> st.SearchStrategy[LinkFrame]:
    """`theirs` is the session ID on the malicious peer's packets, `ours` the one on the victim's."""
    sessions = st.sampled_from([theirs, ours, bytes(8)])
    missing = st.lists(st.tuples(counters, counters), max_size=3).map(tuple)
    acks = st.builds(Ack, sessions, counters, counters, counters, counters, missing)
    return st.one_of(
        acks,
        st.builds(PiggybackedAck, acks, plaintexts),
        st.builds(Fragment, long_counters, counters, counters, bodies, st.booleans()),
        st.builds(Retransmit, sessions, counters, plaintexts),
        st.builds(MtuProbe, small),
        st.builds(PathChallenge, st.binary(min_size=8, max_size=8)),
    )


ids = st.sampled_from([OURS.peer_id, identity(VICTIM).peer_id, identity(7).peer_id])
totals = st.binary(min_size=16, max_size=16)
record_lists = st.lists(records(), max_size=3).map(tuple)
update_lists = st.lists(st.builds(MemberUpdate, records(), st.just(())), max_size=2).map(tuple)
receipts = st.builds(TraceReceipt, ids, small, counters, small, st.sampled_from([b"", bytes(64)]))
answers = st.builds(
    QueryAnswer,
    ids,
    st.integers(0, 3),
    small,
    counters,
    st.sampled_from(AnswerCode),
    st.binary(max_size=40),
    small,
    st.sampled_from([b"", bytes(64)]),
)
message_ids = st.builds(MessageId, ids, epochs, st.sampled_from([1, SEQUENCE_LIMIT]))
messages: st.SearchStrategy[OverlayMessage] = st.one_of(
    st.builds(
        Heartbeat, counters, counters, counters, st.integers(0, 1000), counters, totals, record_lists,
        st.just(Coordinate().encode()),
    ),
    st.builds(Records, record_lists),
    st.builds(Rumors, st.lists(copies(), max_size=2).map(tuple)),
    st.builds(DirectMessage, st.sampled_from([1, SEQUENCE_LIMIT]), bodies),
    st.builds(DirectReceipt, st.sampled_from([1, SEQUENCE_LIMIT])),
    st.builds(Digest, counters, counters, totals),
    st.builds(InSync, counters),
    st.builds(Vector, counters, st.booleans(), st.just(0), st.sampled_from([1, 256]), many_ranges),
    st.builds(IWant, counters, many_ranges),
    st.builds(Repair, counters, st.booleans(), st.booleans(), st.lists(copies(), max_size=2).map(tuple)),
    st.builds(IHave, many_ranges),
    st.builds(Offer, many_ranges),
    st.builds(Announce, ranges(), counters.filter(bool)),
    st.builds(Subscribe, st.booleans()),
    st.builds(Graft, ids | st.none()),
    st.builds(Prune, ids | st.none()),
    st.builds(Ping, counters, update_lists),
    st.builds(PingReq, counters, ids),
    st.builds(PingAck, counters, st.booleans()),
    st.builds(MemberUpdates, update_lists),
    st.builds(MemberDigest, counters, counters, st.sampled_from([b"", bytes(4), bytes(8)]), st.booleans()),
    st.builds(Receipts, counters, message_ids, st.lists(receipts, max_size=2).map(tuple)),
    st.builds(ReceiptAck, counters),
    st.builds(Answers, counters, message_ids, st.lists(answers, max_size=2).map(tuple)),
    st.builds(AnswerAck, counters),
    st.builds(AnswerFetch, message_ids, st.integers(0, 3)),
    st.builds(StateDigest, st.just(bytes(range(16))), st.sampled_from([b"", bytes(1024)])),
    st.builds(StateHeads, st.booleans(), st.just(bytes(32)), st.just(())),
    st.builds(StateRequest, counters, st.just(())),
    st.builds(StateDelta, counters, st.booleans(), st.lists(copies(), max_size=2).map(tuple)),
    st.builds(Pause, counters),
    st.builds(ObservedAddress, st.just(address_of(MALICIOUS))),
    st.builds(Introduce, st.sampled_from([identity(HONEST).peer_id, identity(99).peer_id]), st.booleans()),
)  # fmt: skip
plaintexts = messages.map(codec.encode_message)
ENCODE_FRAME: Callable[[LinkFrame], bytes] = codec.encode_frame


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_no_number_chosen_by_a_peer_affects_another_link(data: st.DataObject) -> None:
    cluster = Cluster(3)
    victim = cluster[VICTIM]
    for _ in range(data.draw(st.integers(1, 6))):
        link = (
            cluster.link(MALICIOUS, VICTIM)
            if victim.peer_id in cluster[MALICIOUS]._transport.links
            else None
        )
        if link is None or cluster[MALICIOUS].peer_id not in victim._transport.links:
            break
        session = link.session
        frames = link_frames(session.their_id, session.our_id).map(ENCODE_FRAME)
        plaintext = data.draw(plaintexts | frames)
        next_number = session.next_counter
        number = data.draw(st.just(next_number) | counters | st.just(MAX_PACKETS_PER_SESSION - 1))
        victim.receive(seal_as(session, number, plaintext), address_of(MALICIOUS), cluster.now)
        victim.broadcast(b"to all", cluster.now)
        cluster.exchange()
        cluster.run(data.draw(st.sampled_from([0.05, 1.0, 3.0])), step=0.25)
    assert not cluster.internal_errors(VICTIM)
    victim.advance(cluster.now)  # a peer may just have stopped to acknowledge
    cluster.exchange()
    assert math.isfinite(victim.deadline)
    count = len(cluster.received(HONEST))
    victim.broadcast(b"the last", cluster.now)
    cluster.exchange()
    cluster.run(1.0)  # the malicious peer may have replaced links and trees meanwhile
    assert cluster.received(HONEST)[count:].count(b"the last") == 1


def test_a_peer_limit_table_full_of_linked_peers_accepts_one_more() -> None:
    cluster = Cluster(3)
    peer_limits = cluster[VICTIM]._transport.links.peer_limits
    peer_limits._tracked_limit = 2
    assert len(peer_limits) == 2
    peer_limits.get_or_create(identity(9).peer_id, cluster.now)
    assert len(peer_limits) == 3
