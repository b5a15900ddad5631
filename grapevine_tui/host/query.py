"""Filters that users type: terms that must all match, some of them in one field only.

Invariants:

- Every text is a valid filter; at worst it matches nothing.
- Matching one message is bounded work, whatever its size, and needs no Textual.

``deploy from:bob -via:repair "two words"``: a term matches anywhere, ``field:term`` in that field,
and a leading ``-`` negates. Case is ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from grapevine_proto.events import Message
from grapevine_proto.tags import tag_texts
from grapevine_proto.topics import topic_patterns
from grapevine_tui.history.terms import MATCH_ALL as MATCH_ALL
from grapevine_tui.history.terms import MessageFields, Term, compile_terms
from grapevine_tui.history.terms import Query as Query
from grapevine_tui.history.terms import parse_query as parse_query
from grapevine_tui.host.model import Model


def matches_row(query: Query, fields: Mapping[str, str]) -> bool:
    """Return whether a table row, lowercase texts by column, matches. An unknown field is taken as
    part of the term.
    """
    return all(
        any(_matches_term(each, fields) for each in term.alternatives) is not term.is_negated
        for term in query.terms
    )


def _matches_term(term: Term, fields: Mapping[str, str]) -> bool:
    if term.is_regex:
        regex = term.regex
        searched = fields[term.field] if term.field in fields else "\n".join(fields.values())
        return regex is not None and regex.search(searched.encode()) is not None
    if term.field in fields:
        return term.text in fields[term.field]
    needle = f"{term.field}:{term.text}" if term.field else term.text
    return any(needle in text for text in fields.values())


def compile_filter(query: Query, model: Model) -> Callable[[Message], bool]:
    """Compile a test for messages. Names and zones are those known when the test runs."""
    return compile_terms(query, _fields(model))


def _fields(model: Model) -> MessageFields[Message]:
    def recipient_name(message: Message) -> str:
        return "" if message.to is None else model.searched_name_of(message.to)

    return MessageFields(
        message=lambda message: message,
        author_name=lambda message: model.searched_name_of(message.origin),
        recipient_name=recipient_name,
        zone=lambda message: _zone_of(model, message),
        size_bytes=lambda message: len(message.payload),
        tags=lambda message: model.tags_of(message.origin),
    )


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


def _zone_of(model: Model, message: Message) -> str:
    origin = message.origin
    if model.local_node is not None and origin == model.local_node.peer_id:
        return ""
    known = model.peers.get(origin) or model.members.get(origin)
    return known.zone if known is not None else ""
