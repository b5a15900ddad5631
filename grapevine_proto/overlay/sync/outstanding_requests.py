"""Outstanding requests: what each peer was asked for in anti-entropy rounds and may still send.

While one peer may send a range, no other is asked for it. Only peers that deliver what they claim
to have get this exclusivity; otherwise a peer could withhold a message by claiming it and never
sending it.

Invariants:

- A request is exclusive for its timeout after it was sent or last made progress, and never longer
  than `REQUEST_LIFETIME_LIMIT_S`.
- A peer whose request brought nothing gets no exclusivity for `BROKEN_PROMISE_S`.
- A batch costs at most `RANGES_SCANNED_LIMIT` ranges to find, whatever a peer claims to have and however much
  is missing here.
- At most `REQUESTS_LIMIT` requests, and as many peers with broken promises; the oldest are evicted.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, TypeAlias

from grapevine_proto.ids import PeerId, Stream, StreamRange
from grapevine_proto.overlay.store.message_store import MessageStore
from grapevine_proto.overlay.store.ranges import first_batch, subtract

REQUEST_LIFETIME_LIMIT_S: Final = 10.0  # 10 MiB at 8 Mbit/s; after that another peer may be faster
BROKEN_PROMISE_S: Final = 60.0
FIRST_ANSWER_TIMEOUT_S: Final = 3.0  # for anything new, or the promise counts as broken
RANGES_SCANNED_LIMIT: Final = 256  # missing ranges per batch: 0.2 ms
REQUESTS_LIMIT: Final = 1024  # two for each session at the default limits

RequestKey: TypeAlias = tuple[PeerId, bool]
"""The peer, and whether the request belongs to a round of its own: it may have one request in each.
"""


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
        self.exclusive_until = now + timeout_s  # until then no other peer is asked
        self.answer_due_at = now + max(
            timeout_s, FIRST_ANSWER_TIMEOUT_S
        )  # then the promise is broken
        self.has_progress = False

    def extend(self, now: float) -> None:
        self.exclusive_until = min(now + self.timeout_s, self.expires_at)
        self.answer_due_at = max(self.answer_due_at, self.exclusive_until)


class OutstandingRequests:
    """All outstanding requests. `broken_promises` counts those that brought nothing."""

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
        """Record that `key` was asked for `ranges`, exclusively for `timeout_s` from `now`."""
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
        """`peer_id` sent something new: extend its requests."""
        for key in ((peer_id, False), (peer_id, True)):
            request = self._open.get(key)
            if request is not None:
                if not request.has_progress:
                    self._outcomes.setdefault(peer_id, [0, 0])[0] += 1
                request.has_progress = True
                request.extend(now)

    def on_fragment(self, peer_id: PeerId, now: float) -> None:
        """A fragment arrived from `peer_id`, perhaps of a requested message: extend its requests."""
        for key in ((peer_id, False), (peer_id, True)):
            request = self._open.get(key)
            if request is not None:
                request.extend(now)

    def close(self, key: RequestKey, now: float) -> None:
        """Close a request; without progress it is a broken promise."""
        request = self._remove(key)
        if request is not None and not request.has_progress:
            self._record_broken(key[0], now)

    def remove_peer(self, peer_id: PeerId) -> None:
        """Remove the requests of a peer whose link closed."""
        self._remove((peer_id, False))
        self._remove((peer_id, True))

    def expire(self, now: float) -> None:
        """Close the requests that were not answered in time."""
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
        """The part of `ranges` that no peer other than `exclude` has been asked for."""
        requested = [
            each
            for stream in dict.fromkeys(each.stream for each in ranges)
            for key, of_stream in self._by_stream.get(stream, {}).items()
            if key != exclude and self._open[key].exclusive_until > now
            for each in of_stream
        ]
        return subtract(ranges, requested) if requested else ranges

    def next_batch(
        self,
        key: RequestKey,
        candidates: OrderedDict[Stream, StreamRange],
        store: MessageStore,
        now: float,
    ) -> tuple[StreamRange, ...]:
        """The next request for `key`: the part of `candidates` that is missing in `store` and not requested
        from others. Removes it, and all that need not be requested, from `candidates`.
        """
        batch: list[StreamRange] = []
        scanned = 0
        while candidates and scanned < RANGES_SCANNED_LIMIT:
            stream, entry = candidates.popitem(last=False)
            scan_budget = RANGES_SCANNED_LIMIT - scanned
            missing = store.missing(entry, now, scan_budget)
            scanned += len(missing) + 1
            next_first = missing[-1].last + 1 if len(missing) == scan_budget else entry.last + 1
            batch, rest = first_batch(batch + self.unrequested(missing, now, exclude=key))
            if rest:
                next_first = rest[0].first
            if next_first <= entry.last:
                candidates[stream] = StreamRange(stream, next_first, entry.last)
                candidates.move_to_end(stream, last=False)
            if rest:
                break
        return tuple(batch)

    def pop_outcomes(self) -> list[tuple[PeerId, int, int]]:
        """For each peer, the promises kept and broken since the last call."""
        outcomes = [(peer_id, kept, broken) for peer_id, (kept, broken) in self._outcomes.items()]
        self._outcomes.clear()
        return outcomes

    def is_waiting(self, now: float) -> bool:
        """Whether any requested message may still arrive."""
        return any(request.exclusive_until > now for request in self._open.values())
