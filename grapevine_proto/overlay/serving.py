"""What a peer is given when it asks: bounded in work, in bytes, and in how often it is given the same.

Invariants:
- An answer is at most `REPLY_DATAGRAMS`, and `REPLY_LIMIT_BYTES` but for one rumor that may be larger
  alone; the rest has to be asked for again.
- One peer is given at most `BYTES_BURST` of repair at once and `BYTES_S` a second after that; one body
  `GIVEN_LIMIT` times, and again once it has not been given for `GIVEN_S`.
- One peer has its digest answered with a vector at most `VECTORS_BURST` times at once and `VECTORS_S` a
  second.
- An answer looks at `LOOKED_AT` bodies and checks `CHECKS` signatures at most; what is left has to be
  asked for again.
- At most `PEERS_LIMIT` peers are remembered and of each `BODIES_LIMIT` bodies; the oldest are evicted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from grapevine_proto.ids import PeerId
from grapevine_proto.messages import Repair, RumorCopy, Want
from grapevine_proto.overlay.held import Held, Key, key_of
from grapevine_proto.overlay.ranges import merged
from grapevine_proto.ratelimit import TokenBucket

REPLY_DATAGRAMS: Final = 32
REPLY_BYTES: Final = 1000  # of rumors in one datagram, about
REPLY_LIMIT_BYTES: Final = 64 * 1024

BYTES_BURST: Final = 32 * 2**20  # half of what is held by default
BYTES_S: Final = 4 * 2**20
GIVEN_LIMIT: Final = 4  # links repeat what is lost: more often is hardly ever honest
GIVEN_S: Final = 30.0
VECTORS_BURST: Final = 8.0
VECTORS_S: Final = 1.0
LOOKED_AT: Final = 512
CHECKS: Final = (
    12  # half a millisecond; with fewer a joiner is cut off so often that much comes twice
)

PEERS_LIMIT: Final = 1024
BODIES_LIMIT: Final = 1024


class _Account:
    """What one peer was given."""

    __slots__ = ("given", "payload", "vectors")

    def __init__(self, now: float) -> None:
        self.payload = TokenBucket(BYTES_BURST, BYTES_S, now)
        self.vectors = TokenBucket(VECTORS_BURST, VECTORS_S, now)
        self.given: dict[Key, tuple[int, float]] = {}  # how often, and when last

    def may_have(self, key: Key, now: float) -> bool:
        times, at = self.given.get(key, (0, now))
        return times < GIVEN_LIMIT or now - at >= GIVEN_S

    def note(self, key: Key, now: float) -> None:
        times, at = self.given.pop(key, (0, now))
        self.given[key] = (1 if now - at >= GIVEN_S else times + 1, now)
        if len(self.given) > BODIES_LIMIT:
            del self.given[next(iter(self.given))]


class Serving:
    """Answers questions about what is held. `refused` counts bodies and vectors that were not given
    because the peer had had them, or too much."""

    def __init__(self, held: Held) -> None:
        self._held = held
        self._accounts: OrderedDict[PeerId, _Account] = OrderedDict()
        self.refused = 0

    def __len__(self) -> int:
        return len(self._accounts)

    def may_compare(self, peer_id: PeerId, now: float) -> bool:
        """Whether another digest of `peer_id` is answered with a vector."""
        if self._account(peer_id, now).vectors.take(now):
            return True
        self.refused += 1
        return False

    def answer(self, want: Want, peer_id: PeerId, now: float) -> list[Repair]:
        """What is held of what is wanted, in messages of a datagram each; one at least, maybe empty."""
        account = self._account(peer_id, now)
        room_bytes = account.payload.available(now)
        batches: list[list[RumorCopy]] = [[]]
        size_bytes = total_bytes = 0
        more = False
        for copy in self._chosen(want, account, now):
            if copy is None:
                more = True
                break
            cost_bytes = copy.rumor.size_bytes
            is_full = bool(batches[-1]) and size_bytes + cost_bytes > REPLY_BYTES
            limit_bytes = min(REPLY_LIMIT_BYTES, room_bytes)
            more = (total_bytes > 0 and total_bytes + cost_bytes > limit_bytes) or (
                is_full and len(batches) == REPLY_DATAGRAMS
            )
            if room_bytes < min(cost_bytes, REPLY_LIMIT_BYTES):
                self.refused += 1
                break
            if more:
                break
            if is_full:
                batches.append([])
                size_bytes = 0
            batches[-1].append(copy)
            account.note(key_of(copy.rumor), now)
            size_bytes += cost_bytes
            total_bytes += cost_bytes
        if total_bytes:
            account.payload.take(now, min(total_bytes, account.payload.available(now)))
        last = len(batches) - 1
        return [
            Repair(want.round, index == last, more, tuple(batch))
            for index, batch in enumerate(batches)
        ]

    def _chosen(self, want: Want, account: _Account, now: float) -> Iterator[RumorCopy | None]:
        """What may be given of what is wanted; None at the end where not all of it was looked at."""
        left = LOOKED_AT
        checked = self._held.checked
        for wanted in merged(want.ranges):
            for key in self._held.keys_within(wanted):
                left -= 1
                if left < 0 or self._held.checked - checked >= CHECKS:
                    yield None
                    return
                if not account.may_have(key, now):
                    self.refused += 1
                    continue
                copy = self._held.copy(key, now)
                if copy is not None and copy.rumor.last >= wanted.first:
                    yield replace(copy, hops=copy.hops + 1)

    def _account(self, peer_id: PeerId, now: float) -> _Account:
        account = self._accounts.get(peer_id)
        if account is None:
            account = self._accounts[peer_id] = _Account(now)
            if len(self._accounts) > PEERS_LIMIT:
                self._accounts.popitem(last=False)
        else:
            self._accounts.move_to_end(peer_id)
        return account
