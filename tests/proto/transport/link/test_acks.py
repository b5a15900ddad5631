"""Pending replies: ACKs, path responses and session confirmations."""

from __future__ import annotations

import math

from grapevine_proto.transport.link.acks import PendingReplies
from grapevine_proto.transport.session.session import Session
from grapevine_proto.transport.session.sessions import Sessions
from grapevine_proto.wire.codec import ACK_BYTES, Data, decode_frame, decode_packet, encode_frame
from grapevine_proto.wire.messages import Ack, PathChallenge, PathResponse, PiggybackedAck
from tests.proto.transport.ends import EMPTY, KEY, direct_message


class Ends:
    """Both ends of a session that the peer initiated, or this node (`by_us`)."""

    def __init__(self, number: int, now: float = 0.0, *, by_us: bool = False) -> None:
        our_id, their_id = bytes([1, number] * 4), bytes([2, number] * 4)
        self.ours = Session(our_id, their_id, KEY, by_us, bytes(32), bytes(32), now)
        self.theirs = Session(their_id, our_id, KEY, not by_us, bytes(32), bytes(32), now)

    def deliver(self, replies: PendingReplies, now: float) -> None:
        """Receives an ack-eliciting packet."""
        packet = packet_of(self.theirs.seal(direct_message(1), now))
        self.ours.open(packet, now)
        replies.schedule_ack(self.ours, packet.counter, now)

    def read(self, datagrams: list[bytes], now: float) -> list[bytes]:
        """Returns the plaintexts of the datagrams on this session, as the peer opens them."""
        packets = [packet_of(datagram) for datagram in datagrams]
        return [
            self.theirs.open(packet, now)
            for packet in packets
            if packet.session_id == self.theirs.our_id
        ]


def packet_of(datagram: bytes) -> Data:
    packet = decode_packet(datagram)
    assert isinstance(packet, Data)
    return packet


def send_all(
    replies: PendingReplies, sessions: Sessions, now: float, payload: bytes = b""
) -> list[bytes]:
    """Returns all datagrams sent when `payload`, if any, is also due."""
    datagrams = replies.seal_acks_and_responses(now)
    if payload:
        datagrams.append(sessions.live.seal(payload, now))
    replies.append_confirms(datagrams, now)
    return datagrams


def test_without_packets_nothing_is_due() -> None:
    sessions = Sessions(Ends(1).ours, 0.0)
    replies = PendingReplies(sessions)

    assert replies.due_at == math.inf
    assert send_all(replies, sessions, 5.0) == []


def test_the_initiator_of_a_session_gets_one_confirmation_each_time() -> None:
    live = Ends(1)
    sessions = Sessions(live.ours, 0.0)
    replies = PendingReplies(sessions)
    for now in (1.0, 2.0):
        replies.schedule_confirm(live.ours, now)
        replies.schedule_confirm(live.ours, now)
        assert replies.due_at == now
        assert live.read(send_all(replies, sessions, now), now) == [EMPTY]
        assert replies.due_at == math.inf
        assert send_all(replies, sessions, now) == []


def test_no_confirmation_is_due_on_a_session_we_initiated() -> None:
    live = Ends(1, by_us=True)
    replies = PendingReplies(Sessions(live.ours, 0.0))
    replies.schedule_confirm(live.ours, 1.0)

    assert replies.due_at == math.inf


def test_a_packet_on_another_session_does_not_confirm_the_live_one() -> None:
    retiring, live = Ends(1), Ends(2)
    sessions = Sessions(retiring.ours, 0.0)
    replies = PendingReplies(sessions)
    sessions.replace(live.ours, 1.0)
    replies.schedule_confirm(retiring.ours, 1.0)
    replies.schedule_confirm(live.ours, 1.0)
    payload = send_all(replies, sessions, 1.0)
    assert retiring.read(payload, 1.0) == live.read(payload, 1.0) == [EMPTY]


def test_a_packet_on_the_live_session_confirms_only_that_session() -> None:
    live, other = Ends(1), Ends(2)
    sessions = Sessions(live.ours, 0.0)
    replies = PendingReplies(sessions)
    sessions.retire(other.ours, 0.0)
    replies.schedule_confirm(live.ours, 1.0)
    replies.schedule_confirm(other.ours, 1.0)
    datagrams = send_all(replies, sessions, 1.0, payload=direct_message(1))

    assert live.read(datagrams, 1.0) == [direct_message(1)]
    assert other.read(datagrams, 1.0) == [EMPTY]


def test_an_expired_session_is_not_confirmed() -> None:
    live, other = Ends(1, 180.0), Ends(2)
    sessions = Sessions(live.ours, 180.0)
    replies = PendingReplies(sessions)
    sessions.retire(other.ours, 1.0)
    replies.schedule_confirm(other.ours, 180.0)

    assert send_all(replies, sessions, 180.0) == []


def test_beyond_the_limit_the_oldest_path_response_is_evicted() -> None:
    live = Ends(1)
    sessions = Sessions(live.ours, 0.0)
    replies = PendingReplies(sessions)
    tokens = [bytes([number]) * 8 for number in range(5)]
    for token in tokens:
        replies.schedule_path_response(PathChallenge(token), 1.0)
    assert replies.due_at == 1.0
    answers = [encode_frame(PathResponse(token)) for token in tokens[1:]]

    assert live.read(send_all(replies, sessions, 1.0), 1.0) == answers
    assert send_all(replies, sessions, 1.0) == []


def test_acks_for_all_sessions_go_on_the_live_session_when_due() -> None:
    live, other = Ends(1), Ends(2)
    sessions = Sessions(live.ours, 0.0)
    replies = PendingReplies(sessions)
    sessions.retire(other.ours, 0.0)
    live.deliver(replies, 1.0)
    other.deliver(replies, 1.0)
    due_at = replies.due_at
    assert 1.0 < due_at < math.inf

    replies.schedule_path_response(PathChallenge(bytes(8)), 1.0)
    assert live.read(send_all(replies, sessions, 1.0), 1.0) == [
        encode_frame(PathResponse(bytes(8)))
    ]
    assert replies.due_at == due_at
    frames = [decode_frame(each) for each in live.read(send_all(replies, sessions, due_at), due_at)]
    assert [each.session_id for each in frames if isinstance(each, Ack)] == [
        live.ours.our_id,
        other.ours.our_id,
    ]
    assert replies.due_at == math.inf


def test_cleared_replies_are_not_sent() -> None:
    live = Ends(1)
    sessions = Sessions(live.ours, 0.0)
    replies = PendingReplies(sessions)
    live.deliver(replies, 1.0)
    replies.schedule_confirm(live.ours, 1.0)
    replies.schedule_path_response(PathChallenge(bytes(8)), 1.0)
    replies.clear()

    assert replies.due_at == math.inf
    assert send_all(replies, sessions, 9.0) == []


def test_an_ack_says_in_microseconds_how_long_ago_the_latest_packet_came() -> None:
    live = Ends(1)
    replies = PendingReplies(Sessions(live.ours, 0.0))
    live.deliver(replies, 1.0)
    [plaintext] = live.read(replies.seal_acks_and_responses(5.25), 5.25)
    ack = decode_frame(plaintext)
    assert isinstance(ack, Ack)
    assert ack.delay_us == 4_250_000


def test_four_path_responses_wait_at_most_the_latest() -> None:
    live = Ends(1)
    replies = PendingReplies(Sessions(live.ours, 0.0))
    tokens = [bytes([number]) * 8 for number in range(6)]
    for token in tokens:
        replies.schedule_path_response(PathChallenge(token), 1.0)
    sent = live.read(replies.seal_acks_and_responses(1.0), 1.0)
    assert sent == [encode_frame(PathResponse(token)) for token in tokens[2:]]


def test_an_ack_shares_a_packet_that_it_fits() -> None:
    live = Ends(1)
    replies = PendingReplies(Sessions(live.ours, 0.0))
    message = direct_message(1)
    assert replies.piggyback(message, 1000, 1.0) == message
    live.deliver(replies, 1.0)

    assert replies.piggyback(message, len(message) + ACK_BYTES - 1, 1.0) == message
    shared = decode_frame(replies.piggyback(message, len(message) + ACK_BYTES, 1.0))
    assert shared == PiggybackedAck(Ack(live.ours.our_id, 0, 1, 0, 0, ()), message)
    assert replies.due_at == math.inf
    assert replies.piggyback(message, 1000, 9.0) == message


def test_a_shared_ack_leaves_what_else_is_due() -> None:
    live, other = Ends(1), Ends(2)
    sessions = Sessions(live.ours, 0.0)
    replies = PendingReplies(sessions)
    sessions.retire(other.ours, 0.0)
    live.deliver(replies, 1.0)
    other.deliver(replies, 1.0)
    replies.schedule_confirm(other.ours, 1.0)
    replies.piggyback(direct_message(1), 1000, 1.0)
    assert replies.due_at == 1.0
    assert other.read(send_all(replies, sessions, 1.0), 1.0) == [EMPTY]
    [plaintext] = live.read(send_all(replies, sessions, replies.due_at), 2.0)
    ack = decode_frame(plaintext)
    assert isinstance(ack, Ack)
    assert ack.session_id == other.ours.our_id


def test_after_the_end_of_a_link_nothing_is_acknowledged() -> None:
    ends = Ends(1)
    replies = PendingReplies(Sessions(ends.ours, 0.0))
    ends.deliver(replies, 1.0)
    replies.stop_acks()
    assert replies.piggyback(EMPTY, 1200, 2.0) == EMPTY
    assert replies.seal_acks_and_responses(2.0) == []
    ends.deliver(replies, 3.0)
    assert replies.piggyback(EMPTY, 1200, 4.0) == EMPTY
    assert replies.seal_acks_and_responses(4.0) == []


def test_an_ack_of_a_gap_needs_room_for_its_range() -> None:
    live = Ends(1)
    replies = PendingReplies(Sessions(live.ours, 0.0))
    message = direct_message(1)
    live.deliver(replies, 1.0)
    live.theirs.seal(message, 1.0)  # lost
    live.deliver(replies, 1.0)
    now = replies.due_at
    room = len(message) + 26 + 8
    assert replies.piggyback(message, room - 1, now) == message
    assert replies.piggyback(message, room, now) != message


def test_a_path_response_that_is_due_goes_after_a_shared_ack_too() -> None:
    live = Ends(1)
    sessions = Sessions(live.ours, 0.0)
    replies = PendingReplies(sessions)
    live.deliver(replies, 1.0)
    replies.schedule_path_response(PathChallenge(bytes(8)), 1.0)
    replies.piggyback(direct_message(1), 1000, 1.0)
    assert replies.due_at == 1.0
    assert len(send_all(replies, sessions, 1.0)) == 1
    assert replies.due_at == math.inf


def test_an_ack_does_not_wait_unless_the_peer_permits_it() -> None:
    live = Ends(1)
    replies = PendingReplies(Sessions(live.ours, 0.0))
    live.deliver(replies, 1.0)
    assert replies.due_at == 1.010
    packet = packet_of(live.theirs.seal(direct_message(2), 1.5))
    live.ours.open(packet, 1.5)
    replies.seal_acks_and_responses(1.5)
    replies.append_confirms([], 1.5)
    replies.schedule_ack(live.ours, packet.counter, 1.5, 0.5)
    assert replies.due_at == 2.0
