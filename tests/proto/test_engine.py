"""The engine's promises: it never raises, it counts every refusal, and no member speaks for another."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.config.sections import LimitsConfig, RateLimitConfig
from grapevine_proto.crypto.cluster_key import ClusterKey
from grapevine_proto.engine import Engine, NodeState
from grapevine_proto.errors import (
    ConfigError,
    DropReason,
    InvalidArgument,
    MessageTooLarge,
    NotRunning,
    UnknownPeer,
)
from grapevine_proto.events import (
    DatagramDropped,
    DialFailed,
    Event,
    IdentityInUse,
    InternalErrorContained,
    MemberStatus,
    MessageReceived,
    MessageSent,
    PeerState,
    RateLimited,
)
from grapevine_proto.ids import Address, MessageId, Stream, StreamRange
from grapevine_proto.overlay.broadcast.large_messages import PULL_WINDOW_BYTES
from grapevine_proto.overlay.membership.local_record import EPOCH_BUMPS_LIMIT
from grapevine_proto.sim import Simulation
from grapevine_proto.transport.link_table import AnsweringChange
from grapevine_proto.transport.rumor_coalescer import RUMORS_MESSAGE_BYTES
from grapevine_proto.transport.session.session import EstablishedSession, Session
from grapevine_proto.wire import codec
from grapevine_proto.wire.messages import (
    Close,
    CloseReason,
    Digest,
    DirectMessage,
    Kind,
    OverlayMessage,
    Records,
    Repair,
    RumorCopy,
    Rumors,
    Vector,
)
from grapevine_proto.wire.signed import PUSH_LIMIT_BYTES, PeerRecord, Rumor
from tests.proto.overlay.builders import EPOCH, KEY, identity
from tests.turn import take_turn

HERE = Address("10.0.0.1", 8000)
THERE = Address("10.0.0.2", 8000)


def make(number: int, address: Address, **changes: object) -> Engine:
    rng = random.Random(number)
    return Engine(
        NodeConfig(keys=(KEY,)).replace(**changes),
        NodeState(identity(number).seed, EPOCH),
        address=address,
        rng=rng,
        entropy=rng.randbytes,
        now=0.0,
    )


class Pair:
    """Two engines and a network without loss or delay; time passes only in `run`."""

    def __init__(self, *, linked: bool = True, **changes: object) -> None:
        self.now = 0.0
        known = [str(THERE)] if linked else []
        self.one = make(1, HERE, bootstrap_peers=known, **changes)
        self.other = make(2, THERE, **changes)
        self.events: dict[Engine, list[Event]] = {self.one: [], self.other: []}
        self.carried: list[bytes] = []
        self.run(0.1)

    def exchange(self) -> None:
        """Carries datagrams until neither engine has more to send."""
        while True:
            out = [
                (datagram, source, target)
                for engine, source, target in (
                    (self.one, HERE, self.other),
                    (self.other, THERE, self.one),
                )
                for datagram, _ in take_turn(engine, self.now)
            ]
            for engine, seen in self.events.items():
                seen += engine.events()
                assert not any(isinstance(event, InternalErrorContained) for event in seen)
            if not out:
                return
            for datagram, source, target in out:
                self.carried.append(datagram)
                target.receive(datagram, source, self.now)

    def run(self, seconds: float, step: float = 0.05) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now = round(self.now + step, 6)
            self.exchange()

    def inject(self, message: OverlayMessage | Close | bytes) -> None:
        """Sends any message from `one` to `other`, as a malicious member could."""
        plaintext = message if isinstance(message, bytes) else codec.encode_message(message)
        self.one._transport.links.enqueue(
            self.one._transport.links[self.other.peer_id], plaintext, self.now
        )
        self.exchange()

    def received(self, by: Engine) -> list[bytes]:
        return [
            event.message.payload for event in self.events[by] if isinstance(event, MessageReceived)
        ]

    def drops(self, of: Engine) -> dict[DropReason, int]:
        return dict(of.stats().dropped)


# --- verbs --------------------------------------------------------------------------------------


def test_without_a_cluster_key_no_engine_starts() -> None:
    with pytest.raises(ConfigError, match=r"^keys: "):
        make(1, HERE, keys=())


def test_two_engines_link_and_receive_broadcasts() -> None:
    pair = Pair()
    message_id = pair.one.broadcast(b"hello", pair.now)
    pair.exchange()
    assert pair.received(pair.other) == [b"hello"]
    sent = [event for event in pair.events[pair.one] if isinstance(event, MessageSent)]
    assert [(event.message.id, event.peers) for event in sent] == [(message_id, 1)]


def test_a_direct_message_reaches_one_peer_under_a_number_of_its_own() -> None:
    pair = Pair()
    message_id = pair.one.send(pair.other.peer_id, b"psst", pair.now)
    pair.exchange()
    assert str(message_id) == f"{pair.one.peer_id}:{EPOCH}:p1"
    [event] = [e for e in pair.events[pair.other] if isinstance(e, MessageReceived)]
    assert event.message.id == message_id
    assert event.message.is_direct


def test_a_message_that_is_too_large_is_refused_with_both_sizes() -> None:
    limit = 100_000
    pair = Pair(max_message_size=limit)
    pair.one.broadcast(bytes(limit), pair.now)
    with pytest.raises(MessageTooLarge, match=rf"{limit + 1:,} bytes; at most {limit:,}"):
        pair.one.broadcast(bytes(limit + 1), pair.now)
    with pytest.raises(UnknownPeer):
        pair.one.send(identity(9).peer_id, b"?", pair.now)
    pair.run(2.0)
    assert pair.received(pair.other) == [bytes(limit)]


def test_a_broadcast_without_peers_is_cached_for_peers_that_connect_in_time() -> None:
    pair = Pair(linked=False)
    assert pair.one.can_broadcast
    pair.one.broadcast(b"anyone?", pair.now)
    pair.run(60.0)
    pair.one.dial(THERE, pair.now)
    pair.run(10.0)
    assert pair.received(pair.other) == [b"anyone?"]


def test_after_leave_no_broadcast_is_accepted_and_peers_see_the_member_as_left() -> None:
    pair = Pair()
    pair.one.leave(pair.now)
    with pytest.raises(NotRunning):
        pair.one.broadcast(b"too late", pair.now)
    before = pair.one.is_drained
    pair.exchange()
    assert (before, pair.one.is_drained) == (False, True)
    [member] = pair.other.members()
    assert member.status is MemberStatus.LEFT


def test_a_leaving_node_accepts_no_link() -> None:
    pair = Pair(linked=False)
    pair.other.leave(pair.now)
    pair.one.dial(THERE, pair.now)
    pair.run(3.0)
    assert pair.other._transport.links == {} == pair.one._transport.links


def test_can_broadcast_is_false_before_a_full_queue_drops_a_broadcast() -> None:
    pair = Pair(limits=LimitsConfig(queue_messages=4))
    payload, per_batch = bytes(8000), RUMORS_MESSAGE_BYTES // 8000
    accepted = 0
    while pair.one.can_broadcast:
        pair.one.broadcast(payload, pair.now)
        accepted += 1
    assert accepted == 4 * per_batch + 1, (
        "four batches that wait, and the first payload of an unsigned one"
    )
    assert pair.one.stats().send_drops == 0
    for _ in range(per_batch):
        pair.one.broadcast(payload, pair.now)
    assert pair.one.stats().send_drops == per_batch
    pair.run(10.0)
    assert len(pair.received(pair.other)) == 5 * per_batch + 1, "dropped payloads are repaired"


def test_a_large_payload_has_room_once_the_previous_one_was_requested() -> None:
    pair = Pair()
    large = bytes(PULL_WINDOW_BYTES // 2 + 1)  # two smaller ones fit in the pull window
    assert pair.one.can_broadcast_bytes(len(large))
    pair.one.broadcast(large, pair.now)
    assert not pair.one.can_broadcast_bytes(len(large)), "not even before it is announced"
    take_turn(pair.one, pair.now)  # these are lost
    assert not pair.one.can_broadcast_bytes(len(large))
    assert pair.one.can_broadcast_bytes(PUSH_LIMIT_BYTES + 1)
    assert pair.one.can_broadcast, "small payloads do not wait for it"
    pair.run(2.0)
    assert pair.one.can_broadcast_bytes(len(large))
    assert pair.received(pair.other) == [large]


def test_a_leaving_node_waits_until_a_large_payload_was_pulled() -> None:
    pair = Pair()
    pair.one.broadcast(bytes(PUSH_LIMIT_BYTES + 1), pair.now)
    pair.one.leave(pair.now)
    pair.run(5.0)
    assert len(pair.received(pair.other)) == 1
    assert pair.one.is_drained


def test_reconfigure_applies_what_can_change_and_returns_the_rest() -> None:
    pair = Pair()
    config = pair.one.config.replace(fanout=5, bind="127.0.0.1:9999", cluster="elsewhere")
    assert set(pair.one.reconfigure(config, pair.now)) == {"bind", "cluster"}
    assert (pair.one.config.fanout, pair.one.config.cluster) == (5, "default")


def test_peers_receive_new_addresses_of_a_node() -> None:
    pair = Pair()
    found = (Address("10.8.0.1", 8000), Address("172.17.0.1", 8000))
    assert pair.one.on_addresses_changed(found, pair.now)
    assert not pair.one.on_addresses_changed(found, pair.now)  # unchanged
    pair.exchange()
    (member,) = pair.other._overlay.membership.members
    assert member.record.addresses == found
    assert len(pair.other._transport.links) == 1


def test_a_dial_that_cannot_be_sent_fails_at_once_with_the_reason() -> None:
    engine = make(1, HERE, bootstrap_peers=["[2001:db8::7]:8000", "192.0.2.9:8000"])
    engine.advance(0.0)
    there = Address("2001:db8::7", 8000)
    assert there in {to for _, to in take_turn(engine, 0.0)}
    engine.on_unsendable(there, "no IPv6 socket", 0.0)
    assert [e for e in engine.events() if isinstance(e, DialFailed)] == [
        DialFailed(there, "no IPv6 socket")
    ]
    engine.on_unsendable(there, "no IPv6 socket", 0.0)  # the dial has ended
    assert engine.events() == []


def test_a_configured_address_is_kept() -> None:
    engine = make(1, HERE, advertise="198.51.100.7:8000")
    assert not engine.on_addresses_changed((Address("10.8.0.1", 8000),), 0.0)
    assert engine.record.addresses == (Address("198.51.100.7", 8000),)


def test_a_removed_key_closes_its_sessions_and_a_new_one_rotates_in_without_loss() -> None:
    pair = Pair()
    new = ClusterKey(bytes(32))
    for engine in (pair.one, pair.other):  # first all accept both ...
        engine.reconfigure(engine.config.replace(keys=(KEY, new)), pair.now)
    for engine in (pair.one, pair.other):  # ... then initiate with the new one
        engine.reconfigure(engine.config.replace(keys=(new, KEY)), pair.now)
    pair.run(150.0)
    assert [link.session.key for link in pair.one._transport.links.values()] == [new]
    for engine in (pair.one, pair.other):  # ... then drop the old one
        engine.reconfigure(engine.config.replace(keys=(new,)), pair.now)
    assert len(pair.one._transport.links) == 1
    pair.one.reconfigure(pair.one.config.replace(keys=(ClusterKey(b"k" * 32),)), pair.now)
    pair.exchange()
    assert pair.one._transport.links == {} == pair.other._transport.links


def test_a_denied_identity_is_dropped_and_stays_out() -> None:
    pair = Pair()
    denied = (pair.one.peer_id,)
    pair.other.reconfigure(pair.other.config.replace(denied=denied), pair.now)
    pair.exchange()
    pair.run(30.0)
    assert pair.other._transport.links == {}
    assert pair.drops(pair.other)[DropReason.DENIED] > 0
    pair.other.reconfigure(pair.other.config.replace(denied=()), pair.now)
    pair.run(30.0)
    assert len(pair.other._transport.links) == 1


# --- any bytes ----------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_no_datagram_makes_receive_raise_and_each_drop_is_counted_once(
    datagrams: list[bytes],
) -> None:
    engine = make(1, HERE)
    for datagram in datagrams:
        engine.receive(datagram, THERE, 0.0)
    stats = engine.stats()
    assert sum(count for _, count in stats.dropped) == len(datagrams) == stats.datagrams_in
    assert DropReason.INTERNAL_ERROR not in dict(stats.dropped)
    assert take_turn(engine, 0.0) == []


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False))
def test_no_change_to_real_traffic_makes_receive_raise(rng: random.Random) -> None:
    pair = Pair()
    pair.one.broadcast(b"something", pair.now)
    pair.run(1.0)
    before = pair.received(pair.other), [p.state for p in pair.other.peers(pair.now)]
    for datagram in rng.sample(pair.carried, min(len(pair.carried), 12)):
        mangled = bytearray(datagram)
        for _ in range(rng.randint(0, 3)):
            mangled[rng.randrange(len(mangled))] ^= 1 << rng.randrange(8)
        cut = rng.choice([len(mangled), rng.randrange(len(mangled))])
        pair.other.receive(bytes(mangled[:cut]), THERE, pair.now)
        pair.exchange()
    assert before == (pair.received(pair.other), [p.state for p in pair.other.peers(pair.now)])


kinds = st.sampled_from([bytes((kind,)) for kind in Kind if kind is not Kind.CLOSE])


@settings(max_examples=100, deadline=None)
@given(kinds, st.binary(max_size=100))
def test_no_message_of_a_member_makes_receive_raise(kind: bytes, body: bytes) -> None:
    pair = Pair()
    pair.inject(kind + body)
    pair.run(1.0)
    pair.other.broadcast(b"still here", pair.now)
    pair.exchange()
    assert pair.received(pair.one) == [b"still here"]


def test_a_replay_of_all_traffic_at_any_time_changes_nothing() -> None:
    pair = Pair()
    pair.one.broadcast(b"once", pair.now)
    pair.run(3.0)
    recorded = list(pair.carried)
    for pause_s in (0.0, 30.0, 130.0, 200.0, 300.0):
        pair.run(pause_s)
        sessions = set(pair.other._transport.links._by_session)
        for datagram in recorded:
            for engine, source in ((pair.one, THERE), (pair.other, HERE)):
                engine.receive(datagram, source, pair.now)
        pair.exchange()
        assert set(pair.other._transport.links._by_session) == sessions
        assert pair.received(pair.other) == [b"once"]
        assert [peer.state for peer in pair.one.peers(pair.now)] == [PeerState.CONNECTED]


# --- malicious members --------------------------------------------------------------------------

VICTIM = 3


def rumor_of(number: int, first: int, payload: bytes = b"true", epoch: int = EPOCH) -> Rumor:
    return Rumor.signed(identity(number), "default", epoch, first, (payload,))


def record_of(
    number: int, *, left: bool = False, incarnation: int = 1, signer: int | None = None
) -> PeerRecord:
    address = (Address(f"10.0.0.{number}", 8000),)
    bare = PeerRecord(identity(number).peer_id, EPOCH, incarnation, address, "", "v", 0, 0, left)
    return bare.signed(identity(signer if signer is not None else number), "default")


def forged(first: int, payload: bytes = b"forged") -> Rumor:
    return replace(rumor_of(1, first, payload), origin=identity(VICTIM).peer_id)


def test_a_forged_rumor_is_not_delivered_and_does_not_keep_the_true_one_out() -> None:
    pair = Pair()
    pair.inject(Rumors((RumorCopy(forged(1), 1, 0),)))
    assert pair.received(pair.other) == []
    assert pair.drops(pair.other)[DropReason.BAD_SIGNATURE] == 1
    pair.inject(Rumors((RumorCopy(rumor_of(VICTIM, 1), 1, 0),)))
    assert pair.received(pair.other) == [b"true"]


def test_three_forged_rumors_close_the_link() -> None:
    pair = Pair()
    for first in (1, 2):
        pair.inject(Rumors((RumorCopy(forged(first), 1, 0),)))
    assert pair.other._transport.links
    pair.inject(Repair(1, True, False, (RumorCopy(forged(3), 1, 0),)))
    assert not pair.other._transport.links
    assert not pair.one._transport.links


def test_a_rumor_signed_for_another_cluster_is_forged_here() -> None:
    pair = Pair()
    other = Rumor.signed(identity(VICTIM), "another", EPOCH, 1, (b"x",))
    pair.inject(Rumors((RumorCopy(other, 1, 0),)))
    assert pair.received(pair.other) == []


def test_a_batch_split_at_other_lengths_is_forged() -> None:
    pair = Pair()
    true = Rumor.signed(identity(VICTIM), "default", EPOCH, 1, (b"ab", b"cd"))
    pair.inject(Rumors((RumorCopy(replace(true, lengths=(1, 3)), 1, 0),)))
    assert pair.received(pair.other) == []


def test_a_record_signed_by_another_identity_expels_no_member() -> None:
    pair = Pair()
    pair.inject(Records((record_of(VICTIM),)))
    pair.inject(Records((record_of(VICTIM, left=True, incarnation=2, signer=1),)))
    [victim] = [m for m in pair.other.members() if m.peer_id == identity(VICTIM).peer_id]
    assert victim.status is MemberStatus.UP
    assert pair.drops(pair.other)[DropReason.BAD_SIGNATURE] == 1


def test_an_older_record_changes_nothing() -> None:
    pair = Pair()
    pair.inject(Records((record_of(VICTIM, incarnation=5),)))
    pair.inject(Records((record_of(VICTIM, incarnation=4, left=True),)))
    [victim] = [m for m in pair.other.members() if m.peer_id == identity(VICTIM).peer_id]
    assert victim.status is MemberStatus.UP


def test_ranges_that_another_peer_claims_suppress_no_message() -> None:
    pair = Pair()
    stream = Stream(identity(VICTIM).peer_id, EPOCH)
    ahead = StreamRange(Stream(stream.origin, EPOCH + 10**6), 1, 2**53)
    claims = (StreamRange(stream, 2**52, 2**53), ahead)
    pair.inject(Digest(1, 5, bytes(16)))
    for answering in (False, True):
        pair.inject(Vector(1, answering, 0, 1, claims))
    pair.inject(Rumors((RumorCopy(rumor_of(VICTIM, 1), 1, 0),)))
    assert pair.received(pair.other) == [b"true"]


def test_a_copy_with_false_age_and_hops_suppresses_no_rumor() -> None:
    pair = Pair()
    true = rumor_of(VICTIM, 1)
    pair.inject(Rumors((RumorCopy(true, 255, 2**32 - 1),)))
    assert pair.received(pair.other) == []
    pair.inject(Rumors((RumorCopy(true, 255, 299_000),)))
    assert pair.received(pair.other) == [b"true"]
    pair.inject(Rumors((RumorCopy(true, 1, 10),)))
    cached = pair.other._overlay.store.cache.copy((true.origin, true.epoch, 1), pair.now)
    assert cached is not None
    assert (cached.hops, cached.age_ms) == (1, 10)


def test_forged_copies_do_not_use_up_what_an_honest_origin_needs() -> None:
    """The verification budget of one source for an origin runs out; that of another does not."""
    sim = Simulation(nodes=3, seed=4, config=NodeConfig().replace(rate_limit=RateLimitConfig()))
    sim.run(10.0)
    malicious, honest, target = (sim.nodes[number].engine for number in range(3))
    assert malicious is not None
    assert honest is not None
    assert target is not None
    false = replace(rumor_of(1, 1, b"x" * 50), origin=honest.peer_id, epoch=honest.epoch)
    for first in range(1, 60):
        if target.peer_id in malicious._transport.links:
            copies = (RumorCopy(replace(false, first=first), 1, 0),)
            link = malicious._transport.links[target.peer_id]
            malicious._transport.links.enqueue(
                link, codec.encode_message(Rumors(copies)), sim.nodes[0].read_clock(sim.now)
            )
    sim._drive(sim.nodes[0])
    message = sim.broadcast(1, b"honest")
    sim.run(1.0)
    assert sim.deliveries(message)[2] == 1


def test_messages_over_the_rate_limit_are_dropped_before_decoding_and_reported() -> None:
    pair = Pair(rate_limit=RateLimitConfig(capacity=20, refill_rate=1.0))
    link = pair.one._transport.links[pair.other.peer_id]
    link.send_limit = None  # the sender ignores the limit of its peer
    for first in range(1, 41):
        copy = RumorCopy(rumor_of(1, first), 1, 0)
        pair.one._transport.links.enqueue(link, codec.encode_message(Rumors((copy,))), pair.now)
    pair.exchange()
    assert 15 <= len(pair.received(pair.other)) <= 20
    throttled = pair.drops(pair.other)[DropReason.RATE_LIMITED]
    assert throttled == 40 - len(pair.received(pair.other))
    pair.run(1.5)
    events = [event for event in pair.events[pair.other] if isinstance(event, RateLimited)]
    assert sum(event.dropped for event in events) >= throttled


def test_an_own_message_of_an_earlier_epoch_is_a_duplicate() -> None:
    pair = Pair()
    earlier = rumor_of(2, 1, b"my own", epoch=EPOCH - 1)
    pair.inject(Rumors((RumorCopy(earlier, 1, 0),)))
    assert pair.received(pair.other) == []
    assert pair.other._overlay.store.is_duplicate(earlier, pair.now)


# --- one identity, two nodes --------------------------------------------------------------------


def test_a_node_bumps_its_epoch_above_a_higher_record_of_its_own_once() -> None:
    pair = Pair()
    higher = replace(pair.other.record, epoch=EPOCH + 100).signed(identity(2), "default")
    pair.inject(Records((higher,)))
    assert pair.other.epoch == EPOCH + 101
    pair.run(10.0)
    assert [peer.state for peer in pair.one.peers(pair.now)] == [PeerState.CONNECTED]
    message_id = pair.other.broadcast(b"in the new epoch", pair.now)
    pair.exchange()
    assert message_id == MessageId(pair.other.peer_id, EPOCH + 101, 1)
    assert pair.received(pair.one) == [b"in the new epoch"]


def test_at_the_second_higher_record_the_node_runs_on_and_reports_the_address() -> None:
    pair = Pair()
    for epoch in (EPOCH + 100, EPOCH + 200):
        higher = replace(pair.other.record, epoch=epoch).signed(identity(2), "default")
        pair.inject(Records((higher,)))
        pair.run(5.0)
    assert pair.other.stop_reason is None
    events = [each for each in pair.events[pair.other] if isinstance(each, IdentityInUse)]
    assert [str(each.address) for each in events] == ["10.0.0.2:8000"]


def test_after_repeated_higher_records_the_node_stops_with_the_address() -> None:
    pair = Pair()
    for time in range(1, EPOCH_BUMPS_LIMIT + 2):
        epoch = EPOCH + 100 * time
        higher = replace(pair.other.record, epoch=epoch).signed(identity(2), "default")
        pair.inject(Records((higher,)))
        pair.run(5.0)
    assert pair.other.stop_reason is not None
    assert "in use by another node at 10.0.0.2:8000" in pair.other.stop_reason


def test_a_record_that_another_identity_signed_bumps_no_epoch() -> None:
    pair = Pair()
    higher = replace(pair.other.record, epoch=EPOCH + 100).signed(identity(1), "default")
    pair.inject(Records((higher,)))
    assert pair.other.epoch == EPOCH


# --- limits -------------------------------------------------------------------------------------


def test_peer_limits_stay_within_their_limit() -> None:
    engine = make(1, HERE)
    engine._transport.links.peer_limits._tracked_limit = 3
    for number in range(4):
        engine._transport.links.peer_limits.get_or_create(identity(number).peer_id, 0.0)
    assert len(engine._transport.links.peer_limits) == 3
    assert engine.stats().evictions == 1


def test_dials_stay_within_their_limit() -> None:
    engine = make(1, HERE, limits=LimitsConfig(dials=2))
    for port in range(3):
        engine.dial(Address("10.0.0.9", port + 1), 0.0)
    assert len(engine._transport.handshakes) == 2


def test_closed_links_are_remembered_up_to_their_limit() -> None:
    pair = Pair()
    pair.other._transport.links._closed_limit = 1
    for _ in range(2):
        closed = pair.other._transport.disconnect(
            pair.one.peer_id, "again", CloseReason.REDUNDANT, notify=True, now=pair.now
        )
        pair.other._on_events(closed, pair.now)
        pair.run(5.0)
        assert len(pair.other._transport.links._closed) <= 1
    assert pair.other.stats().evictions >= 1  # sessions: a link may have had two


def test_rejected_peers_evict_no_remembered_closed_link() -> None:
    pair = Pair()
    links = pair.other._transport.links
    links._closed_limit = 3
    [link] = links.values()
    sessions = set(link.session_ids())
    other = EstablishedSession(link.session, link.record, link.address, None, b"\0")
    links.disconnect(pair.one.peer_id, CloseReason.REDUNDANT, notify=True, now=pair.now)
    for number in range(10):
        session = Session(bytes([number] * 8), bytes(8), KEY, False, bytes(32), bytes(32), pair.now)
        close = Close(CloseReason.FULL)
        links.reject(other._replace(session=session), close, pair.now)
    assert sessions <= set(links._closed)
    assert len(links._closed) == 3


def test_no_secret_is_printed() -> None:
    engine = make(1, HERE)
    saved = engine.snapshot(0.0)
    secrets: list[str] = [identity(1).seed.hex(), KEY._secret.hex(), repr(identity(1).seed)]
    shown: list[Callable[[], str]] = [
        lambda: repr(saved),
        lambda: repr(engine.config),
        lambda: str(engine.config.keys),
        lambda: repr(engine._identity),
    ]
    for show in shown:
        assert not any(secret in show() for secret in secrets)


def test_a_paused_engine_receives_no_rumor_until_it_resumes() -> None:
    pair = Pair()
    pair.other.pause(pair.now)
    pair.run(0.2)
    pair.one.broadcast(b"held back", pair.now)
    pair.run(3.0)
    assert pair.received(pair.other) == []
    pair.other.resume(pair.now)
    pair.run(0.1)
    assert pair.received(pair.other) == [b"held back"]


def test_a_paused_engine_requests_no_repair() -> None:
    pair = Pair()
    pair.other.pause(pair.now)
    pair.run(0.2)
    pair.one.broadcast(b"held back", pair.now)
    before = pair.one.stats().datagrams_in
    pair.other.start_round(pair.now)
    pair.run(2.0)
    assert pair.one.stats().datagrams_in > before  # the round began
    assert pair.received(pair.other) == []


def test_a_program_may_reuse_the_buffer_that_it_passed() -> None:
    pair = Pair()
    buffer = bytearray(b"first")
    pair.one.broadcast(buffer, pair.now)
    pair.one.send(pair.other.peer_id, memoryview(buffer), pair.now)
    buffer[:] = b"OTHER"
    pair.exchange()
    assert pair.received(pair.other) == [b"first", b"first"]


def test_a_peer_without_the_key_is_reported_by_address_once_a_second() -> None:
    pair = Pair(linked=False)
    outsider = make(3, Address("10.0.0.3", 9), keys=(ClusterKey(bytes(32)),))
    outsider.dial(HERE, 0.0)
    for datagram, _ in take_turn(outsider, pair.now):
        pair.one.receive(datagram, Address("10.0.0.3", 9), pair.now)
    pair.run(2.0)
    events = [each for each in pair.events[pair.one] if isinstance(each, DatagramDropped)]
    assert events == [DatagramDropped(DropReason.UNKNOWN_KEY, 1, Address("10.0.0.3", 9))]


@pytest.mark.parametrize("payload", ["text", None, 5, [1, 2], {"a": 1}, object()])
def test_an_invalid_payload_is_refused_and_affects_no_other_message(payload: Any) -> None:
    pair = Pair()
    pair.one.broadcast(b"before", pair.now)
    for verb in (pair.one.broadcast, pair.one.trace):
        with pytest.raises(InvalidArgument, match="payload: expected bytes, not"):
            verb(payload, pair.now)
    with pytest.raises(TypeError):
        pair.one.send(pair.other.peer_id, payload, pair.now)
    pair.one.broadcast(b"after", pair.now)
    pair.run(0.2)
    assert pair.received(pair.other) == [b"before", b"after"]


def test_direct_messages_are_charged_like_all_others() -> None:
    pair = Pair(rate_limit=RateLimitConfig(capacity=10, refill_rate=1.0))
    pair.one._transport.links[pair.other.peer_id].send_limit = None
    for n in range(1, 31):
        pair.inject(DirectMessage(n, b"x"))
    assert len(pair.received(pair.other)) <= 10


# --- large messages -----------------------------------------------------------------------------


def test_the_mtu_falls_when_the_system_refuses_a_datagram_as_too_large() -> None:
    pair = Pair()
    pair.one.send(pair.other.peer_id, bytes(100_000), pair.now)
    pair.run(1.0)
    [link] = pair.one._transport.links.values()
    assert link.path.mtu.datagram_bytes == 8952
    pair.one.on_emsgsize(8952, THERE, pair.now)
    pair.one.on_emsgsize(8952, Address("10.9.9.9", 9), pair.now)
    assert link.path.mtu.datagram_bytes == 1200


def test_ten_mebibytes_are_broadcast_and_one_more_byte_is_refused() -> None:
    pair = Pair(message_dedup_ttl=60.0)
    payload = random.Random(1).randbytes(10 * 2**20)
    pair.one.broadcast(payload, pair.now)
    pair.run(10.0)
    assert pair.received(pair.other) == [payload]
    with pytest.raises(MessageTooLarge, match=r"10,485,761 bytes; at most 10,485,760"):
        pair.one.broadcast(payload + b"x", pair.now)


def test_a_large_broadcast_without_peers_reaches_a_peer_that_connects_in_time() -> None:
    pair = Pair(linked=False)
    payload = random.Random(1).randbytes(2 * 2**20)
    pair.one.broadcast(payload, pair.now)
    pair.one.broadcast(b"small", pair.now)
    pair.one.dial(THERE, pair.now)
    pair.run(20.0)
    assert sorted(pair.received(pair.other), key=len) == [b"small", payload]


# --- what the parts of an engine ask of each other ----------------------------------------------


def test_nobody_introduces_a_node_to_a_member_that_it_does_not_know_or_that_is_behind_no_nat() -> (
    None
):
    pair = Pair()
    assert pair.one._overlay.introducers_of(pair.other.peer_id) == ()
    assert pair.one._overlay.introducers_of(identity(77).peer_id) == ()


def test_only_the_current_sessions_of_a_link_are_found_after_rekeys() -> None:
    pair = Pair()
    links = pair.one._transport.links
    first = set(links._by_session)
    pair.run(500.0, step=0.25)
    current = set(links[pair.other.peer_id].session_ids())
    assert current.isdisjoint(first)
    assert set(links._by_session) == current


def test_a_peer_that_stopped_to_acknowledge_is_due_at_once() -> None:
    pair = Pair()
    pair.run(1.0)
    links = pair.one._transport.links
    assert links.deadline > -math.inf
    links._answering_changes.append(AnsweringChange(pair.other.peer_id, False, False))
    assert links.deadline == -math.inf
