"""Inbound rate limit of one link: the peer's tokens, and credit for requested repairs.

Invariants:

- The cost of a message depends on its kind alone, so it is charged before anything is decoded.
- Requested repairs are free, up to `REPAIR_CREDIT_LIMIT` messages at a time.
- A message beyond the limit is dropped and counted, and takes no token.
"""

from __future__ import annotations

from typing import Final

from grapevine_proto.errors import Dropped, DropReason
from grapevine_proto.token_bucket import FREE_KINDS, TokenBucket
from grapevine_proto.wire.messages import Kind

REPAIR_CREDIT_LIMIT: Final = 64  # Repair messages: twice the largest reply


class InboundLimit:
    """Charges the messages of one peer.

    `bucket` holds the peer's tokens (None: unlimited). It belongs to the peer ID and outlives the link.
    `allowed` and `throttled` count messages admitted and dropped.
    """

    __slots__ = ("_repair_credit", "allowed", "bucket", "throttled")

    def __init__(self, bucket: TokenBucket | None) -> None:
        self.bucket = bucket
        self.allowed = self.throttled = 0
        self._repair_credit = 0

    def set_bucket(self, bucket: TokenBucket | None) -> None:
        """The limits of the peer have changed."""
        self.bucket = bucket

    def charge(self, plaintext: bytes, now: float) -> None:
        """Charges the peer for the message `plaintext`. Raises Dropped(RATE_LIMITED)."""
        kind = plaintext[0]
        if kind in FREE_KINDS or (kind == Kind.REPAIR and self.consume_repair_credit()):
            pass
        elif self.bucket is not None and not self.bucket.try_take(now):
            self.throttled += 1
            raise Dropped(DropReason.RATE_LIMITED)
        self.allowed += 1

    def charge_tokens(self, tokens: int, now: float) -> None:
        """Charges `tokens` tokens for a part of a message. Raises Dropped(RATE_LIMITED)."""
        if tokens and self.bucket is not None and not self.bucket.try_take(now, tokens):
            self.throttled += 1
            raise Dropped(DropReason.RATE_LIMITED)

    def count_allowed(self) -> None:
        """Counts a message whose parts were charged one by one."""
        self.allowed += 1

    def grant_repair_credit(self, count: int) -> None:
        """Admits the next `count` Repair messages, which this node requested, without tokens."""
        self._repair_credit = min(self._repair_credit + count, REPAIR_CREDIT_LIMIT)

    def consume_repair_credit(self) -> bool:
        """Consumes the credit for one Repair message. Returns False if there is none."""
        if not self._repair_credit:
            return False
        self._repair_credit -= 1
        return True
