"""Direct messages of this node that their recipients have not acknowledged.

Invariants:

- Each message that was accepted ends once: acknowledged, or reported as undelivered with a reason. One that
  is reported may still have arrived: its acknowledgment was lost, or it is on its way.
- A message is acknowledged when every packet that carries it is. One of more than `RECEIPT_ABOVE_BYTES`
  needs a receipt besides: its recipient acknowledges fragments and may drop the whole, if it is too large
  there.
- A message ends at the latest `DELIVERY_TIMEOUT_S` after it was queued on a session, plus its size at
  `MIN_DELIVERY_BYTES_PER_S`; before that with the session that carries it, checked once a second.
- At most `DELIVERIES_LIMIT` messages are watched. Further ones are not sent, and reported at once.

A passive table, driven by the transport, which sends the messages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from grapevine_proto.events import Message, MessageUndelivered, UndeliveredReason
from grapevine_proto.ids import MessageId, PeerId
from grapevine_proto.transport.link.link import Link
from grapevine_proto.wire.messages import RECEIPT_ABOVE_BYTES

DELIVERIES_LIMIT: Final = 16_384  # of 300 bytes; payloads stay in the send queues
DELIVERY_TIMEOUT_S: Final = 30.0  # longer than retransmissions of the last packet take
MIN_DELIVERY_BYTES_PER_S: Final = 16_384  # as in reassembly
RECEIPT_TIMEOUT_S: Final = 5.0  # after the last acknowledgment


class _Delivery:
    """One message that is not acknowledged. `link`: the session that carries it; None: it waits for one."""

    __slots__ = ("expires_at", "is_acked", "link", "needs_receipt", "size_bytes", "to")

    def __init__(self, to: PeerId, size_bytes: int) -> None:
        self.to = to
        self.size_bytes = size_bytes
        self.needs_receipt = size_bytes > RECEIPT_ABOVE_BYTES
        self.is_acked = False
        self.link: Link | None = None
        self.expires_at = float("inf")


class DirectDeliveries:
    """The unacknowledged direct messages, oldest first. `undelivered` counts those that were reported, by
    reason."""

    def __init__(self) -> None:
        self._limit = DELIVERIES_LIMIT
        self._timeout_s = DELIVERY_TIMEOUT_S
        self._open: dict[MessageId, _Delivery] = {}
        self._awaiting_receipt: dict[tuple[PeerId, int], MessageId] = {}
        self.undelivered: dict[UndeliveredReason, int] = {}

    def __len__(self) -> int:
        return len(self._open)

    @property
    def is_full(self) -> bool:
        """Whether no further message may be sent."""
        return len(self._open) >= self._limit

    def begin(self, message: Message) -> None:
        """`message` is accepted. If `is_full`, the caller ends it at once."""
        assert message.to is not None
        delivery = self._open[message.id] = _Delivery(message.to, len(message.payload))
        if delivery.needs_receipt:
            self._awaiting_receipt[message.to, message.id.sequence] = message.id

    def withdraw(self, message_id: MessageId) -> None:
        """The message was not accepted after all, which its sender learns by an exception."""
        delivery = self._open.pop(message_id)
        self._awaiting_receipt.pop((delivery.to, message_id.sequence), None)

    def on_queued(self, message_id: MessageId, link: Link, now: float) -> None:
        """A session has room for the message."""
        delivery = self._open.get(message_id)
        if delivery is not None:
            delivery.link = link
            transfer_s = delivery.size_bytes / MIN_DELIVERY_BYTES_PER_S
            delivery.expires_at = now + self._timeout_s + transfer_s

    def on_acked(self, message_ids: Iterable[MessageId], now: float) -> None:
        """The recipients have all packets of these messages."""
        for message_id in message_ids:
            delivery = self._open.get(message_id)
            if delivery is None:
                continue
            if delivery.needs_receipt:
                delivery.is_acked = True
                delivery.expires_at = min(delivery.expires_at, now + RECEIPT_TIMEOUT_S)
            else:
                del self._open[message_id]

    def on_receipt(self, sender: PeerId, sequence: int) -> None:
        """A recipient confirms that it has a message as a whole."""
        message_id = self._awaiting_receipt.pop((sender, sequence), None)
        if message_id is not None:
            del self._open[message_id]

    def fail(
        self, message_id: MessageId, reason: UndeliveredReason, detail: str = ""
    ) -> list[MessageUndelivered]:
        """Ends a message as undelivered. Returns the report; none if it ended before."""
        delivery = self._open.pop(message_id, None)
        if delivery is None:
            return []
        self._awaiting_receipt.pop((delivery.to, message_id.sequence), None)
        self.undelivered[reason] = self.undelivered.get(reason, 0) + 1
        return [MessageUndelivered(message_id, delivery.to, reason, detail)]

    def abandon(self, message_ids: Iterable[MessageId]) -> list[MessageUndelivered]:
        """The link has given up on these messages after many retransmissions."""
        reports: list[MessageUndelivered] = []
        for message_id in message_ids:
            reports += self.fail(message_id, UndeliveredReason.NOT_ACKNOWLEDGED, "no reply")
        return reports

    def advance(self, now: float, is_live: Callable[[Link], bool]) -> list[MessageUndelivered]:
        """Ends the messages whose session or time is over; called about once a second. `is_live` tells
        whether a session still exists."""
        reports: list[MessageUndelivered] = []
        for message_id, delivery in list(self._open.items()):
            if delivery.link is None:
                continue
            if not is_live(delivery.link):
                reports += self.fail(message_id, UndeliveredReason.SESSION_ENDED)
            elif now >= delivery.expires_at:
                detail = "no receipt" if delivery.is_acked else "no reply in time"
                reports += self.fail(message_id, UndeliveredReason.NOT_ACKNOWLEDGED, detail)
        return reports

    def fail_all(self, reason: UndeliveredReason) -> list[MessageUndelivered]:
        """Ends all messages as undelivered."""
        reports: list[MessageUndelivered] = []
        for message_id in list(self._open):
            reports += self.fail(message_id, reason)
        return reports
