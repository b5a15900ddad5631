"""Work per token: bytes and payloads are both limited, equally at both ends."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from grapevine_proto import work
from grapevine_proto.errors import DropReason
from grapevine_proto.events import RateLimited, StandingChanged
from grapevine_proto.overlay.verification import SENDER_RECORDS_BURST
from grapevine_proto.transport.peer_limits import WORK_PER_TOKEN
from grapevine_proto.transport.rumor_coalescer import RUMORS_MESSAGE_BYTES, RUMORS_PER_MESSAGE_LIMIT
from grapevine_proto.wire import codec
from grapevine_proto.wire.messages import Close, CloseReason, Heartbeat, Records, RumorCopy, Rumors
from grapevine_proto.wire.signed import MAX_PAYLOADS_PER_MESSAGE, PeerRecord, Rumor
from tests.cluster import Cluster
from tests.proto.overlay.builders import EPOCH, identity, record

VICTIM, MALICIOUS, HONEST = 1, 2, 3


def envelope(*counts: int) -> bytes:
    """Rumors of the malicious member with `counts` empty payloads."""
    first, copies = 1, []
    for count in counts:
        rumor = Rumor.signed(identity(MALICIOUS), "default", EPOCH, first, (b"",) * count)
        copies.append(RumorCopy(rumor, 1, 0))
        first += count
    return codec.encode_message(Rumors(tuple(copies)))


@pytest.mark.parametrize("counts", [(MAX_PAYLOADS_PER_MESSAGE + 1,), (8192,) * 7, (9,) * 57])
def test_a_message_with_more_payloads_than_a_token_covers_is_dropped(
    counts: tuple[int, ...],
) -> None:
    cluster = Cluster(3)
    plaintext = envelope(*counts)
    cluster[MALICIOUS]._transport.links.enqueue(
        cluster.link(MALICIOUS, VICTIM), plaintext, cluster.now
    )
    cluster.run(2.0)
    assert cluster.drops(VICTIM)[DropReason.MALFORMED] == 1
    assert cluster.received(VICTIM) == []
    assert cluster.received(HONEST) == [], "none of it is relayed"


def test_a_full_message_costs_one_token() -> None:
    cluster = Cluster(3)
    bucket = (
        cluster[VICTIM]
        ._transport.links.peer_limits.get_or_create(cluster[MALICIOUS].peer_id, cluster.now)
        .bucket
    )
    assert bucket is not None
    before = bucket.available(cluster.now)
    cluster.inject(MALICIOUS, VICTIM, envelope(MAX_PAYLOADS_PER_MESSAGE))
    assert before - bucket.available(cluster.now) == pytest.approx(1.0, abs=1e-6)
    assert cluster[VICTIM].stats().delivered == MAX_PAYLOADS_PER_MESSAGE


@pytest.mark.parametrize("size", [0, 1, 100])
def test_broadcasting_tiny_payloads_at_full_speed_is_never_throttled(
    size: int,
) -> None:
    cluster = Cluster(3)
    sender, count = cluster[HONEST], 0
    for _ in range(20):
        while sender.can_broadcast_bytes(size) and count < 2_000:
            sender.broadcast(bytes(size), cluster.now)
            count += 1
        cluster.run(0.1, step=0.02)
    cluster.run(1.5)
    assert count == 2_000
    for number in (VICTIM, MALICIOUS):
        assert len(cluster.received(number)) == count
        events = cluster.events[cluster[number]]
        assert not any(isinstance(event, RateLimited) for event in events)
        assert DropReason.RATE_LIMITED not in cluster.drops(number)


def send_records(cluster: Cluster, sender: int, numbers: range) -> None:
    """Send records of unknown members, eight per message."""
    for first in range(numbers.start, numbers.stop, 8):
        record_batch = tuple(
            record(number) for number in range(first, min(first + 8, numbers.stop))
        )
        cluster.inject(sender, VICTIM, Records(record_batch))


@pytest.mark.parametrize(
    "wrap",
    [Records, lambda batch: Close(CloseReason.FULL, batch), lambda batch: heartbeat_with(batch)],
)
def test_records_are_charged_to_their_sender_in_every_message_kind(
    wrap: Callable[[tuple[PeerRecord, ...]], Records | Close | Heartbeat],
) -> None:
    cluster = Cluster(3)
    verifier = cluster[VICTIM]._overlay.verifier
    before = verifier._record_limiter._buckets.get((cluster[MALICIOUS].peer_id,))
    used = 0.0 if before is None else SENDER_RECORDS_BURST - before.available(cluster.now)
    cluster.inject(MALICIOUS, VICTIM, wrap((record(1000), record(1001))))
    bucket = verifier._record_limiter._buckets[(cluster[MALICIOUS].peer_id,)]
    assert SENDER_RECORDS_BURST - bucket.available(cluster.now) == pytest.approx(used + 2, abs=0.01)


def heartbeat_with(record_batch: tuple[PeerRecord, ...]) -> Heartbeat:
    return Heartbeat(1 << 20, 0, 0, 0, 0, bytes(16), record_batch)


def test_the_record_budget_of_one_member_does_not_affect_others() -> None:
    cluster = Cluster(3)
    known_before = len(cluster[VICTIM].members())
    send_records(cluster, MALICIOUS, range(1000, 1600))
    assert len(cluster[VICTIM].members()) - known_before <= SENDER_RECORDS_BURST
    assert cluster.drops(VICTIM)[DropReason.SIGNATURE_BUDGET] >= 600 - SENDER_RECORDS_BURST
    known_before = len(cluster[VICTIM].members())
    cluster.inject(HONEST, VICTIM, Records((record(2000),)))
    assert len(cluster[VICTIM].members()) == known_before + 1
    cluster.run(1.0)
    assert cluster[MALICIOUS].peer_id in cluster[VICTIM]._transport.links, "the link stays open"


def test_envelopes_of_a_correct_sender_stay_within_the_work_limit() -> None:
    envelope_kib = RUMORS_MESSAGE_BYTES >> 10
    units = RUMORS_PER_MESSAGE_LIMIT * work.SIGNATURE + envelope_kib * work.KIBIBYTE
    advertised_share = (
        0.9  # of the bucket is advertised in a record; a correct sender stays within that
    )
    assert units * advertised_share <= WORK_PER_TOKEN
    cluster = Cluster(3)
    sender = cluster[HONEST]
    for _ in range(30):
        for _ in range(400):
            if sender.can_broadcast:
                sender.broadcast(b"", cluster.now)
        cluster.run(0.1, step=0.05)
    assert not [e for e in cluster.events[cluster[VICTIM]] if isinstance(e, StandingChanged)]
