"""Broadcast: the unsigned hops and age of one copy keep no rumor from spreading, and conflicts are
detected.
"""

from __future__ import annotations

import pytest

from grapevine_proto.errors import DropReason
from grapevine_proto.events import Via
from grapevine_proto.overlay.broadcast.broadcast import (
    DOUBTFUL_HOPS,
    DOUBTFUL_LIMIT,
    NO_FORWARD_AGE_MS,
    UNCLAIMED_LIMIT,
    Broadcast,
)
from grapevine_proto.overlay.effects import CountDrop, Deliver, Effect, Send
from grapevine_proto.overlay.store.message_cache import rumor_key
from grapevine_proto.overlay.store.message_store import MessageStore
from grapevine_proto.overlay.sync.antientropy import COPIES_PER_MESSAGE_LIMIT
from grapevine_proto.overlay.trace.reverse_paths import ReversePaths
from grapevine_proto.wire.messages import DIRECT_MAIL_HOPS, IWant, RumorCopy, Rumors
from grapevine_proto.wire.signed import Rumor
from tests.proto.overlay.builders import NodeTables, peer_id, rumor

ORIGIN = 90


class Node:
    """A node that is linked to peers 1 to 5 and receives rumors of `ORIGIN` from them."""

    def __init__(self, strategy: str = "flood") -> None:
        tables = NodeTables(1, 2, 3, 4, 5, strategy=strategy)
        self.store = MessageStore(tables.context, (), 0.0)
        reverse_paths = ReversePaths(tables.context)
        self.broadcast = Broadcast(tables.context, self.store, reverse_paths, 0.0)
        for number in (3, 4, 5):
            self.broadcast._strategy._subscribers[peer_id(number)] = None  # type: ignore[attr-defined]

    def receive(
        self,
        rumor_: Rumor,
        sender: int,
        now: float,
        *,
        hops: int = 1,
        age_ms: int = 0,
        via: Via = Via.EAGER,
    ) -> list[Effect]:
        return self.broadcast.accept(RumorCopy(rumor_, hops, age_ms), peer_id(sender), via, now)


def pushes(effects: list[Effect]) -> list[int]:
    """The number of targets of each push."""
    return [
        len(each.peers)
        for each in effects
        if isinstance(each, Send) and isinstance(each.message, Rumors)
    ]


def drop_reasons(effects: list[Effect]) -> list[DropReason]:
    return [each.reason for each in effects if isinstance(each, CountDrop)]


def test_only_the_origin_can_mark_a_rumor_as_mailed() -> None:
    node = Node()
    rumor_ = rumor(ORIGIN, 1)
    node.receive(rumor_, 1, 0.0, hops=DIRECT_MAIL_HOPS)
    lazy_push = node.broadcast.lazy_push
    assert not lazy_push._unsorted_mail, "it is announced without delay"
    assert rumor_.ids in lazy_push._unannounced


@pytest.mark.parametrize("hops", [DOUBTFUL_HOPS, 200, DIRECT_MAIL_HOPS])
def test_a_rumor_beyond_the_hop_limit_is_forwarded_once_a_copy_claims_fewer_hops(hops: int) -> None:
    node = Node()
    rumor_ = rumor(ORIGIN, 1)
    assert pushes(node.receive(rumor_, 1, 0.0, hops=hops)) == []
    assert pushes(node.receive(rumor_, 2, 0.1, hops=hops)) == []
    assert pushes(node.receive(rumor_, 2, 0.2, hops=2)) == [3]
    assert pushes(node.receive(rumor_, 2, 0.3, hops=2)) == [], "once"


def test_a_nearly_expired_rumor_is_cached_and_forwarded_once_a_younger_copy_arrives() -> None:
    node = Node()
    rumor_ = rumor(ORIGIN, 1)
    node.receive(rumor_, 1, 0.0, age_ms=299_985)
    node.broadcast.advance(2.0)
    assert not node.store.cache.contains(rumor_key(rumor_))
    assert [each.first for each in node.store.vector(2.0)] == [2], "the vector does not offer it"
    assert pushes(node.receive(rumor_, 2, 2.5, age_ms=2_520)) == [3]
    assert node.store.cache.contains(rumor_key(rumor_))
    assert [each.first for each in node.store.vector(2.5)] == [1], "the vector offers it again"


def test_a_forged_copy_that_claims_to_be_younger_is_not_cached() -> None:
    node = Node()
    rumor_ = rumor(ORIGIN, 1)
    node.receive(rumor_, 1, 0.0, age_ms=299_985)
    node.broadcast.advance(2.0)
    forged = rumor(ORIGIN, 1, b"something else", cluster="another")
    assert drop_reasons(node.receive(forged, 2, 2.5)) == [DropReason.BAD_SIGNATURE]
    assert not node.store.cache.contains(rumor_key(rumor_))


def test_no_copy_makes_a_stream_younger_than_its_last_arrival() -> None:
    node = Node()
    rumor_ = rumor(ORIGIN, 1)
    node.receive(rumor_, 1, 0.0, age_ms=NO_FORWARD_AGE_MS, via=Via.REPAIR)
    node.receive(rumor_, 2, 100.0)
    state = node.store._states.get(rumor_.stream)
    assert state is not None
    assert state.last_published_at == 0.0


def test_beyond_the_limit_the_oldest_doubtful_rumor_is_evicted() -> None:
    node = Node()
    for first in range(1, DOUBTFUL_LIMIT + 2):
        copy = RumorCopy(Rumor(peer_id(ORIGIN), 1, first, (0,), b"", bytes(64)), 200, 0)
        node.broadcast._note_doubtful(copy, 0.0)
    assert len(node.broadcast._doubtful) == DOUBTFUL_LIMIT


def test_of_two_contents_under_one_id_the_first_is_delivered_and_the_second_counted() -> None:
    node = Node()
    first, second = rumor(ORIGIN, 1, b"pay Ada"), rumor(ORIGIN, 1, b"pay Bob")
    [deliver] = [each for each in node.receive(first, 1, 0.0) if isinstance(each, Deliver)]
    assert [each.payload for each in deliver.messages] == [b"pay Ada"]
    assert node.receive(second, 2, 0.1) == [CountDrop(peer_id(ORIGIN), DropReason.CONTENT_CONFLICT)]
    assert node.broadcast.conflicts == 1
    assert node.store.cache.rumor(rumor_key(first)) == first


def test_a_forged_second_content_is_charged_to_its_sender() -> None:
    node = Node()
    node.receive(rumor(ORIGIN, 1, b"pay Ada"), 1, 0.0)
    forged = rumor(ORIGIN, 1, b"pay Bob", cluster="another")
    assert node.receive(forged, 2, 0.1) == [CountDrop(peer_id(2), DropReason.BAD_SIGNATURE)]
    assert node.broadcast.conflicts == 0


def test_rumors_beyond_the_limit_per_message_are_dropped() -> None:
    node = Node()
    copies = tuple(
        RumorCopy(rumor(ORIGIN, n + 1), 1, 0) for n in range(COPIES_PER_MESSAGE_LIMIT + 1)
    )
    effects = node.broadcast.handle(Rumors(copies), peer_id(1), 0.0)
    assert len([each for each in effects if isinstance(each, Deliver)]) == COPIES_PER_MESSAGE_LIMIT
    assert drop_reasons(effects) == [DropReason.TOO_LARGE]


def test_unrequested_own_rumors_are_tracked_up_to_the_limit() -> None:
    node = Node()
    for first in range(1, UNCLAIMED_LIMIT + 2):
        node.broadcast._track_unclaimed((peer_id(0), 1, first), 10)
    assert len(node.broadcast._unclaimed) == UNCLAIMED_LIMIT
    ids = Rumor(peer_id(0), 1, 5, (0,), b"", bytes(64)).ids
    node.broadcast.on_requested(IWant(1, (ids, ids)))
    assert len(node.broadcast._unclaimed) == UNCLAIMED_LIMIT - 1
