"""The network coordinate of this node: Vivaldi with height (Dabek et al. 2004), with the adjustment term,
the gravity and the constants of Serf.

Each heartbeat that a peer echoes is one sample: the measured round-trip time pulls this node's coordinate
to or from that of the peer. Two errors weigh the pull, so a node that has settled hardly moves for one that
has not.

Invariants:

- A sample counts only from a linked peer, by this node's own clock, within `MAX_RTT_S`. One moves the
  coordinate by at most `MAX_FORCE_S`, and pulls it by no more than the RTT, however far the claim.
- A peer whose claimed position is off threefold in ten samples more than it fits, by its own claim to know
  it, weighs nothing. If most
  peers are off, the fault is more likely here, and all count. A claim to be precise does not outweigh the
  error that samples showed.
- Coordinates only decide what to measure and what to show. No link is closed because of one.
- The coordinate goes to a peer behind a heartbeat, at most every other one, once it is about right every
  fourth, and only if it has moved by more than 5 % of the RTT of that link since, and by a quarter of its own
  error. In this node's
  record it is signed again at most every `RECORD_INTERVAL_S`.
- Nothing is drawn from the generator of the node: directions come from one of their own, seeded by the
  peer ID.
"""

from __future__ import annotations

import math
import random
from collections import deque
from typing import Final

from grapevine_proto.coordinate import (
    MAX_ERROR,
    MAX_RTT_S,
    MIN_HEIGHT_S,
    Coordinate,
    vector_distance,
)
from grapevine_proto.ids import PeerId

ERROR_WEIGHT: Final = 0.25  # c_e: of one sample in the error
FORCE_WEIGHT: Final = 0.25  # c_c: of one sample in the position
ADJUSTMENT_WINDOW: Final = 20  # samples
GRAVITY_S: Final = 150.0  # how far from the center gravity is as strong as a pull of one second
FILTERED_SAMPLES: Final = 3  # per peer, whose median counts
ZERO_S: Final = 1e-6  # what counts as no distance at all
MAX_FORCE_S: Final = 0.1  # of one sample
NEAR_PULL_S: Final = 0.05  # a near node may pull so far: it may be this one that is wrong
MISFIT_RATIO: Final = 3.0
MISFIT_MIN_S: Final = 0.010  # below this a ratio is jitter
KNOWING_ERROR: Final = 1.0  # of both ends together, below which a misfit tells against one
MISFITS_TOLERATED: Final = 9  # more of them than of samples that fit
MISFITS_LIMIT: Final = 20  # as many samples that fit make up for any number
LINK_ERROR_WEIGHT: Final = 0.25  # of one sample in the error of one link
RESEND_SHARE: Final = 0.05  # of the RTT of the link that the coordinate has moved
RESEND_ERROR_SHARE: Final = 0.25  # of its error: a move far within that says nothing
RESEND_MIN_S: Final = 0.0001
RESEND_BEATS: Final = 2  # heartbeats from one coordinate sent to the next, at least
MAX_RESEND_BEATS: Final = 32  # to which they double, while its error is below `SETTLED_ERROR`
FAR_SHARE: Final = 0.5  # of the RTT of the link: after such a move they are few again
SETTLED_ERROR: Final = 0.5
RECORD_SHARE: Final = 0.1  # of the median RTT of the links
RECORD_MIN_S: Final = 0.002
RECORD_INTERVAL_S: Final = 300.0
RECORD_FIRST_SAMPLES: Final = 20  # before the first coordinate is signed


class Vivaldi:
    """The coordinate of one node and how samples move it. Knows no peers."""

    def __init__(self, start: Coordinate, rng: random.Random) -> None:
        self.coordinate = start
        self._rng = rng
        self._adjustments: deque[float] = deque(maxlen=ADJUSTMENT_WINDOW)

    def restart_at(self, start: Coordinate) -> None:
        """Begins again at `start`."""
        self.coordinate = start
        self._adjustments.clear()

    def update(self, other: Coordinate, rtt_s: float) -> None:
        """A round trip to a node at `other` took `rtt_s` seconds."""
        ours = self.coordinate
        rtt_s = max(rtt_s, ZERO_S)
        distance_s = ours.distance_s(other)
        wrongness = min(abs(distance_s - rtt_s) / rtt_s, MAX_ERROR)
        weight = ours.error / max(ours.error + other.error, ZERO_S)
        share = ERROR_WEIGHT * weight
        error = min(share * wrongness + ours.error * (1.0 - share), MAX_ERROR)
        # However far the claim, it pulls no harder than the RTT, which this node measured itself.
        off_s = max(rtt_s - distance_s, -max(rtt_s, NEAR_PULL_S))
        force_s = FORCE_WEIGHT * weight * off_s
        force_s = max(-MAX_FORCE_S, min(MAX_FORCE_S, force_s))
        moved = self._pushed(ours, other, force_s)
        self._adjustments.append(rtt_s - moved.raw_distance_s(other))
        total_s = 0.0
        for each_s in self._adjustments:
            total_s += each_s
        adjustment_s = total_s / (2.0 * ADJUSTMENT_WINDOW)
        moved = Coordinate(moved.vector, moved.height_s, adjustment_s, error)
        center = Coordinate((0.0,) * len(moved.vector))
        from_center = center.distance_s(moved) / GRAVITY_S
        self.coordinate = self._pushed(moved, center, -from_center * from_center)

    def _pushed(self, coordinate: Coordinate, other: Coordinate, force_s: float) -> Coordinate:
        """`coordinate` moved away from `other` by `force_s`, negative: towards it."""
        distance_s = vector_distance(coordinate.vector, other.vector)
        height_s = coordinate.height_s
        if distance_s > ZERO_S:
            unit = [
                (a - b) / distance_s for a, b in zip(coordinate.vector, other.vector, strict=True)
            ]
            heights_s = coordinate.height_s + other.height_s
            height_s = max(height_s + heights_s * force_s / distance_s, MIN_HEIGHT_S)
        else:
            unit = self._random_unit(len(coordinate.vector))
        vector = tuple(
            [a + each * force_s for a, each in zip(coordinate.vector, unit, strict=True)]
        )
        if height_s > MAX_RTT_S or max(map(abs, vector)) > MAX_RTT_S:
            return coordinate
        return Coordinate(vector, height_s, coordinate.adjustment_s, coordinate.error)

    def _random_unit(self, dimensions: int) -> list[float]:
        """A direction for two nodes in one place."""
        while True:
            drawn = [self._rng.random() - 0.5 for _ in range(dimensions)]
            length = vector_distance(tuple(drawn), (0.0,) * dimensions)
            if length > ZERO_S:
                return [each / length for each in drawn]


class _LinkSamples:
    """What is known of one linked peer: its coordinate, recent samples, and what was sent to it."""

    __slots__ = (
        "error",
        "is_known",
        "misfits",
        "resend_beats",
        "rtts_s",
        "sent",
        "skipped_beats",
        "theirs",
    )

    def __init__(self, known: Coordinate | None, sent: Coordinate) -> None:
        self.theirs = known or Coordinate()  # where a node begins
        self.is_known = known is not None  # not only assumed
        self.sent = sent
        self.resend_beats = RESEND_BEATS  # from the coordinate sent last to the next, at least
        self.skipped_beats = 0  # of the next heartbeats: no coordinate follows them
        self.rtts_s: deque[float] = deque(maxlen=FILTERED_SAMPLES)
        self.misfits = 0  # of recent samples, less those that fit
        self.error = 0.0  # relative, as its samples showed here

    @property
    def believed(self) -> Coordinate:
        """Its coordinate with the error that counts: a claim of precision that its samples belie gains
        nothing."""
        theirs = self.theirs
        if theirs.error >= self.error:
            return theirs
        return Coordinate(theirs.vector, theirs.height_s, theirs.adjustment_s, self.error)

    def judge(self, ours: Coordinate, rtt_s: float) -> None:
        """Compares a sample with the distance to where the peer says it is."""
        distance_s = ours.distance_s(self.theirs)
        wrongness = abs(distance_s - rtt_s) / max(rtt_s, MISFIT_MIN_S)
        weight = LINK_ERROR_WEIGHT if len(self.rtts_s) > 1 else 1.0
        self.error += weight * (min(wrongness, MAX_ERROR) - self.error)
        longer_s, shorter_s = max(distance_s, rtt_s), min(distance_s, rtt_s)
        fits = longer_s <= MISFIT_RATIO * shorter_s or longer_s - shorter_s <= MISFIT_MIN_S
        if not fits and ours.error + self.theirs.error >= KNOWING_ERROR:
            return  # neither end says that it knows better
        self.misfits = max(self.misfits - 1, 0) if fits else min(self.misfits + 1, MISFITS_LIMIT)

    @property
    def median_s(self) -> float:
        ordered = sorted(self.rtts_s)
        return ordered[len(ordered) // 2]


class Coordinates:
    """Owns the coordinate of this node, and those of its linked peers. `samples` counts the samples that
    counted, `ignored` those that did not, `times_recorded` how often the record was to be signed."""

    def __init__(self, our_id: PeerId, saved: Coordinate | None = None) -> None:
        """`saved`: where an earlier run of this node was."""
        start = Coordinate()
        self._saved = b"" if saved is None else saved.encode()
        if saved is not None:
            start = Coordinate(saved.vector, saved.height_s)
        self._vivaldi = Vivaldi(start, random.Random(int.from_bytes(our_id[:8], "big")))
        self._links: dict[PeerId, _LinkSamples] = {}
        self._recorded: Coordinate | None = None
        self._recorded_at = -math.inf
        self.samples = 0
        self.ignored = 0
        self.times_recorded = 0

    @property
    def coordinate(self) -> Coordinate:
        """Where this node is."""
        return self._vivaldi.coordinate

    def __len__(self) -> int:
        return len(self._links)

    def of_peer(self, peer_id: PeerId) -> Coordinate | None:
        """Where a linked peer says it is; None if it has no link or says nothing."""
        link = self._links.get(peer_id)
        return link.theirs if link is not None and link.is_known else None

    def to_save(self) -> bytes:
        """The encoded coordinate for the next run; empty: none."""
        return self.coordinate.encode() if self.samples else self._saved

    def is_settled(self) -> bool:
        """Whether enough samples counted for estimates to say something."""
        return self.samples >= FILTERED_SAMPLES

    # --- links ----------------------------------------------------------------------------------

    def on_link_up(self, peer_id: PeerId, known: Coordinate | None) -> None:
        """A link is up. `known`: the coordinate in the record of the peer."""
        # A node begins in the center, so that one need not be sent.
        self._links[peer_id] = _LinkSamples(known, Coordinate())

    def on_link_down(self, peer_id: PeerId) -> None:
        """A link is down."""
        self._links.pop(peer_id, None)

    def on_moved(self) -> None:
        """This node is in another network: begins in the center."""
        if self.samples:
            self._vivaldi.restart_at(Coordinate())
            self.samples = 0
            for link in self._links.values():
                link.misfits = 0

    def on_coordinate(self, peer_id: PeerId, theirs: Coordinate) -> None:
        """A peer says where it is."""
        link = self._links.get(peer_id)
        if link is not None:
            link.theirs, link.is_known = theirs, True

    def on_rtt(self, peer_id: PeerId, rtt_s: float) -> None:
        """A heartbeat of a linked peer measured the RTT."""
        link = self._links.get(peer_id)
        if link is None:
            return
        if not 0.0 <= rtt_s <= MAX_RTT_S:
            self.ignored += 1
            return
        link.rtts_s.append(rtt_s)
        rtt_s = link.median_s
        link.judge(self.coordinate, rtt_s)
        if self._is_distrusted(link):
            self.ignored += 1
            return
        self.samples += 1
        self._vivaldi.update(link.believed, rtt_s)

    def _is_distrusted(self, link: _LinkSamples) -> bool:
        if link.misfits <= MISFITS_TOLERATED:
            return False
        off = [each for each in self._links.values() if each.misfits > MISFITS_TOLERATED]
        return 2 * len(off) <= len(self._links)

    # --- what others learn ----------------------------------------------------------------------

    def next_for(self, peer_id: PeerId, rtt_s: float | None) -> Coordinate | None:
        """The coordinate to send behind a heartbeat to `peer_id`, whose link has this RTT; None: it has
        hardly moved. What is returned counts as sent."""
        link = self._links.get(peer_id)
        if link is None or rtt_s is None:
            return None
        coordinate = self.coordinate
        moved_s = coordinate.moved_s(link.sent)
        is_far = moved_s > max(FAR_SHARE * rtt_s, RESEND_MIN_S)
        if is_far:
            link.skipped_beats = min(link.skipped_beats, RESEND_BEATS - 1)
        if link.skipped_beats > 0:
            link.skipped_beats -= 1
            return None
        share = max(RESEND_SHARE, RESEND_ERROR_SHARE * coordinate.error)
        if moved_s <= max(share * rtt_s, RESEND_MIN_S):
            return None
        if is_far or coordinate.error >= SETTLED_ERROR:
            link.resend_beats = RESEND_BEATS
        else:
            link.resend_beats = min(2 * link.resend_beats, MAX_RESEND_BEATS)
        link.sent, link.skipped_beats = coordinate, link.resend_beats - 1
        return coordinate

    def next_for_record(self, now: float) -> Coordinate | None:
        """The coordinate to sign into the record of this node; None: that in it will do. What is returned
        counts as signed."""
        if now < self._recorded_at + RECORD_INTERVAL_S or self.samples < RECORD_FIRST_SAMPLES:
            return None
        coordinate = self.coordinate
        if self._recorded is not None:
            moved_s = coordinate.moved_s(self._recorded)
            if moved_s <= max(RECORD_SHARE * self._median_rtt_s(), RECORD_MIN_S):
                return None
        self._recorded, self._recorded_at = coordinate, now
        self.times_recorded += 1
        return coordinate

    def _median_rtt_s(self) -> float:
        rtts_s = sorted(link.median_s for link in self._links.values() if link.rtts_s)
        return rtts_s[len(rtts_s) // 2] if rtts_s else 0.0
