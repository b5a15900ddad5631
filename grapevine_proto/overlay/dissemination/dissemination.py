"""Broadcasts: taking rumors in, telling the application, passing them on.

What must stay true:

- Cheap before dear: known? too old? may this stream be opened? within the signature budgets? Only
  then the signature, and only after it is anything marked, held or delivered.
- Whatever way a rumor comes, pushed or repaired, it is taken in here and nowhere else.
- A relayed rumor is the origin's, byte for byte; only hops and age beside it change.
"""

from __future__ import annotations

import math
import random
from collections import OrderedDict
from typing import Final

from grapevine_proto.config import NodeConfig
from grapevine_proto.errors import DropReason
from grapevine_proto.events import Message, MessageReceived, Via
from grapevine_proto.ids import MessageId, PeerId
from grapevine_proto.messages import Rumor, RumorCopy, Rumors
from grapevine_proto.overlay.dissemination.epidemic import Epidemic
from grapevine_proto.overlay.dissemination.strategy import Strategy
from grapevine_proto.overlay.effects import Blame, Effect, Emit, Send
from grapevine_proto.overlay.peers import PeerTable
from grapevine_proto.overlay.store import SWEEP_S, Store, key_of
from grapevine_proto.ratelimit import TokenBucket

# Signature checks, at 41 us each. One sender may cause a twentieth of a core; through one sender
# one origin may take a quarter of that, so that copies forged in its name leave room for others;
# and all that one origin really said, by whatever way, at most as much as a sender.
CHECKS_PER_SENDER_S: Final = 1200.0
CHECKS_PER_PAIR_S: Final = 300.0
TAKEN_PER_ORIGIN_S: Final = 1200.0
BURST_S: Final = 4.0
BUDGETS_LIMIT: Final = 4096  # of each sort; beyond it the least lately used starts anew


class _Budgets:
    """A token bucket per key, the least lately used forgotten beyond the limit."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._buckets: OrderedDict[tuple[PeerId, ...], TokenBucket] = OrderedDict()

    def take(self, key: tuple[PeerId, ...], now: float) -> bool:
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = TokenBucket(self._rate * BURST_S, self._rate, now)
            if len(self._buckets) > BUDGETS_LIMIT:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(key)
        return bucket.take(now)


class Dissemination:
    """The machine that owns rumors. Driven by pushed `Rumors`, by `accept` for repaired ones, by
    `broadcast`, and by its deadline."""

    def __init__(
        self, config: NodeConfig, peers: PeerTable, store: Store, rng: random.Random, now: float
    ) -> None:
        self._config = config
        self._peers = peers
        self._store = store
        self._strategy: Strategy = Epidemic(config, rng)
        self._tick_at = now + SWEEP_S
        self._by_sender = _Budgets(CHECKS_PER_SENDER_S)
        self._by_pair = _Budgets(CHECKS_PER_PAIR_S)
        self._by_origin = _Budgets(TAKEN_PER_ORIGIN_S)
        self.duplicates = 0
        self.relayed = 0
        self.repaired = 0

    def reconfigure(self, config: NodeConfig) -> None:
        self._config = config
        self._strategy.reconfigure(config)

    # --- ours -----------------------------------------------------------------------------------

    def broadcast(self, rumor: Rumor, now: float) -> list[Send]:
        """Spread a rumor of our own."""
        copy = RumorCopy(rumor, 0, 0)
        self._store.take(copy, rumor.origin, True, now)
        targets = self._strategy.spread(key_of(rumor), 0, None, self._peers.linked, now)
        return self._push(copy, targets)

    # --- theirs ---------------------------------------------------------------------------------

    def handle(self, message: Rumors, sender: PeerId, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for copy in message.copies:
            effects += self.accept(copy, sender, Via.EAGER, now)
        return effects

    def accept(self, copy: RumorCopy, sender: PeerId, via: Via, now: float) -> list[Effect]:
        """Take in one copy from `sender`: deliver what is new in it and pass it on."""
        rumor = copy.rumor
        if self._store.is_known(rumor, now):
            self.duplicates += 1
            self._store.heard_again(copy, now)
            self._strategy.heard_again(key_of(rumor), sender)
            return []
        copy = self._as_heard(copy, sender)
        refusal = self._refusal(copy, sender, now)
        if refusal is not None:
            return [Blame(sender, refusal)]
        origin_is_linked = self._peers.is_linked(rumor.origin)
        fresh = self._store.take(copy, sender, origin_is_linked, now)
        if via is Via.REPAIR:
            self.repaired += len(fresh)
        targets = self._strategy.spread(key_of(rumor), copy.hops, sender, self._peers.linked, now)
        return [*self._deliver(fresh, copy.hops, via, now), *self._push(copy, targets)]

    def _as_heard(self, copy: RumorCopy, sender: PeerId) -> RumorCopy:
        peer = self._peers.get(sender)
        half_trip_s = (peer.rtt_s or 0.0) / 2 if peer else 0.0
        return RumorCopy(copy.rumor, copy.hops, copy.age_ms + int(half_trip_s * 1000))

    def _refusal(self, copy: RumorCopy, sender: PeerId, now: float) -> DropReason | None:
        """Why not to take `copy`; None when it is proved. The order is the cost."""
        rumor = copy.rumor
        if copy.age_ms >= self._config.message_dedup_ttl * 1000:
            return DropReason.EXPIRED
        linked = self._peers.is_linked(rumor.origin)
        refusal = self._store.refusal(rumor.stream, sender, linked, now)
        if refusal is not None:
            return refusal
        limited = self._config.rate_limit.enabled
        if limited and not (
            self._by_sender.take((sender,), now) and self._by_pair.take((sender, rumor.origin), now)
        ):
            return DropReason.SIGNATURE_BUDGET
        if not rumor.is_authentic(self._config.cluster):
            return DropReason.BAD_SIGNATURE
        if limited and not self._by_origin.take((rumor.origin,), now):
            return DropReason.SIGNATURE_BUDGET
        return None

    def _deliver(
        self, fresh: list[tuple[MessageId, bytes]], hops: int, via: Via, now: float
    ) -> list[Effect]:
        return [
            Emit(MessageReceived(Message(message_id, payload, hops, via, now)))
            for message_id, payload in fresh
        ]

    def _push(self, copy: RumorCopy, targets: list[PeerId]) -> list[Send]:
        if not targets:
            return []
        self.relayed += len(targets)
        onward = RumorCopy(copy.rumor, copy.hops + 1, copy.age_ms)
        return [Send(tuple(targets), Rumors((onward,)))]

    # --- time -----------------------------------------------------------------------------------

    def advance(self, now: float) -> list[Effect]:
        if now >= self._tick_at:
            self._tick_at = now + SWEEP_S
            self._store.tick(now)
        effects: list[Effect] = []
        for key, targets in self._strategy.advance(self._peers.linked, now):
            copy = self._store.copy(key, now)
            if copy is not None:
                effects += self._push(copy, targets)
        return effects

    @property
    def deadline(self) -> float:
        tick_at = self._tick_at if self._store.held or self._store.has_holes else math.inf
        return min(tick_at, self._strategy.deadline)
