"""Filters that users type: terms that must all match, some of them in one field only.

Invariants:

- Every text is a valid filter; at worst it matches nothing.
- Matching one message is bounded work, whatever its size, and needs no Textual.

``deploy from:bob -via:repair "two words"``: a term matches anywhere, ``field:term`` in that field,
and a leading ``-`` negates. Case is ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from grapevine_proto.events import Message
from grapevine_proto.ids import PeerId
from grapevine_proto.tags import tag_texts
from grapevine_proto.topics import TopicPatterns, pattern_fault, topic_patterns
from grapevine_tui.history.terms import MATCH_ALL as MATCH_ALL
from grapevine_tui.history.terms import TIME_FIELDS, Term, parse_comparison
from grapevine_tui.history.terms import Query as Query
from grapevine_tui.history.terms import parse_query as parse_query
from grapevine_tui.host.model import Model

MAX_SEARCHED_BYTES: Final = 16 * 1024  # of a payload: more than a screen shows


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
    # Times select from the history; what arrives now is newer than any of them.
    terms = [each for each in query.terms if each.field not in TIME_FIELDS]
    checks = [(_compile_term(term, model), term.is_negated) for term in terms]
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
        case "tag":
            return lambda message: text in format_tags(model.tags_of(message.origin)).lower()
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
        case "hops" | "bytes" if (compares := parse_comparison(text)) is not None:
            if term.field == "hops":
                return lambda message: compares(message.hops)
            return lambda message: compares(len(message.payload))
        case field:
            return _compile_payload_term(f"{field}:{text}" if field else text, model)


def format_tags(tags: Mapping[str, str]) -> str:
    """``name=value`` of each tag, in one line, unescaped."""
    return " ".join(tag_texts(tags))


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
