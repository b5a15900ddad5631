"""One peer's whole path, both ways.

What must stay true:

- What comes in is opened, noted in the replay window and charged by its kind, in this order, before
  anybody decodes it.
- What goes out keeps to what the peer's record allows, so that its limiter never has to drop what
  we say; when that is scarce, control goes first and a heartbeat does not wait behind rumors.
- A session that was replaced still receives for a while, so nothing on its way is lost; it never
  sends but to answer whoever still confirms it.
- Two ends that send on different sessions, after losses in a handshake, agree again by themselves.

Driven by `receive`, `send` and `adopt` as things happen, `transmit` and `advance` at `deadline`.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final

from grapevine_proto.codec import MAX_PLAINTEXT, Data, encode_message
from grapevine_proto.config import LimitsConfig
from grapevine_proto.errors import DropReason, Refused
from grapevine_proto.ids import Address, PeerId
from grapevine_proto.link.handshake import Established
from grapevine_proto.link.session import REKEY_AFTER_S, SPENT_AFTER_S, Session
from grapevine_proto.messages import Empty, Kind, Record
from grapevine_proto.ratelimit import TokenBucket, cost

RETIRING_FOR_S: Final = 10.0  # after the last packet: longer than any datagram lives on the way
RETIRING_SESSIONS: Final = 2  # one replaced, and one that lost against it
REPAIR_CREDIT: Final = 64  # packets of repair on their way to us: the largest reply
DATAGRAMS_AT_ONCE: Final = 64  # 77 KB: a third of the usual socket buffer
SLOWEST_REFILL: Final = 0.09  # a second: what a record tells as 0 when nine tenths of 0.1 is meant
FOLLOW_AFTER_S: Final = 5.0  # twice what passes between the packets of whoever still confirms
AT_ONCE_S: Final = 5.0  # above what lost packets set two ends' views of one handshake apart

_CONTROL, _DATA, _REPAIR, _CLOSE = range(4)  # in this order they go
_RANKS: Final[dict[int, int]] = {
    Kind.RUMORS: _DATA,
    Kind.PRIVATE: _DATA,
    Kind.REPAIR: _REPAIR,
    Kind.CLOSE: _CLOSE,  # after all else, for whoever reads it reads no more
}
_EMPTY: Final = encode_message(Empty())


class Link:
    """The live session with one peer, the queue to it and the allowance of both.

    `bucket` is what we allow the peer, None for everything; it belongs to the PeerId and outlives
    the link, and so does `shape`, what the peer allows us, which a later link may be given again.
    `epoch` is the peer's as of the live session; its `record` may be newer, by hearsay.
    `sent` and `received` count datagrams; `allowed` and `throttled` what the bucket let through
    and refused; `unsent` what found no room in the queue or was cleared from it.
    """

    __slots__ = (
        "_owed",
        "_queue_bytes_limit",
        "_queue_limit",
        "_queued_bytes",
        "_queues",
        "_repairs_expected",
        "_retiring",
        "_send_at",
        "_wake_at",
        "address",
        "allowed",
        "bucket",
        "connected_at",
        "epoch",
        "last_heard_at",
        "peer_id",
        "received",
        "record",
        "rtt_s",
        "sent",
        "session",
        "shape",
        "throttled",
        "unsent",
    )

    def __init__(
        self,
        established: Established,
        bucket: TokenBucket | None,
        limits: LimitsConfig,
        now: float,
        *,
        shape: TokenBucket | None = None,
    ) -> None:
        self.peer_id: PeerId = established.record.peer_id
        self.address: Address = established.address
        self.session: Session = established.session
        self.epoch = established.record.epoch
        self.rtt_s = established.rtt_s
        self.connected_at = self.last_heard_at = now
        self.sent = self.allowed = self.throttled = self.unsent = 0
        self.received = 1  # the packet that made the session live
        self.bucket = bucket
        self.shape = shape
        self.record: Record = established.record
        self._retiring: list[tuple[Session, float]] = []  # and since when, the oldest first
        self._owed: list[Session] = []  # the peer began these and has not heard from us on them
        self._queues: tuple[deque[bytes], ...] = (deque(), deque(), deque(), deque())
        self._queued_bytes = [0, 0, 0, 0]
        self._queue_limit = limits.queue_messages
        self._queue_bytes_limit = limits.queue_bytes
        self._repairs_expected = 0
        self._send_at = math.inf
        self.learn(established.record, now)
        self._owe_answer(self.session, now)
        self._set_wake_at(now)

    # --- sessions ---

    def adopt(self, established: Established, now: float) -> None:
        """Send on this session from now on; the one before only receives."""
        replaced = self.session
        self.session = established.session
        self.address = established.address
        self.epoch = established.record.epoch
        if established.rtt_s is not None:
            self.rtt_s = established.rtt_s
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
        if not capacity:
            self.shape = None
        elif self.shape is None:
            self.shape = TokenBucket(capacity, refill, now)
        elif (capacity, refill) != (self.shape.capacity, self.shape.refill_rate):
            self.shape.resize(capacity, refill, now)
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
        return min(self._send_at, self._wake_at, ends_at)

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

    def receive(self, packet: Data, now: float) -> bytes:
        """The plaintext of `packet`, opened, noted and charged, to be decoded.

        Raises Refused: UNKNOWN_SESSION or as `Session.open` does, and then nothing has changed;
        RATE_LIMITED, and then the packet was heard, and counted in `throttled`.
        """
        session = self.session
        if packet.session_id == session.our_id:
            plaintext = session.open(packet, now)
        else:
            session = self._find_retiring(packet.session_id)
            plaintext = session.open(packet, now)
            self._follow(session, now)
        self.received += 1
        self.last_heard_at = now
        if plaintext[0] in (Kind.EMPTY, Kind.ASK):
            self._owe_answer(session, now)
        self.charge(plaintext, now)
        return plaintext

    def charge(self, plaintext: bytes, now: float) -> None:
        """Charge the peer for saying `plaintext`. Raises Refused(RATE_LIMITED)."""
        kind = plaintext[0]
        tokens = cost(kind)
        if kind == Kind.REPAIR and self._repairs_expected:
            self._repairs_expected -= 1
            tokens = 0
        if tokens and self.bucket is not None and not self.bucket.take(now, tokens):
            self.throttled += 1
            raise Refused(DropReason.RATE_LIMITED)
        self.allowed += 1

    def expect_repairs(self, count: int) -> None:
        """So many packets of repair were asked for and cost no token."""
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
            self.session = heard
            self._set_wake_at(now)

    def _owe_answer(self, session: Session, now: float) -> None:
        """The peer sends Empty until it hears from us on the session that it began; the other way
        round nothing is owed, so that two ends never answer each other for ever."""
        if not session.began_by_us and session not in self._owed:
            self._owed.append(session)
            self._send_at = now

    # --- out ---

    @property
    def queued(self) -> int:
        """Messages that wait to go."""
        return sum(map(len, self._queues))

    @property
    def has_room(self) -> bool:
        """Whether a message of any size would be queued."""
        return self._has_room(_DATA, MAX_PLAINTEXT)

    def takes(self, now: float) -> int:
        """How many messages of rumors would go at once if they were queued now."""
        waiting = len(self._queues[_CONTROL]) + len(self._queues[_DATA])
        if not self.has_room or self.session.is_spent(now):
            return 0
        free = DATAGRAMS_AT_ONCE - waiting
        if self.shape is not None:
            free = min(free, self.shape.whole(now) - waiting)
        return max(free, 0)

    def takes_at(self, now: float) -> float:
        """When `takes` is next more than 0, as things are; math.inf: once `transmit` made room."""
        if self._queues[_CONTROL] or self._queues[_DATA] or not self.has_room:
            return math.inf
        return now if self.shape is None else self.shape.ready_at(now)

    def send(self, plaintext: bytes, now: float) -> bool:
        """Queue `plaintext`, at most MAX_PLAINTEXT bytes; False: there is no room, and it is
        counted in `unsent`."""
        rank = _RANKS.get(plaintext[0], _CONTROL)
        if not self._has_room(rank, len(plaintext)):
            self.unsent += 1
            return False
        self._queues[rank].append(plaintext)
        self._queued_bytes[rank] += len(plaintext)
        self._send_at = self._ready_at(now)
        return True

    def clear(self) -> int:
        """Let go of all that is queued, so that a Close goes at once; how many messages that was."""
        cleared = self.queued
        for queue in self._queues:
            queue.clear()
        self._queued_bytes = [0, 0, 0, 0]
        self.unsent += cleared
        return cleared

    def transmit(self, now: float) -> list[bytes]:
        """Datagrams for `address` that may go now, a bounded number; `deadline` tells of more."""
        datagrams: list[bytes] = []
        while len(datagrams) < DATAGRAMS_AT_ONCE and not self.session.is_spent(now):
            plaintext = self._next(now)
            if plaintext is None:
                break
            datagrams.append(self.session.seal(plaintext, now))
        if self._owed:
            for session in self._owed:  # anything that went on the live session answers there
                if not (session is self.session and datagrams) and not session.is_spent(now):
                    datagrams.append(session.seal(_EMPTY, now))
            self._owed.clear()
        self.sent += len(datagrams)
        self._send_at = math.inf if self.session.is_spent(now) else self._ready_at(now)
        return datagrams

    def _has_room(self, rank: int, size_bytes: int) -> bool:
        """Control has room of its own, or rumors that wait would shut out the heartbeat."""
        mates = (_DATA, _REPAIR) if rank in (_DATA, _REPAIR) else (_CONTROL, _CLOSE)
        count = sum(len(self._queues[mate]) for mate in mates)
        if not count:
            return True
        waiting_bytes = sum(self._queued_bytes[mate] for mate in mates)
        return count < self._queue_limit and waiting_bytes + size_bytes <= self._queue_bytes_limit

    def _next(self, now: float) -> bytes | None:
        """Take the next message that may go from its queue."""
        control, data, repair, close = self._queues
        if control and self._may_go(control[0], now):
            return self._take(_CONTROL)
        if data and self._may_go(data[0], now):
            return self._take(_DATA)
        if repair:  # the peer asked for it and has paid by expecting it
            return self._take(_REPAIR)
        if close and not control and not data:
            return self._take(_CLOSE)
        return None

    def _may_go(self, plaintext: bytes, now: float) -> bool:
        tokens = cost(plaintext[0])
        return not tokens or self.shape is None or self.shape.take(now, tokens)

    def _take(self, rank: int) -> bytes:
        plaintext = self._queues[rank].popleft()
        self._queued_bytes[rank] -= len(plaintext)
        return plaintext

    def _ready_at(self, now: float) -> float:
        """When `transmit` would next return something, as things are."""
        control, data, repair, close = self._queues
        if self._owed or repair:
            return now
        if control or data:
            head = control[0] if control else data[0]
            return now if self.shape is None else self.shape.ready_at(now, cost(head[0]))
        return now if close else math.inf

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
