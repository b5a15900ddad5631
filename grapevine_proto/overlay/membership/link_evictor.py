"""Link eviction: closes a link for a newcomer when all slots are taken, and refers rejected nodes to
other peers. Which link is chosen by `active_view.pick_victim`, and by `xbot` for a nearer newcomer.

Invariants:

- An evicted peer receives a replacement to link with.
- A rejected node receives referrals to linked peers, which are known to be alive.

A component of `membership` (HyParView, Leitao 2007, section 4.3; X-BOT, Leitao 2009).
"""

from __future__ import annotations

from typing import Final

from grapevine_proto.ids import Address, PeerId
from grapevine_proto.overlay.context import OverlayContext
from grapevine_proto.overlay.effects import Disconnect, Effect
from grapevine_proto.overlay.membership.heartbeats import pack_records
from grapevine_proto.overlay.membership.member_updates import UpdateHandler
from grapevine_proto.overlay.topology.active_view import ActiveView
from grapevine_proto.overlay.topology.selection import uniform
from grapevine_proto.overlay.topology.xbot import ProximityOptimizer
from grapevine_proto.wire.messages import CloseReason, SwapRequest
from grapevine_proto.wire.signed import PeerRecord

REFERRALS_LIMIT: Final = 8  # records sent to a rejected node


class LinkEvictor:
    """Evicts links for newcomers and names alternatives to nodes that find no room."""

    def __init__(
        self,
        context: OverlayContext,
        active_view: ActiveView,
        proximity: ProximityOptimizer,
        update_handler: UpdateHandler,
    ) -> None:
        self._config = context.config
        self._peers = context.peers
        self._members = context.members
        self._rng = context.rng
        self._active_view = active_view
        self._proximity = proximity
        self._update_handler = update_handler

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
        """Evict a link for `newcomer` if all slots are taken, and refer the evicted peer to it.

        `wants_room` means `newcomer` is short of links, `source` is its address, and `is_outbound`
        means this node dialed it. Returns no effects if there is room or no link may be evicted.
        """
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
        """Evict a link for `newcomer` if our RTT measurement confirms that it is nearer.

        `swap_request` is its offer and names the link it gives up at its end; the evicted peer is
        referred to that member. `rtt_s` is the RTT in seconds, None if unknown.
        """
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
        self._proximity.count_swap()
        detail = f"{_eviction_reason(newcomer)}, which is nearer"
        return [*effects, Disconnect(victim, CloseReason.FULL, detail, referrals)]

    def swap_link(self, victim: PeerRecord, nearer: PeerRecord) -> list[Effect]:
        """Close the link with `victim`, because `nearer` made room for us."""
        if self.has_room or not self._peers.is_linked(victim.peer_id):
            return []
        self._proximity.count_swap()
        detail = f"{_eviction_reason(nearer)}, which is nearer"
        return [Disconnect(victim.peer_id, CloseReason.FULL, detail)]

    def referrals(self, exclude: PeerId) -> tuple[PeerRecord, ...]:
        """Linked peers that a rejected node may try, as many as fit one datagram."""
        linked = uniform(self._peers.linked, REFERRALS_LIMIT, self._rng, exclude=(exclude,))
        members = (self._members.get(peer_id) for peer_id in linked)
        messages = pack_records([member.record for member in members if member is not None])
        return messages[0].records if messages else ()


def _eviction_reason(newcomer: PeerRecord) -> str:
    """The close detail, for display."""
    return f"let go for {newcomer.name or newcomer.peer_id.short}"
