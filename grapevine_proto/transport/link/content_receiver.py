"""Content that does not arrive in a packet of its own: fragments and retransmissions.

Invariants:

- Each content is delivered once, however often and in whatever form it was sent.
- A large message is charged to the inbound limit by its fragments, everything else when complete; nothing
  is charged twice.
"""

from __future__ import annotations

from grapevine_proto.errors import Dropped, DropReason
from grapevine_proto.transport.link.inbound_limit import InboundLimit
from grapevine_proto.transport.link.reassembly import Reassembly
from grapevine_proto.transport.link.sent_packets import NON_ACK_ELICITING_KINDS
from grapevine_proto.transport.session.sessions import Sessions
from grapevine_proto.wire.codec import decode_frame
from grapevine_proto.wire.messages import LINK_FRAME_KINDS, Fragment, Kind, Retransmit


class ContentReceiver:
    """Turns Fragment and Retransmit frames into messages and charges them to `inbound_limit`."""

    __slots__ = ("_inbound_limit", "_reassembly", "_sessions")

    def __init__(
        self, sessions: Sessions, inbound_limit: InboundLimit, reassembly: Reassembly
    ) -> None:
        self._sessions = sessions
        self._inbound_limit = inbound_limit
        self._reassembly = reassembly

    @property
    def is_receiving(self) -> bool:
        """Whether a large message is incomplete."""
        return self._reassembly.has_partials

    @property
    def has_progressed(self) -> bool:
        """Whether the latest fragment made enough progress on an incomplete message."""
        return self._reassembly.has_progressed

    @property
    def transfer_s(self) -> float:
        """Seconds from the first fragment of the latest complete message to its last."""
        return self._reassembly.transfer_s

    def on_fragment(self, fragment: Fragment, now: float) -> bytes | None:
        """Returns the message that `fragment` completes, or None. Raises Dropped."""
        self._charge_fragment(fragment, now)
        plaintext = self._reassembly.add_fragment(fragment, now)
        if plaintext is None:
            return None
        self._inbound_limit.count_allowed()
        if plaintext[0] != Kind.RETRANSMIT:
            return plaintext
        retransmit = decode_frame(plaintext)
        return self._claim_content(retransmit, now) if isinstance(retransmit, Retransmit) else None

    def on_retransmit(self, retransmit: Retransmit, now: float) -> bytes:
        """Returns the content of a retransmission. Raises Dropped, for example if it arrived before."""
        plaintext = self._claim_content(retransmit, now)
        self._inbound_limit.charge(plaintext, now)
        return plaintext

    def clear(self) -> None:
        """Drops incomplete messages: the link has ended."""
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
