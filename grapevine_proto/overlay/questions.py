"""Which peer was asked for what in rounds of anti-entropy and may still send it.

What one peer was asked for, no other is asked for meanwhile. That is a privilege of peers that give what
they claim to have: otherwise one peer could keep a message from us by claiming it and never sending it.

Invariants:
- A question keeps others away for as long as `ask` says after it was put or after it last brought
  something new, and never longer than `QUESTION_LIMIT_S`.
- A peer whose question brought nothing keeps nobody away for `BROKEN_S`.
- At most `QUESTIONS_LIMIT` questions and as many peers that broke their promise; the oldest are evicted.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, TypeAlias

from grapevine_proto.ids import PeerId, Stream, StreamRange
from grapevine_proto.overlay.ranges import without

QUESTION_LIMIT_S: Final = 10.0  # 10 MiB at 8 Mbit/s; then it may be quicker elsewhere
BROKEN_S: Final = 60.0
ANSWER_S: Final = 3.0  # for something new, or the promise is broken
QUESTIONS_LIMIT: Final = 1024  # two for each of all sessions by default

Asked: TypeAlias = tuple[PeerId, bool]
"""Who was asked, and whether in a round of its own: a peer may be asked one thing in each."""


class _Question:
    __slots__ = ("brought", "due_at", "ends_at", "patience_s", "ranges", "until")

    def __init__(self, ranges: tuple[StreamRange, ...], now: float, patience_s: float) -> None:
        self.ranges = ranges
        self.patience_s = patience_s
        self.ends_at = now + QUESTION_LIMIT_S
        self.until = now + patience_s  # others are kept away
        self.due_at = now + max(patience_s, ANSWER_S)  # then it counts as not answered
        self.brought = False

    def renew(self, now: float) -> None:
        self.until = min(now + self.patience_s, self.ends_at)
        self.due_at = max(self.due_at, self.until)


class Questions:
    """All open questions. `broken` counts those that brought nothing."""

    def __init__(self) -> None:
        self._open: OrderedDict[Asked, _Question] = OrderedDict()
        self._by_stream: dict[Stream, dict[Asked, list[StreamRange]]] = {}
        self._broken: OrderedDict[PeerId, float] = OrderedDict()  # and until when
        self._news: dict[PeerId, list[int]] = {}  # promises kept and broken since `judged`
        self.broken = 0

    def __len__(self) -> int:
        return len(self._open)

    def ask(
        self, asked: Asked, ranges: tuple[StreamRange, ...], now: float, patience_s: float
    ) -> None:
        """`asked` is asked for `ranges`, which others need not be asked for meanwhile."""
        self.expire(now)
        self.close(asked, now)
        if not ranges or self._broken.get(asked[0], now) > now:
            return
        self._open[asked] = _Question(ranges, now, patience_s)
        for each in ranges:
            self._by_stream.setdefault(each.stream, {}).setdefault(asked, []).append(each)
        if len(self._open) > QUESTIONS_LIMIT:
            self._remove(next(iter(self._open)))

    def brought(self, peer_id: PeerId, now: float) -> None:
        """`peer_id` sent something new: more may be on its way."""
        for asked in ((peer_id, False), (peer_id, True)):
            question = self._open.get(asked)
            if question is not None:
                if not question.brought:
                    self._news.setdefault(peer_id, [0, 0])[0] += 1
                question.brought = True
                question.renew(now)

    def arriving(self, peer_id: PeerId, now: float) -> None:
        """Part of a large message comes from `peer_id`, which may be what it was asked for."""
        for asked in ((peer_id, False), (peer_id, True)):
            question = self._open.get(asked)
            if question is not None:
                question.renew(now)

    def close(self, asked: Asked, now: float) -> None:
        """Nothing more is expected of that question."""
        question = self._remove(asked)
        if question is not None and not question.brought:
            self._break(asked[0], now)

    def forget(self, peer_id: PeerId) -> None:
        """The link with `peer_id` is gone."""
        self._remove((peer_id, False))
        self._remove((peer_id, True))

    def expire(self, now: float) -> None:
        """Close what was not answered in time."""
        for asked in [each for each, question in self._open.items() if question.due_at <= now]:
            self.close(asked, now)

    def _break(self, peer_id: PeerId, now: float) -> None:
        self.broken += 1
        self._news.setdefault(peer_id, [0, 0])[1] += 1
        self._broken[peer_id] = now + BROKEN_S
        self._broken.move_to_end(peer_id)
        if len(self._broken) > QUESTIONS_LIMIT:
            self._broken.popitem(last=False)

    def _remove(self, asked: Asked) -> _Question | None:
        question = self._open.pop(asked, None)
        for each in question.ranges if question is not None else ():
            by_asked = self._by_stream.get(each.stream)
            if by_asked is not None:
                by_asked.pop(asked, None)
                if not by_asked:
                    del self._by_stream[each.stream]
        return question

    def free(
        self, ranges: list[StreamRange], now: float, *, but: Asked | None = None
    ) -> list[StreamRange]:
        """What of `ranges` nobody, `but` the one who is to be asked, has been asked for."""
        taken = [
            each
            for stream in dict.fromkeys(each.stream for each in ranges)
            for asked, of_stream in self._by_stream.get(stream, {}).items()
            if asked != but and self._open[asked].until > now
            for each in of_stream
        ]
        return without(ranges, taken) if taken else ranges

    def judged(self) -> list[tuple[PeerId, int, int]]:
        """Who kept and broke how many promises since the last call."""
        news = [(peer_id, kept, broken) for peer_id, (kept, broken) in self._news.items()]
        self._news.clear()
        return news

    def is_busy(self, now: float) -> bool:
        """Whether somebody may still send what was asked for."""
        return any(question.until > now for question in self._open.values())
