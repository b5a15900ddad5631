"""Partial views: which links there should be in a cluster larger than `max_peers`.

The active view is the links, the passive view the member table, as in HyParView (Leitao, Pereira,
Rodrigues 2007): links die and are replaced from the passive view; whoever is short of links asks, and
a full node then lets another link go and names the newcomer to whoever it let go, so that the two
may link instead. Newcomers come to stand in the middle of links, nobody's number of links shrinks,
and there is no search for somebody with room.

What must stay true:

- Own evidence says which links count: one that has fallen silent is replaced before it is given up.
- A link is let go for another at the earliest `YIELD_AGE_S` after it began, and one a second at most
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

from grapevine_proto.config import NodeConfig
from grapevine_proto.events import MemberStatus, PeerState
from grapevine_proto.ids import Address, PeerId, Zone
from grapevine_proto.overlay.link_shares import chosen_limit, fair, place_of, unprotected
from grapevine_proto.overlay.members import Member, MemberTable
from grapevine_proto.overlay.peers import Peer, PeerTable
from grapevine_proto.overlay.selection import ZoneOf, choose, links_wanted
from grapevine_proto.ratelimit import TokenBucket

YIELD_AGE_S: Final = 2.0  # what a new link is sure of: a few round trips and one batch of repair
YIELDS_PER_S: Final = 1.0  # links let go for others that ask, of all together
LEAST_OWN: Final = (
    4  # one in so many of the links of our own choice that there should be in a crowd
)
CROWD_LEAST: Final = 16  # newcomers that ask for room in vain are a crowd,
CROWD_PER_LINK: Final = 4  # or rather these and so many for each link there may be
CROWD_S: Final = (
    60.0  # within which many that ask for room in vain are a crowd, and how long it counts
)
# Of silence, until a link no longer counts: a heartbeat has not come, nor answers to probes.
OVERDUE_INTERVALS: Final = 1.25
OVERDUE_PROBES: Final = 3.0
LEFT_ALONE: Final = 1  # links away from home beyond those that `hub-and-spoke` wants
DRAWN: Final = 8  # members looked at for each link wanted

T = TypeVar("T")


class Views:
    """See the module. All answers are as of now."""

    def __init__(
        self,
        config: NodeConfig,
        peers: PeerTable,
        members: MemberTable,
        rng: random.Random,
        carries: Callable[[PeerId, float], bool] = lambda peer_id, now: False,
    ) -> None:
        """`carries(peer_id, now)`: whether messages come or go over that link these days."""
        self.reconfigure(config)
        self._peers = peers
        self._members = members
        self._rng = rng
        self._carries = carries
        self._yields: TokenBucket | None = None  # made at the first, which is full
        self._refused_since, self._refused_lately = -math.inf, 0
        self._crowded_until = -math.inf
        self.refused = 0
        """Newcomers that asked for room and found none."""

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

    def to_let_go(
        self,
        newcomer: PeerId,
        now: float,
        *,
        is_asked: bool,
        source: Address | None = None,
        is_ours: bool = False,
    ) -> PeerId | None:
        """Whose link goes so that `newcomer`, which is at `source`, finds room: a silent one's; if
        `is_asked`, also one that may yield, the least fitting first. `is_ours`: this node dialed it,
        and of links of its own choice there should be half."""
        linked = [peer for peer in self._linked() if peer.peer_id != newcomer]
        silent = [each for each in linked if not self.is_sound(each.peer_id, now)]
        if silent:
            return min((each.silent_since, each.peer_id) for each in silent)[1]
        if is_ours and self._chosen(linked) < self._own_wanted(now):
            may_go = self._fair([each for each in linked if not each.is_dialed], linked, None)
        elif is_asked:
            # What does not fit `distribution` goes for what does, though we chose both.
            is_mend = is_ours and self._config.distribution == "hub-and-spoke"
            may_go = linked if is_mend else self.yielding(now, but=newcomer)
            may_go = self._fair(self._lasting(may_go, now), linked, source)
        else:
            return None
        if not may_go or not (is_ours or self.take_yield(now)):
            self._refuse(now)
            return None
        ids = [peer.peer_id for peer in may_go]
        kept = set(self._choose(ids, len(ids) - 1, self._peers.zone_of))
        return next(peer_id for peer_id in ids if peer_id not in kept)

    def _linked(self) -> list[Peer]:
        return [peer for peer in map(self._peers.get, self._peers.linked) if peer is not None]

    def _fair(
        self, candidates: list[Peer], linked: list[Peer], source: Address | None
    ) -> list[Peer]:
        newcomer = None if source is None else place_of(source.host)
        return fair(candidates, linked, newcomer, self._config.max_peers)

    def yielding(self, now: float, *, but: PeerId | None = None) -> list[Peer]:
        """Links that may go for another that asks: old enough, and not protected."""
        linked = [peer for peer in self._linked() if peer.peer_id != but]
        useful = {each.peer_id for each in linked if self._carries(each.peer_id, now)}
        chosen = {each.peer_id for each in linked if each.is_dialed}
        if self._config.distribution == "hub-and-spoke":  # what fits is for that to say
            zone_of, home = self._peers.zone_of, self._config.zone
            chosen = {peer_id for peer_id in chosen if zone_of(peer_id) == home}
        return self._lasting(unprotected(linked, self._config.max_peers, chosen, useful), now)

    @staticmethod
    def _lasting(peers: list[Peer], now: float) -> list[Peer]:
        """Those of `peers` that have had what a new link is sure of."""
        return [
            peer
            for peer in peers
            if peer.linked_at is not None and now - peer.linked_at >= YIELD_AGE_S
        ]

    def yields_to(self, source: Address, now: float) -> set[PeerId]:
        """Links that may go for one at `source` that is nearer than they are."""
        return {peer.peer_id for peer in self._fair(self.yielding(now), self._linked(), source)}

    def take_yield(self, now: float) -> bool:
        """Whether another link may go for one that asks; it is taken from the second's share."""
        if self._yields is None:
            self._yields = TokenBucket(1.0, YIELDS_PER_S, now)
        return self._yields.take(now)

    @staticmethod
    def _chosen(linked: Sequence[Peer]) -> int:
        return sum(peer.is_dialed for peer in linked)

    def lacks_own(self, now: float) -> bool:
        """Whether a crowd asks for room, and too few links are of our own choice."""
        if now > self._crowded_until or self.has_room:
            return False
        return self._chosen(self._linked()) < self._own_wanted(now)

    def _own_wanted(self, now: float) -> int:
        """How many links should be of our own choice, at the cost of others: half in a crowd, else some,
        so that a crowd which was there first does not keep out those that we dial."""
        limit = chosen_limit(self._config.max_peers)
        return limit if now <= self._crowded_until else max(limit // LEAST_OWN, 1)

    def _refuse(self, now: float) -> None:
        """A newcomer asked for room and finds none. A cluster that settles refuses some, too."""
        self.refused += 1
        if now - self._refused_since > CROWD_S:
            self._refused_since, self._refused_lately = now, 0
        self._refused_lately += 1
        if self._refused_lately >= CROWD_LEAST + CROWD_PER_LINK * self._config.max_peers:
            self._crowded_until = now + CROWD_S

    def to_link(self, count: int, now: float, *, is_proved: bool = False) -> list[Member]:
        """Up to `count` members to dial, drawn from those who are not linked, as the distribution
        has it; those thought to be down come last. `is_proved`: only members that were met."""
        table, wanted = self._members, DRAWN * count
        found = table.draw_met(wanted, self._rng) if is_proved else table.draw(wanted, self._rng)
        drawn = [
            member
            for member in found
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
