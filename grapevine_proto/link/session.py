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

from grapevine_proto.codec import COUNTER_LIMIT, DATA, Data, encode_data
from grapevine_proto.errors import DropReason, Refused
from grapevine_proto.identity import ClusterKey
from grapevine_proto.ids import Address
from grapevine_proto.link.sequence import Arrivals, ReplayWindow
from grapevine_proto.signed import Record

REKEY_AFTER_S: Final = 120.0  # WireGuard's figure: how much one stolen key opens
SPENT_AFTER_S: Final = 180.0  # leaves half again as long for a rekey to get through
REKEY_AFTER_PACKETS: Final = COUNTER_LIMIT - (1 << 24)  # room for what is sent while it is made

# The same box either way: the calls that PyNaCl has from 1.6 on copy it less often, and the one that
# opens spends a microsecond on words for an error that does not come.
_Box: TypeAlias = Callable[[bytes, bytes, bytes], bytes]
_seal: _Box = getattr(bindings, "crypto_secretbox_easy", bindings.crypto_secretbox)
_open: _Box = bindings.crypto_secretbox_open
_open_large: _Box = getattr(bindings, "crypto_secretbox_open_easy", bindings.crypto_secretbox_open)
_LARGE_BYTES: Final = 8192  # from here on copying costs more than words

_BY_INITIATOR: Final = 0
_BY_RESPONDER: Final = 1


class Session:
    """One end of a session. `our_id` is what the peer writes on packets for us, `their_id` what we
    write; `key` is the cluster key it was made under; `began_by_us`: we sent the Hello."""

    __slots__ = (
        "_open_key",
        "_open_prefix",
        "_seal_key",
        "_seal_prefix",
        "_sealed",
        "_window",
        "arrivals",
        "began_by_us",
        "created_at",
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
        began_by_us: bool,
        seal_key: bytes,
        open_key: bytes,
        now: float,
    ) -> None:
        ours, theirs = (
            (_BY_INITIATOR, _BY_RESPONDER) if began_by_us else (_BY_RESPONDER, _BY_INITIATOR)
        )
        self.our_id = our_id
        self.their_id = their_id
        self.key = key
        self.began_by_us = began_by_us
        self.created_at = now
        self.last_opened_at = now
        self._seal_key = seal_key
        self._open_key = open_key
        self._seal_prefix = bytes((DATA, ours)) + their_id
        self._open_prefix = bytes((DATA, theirs)) + our_id
        self._sealed = 0  # packets so far: the next counter
        self._window = ReplayWindow()
        self.arrivals = Arrivals()

    def seal(self, plaintext: bytes, now: float) -> bytes:
        """The datagram that carries `plaintext`. Raises Refused(SPENT) when the session is."""
        counter = self._sealed
        if counter >= COUNTER_LIMIT or now - self.created_at >= SPENT_AFTER_S:
            raise Refused(DropReason.SPENT)
        self._sealed = counter + 1
        # 24 bytes: type, direction, id (8), counter (8), zeros (6); the shift appends the zeros
        nonce = self._seal_prefix + (counter << 48).to_bytes(14, "big")
        return encode_data(self.their_id, counter, _seal(plaintext, nonce, self._seal_key))

    def open(self, packet: Data, now: float) -> bytes:
        """What the peer sealed into `packet`. Raises Refused: SPENT, REPLAY or NOT_OPENED."""
        counter = packet.counter
        if counter >= COUNTER_LIMIT or now - self.created_at >= SPENT_AFTER_S:
            raise Refused(DropReason.SPENT)
        if not self._window.is_fresh(counter):
            raise Refused(DropReason.REPLAY)
        nonce, box = self._open_prefix + (counter << 48).to_bytes(14, "big"), packet.box
        try:
            if len(box) < _LARGE_BYTES:
                plaintext = _open(box, nonce, self._open_key)
            else:
                plaintext = _open_large(box, nonce, self._open_key)
        except CryptoError:
            raise Refused(DropReason.NOT_OPENED) from None
        self._window.accept(counter)
        self.arrivals.note(counter, now)
        self.last_opened_at = now
        return plaintext

    def claim(self, counter: int, now: float) -> bool:
        """Whether what the packet `counter` carried, and another repeats, has not come yet. The
        packet itself, should it come after all, is then a replay."""
        if counter >= COUNTER_LIMIT or not self.arrivals.claim(counter, now):
            return False
        if self._window.is_fresh(counter):
            self._window.accept(counter)
        return True

    @property
    def next_counter(self) -> int:
        """The number of the packet sealed next."""
        return self._sealed

    def is_due_for_rekey(self, now: float) -> bool:
        """Whether we should begin the next handshake: by age the end that began this session does, by
        packets the end that sent them, which alone knows how many there were."""
        is_old = self.began_by_us and now - self.created_at >= REKEY_AFTER_S
        return is_old or self._sealed >= REKEY_AFTER_PACKETS

    def is_spent(self, now: float) -> bool:
        """Whether nothing can be sealed or opened any more."""
        return now - self.created_at >= SPENT_AFTER_S or self._sealed >= COUNTER_LIMIT

    def __repr__(self) -> str:
        began = "by us" if self.began_by_us else "by them"
        return f"Session({self.our_id.hex()}, began {began}, key {self.key.fingerprint}…)"


class Established(NamedTuple):
    """A session on which the other end has been heard. `plaintext` is what it said first; `rtt_s`
    is None where retransmissions left it unclear. `address` is proved, not claimed."""

    session: Session
    record: Record
    address: Address
    rtt_s: float | None
    plaintext: bytes
