"""Scheduler of one link: which message goes next, in which packet, and when (RFC 9002, section 7).

Invariants:

- Control goes before data, data before repairs, and retransmissions before new messages of their rank; large
  and small messages alternate. Messages without room in the queue are counted.
- Bytes in flight stay below the window and sending below the paced rate, except for PTO probes.
- The cost of one packet does not depend on how many are queued or in flight.
"""

from __future__ import annotations

import math
from typing import Final

from grapevine_proto.config.sections import CongestionConfig, LimitsConfig
from grapevine_proto.token_bucket import TokenBucket
from grapevine_proto.transport.link.acks import PendingReplies
from grapevine_proto.transport.link.fragments import BYTES_PER_TOKEN, FragmentedMessage
from grapevine_proto.transport.link.path import Path
from grapevine_proto.transport.link.recovery import Recovery
from grapevine_proto.transport.link.send_queues import (
    BULK,
    CLOSE,
    CONTROL,
    DATA,
    REPAIR,
    FragmentRetransmission,
    SendQueues,
)
from grapevine_proto.transport.link.sent_packets import (
    NON_ACK_ELICITING_KINDS,
    PacketContent,
    SentPacket,
)
from grapevine_proto.transport.session.session import Session
from grapevine_proto.wire.codec import (
    DATA_OVERHEAD_BYTES,
    FRAGMENT_OVERHEAD_BYTES,
    ChunkedMessage,
    TrackedBytes,
    encode_frame,
)
from grapevine_proto.wire.messages import MtuProbe, Retransmit

DATAGRAMS_PER_TRANSMIT: Final = 64  # 77 KB: a third of a typical socket buffer
MIN_REFILL_PER_S: Final = 0.09  # a record rounds 0.09 down to 0; never stall on that


class Sender:
    """The sending side of one link. `path` is the network path, `recovery` tracks the packets in flight.
    Pending ACKs of `replies` share its packets."""

    __slots__ = ("_is_bulks_turn", "_queues", "_replies", "_send_drops", "path", "recovery")

    def __init__(
        self,
        limits: LimitsConfig,
        congestion: CongestionConfig,
        host: str,
        rtt_s: float | None,
        first_number: int,
        replies: PendingReplies,
        now: float,
    ) -> None:
        self._queues = SendQueues(limits, first_number)
        self._replies = replies
        self._is_bulks_turn = False
        self._send_drops = 0
        self.path = Path(congestion, host, rtt_s, now)
        self.recovery = Recovery(self.path, self._queues)

    # --- queueing -------------------------------------------------------------------------------

    @property
    def queued(self) -> int:
        """Queued messages and retransmissions."""
        return len(self._queues)

    @property
    def send_limit(self) -> TokenBucket | None:
        """Tokens that the peer grants; None: unlimited."""
        return self._queues.send_limit

    @send_limit.setter
    def send_limit(self, bucket: TokenBucket | None) -> None:
        self._queues.send_limit = bucket

    def set_send_limit(self, capacity: int, refill_rate: float, now: float) -> None:
        """Applies the rate limit in the peer's record; capacity 0 is unlimited. Tokens already spent stay
        spent."""
        send_limit, refill_rate = self.send_limit, max(refill_rate, MIN_REFILL_PER_S)
        if not capacity:
            self.send_limit = None
        elif send_limit is None:
            self.send_limit = TokenBucket(capacity, refill_rate, now)
        elif (capacity, refill_rate) != (send_limit.capacity, send_limit.refill_rate):
            send_limit.resize(capacity, refill_rate, now)

    @property
    def is_idle(self) -> bool:
        """Whether the queues are empty and nothing is in flight."""
        return not self.recovery.sent_packets and not any(self._queues.by_rank)

    @property
    def send_drops(self) -> int:
        """Messages that found no room, were cleared, or were abandoned."""
        return self._send_drops + self.recovery.abandoned

    def count_send_drops(self, messages: int) -> None:
        """Counts `messages` messages that were dropped before they reached the link."""
        self._send_drops += messages

    def has_room_for(self, size_bytes: int) -> bool:
        """Whether a Rumors message of `size_bytes` bytes would be queued."""
        return self._queues.has_room(BULK if size_bytes > BYTES_PER_TOKEN else DATA, size_bytes)

    def is_ready(self, now: float) -> bool:
        """Whether the first packet of a Rumors message would be sent at once if it were queued now."""
        queues, path = self._queues, self.path
        send_limit, queued = (
            queues.send_limit,
            len(queues.by_rank[CONTROL]) + len(queues.by_rank[DATA]),
        )
        if not queued:
            return (
                self.recovery.sent_packets.size_bytes < path.window_bytes
                and path.ready_at() <= now
                and (send_limit is None or send_limit.available_tokens(now) > 0)
            )
        queued_bytes = queues.queued_bytes[CONTROL] + queues.queued_bytes[DATA]
        return (
            queued < DATAGRAMS_PER_TRANSMIT
            and self.recovery.sent_packets.size_bytes + queued_bytes < path.window_bytes
            and path.ready_at() + queued_bytes / path.rate <= now
            and (send_limit is None or send_limit.available_tokens(now) > queued)
        )

    def next_send_at(self, now: float) -> float:
        """When `is_ready` becomes true without further events; math.inf: only after a packet is sent or
        acknowledged."""
        queues = self._queues
        if queues.by_rank[CONTROL] or queues.by_rank[DATA]:
            return math.inf
        return max(
            self._next_packet_at(),
            now if queues.send_limit is None else queues.send_limit.ready_at(now),
        )

    def push(self, plaintext: bytes | ChunkedMessage) -> bool:
        """Queues `plaintext`. Returns False if there is no room; `send_drops` counts it."""
        if not self._queues.push(plaintext, self.path.plaintext_limit_bytes):
            self._send_drops += 1
            return False
        if len(plaintext) > self.path.plaintext_limit_bytes:
            self.path.request_mtu_probe()
        return True

    def clear(self) -> int:
        """Drops everything queued or in flight, so that a Close goes at once. Returns how many messages
        were queued."""
        cleared = self._queues.clear()
        self.recovery.clear()
        self._send_drops += cleared
        return cleared

    # --- out ------------------------------------------------------------------------------------

    def transmit(self, session: Session, now: float) -> list[bytes]:
        """Returns datagrams to send now, sealed on `session`, at most `DATAGRAMS_PER_TRANSMIT` and a
        probe."""
        datagrams: list[bytes] = []
        if now >= self.recovery.pto_at:
            self.recovery.on_pto(session.their_id, now)
        while len(datagrams) < DATAGRAMS_PER_TRANSMIT:
            rank = self._next_rank(now)
            if rank is None:
                break
            self._send_head(rank, session, now, datagrams)
        if self.path.should_probe_mtu:
            self._probe_mtu(session, now, datagrams)
        return datagrams

    def cut_through(self, plaintext: bytes, session: Session, now: float) -> bytes | None:
        """Sends the Rumors message `plaintext` without queueing it. Returns its datagram; None if it must
        be queued, and nothing has changed."""
        queues = self._queues
        if (
            self.path.should_probe_mtu
            or any(queues.by_rank)
            or len(plaintext) > self.path.plaintext_limit_bytes
            or now >= self.recovery.pto_at
            or self._next_packet_at() > now
            or (queues.send_limit is not None and not queues.send_limit.try_take(now))
        ):
            return None
        datagrams: list[bytes] = []
        self._seal_and_track(session, plaintext, plaintext, 0, 0, 0, now, datagrams)
        return datagrams[0]

    def transmit_at(self, now: float) -> float:
        """When `transmit` has something to do; math.inf: after another event."""
        control, data, bulk, repair, close = self._queues.by_rank
        at = self.recovery.pto_at
        if control:
            at = min(at, self._queues.chargeable_at(control[0], now))
        if data or bulk or repair:
            paced_at = self._next_packet_at()
            heads = [queue[0] for queue in (data, bulk, repair) if queue]
            chargeable_at = min(self._queues.chargeable_at(head, now) for head in heads)
            at = min(at, max(paced_at, chargeable_at))
        elif close and not control:
            at = now
        return at

    def _next_rank(self, now: float) -> int | None:
        """Returns the rank whose first item may be sent now and charges it; None: no rank."""
        control, data, bulk, repair, close = self._queues.by_rank
        if control and self._queues.try_charge(control[0], now):
            return CONTROL
        if not data and not bulk and not repair:
            return CLOSE if close and not control else None
        if self._next_packet_at() > now:
            self.path.on_pacing_limited()
            return None
        if bulk and (self._is_bulks_turn or not data) and self._queues.try_charge(bulk[0], now):
            self._is_bulks_turn = False
            return BULK
        if data and self._queues.try_charge(data[0], now):
            self._is_bulks_turn = True
            return DATA
        return REPAIR if repair else None  # free: the peer requested it

    def _next_packet_at(self) -> float:
        if self.recovery.pto_credit:
            return -math.inf
        if self.recovery.sent_packets.size_bytes >= self.path.window_bytes:
            return math.inf
        return self.path.ready_at()

    def _send_head(self, rank: int, session: Session, now: float, datagrams: list[bytes]) -> None:
        """Sends the first item of a queue, or as much of it as fits one packet."""
        queue, limit_bytes = self._queues.by_rank[rank], self.path.plaintext_limit_bytes
        item = queue[0]
        if isinstance(item, bytes):
            if len(item) > limit_bytes:  # the path MTU fell since it was queued
                queue[0] = self._queues.make_fragmented(item, rank)
                return
            queue.popleft()
            self._queues.queued_bytes[rank] -= len(item)
            if item[0] in NON_ACK_ELICITING_KINDS:
                self._seal(session, item, now, datagrams)
            else:
                self._seal_and_track(session, item, item, 0, 0, 0, now, datagrams)
        elif isinstance(item, FragmentedMessage):
            self._send_fragment(rank, item, session, now, datagrams)
        elif isinstance(item, FragmentRetransmission):
            queue.popleft()
            message, start = item.message, item.start
            if message.is_abandoned:
                return
            end = min(item.end, start + limit_bytes - FRAGMENT_OVERHEAD_BYTES)
            if end < item.end:
                queue.appendleft(FragmentRetransmission(message, end, item.end, item.attempts))
            fragment = message.encode_fragment(start, end)
            self._seal_and_track(
                session, fragment, message, start, end, item.attempts, now, datagrams
            )
        else:
            queue.popleft()
            plaintext = encode_frame(Retransmit(item.session_id, item.counter, item.plaintext))
            if len(plaintext) > limit_bytes:
                fragmented = self._queues.make_fragmented(plaintext, rank)
                if isinstance(item.plaintext, TrackedBytes):
                    fragmented.tracked_keys = item.plaintext.tracked_keys
                fragmented.charged_bytes = BYTES_PER_TOKEN
                self._queues.queued_bytes[rank] += len(fragmented)
                queue.appendleft(fragmented)
                return
            self._seal_and_track(session, plaintext, item, 0, 0, item.attempts, now, datagrams)

    def _send_fragment(
        self,
        rank: int,
        message: FragmentedMessage,
        session: Session,
        now: float,
        datagrams: list[bytes],
    ) -> None:
        """Sends the next fragment of a large message."""
        queue, start = self._queues.by_rank[rank], message.sent_bytes
        if message.is_abandoned:
            queue.popleft()
            self._queues.queued_bytes[rank] -= len(message) - start
            return
        end = min(start + self.path.plaintext_limit_bytes - FRAGMENT_OVERHEAD_BYTES, len(message))
        message.sent_bytes = end
        self._queues.queued_bytes[rank] -= end - start
        if end == len(message):
            queue.popleft()
        fragment = message.encode_fragment(start, end)
        self._seal_and_track(session, fragment, message, start, end, 0, now, datagrams)

    def _seal_and_track(
        self,
        session: Session,
        plaintext: bytes,
        content: PacketContent,
        start: int,
        end: int,
        attempts: int,
        now: float,
        datagrams: list[bytes],
    ) -> None:
        number = session.next_counter
        size_bytes = self._seal(session, plaintext, now, datagrams)
        self.recovery.on_sent(SentPacket(number, now, size_bytes, content, start, end, attempts))

    def _seal(self, session: Session, plaintext: bytes, now: float, datagrams: list[bytes]) -> int:
        limit_bytes = self.path.plaintext_limit_bytes
        datagram = session.seal(self._replies.piggyback(plaintext, limit_bytes, now), now)
        datagrams.append(datagram)
        self.path.spend(len(datagram), now)
        return len(datagram)

    def _probe_mtu(self, session: Session, now: float, datagrams: list[bytes]) -> None:
        path = self.path
        size_bytes = path.next_mtu_probe(now)
        if not size_bytes:
            return
        if self.recovery.sent_packets.size_bytes < path.window_bytes:
            plaintext = encode_frame(MtuProbe(size_bytes - DATA_OVERHEAD_BYTES - 1))
            self._seal_and_track(session, plaintext, None, 0, size_bytes, 0, now, datagrams)
            path.mtu.on_probe_sent()
