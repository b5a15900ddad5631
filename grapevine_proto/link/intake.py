"""Content that does not come in a packet of its own: parts of a large message, and what a lost packet
carried.

What must stay true:

- Each content counts once, however often it was sent and in whatever way it came.
- A large message is charged by the parts as they come, anything else when it is whole; nothing is
  charged twice.
"""

from __future__ import annotations

from grapevine_proto.codec import decode_frame
from grapevine_proto.errors import DropReason, Refused
from grapevine_proto.link.allowance import Allowance
from grapevine_proto.link.flight import UNREPAIRED
from grapevine_proto.link.fragments import Reassembly
from grapevine_proto.link.sessions import Sessions
from grapevine_proto.messages import LINK_KINDS, Again, Fragment, Kind


class Intake:
    """From frames to the messages that they complete or repeat, charged to `allowance`. Driven by
    `take_part` and `take_again`."""

    __slots__ = ("_allowance", "_reassembly", "_sessions")

    def __init__(self, sessions: Sessions, allowance: Allowance, reassembly: Reassembly) -> None:
        self._sessions = sessions
        self._allowance = allowance
        self._reassembly = reassembly

    @property
    def is_receiving(self) -> bool:
        """Whether parts of a large message have come and others not."""
        return self._reassembly.is_busy

    @property
    def has_grown(self) -> bool:
        """Whether the part taken last brought a message on that is not whole yet."""
        return self._reassembly.has_grown

    def take_part(self, fragment: Fragment, now: float) -> bytes | None:
        """The message that `fragment` completes, if it does. Raises Refused."""
        self._charge_part(fragment, now)
        plaintext = self._reassembly.receive(fragment, now)
        if plaintext is None:
            return None
        self._allowance.allowed += 1
        if plaintext[0] != Kind.AGAIN:
            return plaintext
        again = decode_frame(plaintext)
        return self._claim(again, now) if isinstance(again, Again) else None

    def take_again(self, again: Again, now: float) -> bytes:
        """What a lost packet carried, where it has not come after all. Raises Refused."""
        plaintext = self._claim(again, now)
        self._allowance.charge(plaintext, now)
        return plaintext

    def clear(self) -> None:
        """Forget unfinished messages: the link is gone."""
        self._reassembly.clear()

    def _charge_part(self, fragment: Fragment, now: float) -> None:
        tokens = self._reassembly.tokens_due(fragment)
        if tokens and fragment.of_repair:
            is_begun = self._reassembly.knows(fragment)
            if is_begun or self._allowance.redeem_repair():
                return
        self._allowance.take(tokens, now)

    def _claim(self, again: Again, now: float) -> bytes:
        session, plaintext = self._sessions.find(again.session_id), again.plaintext
        if plaintext[0] in UNREPAIRED or plaintext[0] in LINK_KINDS:
            raise Refused(DropReason.MALFORMED)
        if not session.claim(again.counter, now):
            raise Refused(DropReason.DUPLICATE)
        return plaintext
