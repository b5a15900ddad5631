"""Queries that every node answers by itself, under names that begin with ``grapevine.``.

    grapevine.version   the version of the library
    grapevine.keys      fingerprints of the cluster keys that the node accepts, as a JSON list
    grapevine.links     its connected peers, as a JSON list of objects
    grapevine.stats     its counters, as a JSON object
    grapevine.has       whether the message whose ID is the payload is cached here, and how it came, as a JSON
                        object; refused if the payload is no message ID

Invariants:

- An answer fits `MAX_ANSWER_BYTES`: a list is cut, and says so by its length in `grapevine.links`.
- With `NodeConfig.builtin_queries` false, all of them are refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Final, Protocol

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.events import JsonObject, PeerInfo, Question, Stats
from grapevine_proto.ids import MessageId
from grapevine_proto.overlay.store.message_cache import Arrival
from grapevine_proto.version import __version__

BUILTIN_PREFIX: Final = "grapevine."
BUILTIN_QUERIES: Final = tuple(
    f"{BUILTIN_PREFIX}{name}" for name in ("has", "keys", "links", "stats", "version")
)
LINKS_LIMIT: Final = 200  # peers in an answer: 30 KiB


class AnsweringNode(Protocol):
    """What the answers are read from."""

    @property
    def config(self) -> NodeConfig: ...

    def peers(self) -> list[PeerInfo]: ...

    def stats(self) -> Stats: ...

    def arrival_to_dict(self, message_id: MessageId) -> JsonObject: ...


def builtin_handlers(node: AnsweringNode) -> dict[str, Callable[[Question], bytes | None]]:
    """Returns the handler of each name."""

    def version(_: Question) -> bytes:
        return __version__.encode()

    def keys(_: Question) -> bytes:
        return _json([key.fingerprint for key in node.config.keys])

    def links(_: Question) -> bytes:
        connected = [peer for peer in node.peers() if peer.state.is_connected]
        return _json(
            [
                {
                    "peer_id": str(peer.peer_id),
                    "address": str(peer.address),
                    "state": peer.state.value,
                    "rtt_ms": None if peer.rtt_s is None else round(peer.rtt_s * 1000, 3),
                    "lost": peer.lost,
                }
                for peer in connected[:LINKS_LIMIT]
            ]
        )

    def stats(_: Question) -> bytes:
        return _json(node.stats().to_dict())

    def has(question: Question) -> bytes | None:
        try:
            message_id = MessageId.parse(question.payload.decode("ascii"))
        except ValueError:
            return None  # not an error of this program: any member may send any payload
        return _json(node.arrival_to_dict(message_id))

    def guarded(handler: Callable[[Question], bytes | None]) -> Callable[[Question], bytes | None]:
        return lambda question: handler(question) if node.config.builtin_queries else None

    handlers = {"version": version, "keys": keys, "links": links, "stats": stats, "has": has}
    return {f"{BUILTIN_PREFIX}{name}": guarded(handler) for name, handler in handlers.items()}


def arrival_fields(arrival: Arrival | None, now: float) -> JsonObject:
    """How a broadcast came, as ``grapevine.has`` answers it; `now` is on the clock of the node."""
    if arrival is None:
        return {"cached": False}
    return {
        "cached": True,
        "via": arrival.via.value,
        "hops": arrival.hops,
        "age_ms": arrival.age_ms,
        "from": str(arrival.source),
        "cached_s": round(max(now - arrival.cached_at, 0.0), 3),
    }


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")
