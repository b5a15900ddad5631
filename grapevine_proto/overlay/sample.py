"""Trace sampling: which members confirm a traced message; all in a small cluster, about
`SAMPLE_TARGET` in a large one.

Invariants:

- The origin and every member compute the same sample from the message ID and the signed share, so
  no list is sent and both ends agree on whose receipt is missing.
- Each message has another sample, and no identity can be chosen so that it is in every one.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import Final

from grapevine_proto.crypto.identity import digest
from grapevine_proto.ids import MessageId, PeerId
from grapevine_proto.wire.attributes import TRACE_ALL

SAMPLE_TARGET: Final = 100  # enough for a 99th percentile, few enough for one link


class MemberSample:
    """The members sampled for one message."""

    def __init__(self, cluster: str, message_id: MessageId, share: int) -> None:
        origin, epoch, sequence, _ = message_id
        self._key = digest(b"grapevine trace 1", cluster, origin, epoch, sequence)
        self._share = share

    def __contains__(self, member: PeerId) -> bool:
        """Whether `member` is sampled; takes less than a microsecond."""
        if self._share == TRACE_ALL:
            return True
        return self._position(member) <= self._share

    def _position(self, member: PeerId) -> int:
        """The least share with which `member` is sampled."""
        hashed = blake2b(member, key=self._key, digest_size=2).digest()
        return int.from_bytes(hashed, "big")

    def share_for(self, count: int, members: Iterable[PeerId]) -> int:
        """The least share that samples `count` of `members`, or all; more only if their positions are
        equal. Never 0."""
        positions = sorted(map(self._position, members))
        return max(positions[count - 1], 1) if count < len(positions) else TRACE_ALL


def sample_share(members: int) -> int:
    """The share to sample in a cluster of `members`, out of `TRACE_ALL`; never 0, which would
    select no member.
    """
    return TRACE_ALL if members <= SAMPLE_TARGET else max(TRACE_ALL * SAMPLE_TARGET // members, 1)
