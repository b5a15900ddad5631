"""Network address translation in the simulator (RFC 4787): mappings, filters, expiry and rebinding.

Invariants:

- A host behind a NAT has a private address that is valid in its own LAN only; every LAN uses the same
  range. From outside it is reached at a mapping, which only its own datagrams create and keep alive.
- A datagram is translated when it is sent, and filtered when it arrives: of two that cross, both pass
  if each was sent before the other arrived.
- No NAT sends a datagram back into its own LAN (no hairpinning), and none forwards to a private address.
- No random number is drawn: ports and hosts are assigned in order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from grapevine_proto.ids import Address

PRIVATE_PREFIX: Final = "192.168.1."
FIRST_MAPPED_PORT: Final = 20_000
MAX_HOSTS_PER_LAN: Final = 250


class NatKind(StrEnum):
    """Which datagrams a NAT lets in. All but SYMMETRIC give a host one mapping for every destination."""

    FULL_CONE = "full-cone"  # all that are sent to the mapping
    RESTRICTED = "restricted"  # those of hosts that the mapping has sent to
    CONE = "cone"  # port-restricted: those of addresses that the mapping has sent to
    SYMMETRIC = "symmetric"  # another mapping for each destination, which lets in that one


@dataclass(frozen=True, slots=True)
class Nat:
    """The NAT that a node is behind. Nodes with the same `lan` share one; otherwise it is the node's own."""

    kind: NatKind
    lan: str = ""


@dataclass(slots=True)
class _Mapping:
    """An external port of a NAT. `sent_to`: destinations, each with the time of the last datagram."""

    number: int  # of the node
    port: int
    used_at: float
    sent_to: dict[Address, float] = field(default_factory=dict)


@dataclass(slots=True)
class _Router:
    """One NAT and the LAN behind it."""

    index: int
    kind: NatKind
    hosts: dict[Address, int] = field(default_factory=dict)  # private address to node
    moves: int = 0
    by_source: dict[tuple[int, Address | None], _Mapping] = field(default_factory=dict)
    by_port: dict[int, _Mapping] = field(default_factory=dict)
    next_port: int = FIRST_MAPPED_PORT

    @property
    def external_host(self) -> str:
        return f"100.{64 + self.moves}.{self.index >> 8 & 255}.{self.index & 255}"


@dataclass(frozen=True, slots=True)
class Route:
    """Where a datagram goes. `source`: the address that its receiver sees. `mapped_port`: the mapping that it
    has to pass when it arrives; 0: none."""

    number: int
    source: Address
    mapped_port: int


class NatModel:
    """All NATs of a simulation. Nodes are identified by number; those without a NAT are public."""

    def __init__(self, nats: Mapping[int, Nat | str], mapping_ttl_s: float) -> None:
        self._nats = {number: _to_nat(nat) for number, nat in nats.items()}
        self._mapping_ttl_s = mapping_ttl_s
        self._routers: dict[int | str, _Router] = {}
        self._router_of: dict[int, _Router] = {}
        self._by_host: dict[str, _Router] = {}
        self._public: dict[Address, int] = {}
        self._addresses: dict[int, Address] = {}

    def is_public(self, number: int) -> bool:
        """Whether a node is reached at its own address from everywhere."""
        return number not in self._nats

    def add(self, number: int, address: Address) -> Address:
        """Adds a node. Returns its own address: `address`, or a private one."""
        nat = self._nats.get(number)
        if nat is None:
            self._public[address] = number
            return address
        router = self._routers.get(nat.lan or number)
        if router is None:
            router = _Router(len(self._routers), nat.kind)
            self._routers[nat.lan or number] = self._by_host[router.external_host] = router
        if router.kind is not nat.kind or len(router.hosts) >= MAX_HOSTS_PER_LAN:
            raise ValueError(f"node {number}: the NAT of {nat.lan!r} is {router.kind}, or full")
        private = Address(f"{PRIVATE_PREFIX}{len(router.hosts) + 2}", address.port)
        router.hosts[private] = number
        self._router_of[number] = router
        self._addresses[number] = private
        return private

    def rename(self, number: int, before: Address, after: Address) -> None:
        """A public node has another address."""
        self._public.pop(before)
        self._public[after] = number

    def external_host(self, number: int) -> str:
        """The host from which a node behind a NAT is seen outside."""
        return self._router_of[number].external_host

    def rebind(self, number: int) -> None:
        """The NAT of this node forgets all mappings, as after a reboot."""
        router = self._router_of[number]
        router.by_source.clear()
        router.by_port.clear()

    def move(self, number: int) -> None:
        """The NAT of this node gets another external host, as from an Internet provider."""
        self.rebind(number)
        router = self._router_of[number]
        del self._by_host[router.external_host]
        router.moves += 1
        self._by_host[router.external_host] = router

    def route(self, number: int, source: Address, to: Address, now: float) -> Route | None:
        """Translates a datagram of node `number` at `source`; None: nobody is there."""
        router = self._router_of.get(number)
        if router is not None:
            neighbor = router.hosts.get(to)
            if neighbor is not None:
                return Route(neighbor, source, 0)
            if to.host.startswith(PRIVATE_PREFIX) or to.host == router.external_host:
                return None
            source = self._map(router, number, to, now)
        target = self._public.get(to)
        if target is not None:
            return Route(target, source, 0)
        outer = self._by_host.get(to.host)
        mapping = None if outer is None else outer.by_port.get(to.port)
        return None if mapping is None else Route(mapping.number, source, mapping.port)

    def _map(self, router: _Router, number: int, to: Address, now: float) -> Address:
        """Returns the external address of a datagram that leaves a LAN."""
        key = number, to if router.kind is NatKind.SYMMETRIC else None
        mapping = router.by_source.get(key)
        if mapping is None or self._is_expired(mapping.used_at, now):
            if mapping is not None:
                router.by_port.pop(mapping.port, None)
            mapping = _Mapping(number, router.next_port, now)
            router.next_port += 1
            router.by_source[key] = router.by_port[mapping.port] = mapping
        mapping.used_at = mapping.sent_to[to] = now
        return Address(router.external_host, mapping.port)

    def admits(self, number: int, mapped_port: int, source: Address, now: float) -> bool:
        """Whether a datagram from `source` to this mapping of a node gets in now."""
        router = self._router_of[number]
        mapping = router.by_port.get(mapped_port)
        if mapping is None or self._is_expired(mapping.used_at, now):
            return False
        if router.kind is NatKind.FULL_CONE:
            return True
        if router.kind is NatKind.RESTRICTED:
            sent = (at for to, at in mapping.sent_to.items() if to.host == source.host)
            return not self._is_expired(max(sent, default=float("-inf")), now)
        return not self._is_expired(mapping.sent_to.get(source, float("-inf")), now)

    def _is_expired(self, used_at: float, now: float) -> bool:
        return now - used_at > self._mapping_ttl_s


def _to_nat(nat: Nat | str) -> Nat:
    return nat if isinstance(nat, Nat) else Nat(NatKind(nat))
