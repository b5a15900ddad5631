"""Lines that were typed, obeyed one after another.

What must stay true:

- They take effect in the order in which they were typed, also where one has to wait for room.
- What the node refuses is said at the line itself, and the line is given back.

Driven by `app`, which puts lines and runs `run` in a worker.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Final, Protocol

from grapevine_proto.errors import GrapevineError
from grapevine_proto.events import DialFailed, Event, PeerState, PeerStateChanged
from grapevine_tui.app.screens.main import MainScreen
from grapevine_tui.control import commands
from grapevine_tui.host.model import format_dial_failure
from grapevine_tui.host.protocol import HostView

BACKPRESSURE_NOTICE_S: Final = 0.3  # a broadcast that waits longer for room says so


class AppActions(Protocol):
    """What the app has to offer to a line."""

    main: MainScreen

    def show_traces(self) -> None: ...

    def action_members(self) -> None: ...

    def action_status(self) -> None: ...

    def action_help(self) -> None: ...

    async def action_settings(self) -> None: ...

    async def run_screen_command(self, command: str, text: str) -> None: ...

    async def deny(self, identity: str) -> None: ...

    async def allow(self, identity: str) -> None: ...

    async def forget(self, identity: str) -> None: ...

    async def action_quit(self) -> None: ...


class CommandRunner:
    """Lines for `app` and its host."""

    def __init__(self, app: AppActions, host: HostView) -> None:
        self._app = app
        self._host = host
        self._lines: asyncio.Queue[str] = asyncio.Queue()
        self.pending_dial = ""
        """The address that was asked for last, while it is not known how that ended."""

    def enqueue(self, line: str) -> None:
        """Obey `line` when those before it are done."""
        self._lines.put_nowait(line)

    async def run(self) -> None:
        """Do what the lines say, for ever."""
        while True:
            line = await self._lines.get()
            try:
                await self._execute(commands.parse_command(line))
            except GrapevineError as error:
                self._app.main.compose_box.show_feedback(str(error), is_error=True)
                self._app.main.compose_box.restore(line)

    async def _execute(self, command: commands.Command) -> None:
        app, show_feedback = self._app, self._app.main.compose_box.show_feedback
        match command:
            case commands.Broadcast(payload):
                await self._broadcast(payload)
            case commands.Trace(payload):
                await self._broadcast(payload, is_traced=True)
            case commands.Send(to, payload):
                message_id = await self._host.send(to, payload)
                self._host.model.log_command(f"send {to}: {len(payload):,} bytes")
                if message_id not in self._host.model.undelivered:
                    show_feedback(f"sent to {to}")
            case commands.Dial(address):
                await self._dial(address.strip())
            case commands.Deny(identity):
                await app.deny(identity)
            case commands.Allow(identity):
                await app.allow(identity)
            case commands.Forget(identity):
                await app.forget(identity)
            case commands.StartRound():
                await self._app.main.action_round()
            case commands.ScreenAction(screen_command, text):
                await app.run_screen_command(screen_command, text)
            case _:
                await self._show(command)

    async def _show(self, command: commands.Command) -> None:
        """Show something; changes nothing of the node."""
        app, main = self._app, self._app.main
        match command:
            case commands.ShowSettings():
                await app.action_settings()
            case commands.ShowPeers():
                main.action_panel("peers")
            case commands.ShowRounds():
                main.action_panel("rounds")
            case commands.ShowMembers():
                app.action_members()
            case commands.ShowTraces():
                app.show_traces()
            case commands.ShowStatus() | commands.ShowStats():
                app.action_status()
            case commands.ShowHelp():
                app.action_help()
            case commands.Quit():
                await app.action_quit()

    async def _dial(self, address: str) -> None:
        show_feedback = self._app.main.compose_box.show_feedback
        connected_name = self.connected_peer_at(address)
        self._host.model.dial_noticed_at.clear()  # whoever asks wants to be told again
        self.pending_dial = "" if connected_name else address
        await self._host.dial(address)
        self._host.model.log_command(f"connect {address}")
        # Who is linked has nothing to answer to a knock, so there would be no end of it to tell.
        if connected_name:
            show_feedback(f"already connected to {connected_name}")
        else:
            show_feedback(f"dialing {address}", is_lasting=True)

    def connected_peer_at(self, address: str) -> str:
        """What the peer is called that is well and has that address; empty: there is none."""
        model = self._host.model
        for peer in model.peers.values():
            if str(peer.address) == address and peer.state is PeerState.CONNECTED:
                return model.name_of(peer.peer_id)
        return ""

    def on_event(self, event: Event) -> None:
        """How a knock ended is said where the knock was said."""
        match event:
            case DialFailed() if str(event.address) == self.pending_dial:
                self._app.main.compose_box.show_feedback(format_dial_failure(event), is_error=True)
            case PeerStateChanged(peer) if (
                str(peer.address) == self.pending_dial and peer.state is PeerState.CONNECTED
            ):
                self._app.main.compose_box.show_feedback(
                    f"connected to {peer.name or peer.peer_id.short}"
                )
            case _:
                return
        self.pending_dial = ""

    async def _broadcast(self, payload: bytes, *, is_traced: bool = False) -> None:
        show_feedback = self._app.main.compose_box.show_feedback
        backpressure_notice = asyncio.get_running_loop().call_later(
            BACKPRESSURE_NOTICE_S,
            partial(show_feedback, "waiting for room: every peer's queue is full", is_lasting=True),
        )
        started_at = time.monotonic()
        try:
            send = self._host.trace if is_traced else self._host.broadcast
            _, peers = await send(payload)
            verb = "trace" if is_traced else "broadcast"
            self._host.model.log_command(f"{verb}: {len(payload):,} bytes to {peers:,} peers")
        finally:
            backpressure_notice.cancel()
        if is_traced:
            self._app.show_traces()
        if not peers:
            show_feedback("no peers connected; queued until one joins")
        elif time.monotonic() - started_at > BACKPRESSURE_NOTICE_S:
            show_feedback("")
