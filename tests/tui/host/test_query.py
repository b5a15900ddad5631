"""What one types to find lines finds them, and nothing one types is wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grapevine_proto.events import Message, Stats, Via
from grapevine_tui.app.widgets.message_filter import MAX_SYNC_S, TESTS_PER_SYNC, FilteredView
from grapevine_tui.host.message_buffer import MessageBuffer
from grapevine_tui.host.model import Model
from grapevine_tui.host.query import compile_filter, complete_topic, matches_row, parse_query
from tests.tui.values import a_message, a_peer, an_id


def model() -> Model:
    made = Model()
    made.refresh([a_peer(1, "Bob"), a_peer(2, "carol", zone="us-east")], [], Stats(), 1.0)
    return made


@pytest.mark.parametrize(
    ("text", "is_found"),
    [
        ("", True), ("deploy", True), ("DEPLOY of", True), ("deploy nothing", False),
        ('"deploy of"', True), ('"of deploy"', False), ("-deploy", False), ("-nothing", True),
        ("from:bob", True), ("bob", True), ("from:carol", False), ("-from:carol deploy", True),
        (f"from:{an_id(1)}", True), ("via:rep", True), ("via:push", False), ("zone:eu", True),
        ("zone:us", False), ("private:", False), ("private:no", True), ("über", True), ("ÜBER", True),
        (f"id:{an_id(1)}", True), ("10:30", True), ("x:30", False), ('"unclosed', False), ("-", True),
    ],
)  # fmt: skip
def test_a_message_matches_by_text_and_fields(text: str, is_found: bool) -> None:
    message = a_message(1, 1, "Deploy of api at 10:30 über".encode(), via=Via.REPAIR)
    assert compile_filter(parse_query(text), model())(message) is is_found


@pytest.mark.parametrize(
    ("via", "terms"),
    [
        (Via.EAGER, ("via:push", "via:eager")),
        (Via.LAZY, ("via:pull", "via:lazy", "via:pu")),
        (Via.LOCAL, ("via:sent", "via:local")),
        (Via.REPAIR, ("via:repair", "via:rep")),
    ],
)
def test_a_filter_knows_the_words_of_the_screens_and_those_of_the_protocol(
    via: Via, terms: tuple[str, ...]
) -> None:
    message = a_message(1, 1, via=via)
    for term in terms:
        assert compile_filter(parse_query(term), model())(message), term
    assert not compile_filter(parse_query("via:cache"), model())(message)


def test_an_expression_may_match_either_word() -> None:
    pushed = a_message(1, 1, via=Via.EAGER)
    for term in ("via:/^push$/", "via:/^eager$/", "via:/pull|push/"):
        assert compile_filter(parse_query(term), model())(pushed), term
    assert not compile_filter(parse_query("via:/sent/"), model())(pushed)


def test_the_direct_term_matches_direct_messages_only() -> None:
    message = a_message(1, 1)._replace(is_direct=True)
    assert compile_filter(parse_query("private:"), model())(message)
    assert not compile_filter(parse_query("private:no"), model())(message)


@pytest.mark.parametrize(
    ("text", "is_found"),
    [("eu", True), ("zone:eu", True), ("peer:eu", False), ("10.0.0.1:8000", True), ("-zone:eu", False)],
)  # fmt: skip
def test_a_row_is_found_by_its_columns(text: str, is_found: bool) -> None:
    fields = {"peer": "bob", "zone": "eu-west", "address": "10.0.0.1:8000"}
    assert matches_row(parse_query(text), fields) is is_found


@given(st.text(max_size=200), st.binary(max_size=100))
def test_every_text_is_a_query(text: str, payload: bytes) -> None:
    query = parse_query(text)
    compile_filter(query, model())(a_message(1, 1, payload))
    matches_row(query, {"peer": "x"})


def filled(count: int, most: int) -> MessageBuffer:
    log = MessageBuffer(most)
    for number in range(count):
        log.append(a_message(1, number, b"x%d" % (number % 10)), 0.0)
    return log


@given(st.integers(0, 60), st.integers(1, 30), st.integers(0, 60))
def test_lines_name_the_matching_messages_while_messages_come_and_go(
    before: int, most: int, after: int
) -> None:
    log = filled(before, most)
    view = FilteredView(log)
    view.set_filter(lambda message: message.payload == b"x3")
    view.sync()
    shown = len(view)
    for number in range(before, before + after):
        log.append(a_message(1, number, b"x%d" % (number % 10)), 0.0)
    evicted = view.sync()
    right = [each.number for each in log.since(log.first) if each.message.payload == b"x3"]
    assert [entry.number for entry in view.entries()] == right
    assert [view.line_of(number) for number in right] == list(range(len(right)))
    assert view.number_at(len(right)) is None
    assert evicted <= shown
    view.set_filter(None)
    view.sync()
    assert len(view) == len(log)


def test_a_full_ring_is_searched_in_steps() -> None:
    view = FilteredView(filled(TESTS_PER_SYNC + 5, 10_000))
    view.set_filter(lambda message: True)
    view.sync()
    first = len(view)
    view.sync()
    assert (first, len(view)) == (TESTS_PER_SYNC, TESTS_PER_SYNC + 5)
    assert not view.is_behind


def test_a_slow_filter_is_applied_for_a_bounded_time_in_each_step() -> None:
    now = 0.0

    def slow(message: Message) -> bool:
        nonlocal now
        now += MAX_SYNC_S / 4
        return True

    view = FilteredView(filled(20, 100), clock=lambda: now)
    view.set_filter(slow)
    view.sync()
    assert len(view) == 5
    while view.is_behind:
        view.sync()
    assert len(view) == 20


@pytest.mark.parametrize(
    ("text", "completed"),
    [
        ("topic:d", "topic:deploy.>"),
        ("topic:deploy.w", "topic:deploy.web"),
        ("from:bob -topic:m", "from:bob -topic:metrics"),
        ("topic:", "topic:deploy.>"),
        ("topic:deploy.web", "topic:deploy.web"),
        ("topic:x", "topic:x"),
        ("topic:d from:bob", "topic:d from:bob"),
        ("mytopic:d", "mytopic:d"),
        ("d", "d"),
    ],
)
def test_the_topic_at_the_end_of_a_filter_is_completed(text: str, completed: str) -> None:
    assert complete_topic(text, ("deploy.web", "deploy.db", "metrics")) == completed
