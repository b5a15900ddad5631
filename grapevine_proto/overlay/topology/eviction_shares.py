"""Eviction shares: which links of a full node may be evicted for a newcomer, to resist eclipse
attacks.

Identities are free for a holder of the cluster key, so a limit per identity bounds nothing. An
address, time and being chosen by others do cost something (Heilman 2015, "Eclipse attacks on
Bitcoin's peer-to-peer network", section 8).

Invariants:

- The oldest self-chosen links, at most half of `max_peers`, are never evicted.
- Of the others, the oldest quarter is not, nor is an eighth over which broadcasts travel.
- A host that has its share of the links (an eighth), or a network that has its share (a quarter),
  gets another link only in place of one of its own. This does not affect a cluster on one host or
  in one network, where all links belong to it.
- Pure: `active_view` decides whether the table is full and how often links are evicted.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable, Container, Iterable, Sequence
from typing import Final, NamedTuple

from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.peers import Peer

SELF_CHOSEN_DIVISOR: Final = 2  # fraction of `max_peers` protected as self-chosen
OLDEST_DIVISOR: Final = 4  # fraction of the others protected by age
IN_USE_DIVISOR: Final = 8  # fraction of the others protected by use
HOST_DIVISOR: Final = 8  # fraction of `max_peers` for one host,
NETWORK_DIVISOR: Final = 4  # and for one network,
MIN_SHARE_LINKS: Final = 2  # but at least this many links


class NetworkGroup(NamedTuple):
    """The host of an address (a /64 for IPv6) and its network (a /24, or a /48 for IPv6), as
    integers.
    """

    host: int
    network: int


def network_group(host: str) -> NetworkGroup:
    """The group of the IP literal `host`. All of loopback is one host."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            if address.is_loopback:
                return NetworkGroup(-1, -1)
            return NetworkGroup(int(address) >> 64 << 64, int(address) >> 80 << 80)
        address = address.ipv4_mapped
    if address.is_loopback:
        return NetworkGroup(-1, -1)
    return NetworkGroup(int(address), -2 - (int(address) >> 8))


def evictable(
    peers: Sequence[Peer], max_peers: int, self_chosen: Container[PeerId], in_use: Container[PeerId]
) -> list[Peer]:
    """The linked `peers` that may be evicted, oldest first, given the `self_chosen` ones and those
    `in_use` by broadcasts.
    """
    by_age = sorted(peers, key=lambda peer: peer.linked_at or 0.0)
    protected = set(
        [peer.peer_id for peer in by_age if peer.peer_id in self_chosen][
            : self_chosen_limit(max_peers)
        ]
    )
    others = [peer for peer in by_age if peer.peer_id not in protected]
    younger = others[len(others) // OLDEST_DIVISOR :]
    in_use_protected = [peer for peer in younger if peer.peer_id in in_use][
        : len(others) // IN_USE_DIVISOR
    ]
    return [peer for peer in younger if peer not in in_use_protected]


def self_chosen_limit(max_peers: int) -> int:
    """Number of self-chosen links that are never evicted."""
    return max_peers // SELF_CHOSEN_DIVISOR


def fair_victims(
    candidates: Sequence[Peer],
    linked: Iterable[Peer],
    newcomer: NetworkGroup | None,
    max_peers: int,
) -> list[Peer]:
    """Those of `candidates` that may be evicted for a node in `newcomer` (None: no group is
    preferred).

    If the host or network of the newcomer has its share, only links of that group. Otherwise links
    of the group furthest above its share, or any if none is.
    """
    groups_linked = [network_group(peer.address.host) for peer in linked]
    hosts = Counter(group.host for group in groups_linked)
    networks = Counter(group.network for group in groups_linked)
    host_share = max(max_peers // HOST_DIVISOR, MIN_SHARE_LINKS)
    network_share = max(max_peers // NETWORK_DIVISOR, MIN_SHARE_LINKS)
    if newcomer is not None and hosts[newcomer.host] >= host_share:
        return [
            peer for peer in candidates if network_group(peer.address.host).host == newcomer.host
        ]
    if newcomer is not None and networks[newcomer.network] >= network_share:
        return [
            peer
            for peer in candidates
            if network_group(peer.address.host).network == newcomer.network
        ]
    over_share = _most_over_share(candidates, hosts, host_share, lambda group: group.host)
    return (
        over_share
        or _most_over_share(candidates, networks, network_share, lambda group: group.network)
        or list(candidates)
    )


def _most_over_share(
    candidates: Sequence[Peer],
    counts: Counter[int],
    share: int,
    group_of: Callable[[NetworkGroup], int],
) -> list[Peer]:
    """Those of `candidates` in the group furthest above its share; empty if no group is."""
    groups: dict[int, list[Peer]] = {}
    for peer in candidates:
        groups.setdefault(group_of(network_group(peer.address.host)), []).append(peer)
    group = max(groups, key=lambda each: counts[each], default=None)
    return groups[group] if group is not None and counts[group] > share else []
