"""What both ends of a handshake compute alike: MACs, transcripts, keys, and who signed them.

What must stay true:

- Each MAC, key and signature has a domain of its own that names its use and its maker, so a
  message sent back to whoever made it, or in place of another, proves nothing.
- All of them are bound to the cluster key K and to the cluster's name.
- Whatever strangers put into a box or an ephemeral, the worst that happens is `Dropped`.

This is SIGMA-I (Krawczyk 2003) under a pre-shared key, with QUIC's address check (RFC 9000,
section 8.1) before it. With T(...) the hash of the messages named, without their MACs, which
follow from them:

    Hello      versions, id, e1                                                 mac
    Challenge  id, version, cookie                            mac, over the Hello too
    Proof      all of Hello, version, cookie,
               box under KDF(K, T1): initiator's record, its signature of T1    mac
    Welcome    id, e2, responder's id,
               box under KDF(K, DH(e1, e2), T2): the same of the responder      mac, over the Proof too

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

SUPPORTED_VERSIONS: Final = frozenset({VERSION})  # that we speak

COOKIE_KEY_DOMAIN: Final = b"grapevine cookie key 1"
INITIATOR: Final = b"grapevine initiator 1"  # the roles in which a node seals and signs
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

_NONCE: Final = bytes(bindings.crypto_secretbox_NONCEBYTES)  # each box key seals one box


def transcript(*bodies: bytes) -> bytes:
    """The hash of what was said so far: the messages' bodies, in order."""
    return digest(_TRANSCRIPT_DOMAIN, *bodies)


def with_mac(key: ClusterKey, cluster: str, body: bytes, context: bytes = b"") -> bytes:
    """The datagram that says `body`; its MAC covers `context`, what is answered, too."""
    return body + _mac(key, cluster, body, context)


def has_mac(key: ClusterKey, cluster: str, datagram: bytes, context: bytes = b"") -> bool:
    """Whether somebody with `key`, in `cluster`, made this datagram to answer `context`."""
    body, mac = datagram[:-MAC_BYTES], datagram[-MAC_BYTES:]
    return hmac.compare_digest(mac, _mac(key, cluster, body, context))


def _mac(key: ClusterKey, cluster: str, body: bytes, context: bytes) -> bytes:
    return key.derive(_MAC_DOMAINS[body[0]], cluster, context, body, size=MAC_BYTES)


def shared_secret(our_secret: bytes, their_ephemeral: bytes) -> bytes:
    """DH(e1, e2). Raises Refused(BAD_PROOF)."""
    try:
        return bindings.crypto_scalarmult(our_secret, their_ephemeral)
    except CryptoError:  # a point of small order, which would make the secret known to everyone
        raise Dropped(DropReason.BAD_PROOF) from None


def data_keys(key: ClusterKey, shared: bytes, transcript_hash: bytes) -> tuple[bytes, bytes]:
    """(key of what goes to the responder, key of what goes to the initiator); `transcript_hash` is the
    transcript of all four messages."""
    return (
        key.derive(_DATA_DOMAIN, shared, transcript_hash, _TO_RESPONDER),
        key.derive(_DATA_DOMAIN, shared, transcript_hash, _TO_INITIATOR),
    )


class Credentials:
    """How one end in one role shows who it is: a box with its record and its signature of the
    transcript `transcript_hash`. `shared` is DH(e1, e2), where it is known already."""

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
        """The box of `identity`, whose record it is. One signature."""
        peer_id = identity.peer_id
        signature = identity.sign(self._role, self._cluster, self._transcript_hash, peer_id)
        plaintext = encode_credentials(record, signature)
        return bindings.crypto_secretbox(plaintext, _NONCE, self._box_key)

    def open(self, box: bytes) -> PeerRecord:
        """The record of whoever made `box`. Two signature checks.

        Raises Refused: BAD_PROOF, MALFORMED or BAD_RECORD.
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
