"""Who is asked to say that they have a traced message: all of few members, about `SAMPLE_TARGET` of many.

What must stay true:

- The origin and every member come to the same answer by themselves, from the message's id and the
  share that the origin signed: nobody has to be told, and both ends agree on whose answer is missing.
- Another message asks others, and nobody can choose an identity that is asked about all.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from grapevine_proto.crypto.identity import digest
from grapevine_proto.ids import MessageId, PeerId
from grapevine_proto.wire.signed import TRACE_ALL

SAMPLE_TARGET: Final = 100  # answers wanted: enough for a p99, few enough for one link to carry


class TraceSample:
    """Who is asked about one message. Pure."""

    def __init__(self, cluster: str, message_id: MessageId, share: int) -> None:
        origin, epoch, sequence, _ = message_id
        self._key = digest(b"grapevine trace 1", cluster, origin, epoch, sequence)
        self._share = share

    def __contains__(self, member: PeerId) -> bool:
        """Whether `member` is to answer: less than a microsecond, for tables of thousands."""
        if self._share == TRACE_ALL:
            return True
        hashed = blake2b(member, key=self._key, digest_size=2).digest()
        return int.from_bytes(hashed, "big") <= self._share


def sample_share(members: int) -> int:
    """Which part of so many members is asked, of `TRACE_ALL`; never 0, which would be nobody."""
    return TRACE_ALL if members <= SAMPLE_TARGET else max(TRACE_ALL * SAMPLE_TARGET // members, 1)
