"""Fetches the large answers to this node's queries from their members.

Invariants:

- At most `FETCHES_LIMIT` fetches are in progress, and a query fetches at most `LARGE_BYTES_PER_QUERY`.
- A body counts only if it comes from its member and has the size and hash that the member signed.
- A fetch ends after `TRIES_LIMIT` requests without a reply.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Final, NamedTuple

from grapevine_proto.ids import MessageId, PeerId
from grapevine_proto.overlay.effects import Effect, Send
from grapevine_proto.wire.messages import AnswerFetch
from grapevine_proto.wire.signed import LargeAnswer, QueryAnswer

FETCHES_LIMIT: Final = 8  # in progress, of all queries
LARGE_BYTES_PER_QUERY: Final = 8 << 20
FETCH_TIMEOUT_S: Final = 2.0  # a handshake and 64 KiB, over a link that repairs losses itself
TRIES_LIMIT: Final = 3

_Key = tuple[MessageId, PeerId, int]


class _Fetch:
    """One large answer, waiting or in progress."""

    __slots__ = ("answer", "due_at", "large", "tries")

    def __init__(self, answer: QueryAnswer, large: LargeAnswer) -> None:
        self.answer = answer
        self.large = large
        self.tries = 0
        self.due_at = math.inf  # of the next request; never while it waits


class FailedFetch(NamedTuple):
    """A large answer that could not be fetched."""

    message_id: MessageId
    answer: QueryAnswer


class AnswerFetcher:
    """A component of `Queries`, which advances it. `deadline` is when to do so."""

    def __init__(self) -> None:
        self._fetches: OrderedDict[_Key, _Fetch] = OrderedDict()  # of open queries
        self._bytes_by_query: dict[MessageId, int] = {}
        self.deadline = math.inf

    def add(self, message_id: MessageId, answer: QueryAnswer, now: float) -> bool:
        """Fetches the answer whose size and hash `answer` carries; False if these are invalid or the query
        has reached its limit."""
        large = LargeAnswer.parse(answer.payload)
        if large is None:
            return False
        fetched_bytes = self._bytes_by_query.get(message_id, 0) + large.size_bytes
        if fetched_bytes > LARGE_BYTES_PER_QUERY:
            return False
        self._bytes_by_query[message_id] = fetched_bytes
        self._fetches[message_id, answer.member, answer.index] = _Fetch(answer, large)
        self.deadline = min(self.deadline, now)
        return True

    def is_fetching(self, message_id: MessageId) -> bool:
        """Whether an answer to this query is being fetched."""
        return any(key[0] == message_id for key in self._fetches)

    def on_reply(self, message_id: MessageId, reply: QueryAnswer, now: float) -> QueryAnswer | None:
        """Returns the answer with its body; None if `reply` is not the body that was requested."""
        key = (message_id, reply.member, reply.index)
        fetch = self._fetches.get(key)
        if fetch is None or not fetch.tries or not fetch.large.describes(reply.payload):
            return None
        del self._fetches[key]
        self.deadline = min(self.deadline, now)
        return fetch.answer

    def forget(self, message_id: MessageId, now: float) -> None:
        """Ends the fetches of a query; waiting fetches of other queries can start."""
        self._bytes_by_query.pop(message_id, None)
        for key in [key for key in self._fetches if key[0] == message_id]:
            del self._fetches[key]
        if self._fetches:
            self.deadline = min(self.deadline, now)

    def advance(self, now: float) -> tuple[list[Effect], list[FailedFetch]]:
        """Sends the requests that are due. Returns the effects, and the fetches that failed."""
        effects: list[Effect] = []
        failed: list[FailedFetch] = []
        for (message_id, member, index), fetch in list(self._fetches.items()):
            if fetch.due_at <= now:
                if fetch.tries >= TRIES_LIMIT:
                    del self._fetches[message_id, member, index]
                    failed.append(FailedFetch(message_id, fetch.answer))
                else:
                    effects += self._request(message_id, fetch, now)
        in_progress = sum(fetch.tries > 0 for fetch in self._fetches.values())
        for (message_id, _, _), fetch in self._fetches.items():
            if in_progress >= FETCHES_LIMIT:
                break
            if not fetch.tries:
                effects += self._request(message_id, fetch, now)
                in_progress += 1
        self.deadline = min((fetch.due_at for fetch in self._fetches.values()), default=math.inf)
        return effects, failed

    @staticmethod
    def _request(message_id: MessageId, fetch: _Fetch, now: float) -> list[Effect]:
        fetch.tries += 1
        fetch.due_at = now + FETCH_TIMEOUT_S
        return [Send((fetch.answer.member,), AnswerFetch(message_id, fetch.answer.index))]
