"""What a member may cause for one token: bytes and payloads both have a limit, the same at both ends."""

from __future__ import annotations

import pytest

from grapevine_proto import codec
from grapevine_proto.errors import DropReason
from grapevine_proto.events import RateLimited
from grapevine_proto.messages import RumorCopy, Rumors
from grapevine_proto.signed import PAYLOADS_LIMIT, Rumor
from tests.cluster import Cluster
from tests.overlay.made import EPOCH, identity

VICTIM, LIAR, HONEST = 1, 2, 3


def envelope(*counts: int) -> bytes:
    """Rumors of the liar with so many empty payloads each."""
    first, copies = 1, []
    for count in counts:
        rumor = Rumor.signed(identity(LIAR), "default", EPOCH, first, (b"",) * count)
        copies.append(RumorCopy(rumor, 1, 0))
        first += count
    return codec.encode_message(Rumors(tuple(copies)))


@pytest.mark.parametrize("counts", [(PAYLOADS_LIMIT + 1,), (8192,) * 7, (9,) * 57])
def test_one_message_does_not_buy_more_payloads_than_a_token_pays_for(
    counts: tuple[int, ...],
) -> None:
    cluster = Cluster(3)
    said = envelope(*counts)
    cluster[LIAR]._links.queue(cluster.link(LIAR, VICTIM), said, cluster.now)
    cluster.run(2.0)
    assert cluster.drops(VICTIM)[DropReason.MALFORMED] == 1
    assert cluster.heard(VICTIM) == []
    assert cluster.heard(HONEST) == [], "nor is any of it relayed"


def test_a_token_is_charged_for_what_it_pays_for() -> None:
    cluster = Cluster(3)
    bucket = cluster[VICTIM]._links.accounts.of(cluster[LIAR].peer_id, cluster.now).bucket
    assert bucket is not None
    before = bucket.available(cluster.now)
    cluster.say(LIAR, VICTIM, envelope(PAYLOADS_LIMIT))
    assert before - bucket.available(cluster.now) == pytest.approx(1.0, abs=1e-6)
    assert cluster[VICTIM].stats().delivered == PAYLOADS_LIMIT


@pytest.mark.parametrize("size", [0, 1, 100])
def test_who_broadcasts_tiny_payloads_as_fast_as_there_is_room_is_never_throttled(
    size: int,
) -> None:
    cluster = Cluster(3)
    sender, said = cluster[HONEST], 0
    for _ in range(20):
        while sender.has_room_for(size) and said < 2_000:
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
