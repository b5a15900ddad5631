"""The table of pending dials: their peers and timeouts."""

from __future__ import annotations

import random

from grapevine_proto.config.live import LiveConfig
from grapevine_proto.ids import Address, PeerId
from grapevine_proto.transport.handshakes import Handshakes
from tests.proto.overlay.builders import config, identity, peer_id, record

OURS, THEIRS = 1, peer_id(2)


def begin(handshakes: Handshakes, port: int, expected: PeerId | None) -> bytes:
    """A dial; gives its session."""
    before = set(handshakes._dials)
    handshakes.dial(Address("10.0.0.2", port), expected, record(OURS), 0.0)
    [session_id] = set(handshakes._dials) - before
    return session_id


def test_a_peer_is_being_dialed_until_the_last_dial_for_it_ends() -> None:
    rng = random.Random(1)
    handshakes = Handshakes(
        LiveConfig(config()), identity(OURS), rng=rng, entropy=random.Random(2).randbytes, now=0.0
    )
    begin(handshakes, 8000, None)
    assert not handshakes.is_dialing(THEIRS)
    sessions = [begin(handshakes, 8001, THEIRS), begin(handshakes, 8002, THEIRS)]
    assert handshakes.is_dialing(THEIRS)
    assert handshakes.end_dial(sessions[0]) is not None
    assert handshakes.end_dial(sessions[0]) is None
    assert handshakes.is_dialing(THEIRS)
    handshakes.end_dial(sessions[1])
    assert not handshakes.is_dialing(THEIRS)
    begin(handshakes, 8003, THEIRS)
    handshakes.cancel_dials()
    assert not handshakes.is_dialing(THEIRS)
