"""Signature verification of rumors and records, within a budget per sender and origin.

Invariants:

- A check costs 41 us, so it comes after all cheaper checks and within budgets: per sender, and per
  sender and origin, before it; per origin after it. Copies forged in an origin's name use up the
  budget of their sender and leave the origin its own.
- Without a rate limit there are no budgets; members are then trusted not to flood.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from grapevine_proto import work
from grapevine_proto.config.live import LiveConfig
from grapevine_proto.errors import DropReason
from grapevine_proto.ids import PeerId
from grapevine_proto.token_bucket import TokenBucket
from grapevine_proto.wire.signed import Rumor
from grapevine_proto.work import WorkMeter

# One sender may cause a twentieth of a core, and for one origin a quarter of that, so that forged
# copies leave room for other origins. Authentic rumors of one origin, over all senders, are limited
# like a sender.
SENDER_CHECKS_PER_S: Final = 1200.0
PAIR_CHECKS_PER_S: Final = 300.0
ORIGIN_RUMORS_PER_S: Final = 1200.0
# New records: what one sender sends to a newcomer of 10,000 members arrives in two minutes, and
# other peers send them too. Over any two seconds, a message with 16 records costs no more than a
# rate limit token may.
SENDER_RECORDS_PER_S: Final = 64.0
SENDER_RECORDS_BURST: Final = 192.0
DEFAULT_BURST_S: Final = 4.0
LIMITER_KEYS_LIMIT: Final = 4096  # per limiter; beyond it the least recently used is reset


class KeyedRateLimiter:
    """A token bucket per key; the least recently used is dropped at the limit."""

    def __init__(self, rate: float, burst: float = 0.0) -> None:
        self._keys_limit = LIMITER_KEYS_LIMIT
        self._rate = rate
        self._burst = burst or rate * DEFAULT_BURST_S
        self._buckets: OrderedDict[tuple[PeerId, ...], TokenBucket] = OrderedDict()

    def try_take(self, key: tuple[PeerId, ...], now: float) -> bool:
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = TokenBucket(self._burst, self._rate, now)
            if len(self._buckets) > self._keys_limit:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(key)
        return bucket.try_take(now)


class Verifier:
    """Checks signatures and keeps the budgets."""

    def __init__(self, config: LiveConfig, meter: WorkMeter) -> None:
        self._config = config
        self._work = meter
        self._sender_limiter = KeyedRateLimiter(SENDER_CHECKS_PER_S)
        self._pair_limiter = KeyedRateLimiter(PAIR_CHECKS_PER_S)
        self._origin_limiter = KeyedRateLimiter(ORIGIN_RUMORS_PER_S)
        self._record_limiter = KeyedRateLimiter(SENDER_RECORDS_PER_S, SENDER_RECORDS_BURST)

    def check(self, rumor: Rumor, sender: PeerId, now: float) -> DropReason | None:
        """Why `rumor` from `sender` is not accepted as its origin's; None if it is.
        SIGNATURE_BUDGET means that it was not checked, and says nothing about the rumor.
        """
        if not self.try_charge_check(sender, now):
            return DropReason.SIGNATURE_BUDGET
        if self._config.current.rate_limit.enabled and not self._pair_limiter.try_take(
            (sender, rumor.origin), now
        ):
            return DropReason.SIGNATURE_BUDGET
        return (
            None if rumor.is_authentic(self._config.current.cluster) else DropReason.BAD_SIGNATURE
        )

    def try_charge_check(self, sender: PeerId, now: float) -> bool:
        """Whether `sender` may cause one more check; takes it from its budget."""
        if self._config.current.rate_limit.enabled and not self._sender_limiter.try_take(
            (sender,), now
        ):
            return False
        self._work.add(work.SIGNATURE)
        return True

    def try_charge_record_check(self, sender: PeerId, now: float) -> bool:
        """Whether `sender` may cause one more record check; takes it from its budget."""
        if self._config.current.rate_limit.enabled and not self._record_limiter.try_take(
            (sender,), now
        ):
            return False
        self._work.add(work.SIGNATURE)
        return True

    def allow_origin(self, origin: PeerId, now: float) -> bool:
        """Whether one more authentic rumor of `origin` is accepted; takes it from its budget."""
        return not self._config.current.rate_limit.enabled or self._origin_limiter.try_take(
            (origin,), now
        )
