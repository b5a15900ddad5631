"""Filters and searches that users type: terms that must all match, some only in one field or time range.

Invariants:

- Every text is a valid filter, at worst one that matches nothing. Only a time that cannot be read is an
  error, and only for those who ask for the times.
- `compile_term` is the only reading of a term about messages: the log and the history match alike.
- Matching one message is bounded work, whatever its size.

``deploy from:bob -via:repair "two words" /disk .*full/ since:1h``: a term matches anywhere, ``field:term``
in that field, and a leading ``-`` negates. Case is ignored. ``@19:05`` is ``at:19:05``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Generic, NamedTuple, TypeVar

from grapevine_proto.events import Message, Via
from grapevine_proto.tags import tag_texts
from grapevine_proto.topics import TopicPatterns, pattern_fault
from grapevine_tui.filter_syntax import FIELDS_WITHOUT_REGEX, parse_terms
from grapevine_tui.filter_syntax import MATCH_ALL as MATCH_ALL
from grapevine_tui.filter_syntax import TIME_FIELDS as TIME_FIELDS
from grapevine_tui.filter_syntax import Query as Query
from grapevine_tui.filter_syntax import Term as Term
from grapevine_tui.history.times import parse_time
from grapevine_tui.text import via_word

T = TypeVar("T")

_COMPARISON: Final = re.compile(r"(>=|<=|>|<|=?)(\d+)([kmg]?)b?", re.ASCII)
_FACTORS: Final = {"": 1, "k": 1_000, "m": 1_000_000, "g": 1_000_000_000}
MAX_SEARCHED_BYTES: Final = 16 * 1024  # of a payload: more than a screen shows
MIN_ID_CHARACTERS: Final = 4  # of a peer ID: fewer match too many


class TimeRange(NamedTuple):
    """Unix seconds: from `since` up to before `before`; `at` is the time to look at. None: unlimited."""

    since: float | None = None
    before: float | None = None
    at: float | None = None


def parse_query(text: str) -> Query:
    """Parse `text`."""
    query = parse_terms(text)
    return query._replace(terms=tuple(map(_with_time, query.terms)))


def _with_time(term: Term) -> Term:
    """``@19:05`` as the time that it is."""
    if (
        not term.is_regex
        and not term.field
        and term.text.startswith("@")
        and _is_time(term.text[1:])
    ):
        return term._replace(field="at", text=term.text[1:])
    return term


def _is_time(text: str) -> bool:
    try:
        parse_time(text, 0.0)
    except ValueError:
        return False
    return True


def parse_time_range(query: Query, now: float | None = None) -> TimeRange:
    """The times of `query`; of several for one field, the last. Raises ValueError with what was expected."""
    times: dict[str, float] = {}
    for term in query.terms:
        if term.field in TIME_FIELDS:
            try:
                times[term.field] = parse_time(term.text, now)
            except ValueError as expected:
                problem = f"{term.field}: expected {expected}, not {term.text!r}"
                raise ValueError(problem) from None
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


@dataclass(frozen=True, slots=True)
class MessageFields(Generic[T]):
    """How to read a message that a `T` stands for: names as people know them, "" if unknown. `tags` is None
    where the tags of authors are not known: the field is then searched as text."""

    message: Callable[[T], Message]
    author_name: Callable[[T], str]
    recipient_name: Callable[[T], str]
    zone: Callable[[T], str]
    size_bytes: Callable[[T], int]
    tags: Callable[[T], Mapping[str, str]] | None = None


def compile_terms(query: Query, fields: MessageFields[T]) -> Callable[[T], bool]:
    """A test for all terms of `query` but times: those select from the history, and what arrives later is
    newer than any of them."""
    terms = [each for each in query.terms if each.field not in TIME_FIELDS]
    checks = [(compile_term(term, fields), term.is_negated) for term in terms]
    return lambda each: all(check(each) is not is_negated for check, is_negated in checks)


def compile_term(term: Term, fields: MessageFields[T]) -> Callable[[T], bool]:
    """A test for what `term` says, its negation aside. Times match nothing here: leave them out."""
    if len(term.alternatives) > 1:
        tests = [compile_term(each, fields) for each in term.alternatives]
        return lambda each: any(test(each) for test in tests)
    if term.is_regex:
        return _regex_test(term, fields)
    text, message_of = term.text, fields.message
    match term.field:
        case "from":
            return lambda each: is_named(
                text, fields.author_name(each), str(message_of(each).origin)
            )
        case "to":
            return _recipient_test(text, fields)
        case "tag" if (tags_of := fields.tags) is not None:
            return lambda each: text in " ".join(tag_texts(tags_of(each))).lower()
        case "topic":
            return _topic_test(text, fields)
        case "via":
            return _via_test(lambda word: word.startswith(text), fields)
        case "zone":
            return lambda each: text in fields.zone(each).lower()
        case "private" | "direct":
            is_direct = text not in ("no", "false", "0")
            return lambda each: message_of(each).is_direct is is_direct
        case "id":
            return lambda each: str(message_of(each).id).startswith(text)
        case "hops" | "bytes" if (compares := parse_comparison(text)) is not None:
            if term.field == "hops":
                return lambda each: compares(message_of(each).hops)
            return lambda each: compares(fields.size_bytes(each))
        case field:
            return _payload_test(f"{field}:{text}" if field else text, fields)


def _regex_test(term: Term, fields: MessageFields[T]) -> Callable[[T], bool]:
    """A test by an expression. One that is not valid, as while it is typed, matches nothing."""
    regex, message_of, name_of = term.regex, fields.message, fields.author_name
    if regex is None or term.field in FIELDS_WITHOUT_REGEX:
        return lambda each: False
    search = regex.search
    if term.field == "via":
        return _via_test(lambda word: search(word.encode()) is not None, fields)
    text_of = _text_reader(term.field, fields)
    if text_of is not None:
        return lambda each: search(text_of(each).encode("utf-8", "replace")) is not None
    return lambda each: bool(
        search(message_of(each).payload[:MAX_SEARCHED_BYTES])
        or search(name_of(each).encode("utf-8", "replace"))
    )


def _via_test(is_match: Callable[[str], bool], fields: MessageFields[T]) -> Callable[[T], bool]:
    """A test for how a message came, by the word of the screens or that of the protocol."""
    ways = {way for way in Via if is_match(way.value) or is_match(via_word(way))}
    return lambda each: fields.message(each).via in ways


def _text_reader(field: str, fields: MessageFields[T]) -> Callable[[T], str] | None:
    """How to read the text of a field; None for that of the message itself."""
    message_of = fields.message
    match field:
        case "from":
            return fields.author_name
        case "to":
            return fields.recipient_name
        case "zone":
            return fields.zone
        case "tag" if (tags_of := fields.tags) is not None:
            return lambda each: " ".join(tag_texts(tags_of(each)))
        case "topic":
            return lambda each: message_of(each).topic
        case "id":
            return lambda each: str(message_of(each).id)
        case _:
            return None


def is_named(text: str, name: str, peer_id: str) -> bool:
    """Whether `text` is a part of the name or the beginning of the ID."""
    return text in name.lower() or (len(text) >= MIN_ID_CHARACTERS and peer_id.startswith(text))


def _recipient_test(text: str, fields: MessageFields[T]) -> Callable[[T], bool]:
    def matches(each: T) -> bool:
        to = fields.message(each).to
        return to is not None and is_named(text, fields.recipient_name(each), str(to))

    return matches


def _topic_test(text: str, fields: MessageFields[T]) -> Callable[[T], bool]:
    message_of = fields.message
    if pattern_fault(text):  # still being typed

        def begins(each: T) -> bool:
            topic = message_of(each).topic
            return bool(topic) and topic.startswith(text)

        return begins
    patterns = TopicPatterns((text,))
    return lambda each: patterns.matches(message_of(each).topic)


def _payload_test(text: str, fields: MessageFields[T]) -> Callable[[T], bool]:
    message_of, name_of = fields.message, fields.author_name
    if text.isascii():
        # Comparing bytes is enough, and seven times as fast as decoding first.
        raw = text.encode()
        return lambda each: (
            raw in message_of(each).payload[:MAX_SEARCHED_BYTES].lower()
            or text in name_of(each).lower()
        )
    return lambda each: (
        text in message_of(each).payload[:MAX_SEARCHED_BYTES].decode(errors="replace").lower()
        or text in name_of(each).lower()
    )
