"""Made-up cluster data for screenshots, the same in every run."""

from __future__ import annotations

import random

from grapevine_proto.events import (
    AntiEntropyRound,
    MessageReceived,
    PeerState,
    RateLimited,
    RoundOutcome,
    Via,
)
from grapevine_proto.ids import Address
from tests.tui.fake_host import FakeHost
from tests.tui.values import a_message, a_peer, a_round

NAMES = ("bob", "carol", "dave", "erin", "frank", "日本語", "heidi")
TEXTS = (
    "deploy of api finished", "disk 91 % on db-3", "thanks, looking", "cache warm again, 2,114 keys",
    "Grüße aus Köln 🎉", "rolling restart of web-1..web-8 begins", "backup done in 4m12s, 81 GB",
    "anyone else sees 502 from the edge?", "p99 back under 40 ms", "ticket 4211 is mine",
)  # fmt: skip


def fill(host: FakeHost, seconds: int = 120) -> None:
    """Fill `host` with `seconds` of traffic of seven peers, some of them slow, throttled or down."""
    rng = random.Random(7)
    states = [PeerState.CONNECTED] * 5 + [PeerState.STALE, PeerState.DISCONNECTED]
    stats = host.stats
    for second in range(seconds):
        host.node.time = 100.0 + second
        host.peers = [
            a_peer(
                0x1C3A5E77 * (number + 1) % 2**32,
                name,
                address=Address(f"10.0.{number // 2}.{4 + 3 * number}", 8000),
                state=states[number],
                zone=("eu-west", "us-east", "ap-south")[number % 3],
                rtt_s=(0.0012, 0.081, 0.012, 0.0009, 0.33, None, None)[number],
                health=(0.98, 0.95, 1.0, 0.72, 0.88, 0.41, 0.0)[number],
                send_rate=6e6,
                datagram_bytes=1400,
                tokens=(72.0, 9.0, 99.0, 48.0, 100.0, 100.0, 100.0)[number],
                throttled=214 if name == "carol" else 0,
                received=second * (41, 12, 9, 3, 7, 0, 0)[number],
            )
            for number, name in enumerate(NAMES)
        ]
        wave = 1 + 0.8 * ((second % 40) / 40) + rng.random() * 0.4
        stats = stats._replace(
            datagrams_in=stats.datagrams_in + int(412 * wave),
            datagrams_out=stats.datagrams_out + int(700 * wave * rng.random()),
            bytes_in=stats.bytes_in + int(81_000 * wave),
            bytes_out=stats.bytes_out + int(120_000 * wave),
            delivered=stats.delivered + 40,
            duplicates=stats.duplicates + 12,
            repaired=18,
            gaps_abandoned=2,
            cached=1204,
            next_round_at=host.node.time + 12,
        )
        host.stats = stats
        host.refresh()
    ids = [peer.peer_id for peer in host.peers]
    for sequence in range(1, 60):
        message = a_message(1, sequence, rng.choice(TEXTS).encode())
        via = Via.REPAIR if sequence % 7 == 0 else Via.EAGER
        message = message._replace(
            id=message.id._replace(origin=rng.choice(ids)),
            via=via,
            hops=rng.randint(1, 4),
        )
        host.happen(MessageReceived(message))
    for number in range(378, 382):
        for index, peer_id in enumerate(ids[:3]):
            done = a_round(number, 1)._replace(peer=peer_id, bytes=61 + 6000 * (index == 1))
            if index == 1:
                done = done._replace(
                    in_sync=False, received=4, outcome=RoundOutcome.REPAIRED, duration_s=0.088
                )
            if index == 2 and number % 2:
                done = done._replace(in_sync=False, outcome=RoundOutcome.NO_ANSWER, bytes=0)
            host.happen(AntiEntropyRound(done))
    host.happen(RateLimited(ids[1], 214, 0.0))
