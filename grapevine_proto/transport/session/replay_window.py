"""Replay protection for one receiving session: a sliding window of packet numbers (RFC 6479).

Invariants:

- `is_fresh` changes nothing. Call `accept` only for a packet that was decrypted, so that a node without
  the key cannot move the window.
- A packet number is accepted once.
- The cost of one packet does not depend on how many numbers it skips.
"""

from __future__ import annotations

from typing import Final

REPLAY_WINDOW_PACKETS: Final = 2048  # tolerates 200 ms of reordering at 10,000 packets/s

_WORD_BITS: Final = 64
_WORDS: Final = REPLAY_WINDOW_PACKETS // _WORD_BITS + 1  # the extra one is being filled


class ReplayWindow:
    """The last `REPLAY_WINDOW_PACKETS` packet numbers, as a ring of words.

    Advancing clears whole words and shifts nothing. Numbers below the window count as replays.
    """

    __slots__ = ("_highest", "_words")

    def __init__(self) -> None:
        self._highest = -1
        self._words = [0] * _WORDS

    def is_fresh(self, counter: int) -> bool:
        """Whether packet number `counter` is above the window, or in it and not accepted yet."""
        if counter > self._highest:
            return True
        if counter <= self._highest - REPLAY_WINDOW_PACKETS:
            return False
        return not self._words[counter // _WORD_BITS % _WORDS] >> counter % _WORD_BITS & 1

    def accept(self, counter: int) -> None:
        """Marks packet number `counter` as received. The packet must be fresh and decrypted."""
        word = counter // _WORD_BITS
        if counter == self._highest + 1 and counter % _WORD_BITS:  # in order: the common case
            self._highest = counter
        elif counter > self._highest:
            highest_word = self._highest // _WORD_BITS
            for entered_word in range(max(highest_word + 1, word - _WORDS + 1), word + 1):
                self._words[entered_word % _WORDS] = 0
            self._highest = counter
        self._words[word % _WORDS] |= 1 << counter % _WORD_BITS
