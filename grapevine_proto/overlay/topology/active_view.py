"""Partial views: which links there should be in a cluster larger than `max_peers`.

The active view is the links, the passive view the member table, as in HyParView (Leitao, Pereira,
Rodrigues 2007): links die and are replaced from the passive view; whoever is short of links asks, and
a full node then lets another link go and names the newcomer to whoever it let go, so that the two
may link instead. Newcomers come to stand in the middle of links, nobody's number of links shrinks,
and there is no search for somebody with room.

What must stay true:

- Own evidence says which links count: one that has fallen silent is replaced before it is given up.
- A link is let go for another at the earliest `LINK_GRACE_S` after it began, and one a second at most
  whoever asks, so that nobody, and no crowd of newcomers, turns a node's links over faster than they
  can be used. `link_shares` says which may be let go at all.
- While a crowd asks for room, a full node sees to it that half of its links are of its own choice.
- What a node costs depends on `max_peers`, not on how many members there are.

Mechanism of `dialling` and `membership`; reads the tables of peers and members, changes nothing.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.events import MemberStatus, PeerState
from grapevine_proto.ids import Address, PeerId, Zone
from grapevine_proto.overlay.members import Member, MemberTable
from grapevine_proto.overlay.peers import Peer, PeerTable
from grapevine_proto.overlay.topology.eviction_shares import (
    evictable,
    fair_victims,
    network_group,
    self_chosen_limit,
)
from grapevine_proto.overlay.topology.selection import ZoneOf, choose, target_links
from grapevine_proto.token_bucket import TokenBucket

LINK_GRACE_S: Final = 2.0  # what a new link is sure of: a few round trips and one batch of repair
EVICTIONS_PER_S: Final = 1.0  # links let go for others that ask, of all together
SELF_CHOSEN_MIN_DIVISOR: Final = (
    4  # one in so many of the links of our own choice that there should be in a crowd
)
CROWD_MIN_REJECTIONS: Final = 16  # newcomers that ask for room in vain are a crowd,
CROWD_REJECTIONS_PER_LINK: Final = 4  # or rather these and so many for each link there may be
CROWD_WINDOW_S: Final = (
    60.0  # within which many that ask for room in vain are a crowd, and how long it counts
)
# Of silence, until a link no longer counts: a heartbeat has not come, nor answers to probes.
UNHEALTHY_INTERVALS: Final = 1.25
UNHEALTHY_PROBES: Final = 3.0
REMOTE_LINKS_TOLERATED: Final = 1  # links away from home beyond those that `hub-and-spoke` wants
CANDIDATES_PER_LINK: Final = 8  # members looked at for each link wanted

T = TypeVar("T")


class ActiveView:
    """See the module. All answers are as of now."""

    def __init__(
        self,
        config: NodeConfig,
        peers: PeerTable,
        members: MemberTable,
        rng: random.Random,
        is_in_use: Callable[[PeerId, float], bool] = lambda peer_id, now: False,
    ) -> None:
        """`carries(peer_id, now)`: whether messages come or go over that link these days."""
        self.reconfigure(config)
        self._peers = peers
        self._members = members
        self._rng = rng
        self._is_in_use = is_in_use
        self._eviction_budget: TokenBucket | None = None  # made at the first, which is full
        self._rejections_since, self._recent_rejections = -math.inf, 0
        self._crowded_until = -math.inf
        self.rejected = 0
        """Newcomers that asked for room and found none."""

    def reconfigure(self, config: NodeConfig) -> None:
        self._config = config
        self._unhealthy_after_s = (
            UNHEALTHY_INTERVALS * config.gossip_interval
            + UNHEALTHY_PROBES * config.detection.probe_timeout
        )

    # --- how many -------------------------------------------------------------------------------

    def healthy_count(self, now: float) -> int:
        """Links whose other end answers."""
        return sum(self.is_healthy(peer_id, now) for peer_id in self._peers.linked)

    @property
    def target_count(self) -> int:
        """How many there should be."""
        return target_links(len(self._members), self._config.max_peers)

    def needs_links(self, now: float) -> bool:
        """Whether others should let a link go for us: we have none, or have room for two, so that
        with the one that was let go nobody ends with fewer links than before."""
        healthy = self.healthy_count(now)
        return healthy == 0 or healthy + 2 <= min(len(self._members), self._config.max_peers)

    @property
    def is_partial(self) -> bool:
        """Whether there are more members than there may be links."""
        return len(self._members) > self._config.max_peers

    @property
    def has_room(self) -> bool:
        return len(self._peers.linked) < self._config.max_peers

    def is_healthy(self, peer_id: PeerId, now: float) -> bool:
        """Whether the link with `peer_id` seems to work: by what is thought of the peer, and because
        who is cut off himself thinks ill of nobody, by whether it answers and how long it is silent."""
        peer, member = self._peers.get(peer_id), self._members.get(peer_id)
        if peer is None or peer.state is not PeerState.CONNECTED or peer.is_unresponsive:
            return False
        if member is not None and member.status is MemberStatus.SUSPECT:
            return False
        return now - peer.last_heard_at < self._unhealthy_after_s

    # --- which ----------------------------------------------------------------------------------

    def pick_victim(
        self,
        newcomer: PeerId,
        now: float,
        *,
        wants_room: bool,
        source: Address | None = None,
        is_outbound: bool = False,
    ) -> PeerId | None:
        """Whose link goes so that `newcomer`, which is at `source`, finds room: a silent one's; if
        `wants_room`, also one that may yield, the least fitting first. `is_outbound`: this node dialed it,
        and of links of its own choice there should be half."""
        linked = [peer for peer in self._linked_peers() if peer.peer_id != newcomer]
        unhealthy = [each for each in linked if not self.is_healthy(each.peer_id, now)]
        if unhealthy:
            return min((each.last_heard_at, each.peer_id) for each in unhealthy)[1]
        if is_outbound and self._self_chosen_count(linked) < self._self_chosen_target(now):
            replaceable = self._fair_victims(
                [each for each in linked if not each.is_self_chosen], linked, None
            )
        elif wants_room:
            # What does not fit `distribution` goes for what does, though we chose both.
            is_rebalance = is_outbound and self._config.distribution == "hub-and-spoke"
            replaceable = linked if is_rebalance else self.replaceable(now, exclude=newcomer)
            replaceable = self._fair_victims(self._past_grace(replaceable, now), linked, source)
        else:
            return None
        if not replaceable or not (is_outbound or self.try_take_eviction(now)):
            self._note_rejection(now)
            return None
        ids = [peer.peer_id for peer in replaceable]
        retained = set(self._choose(ids, len(ids) - 1, self._peers.zone_of))
        return next(peer_id for peer_id in ids if peer_id not in retained)

    def _linked_peers(self) -> list[Peer]:
        return [peer for peer in map(self._peers.get, self._peers.linked) if peer is not None]

    def _fair_victims(
        self, candidates: list[Peer], linked: list[Peer], source: Address | None
    ) -> list[Peer]:
        newcomer = None if source is None else network_group(source.host)
        return fair_victims(candidates, linked, newcomer, self._config.max_peers)

    def replaceable(self, now: float, *, exclude: PeerId | None = None) -> list[Peer]:
        """Links that may go for another that asks: old enough, and not protected."""
        linked = [peer for peer in self._linked_peers() if peer.peer_id != exclude]
        in_use = {each.peer_id for each in linked if self._is_in_use(each.peer_id, now)}
        self_chosen = {each.peer_id for each in linked if each.is_self_chosen}
        if self._config.distribution == "hub-and-spoke":  # what fits is for that to say
            zone_of, local_zone = self._peers.zone_of, self._config.zone
            self_chosen = {peer_id for peer_id in self_chosen if zone_of(peer_id) == local_zone}
        return self._past_grace(evictable(linked, self._config.max_peers, self_chosen, in_use), now)

    @staticmethod
    def _past_grace(peers: list[Peer], now: float) -> list[Peer]:
        """Those of `peers` that have had what a new link is sure of."""
        return [
            peer
            for peer in peers
            if peer.linked_at is not None and now - peer.linked_at >= LINK_GRACE_S
        ]

    def replaceable_by(self, source: Address, now: float) -> set[PeerId]:
        """Links that may go for one at `source` that is nearer than they are."""
        return {
            peer.peer_id
            for peer in self._fair_victims(self.replaceable(now), self._linked_peers(), source)
        }

    def try_take_eviction(self, now: float) -> bool:
        """Whether another link may go for one that asks; it is taken from the second's share."""
        if self._eviction_budget is None:
            self._eviction_budget = TokenBucket(1.0, EVICTIONS_PER_S, now)
        return self._eviction_budget.try_take(now)

    @staticmethod
    def _self_chosen_count(linked: Sequence[Peer]) -> int:
        return sum(peer.is_self_chosen for peer in linked)

    def needs_self_chosen(self, now: float) -> bool:
        """Whether a crowd asks for room, and too few links are of our own choice."""
        if now > self._crowded_until or self.has_room:
            return False
        return self._self_chosen_count(self._linked_peers()) < self._self_chosen_target(now)

    def _self_chosen_target(self, now: float) -> int:
        """How many links should be of our own choice, at the cost of others: half in a crowd, else some,
        so that a crowd which was there first does not keep out those that we dial."""
        limit = self_chosen_limit(self._config.max_peers)
        return limit if now <= self._crowded_until else max(limit // SELF_CHOSEN_MIN_DIVISOR, 1)

    def _note_rejection(self, now: float) -> None:
        """A newcomer asked for room and finds none. A cluster that settles refuses some, too."""
        self.rejected += 1
        if now - self._rejections_since > CROWD_WINDOW_S:
            self._rejections_since, self._recent_rejections = now, 0
        self._recent_rejections += 1
        if (
            self._recent_rejections
            >= CROWD_MIN_REJECTIONS + CROWD_REJECTIONS_PER_LINK * self._config.max_peers
        ):
            self._crowded_until = now + CROWD_WINDOW_S

    def candidates(self, count: int, now: float, *, was_linked: bool = False) -> list[Member]:
        """Up to `count` members to dial, drawn from those who are not linked, as the distribution
        has it; those thought to be down come last. `was_linked`: only members that were met."""
        table, draws = self._members, CANDIDATES_PER_LINK * count
        found = (
            table.sample_linked_before(draws, self._rng)
            if was_linked
            else table.sample(draws, self._rng)
        )
        drawn = [
            member
            for member in found
            if member.status is not MemberStatus.LEFT
            and member.dial_at <= now
            and not self._peers.is_linked(member.record.peer_id)
        ]
        preferred = self.matching([each for each in drawn if each.status is not MemberStatus.DOWN])
        chosen = self._choose(preferred, count, _zone_of_member)
        if len(chosen) < count:
            rest = [each for each in drawn if each not in chosen]
            chosen += self._choose(rest, count - len(chosen), _zone_of_member)
        return chosen

    def has_excess_remote(self, now: float) -> bool:
        """With hubs and spokes: whether a link should lead home. Beside one into each other zone, or half of
        all, one more is left alone: others choose us as well, and to undo each choice would never end."""
        if self._config.distribution != "hub-and-spoke" or not self.is_partial:
            return False
        healthy = [each for each in self._peers.linked if self.is_healthy(each, now)]
        remote_zones = [
            zone for zone in map(self._peers.zone_of, healthy) if zone != self._config.zone
        ]
        return (
            len(remote_zones)
            > min(len(set(remote_zones)), self._config.max_peers // 2) + REMOTE_LINKS_TOLERATED
        )

    def matching(self, members: list[Member]) -> list[Member]:
        """With hubs and spokes: those whose zone has no link with us yet, and those at home."""
        if self._config.distribution != "hub-and-spoke":
            return members
        linked_zones = set(map(self._peers.zone_of, self._peers.linked)) - {self._config.zone}
        return [each for each in members if each.record.zone not in linked_zones]

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
