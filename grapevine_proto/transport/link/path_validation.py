"""Whether a peer is elsewhere: what was heard from a new address is doubted until both have answered.

A peer whose address changes (a NAT that rebinds, a machine that moves) goes on with its session. Yet
whoever can copy its packets can have them come from an address of their own first, so an address is
taken only where a secret sent there comes back, and only where the one before is silent.

What must stay true:

- One address is checked at a time, and one a second, on the word of the newest packet only.
- The old address wins if it answers at all within `CURRENT_PATH_ROUNDS` round trips of its own; after
  that the
  new one, whose way may be much longer, if it answers within `VALIDATION_TIMEOUT_S`; else nothing changes.
- The new address is sent no more bytes than came from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from grapevine_proto.ids import Address
from grapevine_proto.wire.codec import DATA_OVERHEAD_BYTES, PATH_TOKEN_BYTES

CHALLENGE_DATAGRAM_BYTES: Final = DATA_OVERHEAD_BYTES + 1 + PATH_TOKEN_BYTES  # the datagram
VALIDATION_INTERVAL_S: Final = 1.0
VALIDATION_TIMEOUT_S: Final = 1.0  # longer than any way round the world
CURRENT_PATH_ROUNDS: Final = 3  # and as many tries for each address, for one of them may be lost


class PathValidator:
    """What one link does about packets of its peer from other addresses. `entropy` gives what nobody
    can answer who did not get it; the peer itself may not guess it either."""

    __slots__ = (
        "_amplification_credit_bytes",
        "_candidate",
        "_candidate_token",
        "_current_path_until",
        "_current_token",
        "_entropy",
        "_expires_at",
        "_interval_s",
        "_is_validated",
        "_next_validation_at",
        "_send_at",
    )

    def __init__(self, entropy: Callable[[int], bytes]) -> None:
        self._entropy = entropy
        self._candidate: Address | None = None
        self._candidate_token = self._current_token = b""
        self._amplification_credit_bytes = 0
        self._is_validated = False
        self._interval_s = 0.0
        self._send_at = math.inf
        self._next_validation_at = -math.inf
        self._current_path_until = math.inf  # the old one has had its time
        self._expires_at = math.inf

    @property
    def deadline(self) -> float:
        """When to ask (again), or to say how it ended."""
        if self._candidate is None:
            return math.inf
        return min(
            self._send_at, self._current_path_until if self._is_validated else self._expires_at
        )

    def on_new_source(
        self, source: Address, size_bytes: int, *, is_newest: bool, interval_s: float, now: float
    ) -> None:
        """A packet of the peer came from `source`, which is not where we send."""
        if source == self._candidate:
            self._amplification_credit_bytes += size_bytes
        elif self._candidate is None and is_newest and now >= self._next_validation_at:
            self._candidate, self._amplification_credit_bytes, self._is_validated = (
                source,
                size_bytes,
                False,
            )
            self._candidate_token, self._current_token = (
                self._entropy(PATH_TOKEN_BYTES) for _ in range(2)
            )
            self._interval_s = interval_s
            self._send_at, self._current_path_until = now, now + CURRENT_PATH_ROUNDS * interval_s
            self._expires_at = max(self._current_path_until, now + VALIDATION_TIMEOUT_S)

    def pop_due_challenges(self, now: float) -> list[tuple[bytes, Address | None]]:
        """Tokens to send now, and where to; None: where we send all else."""
        if self._candidate is None or now < self._send_at:
            return []
        self._send_at = now + self._interval_s
        if self._send_at >= self._current_path_until:
            self._send_at = math.inf
        tokens: list[tuple[bytes, Address | None]] = [(self._current_token, None)]
        if self._amplification_credit_bytes >= CHALLENGE_DATAGRAM_BYTES:
            self._amplification_credit_bytes -= CHALLENGE_DATAGRAM_BYTES
            tokens.append((self._candidate_token, self._candidate))
        return tokens

    def on_response(self, token: bytes, now: float) -> None:
        """This token came back."""
        if self._candidate is None:
            return
        if token == self._current_token:
            self._finish(now)
        elif token == self._candidate_token:
            self._is_validated = True

    def take_validated_address(self, now: float) -> Address | None:
        """Where the peer is from now on; None: where it was, or it is not clear yet."""
        if self._candidate is None or now < (
            self._current_path_until if self._is_validated else self._expires_at
        ):
            return None
        validated = self._candidate if self._is_validated else None
        self._finish(now)
        return validated

    def _finish(self, now: float) -> None:
        self._candidate, self._candidate_token, self._current_token = None, b"", b""
        self._send_at = self._current_path_until = self._expires_at = math.inf
        self._is_validated = False
        self._next_validation_at = now + VALIDATION_INTERVAL_S
