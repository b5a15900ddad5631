"""The filters of ``[app.filters]``: words by name, shown as tabs of the log.

Invariants: a field that messages do not have is refused by name; a filter of times is none of the log.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from grapevine_proto.errors import ConfigError
from grapevine_tui.filter_syntax import MESSAGE_FIELDS, parse_terms, query_fault

SECTION: Final = "app.filters"
MAX_FILTERS: Final = 16
MAX_NAME_CHARACTERS: Final = 24
MAX_WORDS_CHARACTERS: Final = 256

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]*")


def parse_filters(given: Any) -> dict[str, str]:
    """The filters that a config file has under [app.filters]: name -> words. Raises ConfigError."""
    if not isinstance(given, Mapping):
        raise ConfigError(SECTION, f"expected a section, [{SECTION}], not a value")
    if len(given) > MAX_FILTERS:
        raise ConfigError(SECTION, f"at most {MAX_FILTERS} filters, got {len(given)}")
    for name, words in given.items():
        location = f"{SECTION}.{name}"
        if _NAME.fullmatch(name) is None or len(name) > MAX_NAME_CHARACTERS or name == "all":
            limit = MAX_NAME_CHARACTERS
            problem = f"a name has lower-case letters, digits, - and _, at most {limit}, not all"
            raise ConfigError(location, problem)
        if not isinstance(words, str) or not words.strip():
            raise ConfigError(location, f"expected the words of a filter, not {words!r:.80}")
        if len(words) > MAX_WORDS_CHARACTERS:
            raise ConfigError(location, f"longer than {MAX_WORDS_CHARACTERS} characters")
        if problem := query_fault(parse_terms(words), MESSAGE_FIELDS):
            raise ConfigError(location, problem)
    return dict(given)
