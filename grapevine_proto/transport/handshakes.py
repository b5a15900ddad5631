"""Pending handshakes, in both roles.

Invariants:

- At most `limits.dials` dials are pending, rekeys not counted, of which a link has at most one. The
  `Responder` limits the state that is kept for unauthenticated peers.
- A dial ends once: its session is live, it was rejected, or it timed out.
"""

from __future__ import annotations

import builtins  # mypyc looks up the type of a field by a name of the module
import random
from collections import Counter
from collections.abc import Callable
from typing import Final, NamedTuple

from grapevine_proto.config.live import LiveConfig
from grapevine_proto.crypto.identity import Identity
from grapevine_proto.dial_purpose import LINK, DialPurpose
from grapevine_proto.errors import Dropped, DropReason
from grapevine_proto.ids import Address, PeerId
from grapevine_proto.transport.handshake.initiator import Initiator
from grapevine_proto.transport.handshake.responder import Responder
from grapevine_proto.transport.link.link import Link
from grapevine_proto.transport.session.session import EstablishedSession
from grapevine_proto.wire import codec
from grapevine_proto.wire.signed import PeerRecord

SIBLING_HOLD_S: Final = 1.0  # for the address that answered first to complete the handshake


class DialError(NamedTuple):
    """An unexpected exception in a dial."""

    dial: Initiator
    error: builtins.Exception


class ConfirmedDial(NamedTuple):
    """A dial and the session that it established."""

    dial: Initiator
    established: EstablishedSession


class Handshakes:
    """Initiates and accepts handshakes. Driven by packets that match no live session, and by `deadline`."""

    def __init__(
        self,
        config: LiveConfig,
        identity: Identity,
        *,
        is_expelled: Callable[[PeerId, float], bool] | None = None,
        rng: random.Random,
        entropy: Callable[[int], bytes],
        now: float,
    ) -> None:
        self._config = config
        self._identity = identity
        self._rng = rng
        self._entropy = entropy
        self._dials: dict[bytes, Initiator] = {}  # by session ID
        self._dials_per_peer: Counter[PeerId] = Counter()  # number of dials per peer
        self._internal_errors: list[DialError] = []  # for the owner to end those dials
        self._responder = Responder(
            identity,
            config.current.keys,
            config.current.cluster,
            config.current.limits,
            config.current.denied,
            is_expelled=is_expelled,
            entropy=entropy,
            now=now,
        )

    def reconfigure(self, now: float) -> None:
        """Ends unconfirmed sessions that the changed settings forbid."""
        config = self._config.current
        self._responder.reconfigure(config.keys, config.limits, config.denied, now)

    # --- initiator ------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Number of pending dials."""
        return len(self._dials)

    @property
    def can_dial(self) -> bool:
        """Whether another dial may start."""
        return len(self._dials) < self._config.current.limits.dials

    def dial(
        self,
        address: Address,
        expected: PeerId | None,
        record: PeerRecord,
        now: float,
        purpose: DialPurpose = LINK,
        *,
        max_hellos: int | None = None,
        delay_s: float = 0.0,
    ) -> None:
        """Dials `address`, `delay_s` seconds from now; a peer that proves the cluster key receives our
        `record`."""
        initiator = Initiator(
            self._identity,
            self._config.current.keys[0],
            self._config.current.cluster,
            address,
            record,
            expected=expected,
            purpose=purpose,
            max_hellos=max_hellos,
            timeout_s=self._config.current.connection_timeout,
            delay_s=delay_s,
            entropy=self._entropy,
            rng=self._rng,
            now=now,
        )
        self._dials[initiator.session_id] = initiator
        if expected is not None:
            self._dials_per_peer[expected] += 1

    def is_dialing(self, peer_id: PeerId) -> bool:
        """Whether a dial of `peer_id` is pending. The responder keeps one unconfirmed session per peer: of
        two dials at once, the newer would end the older."""
        return peer_id in self._dials_per_peer

    def rekey(self, link: Link, record: PeerRecord, now: float, purpose: DialPurpose) -> None:
        """Starts a handshake for a link, whose session continues until the new one is live."""
        if not self.is_dialing(link.peer_id):
            self.dial(link.address, link.peer_id, record, now, purpose)

    def on_response(
        self, packet: codec.Challenge | codec.Welcome, datagram: bytes, source: Address, now: float
    ) -> Initiator:
        """Handles the answer to a dial and returns the dial. Raises Dropped.

        While another address of the same peer has just answered, a Challenge is dropped: the Hello that it
        answers is repeated if that one fails.
        """
        dial = self._dials.get(packet.session_id)
        if dial is None:
            raise Dropped(DropReason.UNEXPECTED)
        if isinstance(packet, codec.Challenge) and any(
            each.challenged_at is not None and now < each.challenged_at + SIBLING_HOLD_S
            for each in self._siblings(dial)
        ):
            raise Dropped(DropReason.UNEXPECTED)
        dial.receive(packet, datagram, source, now)
        return dial

    def _siblings(self, dial: Initiator) -> list[Initiator]:
        """The other dials of the same peer for the same kind of session, at its other addresses."""
        if dial.expected is None:
            return []
        return [
            each
            for each in self._dials.values()
            if each.expected == dial.expected
            and each.address != dial.address
            and each.purpose.is_transient == dial.purpose.is_transient
        ]

    def has_siblings(self, dial: Initiator) -> bool:
        """Whether the same peer is dialed at other addresses for the same kind of session."""
        return bool(self._siblings(dial))

    def end_siblings(self, dial: Initiator) -> None:
        """Ends the dials of the same peer at its other addresses: `dial` is answered."""
        for each in self._siblings(dial):
            self.end_dial(each.session_id)

    def find(self, address: Address, peer_id: PeerId, *, is_transient: bool) -> Initiator | None:
        """The pending dial of a peer at this address for this kind of session."""
        for dial in self._dials.values():
            is_same = (dial.address, dial.expected) == (address, peer_id)
            if is_same and dial.purpose.is_transient == is_transient:
                return dial
        return None

    def is_punching(self, peer_id: PeerId, host: str) -> bool:
        """Whether a common peer introduced this peer and it is dialed at this host, at whichever port."""
        return any(
            (dial.expected, dial.address.host, dial.purpose.is_punch) == (peer_id, host, True)
            for dial in self._dials.values()
        )

    def end_dial(self, session_id: bytes) -> Initiator | None:
        """Removes and returns the dial with this session ID; None: there is none."""
        dial = self._dials.pop(session_id, None)
        if dial is not None and dial.expected is not None:
            self._dials_per_peer[dial.expected] -= 1
            if not self._dials_per_peer[dial.expected]:
                del self._dials_per_peer[dial.expected]
        return dial

    def sessions_dialing(self, address: Address) -> list[bytes]:
        """Session IDs of the pending dials of `address`."""
        return [each for each, dial in self._dials.items() if dial.address == address]

    def cancel_dials(self) -> None:
        """Ends all dials."""
        self._dials.clear()
        self._dials_per_peer.clear()

    def expired_dials(self, now: float) -> list[bytes]:
        """Session IDs of the dials that have timed out, for the caller to end."""
        return [session_id for session_id, dial in self._dials.items() if dial.is_expired(now)]

    def transmit(self, now: float) -> list[tuple[bytes, Address]]:
        """Returns the datagrams of dials that are due."""
        datagrams: list[tuple[bytes, Address]] = []
        for dial in self._dials.values():
            try:
                datagrams += [(datagram, dial.address) for datagram in dial.transmit(now)]
            except Exception as error:  # noqa: BLE001  only this dial ends
                self._internal_errors.append(DialError(dial, error))
        return datagrams

    @property
    def has_internal_errors(self) -> bool:
        """Whether `take_internal_errors` has something to return."""
        return bool(self._internal_errors)

    def take_internal_errors(self) -> list[DialError]:
        """Returns the exceptions of dials since the last call."""
        errors, self._internal_errors = self._internal_errors, []
        return errors

    # --- both -----------------------------------------------------------------------------------

    def on_initial(
        self,
        packet: codec.Hello | codec.Proof,
        datagram: bytes,
        source: Address,
        record: PeerRecord,
        now: float,
        *,
        exempt: bool,
    ) -> bytes:
        """Returns the answer to a packet of an unauthenticated peer. Raises Dropped."""
        return self._responder.receive(packet, datagram, source, record, now, exempt=exempt)

    def confirm_initiated(
        self, packet: codec.Data, source: Address, now: float
    ) -> ConfirmedDial | None:
        """Confirms a session that this node initiated by its first packet. Raises Dropped."""
        dial = self._dials.get(packet.session_id)
        if dial is None:
            return None
        established = dial.confirm(packet, source, now)
        self.end_dial(packet.session_id)
        return ConfirmedDial(dial, established)

    def confirm_accepted(
        self, packet: codec.Data, source: Address, now: float
    ) -> EstablishedSession | None:
        """Confirms a session that the peer initiated by its first packet. Raises Dropped."""
        return self._responder.confirm(packet, source, now)

    @property
    def evicted(self) -> int:
        """Unconfirmed sessions that were evicted because too many waited for their first packet."""
        return self._responder.evicted

    @property
    def deadline(self) -> float:
        deadline = self._responder.deadline
        for dial in self._dials.values():
            deadline = min(deadline, dial.deadline)
        return deadline

    def advance(self, now: float) -> None:
        """Removes the state of expired unconfirmed sessions."""
        self._responder.advance(now)
