"""The overlay of one node, put together: its machines, and the tables they share.

What must stay true: a fact has one owner, which is made here once and given to whoever reads it.
"""

from __future__ import annotations

import random

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.crypto.identity import Identity
from grapevine_proto.ids import Address, PeerId
from grapevine_proto.overlay.broadcast.broadcast import Broadcast
from grapevine_proto.overlay.membership.membership import Membership
from grapevine_proto.overlay.peers import PeerTable
from grapevine_proto.overlay.store.message_store import MemberRun, MessageStore, SavedStream
from grapevine_proto.overlay.store.verification import Verifier
from grapevine_proto.overlay.sync.antientropy import AntiEntropy
from grapevine_proto.overlay.trace.trace import Tracing


class Overlay:
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
        known_addresses: tuple[tuple[PeerId, Address], ...],
    ) -> None:
        self.peers = PeerTable(config.limits.sessions + config.max_peers)
        self.signatures = Verifier(config)
        self.store = MessageStore(config, self.signatures, streams, now, run_of=self._run_of)
        self.membership = Membership(
            config,
            identity,
            epoch,
            address,
            self.peers,
            self.store,
            rng,
            now,
            is_in_use=self._is_in_use,
            verifier=self.signatures,
        )
        self.membership.dialer.remember(known_addresses, now)
        members = self.membership.members
        self.tracing = Tracing(config, identity, self.peers, members, self.signatures, rng)
        self.dissemination = Broadcast(
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
            random_unlinked=self.membership.evictor.random_unlinked,
        )

    def _run_of(self, peer_id: PeerId) -> MemberRun | None:
        """What its record says of the run that `peer_id` is in; None: it is not known as a member."""
        member = self.membership.members.get(peer_id)
        if member is None:
            return None
        return MemberRun(member.record.epoch, member.epoch_known_at, member.earlier_epoch)

    def _is_in_use(self, peer_id: PeerId, now: float) -> bool:
        return self.dissemination.is_in_use(peer_id, now)

    @property
    def work_units(self) -> int:
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
