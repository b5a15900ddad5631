"""Dialable addresses, by the interfaces and routes of a machine."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys

import pytest

from grapevine_proto.runtime.interfaces import dialable_hosts

SCRIPT = (
    "import json, socket; from grapevine_proto.runtime.interfaces import dialable_hosts as hosts;"
    "print(json.dumps([hosts('0.0.0.0', socket.AF_INET), hosts('::', socket.AF_INET6)]))"
)


def dialable_hosts_after(*commands: str) -> list[list[str]]:
    """Returns the dialable hosts of the IPv4 and the IPv6 wildcard address in a network namespace in
    which only these commands of `ip` were run."""
    script = "ip link set lo up; " + "; ".join(f"ip {each}" for each in commands)
    whole = f'set -e; {script}; exec {sys.executable} -c "{SCRIPT}"'
    if not (shutil.which("unshare") and shutil.which("ip")):
        pytest.skip("needs unshare and ip")
    can = subprocess.run(["unshare", "-rn", "ip", "link", "set", "lo", "up"], capture_output=True)
    if can.returncode:
        pytest.skip("no network namespaces here")
    done = subprocess.run(["unshare", "-rn", "sh", "-c", whole], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: list[list[str]] = json.loads(done.stdout)
    return found


WIRE = ("link add v0 type veth peer name v1", "link set v0 up", "link set v1 up")


def test_without_a_default_route_the_addresses_of_interfaces_are_dialed() -> None:
    ipv4, ipv6 = dialable_hosts_after(*WIRE, "addr add 10.8.0.1/24 dev v0")
    assert ipv4 == ["10.8.0.1"]
    assert ipv6[0] == "10.8.0.1"


def test_a_link_local_address_comes_last() -> None:
    ipv4, ipv6 = dialable_hosts_after(
        *WIRE,
        "addr add 169.254.7.7/16 dev v0",
        "addr add 10.8.0.1/24 dev v1",
        "addr add fd00::7/64 dev v0 nodad",
    )
    assert ipv4 == ["10.8.0.1", "169.254.7.7"]
    assert ipv6[:3] == ["10.8.0.1", "fd00::7", "169.254.7.7"]


def test_with_a_default_route_its_source_address_is_dialed() -> None:
    ipv4, _ = dialable_hosts_after(
        *WIRE,
        "addr add 10.8.0.1/24 dev v0",
        "addr add 10.9.0.1/24 dev v1",
        "route add default via 10.9.0.2",
    )
    assert ipv4 == ["10.9.0.1"]


def test_a_machine_with_both_families_is_dialed_at_both() -> None:
    ipv4, ipv6 = dialable_hosts_after(
        *WIRE,
        "addr add 10.9.0.1/24 dev v1",
        "addr add fd00::7/64 dev v1 nodad",
        "route add default via 10.9.0.2",
        "-6 route add default via fd00::1",
    )
    assert ipv4 == ["10.9.0.1"]
    assert ipv6 == ["fd00::7", "10.9.0.1"]


def test_an_interface_that_is_down_is_not_dialed() -> None:
    ipv4, _ = dialable_hosts_after(
        "link add v0 type veth peer name v1", "addr add 10.8.0.1/24 dev v0"
    )
    assert ipv4 == ["127.0.0.1"]


def test_a_machine_with_only_loopback_is_dialed_there() -> None:
    assert dialable_hosts_after("link set lo up") == [["127.0.0.1"], ["::1"]]


def test_a_bound_address_is_dialed_without_its_scope() -> None:
    assert dialable_hosts("10.8.0.1", socket.AF_INET) == ("10.8.0.1",)
    assert dialable_hosts("fe80::1%eth0", socket.AF_INET6) == ("fe80::1",)
