"""What the history keeps of the screens every few seconds: tables as JSON, as an attached app receives them.

Invariants: a sample costs a few milliseconds; a full one comes every `FULL_INTERVAL_S`, others have what
changes.
"""

from __future__ import annotations

import json
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Final

from grapevine_proto.events import MemberInfo, RoundOutcome
from grapevine_proto.ids import PeerId
from grapevine_tui.host.snapshot import changing_values, full_state

if TYPE_CHECKING:
    from grapevine_tui.host.local import Host

FIRST_SAMPLE_S: Final = 1.0  # after the start: a short run has one as well
SAMPLE_INTERVAL_S: Final = 10.0
FULL_INTERVAL_S: Final = 600.0
MEMBERS_INTERVAL_S: Final = 60.0  # of a large cluster, in which something changes all the time
SMALL_CLUSTER: Final = 200  # members
MAX_ROUNDS: Final = 100  # in a sample

Frames = list[tuple[str, dict[str, Any]]]


class StateSampler:
    """Takes the samples of `host`, which runs."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._members: dict[PeerId, MemberInfo] = {}
        self._sampled_at = self._full_at = self._members_at = float("-inf")
        self._throttled: dict[PeerId, int] = {}

    def take(self) -> tuple[bytes, bool]:
        """Return the frames of a sample as JSON, and whether it is a full one."""
        model = self._host.model
        now = model.wall_now()
        is_full = now - self._full_at >= FULL_INTERVAL_S or now < self._full_at
        if is_full:
            self._full_at = self._members_at = now
            self._members = dict(model.members)
            frames: Frames = [("state", full_state(self._host))]
        else:
            frames = [*self._member_frames(now), ("poll", changing_values(self._host))]
            frames += self._round_frames()
        frames += self._throttled_frames()
        self._sampled_at = now
        return json.dumps(frames, separators=(",", ":"), allow_nan=False).encode("ascii"), is_full

    def _member_frames(self, now: float) -> Frames:
        members = self._host.model.members
        is_due = len(members) <= SMALL_CLUSTER or now - self._members_at >= MEMBERS_INTERVAL_S
        if not is_due or members == self._members:
            return []
        self._members, self._members_at = dict(members), now
        return [("members", {"members": [each.to_dict() for each in members.values()]})]

    def _round_frames(self) -> Frames:
        """The rounds that have ended since the last sample, oldest first."""
        latest = takewhile(
            lambda entry: entry.at_unix > self._sampled_at, reversed(self._host.model.rounds)
        )
        ended = [each.round for each in latest if each.round.outcome is not RoundOutcome.RUNNING][
            :MAX_ROUNDS
        ]
        return [("event", {"event": "round", **each.to_dict()}) for each in reversed(ended)]

    def _throttled_frames(self) -> Frames:
        """The peers whose messages were dropped since the last sample."""
        before, peers = self._throttled, self._host.model.peers
        self._throttled = {peer_id: peer.throttled for peer_id, peer in peers.items()}
        return [
            (
                "event",
                {
                    "event": "rate_limited",
                    "peer_id": str(peer_id),
                    "dropped": peer.throttled - before[peer_id],
                    "tokens": peer.tokens,
                },
            )
            for peer_id, peer in peers.items()
            if peer.throttled > before.get(peer_id, peer.throttled)
        ]
