"""Handshakes that are not done yet: those that this node began, and those of strangers.

What must stay true:

- At most `limits.dials` of ours at a time, but for rekeys, of which a link has one at most; what is
  kept for strangers is bounded by the link's `Responder`.
- A dial ends once: its session is live, it was refused for good, or its time is over.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

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


class DialError(NamedTuple):
    """A bug that showed while a dial was served."""

    dial: Initiator
    error: Exception


class ConfirmedDial(NamedTuple):
    """A dial and the session that it led to."""

    dial: Initiator
    established: EstablishedSession


class Handshakes:
    """Both ends' beginnings. Driven by packets that no live session claims, and by `deadline`."""

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
        self._dials: dict[bytes, Initiator] = {}  # by session
        self._dials_per_peer: Counter[PeerId] = Counter()  # how many of them are for whom
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
        """Settings changed: sessions that they forbid and that are not confirmed yet end."""
        config = self._config.current
        self._responder.reconfigure(config.keys, config.limits, config.denied, now)

    # --- ours -----------------------------------------------------------------------------------

    def __len__(self) -> int:
        """How many of ours go on."""
        return len(self._dials)

    @property
    def can_dial(self) -> bool:
        """Whether another dial may begin."""
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
    ) -> None:
        """Dials `address`; a peer that proves the cluster key receives our `record`."""
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
            entropy=self._entropy,
            rng=self._rng,
            now=now,
        )
        self._dials[initiator.session_id] = initiator
        if expected is not None:
            self._dials_per_peer[expected] += 1

    def is_dialing(self, peer_id: PeerId) -> bool:
        """Whether one of ours is for this peer: its other end keeps one unconfirmed session of us, so
        that of two at once the newer would end the other."""
        return peer_id in self._dials_per_peer

    def rekey(self, link: Link, record: PeerRecord, now: float, purpose: DialPurpose) -> None:
        """A fresh handshake beside the session, which goes on until the new one is live."""
        if not self.is_dialing(link.peer_id):
            self.dial(link.address, link.peer_id, record, now, purpose)

    def on_response(
        self, packet: codec.Challenge | codec.Welcome, datagram: bytes, source: Address, now: float
    ) -> Initiator:
        """Whom we dialled answers; gives the dial. Raises Refused."""
        dial = self._dials.get(packet.session_id)
        if dial is None:
            raise Dropped(DropReason.UNEXPECTED)
        dial.receive(packet, datagram, source, now)
        return dial

    def end_dial(self, session_id: bytes) -> Initiator | None:
        """The dial of ours under this session, which goes on no longer; None: there is none."""
        dial = self._dials.pop(session_id, None)
        if dial is not None and dial.expected is not None:
            self._dials_per_peer[dial.expected] -= 1
            if not self._dials_per_peer[dial.expected]:
                del self._dials_per_peer[dial.expected]
        return dial

    def sessions_dialing(self, address: Address) -> list[bytes]:
        """Sessions of our dials of `address`."""
        return [each for each, dial in self._dials.items() if dial.address == address]

    def cancel_dials(self) -> None:
        """Give up all dials."""
        self._dials.clear()
        self._dials_per_peer.clear()

    def expired_dials(self, now: float) -> list[bytes]:
        """Sessions of dials whose time is over, to be ended."""
        return [session_id for session_id, dial in self._dials.items() if dial.is_expired(now)]

    def transmit(self, now: float) -> list[tuple[bytes, Address]]:
        """What our dials have to say now."""
        datagrams: list[tuple[bytes, Address]] = []
        for dial in self._dials.values():
            try:
                datagrams += [(datagram, dial.address) for datagram in dial.transmit(now)]
            except Exception as error:  # noqa: BLE001  of this dial alone: the others go on
                self._internal_errors.append(DialError(dial, error))
        return datagrams

    @property
    def has_internal_errors(self) -> bool:
        """Whether `take_internal_errors` has something to return."""
        return bool(self._internal_errors)

    def take_internal_errors(self) -> list[DialError]:
        """Returns the errors that dials met since the last call."""
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
        """What a stranger gets for an answer. Raises Refused."""
        return self._responder.receive(packet, datagram, source, record, now, exempt=exempt)

    def confirm_initiated(
        self, packet: codec.Data, source: Address, now: float
    ) -> ConfirmedDial | None:
        """The first packet of a session that we dialled for makes it live. Raises Refused."""
        dial = self._dials.get(packet.session_id)
        if dial is None:
            return None
        established = dial.confirm(packet, source, now)
        self.end_dial(packet.session_id)
        return ConfirmedDial(dial, established)

    def confirm_accepted(
        self, packet: codec.Data, source: Address, now: float
    ) -> EstablishedSession | None:
        """The same of a session that a stranger began. Raises Refused."""
        return self._responder.confirm(packet, source, now)

    @property
    def evicted(self) -> int:
        """Strangers' sessions given up because too many waited for their first packet."""
        return self._responder.evicted

    @property
    def deadline(self) -> float:
        deadline = self._responder.deadline
        for dial in self._dials.values():
            deadline = min(deadline, dial.deadline)
        return deadline

    def advance(self, now: float) -> None:
        """Forget strangers that did not come back."""
        self._responder.advance(now)
