"""Proximity optimization (`optimize_links`): replaces distant links by nearer ones in a cluster
larger than `max_peers`, a simplified X-BOT (Leitao 2009).

Periodically a node measures the RTT of an unlinked member with the first flight of a handshake: of several
that it draws, the one that is nearest by its coordinate. If
it is clearly below the RTT of its farthest replaceable link, the handshake continues with a
SwapRequest that names that link. The member measures for itself and accepts if it has a farther
link too. Each end then closes its distant link, and the two closed peers are referred to each
other: `a-far` and `b-remote` become `a-b` and `far-remote`, so no node's number of links changes.

Invariants:

- The farthest fifth of the links is never replaced, so that distant parts of a cluster stay
  connected; with fewer than five links none is.
- Only local measurements count: one of the member, against the minimum of several of the link, so
  that no momentary fluctuation makes a member near. A gain below `MIN_GAIN_S` or a fifth is
  ignored, so nothing moves within one machine or network, or once the overlay is optimal.
- A link that carries broadcasts stays until they arrive another way, so that none waits for repair.
- A link is replaced only by one into the same zone: `distribution` decides the number of links per
  zone.
- A measurement costs two datagrams and one dial of the common budget. Each fruitless one lengthens
  the pause before the next, and no member is measured twice within five minutes unless it became
  worthwhile.

A component of `dialer`, which dials, and of `membership`, which closes links.
"""

from __future__ import annotations

import math
from collections.abc import Container
from typing import Final, NamedTuple

from grapevine_proto.events import MemberStatus
from grapevine_proto.ids import Address, PeerId, Zone
from grapevine_proto.overlay.context import OverlayContext
from grapevine_proto.overlay.members import Member
from grapevine_proto.overlay.peers import Peer
from grapevine_proto.overlay.topology.active_view import LINK_GRACE_S, ActiveView, LinkUsage
from grapevine_proto.overlay.topology.vivaldi import Coordinates
from grapevine_proto.wire.signed import PeerRecord

FARTHEST_KEPT_DIVISOR: Final = 5  # fraction of the links, the farthest, that is never replaced
MAX_RTT_RATIO: Final = 0.8  # of the RTT of the link to replace
# below the RTT of the link to replace; exceeds the jitter of a busy machine
MIN_GAIN_S: Final = 0.010
MEASURED_INTERVALS: Final = 2.0  # gossip intervals after which a link has enough RTT samples
TREE_STRATEGIES: Final = ("plumtree", "auto")
CANDIDATES_DRAWN: Final = 8  # members examined per candidate
CANDIDATES_COMPARED: Final = 64  # the same once coordinates tell which are near
HOPELESS_RATIO: Final = 2.0  # an estimate so far above the RTT to beat is not worth a measurement
FIRST_PAUSE_INTERVALS: Final = 0.5  # gossip intervals between two measurements
MAX_PAUSE_INTERVALS: Final = 12.0
PAUSE_GROWTH: Final = 1.1  # per fruitless measurement
RECHECK_S: Final = 600.0  # before the same member is measured again
RECHECK_REJECTED_S: Final = 60.0  # the same if it was near but rejected us


class SwapCandidate(NamedTuple):
    """Dial `member`; if its RTT is below `max_rtt_s`, it may replace `swap_for`."""

    member: Member
    max_rtt_s: float
    swap_for: PeerRecord


class ProximityOptimizer:
    """Chooses members to measure and links to replace. `candidates_dialed` counts the members
    measured, `links_optimized` the links replaced.
    """

    def __init__(
        self,
        context: OverlayContext,
        active_view: ActiveView,
        broadcast: LinkUsage,
        now: float,
        coordinates: Coordinates,
    ) -> None:
        """Links that `broadcast` uses are kept."""
        self._coordinates = coordinates
        self._config = context.config
        self._peers = context.peers
        self._members = context.members
        self._rng = context.rng
        self._active_view = active_view
        self._broadcast = broadcast
        self._pause_intervals = FIRST_PAUSE_INTERVALS
        self._next_candidate_at = now
        self.candidates_dialed = 0
        self.links_optimized = 0

    def count_swap(self) -> None:
        """A link was replaced by one to a nearer peer."""
        self.links_optimized += 1

    # --- links to replace -----------------------------------------------------------------------

    def _farthest_replaceable(
        self, zone: Zone, now: float, allowed: Container[PeerId] | None = None
    ) -> Peer | None:
        """The farthest link, restricted to `allowed` if given, that may be replaced by one into
        `zone`.
        """
        if not self._is_applicable:
            return None
        kept_count = self._config.current.max_peers // FARTHEST_KEPT_DIVISOR
        measured_after_s = max(
            LINK_GRACE_S, MEASURED_INTERVALS * self._config.current.gossip_interval
        )
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
            if is_replaceable and not self._broadcast.is_in_use(peer.peer_id, now):
                return peer
        return None

    @property
    def _is_applicable(self) -> bool:
        """Whether links may be replaced at all."""
        config = self._config.current
        is_enabled = config.optimize_links and config.max_peers >= FARTHEST_KEPT_DIVISOR
        return is_enabled and self._active_view.is_partial and self._tolerates_swaps

    @property
    def _tolerates_swaps(self) -> bool:
        """Whether broadcasts survive a change of links: a tree does not without lazy push, and
        `hub-and-spoke` would have to find new hubs.
        """
        if self._config.current.distribution == "hub-and-spoke":
            return False
        return (
            self._config.current.lazy_push or self._config.current.strategy not in TREE_STRATEGIES
        )

    def pick_victim(
        self, newcomer: PeerRecord, rtt_s: float | None, now: float, source: Address | None = None
    ) -> PeerId | None:
        """The link to replace by one with `newcomer`, at `source` and `rtt_s` away; None if none is
        worth it.

        Self-chosen links are given up only for members that we choose ourselves, not here.
        """
        if rtt_s is None or not self._is_applicable:
            return None
        allowed = None if source is None else self._active_view.replaceable_by(source, now)
        peer = self._farthest_replaceable(newcomer.zone, now, allowed)
        if peer is None or rtt_s >= rtt_to_beat_s(peer.min_rtt_s):
            return None
        return peer.peer_id

    def on_links_changed(self, now: float) -> None:
        """Links changed, so there may be nearer members again: measure more often."""
        self._pause_intervals = FIRST_PAUSE_INTERVALS
        if self._is_applicable:
            self._next_candidate_at = min(self._next_candidate_at, now + self._next_pause_s())

    # --- members to measure ---------------------------------------------------------------------

    def next_candidate(self, now: float) -> SwapCandidate | None:
        """The next member to measure, if one is due and worthwhile."""
        if now < self._next_candidate_at or not self._is_applicable:
            return None
        self._pause_intervals = min(self._pause_intervals * PAUSE_GROWTH, MAX_PAUSE_INTERVALS)
        self._next_candidate_at = now + self._next_pause_s()
        if self._has_distant_link(now):
            for member in self._draw():
                candidate = self._as_candidate(member, now)
                if candidate is not None and not self._is_hopeless(candidate):
                    self.candidates_dialed += 1
                    member.measure_not_before(now + RECHECK_S * (0.5 + self._rng.random()))
                    member.set_rejected_rtt(None)
                    return candidate
        return None

    def _draw(self) -> list[Member]:
        """Members to examine, the nearest first as far as coordinates tell; those without one last."""
        if not self._coordinates.is_settled():
            return self._members.sample(CANDIDATES_DRAWN, self._rng)
        drawn = self._members.sample(CANDIDATES_COMPARED, self._rng)
        return sorted(drawn, key=self._estimate_s)

    def _estimate_s(self, member: Member) -> float:
        theirs = member.coordinate
        return math.inf if theirs is None else self._coordinates.coordinate.distance_s(theirs)

    def _is_hopeless(self, candidate: SwapCandidate) -> bool:
        estimate_s = self._estimate_s(candidate.member)
        is_known = self._coordinates.is_settled() and estimate_s < math.inf
        return is_known and estimate_s > HOPELESS_RATIO * candidate.max_rtt_s

    def _has_distant_link(self, now: float) -> bool:
        """Whether we have enough links and one is distant; checked before any member is drawn."""
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
            or record.peer_id in self._config.current.denied
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
        """Remember that `member` was too far; it is measured again early if our links become
        longer.
        """
        member.set_rejected_rtt(rtt_s)

    def on_rejected(self, member: Member, now: float) -> None:
        """`member` is near but has nearer links."""
        if self._is_applicable:
            member.measure_not_before(now + RECHECK_REJECTED_S * (0.5 + self._rng.random()))

    def _next_pause_s(self) -> float:
        return (
            self._pause_intervals
            * self._config.current.gossip_interval
            * (0.75 + 0.5 * self._rng.random())
        )


def rtt_to_beat_s(rtt_s: float | None) -> float:
    """RTT a replacement must beat; <= 0 if none can."""
    return -math.inf if rtt_s is None else min(MAX_RTT_RATIO * rtt_s, rtt_s - MIN_GAIN_S)
