"""Loss recovery on one link: what reports and silence say of packets, and what goes out again for it.

What must stay true:

- What is lost goes out again, under a new number, a bounded number of times; then it is let go, and
  counted, and anti-entropy takes over.
- Silence is answered with probes, the content of the last packets again, whatever the pacer and the
  window say; probes grow rarer, and end.
- What the peer has of our own rumors is told (`acked_rumors`) once, when all of it has arrived.
"""

from __future__ import annotations

import math
from typing import Final

from grapevine_proto.transport.link.fragments import FragmentedMessage
from grapevine_proto.transport.link.mtud import BASE_PLPMTU_BYTES
from grapevine_proto.transport.link.path import Path
from grapevine_proto.transport.link.send_queues import (
    CONTROL,
    RANK_OF_KIND,
    FragmentRetransmission,
    Retransmission,
    SendQueues,
)
from grapevine_proto.transport.link.sent_packets import PacketContent, SentPacket, SentPackets
from grapevine_proto.wire.codec import TrackedBytes
from grapevine_proto.wire.messages import Ack

RETRANSMISSIONS_LIMIT: Final = 16  # of one content: at 30 % loss one in 200 million goes under
PTO_LIMIT: Final = 12  # in a row without an answer: about ten seconds
PTOS_BEFORE_BACKOFF: Final = 2  # before the pauses between them grow: any of it may be random loss
PTO_PACKETS: Final = 2  # so that both must be lost (RFC 9002, 6.2.4)
PERSISTENT_PTOS: Final = 4  # from then on it may be the rate, or the size
MAX_PTO_S: Final = 2.0  # between two of them, so that the end of an outage is noticed


class Recovery:
    """`sent_packets` is what is on its way; what of it is lost goes back to the queues. `pto_at` is when
    silence will be taken for loss; `pto_credit` how many packets may go then whatever pacer and
    window say. `packets_lost` counts packets, `abandoned` contents given up."""

    __slots__ = (
        "_path",
        "_pto_count",
        "_queues",
        "abandoned",
        "acked_rumors",
        "packets_lost",
        "pto_at",
        "pto_credit",
        "sent_packets",
    )

    def __init__(self, path: Path, queues: SendQueues) -> None:
        self._path = path
        self._queues = queues
        self._pto_count = 0
        self.sent_packets = SentPackets()
        self.pto_at = math.inf
        self.pto_credit = 0
        self.packets_lost = self.abandoned = 0
        self.acked_rumors: list[tuple[int, int]] = []

    def on_sent(self, packet: SentPacket) -> None:
        """`packet` is on its way."""
        self.sent_packets.add(packet)
        if self.pto_credit:
            self.pto_credit -= 1
        if not self._pto_count:
            self.pto_at = packet[1] + self._path.rtt.pto_s

    def clear(self) -> None:
        """Nothing of what is on its way matters any more."""
        self.sent_packets.pop_all()
        self.pto_at, self._pto_count = math.inf, 0

    # --- reports --------------------------------------------------------------------------------

    def on_ack(self, ack: Ack, now: float) -> None:
        """The peer tells what arrived of the packets of the session that we send on."""
        path = self._path
        acked, lost = self.sent_packets.on_ack(ack)
        acked_bytes = large_acked = 0
        for number, sent_at, size_bytes, content, start, end, _ in acked:
            acked_bytes += size_bytes
            large_acked += size_bytes > BASE_PLPMTU_BYTES
            if number == ack.latest:
                path.rtt.on_sample(now - sent_at - ack.delay_us / 1e6, now)
            if content is None:
                path.mtu.on_probe_acked(end)
            elif type(content) is not bytes:
                self._on_content_acked(content, end - start)
        # The latest may have come beyond what is told of, while others are overdue.
        latest_sent_at = self.sent_packets.sent_at(ack.latest)
        if latest_sent_at is not None:
            path.rtt.on_sample(now - latest_sent_at - ack.delay_us / 1e6, now)
        reported_lost = [each for each in lost if each[3] is not None and each[0] >= ack.first]
        path.mtu.on_ack(large_acked, sum(packet[2] > BASE_PLPMTU_BYTES for packet in reported_lost))
        for packet in reversed(lost):
            self._on_lost(packet, ack.session_id, now)
        if acked or lost:  # else it tells of what was sent again since: we ask too soon
            self._pto_count = 0
            self.pto_at = now + path.rtt.pto_s if self.sent_packets else math.inf
            latest_acked_sent_at = acked[-1][1] if acked else -math.inf
            path.on_ack(len(acked), acked_bytes, len(reported_lost), latest_acked_sent_at, now)
        else:
            path.on_rtt()

    def _on_content_acked(
        self, content: bytes | FragmentedMessage | Retransmission, size_bytes: int
    ) -> None:
        """A packet arrived that carried this, or so many bytes of it: what it told of ours is taken."""
        if isinstance(content, Retransmission):
            content = content.plaintext
        elif isinstance(content, FragmentedMessage):
            content.acked_bytes += size_bytes
            if content.acked_bytes == len(content):
                self.acked_rumors += content.rumor_keys
            return
        if isinstance(content, TrackedBytes):
            self.acked_rumors += content.rumor_keys

    # --- loss -----------------------------------------------------------------------------------

    def retransmit_all(self, session_id: bytes, now: float) -> None:
        """We send on another session from now on: what is on its way goes again there, and the peer
        tells from the old numbers what it has got already."""
        for packet in reversed(self.sent_packets.pop_all()):
            self._retransmit(packet, session_id, packet[6], now)
        self.pto_at, self._pto_count = math.inf, 0

    def _on_lost(self, packet: SentPacket, session_id: bytes, now: float) -> None:
        if packet[3] is None:
            self._path.mtu.on_probe_lost(now)
            return
        self.packets_lost += 1
        self._retransmit(packet, session_id, packet[6] + 1, now)

    def _retransmit(self, packet: SentPacket, session_id: bytes, attempts: int, now: float) -> None:
        """Put what `packet` carried at the head of its queue, or let it go after too many tries."""
        number, _, _, content, start, end, _ = packet
        if content is None:
            return
        if attempts > RETRANSMISSIONS_LIMIT:
            self._abandon(content)
        elif isinstance(content, FragmentedMessage):
            if not content.is_abandoned:
                fragment = FragmentRetransmission(content, start, end, attempts)
                self._queues.push_front(fragment, content.rank)
        else:
            if isinstance(content, bytes):
                rank = RANK_OF_KIND.get(content[0], CONTROL)
                content = Retransmission(session_id, number, content, rank, attempts)
            content.attempts = attempts
            self._queues.requeue_lost(content, now)

    def _abandon(self, content: PacketContent) -> None:
        """Anti-entropy takes over."""
        if isinstance(content, FragmentedMessage):
            if content.is_abandoned:
                return
            content.is_abandoned = True
        self.abandoned += content is not None

    def on_pto(self, session_id: bytes, now: float) -> None:
        """Nothing was heard of the last packets for long: send the content of the last again, and the
        report of that tells of all before it (RFC 8985, 7.3)."""
        self.pto_credit = 0
        sent_packets = self.sent_packets
        self._pto_count += 1
        if self._pto_count > PTO_LIMIT:
            for packet in sent_packets.pop_all():
                self._abandon(packet[3])
        elif self._pto_count >= PERSISTENT_PTOS:
            self._path.on_pto(now, is_first=self._pto_count == PERSISTENT_PTOS)
        # Probes of the path are given up later, for their report may be on its way.
        mtu_probes: list[SentPacket] = []
        while sent_packets and self.pto_credit < PTO_PACKETS:
            packet = sent_packets.pop_latest()
            if packet[3] is None and self._pto_count <= PTOS_BEFORE_BACKOFF:
                mtu_probes.append(packet)
            elif packet[3] is None:
                self._path.mtu.on_probe_lost(now)
            else:
                self._retransmit(packet, session_id, packet[6], now)
                self.pto_credit += 1
        for packet in reversed(mtu_probes):
            sent_packets.add(packet)
        if not sent_packets and not self.pto_credit:
            self._pto_count, self.pto_at = 0, math.inf
            return
        max_pto_s = max(MAX_PTO_S, self._path.rtt.pto_s)
        doublings = max(0, self._pto_count - PTOS_BEFORE_BACKOFF)
        self.pto_at = now + min(self._path.rtt.pto_s * 2**doublings, max_pto_s)
