"""The terms of a query, attribute 131 of the rumor that asks it: name, deadline, limit, share and filter.

Invariants:

- What is encoded is decoded to the same terms. A value that makes no sense raises ValueError, and the rumor
  is not understood.
- A clause of a filter is a number and its value. Clauses of numbers that this version does not know are
  kept: they match no member here, and the query is relayed all the same.
- No clause holds an expression to be compiled: a remote one could cost any amount of time.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from grapevine_proto.tags import MAX_TAG_NAME_BYTES, MAX_TAG_VALUE_BYTES

MAX_NAME_BYTES: Final = 64
MAX_DEADLINE_MS: Final = 60_000
MAX_QUESTION_BYTES: Final = 8 * 1024  # its payload: what is pushed and not announced
MAX_LARGE_ANSWER_BYTES: Final = 65_536  # the payload of an answer
MAX_CLAUSES: Final = 8
MAX_CLAUSE_NUMBER: Final = 255
ASK_ALL: Final = (1 << 16) - 1  # the share that asks every member

IDS_CLAUSE: Final = 1  # ID prefixes, joined
ZONE_CLAUSE: Final = 2  # a zone in UTF-8
TAG_CLAUSE: Final = 3  # (name, value, ...) in UTF-8: one of the values; without values, any
PREFIX_BYTES: Final = 4
MAX_ID_PREFIXES: Final = 64
MAX_ZONE_BYTES: Final = 64
MAX_TAG_VALUES: Final = 16  # of one clause


_TAG_LIMITS: Final = (MAX_TAG_NAME_BYTES, *(MAX_TAG_VALUE_BYTES,) * MAX_TAG_VALUES)


class Clause(NamedTuple):
    """One condition of a filter. `value` is of any type that an attribute may have."""

    number: int
    value: Any


class QueryTerms(NamedTuple):
    """What a query asks, of whom, and until when. All clauses must hold; none asks every member.

    `deadline_ms` counts from the broadcast. `share` is the share of members that are asked, out of `ASK_ALL`.
    """

    name: str
    deadline_ms: int
    max_answer_bytes: int = MAX_LARGE_ANSWER_BYTES
    share: int = ASK_ALL
    clauses: tuple[Clause, ...] = ()

    def to_value(self) -> tuple[Any, ...]:
        """Returns the value of the attribute."""
        clauses = tuple((number, value) for number, value in self.clauses)
        return self.name.encode(), self.deadline_ms, self.max_answer_bytes, self.share, clauses

    @classmethod
    def from_value(cls, value: Any) -> QueryTerms:
        """Returns the terms in a decoded attribute. Raises ValueError."""
        if type(value) is not tuple or len(value) != 5:
            raise ValueError("not the terms of a query")
        name, deadline_ms, max_answer_bytes, share, clauses = value
        if type(name) is not bytes or not 1 <= len(name) <= MAX_NAME_BYTES:
            raise ValueError("not a name")
        if type(clauses) is not tuple or len(clauses) > MAX_CLAUSES:
            raise ValueError("not a filter")
        return cls(
            name.decode(),
            _positive(deadline_ms, MAX_DEADLINE_MS),
            _positive(max_answer_bytes, MAX_LARGE_ANSWER_BYTES),
            _positive(share, ASK_ALL),
            tuple(map(_decode_clause, clauses)),
        )

    @property
    def id_prefixes(self) -> frozenset[bytes] | None:
        """The ID prefixes of the members that are asked; None: any."""
        found: frozenset[bytes] | None = None
        for number, value in self.clauses:
            if number == IDS_CLAUSE:
                starts = range(0, len(value), PREFIX_BYTES)
                prefixes = frozenset(value[at : at + PREFIX_BYTES] for at in starts)
                found = prefixes if found is None else found & prefixes
        return found


def _positive(value: Any, limit: int) -> int:
    if type(value) is not int or not 1 <= value <= limit:
        raise ValueError("not a number in range")
    return value


def _decode_clause(fields: Any) -> Clause:
    if type(fields) is not tuple or len(fields) != 2:
        raise ValueError("not a clause")
    number, value = fields
    _positive(number, MAX_CLAUSE_NUMBER)
    if number == IDS_CLAUSE:
        if type(value) is not bytes or len(value) % PREFIX_BYTES:
            raise ValueError("not ID prefixes")
        _positive(len(value) // PREFIX_BYTES, MAX_ID_PREFIXES)
    if number == ZONE_CLAUSE:
        if type(value) is not bytes or len(value) > MAX_ZONE_BYTES:
            raise ValueError("not a zone")
        value.decode()
    if number == TAG_CLAUSE:
        if type(value) is not tuple or not 1 <= len(value) <= 1 + MAX_TAG_VALUES:
            raise ValueError("not a tag")
        for text, limit_bytes in zip(value, _TAG_LIMITS, strict=False):
            if type(text) is not bytes or len(text) > limit_bytes:
                raise ValueError("not a tag")
            text.decode()
    return Clause(number, value)
