"""Terms of a query: what is encoded is decoded, and what makes no sense is not understood."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grapevine_proto.wire.attributes import (
    MAX_RUMOR_ATTRIBUTES_BYTES,
    QUERY,
    encode_attributes,
    parse_rumor_attributes,
    rumor_attributes,
)
from grapevine_proto.wire.query_terms import (
    ASK_ALL,
    IDS_CLAUSE,
    MAX_DEADLINE_MS,
    MAX_ID_PREFIXES,
    MAX_LARGE_ANSWER_BYTES,
    MAX_QUESTION_BYTES,
    TAG_CLAUSE,
    ZONE_CLAUSE,
    Clause,
    QueryTerms,
)

clauses = st.one_of(
    st.binary(min_size=4, max_size=4).map(lambda each: Clause(IDS_CLAUSE, each * 3)),
    st.text(max_size=16).map(lambda each: Clause(ZONE_CLAUSE, each.encode())),
    st.lists(st.text(max_size=8), min_size=1, max_size=3).map(
        lambda texts: Clause(TAG_CLAUSE, tuple(text.encode() for text in texts))
    ),
    st.builds(Clause, st.integers(TAG_CLAUSE + 1, 255), st.binary(max_size=8) | st.integers(0, 9)),
)
terms = st.builds(
    QueryTerms,
    st.text(min_size=1, max_size=16),
    st.integers(1, MAX_DEADLINE_MS),
    st.integers(1, MAX_LARGE_ANSWER_BYTES),
    st.integers(1, ASK_ALL),
    st.lists(clauses, max_size=4).map(tuple),
)


@given(terms)
def test_encoded_terms_are_decoded_to_the_same(each: QueryTerms) -> None:
    known = parse_rumor_attributes(rumor_attributes(query=each))
    assert (known.query, known.unsupported) == (each, 0)


def test_terms_have_documented_bytes() -> None:
    each = QueryTerms("up", 5000, 65_536, ASK_ALL, (Clause(ZONE_CLAUSE, b"eu"),))
    assert rumor_attributes(query=each).hex() == (
        "92cc83" + "95c4027570" + "cd1388" + "ce00010000" + "cdffff" + "9192" + "02" + "c4026575"
    )


def test_the_largest_filter_of_this_version_fits_the_attributes() -> None:
    ids = Clause(IDS_CLAUSE, bytes(4 * MAX_ID_PREFIXES))
    largest = QueryTerms(
        "n" * 64,
        MAX_DEADLINE_MS,
        MAX_LARGE_ANSWER_BYTES,
        ASK_ALL,
        (ids, Clause(ZONE_CLAUSE, b"z" * 64)),
    )
    assert len(rumor_attributes(query=largest)) <= MAX_RUMOR_ATTRIBUTES_BYTES


VALID = (b"up", 5000, 100, ASK_ALL, ())


@pytest.mark.parametrize(
    ("most", "beyond"),
    [
        ((b"n" * 64, *VALID[1:]), (b"n" * 65, *VALID[1:])),
        ((b"up", 60_000, *VALID[2:]), (b"up", 60_001, *VALID[2:])),
        ((b"up", 1, 65_536, *VALID[3:]), (b"up", 1, 65_537, *VALID[3:])),
        ((b"up", 1, 1, 65_535, ()), (b"up", 1, 1, 65_536, ())),
        ((*VALID[:4], ((255, b""),) * 8), (*VALID[:4], ((255, b""),) * 9)),
        ((*VALID[:4], ((255, b""),)), (*VALID[:4], ((256, b""),))),
        ((*VALID[:4], ((1, bytes(4 * 64)),)), (*VALID[:4], ((1, bytes(4 * 65)),))),
        ((*VALID[:4], ((2, b"z" * 64),)), (*VALID[:4], ((2, b"z" * 65),))),
        ((*VALID[:4], ((3, (b"n" * 32,)),)), (*VALID[:4], ((3, (b"n" * 33,)),))),
        ((*VALID[:4], ((3, (b"n", b"v" * 128)),)), (*VALID[:4], ((3, (b"n", b"v" * 129)),))),
        ((*VALID[:4], ((3, (b"n",) * 17),)), (*VALID[:4], ((3, (b"n",) * 18),))),
    ],
)
def test_terms_at_their_documented_limits_are_understood_and_beyond_them_not(
    most: tuple[Any, ...], beyond: tuple[Any, ...]
) -> None:
    assert QueryTerms.from_value(most).to_value() == most
    with pytest.raises(ValueError, match="not "):
        QueryTerms.from_value(beyond)


@pytest.mark.parametrize(
    "value",
    [
        None,
        7,
        (),
        VALID[:4],
        (*VALID, 1),
        (b"", *VALID[1:]),
        (b"\xff", *VALID[1:]),
        (7, *VALID[1:]),
        (b"up", 0, *VALID[2:]),
        (b"up", True, *VALID[2:]),
        (b"up", 1, 0, *VALID[3:]),
        (b"up", 1, 1, 0, ()),
        (*VALID[:4], None),
        (*VALID[:4], (7,)),
        (*VALID[:4], ((7,),)),
        (*VALID[:4], ((0, b""),)),
        (*VALID[:4], ((IDS_CLAUSE, b""),)),
        (*VALID[:4], ((IDS_CLAUSE, bytes(1)),)),
        (*VALID[:4], ((IDS_CLAUSE, bytes(5)),)),
        (*VALID[:4], ((IDS_CLAUSE, 7),)),
        (*VALID[:4], ((ZONE_CLAUSE, b"\xff"),)),
        (*VALID[:4], ((ZONE_CLAUSE, 7),)),
        (*VALID[:4], ((TAG_CLAUSE, b"role"),)),
        (*VALID[:4], ((TAG_CLAUSE, ()),)),
        (*VALID[:4], ((TAG_CLAUSE, (7,)),)),
        (*VALID[:4], ((TAG_CLAUSE, (b"\xff",)),)),
    ],
)
def test_terms_that_make_no_sense_keep_the_rumor_from_being_understood(value: object) -> None:
    known = parse_rumor_attributes(encode_attributes({QUERY: value}))
    assert (known.query, known.unsupported) == (None, QUERY)


def test_several_clauses_with_ids_name_those_that_are_in_all() -> None:
    first, second = Clause(IDS_CLAUSE, b"aaaabbbb"), Clause(IDS_CLAUSE, b"bbbbcccc")
    assert QueryTerms("up", 1).id_prefixes is None
    assert QueryTerms("up", 1, clauses=(first,)).id_prefixes == frozenset((b"aaaa", b"bbbb"))
    assert QueryTerms("up", 1, clauses=(first, second)).id_prefixes == frozenset((b"bbbb",))


def test_a_question_has_at_most_eight_kibibytes() -> None:
    assert MAX_QUESTION_BYTES == 8192
