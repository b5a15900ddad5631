"""Loss and jitter of the links to peers, measured over the last half minute.

Invariants: one sample a second of each connected peer, at most `WINDOW_SAMPLES` of them; a peer that is
gone, or whose counters began anew, begins anew here as well. Pure: time is not read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import pairwise
from typing import Final, NamedTuple

from grapevine_proto.events import PeerInfo
from grapevine_proto.ids import PeerId

WINDOW_SAMPLES: Final = 31  # thirty seconds, both ends included
MIN_SENT: Final = 20  # datagrams, before a share of them says anything


class _Sample(NamedTuple):
    sent: int
    lost: int
    rtt_s: float | None


class LinkQuality:
    """What the samples say; `peers` are those of the last `sample`."""

    def __init__(self) -> None:
        self._samples: dict[PeerId, deque[_Sample]] = {}

    def sample(self, peers: Iterable[PeerInfo]) -> None:
        """Take a sample; call it once a second."""
        before, self._samples = self._samples, {}
        for peer in peers:
            if not peer.state.is_connected:
                continue
            samples = before.get(peer.peer_id)
            if samples is None or peer.sent < samples[-1].sent:
                samples = deque(maxlen=WINDOW_SAMPLES)
            samples.append(_Sample(peer.sent, peer.lost, peer.rtt_s))
            self._samples[peer.peer_id] = samples

    def loss(self, peer_id: PeerId) -> float | None:
        """The share of the datagrams to a peer that was lost; None if too few were sent."""
        sent, lost = self._counts(peer_id)
        return None if sent < MIN_SENT else min(1.0, lost / sent)

    @property
    def total_loss(self) -> float | None:
        """The share of the datagrams to all peers that was lost; None if too few were sent."""
        counts = [self._counts(peer_id) for peer_id in self._samples]
        sent, lost = sum(each[0] for each in counts), sum(each[1] for each in counts)
        return None if sent < MIN_SENT else min(1.0, lost / sent)

    def _counts(self, peer_id: PeerId) -> tuple[int, int]:
        """(datagrams sent, those lost) within the window."""
        samples = self._samples.get(peer_id)
        if not samples:
            return 0, 0
        first, last = samples[0], samples[-1]
        return last.sent - first.sent, max(0, last.lost - first.lost)

    def jitter_s(self, peer_id: PeerId) -> float | None:
        """The mean change between two round-trip times, in seconds; None below two of them."""
        known = [each.rtt_s for each in self._samples.get(peer_id, ()) if each.rtt_s is not None]
        if len(known) < 2:
            return None
        steps = [abs(later - earlier) for earlier, later in pairwise(known)]
        return sum(steps) / len(steps)
