"""Searches the log files of all machines: a word typed at one node is looked for by each in its own file.

    python examples/scatter_gather.py cluster.key 127.0.0.1:17400-17409 web-1.log   # each node with its file

The nodes find each other in the range of ports. Ctrl+D leaves.
"""

import asyncio
import sys
from pathlib import Path

from grapevine_proto import AnswerStatus, ClusterKey, Node, NodeConfig, Question, TooManyQueries


async def main(key_file: str, ports: str, log: str) -> None:
    typed, loop = asyncio.StreamReader(), asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(typed), sys.stdin)
    key = ClusterKey.load_or_generate(key_file)
    async with Node(NodeConfig.local(keys=key, bind=ports, bootstrap_peers=ports)) as node:

        @node.on_query("grep")
        def grep(question: Question) -> bytes:
            lines = Path(log).read_bytes().splitlines()
            return b"\n".join(line for line in lines if question.payload in line)

        print("listening on", node.address)
        async for word in typed:
            try:
                query = await node.query("grep", word.strip())
            except TooManyQueries as error:
                print(error)
                continue
            async for answer in query:
                if answer.status is AnswerStatus.ANSWERED and answer.payload:
                    print(f"{answer.peer_id:.8} {answer.payload.decode(errors='replace')!r}")
            report = query.report()
            print(f"{report.answered} of {report.asked} nodes answered in {report.last_ms} ms")


asyncio.run(main(*sys.argv[1:]))
