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
        self._callers: dict[PeerId, None] = {}

    @property
    def linked(self) -> Sequence[PeerId]:
        return self._peers.linked

    def is_linked(self, peer_id: PeerId) -> bool:
        return self._peers.is_linked(peer_id)

    def is_responsive(self, peer_id: PeerId) -> bool:
        """Whether `peer_id` is linked and answered its last probe."""
        peer = self._peers.get(peer_id)
        return peer is not None and self._peers.is_linked(peer_id) and not peer.is_unresponsive

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

    def on_caller(self, peer_id: PeerId) -> None:
        """`peer_id` counts us among its near peers."""
        self._refresh()
        is_new = peer_id not in self._near and self._peers.is_linked(peer_id)
        if is_new and len(self._callers) < NEAR_PEERS_LIMIT:
            self._callers[peer_id] = None
            self._near = (*self._near, peer_id)

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
                successor, predecessor = self._ring_adjacent(ring)
                near[successor] = near[predecessor] = successors[successor] = None
        self._ring_successors = tuple(successors)
        self._near = tuple(near) if len(linked) > NEAR_PEERS_LIMIT else tuple(linked)

    def _ring_adjacent(self, ring: int) -> tuple[PeerId, PeerId]:
        """Our successor and predecessor on a ring."""
        point_slice = slice(ring * RING_POINT_BYTES, (ring + 1) * RING_POINT_BYTES)
        our_point = self._our_id[point_slice]
        points = [(peer_id[point_slice], peer_id) for peer_id in self._computed_for]
        successor = min(points, key=lambda point: (point[0] < our_point, point[0]))
        predecessor = max(points, key=lambda point: (point[0] < our_point, point[0]))
        return successor[1], predecessor[1]

    def is_fully_linked(self) -> bool:
        """Whether every member that is not down or left is linked."""
        is_linked, inactive = self._peers.is_linked, (MemberStatus.DOWN, MemberStatus.LEFT)
        return bool(self._peers.linked) and all(
            member.status in inactive or is_linked(member.record.peer_id)
            for member in self._members
        )

    @property
    def hops_limit(self) -> int:
        """Maximum number of relays for strategies without their own limit: twice the depth of a
        binary tree.
        """
        return max(MIN_HOPS_LIMIT, 2 * math.ceil(math.log2(len(self._members) + 2)))
