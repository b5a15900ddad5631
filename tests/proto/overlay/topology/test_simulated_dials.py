"""The dialer in simulated clusters: outages, host names, and addresses that records only claim."""

from __future__ import annotations

from collections import Counter

import pytest

from grapevine_proto.errors import Offense
from grapevine_proto.events import DialFailed, Event, PeerState, PeerStateChanged
from grapevine_proto.ids import Address
from grapevine_proto.overlay.topology.dialer import (
    SAVED_ADDRESSES_LIMIT,
    UNVALIDATED_BURST,
    UNVALIDATED_HELLOS,
    UNVALIDATED_PER_S,
)
from grapevine_proto.sim.node import SimulatedNode
from grapevine_proto.wire.messages import Records
from grapevine_proto.wire.signed import PeerRecord
from tests.proto.overlay.builders import identity
from tests.proto.overlay.membership.test_membership import cluster, engine_of
from tests.scenarios.malicious_member import MaliciousMember


def absent_member_records(count: int, host: str) -> list[PeerRecord]:
    """Signed records of members that do not exist, all on one host."""
    records = []
    for number in range(count):
        signer = identity(7000 + number)
        addresses = (Address(host, 10_000 + number),)
        records.append(
            PeerRecord(signer.peer_id, 1, 0, addresses, "", "ghost", 0, 0, False).signed(
                signer, "default"
            )
        )
    return records


def test_claimed_addresses_get_few_datagrams_whatever_records_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sim = cluster(4)
    sim.run(10.0)
    sent: Counter[str] = Counter()
    send = sim._send

    def note(node: SimulatedNode, datagram: bytes, address: Address) -> None:
        sent[address.host] += 1
        send(node, datagram, address)

    monkeypatch.setattr(sim, "_send", note)
    malicious_member, claims = MaliciousMember(sim, 3), absent_member_records(64, "203.0.113.80")
    for first in range(0, 64, 8):
        malicious_member.send(Records(tuple(claims[first : first + 8])))
    sim.run(300.0)
    limit = UNVALIDATED_HELLOS * (UNVALIDATED_BURST + 310 * UNVALIDATED_PER_S)
    assert 0 < sent["203.0.113.80"] <= 4 * limit
    assert sim.connected(0) == 3


def test_a_host_name_stands_for_its_current_addresses() -> None:
    sim = cluster(2)
    sim.add(bootstrap=[], bootstrap_peers=("pods.example:8000",))
    sim.run(1.0)
    engine, node = engine_of(sim, 2), sim.nodes[2]
    for number in range(200):  # successive deployments, none of which runs any more
        gone = (Address(f"10.77.{number}.1", 8000),)
        engine.on_resolved("pods.example:8000", gone, node.read_clock(sim.now))
        sim.run(1.0)
    assert len(engine._overlay.membership.dialer._targets) == 1
    engine.on_resolved("pods.example:8000", (sim.nodes[0].address,), node.read_clock(sim.now))
    sim._drive(node)
    assert sim.run_until(lambda: sim.connected(2) >= 1, 5.0)


def test_a_new_bootstrap_address_does_not_wait_for_many_unanswered_ones() -> None:
    sim = cluster(1)
    dead = tuple(f"10.78.{number}.1:8000" for number in range(200))
    sim.add(bootstrap=[], bootstrap_peers=dead)
    sim.run(120.0)
    sim.reconfigure(1, bootstrap_peers=(*dead, str(sim.nodes[0].address)))
    assert sim.run_until(lambda: sim.connected(1) == 1, 5.0)


def test_an_unresolved_name_is_reported_once_per_outage() -> None:
    sim = cluster(1)
    failures: list[DialFailed] = []
    sim.listen(
        lambda _, __, event: failures.append(event) if isinstance(event, DialFailed) else None
    )
    sim.add(bootstrap=[], bootstrap_peers=("nobody.invalid:8000",))
    sim.run(1.0)
    engine, node = engine_of(sim, 1), sim.nodes[1]
    for addresses in ((), (), (Address("10.1.1.1", 1),), ()):
        engine.on_resolved("nobody.invalid:8000", addresses, node.read_clock(sim.now))
        sim._drive(node)
    reason = "the name does not resolve"
    assert [each for each in failures if each.reason == reason] == [
        DialFailed("nobody.invalid:8000", reason)
    ] * 2


@pytest.mark.parametrize("down_s", [150.0, 8 * 3600.0])
def test_an_outage_of_any_length_loses_no_saved_address(down_s: float) -> None:
    """Both nodes start while the network is down and know no other node."""
    sim = cluster(2)
    sim.run(10.0)
    for number in (0, 1):
        sim.nodes[number].config = sim.nodes[number].config.replace(bootstrap_peers=())
    sim.partition({0})
    for number in (0, 1):
        sim.crash(number)
        sim.restart(number)
    sim.run(down_s)
    for number in (0, 1):  # restart again from the state saved during the outage
        sim.crash(number)
        sim.restart(number)
    sim.run(60.0)
    sim.heal()
    assert sim.run_until(lambda: sim.connected(0) == sim.connected(1) == 1, 30.0)


def test_saved_addresses_are_limited_and_list_linked_peers_first() -> None:
    sim = cluster(3)
    sim.run(10.0)
    dialer, now = engine_of(sim, 0)._overlay.membership.dialer, 1e9
    known = tuple((identity(each).peer_id, Address("10.5.5.5", 1 + each)) for each in range(100))
    dialer.remember(known, now)
    assert len(dialer._targets) <= SAVED_ADDRESSES_LIMIT + 3
    assert len(dialer.known_addresses()) == SAVED_ADDRESSES_LIMIT
    assert {each for each, _ in dialer.known_addresses()[:2]} == {n.peer_id for n in sim.nodes[1:]}


def test_a_dial_that_fails_at_once_is_reported_after_the_discovery() -> None:
    """The dial of a member that is expelled for misconduct is refused before any packet."""
    sim = cluster(2)
    sim.run(5.0)
    number = sim.add(bootstrap=[1])
    sim.run_until(lambda: sim.nodes[number].peer_id is not None, 5.0)
    newcomer = sim.nodes[number].peer_id
    assert newcomer is not None
    changes: list[tuple[PeerState | None, PeerState]] = []

    def listen(_: float, reporter: int, event: Event) -> None:
        if reporter == 0 and isinstance(event, PeerStateChanged) and event.peer.peer_id == newcomer:
            changes.append((event.previous, event.peer.state))

    sim.listen(listen)
    engine, now = engine_of(sim, 0), sim.nodes[0].read_clock(sim.now)
    engine._transport.links.peer_limits.get_or_create(newcomer, now)
    list(engine._transport.penalize(newcomer, Offense.BAD_SIGNATURE, 100, now))
    sim.run(10.0)
    connecting, disconnected = PeerState.CONNECTING, PeerState.DISCONNECTED
    assert changes[:2] == [(None, connecting), (connecting, disconnected)]
