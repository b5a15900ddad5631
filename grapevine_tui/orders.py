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
from grapevine_tui import commands
from grapevine_tui.hosting import HostView
from grapevine_tui.model import dial_words
from grapevine_tui.screens.main import MainScreen

WAITING_S: Final = 0.3  # a broadcast that waits longer for room says so


class Desktop(Protocol):
    """What the app has to offer to a line."""

    main: MainScreen

    def show_traces(self) -> None: ...

    def action_members(self) -> None: ...

    def action_status(self) -> None: ...

    def action_help(self) -> None: ...

    async def action_settings(self) -> None: ...

    async def act_on_screen(self, act: str, text: str) -> None: ...

    async def deny(self, who: str) -> None: ...

    async def allow(self, who: str) -> None: ...

    async def forget(self, who: str) -> None: ...

    async def action_quit(self) -> None: ...


class Orders:
    """Lines for `app` and its host."""

    def __init__(self, app: Desktop, host: HostView) -> None:
        self._app = app
        self._host = host
        self._lines: asyncio.Queue[str] = asyncio.Queue()
        self.knocked = ""
        """The address that was asked for last, while it is not known how that ended."""

    def put(self, line: str) -> None:
        """Obey `line` when those before it are done."""
        self._lines.put_nowait(line)

    async def run(self) -> None:
        """Do what the lines say, for ever."""
        while True:
            line = await self._lines.get()
            try:
                await self._obey(commands.parse(line))
            except GrapevineError as error:
                self._app.main.compose_box.say(str(error), is_error=True)
                self._app.main.compose_box.restore(line)

    async def _obey(self, command: commands.Command) -> None:
        app, say = self._app, self._app.main.compose_box.say
        match command:
            case commands.Broadcast(payload):
                await self._broadcast(payload)
            case commands.Trace(payload):
                await self._broadcast(payload, is_traced=True)
            case commands.Send(to, payload):
                message_id = await self._host.send(to, payload)
                self._host.model.note_command(f"send {to}: {len(payload):,} bytes")
                if message_id not in self._host.model.undelivered:
                    say(f"sent to {to}")
            case commands.Dial(address):
                await self._dial(address.strip())
            case commands.Deny(who):
                await app.deny(who)
            case commands.Allow(who):
                await app.allow(who)
            case commands.Forget(who):
                await app.forget(who)
            case commands.StartRound():
                await self._app.main.action_round()
            case commands.OnScreen(act, text):
                await app.act_on_screen(act, text)
            case _:
                await self._look(command)

    async def _look(self, command: commands.Command) -> None:
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
        say = self._app.main.compose_box.say
        linked = self.linked_at(address)
        self._host.model.unanswered.clear()  # whoever asks wants to be told again
        self.knocked = "" if linked else address
        await self._host.dial(address)
        self._host.model.note_command(f"connect {address}")
        # Who is linked has nothing to answer to a knock, so there would be no end of it to tell.
        if linked:
            say(f"{linked} is connected already")
        else:
            say(f"dialing {address}", is_lasting=True)

    def linked_at(self, address: str) -> str:
        """What the peer is called that is well and has that address; empty: there is none."""
        model = self._host.model
        for peer in model.peers.values():
            if str(peer.address) == address and peer.state is PeerState.CONNECTED:
                return model.name_of(peer.peer_id)
        return ""

    def heard(self, event: Event) -> None:
        """How a knock ended is said where the knock was said."""
        match event:
            case DialFailed() if str(event.address) == self.knocked:
                self._app.main.compose_box.say(dial_words(event), is_error=True)
            case PeerStateChanged(peer) if (
                str(peer.address) == self.knocked and peer.state is PeerState.CONNECTED
            ):
                self._app.main.compose_box.say(f"connected to {peer.name or peer.peer_id.short}")
            case _:
                return
        self.knocked = ""

    async def _broadcast(self, payload: bytes, *, is_traced: bool = False) -> None:
        say = self._app.main.compose_box.say
        waiting = asyncio.get_running_loop().call_later(
            WAITING_S,
            partial(say, "waiting for room: every peer's queue is full", is_lasting=True),
        )
        started_at = time.monotonic()
        try:
            tell = self._host.trace if is_traced else self._host.broadcast
            _, peers = await tell(payload)
            word = "trace" if is_traced else "broadcast"
            self._host.model.note_command(f"{word}: {len(payload):,} bytes to {peers:,} peers")
        finally:
            waiting.cancel()
        if is_traced:
            self._app.show_traces()
        if not peers:
            say("no peers connected; queued until one joins")
        elif time.monotonic() - started_at > WAITING_S:
            say("")
