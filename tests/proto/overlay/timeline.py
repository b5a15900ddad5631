"""Runs one component of the overlay from deadline to deadline, and collects what it sends."""

from __future__ import annotations

import math
from typing import Protocol, TypeVar

from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.effects import Effect, Send
from grapevine_proto.overlay.peers import PeerTable, PeerTrigger
from tests.proto.overlay.builders import peer_id, record

M = TypeVar("M")


class Component(Protocol):
    """What has a deadline, at which it is to be advanced."""

    @property
    def deadline(self) -> float: ...

    def advance(self, now: float) -> list[Effect]: ...


def advance(component: Component) -> tuple[float, list[Effect]]:
    """Advance to the next deadline; the time and the effects."""
    at = component.deadline
    assert at < math.inf
    return at, component.advance(at)


def sent(component: Component, kind: type[M], until: float = 60.0) -> list[tuple[float, PeerId, M]]:
    """All messages of a kind that are sent until `until`, with their time and receiver."""
    found: list[tuple[float, PeerId, M]] = []
    while component.deadline <= until:
        at, effects = advance(component)
        for effect in effects:
            if isinstance(effect, Send) and isinstance(effect.message, kind):
                found += [(at, peer, effect.message) for peer in effect.peers]
    return found


def link(peers: PeerTable, number: int, rtt_s: float = 0.05) -> None:
    """Adds a link with peer `number`."""
    peer = peers.add(peer_id(number), record(number), record(number).addresses[0], 0.0)
    peers.transition(peer, PeerTrigger.LINKED)
    peer.update_rtt(rtt_s)
