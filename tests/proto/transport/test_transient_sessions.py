"""Transient sessions carry direct messages and repair between members without a link."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.config.sections import AntiEntropyConfig, LimitsConfig
from grapevine_proto.crypto.cluster_key import ClusterKey
from grapevine_proto.engine import Engine
from grapevine_proto.errors import DropReason, UnknownPeer
from grapevine_proto.events import (
    Event,
    Message,
    MessageReceived,
    MessageSent,
    PeerStateChanged,
    Via,
)
from grapevine_proto.ids import Address, MessageId, Stream, StreamRange
from grapevine_proto.sim import Network, Simulation
from grapevine_proto.transport.link.link import Link
from grapevine_proto.transport.rumor_coalescer import RUMORS_MESSAGE_BYTES
from grapevine_proto.transport.transient_sessions import PendingSend, TransientSessions
from grapevine_proto.wire import codec
from grapevine_proto.wire.messages import (
    Close,
    CloseReason,
    DirectMessage,
    Heartbeat,
    OverlayMessage,
)
from tests.proto.overlay.builders import EPOCH, identity, peer_id
from tests.proto.test_engine import make
from tests.proto.transport.nodes import Network as NodeNetwork
from tests.proto.transport.nodes import transiently_linked
from tests.turn import take_turn


class Members:
    """Engines that know each other's records and dial no links, on a network without loss."""

    def __init__(self, count: int, **changes: object) -> None:
        self.now = 0.0
        self.engines = [
            make(n, Address(f"10.0.0.{n}", 8000), **changes) for n in range(1, count + 1)
        ]
        self.events: list[list[Event]] = [[] for _ in self.engines]
        self.is_cut: Callable[[int, int], bool] = lambda source, target: False
        for engine in self.engines:
            members = engine._overlay.membership.members
            for other in self.engines:
                if other is not engine:
                    members.add(other.record, other.peer_id, 0.0)
            for member in members:
                member.dial_at = math.inf

    def exchange(self) -> None:
        """Carries datagrams until no engine has more to send."""
        ports = {Address(f"10.0.0.{n + 1}", 8000): n for n in range(len(self.engines))}
        is_busy = True
        while is_busy:
            is_busy = False
            for number, engine in enumerate(self.engines):
                for datagram, to in take_turn(engine, self.now):
                    is_busy = True
                    if not self.is_cut(number, ports[to]):
                        source = Address(f"10.0.0.{number + 1}", 8000)
                        self.engines[ports[to]].receive(datagram, source, self.now)
                self.events[number] += engine.events()

    def run(self, seconds: float, step: float = 0.25) -> None:
        until = self.now + seconds
        self.exchange()
        while self.now < until:
            self.now = round(self.now + step, 6)
            self.exchange()

    def send(self, source: int, target: int, payload: bytes) -> None:
        self.engines[source].send(self.engines[target].peer_id, payload, self.now)
        self.exchange()

    def received(self, by: int) -> list[bytes]:
        return [
            each.message.payload for each in self.events[by] if isinstance(each, MessageReceived)
        ]

    def sent(self, by: int) -> list[int]:
        return [each.peers for each in self.events[by] if isinstance(each, MessageSent)]

    def count(self, of: int) -> int:
        return self.engines[of].stats().transient_sessions

    def inject(self, source: int, target: int, message: OverlayMessage | Close) -> None:
        """Sends any message on an open transient session, as a malicious member could."""
        link = self.engines[source]._transport.transients.get(self.engines[target].peer_id)
        assert link is not None
        self.engines[source]._transport.links.enqueue(link, codec.encode_message(message), self.now)
        self.exchange()


def drops(engine: Engine) -> dict[DropReason, int]:
    return dict(engine.stats().dropped)


# --- direct messages ------------------------------------------------------------------------------


def test_an_unlinked_member_receives_a_direct_message_and_can_answer() -> None:
    members = Members(3)
    members.send(0, 1, b"one")
    members.send(0, 1, b"two")
    members.send(1, 0, b"three")
    assert members.received(1) == [b"one", b"two"]
    assert members.received(0) == [b"three"]
    assert members.received(2) == []
    assert members.sent(0) == [1, 1]
    [first, *_] = [each for each in members.events[1] if isinstance(each, MessageReceived)]
    assert first.message.is_direct
    assert first.message.origin == members.engines[0].peer_id


def test_a_large_direct_message_goes_over_a_transient_session_too() -> None:
    members = Members(2)
    payload = bytes(range(256)) * 1200
    members.send(0, 1, payload)
    members.run(5.0, step=0.01)
    assert members.received(1) == [payload]


def test_a_transient_session_makes_no_peer_at_either_end() -> None:
    members = Members(2)
    members.send(0, 1, b"hello")
    members.run(5.0)
    members.engines[0].broadcast(b"for peers", members.now)
    members.run(1.0)
    for engine, events in zip(members.engines, members.events, strict=True):
        assert engine.peers(members.now) == []
        assert len(engine._transport.links) == 0
        assert engine._overlay.membership.evictor.has_room
        assert not [each for each in events if isinstance(each, PeerStateChanged)]
    assert members.received(1) == [b"hello"]


def test_it_closes_after_ten_seconds_idle_and_opens_again_for_the_next_message() -> None:
    members = Members(2)
    members.send(0, 1, b"one")
    members.run(9.0)
    assert (members.count(0), members.count(1)) == (1, 1)
    members.run(2.0)
    assert (members.count(0), members.count(1)) == (0, 0)
    assert members.engines[0].stats().sessions == members.engines[1].stats().sessions == 0
    members.send(0, 1, b"two")
    assert members.received(1) == [b"one", b"two"]


def test_a_session_that_the_other_end_may_be_closing_is_replaced_first() -> None:
    members = Members(2)
    members.send(0, 1, b"one")
    first = members.engines[0]._transport.transients.get(members.engines[1].peer_id)
    assert first is not None
    session = first.session
    members.run(8.0)
    members.send(0, 1, b"two")
    assert members.received(1) == [b"one", b"two"]
    assert first.session is not session  # a new one replaced it
    members.run(5.0)
    assert members.count(0) == 1  # its idle time starts then


def test_a_session_in_constant_use_is_rekeyed_and_loses_nothing() -> None:
    members = Members(2)
    payloads = [b"%d" % n for n in range(60)]
    for payload in payloads:
        members.send(0, 1, payload)
        members.run(5.0)
    assert members.received(1) == payloads
    assert members.count(0) == 1


def test_a_member_that_does_not_answer_is_reported_and_its_messages_are_counted_as_dropped() -> (
    None
):
    members = Members(2, connection_timeout=5.0)
    members.is_cut = lambda source, target: True
    members.send(0, 1, b"in vain")
    assert members.sent(0) == []
    members.run(6.0)
    assert members.sent(0) == [0]
    assert members.engines[0].stats().send_drops == 1
    assert members.count(0) == 0
    assert members.engines[0].members()[0].status == "up"  # only the failure detector decides


def test_an_unknown_member_cannot_be_sent_to_and_uses_up_no_number() -> None:
    members = Members(1)
    other = make(7, Address("10.0.0.7", 8000))
    with pytest.raises(UnknownPeer, match=r"no member .* is known here"):
        members.engines[0].send(other.peer_id, b"?", 0.0)
    members.engines[0]._overlay.membership.members.add(other.record, other.peer_id, 0.0)
    assert members.engines[0].send(other.peer_id, b"?", 0.0).sequence == 1


def test_a_message_that_waits_for_a_session_goes_over_the_link_if_that_comes_first() -> None:
    members = Members(2)
    ours, theirs = members.engines
    members.is_cut = lambda source, target: True
    members.send(0, 1, b"hello")
    members.is_cut = lambda source, target: False
    theirs._transport.handshakes.dial(
        ours.record.addresses[0], ours.peer_id, theirs.record, members.now
    )
    members.run(3.0)
    assert members.received(1) == [b"hello"]
    assert members.sent(0) == [1]
    assert len(ours._transport.links) == 1


def test_a_message_sent_while_a_link_is_dialed_waits_for_the_outcome() -> None:
    """The responder keeps one unconfirmed session per peer: of two dials at once, one would fail."""
    members = Members(2)
    ours, theirs = members.engines
    ours._transport.handshakes.dial(
        theirs.record.addresses[0], theirs.peer_id, ours.record, members.now
    )
    members.send(0, 1, b"over the link")
    assert members.received(1) == [b"over the link"]
    assert members.count(0) == 0
    members = Members(3, max_peers=1)
    ours, theirs, other = members.engines
    other._transport.handshakes.dial(
        theirs.record.addresses[0], theirs.peer_id, other.record, members.now
    )
    members.exchange()
    assert len(theirs._transport.links) == 1  # and has no room for another
    ours._transport.handshakes.dial(
        theirs.record.addresses[0], theirs.peer_id, ours.record, members.now
    )
    members.send(0, 1, b"over a transient session")
    assert members.received(1) == [b"over a transient session"]
    assert (members.count(0), len(ours._transport.links)) == (1, 0)


def test_a_link_and_a_transient_session_with_one_peer_do_not_affect_each_other() -> None:
    members = Members(2)
    ours, theirs = members.engines
    members.send(0, 1, b"short")
    ours._transport.handshakes.dial(
        theirs.record.addresses[0], theirs.peer_id, ours.record, members.now
    )
    members.exchange()
    members.send(0, 1, b"linked")
    members.run(20.0)
    assert members.received(1) == [b"short", b"linked"]
    assert (members.count(0), members.count(1)) == (0, 0)
    assert len(ours._transport.links) == len(theirs._transport.links) == 1
    members.send(1, 0, b"still linked")
    assert members.received(0) == [b"still linked"]
    assert ours._transport.links.find_by_address(theirs.record.addresses[0]) is not None


# --- limits ---------------------------------------------------------------------------------------


def test_a_session_beyond_the_limit_is_refused_and_counted_while_all_are_in_use() -> None:
    limits = LimitsConfig(transient_sessions=2)
    members = Members(4, limits=limits)
    for number in (1, 2, 3):
        members.send(number, 0, b"from %d" % number)
    assert members.received(0) == [b"from 1", b"from 2"]
    assert members.count(0) == 2
    assert members.engines[0].stats().transient_refused == 1
    assert members.sent(3) == [0]
    assert members.engines[3].stats().send_drops == 1


def test_sending_beyond_the_limit_raises_an_error_that_names_it() -> None:
    members = Members(4, limits=LimitsConfig(transient_sessions=2))
    members.send(0, 1, b"one")
    members.send(0, 2, b"two")
    with pytest.raises(UnknownPeer, match="2 transient sessions are in use"):
        members.send(0, 3, b"three")
    assert members.engines[0].stats().transient_refused == 1


def test_links_and_transient_sessions_together_stay_within_the_session_limit() -> None:
    members = Members(4, max_peers=3, limits=LimitsConfig(sessions=4))
    members.send(0, 1, b"one")
    with pytest.raises(UnknownPeer, match="1 transient sessions are in use"):
        members.send(0, 2, b"two")
    members.send(3, 0, b"three")
    assert members.count(0) == 1
    assert members.engines[0].stats().transient_refused == 2


def test_the_session_idle_for_longest_is_evicted() -> None:
    members = Members(4, limits=LimitsConfig(transient_sessions=2))
    members.send(0, 1, b"one")
    members.run(1.5)
    members.send(0, 2, b"two")
    members.send(3, 0, b"three")
    assert members.received(0) == [b"three"]
    assert members.count(0) == 2
    assert members.count(1) == 0  # it received a Close
    assert members.engines[0].stats().transient_refused == 0


def test_messages_that_wait_for_a_session_are_limited_by_number_and_bytes() -> None:
    members = Members(2, limits=LimitsConfig(queue_messages=3, queue_bytes=10_000))
    members.is_cut = lambda source, target: True
    for size in (10, 20, 30, 40):
        members.send(0, 1, bytes(size))
    assert members.sent(0) == [0]
    members.is_cut = lambda source, target: False
    members.run(2.0)
    assert [len(each) for each in members.received(1)] == [10, 20, 30]
    members = Members(2, limits=LimitsConfig(queue_messages=9, queue_bytes=10_000))
    members.is_cut = lambda source, target: True
    members.send(0, 1, bytes(RUMORS_MESSAGE_BYTES))  # the first is always accepted
    members.send(0, 1, bytes(1))
    assert members.sent(0) == [0]


# --- admission ------------------------------------------------------------------------------------


def test_messages_for_linked_peers_are_dropped_on_a_transient_session() -> None:
    members = Members(2)
    members.send(0, 1, b"hello")
    members.inject(0, 1, Heartbeat(1, 0, 0, 0, 0, bytes(16), ()))
    assert drops(members.engines[1])[DropReason.UNEXPECTED] == 1
    assert members.engines[1].peers(members.now) == []


def test_a_close_ends_it_and_leaves_a_link_alone() -> None:
    members = Members(2)
    ours, theirs = members.engines
    members.send(0, 1, b"hello")
    ours._transport.handshakes.dial(
        theirs.record.addresses[0], theirs.peer_id, ours.record, members.now
    )
    members.exchange()
    members.inject(0, 1, Close(CloseReason.REDUNDANT))
    assert members.count(1) == 0
    assert len(theirs._transport.links) == 1


def test_an_outdated_epoch_gets_no_transient_session() -> None:
    members = Members(2)
    ours, theirs = members.engines
    known = theirs._overlay.membership.members.get(ours.peer_id)
    assert known is not None
    known.record = replace(ours.record, epoch=ours.epoch + 5).signed(identity(1), "default")
    members.send(0, 1, b"from the past")
    assert members.received(1) == []
    assert members.count(1) == 0
    assert members.sent(0) == [0]
    assert drops(theirs)[DropReason.STALE_EPOCH] == 1


def test_denied_members_and_removed_keys_close_it() -> None:
    members = Members(3)
    members.send(0, 1, b"one")
    members.send(0, 2, b"two")
    ours = members.engines[0]
    ours.reconfigure(ours.config.replace(denied=(members.engines[1].peer_id,)), members.now)
    members.exchange()
    assert (members.count(0), members.count(1), members.count(2)) == (1, 0, 1)
    ours.reconfigure(ours.config.replace(keys=(ClusterKey(bytes(32)),)), members.now)
    members.exchange()
    assert (members.count(0), members.count(2)) == (0, 0)


def test_leaving_flushes_and_closes_transient_sessions() -> None:
    members = Members(2)
    members.send(0, 1, b"one")
    members.engines[0].send(members.engines[1].peer_id, b"two", members.now)
    members.engines[0].leave(members.now)
    members.run(1.0)
    assert members.engines[0].is_drained
    assert members.received(1) == [b"one", b"two"]
    assert members.count(1) == 0
    assert members.engines[1].members()[0].status == "left"


def test_links_and_transient_sessions_share_one_rate_limit() -> None:
    members = Members(2)
    ours, theirs = members.engines
    members.send(0, 1, b"hello")
    limits = theirs._transport.links.peer_limits.get_or_create(ours.peer_id, members.now)
    before = limits.bucket.available(members.now) if limits.bucket else 0.0
    ours._transport.handshakes.dial(
        theirs.record.addresses[0], theirs.peer_id, ours.record, members.now
    )
    members.exchange()
    assert limits.bucket is not None
    assert theirs._transport.links[ours.peer_id].inbound_limit.bucket is limits.bucket
    assert limits.bucket.available(members.now) < before


# --- repair ---------------------------------------------------------------------------------------


def test_a_gap_that_no_peer_can_fill_is_filled_by_an_unlinked_member() -> None:
    members = Members(3, anti_entropy=AntiEntropyConfig(interval=10.0))
    holder, ours, other = members.engines
    for payload in (b"one", b"two", b"three"):
        holder.broadcast(payload, members.now)
        members.exchange()
    ours._transport.handshakes.dial(
        other.record.addresses[0], other.peer_id, ours.record, members.now
    )
    members.exchange()
    stream = StreamRange(Stream(holder.peer_id, holder.epoch), 1, 3)
    first, _, third = holder._overlay.store.cache.in_ranges(stream, members.now)
    for copy in (first, third):
        effects = ours._overlay.dissemination.accept(copy, other.peer_id, Via.EAGER, members.now)
        ours._apply_effects(effects, members.now)
    members.run(20.0)
    received_via = {
        each.message.payload: each.message.via
        for each in members.events[1]
        if isinstance(each, MessageReceived)
    }
    assert received_via == {b"one": Via.EAGER, b"three": Via.EAGER, b"two": Via.REPAIR}
    assert list(ours._transport.links) == [other.peer_id]
    members.run(15.0)
    assert members.count(1) == 0


def test_every_member_of_a_sparse_cluster_can_receive_a_direct_message() -> None:
    sim = Simulation(nodes=24, seed=3, config=NodeConfig(max_peers=4), network=Network(loss=0.1))
    sim.run(150.0)
    got: list[tuple[int, bytes]] = []
    sim.listen(
        lambda _, number, event: (
            got.append((number, event.message.payload))
            if isinstance(event, MessageReceived)
            else None
        )
    )
    unlinked = 0
    for target in range(1, 24):
        engine = sim.nodes[0].engine
        peer_id = sim.nodes[target].peer_id
        assert engine is not None
        assert peer_id is not None
        unlinked += peer_id not in engine._transport.links
        sim.send(0, target, b"to %d" % target)
        sim.run(1.0)
    sim.run(10.0)
    assert unlinked >= 15
    assert sorted(got) == [(n, b"to %d" % n) for n in range(1, 24)]


def test_messages_that_wait_may_fill_their_queue_to_the_last_byte() -> None:
    for spare, accepted in [(0, True), (-1, False)]:
        limits = LimitsConfig(queue_bytes=8192 + spare)
        sessions = Members(1, limits=limits).engines[0]._transport.transients
        to = identity(9).peer_id
        assert sessions.enqueue_pending(to, PendingSend(bytes(8000), None), 0.0)
        assert sessions.enqueue_pending(to, PendingSend(bytes(192), None), 0.0) is accepted


# --- the table alone ------------------------------------------------------------------------------


HEARD_AT = 100.0


def table_of_one(**changes: Any) -> tuple[TransientSessions, Link]:
    """The table of node 1 and its session with node 2, whose peer was heard at
    `HEARD_AT` and has acknowledged everything."""
    network, one, two = transiently_linked(**changes)
    network.run(0.5)
    link = one.transport.transients.get(two.peer_id)
    assert link is not None
    link.last_heard_at = HEARD_AT
    return one.transport.transients, link


def owe(link: Link) -> None:
    """A packet of `link` that nothing acknowledges."""
    link.send(codec.encode_message(DirectMessage(1, b"x")), 0.0)
    link.transmit(0.0)


def test_a_session_is_usable_for_seven_seconds_after_its_peer_was_heard() -> None:
    table, link = table_of_one()
    assert table.usable(link.peer_id, HEARD_AT + 6.99) is link
    assert table.usable(link.peer_id, HEARD_AT + 7.0) is None
    link.last_heard_at = 179.0
    assert table.usable(link.peer_id, 179.9) is link
    assert table.usable(link.peer_id, 180.0) is None, "its key has expired"


@pytest.mark.parametrize(("is_owed", "timeout_s"), [(False, 10.0), (True, 30.0)])
def test_a_silent_session_closes_later_if_something_is_not_acknowledged(
    is_owed: bool, timeout_s: float
) -> None:
    table, link = table_of_one()
    if is_owed:
        owe(link)
    table.advance(HEARD_AT + timeout_s - 0.01)
    assert len(table) == 1
    table.advance(HEARD_AT + timeout_s)
    assert len(table) == 0


def test_a_session_whose_key_has_expired_closes() -> None:
    table, link = table_of_one()
    link.last_heard_at = 179.9
    table.advance(179.9)
    assert len(table) == 1
    table.advance(180.0)
    assert len(table) == 0


def test_a_session_idle_for_a_second_makes_room_for_another_peer() -> None:
    table, link = table_of_one(limits=LimitsConfig(transient_sessions=1))
    assert not table.make_room(peer_id(3), HEARD_AT + 0.99)
    assert table.make_room(link.peer_id, HEARD_AT + 0.99), "it has a session"
    assert (len(table), table.refused) == (1, 1)
    assert table.make_room(peer_id(3), HEARD_AT + 1.0)
    assert (len(table), table.refused) == (0, 1)


def test_a_session_with_something_unacknowledged_is_not_evicted() -> None:
    table, link = table_of_one(limits=LimitsConfig(transient_sessions=1))
    owe(link)
    assert not table.make_room(peer_id(3), HEARD_AT + 5.0)
    assert (len(table), table.refused) == (1, 1)


def test_a_session_that_is_opening_counts_and_can_not_be_evicted() -> None:
    table, _ = table_of_one(limits=LimitsConfig(transient_sessions=2))
    assert table.make_room(peer_id(3), HEARD_AT)
    assert table.enqueue_pending(peer_id(3), PendingSend(b"x", None), 0.0)
    assert len(table) == 2
    assert table.make_room(peer_id(3), HEARD_AT), "it is opening"
    assert not table.make_room(peer_id(4), HEARD_AT)
    assert table.make_room(peer_id(4), HEARD_AT + 5.0), "the live one is evicted"
    assert len(table) == 1


def test_links_that_may_come_take_room_from_transient_sessions() -> None:
    for sessions, has_room in ((5, True), (4, False)):
        limits = LimitsConfig(transient_sessions=9, sessions=sessions)
        table, _ = table_of_one(max_peers=3, limits=limits)
        assert table.make_room(peer_id(3), HEARD_AT) is has_room


def test_messages_without_room_or_session_are_counted_one_by_one() -> None:
    table, _ = table_of_one(limits=LimitsConfig(queue_messages=2))
    queued = [
        table.enqueue_pending(peer_id(3), PendingSend(b"x", None), float(now)) for now in range(4)
    ]
    assert queued == [True, True, False, False]
    assert (table.send_drops, table.opening()) == (2, [(peer_id(3), 0.0)])
    assert len(table.fail_pending(peer_id(3))) == 2
    assert (table.send_drops, table.opening()) == (4, [])


def test_only_messages_of_the_application_are_reported_as_pending() -> None:
    table, _ = table_of_one()
    table.enqueue_pending(peer_id(3), PendingSend(b"x", None), 0.0)
    before = table.has_pending_messages
    message = Message(MessageId(peer_id(1), 1, 1), b"x", 0, Via.LOCAL, 0.0)
    table.enqueue_pending(peer_id(3), PendingSend(b"x", message), 0.0)
    assert (before, table.has_pending_messages) == (False, True)


def test_a_later_run_of_a_peer_replaces_its_transient_session() -> None:
    network, one, two = transiently_linked()
    before = two.transport.transients.get(one.peer_id)
    again = network.add(1, epoch=EPOCH + 1)
    network.open_transient(1, 2)
    after = two.transport.transients.get(again.peer_id)
    assert after is not None
    assert after is not before
    assert (after.epoch, len(two.transport.transients)) == (EPOCH + 1, 1)


def test_an_error_in_one_session_leaves_the_others_to_their_time(
    patch_sources: pytest.MonkeyPatch,
) -> None:
    network = NodeNetwork(3)
    for number in (2, 3):
        network.open_transient(1, number)
    network.run(0.5)
    transport = network[1].transport
    broken = transport.transients.get(peer_id(2))
    advance = Link.advance

    def fail_once(link: Link, now: float) -> None:
        if link is broken:
            raise RuntimeError("broken")
        advance(link, now)

    patch_sources.setattr(Link, "advance", fail_once)
    transport.transients.advance(network.now + 10.0)
    assert [each.peer_id for each in transport.transients.all()] == [peer_id(2)]
    assert [each.link for each in transport.links.take_internal_errors()] == [broken]
