"""The queries of one node under asyncio: its own, and the handlers that answer those of others.

Invariants:

- A handler runs in a task of its own, at most `HANDLERS_AT_A_TIME` of all names at a time, until the deadline
  of its question. What it raises is reported, and answers the question as failed.
- Beyond `WAITING_QUESTIONS_LIMIT` questions that wait for a handler, one more is refused.
- A question without an answer after `ACK_AFTER_S` is acknowledged, so that its origin does not give up.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, Self, assert_never

from grapevine_proto.config.validate import check_callable, payload_bytes
from grapevine_proto.engine import Engine
from grapevine_proto.errors import InvalidArgument
from grapevine_proto.events import (
    Answer,
    AnswerStatus,
    QueryAnswered,
    QueryEnd,
    QueryEnded,
    QueryReceived,
    QueryReport,
    Question,
)
from grapevine_proto.ids import MessageId
from grapevine_proto.overlay.query.request import check_query_name

QueryHandler = Callable[[Question], Awaitable[bytes | None] | bytes | None]

logger = logging.getLogger("grapevine")

QUERY_EVENTS: Final = (QueryReceived, QueryAnswered, QueryEnded)
HANDLERS_AT_A_TIME: Final = 4
WAITING_QUESTIONS_LIMIT: Final = 64
ACK_AFTER_S: Final = 0.25  # well before a query stalls
NO_HANDLER: Final = b"no handler for this query"
BUSY: Final = b"too many questions are waiting"
DECLINED: Final = b"the handler returned no answer"


class Query:
    """A query of this node, returned by `Node.query`: an async iterator over its answers as they arrive. It
    ends with the query. One task may read it; answers that nobody reads are kept as long as the object."""

    def __init__(
        self,
        message_id: MessageId,
        current_report: Callable[[MessageId], QueryReport],
        on_cancel: Callable[[MessageId], None],
    ) -> None:
        self.id = message_id
        self._current_report = current_report
        self._on_cancel = on_cancel
        self._final_report: QueryReport | None = None
        self._answers: deque[Answer] = deque()  # the engine limits how many a query has
        self._is_ended = False
        self._changed = asyncio.Event()

    def report(self) -> QueryReport:
        """Returns the report so far: which members were asked, which answered, and when."""
        return self._final_report or self._current_report(self.id)

    async def done(self) -> QueryReport:
        """Waits for the end of the query, with or without reading its answers. Returns the final report."""
        while not self._is_ended:
            self._changed.clear()
            await self._changed.wait()
        return self.report()

    def cancel(self) -> None:
        """Ends the query now. Answers that have arrived can still be read."""
        if not self._is_ended:
            self._on_cancel(self.id)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Answer:
        while not self._answers:
            if self._is_ended:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        return self._answers.popleft()

    def put(self, answer: Answer) -> None:
        """An answer arrived."""
        self._answers.append(answer)
        self._changed.set()

    def end(self, report: QueryReport) -> None:
        """The query ended, or the node has stopped."""
        self._final_report = report
        self._is_ended = True
        self._changed.set()


class QueryDesk:
    """Runs handlers and hands out answers. The node calls `attach` when it starts, `on_event` with each
    event, and `close` when it stops. `on_failure` is called with what a handler raised, and its question."""

    def __init__(self, on_failure: Callable[[BaseException, Question], None]) -> None:
        self._on_failure = on_failure
        self._handlers: dict[str, QueryHandler] = {}
        self._open: dict[MessageId, Query] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(HANDLERS_AT_A_TIME)
        self._engine: Engine | None = None
        self._now: Callable[[], float] = lambda: 0.0
        self._wake: Callable[[], None] = lambda: None

    def attach(self, engine: Engine, now: Callable[[], float], wake: Callable[[], None]) -> None:
        """The node runs `engine`; `wake` sends what was queued."""
        self._engine, self._now, self._wake = engine, now, wake

    def add_handler(self, name: str, handler: QueryHandler) -> None:
        """Answers queries of this name with `handler`. Raises InvalidArgument if there is one already."""
        check_query_name(name)
        check_callable("on_query", handler)
        if name in self._handlers:
            raise InvalidArgument(f"on_query: {name!r} has a handler")
        self._handlers[name] = handler

    def remove_handler(self, handler: Callable[..., object]) -> bool:
        """Removes a handler from all its names; returns whether it was one."""
        names = [name for name, each in self._handlers.items() if each is handler]
        for name in names:
            del self._handlers[name]
        return bool(names)

    def open(self, message_id: MessageId) -> Query:
        """Returns the query that the engine has just begun."""
        query = self._open[message_id] = Query(message_id, self._report_of, self._cancel)
        return query

    def _report_of(self, message_id: MessageId) -> QueryReport:
        reports = [] if self._engine is None else self._engine.queries()
        return next(each for each in reports if each.id == message_id)

    def _cancel(self, message_id: MessageId) -> None:
        if self._engine is not None:
            self._engine.cancel_query(message_id, self._now())
            self._wake()

    # --- events ---------------------------------------------------------------------------------

    def on_event(self, event: QueryReceived | QueryAnswered | QueryEnded) -> None:
        """One of `QUERY_EVENTS` occurred."""
        match event:
            case QueryReceived(question):
                self._on_question(question)
            case QueryAnswered(message_id, answer):
                if (query := self._open.get(message_id)) is not None:
                    query.put(answer)
            case QueryEnded(report):
                if (query := self._open.pop(report.id, None)) is not None:
                    query.end(report)
            case _:
                assert_never(event)

    def _on_question(self, question: Question) -> None:
        handler = self._handlers.get(question.name)
        if handler is None:
            self._answer(question, NO_HANDLER, AnswerStatus.REFUSED)
        elif len(self._tasks) >= HANDLERS_AT_A_TIME + WAITING_QUESTIONS_LIMIT:
            self._answer(question, BUSY, AnswerStatus.REFUSED)
        else:
            task = asyncio.create_task(
                self._run_handler(handler, question), name=f"grapevine query {question.name}"
            )
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run_handler(self, handler: QueryHandler, question: Question) -> None:
        timer = asyncio.get_running_loop().call_later(ACK_AFTER_S, self._acknowledge, question)
        limit = asyncio.timeout(question.remaining_s)
        try:
            async with limit, self._slots:
                result = handler(question)
                payload = await result if inspect.isawaitable(result) else result
                if payload is None:
                    self._answer(question, DECLINED, AnswerStatus.REFUSED)
                else:
                    self._answer(question, payload_bytes(payload), AnswerStatus.ANSWERED)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001  a handler ends no task of the node
            if limit.expired():
                logger.warning("no answer to the query %r before its deadline", question.name)
                return
            reason = f"the handler raised {type(error).__name__}"
            self._answer(question, reason.encode(), AnswerStatus.FAILED)
            self._on_failure(error, question)
        finally:
            timer.cancel()

    def _answer(self, question: Question, payload: bytes, status: AnswerStatus) -> None:
        if self._engine is not None:
            self._engine.answer(question.id, payload, self._now(), status=status)
            self._wake()

    def _acknowledge(self, question: Question) -> None:
        if self._engine is not None:
            self._engine.acknowledge(question.id, self._now())
            self._wake()

    # --- end ------------------------------------------------------------------------------------

    def close(self) -> None:
        """The node has stopped: handlers and queries are canceled."""
        for task in list(self._tasks):
            task.cancel()
        for query in self._open.values():
            query.end(query.report()._replace(end=QueryEnd.CANCELED))
        self._open.clear()
        self._engine = None
