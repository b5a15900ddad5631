"""Content receiver: fragments and retransmissions are delivered and charged once."""

from __future__ import annotations

import pytest

from grapevine_proto.errors import Dropped, DropReason
from grapevine_proto.token_bucket import TokenBucket
from grapevine_proto.transport.link.content_receiver import ContentReceiver
from grapevine_proto.transport.link.inbound_limit import InboundLimit
from grapevine_proto.transport.link.reassembly import Reassembly, ReassemblyBudget
from grapevine_proto.transport.session.session import Session
from grapevine_proto.transport.session.sessions import Sessions
from grapevine_proto.wire.codec import encode_frame
from grapevine_proto.wire.messages import Ack, Fragment, Kind, Retransmit
from tests.proto.transport.ends import EMPTY, KEY, REPAIR, RUMORS, direct_message

MAX: int = 10 * 2**20


class Peer:
    """The receive side of a link to a peer with `tokens`."""

    def __init__(self, tokens: float = 100) -> None:
        self.live = Session(b"a" * 8, b"b" * 8, KEY, True, bytes(32), bytes(32), 0.0)
        self.bucket = TokenBucket(tokens, 0.001, 0.0)
        self.tokens = tokens
        self.limit = InboundLimit(self.bucket)
        self.sessions, self.budget = Sessions(self.live, 0.0), ReassemblyBudget(MAX)
        self.receiver = ContentReceiver(self.sessions, self.limit, Reassembly(MAX, self.budget))

    @property
    def charged(self) -> float:
        return round(self.tokens - self.bucket.available(0.0))

    def receive_whole(
        self, whole: bytes, *, of_repair: bool = False, number: int = 1
    ) -> bytes | None:
        """Receives `whole` in two fragments."""
        middle = len(whole) // 2
        first = Fragment(number, len(whole), 0, whole[:middle], is_repair=of_repair)
        assert self.receiver.on_fragment(first, 0.0) is None
        last = Fragment(number, len(whole), middle, whole[middle:], is_repair=of_repair)
        return self.receiver.on_fragment(last, 0.0)

    def retransmit(self, counter: int, plaintext: bytes = RUMORS) -> Retransmit:
        return Retransmit(self.live.our_id, counter, plaintext)


def refusal(peer: Peer, retransmit: Retransmit) -> DropReason:
    with pytest.raises(Dropped) as refused:
        peer.receiver.on_retransmit(retransmit, 0.0)
    return refused.value.reason


def test_a_fragmented_message_is_charged_and_counted_once() -> None:
    peer = Peer()

    assert peer.receive_whole(direct_message(1, 1000)) == direct_message(1, 1000)
    assert (peer.charged, peer.limit.allowed) == (1, 1)
    assert not peer.receiver.is_receiving


def test_a_retransmission_is_delivered_and_charged_once() -> None:
    peer = Peer()

    assert peer.receiver.on_retransmit(peer.retransmit(3), 0.0) == RUMORS
    assert refusal(peer, peer.retransmit(3)) is DropReason.DUPLICATE
    assert (peer.charged, peer.limit.allowed) == (1, 1)


def test_a_fragmented_retransmission_is_not_charged_again() -> None:
    peer = Peer()

    assert peer.receive_whole(encode_frame(peer.retransmit(3))) == RUMORS
    assert refusal(peer, peer.retransmit(3)) is DropReason.DUPLICATE
    assert (peer.charged, peer.limit.allowed) == (1, 1)


def test_retransmissions_of_retiring_sessions_count_and_of_unknown_ones_do_not() -> None:
    peer = Peer()
    peer.sessions.replace(Session(b"c" * 8, b"d" * 8, KEY, True, bytes(32), bytes(32), 1.0), 1.0)

    assert peer.receiver.on_retransmit(peer.retransmit(0), 1.0) == RUMORS
    unknown = Retransmit(b"elsewher", 1, RUMORS)
    assert refusal(peer, unknown) is DropReason.UNKNOWN_SESSION


@pytest.mark.parametrize("plaintext", [EMPTY, encode_frame(Ack(bytes(8), 0, 0, 0, 0, ()))])
def test_a_retransmission_of_a_non_retransmittable_kind_is_malformed(plaintext: bytes) -> None:
    peer = Peer()

    assert refusal(peer, peer.retransmit(3, plaintext)) is DropReason.MALFORMED
    assert peer.receiver.on_retransmit(peer.retransmit(3), 0.0) == RUMORS


def test_fragmented_repairs_are_free_once_per_request_up_to_the_limit() -> None:
    peer = Peer(tokens=1000)
    peer.limit.grant_repair_credit(65)
    for number in range(64):
        assert peer.receive_whole(REPAIR, of_repair=True, number=number) == REPAIR
    assert peer.charged == 0

    assert peer.receive_whole(REPAIR, of_repair=True, number=64) == REPAIR
    assert peer.charged == 1
    assert REPAIR[0] == Kind.REPAIR


def test_a_fragment_above_the_rate_limit_is_dropped_and_not_stored() -> None:
    peer = Peer(tokens=1)
    peer.receiver.on_fragment(Fragment(1, 1000, 0, bytes(10)), 0.0)
    used_bytes = peer.budget.used_bytes
    with pytest.raises(Dropped) as refused:
        peer.receiver.on_fragment(Fragment(2, 1000, 0, bytes(10)), 0.0)

    assert refused.value.reason is DropReason.RATE_LIMITED
    assert (peer.limit.throttled, peer.budget.used_bytes) == (1, used_bytes)


def test_an_ended_link_releases_its_incomplete_messages() -> None:
    peer = Peer()
    peer.receiver.on_fragment(Fragment(1, 1000, 0, bytes(10)), 0.0)
    assert peer.budget.used_bytes > 0
    peer.receiver.clear()

    assert not peer.receiver.is_receiving
    assert peer.budget.used_bytes == 0


def test_only_the_first_byte_of_a_retransmission_is_its_kind() -> None:
    peer = Peer()
    plaintext = bytes((Kind.RUMORS, Kind.ACK))
    assert peer.receiver.on_retransmit(peer.retransmit(0, plaintext), 0.0) == plaintext
    assert refusal(peer, peer.retransmit(1, plaintext[::-1])) is DropReason.MALFORMED


def test_repair_credit_does_not_pay_for_fragments_of_another_message() -> None:
    peer = Peer()
    peer.limit.grant_repair_credit(1)
    assert peer.receive_whole(direct_message(1, 1000)) == direct_message(1, 1000)
    assert peer.charged == 1
    assert peer.limit.consume_repair_credit()


def test_only_the_first_byte_of_a_whole_message_is_its_kind() -> None:
    peer = Peer()
    for whole in (
        bytes((Kind.RUMORS, Kind.RETRANSMIT, Kind.RUMORS)),
        bytes((Kind.RUMORS, Kind.RUMORS, Kind.RETRANSMIT)),
    ):
        assert peer.receive_whole(whole, number=whole[1]) == whole
