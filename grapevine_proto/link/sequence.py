"""Packet numbers: which have been, so that none counts twice, and which have not, so that what they
carried is sent again.

What must stay true:

- `is_fresh` changes nothing, and `accept` and `note` are called only for a packet that was opened,
  so that nobody without the key moves a window.
- A number within a `report` that it does not name as missing has arrived; one that it names was
  overtaken by others at least `reorder_s` ago.
- Work for one packet does not depend on how many numbers it skips.
- A number is claimed once: by the packet that bears it or by the one that repeats its content.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from operator import itemgetter
from typing import Final, NamedTuple

WINDOW: Final = 2048  # packets; at 10,000 a second a packet may be overtaken by 200 ms of others

_WORD_BITS: Final = 64
_WORDS: Final = WINDOW // _WORD_BITS + 1  # one more than the window, for the word being filled


class ReplayWindow:
    """The last `WINDOW` packet numbers, as a ring of words (RFC 6479): moving on clears whole words
    and shifts nothing. Anything older counts as seen."""

    __slots__ = ("_highest", "_words")

    def __init__(self) -> None:
        self._highest = -1
        self._words = [0] * _WORDS

    def is_fresh(self, counter: int) -> bool:
        """Whether a packet with this number may be new: within the window and not accepted yet."""
        if counter > self._highest:
            return True
        if counter <= self._highest - WINDOW:
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


MISSING_LIMIT: Final = 2048  # ranges: 10,000 packets at 30 % loss, and 300 KB in a flood of gaps
RANGES_LIMIT: Final = 64  # of one report: half of a small datagram
REPEATED: Final = 6  # reports that name a loss: at 30 % loss one in a thousand is told by none
IMPATIENT: Final = 1.5  # factor for each loss told of that was none (RFC 8985 widens likewise)
MOST_PATIENT: Final = 4.0  # then it is a whole round trip
CALMING: Final = 0.98  # factor for each report
_FIRST: Final = itemgetter(0)
LEAST_REORDER_S: Final = 0.010  # what the queues of one machine swap


class Report(NamedTuple):
    """What has arrived: from `first` on and before `end`, all but the `missing` ranges, ascending.
    `latest` came `delay_s` ago."""

    first: int
    end: int
    latest: int
    delay_s: float
    missing: tuple[tuple[int, int], ...]


class Arrivals:
    """Which packet numbers of one session are missing, and what the sender should be told of it.

    `note` each number as it comes, `owe` a report where the packet asked for one by what it carries;
    from `due_at` on it is time to `report`. `heed` what the link learns of the path.
    """

    __slots__ = (
        "_latest",
        "_latest_at",
        "_mark",
        "_mark_at",
        "_matured",
        "_missing",
        "_owes",
        "_patience",
        "_reorder_s",
        "_told",
        "_told_at",
        "due_at",
        "highest",
        "reorder_s",
        "rtt_s",
    )

    def __init__(self) -> None:
        self.highest = -1
        self.rtt_s = LEAST_REORDER_S
        self.reorder_s = LEAST_REORDER_S
        self._reorder_s = LEAST_REORDER_S  # the same on a path that overtakes much
        self._patience = 1.0
        self.due_at = float("inf")
        self._missing: list[tuple[int, int]] = []  # ranges, ascending
        self._mark, self._mark_at = -1, 0.0  # the highest number as of some time ago
        self._matured = -1  # nothing up to here is merely late any more
        self._latest, self._latest_at = -1, 0.0
        self._owes = False
        self._told = [-1] * REPEATED  # the tops of the last reports
        self._told_at = float("-inf")

    def note(self, counter: int, now: float) -> None:
        """The packet with this number has come."""
        expected = self.highest + 1
        if counter == expected:
            self.highest = counter
        elif counter > expected:
            self._missing.append((expected, counter - 1))
            self._bound_missing()
            self.highest = counter
        else:
            if self._find(counter) and counter <= self._told[-1]:
                self._patience = min(self._patience * IMPATIENT, MOST_PATIENT)  # it was only late
            return
        if now - self._mark_at >= self._reorder_s:
            self._matured, self._mark, self._mark_at = self._mark, counter, now

    def heed(self, rtt_s: float, reorder_s: float) -> None:
        """What is known of the path by now."""
        self.rtt_s, self.reorder_s = rtt_s, reorder_s
        self._reorder_s = reorder_s * self._patience

    def _find(self, counter: int) -> bool:
        """Take this number from the missing ones; whether it was among them."""
        missing = self._missing
        index = bisect_right(missing, counter, key=_FIRST) - 1
        if index < 0 or missing[index][1] < counter:
            return False
        first, last = missing[index]
        rest = [(first, counter - 1)] if first < counter else []
        if counter < last:
            rest.append((counter + 1, last))
        missing[index : index + 1] = rest
        self._bound_missing()
        return True

    def _bound_missing(self) -> None:
        if len(self._missing) > MISSING_LIMIT:
            del self._missing[0]  # its content will be taken for one that came

    def owe(self, counter: int, now: float) -> None:
        """The packet with this number asks for a report: one a round trip, and late enough to tell
        a lost packet from one that was overtaken."""
        if counter > self._latest:
            self._latest, self._latest_at = counter, now
        if not self._owes:
            self._owes = True
            self.due_at = max(now + self._reorder_s, self._told_at + self.rtt_s)

    def claim(self, counter: int, now: float) -> bool:
        """Whether the content of this number, repeated in another packet, is new here. From now on
        it is not, and neither is the packet itself."""
        if counter <= self.highest:
            return self._find(counter)
        self.note(counter, now)
        return True

    def report(self, now: float) -> Report:
        """What to tell. Reads the missing ranges from above, as far as the last few reports."""
        if now - self._mark_at >= self._reorder_s:
            self._matured, self._mark, self._mark_at = self._mark, self.highest, now
        matured, stop = self._matured, self._told[0]
        top, below = self.highest, stop
        ranges: deque[tuple[int, int]] = deque()  # ascending
        is_cut = False
        for low, high in reversed(self._missing):
            if high <= stop:
                break
            if high > matured:  # what is merely late is not spoken of
                top = max(low - 1, matured)
                if low > matured:
                    continue
            ranges.appendleft((max(low, stop + 1), min(high, matured)))
            if len(ranges) > RANGES_LIMIT:
                if high <= self._told[-1]:  # told before: enough
                    below = ranges.popleft()[1]
                    break
                top = ranges.pop()[0] - 1  # its turn is in the next report, at once
                is_cut = True
        self._owes = top < self.highest
        self._told = [*self._told[1:], max(top, self._told[-1])]
        self._told_at = now
        self._patience = max(self._patience * CALMING, 1.0)
        self._reorder_s = self.reorder_s * self._patience
        pause_s = 0.0 if is_cut else max(self._reorder_s, self.rtt_s)
        self.due_at = now + pause_s if self._owes else float("inf")
        delay_s = now - self._latest_at
        return Report(below + 1, top + 1, self._latest, delay_s, tuple(ranges))
