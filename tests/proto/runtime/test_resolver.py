"""Bootstrap names: each is resolved independently and periodically."""

from __future__ import annotations

import asyncio
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from grapevine_proto import ClusterKey, Node, NodeConfig
from grapevine_proto.ids import Address
from grapevine_proto.runtime.resolver import BootstrapResolver
from grapevine_proto.runtime.udp_socket import MAX_LOOKUPS
from tests.conftest import Run

LIVE = Address("127.0.0.1", 8000)


def test_a_hanging_lookup_delays_no_other_name(run: Run[Any]) -> None:
    async def main() -> None:
        found: asyncio.Queue[tuple[str, tuple[Address, ...]]] = asyncio.Queue()

        async def resolve(name: str) -> tuple[Address, ...]:
            if name.startswith("dead"):
                await asyncio.Event().wait()
            return (LIVE,)

        names = BootstrapResolver(
            resolve, lambda name, addresses: found.put_nowait((name, addresses))
        )
        names.watch(["dead.example:1", "127.0.0.1:2", "live.example:3"])
        task = asyncio.create_task(names.run())
        assert await found.get() == ("live.example:3", (LIVE,))
        names.watch(["dead.example:1", "late.example:4"])
        assert await found.get() == ("late.example:4", (LIVE,))
        task.cancel()
        await asyncio.wait([task])

    run(main())


def test_an_unexpected_error_in_a_lookup_ends_nothing(
    run: Run[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grapevine_proto.runtime.resolver.RESOLVE_INTERVAL_S", 0.0)

    async def main() -> None:
        found: asyncio.Queue[str] = asyncio.Queue()
        attempts = iter([RuntimeError("new"), None])

        async def resolve(name: str) -> tuple[Address, ...]:
            error = next(attempts, None)
            if error is not None:
                raise error
            return (LIVE,)

        names = BootstrapResolver(resolve, lambda name, _: found.put_nowait(name))
        names.watch(["live.example:3"])
        task = asyncio.create_task(names.run())
        assert await found.get() == "live.example:3"
        task.cancel()
        await asyncio.wait([task])

    run(main())


def test_a_node_with_hanging_names_connects_dials_and_leaves(
    run: Run[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while the application keeps every thread of the default executor busy."""
    gate, real = threading.Event(), socket.getaddrinfo

    def lookup(host: Any, *args: Any, **more: Any) -> Any:
        if str(host).startswith("dead"):
            gate.wait()
        return real("127.0.0.1" if str(host).endswith(".example") else host, *args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    key = ClusterKey.generate()

    async def main() -> None:
        busy = [asyncio.create_task(asyncio.to_thread(gate.wait)) for _ in range(64)]
        async with (
            Node(NodeConfig.local(keys=[key])) as ada,
            Node(NodeConfig.local(keys=[key])) as eve,
        ):
            dead = [f"dead{number}.example:8000" for number in range(MAX_LOOKUPS - 1)]
            peers = [*dead, f"live.example:{ada.address.port}"]
            bob = Node(NodeConfig.local(keys=[key], bootstrap_peers=peers))
            await bob.start()
            await bob.ready()
            bob.reconfigure(bob._engine.config.replace(bootstrap_peers=[*peers, "dead.example:1"]))
            await bob.dial(f"eve.example:{eve.address.port}")
            await bob.leave(timeout=1)
        gate.set()
        await asyncio.gather(*busy)

    run(main())


def test_a_node_with_state_starts_and_leaves_while_the_default_executor_is_busy(
    run: Run[Any], tmp_path: Path
) -> None:
    gate = threading.Event()

    async def main() -> None:
        busy = [asyncio.create_task(asyncio.to_thread(gate.wait)) for _ in range(64)]
        async with Node(NodeConfig.local(keys=[ClusterKey.generate()]), state_dir=tmp_path) as ada:
            await ada.broadcast(b"x")
        gate.set()
        await asyncio.gather(*busy)

    run(main())
