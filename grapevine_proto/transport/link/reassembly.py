"""Content that does not come in a packet of its own: parts of a large message, and what a lost packet
carried.

What must stay true:

- Each content counts once, however often it was sent and in whatever way it came.
- A large message is charged by the parts as they come, anything else when it is whole; nothing is
  charged twice.
"""

from __future__ import annotations

from grapevine_proto.errors import Dropped, DropReason
from grapevine_proto.transport.link.fragments import Reassembly
from grapevine_proto.transport.link.inbound_limit import InboundLimit
from grapevine_proto.transport.link.sent_packets import NON_ACK_ELICITING_KINDS
from grapevine_proto.transport.session.sessions import Sessions
from grapevine_proto.wire.codec import decode_frame
from grapevine_proto.wire.messages import LINK_FRAME_KINDS, Fragment, Kind, Retransmit


class ContentReceiver:
    """From frames to the messages that they complete or repeat, charged to `inbound_limit`. Driven by
    `on_fragment` and `on_retransmit`."""

    __slots__ = ("_inbound_limit", "_reassembly", "_sessions")

    def __init__(
        self, sessions: Sessions, inbound_limit: InboundLimit, reassembly: Reassembly
    ) -> None:
        self._sessions = sessions
        self._inbound_limit = inbound_limit
        self._reassembly = reassembly

    @property
    def is_receiving(self) -> bool:
        """Whether parts of a large message have come and others not."""
        return self._reassembly.has_partials

    @property
    def has_progressed(self) -> bool:
        """Whether the part taken last brought a message on that is not whole yet."""
        return self._reassembly.has_progressed

    def on_fragment(self, fragment: Fragment, now: float) -> bytes | None:
        """The message that `fragment` completes, if it does. Raises Refused."""
        self._charge_fragment(fragment, now)
        plaintext = self._reassembly.add_fragment(fragment, now)
        if plaintext is None:
            return None
        self._inbound_limit.allowed += 1
        if plaintext[0] != Kind.RETRANSMIT:
            return plaintext
        retransmit = decode_frame(plaintext)
        return self._claim_content(retransmit, now) if isinstance(retransmit, Retransmit) else None

    def on_retransmit(self, retransmit: Retransmit, now: float) -> bytes:
        """What a lost packet carried, where it has not come after all. Raises Refused."""
        plaintext = self._claim_content(retransmit, now)
        self._inbound_limit.charge(plaintext, now)
        return plaintext

    def clear(self) -> None:
        """Forget unfinished messages: the link is gone."""
        self._reassembly.clear()

    def _charge_fragment(self, fragment: Fragment, now: float) -> None:
        tokens = self._reassembly.tokens_due(fragment)
        if tokens and fragment.is_repair:
            is_known = self._reassembly.has_partial(fragment)
            if is_known or self._inbound_limit.consume_repair_credit():
                return
        self._inbound_limit.charge_tokens(tokens, now)

    def _claim_content(self, retransmit: Retransmit, now: float) -> bytes:
        session, plaintext = self._sessions.find(retransmit.session_id), retransmit.plaintext
        if plaintext[0] in NON_ACK_ELICITING_KINDS or plaintext[0] in LINK_FRAME_KINDS:
            raise Dropped(DropReason.MALFORMED)
        if not session.claim(retransmit.counter, now):
            raise Dropped(DropReason.DUPLICATE)
        return plaintext
