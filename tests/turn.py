"""One turn of an engine, as its driver takes it."""

from __future__ import annotations

from grapevine_proto.engine import Engine
from grapevine_proto.ids import Address


def take_turn(engine: Engine, now: float) -> list[tuple[bytes, Address]]:
    """Advance the engine if its deadline is reached; what it sends then."""
    if engine.deadline <= now:
        engine.advance(now)
    return engine.datagrams_to_send(now)
