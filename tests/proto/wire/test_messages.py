"""Numbers on the wire: another implementation relies on each of them."""

from __future__ import annotations

import pytest

from grapevine_proto.wire.attributes import rumor_attributes
from grapevine_proto.wire.messages import (
    DIRECT_MAIL_HOPS,
    GAP_REQUEST_ROUND,
    ID_PREFIX_BYTES,
    LAZY_REQUEST_ROUND,
    LINK_FRAME_KINDS,
    RECEIPT_ABOVE_BYTES,
    REPAIR_DATAGRAMS_LIMIT,
    Announce,
    AnnounceTopic,
    CloseReason,
    Kind,
    MemberDigest,
    MemberUpdate,
    RumorCopy,
    announcement,
)
from grapevine_proto.wire.signed import Accusation, Rumor
from tests.proto.overlay.builders import EPOCH, copy, identity, peer_id, record

KINDS = {
    "CONFIRM": 0, "CLOSE": 1, "HEARTBEAT": 2, "RECORDS": 3, "RUMORS": 4, "DIRECT_MESSAGE": 5,
    "DIGEST": 6, "IN_SYNC": 7, "VECTOR": 8, "IWANT": 9, "REPAIR": 10, "IHAVE": 11, "FRAGMENT": 12,
    "REPAIR_FRAGMENT": 13, "RETRANSMIT": 14, "ACK": 15, "MTU_PROBE": 16, "PATH_CHALLENGE": 17,
    "PATH_RESPONSE": 18, "OPEN_TRANSIENT": 19, "SUBSCRIBE": 20, "GRAFT": 21, "PRUNE": 22,
    "OFFER": 23, "ANNOUNCE": 24, "PING": 25, "PING_REQ": 26, "PING_ACK": 27, "MEMBER_UPDATES": 28,
    "MEMBER_DIGEST": 29, "NEIGHBOR_REQUEST": 30, "SWAP_REQUEST": 31, "RECEIPTS": 35,
    "RECEIPT_ACK": 36, "ANSWERS": 40, "ANSWER_ACK": 41, "ANSWER_FETCH": 42,
    "ANNOUNCE_TOPIC": 43, "STATE_DIGEST": 44, "STATE_HEADS": 45, "STATE_REQUEST": 46,
    "STATE_DELTA": 47, "OBSERVED_ADDRESS": 48, "INTRODUCE": 49, "RELAYED": 50,
    "INTRODUCTION": 54, "PAUSE": 58, "DIRECT_RECEIPT": 59,
    "PIGGYBACKED_ACK": 60,
}  # fmt: skip
REASONS = {
    "LEAVING": 0,
    "FULL": 1,
    "MISCONDUCT": 2,
    "KEY_REMOVED": 3,
    "REDUNDANT": 4,
    "SUPERSEDED": 5,
}


def test_kinds_and_reasons_have_their_documented_numbers() -> None:
    assert KINDS.items() <= {kind.name: kind.value for kind in Kind}.items()
    assert {reason.name: reason.value for reason in CloseReason} == REASONS
    assert (DIRECT_MAIL_HOPS, REPAIR_DATAGRAMS_LIMIT, ID_PREFIX_BYTES) == (255, 32, 4)


def test_frames_of_links_are_the_kinds_from_fragment_to_path_response_and_a_shared_ack() -> None:
    assert set(map(int, LINK_FRAME_KINDS)) == {*range(12, 19), 60}


@pytest.mark.parametrize("count", [0, 1, 3])
def test_an_accusation_adds_102_bytes_to_an_update(count: int) -> None:
    accusations = (Accusation(peer_id(2), bytes(64)),) * count
    assert MemberUpdate(record(1), accusations).size_bytes == record(1).size_bytes + 2 + 102 * count


def test_a_member_digest_lists_prefixes_as_numbers() -> None:
    digest = MemberDigest(0, 9, bytes.fromhex("0000000100000100ffffffff"))
    assert digest.to_prefixes() == [1, 256, 2**32 - 1]
    assert MemberDigest(0, 9, b"").to_prefixes() == []
    assert not digest.is_reply


def test_requests_outside_of_a_round_have_numbers_of_their_own() -> None:
    assert (GAP_REQUEST_ROUND, LAZY_REQUEST_ROUND) == (0, 2**32 - 1)


def test_a_direct_message_of_more_than_1000_bytes_is_confirmed_by_a_receipt() -> None:
    assert RECEIPT_ABOVE_BYTES == 1000


def large_copy(attributes: bytes = b"") -> RumorCopy:
    body = bytes(8193)
    rumor = Rumor.signed(identity(1), "default", EPOCH, 5, (body,), attributes=attributes)
    return RumorCopy(rumor, 2, 300, peer_id(3))


def test_a_large_rumor_is_announced_by_its_range_and_size() -> None:
    large = large_copy()
    assert announcement(large, peer_id(2)) == Announce(large.rumor.ids, large.rumor.size_bytes)


def test_a_large_rumor_of_a_topic_is_announced_with_its_holder() -> None:
    large = large_copy(rumor_attributes(topic="news"))
    sender = peer_id(2)
    assert announcement(large, sender) == AnnounceTopic(large._replace(holder=sender), True)
    header = large._replace(rumor=large.rumor.without_body())
    assert announcement(header, sender) == AnnounceTopic(header, False), "the holder stays"


def test_a_copy_ages_by_whole_milliseconds() -> None:
    young = copy(1, 1, age_ms=5)
    assert [young.aged(s).age_ms for s in (0.0, 0.0019, 3.0)] == [5, 6, 3005]
