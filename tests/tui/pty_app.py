"""The app on a real terminal with a made-up host: ``python -m tests.tui.pty_app [crash|still] [themed]``.

Shows every hostile text wherever untrusted text can appear, then waits. With ``crash`` it raises an
unexpected exception instead; with ``still`` it only waits; with ``themed`` it sets a theme.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator

from textual.screen import Screen

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.events import (
    DialFailed,
    Event,
    PeerState,
    PeerStateChanged,
    StateSaveFailed,
    TraceUpdated,
)
from grapevine_proto.ids import Address
from grapevine_tui.app.app import GrapevineApp
from grapevine_tui.app.export import payload_text
from grapevine_tui.app.screens.members import MembersScreen
from grapevine_tui.app.screens.message import MessageScreen
from grapevine_tui.app.screens.node import NodeScreen
from grapevine_tui.app.screens.trace import TraceScreen
from tests.tui.fake_host import FakeHost, FakeSettings
from tests.tui.hostile import HOSTILE, HOSTILE_BYTES
from tests.tui.values import a_member, a_peer, a_trace, received

PER_SCREEN = 12  # messages per repaint


class Show(GrapevineApp):
    """Feeds the corpus, screen by screen."""

    def __init__(self, host: FakeHost, *, crashes: bool, is_still: bool) -> None:
        theme = "nord" if "themed" in sys.argv else ""
        alert = next((each for each in ("bell", "notify", "notify-777") if each in sys.argv), "off")
        node = NodeConfig(name="\x1b]0;me\x07", zone="[/z]")
        super().__init__(host, FakeSettings(node=node, theme=theme, alert=alert))
        self.fake = host
        self.crashes = crashes
        self.is_still = is_still

    def on_ready(self) -> None:
        if self.crashes:
            raise RuntimeError("a bug")
        if "warned" in sys.argv:
            self.fake.happen(StateSaveFailed("disk \x1b]9;full"))
        if not self.is_still:
            self.run_worker(self.feed())

    def events(self, number: int) -> Iterator[Event]:
        text = HOSTILE[number % len(HOSTILE)]
        yield received(number % 7, number, HOSTILE_BYTES[number])
        if number % PER_SCREEN == 0:
            lost_peer = a_peer(99, text, state=PeerState.DISCONNECTED)
            yield PeerStateChanged(lost_peer, PeerState.CONNECTED, text)
            yield DialFailed(Address(text, 1), text)
            yield StateSaveFailed(text)

    async def visit_screen(self, number: int) -> None:
        """Open one of the other screens and close it."""
        host, model = self.fake, self.fake.model
        unanswered = tuple(peer.peer_id for peer in host.peers)
        host.happen(TraceUpdated(a_trace(number + 1, 0)._replace(unanswered=unanswered)))
        entry = next(iter(model.messages.newest_first()))
        screens: tuple[Callable[[], Screen[None]], ...] = (
            lambda: MembersScreen(model),
            lambda: NodeScreen(model, unanswered[0]),
            lambda: MessageScreen(model, entry, payload_text(entry.message.payload)),
            lambda: TraceScreen(model),
        )
        await self.push_screen(screens[number % len(screens)]())
        await asyncio.sleep(0.02)
        await self.pop_screen()

    async def feed(self) -> None:
        host = self.fake
        for start in range(0, len(HOSTILE_BYTES), PER_SCREEN):
            numbers = range(start, min(start + PER_SCREEN, len(HOSTILE_BYTES)))
            host.peers = [
                a_peer(number, HOSTILE[number % len(HOSTILE)], zone=HOSTILE[number % len(HOSTILE)])
                for number in numbers
            ]
            host.members = [a_member(number, HOSTILE[number % len(HOSTILE)]) for number in numbers]
            for number in numbers:
                host.happen(*self.events(number))
            self.tick()
            self.refresh()
            await asyncio.sleep(0.02)
            self.clear_notifications()
            await self.visit_screen(start // PER_SCREEN)
        host.happen(received(1, 10_000, b"all of it was shown"))


def main() -> int:
    app = Show(FakeHost(), crashes="crash" in sys.argv, is_still="still" in sys.argv)
    app.run()
    return app.exit_code


if __name__ == "__main__":
    sys.exit(main())
