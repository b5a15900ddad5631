"""Transports without an overlay, and the network between them, for tests.

Invariants: datagrams are delivered at once and in order, unless `Network.is_lost` says otherwise; only
`Network.run` advances time.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from grapevine_proto.config.live import LiveConfig
from grapevine_proto.config.node import NodeConfig
from grapevine_proto.dial_purpose import LINK, DialPurpose
from grapevine_proto.errors import DropReason
from grapevine_proto.events import Message, Via
from grapevine_proto.ids import Address, MessageId, PeerId
from grapevine_proto.transport.events import Notify, SessionReady, TransportEvent
from grapevine_proto.transport.link.link import Link
from grapevine_proto.transport.transport import SendOutcome, Transport
from grapevine_proto.wire import codec
from grapevine_proto.wire.messages import Frame, OverlayMessage
from grapevine_proto.wire.signed import PeerRecord
from tests.proto.overlay.builders import EPOCH, KEY, identity, record

EventT = TypeVar("EventT")


def address_of(number: int) -> Address:
    return Address(f"10.0.0.{number}", 8000)


class View:
    """What a transport reads of the overlay, as plain values."""

    def __init__(self, own: PeerRecord) -> None:
        self.record = own
        self.has_unclaimed = False
        self.records: dict[PeerId, PeerRecord] = {}
        self.addresses: dict[PeerId, Address] = {}
        self.more_addresses: dict[PeerId, tuple[Address, ...]] = {}
        self.introducers: dict[PeerId, tuple[PeerId, ...]] = {}
        self.suggested: tuple[PeerRecord, ...] = ()

    def record_of(self, peer_id: PeerId) -> PeerRecord | None:
        return self.records.get(peer_id)

    def addresses_of(self, peer_id: PeerId) -> tuple[Address, ...]:
        address = self.addresses.get(peer_id)
        return () if address is None else (address, *self.more_addresses.get(peer_id, ()))

    def introducers_of(self, peer_id: PeerId) -> tuple[PeerId, ...]:
        return self.introducers.get(peer_id, ())

    def referrals(self, peer_id: PeerId) -> tuple[PeerRecord, ...]:
        return self.suggested


class TransportNode:
    """A transport, the events that it reported, and an engine that accepts sessions while `has_room`."""

    def __init__(self, number: int, epoch: int = EPOCH, now: float = 0.0, **changes: Any) -> None:
        self.number = number
        self.address = address_of(number)
        self.config = LiveConfig(NodeConfig(keys=(KEY,)).replace(**changes))
        self.view = View(record(number, epoch=epoch))
        rng = random.Random(f"{number} {epoch}")
        self.transport = Transport(
            self.config, identity(number), self.view, rng=rng, entropy=rng.randbytes, now=now
        )
        self.events: list[TransportEvent] = []
        self.has_room = True
        self.now = now

    def reconfigure(self, **changes: Any) -> None:
        """Changes settings."""
        self.config.replace(self.config.current.replace(**changes))
        self.take(self.transport.reconfigure(self.now))

    @property
    def peer_id(self) -> PeerId:
        return self.view.record.peer_id

    def dial(self, address: Address, peer_id: PeerId | None, purpose: DialPurpose = LINK) -> None:
        """Begins a dial, and acts on what it causes at once."""
        self.take(self.transport.dial(address, peer_id, purpose, self.now))

    def take(self, events: Iterable[TransportEvent]) -> None:
        """Acts on events one by one, as an engine does."""
        for event in events:
            self.events.append(event)
            if isinstance(event, SessionReady):
                if self.has_room:
                    self.take(self.transport.accept(event.established, self.now))
                else:
                    self.transport.refuse(event.established, self.now)

    def reported(self, kind: type[EventT]) -> list[EventT]:
        """The events of one type."""
        return [event for event in self.events if isinstance(event, kind)]

    def notified(self, kind: type[EventT]) -> list[EventT]:
        """The events of one type for the application."""
        events = [each.event for each in self.reported(Notify)]
        return [event for event in events if isinstance(event, kind)]

    def dropped(self, reason: DropReason) -> int:
        return dict(self.transport.drops.by_reason()).get(reason, 0)

    def link_to(self, other: TransportNode) -> Link:
        return self.transport.links[other.peer_id]


class Network:
    """Nodes 1 to `size`, which know each other's addresses, and the datagrams between them."""

    def __init__(self, size: int = 2, **changes: Any) -> None:
        self.now = 0.0
        self.nodes: dict[Address, TransportNode] = {}
        self.is_lost: Callable[[bytes, Address, Address], bool] = lambda *_: False
        self.log: list[tuple[bytes, Address, Address]] = []
        for number in range(1, size + 1):
            self._add(TransportNode(number, **changes))

    def add(self, number: int, *, epoch: int = EPOCH) -> TransportNode:
        """Adds a node, or replaces one by another run of it."""
        return self._add(TransportNode(number, epoch=epoch, now=self.now))

    def _add(self, node: TransportNode) -> TransportNode:
        self.nodes[node.address] = node
        for each in self.nodes.values():
            each.view.addresses[node.peer_id] = node.address
            node.view.addresses[each.peer_id] = each.address
        return node

    def __getitem__(self, number: int) -> TransportNode:
        return self.nodes[address_of(number)]

    def dial(self, of: int, to: int, purpose: DialPurpose = LINK) -> None:
        node = self[of]
        node.now = self.now
        node.dial(address_of(to), self[to].peer_id, purpose)
        self.exchange()

    def send_direct(self, of: int, to: int, payload: bytes) -> SendOutcome:
        """Sends a message of the application, without delivering anything yet."""
        node = self[of]
        message_id = MessageId(node.peer_id, EPOCH, 1, is_direct=True)
        message = Message(
            message_id, payload, 0, Via.LOCAL, self.now, is_direct=True, to=self[to].peer_id
        )
        return node.transport.send_direct(self[to].peer_id, message, self.now)

    def open_transient(self, of: int, to: int) -> Link:
        """Opens a transient session; returns the link at `of`."""
        assert self.send_direct(of, to, b"open") is SendOutcome.QUEUED
        self.exchange()
        link = self[of].transport.transients.get(self[to].peer_id)
        assert link is not None
        return link

    def seal(
        self, of: int, to: int, message: OverlayMessage | Frame | bytes, link: Link | None = None
    ) -> bytes:
        """Any message as a datagram from node `of` to `to`, on their link or on `link`."""
        plaintext = message if isinstance(message, bytes) else codec.encode_message(message)
        link = link or self[of].link_to(self[to])
        return link.session.seal(plaintext, self.now)

    def inject(
        self, of: int, to: int, message: OverlayMessage | Frame | bytes, link: Link | None = None
    ) -> None:
        """Delivers any message from node `of` to `to`, as a malicious member could send it."""
        self.deliver(self.seal(of, to, message, link), of, to)

    def deliver(self, datagram: bytes, of: int, to: int) -> None:
        node = self[to]
        node.now = self.now
        node.take(node.transport.receive(datagram, address_of(of), self.now))

    def exchange(self) -> None:
        """Delivers datagrams until no node has more to send."""
        while True:
            sent = [
                (datagram, source, to)
                for source, node in self.nodes.items()
                for datagram, to in self._collect(node)
            ]
            if not sent:
                return
            self.log += sent
            for datagram, source, to in sent:
                if to in self.nodes and not self.is_lost(datagram, source, to):
                    node = self.nodes[to]
                    node.now = self.now
                    node.take(node.transport.receive(datagram, source, self.now))

    def _collect(self, node: TransportNode) -> list[tuple[bytes, Address]]:
        datagrams = node.transport.datagrams_to_send(self.now)
        while node.transport.has_pending_errors:
            node.take(node.transport.contain_pending_errors(self.now))
            datagrams += node.transport.datagrams_to_send(self.now)
        return datagrams

    def run(self, seconds: float) -> None:
        """Advances time from one deadline to the next."""
        until = self.now + seconds
        self.exchange()
        while (next_at := min(node.transport.deadline for node in self.nodes.values())) <= until:
            self.now = max(self.now, next_at)
            for node in self.nodes.values():
                node.now = self.now
                if node.transport.deadline <= self.now:
                    node.take(node.transport.expire_dials(self.now))
                    node.take(node.transport.advance(self.now))
            self.exchange()
        self.now = until


def linked(**changes: Any) -> tuple[Network, TransportNode, TransportNode]:
    """Two nodes with a link that the first dialed."""
    network = Network(2, **changes)
    network.dial(1, 2)
    for node in network.nodes.values():
        node.events.clear()
    return network, network[1], network[2]


def linked_to_two(**changes: Any) -> tuple[Network, TransportNode]:
    """Node 1 with links to nodes 2 and 3, which it dialed."""
    network = Network(3, **changes)
    for number in (2, 3):
        network.dial(1, number)
    for node in network.nodes.values():
        node.events.clear()
    return network, network[1]


def transiently_linked(**changes: Any) -> tuple[Network, TransportNode, TransportNode]:
    """Two nodes with a transient session that the first opened."""
    network = Network(2, **changes)
    network.open_transient(1, 2)
    for node in network.nodes.values():
        node.events.clear()
    return network, network[1], network[2]
