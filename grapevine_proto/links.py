"""Links by session: who is linked, what may go to them now, and closed links that still have a word.

What must stay true:

- One link a peer. A packet finds its link by session, so a link survives that its peer moves; the
  sessions that find it are those it has, and no others.
- Whoever is told to go is told again for `PARTING_S` if it goes on speaking, since the first word may
  have been lost; of a peer that left, what was still on its way is heard. At most `PARTING_LIMIT`.
- Only links that something happened to, or whose time has come, are looked at when datagrams go out:
  what a datagram costs does not grow with how many links there are.
- What a link did not send before it ended is counted, and what its peer allowed us is remembered.
- A fault in serving one link never costs another its turn: it is noted in `faults`, and the owner ends
  that link.

It is a table, and knows nothing of the overlay: who may link, and what becomes of a message, others
decide.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from grapevine_proto import codec
from grapevine_proto.accounts import Accounts
from grapevine_proto.agenda import Agenda
from grapevine_proto.config import NodeConfig
from grapevine_proto.errors import DropReason, Refused
from grapevine_proto.ids import Address, PeerId
from grapevine_proto.link.fragments import Budget
from grapevine_proto.link.link import Link
from grapevine_proto.link.session import Established
from grapevine_proto.link.sessions import takes_over
from grapevine_proto.messages import Close, CloseReason, Frame, Kind, OverlayMessage, Rumors
from grapevine_proto.outflow import MESSAGE_BYTES, Outflow
from grapevine_proto.ratelimit import TokenBucket
from grapevine_proto.signed import Record
from grapevine_proto.untaken import Untaken

PARTING_S: Final = 10.0  # for which a closed session still says why it is closed
PARTING_LIMIT: Final = 64


class _Parting:
    """A link that is closed."""

    __slots__ = ("close", "link", "until", "was_turned_away")

    def __init__(
        self, link: Link, close: Close | None, until: float, was_turned_away: bool
    ) -> None:
        self.was_turned_away = was_turned_away  # it never was a link: the first to be forgotten
        self.link = link
        self.close = close  # None: the peer left
        self.until = until


class Links(Mapping[PeerId, Link]):
    """Linked peers and their links; sessions of no link, which `make` gives, are found and sent to
    like them. Driven by packets, by what is queued, and by `deadline`."""

    def __init__(
        self, config: NodeConfig, our_id: PeerId, *, entropy: Callable[[int], bytes]
    ) -> None:
        self._config = config
        self._our_id = our_id
        self._entropy = entropy
        self._links: dict[PeerId, Link] = {}
        self._by_session: dict[bytes, Link] = {}
        self._indexed: dict[Link, tuple[bytes, ...]] = {}  # the sessions that find it
        self._by_source: dict[Address, Link] = {}
        self._parting: dict[bytes, _Parting] = {}  # by session, the oldest first
        self._reassembly = Budget(config.limits.reassembly_bytes)
        self._touched: dict[Link, None] = {}  # those that something has happened to
        self._agenda: Agenda[Link] = Agenda()  # when others have something to send
        self._goodbye: list[bytes] = []
        self._to_part: dict[Link, None] = {}  # not yet told that we leave
        self._outbox: list[tuple[bytes, Address]] = []
        self._unsent_before = 0
        self.faults: list[
            tuple[Link, Exception]
        ] = []  # while links were served, for the owner to act on
        self.parted_early = 0  # closed links forgotten before their time, for want of room
        self.is_leaving = False
        self.is_kept = False  # something of ours was announced, and nobody has asked for it yet
        self.accounts = Accounts(config.rate_limit, self._links)
        self.outflow = Outflow(config.limits, MESSAGE_BYTES, our_id)
        self.untaken = Untaken()

    def reconfigure(self, config: NodeConfig, now: float) -> None:
        self._config = config
        self.accounts.reconfigure(config.rate_limit, now)
        for peer_id, link in self._links.items():
            account = self.accounts.get(peer_id)
            if account is not None:
                link.allowance.bucket = account.bucket

    # --- look -----------------------------------------------------------------------------------

    def __getitem__(self, peer_id: PeerId) -> Link:
        return self._links[peer_id]

    def __iter__(self) -> Iterator[PeerId]:
        return iter(self._links)

    def __len__(self) -> int:
        return len(self._links)

    @property
    def sessions(self) -> int:
        """How many sessions find a link."""
        return len(self._by_session)

    @property
    def unsent(self) -> int:
        """Messages that found no room, or were let go, on all links there ever were."""
        return self._unsent_before + sum(link.unsent for link in self._links.values())

    @property
    def unfinished(self) -> int:
        """Large messages that were given up before they had come whole."""
        return self._reassembly.dropped

    def with_session(self, session_id: bytes) -> Link | None:
        return self._by_session.get(session_id)

    def at(self, address: Address) -> Link | None:
        """The link whose peer is there."""
        return self._by_source.get(address)

    # --- links come and go ----------------------------------------------------------------------

    def is_link(self, link: Link) -> bool:
        """Whether `link` is one, and no short session."""
        return self._links.get(link.peer_id) is link

    def add(self, established: Established, now: float) -> Link:
        """A link with a peer that has none."""
        link = self._build(established, now)
        self._links[link.peer_id] = link
        self._index(link)
        return link

    def make(self, established: Established, now: float) -> Link:
        """The path to a peer, not in the table of links but found by its sessions."""
        link = self._build(established, now)
        self._index(link)
        return link

    def _build(self, established: Established, now: float) -> Link:
        account = self.accounts.of(established.record.peer_id, now)
        return Link(
            established,
            account.bucket,
            self._config.limits,
            now,
            shape=self._shape(established.record.peer_id, now),
            congestion=self._config.congestion,
            max_message_bytes=self._config.max_message_size,
            budget=self._reassembly,
            entropy=self._entropy,
        )

    def _shape(self, peer_id: PeerId, now: float) -> TokenBucket | None:
        """What the peer allows us: one allowance, over whatever we speak to it."""
        link = self._links.get(peer_id)
        return link.shape if link is not None else self.accounts.of(peer_id, now).shape

    def renew(self, link: Link, established: Established, now: float) -> None:
        """Another session with a linked peer of the same run: a rekey, or both ends dialling at once."""
        if takes_over(established, link.session, link.epoch, self._our_id, now):
            self._forget_source(link)
            link.adopt(established, now)
        else:
            link.also_receive(established, now)
        self._index(link)
        self.touch(link)

    def supersede(self, link: Link, established: Established, now: float) -> None:
        """The peer was restarted: its earlier link ends. Should the earlier run still live, two nodes
        have one identity, and it is told so."""
        link.clear()
        self.part(link, Close(CloseReason.OUTRANKED, (established.record,)), now)
        self.end(link, now)

    def turn_away(self, established: Established, close: Close, now: float) -> None:
        """Make no link of a session, but say why."""
        account = self.accounts.of(established.record.peer_id, now)
        link = Link(
            established,
            account.bucket,
            self._config.limits,
            now,
            max_message_bytes=0,  # whatever it says is heard for the length of a Close
            budget=self._reassembly,
        )
        self.part(link, close, now, was_turned_away=True)

    def cut(
        self,
        peer_id: PeerId,
        reason: CloseReason | None,
        *,
        tell: bool,
        now: float,
        others: tuple[Record, ...] = (),
    ) -> bool:
        """The link with `peer_id` ends, and it is told the reason, and whom to try instead; False:
        there is none."""
        link = self._links.pop(peer_id, None)
        if link is None:
            return False
        if reason is CloseReason.LEAVING:
            self.part(link, None, now)
        elif tell and reason is not None:
            link.clear()
            self.part(link, Close(reason, others), now)
        self._unsent_before += self.outflow.forget(peer_id)
        self.end(link, now)
        return True

    def end(self, link: Link, now: float) -> None:
        """Nothing more goes to `link` or comes from it, but what `part` keeps for a while."""
        link.close()
        self.accounts.of(link.peer_id, now).shape = link.shape
        self._touched.pop(link, None)
        self._agenda.drop(link)
        self._to_part.pop(link, None)
        self._unsent_before += link.unsent + link.queued
        for session_id in self._indexed.pop(link, ()):
            self._by_session.pop(session_id, None)
        self._forget_source(link)

    def part_from_all(self, last_words: list[bytes]) -> None:
        """What is queued still goes, then `last_words` to everybody with a session."""
        self.is_leaving = True
        self._goodbye = last_words
        self._to_part = dict.fromkeys((*self._links.values(), *self._by_session.values()))

    @property
    def is_drained(self) -> bool:
        """After `part_from_all`: whether everything queued has gone, and every peer has been told."""
        return self.is_leaving and not self._to_part

    def _index(self, link: Link) -> None:
        """Keep the sessions of `link` findable, and only those it still has."""
        current = tuple(link.session_ids())
        for session_id in self._indexed.get(link, ()):
            if session_id not in current and self._by_session.get(session_id) is link:
                del self._by_session[session_id]
        self._indexed[link] = current
        for session_id in current:
            self._by_session[session_id] = link
        if self.is_link(link) or link.peer_id not in self._links:
            self._by_source[link.address] = link

    def _forget_source(self, link: Link) -> None:
        if self._by_source.get(link.address) is link:
            del self._by_source[link.address]

    # --- in -------------------------------------------------------------------------------------

    def open(
        self, link: Link, packet: codec.Data, now: float, source: Address | None = None
    ) -> bytes | None:
        """What `packet` says, or completes, or None. Raises Refused."""
        try:
            plaintext = link.receive(packet, now, source)
        except Refused as refused:
            if refused.reason is DropReason.RATE_LIMITED:
                self.accounts.of(link.peer_id, now).throttled += 1
            raise
        if taken := link.taken():
            self.untaken.taken(taken)
        return plaintext

    def hear_parting(
        self, packet: codec.Data, now: float
    ) -> tuple[Link, OverlayMessage | Frame | None] | None:
        """A packet of a session that is closed: what is to be heard of it; None: there is no such
        session. Raises Refused."""
        parting = self._parting.get(packet.session_id)
        if parting is None:
            return None
        link, plaintext = parting.link, self.open(parting.link, packet, now)
        if plaintext is None:
            return link, None
        if parting.close is None:
            return link, codec.decode_message(plaintext)
        if plaintext[0] != Kind.CLOSE:
            link.send(codec.encode_message(parting.close), now)
            self._transmit(link, now)
        return link, None

    def parting_with_session(self, session_id: bytes) -> Link | None:
        """The closed link that still hears this session."""
        parting = self._parting.get(session_id)
        return None if parting is None else parting.link

    def part(
        self, link: Link, close: Close | None, now: float, *, was_turned_away: bool = False
    ) -> None:
        """Stay at a closed link for a while, to say so again or to hear the last words."""
        parting = _Parting(link, close, now + PARTING_S, was_turned_away)
        for session_id in link.session_ids():
            self._parting[session_id] = parting
        while len(self._parting) > PARTING_LIMIT:
            turned_away = (s for s, each in self._parting.items() if each.was_turned_away)
            del self._parting[next(turned_away, next(iter(self._parting)))]
            self.parted_early += 1
        if close is not None:
            try:
                link.send(codec.encode_message(close), now)
                self._transmit(link, now)
            except Exception as fault:  # noqa: BLE001  it ends anyway, and nothing else may suffer for that
                self.abandon(link)
                self.faults.append((link, fault))

    def abandon(self, link: Link) -> None:
        """Nothing is sent to `link` or heard from it any more, whatever state it is in."""
        for session_id in [s for s, each in self._parting.items() if each.link is link]:
            del self._parting[session_id]
        for session_id in self._indexed.pop(link, ()):
            if self._by_session.get(session_id) is link:
                del self._by_session[session_id]
        for address in [at for at, each in self._by_source.items() if each is link]:
            del self._by_source[address]
        if self.is_link(link):
            del self._links[link.peer_id]
            self._unsent_before += self.outflow.forget(link.peer_id)
        self._touched.pop(link, None)
        self._agenda.drop(link)
        self._to_part.pop(link, None)

    # --- out ------------------------------------------------------------------------------------

    def touch(self, link: Link) -> None:
        """`link` may have something to send: an answer, or feedback."""
        self._touched[link] = None

    def queue(self, link: Link, plaintext: bytes | codec.Spliced, now: float) -> None:
        link.send(plaintext, now)
        self._touched[link] = None

    def push(self, rumors: Rumors, links: list[Link], now: float) -> int:
        """Queue rumors for `links`; for how many of them there was room."""
        self._touched.update(dict.fromkeys(links))
        return min(self.outflow.push(copy, links, now) for copy in rumors.copies)

    def post(self, datagrams: list[tuple[bytes, Address]]) -> None:
        """Let datagrams go that are of no link."""
        self._outbox += datagrams

    def datagrams(self, now: float) -> list[tuple[bytes, Address]]:
        """What may go out now, each with where to. What is handed out is gone from here."""
        touched, self._touched = self._touched, {}
        touched.update(dict.fromkeys(self._agenda.due(now)))
        touched.update(self._to_part)
        self.outflow.look(now)
        for link in touched:
            try:
                self._serve(link, now)
            except Exception as fault:  # noqa: BLE001  of this link alone: the others have their turn
                self.faults.append((link, fault))
        outbox, self._outbox = self._outbox, []
        return outbox

    def _serve(self, link: Link, now: float) -> None:
        """Let go what may go to `link` now, and plan when to look at it again."""
        if self._cut_through(link, now):
            return
        is_waiting = self.is_link(link) and self.outflow.fill(link, now)
        is_done = link.is_settled and not is_waiting and not self.is_kept
        if link in self._to_part and is_done:
            del self._to_part[link]
            for plaintext in self._goodbye:
                link.send(plaintext, now)
        self._transmit(link, now)
        ready_at = self.outflow.ready_at(link, now) if is_waiting else math.inf
        self._agenda.plan(link, min(link.sends_at, ready_at))

    def _cut_through(self, link: Link, now: float) -> bool:
        """Let the one rumor that waits for `link` go past all queues, where nothing speaks against it."""
        envelope = self.outflow.only(link)
        if envelope is None or self._to_part or not self.is_link(link):
            return False
        datagram = link.cut_through(envelope, now)
        if datagram is None:
            return False
        self.outflow.went(link)
        self._outbox.append((datagram, link.address))
        self._agenda.plan(link, link.sends_at)
        return True

    def _transmit(self, link: Link, now: float) -> None:
        address = link.address
        self._outbox += link.check_path(now)
        if link.address != address and self._by_source.get(address) is link:
            del self._by_source[address]
            self._by_source[link.address] = link
        for datagram in link.transmit(now):
            self._outbox.append((datagram, link.address))

    # --- time -----------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        """When a link has something to send, as things are."""
        if self._touched:
            return -math.inf
        return min(self._agenda.deadline, self.outflow.deadline)

    def advance(self, now: float) -> None:
        """Forget large messages that do not grow."""
        self._reassembly.advance(now)

    def look_after(self, link: Link, now: float) -> None:
        """Once a second or so: forget sessions of `link` whose time is over."""
        before = link.session_ids()
        link.advance(now)
        if link.session_ids() != before:
            self._index(link)

    def forget_parted(self, now: float) -> None:
        """Once a second or so: forget closed links to which all is said."""
        for session_id in [s for s, each in self._parting.items() if each.until <= now]:
            del self._parting[session_id]
