"""What a node shows of itself: plain values, made when somebody looks.

What must stay true: looking changes nothing.
"""

from __future__ import annotations

from collections import Counter

from grapevine_proto.errors import DropReason
from grapevine_proto.events import PeerInfo, Standing, Stats
from grapevine_proto.handshakes import Handshakes
from grapevine_proto.links import Links
from grapevine_proto.machines import Machines
from grapevine_proto.overlay.peers import Peer
from grapevine_proto.shorts import Shorts


def peer_info(
    peer: Peer, links: Links, machines: Machines, peer_timeout_s: float, now: float
) -> PeerInfo:
    """A peer, linked or not."""
    link = links.get(peer.peer_id)
    account = links.accounts.get(peer.peer_id)
    bucket = account.bucket if account else None
    reason = machines.membership.health_reason(peer, now)
    if (
        account is not None
        and account.score is not None
        and account.standing is not Standing.NORMAL
    ):
        offense = f"{account.standing.value} for {account.score.why()}"
        reason = f"{reason}, {offense}" if reason else offense
    record = peer.record
    return PeerInfo(
        peer_id=peer.peer_id,
        address=link.address if link else peer.address,
        zone=record.zone if record else "",
        name=record.name if record else "",
        state=peer.state,
        health=peer.health(now, peer_timeout_s),
        rtt=(link.path.fresh_rtt_s(now) if link else None) or peer.rtt_s,
        sent=link.sent if link else 0,
        received=link.received if link else 0,
        allowed=link.allowance.allowed if link else 0,
        throttled=account.throttled if account else 0,
        tokens=bucket.available(now) if bucket else 0.0,
        tokens_capacity=bucket.capacity if bucket else 0.0,
        last_seen=peer.silent_since,
        epoch=record.epoch if record else 0,
        connected_at=peer.linked_at,
        queued=link.queued + links.outflow.waiting(peer.peer_id) if link else 0,
        health_reason=reason,
        subscribed=peer.peer_id in machines.dissemination.subscribers,
        send_rate=link.path.rate if link else 0.0,
        lost=link.lost if link else 0,
        datagram_bytes=link.path.mtu.datagram_bytes if link else 0,
        score=account.score_at(now) if account else 0.0,
        standing=account.standing if account else Standing.NORMAL,
    )


class Traffic:
    """Datagrams and their bytes, both ways."""

    __slots__ = ("bytes_in", "bytes_out", "datagrams_in", "datagrams_out")

    def __init__(self) -> None:
        self.datagrams_in = self.bytes_in = 0
        self.datagrams_out = self.bytes_out = 0


def stats(
    traffic: Traffic,
    links: Links,
    shorts: Shorts,
    handshakes: Handshakes,
    machines: Machines,
    drops: Counter[DropReason],
    *,
    delivered: int,
    broadcast: int,
) -> Stats:
    """Counters and gauges of one node."""
    dissemination, tracing, store = machines.dissemination, machines.tracing, machines.store
    return Stats(
        datagrams_in=traffic.datagrams_in,
        datagrams_out=traffic.datagrams_out,
        bytes_in=traffic.bytes_in,
        bytes_out=traffic.bytes_out,
        delivered=delivered,
        broadcast=broadcast,
        duplicates=dissemination.duplicates,
        relayed=dissemination.relayed,
        repaired=dissemination.repaired,
        asked=dissemination.lazy.asked + dissemination.pulls.asked,
        unheeded=dissemination.lazy.unheeded + dissemination.pulls.unheeded,
        lost=store.lost,
        evicted=store.held.evicted,
        unsent=links.unsent + shorts.unsent,
        unfollowed=links.untaken.given_up,
        traces_forgotten=tracing.forgotten,
        receipts_relayed=tracing.reverse_paths.relayed,
        receipts_refused=tracing.refused,
        receipts_lost=tracing.reverse_paths.lost,
        dropped=tuple(drops.items()),
        offenses=tuple(links.accounts.offenses.items()),
        slowed=links.accounts.slowed,
        expelled=links.accounts.expelled,
        held=len(store.held),
        held_bytes=store.held.size_bytes,
        streams=store.streams,
        sessions=links.sessions,
        short_sessions=len(shorts),
        short_refused=shorts.refused,
        unfinished=links.unfinished,
        crowded_out=handshakes.crowded_out
        + links.accounts.forgotten
        + links.parted_early
        + store.evicted_origins,
        members=len(machines.membership.members),
        nearer=machines.membership.nearness.moved,
        next_round_at=machines.antientropy.next_round_at,
        subscribers=len(dissemination.subscribers),
        subscriptions=len(dissemination.subscriptions),
    )
