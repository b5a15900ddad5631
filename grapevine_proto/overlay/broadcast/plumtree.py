"""Plumtree: epidemic broadcast trees, with payloads along a tree and IDs beside it (Leitao 2007).

A link is eager (in the tree) or lazy. Rumors are pushed over eager links, and their IDs announced
over lazy ones. A node that is not pushed an announced rumor requests it and makes that link eager
(`Graft`); a node that is pushed a rumor twice makes the second link lazy (`Prune`). So the tree
grows along the first arrivals and heals when links fail.

Departures from the paper:

- Links start lazy. A node without eager links offers its rumors; receivers request them at once and
  offer them on. The first rumor of a cluster thus grows the tree at the cost of one copy per node,
  where a flood costs one per link. Without lazy push they start eager, as in the paper.
- Trees are undirected, so one serves all origins (the shared tree). An origin that publishes often
  gets its own tree, initially a copy of the shared one, which then adapts to the fastest paths from
  that origin: if a near peer's announcements keep arriving before the rumors, it becomes the parent
  (section 3.8, by time instead of hops). Of 64 own trees the least recently used is evicted, once
  idle.
- The last eager link is not pruned, nor is a link for a rumor whose first link was pruned since. At
  high rates, only rumors of one origin prune the shared tree (docs/decisions/0010): two at a time
  would cut one cycle in two places.
- If an eager link closes, the nodes behind it are cut off, and only its ends know. Until the next
  rumor, such a node requests announced rumors at once and offers new ones at once.
- A new link that is nearer than one in the shared tree starts eager. With `optimize_links`, where
  links keep changing, one whose announcements keep arriving first becomes eager too. Either closes
  a cycle, and the next rumor prunes its slowest link.
- A question, which a program waits for, goes to all near peers at once instead of being announced to
  them: in the first copies each hop takes one way instead of three, and a lost copy costs nothing. It
  leaves the tree as it is, but a node without eager links makes the link of the first copy eager.
- No hop limit: a node never forwards a rumor twice, so nothing circulates. A tree is deeper than
  its size suggests, and a newcomer does not know its size.

Invariants:

- Rumors are pushed over eager links, urgent ones to near peers as well; never back to their sender or
  origin.
- `Graft` and `Prune` tell each end what the other made of the link. If one is lost, the next rumor
  reveals it and it is sent again.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import ClassVar, Final

from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.broadcast.near_peers import NearPeers
from grapevine_proto.overlay.broadcast.strategy import NewRumor, PushPlan, Strategy
from grapevine_proto.overlay.context import OverlayContext
from grapevine_proto.overlay.effects import Effect, Send
from grapevine_proto.overlay.store.message_cache import RumorKey
from grapevine_proto.wire.messages import Graft, Prune, Subscribe

TREES_LIMIT: Final = 64  # origins with their own tree, 1 KB each
COUNTED_ORIGINS_LIMIT: Final = 256  # origins whose rumors are counted
TREE_IDLE_S: Final = 60.0  # without a rumor of its origin; such a tree may be evicted
RUMORS_FOR_OWN_TREE: Final = 3  # received from an origin before it gets its own tree
RUMOR_SENDERS_LIMIT: Final = 512  # recent rumors; a second copy arrives a round trip later
SPREAD_TIME_S: Final = 0.5  # until a rumor has reached all nodes and its prunes have arrived
ROOT_TIMEOUT_S: Final = 10.0  # of silence, after which another origin may prune the shared tree
PRUNE_GRACE_S: Final = 0.2  # a round trip, in which pushes sent before the prune may still arrive
# smoothed lead of announcements over rumors that changes the parent
PARENT_SWITCH_LEAD_S: Final = 0.015
OWN_TREE_LEAD_WEIGHT: Final = 0.5  # weight of the latest rumor in an own tree
# the same in the shared tree, where successive rumors take different paths
SHARED_TREE_LEAD_WEIGHT: Final = 0.1
TREE_IN_USE_S: Final = 10.0  # since its last rumor; the links of the shared tree are then protected


class _Tree:
    """The local state of one tree: which links are eager."""

    __slots__ = ("eager", "is_broken", "last_used_at", "lead_by_peer_s", "pruned_at")

    def __init__(self, eager: dict[PeerId, None], *, is_broken: bool = False) -> None:
        self.eager = eager
        self.is_broken = is_broken  # an eager link closed and no rumor has arrived since
        self.last_used_at = -math.inf
        self.pruned_at: dict[PeerId, float] = {}
        self.lead_by_peer_s: dict[PeerId, float] = {}  # in seconds, smoothed

    def is_pruned(self, peer_id: PeerId, now: float) -> bool:
        """Whether its pushes may still be in flight after a recent prune."""
        return now < self.pruned_at.get(peer_id, -math.inf) + PRUNE_GRACE_S

    def remove_peer(self, peer_id: PeerId) -> None:
        if peer_id in self.eager:
            del self.eager[peer_id]
            self.is_broken = True
        self.pruned_at.pop(peer_id, None)
        self.lead_by_peer_s.pop(peer_id, None)


class Plumtree(Strategy):
    """Pushes along trees and announces beside them."""

    # Longer than for other strategies: a rumor requested before its push arrives is sent twice and
    # bends the tree towards one origin. Along a tree the source's own RTT says little: with random
    # senders among 100 nodes, 99 % are reached within 317 ms with it and within 230 ms with the
    # average.
    request_delay_rtts: ClassVar[float] = 5.0
    uses_average_rtt: ClassVar[bool] = True

    def __init__(self, context: OverlayContext, near_peers: NearPeers) -> None:
        self._near_peers = near_peers
        self._config = context.config
        self._shared_tree = _Tree({})
        self._own_trees: OrderedDict[PeerId, _Tree] = OrderedDict()
        self._rumor_counts: OrderedDict[PeerId, int] = OrderedDict()
        self._rumor_sender: OrderedDict[RumorKey, PeerId] = (
            OrderedDict()
        )  # the link each rumor first arrived over
        self._root: PeerId | None = None
        self._root_last_rumor_at = -math.inf
        self._rumor_rate = 0.0  # per second along the shared tree, smoothed
        self.trees_evicted = 0  # own trees
        self.trees_rejected = 0  # for lack of room, when named by a peer

    @property
    def _starts_eager(self) -> bool:
        """Without lazy push nothing else would make a link eager."""
        return not self._config.current.lazy_push

    # --- trees ----------------------------------------------------------------------------------

    def _tree_for(self, origin: PeerId) -> tuple[_Tree, PeerId | None]:
        """The tree for rumors of `origin`, and its name in `Graft` and `Prune` (None: the shared
        tree).
        """
        tree = self._own_trees.get(origin)
        return (self._shared_tree, None) if tree is None else (tree, origin)

    def _tree_named(self, origin: PeerId | None, now: float) -> _Tree | None:
        """The tree that a peer names; None if nothing of its origin was received here. Without room
        for an own tree, the shared one.
        """
        if origin is None:
            return self._shared_tree
        if origin not in self._rumor_counts:
            return self._own_trees.get(origin)
        if not self._has_tree_room(now):
            self.trees_rejected += 1
            return self._shared_tree
        tree = self._add_tree(origin)
        # first to be evicted until its origin publishes
        self._own_trees.move_to_end(origin, last=False)
        return tree

    def _has_tree_room(self, now: float) -> bool:
        """Whether another own tree fits, possibly in place of the least recently used one if that
        is idle.
        """
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
        """Count a rumor of `origin`, which may get its own tree. If there are more active origins
        than trees, none is replaced; growing them in turn would be futile.
        """
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
        if rumor.is_urgent:
            return self._on_urgent_rumor(rumor)
        origin, sender = rumor.origin, rumor.sender
        self._count_rumor(origin, now)
        tree, tree_name = self._tree_for(origin)
        self._remove_unresponsive(tree)
        is_isolated = not tree.eager and len(self._near_peers.linked) > 1  # as the others may be
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
        # The peer that announced it first may be the new parent and thus eager by now.
        holders = (sender, origin, rumor.first_source)
        targets = [each for each in tree.eager if each not in holders]
        return PushPlan(targets, is_offer=is_offer, effects=effects)

    def _on_urgent_rumor(self, rumor: NewRumor) -> PushPlan:
        """Push to all near peers."""
        tree, tree_name = self._tree_for(rumor.origin)
        self._remove_unresponsive(tree)
        effects: list[Effect] = []
        sender, is_linked = rumor.sender, self._near_peers.is_linked
        if sender is not None and is_linked(sender) and (tree.is_broken or not tree.eager):
            tree.eager[sender] = None
            tree.is_broken = False
            effects.append(Send((sender,), Graft(tree_name)))
        holders = (sender, rumor.origin, rumor.first_source)
        peers = dict.fromkeys((*tree.eager, *self._near_peers.near))
        return PushPlan([each for each in peers if each not in holders], effects=effects)

    def _adjust_parent(
        self, tree: _Tree, tree_name: PeerId | None, rumor: NewRumor, now: float
    ) -> list[Effect]:
        """Make the peer whose announcements keep arriving first eager; in an own tree it replaces
        the parent.
        """
        if tree_name is None and not self._config.current.optimize_links:
            return []
        weight = SHARED_TREE_LEAD_WEIGHT if tree_name is None else OWN_TREE_LEAD_WEIGHT
        for peer_id in tree.lead_by_peer_s:
            tree.lead_by_peer_s[peer_id] *= 1 - weight
        candidate, parent = rumor.first_source, rumor.sender
        if candidate is None or parent is None or candidate == parent:
            return []
        if not (self._near_peers.is_linked(candidate) and self._near_peers.is_linked(parent)):
            return []  # no state is kept about peers without a link
        lead_s = tree.lead_by_peer_s.get(candidate, 0.0) + weight * rumor.lead_s
        tree.lead_by_peer_s[candidate] = lead_s
        if lead_s < PARENT_SWITCH_LEAD_S or candidate in tree.eager:
            return []
        tree.lead_by_peer_s.clear()
        tree.eager[candidate] = None
        tree.pruned_at.pop(candidate, None)
        if tree_name is None:  # rumors of other origins may arrive over the parent
            return [Send((candidate,), Graft(None))]
        tree.eager.pop(parent, None)
        tree.pruned_at[parent] = now
        return [Send((candidate,), Graft(tree_name)), Send((parent,), Prune(tree_name))]

    def _can_prune(self, origin: PeerId) -> bool:
        """Whether a duplicate of a rumor of `origin` prunes the shared tree. Two rumors of
        different origins in flight could each prune a link of the same cycle and so cut the tree;
        at high rates only those of one origin prune, which is the same on every node.
        """
        return self._rumor_rate * SPREAD_TIME_S < 1 or origin == self._root

    def _update_rate(self, origin: PeerId, last_used_at: float, now: float) -> None:
        """Count a rumor along the shared tree; the previous one arrived at `last_used_at`."""
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
        # It becomes eager once it delivers; otherwise a malicious member could be the only eager
        # link.
        tree.pruned_at.pop(source, None)
        return [Send((source,), Graft(tree_name))]

    def is_broken(self, origin: PeerId) -> bool:
        tree, _ = self._tree_for(origin)
        self._remove_unresponsive(tree)
        return tree.is_broken

    def _remove_unresponsive(self, tree: _Tree) -> None:
        """An unresponsive link carries nothing, long before it is closed."""
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
        """Whether `peer_id` is clearly nearer than the farthest peer in the shared tree."""
        rtt_s = self._near_peers.rtt_s
        return rtt_s(peer_id) < max(map(rtt_s, self._shared_tree.eager)) - PARENT_SWITCH_LEAD_S

    def is_in_use(self, peer_id: PeerId, now: float) -> bool:
        # An own tree finds a new parent with its next rumor; the shared tree has no parents.
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
