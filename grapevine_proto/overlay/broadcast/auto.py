"""Automatic strategy: direct mail while the cluster and the payload are small, otherwise a
Plumtree.

Invariants:

- Every copy is marked if its origin mailed it, so each node knows per rumor whether to forward it.
  Nodes need not agree on a strategy.
"""

from __future__ import annotations

from typing import Final

from grapevine_proto.overlay.broadcast.plumtree import Plumtree
from grapevine_proto.overlay.broadcast.strategy import NewRumor, PushPlan

DIRECT_MAIL_LIMIT_BYTES: Final = 256 * 1024  # per rumor, from one node: 20 ms at 100 Mbit/s


class Auto(Plumtree):
    """Plumtree that mails small rumors directly."""

    def on_new_rumor(self, rumor: NewRumor, now: float) -> PushPlan:
        if rumor.sender is None:
            linked = self._near_peers.linked
            is_small = rumor.own_size_bytes * len(linked) <= DIRECT_MAIL_LIMIT_BYTES
            if is_small and self._near_peers.is_fully_linked(now):
                return PushPlan(linked, is_mail=True)
        return super().on_new_rumor(rumor, now)
