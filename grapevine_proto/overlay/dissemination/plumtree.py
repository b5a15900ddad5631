"""Epidemic broadcast trees (Leitao, Pereira, Rodrigues 2007): payloads along a tree, ids beside it.

Links are of the tree (eager) or beside it (lazy). A rumor is pushed over the tree's links; over the
others goes its id, and whoever is not pushed a rumor that it was told of asks for it and makes the
link to the teller one of the tree's (`Graft`); whoever is pushed a rumor twice takes the link to the
second out (`Prune`). So the tree grows where rumors first arrive, and heals where links die.

Departures from the paper:

- Links begin lazy. What a node without any link in the tree says is offered, asked for at once and
  offered on, so the first rumor of a cluster grows the tree at the cost of one copy a node, where a
  flood costs as many as there are links. Without lazy repair they begin eager, as in the paper.
- A tree has no direction, so one serves all origins (the shared tree). An origin that speaks often
  gets one of its own, at first a copy of the shared one, in which the quickest paths from this
  origin win: where a near peer's ids keep arriving before the rumors, it becomes the parent (the
  paper's section 3.8, by time instead of hops). The least recently used of 64 gives way, once idle.
- A link is not pruned when it is the last one in the tree here, nor for a rumor that came over a link
  which has itself been pruned since. Where rumors follow each other closely, those of one origin alone
  prune the shared tree (docs/decisions/0010): two at a time would cut one ring in two places.
- Where a link of a tree went, what lay beyond it is cut off, and only who had the link knows. Until a rumor
  has come by, such a node asks at once for what it is told of, and offers at once what it hears.
- A new link that is nearer than one of the shared tree's begins in it. With `nearer_links`, where links
  keep changing, one whose ids keep arriving first joins it too. Either closes a ring, and the next rumor
  shows which link of it is the slowest and takes that out.
- No budget of hops: who has a rumor never passes it on again, so nothing goes round, and a tree is deeper
  than its size lets one guess, which a node that has just come does not know anyway.

What must stay true: rumors go over the tree's links alone, never back to the sender or the origin;
each end of a link learns by `Graft` and `Prune` what the other made of it, and where a word was lost
the next rumor shows it and it is said again.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import ClassVar, Final

from grapevine_proto.config import NodeConfig
from grapevine_proto.ids import PeerId
from grapevine_proto.messages import Graft, Prune, Subscribe
from grapevine_proto.overlay.dissemination.neighbourhood import Neighbourhood
from grapevine_proto.overlay.dissemination.strategy import News, Plan, Strategy
from grapevine_proto.overlay.effects import Effect, Send
from grapevine_proto.overlay.held import Key

TREES_LIMIT: Final = 64  # origins with a tree of their own, 1 KB each
COUNTED_LIMIT: Final = 256  # origins whose rumors are counted
IDLE_S: Final = 60.0  # since its origin spoke: such a tree makes room for another origin's
BUSY_RUMORS: Final = 3  # heard of an origin, until it has a tree of its own
CAME_BY_LIMIT: Final = 512  # the latest rumors: a second copy comes a round trip later
FLIGHT_S: Final = 0.5  # until a rumor is everywhere, and what was pruned for it is known
ROOT_S: Final = 10.0  # of silence, until another origin's rumors shape the shared tree
PRUNE_AGAIN_S: Final = 0.2  # a round trip: before that, what comes was sent before it knew
QUICKER_S: Final = 0.015  # by how much ids must come before rumors, smoothed, to change the parent
LEAD_WEIGHT: Final = 0.5  # of the latest rumor in that
SHARED_LEAD_WEIGHT: Final = (
    0.1  # the same in the shared tree, where each rumor may come another way
)
CARRIES_S: Final = 10.0  # since a rumor went over the shared tree: its links are being used


class _Tree:
    """What is known here of one tree: which links are in it."""

    __slots__ = ("eager", "is_torn", "leads", "pruned_at", "used_at")

    def __init__(self, eager: dict[PeerId, None], *, is_torn: bool = False) -> None:
        self.eager = eager
        self.is_torn = is_torn  # a link of it went, and no rumor came by since
        self.used_at = -math.inf
        self.pruned_at: dict[PeerId, float] = {}
        self.leads: dict[PeerId, float] = {}  # seconds by which ids came first, smoothed

    def is_pruned(self, peer_id: PeerId, now: float) -> bool:
        """Whether it was just told not to push: what comes of it now was on its way."""
        return now < self.pruned_at.get(peer_id, -math.inf) + PRUNE_AGAIN_S

    def forget(self, peer_id: PeerId) -> None:
        if peer_id in self.eager:
            del self.eager[peer_id]
            self.is_torn = True
        self.pruned_at.pop(peer_id, None)
        self.leads.pop(peer_id, None)


class Plumtree(Strategy):
    """See the module."""

    # Later than others: what is asked for before its push comes is told twice and bends the tree towards
    # one origin. Along the tree a near teller may be far, so its own round trip says little: among 100
    # with random senders, 99 % are reached within 317 ms by that and within 230 by the usual one.
    ask_after_rtts: ClassVar[float] = 5.0
    asks_by_usual_rtt: ClassVar[bool] = True

    def __init__(self, config: NodeConfig, around: Neighbourhood) -> None:
        self._around = around
        self._config = config
        self._shared = _Tree({})
        self._own: OrderedDict[PeerId, _Tree] = OrderedDict()
        self._heard: OrderedDict[PeerId, int] = OrderedDict()
        self._came_by: OrderedDict[Key, PeerId] = OrderedDict()  # what rumor, over which link
        self._root: PeerId | None = None
        self._root_at = -math.inf
        self._rate = 0.0  # rumors along the shared tree a second, smoothed
        self.let_go = 0  # trees
        self.refused = 0  # trees that peers named and for which there was no room

    def reconfigure(self, config: NodeConfig, now: float) -> list[Effect]:
        self._config = config
        return []

    @property
    def _begins_eager(self) -> bool:
        """Whether links begin in the tree: without ids beside it nothing else would take them in."""
        return not self._config.lazy_repair

    # --- trees ----------------------------------------------------------------------------------

    def _tree(self, origin: PeerId) -> tuple[_Tree, PeerId | None]:
        """The tree for rumors of `origin`, and how it is called."""
        tree = self._own.get(origin)
        return (self._shared, None) if tree is None else (tree, origin)

    def _named(self, origin: PeerId | None, now: float) -> _Tree | None:
        """The tree that a peer calls so; None: of somebody of whom nothing was heard here. Where there is
        no room for a tree of its own, its rumors come along the shared one."""
        if origin is None:
            return self._shared
        if origin not in self._heard:
            return self._own.get(origin)
        if not self._has_room(now):
            self.refused += 1
            return self._shared
        tree = self._grow(origin)
        self._own.move_to_end(origin, last=False)  # the first to go, until its origin speaks
        return tree

    def _has_room(self, now: float) -> bool:
        """Whether one more tree may grow: in place of the one least recently used, if that is idle."""
        if len(self._own) < TREES_LIMIT:
            return True
        return now - next(iter(self._own.values())).used_at >= IDLE_S

    def _grow(self, origin: PeerId) -> _Tree:
        self._heard.pop(origin, None)
        if len(self._own) >= TREES_LIMIT:
            self._own.popitem(last=False)
            self.let_go += 1
        tree = self._own[origin] = _Tree(dict(self._shared.eager), is_torn=self._shared.is_torn)
        return tree

    def _count(self, origin: PeerId, now: float) -> None:
        """`origin` said something: maybe so much that it gets a tree, if there is room for one more. Where
        more origins speak than there may be trees, to grow them in turn would be in vain."""
        if origin in self._own:
            self._own.move_to_end(origin)
            return
        heard = self._heard.pop(origin, 0) + 1
        if heard >= BUSY_RUMORS and self._has_room(now):
            self._grow(origin)
            return
        self._heard[origin] = heard
        if len(self._heard) > COUNTED_LIMIT:
            self._heard.popitem(last=False)

    # --- rumors ---------------------------------------------------------------------------------

    def spread(self, news: News, now: float) -> Plan:
        origin, sender = news.origin, news.sender
        if news.is_mailed:
            return Plan(())
        self._count(origin, now)
        tree, name = self._tree(origin)
        self._let_go_of_the_silent(tree)
        is_outside = not tree.eager and len(self._around.linked) > 1  # as those others may be
        is_lone = not any(each != sender for each in tree.eager)
        is_offer = tree.is_torn or is_outside or (is_lone and news.is_offered)
        if name is None:
            self._note_pace(origin, tree.used_at, now)
        tree.is_torn, tree.used_at = False, now
        if sender is not None and self._around.is_linked(sender):
            self._came_by[news.key] = sender
            if len(self._came_by) > CAME_BY_LIMIT:
                self._came_by.popitem(last=False)
            if not tree.is_pruned(sender, now):
                tree.eager[sender] = None
        effects = self._compare(tree, name, news, now)
        # Who told of it first may be the new parent, and so in the tree by now.
        has_it = (sender, origin, news.first_teller)
        targets = [each for each in tree.eager if each not in has_it]
        return Plan(targets, is_offer=is_offer, effects=effects)

    def _compare(self, tree: _Tree, name: PeerId | None, news: News, now: float) -> list[Effect]:
        """Take in whoever keeps being quicker; in a tree of one origin in place of the parent."""
        if name is None and not self._config.nearer_links:
            return []
        weight = SHARED_LEAD_WEIGHT if name is None else LEAD_WEIGHT
        for peer_id in tree.leads:
            tree.leads[peer_id] *= 1 - weight
        rival, parent = news.first_teller, news.sender
        if rival is None or parent is None or rival == parent:
            return []
        if not (self._around.is_linked(rival) and self._around.is_linked(parent)):
            return []  # nothing is remembered of who has no link
        lead_s = tree.leads.get(rival, 0.0) + weight * news.lead_s
        tree.leads[rival] = lead_s
        if lead_s < QUICKER_S or rival in tree.eager:
            return []
        tree.leads.clear()
        tree.eager[rival] = None
        tree.pruned_at.pop(rival, None)
        if name is None:  # others' rumors may come by the parent
            return [Send((rival,), Graft(None))]
        tree.eager.pop(parent, None)
        tree.pruned_at[parent] = now
        return [Send((rival,), Graft(name)), Send((parent,), Prune(name))]

    def _may_prune(self, origin: PeerId) -> bool:
        """Whether a second copy of a rumor of `origin` takes a link out of the shared tree. Two of different
        origins on their way at a time would each take one out of the same ring, and so cut the tree:
        where much is said, those of one origin decide, the same one everywhere."""
        return self._rate * FLIGHT_S < 1 or origin == self._root

    def _note_pace(self, origin: PeerId, last_at: float, now: float) -> None:
        """`origin` said something along the shared tree, after what was said at `last_at`."""
        self._rate = 1 + self._rate * math.exp(last_at - now)
        is_silent = now - self._root_at >= ROOT_S
        if self._root is None or is_silent or origin <= self._root:
            self._root, self._root_at = origin, now

    def heard_again(self, key: Key, sender: PeerId, now: float) -> list[Effect]:
        tree, name = self._tree(key[0])
        came_by = self._came_by.get(key)
        if name is None and not self._may_prune(key[0]):
            return []
        if tree.is_pruned(sender, now) or (came_by is not None and came_by not in tree.eager):
            return []
        if not any(each != sender for each in tree.eager) or not self._around.is_linked(sender):
            return []
        tree.eager.pop(sender, None)
        tree.pruned_at[sender] = now
        return [Send((sender,), Prune(name))]

    def asks(self, teller: PeerId, origin: PeerId, now: float) -> list[Effect]:
        tree, name = self._tree(origin)
        # In the tree once it gives, or a liar would be all there is.
        tree.pruned_at.pop(teller, None)
        return [Send((teller,), Graft(name))]

    def is_torn(self, origin: PeerId) -> bool:
        tree, _ = self._tree(origin)
        self._let_go_of_the_silent(tree)
        return tree.is_torn

    def _let_go_of_the_silent(self, tree: _Tree) -> None:
        """A link that does not answer carries nothing, long before it is given up."""
        for peer_id in [each for each in tree.eager if not self._around.answers(each)]:
            tree.forget(peer_id)

    # --- links ----------------------------------------------------------------------------------

    def handle(
        self, message: Subscribe | Graft | Prune, sender: PeerId, now: float
    ) -> list[Effect]:
        if not isinstance(message, Subscribe) and self._around.is_linked(sender):
            tree = self._named(message.origin, now)
            if tree is not None and isinstance(message, Graft):
                tree.eager[sender] = None
            elif tree is not None:
                tree.eager.pop(sender, None)
        return []

    def start(self, now: float) -> list[Effect]:
        for peer_id in self._around.near if self._begins_eager else ():
            self._shared.eager[peer_id] = None
        return []

    def linked(self, peer_id: PeerId, now: float) -> list[Effect]:
        self._let_go_of_the_silent(self._shared)
        eager = self._shared.eager
        if self._begins_eager and peer_id in self._around.near:
            eager[peer_id] = None
        elif self._shared.is_torn or (eager and self._is_nearer(peer_id)):
            eager[peer_id] = None
            return [Send((peer_id,), Graft(None))]
        return []

    def _is_nearer(self, peer_id: PeerId) -> bool:
        """Whether `peer_id` is clearly nearer than the farthest in the shared tree."""
        rtt_s = self._around.rtt_s
        return rtt_s(peer_id) < max(map(rtt_s, self._shared.eager)) - QUICKER_S

    def carries(self, peer_id: PeerId, now: float) -> bool:
        # A tree of one origin finds itself a new parent at the next rumor; the shared one has no parents.
        return peer_id in self._shared.eager and now - self._shared.used_at < CARRIES_S

    def unlinked(self, peer_id: PeerId, now: float) -> list[Effect]:
        self._shared.forget(peer_id)
        for tree in self._own.values():
            tree.forget(peer_id)
        return []

    @property
    def subscribers(self) -> tuple[PeerId, ...]:
        return tuple(self._shared.eager)

    @property
    def subscriptions(self) -> tuple[PeerId, ...]:
        return tuple(self._shared.eager)
