"""Queries of asyncio nodes: handlers, answers as they arrive, and the end."""

from __future__ import annotations

import asyncio
import logging

import pytest

import grapevine_proto.runtime.query_desk as module
from grapevine_proto import (
    Answer,
    AnswerStatus,
    ClusterKey,
    InvalidArgument,
    MemberFilter,
    MessageTooLarge,
    Node,
    NodeConfig,
    NotRunning,
    PeerId,
    QueryEnd,
    QueryEnded,
    QueryReceived,
    QueryReport,
    Question,
    TooManyQueries,
    UnknownPeer,
)
from grapevine_proto.ids import MessageId
from grapevine_proto.runtime.query_desk import (
    BUSY,
    DECLINED,
    HANDLERS_AT_A_TIME,
    NO_HANDLER,
    WAITING_QUESTIONS_LIMIT,
    QueryDesk,
)
from tests.conftest import Run

KEY = ClusterKey(bytes(range(32)))


def config(*bootstrap: Node, **changes: object) -> NodeConfig:
    peers = [str(node.address) for node in bootstrap]
    return NodeConfig(keys=[KEY], bind="127.0.0.1:0", bootstrap_peers=peers).replace(**changes)


def test_members_answer_and_the_asker_too(run: Run[None]) -> None:
    async def scenario() -> None:
        async with Node(config()) as one, Node(config(one)) as other:
            await other.ready()
            ended: list[QueryReport] = []
            one.on_event(lambda e: ended.append(e.report) if isinstance(e, QueryEnded) else None)

            @one.on_query("who")
            def one_answers(question: Question) -> bytes:
                return b"one " + question.payload

            @other.on_query("who")
            async def other_answers(question: Question) -> bytes:
                await asyncio.sleep(0)
                assert question.origin == one.peer_id
                return b"other " + question.payload

            query = await one.query("who", bytearray(b"are you"), timeout=20.0)
            answers = [answer async for answer in query]
            assert {(each.peer_id, each.status, each.payload) for each in answers} == {
                (one.peer_id, AnswerStatus.ANSWERED, b"one are you"),
                (other.peer_id, AnswerStatus.ANSWERED, b"other are you"),
            }
            report = query.report()
            assert (report.end, report.asked, report.answered) == (QueryEnd.COMPLETE, 2, 2)
            assert await query.done() == report == ended[0]

    run(scenario())


def test_large_answers_arrive_whole(run: Run[None]) -> None:
    async def scenario() -> None:
        async with Node(config()) as one, Node(config(one)) as other:
            await other.ready()
            other.on_query("much")(lambda _: bytes(65_536))
            only = MemberFilter(ids=(other.peer_id,))
            query = await one.query("much", filter=only, timeout=20.0)
            assert [each.payload async for each in query] == [bytes(65_536)]

    run(scenario())


def test_without_a_handler_with_none_and_with_an_error_there_are_reasons(
    run: Run[None], caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with Node(config()) as node:
            errors: list[object] = []
            node.on_error(lambda error, event: errors.append((type(error), type(event))))

            def fail(question: Question) -> bytes:
                raise LookupError(question.name)

            node.on_query("none")(lambda _: None)
            node.on_query("fail")(fail)
            node.on_query("text")(lambda _: "text")  # type: ignore[type-var]
            found = {}
            for name in ("nobody", "none", "fail", "text"):
                query = await node.query(name)
                (found[name],) = [(each.status, each.payload) async for each in query]
            assert found == {
                "nobody": (AnswerStatus.REFUSED, NO_HANDLER),
                "none": (AnswerStatus.REFUSED, DECLINED),
                "fail": (AnswerStatus.FAILED, b"the handler raised LookupError"),
                "text": (AnswerStatus.FAILED, b"the handler raised InvalidArgument"),
            }
            assert errors == [(LookupError, QueryReceived), (InvalidArgument, QueryReceived)]
            assert node.stats().callback_errors == 2

    run(scenario())
    assert "a query handler failed on the query 'fail'" in caplog.text


def test_a_handler_is_removed_and_a_name_has_one(run: Run[None]) -> None:
    async def scenario() -> None:
        async with Node(config()) as node:
            handler = node.on_query("who")(lambda _: b"me")
            with pytest.raises(InvalidArgument):
                node.on_query("who")(lambda _: b"also me")
            node.remove_handler(handler)
            with pytest.raises(InvalidArgument):
                node.remove_handler(handler)
            query = await node.query("who")
            assert (await query.done()).refused == 1

    run(scenario())


def test_what_cannot_be_asked_is_refused(run: Run[None]) -> None:
    async def scenario() -> None:
        node = Node(config())
        with pytest.raises(NotRunning):
            await node.query("who")
        async with node:
            with pytest.raises(InvalidArgument):
                await node.query("")
            with pytest.raises(InvalidArgument):
                node.on_query("n" * 65)
            with pytest.raises(InvalidArgument):
                node.on_query("who")(b"me")  # type: ignore[type-var]
            with pytest.raises(MessageTooLarge):
                await node.query("who", bytes(8193))
            with pytest.raises(UnknownPeer):
                await node.query("who", filter=MemberFilter(zone="nowhere"))
            for _ in range(16):
                await node.query("who")
            with pytest.raises(TooManyQueries):
                await node.query("who")

    run(scenario())


def test_a_query_ends_when_it_is_canceled_and_when_the_node_stops(run: Run[None]) -> None:
    async def scenario() -> None:
        node = Node(config())
        async with node:
            never = asyncio.Event()

            @node.on_query("slow")
            async def slow(_: Question) -> bytes:
                await never.wait()
                return b""

            first = await node.query("slow", timeout=60.0)
            first.cancel()
            assert (await first.done()).end is QueryEnd.CANCELED
            first.cancel()
            second = await node.query("slow", timeout=60.0)
            assert second.report().end is None
        assert [each async for each in second] == []
        assert second.report().end is QueryEnd.CANCELED

    run(scenario())


class RecordedEngine:
    """Records what handlers answer, in place of an engine."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, bytes, AnswerStatus]] = []
        self.acknowledged: list[int] = []

    def answer(
        self, message_id: MessageId, payload: bytes, now: float, *, status: AnswerStatus
    ) -> bool:
        self.answers.append((message_id.sequence, payload, status))
        return True

    def acknowledge(self, message_id: MessageId, now: float) -> None:
        self.acknowledged.append(message_id.sequence)


def asked(sequence: int, remaining_s: float = 30.0) -> QueryReceived:
    message_id = MessageId(PeerId(bytes(32)), 1, sequence)
    return QueryReceived(Question(message_id, "slow", b"", remaining_s, 1024, 1))


def desk_with(engine: RecordedEngine) -> tuple[QueryDesk, asyncio.Event, list[int]]:
    """A desk whose handler of `slow` waits for the event, and the questions it has begun."""
    desk, done, begun = QueryDesk(lambda error, question: None), asyncio.Event(), []
    desk.attach(engine, lambda: 0.0, lambda: None)  # type: ignore[arg-type]

    async def slow(question: Question) -> bytes:
        begun.append(question.id.sequence)
        await done.wait()
        return b"done"

    desk.add_handler("slow", slow)
    return desk, done, begun


def test_a_few_handlers_run_at_a_time_and_the_queue_for_them_is_limited(run: Run[None]) -> None:
    async def scenario() -> None:
        engine = RecordedEngine()
        desk, done, begun = desk_with(engine)
        limit = HANDLERS_AT_A_TIME + WAITING_QUESTIONS_LIMIT
        for sequence in range(1, limit + 2):
            desk.on_event(asked(sequence))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert begun == list(range(1, HANDLERS_AT_A_TIME + 1))
        assert engine.answers == [(limit + 1, BUSY, AnswerStatus.REFUSED)]
        done.set()
        while desk._tasks:
            await asyncio.wait(desk._tasks)
        assert len(engine.answers) == limit + 1
        assert begun == list(range(1, limit + 1))

    run(scenario())


def test_a_slow_handler_is_announced_and_ends_with_its_question(
    run: Run[None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "ACK_AFTER_S", 0.0)

    async def scenario() -> None:
        engine = RecordedEngine()
        desk, _, begun = desk_with(engine)
        desk.on_event(asked(1, remaining_s=0.05))
        while desk._tasks:
            await asyncio.wait(desk._tasks)
        assert (begun, engine.acknowledged, engine.answers) == ([1], [1], [])

    with caplog.at_level(logging.WARNING):
        run(scenario())
    assert "no answer to the query 'slow' before its deadline" in caplog.text


def test_answers_can_be_read_after_the_end(run: Run[None]) -> None:
    async def scenario() -> None:
        async with Node(config()) as node:
            node.on_query("who")(lambda _: b"me")
            query = await node.query("who")
            await query.done()
            found: list[Answer] = [each async for each in query]
            assert [each.payload for each in found] == [b"me"]

    run(scenario())
