"""Hosts, routers, switches and cables of the lab, as network namespaces of this machine.

Invariants:

- All bridges and all ports of cables are in one namespace, which forwards frames and has no address. A host
  sees its own end of a cable and nothing else.
- Networks of different routers may use the same addresses, as homes do.
"""

from __future__ import annotations

import ipaddress
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from tests import namespaces
from tests.namespaces import NamespaceHolder

ROOT: Final = Path(__file__).parent.parent.parent
COMMAND_TIMEOUT_S: Final = 30.0
FIRST_HOST: Final = 10  # of a network; routers have the first address
NODE_PORT: Final = 8000
HOME_NETWORK: Final = "192.168.1.0/24"
QUIET_IPV6: Final = ("all", "default")


def why_not() -> str:
    """Returns why there can be no lab here; empty: there can."""
    rule = "add table inet lab; add chain inet lab input { type filter hook input priority 0; }"
    return namespaces.why_not("the lab", ["unshare", "-n", "nft", rule], "nft")


class Namespace:
    """A network of its own. `run` executes a command there."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._holder = NamespaceHolder("-n")
        self.enter = ["nsenter", "-t", str(self._holder.pid), "-n"]
        self.run("ip link set lo up")
        for scope in QUIET_IPV6:  # addresses are usable at once
            self._write_setting(f"net/ipv6/conf/{scope}/accept_dad", "0")
            self._write_setting(f"net/ipv6/conf/{scope}/router_solicitations", "0")

    @property
    def pid(self) -> int:
        """The process that holds the namespace: `nsenter -t PID -n` enters it."""
        return self._holder.pid

    def run(self, command: str) -> str:
        """Runs a shell command, which must succeed. Returns what it prints."""
        done = subprocess.run(
            [*self.enter, "sh", "-ec", command],
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, f"{self.name}: {command}: {done.stdout}{done.stderr}"
        return done.stdout

    def load_rules(self, table: str, rules: str) -> None:
        """Replaces a table of nftables, ``inet lab`` for example."""
        text = f"table {table} {{}}\ndelete table {table}\ntable {table} {{\n{rules}\n}}\n"
        done = subprocess.run(
            [*self.enter, "nft", "-f", "-"],
            input=text,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, f"{self.name}: {text}{done.stderr}"

    def set_forwarding(self) -> None:
        self._write_setting("net/ipv4/ip_forward", "1")
        self._write_setting("net/ipv6/conf/all/forwarding", "1")

    def _write_setting(self, name: str, value: str) -> None:
        self.run(f"[ ! -e /proc/sys/{name} ] || echo {value} > /proc/sys/{name}")

    def close(self) -> None:
        self._holder.close()


class Cable:
    """A cable from a host to a switch. `interface` is its end at the host, `port` that at the switch."""

    def __init__(self, host: Namespace, interface: str, switch: Namespace, port: str) -> None:
        self.interface = interface
        self._host = host
        self._switch = switch
        self._port = port

    def unplug(self) -> None:
        """The host notices that its interface has no carrier."""
        self._switch.run(f"ip link set {self._port} down")

    def plug(self) -> None:
        self._switch.run(f"ip link set {self._port} up")

    def swallow_frames_above(self, size_bytes: int) -> None:
        """Drops larger IP packets in both directions, without a word to either end (an MTU black hole)."""
        self._switch.run(f"ip link set {self._port} mtu {size_bytes}")

    def limit_rate(self, bits_per_second: int) -> None:
        """Limits what the host sends and receives, with 50 ms of queue."""
        shaper = f"root tbf rate {bits_per_second}bit burst 16kb latency 50ms"
        self._host.run(f"tc qdisc replace dev {self.interface} {shaper}")
        self._switch.run(f"tc qdisc replace dev {self._port} {shaper}")


class Network:
    """A switch. Addresses are given out in order."""

    def __init__(self, bridge: str, prefixes: tuple[str, ...], gateway: Router | None) -> None:
        self.bridge = bridge
        self.gateway = gateway
        self._prefixes = [ipaddress.ip_network(each) for each in prefixes]
        self._next_host = FIRST_HOST

    def next_addresses(self) -> tuple[Address, ...]:
        """Returns an unused address per prefix."""
        number = self._next_host
        self._next_host += 1
        return self.addresses(number)

    def addresses(self, number: int) -> tuple[Address, ...]:
        return tuple(Address(each[number], each.prefixlen) for each in self._prefixes)


@dataclass(frozen=True)
class Address:
    """An IP address of an interface, and the length of its network's prefix."""

    ip: ipaddress.IPv4Address | ipaddress.IPv6Address
    prefix_length: int

    def __str__(self) -> str:
        return f"{self.ip}/{self.prefix_length}"

    @property
    def endpoint(self) -> str:
        """The address of a node there."""
        return f"[{self.ip}]:{NODE_PORT}" if self.ip.version == 6 else f"{self.ip}:{NODE_PORT}"


class Host(Namespace):
    """A computer. Nodes run there."""

    def __init__(self, name: str, directory: Path) -> None:
        super().__init__(name)
        self.directory = directory
        self.cables: list[Cable] = []
        self.addresses: tuple[Address, ...] = ()
        self.network: Network | None = None
        self._silenced: list[str] = []
        self._loss = 0.0

    @property
    def cable(self) -> Cable:
        return self.cables[0]

    @property
    def endpoint(self) -> str:
        """The address of a node on this host, in its own network: the first of several."""
        return self.addresses[0].endpoint

    def set_addresses(self, addresses: tuple[Address, ...], network: Network) -> None:
        """Replaces all addresses and routes of the first interface, as DHCP does after a move."""
        interface = self.cable.interface
        self.run(f"ip address flush dev {interface} scope global")
        for each in addresses:
            self.run(f"ip address add {each} dev {interface}{' nodad' * (each.ip.version == 6)}")
        self.addresses, self.network = addresses, network
        if network.gateway is not None:
            self.run(f"ip route add default via {network.gateway.inside.ip} dev {interface}")

    def keep_only_ip_version(self, version: int) -> None:
        """Removes the addresses of the other version."""
        kept = tuple(each for each in self.addresses if each.ip.version == version)
        assert self.network is not None
        self.set_addresses(kept, self.network)

    def lose(self, share: float) -> None:
        """Drops that share of the UDP packets that arrive."""
        self._loss = share
        self._filter_input()

    def hear_nothing_from(self, *hosts: Host) -> None:
        """Drops all that arrives from these hosts; what goes there is not affected."""
        self._silenced = [str(each.ip) for host in hosts for each in host.addresses]
        self._filter_input()

    def _filter_input(self) -> None:
        rules = [f"meta l4proto udp numgen random mod 1000 < {round(self._loss * 1000)} drop"]
        rules += [f"{'ip6' if ':' in each else 'ip'} saddr {each} drop" for each in self._silenced]
        self.load_rules(
            "inet weather",
            "chain input { type filter hook input priority -300; policy accept;\n"
            + "\n".join(rules)
            + "\n}",
        )


class Nat(Enum):
    """How a router translates addresses, in the terms of RFC 4787 and of RFC 3489."""

    FORWARDED = "forwarded"  # a port that was opened by hand: anyone can send to the node
    CONE = "cone"  # one mapping for all destinations; lets in whom the node has sent to (port restricted)
    SYMMETRIC = "symmetric"  # a mapping per destination, with a random port


class Router(Namespace):
    """A router with a network behind it. `outside` is its address in the network before it."""

    def __init__(self, name: str, nat: Nat | None) -> None:
        super().__init__(name)
        self.nat = nat
        self._ports: str = ""
        self._forward_to: str = ""
        self._service: subprocess.Popen[bytes] | None = None
        self._outside_interface = "eth0"
        self.outside: Address
        self.inside: Address
        self.lan: Network

    def forward_port_to(self, host: Host) -> None:
        """Opens the port of a node on `host` to everyone."""
        self._forward_to = str(host.addresses[0].ip)
        self.load()

    def map_ports(self, protocol: str) -> None:
        """Maps ports from now on when a host asks for it, by ``pcp``, ``nat-pmp`` or ``upnp``."""
        module = "tests.lab.port_mapping_service"
        addresses = (str(self.inside.ip), str(self.outside.ip))
        self._service = subprocess.Popen(
            [*self.enter, sys.executable, "-m", module, *addresses, protocol],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        assert self._service.stdout is not None
        assert self._service.stdout.readline() == b"ready\n"

    @property
    def mapped_ports(self) -> str:
        """The rules of the ports that hosts have asked for."""
        return "\n".join(
            each for each in self.run("nft list ruleset").splitlines() if "dnat to" in each
        )

    def close(self) -> None:
        if self._service is not None:
            assert self._service.stdin is not None
            assert self._service.stdout is not None
            self._service.stdin.close()
            self._service.stdout.close()
            self._service.wait(COMMAND_TIMEOUT_S)
        super().close()

    def load(self) -> None:
        """Loads the rules of the kind of NAT; without one, the router only routes."""
        if self.nat is None:
            return
        port = f"udp dport {NODE_PORT} dnat to {self._forward_to}" if self._forward_to else ""
        ports = f" to :{self._ports}" if self._ports else ""
        order = " fully-random" if self.nat is Nat.SYMMETRIC else ""
        self.load_rules(
            "ip nat",
            f'chain in {{ type nat hook prerouting priority -100; iifname "eth0" {port or "accept"}\n}}\n'
            "chain out { type nat hook postrouting priority 100;\n"
            f'oifname "eth0" meta l4proto udp masquerade{ports}{order}\n'
            'oifname "eth0" masquerade\n}',
        )
        # As home routers do. A packet that were answered by the router would also reserve the port that the
        # mapping of the node behind it needs.
        self.load_rules(
            "ip firewall",
            "chain input { type filter hook input priority 0; policy drop;\n"
            'ct state established,related accept\niifname != "eth0" accept\n}\n'
            "chain forward { type filter hook forward priority 0; policy drop;\n"
            'iifname != "eth0" accept\nct state established,related accept\nct status dnat accept\n}',
        )

    def forget_mappings(self, ports: str = "") -> None:
        """Restarts the router: all mappings are lost, and the new ones use `ports` (``20000-20999``)."""
        self._ports = ports or self._ports
        self.run(f"ip link set {self._outside_interface} down")  # ends masqueraded connections
        self.load()
        self.run(f"ip link set {self._outside_interface} up")

    def move_to(self, address: Address) -> None:
        """The provider gives the router another address."""
        self.run(
            f"ip address flush dev {self._outside_interface};"
            f" ip address add {address} dev {self._outside_interface}"
        )
        self.outside = address


class Topology:
    """Creates networks, hosts and routers, and removes them all. A base of `Lab`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._switch = Namespace("switch")
        self._namespaces: list[Namespace] = [self._switch]
        self._numbers = iter(range(1, 1_000_000))

    def network(self, *prefixes: str, gateway: Router | None = None) -> Network:
        """Creates a switch; `prefixes` are IPv4 or IPv6 networks, or one of each for a dual stack."""
        bridge = f"br{next(self._numbers)}"
        self._switch.run(
            f"ip link add {bridge} type bridge forward_delay 0 mcast_snooping 0"
            f" && ip link set {bridge} up"
        )
        return Network(bridge, prefixes, gateway)

    def host(self, name: str, network: Network) -> Host:
        """Creates a host with a cable to `network`, the next address there, and its default route."""
        host = Host(name, self._directory / name)
        self._namespaces.append(host)
        host.cables.append(self.connect(host, network, "eth0"))
        host.set_addresses(network.next_addresses(), network)
        return host

    def router(
        self, name: str, outside: Network, nat: Nat | None = Nat.CONE, lan: str = HOME_NETWORK
    ) -> Router:
        """Creates a router between `outside` and a new network `lan`, whose default route it is."""
        router = Router(name, nat)
        self._namespaces.append(router)
        self.connect(router, outside, "eth0")
        (router.outside,) = outside.next_addresses()
        router.lan = self.network(lan, gateway=router)
        self.connect(router, router.lan, "eth1")
        (router.inside,) = router.lan.addresses(1)
        router.run(f"ip address add {router.outside} dev eth0")
        router.run(f"ip address add {router.inside} dev eth1")
        router.set_forwarding()
        router.load()
        return router

    def offices(self, count: int, hosts_each: int) -> list[Host]:
        """Creates routed networks, each with hosts, and all hosts of them. For many hosts: the kernel has one
        table of 1,024 neighbors for all namespaces, and hosts of different networks are no neighbors."""
        backbone = self.network("10.8.0.0/24")
        routers = [
            self.router(f"router-{each}", backbone, nat=None, lan=f"10.9.{each}.0/24")
            for each in range(count)
        ]
        for router in routers:
            for number, other in enumerate(routers):
                if other is not router:
                    router.run(f"ip route add 10.9.{number}.0/24 via {other.outside.ip}")
        return [
            self.host(f"host-{office}-{number}", router.lan)
            for office, router in enumerate(routers)
            for number in range(hosts_each)
        ]

    def connect(self, host: Namespace, network: Network, interface: str) -> Cable:
        """Lays a cable from a new interface of `host` to `network`."""
        port = f"port{next(self._numbers)}"
        self._switch.run(
            f"ip link add {port} master {network.bridge} type veth"
            f" peer name {interface} netns {host.pid} && ip link set {port} up"
        )
        host.run(f"ip link set {interface} up")
        return Cable(host, interface, self._switch, port)

    def replug(self, host: Host, network: Network) -> None:
        """Moves the first cable of `host` to `network`, where it gets another address."""
        cable = host.cable
        self._switch.run(f"ip link set {cable._port} master {network.bridge}")
        host.set_addresses(network.next_addresses(), network)

    def close_topology(self) -> None:
        for each in self._namespaces:
            each.close()


def pairs(items: tuple[Nat, ...]) -> Iterator[tuple[Nat, Nat]]:
    """Each pair once, also of an item with itself."""
    for index, each in enumerate(items):
        for other in items[index:]:
            yield each, other
