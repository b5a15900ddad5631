"""What a member does that has the cluster key and means ill."""

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
    """Words put into a node's mouth, under the ids that it will use next."""
    liar, victim = world.sim.nodes[world.liar].engine, world.sim.nodes[number].engine
    if liar is None or victim is None:
        return
    body = b"never said"
    message_id = inside.next_id(victim)
    forged = Rumor(victim.peer_id, victim.epoch, message_id.sequence, (len(body),), body, bytes(64))
    _tell_all(world, codec.encode_message(Rumors((RumorCopy(forged, 1, 0),))))
    world.sim.run(1.0)
    if world.sim.nodes[number].is_running:
        world.say(number)


def flood(world: World, number: int) -> None:
    """More than a peer may say, at once."""
    liar, target = world.sim.nodes[world.liar].engine, world.sim.nodes[number].peer_id
    if liar is None or target is None or target not in inside.linked(liar):
        return
    inside.forget_manners(liar, target)
    for _ in range(200):
        world.whisper_to(world.liar, number)
    world.sim.run(1.0)


def garble(world: World, _: int) -> None:
    """Sealed nonsense."""
    _tell_all(world, bytes((world.rng.randrange(64),)) + world.some_bytes(60))


def _tell_all(world: World, plaintext: bytes) -> None:
    node = world.sim.nodes[world.liar]
    for peer_id in inside.linked(node.engine) if node.engine else ():
        if node.engine is not None and peer_id in inside.linked(node.engine):
            inside.say_raw(world.sim, node, peer_id, plaintext)


ACTS: Final[dict[str, Callable[[World, int], None]]] = {
    "forge": forge,
    "flood": flood,
    "garble": garble,
}
