"""When heartbeats go out: each in time, and not all at once."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.overlay.members import MemberTable
from grapevine_proto.overlay.membership.heartbeats import Heartbeats
from grapevine_proto.overlay.peers import Peer
from grapevine_proto.overlay.store.message_store import MessageStore
from grapevine_proto.overlay.store.verification import Verifier
from grapevine_proto.overlay.swim.prober import check_interval_s
from tests.proto.overlay.builders import config, peer_id, record


def schedule(
    links: int, settings: NodeConfig, intervals: int
) -> tuple[list[int], dict[Peer, list[float]]]:
    """How many are made at each look, and when each peer gets its own; all links begin together."""
    rng = random.Random(1)
    members = MemberTable(settings.limits)
    store = MessageStore(settings, Verifier(settings), (), 0.0)
    beats = Heartbeats(settings, members, store, rng)
    peers = [Peer(peer_id(n), None, record(n).addresses[0], 0.0) for n in range(links)]
    at: dict[Peer, list[float]] = {peer: [0.0] for peer in peers}
    for peer in peers:
        beats.next_for(peer, 0.0)
    look_s = check_interval_s(settings)
    counts = []
    for number in range(1, round(intervals * settings.gossip_interval / look_s) + 1):
        now = number * look_s
        due = beats.due_peers(peers, now, look_s)
        counts.append(len(due))
        for peer in due:
            beats.next_for(peer, now)
            at[peer].append(now)
    return counts, at


@pytest.mark.parametrize("settings", [config(), config(gossip_interval=1.0)])
@pytest.mark.parametrize("links", [5, 8, 50])
def test_links_that_began_together_take_turns_after_a_minute(
    links: int, settings: NodeConfig
) -> None:
    counts, _ = schedule(links, settings, 30)
    looks = round(settings.gossip_interval / check_interval_s(settings))
    assert min(counts[-5 * looks :]) >= links // looks
    settled = Counter(counts[-5 * looks :])
    assert sum(number * count for number, count in settled.items()) == 5 * links, (
        "and no more often"
    )


@pytest.mark.parametrize("links", [1, 3, 8])
def test_nobody_waits_longer_than_whoever_asks_has_patience(links: int) -> None:
    settings = config()
    _, at = schedule(links, settings, 30)
    longest_s = max(b - a for times in at.values() for a, b in itertools.pairwise(times))
    assert longest_s <= 1.1 * settings.gossip_interval + check_interval_s(settings) / 2
