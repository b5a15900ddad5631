"""One session: the two symmetric keys between two nodes, which seal and open packets.

Invariants:

- No nonce is used twice under a key: each direction has its own key, counters only grow, and the session
  expires before they could wrap.
- A packet changes the session only after it was decrypted.
- Keys appear in no `repr`, and nothing outside this module reads them.

The cipher is XSalsa20-Poly1305 (libsodium's secretbox). It has no associated data, so the packet header
(type, direction, the receiver's session ID, counter) is authenticated as part of the nonce.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias

from nacl import bindings
from nacl.exceptions import CryptoError

from grapevine_proto.crypto.cluster_key import ClusterKey
from grapevine_proto.errors import Dropped, DropReason
from grapevine_proto.events import PathKind
from grapevine_proto.ids import Address
from grapevine_proto.transport.session.ack_tracker import AckTracker
from grapevine_proto.transport.session.replay_window import ReplayWindow
from grapevine_proto.wire.codec import DATA, MAX_PACKETS_PER_SESSION, Data, encode_data
from grapevine_proto.wire.signed import PeerRecord

REKEY_AFTER_S: Final = 120.0  # as in WireGuard: bounds what one stolen key decrypts
REJECT_AFTER_S: Final = 180.0  # as in WireGuard: leaves 60 s for the rekey
# leaves 16 million packets for the time that the rekey takes
REKEY_AFTER_PACKETS: Final = MAX_PACKETS_PER_SESSION - (1 << 24)

# All calls produce the same bytes. The ones that PyNaCl has since 1.6 copy less, but the one that opens
# spends a microsecond on formatting an error message in advance.
_Box: TypeAlias = Callable[[bytes, bytes, bytes], bytes]
_seal: _Box = getattr(bindings, "crypto_secretbox_easy", bindings.crypto_secretbox)
_open: _Box = bindings.crypto_secretbox_open
_open_large: _Box = getattr(bindings, "crypto_secretbox_open_easy", bindings.crypto_secretbox_open)
_LARGE_BOX_BYTES: Final = 8192  # from here on, copying costs more than that message

_BY_INITIATOR: Final = 0
_BY_RESPONDER: Final = 1


class Session:
    """One end of a session.

    `our_id` is the session ID on packets to this node, `their_id` the one on packets to the peer. `key` is
    the cluster key that authenticated the handshake. `is_initiator` is whether this node sent the Hello.
    """

    __slots__ = (
        "_next_counter",
        "_open_key",
        "_open_prefix",
        "_replay_window",
        "_seal_key",
        "_seal_prefix",
        "ack_tracker",
        "created_at",
        "is_initiator",
        "key",
        "last_opened_at",
        "our_id",
        "their_id",
    )

    def __init__(
        self,
        our_id: bytes,
        their_id: bytes,
        key: ClusterKey,
        is_initiator: bool,
        seal_key: bytes,
        open_key: bytes,
        now: float,
    ) -> None:
        ours, theirs = (
            (_BY_INITIATOR, _BY_RESPONDER) if is_initiator else (_BY_RESPONDER, _BY_INITIATOR)
        )
        self.our_id = our_id
        self.their_id = their_id
        self.key = key
        self.is_initiator = is_initiator
        self.created_at = now
        self.last_opened_at = now
        self._seal_key = seal_key
        self._open_key = open_key
        self._seal_prefix = bytes((DATA, ours)) + their_id
        self._open_prefix = bytes((DATA, theirs)) + our_id
        self._next_counter = 0  # also the number of packets sealed so far
        self._replay_window = ReplayWindow()
        self.ack_tracker = AckTracker()

    def seal(self, plaintext: bytes, now: float) -> bytes:
        """Returns the datagram that carries `plaintext`. Raises Dropped(SESSION_EXPIRED)."""
        counter = self._next_counter
        if counter >= MAX_PACKETS_PER_SESSION or now - self.created_at >= REJECT_AFTER_S:
            raise Dropped(DropReason.SESSION_EXPIRED)
        self._next_counter = counter + 1
        # 24 bytes: type, direction, id (8), counter (8), zeros (6); the shift appends the zeros
        nonce = self._seal_prefix + (counter << 48).to_bytes(14, "big")
        return encode_data(self.their_id, counter, _seal(plaintext, nonce, self._seal_key))

    def open(self, packet: Data, now: float) -> bytes:
        """Returns the plaintext of `packet`. Raises Dropped: SESSION_EXPIRED, REPLAY or DECRYPT_FAILED."""
        counter = packet.counter
        if counter >= MAX_PACKETS_PER_SESSION or now - self.created_at >= REJECT_AFTER_S:
            raise Dropped(DropReason.SESSION_EXPIRED)
        if not self._replay_window.is_fresh(counter):
            raise Dropped(DropReason.REPLAY)
        nonce, box = self._open_prefix + (counter << 48).to_bytes(14, "big"), packet.box
        try:
            if len(box) < _LARGE_BOX_BYTES:
                plaintext = _open(box, nonce, self._open_key)
            else:
                plaintext = _open_large(box, nonce, self._open_key)
        except CryptoError:
            raise Dropped(DropReason.DECRYPT_FAILED) from None
        self._replay_window.accept(counter)
        self.ack_tracker.on_packet(counter, now)
        self.last_opened_at = now
        return plaintext

    def claim(self, counter: int, now: float) -> bool:
        """Claims the content of packet `counter`, which a retransmission carried. Returns whether it is
        new. The original packet counts as a replay after this call."""
        if counter >= MAX_PACKETS_PER_SESSION or not self.ack_tracker.claim(counter, now):
            return False
        if self._replay_window.is_fresh(counter):
            self._replay_window.accept(counter)
        return True

    @property
    def next_counter(self) -> int:
        """The counter of the next packet to seal."""
        return self._next_counter

    def is_due_for_rekey(self, now: float) -> bool:
        """Whether this node should start a rekey: by age if it initiated the session, by packet count on
        either side, because only the sender knows the count."""
        is_old = self.is_initiator and now - self.created_at >= REKEY_AFTER_S
        return is_old or self._next_counter >= REKEY_AFTER_PACKETS

    def is_expired(self, now: float) -> bool:
        """Whether the session can no longer seal or open packets."""
        return (
            now - self.created_at >= REJECT_AFTER_S or self._next_counter >= MAX_PACKETS_PER_SESSION
        )

    def __repr__(self) -> str:
        role = "initiator" if self.is_initiator else "responder"
        return f"Session({self.our_id.hex()}, {role}, key {self.key.fingerprint}…)"


class EstablishedSession(NamedTuple):
    """The result of a completed handshake, confirmed by the peer's first packet.

    `plaintext` is the content of that packet. `rtt_s` is None if a retransmission made the sample
    ambiguous (Karn's algorithm). `address` is validated, not merely claimed. `path` tells how it was reached.
    """

    session: Session
    record: PeerRecord
    address: Address
    rtt_s: float | None
    plaintext: bytes
    path: PathKind = PathKind.DIRECT
