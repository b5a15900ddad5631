"""Links: receiving, priorities, rate limits, sessions and path responses."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.config.sections import LimitsConfig
from grapevine_proto.errors import Dropped, DropReason
from grapevine_proto.ids import Address
from grapevine_proto.token_bucket import TokenBucket
from grapevine_proto.transport.handshake.initiator import CONFIRM_LINGER_S
from grapevine_proto.transport.link.acks import PATH_RESPONSES_LIMIT
from grapevine_proto.transport.link.inbound_limit import REPAIR_CREDIT_LIMIT
from grapevine_proto.transport.link.link import DEFAULT_MAX_MESSAGE_BYTES, Link
from grapevine_proto.transport.link.path_validation import CHALLENGE_DATAGRAM_BYTES
from grapevine_proto.transport.link.sender import DATAGRAMS_PER_TRANSMIT
from grapevine_proto.transport.session.session import (
    REJECT_AFTER_S,
    REKEY_AFTER_S,
    EstablishedSession,
    Session,
)
from grapevine_proto.transport.session.sessions import (
    FOLLOW_PEER_AFTER_S,
    RETIRING_SESSIONS_LIMIT,
    RETIRING_TIMEOUT_S,
    SIMULTANEOUS_DIALS_S,
    supersedes,
)
from grapevine_proto.wire.attributes import record_attributes
from grapevine_proto.wire.codec import (
    BASE_PLAINTEXT_BYTES,
    Data,
    decode_frame,
    decode_message,
    decode_packet,
    encode_frame,
)
from grapevine_proto.wire.messages import (
    Ack,
    DirectMessage,
    Fragment,
    Kind,
    PathChallenge,
    PathResponse,
    PiggybackedAck,
)
from grapevine_proto.wire.rumors import encode_rumor_copy, encode_rumors
from tests.proto.overlay.builders import EPOCH, copy
from tests.proto.transport.ends import (
    CLOSE,
    EMPTY,
    HEARTBEAT,
    KEY,
    RECORDS,
    REPAIR,
    RUMORS,
    End,
    World,
    direct_message,
    entropy_of,
    linked_ends,
    name_of,
    two_ends,
)

ADA = End("ada", Address("192.0.2.1", 1000))
BOB = End("bob", Address("192.0.2.2", 2000))
ELSEWHERE = Address("203.0.113.6", 666)


class Pair:
    """Ada's link to Bob; the test itself drives Bob's sessions."""

    def __init__(
        self,
        *,
        bucket: TokenBucket | None = None,
        rate: tuple[int, int] = (0, 0),
        limits: LimitsConfig | None = None,
        entropy: Callable[[int], bytes] | None = None,
    ) -> None:
        BOB.rate = rate
        self.record = BOB.record
        self._numbers = itertools.count(1)
        ours, self.theirs = self.new_session()
        established = EstablishedSession(ours, self.record, BOB.address, None, EMPTY)
        self.link = Link(established, bucket, limits or LimitsConfig(), 0.0, entropy=entropy)

    def new_session(self, now: float = 0.0, *, by_us: bool = True) -> tuple[Session, Session]:
        """Both ends of another session between the two."""
        number = next(self._numbers)
        our_id, their_id = (bytes([side, number] * 4) for side in (1, 2))
        keys = bytes([number] * 32), bytes([number + 100] * 32)
        ours = Session(our_id, their_id, KEY, by_us, *keys, now)
        theirs = Session(their_id, our_id, KEY, not by_us, *keys[::-1], now)
        return ours, theirs

    def adopt(self, now: float = 0.0, *, by_us: bool = True) -> Session:
        ours, theirs = self.new_session(now, by_us=by_us)
        self.link.replace_session(
            EstablishedSession(ours, self.record, BOB.address, None, EMPTY), now
        )
        return theirs

    def deliver(
        self, plaintext: bytes, now: float = 0.0, session: Session | None = None
    ) -> bytes | None:
        """Delivers a packet from Bob."""
        return self.link.receive(packet((session or self.theirs).seal(plaintext, now)), now)

    def sent(self, now: float = 0.0) -> list[bytes]:
        """Returns what Bob decrypts of all that may be sent now; it acknowledges at once."""
        plaintexts = []
        for datagram in self.link.transmit(now):
            plaintexts.append(self.theirs.open(packet(datagram), now))
        highest = self.theirs.ack_tracker.highest
        ack = encode_frame(Ack(self.theirs.our_id, 0, highest + 1, max(highest, 0), 0, ()))
        self.link.handle_payload(ack, self.link.session, 0, now)
        return plaintexts


def packet(datagram: bytes) -> Data:
    decoded = decode_packet(datagram)
    assert isinstance(decoded, Data)
    return decoded


# --- receiving ------------------------------------------------------------------------------------


def test_a_packet_of_the_peer_is_decrypted_and_counted() -> None:
    pair = Pair()

    assert pair.deliver(direct_message(1), 3.0) == direct_message(1)
    assert (
        pair.link.received,
        pair.link.inbound_limit.allowed,
        pair.link.inbound_limit.throttled,
    ) == (
        2,
        1,
        0,
    )
    assert pair.link.last_heard_at == 3.0


def test_without_a_bucket_every_message_is_admitted() -> None:
    pair = Pair()
    for _ in range(1000):
        pair.deliver(RUMORS)

    assert (pair.link.inbound_limit.allowed, pair.link.inbound_limit.throttled) == (1000, 0)


def test_a_message_above_the_limit_is_dropped_before_it_is_decoded() -> None:
    pair = Pair(bucket=TokenBucket(2, 1.0, 0.0))
    pair.deliver(RUMORS)
    pair.deliver(HEARTBEAT)
    with pytest.raises(Dropped) as refused:
        pair.deliver(b"\x04 not msgpack at all", 0.5)

    assert refused.value.reason is DropReason.RATE_LIMITED
    assert (pair.link.inbound_limit.allowed, pair.link.inbound_limit.throttled) == (2, 1)
    assert pair.link.last_heard_at == 0.5  # it was the peer, all the same
    assert pair.deliver(RUMORS, 1.0) == RUMORS


def test_confirm_and_close_pass_an_empty_bucket() -> None:
    pair = Pair(bucket=TokenBucket(1, 0.1, 0.0))
    pair.deliver(RUMORS)

    assert pair.deliver(EMPTY) == EMPTY
    assert pair.deliver(CLOSE) == CLOSE


def test_requested_repairs_are_free_and_others_are_not() -> None:
    pair = Pair(bucket=TokenBucket(1, 0.1, 0.0))
    pair.link.inbound_limit.grant_repair_credit(2)
    pair.deliver(REPAIR)
    pair.deliver(REPAIR)
    pair.deliver(REPAIR)
    with pytest.raises(Dropped):
        pair.deliver(REPAIR)

    assert (pair.link.inbound_limit.allowed, pair.link.inbound_limit.throttled) == (3, 1)


def test_the_repair_credit_of_a_link_is_limited() -> None:
    pair = Pair(bucket=TokenBucket(1, 0.1, 0.0))
    pair.link.inbound_limit.grant_repair_credit(REPAIR_CREDIT_LIMIT)
    pair.link.inbound_limit.grant_repair_credit(1)
    for _ in range(REPAIR_CREDIT_LIMIT + 1):
        pair.deliver(REPAIR)
    with pytest.raises(Dropped):
        pair.deliver(REPAIR)


def test_a_packet_that_is_not_decrypted_is_not_charged() -> None:
    pair = Pair(bucket=TokenBucket(1, 0.1, 0.0))
    datagram = pair.theirs.seal(RUMORS, 0.0)
    data = packet(datagram)
    for changed, reason in [
        (data._replace(box=bytes(20)), DropReason.DECRYPT_FAILED),
        (data._replace(session_id=b"elsewher"), DropReason.UNKNOWN_SESSION),
    ]:
        with pytest.raises(Dropped) as refused:
            pair.link.receive(changed, 9.0)
        assert refused.value.reason is reason
    assert (pair.link.received, pair.link.last_heard_at) == (1, 0.0)
    pair.link.receive(data, 9.0)
    with pytest.raises(Dropped) as refused:
        pair.link.receive(data, 9.0)

    assert refused.value.reason is DropReason.REPLAY
    assert (
        pair.link.received,
        pair.link.inbound_limit.allowed,
        pair.link.inbound_limit.throttled,
    ) == (
        2,
        1,
        0,
    )


def test_only_the_initiator_of_a_session_is_answered_each_time() -> None:
    pair = Pair()
    pair.deliver(EMPTY)
    assert pair.sent() == []

    pair.theirs = pair.adopt(by_us=False)
    assert pair.link.deadline <= 0.0
    assert pair.sent() == [EMPTY]
    assert pair.sent() == []
    pair.deliver(EMPTY)
    pair.deliver(EMPTY)
    assert pair.sent() == [EMPTY]
    pair.deliver(EMPTY)
    pair.link.send(RECORDS, 0.0)
    assert pair.sent() == [RECORDS]  # which is answer enough


# --- send queues ----------------------------------------------------------------------------------


def test_control_goes_first_then_data_then_repair_each_in_order() -> None:
    pair = Pair()
    plaintexts = [REPAIR, direct_message(1), CLOSE, RUMORS, HEARTBEAT, direct_message(2), RECORDS]
    for plaintext in plaintexts:
        assert pair.link.send(plaintext, 0.0)

    assert pair.link.queued == len(plaintexts)
    expected = [HEARTBEAT, RECORDS, direct_message(1), RUMORS, direct_message(2), REPAIR, CLOSE]
    assert pair.sent() == expected
    assert (pair.link.queued, pair.link.sent) == (0, len(plaintexts))


def test_a_message_above_the_queue_limit_counts_as_a_send_drop() -> None:
    pair = Pair()
    for number in range(256):
        assert pair.link.has_room_for(BASE_PLAINTEXT_BYTES)
        assert pair.link.send(direct_message(number), 0.0)

    assert not pair.link.has_room_for(BASE_PLAINTEXT_BYTES)
    assert not pair.link.send(direct_message(256), 0.0)
    assert not pair.link.send(REPAIR, 0.0)
    assert (pair.link.queued, pair.link.send_drops) == (256, 2)


def test_a_byte_above_the_queue_limit_counts_as_a_send_drop() -> None:
    full, small = direct_message(1, 1000), direct_message(2, 1)
    limits = LimitsConfig(queue_bytes=2 * len(full) + len(small))
    pair = Pair(limits=limits)
    pair.link.send(full, 0.0)
    pair.link.send(full, 0.0)

    assert not pair.link.send(direct_message(3, 2), 0.0)
    assert pair.link.send(small, 0.0)
    assert (pair.link.queued, pair.link.send_drops) == (3, 1)


def test_a_queue_smaller_than_a_message_still_accepts_one() -> None:
    pair = Pair(limits=LimitsConfig(queue_bytes=10))

    assert pair.link.send(direct_message(1, 1000), 0.0)
    assert not pair.link.has_room_for(BASE_PLAINTEXT_BYTES)


def test_control_messages_have_their_own_queue_limit() -> None:
    pair = Pair()
    for number in range(256):
        pair.link.send(direct_message(number), 0.0)
    for _ in range(256):
        assert pair.link.send(HEARTBEAT, 0.0)

    assert not pair.link.send(HEARTBEAT, 0.0)
    assert not pair.link.send(CLOSE, 0.0)
    assert pair.link.queued == 512


def test_sent_messages_free_room_in_the_queue() -> None:
    pair = Pair()
    for number in range(256):
        pair.link.send(direct_message(number, 100), 0.0)
    pair.link.transmit(0.0)

    assert pair.link.has_room_for(BASE_PLAINTEXT_BYTES)
    assert pair.link.queued == 256 - DATAGRAMS_PER_TRANSMIT


def test_after_clear_a_close_is_sent_at_once() -> None:
    pair = Pair(rate=(1, 1))
    for number in range(10):
        pair.link.send(direct_message(number), 0.0)

    assert pair.link.clear() == 10
    assert pair.link.send_drops == 10
    pair.link.send(CLOSE, 0.0)
    assert pair.sent() == [CLOSE]
    assert pair.link.send(direct_message(1), 0.0)


def test_transmit_returns_a_limited_number_and_the_deadline_stays_due() -> None:
    pair = Pair()
    for number in range(DATAGRAMS_PER_TRANSMIT + 1):
        pair.link.send(direct_message(number), 5.0)

    assert pair.link.deadline == 5.0
    assert len(pair.link.transmit(5.0)) == DATAGRAMS_PER_TRANSMIT
    assert pair.link.deadline == 5.0
    assert len(pair.link.transmit(5.0)) == 1
    assert pair.link.deadline > 5.0


# --- the rate limit of the peer -------------------------------------------------------------------


def test_a_link_respects_the_rate_limit_of_the_peer() -> None:
    pair = Pair(rate=(3, 2))
    for number in range(10):
        pair.link.send(direct_message(number), 0.0)

    assert len(pair.sent(0.0)) == 3
    assert pair.link.deadline == pytest.approx(0.5)
    assert pair.sent(0.49) == []
    assert pair.sent(0.5) == [direct_message(3)]
    assert len(pair.sent(1.5)) == 2


def test_a_sender_at_nine_tenths_of_the_limit_is_never_throttled() -> None:
    sender, receiver = Pair(rate=(90, 45)), Pair(bucket=TokenBucket(100, 50.0, 0.0))
    rng = random.Random(1)
    flying: list[tuple[float, bytes]] = []
    now, sent, received = 0.0, 0, 0
    while now < 60.0:
        for _ in range(rng.randrange(8)):
            sent += 1
            sender.link.send(direct_message(sent), now)
        flying += [(now + rng.random() * 0.2, plaintext) for plaintext in sender.sent(now)]
        flying.sort()
        while flying and flying[0][0] <= now:
            receiver.link.inbound_limit.charge(flying.pop(0)[1], now)
            received += 1
        now += 0.02

    assert sent > 2 * received > 2 * 45 * 59
    assert receiver.link.inbound_limit.throttled == 0


def test_scarce_tokens_go_to_control_first() -> None:
    pair = Pair(rate=(1, 1))
    for number in range(20):
        pair.link.send(direct_message(number), 0.0)
    pair.sent(0.0)
    pair.link.send(HEARTBEAT, 0.0)

    assert pair.sent(1.0) == [HEARTBEAT]
    assert pair.sent(2.0) == [direct_message(1)]


def test_repairs_and_close_need_no_token() -> None:
    pair = Pair(rate=(1, 1))
    pair.link.send(direct_message(1), 0.0)
    pair.link.send(REPAIR, 0.0)
    assert pair.sent(0.0) == [direct_message(1), REPAIR]
    pair.link.send(CLOSE, 0.1)
    assert pair.sent(0.1) == [CLOSE]


def test_a_close_is_sent_after_everything_queued_before_it() -> None:
    pair = Pair(rate=(1, 1))
    pair.link.send(direct_message(1), 0.0)
    pair.link.send(direct_message(2), 0.0)
    pair.link.send(CLOSE, 0.0)

    assert pair.sent(0.0) == [direct_message(1)]
    assert pair.link.deadline == pytest.approx(1.0)
    assert pair.sent(1.0) == [direct_message(2), CLOSE]


def test_a_new_record_changes_the_rate_limit() -> None:
    pair = Pair(rate=(2, 1))
    for number in range(100):
        pair.link.send(direct_message(number), 0.0)
    assert len(pair.sent(0.0)) == 2

    BOB.rate = (10, 10)
    pair.link.apply_record(BOB.record, 0.0)
    assert len(pair.sent(0.0)) == 8  # two are spent
    BOB.rate = (0, 0)
    pair.link.apply_record(BOB.record, 0.0)
    assert len(pair.sent(0.0)) == DATAGRAMS_PER_TRANSMIT


def test_a_rate_limit_below_one_per_second_stalls_nothing_forever() -> None:
    pair = Pair(rate=(1, 0))
    pair.link.send(direct_message(1), 0.0)
    pair.link.send(direct_message(2), 0.0)
    pair.sent(0.0)

    assert pair.link.deadline < 12.0
    assert pair.sent(pair.link.deadline) == [direct_message(2)]


def test_a_later_link_continues_with_the_tokens_of_the_earlier_one() -> None:
    pair = Pair(rate=(2, 1))
    for number in range(2):
        pair.link.send(direct_message(number), 0.0)
    pair.sent(0.0)
    ours, pair.theirs = pair.new_session()
    established = EstablishedSession(ours, pair.record, BOB.address, None, EMPTY)
    pair.link = Link(established, None, LimitsConfig(), 0.0, send_limit=pair.link.send_limit)
    pair.link.send(direct_message(3), 0.0)

    assert pair.sent(0.0) == []
    assert pair.sent(1.0) == [direct_message(3)]


@given(
    st.lists(
        st.tuples(st.floats(0, 0.5), st.sampled_from([HEARTBEAT, RUMORS, REPAIR, RECORDS])),
        max_size=80,
    )
)
@settings(deadline=None)
def test_waking_at_each_deadline_sends_everything(
    pauses_and_plaintexts: list[tuple[float, bytes]],
) -> None:
    pair = Pair(rate=(3, 10))
    now, sent = 0.0, 0
    for pause_s, plaintext in pauses_and_plaintexts:
        now += pause_s
        assert pair.link.send(plaintext, now)
        sent += len(pair.sent(now))
    steps = 0
    while pair.link.queued:
        assert pair.link.deadline >= now
        now = pair.link.deadline
        sent += len(pair.sent(now))
        steps += 1
        assert steps <= 2 * len(pauses_and_plaintexts)

    assert sent == len(pauses_and_plaintexts)


# --- sessions -------------------------------------------------------------------------------------


def test_a_replaced_session_receives_until_ten_seconds_after_its_last_packet() -> None:
    pair = Pair()
    old = pair.theirs
    pair.theirs = pair.adopt(100.0)
    for now in (100.0, 105.0, 114.0):
        assert pair.deliver(direct_message(1), now) == direct_message(1)
        assert pair.deliver(direct_message(1), now, old) == direct_message(1)
        pair.link.transmit(now + 1.0)  # sends the ACK
        pair.link.advance(now)
    assert pair.link.deadline == 114.0 + RETIRING_TIMEOUT_S
    pair.link.advance(114.0 + RETIRING_TIMEOUT_S - 0.001)
    assert len(pair.link.session_ids()) == 2
    pair.link.advance(114.0 + RETIRING_TIMEOUT_S)

    assert pair.link.session_ids() == [pair.link.session.our_id]
    with pytest.raises(Dropped) as refused:
        pair.deliver(direct_message(1), 124.0, old)
    assert refused.value.reason is DropReason.UNKNOWN_SESSION


def test_at_most_two_sessions_retire() -> None:
    pair = Pair()
    for _ in range(RETIRING_SESSIONS_LIMIT + 1):
        pair.adopt(1.0)
    ids = pair.link.session_ids()

    assert len(ids) == 1 + RETIRING_SESSIONS_LIMIT
    assert pair.theirs.their_id not in ids
    assert ids[0] == pair.link.session.our_id


def test_a_link_keeps_its_queue_and_counters_across_sessions() -> None:
    pair = Pair()
    pair.link.send(direct_message(1), 0.0)
    pair.theirs = pair.adopt(1.0)

    assert pair.sent(1.0) == [direct_message(1)]
    assert pair.link.connected_at == 0.0
    assert pair.link.received == 2


def test_a_rekey_under_load_loses_and_duplicates_nothing() -> None:
    for seed in range(10):
        world, ada, bob = linked_ends()
        world.run(REKEY_AFTER_S - 2.0)
        rng = random.Random(seed)
        world.drop = lambda datagram, *_, rng=rng: (
            name_of(datagram) != "data" and rng.random() < 0.3
        )
        sent = 0
        while world.now < REKEY_AFTER_S + 20.0:
            if ada.link.needs_rekey(world.now) and not ada.dials:
                ada.dial(bob.address, world.now, expected=bob.peer_id)
            for end in (ada, bob):
                end.link.send(direct_message(sent + 1), world.now)
            sent += 1
            world.run(0.05)
        world.run(1.0)

        assert len(ada.established) == len(bob.established) == 2
        for end in (ada, bob):
            messages = [decode_message(each) for each in end.opened if each != EMPTY]
            numbers = [each.sequence for each in messages if isinstance(each, DirectMessage)]
            assert sorted(numbers) == list(range(1, sent + 1))


def test_a_link_wakes_for_its_rekey_and_its_expiry_only() -> None:
    pair = Pair()
    assert pair.link.deadline == REKEY_AFTER_S
    assert not pair.link.needs_rekey(REKEY_AFTER_S - 1)
    assert pair.link.needs_rekey(REKEY_AFTER_S)
    pair.link.advance(REKEY_AFTER_S)
    assert pair.link.deadline == REJECT_AFTER_S
    assert not pair.link.is_expired(REJECT_AFTER_S - 1)
    assert pair.link.is_expired(REJECT_AFTER_S)


def test_an_expired_session_sends_nothing_and_has_no_deadline() -> None:
    pair = Pair()
    pair.link.send(direct_message(1), 0.0)
    pair.link.advance(REJECT_AFTER_S)

    assert pair.link.transmit(REJECT_AFTER_S) == []
    assert pair.link.deadline == float("inf")
    assert pair.link.queued == 1


def test_a_new_session_updates_the_address_and_ignores_an_older_record() -> None:
    pair = Pair()
    newer = BOB.record
    ours, _ = pair.new_session(1.0)
    elsewhere = Address("192.0.2.77", 7)
    pair.link.replace_session(EstablishedSession(ours, newer, elsewhere, 0.5, EMPTY), 1.0)
    assert (pair.link.address, pair.link.path.rtt_s) == (elsewhere, 0.5)

    ours, _ = pair.new_session(2.0)
    older = replace(newer, epoch=0)
    pair.link.replace_session(EstablishedSession(ours, older, elsewhere, None, EMPTY), 2.0)
    assert (pair.link.record, pair.link.path.rtt_s) == (newer, 0.5)
    assert pair.link.epoch == 0


def test_a_link_prints_no_secret_and_no_payload() -> None:
    pair = Pair()
    pair.link.send(direct_message(1, 8), 0.0)

    assert repr(pair.link) == f"Link({BOB.peer_id.short}… at {BOB.address}, 1 queued)"


# --- two ends -------------------------------------------------------------------------------------


def test_a_newer_record_from_another_member_does_not_block_its_session() -> None:
    pair = Pair()
    newer = replace(pair.record, epoch=pair.record.epoch + 1)
    pair.link.apply_record(newer, 1.0)
    ours, _ = pair.new_session(1.0)
    established = EstablishedSession(ours, newer, BOB.address, None, EMPTY)

    link = pair.link
    assert supersedes(established, link.session, link.epoch, ADA.peer_id, 1.0)


def agree(ada: End, bob: End) -> bool:
    return bool(
        ada.links
        and bob.links
        and ada.link.session.our_id == bob.link.session.their_id
        and not ada.dials
        and not bob.dials
    )


@pytest.mark.parametrize("loss", [0.0, 0.3])
def test_simultaneous_dials_result_in_one_session(loss: float) -> None:
    for seed in range(20):
        rng = random.Random(seed)
        world, ada, bob = two_ends()
        world.drop = lambda *_, rng=rng: rng.random() < loss
        ada.dial(bob.address, 0.0)
        world.run(rng.random() * 0.1)
        bob.dial(ada.address, world.now)
        exchange_heartbeats(world, ada, bob, seconds=40.0)

        assert agree(ada, bob)


def test_two_simultaneous_dials_by_one_end_result_in_one_session() -> None:
    for seed in range(20):
        rng = random.Random(seed)
        world, ada, bob = two_ends()
        world.drop = lambda *_, rng=rng: rng.random() < 0.2
        ada.dial(bob.address, 0.0)
        ada.dial(bob.address, 0.0)
        exchange_heartbeats(world, ada, bob, seconds=60.0)

        assert agree(ada, bob)


def exchange_heartbeats(world: World, ada: End, bob: End, seconds: float) -> None:
    """A heartbeat a second each way, and a dial wherever there is no link."""
    ends_at = world.now + seconds
    while world.now < ends_at:
        for end, other in ((ada, bob), (bob, ada)):
            for link in end.links.values():
                link.send(HEARTBEAT, world.now)
            if not end.links and not end.dials:
                end.dial(other.address, world.now)
        world.run(1.0)


def test_after_a_half_failed_rekey_a_link_returns_to_the_session_of_the_peer() -> None:
    world, ada, bob = linked_ends()
    world.run(REKEY_AFTER_S)
    first = ada.link.session
    dial = ada.dial(bob.address, world.now, expected=bob.peer_id, timeout_s=3.0)
    world.drop = lambda datagram, sender, _: sender is bob and dial.state.name == "CONFIRMING"
    world.run(3.0 + CONFIRM_LINGER_S + 1.0)
    assert not ada.dials
    assert bob.link.session.their_id == dial.session_id
    world.drop = lambda *_: False
    exchange_heartbeats(world, ada, bob, seconds=3 * FOLLOW_PEER_AFTER_S)

    assert ada.link.session is first
    assert bob.link.session.their_id == first.our_id
    assert ada.link.last_heard_at > world.now - 2.0


def test_a_superseded_session_still_receives_and_its_dial_completes() -> None:
    pair = Pair()
    ours, theirs = pair.new_session(by_us=False)
    live = pair.link.session
    pair.link.add_receive_session(
        EstablishedSession(ours, pair.record, BOB.address, None, EMPTY), 1.0
    )
    (datagram,) = pair.link.transmit(1.0)

    assert pair.link.session is live
    assert theirs.open(packet(datagram), 1.0) == EMPTY
    assert pair.deliver(direct_message(1), 1.0, theirs) == direct_message(1)
    assert set(pair.link.session_ids()) == {live.our_id, ours.our_id}


def test_ends_on_different_sessions_converge_and_do_not_keep_swapping() -> None:
    for adas_choice in (0, 1):
        world, ada, bob = linked_ends()
        world.run(SIMULTANEOUS_DIALS_S)
        ada.dial(bob.address, world.now, expected=bob.peer_id)
        world.run(1.0)
        sides = [[each.session for each in end.established] for end in (ada, bob)]
        for end, sessions, choice in zip(
            (ada, bob), sides, (adas_choice, 1 - adas_choice), strict=True
        ):
            link = end.link
            if link.session is not sessions[choice]:
                link._sessions.replace(sessions[choice], world.now)
            for session in sessions:
                session.last_opened_at = world.now
        assert not agree(ada, bob)
        exchange_heartbeats(world, ada, bob, seconds=3 * FOLLOW_PEER_AFTER_S)

        assert agree(ada, bob)
        assert {DropReason.UNKNOWN_SESSION}.isdisjoint(ada.drops + bob.drops)


# --- path responses -------------------------------------------------------------------------------


def test_a_path_challenge_costs_a_token_and_pending_responses_are_limited() -> None:
    pair = Pair(bucket=TokenBucket(PATH_RESPONSES_LIMIT + 1, 0.1, 0.0))
    pair.sent()
    tokens = [bytes([number]) * 8 for number in range(PATH_RESPONSES_LIMIT + 1)]
    for token in tokens:
        pair.deliver(encode_frame(PathChallenge(token)))
    assert pair.sent() == [encode_frame(PathResponse(token)) for token in tokens[1:]]
    with pytest.raises(Dropped) as refused:
        pair.deliver(encode_frame(PathChallenge(bytes(8))))
    assert refused.value.reason is DropReason.RATE_LIMITED
    assert pair.sent() == []


def test_a_link_without_entropy_keeps_its_address() -> None:
    pair = Pair()
    datagram = packet(pair.theirs.seal(HEARTBEAT, 0.0))
    assert pair.link.receive(datagram, 0.0, ELSEWHERE) == HEARTBEAT
    assert pair.link.validate_path(5.0) == []
    assert pair.link.address == BOB.address


@pytest.mark.parametrize(
    ("size_bytes", "challenged"), [(-1, [BOB.address]), (0, [BOB.address, ELSEWHERE])]
)
def test_a_new_address_is_challenged_once_it_sent_as_much_as_a_challenge_takes(
    size_bytes: int, challenged: list[Address]
) -> None:
    pair = Pair(entropy=entropy_of("path"))
    challenge = encode_frame(PathChallenge(bytes(8)))
    datagram = pair.theirs.seal(direct_message(1, len(challenge) - 5 + size_bytes), 0.0)
    assert len(datagram) == CHALLENGE_DATAGRAM_BYTES + size_bytes
    pair.link.receive(packet(datagram), 0.0, ELSEWHERE)
    assert [to for _, to in pair.link.validate_path(0.0)] == challenged


def test_the_address_of_the_link_is_not_challenged_nor_is_an_unknown_one() -> None:
    pair = Pair(entropy=entropy_of("ada"))
    for source in (BOB.address, None):
        pair.link.receive(packet(pair.theirs.seal(direct_message(1), 0.0)), 0.0, source)
        assert pair.link.validate_path(0.0) == []


def test_on_an_expired_session_no_address_is_challenged() -> None:
    pair = Pair(entropy=entropy_of("ada"))
    moved = packet(pair.theirs.seal(direct_message(1), 179.9))
    pair.link.receive(moved, 179.9, ELSEWHERE)
    assert pair.link.validate_path(180.0) == []


def test_a_peer_is_silent_after_two_probe_timeouts_without_a_packet() -> None:
    pair = Pair()
    pair.deliver(HEARTBEAT, 5.0)
    pto_s = pair.link.path.rtt.pto_s
    assert not pair.link.is_silent(5.0 + 1.9 * pto_s)
    assert pair.link.is_silent(5.0 + 2.1 * pto_s)


def test_a_link_accepts_messages_of_the_default_size_of_a_node() -> None:
    assert DEFAULT_MAX_MESSAGE_BYTES == NodeConfig(keys=(KEY,)).max_message_size == 10 * 1024 * 1024


def test_rumors_pass_no_reply_and_no_path_challenge_that_is_due() -> None:
    rumors = encode_rumors([encode_rumor_copy(copy(1, 5))])
    pair = Pair(entropy=entropy_of("path"))
    assert pair.link.cut_through(rumors, 0.0) is not None
    datagram = pair.theirs.seal(direct_message(1, 100), 0.0)
    pair.link.receive(packet(datagram), 0.0, ELSEWHERE)
    assert pair.link.cut_through(rumors, 0.0) is None, "the new address is to be challenged"
    pair.link.validate_path(0.0)
    assert pair.link.cut_through(rumors, 0.0) is not None
    other = Pair()
    other.deliver(direct_message(1), 0.0)
    assert other.link.cut_through(rumors, 1.0) is None, "an ACK is due"


def test_acknowledged_rumors_are_handed_over_once() -> None:
    pair = Pair()
    rumors = encode_rumors([encode_rumor_copy(copy(1, 5), is_tracked=True)])
    assert pair.link.take_acked() == []
    pair.link.send(rumors, 0.0)
    pair.sent()
    assert pair.link.take_acked() == [(EPOCH, 5)]
    assert pair.link.take_acked() == []


def test_a_link_whose_session_has_expired_is_not_ready() -> None:
    pair = Pair()
    assert pair.link.is_ready(0.0)
    assert not pair.link.is_ready(REJECT_AFTER_S)
    assert pair.link.next_send_at(REJECT_AFTER_S) == math.inf


def test_numbers_of_fragmented_messages_differ_between_sessions() -> None:
    def first_number(their_id: bytes) -> int:
        pair = Pair()
        session = Session(bytes(8), their_id, KEY, True, bytes(32), bytes(32), 0.0)
        established = EstablishedSession(session, pair.record, BOB.address, None, EMPTY)
        link = Link(established, None, LimitsConfig(), 0.0)
        link.send(direct_message(1, 5000), 0.0)
        other = Session(their_id, bytes(8), KEY, False, bytes(32), bytes(32), 0.0)
        fragment = decode_frame(other.open(packet(link.transmit(0.0)[0]), 0.0))
        assert isinstance(fragment, Fragment)
        return fragment.number

    assert first_number(b"\0\0\0\1" + bytes(4)) == (1 << 32) + 1
    assert first_number(b"\0\0\0\2" + bytes(4)) == (2 << 32) + 1


def test_only_the_latest_packet_counts_as_progress_of_a_large_message() -> None:
    pair, whole = Pair(), direct_message(1, 5000)
    packets = [
        encode_frame(Fragment(1, len(whole), 0, whole[:1000])),
        HEARTBEAT,
        encode_frame(Fragment(1, len(whole), 1000, whole[1000:1001])),  # one byte is no progress
        encode_frame(Fragment(1, len(whole), 1001, whole[1001:2000])),
    ]
    progress = []
    for plaintext in packets:
        pair.deliver(plaintext)
        progress.append((pair.link.is_receiving, pair.link.has_progressed))
    assert progress == [(True, True), (True, False), (True, False), (True, True)]


# --- ACKs that share a packet ---------------------------------------------------------------------


def test_a_due_ack_shares_the_next_packet() -> None:
    pair = Pair()
    pair.deliver(RUMORS, 1.0)
    now = pair.link.transmit_at
    assert now < math.inf
    pair.link.send(direct_message(1), now)
    [plaintext] = pair.sent(now)
    frame = decode_frame(plaintext)
    assert isinstance(frame, PiggybackedAck)
    assert (frame.ack.end, frame.plaintext) == (1, direct_message(1))


def test_a_full_packet_leaves_the_ack_a_packet_of_its_own() -> None:
    pair = Pair()
    pair.deliver(RUMORS, 1.0)
    now = pair.link.transmit_at
    pair.link.send(direct_message(1, pair.link.path.plaintext_limit_bytes - 20), now)
    kinds = [plaintext[0] for plaintext in pair.sent(now) if plaintext[0] != Kind.MTU_PROBE]
    assert kinds == [Kind.DIRECT_MESSAGE, Kind.ACK]


def test_a_message_and_the_ack_beside_it_both_count() -> None:
    pair = Pair(bucket=TokenBucket(1, 0.1, 0.0))
    pair.link.send(direct_message(1), 1.0)
    for datagram in pair.link.transmit(1.0):
        pair.theirs.open(packet(datagram), 1.0)
    was_idle = pair.link.is_idle
    ack = Ack(pair.theirs.our_id, 0, 1, 0, 0, ())
    shared = encode_frame(PiggybackedAck(ack, RUMORS))
    assert pair.deliver(shared, 1.1) == RUMORS
    assert (was_idle, pair.link.is_idle) == (False, True)
    assert pair.link.transmit_at < math.inf  # the rumors are acknowledged
    with pytest.raises(Dropped, match="rate_limited"):
        pair.deliver(shared, 1.2)


def test_an_ack_beside_a_message_cannot_name_what_was_never_sent() -> None:
    pair = Pair()
    ack = Ack(pair.theirs.our_id, 0, 9, 0, 0, ())
    with pytest.raises(Dropped, match="malformed"):
        pair.deliver(encode_frame(PiggybackedAck(ack, RUMORS)), 1.0)


def test_acks_of_rumors_wait_as_long_as_the_record_of_the_peer_permits() -> None:
    pair = Pair()
    attributes = record_attributes(max_ack_delay_s=0.5)
    pair.link.apply_record(replace(pair.record, attributes=attributes), 0.0)
    pair.deliver(RUMORS, 1.0)
    assert pair.link.transmit_at == 1.5
    pair.deliver(direct_message(1), 1.1)
    assert pair.link.transmit_at < 1.2


def test_without_permission_the_peer_is_expected_to_acknowledge_rumors_at_once() -> None:
    pair = Pair()
    pair.link.send(RUMORS, 0.0)
    pair.link.transmit(0.0)
    assert pair.link.transmit_at == pair.link.path.rtt.pto_s
    pair.link.set_max_ack_delay(0.5)
    pair.link.send(RUMORS, 0.0)
    pair.link.transmit(0.0)
    assert pair.link.transmit_at == pair.link.path.rtt.pto_s + 0.5


def test_a_message_of_one_packet_took_no_time_to_transfer() -> None:
    pair, whole = Pair(), direct_message(1, 2000)
    assert pair.link.transfer_s == 0.0
    pair.deliver(encode_frame(Fragment(1, len(whole), 0, whole[:1000])), 1.0)
    assert pair.link.transfer_s == 0.0
    assert pair.deliver(encode_frame(Fragment(1, len(whole), 1000, whole[1000:])), 3.5) == whole
    assert pair.link.transfer_s == 2.5
    pair.deliver(direct_message(1), 4.0)
    assert pair.link.transfer_s == 0.0


def test_a_new_session_measures_the_path_for_want_of_recent_data() -> None:
    def renewed(pair: Pair, rtt_s: float | None) -> float | None:
        ours, _ = pair.new_session(1.0)
        pair.link.replace_session(
            EstablishedSession(ours, pair.record, BOB.address, rtt_s, EMPTY), 1.0
        )
        return pair.link.path.rtt_s

    pair = Pair()
    assert renewed(pair, None) is None
    assert renewed(pair, 0.5) == 0.5
    assert renewed(pair, None) == 0.5
    pair.link.path.rtt.on_sample(0.2, 1.0)
    assert renewed(pair, 0.5) == 0.2


def test_a_heartbeat_that_measures_the_path_moves_the_next_ack() -> None:
    pair = Pair()
    pair.link.on_heartbeat_rtt(0.9, 1.0)
    srtt_s = pair.link.path.rtt.srtt_s
    pair.deliver(direct_message(1), 2.0)
    assert pair.link.transmit_at == pytest.approx(2.0 + srtt_s / 4)


def test_a_peer_is_not_silent_at_two_probe_timeouts() -> None:
    pair = Pair()
    assert not pair.link.is_silent(2 * pair.link.path.rtt.pto_s)


def test_rumors_do_not_pass_an_ack_at_the_instant_at_which_it_is_due() -> None:
    for early_s, passes in ((0.001, True), (0.0, False)):
        pair = Pair()
        pair.deliver(direct_message(1), 1.0)
        now = pair.link.transmit_at - early_s
        assert (pair.link.cut_through(RUMORS, now) is not None) is passes


def test_on_an_expired_session_rumors_do_not_pass() -> None:
    assert Pair().link.cut_through(RUMORS, REJECT_AFTER_S) is None


def test_every_datagram_of_a_link_is_counted() -> None:
    pair = Pair(entropy=entropy_of("path"))
    assert (pair.link.sent, pair.link.received) == (0, 1)
    pair.link.cut_through(RUMORS, 0.0)
    assert pair.link.sent == 1
    pair.link.receive(packet(pair.theirs.seal(direct_message(1, 100), 0.0)), 0.0, ELSEWHERE)
    pair.link.validate_path(0.0)
    assert (pair.link.sent, pair.link.received) == (3, 2)
    ours, _ = pair.new_session(1.0)
    pair.link.replace_session(EstablishedSession(ours, pair.record, BOB.address, None, EMPTY), 1.0)
    assert pair.link.received == 3


def test_only_the_ack_of_rumors_waits_and_only_if_the_peer_permits_it() -> None:
    pair = Pair()
    for number, plaintext in enumerate((RUMORS, direct_message(1))):
        pair.deliver(plaintext, 1.0 + number)
        assert pair.link.transmit_at == pytest.approx(1.0 + number + 0.025)
        pair.sent(pair.link.transmit_at)


def test_what_is_in_flight_goes_again_when_the_peer_is_followed_and_not_before() -> None:
    pair = Pair()
    earlier, earlier_session = pair.theirs, pair.link.session
    pair.adopt(0.0)
    pair.link.send(direct_message(1), 1.0)
    pair.link.transmit(1.0)
    for now, queued in ((2.0, 0), (12.0, 1)):
        pair.deliver(HEARTBEAT, now, earlier)
        assert pair.link.queued == queued
    assert pair.link.session is earlier_session
