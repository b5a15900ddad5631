"""The connection to one peer: sessions, send queues, loss recovery and rate limits (RFC 9000, RFC 9002).

Invariants:

- An incoming packet is decrypted, recorded in the replay window and charged by its kind, in this order,
  before anything decodes it.
- ACKs are not acknowledged, so an idle link goes quiet.
- Sending respects the rate limit in the peer's record, so the peer never has to drop our messages. When
  tokens are scarce, control goes first and a heartbeat does not wait behind rumors.
- Everything is sent on the live session, except confirmations of another one.
- The peer's address is the last validated one; a packet from another address only starts validation.

Call `receive`, `send` and `replace_session` as events occur, `transmit` and `advance` at `deadline`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from grapevine_proto.config.sections import CongestionConfig, LimitsConfig
from grapevine_proto.errors import Dropped, DropReason
from grapevine_proto.ids import Address, PeerId
from grapevine_proto.token_bucket import TokenBucket, token_cost
from grapevine_proto.transport.link.acks import PendingReplies
from grapevine_proto.transport.link.content_receiver import ContentReceiver
from grapevine_proto.transport.link.fragments import FRAGMENT_KINDS
from grapevine_proto.transport.link.inbound_limit import InboundLimit
from grapevine_proto.transport.link.path_validation import PathValidator
from grapevine_proto.transport.link.reassembly import Reassembly, ReassemblyBudget
from grapevine_proto.transport.link.sender import Sender
from grapevine_proto.transport.link.sent_packets import NON_ACK_ELICITING_KINDS
from grapevine_proto.transport.session.session import EstablishedSession, Session
from grapevine_proto.transport.session.sessions import Sessions
from grapevine_proto.wire.codec import (
    BOX_TAG_BYTES,
    DATA_OVERHEAD_BYTES,
    ChunkedMessage,
    Data,
    TrackedKey,
    decode_frame,
    encode_frame,
)
from grapevine_proto.wire.messages import (
    LINK_FRAME_KINDS,
    Ack,
    Fragment,
    Kind,
    MtuProbe,
    PathChallenge,
    PathResponse,
    PiggybackedAck,
    Retransmit,
)
from grapevine_proto.wire.signed import PeerRecord

RETRANSMITTED_START: Final = 1  # of the session ID in a Retransmit
RETRANSMITTED_END: Final = 9
PTOS_OF_SILENCE: Final = 2  # after which a peer that does not acknowledge may be elsewhere
DEFAULT_MAX_MESSAGE_BYTES: Final = 10 * 2**20  # the default of `NodeConfig.max_message_size`


class Link:
    """One link.

    `inbound_limit` charges the peer, `path` is the state of the network path. `epoch` is the peer's in the
    live session; `record` may be newer, learned from another member. `path_kind` tells how `address` is
    reached. `sent` and `received` count datagrams. `transfer_s`: seconds from the first fragment of the
    latest message to its last; 0 if it came in one packet.

    Args:
        established: the completed handshake.
        bucket: the peer's inbound tokens, None for unlimited. It belongs to the peer ID and outlives the
        link. limits: sizes of the tables.
        now: seconds of the node's monotonic clock, as everywhere.
        send_limit: tokens that an earlier link to the peer left, to be used up further.
        congestion: settings of the congestion controller.
        max_message_bytes: largest accepted message.
        reassembly_budget: memory for incomplete messages, shared by all links.
        max_ack_delay_s: how long the peer may wait before it acknowledges rumors of this node.
        entropy: random bytes for path validation. Without it the peer's address never changes.
    """

    __slots__ = (
        "_content_receiver",
        "_enqueued_at",
        "_last_was_fragment",
        "_path_validator",
        "_peers_max_ack_delay_s",
        "_pending_replies",
        "_sender",
        "_sessions",
        "_transmit_at",
        "address",
        "connected_at",
        "epoch",
        "inbound_limit",
        "last_heard_at",
        "path",
        "path_kind",
        "peer_id",
        "received",
        "record",
        "sent",
        "transfer_s",
    )

    def __init__(
        self,
        established: EstablishedSession,
        bucket: TokenBucket | None,
        limits: LimitsConfig,
        now: float,
        *,
        send_limit: TokenBucket | None = None,
        congestion: CongestionConfig | None = None,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
        reassembly_budget: ReassemblyBudget | None = None,
        max_ack_delay_s: float = 0.0,
        entropy: Callable[[int], bytes] | None = None,
    ) -> None:
        self.peer_id: PeerId = established.record.peer_id
        self.address: Address = established.address
        self.epoch = established.record.epoch
        self.connected_at = self.last_heard_at = now
        self.sent = 0
        self.received = 1  # the packet that made the session live
        self.record: PeerRecord = established.record
        self._sessions = Sessions(established.session, now)
        self._pending_replies = PendingReplies(self._sessions)
        self._sender = Sender(
            limits,
            congestion or CongestionConfig(),
            self.address.host,
            established.rtt_s,
            int.from_bytes(established.session.their_id[:4], "big") << 32,
            self._pending_replies,
            now,
        )
        self.set_max_ack_delay(max_ack_delay_s)
        self._sender.send_limit = send_limit
        self.path = self._sender.path
        self.inbound_limit = InboundLimit(bucket)
        reassembly = Reassembly(
            max_message_bytes, reassembly_budget or ReassemblyBudget(limits.reassembly_bytes)
        )
        self._content_receiver = ContentReceiver(self._sessions, self.inbound_limit, reassembly)
        self._path_validator = PathValidator(entropy) if entropy is not None else None
        self._last_was_fragment = False  # whether the latest packet was a fragment
        self.transfer_s = 0.0
        self._transmit_at = math.inf
        self._enqueued_at: float | None = (
            None  # when something was queued since `_transmit_at` was computed
        )
        self.path_kind = established.path
        self.apply_record(established.record, now)
        self._update_ack_timing()
        self._pending_replies.schedule_confirm(established.session, now)

    # --- sessions ---

    @property
    def session(self) -> Session:
        """The live session, which sends."""
        return self._sessions.live

    def replace_session(self, established: EstablishedSession, now: float) -> None:
        """Makes `established` the live session. The previous one only receives, and what it has in flight is
        retransmitted."""
        self._sender.recovery.retransmit_all(self._sessions.live.their_id, now)
        if established.address != self.address:
            self.path.reset(established.address.host, established.rtt_s, now)
            self.path_kind = established.path
        elif established.rtt_s is not None and not self.path.rtt.has_recent_sample(now):
            self.path.use_handshake_rtt(established.rtt_s)
        self._sessions.replace(established.session, now)
        self._update_ack_timing()
        self.address = established.address
        self.epoch = established.record.epoch
        if established.record.version >= self.record.version:
            self.apply_record(established.record, now)
        self._on_confirmed(established, now)

    def add_receive_session(self, established: EstablishedSession, now: float) -> None:
        """Adds a session that does not supersede the live one. The peer may send on it until it learns
        that, and gets one packet on it, which completes its dial."""
        self._sessions.retire(established.session, now)
        self._on_confirmed(established, now)

    def apply_record(self, record: PeerRecord, now: float) -> None:
        """Uses a newer record of the peer, whose rate limit may have changed."""
        self.record = record
        self._peers_max_ack_delay_s = record.max_ack_delay_s
        self._sender.set_send_limit(record.rate_capacity, record.rate_refill, now)
        self._transmit_at = self._next_transmit_at(now)

    def session_ids(self) -> list[bytes]:
        """Returns the IDs of all receiving sessions: the live one and the retiring ones."""
        return [session.our_id for session in self._sessions]

    def needs_rekey(self, now: float) -> bool:
        """Whether this node should start a rekey."""
        return self._sessions.live.is_due_for_rekey(now)

    def is_expired(self, now: float) -> bool:
        """Whether the live session has expired, so the link can neither send nor receive."""
        return self._sessions.live.is_expired(now)

    @property
    def deadline(self) -> float:
        """When to call `transmit` or `advance`: more can be sent, a session ends, or a rekey is due."""
        return min(self.transmit_at, self._sessions.deadline)

    @property
    def transmit_at(self) -> float:
        """When `validate_path` or `transmit` has something to do; math.inf: after another event."""
        if self._enqueued_at is not None:
            self._transmit_at, self._enqueued_at = self._next_transmit_at(self._enqueued_at), None
        validation_at = (
            self._path_validator.deadline if self._path_validator is not None else math.inf
        )
        return min(self._transmit_at, self._pending_replies.due_at, validation_at)

    def advance(self, now: float) -> bool:
        """Removes retiring sessions whose timeout has passed. Returns whether `session_ids` changed."""
        return self._sessions.advance(now)

    def _on_confirmed(self, established: EstablishedSession, now: float) -> None:
        self.last_heard_at = now
        self.received += 1
        self._pending_replies.schedule_confirm(established.session, now)

    # --- in ---

    def receive(self, packet: Data, now: float, source: Address | None = None) -> bytes | None:
        """Decrypts, records and charges `packet`, which came from `source`.

        Returns the message that it carries or completes, not decoded yet; None if there is none.

        Raises Dropped: UNKNOWN_SESSION or as `Session.open`, and nothing has changed; or RATE_LIMITED or the
        defect of a frame, and the packet counts as received.
        """
        live = session = self._sessions.live
        if packet.session_id == live.our_id:
            highest = live.ack_tracker.highest
            plaintext = live.open(packet, now)
            if source is not None and source != self.address:
                self._on_new_source(source, packet, now, is_newest=packet.counter > highest)
        else:
            session = self._sessions.find(packet.session_id)
            plaintext = session.open(packet, now)
            if self._sessions.follow_peer(session, now):
                self._sender.recovery.retransmit_all(live.their_id, now)
                self._update_ack_timing()
        self.received += 1
        self.last_heard_at = now
        return self.handle_payload(plaintext, session, packet.counter, now)

    def handle_payload(
        self, plaintext: bytes, session: Session, counter: int, now: float
    ) -> bytes | None:
        """Handles the plaintext of packet `counter`: the second half of `receive`, also used for the packet
        that confirmed a session. Returns and raises as `receive`."""
        kind = plaintext[0]
        self._last_was_fragment = kind in FRAGMENT_KINDS
        self.transfer_s = 0.0
        if kind == Kind.RETRANSMIT and not self._sessions.has(
            plaintext[RETRANSMITTED_START:RETRANSMITTED_END]
        ):
            # Of two sessions at once this end has not confirmed that one yet: the message comes once more.
            raise Dropped(DropReason.UNKNOWN_SESSION)
        if kind not in NON_ACK_ELICITING_KINDS:
            max_delay_s = self._peers_max_ack_delay_s if kind == Kind.RUMORS else 0.0
            self._pending_replies.schedule_ack(session, counter, now, max_delay_s)
        elif kind in (Kind.CONFIRM, Kind.NEIGHBOR_REQUEST, Kind.SWAP_REQUEST, Kind.OPEN_TRANSIENT):
            self._pending_replies.schedule_confirm(session, now)
        if kind not in LINK_FRAME_KINDS:
            self.inbound_limit.charge(plaintext, now)
            return plaintext
        match decode_frame(plaintext):
            case Fragment() as fragment:
                completed = self._content_receiver.on_fragment(fragment, now)
                self.transfer_s = self._content_receiver.transfer_s
                return completed
            case Retransmit() as retransmit:
                return self._content_receiver.on_retransmit(retransmit, now)
            case Ack() as ack:
                self._on_ack(ack, now)
            case PiggybackedAck(ack, message):
                self._on_ack(ack, now)
                return self.handle_payload(message, session, counter, now)
            case PathChallenge() as challenge:
                self.inbound_limit.charge_tokens(token_cost(kind), now)
                self._pending_replies.schedule_path_response(challenge, now)
            case PathResponse(token):
                if self._path_validator is not None:
                    self._path_validator.on_response(token, now)
            case MtuProbe():
                pass
        return None

    def _on_new_source(self, source: Address, packet: Data, now: float, *, is_newest: bool) -> None:
        """Starts or continues path validation for a packet from another address."""
        if self._path_validator is not None:
            size_bytes = DATA_OVERHEAD_BYTES - BOX_TAG_BYTES + len(packet.box)
            interval_s = self.path.rtt.ack_interval_s
            self._path_validator.on_new_source(
                source, size_bytes, is_newest=is_newest, interval_s=interval_s, now=now
            )

    def _on_ack(self, ack: Ack, now: float) -> None:
        """Handles an ACK. For a session that no longer sends there is nothing in flight. Raises
        Dropped(MALFORMED) if it acknowledges a packet that was never sent."""
        live = self._sessions.live
        if ack.session_id == live.their_id:
            if ack.end > live.next_counter:
                raise Dropped(DropReason.MALFORMED)
            self._sender.recovery.on_ack(ack, now)
            self._update_ack_timing()
            self._transmit_at = self._next_transmit_at(now)

    def on_heartbeat_rtt(self, sample_s: float, now: float) -> None:
        """A heartbeat of the peer measured the RTT."""
        if self.path.on_heartbeat_rtt(sample_s, now):
            self._update_ack_timing()

    def _update_ack_timing(self) -> None:
        rtt = self.path.rtt
        self._sessions.live.ack_tracker.update_rtt(rtt.srtt_s, rtt.reorder_window_s)

    @property
    def is_receiving(self) -> bool:
        """Whether a large message from the peer is incomplete."""
        return self._content_receiver.is_receiving

    @property
    def has_progressed(self) -> bool:
        """Whether the latest packet made enough progress on a large message. Requests for its content wait
        longer then; packets without progress are no reason to."""
        return self._last_was_fragment and self._content_receiver.has_progressed

    # --- out ---

    @property
    def send_limit(self) -> TokenBucket | None:
        """Tokens for sending to the peer, by its record; None: unlimited."""
        return self._sender.send_limit

    @send_limit.setter
    def send_limit(self, bucket: TokenBucket | None) -> None:
        self._sender.send_limit = bucket

    @property
    def send_drops(self) -> int:
        """Messages dropped on send."""
        return self._sender.send_drops

    @property
    def queued(self) -> int:
        """Messages in the send queue."""
        return self._sender.queued

    def has_room_for(self, size_bytes: int) -> bool:
        """Whether `send` would accept rumors of `size_bytes` bytes."""
        return self._sender.has_room_for(size_bytes)

    @property
    def is_idle(self) -> bool:
        """Whether the send queue is empty and every packet is acknowledged."""
        return self._sender.is_idle

    @property
    def is_unanswered(self) -> bool:
        """Whether the peer has not answered what was sent for several probe timeouts in a row."""
        return self._sender.recovery.is_unanswered

    def is_silent(self, now: float) -> bool:
        """Whether nothing arrived from the peer for several probe timeouts either."""
        return now - self.last_heard_at > PTOS_OF_SILENCE * self.path.rtt.pto_s

    @property
    def packets_lost(self) -> int:
        """Sent packets that were lost."""
        return self._sender.recovery.packets_lost

    def is_ready(self, now: float) -> bool:
        """Whether a Rumors message would be sent at once if it were queued now."""
        return self._sender.is_ready(now) and not self._sessions.live.is_expired(now)

    def next_send_at(self, now: float) -> float:
        """When `is_ready` becomes true without further events; math.inf: only after a packet is sent or
        acknowledged."""
        return math.inf if self._sessions.live.is_expired(now) else self._sender.next_send_at(now)

    def count_send_drops(self, messages: int) -> None:
        """Counts `messages` messages for the peer that were dropped before they reached the link."""
        self._sender.count_send_drops(messages)

    def send(self, plaintext: bytes | ChunkedMessage, now: float) -> bool:
        """Queues the message `plaintext`, of any size. Returns False if there is no room; `send_drops` counts
        it."""
        if not self._sender.push(plaintext):
            return False
        if self._transmit_at > now:
            self._enqueued_at = now
        return True

    def set_max_ack_delay(self, seconds: float) -> None:
        """How long the peer may wait before it acknowledges rumors; this node's record tells it."""
        self._sender.recovery.max_ack_delay_s = seconds

    def expect_prompt_acks(self) -> None:
        """This node leaves, and waits no longer for ACKs than it must."""
        self._sender.recovery.expect_prompt_acks()

    @property
    def has_acked(self) -> bool:
        """Whether `take_acked` has something to return."""
        return bool(self._sender.recovery.acked_keys)

    def take_acked(self) -> list[TrackedKey]:
        """Returns the tracked messages that the peer acknowledged since the last call."""
        return self._sender.recovery.take_acked()

    def take_abandoned(self) -> list[TrackedKey]:
        """Returns the tracked messages given up since the last call."""
        return self._sender.recovery.take_abandoned()

    def clear(self) -> int:
        """Empties the send queue, so that a Close goes at once. Returns how many messages were dropped."""
        return self._sender.clear()

    def stop_acks(self) -> None:
        """Acknowledges nothing that arrives from now on, because it is dropped."""
        self._pending_replies.stop_acks()

    def close(self) -> None:
        """Ends the link: releases its share of the reassembly budget."""
        self._content_receiver.clear()

    def validate_path(self, now: float) -> list[tuple[bytes, Address]]:
        """Runs path validation. Returns due challenges as (datagram, destination). May change `address`."""
        validator, session = self._path_validator, self._sessions.live
        if validator is None or now < validator.deadline or session.is_expired(now):
            return []
        new_address = validator.take_validated_address(now)
        if new_address is not None:
            if (
                new_address.host != self.address.host
            ):  # NAT rebinding: another port is the same path
                self.path.reset(new_address.host, None, now)
            self.address = new_address
            self._sender.recovery.on_new_address(now)
        challenges = [
            (session.seal(encode_frame(PathChallenge(token)), now), to or self.address)
            for token, to in validator.pop_due_challenges(now)
        ]
        self.sent += len(challenges)
        return challenges

    def transmit(self, now: float) -> list[bytes]:
        """Returns datagrams to send to `address` now, a limited number; if there are more, `deadline` is
        already due."""
        session, pending_replies = self._sessions.live, self._pending_replies
        self._enqueued_at = None
        if session.is_expired(now):
            pending_replies.clear()
            self._transmit_at = math.inf
            return []
        has_replies = now >= pending_replies.due_at
        datagrams = self._sender.transmit(session, now)  # an ACK that is due shares one of these
        if has_replies:
            datagrams += pending_replies.seal_acks_and_responses(now)
            pending_replies.append_confirms(datagrams, now)
        self.sent += len(datagrams)
        self._transmit_at = self._next_transmit_at(now)
        return datagrams

    def cut_through(self, plaintext: bytes, now: float) -> bytes | None:
        """Sends the Rumors message `plaintext` without queueing it. Returns its datagram; None if anything
        else is due or it would have to wait, and nothing has changed."""
        validator, session = self._path_validator, self._sessions.live
        if (
            now >= self._pending_replies.due_at
            or (validator is not None and now >= validator.deadline)
            or session.is_expired(now)
        ):
            return None
        datagram = self._sender.cut_through(plaintext, session, now)
        if datagram is not None:
            self.sent += 1
            self._transmit_at, self._enqueued_at = self._sender.recovery.pto_at, None
        return datagram

    def _next_transmit_at(self, now: float) -> float:
        """When `transmit` next has something to do, except replies; math.inf: after another event."""
        return math.inf if self._sessions.live.is_expired(now) else self._sender.transmit_at(now)

    def __repr__(self) -> str:
        return f"Link({self.peer_id.short}… at {self.address}, {self.queued} queued)"
