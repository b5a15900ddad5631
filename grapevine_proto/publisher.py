"""Numbers, batches and signs the messages of this node, and tracks which are unacknowledged.

Checking a signature costs as much as twenty sealed datagrams, so payloads of one turn share one.
Applications see none of it: each payload has its own ID and event.

Invariants:

- Sequences are dense from 1 in each epoch; direct messages have a sequence of their own.
- Payloads keep their order. A batch stays within `batch_bytes`, unless one payload alone is larger.
  A payload that is pulled rather than pushed is alone, so that no small one waits for it.
- A payload waits for `batch_delay`, and while no link could send it at once for others to share its
  signature, but never longer than `SLOW_PEER_AFTER_S`.
- A broadcast is unacknowledged until one peer is known to have it: its ACKs cover every packet that
  carried the rumor, or an anti-entropy round ended in sync. A new link or a sent packet proves nothing.
- Being in sync covers the whole stream of this node or nothing: a digest omits a stream that changed shortly
  before the round began.
- Each payload counts once, whatever happens to links. The number of tracked rumors is limited; an
  untracked one counts as unacknowledged forever.

ACKs are exact. Being in sync has one exception: a digest names the highest sequence of each stream and not
the gaps below it, because two nodes would differ forever if one can never fill a gap. So a peer that
missed one broadcast and has a later one counts as having both. It requests the gap within seconds
(`overlay.sync.gap_repair`), and the repair is tracked by ACKs; but if this node leaves before that and no
other node has the message, it is not counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from grapevine_proto.config.live import LiveConfig
from grapevine_proto.crypto.identity import Identity
from grapevine_proto.events import Message, Via
from grapevine_proto.ids import MessageId, PeerId
from grapevine_proto.transport.rumor_coalescer import RUMORS_MESSAGE_BYTES, SLOW_PEER_AFTER_S
from grapevine_proto.transport.transport import Transport
from grapevine_proto.wire import codec
from grapevine_proto.wire.attributes import parse_rumor_attributes
from grapevine_proto.wire.signed import (
    MAX_PAYLOADS_PER_MESSAGE,
    Rumor,
    counted_payload_bytes,
    is_pulled,
)

BATCH_GROWTH_S: Final = 0.1  # for which a batch grows while no link has a token for it
TRACKED_RUMORS_LIMIT: Final = 65_536  # more than the message store holds per origin; 200 bytes each
DIGEST_SETTLE_S: Final = 2.5  # digests omit streams that changed in the last 2 s

MAX_BATCH_BYTES: Final = codec.max_payload_bytes(RUMORS_MESSAGE_BYTES)

RumorKey = tuple[int, int]  # epoch, first sequence


class SignedBatch(NamedTuple):
    """A signed rumor and its messages, ready to spread."""

    rumor: Rumor
    messages: list[Message]


class Batch:
    """Messages that will share the next signature and the same attributes. Open while it holds any: since
    `opened_at`."""

    def __init__(self) -> None:
        self.opened_at = math.inf
        self.attributes = b""  # encoded, of the messages in it
        self._messages: list[Message] = []
        self._size_bytes = 0

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def size_bytes(self) -> int:
        """What its payloads count in a rumor."""
        return self._size_bytes

    def try_add(
        self, message: Message, limit_bytes: int, now: float, attributes: bytes = b""
    ) -> bool:
        """Adds a message unless it has other attributes than the batch or makes it larger than `limit_bytes`
        or `MAX_BATCH_BYTES`; the first always fits. Returns whether it was added."""
        messages = self._messages
        size_bytes = self._size_bytes + counted_payload_bytes(len(message.payload))
        if not messages:
            self.opened_at = now
            self.attributes = attributes
        else:
            total_bytes = size_bytes + len(attributes)
            if total_bytes > limit_bytes or total_bytes > MAX_BATCH_BYTES:
                return False
            if len(messages) >= MAX_PAYLOADS_PER_MESSAGE or attributes != self.attributes:
                return False
        messages.append(message)
        self._size_bytes = size_bytes
        return True

    def drain(self) -> list[Message]:
        """Returns all messages in order and leaves the batch empty."""
        messages, self._messages = self._messages, []
        self._size_bytes = 0
        self.opened_at = math.inf
        return messages


class UnackedBroadcasts:
    """The unacknowledged broadcasts of this run: `count` payloads, `untracked` of them no longer tracked."""

    def __init__(self, limit: int = TRACKED_RUMORS_LIMIT) -> None:
        self._limit = limit
        self._rumors: dict[RumorKey, tuple[int, float]] = {}  # (payloads, tracked at), oldest first
        self._last_tracked_at = -math.inf  # also of rumors that were acknowledged since
        self.count = 0
        self.untracked = 0

    def track(self, key: RumorKey, payloads: int, now: float) -> None:
        """Starts to track a rumor of this node with `payloads` payloads, whether or not peers are
        connected."""
        self._rumors[key] = (payloads, now)
        self._last_tracked_at = now
        self.count += payloads
        if len(self._rumors) > self._limit:
            payloads, _ = self._rumors.pop(next(iter(self._rumors)))
            self.untracked += payloads

    def on_acked(self, keys: Iterable[RumorKey]) -> None:
        """A peer acknowledged these rumors."""
        for key in keys:
            payloads, _ = self._rumors.pop(key, (0, 0.0))
            self.count -= payloads

    def on_peer_in_sync(self, started_at: float) -> None:
        """An anti-entropy round that started at `started_at` ended in sync: that peer has everything up to
        then."""
        if self._last_tracked_at <= started_at - DIGEST_SETTLE_S:
            self.on_acked(list(self._rumors))


class Publisher:
    """Owns the epoch, the sequences in it, and what is unacknowledged. `broadcasts` counts over all
    epochs; `unacked` may be read."""

    def __init__(
        self, config: LiveConfig, identity: Identity, epoch: int, transport: Transport
    ) -> None:
        self._config = config
        self._identity = identity
        self._links = transport.links
        self._sequence = 0
        self._direct_sequence = 0
        self._batch = Batch()
        self._flush_at = math.inf
        self._retry_at = -math.inf  # not before: signing met an error
        self.unacked = UnackedBroadcasts()
        self.epoch = epoch
        self.broadcasts = 0

    def start_epoch(self, epoch: int, now: float) -> list[SignedBatch]:
        """Begins new streams; returns what was batched under the epoch before."""
        due = self.flush(now)
        self.epoch = epoch
        self._sequence = self._direct_sequence = 0
        return due

    # --- messages -------------------------------------------------------------------------------

    def broadcast(
        self, payload: bytes, now: float, attributes: bytes = b""
    ) -> tuple[MessageId, Sequence[SignedBatch]]:
        """Accepts a payload for all members, in a rumor with these encoded attributes. Returns its ID, and
        the batches that it makes due."""
        topic = parse_rumor_attributes(attributes).topic if attributes else ""
        message = self.next_message(payload, now, topic)
        if is_pulled(len(payload)):  # small ones in its batch would wait to be pulled
            return message.id, [*self.flush(now), self.sign([message], attributes, now)]
        config = self._config.current
        due: Sequence[SignedBatch] = ()
        if not self._batch.try_add(message, config.batch_bytes, now, attributes):
            due = self.flush(now)
            self._batch.try_add(message, config.batch_bytes, now, attributes)
        flush_at = now + config.batch_delay
        if flush_at < self._flush_at:
            self._flush_at = flush_at
        return message.id, due

    def next_message(self, payload: bytes, now: float, topic: str = "") -> Message:
        """Numbers the next message to all members."""
        self._sequence += 1
        self.broadcasts += 1
        message_id = MessageId(self._identity.peer_id, self.epoch, self._sequence)
        if topic:
            return Message(message_id, payload, 0, Via.LOCAL, now, topic=topic)
        return Message(message_id, payload, 0, Via.LOCAL, now)  # the fields by name take longer

    def next_direct_message(self, to: PeerId, payload: bytes, now: float) -> Message:
        """Numbers the next direct message, to `to`."""
        self._direct_sequence += 1
        our_id = self._identity.peer_id
        message_id = MessageId(our_id, self.epoch, self._direct_sequence, is_direct=True)
        return Message(message_id, payload, 0, Via.LOCAL, now, is_direct=True, to=to)

    def undo_direct_message(self) -> None:
        """Takes back the number of a direct message that could not be sent."""
        self._direct_sequence -= 1

    def sign(
        self, messages: list[Message], attributes: bytes, now: float, *, is_tracked: bool = True
    ) -> SignedBatch:
        """Signs messages with consecutive sequences as one rumor with these encoded attributes, which is
        unacknowledged from now on. Unless `is_tracked`: nobody waits until a peer has it."""
        payloads = tuple(message.payload for message in messages)
        cluster, first = self._config.current.cluster, messages[0].id.sequence
        rumor = Rumor.signed(
            self._identity, cluster, self.epoch, first, payloads, attributes=attributes
        )
        if is_tracked:
            self.unacked.track((rumor.epoch, rumor.first), len(messages), now)
        return SignedBatch(rumor, messages)

    @property
    def unacknowledged(self) -> int:
        """How many broadcasts no peer is known to have, counted from when they are accepted."""
        return self.unacked.count + len(self._batch)

    # --- batches --------------------------------------------------------------------------------

    def flush(self, now: float) -> list[SignedBatch]:
        """Signs what is batched, due or not."""
        self._flush_at = math.inf
        attributes, messages = self._batch.attributes, self._batch.drain()
        return [self.sign(messages, attributes, now)] if messages else []

    def flush_due(self, now: float) -> list[SignedBatch]:
        """Signs what is batched if it is due."""
        return self.flush(now) if now >= self._retry_at and self._is_flush_due(now) else []

    def _is_flush_due(self, now: float) -> bool:
        if not self._batch:
            return False
        opened_at = self._batch.opened_at
        if now < opened_at + self._config.current.batch_delay:
            return False
        if not self._links or now >= opened_at + SLOW_PEER_AFTER_S:
            return True
        if not self.has_room_for(self._batch.size_bytes):
            return False
        return now >= opened_at + BATCH_GROWTH_S or self._can_any_send(now)

    @property
    def deadline(self) -> float:
        """When to call `flush_due` next; math.inf: nothing is batched."""
        return max(self._flush_at, self._retry_at) if self._batch else math.inf

    def update_deadline(self, now: float) -> None:
        """What could be sent has been sent: decides when a waiting batch is looked at again."""
        opened_at = self._batch.opened_at
        if not self._batch or not self._links:
            self._flush_at = opened_at + self._config.current.batch_delay
            return
        waits = (self._config.current.batch_delay, BATCH_GROWTH_S, SLOW_PEER_AFTER_S)
        due_at = min((opened_at + s for s in waits if opened_at + s > now), default=now)
        if due_at > opened_at + self._config.current.batch_delay:
            due_at = min(due_at, *(link.next_send_at(now) for link in self._links.values()))
        self._flush_at = due_at

    def postpone(self, until: float) -> None:
        """Looks at a waiting batch no earlier than at `until`, after an error."""
        self._retry_at = until

    def has_room_for(self, size_bytes: int) -> bool:
        """Whether a rumor of this size finds room with every peer that is not slow."""
        return self._links.coalescer.has_room(len(self._links), size_bytes)

    def _can_any_send(self, now: float) -> bool:
        coalescer = self._links.coalescer
        return any(coalescer.can_send_now(link, now) for link in self._links.values())
