"""What a way of spreading rumors has to answer.

What must stay true: a strategy decides *whom* to push to and *when*, from ids and sizes alone; it
never sees a payload, a link or a byte, so that another strategy is one small file. Every choice
that chance makes comes from its `rng`, and what it remembers is bounded by links and constants.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.effects import Effect
from grapevine_proto.overlay.store.message_cache import RumorKey
from grapevine_proto.wire.messages import Graft, Prune, Subscribe


class NewRumor(NamedTuple):
    """A rumor that is new here."""

    key: RumorKey
    size_bytes: int
    hops: int
    """How many nodes it came through."""
    sender: PeerId | None
    """Who told it; None: it is our own."""
    is_mailed: bool = False
    """Its origin says that it tells every member itself."""
    is_offered: bool = False
    """It is our own, or was offered to us: near peers that lack it may count on nobody else."""
    first_source: PeerId | None = None
    """Who told us its id before the rumor itself came, and so long before."""
    lead_s: float = 0.0

    @property
    def origin(self) -> PeerId:
        return self.key[0]


class PushPlan(NamedTuple):
    """What to do with a rumor that is new here: push it to `targets` at once."""

    targets: Sequence[PeerId]
    is_mail: bool = False
    """`targets` are all members: whoever gets it need not pass it on."""
    is_offer: bool = False
    """Tell near peers at once that they may ask for it: nobody else will push it to them."""
    effects: Sequence[Effect] = ()


class Push(NamedTuple):
    """Push the rumor `key` to `targets`."""

    key: RumorKey
    targets: Sequence[PeerId]


class Strategy(ABC):
    """How rumors spread. What a strategy does not answer, it does not care about."""

    request_delay_rtts: ClassVar[float] = 2.0
    """How many round trips to wait, told of a rumor, for a push of it: as long as one may be coming."""
    uses_average_rtt: ClassVar[bool] = False
    """Whether those are usual round trips of ours, however near the teller: pushes come a long way round."""

    @abstractmethod
    def on_new_rumor(self, rumor: NewRumor, now: float) -> PushPlan:
        """A rumor is new here."""

    def start(self, now: float) -> list[Effect]:
        """It begins to work, with the links there are."""
        return []

    def stop(self) -> list[Effect]:
        """Another takes over."""
        return []

    def on_link_up(self, peer_id: PeerId, now: float) -> list[Effect]:
        """A link is new."""
        return []

    def on_link_down(self, peer_id: PeerId, now: float) -> list[Effect]:
        """A link is gone."""
        return []

    def on_late_delivery(self, key: RumorKey, peer_id: PeerId) -> None:  # noqa: B027  most do not care
        """A rumor that was spread while nobody was there was pushed to `peer_id`, the first who came."""

    def on_duplicate(self, key: RumorKey, sender: PeerId, now: float) -> list[Effect]:
        """`sender` pushed a copy of a rumor that is known."""
        return []

    def on_request_sent(self, source: PeerId, origin: PeerId, now: float) -> list[Effect]:
        """A rumor of `origin` was not pushed to us, and `source`, who told of it, is asked for it."""
        return []

    def is_broken(self, origin: PeerId) -> bool:
        """Whether its rumors may not be pushed to us as they were: no use in waiting for a push."""
        return False

    def handle(
        self, message: Subscribe | Graft | Prune, sender: PeerId, now: float
    ) -> list[Effect]:
        """What a peer says about pushing."""
        return []

    def advance(self, now: float) -> list[Push | Effect]:
        """What is due by now."""
        return []

    @property
    def deadline(self) -> float:
        """When `advance` has something to do; math.inf: never."""
        return math.inf

    def reconfigure(self, config: NodeConfig, now: float) -> list[Effect]:
        """Other settings from now on."""
        return []

    def is_in_use(self, peer_id: PeerId, now: float) -> bool:
        """Whether pushes count on the link with `peer_id`, which then does not go for a nearer one."""
        return False

    @property
    def subscribers(self) -> Sequence[PeerId]:
        """Peers to whom what we hear first is always pushed."""
        return ()

    @property
    def subscriptions(self) -> Sequence[PeerId]:
        """Peers who are asked to push to us what they hear first."""
        return ()
