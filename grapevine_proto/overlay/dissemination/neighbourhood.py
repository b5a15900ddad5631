"""Whom a strategy can reach, and the few of them who are near.

Ids go to near peers alone: in a mesh of fifty, telling every link would cost more datagrams than the
message itself. Near are the next and the last before us on four rings, on which peers stand by
parts of their ids; so in a full mesh both ends find each other near, and each ring alone connects
all. Where links are fewer than members, who finds us near is near to us as well.

What must stay true: `near` depends on who is linked and who calls, on nothing else, and holds all
links where they are few, at most `NEAR_LIMIT` else, and as many callers.
"""

from __future__ import annotations

import math
import random
from collections.abc import Container, Sequence
from typing import Final

from grapevine_proto.config import NodeConfig
from grapevine_proto.events import MemberStatus
from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.members import MemberTable
from grapevine_proto.overlay.peers import PeerTable
from grapevine_proto.overlay.selection import choose

RINGS: Final = 4
NEAR_LIMIT: Final = 2 * RINGS
MAIL_RINGS: Final = 4  # on which those behind us are told of what was mailed to all
POINT_BYTES: Final = 8  # of an id, which is a public key and as good as random
LEAST_HOPS: Final = 10


class Neighbourhood:
    """A view of the peer and member tables. `our_id` stands on the rings too."""

    def __init__(
        self,
        config: NodeConfig,
        our_id: PeerId,
        peers: PeerTable,
        members: MemberTable,
        rng: random.Random,
    ) -> None:
        self._config = config
        self._rng = rng
        self._our_id = our_id
        self._peers = peers
        self._members = members
        self._near: tuple[PeerId, ...] = ()
        self._behind: tuple[PeerId, ...] = ()
        self._as_of: tuple[PeerId, ...] = ()
        self._callers: dict[PeerId, None] = {}

    def reconfigure(self, config: NodeConfig) -> None:
        self._config = config

    @property
    def linked(self) -> Sequence[PeerId]:
        return self._peers.linked

    def is_linked(self, peer_id: PeerId) -> bool:
        return self._peers.is_linked(peer_id)

    def answers(self, peer_id: PeerId) -> bool:
        """Whether `peer_id` is linked, and answered when it was last asked."""
        peer = self._peers.get(peer_id)
        return peer is not None and self._peers.is_linked(peer_id) and not peer.is_unresponsive

    def rtt_s(self, peer_id: PeerId) -> float:
        return self._peers.rtt_s(peer_id)

    def choose(
        self,
        count: int,
        *,
        but: Container[PeerId] = (),
        among: Sequence[PeerId] | None = None,
    ) -> list[PeerId]:
        """`count` linked peers, or of those `among` them, that are not in `but`, as `distribution`
        prefers them."""
        return choose(
            self._peers.linked if among is None else among,
            count,
            self._rng,
            distribution=self._config.distribution,
            zone=self._config.zone,
            zone_of=self._peers.zone_of,
            but=but,
        )

    @property
    def near(self) -> Sequence[PeerId]:
        """A few linked peers; all of them together connect whoever is linked at all."""
        self._look()
        return self._near

    @property
    def behind(self) -> Sequence[PeerId]:
        """Those next after us on the rings: with everybody linked, each is behind as many."""
        self._look()
        return self._behind

    def called(self, peer_id: PeerId) -> None:
        """`peer_id` finds us near."""
        self._look()
        is_new = peer_id not in self._near and self._peers.is_linked(peer_id)
        if is_new and len(self._callers) < NEAR_LIMIT:
            self._callers[peer_id] = None
            self._near = (*self._near, peer_id)

    def _look(self) -> None:
        linked = self._peers.linked
        if linked is self._as_of:
            return
        self._as_of = linked
        self._callers.clear()
        behind: dict[PeerId, None] = {}
        near: dict[PeerId, None] = {}
        if linked:
            for ring in range(RINGS):
                after, before = self._beside_us(ring)
                near[after] = near[before] = None
                if ring < MAIL_RINGS:
                    behind[after] = None
        self._behind = tuple(behind)
        self._near = tuple(near) if len(linked) > NEAR_LIMIT else tuple(linked)

    def _beside_us(self, ring: int) -> tuple[PeerId, PeerId]:
        """Who is next after us on a ring, and who last before us."""
        cut = slice(ring * POINT_BYTES, (ring + 1) * POINT_BYTES)
        here = self._our_id[cut]
        points = [(peer_id[cut], peer_id) for peer_id in self._as_of]
        after = min(points, key=lambda point: (point[0] < here, point[0]))
        before = max(points, key=lambda point: (point[0] < here, point[0]))
        return after[1], before[1]

    def is_everybody_linked(self) -> bool:
        """Whether each member that is not gone is linked."""
        is_linked, gone = self._peers.is_linked, (MemberStatus.DOWN, MemberStatus.LEFT)
        return bool(self._peers.linked) and all(
            member.status in gone or is_linked(member.record.peer_id) for member in self._members
        )

    @property
    def hops_limit(self) -> int:
        """How many relays a push may take where a strategy has no figure of its own: twice what a
        tree of two children each needs."""
        return max(LEAST_HOPS, 2 * math.ceil(math.log2(len(self._members) + 2)))
