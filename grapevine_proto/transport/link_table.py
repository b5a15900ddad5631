"""Links by session: which peers are linked, what may be sent to them now, and recently closed links.

Invariants:

- A peer has one link. A packet finds its link by session, so a link survives a change of address. The
  index contains exactly the sessions of the links.
- A closed link repeats its Close for `CLOSED_LINK_LINGER_S` if its peer goes on sending, since the first
  Close may have been lost, and acknowledges nothing. Packets of a peer that left are still received. At
  most `CLOSED_SESSIONS_LIMIT` closed sessions are remembered.
- Sending visits only links that changed or whose deadline passed, so that the cost of a datagram does
  not grow with the number of links.
- Messages that a link had not sent when it ended are counted, and the rate limit of its peer is kept.
- An exception in one link affects no other: it is kept for `take_internal_errors`, and the owner ends
  that link.

The table knows nothing of the overlay, which decides about links and messages.
"""

from __future__ import annotations

import builtins  # mypyc looks up the type of a field by a name of the module
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple

from grapevine_proto.config.live import LiveConfig
from grapevine_proto.errors import Dropped, DropReason
from grapevine_proto.ids import Address, PeerId
from grapevine_proto.timers import TimerQueue
from grapevine_proto.token_bucket import TokenBucket
from grapevine_proto.transport.link.link import Link
from grapevine_proto.transport.link.reassembly import ReassemblyBudget
from grapevine_proto.transport.peer_limits import PeerLimitTable
from grapevine_proto.transport.rumor_coalescer import RUMORS_MESSAGE_BYTES, RumorCoalescer
from grapevine_proto.transport.session.session import EstablishedSession
from grapevine_proto.transport.session.sessions import supersedes
from grapevine_proto.wire import codec
from grapevine_proto.wire.messages import Close, CloseReason, Frame, Kind, OverlayMessage, Rumors
from grapevine_proto.wire.signed import PeerRecord

UNANSWERED_REPEAT_S: Final = 1.0  # between reports of a peer that acknowledges nothing
CLOSED_LINK_LINGER_S: Final = 10.0  # for which a closed session repeats its Close
CLOSED_SESSIONS_LIMIT: Final = 64


class _ClosedLink:
    """A closed link and the Close that it repeats."""

    __slots__ = ("close", "expires_at", "link", "was_rejected")

    def __init__(
        self, link: Link, close: Close | None, expires_at: float, was_rejected: bool
    ) -> None:
        self.was_rejected = was_rejected  # it never was a link: evicted first
        self.link = link
        self.close = close  # None: the peer left
        self.expires_at = expires_at


class LinkError(NamedTuple):
    """An unexpected exception in a link."""

    link: Link
    error: builtins.Exception


class AnsweringChange(NamedTuple):
    """As `transport.events.AnsweringChanged`."""

    peer_id: PeerId
    is_answering: bool
    is_silent: bool = False


class ClosedPacket(NamedTuple):
    """A packet of a closed link. `message`: its content, if the peer left and may still send."""

    link: Link
    message: OverlayMessage | Frame | None


class LinkTable(Mapping[PeerId, Link]):
    """Linked peers and their links. Transient sessions (`add_transient`) are found and sent to in the same
    way. Driven by packets, by queued messages, and by `deadline`."""

    def __init__(
        self, config: LiveConfig, our_id: PeerId, *, entropy: Callable[[int], bytes]
    ) -> None:
        self._config = config
        self._our_id = our_id
        self._entropy = entropy
        self._links: dict[PeerId, Link] = {}
        self._by_session: dict[bytes, Link] = {}
        self._indexed_sessions: dict[Link, tuple[bytes, ...]] = {}  # session IDs per link
        self._by_address: dict[Address, Link] = {}
        self._closed: dict[bytes, _ClosedLink] = {}  # by session ID, oldest first
        self._reassembly_budget = ReassemblyBudget(config.current.limits.reassembly_bytes)
        self._closed_limit = CLOSED_SESSIONS_LIMIT
        self._dirty: dict[Link, None] = {}  # links that changed
        self._timers: TimerQueue[Link] = TimerQueue()  # when other links are due
        self._leave_messages: list[bytes] = []
        self._to_close: dict[Link, None] = {}  # links that have not been sent a leave message
        self._outbox: list[tuple[bytes, Address]] = []
        self._unanswered: dict[Link, float] = {}  # and since when
        self._answering_changes: list[AnsweringChange] = []
        self._past_send_drops = 0
        self._internal_errors: list[LinkError] = []  # for the owner to end those links
        self.closed_links_evicted = 0  # before their timeout
        self.is_leaving = False
        self.peer_limits = PeerLimitTable(config.current.rate_limit, self._links)
        self.coalescer = RumorCoalescer(config.current.limits, RUMORS_MESSAGE_BYTES, our_id)

    def reconfigure(self, now: float) -> None:
        """Applies changed settings to the limits of all peers."""
        self.peer_limits.reconfigure(self._config.current.rate_limit, now)
        for peer_id, link in self._links.items():
            link.set_max_ack_delay(self._config.current.max_ack_delay)
            limits = self.peer_limits.get(peer_id)
            if limits is not None:
                link.inbound_limit.set_bucket(limits.bucket)

    # --- lookup ---------------------------------------------------------------------------------

    def __getitem__(self, peer_id: PeerId) -> Link:
        return self._links[peer_id]

    def __iter__(self) -> Iterator[PeerId]:
        return iter(self._links)

    def __len__(self) -> int:
        return len(self._links)

    @property
    def session_count(self) -> int:
        """Number of indexed sessions."""
        return len(self._by_session)

    @property
    def send_drops(self) -> int:
        """Messages dropped on send, on all links since the start."""
        return self._past_send_drops + sum(link.send_drops for link in self._links.values())

    @property
    def reassembly_dropped(self) -> int:
        """Large messages that were abandoned before all fragments arrived."""
        return self._reassembly_budget.dropped

    def find_by_session(self, session_id: bytes) -> Link | None:
        """The link that has this session."""
        return self._by_session.get(session_id)

    def take_receiver(self, session_id: bytes) -> Link | None:
        """Returns the link that has this session and receives a packet on it, and marks it dirty: it may
        have a reply or an ACK to send."""
        link = self._by_session.get(session_id)
        if link is not None:
            self._dirty[link] = None
        return link

    def find_by_address(self, address: Address) -> Link | None:
        """The link whose peer is at `address`."""
        return self._by_address.get(address)

    # --- opening and closing --------------------------------------------------------------------

    def is_link(self, link: Link) -> bool:
        """Whether `link` is in the table, and no transient session."""
        return self._links.get(link.peer_id) is link

    def add(self, established: EstablishedSession, now: float) -> Link:
        """Adds a link with a peer that has none."""
        link = self._make_link(established, now)
        self._links[link.peer_id] = link
        self._index(link)
        return link

    def add_transient(self, established: EstablishedSession, now: float) -> Link:
        """Creates the link of a transient session: not in the table, but found by its sessions."""
        link = self._make_link(established, now)
        self._index(link)
        return link

    def _make_link(self, established: EstablishedSession, now: float) -> Link:
        limits = self.peer_limits.get_or_create(established.record.peer_id, now)
        return Link(
            established,
            limits.bucket,
            self._config.current.limits,
            now,
            send_limit=self._send_limit_of(established.record.peer_id, now),
            congestion=self._config.current.congestion,
            max_message_bytes=self._config.current.max_message_size,
            reassembly_budget=self._reassembly_budget,
            max_ack_delay_s=self._config.current.max_ack_delay,
            entropy=self._entropy,
        )

    def _send_limit_of(self, peer_id: PeerId, now: float) -> TokenBucket | None:
        """The rate limit of the peer for this node, which a link and a transient session share."""
        link = self._links.get(peer_id)
        return (
            link.send_limit
            if link is not None
            else self.peer_limits.get_or_create(peer_id, now).send_limit
        )

    def add_session(self, link: Link, established: EstablishedSession, now: float) -> None:
        """Adds a session to a link whose peer has the same epoch: a rekey, or a simultaneous open."""
        if supersedes(established, link.session, link.epoch, self._our_id, now):
            self._unindex_address(link)
            link.replace_session(established, now)
        else:
            link.add_receive_session(established, now)
        self._index(link)
        self.mark_dirty(link)

    def supersede(self, link: Link, established: EstablishedSession, now: float) -> None:
        """Ends the link to an earlier epoch of a restarted peer. Its Close says so, in case two nodes use
        one identity."""
        link.clear()
        self.linger(link, Close(CloseReason.SUPERSEDED, (established.record,)), now)
        self.remove(link, now)

    def reject(self, established: EstablishedSession, close: Close, now: float) -> None:
        """Rejects a session with a Close; it becomes no link."""
        limits = self.peer_limits.get_or_create(established.record.peer_id, now)
        link = Link(
            established,
            limits.bucket,
            self._config.current.limits,
            now,
            max_message_bytes=0,  # at most a Close is received
            reassembly_budget=self._reassembly_budget,
        )
        self.linger(link, close, now, was_rejected=True)

    def disconnect(
        self,
        peer_id: PeerId,
        reason: CloseReason | None,
        *,
        notify: bool,
        now: float,
        referrals: tuple[PeerRecord, ...] = (),
    ) -> bool:
        """Ends the link with `peer_id` and sends it the reason and referrals. Returns False if there is
        none."""
        link = self._links.pop(peer_id, None)
        if link is None:
            return False
        if reason is CloseReason.LEAVING:
            self.linger(link, None, now)
        elif notify and reason is not None:
            link.clear()
            self.linger(link, Close(reason, referrals), now)
        self._past_send_drops += self.coalescer.remove_peer(peer_id)
        self.remove(link, now)
        return True

    def remove(self, link: Link, now: float) -> None:
        """Removes a link. `linger` may keep it for a while."""
        link.close()
        self.peer_limits.keep_send_limit(link.peer_id, link.send_limit, now)
        self._dirty.pop(link, None)
        self._timers.cancel(link)
        self._to_close.pop(link, None)
        self._forget_answering(link)
        self._past_send_drops += link.send_drops + link.queued
        for session_id in self._indexed_sessions.pop(link, ()):
            self._by_session.pop(session_id, None)
        self._unindex_address(link)

    def close_all(self, leave_messages: list[bytes]) -> None:
        """Sends everything queued, then `leave_messages` to every peer with a session."""
        self.is_leaving = True
        self._leave_messages = leave_messages
        self._to_close = dict.fromkeys((*self._links.values(), *self._by_session.values()))
        for link in self._to_close:
            link.expect_prompt_acks()

    @property
    def is_drained(self) -> bool:
        """After `close_all`: whether everything queued was sent, then the leave messages."""
        return self.is_leaving and not self._to_close

    def _index(self, link: Link) -> None:
        """Indexes exactly the current sessions of `link`."""
        current = tuple(link.session_ids())
        for session_id in self._indexed_sessions.get(link, ()):
            if session_id not in current:
                del self._by_session[session_id]
        self._indexed_sessions[link] = current
        for session_id in current:
            self._by_session[session_id] = link
        if self.is_link(link) or link.peer_id not in self._links:
            self._by_address[link.address] = link

    def _unindex_address(self, link: Link) -> None:
        if self._by_address.get(link.address) is link:
            del self._by_address[link.address]

    # --- receiving ------------------------------------------------------------------------------

    def on_closed_packet(self, packet: codec.Data, now: float) -> ClosedPacket | None:
        """Handles a packet of a closed session; None: there is none. Repeats the Close, unless the peer
        left. Raises Dropped."""
        closed = self._closed.get(packet.session_id)
        if closed is None:
            return None
        link = closed.link
        try:
            plaintext = link.receive(packet, now)
        except Dropped as dropped:
            if dropped.reason is DropReason.RATE_LIMITED:
                self.peer_limits.count_throttled(link.peer_id, now)
            raise
        if plaintext is None:
            return ClosedPacket(link, None)
        if closed.close is None:
            return ClosedPacket(link, codec.decode_message(plaintext))
        if plaintext[0] != Kind.CLOSE:
            link.send(codec.encode_message(closed.close), now)
            self._transmit(link, now)
        return ClosedPacket(link, None)

    def find_closed(self, session_id: bytes) -> Link | None:
        """The closed link that remembers this session."""
        closed = self._closed.get(session_id)
        return None if closed is None else closed.link

    def linger(
        self, link: Link, close: Close | None, now: float, *, was_rejected: bool = False
    ) -> None:
        """Keeps a closed link for a while, to repeat its Close or to receive the last packets."""
        closed = _ClosedLink(link, close, now + CLOSED_LINK_LINGER_S, was_rejected)
        for session_id in link.session_ids():
            self._closed[session_id] = closed
        while len(self._closed) > self._closed_limit:
            rejected = (s for s, each in self._closed.items() if each.was_rejected)
            del self._closed[next(rejected, next(iter(self._closed)))]
            self.closed_links_evicted += 1
        if close is not None:
            try:
                link.send(codec.encode_message(close), now)
                self._transmit(link, now)
                link.stop_acks()
            except Exception as error:  # noqa: BLE001  the link ends anyway
                self.discard(link)
                self.note_error(link, error)

    def discard(self, link: Link) -> None:
        """Removes every trace of `link`, whatever its state."""
        for session_id in [s for s, each in self._closed.items() if each.link is link]:
            del self._closed[session_id]
        for session_id in self._indexed_sessions.pop(link, ()):
            if self._by_session.get(session_id) is link:
                del self._by_session[session_id]
        for address in [at for at, each in self._by_address.items() if each is link]:
            del self._by_address[address]
        if self.is_link(link):
            del self._links[link.peer_id]
            self._past_send_drops += self.coalescer.remove_peer(link.peer_id)
        self._forget_answering(link)
        self._dirty.pop(link, None)
        self._timers.cancel(link)
        self._to_close.pop(link, None)

    # --- sending --------------------------------------------------------------------------------

    def mark_dirty(self, link: Link) -> None:
        """Marks that `link` may have something to send."""
        self._dirty[link] = None

    def enqueue(self, link: Link, plaintext: bytes | codec.ChunkedMessage, now: float) -> bool:
        """Queues a message on `link`. Returns False, and counts it, if there is no room."""
        is_queued = link.send(plaintext, now)
        self._dirty[link] = None
        return is_queued

    def enqueue_rumors(self, rumors: Rumors, links: list[Link], now: float) -> int:
        """Queues rumors for `links`. Returns how many of these had room."""
        self._dirty.update(dict.fromkeys(links))
        return min(self.coalescer.enqueue(copy, links, now) for copy in rumors.copies)

    def enqueue_raw(self, datagrams: list[tuple[bytes, Address]]) -> None:
        """Queues datagrams that belong to no link."""
        self._outbox += datagrams

    def note_error(self, link: Link, error: Exception) -> None:
        """Keeps an exception in `link`, for the owner to end that link."""
        self._internal_errors.append(LinkError(link, error))

    @property
    def has_internal_errors(self) -> bool:
        """Whether `take_internal_errors` has something to return."""
        return bool(self._internal_errors)

    def take_internal_errors(self) -> list[LinkError]:
        """Returns the errors that occurred since the last call."""
        errors, self._internal_errors = self._internal_errors, []
        return errors

    def collect_datagrams(
        self, now: float, *, hold_open: bool, is_settled: bool
    ) -> list[tuple[bytes, Address]]:
        """Returns the datagrams that are due, each with its destination. `hold_open`: a rumor of this node
        was announced and no peer has requested it yet, so no link may end for lack of traffic. `is_settled`:
        all messages of this node are acknowledged, so that leaving waits for no peer that does not answer."""
        dirty, self._dirty = self._dirty, {}
        dirty.update(dict.fromkeys(self._timers.pop_expired(now)))
        dirty.update(self._to_close)
        self.coalescer.tick(now)
        for link in dirty:
            try:
                self._send_due(link, now, hold_open=hold_open, is_settled=is_settled)
            except Exception as error:  # noqa: BLE001  only this link ends
                self.note_error(link, error)
        outbox, self._outbox = self._outbox, []
        return outbox

    def _send_due(self, link: Link, now: float, *, hold_open: bool, is_settled: bool) -> None:
        """Sends what is due on `link`, and schedules its next turn."""
        if self._cut_through(link, now):
            return
        is_waiting = self.is_link(link) and self.coalescer.drain_into(link, now)
        if link in self._to_close:
            is_done = link.is_idle and not is_waiting and not hold_open
            if is_done or (is_settled and link.is_unanswered):
                del self._to_close[link]
                for plaintext in self._leave_messages:
                    link.send(plaintext, now)
        self._transmit(link, now)
        drain_at = self.coalescer.next_drain_at(link, now) if is_waiting else math.inf
        self._timers.schedule(link, min(link.transmit_at, drain_at))

    def _cut_through(self, link: Link, now: float) -> bool:
        """Sends the only waiting rumor of `link` past all queues if nothing is queued before it."""
        envelope = self.coalescer.peek_single(link)
        if envelope is None or self._to_close or not self.is_link(link):
            return False
        datagram = link.cut_through(envelope, now)
        if datagram is not None:
            self.coalescer.pop_single(link)
            self._outbox.append((datagram, link.address))
            self._timers.schedule(link, link.transmit_at)
        return datagram is not None

    def _transmit(self, link: Link, now: float) -> None:
        address = link.address
        self._outbox += link.validate_path(now)
        if link.address != address and self._by_address.get(address) is link:
            del self._by_address[address]
            self._by_address[link.address] = link
        for datagram in link.transmit(now):
            self._outbox.append((datagram, link.address))

        if link.is_unanswered:
            self._note_unanswered(link, now, is_silent=link.is_silent(now))
        elif link in self._unanswered and link.last_heard_at > self._unanswered[link]:
            del self._unanswered[link]
            self._answering_changes.append(AnsweringChange(link.peer_id, True))

    def _note_unanswered(self, link: Link, now: float, *, is_silent: bool) -> None:
        since = self._unanswered.get(link, -math.inf)
        if self.is_link(link) and now >= since + UNANSWERED_REPEAT_S:
            self._unanswered[link] = now
            self._answering_changes.append(AnsweringChange(link.peer_id, False, is_silent))

    def on_unsendable(self, address: Address, now: float) -> None:
        """The operating system cannot send to `address`: a link there is not answered."""
        link = self._by_address.get(address)
        if link is not None:
            self._note_unanswered(link, now, is_silent=True)

    def _forget_answering(self, link: Link) -> None:
        if self._unanswered.pop(link, None) is not None:
            changes = self._answering_changes
            self._answering_changes = [each for each in changes if each.peer_id != link.peer_id]

    def take_answering_changes(self) -> list[AnsweringChange]:
        """Returns which peers with a link stopped to acknowledge what they are sent, or resumed, since the
        last call. Those that do not are reported again every `UNANSWERED_REPEAT_S`."""
        changes, self._answering_changes = self._answering_changes, []
        return changes

    # --- time -----------------------------------------------------------------------------------

    @property
    def has_changed(self) -> bool:
        """Whether a link changed since the last `collect_datagrams`, and may have something to send."""
        return bool(self._dirty)

    @property
    def deadline(self) -> float:
        """When a link next has something to send, or `take_answering_changes` something to return."""
        if self._dirty or self._answering_changes:
            return -math.inf
        return min(self._timers.deadline, self.coalescer.deadline)

    def advance(self, now: float) -> None:
        """Abandons large messages that make no progress."""
        self._reassembly_budget.advance(now)

    def maintain(self, link: Link, now: float) -> None:
        """Removes expired sessions of `link`; called about once a second."""
        if link.advance(now):
            self._index(link)

    def expire_closed(self, now: float) -> None:
        """Removes expired closed links; called about once a second."""
        for session_id in [s for s, each in self._closed.items() if each.expires_at <= now]:
            del self._closed[session_id]
