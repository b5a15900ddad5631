"""Two real nodes keep exchanging messages while one member sends all attacks at once, over real
sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import tracemalloc
from typing import Any, Final

from grapevine_proto import ClusterKey, Event, MessageReceived, Node, NodeConfig, PeerId
from grapevine_proto.events import Standing, StandingChanged
from grapevine_proto.wire.messages import Kind
from tests.conftest import Run
from tests.scenarios.worst_case import WORST, plaintexts

KEY: Final = ClusterKey(bytes(range(32)))
MESSAGES: Final = 40
MEMORY_BYTES: Final = 100 * 2**20
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
    """Send attacks in random order as long as there is a session."""
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


def test_two_nodes_receive_all_messages_while_a_malicious_member_is_expelled(run: Run[Any]) -> None:
    async def main() -> None:
        config = NodeConfig.local(keys=[KEY])
        expelled, all_received = asyncio.Event(), asyncio.Event()
        missing = {
            "first": {b"second %d" % number for number in range(MESSAGES)},
            "second": {b"first %d" % number for number in range(MESSAGES)},
        }

        def note(name: str, event: Event) -> None:
            if isinstance(event, MessageReceived):
                missing[name].discard(event.message.payload)
                if not any(missing.values()):
                    all_received.set()
            elif isinstance(event, StandingChanged) and event.standing is Standing.EXPELLED:
                assert event.peer == malicious.peer_id
                expelled.set()

        async with Node(config) as first:
            joining_config = config.replace(bootstrap_peers=(str(first.address),))
            async with Node(joining_config) as second, Node(joining_config) as malicious:
                first.on_event(lambda event: note("first", event))
                second.on_event(lambda event: note("second", event))
                await second.ready()
                tracemalloc.start()
                attacking = asyncio.create_task(attack(malicious, first.peer_id))
                try:
                    for number in range(MESSAGES):
                        await first.broadcast(b"first %d" % number)
                        await second.broadcast(b"second %d" % number)
                        await asyncio.sleep(0.05)
                    await expelled.wait()
                    await all_received.wait()
                    kept_bytes, _ = tracemalloc.get_traced_memory()
                    assert kept_bytes < MEMORY_BYTES
                    assert second.peer_id in first._engine._transport.links
                    assert first.stats().expelled >= 1
                finally:
                    tracemalloc.stop()
                    attacking.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await attacking

    run(main())
