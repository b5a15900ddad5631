"""The overlay of one node, put together: its machines, and the tables they share.

What must stay true: a fact has one owner, which is made here once and given to whoever reads it.
"""

from __future__ import annotations

import random

from grapevine_proto.config import NodeConfig
from grapevine_proto.identity import Identity
from grapevine_proto.ids import Address, PeerId
from grapevine_proto.overlay.antientropy import AntiEntropy
from grapevine_proto.overlay.dissemination.dissemination import Dissemination
from grapevine_proto.overlay.membership import Membership
from grapevine_proto.overlay.peers import PeerTable
from grapevine_proto.overlay.signatures import Signatures
from grapevine_proto.overlay.store import Run, SavedStream, Store
from grapevine_proto.overlay.trace import Tracing


class Machines:
    """What decides among many peers. The order in which they are made is the order in which they draw
    from `rng`."""

    def __init__(
        self,
        config: NodeConfig,
        identity: Identity,
        epoch: int,
        address: Address,
        rng: random.Random,
        now: float,
        *,
        streams: tuple[SavedStream, ...],
        known: tuple[tuple[PeerId, Address], ...],
    ) -> None:
        self.peers = PeerTable(config.limits.sessions + config.max_peers)
        self.signatures = Signatures(config)
        self.store = Store(config, self.signatures, streams, now, run_of=self._run_of)
        self.membership = Membership(
            config,
            identity,
            epoch,
            address,
            self.peers,
            self.store,
            rng,
            now,
            carries=self._carries,
            signatures=self.signatures,
        )
        self.membership.dialling.remember(known, now)
        members = self.membership.members
        self.tracing = Tracing(config, identity, self.peers, members, self.signatures, rng)
        self.dissemination = Dissemination(
            config,
            identity.peer_id,
            self.peers,
            members,
            self.store,
            self.signatures,
            self.tracing.reverse_paths,
            rng,
            now,
        )
        self.antientropy = AntiEntropy(
            config,
            self.peers,
            self.store,
            rng,
            self.dissemination.accept,
            now,
            beyond=self.membership.room.somebody_beyond,
        )

    def _run_of(self, peer_id: PeerId) -> Run | None:
        """What its record says of the run that `peer_id` is in; None: it is not known as a member."""
        member = self.membership.members.get(peer_id)
        if member is None:
            return None
        return Run(member.record.epoch, member.epoch_at, member.earlier_epoch)

    def _carries(self, peer_id: PeerId, now: float) -> bool:
        return self.dissemination.carries(peer_id, now)

    @property
    def work(self) -> int:
        """What all messages cost so far, in the units of `overlay.work`."""
        return self.signatures.work + self.store.work

    @property
    def deadline(self) -> float:
        """When one of them wants to be advanced."""
        return min(
            self.membership.deadline,
            self.dissemination.deadline,
            self.antientropy.deadline,
            self.tracing.deadline,
        )
