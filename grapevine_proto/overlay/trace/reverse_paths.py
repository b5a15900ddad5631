"""Reverse paths: forwards trace receipts for rumors of other origins from member to origin.

    member -> Receipts          within `ANSWER_SPREAD_S`, to the origin if linked, else to the peer the
                                rumor came from, which forwards it the same way
    receiver -> ReceiptAck      or they are resent, then sent along another path
    a second later -> Receipts  once more to another peer with the rumor, in case the first withholds them

Invariants:

- A node checks each receipt before it forwards it, so a forged one is its sender's fault. A node
  between a member and the origin can withhold a receipt but cannot forge one.
- A node forwards each member's receipt for one message once, and none beyond `RELAYS_LIMIT` hops;
  at most `RECEIPTS_PER_ROUTE_LIMIT` per message and `RECEIPTS_PER_PEER_LIMIT` of those from one
  peer.
- At most `ROUTES_PER_ORIGIN` messages per origin and `ROUTES_LIMIT` in all have a route; none is
  evicted before `ROUTE_MIN_LIFETIME_S`. So few rumors cannot cause many receipts.
- Receipts sent to any node but the origin are signed by their member.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from grapevine_proto.ids import MessageId, PeerId
from grapevine_proto.overlay.context import OverlayContext
from grapevine_proto.overlay.effects import Effect, Send
from grapevine_proto.overlay.trace.sample import TraceSample
from grapevine_proto.wire.messages import IHave, Offer, Receipts, RumorCopy
from grapevine_proto.wire.signed import Rumor, TraceReceipt

ANSWER_SPREAD_S: Final = 0.100  # spreads the answers, so that the origin is not hit by all at once
RECEIPT_BATCH_DELAY_S: Final = 0.020  # to fill a datagram; five hops cost 0.1 s
RECEIPTS_PER_DATAGRAM: Final = 10  # signed receipts that fit
RECEIPT_ACK_TIMEOUT_RTTS: Final = 3.0
RECEIPT_ACK_TIMEOUT_BOUNDS_S: Final = (
    0.100,
    0.500,
)  # for the first `ReceiptAck`; doubled each time
TRIES_PER_PATH: Final = 4  # on one path; at 30 % loss, 3 in 100 go on to the next
ROUNDS_OF_PATHS: Final = 2  # over all known paths; in a tree there may be only one
SECOND_PATH_AFTER_S: Final = 1.0  # by then nearly all receipts have arrived

ROUTES_LIMIT: Final = 64  # messages of others with a route
ROUTES_PER_ORIGIN: Final = 16
ROUTE_MIN_LIFETIME_S: Final = 5.0  # before a route may be evicted
RECEIPTS_PER_ROUTE_LIMIT: Final = 1024  # 100 bytes each
RECEIPTS_PER_PEER_LIMIT: Final = 192  # of those; a sample of 100 hardly ever has 150 members
RELAYS_LIMIT: Final = 32  # hops of one receipt; trees are a dozen deep at 10,000 members
SOURCES_PER_ROUTE_LIMIT: Final = 4  # peers that have the rumor
UNACKED_BATCHES_LIMIT: Final = 256  # the oldest is abandoned first


class _Route:
    """The way back to the origin of a traced message of another node."""

    __slots__ = (
        "flush_at",
        "forwarded",
        "message_id",
        "opened_at",
        "pending",
        "received_from",
        "sample",
        "sources",
    )

    def __init__(
        self, message_id: MessageId, sample: TraceSample, holders: Iterable[PeerId], now: float
    ) -> None:
        self.message_id = message_id
        self.sample = sample
        self.opened_at = now
        self.sources = list(dict.fromkeys(holders))[:SOURCES_PER_ROUTE_LIMIT]  # fastest first
        # members whose receipt was sent from here, including ours
        self.forwarded: set[PeerId] = set()
        self.received_from: Counter[PeerId] = Counter()  # number of those, by peer
        self.pending: list[TraceReceipt] = []
        self.flush_at = math.inf


class _Batch:
    """Receipts in flight, or waiting for another path."""

    __slots__ = (
        "due_at",
        "is_acked",
        "path_rounds",
        "receipts",
        "route",
        "target",
        "targets_tried",
        "tries",
    )

    def __init__(self, route: _Route, receipts: tuple[TraceReceipt, ...]) -> None:
        self.route = route
        self.receipts = receipts
        self.target: PeerId | None = None
        self.is_acked = False  # by one peer; the second path covers a peer that withholds receipts
        self.targets_tried: set[PeerId] = set()
        self.tries = 0  # to `target`
        self.path_rounds = 1
        self.due_at = 0.0


class ReversePaths:
    """Routes and forwards receipts; a component of `trace`, which advances it.

    Broadcast reports peers that have a rumor (`on_rumor`, `on_duplicate`, `on_ids`); `relay`
    forwards a receipt along the paths they form.
    """

    def __init__(self, context: OverlayContext) -> None:
        self._cluster = context.config.current.cluster
        self._identity = context.identity
        self._our_id = context.our_id
        self._peers = context.peers
        self._verifier = context.verifier
        self._rng = context.rng
        self._routes: OrderedDict[MessageId, _Route] = OrderedDict()
        self._by_origin: Counter[PeerId] = Counter()
        self._batches: OrderedDict[int, _Batch] = OrderedDict()
        self._last_number = 0
        self.deadline = math.inf  # when to call `advance`
        self.relayed = 0  # receipts of other members forwarded
        self.refused = 0  # receipts and routes refused for lack of room or reason
        self.lost = 0  # receipts not acknowledged by any peer

    # --- routes ---------------------------------------------------------------------------------

    def on_rumor(self, copy: RumorCopy, holders: Iterable[PeerId], now: float) -> None:
        """Open a route for a traced rumor that is new here. `holders` have it: its sender first,
        then peers that announced it before.
        """
        rumor = copy.rumor
        trace_share = rumor.known_attributes.trace_share
        if not trace_share or rumor.origin == self._our_id:
            return
        message_id = _message_id(rumor)
        if message_id in self._routes:
            return
        if not self._make_room(rumor.origin, now):
            self.refused += 1
            return
        sample = TraceSample(self._cluster, message_id, trace_share)
        route = self._routes[message_id] = _Route(message_id, sample, holders, now)
        self._by_origin[rumor.origin] += 1
        if self._our_id in sample:
            route.forwarded.add(self._our_id)
            route.pending.append(TraceReceipt(self._our_id, copy.hops, copy.age_ms))
            self._flush_by(route, now + ANSWER_SPREAD_S * self._rng.random())

    def on_duplicate(self, rumor: Rumor, sender: PeerId) -> None:
        """`sender` has `rumor` too and thus a path to its origin."""
        if rumor.known_attributes.trace_share:
            self._add_source(_message_id(rumor), sender)

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
        """Whether another message of `origin` may have a route; evicts the oldest if its minimum
        lifetime is over.
        """
        oldest: _Route | None = None
        if self._by_origin[origin] >= ROUTES_PER_ORIGIN:
            oldest = next(
                route for route in self._routes.values() if route.message_id.origin == origin
            )
        elif len(self._routes) >= ROUTES_LIMIT:
            oldest = next(iter(self._routes.values()))
        if oldest is None:
            return True
        if now - oldest.opened_at < ROUTE_MIN_LIFETIME_S:
            return False
        self._remove_route(oldest)
        return True

    def _remove_route(self, route: _Route) -> None:
        del self._routes[route.message_id]
        origin = route.message_id.origin
        self._by_origin[origin] -= 1
        if not self._by_origin[origin]:
            del self._by_origin[origin]

    def _flush_by(self, route: _Route, at: float) -> None:
        route.flush_at = min(route.flush_at, at)
        self.deadline = min(self.deadline, at)

    # --- receipts -------------------------------------------------------------------------------

    def relay(
        self, message_id: MessageId, receipt: TraceReceipt, sender: PeerId, now: float
    ) -> bool:
        """Forward one receipt, if it is wanted and there is room; False if its signature is forged."""
        route = self._routes.get(message_id)
        if route is None or receipt.member not in route.sample:
            self.refused += 1
            return True
        if receipt.member in route.forwarded:
            return True
        is_full = len(route.forwarded) >= RECEIPTS_PER_ROUTE_LIMIT or receipt.relays >= RELAYS_LIMIT
        if is_full or route.received_from[sender] >= RECEIPTS_PER_PEER_LIMIT:
            self.refused += 1
            return True
        if not self._verifier.try_charge_check(sender, now):
            self.refused += 1
            return True
        if not receipt.is_authentic(self._cluster, route.message_id):
            return False
        route.forwarded.add(receipt.member)
        route.received_from[sender] += 1
        route.pending.append(replace(receipt, relays=receipt.relays + 1))
        self.relayed += 1
        is_datagram_full = len(route.pending) >= RECEIPTS_PER_DATAGRAM
        self._flush_by(route, now if is_datagram_full else now + RECEIPT_BATCH_DELAY_S)
        return True

    # --- sending --------------------------------------------------------------------------------

    def _flush(self, route: _Route, now: float) -> list[Effect]:
        """Send pending receipts in as many datagrams as necessary."""
        pending, route.pending = route.pending, []
        route.flush_at = math.inf
        effects: list[Effect] = []
        for start in range(0, len(pending), RECEIPTS_PER_DATAGRAM):
            self._last_number += 1
            batch = _Batch(route, tuple(pending[start : start + RECEIPTS_PER_DATAGRAM]))
            self._batches[self._last_number] = batch
            effects += self._send_batch(self._last_number, batch, now)
        while len(self._batches) > UNACKED_BATCHES_LIMIT:
            self._on_abandoned(self._batches.popitem(last=False)[1])
        return effects

    def _on_abandoned(self, batch: _Batch) -> None:
        if not batch.is_acked:
            self.lost += len(batch.receipts)

    def _send_batch(self, number: int, batch: _Batch, now: float) -> list[Effect]:
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
            del self._batches[number]
            self._on_abandoned(batch)
            return []
        route = batch.route
        if batch.target != route.message_id.origin:  # others forward only signed receipts
            batch.receipts = tuple(
                each
                if each.signature
                else each.signed(self._identity, self._cluster, route.message_id)
                for each in batch.receipts
            )
        timeout_s = self._peers.timeout_for(
            batch.target, RECEIPT_ACK_TIMEOUT_RTTS, RECEIPT_ACK_TIMEOUT_BOUNDS_S
        )
        batch.due_at = now + timeout_s * 2**batch.tries
        batch.tries += 1
        self.deadline = min(self.deadline, batch.due_at)
        return [Send((batch.target,), Receipts(number, route.message_id, batch.receipts))]

    def on_ack(self, number: int, sender: PeerId, now: float) -> None:
        """`sender` acknowledged batch `number`."""
        batch = self._batches.get(number)
        if batch is None or batch.target != sender:
            return
        if batch.is_acked or sender == batch.route.message_id.origin:
            del self._batches[number]
            return
        batch.is_acked = True
        batch.targets_tried.add(sender)
        batch.target = None
        batch.due_at = now + SECOND_PATH_AFTER_S
        self.deadline = min(self.deadline, batch.due_at)

    def _next_hop(self, batch: _Batch) -> PeerId | None:
        route = batch.route
        for peer_id in (route.message_id.origin, *route.sources):
            if peer_id not in batch.targets_tried and self._peers.is_linked(peer_id):
                return peer_id
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


def _message_id(rumor: Rumor) -> MessageId:
    return MessageId(rumor.origin, rumor.epoch, rumor.first)
