"""The end that knocks: from an address to a session, in four messages. The other end is `responder`.

What must stay true: each step takes one answer and no other, what was refused changes nothing, and a
session is live when a packet of the other end has opened on it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from enum import Enum
from typing import Final

from nacl import bindings

from grapevine_proto.codec import (
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
from grapevine_proto.errors import DropReason, Refused
from grapevine_proto.identity import MAC_BYTES, ClusterKey, Identity
from grapevine_proto.ids import Address, PeerId
from grapevine_proto.link.exchange import (
    INITIATOR,
    RESPONDER,
    VERSIONS,
    Credentials,
    data_keys,
    has_mac,
    shared_secret,
    transcript,
    with_mac,
)
from grapevine_proto.link.session import SPENT_AFTER_S, Established, Session
from grapevine_proto.messages import Ask, Empty, Near, Short
from grapevine_proto.signed import Record

FIRST_RETRY_S: Final = 0.25  # above most round trips, so that few packets go out for nothing
LAST_RETRY_S: Final = 2.0
RETRY_JITTER: Final = 0.2  # so that nodes started together do not knock together
_EMPTY: Final = encode_message(Empty())
_ASK: Final = encode_message(Ask())
_SHORT: Final = encode_message(Short())


class Step(Enum):
    """Where a dial stands. `NEXT` says what leads from one to the next."""

    ASKING = "asking"
    PROVING = "proving"
    CONFIRMING = "confirming"
    LIVE = "live"


NEXT: Final[dict[tuple[Step, type], Step]] = {
    (Step.ASKING, Challenge): Step.PROVING,
    (Step.PROVING, Welcome): Step.CONFIRMING,
    (Step.CONFIRMING, Data): Step.LIVE,
}


class Initiator:
    """One dial. Driven by `transmit` at its `deadline`, `receive` for Challenge and Welcome that
    carry `session_id`, `confirm` for Data that does.

        step        sends, again and again    until there comes    and then is
        ASKING      the Hello                 Challenge            PROVING
        PROVING     the Proof                 Welcome              CONFIRMING
        CONFIRMING  its first word, sealed    Data                 LIVE

    What does not belong to the step is refused as UNEXPECTED, so each Hello has one Challenge
    answered and each Proof one Welcome. The first word is Empty for a link, or what the dial is for: Ask,
    Short, or Near, which names who goes `instead`. Such a dial goes on only if the Challenge came within
    `nearer_than_s`; else it `is_too_far`, and the caller forgets it.
    """

    def __init__(
        self,
        identity: Identity,
        key: ClusterKey,
        cluster: str,
        address: Address,
        our_record: Record,
        *,
        expected: PeerId | None,
        is_asking: bool = False,
        is_short: bool = False,
        instead: Record | None = None,
        nearer_than_s: float = math.inf,
        hellos: int | None = None,
        timeout_s: float,
        entropy: Callable[[int], bytes],
        rng: random.Random,
        now: float,
    ) -> None:
        self.address = address
        self.expected = expected
        self.is_asking = is_asking
        self.is_short = is_short
        self.instead = instead
        self._nearer_than_s = nearer_than_s
        self._hellos = math.inf if hellos is None else hellos
        self.key = key
        self.session_id = entropy(SESSION_ID_BYTES)
        self._identity = identity
        self._cluster = cluster
        self._record = our_record
        self._rng = rng
        self._secret = entropy(EPHEMERAL_BYTES)
        ephemeral = bindings.crypto_scalarmult_base(self._secret)
        versions = bytes(sorted(VERSIONS)).ljust(MAX_VERSIONS, b"\0")
        self._hello = Hello(versions, self.session_id, ephemeral)
        body = encode_packet(self._hello)
        self._bodies = [body]  # of what was said so far, by either end
        self._said = with_mac(key, cluster, body)  # what is sent until it is answered
        self._step = Step.ASKING
        self._session: Session | None = None
        self._their_record: Record | None = None
        self._rtt_s: float | None = None
        self._expires_at = now + timeout_s
        self._next_at = self._sent_at = now
        self._wait_s = FIRST_RETRY_S
        self._sendings = 0  # in this step
        self._first_word = _SHORT if is_short else _ASK if is_asking else _EMPTY
        if instead is not None:
            self._first_word = encode_message(Near(instead))

    @property
    def deadline(self) -> float:
        return min(self._next_at, self._expires_at)

    @property
    def step(self) -> Step:
        return self._step

    @property
    def peer_id(self) -> PeerId | None:
        """Who answers there, once it has shown so; before that whom we expect, if anybody."""
        return self._their_record.peer_id if self._their_record else self.expected

    @property
    def rtt_s(self) -> float | None:
        """The least round trip of it so far; None: unclear."""
        return self._rtt_s

    @property
    def is_too_far(self) -> bool:
        """Whether it was answered, but not so soon as to be of use."""
        is_near = self._rtt_s is not None and self._rtt_s < self._nearer_than_s
        return self.instead is not None and self._step is Step.PROVING and not is_near

    def is_expired(self, now: float) -> bool:
        """Whether it is time to give up. The caller forgets this dial then."""
        return now >= self._expires_at

    def transmit(self, now: float) -> list[bytes]:
        """What is due now: nothing, or one datagram for `address`."""
        if now < self._next_at or self.is_expired(now):
            return []
        self._next_at = now + self._wait_s * (1 + RETRY_JITTER * self._rng.random())
        if self._step is Step.ASKING and self._sendings + 1 >= self._hellos:
            self._next_at = math.inf  # the last Hello has as long to be answered as there is
        self._wait_s = min(2 * self._wait_s, LAST_RETRY_S)
        self._sendings += 1
        self._sent_at = now
        return [self._said if self._session is None else self._session.seal(self._first_word, now)]

    def receive(
        self, packet: Challenge | Welcome, datagram: bytes, source: Address, now: float
    ) -> None:
        """Take the answer to what was sent last. Raises Refused, and then nothing has changed.

        `source` decides nothing: a host with several addresses may answer from another one, and only
        whoever got what we sent can make the MAC of the answer. We go on sending to the address dialed.
        """
        step = NEXT.get((self._step, type(packet)))
        if step is None:
            raise Refused(DropReason.UNEXPECTED)
        if not has_mac(self.key, self._cluster, datagram, self._bodies[-1]):
            raise Refused(DropReason.UNKNOWN_KEY)
        if packet.session_id != self.session_id:
            raise Refused(DropReason.UNEXPECTED)
        if isinstance(packet, Challenge):
            self._take_challenge(packet, datagram[:-MAC_BYTES])
        else:
            self._take_welcome(packet, datagram[:-MAC_BYTES], now)
        self._enter(step, now)

    def confirm(self, packet: Data, source: Address, now: float) -> Established:
        """The session that `packet` shows to be live at the other end too.

        Raises Refused: UNEXPECTED while there is no session or once it was confirmed, else as
        `Session.open` does. `source` decides nothing: the address stays the one dialled.
        """
        step = NEXT.get((self._step, type(packet)))
        if step is None or self._session is None or self._their_record is None:
            raise Refused(DropReason.UNEXPECTED)
        plaintext = self._session.open(packet, now)
        self._enter(step, now)
        return Established(self._session, self._their_record, self.address, self._rtt_s, plaintext)

    def _take_challenge(self, challenge: Challenge, body: bytes) -> None:
        if challenge.version not in VERSIONS:
            raise Refused(DropReason.UNKNOWN_VERSION)
        said = transcript(*self._bodies, body)
        credentials = Credentials(INITIATOR, self.key, self._cluster, said)
        box = credentials.seal(self._identity, self._record)
        proof = encode_packet(Proof(self._hello, challenge.version, challenge.cookie, box))
        self._bodies += [body, proof]
        self._said = with_mac(self.key, self._cluster, proof)

    def _take_welcome(self, welcome: Welcome, body: bytes, now: float) -> None:
        shared = shared_secret(self._secret, welcome.ephemeral)
        head = body[: len(body) - len(welcome.box)]
        said = transcript(*self._bodies, head)
        credentials = Credentials(RESPONDER, self.key, self._cluster, said, shared)
        record = credentials.open(welcome.box)
        if record.peer_id == self._identity.peer_id:
            raise Refused(DropReason.MYSELF)
        if self.expected is not None and record.peer_id != self.expected:
            raise Refused(DropReason.WRONG_PEER)
        to_them, to_us = data_keys(self.key, shared, transcript(*self._bodies, body))
        self._session = Session(
            self.session_id, welcome.our_session_id, self.key, True, to_them, to_us, now
        )
        self._their_record = record
        self._secret = b""  # forward secrecy: what made the keys is gone
        self._expires_at = min(self._expires_at, now + SPENT_AFTER_S)

    def _enter(self, step: Step, now: float) -> None:
        if self._sendings == 1:  # else it is unclear which of them was answered (Karn 1987)
            rtt_s = now - self._sent_at
            self._rtt_s = rtt_s if self._rtt_s is None else min(rtt_s, self._rtt_s)
        self._step = step
        self._next_at = math.inf if step is Step.LIVE else now
        self._wait_s = FIRST_RETRY_S
        self._sendings = 0
