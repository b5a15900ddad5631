"""Relays: datagrams between two peers of a node that cannot reach each other, passed on as they are.

A relayed datagram is an ordinary one, inside a message of a session with the relay. Its ends address each
other by `Address`es of their own that stand for (relay, remote) and never leave the node: they lie in the
discard prefix 100::/64 (RFC 6666), so handshakes, rate limits and sessions need not know of relays.

Invariants:

- The session between the ends is their own: a relay sees sizes, reads nothing and can forge nothing.
- A node relays only between peers that have a session with it, one hop, and only with `NodeConfig.relay`.
- What a peer sends to be relayed is limited in bytes, per peer and in all; the rest is dropped and counted.
- Only transient sessions go through relays. A link would add no way for messages: its ends have the relay
  as a common peer. So no address of this module reaches the overlay.
- At most `WAYS_LIMIT` addresses are remembered; the one unused for longest is forgotten.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Final, NamedTuple

from grapevine_proto.config.live import LiveConfig
from grapevine_proto.crypto.identity import digest
from grapevine_proto.ids import RELAY_NETWORK, Address, PeerId
from grapevine_proto.token_bucket import TokenBucket
from grapevine_proto.transport.link.link import Link
from grapevine_proto.wire import codec
from grapevine_proto.wire.messages import RELAY_MARK_BYTES, Relayed

WAYS_LIMIT: Final = 256
SENDERS_LIMIT: Final = 256
SENDER_BYTES_PER_S: Final = 256 * 1024
ALL_BYTES_PER_S: Final = 2 * 1024 * 1024
MIN_COUNTED_BYTES: Final = 256  # a small datagram costs as much work
_DOMAIN: Final = b"grapevine relay address 1"
_PORT: Final = 1


class Way(NamedTuple):
    """What an address of a relay stands for. `mark`: the beginning of the remote's ID."""

    relay: PeerId
    mark: bytes


def mark_of(peer_id: PeerId) -> bytes:
    """What identifies a peer to a relay."""
    return peer_id[:RELAY_MARK_BYTES]


class Relays:
    """The ways of this node through relays, and the budgets of the peers that use it as one. `session_with`
    returns the link or transient session with a peer, `find_peer` the peer with a session whose ID begins
    like this. `relayed` counts datagrams passed on, `refused` those dropped instead."""

    def __init__(
        self,
        config: LiveConfig,
        session_with: Callable[[PeerId], Link | None],
        find_peer: Callable[[bytes], PeerId | None],
        now: float,
    ) -> None:
        self._config = config
        self._session_with = session_with
        self._find_peer = find_peer
        self._ways: dict[Address, Way] = {}  # the latest used last
        self._budgets: dict[PeerId, TokenBucket] = {}  # by sender, the latest last
        self._total_budget = TokenBucket(2 * ALL_BYTES_PER_S, ALL_BYTES_PER_S, now)
        self.relayed = self.relayed_bytes = 0
        self.refused = 0

    # --- ends -----------------------------------------------------------------------------------

    @property
    def has_ways(self) -> bool:
        """Whether anything may have to be sent through a relay."""
        return bool(self._ways)

    def address_via(self, relay: PeerId, mark: bytes) -> Address:
        """Returns the address that stands for the peer with this mark, through `relay`."""
        suffix = int.from_bytes(digest(_DOMAIN, relay, mark, size=8), "big")
        address = Address(
            str(ipaddress.IPv6Address(int(RELAY_NETWORK.network_address) | suffix)), _PORT
        )
        self._ways.pop(address, None)
        self._ways[address] = Way(relay, mark)
        if len(self._ways) > WAYS_LIMIT:
            del self._ways[next(iter(self._ways))]
        return address

    def wrap(self, datagram: bytes, address: Address) -> tuple[Link, bytes] | None:
        """Returns the session with the relay and what to send on it; None: the way is gone."""
        way = self._ways.get(address)
        link = None if way is None else self._session_with(way.relay)
        if way is None or link is None or link.address.is_via_relay:
            return None
        return link, codec.encode_message(Relayed(False, way.mark, datagram))

    # --- the relay ------------------------------------------------------------------------------

    def admit(self, sender: Link, message: Relayed, now: float) -> bool:
        """Whether a message of `sender` may be passed on, or taken as its end; counted if not. A session that
        goes through a relay carries none."""
        size_bytes = max(len(message.datagram), MIN_COUNTED_BYTES)
        if sender.address.is_via_relay or not self._try_take(sender.peer_id, size_bytes, now):
            self.refused += 1
            return False
        return True

    def forward(self, sender: Link, message: Relayed) -> tuple[Link, bytes] | None:
        """Returns the session to pass an admitted datagram on to, and what to send on it; None: there is
        none, or this node does not relay. Counts both."""
        peer_id = self._find_peer(message.mark) if self._config.current.relay else None
        target = None if peer_id is None else self._session_with(peer_id)
        if target is None or target is sender or target.address.is_via_relay:
            self.refused += 1
            return None
        self.relayed += 1
        self.relayed_bytes += len(message.datagram)
        passed_on = Relayed(True, mark_of(sender.peer_id), message.datagram)
        return target, codec.encode_message(passed_on)

    def _try_take(self, peer_id: PeerId, size_bytes: int, now: float) -> bool:
        budget = self._budgets.pop(peer_id, None)
        if budget is None:
            budget = TokenBucket(2 * SENDER_BYTES_PER_S, SENDER_BYTES_PER_S, now)
        self._budgets[peer_id] = budget
        if len(self._budgets) > SENDERS_LIMIT:
            del self._budgets[next(iter(self._budgets))]
        return budget.try_take(now, size_bytes) and self._total_budget.try_take(now, size_bytes)
