"""Limits on unauthenticated peers: how many handshakes are answered, in total and per address (RFC 9000,
section 8.1).

Invariants:

- An address that has not returned a cookie has no state of its own, only a shared slot in a fixed array.
  It is never refused merely for Hellos sent in its name: anyone can spoof its address.
- Every table has a limit. Only the table of validated addresses may refuse a peer because of other peers'
  entries, and it evicts an entry only once the entry has no effect.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Final

from grapevine_proto.config.sections import LimitsConfig
from grapevine_proto.crypto.identity import KEY_BYTES, digest
from grapevine_proto.errors import Dropped, DropReason
from grapevine_proto.ids import Address
from grapevine_proto.token_bucket import TokenBucket

ADDRESS_HANDSHAKE_BURST: Final = 50  # a site behind one NAT reconnects at once
ADDRESS_HANDSHAKES_PER_S: Final = 20.0  # each Proof costs two signature checks, 90 us
PROVEN_ADDRESSES_LIMIT: Final = 8192
# Connected peers and loopback have budgets of their own, which unauthenticated peers cannot exhaust.
EXEMPT_PROOFS_BURST: Final = 1000
EXEMPT_PROOFS_PER_S: Final = 500.0  # for all of them: a twentieth of a core
RESERVED_CHALLENGE_SHARE: Final = 0.5  # of all Challenges, for addresses within their own budget
IPV6_SITE_BITS: Final = 64  # one customer has at least a /64: count it as one

_BUCKET_DOMAIN: Final = b"grapevine hello bucket 1"


def network_of(host: str) -> str:
    """Returns the key under which a validated `host` is counted: itself, or the /64 of an IPv6 address."""
    if ":" not in host:
        return host
    try:
        address = ipaddress.IPv6Address(host)
    except ValueError:
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return (int(address) >> (128 - IPV6_SITE_BITS)).to_bytes(IPV6_SITE_BITS // 8, "big").hex()


def site_of(host: str) -> str:
    """Returns the key under which an unvalidated `host` is counted: the /24 of an IPv4 address, or the /64
    of an IPv6 one. A host that can spoof one address of a network can usually spoof all."""
    network = network_of(host)
    return network.rpartition(".")[0] if network.count(".") == 3 else network


class HandshakeRateLimiter:
    """Limits the handshakes that are answered, in total and per address."""

    def __init__(
        self, limits: LimitsConfig, *, entropy: Callable[[int], bytes], now: float
    ) -> None:
        self._secret = entropy(KEY_BYTES)
        self._unproven: dict[int, TokenBucket] = {}  # by slot; created when first used
        self._proven: dict[str, TokenBucket] = {}  # by network, least recently used first
        self._bucket_count = limits.handshake_buckets
        rate = limits.challenges_per_second
        self._challenges = TokenBucket(rate, rate, now)
        self._exempt_challenges = TokenBucket(rate, rate, now)
        self._exempt_proofs = TokenBucket(EXEMPT_PROOFS_BURST, EXEMPT_PROOFS_PER_S, now)

    def resize(self, limits: LimitsConfig, now: float) -> None:
        """Applies changed limits."""
        if limits.handshake_buckets != self._bucket_count:
            self._bucket_count = limits.handshake_buckets
            self._unproven.clear()
        for bucket in (self._challenges, self._exempt_challenges):
            bucket.resize(limits.challenges_per_second, limits.challenges_per_second, now)

    def charge_hello(self, source: Address, now: float, *, exempt: bool) -> None:
        """Charges one Challenge. Raises Dropped: ADDRESS_BUDGET or CHALLENGE_BUDGET.

        `source` is not validated. A site above its own budget is still answered while half of the shared
        budget is left, so spoofed Hellos in its name cost it nothing as long as there is room for all.
        `exempt`: a connected peer or loopback.
        """
        shared = self._exempt_challenges if exempt else self._challenges
        is_within_budget = exempt or self._unproven_bucket(source, now).try_take(now)
        if (
            not is_within_budget
            and shared.available(now) <= RESERVED_CHALLENGE_SHARE * shared.capacity
        ):
            raise Dropped(DropReason.ADDRESS_BUDGET)
        if not shared.try_take(now):
            raise Dropped(DropReason.CHALLENGE_BUDGET)

    def charge_proof(self, source: Address, now: float, *, exempt: bool) -> None:
        """Charges one Proof with a valid cookie. Raises Dropped: ADDRESS_BUDGET or TABLE_FULL."""
        if exempt:
            if not self._exempt_proofs.try_take(now):
                raise Dropped(DropReason.ADDRESS_BUDGET)
            return
        network = network_of(source.host)
        bucket = self._proven.pop(network, None)
        if bucket is None:
            if len(self._proven) >= PROVEN_ADDRESSES_LIMIT:
                self._evict_oldest(now)
            bucket = TokenBucket(ADDRESS_HANDSHAKE_BURST, ADDRESS_HANDSHAKES_PER_S, now)
        self._proven[network] = bucket  # moves it to the end: most recently used
        if not bucket.try_take(now):
            raise Dropped(DropReason.ADDRESS_BUDGET)

    def _unproven_bucket(self, source: Address, now: float) -> TokenBucket:
        bucket_hash = digest(_BUCKET_DOMAIN, site_of(source.host), key=self._secret, size=8)
        index = int.from_bytes(bucket_hash, "big") % self._bucket_count
        bucket = self._unproven.get(index)
        if bucket is None:
            bucket = self._unproven[index] = TokenBucket(
                ADDRESS_HANDSHAKE_BURST, ADDRESS_HANDSHAKES_PER_S, now
            )
        return bucket

    def _evict_oldest(self, now: float) -> None:
        oldest = next(iter(self._proven))
        if not self._proven[oldest].is_full(now):
            raise Dropped(DropReason.TABLE_FULL)
        del self._proven[oldest]

    @property
    def proven_addresses(self) -> int:
        """Validated addresses with a bucket of their own."""
        return len(self._proven)
