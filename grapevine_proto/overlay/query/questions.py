"""Questions that this node is asked, and its large answers until their origin has fetched them.

Invariants:

- A question is answered once per index, and only before its deadline. Its handler may acknowledge it first.
- Of an answer of more than `MAX_ANSWER_BYTES` only size and hash are sent. Its body is kept for
  `LARGE_ANSWER_KEPT_S`, for the origin of the query alone, and is sent at most `SERVES_LIMIT` times.
- At most `QUESTIONS_LIMIT` questions, and at most `LARGE_BYTES_LIMIT` bytes of large answers.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from grapevine_proto.ids import MessageId, PeerId
from grapevine_proto.wire.signed import (
    MAX_ANSWER_BYTES,
    MAX_ANSWERS_PER_MEMBER,
    AnswerCode,
    LargeAnswer,
    QueryAnswer,
)

QUESTIONS_LIMIT: Final = 80  # those with a route, and our own
LARGE_ANSWER_KEPT_S: Final = 30.0
LARGE_BYTES_LIMIT: Final = 1 << 20
SERVES_LIMIT: Final = 4  # of one body: the origin retries twice


class _Question:
    """A question that may be answered."""

    __slots__ = ("answered", "deadline_at", "delay_ms", "hops", "max_answer_bytes")

    def __init__(self, hops: int, delay_ms: int, deadline_at: float, max_answer_bytes: int) -> None:
        self.hops = hops
        self.delay_ms = delay_ms
        self.deadline_at = deadline_at
        self.max_answer_bytes = max_answer_bytes
        self.answered: set[tuple[int, bool]] = set()  # indexes, and whether only acknowledged


class _LargeBody:
    """A large answer that may be fetched."""

    __slots__ = ("body", "expires_at", "serves")

    def __init__(self, body: bytes, expires_at: float) -> None:
        self.body = body
        self.expires_at = expires_at
        self.serves = 0


class Questions:
    """A component of `Queries`, which adds the questions and sends the answers that are built here."""

    def __init__(self, our_id: PeerId) -> None:
        self._our_id = our_id
        self._questions: OrderedDict[MessageId, _Question] = OrderedDict()
        self._large: OrderedDict[tuple[MessageId, int], _LargeBody] = OrderedDict()
        self._large_bytes = 0

    def add(
        self,
        message_id: MessageId,
        hops: int,
        delay_ms: int,
        deadline_at: float,
        max_answer_bytes: int,
    ) -> None:
        """Adds a question; beyond the limit the oldest can no longer be answered."""
        self._questions[message_id] = _Question(hops, delay_ms, deadline_at, max_answer_bytes)
        if len(self._questions) > QUESTIONS_LIMIT:
            self._questions.popitem(last=False)

    def answer(
        self, message_id: MessageId, index: int, code: AnswerCode, payload: bytes, now: float
    ) -> QueryAnswer | None:
        """Returns this node's answer to a question, of a large one its size and hash; None if the question is
        unknown, over or answered already. The reason of a refusal or a failure is cut to the size limit."""
        question = self._questions.get(message_id)
        key = (index, code is AnswerCode.ACK)
        if question is None or now >= question.deadline_at or key in question.answered:
            return None
        if not 0 <= index < MAX_ANSWERS_PER_MEMBER:
            return None
        question.answered |= {key, (index, True)}
        if code is AnswerCode.ANSWER and len(payload) > question.max_answer_bytes:
            code = AnswerCode.FAILED
            payload = (
                f"the answer has {len(payload):,} bytes;"
                f" at most {question.max_answer_bytes:,} are wanted"
            ).encode()
        if code is AnswerCode.ANSWER and len(payload) > MAX_ANSWER_BYTES:
            self._keep((message_id, index), payload, now)
            code, payload = AnswerCode.LARGE, LargeAnswer.describing(payload).to_payload()
        return QueryAnswer(
            self._our_id, index, question.hops, question.delay_ms, code, payload[:MAX_ANSWER_BYTES]
        )

    def is_pending(self, message_id: MessageId, now: float) -> bool:
        """Whether the question can still be answered."""
        question = self._questions.get(message_id)
        return question is not None and now < question.deadline_at

    # --- large answers --------------------------------------------------------------------------

    def _keep(self, key: tuple[MessageId, int], body: bytes, now: float) -> None:
        self.expire(now)
        self._large[key] = _LargeBody(body, now + LARGE_ANSWER_KEPT_S)
        self._large_bytes += len(body)
        while self._large_bytes > LARGE_BYTES_LIMIT:
            self._drop_oldest_body()

    def fetch(self, message_id: MessageId, index: int, now: float) -> QueryAnswer | None:
        """Returns a large answer with its body, for the origin of the query; None if it is gone."""
        self.expire(now)
        large = self._large.get((message_id, index))
        if large is None or large.serves >= SERVES_LIMIT:
            return None
        large.serves += 1
        return QueryAnswer(self._our_id, index, 0, 0, AnswerCode.ANSWER, large.body)

    def _drop_oldest_body(self) -> None:
        _, large = self._large.popitem(last=False)
        self._large_bytes -= len(large.body)

    def expire(self, now: float) -> None:
        """Removes questions past their deadline, and bodies kept for too long."""
        while self._large and next(iter(self._large.values())).expires_at <= now:
            self._drop_oldest_body()
        over = [key for key, each in self._questions.items() if each.deadline_at <= now]
        for key in over:
            del self._questions[key]
