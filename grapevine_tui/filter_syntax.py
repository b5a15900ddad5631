"""The syntax of filters: terms that must all match, some of them in one field only.

Invariants:

- Parsing never fails. `query_fault` says what is wrong with a filter, for those who refuse it.
- Nothing here knows what the fields mean (`history.terms` for messages, `host.query` for rows of tables).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from grapevine_tui.regex import BadRegex, Regex, compile_regex

# A quoted text, /an expression/ up to a slash before a blank, or one word.
_TERM: Final = re.compile(
    r'(-?)(?:(\w+):)?(?:"([^"]*)"?|/((?:[^/\\]|\\.)+)/(?!\S)|(\S*))', re.DOTALL
)
TIME_FIELDS: Final = ("since", "before", "at")
MAX_ALTERNATIVES: Final = 16  # of one term; further ones are not looked for
MESSAGE_FIELDS: Final = (
    *("from", "to", "tag", "topic", "via", "zone", "private", "direct", "id", "hops", "bytes"),
)
FIELDS_WITHOUT_REGEX: Final = (*TIME_FIELDS, "private", "direct", "hops", "bytes")
OWN_NAME: Final = "you"  # the node itself, as screens name it
EVENT_FIELDS: Final = ("peer", "from", "name", "id", "kind", "level", "state")


class Term(NamedTuple):
    """`field` is empty for a term that matches anywhere; `text` is lowercase, unless it is an expression."""

    field: str
    text: str
    is_negated: bool
    is_literal: bool = False
    """Whether a ``|`` in the text was quoted, and so stands for itself."""
    is_regex: bool = False
    """Whether the text is a regular expression."""

    @property
    def regex(self) -> Regex | None:
        """The expression; None if the term has none, or one that is not valid: that matches nothing."""
        try:
            return compile_regex(self.text) if self.is_regex else None
        except BadRegex:
            return None

    @property
    def alternatives(self) -> tuple[Term, ...]:
        """The terms of which one must match: ``a|b`` has two."""
        parts = [each for each in self.text.split("|") if each]
        if self.is_literal or self.is_regex or len(parts) < 2:
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
        sign, field, quoted, expression, plain = found.groups()
        name, is_negated = (field or "").lower(), bool(sign)
        if expression is not None:
            terms.append(Term(name, expression, is_negated, is_regex=True))
            continue
        text_of_term = quoted if quoted is not None else plain or ""
        if text_of_term or name:
            is_literal = quoted is not None and "|" in quoted
            terms.append(Term(name, text_of_term.lower(), is_negated, is_literal))
    return Query(text.strip(), tuple(terms))


def query_fault(query: Query, known: Iterable[str]) -> str:
    """Say what is wrong with `query`, whose fields should be `known`; empty if nothing is. A field that does
    not exist is named with the nearest one."""
    names = list(known)
    for term in query.terms:
        if term.field and term.field not in names:
            close = difflib.get_close_matches(term.field, names, n=1)
            hint = f"did you mean {close[0]}:?" if close else f"fields: {', '.join(names)}"
            return f'unknown field {term.field}:; {hint}; text with a colon needs quotes: "a:b"'
        if term.is_regex and term.field in FIELDS_WITHOUT_REGEX:
            return f"{term.field}: has no text for a regular expression"
        if term.is_regex:
            try:
                compile_regex(term.text)
            except BadRegex as problem:
                return f"/{term.text:.40}/: {problem}"
    return ""
