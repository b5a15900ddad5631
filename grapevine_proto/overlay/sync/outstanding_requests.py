"""Which peer was asked for what in rounds of anti-entropy and may still send it.

What one peer was asked for, no other is asked for meanwhile. That is a privilege of peers that give what
they claim to have: otherwise one peer could keep a message from us by claiming it and never sending it.

Invariants:
- A question keeps others away for as long as `add` says after it was put or after it last brought
  something new, and never longer than `REQUEST_LIFETIME_LIMIT_S`.
- A peer whose question brought nothing keeps nobody away for `BROKEN_PROMISE_S`.
- At most `REQUESTS_LIMIT` questions and as many peers that broke their promise; the oldest are evicted.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, TypeAlias

from grapevine_proto.ids import PeerId, Stream, StreamRange
from grapevine_proto.overlay.store.ranges import subtract

REQUEST_LIFETIME_LIMIT_S: Final = 10.0  # 10 MiB at 8 Mbit/s; then it may be quicker elsewhere
BROKEN_PROMISE_S: Final = 60.0
FIRST_ANSWER_TIMEOUT_S: Final = 3.0  # for something new, or the promise is broken
REQUESTS_LIMIT: Final = 1024  # two for each of all sessions by default

RequestKey: TypeAlias = tuple[PeerId, bool]
"""Who was asked, and whether in a round of its own: a peer may be asked one thing in each."""


class _Request:
    __slots__ = (
        "answer_due_at",
        "exclusive_until",
        "expires_at",
        "has_progress",
        "ranges",
        "timeout_s",
    )

    def __init__(self, ranges: tuple[StreamRange, ...], now: float, timeout_s: float) -> None:
        self.ranges = ranges
        self.timeout_s = timeout_s
        self.expires_at = now + REQUEST_LIFETIME_LIMIT_S
        self.exclusive_until = now + timeout_s  # others are kept away
        self.answer_due_at = now + max(
            timeout_s, FIRST_ANSWER_TIMEOUT_S
        )  # then it counts as not answered
        self.has_progress = False

    def extend(self, now: float) -> None:
        self.exclusive_until = min(now + self.timeout_s, self.expires_at)
        self.answer_due_at = max(self.answer_due_at, self.exclusive_until)


class OutstandingRequests:
    """All open questions. `broken_promises` counts those that brought nothing."""

    def __init__(self) -> None:
        self._open: OrderedDict[RequestKey, _Request] = OrderedDict()
        self._by_stream: dict[Stream, dict[RequestKey, list[StreamRange]]] = {}
        self._broken_until: OrderedDict[PeerId, float] = OrderedDict()  # and until when
        self._outcomes: dict[
            PeerId, list[int]
        ] = {}  # promises kept and broken since `pop_outcomes`
        self.broken_promises = 0

    def __len__(self) -> int:
        return len(self._open)

    def add(
        self, key: RequestKey, ranges: tuple[StreamRange, ...], now: float, timeout_s: float
    ) -> None:
        """`key` is asked for `ranges`, which others need not be asked for meanwhile."""
        self.expire(now)
        self.close(key, now)
        if not ranges or self._broken_until.get(key[0], now) > now:
            return
        self._open[key] = _Request(ranges, now, timeout_s)
        for each in ranges:
            self._by_stream.setdefault(each.stream, {}).setdefault(key, []).append(each)
        if len(self._open) > REQUESTS_LIMIT:
            self._remove(next(iter(self._open)))

    def on_progress(self, peer_id: PeerId, now: float) -> None:
        """`peer_id` sent something new: more may be on its way."""
        for key in ((peer_id, False), (peer_id, True)):
            request = self._open.get(key)
            if request is not None:
                if not request.has_progress:
                    self._outcomes.setdefault(peer_id, [0, 0])[0] += 1
                request.has_progress = True
                request.extend(now)

    def on_fragment(self, peer_id: PeerId, now: float) -> None:
        """Part of a large message comes from `peer_id`, which may be what it was asked for."""
        for key in ((peer_id, False), (peer_id, True)):
            request = self._open.get(key)
            if request is not None:
                request.extend(now)

    def close(self, key: RequestKey, now: float) -> None:
        """Nothing more is expected of that question."""
        request = self._remove(key)
        if request is not None and not request.has_progress:
            self._record_broken(key[0], now)

    def remove_peer(self, peer_id: PeerId) -> None:
        """The link with `peer_id` is gone."""
        self._remove((peer_id, False))
        self._remove((peer_id, True))

    def expire(self, now: float) -> None:
        """Close what was not answered in time."""
        for key in [each for each, request in self._open.items() if request.answer_due_at <= now]:
            self.close(key, now)

    def _record_broken(self, peer_id: PeerId, now: float) -> None:
        self.broken_promises += 1
        self._outcomes.setdefault(peer_id, [0, 0])[1] += 1
        self._broken_until[peer_id] = now + BROKEN_PROMISE_S
        self._broken_until.move_to_end(peer_id)
        if len(self._broken_until) > REQUESTS_LIMIT:
            self._broken_until.popitem(last=False)

    def _remove(self, key: RequestKey) -> _Request | None:
        request = self._open.pop(key, None)
        for each in request.ranges if request is not None else ():
            by_key = self._by_stream.get(each.stream)
            if by_key is not None:
                by_key.pop(key, None)
                if not by_key:
                    del self._by_stream[each.stream]
        return request

    def unrequested(
        self, ranges: list[StreamRange], now: float, *, exclude: RequestKey | None = None
    ) -> list[StreamRange]:
        """What of `ranges` nobody, `exclude` the one who is to be asked, has been asked for."""
        requested = [
            each
            for stream in dict.fromkeys(each.stream for each in ranges)
            for key, of_stream in self._by_stream.get(stream, {}).items()
            if key != exclude and self._open[key].exclusive_until > now
            for each in of_stream
        ]
        return subtract(ranges, requested) if requested else ranges

    def pop_outcomes(self) -> list[tuple[PeerId, int, int]]:
        """Who kept and broke how many promises since the last call."""
        outcomes = [(peer_id, kept, broken) for peer_id, (kept, broken) in self._outcomes.items()]
        self._outcomes.clear()
        return outcomes

    def is_waiting(self, now: float) -> bool:
        """Whether somebody may still send what was asked for."""
        return any(request.exclusive_until > now for request in self._open.values())
