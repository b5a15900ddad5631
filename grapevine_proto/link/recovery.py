"""Loss recovery on one link: what reports and silence say of packets, and what goes out again for it.

What must stay true:

- What is lost goes out again, under a new number, a bounded number of times; then it is let go, and
  counted, and anti-entropy takes over.
- Silence is answered with probes, the content of the last packets again, whatever the pacer and the
  window say; probes grow rarer, and end.
- What the peer has of our own rumors is told (`taken`) once, when all of it has arrived.
"""

from __future__ import annotations

import math
from typing import Final

from grapevine_proto.codec import Ours
from grapevine_proto.link.flight import Content, Flight, Packet
from grapevine_proto.link.fragments import Outgoing
from grapevine_proto.link.path import Path
from grapevine_proto.link.pathmtu import BASE_BYTES
from grapevine_proto.link.queues import CONTROL, RANKS, Lost, LostPart, Queues
from grapevine_proto.messages import Feedback

TRIES_LIMIT: Final = 16  # of one content: at 30 % loss one in 200 million goes under
PROBES_LIMIT: Final = 12  # in a row without an answer: about ten seconds
PATIENT_PROBES: Final = 2  # before the pauses between them grow: any of it may be random loss
PROBE_PACKETS: Final = 2  # so that both must be lost (RFC 9002, 6.2.4)
SILENT_PROBES: Final = 4  # from then on it may be the rate, or the size
LONGEST_PROBE_S: Final = 2.0  # between two of them, so that the end of an outage is noticed


class Recovery:
    """`flight` is what is on its way; what of it is lost goes back to the queues. `probe_at` is when
    silence will be taken for loss; `may_break_out` how many packets may go then whatever pacer and
    window say. `lost` counts packets, `let_go` contents given up."""

    __slots__ = (
        "_path",
        "_probes",
        "_queues",
        "flight",
        "let_go",
        "lost",
        "may_break_out",
        "probe_at",
        "taken",
    )

    def __init__(self, path: Path, queues: Queues) -> None:
        self._path = path
        self._queues = queues
        self._probes = 0
        self.flight = Flight()
        self.probe_at = math.inf
        self.may_break_out = 0
        self.lost = self.let_go = 0
        self.taken: list[tuple[int, int]] = []

    def sent(self, packet: Packet) -> None:
        """`packet` is on its way."""
        self.flight.add(packet)
        if self.may_break_out:
            self.may_break_out -= 1
        if not self._probes:
            self.probe_at = packet[1] + self._path.trip.probe_s

    def clear(self) -> None:
        """Nothing of what is on its way matters any more."""
        self.flight.take_all()
        self.probe_at, self._probes = math.inf, 0

    # --- reports --------------------------------------------------------------------------------

    def on_feedback(self, feedback: Feedback, now: float) -> None:
        """The peer tells what arrived of the packets of the session that we send on."""
        path = self._path
        arrived, lost = self.flight.report(feedback)
        arrived_bytes = large = 0
        for number, sent_at, size_bytes, content, start, end, _ in arrived:
            arrived_bytes += size_bytes
            large += size_bytes > BASE_BYTES
            if number == feedback.latest:
                path.trip.measured(now - sent_at - feedback.delay_us / 1e6, now)
            if content is None:
                path.mtu.probe_arrived(end)
            elif type(content) is not bytes:
                self._note_arrived(content, end - start)
        # The latest may have come beyond what is told of, while others are overdue.
        latest_sent_at = self.flight.sent_at(feedback.latest)
        if latest_sent_at is not None:
            path.trip.measured(now - latest_sent_at - feedback.delay_us / 1e6, now)
        told = [each for each in lost if each[3] is not None and each[0] >= feedback.first]
        path.mtu.reported(large, sum(packet[2] > BASE_BYTES for packet in told))
        for packet in reversed(lost):
            self._on_lost(packet, feedback.session_id, now)
        if arrived or lost:  # else it tells of what was sent again since: we ask too soon
            self._probes = 0
            self.probe_at = now + path.trip.probe_s if self.flight else math.inf
            latest_at = arrived[-1][1] if arrived else -math.inf
            path.reported(len(arrived), arrived_bytes, len(told), latest_at, now)
        else:
            path.heeded()

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

    # --- loss -----------------------------------------------------------------------------------

    def reroute(self, session_id: bytes, now: float) -> None:
        """We send on another session from now on: what is on its way goes again there, and the peer
        tells from the old numbers what it has got already."""
        for packet in reversed(self.flight.take_all()):
            self._again(packet, session_id, packet[6], now)
        self.probe_at, self._probes = math.inf, 0

    def _on_lost(self, packet: Packet, session_id: bytes, now: float) -> None:
        if packet[3] is None:
            self._path.mtu.probe_lost(now)
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
                self._queues.put_first(part, content.rank)
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
        self.let_go += content is not None

    def on_silence(self, session_id: bytes, now: float) -> None:
        """Nothing was heard of the last packets for long: send the content of the last again, and the
        report of that tells of all before it (RFC 8985, 7.3)."""
        self.may_break_out = 0
        flight = self.flight
        self._probes += 1
        if self._probes > PROBES_LIMIT:
            for packet in flight.take_all():
                self._let_go(packet[3])
        elif self._probes >= SILENT_PROBES:
            self._path.silent(now, is_new=self._probes == SILENT_PROBES)
        # Probes of the path are given up later, for their report may be on its way.
        probes: list[Packet] = []
        while flight and self.may_break_out < PROBE_PACKETS:
            packet = flight.pop()
            if packet[3] is None and self._probes <= PATIENT_PROBES:
                probes.append(packet)
            elif packet[3] is None:
                self._path.mtu.probe_lost(now)
            else:
                self._again(packet, session_id, packet[6], now)
                self.may_break_out += 1
        for packet in reversed(probes):
            flight.add(packet)
        if not flight and not self.may_break_out:
            self._probes, self.probe_at = 0, math.inf
            return
        longest_s = max(LONGEST_PROBE_S, self._path.trip.probe_s)
        doublings = max(0, self._probes - PATIENT_PROBES)
        self.probe_at = now + min(self._path.trip.probe_s * 2**doublings, longest_s)
