"""Addresses: accepted spellings and error texts."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.crypto.identity import Identity
from grapevine_proto.engine import NodeState
from grapevine_proto.errors import ConfigError
from grapevine_proto.ids import (
    Address,
    MessageId,
    PeerId,
    canonical_host,
    join_host_port,
    parse_literal,
    split_host_port,
)
from grapevine_proto.runtime.state_encoding import decode_state, encode_state
from grapevine_proto.wire.fields import decode_record_bytes, encode_record
from grapevine_proto.wire.signed import PeerRecord


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("node-1.example:8000", "node-1.example", 8000),
        ("my_host:0", "my_host", 0),
        ("bücher.example:1", "bücher.example", 1),
        ("192.0.2.7:65535", "192.0.2.7", 65535),
        ("[::1]:8000", "::1", 8000),
        ("[fe80::1%eth0]:8000", "fe80::1%eth0", 8000),
        ("  spaces.around:7 ", "spaces.around", 7),
    ],
)
def test_a_name_or_an_address_with_a_port_is_accepted(text: str, host: str, port: int) -> None:
    assert split_host_port(text) == (host, port)
    assert split_host_port(join_host_port(host, port)) == (host, port)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("nonsense", "expected host:port"),
        (":8000", "expected host:port"),
        ("host:", "expected a number from 0"),
        ("host:65536", "expected a number from 0"),
        ("host:²", "expected a number from 0"),
        ("::1:8000", r"expected \[::1:8000\]:port"),
        ("host with space:1", "contains ' '"),
        ("a\tb:1", r"contains '\\t'"),
        ("user@host:1", "contains '@'"),
        ("[::1 ]:1", "contains ' '"),
        ("[:8000", r"contains '\['"),
        ("http://host:1", "without a scheme"),
    ],
)
def test_an_invalid_host_and_port_is_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        split_host_port(text)


def test_only_a_literal_is_an_address() -> None:
    assert parse_literal("192.0.2.7:1") == Address("192.0.2.7", 1)
    assert parse_literal("a.name:1") is None
    with pytest.raises(ValueError, match="does not appear to be"):
        Address.parse("a.name:1")


# --- addresses ------------------------------------------------------------------------------------

ZONES = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,14}", fullmatch=True)
PORTS = st.integers(0, 65535)
LINK_LOCAL = st.integers(0, 2**64 - 1).map(
    lambda low: str(ipaddress.IPv6Address(0xFE80 << 112 | low))
)
HOSTS = st.one_of(
    st.ip_addresses().map(str),
    LINK_LOCAL,
    st.tuples(LINK_LOCAL, ZONES).map("%".join),
    st.ip_addresses(v=4).map(lambda ipv4: f"::ffff:{ipv4}"),
    st.ip_addresses(v=6).map(lambda ipv6: ipv6.exploded.upper()),
)


@given(HOSTS, PORTS)
def test_an_address_has_one_spelling_and_parses_back(host: str, port: int) -> None:
    address = Address.parse(join_host_port(host, port))
    assert Address.parse(str(address)) == address == parse_literal(str(address))
    assert str(Address.parse(str(address))) == str(address)
    assert canonical_host(address.host) == address.host
    assert not address.host.startswith("::ffff:")
    assert ("%" in host) == ("%" in address.host)
    assert "%" not in address.without_zone.host


@given(HOSTS, PORTS)
def test_an_address_survives_records_and_state_files_unchanged(host: str, port: int) -> None:
    address = Address(canonical_host(host), port)
    identity = Identity(bytes(32))
    record = PeerRecord(identity.peer_id, 1, 0, (address,), "", "", 0, 0, False).signed(
        identity, "c"
    )
    assert decode_record_bytes(encode_record(record)).addresses == (address,)
    saved = NodeState(bytes(32), 1, (), ((identity.peer_id, address),))
    assert decode_state(encode_state(saved)).peers == saved.peers


@pytest.mark.parametrize(
    ("written", "is_meant"),
    [
        ("[::FFFF:192.0.2.1]:80", "192.0.2.1:80"),
        ("[2001:DB8:0:0::1]:00080", "[2001:db8::1]:80"),
        ("[FE80::1%eth0]:80", "[fe80::1%eth0]:80"),
        ("[2001:db8::1%eth0]:80", "[2001:db8::1]:80"),
    ],
)
def test_other_spellings_of_an_address_parse_to_the_same_one(written: str, is_meant: str) -> None:
    assert str(Address.parse(written)) == is_meant


@pytest.mark.parametrize(
    "host",
    [
        "010.0.0.1",
        "1.2",
        "127.1",
        "256.1.1.1",
        "0x7f.1",
        "1.2.3.4.",
        "a..b",
        ".a",
        "a" * 64,
        "x." * 130 + "y",
        "12345",
    ],
)
def test_an_invalid_host_is_refused(host: str) -> None:
    with pytest.raises(ValueError, match=r"host|IPv4"):
        parse_literal(f"{host}:80")


@pytest.mark.parametrize("text", ["[fe80::1%]:80", "[1::2::3]:80", "[::g]:80", "[a%b]:80"])
def test_brackets_require_an_ipv6_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"IPv6|contains"):
        parse_literal(text)


@pytest.mark.parametrize(
    "host", ["db", "db.example.", "my_host", "straße.example", "3com.example", "a1"]
)
def test_a_host_name_is_left_to_the_resolver(host: str) -> None:
    assert parse_literal(f"{host}:80") is None


@pytest.mark.parametrize(
    "text",
    [
        "0.0.0.0:80",
        "0.1.2.3:80",
        "[::]:80",
        "255.255.255.255:80",
        "224.0.0.1:80",
        "[ff02::1]:80",
        "[::ffff:0.0.0.0]:80",
        "240.0.0.1:80",
        "192.0.2.1:0",
    ],
)
def test_an_address_of_no_single_machine_cannot_be_advertised(text: str) -> None:
    assert Address.parse(text).undialable_reason
    with pytest.raises(ConfigError, match="advertise"):
        NodeConfig(advertise=text)


@pytest.mark.parametrize(
    "text", ["127.0.0.1:80", "10.0.0.1:80", "169.254.1.1:80", "[fe80::1%eth0]:80", "[fd00::1]:80"]
)
def test_a_unicast_address_can_be_advertised(text: str) -> None:
    assert NodeConfig(advertise=text).advertise == text


@pytest.mark.parametrize("peer", ["a..b:80", "010.0.0.1:80", "10.0.0.1:0", "x" * 64 + ":80"])
def test_an_undialable_bootstrap_peer_is_refused_by_the_configuration(peer: str) -> None:
    with pytest.raises(ConfigError, match="bootstrap_peers"):
        NodeConfig(bootstrap_peers=[peer])


def test_ids_and_addresses_format_as_their_text() -> None:
    peer_id = PeerId(bytes(range(32)))
    assert f"{peer_id:.8}" == peer_id.short == "00010203"
    assert f"{peer_id}" == str(peer_id)
    assert f"{MessageId(peer_id, 7, 1, is_direct=True):>71}" == f"  {peer_id}:7:p1"
    assert f"[{Address('::1', 8000):<12}]" == "[[::1]:8000  ]"


@pytest.mark.parametrize(
    ("host", "is_private"),
    [
        ("10.0.0.1", True),
        ("127.0.0.1", True),
        ("172.31.255.255", True),
        ("172.32.0.0", False),
        ("192.168.1.2", True),
        ("100.64.0.1", False),
        ("198.51.100.7", False),
        ("fd00::1", False),
    ],
)
def test_other_networks_use_the_same_private_addresses(host: str, is_private: bool) -> None:
    assert Address(host, 8000).is_private is is_private
