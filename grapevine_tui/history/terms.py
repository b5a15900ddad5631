"""What users type to filter or search: terms that must all match, some of them in one field or time range
only.

Invariants: every text is a valid filter, at worst one that matches nothing. Only a time that cannot be read
is an error, and only for those who ask for the times.

``deploy from:bob -via:repair "two words" since:1h``: a term matches anywhere, ``field:term`` in that field,
and a leading ``-`` negates. Case is ignored. ``@19:05`` is ``at:19:05``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple

from grapevine_tui.history.times import parse_time

_TERM: Final = re.compile(r'(-?)(?:(\w+):)?(?:"([^"]*)"?|(\S*))')
_COMPARISON: Final = re.compile(r"(>=|<=|>|<|=?)(\d+)([kmg]?)b?", re.ASCII)
_FACTORS: Final = {"": 1, "k": 1_000, "m": 1_000_000, "g": 1_000_000_000}
TIME_FIELDS: Final = ("since", "before", "at")


class Term(NamedTuple):
    """`field` is empty for a term that matches anywhere; `text` is lowercase."""

    field: str
    text: str
    is_negated: bool


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


class TimeRange(NamedTuple):
    """Unix seconds: from `since` up to before `before`; `at` is the time to look at. None: unlimited."""

    since: float | None = None
    before: float | None = None
    at: float | None = None


def parse_query(text: str) -> Query:
    """Parse `text`."""
    terms = []
    for found in _TERM.finditer(text):
        sign, field, quoted, plain = found.groups()
        term_text = quoted if quoted is not None else plain or ""
        if not field and term_text.startswith("@") and _is_time(term_text[1:]):
            field, term_text = "at", term_text[1:]
        if term_text or field:
            terms.append(Term((field or "").lower(), term_text.lower(), bool(sign)))
    return Query(text.strip(), tuple(terms))


def _is_time(text: str) -> bool:
    try:
        parse_time(text, 0.0)
    except ValueError:
        return False
    return True


def parse_time_range(query: Query, now: float | None = None) -> TimeRange:
    """The times of `query`; of several for one field, the last. Raises ValueError with what was expected."""
    times: dict[str, float] = {}
    for field, text, _ in query.terms:
        if field in TIME_FIELDS:
            try:
                times[field] = parse_time(text, now)
            except ValueError as expected:
                raise ValueError(f"{field}: expected {expected}, not {text!r}") from None
    return TimeRange(times.get("since"), times.get("before"), times.get("at"))


def with_times(words: str, **times: str) -> str:
    """The filter `words` with ``field:text`` for each of `times` that is given."""
    given = (
        f'{field}:"{text}"' if " " in text else f"{field}:{text}"
        for field, text in times.items()
        if text
    )
    return " ".join([words, *given]).strip()


def without_times(query: Query) -> Query:
    """The terms of `query` that are not times."""
    return query._replace(
        terms=tuple(each for each in query.terms if each.field not in TIME_FIELDS)
    )


def parse_comparison(text: str) -> Callable[[int], bool] | None:
    """A test of a number by ``>10k``, ``<=3`` or ``5``; None if `text` is none."""
    found = _COMPARISON.fullmatch(text)
    if found is None:
        return None
    sign, digits, unit = found.groups()
    limit = int(digits[:18]) * _FACTORS[unit]
    match sign:
        case ">":
            return lambda value: value > limit
        case ">=":
            return lambda value: value >= limit
        case "<":
            return lambda value: value < limit
        case "<=":
            return lambda value: value <= limit
        case _:
            return lambda value: value == limit
