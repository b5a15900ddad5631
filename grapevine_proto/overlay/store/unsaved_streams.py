"""Which streams changed since their state was last saved.

Invariants:

- Until the first `take` every stream counts as changed, and nothing is kept: a node that saves nothing pays
  nothing.
- At most `limit` streams are kept; beyond it every stream counts as changed again.
"""

from __future__ import annotations

from grapevine_proto.ids import Stream


class UnsavedStreams:
    """The streams whose saved state is out of date."""

    __slots__ = ("_is_any", "_limit", "_streams")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._is_any = True  # any stream may have changed
        self._streams: dict[Stream, None] = {}

    def mark(self, stream: Stream) -> None:
        """Notes that `stream` changed, appeared or was removed."""
        if self._is_any:
            return
        self._streams[stream] = None
        if len(self._streams) > self._limit:
            self._streams = {}
            self._is_any = True

    def take(self) -> list[Stream] | None:
        """Returns the streams that changed since the last call, in the order of their first change; None if
        any may have."""
        streams, self._streams = self._streams, {}
        is_any, self._is_any = self._is_any, False
        return None if is_any else list(streams)
