"""Address policy: which addresses may be dialed because a record claims them.

A record is an unverified claim. Without a policy, records could direct every node of a cluster at a
third host, or at addresses where no node can be. Configured and validated addresses are not subject
to it.

Invariants:

- Pure: depends only on the address and on this node's own addresses.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final

from grapevine_proto.ids import RELAY_HOST_PREFIX, Address

# UDP services that answer any datagram. QUIC servers refuse to send to them for the same reason
# (RFC 9000, section 21.5): our Hello would pass for a request to them.
SERVICE_PORTS: Final = frozenset(
    {0, 7, 9, 13, 17, 19, 37, 53, 69, 111, 123, 137, 138, 161, 162, 389, 427, 500, 514, 520}
    | {1900, 3702, 5351, 5353, 5355, 11211}
)


def can_dial_claimed(claimed: Address, own_addresses: Iterable[Address]) -> bool:
    """Whether a node at `own_addresses` may dial `claimed`.

    Rejects multicast, broadcast, reserved and unspecified addresses, well-known services, and what only a
    table of relays may contain.
    Loopback and link-local addresses are allowed only if this node has such an address itself.
    """
    if claimed.port in SERVICE_PORTS or claimed.host.startswith(RELAY_HOST_PREFIX):
        return False
    host = _parse_ip(claimed.host)
    if host.version == 4 and int(host) >> 24 == 0:  # "this network" (RFC 1122)
        return False
    if host.is_multicast or host.is_unspecified or (host.is_reserved and host.version == 4):
        return False
    if host.is_loopback:
        return any(_parse_ip(each.host).is_loopback for each in own_addresses)
    if host.is_link_local:
        return any(_parse_ip(each.host).is_link_local for each in own_addresses)
    return True


def _parse_ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
