"""Initiator side of the handshake: one dial, from an address to a session. `handshake_crypto` defines the
messages; `responder` is the other side.

Invariants:

- Each state accepts one type of packet; a dropped packet changes nothing.
- A session is established once a packet of the responder was decrypted on it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from enum import Enum
from typing import Final

from nacl import bindings

from grapevine_proto.crypto.cluster_key import ClusterKey
from grapevine_proto.crypto.identity import MAC_BYTES, Identity
from grapevine_proto.dial_purpose import LINK, DialPurpose, punch
from grapevine_proto.errors import Dropped, DropReason
from grapevine_proto.events import PathKind
from grapevine_proto.ids import Address, PeerId
from grapevine_proto.transport.handshake.handshake_crypto import (
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
from grapevine_proto.transport.session.session import REJECT_AFTER_S, EstablishedSession, Session
from grapevine_proto.wire.codec import (
    EPHEMERAL_BYTES,
    MAX_VERSIONS,
    SESSION_ID_BYTES,
    Challenge,
    Data,
    Hello,
    Proof,
    Welcome,
    encode_message,
    encode_packet,
)
from grapevine_proto.wire.signed import PeerRecord

INITIAL_RETRY_S: Final = 0.25  # above most RTTs, so few retries are needless
MAX_RETRY_S: Final = 2.0
RETRY_JITTER_FRACTION: Final = 0.2  # nodes that start together do not retry together
# The responder uses the session from our first message on, which may arrive after our timeout. Within this
# time, some packet of the responder gets here at any loss that a link survives.
CONFIRM_LINGER_S: Final = 3.0


class HandshakeState(Enum):
    """State of a dial. `TRANSITIONS` lists the legal transitions."""

    HELLO_SENT = "hello_sent"
    PROOF_SENT = "proof_sent"
    CONFIRMING = "confirming"
    ESTABLISHED = "established"


TRANSITIONS: Final[dict[tuple[HandshakeState, type], HandshakeState]] = {
    (HandshakeState.HELLO_SENT, Challenge): HandshakeState.PROOF_SENT,
    (HandshakeState.PROOF_SENT, Welcome): HandshakeState.CONFIRMING,
    (HandshakeState.CONFIRMING, Data): HandshakeState.ESTABLISHED,
}


class Initiator:
    """One dial. Call `transmit` at `deadline`, `receive` for a Challenge or Welcome with its `session_id`,
    and `confirm` for Data with it.

        state       sends, with retries        until it receives    then enters
        HELLO_SENT  the Hello                  Challenge            PROOF_SENT
        PROOF_SENT  the Proof                  Welcome              CONFIRMING
        CONFIRMING  its first message, sealed  Data                 ESTABLISHED

    Any other packet is dropped as UNEXPECTED, so each Hello accepts one Challenge and each Proof one Welcome.
    The first message is that of `purpose`. A swap continues only if the Challenge arrived within its
    `max_rtt_s`; otherwise `is_rtt_too_high` is set and the caller removes the dial.

    `expected` is the peer ID that must answer, None for any. At most `max_hellos` Hellos are sent. The dial
    sends nothing from `timeout_s` seconds after `now` on, and expires: at once, or after
    `CONFIRM_LINGER_S` if it is CONFIRMING, because the responder may already send on the session. It begins
    `delay_s` seconds from now.
    """

    def __init__(
        self,
        identity: Identity,
        key: ClusterKey,
        cluster: str,
        address: Address,
        our_record: PeerRecord,
        *,
        expected: PeerId | None,
        purpose: DialPurpose = LINK,
        max_hellos: int | None = None,
        timeout_s: float,
        delay_s: float = 0.0,
        entropy: Callable[[int], bytes],
        rng: random.Random,
        now: float,
    ) -> None:
        self.address = address
        self.expected = expected
        self.purpose = purpose
        self._max_hellos = math.inf if max_hellos is None else max_hellos
        self.key = key
        self.session_id = entropy(SESSION_ID_BYTES)
        self._identity = identity
        self._cluster = cluster
        self._record = our_record
        self._rng = rng
        self._secret = entropy(EPHEMERAL_BYTES)
        ephemeral = bindings.crypto_scalarmult_base(self._secret)
        versions = bytes(sorted(SUPPORTED_VERSIONS)).ljust(MAX_VERSIONS, b"\0")
        self._hello = Hello(versions, self.session_id, ephemeral)
        body = encode_packet(self._hello)
        self._transcript_bodies = [body]  # of both ends, so far
        self._pending_datagram = with_mac(key, cluster, body)  # sent until it is answered
        self._state = HandshakeState.HELLO_SENT
        self._session: Session | None = None
        self._their_record: PeerRecord | None = None
        self._rtt_s: float | None = None
        self._expires_at = now + timeout_s
        self._sends_until = self._expires_at
        self._transmit_at = self._sent_at = now + delay_s
        self._retry_delay_s = INITIAL_RETRY_S
        self._transmissions = 0  # in this state
        self.challenged_at: float | None = None  # when the Challenge arrived
        self._first_message = encode_message(purpose.first_message)

    @property
    def deadline(self) -> float:
        """When to call `transmit` or `is_expired`."""
        return min(self._transmit_at, self._expires_at)

    @property
    def state(self) -> HandshakeState:
        return self._state

    @property
    def peer_id(self) -> PeerId | None:
        """The peer ID of the responder once it is verified; before that the expected one, if any."""
        return self._their_record.peer_id if self._their_record else self.expected

    @property
    def rtt_s(self) -> float | None:
        """Lowest RTT of the handshake so far in seconds; None if every sample was ambiguous."""
        return self._rtt_s

    @property
    def is_rtt_too_high(self) -> bool:
        """Whether the swap candidate answered, but not faster than `max_rtt_s`."""
        is_within_limit = self._rtt_s is not None and self._rtt_s < self.purpose.max_rtt_s
        return (
            self.purpose.swap_for is not None
            and self._state is HandshakeState.PROOF_SENT
            and not is_within_limit
        )

    def is_expired(self, now: float) -> bool:
        """Whether the dial has timed out. The caller removes it then."""
        return now >= self._expires_at

    def transmit(self, now: float) -> list[bytes]:
        """Returns the datagram for `address` that is due now, in a list, or an empty list."""
        if now >= self._sends_until:
            self._transmit_at = math.inf
        if now < self._transmit_at:
            return []
        self._transmit_at = now + self._retry_delay_s * (
            1 + RETRY_JITTER_FRACTION * self._rng.random()
        )
        if self._state is HandshakeState.HELLO_SENT and self._transmissions + 1 >= self._max_hellos:
            self._transmit_at = math.inf  # no retry: wait for the answer until the dial expires
        self._retry_delay_s = min(2 * self._retry_delay_s, MAX_RETRY_S)
        self._transmissions += 1
        self._sent_at = now
        return [
            self._pending_datagram
            if self._session is None
            else self._session.seal(self._first_message, now)
        ]

    def receive(
        self, packet: Challenge | Welcome, datagram: bytes, source: Address, now: float
    ) -> None:
        """Handles the answer to the latest message. Raises Dropped, and nothing has changed.

        `source` is ignored: a host with several addresses may answer from another one, and only a node
        that received our message can make the MAC. We continue to send to the dialed address.
        """
        next_state = TRANSITIONS.get((self._state, type(packet)))
        if next_state is None:
            raise Dropped(DropReason.UNEXPECTED)
        if not has_mac(self.key, self._cluster, datagram, self._transcript_bodies[-1]):
            raise Dropped(DropReason.UNKNOWN_KEY)
        if packet.session_id != self.session_id:
            raise Dropped(DropReason.UNEXPECTED)
        if isinstance(packet, Challenge):
            self._on_challenge(packet, datagram[:-MAC_BYTES])
            self.challenged_at = now
        else:
            self._on_welcome(packet, datagram[:-MAC_BYTES], now)
        self._enter_state(next_state, now)

    def confirm(self, packet: Data, source: Address, now: float) -> EstablishedSession:
        """Returns the session, which `packet` confirms.

        Raises Dropped: UNEXPECTED before there is a session or after it was confirmed, otherwise as
        `Session.open`. `source` is ignored: the address stays the dialed one.
        """
        next_state = TRANSITIONS.get((self._state, type(packet)))
        if next_state is None or self._session is None or self._their_record is None:
            raise Dropped(DropReason.UNEXPECTED)
        plaintext = self._session.open(packet, now)
        self._enter_state(next_state, now)
        path = PathKind.PUNCHED if self.purpose.is_punch else PathKind.DIRECT
        if self.address.is_via_relay:
            path = PathKind.RELAYED
        return EstablishedSession(
            self._session, self._their_record, self.address, self._rtt_s, plaintext, path
        )

    def on_introduced(self) -> None:
        """The peer dials this node at the same time."""
        self.purpose = punch(self.purpose)

    def _on_challenge(self, challenge: Challenge, body: bytes) -> None:
        if challenge.version not in SUPPORTED_VERSIONS:
            raise Dropped(DropReason.UNKNOWN_VERSION)
        transcript_hash = transcript(*self._transcript_bodies, body)
        credentials = Credentials(INITIATOR, self.key, self._cluster, transcript_hash)
        box = credentials.seal(self._identity, self._record)
        proof = encode_packet(Proof(self._hello, challenge.version, challenge.cookie, box))
        self._transcript_bodies += [body, proof]
        self._pending_datagram = with_mac(self.key, self._cluster, proof)

    def _on_welcome(self, welcome: Welcome, body: bytes, now: float) -> None:
        shared = shared_secret(self._secret, welcome.ephemeral)
        head = body[: len(body) - len(welcome.box)]
        transcript_hash = transcript(*self._transcript_bodies, head)
        credentials = Credentials(RESPONDER, self.key, self._cluster, transcript_hash, shared)
        record = credentials.open(welcome.box)
        if record.peer_id == self._identity.peer_id:
            raise Dropped(DropReason.SELF_DIAL)
        if self.expected is not None and record.peer_id != self.expected:
            raise Dropped(DropReason.WRONG_PEER)
        seal_key, open_key = data_keys(self.key, shared, transcript(*self._transcript_bodies, body))
        self._session = Session(
            self.session_id, welcome.our_session_id, self.key, True, seal_key, open_key, now
        )
        self._their_record = record
        self._secret = b""  # forward secrecy: forget the ephemeral secret
        self._sends_until = min(self._sends_until, now + REJECT_AFTER_S)
        self._expires_at = self._sends_until + CONFIRM_LINGER_S

    def _enter_state(self, state: HandshakeState, now: float) -> None:
        if self._transmissions == 1:  # otherwise the sample is ambiguous (Karn 1987)
            rtt_s = now - self._sent_at
            self._rtt_s = rtt_s if self._rtt_s is None else min(rtt_s, self._rtt_s)
        self._state = state
        self._transmit_at = math.inf if state is HandshakeState.ESTABLISHED else now
        self._retry_delay_s = INITIAL_RETRY_S
        self._transmissions = 0
