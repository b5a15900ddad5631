"""Whose word a rumor is: checks of signatures, within what each sender and each origin may cause.

What must stay true:

- A check costs 41 us, so it comes after everything cheaper, and within budgets: per sender, and per
  sender for one origin, before it; per origin after it. So copies forged in an origin's name use up
  what their sender may cause, and leave the origin what it needs.
- Without a rate limit there are no budgets: then whoever is in the cluster is trusted not to flood.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from grapevine_proto import work
from grapevine_proto.config.node import NodeConfig
from grapevine_proto.errors import DropReason
from grapevine_proto.ids import PeerId
from grapevine_proto.token_bucket import TokenBucket
from grapevine_proto.wire.signed import Rumor

# One sender may cause a twentieth of a core; through one sender one origin may take a quarter of
# that, so that copies forged in its name leave room for others; and all that one origin really
# said, by whatever way, at most as much as a sender.
SENDER_CHECKS_PER_S: Final = 1200.0
PAIR_CHECKS_PER_S: Final = 300.0
ORIGIN_RUMORS_PER_S: Final = 1200.0
# Records that are new here: what one sender tells a newcomer of 10,000 members comes in two minutes, and
# others tell of them too. A message of 16 costs no more than a token may, over any two seconds.
SENDER_RECORDS_PER_S: Final = 64.0
SENDER_RECORDS_BURST: Final = 192.0
DEFAULT_BURST_S: Final = 4.0
LIMITER_KEYS_LIMIT: Final = 4096  # of each sort; beyond it the least lately used starts anew


class KeyedRateLimiter:
    """A token bucket per key, the least lately used forgotten beyond the limit."""

    def __init__(self, rate: float, burst: float = 0.0) -> None:
        self._rate = rate
        self._burst = burst or rate * DEFAULT_BURST_S
        self._buckets: OrderedDict[tuple[PeerId, ...], TokenBucket] = OrderedDict()

    def try_take(self, key: tuple[PeerId, ...], now: float) -> bool:
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = TokenBucket(self._burst, self._rate, now)
            if len(self._buckets) > LIMITER_KEYS_LIMIT:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(key)
        return bucket.try_take(now)


class Verifier:
    """Mechanism: it answers, and remembers only what was spent."""

    def __init__(self, config: NodeConfig) -> None:
        self._sender_limiter = KeyedRateLimiter(SENDER_CHECKS_PER_S)
        self._pair_limiter = KeyedRateLimiter(PAIR_CHECKS_PER_S)
        self._origin_limiter = KeyedRateLimiter(ORIGIN_RUMORS_PER_S)
        self.work = 0
        self._record_limiter = KeyedRateLimiter(SENDER_RECORDS_PER_S, SENDER_RECORDS_BURST)
        self.reconfigure(config)

    def reconfigure(self, config: NodeConfig) -> None:
        self._cluster = config.cluster
        self._is_limited = config.rate_limit.enabled

    def check(self, rumor: Rumor, sender: PeerId, now: float) -> DropReason | None:
        """Why `rumor` as `sender` told it does not count as its origin's word; None: it does.
        SIGNATURE_BUDGET says nothing of the rumor, only that it is not checked now."""
        if not self.try_charge_check(sender, now):
            return DropReason.SIGNATURE_BUDGET
        if self._is_limited and not self._pair_limiter.try_take((sender, rumor.origin), now):
            return DropReason.SIGNATURE_BUDGET
        return None if rumor.is_authentic(self._cluster) else DropReason.BAD_SIGNATURE

    def try_charge_check(self, sender: PeerId, now: float) -> bool:
        """Whether one more check fits what `sender` may cause; it is taken from that."""
        if self._is_limited and not self._sender_limiter.try_take((sender,), now):
            return False
        self.work += work.SIGNATURE
        return True

    def try_charge_record_check(self, sender: PeerId, now: float) -> bool:
        """Whether one more record fits what `sender` may cause; it is taken from that."""
        if self._is_limited and not self._record_limiter.try_take((sender,), now):
            return False
        self.work += work.SIGNATURE
        return True

    def allow_origin(self, origin: PeerId, now: float) -> bool:
        """Whether another rumor of `origin`, known to be its own, may be taken."""
        return not self._is_limited or self._origin_limiter.try_take((origin,), now)
