"""Short sessions: a few words with a member that is no neighbour."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.config.sections import AntiEntropyConfig, LimitsConfig
from grapevine_proto.crypto.cluster_key import ClusterKey
from grapevine_proto.engine import Engine
from grapevine_proto.errors import DropReason, UnknownPeer
from grapevine_proto.events import Event, MessageReceived, MessageSent, PeerStateChanged, Via
from grapevine_proto.ids import Address, Stream, StreamRange
from grapevine_proto.sim import Network, Simulation
from grapevine_proto.transport import transient_sessions
from grapevine_proto.transport.send_coalescer import RUMORS_MESSAGE_BYTES
from grapevine_proto.wire import codec
from grapevine_proto.wire.messages import Close, CloseReason, Heartbeat, OverlayMessage
from tests.proto.overlay.builders import identity
from tests.proto.test_engine import make


class Members:
    """Engines that know each other's records and do not link, on a wire without loss."""

    def __init__(self, count: int, **changes: object) -> None:
        self.now = 0.0
        self.engines = [
            make(n, Address(f"10.0.0.{n}", 8000), **changes) for n in range(1, count + 1)
        ]
        self.events: list[list[Event]] = [[] for _ in self.engines]
        self.is_cut: Callable[[int, int], bool] = lambda source, target: False
        for engine in self.engines:
            engine._overlay.membership.dialer.dial_due = lambda now: []  # type: ignore[method-assign]
            for other in self.engines:
                if other is not engine:
                    engine._overlay.membership.members.add(other.record, other.peer_id, 0.0)

    def exchange(self) -> None:
        """Carry datagrams until nobody has more to say."""
        ports = {Address(f"10.0.0.{n + 1}", 8000): n for n in range(len(self.engines))}
        is_busy = True
        while is_busy:
            is_busy = False
            for number, engine in enumerate(self.engines):
                for datagram, to in engine.datagrams_to_send(self.now):
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
            for engine in self.engines:
                if engine.deadline <= self.now:
                    engine.advance(self.now)
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

    def say(self, source: int, target: int, message: OverlayMessage | Close) -> None:
        """Let one say anything at all on the short session that it has, as a member that lies could."""
        link = self.engines[source]._transport.transients.get(self.engines[target].peer_id)
        assert link is not None
        self.engines[source]._transport.links.enqueue(link, codec.encode_message(message), self.now)
        self.exchange()


def drops(engine: Engine) -> dict[DropReason, int]:
    return dict(engine.stats().dropped)


# --- private words ------------------------------------------------------------------------------


def test_a_member_that_is_not_linked_is_told_in_private_and_can_answer() -> None:
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


def test_a_large_private_message_goes_over_a_short_session_too() -> None:
    members = Members(2)
    payload = bytes(range(256)) * 1200
    members.send(0, 1, payload)
    members.run(5.0, step=0.01)
    assert members.received(1) == [payload]


def test_a_short_session_makes_no_neighbour_at_either_end() -> None:
    members = Members(2)
    members.send(0, 1, b"hello")
    members.run(5.0)
    members.engines[0].broadcast(b"for neighbours", members.now)
    members.run(1.0)
    for engine, events in zip(members.engines, members.events, strict=True):
        assert engine.peers(members.now) == []
        assert len(engine._transport.links) == 0
        assert engine._overlay.membership.evictor.has_room
        assert not [each for each in events if isinstance(each, PeerStateChanged)]
    assert members.received(1) == [b"hello"]


def test_it_closes_after_ten_seconds_idle_and_opens_again_for_the_next_word() -> None:
    members = Members(2)
    members.send(0, 1, b"one")
    members.run(9.0)
    assert (members.count(0), members.count(1)) == (1, 1)
    members.run(2.0)
    assert (members.count(0), members.count(1)) == (0, 0)
    assert members.engines[0].stats().sessions == members.engines[1].stats().sessions == 0
    members.send(0, 1, b"two")
    assert members.received(1) == [b"one", b"two"]


def test_nothing_is_begun_on_one_that_the_other_end_may_be_closing() -> None:
    members = Members(2)
    members.send(0, 1, b"one")
    first = members.engines[0]._transport.transients.get(members.engines[1].peer_id)
    assert first is not None
    session = first.session
    members.run(8.0)
    members.send(0, 1, b"two")
    assert members.received(1) == [b"one", b"two"]
    assert first.session is not session  # a fresh one took over
    members.run(5.0)
    assert members.count(0) == 1  # and counts from then


def test_one_that_is_used_all_the_time_is_rekeyed_and_loses_nothing() -> None:
    members = Members(2)
    said = [b"%d" % n for n in range(60)]
    for payload in said:
        members.send(0, 1, payload)
        members.run(5.0)
    assert members.received(1) == said
    assert members.count(0) == 1


def test_who_does_not_answer_is_told_of_and_what_waited_is_counted() -> None:
    members = Members(2, connection_timeout=5.0)
    members.is_cut = lambda source, target: True
    members.send(0, 1, b"in vain")
    assert members.sent(0) == []
    members.run(6.0)
    assert members.sent(0) == [0]
    assert members.engines[0].stats().send_drops == 1
    assert members.count(0) == 0
    assert members.engines[0].members()[0].status == "up"  # that is for the detector to say


def test_who_is_not_known_cannot_be_told_and_no_number_is_used_up() -> None:
    members = Members(1)
    other = make(7, Address("10.0.0.7", 8000))
    with pytest.raises(UnknownPeer, match=r"no member .* is known here"):
        members.engines[0].send(other.peer_id, b"?", 0.0)
    members.engines[0]._overlay.membership.members.add(other.record, other.peer_id, 0.0)
    assert members.engines[0].send(other.peer_id, b"?", 0.0).sequence == 1


def test_what_waits_for_a_session_goes_over_the_link_if_that_comes_first() -> None:
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


def test_a_word_said_while_a_link_is_dialled_waits_for_what_comes_of_that() -> None:
    """The other end keeps one unconfirmed session of a peer: two dials at once would end one another."""
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
    members.send(0, 1, b"over a short session")
    assert members.received(1) == [b"over a short session"]
    assert (members.count(0), len(ours._transport.links)) == (1, 0)


def test_a_link_and_a_short_session_with_one_peer_do_not_touch_each_other() -> None:
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


# --- ceilings -----------------------------------------------------------------------------------


def test_one_more_than_the_cap_is_refused_counted_and_referred_while_all_are_in_use() -> None:
    limits = LimitsConfig(transient_sessions=2)
    members = Members(4, limits=limits)
    for number in (1, 2, 3):
        members.send(number, 0, b"from %d" % number)
    assert members.received(0) == [b"from 1", b"from 2"]
    assert members.count(0) == 2
    assert members.engines[0].stats().transient_refused == 1
    assert members.sent(3) == [0]
    assert members.engines[3].stats().send_drops == 1


def test_one_more_than_the_cap_that_we_want_ourselves_is_refused_by_name() -> None:
    members = Members(4, limits=LimitsConfig(transient_sessions=2))
    members.send(0, 1, b"one")
    members.send(0, 2, b"two")
    with pytest.raises(UnknownPeer, match="2 transient sessions are in use"):
        members.send(0, 3, b"three")
    assert members.engines[0].stats().transient_refused == 1


def test_links_and_short_sessions_together_stay_within_the_sessions_of_the_node() -> None:
    members = Members(4, max_peers=3, limits=LimitsConfig(sessions=4))
    members.send(0, 1, b"one")
    with pytest.raises(UnknownPeer, match="1 transient sessions are in use"):
        members.send(0, 2, b"two")
    members.send(3, 0, b"three")
    assert members.count(0) == 1
    assert members.engines[0].stats().transient_refused == 2


def test_the_one_idle_for_longest_gives_way() -> None:
    members = Members(4, limits=LimitsConfig(transient_sessions=2))
    members.send(0, 1, b"one")
    members.run(transient_sessions.TRANSIENT_EVICTABLE_IDLE_S + 0.5)
    members.send(0, 2, b"two")
    members.send(3, 0, b"three")
    assert members.received(0) == [b"three"]
    assert members.count(0) == 2
    assert members.count(1) == 0  # it was told
    assert members.engines[0].stats().transient_refused == 0


def test_what_waits_for_a_session_is_bounded_by_number_and_by_bytes() -> None:
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
    members.send(0, 1, bytes(RUMORS_MESSAGE_BYTES))  # one always finds room
    members.send(0, 1, bytes(1))
    assert members.sent(0) == [0]


# --- who may come, and what may be said ---------------------------------------------------------


def test_what_only_neighbours_say_is_refused_on_a_short_session() -> None:
    members = Members(2)
    members.send(0, 1, b"hello")
    members.say(0, 1, Heartbeat(1, 0, 0, 0, 0, bytes(16), ()))
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
    members.say(0, 1, Close(CloseReason.REDUNDANT))
    assert members.count(1) == 0
    assert len(theirs._transport.links) == 1


def test_a_run_that_is_over_gets_no_short_session() -> None:
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


def test_who_leaves_hands_over_what_is_queued_on_short_sessions_and_says_so() -> None:
    members = Members(2)
    members.send(0, 1, b"one")
    members.engines[0].send(members.engines[1].peer_id, b"two", members.now)
    members.engines[0].leave(members.now)
    members.run(1.0)
    assert members.engines[0].is_drained
    assert members.received(1) == [b"one", b"two"]
    assert members.count(1) == 0
    assert members.engines[1].members()[0].status == "left"


def test_who_misbehaves_pays_from_one_allowance_over_links_and_short_sessions() -> None:
    members = Members(2)
    ours, theirs = members.engines
    members.send(0, 1, b"hello")
    account = theirs._transport.links.peer_limits.get_or_create(ours.peer_id, members.now)
    before = account.bucket.available(members.now) if account.bucket else 0.0
    ours._transport.handshakes.dial(
        theirs.record.addresses[0], theirs.peer_id, ours.record, members.now
    )
    members.exchange()
    assert account.bucket is not None
    assert theirs._transport.links[ours.peer_id].inbound_limit.bucket is account.bucket
    assert account.bucket.available(members.now) < before


# --- repair -------------------------------------------------------------------------------------


def test_a_hole_that_no_neighbour_fills_is_filled_by_a_member_beyond() -> None:
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
    came = {
        each.message.payload: each.message.via
        for each in members.events[1]
        if isinstance(each, MessageReceived)
    }
    assert came == {b"one": Via.EAGER, b"three": Via.EAGER, b"two": Via.REPAIR}
    assert list(ours._transport.links) == [other.peer_id]
    members.run(15.0)
    assert members.count(1) == 0


def test_in_a_cluster_with_few_links_everybody_can_be_told_in_private() -> None:
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
