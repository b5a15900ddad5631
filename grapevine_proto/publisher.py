"""What this node says itself: numbered, put into bundles, signed.

What must stay true:

- Sequences are dense from 1 in each epoch; private messages have numbers of their own.
- A payload alone waits for nothing but `batch_delay`; while no link could send it at once it waits
  for others to share its signature, but never longer than `BEHIND_S`.
"""

from __future__ import annotations

import math
from typing import Final

from grapevine_proto.batch import Batch
from grapevine_proto.config.node import NodeConfig
from grapevine_proto.crypto.identity import Identity
from grapevine_proto.events import Message, Via
from grapevine_proto.ids import MessageId, PeerId
from grapevine_proto.transport.link_table import LinkTable
from grapevine_proto.transport.send_coalescer import RUMORS_MESSAGE_BYTES, SLOW_PEER_AFTER_S
from grapevine_proto.wire import codec
from grapevine_proto.wire.signed import Rumor

BATCH_GROWTH_S: Final = 0.1  # for which a bundle grows while no link has a token for it


class Publisher:
    """Owns the epoch and the numbers of what is said in it. `broadcasts` counts over all epochs."""

    def __init__(
        self, config: NodeConfig, identity: Identity, epoch: int, links: LinkTable
    ) -> None:
        self._config = config
        self._identity = identity
        self._links = links
        self._sequence = 0
        self._direct_sequence = 0
        self._batch = Batch(_batch_limit(config))
        self.epoch = epoch
        self.broadcasts = 0
        self.deadline = math.inf  # when to look at the bundle again

    def reconfigure(self, config: NodeConfig) -> None:
        self._config = config
        self._batch.limit_bytes = _batch_limit(config)

    def start_epoch(self, epoch: int) -> None:
        """Begin anew: streams of this epoch."""
        self.epoch = epoch
        self._sequence = self._direct_sequence = 0

    # --- numbers --------------------------------------------------------------------------------

    def next_message(self, payload: bytes, now: float) -> Message:
        """The next message to everybody."""
        self._sequence += 1
        self.broadcasts += 1
        message_id = MessageId(self._identity.peer_id, self.epoch, self._sequence)
        return Message(message_id, payload, 0, Via.LOCAL, now)

    def next_direct_message(self, to: PeerId, payload: bytes, now: float) -> Message:
        """The next direct message, to `to`."""
        self._direct_sequence += 1
        our_id = self._identity.peer_id
        message_id = MessageId(our_id, self.epoch, self._direct_sequence, is_direct=True)
        return Message(message_id, payload, 0, Via.LOCAL, now, is_direct=True, to=to)

    def undo_direct_message(self) -> None:
        """The last private message was not accepted after all."""
        self._direct_sequence -= 1

    # --- bundles --------------------------------------------------------------------------------

    def fits_batch(self, payload: bytes) -> bool:
        """Whether `payload` may join what is in the bundle."""
        return self._batch.fits(payload)

    def enqueue(self, message: Message, now: float) -> None:
        self._batch.add(message, now)

    @property
    def pending(self) -> int:
        """How many wait in the bundle."""
        return len(self._batch)

    def take_batch(self) -> list[Message]:
        """What shares the next signature; the bundle is empty then."""
        return self._batch.drain()

    def sign(self, messages: list[Message], trace_share: int) -> Rumor:
        """One rumor of messages with consecutive numbers."""
        payloads = tuple(message.payload for message in messages)
        _, epoch, first, _ = messages[0].id
        return Rumor.signed(
            self._identity, self._config.cluster, epoch, first, payloads, trace_share=trace_share
        )

    def is_flush_due(self, now: float) -> bool:
        """Whether there is a bundle that should go now. It waits for `batch_delay`, and while no link
        could send it at once; but not for long, since nobody else can know of what is in it."""
        if not self._batch:
            return False
        opened_at = self._batch.opened_at
        if now < opened_at + self._config.batch_delay:
            return False
        if not self._links or now >= opened_at + SLOW_PEER_AFTER_S:
            return True
        if not self.has_room_for(self._batch.size_bytes):
            return False
        return now >= opened_at + BATCH_GROWTH_S or self._can_any_send(now)

    def update_deadline(self, now: float) -> None:
        """What could go has gone: when to ask again whether a bundle is due."""
        if not self._batch:
            self.deadline = math.inf
            return
        opened_at = self._batch.opened_at
        waits = (self._config.batch_delay, BATCH_GROWTH_S, SLOW_PEER_AFTER_S)
        due_at = min((opened_at + s for s in waits if opened_at + s > now), default=now)
        if due_at > opened_at + self._config.batch_delay:
            due_at = min(due_at, *(link.next_send_at(now) for link in self._links.values()))
        self.deadline = due_at

    def has_room_for(self, size_bytes: int) -> bool:
        """Whether a rumor of so many bytes finds room with every peer that is not left behind."""
        return self._links.coalescer.has_room(len(self._links), size_bytes)

    def _can_any_send(self, now: float) -> bool:
        coalescer = self._links.coalescer
        return any(coalescer.can_send_now(link, now) for link in self._links.values())


def _batch_limit(config: NodeConfig) -> int:
    return min(config.batch_bytes, codec.max_payload_bytes(RUMORS_MESSAGE_BYTES))
