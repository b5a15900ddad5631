"""The sans-IO node: composes links and machines, routes messages, performs effects.

Bytes and the time go in (`receive`, `advance`, the verbs); bytes, events and the next wake-up time
come out (`datagrams_to_send`, `events`, `deadline`). Whoever drives it calls, after anything that
went in, `datagrams_to_send` and `events`, and `advance` once `deadline` is reached.

What must stay true:

- `receive` never raises, whatever the bytes; each refusal is counted under one `DropReason`.
- This is the only file that knows both links and the overlay, and it decides nothing of the
  protocol: handshakes are the link's, everything among many peers is a machine's.
- `now` never goes back, and is the only time there is.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Final, assert_never

from grapevine_proto import codec
from grapevine_proto.config import LIVE_FIELDS, NodeConfig
from grapevine_proto.errors import (
    ConfigError,
    DropReason,
    MessageTooLarge,
    NotRunning,
    Refused,
    UnknownPeer,
)
from grapevine_proto.events import (
    DatagramDropped,
    Event,
    MemberInfo,
    Message,
    MessageReceived,
    MessageSent,
    PeerInfo,
    PeerState,
    PeerStateChanged,
    RateLimited,
    Round,
    Stats,
    Trace,
    Via,
)
from grapevine_proto.identity import Identity
from grapevine_proto.ids import Address, MessageId, PeerId
from grapevine_proto.link.fragments import Budget
from grapevine_proto.link.handshake import Established, Initiator, Responder
from grapevine_proto.link.link import Link, takes_over
from grapevine_proto.messages import (
    Announce,
    Close,
    CloseReason,
    Digest,
    Empty,
    Frame,
    Graft,
    Heartbeat,
    Ids,
    InSync,
    Kind,
    Offer,
    OverlayMessage,
    Private,
    Prune,
    Receipts,
    ReceiptsTaken,
    Record,
    Records,
    Repair,
    Rumor,
    Rumors,
    Subscribe,
    Vector,
    Want,
)
from grapevine_proto.outflow import BEHIND_S, Outflow
from grapevine_proto.overlay.antientropy import REPLY_DATAGRAMS, AntiEntropy
from grapevine_proto.overlay.dissemination.bundle import Bundle
from grapevine_proto.overlay.dissemination.dissemination import Dissemination
from grapevine_proto.overlay.dissemination.pulls import is_pulled
from grapevine_proto.overlay.effects import (
    Blame,
    Deliver,
    Dial,
    Drop,
    Effect,
    Emit,
    Learn,
    Moved,
    Reopen,
    Send,
    Stop,
)
from grapevine_proto.overlay.membership import Membership
from grapevine_proto.overlay.peers import Peer, PeerTable
from grapevine_proto.overlay.signatures import Signatures
from grapevine_proto.overlay.store import SavedStream, Store
from grapevine_proto.overlay.trace import Tracing
from grapevine_proto.ratelimit import TokenBucket

__all__ = ["Engine", "Saved", "SavedStream"]

TICK_S: Final = 1.0  # for what is told at most once a second, and for the age of sessions
BAD_SIGNATURE_TOKENS: Final = 10.0
BAD_SIGNATURES: Final = 3  # the third closes the link
ACCOUNTS_LIMIT: Final = 4096
PARTING_S: Final = 10.0  # for which a closed session still says why it is closed
PARTING_LIMIT: Final = 64
MESSAGE_BYTES: Final = 64_900  # of one envelope: what a token pays for, and a datagram of loopback
GROW_S: Final = 0.1  # for which a bundle grows while no link has a token for it


_CLOSED: Final = {
    CloseReason.LEAVING: "left",
    CloseReason.FULL: "closed by the peer: no room",
    CloseReason.MISCONDUCT: "closed by the peer: it finds fault with us",
    CloseReason.KEY_REMOVED: "closed by the peer: our key is no longer accepted",
    CloseReason.SURPLUS: "closed by the peer: it begins anew",
    CloseReason.OUTRANKED: "closed by the peer: it knows a later run of this node",
}


@dataclass(frozen=True, slots=True)
class Saved:
    """What a node keeps over a restart. `epoch` is the one that this run uses; `seed` is the secret
    half of its identity."""

    seed: bytes = field(repr=False)
    epoch: int
    streams: tuple[SavedStream, ...] = ()
    peers: tuple[tuple[PeerId, Address], ...] = ()


class _Account:
    """What a peer may still do here. It belongs to the identity and outlives its sessions."""

    __slots__ = ("bad_signatures", "bucket", "shape", "throttled", "told")

    def __init__(self, bucket: TokenBucket | None) -> None:
        self.bucket = bucket  # what we allow the peer
        self.shape: TokenBucket | None = None  # what it allows us, as far as we used it
        self.bad_signatures = 0
        self.throttled = 0
        self.told = 0  # of those, how many the application knows of


class _Parting:
    """A link that is closed. Our Close may have been lost, so whoever goes on speaking is told
    again; of a peer that left, what was still on its way is heard."""

    __slots__ = ("close", "link", "until")

    def __init__(self, link: Link, close: Close | None, until: float) -> None:
        self.link = link
        self.close = close  # None: the peer left
        self.until = until


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
        self._rng = rng
        self._entropy = entropy
        self.epoch = saved.epoch
        self.stopped: str | None = None
        self._is_leaving = False
        self._goodbye: list[bytes] = []
        self._to_part: dict[PeerId, Link] = {}  # linked peers not yet told that we leave
        self._peers = PeerTable(config.limits.sessions + config.max_peers)
        self._signatures = Signatures(config)
        self._store = Store(config, self._signatures, saved.streams, now)
        self._membership = Membership(
            config, self._identity, self.epoch, address, self._peers, self._store, rng, now
        )
        self._membership.dialling.remember(saved.peers, now)
        self._tracing = Tracing(
            config, self._identity, self._peers, self._membership.members, self._signatures, rng
        )
        self._dissemination = Dissemination(
            config,
            self.peer_id,
            self._peers,
            self._membership.members,
            self._store,
            self._signatures,
            self._tracing,
            rng,
            now,
        )
        self._antientropy = AntiEntropy(
            config, self._peers, self._store, rng, self._dissemination.accept, now
        )
        self._responder = Responder(
            self._identity,
            config.keys,
            config.cluster,
            config.limits,
            config.denied,
            entropy=entropy,
            now=now,
        )
        self._dials: dict[bytes, Initiator] = {}
        self._links: dict[PeerId, Link] = {}
        self._by_session: dict[bytes, Link] = {}
        self._by_source: dict[Address, Link] = {}
        self._parting: dict[bytes, _Parting] = {}  # by session, the oldest first
        self._accounts: dict[PeerId, _Account] = {}
        self._reassembly = Budget(config.limits.reassembly_bytes)
        self._busy: dict[PeerId, Link] = {}  # links with something to send
        self._outflow = Outflow(config.limits, MESSAGE_BYTES)
        self._bundle = Bundle(_bundle_limit(config))
        self._bundle_at = math.inf  # when to look at the bundle again
        self._outbox: list[tuple[bytes, Address]] = []
        self._events: list[Event] = []
        self._sequence = 0
        self._private_sequence = 0
        self._tick_at = now
        self._drops: Counter[DropReason] = Counter()
        self._drops_told: Counter[DropReason] = Counter()
        self._datagrams_in = self._bytes_in = self._datagrams_out = self._bytes_out = 0
        self._delivered = self._broadcast = self._unsent_before = self._changes = 0

    # --- in: bytes ------------------------------------------------------------------------------

    def receive(self, datagram: bytes, source: Address, now: float) -> None:
        """Take in one datagram. Never raises; what is refused is counted."""
        self._datagrams_in += 1
        self._bytes_in += len(datagram)
        try:
            packet = codec.decode_packet(datagram)
            match packet:
                case codec.Data():
                    self._receive_data(packet, source, now)
                case codec.Hello() | codec.Proof():
                    self._receive_stranger(packet, datagram, source, now)
                case codec.Challenge() | codec.Welcome():
                    self._receive_answer(packet, datagram, source, now)
                case _:
                    assert_never(packet)
        except Refused as refused:
            self._drops[refused.reason] += 1

    def _receive_stranger(
        self, packet: codec.Hello | codec.Proof, datagram: bytes, source: Address, now: float
    ) -> None:
        if self._is_leaving:  # who came in now would be left without a word
            raise Refused(DropReason.UNEXPECTED)
        record, exempt = self._membership.record, source in self._by_source
        try:
            reply = self._responder.receive(packet, datagram, source, record, now, exempt=exempt)
        except Refused as refused:
            if refused.reason is DropReason.MYSELF and isinstance(packet, codec.Proof):
                dial = self._dials.get(packet.hello.session_id)
                if dial is not None:
                    self._end_dial(dial, refused.reason, now)
            raise
        self._outbox.append((reply, source))

    def _receive_answer(
        self, packet: codec.Challenge | codec.Welcome, datagram: bytes, source: Address, now: float
    ) -> None:
        dial = self._dials.get(packet.session_id)
        if dial is None:
            raise Refused(DropReason.UNEXPECTED)
        try:
            dial.receive(packet, datagram, source, now)
        except Refused as refused:
            if refused.reason in (DropReason.MYSELF, DropReason.WRONG_PEER):
                self._end_dial(dial, refused.reason, now)
            raise

    def _receive_data(self, packet: codec.Data, source: Address, now: float) -> None:
        link = self._by_session.get(packet.session_id)
        if link is not None:
            self._busy[link.peer_id] = link  # it may owe an answer, or feedback
            plaintext = self._open(link, packet, now, source)
            self._hear(link, plaintext, now)
            return
        dial = self._dials.get(packet.session_id)
        if dial is not None:
            established = dial.confirm(packet, source, now)
            del self._dials[packet.session_id]
            self._membership.dialling.answered(dial.address, established.record.peer_id)
            if not self._was_turned_away(established, now):
                self._establish(established, now)
            return
        parting = self._parting.get(packet.session_id)
        if parting is not None:
            self._hear_parting(parting, packet, now)
            return
        confirmed = self._responder.confirm(packet, source, now)
        if confirmed is None:
            raise Refused(DropReason.UNKNOWN_SESSION)
        self._establish(confirmed, now)

    def _was_turned_away(self, established: Established, now: float) -> bool:
        """Whether the first that a dialled peer said is that it has no room for us."""
        if established.plaintext[0] != Kind.CLOSE:
            return False
        message = codec.decode_message(established.plaintext)
        record, address = established.record, established.address
        if isinstance(message, Close):
            if message.reason is CloseReason.FULL:
                effects = self._membership.turned_away(record, address, message.records, now)
            else:
                effects = self._membership.handle(Records(message.records), record.peer_id, now)
            self._perform(effects, now)
        return True

    def _open(
        self, link: Link, packet: codec.Data, now: float, source: Address | None = None
    ) -> bytes | None:
        try:
            return link.receive(packet, now, source)
        except Refused as refused:
            if refused.reason is DropReason.RATE_LIMITED:
                self._account(link.peer_id, now).throttled += 1
            raise

    # --- links ----------------------------------------------------------------------------------

    def take(self, established: Established, now: float) -> None:
        """Take a session that was made elsewhere, as if its handshake had just ended here: for a
        simulation that begins with nodes linked."""
        self._establish(established, now)

    def _establish(self, established: Established, now: float) -> None:
        """A session is live: it takes over a link, begins one, or only hears where else to go."""
        record = established.record
        if record.peer_id in self.config.denied:
            raise Refused(DropReason.DENIED)
        if self._is_leaving:
            self._turn_away(established, Close(CloseReason.LEAVING), now)
            return
        link = self._links.get(record.peer_id)
        if link is None:
            if not self._membership.has_room:
                others = self._membership.referrals(record.peer_id)
                self._turn_away(established, Close(CloseReason.FULL, others), now)
                return
            link = self._link(established, now)
        elif record.epoch > link.epoch:
            link = self._replace(link, established, now)
        elif record.epoch < link.epoch:
            self._drops[DropReason.OLD_EPOCH] += 1
            outranked = Close(CloseReason.OUTRANKED, (link.record,))
            self._turn_away(established, outranked, now)
            return
        else:
            self._renew(link, established, now)
        self._busy[link.peer_id] = link
        session = established.session
        counter = session.arrivals.highest
        plaintext = link.take_in(established.plaintext, session, counter, now)
        self._hear(link, plaintext, now)

    def _renew(self, link: Link, established: Established, now: float) -> None:
        """Another session with a linked peer of the same run: a rekey, or both ends dialling at once."""
        if takes_over(established, link, self.peer_id, now):
            self._forget_source(link)
            link.adopt(established, now)
        else:
            link.also_receive(established, now)
        self._index(link)
        self._busy[link.peer_id] = link

    def _replace(self, link: Link, established: Established, now: float) -> Link:
        """The peer was restarted: a new link. Should the earlier run still live, two nodes have one
        identity, and it is told so."""
        link.clear()
        link.close()
        self._forget_source(link)
        self._part(link, Close(CloseReason.OUTRANKED, (established.record,)), now)
        for session_id in link.session_ids():
            self._by_session.pop(session_id, None)
        self._unsent_before += link.unsent + link.queued
        self._account(link.peer_id, now).shape = link.shape
        self._perform(self._antientropy.unlinked(link.peer_id, now), now)
        return self._link(established, now)

    def _link(self, established: Established, now: float) -> Link:
        account = self._account(established.record.peer_id, now)
        link = Link(
            established,
            account.bucket,
            self.config.limits,
            now,
            shape=account.shape,
            congestion=self.config.congestion,
            max_message_bytes=self.config.max_message_size,
            budget=self._reassembly,
            entropy=self._entropy,
        )
        self._links[link.peer_id] = link
        self._index(link)
        self._linked(link, established, now)
        return link

    def _linked(self, link: Link, established: Established, now: float) -> None:
        self._changes += 1
        self._perform(
            self._membership.linked(established.record, link.address, established.rtt_s, now), now
        )
        self._perform(self._dissemination.linked(link.peer_id, now), now)

    def _turn_away(self, established: Established, close: Close, now: float) -> None:
        """Make no link of a session, but say why."""
        account = self._account(established.record.peer_id, now)
        link = Link(
            established,
            account.bucket,
            self.config.limits,
            now,
            max_message_bytes=0,  # whatever it says is heard for the length of a Close
            budget=self._reassembly,
        )
        self._part(link, close, now)

    def _part(self, link: Link, close: Close | None, now: float) -> None:
        """Stay at a closed link for a while, to say so again or to hear the last words."""
        parting = _Parting(link, close, now + PARTING_S)
        for session_id in link.session_ids():
            self._parting[session_id] = parting
        while len(self._parting) > PARTING_LIMIT:
            del self._parting[next(iter(self._parting))]
        if close is not None:
            link.send(codec.encode_message(close), now)
            self._transmit(link, now)

    def _hear_parting(self, parting: _Parting, packet: codec.Data, now: float) -> None:
        plaintext = self._open(parting.link, packet, now)
        if plaintext is None:
            return
        if parting.close is None:
            message = codec.decode_message(plaintext)
            if isinstance(message, (Rumors, Private)):
                self._route(message, parting.link, now)
        elif plaintext[0] != Kind.CLOSE:
            parting.link.send(codec.encode_message(parting.close), now)
            self._transmit(parting.link, now)

    def _index(self, link: Link) -> None:
        """Keep the sessions of `link` findable, and only those it still has."""
        current = link.session_ids()
        for session_id in [s for s, other in self._by_session.items() if other is link]:
            if session_id not in current:
                del self._by_session[session_id]
        for session_id in current:
            self._by_session[session_id] = link
        self._by_source[link.address] = link

    def _forget_source(self, link: Link) -> None:
        if self._by_source.get(link.address) is link:
            del self._by_source[link.address]

    def _account(self, peer_id: PeerId, now: float) -> _Account:
        account = self._accounts.get(peer_id)
        if account is None:
            if len(self._accounts) >= ACCOUNTS_LIMIT:
                idle = next(each for each in self._accounts if each not in self._links)
                del self._accounts[idle]
            limit = self.config.rate_limit
            bucket = TokenBucket(limit.capacity, limit.refill_rate, now) if limit.enabled else None
            account = self._accounts[peer_id] = _Account(bucket)
        return account

    def _unlink(
        self, peer_id: PeerId, words: str, reason: CloseReason | None, *, tell: bool, now: float
    ) -> None:
        link = self._links.pop(peer_id, None)
        if link is None:
            return
        link.close()
        if reason is CloseReason.LEAVING:
            self._part(link, None, now)
        elif tell and reason is not None:
            link.clear()
            self._part(link, Close(reason), now)
        self._account(peer_id, now).shape = link.shape
        self._busy.pop(peer_id, None)
        self._to_part.pop(peer_id, None)
        self._unsent_before += link.unsent + link.queued + self._outflow.forget(peer_id)
        for session_id in link.session_ids():
            self._by_session.pop(session_id, None)
        self._forget_source(link)
        self._changes += 1
        self._perform(self._antientropy.unlinked(peer_id, now), now)
        self._perform(self._membership.unlinked(peer_id, words, reason, now), now)
        self._perform(self._dissemination.unlinked(peer_id, now), now)

    # --- messages -------------------------------------------------------------------------------

    def _hear(self, link: Link, plaintext: bytes | None, now: float) -> None:
        self._perform(self._membership.heard(link.peer_id, now), now)
        if plaintext is None:
            if link.is_receiving:
                self._antientropy.arriving(link.peer_id, now)
                self._dissemination.pulls.arriving(link.peer_id, now)
            return
        self._route(codec.decode_message(plaintext), link, now)

    def _route(self, message: OverlayMessage | Frame, link: Link, now: float) -> None:
        sender = link.peer_id
        match message:
            case Rumors() | Ids() | Offer() | Announce() | Subscribe() | Graft() | Prune():
                self._perform(self._dissemination.handle(message, sender, now), now)
            case Heartbeat():
                self._perform(self._membership.handle(message, sender, now), now)
                self._perform(self._antientropy.handle(message, sender, now), now)
            case Records():
                self._perform(self._membership.handle(message, sender, now), now)
            case Digest() | InSync() | Vector() | Want() | Repair():
                if isinstance(message, Want):
                    self._dissemination.asked(message)
                self._perform(self._antientropy.handle(message, sender, now), now)
            case Receipts() | ReceiptsTaken():
                self._perform(self._tracing.handle(message, sender, now), now)
            case Private(sequence, payload):
                message_id = MessageId(sender, link.epoch, sequence, private=True)
                self._delivered += 1
                self._events.append(
                    MessageReceived(Message(message_id, payload, 1, Via.EAGER, now, private=True))
                )
            case Close(reason):
                words = (
                    "left" if reason is CloseReason.LEAVING else f"closed: {reason.name.lower()}"
                )
                self._unlink(sender, words, reason, tell=False, now=now)
            case Empty():
                pass
            case _:
                assert_never(message)

    def _perform(self, effects: list[Effect], now: float) -> None:
        for effect in effects:
            match effect:
                case Deliver(messages):
                    self._deliver(messages)
                case Emit(event):
                    self._events.append(event)
                case Send():
                    self._send_all(effect, now)
                case Dial(address, expected):
                    self._dial(address, expected, now)
                case Drop(peer, reason, words):
                    self._unlink(peer, words, reason, tell=True, now=now)
                case Moved(peer, previous, words):
                    self._tell_moved(peer, previous, words, now)
                case Learn(record):
                    if record.peer_id in self._links:
                        self._links[record.peer_id].learn(record, now)
                case Blame(peer, refusal):
                    self._blame(peer, refusal, now)
                case Reopen(epoch):
                    self._reopen(epoch, now)
                case Stop(words):
                    self.stopped = words
                case _:
                    assert_never(effect)

    def _deliver(self, messages: tuple[Message, ...]) -> None:
        """Tell the application of messages of one rumor."""
        if messages and messages[0].origin != self.peer_id:
            self._delivered += len(messages)
            self._events += map(MessageReceived, messages)
        # else said in a second that a crash forgot: nothing new to us

    def _send_all(self, send: Send, now: float) -> int:
        """Queue a message; for how many peers there was room for it."""
        links = [self._links[peer_id] for peer_id in send.peers if peer_id in self._links]
        if isinstance(send.message, Rumors):
            self._busy.update({link.peer_id: link for link in links})
            return min(self._outflow.push(copy, links, now) for copy in send.message.copies)
        plaintext = codec.encode_message(send.message)
        for link in links:
            if isinstance(send.message, Want):
                link.expect_repairs(REPLY_DATAGRAMS)
            self._queue(link, plaintext, now)
        return len(links)

    def _queue(self, link: Link, plaintext: bytes, now: float) -> None:
        link.send(plaintext, now)
        self._busy[link.peer_id] = link

    def _tell_moved(
        self, peer_id: PeerId, previous: PeerState | None, words: str, now: float
    ) -> None:
        peer = self._peers.get(peer_id)
        if peer is not None:
            self._events.append(PeerStateChanged(self._info(peer, now), previous, words))

    def _blame(self, peer_id: PeerId, refusal: DropReason, now: float) -> None:
        self._drops[refusal] += 1
        if refusal is not DropReason.BAD_SIGNATURE:
            return
        account = self._account(peer_id, now)
        account.bad_signatures += 1
        if account.bucket is not None:
            fine = min(account.bucket.available(now), BAD_SIGNATURE_TOKENS)
            account.bucket.take(now, fine)
        if account.bad_signatures >= BAD_SIGNATURES:
            account.bad_signatures = 0
            self._unlink(peer_id, "bad signatures", CloseReason.MISCONDUCT, tell=True, now=now)

    def _reopen(self, epoch: int, now: float) -> None:
        """Outrank a record of our identity that is not ours: a new epoch, new streams, new links."""
        self._close_bundle(now)
        self.epoch = epoch + 1
        self._sequence = self._private_sequence = 0
        self._changes += 1
        self._membership.reopen(self.epoch)
        for peer_id in list(self._links):
            self._unlink(peer_id, "new epoch", CloseReason.SURPLUS, tell=True, now=now)

    # --- in: verbs ------------------------------------------------------------------------------

    def dial(self, address: Address, now: float) -> None:
        """Knock at `address`; what becomes of it is told by events."""
        self._perform(self._membership.dialling.want(address, now), now)

    def forget(self, peer_id: PeerId) -> None:
        """Strike a peer that is gone out of the tables. Raises UnknownPeer where it is not gone."""
        self._membership.forget(peer_id)

    def broadcast(self, payload: bytes, now: float) -> MessageId:
        """Accept `payload` for everybody; with nobody there it is held, and given to who comes in time.

        It shares a signature with what else is said before `datagrams_to_send` is next called;
        MessageSent comes then. Raises MessageTooLarge, NotRunning.
        """
        self._check_payload(payload)
        if not self._bundle.fits(payload):
            self._close_bundle(now)
        self._sequence += 1
        self._broadcast += 1
        message_id = MessageId(self.peer_id, self.epoch, self._sequence)
        self._bundle.add(Message(message_id, payload, 0, Via.LOCAL, now), now)
        return message_id

    def trace(self, payload: bytes, now: float) -> MessageId:
        """Accept `payload` for everybody as `broadcast` does, and ask who has it to say so: what
        comes of that is told by TraceUpdated and `traces`. Raises MessageTooLarge, NotRunning."""
        self._check_payload(payload)
        self._close_bundle(now)
        self._sequence += 1
        self._broadcast += 1
        message_id = MessageId(self.peer_id, self.epoch, self._sequence)
        share = self._tracing.begin(message_id, now)
        self._say([Message(message_id, payload, 0, Via.LOCAL, now)], share, now)
        return message_id

    def _close_bundle(self, now: float) -> None:
        """Sign what is in the bundle and let it go."""
        if messages := self._bundle.close():
            self._say(messages, 0, now)

    def _say(self, messages: list[Message], trace_share: int, now: float) -> None:
        """Sign messages of ours as one rumor and push it."""
        _, epoch, first, _ = messages[0].id
        payloads = tuple(message.payload for message in messages)
        rumor = Rumor.signed(
            self._identity, self.config.cluster, epoch, first, payloads, trace_share=trace_share
        )
        peers = 0
        for effect in self._dissemination.broadcast(rumor, now):
            if isinstance(effect, Send) and isinstance(effect.message, (Rumors, Offer, Announce)):
                peers += self._send_all(effect, now)
            else:
                self._perform([effect], now)
        self._events += [MessageSent(message, peers) for message in messages]

    def _is_bundle_due(self, now: float) -> bool:
        """A bundle waits for `bundle_delay`, and while no link could send it at once; but not for
        long, since nobody else can know of what is in it."""
        opened_at = self._bundle.opened_at
        if now < opened_at + self.config.bundle_delay:
            return False
        if not self._links or now >= opened_at + BEHIND_S:
            return True
        if not self._outflow.has_room(len(self._links), self._bundle.size_bytes):
            return False
        return now >= opened_at + GROW_S or self._is_wanted(now)

    def _bundle_due_at(self, now: float) -> float:
        """When to ask again whether the bundle is due."""
        opened_at = self._bundle.opened_at
        waits = (self.config.bundle_delay, GROW_S, BEHIND_S)
        due_at = min((opened_at + s for s in waits if opened_at + s > now), default=now)
        if due_at > opened_at + self.config.bundle_delay:
            due_at = min(due_at, *(link.ready_at(now) for link in self._links.values()))
        return due_at

    def _is_wanted(self, now: float) -> bool:
        return any(self._outflow.is_idle(link, now) for link in self._links.values())

    def send(self, peer: PeerId, payload: bytes, now: float) -> MessageId:
        """Say `payload` to one linked peer alone.

        Raises MessageTooLarge, NotRunning, UnknownPeer.
        """
        self._check_payload(payload)
        if peer not in self._links:
            raise UnknownPeer(f"no linked peer {peer.short}")
        self._private_sequence += 1
        message_id = MessageId(self.peer_id, self.epoch, self._private_sequence, private=True)
        message = Message(message_id, payload, 0, Via.LOCAL, now, private=True)
        self._events.append(MessageSent(message, 1))
        self._send_all(Send((peer,), Private(self._private_sequence, payload)), now)
        return message_id

    def _check_payload(self, payload: bytes) -> None:
        if self._is_leaving or self.stopped:
            raise NotRunning("the node is leaving")
        limit = self.config.max_message_size
        if len(payload) > limit:
            raise MessageTooLarge(len(payload), limit)

    @property
    def has_room(self) -> bool:
        """Whether a small broadcast now finds room with every peer, but for those that have had none for
        a second while others have; or nobody is there at all."""
        return self.has_room_for(0)

    def has_room_for(self, size_bytes: int) -> bool:
        """The same for a payload of so many bytes: a large one may have to wait for another."""
        if is_pulled(size_bytes) and self._dissemination.is_unasked:
            return False
        return self._outflow.has_room(len(self._links), 0 if is_pulled(size_bytes) else size_bytes)

    def start_round(self, now: float) -> None:
        """Begin an anti-entropy round with some peers now."""
        self._perform(self._antientropy.start_rounds(now), now)

    def resolved(self, name: str, addresses: tuple[Address, ...], now: float) -> None:
        """The host name `name` among the bootstrap peers stands for `addresses`."""
        self._membership.dialling.resolved(name, addresses, now)

    def refused(self, size_bytes: int, address: Address, now: float) -> None:
        """The system would not send a datagram of this size to `address` (EMSGSIZE)."""
        link = self._by_source.get(address)
        if link is not None:
            link.refused(size_bytes, now)

    def lagged(self, lag_s: float, now: float) -> None:
        """The driver's loop was late by so much; told to peers as our load."""
        self._membership.load_permille = min(int(lag_s * 1000), 1000)

    def leave(self, now: float) -> None:
        """Accept nothing more; what is queued still goes, then word to every peer that we leave."""
        if not self._is_leaving:
            self._close_bundle(now)
            self._is_leaving = True
            self._dials.clear()
            self._goodbye = [
                codec.encode_message(self._membership.leave()),
                codec.encode_message(Close(CloseReason.LEAVING)),
            ]
            self._to_part = dict(self._links)
            self._busy.update(self._links)

    @property
    def is_drained(self) -> bool:
        """After `leave`: whether everything queued has gone, and every peer has been told."""
        return self._is_leaving and not self._to_part

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
        self.config = config
        self._bundle.limit_bytes = _bundle_limit(config)
        self._responder.reconfigure(config.keys, config.limits, config.denied, now)
        self._signatures.reconfigure(config)
        self._perform(self._dissemination.reconfigure(config, now), now)
        self._antientropy.reconfigure(config, now)
        self._reconfigure_accounts(now)
        for peer_id, link in list(self._links.items()):
            if link.session.key not in config.keys:
                self._unlink(peer_id, "key removed", CloseReason.KEY_REMOVED, tell=True, now=now)
        self._perform(self._membership.reconfigure(config, now), now)
        return fixed

    def _reconfigure_accounts(self, now: float) -> None:
        limit = self.config.rate_limit
        for peer_id, account in self._accounts.items():
            if not limit.enabled:
                account.bucket = None
            elif account.bucket is None:
                account.bucket = TokenBucket(limit.capacity, limit.refill_rate, now)
            else:
                account.bucket.resize(limit.capacity, limit.refill_rate, now)
            if peer_id in self._links:
                self._links[peer_id].bucket = account.bucket

    # --- time -----------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        """When to call `advance` next, in the seconds of `now`; math.inf: never."""
        deadline = min(
            self._tick_at,
            self._membership.deadline,
            self._dissemination.deadline,
            self._antientropy.deadline,
            self._tracing.deadline,
            self._responder.deadline,
            self._bundle_at,
            self._outflow.deadline,
        )
        for dial in self._dials.values():
            deadline = min(deadline, dial.deadline)
        for link in self._busy.values():
            deadline = min(deadline, link.deadline)
        return deadline

    def advance(self, now: float) -> None:
        """Time passed: do what is due."""
        self._responder.advance(now)
        self._advance_dials(now)
        if not self._is_leaving:
            self._perform(self._membership.advance(now), now)
        self._perform(self._dissemination.advance(now), now)
        self._perform(self._antientropy.advance(now), now)
        self._perform(self._tracing.advance(now), now)
        self._reassembly.advance(now)
        if now >= self._tick_at:
            self._tick_at = now + TICK_S
            self._tick(now)

    def _tick(self, now: float) -> None:
        for peer_id, link in list(self._links.items()):
            before = link.session_ids()
            link.advance(now)
            if link.session_ids() != before:
                self._index(link)
            if link.is_dead(now):
                self._unlink(peer_id, "session expired", None, tell=False, now=now)
            elif link.needs_rekey(now):
                self._rekey(link, now)
            account = self._account(peer_id, now)
            if account.throttled > account.told:
                tokens = account.bucket.available(now) if account.bucket else 0.0
                dropped = account.throttled - account.told
                self._events.append(RateLimited(peer_id, dropped, tokens))
                account.told = account.throttled
        for session_id in [s for s, each in self._parting.items() if each.until <= now]:
            del self._parting[session_id]
        for reason, count in self._drops.items():
            if count > self._drops_told[reason]:
                self._events.append(DatagramDropped(reason, count - self._drops_told[reason]))
                self._drops_told[reason] = count

    def _rekey(self, link: Link, now: float) -> None:
        """A fresh handshake beside the session, which goes on until the new one is live."""
        if all(dial.expected != link.peer_id for dial in self._dials.values()):
            self._begin_dial(link.address, link.peer_id, now)

    # --- dials ----------------------------------------------------------------------------------

    def _dial(self, address: Address, expected: PeerId | None, now: float) -> None:
        if len(self._dials) >= self.config.limits.dials:
            self._perform(self._membership.dial_failed(address, expected, None, now), now)
            return
        self._begin_dial(address, expected, now)

    def _begin_dial(self, address: Address, expected: PeerId | None, now: float) -> None:
        dial = Initiator(
            self._identity,
            self.config.keys[0],
            self.config.cluster,
            address,
            self._membership.record,
            expected=expected,
            timeout_s=self.config.connection_timeout,
            entropy=self._entropy,
            rng=self._rng,
            now=now,
        )
        self._dials[dial.session_id] = dial

    def _advance_dials(self, now: float) -> None:
        for dial in list(self._dials.values()):
            if dial.is_expired(now):
                self._end_dial(dial, None, now)

    def _end_dial(self, dial: Initiator, why: DropReason | None, now: float) -> None:
        del self._dials[dial.session_id]
        self._perform(self._membership.dial_failed(dial.address, dial.expected, why, now), now)

    # --- out ------------------------------------------------------------------------------------

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Address]]:
        """What may go out now, each with where to. What is handed out is gone from here."""
        for dial in self._dials.values():
            for datagram in dial.transmit(now):
                self._outbox.append((datagram, dial.address))
        if self._bundle and self._is_bundle_due(now):
            self._close_bundle(now)
        for peer_id, link in list(self._busy.items()):
            is_waiting = self._outflow.fill(link, now)
            if peer_id in self._to_part and self._is_done_with(link) and not is_waiting:
                del self._to_part[peer_id]
                for plaintext in self._goodbye:
                    link.send(plaintext, now)
            self._transmit(link, now)
            if is_waiting:
                self._outflow.note_sent(link, now)
            if link.is_quiet and not is_waiting and peer_id not in self._to_part:
                del self._busy[peer_id]
        self._bundle_at = self._bundle_due_at(now) if self._bundle else math.inf
        outbox, self._outbox = self._outbox, []
        self._datagrams_out += len(outbox)
        self._bytes_out += sum(len(datagram) for datagram, _ in outbox)
        return outbox

    def _is_done_with(self, link: Link) -> bool:
        """Whether a peer has all that it should have from us before we leave."""
        return link.is_settled and not self._dissemination.is_unasked

    def _transmit(self, link: Link, now: float) -> None:
        address = link.address
        self._outbox += link.check_path(now)
        if link.address != address and self._by_source.get(address) is link:
            del self._by_source[address]
            self._by_source[link.address] = link
        for datagram in link.transmit(now):
            self._outbox.append((datagram, link.address))

    def events(self) -> list[Event]:
        """What happened since the last call, in order."""
        events, self._events = self._events, []
        return events

    # --- look -----------------------------------------------------------------------------------

    @property
    def peer_id(self) -> PeerId:
        return self._identity.peer_id

    @property
    def record(self) -> Record:
        """What this node says of itself."""
        return self._membership.record

    def peers(self, now: float) -> list[PeerInfo]:
        """All peers, linked or not."""
        return [self._info(peer, now) for peer in self._peers]

    def _info(self, peer: Peer, now: float) -> PeerInfo:
        link = self._links.get(peer.peer_id)
        account = self._accounts.get(peer.peer_id)
        bucket = account.bucket if account else None
        record = peer.record
        return PeerInfo(
            peer_id=peer.peer_id,
            address=peer.address,
            zone=record.zone if record else "",
            name=record.name if record else "",
            state=peer.state,
            health=peer.health(now, self.config.peer_timeout),
            rtt=(link.fresh_rtt_s(now) if link else None) or peer.rtt_s,
            sent=link.sent if link else 0,
            received=link.received if link else 0,
            allowed=link.allowed if link else 0,
            throttled=account.throttled if account else 0,
            tokens=bucket.available(now) if bucket else 0.0,
            tokens_capacity=bucket.capacity if bucket else 0.0,
            last_seen=peer.silent_since,
            epoch=record.epoch if record else 0,
            connected_at=peer.linked_at,
            queued=link.queued + self._outflow.waiting(peer.peer_id) if link else 0,
            subscribed=peer.peer_id in self._dissemination.subscribers,
        )

    def members(self) -> list[MemberInfo]:
        """All members of the cluster that are known, but this node."""
        return [member.info() for member in self._membership.members]

    def rounds(self) -> list[Round]:
        """The latest anti-entropy rounds that this node began, the oldest first."""
        return list(self._antientropy.rounds)

    def traces(self) -> list[Trace]:
        """The latest traced messages of this node and how far they got, the oldest first."""
        return self._tracing.reports()

    def stats(self) -> Stats:
        """Counters and gauges."""
        return Stats(
            datagrams_in=self._datagrams_in,
            datagrams_out=self._datagrams_out,
            bytes_in=self._bytes_in,
            bytes_out=self._bytes_out,
            delivered=self._delivered,
            broadcast=self._broadcast,
            duplicates=self._dissemination.duplicates,
            relayed=self._dissemination.relayed,
            repaired=self._dissemination.repaired,
            asked=self._dissemination.lazy.asked + self._dissemination.pulls.asked,
            unheeded=self._dissemination.lazy.unheeded + self._dissemination.pulls.unheeded,
            lost=self._store.lost,
            evicted=self._store.held.evicted,
            unsent=self._unsent_before + sum(link.unsent for link in self._links.values()),
            traces_forgotten=self._tracing.forgotten,
            receipts_relayed=self._tracing.relayed,
            receipts_refused=self._tracing.refused,
            receipts_lost=self._tracing.lost,
            dropped=tuple(self._drops.items()),
            held=len(self._store.held),
            held_bytes=self._store.held.size_bytes,
            streams=self._store.streams,
            sessions=len(self._by_session),
            members=len(self._membership.members),
            next_round_at=self._antientropy.next_round_at,
            subscribers=len(self._dissemination.subscribers),
            subscriptions=len(self._dissemination.subscriptions),
        )

    # --- kept -----------------------------------------------------------------------------------

    def saved(self, now: float) -> Saved:
        """What to keep for the next run, as of now."""
        known = tuple((peer.peer_id, peer.address) for peer in self._peers)
        return Saved(self._identity.seed, self.epoch, self._store.saved(now), known)

    @property
    def saved_version(self) -> int:
        """Grows whenever `saved` would say something new."""
        return self._store.version + self._changes


def _bundle_limit(config: NodeConfig) -> int:
    return min(config.bundle_bytes, codec.room_in_rumor(MESSAGE_BYTES))
