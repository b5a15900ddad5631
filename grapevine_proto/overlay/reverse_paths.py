"""Reverse paths: takes what members return for a rumor, such as trace receipts and answers to a query, back
to its origin.

    member -> Receipts or Answers   within `ANSWER_SPREAD_S`, to the origin if linked, else to the peer the
                                    rumor came from, which forwards it the same way
    receiver -> its ack             or they are resent, then sent along another path
    a while later -> once more      to another peer with the rumor, in case the first withholds them

Invariants:

- A node checks each item before it forwards it, so a forged one is its sender's fault. A node
  between a member and the origin can withhold an item but cannot forge one.
- A node forwards each member's item for one rumor once, and none beyond `RELAYS_LIMIT` hops; at most
  `PathLimits.items_per_route` and `bytes_per_route` per rumor and `items_per_peer` of those from one peer.
- At most `ROUTES_PER_ORIGIN` rumors per origin and `ROUTES_LIMIT` in all have a route; none that an origin
  waits for is evicted before `ROUTE_MIN_LIFETIME_S`. So few rumors cannot cause many items.
- Items sent to any node but the origin are signed by their member.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Final, Generic, NamedTuple, Protocol, Self, TypeVar

from grapevine_proto.crypto.identity import Identity
from grapevine_proto.ids import MessageId, PeerId
from grapevine_proto.overlay.context import OverlayContext
from grapevine_proto.overlay.effects import Effect, Send
from grapevine_proto.overlay.peers import TimeBounds
from grapevine_proto.wire.messages import IHave, Offer, OverlayMessage, RumorCopy
from grapevine_proto.wire.signed import Rumor

ANSWER_SPREAD_S: Final = 0.100  # spreads the answers, so that the origin is not hit by all at once
BATCH_DELAY_S: Final = 0.020  # to fill a datagram; five hops cost 0.1 s
SHORT_BATCH_DELAY_S: Final = 0.005  # for the first items of a route, if a program waits for them
ACK_TIMEOUT_RTTS: Final = 3.0
ACK_TIMEOUT_BOUNDS: Final = TimeBounds(0.100, 0.500)  # for the first ack; doubled each time
TRIES_PER_PATH: Final = 4  # on one path; at 30 % loss, 3 in 100 go on to the next
ROUNDS_OF_PATHS: Final = 2  # over all known paths; in a tree there may be only one

ROUTES_LIMIT: Final = 64  # rumors of others with a route
ROUTES_PER_ORIGIN: Final = 16
ROUTE_MIN_LIFETIME_S: Final = 5.0  # before a route may be evicted
RELAYS_LIMIT: Final = 32  # hops of one item; trees are a dozen deep at 10,000 members
SOURCES_PER_ROUTE_LIMIT: Final = 4  # peers that have the rumor


class SignedItem(Protocol):
    """What travels on reverse paths: a trace receipt or an answer, signed by its member."""

    @property
    def member(self) -> PeerId: ...
    @property
    def signature(self) -> bytes: ...
    @property
    def relays(self) -> int: ...
    @property
    def key(self) -> Hashable:
        """What distinguishes items of one message."""

    @property
    def size_bytes(self) -> int: ...
    def signed(self, identity: Identity, cluster: str, message_id: MessageId) -> Self: ...
    def relayed(self) -> Self: ...
    def is_authentic(self, cluster: str, message_id: MessageId) -> bool: ...


ItemT = TypeVar("ItemT", bound=SignedItem)


class PathLimits(NamedTuple):
    """The limits of one kind of items. `bytes_held` is of items that are pending or in flight, over all
    routes. `unacked_batches` are messages in flight or waiting for a second path, which they take
    `second_path_after_s` after the first ack. The first `urgent_items` of a rumor wait less for others.
    `has_path_by_any_peer`: where no other peer is known to have the rumor, one that may have it is the second
    path, or the next where one peer does not answer."""

    items_per_message: int
    bytes_per_message: int
    items_per_route: int
    bytes_per_route: int
    bytes_held: int
    items_per_peer: int
    unacked_batches: int
    second_path_after_s: float
    urgent_items: int = 0
    has_path_by_any_peer: bool = False
    ack_timeout_rtts: float = ACK_TIMEOUT_RTTS
    ack_timeout_bounds: TimeBounds = ACK_TIMEOUT_BOUNDS


class AskedSet(Protocol):
    """The members that may return an item for a rumor, as far as every node can tell."""

    def __contains__(self, member: PeerId, /) -> bool: ...


class RumorWatcher(Protocol):
    """A component that broadcast informs about rumors with attributes."""

    def on_rumor(self, copy: RumorCopy, holders: Iterable[PeerId], now: float) -> list[Effect]:
        """`copy` is new here. `holders` have it: its sender first, then peers that announced it before."""
        ...

    def on_duplicate(self, rumor: Rumor, sender: PeerId) -> None:
        """`sender` has `rumor` too and thus a path to its origin."""
        ...

    def on_ids(self, ids: IHave | Offer, sender: PeerId) -> None:
        """`sender` has these rumors."""
        ...

    def on_conflict(self, rumor: Rumor) -> None:
        """The origin of `rumor` signed another content under its ID as well."""
        ...


class _Route(Generic[ItemT]):
    """The way back to the origin of a rumor of another node. Only members in `asked` return items."""

    __slots__ = (
        "asked",
        "bytes_accepted",
        "ends_at",
        "flush_at",
        "forwarded",
        "message_id",
        "opened_at",
        "pending",
        "received_from",
        "sources",
    )

    def __init__(
        self,
        message_id: MessageId,
        asked: AskedSet,
        holders: Iterable[PeerId],
        now: float,
        ends_at: float,
    ) -> None:
        self.message_id = message_id
        self.asked = asked
        self.opened_at = now
        self.ends_at = ends_at
        self.sources = list(dict.fromkeys(holders))[:SOURCES_PER_ROUTE_LIMIT]  # fastest first
        self.forwarded: set[Hashable] = (
            set()
        )  # keys of items that were sent from here, ours included
        self.received_from: Counter[PeerId] = Counter()  # number of those, by peer
        self.bytes_accepted = 0
        self.pending: list[ItemT] = []
        self.flush_at = math.inf


class _Batch(Generic[ItemT]):
    """Items in flight, or waiting for another path."""

    __slots__ = (
        "due_at",
        "is_acked",
        "items",
        "path_rounds",
        "route",
        "target",
        "targets_tried",
        "tries",
    )

    def __init__(self, route: _Route[ItemT], items: tuple[ItemT, ...]) -> None:
        self.route: _Route[ItemT] = route
        self.items: tuple[ItemT, ...] = items
        self.target: PeerId | None = None
        self.is_acked = False  # by one peer; the second path covers a peer that withholds items
        self.targets_tried: set[PeerId] = set()
        self.tries = 0  # to `target`
        self.path_rounds = 1
        self.due_at = 0.0


class ReversePaths(Generic[ItemT]):
    """Routes and forwards one kind of items; a component of its owner, which advances it.

    The owner opens a route for each rumor that asks for items, reports peers that have the rumor
    (`on_duplicate`, `on_ids`), hands in the item of this node (`submit`) and those of peers (`relay`).

    Args:
        make_message: returns the message with a number, the rumor's ID and items.
    """

    def __init__(
        self,
        context: OverlayContext,
        limits: PathLimits,
        make_message: Callable[[int, MessageId, tuple[ItemT, ...]], OverlayMessage],
    ) -> None:
        self._cluster = context.config.current.cluster
        self._identity = context.identity
        self._peers = context.peers
        self._verifier = context.verifier
        self._limits = limits
        self._make_message: Callable[[int, MessageId, tuple[ItemT, ...]], OverlayMessage] = (
            make_message
        )
        self._routes: OrderedDict[MessageId, _Route[ItemT]] = OrderedDict()
        self._by_origin: Counter[PeerId] = Counter()
        self._bytes_held = 0  # of items that are pending or in flight
        self._batches: OrderedDict[int, _Batch[ItemT]] = OrderedDict()
        self._last_number = 0
        self.deadline = math.inf  # when to call `advance`
        self.relayed = 0  # items of other members forwarded
        self.refused = 0  # items and routes refused for lack of room or reason
        self.lost = 0  # items not acknowledged by any peer

    # --- routes ---------------------------------------------------------------------------------

    def open(
        self,
        message_id: MessageId,
        asked: AskedSet,
        holders: Iterable[PeerId],
        now: float,
        ends_at: float = math.inf,
    ) -> bool:
        """Opens a route for a rumor of another node that is new here; False if there is one already, or no
        room. `holders` have the rumor, the fastest first. From `ends_at` on nobody waits for items."""
        if message_id in self._routes:
            return False
        if not self._make_room(message_id.origin, now):
            self.refused += 1
            return False
        self._routes[message_id] = _Route(message_id, asked, holders, now, ends_at)
        self._by_origin[message_id.origin] += 1
        return True

    def on_duplicate(self, message_id: MessageId, sender: PeerId) -> None:
        """`sender` has the rumor too and thus a path to its origin."""
        self._add_source(message_id, sender)

    def on_ids(self, ids: IHave | Offer, sender: PeerId) -> None:
        """`sender` has these rumors."""
        if self._routes:
            for each in ids.ranges:
                self._add_source(MessageId(*each.stream, each.first), sender)

    def _add_source(self, message_id: MessageId, sender: PeerId) -> None:
        route = self._routes.get(message_id)
        if (
            route is not None
            and sender not in route.sources
            and len(route.sources) < SOURCES_PER_ROUTE_LIMIT
        ):
            route.sources.append(sender)

    def _make_room(self, origin: PeerId, now: float) -> bool:
        """Whether another rumor of `origin` may have a route; evicts one that nobody needs, or the oldest if
        its minimum lifetime is over.
        """
        candidates: list[_Route[ItemT]] = []
        if self._by_origin[origin] >= ROUTES_PER_ORIGIN:
            candidates = [
                each for each in self._routes.values() if each.message_id.origin == origin
            ]
        elif len(self._routes) >= ROUTES_LIMIT:
            candidates = list(self._routes.values())
        if not candidates:
            return True
        victim = next((each for each in candidates if each.ends_at <= now), candidates[0])
        if victim.ends_at > now and now - victim.opened_at < ROUTE_MIN_LIFETIME_S:
            return False
        self._remove_route(victim)
        return True

    def _remove_route(self, route: _Route[ItemT]) -> None:
        del self._routes[route.message_id]
        self._bytes_held -= _size_of(route.pending)
        origin = route.message_id.origin
        self._by_origin[origin] -= 1
        if not self._by_origin[origin]:
            del self._by_origin[origin]

    def _flush_by(self, route: _Route[ItemT], at: float) -> None:
        route.flush_at = min(route.flush_at, at)
        self.deadline = min(self.deadline, at)

    # --- items ----------------------------------------------------------------------------------

    def submit(self, message_id: MessageId, item: ItemT, at: float) -> bool:
        """Sends the item of this node by `at`; False if its rumor has no route any more."""
        route = self._routes.get(message_id)
        if route is None:
            return False
        self._accept(route, item)
        self._flush_by(route, at)
        return True

    def relay(self, message_id: MessageId, item: ItemT, sender: PeerId, now: float) -> bool:
        """Forwards one item, if it is wanted and there is room; False if its signature is forged."""
        route = self._routes.get(message_id)
        if route is None or item.member not in route.asked:
            self.refused += 1
            return True
        if item.key in route.forwarded:
            return True
        if not self._has_room(route, item, sender) or not self._verifier.try_charge_check(
            sender, now
        ):
            self.refused += 1
            return True
        if not item.is_authentic(self._cluster, route.message_id):
            return False
        route.received_from[sender] += 1
        self._accept(route, item.relayed())
        self.relayed += 1
        is_datagram_full = (
            len(route.pending) >= self._limits.items_per_message
            or _size_of(route.pending) >= self._limits.bytes_per_message
        )
        is_urgent = len(route.forwarded) <= self._limits.urgent_items
        delay_s = SHORT_BATCH_DELAY_S if is_urgent else BATCH_DELAY_S
        self._flush_by(route, now if is_datagram_full else now + delay_s)
        return True

    def _has_room(self, route: _Route[ItemT], item: ItemT, sender: PeerId) -> bool:
        limits, size_bytes = self._limits, item.size_bytes
        return (
            len(route.forwarded) < limits.items_per_route
            and item.relays < RELAYS_LIMIT
            and route.received_from[sender] < limits.items_per_peer
            and route.bytes_accepted + size_bytes <= limits.bytes_per_route
            and self._bytes_held + size_bytes <= limits.bytes_held
        )

    def _accept(self, route: _Route[ItemT], item: ItemT) -> None:
        route.forwarded.add(item.key)
        route.pending.append(item)
        route.bytes_accepted += item.size_bytes
        self._bytes_held += item.size_bytes

    # --- sending --------------------------------------------------------------------------------

    def _flush(self, route: _Route[ItemT], now: float) -> list[Effect]:
        """Sends pending items in as few datagrams as they fit, an item that fits none by itself alone."""
        pending, route.pending = route.pending, []
        route.flush_at = math.inf
        effects: list[Effect] = []
        for items in self._batches_of(pending):
            self._last_number += 1
            batch = _Batch(route, items)
            self._batches[self._last_number] = batch
            effects += self._send_batch(self._last_number, batch, now)
        while len(self._batches) > self._limits.unacked_batches:
            self._remove_batch(next(iter(self._batches)))
        return effects

    def _batches_of(self, pending: list[ItemT]) -> list[tuple[ItemT, ...]]:
        batches: list[tuple[ItemT, ...]] = []
        items: list[ItemT] = []
        size_bytes = 0
        for item in pending:
            is_full = (
                len(items) >= self._limits.items_per_message
                or size_bytes + item.size_bytes > self._limits.bytes_per_message
            )
            if items and is_full:
                batches.append(tuple(items))
                items, size_bytes = [], 0
            items.append(item)
            size_bytes += item.size_bytes
        if items:
            batches.append(tuple(items))
        return batches

    def _remove_batch(self, number: int) -> None:
        batch = self._batches.pop(number)
        self._bytes_held -= _size_of(batch.items)
        if not batch.is_acked:
            self.lost += len(batch.items)

    def _send_batch(self, number: int, batch: _Batch[ItemT], now: float) -> list[Effect]:
        """Resend a batch: to the same peer, or along the next path after `TRIES_PER_PATH` tries."""
        if batch.tries >= TRIES_PER_PATH and batch.target is not None:
            batch.targets_tried.add(batch.target)
            batch.target = None
        if batch.target is None or not self._peers.is_linked(batch.target):
            batch.target, batch.tries = self._next_hop(batch), 0
        if batch.target is None and not batch.is_acked and batch.path_rounds < ROUNDS_OF_PATHS:
            batch.path_rounds += 1
            batch.targets_tried.clear()
            batch.target = self._next_hop(batch)
        if batch.target is None:
            self._remove_batch(number)
            return []
        route = batch.route
        if batch.target != route.message_id.origin:  # others forward only signed items
            batch.items = tuple(
                each
                if each.signature
                else each.signed(self._identity, self._cluster, route.message_id)
                for each in batch.items
            )
        timeout_s = self._peers.timeout_for(
            batch.target, self._limits.ack_timeout_rtts, self._limits.ack_timeout_bounds
        )
        batch.due_at = now + timeout_s * 2**batch.tries
        batch.tries += 1
        self.deadline = min(self.deadline, batch.due_at)
        return [Send((batch.target,), self._make_message(number, route.message_id, batch.items))]

    def on_ack(self, number: int, sender: PeerId, now: float) -> None:
        """`sender` acknowledged batch `number`."""
        batch = self._batches.get(number)
        if batch is None or batch.target != sender:
            return
        is_second = batch.is_acked
        batch.is_acked = True
        if is_second or sender == batch.route.message_id.origin:
            self._remove_batch(number)
            return
        batch.targets_tried.add(sender)
        batch.target = None
        batch.due_at = now + self._limits.second_path_after_s
        self.deadline = min(self.deadline, batch.due_at)

    def _next_hop(self, batch: _Batch[ItemT]) -> PeerId | None:
        route: _Route[ItemT] = batch.route
        for peer_id in (route.message_id.origin, *route.sources):
            if peer_id not in batch.targets_tried and self._peers.is_linked(peer_id):
                return peer_id
        is_wanted = batch.is_acked or len(batch.targets_tried) <= SOURCES_PER_ROUTE_LIMIT
        if is_wanted and self._limits.has_path_by_any_peer:
            return next(
                (each for each in self._peers.linked if each not in batch.targets_tried), None
            )
        return None

    # --- time -----------------------------------------------------------------------------------

    def advance(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for route in self._routes.values():
            if route.flush_at <= now:
                effects += self._flush(route, now)
        for number, batch in list(self._batches.items()):
            if batch.due_at <= now:
                effects += self._send_batch(number, batch, now)
        self.deadline = min(
            *(route.flush_at for route in self._routes.values()),
            *(batch.due_at for batch in self._batches.values()),
            math.inf,
            math.inf,
        )
        return effects


def message_id_of(rumor: Rumor) -> MessageId:
    """The ID of the first payload, by which items name the rumor."""
    return MessageId(rumor.origin, rumor.epoch, rumor.first)


def _size_of(items: Sequence[SignedItem]) -> int:
    return sum(each.size_bytes for each in items)
