"""Writes the history in a thread of its own.

Invariants:

- `put` never waits: rows that do not fit in the bounded queue are dropped and counted.
- Rows are written in batches; each batch is one transaction, so a crash loses at most the last ones.
- The file stays within its limits in bytes and days. The messages of one member take at most a quarter of the
  bytes, so a member that floods evicts its own messages. Samples take at most an eighth.
- No problem with the file ends the process: it is reported once, writing is retried, and rows lost meanwhile
  are counted and reported when writing works again.
"""

from __future__ import annotations

import logging
import threading
import time
import zlib
from collections import OrderedDict, deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from grapevine_proto.events import Message
from grapevine_proto.ids import PeerId
from grapevine_tui.history.database import (
    DamagedFile,
    HistoryUnavailable,
    OtherSchema,
    has_search_index,
    index_name,
    open_for_writing,
    set_aside,
    unavailable,
)
from grapevine_tui.history.records import MICROSECONDS, NewSample, StoredEvent, to_key

if TYPE_CHECKING:
    import sqlite3

logger = logging.getLogger("grapevine.history")

MAX_QUEUED_ROWS: Final = 50_000
MAX_QUEUED_BYTES: Final = 64 * 2**20
BATCH_ROWS: Final = 1_000  # of one transaction
BATCH_BYTES: Final = 4 * 2**20
BATCH_DELAY_S: Final = 0.2  # to gather rows
PRUNE_INTERVAL_S: Final = 10.0
MIN_RETRY_S: Final = 1.0
MAX_RETRY_S: Final = 30.0
ORIGIN_SHARE: Final = 4  # one member may use this fraction of the bytes
SAMPLES_SHARE: Final = 8  # all samples may use this fraction of the bytes
PARTS_IN_FILE: Final = 16  # so that the oldest part is a sixteenth
MAX_PART_ROWS: Final = 200_000
MAX_EVENTS: Final = 100_000
BYTES_PER_EVENT_ALLOWED: Final = 4_096  # of the limit in bytes, for a small file
MAX_INDEXED_BYTES: Final = 16 * 1024  # of a payload: as much as a filter searches
ROW_OVERHEAD_BYTES: Final = 96  # of one message without its payload, measured
MAX_KNOWN_ORIGINS: Final = 4_096  # whose row is cached
JITTER_US: Final = MICROSECONDS  # times this close to the newest one are taken for the same moment


class Limits(NamedTuple):
    """`bytes` of the file and `days` of its oldest row."""

    bytes: int
    days: float


class NewMessage(NamedTuple):
    """A message to keep, with the author's name and zone at the time. `key` as in `StoredMessage`."""

    key: int
    message: Message
    name: str
    zone: str


Row = NewMessage | StoredEvent | NewSample
Job = Callable[["HistoryWriter", "sqlite3.Connection"], Any]


class HistoryWriter:
    """Writes the history at `path`. `on_problem` is called in the writer's thread with a problem, and
    with an empty text once it is solved."""

    def __init__(
        self,
        path: Path,
        limits: Limits,
        on_problem: Callable[[str], object],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._limits = limits
        self._on_problem = on_problem
        self._clock = clock
        self._rows: deque[Row] = deque()
        # Each count has one writer: `in` the callers' thread, `out` the writer's.
        self._rows_in = self._rows_out = 0
        self._bytes_in = self._bytes_out = 0
        self._jobs: deque[tuple[Job, threading.Event, list[Any]]] = deque()
        self._wake = threading.Event()
        self._hurry = threading.Event()
        self._is_closing = False
        self._refused = 0  # rows that found no room
        self._discarded = 0  # rows that could not be written
        self._reported_loss = 0
        self.problem = ""
        """Why nothing is written now; empty if all is well."""
        self.is_given_up = False
        """Whether the file must not be written by this version."""
        self._connection: sqlite3.Connection | None = None
        self._table: _Table | None = None
        self._retry_s = MIN_RETRY_S
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        """Number of rows that were not kept."""
        return self._refused + self._discarded

    @property
    def queued(self) -> int:
        return self._rows_in - self._rows_out

    def put(self, row: Row) -> bool:
        """Queue `row`; return whether there was room. Called by one thread."""
        size = _size_of(row)
        if (
            self.is_given_up
            or self._is_closing
            or self._rows_in - self._rows_out >= MAX_QUEUED_ROWS
            or self._bytes_in - self._bytes_out + size > MAX_QUEUED_BYTES
        ):
            self._refused += 1
            return False
        self._rows_in += 1
        self._bytes_in += size
        self._rows.append(row)
        if not self._wake.is_set():
            self._wake.set()
        return True

    def run(self, job: Job, timeout_s: float) -> Any:
        """Run `job` in the writer's thread after all that is queued; return or raise what it does. Blocks.

        Raises HistoryUnavailable if the file cannot be written, or the job takes longer than `timeout_s`.
        """
        if self.is_given_up or self._is_closing:
            raise HistoryUnavailable(self.problem or "the history is closed")
        done, outcome = threading.Event(), list[Any]()
        self._jobs.append((job, done, outcome))
        self._hurry.set()
        self._wake.set()
        if not done.wait(timeout_s):
            raise HistoryUnavailable(self.problem or "the disk is too slow; try again")
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
        return outcome[0]

    def flush(self, timeout_s: float) -> None:
        """Wait until everything queued is written. Blocks. Raises HistoryUnavailable."""
        self.run(lambda *_: None, timeout_s)

    def close(self, timeout_s: float) -> bool:
        """Write what is queued and end the thread; return whether it ended in time. Blocks."""
        self._is_closing = True
        self._hurry.set()
        self._wake.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # --- the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self.is_given_up:
                self._wake.wait(PRUNE_INTERVAL_S)
                if not self._is_closing:
                    self._hurry.wait(BATCH_DELAY_S)
                self._wake.clear()
                self._hurry.clear()
                is_closing = self._is_closing  # before the rows are looked at: none comes after it
                is_written = self._attempt()
                if is_closing:
                    break
                if not is_written:
                    self._wait_for_retry()
        except Exception:  # a bug here must not take the node's history queue with it
            logger.exception("internal error in the history")
            self._give_up("internal error, see the log")
        finally:
            self._fail_jobs(HistoryUnavailable(self.problem or "the history is closed"))
            if self._connection is not None:
                self._close_connection()

    def _wait_for_retry(self) -> None:
        self._fail_jobs(HistoryUnavailable(self.problem))
        self._hurry.wait(self._retry_s)
        self._retry_s = min(MAX_RETRY_S, 2 * self._retry_s)
        self._wake.set()

    def _attempt(self) -> bool:
        """Write everything queued; return whether that worked."""
        import sqlite3

        try:
            self._write_all()
        except DamagedFile as error:
            self._replace_damaged(error)
        except OtherSchema as error:
            self._give_up(str(error))
            return True
        except (sqlite3.Error, HistoryUnavailable, OSError) as error:
            problem = unavailable(error)
            if isinstance(problem, DamagedFile):
                self._replace_damaged(problem)
            else:
                self._close_connection()
                self._report(str(problem))
        else:
            self._retry_s = MIN_RETRY_S
            if self.problem:
                self._report("")
            self._report_loss()
            return True
        return False

    def _write_all(self) -> None:
        if self._connection is None:
            self._connection = open_for_writing(self._path)
            self._table = _Table(self._connection, self._limits, self._clock)
        table = self._table
        assert table is not None
        while self._rows:
            # Rows leave the queue only once they are written: a full disk is retried with the same ones.
            batch = self._next_batch()
            self._write_batch(table, batch)
            self._take(len(batch))
        self._run_jobs()
        table.prune_if_due()

    def _write_batch(self, table: _Table, batch: list[Row]) -> None:
        """Write `batch`; of one with a row that no database can hold, all others."""
        import sqlite3

        try:
            table.write(batch)
        except (sqlite3.IntegrityError, sqlite3.InterfaceError, OverflowError, UnicodeError):
            for row in batch:
                try:
                    table.write([row])
                except (
                    sqlite3.IntegrityError,
                    sqlite3.InterfaceError,
                    OverflowError,
                    UnicodeError,
                ):
                    logger.debug("not kept: %r", row, exc_info=True)
                    self._discarded += 1

    def _next_batch(self) -> list[Row]:
        batch: list[Row] = []
        size = 0
        for index in range(min(BATCH_ROWS, len(self._rows))):
            size += _size_of(self._rows[index])
            if batch and size > BATCH_BYTES:
                break
            batch.append(self._rows[index])
        return batch

    def _take(self, count: int) -> None:
        for _ in range(count):
            self._bytes_out += _size_of(self._rows.popleft())
        self._rows_out += count

    def _run_jobs(self) -> None:
        assert self._connection is not None
        while self._jobs:
            job, done, outcome = self._jobs.popleft()
            try:
                outcome.append(job(self, self._connection))
            except Exception as error:  # noqa: BLE001  raised in the caller
                outcome.append(unavailable(error) if _is_storage_error(error) else error)
            done.set()

    def _fail_jobs(self, error: HistoryUnavailable) -> None:
        while self._jobs:
            _, done, outcome = self._jobs.popleft()
            outcome.append(error)
            done.set()

    @property
    def table(self) -> _Table:
        """The tables, for a job. Raises HistoryUnavailable."""
        if self._table is None:
            raise HistoryUnavailable(self.problem or "the history is not open")
        return self._table

    def _report(self, problem: str) -> None:
        if problem != self.problem:
            self.problem = problem
            self._on_problem(problem)

    def _give_up(self, problem: str) -> None:
        self.is_given_up = True
        self._discarded += len(self._rows)
        self._take(len(self._rows))
        self._close_connection()
        self._report(problem)

    def _replace_damaged(self, error: DamagedFile) -> None:
        self._close_connection()
        try:
            broken = set_aside(self._path)
        except OSError as failure:
            self._report(f"{error}; {failure.strerror}")
        else:
            self._report(f"{error}; it was renamed to {broken.name} and a new one begins")

    def _close_connection(self) -> None:
        import sqlite3

        connection, self._connection, self._table = self._connection, None, None
        if connection is not None:
            try:
                connection.close()
            except sqlite3.Error as error:
                logger.debug("the history was not closed: %s", error)

    def _report_loss(self) -> None:
        """Write how many rows were lost, once there is room again."""
        missing = self.lost - self._reported_loss
        if missing and self._table is not None:
            self._reported_loss += missing
            text = (
                f"{missing:,} messages and events are missing in the history: it could not keep up"
            )
            self._table.write([StoredEvent(to_key(self._clock()), "lost", "warning", text)])


def _size_of(row: Row) -> int:
    if isinstance(row, NewMessage):
        return len(row.message.payload)
    return len(row.body if isinstance(row, NewSample) else row.text)


def _is_storage_error(error: Exception) -> bool:
    import sqlite3

    return isinstance(error, (sqlite3.Error, OSError))


class _Table:
    """The tables of an open file. Used by one thread; raises sqlite3.Error."""

    def __init__(
        self, connection: sqlite3.Connection, limits: Limits, clock: Callable[[], float]
    ) -> None:
        self._connection = connection
        self._limits = limits
        self._clock = clock
        self._has_index = has_search_index(connection)
        self._origins: OrderedDict[PeerId, tuple[int, str, str]] = OrderedDict()  # row, name, zone
        self._newest = {
            name: connection.execute(f"SELECT max(key) FROM {name}").fetchone()[0] or 0
            for name in ("messages", "events", "samples")
        }
        self._sample_bytes: int = (
            connection.execute("SELECT sum(length(body)) FROM samples").fetchone()[0] or 0
        )
        row = connection.execute(
            "SELECT number, first_key, last_key, rows, bytes FROM parts ORDER BY number DESC LIMIT 1"
        ).fetchone()
        self._part = list(row) if row else [0, 0, 0, 0, 0]
        self._pending_keys: set[int] = set()  # of the transaction
        self._cleaned: dict[
            int, int
        ] = {}  # part -> rows deleted from it when its index was last optimized
        self._plan_next_prune()

    def write(self, rows: list[Row]) -> None:
        """Add `rows` in one transaction."""
        messages = [each for each in rows if isinstance(each, NewMessage)]
        events = [each for each in rows if isinstance(each, StoredEvent)]
        samples = [each for each in rows if isinstance(each, NewSample)]
        sample_bytes = self._sample_bytes
        part, newest = list(self._part), dict(self._newest)
        self._pending_keys.clear()
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            if messages:
                self._add_messages(messages)
            if events:
                self._add_events(events)
            if samples:
                self._add_samples(samples)
            self._connection.execute("COMMIT")
        except BaseException:
            self._part, self._newest, self._sample_bytes = part, newest, sample_bytes
            self._origins.clear()  # a row that was rolled back may be among them
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
        self._rows_until_prune -= len(rows)

    def missing(self, rows: list[Row]) -> list[Row]:
        """Those of `rows` that are not in the tables under their time."""
        return [each for each in rows if not self._has(each)]

    def _has(self, row: Row) -> bool:
        if isinstance(row, NewSample):
            return False  # none is imported
        if isinstance(row, StoredEvent):
            found = self._connection.execute("SELECT text FROM events WHERE key = ?", (row.key,))
            return bool(found.fetchone() == (row.text,))
        message_id = row.message.id
        found = self._connection.execute(
            "SELECT o.peer_id, m.epoch, m.sequence FROM messages AS m JOIN origins AS o ON o.id = m.origin"
            " WHERE m.key = ?",
            (row.key,),
        )
        return bool(found.fetchone() == (message_id.origin, message_id.epoch, message_id.sequence))

    def _add_messages(self, messages: list[NewMessage]) -> None:
        connection = self._connection
        rows: list[tuple[Any, ...]] = []
        texts: list[tuple[int, str]] = []
        costs: dict[int, int] = {}
        part = self._open_part()
        for time_key, message, name, zone in messages:
            key = self._unique_key("messages", time_key)
            origin = self._origin_row(message.origin, name, zone)
            text = indexed_text(message.payload) if self._has_index else ""
            if text:
                texts.append((key, text))
            cost = stored_cost(message.payload, text)
            costs[origin] = costs.get(origin, 0) + cost
            part[1] = min(part[1] or key, key)
            part[2] = max(part[2], key)
            part[3] += 1
            part[4] += cost
            rows.append(
                (
                    key,
                    origin,
                    message.id.epoch,
                    message.id.sequence,
                    int(message.is_direct),
                    message.to,
                    message.topic,
                    message.via.value,
                    message.hops,
                    int(message.age_s * 1000),
                    part[0],
                    message.payload,
                )
            )
        connection.executemany("INSERT INTO messages VALUES (?,?,?,?,?,?,?,?,?,?,?,?)", rows)
        if texts:
            connection.executemany(
                f"INSERT INTO {index_name(part[0])} (rowid, text) VALUES (?,?)",
                texts,
            )
        connection.executemany(
            "UPDATE origins SET bytes = bytes + ? WHERE id = ?",
            [(cost, origin) for origin, cost in costs.items()],
        )
        connection.execute(
            "INSERT INTO parts (number, first_key, last_key, rows, bytes) VALUES (?,?,?,?,?)"
            " ON CONFLICT (number) DO UPDATE SET first_key = excluded.first_key,"
            " last_key = excluded.last_key, rows = excluded.rows, bytes = excluded.bytes",
            part,
        )

    def _add_events(self, events: list[StoredEvent]) -> None:
        rows = [(self._unique_key("events", each.key), *each[1:]) for each in events]
        self._connection.executemany("INSERT INTO events VALUES (?,?,?,?,?,?,?,?,?,?)", rows)

    def _add_samples(self, samples: list[NewSample]) -> None:
        rows = [
            (self._unique_key("samples", each.key), int(each.is_full), zlib.compress(each.body))
            for each in samples
        ]
        self._connection.executemany("INSERT INTO samples VALUES (?,?,?)", rows)
        self._sample_bytes += sum(len(body) for _, _, body in rows)

    def _unique_key(self, table: str, key: int) -> int:
        """`key`, or the next one that is free."""
        newest = self._newest[table]
        if key <= newest:
            if newest - key < JITTER_US:  # several at one moment
                key = newest + 1
            else:  # the clock was set back, or old rows are imported
                find = f"SELECT 1 FROM {table} WHERE key = ?"
                while (
                    key in self._pending_keys or self._connection.execute(find, (key,)).fetchone()
                ):
                    key += 1
                self._pending_keys.add(key)
        self._newest[table] = max(newest, key)
        return key

    def _origin_row(self, peer_id: PeerId, name: str, zone: str) -> int:
        known = self._origins.get(peer_id)
        if known is not None and known[1:] == (name, zone):
            return known[0]
        # A name that is not known now does not erase the one that was.
        self._connection.execute(
            "INSERT INTO origins (peer_id, name, zone) VALUES (?,?,?) ON CONFLICT (peer_id) DO UPDATE SET"
            " name = CASE excluded.name WHEN '' THEN name ELSE excluded.name END,"
            " zone = CASE excluded.zone WHEN '' THEN zone ELSE excluded.zone END",
            (peer_id, name, zone),
        )
        found = self._connection.execute("SELECT id FROM origins WHERE peer_id = ?", (peer_id,))
        row: int = found.fetchone()[0]
        self._origins[peer_id] = (row, name, zone)
        if len(self._origins) > MAX_KNOWN_ORIGINS:
            self._origins.popitem(last=False)
        return row

    def _open_part(self) -> list[int]:
        """The part that takes the next messages."""
        part = self._part
        is_full = part[3] >= MAX_PART_ROWS or part[4] >= self._limits.bytes // PARTS_IN_FILE
        if part[0] == 0 or is_full:
            part = self._part = [part[0] + 1, 0, 0, 0, 0]
            if self._has_index:
                self._connection.execute(
                    f"CREATE VIRTUAL TABLE IF NOT EXISTS {index_name(part[0])} USING fts5"
                    "(text, content = '', detail = none, tokenize = 'trigram case_sensitive 1')"
                )
        return part

    # --- limits -----------------------------------------------------------------------------------

    @property
    def used_bytes(self) -> int:
        """Bytes of the file that hold rows."""
        read = self._connection.execute
        pages: int = (
            read("PRAGMA page_count").fetchone()[0] - read("PRAGMA freelist_count").fetchone()[0]
        )
        return pages * int(read("PRAGMA page_size").fetchone()[0])

    def prune_if_due(self) -> None:
        """Enforce the limits every few seconds, and sooner after many rows."""
        now = self._clock()
        if now < self._next_prune_at and self._rows_until_prune > 0:
            return
        self._plan_next_prune()
        self.prune()

    def _plan_next_prune(self) -> None:
        self._next_prune_at = self._clock() + PRUNE_INTERVAL_S
        self._rows_until_prune = max(BATCH_ROWS, min(20 * BATCH_ROWS, self._limits.bytes // 8_192))

    def prune(self, before_key: int | None = None) -> int:
        """Delete rows over the limits, and all rows older than `before_key`; return how many."""
        oldest = to_key(self._clock() - self._limits.days * 86_400)
        deleted = self._delete_before(max(oldest, before_key or 0))
        deleted += self._enforce_shares()
        while self.used_bytes > self._limits.bytes:
            evicted = self._delete_oldest_part()
            if not evicted:
                break
            deleted += evicted
        deleted += self._limit_events()
        deleted += self._limit_samples(max(oldest, before_key or 0))
        if deleted:
            self._connection.execute("DELETE FROM origins WHERE bytes <= 0")
            self._origins.clear()
            self._connection.execute("PRAGMA incremental_vacuum(256)").fetchall()
        return deleted

    def _delete_before(self, key: int) -> int:
        deleted = self._delete_messages("key < ?", (key,))
        deleted += self._connection.execute("DELETE FROM events WHERE key < ?", (key,)).rowcount
        self._drop_empty_parts()
        return deleted

    def _delete_oldest_part(self) -> int:
        """Delete the oldest part with its messages; return how many rows, at least 1 if there is a part."""
        part = self._connection.execute(
            "SELECT number FROM parts ORDER BY last_key LIMIT 1"
        ).fetchone()
        if part is None:
            return 0
        # By the range first, which an index serves; imported messages may be older than their part.
        deleted = self._delete_messages(
            "part = ? AND key <= (SELECT last_key FROM parts WHERE number = ?)", (part[0], part[0])
        )
        self._drop_part(part[0])
        return max(deleted, 1)

    def _drop_empty_parts(self) -> None:
        oldest = self._connection.execute("SELECT min(key) FROM messages").fetchone()[0]
        for (number,) in self._connection.execute(
            "SELECT number FROM parts WHERE last_key < ?", (oldest or self._newest["messages"] + 1,)
        ).fetchall():
            self._drop_part(number)

    def _drop_part(self, number: int) -> None:
        self._connection.execute(f"DROP TABLE IF EXISTS {index_name(number)}")
        self._connection.execute("DELETE FROM parts WHERE number = ?", (number,))
        self._cleaned.pop(number, None)
        if number == self._part[0]:
            self._part = [number, 0, 0, MAX_PART_ROWS, 0]  # full: the next message begins another

    def _delete_messages(
        self,
        condition: str,
        values: tuple[Any, ...],
        *,
        is_indexed: bool = False,
        limit: int | None = None,
    ) -> int:
        """Delete messages in short transactions, oldest first. `is_indexed`: take them out of the search
        index, whose part stays."""
        deleted = 0
        while limit is None or deleted < limit:
            count = BATCH_ROWS if limit is None else min(BATCH_ROWS, limit - deleted)
            rows = self._connection.execute(
                f"SELECT key, origin, part, payload FROM messages WHERE {condition} ORDER BY key LIMIT ?",
                (*values, count),
            ).fetchall()
            if not rows:
                break
            self._delete_rows(rows, is_indexed=is_indexed)
            deleted += len(rows)
        return deleted

    def _delete_rows(self, rows: list[tuple[int, int, int, bytes]], *, is_indexed: bool) -> None:
        connection = self._connection
        costs: dict[int, int] = {}
        texts: dict[int, list[tuple[int, str]]] = {}
        for key, origin, part, payload in rows:
            text = indexed_text(payload) if self._has_index else ""
            costs[origin] = costs.get(origin, 0) + stored_cost(payload, text)
            if text:
                texts.setdefault(part, []).append((key, text))
        connection.execute("BEGIN IMMEDIATE")
        try:
            if is_indexed:
                for part, entries in texts.items():
                    name = index_name(part)
                    connection.executemany(
                        f"INSERT INTO {name} ({name}, rowid, text) VALUES ('delete', ?, ?)",
                        entries,
                    )
                connection.executemany(
                    "UPDATE parts SET deleted = deleted + 1 WHERE number = ?",
                    [(each[2],) for each in rows],
                )
            connection.executemany(
                "DELETE FROM messages WHERE key = ?", [(each[0],) for each in rows]
            )
            connection.executemany(
                "UPDATE origins SET bytes = bytes - ? WHERE id = ?",
                [(cost, origin) for origin, cost in costs.items()],
            )
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _enforce_shares(self) -> int:
        """Delete the oldest messages of members that use more than their share."""
        share = self._limits.bytes // ORIGIN_SHARE
        deleted = 0
        for origin, used in self._connection.execute(
            "SELECT id, bytes FROM origins WHERE bytes > ?", (share,)
        ).fetchall():
            left = used
            while left > share:
                before = deleted
                deleted += self._delete_messages(
                    "origin = ?", (origin,), is_indexed=True, limit=BATCH_ROWS
                )
                if deleted == before:
                    break
                left = self._connection.execute(
                    "SELECT bytes FROM origins WHERE id = ?", (origin,)
                ).fetchone()[0]
        if deleted:
            self._clean_parts()
        return deleted

    def _clean_parts(self) -> None:
        """Free the space of deleted rows in the indexes: a deletion makes an index larger until it is
        optimized."""
        for number, rows, removed in self._connection.execute(
            "SELECT number, rows, deleted FROM parts WHERE deleted > 0"
        ).fetchall():
            if removed >= rows:
                self._drop_part(number)
            elif removed - self._cleaned.get(number, 0) > rows // 3 and self._has_index:
                self._cleaned[number] = removed
                name = index_name(number)
                self._connection.execute(f"INSERT INTO {name} ({name}) VALUES ('optimize')")

    def _limit_samples(self, oldest_key: int) -> int:
        """Delete samples older than `oldest_key`, and the oldest tenth while they take too many bytes."""
        execute = self._connection.execute
        deleted = execute("DELETE FROM samples WHERE key < ?", (oldest_key,)).rowcount
        allowed = self._limits.bytes // SAMPLES_SHARE
        while self._sample_bytes > allowed or deleted:
            count, total = execute(
                "SELECT count(*), coalesce(sum(length(body)), 0) FROM samples"
            ).fetchone()
            self._sample_bytes = total
            if total <= allowed:
                break
            deleted += execute(
                "DELETE FROM samples WHERE key <= (SELECT key FROM samples ORDER BY key LIMIT 1 OFFSET ?)",
                (count // 10,),
            ).rowcount
        return deleted

    def _limit_events(self) -> int:
        """Keep the newest events; those of one member are at most a quarter."""
        allowed = max(1_000, min(MAX_EVENTS, self._limits.bytes // BYTES_PER_EVENT_ALLOWED))
        execute = self._connection.execute
        count = execute("SELECT count(*) FROM events").fetchone()[0]
        if count <= allowed // ORIGIN_SHARE:
            return 0
        deleted = 0
        for (peer_id,) in execute(
            "SELECT peer_id FROM events WHERE peer_id IS NOT NULL GROUP BY peer_id HAVING count(*) > ?",
            (allowed // ORIGIN_SHARE,),
        ).fetchall():
            deleted += execute(
                "DELETE FROM events WHERE peer_id = ?1 AND key <= (SELECT key FROM events WHERE peer_id = ?1"
                " ORDER BY key DESC LIMIT 1 OFFSET ?2)",
                (peer_id, allowed // ORIGIN_SHARE),
            ).rowcount
        deleted += execute(
            "DELETE FROM events WHERE key <= (SELECT key FROM events ORDER BY key DESC LIMIT 1 OFFSET ?)",
            (allowed,),
        ).rowcount
        return deleted


def indexed_text(payload: bytes) -> str:
    """The part of a payload that the search index covers: text, in lowercase; empty for other bytes."""
    head = payload[:MAX_INDEXED_BYTES]
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        if len(head) == len(payload) or error.start < len(head) - 3:
            return ""
        text = head[: error.start].decode()  # the limit split a character
    return text.lower().replace("\0", " ")


def stored_cost(payload: bytes, text: str) -> int:
    """Bytes that a message takes in the file, roughly: the row, the payload and the index."""
    return ROW_OVERHEAD_BYTES + len(payload) + len(text) * 3 // 2
