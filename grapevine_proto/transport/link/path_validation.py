"""Path validation when a peer's packets arrive from a new address (RFC 9000, sections 8.2 and 9).

A peer whose address changes (NAT rebinding, a moved machine) continues its session. But an attacker on the
path can replay a packet from an address of its own, so an address is adopted only if a token sent there
comes back and the current address does not answer.

Invariants:

- One address is validated at a time, at most one per second, and only for the packet with the highest number.
- The current address wins if it answers within `CURRENT_PATH_ROUNDS` of its RTTs; otherwise the new one,
  whose path may be much longer, if it answers within `VALIDATION_TIMEOUT_S`; otherwise nothing changes.
- The new address is sent no more bytes than it sent (anti-amplification, RFC 9000, section 8.1). One whose
  first packet is smaller than a challenge is challenged when more arrived from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from grapevine_proto.ids import Address
from grapevine_proto.wire.codec import DATA_OVERHEAD_BYTES, PATH_TOKEN_BYTES

CHALLENGE_DATAGRAM_BYTES: Final = DATA_OVERHEAD_BYTES + 1 + PATH_TOKEN_BYTES
VALIDATION_INTERVAL_S: Final = 1.0
VALIDATION_TIMEOUT_S: Final = 1.0  # above any terrestrial RTT
CURRENT_PATH_ROUNDS: Final = 3  # one challenge each: single ones may be lost
CANDIDATE_CHALLENGES: Final = 3


class PathValidator:
    """Validates a new source address of one link's peer. `entropy` returns random bytes for the tokens,
    which even the peer must not be able to guess."""

    __slots__ = (
        "_amplification_credit_bytes",
        "_candidate",
        "_candidate_challenges_left",
        "_candidate_token",
        "_current_challenges_left",
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
        self._current_challenges_left = self._candidate_challenges_left = 0
        self._is_validated = False
        self._interval_s = 0.0
        self._send_at = math.inf
        self._next_validation_at = -math.inf
        self._current_path_until = math.inf  # until then the current address may answer
        self._expires_at = math.inf

    @property
    def deadline(self) -> float:
        """When to send challenges or to read the result; math.inf: no validation is running."""
        if self._candidate is None:
            return math.inf
        return min(
            self._send_at, self._current_path_until if self._is_validated else self._expires_at
        )

    def on_new_source(
        self, source: Address, size_bytes: int, *, is_newest: bool, interval_s: float, now: float
    ) -> None:
        """Handles an authenticated packet of `size_bytes` bytes from `source`, which is not the current
        address.

        `is_newest` is whether it has the highest packet number so far. `interval_s` is the RTT of the
        current path, the interval between challenges.
        """
        if source == self._candidate:
            self._amplification_credit_bytes += size_bytes
            if self._send_at == math.inf and self._may_challenge_candidate:
                self._send_at = now
                self._expires_at = max(self._expires_at, now + VALIDATION_TIMEOUT_S)
        elif self._candidate is None and is_newest and now >= self._next_validation_at:
            self._candidate, self._amplification_credit_bytes, self._is_validated = (
                source,
                size_bytes,
                False,
            )
            self._current_challenges_left = CURRENT_PATH_ROUNDS
            self._candidate_challenges_left = CANDIDATE_CHALLENGES
            self._candidate_token, self._current_token = (
                self._entropy(PATH_TOKEN_BYTES) for _ in range(2)
            )
            self._interval_s = interval_s
            self._send_at, self._current_path_until = now, now + CURRENT_PATH_ROUNDS * interval_s
            self._expires_at = max(self._current_path_until, now + VALIDATION_TIMEOUT_S)

    @property
    def _may_challenge_candidate(self) -> bool:
        return (
            not self._is_validated
            and self._candidate_challenges_left > 0
            and self._amplification_credit_bytes >= CHALLENGE_DATAGRAM_BYTES
        )

    def pop_due_challenges(self, now: float) -> list[tuple[bytes, Address | None]]:
        """Returns the due challenges as (token, destination); None is the current address."""
        if self._candidate is None or now < self._send_at:
            return []
        tokens: list[tuple[bytes, Address | None]] = []
        if self._current_challenges_left > 0:
            self._current_challenges_left -= 1
            tokens.append((self._current_token, None))
        if self._may_challenge_candidate:
            self._candidate_challenges_left -= 1
            self._amplification_credit_bytes -= CHALLENGE_DATAGRAM_BYTES
            tokens.append((self._candidate_token, self._candidate))
        is_done = not self._current_challenges_left and not self._may_challenge_candidate
        self._send_at = math.inf if is_done else now + self._interval_s
        return tokens

    def on_response(self, token: bytes, now: float) -> None:
        """Handles a PathResponse with `token`."""
        if self._candidate is None:
            return
        if token == self._current_token:
            self._finish(now)
        elif token == self._candidate_token:
            self._is_validated = True

    def take_validated_address(self, now: float) -> Address | None:
        """Ends a decided validation. Returns the address to adopt; None: keep the current one, or
        undecided."""
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
