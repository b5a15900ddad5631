"""The history of one node: records its events and messages, and reads pages of them.

Invariants:

- Recording never waits: a message costs an append to a bounded queue.
- Reading blocks nobody: it runs in a thread with a connection of its own. The modules that read are imported
  when something is read.
- A problem with the file is reported once, in the log and to `on_problem`, in the node's event loop.

Driven by the host: `on_event` for each event, `close` at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from grapevine_proto.events import Event, Message, MessageReceived, MessageSent
from grapevine_proto.ids import PeerId
from grapevine_proto.runtime.daemon_threads import DaemonThreads
from grapevine_tui.history.database import HISTORY_FILE, HistoryUnavailable
from grapevine_tui.history.describe import EventDescriber
from grapevine_tui.history.records import NewSample, StoredEvent, to_key
from grapevine_tui.history.samples import PastValues, read_past_values
from grapevine_tui.history.times import parse_time
from grapevine_tui.history.writer import HistoryWriter, Limits, NewMessage

if TYPE_CHECKING:
    from grapevine_tui.history.transfer import Counts

logger = logging.getLogger("grapevine.history")

T = TypeVar("T")

MAX_READERS: Final = 2  # threads
FLUSH_TIMEOUT_S: Final = 1.0  # for what is queued, before it is searched
PRUNE_TIMEOUT_S: Final = 600.0
OFF_TEXT: Final = "this node keeps no history (setting app.history)"


class HistorySettings(NamedTuple):
    """What is kept, one of `HISTORIES` of the settings (`keep`), and the limits."""

    keep: str
    limits: Limits
    keeps_direct: bool

    @property
    def keeps_messages(self) -> bool:
        return self.keep == "on"


class History:
    """Keeps the history of one node in `state_dir`. Construct it in the node's event loop.

    `own_id` is its identity. `name_of` and `zone_of` describe a node as it is known now. `on_problem` is
    called with a problem of the file, and with an empty text once it is solved.
    """

    def __init__(
        self,
        state_dir: Path,
        settings: HistorySettings,
        *,
        name_of: Callable[[PeerId], str],
        zone_of: Callable[[PeerId], str],
        on_problem: Callable[[str], object],
        wall_clock: Callable[[], float] = time.time,
        own_id: PeerId | None = None,
    ) -> None:
        self.path = state_dir / HISTORY_FILE
        self._settings = settings
        self._name_of = name_of
        self._zone_of = zone_of
        self._on_problem = on_problem
        self._own_id = own_id
        self._wall_clock = wall_clock
        self._loop = asyncio.get_running_loop()
        self._describer = EventDescriber(name_of)
        self._threads = DaemonThreads("history reader", MAX_READERS)
        self._is_loss_reported = False
        self._writer = HistoryWriter(
            self.path, settings.limits, self._report_from_thread, clock=wall_clock
        )

    @property
    def problem(self) -> str:
        return self._writer.problem

    def status(self) -> dict[str, Any]:
        """The state of the history, as JSON fields."""
        return {"keep": self._settings.keep, "problem": self.problem, "lost": self._writer.lost}

    # --- recording --------------------------------------------------------------------------------

    def on_event(self, event: Event) -> None:
        """Record the event, and the message that it carries."""
        if isinstance(event, (MessageReceived, MessageSent)):
            message = event.message
            if self._settings.keeps_messages and (
                self._settings.keeps_direct or not message.is_direct
            ):
                self._put_message(message)
            if isinstance(event, MessageReceived):
                return
        row = self._describer.describe(event, self._wall_clock())
        if row is not None:
            self._put(row)

    def note(
        self, kind: str, text: str, peer_id: PeerId | None = None, *, level: str = "info"
    ) -> None:
        """Record something that an operator or a script did, or that the app found."""
        now = self._wall_clock()
        self._put(self._describer.note(kind, text, now, peer_id=peer_id, level=level))

    def sample(self, body: bytes, *, is_full: bool) -> None:
        """Record the tables of the screens, as in `NewSample`."""
        self._put(NewSample(to_key(self._wall_clock()), is_full, body))

    def _put_message(self, message: Message) -> None:
        origin = message.origin
        key = to_key(self._wall_clock())
        self._put(NewMessage(key, message, self._name_of(origin), self._zone_of(origin)))

    def _put(self, row: NewMessage | StoredEvent | NewSample) -> None:
        if self._writer.put(row):
            self._is_loss_reported = False
        elif not self._is_loss_reported and not self._writer.is_given_up:
            self._is_loss_reported = True
            self._tell(
                self.problem
                or "the disk is too slow: messages and events are missing in the history"
            )

    def _report_from_thread(self, problem: str) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._tell, problem)

    def _tell(self, problem: str) -> None:
        if problem:
            logger.warning("history not saved: %s", problem)
        else:
            logger.warning("history saved again")
        self._on_problem(problem)

    # --- reading ----------------------------------------------------------------------------------

    async def search(self, words: str, **place: Any) -> dict[str, Any]:
        """A page of messages, as JSON fields; the arguments are those of `read_page`.

        Raises HistoryUnavailable, or ValueError if a time cannot be read.
        """
        return await self._read_page("messages", words, own_id=self._own_id, **place)

    async def events(self, words: str, **place: Any) -> dict[str, Any]:
        """A page of events, as `search`."""
        return await self._read_page("events", words, **place)

    async def past_values(self, since: str, limit: int) -> list[PastValues]:
        """At most `limit` values of the node since that time, oldest first. Raises HistoryUnavailable, or
        ValueError if the time cannot be read."""
        await self._flush()
        return await self._read(partial(read_past_values, self.path, parse_key(since), limit))

    async def export_to(self, target: Path, words: str) -> Counts:
        """Write what matches to a new file. Raises HistoryUnavailable, ValueError, OSError."""
        from grapevine_tui.history.terms import parse_query
        from grapevine_tui.history.transfer import export_history

        await self._flush()
        return await self._read(partial(export_history, self.path, target, parse_query(words)))

    async def import_from(self, source: Path) -> Counts:
        """Add the rows of an exported file. Raises HistoryUnavailable, ValueError, OSError."""
        from grapevine_tui.history.transfer import import_history

        return await self._read(partial(import_history, self._writer, source))

    async def prune(self, before: str = "") -> int:
        """Delete what is older than `before`, and what is beyond the limits; return how many rows.

        Raises HistoryUnavailable, or ValueError if the time cannot be read.
        """
        before_key = parse_key(before) if before else None
        return await self._read(partial(prune, self._writer, before_key))

    async def _read_page(self, kind: str, words: str, **place: Any) -> dict[str, Any]:
        from grapevine_tui.history.pages import read_page

        await self._flush()
        return await self._read(partial(read_page, self.path, kind, words, **place))

    async def _read(self, work: Callable[[], T]) -> T:
        try:
            return await self._threads.run(work)
        except OSError as error:
            if error.errno is None:  # no thread
                raise HistoryUnavailable(str(error)) from None
            raise

    async def _flush(self) -> None:
        """Write queued rows, so that a search finds them. A file that cannot be written may still be read."""
        with contextlib.suppress(HistoryUnavailable):
            await self._read(partial(self._writer.flush, FLUSH_TIMEOUT_S))

    async def close(self, timeout_s: float) -> None:
        """Write queued rows for at most `timeout_s` seconds, then close."""
        with contextlib.suppress(HistoryUnavailable):
            await self._read(partial(self._writer.close, timeout_s))


def parse_key(text: str) -> int:
    """Return the key of the time that `text` names. Raises ValueError with what was expected."""
    try:
        return to_key(parse_time(text))
    except ValueError as expected:
        raise ValueError(f"expected {expected}, not {text!r}") from None


def prune(writer: HistoryWriter, before_key: int | None) -> int:
    """Delete what is older than `before_key` and beyond the limits; return how many rows. Blocks."""
    deleted: int = writer.run(lambda writer, _: writer.table.prune(before_key), PRUNE_TIMEOUT_S)
    return deleted
