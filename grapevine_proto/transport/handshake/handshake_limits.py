"""Limits on unauthenticated peers: cookies, handshake rate limits and replay protection for Proofs (RFC 9000,
section 8.1).

Invariants:

- An address that has not returned a cookie has no state of its own, only a shared slot in a fixed array.
  It is never refused merely for Hellos sent in its name: anyone can spoof its address.
- A Proof is accepted once: its hash is kept while its cookie is valid, or until newer ones evict it. One
  identity may use a limited share of that table.
- Every table has a limit. Only the table of validated addresses may refuse a peer because of other peers'
  entries, and it evicts an entry only once the entry has no effect.
"""

from __future__ import annotations

import hmac
import ipaddress
import math
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Final

from grapevine_proto.config.sections import LimitsConfig
from grapevine_proto.crypto.identity import KEY_BYTES, DigestPart, digest
from grapevine_proto.errors import Dropped, DropReason
from grapevine_proto.ids import Address, PeerId
from grapevine_proto.token_bucket import TokenBucket

COOKIE_ROTATION_S: Final = 120.0  # a cookie is valid for one to two periods: longer than any dial
ADDRESS_HANDSHAKE_BURST: Final = 50  # a site behind one NAT reconnects at once
ADDRESS_HANDSHAKES_PER_S: Final = 20.0  # each Proof costs two signature checks, 90 us
PROVEN_ADDRESSES_LIMIT: Final = 8192
# Connected peers and loopback have budgets of their own, which unauthenticated peers cannot exhaust.
EXEMPT_PROOFS_BURST: Final = 1000
EXEMPT_PROOFS_PER_S: Final = 500.0  # for all of them: a twentieth of a core
# While their cookies are valid: a rekey every 120 s and a transient session every 4 s.
PROOFS_PER_IDENTITY_LIMIT: Final = 64
RESERVED_CHALLENGE_SHARE: Final = 0.5  # of all Challenges, for addresses within their own budget
IPV6_SITE_BITS: Final = 64  # one customer has at least a /64: count it as one

_COOKIE_DOMAIN: Final = b"grapevine cookie 1"
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


class Cookies:
    """The current and the previous cookie secret, and the Proofs accepted under each.

    A cookie proves, without any state here, that its sender receives packets at its address.
    """

    def __init__(self, *, entropy: Callable[[int], bytes], now: float) -> None:
        self._entropy = entropy
        self._secrets = [entropy(KEY_BYTES)]  # newest first, at most two
        # per secret: hash of a Proof -> the session it was accepted for, and its peer
        self._accepted: list[OrderedDict[bytes, tuple[bytes, PeerId]]] = [OrderedDict()]
        self._accepted_per_peer: Counter[PeerId] = Counter()
        self.evicted = 0  # accepted Proofs evicted while their cookies were valid
        self._rotates_at = now + COOKIE_ROTATION_S

    def rotate(self, now: float) -> None:
        """Rotates the secret if it is due. Proofs accepted under the secret before the previous one are
        forgotten, because their cookies are no longer valid."""
        if now < self._rotates_at:
            return
        kept_count = 1 if now < self._rotates_at + COOKIE_ROTATION_S else 0
        self._secrets = [self._entropy(KEY_BYTES), *self._secrets[:kept_count]]
        self._accepted = [OrderedDict(), *self._accepted[:kept_count]]
        self._accepted_per_peer = Counter(
            owner for accepted in self._accepted for _, owner in accepted.values()
        )
        self._rotates_at = now + COOKIE_ROTATION_S

    @property
    def deadline(self) -> float:
        """When there are Proofs to forget; math.inf without any, so an idle node does not wake up."""
        return self._rotates_at if len(self) else math.inf

    def make(self, source: Address, *context: DigestPart) -> bytes:
        """Returns the cookie for `source`, bound to `context`."""
        return self._make_cookie(self._secrets[0], source, context)

    def check(self, cookie: bytes, source: Address, *context: DigestPart) -> int:
        """Returns the generation of the secret that made `cookie`: 0 is the current one. Raises
        Dropped(STALE_COOKIE)."""
        for generation, secret in enumerate(self._secrets):
            if hmac.compare_digest(cookie, self._make_cookie(secret, source, context)):
                return generation
        raise Dropped(DropReason.STALE_COOKIE)

    def accepted_session(self, generation: int, proof_hash: bytes) -> bytes | None:
        """Returns the ID of the session that this Proof was accepted for, or None."""
        accepted = self._accepted[generation].get(proof_hash)
        return None if accepted is None else accepted[0]

    def has_quota_for(self, peer_id: PeerId) -> bool:
        """Whether another Proof of this identity may be accepted."""
        return self._accepted_per_peer[peer_id] < PROOFS_PER_IDENTITY_LIMIT

    def record_accepted(
        self, generation: int, proof_hash: bytes, session_id: bytes, peer_id: PeerId, limit: int
    ) -> None:
        """Records an accepted Proof; above `limit` the oldest is evicted."""
        while len(self) >= limit:
            oldest = self._accepted[-1] or self._accepted[0]
            _, (_, owner) = oldest.popitem(last=False)
            self._release_quota(owner)
            self.evicted += 1
        self._accepted[generation][proof_hash] = session_id, peer_id
        self._accepted_per_peer[peer_id] += 1

    def _release_quota(self, owner: PeerId) -> None:
        self._accepted_per_peer[owner] -= 1
        if not self._accepted_per_peer[owner]:
            del self._accepted_per_peer[owner]

    def __len__(self) -> int:
        return sum(map(len, self._accepted))

    @staticmethod
    def _make_cookie(secret: bytes, source: Address, context: tuple[DigestPart, ...]) -> bytes:
        return digest(_COOKIE_DOMAIN, source.host, source.port, *context, key=secret)
