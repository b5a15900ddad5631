"""The fleet under load: ``python -m tests.benchmarks.bench_fleet [SECONDS]``.

One process serves sixteen control sockets of a node with fifty peers and members, a thousand messages a
second in all. Another shows each table over them, with three rules of alerts, and measures the longest stall
of its loop, the share of a core, and memory; first the table of one context. It runs without a terminal.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.crypto.cluster_key import ClusterKey
from grapevine_proto.events import MessageReceived
from grapevine_tui.app.fleet import Destination, FleetApp
from grapevine_tui.config.alert_rules import parse_alerts
from grapevine_tui.config.settings import load_settings
from grapevine_tui.control.commands import FLEET_TABLES
from grapevine_tui.control.server import ControlServer
from grapevine_tui.control.target import LocalTarget
from grapevine_tui.host.local import Host
from grapevine_tui.remote.contexts import Context
from grapevine_tui.remote.fleet import UP, Fleet
from tests.benchmarks.bench_app import PAYLOAD, Probe, memory_mb
from tests.tui.values import a_member, a_message, a_peer

CONTEXTS = 16
RATE_PER_S = 1_000  # of all contexts
PEERS = 50  # of each node, and as many members
RULES = {"few": "peers < 3", "loss": "peer.loss > 2% for 30s", "panic": "message panic"}
AUTHORS = 50
SIZE = (140, 40)


async def serve(directory: Path, count: int) -> None:
    """Serve `count` sockets until the process is killed. One node is behind all of them: each of its messages
    goes to every client."""
    config = NodeConfig.local(keys=[ClusterKey.generate()], name="node")
    host = Host(config, directory / "node")
    async with AsyncExitStack() as stack:
        for number in range(count):
            (directory / f"{number:02}").mkdir()
            server = ControlServer(host, directory / f"{number:02}", lambda: None)
            server.bind()
            stack.callback(server.close)
            await server.start()
        await host.start()
        peers = [a_peer(number, f"node-{number}") for number in range(PEERS)]
        members = [a_member(number, f"node-{number}") for number in range(PEERS)]
        stats = host.node.stats()._replace(members=PEERS)
        host.node.peers = lambda: peers  # type: ignore[method-assign]
        host.node.members = lambda tags=None: members  # type: ignore[method-assign]
        host.node.stats = lambda: stats  # type: ignore[method-assign]
        print("ready", flush=True)
        started, sent = time.perf_counter(), 0
        while True:
            for _ in range(int((time.perf_counter() - started) * RATE_PER_S / count) - sent):
                host._on_event(MessageReceived(a_message(sent % AUTHORS, sent, PAYLOAD)))
                sent += 1
            await asyncio.sleep(0.01)


async def measure(directory: Path, count: int, seconds: float, table: str) -> None:
    fleet = Fleet(
        [Context(f"c{each:02}", LocalTarget(directory / f"{each:02}")) for each in range(count)],
        rules=parse_alerts(RULES),
    )
    settings = load_settings({"app.state_dir": str(directory / "none")}, {}, directory=directory)
    app = FleetApp(fleet, settings, Destination(table=table))
    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause()
        fleet.start()
        refreshing = asyncio.create_task(fleet.run())
        while any(each.state != UP for each in fleet.rows()):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        await asyncio.sleep(2.0)
        app.gc_controller.freeze()  # as on a real terminal
        received_before = sum(each.model.messages.end for each in fleet.nodes.values())
        probe, before = Probe(), time.process_time()
        async with probe.watching():
            await asyncio.sleep(seconds)
        busy = (time.process_time() - before) / seconds
        received = sum(each.model.messages.end for each in fleet.nodes.values()) - received_before
        late = sorted(probe.late)
        print(
            f"{count} contexts, {table}: longest stall {probe.longest_s * 1000:.0f} ms "
            f"(computing {probe.computed_s * 1000:.0f} ms), "
            f"p99 {late[int(len(late) * 0.99)] * 1000:.1f} ms, {busy:.0%} of a core, "
            f"{received / seconds:,.0f} messages/s, {memory_mb():.0f} MB"
        )
        refreshing.cancel()
    await fleet.leave()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("seconds", nargs="?", type=float, default=10.0)
    parser.add_argument("--serve", metavar="DIRECTORY")
    parser.add_argument("--measure", metavar="DIRECTORY")
    parser.add_argument("--contexts", type=int, default=CONTEXTS)
    parser.add_argument("--table", choices=FLEET_TABLES, help="Only this table")
    arguments = parser.parse_args()
    if arguments.serve:
        asyncio.run(serve(Path(arguments.serve), arguments.contexts))
    elif arguments.measure:
        directory, table = Path(arguments.measure), arguments.table
        asyncio.run(measure(directory, arguments.contexts, arguments.seconds, table))
    elif arguments.table:
        _run(arguments.contexts, arguments.seconds, arguments.table)
    else:
        _run(1, arguments.seconds, FLEET_TABLES[0])
        for table in FLEET_TABLES:
            _run(arguments.contexts, arguments.seconds, table)


def _run(count: int, seconds: float, table: str) -> None:
    """Measure `count` contexts in processes of their own."""
    own = [sys.executable, "-m", __spec__.name if __spec__ else __name__, "--contexts", str(count)]
    with tempfile.TemporaryDirectory() as directory:
        server = subprocess.Popen([*own, "--serve", directory], stdout=subprocess.PIPE)
        try:
            assert server.stdout is not None
            server.stdout.readline()
            measuring = [*own, "--table", table, "--measure", directory, str(seconds)]
            subprocess.run(measuring, check=True)
        finally:
            server.kill()
            server.communicate()


if __name__ == "__main__":
    main()
