"""Keys in their turn: the next one is handed out when the one before has done all it does.

What must stay true:

- What a key moved the focus to gets the very next key, however quickly that was typed: what is typed
  behind ``/`` looks for something and never acts upon a panel.
- A widget that goes away with a key in its hands holds nothing up for longer than `KEY_TIMEOUT_S` of a
  loop that
  turns; time in which the machine gave us nothing to compute with counts for little.

Textual hands a key to what has the focus when the key is read, but obeys it only when it has come up
from there again. So a mark is sent the same way behind each key, and the next waits until it is back: as
often as what a key does may be passed on by message (an input tells its bar, that its screen).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from textual import events
from textual.app import App
from textual.message import Message
from textual.message_pump import MessagePump
from textual.timer import Timer

KEY_TIMEOUT_S: Final = 0.25
TIMEOUT_SLICE_S: Final = 0.05  # it is spent in these
LATE_SLICE_WEIGHT: Final = 0.2  # of a slice, where we were woken a whole one too late
MARKER_ROUND_TRIPS: Final = 3


class KeyHandled(Message, bubble=True):
    """Comes up behind key number `number`."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class KeySequencer:
    """Hands keys and pastes of `app` to `deliver`, one after another."""

    def __init__(
        self, app: App[None], deliver: Callable[[events.Key | events.Paste], Awaitable[None]]
    ) -> None:
        self._app = app
        self._deliver = deliver
        self._queue: deque[events.Key | events.Paste] = deque()
        self._key_number = 0
        self._is_busy = False
        self._round_trips_left = 0
        self._target: MessagePump = app
        self._timer: Timer | None = None
        self._time_left_s = 0.0

    async def enqueue(self, event: events.Key | events.Paste) -> None:
        """A key or a paste has come."""
        self._queue.append(event)
        if not self._is_busy:
            await self._deliver_next()

    async def on_key_handled(self, marker: KeyHandled) -> None:
        """A mark has come back."""
        if marker.number != self._key_number or not self._is_busy:
            return  # from a key that took too long
        self._round_trips_left -= 1
        if not self._round_trips_left or not self._target.post_message(KeyHandled(marker.number)):
            await self._deliver_next()

    @property
    def is_busy(self) -> bool:
        """Whether a key is on its way."""
        return self._is_busy

    def _start_timer(self, number: int) -> None:
        due_at = time.monotonic() + TIMEOUT_SLICE_S
        self._timer = self._app.set_timer(
            TIMEOUT_SLICE_S, lambda: self._check_timeout(number, due_at)
        )

    async def _check_timeout(self, number: int, due_at: float) -> None:
        """See whether key `number` has been waited for long enough."""
        if number != self._key_number or not self._is_busy:
            return
        is_late = time.monotonic() - due_at > TIMEOUT_SLICE_S
        self._time_left_s -= TIMEOUT_SLICE_S * (LATE_SLICE_WEIGHT if is_late else 1.0)
        if self._time_left_s <= TIMEOUT_SLICE_S / 2:
            await self._deliver_next()
        else:
            self._start_timer(number)

    async def _deliver_next(self) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer = None
        if (
            not self._app.screen_stack
        ):  # the app ends, and nobody is there for what was typed behind that
            self._queue.clear()
        self._is_busy = bool(self._queue)
        if not self._is_busy:
            return
        event = self._queue.popleft()
        self._key_number += 1
        number = self._key_number
        self._round_trips_left = MARKER_ROUND_TRIPS
        self._target = self._app.focused or self._app.screen
        self._time_left_s = KEY_TIMEOUT_S
        await self._deliver(event)
        self._start_timer(number)
        if not self._target.post_message(KeyHandled(number)):
            await self._deliver_next()
