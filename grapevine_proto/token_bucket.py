"""A token bucket, pure: how much somebody may say, now and when again.

What must stay true:

- Over any stretch of w seconds at most capacity + w x refill_rate tokens are taken, and a
  thousandth, so that rounding never costs a whole token of a burst.
- At the instant that `ready_at` names, `try_take` succeeds: whoever sleeps until then never spins.
- A bucket left alone until it is full is like a new one, so it may be forgotten.
"""

from __future__ import annotations

import math
from typing import Final

from grapevine_proto.wire.messages import Kind

_SLACK_TOKENS: Final = 1e-3  # tokens
_FREE_KINDS: Final = frozenset(
    # they cost hardly more than opening, and are answered by nothing
    {
        Kind.CONFIRM,
        Kind.NEIGHBOR_REQUEST,
        Kind.SWAP_REQUEST,
        Kind.OPEN_TRANSIENT,
        Kind.CLOSE,
        Kind.ACK,
        Kind.MTU_PROBE,
        Kind.PATH_RESPONSE,
    }
)


def token_cost(kind: int) -> int:
    """The tokens that a packet of this kind is charged, known before anything in it is decoded.

    Repair that was asked for is free besides; only the link knows what was asked.
    """
    return 0 if kind in _FREE_KINDS else 1


class TokenBucket:
    """`capacity` tokens at most, refilled at `refill_rate` a second; starts full.

    Kept as one number, the instant at which it will be full again (the generic cell rate
    algorithm, ITU-T I.371): nothing to refill, and `try_take` and `ready_at` cannot disagree by a
    rounding error.
    """

    __slots__ = ("_full_at", "capacity", "refill_rate")

    def __init__(self, capacity: float, refill_rate: float, now: float) -> None:
        _check(capacity, refill_rate)
        self.capacity = capacity
        self.refill_rate = refill_rate
        self._full_at = now

    def try_take(self, now: float, tokens: float = 1.0) -> bool:
        """Take `tokens` if they are there; else take nothing."""
        if self.ready_at(now, tokens) > now + _SLACK_TOKENS / self.refill_rate:
            return False
        self._full_at = max(self._full_at, now) + tokens / self.refill_rate
        return True

    def refund(self, now: float, tokens: float = 1.0) -> None:
        """What was taken was not used after all; what is beyond the capacity is gone."""
        self._full_at = max(self._full_at, now) - tokens / self.refill_rate

    def available(self, now: float) -> float:
        """The tokens there are, from 0 to `capacity`."""
        missing = max(self._full_at - now, 0.0) * self.refill_rate
        return max(self.capacity - missing, 0.0)

    def available_tokens(self, now: float) -> int:
        """How many times `try_take` would succeed now."""
        return int(self.available(now) + _SLACK_TOKENS)

    def ready_at(self, now: float, tokens: float = 1.0) -> float:
        """When `try_take` of so many succeeds, not before `now`; math.inf when they are more than fit."""
        if tokens > self.capacity:
            return math.inf
        return max(now, self._full_at + (tokens - self.capacity) / self.refill_rate)

    def is_full(self, now: float) -> bool:
        return self._full_at <= now

    def resize(self, capacity: float, refill_rate: float, now: float) -> None:
        """Other limits from now on; what is missing from the bucket stays missing, what no longer
        fits is gone. A full bucket stays full."""
        _check(capacity, refill_rate)
        missing = min(max(self._full_at - now, 0.0) * self.refill_rate, capacity)
        self.capacity = capacity
        self.refill_rate = refill_rate
        self._full_at = now + missing / refill_rate


def _check(capacity: float, refill_rate: float) -> None:
    if not (capacity > 0 and refill_rate > 0):
        raise ValueError("a bucket needs room and a refill")
