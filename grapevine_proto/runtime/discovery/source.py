"""Sources of addresses: how a node finds others without typed addresses.

Invariants:

- What a source names is a hint. Only a session proves that a member of the cluster is there.
- A source of an optional package says so when it is created, not when it is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from grapevine_proto.crypto.cluster_key import ClusterKey
from grapevine_proto.errors import ConfigError
from grapevine_proto.ids import Address


class Discovery(Protocol):
    """A source of addresses of other nodes. Any object with these two will do."""

    @property
    def name(self) -> str:
        """A short name of the source, for people."""

    async def addresses(self) -> list[str]:
        """Returns the addresses that are known now, ``host:port`` each.

        The node calls it again after it returned: the first call should return soon, the next ones once
        something has changed or a look is due. What it raises is logged, and it is called again later.
        """


class OwnNode(NamedTuple):
    """What an announcing source may tell about this node."""

    addresses: tuple[Address, ...]
    """At which other nodes can dial it, the most likely first."""
    is_wildcard: bool
    """Whether it listens on all addresses of this machine."""
    keys: Sequence[ClusterKey]
    cluster: str
    state_dir: Path | None

    def marks(self, domain: bytes, *parts: bytes | str | int) -> list[str]:
        """Returns 16 hex digits per key, by which nodes of the same cluster recognize each other, and no
        one else the cluster."""
        return [
            key.derive(domain, self.cluster, *parts, size=MARK_BYTES).hex() for key in self.keys
        ]


MARK_BYTES = 8


@runtime_checkable
class AnnouncingDiscovery(Protocol):
    """A source that announces this node too."""

    async def announce(self, own: OwnNode) -> None:
        """Announces this node, in place of what was announced before."""

    async def withdraw(self) -> None:
        """Ends the announcement and releases everything. The node stops."""


def missing_package(setting: str, what: str, extra: str) -> ConfigError:
    """The error of a source whose optional package is not installed."""
    return ConfigError(setting, f"{what} needs: pip install 'grapevine-tui[{extra}]'")
