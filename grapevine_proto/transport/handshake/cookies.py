"""The cookies of the handshake, and replay protection for the Proofs that return them (RFC 9000, 8.1).

Invariants:

- A cookie costs no state: it is a keyed hash of the address and of what the handshake has settled so far.
- A Proof is accepted once: its hash is kept while its cookie is valid, or until newer ones evict it. One
  identity may use a limited share of that table.
"""

from __future__ import annotations

import hmac
import math
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Final

from grapevine_proto.crypto.identity import KEY_BYTES, DigestPart, digest
from grapevine_proto.errors import Dropped, DropReason
from grapevine_proto.ids import Address, PeerId

COOKIE_ROTATION_S: Final = 120.0  # a cookie is valid for one to two periods: longer than any dial
# While their cookies are valid: a rekey every 120 s and a transient session every 4 s.
PROOFS_PER_IDENTITY_LIMIT: Final = 64

_COOKIE_DOMAIN: Final = b"grapevine cookie 1"


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
        return self._rotates_at if self._accepted_per_peer else math.inf

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
