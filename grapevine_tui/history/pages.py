"""Pages of the history of one node, as JSON fields.

Invariants: a page is bounded in rows and in the time of its search, and reading one changes nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from grapevine_proto.ids import PeerId
from grapevine_tui.filter_syntax import EVENT_FIELDS, MESSAGE_FIELDS, TIME_FIELDS, query_fault
from grapevine_tui.history.search import (
    DEFAULT_PAGE_ROWS,
    MAX_SEARCH_S,
    Page,
    Place,
    search_events,
    search_messages,
)
from grapevine_tui.history.terms import parse_query, with_times


def read_page(
    path: Path,
    kind: str,
    words: str,
    *,
    since: str = "",
    before: str = "",
    at: str = "",
    older_than: int | None = None,
    newer_than: int | None = None,
    around: int | None = None,
    limit: int | None = None,
    search_ms: int | None = None,
    own_id: PeerId | None = None,
) -> dict[str, Any]:
    """A page of ``messages`` or ``events``, oldest first, as JSON fields. Blocks.

    `words` is a filter; `since`, `before` and `at` are times in the form of the filter. `older_than`,
    `newer_than` and `around` are keys of rows. `older` and `newer` of the reply are the keys for the next
    page in each direction, or null. A search that ends after `search_ms` is `partial`. Raises
    HistoryUnavailable, or ValueError if a time cannot be read, or a field or an expression is not valid.
    """
    query = parse_query(with_times(words, since=since, before=before, at=at))
    known = MESSAGE_FIELDS if kind == "messages" else EVENT_FIELDS
    if problem := query_fault(query, (*known, *TIME_FIELDS)):
        raise ValueError(problem)
    place = Place(older_than, newer_than, around)
    rows = DEFAULT_PAGE_ROWS if limit is None else limit
    search_s = MAX_SEARCH_S if search_ms is None else search_ms / 1_000
    page: Page
    if kind == "messages":
        page = search_messages(path, query, place, rows, own_id=own_id, search_s=search_s)
    else:
        page = search_events(path, query, place, rows, search_s=search_s)
    return {
        kind: [each.to_dict() for each in page.rows],
        "older": page.older,
        "newer": page.newer,
        "note": page.note,
        "partial": page.is_partial,
    }
