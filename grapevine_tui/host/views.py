"""What a user may ask of the whole network: the commands, and the argument of `HostView.network`.

Invariants: the fields are those of the JSON commands ``rtt``, ``matrix``, ``topology`` and ``has``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class ShowRtt:
    """The round-trip time between two members: a name, an ID or a prefix of one, or an address each; an empty
    second one is this node."""

    peer: str
    other: str = ""


@dataclass(frozen=True, slots=True)
class ShowMatrix:
    """The round-trip times between all pairs of members."""


@dataclass(frozen=True, slots=True)
class ShowTopology:
    """Which members are linked with which; with the ID of a cached `message`, also the tree on which it
    spread."""

    message: str = ""


@dataclass(frozen=True, slots=True)
class ShowHolders:
    """Which members have a message cached, and how it reached them."""

    message: str


NetworkView: TypeAlias = ShowRtt | ShowMatrix | ShowTopology | ShowHolders
