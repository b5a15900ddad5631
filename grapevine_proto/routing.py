"""Messages to machines, and what machines ask for to the world.

What must stay true:

- It decides nothing: one `match` says which machine hears a message, one what is done for an effect,
  both with `assert_never`.
- Effects are performed in the order in which they were asked for.
- Each refusal is counted under one `DropReason`.
- An error of this program while it serves a peer ends the link with that peer and nothing else:
  `contain_error` counts it, tells of it, and what was asked for the others is done.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable
from typing import Final, assert_never

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.errors import Dropped, DropReason, Offense
from grapevine_proto.events import (
    AntiEntropyRound,
    DatagramDropped,
    Event,
    InternalErrorContained,
    Message,
    MessageReceived,
    MessageSent,
    PeerState,
    PeerStateChanged,
    RoundOutcome,
    Standing,
    StandingChanged,
    Via,
)
from grapevine_proto.faults import format_error
from grapevine_proto.ids import Address, MessageId, PeerId
from grapevine_proto.overlay.effects import (
    BumpEpoch,
    CountDrop,
    Credit,
    Deliver,
    Dial,
    Disconnect,
    Effect,
    Emit,
    PeerTransitioned,
    Penalize,
    Send,
    Shutdown,
    UpdateRecord,
)
from grapevine_proto.overlay.overlay import Overlay
from grapevine_proto.overlay.sync.repair_server import REPAIR_DATAGRAMS_LIMIT
from grapevine_proto.publisher import Publisher
from grapevine_proto.stats import peer_info
from grapevine_proto.transport.handshakes import Handshakes
from grapevine_proto.transport.link.link import Link
from grapevine_proto.transport.link_table import LinkTable
from grapevine_proto.transport.transient_sessions import PendingSend, TransientSessions
from grapevine_proto.wire import codec
from grapevine_proto.wire.messages import (
    Announce,
    Close,
    CloseReason,
    Confirm,
    Digest,
    DirectMessage,
    Frame,
    Graft,
    Heartbeat,
    IHave,
    InSync,
    IWant,
    Kind,
    MemberDigest,
    MemberUpdates,
    NeighborRequest,
    Offer,
    OpenTransient,
    OverlayMessage,
    Pause,
    Ping,
    PingAck,
    PingReq,
    Prune,
    ReceiptAck,
    Receipts,
    Records,
    Repair,
    Rumors,
    Subscribe,
    SwapRequest,
    Vector,
)
from grapevine_proto.wire.signed import PeerRecord

TRANSIENT_MESSAGES: Final = (
    DirectMessage,
    Digest,
    InSync,
    Vector,
    IWant,
    Repair,
    Records,
    Confirm,
    OpenTransient,
)
"""What may be said on a short session, besides Close: private words and repair."""
INTERNAL_ERROR_EVENT_INTERVAL_S: Final = (
    1.0  # those of no peer in particular, which a stranger may cause at will
)
SYNCED_OUTCOMES: Final = (RoundOutcome.IN_SYNC, RoundOutcome.REPAIRED)  # the peer has what we have


class MessageDispatcher:
    """Between links and machines. `events` is what happened since the engine last took them; `state_version`
    grows with whatever is worth saving of links; `stop_reason` says why the node must not go on."""

    def __init__(
        self,
        config: NodeConfig,
        links: LinkTable,
        transients: TransientSessions,
        handshakes: Handshakes,
        overlay: Overlay,
        publisher: Publisher,
    ) -> None:
        self.config = config
        self._links = links
        self._transients = transients
        self._handshakes = handshakes
        self._overlay = overlay
        self._publisher = publisher
        self._our_id = overlay.membership.record.peer_id
        self.events: list[Event] = []
        self.drops: Counter[DropReason] = Counter()
        self.drop_sources: dict[DropReason, Address] = {}  # of the latest, not told yet
        self._drops_emitted: Counter[DropReason] = Counter()
        self._internal_error_emitted_at = -math.inf
        self.delivered = 0
        self.state_version = 0
        self.stop_reason: str | None = None
        self.is_paused = False  # our own application is behind: nothing is asked for meanwhile

    # --- messages -------------------------------------------------------------------------------

    def on_packet(self, link: Link, plaintext: bytes | None, now: float) -> None:
        """A packet of `link` opened; `plaintext` is the message that it carried or completed."""
        effects = self._overlay.membership.on_packet(link.peer_id, now, link.address)
        if effects:
            self.apply_effects(effects, now)
        if plaintext is None:
            if link.has_progressed:
                self._overlay.antientropy.on_fragment(link.peer_id, now)
                self._overlay.dissemination.puller.on_fragment(link.peer_id, now)
            return
        self.dispatch(codec.decode_message(plaintext), link, now)

    def on_transient_packet(self, link: Link, plaintext: bytes | None, now: float) -> None:
        """The same of a short session, on which only so much may be said. Raises Refused."""
        if plaintext is None:
            if link.has_progressed:
                self._overlay.antientropy.on_fragment(link.peer_id, now)
            return
        message = codec.decode_message(plaintext)
        if isinstance(message, Close):
            self._transients.close(link.peer_id, None, now)
        elif isinstance(message, TRANSIENT_MESSAGES):
            self.dispatch(message, link, now)
        else:
            raise Dropped(DropReason.UNEXPECTED)

    def dispatch(self, message: OverlayMessage | Frame, link: Link, now: float) -> None:
        """Let the machine that it is for hear a message, and charge its sender what that cost."""
        before = self._overlay.work_units
        self._dispatch(message, link, now)
        cost = self._overlay.work_units - before
        if cost and not isinstance(message, Repair):  # which we asked for
            self.charge_work(link.peer_id, cost, now)

    def _dispatch(self, message: OverlayMessage | Frame, link: Link, now: float) -> None:
        sender, overlay = link.peer_id, self._overlay
        match message:
            case Rumors() | IHave() | Offer() | Announce() | Subscribe() | Graft() | Prune():
                self.apply_effects(overlay.dissemination.handle(message, sender, now), now)
            case Heartbeat():
                self.apply_effects(overlay.membership.handle(message, sender, now), now)
                self.apply_effects(overlay.antientropy.handle(message, sender, now), now)
            case Records() | Ping() | PingReq() | PingAck() | MemberUpdates() | MemberDigest():
                self.apply_effects(overlay.membership.handle(message, sender, now), now)
            case IWant():
                overlay.dissemination.on_requested(message)
                self.apply_effects(overlay.antientropy.handle(message, sender, now), now)
            case Digest() | InSync() | Vector() | Repair():
                self.apply_effects(overlay.antientropy.handle(message, sender, now), now)
            case Receipts() | ReceiptAck():
                self.apply_effects(overlay.tracing.handle(message, sender, now), now)
            case DirectMessage(sequence, payload):
                message_id = MessageId(sender, link.epoch, sequence, is_direct=True)
                self.delivered += 1
                self.events.append(
                    MessageReceived(Message(message_id, payload, 1, Via.EAGER, now, is_direct=True))
                )
            case Pause(duration_ms):
                self._links.coalescer.pause(sender, duration_ms / 1000, now)
                self._links.mark_dirty(link)
            case Close(reason, records):
                detail = (
                    "left" if reason is CloseReason.LEAVING else f"closed: {reason.name.lower()}"
                )
                self.disconnect(sender, detail, reason, notify=False, now=now)
                self.apply_effects(overlay.membership.on_evicted(records, sender, now), now)
            case Confirm() | NeighborRequest() | SwapRequest() | OpenTransient():
                pass
            case _:
                assert_never(message)

    # --- effects --------------------------------------------------------------------------------

    def apply_effects(self, effects: list[Effect], now: float) -> None:
        for effect in effects:
            try:
                self._apply_effect(effect, now)
            except Exception as error:  # noqa: BLE001  of this effect alone: the others are performed
                self.contain_error(error, self._link_of_effect(effect), now)

    def _apply_effect(self, effect: Effect, now: float) -> None:
        match effect:
            case Deliver(messages):
                self._deliver(messages)
            case Emit(event):
                self.events.append(event)
                if isinstance(event, AntiEntropyRound) and event.round.outcome in SYNCED_OUTCOMES:
                    self._links.unacked.on_peer_in_sync(event.round.started_at)
            case Send():
                self.send_to_peers(effect, now)
            case Dial():
                self._dial(effect, now)
            case Disconnect(peer, reason, detail, referrals):
                self.disconnect(peer, detail, reason, notify=True, now=now, referrals=referrals)
            case PeerTransitioned(peer, previous, detail):
                self._emit_peer_state(peer, previous, detail, now)
            case UpdateRecord(record):
                if record.peer_id in self._links:
                    link = self._links[record.peer_id]
                    link.apply_record(record, now)
                    self._links.mark_dirty(link)
            case CountDrop() | Penalize() | Credit():
                self._apply_conduct(effect, now)
            case BumpEpoch(epoch):
                self._bump_epoch(epoch, now)
            case Shutdown(detail):
                self.stop_reason = detail
            case _:
                assert_never(effect)

    def _link_of_effect(self, effect: Effect) -> Link | None:
        """The link with the one peer that `effect` is about; None: there is none, or no such peer."""
        match effect:
            case (
                Disconnect(peer)
                | PeerTransitioned(peer)
                | CountDrop(peer)
                | Penalize(peer)
                | Credit(peer)
                | Send((peer,))
            ):
                return self._links.get(peer) or self._transients.get(peer)
            case UpdateRecord(record):
                return self._links.get(record.peer_id)
            case _:
                return None

    # --- faults ---------------------------------------------------------------------------------

    def contain_error(self, error: Exception, link: Link | None, now: float) -> None:
        """An error of this program while it served `link` (None: no link in particular): count it, tell
        of it, and end that link, whatever state it is in. Never raises."""
        self.drops[DropReason.INTERNAL_ERROR] += 1
        problem = format_error(error)
        if (
            link is not None
            or now - self._internal_error_emitted_at >= INTERNAL_ERROR_EVENT_INTERVAL_S
        ):
            self._internal_error_emitted_at = now
            self.events.append(
                InternalErrorContained(None if link is None else link.peer_id, problem)
            )
        if link is None:
            return
        peer_id, was_link = link.peer_id, self._links.is_link(link)
        try:
            if was_link:
                self._links.disconnect(peer_id, CloseReason.MISCONDUCT, notify=True, now=now)
            elif self._transients.get(peer_id) is link:
                self._transients.close(peer_id, CloseReason.MISCONDUCT, now)
            else:
                self._links.discard(link)
        except Exception:  # noqa: BLE001  it is in no state to be told anything
            self._links.discard(link)
            self._transients.discard(link)
        if was_link:
            self._on_link_down(peer_id, f"fault: {problem}", CloseReason.MISCONDUCT, now)
        # Who causes one fault after the other is kept out for a while.
        with contextlib.suppress(Exception):
            self.penalize(peer_id, Offense.PROTOCOL_VIOLATION, 1, now)

    def contain_link_errors(self, now: float) -> bool:
        """Contain what links met since the last call; whether there was anything."""
        errors, self._links.internal_errors = self._links.internal_errors, []
        for link, error in errors:
            self.contain_error(error, link, now)
        return bool(errors)

    def _deliver(self, messages: tuple[Message, ...]) -> None:
        """Tell the application of messages of one rumor."""
        if messages and messages[0].origin != self._our_id:
            self.delivered += len(messages)
            self.events += map(MessageReceived, messages)
        # else said in a second that a crash forgot: nothing new to us

    def send_to_peers(self, send: Send, now: float) -> int:
        """Queue a message; for how many peers there was room for it."""
        if self.is_paused and isinstance(send.message, IWant):
            return 0  # a later round asks for what is still missed
        links = [self._links[peer_id] for peer_id in send.peers if peer_id in self._links]
        if isinstance(send.message, Rumors):
            return self._links.enqueue_rumors(send.message, links, now)
        if isinstance(send.message, Repair):
            plaintext = codec.encode_repair(send.message, self._our_id)
        else:
            plaintext = codec.encode_message(send.message)
        if len(links) < len(send.peers) and isinstance(send.message, TRANSIENT_MESSAGES):
            for peer_id in send.peers:
                if peer_id not in self._links:
                    self._send_unlinked(peer_id, plaintext, now)
        for link in links:
            try:
                self._enqueue(link, plaintext, now)
            except Exception as error:  # noqa: BLE001
                self.contain_error(error, link, now)
        return len(links)

    def _enqueue(self, link: Link, plaintext: bytes | codec.ChunkedMessage, now: float) -> None:
        if _is_iwant(plaintext):
            link.inbound_limit.grant_repair_credit(REPAIR_DATAGRAMS_LIMIT)
        self._links.enqueue(link, plaintext, now)

    def _send_unlinked(
        self, peer_id: PeerId, plaintext: bytes | codec.ChunkedMessage, now: float
    ) -> None:
        """To a peer without a link: on the short session that it has. A question opens one."""
        link = self._transients.get(peer_id)
        if isinstance(plaintext, bytes) and plaintext[0] == Kind.IWANT:
            self.send_transient(peer_id, PendingSend(plaintext, None), now)
        elif link is not None:
            self._enqueue(link, plaintext, now)

    def _dial(self, dial: Dial, now: float) -> None:
        if dial.expected is not None and self._links.peer_limits.is_expelled(dial.expected, now):
            self.on_dial_failed(dial.address, dial.expected, DropReason.MISCONDUCT, now)
        elif self._handshakes.can_dial:
            record = self._overlay.membership.record
            self._handshakes.dial(
                dial.address,
                dial.expected,
                record,
                now,
                wants_room=dial.wants_room,
                swap_for=dial.swap_for,
                max_rtt_s=dial.max_rtt_s,
                max_hellos=dial.max_hellos,
            )
        else:
            self.on_dial_failed(dial.address, dial.expected, None, now)

    def end_dial(self, session_id: bytes, reason: DropReason | str | None, now: float) -> None:
        """A dial of ours led to nothing. `reason`: how it was answered, or in words what kept it from being
        sent; None: no answer."""
        dial = self._handshakes.end_dial(session_id)
        if dial is None:
            return
        if dial.is_transient and dial.expected is not None:
            self.on_transient_failed(dial.expected)
        elif dial.swap_for is not None and reason is None:
            self._overlay.membership.dialer.probe_done(dial.address, dial.expected, dial.rtt_s, now)
        else:
            self.on_dial_failed(dial.address, dial.expected, reason, now)
            if dial.expected is not None:
                self.on_dial_ended(dial.expected, now)

    def on_dial_failed(
        self, address: Address, expected: PeerId | None, reason: DropReason | str | None, now: float
    ) -> None:
        self.apply_effects(
            self._overlay.membership.on_dial_failed(address, expected, reason, now), now
        )

    def disconnect(
        self,
        peer_id: PeerId,
        detail: str,
        reason: CloseReason | None,
        *,
        notify: bool,
        now: float,
        referrals: tuple[PeerRecord, ...] = (),
    ) -> None:
        """End the link with `peer_id`, where there is one, and let everybody here know; `referrals` are
        whom it may try instead."""
        if not self._links.disconnect(peer_id, reason, notify=notify, now=now, referrals=referrals):
            return
        self._on_link_down(peer_id, detail, reason, now)

    def _on_link_down(
        self, peer_id: PeerId, detail: str, reason: CloseReason | None, now: float
    ) -> None:
        """Let every machine know that the link with `peer_id` has ended."""
        overlay = self._overlay
        self.state_version += 1
        handlers: tuple[Callable[[], list[Effect]], ...] = (
            lambda: overlay.antientropy.on_link_down(peer_id, now),
            lambda: overlay.membership.on_link_down(peer_id, detail, reason, now),
            lambda: overlay.dissemination.on_link_down(peer_id, now),
        )
        for handler in handlers:
            try:
                effects = handler()
            except Exception as error:  # noqa: BLE001  the others hear of it nevertheless
                self.contain_error(error, None, now)
            else:
                self.apply_effects(effects, now)

    def _emit_peer_state(
        self, peer_id: PeerId, previous: PeerState | None, reason: str, now: float
    ) -> None:
        peer = self._overlay.peers.get(peer_id)
        if peer is not None:
            timeout_s = self.config.peer_timeout
            info = peer_info(peer, self._links, self._overlay, timeout_s, now)
            self.events.append(PeerStateChanged(info, previous, reason))

    def _apply_conduct(self, effect: CountDrop | Penalize | Credit, now: float) -> None:
        match effect:
            case CountDrop(peer, refusal):
                self.drops[refusal] += 1
                if refusal is DropReason.BAD_SIGNATURE:
                    self.penalize(peer, Offense.BAD_SIGNATURE, 1, now)
            case Penalize(peer, offense, count):
                self.penalize(peer, offense, count, now)
            case Credit(peer, count):
                self._links.peer_limits.credit_promises(peer, count, now)
            case _:
                assert_never(effect)

    def penalize(self, peer_id: PeerId, offense: Offense, count: float, now: float) -> None:
        """Count an offense of a peer, and do what that comes to."""
        self._on_standing_changed(
            self._links.peer_limits.penalize(peer_id, offense, count, now), now
        )

    def charge_work(self, peer_id: PeerId, units: int, now: float) -> None:
        """What a peer said cost us so many units of work."""
        self._on_standing_changed(self._links.peer_limits.charge_work(peer_id, units, now), now)

    def _on_standing_changed(self, change: StandingChanged | None, now: float) -> None:
        if change is None:
            return
        self.events.append(change)
        if change.standing is Standing.EXPELLED:
            detail = f"misconduct: {change.reason}"
            self.disconnect(change.peer, detail, CloseReason.MISCONDUCT, notify=True, now=now)
            self._transients.close(change.peer, CloseReason.MISCONDUCT, now)

    def _bump_epoch(self, epoch: int, now: float) -> None:
        """Outrank a record of our identity that is not ours: a new epoch, new streams, new links."""
        self.flush_batch(now)
        self._publisher.start_epoch(epoch + 1)
        self.state_version += 1
        self._overlay.membership.local_record.start_epoch(epoch + 1)
        for peer_id in list(self._links):
            self.disconnect(peer_id, "new epoch", CloseReason.REDUNDANT, notify=True, now=now)
        for link in self._transients.all():
            self._transients.close(link.peer_id, CloseReason.REDUNDANT, now)

    # --- short sessions -------------------------------------------------------------------------

    def send_transient(self, peer_id: PeerId, pending: PendingSend, now: float) -> bool:
        """Say something to a member that is not linked, over a short session, which is opened first if
        need be; False: there is no room for one, or nobody knows where the member is."""
        link = self._transients.usable(peer_id, now)
        if link is not None:
            self._enqueue(link, pending.plaintext, now)
            self._emit_sent(pending, 1)
            return True
        is_opening = self._transients.is_opening(peer_id)
        member = self._overlay.membership.members.get(peer_id)
        dialer = self._overlay.membership.dialer
        address = dialer.address_of(member) if member is not None else None
        if not is_opening:
            if address is None or not self._handshakes.can_dial:
                return False
            if not self._transients.make_room(peer_id, now):
                return False
            if not self._handshakes.is_dialing(peer_id):  # else what comes of that is awaited
                self._dial_transient(address, peer_id, now)
        if not self._transients.enqueue_pending(peer_id, pending):
            self._emit_sent(pending, 0)
        return True

    def on_transient_open(self, link: Link, now: float) -> None:
        """A session with a peer is open: what waited for it goes."""
        for pending in self._transients.pop_pending(link.peer_id):
            self._enqueue(link, pending.plaintext, now)
            self._emit_sent(pending, 1)

    def on_dial_ended(self, peer_id: PeerId, now: float) -> None:
        """A dial for a link with a peer came to nothing: what waits for it may open a short session."""
        member = self._overlay.membership.members.get(peer_id)
        if not self._transients.is_opening(peer_id) or self._handshakes.is_dialing(peer_id):
            return
        dialer = self._overlay.membership.dialer
        address = dialer.address_of(member) if member is not None else None
        if address is None or not self._handshakes.can_dial:
            self.on_transient_failed(peer_id)
            return
        self._dial_transient(address, peer_id, now)

    def _dial_transient(self, address: Address, peer_id: PeerId, now: float) -> None:
        record = self._overlay.membership.record
        self._handshakes.dial(address, peer_id, record, now, is_transient=True)

    def on_transient_failed(self, peer_id: PeerId) -> None:
        """No short session came of a dial."""
        for failed in self._transients.fail_pending(peer_id):
            self._emit_sent(failed, 0)

    def _emit_sent(self, pending: PendingSend, peers: int) -> None:
        if pending.message is not None:
            self.events.append(MessageSent(pending.message, peers))

    # --- what we say ----------------------------------------------------------------------------

    def flush_batch(self, now: float) -> None:
        """Sign what is in the bundle and let it go."""
        if messages := self._publisher.take_batch():
            self.publish(messages, 0, now)

    def publish(self, messages: list[Message], trace_share: int, now: float) -> None:
        """Sign messages of ours as one rumor and push it."""
        rumor = self._publisher.sign(messages, trace_share)
        self._links.unacked.track((rumor.epoch, rumor.first), len(messages), now)
        peers = 0
        for effect in self._overlay.dissemination.broadcast(rumor, now):
            if isinstance(effect, Send) and isinstance(effect.message, (Rumors, Offer, Announce)):
                peers += self.send_to_peers(effect, now)
            else:
                self.apply_effects([effect], now)
        self.events += [MessageSent(message, peers) for message in messages]

    # --- time -----------------------------------------------------------------------------------

    def emit_standing_changes(self, now: float) -> None:
        """Tell the application whose offenses have decayed."""
        self.events += self._links.peer_limits.update_standings(now)

    def emit_drop_counts(self) -> None:
        """Tell the application what was refused since the last call."""
        for reason, count in self.drops.items():
            if count > self._drops_emitted[reason]:
                source = self.drop_sources.pop(reason, None)
                self.events.append(
                    DatagramDropped(reason, count - self._drops_emitted[reason], source)
                )
                self._drops_emitted[reason] = count


def _is_iwant(plaintext: bytes | codec.ChunkedMessage) -> bool:
    return isinstance(plaintext, bytes) and plaintext[0] == Kind.IWANT
