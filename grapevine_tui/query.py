"""What one types to find lines: words that must all be there, some of them of one field alone.

What must stay true:

- Every text is a query; nothing one types can be wrong, at worst it finds nothing.
- Matching one message is bounded work, whatever its size, and needs no Textual.

``deploy from:bob -via:repair "two words"``: a word is looked for everywhere, ``field:word`` in that
field, ``-`` before either wants it absent. Case does not matter.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from grapevine_proto.events import Message
from grapevine_proto.ids import PeerId
from grapevine_tui.model import Model

SEARCHED_BYTES: Final = 16 * 1024  # of a payload: what one could have seen of it, and more
_TERM: Final = re.compile(r'(-?)(?:(\w+):)?(?:"([^"]*)"?|(\S*))')


class Term(NamedTuple):
    """`field` is empty for a word that may be anywhere; `word` is lower-case."""

    field: str
    word: str
    is_absent: bool


class Query(NamedTuple):
    """All of `terms` must hold. `text` is what was typed."""

    text: str
    terms: tuple[Term, ...]

    def __bool__(self) -> bool:
        return bool(self.terms)


EVERYTHING: Final = Query("", ())


def parse(text: str) -> Query:
    """What `text` asks for."""
    terms = []
    for found in _TERM.finditer(text):
        sign, field, quoted, plain = found.groups()
        word = quoted if quoted is not None else plain or ""
        if word or field:
            terms.append(Term((field or "").lower(), word.lower(), bool(sign)))
    return Query(text.strip(), tuple(terms))


def matches_fields(query: Query, fields: Mapping[str, str]) -> bool:
    """Whether a row of a table, lower-case texts by column, is wanted. A field that the table has
    not is part of the word."""
    for field, word, is_absent in query.terms:
        if field in fields:
            holds = word in fields[field]
        else:
            wanted = f"{field}:{word}" if field else word
            holds = any(wanted in text for text in fields.values())
        if holds is is_absent:
            return False
    return True


def message_test(query: Query, model: Model) -> Callable[[Message], bool]:
    """A test for messages. Names and zones are as they are known when it is asked."""
    checks = [(_message_check(term, model), term.is_absent) for term in query.terms]
    return lambda message: all(check(message) is not absent for check, absent in checks)


def _message_check(term: Term, model: Model) -> Callable[[Message], bool]:
    word = term.word
    match term.field:
        case "to":
            return lambda message: message.to is not None and _is_named(model, message.to, word)
        case "from":
            return lambda message: (
                word in model.name_of(message.origin).lower()
                or (len(word) >= 4 and str(message.origin).startswith(word))
            )
        case "via":
            return lambda message: message.via.value.startswith(word)
        case "zone":
            return lambda message: word in _zone(model, message)
        case "private" | "direct":
            wanted = word not in ("no", "false", "0")
            return lambda message: message.private is wanted
        case "id":
            return lambda message: str(message.id).startswith(word)
        case field:
            return _payload_check(f"{field}:{word}" if field else word, model)


def _is_named(model: Model, peer_id: PeerId, word: str) -> bool:
    return word in model.name_of(peer_id).lower() or (
        len(word) >= 4 and str(peer_id).startswith(word)
    )


def _payload_check(word: str, model: Model) -> Callable[[Message], bool]:
    if word.isascii():
        # Bytes are enough, and seven times as fast as decoding first.
        raw = word.encode()
        return lambda message: (
            raw in message.payload[:SEARCHED_BYTES].lower()
            or word in model.name_of(message.origin).lower()
        )
    return lambda message: (
        word in message.payload[:SEARCHED_BYTES].decode(errors="replace").lower()
        or word in model.name_of(message.origin).lower()
    )


def _zone(model: Model, message: Message) -> str:
    origin = message.origin
    if model.me is not None and origin == model.me.peer_id:
        return ""
    known = model.peers.get(origin) or model.members.get(origin)
    return known.zone.lower() if known is not None else ""
