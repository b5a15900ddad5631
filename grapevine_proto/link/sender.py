"""What goes out on one link: what next, in which packet, and when.

What must stay true:

- Control goes before data, data before repair, whatever is lost before what is new of its kind; a
  large message and small ones take turns. What finds no room (`queues`) is counted.
- No more is on its way than the path's window, and nothing goes quicker than its rate, but for probes
  of `recovery`.

Work for one packet does not depend on how many wait or are on their way.
"""

from __future__ import annotations

import math
from typing import Final

from grapevine_proto.codec import DATA_OVERHEAD, FRAGMENT_OVERHEAD, Ours, Spliced, encode_frame
from grapevine_proto.link.flight import UNREPAIRED, Content
from grapevine_proto.link.fragments import ENVELOPE_BYTES, Outgoing
from grapevine_proto.link.path import Path
from grapevine_proto.link.queues import BULK, CLOSE, CONTROL, DATA, REPAIR, LostPart, Queues
from grapevine_proto.link.recovery import Recovery
from grapevine_proto.link.session import Session
from grapevine_proto.messages import Again, Probe
from grapevine_proto.ratelimit import TokenBucket
from grapevine_proto.sections import CongestionConfig, LimitsConfig

DATAGRAMS_AT_ONCE: Final = 64  # 77 KB: a third of the usual socket buffer
SLOWEST_REFILL: Final = 0.09  # a second: what a record tells as 0 when nine tenths of 0.1 is meant


class Sender:
    """The way out. `path` is what is known of the road there, `recovery` what is on its way."""

    __slots__ = ("_is_bulks_turn", "_queues", "_unsent", "path", "recovery")

    def __init__(
        self,
        limits: LimitsConfig,
        congestion: CongestionConfig,
        host: str,
        rtt_s: float | None,
        first_number: int,
        now: float,
    ) -> None:
        self._queues = Queues(limits, first_number)
        self._is_bulks_turn = False
        self._unsent = 0
        self.path = Path(congestion, host, rtt_s, now)
        self.recovery = Recovery(self.path, self._queues)

    # --- in: messages ---------------------------------------------------------------------------

    @property
    def queued(self) -> int:
        """Messages, and lost parts of them, that wait to go."""
        return len(self._queues)

    @property
    def shape(self) -> TokenBucket | None:
        """What the peer allows us; None: everything."""
        return self._queues.shape

    @shape.setter
    def shape(self, shape: TokenBucket | None) -> None:
        self._queues.shape = shape

    def keep_to(self, capacity: int, refill_rate: float, now: float) -> None:
        """The peer's record says that it allows so much, a capacity of 0 for everything; what is spent
        stays spent."""
        shape, refill_rate = self.shape, max(refill_rate, SLOWEST_REFILL)
        if not capacity:
            self.shape = None
        elif shape is None:
            self.shape = TokenBucket(capacity, refill_rate, now)
        elif (capacity, refill_rate) != (shape.capacity, shape.refill_rate):
            shape.resize(capacity, refill_rate, now)

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing is on its way."""
        return not self.recovery.flight and not any(self._queues.ranks)

    @property
    def unsent(self) -> int:
        """Messages that found no room, were cleared, or let go."""
        return self._unsent + self.recovery.let_go

    def count_unsent(self, messages: int) -> None:
        """So many found no room before they came here."""
        self._unsent += messages

    def has_room_for(self, size_bytes: int) -> bool:
        """Whether a message of rumors of so many bytes would be queued."""
        return self._queues.has_room(BULK if size_bytes > ENVELOPE_BYTES else DATA, size_bytes)

    def is_ready(self, now: float) -> bool:
        """Whether the first packet of a message of rumors would go at once if it were queued now."""
        queues, path = self._queues, self.path
        shape, waiting = queues.shape, len(queues.ranks[CONTROL]) + len(queues.ranks[DATA])
        if not waiting:
            return (
                self.recovery.flight.size_bytes < path.window_bytes
                and path.ready_at() <= now
                and (shape is None or shape.whole(now) > 0)
            )
        waiting_bytes = queues.bytes[CONTROL] + queues.bytes[DATA]
        return (
            waiting < DATAGRAMS_AT_ONCE
            and self.recovery.flight.size_bytes + waiting_bytes < path.window_bytes
            and path.ready_at() + waiting_bytes / path.rate <= now
            and (shape is None or shape.whole(now) > waiting)
        )

    def takes_at(self, now: float) -> float:
        """When `is_ready` is true, as things are; math.inf: not before something goes or is told of."""
        queues = self._queues
        if queues.ranks[CONTROL] or queues.ranks[DATA]:
            return math.inf
        return max(self._paced_at(), now if queues.shape is None else queues.shape.ready_at(now))

    def push(self, plaintext: bytes | Spliced) -> bool:
        """Queue `plaintext`; False: there is no room, and it is counted."""
        if not self._queues.push(plaintext, self.path.room_bytes):
            self._unsent += 1
            return False
        if len(plaintext) > self.path.room_bytes:
            self.path.wants_larger = True
        return True

    def clear(self) -> int:
        """Let go of all that waits or is on its way, so that a Close goes at once; how many messages
        waited."""
        cleared = self._queues.clear()
        self.recovery.clear()
        self._unsent += cleared
        return cleared

    # --- out ------------------------------------------------------------------------------------

    def transmit(self, session: Session, now: float) -> list[bytes]:
        """Datagrams that may go now, sealed on `session`, a bounded number."""
        datagrams: list[bytes] = []
        if now >= self.recovery.probe_at:
            self.recovery.on_silence(session.their_id, now)
        while len(datagrams) < DATAGRAMS_AT_ONCE:
            rank = self._next_rank(now)
            if rank is None:
                break
            self._send_from(rank, session, now, datagrams)
        if self.path.wants_larger:
            self._probe_path(session, now, datagrams)
        return datagrams

    def cut_through(self, plaintext: bytes, session: Session, now: float) -> bytes | None:
        """The datagram of a message of rumors that finds nothing before it and may go at once; None: it
        has to be queued, and nothing has happened."""
        queues = self._queues
        if (
            self.path.wants_larger
            or any(queues.ranks)
            or len(plaintext) > self.path.room_bytes
            or now >= self.recovery.probe_at
            or self._paced_at() > now
            or (queues.shape is not None and not queues.shape.take(now))
        ):
            return None
        datagrams: list[bytes] = []
        self._note_sent(session, plaintext, plaintext, 0, 0, 0, now, datagrams)
        return datagrams[0]

    def ready_at(self, now: float) -> float:
        """When `transmit` has something to do, as things are."""
        control, data, bulk, repair, close = self._queues.ranks
        at = self.recovery.probe_at
        if control:
            at = min(at, self._queues.paid_at(control[0], now))
        if data or bulk or repair:
            paced_at = self._paced_at()
            heads = [queue[0] for queue in (data, bulk, repair) if queue]
            paid_at = min(self._queues.paid_at(head, now) for head in heads)
            at = min(at, max(paced_at, paid_at))
        elif close and not control:
            at = now
        return at

    def _next_rank(self, now: float) -> int | None:
        """The queue whose head may go now."""
        control, data, bulk, repair, close = self._queues.ranks
        if control and self._queues.pay(control[0], now):
            return CONTROL
        if not data and not bulk and not repair:
            return CLOSE if close and not control else None
        if self._paced_at() > now:
            self.path.was_limited = True
            return None
        if bulk and (self._is_bulks_turn or not data) and self._queues.pay(bulk[0], now):
            self._is_bulks_turn = False
            return BULK
        if data and self._queues.pay(data[0], now):
            self._is_bulks_turn = True
            return DATA
        return REPAIR if repair else None  # the peer asked for it and has paid by asking

    def _paced_at(self) -> float:
        if self.recovery.may_break_out:
            return -math.inf
        if self.recovery.flight.size_bytes >= self.path.window_bytes:
            return math.inf
        return self.path.ready_at()

    def _send_from(self, rank: int, session: Session, now: float, datagrams: list[bytes]) -> None:
        """Send what is at the head of this queue, or as much of it as one packet holds."""
        queue, room_bytes = self._queues.ranks[rank], self.path.room_bytes
        item = queue[0]
        if isinstance(item, bytes):
            if len(item) > room_bytes:  # the path bears less than when it was queued
                queue[0] = self._queues.large(item, rank)
                return
            queue.popleft()
            self._queues.bytes[rank] -= len(item)
            if item[0] in UNREPAIRED:
                self._seal(session, item, now, datagrams)
            else:
                self._note_sent(session, item, item, 0, 0, 0, now, datagrams)
        elif isinstance(item, Outgoing):
            self._send_part(rank, item, session, now, datagrams)
        elif isinstance(item, LostPart):
            queue.popleft()
            message, start = item.message, item.start
            if message.is_let_go:
                return
            end = min(item.end, start + room_bytes - FRAGMENT_OVERHEAD)
            if end < item.end:
                queue.appendleft(LostPart(message, end, item.end, item.tries))
            part = message.slice(start, end)
            self._note_sent(session, part, message, start, end, item.tries, now, datagrams)
        else:
            queue.popleft()
            plaintext = encode_frame(Again(item.session_id, item.counter, item.plaintext))
            if len(plaintext) > room_bytes:
                large = self._queues.large(plaintext, rank)
                if isinstance(item.plaintext, Ours):
                    large.keys = item.plaintext.keys
                large.paid_bytes = ENVELOPE_BYTES
                self._queues.bytes[rank] += len(large)
                queue.appendleft(large)
                return
            self._note_sent(session, plaintext, item, 0, 0, item.tries, now, datagrams)

    def _send_part(
        self, rank: int, message: Outgoing, session: Session, now: float, datagrams: list[bytes]
    ) -> None:
        """Send the next part of a large message that has not gone yet."""
        queue, start = self._queues.ranks[rank], message.sent_bytes
        if message.is_let_go:
            queue.popleft()
            self._queues.bytes[rank] -= len(message) - start
            return
        end = min(start + self.path.room_bytes - FRAGMENT_OVERHEAD, len(message))
        message.sent_bytes = end
        self._queues.bytes[rank] -= end - start
        if end == len(message):
            queue.popleft()
        part = message.slice(start, end)
        self._note_sent(session, part, message, start, end, 0, now, datagrams)

    def _note_sent(
        self,
        session: Session,
        plaintext: bytes,
        content: Content,
        start: int,
        end: int,
        tries: int,
        now: float,
        datagrams: list[bytes],
    ) -> None:
        number = session.next_counter
        size_bytes = self._seal(session, plaintext, now, datagrams)
        self.recovery.sent((number, now, size_bytes, content, start, end, tries))

    def _seal(self, session: Session, plaintext: bytes, now: float, datagrams: list[bytes]) -> int:
        datagram = session.seal(plaintext, now)
        datagrams.append(datagram)
        self.path.spend(len(datagram), now)
        return len(datagram)

    def _probe_path(self, session: Session, now: float, datagrams: list[bytes]) -> None:
        path = self.path
        size_bytes = path.mtu.probe_due(now)
        if not size_bytes:
            path.wants_larger = path.mtu.is_probing
            return
        if self.recovery.flight.size_bytes < path.window_bytes:
            plaintext = encode_frame(Probe(size_bytes - DATA_OVERHEAD - 1))
            self._note_sent(session, plaintext, None, 0, size_bytes, 0, now, datagrams)
            path.mtu.probe_sent()
