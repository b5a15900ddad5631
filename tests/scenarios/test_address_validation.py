"""Proof once: what an origin says over its own session is delivered at once, and its signature is
checked before it goes any further."""

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
def checked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[PeerId, int]]:
    """(origin, first sequence) of every rumor whose signature is checked."""
    checks: list[tuple[PeerId, int]] = []
    real = Rumor.is_authentic

    def is_authentic(rumor: Rumor, cluster: str) -> bool:
        checks.append((rumor.origin, rumor.first))
        return real(rumor, cluster)

    monkeypatch.setattr(Rumor, "is_authentic", is_authentic)
    return checks


def badly_signed(number: int, first: int, payload: bytes = b"false") -> Rumor:
    return replace(rumor_of(number, first, payload), signature=bytes(64))


def pushed(*rumors: Rumor) -> Rumors:
    return Rumors(tuple(RumorCopy(rumor, 0, 0) for rumor in rumors))


def want(rumor: Rumor) -> IWant:
    return IWant(0, (StreamRange(rumor.stream, rumor.first, rumor.last),))


# --- two nodes ----------------------------------------------------------------------------------


def test_what_its_origin_tells_over_its_session_is_delivered_without_a_check(
    checked: list[tuple[PeerId, int]],
) -> None:
    pair = Pair()
    pair.one.broadcast(b"first hand", pair.now)
    pair.exchange()
    assert pair.received(pair.other) == [b"first hand"]
    assert checked == []


def test_what_another_tells_of_an_origin_is_checked_before_it_is_delivered(
    checked: list[tuple[PeerId, int]],
) -> None:
    pair = Pair()
    pair.speak(pushed(rumor_of(3, 1)))
    assert pair.received(pair.other) == [b"true"]
    assert len(checked) == 1


def test_a_rumor_of_another_run_of_its_origin_is_checked_before_it_is_delivered(
    checked: list[tuple[PeerId, int]],
) -> None:
    pair = Pair()
    pair.speak(pushed(rumor_of(1, 1, epoch=EPOCH + 1)))
    assert pair.received(pair.other) == [b"true"]
    assert len(checked) == 1
    bad = replace(rumor_of(1, 1, epoch=EPOCH + 2), signature=bytes(64))
    pair.speak(pushed(bad))
    assert pair.received(pair.other) == [b"true"]


def test_a_held_rumor_is_checked_when_it_is_first_asked_for_and_then_no_more(
    checked: list[tuple[PeerId, int]],
) -> None:
    pair = Pair()
    true = rumor_of(1, 1)
    pair.speak(pushed(true))
    for _ in range(3):
        assert (
            pair.other._overlay.store.cache.copy((true.origin, true.epoch, true.first), pair.now)
            is not None
        )
    assert len(checked) == 1


def test_a_badly_signed_rumor_is_not_given_out_and_is_held_no_more_and_its_origin_is_blamed() -> (
    None
):
    pair = Pair()
    bad = badly_signed(1, 1)
    pair.speak(pushed(bad))
    assert pair.received(pair.other) == [b"false"], "its origin did say it"
    assert pair.other.stats().cached == 1
    repairs = watch(pair.one, Repair)
    pair.speak(want(bad))
    assert all(not repair.copies for repair in repairs())
    assert pair.other.stats().cached == 0
    pair.run(1.5)
    assert pair.drops(pair.other)[DropReason.BAD_SIGNATURE] == 1


def test_what_was_let_go_as_badly_signed_stays_seen_and_is_never_delivered_again() -> None:
    pair = Pair()
    pair.speak(pushed(badly_signed(1, 1)))
    pair.speak(want(rumor_of(1, 1)))
    pair.speak(pushed(rumor_of(1, 1, b"well signed")))
    assert pair.received(pair.other) == [b"false"]


def test_the_third_bad_signature_that_comes_to_light_closes_the_link() -> None:
    pair = Pair()
    pair.speak(pushed(*(badly_signed(1, first) for first in (1, 2, 3))))
    assert pair.other._transport.links
    whole = IWant(0, (StreamRange(Stream(pair.one.peer_id, EPOCH), 1, 3),))
    pair.speak(whole)
    pair.run(1.5)
    assert pair.drops(pair.other)[DropReason.BAD_SIGNATURE] == 3
    moves = [e for e in pair.events[pair.other] if isinstance(e, PeerStateChanged)]
    assert [(m.peer.state, m.reason) for m in moves][1] == (
        PeerState.DISCONNECTED,
        "misconduct: bad signature",
    )


def test_without_checks_left_a_rumor_is_kept_back_and_given_later() -> None:
    pair = Pair()
    true = rumor_of(1, 1)
    pair.speak(pushed(true))
    signatures = pair.other._overlay.signatures
    forged = replace(true, signature=b"")
    while signatures.check(forged, pair.one.peer_id, pair.now) is DropReason.BAD_SIGNATURE:
        pass
    key = (true.origin, true.epoch, true.first)
    assert pair.other._overlay.store.cache.copy(key, pair.now) is None
    assert pair.other._overlay.store.cache.copy(key, pair.now + 1.0) is not None
    assert pair.other._overlay.store.cache.forgers == []


def test_one_origin_is_taken_at_its_word_only_as_often_as_its_budget_says(
    checked: list[tuple[PeerId, int]],
) -> None:
    pair = Pair(rate_limit=RateLimitConfig(capacity=10_000))
    while pair.other._overlay.signatures.allow_origin(pair.one.peer_id, pair.now):
        pass
    pair.speak(pushed(rumor_of(1, 1)))
    assert pair.received(pair.other) == []
    assert pair.drops(pair.other)[DropReason.SIGNATURE_BUDGET] == 1
    assert checked == []


def watch(engine: Engine, kind: type[Repair]) -> Callable[[], list[Repair]]:
    """What `engine` hears of one kind from now on."""
    heard: list[Repair] = []
    route = engine._overlay.handle

    def note(message: OverlayMessage, *rest: object) -> object:
        if isinstance(message, kind):
            heard.append(message)
        return route(message, *rest)  # type: ignore[arg-type]

    engine._overlay.handle = note  # type: ignore[method-assign, assignment]
    return lambda: heard


# --- a liar among others ------------------------------------------------------------------------


class Liar:
    """A cluster of which node 0 signs badly, and everybody relays what they can."""

    def __init__(self, nodes: int) -> None:
        self.heard: dict[int, list[bytes]] = {number: [] for number in range(nodes)}
        always = EpidemicConfig(forward_probability=1.0)
        self.sim = Simulation(nodes=nodes, seed=7, config=NodeConfig(epidemic=always))
        self.sim.listen(self._note)
        self.sim.run(15.0)
        self.engine = self._engine(0)

    def _engine(self, number: int) -> Engine:
        engine = self.sim.nodes[number].engine
        assert engine is not None
        return engine

    def _note(self, at: float, number: int, event: object) -> None:
        if isinstance(event, MessageReceived):
            self.heard[number].append(event.message.payload)

    def tell(self, number: int, rumor: Rumor) -> None:
        """Say `rumor` to one node alone."""
        node = self.sim.nodes[0]
        link = self.engine._transport.links[self._engine(number).peer_id]
        self.engine._transport.links.enqueue(
            link, codec.encode_message(pushed(rumor)), node.read_clock(self.sim.now)
        )
        self.sim._drive(node)

    def rumor(self, payload: bytes, *, well_signed: bool) -> Rumor:
        engine = self.engine
        rumor = Rumor.signed(engine._identity, "default", engine.epoch, 1, (payload,))
        return rumor if well_signed else replace(rumor, signature=bytes(64))


def test_a_badly_signed_rumor_goes_no_further_than_whom_its_origin_tells() -> None:
    liar = Liar(5)
    liar.tell(1, liar.rumor(b"false", well_signed=False))
    liar.sim.run(120.0)
    assert liar.heard == {0: [], 1: [b"false"], 2: [], 3: [], 4: []}
    told = liar._engine(1)
    assert dict(told.stats().dropped)[DropReason.BAD_SIGNATURE] == 1


def test_an_origin_that_says_two_things_under_one_id_makes_nobody_say_either_in_vain() -> None:
    """Each believes what the origin said to it; what others pass on is what it really signed."""
    liar = Liar(4)
    liar.tell(1, liar.rumor(b"to one alone", well_signed=False))
    liar.sim.run(0.5)
    liar.tell(2, liar.rumor(b"to the others", well_signed=True))
    liar.sim.run(60.0)
    assert liar.heard[1] == [b"to one alone"]
    assert liar.heard[2] == liar.heard[3] == [b"to the others"]


def test_a_well_signed_rumor_reaches_all_and_each_relay_checks_it_at_most_once(
    checked: list[tuple[PeerId, int]],
) -> None:
    liar = Liar(6)
    checked.clear()
    liar.tell(1, liar.rumor(b"true", well_signed=True))
    liar.sim.run(40.0)
    assert all(liar.heard[number] == [b"true"] for number in range(1, 6))
    assert 1 <= len(checked) <= 6, "once in each node"
