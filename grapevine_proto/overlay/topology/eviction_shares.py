"""Shares of a full table of links: which links may give way to a newcomer, and to which.

Identities cost nothing to whoever holds the cluster key, so a rule per identity bounds nobody. What does
cost something is an address, time, and to be chosen by others (Heilman et al. 2015, "Eclipse attacks on
Bitcoin's peer-to-peer network", section 8).

Invariants:

- Of the links that this node chose, the oldest, half of `max_peers` at most, give way to nobody.
- Of the others the oldest quarter, and an eighth that messages come over, do not either.
- A host that has its share of the links (an eighth), or a network that has its share (a quarter), gets
  another link only in place of one of its own. A cluster on one host or in one network notices nothing:
  there every link is of that host or network.
- Pure: whether the table is full at all, and how often links give way, is decided by `views`.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable, Container, Iterable, Sequence
from typing import Final, NamedTuple

from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.peers import Peer

SELF_CHOSEN_DIVISOR: Final = (
    2  # one in so many of `max_peers`: links of our own choice that never give way
)
OLDEST_DIVISOR: Final = 4  # the same of the others: links that have lasted
IN_USE_DIVISOR: Final = 8  # and links that messages come over
HOST_DIVISOR: Final = 8  # one in so many of `max_peers` for one host,
NETWORK_DIVISOR: Final = 4  # and for one network,
MIN_SHARE_LINKS: Final = 2  # but not less than this


class NetworkGroup(NamedTuple):
    """What an address is counted as: its host (an IPv6 site of /64), and its network (/24, or /48)."""

    host: int
    network: int


def network_group(host: str) -> NetworkGroup:
    """Where the IP literal `host` stands. All of loopback is one host."""
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
    """Those of the linked `peers` that may give way, the oldest first. `self_chosen`: of our own choice;
    `in_use`: messages come over them."""
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
    """How many links of our own choice give way to nobody."""
    return max_peers // SELF_CHOSEN_DIVISOR


def fair_victims(
    candidates: Sequence[Peer],
    linked: Iterable[Peer],
    newcomer: NetworkGroup | None,
    max_peers: int,
) -> list[Peer]:
    """Those of `candidates` that may go for one at `newcomer`, which is None where nobody is to be
    preferred: of its own host or network where that has its share; else of the host or network that is
    furthest above its share; else any."""
    groups_linked = [network_group(peer.address.host) for peer in linked]
    hosts = Counter(place.host for place in groups_linked)
    networks = Counter(place.network for place in groups_linked)
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
    """Those of `candidates` in the group that is furthest above its share; none where no group is."""
    groups: dict[int, list[Peer]] = {}
    for peer in candidates:
        groups.setdefault(group_of(network_group(peer.address.host)), []).append(peer)
    group = max(groups, key=lambda each: counts[each], default=None)
    return groups[group] if group is not None and counts[group] > share else []
