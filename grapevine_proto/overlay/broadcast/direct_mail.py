"""Direct mail (Demers et al. 1987): once to every member, by the origin itself. One hop and N - 1
sends, the least there can be of either.

What must stay true: mail goes out only while every member that is not gone is linked, so whoever
gets it need not pass it on. Else it is pushed to all links there are, as what others pass on by ids.
"""

from __future__ import annotations

from grapevine_proto.overlay.broadcast.near_peers import NearPeers
from grapevine_proto.overlay.broadcast.strategy import NewRumor, PushPlan, Strategy


class DirectMail(Strategy):
    """See the module."""

    def __init__(self, near_peers: NearPeers) -> None:
        self._near_peers = near_peers

    def on_new_rumor(self, rumor: NewRumor, now: float) -> PushPlan:
        if rumor.sender is not None:
            return PushPlan(())
        return PushPlan(self._near_peers.linked, is_mail=self._near_peers.is_fully_linked())
