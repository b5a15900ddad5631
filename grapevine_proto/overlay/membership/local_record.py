"""This node's own signed record: when to re-sign it, how to refute accusations, and conflicts of
identity.

Invariants:

- Only this module signs our own record, each time with a version above all it signed in this run.
"""

from __future__ import annotations

import math
from typing import Final

from grapevine_proto.config.live import LiveConfig
from grapevine_proto.coordinate import Coordinate
from grapevine_proto.crypto.identity import Identity
from grapevine_proto.errors import DropReason
from grapevine_proto.events import IdentityInUse
from grapevine_proto.ids import Address, PeerId
from grapevine_proto.overlay.effects import BumpEpoch, CountDrop, Effect, Emit, Shutdown
from grapevine_proto.wire.attributes import record_attributes
from grapevine_proto.wire.messages import MemberUpdate
from grapevine_proto.wire.signed import PeerRecord

MAX_ADDRESSES: Final = 4  # of a record
EPOCH_BUMPS_LIMIT: Final = 16  # times to outrank another node on our identity that does not stop
REFUTE_MIN_INTERVAL_S: Final = 1.0  # accusations that arrive faster share one refutation


class LocalRecord:
    """Owns our record and decides when it changes (SWIM, Das 2002, section 4.2: incarnations)."""

    def __init__(
        self,
        config: LiveConfig,
        identity: Identity,
        epoch: int,
        address: Address,
        earlier_epoch: int = 0,
    ) -> None:
        """`earlier_epoch` is that of the run before; 0: there was none."""
        self._config = config
        self._identity = identity
        self._advertise = config.current.advertise  # that the record was signed with
        self._machine_addresses: tuple[Address, ...] = (address.without_zone,)
        self.observed: Address | None = None  # where peers see this node
        self.mapped: Address | None = None  # which a router maps to this node
        self._introducers: tuple[bytes, ...] | None = None
        self._earlier_epoch = earlier_epoch
        self._conflicts_seen = 0
        self._is_later_node = False  # and the other node on our identity was here first
        self._was_ever_linked = False  # since this node started
        self._last_refuted_at = -math.inf
        self._coordinate: Coordinate | None = None
        self.record = self._sign_record(epoch, 0, left=False)

    @property
    def peer_id(self) -> PeerId:
        return self._identity.peer_id

    @property
    def host_addresses(self) -> tuple[Address, ...]:
        """The configured address, or those of this machine."""
        configured = self._config.current.advertise
        if configured:
            return (Address.parse(configured).without_zone,)
        return self._machine_addresses

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Where to dial this node, best first: at the mapped port of a router, where peers see it, then at
        its own addresses. If one is configured, it stands for the mapped one."""
        mapped = None if self._config.current.advertise else self.mapped
        outside = (each for each in (mapped, self.observed) if each is not None)
        return tuple(dict.fromkeys((*outside, *self.host_addresses)))[:MAX_ADDRESSES]

    @property
    def address(self) -> Address:
        """The preferred address to dial this node at."""
        return self.addresses[0]

    def _sign_record(self, epoch: int, incarnation: int, *, left: bool) -> PeerRecord:
        config = self._config.current
        limit = config.rate_limit
        # Advertise nine tenths of the limit, so that a sender that keeps to it loses nothing to
        # clock differences; 0 means no limit.
        capacity = max(int(limit.capacity * 0.9), 1) if limit.enabled else 0
        refill = max(int(limit.refill_rate * 0.9), 1) if limit.enabled else 0
        unsigned = PeerRecord(
            self._identity.peer_id,
            epoch,
            incarnation,
            self.addresses,
            config.zone,
            config.name,
            capacity,
            refill,
            left,
            attributes=record_attributes(
                coordinate=self._coordinate,
                introducers=self._introducers,
                earlier_epoch=self._earlier_epoch,
                max_ack_delay_s=config.max_ack_delay,
            ),
        )
        return unsigned.signed(self._identity, config.cluster)

    def on_link_up(self) -> None:
        """A link is up: this run has taken part in the cluster."""
        self._was_ever_linked = True

    def reconfigure(self) -> bool:
        """Sign the record again if settings in it changed; whether they did. With another address to
        advertise, what peers saw does not count."""
        if self._config.current.advertise != self._advertise:
            self._advertise = self._config.current.advertise
            self.observed = self._introducers = None
        unchanged = self._sign_record(self.record.epoch, self.record.incarnation, left=False)
        if unchanged == self.record:
            return False
        self.bump_incarnation()
        return True

    def set_addresses(self, addresses: tuple[Address, ...]) -> bool:
        """Advertise `addresses` unless the configuration names one; whether our record changed."""
        if addresses == self._machine_addresses or self.record.left:
            return False
        self._machine_addresses = addresses
        if self._config.current.advertise:
            return False
        self.observed = self._introducers = None
        self.bump_incarnation()
        return True

    def set_mapped(self, address: Address | None) -> bool:
        """Advertise the address that a router maps to this node, None: no longer; whether our record
        changed."""
        before, self.mapped = self.addresses, address
        if self.addresses == before or self.record.left:
            return False
        self.bump_incarnation()
        return True

    def set_reachability(
        self, observed: Address | None, introducers: tuple[bytes, ...] | None
    ) -> bool:
        """Advertise where peers see this node, and who introduces it; whether our record changed."""
        if (observed, introducers) == (self.observed, self._introducers) or self.record.left:
            return False
        self.observed, self._introducers = observed, introducers
        self.bump_incarnation()
        return True

    def set_coordinate(self, coordinate: Coordinate) -> bool:
        """Sign the record with this coordinate; whether it was signed."""
        if self.record.left:
            return False
        self._coordinate = coordinate
        self.bump_incarnation()
        return True

    def forget_earlier_run(self) -> bool:
        """Nothing of the run before is on its way any more; whether our record was signed again."""
        if not self._earlier_epoch or self.record.left:
            return False
        self._earlier_epoch = 0
        self.bump_incarnation()
        return True

    def bump_incarnation(self, *, left: bool = False) -> PeerRecord:
        """Sign and return our record with the next incarnation."""
        self.record = self._sign_record(self.record.epoch, self.record.incarnation + 1, left=left)
        return self.record

    def start_epoch(self, epoch: int) -> None:
        """Sign our record with a higher epoch. What was published until now has the earlier one."""
        self._earlier_epoch = self.record.epoch
        self.record = self._sign_record(epoch, 0, left=False)

    def refute(self, update: MemberUpdate, sender: PeerId, now: float) -> bool | Effect:
        """Refute a suspicion of our current incarnation.

        Returns True if our record was re-signed, False if there is nothing to do, or an effect that
        charges `sender` for a forged accusation. Suspicions of earlier incarnations are already
        refuted.
        """
        if update.record.version != self.record.version or not update.accusations:
            return False
        if now < self._last_refuted_at + REFUTE_MIN_INTERVAL_S or self.record.left:
            return False
        if not update.accusations[0].is_authentic(self._config.current.cluster, self.record):
            return CountDrop(sender, DropReason.BAD_SIGNATURE)
        self._last_refuted_at = now
        self.bump_incarnation()
        return True

    def on_own_record(self, record: PeerRecord, sender: PeerId) -> list[Effect]:
        """Handle a record of our identity that we did not sign.

        It comes from an earlier run with a faster clock, or from a second node on a copy of our
        state. The first time, our epoch is bumped above it. If it happens again there are two
        nodes: the later one shuts down, the other bumps its epoch again and reports the conflict to
        the application.
        """
        if record.version < self.record.version or record == self.record:
            return []
        if record.version == self.record.version and record.addresses == self.record.addresses:
            return []
        if not record.is_authentic(self._config.current.cluster):
            return [CountDrop(sender, DropReason.BAD_SIGNATURE)]
        self._conflicts_seen += 1
        if self._conflicts_seen == 1:
            self._is_later_node = self._is_probably_later(record)
            return [BumpEpoch(record.epoch)]
        location = f" at {record.addresses[0]}" if record.addresses else ""
        problem = f"identity {self._identity.peer_id.short} is in use by another node{location}"
        if self._is_later_node or self._conflicts_seen > EPOCH_BUMPS_LIMIT:
            later = ", which was here first" if self._is_later_node else ""
            return [
                Shutdown(
                    f"{problem}{later}: a state directory that was copied needs an identity of its own"
                )
            ]
        return [
            Emit(IdentityInUse(next(iter(record.addresses), None), problem)),
            BumpEpoch(record.epoch),
        ]

    def _is_probably_later(self, record: PeerRecord) -> bool:
        """Whether this node is the later of the two.

        It is if the other node outranked exactly our record, which it must have seen then; or if we
        never had a link and learned of it at the first. A node that just started on a copy of our state
        takes its epoch from the clock, so neither applies to it.
        """
        if record.epoch == self.record.epoch:
            return record.addresses < self.record.addresses
        return record.epoch == self.record.epoch + 1 or not self._was_ever_linked
