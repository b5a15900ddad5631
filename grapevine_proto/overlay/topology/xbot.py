"""Nearer links (`optimize_links`): in a cluster larger than `max_peers`, far links go for near ones.

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
  link, so that no luck of the moment makes anybody near. What gains less than `MIN_GAIN_S` or a fifth is left
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

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.events import MemberStatus
from grapevine_proto.ids import Address, PeerId, Zone
from grapevine_proto.overlay.members import Member, MemberTable
from grapevine_proto.overlay.peers import Peer, PeerTable
from grapevine_proto.overlay.topology.active_view import LINK_GRACE_S, ActiveView
from grapevine_proto.wire.signed import PeerRecord

FARTHEST_KEPT_DIVISOR: Final = 5  # one in so many links, the farthest, is never given up
MAX_RTT_RATIO: Final = (
    0.8  # of the present round trip: what is not below it is not worth the change
)
MIN_GAIN_S: Final = 0.010  # nor what is not so much below it; the noise of a busy machine
MEASURED_INTERVALS: Final = 2.0  # a link must have been measured a few times before it goes
TREE_STRATEGIES: Final = ("plumtree", "auto")
CANDIDATES_DRAWN: Final = 8  # members looked through for one to look at
FIRST_PAUSE_INTERVALS: Final = 0.5  # gossip intervals between two looks
MAX_PAUSE_INTERVALS: Final = 12.0
PAUSE_GROWTH: Final = 1.1  # so much longer is the pause after each look that led to nothing
RECHECK_S: Final = 600.0  # before the same member is looked at again
RECHECK_REJECTED_S: Final = 60.0  # the same where it was near but had nearer ones


class SwapCandidate(NamedTuple):
    """Knock at `member`: if a round trip takes less than `max_rtt_s`, `swap_for` may go for it."""

    member: Member
    max_rtt_s: float
    swap_for: PeerRecord


class ProximityOptimizer:
    """See the module. `candidates_dialed` counts those taken, `links_optimized` links of ours given up
    for nearer ones."""

    def __init__(
        self,
        config: NodeConfig,
        peers: PeerTable,
        members: MemberTable,
        active_view: ActiveView,
        rng: random.Random,
        now: float,
        is_in_use: Callable[[PeerId, float], bool],
    ) -> None:
        """`carries(peer_id, now)`: whether messages come or go over that link, which stays while they do."""
        self._is_in_use = is_in_use
        self._config = config
        self._peers = peers
        self._members = members
        self._active_view = active_view
        self._rng = rng
        self._pause_intervals = FIRST_PAUSE_INTERVALS
        self._next_candidate_at = now
        self.candidates_dialed = 0
        self.links_optimized = 0

    def reconfigure(self, config: NodeConfig) -> None:
        self._config = config

    # --- our own links --------------------------------------------------------------------------

    def _farthest_replaceable(
        self, zone: Zone, now: float, allowed: Container[PeerId] | None = None
    ) -> Peer | None:
        """The farthest link, if need be `allowed` these, that may go for one into `zone`."""
        if not self._is_applicable:
            return None
        kept_count = self._config.max_peers // FARTHEST_KEPT_DIVISOR
        measured_after_s = max(LINK_GRACE_S, MEASURED_INTERVALS * self._config.gossip_interval)
        by_rtt: list[tuple[float, int, Peer]] = []
        for index, peer_id in enumerate(self._peers.linked):
            peer = self._peers.get(peer_id)
            if (
                peer is not None
                and peer.min_rtt_s is not None
                and self._active_view.is_healthy(peer_id, now)
            ):
                by_rtt.append((peer.min_rtt_s, index, peer))
        for _, _, peer in sorted(by_rtt, reverse=True)[kept_count:]:
            is_measured = peer.linked_at is not None and now - peer.linked_at >= measured_after_s
            is_replaceable = is_measured and self._peers.zone_of(peer.peer_id) == zone
            is_replaceable = is_replaceable and (allowed is None or peer.peer_id in allowed)
            if is_replaceable and not self._is_in_use(peer.peer_id, now):
                return peer
        return None

    @property
    def _is_applicable(self) -> bool:
        """Whether any link may ever go."""
        config = self._config
        is_enabled = config.optimize_links and config.max_peers >= FARTHEST_KEPT_DIVISOR
        return is_enabled and self._active_view.is_partial and self._tolerates_swaps

    @property
    def _tolerates_swaps(self) -> bool:
        """Whether what goes over links heals when they change: a tree does not without ids beside it, and
        hubs would have to be found anew."""
        if self._config.distribution == "hub-and-spoke":
            return False
        return self._config.lazy_push or self._config.strategy not in TREE_STRATEGIES

    def pick_victim(
        self, newcomer: PeerRecord, rtt_s: float | None, now: float, source: Address | None = None
    ) -> PeerId | None:
        """Whose link should go for one with `newcomer`, which is at `source` and `rtt_s` away; None:
        nobody's. What we chose ourselves we give up for what we choose ourselves, not for this."""
        if rtt_s is None or not self._is_applicable:
            return None
        allowed = None if source is None else self._active_view.replaceable_by(source, now)
        peer = self._farthest_replaceable(newcomer.zone, now, allowed)
        if peer is None or rtt_s >= rtt_to_beat_s(peer.min_rtt_s):
            return None
        return peer.peer_id

    def on_links_changed(self, now: float) -> None:
        """Links came or went: there may be nearer ones to be had again."""
        self._pause_intervals = FIRST_PAUSE_INTERVALS
        if self._is_applicable:
            self._next_candidate_at = min(self._next_candidate_at, now + self._next_pause_s())

    # --- looking at others ----------------------------------------------------------------------

    def next_candidate(self, now: float) -> SwapCandidate | None:
        """Whom to look at, if it is time to and there is anybody worth it."""
        if now < self._next_candidate_at or not self._is_applicable:
            return None
        self._pause_intervals = min(self._pause_intervals * PAUSE_GROWTH, MAX_PAUSE_INTERVALS)
        self._next_candidate_at = now + self._next_pause_s()
        if self._has_distant_link(now):
            for member in self._members.sample(CANDIDATES_DRAWN, self._rng):
                candidate = self._as_candidate(member, now)
                if candidate is not None:
                    self.candidates_dialed += 1
                    member.proximity_check_at = now + RECHECK_S * (0.5 + self._rng.random())
                    member.rejected_rtt_s = None
                    return candidate
        return None

    def _has_distant_link(self, now: float) -> bool:
        """Before members are drawn: whether we are well linked, and some link is far."""
        if self._active_view.healthy_count(now) < self._active_view.target_count:
            return False
        linked_peers = (self._peers.get(peer_id) for peer_id in self._peers.linked)
        return any(peer is not None and rtt_to_beat_s(peer.min_rtt_s) > 0 for peer in linked_peers)

    def _as_candidate(self, member: Member, now: float) -> SwapCandidate | None:
        record = member.record
        if (
            member.status is not MemberStatus.UP
            or member.dial_at > now
            or not record.addresses
            or record.peer_id in self._config.denied
            or self._peers.is_linked(record.peer_id)
        ):
            return None
        peer = self._farthest_replaceable(record.zone, now)
        swap_for = None if peer is None else self._members.get(peer.peer_id)
        if peer is None or swap_for is None:
            return None
        max_rtt_s = rtt_to_beat_s(peer.min_rtt_s)
        is_near_now = member.rejected_rtt_s is not None and member.rejected_rtt_s < max_rtt_s
        if max_rtt_s <= 0 or (member.proximity_check_at > now and not is_near_now):
            return None
        return SwapCandidate(member, max_rtt_s, swap_for.record)

    def on_too_far(self, member: Member, rtt_s: float | None) -> None:
        """It is too far now; not where our links become longer."""
        member.rejected_rtt_s = rtt_s

    def on_rejected(self, member: Member, now: float) -> None:
        """It is near, but others are nearer to it."""
        if self._is_applicable:
            member.proximity_check_at = now + RECHECK_REJECTED_S * (0.5 + self._rng.random())

    def _next_pause_s(self) -> float:
        return (
            self._pause_intervals * self._config.gossip_interval * (0.75 + 0.5 * self._rng.random())
        )


def rtt_to_beat_s(rtt_s: float | None) -> float:
    """What round trip is clearly less than `rtt_s`; at most 0: none is, and where it is not known."""
    return -math.inf if rtt_s is None else min(MAX_RTT_RATIO * rtt_s, rtt_s - MIN_GAIN_S)
