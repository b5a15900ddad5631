"""Clusters behind NATs: which pairs of kinds link how, and what a lying common peer can do about it.

`python -m tests.scenarios.nats --seeds 200` plays every pair of kinds under loss and rebinding with many
seeds, and prints those that fail. `test_nats` plays a few. The liar replaces a part of the core, which is
therefore not compiled.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable
from typing import Final, TypeAlias

from grapevine_proto import NodeConfig, compiled
from grapevine_proto.errors import format_error
from grapevine_proto.events import PathKind, PeerInfo
from grapevine_proto.ids import Address
from grapevine_proto.sim import NatKind, Network, Simulation
from grapevine_proto.transport.introducer import Introducer
from grapevine_proto.wire import codec
from grapevine_proto.wire.messages import Introduction, ObservedAddress

LOSS: Final = 0.05
PUBLIC_NODES: Final = 3
FIRST, SECOND = PUBLIC_NODES, PUBLIC_NODES + 1  # behind NATs
LINKED_WITHIN_S: Final = 6.0  # after the start window of one second; lost datagrams are repeated
FOLLOWED_WITHIN_S: Final = 20.0
SHOWN_WITHIN_S: Final = 5.0
SENT_WITHIN_S: Final = 6.0  # a second, and time for lost datagrams
# Without loss, also to a member that the sender does not know yet, or whose NAT changed:
ARRIVED_WITHIN_S: Final = 1.0
RESUMED_WITHIN_S: Final = 2.0
VICTIM: Final = Address("203.0.113.66", 4444)
KINDS: Final = tuple(NatKind)
PAIRS: Final = tuple(itertools.combinations_with_replacement(KINDS, 2))
Check: TypeAlias = Callable[[tuple[NatKind, NatKind], int], list[str]]
HARD: Final = ({NatKind.SYMMETRIC}, {NatKind.SYMMETRIC, NatKind.CONE})
"""Pairs that no packet can punch: the port of the symmetric one is not known in time."""


def is_punchable(pair: tuple[NatKind, NatKind]) -> bool:
    return set(pair) not in HARD


def start(
    pair: tuple[NatKind, NatKind], seed: int, *, loss: float = LOSS, **changes: object
) -> Simulation:
    """Three public nodes and one behind each NAT."""
    nats = dict(zip((FIRST, SECOND), pair, strict=True))
    return Simulation(
        nodes=PUBLIC_NODES + 2,
        seed=seed,
        config=NodeConfig.local(**changes),
        network=Network(nat=nats, loss=loss),
    )


def link_between(sim: Simulation, of: int, to: int) -> PeerInfo | None:
    """What node `of` shows of its link to node `to`."""
    peers = (each for each in sim.peers(of) if each.peer_id == sim.nodes[to].peer_id)
    return next((each for each in peers if each.state.is_connected), None)


def is_linked(sim: Simulation, of: int = FIRST, to: int = SECOND) -> bool:
    """Whether both ends have the link."""
    return link_between(sim, of, to) is not None and link_between(sim, to, of) is not None


def lie(sim: Simulation, number: int) -> None:
    """From now on a member introduces every peer at the address of a victim, and tells all peers that they
    are seen there."""
    engine = sim.nodes[number].engine
    assert engine is not None
    transport = engine._transport
    introducer: Introducer = transport.introducer
    truth = introducer.introduce

    def introduce(*args: object) -> list[tuple[object, bytes]]:
        return [
            (receiver, _forge(plaintext))
            for receiver, plaintext in truth(*args)  # type: ignore[arg-type]
        ]

    introducer.introduce = introduce  # type: ignore[method-assign,assignment]
    now = sim.nodes[number].read_clock(sim.now)
    transport.send(tuple(transport.links), ObservedAddress(VICTIM), now)


def go_mute(sim: Simulation, number: int) -> None:
    """From now on a member introduces nobody and drops what it is to relay, without a word."""
    engine = sim.nodes[number].engine
    assert engine is not None
    transport = engine._transport
    transport.introducer.introduce = lambda *_: []  # type: ignore[method-assign]
    transport.relays.forward = lambda *_: None  # type: ignore[method-assign]


def introduce_one_end(sim: Simulation, number: int, *, but: int) -> None:
    """From now on the introductions of a member that are meant for node `but` are lost."""
    engine = sim.nodes[number].engine
    assert engine is not None
    introducer: Introducer = engine._transport.introducer
    truth = introducer.introduce
    introducer.introduce = lambda *args: [  # type: ignore[method-assign]
        each for each in truth(*args) if each[0].peer_id != sim.nodes[but].peer_id
    ]


def _forge(plaintext: bytes) -> bytes:
    message = codec.decode_message(plaintext)
    assert isinstance(message, Introduction)
    return codec.encode_message(Introduction(message.record, VICTIM, message.is_transient))


def faults(pair: tuple[NatKind, NatKind], seed: int) -> list[str]:
    """Plays one pair with loss, a lying common peer, rebinding and a move; returns what went wrong."""
    sim = start(pair, seed)
    victim_bytes = [0]

    def count(at: float, number: int, datagram: bytes, to: Address) -> None:
        victim_bytes[0] += len(datagram) if to == VICTIM else 0

    sim.watch(count)
    sim.run(1.0)
    lie(sim, 0)
    found: list[str] = []
    if is_punchable(pair):
        if not sim.run_until(lambda: is_linked(sim), LINKED_WITHIN_S):
            found.append("not linked")
        link = link_between(sim, FIRST, SECOND)
        if link is not None and link.path is not PathKind.PUNCHED and NatKind.FULL_CONE not in pair:
            found.append(f"the link is shown as {link.path}")
    sim.run(10.0)
    for number in (FIRST, SECOND):
        record = sim.nodes[number].engine.record  # type: ignore[union-attr]
        if VICTIM in record.addresses:
            found.append(f"node {number} was moved by a liar")
        if record.introducers is None:
            found.append(f"node {number} does not know that it is behind a NAT")
    found += _direct_message(sim, SECOND, FIRST)
    for name, change in (("rebind", sim.rebind), ("move", sim.move)):
        change(FIRST)
        found += _after_change(sim, name, is_punchable(pair))
    sim.run(SHOWN_WITHIN_S)
    found += _direct_message(sim, FIRST, SECOND)
    shown = {
        peer.address
        for number in range(1, PUBLIC_NODES)
        if (peer := link_between(sim, number, FIRST)) is not None
    }
    if sim._nats is None or {each.host for each in shown} - {sim._nats.external_host(FIRST)}:
        found.append(f"shown at {sorted(map(str, shown))} after the move")
    if victim_bytes[0] > 20_000:
        found.append(f"{victim_bytes[0]} bytes to the victim of a liar")
    down = [
        f"node {member.name} is {member.status.value} for node {number}"
        for number in range(PUBLIC_NODES + 2)
        for member in sim.nodes[number].engine.members()  # type: ignore[union-attr]
        if member.status.value != "up"
    ]
    return found + down


def _direct_message(sim: Simulation, of: int, to: int) -> list[str]:
    """What is wrong with a direct message, by whichever path. If its sender learns that it is undelivered,
    because the link it went over was cut off and ended, it is sent again, as a program would."""
    deliveries = sim.nodes[to].deliveries
    for _ in range(2):
        reported = sim.nodes[of].stats().undelivered
        message_id = sim.send(of, to, b"for one")
        if sim.run_until(lambda m=message_id: m in deliveries, SENT_WITHIN_S):  # type: ignore[misc]
            is_once = deliveries[message_id].count == 1
            return [] if is_once else ["a direct message arrived twice"]
        if sim.nodes[of].stats().undelivered == reported:
            return [f"a direct message from node {of} to {to} was lost without a report"]
    return [f"a direct message from node {of} to {to} did not arrive"]


def _after_change(sim: Simulation, name: str, is_punchable: bool) -> list[str]:
    """What is wrong a while after the NAT of the first node changed."""
    message = sim.broadcast(SECOND, b"after a change")
    found = []
    if not sim.run_until(
        lambda: len(sim.deliveries(message)) == PUBLIC_NODES + 1, FOLLOWED_WITHIN_S
    ):
        found.append(f"a message was lost after a {name}")
    if is_punchable and not sim.run_until(lambda: is_linked(sim), FOLLOWED_WITHIN_S):
        found.append(f"not linked after a {name}")
    return found


def delays(pair: tuple[NatKind, NatKind], seed: int) -> list[str]:
    """Plays one pair without loss; returns which messages were late. The second node joins late, when the
    others do not expect it. A NAT that changed lets nothing in before its node has sent something, so that
    one broadcasts first."""
    nats = dict(zip((FIRST, SECOND), pair, strict=True))
    sim = Simulation(
        nodes=PUBLIC_NODES + 1,
        seed=seed,
        config=NodeConfig.local(),
        network=Network(nat=nats),
    )
    sim.run(5.0)
    assert sim.add() == SECOND
    sim.run_until(lambda: sim.connected(SECOND) == PUBLIC_NODES, ARRIVED_WITHIN_S)
    found = _late_broadcasts(sim, (FIRST, 0, SECOND), "after the join", ARRIVED_WITHIN_S)
    sim.run(5.0)
    found += _late_broadcasts(sim, (SECOND, 0, FIRST), "later", ARRIVED_WITHIN_S)
    for of, to in ((FIRST, SECOND), (SECOND, FIRST), (0, FIRST)):
        message_id = sim.send(of, to, b"for one")
        deliveries = sim.nodes[to].deliveries
        if not sim.run_until(lambda d=deliveries, m=message_id: m in d, ARRIVED_WITHIN_S):  # type: ignore[misc]
            found.append(f"a direct message from node {of} to {to} was late")
    for name, change in (("rebind", sim.rebind), ("move", sim.move)):
        sim.run(10.0)
        change(FIRST)
        found += _late_broadcasts(sim, (FIRST, SECOND, 0), f"after a {name}", RESUMED_WITHIN_S)
    return found


def _late_broadcasts(
    sim: Simulation, sources: tuple[int, ...], when: str, within_s: float
) -> list[str]:
    messages = {number: sim.broadcast(number, b"to all") for number in sources}

    def late() -> list[int]:
        return [
            number
            for number, message in messages.items()
            if len(sim.deliveries(message)) < PUBLIC_NODES + 1
        ]

    sim.run_until(lambda: not late(), within_s)
    return [f"a broadcast of node {number} was late {when}" for number in late()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many [default: 200]")
    parser.add_argument("--first", type=int, default=1, help="the first seed [default: 1]")
    options = parser.parse_args()
    if compiled == "yes":
        parser.error("the core is compiled: set GRAPEVINE_INTERPRETED=1")
    failures = 0
    for seed in range(options.first, options.first + options.seeds):
        for pair, check in itertools.product(PAIRS, (faults, delays)):
            for fault in _contained(check, pair, seed):
                failures += 1
                print(f"seed {seed}, {' and '.join(pair)}: {fault}", flush=True)  # noqa: T201
    print(f"{options.seeds} seeds, {failures} failures")  # noqa: T201
    sys.exit(1 if failures else 0)


def _contained(check: Check, pair: tuple[NatKind, NatKind], seed: int) -> list[str]:
    """What `check` finds; an exception is one of its faults, and ends no other seed."""
    try:
        return check(pair, seed)
    except Exception as error:  # noqa: BLE001
        return [f"{check.__name__}: {format_error(error)}"]


if __name__ == "__main__":
    main()
