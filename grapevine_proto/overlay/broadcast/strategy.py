"""The interface of a broadcast strategy: which peers to push a rumor to, and when.

Invariants:

- A strategy decides from IDs and sizes alone. It sees no payload, link or byte, so another strategy
  is one small file.
- All randomness comes from its `rng`, and its state is bounded by the number of links and by
  constants.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.effects import Effect
from grapevine_proto.overlay.store.message_cache import RumorKey
from grapevine_proto.wire.messages import Graft, Prune, Subscribe

try:
    from mypy_extensions import mypyc_attr
except ImportError:  # it is no dependency: only mypyc reads the decorator
    from grapevine_proto.compilation import mypyc_attr


class NewRumor(NamedTuple):
    """A rumor that arrived for the first time, or is published here."""

    key: RumorKey
    own_size_bytes: int
    """Its size if it is our own, which decides whether it is mailed; 0 otherwise."""
    hops: int
    """Number of nodes it passed through."""
    sender: PeerId | None
    """The peer that sent it; None if it is our own."""
    is_offered: bool = False
    """Our own, or offered to us: near peers that lack it may not get it otherwise."""
    first_source: PeerId | None = None
    """The peer that announced it before it arrived, `lead_s` seconds earlier."""
    lead_s: float = 0.0
    is_urgent: bool = False
    """A program waits for what members return for it, and it is small."""

    @property
    def origin(self) -> PeerId:
        return self.key[0]


class PushPlan(NamedTuple):
    """How to forward a new rumor: push it to `targets` now."""

    targets: Sequence[PeerId]
    is_mail: bool = False
    """`targets` are all members, so receivers need not forward it."""
    is_offer: bool = False
    """Offer it to near peers at once: no other peer will push it to them."""
    effects: Sequence[Effect] = ()


class Push(NamedTuple):
    """Push the rumor `key` to `targets`."""

    key: RumorKey
    targets: Sequence[PeerId]


@mypyc_attr(allow_interpreted_subclasses=True)
class Strategy(ABC):
    """How rumors spread. Hooks default to no-ops."""

    request_delay_rtts: ClassVar[float] = 2.0
    """Round trips to wait for a push after an announcement, as long as one may still arrive."""
    uses_average_rtt: ClassVar[bool] = False
    """Whether those are average round trips instead of the source's: pushes take long paths."""

    @abstractmethod
    def on_new_rumor(self, rumor: NewRumor, now: float) -> PushPlan:
        """Decide how to forward `rumor`, which is new here. Mail is not forwarded, and no strategy asked."""

    def start(self, now: float) -> list[Effect]:
        """Start with the current links."""
        return []

    def stop(self) -> list[Effect]:
        """Stop; another strategy takes over."""
        return []

    def on_link_up(self, peer_id: PeerId, now: float) -> list[Effect]:
        """A link was established."""
        return []

    def on_link_down(self, peer_id: PeerId, now: float) -> list[Effect]:
        """A link closed."""
        return []

    def on_late_delivery(self, key: RumorKey, peer_id: PeerId) -> None:  # noqa: B027  optional hook
        """A rumor published without any link was pushed to `peer_id`, the first peer to link."""

    def on_duplicate(self, key: RumorKey, sender: PeerId, now: float) -> list[Effect]:
        """`sender` pushed a copy of a known rumor."""
        return []

    def on_request_sent(self, source: PeerId, origin: PeerId, now: float) -> list[Effect]:
        """A rumor of `origin` was not pushed to us and is requested from `source`, which announced
        it.
        """
        return []

    def is_broken(self, origin: PeerId) -> bool:
        """Whether pushes of rumors of `origin` may fail to arrive, so that waiting for one is
        pointless.
        """
        return False

    def handle(
        self, message: Subscribe | Graft | Prune, sender: PeerId, now: float
    ) -> list[Effect]:
        """Handle a message about subscriptions or trees."""
        return []

    def advance(self, now: float) -> list[Push | Effect]:
        """The pushes and effects that are due."""
        return []

    @property
    def deadline(self) -> float:
        """When to call `advance` next; math.inf for never."""
        return math.inf

    def reconfigure(self, now: float) -> list[Effect]:
        """Settings changed."""
        return []

    def is_in_use(self, peer_id: PeerId, now: float) -> bool:
        """Whether pushes depend on the link with `peer_id`, which is then not replaced by a nearer
        one.
        """
        return False

    @property
    def subscribers(self) -> Sequence[PeerId]:
        """Peers to which new rumors are always pushed."""
        return ()

    @property
    def subscriptions(self) -> Sequence[PeerId]:
        """Peers that push new rumors to us."""
        return ()
