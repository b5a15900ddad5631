"""The syntax of filters: terms that must all match, some of them in one field only.

Invariants:

- Parsing never fails. `unknown_field` says which field of a filter does not exist, for those who refuse it.
- Nothing here knows what the fields mean (`history.terms` for messages, `host.query` for rows of tables).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Final, NamedTuple

_TERM: Final = re.compile(r'(-?)(?:(\w+):)?(?:"([^"]*)"?|(\S*))')
TIME_FIELDS: Final = ("since", "before", "at")
MAX_ALTERNATIVES: Final = 16  # of one term; further ones are not looked for
MESSAGE_FIELDS: Final = (
    *("from", "to", "tag", "topic", "via", "zone", "private", "direct", "id", "hops", "bytes"),
)
EVENT_FIELDS: Final = ("peer", "from", "name", "id", "kind", "level", "state")


class Term(NamedTuple):
    """`field` is empty for a term that matches anywhere; `text` is lowercase."""

    field: str
    text: str
    is_negated: bool
    is_literal: bool = False
    """Whether a ``|`` in the text was quoted, and so stands for itself."""

    @property
    def alternatives(self) -> tuple[Term, ...]:
        """The terms of which one must match: ``a|b`` has two."""
        parts = [each for each in self.text.split("|") if each]
        if self.is_literal or len(parts) < 2:
            return (self,)
        return tuple(self._replace(text=each) for each in parts[:MAX_ALTERNATIVES])


class Query(NamedTuple):
    """A filter whose `terms` must all match. `text` is what was typed."""

    text: str
    terms: tuple[Term, ...]

    def __bool__(self) -> bool:
        return bool(self.terms)

    @property
    def has_times(self) -> bool:
        return any(each.field in TIME_FIELDS for each in self.terms)


MATCH_ALL: Final = Query("", ())


def parse_terms(text: str) -> Query:
    """Parse `text`. Case is ignored."""
    terms = []
    for found in _TERM.finditer(text):
        sign, field, quoted, plain = found.groups()
        term_text = quoted if quoted is not None else plain or ""
        if term_text or field:
            is_literal = quoted is not None and "|" in quoted
            term = Term((field or "").lower(), term_text.lower(), bool(sign), is_literal)
            terms.append(term)
    return Query(text.strip(), tuple(terms))


def unknown_field(query: Query, known: Iterable[str]) -> str:
    """Say which field of `query` is none of `known`, and which is meant; empty if all are known."""
    names = list(known)
    for term in query.terms:
        if term.field and term.field not in names:
            close = difflib.get_close_matches(term.field, names, n=1)
            hint = f"did you mean {close[0]}:?" if close else f"fields: {', '.join(names)}"
            return f'unknown field {term.field}:; {hint}; text with a colon needs quotes: "a:b"'
    return ""
