"""The quickest road that fits: direct mail while the cluster and the payload are small, else a tree.

What must stay true: what an origin mails is so marked on every copy, so each node knows of each
rumor whether to pass it on, and nobody has to agree with anybody on which road is taken.
"""

from __future__ import annotations

from typing import Final

from grapevine_proto.overlay.broadcast.plumtree import Plumtree
from grapevine_proto.overlay.broadcast.strategy import NewRumor, PushPlan

DIRECT_MAIL_LIMIT_BYTES: Final = 256 * 1024  # from one node for one rumor: 20 ms at 100 Mbit/s


class Auto(Plumtree):
    """See the module. All but the mailing is the tree's."""

    def on_new_rumor(self, rumor: NewRumor, now: float) -> PushPlan:
        linked = self._near_peers.linked
        is_small = rumor.size_bytes * len(linked) <= DIRECT_MAIL_LIMIT_BYTES
        if rumor.sender is None and is_small and self._near_peers.is_fully_linked():
            return PushPlan(linked, is_mail=True)
        return super().on_new_rumor(rumor, now)
