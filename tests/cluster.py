"""A few engines on a lossless network, and link ends that send what no honest node would.

Invariants: everything happens at the time that the test sets; no datagram is lost.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.engine import Engine, NodeState
from grapevine_proto.errors import DropReason
from grapevine_proto.events import Event, InternalErrorContained, MessageReceived
from grapevine_proto.ids import Address
from grapevine_proto.transport.link.link import Link
from grapevine_proto.transport.session import session as session_module
from grapevine_proto.transport.session.session import Session
from grapevine_proto.wire import codec
from grapevine_proto.wire.codec import encode_data
from grapevine_proto.wire.messages import Frame, OverlayMessage
from tests.proto.overlay.builders import EPOCH, KEY, identity
from tests.turn import take_turn


def address_of(number: int) -> Address:
    return Address(f"10.0.0.{number}", 8000)


def seal_as(session: Session, counter: int, plaintext: bytes) -> bytes:
    """Returns a packet of `session` under any packet number, as a misbehaving end could send it."""
    nonce = session._seal_prefix + (counter << 48).to_bytes(14, "big")
    box = session_module._seal(plaintext, nonce, session._seal_key)
    return encode_data(session.their_id, counter, box)


class Cluster:
    """Engines 1 to `size`, each linked to the first. Datagrams are delivered at once."""

    def __init__(self, size: int, *, linked: bool = True, **changes: object) -> None:
        self.now = 0.0
        self.engines: dict[Address, Engine] = {}
        self.events: dict[Engine, list[Event]] = {}
        self.on_send: Callable[[Address, Address, bytes], bool] = lambda *_: True
        for number in range(1, size + 1):
            known = [str(address_of(1))] if linked and number > 1 else []
            self.add(number, bootstrap_peers=known, **changes)
        if linked:
            self.run(1.0)

    def add(self, number: int, **changes: object) -> Engine:
        rng = random.Random(number)
        engine = Engine(
            NodeConfig(keys=(KEY,)).replace(**changes),
            NodeState(identity(number).seed, EPOCH),
            address=address_of(number),
            rng=rng,
            entropy=rng.randbytes,
            now=self.now,
        )
        self.engines[address_of(number)] = engine
        self.events[engine] = []
        return engine

    def __getitem__(self, number: int) -> Engine:
        return self.engines[address_of(number)]

    def link(self, of: int, to: int) -> Link:
        """Returns the end of the link at engine `of`."""
        return self[of]._transport.links[self[to].peer_id]

    def exchange(self) -> None:
        """Delivers datagrams until no engine has more to send."""
        while True:
            sent = [
                (source, to, datagram)
                for source, engine in self.engines.items()
                for datagram, to in take_turn(engine, self.now)
            ]
            for engine, seen in self.events.items():
                seen += engine.events()
            if not sent:
                return
            for source, to, datagram in sent:
                if self.on_send(source, to, datagram) and to in self.engines:
                    self.engines[to].receive(datagram, source, self.now)

    def run(self, seconds: float, step: float = 0.05) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now = round(self.now + step, 6)
            self.exchange()

    def inject(self, of: int, to: int, message: OverlayMessage | Frame | bytes) -> None:
        """Sends any message from engine `of` to `to`, as a malicious member could."""
        plaintext = message if isinstance(message, bytes) else codec.encode_message(message)
        datagram = self.link(of, to).session.seal(plaintext, self.now)
        self[to].receive(datagram, address_of(of), self.now)

    def received(self, number: int) -> list[bytes]:
        return [
            each.message.payload
            for each in self.events[self[number]]
            if isinstance(each, MessageReceived)
        ]

    def internal_errors(self, number: int) -> list[InternalErrorContained]:
        return [e for e in self.events[self[number]] if isinstance(e, InternalErrorContained)]

    def drops(self, number: int) -> dict[DropReason, int]:
        return dict(self[number].stats().dropped)
