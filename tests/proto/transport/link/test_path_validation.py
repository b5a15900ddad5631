"""Path validation: a peer that moves is followed, an attacker that replays its packets is not."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from grapevine_proto.engine import Engine
from grapevine_proto.events import MessageReceived
from grapevine_proto.ids import Address
from grapevine_proto.transport.link.link import Link
from grapevine_proto.transport.link.path_validation import (
    PathValidator,
)
from tests.proto.test_engine import make
from tests.proto.transport.ends import entropy_of

OLD = Address("192.0.2.1", 1000)
NEW = Address("192.0.2.1", 1001)
THIRD = Address("192.0.2.1", 1002)
BOB = Address("192.0.2.2", 2000)
ATTACKER = Address("203.0.113.6", 666)
CHALLENGE_BYTES = 42  # of a datagram with a challenge

# --- the validator alone --------------------------------------------------------------------------


class Validation:
    """A validator at an RTT of 0.1 s, with its challenges: (token, whether to the new address)."""

    def __init__(self) -> None:
        self.validator = PathValidator(entropy_of("path"))
        self.on_response = self.validator.on_response
        self.take_validated_address = self.validator.take_validated_address
        self.challenges: list[tuple[bytes, bool]] = []

    def deliver(self, source: Address, now: float, size_bytes: int = 1000) -> None:
        self.validator.on_new_source(source, size_bytes, is_newest=True, interval_s=0.1, now=now)

    @property
    def deadline(self) -> float:
        return self.validator.deadline

    def pop_due(self, now: float) -> list[tuple[bytes, Address | None]]:
        due = self.validator.pop_due_challenges(now)
        self.challenges += [(token, to is not None) for token, to in due]
        return due

    def token(self, *, of_new: bool) -> bytes:
        return next(token for token, is_new in self.challenges if is_new is of_new)


def validating() -> Validation:
    validation = Validation()
    validation.deliver(NEW, 0.0)
    validation.pop_due(0.0)
    return validation


def test_either_address_gets_three_challenges_a_round_trip_apart() -> None:
    validation = Validation()
    validation.deliver(NEW, 0.0)
    assert validation.deadline == 0.0
    for sent_at in (0.0, 0.1, 0.2):
        assert validation.pop_due(sent_at - 0.001) == []
        assert [to for _, to in validation.pop_due(sent_at)] == [None, NEW]
    assert validation.pop_due(0.9) == []


def test_the_two_addresses_get_different_tokens() -> None:
    validation = Validation()
    validation.deliver(NEW, 0.0)
    [(old_token, old), (new_token, new)] = validation.pop_due(0.0)
    assert (old, new) == (None, NEW)
    assert len({old_token, new_token}) == 2


def test_the_new_address_is_adopted_if_only_it_answers_in_time() -> None:
    validation = validating()
    validation.on_response(validation.token(of_new=True), 0.1)
    assert validation.take_validated_address(3 * 0.1 - 0.001) is None
    assert validation.take_validated_address(3 * 0.1) == NEW
    assert validation.deadline == float("inf")


def test_the_current_address_wins_whenever_it_answers_in_time() -> None:
    for first in (True, False):
        validation = validating()
        validation.on_response(validation.token(of_new=first), 0.1)
        validation.on_response(validation.token(of_new=not first), 0.2)
        assert validation.take_validated_address(3 * 0.1) is None


def test_without_a_timely_response_nothing_changes() -> None:
    validation = validating()
    assert validation.take_validated_address(1.0) is None
    validation.on_response(validation.token(of_new=True), 1.0)
    assert validation.take_validated_address(2.0) is None


def test_validation_waits_for_a_longer_path() -> None:
    validation = validating()
    assert validation.take_validated_address(0.999) is None
    validation.on_response(validation.token(of_new=True), 0.9)
    assert validation.deadline <= 0.9
    assert validation.take_validated_address(0.9) == NEW


def test_an_unsolicited_path_response_changes_nothing() -> None:
    validation = validating()
    validation.on_response(bytes(8), 0.1)
    validation.on_response(b"", 0.1)
    assert validation.take_validated_address(3 * 0.1) is None


def test_one_address_is_validated_at_a_time_and_one_per_second() -> None:
    validation = validating()
    validation.deliver(THIRD, 0.05)
    assert all(to != THIRD for _, to in validation.pop_due(0.2))
    validation.take_validated_address(1.0)
    validation.deliver(THIRD, 1.99)
    assert validation.deadline == float("inf")
    validation.deliver(THIRD, 2.0)
    assert validation.pop_due(5.0)[1][1] == THIRD


def test_only_the_newest_packet_starts_validation() -> None:
    validation = Validation()
    validation.validator.on_new_source(NEW, 1000, is_newest=False, interval_s=0.1, now=0.0)
    assert validation.deadline == float("inf")


def test_the_new_address_is_sent_no_more_bytes_than_it_sent() -> None:
    validation = Validation()
    validation.deliver(NEW, 0.0, CHALLENGE_BYTES - 1)
    assert len(validation.pop_due(0.0)) == 1
    validation.deliver(NEW, 0.05, 1)
    assert len(validation.pop_due(0.1)) == 2
    assert len(validation.pop_due(0.2)) == 1
    assert validation.pop_due(0.3) == []


def test_a_new_address_whose_first_packet_was_too_small_is_challenged_after_the_next() -> None:
    validation = Validation()
    validation.deliver(NEW, 0.0, CHALLENGE_BYTES - 1)
    for round_number in range(3):
        validation.pop_due(round_number * 0.1)
    validation.deliver(NEW, 0.9)
    assert validation.deadline == 0.9
    assert [to for _, to in validation.pop_due(0.9)] == [NEW]
    validation.pop_due(1.0)
    assert validation.take_validated_address(1.899) is None
    validation.on_response(validation.token(of_new=True), 1.899)
    assert validation.take_validated_address(1.899) == NEW


def test_a_new_address_gets_few_challenges_however_much_it_sends() -> None:
    validation = Validation()
    validation.deliver(NEW, 0.0, CHALLENGE_BYTES - 1)
    for hundredths in range(90):
        validation.pop_due(hundredths / 100)
        validation.deliver(NEW, hundredths / 100)
    assert [is_new for _, is_new in validation.challenges].count(True) == 3


def test_more_packets_neither_hasten_the_challenges_nor_prolong_the_validation() -> None:
    validation = validating()
    validation.deliver(NEW, 0.05)
    assert validation.deadline == 0.1
    for sent_at in (0.1, 0.2):
        assert len(validation.pop_due(sent_at)) == 2
    validation.deliver(NEW, 0.9)
    assert validation.deadline == 1.0


# --- two nodes ------------------------------------------------------------------------------------


class Wire:
    """Ada, whose address changes, and Bob, 20 ms apart. Datagrams to a former address of Ada are lost."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ada = make(1, OLD, bootstrap_peers=[str(BOB)], name="ada")
        self.bob = make(2, BOB, name="bob")
        self.where = OLD
        self.received: dict[Engine, list[bytes]] = {self.ada: [], self.bob: []}
        self.sent: list[tuple[bytes, Address, Address]] = []
        self.loses: Callable[[], bool] = lambda: False
        self.copies: Callable[[bytes, Address, Address], None] = lambda *_: None
        self.flying: list[tuple[float, bytes, Address, Address]] = []
        self.run(3.0)
        assert self.link.address == OLD

    @property
    def link(self) -> Link:
        """Bob's link to Ada."""
        (link,) = self.bob._transport.links.values()
        return link

    def put(self, datagram: bytes, source: Address, to: Address, delay_s: float) -> None:
        self.flying.append((self.now + delay_s, datagram, source, to))

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now = round(self.now + 0.005, 6)
            for engine, address in ((self.ada, self.where), (self.bob, BOB)):
                if engine.deadline <= self.now:
                    engine.advance(self.now)
                for datagram, to in engine.datagrams_to_send(self.now):
                    self.sent.append((datagram, address, to))
                    self.copies(datagram, address, to)
                    if not self.loses():
                        self.put(datagram, address, to, 0.02)
                self.received[engine] += [
                    each.message.payload
                    for each in engine.events()
                    if isinstance(each, MessageReceived)
                ]
            landed = sorted(each for each in self.flying if each[0] <= self.now)
            self.flying = [each for each in self.flying if each[0] > self.now]
            for _, datagram, source, to in landed:
                if to == self.where:
                    self.ada.receive(datagram, source, self.now)
                elif to == BOB:
                    self.bob.receive(datagram, source, self.now)


@pytest.mark.parametrize("loss", [0.0, 0.1])
def test_a_link_survives_a_new_port_every_five_seconds(loss: float) -> None:
    wire, rng = Wire(), random.Random(7)
    wire.loses = lambda: rng.random() < loss
    session_ids = wire.link.session_ids()
    payloads: list[bytes] = []
    for number in range(12):
        wire.where = Address("192.0.2.1", 3000 + number)
        for _ in range(10):
            payloads.append(b"%d" % len(payloads))
            wire.bob.broadcast(payloads[-1], wire.now)
            wire.ada.broadcast(payloads[-1], wire.now)
            wire.run(0.5)
        if not loss:
            assert wire.link.address == wire.where
    wire.run(5.0)
    if not loss:  # otherwise a silent end may be dialed at its other address meanwhile
        assert wire.link.session_ids() == session_ids
    assert sorted(wire.received[wire.ada]) == sorted(wire.received[wire.bob]) == sorted(payloads)


def test_an_outage_of_five_seconds_ends_no_session_and_loses_nothing() -> None:
    wire = Wire()
    session_ids = wire.link.session_ids()
    wire.loses = lambda: True
    payloads = [b"%d" % n for n in range(50)]
    for payload in payloads:
        wire.bob.broadcast(payload, wire.now)
        wire.ada.broadcast(payload, wire.now)
        wire.run(0.1)
    wire.loses = lambda: False
    wire.run(10.0)
    assert wire.link.session_ids() == session_ids
    assert sorted(wire.received[wire.ada]) == sorted(wire.received[wire.bob]) == sorted(payloads)


def test_a_new_host_resets_the_path_and_a_new_port_does_not() -> None:
    wire = Wire()
    wire.bob.send(wire.ada.peer_id, bytes(50_000), wire.now)
    wire.run(2.0)
    assert wire.link.path.mtu.datagram_bytes > 1200
    wire.where = NEW
    wire.run(4.0)
    assert wire.link.address == NEW
    assert wire.link.path.mtu.datagram_bytes > 1200
    wire.where = Address("198.51.100.1", 1)
    for _ in range(2000):
        if wire.link.address == wire.where:
            break
        wire.run(0.005)
    assert wire.link.address == wire.where
    assert wire.link.path.mtu.datagram_bytes == 1200


def test_what_was_lost_before_a_move_is_sent_again_as_soon_as_the_new_address_is_known() -> None:
    wire = Wire()
    wire.where = Address("198.51.100.1", 1)
    wire.bob.broadcast(b"into the void", wire.now)
    wire.run(1.0)  # the next probe would follow a second later
    wire.ada.broadcast(b"from elsewhere", wire.now)
    wire.run(0.3)
    assert wire.received[wire.ada] == [b"into the void"]


def test_an_attacker_that_replays_faster_gets_only_path_challenges() -> None:
    """The attacker sees all packets, delivers its copies first, and forwards what it receives."""
    wire = Wire()
    from_attacker = to_attacker = 0

    def copy(datagram: bytes, source: Address, to: Address) -> None:
        nonlocal from_attacker, to_attacker
        if to == BOB:
            from_attacker += len(datagram)
            wire.put(datagram, ATTACKER, BOB, 0.001)
        elif to == ATTACKER:
            to_attacker += len(datagram)
            assert len(datagram) == CHALLENGE_BYTES
            wire.put(datagram, BOB, wire.where, 0.001)

    wire.copies = copy
    payloads = [b"%d" % n for n in range(50)]
    for payload in payloads:
        wire.ada.broadcast(payload, wire.now)
        wire.bob.broadcast(payload, wire.now)
        wire.run(0.2)
        assert wire.link.address == OLD
    assert 0 < to_attacker <= from_attacker
    assert to_attacker <= 2 * 11 * 3 * CHALLENGE_BYTES
    assert sorted(wire.received[wire.ada]) == sorted(wire.received[wire.bob]) == sorted(payloads)


def test_an_attacker_that_blocks_a_peer_briefly_loses_the_link_when_it_returns() -> None:
    wire = Wire()
    is_cut = True

    def copy(datagram: bytes, source: Address, to: Address) -> None:
        if to == BOB:
            wire.put(datagram, ATTACKER, BOB, 0.001)
        elif to == ATTACKER and is_cut:
            wire.put(datagram, BOB, wire.where, 0.001)

    wire.copies, wire.loses = copy, lambda: True
    for _ in range(10):
        wire.ada.broadcast(b"cut", wire.now)
        wire.run(0.2)
    assert wire.link.address == ATTACKER, "its address is the valid path to Ada now"
    wire.copies, wire.loses, is_cut = (lambda *_: None), (lambda: False), False
    wire.run(10.0)
    assert wire.link.address == OLD


def test_a_forged_packet_from_another_address_starts_no_validation() -> None:
    wire = Wire()
    datagram = next(each for each, source, _ in reversed(wire.sent) if source == OLD)
    forged = datagram[:9] + (2**31).to_bytes(8, "big") + datagram[17:]
    for each in (datagram, forged):
        wire.bob.receive(each, ATTACKER, wire.now)
    wire.run(1.0)
    assert all(to != ATTACKER for _, _, to in wire.sent)
