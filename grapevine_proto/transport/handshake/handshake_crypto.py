"""Handshake cryptography shared by both roles: MACs, transcript hash, key schedule and credentials.

Invariants:

- Each MAC, key and signature has its own domain, which names its purpose and the role of its maker, so a
  message that is reflected or used in place of another proves nothing.
- All of them are bound to the cluster key K and the cluster name.
- Arbitrary boxes and ephemeral keys from unauthenticated peers raise `Dropped` and nothing else.

The handshake is SIGMA-I (Krawczyk 2003) under a pre-shared key, preceded by QUIC's address validation (RFC
9000, section 8.1). T(...) is the hash of the named messages without their MACs:

    Hello      versions, id, e1                                                 mac
    Challenge  id, version, cookie                            mac, over the Hello too
    Proof      all of Hello, version, cookie,
               box under KDF(K, T1): initiator's record, its signature of T1    mac
    Welcome    id, e2, responder's id,
               box under KDF(K, DH(e1, e2), T2): likewise of the responder      mac, over the Proof too

T1 = T(Hello, Challenge); T2 = T(Hello, Challenge, Proof, Welcome up to its box);
data keys = KDF(K, DH(e1, e2), T(all four), direction). MACs and KDF are keyed BLAKE2b.
"""

from __future__ import annotations

import hmac
from typing import Final

from nacl import bindings
from nacl.exceptions import CryptoError

from grapevine_proto.crypto.cluster_key import ClusterKey
from grapevine_proto.crypto.identity import MAC_BYTES, Identity, digest, verify
from grapevine_proto.errors import Dropped, DropReason
from grapevine_proto.wire.codec import (
    CHALLENGE,
    HELLO,
    PROOF,
    VERSION,
    WELCOME,
    decode_credentials,
    encode_credentials,
)
from grapevine_proto.wire.signed import PeerRecord

SUPPORTED_VERSIONS: Final = frozenset({VERSION})

COOKIE_KEY_DOMAIN: Final = b"grapevine cookie key 1"
INITIATOR: Final = b"grapevine initiator 1"  # roles for sealing and signing
RESPONDER: Final = b"grapevine responder 1"

_MAC_DOMAINS: Final = {
    HELLO: b"grapevine mac 1: hello, by the initiator",
    CHALLENGE: b"grapevine mac 1: challenge, by the responder",
    PROOF: b"grapevine mac 1: proof, by the initiator",
    WELCOME: b"grapevine mac 1: welcome, by the responder",
}
_TRANSCRIPT_DOMAIN: Final = b"grapevine transcript 1"
_DATA_DOMAIN: Final = b"grapevine data key 1"
_TO_RESPONDER: Final = 0
_TO_INITIATOR: Final = 1

_NONCE: Final = bytes(bindings.crypto_secretbox_NONCEBYTES)  # constant: each box key seals one box


def transcript(*bodies: bytes) -> bytes:
    """Returns the transcript hash of the handshake so far. `bodies`: the messages without MACs, in order."""
    return digest(_TRANSCRIPT_DOMAIN, *bodies)


def with_mac(key: ClusterKey, cluster: str, body: bytes, context: bytes = b"") -> bytes:
    """Returns `body` with its MAC, which also covers `context`, the message being answered."""
    return body + _mac(key, cluster, body, context)


def has_mac(key: ClusterKey, cluster: str, datagram: bytes, context: bytes = b"") -> bool:
    """Whether a holder of `key` in `cluster` made this datagram in answer to `context`."""
    body, mac = datagram[:-MAC_BYTES], datagram[-MAC_BYTES:]
    return hmac.compare_digest(mac, _mac(key, cluster, body, context))


def _mac(key: ClusterKey, cluster: str, body: bytes, context: bytes) -> bytes:
    return key.derive(_MAC_DOMAINS[body[0]], cluster, context, body, size=MAC_BYTES)


def shared_secret(our_secret: bytes, their_ephemeral: bytes) -> bytes:
    """Returns DH(e1, e2). Raises Dropped(BAD_PROOF)."""
    try:
        return bindings.crypto_scalarmult(our_secret, their_ephemeral)
    except CryptoError:  # a low-order point, with which the secret would be public
        raise Dropped(DropReason.BAD_PROOF) from None


def data_keys(key: ClusterKey, shared: bytes, transcript_hash: bytes) -> tuple[bytes, bytes]:
    """Returns the keys for packets to the responder and to the initiator. `transcript_hash` covers all four
    messages."""
    return (
        key.derive(_DATA_DOMAIN, shared, transcript_hash, _TO_RESPONDER),
        key.derive(_DATA_DOMAIN, shared, transcript_hash, _TO_INITIATOR),
    )


class Credentials:
    """Seals or opens the credentials of one role: a record and a signature of `transcript_hash`.

    `shared` is DH(e1, e2); empty for the Proof, which is sent before it is known.
    """

    __slots__ = ("_box_key", "_cluster", "_role", "_transcript_hash")

    def __init__(
        self,
        role: bytes,
        key: ClusterKey,
        cluster: str,
        transcript_hash: bytes,
        shared: bytes = b"",
    ) -> None:
        self._box_key = key.derive(role, shared, transcript_hash)
        self._role = role
        self._cluster = cluster
        self._transcript_hash = transcript_hash

    def seal(self, identity: Identity, record: PeerRecord) -> bytes:
        """Returns the box with the credentials of `identity`. Costs one signature."""
        peer_id = identity.peer_id
        signature = identity.sign(self._role, self._cluster, self._transcript_hash, peer_id)
        plaintext = encode_credentials(record, signature)
        return bindings.crypto_secretbox(plaintext, _NONCE, self._box_key)

    def open(self, box: bytes) -> PeerRecord:
        """Returns the record in `box` after verifying the credentials. Costs two signature checks.

        Raises Dropped: BAD_PROOF, MALFORMED or BAD_RECORD.
        """
        try:
            plaintext = bindings.crypto_secretbox_open(box, _NONCE, self._box_key)
        except CryptoError:
            raise Dropped(DropReason.BAD_PROOF) from None
        record, signature = decode_credentials(plaintext)
        peer_id = record.peer_id
        if not verify(
            peer_id, signature, self._role, self._cluster, self._transcript_hash, peer_id
        ):
            raise Dropped(DropReason.BAD_PROOF)
        if record.left or not record.is_authentic(self._cluster):
            raise Dropped(DropReason.BAD_RECORD)
        return record
