"""Two real nodes go on talking while one member tells all lies at once, over real sockets."""

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
NONSENSE: Final = bytes((Kind.HEARTBEAT,)) + b"\xc1"
PAUSE_S: Final = 0.001  # between two lies: twenty times what the allowance pays for


class _Ends:
    """What `plaintexts` asks a cluster for: the session of the liar with the victim."""

    def __init__(self, liar: Node, victim: PeerId) -> None:
        self._link = liar._engine._transport.links[victim]

    def link(self, *_: int) -> Any:
        return self._link


def _lies(ends: Any) -> list[bytes]:
    kinds = [kind for kind in WORST if kind is not Kind.CLOSE]
    return [said for kind in kinds for said in plaintexts(kind, ends) if len(said) <= 1100]


async def lie(liar: Node, victim: PeerId) -> None:
    """All lies in random order, as long as there is a session."""
    links, rng = liar._engine._transport.links, random.Random(1)
    lies: list[bytes] = []
    while True:
        link = links.get(victim)
        if link is not None:
            lies = lies or _lies(_Ends(liar, victim))
            said = rng.choice(lies) if rng.random() < 0.9 else NONSENSE
            await liar._socket.send(link.session.seal(said, liar.now()), link.address)
        await asyncio.sleep(PAUSE_S)


def test_two_nodes_hear_all_of_each_other_beside_a_liar_who_is_disconnected(run: Run[Any]) -> None:
    async def main() -> None:
        config = NodeConfig.local(keys=[KEY])
        refused, all_heard = asyncio.Event(), asyncio.Event()
        missing = {
            "one": {b"other %d" % number for number in range(MESSAGES)},
            "other": {b"one %d" % number for number in range(MESSAGES)},
        }

        def note(name: str, event: Event) -> None:
            if isinstance(event, MessageReceived):
                missing[name].discard(event.message.payload)
                if not any(missing.values()):
                    all_heard.set()
            elif isinstance(event, StandingChanged) and event.standing is Standing.EXPELLED:
                assert event.peer == liar.peer_id
                refused.set()

        async with Node(config) as one:
            joined = config.replace(bootstrap_peers=(str(one.address),))
            async with Node(joined) as other, Node(joined) as liar:
                one.on_event(lambda event: note("one", event))
                other.on_event(lambda event: note("other", event))
                await other.ready()
                tracemalloc.start()
                lying = asyncio.create_task(lie(liar, one.peer_id))
                try:
                    for number in range(MESSAGES):
                        await one.broadcast(b"one %d" % number)
                        await other.broadcast(b"other %d" % number)
                        await asyncio.sleep(0.05)
                    await refused.wait()
                    await all_heard.wait()
                    kept_bytes, _ = tracemalloc.get_traced_memory()
                    assert kept_bytes < MEMORY_BYTES
                    assert other.peer_id in one._engine._transport.links
                    assert one.stats().expelled >= 1
                finally:
                    tracemalloc.stop()
                    lying.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await lying

    run(main())
