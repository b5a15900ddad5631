"""What this node says itself: numbered, put into bundles, signed.

What must stay true:

- Sequences are dense from 1 in each epoch; private messages have numbers of their own.
- A payload alone waits for nothing but `bundle_delay`; while no link could send it at once it waits
  for others to share its signature, but never longer than `BEHIND_S`.
"""

from __future__ import annotations

import math
from typing import Final

from grapevine_proto import codec
from grapevine_proto.config import NodeConfig
from grapevine_proto.events import Message, Via
from grapevine_proto.identity import Identity
from grapevine_proto.ids import MessageId, PeerId
from grapevine_proto.links import Links
from grapevine_proto.outflow import BEHIND_S, MESSAGE_BYTES
from grapevine_proto.overlay.dissemination.bundle import Bundle
from grapevine_proto.signed import Rumor

GROW_S: Final = 0.1  # for which a bundle grows while no link has a token for it


class Voice:
    """Owns the epoch and the numbers of what is said in it. `broadcasts` counts over all epochs."""

    def __init__(self, config: NodeConfig, identity: Identity, epoch: int, links: Links) -> None:
        self._config = config
        self._identity = identity
        self._links = links
        self._sequence = 0
        self._private_sequence = 0
        self._bundle = Bundle(_bundle_limit(config))
        self.epoch = epoch
        self.broadcasts = 0
        self.deadline = math.inf  # when to look at the bundle again

    def reconfigure(self, config: NodeConfig) -> None:
        self._config = config
        self._bundle.limit_bytes = _bundle_limit(config)

    def reopen(self, epoch: int) -> None:
        """Begin anew: streams of this epoch."""
        self.epoch = epoch
        self._sequence = self._private_sequence = 0

    # --- numbers --------------------------------------------------------------------------------

    def number(self, payload: bytes, now: float) -> Message:
        """The next message to everybody."""
        self._sequence += 1
        self.broadcasts += 1
        message_id = MessageId(self._identity.peer_id, self.epoch, self._sequence)
        return Message(message_id, payload, 0, Via.LOCAL, now)

    def number_private(self, to: PeerId, payload: bytes, now: float) -> Message:
        """The next direct message, to `to`."""
        self._private_sequence += 1
        ours = self._identity.peer_id
        message_id = MessageId(ours, self.epoch, self._private_sequence, private=True)
        return Message(message_id, payload, 0, Via.LOCAL, now, private=True, to=to)

    def take_back_private(self) -> None:
        """The last private message was not accepted after all."""
        self._private_sequence -= 1

    # --- bundles --------------------------------------------------------------------------------

    def fits(self, payload: bytes) -> bool:
        """Whether `payload` may join what is in the bundle."""
        return self._bundle.fits(payload)

    def bundle(self, message: Message, now: float) -> None:
        self._bundle.add(message, now)

    @property
    def unsaid(self) -> int:
        """How many wait in the bundle."""
        return len(self._bundle)

    def close_bundle(self) -> list[Message]:
        """What shares the next signature; the bundle is empty then."""
        return self._bundle.close()

    def sign(self, messages: list[Message], trace_share: int) -> Rumor:
        """One rumor of messages with consecutive numbers."""
        payloads = tuple(message.payload for message in messages)
        _, epoch, first, _ = messages[0].id
        return Rumor.signed(
            self._identity, self._config.cluster, epoch, first, payloads, trace_share=trace_share
        )

    def is_due(self, now: float) -> bool:
        """Whether there is a bundle that should go now. It waits for `bundle_delay`, and while no link
        could send it at once; but not for long, since nobody else can know of what is in it."""
        if not self._bundle:
            return False
        opened_at = self._bundle.opened_at
        if now < opened_at + self._config.bundle_delay:
            return False
        if not self._links or now >= opened_at + BEHIND_S:
            return True
        if not self.has_room_for(self._bundle.size_bytes):
            return False
        return now >= opened_at + GROW_S or self._is_wanted(now)

    def set_deadline(self, now: float) -> None:
        """What could go has gone: when to ask again whether a bundle is due."""
        if not self._bundle:
            self.deadline = math.inf
            return
        opened_at = self._bundle.opened_at
        waits = (self._config.bundle_delay, GROW_S, BEHIND_S)
        due_at = min((opened_at + s for s in waits if opened_at + s > now), default=now)
        if due_at > opened_at + self._config.bundle_delay:
            due_at = min(due_at, *(link.ready_at(now) for link in self._links.values()))
        self.deadline = due_at

    def has_room_for(self, size_bytes: int) -> bool:
        """Whether a rumor of so many bytes finds room with every peer that is not left behind."""
        return self._links.outflow.has_room(len(self._links), size_bytes)

    def _is_wanted(self, now: float) -> bool:
        outflow = self._links.outflow
        return any(outflow.is_idle(link, now) for link in self._links.values())


def _bundle_limit(config: NodeConfig) -> int:
    return min(config.bundle_bytes, codec.room_in_rumor(MESSAGE_BYTES))
