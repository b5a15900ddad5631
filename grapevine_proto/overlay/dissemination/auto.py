"""The quickest road that fits: direct mail while the cluster and the payload are small, else a tree.

What must stay true: what an origin mails is so marked on every copy, so each node knows of each
rumor whether to pass it on, and nobody has to agree with anybody on which road is taken.
"""

from __future__ import annotations

from typing import ClassVar, Final

from grapevine_proto.ids import PeerId
from grapevine_proto.messages import Graft, Prune, Subscribe
from grapevine_proto.overlay.dissemination.neighbourhood import Neighbourhood
from grapevine_proto.overlay.dissemination.plumtree import Plumtree
from grapevine_proto.overlay.dissemination.strategy import News, Plan, Push, Strategy
from grapevine_proto.overlay.effects import Effect
from grapevine_proto.overlay.held import Key

NOTHING: Final = Plan(())
MAIL_BYTES: Final = 256 * 1024  # from one node for one rumor: 20 ms at 100 Mbit/s


class Auto(Strategy):
    """See the module. All but the mailing is the tree's."""

    ask_after_rtts: ClassVar[float] = Plumtree.ask_after_rtts
    asks_by_usual_rtt: ClassVar[bool] = Plumtree.asks_by_usual_rtt

    def __init__(self, around: Neighbourhood, tree: Plumtree) -> None:
        self._around = around
        self._tree = tree

    def spread(self, news: News, now: float) -> Plan:
        if news.is_mailed:
            return NOTHING
        linked = self._around.linked
        is_small = news.size_bytes * len(linked) <= MAIL_BYTES
        if news.sender is None and is_small and self._around.is_everybody_linked():
            return Plan(linked, is_mail=True)
        return self._tree.spread(news, now)

    def start(self, now: float) -> list[Effect]:
        return self._tree.start(now)

    def linked(self, peer_id: PeerId, now: float) -> list[Effect]:
        return self._tree.linked(peer_id, now)

    def unlinked(self, peer_id: PeerId, now: float) -> list[Effect]:
        return self._tree.unlinked(peer_id, now)

    def heard_again(self, key: Key, sender: PeerId, now: float) -> list[Effect]:
        return self._tree.heard_again(key, sender, now)

    def asks(self, teller: PeerId, origin: PeerId, now: float) -> list[Effect]:
        return self._tree.asks(teller, origin, now)

    def is_torn(self, origin: PeerId) -> bool:
        return self._tree.is_torn(origin)

    def carries(self, peer_id: PeerId, now: float) -> bool:
        return self._tree.carries(peer_id, now)

    def handle(
        self, message: Subscribe | Graft | Prune, sender: PeerId, now: float
    ) -> list[Effect]:
        return self._tree.handle(message, sender, now)

    def advance(self, now: float) -> list[Push | Effect]:
        return self._tree.advance(now)

    @property
    def deadline(self) -> float:
        return self._tree.deadline

    @property
    def subscribers(self) -> tuple[PeerId, ...]:
        return self._tree.subscribers

    @property
    def subscriptions(self) -> tuple[PeerId, ...]:
        return self._tree.subscriptions
