"""The introducer: a node tells two of its peers that are behind NATs to dial each other at the same time.

Each is told where this node sees the other one. The first packet of each opens its own NAT for the other
(hole punching; Ford, Srisuresh, Kegel 2005). What the two do is in `overlay.topology.hole_punching`.

Invariants:

- Only peers with a session are introduced, to peers with a link. Nothing is said to anyone else, and
  nothing about members without a link.
- One `Introduce` causes at most one message to each end. A requester beyond its rate is ignored and
  counted, so this node cannot be made to flood a peer.
- At most `REQUESTERS_LIMIT` requesters are limited one by one; the one that asked longest ago is forgotten.
"""

from __future__ import annotations

from typing import Final

from grapevine_proto.ids import PeerId
from grapevine_proto.token_bucket import TokenBucket
from grapevine_proto.transport.link.link import Link
from grapevine_proto.transport.link_table import LinkTable
from grapevine_proto.wire import codec
from grapevine_proto.wire.messages import Introduce, Introduction

REQUESTERS_LIMIT: Final = 64
REQUESTS_BURST: Final = 16  # per requester: it may have to replace its links
REQUESTS_PER_S: Final = 2.0


class Introducer:
    """Introduces peers to each other on request. `made` and `refused` count requests."""

    def __init__(self, links: LinkTable) -> None:
        self._links = links
        self._budgets: dict[PeerId, TokenBucket] = {}  # by requester, the latest last
        self.made = 0
        self.refused = 0

    def introduce(
        self, requester: Link, request: Introduce, now: float
    ) -> list[tuple[Link, bytes]]:
        """Returns what is to be sent to the requester and to the subject; nothing if the subject has no link
        here, or the requester asks too often."""
        subject = self._links.get(request.subject)
        is_dialable = not requester.address.is_via_relay
        if (
            subject is None
            or subject is requester
            or not is_dialable
            or not self._try_take(requester.peer_id, now)
        ):
            self.refused += 1
            return []
        self.made += 1
        ends = (requester, subject), (subject, requester)
        return [
            (
                receiver,
                codec.encode_message(
                    Introduction(other.record, other.address, request.is_transient)
                ),
            )
            for receiver, other in ends
        ]

    def _try_take(self, peer_id: PeerId, now: float) -> bool:
        budget = self._budgets.pop(peer_id, None)
        if budget is None:
            budget = TokenBucket(REQUESTS_BURST, REQUESTS_PER_S, now)
        self._budgets[peer_id] = budget
        if len(self._budgets) > REQUESTERS_LIMIT:
            del self._budgets[next(iter(self._budgets))]
        return budget.try_take(now)
