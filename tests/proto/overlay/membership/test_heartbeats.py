"""Heartbeat scheduling: every peer in time, spread evenly."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest

from grapevine_proto.config.live import LiveConfig
from grapevine_proto.config.node import NodeConfig
from grapevine_proto.overlay.context import OverlayContext
from grapevine_proto.overlay.membership.heartbeats import Heartbeats
from grapevine_proto.overlay.peers import Peer
from grapevine_proto.overlay.store.message_store import MessageStore
from grapevine_proto.overlay.swim.prober import check_interval_s
from tests.proto.overlay.builders import config, identity, peer_id, record


def schedule(
    links: int, settings: NodeConfig, intervals: int
) -> tuple[list[int], dict[Peer, list[float]]]:
    """Heartbeats sent at each check, and when each peer got its own; all links start together."""
    context_ = OverlayContext(LiveConfig(settings), identity(0), random.Random(1))
    heartbeats = Heartbeats(context_, MessageStore(context_, (), 0.0))
    peers = [Peer(peer_id(n), None, record(n).addresses[0], 0.0) for n in range(links)]
    sent_at: dict[Peer, list[float]] = {peer: [0.0] for peer in peers}
    for peer in peers:
        heartbeats.next_for(peer, 0.0)
    check_s = check_interval_s(settings)
    counts = []
    for number in range(1, round(intervals * settings.gossip_interval / check_s) + 1):
        now = number * check_s
        due = heartbeats.due_peers(peers, now, check_s)
        counts.append(len(due))
        for peer in due:
            heartbeats.next_for(peer, now)
            sent_at[peer].append(now)
    return counts, sent_at


@pytest.mark.parametrize("settings", [config(), config(gossip_interval=1.0)])
@pytest.mark.parametrize("links", [5, 8, 50])
def test_heartbeats_of_links_that_started_together_spread_over_the_interval(
    links: int, settings: NodeConfig
) -> None:
    counts, _ = schedule(links, settings, 30)
    checks = round(settings.gossip_interval / check_interval_s(settings))
    assert min(counts[-5 * checks :]) >= links // checks
    settled = Counter(counts[-5 * checks :])
    assert sum(number * count for number, count in settled.items()) == 5 * links, (
        "and no more often"
    )


@pytest.mark.parametrize("links", [1, 3, 8])
def test_no_peer_waits_long_enough_to_start_a_probe(links: int) -> None:
    settings = config()
    _, sent_at = schedule(links, settings, 30)
    longest_s = max(b - a for times in sent_at.values() for a, b in itertools.pairwise(times))
    assert longest_s <= 1.1 * settings.gossip_interval + check_interval_s(settings) / 2
