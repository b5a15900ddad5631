"""The arguments of a query, validated.

Invariants: a request that exists can be encoded in one rumor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from grapevine_proto.config.validate import payload_bytes
from grapevine_proto.errors import InvalidArgument, MessageTooLarge
from grapevine_proto.overlay.query.filters import ALL_MEMBERS, MemberFilter
from grapevine_proto.wire.attributes import MAX_RUMOR_ATTRIBUTES_BYTES, rumor_attributes
from grapevine_proto.wire.query_terms import (
    ASK_ALL,
    MAX_DEADLINE_MS,
    MAX_LARGE_ANSWER_BYTES,
    MAX_NAME_BYTES,
    MAX_QUESTION_BYTES,
    QueryTerms,
)

ASKED_LIMIT: Final = 1024  # members of one query; above that a sample is asked
STALL_S: Final = 1.0
MIN_TIMEOUT_S: Final = 2.0
TIMEOUT_PER_MAGNITUDE_S: Final = 1.0  # for each power of ten of the members
MAX_TIMEOUT_S: Final = MAX_DEADLINE_MS / 1000


@dataclass(frozen=True, slots=True)
class QueryRequest:
    """A query before it has an ID. Raises InvalidArgument, or MessageTooLarge for the payload.

    Args:
        name: names the handler; 1 to 64 bytes.
        payload: at most 8 KiB.
        filter: which members are asked.
        timeout_s: seconds until the query ends; None: 2 s and 1 s for each power of ten of the members.
        limit: the query ends after this many answers; None: after all.
        sample: about how many of the matching members are asked; None: all, at most 1,024.
        stall_s: the query ends this many seconds after the last answer, unless a member is working on one.
        max_answer_bytes: larger answers are not sent.
    """

    name: str
    payload: bytes = b""
    filter: MemberFilter = ALL_MEMBERS
    timeout_s: float | None = None
    limit: int | None = None
    sample: int | None = None
    stall_s: float = STALL_S
    max_answer_bytes: int = MAX_LARGE_ANSWER_BYTES

    def __post_init__(self) -> None:
        check_query_name(self.name)
        object.__setattr__(self, "payload", payload_bytes(self.payload))
        if len(self.payload) > MAX_QUESTION_BYTES:
            raise MessageTooLarge(len(self.payload), MAX_QUESTION_BYTES)
        if not isinstance(self.filter, MemberFilter):
            raise InvalidArgument(
                f"filter: expected a MemberFilter, not {type(self.filter).__name__}"
            )
        if self.timeout_s is not None:
            _check_seconds("timeout", self.timeout_s, MAX_TIMEOUT_S)
        _check_seconds("stall", self.stall_s, math.inf)
        for name, value in (("limit", self.limit), ("sample", self.sample)):
            if value is not None and (type(value) is not int or value < 1):
                raise InvalidArgument(f"{name}: expected a whole number from 1, not {value!r}")
        limit_bytes = self.max_answer_bytes
        if type(limit_bytes) is not int or not 1 <= limit_bytes <= MAX_LARGE_ANSWER_BYTES:
            raise InvalidArgument(
                f"max_answer_bytes: expected 1 to {MAX_LARGE_ANSWER_BYTES}, not {limit_bytes!r}"
            )
        if len(rumor_attributes(query=self.to_terms(1))) > MAX_RUMOR_ATTRIBUTES_BYTES:
            raise InvalidArgument("filter: too many bytes in its IDs and tags")

    @property
    def wanted_members(self) -> int:
        """How many of the members that match are asked, at most."""
        return min(self.sample or ASKED_LIMIT, ASKED_LIMIT)

    def to_terms(self, matching: int) -> QueryTerms:
        """Returns the terms for a cluster with `matching` members that the filter admits."""
        timeout_s = self.timeout_s
        if timeout_s is None:
            magnitude = math.ceil(math.log10(max(matching, 1)))
            timeout_s = MIN_TIMEOUT_S + TIMEOUT_PER_MAGNITUDE_S * magnitude
        wanted = self.wanted_members
        share = ASK_ALL if matching <= wanted else max(ASK_ALL * wanted // matching, 1)
        return QueryTerms(
            self.name,
            max(round(timeout_s * 1000), 1),
            self.max_answer_bytes,
            share,
            self.filter.to_clauses(),
        )


def check_query_name(name: object) -> None:
    """Raises InvalidArgument unless `name` is text of 1 to 64 bytes."""
    if not isinstance(name, str):
        raise InvalidArgument(f"name: expected text, not {type(name).__name__}")
    try:
        size_bytes = len(name.encode())
    except UnicodeEncodeError:
        raise InvalidArgument(f"name: {name!r} is not valid Unicode") from None
    if not 1 <= size_bytes <= MAX_NAME_BYTES:
        raise InvalidArgument(f"name: expected 1 to {MAX_NAME_BYTES} bytes, got {size_bytes}")


def _check_seconds(name: str, value: object, high: float) -> None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 < value <= high:  # type: ignore[operator]
        raise InvalidArgument(f"{name}: expected seconds above 0, at most {high:g}; got {value!r}")
