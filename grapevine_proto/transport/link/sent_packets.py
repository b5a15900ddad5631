"""Ack-eliciting packets in flight on one link (RFC 9002, appendix A.1).

Invariants:

- Every ack-eliciting packet is tracked in sending order until an ACK resolves it. The congestion window,
  which the sender respects, bounds how many there are.
- An ACK resolves every packet below its end: one that it reports missing, or that is below its start, is
  lost.
- Packets of `NON_ACK_ELICITING_KINDS` are not tracked, so ACKs are not acknowledged and an idle link goes
  quiet.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterator
from operator import attrgetter
from typing import Final, NamedTuple, TypeAlias

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
        Kind.PIGGYBACKED_ACK,
        Kind.PATH_CHALLENGE,
        Kind.PATH_RESPONSE,
        Kind.RELAYED,
    }
)
"""Kinds that are neither acknowledged nor retransmitted. The next heartbeat supersedes a lost one, and
several peers send the same IDs, member updates and digests, so ACKs would cost more datagrams than they
save. The ends of a relayed session acknowledge for themselves. The message of a `PIGGYBACKED_ACK` counts by
its own kind."""

PacketContent: TypeAlias = bytes | FragmentedMessage | Retransmission | None  # None: an MTU probe


class SentPacket(NamedTuple):
    """A packet in flight. `start` and `end` are offsets in a fragmented message; `attempts` is how often the
    content was lost before."""

    number: int
    sent_at: float
    size_bytes: int
    content: PacketContent
    start: int
    end: int
    attempts: int


_PACKET_NUMBER: Final = attrgetter("number")
_EMPTY_DEQUE: Final[deque[SentPacket]] = deque()  # shared by idle links: a deque takes 700 bytes


class SentPackets:
    """The packets in flight, oldest first, and their total `size_bytes`."""

    __slots__ = ("_packets", "size_bytes")

    def __init__(self) -> None:
        self._packets = _EMPTY_DEQUE
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._packets)

    def __iter__(self) -> Iterator[SentPacket]:
        return iter(self._packets)

    def add(self, packet: SentPacket) -> None:
        """Adds a sent packet. Its number must be above all others."""
        if self._packets is _EMPTY_DEQUE:
            self._packets = deque()
        self._packets.append(packet)
        self.size_bytes += packet.size_bytes

    @property
    def latest(self) -> SentPacket:
        """The packet sent last; there must be one."""
        return self._packets[-1]

    def pop_latest(self) -> SentPacket:
        """Removes and returns the latest packet."""
        packet = self._packets.pop()
        self.size_bytes -= packet.size_bytes
        return packet

    def pop_all(self) -> list[SentPacket]:
        """Removes and returns all packets, oldest first."""
        packets = list(self._packets)
        self._packets = _EMPTY_DEQUE
        self.size_bytes = 0
        return packets

    def on_ack(self, ack: Ack) -> tuple[list[SentPacket], list[SentPacket]]:
        """Removes the packets that `ack` resolves. Returns the acknowledged and the lost ones."""
        packets = self._packets
        acked: list[SentPacket] = []
        lost: list[SentPacket] = []
        ranges = iter(ack.missing)
        low, high = next(ranges, (ack.end, ack.end))
        while packets and packets[0].number < ack.end:
            packet = packets.popleft()
            self.size_bytes -= packet.size_bytes
            number = packet.number
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
        """When packet `number` was sent; None if it is not in flight."""
        packets = self._packets
        # no linear scan: the peer chooses the number
        index = bisect_left(packets, number, key=_PACKET_NUMBER)
        is_found = index < len(packets) and packets[index].number == number
        return packets[index].sent_at if is_found else None
