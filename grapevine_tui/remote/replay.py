"""A recording, or the history of a node, as a host: the same screens show it, at any time and any speed.

Invariants:

- What is shown is what the node reported up to the time shown, nothing later.
- Nothing can be sent or changed: there is no node.
- Going to a time reads what `Tape.until` names, not all before it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.errors import GrapevineError, InvalidArgument
from grapevine_tui.config.edit import RemoteSettingsEditor
from grapevine_tui.control.jsonlines import Object
from grapevine_tui.history.pages import read_page
from grapevine_tui.history.times import parse_time
from grapevine_tui.host.local import with_time_errors
from grapevine_tui.host.model import ALL_CHANGES, Changes, Model
from grapevine_tui.host.protocol import Playback
from grapevine_tui.remote.history_tape import HistoryTape
from grapevine_tui.remote.host import MALFORMED_REPLY_ERRORS, RemoteHost
from grapevine_tui.remote.recording import Frame, Tape

MAX_STEP_S: Final = 3_600.0  # of recorded time between two refreshes, after a stall of the app
_NO_DIRECTORY: Final = Path("/nonexistent")
NO_HISTORY: Final = (
    "this is a recording: it has no history; @ on the main screen goes to a time of it"
)
NOTHING_CAN_BE_SENT: Final = "this is a recording: nothing can be sent or changed"


class RecordingOnly(GrapevineError):
    """There is no node to do it."""


class ReplayClock:
    """The time shown, in Unix seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class ReplayHost(RemoteHost):
    """Plays `recording` back, `speed` times as fast as it happened. `model` goes by `replay_clock`."""

    def __init__(
        self,
        recording: Tape,
        model: Model,
        replay_clock: ReplayClock,
        *,
        speed: float = 1.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(_NO_DIRECTORY, model, clock=replay_clock)
        self.is_playing = True
        self._recording = recording
        self._replay_clock = replay_clock
        self._speed = speed
        self._monotonic = monotonic
        self._refreshed_at = monotonic()
        self._offset = 0  # in the recording, of what comes next

    @property
    def position(self) -> float:
        """The time shown, in Unix seconds."""
        return self._replay_clock.now

    async def start(self) -> None:
        """Show the beginning."""
        self.go_to(self._recording.start)

    async def leave(self, timeout_s: float) -> int:
        """Close the recording."""
        self._recording.close()
        return 0

    def refresh(self) -> Changes:
        """Apply what happened since the last call; return what it changed."""
        now = self._monotonic()
        elapsed_s, self._refreshed_at = now - self._refreshed_at, now
        if self.is_playing:
            step_s = min(elapsed_s * self._speed, MAX_STEP_S)
            self._play_until(min(self.position + step_s, self._recording.end))
            self.is_playing = self.position < self._recording.end
        self._update_label()
        changes, self._changes = self._changes, Changes.NONE
        return changes | Changes.STATUS

    @property
    def playback(self) -> Playback:
        return self

    def toggle(self) -> None:
        """Pause or resume; at the end, begin again."""
        if not self.is_playing and self.position >= self._recording.end:
            self.go_to(self._recording.start)
        self.is_playing = not self.is_playing
        self._update_label()

    def step(self, seconds: float) -> None:
        """Go so far forth, or back."""
        self.go_to(self.position + seconds)

    def go_to_time(self, text: str) -> None:
        """Go to a time as people write it, or by ``+10`` or ``-60`` seconds. Raises InvalidArgument."""
        try:
            if text[:1] in ("+", "-"):
                self.step(float(text))
            else:
                self.go_to(parse_time(text, self._recording.end))
        except ValueError as error:
            raise InvalidArgument(f"expected {error}, or +10 or -60 seconds") from None

    def go_to(self, at: float) -> None:
        """Show that time, or the nearest one of the recording."""
        at = max(self._recording.start, min(at, self._recording.end))
        self.model.clear()
        self._known_messages = set()
        for frame, offset in self._recording.until(at):
            self._apply(frame)
            self._offset = offset
        self._replay_clock.now = at
        self._changes = ALL_CHANGES
        self._update_label()

    def _play_until(self, at: float) -> None:
        for frame, offset in self._recording.read(self._offset):
            if frame.at > at:
                break
            self._apply(frame)
            self._offset = offset
        self._replay_clock.now = at

    def _apply(self, frame: Frame) -> None:
        self._replay_clock.now = frame.at
        try:
            match frame.kind:
                case "state":
                    self._apply_full_state(frame.fields)
                case "poll":
                    self._apply_snapshot(frame.fields)
                case "members":
                    self._apply_members(frame.fields)
                case "event":
                    self._on_event(frame.fields)
        except MALFORMED_REPLY_ERRORS:
            pass  # of another version; the next frame may be known

    def _update_label(self) -> None:
        clock = time.strftime("%H:%M:%S", time.localtime(self.position))
        is_at_end = self.position >= self._recording.end
        state = f"x{self._speed:g}" if self.is_playing else "the end" if is_at_end else "paused"
        self.model.replay = f"{clock} {state}"

    # Everything that needs a node

    async def _request(self, command: str, **fields: Any) -> Object:
        raise RecordingOnly(NOTHING_CAN_BE_SENT)

    async def _request_apart(self, command: str, **fields: Any) -> Object:
        raise RecordingOnly(NOTHING_CAN_BE_SENT)

    async def search_history(self, words: str = "", **place: Any) -> Object:
        return await self._search("messages", words, place)

    async def search_events(self, words: str = "", **place: Any) -> Object:
        return await self._search("events", words, place)

    async def _search(self, kind: str, words: str, place: dict[str, Any]) -> Object:
        if not isinstance(self._recording, HistoryTape):
            raise RecordingOnly(NO_HISTORY)
        return await with_time_errors(
            asyncio.to_thread(read_page, self._recording.path, kind, words, **place)
        )

    async def edit(self) -> RemoteSettingsEditor:
        raise RecordingOnly("this is a recording: the settings of the node are not in it")

    def reconfigure(self, config: NodeConfig) -> tuple[str, ...]:
        raise RecordingOnly(NOTHING_CAN_BE_SENT)
