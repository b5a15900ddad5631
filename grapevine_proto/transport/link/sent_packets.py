"""Packets with content that are on their way on one link, and what reports tell of them.

What must stay true:

- Every packet that carries content is remembered, in the order in which they went, until its arrival
  is told; what is remembered is bounded by the controller's window, which who sends keeps to.
- A report resolves all that it reaches: what it names as missing, or no longer speaks of, is lost.
- Only content is remembered: feedback, heartbeats, ids and empty packets are answered by nothing.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterator
from operator import itemgetter
from typing import Final, TypeAlias

from grapevine_proto.transport.link.fragments import FragmentedMessage
from grapevine_proto.transport.link.send_queues import Retransmission
from grapevine_proto.wire.messages import Ack, Kind

NON_ACK_ELICITING_KINDS: Final = frozenset(
    {
        Kind.CONFIRM,
        Kind.NEIGHBOR_REQUEST,
        Kind.SWAP_REQUEST,
        Kind.OPEN_TRANSIENT,
        Kind.CLOSE,
        Kind.HEARTBEAT,
        Kind.DIGEST,
        Kind.IN_SYNC,
        Kind.IHAVE,
        Kind.MEMBER_UPDATES,
        Kind.MEMBER_DIGEST,
        Kind.PAUSE,
        Kind.ACK,
        Kind.PATH_CHALLENGE,
        Kind.PATH_RESPONSE,
    }
)
"""What asks for no report and is not sent again: what an idle link says, for the next one says more; ids,
opinions and rolls, told by several peers: reports of them would cost more datagrams than they save."""

PacketContent: TypeAlias = (
    bytes | FragmentedMessage | Retransmission | None
)  # None: a probe of the path
SentPacket: TypeAlias = tuple[int, float, int, PacketContent, int, int, int]
"""Number, when it was sent, its bytes, what it carries, from where and up to where (of a large message),
and how often that was lost before."""


_PACKET_NUMBER: Final = itemgetter(0)
_EMPTY_DEQUE: Final[deque[SentPacket]] = (
    deque()
)  # stands for a deque while there is none: 700 bytes a link


class SentPackets:
    """The packets, the oldest first, and their `size_bytes`."""

    __slots__ = ("_packets", "size_bytes")

    def __init__(self) -> None:
        self._packets = _EMPTY_DEQUE
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._packets)

    def __iter__(self) -> Iterator[SentPacket]:
        return iter(self._packets)

    def add(self, packet: SentPacket) -> None:
        """It went; its number is above all others."""
        if self._packets is _EMPTY_DEQUE:
            self._packets = deque()
        self._packets.append(packet)
        self.size_bytes += packet[2]

    def pop_latest(self) -> SentPacket:
        """The latest, which is no longer waited for."""
        packet = self._packets.pop()
        self.size_bytes -= packet[2]
        return packet

    def pop_all(self) -> list[SentPacket]:
        """All of them: none is waited for any more."""
        packets = list(self._packets)
        self._packets = _EMPTY_DEQUE
        self.size_bytes = 0
        return packets

    def on_ack(self, ack: Ack) -> tuple[list[SentPacket], list[SentPacket]]:
        """What arrived and what is lost, as the peer tells; neither is waited for any more."""
        packets = self._packets
        acked: list[SentPacket] = []
        lost: list[SentPacket] = []
        ranges = iter(ack.missing)
        low, high = next(ranges, (ack.end, ack.end))
        while packets and packets[0][0] < ack.end:
            packet = packets.popleft()
            self.size_bytes -= packet[2]
            number = packet[0]
            while number > high:
                low, high = next(ranges, (ack.end, ack.end))
            if number < ack.first or number >= low:
                lost.append(packet)
            else:
                acked.append(packet)
        if not packets:
            self._packets = _EMPTY_DEQUE
        return acked, lost

    def sent_at(self, number: int) -> float | None:
        """When this packet went, if it is still waited for."""
        packets = self._packets
        index = bisect_left(
            packets, number, key=_PACKET_NUMBER
        )  # the peer chooses the number: no scan
        is_found = index < len(packets) and packets[index][0] == number
        return packets[index][1] if is_found else None
