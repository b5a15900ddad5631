"""Why a node dials an address, as one value from the overlay's decision to the first message.

Invariants: the purpose is the first message of the session, so both ends of a handshake agree on it.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from grapevine_proto.wire.messages import Confirm, NeighborRequest, OpenTransient, SwapRequest
from grapevine_proto.wire.signed import PeerRecord


class DialPurpose(NamedTuple):
    """`first_message` opens the session once the handshake is complete. A dial continues past the
    Challenge only if that arrived within `max_rtt_s`. `is_punch`: the peer dials at the same time, because a
    common peer introduced both."""

    first_message: Confirm | NeighborRequest | OpenTransient | SwapRequest
    max_rtt_s: float = math.inf
    is_punch: bool = False

    @property
    def is_transient(self) -> bool:
        """Whether the session is for a few messages and not for a link."""
        return isinstance(self.first_message, OpenTransient)

    @property
    def wants_room(self) -> bool:
        """Whether a full receiver is asked to close another link for this one (HyParView)."""
        return isinstance(self.first_message, NeighborRequest)

    @property
    def swap_for(self) -> PeerRecord | None:
        """The peer whose link this one replaces if the dialed peer is nearer (X-BOT)."""
        message = self.first_message
        return message.swap_for if isinstance(message, SwapRequest) else None


LINK: Final = DialPurpose(Confirm())
"""A link, if the receiver has room."""
NEIGHBOR: Final = DialPurpose(NeighborRequest())
"""A link, for which a full receiver makes room."""
TRANSIENT: Final = DialPurpose(OpenTransient())
"""A transient session."""


def swap(swap_for: PeerRecord, max_rtt_s: float) -> DialPurpose:
    """A link in place of the one to `swap_for`, if its round trip is below `max_rtt_s`."""
    return DialPurpose(SwapRequest(swap_for), max_rtt_s)


def punch(purpose: DialPurpose) -> DialPurpose:
    """The same, of a dial that opens a NAT for the peer, which dials at the same time."""
    return purpose._replace(is_punch=True)
