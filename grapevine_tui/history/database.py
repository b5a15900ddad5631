"""The file of the history: its schema, and how it is opened.

Invariants:

- The file is readable by its owner only, from before the first row is written: it has payloads in clear.
- A file of another schema or program is never changed. A damaged one is renamed, not deleted.
- The key of a row is the time it arrived in microseconds, so time ranges are ranges of keys.
- The search index is split into parts, each for a run of messages, so that old ones are deleted without
  rewriting it.
- Importing this imports no sqlite3; a process that keeps no history never loads it.

Tables: ``origins`` (author, last known name and zone, bytes kept), ``messages``, ``parts`` (which messages a
part indexes), ``index_N`` (FTS5 over trigrams, contentless), ``events``, ``samples`` (what the screens
show, as packed JSON, every few seconds).
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from grapevine_proto.errors import GrapevineError

if TYPE_CHECKING:
    import sqlite3

HISTORY_FILE: Final = "history.sqlite"
BROKEN_SUFFIX: Final = ".broken"
COMPANION_SUFFIXES: Final = ("-wal", "-shm", "-journal")
APPLICATION_ID: Final = 0x47525648  # "GRVH"
SCHEMA_VERSION: Final = 1
PAGE_BYTES: Final = 8192
BUSY_TIMEOUT_S: Final = 5.0
WAL_LIMIT_BYTES: Final = 16 * 2**20  # to which the write-ahead log is cut after a checkpoint

_SCHEMA: Final = """
CREATE TABLE origins (
    id INTEGER PRIMARY KEY, peer_id BLOB NOT NULL UNIQUE, name TEXT NOT NULL, zone TEXT NOT NULL,
    bytes INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE messages (
    key INTEGER PRIMARY KEY, origin INTEGER NOT NULL, epoch INTEGER NOT NULL, sequence INTEGER NOT NULL,
    is_direct INTEGER NOT NULL, recipient BLOB, topic TEXT NOT NULL, via TEXT NOT NULL, hops INTEGER NOT NULL,
    age_ms INTEGER NOT NULL, part INTEGER NOT NULL, payload BLOB NOT NULL
);
CREATE INDEX messages_by_origin ON messages (origin, key);
CREATE TABLE parts (
    number INTEGER PRIMARY KEY, first_key INTEGER NOT NULL, last_key INTEGER NOT NULL, rows INTEGER NOT NULL,
    bytes INTEGER NOT NULL, deleted INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE events (
    key INTEGER PRIMARY KEY, kind TEXT NOT NULL, level TEXT NOT NULL, text TEXT NOT NULL, peer_id BLOB,
    name TEXT NOT NULL, address TEXT NOT NULL, state TEXT NOT NULL, reason TEXT NOT NULL,
    suppressed INTEGER NOT NULL
);
"""
# Added to a file that an earlier build of this schema made; it reads such a file as before.
_SAMPLES_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS samples (key INTEGER PRIMARY KEY, is_full INTEGER NOT NULL, body BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS full_samples ON samples (key) WHERE is_full;
"""


class HistoryUnavailable(GrapevineError):
    """The history cannot be read or written; the message gives the reason."""


class OtherSchema(HistoryUnavailable):
    """The file belongs to another version or program. It was not changed."""


class DamagedFile(HistoryUnavailable):
    """The file is not a database, or a damaged one."""


def open_for_writing(path: Path) -> sqlite3.Connection:
    """Open the history at `path`, creating it if it is missing or empty.

    Raises OtherSchema, DamagedFile, or HistoryUnavailable if it cannot be written.
    """
    import sqlite3

    try:
        _create_private(path)
        connection = _connect(f"{path.absolute().as_uri()}?mode=rw")
    except (OSError, sqlite3.Error) as error:
        raise unavailable(error) from None
    try:
        if not _check_schema(connection):
            # Both only take effect before the first table exists.
            connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT_BYTES}")
        if not _check_schema(connection):
            connection.executescript(
                f"BEGIN;{_SCHEMA}PRAGMA application_id = {APPLICATION_ID};"
                f"PRAGMA user_version = {SCHEMA_VERSION};COMMIT;"
            )
        connection.executescript(_SAMPLES_SCHEMA)
    except (OSError, sqlite3.Error) as error:
        connection.close()
        raise unavailable(error) from None
    except HistoryUnavailable:
        connection.close()
        raise
    return connection


def open_for_reading(path: Path) -> sqlite3.Connection:
    """Open the history at `path` to read it, also while a node writes it. Raises HistoryUnavailable."""
    import sqlite3

    if not path.exists():
        raise HistoryUnavailable(f"{path.parent} has no history")
    # Without write access to the directory, a file that nobody writes can be read as it is.
    is_writable = os.access(path.parent, os.W_OK)
    options = "mode=ro" if is_writable else "mode=ro&immutable=1"
    connection = None
    try:
        connection = _connect(f"{path.absolute().as_uri()}?{options}")
        has_tables = _check_schema(connection)
    except (sqlite3.Error, HistoryUnavailable) as error:
        if connection is not None:
            connection.close()
        raise unavailable(error) from None
    if not has_tables:
        connection.close()
        raise HistoryUnavailable(f"{path.parent} has no history yet")
    return connection


def set_aside(path: Path) -> Path:
    """Rename a damaged file, replacing one renamed before, and return its new path. Raises OSError."""
    broken = path.with_name(path.name + BROKEN_SUFFIX)
    path.replace(broken)
    for suffix in COMPANION_SUFFIXES:
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).unlink()
    return broken


def has_search_index(connection: sqlite3.Connection) -> bool:
    """Whether this build of SQLite has FTS5 with trigrams (3.34 and later)."""
    import sqlite3

    try:
        connection.execute("CREATE VIRTUAL TABLE temp.probe USING fts5(text, tokenize = 'trigram')")
        connection.execute("DROP TABLE temp.probe")
    except sqlite3.Error:
        return False
    return True


def index_name(part: int) -> str:
    return f"index_{part:d}"


def unavailable(error: Exception) -> HistoryUnavailable:
    """Return the error to report for one of SQLite or of the file system."""
    import sqlite3

    if isinstance(error, HistoryUnavailable):
        return error
    text = getattr(error, "strerror", None) or str(error)
    # "malformed", "not a database": the class alone also stands for many other errors.
    is_damaged = type(error) is sqlite3.DatabaseError
    return (DamagedFile if is_damaged else HistoryUnavailable)(text)


def _connect(uri: str) -> sqlite3.Connection:
    import sqlite3

    # One thread at a time uses a connection; it need not be the one that opened it.
    return sqlite3.connect(
        uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
    )


def _check_schema(connection: sqlite3.Connection) -> bool:
    """Return whether the tables exist; an empty file has none yet. Raises OtherSchema."""
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if (application, version, tables) == (0, 0, 0):
        return False
    if application != APPLICATION_ID:
        raise OtherSchema("the file is a database of another program")
    if version != SCHEMA_VERSION:
        raise OtherSchema(
            f"the file has schema {version}; this version writes schema {SCHEMA_VERSION}"
        )
    return True


def _create_private(path: Path) -> None:
    """Create the file if it is missing, and close it to other users. Raises OSError."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    file = os.open(path, flags, 0o600)
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(None, "not a plain file", str(path))
        if os.name == "posix" and stat.S_IMODE(status.st_mode) & 0o077:
            os.fchmod(file, 0o600)
    finally:
        os.close(file)
