"""What each peer may still do here: its allowance, its misconduct, and what was refused it.

What must stay true:

- An account belongs to the identity and outlives its sessions: to come again buys nothing.
- At most `ACCOUNTS_LIMIT`; beyond it that of a peer without a link gives way.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Final

from grapevine_proto.events import RateLimited
from grapevine_proto.ids import PeerId
from grapevine_proto.ratelimit import TokenBucket
from grapevine_proto.sections import RateLimitConfig

ACCOUNTS_LIMIT: Final = 4096
BAD_SIGNATURE_TOKENS: Final = 10.0
BAD_SIGNATURES: Final = 3  # the third closes the link


class Account:
    """One peer's. `bucket` is what we allow it, None for everything; `shape` is what it allows us, as
    far as an earlier link used it."""

    __slots__ = ("bad_signatures", "bucket", "shape", "throttled", "told")

    def __init__(self, bucket: TokenBucket | None) -> None:
        self.bucket = bucket
        self.shape: TokenBucket | None = None
        self.bad_signatures = 0
        self.throttled = 0
        self.told = 0  # of those, how many the application knows of

    def fine(self, now: float) -> bool:
        """A rumor from there was badly signed; whether that was once too often."""
        self.bad_signatures += 1
        if self.bucket is not None:
            self.bucket.take(now, min(self.bucket.available(now), BAD_SIGNATURE_TOKENS))
        if self.bad_signatures < BAD_SIGNATURES:
            return False
        self.bad_signatures = 0
        return True


class Accounts:
    """All accounts. `linked` tells whose must stay."""

    def __init__(self, limit: RateLimitConfig, linked: Container[PeerId]) -> None:
        self._limit = limit
        self._linked = linked
        self._accounts: dict[PeerId, Account] = {}
        self.forgotten = 0  # for want of room

    def __len__(self) -> int:
        return len(self._accounts)

    def get(self, peer_id: PeerId) -> Account | None:
        return self._accounts.get(peer_id)

    def of(self, peer_id: PeerId, now: float) -> Account:
        """The account of `peer_id`, a new one where it has none."""
        account = self._accounts.get(peer_id)
        if account is None:
            if len(self._accounts) >= ACCOUNTS_LIMIT:
                idle = next((each for each in self._accounts if each not in self._linked), None)
                if idle is not None:  # else all are linked, and links have a limit of their own
                    del self._accounts[idle]
                    self.forgotten += 1
            limit = self._limit
            bucket = TokenBucket(limit.capacity, limit.refill_rate, now) if limit.enabled else None
            account = self._accounts[peer_id] = Account(bucket)
        return account

    def news(self, peer_id: PeerId, now: float) -> RateLimited | None:
        """What was refused the peer since the last call, where there was anything."""
        account = self.of(peer_id, now)
        dropped = account.throttled - account.told
        if not dropped:
            return None
        account.told = account.throttled
        tokens = account.bucket.available(now) if account.bucket else 0.0
        return RateLimited(peer_id, dropped, tokens)

    def reconfigure(self, limit: RateLimitConfig, now: float) -> None:
        self._limit = limit
        for account in self._accounts.values():
            if not limit.enabled:
                account.bucket = None
            elif account.bucket is None:
                account.bucket = TokenBucket(limit.capacity, limit.refill_rate, now)
            else:
                account.bucket.resize(limit.capacity, limit.refill_rate, now)
