"""Broadcast: accepts rumors, delivers new payloads to the application, and forwards rumors by a
strategy.

Invariants:

- Cheapest checks first: duplicate, expired, stream admissible, signature. Only then is anything
  marked as seen, cached or delivered.
- A rumor is authentic by its signature, or because its origin sends it over the session of the same
  epoch. In the latter case it is delivered at once and cached unverified; its signature is checked
  before it leaves this node, and if forged it never does.
- Pushed and repaired rumors are accepted by the same code.
- A relayed rumor is the origin's, byte for byte; only hops and age beside it change. Those are not
  signed, so a copy that claims less undoes the effect of one that claimed more: it is forwarded and
  cached again.
- Only the origin can mark a rumor as mailed to all.
- A rumor that asks a query is relayed, cached and marked as seen like any other; `overlay.query` takes it up,
  and nothing is delivered. Likewise a state entry for `overlay.state`, unless it has a topic: then it is a
  message too.
- A rumor with an attribute that this version cannot read is relayed, cached and marked as seen like any
  other, but not delivered.
- Two contents under one ID are delivered once, the first one. The second counts as a conflict of
  the origin if both are here.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from enum import Enum, auto
from typing import Final, NamedTuple, assert_never

from grapevine_proto.errors import DropReason
from grapevine_proto.events import Message, MessagesUnsupported, Via
from grapevine_proto.ids import MessageId, PeerId
from grapevine_proto.overlay.broadcast.auto import Auto
from grapevine_proto.overlay.broadcast.direct_mail import DirectMail
from grapevine_proto.overlay.broadcast.epidemic import Epidemic
from grapevine_proto.overlay.broadcast.flood import Flood
from grapevine_proto.overlay.broadcast.ihave import LazyPush
from grapevine_proto.overlay.broadcast.large_messages import (
    PULL_WINDOW_BYTES,
    LargePuller,
)
from grapevine_proto.overlay.broadcast.near_peers import MIN_HOPS_LIMIT, NearPeers
from grapevine_proto.overlay.broadcast.plumtree import Plumtree
from grapevine_proto.overlay.broadcast.strategy import NewRumor, Push, PushPlan, Strategy
from grapevine_proto.overlay.context import OverlayContext
from grapevine_proto.overlay.effects import CountDrop, Deliver, Effect, Emit, Send
from grapevine_proto.overlay.members import id_prefix
from grapevine_proto.overlay.peers import Peer
from grapevine_proto.overlay.reverse_paths import RumorWatcher
from grapevine_proto.overlay.store.message_cache import RumorKey, rumor_key
from grapevine_proto.overlay.store.message_store import STORE_TICK_S, MessageStore
from grapevine_proto.overlay.store.ranges import merge
from grapevine_proto.overlay.sync.antientropy import COPIES_PER_MESSAGE_LIMIT
from grapevine_proto.topics import TopicPatterns
from grapevine_proto.wire.attributes import PLAIN, RumorAttributes
from grapevine_proto.wire.messages import (
    DIRECT_MAIL_HOPS,
    Announce,
    AnnounceTopic,
    Graft,
    IHave,
    IWant,
    MemberDigest,
    Offer,
    Prune,
    RumorCopy,
    Rumors,
    Subscribe,
)
from grapevine_proto.wire.signed import Rumor, is_announced_by_topic, is_large

# rumors whose first copy claimed many hops or a great age; 200 bytes each
DOUBTFUL_LIMIT: Final = 1024
# lower counts never prevent forwarding at the default settings
DOUBTFUL_HOPS: Final = MIN_HOPS_LIMIT
MIN_AGE_DIFFERENCE_S: Final = 1.0  # by which another copy must be younger to be forwarded
TOPIC_CLAIM_S: Final = 2.0  # for subscribers to begin to pull an own rumor
UNCLAIMED_LIMIT: Final = 1024  # own rumors not requested yet; the oldest is no longer awaited
# repairs older than this reach every node by anti-entropy and are not forwarded
NO_FORWARD_AGE_MS: Final = 10_000
URGENT_RUMOR_BYTES: Final = 1024  # of a body that all near peers are sent at once


class _Withheld(Enum):
    """Why a rumor is not delivered to the application."""

    UNSUPPORTED = auto()  # an attribute that this version cannot read
    NO_MESSAGE = auto()  # a question, or an entry of the state
    UNSUBSCRIBED = auto()  # its topic
    EXPIRED = auto()


class _Unclaimed(NamedTuple):
    """An own rumor that was only announced. With a topic it counts until `until`: perhaps no node that
    hears of it subscribes."""

    size_bytes: int
    until: float


class _Claim(NamedTuple):
    """The lowest hop count and age claimed for a rumor so far, and whether it was pushed and announced to
    peers that do not drop it for that age or those hops."""

    hops: int
    published_at: float
    is_spread: bool
    is_announced: bool


class Broadcast:
    """The state machine that owns rumors, driven by pushed `Rumors`, `accept` for repairs,
    `broadcast` and its deadline.
    """

    def __init__(
        self,
        context: OverlayContext,
        store: MessageStore,
        watchers: tuple[RumorWatcher, ...],
        now: float,
    ) -> None:
        self._context = context
        self._config = context.config
        self._peers = context.peers
        self._verifier = context.verifier
        self._store = store
        self._watchers = watchers
        self._near_peers = NearPeers(context)
        self._strategy_name = context.config.current.strategy
        self._strategy = _make_strategy(context, self._near_peers)
        self.lazy_push = LazyPush(context, self._near_peers, store, self._strategy)
        self.puller = LargePuller(context, self._near_peers, store)
        self._unclaimed: dict[RumorKey, _Unclaimed] = {}
        self._awaiting_first_peer: dict[
            RumorKey, int
        ] = {}  # own rumors sent to no peer, and their number of payloads
        self._doubtful: OrderedDict[RumorKey, _Claim] = OrderedDict()
        self._topics = TopicPatterns(context.config.current.topics)
        self._subscribed: tuple[str, ...] = ()  # patterns besides those of the configuration
        self._tick_at = now + STORE_TICK_S
        self.conflicts = 0  # second contents under one ID
        self.duplicates = 0
        self.relayed = 0
        self.repaired = 0
        self.unsubscribed = 0  # messages of topics that this node does not subscribe to
        self.expired = 0  # messages that arrived after their expiry
        self.unsupported = 0  # messages that are relayed and not delivered

    def reconfigure(self, now: float) -> list[Effect]:
        """Settings changed, possibly the strategy."""
        if self._config.current.strategy == self._strategy_name:
            effects = self._strategy.reconfigure(now)
        else:
            self._strategy_name = self._config.current.strategy
            effects = self._strategy.stop()
            self._strategy = _make_strategy(self._context, self._near_peers)
            self.lazy_push.set_strategy(self._strategy)
            effects += self._strategy.start(now)
        self.lazy_push.reconfigure()
        self.subscribe(self._subscribed)
        return effects

    def subscribe(self, patterns: Iterable[str]) -> None:
        """Deliver topics that one of these patterns or of `NodeConfig.topics` selects."""
        self._subscribed = tuple(patterns)
        self._topics = TopicPatterns((*self._config.current.topics, *self._subscribed))

    @property
    def subscribers(self) -> Sequence[PeerId]:
        """Peers to which new rumors are always pushed."""
        return self._strategy.subscribers

    @property
    def subscriptions(self) -> Sequence[PeerId]:
        """Peers that push new rumors to us."""
        return self._strategy.subscriptions

    def is_in_use(self, peer_id: PeerId, now: float) -> bool:
        """Whether broadcasts currently travel over the link with `peer_id`."""
        return self._strategy.is_in_use(peer_id, now)

    # --- links ----------------------------------------------------------------------------------

    def on_link_up(self, peer_id: PeerId, now: float) -> list[Effect]:
        """A new link: announce recent rumors. The first link of all gets those that were sent to no
        peer.
        """
        self._near_peers.on_answering_changed(peer_id, is_answering=True)
        effects = self._strategy.on_link_up(peer_id, now) + self.lazy_push.announce_recent(
            peer_id, now
        )
        for key in self._awaiting_first_peer:
            copy = self._store.cache.copy(key, now)
            if copy is not None:
                effects += self._send_to_first_peer(copy, peer_id, now)
                self._strategy.on_late_delivery(key, peer_id)
        self._awaiting_first_peer.clear()
        return effects

    def _send_to_first_peer(self, copy: RumorCopy, peer_id: PeerId, now: float) -> list[Effect]:
        if not is_large(copy.rumor):
            return self._push(copy, (peer_id,))
        self._track_announced(copy.rumor, now)
        return [self.puller.announce_to((peer_id,), copy)]

    def on_link_down(self, peer_id: PeerId, now: float) -> list[Effect]:
        """A link closed."""
        self._near_peers.on_answering_changed(peer_id, is_answering=True)
        if not self._peers.linked:
            self._unclaimed.clear()
        return self._strategy.on_link_down(peer_id, now) + self.puller.on_link_down(peer_id, now)

    def on_path_changed(self, peer_id: PeerId, now: float) -> list[Effect]:
        """A linked peer is at another address: announcements that went to the earlier one are lost."""
        return self.lazy_push.announce_recent(peer_id, now)

    def on_answering_changed(self, peer_id: PeerId, *, is_answering: bool) -> list[Effect]:
        """A linked peer acknowledges nothing that this node sends, or does so again. Until it does, its link
        carries no mail, and others announce to it what was mailed."""
        self._near_peers.on_answering_changed(peer_id, is_answering=is_answering)
        return [] if is_answering else self.lazy_push.on_mail_unanswered(peer_id)

    # --- own rumors -----------------------------------------------------------------------------

    def broadcast(self, rumor: Rumor, now: float) -> list[Effect]:
        """Publish a rumor of our own."""
        copy = RumorCopy(rumor, 0, 0)
        key = rumor_key(rumor)
        self._store.insert(copy, rumor.origin, True, now)
        if not self._peers.linked:
            self._awaiting_first_peer[key] = len(rumor.lengths)
        if is_large(rumor):
            effects = self.puller.announce(copy, set())
        else:
            new_rumor = NewRumor(
                key, rumor.size_bytes, 0, None, is_offered=True, is_urgent=_is_urgent(rumor)
            )
            effects = self._execute(self._strategy.on_new_rumor(new_rumor, now), copy, (), now)
        sends = [each.message for each in effects if isinstance(each, Send)]
        if sends and not any(isinstance(each, Rumors) for each in sends):
            self._track_announced(rumor, now)
        return effects

    @property
    def has_unclaimed(self) -> bool:
        """Whether a rumor of ours was announced to linked peers and none has requested it yet."""
        return bool(self._unclaimed)

    def can_announce(self, size_bytes: int) -> bool:
        """Whether another large rumor of ours may be announced: one, plus what a peer requests at a
        time. More would evict from the cache what no peer had time to request.
        """
        return (
            not self._unclaimed
            or sum(each.size_bytes for each in self._unclaimed.values()) + size_bytes
            <= PULL_WINDOW_BYTES
        )

    def on_requested(self, request: IWant) -> None:
        """A peer requests these ranges."""
        if not self._unclaimed:
            return
        streams = {key[:2] for key in self._unclaimed}
        for each in merge(each for each in request.ranges if each.stream in streams):
            for key in [key for key in self._unclaimed if key[:2] == each.stream]:
                if each.first <= key[2] <= each.last:
                    del self._unclaimed[key]

    def _track_announced(self, rumor: Rumor, now: float) -> None:
        until = now + TOPIC_CLAIM_S if is_announced_by_topic(rumor) else math.inf
        self._track_unclaimed(rumor_key(rumor), rumor.size_bytes, until)

    def _track_unclaimed(self, key: RumorKey, size_bytes: int, until: float = math.inf) -> None:
        self._unclaimed[key] = _Unclaimed(size_bytes, until)
        if len(self._unclaimed) > UNCLAIMED_LIMIT:
            del self._unclaimed[next(iter(self._unclaimed))]

    # --- rumors of peers ------------------------------------------------------------------------

    def handle(
        self,
        message: Rumors | IHave | Offer | Announce | AnnounceTopic | Subscribe | Graft | Prune,
        sender: PeerId,
        now: float,
    ) -> list[Effect]:
        match message:
            case Rumors(copies):
                effects: list[Effect] = []
                for copy in copies[:COPIES_PER_MESSAGE_LIMIT]:
                    effects += self.accept(copy, sender, Via.EAGER, now)
                effects += [CountDrop(sender, DropReason.TOO_LARGE)] * (
                    len(copies) - COPIES_PER_MESSAGE_LIMIT
                )
                return effects
            case IHave() | Offer():
                for watcher in self._watchers:
                    watcher.on_ids(message, sender)
                return self.lazy_push.handle(message, sender, now)
            case Announce():
                return self.puller.handle(message, sender, now)
            case AnnounceTopic():
                return self._on_topic_announced(message, sender, now)
            case Subscribe() | Graft() | Prune():
                return self._strategy.handle(message, sender, now)
            case _:
                assert_never(message)

    def accept(self, copy: RumorCopy, sender: PeerId, via: Via, now: float) -> list[Effect]:
        """Accept one copy from `sender`: deliver what is new in it and forward it."""
        rumor = copy.rumor
        is_mailed = copy.hops == DIRECT_MAIL_HOPS and rumor.origin == sender
        if self._store.is_duplicate(rumor, now):
            return self._on_duplicate(copy, sender, via, now)
        peer = self._peers.get(sender)
        copy = _with_transit(copy, peer, is_mailed=is_mailed)
        is_firsthand = (
            rumor.origin == sender and peer is not None and peer.session_epoch == rumor.epoch
        )
        origin_is_linked = self._peers.is_linked(rumor.origin)
        rejection = self._rejection(copy, sender, origin_is_linked, is_firsthand, now)
        if rejection is not None:
            return [CountDrop(sender, rejection)]
        new_messages = self._store.insert(
            copy, sender, origin_is_linked, now, is_verified=not is_firsthand, via=via
        )
        if via is Via.REPAIR:
            self.repaired += len(new_messages)
        attributes = rumor.known_attributes
        effects = self._deliver(copy, attributes, new_messages, via, now)
        early = self.lazy_push.on_rumor(rumor, now)
        holders = (sender, *early.sources)
        if rumor.attributes:
            for watcher in self._watchers:
                effects += watcher.on_rumor(copy, holders, now)
        is_old = via is Via.REPAIR and copy.age_ms >= NO_FORWARD_AGE_MS
        if is_large(rumor):
            announced_by, requests = self.puller.on_rumor(rumor, now)
            effects += requests
            if not is_old and self._can_forward(rumor, is_firsthand, now):
                effects += self.puller.announce(copy, {*holders, *announced_by})
        elif is_mailed and not is_old:  # no strategy pushes it: its origin sends it to every member
            self.lazy_push.announce(rumor, holders, now, is_mailed=True)
        elif not is_old:
            new_rumor = NewRumor(
                rumor_key(rumor),
                0,
                copy.hops,
                sender,
                early.is_offered,
                early.first_source,
                early.lead_s,
                _is_urgent(rumor),
            )
            effects += self._forward(new_rumor, copy, holders, now, is_firsthand=is_firsthand)
        if copy.hops >= DOUBTFUL_HOPS or copy.age_ms >= NO_FORWARD_AGE_MS:
            self._note_doubtful(copy, effects, now, is_forwarded=not is_old)
        return effects + self._report_forgers() if self._store.cache.forgers else effects

    def on_refusal(self, sender: PeerId) -> None:
        """`sender` answered a request for announced rumors with none."""
        self.puller.on_refusal(sender)

    def _on_topic_announced(
        self, message: AnnounceTopic, sender: PeerId, now: float
    ) -> list[Effect]:
        """`sender` announces a large rumor with its signed header. Pull it if this node delivers its topic;
        otherwise mark it as seen, cache the header, and pass the announcement on."""
        rumor = message.copy.rumor
        if self.puller.is_pulling(rumor.ids):
            return self.puller.on_topic(message, sender, now)
        if not self._store.lacks(rumor.ids, now):
            return []
        copy = _with_transit(message.copy, self._peers.get(sender), is_mailed=False)
        origin_is_linked = self._peers.is_linked(rumor.origin)
        rejection = self._rejection(copy, sender, origin_is_linked, False, now)
        if rejection is not None:
            return [CountDrop(sender, rejection)]
        known = rumor.known_attributes
        effects = self._request_record(copy.holder, sender)
        if self._withheld(known, copy.age_ms) in (None, _Withheld.NO_MESSAGE):
            return effects + self.puller.on_topic(message, sender, now)
        payloads = self._store.insert(copy, sender, origin_is_linked, now, via=Via.LAZY)
        effects += self._deliver(copy, known, payloads, Via.LAZY, now)
        if copy.age_ms < NO_FORWARD_AGE_MS:
            effects += self.puller.announce(
                copy, {sender} | ({copy.holder} if copy.holder else set())
            )
        return effects

    def _request_record(self, holder: PeerId | None, sender: PeerId) -> list[Effect]:
        """Request the record of a holder that is not known here: a pull needs its address, and those to
        which the announcement goes on will ask here."""
        if holder is None or holder == self._context.our_id:
            return []
        if holder in self._context.members or self._peers.is_linked(holder):
            return []
        prefix = id_prefix(holder)
        return [Send((sender,), MemberDigest(prefix, prefix, b"", is_reply=True))]

    def _withheld(self, known: RumorAttributes, age_ms: int) -> _Withheld | None:
        """Why this node does not deliver a rumor of that age with these attributes; None: it does."""
        if known.unsupported:
            return _Withheld.UNSUPPORTED
        if known.query is not None or (known.entry is not None and not known.topic):
            return _Withheld.NO_MESSAGE
        if known.topic and not self._topics.matches(known.topic):
            return _Withheld.UNSUBSCRIBED
        return _Withheld.EXPIRED if known.is_expired(age_ms) else None

    def _deliver(
        self,
        copy: RumorCopy,
        known: RumorAttributes,
        payloads: Sequence[tuple[MessageId, bytes]],
        via: Via,
        now: float,
    ) -> list[Effect]:
        """Deliver new payloads of `copy`, unless its attributes, `known`, say that they are not for this
        node, or have expired."""
        withheld = None if known is PLAIN else self._withheld(known, copy.age_ms)
        if withheld is _Withheld.UNSUPPORTED:
            return self._report_unsupported(copy.rumor, known.unsupported, payloads)
        if withheld is _Withheld.UNSUBSCRIBED:
            self.unsubscribed += len(payloads)
        elif withheld is _Withheld.EXPIRED:
            self.expired += len(payloads)
        if withheld is not None:
            return []
        hops, topic, age_s = copy.hops, known.topic, copy.age_ms / 1000
        messages = [  # the fields by name take longer
            Message(each, body, hops, via, now, False, None, topic, age_s)
            for each, body in payloads
        ]
        if known.entry is not None:
            messages = [each._replace(is_retained=True) for each in messages]
        return [Deliver(tuple(messages))]

    def _report_unsupported(
        self, rumor: Rumor, attribute: int, payloads: Sequence[tuple[MessageId, bytes]]
    ) -> list[Effect]:
        if not payloads:
            return []
        self.unsupported += len(payloads)
        first, last = payloads[0][0].sequence, payloads[-1][0].sequence
        origin, epoch = rumor.stream
        return [Emit(MessagesUnsupported(origin, epoch, first, last, attribute))]

    def _on_duplicate(self, copy: RumorCopy, sender: PeerId, via: Via, now: float) -> list[Effect]:
        """Nothing in the copy is new, but its sender is, and perhaps its hops and age."""
        rumor = copy.rumor
        key = rumor_key(rumor)
        self.duplicates += 1
        copy = _with_transit(
            copy, None, is_mailed=copy.hops == DIRECT_MAIL_HOPS and rumor.origin == sender
        )
        cached = self._store.cache.rumor(key)
        if cached is not None and cached.signature != rumor.signature:
            return self._on_second_signature(cached, rumor, sender, now)
        self._store.cache.on_duplicate(copy, now)
        self.lazy_push.on_duplicate(rumor, sender)
        if rumor.attributes:
            for watcher in self._watchers:
                watcher.on_duplicate(rumor, sender)
        effects = self._correct_doubtful(copy, sender, now) if key in self._doubtful else []
        if via is not Via.EAGER or _is_urgent(rumor):
            return effects
        return effects + self._strategy.on_duplicate(key, sender, now)

    def _on_second_signature(
        self, cached: Rumor, rumor: Rumor, sender: PeerId, now: float
    ) -> list[Effect]:
        """A copy differs from the cached one under its ID: one is forged, or the origin signed two
        contents.
        """
        if not self._store.cache.verify(rumor_key(cached), now):
            return self._report_forgers()
        rejection = self._verifier.check(rumor, sender, now)
        if rejection is not None:
            return [CountDrop(sender, rejection)]
        if (cached.body, cached.lengths) == (rumor.body, rumor.lengths):
            return []
        self.conflicts += 1
        for watcher in self._watchers:
            watcher.on_conflict(rumor)
        return [CountDrop(rumor.origin, DropReason.CONTENT_CONFLICT)]

    def _note_doubtful(
        self, copy: RumorCopy, effects: Sequence[Effect], now: float, *, is_forwarded: bool
    ) -> None:
        """Remember a first copy whose unsigned hops or age may prevent forwarding. `effects`: of accepting
        it. `is_forwarded`: it was pushed or announced as the strategy decides."""
        is_pushed = any(isinstance(e, Send) and isinstance(e.message, Rumors) for e in effects)
        ttl_ms = self._config.current.message_dedup_ttl * 1000
        is_in_time = copy.age_ms < ttl_ms - min(NO_FORWARD_AGE_MS, ttl_ms / 4)
        self._doubtful[rumor_key(copy.rumor)] = _Claim(
            copy.hops,
            now - copy.age_ms / 1000,
            is_spread=is_pushed and is_in_time and copy.hops < DOUBTFUL_HOPS,
            is_announced=is_forwarded and is_in_time,
        )
        if len(self._doubtful) > DOUBTFUL_LIMIT:
            self._doubtful.popitem(last=False)

    def _correct_doubtful(self, copy: RumorCopy, sender: PeerId, now: float) -> list[Effect]:
        """Another copy of a doubtful rumor arrived. If it claims to be younger, or fewer hops,
        cache it, and forward it as if it were the first, unless that was forwarded. Peers that were announced
        the first copy request this one. This happens once per rumor, so a false claim causes one more
        push.
        """
        rumor = copy.rumor
        key = rumor_key(rumor)
        claim = self._doubtful[key]
        published_at = now - copy.age_ms / 1000
        is_younger = published_at > claim.published_at + MIN_AGE_DIFFERENCE_S
        is_nearer = copy.hops < DOUBTFUL_HOPS <= claim.hops
        if (
            not (is_younger or is_nearer)
            or copy.age_ms >= self._config.current.message_dedup_ttl * 1000
        ):
            return []
        cache = self._store.cache
        if not cache.contains(key):
            rejection = self._verifier.check(rumor, sender, now)
            if rejection is not None:
                return [CountDrop(sender, rejection)]
            cache.insert(copy, now, is_verified=True, via=Via.EAGER, source=sender)
        del self._doubtful[key]
        self._store.freshen(rumor, published_at, now)
        best = cache.copy(key, now)
        if best is None or best.age_ms >= NO_FORWARD_AGE_MS or claim.is_spread:
            return self._report_forgers()
        if is_large(rumor):
            return self.puller.announce(best, {sender})
        new_rumor = NewRumor(key, 0, best.hops, sender, is_urgent=_is_urgent(rumor))
        is_announced = claim.is_announced
        return self._forward(
            new_rumor, best, (sender,), now, is_firsthand=False, is_announced=is_announced
        )

    def _forward(
        self,
        new_rumor: NewRumor,
        copy: RumorCopy,
        holders: tuple[PeerId, ...],
        now: float,
        *,
        is_firsthand: bool,
        is_announced: bool = False,
    ) -> list[Effect]:
        """Forward a rumor as the strategy decides, if it may leave this node."""
        plan = self._strategy.on_new_rumor(new_rumor, now)
        if not plan.targets and not plan.is_offer and not plan.effects:
            if not is_announced:
                self.lazy_push.announce(copy.rumor, holders, now)
            return []
        is_forwarded = bool(plan.targets) or plan.is_offer
        if is_forwarded and not self._can_forward(copy.rumor, is_firsthand, now):
            return []
        return self._execute(plan, copy, holders, now, is_announced=is_announced)

    def _can_forward(self, rumor: Rumor, is_firsthand: bool, now: float) -> bool:
        """Whether its signature is good; a rumor accepted on its session is checked now."""
        return not is_firsthand or self._store.cache.verify(rumor_key(rumor), now)

    def _execute(
        self,
        plan: PushPlan,
        copy: RumorCopy,
        holders: tuple[PeerId, ...],
        now: float,
        *,
        is_announced: bool = False,
    ) -> list[Effect]:
        """Carry out a plan for `copy`; peers in `holders` need no announcement, nor does anyone if it
        `is_announced`."""
        effects: list[Effect] = [*plan.effects]
        holders = (*holders, *plan.targets)
        effects += self._push(copy, plan.targets, is_mail=plan.is_mail)
        if plan.is_offer:
            effects += self.lazy_push.offer(copy.rumor, holders)
        elif not is_announced:
            self.lazy_push.announce(copy.rumor, holders, now, is_mailed=plan.is_mail)
        return effects

    def _rejection(
        self,
        copy: RumorCopy,
        sender: PeerId,
        origin_is_linked: bool,
        is_firsthand: bool,
        now: float,
    ) -> DropReason | None:
        """Why `copy` is rejected; None to accept it. Cheapest checks first."""
        rumor = copy.rumor
        if copy.age_ms >= self._config.current.message_dedup_ttl * 1000:
            return DropReason.MESSAGE_EXPIRED
        rejection = self._store.admission_error(rumor.stream, sender, origin_is_linked, now)
        if rejection is None and not is_firsthand:
            rejection = self._verifier.check(rumor, sender, now)
        if rejection is None and not self._verifier.allow_origin(rumor.origin, now):
            rejection = DropReason.SIGNATURE_BUDGET
        return rejection

    def _report_forgers(self) -> list[Effect]:
        """Count drops for origins whose rumors, accepted on their session, turned out to be forged."""
        forgers = self._store.cache.forgers
        if not forgers:
            return []
        drops: list[Effect] = [CountDrop(origin, DropReason.BAD_SIGNATURE) for origin in forgers]
        forgers.clear()
        return drops

    def _push(
        self, copy: RumorCopy, targets: Sequence[PeerId], *, is_mail: bool = False
    ) -> list[Effect]:
        if not targets:
            return []
        self.relayed += len(targets)
        hops = DIRECT_MAIL_HOPS if is_mail else min(copy.hops + 1, DIRECT_MAIL_HOPS - 1)
        return [Send(tuple(targets), Rumors((RumorCopy(copy.rumor, hops, copy.age_ms),)))]

    def cached_messages(self, patterns: TopicPatterns, now: float) -> list[Message]:
        """Cached messages of other nodes whose topic `patterns` select, in order of arrival."""
        messages: list[Message] = []
        for copy in self._store.cache.copies(now):
            known = copy.rumor.known_attributes
            if known.unsupported or known.is_expired(copy.age_ms) or not copy.rumor.has_body:
                continue
            if copy.rumor.origin != self._context.our_id and patterns.matches(known.topic):
                is_retained = known.entry is not None
                messages += [
                    Message(
                        each,
                        body,
                        copy.hops,
                        Via.CACHE,
                        now,
                        topic=known.topic,
                        is_retained=is_retained,
                    )
                    for each, body in copy.rumor.payloads()
                ]
        return messages

    # --- time -----------------------------------------------------------------------------------

    def advance(self, now: float) -> list[Effect]:
        if now >= self._tick_at:
            self._tick_at = now + STORE_TICK_S
            self._store.tick(now)
            self._unclaimed = {
                key: each
                for key, each in self._unclaimed.items()
                if self._store.cache.contains(key) and now < each.until
            }
            self._awaiting_first_peer = {
                key: count
                for key, count in self._awaiting_first_peer.items()
                if self._store.cache.contains(key)
            }
        effects: list[Effect] = []
        for due in self._strategy.advance(now):
            if not isinstance(due, Push):
                effects.append(due)
            elif (copy := self._store.cache.copy(due.key, now)) is not None:
                effects += self._push(copy, due.targets)
        effects += self.lazy_push.advance(now) + self.puller.advance(now)
        return effects + self._report_forgers()

    @property
    def deadline(self) -> float:
        at = min(self._strategy.deadline, self.lazy_push.deadline, self.puller.deadline)
        if self._tick_at >= at:
            return at
        store = self._store
        is_busy = store.cache or store.has_gaps or store.cache.forgers
        return self._tick_at if is_busy else at


def _with_transit(copy: RumorCopy, sender: Peer | None, *, is_mailed: bool) -> RumorCopy:
    """`copy`, aged by its transit time. Only the origin itself can mark a copy as mailed."""
    transit_ms = int(sender.rtt_s * 500) if sender is not None and sender.rtt_s else 0
    hops = 1 if is_mailed else min(copy.hops, DIRECT_MAIL_HOPS - 1)
    if not transit_ms and hops == copy.hops:
        return copy
    return RumorCopy(copy.rumor, hops, copy.age_ms + transit_ms, copy.holder)


def _is_urgent(rumor: Rumor) -> bool:
    """Whether `rumor` is a question small enough to be pushed to peers that may have it already."""
    if not rumor.attributes or len(rumor.body) > URGENT_RUMOR_BYTES:
        return False
    return rumor.known_attributes.query is not None


def _make_strategy(context: OverlayContext, near_peers: NearPeers) -> Strategy:
    """The strategy that the settings name."""
    match context.config.current.strategy:
        case "flood":
            return Flood(context, near_peers)
        case "plumtree":
            return Plumtree(context, near_peers)
        case "direct-mail":
            return DirectMail(near_peers)
        case "auto":
            return Auto(context, near_peers)
        case _:
            return Epidemic(context, near_peers)
