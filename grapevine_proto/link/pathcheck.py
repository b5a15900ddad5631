"""Whether a peer is elsewhere: what was heard from a new address is doubted until both have answered.

A peer whose address changes (a NAT that rebinds, a machine that moves) goes on with its session. Yet
whoever can copy its packets can have them come from an address of their own first, so an address is
taken only where a secret sent there comes back, and only where the one before is silent.

What must stay true:

- One address is checked at a time, and one a second, on the word of the newest packet only.
- The old address wins if it answers at all within `ROUNDS` round trips of its own; after that the
  new one, whose way may be much longer, if it answers within `PATIENCE_S`; else nothing changes.
- The new address is sent no more bytes than came from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from grapevine_proto.codec import DATA_OVERHEAD, PATH_TOKEN_BYTES
from grapevine_proto.ids import Address

ASKING_BYTES: Final = DATA_OVERHEAD + 1 + PATH_TOKEN_BYTES  # the datagram
CHECK_EVERY_S: Final = 1.0
PATIENCE_S: Final = 1.0  # longer than any way round the world
ROUNDS: Final = 3  # and as many tries for each address, for one of them may be lost


class Whereabouts:
    """What one link does about packets of its peer from other addresses. `entropy` gives what nobody
    can answer who did not get it; the peer itself may not guess it either."""

    __slots__ = (
        "_credit_bytes",
        "_ends_at",
        "_entropy",
        "_has_answered",
        "_new",
        "_new_token",
        "_next_at",
        "_old_token",
        "_round_s",
        "_settles_at",
        "_try_at",
    )

    def __init__(self, entropy: Callable[[int], bytes]) -> None:
        self._entropy = entropy
        self._new: Address | None = None
        self._new_token = self._old_token = b""
        self._credit_bytes = 0
        self._has_answered = False
        self._round_s = 0.0
        self._try_at = math.inf
        self._next_at = -math.inf
        self._settles_at = math.inf  # the old one has had its time
        self._ends_at = math.inf

    @property
    def deadline(self) -> float:
        """When to ask (again), or to say how it ended."""
        if self._new is None:
            return math.inf
        return min(self._try_at, self._settles_at if self._has_answered else self._ends_at)

    def heard(
        self, source: Address, size_bytes: int, *, is_newest: bool, round_s: float, now: float
    ) -> None:
        """A packet of the peer came from `source`, which is not where we send."""
        if source == self._new:
            self._credit_bytes += size_bytes
        elif self._new is None and is_newest and now >= self._next_at:
            self._new, self._credit_bytes, self._has_answered = source, size_bytes, False
            self._new_token, self._old_token = (self._entropy(PATH_TOKEN_BYTES) for _ in range(2))
            self._round_s = round_s
            self._try_at, self._settles_at = now, now + ROUNDS * round_s
            self._ends_at = max(self._settles_at, now + PATIENCE_S)

    def due(self, now: float) -> list[tuple[bytes, Address | None]]:
        """Tokens to send now, and where to; None: where we send all else."""
        if self._new is None or now < self._try_at:
            return []
        self._try_at = now + self._round_s
        if self._try_at >= self._settles_at:
            self._try_at = math.inf
        tokens: list[tuple[bytes, Address | None]] = [(self._old_token, None)]
        if self._credit_bytes >= ASKING_BYTES:
            self._credit_bytes -= ASKING_BYTES
            tokens.append((self._new_token, self._new))
        return tokens

    def answered(self, token: bytes, now: float) -> None:
        """This token came back."""
        if self._new is None:
            return
        if token == self._old_token:
            self._end(now)
        elif token == self._new_token:
            self._has_answered = True

    def verdict(self, now: float) -> Address | None:
        """Where the peer is from now on; None: where it was, or it is not clear yet."""
        if self._new is None or now < (self._settles_at if self._has_answered else self._ends_at):
            return None
        moved_to = self._new if self._has_answered else None
        self._end(now)
        return moved_to

    def _end(self, now: float) -> None:
        self._new, self._new_token, self._old_token = None, b"", b""
        self._try_at = self._settles_at = self._ends_at = math.inf
        self._has_answered = False
        self._next_at = now + CHECK_EVERY_S
