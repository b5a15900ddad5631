"""Attacks of a malicious member, which has the cluster key."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from grapevine_proto.wire import codec
from grapevine_proto.wire.messages import RumorCopy, Rumors
from grapevine_proto.wire.signed import Rumor
from tests.swarm import inside

if TYPE_CHECKING:
    from tests.swarm.world import World


def forge(world: World, number: int) -> None:
    """Forge a message of another node under the ID that it uses next."""
    malicious, victim = world.sim.nodes[world.malicious].engine, world.sim.nodes[number].engine
    if malicious is None or victim is None:
        return
    body = b"never sent"
    message_id = inside.next_id(victim)
    forged = Rumor(victim.peer_id, victim.epoch, message_id.sequence, (len(body),), body, bytes(64))
    _send_to_all(world, codec.encode_message(Rumors((RumorCopy(forged, 1, 0),))))
    world.sim.run(1.0)
    if world.sim.nodes[number].is_running:
        world.broadcast(number)


def flood(world: World, number: int) -> None:
    """Send more than a peer allows, at once."""
    malicious, target = world.sim.nodes[world.malicious].engine, world.sim.nodes[number].peer_id
    if malicious is None or target is None or target not in inside.linked(malicious):
        return
    inside.ignore_limit(malicious, target)
    for _ in range(200):
        world.send_direct_to(world.malicious, number)
    world.sim.run(1.0)


def garble(world: World, _: int) -> None:
    """Send sealed malformed bytes."""
    _send_to_all(world, bytes((world.rng.randrange(64),)) + world.some_bytes(60))


def _send_to_all(world: World, plaintext: bytes) -> None:
    node = world.sim.nodes[world.malicious]
    for peer_id in inside.linked(node.engine) if node.engine else ():
        if node.engine is not None and peer_id in inside.linked(node.engine):
            inside.send_raw(world.sim, node, peer_id, plaintext)


ATTACK_FUNCTIONS: Final[dict[str, Callable[[World, int], None]]] = {
    "forge": forge,
    "flood": flood,
    "garble": garble,
}
