"""What strangers may cost: cookies, budgets, and the handshakes already accepted.

What must stay true:

- Nothing is kept for an address that has not sent back a cookie, but a place in a fixed array
  that it shares with others. Nor is anything refused to it alone for what was said in its name: anybody
  can send a Hello from an address that is not theirs.
- A Proof is accepted once: its hash is kept for as long as its cookie is good, or until so many others
  came since that there is no room. One identity has a share of that room, beyond which it is refused.
- Every table has a cap, and no table refuses one for what others put there, but for that of proven
  addresses, which forgets only what has no effect any more.
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

COOKIE_ROTATION_S: Final = 120.0  # and good for as long again: more than any dial lasts
ADDRESS_HANDSHAKE_BURST: Final = (
    50  # handshakes at once from one address: a site behind one NAT comes back
)
ADDRESS_HANDSHAKES_PER_S: Final = 20.0  # a second; each Proof costs two signature checks, 90 us
PROVEN_ADDRESSES_LIMIT: Final = 8192
# Peers that are linked, and loopback, have budgets of their own: strangers cannot use them up.
EXEMPT_PROOFS_BURST: Final = 1000
EXEMPT_PROOFS_PER_S: Final = 500.0  # a second, in all: a twentieth of a core
# Of one identity, while their cookies are good: a rekey every 120 s and a direct message every 4 s.
PROOFS_PER_IDENTITY_LIMIT: Final = 64
RESERVED_CHALLENGE_SHARE: Final = (
    0.5  # of the Challenges, for addresses that keep to their own budget
)
IPV4_SITE_BITS: Final = 24  # whoever can send from one address of a network can from all of it
IPV6_SITE_BITS: Final = 64  # one customer has at least that many addresses: count them as one

_COOKIE_DOMAIN: Final = b"grapevine cookie 1"
_BUCKET_DOMAIN: Final = b"grapevine hello bucket 1"


def network_of(host: str) -> str:
    """What `host` is counted as: itself, or the /64 of an IPv6 address."""
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
    """What a Hello from `host`, which is proved by nothing, is counted as: the /24 of an IPv4 address, or
    the /64 of an IPv6 one."""
    network = network_of(host)
    return network.rpartition(".")[0] if network.count(".") == 3 else network


class HandshakeRateLimiter:
    """How many handshakes are answered, in all and by address."""

    def __init__(
        self, limits: LimitsConfig, *, entropy: Callable[[int], bytes], now: float
    ) -> None:
        self._secret = entropy(KEY_BYTES)
        self._unproven: dict[int, TokenBucket] = {}  # by place in the fixed array, made when used
        self._proven: dict[str, TokenBucket] = {}  # least recently used first
        self._bucket_count = limits.handshake_buckets
        rate = limits.challenges_per_second
        self._challenges = TokenBucket(rate, rate, now)
        self._exempt_challenges = TokenBucket(rate, rate, now)
        self._exempt_proofs = TokenBucket(EXEMPT_PROOFS_BURST, EXEMPT_PROOFS_PER_S, now)

    def resize(self, limits: LimitsConfig, now: float) -> None:
        if limits.handshake_buckets != self._bucket_count:
            self._bucket_count = limits.handshake_buckets
            self._unproven.clear()
        for bucket in (self._challenges, self._exempt_challenges):
            bucket.resize(limits.challenges_per_second, limits.challenges_per_second, now)

    def charge_hello(self, source: Address, now: float, *, exempt: bool) -> None:
        """Let one Challenge out. Raises Refused: ADDRESS_BUDGET or CHALLENGE_BUDGET.

        `source` is not proved. A site beyond its own budget is answered all the same, as long as half of
        the common one is left: so Hellos in its name cost it nothing while there is room for all, and
        at most their share when there is not.
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
        """Let one Proof in, whose cookie was good. Raises Refused: ADDRESS_BUDGET or TABLE_FULL."""
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
        self._proven[network] = bucket  # now the most recently used
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
        """Addresses that have a bucket of their own."""
        return len(self._proven)


class Cookies:
    """The cookie secret, the last one, and what was accepted under each of them.

    A cookie shows that whoever sends it back was reached at its address, and costs us no memory.
    """

    def __init__(self, *, entropy: Callable[[int], bytes], now: float) -> None:
        self._entropy = entropy
        self._secrets = [entropy(KEY_BYTES)]  # the newest first, two at most
        # Of each secret: the Proof's hash -> the session it was accepted for, and whose it is.
        self._accepted: list[OrderedDict[bytes, tuple[bytes, PeerId]]] = [OrderedDict()]
        self._accepted_per_peer: Counter[PeerId] = Counter()
        self.evicted = 0  # accepted Proofs forgotten before their cookies were
        self._rotates_at = now + COOKIE_ROTATION_S

    def rotate(self, now: float) -> None:
        """Renew the secret if it is time; what was accepted under the one before the last is
        forgotten with it, since no cookie of that age is good any more."""
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
        """When there is something to forget; an idle node needs no waking for a new secret."""
        return self._rotates_at if len(self) else math.inf

    def make(self, source: Address, *context: DigestPart) -> bytes:
        """The cookie for whoever is at `source` and said this."""
        return self._make_cookie(self._secrets[0], source, context)

    def check(self, cookie: bytes, source: Address, *context: DigestPart) -> int:
        """Which generation of secret made `cookie` for this. Raises Refused(STALE_COOKIE)."""
        for generation, secret in enumerate(self._secrets):
            if hmac.compare_digest(cookie, self._make_cookie(secret, source, context)):
                return generation
        raise Dropped(DropReason.STALE_COOKIE)

    def accepted_session(self, generation: int, proof_hash: bytes) -> bytes | None:
        """The id of the session that this Proof was accepted for, if it was."""
        accepted = self._accepted[generation].get(proof_hash)
        return None if accepted is None else accepted[0]

    def has_quota_for(self, peer_id: PeerId) -> bool:
        """Whether another Proof of this identity may be accepted."""
        return self._accepted_per_peer[peer_id] < PROOFS_PER_IDENTITY_LIMIT

    def record_accepted(
        self, generation: int, proof_hash: bytes, session_id: bytes, peer_id: PeerId, limit: int
    ) -> None:
        """Remember an accepted Proof; of more than `limit` the oldest is forgotten."""
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
