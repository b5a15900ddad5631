"""What this node says of itself: its record, and what others say of it.

What must stay true: only here is our own record signed, and each time with a version above all that
we signed before in this run.
"""

from __future__ import annotations

import math
from typing import Final

from grapevine_proto.config import NodeConfig
from grapevine_proto.errors import DropReason
from grapevine_proto.events import IdentityInUse
from grapevine_proto.identity import Identity
from grapevine_proto.ids import Address, PeerId
from grapevine_proto.messages import Opinion
from grapevine_proto.overlay.effects import Blame, Effect, Emit, Reopen, Stop
from grapevine_proto.signed import Record

OUTRANKED_LIMIT: Final = (
    16  # times that we outrank another node on our identity, which will not stop
)
REFUTE_EVERY_S: Final = 1.0  # at most: whoever accuses us faster is answered for all at once


class Ourselves:
    """Mechanism: our record, and when it has to change."""

    def __init__(
        self, config: NodeConfig, identity: Identity, epoch: int, address: Address
    ) -> None:
        self._config = config
        self._identity = identity
        ours = Address.parse(config.advertise) if config.advertise else address
        self.addresses: tuple[Address, ...] = (ours.without_zone,)
        self._told_of_ourselves = 0
        self._came_later = False  # and the other node on our identity was here first
        self.was_linked = False  # in this run
        self._refuted_at = -math.inf
        self.record = self._signed(epoch, 0, left=False)

    @property
    def peer_id(self) -> PeerId:
        return self._identity.peer_id

    @property
    def address(self) -> Address:
        """Where others may best dial us."""
        return self.addresses[0]

    def _signed(self, epoch: int, incarnation: int, *, left: bool) -> Record:
        config = self._config
        limit = config.rate_limit
        # Told are nine tenths of what is allowed, so that a sender that keeps to it never loses
        # anything to clocks that differ; 0: no limit.
        capacity = max(int(limit.capacity * 0.9), 1) if limit.enabled else 0
        refill = max(int(limit.refill_rate * 0.9), 1) if limit.enabled else 0
        bare = Record(
            self._identity.peer_id,
            epoch,
            incarnation,
            self.addresses,
            config.zone,
            config.name,
            capacity,
            refill,
            left,
        )
        return bare.signed(self._identity, config.cluster)

    def reconfigure(self, config: NodeConfig) -> bool:
        """Other settings from now on; whether our record says something else for it."""
        self._config = config
        same = self._signed(self.record.epoch, self.record.incarnation, left=False)
        if same == self.record:
            return False
        self.renew()
        return True

    def move(self, addresses: tuple[Address, ...]) -> bool:
        """Others may dial us at `addresses` from now on, unless settings name one; whether our record
        says something else for it."""
        if self._config.advertise or addresses == self.addresses or self.record.left:
            return False
        self.addresses = addresses
        self.renew()
        return True

    def renew(self, *, left: bool = False) -> Record:
        """Our record, one incarnation higher."""
        self.record = self._signed(self.record.epoch, self.record.incarnation + 1, left=left)
        return self.record

    def reopen(self, epoch: int) -> None:
        """Begin anew in a higher epoch."""
        self.record = self._signed(epoch, 0, left=False)

    def refutes(self, opinion: Opinion, sender: PeerId, now: float) -> bool | Effect:
        """Whether our record was renewed because `opinion` says that we do not answer; or what
        `sender` is to be blamed for. What is said of an earlier incarnation is refuted already."""
        if opinion.record.version != self.record.version or not opinion.accusations:
            return False
        if now < self._refuted_at + REFUTE_EVERY_S or self.record.left:
            return False
        if not opinion.accusations[0].is_authentic(self._config.cluster, self.record):
            return Blame(sender, DropReason.BAD_SIGNATURE)
        self._refuted_at = now
        self.renew()
        return True

    def compare(self, record: Record, sender: PeerId) -> list[Effect]:
        """A record of our own identity that is not ours: an earlier run with a clock ahead, or a
        second node on our state. Once it is outranked; the second time there are two of us, and the
        one that came later stops. The other outranks it again, and tells the application."""
        if record.version < self.record.version or record == self.record:
            return []
        if record.version == self.record.version and record.addresses == self.record.addresses:
            return []
        if not record.is_authentic(self._config.cluster):
            return [Blame(sender, DropReason.BAD_SIGNATURE)]
        self._told_of_ourselves += 1
        if self._told_of_ourselves == 1:
            self._came_later = self._looks_later(record)
            return [Reopen(record.epoch)]
        where = f" at {record.addresses[0]}" if record.addresses else ""
        who = f"identity {self._identity.peer_id.short} is in use by another node{where}"
        if self._came_later or self._told_of_ourselves > OUTRANKED_LIMIT:
            later = ", which was here first" if self._came_later else ""
            return [
                Stop(
                    f"{who}{later}: a state directory that was copied needs an identity of its own"
                )
            ]
        return [Emit(IdentityInUse(next(iter(record.addresses), None), who)), Reopen(record.epoch)]

    def _looks_later(self, record: Record) -> bool:
        """Whether the other node was here first. It was, if it outranked exactly our record, which it
        must have heard of then; or if we never had a link, and were told so at the first. A node that
        has just started on a copy of our state has an epoch by its clock, which is neither."""
        if record.epoch == self.record.epoch:
            return record.addresses < self.record.addresses
        return record.epoch == self.record.epoch + 1 or not self.was_linked
