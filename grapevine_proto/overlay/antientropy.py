"""Rounds of digests out and repairs back: what broadcast missed is found and mended.

A round, begun by us with one peer:

    we -> Digest                     what we saw, in one small datagram
    peer -> InSync                   the same: done
         or Vector, answering        its streams, a page at a time
    we -> Want ...                   what it holds and we have not seen, one datagram at a time
    peer -> Repair ... (last)        until nothing is wanted any more
    we -> Vector                     our entries that are ahead of the peer's
    peer -> Want                     what it has not seen (or nothing)
    we -> Repair ... (last)

What must stay true:

- What somebody says of streams only limits what is asked of *them*; marks move by rumors alone,
  which prove themselves.
- Nothing is sent that was not asked for, and a bounded answer for one question (`rounds`), so that
  the pace is set by whoever asks.
- What one peer was asked for and may still send, no other is asked for meanwhile (`questions`), and nobody
  for more than `SHARE` messages at once: who missed much is served by all who answer, each as quick as it is.
- At most one round with a peer at a time, each with an end: a peer that brings nothing new ends it in
  `PATIENCE_S`, and after `ROUND_LIMIT_S` any round is over.
- No message of a peer costs more than `LOOKED_AT` ranges to look at, whatever it names and however much
  is missing here.

Besides rounds, what is known to be missed is asked for as soon as it has stood a moment (`holes`).
"""

from __future__ import annotations

import math
import random
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final, TypeAlias, assert_never

from grapevine_proto.config import NodeConfig
from grapevine_proto.errors import DropReason, Offense
from grapevine_proto.events import AntiEntropyRound, Round, RoundOutcome, Via
from grapevine_proto.ids import PeerId, Stream, StreamRange
from grapevine_proto.messages import Digest, Heartbeat, InSync, Repair, RumorCopy, Vector, Want
from grapevine_proto.overlay.effects import Blame, Credit, Deliver, Effect, Emit, Penalize, Send
from grapevine_proto.overlay.holes import Holes
from grapevine_proto.overlay.peers import PeerTable
from grapevine_proto.overlay.questions import Questions
from grapevine_proto.overlay.ranges import RANGES_A_WANT, hulls, share_of
from grapevine_proto.overlay.rounds import (
    ENTRIES_A_PAGE,
    STREAMS_LIMIT,
    Running,
)
from grapevine_proto.overlay.selection import uniform
from grapevine_proto.overlay.serving import Serving
from grapevine_proto.overlay.store import Store

PATIENCE_S: Final = 3.0  # without a word from the peer of a round
ASKED_BACK_S: Final = 1.0  # for what a peer offers in a round of its own; `PATIENCE_S` later again
MISMATCH_S: Final = 2.0  # a digest that still differs after that is no traffic on its way
NEW_LINK_S: Final = (
    0.5  # on a new link, at the most: what differs there has come by no other either
)
BEYOND_AFTER_S: Final = 5.0  # for which links were asked about a hole before others are
LOOKED_AT: Final = 256  # missing ranges, for one question: 0.2 ms
ARRIVING_S: Final = 2.0  # without a further part of a large message, it is no longer on its way
# For which we hold back, and then as long not: dribbling must not stop repair.
ARRIVING_LIMIT_S: Final = 30.0
ROUNDS_KEPT: Final = 256
FRUITLESS_S: Final = 30.0  # before asking again what led to nothing
COPIES_AT_ONCE: Final = (
    24  # of one message, taken in: a signature each, 1 ms; we send 16 at the most
)
PEERS_LIMIT: Final = 1024  # of which we remember something: twice as many as there are sessions
HOLES_ROUND: Final = 0  # the number that questions about holes carry, outside of any round
LAZY_ROUND: Final = (1 << 32) - 1  # and that of questions about ids that were told

RoundMessage: TypeAlias = Heartbeat | Digest | InSync | Vector | Want | Repair
Accept: TypeAlias = Callable[[RumorCopy, PeerId, Via, float], list[Effect]]


class AntiEntropy:
    """The machine that owns rounds. Driven by the digests on heartbeats, by its own messages and by
    its deadline; takes what it gets to `accept`, which dissemination gives."""

    def __init__(
        self,
        config: NodeConfig,
        peers: PeerTable,
        store: Store,
        rng: random.Random,
        accept: Accept,
        now: float,
        *,
        beyond: Callable[[], PeerId | None] = lambda: None,
    ) -> None:
        self._config = config
        self._peers = peers
        self._store = store
        self._rng = rng
        self._accept = accept
        self._beyond = beyond
        self._running: dict[PeerId, Running] = {}
        self._questions = Questions()
        self._serving = Serving(store.held)
        # When peers were asked for what they offered in a round of theirs, the latest last.
        self._asked_back: OrderedDict[PeerId, float] = OrderedDict()
        self._doubts: dict[PeerId, tuple[float, int, bytes]] = {}  # digests to compare again, when
        self._fruitless: OrderedDict[PeerId, tuple[float, bytes]] = OrderedDict()
        self._arriving_since = self._arriving_at = -math.inf
        self._holds_back = False  # for what has been arriving since then
        self._number = 0
        self._holes = Holes(store, now)
        self._due_at = now  # a lower bound of all deadlines but that of holes
        interval_s = config.anti_entropy.interval
        self.next_round_at = now + interval_s * rng.random()
        self.rounds: deque[Round] = deque(maxlen=ROUNDS_KEPT)

    def reconfigure(self, config: NodeConfig, now: float) -> None:
        self._config = config
        self.next_round_at = min(self.next_round_at, now + config.anti_entropy.interval)
        self._due_at = now

    # --- beginning ------------------------------------------------------------------------------

    def start_rounds(self, now: float) -> list[Effect]:
        """Begin a round with `fanout` linked peers. They were asked about each hole as soon as it stood;
        what they have not filled by now, somebody beyond them is asked for."""
        self.next_round_at = now + self._config.anti_entropy.interval
        effects: list[Effect] = []
        fanout = self._config.anti_entropy.fanout
        for peer_id in uniform(self._peers.linked, fanout, self._rng, but=self._running):
            effects += self._start(peer_id, now)
        holes = tuple(self._store.holes(now, BEYOND_AFTER_S, RANGES_A_WANT))
        stranger = self._beyond() if holes else None
        if stranger is not None:
            effects.append(Send((stranger,), Want(HOLES_ROUND, holes)))
        return effects

    def _start(self, peer_id: PeerId, now: float) -> list[Effect]:
        self._number += 1
        self._running[peer_id] = Running(self._number, now)
        self._due_at = min(self._due_at, now + PATIENCE_S)
        return [Send((peer_id,), Digest(self._number, *self._store.digest(now)))]

    def arriving(self, peer_id: PeerId, now: float) -> None:
        """Part of a large message came from `peer_id`: it may be what we would ask others for."""
        running = self._running.get(peer_id)
        if running is not None:
            running.heard_at = now
        self._questions.arriving(peer_id, now)
        if now - self._arriving_at > ARRIVING_S:
            held_back_s = self._arriving_at - self._arriving_since if self._holds_back else 0.0
            self._holds_back = not now - self._arriving_at < held_back_s
            self._arriving_since = now
        self._arriving_at = now

    def _is_arriving(self, now: float) -> bool:
        return (
            self._holds_back
            and now - self._arriving_at <= ARRIVING_S
            and now - self._arriving_since < ARRIVING_LIMIT_S
        )

    # --- hearing --------------------------------------------------------------------------------

    def handle(self, message: RoundMessage, sender: PeerId, now: float) -> list[Effect]:
        match message:
            case Heartbeat(streams=streams, total=total):
                return self._compare(streams, total, sender, now)
            case Digest():
                return self._on_digest(message, sender, now)
            case InSync():
                return self._on_in_sync(message, sender, now)
            case Vector():
                return self._on_vector(message, sender, now)
            case Want():
                return self._on_want(message, sender, now)
            case Repair():
                return self._on_repair(message, sender, now)
            case _:
                assert_never(message)

    def _compare(self, streams: int, total: bytes, sender: PeerId, now: float) -> list[Effect]:
        """A heartbeat's digest. One mismatch may be traffic on its way: look again a little later."""
        if self._store.digest(now) == (streams, total):
            self._doubts.pop(sender, None)
            return []
        peer = self._peers.get(sender)
        is_new = (
            peer is not None and peer.linked_at is not None and now < peer.linked_at + NEW_LINK_S
        )
        pause_s = NEW_LINK_S * self._rng.random() if is_new else MISMATCH_S
        due_at = self._doubts[sender][0] if sender in self._doubts else now + pause_s
        self._doubts[sender] = (due_at, streams, total)
        self._due_at = min(self._due_at, due_at)
        return []

    def _on_digest(self, digest: Digest, sender: PeerId, now: float) -> list[Effect]:
        """Their round, which mends both: ours need not be begun for what their heartbeat showed."""
        self._doubts.pop(sender, None)
        if self._store.digest(now) == (digest.streams, digest.total):
            return [Send((sender,), InSync(digest.round))]
        if not self._serving.may_compare(sender, now):
            return [
                Blame(sender, DropReason.RATE_LIMITED),
                Penalize(sender, Offense.REPEATED_QUESTION),
            ]
        return self._tell_vector(sender, digest.round, self._page_of_vector(now), answering=True)

    def _page_of_vector(self, now: float) -> list[StreamRange]:
        """Our streams; where they are too many for one round, in turn."""
        return self._store.vector(now, STREAMS_LIMIT)

    def _tell_vector(
        self, peer_id: PeerId, number: int, entries: list[StreamRange], *, answering: bool
    ) -> list[Effect]:
        pages = [
            tuple(entries[i : i + ENTRIES_A_PAGE]) for i in range(0, len(entries), ENTRIES_A_PAGE)
        ] or [()]
        return [
            Send((peer_id,), Vector(number, answering, index, len(pages), page))
            for index, page in enumerate(pages)
        ]

    def _on_in_sync(self, message: InSync, sender: PeerId, now: float) -> list[Effect]:
        if self._round(sender, message.round) is None:
            return [Blame(sender, DropReason.NOT_ASKED)]
        return self._finish(sender, RoundOutcome.IN_SYNC, now)

    def _on_vector(self, vector: Vector, sender: PeerId, now: float) -> list[Effect]:
        if not vector.answering:
            return self._on_offered_vector(vector, sender, now)
        running = self._round(sender, vector.round)
        if running is None:
            return [Blame(sender, DropReason.NOT_ASKED)]
        if not running.turn_page(vector, now):
            return [
                Blame(sender, DropReason.DUPLICATE),
                Penalize(sender, Offense.IDLE_EXCHANGE),
            ]
        missing = [each for each in hulls(vector.entries).values() if self._store.lacks(each, now)]
        running.differs |= bool(missing)
        if not self._is_arriving(
            now
        ):  # else a large message comes in, which may be what is missing
            running.want(missing)
        effects = [] if running.asked else self._ask(sender, running, now)
        if running.has_all_pages and not running.has_vector:
            running.has_vector = True
            effects += self._tell_what_they_lack(sender, running, now)
        return effects + self._finish_if_done(sender, running, now)

    def _on_offered_vector(self, vector: Vector, sender: PeerId, now: float) -> list[Effect]:
        """A page of their vector in a round of theirs: they hold what we may lack."""
        wanted = OrderedDict(hulls(vector.entries))
        share = () if self._is_arriving(now) else self._next_share(wanted, now, (sender, True))
        if now >= self._asked_back.get(sender, -math.inf) + PATIENCE_S:
            self._asked_back[sender] = now
            self._asked_back.move_to_end(sender)
            self._questions.ask((sender, True), share, now, ASKED_BACK_S)
            self._forget_the_old(now)
        effects: list[Effect] = [Send((sender,), Want(vector.round, share))]
        # More of it in a round of ours, at our pace.
        if share and wanted and sender not in self._running and self._peers.is_linked(sender):
            effects += self._start(sender, now)
        return effects

    def _tell_what_they_lack(self, peer_id: PeerId, running: Running, now: float) -> list[Effect]:
        ahead = [
            entry
            for entry in self._page_of_vector(now)
            if entry.last > running.their_vector.get(entry.stream, 0) and entry.first <= entry.last
        ]
        if not ahead:
            return []
        running.waiting_for_want = running.differs = True
        return self._tell_vector(peer_id, running.number, ahead, answering=False)

    def _ask(self, peer_id: PeerId, running: Running, now: float) -> list[Effect]:
        """For the next share of what is wanted. What others are about to send is left to them, and where
        there is nothing else, this round need not wait for it."""
        running.asked = self._next_share(running.wanted, now, (peer_id, False))
        if not running.asked:
            running.wanted.clear()
            return []
        self._questions.ask((peer_id, False), running.asked, now, PATIENCE_S)
        return [Send((peer_id,), Want(running.number, running.asked))]

    def _next_share(
        self, wanted: OrderedDict[Stream, StreamRange], now: float, asked: tuple[PeerId, bool]
    ) -> tuple[StreamRange, ...]:
        """As much as one question is for of what is `wanted`, missing here and not asked of others;
        it is taken out of `wanted`, with all that need not be asked for."""
        share: list[StreamRange] = []
        looked_at = 0
        while wanted and looked_at < LOOKED_AT:
            stream, entry = wanted.popitem(last=False)
            room = LOOKED_AT - looked_at
            missing = self._store.missing(entry, now, room)
            looked_at += len(missing) + 1
            next_first = missing[-1].last + 1 if len(missing) == room else entry.last + 1
            share, left = share_of(share + self._questions.free(missing, now, but=asked))
            if left:
                next_first = left[0].first
            if next_first <= entry.last:
                wanted[stream] = StreamRange(stream, next_first, entry.last)
                wanted.move_to_end(stream, last=False)
            if left:
                break
        return tuple(share)

    def _on_want(self, want: Want, sender: PeerId, now: float) -> list[Effect]:
        running = self._round(sender, want.round)
        refused = self._serving.refused
        repairs = self._serving.answer(want, sender, now) if want.ranges else []
        effects: list[Effect] = [Send((sender,), repair) for repair in repairs]
        if self._serving.refused > refused and not repairs[0].copies:
            effects.append(Penalize(sender, Offense.REPEATED_QUESTION))
        if running is not None and running.waiting_for_want:
            running.heard_at = now
            running.waiting_for_want = False
            for repair in repairs:
                running.sent += running.count(repair.copies)
            effects += self._finish_if_done(sender, running, now)
        return effects

    def _on_repair(self, repair: Repair, sender: PeerId, now: float) -> list[Effect]:
        running = self._round(sender, repair.round)
        effects: list[Effect] = []
        via = Via.LAZY if repair.round == LAZY_ROUND else Via.REPAIR
        for copy in repair.copies[:COPIES_AT_ONCE]:
            effects += self._accept(copy, sender, via, now)
        effects += [Blame(sender, DropReason.TOO_LARGE)] * (len(repair.copies) - COPIES_AT_ONCE)
        if not repair.copies and not repair.is_last:
            effects.append(
                Penalize(sender, Offense.IDLE_EXCHANGE)
            )  # it could as well have said nothing
        is_new = any(isinstance(each, Deliver) and each.messages for each in effects)
        if is_new:
            self._questions.brought(sender, now)
        if running is None:  # about holes, or asked for in a round of theirs
            if repair.is_last:
                self._questions.close((sender, True), now)
            return effects
        running.received += running.count(repair.copies)
        if is_new:
            running.heard_at = now
            running.is_given = True
        if repair.is_last and running.asked:
            asked, running.asked = running.asked, ()
            self._questions.close((sender, False), now)
            # Cut short: what is still missing of it goes first. Else they hold no more of it.
            if repair.more and running.is_given:
                running.want_again(asked)
            running.heard_at, running.is_given = now, False
            effects += self._ask(sender, running, now)
            effects += self._finish_if_done(sender, running, now)
        return effects

    # --- ending ---------------------------------------------------------------------------------

    def _round(self, peer_id: PeerId, number: int) -> Running | None:
        """Our running round with `peer_id`, when that is what `number` says."""
        running = self._running.get(peer_id)
        return None if running is None or running.number != number else running

    def _finish_if_done(self, peer_id: PeerId, running: Running, now: float) -> list[Effect]:
        return self._finish(peer_id, running.outcome, now) if running.is_done else []

    def _finish(self, peer_id: PeerId, outcome: RoundOutcome, now: float) -> list[Effect]:
        running = self._running.pop(peer_id)
        self._questions.close((peer_id, False), now)
        is_left_to_others = self._questions.is_busy(now)
        if running.is_done and not running.has_moved and not is_left_to_others:
            self._fruitless[peer_id] = (now, self._store.digest(now)[1])
            self._fruitless.move_to_end(peer_id)
            self._forget_the_old(now)
        done = running.end(peer_id, outcome, now)
        self.rounds.append(done)
        return [Emit(AntiEntropyRound(done))]

    def unlinked(self, peer_id: PeerId, now: float) -> list[Effect]:
        """The link with `peer_id` is gone."""
        effects: list[Effect] = []
        self._questions.forget(peer_id)
        if peer_id in self._running:
            effects = self._finish(peer_id, self._running[peer_id].outcome, now)
        self._doubts.pop(peer_id, None)
        self._fruitless.pop(peer_id, None)
        self._asked_back.pop(peer_id, None)
        return effects

    def _forget_the_old(self, now: float) -> None:
        """What was remembered of peers and matters no more; the oldest where that is too much."""
        asked_back, fruitless = self._asked_back, self._fruitless
        while asked_back:
            peer_id, at = next(iter(asked_back.items()))
            if now < at + PATIENCE_S and len(asked_back) <= PEERS_LIMIT:
                break
            del asked_back[peer_id]
        while fruitless:
            peer_id, (at, _) = next(iter(fruitless.items()))
            if now < at + FRUITLESS_S and len(fruitless) <= PEERS_LIMIT:
                break
            del fruitless[peer_id]

    # --- time -----------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        if not self._config.anti_entropy.enabled:
            return math.inf
        return min(self._due_at, self._holes.due_at)

    def _next_due_at(self) -> float:
        due_at = self.next_round_at
        for running in self._running.values():
            due_at = min(due_at, running.ends_at(PATIENCE_S))
        for doubt_at, _, _ in self._doubts.values():
            due_at = min(due_at, doubt_at)
        return due_at

    def advance(self, now: float) -> list[Effect]:
        if now < self.deadline:
            return []
        effects: list[Effect] = []
        self._questions.expire(now)
        for peer_id, kept, broken in self._questions.judged():
            if kept:
                effects.append(Credit(peer_id, kept))
            if broken:
                effects.append(Penalize(peer_id, Offense.BROKEN_PROMISE, broken))
        self._forget_the_old(now)
        for peer_id, running in list(self._running.items()):
            if running.is_over(now, PATIENCE_S):
                effects += self._finish(peer_id, running.outcome, now)
        for peer_id, (due_at, streams, total) in list(self._doubts.items()):
            if now >= due_at:
                del self._doubts[peer_id]
                effects += self._settle_doubt(peer_id, streams, total, now)
        if now >= self.next_round_at:
            effects += self.start_rounds(now)
        if now >= self._holes.due_at:
            effects += self._ask_for_holes(now)
        self._due_at = self._next_due_at()
        return effects

    def _settle_doubt(
        self, peer_id: PeerId, streams: int, total: bytes, now: float
    ) -> list[Effect]:
        """The peer's digest differed two seconds ago: begin a round where ours still does."""
        ours = self._store.digest(now)
        if ours == (streams, total) or peer_id in self._running:
            return []
        at, then = self._fruitless.get(peer_id, (-math.inf, b""))
        if then == ours[1] and now - at < FRUITLESS_S:
            return []  # the same difference led to nothing: they lack what nobody holds any more
        return self._start(peer_id, now) if self._peers.is_linked(peer_id) else []

    def _ask_for_holes(self, now: float) -> list[Effect]:
        if self._is_arriving(now):
            self._holes.put_off(now)
            return []
        linked = tuple(self._peers.linked)
        targets = uniform(linked, 1, self._rng)
        holes = self._holes.to_ask(linked, RANGES_A_WANT, now)
        return [Send((targets[0],), Want(HOLES_ROUND, holes))] if holes else []
