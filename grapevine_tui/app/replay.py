"""The app over a recording: the same screens, and keys that go through time.

Invariants: the time shown is in the first line; whatever needs a node says that there is none.
"""

from __future__ import annotations

from typing import ClassVar

from textual.binding import BindingType

from grapevine_tui.app.app import GrapevineApp
from grapevine_tui.app.widgets.bindings import bindings
from grapevine_tui.config import keymap
from grapevine_tui.host.protocol import HostView, SettingsView


class ReplayApp(GrapevineApp):
    """The app over a `ReplayHost`. `note` says at the start what is wrong with the recording."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(keymap.REPLAY_KEYS)

    def __init__(self, host: HostView, settings: SettingsView, *, note: str = "") -> None:
        super().__init__(host, settings)
        self._note = note

    def on_ready(self) -> None:
        super().on_ready()
        if self._note:
            self.notify(self._note, severity="warning", markup=False)

    def action_replay(self, seconds: int) -> None:
        """Go so far forth or back in time."""
        if self._host.playback is not None:
            self._host.playback.step(seconds)
            self._pending_changes |= self._host.refresh()

    def action_go_to_time_of_recording(self) -> None:
        """Begin a line that names a time."""
        self._begin_command("go_to")
