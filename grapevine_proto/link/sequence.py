"""Packet numbers: which have been, so that none counts twice.

What must stay true: `is_fresh` changes nothing, and `accept` is called only for a packet that was
opened, so that nobody without the key moves the window.
"""

from __future__ import annotations

from typing import Final

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
        if counter > self._highest:
            last = self._highest // _WORD_BITS
            for entered in range(max(last + 1, word - _WORDS + 1), word + 1):
                self._words[entered % _WORDS] = 0
            self._highest = counter
        self._words[word % _WORDS] |= 1 << counter % _WORD_BITS
