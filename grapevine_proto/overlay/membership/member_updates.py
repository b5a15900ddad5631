"""Applies member updates received from peers: signed records and suspicions, about members and
ourselves.

Invariants:

- A record is accepted from any peer, because it is signed, and only if its version is higher than
  the known one. So no node can speak for, silence or expel another.
- A new record costs its sender one signature check from its budget, whichever message carries it.
  Beyond the budget it is ignored; it arrives again from other peers, or later.
- A suspicion of ourselves is refuted with a higher incarnation, sent to all linked peers (SWIM, Das
  2002, section 4.2). A second node on our identity is handled by `local_record`.

A component of `membership`; `detector` handles suspicions of others.
"""

from __future__ import annotations

from dataclasses import replace

from grapevine_proto.errors import DropReason
from grapevine_proto.events import MemberChanged, MemberStatus
from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.context import OverlayContext
from grapevine_proto.overlay.effects import CountDrop, Disconnect, Effect, Emit, Send, UpdateRecord
from grapevine_proto.overlay.members import Member
from grapevine_proto.overlay.membership.local_record import LocalRecord
from grapevine_proto.overlay.membership.member_sync import MemberSync
from grapevine_proto.overlay.membership.reachability import Reachability
from grapevine_proto.overlay.swim.detector import Detector
from grapevine_proto.overlay.topology.dialer import Dialer
from grapevine_proto.wire.messages import CloseReason, MemberUpdate, MemberUpdates
from grapevine_proto.wire.signed import PeerRecord


class UpdateHandler:
    """Applies records and suspicions to the member table and passes them to the components
    concerned.
    """

    def __init__(
        self,
        context: OverlayContext,
        local_record: LocalRecord,
        dialer: Dialer,
        detector: Detector,
        member_sync: MemberSync,
        reachability: Reachability,
    ) -> None:
        self._config = context.config
        self._peers = context.peers
        self._members = context.members
        self._verifier = context.verifier
        self._local_record = local_record
        self._dialer = dialer
        self._detector = detector
        self._member_sync = member_sync
        self._reachability = reachability

    def on_updates(
        self, updates: tuple[MemberUpdate, ...], sender: PeerId, now: float
    ) -> list[Effect]:
        """Apply the records in `updates`; refute a suspicion of this node to all linked peers."""
        effects: list[Effect] = []
        for update in updates:
            if update.record.peer_id != self._local_record.peer_id:
                effects += self.apply_record(update.record, sender, now)
                continue
            effects += self._local_record.on_own_record(update.record, sender)
            verdict = self._local_record.refute(update, sender, now)
            if verdict is True:
                self._detector.awareness.increment(
                    now
                )  # others do not receive from us: we may be slow
                linked = self._peers.linked
                if linked:
                    effects.append(
                        Send(linked, MemberUpdates((MemberUpdate(self._local_record.record),)))
                    )
            elif verdict:
                effects.append(verdict)
        return effects

    def on_records(
        self, records: tuple[PeerRecord, ...], sender: PeerId, now: float
    ) -> list[Effect]:
        effects: list[Effect] = []
        for record in records:
            if record.peer_id == self._local_record.peer_id:
                effects += self._local_record.on_own_record(record, sender)
            else:
                effects += self._detector.correct_sender(record, sender)
                effects += self.apply_record(record, sender, now)
        return effects

    def _is_known(self, record: PeerRecord, member: Member | None) -> bool:
        """Whether `record` is no newer than what is known of its subject, which may have been
        removed since.
        """
        if member is None:
            return self._members.is_tombstoned(record)
        if record.version == member.record.version:
            self._members.note_duplicate(record.peer_id)
        return record.version <= member.record.version

    def apply_record(self, record: PeerRecord, sender: PeerId, now: float) -> list[Effect]:
        member = self._members.get(record.peer_id)
        if self._is_known(record, member):
            return []
        if not self._verifier.try_charge_record_check(sender, now):
            return [CountDrop(sender, DropReason.SIGNATURE_BUDGET)]
        if not record.is_authentic(self._config.current.cluster):
            return [CountDrop(sender, DropReason.BAD_SIGNATURE)]
        before = None if member is None else member.to_info()
        # A record that evicts another is not gossiped; a full table would gossip all the time.
        is_shared = member is not None or self._members.has_room_from(sender)
        if member is None:
            if not self._members.make_room_from(sender):
                return []
            member = self._members.add(record, sender, now)
        has_restarted = record.epoch > member.record.epoch
        is_minor = before is not None and _says_the_same(record, member.record)
        member.update_record(record, now)
        if is_shared:
            self._members.queue_update(record.peer_id, is_minor=is_minor)
        if before is None:
            self._member_sync.on_member_added(now)
        peer = self._peers.get(record.peer_id)
        if peer is not None:
            peer.update_record(record)
        if record.left:
            self._dialer.stop_looking(record.peer_id)
            self._detector.on_leave(record.peer_id)
            status_changed = member.set_status(MemberStatus.LEFT, "announced by itself", now)
            linked = self._peers.is_linked(record.peer_id)
            disconnects = (
                [Disconnect(record.peer_id, CloseReason.LEAVING, "left")] if linked else []
            )
            return [status_changed, *disconnects]
        if has_restarted and member.status is not MemberStatus.UP:
            member.redial_from(now)
        effects: list[Effect] = (
            [UpdateRecord(record)] if self._peers.is_linked(record.peer_id) else []
        )
        if peer is not None and effects:
            effects += self._reachability.tell(peer)
        effects += self._detector.on_new_incarnation(member, now)
        # A record signed after a suspicion shows that its subject was alive then. Linked peers also
        # probe it themselves.
        if member.status is not MemberStatus.UP:
            reason = "it restarted" if has_restarted else "a newer record of it arrived"
            effects.append(member.set_status(MemberStatus.UP, reason, now))
        elif member.to_info() != before:
            effects.append(Emit(MemberChanged(member.to_info())))
        return effects


def _says_the_same(record: PeerRecord, before: PeerRecord) -> bool:
    """Whether only attributes of a record changed, such as the coordinate: that may take its time."""
    return record.attributes != before.attributes and record == replace(
        before,
        incarnation=record.incarnation,
        attributes=record.attributes,
        signature=record.signature,
    )
