"""The sans-IO node: composes links and machines, and is asked and driven by whoever does the I/O.

Bytes and the time go in (`receive`, `advance`, the verbs); bytes, events and the next wake-up time
come out (`datagrams_to_send`, `events`, `deadline`). Whoever drives it calls, after anything that
went in, `datagrams_to_send` and `events`, and `advance` once `deadline` is reached.

What must stay true:

- `receive` never raises, whatever the bytes; each refusal is counted under one `DropReason`.
- An error of this program while it serves one peer ends the link with that peer, is counted and told
  (`InternalErrorContained`), and costs no other peer its turn.
- It decides nothing of the protocol: handshakes are the link's, everything among many peers is a
  machine's. `reception` finds the link of a datagram, `dispatcher` the machine of a message.
- `now` never goes back, and is the only time there is.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Final

from grapevine_proto import stats
from grapevine_proto.config.node import LIVE_FIELDS, NodeConfig
from grapevine_proto.config.validate import BytesLike, payload_bytes
from grapevine_proto.crypto.identity import Identity
from grapevine_proto.errors import (
    ConfigError,
    Dropped,
    MessageTooLarge,
    NotRunning,
    UnknownPeer,
)
from grapevine_proto.events import Event, MemberInfo, MessageSent, PeerInfo, Round, Stats, Trace
from grapevine_proto.ids import Address, MessageId, PeerId
from grapevine_proto.overlay.effects import Send
from grapevine_proto.overlay.overlay import Overlay
from grapevine_proto.overlay.store.message_store import SavedStream
from grapevine_proto.publisher import Publisher
from grapevine_proto.reception import PacketReceiver
from grapevine_proto.routing import MessageDispatcher
from grapevine_proto.transport.handshakes import Handshakes
from grapevine_proto.transport.link.link import Link
from grapevine_proto.transport.link_table import LinkTable
from grapevine_proto.transport.session.session import EstablishedSession
from grapevine_proto.transport.transient_sessions import PendingSend, TransientSessions
from grapevine_proto.wire import codec
from grapevine_proto.wire.messages import Close, CloseReason, DirectMessage, Pause
from grapevine_proto.wire.signed import PeerRecord, is_pulled

__all__ = ["Engine", "NodeState", "SavedStream"]

PAUSE_MS: Final = 1000  # the most that a peer grants
PAUSE_INTERVAL_S: Final = 0.5  # between requests: one may be lost without a gap
ERROR_PAUSE_S: Final = 0.5  # before what had a fault is tried again
REAP_INTERVAL_S: Final = 60.0  # between looks for accounts that say nothing
TICK_INTERVAL_S: Final = 1.0  # for what is told at most once a second, and for the age of sessions


@dataclass(frozen=True, slots=True)
class NodeState:
    """What a node keeps over a restart. `epoch` is the one that this run uses; `seed` is the secret
    half of its identity."""

    seed: bytes = field(repr=False)
    epoch: int
    streams: tuple[SavedStream, ...] = ()
    peers: tuple[tuple[PeerId, Address], ...] = ()


class Engine:
    """One gossip node. See the module for who calls what."""

    def __init__(
        self,
        config: NodeConfig,
        state: NodeState,
        *,
        address: Address,
        rng: random.Random,
        entropy: Callable[[int], bytes],
        now: float,
    ) -> None:
        if not config.keys:
            raise ConfigError("keys", "no cluster key: without one no node starts")
        self.config = config
        self._identity = Identity(state.seed)
        self._overlay = overlay = Overlay(
            config,
            self._identity,
            state.epoch,
            address,
            rng,
            now,
            streams=state.streams,
            known_addresses=state.peers,
        )
        self._peers, self._store = overlay.peers, overlay.store
        self._membership, self._tracing = overlay.membership, overlay.tracing
        self._dissemination, self._antientropy = overlay.dissemination, overlay.antientropy
        self._signatures = overlay.signatures
        self._links = LinkTable(config, self.peer_id, entropy=entropy)
        self._handshakes = Handshakes(
            config,
            self._identity,
            is_expelled=self._links.peer_limits.is_expelled,
            rng=rng,
            entropy=entropy,
            now=now,
        )
        self._transients = TransientSessions(config, self._links)
        self._publisher = Publisher(config, self._identity, state.epoch, self._links)
        self._dispatcher = MessageDispatcher(
            config, self._links, self._transients, self._handshakes, overlay, self._publisher
        )
        self._receiver = PacketReceiver(
            self._links, self._transients, self._handshakes, overlay, self._dispatcher
        )
        self._datagram_counters = stats.DatagramCounters()
        self._tick_at = self._reap_at = now
        self._pause_at = math.inf  # when to ask peers again to hold back
        self._overlay_retry_at = -math.inf  # not before: one of them had a fault

    # --- in: bytes ------------------------------------------------------------------------------

    def receive(self, datagram: bytes, source: Address, now: float) -> None:
        """Take in one datagram. Never raises; what is refused is counted."""
        self._datagram_counters.datagrams_in += 1
        self._datagram_counters.bytes_in += len(datagram)
        try:
            self._receiver.receive(datagram, source, now)
        except Dropped as refused:
            self._dispatcher.drops[refused.reason] += 1
            self._dispatcher.drop_sources[refused.reason] = source
        except Exception as error:  # noqa: BLE001
            self._contain_datagram_error(error, datagram, now)

    def _contain_datagram_error(self, error: Exception, datagram: bytes, now: float) -> None:
        """What is served by the session, or the dial, that this datagram is of ends; nothing else."""
        packet = codec.decode_packet(datagram)
        link = None
        if isinstance(packet, codec.Data):
            link = self._links.find_by_session(packet.session_id)
            link = link or self._links.find_closed(packet.session_id)
        elif isinstance(packet, codec.Challenge | codec.Welcome):
            self._run_contained(
                partial(self._dispatcher.end_dial, packet.session_id, None, now), now
            )
        self._dispatcher.contain_error(error, link, now)

    def _run_contained(self, step: Callable[[], object], now: float) -> bool:
        """Take a step that is of no peer in particular; whether it ended without a fault."""
        try:
            step()
        except Exception as error:  # noqa: BLE001
            self._dispatcher.contain_error(error, None, now)
            return False
        return True

    def adopt_session(self, established: EstablishedSession, now: float) -> None:
        """Take a session that was made elsewhere, as if its handshake had just ended here: for a
        simulation that begins with nodes linked."""
        self._receiver.establish(established, now, wants_room=False)

    # --- in: verbs ------------------------------------------------------------------------------

    def dial(self, address: Address, now: float) -> None:
        """Knock at `address`; what becomes of it is told by events."""
        self._dispatcher.apply_effects(self._membership.dialer.dial_now(address, now), now)

    def forget(self, peer_id: PeerId) -> None:
        """Strike a peer that is gone out of the tables. Raises UnknownPeer where it is not gone."""
        self._membership.remove_peer(peer_id)

    def broadcast(self, payload: BytesLike, now: float) -> MessageId:
        """Accept `payload` for everybody; with nobody there it is held, and given to who comes in time.

        It shares a signature with what else is said before `datagrams_to_send` is next called;
        MessageSent comes then. Raises InvalidArgument, MessageTooLarge, NotRunning.
        """
        payload = self._check_payload(payload)
        is_alone = is_pulled(len(payload))  # or small ones in its bundle would wait to be asked for
        if is_alone or not self._publisher.fits_batch(payload):
            self._dispatcher.flush_batch(now)
        message = self._publisher.next_message(payload, now)
        if is_alone:
            self._dispatcher.publish([message], 0, now)
        else:
            self._publisher.enqueue(message, now)
        return message.id

    def trace(self, payload: BytesLike, now: float) -> MessageId:
        """Accept `payload` for everybody as `broadcast` does, and ask who has it to say so: what
        comes of that is told by TraceUpdated and `traces`. Raises InvalidArgument, MessageTooLarge,
        NotRunning."""
        payload = self._check_payload(payload)
        self._dispatcher.flush_batch(now)
        message = self._publisher.next_message(payload, now)
        trace_share = self._tracing.start_trace(message.id, now)
        self._dispatcher.publish([message], trace_share, now)
        return message.id

    def send(self, peer: PeerId, payload: BytesLike, now: float) -> MessageId:
        """Say `payload` to one member alone: over its link, or a short session made for it. MessageSent
        comes when it is on its way, or when nobody answered, to 0 peers.

        Raises InvalidArgument, MessageTooLarge, NotRunning, UnknownPeer.
        """
        payload = self._check_payload(payload)
        message = self._publisher.next_direct_message(peer, payload, now)
        direct = DirectMessage(message.id.sequence, payload)
        if peer in self._links:
            self._dispatcher.events.append(MessageSent(message, 1))
            self._dispatcher.send_to_peers(Send((peer,), direct), now)
        elif not self._dispatcher.send_transient(
            peer, PendingSend(codec.encode_message(direct), message), now
        ):
            self._publisher.undo_direct_message()
            raise UnknownPeer(self._unreachable_reason(peer))
        return message.id

    def _unreachable_reason(self, peer: PeerId) -> str:
        member = self._membership.members.get(peer)
        if member is None or member.address is None:
            return f"no member {peer.short} with an address is known here"
        return f"no room for a session with {peer.short}: {len(self._transients)} short ones are in use"

    def _check_payload(self, payload: BytesLike) -> bytes:
        """`payload` as immutable bytes of a size that can be sent."""
        payload = payload_bytes(payload)
        if self._links.is_leaving or self.stop_reason:
            raise NotRunning("the node is leaving")
        limit = self.config.max_message_size
        if len(payload) > limit:
            raise MessageTooLarge(len(payload), limit)
        return payload

    @property
    def can_broadcast(self) -> bool:
        """Whether a small broadcast now finds room with every peer, but for those that have had none for
        a second while others have; or nobody is there at all."""
        return self.can_broadcast_bytes(0)

    def can_broadcast_bytes(self, size_bytes: int) -> bool:
        """The same for a payload of so many bytes: a large one may have to wait for another."""
        if is_pulled(size_bytes):  # pulled as peers ask for it, which bounds it as queues do others
            return self._dissemination.can_announce(size_bytes) and self.can_broadcast
        return self._publisher.has_room_for(size_bytes)

    def start_round(self, now: float) -> None:
        """Begin an anti-entropy round with some peers now."""
        self._dispatcher.apply_effects(self._antientropy.start_rounds(now), now)

    def on_resolved(self, name: str, addresses: tuple[Address, ...], now: float) -> None:
        """The host name `name` among the bootstrap peers stands for `addresses`; none: it does not
        resolve, which DialFailed tells."""
        self._dispatcher.apply_effects(
            self._membership.dialer.on_resolved(name, addresses, now), now
        )

    def on_emsgsize(self, size_bytes: int, address: Address, now: float) -> None:
        """The system would not send a datagram of this size to `address` (EMSGSIZE)."""
        link = self._links.find_by_address(address)
        if link is not None:
            link.path.on_emsgsize(size_bytes, now)
            self._links.mark_dirty(link)

    def on_unsendable(self, address: Address, reason: str, now: float) -> None:
        """Nothing can be sent to `address` from here: dials of it fail at once, for the reason `reason`."""
        for session_id in self._handshakes.sessions_dialing(address):
            self._dispatcher.end_dial(session_id, reason, now)

    def on_addresses_changed(self, addresses: tuple[Address, ...], now: float) -> bool:
        """This node may be dialed at `addresses` (at most four, the best first) from now on. Linked peers
        are told where that changes anything; an address that settings name stays. Whether it did."""
        before = self.record
        self._dispatcher.apply_effects(self._membership.set_addresses(addresses), now)
        return self.record is not before

    def on_lag(self, lag_s: float, now: float) -> None:
        """The driver's loop was late by so much; told to peers as our load."""
        self._membership.on_lag(lag_s, now)

    def pause(self, now: float) -> None:
        """Our application is behind: ask peers to hold back rumors until `resume`, and ask for no repair."""
        self._dispatcher.is_paused = True
        self._pause_at = now

    def resume(self, now: float) -> None:
        """The application has caught up with most of it: peers go on."""
        self._dispatcher.is_paused = False
        self._pause_at = math.inf
        self._dispatcher.send_to_peers(Send(tuple(self._links), Pause(0)), now)

    def leave(self, now: float) -> None:
        """Accept nothing more; what is queued still goes, then word to every peer that we leave."""
        if not self._links.is_leaving:
            self._dispatcher.flush_batch(now)
            self._handshakes.cancel_dials()
            left = codec.encode_message(self._membership.leave())
            self._links.close_all([left, codec.encode_message(Close(CloseReason.LEAVING))])

    @property
    def unacknowledged(self) -> int:
        """How many of our broadcasts nobody is known to have, counted from when they are accepted."""
        return self._links.unacked.count + self._publisher.pending

    @property
    def has_peers(self) -> bool:
        """Whether a peer is linked now."""
        return len(self._links) > 0

    @property
    def is_drained(self) -> bool:
        """After `leave`: whether everything queued has gone, and every peer has been told."""
        return self._links.is_drained

    def reconfigure(self, config: NodeConfig, now: float) -> tuple[str, ...]:
        """Take over what can be changed while running; gives the names of the fields that need a
        restart, which stay as they are."""
        fixed = tuple(
            each.name
            for each in fields(NodeConfig)
            if each.name not in LIVE_FIELDS
            and getattr(config, each.name) != getattr(self.config, each.name)
        )
        config = config.replace(**{name: getattr(self.config, name) for name in fixed})
        if not config.keys:
            raise ConfigError("keys", "no cluster key: without one no node runs")
        self.config = self._dispatcher.config = config
        dispatcher = self._dispatcher
        self._publisher.reconfigure(config)
        self._handshakes.reconfigure(config, now)
        self._signatures.reconfigure(config)
        dispatcher.apply_effects(self._dissemination.reconfigure(config, now), now)
        self._antientropy.reconfigure(config, now)
        self._links.reconfigure(config, now)
        self._transients.reconfigure(config)
        for peer_id, link in list(self._links.items()):
            if link.session.key not in config.keys:
                dispatcher.disconnect(
                    peer_id, "key removed", CloseReason.KEY_REMOVED, notify=True, now=now
                )
        for link in self._transients.all():
            if link.session.key not in config.keys:
                self._transients.close(link.peer_id, CloseReason.KEY_REMOVED, now)
            elif link.peer_id in config.denied:
                self._transients.close(link.peer_id, CloseReason.MISCONDUCT, now)
        dispatcher.apply_effects(self._membership.reconfigure(config, now), now)
        return fixed

    # --- time -----------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        """When to call `advance` next, in the seconds of `now`; math.inf: never."""
        return min(
            self._tick_at,
            self._pause_at,
            max(self._overlay.deadline, self._overlay_retry_at),
            self._handshakes.deadline,
            self._publisher.deadline,
            self._links.deadline,
        )

    def advance(self, now: float) -> None:
        """Time passed: do what is due."""
        self._run_contained(lambda: self._expire_dials(now), now)
        if now >= self._overlay_retry_at:
            self._advance_overlay(now)
        self._run_contained(lambda: self._links.advance(now), now)
        if now >= self._pause_at:
            self._pause_at = now + PAUSE_INTERVAL_S
            self._dispatcher.send_to_peers(Send(tuple(self._links), Pause(PAUSE_MS)), now)
        if now >= self._tick_at:
            self._tick_at = now + TICK_INTERVAL_S
            if now >= self._reap_at:
                self._reap_at = now + REAP_INTERVAL_S
                self._links.peer_limits.reap(now)
            self._tick(now)

    def _expire_dials(self, now: float) -> None:
        self._handshakes.advance(now)
        for session_id in self._handshakes.expired_dials(now):
            self._dispatcher.end_dial(session_id, None, now)

    def _advance_overlay(self, now: float) -> None:
        """Each machine has its turn, whatever becomes of the others; one with a fault is not asked again
        at once, for its deadline may be what it was."""
        for component in (
            self._membership,
            self._dissemination,
            self._antientropy,
            self._tracing,
        ):
            if component is self._membership and self._links.is_leaving:
                continue
            try:
                effects = component.advance(now)
            except Exception as error:  # noqa: BLE001
                self._dispatcher.contain_error(error, None, now)
                self._overlay_retry_at = now + ERROR_PAUSE_S
            else:
                self._dispatcher.apply_effects(effects, now)

    def _tick(self, now: float) -> None:
        links, dispatcher = self._links, self._dispatcher
        for link in list(links.values()):
            try:
                self._maintain(link, now)
            except Exception as error:  # noqa: BLE001  of this link alone
                dispatcher.contain_error(error, link, now)
        for link in self._transients.all():
            try:
                if link.needs_rekey(now):
                    self._handshakes.rekey(link, self.record, now, is_transient=True)
            except Exception as error:  # noqa: BLE001
                dispatcher.contain_error(error, link, now)
        self._transients.advance(now)
        links.expire_closed(now)
        dispatcher.emit_standing_changes(now)
        dispatcher.emit_drop_counts()

    def _maintain(self, link: Link, now: float) -> None:
        links, dispatcher = self._links, self._dispatcher
        links.maintain(link, now)
        if link.is_expired(now):
            dispatcher.disconnect(link.peer_id, "session expired", None, notify=False, now=now)
        elif link.needs_rekey(now):
            self._handshakes.rekey(link, self.record, now)
        event = links.peer_limits.take_rate_limited_event(link.peer_id, now)
        if event is not None:
            dispatcher.events.append(event)

    # --- out ------------------------------------------------------------------------------------

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Address]]:
        """What may go out now, each with where to. What is handed out is gone from here."""
        links, dispatcher = self._links, self._dispatcher
        links.enqueue_raw(self._handshakes.transmit(now))
        errors, self._handshakes.internal_errors = self._handshakes.internal_errors, []
        for dial, error in errors:
            self._run_contained(partial(dispatcher.end_dial, dial.session_id, None, now), now)
            dispatcher.contain_error(error, None, now)
        is_flushed = self._run_contained(lambda: self._flush_due(now), now)
        links.hold_open = self._dissemination.has_unclaimed
        datagrams = links.collect_datagrams(now)
        while dispatcher.contain_link_errors(now):  # what is said of that goes in the same turn
            datagrams += links.collect_datagrams(now)
        if not is_flushed or not self._run_contained(
            lambda: self._publisher.update_deadline(now), now
        ):
            self._publisher.deadline = now + ERROR_PAUSE_S
        self._datagram_counters.datagrams_out += len(datagrams)
        self._datagram_counters.bytes_out += sum(len(datagram) for datagram, _ in datagrams)
        return datagrams

    def _flush_due(self, now: float) -> None:
        if self._publisher.is_flush_due(now):
            self._dispatcher.flush_batch(now)

    def events(self) -> list[Event]:
        """What happened since the last call, in order."""
        events, self._dispatcher.events = self._dispatcher.events, []
        return events

    # --- look -----------------------------------------------------------------------------------

    @property
    def peer_id(self) -> PeerId:
        return self._identity.peer_id

    @property
    def epoch(self) -> int:
        """The run that this is; it may rise while it goes on."""
        return self._publisher.epoch

    @property
    def stop_reason(self) -> str | None:
        """Why this node must not go on."""
        return self._dispatcher.stop_reason

    @property
    def record(self) -> PeerRecord:
        """What this node says of itself."""
        return self._membership.record

    def peers(self, now: float) -> list[PeerInfo]:
        """All peers, linked or not."""
        timeout_s = self.config.peer_timeout
        return [
            stats.peer_info(peer, self._links, self._overlay, timeout_s, now)
            for peer in self._peers
        ]

    def members(self) -> list[MemberInfo]:
        """All members of the cluster that are known, but this node."""
        return [member.to_info() for member in self._membership.members]

    def peer_at(self, address: Address) -> PeerId | None:
        """The member that a session proved to be at `address`, of several the last one; None: there is
        none. Where a record claims to be counts for nothing: whoever claims an address would be sent
        what is meant for another."""
        link = self._links.find_by_address(address)
        if link is not None:
            return link.peer_id
        proved = [
            each for each in self._peers if each.is_address_validated and each.address == address
        ]
        last = max(proved, key=lambda peer: peer.last_heard_at, default=None)
        return None if last is None else last.peer_id

    def rounds(self) -> list[Round]:
        """The latest anti-entropy rounds that this node began, the oldest first."""
        return list(self._antientropy.rounds)

    def traces(self) -> list[Trace]:
        """The latest traced messages of this node and how far they got, the oldest first."""
        return self._tracing.reports()

    def stats(self) -> Stats:
        """Counters and gauges."""
        return stats.stats(
            self._datagram_counters,
            self._links,
            self._transients,
            self._handshakes,
            self._overlay,
            self._dispatcher.drops,
            delivered=self._dispatcher.delivered,
            broadcast=self._publisher.broadcasts,
        )

    @property
    def duplicates(self) -> int:
        """Copies of messages beyond the first: one of `stats`, at no cost."""
        return self._dissemination.duplicates

    # --- kept -----------------------------------------------------------------------------------

    def snapshot(self, now: float, unhandled: Iterable[MessageId] = ()) -> NodeState:
        """What to keep for the next run, as of now. `unhandled` broadcasts count as not seen: a restart
        asks for them again."""
        known = self._membership.dialer.known_addresses()
        return NodeState(
            self._identity.seed, self.epoch, self._store.snapshot(now, unhandled), known
        )

    @property
    def state_version(self) -> int:
        """Grows whenever `saved` would say something new."""
        return self._store.version + self._dispatcher.state_version
