"""Two real nodes keep exchanging messages while one member sends all attacks at once, over real
sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import tracemalloc
from typing import Any, Final

from grapevine_proto import ClusterKey, Event, MessageReceived, Node, NodeConfig
from grapevine_proto.events import Standing, StandingChanged
from tests.conftest import Run
from tests.scenarios.real_attack import attack

KEY: Final = ClusterKey(bytes(range(32)))
MESSAGES: Final = 40
MEMORY_BYTES: Final = 100 * 2**20


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
