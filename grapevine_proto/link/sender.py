"""What goes out on one link: queues, the peer's allowance, pacing, and repair of what was lost.

What must stay true:

- Control goes before data, data before repair, whatever is lost before what is new of its kind; a
  large message and small ones take turns. Queues are bounded by number and bytes, large messages
  apart, and what finds no room is counted.
- What the peer's record allows is never exceeded, counting each content once: what is lost gives
  its token back.
- Every packet that carries content is remembered until its arrival is told; what is lost goes out
  again under a new number, a bounded number of times. No more is on its way than the controller's
  window, so what is remembered is bounded as well.
- Only content is remembered: feedback, heartbeats, ids and empty packets are answered by nothing.

Work for one packet does not depend on how many wait or are on their way.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final, TypeAlias

from grapevine_proto.codec import DATA_OVERHEAD, FRAGMENT_OVERHEAD, Ours, Spliced, encode_frame
from grapevine_proto.link.congestion import Aimd, Controller, Outcome, Pacer, RoundTrip
from grapevine_proto.link.fragments import ENVELOPE_BYTES, Outgoing
from grapevine_proto.link.pathmtu import BASE_BYTES, PathMtu
from grapevine_proto.link.session import Session
from grapevine_proto.messages import Again, Feedback, Kind, Probe
from grapevine_proto.ratelimit import TokenBucket, cost
from grapevine_proto.sections import CongestionConfig, LimitsConfig

DATAGRAMS_AT_ONCE: Final = 64  # 77 KB: a third of the usual socket buffer
TRIES_LIMIT: Final = 16  # of one content: at 30 % loss one in 200 million goes under
PROBES_LIMIT: Final = 12  # in a row without an answer: about ten seconds
PATIENT_PROBES: Final = 2  # before the pauses between them grow: any of it may be random loss
PROBE_PACKETS: Final = 2  # so that both must be lost (RFC 9002, 6.2.4)
SILENT_PROBES: Final = 4  # from then on it may be the rate, or the size
LONGEST_PROBE_S: Final = 2.0  # between two of them, so that the end of an outage is noticed
BURST_S: Final = 0.002  # what timers cannot tell apart

CONTROL, DATA, BULK, REPAIR, CLOSE = range(5)  # in this order they go; DATA and BULK take turns
RANKS: Final[dict[int, int]] = {
    Kind.RUMORS: DATA,
    Kind.PRIVATE: DATA,
    Kind.REPAIR: REPAIR,
    Kind.CLOSE: CLOSE,  # after all else, for whoever reads it reads no more
}
UNREPAIRED: Final = frozenset(
    {
        Kind.EMPTY,
        Kind.ASK,
        Kind.NEAR,
        Kind.SHORT,
        Kind.CLOSE,
        Kind.HEARTBEAT,
        Kind.DIGEST,
        Kind.IN_SYNC,
        Kind.IDS,
        Kind.OPINIONS,
        Kind.ROLL,
        Kind.FEEDBACK,
        Kind.PATH_CHECK,
        Kind.PATH_ANSWER,
    }
)
"""What asks for no report and is not sent again: what an idle link says, for the next one says more; ids,
opinions and rolls, told by several peers: reports of them would cost more datagrams than they save."""


class _Lost:
    """A message of one packet that seems lost; `session_id`, `counter` say which packet that was."""

    __slots__ = ("counter", "plaintext", "rank", "session_id", "tries")

    def __init__(
        self, session_id: bytes, counter: int, plaintext: bytes, rank: int, tries: int
    ) -> None:
        self.session_id = session_id
        self.counter = counter
        self.plaintext = plaintext
        self.rank = rank
        self.tries = tries


class _LostPart:
    """A part of a large message that seems lost."""

    __slots__ = ("end", "message", "start", "tries")

    def __init__(self, message: Outgoing, start: int, end: int, tries: int) -> None:
        self.message = message
        self.start = start
        self.end = end
        self.tries = tries


_Item: TypeAlias = bytes | Outgoing | _Lost | _LostPart
_Content: TypeAlias = bytes | Outgoing | _Lost | None  # None: a probe of the path
_Record: TypeAlias = tuple[int, float, int, _Content, int, int, int]
"""A packet on its way: number, when it was sent, its bytes, what it carries, from where and up to
where (of a large message), and how often that was lost before."""


class Sender:
    """The way out. `unsent` counts messages that found no room, were cleared or let go; `taken` are the
    keys of our own rumors that have arrived, for whoever takes them from there; `probe_at` is when
    silence will be taken for loss."""

    __slots__ = (
        "_congestion",
        "_controller",
        "_flight",
        "_in_flight_bytes",
        "_is_bulks_turn",
        "_least_burst_bytes",
        "_may_break_out",
        "_next_number",
        "_pacer",
        "_probes",
        "_queue_bytes_limit",
        "_queue_limit",
        "_queued_bytes",
        "_queues",
        "_room_bytes",
        "_wants_larger",
        "_was_limited",
        "_window_bytes",
        "lost",
        "path",
        "path_mtu",
        "probe_at",
        "shape",
        "taken",
        "unsent",
    )

    def __init__(
        self,
        limits: LimitsConfig,
        congestion: CongestionConfig,
        host: str,
        rtt_s: float | None,
        first_number: int,
        now: float,
    ) -> None:
        self.shape: TokenBucket | None = None
        self.unsent = self.lost = 0
        self.taken: list[tuple[int, int]] = []
        self._congestion = congestion
        self._controller: Controller
        self._queues: tuple[deque[_Item], ...] = tuple(deque() for _ in range(5))
        self._queued_bytes = [0] * 5  # of what has not gone yet
        self._queue_limit = limits.queue_messages
        self._queue_bytes_limit = limits.queue_bytes
        self._next_number = first_number
        self._flight: deque[_Record] = deque()  # in the order they were sent
        self._in_flight_bytes = 0
        self.probe_at = math.inf
        self._probes = 0
        self._is_bulks_turn = False
        self._may_break_out = 0  # packets that may go whatever pacer and window say
        self._was_limited = False
        self.move(host, rtt_s, now)
        self._wants_larger = False

    # --- in: messages ---------------------------------------------------------------------------

    @property
    def queued(self) -> int:
        """Messages, and lost parts of them, that wait to go."""
        return sum(map(len, self._queues))

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing is on its way."""
        return not self._flight and not any(self._queues)

    @property
    def rate(self) -> float:
        """Bytes a second that may go."""
        return self._controller.rate

    def has_room_for(self, size_bytes: int) -> bool:
        """Whether a message of rumors of so many bytes would be queued."""
        return self._has_room(BULK if size_bytes > ENVELOPE_BYTES else DATA, size_bytes)

    def is_ready(self, now: float) -> bool:
        """Whether the first packet of a message of rumors would go at once if it were queued now."""
        control, data, *_ = self._queues
        waiting = len(control) + len(data)
        waiting_bytes = self._queued_bytes[CONTROL] + self._queued_bytes[DATA]
        rate = self._controller.rate
        return (
            waiting < DATAGRAMS_AT_ONCE
            and self._in_flight_bytes + waiting_bytes < self._window_bytes
            and self._pacer.ready_at(rate) + waiting_bytes / rate <= now
            and (self.shape is None or self.shape.whole(now) > waiting)
        )

    def takes_at(self, now: float) -> float:
        """When `is_ready` is true, as things are; math.inf: not before something goes or is told of."""
        if self._queues[CONTROL] or self._queues[DATA]:
            return math.inf
        return max(self._paced_at(), now if self.shape is None else self.shape.ready_at(now))

    def push(self, plaintext: bytes | Spliced) -> bool:
        """Queue `plaintext`; False: there is no room, and it is counted."""
        size_bytes = len(plaintext)
        kind = plaintext.kind if isinstance(plaintext, Spliced) else plaintext[0]
        rank = RANKS.get(kind, CONTROL)
        if rank == DATA and size_bytes > ENVELOPE_BYTES:
            rank = BULK
        if not self._has_room(rank, size_bytes):
            self.unsent += 1
            return False
        if size_bytes > self._room_bytes or isinstance(plaintext, Spliced):
            self._wants_larger = True
            self._queues[rank].append(self._large(plaintext, rank))
        else:
            self._queues[rank].append(plaintext)
        self._queued_bytes[rank] += size_bytes
        return True

    def clear(self) -> int:
        """Let go of all that waits or is on its way, so that a Close goes at once; how many messages
        waited."""
        cleared = self.queued
        for queue in self._queues:
            queue.clear()
        self._queued_bytes = [0] * 5
        self._flight.clear()
        self._in_flight_bytes = 0
        self.probe_at, self._probes = math.inf, 0
        self.unsent += cleared
        return cleared

    def _has_room(self, rank: int, size_bytes: int) -> bool:
        """Control has room of its own, or rumors that wait would shut out the heartbeat; so have
        large messages, of which one always finds some."""
        if size_bytes > ENVELOPE_BYTES:
            count, waiting_bytes = len(self._queues[rank]), self._queued_bytes[rank]
        else:
            one, other = (DATA, REPAIR) if rank in (DATA, REPAIR) else (CONTROL, CLOSE)
            count = len(self._queues[one]) + len(self._queues[other])
            waiting_bytes = self._queued_bytes[one] + self._queued_bytes[other]
        if not count:
            return True
        return count < self._queue_limit and waiting_bytes + size_bytes <= self._queue_bytes_limit

    def _large(self, plaintext: bytes | Spliced, rank: int) -> Outgoing:
        self._next_number += 1
        return Outgoing(plaintext, self._next_number, rank)

    # --- out ------------------------------------------------------------------------------------

    def transmit(self, session: Session, now: float) -> list[bytes]:
        """Datagrams that may go now, sealed on `session`, a bounded number."""
        datagrams: list[bytes] = []
        if now >= self.probe_at:
            self._on_silence(session.their_id, now)
        while len(datagrams) < DATAGRAMS_AT_ONCE:
            rank = self._next_rank(now)
            if rank is None:
                break
            self._send_from(rank, session, now, datagrams)
        if self._wants_larger:
            self._probe_path(session, now, datagrams)
        return datagrams

    def cut_through(self, plaintext: bytes, session: Session, now: float) -> bytes | None:
        """The datagram of a message of rumors that finds nothing before it and may go at once; None: it
        has to be queued, and nothing has happened."""
        if (
            self._wants_larger
            or any(self._queues)
            or len(plaintext) > self._room_bytes
            or now >= self.probe_at
            or self._paced_at() > now
            or (self.shape is not None and not self.shape.take(now))
        ):
            return None
        datagrams: list[bytes] = []
        self._note_sent(session, plaintext, plaintext, 0, 0, 0, now, datagrams)
        return datagrams[0]

    def ready_at(self, now: float) -> float:
        """When `transmit` has something to do, as things are."""
        control, data, bulk, repair, close = self._queues
        at = self.probe_at
        if control:
            at = min(at, self._paid_at(control[0], now))
        if data or bulk or repair:
            paced_at = self._paced_at()
            heads = [queue[0] for queue in (data, bulk, repair) if queue]
            paid_at = min(self._paid_at(head, now) for head in heads)
            at = min(at, max(paced_at, paid_at))
        elif close and not control:
            at = now
        return at

    def _next_rank(self, now: float) -> int | None:
        """The queue whose head may go now."""
        control, data, bulk, repair, close = self._queues
        if control and self._pay(control[0], now):
            return CONTROL
        if not data and not bulk and not repair:
            return CLOSE if close and not control else None
        if self._paced_at() > now:
            self._was_limited = True
            return None
        if bulk and (self._is_bulks_turn or not data) and self._pay(bulk[0], now):
            self._is_bulks_turn = False
            return BULK
        if data and self._pay(data[0], now):
            self._is_bulks_turn = True
            return DATA
        return REPAIR if repair else None  # the peer asked for it and has paid by asking

    def _paced_at(self) -> float:
        if self._may_break_out:
            return -math.inf
        if self._in_flight_bytes >= self._window_bytes:
            return math.inf
        return self._pacer.ready_at(self._controller.rate)

    def _pay(self, item: _Item, now: float) -> bool:
        """Take the token that sending `item` costs, if any."""
        if self.shape is None:
            return True
        tokens = self._tokens(item)
        if not tokens:
            return True
        if not self.shape.take(now, tokens):
            return False
        if isinstance(item, Outgoing):
            item.paid_bytes += ENVELOPE_BYTES
        return True

    def _paid_at(self, item: _Item, now: float) -> float:
        return now if self.shape is None else self.shape.ready_at(now, self._tokens(item))

    @staticmethod
    def _tokens(item: _Item) -> int:
        """One for each message, one for each 64 KiB begun of a large one, none for repair."""
        if isinstance(item, bytes):
            return cost(item[0]) if item[0] != Kind.REPAIR else 0
        if isinstance(item, Outgoing):
            return int(not item.is_free and item.sent_bytes >= item.paid_bytes)
        if isinstance(item, _Lost):
            return cost(item.plaintext[0]) if item.rank != REPAIR else 0
        return 0

    def _send_from(self, rank: int, session: Session, now: float, datagrams: list[bytes]) -> None:
        """Send what is at the head of this queue, or as much of it as one packet holds."""
        queue, room_bytes = self._queues[rank], self._room_bytes
        item = queue[0]
        if isinstance(item, bytes):
            if len(item) > room_bytes:  # the path bears less than when it was queued
                queue[0] = self._large(item, rank)
                return
            queue.popleft()
            self._queued_bytes[rank] -= len(item)
            if item[0] in UNREPAIRED:
                self._seal(session, item, now, datagrams)
            else:
                self._note_sent(session, item, item, 0, 0, 0, now, datagrams)
        elif isinstance(item, Outgoing):
            self._send_part(rank, item, session, now, datagrams)
        elif isinstance(item, _LostPart):
            queue.popleft()
            message, start = item.message, item.start
            if message.is_let_go:
                return
            end = min(item.end, start + room_bytes - FRAGMENT_OVERHEAD)
            if end < item.end:
                queue.appendleft(_LostPart(message, end, item.end, item.tries))
            part = message.slice(start, end)
            self._note_sent(session, part, message, start, end, item.tries, now, datagrams)
        else:
            queue.popleft()
            plaintext = encode_frame(Again(item.session_id, item.counter, item.plaintext))
            if len(plaintext) > room_bytes:
                large = self._large(plaintext, rank)
                if isinstance(item.plaintext, Ours):
                    large.keys = item.plaintext.keys
                large.paid_bytes = ENVELOPE_BYTES
                self._queued_bytes[rank] += len(large)
                queue.appendleft(large)
                return
            self._note_sent(session, plaintext, item, 0, 0, item.tries, now, datagrams)

    def _send_part(
        self, rank: int, message: Outgoing, session: Session, now: float, datagrams: list[bytes]
    ) -> None:
        """Send the next part of a large message that has not gone yet."""
        queue, start = self._queues[rank], message.sent_bytes
        if message.is_let_go:
            queue.popleft()
            self._queued_bytes[rank] -= len(message) - start
            return
        end = min(start + self._room_bytes - FRAGMENT_OVERHEAD, len(message))
        message.sent_bytes = end
        self._queued_bytes[rank] -= end - start
        if end == len(message):
            queue.popleft()
        part = message.slice(start, end)
        self._note_sent(session, part, message, start, end, 0, now, datagrams)

    def _note_sent(
        self,
        session: Session,
        plaintext: bytes,
        content: _Content,
        start: int,
        end: int,
        tries: int,
        now: float,
        datagrams: list[bytes],
    ) -> None:
        number = session.next_counter
        size_bytes = self._seal(session, plaintext, now, datagrams)
        self._flight.append((number, now, size_bytes, content, start, end, tries))
        self._in_flight_bytes += size_bytes
        if self._may_break_out:
            self._may_break_out -= 1
        if not self._probes:
            self.probe_at = now + self.path.probe_s

    def _seal(self, session: Session, plaintext: bytes, now: float, datagrams: list[bytes]) -> int:
        datagram = session.seal(plaintext, now)
        datagrams.append(datagram)
        self._pacer.spend(len(datagram), self._controller.rate, now)
        return len(datagram)

    # --- what became of it ----------------------------------------------------------------------

    def on_feedback(self, feedback: Feedback, now: float) -> None:
        """The peer tells what arrived of the packets of the session that we send on."""
        flight, lost = self._flight, []
        arrived = arrived_bytes = resolved_bytes = large = 0
        latest_at = -math.inf
        ranges = iter(feedback.missing)
        low, high = next(ranges, (feedback.end, feedback.end))
        while flight and flight[0][0] < feedback.end:
            record = flight.popleft()
            number = record[0]
            resolved_bytes += record[2]
            while number > high:
                low, high = next(ranges, (feedback.end, feedback.end))
            if number < feedback.first or number >= low:
                lost.append(record)
                continue
            arrived += 1
            arrived_bytes += record[2]
            large += record[2] > BASE_BYTES
            latest_at = record[1]
            if number == feedback.latest:
                self.path.measured(now - latest_at - feedback.delay_us / 1e6, now)
            if record[3] is None:
                self.path_mtu.probe_arrived(record[5])
            elif type(record[3]) is not bytes:
                self._note_arrived(record[3], record[5] - record[4])
        self._measure_ahead(feedback, now)
        self._in_flight_bytes -= resolved_bytes
        told = [each for each in lost if each[3] is not None and each[0] >= feedback.first]
        large_lost = sum(record[2] > BASE_BYTES for record in told)
        self.path_mtu.reported(large, large_lost)
        for record in reversed(lost):
            self._on_lost(record, feedback.session_id, now)
        if arrived or lost:  # else it tells of what was sent again since: we ask too soon
            self._probes = 0
            self.probe_at = now + self.path.probe_s if flight else math.inf
            self._controller.on_report(
                Outcome(arrived, arrived_bytes, len(told), latest_at, self._was_limited), now
            )
            self._was_limited = False
            self._set_sizes()
        else:
            self._window_bytes = self._controller.window_bytes

    def _note_arrived(self, content: bytes | Outgoing | _Lost, size_bytes: int) -> None:
        """A packet arrived that carried this, or so many bytes of it: what it told of ours is taken."""
        if isinstance(content, _Lost):
            content = content.plaintext
        elif isinstance(content, Outgoing):
            content.arrived_bytes += size_bytes
            if content.arrived_bytes == len(content):
                self.taken += content.keys
            return
        if isinstance(content, Ours):
            self.taken += content.keys

    def _measure_ahead(self, feedback: Feedback, now: float) -> None:
        """The latest that arrived may be beyond what is told of, while others are overdue."""
        for number, sent_at, *_ in self._flight:
            if number >= feedback.latest:
                if number == feedback.latest:
                    self.path.measured(now - sent_at - feedback.delay_us / 1e6, now)
                return

    def reroute(self, session_id: bytes, now: float) -> None:
        """We send on another session from now on: what is on its way goes again there, and the peer
        tells from the old numbers what it has got already."""
        for record in reversed(self._flight):
            self._again(record, session_id, record[6], now)
        self._flight.clear()
        self._in_flight_bytes = 0
        self.probe_at, self._probes = math.inf, 0

    def move(self, host: str, rtt_s: float | None, now: float) -> None:
        """The peer is elsewhere: nothing is known of the path there."""
        self.path = RoundTrip(rtt_s, self._congestion.memory)
        self.path_mtu = PathMtu(host)
        self._controller = Aimd(self._congestion, self.path, BASE_BYTES)
        self._pacer = Pacer(0, now)
        self._room_bytes = 0  # of plaintext in one packet
        self._least_burst_bytes = 0
        self._wants_larger = True
        self._set_sizes()

    def assume(self, rtt_s: float) -> None:
        """A handshake took so long, and nothing that was measured lately says more."""
        self.path.assume(rtt_s)
        self._window_bytes = self._controller.window_bytes

    def refused(self, size_bytes: int, now: float) -> None:
        """The system would not send a datagram of this size."""
        self.path_mtu.refused(size_bytes, now)
        self._set_sizes()

    def _on_lost(self, record: _Record, session_id: bytes, now: float) -> None:
        if record[3] is None:
            self.path_mtu.probe_lost(now)
            return
        self.lost += 1
        self._again(record, session_id, record[6] + 1, now)

    def _again(self, record: _Record, session_id: bytes, tries: int, now: float) -> None:
        """Put what `record` carried at the head of its queue, or let it go after too many tries."""
        number, _, _, content, start, end, _ = record
        if content is None:
            return
        if tries > TRIES_LIMIT:
            self._let_go(content)
        elif isinstance(content, Outgoing):
            if not content.is_let_go:
                part = _LostPart(content, start, end, tries)
                self._queues[content.rank].appendleft(part)
        else:
            if isinstance(content, bytes):
                rank = RANKS.get(content[0], CONTROL)
                content = _Lost(session_id, number, content, rank, tries)
            content.tries = tries
            if self.shape is not None and content.rank != REPAIR:
                self.shape.give_back(now, cost(content.plaintext[0]))
            self._queues[content.rank].appendleft(content)

    def _let_go(self, content: _Content) -> None:
        """Anti-entropy takes over."""
        if isinstance(content, Outgoing):
            if content.is_let_go:
                return
            content.is_let_go = True
        self.unsent += content is not None

    def _on_silence(self, session_id: bytes, now: float) -> None:
        """Nothing was heard of the last packets for long: send the content of the last again, and the
        report of that tells of all before it (RFC 8985, 7.3)."""
        self._may_break_out = 0
        flight = self._flight
        self._probes += 1
        if self._probes > PROBES_LIMIT:
            for record in flight:
                self._let_go(record[3])
            flight.clear()
            self._may_break_out = 0
        elif self._probes >= SILENT_PROBES:
            self._controller.on_silence(now)
            if self._probes == SILENT_PROBES:
                self.path_mtu.went_silent()
            self._set_sizes()
        probes: list[
            _Record
        ] = []  # of the path: given up later, for their report may be on its way
        while flight and self._may_break_out < PROBE_PACKETS:
            record = flight.pop()
            if record[3] is None and self._probes <= PATIENT_PROBES:
                probes.append(record)
                continue
            self._in_flight_bytes -= record[2]
            if record[3] is None:
                self.path_mtu.probe_lost(now)
            else:
                self._again(record, session_id, record[6], now)
                self._may_break_out += 1
        flight.extend(reversed(probes))
        if not flight and not self._may_break_out:
            self._in_flight_bytes, self._probes, self.probe_at = 0, 0, math.inf
            return
        longest_s = max(LONGEST_PROBE_S, self.path.probe_s)
        doublings = max(0, self._probes - PATIENT_PROBES)
        self.probe_at = now + min(self.path.probe_s * 2**doublings, longest_s)

    # --- the path -------------------------------------------------------------------------------

    def _probe_path(self, session: Session, now: float, datagrams: list[bytes]) -> None:
        size_bytes = self.path_mtu.probe_due(now)
        if not size_bytes:
            self._wants_larger = self.path_mtu.is_probing
            return
        if self._in_flight_bytes < self._window_bytes:
            plaintext = encode_frame(Probe(size_bytes - DATA_OVERHEAD - 1))
            self._note_sent(session, plaintext, None, 0, size_bytes, 0, now, datagrams)
            self.path_mtu.probe_sent()

    def _set_sizes(self) -> None:
        """Put right what follows from the path and the controller, and is asked for at every packet."""
        datagram_bytes, rate = self.path_mtu.datagram_bytes, self._controller.rate
        room_bytes = datagram_bytes - DATA_OVERHEAD
        if room_bytes != self._room_bytes:
            self._wants_larger |= room_bytes < self._room_bytes  # it fell back, and climbs again
            self._room_bytes = room_bytes
            self._least_burst_bytes = max(10 * BASE_BYTES, 2 * datagram_bytes)
            self._controller.on_packet_size(datagram_bytes)
        self._pacer.burst_bytes = max(self._least_burst_bytes, int(BURST_S * rate))
        self._window_bytes = self._controller.window_bytes
