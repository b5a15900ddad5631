"""What a member may cause for one token: bytes and payloads both have a limit, the same at both ends."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from grapevine_proto import work
from grapevine_proto.errors import DropReason
from grapevine_proto.events import RateLimited, StandingChanged
from grapevine_proto.overlay.store.verification import SENDER_RECORDS_BURST
from grapevine_proto.transport.peer_limits import WORK_PER_TOKEN
from grapevine_proto.transport.send_coalescer import RUMORS_MESSAGE_BYTES, RUMORS_PER_MESSAGE_LIMIT
from grapevine_proto.wire import codec
from grapevine_proto.wire.messages import Close, CloseReason, Heartbeat, Records, RumorCopy, Rumors
from grapevine_proto.wire.signed import MAX_PAYLOADS_PER_MESSAGE, PeerRecord, Rumor
from tests.cluster import Cluster
from tests.proto.overlay.builders import EPOCH, identity, record

VICTIM, LIAR, HONEST = 1, 2, 3


def envelope(*counts: int) -> bytes:
    """Rumors of the liar with so many empty payloads each."""
    first, copies = 1, []
    for count in counts:
        rumor = Rumor.signed(identity(LIAR), "default", EPOCH, first, (b"",) * count)
        copies.append(RumorCopy(rumor, 1, 0))
        first += count
    return codec.encode_message(Rumors(tuple(copies)))


@pytest.mark.parametrize("counts", [(MAX_PAYLOADS_PER_MESSAGE + 1,), (8192,) * 7, (9,) * 57])
def test_one_message_does_not_buy_more_payloads_than_a_token_pays_for(
    counts: tuple[int, ...],
) -> None:
    cluster = Cluster(3)
    said = envelope(*counts)
    cluster[LIAR]._transport.links.enqueue(cluster.link(LIAR, VICTIM), said, cluster.now)
    cluster.run(2.0)
    assert cluster.drops(VICTIM)[DropReason.MALFORMED] == 1
    assert cluster.heard(VICTIM) == []
    assert cluster.heard(HONEST) == [], "nor is any of it relayed"


def test_a_token_is_charged_for_what_it_pays_for() -> None:
    cluster = Cluster(3)
    bucket = (
        cluster[VICTIM]
        ._transport.links.peer_limits.get_or_create(cluster[LIAR].peer_id, cluster.now)
        .bucket
    )
    assert bucket is not None
    before = bucket.available(cluster.now)
    cluster.say(LIAR, VICTIM, envelope(MAX_PAYLOADS_PER_MESSAGE))
    assert before - bucket.available(cluster.now) == pytest.approx(1.0, abs=1e-6)
    assert cluster[VICTIM].stats().delivered == MAX_PAYLOADS_PER_MESSAGE


@pytest.mark.parametrize("size", [0, 1, 100])
def test_who_broadcasts_tiny_payloads_as_fast_as_there_is_room_is_never_throttled(
    size: int,
) -> None:
    cluster = Cluster(3)
    sender, said = cluster[HONEST], 0
    for _ in range(20):
        while sender.can_broadcast_bytes(size) and said < 2_000:
            sender.broadcast(bytes(size), cluster.now)
            said += 1
        cluster.run(0.1, step=0.02)
    cluster.run(1.5)
    assert said == 2_000
    for number in (VICTIM, LIAR):
        assert len(cluster.heard(number)) == said
        events = cluster.events[cluster[number]]
        assert not any(isinstance(event, RateLimited) for event in events)
        assert DropReason.RATE_LIMITED not in cluster.drops(number)


def tell_records(cluster: Cluster, teller: int, numbers: range) -> None:
    """Records of members that nobody has heard of, eight in a message."""
    for first in range(numbers.start, numbers.stop, 8):
        told = tuple(record(number) for number in range(first, min(first + 8, numbers.stop)))
        cluster.say(teller, VICTIM, Records(told))


@pytest.mark.parametrize(
    "wrap", [Records, lambda told: Close(CloseReason.FULL, told), lambda told: beat(told)]
)
def test_records_cost_their_sender_checks_in_whatever_message_they_come(
    wrap: Callable[[tuple[PeerRecord, ...]], Records | Close | Heartbeat],
) -> None:
    cluster = Cluster(3)
    signatures = cluster[VICTIM]._overlay.signatures
    before = signatures._record_limiter._buckets.get((cluster[LIAR].peer_id,))
    spent = 0.0 if before is None else SENDER_RECORDS_BURST - before.available(cluster.now)
    cluster.say(LIAR, VICTIM, wrap((record(1000), record(1001))))
    bucket = signatures._record_limiter._buckets[(cluster[LIAR].peer_id,)]
    assert SENDER_RECORDS_BURST - bucket.available(cluster.now) == pytest.approx(
        spent + 2, abs=0.01
    )


def beat(told: tuple[PeerRecord, ...]) -> Heartbeat:
    return Heartbeat(1 << 20, 0, 0, 0, 0, bytes(16), told)


def test_one_member_has_a_budget_of_checked_records_and_others_have_theirs() -> None:
    cluster = Cluster(3)
    known = len(cluster[VICTIM].members())
    tell_records(cluster, LIAR, range(1000, 1600))
    assert len(cluster[VICTIM].members()) - known <= SENDER_RECORDS_BURST
    assert cluster.drops(VICTIM)[DropReason.SIGNATURE_BUDGET] >= 600 - SENDER_RECORDS_BURST
    known = len(cluster[VICTIM].members())
    cluster.say(HONEST, VICTIM, Records((record(2000),)))
    assert len(cluster[VICTIM].members()) == known + 1
    cluster.run(1.0)
    assert cluster[LIAR].peer_id in cluster[VICTIM]._transport.links, "which alone ends no link"


def test_envelopes_as_full_as_a_correct_sender_makes_them_are_no_excess_of_work() -> None:
    envelope_kib = RUMORS_MESSAGE_BYTES >> 10
    units = RUMORS_PER_MESSAGE_LIMIT * work.SIGNATURE + envelope_kib * work.KIBIBYTE
    told_share = 0.9  # of the bucket, in a record: a correct sender keeps to that
    assert units * told_share <= WORK_PER_TOKEN
    cluster = Cluster(3)
    sender = cluster[HONEST]
    for _ in range(30):
        for _ in range(400):
            if sender.can_broadcast:
                sender.broadcast(b"", cluster.now)
        cluster.run(0.1, step=0.05)
    assert not [e for e in cluster.events[cluster[VICTIM]] if isinstance(e, StandingChanged)]
