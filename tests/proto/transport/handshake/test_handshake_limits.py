"""Limits on the handshakes of unauthenticated peers."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from grapevine_proto.config.sections import LimitsConfig
from grapevine_proto.errors import Dropped, DropReason
from grapevine_proto.ids import Address
from grapevine_proto.transport.handshake.handshake_limits import (
    ADDRESS_HANDSHAKE_BURST,
    ADDRESS_HANDSHAKES_PER_S,
    EXEMPT_PROOFS_BURST,
    PROVEN_ADDRESSES_LIMIT,
    HandshakeRateLimiter,
    network_of,
    site_of,
)
from tests.proto.transport.ends import entropy_of

HERE = Address("192.0.2.1", 1000)
THERE = Address("203.0.113.2", 1000)


def new_budgets(**limits: int) -> HandshakeRateLimiter:
    return HandshakeRateLimiter(LimitsConfig(**limits), entropy=entropy_of("budgets"), now=0.0)


def hello_refusal(
    budgets: HandshakeRateLimiter, source: Address, now: float = 0.0
) -> DropReason | None:
    try:
        budgets.charge_hello(source, now, exempt=False)
    except Dropped as refused:
        return refused.reason
    return None


def proof_refusal(
    budgets: HandshakeRateLimiter, source: Address, now: float = 0.0
) -> DropReason | None:
    try:
        budgets.charge_proof(source, now, exempt=False)
    except Dropped as refused:
        return refused.reason
    return None


@pytest.mark.parametrize("refusal", [hello_refusal, proof_refusal])
def test_an_address_gets_its_burst_and_then_its_rate(
    refusal: Callable[..., DropReason | None],
) -> None:
    budgets = new_budgets(
        challenges_per_second=2 * ADDRESS_HANDSHAKE_BURST
    )  # of which half is reserved
    answers = [refusal(budgets, HERE) for _ in range(ADDRESS_HANDSHAKE_BURST + 1)]

    assert answers == [None] * ADDRESS_HANDSHAKE_BURST + [DropReason.ADDRESS_BUDGET]
    assert refusal(budgets, HERE._replace(port=2000)) is DropReason.ADDRESS_BUDGET
    assert refusal(budgets, THERE) is None
    if refusal is proof_refusal:  # a Hello has the common budget besides
        assert refusal(budgets, HERE, 1 / ADDRESS_HANDSHAKES_PER_S) is None
        assert refusal(budgets, HERE, 1 / ADDRESS_HANDSHAKES_PER_S) is DropReason.ADDRESS_BUDGET


def test_exempt_peers_are_charged_only_to_the_shared_budget() -> None:
    budgets = new_budgets(challenges_per_second=100)
    for _ in range(1000):
        budgets.charge_proof(HERE, 0.0, exempt=True)
    for _ in range(100):
        budgets.charge_hello(HERE, 0.0, exempt=True)

    with pytest.raises(Dropped) as refused:
        budgets.charge_hello(HERE, 0.0, exempt=True)
    assert refused.value.reason is DropReason.CHALLENGE_BUDGET
    assert budgets.proven_addresses == 0
    budgets.charge_hello(HERE, 0.01, exempt=True)


@pytest.mark.parametrize(
    "loud", ["192.0.2.{}", "2001:db8::{}"], ids=["all of an IPv4 /24", "all of an IPv6 /64"]
)
def test_one_flooding_site_does_not_exhaust_the_shared_budget(loud: str) -> None:
    budgets = new_budgets(challenges_per_second=200)
    answers = [hello_refusal(budgets, Address(loud.format(n % 250), 1)) for n in range(5000)]

    assert answers.count(None) == 100, "half of what there is"
    assert [hello_refusal(budgets, THERE) for _ in range(ADDRESS_HANDSHAKE_BURST)] == [
        None
    ] * ADDRESS_HANDSHAKE_BURST


def test_spoofed_hellos_cost_an_address_nothing_while_the_shared_budget_lasts() -> None:
    budgets = new_budgets()
    for flood in range(3000):  # 300 a second for 10 s
        assert hello_refusal(budgets, HERE, flood / 300) is None
    assert proof_refusal(budgets, HERE, 10.0) is None


def test_hellos_of_unauthenticated_peers_take_nothing_from_connected_ones() -> None:
    budgets = new_budgets(challenges_per_second=100)
    for number in range(1000):
        hello_refusal(budgets, Address(f"10.0.{number % 250}.1", 1))

    for _ in range(100):
        budgets.charge_hello(HERE, 0.0, exempt=True)


def test_proofs_of_exempt_peers_have_their_own_budget() -> None:
    budgets = new_budgets()
    for _ in range(EXEMPT_PROOFS_BURST):
        budgets.charge_proof(HERE, 0.0, exempt=True)
    with pytest.raises(Dropped) as refused:
        budgets.charge_proof(HERE, 0.0, exempt=True)
    assert refused.value.reason is DropReason.ADDRESS_BUDGET
    assert proof_refusal(budgets, HERE) is None


def test_unauthenticated_peers_share_a_fixed_number_of_buckets() -> None:
    budgets = new_budgets(handshake_buckets=1, challenges_per_second=2 * ADDRESS_HANDSHAKE_BURST)
    for number in range(ADDRESS_HANDSHAKE_BURST):
        assert hello_refusal(budgets, Address(f"198.51.{number}.1", 1)) is None

    assert hello_refusal(budgets, HERE) is DropReason.ADDRESS_BUDGET


def test_a_hello_leaves_no_state_per_address() -> None:
    budgets = new_budgets(handshake_buckets=4, challenges_per_second=10_000)
    for number in range(200):
        hello_refusal(budgets, Address(f"198.51.{number}.1", 1))

    assert len(budgets._unproven) <= 4
    assert budgets.proven_addresses == 0


def test_a_full_address_table_evicts_only_full_buckets() -> None:
    budgets = new_budgets()
    hosts = [f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}" for n in range(PROVEN_ADDRESSES_LIMIT + 1)]
    for host in hosts[:-1]:
        assert proof_refusal(budgets, Address(host, 1)) is None
    late = Address(hosts[-1], 1)

    assert budgets.proven_addresses == PROVEN_ADDRESSES_LIMIT
    assert proof_refusal(budgets, late) is DropReason.TABLE_FULL
    assert (
        proof_refusal(budgets, Address(hosts[0], 1)) is None
    )  # a host already in the table continues
    assert proof_refusal(budgets, late, 1 / ADDRESS_HANDSHAKES_PER_S) is None
    assert budgets.proven_addresses == PROVEN_ADDRESSES_LIMIT


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2::1", "20010db800010002"),
        ("2001:db8:1:2:ffff::9", "20010db800010002"),
        ("2001:db8:1:3::1", "20010db800010003"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("not:an:address", "not:an:address"),
    ],
)
def test_an_ipv6_site_counts_as_one_address(host: str, network: str) -> None:
    assert network_of(host) == network


@pytest.mark.parametrize(
    ("host", "site"),
    [
        ("192.0.2.1", "192.0.2"),
        ("192.0.3.1", "192.0.3"),
        ("::ffff:192.0.2.1", "192.0.2"),
        ("2001:db8:1:2::1", "20010db800010002"),
        ("host.of.three", "host.of.three"),
    ],
)
def test_hosts_that_may_spoof_each_other_share_a_site(host: str, site: str) -> None:
    assert site_of(host) == site


# --- documented limits --------------------------------------------------------------------------


def test_an_address_makes_fifty_handshakes_at_once_and_twenty_a_second() -> None:
    budgets = new_budgets()
    assert [proof_refusal(budgets, HERE) for _ in range(51)].index(DropReason.ADDRESS_BUDGET) == 50
    later = [proof_refusal(budgets, HERE, 1.0) for _ in range(21)]
    assert later.index(DropReason.ADDRESS_BUDGET) == 20


def test_exempt_peers_make_a_thousand_handshakes_at_once_and_five_hundred_a_second() -> None:
    budgets = new_budgets()
    for now, count in ((0.0, 1000), (1.0, 500)):
        for _ in range(count):
            budgets.charge_proof(HERE, now, exempt=True)
        with pytest.raises(Dropped):
            budgets.charge_proof(HERE, now, exempt=True)


def test_a_site_above_its_budget_is_refused_when_exactly_half_of_the_challenges_are_left() -> None:
    budgets = new_budgets(challenges_per_second=128)  # tokens that are exact in binary
    answers = [hello_refusal(budgets, HERE) for _ in range(65)]
    assert answers == [None] * 64 + [DropReason.ADDRESS_BUDGET]


def test_an_address_within_its_budget_is_answered_until_no_challenge_is_left() -> None:
    budgets = new_budgets(challenges_per_second=128)
    answers = [hello_refusal(budgets, Address(f"10.{n}.0.1", 1)) for n in range(129)]
    assert answers == [None] * 128 + [DropReason.CHALLENGE_BUDGET]


def test_8192_addresses_are_validated_at_a_time() -> None:
    budgets = new_budgets()
    hosts = [f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}" for n in range(8193)]
    refusals = [proof_refusal(budgets, Address(host, 1)) for host in hosts]
    assert refusals == [None] * 8192 + [DropReason.TABLE_FULL]


def test_changed_limits_apply_to_challenges_of_both_kinds() -> None:
    budgets = new_budgets(challenges_per_second=100)
    budgets.resize(LimitsConfig(challenges_per_second=10), 0.0)
    for exempt in (True, False):
        for number in range(10):
            budgets.charge_hello(Address(f"10.0.{number}.1", 1), 0.0, exempt=exempt)
        with pytest.raises(Dropped) as refused:
            budgets.charge_hello(Address("10.9.9.9", 1), 0.0, exempt=exempt)
        assert refused.value.reason is DropReason.CHALLENGE_BUDGET


def test_a_changed_number_of_buckets_applies_and_the_same_number_forgets_nothing() -> None:
    budgets = new_budgets(handshake_buckets=2, challenges_per_second=1000)
    hello_refusal(budgets, HERE)
    budgets.resize(LimitsConfig(handshake_buckets=2, challenges_per_second=1000), 0.0)
    assert len(budgets._unproven) == 1
    budgets.resize(LimitsConfig(handshake_buckets=1, challenges_per_second=1000), 0.0)
    assert len(budgets._unproven) == 0
    for number in range(20):
        hello_refusal(budgets, Address(f"198.51.{number}.1", 1))
    assert len(budgets._unproven) == 1
