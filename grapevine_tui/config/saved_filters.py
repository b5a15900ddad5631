"""The filters of ``[app.filters]``: words by name, shown as tabs of the log.

Invariants: a field that messages do not have is refused by name; a filter of times is none of the log.
"""

from __future__ import annotations

from typing import Any, Final

from grapevine_proto.errors import ConfigError
from grapevine_tui.config.named_entries import NamedEntries, check_line
from grapevine_tui.filter_syntax import MESSAGE_FIELDS, parse_terms, query_fault

MAX_FILTERS: Final = 16
MAX_WORDS_CHARACTERS: Final = 256
ENTRIES: Final = NamedEntries("app.filters", "filters", MAX_FILTERS, 24, reserved_name="all")


def parse_filters(given: Any) -> dict[str, str]:
    """The filters that a config file has under [app.filters]: name -> words. Raises ConfigError."""
    filters = {}
    for name, location, value in ENTRIES.parse(given):
        words = check_line(value, location, "the words of a filter", MAX_WORDS_CHARACTERS)
        if problem := query_fault(parse_terms(words), MESSAGE_FIELDS):
            raise ConfigError(location, problem)
        filters[name] = words
    return filters
