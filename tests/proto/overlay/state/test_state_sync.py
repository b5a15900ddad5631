"""Reconciliation of keyed state: two and three nodes exchange sums, heads, requests and deltas."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest

from grapevine_proto.errors import DropReason, Offense
from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.effects import (
    BumpEpoch,
    CountDrop,
    Effect,
    Emit,
    Penalize,
    Send,
    WriteEntry,
)
from grapevine_proto.overlay.state import state_sync as module
from grapevine_proto.overlay.state.owner_map import OwnerMap
from grapevine_proto.overlay.state.state_sync import (
    FRUITLESS_PAUSE_S,
    REQUEST_TIMEOUT_S,
    WANTED_LIMIT,
    StateMessage,
    StateSync,
)
from grapevine_proto.wire.entry_terms import NO_VERSION
from grapevine_proto.wire.messages import (
    STATE_BUCKETS,
    RumorCopy,
    StateDelta,
    StateDigest,
    StateHead,
    StateHeads,
    StateRequest,
    StateWant,
)
from grapevine_proto.wire.signed import Rumor
from tests.proto.overlay.builders import EPOCH, identity, peer_id
from tests.proto.overlay.state.owners import Learner, Owner, entry_of


class Party:
    """Nodes with links to each other, whose messages arrive at once unless they are in `lost`."""

    def __init__(self, *numbers: int) -> None:
        self.now = 0.0
        self.nodes = {peer_id(number): Learner(number) for number in numbers}
        self.syncs = {
            each: StateSync(node.context, node.state) for each, node in self.nodes.items()
        }
        self.sent: Counter[type] = Counter()
        self.log: list[StateMessage] = []
        self.lost: tuple[type, ...] = ()
        self.drops: list[DropReason] = []
        self.changes = 0
        self.taken_back: list[Effect] = []

    def link(self) -> None:
        for one, sync in self.syncs.items():
            for other in self.syncs:
                if one != other:
                    sync.on_link_up(other, self.now)

    def node(self, number: int) -> Learner:
        return self.nodes[peer_id(number)]

    def sync(self, number: int) -> StateSync:
        return self.syncs[peer_id(number)]

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while (at := min(sync.deadline for sync in self.syncs.values())) <= until:
            self.now = max(self.now + 0.001, at)
            for each, sync in self.syncs.items():
                if sync.deadline <= self.now:
                    self.deliver(each, sync.advance(self.now))
        self.now = until

    def deliver(self, sender: object, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, CountDrop):
                self.drops.append(effect.reason)
            elif isinstance(effect, Emit):
                self.changes += 1
            elif isinstance(effect, BumpEpoch | WriteEntry):
                self.taken_back.append(effect)
            elif isinstance(effect, Send):
                message = effect.message
                self.sent[type(message)] += 1
                self.log.append(message)  # type: ignore[arg-type]
                if not isinstance(message, self.lost):
                    for to in effect.peers:
                        answers = self.syncs[to].handle(message, sender, self.now)  # type: ignore[arg-type]
                        self.deliver(to, answers)

    @property
    def agrees(self) -> bool:
        return len({node.state.sum for node in self.nodes.values()}) == 1


def test_nodes_without_entries_exchange_nothing() -> None:
    party = Party(0, 1)
    party.link()
    party.run(1000.0)
    assert party.sent == {}
    assert party.sync(0).deadline == math.inf


def test_a_new_peer_gets_all_maps() -> None:
    party = Party(0, 1)
    for number in range(2, 102):
        party.node(0).learn(Owner(number).write("a", b"%d" % number))
    party.link()
    party.run(1.0)
    assert party.agrees
    assert party.node(1).state.shared.get_all("a", 0.0) == party.node(0).state.shared.get_all(
        "a", 0.0
    )
    assert party.sent[StateRequest] == math.ceil(100 / 24)
    assert party.changes == 100


def test_peers_that_agree_are_silent() -> None:
    party = Party(0, 1)
    for number in range(2, 12):
        party.node(0).learn(Owner(number).write("a", b"1"))
    party.link()
    party.run(30.0)
    party.sent.clear()
    party.run(10_000.0)
    assert party.agrees
    assert party.sent == {}


def test_equal_sums_do_not_go_back_and_forth() -> None:
    party = Party(0, 1)
    rumor = Owner(2).write("a", b"1")
    party.node(0).learn(rumor)
    party.node(1).learn(rumor)
    party.link()
    party.run(60.0)
    total = party.node(0).state.sum.to_bytes(16, "big")
    party.sent.clear()
    for _ in range(3):
        party.deliver(peer_id(1), [Send((peer_id(0),), StateDigest(total))])
        party.run(1.0)
    assert party.sent[StateDigest] <= 5, "three of the test, and one answer of each node"
    party.sent.clear()
    party.run(1000.0)
    assert party.sent == {}


def test_a_peer_that_repeats_its_sum_gets_ours() -> None:
    party = Party(0, 1)
    rumor = Owner(2).write("a", b"1")
    party.node(0).learn(rumor)
    party.node(1).learn(rumor)
    party.link()
    party.run(60.0)
    total = party.node(0).state.sum.to_bytes(16, "big")
    assert party.sync(0).handle(StateDigest(total), peer_id(1), party.now) == [
        Send((peer_id(1),), StateDigest(total))
    ]
    assert party.sync(0).handle(StateDigest(total), peer_id(1), party.now) == []


def test_both_get_what_only_the_other_has() -> None:
    party = Party(0, 1)
    party.node(0).learn(Owner(2).write("a", b"1"))
    party.node(1).learn(Owner(3).write("b", b"1"))
    owner = Owner(4)
    old, new = owner.write("c", b"1"), owner.write("c", b"2")
    party.node(0).learn(old)
    party.node(1).learn(old, new)
    party.link()
    party.run(2.0)
    assert party.agrees
    assert party.node(0).state.shared.get("c", 0.0) == b"2"


def test_a_deleted_key_does_not_return_from_a_node_that_was_away() -> None:
    party, owner = Party(0, 1), Owner(2)
    rumors = [owner.write("a", b"1"), owner.write("b", b"1")]
    party.node(0).learn(*rumors)
    party.node(1).learn(*rumors)
    party.node(0).learn(owner.delete("a"), owner.write("c", b"1", collected=(EPOCH, 3)))
    party.link()
    party.run(2.0)
    assert party.agrees
    for number in (0, 1):
        assert party.node(number).state.shared.values_of(owner.map.owner, 0.0) == {
            "b": b"1",
            "c": b"1",
        }


@pytest.mark.parametrize("bucket", [0, STATE_BUCKETS - 1])
def test_a_difference_in_the_first_or_the_last_bucket_is_found(bucket: int) -> None:
    number = next(each for each in range(2, 10_000) if peer_id(each)[0] == bucket)
    party = Party(0, 1)
    party.node(0).learn(Owner(number).write("a", b"1"))
    party.link()
    party.run(1.0)
    assert party.agrees


def test_only_heads_of_buckets_that_differ_are_sent() -> None:
    party = Party(0, 1)
    for number in range(2, 202):
        rumor = Owner(number).write("a", b"1")
        party.node(0).learn(rumor)
        party.node(1).learn(rumor)
    party.node(0).learn(Owner(300).write("a", b"1"))
    party.link()
    party.run(2.0)
    assert party.agrees
    heads = sum(len(each.heads) for each in party.log if isinstance(each, StateHeads))
    assert 1 <= heads < 20


def test_a_gap_is_requested_from_the_peer_that_sent_the_later_entry() -> None:
    """Without any comparison of sums."""
    party, owner = Party(0, 1), Owner(2)
    first, second = owner.write("a", b"1"), owner.write("b", b"2")
    party.link()
    party.node(0).learn(first, second)
    late, sync = party.node(1), party.sync(1)
    late.state.on_rumor(RumorCopy(second, 1, 0), (peer_id(0),), 0.0)
    assert late.state.shared.get("b", 0.0) is None
    assert sync.advance(0.29) == []
    assert sync.deadline == 0.3
    party.deliver(peer_id(1), sync.advance(0.3))
    assert late.state.shared.values_of(peer_id(2), 0.0) == {"a": b"1", "b": b"2"}
    assert StateDigest not in party.sent


def test_an_entry_from_a_peer_ends_when_it_ends_there() -> None:
    party, owner = Party(0, 1), Owner(2)
    party.node(0).learn(owner.write("a", b"1", ttl_s=60), now=100.0, age_ms=10_000)
    party.now = 120.0
    party.link()
    party.run(2.0)
    for number in (0, 1):
        shared = party.node(number).state.shared
        assert (shared.get("a", 149.5), shared.get("a", 150.5)) == (b"1", None)


def test_what_an_earlier_run_wrote_is_written_again_once_a_peer_sends_it() -> None:
    """This run has written already, so that its map cannot just be replaced."""
    party, earlier = Party(0, 1), Owner(0, epoch=EPOCH + 1)
    party.node(0).write("b", b"ours")
    party.node(1).learn(earlier.write("a", b"1"), earlier.write("b", b"2"))
    party.link()
    party.run(2.0)
    assert party.taken_back[:2] == [BumpEpoch(EPOCH + 1), WriteEntry("a", b"1")]
    assert party.node(0).state.shared.values_of(peer_id(0), 0.0) == {"b": b"ours"}


def test_a_map_that_came_and_went_since_the_last_announcement_is_not_announced() -> None:
    party = Party(0, 1)
    party.link()
    party.node(0).learn(Owner(2).write("a", b"1"))
    party.sync(0).advance(0.0)
    party.node(0).state.remove(peer_id(2))
    party.run(100.0)
    assert party.sent == {}


def messages_in(effects: list[Effect]) -> list[StateMessage]:
    """The messages of effects that only send."""
    assert all(isinstance(each, Send) for each in effects)
    return [each.message for each in effects if isinstance(each, Send)]  # type: ignore[misc]


def sent_until(sync: StateSync, until: float) -> list[tuple[float, StateMessage]]:
    """What a node sends of itself, with the times."""
    sent: list[tuple[float, StateMessage]] = []
    while (at := sync.deadline) < until:
        sent += [(at, each) for each in messages_in(sync.advance(at))]
    return sent


def test_what_is_lost_is_announced_again() -> None:
    party = Party(0, 1)
    party.node(0).learn(Owner(2).write("a", b"1"))
    party.lost = (StateDigest,)
    party.link()
    party.run(1.0)
    party.lost = ()
    assert not party.agrees
    party.run(35.0)
    assert party.agrees


def test_a_request_without_an_answer_goes_to_another_peer() -> None:
    party = Party(0, 1, 3)
    rumor = Owner(2).write("a", b"1")
    party.node(0).learn(rumor)
    party.node(3).learn(rumor)
    party.lost = (StateDelta,)
    party.link()
    party.run(1.0)
    party.lost = ()
    party.run(REQUEST_TIMEOUT_S + 0.1)
    assert party.agrees
    assert party.sent[StateRequest] == 2


def test_a_node_that_does_not_answer_hears_ever_less_of_us() -> None:
    party = Party(0, 1)
    party.node(0).learn(Owner(2).write("a", b"1"))
    sync = party.sync(0)
    sync.on_link_up(peer_id(1), 0.0)
    times = [at for at, _ in sent_until(sync, 5000.0)]
    pauses_s = [after - before for before, after in pairwise(times)]
    assert pauses_s[:7] == [30.0, 60.0, 120.0, 240.0, 480.0, 960.0, 960.0]


@pytest.mark.parametrize(("delay_s", "is_answered"), [(14.9, False), (15.0, True)])
def test_an_equal_sum_that_is_repeated_is_answered_once_in_15_seconds(
    delay_s: float, is_answered: bool
) -> None:
    party = Party(0, 1)
    party.node(0).learn(Owner(2).write("a", b"1"))
    sync = party.sync(0)
    sync.on_link_up(peer_id(1), 0.0)
    (ours,) = sync.advance(0.0)
    assert isinstance(ours, Send)
    assert isinstance(ours.message, StateDigest)
    assert sync.handle(ours.message, peer_id(1), 0.0) == []
    assert bool(sync.handle(ours.message, peer_id(1), delay_s)) is is_answered


def test_sums_are_compared_at_once_on_a_new_link_and_after_a_while_on_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    party = Party(0, 1)
    party.link()
    sync = party.sync(0)
    monkeypatch.setattr(sync._rng, "random", lambda: 0.5)
    for now, delay_s in ((10.0, 0.1), (20.0, 1.5)):
        differs = StateDigest((b"at %d" % now).ljust(16))
        assert sync.handle(differs, peer_id(1), now) == []
        assert sync.deadline == now + delay_s
        sync.handle(differs, peer_id(1), now + 0.05)
        assert sync.deadline == now + delay_s, "repeating it moves nothing"
        assert len(sync.advance(now + delay_s)) == 1
        assert sync.deadline == math.inf


def compares(sync: StateSync, theirs: bytes, peer: int = 1, now: float = 0.0) -> bool:
    """Whether a node asks its peer for heads after it sent this sum."""
    sync.handle(StateDigest(theirs), peer_id(peer), now)
    effects = sync.advance(now + 2.0)
    sent = [e.message for e in effects if isinstance(e, Send)]
    return any(isinstance(each, StateDigest) and each.buckets for each in sent)


@pytest.mark.parametrize(("age_s", "is_compared"), [(9.9, False), (10.0, True)])
def test_a_peer_whose_sum_was_ours_a_moment_ago_is_only_behind(
    age_s: float, is_compared: bool
) -> None:
    party, owner = Party(0, 1), Owner(2)
    party.link()
    sync = party.sync(0)
    party.node(0).learn(owner.write("a", b"1"))
    sync.advance(0.0)
    theirs = party.node(0).state.sum.to_bytes(16, "big")
    party.node(0).learn(owner.write("a", b"2"))
    sync.advance(50.0)
    assert compares(sync, theirs, now=50.0 + age_s - 2.0) is is_compared


@pytest.mark.parametrize(("is_answered", "pause_s"), [(False, 5.0), (True, 300.0)])
def test_sums_that_still_differ_are_compared_again_after_a_pause(
    is_answered: bool, pause_s: float
) -> None:
    for delay_s, is_repeated in ((pause_s - 0.1, False), (pause_s, True)):
        party = Party(0, 1)
        party.link()
        sync, theirs = party.sync(0), b"differs".ljust(16)
        assert compares(sync, theirs)
        if is_answered:
            assert sync.handle(StateHeads(False, bytes(32), ()), peer_id(1), 2.0) == []
        assert compares(sync, theirs, now=delay_s) is is_repeated
        assert compares(sync, b"another".ljust(16), now=delay_s + 2.0), "that is another difference"


def test_changes_are_announced_together_within_the_gossip_interval(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    party, owner = Party(0, 1), Owner(2)
    party.link()
    sync = party.sync(0)
    monkeypatch.setattr(sync._rng, "random", lambda: 0.5)
    interval_s = party.node(0).context.config.current.gossip_interval
    for number in range(2):
        party.node(0).learn(owner.write("a", b"%d" % number))
        assert sync.advance(0.0) == []
    assert sync.deadline == 0.75 * interval_s
    assert len(sync.advance(0.75 * interval_s)) == 1


def test_a_request_waits_three_seconds_for_the_next_part_and_thirty_for_the_last() -> None:
    party, owner = Party(0, 1), Owner(2)
    party.link()
    owner.write("missing", b"")
    request = requesting(party, peer_id(2)[:8])
    sync, part = party.sync(0), RumorCopy(owner.write("a", b"1"), 0, 0)
    assert sync.deadline == 3.0
    for now in range(2, 30, 2):
        sync.handle(StateDelta(request.number, False, (part,)), peer_id(1), float(now))
        assert sync.deadline == min(now + 3.0, 30.0)
    sync.advance(30.0)
    late = sync.handle(StateDelta(request.number, True, (part,)), peer_id(1), 30.0)
    assert late == [CountDrop(peer_id(1), DropReason.UNSOLICITED)]


def test_what_a_peer_was_asked_for_is_requested_from_another_once_its_link_has_closed() -> None:
    party = Party(0, 1, 3)
    party.link()
    sync, prefix = party.sync(0), peer_id(2)[:8]
    requesting(party, prefix)
    sync._peers[peer_id(3)].awaits_heads_until = math.inf
    heads = StateHeads(False, bytes(32), (StateHead(prefix, (EPOCH, 9), bytes(4)),))
    assert sync.handle(heads, peer_id(3), 0.0) == []
    sync.on_link_down(peer_id(1))
    (request,) = sync.handle(heads, peer_id(3), 0.1)
    assert request == Send((peer_id(3),), StateRequest(2, (StateWant(prefix, NO_VERSION),)))


@pytest.mark.usefixtures("patch_sources")
def test_a_comparison_that_brought_nothing_is_not_repeated_soon() -> None:
    party = Party(0, 1)
    party.node(0).learn(Owner(2).write("a", b"1"))
    party.node(1).state.is_gone = lambda prefix, version: True  # type: ignore[method-assign]
    party.link()
    party.run(FRUITLESS_PAUSE_S - 1.0)
    assert party.sent[StateHeads] == 1
    assert not party.agrees


# --- limits and malicious peers ---------------------------------------------------------------------


def test_heads_and_deltas_that_nobody_asked_for_are_dropped() -> None:
    party = Party(0, 1)
    party.link()
    head = StateHead(bytes(8), (EPOCH, 1), bytes(4))
    copy = RumorCopy(Owner(2).write("a", b"1"), 0, 0)
    for message in (
        StateHeads(False, bytes(32), (head,)),
        StateHeads(True, bytes(32), (head,)),
        StateDelta(1, True, (copy,)),
    ):
        effects = party.sync(0).handle(message, peer_id(1), 0.0)
        assert effects == [CountDrop(peer_id(1), DropReason.UNSOLICITED)]
    assert not party.sync(0)._wanted


def requesting(party: Party, *prefixes: bytes) -> StateRequest:
    """Node 0 has asked node 1 for heads, and requests these."""
    sync = party.sync(0)
    sync._peers[peer_id(1)].awaits_heads_until = math.inf
    heads = tuple(StateHead(each, (EPOCH, 9), bytes(4)) for each in prefixes)
    effects = sync.handle(StateHeads(False, bytes(32), heads), peer_id(1), 0.0)
    (request,) = [e.message for e in effects if isinstance(e, Send)]
    assert isinstance(request, StateRequest)
    return request


def test_a_forged_entry_ends_the_request_and_is_counted() -> None:
    party = Party(0, 1)
    party.link()
    rumor = Owner(2).write("a", b"1")
    request = requesting(party, rumor.origin[:8])
    forged = replace(rumor, body=b"2")
    delta = StateDelta(request.number, False, (RumorCopy(forged, 0, 0),))
    effects = party.sync(0).handle(delta, peer_id(1), 0.0)
    assert effects == [CountDrop(peer_id(1), DropReason.BAD_SIGNATURE)]
    assert not party.node(0).state.maps
    assert party.sync(0)._peers[peer_id(1)].request is None
    assert not party.sync(0)._wanted


def test_entries_of_an_owner_that_was_not_requested_are_dropped() -> None:
    party = Party(0, 1)
    party.link()
    request = requesting(party, peer_id(2)[:8])
    other = RumorCopy(Owner(3).write("a", b"1"), 0, 0)
    effects = party.sync(0).handle(StateDelta(request.number, False, (other,)), peer_id(1), 0.0)
    assert effects == [CountDrop(peer_id(1), DropReason.UNSOLICITED)]
    assert not party.node(0).state.maps


def test_a_peer_that_withholds_a_part_is_given_up_and_changes_nothing() -> None:
    party, owner = Party(0, 1), Owner(2)
    party.link()
    rumors = [owner.write("a", b"1"), owner.write("b", b"1")]
    request = requesting(party, rumors[0].origin[:8])
    for _ in range(module.FAILURES_LIMIT):
        part = StateDelta(request.number, True, (RumorCopy(rumors[1], 0, 0),))
        effects = party.sync(0).handle(part, peer_id(1), 0.0)
        requests = [e.message for e in effects if isinstance(e, Send)]
        if requests:
            request = requests[0]  # type: ignore[assignment]
            assert request.wants[0].above == NO_VERSION
    assert not requests
    assert not party.node(0).state.maps
    assert not party.sync(0)._wanted


def test_a_peer_gets_eight_replies_with_heads_and_one_more_each_second() -> None:
    party = Party(0, 1)
    party.node(0).learn(Owner(2).write("a", b"1"))
    party.link()
    limited = [
        CountDrop(peer_id(1), DropReason.RATE_LIMITED),
        Penalize(peer_id(1), Offense.REPEATED_REQUEST),
    ]

    def is_answered(now: float) -> bool:
        answer = party.sync(0).handle(StateDigest(bytes(16), bytes(1024)), peer_id(1), now)
        assert isinstance(answer[0], Send) or answer == limited
        return isinstance(answer[0], Send)

    assert [is_answered(0.0) for _ in range(9)] == [True] * 8 + [False]
    assert [is_answered(now) for now in (0.9, 1.0, 1.9, 2.0)] == [False, True, False, True]


def test_a_reply_has_at_most_2048_heads_in_whole_buckets() -> None:
    party = Party(0, 1)
    for number in range(2, 2200):
        party.node(0).learn(Owner(number).write("a", b""))
    party.link()
    effects = party.sync(0).handle(StateDigest(bytes(16), bytes(1024)), peer_id(1), 0.0)
    replies = [
        e.message for e in effects if isinstance(e, Send) and isinstance(e.message, StateHeads)
    ]
    largest_bucket = max(Counter(owner[0] for owner in party.node(0).state.maps).values())
    assert 2048 - largest_bucket <= sum(len(each.heads) for each in replies) <= 2048
    for each in replies:
        covered = int.from_bytes(each.covered, "big")
        owners = [o for o in party.node(0).state.maps if covered >> STATE_BUCKETS - 1 - o[0] & 1]
        assert {head.owner_prefix for head in each.heads} == {owner[:8] for owner in owners}


def test_heads_are_taken_until_five_seconds_after_the_sums_of_the_buckets() -> None:
    for delay_s, is_taken in ((4.9, True), (5.0, False)):
        party = Party(0, 1)
        party.link()
        sync = party.sync(0)
        sync.handle(StateDigest(b"differs".ljust(16)), peer_id(1), 0.0)
        asked_at = sync.deadline
        (ask,) = sync.advance(asked_at)
        assert isinstance(ask, Send)
        assert isinstance(ask.message, StateDigest)
        assert ask.message.buckets
        heads = StateHeads(False, bytes(32), (StateHead(bytes(8), (EPOCH, 1), bytes(4)),))
        effects = sync.handle(heads, peer_id(1), asked_at + delay_s)
        assert (CountDrop(peer_id(1), DropReason.UNSOLICITED) not in effects) is is_taken


def test_maps_that_are_wanted_are_limited() -> None:
    sync = Party(0, 1).sync(0)
    assert sync._wanted_limit == WANTED_LIMIT == 10_000
    sync._wanted_limit = 3
    for number in range(4):
        sync._want(bytes([number]) * 8, (EPOCH, 1), peer_id(1))
    assert len(sync._wanted) == 3


def test_a_reply_has_whole_maps_and_a_limited_size() -> None:
    party = Party(0, 1)
    wants = []
    for number in range(2, 26):
        owner = Owner(number)
        party.node(0).learn(*(owner.write(key, bytes(4000)) for key in "abcd"))
        wants.append(StateWant(peer_id(number)[:8], NO_VERSION))
    party.link()
    effects = party.sync(0).handle(StateRequest(7, tuple(wants)), peer_id(1), 0.0)
    deltas = [
        e.message for e in effects if isinstance(e, Send) and isinstance(e.message, StateDelta)
    ]
    assert [each.is_last for each in deltas] == [False] * (len(deltas) - 1) + [True]
    sizes = [sum(copy.rumor.size_bytes for copy in each.copies) for each in deltas]
    counts = Counter(copy.rumor.origin for each in deltas for copy in each.copies)
    assert set(counts.values()) == {4}
    assert sum(sizes) <= module.REPLY_BYTES
    assert max(sizes) <= module.DELTA_BYTES


def test_a_message_of_a_reply_has_at_most_48_copies() -> None:
    party, owner = Party(0, 1), Owner(2)
    party.node(0).learn(*(owner.write(f"k{number}", b"") for number in range(50)))
    party.link()
    request = StateRequest(7, (StateWant(peer_id(2)[:8], NO_VERSION),))
    effects = party.sync(0).handle(request, peer_id(1), 0.0)
    assert [len(e.message.copies) for e in effects if isinstance(e, Send)] == [48, 2]  # type: ignore[union-attr]


def test_a_peer_may_request_eight_mebibytes_and_one_more_each_second() -> None:
    party, owner = Party(0, 1), Owner(2)
    party.node(0).learn(*(owner.write(f"k{number}", bytes(4000)) for number in range(14)))
    party.link()

    def requested_bytes(now: float) -> int:
        request = StateRequest(7, (StateWant(peer_id(2)[:8], NO_VERSION),))
        effects = party.sync(0).handle(request, peer_id(1), now)
        copies = [copy for e in effects if isinstance(e, Send) for copy in e.message.copies]  # type: ignore[union-attr]
        return sum(copy.rumor.size_bytes for copy in copies)

    sizes = [requested_bytes(0.0) for _ in range(200)]
    assert sizes[0] > 56_000
    left_bytes = (8 << 20) - sum(sizes)
    assert 0 <= left_bytes < sizes[0]
    refilled_at = (sizes[0] - left_bytes) / (1 << 20)
    assert requested_bytes(refilled_at - 0.001) == 0
    assert requested_bytes(refilled_at + 0.001) == sizes[0]


def test_two_contents_of_one_version_freeze_a_map_until_its_owner_restarts() -> None:
    party = Party(0, 1)
    one, other = Owner(2), Owner(2)
    party.node(0).learn(one.write("a", b"1"))
    party.node(1).learn(other.write("a", b"2"))
    party.link()
    party.run(10.0)
    for number in (0, 1):
        (key,) = party.node(number).state.shared.keys("", 0.0)
        assert key.winner is not None
        assert key.winner.conflict
        assert party.node(number).state.conflicts == 1
    assert party.node(0).learn(one.write("a", b"3")) == []
    one.epoch, one.sequence = EPOCH + 1, 0
    (change,) = party.node(0).learn(one.write("a", b"4"))
    assert change.value == b"4"
    assert not party.node(0).state.maps[peer_id(2)].is_conflicted


def test_an_entry_that_is_held_is_not_verified_again() -> None:
    party, owner = Party(0, 1), Owner(2)
    rumor = owner.write("a", b"1")
    party.node(0).learn(rumor)
    sync = party.sync(0)
    before = sync._work.units
    held = party.node(0).state.maps[peer_id(2)].entries["a"]
    assert sync._authentic(entry_of(rumor)) is held
    assert sync._work.units == before


# --- heads ------------------------------------------------------------------------------------------


def fill_bucket(node: Learner, bucket: int, count: int) -> None:
    """The node has `count` maps of owners whose IDs begin with this byte."""
    for number in range(count):
        owner_map = OwnerMap(PeerId(bytes([bucket]) + number.to_bytes(31, "little")))
        owner_map.version = (EPOCH, 1)
        node.state.maps[owner_map.owner] = owner_map
    node.state.bucket_sums[bucket] = 1


def covered_buckets(heads: StateMessage) -> list[int]:
    assert isinstance(heads, StateHeads)
    covered = int.from_bytes(heads.covered, "big")
    return [each for each in range(STATE_BUCKETS) if covered >> STATE_BUCKETS - 1 - each & 1]


def comparing(*others: int) -> Party:
    """Node 0 has just sent the sums of its buckets to node 1 and these."""
    party = Party(0, 1, *others)
    party.link()
    sync = party.sync(0)
    for each in (1, *others):
        assert compares(sync, b"differs".ljust(16), each)
    return party


def heads_of(*maps: OwnerMap, covered: int = 0, is_reply: bool = False) -> StateHeads:
    heads = tuple(module._head_of(each) for each in maps)
    return StateHeads(is_reply, covered.to_bytes(32, "big"), heads)


def delta_of(number: int, *rumors: Rumor, is_last: bool = True) -> StateDelta:
    return StateDelta(number, is_last, tuple(RumorCopy(each, 0, 0) for each in rumors))


def test_a_comparison_states_the_lowest_four_bytes_of_each_sum() -> None:
    party = Party(0, 1)
    party.link()
    sums = party.node(0).state.bucket_sums
    sums[0], sums[255] = (1 << 128) - 1, 0xFF_80_00_00_01
    sync = party.sync(0)
    sync.handle(StateDigest(b"differs".ljust(16)), peer_id(1), 0.0)
    (ask,) = messages_in(sync.advance(sync.deadline))
    assert isinstance(ask, StateDigest)
    assert ask.buckets == b"\xff" * 4 + bytes(254 * 4) + b"\x80\x00\x00\x01"


@pytest.mark.parametrize(
    ("counts", "messages"),
    [
        ((200, 312), [(512, 2)]),
        ((200, 313), [(200, 1), (313, 1)]),
        ((512,), [(512, 1)]),
        ((513,), [(512, 0)]),
        ((3000,), [(512, 0)]),
        ((512, 512, 512, 512), [(512, 1)] * 4),
        ((512, 512, 512, 512, 512), [(512, 1)] * 4),
    ],
)
def test_a_message_has_the_heads_of_whole_buckets_up_to_512(
    counts: tuple[int, ...], messages: list[tuple[int, int]]
) -> None:
    """`messages`: the number of heads of each, and of buckets that it covers."""
    party = Party(0, 1)
    party.link()
    for bucket, count in enumerate(counts):
        fill_bucket(party.node(0), bucket, count)
    asks = StateDigest(b"differs".ljust(16), bytes(1024))
    replies = messages_in(party.sync(0).handle(asks, peer_id(1), 0.0))
    sizes = [(len(each.heads), len(covered_buckets(each))) for each in replies]  # type: ignore[union-attr]
    assert sorted(sizes) == messages


def test_a_bucket_that_makes_2049_heads_waits_for_the_next_reply() -> None:
    party = Party(0, 1)
    party.link()
    for bucket, count in enumerate((512, 512, 512, 512, 1)):
        fill_bucket(party.node(0), bucket, count)
    asks = StateDigest(b"differs".ljust(16), bytes(1024))
    replies = messages_in(party.sync(0).handle(asks, peer_id(1), 0.0))
    assert sum(len(covered_buckets(each)) for each in replies) == 4


def test_a_reply_with_heads_costs_a_step_for_four_buckets_or_maps() -> None:
    party = Party(0, 1)
    party.link()
    fill_bucket(party.node(0), 0, 400)
    sync = party.sync(0)
    before = sync._work.units
    sync.handle(StateDigest(b"differs".ljust(16), bytes(1024)), peer_id(1), 0.0)
    assert sync._work.units - before == (256 + 400) // 4


@pytest.mark.parametrize(("delay_s", "is_taken"), [(4.9, True), (5.0, False)])
def test_heads_in_reply_to_ours_are_taken_for_five_seconds(delay_s: float, is_taken: bool) -> None:
    party = Party(0, 1)
    party.node(0).learn(Owner(2).write("a", b"1"))
    party.link()
    sync = party.sync(0)
    assert messages_in(sync.handle(StateDigest(bytes(16), bytes(1024)), peer_id(1), 10.0))
    effects = sync.handle(StateHeads(True, bytes(32), ()), peer_id(1), 10.0 + delay_s)
    assert effects == ([] if is_taken else [CountDrop(peer_id(1), DropReason.UNSOLICITED)])


def test_heads_of_a_peer_are_answered_with_ours_that_are_newer_or_that_it_lacks() -> None:
    party = comparing()
    node, older, lacking, same, elsewhere = party.node(0), Owner(2), Owner(3), Owner(4), Owner(5)
    stale = Owner(2)
    stale.write("a", b"1")
    node.learn(older.write("a", b"1"), older.write("a", b"2"))
    for owner in (lacking, same, elsewhere):
        node.learn(owner.write("a", b"1"))
    buckets = {peer_id(number)[0] for number in (2, 3, 4, 5)}
    assert len(buckets) == 4
    covered = sum(1 << STATE_BUCKETS - 1 - peer_id(number)[0] for number in (3, 4))
    heads = heads_of(stale.map, same.map, covered=covered)
    before = party.sync(0)._work.units
    (reply,) = messages_in(party.sync(0).handle(heads, peer_id(1), 2.0))
    assert party.sync(0)._work.units - before == 2, "a step for each head"
    assert reply == heads_of(node.state.maps[peer_id(2)], lacking.map, is_reply=True)


def test_replies_to_heads_have_up_to_512_heads_a_message() -> None:
    party = comparing()
    fill_bucket(party.node(0), 0, 513)
    heads = heads_of(covered=1 << STATE_BUCKETS - 1)
    replies = messages_in(party.sync(0).handle(heads, peer_id(1), 2.0))
    assert [(len(each.heads), each.is_reply) for each in replies] == [(512, True), (1, True)]  # type: ignore[union-attr]


def test_heads_that_answer_ours_are_not_answered_with_heads() -> None:
    party, owner = Party(0, 1), Owner(2)
    stale = Owner(2)
    stale.write("a", b"1")
    party.node(0).learn(owner.write("a", b"1"), owner.write("a", b"2"))
    party.link()
    sync = party.sync(0)
    sync.handle(StateDigest(bytes(16), bytes(1024)), peer_id(1), 0.0)
    heads = heads_of(stale.map, covered=(1 << 256) - 1, is_reply=True)
    assert sync.handle(heads, peer_id(1), 0.1) == []


def test_another_content_of_one_version_is_proved_and_requested_whole() -> None:
    party, one, other = comparing(), Owner(2), Owner(2)
    party.node(0).learn(one.write("a", b"1"))
    other.write("a", b"2")
    sync = party.sync(0)
    ours, request = messages_in(sync.handle(heads_of(other.map), peer_id(1), 2.0))
    assert ours == heads_of(party.node(0).state.maps[peer_id(2)], is_reply=True)
    assert request == StateRequest(1, (StateWant(peer_id(2)[:8], NO_VERSION),))


def test_a_map_that_is_frozen_is_not_compared_again() -> None:
    party, one, other = comparing(), Owner(2), Owner(2)
    party.node(0).learn(one.write("a", b"1"))
    party.node(0).state.on_conflict(other.write("a", b"2"))
    assert party.sync(0).handle(heads_of(other.map), peer_id(1), 2.0) == []


@pytest.mark.parametrize("has_newer", [True, False])
def test_a_comparison_that_brought_something_is_repeated_after_five_seconds(
    has_newer: bool,
) -> None:
    """Heads that the peer lacks, or a map that this node requests."""
    party, owner = comparing(), Owner(2)
    sync = party.sync(0)
    rumor = owner.write("a", b"1")
    if has_newer:
        party.node(0).learn(rumor)
        sync.advance(0.0)
    assert compares(sync, b"another".ljust(16), now=10.0)
    heads = heads_of(covered=(1 << 256) - 1) if has_newer else heads_of(owner.map)
    assert len(messages_in(sync.handle(heads, peer_id(1), 12.0))) == 1
    assert compares(sync, b"another".ljust(16), now=15.0)


# --- sums -------------------------------------------------------------------------------------------


def test_sums_that_became_equal_in_the_meantime_are_not_compared() -> None:
    party, owner = Party(0, 1), Owner(2)
    party.link()
    sync, node = party.sync(0), party.node(0)
    rumor = owner.write("a", b"1")
    ahead = Learner(1)
    ahead.learn(rumor)
    theirs = ahead.state.sum.to_bytes(16, "big")
    sync.handle(StateDigest(theirs), peer_id(1), 0.0)
    node.learn(rumor)
    assert [each for _, each in sent_until(sync, 20.0)] == [StateDigest(theirs)]


def test_a_first_sum_that_equals_ours_is_not_answered() -> None:
    party, owner = Party(0, 1), Owner(2)
    party.node(0).learn(owner.write("a", b"1"))
    party.link()
    sync = party.sync(0)
    (ours,) = messages_in(sync.advance(0.0))
    assert sync.handle(ours, peer_id(1), 20.0) == []
    assert sent_until(sync, 1000.0) == []


def test_a_repeated_sum_is_not_answered_while_ours_is_about_to_be_announced() -> None:
    party, owner = Party(0, 1), Owner(2)
    party.link()
    sync = party.sync(0)
    party.node(0).learn(owner.write("a", b"1"))
    ours = StateDigest(party.node(0).state.sum.to_bytes(16, "big"))
    for _ in range(2):
        assert sync.handle(ours, peer_id(1), 20.0) == []


def test_only_the_64_latest_sums_are_remembered() -> None:
    for learned, is_compared in ((64, False), (65, True)):
        party, owner = Party(0, 1), Owner(2)
        party.link()
        sync = party.sync(0)
        party.node(0).learn(owner.write("a", b"first"))
        sync.advance(0.0)
        first = party.node(0).state.sum.to_bytes(16, "big")
        for number in range(learned):
            party.node(0).learn(owner.write("a", b"%d" % number))
            sync.advance(0.0)
        assert compares(sync, first) is is_compared


def test_a_sum_of_zero_is_not_announced_again() -> None:
    """After the only map that was announced went: a peer without entries sends no sum."""
    party = Party(0, 1)
    party.node(0).learn(Owner(2).write("a", b"1"))
    sync = party.sync(0)
    sync.on_link_up(peer_id(1), 0.0)
    sync.advance(0.0)
    party.node(0).state.remove(peer_id(2))
    assert [each for _, each in sent_until(sync, 1000.0)] == [StateDigest(bytes(16))]


def test_a_sum_that_a_peer_has_already_is_announced_once() -> None:
    party, owner = Party(0, 1), Owner(2)
    party.link()
    rumor = owner.write("a", b"1")
    ahead = Learner(1)
    ahead.learn(rumor)
    sync = party.sync(0)
    sync.handle(StateDigest(ahead.state.sum.to_bytes(16, "big")), peer_id(1), 0.0)
    party.node(0).learn(rumor)
    ours = StateDigest(ahead.state.sum.to_bytes(16, "big"))
    assert [each for _, each in sent_until(sync, 1000.0)] == [ours]


def test_a_peer_that_is_heard_again_gets_our_sum_every_30_seconds_again() -> None:
    party, owner = Party(0, 1), Owner(2)
    party.node(0).learn(owner.write("a", b"1"))
    sync = party.sync(0)
    sync.on_link_up(peer_id(1), 0.0)
    assert [at for at, _ in sent_until(sync, 100.0)] == [0.0, 30.0, 90.0]
    sync.handle(StateDigest(b"differs".ljust(16)), peer_id(1), 100.0)
    sync.advance(102.0)
    assert [at for at, _ in sent_until(sync, 320.0)] == [210.0, 240.0, 300.0]


# --- requests ---------------------------------------------------------------------------------------


def test_a_request_names_up_to_24_maps_and_a_peer_gets_one_at_a_time() -> None:
    party = comparing()
    owners = [Owner(number) for number in range(2, 27)]
    rumors = [each.write("a", b"1") for each in owners]
    sync, heads = party.sync(0), heads_of(*(each.map for each in owners))
    (request,) = messages_in(sync.handle(heads, peer_id(1), 2.0))
    prefixes = [owner.map.owner[:8] for owner in owners]
    assert request == StateRequest(1, tuple(StateWant(each, NO_VERSION) for each in prefixes[:24]))
    assert sync.handle(heads, peer_id(1), 2.0) == []
    effects = sync.handle(delta_of(1, *rumors[:24]), peer_id(1), 2.0)
    requests = messages_in([each for each in effects if isinstance(each, Send)])
    assert requests == [StateRequest(2, (StateWant(prefixes[24], NO_VERSION),))]


def test_a_map_is_requested_from_one_peer_at_a_time_and_others_are_requested_meanwhile() -> None:
    party, first, second = comparing(3), Owner(2), Owner(4)
    first.write("a", b"1")
    second.write("a", b"1")
    sync = party.sync(0)
    sync.handle(heads_of(first.map), peer_id(1), 2.0)
    (send,) = sync.handle(heads_of(first.map, second.map), peer_id(3), 2.0)
    want = StateWant(peer_id(4)[:8], NO_VERSION)
    assert send == Send((peer_id(3),), StateRequest(2, (want,)))


def test_a_version_that_another_peer_has_is_requested_from_it_after_an_older_one() -> None:
    party, owner = comparing(3), Owner(2)
    old = owner.write("a", b"1")
    sync = party.sync(0)
    sync.handle(heads_of(owner.map), peer_id(1), 2.0)
    owner.write("a", b"2")
    sync.handle(heads_of(owner.map), peer_id(3), 2.0)
    effects = sync.handle(delta_of(1, old), peer_id(1), 2.0)
    want = StateWant(peer_id(2)[:8], NO_VERSION)
    assert effects[-1] == Send((peer_id(1),), StateRequest(2, (want,)))
    (send,) = sync.handle(delta_of(2), peer_id(1), 2.0)
    assert send == Send((peer_id(3),), StateRequest(3, (want,)))


def test_each_source_of_a_map_has_two_replies_to_bring_it() -> None:
    party, owner = comparing(3), Owner(2)
    owner.write("a", b"1")
    sync = party.sync(0)
    effects = sync.handle(heads_of(owner.map), peer_id(1), 2.0)
    sync.handle(heads_of(owner.map), peer_id(3), 2.0)
    asked: list[PeerId] = []
    while effects:
        (send,) = effects
        assert isinstance(send, Send)
        asked += send.peers
        effects = sync.handle(delta_of(len(asked)), send.peers[0], 2.0)
    assert asked == [peer_id(1), peer_id(1), peer_id(3), peer_id(3)]


def test_a_reply_that_does_not_come_costs_a_source_at_once() -> None:
    party, owner = comparing(3), Owner(2)
    owner.write("a", b"1")
    sync = party.sync(0)
    for each in (1, 3):
        sync.handle(heads_of(owner.map), peer_id(each), 2.0)
    want = StateWant(peer_id(2)[:8], NO_VERSION)
    assert sync.deadline == 5.0
    assert sync.advance(5.0) == [Send((peer_id(3),), StateRequest(2, (want,)))]
    assert sent_until(sync, 30.0) == []


def test_a_map_that_had_no_room_in_a_reply_is_requested_again_as_before() -> None:
    party, first, second = comparing(), Owner(2), Owner(3)
    rumor = first.write("a", b"1")
    party.node(0).learn(second.write("a", b"1"))
    second.write("a", b"2")
    sync = party.sync(0)
    sync.handle(heads_of(first.map, second.map), peer_id(1), 2.0)
    effects = sync.handle(delta_of(1, rumor), peer_id(1), 2.0)
    want = StateWant(peer_id(3)[:8], (EPOCH, 1))
    assert effects[-1] == Send((peer_id(1),), StateRequest(2, (want,)))


def test_a_map_that_came_in_parts_beside_a_whole_one_is_requested_whole() -> None:
    party, first, second = comparing(), Owner(2), Owner(3)
    rumor = first.write("a", b"1")
    party.node(0).learn(second.write("a", b"1"))
    second.write("b", b"2")
    part = second.write("c", b"3")
    sync = party.sync(0)
    sync.handle(heads_of(first.map, second.map), peer_id(1), 2.0)
    effects = sync.handle(delta_of(1, rumor, part), peer_id(1), 2.0)
    want = StateWant(peer_id(3)[:8], NO_VERSION)
    assert effects[-1] == Send((peer_id(1),), StateRequest(2, (want,)))


def test_a_map_that_goes_on_growing_while_it_arrives_is_taken_in_each_version() -> None:
    party, owner = comparing(), Owner(2)
    first = owner.write("a", b"1")
    sync = party.sync(0)
    sync.handle(heads_of(owner.map), peer_id(1), 2.0)
    sync.handle(delta_of(1, first, is_last=False), peer_id(1), 2.0)
    assert len(sync.handle(delta_of(1, owner.write("a", b"2")), peer_id(1), 2.0)) == 1
    assert party.node(0).state.shared.get("a", 0.0) == b"2"


def test_a_peer_whose_link_closed_is_no_source_and_leaves_room_for_another() -> None:
    numbers = (3, 4, 5, 6)
    party, owner = comparing(*numbers), Owner(2)
    owner.write("a", b"1")
    sync = party.sync(0)
    for number in (1, 3, 4, 5, 6):
        effects = sync.handle(heads_of(owner.map), peer_id(number), 2.0)
        assert bool(effects) is (number == 1)
    assert list(sync._wanted[peer_id(2)[:8]].sources) == [peer_id(each) for each in (1, 3, 4, 5)]
    for number in (1, 3, 4, 5):
        sync.on_link_down(peer_id(number))
    assert not sync._wanted
    assert len(sync.handle(heads_of(owner.map), peer_id(6), 2.1)) == 1


def test_each_gap_is_requested_after_its_own_wait() -> None:
    party = Party(0, 1)
    party.link()
    for number, now in ((2, 0.0), (3, 0.2)):
        owner = Owner(number)
        owner.write("a", b"1")
        late = RumorCopy(owner.write("b", b"2"), 1, 0)
        party.node(0).state.on_rumor(late, (peer_id(1),), now)
    (request,) = messages_in(party.sync(0).advance(0.3))
    assert request == StateRequest(1, (StateWant(peer_id(2)[:8], NO_VERSION),))
    assert party.sync(0).deadline == 0.5


def test_a_gap_whose_source_has_no_link_is_not_requested() -> None:
    party, owner = Party(0, 1), Owner(2)
    party.link()
    owner.write("a", b"1")
    second = owner.write("b", b"2")
    party.node(0).state.on_rumor(RumorCopy(second, 1, 0), (peer_id(9),), 0.0)
    assert party.sync(0).advance(0.3) == []
    assert party.sync(0).deadline == math.inf
    assert not party.sync(0)._wanted


# --- replies ----------------------------------------------------------------------------------------


def copies_for(party: Party, *wants: StateWant, now: float = 0.0) -> list[tuple[RumorCopy, ...]]:
    """The copies in each message with which node 0 replies to a request."""
    replies = messages_in(party.sync(0).handle(StateRequest(7, wants), peer_id(1), now))
    assert [each.is_last for each in replies] == [False] * (len(replies) - 1) + [True]  # type: ignore[union-attr]
    return [each.copies for each in replies]  # type: ignore[union-attr]


def sized(owner: Owner, key: str, size_bytes: int) -> Rumor:
    """A rumor that counts as many bytes."""
    overhead = owner.signed(key, bytes(1000)).size_bytes - 1000
    owner.sequence -= 1
    rumor = owner.write(key, bytes(size_bytes - overhead))
    assert rumor.size_bytes == size_bytes
    return rumor


@pytest.mark.parametrize(("extra_bytes", "sizes"), [(0, [8, 1]), (1, [7, 2])])
def test_a_message_of_a_reply_has_copies_of_up_to_24_kibibytes(
    extra_bytes: int, sizes: list[int]
) -> None:
    party, owner = Party(0, 1), Owner(2)
    rumors = [sized(owner, "abcdefgh"[number], 3072) for number in range(7)]
    rumors += [sized(owner, "h", 3072 + extra_bytes), sized(owner, "i", 1024)]
    party.node(0).learn(*rumors)
    party.link()
    copies = copies_for(party, StateWant(peer_id(2)[:8], NO_VERSION))
    assert [len(each) for each in copies] == sizes


@pytest.mark.parametrize(("extra_bytes", "sent"), [(0, {2: 12, 3: 4}), (1, {2: 12, 4: 1})])
def test_a_reply_has_maps_of_up_to_64_kibibytes_and_skips_one_that_does_not_fit(
    extra_bytes: int, sent: dict[int, int]
) -> None:
    party = Party(0, 1)
    party.link()
    for number, count in ((2, 12), (3, 3)):
        owner = Owner(number)
        party.node(0).learn(*(sized(owner, f"k{each:02}", 4096) for each in range(count)))
    party.node(0).learn(sized(owner, "k99", 4096 + extra_bytes), Owner(4).write("a", b"1"))
    wants = [StateWant(peer_id(number)[:8], NO_VERSION) for number in (9, 2, 3, 4)]
    copies = copies_for(party, *wants)
    origins = Counter(each.rumor.origin for part in copies for each in part)
    assert origins == {peer_id(number): count for number, count in sent.items()}


def test_a_map_that_is_larger_than_a_reply_is_sent_whole_and_alone() -> None:
    party = Party(0, 1)
    party.link()
    owner = Owner(2)
    party.node(0).learn(*(sized(owner, f"k{each:02}", 4200) for each in range(16)))
    party.node(0).learn(Owner(4).write("a", b"1"))
    large, small = (StateWant(peer_id(number)[:8], NO_VERSION) for number in (2, 4))
    assert sum(map(len, copies_for(party, large, small))) == 16
    assert sum(map(len, copies_for(party, small, large))) == 1


def test_a_request_for_maps_that_are_not_here_is_answered_and_costs_nothing() -> None:
    party = Party(0, 1)
    party.link()
    sync = party.sync(0)
    before = sync._work.units
    for _ in range(200):
        assert copies_for(party, StateWant(peer_id(2)[:8], NO_VERSION)) == [()]
    assert sync._work.units == before


def test_a_reply_says_how_old_its_entries_are_and_counts_its_work() -> None:
    party, owner = Party(0, 1), Owner(2)
    party.link()
    rumors = [sized(owner, "abcdefghijkl"[number], 2048) for number in range(12)]
    party.node(0).learn(*rumors, now=10.0)
    want, sync = StateWant(peer_id(2)[:8], NO_VERSION), party.sync(0)
    before = sync._work.units
    for now, age_ms in ((12.5, 2500), (10.0, 0), (9.0, 0)):
        ((first, *_),) = copies_for(party, want, now=now)
        assert (first.hops, first.age_ms) == (0, age_ms)
    assert sync._work.units - before == 3 * (12 // 4 + 24 * 2)


# --- entries ----------------------------------------------------------------------------------------


def test_a_reply_to_another_request_is_dropped() -> None:
    party, owner = Party(0, 1), Owner(2)
    party.link()
    request = requesting(party, peer_id(2)[:8])
    effects = party.sync(0).handle(
        delta_of(request.number + 1, owner.write("a", b"1")), peer_id(1), 0.0
    )
    assert effects == [CountDrop(peer_id(1), DropReason.UNSOLICITED)]


def test_a_rumor_without_an_entry_is_dropped_and_the_entries_beside_it_are_taken() -> None:
    party, owner = comparing(), Owner(2)
    rumor = owner.write("a", b"1")
    sync = party.sync(0)
    sync.handle(heads_of(owner.map), peer_id(1), 2.0)
    bare = Rumor.signed(identity(2), "default", EPOCH, 9, (b"a broadcast",))
    drop, *_ = sync.handle(delta_of(1, bare, rumor), peer_id(1), 2.0)
    assert drop == CountDrop(peer_id(1), DropReason.UNSOLICITED)
    assert party.node(0).state.shared.get("a", 0.0) == b"1"


def test_an_entry_of_a_reply_is_as_old_as_the_reply_says() -> None:
    party, owner = comparing(), Owner(2)
    rumor = owner.write("a", b"1", ttl_s=100)
    sync = party.sync(0)
    sync.handle(heads_of(owner.map), peer_id(1), 2.0)
    sync.handle(StateDelta(1, True, (RumorCopy(rumor, 0, 42_000),)), peer_id(1), 2.0)
    shared = party.node(0).state.shared
    assert (shared.get("a", 59.999), shared.get("a", 60.0)) == (b"1", None)


@pytest.mark.parametrize(("count", "is_looked_at"), [(1023, True), (1024, False)])
def test_no_more_entries_are_looked_at_than_a_map_can_have(count: int, is_looked_at: bool) -> None:
    party, owner = Party(0, 1), Owner(2)
    party.link()
    request = requesting(party, peer_id(2)[:8])
    owner.write("missing", b"")
    rumors = [owner.signed("a", b"") for _ in range(count)]
    forged = replace(owner.signed("a", b"1"), signature=bytes(64))
    effects = party.sync(0).handle(delta_of(request.number, *rumors, forged), peer_id(1), 0.0)
    bad = CountDrop(peer_id(1), DropReason.BAD_SIGNATURE)
    assert (bad in effects) is is_looked_at


def test_a_copy_of_an_entry_that_is_held_is_verified_unless_all_of_it_is_the_same() -> None:
    party, owner = Party(0, 1), Owner(2)
    rumor = owner.write("a", b"1")
    party.node(0).learn(rumor)
    sync = party.sync(0)
    for forged in (replace(rumor, signature=bytes(64)), replace(rumor, body=b"2")):
        before = sync._work.units
        assert sync._authentic(entry_of(forged)) is None
        assert sync._work.units - before == 60
