"""What strangers may cost: cookies, budgets, and the handshakes already accepted.

What must stay true:

- Nothing is kept for an address that has not sent back a cookie, but a place in a fixed array
  that it shares with others.
- A Proof is accepted once: its hash is kept for as long as its cookie is good.
- Every table has a cap. A full one refuses; it forgets only what has no effect any more.
"""

from __future__ import annotations

import hmac
import ipaddress
import math
from collections.abc import Callable
from typing import Final

from grapevine_proto.errors import DropReason, Refused
from grapevine_proto.identity import KEY_BYTES, Part, digest
from grapevine_proto.ids import Address
from grapevine_proto.ratelimit import TokenBucket
from grapevine_proto.sections import LimitsConfig

COOKIE_RENEWAL_S: Final = 120.0  # and good for as long again: more than any dial lasts
ADDRESS_BURST: Final = 50  # handshakes at once from one address: a site behind one NAT comes back
ADDRESS_RATE: Final = 20.0  # a second; each Proof costs two signature checks, 90 us
PROVEN_ADDRESSES: Final = 8192
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


class Budgets:
    """How many handshakes are answered, in all and by address."""

    def __init__(
        self, limits: LimitsConfig, *, entropy: Callable[[int], bytes], now: float
    ) -> None:
        self._secret = entropy(KEY_BYTES)
        self._strangers: dict[int, TokenBucket] = {}  # by place in the fixed array, made when used
        self._proven: dict[str, TokenBucket] = {}  # least recently used first
        self._places = limits.hello_buckets
        self._challenges = TokenBucket(
            limits.challenges_per_second, limits.challenges_per_second, now
        )

    def resize(self, limits: LimitsConfig, now: float) -> None:
        if limits.hello_buckets != self._places:
            self._places = limits.hello_buckets
            self._strangers.clear()
        self._challenges.resize(limits.challenges_per_second, limits.challenges_per_second, now)

    def charge_hello(self, source: Address, now: float, *, exempt: bool) -> None:
        """Let one Challenge out. Raises Refused: ADDRESS_BUDGET or CHALLENGE_BUDGET."""
        if not exempt and not self._stranger(source, now).take(now):
            raise Refused(DropReason.ADDRESS_BUDGET)
        if not self._challenges.take(now):
            raise Refused(DropReason.CHALLENGE_BUDGET)

    def charge_proof(self, source: Address, now: float, *, exempt: bool) -> None:
        """Let one Proof in, whose cookie was good. Raises Refused: ADDRESS_BUDGET or TABLE_FULL."""
        if exempt:
            return
        network = network_of(source.host)
        bucket = self._proven.pop(network, None)
        if bucket is None:
            if len(self._proven) >= PROVEN_ADDRESSES:
                self._forget_oldest(now)
            bucket = TokenBucket(ADDRESS_BURST, ADDRESS_RATE, now)
        self._proven[network] = bucket  # now the most recently used
        if not bucket.take(now):
            raise Refused(DropReason.ADDRESS_BUDGET)

    def _stranger(self, source: Address, now: float) -> TokenBucket:
        mark = digest(_BUCKET_DOMAIN, network_of(source.host), key=self._secret, size=8)
        place = int.from_bytes(mark, "big") % self._places
        bucket = self._strangers.get(place)
        if bucket is None:
            bucket = self._strangers[place] = TokenBucket(ADDRESS_BURST, ADDRESS_RATE, now)
        return bucket

    def _forget_oldest(self, now: float) -> None:
        oldest = next(iter(self._proven))
        if not self._proven[oldest].is_full(now):
            raise Refused(DropReason.TABLE_FULL)
        del self._proven[oldest]

    @property
    def proven(self) -> int:
        """Addresses that have a bucket of their own."""
        return len(self._proven)


class Cookies:
    """The cookie secret, the last one, and what was accepted under each of them.

    A cookie shows that whoever sends it back was reached at its address, and costs us no memory.
    """

    def __init__(self, *, entropy: Callable[[int], bytes], now: float) -> None:
        self._entropy = entropy
        self._secrets = [entropy(KEY_BYTES)]  # the newest first, two at most
        self._accepted: list[dict[bytes, bytes]] = [
            {}
        ]  # of each secret: Proof's hash -> session id
        self._renew_at = now + COOKIE_RENEWAL_S

    def renew(self, now: float) -> None:
        """Renew the secret if it is time; what was accepted under the one before the last is
        forgotten with it, since no cookie of that age is good any more."""
        if now < self._renew_at:
            return
        kept = 1 if now < self._renew_at + COOKIE_RENEWAL_S else 0
        self._secrets = [self._entropy(KEY_BYTES), *self._secrets[:kept]]
        self._accepted = [{}, *self._accepted[:kept]]
        self._renew_at = now + COOKIE_RENEWAL_S

    @property
    def deadline(self) -> float:
        """When there is something to forget; an idle node needs no waking for a new secret."""
        return self._renew_at if len(self) else math.inf

    def make(self, source: Address, *said: Part) -> bytes:
        """The cookie for whoever is at `source` and said this."""
        return self._make(self._secrets[0], source, said)

    def check(self, cookie: bytes, source: Address, *said: Part) -> int:
        """Which generation of secret made `cookie` for this. Raises Refused(STALE_COOKIE)."""
        for generation, secret in enumerate(self._secrets):
            if hmac.compare_digest(cookie, self._make(secret, source, said)):
                return generation
        raise Refused(DropReason.STALE_COOKIE)

    def accepted(self, generation: int, proof_hash: bytes) -> bytes | None:
        """The id of the session that this Proof was accepted for, if it was."""
        return self._accepted[generation].get(proof_hash)

    def accept(self, generation: int, proof_hash: bytes, session_id: bytes) -> None:
        self._accepted[generation][proof_hash] = session_id

    def __len__(self) -> int:
        return sum(map(len, self._accepted))

    @staticmethod
    def _make(secret: bytes, source: Address, said: tuple[Part, ...]) -> bytes:
        return digest(_COOKIE_DOMAIN, source.host, source.port, *said, key=secret)
