"""The asyncio node, over real sockets on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import grapevine_proto.node as node_module
import grapevine_proto.runtime.driver as driver_module
from grapevine_proto import (
    Address,
    AntiEntropyConfig,
    BindError,
    CaughtUp,
    ClusterKey,
    ConfigError,
    DatagramDropped,
    DialFailed,
    DropReason,
    Event,
    InvalidArgument,
    LimitsConfig,
    Message,
    MessageReceived,
    MessageSent,
    MessagesSkipped,
    MessageTooLarge,
    Node,
    NodeConfig,
    NodeStarted,
    NodeStopped,
    NotRunning,
    PeerState,
    PeerStateChanged,
    RateLimitConfig,
    StateLockedError,
    StateSaveFailed,
    Stream,
    UnknownPeer,
)
from grapevine_proto.engine import Engine, NodeState
from grapevine_proto.runtime.clock import clock
from grapevine_proto.runtime.driver import EngineDriver
from grapevine_proto.runtime.state_file import StateDirectory
from grapevine_proto.runtime.udp_socket import UdpSocket
from tests.conftest import Run

KEY = ClusterKey(bytes(range(32)))


def quick(*bootstrap: Node, **changes: Any) -> NodeConfig:
    """Returns a configuration with short timeouts."""
    settings: dict[str, Any] = {
        "keys": [KEY],
        "gossip_interval": 0.2,
        "peer_timeout": 1.0,
        "connection_timeout": 1.0,
        "bootstrap_peers": [str(node.address) for node in bootstrap],
    }
    return NodeConfig(**(settings | changes))


class Inbox:
    """The messages that a node received; `of` waits until there are `count`."""

    def __init__(self, node: Node) -> None:
        self.messages: list[Message] = []
        self._came = asyncio.Event()
        node.on_message(self._take)

    def _take(self, message: Message) -> None:
        self.messages.append(message)
        self._came.set()

    @property
    def payloads(self) -> list[bytes]:
        return [message.payload for message in self.messages]

    async def of(self, count: int) -> list[bytes]:
        while len(self.messages) < count:
            self._came.clear()
            await self._came.wait()
        return self.payloads


async def event_where(node: Node, condition: Callable[[Any], bool]) -> Any:
    """Returns the next event of `node` for which `condition` holds."""
    async for event in node.events():
        if condition(event):
            return event
    raise AssertionError("the node stopped first")


async def state_of(node: Node, other: Node, state: PeerState) -> None:
    """Waits until `other` is in `state` on `node`."""
    events = node.events()
    while True:
        if any(p.peer_id == other.peer_id and p.state is state for p in node.peers()):
            return
        await anext(events)


# --- messages -----------------------------------------------------------------------------------


def test_two_nodes_exchange_messages_and_a_handler_added_after_start_is_called(
    run: Run[Any],
) -> None:
    async def main() -> None:
        async with Node(quick()) as ours, Node(quick(ours)) as theirs:
            inbox, other_inbox = Inbox(ours), Inbox(theirs)
            await asyncio.gather(ours.ready(), theirs.ready())
            sent = await theirs.broadcast(b"hello")
            assert await inbox.of(1) == [b"hello"]
            assert inbox.messages[0].id == sent
            assert inbox.messages[0].origin == theirs.peer_id
            await ours.broadcast(b"and hello to you")
            assert await other_inbox.of(1) == [b"and hello to you"]

    run(main())


def test_workers_with_one_range_of_ports_find_each_other(run: Run[Any]) -> None:
    async def main() -> None:
        async with Node(quick()) as first:  # somewhere in the range, so the others have to look
            port = min(first.address.port, 65_535 - 63)
            ports = f"127.0.0.1:{port}-{port + 63}"
            workers = [Node(quick(bind=ports, bootstrap_peers=[ports])) for _ in range(3)]
            async with workers[0], workers[1], workers[2]:
                inboxes = [Inbox(node) for node in workers[1:]]
                await asyncio.gather(*(node.ready(3) for node in (first, *workers)))
                await workers[0].broadcast(b"hello")
                assert [await inbox.of(1) for inbox in inboxes] == [[b"hello"]] * 2

    run(main())


def test_a_node_dials_the_address_of_another_and_takes_a_single_key(run: Run[Any]) -> None:
    async def main() -> None:
        async with Node(NodeConfig.local(keys=KEY)) as ours:
            config = NodeConfig.local(keys=KEY, bootstrap_peers=ours.address)
            async with Node(config) as theirs:
                await theirs.ready(timeout=timedelta(seconds=30))

    run(main())


def test_a_direct_message_reaches_one_member_by_id_or_address(run: Run[Any]) -> None:
    async def main() -> None:
        async with Node(quick()) as ours, Node(quick(ours)) as theirs, Node(quick(ours)) as third:
            inbox, third_inbox = Inbox(theirs), Inbox(third)
            await ours.ready(2)
            await ours.send(theirs.peer_id, b"by id")
            await ours.send(theirs.address, b"by address")
            await ours.send(str(theirs.address), b"by its text")
            await ours.send(str(theirs.peer_id), b"by hex")
            assert sorted(await inbox.of(4)) == [b"by address", b"by hex", b"by id", b"by its text"]
            assert all(message.is_direct for message in inbox.messages)
            await ours.broadcast(b"to all")
            assert await third_inbox.of(1) == [b"to all"]
            with pytest.raises(UnknownPeer):
                await ours.send("10.1.2.3:4", b"to an unused address")
            with pytest.raises(UnknownPeer):
                await ours.send("ab" * 32, b"to an unknown ID")
            with pytest.raises(UnknownPeer):
                await ours.send("my friend", b"neither an address nor an id")

    run(main())


def test_a_name_is_resolved_to_reach_a_bootstrap_peer(run: Run[Any]) -> None:
    async def main() -> None:
        async with Node(quick()) as ours:
            name = f"localhost:{ours.address.port}"
            async with Node(quick(bootstrap_peers=[name])) as theirs:
                await theirs.ready()

    run(main())


def test_a_node_dials_an_address_or_a_name(run: Run[Any]) -> None:
    async def main() -> None:
        async with Node(quick()) as ours, Node(quick()) as theirs, Node(quick()) as third:
            theirs.dial(str(ours.address))
            await third.dial(f"localhost:{ours.address.port}")
            await asyncio.gather(theirs.ready(), third.ready())
            with pytest.raises(ConfigError):
                ours.dial("no address")
            with pytest.raises(UnknownPeer):
                await ours.dial("no-such-host.invalid:80")

    run(main())


def test_a_broadcast_without_peers_reaches_peers_that_connect_in_time(run: Run[Any]) -> None:
    async def main() -> None:
        async with Node(quick()) as ours:
            await ours.broadcast(b"is anybody there?")
            async with Node(quick(ours)) as theirs:
                inbox = Inbox(theirs)
                assert await inbox.of(1) == [b"is anybody there?"]

    run(main())


def test_readers_of_a_message_run_before_anything_is_sent_about_it(
    run: Run[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []

    class Watched:
        """An engine; notes what its driver calls."""

        def __init__(self, engine: Engine) -> None:
            self._engine = engine

        def __getattr__(self, name: str) -> Any:
            return getattr(self._engine, name)

        def receive(self, datagram: bytes, source: Address, now: float) -> None:
            before = self._engine.stats().delivered
            self._engine.receive(datagram, source, now)
            if self._engine.stats().delivered > before:
                happened.append("came")

        def datagrams_to_send(self, now: float) -> list[tuple[bytes, Address]]:
            happened.append("sends")
            return self._engine.datagrams_to_send(now)

    def watching_driver(engine: Any, *rest: Any) -> EngineDriver:
        return EngineDriver(Watched(engine), *rest)  # type: ignore[arg-type]

    async def main() -> None:
        async with Node(quick()) as theirs:
            monkeypatch.setattr(node_module, "EngineDriver", watching_driver)
            async with Node(quick(theirs)) as ours:
                await asyncio.gather(ours.ready(), theirs.ready())
                happened.clear()
                inbox = Inbox(ours)
                ours.on_message(lambda _: happened.append("delivered"))
                await theirs.broadcast(b"now")
                await inbox.of(1)
                assert happened[happened.index("came") + 1] == "delivered"

    run(main())


def test_a_batch_is_delivered_completely_and_in_order_before_later_messages(
    run: Run[Any],
) -> None:
    async def main() -> None:
        count = (
            4 * driver_module.MAX_ITEMS_PER_TURN
        )  # so that telling it takes several turns of the loop
        unlimited = RateLimitConfig(enabled=False)
        async with (
            Node(quick(rate_limit=unlimited)) as ours,
            Node(quick(ours, rate_limit=unlimited)) as theirs,
        ):
            inbox = Inbox(ours)
            await asyncio.gather(ours.ready(), theirs.ready())
            for number in range(3 * count):
                await theirs.broadcast(b"%d" % number)
            assert await inbox.of(3 * count) == [b"%d" % number for number in range(3 * count)]

    run(main())


def test_broadcast_applies_backpressure_and_loses_nothing(run: Run[Any]) -> None:
    async def main() -> None:
        slow = RateLimitConfig(capacity=20, refill_rate=1000)
        limits = LimitsConfig(queue_messages=10)
        async with (
            Node(quick(rate_limit=slow)) as ours,
            Node(quick(ours, limits=limits)) as theirs,
        ):
            inbox = Inbox(ours)
            await asyncio.gather(ours.ready(), theirs.ready())
            wanted = [b"%d" % number for number in range(200)]
            await asyncio.gather(*(theirs.broadcast(payload) for payload in wanted))
            assert sorted(await inbox.of(200)) == sorted(wanted)
            assert theirs.stats().send_drops == 0

    run(main())


def test_a_message_of_the_largest_size_crosses_loopback_whole(run: Run[Any]) -> None:
    async def main() -> None:
        async with Node(quick()) as ours, Node(quick(ours)) as theirs:
            inbox = Inbox(theirs)
            await asyncio.gather(ours.ready(), theirs.ready())
            payload = random.Random(1).randbytes(NodeConfig().max_message_size)
            await ours.broadcast(payload)
            await ours.broadcast(b"after it")
            await inbox.of(2)
            assert sorted(inbox.payloads, key=len) == [b"after it", payload]

    run(main())


def test_a_message_above_the_limit_is_refused(run: Run[Any]) -> None:
    async def main() -> None:
        async with Node(quick(max_message_size=99_999)) as ours:
            with pytest.raises(MessageTooLarge):
                await ours.broadcast(bytes(100_000))
            assert ours.stats().published == 0

    run(main())


# --- handlers and events ------------------------------------------------------------------------


def test_a_handler_that_fails_does_not_stop_the_node(
    run: Run[Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with Node(quick()) as ours, Node(quick(ours)) as theirs:
            ours.on_message(lambda _: 1 / 0)
            ours.on_event(lambda _: 1 / 0)
            inbox = Inbox(ours)
            await asyncio.gather(ours.ready(), theirs.ready())
            with caplog.at_level(logging.CRITICAL, "grapevine"):
                await theirs.broadcast(b"one")
                await theirs.broadcast(b"two")
                assert sorted(await inbox.of(2)) == [b"one", b"two"]

    run(main())


def test_each_reader_gets_all_events_from_started_to_stopped(run: Run[Any]) -> None:
    async def main() -> None:
        ours = Node(quick())
        streams = [ours.events(), ours.events()]
        received: list[Event] = []
        ours.on_event(received.append)
        async with ours, Node(quick(ours)) as theirs:
            await ours.ready()
            await theirs.ready()
            await theirs.broadcast(b"x")
            await event_where(ours, lambda event: isinstance(event, MessageReceived))
        for stream in streams:
            assert [event async for event in stream] == received
        assert isinstance(received[0], NodeStarted)
        assert isinstance(received[-1], NodeStopped)
        assert [event async for event in ours.events()] == []

    run(main())


def test_a_handler_may_call_leave(run: Run[Any]) -> None:
    async def main() -> None:
        ours = Node(quick())
        left = asyncio.Event()

        async def leave(_: Message) -> None:
            await ours.leave()
            left.set()

        ours.on_message(leave)
        async with ours, Node(quick(ours)) as theirs:
            await asyncio.gather(ours.ready(), theirs.ready())
            await theirs.broadcast(b"go")
            await left.wait()
            await state_of(theirs, ours, PeerState.DISCONNECTED)

    run(main())


# --- start and stop -----------------------------------------------------------------------------


def test_a_leaving_peer_is_reported_at_once(run: Run[Any]) -> None:
    async def main() -> None:
        async with Node(quick(peer_timeout=60.0)) as ours:
            async with Node(quick(ours)) as theirs:
                await asyncio.gather(ours.ready(), theirs.ready())
            await state_of(ours, theirs, PeerState.DISCONNECTED)

    run(main())


def test_only_a_dead_peer_can_be_forgotten(run: Run[Any]) -> None:
    async def main() -> None:
        async with Node(quick(peer_timeout=60.0)) as ours:
            async with Node(quick(ours)) as theirs:
                await asyncio.gather(ours.ready(), theirs.ready())
                with pytest.raises(UnknownPeer, match="is connected; only a peer that is down"):
                    ours.forget(theirs.peer_id)
            await state_of(ours, theirs, PeerState.DISCONNECTED)
            ours.forget(theirs.peer_id)
            assert ours.peers() == []
            assert ours.members() == []
            with pytest.raises(UnknownPeer, match=r"no member .* is known"):
                ours.forget(theirs.peer_id)

    run(main())


def test_leave_returns_the_number_of_unacknowledged_broadcasts(run: Run[Any]) -> None:
    async def main() -> None:
        async with Node(quick()) as ours:
            await ours.broadcast(b"one")
            await ours.broadcast(b"two")
            assert await ours.leave() == 2
            assert await ours.leave() == 2
        async with Node(quick()) as ours, Node(quick(ours)) as theirs:
            inbox = Inbox(ours)
            await asyncio.gather(ours.ready(), theirs.ready())
            for number in range(50):
                await theirs.broadcast(b"%d" % number)
            assert await theirs.leave() == 0
            await inbox.of(50)

    run(main())


def test_aclose_leaves_within_the_timeout_of_the_configuration(run: Run[Any]) -> None:
    async def main() -> None:
        node = Node(quick(leave_timeout=0, bootstrap_peers=["127.0.0.1:9"]))
        await node.aclose()  # not started: nothing to leave
        async with contextlib.aclosing(node):
            await node.start()
            await node.broadcast(b"without peers")
        assert not node.is_running
        await node.aclose()
        assert await node.leave() == 1

    run(main())


def test_a_node_without_a_cluster_key_does_not_start(run: Run[Any]) -> None:
    async def main() -> None:
        with pytest.raises(ConfigError) as caught:
            await Node(NodeConfig()).start()
        assert caught.value.field == "keys"

    run(main())


def test_calls_on_a_stopped_node_raise_not_running(run: Run[Any]) -> None:
    async def main() -> None:
        ours = Node(quick())
        for act in (ours.leave, ours.ready):
            with pytest.raises(NotRunning):
                await act()
        with pytest.raises(NotRunning):
            _ = ours.peer_id
        async with ours:
            with pytest.raises(NotRunning):
                await ours.start()
        with pytest.raises(NotRunning):
            await ours.broadcast(b"too late")
        with pytest.raises(NotRunning):
            await ours.start()
        assert ours.stats().published == 0

    run(main())


def test_a_waiting_broadcast_ends_when_the_node_leaves(run: Run[Any]) -> None:
    async def main() -> None:
        stuck = RateLimitConfig(capacity=1, refill_rate=0.1)
        limits = LimitsConfig(queue_messages=2)
        async with (
            Node(quick(rate_limit=stuck)) as ours,
            Node(quick(ours, limits=limits)) as theirs,
        ):
            await asyncio.gather(ours.ready(), theirs.ready())
            waiting = [asyncio.create_task(theirs.broadcast(bytes(50_000))) for _ in range(30)]
            await event_where(theirs, lambda event: True)
            await theirs.leave(timeout=0.1)
            ends = await asyncio.gather(*waiting, return_exceptions=True)
            assert any(isinstance(end, NotRunning) for end in ends)

    run(main())


def test_ready_raises_after_its_timeout(run: Run[Any]) -> None:
    async def main() -> None:
        async with Node(quick()) as ours:
            with pytest.raises(TimeoutError):
                await ours.ready(timeout=0.01)

    run(main())


def test_a_port_in_use_is_reported_and_start_may_be_repeated(run: Run[Any], tmp_path: Path) -> None:
    async def main() -> None:
        async with Node(quick()) as holder:
            ours = Node(quick(bind=str(holder.address)), state_dir=tmp_path)
            with pytest.raises(BindError, match="in use"):
                await ours.start()
        await ours.start()
        await ours.leave()

    run(main())


def test_a_cancelled_start_leaves_nothing_open(run: Run[Any], tmp_path: Path) -> None:
    async def main() -> None:
        ours = Node(quick(), state_dir=tmp_path)
        starting = asyncio.create_task(ours.start())
        await asyncio.sleep(0)  # by now a thread reads the state
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        async with Node(quick(), state_dir=tmp_path):
            pass

    run(main())


def test_a_node_with_another_cluster_key_gets_no_reply(
    run: Run[Any],
) -> None:
    async def main() -> None:
        other = ClusterKey(bytes(32))
        async with Node(quick()) as ours, Node(quick(ours, keys=[other])) as theirs:
            failed = await event_where(theirs, lambda event: isinstance(event, DialFailed))
            assert failed.address == ours.address
            assert ours.peers() == []
            assert ours.stats().datagrams_out == 0
            assert ours.stats().datagrams_in > 0

    run(main())


# --- state --------------------------------------------------------------------------------------


def test_a_second_node_on_a_state_directory_is_refused(run: Run[Any], tmp_path: Path) -> None:
    async def main() -> None:
        async with Node(quick(), state_dir=tmp_path):
            with pytest.raises(StateLockedError, match=str(os.getpid())):
                await Node(quick(), state_dir=tmp_path).start()

    run(main())


def test_a_restarted_node_keeps_its_identity_and_receives_only_missed_messages(
    run: Run[Any], tmp_path: Path
) -> None:
    async def main() -> None:
        async with Node(quick()) as ours:
            async with Node(quick(ours), state_dir=tmp_path) as theirs:
                inbox = Inbox(theirs)
                await asyncio.gather(ours.ready(), theirs.ready())
                await ours.broadcast(b"before")
                await inbox.of(1)
                peer_id, epoch = theirs.peer_id, theirs.epoch
            await ours.broadcast(b"meanwhile")
            theirs = Node(quick(), state_dir=tmp_path)  # it dials the peers in its state
            inbox = Inbox(theirs)
            async with theirs:
                assert (theirs.peer_id, theirs.epoch > epoch) == (peer_id, True)
                await inbox.of(1)
                await ours.ready()
                await ours.broadcast(b"after")
                await inbox.of(2)
            assert sorted(inbox.payloads) == [b"after", b"meanwhile"]

    run(main())


def test_of_two_nodes_with_one_identity_the_later_one_stops(run: Run[Any], tmp_path: Path) -> None:
    async def main() -> None:
        async with Node(quick(), state_dir=tmp_path / "a"):
            pass
        shutil.copytree(tmp_path / "a", tmp_path / "b")
        later = StateDirectory(tmp_path / "b")  # started another second: equal epochs are rarer
        later.load(time.time() + 10)
        later.close()
        async with Node(quick()) as ours:
            one = Node(quick(ours), state_dir=tmp_path / "a")
            other = Node(quick(ours), state_dir=tmp_path / "b")
            await one.start()
            await other.start()
            stops = [
                asyncio.create_task(event_where(node, lambda e: isinstance(e, NodeStopped)))
                for node in (one, other)
            ]
            done, _ = await asyncio.wait(stops, return_when=asyncio.FIRST_COMPLETED)
            stopped = one if stops[0] in done else other
            assert "identity" in done.pop().result().reason
            with pytest.raises(StateLockedError):
                await stopped.broadcast(b"too late")
            with pytest.raises(StateLockedError):
                await stopped.wait_stopped()
            assert not stopped.is_running
            with pytest.raises(StateLockedError):
                await stopped.__aexit__(None, None, None)  # raises the reason for the stop
            for task in stops:
                task.cancel()
            for node in (one, other):
                await node.leave()

    run(main())


def test_wait_stopped_returns_when_the_node_has_left(run: Run[Any]) -> None:
    async def main() -> None:
        node = Node(quick())
        with pytest.raises(NotRunning):
            await node.wait_stopped()
        is_running = [node.is_running]
        await node.start()
        is_running.append(node.is_running)
        waiting = asyncio.create_task(node.wait_stopped())
        await asyncio.sleep(0)
        assert not waiting.done()
        await node.leave()
        await waiting
        assert [*is_running, node.is_running] == [False, True, False]

    run(main())


@pytest.mark.parametrize("number", range(4))
def test_a_task_that_ends_by_itself_stops_the_node_with_a_reason(
    run: Run[Any], number: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with Node(quick()) as ours:
            node = Node(quick(ours))
            await node.start()
            name = node._tasks[number].get_name()
            node._tasks[number].cancel()
            with pytest.raises(NotRunning, match=name):
                await node.wait_stopped()
            with pytest.raises(NotRunning, match=name):
                await node.broadcast(b"deaf?")

    run(main())


def test_a_listener_that_raises_does_not_stop_reception(run: Run[Any]) -> None:
    async def main() -> None:
        async with Node(quick()) as ours, Node(quick(ours)) as theirs:
            inbox = Inbox(theirs)

            def failing(event: Event) -> None:
                if isinstance(event, MessageReceived):
                    pytest.fail("in a listener, which is no Exception")

            theirs.on_event(failing)
            await ours.ready()
            for number in range(3):
                await ours.broadcast(b"%d" % number)
            assert await inbox.of(3) == [b"0", b"1", b"2"]

    run(main())


def test_a_handler_slower_than_the_sender_loses_nothing(run: Run[Any]) -> None:
    async def main() -> None:
        plenty = {"rate_limit": RateLimitConfig(enabled=False), "limits": LimitsConfig(events=200)}
        async with Node(quick(**plenty)) as ours, Node(quick(ours, **plenty)) as theirs:
            handled: list[bytes] = []
            is_done = asyncio.Event()

            @theirs.on_message
            async def slow(message: Message) -> None:
                await asyncio.sleep(0)
                handled.append(message.payload)
                if len(handled) == 5000:
                    is_done.set()

            await ours.ready()
            for number in range(5000):
                await ours.broadcast(b"%d" % number)
            await is_done.wait()
            assert sorted(map(int, handled)) == list(range(5000))
            assert theirs.stats().events_lost == 0

    run(main())


def test_unhandled_messages_are_delivered_again_after_a_graceful_restart(
    run: Run[Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with Node(quick()) as ours:
            handled: list[bytes] = []
            is_blocked = asyncio.Event()
            first = Node(quick(ours), state_dir=tmp_path)

            @first.on_message
            async def block(message: Message) -> None:
                if message.payload != b"0":
                    is_blocked.set()
                    await asyncio.get_running_loop().create_future()
                handled.append(message.payload)

            await first.start()
            await ours.ready()
            for number in range(10):
                await ours.broadcast(b"%d" % number)
            await is_blocked.wait()
            await first.leave(timeout=0.2)
            assert handled == [b"0"]
            assert "left: 9 messages were not handled in time; 9 of them will be" in caplog.text
            async with Node(quick(ours), state_dir=tmp_path) as again:
                inbox = Inbox(again)
                again.start_round()
                assert sorted(await inbox.of(9)) == [b"%d" % number for number in range(1, 10)]

    run(main())


def test_unhandled_messages_are_delivered_again_after_a_kill(
    run: Run[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_module, "SAVE_INTERVAL_S", 0.02)

    async def main() -> None:
        async with Node(quick()) as ours:
            first = Node(quick(ours), state_dir=tmp_path)
            first.on_message(lambda _: asyncio.get_running_loop().create_future())
            is_here = asyncio.Event()
            first.on_event(lambda _: is_here.set() if first.stats().delivered == 3 else None)
            await first.start()
            await ours.ready()
            for number in range(3):
                await ours.broadcast(b"%d" % number)
            await is_here.wait()
            await first._save()
            shutil.copytree(tmp_path, tmp_path / "as of the kill")
            await first.leave(timeout=0.0)
            async with Node(quick(ours), state_dir=tmp_path / "as of the kill") as again:
                inbox = Inbox(again)
                again.start_round()
                assert sorted(await inbox.of(3)) == [b"0", b"1", b"2"]

    run(main())


def test_a_program_that_joins_broadcasts_and_leaves_is_received(run: Run[Any]) -> None:
    async def main() -> None:
        async with Node(quick()) as ours:
            inbox = Inbox(ours)
            async with Node(quick(ours)) as brief:
                await brief.broadcast(b"once")
            assert await inbox.of(1) == [b"once"]
            assert brief.unacknowledged == 0

    run(main())


def test_leave_logs_unacknowledged_broadcasts(
    run: Run[Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        with caplog.at_level(logging.WARNING, "grapevine"):
            async with Node(quick()) as alone:
                await alone.broadcast(b"without peers")
        assert "1 broadcast was not acknowledged by any peer" in caplog.text

    run(main())


def test_arguments_of_the_wrong_type_are_refused_before_anything_happens(run: Run[Any]) -> None:
    async def main() -> None:
        wrong: Any = 5
        with pytest.raises(InvalidArgument, match="NodeConfig"):
            Node(wrong)
        async with Node(quick()) as node:
            with pytest.raises(InvalidArgument, match="bytes"):
                await node.broadcast("text")  # type: ignore[arg-type]
            with pytest.raises(InvalidArgument, match="peer ID or an address"):
                await node.send(wrong, b"x")
            with pytest.raises(InvalidArgument, match="host:port"):
                node.dial(wrong)
            with pytest.raises(InvalidArgument, match="PeerId"):
                node.forget(str(node.peer_id))  # type: ignore[arg-type]
            with pytest.raises(InvalidArgument, match="NodeConfig"):
                node.reconfigure({"fanout": 4})  # type: ignore[arg-type]
            with pytest.raises(InvalidArgument, match="function"):
                node.on_message(wrong)
            with pytest.raises(InvalidArgument, match="function"):
                node.on_event(None)  # type: ignore[type-var]
            with pytest.raises(InvalidArgument, match="drop_oldest"):
                node.on_message(print, on_full="drop")  # type: ignore[call-overload]
            with pytest.raises(InvalidArgument, match="min_peers"):
                await node.ready(-1)
            with pytest.raises(InvalidArgument, match="timeout"):
                await node.ready(0, timeout=float("nan"))
            with pytest.raises(InvalidArgument, match="timeout"):
                await node.leave("soon")  # type: ignore[arg-type]
            assert node.is_running

    run(main())


def test_a_call_from_another_thread_raises_not_running(run: Run[Any]) -> None:
    async def main() -> None:
        async with Node(quick()) as node:
            with pytest.raises(NotRunning, match="call_soon_threadsafe"):
                await asyncio.to_thread(node.start_round)

    run(main())


def test_a_full_disk_is_reported_and_saving_is_retried(
    run: Run[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_module, "SAVE_INTERVAL_S", 0.02)

    def full(_: StateDirectory, __: NodeState) -> None:
        raise OSError(28, "No space left on device")

    async def main() -> None:
        async with Node(quick(), state_dir=tmp_path) as ours, Node(quick(ours)) as theirs:
            with monkeypatch.context() as patch:
                patch.setattr(StateDirectory, "save", full)
                events = (
                    ours.events()
                )  # from here on: saving may fail as soon as they know each other
                await asyncio.gather(ours.ready(), theirs.ready())
                await theirs.broadcast(b"the node goes on")
                unsaved = await anext(e async for e in events if isinstance(e, StateSaveFailed))
                assert "No space left on device" in unsaved.problem
            saved = await anext(e async for e in events if isinstance(e, StateSaveFailed))
            assert saved.problem == ""

    run(main())


def test_datagrams_that_are_not_read_in_time_count_as_socket_overrun(
    run: Run[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_module, "SAVE_INTERVAL_S", 0.02)

    async def main() -> None:
        async with Node(quick()) as node:
            waiting = asyncio.create_task(
                event_where(node, lambda event: isinstance(event, DatagramDropped))
            )
            await asyncio.sleep(0)
            sock = node._socket
            assert isinstance(sock, UdpSocket)
            sock._receive_queue.dropped_reads += 3
            dropped = await waiting
            assert (dropped.reason, dropped.count) == (DropReason.SOCKET_OVERRUN, 3)
            assert dict(node.stats().dropped)[DropReason.SOCKET_OVERRUN] == 3

    run(main())


def test_nothing_is_sent_under_an_unsaved_epoch(
    run: Run[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: StateDirectory, __: NodeState) -> None:
        raise OSError(28, "No space left on device")

    async def main() -> None:
        async with Node(quick(), state_dir=tmp_path) as ours, Node(quick(ours)) as theirs:
            inbox = Inbox(theirs)
            await asyncio.gather(ours.ready(), theirs.ready())
            engine = ours._engine
            with monkeypatch.context() as patch:
                patch.setattr(StateDirectory, "save", full)
                engine._publisher.epoch += 1
                before = ours.stats().datagrams_out
                await ours.broadcast(b"held back")
                await event_where(ours, lambda event: isinstance(event, StateSaveFailed))
                assert ours.stats().datagrams_out == before
                engine._publisher.epoch -= 1  # only the driver matters here
            assert await inbox.of(1) == [b"held back"]

    run(main())


@pytest.mark.skipif(sys.platform == "win32", reason="no such signal")
def test_after_a_kill_the_state_is_readable_and_unlocked(tmp_path: Path) -> None:
    program = (
        "import asyncio, sys\n"
        "from grapevine_proto import ClusterKey, Node, NodeConfig\n"
        "async def main():\n"
        "    key = ClusterKey(bytes(range(32)))\n"
        "    async with Node(NodeConfig(keys=[key]), state_dir=sys.argv[1]) as node:\n"
        "        print(node.peer_id, node.epoch, flush=True)\n"
        "        while True:\n"
        "            await node.broadcast(b'x')\n"
        "            await asyncio.sleep(0)\n"
        "asyncio.run(main())\n"
    )

    async def main() -> None:
        lives: list[tuple[str, int]] = []
        for _ in range(3):
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", program, str(tmp_path)), stdout=asyncio.subprocess.PIPE
            )
            assert process.stdout is not None
            peer_id, epoch = (await process.stdout.readline()).split()
            lives.append((peer_id.decode(), int(epoch)))
            process.send_signal(signal.SIGKILL)
            await process.wait()
        directory = StateDirectory(tmp_path)
        directory.load(0.0)
        directory.close()
        assert directory.load_warning == ""
        assert len({peer_id for peer_id, _ in lives}) == 1
        assert [epoch for _, epoch in lives] == sorted({epoch for _, epoch in lives})

    asyncio.run(main())


# --- operating system and peers -----------------------------------------------------------------


def test_a_dead_peer_costs_other_peers_no_datagram(run: Run[Any]) -> None:
    async def main() -> None:
        async with Node(quick()) as ours, Node(quick(ours)) as theirs:
            inbox = Inbox(theirs)
            await asyncio.gather(ours.ready(), theirs.ready())
            third = Node(quick(ours))
            await third.start()
            await ours.ready(2)
            third._socket.close()  # as if it had been killed
            for number in range(100):
                await ours.broadcast(b"%d" % number)
                await inbox.of(number + 1)
            await state_of(ours, third, PeerState.DISCONNECTED)
            await third.leave(timeout=0)

    run(main())


def test_a_socket_closed_by_the_system_stops_the_node_with_a_reason(run: Run[Any]) -> None:
    async def main() -> None:
        ours = Node(quick())
        await ours.start()
        stopped = asyncio.create_task(
            event_where(ours, lambda event: isinstance(event, NodeStopped))
        )
        await asyncio.sleep(0)
        ours._socket.close()
        assert "socket" in (await stopped).reason
        with pytest.raises(NotRunning, match="socket"):
            await ours.broadcast(b"x")

    run(main())


def test_a_suspended_machine_declares_no_member_dead(
    run: Run[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with Node(quick()) as ours, Node(quick(ours)) as theirs:
            await asyncio.gather(ours.ready(), theirs.ready())
            received: list[Event] = []
            ours.on_event(received.append)
            theirs.on_event(received.append)
            monkeypatch.setattr(node_module, "clock", lambda: clock() + 60.0)
            inbox = Inbox(theirs)
            await ours.broadcast(b"good morning")
            await inbox.of(1)
            assert ours.lag_s > 59
            states = [e.peer.state for e in received if isinstance(e, PeerStateChanged)]
            assert PeerState.DISCONNECTED not in states

    run(main())


def test_an_internal_error_in_one_turn_does_not_stop_the_node(
    run: Run[Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(driver_module, "ERROR_PAUSE_S", 0.0)

    async def main() -> None:
        async with Node(quick()) as ours, Node(quick(ours)) as theirs:
            inbox = Inbox(theirs)
            await asyncio.gather(ours.ready(), theirs.ready())
            with caplog.at_level(logging.ERROR, "grapevine"), monkeypatch.context() as patch:
                patch.setattr(type(ours._engine), "events", lambda _: 1 / 0)
                async with asyncio.timeout(5):
                    while "ZeroDivisionError" not in caplog.text:  # noqa: ASYNC110
                        await asyncio.sleep(0)
            await ours.broadcast(b"still here")
            assert await inbox.of(1) == [b"still here"]

    run(main())


def test_reconfigure_names_the_fields_that_need_a_restart(run: Run[Any]) -> None:
    async def main() -> None:
        async with Node(quick()) as ours, Node(quick()) as theirs:
            changed = quick(theirs, bind="127.0.0.1:1", fanout=5)
            assert ours.reconfigure(changed) == ("bind",)
            await ours.ready()
            with pytest.raises(ConfigError):
                ours.reconfigure(changed.replace(keys=()))

    run(main())


def test_several_nodes_run_in_one_event_loop(run: Run[Any]) -> None:
    async def main() -> None:
        nodes = [Node(quick()) for _ in range(5)]
        await asyncio.gather(*(node.start() for node in nodes))
        for node in nodes[1:]:
            node.dial(nodes[0].address)
        inboxes = [Inbox(node) for node in nodes]
        await asyncio.gather(*(node.ready(4) for node in nodes))
        await nodes[3].broadcast(b"to the other four")
        for number, inbox in enumerate(inboxes):
            if number != 3:
                await inbox.of(1)
        await asyncio.gather(*(node.leave() for node in nodes))

    run(main())


# --- flush, synced --------------------------------------------------------------------------------


def test_flush_waits_until_each_broadcast_is_acknowledged(run: Run[Any]) -> None:
    async def main() -> None:
        async with Node(quick()) as ours, Node(quick(ours)) as theirs:
            inbox = Inbox(ours)
            for number in range(100):  # before the first connection
                await theirs.broadcast(b"%d" % number)
            assert theirs.unacknowledged == 100
            assert await theirs.flush(timeout=60) == 0
            assert len(await inbox.of(100)) == 100
            assert await ours.flush() == 0  # nothing to wait for

    run(main())


def test_flush_returns_what_is_left_after_its_timeout_or_the_end(run: Run[Any]) -> None:
    async def main() -> None:
        ours = Node(quick())
        with pytest.raises(NotRunning):
            await ours.flush()
        async with ours:
            await ours.broadcast(b"nobody is there")
            assert await ours.flush(timeout=timedelta(0)) == 1
            waiting = asyncio.create_task(ours.flush(timeout=None))
            await asyncio.sleep(0)
            await ours.leave(0)
            assert await waiting == 1
            with pytest.raises(NotRunning):
                await ours.flush()

    run(main())


def test_a_joined_node_is_synced_when_it_has_the_backlog(run: Run[Any]) -> None:
    async def main() -> None:
        config = quick(gossip_interval=5.0, peer_timeout=30.0)
        async with Node(config) as first, Node(quick(first)) as second:
            await asyncio.gather(first.ready(), second.ready())
            for number in range(200):
                await first.broadcast(b"%d" % number)
                await second.broadcast(b"%d" % number)
            late = Node(config.replace(bootstrap_peers=[first.address, second.address]))
            inbox, events = Inbox(late), list[Event]()
            late.on_event(events.append)
            async with late:
                await late.synced(timeout=60)
                assert len(inbox.messages) == 400
                assert [each.peers for each in events if isinstance(each, CaughtUp)] in ([1], [2])
                await late.synced(timeout=60)  # once more

    run(main())


def test_a_first_node_is_synced_and_one_without_peers_is_not(run: Run[Any]) -> None:
    async def main() -> None:
        async with Node(quick()) as first:
            await first.synced()
        async with Node(quick(bootstrap_peers=["127.0.0.1:9"])) as lonely:
            with pytest.raises(TimeoutError):
                await lonely.synced(timeout=0.01)
            waiting = asyncio.create_task(lonely.synced(timeout=None))
            await asyncio.sleep(0)
            await lonely.leave(0)
            with pytest.raises(NotRunning):
                await waiting
        off = AntiEntropyConfig(enabled=False)
        async with Node(quick(anti_entropy=off)) as without:
            with pytest.raises(ConfigError, match=r"anti_entropy\.enabled"):
                await without.synced()

    run(main())


# --- readers ----------------------------------------------------------------------------------------


def test_messages_are_read_in_a_loop_until_the_node_leaves(run: Run[Any]) -> None:
    async def main() -> None:
        async with Node(quick()) as ours, Node(quick(ours)) as theirs:
            await asyncio.gather(ours.ready(), theirs.ready())
            messages, peer_events = ours.messages(), ours.events(PeerStateChanged, NodeStopped)
            for number in range(3):
                await theirs.broadcast(b"%d" % number)
            await theirs.send(ours.peer_id, b"direct")
            found = [(await anext(messages)).payload for _ in range(4)]
            assert sorted(found) == [b"0", b"1", b"2", b"direct"]
            closed = ours.messages()
            await closed.aclose()
            assert [each async for each in closed] == []
            await theirs.flush()
            await ours.leave()
            assert [each async for each in messages] == []
            kinds = {type(each) async for each in peer_events}
            assert NodeStopped in kinds
            assert kinds <= {PeerStateChanged, NodeStopped}
            with pytest.raises(InvalidArgument, match="expected types of events"):
                ours.events("message")  # type: ignore[arg-type]

    run(main())


def test_a_handler_can_be_removed_and_errors_are_reported(run: Run[Any]) -> None:
    async def main() -> None:
        async with Node(quick()) as ours, Node(quick(ours)) as theirs:
            await asyncio.gather(ours.ready(), theirs.ready())
            inbox, errors = Inbox(ours), asyncio.Queue[tuple[BaseException, Any]]()

            @ours.on_message(queue=5, on_full="drop_newest")
            def failing(message: Message) -> None:
                raise RuntimeError("a bug")

            @ours.on_error
            def report(error: BaseException, argument: Message | Event) -> None:
                errors.put_nowait((error, argument))

            await theirs.broadcast(b"one")
            error, message = await errors.get()
            assert (str(error), message.payload) == ("a bug", b"one")
            ours.remove_handler(failing)
            await theirs.broadcast(b"two")
            assert await inbox.of(2) == [b"one", b"two"]
            assert errors.empty()
            assert ours.stats().callback_errors == 1
            with pytest.raises(InvalidArgument):
                ours.remove_handler(failing)

    run(main())


def test_messages_of_an_origin_are_read_in_its_order(run: Run[Any]) -> None:
    """Many senders' batches cross the lossy order of datagrams; each reader in order gets each stream in
    sequence, from its first message on."""

    async def main() -> None:
        config = quick(batch_bytes=1)  # a rumor each, so they can overtake one another
        async with Node(config) as ours:
            joined = quick(ours, batch_bytes=1)
            ordered, inbox = ours.messages(ordered=True), Inbox(ours)
            in_handler: list[int] = []
            ours.on_message(lambda message: in_handler.append(message.id.sequence), ordered=True)
            async with Node(joined) as theirs:
                await asyncio.gather(ours.ready(), theirs.ready())
                for number in range(300):
                    await theirs.broadcast(b"%d" % number)
                found = [await anext(ordered) for _ in range(300)]
                assert [each.payload for each in found if isinstance(each, Message)] == [
                    b"%d" % number for number in range(300)
                ]
                assert in_handler == list(range(1, 301))
                await inbox.of(300)

    run(main())


def test_what_is_missing_is_skipped_and_reported_in_order(run: Run[Any]) -> None:
    async def main() -> None:
        one_message = LimitsConfig(cache_bytes=6000)  # an origin may use a quarter
        async with Node(quick(batch_bytes=1, limits=one_message)) as theirs:
            sent = theirs.events(MessageSent)
            for number in range(3):  # the first two are in no cache when the other node joins
                await theirs.broadcast(b"%d" % number + bytes(1000))
                await anext(sent)
            assert theirs.stats().cached == 1
            ours = Node(quick(theirs, order_wait=0.1))
            skipped, messages = ours.events(MessagesSkipped), ours.messages(ordered=True)
            async with ours:
                expected = MessagesSkipped(Stream(theirs.peer_id, theirs.epoch), 1, 2)
                assert await anext(messages) == expected
                message = await anext(messages)
                assert isinstance(message, Message)
                assert message.payload[:1] == b"2"
                assert await anext(skipped) == expected
                assert ours.stats().skipped == 2

    run(main())


def test_a_message_knows_its_age(run: Run[Any]) -> None:
    async def main() -> None:
        async with Node(quick()) as theirs:
            await theirs.broadcast(b"old")
            sent_by = theirs.now()
            async with Node(quick(theirs)) as ours:
                inbox = Inbox(ours)
                await ours.synced(timeout=60)
                await inbox.of(1)
                [message] = inbox.messages
                assert 0.0 <= message.age_s <= message.received_at
                assert message.sent_at <= message.received_at
                assert message.sent_at >= sent_by - 1.0 - message.age_s

    run(main())


def test_a_canceled_leave_closes_at_once(run: Run[Any]) -> None:
    async def main() -> None:
        node = Node(quick(bootstrap_peers=["127.0.0.1:9"], leave_timeout=3600))
        await node.start()
        await node.broadcast(b"nobody is there")
        node.on_message(lambda _: asyncio.get_running_loop().create_future())
        leaving = asyncio.create_task(node.leave())
        await asyncio.sleep(0)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        await node.wait_stopped()
        assert await node.leave() == 1

    run(main())


def test_a_canceled_leave_does_not_wait_for_handlers(run: Run[Any]) -> None:
    async def main() -> None:
        async with Node(quick()) as theirs:
            node, called = Node(quick(theirs, leave_timeout=3600)), asyncio.Event()

            @node.on_message
            async def endless(message: Message) -> None:
                called.set()
                await asyncio.get_running_loop().create_future()

            await node.start()
            await asyncio.gather(node.ready(), theirs.ready())
            await theirs.broadcast(b"go")
            await called.wait()
            stopped = asyncio.create_task(node.wait_stopped())
            leaving = asyncio.create_task(node.leave())
            await state_of(theirs, node, PeerState.DISCONNECTED)
            leaving.cancel()
            await asyncio.wait([leaving])
            await stopped

    run(main())


def test_topics_are_read_in_the_order_of_each_origin(run: Run[Any]) -> None:
    async def main() -> None:
        config = quick(batch_bytes=1)  # a rumor each, so they can overtake one another
        async with Node(config) as ours, Node(quick(ours, batch_bytes=1)) as theirs:
            await asyncio.gather(ours.ready(), theirs.ready())
            for number in range(100):
                topic = "even" if number % 2 == 0 else "odd"
                await theirs.publish(topic, b"%d" % number)
                if number == 50:  # the rest arrives while the subscription lasts
                    subscription = ours.subscribe("even", ordered=True)
            found = [int((await anext(subscription)).payload) for _ in range(50)]
            assert found == list(range(0, 100, 2))

    run(main())


def test_what_waited_for_its_order_is_delivered_in_order_after_a_restart(
    run: Run[Any], tmp_path: Path
) -> None:
    async def main() -> None:
        one_message = LimitsConfig(cache_bytes=6000)  # an origin may use a quarter
        config = quick(batch_bytes=1, limits=one_message)
        async with Node(config) as theirs:
            sent = theirs.events(MessageSent)
            for number in range(3):  # the first two are in no cache, so the third waits for them
                await theirs.broadcast(b"%d" % number + bytes(1000))
                await anext(sent)
            handled: list[bytes] = []
            joined = quick(theirs, order_wait=3600)
            first = Node(joined, state_dir=tmp_path)
            first.on_message(lambda message: handled.append(message.payload), ordered=True)
            async with first:
                await first.synced(timeout=60)
                assert first.stats().delivered == 1
            assert handled == []
            again = Node(joined.replace(order_wait=0.1), state_dir=tmp_path)
            messages = again.messages(ordered=True)
            async with again:
                again.start_round()
                skipped = await anext(messages)
                assert skipped == MessagesSkipped(Stream(theirs.peer_id, theirs.epoch), 1, 2)
                message = await anext(messages)
                assert isinstance(message, Message)
                assert message.payload[:1] == b"2"

    run(main())


def test_what_waits_for_its_order_is_read_when_the_node_leaves_without_a_state(
    run: Run[Any],
) -> None:
    async def main() -> None:
        one_message = LimitsConfig(cache_bytes=6000)
        async with Node(quick(batch_bytes=1, limits=one_message)) as theirs:
            sent = theirs.events(MessageSent)
            for number in range(3):
                await theirs.broadcast(b"%d" % number + bytes(1000))
                await anext(sent)
            ours = Node(quick(theirs, order_wait=3600))
            messages = ours.messages(ordered=True)
            async with ours:
                await ours.synced(timeout=60)
            skipped, message = [each async for each in messages]
            assert skipped == MessagesSkipped(Stream(theirs.peer_id, theirs.epoch), 1, 2)
            assert isinstance(message, Message)
            assert message.payload[:1] == b"2"

    run(main())
