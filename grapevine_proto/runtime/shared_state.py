"""The keyed state as programs see it: `Node.state`.

Invariants: reading is local and never waits. Writing waits as `Node.broadcast` does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Self

from grapevine_proto.config.validate import (
    BytesLike,
    Seconds,
    check_type,
    payload_bytes,
    whole_seconds,
)
from grapevine_proto.engine import Engine
from grapevine_proto.errors import InvalidArgument
from grapevine_proto.events import EntryChanged, EventsLost, KeyInfo
from grapevine_proto.ids import PeerId
from grapevine_proto.runtime.event_queue import EventStream
from grapevine_proto.wire.entry_terms import key_fault

WATCHED_EVENTS: Final = (EntryChanged, EventsLost)
Submit = Callable[[Callable[[Engine, float], object], int], Awaitable[object]]


class EntryWatch:
    """An async iterator over the changes of keys with one prefix, returned by `SharedState.watch`. One task
    may read it. It ends when the node has stopped, or with `aclose`. `lost` counts changes dropped because
    this reader was too slow: read the keys again then."""

    def __init__(self, events: EventStream, prefix: str) -> None:
        self.prefix = prefix
        self.lost = 0
        self._events = events

    async def aclose(self) -> None:
        """Ends the iteration at once."""
        await self._events.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> EntryChanged:
        while True:
            match await self._events.__anext__():
                case EntryChanged() as change if change.key.startswith(self.prefix):
                    return change
                case EventsLost(count):
                    self.lost += count


class SharedState:
    """The state that all members share: each member writes its own entries, and all see them.

    The value of a key is that of its winner, the latest entry that any member set. No member overwrites the
    entries of another. If the winner's owner is denied, the next entry becomes the winner. Values are
    untrusted: any member may set any key.
    """

    def __init__(
        self,
        engine: Callable[[], Engine],
        now: Callable[[], float],
        submit: Submit,
        open_stream: Callable[..., EventStream],
    ) -> None:
        self._engine = engine
        self._now = now
        self._submit = submit
        self._open_stream = open_stream

    async def set(
        self, key: str, value: BytesLike, *, ttl: Seconds | None = None, durable: bool = False
    ) -> None:
        """Sets the entry of this node under `key`. This node sees it at once, and others as soon as a
        broadcast.

        Args:
            key: 1 to 128 bytes of text. Keys under ``tag/`` are tags.
            value: a bytes-like object of at most 4 KiB. A node may have 256 keys, of 64 KiB with their
                values.
            ttl: seconds after which the entry is deleted, rounded up; None: never.
            durable: whether another member adopts the entry if this node is gone for long
                (`state.keep`).

        Raises:
            InvalidArgument: not a key, a value or a duration.
            MessageTooLarge: the value has more than 4 KiB.
            StateFull: this node has too many keys or bytes.
            NotRunning: the node has not started or has left.
        """
        ttl_s = whole_seconds("ttl", ttl)
        if type(durable) is not bool:
            raise InvalidArgument(f"durable: expected true or false, not {durable!r:.40}")
        payload = payload_bytes(value)
        if fault := key_fault(key):
            raise InvalidArgument(f"key: {fault}")

        def write(engine: Engine, now: float) -> None:
            engine.set_entry(key, payload, now, ttl_s=ttl_s, is_durable=durable)

        await self._submit(write, len(payload))

    async def delete(self, key: str) -> bool:
        """Deletes `key`, at all members: a deleted entry of this node becomes the winner. Older entries of
        other members stay, without effect.

        Returns:
            Whether it had a value; nothing is sent if not.

        Raises:
            InvalidArgument: not a key.
            NotRunning: the node has not started or has left.
        """
        if fault := key_fault(key):
            raise InvalidArgument(f"key: {fault}")
        return bool(await self._submit(lambda engine, now: engine.delete_entry(key, now), 0))

    def get(self, key: str) -> bytes | None:
        """Returns the value of `key`, that of the winner. None if there is no entry, or the winner is
        deleted. Raises InvalidArgument unless `key` is text."""
        check_type("key", key, str)
        return self._engine().state.shared.get(key, self._now())

    def get_all(self, key: str) -> dict[PeerId, bytes]:
        """Returns the values that members have set under `key`, by peer ID, that of the winner first. Raises
        InvalidArgument unless `key` is text."""
        check_type("key", key, str)
        return self._engine().state.shared.get_all(key, self._now())

    def __getitem__(self, peer_id: PeerId) -> dict[str, bytes]:
        """Returns the entries of one member, or of this node, by key; empty if it has none. Raises
        InvalidArgument unless it is a peer ID."""
        check_type("peer_id", peer_id, PeerId)
        return self._engine().state.shared.values_of(peer_id, self._now())

    def keys(self, prefix: str = "") -> list[KeyInfo]:
        """Returns every key that begins with `prefix`, sorted, with all its entries: the winner and the
        others, deleted ones included as long as they are remembered. Raises InvalidArgument unless `prefix`
        is text."""
        check_type("prefix", prefix, str)
        return self._engine().state.shared.keys(prefix, self._now())

    def watch(self, prefix: str = "") -> EntryWatch:
        """Returns an async iterator over the changes of entries from now on, of keys that begin with
        `prefix`; those of this node too. Raises InvalidArgument unless `prefix` is text."""
        check_type("prefix", prefix, str)
        return EntryWatch(self._open_stream(*WATCHED_EVENTS), prefix)
