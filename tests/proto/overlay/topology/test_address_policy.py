"""The address policy: which claimed addresses are dialed."""

from __future__ import annotations

import pytest

from grapevine_proto.ids import Address
from grapevine_proto.overlay.topology.address_policy import SERVICE_PORTS, can_dial_claimed

OURS = (Address("192.0.2.1", 8000),)


@pytest.mark.parametrize(
    "claimed",
    [
        "224.0.0.251:8000",
        "255.255.255.255:8000",
        "0.0.0.0:8000",
        "0.1.2.3:8000",
        "240.0.0.1:8000",
        "127.0.0.1:8000",
        "169.254.1.1:8000",
        "[::]:8000",
        "[ff02::1]:8000",
        "[::1]:8000",
        "[fe80::1]:8000",
        "[::ffff:224.0.0.1]:8000",
        "10.0.0.1:0",
        "10.0.0.1:53",
        "10.0.0.1:161",
    ],
)
def test_claimed_addresses_where_no_node_can_be_are_not_dialed(claimed: str) -> None:
    assert not can_dial_claimed(Address.parse(claimed), OURS)


def test_claimed_loopback_and_link_local_addresses_are_dialed_if_we_have_one() -> None:
    assert can_dial_claimed(Address("127.0.0.5", 8000), [Address("127.0.0.1", 8000)])
    assert can_dial_claimed(Address("fe80::2", 8000), [*OURS, Address("fe80::1", 8000)])
    assert can_dial_claimed(Address("10.1.2.3", 443), OURS)


PORTS = [0, 7, 9, 13, 17, 19, 37, 53, 69, 111, 123, 137, 138, 161, 162, 389, 427, 500, 514, 520,
         1900, 3702, 5351, 5353, 5355, 11_211]  # fmt: skip


def test_services_that_answer_any_datagram_are_not_dialed() -> None:
    assert sorted(SERVICE_PORTS) == PORTS
    for port in PORTS:
        assert not can_dial_claimed(Address("10.1.2.3", port), OURS)
    for port in (1, 443, 1024, 65_535):
        assert can_dial_claimed(Address("10.1.2.3", port), OURS)


@pytest.mark.parametrize(
    "claimed", ["1.0.0.1", "126.255.255.255", "223.255.255.255", "::2", "2001:db8::1", "fc00::1"]
)
def test_addresses_where_a_node_can_be_are_dialed(claimed: str) -> None:
    assert can_dial_claimed(Address(claimed, 8000), OURS)


def test_a_scope_and_a_mapped_address_are_seen_through() -> None:
    assert not can_dial_claimed(Address("fe80::1%eth0", 8000), OURS)
    assert can_dial_claimed(Address("fe80::1%eth0", 8000), [Address("fe80::2%eth1", 8000)])
    assert not can_dial_claimed(Address("::ffff:127.0.0.1", 8000), OURS)
    assert can_dial_claimed(Address("::ffff:10.0.0.1", 8000), OURS)


def test_an_own_loopback_address_says_nothing_about_link_local_ones() -> None:
    loopback = [Address("127.0.0.1", 8000)]
    assert not can_dial_claimed(Address("169.254.1.1", 8000), loopback)
    assert not can_dial_claimed(Address("127.0.0.1", 8000), [Address("169.254.1.1", 8000)])
    assert can_dial_claimed(Address("127.0.0.1", 8000), [*OURS, *loopback])
