"""The highlights of ``[app.highlights]``: filters by name, whose messages and events stand out.

``panic = "style:bad error|panic"``, ``deploys = "topic:deploy.>"``

Invariants:

- A style has a sign, so that a highlight is seen without color.
- A field that neither messages nor events have is refused by name.
- Importing this module imports no Textual, so that `config check` can use it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from grapevine_proto.config.toml import did_you_mean
from grapevine_proto.errors import ConfigError
from grapevine_tui.config.named_entries import NamedEntries, check_line
from grapevine_tui.filter_syntax import (
    EVENT_FIELDS,
    MESSAGE_FIELDS,
    Query,
    parse_terms,
    query_fault,
)

MAX_HIGHLIGHTS: Final = 16
MAX_WORDS_CHARACTERS: Final = 256
ENTRIES: Final = NamedEntries("app.highlights", "highlights", MAX_HIGHLIGHTS, 24)
STYLE_FIELD: Final = "style"
# Style -> sign in front of the line. A style is a tone of the theme.
SIGNS: Final[Mapping[str, str]] = {"accent": "*", "good": "+", "warn": "~", "bad": "!", "dim": "-"}
DEFAULT_STYLE: Final = "accent"


class Highlight(NamedTuple):
    """What matches `query` gets the style `style`, one of `SIGNS`."""

    name: str
    query: Query
    style: str = DEFAULT_STYLE

    @property
    def sign(self) -> str:
        return SIGNS[self.style]

    def has_only(self, fields: Iterable[str]) -> bool:
        """Whether all fields of the filter are among `fields`: of others it says nothing."""
        known = {"", *fields}
        return all(each.field in known for each in self.query.terms)


def parse_highlights(given: Any) -> tuple[Highlight, ...]:
    """The highlights that a config file has under [app.highlights]: name -> words. Raises ConfigError."""
    return tuple(
        _parse_highlight(name, location, value) for name, location, value in ENTRIES.parse(given)
    )


def _parse_highlight(name: str, location: str, value: Any) -> Highlight:
    words = check_line(value, location, "the words of a filter", MAX_WORDS_CHARACTERS)
    query = parse_terms(words)
    style = DEFAULT_STYLE
    for term in query.terms:
        if term.field == STYLE_FIELD:
            style = term.text
            if style not in SIGNS:
                hint = did_you_mean(style, SIGNS) or f"; styles: {', '.join(SIGNS)}"
                raise ConfigError(location, f"unknown style {style!r:.40}{hint}")
    terms = tuple(each for each in query.terms if each.field != STYLE_FIELD)
    if not terms:
        raise ConfigError(location, "expected words beside the style")
    query = query._replace(terms=terms)
    known = (*MESSAGE_FIELDS, *EVENT_FIELDS, STYLE_FIELD)
    if problem := query_fault(query, dict.fromkeys(known)):
        raise ConfigError(location, problem)
    return Highlight(name, query, style)
