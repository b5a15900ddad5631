"""Fork safety: the node stays with the parent, and the child holds none of its resources."""

from __future__ import annotations

import asyncio
import json
import os
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from grapevine_proto import ClusterKey, GrapevineError, Node, NodeConfig
from grapevine_proto.errors import StateLockedError
from grapevine_proto.runtime.state_file import StateDirectory
from grapevine_proto.runtime.udp_socket import UdpSocket
from tests.conftest import Run

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork")

KEY = ClusterKey.generate()


class Child:
    """Runs `work` in a child of this process, and waits there for `end`."""

    def __init__(self, work: Callable[[], Any]) -> None:
        reading, writing = os.pipe()
        ended, self._end = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # forking beside threads
            self._pid = os.fork()
        if self._pid == 0:
            try:
                found = json.dumps(work())
            except BaseException as error:  # noqa: BLE001  the parent reads it
                found = json.dumps(repr(error))
            os.write(writing, found.encode())
            os.close(self._end)
            os.read(ended, 1)
            os._exit(0)
        os.close(writing)
        os.close(ended)
        self.found = json.loads(os.read(reading, 1 << 16))
        os.close(reading)

    def end(self) -> None:
        os.close(self._end)
        os.waitpid(self._pid, 0)


def raised_by(call: Callable[[], Any]) -> str:
    """Returns type and text of the exception that `call` raises before it first waits."""
    try:
        made = call()
        if isinstance(made, Awaitable):
            made.__await__().send(None)
    except GrapevineError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def config(**changes: Any) -> NodeConfig:
    return NodeConfig.local(keys=[KEY], bind="127.0.0.1:0", **changes)


def calls_of(node: Node) -> dict[str, Callable[[], Any]]:
    """Returns every public call of a node by name."""
    to = node.peer_id
    return {
        "start": node.start,
        "ready": node.ready,
        "leave": node.leave,
        "broadcast": lambda: node.broadcast(b"x"),
        "trace": lambda: node.trace(b"x"),
        "send": lambda: node.send(to, b"x"),
        "dial": lambda: node.dial("127.0.0.1:1"),
        "start_round": node.start_round,
        "forget": lambda: node.forget(to),
        "reconfigure": lambda: node.reconfigure(config()),
        "wait_stopped": node.wait_stopped,
        "on_message": lambda: node.on_message(print),
        "on_event": lambda: node.on_event(print),
        "events": node.events,
        "peers": node.peers,
        "members": node.members,
        "rounds": node.rounds,
        "traces": node.traces,
        "stats": node.stats,
        **{
            name: (lambda name=name: getattr(node, name))  # type: ignore[misc]
            for name in ("peer_id", "address", "advertised", "epoch", "unacknowledged", "lag_s")
        },
    }


def test_in_a_child_every_call_raises_one_clear_error(run: Run[Any]) -> None:
    async def main() -> None:
        async with Node(config()) as node:
            calls = calls_of(node)
            child = Child(lambda: {name: raised_by(call) for name, call in calls.items()})
            child.end()
            assert not node.stats().send_drops  # the parent's node goes on
        assert isinstance(child.found, dict), child.found
        for name, writing in child.found.items():
            assert writing.startswith("NotRunning: "), name
            assert "forked" in writing or name == "start", name

    run(main())


def test_a_child_keeps_neither_the_port_nor_the_state_directory(
    run: Run[Any], tmp_path: Path
) -> None:
    async def main() -> None:
        async with Node(config(), state_dir=tmp_path) as node:
            address = str(node.address)
            child = Child(lambda: node.is_running)
            assert child.found is False
            with pytest.raises(StateLockedError):  # the child has not unlocked it either
                StateDirectory(tmp_path).load(0)
        async with Node(config().replace(bind=address), state_dir=tmp_path):
            pass
        child.end()

    run(main())


def test_the_parent_sends_and_receives_while_a_child_runs(run: Run[Any]) -> None:
    async def main() -> None:
        async with Node(config()) as one:
            child = Child(lambda: None)
            peers = (str(one.address),)
            async with Node(config(bootstrap_peers=peers)) as other, asyncio.timeout(20):
                events = other.events()
                await other.ready()
                await one.ready()
                message_id = await one.broadcast(b"here")
                async for event in events:
                    if getattr(getattr(event, "message", None), "id", None) == message_id:
                        break
            child.end()

    run(main())


def test_a_child_can_start_a_node_of_its_own(run: Run[Any], tmp_path: Path) -> None:
    def work() -> int:
        async def in_child() -> int:
            async with Node(config(), state_dir=tmp_path / "child") as own:
                return own.address.port

        return asyncio.new_event_loop().run_until_complete(in_child())

    async def main() -> None:
        async with Node(config(), state_dir=tmp_path / "parent") as node:
            child = Child(work)
            child.end()
            assert child.found != node.address.port
            assert isinstance(child.found, int)

    run(main())


def test_a_node_that_is_not_running_can_be_used_in_the_child(tmp_path: Path) -> None:
    directory = StateDirectory(tmp_path)
    child = Child(lambda: len(directory.load(0).seed))
    child.end()
    assert child.found == 32


def test_a_copy_of_a_socket_is_closed_without_closing_another(run: Run[Any]) -> None:
    async def main() -> None:
        endpoint = await UdpSocket.open("127.0.0.1:0")

        def work() -> bool:
            endpoint.on_forked()
            spare = os.open(os.devnull, os.O_RDONLY)  # so that no descriptor number is reused
            return spare != endpoint._fd

        child = Child(work)
        child.end()
        assert child.found is True
        endpoint.close()

    run(main())
