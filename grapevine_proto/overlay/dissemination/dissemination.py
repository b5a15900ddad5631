"""Broadcasts: taking rumors in, telling the application, passing them on.

What must stay true:

- Cheap before dear: known? too old? may this stream be opened? authentic? Only then is anything
  marked, held or delivered.
- A rumor is authentic by its signature, or because its origin itself tells it, over the session of
  the run that said it. What is known by the session alone is delivered at once and held unproved:
  its signature is checked before it leaves this node, and if it is bad it never does.
- Whatever way a rumor comes, pushed or repaired, it is taken in here and nowhere else.
- A relayed rumor is the origin's, byte for byte; only hops and age beside it change. Nobody signs those, so
  a copy that says less of them undoes what one that said more kept from being done: it is passed on, and
  held again.
- That its origin mails a rumor to all counts from the origin alone.
- Two contents under one id are one delivery, of the first; the second is counted as a conflict of its
  origin where both are here.
"""

from __future__ import annotations

import math
import random
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, NamedTuple, assert_never

from grapevine_proto.config import NodeConfig
from grapevine_proto.errors import DropReason
from grapevine_proto.events import Message, Via
from grapevine_proto.ids import PeerId
from grapevine_proto.messages import (
    MAILED_HOPS,
    Announce,
    Graft,
    Ids,
    Offer,
    Prune,
    RumorCopy,
    Rumors,
    Subscribe,
    Want,
)
from grapevine_proto.overlay.antientropy import COPIES_AT_ONCE
from grapevine_proto.overlay.dissemination.auto import Auto
from grapevine_proto.overlay.dissemination.direct_mail import DirectMail
from grapevine_proto.overlay.dissemination.epidemic import Epidemic
from grapevine_proto.overlay.dissemination.flood import Flood
from grapevine_proto.overlay.dissemination.lazy import LazyRepair
from grapevine_proto.overlay.dissemination.neighbourhood import LEAST_HOPS, Neighbourhood
from grapevine_proto.overlay.dissemination.plumtree import Plumtree
from grapevine_proto.overlay.dissemination.pulls import AT_ONCE_BYTES, Pulls, is_large
from grapevine_proto.overlay.dissemination.strategy import News, Plan, Push, Strategy
from grapevine_proto.overlay.effects import Blame, Deliver, Effect, Send
from grapevine_proto.overlay.held import Key, key_of
from grapevine_proto.overlay.members import MemberTable
from grapevine_proto.overlay.peers import Peer, PeerTable
from grapevine_proto.overlay.ranges import merged
from grapevine_proto.overlay.reverse_paths import ReversePaths
from grapevine_proto.overlay.signatures import Signatures
from grapevine_proto.overlay.store import SWEEP_S, Store
from grapevine_proto.signed import Rumor

DOUBTED_LIMIT: Final = (
    1024  # rumors whose first copy claimed many hops or a great age, 200 bytes each
)
DOUBTED_HOPS: Final = LEAST_HOPS  # fewer never keep a rumor from being passed on, by default
YOUNGER_S: Final = 1.0  # by which a copy has to be younger to be worth telling
UNASKED_LIMIT: Final = (
    1024  # of ours that nobody has asked for yet; then the oldest is not waited for
)
OLD_MS: Final = 10_000  # what rounds bring older than this they bring to all: it is not said anew


class _Claim(NamedTuple):
    """What the best copy so far said of a rumor."""

    hops: int
    said_at: float


class Dissemination:
    """The machine that owns rumors. Driven by pushed `Rumors`, by `accept` for repaired ones, by
    `broadcast`, and by its deadline."""

    def __init__(
        self,
        config: NodeConfig,
        our_id: PeerId,
        peers: PeerTable,
        members: MemberTable,
        store: Store,
        signatures: Signatures,
        reverse_paths: ReversePaths,
        rng: random.Random,
        now: float,
    ) -> None:
        self._config = config
        self._peers = peers
        self._store = store
        self._signatures = signatures
        self._reverse_paths = reverse_paths
        self._rng = rng
        self._around = Neighbourhood(config, our_id, peers, members, rng)
        self._strategy = _made(config, self._around, rng)
        self.lazy = LazyRepair(config, peers, self._around, store, self._strategy)
        self.pulls = Pulls(peers, self._around, store)
        self._unasked: dict[Key, int] = {}  # ours, of which others were only told, and their bytes
        self._unsaid: dict[Key, int] = {}  # rumors of ours that went to nobody, and their payloads
        self._doubted: OrderedDict[Key, _Claim] = OrderedDict()
        self._tick_at = now + SWEEP_S
        self.conflicts = 0  # second contents under one id
        self.duplicates = 0
        self.relayed = 0
        self.repaired = 0

    def reconfigure(self, config: NodeConfig, now: float) -> list[Effect]:
        """Other settings, and perhaps another strategy, from now on."""
        effects: list[Effect] = []
        self._around.reconfigure(config)
        if config.strategy != self._config.strategy:
            effects += self._strategy.stop()
            self._strategy = _made(config, self._around, self._rng)
            self.lazy.follow(self._strategy)
            effects += self._strategy.start(now)
        else:
            effects += self._strategy.reconfigure(config, now)
        self._config = config
        self.lazy.reconfigure(config)
        return effects

    @property
    def subscribers(self) -> Sequence[PeerId]:
        """Peers to whom what is heard here first is always pushed."""
        return self._strategy.subscribers

    @property
    def subscriptions(self) -> Sequence[PeerId]:
        """Peers who are asked to push to us what they hear first."""
        return self._strategy.subscriptions

    def carries(self, peer_id: PeerId, now: float) -> bool:
        """Whether what others say comes or goes over the link with `peer_id` these days."""
        return self._strategy.carries(peer_id, now)

    # --- links ----------------------------------------------------------------------------------

    def linked(self, peer_id: PeerId, now: float) -> list[Effect]:
        """A link is new: it hears of what came lately, the first of all at once what was said to nobody."""
        effects = self._strategy.linked(peer_id, now) + self.lazy.introduce(peer_id, now)
        for key in self._unsaid:
            copy = self._store.held.copy(key, now)
            if copy is not None:
                effects += self._tell_newcomer(copy, peer_id)
                self._strategy.gave(key, peer_id)
        self._unsaid.clear()
        return effects

    def _tell_newcomer(self, copy: RumorCopy, peer_id: PeerId) -> list[Effect]:
        if not is_large(copy.rumor):
            return self._push(copy, (peer_id,))
        self._wait_for_question(key_of(copy.rumor), copy.rumor.size_bytes)
        return [Send((peer_id,), Announce(copy.rumor.ids, copy.rumor.size_bytes))]

    def unlinked(self, peer_id: PeerId, now: float) -> list[Effect]:
        """A link is gone."""
        if not self._peers.linked:
            self._unasked.clear()
        return self._strategy.unlinked(peer_id, now) + self.pulls.unlinked(peer_id, now)

    # --- ours -----------------------------------------------------------------------------------

    def broadcast(self, rumor: Rumor, now: float) -> list[Effect]:
        """Spread a rumor of our own."""
        copy = RumorCopy(rumor, 0, 0)
        key = key_of(rumor)
        self._store.take(copy, rumor.origin, True, now)
        if not self._peers.linked:
            self._unsaid[key] = len(rumor.lengths)
        if is_large(rumor):
            effects = self.pulls.announce(rumor, set())
        else:
            news = News(key, rumor.size_bytes, 0, None, is_offered=True)
            effects = self._carry_out(self._strategy.spread(news, now), copy, (), now)
        sends = [each.message for each in effects if isinstance(each, Send)]
        if sends and not any(isinstance(each, Rumors) for each in sends):
            self._wait_for_question(key, rumor.size_bytes)
        return effects

    @property
    def is_unasked(self) -> bool:
        """Whether linked peers were told of a rumor of ours and none has asked for it yet."""
        return bool(self._unasked)

    def has_room_for(self, size_bytes: int) -> bool:
        """Whether another large one of ours may be announced: one, and what a peer asks for at a time. More
        would push out of the store what nobody had time to ask for."""
        return not self._unasked or sum(self._unasked.values()) + size_bytes <= AT_ONCE_BYTES

    def asked(self, want: Want) -> None:
        """A peer asks for these."""
        if not self._unasked:
            return
        ours = {key[:2] for key in self._unasked}
        for each in merged(each for each in want.ranges if each.stream in ours):
            for key in [key for key in self._unasked if key[:2] == each.stream]:
                if each.first <= key[2] <= each.last:
                    del self._unasked[key]

    def _wait_for_question(self, key: Key, size_bytes: int) -> None:
        self._unasked[key] = size_bytes
        if len(self._unasked) > UNASKED_LIMIT:
            del self._unasked[next(iter(self._unasked))]

    # --- theirs ---------------------------------------------------------------------------------

    def handle(
        self,
        message: Rumors | Ids | Offer | Announce | Subscribe | Graft | Prune,
        sender: PeerId,
        now: float,
    ) -> list[Effect]:
        match message:
            case Rumors(copies):
                effects: list[Effect] = []
                for copy in copies[:COPIES_AT_ONCE]:
                    effects += self.accept(copy, sender, Via.EAGER, now)
                effects += [Blame(sender, DropReason.TOO_LARGE)] * (len(copies) - COPIES_AT_ONCE)
                return effects
            case Ids() | Offer():
                self._reverse_paths.told(message, sender)
                return self.lazy.handle(message, sender, now)
            case Announce():
                return self.pulls.handle(message, sender, now)
            case Subscribe() | Graft() | Prune():
                return self._strategy.handle(message, sender, now)
            case _:
                assert_never(message)

    def accept(self, copy: RumorCopy, sender: PeerId, via: Via, now: float) -> list[Effect]:
        """Take in one copy from `sender`: deliver what is new in it and pass it on."""
        rumor = copy.rumor
        is_mailed = copy.hops == MAILED_HOPS and rumor.origin == sender
        if self._store.is_known(rumor, now):
            return self._heard_again(copy, sender, via, now)
        peer = self._peers.get(sender)
        copy = _as_heard(copy, peer, is_mailed=is_mailed)
        is_firsthand = (
            rumor.origin == sender and peer is not None and peer.session_epoch == rumor.epoch
        )
        refusal = self._refusal(copy, sender, is_firsthand, now)
        if refusal is not None:
            return [Blame(sender, refusal)]
        fresh = self._store.take(
            copy, sender, self._peers.is_linked(rumor.origin), now, is_proved=not is_firsthand
        )
        if via is Via.REPAIR:
            self.repaired += len(fresh)
        messages = tuple(Message(each, body, copy.hops, via, now) for each, body in fresh)
        effects: list[Effect] = [Deliver(messages)]
        foretold = self.lazy.arrived(rumor, now)
        has_it = (sender, *foretold.tellers)
        self._reverse_paths.arrived(copy, has_it, now)
        is_old = via is Via.REPAIR and copy.age_ms >= OLD_MS
        self._note_doubts(copy, now)
        if is_large(rumor):
            holders, asked = self.pulls.arrived(rumor, now)
            effects += asked
            if not is_old and self._may_leave(rumor, is_firsthand, now):
                effects += self.pulls.announce(rumor, {*has_it, *holders})
        elif not is_old:
            news = News(
                key_of(rumor),
                rumor.size_bytes,
                copy.hops,
                sender,
                is_mailed,
                foretold.is_offered,
                foretold.first,
                foretold.lead_s,
            )
            effects += self._pass_on(news, copy, has_it, now, is_firsthand=is_firsthand)
        return effects + self._blame_liars()

    def _heard_again(self, copy: RumorCopy, sender: PeerId, via: Via, now: float) -> list[Effect]:
        """Nothing in it is new, but where it came from is, and perhaps what it says of its way."""
        rumor = copy.rumor
        key = key_of(rumor)
        self.duplicates += 1
        copy = _as_heard(copy, None, is_mailed=copy.hops == MAILED_HOPS and rumor.origin == sender)
        held = self._store.held.rumor(key)
        if held is not None and held.signature != rumor.signature:
            return self._on_second_signature(held, rumor, sender, now)
        self._store.held.heard_again(copy, now)
        self.lazy.heard_again(rumor, sender)
        self._reverse_paths.heard_again(rumor, sender)
        effects = self._undo_doubts(copy, sender, now) if key in self._doubted else []
        if via is not Via.EAGER:
            return effects
        return effects + self._strategy.heard_again(key, sender, now)

    def _on_second_signature(
        self, held: Rumor, rumor: Rumor, sender: PeerId, now: float
    ) -> list[Effect]:
        """A copy that is not what is held under its id: forged, or its origin signed two contents."""
        if not self._store.held.prove(key_of(held), now):
            return self._blame_liars()
        refusal = self._signatures.refusal(rumor, sender, now)
        if refusal is not None:
            return [Blame(sender, refusal)]
        if (held.body, held.lengths) == (rumor.body, rumor.lengths):
            return []
        self.conflicts += 1
        return [Blame(rumor.origin, DropReason.CONFLICT)]

    def _note_doubts(self, copy: RumorCopy, now: float) -> None:
        """What the first copy of a rumor says may keep it from going on; nobody signed that."""
        if copy.hops < DOUBTED_HOPS and copy.age_ms < OLD_MS:
            return
        self._doubted[key_of(copy.rumor)] = _Claim(copy.hops, now - copy.age_ms / 1000)
        if len(self._doubted) > DOUBTED_LIMIT:
            self._doubted.popitem(last=False)

    def _undo_doubts(self, copy: RumorCopy, sender: PeerId, now: float) -> list[Effect]:
        """A copy of a doubted rumor came again: if it says that it is younger, or came over fewer hops, it is
        held and passed on as if it were the first. Once: who says so falsely causes one push more."""
        rumor = copy.rumor
        key = key_of(rumor)
        claim = self._doubted[key]
        said_at = now - copy.age_ms / 1000
        is_younger = said_at > claim.said_at + YOUNGER_S
        is_nearer = copy.hops < DOUBTED_HOPS <= claim.hops
        if not (is_younger or is_nearer) or copy.age_ms >= self._config.message_dedup_ttl * 1000:
            return []
        held = self._store.held
        if not held.has(key):
            refusal = self._signatures.refusal(rumor, sender, now)
            if refusal is not None:
                return [Blame(sender, refusal)]
            held.hold(copy, now, is_proved=True)
        del self._doubted[key]
        self._store.renew(rumor, said_at, now)
        best = held.copy(key, now)
        if best is None or best.age_ms >= OLD_MS:
            return self._blame_liars()
        if is_large(rumor):
            return self.pulls.announce(rumor, {sender})
        news = News(key, rumor.size_bytes, best.hops, sender)
        return self._pass_on(news, best, (sender,), now, is_firsthand=False)

    def _pass_on(
        self,
        news: News,
        copy: RumorCopy,
        has_it: tuple[PeerId, ...],
        now: float,
        *,
        is_firsthand: bool,
    ) -> list[Effect]:
        """As the strategy has it, if it may leave at all."""
        plan = self._strategy.spread(news, now)
        if not plan.targets and not plan.is_offer and not plan.effects:
            self.lazy.announce(copy.rumor, has_it, now, is_mailed=news.is_mailed)
            return []
        leaves = bool(plan.targets) or plan.is_offer
        if leaves and not self._may_leave(copy.rumor, is_firsthand, now):
            return []
        return self._carry_out(plan, copy, has_it, now, is_mailed=news.is_mailed)

    def _may_leave(self, rumor: Rumor, is_firsthand: bool, now: float) -> bool:
        """Whether its signature is good, which for what came firsthand is checked now."""
        return not is_firsthand or self._store.held.prove(key_of(rumor), now)

    def _carry_out(
        self,
        plan: Plan,
        copy: RumorCopy,
        has_it: tuple[PeerId, ...],
        now: float,
        *,
        is_mailed: bool = False,
    ) -> list[Effect]:
        """Do what the strategy wants with `copy`, which those in `has_it` need not be told of."""
        effects: list[Effect] = [*plan.effects]
        has_it = (*has_it, *plan.targets)
        effects += self._push(copy, plan.targets, is_mail=plan.is_mail)
        if plan.is_offer:
            effects += self.lazy.offer(copy.rumor, has_it)
        else:
            self.lazy.announce(copy.rumor, has_it, now, is_mailed=is_mailed or plan.is_mail)
        return effects

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

    def _push(
        self, copy: RumorCopy, targets: Sequence[PeerId], *, is_mail: bool = False
    ) -> list[Effect]:
        if not targets:
            return []
        self.relayed += len(targets)
        hops = MAILED_HOPS if is_mail else min(copy.hops + 1, MAILED_HOPS - 1)
        return [Send(tuple(targets), Rumors((RumorCopy(copy.rumor, hops, copy.age_ms),)))]

    # --- time -----------------------------------------------------------------------------------

    def advance(self, now: float) -> list[Effect]:
        if now >= self._tick_at:
            self._tick_at = now + SWEEP_S
            self._store.tick(now)
            self._unasked = {
                key: size for key, size in self._unasked.items() if self._store.held.has(key)
            }
            self._unsaid = {
                key: count for key, count in self._unsaid.items() if self._store.held.has(key)
            }
        effects: list[Effect] = []
        for due in self._strategy.advance(now):
            if not isinstance(due, Push):
                effects.append(due)
            elif (copy := self._store.held.copy(due.key, now)) is not None:
                effects += self._push(copy, due.targets)
        effects += self.lazy.advance(now) + self.pulls.advance(now)
        return effects + self._blame_liars()

    @property
    def deadline(self) -> float:
        store = self._store
        is_busy = store.held or store.has_holes or store.held.liars
        tick_at = self._tick_at if is_busy else math.inf
        return min(tick_at, self._strategy.deadline, self.lazy.deadline, self.pulls.deadline)


def _as_heard(copy: RumorCopy, sender: Peer | None, *, is_mailed: bool) -> RumorCopy:
    """`copy`, older by the time it was on its way; what is mailed comes from its origin itself, and
    whoever else says so does not count."""
    on_its_way_ms = int(sender.rtt_s * 500) if sender is not None and sender.rtt_s else 0
    hops = 1 if is_mailed else min(copy.hops, MAILED_HOPS - 1)
    if not on_its_way_ms and hops == copy.hops:
        return copy
    return RumorCopy(copy.rumor, hops, copy.age_ms + on_its_way_ms)


def _made(config: NodeConfig, around: Neighbourhood, rng: random.Random) -> Strategy:
    """The strategy that `config` names."""
    match config.strategy:
        case "flood":
            return Flood(config, around, rng)
        case "plumtree":
            return Plumtree(config, around)
        case "direct-mail":
            return DirectMail(around)
        case "auto":
            return Auto(config, around)
        case _:
            return Epidemic(config, around, rng)
