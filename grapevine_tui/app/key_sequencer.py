"""Keys in order: each key is delivered after the previous one has taken full effect.

Invariants:

- A key goes to the widget that the previous key focused, however fast both are typed: text after ``/``
  goes to the filter and never acts on a panel.
- A widget that disappears while handling a key delays the next one by at most `KEY_TIMEOUT_S`. Time in
  which the process got no CPU hardly counts.

Textual delivers a key to the widget that has the focus when the key is read, and runs its action only
after the event has bubbled up. A marker message therefore follows each key along the same path, and the
next key waits until it is back. It makes several round trips, because an action may be passed on by
message: from the input to its bar, from the bar to its screen.
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
TIMEOUT_SLICE_S: Final = 0.05  # the timeout is counted in slices
LATE_SLICE_WEIGHT: Final = 0.2  # of a slice whose timer fired a whole slice late
MARKER_ROUND_TRIPS: Final = 3


class KeyHandled(Message, bubble=True):
    """Marker that bubbles up behind key number `number`."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class KeySequencer:
    """Delivers keys and pastes of `app` through `deliver`, one at a time."""

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
        """Queue a key or a paste; deliver it at once if no other is in progress."""
        self._queue.append(event)
        if not self._is_busy:
            await self._deliver_next()

    async def on_key_handled(self, marker: KeyHandled) -> None:
        """Send the marker on its next round trip, or deliver the next key."""
        if marker.number != self._key_number or not self._is_busy:
            return  # the marker of a key that timed out
        self._round_trips_left -= 1
        if not self._round_trips_left or not self._target.post_message(KeyHandled(marker.number)):
            await self._deliver_next()

    @property
    def is_busy(self) -> bool:
        """Whether a key is being handled."""
        return self._is_busy

    def _start_timer(self, number: int) -> None:
        due_at = time.monotonic() + TIMEOUT_SLICE_S
        self._timer = self._app.set_timer(
            TIMEOUT_SLICE_S, lambda: self._check_timeout(number, due_at)
        )

    async def _check_timeout(self, number: int, due_at: float) -> None:
        """Deliver the next key if key `number` has used up its timeout."""
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
        if not self._app.screen_stack:  # the app is ending; later keys have no receiver
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
