"""Receive-side acknowledgment state of one session: which packet numbers arrived and which are missing
(RFC 9000, section 13.2; RFC 9002).

Invariants:

- Call `on_packet` only for a packet that was decrypted, so that a node without the key cannot change what
  is acknowledged.
- Within an `AckRanges`, every number that is not missing has arrived, and every missing one was overtaken
  by later packets at least `reorder_window_s` ago.
- The cost of one packet does not depend on how many numbers it skips.
- A packet number is claimed once: by the packet that bears it or by the one that retransmits its content.
- An ACK waits longer than the reordering window only where the peer permits it (RFC 9000, section 13.2.1):
  never on a path that lately lost or reordered packets, nor for more than `DELAYED_PACKETS_LIMIT` packets.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from operator import itemgetter
from typing import Final, NamedTuple

MISSING_RANGES_LIMIT: Final = 2048  # covers 10,000 packets at 30 % loss; 300 KB at most
ACK_RANGES_LIMIT: Final = 64  # per ACK: half of a small datagram
ACKS_PER_LOSS: Final = (
    6  # ACKs that report a loss; at 30 % loss all six are lost once in a thousand
)
REORDER_FACTOR_GROWTH: Final = (
    1.5  # per loss reported too early (RFC 8985 widens its window likewise)
)
REORDER_FACTOR_LIMIT: Final = 4.0  # a quarter of the RTT times this is one RTT
REORDER_FACTOR_DECAY: Final = 0.98  # per ACK
MIN_REORDER_WINDOW_S: Final = 0.010  # reordering by queues within one machine
DELAYED_PACKETS_LIMIT: Final = 8  # less than the initial window, which must not fill up
PROMPT_AFTER_LOSS_S: Final = (
    30.0  # at 10 % loss and a packet a second, the next loss is nearly certain
)
_RANGE_START: Final = itemgetter(0)


class AckRanges(NamedTuple):
    """The packet numbers acknowledged by one ACK: `first` up to but not including `end`, except the
    `missing` ranges.

    `missing` is ascending; both ends of a range are included. `latest` is the highest ack-eliciting packet
    number, which arrived `ack_delay_s` seconds ago.
    """

    first: int
    end: int
    latest: int
    ack_delay_s: float
    missing: tuple[tuple[int, int], ...]


class AckTracker:
    """Tracks the packet numbers of one receiving session and decides when to acknowledge them.

    Call `on_packet` for each packet, `schedule_ack` also for each ack-eliciting one, and `build_ack` once
    `due_at` has passed, or `can_piggyback` holds. `update_rtt` keeps the ACK interval and the reordering
    window current.
    """

    __slots__ = (
        "_ack_tops",
        "_checkpoint",
        "_checkpoint_at",
        "_first_delayed",
        "_gap_at",
        "_is_ack_pending",
        "_last_ack_at",
        "_latest",
        "_latest_at",
        "_missing",
        "_reorder_cutoff",
        "_reorder_factor",
        "_scaled_reorder_window_s",
        "due_at",
        "highest",
        "reorder_window_s",
        "rtt_s",
    )

    def __init__(self) -> None:
        self.highest = -1
        self.rtt_s = MIN_REORDER_WINDOW_S
        self.reorder_window_s = MIN_REORDER_WINDOW_S
        # wider on a path that reorders a lot
        self._scaled_reorder_window_s = MIN_REORDER_WINDOW_S
        self._reorder_factor = 1.0
        self.due_at = float("inf")
        self._missing: list[tuple[int, int]] = []  # ranges, ascending
        self._checkpoint = -1  # the highest number one reordering window ago
        self._checkpoint_at = float("-inf")
        self._reorder_cutoff = -1  # what is missing up to here is lost, not reordered
        self._latest, self._latest_at = -1, 0.0
        self._is_ack_pending = False
        self._first_delayed: int | None = None  # since when the pending ACK is delayed; None: not
        self._gap_at = float("-inf")  # when a packet last was missing
        self._ack_tops = [-1] * ACKS_PER_LOSS  # the highest numbers covered by the last ACKs
        self._last_ack_at = float("-inf")

    def on_packet(self, counter: int, now: float) -> None:
        """Records the arrival of packet number `counter`."""
        expected = self.highest + 1
        if counter == expected:
            self.highest = counter
        elif counter > expected:
            self._missing.append((expected, counter - 1))
            self._limit_missing()
            self.highest = counter
            self._gap_at = now
        else:
            if self._remove_missing(counter) and counter <= self._ack_tops[-1]:
                self._reorder_factor = min(
                    self._reorder_factor * REORDER_FACTOR_GROWTH, REORDER_FACTOR_LIMIT
                )  # it was reordered, not lost
            return
        if now - self._checkpoint_at >= self._scaled_reorder_window_s:
            self._reorder_cutoff, self._checkpoint, self._checkpoint_at = (
                self._checkpoint,
                counter,
                now,
            )

    def update_rtt(self, rtt_s: float, reorder_window_s: float) -> None:
        """Sets the smoothed RTT and the reordering window of the path, in seconds."""
        self.rtt_s, self.reorder_window_s = rtt_s, reorder_window_s
        self._scaled_reorder_window_s = reorder_window_s * self._reorder_factor

    def _remove_missing(self, counter: int) -> bool:
        """Removes `counter` from the missing numbers. Returns whether it was missing."""
        missing = self._missing
        index = bisect_right(missing, counter, key=_RANGE_START) - 1
        if index < 0 or missing[index][1] < counter:
            return False
        first, last = missing[index]
        rest = [(first, counter - 1)] if first < counter else []
        if counter < last:
            rest.append((counter + 1, last))
        missing[index : index + 1] = rest
        self._limit_missing()
        return True

    def _limit_missing(self) -> None:
        if len(self._missing) > MISSING_RANGES_LIMIT:
            del self._missing[0]  # it will be acknowledged although it is lost

    def schedule_ack(self, counter: int, now: float, max_delay_s: float = 0.0) -> None:
        """Schedules an ACK for the ack-eliciting packet number `counter`: at most one per RTT, and late
        enough to distinguish a lost packet from a reordered one. `max_delay_s` is how long the peer permits
        to wait for a packet that it can share."""
        if counter > self._latest:
            self._latest, self._latest_at = counter, now
        if self._is_ack_pending and self._first_delayed is None:
            return  # it is prompt
        first = counter if self._first_delayed is None else self._first_delayed
        may_delay = (
            max_delay_s > 0
            and counter - first < DELAYED_PACKETS_LIMIT
            and now - self._gap_at >= PROMPT_AFTER_LOSS_S
        )
        due_at = max(now + self._scaled_reorder_window_s, self._last_ack_at + self.rtt_s)
        if may_delay:
            due_at = max(due_at, now + max_delay_s)
        self.due_at = min(self.due_at, due_at) if self._is_ack_pending else due_at
        self._first_delayed = first if may_delay else None
        self._is_ack_pending = True

    @property
    def _has_new_gap(self) -> bool:
        """Whether a number is missing that no ACK has covered yet."""
        return bool(self._missing) and self._missing[-1][1] > self._ack_tops[-1]

    @property
    def ack_ranges(self) -> int:
        """Upper bound of the missing ranges in the next ACK."""
        return min(len(self._missing), ACK_RANGES_LIMIT)

    def can_piggyback(self, now: float) -> bool:
        """Whether an ACK may go now because a packet goes that it can share. An ACK that is to report a new
        gap waits until it can: otherwise the one that reports it would be an RTT later."""
        return self._is_ack_pending and (
            self.due_at <= now or (self._last_ack_at + self.rtt_s <= now and not self._has_new_gap)
        )

    def claim(self, counter: int, now: float) -> bool:
        """Claims packet number `counter`, whose content arrived in a retransmission. Returns whether
        that content is new. The original packet no longer counts as new after this call."""
        if counter > self.highest:
            self.on_packet(counter, now)
        elif not self._remove_missing(counter):
            return False
        self._gap_at = now
        return True

    def build_ack(self, now: float) -> AckRanges:
        """Returns the next ACK. It repeats losses until `ACKS_PER_LOSS` ACKs have reported them.

        Each range of missing numbers lies between two that arrived, and so do the cutoff and the ends of
        earlier ACKs: a range is reported whole or not at all.
        """
        if now - self._checkpoint_at >= self._scaled_reorder_window_s:
            self._reorder_cutoff, self._checkpoint, self._checkpoint_at = (
                self._checkpoint,
                self.highest,
                now,
            )
        cutoff, stop = self._reorder_cutoff, self._ack_tops[0]
        top, below = self.highest, stop
        ranges: deque[tuple[int, int]] = deque()  # ascending
        is_truncated = False
        for low, high in reversed(self._missing):
            if high <= stop:
                break  # reported often enough, as are those below
            if low > cutoff:  # it may still arrive: do not report it
                top = low - 1
                continue
            ranges.appendleft((low, high))
            if len(ranges) > ACK_RANGES_LIMIT:
                if high <= self._ack_tops[-1]:  # already reported
                    below = ranges.popleft()[1]
                    break
                top = ranges.pop()[0] - 1  # the next ACK reports it, without delay
                is_truncated = True
        self._is_ack_pending = top < self.highest
        self._first_delayed = None
        self._ack_tops = [*self._ack_tops[1:], top]
        self._last_ack_at = now
        self._reorder_factor = max(self._reorder_factor * REORDER_FACTOR_DECAY, 1.0)
        self._scaled_reorder_window_s = self.reorder_window_s * self._reorder_factor
        interval_s = 0.0 if is_truncated else max(self._scaled_reorder_window_s, self.rtt_s)
        self.due_at = now + interval_s if self._is_ack_pending else float("inf")
        ack_delay_s = now - self._latest_at
        return AckRanges(below + 1, top + 1, self._latest, ack_delay_s, tuple(ranges))
