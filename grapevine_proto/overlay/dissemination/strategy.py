"""What a way of spreading rumors has to answer.

What must stay true: a strategy decides *whom* to push to and *when*, from ids alone; it never sees
a payload, a link or a byte, so that another strategy is one small file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from grapevine_proto.config import NodeConfig
from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.held import Key


class Push(NamedTuple):
    """Push the rumor `key` to `targets`."""

    key: Key
    targets: list[PeerId]


class Strategy(Protocol):
    """How rumors spread. `linked` are the peers that can be reached now."""

    def spread(
        self, key: Key, hops: int, sender: PeerId | None, linked: Sequence[PeerId], now: float
    ) -> list[PeerId]:
        """A rumor is new here, heard from `sender` (None: our own) after `hops` relays: push it to
        these at once."""
        ...

    def heard_again(self, key: Key, sender: PeerId) -> None:
        """A copy of a known rumor came from `sender`."""
        ...

    def advance(self, linked: Sequence[PeerId], now: float) -> list[Push]:
        """What is due by now."""
        ...

    def reconfigure(self, config: NodeConfig) -> None:
        """Other settings from now on."""
        ...

    @property
    def deadline(self) -> float:
        """When `advance` has something to do; math.inf: never."""
        ...
