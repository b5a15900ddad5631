"""The sans-IO node: composes links and machines, and is asked and driven by whoever does the I/O.

Bytes and the time go in (`receive`, `advance`, the verbs); bytes, events and the next wake-up time
come out (`datagrams_to_send`, `events`, `deadline`). Whoever drives it calls, after anything that
went in, `datagrams_to_send` and `events`, and `advance` once `deadline` is reached.

What must stay true:

- `receive` never raises, whatever the bytes; each refusal is counted under one `DropReason`.
- An error of this program while it serves one peer ends the link with that peer, is counted and told
  (`FaultContained`), and costs no other peer its turn.
- It decides nothing of the protocol: handshakes are the link's, everything among many peers is a
  machine's. `reception` finds the link of a datagram, `routing` the machine of a message.
- `now` never goes back, and is the only time there is.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Final

from grapevine_proto import codec, looks
from grapevine_proto.checks import BytesLike, payload_bytes
from grapevine_proto.config import LIVE_FIELDS, NodeConfig
from grapevine_proto.errors import (
    ConfigError,
    MessageTooLarge,
    NotRunning,
    Refused,
    UnknownPeer,
)
from grapevine_proto.events import Event, MemberInfo, MessageSent, PeerInfo, Round, Stats, Trace
from grapevine_proto.handshakes import Handshakes
from grapevine_proto.identity import Identity
from grapevine_proto.ids import Address, MessageId, PeerId
from grapevine_proto.link.link import Link
from grapevine_proto.link.session import Established
from grapevine_proto.links import Links
from grapevine_proto.machines import Machines
from grapevine_proto.messages import Close, CloseReason, Pause, Private
from grapevine_proto.overlay.dissemination.pulls import is_pulled
from grapevine_proto.overlay.effects import Send
from grapevine_proto.overlay.store import SavedStream
from grapevine_proto.reception import Reception
from grapevine_proto.routing import Routing
from grapevine_proto.shorts import Shorts, Waiting
from grapevine_proto.signed import Record
from grapevine_proto.voice import Voice

__all__ = ["Engine", "Saved", "SavedStream"]

PAUSE_MS: Final = 1000  # the most that a peer grants
PAUSE_INTERVAL_S: Final = 0.5  # between requests: one may be lost without a gap
FAULT_PAUSE_S: Final = 0.5  # before what had a fault is tried again
REAP_S: Final = 60.0  # between looks for accounts that say nothing
TICK_S: Final = 1.0  # for what is told at most once a second, and for the age of sessions


@dataclass(frozen=True, slots=True)
class Saved:
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
        saved: Saved,
        *,
        address: Address,
        rng: random.Random,
        entropy: Callable[[int], bytes],
        now: float,
    ) -> None:
        if not config.keys:
            raise ConfigError("keys", "no cluster key: without one no node starts")
        self.config = config
        self._identity = Identity(saved.seed)
        self._machines = machines = Machines(
            config,
            self._identity,
            saved.epoch,
            address,
            rng,
            now,
            streams=saved.streams,
            known=saved.peers,
        )
        self._peers, self._store = machines.peers, machines.store
        self._membership, self._tracing = machines.membership, machines.tracing
        self._dissemination, self._antientropy = machines.dissemination, machines.antientropy
        self._signatures = machines.signatures
        self._links = Links(config, self.peer_id, entropy=entropy)
        self._handshakes = Handshakes(
            config,
            self._identity,
            refuses=self._links.accounts.refuses,
            rng=rng,
            entropy=entropy,
            now=now,
        )
        self._shorts = Shorts(config, self._links)
        self._voice = Voice(config, self._identity, saved.epoch, self._links)
        self._routing = Routing(
            config, self._links, self._shorts, self._handshakes, machines, self._voice
        )
        self._reception = Reception(
            self._links, self._shorts, self._handshakes, machines, self._routing
        )
        self._traffic = looks.Traffic()
        self._tick_at = self._reap_at = now
        self._pause_at = math.inf  # when to ask peers again to hold back
        self._machines_at = -math.inf  # not before: one of them had a fault

    # --- in: bytes ------------------------------------------------------------------------------

    def receive(self, datagram: bytes, source: Address, now: float) -> None:
        """Take in one datagram. Never raises; what is refused is counted."""
        self._traffic.datagrams_in += 1
        self._traffic.bytes_in += len(datagram)
        try:
            self._reception.receive(datagram, source, now)
        except Refused as refused:
            self._routing.drops[refused.reason] += 1
            self._routing.drop_sources[refused.reason] = source
        except Exception as fault:  # noqa: BLE001
            self._contain_datagram(fault, datagram, now)

    def _contain_datagram(self, fault: Exception, datagram: bytes, now: float) -> None:
        """What is served by the session, or the dial, that this datagram is of ends; nothing else."""
        packet = codec.decode_packet(datagram)
        link = None
        if isinstance(packet, codec.Data):
            link = self._links.with_session(packet.session_id)
            link = link or self._links.parting_with_session(packet.session_id)
        elif isinstance(packet, codec.Challenge | codec.Welcome):
            self._guarded(partial(self._routing.end_dial, packet.session_id, None, now), now)
        self._routing.contain(fault, link, now)

    def _guarded(self, step: Callable[[], object], now: float) -> bool:
        """Take a step that is of no peer in particular; whether it ended without a fault."""
        try:
            step()
        except Exception as fault:  # noqa: BLE001
            self._routing.contain(fault, None, now)
            return False
        return True

    def take(self, established: Established, now: float) -> None:
        """Take a session that was made elsewhere, as if its handshake had just ended here: for a
        simulation that begins with nodes linked."""
        self._reception.establish(established, now, is_asked=False)

    # --- in: verbs ------------------------------------------------------------------------------

    def dial(self, address: Address, now: float) -> None:
        """Knock at `address`; what becomes of it is told by events."""
        self._routing.perform(self._membership.dialling.want(address, now), now)

    def forget(self, peer_id: PeerId) -> None:
        """Strike a peer that is gone out of the tables. Raises UnknownPeer where it is not gone."""
        self._membership.forget(peer_id)

    def broadcast(self, payload: BytesLike, now: float) -> MessageId:
        """Accept `payload` for everybody; with nobody there it is held, and given to who comes in time.

        It shares a signature with what else is said before `datagrams_to_send` is next called;
        MessageSent comes then. Raises InvalidArgument, MessageTooLarge, NotRunning.
        """
        payload = self._checked(payload)
        is_alone = is_pulled(len(payload))  # or small ones in its bundle would wait to be asked for
        if is_alone or not self._voice.fits(payload):
            self._routing.close_bundle(now)
        message = self._voice.number(payload, now)
        if is_alone:
            self._routing.say([message], 0, now)
        else:
            self._voice.bundle(message, now)
        return message.id

    def trace(self, payload: BytesLike, now: float) -> MessageId:
        """Accept `payload` for everybody as `broadcast` does, and ask who has it to say so: what
        comes of that is told by TraceUpdated and `traces`. Raises InvalidArgument, MessageTooLarge,
        NotRunning."""
        payload = self._checked(payload)
        self._routing.close_bundle(now)
        message = self._voice.number(payload, now)
        share = self._tracing.begin(message.id, now)
        self._routing.say([message], share, now)
        return message.id

    def send(self, peer: PeerId, payload: BytesLike, now: float) -> MessageId:
        """Say `payload` to one member alone: over its link, or a short session made for it. MessageSent
        comes when it is on its way, or when nobody answered, to 0 peers.

        Raises InvalidArgument, MessageTooLarge, NotRunning, UnknownPeer.
        """
        payload = self._checked(payload)
        message = self._voice.number_private(peer, payload, now)
        private = Private(message.id.sequence, payload)
        if peer in self._links:
            self._routing.events.append(MessageSent(message, 1))
            self._routing.send_all(Send((peer,), private), now)
        elif not self._routing.say_briefly(
            peer, Waiting(codec.encode_message(private), message), now
        ):
            self._voice.take_back_private()
            raise UnknownPeer(self._why_not(peer))
        return message.id

    def _why_not(self, peer: PeerId) -> str:
        member = self._membership.members.get(peer)
        if member is None or member.address is None:
            return f"no member {peer.short} with an address is known here"
        return f"no room for a session with {peer.short}: {len(self._shorts)} short ones are in use"

    def _checked(self, payload: BytesLike) -> bytes:
        """`payload` as immutable bytes of a size that can be sent."""
        payload = payload_bytes(payload)
        if self._links.is_leaving or self.stopped:
            raise NotRunning("the node is leaving")
        limit = self.config.max_message_size
        if len(payload) > limit:
            raise MessageTooLarge(len(payload), limit)
        return payload

    @property
    def has_room(self) -> bool:
        """Whether a small broadcast now finds room with every peer, but for those that have had none for
        a second while others have; or nobody is there at all."""
        return self.has_room_for(0)

    def has_room_for(self, size_bytes: int) -> bool:
        """The same for a payload of so many bytes: a large one may have to wait for another."""
        if is_pulled(size_bytes):  # pulled as peers ask for it, which bounds it as queues do others
            return self._dissemination.has_room_for(size_bytes) and self.has_room
        return self._voice.has_room_for(size_bytes)

    def start_round(self, now: float) -> None:
        """Begin an anti-entropy round with some peers now."""
        self._routing.perform(self._antientropy.start_rounds(now), now)

    def resolved(self, name: str, addresses: tuple[Address, ...], now: float) -> None:
        """The host name `name` among the bootstrap peers stands for `addresses`; none: it does not
        resolve, which DialFailed tells."""
        self._routing.perform(self._membership.dialling.resolved(name, addresses, now), now)

    def refused(self, size_bytes: int, address: Address, now: float) -> None:
        """The system would not send a datagram of this size to `address` (EMSGSIZE)."""
        link = self._links.at(address)
        if link is not None:
            link.path.refused(size_bytes, now)
            self._links.touch(link)

    def unsendable(self, address: Address, why: str, now: float) -> None:
        """Nothing can be sent to `address` from here: dials of it fail at once, for the reason `why`."""
        for session_id in self._handshakes.dials_of(address):
            self._routing.end_dial(session_id, why, now)

    def moved(self, addresses: tuple[Address, ...], now: float) -> bool:
        """This node may be dialed at `addresses` (at most four, the best first) from now on. Linked peers
        are told where that changes anything; an address that settings name stays. Whether it did."""
        before = self.record
        self._routing.perform(self._membership.move(addresses), now)
        return self.record is not before

    def lagged(self, lag_s: float, now: float) -> None:
        """The driver's loop was late by so much; told to peers as our load."""
        self._membership.lagged(lag_s, now)

    def pause(self, now: float) -> None:
        """Our application is behind: ask peers to hold back rumors until `resume`, and ask for no repair."""
        self._routing.is_paused = True
        self._pause_at = now

    def resume(self, now: float) -> None:
        """The application has caught up with most of it: peers go on."""
        self._routing.is_paused = False
        self._pause_at = math.inf
        self._routing.send_all(Send(tuple(self._links), Pause(0)), now)

    def leave(self, now: float) -> None:
        """Accept nothing more; what is queued still goes, then word to every peer that we leave."""
        if not self._links.is_leaving:
            self._routing.close_bundle(now)
            self._handshakes.clear()
            left = codec.encode_message(self._membership.leave())
            self._links.part_from_all([left, codec.encode_message(Close(CloseReason.LEAVING))])

    @property
    def untaken(self) -> int:
        """How many of our broadcasts nobody is known to have, counted from when they are accepted."""
        return self._links.untaken.count + self._voice.unsaid

    @property
    def has_linked(self) -> bool:
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
        self.config = self._routing.config = config
        routing = self._routing
        self._voice.reconfigure(config)
        self._handshakes.reconfigure(config, now)
        self._signatures.reconfigure(config)
        routing.perform(self._dissemination.reconfigure(config, now), now)
        self._antientropy.reconfigure(config, now)
        self._links.reconfigure(config, now)
        self._shorts.reconfigure(config)
        for peer_id, link in list(self._links.items()):
            if link.session.key not in config.keys:
                routing.unlink(peer_id, "key removed", CloseReason.KEY_REMOVED, tell=True, now=now)
        for link in self._shorts.live():
            if link.session.key not in config.keys:
                self._shorts.close(link.peer_id, CloseReason.KEY_REMOVED, now)
            elif link.peer_id in config.denied:
                self._shorts.close(link.peer_id, CloseReason.MISCONDUCT, now)
        routing.perform(self._membership.reconfigure(config, now), now)
        return fixed

    # --- time -----------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        """When to call `advance` next, in the seconds of `now`; math.inf: never."""
        return min(
            self._tick_at,
            self._pause_at,
            max(self._machines.deadline, self._machines_at),
            self._handshakes.deadline,
            self._voice.deadline,
            self._links.deadline,
        )

    def advance(self, now: float) -> None:
        """Time passed: do what is due."""
        self._guarded(lambda: self._end_dials(now), now)
        if now >= self._machines_at:
            self._advance_machines(now)
        self._guarded(lambda: self._links.advance(now), now)
        if now >= self._pause_at:
            self._pause_at = now + PAUSE_INTERVAL_S
            self._routing.send_all(Send(tuple(self._links), Pause(PAUSE_MS)), now)
        if now >= self._tick_at:
            self._tick_at = now + TICK_S
            if now >= self._reap_at:
                self._reap_at = now + REAP_S
                self._links.accounts.reap(now)
            self._tick(now)

    def _end_dials(self, now: float) -> None:
        self._handshakes.advance(now)
        for session_id in self._handshakes.expired(now):
            self._routing.end_dial(session_id, None, now)

    def _advance_machines(self, now: float) -> None:
        """Each machine has its turn, whatever becomes of the others; one with a fault is not asked again
        at once, for its deadline may be what it was."""
        for machine in (
            self._membership,
            self._dissemination,
            self._antientropy,
            self._tracing,
        ):
            if machine is self._membership and self._links.is_leaving:
                continue
            try:
                effects = machine.advance(now)
            except Exception as fault:  # noqa: BLE001
                self._routing.contain(fault, None, now)
                self._machines_at = now + FAULT_PAUSE_S
            else:
                self._routing.perform(effects, now)

    def _tick(self, now: float) -> None:
        links, routing = self._links, self._routing
        for link in list(links.values()):
            try:
                self._look_after(link, now)
            except Exception as fault:  # noqa: BLE001  of this link alone
                routing.contain(fault, link, now)
        for link in self._shorts.live():
            try:
                if link.needs_rekey(now):
                    self._handshakes.rekey(link, self.record, now, is_short=True)
            except Exception as fault:  # noqa: BLE001
                routing.contain(fault, link, now)
        self._shorts.advance(now)
        links.forget_parted(now)
        routing.restore(now)
        routing.tell_drops()

    def _look_after(self, link: Link, now: float) -> None:
        links, routing = self._links, self._routing
        links.look_after(link, now)
        if link.is_dead(now):
            routing.unlink(link.peer_id, "session expired", None, tell=False, now=now)
        elif link.needs_rekey(now):
            self._handshakes.rekey(link, self.record, now)
        limited = links.accounts.news(link.peer_id, now)
        if limited is not None:
            routing.events.append(limited)

    # --- out ------------------------------------------------------------------------------------

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Address]]:
        """What may go out now, each with where to. What is handed out is gone from here."""
        links, routing = self._links, self._routing
        links.post(self._handshakes.transmit(now))
        faults, self._handshakes.faults = self._handshakes.faults, []
        for dial, fault in faults:
            self._guarded(partial(routing.end_dial, dial.session_id, None, now), now)
            routing.contain(fault, None, now)
        is_sound = self._guarded(lambda: self._speak(now), now)
        links.is_kept = self._dissemination.is_unasked
        datagrams = links.datagrams(now)
        while routing.contain_all(now):  # what is said of that goes in the same turn
            datagrams += links.datagrams(now)
        if not is_sound or not self._guarded(lambda: self._voice.set_deadline(now), now):
            self._voice.deadline = now + FAULT_PAUSE_S
        self._traffic.datagrams_out += len(datagrams)
        self._traffic.bytes_out += sum(len(datagram) for datagram, _ in datagrams)
        return datagrams

    def _speak(self, now: float) -> None:
        if self._voice.is_due(now):
            self._routing.close_bundle(now)

    def events(self) -> list[Event]:
        """What happened since the last call, in order."""
        events, self._routing.events = self._routing.events, []
        return events

    # --- look -----------------------------------------------------------------------------------

    @property
    def peer_id(self) -> PeerId:
        return self._identity.peer_id

    @property
    def epoch(self) -> int:
        """The run that this is; it may rise while it goes on."""
        return self._voice.epoch

    @property
    def stopped(self) -> str | None:
        """Why this node must not go on."""
        return self._routing.stopped

    @property
    def record(self) -> Record:
        """What this node says of itself."""
        return self._membership.record

    def peers(self, now: float) -> list[PeerInfo]:
        """All peers, linked or not."""
        timeout_s = self.config.peer_timeout
        return [
            looks.peer_info(peer, self._links, self._machines, timeout_s, now)
            for peer in self._peers
        ]

    def members(self) -> list[MemberInfo]:
        """All members of the cluster that are known, but this node."""
        return [member.info() for member in self._membership.members]

    def whose(self, address: Address) -> PeerId | None:
        """The member that a session proved to be at `address`, of several the last one; None: there is
        none. Where a record claims to be counts for nothing: whoever claims an address would be sent
        what is meant for another."""
        link = self._links.at(address)
        if link is not None:
            return link.peer_id
        proved = [each for each in self._peers if each.is_proved and each.address == address]
        last = max(proved, key=lambda peer: peer.silent_since, default=None)
        return None if last is None else last.peer_id

    def rounds(self) -> list[Round]:
        """The latest anti-entropy rounds that this node began, the oldest first."""
        return list(self._antientropy.rounds)

    def traces(self) -> list[Trace]:
        """The latest traced messages of this node and how far they got, the oldest first."""
        return self._tracing.reports()

    def stats(self) -> Stats:
        """Counters and gauges."""
        return looks.stats(
            self._traffic,
            self._links,
            self._shorts,
            self._handshakes,
            self._machines,
            self._routing.drops,
            delivered=self._routing.delivered,
            broadcast=self._voice.broadcasts,
        )

    @property
    def duplicates(self) -> int:
        """Copies of messages beyond the first: one of `stats`, at no cost."""
        return self._dissemination.duplicates

    # --- kept -----------------------------------------------------------------------------------

    def saved(self, now: float, unhandled: Iterable[MessageId] = ()) -> Saved:
        """What to keep for the next run, as of now. `unhandled` broadcasts count as not seen: a restart
        asks for them again."""
        known = self._membership.dialling.known()
        return Saved(self._identity.seed, self.epoch, self._store.saved(now, unhandled), known)

    @property
    def saved_version(self) -> int:
        """Grows whenever `saved` would say something new."""
        return self._store.version + self._routing.changes
