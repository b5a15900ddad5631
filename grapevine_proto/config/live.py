"""The live configuration of one node: one reference that all its components share.

Invariants:

- Components read a setting when they need it and keep no copy of one that may change at run time
  (`config.node.LIVE_FIELDS`). One that has to act on a change has a method `reconfigure`.
"""

from __future__ import annotations

from grapevine_proto.config.node import NodeConfig


class LiveConfig:
    """Holds the settings in effect, `current`. Only the owner of the node replaces them."""

    __slots__ = ("current",)

    def __init__(self, config: NodeConfig) -> None:
        self.current = config

    def replace(self, config: NodeConfig) -> None:
        """Puts `config` into effect."""
        self.current = config
