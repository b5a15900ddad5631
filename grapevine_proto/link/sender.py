"""What goes out on one link: when, in which packet, and again where it was lost.

What must stay true:

- Control goes before data, data before repair, whatever is lost before what is new of its kind; a
  large message and small ones take turns. What finds no room (`queues`) is counted.
- What is lost goes out again under a new number, a bounded number of times. No more is on its way
  (`flight`) than the controller's window.

Work for one packet does not depend on how many wait or are on their way.
"""

from __future__ import annotations

import math
from typing import Final

from grapevine_proto.codec import DATA_OVERHEAD, FRAGMENT_OVERHEAD, Ours, Spliced, encode_frame
from grapevine_proto.link.congestion import Aimd, Controller, Outcome, Pacer, RoundTrip
from grapevine_proto.link.flight import UNREPAIRED, Content, Flight, Packet
from grapevine_proto.link.fragments import ENVELOPE_BYTES, Outgoing
from grapevine_proto.link.pathmtu import BASE_BYTES, PathMtu
from grapevine_proto.link.queues import (
    BULK,
    CLOSE,
    CONTROL,
    DATA,
    RANKS,
    REPAIR,
    Lost,
    LostPart,
    Queues,
)
from grapevine_proto.link.session import Session
from grapevine_proto.messages import Again, Feedback, Probe
from grapevine_proto.ratelimit import TokenBucket
from grapevine_proto.sections import CongestionConfig, LimitsConfig

DATAGRAMS_AT_ONCE: Final = 64  # 77 KB: a third of the usual socket buffer
TRIES_LIMIT: Final = 16  # of one content: at 30 % loss one in 200 million goes under
PROBES_LIMIT: Final = 12  # in a row without an answer: about ten seconds
PATIENT_PROBES: Final = 2  # before the pauses between them grow: any of it may be random loss
PROBE_PACKETS: Final = 2  # so that both must be lost (RFC 9002, 6.2.4)
SILENT_PROBES: Final = 4  # from then on it may be the rate, or the size
LONGEST_PROBE_S: Final = 2.0  # between two of them, so that the end of an outage is noticed
BURST_S: Final = 0.002  # what timers cannot tell apart


class Sender:
    """The way out. `unsent` counts messages that found no room, were cleared or let go; `taken` are the
    keys of our own rumors that have arrived, for whoever takes them from there; `probe_at` is when
    silence will be taken for loss."""

    __slots__ = (
        "_congestion",
        "_controller",
        "_flight",
        "_is_bulks_turn",
        "_least_burst_bytes",
        "_may_break_out",
        "_pacer",
        "_probes",
        "_queues",
        "_room_bytes",
        "_wants_larger",
        "_was_limited",
        "_window_bytes",
        "lost",
        "path",
        "path_mtu",
        "probe_at",
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
        self.unsent = self.lost = 0
        self.taken: list[tuple[int, int]] = []
        self._congestion = congestion
        self._controller: Controller
        self._queues = Queues(limits, first_number)
        self._flight = Flight()
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
        return len(self._queues)

    @property
    def shape(self) -> TokenBucket | None:
        """What the peer allows us; None: everything."""
        return self._queues.shape

    @shape.setter
    def shape(self, shape: TokenBucket | None) -> None:
        self._queues.shape = shape

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing is on its way."""
        return not self._flight and not any(self._queues.ranks)

    @property
    def rate(self) -> float:
        """Bytes a second that may go."""
        return self._controller.rate

    def has_room_for(self, size_bytes: int) -> bool:
        """Whether a message of rumors of so many bytes would be queued."""
        return self._queues.has_room(BULK if size_bytes > ENVELOPE_BYTES else DATA, size_bytes)

    def is_ready(self, now: float) -> bool:
        """Whether the first packet of a message of rumors would go at once if it were queued now."""
        queues = self._queues
        rate, pacer = self._controller.rate, self._pacer
        shape, waiting = queues.shape, len(queues.ranks[CONTROL]) + len(queues.ranks[DATA])
        if not waiting:
            return (
                self._flight.size_bytes < self._window_bytes
                and pacer.ready_at(rate) <= now
                and (shape is None or shape.whole(now) > 0)
            )
        waiting_bytes = queues.bytes[CONTROL] + queues.bytes[DATA]
        return (
            waiting < DATAGRAMS_AT_ONCE
            and self._flight.size_bytes + waiting_bytes < self._window_bytes
            and pacer.ready_at(rate) + waiting_bytes / rate <= now
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
        if not self._queues.push(plaintext, self._room_bytes):
            self.unsent += 1
            return False
        self._wants_larger |= len(plaintext) > self._room_bytes
        return True

    def clear(self) -> int:
        """Let go of all that waits or is on its way, so that a Close goes at once; how many messages
        waited."""
        cleared = self._queues.clear()
        self._flight.take_all()
        self.probe_at, self._probes = math.inf, 0
        self.unsent += cleared
        return cleared

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
            or any(self._queues.ranks)
            or len(plaintext) > self._room_bytes
            or now >= self.probe_at
            or self._paced_at() > now
            or (self._queues.shape is not None and not self._queues.shape.take(now))
        ):
            return None
        datagrams: list[bytes] = []
        self._note_sent(session, plaintext, plaintext, 0, 0, 0, now, datagrams)
        return datagrams[0]

    def ready_at(self, now: float) -> float:
        """When `transmit` has something to do, as things are."""
        control, data, bulk, repair, close = self._queues.ranks
        at = self.probe_at
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
            self._was_limited = True
            return None
        if bulk and (self._is_bulks_turn or not data) and self._queues.pay(bulk[0], now):
            self._is_bulks_turn = False
            return BULK
        if data and self._queues.pay(data[0], now):
            self._is_bulks_turn = True
            return DATA
        return REPAIR if repair else None  # the peer asked for it and has paid by asking

    def _paced_at(self) -> float:
        if self._may_break_out:
            return -math.inf
        if self._flight.size_bytes >= self._window_bytes:
            return math.inf
        return self._pacer.ready_at(self._controller.rate)

    def _send_from(self, rank: int, session: Session, now: float, datagrams: list[bytes]) -> None:
        """Send what is at the head of this queue, or as much of it as one packet holds."""
        queue, room_bytes = self._queues.ranks[rank], self._room_bytes
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
        end = min(start + self._room_bytes - FRAGMENT_OVERHEAD, len(message))
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
        self._flight.add((number, now, size_bytes, content, start, end, tries))
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
        arrived, lost = self._flight.report(feedback)
        arrived_bytes = large = 0
        for number, sent_at, size_bytes, content, start, end, _ in arrived:
            arrived_bytes += size_bytes
            large += size_bytes > BASE_BYTES
            if number == feedback.latest:
                self.path.measured(now - sent_at - feedback.delay_us / 1e6, now)
            if content is None:
                self.path_mtu.probe_arrived(end)
            elif type(content) is not bytes:
                self._note_arrived(content, end - start)
        # The latest may have come beyond what is told of, while others are overdue.
        latest_sent_at = self._flight.sent_at(feedback.latest)
        if latest_sent_at is not None:
            self.path.measured(now - latest_sent_at - feedback.delay_us / 1e6, now)
        told = [each for each in lost if each[3] is not None and each[0] >= feedback.first]
        large_lost = sum(packet[2] > BASE_BYTES for packet in told)
        self.path_mtu.reported(large, large_lost)
        for packet in reversed(lost):
            self._on_lost(packet, feedback.session_id, now)
        if arrived or lost:  # else it tells of what was sent again since: we ask too soon
            self._probes = 0
            self.probe_at = now + self.path.probe_s if self._flight else math.inf
            latest_at = arrived[-1][1] if arrived else -math.inf
            self._controller.on_report(
                Outcome(len(arrived), arrived_bytes, len(told), latest_at, self._was_limited), now
            )
            self._was_limited = False
            self._set_sizes()
        else:
            self._window_bytes = self._controller.window_bytes

    def _note_arrived(self, content: bytes | Outgoing | Lost, size_bytes: int) -> None:
        """A packet arrived that carried this, or so many bytes of it: what it told of ours is taken."""
        if isinstance(content, Lost):
            content = content.plaintext
        elif isinstance(content, Outgoing):
            content.arrived_bytes += size_bytes
            if content.arrived_bytes == len(content):
                self.taken += content.keys
            return
        if isinstance(content, Ours):
            self.taken += content.keys

    def reroute(self, session_id: bytes, now: float) -> None:
        """We send on another session from now on: what is on its way goes again there, and the peer
        tells from the old numbers what it has got already."""
        for packet in reversed(self._flight.take_all()):
            self._again(packet, session_id, packet[6], now)
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

    def _on_lost(self, packet: Packet, session_id: bytes, now: float) -> None:
        if packet[3] is None:
            self.path_mtu.probe_lost(now)
            return
        self.lost += 1
        self._again(packet, session_id, packet[6] + 1, now)

    def _again(self, packet: Packet, session_id: bytes, tries: int, now: float) -> None:
        """Put what `packet` carried at the head of its queue, or let it go after too many tries."""
        number, _, _, content, start, end, _ = packet
        if content is None:
            return
        if tries > TRIES_LIMIT:
            self._let_go(content)
        elif isinstance(content, Outgoing):
            if not content.is_let_go:
                part = LostPart(content, start, end, tries)
                self._queues.ranks[content.rank].appendleft(part)
        else:
            if isinstance(content, bytes):
                rank = RANKS.get(content[0], CONTROL)
                content = Lost(session_id, number, content, rank, tries)
            content.tries = tries
            self._queues.put_back(content, now)

    def _let_go(self, content: Content) -> None:
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
            for packet in flight.take_all():
                self._let_go(packet[3])
        elif self._probes >= SILENT_PROBES:
            self._controller.on_silence(now)
            if self._probes == SILENT_PROBES:
                self.path_mtu.went_silent()
            self._set_sizes()
        # Probes of the path are given up later, for their report may be on its way.
        probes: list[Packet] = []
        while flight and self._may_break_out < PROBE_PACKETS:
            packet = flight.pop()
            if packet[3] is None and self._probes <= PATIENT_PROBES:
                probes.append(packet)
            elif packet[3] is None:
                self.path_mtu.probe_lost(now)
            else:
                self._again(packet, session_id, packet[6], now)
                self._may_break_out += 1
        for packet in reversed(probes):
            flight.add(packet)
        if not flight and not self._may_break_out:
            self._probes, self.probe_at = 0, math.inf
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
        if self._flight.size_bytes < self._window_bytes:
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
