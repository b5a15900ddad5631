"""Reads the history: pages of messages and events by words, fields and time.

Invariants:

- A page costs bounded work: a search ends after `MAX_SCANNED_ROWS` rows, or `MAX_SEARCH_S` or what the caller
  allows, and the page then says so, with the key to go on from. No row is left out between two pages.
- Text from users is bound as a parameter, and quoted for the search index.
- The index only selects candidates. Each row is tested here, so that the same words match the same messages
  with and without the index.

Blocks: call it in a thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from heapq import merge
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from grapevine_proto.ids import PeerId
from grapevine_tui.filter_syntax import OWN_NAME
from grapevine_tui.history.database import index_name, open_for_reading, unavailable
from grapevine_tui.history.records import (
    MICROSECONDS,
    StoredEvent,
    StoredMessage,
    event_of_row,
    message_of_row,
    to_key,
)
from grapevine_tui.history.terms import (
    MATCH_ALL,
    TIME_FIELDS,
    MessageFields,
    Query,
    Term,
    TimeRange,
    compile_term,
    is_named,
    parse_time_range,
    without_times,
)
from grapevine_tui.history.times import format_time

if TYPE_CHECKING:
    import sqlite3

DEFAULT_PAGE_ROWS: Final = 200
MAX_PAGE_ROWS: Final = 1_000
MAX_PAGE_BYTES: Final = 2**20  # of payloads
MAX_SHOWN_BYTES: Final = 64 * 1024  # of one payload
MAX_SCANNED_ROWS: Final = 100_000
MAX_SEARCH_S: Final = 2.0
MIN_SEARCH_S: Final = 0.01
MAX_NAMED_ORIGINS: Final = 64  # authors that a name may match before all rows are looked at
MAX_INDEX_TERMS: Final = 8  # trigrams asked for one word; the row is tested anyway
TRIGRAM: Final = 3
MAX_BLOB_BYTES: Final = 2**30  # as SQLite allows
MAX_KEY: Final = 2**63 - 1

_SELECT: Final = (
    "SELECT m.key, o.peer_id, o.name, o.zone, m.epoch, m.sequence, m.is_direct, m.recipient, m.topic, m.via,"
    " m.hops, m.age_ms, length(m.payload), substr(m.payload, 1, {shown_bytes})"
    " FROM {source} JOIN origins AS o ON o.id = m.origin"
)
_EVENT_COLUMNS: Final = "key, kind, level, text, peer_id, name, address, state, reason, suppressed"


class Page(NamedTuple):
    """Rows, oldest first. `older` and `newer` are the keys for the next page in each direction; None if there
    is none. `note` says, for people, what the page leaves out. `is_partial`: the search was stopped before it
    had a whole page or the last row."""

    rows: list[Any]
    older: int | None
    newer: int | None
    note: str = ""
    is_partial: bool = False


class Place(NamedTuple):
    """Which page: the rows before a key, after one, or around one; if all are None, the newest."""

    before: int | None = None
    after: int | None = None
    around: int | None = None


NEWEST: Final = Place()


def search_messages(
    path: Path,
    query: Query = MATCH_ALL,
    place: Place = NEWEST,
    limit: int = DEFAULT_PAGE_ROWS,
    *,
    whole: bool = False,
    own_id: PeerId | None = None,
    search_s: float = MAX_SEARCH_S,
) -> Page:
    """Return messages that match `query` and its times, as far as they are found in `search_s` seconds. Long
    payloads are cut, unless `whole` is true. The node `own_id` is also named `OWN_NAME`, as on the screen.
    Raises HistoryUnavailable, or ValueError if a time cannot be read."""
    times = parse_time_range(query)
    with _Reading(path, search_s) as reading:
        shown_bytes = MAX_BLOB_BYTES if whole else MAX_SHOWN_BYTES
        search = _MessageSearch(reading, without_times(query), shown_bytes, own_id)
        return _page(search.rows, place, times, limit)


def search_events(
    path: Path,
    query: Query = MATCH_ALL,
    place: Place = NEWEST,
    limit: int = DEFAULT_PAGE_ROWS,
    *,
    search_s: float = MAX_SEARCH_S,
) -> Page:
    """Return events that match `query`. Raises as `search_messages` does."""
    times = parse_time_range(query)
    with _Reading(path, search_s) as reading:
        search = _EventSearch(reading, without_times(query))
        return _page(search.rows, place, times, limit)


def messages_between(
    connection: sqlite3.Connection,
    first_key: int,
    last_key: int,
    limit: int,
    *,
    newest: bool = False,
) -> list[StoredMessage]:
    """Return the messages of these keys, oldest first: the first `limit` of them, or the `newest`. Raises
    sqlite3.Error."""
    select = _SELECT.format(shown_bytes=MAX_SHOWN_BYTES, source="messages AS m")
    order = "DESC" if newest else "ASC"
    rows = connection.execute(
        f"{select} WHERE m.key BETWEEN ? AND ? ORDER BY m.key {order} LIMIT ?",
        (first_key, last_key, limit),
    ).fetchall()
    found = []
    for row in reversed(rows) if newest else rows:
        with suppress(ValueError):  # a damaged row
            found.append(message_of_row(row))
    return found


class _Stopped(Exception):
    """The work allowed for this page is used up; `key` is that of the last row examined."""

    def __init__(self, key: int) -> None:
        super().__init__()
        self.key = key


class _Reading:
    """A connection for one search of bounded work."""

    def __init__(self, path: Path, search_s: float) -> None:
        self.connection = open_for_reading(path)
        search_s = min(max(search_s, MIN_SEARCH_S), MAX_SEARCH_S)
        self._deadline = time.monotonic() + search_s
        self._scanned = 0
        # Sorting or intersecting inside SQLite looks at no clock.
        self._timer = threading.Timer(2 * MAX_SEARCH_S, self.connection.interrupt)
        self._timer.daemon = True

    def __enter__(self) -> _Reading:
        self._timer.start()
        return self

    def __exit__(self, error_type: Any, error: Any, _: Any) -> None:
        import sqlite3

        self._timer.cancel()
        self.connection.close()
        if isinstance(error, sqlite3.Error):
            raise unavailable(error) from None

    def count_row(self, key: int) -> None:
        """Count an examined row. Raises _Stopped at the limit."""
        self._scanned += 1
        if time.monotonic() > self._deadline or self._scanned > MAX_SCANNED_ROWS:
            raise _Stopped(key)


RowSource = Callable[[int, int, bool], Iterator[Any]]
"""The matching rows with keys from the first up to before the second; newest first if the third is true."""


def _page(rows_between: RowSource, place: Place, times: TimeRange, limit: int) -> Page:
    limit = max(1, min(limit, MAX_PAGE_ROWS))
    low = 0 if times.since is None else to_key(times.since)
    high = MAX_KEY if times.before is None else to_key(times.before)
    around = place.around
    if around is None and place.before is None and place.after is None and times.at is not None:
        around = to_key(times.at)
    if around is not None:
        earlier = _one_way(
            rows_between, low, min(high, around), limit - limit // 2, is_newest_first=True
        )
        later = _one_way(
            rows_between, max(low, around), high, max(1, limit // 2), is_newest_first=False
        )
        note = earlier.note or later.note
        is_partial = earlier.is_partial or later.is_partial
        rows = [*earlier.rows, *later.rows]
        return Page(rows, earlier.older, later.newer, note, is_partial)
    if place.after is not None:
        page = _one_way(rows_between, max(low, place.after + 1), high, limit, is_newest_first=False)
        return page._replace(older=page.rows[0].key if page.rows else place.after)
    before = high if place.before is None else min(high, place.before)
    page = _one_way(rows_between, low, before, limit, is_newest_first=True)
    # The newest page has nothing after it; an older one goes on where it ends.
    is_newest = place.before is None or not page.rows
    return page._replace(newer=None if is_newest else page.rows[-1].key)


def _one_way(
    rows_between: RowSource, low: int, high: int, limit: int, *, is_newest_first: bool
) -> Page:
    found: list[Any] = []
    size, goes_on, note = 0, None, ""
    try:
        for row in rows_between(low, high, is_newest_first):
            size += len(row.message.payload) if isinstance(row, StoredMessage) else 0
            if len(found) >= limit or (found and size > MAX_PAGE_BYTES):
                goes_on = found[-1].key
                break
            found.append(row)
    except _Stopped as stopped:
        goes_on = stopped.key
        clock = format_time(stopped.key / MICROSECONDS)
        note = f"searched as far as {clock}; go on for more"
    if is_newest_first:
        found.reverse()
        return Page(found, goes_on, None, note, bool(note))
    return Page(found, None, goes_on, note, bool(note))


# --- messages -------------------------------------------------------------------------------------


class _MessageSearch:
    """The messages that match `query`, in order of time."""

    def __init__(
        self, reading: _Reading, query: Query, shown_bytes: int, own_id: PeerId | None
    ) -> None:
        self._own_id = own_id
        self._reading = reading
        self._connection = reading.connection
        self._shown_bytes = shown_bytes
        self._origins_by_text: dict[str, set[int] | None] = {}
        self._names: dict[PeerId, str] = {}  # of recipients; at most one per row looked at
        fields: MessageFields[StoredMessage] = MessageFields(
            message=lambda row: row.message,
            author_name=lambda row: self._searched_name(row.message.origin, row.origin_name),
            recipient_name=self._recipient_name,
            zone=lambda row: row.zone,
            size_bytes=lambda row: row.size_bytes,
        )
        self._tests = [(compile_term(each, fields), each.is_negated) for each in query.terms]
        self._has_index = bool(
            self._connection.execute(
                "SELECT 1 FROM sqlite_master WHERE name GLOB 'index_*' LIMIT 1"
            ).fetchone()
        )
        # Neither one of several alternatives nor an expression narrows where all matches are.
        wanted = [
            each
            for each in query.terms
            if not each.is_negated and not each.is_regex and len(each.alternatives) == 1
        ]
        self._words = [each for each in wanted if _is_word(each)]
        self._authors = [self._origins_named(each.text) for each in wanted if each.field == "from"]

    def rows(self, low: int, high: int, is_newest_first: bool) -> Iterator[StoredMessage]:
        previous = None
        for row in self._candidates(low, high, is_newest_first):
            if row[0] == previous:  # found in two ways
                continue
            previous = row[0]
            message = None
            with suppress(ValueError):  # damaged, or of a later version
                message = message_of_row(row)
            if message is not None and all(
                test(message) is not is_negated for test, is_negated in self._tests
            ):
                yield message
            self._reading.count_row(row[0])  # last, because a page goes on behind a counted row

    def _candidates(self, low: int, high: int, is_newest_first: bool) -> Iterator[tuple[Any, ...]]:
        """Rows among which all matches are."""
        authors = [each for each in self._authors if each is not None]
        if authors:
            return self._by_origins(set.intersection(*authors), low, high, is_newest_first)
        indexed = [each.text for each in self._words if len(each.text) >= TRIGRAM]
        if not indexed or not self._has_index:
            return self._select("messages AS m", "1", (), low, high, is_newest_first)
        # A word may also be in the name of the author, which the index does not cover.
        named: set[int] = set()
        for text in indexed:
            origins = self._origins_named(text)
            if origins is None:
                return self._select("messages AS m", "1", (), low, high, is_newest_first)
            named |= origins
        by_index = self._by_index(_index_query(indexed), low, high, is_newest_first)
        if not named:
            return by_index
        by_name = self._by_origins(named, low, high, is_newest_first)
        return merge(by_index, by_name, key=lambda row: row[0], reverse=is_newest_first)

    def _by_origins(
        self, origins: set[int], low: int, high: int, is_newest_first: bool
    ) -> Iterator[tuple[Any, ...]]:
        streams = [
            self._select("messages AS m", "m.origin = ?", (each,), low, high, is_newest_first)
            for each in sorted(origins)
        ]
        return merge(*streams, key=lambda row: row[0], reverse=is_newest_first)

    def _by_index(
        self, match: str, low: int, high: int, is_newest_first: bool
    ) -> Iterator[tuple[Any, ...]]:
        """Part by part, so that the first page needs the first part only; parts that overlap go together."""
        order = "last_key DESC" if is_newest_first else "first_key"
        parts = self._connection.execute(
            "SELECT number, first_key, last_key FROM parts WHERE last_key >= ? AND first_key < ?"
            f" ORDER BY {order}",
            (low, high),
        ).fetchall()
        for group in _overlapping(parts, is_newest_first):
            streams = [
                self._select(
                    # CROSS: the index first, whatever the planner thinks.
                    f"{index_name(number)} AS i CROSS JOIN messages AS m ON m.key = i.rowid",
                    f"{index_name(number)} MATCH ?",
                    (match,),
                    low,
                    high,
                    is_newest_first,
                    key="i.rowid",
                )
                for number in group
            ]
            yield from merge(*streams, key=lambda row: row[0], reverse=is_newest_first)

    def _select(
        self,
        source: str,
        condition: str,
        values: tuple[Any, ...],
        low: int,
        high: int,
        is_newest_first: bool,
        *,
        key: str = "m.key",
    ) -> Iterator[tuple[Any, ...]]:
        direction = "DESC" if is_newest_first else "ASC"
        sql = (
            f"{_SELECT.format(source=source, shown_bytes=self._shown_bytes)}"
            f" WHERE {condition} AND {key} >= ? AND {key} < ? ORDER BY {key} {direction}"
        )
        yield from self._connection.execute(sql, (*values, low, high))

    # --- terms ------------------------------------------------------------------------------------

    def _origins_named(self, text: str) -> set[int] | None:
        """Rows of the authors whose name or ID matches; None if they are too many to look at one by one."""
        if text not in self._origins_by_text:
            found = {
                row
                for row, peer_id, name in self._connection.execute(
                    "SELECT id, peer_id, name FROM origins"
                )
                if is_named(text, self._searched_name(PeerId(peer_id), name), peer_id.hex())
            }
            self._origins_by_text[text] = found if len(found) <= MAX_NAMED_ORIGINS else None
        return self._origins_by_text[text]

    def _searched_name(self, peer_id: PeerId, name: str) -> str:
        return f"{OWN_NAME} {name}" if peer_id == self._own_id else name

    def _recipient_name(self, row: StoredMessage) -> str:
        """The name of the recipient, where it is an author as well."""
        to = row.message.to
        if to is None:
            return ""
        if to not in self._names:
            found = self._connection.execute(
                "SELECT name FROM origins WHERE peer_id = ?", (bytes(to),)
            ).fetchone()
            self._names[to] = self._searched_name(to, "" if found is None else found[0])
        return self._names[to]


def _is_word(term: Term) -> bool:
    """Whether the payload is searched for the term."""
    return not term.field


def _index_query(words: list[str]) -> str:
    """A query of the index that every payload with all of `words` matches: their trigrams, quoted."""
    trigrams: dict[str, None] = {}
    for word in words:
        starts = range(len(word) - TRIGRAM + 1)
        step = max(1, -(-len(starts) // MAX_INDEX_TERMS))
        for start in starts[::step]:
            trigrams[word[start : start + TRIGRAM].replace("\0", " ")] = None
    quoted = ('"' + each.replace('"', '""') + '"' for each in islice(trigrams, 4 * MAX_INDEX_TERMS))
    return " AND ".join(quoted)


def _overlapping(parts: list[tuple[int, int, int]], is_newest_first: bool) -> Iterator[list[int]]:
    """Groups of parts whose times overlap, in order."""
    group: list[int] = []
    first = last = 0
    for number, first_key, last_key in parts:
        is_apart = last_key < first if is_newest_first else first_key > last
        if group and is_apart:
            yield group
            group = []
        if not group:
            first, last = first_key, last_key
        group.append(number)
        first, last = min(first, first_key), max(last, last_key)
    if group:
        yield group


# --- events ---------------------------------------------------------------------------------------


class _EventSearch:
    """The events that match `query`, in order of time."""

    def __init__(self, reading: _Reading, query: Query) -> None:
        self._reading = reading
        self._query = query

    def rows(self, low: int, high: int, is_newest_first: bool) -> Iterator[StoredEvent]:
        direction = "DESC" if is_newest_first else "ASC"
        rows = self._reading.connection.execute(
            f"SELECT {_EVENT_COLUMNS} FROM events WHERE key >= ? AND key < ? ORDER BY key {direction}",
            (low, high),
        )
        for row in rows:
            event = None
            with suppress(ValueError):
                event = event_of_row(row)
            if event is not None and matches_event(event, self._query):
                yield event
            self._reading.count_row(row[0])


def matches_event(event: StoredEvent, query: Query) -> bool:
    """Whether all terms of `query` but times match."""
    return all(
        _matches_any(event, each) is not each.is_negated
        for each in query.terms
        if each.field not in TIME_FIELDS
    )


def _matches_any(event: StoredEvent, term: Term) -> bool:
    return any(_matches_event(event, each) for each in term.alternatives)


def _matches_event(event: StoredEvent, term: Term) -> bool:
    peer_id = "" if event.peer_id is None else str(event.peer_id)
    if term.is_regex:
        return _matches_regex(event, term, peer_id)
    text = term.text
    match term.field:
        case "kind" | "level" | "state":
            value: str = getattr(event, term.field)
            return value.startswith(text)
        case "from" | "peer" | "name":
            return is_named(text, event.name, peer_id)
        case "id":
            return peer_id.startswith(text)
        case field:
            needle = f"{field}:{text}" if field else text
            texts = (event.text, event.name, event.address, event.reason)
            return any(needle in each.lower() for each in texts) or (
                len(needle) >= 4 and peer_id.startswith(needle)
            )


def _matches_regex(event: StoredEvent, term: Term, peer_id: str) -> bool:
    match term.field:
        case "kind" | "level" | "state":
            texts: tuple[str, ...] = (getattr(event, term.field),)
        case "from" | "peer" | "name":
            texts = (event.name,)
        case "id":
            texts = (peer_id,)
        case _:
            texts = (event.text, event.name, event.address, event.reason)
    regex = term.regex
    return regex is not None and any(regex.search(each.encode()) for each in texts)
