"""Loss detection and retransmission on one link (RFC 9002, section 6; RFC 8985).

Invariants:

- Lost content is retransmitted under a new packet number, a limited number of times; then it is abandoned and
  counted, and anti-entropy takes over.
- After a PTO the content of the latest packets is sent again, exempt from pacing and window. PTOs back off
  exponentially and end.
- The PTO allows for the delay that this node permits the peer for ACKs of rumors (RFC 9002, 6.2.1), and only
  while the latest packet carries rumors and no packet was lost lately, as the peer does.
- `acked_keys` lists each tracked message once, when the peer has acknowledged all of it; `abandoned_keys`
  lists those that were given up.
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
from grapevine_proto.transport.session.ack_tracker import PROMPT_AFTER_LOSS_S
from grapevine_proto.wire.codec import TrackedBytes, TrackedKey
from grapevine_proto.wire.messages import Ack, Kind

RETRANSMISSIONS_LIMIT: Final = 16  # per content: at 30 % loss one in 200 million is abandoned
PTO_LIMIT: Final = 12  # consecutive, unanswered: about ten seconds
PTOS_BEFORE_BACKOFF: Final = 2  # without backoff: random loss can explain them
PTO_PACKETS: Final = 2  # both must get lost to waste a PTO (RFC 9002, 6.2.4)
UNANSWERED_PTOS: Final = 3  # rare at 10 % loss
PERSISTENT_PTOS: Final = 4  # from then on lower the rate and the datagram size
MAX_PTO_S: Final = 2.0  # upper limit of the backoff, to notice the end of an outage


class Recovery:
    """Tracks `sent_packets` and returns lost content to the send queues.

    `pto_at` is when the PTO expires, `pto_credit` how many packets a PTO exempts from pacing and window.
    `max_ack_delay_s` is how long the peer may wait before it acknowledges rumors.
    `packets_lost` counts lost packets, `abandoned` messages given up.
    """

    __slots__ = (
        "_lost_at",
        "_path",
        "_pto_allows_delay",
        "_pto_count",
        "_queues",
        "abandoned",
        "abandoned_keys",
        "acked_keys",
        "max_ack_delay_s",
        "packets_lost",
        "pto_at",
        "pto_credit",
        "sent_packets",
    )

    def __init__(self, path: Path, queues: SendQueues) -> None:
        self._path = path
        self._queues = queues
        self._pto_count = 0
        self._lost_at = -math.inf
        self._pto_allows_delay = False  # whether `pto_at` includes `max_ack_delay_s`
        self.sent_packets = SentPackets()
        self.pto_at = math.inf
        self.pto_credit = 0
        self.max_ack_delay_s = 0.0
        self.packets_lost = self.abandoned = 0
        self.acked_keys: list[TrackedKey] = []
        self.abandoned_keys: list[TrackedKey] = []

    def on_sent(self, packet: SentPacket) -> None:
        """Tracks a sent packet and starts the PTO timer."""
        self.sent_packets.add(packet)
        if self.pto_credit:
            self.pto_credit -= 1
        if not self._pto_count:
            self.pto_at = self._pto_after(packet.sent_at)

    def _pto_after(self, now: float) -> float:
        """When the PTO expires if nothing happens after `now`."""
        pto_at = now + self._path.rtt.pto_s
        self._pto_allows_delay = False
        if self.max_ack_delay_s and now - self._lost_at >= PROMPT_AFTER_LOSS_S:
            content = self.sent_packets.latest.content
            if isinstance(content, bytes) and content[0] == Kind.RUMORS:
                pto_at += self.max_ack_delay_s
                self._pto_allows_delay = True
        return pto_at

    def expect_prompt_acks(self) -> None:
        """This node leaves: a PTO now asks for ACKs that the peer may delay."""
        if self._pto_allows_delay and self.sent_packets:
            self.pto_at = self.sent_packets.latest.sent_at
        self.max_ack_delay_s = 0.0

    @property
    def is_unanswered(self) -> bool:
        """Whether several PTOs in a row expired without an answer: more than random loss can explain."""
        return self._pto_count >= UNANSWERED_PTOS

    def clear(self) -> None:
        """Forgets all packets in flight."""
        self.sent_packets.pop_all()
        self.pto_at, self._pto_count = math.inf, 0

    # --- acknowledgments ------------------------------------------------------------------------

    def on_ack(self, ack: Ack, now: float) -> None:
        """Handles an ACK for the live session: takes RTT samples and retransmits what is lost."""
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
        # The latest packet may be above the acknowledged range while older ones may still arrive.
        latest_sent_at = self.sent_packets.sent_at(ack.latest)
        if latest_sent_at is not None:
            path.rtt.on_sample(now - latest_sent_at - ack.delay_us / 1e6, now)
        reported_lost = [
            each for each in lost if each.content is not None and each.number >= ack.first
        ]
        path.mtu.on_ack(
            large_acked, sum(packet.size_bytes > BASE_PLPMTU_BYTES for packet in reported_lost)
        )
        for packet in reversed(lost):
            self._on_lost(packet, ack.session_id, now)
        if (
            acked or lost
        ):  # otherwise it concerns packets retransmitted since: the PTO was too short
            self._pto_count = 0
            self.pto_at = self._pto_after(now) if self.sent_packets else math.inf
            latest_acked_sent_at = acked[-1].sent_at if acked else -math.inf
            path.on_ack(len(acked), acked_bytes, len(reported_lost), latest_acked_sent_at, now)
        else:
            path.on_rtt()

    def take_acked(self) -> list[TrackedKey]:
        """Returns `acked_keys` and empties it."""
        acked, self.acked_keys = self.acked_keys, []
        return acked

    def take_abandoned(self) -> list[TrackedKey]:
        """Returns `abandoned_keys` and empties it."""
        abandoned, self.abandoned_keys = self.abandoned_keys, []
        return abandoned

    def _on_content_acked(
        self, content: bytes | FragmentedMessage | Retransmission, size_bytes: int
    ) -> None:
        """Collects the tracked messages in acknowledged content, of which `size_bytes` arrived."""
        if isinstance(content, Retransmission):
            content = content.plaintext
        elif isinstance(content, FragmentedMessage):
            content.acked_bytes += size_bytes
            if content.acked_bytes == len(content):
                self.acked_keys += content.tracked_keys
            return
        if isinstance(content, TrackedBytes):
            self.acked_keys += content.tracked_keys

    # --- loss -----------------------------------------------------------------------------------

    def retransmit_all(self, session_id: bytes, now: float) -> None:
        """Retransmits everything in flight, because another session is live now. The old packet numbers
        let the peer recognize what it already has."""
        for packet in reversed(self.sent_packets.pop_all()):
            self._retransmit(packet, session_id, packet.attempts, now)
        self.pto_at, self._pto_count = math.inf, 0

    def on_new_address(self, now: float) -> None:
        """The peer has another address: what went to the earlier one is probably lost, and its PTO expires
        now."""
        self._pto_count = 0
        if self.sent_packets:
            self.pto_at = now

    def _on_lost(self, packet: SentPacket, session_id: bytes, now: float) -> None:
        if packet.content is None:
            self._path.mtu.on_probe_lost(now)
            return
        self.packets_lost += 1
        self._lost_at = now
        self._retransmit(packet, session_id, packet.attempts + 1, now)

    def _retransmit(self, packet: SentPacket, session_id: bytes, attempts: int, now: float) -> None:
        """Puts the content of `packet` at the head of its queue, or abandons it after too many attempts."""
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
        """Gives up on `content`; anti-entropy takes over."""
        if isinstance(content, FragmentedMessage):
            if content.is_abandoned:
                return
            content.is_abandoned = True
        self.abandoned += content is not None
        if isinstance(content, Retransmission):
            content = content.plaintext
        if isinstance(content, FragmentedMessage | TrackedBytes):
            self.abandoned_keys += content.tracked_keys

    def on_pto(self, session_id: bytes, now: float) -> None:
        """The PTO expired: retransmits the content of the latest packets, whose ACK will also resolve all
        earlier ones (RFC 8985, 7.3; RFC 9002, 6.2.4)."""
        self.pto_credit = 0
        if self._pto_allows_delay:  # else the peer may not know of a loss, and delay its ACKs still
            self._lost_at = now
        sent_packets = self.sent_packets
        self._pto_count += 1
        if self._pto_count > PTO_LIMIT:
            for packet in sent_packets.pop_all():
                self._abandon(packet.content)
        elif self._pto_count >= PERSISTENT_PTOS:
            self._path.on_pto(now, is_first=self._pto_count == PERSISTENT_PTOS)
        # Keep MTU probes for now: their ACK may be in flight.
        mtu_probes: list[SentPacket] = []
        while sent_packets and self.pto_credit < PTO_PACKETS:
            packet = sent_packets.pop_latest()
            if packet.content is None and self._pto_count <= PTOS_BEFORE_BACKOFF:
                mtu_probes.append(packet)
            elif packet.content is None:
                self._path.mtu.on_probe_lost(now)
            else:
                self._retransmit(packet, session_id, packet.attempts, now)
                self.pto_credit += 1
        for packet in reversed(mtu_probes):
            sent_packets.add(packet)
        if not sent_packets and not self.pto_credit:
            self._pto_count, self.pto_at = 0, math.inf
            return
        max_pto_s = max(MAX_PTO_S, self._path.rtt.pto_s)
        doublings = max(0, self._pto_count - PTOS_BEFORE_BACKOFF)
        self.pto_at = now + min(self._path.rtt.pto_s * 2**doublings, max_pto_s)
