"""Packet numbers: which have been, so that none counts twice, and which have not, so that what they
carried is sent again.

What must stay true:

- `is_fresh` changes nothing, and `accept` and `on_packet` are called only for a packet that was opened,
  so that nobody without the key moves a window.
- A number within a `build_ack` that it does not name as missing has arrived; one that it names was
  overtaken by others at least `reorder_window_s` ago.
- Work for one packet does not depend on how many numbers it skips.
- A number is claimed once: by the packet that bears it or by the one that repeats its content.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from operator import itemgetter
from typing import Final, NamedTuple

REPLAY_WINDOW_PACKETS: Final = (
    2048  # packets; at 10,000 a second a packet may be overtaken by 200 ms of others
)

_WORD_BITS: Final = 64
_WORDS: Final = (
    REPLAY_WINDOW_PACKETS // _WORD_BITS + 1
)  # one more than the window, for the word being filled


class ReplayWindow:
    """The last `REPLAY_WINDOW_PACKETS` packet numbers, as a ring of words (RFC 6479): moving on clears
    whole words
    and shifts nothing. Anything older counts as seen."""

    __slots__ = ("_highest", "_words")

    def __init__(self) -> None:
        self._highest = -1
        self._words = [0] * _WORDS

    def is_fresh(self, counter: int) -> bool:
        """Whether a packet with this number may be new: within the window and not accepted yet."""
        if counter > self._highest:
            return True
        if counter <= self._highest - REPLAY_WINDOW_PACKETS:
            return False
        return not self._words[counter // _WORD_BITS % _WORDS] >> counter % _WORD_BITS & 1

    def accept(self, counter: int) -> None:
        """Note that the packet with this number, which `is_fresh` and opened, has been."""
        word = counter // _WORD_BITS
        if counter == self._highest + 1 and counter % _WORD_BITS:  # nearly always
            self._highest = counter
        elif counter > self._highest:
            last = self._highest // _WORD_BITS
            for entered in range(max(last + 1, word - _WORDS + 1), word + 1):
                self._words[entered % _WORDS] = 0
            self._highest = counter
        self._words[word % _WORDS] |= 1 << counter % _WORD_BITS


MISSING_RANGES_LIMIT: Final = (
    2048  # ranges: 10,000 packets at 30 % loss, and 300 KB in a flood of gaps
)
ACK_RANGES_LIMIT: Final = 64  # of one report: half of a small datagram
ACKS_PER_LOSS: Final = 6  # reports that name a loss: at 30 % loss one in a thousand is told by none
REORDER_FACTOR_GROWTH: Final = (
    1.5  # factor for each loss told of that was none (RFC 8985 widens likewise)
)
REORDER_FACTOR_LIMIT: Final = 4.0  # then it is a whole round trip
REORDER_FACTOR_DECAY: Final = 0.98  # factor for each report
_RANGE_START: Final = itemgetter(0)
MIN_REORDER_WINDOW_S: Final = 0.010  # what the queues of one machine swap


class AckRanges(NamedTuple):
    """What has arrived: from `first` on and before `end`, all but the `missing` ranges, ascending.
    `latest` came `ack_delay_s` ago."""

    first: int
    end: int
    latest: int
    ack_delay_s: float
    missing: tuple[tuple[int, int], ...]


class AckTracker:
    """Which packet numbers of one session are missing, and what the sender should be told of it.

    `on_packet` each number as it comes, `schedule_ack` a report where the packet asked for one by what
    it carries;
    from `due_at` on it is time to `build_ack`. `update_rtt` what the link learns of the path.
    """

    __slots__ = (
        "_ack_tops",
        "_checkpoint",
        "_checkpoint_at",
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
        self._scaled_reorder_window_s = (
            MIN_REORDER_WINDOW_S  # the same on a path that overtakes much
        )
        self._reorder_factor = 1.0
        self.due_at = float("inf")
        self._missing: list[tuple[int, int]] = []  # ranges, ascending
        self._checkpoint, self._checkpoint_at = -1, 0.0  # the highest number as of some time ago
        self._reorder_cutoff = -1  # nothing up to here is merely late any more
        self._latest, self._latest_at = -1, 0.0
        self._is_ack_pending = False
        self._ack_tops = [-1] * ACKS_PER_LOSS  # the tops of the last reports
        self._last_ack_at = float("-inf")

    def on_packet(self, counter: int, now: float) -> None:
        """The packet with this number has come."""
        expected = self.highest + 1
        if counter == expected:
            self.highest = counter
        elif counter > expected:
            self._missing.append((expected, counter - 1))
            self._limit_missing()
            self.highest = counter
        else:
            if self._remove_missing(counter) and counter <= self._ack_tops[-1]:
                self._reorder_factor = min(
                    self._reorder_factor * REORDER_FACTOR_GROWTH, REORDER_FACTOR_LIMIT
                )  # it was only late
            return
        if now - self._checkpoint_at >= self._scaled_reorder_window_s:
            self._reorder_cutoff, self._checkpoint, self._checkpoint_at = (
                self._checkpoint,
                counter,
                now,
            )

    def update_rtt(self, rtt_s: float, reorder_window_s: float) -> None:
        """What is known of the path by now."""
        self.rtt_s, self.reorder_window_s = rtt_s, reorder_window_s
        self._scaled_reorder_window_s = reorder_window_s * self._reorder_factor

    def _remove_missing(self, counter: int) -> bool:
        """Take this number from the missing ones; whether it was among them."""
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
            del self._missing[0]  # its content will be taken for one that came

    def schedule_ack(self, counter: int, now: float) -> None:
        """The packet with this number asks for a report: one a round trip, and late enough to tell
        a lost packet from one that was overtaken."""
        if counter > self._latest:
            self._latest, self._latest_at = counter, now
        if not self._is_ack_pending:
            self._is_ack_pending = True
            self.due_at = max(now + self._scaled_reorder_window_s, self._last_ack_at + self.rtt_s)

    def claim(self, counter: int, now: float) -> bool:
        """Whether the content of this number, repeated in another packet, is new here. From now on
        it is not, and neither is the packet itself."""
        if counter <= self.highest:
            return self._remove_missing(counter)
        self.on_packet(counter, now)
        return True

    def build_ack(self, now: float) -> AckRanges:
        """What to tell. Reads the missing ranges from above, as far as the last few reports."""
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
                break
            if high > cutoff:  # what is merely late is not spoken of
                top = max(low - 1, cutoff)
                if low > cutoff:
                    continue
            ranges.appendleft((max(low, stop + 1), min(high, cutoff)))
            if len(ranges) > ACK_RANGES_LIMIT:
                if high <= self._ack_tops[-1]:  # told before: enough
                    below = ranges.popleft()[1]
                    break
                top = ranges.pop()[0] - 1  # its turn is in the next report, at once
                is_truncated = True
        self._is_ack_pending = top < self.highest
        self._ack_tops = [*self._ack_tops[1:], max(top, self._ack_tops[-1])]
        self._last_ack_at = now
        self._reorder_factor = max(self._reorder_factor * REORDER_FACTOR_DECAY, 1.0)
        self._scaled_reorder_window_s = self.reorder_window_s * self._reorder_factor
        interval_s = 0.0 if is_truncated else max(self._scaled_reorder_window_s, self.rtt_s)
        self.due_at = now + interval_s if self._is_ack_pending else float("inf")
        ack_delay_s = now - self._latest_at
        return AckRanges(below + 1, top + 1, self._latest, ack_delay_s, tuple(ranges))
