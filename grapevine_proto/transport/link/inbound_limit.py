"""What the peer may say: its tokens, and repair that we asked for.

What must stay true:

- What is charged is known from the kind alone, before anybody decodes it.
- Repair that was asked for costs nothing; that of more than `REPAIR_CREDIT_LIMIT` messages does.
- What is beyond the bucket is refused and counted, and takes nothing from it.
"""

from __future__ import annotations

from typing import Final

from grapevine_proto.errors import Dropped, DropReason
from grapevine_proto.token_bucket import TokenBucket, token_cost
from grapevine_proto.wire.messages import Kind

REPAIR_CREDIT_LIMIT: Final = 64  # messages of repair on their way to us: twice the largest reply


class InboundLimit:
    """`bucket` is what we allow the peer, None for everything; it belongs to the PeerId and outlives the
    link. `allowed` and `throttled` count what it let through and refused."""

    __slots__ = ("_repair_credit", "allowed", "bucket", "throttled")

    def __init__(self, bucket: TokenBucket | None) -> None:
        self.bucket = bucket
        self.allowed = self.throttled = 0
        self._repair_credit = 0

    def charge(self, plaintext: bytes, now: float) -> None:
        """Charge the peer for saying `plaintext`. Raises Refused(RATE_LIMITED)."""
        kind = plaintext[0]
        if kind != Kind.REPAIR or not self.consume_repair_credit():
            self.charge_tokens(token_cost(kind), now)
        self.allowed += 1

    def charge_tokens(self, tokens: int, now: float) -> None:
        """Charge so many tokens. Raises Refused(RATE_LIMITED)."""
        if tokens and self.bucket is not None and not self.bucket.try_take(now, tokens):
            self.throttled += 1
            raise Dropped(DropReason.RATE_LIMITED)

    def grant_repair_credit(self, count: int) -> None:
        """So many messages of repair were asked for and cost no token."""
        self._repair_credit = min(self._repair_credit + count, REPAIR_CREDIT_LIMIT)

    def consume_repair_credit(self) -> bool:
        """Whether a message of repair was asked for; the next one has to be asked for anew."""
        if not self._repair_credit:
            return False
        self._repair_credit -= 1
        return True
