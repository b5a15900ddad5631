"""Queries: who is asked, which answers count, when a query ends, and what malicious members can do."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from grapevine_proto.errors import DropReason, NoMatchingMember, TooManyQueries
from grapevine_proto.events import AnswerStatus, MemberStatus, QueryEnd
from grapevine_proto.overlay.effects import CountDrop, Effect, Send
from grapevine_proto.overlay.query.filters import MemberFilter
from grapevine_proto.overlay.reverse_paths import ROUTE_MIN_LIFETIME_S, ROUTES_PER_ORIGIN
from grapevine_proto.wire.messages import AnswerAck, AnswerFetch, Answers, RumorCopy
from grapevine_proto.wire.query_terms import MAX_QUESTION_BYTES, QueryTerms
from grapevine_proto.wire.signed import AnswerCode, LargeAnswer, QueryAnswer
from tests.proto.overlay import timeline
from tests.proto.overlay.builders import peer_id, record
from tests.proto.overlay.query.asking import (
    FAR,
    ORIGIN,
    OUR_NUMBER,
    OURS,
    TERMS,
    Node,
    answer_of,
    answers_in,
    ends_in,
    forged,
    message_id,
    question,
    questions_in,
)

ACKED = Send((peer_id(1),), AnswerAck(7))
FORGED = CountDrop(peer_id(1), DropReason.BAD_SIGNATURE)
OTHERS = MemberFilter(zone="")  # everybody but a node of another zone


# --- being asked --------------------------------------------------------------------------------


def test_a_question_reaches_the_application_with_the_time_that_is_left() -> None:
    node = Node()
    (asked,) = questions_in(node.queries.on_rumor(question(), [peer_id(1)], 3.0))
    assert (asked.id, asked.name, asked.payload) == (message_id(), "up", b"?")
    assert (asked.remaining_s, asked.hops, asked.origin) == (4.93, 2, peer_id(ORIGIN))


def test_an_answer_takes_the_reverse_path_soon() -> None:
    node = Node()
    node.queries.on_rumor(question(), [peer_id(3)], 3.0)
    node.queries.answer(message_id(), 0, AnswerStatus.ANSWERED, b"yes", 3.5)
    at, target, message = node.sent()[0]
    assert 3.5 <= at <= 3.6
    assert target == peer_id(3)
    (ours,) = message.answers
    assert (ours.member, ours.hops, ours.delay_ms) == (OURS, 2, 70)
    assert (ours.status, ours.payload) == (AnswerCode.ANSWER, b"yes")
    assert ours.is_authentic("default", message_id())
    assert not ours.is_authentic("default", message_id(2))


@pytest.mark.parametrize(
    ("status", "code"),
    [(AnswerStatus.REFUSED, AnswerCode.REFUSED), (AnswerStatus.FAILED, AnswerCode.FAILED)],
)
def test_a_refusal_and_a_failure_are_answers_too(status: AnswerStatus, code: AnswerCode) -> None:
    node = Node()
    node.queries.on_rumor(question(), [peer_id(3)], 3.0)
    node.queries.acknowledge(message_id(), 0, 3.1)
    node.queries.answer(message_id(), 0, status, b"why", 3.2)
    first = node.sent(until=3.3)[0][2]
    assert len(first.answers) == 2
    assert [(each.status, each.payload) for each in first.answers] == [
        (AnswerCode.ACK, b""),
        (code, b"why"),
    ]


@pytest.mark.parametrize(
    "terms",
    [
        QueryTerms("up", 70),  # its deadline has passed on the way
        QueryTerms("up", 5000, share=1),
        QueryTerms("up", 5000, clauses=MemberFilter(zone="us").to_clauses()),
        QueryTerms("up", 5000, clauses=MemberFilter(ids=(peer_id(FAR),)).to_clauses()),
    ],
)
def test_a_member_that_is_not_asked_relays_answers_and_runs_nothing(terms: QueryTerms) -> None:
    node = Node(zone="eu")
    assert node.queries.on_rumor(question(terms=terms), [peer_id(3)], 0.0) == []
    if terms.share > 1:
        assert node.receive(1, message_id(), answer_of(FAR, message_id())) == [ACKED]
        assert [each.member for each in node.sent()[0][2].answers] == [peer_id(FAR)]
    node.queries.answer(message_id(), 0, AnswerStatus.ANSWERED, b"yes", 0.0)
    assert node.queries.refused == 1


@pytest.mark.parametrize("payloads", [(b"a", b"b"), (bytes(MAX_QUESTION_BYTES + 1),)])
def test_a_rumor_that_is_no_single_small_question_asks_nobody(payloads: tuple[bytes, ...]) -> None:
    node = Node()
    assert node.queries.on_rumor(question(payloads=payloads), [peer_id(3)], 0.0) == []
    assert node.queries.refused == 1


def test_more_questions_of_one_origin_than_have_a_route_ask_nobody() -> None:
    node = Node()
    for sequence in range(1, ROUTES_PER_ORIGIN + 1):
        assert node.queries.on_rumor(question(sequence), [peer_id(3)], 0.0)
    assert node.queries.on_rumor(question(100), [peer_id(3)], 0.0) == []
    assert node.queries.refused == 1
    assert node.queries.on_rumor(question(100, origin=91), [peer_id(3)], 0.0)


def test_a_route_that_nobody_waits_for_is_evicted_before_its_minimum_lifetime() -> None:
    node = Node()
    node.queries.on_rumor(question(1, terms=QueryTerms("up", 1000)), [peer_id(3)], 0.0)
    for sequence in range(2, ROUTES_PER_ORIGIN + 1):
        node.queries.on_rumor(question(sequence), [peer_id(3)], 0.0)
    assert node.queries.on_rumor(question(100), [peer_id(3)], 0.9) == []
    assert node.queries.on_rumor(question(101), [peer_id(3)], 1.0)


def test_a_question_is_asked_until_the_last_millisecond() -> None:
    for age_ms, is_asked in ((59_999, True), (60_000, False)):
        copy = question(terms=QueryTerms("up", 60_000), age_ms=age_ms)
        assert bool(Node().queries.on_rumor(copy, [peer_id(3)], 0.0)) is is_asked


def test_the_largest_question_is_asked() -> None:
    copy = question(payloads=(bytes(8192),))
    assert questions_in(Node().queries.on_rumor(copy, [peer_id(3)], 0.0))


def test_a_rumor_of_this_node_or_without_a_question_asks_nobody() -> None:
    node = Node()
    assert node.queries.on_rumor(question(origin=OUR_NUMBER), [peer_id(1)], 0.0) == []
    message = replace(question().rumor, attributes=b"")
    assert node.queries.on_rumor(RumorCopy(message, 1, 0), [peer_id(1)], 0.0) == []
    node.queries.on_duplicate(message, peer_id(2))
    assert (node.queries.deadline, node.queries.refused) == (math.inf, 0)


@pytest.mark.parametrize(("members", "spread_s"), [(0, 0.0003), (9, 0.003), (400, 0.1)])
def test_answers_spread_over_a_time_that_grows_with_the_cluster(
    members: int, spread_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node(members=members)
    monkeypatch.setattr(node.queries._rng, "random", lambda: 0.5)
    node.queries.on_rumor(question(), [peer_id(3)], 3.0)
    node.queries.answer(message_id(), 0, AnswerStatus.ANSWERED, b"yes", 3.5)
    assert node.queries.deadline == pytest.approx(3.5 + spread_s / 2)


def test_a_peer_that_repeats_the_question_is_another_path() -> None:
    node = Node()
    asked = question()
    node.queries.on_rumor(asked, [peer_id(3)], 0.0)
    node.queries.on_duplicate(asked.rumor, peer_id(2))
    node.queries.answer(message_id(), 0, AnswerStatus.ANSWERED, b"yes", 0.0)
    assert [target for _, target, _ in node.sent()][:5] == [peer_id(3)] * 4 + [peer_id(2)]


@pytest.mark.parametrize(("rtt_s", "retry_s"), [(0.01, 0.08), (0.2, 0.3), (1.0, 0.5)])
def test_an_answer_is_repeated_after_one_and_a_half_round_trips_within_bounds(
    rtt_s: float, retry_s: float
) -> None:
    node = Node(links=0)
    timeline.link(node.peers, 3, rtt_s)
    node.queries.on_rumor(question(), [peer_id(3)], 0.0)
    node.queries.answer(message_id(), 0, AnswerStatus.ANSWERED, b"yes", 0.0)
    first, second, *_ = [at for at, _, _ in node.sent()]
    assert second - first == pytest.approx(retry_s)


def test_an_acknowledged_answer_goes_to_any_other_peer_as_well() -> None:
    node = Node()
    node.queries.on_rumor(question(), [peer_id(3)], 0.0)
    node.queries.answer(message_id(), 0, AnswerStatus.ANSWERED, b"yes", 0.0)
    at, target, message = node.sent(until=0.1)[0]
    node.queries.handle(AnswerAck(message.number), target, at)
    again_at, other, repeated = node.sent(until=0.5)[0]
    assert again_at == pytest.approx(at + 0.3)
    assert (other != target, repeated) == (True, message)


# --- forwarding ---------------------------------------------------------------------------------


def test_answers_of_others_are_checked_and_forwarded_each_once() -> None:
    node = Node()
    node.queries.on_rumor(question(), [peer_id(4)], 0.0)
    assert node.receive(1, message_id(), forged(FAR, message_id())) == [FORGED]
    unsigned = answer_of(1, message_id(), is_signed=False)
    assert node.receive(1, message_id(), unsigned) == [FORGED]
    answers = (answer_of(FAR, message_id()), answer_of(FAR, message_id(), index=1))
    for sender in (1, 2):
        node.receive(sender, message_id(), *answers)
    messages = [message for _, _, message in node.sent()]
    assert len({message.number for message in messages}) == 1
    assert [(each.member, each.index, each.relays) for each in messages[0].answers] == [
        (peer_id(FAR), 0, 1),
        (peer_id(FAR), 1, 1),
    ]


def test_an_answer_of_a_member_that_was_not_asked_is_not_forwarded() -> None:
    node = Node()
    terms = QueryTerms("up", 5000, clauses=MemberFilter(ids=(peer_id(FAR),)).to_clauses())
    node.queries.on_rumor(question(terms=terms), [peer_id(4)], 0.0)
    assert node.receive(1, message_id(), answer_of(FAR + 1, message_id())) == [ACKED]
    assert node.queries.refused == 1
    assert node.queries.deadline == math.inf


def test_messages_are_filled_by_count_and_by_bytes() -> None:
    node = Node(is_limited=False)
    node.queries.on_rumor(question(), [peer_id(4)], 0.0)
    small = [answer_of(FAR + n, message_id(), b"") for n in range(20)]
    large = [answer_of(FAR + 50 + n, message_id(), bytes(1024)) for n in range(2)]
    node.receive(1, message_id(), *small, *large)
    _, effects = node.advance()
    messages = [each.message for each in effects if isinstance(each, Send)]
    sizes = [
        [each.size_bytes for each in message.answers]
        for message in messages
        if isinstance(message, Answers)
    ]
    assert sum(map(len, sizes)) == 22
    assert all(len(each) <= 16 for each in sizes)
    assert all(len(each) == 1 or sum(each) <= 1050 for each in sizes)
    assert [each for each in sizes if len(each) == 1] == [[1144], [1144]]


def set_limit(node: Node, name: str, value: int) -> None:
    paths = node.queries.reverse_paths
    assert getattr(paths._limits, name) > 3 * value
    changes: dict[str, Any] = {name: value}
    paths._limits = paths._limits._replace(**changes)


@pytest.mark.parametrize(
    ("limit", "value", "forwarded"),
    [
        ("items_per_route", 3, 3),
        ("items_per_peer", 3, 3),
        ("bytes_per_route", 3 * 123, 3),
        ("bytes_held", 3 * 123, 3),
    ],
)
def test_answers_of_one_query_are_limited(limit: str, value: int, forwarded: int) -> None:
    node = Node()
    set_limit(node, limit, value)
    node.queries.on_rumor(question(), [peer_id(4)], 0.0)
    for number in range(forwarded + 1):
        node.receive(1, message_id(), answer_of(FAR + number, message_id()))
    assert node.queries.reverse_paths.relayed == forwarded
    assert node.queries.refused == 1


def test_of_one_query_1024_answers_are_relayed_and_768_of_one_peer() -> None:
    node = Node(is_limited=False)
    node.queries.on_rumor(question(), [peer_id(4)], 0.0)
    for sender, count, relayed in ((1, 769, 768), (2, 257, 1024)):
        for index in range(count):
            node.receive(sender, message_id(), answer_of(1000 * sender + index, message_id()))
        assert node.queries.reverse_paths.relayed == relayed
    assert node.queries.refused == 2


def test_of_one_query_a_mebibyte_of_answers_is_relayed() -> None:
    node = Node(is_limited=False)
    node.queries.on_rumor(question(), [peer_id(4)], 0.0)
    sizes = []
    for number in range(920):
        answer = answer_of(1000 + number, message_id(), bytes(1024))
        sizes.append(answer.size_bytes)
        node.receive(1 + number % 2, message_id(), answer)
    assert node.queries.reverse_paths.relayed == (1 << 20) // sizes[0]
    assert node.queries.refused == 920 - (1 << 20) // sizes[0]


def test_the_first_32_answers_of_a_query_wait_less_for_others() -> None:
    node = Node(is_limited=False)
    node.queries.on_rumor(question(), [peer_id(4)], 0.0)
    waits_s = []
    for number in range(33):
        now = 0.006 * number
        node.receive(1, message_id(), answer_of(FAR + number, message_id()), at=now)
        at, effects = node.advance()
        waits_s.append(round(at - now, 6))
        for each in effects:
            assert isinstance(each, Send)
            assert isinstance(each.message, Answers)
            node.queries.handle(AnswerAck(each.message.number), peer_id(4), at)
    assert waits_s == [0.005] * 32 + [0.02]


def test_the_bytes_held_are_released_as_answers_arrive() -> None:
    node = Node()
    set_limit(node, "bytes_held", 2 * 123)
    node.link(ORIGIN)
    node.queries.on_rumor(question(), [peer_id(4)], 0.0)
    for number in range(3):
        node.receive(1, message_id(), answer_of(FAR + number, message_id()))
        at, effects = node.advance()
        (send,) = effects
        assert isinstance(send, Send)
        assert isinstance(send.message, Answers)
        node.queries.handle(AnswerAck(send.message.number), peer_id(ORIGIN), at)
    assert node.queries.reverse_paths.relayed == 3
    assert node.queries.reverse_paths._bytes_held == 0


def test_unacknowledged_messages_are_limited() -> None:
    node = Node()
    set_limit(node, "unacked_batches", 2)
    for sequence in range(1, 4):
        node.queries.on_rumor(question(sequence), [peer_id(3)], 0.0)
        node.queries.answer(message_id(sequence), 0, AnswerStatus.ANSWERED, b"yes", 0.0)
    node.queries.advance(0.1)
    assert node.queries.reverse_paths.lost == 1


# --- asking -------------------------------------------------------------------------------------


def test_a_query_asks_all_members_that_are_not_down_and_this_node() -> None:
    node = Node(members=3)
    node.table.add(record(4, left=True), peer_id(1), 0.0)
    down = node.table.get(peer_id(3))
    assert down is not None
    down.set_status(MemberStatus.DOWN, "", 0.0)
    query_id, effects = node.ask()
    (own,) = questions_in(effects)
    assert (own.id, own.hops, own.payload) == (query_id, 0, b"?")
    assert set(node.report(query_id).unanswered) == {peer_id(1), peer_id(2), OURS}


def test_a_query_is_complete_once_every_member_has_answered() -> None:
    node = Node(members=2)
    query_id, _ = node.ask()
    first = node.queries.answer(query_id, 0, AnswerStatus.ANSWERED, b"here", 0.0)
    (own,) = answers_in(first)
    assert (own.peer_id, own.payload, own.hops, own.arrived_ms) == (OURS, b"here", 0, 0)
    unsigned = answer_of(1, query_id, is_signed=False)
    effects = node.receive(1, query_id, unsigned, at=0.1)
    (answer,) = answers_in(effects)
    assert (answer.peer_id, answer.status, answer.payload) == (
        peer_id(1),
        AnswerStatus.ANSWERED,
        b"yes",
    )
    assert (answer.hops, answer.delay_ms, answer.arrived_ms, answer.index) == (3, 40, 100, 0)
    assert ends_in(effects) == []
    refusal = answer_of(2, query_id, b"busy", code=AnswerCode.REFUSED)
    effects = node.receive(1, query_id, refusal, at=0.25)
    (report,) = ends_in(effects)
    assert effects[-1] == ACKED
    assert (report.end, report.name) == (QueryEnd.COMPLETE, "up")
    assert (report.asked, report.answered, report.refused, report.failed) == (3, 2, 1, 0)
    assert (report.unanswered, report.others) == ((), 0)
    assert (report.p50_ms, report.p99_ms, report.last_ms) == (100, 250, 250)
    assert node.queries.deadline == math.inf


def test_the_first_answer_of_each_member_and_index_counts() -> None:
    node = Node(members=3)
    query_id, _ = node.ask(filter=MemberFilter(ids=(peer_id(2), peer_id(3))))
    answers = (
        answer_of(2, query_id, b"one"),
        answer_of(2, query_id, b"two"),
        answer_of(2, query_id, b"three", index=1),
    )
    found = answers_in(node.receive(1, query_id, *answers))
    assert [(each.payload, each.index) for each in found] == [(b"one", 0), (b"three", 1)]
    assert node.receive(3, query_id, answers[0]) == [Send((peer_id(3),), AnswerAck(7))]
    assert node.report(query_id).answered == 1


def test_a_query_ends_with_its_limit_of_answers() -> None:
    node = Node(members=5, zone="other")
    query_id, _ = node.ask(limit=2, filter=OTHERS)
    refusal = answer_of(1, query_id, code=AnswerCode.REFUSED, is_signed=False)
    assert not ends_in(node.receive(1, query_id, refusal))
    assert not ends_in(node.receive(1, query_id, answer_of(2, query_id)))
    (report,) = ends_in(node.receive(1, query_id, answer_of(3, query_id)))
    assert (report.end, report.answered, len(report.unanswered)) == (QueryEnd.LIMIT, 2, 2)
    assert node.receive(1, query_id, answer_of(4, query_id)) == [ACKED]
    assert node.queries.refused == 1


def test_a_query_stalls_a_while_after_the_last_answer() -> None:
    node = Node(members=3, zone="other")
    query_id, _ = node.ask(stall_s=0.5, filter=OTHERS)
    node.receive(1, query_id, answer_of(2, query_id), at=0.1)
    node.receive(1, query_id, answer_of(3, query_id), at=0.4)
    node.queries.advance(0.6)
    at, effects = node.advance()
    assert at == 0.9
    (report,) = ends_in(effects)
    assert (report.end, report.unanswered) == (QueryEnd.STALLED, (peer_id(1),))


def test_a_query_waits_for_a_member_that_works_on_its_answer() -> None:
    node = Node(members=2, zone="other")
    query_id, _ = node.ask(stall_s=0.5, timeout_s=3.0, filter=OTHERS)
    node.receive(1, query_id, answer_of(2, query_id, b"", code=AnswerCode.ACK), at=0.1)
    node.receive(1, query_id, answer_of(1, query_id, is_signed=False), at=0.2)
    at, effects = node.advance()
    assert at == 3.0
    (report,) = ends_in(effects)
    assert (report.end, report.unanswered) == (QueryEnd.DEADLINE, (peer_id(2),))


def test_an_ack_that_an_answer_overtook_makes_nobody_wait() -> None:
    node = Node(members=3, zone="other")
    query_id, _ = node.ask(stall_s=0.5, filter=OTHERS)
    node.receive(1, query_id, answer_of(2, query_id), at=0.1)
    ack = answer_of(2, query_id, b"", code=AnswerCode.ACK)
    assert node.receive(1, query_id, ack, at=0.2) == [ACKED]
    assert node.queries.advance(0.6) != []


def test_without_any_answer_a_query_ends_at_its_deadline() -> None:
    node = Node(members=1)
    query_id, _ = node.ask(timeout_s=3.0, at=1.0)
    at, effects = node.advance()
    assert at == 4.0
    (report,) = ends_in(effects)
    assert report.end is QueryEnd.DEADLINE
    assert (report.p50_ms, report.p99_ms, report.last_ms) == (None, None, None)
    assert node.queries.answer(query_id, 0, AnswerStatus.ANSWERED, b"late", 5.0) == []
    assert node.queries.refused == 1


def test_a_query_can_be_canceled_once() -> None:
    node = Node(members=1)
    query_id, _ = node.ask()
    (report,) = ends_in(node.queries.cancel(query_id, 0.0))
    assert report.end is QueryEnd.CANCELED
    assert node.queries.cancel(query_id, 0.0) == []


def test_a_query_that_nobody_matches_is_not_begun() -> None:
    node = Node(members=1, zone="eu-west")
    with pytest.raises(NoMatchingMember, match=r"no member matches zone 'nowhere'$"):
        node.ask(filter=MemberFilter(zone="nowhere"))
    with pytest.raises(NoMatchingMember, match=r"zone 'eu-wst'; did you mean zone 'eu-west'\?"):
        node.ask(filter=MemberFilter(zone="eu-wst"))
    with pytest.raises(NoMatchingMember, match=r"no member matches zone 'eu-west', tag role=web$"):
        node.ask(filter=MemberFilter(zone="eu-west", tags={"role": "web"}))
    assert node.queries.reports() == []


def test_queries_at_a_time_are_limited() -> None:
    node = Node(members=1)
    for sequence in range(1, 17):
        node.ask(sequence, timeout_s=60.0)
    with pytest.raises(TooManyQueries):
        node.ask(17, at=ROUTE_MIN_LIFETIME_S)
    node.queries.cancel(message_id(1, OUR_NUMBER), 0.0)
    with pytest.raises(TooManyQueries):  # others have no route for one more yet
        node.ask(17, at=ROUTE_MIN_LIFETIME_S - 0.1)
    node.ask(17, at=ROUTE_MIN_LIFETIME_S)


def test_reports_of_ended_queries_are_limited() -> None:
    node = Node(members=1)
    for sequence in range(1, 18):
        query_id, _ = node.ask(sequence, at=10.0 * sequence)
        node.queries.cancel(query_id, 10.0 * sequence)
    assert len(node.queries.reports()) == 16
    assert node.queries.report(message_id(1, OUR_NUMBER)) is None


def test_answers_of_unknown_members_are_counted_apart_and_limited() -> None:
    node = Node(members=1, is_limited=False)
    query_id, _ = node.ask()
    for number in range(257):
        node.receive(1, query_id, answer_of(1000 + number, query_id))
    report = node.report(query_id)
    assert (report.others, report.answered) == (256, 0)
    assert node.queries.refused == 1
    node.receive(1, query_id, answer_of(1, query_id), answer_of(1000, query_id, index=1))
    report = node.report(query_id)
    assert (report.others, report.answered) == (256, 1)
    assert node.queries.refused == 1


def test_a_member_that_shares_an_id_prefix_with_one_that_is_asked_does_not_count() -> None:
    node = Node(members=2)
    query_id, _ = node.ask(filter=MemberFilter(ids=(peer_id(1),)))
    query = node.queries._open[query_id]
    assert not query.wants(answer_of(2, query_id))
    twin = QueryAnswer(type(peer_id(1))(peer_id(1)[:4] + bytes(28)), 0, 1, 1, AnswerCode.ANSWER)
    assert twin.member in query.asked
    assert not query.wants(twin)


def test_the_answer_of_this_node_to_itself_has_traveled_nowhere() -> None:
    node = Node(members=1)
    query_id, effects = node.ask(at=1.0, timeout_s=5.0)
    (own,) = questions_in(effects)
    assert own.remaining_s == 5.0
    answered = node.queries.answer(query_id, 0, AnswerStatus.ANSWERED, b"here", 3.5)
    (answer,) = answers_in(answered)
    assert (answer.hops, answer.delay_ms, answer.arrived_ms) == (0, 0, 2500)


def test_this_node_answers_itself_once_and_only_if_it_was_asked() -> None:
    node = Node(members=2, zone="other")
    query_id, _ = node.ask()
    for _ in range(2):
        node.queries.answer(query_id, 0, AnswerStatus.ANSWERED, b"here", 0.0)
    assert (node.report(query_id).answered, node.queries.refused) == (1, 1)
    query_id, effects = node.ask(2, filter=OTHERS)
    assert effects == []
    assert node.queries.answer(query_id, 0, AnswerStatus.ANSWERED, b"here", 0.0) == []
    assert node.queries.refused == 2


def test_once_this_node_has_answered_itself_the_query_waits_for_others_alone() -> None:
    for is_ack_late in (False, True):
        node = Node(members=1)
        query_id, _ = node.ask(stall_s=0.5, timeout_s=3.0)
        acknowledge = node.queries.acknowledge
        if not is_ack_late:
            acknowledge(query_id, 0, 0.0)
        node.queries.answer(query_id, 0, AnswerStatus.ANSWERED, b"here", 0.1)
        if is_ack_late:
            acknowledge(query_id, 0, 0.1)
        (report,) = ends_in(node.queries.advance(0.6))
        assert (report.end, report.unanswered) == (QueryEnd.STALLED, (peer_id(1),))


def test_sixteen_queries_may_begin_within_five_seconds_of_the_oldest() -> None:
    node = Node(members=1)
    for sequence in range(16):
        query_id, _ = node.ask(sequence + 1, at=sequence / 10)
        node.queries.cancel(query_id, sequence / 10)
    with pytest.raises(TooManyQueries):
        node.ask(100, at=ROUTE_MIN_LIFETIME_S - 0.1)
    node.ask(100, at=ROUTE_MIN_LIFETIME_S)


def test_an_answer_that_came_before_does_not_hide_those_behind_it() -> None:
    node = Node(members=3)
    query_id, _ = node.ask()
    known, new = answer_of(2, query_id), answer_of(3, query_id)
    node.receive(1, query_id, known)
    assert [each.peer_id for each in answers_in(node.receive(1, query_id, known, new))] == [
        peer_id(3)
    ]


def test_an_answer_of_a_member_that_was_not_asked_does_not_hide_those_behind_it() -> None:
    node = Node(members=3)
    query_id, _ = node.ask(filter=MemberFilter(ids=(peer_id(2), peer_id(3))))
    answers = [answer_of(number, query_id) for number in (1, 2)]
    assert [each.peer_id for each in answers_in(node.receive(1, query_id, *answers))] == [
        peer_id(2)
    ]


# --- malicious members --------------------------------------------------------------------------


def test_forged_answers_are_their_sender_s_fault_and_do_not_block_the_authentic_one() -> None:
    node = Node(members=3)
    query_id, _ = node.ask()
    assert node.receive(1, query_id, forged(2, query_id)) == [FORGED]
    assert node.receive(1, query_id, answer_of(2, query_id, is_signed=False)) == [FORGED]
    other = answer_of(2, message_id(9, OUR_NUMBER))
    assert node.receive(1, query_id, other) == [FORGED]
    effects = node.receive(1, query_id, answer_of(3, query_id), forged(2, query_id))
    assert [each.peer_id for each in answers_in(effects)] == [peer_id(3)]
    assert effects[-1] == FORGED
    assert len(answers_in(node.receive(3, query_id, answer_of(2, query_id)))) == 1


def test_signature_checks_are_within_the_budget_of_the_sender() -> None:
    node = Node(members=2)
    query_id, _ = node.ask()
    while node.queries._verifier.try_charge_check(peer_id(1), 0.0):
        pass
    assert node.receive(1, query_id, answer_of(2, query_id)) == [ACKED]
    assert node.queries.refused == 1
    assert node.report(query_id).answered == 0


def test_answers_to_an_unknown_query_are_acknowledged_and_dropped() -> None:
    node = Node()
    assert node.receive(1, message_id(77), answer_of(FAR, message_id(77))) == [ACKED]
    assert node.queries.refused == 1


# --- large answers ------------------------------------------------------------------------------


def described(member: int, query_id: object, body: bytes) -> QueryAnswer:
    payload = LargeAnswer.describing(body).to_payload()
    return answer_of(member, query_id, payload, code=AnswerCode.LARGE)  # type: ignore[arg-type]


def test_a_large_answer_is_fetched_and_counts_then() -> None:
    body = bytes(5000)
    node = Node(members=2, zone="other")
    query_id, _ = node.ask(stall_s=0.5, filter=OTHERS)
    node.receive(1, query_id, answer_of(1, query_id, is_signed=False))
    assert node.receive(1, query_id, described(2, query_id, body)) == [ACKED]
    _, effects = node.advance()
    assert effects == [Send((peer_id(2),), AnswerFetch(query_id, 0))]
    assert node.queries.advance(0.6) == []  # it does not stall meanwhile
    reply = QueryAnswer(peer_id(2), 0, 0, 0, AnswerCode.ANSWER, body)
    assert node.receive(3, query_id, reply, number=0, at=0.7) == []  # not from its member
    assert node.queries.refused == 1
    effects = node.receive(2, query_id, reply, number=0, at=0.7)
    (answer,) = answers_in(effects)
    assert (answer.status, answer.payload, answer.hops) == (AnswerStatus.ANSWERED, body, 3)
    assert ends_in(effects)[0].end is QueryEnd.COMPLETE
    assert not any(isinstance(each, Send) for each in effects)


def test_a_large_answer_that_cannot_be_fetched_has_failed() -> None:
    node = Node(members=1, zone="other")
    query_id, _ = node.ask(timeout_s=30.0, filter=OTHERS)
    node.receive(1, query_id, described(1, query_id, bytes(5000)))
    effects: list[Effect] = []
    while not ends_in(effects):
        at, effects = node.advance()
    assert at == pytest.approx(3 * 2.0)
    (answer,) = answers_in(effects)
    assert (answer.status, answer.payload) == (
        AnswerStatus.FAILED,
        b"the answer could not be fetched",
    )


def test_a_senseless_description_of_a_large_answer_has_failed() -> None:
    node = Node(members=1, zone="other")
    query_id, _ = node.ask(filter=OTHERS)
    senseless = answer_of(1, query_id, b"large", code=AnswerCode.LARGE)
    (answer,) = answers_in(node.receive(1, query_id, senseless))
    assert (answer.status, answer.payload) == (AnswerStatus.FAILED, b"the answer is too large")


def test_only_the_origin_of_a_query_may_fetch_a_large_answer() -> None:
    node = Node()
    node.queries.on_rumor(question(), [peer_id(3)], 0.0)
    node.queries.answer(message_id(), 0, AnswerStatus.ANSWERED, bytes(5000), 0.0)
    fetch = AnswerFetch(message_id(), 0)
    assert node.queries.handle(fetch, peer_id(1), 0.1) == []
    assert node.queries.refused == 1
    (send,) = node.queries.handle(fetch, peer_id(ORIGIN), 0.1)
    assert isinstance(send, Send)
    assert isinstance(send.message, Answers)
    assert (send.peers, send.message.number) == ((peer_id(ORIGIN),), 0)
    assert send.message.answers[0].payload == bytes(5000)


def test_the_answer_of_this_node_to_itself_has_the_same_limit() -> None:
    node = Node()
    query_id, _ = node.ask(max_answer_bytes=10)
    effects = node.queries.answer(query_id, 0, AnswerStatus.ANSWERED, bytes(11), 0.0)
    assert answers_in(effects)[0].status is AnswerStatus.FAILED
    query_id, _ = node.ask(2, max_answer_bytes=10)
    effects = node.queries.answer(query_id, 0, AnswerStatus.ANSWERED, bytes(10), 0.0)
    assert answers_in(effects)[0].status is AnswerStatus.ANSWERED
    assert TERMS.max_answer_bytes == 65_536


def test_an_ack_behind_a_large_answer_makes_nobody_wait() -> None:
    body = bytes(5000)
    node = Node(members=2, zone="other")
    query_id, _ = node.ask(stall_s=0.5, timeout_s=30.0, filter=OTHERS)
    node.receive(1, query_id, described(2, query_id, body))
    node.receive(1, query_id, answer_of(2, query_id, b"", code=AnswerCode.ACK))
    node.advance()
    node.receive(2, query_id, QueryAnswer(peer_id(2), 0, 0, 0, AnswerCode.ANSWER, body), number=0)
    (report,) = ends_in(node.queries.advance(0.5))
    assert report.end is QueryEnd.STALLED


@pytest.mark.parametrize(("sample", "asked"), [(1, 1), (3, 3), (6, 6), (7, 7), (20, 7)])
def test_a_sample_has_as_many_members_as_are_wanted(sample: int, asked: int) -> None:
    for sequence in range(1, 41):
        node = Node(members=6)
        query_id, _ = node.ask(sequence, sample=sample)
        assert node.report(query_id).asked == asked


def test_an_ack_of_an_unknown_member_or_behind_a_first_answer_makes_nobody_wait() -> None:
    node = Node(members=3, zone="other")
    query_id, _ = node.ask(stall_s=0.5, filter=OTHERS)
    node.receive(1, query_id, answer_of(2, query_id), at=0.1)
    acks = [answer_of(1000, query_id, b"", code=AnswerCode.ACK)]
    acks.append(answer_of(2, query_id, b"", code=AnswerCode.ACK, index=1))
    assert node.receive(1, query_id, *acks, at=0.2) == [ACKED]
    (report,) = ends_in(node.queries.advance(0.6))
    assert (report.end, report.others) == (QueryEnd.STALLED, 0)


def test_each_of_several_queries_ends_at_its_own_deadline() -> None:
    node = Node(members=1)
    first, _ = node.ask(1, timeout_s=3.0)
    second, _ = node.ask(2, timeout_s=5.0)
    third, _ = node.ask(3, timeout_s=4.0)
    node.queries.cancel(third, 1.0)
    ends = []
    while node.queries.deadline < math.inf:
        at, effects = node.advance()
        ends += [(at, each.id) for each in ends_in(effects)]
    assert ends == [(3.0, first), (5.0, second)]
    assert [each.id for each in node.queries.reports()] == [third, first, second]


@pytest.mark.parametrize(("zones", "is_suggested"), [(99, True), (100, False)])
def test_a_mistyped_zone_is_compared_with_the_first_hundred(zones: int, is_suggested: bool) -> None:
    node = Node()
    for number in range(zones):
        node.table.ensure(record(number + 1, zone=f"a{number:03}"), 0.0)
    node.table.ensure(record(500 + zones, zone="frankfurt"), 0.0)
    with pytest.raises(NoMatchingMember) as failure:
        node.ask(filter=MemberFilter(zone="frankfrt"))
    assert ("did you mean zone 'frankfurt'?" in str(failure.value)) is is_suggested


def test_a_reply_from_a_member_counts_beside_one_that_does_not() -> None:
    body = bytes(5000)
    node = Node(members=2, zone="other")
    query_id, _ = node.ask(filter=OTHERS)
    node.receive(1, query_id, described(2, query_id, body))
    node.advance()
    stray = QueryAnswer(peer_id(1), 0, 0, 0, AnswerCode.ANSWER, body)
    reply = QueryAnswer(peer_id(2), 0, 0, 0, AnswerCode.ANSWER, body)
    effects = node.receive(2, query_id, stray, reply, number=0, at=0.7)
    assert [each.peer_id for each in answers_in(effects)] == [peer_id(2)]
    assert node.queries.refused == 1
    assert node.receive(2, query_id, reply, number=0, at=0.8) == []
    assert node.receive(2, message_id(77), reply, number=0, at=0.8) == []
    assert node.queries.refused == 3
