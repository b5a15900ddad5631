"""Who is here, and who leads: workers see each other come and go, and one of them does the job.

    python examples/presence.py cluster.key 127.0.0.1:17400-17409 worker-1   # each with its own name

The nodes find each other in the range of ports. The leader is the least ID that is up: a hint, not a lock, so
the job must bear it if two nodes do it while the network is split. Ctrl+C leaves.
"""

import asyncio
import contextlib
import sys

from grapevine_proto import ClusterKey, MemberChanged, MemberStatus, Node, NodeConfig

WORKER = {"role": "worker"}


async def work(node: Node) -> None:
    while True:
        if node.leader(WORKER) == node.peer_id:
            others = [each for each in node.members(WORKER) if each.status is MemberStatus.UP]
            count = 1 + len(others)
            print(f"{node.config.name} leads {count} worker{'s' * (count != 1)}")
        await asyncio.sleep(1)


async def main(key_file: str, ports: str, name: str) -> None:
    key = ClusterKey.load_or_generate(key_file)
    config = NodeConfig.local(keys=key, bind=ports, bootstrap_peers=ports, name=name, tags=WORKER)
    async with Node(config) as node:
        working = asyncio.create_task(work(node))
        async for event in node.events(MemberChanged):
            if isinstance(event, MemberChanged) and event.member.has_tags(WORKER):
                print(f"{event.member.name!r} is {event.member.status}")
    working.cancel()


with contextlib.suppress(KeyboardInterrupt):
    asyncio.run(main(*sys.argv[1:]))
