"""Token bucket (generic cell rate algorithm, ITU-T I.371) and the token cost of each message kind.

Invariants:

- In any interval of w seconds at most capacity + w × refill_rate tokens are taken, plus a thousandth, so
  rounding never costs a whole token.
- `try_take` succeeds at the time that `ready_at` returns, so a caller that sleeps until then never spins.
- A full bucket equals a new one, so it may be discarded.
"""

from __future__ import annotations

import math
from typing import Final

from grapevine_proto.wire.messages import Kind

_SLACK_TOKENS: Final = 1e-3
FREE_KINDS: Final = frozenset(
    # they cost little more than decryption and cause no expensive reply
    {
        Kind.CONFIRM,
        Kind.NEIGHBOR_REQUEST,
        Kind.SWAP_REQUEST,
        Kind.OPEN_TRANSIENT,
        Kind.CLOSE,
        Kind.ACK,
        Kind.MTU_PROBE,
        Kind.PATH_RESPONSE,
        Kind.RELAYED,  # charged by bytes instead
        Kind.PIGGYBACKED_ACK,  # its message is charged
    }
)


def token_cost(kind: int) -> int:
    """Returns the tokens that a packet of this kind costs. Requested repairs are free besides, which the link
    decides."""
    return 0 if kind in FREE_KINDS else 1


class TokenBucket:
    """Holds at most `capacity` tokens and refills at `refill_rate` tokens per second; starts full.

    Its state is one number, the time at which it will be full: nothing has to be refilled, and `try_take` and
    `ready_at` cannot disagree by a rounding error. Raises ValueError unless both parameters are positive.
    """

    __slots__ = ("_full_at", "capacity", "refill_rate")

    def __init__(self, capacity: float, refill_rate: float, now: float) -> None:
        _check(capacity, refill_rate)
        self.capacity = capacity
        self.refill_rate = refill_rate
        self._full_at = now

    def try_take(self, now: float, tokens: float = 1.0) -> bool:
        """Takes `tokens` if available. Returns False, and takes nothing, otherwise."""
        ready_at = self._full_at + (tokens - self.capacity) / self.refill_rate  # see `ready_at`
        if tokens > self.capacity or ready_at > now + _SLACK_TOKENS / self.refill_rate:
            return False
        self._full_at = max(self._full_at, now) + tokens / self.refill_rate
        return True

    def take_up_to(self, now: float, tokens: float) -> None:
        """Takes `tokens`, or all that are available."""
        self.try_take(now, min(tokens, self.available(now)))

    def refund(self, now: float, tokens: float = 1.0) -> None:
        """Returns unused tokens to the bucket, up to its capacity."""
        self._full_at = max(self._full_at, now) - tokens / self.refill_rate

    def available(self, now: float) -> float:
        """Returns the available tokens, from 0 to `capacity`."""
        missing = max(self._full_at - now, 0.0) * self.refill_rate
        return max(self.capacity - missing, 0.0)

    def available_tokens(self, now: float) -> int:
        """Returns the number of whole tokens that `try_take` would grant now."""
        return int(self.available(now) + _SLACK_TOKENS)

    def ready_at(self, now: float, tokens: float = 1.0) -> float:
        """Returns when `try_take` of `tokens` succeeds, at least `now`; math.inf above the capacity."""
        if tokens > self.capacity:
            return math.inf
        return max(now, self._full_at + (tokens - self.capacity) / self.refill_rate)

    def is_full(self, now: float) -> bool:
        """Whether no tokens are missing."""
        return self._full_at <= now

    def resize(self, capacity: float, refill_rate: float, now: float) -> None:
        """Changes the parameters. Missing tokens stay missing, and tokens above the new capacity are lost,
        so a full bucket stays full."""
        _check(capacity, refill_rate)
        missing = min(max(self._full_at - now, 0.0) * self.refill_rate, capacity)
        self.capacity = capacity
        self.refill_rate = refill_rate
        self._full_at = now + missing / refill_rate


def _check(capacity: float, refill_rate: float) -> None:
    if not (capacity > 0 and refill_rate > 0):
        raise ValueError(
            f"token bucket: expected a positive capacity and refill rate, got {capacity} and {refill_rate}"
        )
