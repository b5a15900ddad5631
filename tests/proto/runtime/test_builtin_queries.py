"""Queries that every node answers by itself, in a cluster of two over real sockets."""

from __future__ import annotations

import json

from grapevine_proto import AnswerStatus, ClusterKey, Node, NodeConfig, __version__
from grapevine_proto.runtime.builtin_queries import BUILTIN_QUERIES, builtin_handlers
from tests.conftest import Run


def test_a_node_answers_for_itself_unless_its_settings_forbid_it(run: Run[None]) -> None:
    run(ask_two_nodes())


async def ask(node: Node, name: str, payload: bytes = b"") -> dict[str, str]:
    """The answers by peer ID, without refusals and failures."""
    answers = [each async for each in await node.query(name, payload)]
    assert len(answers) == 2
    return {
        str(each.peer_id): each.payload.decode()
        for each in answers
        if each.status is AnswerStatus.ANSWERED
    }


async def ask_two_nodes() -> None:
    key = ClusterKey.generate()
    async with Node(NodeConfig.local(keys=key, name="one")) as one:
        config = NodeConfig.local(keys=key, bootstrap_peers=one.address)
        async with Node(config) as two:
            await two.ready()
            await one.ready()
            sent = await one.broadcast(b"cached")
            await one.flush()
            both = {str(one.peer_id), str(two.peer_id)}
            assert await ask(one, "grapevine.version") == dict.fromkeys(both, __version__)
            keys = await ask(one, "grapevine.keys")
            assert keys == dict.fromkeys(both, json.dumps([key.fingerprint]))
            (link,) = json.loads((await ask(one, "grapevine.links"))[str(two.peer_id)])
            assert (link["peer_id"], link["state"]) == (str(one.peer_id), "connected")
            stats = json.loads((await ask(one, "grapevine.stats"))[str(one.peer_id)])
            assert stats["published"] >= 1
            cached = await ask(one, "grapevine.has", str(sent).encode())
            found = {peer_id: json.loads(answer) for peer_id, answer in cached.items()}
            own, other = found[str(one.peer_id)], found[str(two.peer_id)]
            assert (own["cached"], own["via"], own["hops"]) == (True, "local", 0)
            assert (other["cached"], other["hops"]) == (True, 1)
            assert other["via"] in ("eager", "lazy"), "its first message may be announced"
            assert own["from"] == other["from"] == str(one.peer_id)
            assert other["age_ms"] >= 0 <= other["cached_s"]
            later = str(sent).rpartition(":")[0] + ":99"
            cached = await ask(one, "grapevine.has", later.encode())
            assert cached == dict.fromkeys(both, '{"cached":false}')
            assert await ask(one, "grapevine.has", b"no id") == {}, "refused, not answered"
            assert one.stats().callback_errors == two.stats().callback_errors == 0
            two.reconfigure(two.config.replace(builtin_queries=False))
            assert (await ask(one, "grapevine.version")).keys() == {str(one.peer_id)}


def test_the_list_of_queries_is_complete() -> None:
    node = Node(NodeConfig.local(keys=ClusterKey.generate()))
    assert set(BUILTIN_QUERIES) == set(builtin_handlers(node))
