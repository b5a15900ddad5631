"""Builds the snapshots that `Node.peers` and `Node.stats` return.

Invariants: building a snapshot changes nothing.
"""

from __future__ import annotations

from grapevine_proto.coordinate import Estimate, RttSource
from grapevine_proto.events import PeerInfo, Standing, Stats
from grapevine_proto.ids import PeerId
from grapevine_proto.message_order import MessageOrder
from grapevine_proto.overlay.overlay import Overlay
from grapevine_proto.overlay.peers import Peer
from grapevine_proto.publisher import Publisher
from grapevine_proto.transport.link_table import LinkTable
from grapevine_proto.transport.transport import Transport


def peer_info(
    peer: Peer, links: LinkTable, overlay: Overlay, peer_timeout_s: float, now: float
) -> PeerInfo:
    """Returns the snapshot of one peer, connected or not."""
    link = links.get(peer.peer_id)
    limits = links.peer_limits.get(peer.peer_id)
    bucket = limits.bucket if limits else None
    reason = overlay.membership.health_reason(peer, now)
    if limits is not None and limits.score is not None and limits.standing is not Standing.NORMAL:
        misconduct = f"{limits.standing.value} for {limits.score.top_offense()}"
        reason = f"{reason}, {misconduct}" if reason else misconduct
    record = peer.record
    return PeerInfo(
        peer_id=peer.peer_id,
        address=link.address if link else peer.address,
        zone=record.zone if record else "",
        name=record.name if record else "",
        state=peer.state,
        health=peer.health(now, peer_timeout_s),
        rtt_s=measured_rtt_s(peer, links, now),
        sent=link.sent if link else 0,
        received=link.received if link else 0,
        allowed=link.inbound_limit.allowed if link else 0,
        throttled=limits.throttled if limits else 0,
        tokens=bucket.available(now) if bucket else 0.0,
        tokens_capacity=bucket.capacity if bucket else 0.0,
        last_seen_at=peer.last_heard_at,
        epoch=record.epoch if record else 0,
        connected_at=peer.linked_at,
        queued=link.queued + links.coalescer.queued_payloads(peer.peer_id) if link else 0,
        health_reason=reason,
        subscribed=peer.peer_id in overlay.dissemination.subscribers,
        send_rate=link.path.rate if link else 0.0,
        lost=link.packets_lost if link else 0,
        datagram_bytes=link.path.mtu.datagram_bytes if link else 0,
        score=limits.score_at(now) if limits else 0.0,
        standing=limits.standing if limits else Standing.NORMAL,
        path=link.path_kind if link else None,
        advertised=record.addresses if record else (),
    )


def measured_rtt_s(peer: Peer, links: LinkTable, now: float) -> float | None:
    """Returns the round-trip time of a peer in seconds: that of its latest packets, or of its heartbeats."""
    link = links.get(peer.peer_id)
    return (link.path.recent_rtt_s(now) if link else None) or peer.rtt_s


def rtt_to(peer_id: PeerId, links: LinkTable, overlay: Overlay, now: float) -> Estimate | None:
    """Returns the round-trip time from this node to a member: measured if it is linked, else estimated; None
    if it cannot be."""
    peer = overlay.peers.get(peer_id)
    if peer is not None and overlay.peers.is_linked(peer_id):
        rtt_s = measured_rtt_s(peer, links, now)
        if rtt_s is not None:
            least_s = rtt_s if peer.min_rtt_s is None else peer.min_rtt_s
            return Estimate(rtt_s, abs(rtt_s - least_s), RttSource.MEASURED)
    return overlay.membership.estimate(overlay.record.peer_id, peer_id)


def stats(
    transport: Transport,
    overlay: Overlay,
    publisher: Publisher,
    order: MessageOrder,
    *,
    delivered: int,
) -> Stats:
    """Returns the counters and gauges of one node."""
    dissemination, tracing, store = overlay.dissemination, overlay.tracing, overlay.store
    queries = overlay.queries
    links, transients, counters = transport.links, transport.transients, transport.counters
    return Stats(
        datagrams_in=counters.datagrams_in,
        datagrams_out=counters.datagrams_out,
        bytes_in=counters.bytes_in,
        bytes_out=counters.bytes_out,
        delivered=delivered,
        published=publisher.broadcasts,
        duplicates=dissemination.duplicates,
        relayed=dissemination.relayed,
        unsubscribed=overlay.dissemination.unsubscribed,
        expired=overlay.dissemination.expired,
        unsupported=overlay.dissemination.unsupported,
        skipped=order.skipped,
        late=order.late,
        repaired=dissemination.repaired,
        repair_requests=dissemination.lazy_push.requests_sent + dissemination.puller.requests_sent,
        announcements_dropped=dissemination.lazy_push.announcements_dropped
        + dissemination.puller.announcements_dropped,
        gaps_abandoned=store.abandoned,
        cache_evictions=store.cache.evicted,
        send_drops=links.send_drops + transients.send_drops,
        unacked_untracked=publisher.unacked.untracked,
        traces_evicted=tracing.evicted,
        receipts_relayed=tracing.reverse_paths.relayed,
        receipts_dropped=tracing.refused,
        receipts_lost=tracing.reverse_paths.lost,
        answers_relayed=queries.reverse_paths.relayed,
        answers_dropped=queries.refused,
        answers_lost=queries.reverse_paths.lost,
        entries_refused=overlay.state.refused,
        entries_clock_ahead=overlay.state.clock_ahead,
        entry_conflicts=overlay.state.conflicts,
        entries_adopted=overlay.state.adopted,
        undelivered=tuple(transport.direct.undelivered.items()),
        unacknowledged_direct=len(transport.direct),
        dropped=transport.drops.by_reason(),
        offenses=tuple(links.peer_limits.offenses.items()),
        slowed=links.peer_limits.slowed,
        expelled=links.peer_limits.expelled,
        cached=len(store.cache),
        cached_bytes=store.cache.size_bytes,
        streams=store.streams,
        sessions=links.session_count,
        transient_sessions=len(transients),
        transient_refused=transients.refused,
        introduced=transport.introducer.made,
        relayed_datagrams=transport.relays.relayed,
        relayed_bytes=transport.relays.relayed_bytes,
        relay_refused=transport.relays.refused,
        introductions_refused=transport.introducer.refused,
        reassembly_dropped=links.reassembly_dropped,
        evictions=transport.handshakes.evicted
        + links.peer_limits.evicted
        + links.closed_links_evicted
        + store.origins_evicted
        + order.evicted,
        members=len(overlay.membership.members),
        entries=overlay.state.shared.entries,
        links_optimized=overlay.membership.proximity.links_optimized,
        coordinate_samples=overlay.membership.coordinates.samples,
        coordinate_samples_ignored=overlay.membership.coordinates.ignored,
        coordinate_error=overlay.membership.coordinates.coordinate.error,
        next_round_at=overlay.antientropy.next_round_at,
        subscribers=len(dissemination.subscribers),
        subscriptions=len(dissemination.subscriptions),
    )
