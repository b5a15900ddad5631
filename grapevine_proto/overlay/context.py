"""The context of one overlay: what its components share.

Invariants:

- It is complete before the first component is created, so no component needs a callback into one that is
  created after it.
- Each table is the same object for the whole run. Only `config.current` is replaced, by the engine.
- It decides nothing.
"""

from __future__ import annotations

import random

from grapevine_proto.config.live import LiveConfig
from grapevine_proto.crypto.identity import Identity
from grapevine_proto.overlay.members import MemberTable
from grapevine_proto.overlay.peers import PeerTable
from grapevine_proto.overlay.verification import Verifier
from grapevine_proto.work import WorkMeter


class OverlayContext:
    """The live configuration, the identity, the source of randomness and the shared tables of one node.
    `work` counts what the messages of peers cost."""

    __slots__ = ("config", "identity", "members", "our_id", "peers", "rng", "verifier", "work")

    def __init__(self, config: LiveConfig, identity: Identity, rng: random.Random) -> None:
        limits = config.current.limits
        self.config = config
        self.identity = identity
        self.our_id = identity.peer_id
        self.rng = rng
        self.work = WorkMeter()
        self.peers = PeerTable(limits.sessions + config.current.max_peers)
        self.members = MemberTable(limits, self.peers.is_linked)
        self.verifier = Verifier(config, self.work)
