"""Large messages: from which holder they are pulled, timeouts, and penalties for not delivering."""

from __future__ import annotations

from dataclasses import replace

import pytest

from grapevine_proto.ids import PeerId, Stream, StreamRange
from grapevine_proto.overlay.broadcast.large_messages import (
    HOLDERS_PER_PULL_LIMIT,
    PULL_DURATION_LIMIT_S,
    PULL_WINDOW_BYTES,
    PULLS_LIMIT,
    PULLS_PER_SOURCE_LIMIT,
    UNLINKED_PULL_TIMEOUT_S,
    LargePuller,
)
from grapevine_proto.overlay.effects import Effect, Send
from grapevine_proto.overlay.peers import ANNOUNCED_BYTES_LIMIT
from grapevine_proto.overlay.store.message_store import MessageStore
from grapevine_proto.wire.attributes import rumor_attributes
from grapevine_proto.wire.messages import (
    LAZY_REQUEST_ROUND,
    Announce,
    AnnounceTopic,
    IWant,
    RumorCopy,
)
from grapevine_proto.wire.signed import PUSH_LIMIT_BYTES, Rumor, is_announced_by_topic, is_large
from tests.proto.overlay.builders import EPOCH, NodeTables, copy, peer_id

ORIGIN = 90
SIZE = 100_000
PULL_TIMEOUT_S = 0.5  # maximum timeout


class Node:
    """Pulls of a node with some links; the RTT of link `n` is 50 ms times `n`."""

    def __init__(self, links: int = 4) -> None:
        self.tables = NodeTables(*range(1, links + 1))
        self.store = MessageStore(self.tables.context, (), 0.0)
        self.puller = LargePuller(self.tables.context, self.tables.near_peers, self.store)
        for number, peer in enumerate(self.tables.peers, 1):
            peer.update_rtt(0.05 * number)

    def receive_announcement(
        self, source: int, first: int = 1, *, at: float = 0.0, size: int = SIZE
    ) -> list[PeerId]:
        """Receives an announcement. Returns the peers from which a rumor is then requested."""
        return targets_of(self.puller.handle(Announce(ids_of(first), size), peer_id(source), at))

    def receive_rumor(self, first: int, at: float) -> tuple[set[PeerId], list[PeerId]]:
        copy_ = copy(ORIGIN, first, size=SIZE)
        self.store.insert(copy_, peer_id(ORIGIN), False, at)
        holders, effects = self.puller.on_rumor(copy_.rumor, at)
        return holders, targets_of(effects)

    def advance(self, at: float) -> list[PeerId]:
        return targets_of(self.puller.advance(at))

    def receive_topic(
        self, source: int, holder: int, *, has_body: bool = False, at: float = 0.0
    ) -> list[PeerId]:
        """Receives an announcement of a topic that this node delivers."""
        message = AnnounceTopic(topic_copy(holder), has_body)
        return targets_of(self.puller.on_topic(message, peer_id(source), at))


def topic_copy(holder: int | None = None, size: int = SIZE) -> RumorCopy:
    """A large rumor of a topic, without its body if it has a holder."""
    attributes = rumor_attributes(topic="deploy.web")
    rumor = Rumor(peer_id(ORIGIN), EPOCH, 1, (size,), bytes(size), bytes(64), attributes)
    if holder is None:
        return RumorCopy(rumor, 1, 0)
    return RumorCopy(rumor.without_body(), 1, 0, peer_id(holder))


def ids_of(first: int) -> StreamRange:
    return StreamRange(Stream(peer_id(ORIGIN), EPOCH), first, first)


def targets_of(effects: list[Effect]) -> list[PeerId]:
    found: list[PeerId] = []
    for effect in effects:
        assert isinstance(effect, Send)
        assert isinstance(effect.message, IWant)
        assert effect.message.round == LAZY_REQUEST_ROUND
        found += effect.peers
    return found


def test_a_rumor_is_large_by_its_payload_not_by_many_small_ones() -> None:
    assert not is_large(copy(ORIGIN, 1, size=PUSH_LIMIT_BYTES).rumor)
    assert is_large(copy(ORIGIN, 1, size=PUSH_LIMIT_BYTES + 1).rumor)
    many = Rumor(peer_id(ORIGIN), EPOCH, 1, (5000, 5000), bytes(10_000), bytes(64))
    assert not is_large(many)


def test_a_large_rumor_is_announced_to_near_peers_that_may_lack_it() -> None:
    node = Node()
    large = copy(ORIGIN, 1, size=SIZE)
    rumor = large.rumor
    [send] = node.puller.announce(large, {peer_id(2)})
    assert isinstance(send, Send)
    assert set(send.peers) == {peer_id(1), peer_id(3), peer_id(4)}
    assert send.message == Announce(rumor.ids, rumor.size_bytes)
    assert node.puller.announce(large, set(map(peer_id, range(1, 5)))) == []


def test_an_announced_rumor_adds_to_what_a_peer_may_pull_up_to_a_limit() -> None:
    node = Node(links=2)
    peer, other = node.tables.peers
    large = copy(ORIGIN, 1, size=2**20)
    node.puller.announce(large, {other.peer_id})
    assert (peer.announced_bytes, other.announced_bytes) == (large.rumor.size_bytes, 0)
    for _ in range(16):
        node.puller.announce(large, {other.peer_id})
    assert peer.announced_bytes == ANNOUNCED_BYTES_LIMIT == 16 * 2**20


def test_a_holder_that_refuses_is_not_awaited_once_nothing_arrives_from_it() -> None:
    node = Node()
    for first in (1, 2):
        node.receive_announcement(2, first)
    node.puller.on_fragment(peer_id(2), 0.3)
    node.puller.on_refusal(peer_id(2))  # of one of the two
    assert node.advance(0.3 + PULL_TIMEOUT_S - 0.01) == []
    assert [ids.first for ids in node.puller._pulls] == [1, 2], "the other one is arriving"
    node.advance(0.3 + PULL_TIMEOUT_S)
    assert [ids.first for ids in node.puller._pulls] == [2], "anti-entropy takes over"


def test_after_a_refusal_another_holder_is_asked() -> None:
    node = Node()
    node.receive_announcement(2)
    node.puller.on_refusal(peer_id(2))
    node.receive_announcement(3)
    assert node.advance(PULL_TIMEOUT_S) == [peer_id(3)]
    node.puller.on_refusal(peer_id(2))  # not asked any more
    assert node.advance(2 * PULL_TIMEOUT_S + 0.01) == []
    assert [ids.first for ids in node.puller._pulls] == [1]


def test_only_the_first_announcing_peer_is_asked_and_at_once() -> None:
    node = Node()
    assert node.receive_announcement(3) == [peer_id(3)]
    assert node.receive_announcement(1) == node.receive_announcement(1) == []
    holders, _ = node.receive_rumor(1, 0.1)
    assert holders == {peer_id(1), peer_id(3)}
    assert node.advance(100.0) == []
    assert node.receive_announcement(2, at=101.0) == [], "it has arrived"


def test_after_a_timeout_the_fastest_other_holder_is_asked() -> None:
    node = Node()
    node.receive_announcement(4)
    node.receive_announcement(3)
    node.receive_announcement(2)
    assert node.advance(PULL_TIMEOUT_S - 0.01) == []
    assert node.puller.deadline <= PULL_TIMEOUT_S
    assert node.advance(PULL_TIMEOUT_S) == [peer_id(2)]
    assert node.advance(PULL_TIMEOUT_S + 0.6) == [peer_id(3)]


def test_the_only_holder_is_awaited_until_another_announces() -> None:
    node = Node()
    node.receive_announcement(1)
    assert node.advance(2.0) == []
    assert node.receive_announcement(2, at=3.0) == [peer_id(2)]
    assert node.receive_announcement(1, at=4.0) == [], "it was requested already"


def test_a_pull_is_abandoned_after_its_time_limit() -> None:
    node = Node()
    node.receive_announcement(1)
    at = 0.0
    while (at := node.puller.deadline) < 30.0:
        assert node.advance(at) == []
    node.advance(30.0)
    assert node.puller.deadline > 10**9
    assert node.receive_announcement(1, at=30.0 + 1) == [peer_id(1)], "as if never announced"


def test_arriving_fragments_extend_a_pull_up_to_its_duration_limit() -> None:
    node = Node()
    node.receive_announcement(1)
    node.receive_announcement(2)
    at = 0.0
    while at < PULL_DURATION_LIMIT_S - 0.1:
        at += 0.1
        node.puller.on_fragment(peer_id(1), at)
        assert node.advance(at) == []
    assert node.advance(PULL_DURATION_LIMIT_S + 0.1) == [peer_id(2)]


def test_requests_to_one_holder_stay_within_its_window() -> None:
    node = Node()
    window = PULL_WINDOW_BYTES // SIZE
    for first in range(1, window + 1):
        assert node.receive_announcement(1, first) == [peer_id(1)]
    assert node.receive_announcement(1, window + 1) == []
    assert node.receive_announcement(2, window + 1) == [peer_id(2)], "another has room"
    assert node.receive_announcement(1, window + 2) == []
    assert node.receive_rumor(1, 0.1)[1] == [peer_id(1)]


def test_a_rumor_larger_than_the_window_is_requested_alone() -> None:
    node = Node()
    assert node.receive_announcement(1, 1, size=10 * PULL_WINDOW_BYTES) == [peer_id(1)]
    assert node.receive_announcement(1, 2, size=1) == []
    assert node.receive_rumor(1, 0.1)[1] == [peer_id(1)]


def test_a_request_on_a_closed_link_moves_to_another_holder() -> None:
    node = Node()
    node.receive_announcement(1)
    node.receive_announcement(2)
    node.tables.unlink(1)
    assert targets_of(node.puller.on_link_down(peer_id(1), 0.1)) == [peer_id(2)]
    node.tables.unlink(2)
    assert node.puller.on_link_down(peer_id(2), 0.2) == []
    assert node.puller.deadline > 10**9


def test_an_announcement_beyond_the_limit_of_its_source_is_counted_and_others_fit() -> None:
    node = Node(links=PULLS_LIMIT // PULLS_PER_SOURCE_LIMIT + 1)
    for first in range(1, PULLS_PER_SOURCE_LIMIT + 2):
        node.receive_announcement(1, first)
    assert node.puller.announcements_dropped == 1
    assert node.receive_announcement(2, 10_000) == [peer_id(2)]
    for number in range(2, PULLS_LIMIT // PULLS_PER_SOURCE_LIMIT + 2):
        for first in range(PULLS_PER_SOURCE_LIMIT):
            node.receive_announcement(number, 10_000 * number + first)
    assert len(node.puller._pulls) == PULLS_LIMIT
    assert node.puller.announcements_dropped == 1 + (1 + PULLS_PER_SOURCE_LIMIT), (
        "first the limit per source, then the total"
    )


def test_holders_of_one_rumor_are_tracked_up_to_the_limit() -> None:
    node = Node(links=HOLDERS_PER_PULL_LIMIT + 1)
    for number in range(1, HOLDERS_PER_PULL_LIMIT + 2):
        node.receive_announcement(number)
    assert node.receive_rumor(1, 0.1)[0] == {
        peer_id(number) for number in range(1, HOLDERS_PER_PULL_LIMIT + 1)
    }


@pytest.mark.parametrize("links", [1, 2])
def test_a_received_rumor_frees_the_window_of_its_holder(links: int) -> None:
    node = Node(links=links)
    node.receive_announcement(1)
    node.puller.on_fragment(peer_id(1), 0.05)
    node.receive_rumor(1, 0.1)
    assert not node.puller._requested_bytes
    assert not node.puller._last_fragment_at
    assert not node.puller._pulls_per_source


@pytest.mark.usefixtures("patch_sources")
def test_the_cost_of_an_announcement_does_not_depend_on_waiting_rumors() -> None:
    node = Node()
    examined: list[StreamRange] = []
    missing = node.store.missing

    def counting(theirs: StreamRange, now: float, limit: float = 0) -> list[StreamRange]:
        examined.append(theirs)
        return missing(theirs, now, limit)

    node.store.missing = counting  # type: ignore[method-assign]
    for first in range(1, PULLS_PER_SOURCE_LIMIT + 1):
        examined.clear()
        node.receive_announcement(1, first, size=PULL_WINDOW_BYTES)
        assert set(examined) == {ids_of(first)}
    examined.clear()
    node.receive_rumor(1, 0.1)
    assert set(examined) <= {ids_of(1), ids_of(2), ids_of(3)}, "the next requests only"


def test_a_claimed_tiny_size_does_not_increase_concurrent_requests() -> None:
    node = Node()
    requests = [
        node.receive_announcement(1, first, size=1)
        for first in range(1, PULLS_PER_SOURCE_LIMIT + 1)
    ]
    assert sum(map(bool, requests)) == PULL_WINDOW_BYTES // PUSH_LIMIT_BYTES


def test_finished_and_abandoned_pulls_leave_no_state() -> None:
    node = Node()
    for first in range(1, 20):
        node.receive_announcement(1, first, size=PULL_WINDOW_BYTES)
        node.receive_announcement(2, first, size=PULL_WINDOW_BYTES)
    for first in range(1, 20):
        node.receive_rumor(first, 0.1)
    node.advance(30.0 + 1)
    puller = node.puller
    assert not puller._pulls
    assert not puller._waiting_for_holder
    assert not puller._pulls_per_source
    assert not puller._requested_bytes
    assert not puller._refusals
    assert not puller._timer_heap


def test_progress_is_checked_at_the_earliest_deadline_of_what_is_pulled() -> None:
    node = Node()
    node.receive_announcement(1, 1)
    node.receive_announcement(1, 2, at=0.1)
    assert node.puller.deadline == pytest.approx(6 * 0.05)
    node.receive_rumor(1, 0.2)
    assert node.puller.deadline == pytest.approx(0.1 + 6 * 0.05)
    assert node.puller.requests_sent == 2


def test_a_rumor_that_waits_for_a_window_has_no_deadline() -> None:
    node = Node()
    node.receive_announcement(2, 1, size=PULL_WINDOW_BYTES)
    node.receive_announcement(1, 2)
    node.receive_announcement(2, 2)
    node.tables.unlink(1)
    assert node.puller.on_link_down(peer_id(1), 0.1) == []
    assert node.puller.deadline == PULL_TIMEOUT_S
    assert node.receive_rumor(1, 0.2)[1] == [peer_id(2)]


def test_outdated_timers_are_removed_beyond_a_limit_and_the_others_stay() -> None:
    node = Node()
    node.puller._stale_timers_allowed = 4
    for first in (1, 2, 3):
        node.receive_announcement(1, first)
        node.receive_announcement(2, first)
    outdated = []
    for first in range(10, 60):
        node.receive_announcement(3, first)
        outdated.append(len(node.puller._timer_heap) - 2 * len(node.puller._pulls))
        node.receive_rumor(first, 0.1)
    assert max(outdated) == 4
    assert node.advance(PULL_TIMEOUT_S) == [peer_id(2)] * 3


def test_a_closed_link_of_another_holder_leaves_a_pull_alone() -> None:
    node = Node()
    node.receive_announcement(1)
    node.receive_announcement(2)
    deadline = node.puller.deadline
    node.tables.unlink(2)
    assert node.puller.on_link_down(peer_id(2), 0.1) == []
    assert node.puller.deadline == deadline
    assert node.puller.is_pulling(ids_of(1))


def test_a_rumor_that_waits_for_a_peer_whose_link_closes_is_given_up() -> None:
    node = Node()
    node.receive_announcement(1, 1, size=PULL_WINDOW_BYTES)
    assert node.receive_announcement(1, 2) == []
    node.tables.unlink(1)
    assert node.puller.on_link_down(peer_id(1), 0.1) == []
    assert not node.puller._pulls
    assert not node.puller._waiting_for_holder


def test_a_small_rumor_does_not_overtake_one_that_waits_longer() -> None:
    node = Node()
    assert node.receive_announcement(1, 1, size=300_000) == [peer_id(1)]
    assert node.receive_announcement(1, 2, size=200_000) == [peer_id(1)]
    assert node.receive_announcement(1, 3, size=400_000) == []
    assert node.receive_announcement(1, 4, size=100_000) == []
    assert node.receive_rumor(2, 0.1)[1] == []
    assert node.receive_rumor(1, 0.2)[1] == [peer_id(1), peer_id(1)]


# --- topics -----------------------------------------------------------------------------------------

FAR = 50  # a member without a link


def test_a_rumor_of_a_topic_is_announced_with_its_header_and_its_holder() -> None:
    node = Node()
    [send] = node.puller.announce(topic_copy(), {peer_id(2)})
    assert isinstance(send, Send)
    assert isinstance(send.message, AnnounceTopic)
    assert send.message.has_body
    assert send.message.copy.holder == node.tables.context.our_id
    assert send.message.copy.hops == 2
    [send] = node.puller.announce(topic_copy(holder=FAR), set())
    assert isinstance(send, Send)
    assert isinstance(send.message, AnnounceTopic)
    assert (send.message.has_body, send.message.copy.holder) == (False, peer_id(FAR))


def test_a_topic_of_several_payloads_or_a_small_one_is_announced_or_pushed_as_ever() -> None:
    large = topic_copy().rumor
    assert is_announced_by_topic(large)
    several = replace(large, lengths=(SIZE - 1, 1))
    assert not is_announced_by_topic(several)
    assert not is_announced_by_topic(replace(large, attributes=b""))
    assert not is_announced_by_topic(topic_copy(size=PUSH_LIMIT_BYTES).rumor)


def test_a_sender_that_has_the_body_is_asked_and_otherwise_the_holder_that_it_names() -> None:
    assert Node().receive_topic(3, FAR, has_body=True) == [peer_id(3)]
    assert Node().receive_topic(3, FAR) == [peer_id(FAR)]
    assert Node().receive_topic(3, 2) == [peer_id(2)]


def test_a_named_holder_gets_time_to_open_a_session_and_then_the_next_one_is_asked() -> None:
    node = Node()
    assert node.receive_topic(3, FAR) == [peer_id(FAR)]
    assert node.receive_topic(2, 1, has_body=False) == []
    assert node.advance(UNLINKED_PULL_TIMEOUT_S - 0.01) == []
    assert node.advance(UNLINKED_PULL_TIMEOUT_S) == [peer_id(1)], "a linked one is nearer"
    assert node.receive_topic(1, FAR) == [], "it is known"


def test_a_holder_without_a_link_is_asked_three_times() -> None:
    node = Node()
    asked = node.receive_topic(3, FAR)
    for number in range(1, 30):
        asked += node.advance(number * UNLINKED_PULL_TIMEOUT_S)
    assert asked == [peer_id(FAR)] * 3


def test_a_node_is_never_sent_to_itself() -> None:
    node = Node()
    assert node.receive_topic(3, 0) == []
    assert node.tables.context.our_id == peer_id(0)


def test_one_holder_more_than_the_limit_is_not_noted() -> None:
    node = Node()
    for holder in range(FAR, FAR + HOLDERS_PER_PULL_LIMIT + 1):
        node.receive_topic(3, holder)
    [pull] = node.puller._pulls.values()
    assert len(pull.named) == len(pull.announced_by) == HOLDERS_PER_PULL_LIMIT
