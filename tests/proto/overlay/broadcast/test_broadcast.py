"""What a copy says of its way is nobody's word: it keeps no rumor from going on."""

from __future__ import annotations

import random

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
from grapevine_proto.overlay.store.verification import Verifier
from grapevine_proto.overlay.sync.antientropy import COPIES_PER_MESSAGE_LIMIT
from grapevine_proto.overlay.trace.reverse_paths import ReversePaths
from grapevine_proto.wire.messages import DIRECT_MAIL_HOPS, IWant, RumorCopy, Rumors
from grapevine_proto.wire.signed import Rumor
from tests.proto.overlay.builders import Surroundings, identity, peer_id, rumor

ORIGIN = 90


class Node:
    """A node that is linked to 1 to 5, of which it hears what `ORIGIN` said."""

    def __init__(self, strategy: str = "flood") -> None:
        place = Surroundings(1, 2, 3, 4, 5, strategy=strategy)
        signatures = Verifier(place.config)
        self.store = MessageStore(place.config, signatures, (), 0.0)
        rng = random.Random(1)
        self.machine = Broadcast(
            place.config,
            peer_id(0),
            place.peers,
            place.members,
            self.store,
            signatures,
            ReversePaths(place.config, identity(0), place.peers, signatures, rng),
            rng,
            0.0,
        )
        for number in (3, 4, 5):
            self.machine._strategy._subscribers[peer_id(number)] = None  # type: ignore[attr-defined]

    def hear(
        self,
        made: Rumor,
        sender: int,
        now: float,
        *,
        hops: int = 1,
        age_ms: int = 0,
        via: Via = Via.EAGER,
    ) -> list[Effect]:
        return self.machine.accept(RumorCopy(made, hops, age_ms), peer_id(sender), via, now)


def pushes(effects: list[Effect]) -> list[int]:
    """To how many each push goes."""
    return [
        len(each.peers)
        for each in effects
        if isinstance(each, Send) and isinstance(each.message, Rumors)
    ]


def blames(effects: list[Effect]) -> list[DropReason]:
    return [each.reason for each in effects if isinstance(each, CountDrop)]


def test_only_the_origin_can_say_that_it_mails_to_all() -> None:
    node = Node()
    made = rumor(ORIGIN, 1)
    node.hear(made, 1, 0.0, hops=DIRECT_MAIL_HOPS)
    lazy = node.machine.lazy_push
    assert not lazy._unsorted_mail, "others are told of it at once"
    assert made.ids in lazy._unannounced


@pytest.mark.parametrize("hops", [DOUBTFUL_HOPS, 200, DIRECT_MAIL_HOPS])
def test_what_came_over_too_many_hops_goes_on_once_a_copy_came_over_fewer(hops: int) -> None:
    node = Node()
    made = rumor(ORIGIN, 1)
    assert pushes(node.hear(made, 1, 0.0, hops=hops)) == []
    assert pushes(node.hear(made, 2, 0.1, hops=hops)) == []
    assert pushes(node.hear(made, 2, 0.2, hops=2)) == [3]
    assert pushes(node.hear(made, 2, 0.3, hops=2)) == [], "once"


def test_a_rumor_said_to_be_nearly_expired_is_held_and_passed_on_once_a_younger_copy_comes() -> (
    None
):
    node = Node()
    made = rumor(ORIGIN, 1)
    node.hear(made, 1, 0.0, age_ms=299_985)
    node.machine.advance(2.0)
    assert not node.store.cache.contains(rumor_key(made))
    assert [each.first for each in node.store.vector(2.0)] == [2], "nothing of it is offered"
    assert pushes(node.hear(made, 2, 2.5, age_ms=2_520)) == [3]
    assert node.store.cache.contains(rumor_key(made))
    assert [each.first for each in node.store.vector(2.5)] == [1], "rounds offer it again"


def test_a_forged_copy_that_claims_to_be_younger_is_not_held() -> None:
    node = Node()
    made = rumor(ORIGIN, 1)
    node.hear(made, 1, 0.0, age_ms=299_985)
    node.machine.advance(2.0)
    forged = rumor(ORIGIN, 1, b"something else", cluster="another")
    assert blames(node.hear(forged, 2, 2.5)) == [DropReason.BAD_SIGNATURE]
    assert not node.store.cache.contains(rumor_key(made))


def test_no_copy_makes_a_stream_younger_than_its_last_word_came() -> None:
    node = Node()
    made = rumor(ORIGIN, 1)
    node.hear(made, 1, 0.0, age_ms=NO_FORWARD_AGE_MS, via=Via.REPAIR)
    node.hear(made, 2, 100.0)
    state = node.store._find(made.origin, made.epoch)
    assert state is not None
    assert state.last_published_at == 0.0


def test_one_doubted_rumor_more_than_the_limit_evicts_the_oldest() -> None:
    node = Node()
    for first in range(1, DOUBTFUL_LIMIT + 2):
        copy = RumorCopy(Rumor(peer_id(ORIGIN), 1, first, (0,), b"", bytes(64)), 200, 0)
        node.machine._note_doubtful(copy, 0.0)
    assert len(node.machine._doubtful) == DOUBTFUL_LIMIT


def test_of_two_contents_under_one_id_the_first_is_delivered_and_the_second_counted() -> None:
    node = Node()
    first, second = rumor(ORIGIN, 1, b"pay Ada"), rumor(ORIGIN, 1, b"pay Bob")
    [deliver] = [each for each in node.hear(first, 1, 0.0) if isinstance(each, Deliver)]
    assert [each.payload for each in deliver.messages] == [b"pay Ada"]
    assert node.hear(second, 2, 0.1) == [CountDrop(peer_id(ORIGIN), DropReason.CONTENT_CONFLICT)]
    assert node.machine.conflicts == 1
    assert node.store.cache.rumor(rumor_key(first)) == first


def test_a_forged_second_content_is_its_senders_fault() -> None:
    node = Node()
    node.hear(rumor(ORIGIN, 1, b"pay Ada"), 1, 0.0)
    forged = rumor(ORIGIN, 1, b"pay Bob", cluster="another")
    assert node.hear(forged, 2, 0.1) == [CountDrop(peer_id(2), DropReason.BAD_SIGNATURE)]
    assert node.machine.conflicts == 0


def test_of_one_message_so_many_rumors_are_taken_in() -> None:
    node = Node()
    copies = tuple(
        RumorCopy(rumor(ORIGIN, n + 1), 1, 0) for n in range(COPIES_PER_MESSAGE_LIMIT + 1)
    )
    effects = node.machine.handle(Rumors(copies), peer_id(1), 0.0)
    assert len([each for each in effects if isinstance(each, Deliver)]) == COPIES_PER_MESSAGE_LIMIT
    assert blames(effects) == [DropReason.TOO_LARGE]


def test_of_ours_that_nobody_asked_for_so_many_are_waited_for() -> None:
    node = Node()
    for first in range(1, UNCLAIMED_LIMIT + 2):
        node.machine._track_unclaimed((peer_id(0), 1, first), 10)
    assert len(node.machine._unclaimed) == UNCLAIMED_LIMIT
    ids = Rumor(peer_id(0), 1, 5, (0,), b"", bytes(64)).ids
    node.machine.on_requested(IWant(1, (ids, ids)))
    assert len(node.machine._unclaimed) == UNCLAIMED_LIMIT - 1
