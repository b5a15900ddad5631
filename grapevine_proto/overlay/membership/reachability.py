"""How this node is reached from outside: the addresses at which its peers see it, and who introduces it.

Peers report an address that the record of this node does not contain (RFC 8489 calls it reflexive). One
that several report is added to the record. A node whose peers see it elsewhere is behind a NAT: its record
then names peers that introduce it, so that both ends dial at once (see `wire.attributes`).

Invariants:

- An address enters the record only if `QUORUM_HOSTS` linked peers on different hosts report it, so no
  single member can move a node. The one in use changes only for one with more reports.
- At most one report per linked peer counts, the latest.
- The record is signed again at most every `SIGN_INTERVAL_S` for reasons of this module. Without a report
  it is never.
- With `NodeConfig.advertise` reports are ignored: the operator knows better.

A component of `membership`.
"""

from __future__ import annotations

import math
from typing import Final

from grapevine_proto.ids import Address, PeerId, is_link_local
from grapevine_proto.overlay.context import OverlayContext
from grapevine_proto.overlay.effects import Effect, Send
from grapevine_proto.overlay.membership.local_record import LocalRecord
from grapevine_proto.overlay.peers import Peer
from grapevine_proto.wire.attributes import INTRODUCER_PREFIX_BYTES, MAX_INTRODUCERS
from grapevine_proto.wire.messages import ObservedAddress

QUORUM_HOSTS: Final = 2
SIGN_DELAY_S: Final = 0.25  # after the first report: others follow within a round trip
SIGN_INTERVAL_S: Final = 5.0


class Reachability:
    """Owns the reports of peers about the address of this node. `advance` signs what follows from them."""

    def __init__(self, context: OverlayContext, local_record: LocalRecord) -> None:
        self._config = context.config
        self._peers = context.peers
        self._local_record = local_record
        self._reports: dict[PeerId, Address] = {}  # of linked peers
        self._signed_at = -math.inf
        self.deadline = math.inf
        self.is_behind_nat = False

    # --- what this node tells its peers ---------------------------------------------------------

    def tell(self, peer: Peer) -> list[Effect]:
        """Tells a linked peer where this node sees it, if its record does not say so; once per address."""
        record, address = peer.record, peer.address
        if record is None or address in record.addresses:
            peer.on_address_reported(None)
            return []
        if address == peer.reported_address or _is_local(address):
            return []
        peer.on_address_reported(address)
        return [Send((peer.peer_id,), ObservedAddress(address))]

    # --- what peers tell this node --------------------------------------------------------------

    def on_report(self, report: ObservedAddress, sender: PeerId, now: float) -> None:
        """A peer sees this node at an address that is not in the record."""
        address = report.address
        if not self._peers.is_linked(sender) or self._config.current.advertise:
            return
        if address.undialable_reason or _is_local(address):
            return
        self._reports[sender] = address
        self._schedule(now)

    def on_link_up(self, now: float) -> None:
        """One more peer may introduce this node."""
        if self.is_behind_nat:
            self._schedule(now)

    def on_link_down(self, peer_id: PeerId, now: float) -> None:
        """The report of a peer without a link does not count, and it cannot introduce this node."""
        self._reports.pop(peer_id, None)
        if self.is_behind_nat:
            self._schedule(now)

    def on_mapped(self, now: float) -> None:
        """A router maps another address to this node: peers that see it there see it where it is dialed."""
        if self._reports:
            self._schedule(now)

    def on_network_changed(self) -> None:
        """This machine has other addresses: reports about the earlier ones mean nothing."""
        self._reports.clear()
        self.is_behind_nat = False
        self.deadline = math.inf

    def _schedule(self, now: float) -> None:
        due_at = max(now + SIGN_DELAY_S, self._signed_at + SIGN_INTERVAL_S)
        self.deadline = min(self.deadline, due_at)

    def advance(self, now: float) -> bool:
        """Signs the record again if reports ask for it; returns whether it changed."""
        if now < self.deadline:
            return False
        self.deadline, self._signed_at = math.inf, now
        hosts = self._hosts_by_address()
        current = self._local_record.observed
        observed = agreed_address(hosts, None if current == self._local_record.mapped else current)
        # One report is enough for this: it costs others a question more per dial, and sends nobody elsewhere.
        self.is_behind_nat = bool(hosts) or observed is not None
        introducers = self._introducers() if self.is_behind_nat else None
        return self._local_record.set_reachability(observed, introducers)

    def _hosts_by_address(self) -> dict[Address, set[str]]:
        """The hosts of the peers that report each address, without the one that a router maps: it is
        advertised anyway, and whoever is seen there needs no introduction."""
        hosts: dict[Address, set[str]] = {}
        for peer_id, address in self._reports.items():
            peer = self._peers.get(peer_id)
            if peer is not None and address != self._local_record.mapped:
                hosts.setdefault(address, set()).add(peer.address.host)
        return hosts

    def _introducers(self) -> tuple[bytes, ...]:
        """Prefixes of the peers that introduce this node: the oldest links, first those that are not behind a
        NAT themselves, because everyone reaches them."""
        linked = [peer for peer in map(self._peers.get, self._peers.linked) if peer is not None]
        linked.sort(key=lambda peer: (_is_behind_nat(peer), peer.linked_at or 0.0))
        return tuple(peer.peer_id[:INTRODUCER_PREFIX_BYTES] for peer in linked[:MAX_INTRODUCERS])


def agreed_address(hosts: dict[Address, set[str]], current: Address | None) -> Address | None:
    """The address that most hosts report, if enough do. `current` stays unless another has more reports, or
    enough hosts contradict it without agreeing, as behind a NAT that maps each destination differently."""
    votes = len(hosts.get(current, ())) if current is not None else 0
    best = max(hosts, key=lambda address: len(hosts[address]), default=None)
    if best is not None and len(hosts[best]) >= QUORUM_HOSTS and len(hosts[best]) > votes:
        return best
    against = {host for address, each in hosts.items() if address != current for host in each}
    return None if votes == 0 and len(against) > QUORUM_HOSTS else current


def _is_behind_nat(peer: Peer) -> bool:
    return peer.record is not None and peer.record.introducers is not None


def _is_local(address: Address) -> bool:
    """Whether the address means another machine on each machine."""
    return address.is_loopback or is_link_local(address.host)
