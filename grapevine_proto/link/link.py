"""One peer's whole path, both ways.

What must stay true:

- What comes in is opened, noted in the replay window and charged by its kind, in this order, before
  anybody decodes it. Each content counts once, however often it was sent.
- While content comes in, its sender is told what arrived and what is missing, once a round trip;
  nothing is told of what tells, so that two ends fall silent.
- What goes out keeps to what the peer's record allows, so that its limiter never has to drop what
  we say; when that is scarce, control goes first and a heartbeat does not wait behind rumors.
- A session that was replaced still receives for a while, so nothing on its way is lost; it never
  sends but to answer whoever still confirms it.
- The peer is where it last proved to be: packets from elsewhere move nothing by themselves.
- Two ends that send on different sessions, after losses in a handshake, agree again by themselves.

Driven by `receive`, `send` and `adopt` as things happen, `transmit` and `advance` at `deadline`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from grapevine_proto.codec import (
    BOX_TAG_BYTES,
    DATA_OVERHEAD,
    Data,
    Spliced,
    decode_frame,
    encode_frame,
    encode_message,
)
from grapevine_proto.errors import DropReason, Refused
from grapevine_proto.ids import Address, PeerId
from grapevine_proto.link.flight import UNREPAIRED
from grapevine_proto.link.fragments import Budget, Reassembly
from grapevine_proto.link.pathcheck import Whereabouts
from grapevine_proto.link.sender import DATAGRAMS_AT_ONCE, Sender
from grapevine_proto.link.session import REKEY_AFTER_S, SPENT_AFTER_S, Established, Session
from grapevine_proto.messages import (
    LINK_KINDS,
    Again,
    Empty,
    Feedback,
    Fragment,
    Kind,
    PathAnswer,
    PathCheck,
    Probe,
)
from grapevine_proto.ratelimit import TokenBucket, cost
from grapevine_proto.sections import CongestionConfig, LimitsConfig
from grapevine_proto.signed import Record

__all__ = ["DATAGRAMS_AT_ONCE", "Link", "takes_over"]

RETIRING_FOR_S: Final = 10.0  # after the last packet: longer than any datagram lives on the way
RETIRING_SESSIONS: Final = 2  # one replaced, and one that lost against it
MAX_MESSAGE_BYTES: Final = 10 * 2**20  # where nobody says otherwise: the default of the config
REPAIR_CREDIT: Final = 64  # messages of repair on their way to us: twice the largest reply
SLOWEST_REFILL: Final = 0.09  # a second: what a record tells as 0 when nine tenths of 0.1 is meant
ANSWERS_LIMIT: Final = 4  # to path checks, between two calls of `transmit`
FOLLOW_AFTER_S: Final = 5.0  # twice what passes between the packets of whoever still confirms
AT_ONCE_S: Final = 5.0  # above what lost packets set two ends' views of one handshake apart

_EMPTY: Final = encode_message(Empty())


class Link:
    """The live session with one peer, the queue to it and the allowance of both.

    `bucket` is what we allow the peer, None for everything; it belongs to the PeerId and outlives
    the link, and so does `shape`, what the peer allows us, which a later link may be given again.
    `budget` bounds what all links keep of large messages that have not come whole. Without `entropy`
    the peer stays where it is.
    `epoch` is the peer's as of the live session; its `record` may be newer, by hearsay.
    `sent` and `received` count datagrams; `allowed` and `throttled` what the bucket let through
    and refused; `unsent` what found no room in the queue, was cleared from it, or let go after too
    many tries.
    """

    __slots__ = (
        "_answers",
        "_feedback_at",
        "_owed",
        "_queued_at",
        "_reassembly",
        "_repairs_expected",
        "_retiring",
        "_send_at",
        "_sender",
        "_wake_at",
        "_whereabouts",
        "address",
        "allowed",
        "bucket",
        "connected_at",
        "epoch",
        "last_heard_at",
        "peer_id",
        "received",
        "record",
        "sent",
        "session",
        "throttled",
    )

    def __init__(
        self,
        established: Established,
        bucket: TokenBucket | None,
        limits: LimitsConfig,
        now: float,
        *,
        shape: TokenBucket | None = None,
        congestion: CongestionConfig | None = None,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        budget: Budget | None = None,
        entropy: Callable[[int], bytes] | None = None,
    ) -> None:
        self.peer_id: PeerId = established.record.peer_id
        self.address: Address = established.address
        self.session: Session = established.session
        self.epoch = established.record.epoch
        self.connected_at = self.last_heard_at = now
        self.sent = self.allowed = self.throttled = 0
        self.received = 1  # the packet that made the session live
        self.bucket = bucket
        self.record: Record = established.record
        self._retiring: list[tuple[Session, float]] = []  # and since when, the oldest first
        self._owed: list[Session] = []  # the peer began these and has not heard from us on them
        self._sender = Sender(
            limits,
            congestion or CongestionConfig(),
            self.address.host,
            established.rtt_s,
            int.from_bytes(self.session.their_id[:4], "big") << 32,
            now,
        )
        self._sender.shape = shape
        self._reassembly = Reassembly(max_message_bytes, budget or Budget(limits.reassembly_bytes))
        self._repairs_expected = 0
        self._whereabouts = Whereabouts(entropy) if entropy is not None else None
        self._answers: list[bytes] = []  # to path checks
        self._feedback_at = math.inf
        self._send_at = math.inf
        self._queued_at: float | None = None  # since `_send_at` was reckoned
        self.learn(established.record, now)
        self._tell_arrivals_the_path()
        self._owe_answer(self.session, now)
        self._set_wake_at(now)

    # --- sessions ---

    def adopt(self, established: Established, now: float) -> None:
        """Send on this session from now on; the one before only receives."""
        replaced = self.session
        self._sender.recovery.reroute(replaced.their_id, now)
        if established.address != self.address:
            self._sender.path.move(established.address.host, established.rtt_s, now)
        elif established.rtt_s is not None and not self._sender.path.trip.is_fresh(now):
            self._sender.path.assume(established.rtt_s)
        self.session = established.session
        self._tell_arrivals_the_path()
        self.address = established.address
        self.epoch = established.record.epoch
        if established.record.version >= self.record.version:
            self.learn(established.record, now)
        self._retire(replaced, now)
        self._note_confirmed(established, now)

    def also_receive(self, established: Established, now: float) -> None:
        """Receive on a session that does not take over, since the peer may send on it until it
        knows, and answer on it once, so that the peer's dial ends."""
        self._retire(established.session, now)
        self._note_confirmed(established, now)

    def learn(self, record: Record, now: float) -> None:
        """Keep to a newer record of the peer, whose limits may be others."""
        self.record = record
        capacity, refill = record.rate_capacity, max(record.rate_refill, SLOWEST_REFILL)
        sender = self._sender
        if not capacity:
            sender.shape = None
        elif sender.shape is None:
            sender.shape = TokenBucket(capacity, refill, now)
        elif (capacity, refill) != (sender.shape.capacity, sender.shape.refill_rate):
            sender.shape.resize(capacity, refill, now)
        self._send_at = self._ready_at(now)

    def session_ids(self) -> list[bytes]:
        """What the peer writes on packets for us: the live session's, and the retiring ones'."""
        return [self.session.our_id, *(session.our_id for session, _ in self._retiring)]

    def needs_rekey(self, now: float) -> bool:
        """Whether it is time that we begin the next handshake."""
        return self.session.is_due_for_rekey(now)

    def is_dead(self, now: float) -> bool:
        """Whether the session is spent: nothing goes either way any more."""
        return self.session.is_spent(now)

    @property
    def deadline(self) -> float:
        """When more can go, a retiring session ends, a rekey is due, or the session is spent."""
        ends_at = min((self._ends_at(*each) for each in self._retiring), default=math.inf)
        return min(self.sends_at, self._wake_at, ends_at)

    @property
    def sends_at(self) -> float:
        """When `check_path` or `transmit` has something to do; math.inf: not before something happens."""
        if self._queued_at is not None:
            self._send_at, self._queued_at = self._ready_at(self._queued_at), None
        check_at = self._whereabouts.deadline if self._whereabouts is not None else math.inf
        return min(self._send_at, self._feedback_at, check_at)

    def advance(self, now: float) -> None:
        """Forget retiring sessions whose time is over. `session_ids` are then others."""
        self._retiring = [each for each in self._retiring if self._ends_at(*each) > now]
        self._set_wake_at(now)

    def _retire(self, session: Session, now: float) -> None:
        self._retiring = [*self._retiring, (session, now)][-RETIRING_SESSIONS:]

    def _note_confirmed(self, established: Established, now: float) -> None:
        self.last_heard_at = now
        self.received += 1
        self._owe_answer(established.session, now)
        self._set_wake_at(now)

    def _set_wake_at(self, now: float) -> None:
        begun_at = self.session.created_at
        due = begun_at + REKEY_AFTER_S, begun_at + SPENT_AFTER_S
        self._wake_at = min((at for at in due if at > now), default=math.inf)

    @staticmethod
    def _ends_at(session: Session, retired_at: float) -> float:
        ends_at = max(session.last_opened_at, retired_at) + RETIRING_FOR_S
        return min(ends_at, session.created_at + SPENT_AFTER_S)

    # --- in ---

    def receive(self, packet: Data, now: float, source: Address | None = None) -> bytes | None:
        """The message that `packet` carries or completes, opened, noted and charged, to be decoded;
        None: there is none, or not yet.

        Raises Refused: UNKNOWN_SESSION or as `Session.open` does, and then nothing has changed;
        RATE_LIMITED, counted in `throttled`, or what is wrong with a frame, and then the packet was
        heard.
        """
        session = self.session
        if packet.session_id == session.our_id:
            highest = session.arrivals.highest
            plaintext = session.open(packet, now)
            if source is not None and source != self.address:
                self._doubt(source, packet, now, is_newest=packet.counter > highest)
        else:
            session = self._find_retiring(packet.session_id)
            plaintext = session.open(packet, now)
            self._follow(session, now)
        self.received += 1
        self.last_heard_at = now
        return self.take_in(plaintext, session, packet.counter, now)

    def take_in(self, plaintext: bytes, session: Session, counter: int, now: float) -> bytes | None:
        """The second half of `receive`, also for the packet that confirmed a session."""
        kind = plaintext[0]
        if kind not in UNREPAIRED:
            session.arrivals.owe(counter, now)
            self._feedback_at = min(self._feedback_at, session.arrivals.due_at)
        elif kind in (Kind.EMPTY, Kind.ASK, Kind.NEAR, Kind.SHORT):
            self._owe_answer(session, now)
        if kind not in LINK_KINDS:
            self.charge(plaintext, now)
            return plaintext
        match decode_frame(plaintext):
            case Fragment() as fragment:
                return self._take_fragment(fragment, now)
            case Again() as again:
                return self._take_again(again, now, is_paid=False)
            case Feedback() as feedback:
                self._heed(feedback, now)
            case PathCheck(token):
                self._charge_tokens(cost(kind), now)
                self._answers = [*self._answers, encode_frame(PathAnswer(token))][-ANSWERS_LIMIT:]
                self._send_at = now
            case PathAnswer(token):
                if self._whereabouts is not None:
                    self._whereabouts.answered(token, now)
            case Probe():
                pass
        return None

    def _doubt(self, source: Address, packet: Data, now: float, *, is_newest: bool) -> None:
        """What the peer said came from another address than we send to."""
        if self._whereabouts is not None:
            size_bytes = DATA_OVERHEAD - BOX_TAG_BYTES + len(packet.box)
            round_s = self._sender.path.trip.round_s
            self._whereabouts.heard(
                source, size_bytes, is_newest=is_newest, round_s=round_s, now=now
            )

    def charge(self, plaintext: bytes, now: float) -> None:
        """Charge the peer for saying `plaintext`. Raises Refused(RATE_LIMITED)."""
        kind = plaintext[0]
        tokens = cost(kind)
        if kind == Kind.REPAIR and self._repairs_expected:
            self._repairs_expected -= 1
            tokens = 0
        self._charge_tokens(tokens, now)
        self.allowed += 1

    def _charge_tokens(self, tokens: int, now: float) -> None:
        if tokens and self.bucket is not None and not self.bucket.take(now, tokens):
            self.throttled += 1
            raise Refused(DropReason.RATE_LIMITED)

    def _take_fragment(self, fragment: Fragment, now: float) -> bytes | None:
        reassembly = self._reassembly
        tokens = reassembly.tokens_due(fragment)
        if tokens:
            if fragment.of_repair and (reassembly.knows(fragment) or self._repairs_expected):
                self._repairs_expected -= not reassembly.knows(fragment)
            else:
                self._charge_tokens(tokens, now)
        plaintext = reassembly.receive(fragment, now)
        if plaintext is None:
            return None
        self.allowed += 1
        if plaintext[0] != Kind.AGAIN:
            return plaintext
        again = decode_frame(plaintext)
        return self._take_again(again, now, is_paid=True) if isinstance(again, Again) else None

    def _take_again(self, again: Again, now: float, *, is_paid: bool) -> bytes:
        """What a lost packet carried, where it has not come after all. Raises Refused."""
        session = self.session
        if again.session_id != session.our_id:
            session = self._find_retiring(again.session_id)
        plaintext = again.plaintext
        if plaintext[0] in UNREPAIRED or plaintext[0] in LINK_KINDS:
            raise Refused(DropReason.MALFORMED)
        if not session.claim(again.counter, now):
            raise Refused(DropReason.DUPLICATE)
        if not is_paid:
            self.charge(plaintext, now)
        return plaintext

    def _heed(self, feedback: Feedback, now: float) -> None:
        """The peer tells what arrived; of a session that we no longer send on, nothing is left to
        be told."""
        if feedback.session_id == self.session.their_id:
            self._sender.recovery.on_feedback(feedback, now)
            self._tell_arrivals_the_path()
            self._send_at = self._ready_at(now)

    def _tell_arrivals_the_path(self) -> None:
        trip, arrivals = self._sender.path.trip, self.session.arrivals
        arrivals.heed(trip.smoothed_s, trip.reorder_s)

    @property
    def is_receiving(self) -> bool:
        """Whether parts of a large message have come and others not."""
        return self._reassembly.is_busy

    def expect_repairs(self, count: int) -> None:
        """So many messages of repair were asked for and cost no token."""
        self._repairs_expected = min(self._repairs_expected + count, REPAIR_CREDIT)

    def _find_retiring(self, session_id: bytes) -> Session:
        for session, _ in self._retiring:
            if session.our_id == session_id:
                return session
        raise Refused(DropReason.UNKNOWN_SESSION)

    def _follow(self, heard: Session, now: float) -> None:
        """Send where the peer does, when for long nothing has come on the session we send on: the
        peer may have given it up before it was live there. The end that would go over to the
        session with the larger mark waits longer, so two ends never swap for ever."""
        patience_s = FOLLOW_AFTER_S if _mark(heard) < _mark(self.session) else 2 * FOLLOW_AFTER_S
        if now - self.session.last_opened_at >= patience_s:
            self._retiring = [each for each in self._retiring if each[0] is not heard]
            self._retire(self.session, now)
            self._sender.recovery.reroute(self.session.their_id, now)
            self.session = heard
            self._tell_arrivals_the_path()
            self._set_wake_at(now)

    def _owe_answer(self, session: Session, now: float) -> None:
        """The peer sends Empty until it hears from us on the session that it began; the other way
        round nothing is owed, so that two ends never answer each other for ever."""
        if not session.began_by_us and session not in self._owed:
            self._owed.append(session)
            self._send_at = now

    # --- out ---

    @property
    def rtt_s(self) -> float | None:
        """The round trip, smoothed; None: nothing has been measured."""
        trip = self._sender.path.trip
        return trip.smoothed_s if trip.is_measured else None

    def fresh_rtt_s(self, now: float) -> float | None:
        """The same, where data measured it lately."""
        trip = self._sender.path.trip
        return trip.smoothed_s if trip.is_fresh(now) else None

    @property
    def shape(self) -> TokenBucket | None:
        """What the peer allows us."""
        return self._sender.shape

    @shape.setter
    def shape(self, shape: TokenBucket | None) -> None:
        self._sender.shape = shape

    @property
    def unsent(self) -> int:
        return self._sender.unsent

    @property
    def queued(self) -> int:
        """Messages that wait to go."""
        return self._sender.queued

    def has_room_for(self, size_bytes: int) -> bool:
        """Whether a message of so many bytes would be queued."""
        return self._sender.has_room_for(size_bytes)

    @property
    def is_settled(self) -> bool:
        """Whether nothing waits to go and all that went has been told of."""
        return self._sender.is_idle

    @property
    def rate(self) -> float:
        """Bytes a second that may go."""
        return self._sender.path.rate

    @property
    def lost(self) -> int:
        """Packets that went and did not come."""
        return self._sender.recovery.lost

    @property
    def datagram_bytes(self) -> int:
        """How large a datagram the path bears."""
        return self._sender.path.mtu.datagram_bytes

    def is_ready(self, now: float) -> bool:
        """Whether a message of rumors would go at once if it were queued now."""
        return self._sender.is_ready(now) and not self.session.is_spent(now)

    def ready_at(self, now: float) -> float:
        """When it is, as things are; math.inf: not before something goes or is told of."""
        return math.inf if self.session.is_spent(now) else self._sender.takes_at(now)

    def count_unsent(self, messages: int) -> None:
        """So many messages were meant for the peer and found no room before they came here."""
        self._sender.count_unsent(messages)

    def send(self, plaintext: bytes | Spliced, now: float) -> bool:
        """Queue `plaintext`, of any size; False: there is no room, and it is counted in `unsent`."""
        if not self._sender.push(plaintext):
            return False
        if self._send_at > now:
            self._queued_at = now
        return True

    def taken(self) -> list[tuple[int, int]]:
        """The rumors of ours that the peer has, as it told since the last call."""
        recovery = self._sender.recovery
        if not recovery.taken:
            return []
        taken, recovery.taken = recovery.taken, []
        return taken

    def clear(self) -> int:
        """Let go of all that is queued, so that a Close goes at once; how many messages that was."""
        return self._sender.clear()

    def close(self) -> None:
        """The link ends: give back what is kept for it."""
        self._reassembly.clear()

    def refused(self, size_bytes: int, now: float) -> None:
        """The system would not send a datagram of this size to the peer."""
        self._sender.path.refused(size_bytes, now)

    def check_path(self, now: float) -> list[tuple[bytes, Address]]:
        """What a doubt about where the peer is makes us ask now, and where; `address` may be another
        then."""
        check = self._whereabouts
        if check is None or now < check.deadline or self.session.is_spent(now):
            return []
        moved_to = check.verdict(now)
        if moved_to is not None:
            if moved_to.host != self.address.host:  # another port is the same way
                self._sender.path.move(moved_to.host, None, now)
            self.address = moved_to
        asking = [
            (self.session.seal(encode_frame(PathCheck(token)), now), to or self.address)
            for token, to in check.due(now)
        ]
        self.sent += len(asking)
        return asking

    def transmit(self, now: float) -> list[bytes]:
        """Datagrams for `address` that may go now, a bounded number; `deadline` tells of more."""
        session, self._queued_at = self.session, None
        if session.is_spent(now):
            self._owed.clear()
            self._answers.clear()
            self._send_at = self._feedback_at = math.inf
            return []
        datagrams = self._feedback(now) if now >= self._feedback_at else []
        datagrams += [session.seal(answer, now) for answer in self._answers]
        self._answers.clear()
        datagrams += self._sender.transmit(session, now)
        if self._owed:
            for owed in self._owed:  # anything that went on the live session answers there
                if not (owed is session and datagrams) and not owed.is_spent(now):
                    datagrams.append(owed.seal(_EMPTY, now))
            self._owed.clear()
        self.sent += len(datagrams)
        self._send_at = self._ready_at(now)
        return datagrams

    def cut_through(self, plaintext: bytes, now: float) -> bytes | None:
        """The datagram of a message of rumors that goes at once; None: something else is to go, or it
        has to wait, and nothing has happened."""
        check = self._whereabouts
        if (
            self._owed
            or self._answers
            or now >= self._feedback_at
            or (check is not None and now >= check.deadline)
            or self.session.is_spent(now)
        ):
            return None
        datagram = self._sender.cut_through(plaintext, self.session, now)
        if datagram is not None:
            self.sent += 1
            self._send_at, self._queued_at = self._sender.recovery.probe_at, None
        return datagram

    def _feedback(self, now: float) -> list[bytes]:
        """What the peer is to be told of what it sent, on all sessions that it may have used."""
        datagrams: list[bytes] = []
        self._feedback_at = math.inf
        for session in (self.session, *(session for session, _ in self._retiring)):
            arrivals = session.arrivals
            if arrivals.due_at <= now:
                first, end, latest, delay_s, missing = arrivals.report(now)
                delay_us = int(delay_s * 1e6)
                told = Feedback(session.our_id, first, end, latest, delay_us, missing)
                datagrams.append(self.session.seal(encode_frame(told), now))
            self._feedback_at = min(self._feedback_at, arrivals.due_at)
        return datagrams

    def _ready_at(self, now: float) -> float:
        """When `transmit` would next have something to do, but for feedback, as things are."""
        if self.session.is_spent(now):
            return math.inf
        return now if self._owed or self._answers else self._sender.ready_at(now)

    def __repr__(self) -> str:
        return f"Link({self.peer_id.short}… at {self.address}, {self.queued} queued)"


def takes_over(new: Established, link: Link, our_id: PeerId, now: float) -> bool:
    """Whether `new` should be adopted by `link`, which has a session with the same peer already.

    The higher epoch wins, else the later session, but of two made at once, as when both ends dial,
    the one begun by the smaller PeerId. Both ends come to the same answer, whichever session they
    saw first; where the road has them disagree after all, `Link` follows the peer in time.
    """
    if link.is_dead(now):
        return True
    if new.record.epoch != link.epoch:
        return new.record.epoch > link.epoch
    newer_by_s = new.session.created_at - link.session.created_at
    began_by_us = new.session.began_by_us
    if began_by_us == link.session.began_by_us or abs(newer_by_s) > AT_ONCE_S:
        return newer_by_s >= 0
    return began_by_us == (our_id < link.peer_id)


def _mark(session: Session) -> bytes:
    """The same seen from both ends."""
    return min(session.our_id, session.their_id)
