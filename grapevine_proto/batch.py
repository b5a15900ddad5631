"""The payloads of ours that will share the next rumor, and so one signature.

A check of a signature costs as much as twenty sealed datagrams, so payloads said in one go are
signed together. Applications see none of it: each payload has its own id and event.

What must stay true: payloads keep their order and their consecutive sequences; together they stay
within `limit_bytes` as `bytes_in_rumor` counts, but for one that is larger alone. What is pulled
instead of pushed is alone too, so that nothing small waits for it.
"""

from __future__ import annotations

import math

from grapevine_proto.events import Message
from grapevine_proto.wire.signed import MAX_PAYLOADS_PER_MESSAGE, counted_payload_bytes, is_pulled


class Batch:
    """Open while it holds something: since `opened_at`. Whoever fills it asks `fits` before `add`."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.opened_at = math.inf
        self._messages: list[Message] = []
        self._size_bytes = 0

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def size_bytes(self) -> int:
        """What its payloads take in a rumor."""
        return self._size_bytes

    def fits(self, payload: bytes) -> bool:
        """Whether `payload` may join; the first always may."""
        if not self._messages:
            return True
        if is_pulled(len(payload)) or is_pulled(len(self._messages[0].payload)):
            return False
        size_bytes = self._size_bytes + counted_payload_bytes(len(payload))
        return size_bytes <= self.limit_bytes and len(self._messages) < MAX_PAYLOADS_PER_MESSAGE

    def add(self, message: Message, now: float) -> None:
        if not self._messages:
            self.opened_at = now
        self._messages.append(message)
        self._size_bytes += counted_payload_bytes(len(message.payload))

    def drain(self) -> list[Message]:
        """All that is in it, in order; it is empty then."""
        messages, self._messages = self._messages, []
        self._size_bytes = 0
        self.opened_at = math.inf
        return messages
