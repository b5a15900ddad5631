"""Large rumors: who is asked, how long for, and what holders that do not deliver cost."""

from __future__ import annotations

import pytest

from grapevine_proto.ids import PeerId, Stream, StreamRange
from grapevine_proto.overlay.broadcast.large_messages import (
    HOLDERS_PER_PULL_LIMIT,
    PULL_ABANDON_S,
    PULL_DURATION_LIMIT_S,
    PULL_WINDOW_BYTES,
    PULLS_LIMIT,
    PULLS_PER_SOURCE_LIMIT,
    LargePuller,
    is_large,
)
from grapevine_proto.overlay.effects import Effect, Send
from grapevine_proto.overlay.store.message_store import MessageStore
from grapevine_proto.overlay.store.verification import Verifier
from grapevine_proto.overlay.sync.antientropy import LAZY_REQUEST_ROUND
from grapevine_proto.wire.messages import Announce, IWant
from grapevine_proto.wire.signed import PUSH_LIMIT_BYTES, Rumor
from tests.proto.overlay.builders import EPOCH, Surroundings, copy, peer_id

ORIGIN = 90
SIZE = 100_000
PATIENCE = 0.5  # at most


class Node:
    """What pulls see of a node with some links, whose round trips take 50 ms times their number."""

    def __init__(self, links: int = 4) -> None:
        self.place = Surroundings(*range(1, links + 1))
        self.store = MessageStore(self.place.config, Verifier(self.place.config), (), 0.0)
        self.pulls = LargePuller(self.place.peers, self.place.around, self.store)
        for number, peer in enumerate(self.place.peers, 1):
            peer.update_rtt(0.05 * number)

    def hear(
        self, teller: int, first: int = 1, *, at: float = 0.0, size: int = SIZE
    ) -> list[PeerId]:
        """Somebody announces a rumor; who is asked for one because of that."""
        return asked(self.pulls.handle(Announce(ids_of(first), size), peer_id(teller), at))

    def take(self, first: int, at: float) -> tuple[set[PeerId], list[PeerId]]:
        made = copy(ORIGIN, first, size=SIZE)
        self.store.insert(made, peer_id(ORIGIN), False, at)
        holders, effects = self.pulls.on_rumor(made.rumor, at)
        return holders, asked(effects)

    def advance(self, at: float) -> list[PeerId]:
        return asked(self.pulls.advance(at))


def ids_of(first: int) -> StreamRange:
    return StreamRange(Stream(peer_id(ORIGIN), EPOCH), first, first)


def asked(effects: list[Effect]) -> list[PeerId]:
    found: list[PeerId] = []
    for effect in effects:
        assert isinstance(effect, Send)
        assert isinstance(effect.message, IWant)
        assert effect.message.round == LAZY_REQUEST_ROUND
        found += effect.peers
    return found


def test_what_is_large_is_one_large_payload_not_many_small_ones() -> None:
    assert not is_large(copy(ORIGIN, 1, size=PUSH_LIMIT_BYTES).rumor)
    assert is_large(copy(ORIGIN, 1, size=PUSH_LIMIT_BYTES + 1).rumor)
    many = Rumor(peer_id(ORIGIN), EPOCH, 1, (5000, 5000), bytes(10_000), bytes(64))
    assert not is_large(many)


def test_near_peers_that_may_lack_it_are_told() -> None:
    node = Node()
    rumor = copy(ORIGIN, 1, size=SIZE).rumor
    [send] = node.pulls.announce(rumor, {peer_id(2)})
    assert isinstance(send, Send)
    assert set(send.peers) == {peer_id(1), peer_id(3), peer_id(4)}
    assert send.message == Announce(rumor.ids, rumor.size_bytes)
    assert node.pulls.announce(rumor, set(map(peer_id, range(1, 5)))) == []


def test_the_first_who_announces_is_asked_at_once_and_nobody_else() -> None:
    node = Node()
    assert node.hear(3) == [peer_id(3)]
    assert node.hear(1) == node.hear(1) == []
    holders, _ = node.take(1, 0.1)
    assert holders == {peer_id(1), peer_id(3)}
    assert node.advance(100.0) == []
    assert node.hear(2, at=101.0) == [], "it is here"


def test_a_holder_from_whom_nothing_comes_costs_its_patience_then_the_quickest_is_asked() -> None:
    node = Node()
    node.hear(4)
    node.hear(3)
    node.hear(2)
    assert node.advance(PATIENCE - 0.01) == []
    assert node.pulls.deadline <= PATIENCE
    assert node.advance(PATIENCE) == [peer_id(2)]
    assert node.advance(PATIENCE + 0.6) == [peer_id(3)]


def test_a_holder_without_another_to_ask_is_waited_for_and_whoever_comes_later_is_asked() -> None:
    node = Node()
    node.hear(1)
    assert node.advance(2.0) == []
    assert node.hear(2, at=3.0) == [peer_id(2)]
    assert node.hear(1, at=4.0) == [], "it was asked"


def test_nobody_is_waited_for_for_ever() -> None:
    node = Node()
    node.hear(1)
    at = 0.0
    while (at := node.pulls.deadline) < PULL_ABANDON_S:
        assert node.advance(at) == []
    node.advance(PULL_ABANDON_S)
    assert node.pulls.deadline > 10**9
    assert node.hear(1, at=PULL_ABANDON_S + 1) == [peer_id(1)], "it is as new"


def test_while_parts_come_nobody_else_is_asked_but_not_for_long() -> None:
    node = Node()
    node.hear(1)
    node.hear(2)
    at = 0.0
    while at < PULL_DURATION_LIMIT_S - 0.1:
        at += 0.1
        node.pulls.on_fragment(peer_id(1), at)
        assert node.advance(at) == []
    assert node.advance(PULL_DURATION_LIMIT_S + 0.1) == [peer_id(2)]


def test_of_one_holder_only_so_much_is_asked_at_a_time_and_the_rest_once_it_comes() -> None:
    node = Node()
    at_once = PULL_WINDOW_BYTES // SIZE
    for first in range(1, at_once + 1):
        assert node.hear(1, first) == [peer_id(1)]
    assert node.hear(1, at_once + 1) == []
    assert node.hear(2, at_once + 1) == [peer_id(2)], "another has room"
    assert node.hear(1, at_once + 2) == []
    assert node.take(1, 0.1)[1] == [peer_id(1)]


def test_one_larger_than_that_is_asked_for_alone() -> None:
    node = Node()
    assert node.hear(1, 1, size=10 * PULL_WINDOW_BYTES) == [peer_id(1)]
    assert node.hear(1, 2, size=1) == []
    assert node.take(1, 0.1)[1] == [peer_id(1)]


def test_what_was_asked_of_a_lost_link_is_asked_of_another() -> None:
    node = Node()
    node.hear(1)
    node.hear(2)
    node.place.unlink(1)
    assert asked(node.pulls.on_link_down(peer_id(1), 0.1)) == [peer_id(2)]
    node.place.unlink(2)
    assert node.pulls.on_link_down(peer_id(2), 0.2) == []
    assert node.pulls.deadline > 10**9


def test_one_announcement_too_many_is_counted_and_others_still_find_room() -> None:
    node = Node(links=PULLS_LIMIT // PULLS_PER_SOURCE_LIMIT + 1)
    for first in range(1, PULLS_PER_SOURCE_LIMIT + 2):
        node.hear(1, first)
    assert node.pulls.announcements_dropped == 1
    assert node.hear(2, 10_000) == [peer_id(2)]
    for number in range(2, PULLS_LIMIT // PULLS_PER_SOURCE_LIMIT + 2):
        for first in range(PULLS_PER_SOURCE_LIMIT):
            node.hear(number, 10_000 * number + first)
    assert len(node.pulls._pulls) == PULLS_LIMIT
    assert node.pulls.announcements_dropped == 1 + (1 + PULLS_PER_SOURCE_LIMIT), (
        "own cap, then that of all"
    )


def test_only_so_many_holders_are_remembered() -> None:
    node = Node(links=HOLDERS_PER_PULL_LIMIT + 1)
    for number in range(1, HOLDERS_PER_PULL_LIMIT + 2):
        node.hear(number)
    assert node.take(1, 0.1)[0] == {
        peer_id(number) for number in range(1, HOLDERS_PER_PULL_LIMIT + 1)
    }


@pytest.mark.parametrize("links", [1, 2])
def test_what_a_holder_owes_is_given_back_in_full(links: int) -> None:
    node = Node(links=links)
    node.hear(1)
    node.pulls.on_fragment(peer_id(1), 0.05)
    node.take(1, 0.1)
    assert not node.pulls._requested_bytes
    assert not node.pulls._last_fragment_at
    assert not node.pulls._pulls_per_source


def test_an_announcement_looks_at_nothing_but_itself_however_many_wait() -> None:
    node = Node()
    looked_at: list[StreamRange] = []
    missing = node.store.missing

    def counting(theirs: StreamRange, now: float, limit: float = 0) -> list[StreamRange]:
        looked_at.append(theirs)
        return missing(theirs, now, limit)

    node.store.missing = counting  # type: ignore[method-assign]
    for first in range(1, PULLS_PER_SOURCE_LIMIT + 1):
        looked_at.clear()
        node.hear(1, first, size=PULL_WINDOW_BYTES)
        assert set(looked_at) == {ids_of(first)}
    looked_at.clear()
    node.take(1, 0.1)
    assert set(looked_at) <= {ids_of(1), ids_of(2), ids_of(3)}, "what is asked for next, and a look"


def test_claimed_to_be_tiny_no_more_are_asked_for_at_once_than_small_ones_would_be() -> None:
    node = Node()
    asked_for = [node.hear(1, first, size=1) for first in range(1, PULLS_PER_SOURCE_LIMIT + 1)]
    assert sum(map(bool, asked_for)) == PULL_WINDOW_BYTES // PUSH_LIMIT_BYTES


def test_nothing_is_kept_of_what_came_or_was_given_up() -> None:
    node = Node()
    for first in range(1, 20):
        node.hear(1, first, size=PULL_WINDOW_BYTES)
        node.hear(2, first, size=PULL_WINDOW_BYTES)
    for first in range(1, 20):
        node.take(first, 0.1)
    node.advance(PULL_ABANDON_S + 1)
    pulls = node.pulls
    assert not pulls._pulls
    assert not pulls._waiting_for_holder
    assert not pulls._pulls_per_source
    assert not pulls._requested_bytes
    assert not pulls._timer_heap
