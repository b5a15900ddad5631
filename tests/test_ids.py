"""Addresses as people write them: what is taken, and what is said where it is none."""

from __future__ import annotations

import pytest

from grapevine_proto.ids import Address, join_host_port, literal, split_host_port


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
def test_a_name_or_an_address_with_a_port_is_taken(text: str, host: str, port: int) -> None:
    assert split_host_port(text) == (host, port)
    assert split_host_port(join_host_port(host, port)) == (host, port)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("nonsense", "is not host:port"),
        (":8000", "is not host:port"),
        ("host:", "a port is a number"),
        ("host:65536", "a port is a number"),
        ("host:²", "a port is a number"),
        ("::1:8000", r"written \[::1:8000\]:port"),
        ("host with space:1", "' ' stands in no host's name"),
        ("a\tb:1", r"'\\t' stands in no host's name"),
        ("user@host:1", "'@' stands in no host's name"),
        ("[::1 ]:1", "' ' stands in no host's name"),
        ("[:8000", r"'\[' stands in no host's name"),
        ("http://host:1", "no scheme"),
    ],
)
def test_what_is_neither_is_refused_by_what_is_wrong_with_it(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        split_host_port(text)


def test_only_a_literal_is_an_address() -> None:
    assert literal("192.0.2.7:1") == Address("192.0.2.7", 1)
    assert literal("a.name:1") is None
    with pytest.raises(ValueError, match="does not appear to be"):
        Address.parse("a.name:1")
