"""Sessions and keys are replaced under traffic over a lossy network, and no message is lost or
duplicated.
"""

from __future__ import annotations

from collections import Counter

import pytest

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.crypto.cluster_key import ClusterKey
from grapevine_proto.engine import Engine
from grapevine_proto.events import Event, MessageReceived, PeerState, PeerStateChanged
from grapevine_proto.sim import Network, Simulation
from grapevine_proto.transport.session.session import REKEY_AFTER_PACKETS, REKEY_AFTER_S, Session

OLD, NEW = ClusterKey(bytes(32)), ClusterKey(b"n" * 32)
INTERVAL_S = 0.2


class Traffic:
    """Two nodes that each send a direct message and a broadcast five times a second."""

    def __init__(self, loss: float, seed: int) -> None:
        self.sim = Simulation(
            nodes=2, seed=seed, config=NodeConfig(keys=(OLD,)), network=Network(loss=loss)
        )
        self.received: list[Counter[bytes]] = [Counter(), Counter()]
        self.sent: list[list[bytes]] = [[], []]
        self.lost_links = 0
        self.sim.listen(self._note)
        self.sim.run(10.0)
        assert self.sessions()

    def _note(self, _: float, number: int, event: Event) -> None:
        if isinstance(event, MessageReceived):
            self.received[number][event.message.payload] += 1
        elif isinstance(event, PeerStateChanged):
            self.lost_links += event.peer.state is PeerState.DISCONNECTED

    def engine(self, number: int) -> Engine:
        engine = self.sim.nodes[number].engine
        assert engine is not None
        return engine

    def sessions(self) -> list[Session]:
        """The live session, seen from either end."""
        return [link.session for n in (0, 1) for link in self.engine(n)._transport.links.values()]

    def run(self, seconds: float) -> None:
        ends_at = self.sim.now + seconds
        while self.sim.now < ends_at:
            for source in (0, 1):
                count = len(self.sent[source])
                self.sent[source] += [b"private %d" % count, b"to all %d" % count]
                self.sim.send(source, 1 - source, self.sent[source][-2])
                self.sim.broadcast(source, self.sent[source][-1])
            self.sim.run(INTERVAL_S)

    def check(self) -> None:
        self.sim.run(30.0)
        for source in (0, 1):
            assert self.received[1 - source] == Counter(self.sent[source])
        assert self.lost_links == 0


@pytest.mark.parametrize(("loss", "seed"), [(0.0, 1), (0.1, 2), (0.3, 3)])
def test_a_session_is_rekeyed_after_two_minutes_without_message_loss(
    loss: float, seed: int
) -> None:
    traffic = Traffic(loss, seed)
    before = {session.our_id for session in traffic.sessions()}
    traffic.run(REKEY_AFTER_S + 30.0)
    assert not before & {session.our_id for session in traffic.sessions()}
    traffic.check()


@pytest.mark.parametrize("loss", [0.0, 0.1])
def test_a_session_is_rekeyed_before_its_packet_numbers_run_out_without_message_loss(
    loss: float,
) -> None:
    traffic = Traffic(loss, seed=4)
    traffic.run(2.0)
    [ours] = [session for session in traffic.sessions() if session.is_initiator]
    before = {session.our_id for session in traffic.sessions()}
    ours._next_counter = REKEY_AFTER_PACKETS - 20
    traffic.run(20.0)
    assert traffic.sim.now < REKEY_AFTER_S
    assert not before & {session.our_id for session in traffic.sessions()}
    traffic.check()


def test_a_cluster_key_is_rotated_in_three_rounds_without_message_loss() -> None:
    traffic = Traffic(0.1, seed=5)
    for keys in ((OLD, NEW), (NEW, OLD)):
        for number in (0, 1):
            traffic.sim.reconfigure(number, keys=keys)
            traffic.run(2.0)
    traffic.run(REKEY_AFTER_S + 20.0)
    assert {session.key for session in traffic.sessions()} == {NEW}
    for number in (0, 1):
        traffic.sim.reconfigure(number, keys=(NEW,))
        traffic.run(2.0)
    traffic.check()
