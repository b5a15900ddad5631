"""Near peers: the few linked peers to which IDs are announced.

In a mesh of fifty, announcing on every link would cost more datagrams than the message itself.
Peers are placed on four rings by parts of their peer IDs; our successor and predecessor on each
ring are near. In a full mesh nearness is thus mutual, and each ring alone connects all nodes. In a
partial mesh, a peer that announces to us becomes near as well.

Invariants:

- `near` depends only on which peers are linked and which have announced to us. It holds all links
  if they are few, otherwise at most `NEAR_PEERS_LIMIT`, plus as many callers.
"""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from typing import Final

from grapevine_proto.events import MemberStatus
from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.context import OverlayContext
from grapevine_proto.overlay.topology.selection import choose

RING_COUNT: Final = 4
NEAR_PEERS_LIMIT: Final = 2 * RING_COUNT
RING_POINT_BYTES: Final = 8  # of a peer ID, which is a public key and thus as good as random
MIN_HOPS_LIMIT: Final = 10
NEWCOMER_INTERVALS: Final = 2.0  # of heartbeats, on which the record of a new member spreads


class NearPeers:
    """The linked peers as strategies see them. `our_id` is placed on the rings too."""

    def __init__(self, context: OverlayContext) -> None:
        self._config = context.config
        self._rng = context.rng
        self._our_id = context.our_id
        self._peers = context.peers
        self._members = context.members
        self._near: tuple[PeerId, ...] = ()
        self._ring_successors: tuple[PeerId, ...] = ()
        self._computed_for: tuple[PeerId, ...] = ()
        self._close_peers: tuple[PeerId, ...] = ()
        self._newest_link_at = -math.inf  # of the close peers
        self._callers: dict[PeerId, None] = {}
        self._unanswering: set[PeerId] = set()  # of the linked ones

    @property
    def linked(self) -> Sequence[PeerId]:
        return self._peers.linked

    def is_linked(self, peer_id: PeerId) -> bool:
        return self._peers.is_linked(peer_id)

    def is_responsive(self, peer_id: PeerId) -> bool:
        """Whether `peer_id` is linked and answered its last probe."""
        peer = self._peers.get(peer_id)
        return peer is not None and self._peers.is_linked(peer_id) and not peer.is_unresponsive

    def on_answering_changed(self, peer_id: PeerId, *, is_answering: bool) -> None:
        """`peer_id` acknowledges nothing that this node sends, or does so again."""
        if is_answering:
            self._unanswering.discard(peer_id)
        elif self._peers.is_linked(peer_id):
            self._unanswering.add(peer_id)

    def rtt_s(self, peer_id: PeerId) -> float:
        return self._peers.rtt_s(peer_id)

    def choose(
        self,
        count: int,
        *,
        exclude: Container[PeerId] = (),
        candidates: Sequence[PeerId] | None = None,
    ) -> list[PeerId]:
        """`count` linked peers (or of `candidates`) that are not in `exclude`, drawn as
        `distribution` prefers.
        """
        return choose(
            self._peers.linked if candidates is None else candidates,
            count,
            self._rng,
            distribution=self._config.current.distribution,
            zone=self._config.current.zone,
            zone_of=self._peers.zone_of,
            exclude=exclude,
        )

    @property
    def near(self) -> Sequence[PeerId]:
        """A few linked peers; the near links of all nodes together connect every linked node."""
        self._refresh()
        return self._near

    @property
    def ring_successors(self) -> Sequence[PeerId]:
        """Our successors on the rings; in a full mesh each node is the successor of equally many."""
        self._refresh()
        return self._ring_successors

    def newcomers(self, now: float) -> set[PeerId]:
        """Those of a few links, or of our successors on the rings, that are so new that other members may not
        know their peers. None if most are that new: then a cluster starts, and each node meets all others
        itself."""
        self._refresh()
        since = now - NEWCOMER_INTERVALS * self._config.current.gossip_interval
        if self._newest_link_at <= since:
            return set()
        found = {each for each in self._close_peers if self._linked_at(each) > since}
        return found if 2 * len(found) <= len(self._close_peers) else set()

    def _linked_at(self, peer_id: PeerId) -> float:
        peer = self._peers.get(peer_id)
        return -math.inf if peer is None or peer.linked_at is None else peer.linked_at

    def on_caller(self, peer_id: PeerId) -> None:
        """`peer_id` counts us among its near peers."""
        self._refresh()
        is_new = peer_id not in self._near and self._peers.is_linked(peer_id)
        if is_new and len(self._callers) < NEAR_PEERS_LIMIT:
            self._callers[peer_id] = None
            self._near = (*self._near, peer_id)

    def near_to(self, peer_id: PeerId) -> Sequence[PeerId]:
        """The linked peers to which `peer_id` is near, if they are linked to the same peers as this node."""
        linked = [each for each in self._peers.linked if each != peer_id]
        if len(linked) <= NEAR_PEERS_LIMIT:
            return linked
        rings = (_ring_adjacent(linked, peer_id, ring) for ring in range(RING_COUNT))
        return list(dict.fromkeys(each for pair in rings for each in pair))

    def _refresh(self) -> None:
        linked = self._peers.linked
        if linked is self._computed_for:
            return
        self._computed_for = linked
        self._callers.clear()
        successors: dict[PeerId, None] = {}
        near: dict[PeerId, None] = {}
        if linked:
            for ring in range(RING_COUNT):
                successor, predecessor = _ring_adjacent(linked, self._our_id, ring)
                near[successor] = near[predecessor] = successors[successor] = None
        is_few = len(linked) <= NEAR_PEERS_LIMIT
        self._ring_successors = tuple(successors)
        self._close_peers = tuple(linked) if is_few else self._ring_successors
        self._newest_link_at = max(map(self._linked_at, self._close_peers), default=-math.inf)
        self._near = tuple(linked) if is_few else tuple(near)

    def _knows_members(self, now: float) -> bool:
        """Whether a linked peer has told this node which members it knows: it sends their records just before
        its first heartbeat, which may overtake them by less than a round trip. A node that has just linked
        knows only those that it dialed."""
        return any(
            peer is not None
            and (
                peer.their_heartbeat_number > 1
                or (
                    peer.their_heartbeat_number == 1
                    and now >= peer.their_heartbeat_at + self._peers.rtt_s(peer.peer_id)
                )
            )
            for peer in map(self._peers.get, self._peers.linked)
        )

    def is_fully_linked(self, now: float) -> bool:
        """Whether every member that is not down or left is linked, and acknowledges what it is sent. False
        while this node does not know yet who the members are."""
        is_linked, inactive = self._peers.is_linked, (MemberStatus.DOWN, MemberStatus.LEFT)
        return (
            self._knows_members(now)
            and not self._unanswering
            and all(
                member.status in inactive or is_linked(member.record.peer_id)
                for member in self._members
            )
        )

    @property
    def hops_limit(self) -> int:
        """Maximum number of relays for strategies without their own limit: twice the depth of a
        binary tree.
        """
        return max(MIN_HOPS_LIMIT, 2 * math.ceil(math.log2(len(self._members) + 2)))


def _ring_adjacent(peers: Sequence[PeerId], peer_id: PeerId, ring: int) -> tuple[PeerId, PeerId]:
    """The successor and the predecessor of `peer_id` on a ring of `peers`."""
    point_slice = slice(ring * RING_POINT_BYTES, (ring + 1) * RING_POINT_BYTES)
    own_point = peer_id[point_slice]
    points = [(each[point_slice], each) for each in peers]
    successor = min(points, key=lambda point: (point[0] < own_point, point[0]))
    predecessor = max(points, key=lambda point: (point[0] < own_point, point[0]))
    return successor[1], predecessor[1]
