"""All attacks of a malicious member at once, from a real node over real sockets.

Invariants:

- The malicious node has what any member has: the cluster key, its own identity and its links. It
  joins and keeps running like any other node; forged messages are sealed on its own sessions.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any, Final

from grapevine_proto import Node, PeerId
from grapevine_proto.wire.messages import Kind
from tests.scenarios.worst_case import WORST, plaintexts

MALFORMED: Final = bytes((Kind.HEARTBEAT,)) + b"\xc1"
PAUSE_S: Final = 0.001  # between two attacks: twenty times the allowed rate


class SessionLookup:
    """The part of a cluster that `plaintexts` needs: the session of the malicious node with its
    victim.
    """

    def __init__(self, malicious: Node, victim: PeerId) -> None:
        self._link = malicious._engine._transport.links[victim]

    def link(self, *_: int) -> Any:
        return self._link


def _attacks(lookup: Any) -> list[bytes]:
    kinds = [kind for kind in WORST if kind is not Kind.CLOSE]
    return [
        plaintext
        for kind in kinds
        for plaintext in plaintexts(kind, lookup)
        if len(plaintext) <= 1100
    ]


async def attack(malicious: Node, victim: PeerId) -> None:
    """Send attacks in random order whenever there is a session, until canceled."""
    links, rng = malicious._engine._transport.links, random.Random(1)
    attack_plaintexts: list[bytes] = []
    while True:
        link = links.get(victim)
        if link is not None:
            attack_plaintexts = attack_plaintexts or _attacks(SessionLookup(malicious, victim))
            plaintext = rng.choice(attack_plaintexts) if rng.random() < 0.9 else MALFORMED
            await malicious._socket.send(
                link.session.seal(plaintext, malicious.now()), link.address
            )
        await asyncio.sleep(PAUSE_S)
