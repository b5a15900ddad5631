"""What Prometheus reads of a node, and that reading it costs the node nothing."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import urllib.request
from contextlib import AsyncExitStack

import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.parser import text_string_to_metric_families

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.crypto.cluster_key import ClusterKey
from grapevine_proto.errors import BindError, DropReason
from grapevine_proto.events import MemberStatus, MessageReceived, PeerState, Via
from grapevine_proto.node import Node
from grapevine_tui.host.local import Host
from grapevine_tui.service import metrics
from grapevine_tui.service.metrics import (
    MAX_CONNECTIONS,
    MAX_TOPIC_LABELS,
    OTHER_TOPICS,
    metrics_server,
)
from tests.sources import ROOT
from tests.tui.runs import WAIT_S, Bench

TOPIC_METRIC = "grapevine_topic_messages_total"


def fetch(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=WAIT_S) as answer:
        text: str = answer.read().decode()
        return text


def values(text: str) -> dict[tuple[str, str], float]:
    """By sample name and its first label's value; label `peer_id` is left out."""
    return {
        (
            sample.name,
            next((v for k, v in sample.labels.items() if k != "peer_id"), ""),
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.mark.asyncio
async def test_what_happens_is_counted() -> None:
    keys = [ClusterKey.generate()]
    async with AsyncExitStack() as stack, asyncio.timeout(WAIT_S):
        bob = await stack.enter_async_context(Node(NodeConfig.local(keys=keys, name='b"o\x1bb')))
        config = NodeConfig.local(keys=keys, name="us", bootstrap_peers=[str(bob.address)])
        host = Host(config, None)
        port = await stack.enter_async_context(metrics_server(host, "127.0.0.1:0"))
        await host.start()
        stack.push_async_callback(host.leave, 0.1)
        await host.node.ready(1)
        await host.broadcast(b"one")
        received = asyncio.Event()
        host.listen(lambda event, _: received.set() if isinstance(event, MessageReceived) else None)
        await bob.broadcast(b"two")
        await received.wait()
        text = await asyncio.to_thread(fetch, port)
    seen = values(text)
    assert seen["grapevine_peers", "connected"] == 1
    assert seen["grapevine_members", "up"] >= 1
    assert seen["grapevine_messages_total", "local"] == 1
    ways = ("eager", "lazy", "repair")  # the first message of a new cluster may be announced only
    assert sum(seen["grapevine_messages_total", each] for each in ways) == 1
    assert seen["grapevine_message_outcomes_total", "delivered"] == 1
    assert seen["grapevine_answer_outcomes_total", "lost"] == 0
    assert seen["grapevine_datagrams_received_total", ""] > 0
    assert seen["grapevine_peer_tokens", ""] > 0
    assert seen["grapevine_peer_send_rate_bytes_per_second", ""] > 0
    assert seen["grapevine_peer_sent_datagrams_total", ""] > 0
    assert seen["grapevine_peer_lost_datagrams_total", ""] == 0
    assert "grapevine_peer_rtt_seconds_bucket" in text
    assert "grapevine_loop_lag_seconds" in text
    assert "\x1b" not in text


@pytest.mark.asyncio
async def test_every_labeled_counter_has_its_series_before_the_first_event() -> None:
    async with AsyncExitStack() as stack, asyncio.timeout(WAIT_S):
        host = Host(NodeConfig.local(keys=[ClusterKey.generate()]), None)
        port = await stack.enter_async_context(metrics_server(host, "127.0.0.1:0"))
        await host.start()
        stack.push_async_callback(host.leave, 0.1)
        seen = values(await asyncio.to_thread(fetch, port))
    for name, expected in {
        "grapevine_dropped_total": DropReason,
        "grapevine_messages_total": Via,
        "grapevine_peers": PeerState,
        "grapevine_members": MemberStatus,
    }.items():
        assert {label for each, label in seen if each == name} == {word.value for word in expected}


@pytest.mark.asyncio
async def test_messages_are_counted_by_the_first_token_of_their_topic_and_tokens_are_bounded() -> (
    None
):
    host = Host(NodeConfig.local(keys=[ClusterKey.generate()]), None)
    async with asyncio.timeout(WAIT_S), metrics_server(host, "127.0.0.1:0") as port:
        await host.start()
        await host.broadcast(b"without a topic")
        for token in (*range(MAX_TOPIC_LABELS + 1), "late", 0):
            await host.publish(f"t{token}.web", b"x")
        seen = values(await asyncio.to_thread(fetch, port))
        await host.leave(0.1)
    counts = {topic: n for (name, topic), n in seen.items() if name == TOPIC_METRIC}
    expected = {f"t{token}": 1.0 for token in range(MAX_TOPIC_LABELS)}
    assert counts == expected | {"t0": 2.0, OTHER_TOPICS: 2.0}


@pytest.mark.asyncio
async def test_an_idle_connection_is_evicted_for_one_that_sends_a_request() -> None:
    host = Host(NodeConfig.local(keys=[ClusterKey.generate()]), None)
    async with asyncio.timeout(WAIT_S):
        async with metrics_server(host, "127.0.0.1:0") as port:
            await host.start()
            idle = [
                socket.create_connection(("127.0.0.1", port)) for _ in range(MAX_CONNECTIONS + 2)
            ]
            for each in idle[2:]:
                each.sendall(b"G")
            for each in idle[:2]:
                assert await asyncio.to_thread(each.recv, 1) == b""
            seen = values(await asyncio.to_thread(fetch, port))
            assert seen["grapevine_metrics_connections_dropped_total", ""] == 3
        for each in idle:
            each.close()
        await host.leave(0.1)


@pytest.mark.asyncio
async def test_a_request_that_dribbles_ends_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grapevine_tui.service.metrics.REQUEST_TIMEOUT_S", 0.0)
    host = Host(NodeConfig.local(keys=[ClusterKey.generate()]), None)
    async with asyncio.timeout(WAIT_S):
        async with metrics_server(host, "127.0.0.1:0") as port:
            await host.start()
            with socket.create_connection(
                ("127.0.0.1", port), timeout=4.0
            ) as slow:  # below its own
                slow.sendall(b"G")
                assert await asyncio.to_thread(slow.recv, 1) == b""
        await host.leave(0.1)


@pytest.mark.asyncio
async def test_a_port_in_use_is_reported() -> None:
    host = Host(NodeConfig.local(), None)
    with (
        socket.create_server(("127.0.0.1", 0)) as busy,
        pytest.raises(BindError, match="metrics at"),
    ):
        await metrics_server(host, f"127.0.0.1:{busy.getsockname()[1]}").__aenter__()


def test_a_headless_node_serves_metrics_and_a_port_in_use_is_exit_4(bench: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
        port_in_use = bench.run("--metrics", f"127.0.0.1:{port}")
        assert port_in_use.process.wait(timeout=WAIT_S) == 4
        assert port_in_use.errors().count("\n") == 1
        assert port_in_use.seen == []
    run = bench.run(environ={"GRAPEVINE_METRICS": f"127.0.0.1:{port}"})
    run.expect("started")
    assert values(fetch(port))["grapevine_peers", "connected"] == 0
    assert run.end() == 0
    assert bench.command("--metrics", "here", "--show-config").returncode == 2


@pytest.mark.asyncio
async def test_every_metric_of_the_dashboard_is_one_that_is_served() -> None:
    host = Host(NodeConfig.local(keys=[ClusterKey.generate()]), None)
    async with metrics_server(host, "127.0.0.1:0") as port, asyncio.timeout(WAIT_S):
        await host.start()
        text = await asyncio.to_thread(fetch, port)
        await host.leave(0.1)
    served = {
        name
        for family in text_string_to_metric_families(text)
        for name in (family.name, f"{family.name}_total", f"{family.name}_bucket")
    }
    board = json.loads((ROOT / "config" / "grafana-dashboard.json").read_text())
    used = {
        word
        for panel in board["panels"]
        for target in panel.get("targets", [])
        for word in "".join(c if c.isalnum() or c == "_" else " " for c in target["expr"]).split()
        if word.startswith("grapevine_")
    }
    assert len(used) > 10
    assert used <= served


def test_without_free_descriptors_the_server_pauses_warns_once_and_resumes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    resource = pytest.importorskip("resource")
    rests: list[float] = []
    monkeypatch.setattr("grapevine_tui.service.metrics.time.sleep", rests.append)
    registry = CollectorRegistry()
    server = metrics._bind_server(
        "127.0.0.1:0", Counter("dropped", "for the test", registry=registry)
    )
    asking = socket.create_connection(("127.0.0.1", server.server_port))
    caplog.set_level("WARNING", "grapevine")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
        for _ in range(3):
            with pytest.raises(OSError, match="Too many open files"):
                server.get_request()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert rests == [metrics.ACCEPT_RETRY_INTERVAL_S] * 3
    assert len(caplog.records) == 1
    accepted, _ = server.get_request()
    accepted.close()
    asking.close()
    server.server_close()
