"""Direct mail (Demers 1987, section 1.2): the origin sends to every member, in one hop and N - 1
sends, the minimum of both.

Invariants:

- A rumor is marked as mailed only while every active member is linked, so its receivers need not
  forward it. Otherwise it is pushed to all links, and the others learn of it by lazy push.
"""

from __future__ import annotations

from grapevine_proto.overlay.broadcast.near_peers import NearPeers
from grapevine_proto.overlay.broadcast.strategy import NewRumor, PushPlan, Strategy


class DirectMail(Strategy):
    """Sends every rumor of ours to all linked peers and forwards none."""

    def __init__(self, near_peers: NearPeers) -> None:
        self._near_peers = near_peers

    def on_new_rumor(self, rumor: NewRumor, now: float) -> PushPlan:
        if rumor.sender is not None:
            return PushPlan(())
        return PushPlan(self._near_peers.linked, is_mail=self._near_peers.is_fully_linked(now))
