"""Responder side of the handshake: from an unauthenticated address to a session. `handshake_crypto`
defines the messages; `initiator` is the other side.

Invariants:

- Only the type of a packet is used before its MAC under a cluster key is verified, and no state is allocated
  before the sender proved the key and its address.
- A dropped packet changes nothing but the budget that it was charged to.
- Before that proof nothing longer than the Hello is sent (no amplification).
- A session is established once a packet of the initiator was decrypted on it; until then the previous session
  stays live.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from typing import Final

from nacl import bindings

from grapevine_proto.config.sections import LimitsConfig
from grapevine_proto.crypto.cluster_key import ClusterKey
from grapevine_proto.crypto.identity import MAC_BYTES, Identity, digest
from grapevine_proto.errors import Dropped, DropReason
from grapevine_proto.ids import Address, PeerId
from grapevine_proto.token_bucket import TokenBucket
from grapevine_proto.transport.handshake.cookies import Cookies
from grapevine_proto.transport.handshake.handshake_crypto import (
    COOKIE_KEY_DOMAIN,
    INITIATOR,
    RESPONDER,
    SUPPORTED_VERSIONS,
    Credentials,
    data_keys,
    has_mac,
    shared_secret,
    transcript,
    with_mac,
)
from grapevine_proto.transport.handshake.handshake_limits import HandshakeRateLimiter, network_of
from grapevine_proto.transport.session.session import EstablishedSession, Session
from grapevine_proto.wire.codec import (
    CHALLENGE_BYTES,
    EPHEMERAL_BYTES,
    HELLO_BYTES,
    SESSION_ID_BYTES,
    Challenge,
    Data,
    Hello,
    Proof,
    Welcome,
    encode_packet,
)
from grapevine_proto.wire.signed import PeerRecord

UNCONFIRMED_SESSIONS_LIMIT: Final = 256
UNCONFIRMED_TIMEOUT_S: Final = 20.0  # the longest `connection_timeout` of the profiles
WELCOME_RESEND_BURST: Final = 8  # per accepted Proof, which an attacker may have recorded
WELCOME_RESENDS_PER_S: Final = 4.0  # as often as an initiator retries

assert CHALLENGE_BYTES <= HELLO_BYTES  # a spoofed source address must not amplify

_PROOF_HASH_DOMAIN: Final = b"grapevine accepted proof 1"
_PROOF_HASH_BYTES: Final = 16


class _UnconfirmedSession:
    """A session for an accepted Proof that no packet has confirmed yet."""

    __slots__ = (
        "address",
        "expires_at",
        "record",
        "session",
        "welcome",
        "welcome_resends",
        "welcome_sent_at",
    )

    def __init__(
        self, session: Session, record: PeerRecord, address: Address, welcome: bytes, now: float
    ) -> None:
        self.session = session
        self.record = record
        self.address = address
        self.welcome = welcome
        self.welcome_sent_at: float | None = (
            now  # None after a resend: the RTT sample would be ambiguous
        )
        self.welcome_resends = TokenBucket(WELCOME_RESEND_BURST, WELCOME_RESENDS_PER_S, now)
        self.expires_at = now + UNCONFIRMED_TIMEOUT_S


class Responder:
    """Handles everything that unauthenticated peers can send.

    Call `receive` for Hello and Proof, `confirm` for Data that belongs to no link, and `advance` at
    `deadline`. When there are too many unconfirmed sessions, the oldest one of the network that has most
    is evicted, so a peer that answers within one RTT gets through.
    """

    def __init__(
        self,
        identity: Identity,
        keys: Collection[ClusterKey],
        cluster: str,
        limits: LimitsConfig,
        denied: Collection[PeerId],
        *,
        is_expelled: Callable[[PeerId, float], bool] | None = None,
        entropy: Callable[[int], bytes],
        now: float,
    ) -> None:
        self._unconfirmed_limit = UNCONFIRMED_SESSIONS_LIMIT
        self._identity = identity
        self._keys = tuple(keys)
        self._cluster = cluster
        self._denied = frozenset(denied)
        self._is_expelled = is_expelled
        self._entropy = entropy
        self._proofs_limit = limits.accepted_proofs
        self._rate_limiter = HandshakeRateLimiter(limits, entropy=entropy, now=now)
        self._cookies = Cookies(entropy=entropy, now=now)
        self._unconfirmed: dict[bytes, _UnconfirmedSession] = {}  # by our session ID, oldest first
        self._session_of_peer: dict[PeerId, bytes] = {}
        self._evicted = 0

    @property
    def evicted(self) -> int:
        """Unconfirmed sessions and accepted Proofs evicted for lack of room."""
        return self._evicted + self._cookies.evicted

    @property
    def pending(self) -> int:
        """Unconfirmed sessions."""
        return len(self._unconfirmed)

    @property
    def deadline(self) -> float:
        """When to call `advance`."""
        if not self._unconfirmed:
            return self._cookies.deadline
        return min(self._cookies.deadline, next(iter(self._unconfirmed.values())).expires_at)

    def advance(self, now: float) -> None:
        """Removes expired unconfirmed sessions, and accepted Proofs whose cookies are no longer valid."""
        self._cookies.rotate(now)
        while self._unconfirmed:
            session_id, oldest = next(iter(self._unconfirmed.items()))
            if oldest.expires_at > now:
                break
            self._remove(session_id)

    def reconfigure(
        self,
        keys: Collection[ClusterKey],
        limits: LimitsConfig,
        denied: Collection[PeerId],
        now: float,
    ) -> None:
        """Applies changed settings and removes unconfirmed sessions that they forbid."""
        self._keys = tuple(keys)
        self._denied = frozenset(denied)
        self._proofs_limit = limits.accepted_proofs
        self._rate_limiter.resize(limits, now)
        for session_id, each in list(self._unconfirmed.items()):
            if each.record.peer_id in self._denied or each.session.key not in self._keys:
                self._remove(session_id)

    def receive(
        self,
        packet: Hello | Proof,
        datagram: bytes,
        source: Address,
        our_record: PeerRecord,
        now: float,
        *,
        exempt: bool = False,
    ) -> bytes:
        """Returns the datagram to answer with. Raises Dropped: send nothing.

        `our_record` goes into the Welcome. `exempt`: `source` is the address of a connected peer.
        """
        key = self._key_of(datagram)
        self.advance(now)
        exempt = exempt or source.is_loopback
        if isinstance(packet, Hello):
            return self._challenge(key, packet, datagram, source, now, exempt=exempt)
        return self._welcome(key, packet, datagram, source, our_record, now, exempt=exempt)

    def confirm(self, packet: Data, source: Address, now: float) -> EstablishedSession | None:
        """Returns the session that `packet` confirms, or None if it belongs to none.

        Raises Dropped as `Session.open`. The link gets the address that the Proof came from: a cookie
        validated it, whereas an attacker on the path can send this packet from any address.
        """
        unconfirmed = self._unconfirmed.get(packet.session_id)
        if unconfirmed is None:
            return None
        plaintext = unconfirmed.session.open(packet, now)
        self._remove(packet.session_id)
        sent_at = unconfirmed.welcome_sent_at
        rtt_s = None if sent_at is None else now - sent_at
        return EstablishedSession(
            unconfirmed.session, unconfirmed.record, unconfirmed.address, rtt_s, plaintext
        )

    def _key_of(self, datagram: bytes) -> ClusterKey:
        for key in self._keys:
            if has_mac(key, self._cluster, datagram):
                return key
        raise Dropped(DropReason.UNKNOWN_KEY)

    def _challenge(
        self,
        key: ClusterKey,
        hello: Hello,
        datagram: bytes,
        source: Address,
        now: float,
        *,
        exempt: bool,
    ) -> bytes:
        version = _choose_version(hello.versions)
        self._rate_limiter.charge_hello(source, now, exempt=exempt)
        body = datagram[:-MAC_BYTES]
        cookie = self._cookies.make(source, body, version, key.derive(COOKIE_KEY_DOMAIN))
        challenge = encode_packet(Challenge(hello.session_id, version, cookie))
        return with_mac(key, self._cluster, challenge, body)

    def _welcome(
        self,
        key: ClusterKey,
        proof: Proof,
        datagram: bytes,
        source: Address,
        our_record: PeerRecord,
        now: float,
        *,
        exempt: bool,
    ) -> bytes:
        version = _choose_version(proof.hello.versions)
        if proof.version != version:
            raise Dropped(DropReason.UNKNOWN_VERSION)
        hello = encode_packet(proof.hello)
        cookie_context = hello, version, key.derive(COOKIE_KEY_DOMAIN)
        generation = self._cookies.check(proof.cookie, source, *cookie_context)

        proof_hash = digest(_PROOF_HASH_DOMAIN, datagram, size=_PROOF_HASH_BYTES)
        session_id = self._cookies.accepted_session(generation, proof_hash)
        known = self._unconfirmed.get(session_id) if session_id else None
        if session_id:
            if known is None or not known.welcome_resends.try_take(now):
                raise Dropped(DropReason.REPLAYED_PROOF)  # anyone may replay it: charge no budget
            known.welcome_sent_at = None
            return known.welcome
        self._rate_limiter.charge_proof(source, now, exempt=exempt)

        challenge = encode_packet(Challenge(proof.hello.session_id, version, proof.cookie))
        record = self._check_credentials(key, proof.box, transcript(hello, challenge), now)
        if not self._cookies.has_quota_for(record.peer_id):
            raise Dropped(DropReason.TABLE_FULL)
        bodies = hello, challenge, datagram[:-MAC_BYTES]
        session, welcome = self._make_session(key, proof.hello, bodies, our_record, now)
        self._cookies.record_accepted(
            generation, proof_hash, session.our_id, record.peer_id, self._proofs_limit
        )
        self._add_unconfirmed(_UnconfirmedSession(session, record, source, welcome, now))
        return welcome

    def _check_credentials(
        self, key: ClusterKey, box: bytes, transcript_hash: bytes, now: float
    ) -> PeerRecord:
        record = Credentials(INITIATOR, key, self._cluster, transcript_hash).open(box)
        if record.peer_id == self._identity.peer_id:
            raise Dropped(DropReason.SELF_DIAL)
        if record.peer_id in self._denied:
            raise Dropped(DropReason.DENIED)
        if self._is_expelled is not None and self._is_expelled(record.peer_id, now):
            raise Dropped(DropReason.MISCONDUCT)
        return record

    def _make_session(
        self,
        key: ClusterKey,
        hello: Hello,
        bodies: tuple[bytes, ...],
        our_record: PeerRecord,
        now: float,
    ) -> tuple[Session, bytes]:
        """Returns a new session and the Welcome for it. Changes no state."""
        our_id = self._entropy(SESSION_ID_BYTES)
        secret = self._entropy(EPHEMERAL_BYTES)
        shared = shared_secret(secret, hello.ephemeral)
        ephemeral = bindings.crypto_scalarmult_base(secret)
        head = encode_packet(Welcome(hello.session_id, ephemeral, our_id, b""))
        credentials = Credentials(RESPONDER, key, self._cluster, transcript(*bodies, head), shared)
        welcome = head + credentials.seal(self._identity, our_record)
        open_key, seal_key = data_keys(key, shared, transcript(*bodies, welcome))
        session = Session(our_id, hello.session_id, key, False, seal_key, open_key, now)
        return session, with_mac(key, self._cluster, welcome, bodies[-1])

    def _add_unconfirmed(self, unconfirmed: _UnconfirmedSession) -> None:
        """Keeps a new session until it is confirmed; it replaces an older one of the same peer."""
        older_id = self._session_of_peer.get(unconfirmed.record.peer_id)
        if older_id is not None:
            self._remove(older_id)
        elif len(self._unconfirmed) >= self._unconfirmed_limit:
            self._remove(self._session_to_evict())
            self._evicted += 1
        self._unconfirmed[unconfirmed.session.our_id] = unconfirmed
        self._session_of_peer[unconfirmed.record.peer_id] = unconfirmed.session.our_id

    def _session_to_evict(self) -> bytes:
        """Returns the oldest session of the network with most unconfirmed sessions."""
        networks = {
            session_id: network_of(e.address.host) for session_id, e in self._unconfirmed.items()
        }
        ((largest, _),) = Counter(networks.values()).most_common(1)
        return next(session_id for session_id, network in networks.items() if network == largest)

    def _remove(self, session_id: bytes) -> None:
        removed = self._unconfirmed.pop(session_id)
        del self._session_of_peer[removed.record.peer_id]


def _choose_version(versions: bytes) -> int:
    """Returns the highest common version. Raises Dropped(UNKNOWN_VERSION)."""
    common = SUPPORTED_VERSIONS.intersection(versions)
    if not common:
        raise Dropped(DropReason.UNKNOWN_VERSION)
    return max(common)
