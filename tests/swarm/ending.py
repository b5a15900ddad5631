"""What is asked of a cluster when the bad times are over: all must come right, soon, and then be quiet.

What must stay true: nothing is asked that was not promised: of whom a crash took what it said, and of
whom came late, nothing older; of what is too old to be repaired, nothing.
"""

from __future__ import annotations

from typing import Final

from grapevine_proto import MessageId, PeerState
from grapevine_proto.sim import Network
from tests.swarm import inside
from tests.swarm.watch import CALM_LOSS
from tests.swarm.world import World

BACK_WITHIN_S: Final = 30.0
ALL_WITHIN_S: Final = 60.0
SOON: Final = ((0.1, 2.0), (0.3, 30.0))  # at which loss 99 of 100 hear within so many seconds
ROUGH_LOSS: Final = 0.2  # mixes with more are asked for the second as well
SOON_MESSAGES: Final = 20
QUIET_PACKETS: Final = 2.0  # a peer and gossip interval, where all have seen the same
LOOKING_PACKETS: Final = (
    3.0  # where some saw what nobody holds any more: rounds look for it in vain
)
QUIET_INTERVALS: Final = 20  # long enough for a new session and a probe of the path among them
REFUSED_IN_CALM: Final = {"unknown_session", "decrypt_failed", "bad_signature", "bad_proof"}


def come_right(world: World) -> None:
    """End all faults and ask. Raises Violation."""
    sim, watch = world.sim, world.watch
    sim.heal()
    sim.change_network(Network(loss=min(world.mix.network.loss, CALM_LOSS)))
    for node in sim.nodes:
        sim.slow(node.number, 0.0)
        if node.suspended_at is not None:
            world.crash(node.number)
        elif node.number == world.liar and node.is_running:
            sim.crash(node.number)
            world.gone.add(node.number)
    watch.hit(*range(len(sim.nodes)))
    _are_back(world)
    probes = [world.say(number) for number in world.up() for _ in range(2)]
    owed = [each for each in watch.said if each in probes or _is_owed(world, each)]
    if not sim.run_until(lambda: not _missing(world, owed), ALL_WITHIN_S, every=0.25):
        number, message_id = _missing(world, owed)[0]
        watch.fail(f"2: node {number} never heard {message_id.short}")
    if world.mix.is_calm:
        _was_calm(world)
    if world.mix.config.lazy_push:
        is_rough = world.mix.network.loss > ROUGH_LOSS
        for loss, within_s in SOON if is_rough else SOON[:1]:
            _is_soon(world, loss, within_s)
    _is_quiet(world)


def _are_back(world: World) -> None:
    up = world.up()
    if not world.sim.run_until(lambda: _whole(world, up), BACK_WITHIN_S, every=0.25):
        links = {number: world.sim.connected(number) for number in up}
        world.watch.fail(f"9: the cluster is not one again: {links}")


def _whole(world: World, up: list[int]) -> bool:
    """Whether everybody can be reached over links."""
    numbers = {node.peer_id: node.number for node in world.sim.nodes if node.number in up}
    reached, edge = {up[0]}, [up[0]]
    while edge:
        peers = [peer for each in edge for peer in world.sim.peers(each)]
        linked = {numbers.get(p.peer_id, -1) for p in peers if p.state is PeerState.CONNECTED}
        edge = [each for each in sorted(linked - {-1}) if each not in reached]
        reached.update(edge)
    return len(reached) == len(up)


def _is_owed(world: World, message_id: MessageId) -> bool:
    """Whether its origin was there from then on, and it is not too old to be repaired."""
    origin, said_at, _ = world.watch.said[message_id]
    if origin == world.liar or any(at >= said_at for at in world.gone_at[origin]):
        return False
    return said_at + world.mix.config.message_dedup_ttl > world.sim.now + ALL_WITHIN_S


def _missing(world: World, owed: list[MessageId]) -> list[tuple[int, MessageId]]:
    """Who lacks what; whoever became somebody else, or came later, is asked for nothing older."""
    return [
        (number, message_id)
        for number in world.up()
        for message_id in owed
        if world.watch.said[message_id][0] != number
        and world.renewed_at.get(number, 0.0) < world.watch.said[message_id][1]
        and not world.watch.heard_at[number, message_id]
    ]


def _is_soon(world: World, loss: float, within_s: float) -> None:
    """Small messages said one after another reach 99 of 100 within their time."""
    sim, up = world.sim, world.up()
    sim.change_network(Network(loss=loss))
    said = []
    for _ in range(SOON_MESSAGES):
        said.append(world.say(world.rng.choice(up)))
        sim.run(0.1)
    pairs = (len(up) - 1) * len(said)
    late = (
        int(0.01 * pairs) + 2
    )  # who may be later; of eighty, one or two say nothing of the hundredth

    def in_time() -> list[float]:
        return [
            at[0] - world.watch.said[each][1]
            for each in said
            for number in up
            if number != world.watch.said[each][0] and (at := world.watch.heard_at[number, each])
        ]

    sim.run_until(lambda: len(in_time()) >= pairs, within_s, every=0.1)
    latencies = sorted(in_time()) + [float("inf")] * pairs
    if latencies[pairs - 1 - late] > within_s:
        worst = latencies[pairs - 1 - late]
        world.watch.fail(f"2: p99 is {worst:.1f} s at {loss:.0%} loss, of {pairs} deliveries")


def _was_calm(world: World) -> None:
    """Where nothing went wrong nothing was refused, and every private word arrived."""
    for node in world.sim.nodes:
        refused = {str(reason) for reason, _ in node.stats().dropped} & REFUSED_IN_CALM
        if refused:
            world.watch.fail(f"2: node {node.number} refused {sorted(refused)} in good weather")
    for message_id, (to, _, __) in world.watch.whispered.items():
        if not world.watch.heard_at[to, message_id]:
            world.watch.fail(f"2: the private {message_id.short} was lost in good weather")


def _is_quiet(world: World) -> None:
    sim = world.sim
    sim.change_network(Network())
    sim.run(20.0)
    up = world.up()
    links = sum(sim.connected(number) for number in up)
    seen = {inside.seen(world.engine(each), sim.nodes[each].read_clock(sim.now)) for each in up}
    before = world.watch.packets
    sim.run(QUIET_INTERVALS * world.mix.config.gossip_interval)
    packets = (world.watch.packets - before) / QUIET_INTERVALS / max(links, 1)
    if packets > (QUIET_PACKETS if len(seen) == 1 else LOOKING_PACKETS):
        world.watch.fail(f"6: an idle cluster sends {packets:.2f} packets a peer and interval")
