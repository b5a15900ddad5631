"""Keys in their turn: the next one is handed out when the one before has done all it does.

What must stay true:

- What a key moved the focus to gets the very next key, however quickly that was typed: what is typed
  behind ``/`` looks for something and never acts upon a panel.
- A widget that goes away with a key in its hands holds nothing up for longer than `PATIENCE_S` of a loop that
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

PATIENCE_S: Final = 0.25
SLICE_S: Final = 0.05  # it is spent in these
LATE_SPENDS: Final = 0.2  # of a slice, where we were woken a whole one too late
ROUNDS: Final = 3


class Done(Message, bubble=True):
    """Comes up behind key number `number`."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class Turns:
    """Hands keys and pastes of `app` to `give`, one after another."""

    def __init__(
        self, app: App[None], give: Callable[[events.Key | events.Paste], Awaitable[None]]
    ) -> None:
        self._app = app
        self._give = give
        self._waiting: deque[events.Key | events.Paste] = deque()
        self._number = 0
        self._is_busy = False
        self._rounds = 0
        self._target: MessagePump = app
        self._timer: Timer | None = None
        self._patience_s = 0.0

    async def take(self, event: events.Key | events.Paste) -> None:
        """A key or a paste has come."""
        self._waiting.append(event)
        if not self._is_busy:
            await self._next()

    async def back(self, mark: Done) -> None:
        """A mark has come back."""
        if mark.number != self._number or not self._is_busy:
            return  # from a key that took too long
        self._rounds -= 1
        if not self._rounds or not self._target.post_message(Done(mark.number)):
            await self._next()

    @property
    def is_busy(self) -> bool:
        """Whether a key is on its way."""
        return self._is_busy

    def _wait(self, number: int) -> None:
        due = time.monotonic() + SLICE_S
        self._timer = self._app.set_timer(SLICE_S, lambda: self._look(number, due))

    async def _look(self, number: int, due: float) -> None:
        """See whether key `number` has been waited for long enough."""
        if number != self._number or not self._is_busy:
            return
        is_late = time.monotonic() - due > SLICE_S
        self._patience_s -= SLICE_S * (LATE_SPENDS if is_late else 1.0)
        if self._patience_s <= SLICE_S / 2:
            await self._next()
        else:
            self._wait(number)

    async def _next(self) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer = None
        if (
            not self._app.screen_stack
        ):  # the app ends, and nobody is there for what was typed behind that
            self._waiting.clear()
        self._is_busy = bool(self._waiting)
        if not self._is_busy:
            return
        event = self._waiting.popleft()
        self._number += 1
        number = self._number
        self._rounds = ROUNDS
        self._target = self._app.focused or self._app.screen
        self._patience_s = PATIENCE_S
        await self._give(event)
        self._wait(number)
        if not self._target.post_message(Done(number)):
            await self._next()
