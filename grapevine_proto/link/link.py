"""One peer's whole path, both ways.

What must stay true:

- What comes in is opened, noted in the replay window and charged by its kind, in this order, before
  anybody decodes it.
- Nothing is told of what tells, so that two ends fall silent.
- What goes out keeps to what the peer's record allows, so that its limiter never has to drop what
  we say; when that is scarce, control goes first and a heartbeat does not wait behind rumors.
- All goes on the live session but what answers whoever still confirms another.
- The peer is where it last proved to be: packets from elsewhere move nothing by themselves.

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
)
from grapevine_proto.errors import DropReason, Refused
from grapevine_proto.ids import Address, PeerId
from grapevine_proto.link.allowance import Allowance
from grapevine_proto.link.flight import UNREPAIRED
from grapevine_proto.link.fragments import Budget, Reassembly, is_part
from grapevine_proto.link.intake import Intake
from grapevine_proto.link.pathcheck import Whereabouts
from grapevine_proto.link.replies import Replies
from grapevine_proto.link.sender import Sender
from grapevine_proto.link.session import Established, Session
from grapevine_proto.link.sessions import Sessions
from grapevine_proto.messages import (
    LINK_KINDS,
    Again,
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

MAX_MESSAGE_BYTES: Final = 10 * 2**20  # where nobody says otherwise: the default of the config


class Link:
    """The sessions with one peer, the queue to it and the allowance of both.

    `bucket`, what we allow the peer, belongs to the PeerId and outlives the link, and so does `shape`,
    what the peer allows us, which a later link may be given again. `budget` bounds what all links keep
    of large messages that have not come whole. Without `entropy` the peer stays where it is.
    `allowance` is what the peer may say, `path` what is known of the road there. `epoch` is the peer's
    as of the live session; its `record` may be newer, by hearsay. `sent` and `received` count datagrams.
    """

    __slots__ = (
        "_intake",
        "_is_part",
        "_queued_at",
        "_replies",
        "_send_at",
        "_sender",
        "_sessions",
        "_whereabouts",
        "address",
        "allowance",
        "connected_at",
        "epoch",
        "last_heard_at",
        "path",
        "peer_id",
        "received",
        "record",
        "sent",
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
        self.epoch = established.record.epoch
        self.connected_at = self.last_heard_at = now
        self.sent = 0
        self.received = 1  # the packet that made the session live
        self.record: Record = established.record
        self._sessions = Sessions(established.session, now)
        self._replies = Replies()
        self._sender = Sender(
            limits,
            congestion or CongestionConfig(),
            self.address.host,
            established.rtt_s,
            int.from_bytes(established.session.their_id[:4], "big") << 32,
            now,
        )
        self._sender.shape = shape
        self.path = self._sender.path
        self.allowance = Allowance(bucket)
        reassembly = Reassembly(max_message_bytes, budget or Budget(limits.reassembly_bytes))
        self._intake = Intake(self._sessions, self.allowance, reassembly)
        self._whereabouts = Whereabouts(entropy) if entropy is not None else None
        self._is_part = False  # of a large message: the packet received last
        self._send_at = math.inf
        self._queued_at: float | None = None  # since `_send_at` was reckoned
        self.learn(established.record, now)
        self._tell_arrivals_the_path()
        self._replies.owe_word(established.session, now)

    # --- sessions ---

    @property
    def session(self) -> Session:
        """The live one, which we send on."""
        return self._sessions.live

    def adopt(self, established: Established, now: float) -> None:
        """Send on this session from now on; the one before only receives."""
        self._sender.recovery.reroute(self._sessions.live.their_id, now)
        if established.address != self.address:
            self.path.move(established.address.host, established.rtt_s, now)
        elif established.rtt_s is not None and not self.path.trip.is_fresh(now):
            self.path.assume(established.rtt_s)
        self._sessions.replace(established.session, now)
        self._tell_arrivals_the_path()
        self.address = established.address
        self.epoch = established.record.epoch
        if established.record.version >= self.record.version:
            self.learn(established.record, now)
        self._note_confirmed(established, now)

    def also_receive(self, established: Established, now: float) -> None:
        """Receive on a session that does not take over, since the peer may send on it until it
        knows, and answer on it once, so that the peer's dial ends."""
        self._sessions.retire(established.session, now)
        self._note_confirmed(established, now)

    def learn(self, record: Record, now: float) -> None:
        """Keep to a newer record of the peer, whose limits may be others."""
        self.record = record
        self._sender.keep_to(record.rate_capacity, record.rate_refill, now)
        self._send_at = self._ready_at(now)

    def session_ids(self) -> list[bytes]:
        """What the peer writes on packets for us: the live session's, and the retiring ones'."""
        return [session.our_id for session in self._sessions]

    def needs_rekey(self, now: float) -> bool:
        """Whether it is time that we begin the next handshake."""
        return self._sessions.live.is_due_for_rekey(now)

    def is_dead(self, now: float) -> bool:
        """Whether the session is spent: nothing goes either way any more."""
        return self._sessions.live.is_spent(now)

    @property
    def deadline(self) -> float:
        """When more can go, a retiring session ends, a rekey is due, or the session is spent."""
        return min(self.sends_at, self._sessions.deadline)

    @property
    def sends_at(self) -> float:
        """When `check_path` or `transmit` has something to do; math.inf: not before something happens."""
        if self._queued_at is not None:
            self._send_at, self._queued_at = self._ready_at(self._queued_at), None
        check_at = self._whereabouts.deadline if self._whereabouts is not None else math.inf
        return min(self._send_at, self._replies.due_at, check_at)

    def advance(self, now: float) -> None:
        """Forget retiring sessions whose time is over. `session_ids` are then others."""
        self._sessions.advance(now)

    def _note_confirmed(self, established: Established, now: float) -> None:
        self.last_heard_at = now
        self.received += 1
        self._replies.owe_word(established.session, now)

    # --- in ---

    def receive(self, packet: Data, now: float, source: Address | None = None) -> bytes | None:
        """The message that `packet` carries or completes, opened, noted and charged, to be decoded;
        None: there is none, or not yet.

        Raises Refused: UNKNOWN_SESSION or as `Session.open` does, and then nothing has changed;
        RATE_LIMITED, or what is wrong with a frame, and then the packet was heard.
        """
        live = session = self._sessions.live
        if packet.session_id == live.our_id:
            highest = live.arrivals.highest
            plaintext = live.open(packet, now)
            if source is not None and source != self.address:
                self._doubt(source, packet, now, is_newest=packet.counter > highest)
        else:
            session = self._sessions.find(packet.session_id)
            plaintext = session.open(packet, now)
            if self._sessions.follow(session, now):
                self._sender.recovery.reroute(live.their_id, now)
                self._tell_arrivals_the_path()
        self.received += 1
        self.last_heard_at = now
        return self.take_in(plaintext, session, packet.counter, now)

    def take_in(self, plaintext: bytes, session: Session, counter: int, now: float) -> bytes | None:
        """The second half of `receive`, also for the packet that confirmed a session."""
        kind = plaintext[0]
        self._is_part = is_part(kind)
        if kind not in UNREPAIRED:
            self._replies.owe_feedback(session, counter, now)
        elif kind in (Kind.EMPTY, Kind.ASK, Kind.NEAR, Kind.SHORT):
            self._replies.owe_word(session, now)
        if kind not in LINK_KINDS:
            self.allowance.charge(plaintext, now)
            return plaintext
        match decode_frame(plaintext):
            case Fragment() as fragment:
                return self._intake.take_part(fragment, now)
            case Again() as again:
                return self._intake.take_again(again, now)
            case Feedback() as feedback:
                self._heed(feedback, now)
            case PathCheck() as check:
                self.allowance.take(cost(kind), now)
                self._replies.owe_answer(check, now)
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
            rtt_s = self.path.trip.round_s
            self._whereabouts.heard(source, size_bytes, is_newest=is_newest, round_s=rtt_s, now=now)

    def _heed(self, feedback: Feedback, now: float) -> None:
        """The peer tells what arrived; of a session that we no longer send on, nothing is left to
        be told. Raises Refused(MALFORMED) where it acknowledges what was never sent."""
        live = self._sessions.live
        if feedback.session_id == live.their_id:
            if feedback.end > live.next_counter:
                raise Refused(DropReason.MALFORMED)
            self._sender.recovery.on_feedback(feedback, now)
            self._tell_arrivals_the_path()
            self._send_at = self._ready_at(now)

    def _tell_arrivals_the_path(self) -> None:
        trip = self.path.trip
        self._sessions.live.arrivals.heed(trip.smoothed_s, trip.reorder_s)

    @property
    def is_receiving(self) -> bool:
        """Whether parts of a large message have come and others not."""
        return self._intake.is_receiving

    @property
    def has_grown(self) -> bool:
        """Whether the packet received last brought a large message on: a sign that what it holds comes.
        That packets come at all is none."""
        return self._is_part and self._intake.has_grown

    # --- out ---

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
    def lost(self) -> int:
        """Packets that went and did not come."""
        return self._sender.recovery.lost

    def is_ready(self, now: float) -> bool:
        """Whether a message of rumors would go at once if it were queued now."""
        return self._sender.is_ready(now) and not self._sessions.live.is_spent(now)

    def ready_at(self, now: float) -> float:
        """When it is, as things are; math.inf: not before something goes or is told of."""
        return math.inf if self._sessions.live.is_spent(now) else self._sender.takes_at(now)

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
        self._intake.clear()

    def check_path(self, now: float) -> list[tuple[bytes, Address]]:
        """What a doubt about where the peer is makes us ask now, and where; `address` may be another
        then."""
        check, session = self._whereabouts, self._sessions.live
        if check is None or now < check.deadline or session.is_spent(now):
            return []
        moved_to = check.verdict(now)
        if moved_to is not None:
            if moved_to.host != self.address.host:  # another port is the same way
                self.path.move(moved_to.host, None, now)
            self.address = moved_to
        asking = [
            (session.seal(encode_frame(PathCheck(token)), now), to or self.address)
            for token, to in check.due(now)
        ]
        self.sent += len(asking)
        return asking

    def transmit(self, now: float) -> list[bytes]:
        """Datagrams for `address` that may go now, a bounded number; `deadline` tells of more."""
        session, replies = self._sessions.live, self._replies
        self._queued_at = None
        if session.is_spent(now):
            replies.clear()
            self._send_at = math.inf
            return []
        is_owed = now >= replies.due_at
        datagrams = replies.first(self._sessions, now) if is_owed else []
        datagrams += self._sender.transmit(session, now)
        if is_owed:
            replies.last(datagrams, session, now)
        self.sent += len(datagrams)
        self._send_at = self._ready_at(now)
        return datagrams

    def cut_through(self, plaintext: bytes, now: float) -> bytes | None:
        """The datagram of a message of rumors that goes at once; None: something else is to go, or it
        has to wait, and nothing has happened."""
        check, session = self._whereabouts, self._sessions.live
        if (
            now >= self._replies.due_at
            or (check is not None and now >= check.deadline)
            or session.is_spent(now)
        ):
            return None
        datagram = self._sender.cut_through(plaintext, session, now)
        if datagram is not None:
            self.sent += 1
            self._send_at, self._queued_at = self._sender.recovery.probe_at, None
        return datagram

    def _ready_at(self, now: float) -> float:
        """When `transmit` would next have something to do, but for replies, as things are."""
        return math.inf if self._sessions.live.is_spent(now) else self._sender.ready_at(now)

    def __repr__(self) -> str:
        return f"Link({self.peer_id.short}… at {self.address}, {self.queued} queued)"
