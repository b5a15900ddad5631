"""The active view: which links a node keeps in a cluster larger than `max_peers` (HyParView, Leitao
2007, section 4).

The active view is the set of links, the passive view is the member table. A lost link is replaced
from the passive view. A node short of links asks for room; a full node then evicts another link and
refers the evicted peer to the newcomer, so that those two may link instead. A newcomer is thus
inserted into existing links, no node ends with fewer links, and none has to search for room.

Invariants:

- Direct evidence decides which links count: a link that falls silent is replaced before it is
  closed.
- A link is evicted at the earliest `LINK_GRACE_S` after it was established, and at most
  `EVICTIONS_PER_S` links are, regardless of who asks. So neither one node nor a crowd of newcomers
  can turn over links faster than they can be used. `eviction_shares` decides which links may be
  evicted at all.
- While a crowd asks for room, a full node keeps half of its links self-chosen.
- The cost per node depends on `max_peers`, not on the number of members.

A component of `dialer` and `membership`. Reads the peer and member tables and changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Protocol, TypeVar

from grapevine_proto.events import MemberStatus, PeerState
from grapevine_proto.ids import Address, PeerId, Zone
from grapevine_proto.overlay.context import OverlayContext
from grapevine_proto.overlay.members import Member
from grapevine_proto.overlay.peers import Peer
from grapevine_proto.overlay.topology.eviction_shares import (
    evictable,
    fair_victims,
    network_group,
    self_chosen_limit,
)
from grapevine_proto.overlay.topology.selection import ZoneOf, choose
from grapevine_proto.token_bucket import TokenBucket

# In a cluster larger than `max_peers` a node leaves this fraction of its links to nodes that dial
# it. Most newcomers then find room without an eviction.
INBOUND_DIVISOR: Final = 5
LINK_GRACE_S: Final = 2.0  # a few round trips and one batch of repair
EVICTIONS_PER_S: Final = 1.0  # for newcomers that ask for room, in total
SELF_CHOSEN_MIN_DIVISOR: Final = 4  # fraction of the self-chosen limit to maintain without a crowd
CROWD_MIN_REJECTIONS: Final = 16  # rejections that make a crowd,
CROWD_REJECTIONS_PER_LINK: Final = 4  # plus this many per link slot
# in which the rejections are counted, and how long a crowd is assumed to last
CROWD_WINDOW_S: Final = 60.0
# Silence after which a link no longer counts: a missed heartbeat plus unanswered probes.
UNHEALTHY_INTERVALS: Final = 1.25
UNHEALTHY_PROBES: Final = 3.0
REMOTE_LINKS_TOLERATED: Final = 1  # to remote zones, beyond those that `hub-and-spoke` wants
CANDIDATES_PER_LINK: Final = 8  # members drawn per link wanted

T = TypeVar("T")


class LinkUsage(Protocol):
    """What decisions about links need to know of broadcasts."""

    def is_in_use(self, peer_id: PeerId, now: float) -> bool:
        """Whether broadcasts currently travel over the link with `peer_id`."""
        ...


class ActiveView:
    """Decides how many links are needed, which are healthy, which may be evicted and which members
    to dial.
    """

    def __init__(self, context: OverlayContext, broadcast: LinkUsage) -> None:
        self._config = context.config
        self._peers = context.peers
        self._members = context.members
        self._rng = context.rng
        self._broadcast = broadcast
        # created at the first eviction, when it is full
        self._eviction_budget: TokenBucket | None = None
        self._rejections_since, self._recent_rejections = -math.inf, 0
        self._crowded_until = -math.inf
        self.rejected = 0
        """Newcomers that asked for room and were rejected."""

    @property
    def _unhealthy_after_s(self) -> float:
        config = self._config.current
        return (
            UNHEALTHY_INTERVALS * config.gossip_interval
            + UNHEALTHY_PROBES * config.detection.probe_timeout
        )

    # --- how many -------------------------------------------------------------------------------

    def healthy_count(self, now: float) -> int:
        """Number of healthy links."""
        return sum(self.is_healthy(peer_id, now) for peer_id in self._peers.linked)

    @property
    def target_count(self) -> int:
        """Number of links to dial for."""
        return target_links(len(self._members), self._config.current.max_peers)

    def needs_links(self, now: float) -> bool:
        """Whether peers should evict a link for us: we have none, or have room for two. With two,
        even the peer that is evicted for us does not end with fewer links.
        """
        healthy = self.healthy_count(now)
        return healthy == 0 or healthy + 2 <= min(
            len(self._members), self._config.current.max_peers
        )

    @property
    def is_partial(self) -> bool:
        """Whether there are more members than link slots."""
        return len(self._members) > self._config.current.max_peers

    @property
    def has_room(self) -> bool:
        return len(self._peers.linked) < self._config.current.max_peers

    def is_healthy(self, peer_id: PeerId, now: float) -> bool:
        """Whether the link with `peer_id` seems to work.

        Besides the peer's status this checks answers and silence, because an isolated node cannot
        suspect others.
        """
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
        """The link to evict so that `newcomer`, at `source`, finds room; None if none may be.

        An unhealthy link goes first. With `wants_room`, a replaceable link may go too, the worst
        fit first. `is_outbound` means that this node dialed; half of the links should be of its own
        choice.
        """
        linked = [peer for peer in self._linked_peers() if peer.peer_id != newcomer]
        unhealthy = [each for each in linked if not self.is_healthy(each.peer_id, now)]
        if unhealthy:
            return min((each.last_heard_at, each.peer_id) for each in unhealthy)[1]
        if is_outbound and self._self_chosen_count(linked) < self._self_chosen_target(now):
            replaceable = self._fair_victims(
                [each for each in linked if not each.is_self_chosen], linked, None
            )
        elif wants_room:
            # `distribution` overrides the protection of self-chosen links.
            is_rebalance = is_outbound and self._config.current.distribution == "hub-and-spoke"
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
        return fair_victims(candidates, linked, newcomer, self._config.current.max_peers)

    def replaceable(self, now: float, *, exclude: PeerId | None = None) -> list[Peer]:
        """Links that may be evicted for a newcomer: past their grace period and not protected."""
        linked = [peer for peer in self._linked_peers() if peer.peer_id != exclude]
        in_use = {each.peer_id for each in linked if self._broadcast.is_in_use(each.peer_id, now)}
        self_chosen = {each.peer_id for each in linked if each.is_self_chosen}
        # `distribution` decides which links to keep
        if self._config.current.distribution == "hub-and-spoke":
            zone_of, local_zone = self._peers.zone_of, self._config.current.zone
            self_chosen = {peer_id for peer_id in self_chosen if zone_of(peer_id) == local_zone}
        return self._past_grace(
            evictable(linked, self._config.current.max_peers, self_chosen, in_use), now
        )

    @staticmethod
    def _past_grace(peers: list[Peer], now: float) -> list[Peer]:
        """Those of `peers` whose grace period is over."""
        return [
            peer
            for peer in peers
            if peer.linked_at is not None and now - peer.linked_at >= LINK_GRACE_S
        ]

    def replaceable_by(self, source: Address, now: float) -> set[PeerId]:
        """Links that may be evicted for a nearer member at `source`."""
        return {
            peer.peer_id
            for peer in self._fair_victims(self.replaceable(now), self._linked_peers(), source)
        }

    def try_take_eviction(self, now: float) -> bool:
        """Whether another link may be evicted for a newcomer; takes it from the rate limit."""
        if self._eviction_budget is None:
            self._eviction_budget = TokenBucket(1.0, EVICTIONS_PER_S, now)
        return self._eviction_budget.try_take(now)

    @staticmethod
    def _self_chosen_count(linked: Sequence[Peer]) -> int:
        return sum(peer.is_self_chosen for peer in linked)

    def needs_self_chosen(self, now: float) -> bool:
        """Whether a crowd asks for room and too few links are self-chosen."""
        if now > self._crowded_until or self.has_room:
            return False
        return self._self_chosen_count(self._linked_peers()) < self._self_chosen_target(now)

    def _self_chosen_target(self, now: float) -> int:
        """Number of self-chosen links to maintain by eviction: half of the links in a crowd,
        otherwise a few, so that a crowd that came first does not keep out the members we dial.
        """
        limit = self_chosen_limit(self._config.current.max_peers)
        return limit if now <= self._crowded_until else max(limit // SELF_CHOSEN_MIN_DIVISOR, 1)

    def _note_rejection(self, now: float) -> None:
        """Count a rejected newcomer. Some rejections are normal while a cluster settles."""
        self.rejected += 1
        if now - self._rejections_since > CROWD_WINDOW_S:
            self._rejections_since, self._recent_rejections = now, 0
        self._recent_rejections += 1
        if (
            self._recent_rejections
            >= CROWD_MIN_REJECTIONS + CROWD_REJECTIONS_PER_LINK * self._config.current.max_peers
        ):
            self._crowded_until = now + CROWD_WINDOW_S

    def candidates(self, count: int, now: float, *, was_linked: bool = False) -> list[Member]:
        """Up to `count` unlinked members to dial, drawn as `distribution` prefers, those that are
        down last. `was_linked` restricts them to members that have been linked before.
        """
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
        """Whether a `hub-and-spoke` node has too many links to remote zones.

        One link into each other zone, or half of all links, is wanted. One more is tolerated:
        remote nodes choose links to us as well, and undoing each would never end.
        """
        if self._config.current.distribution != "hub-and-spoke" or not self.is_partial:
            return False
        healthy = [each for each in self._peers.linked if self.is_healthy(each, now)]
        remote_zones = [
            zone for zone in map(self._peers.zone_of, healthy) if zone != self._config.current.zone
        ]
        return (
            len(remote_zones)
            > min(len(set(remote_zones)), self._config.current.max_peers // 2)
            + REMOTE_LINKS_TOLERATED
        )

    def matching(self, members: list[Member]) -> list[Member]:
        """With `hub-and-spoke`, the members whose zone has no link with us yet and those of our own
        zone; otherwise all.
        """
        if self._config.current.distribution != "hub-and-spoke":
            return members
        linked_zones = set(map(self._peers.zone_of, self._peers.linked)) - {
            self._config.current.zone
        }
        return [each for each in members if each.record.zone not in linked_zones]

    def _choose(self, candidates: Sequence[T], count: int, zone_of: ZoneOf[T]) -> list[T]:
        config = self._config.current
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


def target_links(members: int, max_peers: int) -> int:
    """Links to dial for among `members` others: a full mesh up to `max_peers`."""
    return members if members <= max_peers else max_peers - max_peers // INBOUND_DIVISOR
