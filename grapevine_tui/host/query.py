"""Filters that users type: terms that must all match, some of them in one field only.

Invariants:

- Every text is a valid filter; at worst it matches nothing.
- Matching one message is bounded work, whatever its size, and needs no Textual.

``deploy from:bob -via:repair "two words"``: a term matches anywhere, ``field:term`` in that field,
and a leading ``-`` negates. Case is ignored.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

from grapevine_proto.events import Message
from grapevine_proto.ids import PeerId
from grapevine_proto.topics import TopicPatterns, pattern_fault, topic_patterns
from grapevine_tui.host.model import Model

MAX_SEARCHED_BYTES: Final = 16 * 1024  # of a payload: more than a screen shows
_TERM: Final = re.compile(r'(-?)(?:(\w+):)?(?:"([^"]*)"?|(\S*))')


class Term(NamedTuple):
    """`field` is empty for a term that matches anywhere; `word` is lowercase."""

    field: str
    text: str
    is_negated: bool


class Query(NamedTuple):
    """A filter whose `terms` must all match. `text` is what was typed."""

    text: str
    terms: tuple[Term, ...]

    def __bool__(self) -> bool:
        return bool(self.terms)


MATCH_ALL: Final = Query("", ())


def parse_query(text: str) -> Query:
    """Parse `text`."""
    terms = []
    for found in _TERM.finditer(text):
        sign, field, quoted, plain = found.groups()
        term_text = quoted if quoted is not None else plain or ""
        if term_text or field:
            terms.append(Term((field or "").lower(), term_text.lower(), bool(sign)))
    return Query(text.strip(), tuple(terms))


def matches_row(query: Query, fields: Mapping[str, str]) -> bool:
    """Return whether a table row, lowercase texts by column, matches. An unknown field is taken as
    part of the term.
    """
    for field, term_text, is_negated in query.terms:
        if field in fields:
            is_match = term_text in fields[field]
        else:
            needle = f"{field}:{term_text}" if field else term_text
            is_match = any(needle in text for text in fields.values())
        if is_match is is_negated:
            return False
    return True


def compile_filter(query: Query, model: Model) -> Callable[[Message], bool]:
    """Compile a test for messages. Names and zones are those known when the test runs."""
    checks = [(_compile_term(term, model), term.is_negated) for term in query.terms]
    return lambda message: all(check(message) is not is_negated for check, is_negated in checks)


def _compile_term(term: Term, model: Model) -> Callable[[Message], bool]:
    text = term.text
    match term.field:
        case "to":
            return lambda message: message.to is not None and _matches_peer(model, message.to, text)
        case "from":
            return lambda message: (
                text in model.name_of(message.origin).lower()
                or (len(text) >= 4 and str(message.origin).startswith(text))
            )
        case "topic":
            if pattern_fault(text):  # still being typed
                return lambda message: bool(message.topic) and message.topic.startswith(text)
            patterns = TopicPatterns((text,))
            return lambda message: patterns.matches(message.topic)
        case "via":
            return lambda message: message.via.value.startswith(text)
        case "zone":
            return lambda message: text in _zone_of(model, message)
        case "private" | "direct":
            is_direct = text not in ("no", "false", "0")
            return lambda message: message.is_direct is is_direct
        case "id":
            return lambda message: str(message.id).startswith(text)
        case field:
            return _compile_payload_term(f"{field}:{text}" if field else text, model)


def complete_topic(text: str, topics: Iterable[str]) -> str:
    """`text` with the ``topic:`` term at its end completed by the first of `topics`, or of the patterns that
    select several, that begins so; unchanged if there is none."""
    start, field, word = text.rpartition("topic:")
    if not field or not (not start or start[-1] in " -") or " " in word:
        return text
    found = [each for each in topic_patterns(topics) if each.startswith(word) and each != word]
    return f"{start}{field}{found[0]}" if found else text


def _matches_peer(model: Model, peer_id: PeerId, text: str) -> bool:
    return text in model.name_of(peer_id).lower() or (
        len(text) >= 4 and str(peer_id).startswith(text)
    )


def _compile_payload_term(text: str, model: Model) -> Callable[[Message], bool]:
    if text.isascii():
        # Comparing bytes is enough, and seven times as fast as decoding first.
        raw = text.encode()
        return lambda message: (
            raw in message.payload[:MAX_SEARCHED_BYTES].lower()
            or text in model.name_of(message.origin).lower()
        )
    return lambda message: (
        text in message.payload[:MAX_SEARCHED_BYTES].decode(errors="replace").lower()
        or text in model.name_of(message.origin).lower()
    )


def _zone_of(model: Model, message: Message) -> str:
    origin = message.origin
    if model.local_node is not None and origin == model.local_node.peer_id:
        return ""
    known = model.peers.get(origin) or model.members.get(origin)
    return known.zone.lower() if known is not None else ""
