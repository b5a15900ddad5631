"""Nearer links (`nearer_links`): in a cluster larger than `max_peers`, far links go for near ones.

A simple form of X-BOT (Leitao, Marques, Pereira, Rodrigues 2012). Now and then a node looks at a member
that it is not linked to: it knocks, and the answer to its Hello measures the way. If that is clearly
shorter than the way to the farthest of its links that may go, it goes on and says Near: whom it would
let go. Whoever is asked measures for itself, and agrees if it has a link farther than this one too.
Then each end lets that link go, and the two that were let go find each other: `a-far` and `b-remote`
become `a-b` and `far-remote`, so nobody's number of links changes.

What must stay true:

- The farthest fifth of the links never goes, so that parts of a cluster stay connected, and with fewer
  than five links none does.
- Only what this node measured itself counts: one look, against the least of several measurements of a
  link, so that no luck of the moment makes anybody near. What gains less than `GAIN_S` or a fifth is left
  as it is: on one machine, on one network, and once all is well, nothing moves.
- A link that messages come over stays until they come another way, so that none waits for repair.
- A link goes only for another into the same zone: how many lead where is for `distribution` to say.
- A look is two datagrams and one dial of the common budget. Each that leads to nothing makes the pause to
  the next longer, and nobody is looked at twice in five minutes unless its way is worth it now.

Mechanism of `dialling`, which knocks, and of `membership`, which lets links go.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Container
from typing import Final, NamedTuple

from grapevine_proto.config import NodeConfig
from grapevine_proto.events import MemberStatus
from grapevine_proto.ids import Address, PeerId, Zone
from grapevine_proto.overlay.members import Member, MemberTable
from grapevine_proto.overlay.peers import Peer, PeerTable
from grapevine_proto.overlay.views import YIELD_AGE_S, Views
from grapevine_proto.signed import Record

KEPT: Final = 5  # one in so many links, the farthest, is never given up
GAIN: Final = 0.8  # of the present round trip: what is not below it is not worth the change
GAIN_S: Final = 0.010  # nor what is not so much below it; the noise of a busy machine
KNOWN_INTERVALS: Final = 2.0  # a link must have been measured a few times before it goes
TREES: Final = ("plumtree", "auto")
DRAWN: Final = 8  # members looked through for one to look at
FIRST_PAUSE: Final = 0.5  # gossip intervals between two looks
LONGEST_PAUSE: Final = 12.0
SLOWING: Final = 1.1  # so much longer is the pause after each look that led to nothing
AGAIN_S: Final = 600.0  # before the same member is looked at again
REFUSED_S: Final = 60.0  # the same where it was near but had nearer ones


class Look(NamedTuple):
    """Knock at `member`: if a round trip takes less than `nearer_than_s`, `instead` may go for it."""

    member: Member
    nearer_than_s: float
    instead: Record


class Nearness:
    """See the module. `looks` counts those taken, `moved` links of ours given up for nearer ones."""

    def __init__(
        self,
        config: NodeConfig,
        peers: PeerTable,
        members: MemberTable,
        views: Views,
        rng: random.Random,
        now: float,
        carries: Callable[[PeerId, float], bool],
    ) -> None:
        """`carries(peer_id, now)`: whether messages come or go over that link, which stays while they do."""
        self._carries = carries
        self._config = config
        self._peers = peers
        self._members = members
        self._views = views
        self._rng = rng
        self._pause = FIRST_PAUSE
        self._look_at = now
        self.looks = 0
        self.moved = 0

    def reconfigure(self, config: NodeConfig) -> None:
        self._config = config

    # --- our own links --------------------------------------------------------------------------

    def _may_go(
        self, zone: Zone, now: float, among: Container[PeerId] | None = None
    ) -> Peer | None:
        """The farthest link, if need be `among` these, that may go for one into `zone`."""
        if not self._is_of_use:
            return None
        kept = self._config.max_peers // KEPT
        known_after_s = max(YIELD_AGE_S, KNOWN_INTERVALS * self._config.gossip_interval)
        by_distance: list[tuple[float, int, Peer]] = []
        for place, peer_id in enumerate(self._peers.linked):
            peer = self._peers.get(peer_id)
            if (
                peer is not None
                and peer.least_rtt_s is not None
                and self._views.is_sound(peer_id, now)
            ):
                by_distance.append((peer.least_rtt_s, place, peer))
        for _, _, peer in sorted(by_distance, reverse=True)[kept:]:
            is_known = peer.linked_at is not None and now - peer.linked_at >= known_after_s
            is_fit = is_known and self._peers.zone_of(peer.peer_id) == zone
            is_fit = is_fit and (among is None or peer.peer_id in among)
            if is_fit and not self._carries(peer.peer_id, now):
                return peer
        return None

    @property
    def _is_of_use(self) -> bool:
        """Whether any link may ever go."""
        config = self._config
        is_wanted = config.nearer_links and config.max_peers >= KEPT
        return is_wanted and self._views.is_partial and self._may_mend

    @property
    def _may_mend(self) -> bool:
        """Whether what goes over links heals when they change: a tree does not without ids beside it, and
        hubs would have to be found anew."""
        if self._config.distribution == "hub-and-spoke":
            return False
        return self._config.lazy_repair or self._config.strategy not in TREES

    def to_let_go(
        self, newcomer: Record, rtt_s: float | None, now: float, source: Address | None = None
    ) -> PeerId | None:
        """Whose link should go for one with `newcomer`, which is at `source` and `rtt_s` away; None:
        nobody's. What we chose ourselves we give up for what we choose ourselves, not for this."""
        if rtt_s is None or not self._is_of_use:
            return None
        among = None if source is None else self._views.yields_to(source, now)
        peer = self._may_go(newcomer.zone, now, among)
        if peer is None or rtt_s >= worth_it_s(peer.least_rtt_s):
            return None
        return peer.peer_id

    def changed(self, now: float) -> None:
        """Links came or went: there may be nearer ones to be had again."""
        self._pause = FIRST_PAUSE
        if self._is_of_use:
            self._look_at = min(self._look_at, now + self._pause_s())

    # --- looking at others ----------------------------------------------------------------------

    def look(self, now: float) -> Look | None:
        """Whom to look at, if it is time to and there is anybody worth it."""
        if now < self._look_at or not self._is_of_use:
            return None
        self._pause = min(self._pause * SLOWING, LONGEST_PAUSE)
        self._look_at = now + self._pause_s()
        if self._may_go_at_all(now):
            for member in self._members.draw(DRAWN, self._rng):
                found = self._worth_a_look(member, now)
                if found is not None:
                    self.looks += 1
                    member.look_at = now + AGAIN_S * (0.5 + self._rng.random())
                    member.rtt_s = None
                    return found
        return None

    def _may_go_at_all(self, now: float) -> bool:
        """Before members are drawn: whether we are well linked, and some link is far."""
        if self._views.sound(now) < self._views.wanted:
            return False
        far = (self._peers.get(peer_id) for peer_id in self._peers.linked)
        return any(peer is not None and worth_it_s(peer.least_rtt_s) > 0 for peer in far)

    def _worth_a_look(self, member: Member, now: float) -> Look | None:
        record = member.record
        if (
            member.status is not MemberStatus.UP
            or member.dial_at > now
            or not record.addresses
            or record.peer_id in self._config.denied
            or self._peers.is_linked(record.peer_id)
        ):
            return None
        peer = self._may_go(record.zone, now)
        instead = None if peer is None else self._members.get(peer.peer_id)
        if peer is None or instead is None:
            return None
        nearer_than_s = worth_it_s(peer.least_rtt_s)
        is_near_now = member.rtt_s is not None and member.rtt_s < nearer_than_s
        if nearer_than_s <= 0 or (member.look_at > now and not is_near_now):
            return None
        return Look(member, nearer_than_s, instead.record)

    def seen(self, member: Member, rtt_s: float | None) -> None:
        """It is too far now; not where our links become longer."""
        member.rtt_s = rtt_s

    def refused(self, member: Member, now: float) -> None:
        """It is near, but others are nearer to it."""
        if self._is_of_use:
            member.look_at = now + REFUSED_S * (0.5 + self._rng.random())

    def _pause_s(self) -> float:
        return self._pause * self._config.gossip_interval * (0.75 + 0.5 * self._rng.random())


def worth_it_s(rtt_s: float | None) -> float:
    """What round trip is clearly less than `rtt_s`; at most 0: none is, and where it is not known."""
    return -math.inf if rtt_s is None else min(GAIN * rtt_s, rtt_s - GAIN_S)
