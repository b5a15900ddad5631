"""Broadcasts: taking rumors in, telling the application, passing them on.

What must stay true:

- Cheap before dear: known? too old? may this stream be opened? authentic? Only then is anything
  marked, held or delivered.
- A rumor is authentic by its signature, or because its origin itself tells it, over the session of
  the run that said it. What is known by the session alone is delivered at once and held unproved:
  its signature is checked before it leaves this node, and if it is bad it never does.
- Whatever way a rumor comes, pushed or repaired, it is taken in here and nowhere else.
- A relayed rumor is the origin's, byte for byte; only hops and age beside it change.
"""

from __future__ import annotations

import math
import random

from grapevine_proto.config import NodeConfig
from grapevine_proto.errors import DropReason
from grapevine_proto.events import Message, Via
from grapevine_proto.ids import PeerId
from grapevine_proto.messages import Ids, Rumor, RumorCopy, Rumors
from grapevine_proto.overlay.dissemination.epidemic import Epidemic
from grapevine_proto.overlay.dissemination.lazy import LazyRepair
from grapevine_proto.overlay.dissemination.strategy import Strategy
from grapevine_proto.overlay.effects import Blame, Deliver, Effect, Send
from grapevine_proto.overlay.held import key_of
from grapevine_proto.overlay.peers import Peer, PeerTable
from grapevine_proto.overlay.signatures import Signatures
from grapevine_proto.overlay.store import SWEEP_S, Store
from grapevine_proto.overlay.trace import Tracing


class Dissemination:
    """The machine that owns rumors. Driven by pushed `Rumors`, by `accept` for repaired ones, by
    `broadcast`, and by its deadline."""

    def __init__(
        self,
        config: NodeConfig,
        peers: PeerTable,
        store: Store,
        signatures: Signatures,
        tracing: Tracing,
        rng: random.Random,
        now: float,
    ) -> None:
        self._config = config
        self._peers = peers
        self._store = store
        self._signatures = signatures
        self._tracing = tracing
        self._strategy: Strategy = Epidemic(config, rng, peers.zone_of)
        self.lazy = LazyRepair(config, peers, store)
        self._tick_at = now + SWEEP_S
        self.duplicates = 0
        self.relayed = 0
        self.repaired = 0

    def reconfigure(self, config: NodeConfig) -> None:
        self._config = config
        self._strategy.reconfigure(config)
        self.lazy.reconfigure(config)

    # --- ours -----------------------------------------------------------------------------------

    def broadcast(self, rumor: Rumor, now: float) -> list[Send]:
        """Spread a rumor of our own."""
        copy = RumorCopy(rumor, 0, 0)
        self._store.take(copy, rumor.origin, True, now)
        targets = self._strategy.spread(key_of(rumor), 0, None, self._peers.linked, now)
        self.lazy.announce(rumor, targets, now)
        return self._push(copy, targets)

    # --- theirs ---------------------------------------------------------------------------------

    def handle(self, message: Rumors | Ids, sender: PeerId, now: float) -> list[Effect]:
        if isinstance(message, Ids):
            return self.lazy.handle(message, sender, now)
        effects: list[Effect] = []
        for copy in message.copies:
            effects += self.accept(copy, sender, Via.EAGER, now)
        return effects

    def accept(self, copy: RumorCopy, sender: PeerId, via: Via, now: float) -> list[Effect]:
        """Take in one copy from `sender`: deliver what is new in it and pass it on."""
        rumor = copy.rumor
        if self._store.is_known(rumor, now):
            self.duplicates += 1
            self._store.held.heard_again(copy, now)
            self._strategy.heard_again(key_of(rumor), sender)
            self.lazy.heard_again(rumor, sender)
            self._tracing.heard_again(rumor, sender)
            return []
        peer = self._peers.get(sender)
        copy = _as_heard(copy, peer)
        is_firsthand = (
            rumor.origin == sender and peer is not None and peer.session_epoch == rumor.epoch
        )
        refusal = self._refusal(copy, sender, is_firsthand, now)
        if refusal is not None:
            return [Blame(sender, refusal)]
        linked = self._peers.linked
        fresh = self._store.take(
            copy, sender, self._peers.is_linked(rumor.origin), now, is_proved=not is_firsthand
        )
        self._tracing.arrived(copy, sender, now)
        if via is Via.REPAIR:
            self.repaired += len(fresh)
        messages = tuple(Message(each, body, copy.hops, via, now) for each, body in fresh)
        effects: list[Effect] = [Deliver(messages)]
        targets = self._strategy.spread(key_of(rumor), copy.hops, sender, linked, now)
        if targets and (not is_firsthand or self._store.held.prove(key_of(rumor), now)):
            effects += self._push(copy, targets)
            self.lazy.announce(rumor, (sender, *targets), now)
        elif not targets:
            self.lazy.announce(rumor, (sender,), now)
        return effects + self._blame_liars()

    def _refusal(
        self, copy: RumorCopy, sender: PeerId, is_firsthand: bool, now: float
    ) -> DropReason | None:
        """Why not to take `copy`. The order is the cost."""
        rumor = copy.rumor
        if copy.age_ms >= self._config.message_dedup_ttl * 1000:
            return DropReason.EXPIRED
        linked = self._peers.is_linked(rumor.origin)
        refusal = self._store.refusal(rumor.stream, sender, linked, now)
        if refusal is None and not is_firsthand:
            refusal = self._signatures.refusal(rumor, sender, now)
        if refusal is None and not self._signatures.admits(rumor.origin, now):
            refusal = DropReason.SIGNATURE_BUDGET
        return refusal

    def _blame_liars(self) -> list[Effect]:
        """Origins whose rumors, taken on their session's word, turned out to be badly signed."""
        liars = self._store.held.liars
        if not liars:
            return []
        blames: list[Effect] = [Blame(origin, DropReason.BAD_SIGNATURE) for origin in liars]
        liars.clear()
        return blames

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
            copy = self._store.held.copy(key, now)
            if copy is not None:
                effects += self._push(copy, targets)
        return effects + self.lazy.advance(now) + self._blame_liars()

    @property
    def deadline(self) -> float:
        store = self._store
        is_busy = store.held or store.has_holes or store.held.liars
        tick_at = self._tick_at if is_busy else math.inf
        return min(tick_at, self._strategy.deadline, self.lazy.deadline)


def _as_heard(copy: RumorCopy, sender: Peer | None) -> RumorCopy:
    """`copy`, older by the time it was on its way."""
    if sender is None or not sender.rtt_s:
        return copy
    return RumorCopy(copy.rumor, copy.hops, copy.age_ms + int(sender.rtt_s * 500))
