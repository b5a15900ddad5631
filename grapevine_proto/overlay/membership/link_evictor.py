"""Room for links: who goes where there is none, and where else whoever finds none may try.

What must stay true: who is let go is told of somebody to link with instead; and whoever is turned away of
others, who are linked and so alive.

Mechanism of `membership`. `active_view` and `proximity` say which link fits least.
"""

from __future__ import annotations

import random
from typing import Final

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.events import MemberStatus
from grapevine_proto.ids import Address, PeerId
from grapevine_proto.overlay.effects import Disconnect, Effect
from grapevine_proto.overlay.members import MemberTable
from grapevine_proto.overlay.membership.heartbeats import pack_records
from grapevine_proto.overlay.membership.member_updates import UpdateHandler
from grapevine_proto.overlay.peers import PeerTable
from grapevine_proto.overlay.topology.active_view import ActiveView
from grapevine_proto.overlay.topology.selection import uniform
from grapevine_proto.overlay.topology.xbot import ProximityOptimizer
from grapevine_proto.wire.messages import CloseReason, SwapRequest
from grapevine_proto.wire.signed import PeerRecord

UNLINKED_DRAWS: Final = 8  # nearly always enough where half of the members are not linked
REFERRALS_LIMIT: Final = 8  # told to one for whom there is no room


class LinkEvictor:
    """See the module."""

    def __init__(
        self,
        config: NodeConfig,
        peers: PeerTable,
        members: MemberTable,
        active_view: ActiveView,
        proximity: ProximityOptimizer,
        update_handler: UpdateHandler,
        rng: random.Random,
    ) -> None:
        self._config = config
        self._peers = peers
        self._members = members
        self._active_view = active_view
        self._proximity = proximity
        self._update_handler = update_handler
        self._rng = rng

    def reconfigure(self, config: NodeConfig) -> None:
        self._config = config

    @property
    def has_room(self) -> bool:
        return self._active_view.has_room

    def make_room(
        self,
        newcomer: PeerRecord,
        now: float,
        *,
        wants_room: bool,
        source: Address | None = None,
        is_outbound: bool = False,
    ) -> list[Effect]:
        """Let a link go for `newcomer` where there is no room, and name the one to the other. `source`
        is where it is, and `is_outbound` whether this node dialed it."""
        if self.has_room:
            return []
        victim = self._active_view.pick_victim(
            newcomer.peer_id, now, wants_room=wants_room, source=source, is_outbound=is_outbound
        )
        if victim is None:
            return []
        detail = _eviction_reason(newcomer)
        return [Disconnect(victim, CloseReason.FULL, detail, (newcomer,))]

    def make_room_for_nearer(
        self,
        newcomer: PeerRecord,
        swap_request: SwapRequest,
        rtt_s: float | None,
        now: float,
        *,
        source: Address | None = None,
    ) -> list[Effect]:
        """Let a link go for `newcomer`, which says that it is near, where it is nearer by what we
        measured; whoever goes is told of the one that goes at the other end."""
        if self.has_room:
            return []
        victim = self._proximity.pick_victim(newcomer, rtt_s, now, source)
        if victim is None or not self._active_view.try_take_eviction(now):
            return []
        effects = self._update_handler.on_records((swap_request.swap_for,), newcomer.peer_id, now)
        other = self._members.get(swap_request.swap_for.peer_id)
        referrals = (
            (other.record,) if other is not None and swap_request.swap_for.peer_id != victim else ()
        )
        self._proximity.links_optimized += 1
        detail = f"{_eviction_reason(newcomer)}, which is nearer"
        return [*effects, Disconnect(victim, CloseReason.FULL, detail, referrals)]

    def swap_link(self, victim: PeerRecord, nearer: PeerRecord) -> list[Effect]:
        """`nearer` made room for us: let `victim` go for it."""
        if self.has_room or not self._peers.is_linked(victim.peer_id):
            return []
        self._proximity.links_optimized += 1
        detail = f"{_eviction_reason(nearer)}, which is nearer"
        return [Disconnect(victim.peer_id, CloseReason.FULL, detail)]

    def random_unlinked(self) -> PeerId | None:
        """A member thought to be up that is not linked, drawn evenly, where a few draws find one."""
        for member in self._members.sample(UNLINKED_DRAWS, self._rng):
            peer_id = member.record.peer_id
            is_dialable = member.status is MemberStatus.UP and member.address is not None
            if is_dialable and not self._peers.is_linked(peer_id):
                return None if peer_id in self._config.denied else peer_id
        return None

    def referrals(self, exclude: PeerId) -> tuple[PeerRecord, ...]:
        """Where else a newcomer may try, when there is no room here: what fits one datagram."""
        linked = uniform(self._peers.linked, REFERRALS_LIMIT, self._rng, exclude=(exclude,))
        members = (self._members.get(peer_id) for peer_id in linked)
        messages = pack_records([member.record for member in members if member is not None])
        return messages[0].records if messages else ()


def _eviction_reason(newcomer: PeerRecord) -> str:
    """For people: why a link ended."""
    return f"let go for {newcomer.name or newcomer.peer_id.short}"
