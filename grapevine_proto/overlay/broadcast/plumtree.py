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
- A new link that is nearer than one of the shared tree's begins in it. With `optimize_links`, where links
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

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.broadcast.near_peers import NearPeers
from grapevine_proto.overlay.broadcast.strategy import NewRumor, PushPlan, Strategy
from grapevine_proto.overlay.effects import Effect, Send
from grapevine_proto.overlay.store.message_cache import RumorKey
from grapevine_proto.wire.messages import Graft, Prune, Subscribe

TREES_LIMIT: Final = 64  # origins with a tree of their own, 1 KB each
COUNTED_ORIGINS_LIMIT: Final = 256  # origins whose rumors are counted
TREE_IDLE_S: Final = 60.0  # since its origin spoke: such a tree makes room for another origin's
RUMORS_FOR_OWN_TREE: Final = 3  # heard of an origin, until it has a tree of its own
RUMOR_SENDERS_LIMIT: Final = 512  # the latest rumors: a second copy comes a round trip later
SPREAD_TIME_S: Final = 0.5  # until a rumor is everywhere, and what was pruned for it is known
ROOT_TIMEOUT_S: Final = 10.0  # of silence, until another origin's rumors shape the shared tree
PRUNE_GRACE_S: Final = 0.2  # a round trip: before that, what comes was sent before it knew
PARENT_SWITCH_LEAD_S: Final = (
    0.015  # by how much ids must come before rumors, smoothed, to change the parent
)
OWN_TREE_LEAD_WEIGHT: Final = 0.5  # of the latest rumor in that
SHARED_TREE_LEAD_WEIGHT: Final = (
    0.1  # the same in the shared tree, where each rumor may come another way
)
TREE_IN_USE_S: Final = 10.0  # since a rumor went over the shared tree: its links are being used


class _Tree:
    """What is known here of one tree: which links are in it."""

    __slots__ = ("eager", "is_broken", "last_used_at", "lead_by_peer_s", "pruned_at")

    def __init__(self, eager: dict[PeerId, None], *, is_broken: bool = False) -> None:
        self.eager = eager
        self.is_broken = is_broken  # a link of it went, and no rumor came by since
        self.last_used_at = -math.inf
        self.pruned_at: dict[PeerId, float] = {}
        self.lead_by_peer_s: dict[PeerId, float] = {}  # seconds by which ids came first, smoothed

    def is_pruned(self, peer_id: PeerId, now: float) -> bool:
        """Whether it was just told not to push: what comes of it now was on its way."""
        return now < self.pruned_at.get(peer_id, -math.inf) + PRUNE_GRACE_S

    def remove_peer(self, peer_id: PeerId) -> None:
        if peer_id in self.eager:
            del self.eager[peer_id]
            self.is_broken = True
        self.pruned_at.pop(peer_id, None)
        self.lead_by_peer_s.pop(peer_id, None)


class Plumtree(Strategy):
    """See the module."""

    # Later than others: what is asked for before its push comes is told twice and bends the tree towards
    # one origin. Along the tree a near teller may be far, so its own round trip says little: among 100
    # with random senders, 99 % are reached within 317 ms by that and within 230 by the usual one.
    request_delay_rtts: ClassVar[float] = 5.0
    uses_average_rtt: ClassVar[bool] = True

    def __init__(self, config: NodeConfig, near_peers: NearPeers) -> None:
        self._near_peers = near_peers
        self._config = config
        self._shared_tree = _Tree({})
        self._own_trees: OrderedDict[PeerId, _Tree] = OrderedDict()
        self._rumor_counts: OrderedDict[PeerId, int] = OrderedDict()
        self._rumor_sender: OrderedDict[RumorKey, PeerId] = (
            OrderedDict()
        )  # what rumor, over which link
        self._root: PeerId | None = None
        self._root_last_rumor_at = -math.inf
        self._rumor_rate = 0.0  # rumors along the shared tree a second, smoothed
        self.trees_evicted = 0  # trees
        self.trees_rejected = 0  # trees that peers named and for which there was no room

    def reconfigure(self, config: NodeConfig, now: float) -> list[Effect]:
        self._config = config
        return []

    @property
    def _starts_eager(self) -> bool:
        """Whether links begin in the tree: without ids beside it nothing else would take them in."""
        return not self._config.lazy_push

    # --- trees ----------------------------------------------------------------------------------

    def _tree_for(self, origin: PeerId) -> tuple[_Tree, PeerId | None]:
        """The tree for rumors of `origin`, and how it is called."""
        tree = self._own_trees.get(origin)
        return (self._shared_tree, None) if tree is None else (tree, origin)

    def _tree_named(self, origin: PeerId | None, now: float) -> _Tree | None:
        """The tree that a peer calls so; None: of somebody of whom nothing was heard here. Where there is
        no room for a tree of its own, its rumors come along the shared one."""
        if origin is None:
            return self._shared_tree
        if origin not in self._rumor_counts:
            return self._own_trees.get(origin)
        if not self._has_tree_room(now):
            self.trees_rejected += 1
            return self._shared_tree
        tree = self._add_tree(origin)
        self._own_trees.move_to_end(origin, last=False)  # the first to go, until its origin speaks
        return tree

    def _has_tree_room(self, now: float) -> bool:
        """Whether one more tree may grow: in place of the one least recently used, if that is idle."""
        if len(self._own_trees) < TREES_LIMIT:
            return True
        return now - next(iter(self._own_trees.values())).last_used_at >= TREE_IDLE_S

    def _add_tree(self, origin: PeerId) -> _Tree:
        self._rumor_counts.pop(origin, None)
        if len(self._own_trees) >= TREES_LIMIT:
            self._own_trees.popitem(last=False)
            self.trees_evicted += 1
        tree = self._own_trees[origin] = _Tree(
            dict(self._shared_tree.eager), is_broken=self._shared_tree.is_broken
        )
        return tree

    def _count_rumor(self, origin: PeerId, now: float) -> None:
        """`origin` said something: maybe so much that it gets a tree, if there is room for one more. Where
        more origins speak than there may be trees, to grow them in turn would be in vain."""
        if origin in self._own_trees:
            self._own_trees.move_to_end(origin)
            return
        count = self._rumor_counts.pop(origin, 0) + 1
        if count >= RUMORS_FOR_OWN_TREE and self._has_tree_room(now):
            self._add_tree(origin)
            return
        self._rumor_counts[origin] = count
        if len(self._rumor_counts) > COUNTED_ORIGINS_LIMIT:
            self._rumor_counts.popitem(last=False)

    # --- rumors ---------------------------------------------------------------------------------

    def on_new_rumor(self, rumor: NewRumor, now: float) -> PushPlan:
        origin, sender = rumor.origin, rumor.sender
        if rumor.is_mailed:
            return PushPlan(())
        self._count_rumor(origin, now)
        tree, tree_name = self._tree_for(origin)
        self._remove_unresponsive(tree)
        is_isolated = not tree.eager and len(self._near_peers.linked) > 1  # as those others may be
        is_leaf = not any(each != sender for each in tree.eager)
        is_offer = tree.is_broken or is_isolated or (is_leaf and rumor.is_offered)
        if tree_name is None:
            self._update_rate(origin, tree.last_used_at, now)
        tree.is_broken, tree.last_used_at = False, now
        if sender is not None and self._near_peers.is_linked(sender):
            self._rumor_sender[rumor.key] = sender
            if len(self._rumor_sender) > RUMOR_SENDERS_LIMIT:
                self._rumor_sender.popitem(last=False)
            if not tree.is_pruned(sender, now):
                tree.eager[sender] = None
        effects = self._adjust_parent(tree, tree_name, rumor, now)
        # Who told of it first may be the new parent, and so in the tree by now.
        holders = (sender, origin, rumor.first_source)
        targets = [each for each in tree.eager if each not in holders]
        return PushPlan(targets, is_offer=is_offer, effects=effects)

    def _adjust_parent(
        self, tree: _Tree, tree_name: PeerId | None, rumor: NewRumor, now: float
    ) -> list[Effect]:
        """Take in whoever keeps being quicker; in a tree of one origin in place of the parent."""
        if tree_name is None and not self._config.optimize_links:
            return []
        weight = SHARED_TREE_LEAD_WEIGHT if tree_name is None else OWN_TREE_LEAD_WEIGHT
        for peer_id in tree.lead_by_peer_s:
            tree.lead_by_peer_s[peer_id] *= 1 - weight
        candidate, parent = rumor.first_source, rumor.sender
        if candidate is None or parent is None or candidate == parent:
            return []
        if not (self._near_peers.is_linked(candidate) and self._near_peers.is_linked(parent)):
            return []  # nothing is remembered of who has no link
        lead_s = tree.lead_by_peer_s.get(candidate, 0.0) + weight * rumor.lead_s
        tree.lead_by_peer_s[candidate] = lead_s
        if lead_s < PARENT_SWITCH_LEAD_S or candidate in tree.eager:
            return []
        tree.lead_by_peer_s.clear()
        tree.eager[candidate] = None
        tree.pruned_at.pop(candidate, None)
        if tree_name is None:  # others' rumors may come by the parent
            return [Send((candidate,), Graft(None))]
        tree.eager.pop(parent, None)
        tree.pruned_at[parent] = now
        return [Send((candidate,), Graft(tree_name)), Send((parent,), Prune(tree_name))]

    def _can_prune(self, origin: PeerId) -> bool:
        """Whether a second copy of a rumor of `origin` takes a link out of the shared tree. Two of different
        origins on their way at a time would each take one out of the same ring, and so cut the tree:
        where much is said, those of one origin decide, the same one everywhere."""
        return self._rumor_rate * SPREAD_TIME_S < 1 or origin == self._root

    def _update_rate(self, origin: PeerId, last_used_at: float, now: float) -> None:
        """`origin` said something along the shared tree, after what was said at `last_used_at`."""
        self._rumor_rate = 1 + self._rumor_rate * math.exp(last_used_at - now)
        is_root_idle = now - self._root_last_rumor_at >= ROOT_TIMEOUT_S
        if self._root is None or is_root_idle or origin <= self._root:
            self._root, self._root_last_rumor_at = origin, now

    def on_duplicate(self, key: RumorKey, sender: PeerId, now: float) -> list[Effect]:
        tree, tree_name = self._tree_for(key[0])
        first_sender = self._rumor_sender.get(key)
        if tree_name is None and not self._can_prune(key[0]):
            return []
        if tree.is_pruned(sender, now) or (
            first_sender is not None and first_sender not in tree.eager
        ):
            return []
        if not any(each != sender for each in tree.eager) or not self._near_peers.is_linked(sender):
            return []
        tree.eager.pop(sender, None)
        tree.pruned_at[sender] = now
        return [Send((sender,), Prune(tree_name))]

    def on_request_sent(self, source: PeerId, origin: PeerId, now: float) -> list[Effect]:
        tree, tree_name = self._tree_for(origin)
        # In the tree once it gives, or a liar would be all there is.
        tree.pruned_at.pop(source, None)
        return [Send((source,), Graft(tree_name))]

    def is_broken(self, origin: PeerId) -> bool:
        tree, _ = self._tree_for(origin)
        self._remove_unresponsive(tree)
        return tree.is_broken

    def _remove_unresponsive(self, tree: _Tree) -> None:
        """A link that does not answer carries nothing, long before it is given up."""
        for peer_id in [each for each in tree.eager if not self._near_peers.is_responsive(each)]:
            tree.remove_peer(peer_id)

    # --- links ----------------------------------------------------------------------------------

    def handle(
        self, message: Subscribe | Graft | Prune, sender: PeerId, now: float
    ) -> list[Effect]:
        if not isinstance(message, Subscribe) and self._near_peers.is_linked(sender):
            tree = self._tree_named(message.origin, now)
            if tree is not None and isinstance(message, Graft):
                tree.eager[sender] = None
            elif tree is not None:
                tree.eager.pop(sender, None)
        return []

    def start(self, now: float) -> list[Effect]:
        for peer_id in self._near_peers.near if self._starts_eager else ():
            self._shared_tree.eager[peer_id] = None
        return []

    def on_link_up(self, peer_id: PeerId, now: float) -> list[Effect]:
        self._remove_unresponsive(self._shared_tree)
        eager = self._shared_tree.eager
        if self._starts_eager and peer_id in self._near_peers.near:
            eager[peer_id] = None
        elif self._shared_tree.is_broken or (eager and self._is_nearer(peer_id)):
            eager[peer_id] = None
            return [Send((peer_id,), Graft(None))]
        return []

    def _is_nearer(self, peer_id: PeerId) -> bool:
        """Whether `peer_id` is clearly nearer than the farthest in the shared tree."""
        rtt_s = self._near_peers.rtt_s
        return rtt_s(peer_id) < max(map(rtt_s, self._shared_tree.eager)) - PARENT_SWITCH_LEAD_S

    def is_in_use(self, peer_id: PeerId, now: float) -> bool:
        # A tree of one origin finds itself a new parent at the next rumor; the shared one has no parents.
        return (
            peer_id in self._shared_tree.eager
            and now - self._shared_tree.last_used_at < TREE_IN_USE_S
        )

    def on_link_down(self, peer_id: PeerId, now: float) -> list[Effect]:
        self._shared_tree.remove_peer(peer_id)
        for tree in self._own_trees.values():
            tree.remove_peer(peer_id)
        return []

    @property
    def subscribers(self) -> tuple[PeerId, ...]:
        return tuple(self._shared_tree.eager)

    @property
    def subscriptions(self) -> tuple[PeerId, ...]:
        return tuple(self._shared_tree.eager)
