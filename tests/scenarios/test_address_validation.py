"""Deferred verification: what an origin sends over its own session is delivered at once, and its
signature is checked before it is forwarded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.config.sections import EpidemicConfig, RateLimitConfig
from grapevine_proto.engine import Engine
from grapevine_proto.errors import DropReason
from grapevine_proto.events import MessageReceived, PeerState, PeerStateChanged
from grapevine_proto.ids import PeerId, Stream, StreamRange
from grapevine_proto.sim import Simulation
from grapevine_proto.wire import codec
from grapevine_proto.wire.messages import IWant, OverlayMessage, Repair, RumorCopy, Rumors
from grapevine_proto.wire.signed import Rumor
from tests.proto.overlay.builders import EPOCH
from tests.proto.test_engine import Pair, rumor_of


@pytest.fixture
def checked(patch_sources: pytest.MonkeyPatch) -> list[tuple[PeerId, int]]:
    """(origin, first sequence) of every rumor whose signature is checked."""
    checks: list[tuple[PeerId, int]] = []
    real = Rumor.is_authentic

    def is_authentic(rumor: Rumor, cluster: str) -> bool:
        checks.append((rumor.origin, rumor.first))
        return real(rumor, cluster)

    patch_sources.setattr(Rumor, "is_authentic", is_authentic)
    return checks


def forged_rumor(number: int, first: int, payload: bytes = b"false") -> Rumor:
    return replace(rumor_of(number, first, payload), signature=bytes(64))


def push(*rumors: Rumor) -> Rumors:
    return Rumors(tuple(RumorCopy(rumor, 0, 0) for rumor in rumors))


def request_for(rumor: Rumor) -> IWant:
    return IWant(0, (StreamRange(rumor.stream, rumor.first, rumor.last),))


# --- two nodes ----------------------------------------------------------------------------------


def test_a_rumor_from_its_origins_session_is_delivered_without_a_check(
    checked: list[tuple[PeerId, int]],
) -> None:
    pair = Pair()
    pair.one.broadcast(b"first hand", pair.now)
    pair.exchange()
    assert pair.received(pair.other) == [b"first hand"]
    assert checked == []


@pytest.mark.usefixtures("patch_sources")
def test_a_relayed_rumor_is_checked_before_delivery(
    checked: list[tuple[PeerId, int]],
) -> None:
    pair = Pair()
    pair.inject(push(rumor_of(3, 1)))
    assert pair.received(pair.other) == [b"true"]
    assert len(checked) == 1


@pytest.mark.usefixtures("patch_sources")
def test_a_rumor_of_another_epoch_is_checked_before_delivery(
    checked: list[tuple[PeerId, int]],
) -> None:
    pair = Pair()
    pair.inject(push(rumor_of(1, 1, epoch=EPOCH + 1)))
    assert pair.received(pair.other) == [b"true"]
    assert len(checked) == 1
    forged = replace(rumor_of(1, 1, epoch=EPOCH + 2), signature=bytes(64))
    pair.inject(push(forged))
    assert pair.received(pair.other) == [b"true"]


@pytest.mark.usefixtures("patch_sources")
def test_a_cached_rumor_is_checked_once_when_first_requested(
    checked: list[tuple[PeerId, int]],
) -> None:
    pair = Pair()
    authentic = rumor_of(1, 1)
    pair.inject(push(authentic))
    for _ in range(3):
        assert (
            pair.other._overlay.store.cache.copy(
                (authentic.origin, authentic.epoch, authentic.first), pair.now
            )
            is not None
        )
    assert len(checked) == 1


@pytest.mark.usefixtures("patch_sources")
def test_a_forged_rumor_is_removed_at_the_first_request_and_charged_to_its_origin() -> None:
    pair = Pair()
    forged = forged_rumor(1, 1)
    pair.inject(push(forged))
    assert pair.received(pair.other) == [b"false"], "its origin did send it"
    assert pair.other.stats().cached == 1
    repairs = watch(pair.one, Repair)
    pair.inject(request_for(forged))
    assert all(not repair.copies for repair in repairs())
    assert pair.other.stats().cached == 0
    pair.run(1.5)
    assert pair.drops(pair.other)[DropReason.BAD_SIGNATURE] == 1


def test_a_removed_forged_rumor_stays_seen_and_is_not_delivered_again() -> None:
    pair = Pair()
    pair.inject(push(forged_rumor(1, 1)))
    pair.inject(request_for(rumor_of(1, 1)))
    pair.inject(push(rumor_of(1, 1, b"well signed")))
    assert pair.received(pair.other) == [b"false"]


def test_the_third_forged_rumor_closes_the_link() -> None:
    pair = Pair()
    pair.inject(push(*(forged_rumor(1, first) for first in (1, 2, 3))))
    assert pair.other._transport.links
    full_range = IWant(0, (StreamRange(Stream(pair.one.peer_id, EPOCH), 1, 3),))
    pair.inject(full_range)
    pair.run(1.5)
    assert pair.drops(pair.other)[DropReason.BAD_SIGNATURE] == 3
    changes = [e for e in pair.events[pair.other] if isinstance(e, PeerStateChanged)]
    assert [(m.peer.state, m.reason) for m in changes][1] == (
        PeerState.DISCONNECTED,
        "misconduct: bad signature",
    )


def test_without_check_budget_a_rumor_is_withheld_and_sent_later() -> None:
    pair = Pair()
    authentic = rumor_of(1, 1)
    pair.inject(push(authentic))
    verifier = pair.other._overlay.verifier
    unsigned = replace(authentic, signature=b"")
    while verifier.check(unsigned, pair.one.peer_id, pair.now) is DropReason.BAD_SIGNATURE:
        pass
    key = (authentic.origin, authentic.epoch, authentic.first)
    assert pair.other._overlay.store.cache.copy(key, pair.now) is None
    assert pair.other._overlay.store.cache.copy(key, pair.now + 1.0) is not None
    assert pair.other._overlay.store.cache.forgers == []


def test_unverified_rumors_of_one_origin_are_limited_by_its_budget(
    checked: list[tuple[PeerId, int]],
) -> None:
    pair = Pair(rate_limit=RateLimitConfig(capacity=10_000))
    while pair.other._overlay.verifier.allow_origin(pair.one.peer_id, pair.now):
        pass
    pair.inject(push(rumor_of(1, 1)))
    assert pair.received(pair.other) == []
    assert pair.drops(pair.other)[DropReason.SIGNATURE_BUDGET] == 1
    assert checked == []


def watch(engine: Engine, kind: type[Repair]) -> Callable[[], list[Repair]]:
    """The messages of one kind that `engine` receives from now on."""
    received: list[Repair] = []
    route = engine._overlay.handle

    def note(message: OverlayMessage, *rest: object) -> object:
        if isinstance(message, kind):
            received.append(message)
        return route(message, *rest)  # type: ignore[arg-type]

    engine._overlay.handle = note  # type: ignore[method-assign, assignment]
    return lambda: received


# --- a malicious origin -------------------------------------------------------------------------


class ForgingOrigin:
    """A cluster in which node 0 signs badly and all nodes relay what they can."""

    def __init__(self, nodes: int) -> None:
        self.received: dict[int, list[bytes]] = {number: [] for number in range(nodes)}
        always_forward = EpidemicConfig(forward_probability=1.0)
        self.sim = Simulation(nodes=nodes, seed=7, config=NodeConfig(epidemic=always_forward))
        self.sim.listen(self._note)
        self.sim.run(15.0)
        self.engine = self._engine(0)

    def _engine(self, number: int) -> Engine:
        engine = self.sim.nodes[number].engine
        assert engine is not None
        return engine

    def _note(self, at: float, number: int, event: object) -> None:
        if isinstance(event, MessageReceived):
            self.received[number].append(event.message.payload)

    def send_to(self, number: int, rumor: Rumor) -> None:
        """Send `rumor` to one node only."""
        node = self.sim.nodes[0]
        link = self.engine._transport.links[self._engine(number).peer_id]
        self.engine._transport.links.enqueue(
            link, codec.encode_message(push(rumor)), node.read_clock(self.sim.now)
        )
        self.sim._drive(node)

    def rumor(self, payload: bytes, *, is_signed: bool) -> Rumor:
        engine = self.engine
        rumor = Rumor.signed(engine._identity, "default", engine.epoch, 1, (payload,))
        return rumor if is_signed else replace(rumor, signature=bytes(64))


def test_a_forged_rumor_reaches_only_the_peers_its_origin_sends_it_to() -> None:
    forger = ForgingOrigin(5)
    forger.send_to(1, forger.rumor(b"false", is_signed=False))
    forger.sim.run(120.0)
    assert forger.received == {0: [], 1: [b"false"], 2: [], 3: [], 4: []}
    receiver = forger._engine(1)
    assert dict(receiver.stats().dropped)[DropReason.BAD_SIGNATURE] == 1


def test_an_origin_with_two_contents_under_one_id_harms_no_relay() -> None:
    """Each node believes what the origin sent to it; others forward only what it signed."""
    forger = ForgingOrigin(4)
    forger.send_to(1, forger.rumor(b"to one only", is_signed=False))
    forger.sim.run(0.5)
    forger.send_to(2, forger.rumor(b"to the others", is_signed=True))
    forger.sim.run(60.0)
    assert forger.received[1] == [b"to one only"]
    assert forger.received[2] == forger.received[3] == [b"to the others"]


@pytest.mark.usefixtures("patch_sources")
def test_an_authentic_rumor_reaches_all_nodes_and_each_relay_checks_it_at_most_once(
    checked: list[tuple[PeerId, int]],
) -> None:
    forger = ForgingOrigin(6)
    checked.clear()
    forger.send_to(1, forger.rumor(b"true", is_signed=True))
    forger.sim.run(40.0)
    assert all(forger.received[number] == [b"true"] for number in range(1, 6))
    assert 1 <= len(checked) <= 6, "once in each node"
