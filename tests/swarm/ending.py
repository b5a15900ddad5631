"""Recovery: what must hold once all faults have ended.

Invariants:

- Nothing is required that was not promised: no messages that an origin lost in a crash, nothing
  older from a late joiner, and nothing too old to be repaired.
"""

from __future__ import annotations

from typing import Final

from grapevine_proto import MessageId, PeerId, PeerState
from grapevine_proto.sim import Network
from tests.swarm import inside
from tests.swarm.watch import CALM_LOSS
from tests.swarm.world import World

LINKED_WITHIN_S: Final = 30.0
DELIVERED_WITHIN_S: Final = 60.0
LATENCY_LIMITS: Final = (
    (0.1, 2.0),
    (0.3, 30.0),
)  # loss, and the seconds within which 99 % must receive
SPARSE_PEERS: Final = 3  # `max_peers` of a sparse cluster, which may take
SPARSE_FACTOR: Final = 2.0  # times as long
ROUGH_LOSS: Final = 0.2  # mixes with more loss are also checked against the second entry
LATENCY_MESSAGES: Final = 20
ENTRIES_AGREE_WITHIN_S: Final = 60.0
QUIET_PACKETS: Final = 2.0  # per peer and gossip interval, if all stores are equal
# if stores differ in messages that no node has any more, which rounds keep looking for
DIFFERING_PACKETS: Final = 3.0
QUERY_WITHIN_S: Final = 30.0
QUIET_INTERVALS: Final = 20  # long enough to include a rekey and a path probe
UNEXPECTED_DROPS: Final = {"unknown_session", "decrypt_failed", "bad_signature", "bad_proof"}


def check_recovery(world: World) -> None:
    """End all faults and check. Raises Violation."""
    sim, watch = world.sim, world.watch
    ended_at = sim.now
    sim.heal()
    sim.change_network(Network(loss=min(world.mix.network.loss, CALM_LOSS)))
    for node in sim.nodes:
        sim.slow(node.number, 0.0)
        if node.suspended_at is not None:
            world.crash(node.number)
        elif node.number == world.malicious and node.is_running:
            sim.crash(node.number)
            world.stopped.add(node.number)
    watch.affect(*range(len(sim.nodes)))
    _check_linked(world)
    probes = [world.broadcast(number) for number in world.up() for _ in range(2)]
    expected = [each for each in watch.sent if each in probes or _is_expected(world, each)]
    if not sim.run_until(lambda: not _missing(world, expected), DELIVERED_WITHIN_S, every=0.25):
        number, message_id = _missing(world, expected)[0]
        watch.fail(f"2: node {number} never received {message_id.short}")
    _check_entries(world, ended_at + ENTRIES_AGREE_WITHIN_S)
    if world.mix.is_calm:
        _check_calm(world)
    if world.mix.config.lazy_push:
        is_rough = world.mix.network.loss > ROUGH_LOSS
        # A cluster of few links each is a long chain, where one lost packet of a link delays all beyond it.
        factor = SPARSE_FACTOR if world.mix.config.max_peers <= SPARSE_PEERS else 1.0
        for loss, within_s in LATENCY_LIMITS if is_rough else LATENCY_LIMITS[:1]:
            _check_latency(world, loss, within_s * factor)
    _check_quiet(world)
    _check_query(world)


def _check_entries(world: World, until: float) -> None:
    """All copies of all maps agree, and each owner has what it wrote last, unless it lost that."""
    sim, watch = world.sim, world.watch

    def agree() -> bool:
        return len({inside.entries_sum(world.engine(number)) for number in world.up()}) <= 1

    if not sim.run_until(agree, max(until - sim.now, 0.5), every=0.25):
        watch.fail(f"13: the copies of the entries differ {ENTRIES_AGREE_WITHIN_S:.0f} s later")
    last: dict[tuple[PeerId, str], tuple[int, float, bytes | None]] = {}
    for message_id, (number, at, key, value) in watch.written.items():
        last[message_id.origin, key] = (number, at, value)
    for (owner, key), (number, at, value) in last.items():
        node = sim.nodes[number]
        is_lost = any(n == number and at >= t - span for n, t, span in watch.state_losses)
        if node.peer_id != owner or number not in world.up() or is_lost:
            continue
        for each in world.up():
            if sim.values_of(each, number).get(key) != value:
                watch.fail(f"13: {key} of node {number} is not {value!r} at node {each}")


def _check_query(world: World) -> None:
    """Each member that runs and is known to the asker answers a query exactly once, itself."""
    sim, watch = world.sim, world.watch
    asker = world.rng.choice(world.up())
    sim.on_query("swarm", lambda number, _: b"%d" % number)
    query_id = sim.query(asker, "swarm", timeout_s=QUERY_WITHIN_S, stall_s=QUERY_WITHIN_S)
    sim.run_until(lambda: sim.query_report(query_id).end is not None, QUERY_WITHIN_S + 1.0)
    unanswered = sim.query_report(query_id).unanswered
    numbers = {sim.nodes[number].peer_id: number for number in world.up()}
    for peer_id in unanswered:
        if peer_id in numbers:
            watch.fail(f"2: node {numbers[peer_id]} never answered {query_id.short}")
    answers = sim.nodes[asker].answers.get(query_id, [])
    if len(answers) != len({answer.peer_id for answer in answers}):
        watch.fail(f"1: a member answered {query_id.short} twice")
    for answer in answers:
        if answer.payload != b"%d" % numbers.get(answer.peer_id, -1):
            watch.fail(f"1: {answer.peer_id.short} is said to have answered {answer.payload!r}")


def _check_linked(world: World) -> None:
    up = world.up()
    if not world.sim.run_until(lambda: _is_connected(world, up), LINKED_WITHIN_S, every=0.25):
        links = {number: world.sim.connected(number) for number in up}
        world.watch.fail(f"9: the cluster is not connected again: {links}")


def _is_connected(world: World, up: list[int]) -> bool:
    """Whether every node is reachable over links."""
    numbers = {node.peer_id: node.number for node in world.sim.nodes if node.number in up}
    reached, frontier = {up[0]}, [up[0]]
    while frontier:
        peers = [peer for each in frontier for peer in world.sim.peers(each)]
        linked = {numbers.get(p.peer_id, -1) for p in peers if p.state is PeerState.CONNECTED}
        frontier = [each for each in sorted(linked - {-1}) if each not in reached]
        reached.update(frontier)
    return len(reached) == len(up)


def _is_expected(world: World, message_id: MessageId) -> bool:
    """Whether its origin was up from then on and it is not too old to be repaired."""
    origin, sent_at, _ = world.watch.sent[message_id]
    if origin == world.malicious or any(at >= sent_at for at in world.stopped_at[origin]):
        return False
    return sent_at + world.mix.config.message_dedup_ttl > world.sim.now + DELIVERED_WITHIN_S


def _missing(world: World, expected: list[MessageId]) -> list[tuple[int, MessageId]]:
    """Missing deliveries; a node with a new identity, or a late joiner, owes nothing older."""
    return [
        (number, message_id)
        for number in world.up()
        for message_id in expected
        if world.watch.sent[message_id][0] != number
        and world.watch.is_delivered_by(number, message_id)
        and world.joined_at.get(number, 0.0) < world.watch.sent[message_id][1]
        and not world.watch.delivered_at[number, message_id]
    ]


def _check_latency(world: World, loss: float, within_s: float) -> None:
    """Small messages sent one after another reach 99 % within the time limit. A node that was let go for
    another and has no link takes part again once it has one, which is checked by itself."""
    sim, up = world.sim, world.up()
    sim.change_network(Network(loss=loss))
    pairs: list[tuple[int, MessageId]] = []
    for _ in range(LATENCY_MESSAGES):
        origin = world.rng.choice(up)
        linked = [number for number in up if sim.connected(number)]
        message_id = world.broadcast(origin)
        if origin in linked:
            pairs += [(number, message_id) for number in linked if number != origin]
        sim.run(0.1)
    # Deliveries that may be later: of eighty, one or two prove nothing about the 99th percentile.
    allowed_late = int(0.01 * len(pairs)) + 2

    def latencies() -> list[float]:
        return [
            at[0] - world.watch.sent[message_id][1]
            for number, message_id in pairs
            if (at := world.watch.delivered_at[number, message_id])
        ]

    sim.run_until(lambda: len(latencies()) == len(pairs), within_s, every=0.1)
    ascending = sorted(latencies()) + [float("inf")] * len(pairs)
    if pairs and (worst := ascending[max(len(pairs) - 1 - allowed_late, 0)]) > within_s:
        world.watch.fail(f"2: p99 is {worst:.1f} s at {loss:.0%} loss, of {len(pairs)} deliveries")
    _check_linked(world)


def _check_calm(world: World) -> None:
    """Without faults, nothing was dropped and every direct message arrived."""
    for node in world.sim.nodes:
        dropped = {str(reason) for reason, _ in node.stats().dropped} & UNEXPECTED_DROPS
        if dropped:
            world.watch.fail(f"2: node {node.number} dropped {sorted(dropped)} without faults")
    for message_id, (to, _, __) in world.watch.direct_sent.items():
        if not world.watch.delivered_at[to, message_id]:
            world.watch.fail(f"2: the direct message {message_id.short} was lost without faults")


def _check_quiet(world: World) -> None:
    sim = world.sim
    sim.change_network(Network())
    sim.run(20.0)
    up = world.up()
    links = sum(sim.connected(number) for number in up)
    digests = {
        inside.store_digest(world.engine(each), sim.nodes[each].read_clock(sim.now)) for each in up
    }
    before = world.watch.packets
    sim.run(QUIET_INTERVALS * world.mix.config.gossip_interval)
    packets = (world.watch.packets - before) / QUIET_INTERVALS / max(links, 1)
    if packets > (QUIET_PACKETS if len(digests) == 1 else DIFFERING_PACKETS):
        world.watch.fail(f"6: an idle cluster sends {packets:.2f} packets a peer and interval")
