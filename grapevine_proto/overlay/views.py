"""Partial views: which links there should be in a cluster larger than `max_peers`.

The active view is the links, the passive view the member table, as in HyParView (Leitao, Pereira,
Rodrigues 2007): links die and are replaced from the passive view; whoever is short of links asks, and
a full node then lets another link go and names the newcomer to whoever it let go, so that the two
may link instead. Newcomers come to stand in the middle of links, nobody's number of links shrinks,
and there is no search for somebody with room.

What must stay true:

- Own evidence says which links count: one that has fallen silent is replaced before it is given up.
- A link is let go for another at the earliest `YIELD_AGE_S` after it began, so that nobody, and no
  crowd of newcomers, turns a node's links over faster than they can be used.
- What a node costs depends on `max_peers`, not on how many members there are.

Mechanism of `dialling` and `membership`; reads the tables of peers and members, changes nothing.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final, TypeVar

from grapevine_proto.config import NodeConfig
from grapevine_proto.events import MemberStatus, PeerState
from grapevine_proto.ids import PeerId, Zone
from grapevine_proto.overlay.members import Member, MemberTable
from grapevine_proto.overlay.peers import PeerTable
from grapevine_proto.overlay.selection import ZoneOf, choose, links_wanted

YIELD_AGE_S: Final = 2.0  # what a new link is sure of: a few round trips and one batch of repair
# Of silence, until a link no longer counts: a heartbeat has not come, nor answers to probes.
OVERDUE_INTERVALS: Final = 1.25
OVERDUE_PROBES: Final = 3.0
LEFT_ALONE: Final = 1  # links away from home beyond those that `hub-and-spoke` wants
DRAWN: Final = 8  # members looked at for each link wanted

T = TypeVar("T")


class Views:
    """See the module. All answers are as of now."""

    def __init__(
        self, config: NodeConfig, peers: PeerTable, members: MemberTable, rng: random.Random
    ) -> None:
        self.reconfigure(config)
        self._peers = peers
        self._members = members
        self._rng = rng

    def reconfigure(self, config: NodeConfig) -> None:
        self._config = config
        self._overdue_s = (
            OVERDUE_INTERVALS * config.gossip_interval
            + OVERDUE_PROBES * config.detection.probe_timeout
        )

    # --- how many -------------------------------------------------------------------------------

    def sound(self, now: float) -> int:
        """Links whose other end answers."""
        return sum(self.is_sound(peer_id, now) for peer_id in self._peers.linked)

    @property
    def wanted(self) -> int:
        """How many there should be."""
        return links_wanted(len(self._members), self._config.max_peers)

    def is_in_need(self, now: float) -> bool:
        """Whether others should let a link go for us: we have none, or have room for two, so that
        with the one that was let go nobody ends with fewer links than before."""
        sound = self.sound(now)
        return sound == 0 or sound + 2 <= min(len(self._members), self._config.max_peers)

    @property
    def is_partial(self) -> bool:
        """Whether there are more members than there may be links."""
        return len(self._members) > self._config.max_peers

    @property
    def has_room(self) -> bool:
        return len(self._peers.linked) < self._config.max_peers

    def is_sound(self, peer_id: PeerId, now: float) -> bool:
        """Whether the link with `peer_id` seems to work: by what is thought of the peer, and because
        who is cut off himself thinks ill of nobody, by whether it answers and how long it is silent."""
        peer, member = self._peers.get(peer_id), self._members.get(peer_id)
        if peer is None or peer.state is not PeerState.CONNECTED or peer.is_unresponsive:
            return False
        if member is not None and member.status is MemberStatus.SUSPECT:
            return False
        return now - peer.silent_since < self._overdue_s

    # --- which ----------------------------------------------------------------------------------

    def to_let_go(self, newcomer: PeerId, now: float, *, is_asked: bool) -> PeerId | None:
        """Whose link goes so that `newcomer` finds room: a silent one's; if `is_asked`, also any
        that is old enough, the least fitting first."""
        old: list[PeerId] = []
        silent: list[tuple[float, PeerId]] = []
        for peer_id in self._peers.linked:
            peer = self._peers.get(peer_id)
            if peer is None or peer_id == newcomer:
                continue
            if not self.is_sound(peer_id, now):
                silent.append((peer.silent_since, peer_id))
            elif peer.linked_at is not None and now - peer.linked_at >= YIELD_AGE_S:
                old.append(peer_id)
        if silent:
            return min(silent)[1]
        if not is_asked or not old:
            return None
        kept = set(self._choose(old, len(old) - 1, self._peers.zone_of))
        return next(peer_id for peer_id in old if peer_id not in kept)

    def to_link(self, count: int, now: float) -> list[Member]:
        """Up to `count` members to dial, drawn from those who are not linked, as the distribution
        has it; those thought to be down come last."""
        drawn = [
            member
            for member in self._members.draw(DRAWN * count, self._rng)
            if member.status is not MemberStatus.LEFT
            and member.dial_at <= now
            and not self._peers.is_linked(member.record.peer_id)
        ]
        likely = self.fitting([each for each in drawn if each.status is not MemberStatus.DOWN])
        chosen = self._choose(likely, count, _zone_of_member)
        if len(chosen) < count:
            rest = [each for each in drawn if each not in chosen]
            chosen += self._choose(rest, count - len(chosen), _zone_of_member)
        return chosen

    def has_surplus(self, now: float) -> bool:
        """With hubs and spokes: whether a link should lead home. Beside one into each other zone, or half of
        all, one more is left alone: others choose us as well, and to undo each choice would never end."""
        if self._config.distribution != "hub-and-spoke" or not self.is_partial:
            return False
        sound = [each for each in self._peers.linked if self.is_sound(each, now)]
        away = [zone for zone in map(self._peers.zone_of, sound) if zone != self._config.zone]
        return len(away) > min(len(set(away)), self._config.max_peers // 2) + LEFT_ALONE

    def fitting(self, members: list[Member]) -> list[Member]:
        """With hubs and spokes: those whose zone has no link with us yet, and those at home."""
        if self._config.distribution != "hub-and-spoke":
            return members
        served = set(map(self._peers.zone_of, self._peers.linked)) - {self._config.zone}
        return [each for each in members if each.record.zone not in served]

    def _choose(self, candidates: Sequence[T], count: int, zone_of: ZoneOf[T]) -> list[T]:
        config = self._config
        return choose(
            candidates,
            count,
            self._rng,
            distribution=config.distribution,
            zone=config.zone,
            zone_of=zone_of,
        )


def _zone_of_member(member: Member) -> Zone:
    return member.record.zone
