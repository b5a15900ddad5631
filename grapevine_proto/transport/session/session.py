"""Two keys between two nodes: seal and open.

What must stay true:

- No nonce is used twice under a key: each direction has its own key, counters only grow, and the
  session is spent before they could come round.
- A packet changes the session only after its box has opened.
- Keys are in no `repr`, and nothing outside this file reads them.

The box is XSalsa20-Poly1305 (libsodium's secretbox). It has no associated data, so everything
around it (type, direction, receiver's session id, counter) is put into the nonce and so bound in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias

from nacl import bindings
from nacl.exceptions import CryptoError

from grapevine_proto.crypto.cluster_key import ClusterKey
from grapevine_proto.errors import Dropped, DropReason
from grapevine_proto.ids import Address
from grapevine_proto.transport.session.ack_tracker import AckTracker
from grapevine_proto.transport.session.replay_window import ReplayWindow
from grapevine_proto.wire.codec import DATA, MAX_PACKETS_PER_SESSION, Data, encode_data
from grapevine_proto.wire.signed import PeerRecord

REKEY_AFTER_S: Final = 120.0  # WireGuard's figure: how much one stolen key opens
REJECT_AFTER_S: Final = 180.0  # leaves half again as long for a rekey to get through
REKEY_AFTER_PACKETS: Final = MAX_PACKETS_PER_SESSION - (
    1 << 24
)  # room for what is sent while it is made

# The same box either way: the calls that PyNaCl has from 1.6 on copy it less often, and the one that
# opens spends a microsecond on words for an error that does not come.
_Box: TypeAlias = Callable[[bytes, bytes, bytes], bytes]
_seal: _Box = getattr(bindings, "crypto_secretbox_easy", bindings.crypto_secretbox)
_open: _Box = bindings.crypto_secretbox_open
_open_large: _Box = getattr(bindings, "crypto_secretbox_open_easy", bindings.crypto_secretbox_open)
_LARGE_BOX_BYTES: Final = 8192  # from here on copying costs more than words

_BY_INITIATOR: Final = 0
_BY_RESPONDER: Final = 1


class Session:
    """One end of a session. `our_id` is what the peer writes on packets for us, `their_id` what we
    write; `key` is the cluster key it was made under; `is_initiator`: we sent the Hello."""

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
        self._next_counter = 0  # packets so far: the next counter
        self._replay_window = ReplayWindow()
        self.ack_tracker = AckTracker()

    def seal(self, plaintext: bytes, now: float) -> bytes:
        """The datagram that carries `plaintext`. Raises Refused(SPENT) when the session is."""
        counter = self._next_counter
        if counter >= MAX_PACKETS_PER_SESSION or now - self.created_at >= REJECT_AFTER_S:
            raise Dropped(DropReason.SESSION_EXPIRED)
        self._next_counter = counter + 1
        # 24 bytes: type, direction, id (8), counter (8), zeros (6); the shift appends the zeros
        nonce = self._seal_prefix + (counter << 48).to_bytes(14, "big")
        return encode_data(self.their_id, counter, _seal(plaintext, nonce, self._seal_key))

    def open(self, packet: Data, now: float) -> bytes:
        """What the peer sealed into `packet`. Raises Refused: SPENT, REPLAY or NOT_OPENED."""
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
        """Whether what the packet `counter` carried, and another repeats, has not come yet. The
        packet itself, should it come after all, is then a replay."""
        if counter >= MAX_PACKETS_PER_SESSION or not self.ack_tracker.claim(counter, now):
            return False
        if self._replay_window.is_fresh(counter):
            self._replay_window.accept(counter)
        return True

    @property
    def next_counter(self) -> int:
        """The number of the packet sealed next."""
        return self._next_counter

    def is_due_for_rekey(self, now: float) -> bool:
        """Whether we should begin the next handshake: by age the end that began this session does, by
        packets the end that sent them, which alone knows how many there were."""
        is_old = self.is_initiator and now - self.created_at >= REKEY_AFTER_S
        return is_old or self._next_counter >= REKEY_AFTER_PACKETS

    def is_expired(self, now: float) -> bool:
        """Whether nothing can be sealed or opened any more."""
        return (
            now - self.created_at >= REJECT_AFTER_S or self._next_counter >= MAX_PACKETS_PER_SESSION
        )

    def __repr__(self) -> str:
        role = "by us" if self.is_initiator else "by them"
        return f"Session({self.our_id.hex()}, began {role}, key {self.key.fingerprint}…)"


class EstablishedSession(NamedTuple):
    """A session on which the other end has been heard. `plaintext` is what it said first; `rtt_s`
    is None where retransmissions left it unclear. `address` is proved, not claimed."""

    session: Session
    record: PeerRecord
    address: Address
    rtt_s: float | None
    plaintext: bytes
