"""Whom two linked nodes know is compared while there is much news, and at no other time."""

from __future__ import annotations

import random

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.config.sections import LimitsConfig
from grapevine_proto.ids import Address, PeerId
from grapevine_proto.overlay.effects import Effect, Send
from grapevine_proto.overlay.members import ID_PREFIX_MAX, MemberTable, id_prefix
from grapevine_proto.overlay.membership.member_sync import (
    ANSWER_MESSAGES_LIMIT,
    ANSWER_MIN_INTERVAL_S,
    PREFIXES_PER_MESSAGE,
    SYNC_LINGER_S,
    SYNC_UPDATES_THRESHOLD,
    MemberSync,
)
from grapevine_proto.overlay.peers import Peer, PeerTable, PeerTrigger
from grapevine_proto.sim import Network, Simulation, memoized
from grapevine_proto.wire.messages import MemberDigest, Records
from grapevine_proto.wire.signed import PeerRecord
from tests.proto.overlay.builders import peer_id

US, PEER = peer_id(1), peer_id(2)


def bare(number: int) -> PeerRecord:
    """A record that nobody checks, of an id that is somewhere among all ids."""
    who = random.Random(number).randbytes(32)
    return PeerRecord(PeerId(who), 1, 0, (), "", "", 0, 0, False, bytes(64))


class Node:
    """Rolls with one linked peer."""

    def __init__(self, known: range, *, members: int = 10_000) -> None:
        self.peers = PeerTable(10)
        self.peer: Peer = self.peers.add(PEER, None, Address("10.0.0.2", 8000), 0.0)
        self.peers.transition(self.peer, PeerTrigger.LINKED)
        limits = LimitsConfig(members=members, addresses_per_source=64)
        self.members = MemberTable(limits, self.peers.is_linked)
        for number in known:
            self.members.add(bare(number), peer_id(number % 50 + 3), 0.0)
        self.rolls = MemberSync(US, self.peers, self.members, random.Random(1))

    def stir(self, now: float = 0.0) -> None:
        for number in range(SYNC_UPDATES_THRESHOLD + 1):
            self.members.queue_update(bare(number).peer_id)
        self.rolls.on_member_added(now)


def sent(effects: list[Effect], kind: type) -> list[object]:
    return [
        each.message for each in effects if isinstance(each, Send) and type(each.message) is kind
    ]


def roll_of(effects: list[Effect]) -> MemberDigest:
    [roll] = sent(effects, MemberDigest)
    assert isinstance(roll, MemberDigest)
    return roll


def told(effects: list[Effect]) -> set[PeerId]:
    messages = [each for each in sent(effects, Records) if isinstance(each, Records)]
    assert len(messages) <= ANSWER_MESSAGES_LIMIT
    return {record.peer_id for each in messages for record in each.records}


def test_nothing_is_asked_while_nothing_is_new_and_no_more_some_time_after_that() -> None:
    node = Node(range(30))
    node.rolls.on_member_added(0.0)
    assert node.rolls.next_request(0.0) == []
    node.stir()
    assert node.rolls.next_request(1.0)
    assert node.rolls.next_request(SYNC_LINGER_S - 0.1)
    assert node.rolls.next_request(SYNC_LINGER_S) == []


def test_each_tells_the_other_whom_it_does_not_know() -> None:
    ours, theirs = Node(range(20)), Node(range(15, 22))
    ours.stir()
    asked = roll_of(ours.rolls.next_request(0.0))
    answer = theirs.rolls.handle(asked, theirs.peer, 0.0)
    assert told(answer) == {bare(20).peer_id, bare(21).peer_id}
    back = roll_of(answer)
    assert back.is_reply
    effects = ours.rolls.handle(back, ours.peer, 0.0)
    assert told(effects) <= {bare(number).peer_id for number in range(15)}
    assert told(effects)
    assert not sent(effects, MemberDigest), "or there would be no end of it"


def test_who_knows_the_same_says_nothing() -> None:
    ours, theirs = Node(range(20)), Node(range(20))
    ours.stir()
    assert theirs.rolls.handle(roll_of(ours.rolls.next_request(0.0)), theirs.peer, 0.0) == []


def test_of_many_members_a_part_is_compared_and_all_parts_in_time() -> None:
    node = Node(range(1000))
    node.stir()
    compared: set[int] = set()
    for _ in range(60):
        roll = roll_of(node.rolls.next_request(0.0))
        marks = roll.to_prefixes()
        assert len(marks) <= PREFIXES_PER_MESSAGE
        assert all(roll.first <= mark <= roll.last for mark in marks)
        compared.update(marks)
    assert compared == {id_prefix(bare(number).peer_id) for number in range(1000)}


def test_who_knows_nobody_is_told_two_datagrams_full() -> None:
    node = Node(range(1000))
    effects = node.rolls.handle(MemberDigest(0, ID_PREFIX_MAX, b""), node.peer, 0.0)
    assert 10 <= len(told(effects)) <= 16


def test_one_peer_is_answered_once_a_look_and_the_rest_is_counted() -> None:
    node = Node(range(20))
    nobody = MemberDigest(0, ID_PREFIX_MAX, b"")
    assert node.rolls.handle(nobody, node.peer, 0.0)
    assert node.rolls.handle(nobody, node.peer, ANSWER_MIN_INTERVAL_S - 0.01) == []
    assert node.rolls.rate_limited == 1
    assert node.rolls.handle(nobody, node.peer, ANSWER_MIN_INTERVAL_S)


def test_who_may_tell_us_of_nobody_any_more_is_not_asked() -> None:
    node = Node(range(30))
    for number in range(64):
        node.members.add(bare(1000 + number), PEER, 0.0)
    node.stir()
    assert node.rolls.next_request(0.0) == []


def test_in_a_full_table_nothing_is_compared() -> None:
    node = Node(range(30), members=30)
    node.stir()
    assert node.rolls.next_request(0.0) == []


def test_a_hundred_that_join_at_once_know_each_other_within_a_minute() -> None:
    config = NodeConfig.lan(max_peers=8)
    with memoized():
        sim = Simulation(
            nodes=100, seed=1, config=config, network=Network(loss=0.1), hash_trace=False
        )

        def all_known() -> bool:
            engines = [node.engine for node in sim.nodes if node.engine is not None]
            return all(len(engine.members()) == 99 for engine in engines)

        assert sim.run_until(all_known, 60.0, every=1.0)
