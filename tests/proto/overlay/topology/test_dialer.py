"""The dialer: what it dials, in which order, how often and how many at once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from grapevine_proto.dial_purpose import LINK, NEIGHBOR, swap
from grapevine_proto.errors import DropReason
from grapevine_proto.events import DialFailed, MemberStatus, PeerState
from grapevine_proto.ids import Address, PeerId
from grapevine_proto.overlay.effects import Dial, Effect, Emit, PeerTransitioned
from grapevine_proto.overlay.members import Member
from grapevine_proto.overlay.peers import Peer, PeerTrigger
from grapevine_proto.overlay.topology.active_view import ActiveView
from grapevine_proto.overlay.topology.dialer import Dialer, format_dial_failure
from grapevine_proto.overlay.topology.vivaldi import Coordinates
from grapevine_proto.overlay.topology.xbot import ProximityOptimizer, SwapCandidate
from grapevine_proto.wire.signed import PeerRecord
from tests.proto.overlay.builders import Links, config, context, peer_id, record

OURS = Address("10.0.0.200", 8000)
NO_ANSWER = "no answer: down, or another key or cluster"


def address_of(number: int) -> Address:
    return record(number).addresses[0]


def bootstrap(number: int) -> Address:
    return Address("10.9.9.9", 1000 + number)


class DialingNode:
    """A node that knows `members` and is linked to `linked`; every random fraction is `drawn`."""

    def __init__(
        self,
        *,
        members: int = 0,
        linked: int = 0,
        boot: int = 0,
        drawn: float = 0.5,
        **changes: object,
    ) -> None:
        known = tuple(str(bootstrap(number)) for number in range(boot))
        node = context(**{"bootstrap_peers": known} | changes)
        self.peers, self.members, self.config = node.peers, node.members, node.config
        node.rng.random = lambda: drawn  # type: ignore[method-assign]
        self.view = ActiveView(node, Links())
        self.proximity = ProximityOptimizer(node, self.view, Links(), 0.0, Coordinates(node.our_id))
        self.dialer = Dialer(node, self.view, self.proximity, OURS, 0.0)
        for number in range(members):
            self.members.add(record(number), peer_id(number), 0.0)
        for number in range(linked):
            self.link(number)

    def member(self, number: int) -> Member:
        member = self.members.get(peer_id(number))
        assert member is not None
        return member

    def peer(self, number: int) -> Peer:
        peer = self.peers.get(peer_id(number))
        assert peer is not None
        return peer

    def link(self, number: int, now: float = 0.0) -> None:
        """A link at a validated address."""
        self.members.ensure(record(number), now, address_of(number))
        peer = self.peers.add(peer_id(number), record(number), address_of(number), now)
        self.peers.transition(peer, PeerTrigger.LINKED)
        peer.linked_at = peer.last_heard_at = now
        peer.is_address_validated = True

    def unlink(self, number: int) -> None:
        self.peers.transition(self.peer(number), PeerTrigger.LOST)

    def hear_all(self, now: float) -> None:
        for peer in self.peers:
            peer.last_heard_at = now

    def dials(self, now: float) -> list[Dial]:
        """The dials that are due while all links work."""
        self.hear_all(now)
        return dials_of(self.dialer.dial_due(now))

    def dialed(self, now: float) -> list[Address]:
        return [dial.address for dial in self.dials(now)]

    def end_all(self, now: float) -> None:
        """All dials in progress end without an answer, and without consequence for their targets."""
        for address, expected in list(self.dialer._in_progress):
            self.dialer._end_dial((address, expected), now, is_answered=False)

    def fail(self, number: int, now: float, reason: DropReason | None = None) -> list[Effect]:
        """The dial of a bootstrap address fails."""
        return self.dialer.on_failed(bootstrap(number), None, reason, now)


def dials_of(effects: list[Effect]) -> list[Dial]:
    return [effect for effect in effects if isinstance(effect, Dial)]


# --- bootstrap addresses ------------------------------------------------------------------------


def test_bootstrap_addresses_are_dialed_at_once_with_a_request_for_room() -> None:
    node = DialingNode(boot=2)
    assert node.dials(0.0) == [
        Dial(bootstrap(0), None, NEIGHBOR, None),
        Dial(bootstrap(1), None, NEIGHBOR, None),
    ]
    assert node.dials(0.5) == [], "they are in progress"


def test_with_enough_links_a_bootstrap_address_that_answered_before_gets_no_request_for_room() -> (
    None
):
    node = DialingNode(boot=2, members=60, linked=9, max_peers=10)
    node.dialer.on_answered(bootstrap(0), None, peer_id(99), 0.0)
    purposes = {dial.address: dial.purpose for dial in node.dials(1000.0)}
    assert purposes[bootstrap(0)] == LINK
    assert purposes[bootstrap(1)] == NEIGHBOR


def test_a_failed_bootstrap_address_backs_off_to_twenty_seconds_and_reports_once() -> None:
    for drawn, fraction in [(0.0, 0.5), (1.0, 1.0)]:
        node = DialingNode(boot=1, drawn=drawn)
        now = 0.0
        for failures, pause_s in enumerate([2.0, 4.0, 8.0, 16.0, 20.0, 20.0]):
            assert node.dialed(now) == [bootstrap(0)]
            effects = node.fail(0, now)
            assert effects == ([] if failures else [Emit(DialFailed(bootstrap(0), NO_ANSWER))])
            assert node.dialed(now + fraction * pause_s - 0.01) == []
            now += fraction * pause_s


def test_an_answer_starts_the_back_off_and_the_reports_again() -> None:
    node = DialingNode(boot=1)
    for _ in range(3):
        node.fail(0, 0.0)
    node.dialer.on_answered(bootstrap(0), None, peer_id(5), 100.0)
    assert len(node.fail(0, 200.0)) == 1
    assert node.dialer._targets[bootstrap(0)].dial_at == 200.0 + 2.0 * 0.75


def test_a_failure_for_an_expected_peer_says_nothing_about_the_address() -> None:
    node = DialingNode(boot=1)
    assert node.dialer.on_failed(bootstrap(0), peer_id(4), DropReason.WRONG_PEER, 0.0) == []
    assert node.dialer.on_failed(bootstrap(7), None, None, 0.0) == []
    assert node.dialed(0.0) == [bootstrap(0)]


def test_our_own_address_among_the_bootstrap_addresses_is_not_dialed_again() -> None:
    node = DialingNode(boot=1)
    node.dials(0.0)
    node.fail(0, 0.0, DropReason.SELF_DIAL)
    assert node.dials(1000.0) == []
    node.fail(0, 1000.0)  # another node is there now
    assert node.dialed(2000.0) == [bootstrap(0)]


def test_bootstrap_addresses_never_dialed_come_first_then_those_that_waited_longest() -> None:
    node = DialingNode(boot=4)
    for number, at in [(2, 6.0), (0, 5.0), (3, 1.0)]:
        node.fail(number, at)
    assert node.dialed(100.0) == [bootstrap(1), bootstrap(3), bootstrap(0), bootstrap(2)]


def test_at_most_sixteen_dials_await_an_answer() -> None:
    node = DialingNode(boot=40)
    assert len(node.dials(0.0)) == 16
    assert node.dials(0.99) == []
    assert len(node.dials(1.0)) == 16, "those before may be answered late"


def test_dials_have_a_burst_of_sixty_four_and_two_a_second_after_that() -> None:
    node = DialingNode(boot=300)
    counts = [len(node.dials(float(second))) for second in range(12)]
    assert sum(counts[:4]) == 64
    assert counts[4:] == [8, 2, 2, 2, 2, 2, 2, 2], "eight seconds' worth have gathered meanwhile"


def test_a_linked_address_is_not_dialed() -> None:
    node = DialingNode(boot=1)
    node.dialer._targets[address_of(3)] = node.dialer._targets.pop(bootstrap(0))
    node.link(3)
    assert node.dials(0.0) == []
    node.unlink(3)
    assert node.dialed(0.0) == [address_of(3)]


def test_settings_that_change_add_and_remove_bootstrap_addresses() -> None:
    node = DialingNode(boot=2)
    node.dialer.on_answered(bootstrap(1), None, peer_id(5), 0.0)
    node.config.replace(config(bootstrap_peers=(str(bootstrap(2)),)))
    node.dialer.reconfigure(50.0)
    assert set(node.dialer._targets) == {bootstrap(1), bootstrap(2)}, "one that answered is kept"
    assert not node.dialer._targets[bootstrap(1)].is_permanent
    assert node.dialer._targets[bootstrap(2)].is_permanent


# --- names --------------------------------------------------------------------------------------


def test_a_name_stands_for_at_most_sixteen_addresses() -> None:
    node = DialingNode(bootstrap_peers=("pods.example:8000",))
    found = tuple(Address("10.7.7.7", port) for port in range(1000, 1017))
    assert node.dialer.on_resolved("pods.example:8000", found, 0.0) == []
    assert set(node.dialer._targets) == set(found[:16])
    assert all(target.is_permanent for target in node.dialer._targets.values())
    assert node.dialer.on_resolved("other.example:8000", found, 0.0) == []


def test_former_addresses_of_a_name_stay_if_another_name_or_a_request_needs_them() -> None:
    names = ("a.example:8000", "b.example:8000")
    node = DialingNode(bootstrap_peers=names)
    shared, own, requested, answered, new = (
        Address("10.7.7.7", port) for port in range(1001, 1006)
    )
    node.dialer.on_resolved(names[1], (shared,), 0.0)
    node.dialer.on_resolved(names[0], (shared, own, requested, answered), 0.0)
    node.dialer.dial_now(requested, 0.0)
    node.dialer.on_answered(answered, None, peer_id(5), 0.0)
    node.dialer.on_resolved(names[0], (new,), 1.0)
    assert set(node.dialer._targets) == {shared, requested, answered, new}
    permanent = {each for each, target in node.dialer._targets.items() if target.is_permanent}
    assert permanent == {shared, requested, new}


def test_a_name_that_does_not_resolve_keeps_its_addresses() -> None:
    node = DialingNode(bootstrap_peers=("a.example:8000",))
    node.dialer.on_resolved("a.example:8000", (bootstrap(1),), 0.0)
    failed = Emit(DialFailed("a.example:8000", "the name does not resolve"))
    assert node.dialer.on_resolved("a.example:8000", (), 0.0) == [failed]
    assert node.dialer.on_resolved("a.example:8000", (), 0.0) == []
    assert set(node.dialer._targets) == {bootstrap(1)}
    node.config.replace(config())
    node.dialer.reconfigure(0.0)
    assert node.dialer._targets == {}


# --- remembered addresses -----------------------------------------------------------------------


def known(*numbers: int) -> tuple[tuple[PeerId, Address], ...]:
    return tuple((peer_id(number), bootstrap(number)) for number in numbers)


def test_sixty_four_addresses_of_an_earlier_run_are_remembered_and_dialed() -> None:
    node = DialingNode()
    node.dialer.remember(known(*range(65)), 0.0)
    assert set(node.dialer._targets) == {bootstrap(number) for number in range(64)}
    [first, *_] = node.dials(0.0)
    assert first == Dial(bootstrap(0), None, NEIGHBOR, None)
    assert node.dialer.known_addresses() == known(*range(64))


def test_addresses_that_failed_are_dialed_after_the_others() -> None:
    node = DialingNode(boot=3)
    for number, failures, dial_at in ((0, 1, 0.0), (1, 0, 2.0), (2, 0, 1.0)):
        target = node.dialer._targets[bootstrap(number)]
        target.failures, target.dial_at = failures, dial_at
    assert node.dialed(3.0) == [bootstrap(2), bootstrap(1), bootstrap(0)]


def test_remembering_more_forgets_those_with_most_failures() -> None:
    node = DialingNode()
    node.dialer.remember(known(*range(64)), 0.0)
    node.dialer.on_failed(bootstrap(7), None, None, 0.0)
    node.dialer.on_failed(bootstrap(7), None, None, 0.0)
    node.dialer.on_failed(bootstrap(8), None, None, 0.0)
    node.dialer.remember(known(100), 0.0)
    assert bootstrap(7) not in node.dialer._targets
    assert {bootstrap(8), bootstrap(100)} <= set(node.dialer._targets)


def test_a_remembered_address_that_is_also_configured_stays_permanent() -> None:
    node = DialingNode(boot=1)
    node.dialer.remember(known(0), 0.0)
    assert node.dialer._targets[bootstrap(0)].is_permanent


@pytest.mark.parametrize(("linked", "longest_s"), [(0, 20.0), (1, 300.0)])
def test_a_remembered_address_backs_off_further_while_there_are_links(
    linked: int, longest_s: float
) -> None:
    node = DialingNode(linked=linked, drawn=1.0)
    node.dialer.remember(known(50), 0.0)
    for _ in range(20):
        assert node.dialer.on_failed(bootstrap(50), None, None, 0.0) == []
    assert node.dialer._targets[bootstrap(50)].dial_at == longest_s


def test_a_remembered_peer_that_is_up_is_dialed_only_if_links_are_needed() -> None:
    def is_dialed(status: MemberStatus, linked: int) -> bool:
        node = DialingNode(linked=linked)
        node.members.add(record(50), peer_id(50), 0.0)
        node.member(50).status, node.member(50).dial_at = status, 1e9
        node.dialer.remember(known(50), 0.0)
        return bootstrap(50) in node.dialed(0.0)

    assert is_dialed(MemberStatus.UP, linked=0)
    assert not is_dialed(MemberStatus.UP, linked=8)
    assert not is_dialed(MemberStatus.SUSPECT, linked=8)
    assert is_dialed(MemberStatus.DOWN, linked=8)


def test_a_remembered_peer_that_is_linked_elsewhere_is_not_dialed() -> None:
    node = DialingNode(linked=1)
    node.dialer.remember(known(0), 0.0)
    assert bootstrap(0) not in node.dialed(0.0)


def test_known_addresses_list_linked_peers_by_age_then_those_heard_last_then_remembered() -> None:
    node = DialingNode()
    for number, at in [(1, 5.0), (2, 3.0), (3, 1.0), (4, 2.0)]:
        node.link(number, at)
    for number in (3, 4):
        node.unlink(number)
    node.peers.add(peer_id(9), None, address_of(9), 0.0)  # never validated
    node.dialer.remember(known(50, 51), 0.0)
    node.dialer.on_failed(bootstrap(50), None, None, 0.0)
    listed = [peer for peer, _ in node.dialer.known_addresses()]
    assert listed == [peer_id(number) for number in (2, 1, 4, 3, 51, 50)]


# --- requests -----------------------------------------------------------------------------------


def test_a_requested_address_is_dialed_at_once_beyond_all_budgets() -> None:
    node = DialingNode(boot=16)
    node.dials(0.0)
    assert node.dialer.dial_now(bootstrap(99), 0.0) == [Dial(bootstrap(99), None, NEIGHBOR, None)]
    assert node.dialer.dial_now(bootstrap(99), 0.0) == [], "it is in progress"
    assert node.dialer.dial_now(OURS, 0.0) == []
    assert node.dialer.dial_now(Address("10.1.1.1", 0), 0.0) == []
    node.dialer.set_our_addresses((bootstrap(50),))
    assert node.dialer.dial_now(bootstrap(50), 0.0) == []


def test_a_requested_address_is_dialed_again_and_its_failure_reported() -> None:
    node = DialingNode()
    node.dialer.dial_now(bootstrap(1), 0.0)
    assert node.fail(1, 1.0) == [Emit(DialFailed(bootstrap(1), NO_ANSWER))]
    assert node.dialed(3.0) == [bootstrap(1)]


def test_requests_are_remembered_up_to_the_limit_of_addresses() -> None:
    limits = config().limits
    node = DialingNode()
    for number in range(limits.addresses):
        node.dialer._targets[Address("10.3.3.3", number)] = None  # type: ignore[assignment]
    assert len(node.dialer.dial_now(bootstrap(1), 0.0)) == 1
    assert bootstrap(1) not in node.dialer._targets
    node.dialer._targets.popitem()
    node.dialer.dial_now(bootstrap(2), 0.0)
    assert bootstrap(2) in node.dialer._targets


# --- discovered members -------------------------------------------------------------------------


def test_members_are_dialed_until_enough_links_are_up_or_pending() -> None:
    node = DialingNode(members=60, linked=3, max_peers=8)  # seven are wanted
    first = node.dials(0.0)
    assert len(first) == 4
    assert {dial.purpose for dial in first} == {NEIGHBOR}
    assert {dial.max_hellos for dial in first} == {3}, "records claim these addresses"
    assert node.dials(0.5) == []
    assert 1 <= len(node.dials(1.0)) <= 4
    assert {dial.expected for dial in first}.isdisjoint({peer_id(0), peer_id(1), peer_id(2)})


def test_a_member_at_a_validated_address_gets_all_hellos() -> None:
    node = DialingNode(members=1)
    node.member(0).validated_address = address_of(0)
    assert node.dials(0.0) == [Dial(address_of(0), peer_id(0), NEIGHBOR, None)]


@pytest.mark.usefixtures("patch_sources")
def test_a_node_with_almost_enough_links_does_not_ask_for_room() -> None:
    node = DialingNode(members=60, linked=6, max_peers=8)
    node.view.needs_links = lambda now: False  # type: ignore[method-assign]
    assert [dial.purpose for dial in node.dials(0.0)] == [LINK]


def test_a_node_that_needs_links_dials_one_more_at_a_time_beyond_its_target() -> None:
    node = DialingNode(members=60, linked=7, max_peers=10)  # eight are wanted
    node.unlink(6)
    node.link(7)
    node.link(8)
    node.unlink(5)
    node.link(9)  # eight of ten slots
    assert len(node.dials(0.0)) == 1
    assert node.dials(0.5) == []


def test_denied_members_and_those_without_a_possible_address_are_not_dialed() -> None:
    assert DialingNode(members=1, denied=(peer_id(0),)).dials(0.0) == []
    node = DialingNode()
    node.members.add(
        replace_addresses(1, Address("224.0.0.1", 8000), Address("10.0.0.1", 53)), peer_id(1), 0.0
    )
    assert node.dials(0.0) == []


def replace_addresses(number: int, *addresses: Address) -> PeerRecord:
    return replace(record(number), addresses=addresses)


def test_each_failure_puts_the_next_address_of_a_member_first() -> None:
    node = DialingNode()
    addresses = (Address("10.0.0.1", 1001), Address("10.0.0.1", 53), Address("10.0.0.1", 1002))
    member = node.members.add(replace_addresses(1, *addresses), peer_id(1), 0.0)
    chosen = []
    for failures in range(4):
        member.failures = failures
        chosen.append(node.dialer.addresses_of(member))
    good = addresses[0], addresses[2]
    assert chosen == [good, good[::-1], good, good[::-1]]


def test_an_address_of_a_member_that_is_down_waits_until_all_have_failed() -> None:
    node = DialingNode()
    addresses = (Address("10.0.0.1", 1001), Address("10.0.0.1", 1002))
    member = node.members.add(replace_addresses(1, *addresses), peer_id(1), 0.0)
    node.link(1)
    node.unlink(1)
    member.on_address_validated(addresses[0])
    member.set_status(MemberStatus.DOWN, "silent", 0.0)
    assert [each.address for each in node.dials(0.0)] == [*addresses]
    node.dialer.on_failed(addresses[0], peer_id(1), DropReason.WRONG_PEER, 0.1)
    assert node.dials(2.0) == [], "the other one may still answer"
    node.dialer.on_failed(addresses[1], peer_id(1), None, 5.0)
    node.dialer.on_member_failed(member, 5.0)
    assert node.dials(5.1) == []
    assert {each.address for each in node.dials(10.0)} == {*addresses}


def test_the_first_dial_of_a_discovered_member_makes_it_a_peer() -> None:
    node = DialingNode(members=1)
    effects = node.dialer.dial_due(0.0)
    assert effects[:-1] == [PeerTransitioned(peer_id(0), None, "discovered")]
    assert isinstance(effects[-1], Dial), "the peer is known before its dial may fail"
    assert node.peer(0).state is PeerState.CONNECTING


def test_a_member_that_failed_or_was_linked_before_does_not_become_a_peer_by_a_dial() -> None:
    node = DialingNode(members=2)
    node.member(0).failures = 1
    node.member(1).was_linked = True
    assert len(node.dialer.dial_due(0.0)) == 2
    assert len(node.peers) == 0


def test_claimed_addresses_have_a_budget_that_answers_refund() -> None:
    node = DialingNode(members=100, max_peers=80)
    budget = node.dialer._unvalidated_budget
    for number in range(64):
        assert node.dialer._dial_member(node.member(number), 0.5 * number, wants_room=False) or (
            number > 63
        )
        node.dialer._end_dial((address_of(number), peer_id(number)), 0.0, is_answered=False)
    spent = 64 - 0.2 * 31.5
    assert budget.available(31.5) == pytest.approx(64 - spent, abs=0.1)


def test_only_an_answered_dial_of_a_claimed_address_is_refunded() -> None:
    node = DialingNode(members=2)
    budget = node.dialer._unvalidated_budget
    node.dials(0.0)
    assert budget.available(0.0) == 62.0
    node.dialer.on_answered(address_of(0), peer_id(0), peer_id(0), 0.0)
    assert budget.available(0.0) == 63.0
    node.dialer.on_answered(address_of(0), peer_id(0), peer_id(0), 0.0)
    node.dialer.on_failed(address_of(1), peer_id(1), None, 0.0)
    assert budget.available(0.0) == 63.0


def test_without_budget_for_claimed_addresses_members_linked_before_are_dialed() -> None:
    node = DialingNode(members=30, max_peers=20)
    node.link(0)
    node.unlink(0)
    node.dialer._unvalidated_budget.try_take(0.0, 64.0)
    dial_tokens = node.dialer._dial_budget.available(0.0)
    assert node.dialed(0.0) == [address_of(0)]
    assert node.dialer._dial_budget.available(0.0) == dial_tokens - 1.0
    assert node.dialer._dial_member(node.member(5), 0.0, wants_room=False) == []
    assert node.dialer._dial_budget.available(0.0) == dial_tokens - 1.0, "it was not dialed"


def test_a_dial_for_a_member_does_not_prevent_another_at_the_same_claimed_address() -> None:
    node = DialingNode(members=1)
    node.dials(0.0)
    assert node.dialer.dial_now(address_of(0), 0.0) == [Dial(address_of(0), None, NEIGHBOR, None)]
    assert node.dialer._dial_member(node.member(0), 5.0, wants_room=False) == []


def test_a_dial_for_a_member_prevents_another_where_that_member_answered() -> None:
    node = DialingNode(members=1, boot=1)
    node.dialer._targets[bootstrap(0)].last_peer = peer_id(0)
    node.member(0).validated_address = bootstrap(0)
    assert node.dialer._dial_member(node.member(0), 0.0, wants_room=False) != []
    assert node.dialer.dial_due(0.0) == []


# --- outcomes for members -----------------------------------------------------------------------


@pytest.mark.parametrize(("drawn", "fraction"), [(0.0, 0.5), (1.0, 1.5)])
def test_pauses_after_a_lost_evicted_answered_or_rejected_link(
    drawn: float, fraction: float
) -> None:
    node = DialingNode(linked=1, members=2, boot=1, drawn=drawn)
    node.dialer.on_answered(bootstrap(0), None, peer_id(1), 100.0)
    target = node.dialer._targets[bootstrap(0)]
    assert target.dial_at == 100.0 + 30.0 * fraction
    node.dialer.redial(node.member(1), 100.0)
    assert node.member(1).dial_at == target.dial_at == 100.0 + 1.0 * fraction
    node.dialer.back_off(node.member(1), 100.0)
    assert node.member(1).dial_at == target.dial_at == 100.0 + 30.0 * fraction
    node.hear_all(200.0)
    node.dialer.on_rejected(node.member(1), bootstrap(0), 200.0)
    assert node.member(1).dial_at == target.dial_at == 200.0 + 30.0 * fraction
    node.unlink(0)
    node.dialer.on_rejected(node.member(1), bootstrap(7), 300.0)
    assert node.member(1).dial_at == 300.0 + 4.0 * fraction, "grace periods end soon"
    assert target.dial_at == 200.0 + 30.0 * fraction


@pytest.mark.parametrize(("waited_s", "longest_s"), [(599.9, 20.0), (600.0, 300.0)])
def test_a_member_backs_off_further_ten_minutes_after_it_changed(
    waited_s: float, longest_s: float
) -> None:
    node = DialingNode(members=1, drawn=1.0)
    node.member(0).failures = 30
    node.dialer.on_member_failed(node.member(0), waited_s)
    assert node.member(0).dial_at == waited_s + longest_s
    assert node.member(0).failures == 31


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        (None, NO_ANSWER),
        (DropReason.UNKNOWN_KEY, NO_ANSWER),
        (DropReason.WRONG_PEER, "another node answers there"),
        (DropReason.SELF_DIAL, "that is this node"),
        (DropReason.MISCONDUCT, "refused here for a while, for misconduct"),
        ("no IPv6 socket", "no IPv6 socket"),
    ],
)
def test_a_failed_dial_is_explained(reason: DropReason | str | None, text: str) -> None:
    assert format_dial_failure(reason) == text


# --- lost peers ---------------------------------------------------------------------------------


def test_lost_peers_are_redialed_up_to_the_shortfall_and_ask_for_room() -> None:
    node = DialingNode(linked=5, members=20, max_peers=5)  # four are wanted
    for number in range(5):
        node.unlink(number)
        node.dialer.redial(node.member(number), 0.0)
    assert node.dials(0.9) != []
    node.end_all(0.9)
    node.link(5, 1.0)
    node.link(6, 1.0)
    redialed = node.dials(1.0)
    assert [dial.expected for dial in redialed] == [peer_id(0), peer_id(1)]
    assert {dial.purpose for dial in redialed} == {NEIGHBOR}
    assert not node.dialer.is_self_chosen(peer_id(0))


def test_a_peer_that_we_had_chosen_stays_self_chosen_when_it_is_redialed() -> None:
    node = DialingNode(linked=1)
    node.peer(0).is_self_chosen = True
    node.unlink(0)
    node.dialer.redial(node.member(0), 0.0)
    assert len(node.dials(1.0)) == 1
    assert node.dialer.is_self_chosen(peer_id(0))


def test_with_enough_links_only_lost_peers_that_are_not_up_are_redialed_one_at_a_time() -> None:
    node = DialingNode(linked=5, members=20, max_peers=5)
    for number in (10, 11, 12, 13):
        node.dialer.redial(node.member(number), 0.0)
        node.member(number).status = MemberStatus.DOWN
    node.member(10).status = MemberStatus.UP
    node.member(11).status = MemberStatus.LEFT
    assert [dial.expected for dial in node.dials(1.0)] == [peer_id(12)]
    assert set(node.dialer._disconnected) == {peer_id(12), peer_id(13)}


def test_a_lost_peer_is_not_redialed_before_its_time_or_once_it_is_found() -> None:
    node = DialingNode(linked=5, members=20, max_peers=5, drawn=1.0)
    node.member(10).status = MemberStatus.DOWN
    node.dialer.redial(node.member(10), 0.0)
    assert node.dials(1.4) == []
    node.dialer.stop_looking(peer_id(10))
    assert node.dials(1.5) == []


def test_a_removed_peer_is_not_dialed_where_it_answered_except_at_bootstrap_addresses() -> None:
    node = DialingNode(boot=1)
    node.dialer.remember(known(7, 8), 0.0)
    node.dialer._targets[bootstrap(0)].last_peer = peer_id(7)
    node.dialer.remove_peer(peer_id(7))
    assert set(node.dialer._targets) == {bootstrap(0), bootstrap(8)}


# --- referrals ----------------------------------------------------------------------------------


def test_referrals_are_dialed_before_others_the_first_named_first() -> None:
    node = DialingNode(members=60, linked=5, max_peers=8)  # two are missing
    node.dialer.prefer([peer_id(20), peer_id(21), peer_id(22)])
    assert [dial.expected for dial in node.dials(0.0)][:2] == [peer_id(20), peer_id(21)]
    assert not node.dialer.is_self_chosen(peer_id(20))
    assert node.dialer._preferred == [peer_id(22)]


def test_sixteen_referrals_are_kept_the_latest() -> None:
    node = DialingNode(members=60)
    node.dialer.prefer([peer_id(number) for number in range(20, 30)])
    node.dialer.prefer([peer_id(number) for number in range(30, 40)])
    assert len(node.dialer._preferred) == 16
    assert node.dialer._preferred[-1] == peer_id(30)
    assert peer_id(29) not in node.dialer._preferred
    assert peer_id(20) in node.dialer._preferred


def test_referrals_that_left_wait_or_are_linked_are_skipped() -> None:
    node = DialingNode(members=60, linked=5, max_peers=6)
    node.dialer.prefer(
        [peer_id(99), peer_id(20), peer_id(21), peer_id(0), peer_id(22), peer_id(23)]
    )
    node.member(20).status = MemberStatus.LEFT
    node.member(21).dial_at = 5.0
    assert [dial.expected for dial in dials_of(node.dialer.dial_referral(0.0))] == [peer_id(22)]
    assert [dial.purpose for dial in dials_of(node.dialer.dial_referral(1.0))] == [LINK]
    node.link(50)
    node.dialer.prefer([peer_id(24)])
    assert node.dialer.dial_referral(2.0) == [], "no room"


def test_a_hub_dials_a_referral_into_a_zone_that_it_is_linked_with_once_no_link_works() -> None:
    node = DialingNode(members=60, linked=1, distribution="hub-and-spoke", zone="elsewhere")
    node.dialer.prefer([peer_id(20)])
    assert node.dialer.dial_referral(0.0) == []
    node.dialer.prefer([peer_id(20)])
    dials = dials_of(node.dialer.dial_referral(100.0))
    assert [dial.expected for dial in dials] == [peer_id(20)], "that peer is silent"


def test_sixty_four_referred_peers_are_remembered() -> None:
    node = DialingNode()
    for number in range(64):
        node.dialer._note_referred(peer_id(number))
    node.dialer._note_referred(peer_id(0))
    node.dialer._note_referred(peer_id(64))
    assert node.dialer.is_self_chosen(peer_id(1))
    assert not node.dialer.is_self_chosen(peer_id(0))
    assert len(node.dialer._referred) == 64
    node.dialer.stop_looking(peer_id(64))
    assert node.dialer.is_self_chosen(peer_id(64))


# --- with enough links --------------------------------------------------------------------------


def settled(drawn: float = 0.5, max_peers: int = 10) -> DialingNode:
    """A node with enough links and some room."""
    node = DialingNode(members=60, linked=9, drawn=drawn, max_peers=max_peers)
    node.view.needs_links = lambda now: False  # type: ignore[method-assign]
    return node


@pytest.mark.parametrize(("drawn", "pause_s"), [(0.0, 30.0), (1.0, 90.0)])
@pytest.mark.usefixtures("patch_sources")
def test_a_node_with_enough_links_dials_one_more_member_about_once_a_minute(
    drawn: float, pause_s: float
) -> None:
    node = settled(drawn)
    assert node.dials(59.9) == []
    assert [dial.purpose for dial in node.dials(60.0)] == [LINK]
    assert node.dials(60.0 + pause_s - 0.1) == []
    assert len(node.dials(60.0 + pause_s)) == 1


@pytest.mark.usefixtures("patch_sources")
def test_a_full_node_explores_only_members_that_are_down_and_asks_for_room() -> None:
    node = settled(max_peers=9)
    assert node.dials(60.0) == []
    for member in node.members:
        member.status = MemberStatus.DOWN
    [dial] = node.dials(200.0)
    assert dial.purpose == NEIGHBOR


@pytest.mark.parametrize(("drawn", "pause_s"), [(0.0, 1.0), (1.0, 3.0)])
@pytest.mark.usefixtures("patch_sources")
def test_in_a_crowd_a_member_of_our_own_choice_is_dialed_every_two_seconds(
    drawn: float, pause_s: float
) -> None:
    node = settled(drawn, max_peers=9)
    node.view.needs_self_chosen = lambda now: True  # type: ignore[method-assign]
    assert [dial.purpose for dial in node.dials(0.0)] == [NEIGHBOR]
    assert node.dials(pause_s - 0.1) == []
    assert len(node.dials(pause_s)) == 1
    for number in range(9, 60):
        node.member(number).status = MemberStatus.SUSPECT
    assert node.dials(10.0) == []


@pytest.mark.usefixtures("patch_sources")
def test_a_better_fitting_link_is_sought_ever_more_rarely_up_to_once_a_minute() -> None:
    node = settled(max_peers=9)
    node.dialer._explore_at = 1e9
    node.view.has_excess_remote = lambda now: True  # type: ignore[method-assign]
    now, pauses = 0.0, []
    for _ in range(20):
        assert [dial.purpose for dial in node.dials(now)] == [NEIGHBOR]
        node.end_all(now)
        pauses.append(node.dialer._rebalance_at - now)
        assert node.dials(node.dialer._rebalance_at - 0.01) == []
        now = node.dialer._rebalance_at
    assert pauses == pytest.approx([min(5.0 * 1.2**n, 60.0) for n in range(1, 21)])
    node.view.has_excess_remote = lambda now: False  # type: ignore[method-assign]
    assert node.dials(now) == []
    assert node.dialer._rebalance_at - now == pytest.approx(5.0)


@pytest.mark.usefixtures("patch_sources")
def test_only_a_member_that_is_up_replaces_a_link() -> None:
    node = settled(max_peers=9)
    node.dialer._explore_at = 1e9
    node.view.has_excess_remote = lambda now: True  # type: ignore[method-assign]
    for member in node.members:
        member.status = MemberStatus.DOWN
    assert node.dials(0.0) == []


def propose(node: DialingNode, number: int) -> SwapCandidate:
    candidate = SwapCandidate(node.member(number), 0.050, record(3))
    node.proximity.next_candidate = lambda now: candidate  # type: ignore[method-assign]
    node.dialer._explore_at = node.dialer._rebalance_at = 1e9
    return candidate


@pytest.mark.usefixtures("patch_sources")
def test_a_member_that_may_be_nearer_is_dialed_for_a_swap() -> None:
    node = settled()
    propose(node, 40)
    assert node.dials(0.0) == [Dial(address_of(40), peer_id(40), swap(record(3), 0.050), 3)]
    node = settled()
    propose(node, 40)
    node.member(40).validated_address = address_of(40)
    assert [dial.max_hellos for dial in node.dials(0.0)] == [None]
    node.end_all(0.0)
    node.member(40).record = replace_addresses(40)
    node.member(40).validated_address = None
    assert node.dials(1.0) == []


@pytest.mark.usefixtures("patch_sources")
def test_a_member_that_may_be_nearer_is_measured_at_the_first_of_its_addresses() -> None:
    node = settled()
    propose(node, 40)
    node.member(40).record = replace_addresses(40, address_of(41), address_of(40))
    assert node.dialed(0.0) == [address_of(41)]


@pytest.mark.usefixtures("patch_sources")
def test_no_nearer_member_is_sought_in_the_turn_of_another_dial() -> None:
    node = settled()
    propose(node, 40)
    node.dialer.redial(node.member(41), 0.0)
    node.member(41).status = MemberStatus.DOWN
    assert [dial.expected for dial in node.dials(1.0)] == [peer_id(41)]


@pytest.mark.parametrize(("rtt_s", "tokens"), [(0.2, 64.0), (None, 63.0)])
@pytest.mark.usefixtures("patch_sources")
def test_a_measured_member_remembers_its_rtt_and_an_answer_is_refunded(
    rtt_s: float | None, tokens: float
) -> None:
    node = settled()
    propose(node, 40)
    node.dials(0.0)
    node.dialer.probe_done(address_of(40), peer_id(40), rtt_s, 0.0)
    assert node.member(40).rejected_rtt_s == rtt_s
    assert node.dialer._unvalidated_budget.available(0.0) == tokens
    node.dialer.probe_done(address_of(40), None, 0.1, 0.0)
    assert node.member(40).rejected_rtt_s == rtt_s


def test_a_lost_peer_that_is_up_is_redialed_while_one_link_is_missing() -> None:
    node = DialingNode(members=20, linked=4, max_peers=5)  # four are wanted
    node.unlink(3)
    node.dialer.redial(node.member(3), 0.0)
    assert [dial.expected for dial in node.dials(2.0)][:1] == [peer_id(3)]


def test_a_hint_is_dialed_at_once_and_forgotten_if_no_node_answers() -> None:
    node = DialingNode()
    hinted = Address("10.9.9.9", 77)
    assert node.dialer.hint(hinted, 0.0) == [Dial(hinted, None, NEIGHBOR, None)]
    assert node.dialer.hint(hinted, 0.1) == []
    assert node.dialer.on_failed(hinted, None, None, 1.0) == []  # no event: nobody typed it
    assert node.dialer.dial_due(100.0) == []
    assert node.dialer.hint(hinted, 100.0) != []


def test_a_hint_where_a_node_answered_is_remembered() -> None:
    node = DialingNode()
    hinted = Address("10.9.9.9", 77)
    node.dialer.hint(hinted, 0.0)
    node.dialer.on_answered(hinted, None, peer_id(5), 0.1)
    assert node.dialer.known_addresses() == ((peer_id(5), hinted),)
    node.dialer.on_failed(hinted, None, None, 200.0)
    assert node.dialer.known_addresses() == ((peer_id(5), hinted),)


def test_hints_are_bounded_and_evict_addresses_that_failed() -> None:
    node = DialingNode()
    node.dialer.remember(tuple((peer_id(n), Address("10.9.9.8", n + 1)) for n in range(64)), 0.0)
    for port in range(1, 65):
        node.dialer.on_failed(Address("10.9.9.8", port), None, None, 1.0)
    for port in range(1, 66):
        node.dialer.hint(Address("10.9.9.9", port), 2.0)
    assert len(node.dialer._targets) == 64


def test_our_own_address_is_no_hint() -> None:
    assert DialingNode().dialer.hint(OURS, 0.0) == []
