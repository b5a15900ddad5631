"""Handshakes that are not done yet: those that this node began, and those of strangers.

What must stay true:

- At most `limits.dials` of ours at a time, but for rekeys, of which a link has one at most; what is
  kept for strangers is bounded by the link's `Responder`.
- A dial ends once: its session is live, it was refused for good, or its time is over.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable

from grapevine_proto import codec
from grapevine_proto.config import NodeConfig
from grapevine_proto.errors import DropReason, Refused
from grapevine_proto.identity import Identity
from grapevine_proto.ids import Address, PeerId
from grapevine_proto.link.initiator import Initiator
from grapevine_proto.link.link import Link
from grapevine_proto.link.responder import Responder
from grapevine_proto.link.session import Established
from grapevine_proto.signed import Record


class Handshakes:
    """Both ends' beginnings. Driven by packets that no live session claims, and by `deadline`."""

    def __init__(
        self,
        config: NodeConfig,
        identity: Identity,
        *,
        refuses: Callable[[PeerId, float], bool] | None = None,
        rng: random.Random,
        entropy: Callable[[int], bytes],
        now: float,
    ) -> None:
        self._config = config
        self._identity = identity
        self._rng = rng
        self._entropy = entropy
        self._dials: dict[bytes, Initiator] = {}  # by session
        self._expected: Counter[PeerId] = Counter()  # how many of them are for whom
        self.faults: list[tuple[Initiator, Exception]] = []  # of dials, for the owner to end them
        self._responder = Responder(
            identity,
            config.keys,
            config.cluster,
            config.limits,
            config.denied,
            refuses=refuses,
            entropy=entropy,
            now=now,
        )

    def reconfigure(self, config: NodeConfig, now: float) -> None:
        self._config = config
        self._responder.reconfigure(config.keys, config.limits, config.denied, now)

    # --- ours -----------------------------------------------------------------------------------

    def __len__(self) -> int:
        """How many of ours go on."""
        return len(self._dials)

    @property
    def has_room(self) -> bool:
        """Whether another dial may begin."""
        return len(self._dials) < self._config.limits.dials

    def begin(
        self,
        address: Address,
        expected: PeerId | None,
        record: Record,
        now: float,
        *,
        is_asking: bool = False,
        is_short: bool = False,
        instead: Record | None = None,
        nearer_than_s: float = math.inf,
        hellos: int | None = None,
    ) -> None:
        """Knock at `address`, saying `record` of ourselves to whoever knows the key. `instead`: only for
        a link nearer than so much, for which this one goes."""
        dial = Initiator(
            self._identity,
            self._config.keys[0],
            self._config.cluster,
            address,
            record,
            expected=expected,
            is_asking=is_asking,
            is_short=is_short,
            instead=instead,
            nearer_than_s=nearer_than_s,
            hellos=hellos,
            timeout_s=self._config.connection_timeout,
            entropy=self._entropy,
            rng=self._rng,
            now=now,
        )
        self._dials[dial.session_id] = dial
        if expected is not None:
            self._expected[expected] += 1

    def is_dialling(self, peer_id: PeerId) -> bool:
        """Whether one of ours is for this peer: its other end keeps one unconfirmed session of us, so
        that of two at once the newer would end the other."""
        return peer_id in self._expected

    def rekey(self, link: Link, record: Record, now: float, *, is_short: bool = False) -> None:
        """A fresh handshake beside the session, which goes on until the new one is live."""
        if not self.is_dialling(link.peer_id):
            self.begin(link.address, link.peer_id, record, now, is_short=is_short)

    def answer(
        self, packet: codec.Challenge | codec.Welcome, datagram: bytes, source: Address, now: float
    ) -> Initiator:
        """Whom we dialled answers; gives the dial. Raises Refused."""
        dial = self._dials.get(packet.session_id)
        if dial is None:
            raise Refused(DropReason.UNEXPECTED)
        dial.receive(packet, datagram, source, now)
        return dial

    def end(self, session_id: bytes) -> Initiator | None:
        """The dial of ours under this session, which goes on no longer; None: there is none."""
        dial = self._dials.pop(session_id, None)
        if dial is not None and dial.expected is not None:
            self._expected[dial.expected] -= 1
            if not self._expected[dial.expected]:
                del self._expected[dial.expected]
        return dial

    def dials_of(self, address: Address) -> list[bytes]:
        """Sessions of our dials of `address`."""
        return [each for each, dial in self._dials.items() if dial.address == address]

    def clear(self) -> None:
        """Give up all dials."""
        self._dials.clear()
        self._expected.clear()

    def expired(self, now: float) -> list[bytes]:
        """Sessions of dials whose time is over, to be ended."""
        return [session_id for session_id, dial in self._dials.items() if dial.is_expired(now)]

    def transmit(self, now: float) -> list[tuple[bytes, Address]]:
        """What our dials have to say now."""
        datagrams: list[tuple[bytes, Address]] = []
        for dial in self._dials.values():
            try:
                datagrams += [(datagram, dial.address) for datagram in dial.transmit(now)]
            except Exception as fault:  # noqa: BLE001  of this dial alone: the others go on
                self.faults.append((dial, fault))
        return datagrams

    # --- both -----------------------------------------------------------------------------------

    def welcome(
        self,
        packet: codec.Hello | codec.Proof,
        datagram: bytes,
        source: Address,
        record: Record,
        now: float,
        *,
        exempt: bool,
    ) -> bytes:
        """What a stranger gets for an answer. Raises Refused."""
        return self._responder.receive(packet, datagram, source, record, now, exempt=exempt)

    def confirm_ours(
        self, packet: codec.Data, source: Address, now: float
    ) -> tuple[Initiator, Established] | None:
        """The first packet of a session that we dialled for makes it live. Raises Refused."""
        dial = self._dials.get(packet.session_id)
        if dial is None:
            return None
        established = dial.confirm(packet, source, now)
        self.end(packet.session_id)
        return dial, established

    def confirm_theirs(self, packet: codec.Data, source: Address, now: float) -> Established | None:
        """The same of a session that a stranger began. Raises Refused."""
        return self._responder.confirm(packet, source, now)

    @property
    def crowded_out(self) -> int:
        """Strangers' sessions given up because too many waited for their first packet."""
        return self._responder.crowded_out

    @property
    def deadline(self) -> float:
        deadline = self._responder.deadline
        for dial in self._dials.values():
            deadline = min(deadline, dial.deadline)
        return deadline

    def advance(self, now: float) -> None:
        """Forget strangers that did not come back."""
        self._responder.advance(now)
