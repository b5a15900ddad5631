"""Facts for the detail screens: about a peer, a member, this node, its counters, and confirmations.

Invariants: pure functions of the model; all facts are printable.
"""

from __future__ import annotations

import math
import time
from contextlib import suppress
from itertools import islice
from typing import Final

from grapevine_proto.events import MemberInfo, MemberStatus, PathKind, PeerInfo, PeerState
from grapevine_proto.ids import PeerId
from grapevine_tui.app.widgets.charts import braille_graph
from grapevine_tui.app.widgets.fact_sheet import Fact
from grapevine_tui.app.widgets.format import format_bytes, format_duration, format_latency
from grapevine_tui.app.widgets.round_table import format_round
from grapevine_tui.app.widgets.status_glyphs import health_tone, member_status, peer_status
from grapevine_tui.history.describe import format_age
from grapevine_tui.host.model import Model
from grapevine_tui.host.query import format_tags
from grapevine_tui.text import format_payload, printable, truncate

MIN_ID_PREFIX: Final = 4  # hex digits that may stand for a peer ID, as in the node's own look-up
MAX_ROUNDS: Final = 5
MAX_MESSAGES: Final = 5
PREVIEW_BYTES: Final = 60  # of each message
CURVE_CELLS: Final = 45
PASTE_PREVIEW_CELLS: Final = 60
LOSS_WARNING_RATIO: Final = 0.01  # about where loss becomes noticeable
HEALTHY_MIN: Final = 0.95

# Labels of the counters and gauges of `Stats` on the status screen, by group. Zeros are not shown.
STATS_LABELS: Final[dict[str, dict[str, str]]] = {
    "traffic": {
        "datagrams_in": "datagrams received",
        "datagrams_out": "datagrams sent",
        "bytes_in": "bytes received",
        "bytes_out": "bytes sent",
        "sessions": "sessions",
        "transient_sessions": "transient sessions",
        "transient_refused": "transient sessions refused",
        "introduced": "peers introduced to each other",
        "introductions_refused": "introductions refused",
        "relayed_datagrams": "datagrams relayed",
        "relayed_bytes": "bytes relayed",
        "relay_refused": "datagrams not relayed",
        "port_mappings_granted": "port mappings granted",
        "port_mappings_refused": "port mappings refused",
        "port_mappings_lost": "port mappings lost",
        "send_drops": "messages dropped on send",
        "reassembly_dropped": "large messages given up",
    },
    "messages": {
        "published": "own messages",
        "delivered": "messages delivered",
        "duplicates": "duplicates received",
        "unsubscribed": "messages of other topics",
        "expired": "messages that came too late",
        "unsupported": "messages for newer versions",
        "skipped": "messages skipped in order",
        "late": "messages too late for their order",
        "relayed": "messages relayed",
        "unacked_untracked": "own messages no longer tracked",
        "unacknowledged_direct": "direct messages not acknowledged",
        "events_lost": "events lost by slow readers",
        "callback_errors": "errors in callbacks",
    },
    "repair": {
        "repaired": "messages repaired",
        "repair_requests": "messages requested by ID",
        "announcements_dropped": "announcements dropped",
        "gaps_abandoned": "messages lost",
        "cached": "messages cached",
        "cached_bytes": "bytes cached",
        "cache_evictions": "evicted from the cache early",
    },
    "traces": {
        "receipts_relayed": "receipts relayed",
        "receipts_dropped": "receipts dropped",
        "receipts_lost": "receipts without a way back",
        "traces_evicted": "traces evicted",
    },
    "queries": {
        "answers_relayed": "answers relayed",
        "answers_dropped": "answers dropped",
        "answers_lost": "answers without a way back",
    },
    "state": {
        "entries": "entries of all members",
        "entries_refused": "entries refused for lack of room",
        "entries_clock_ahead": "entries with a clock too far ahead",
        "entry_conflicts": "members that signed two contents",
        "entries_adopted": "entries adopted",
    },
    "coordinates": {
        "coordinate_samples": "round-trip times used",
        "coordinate_samples_ignored": "round-trip times that did not fit",
    },
    "limits": {
        "slowed": "peers slowed for misconduct",
        "expelled": "peers expelled for misconduct",
        "evictions": "table entries evicted",
    },
    "overlay": {
        "members": "members known",
        "streams": "message streams tracked",
        "subscribers": "eager-push subscribers",
        "subscriptions": "eager-push subscriptions",
        "links_optimized": "links swapped for nearer ones",
    },
}


def peer_facts(model: Model, peer_id: PeerId) -> list[Fact] | None:
    """Return the facts about a peer, or None if there is no such peer."""
    peer = model.peers.get(peer_id)
    if peer is None:
        return None
    glyph, label, tone = peer_status(model, peer)
    return [
        Fact("state", f"{glyph} {label}", tone),
        Fact("health", *_format_health(peer, model.now)),
        *_reason_facts(model, peer_id),
        Fact("name", printable(peer.name) or "none"),
        Fact("id", str(peer_id), "accent"),
        Fact("started", _format_start(peer.epoch)),
        Fact("address", printable(_format_address(peer))),
        *_advertised_facts(peer),
        Fact("zone", printable(peer.zone) or "none"),
        *_tag_facts(model, peer.peer_id),
        Fact("connection", ""),
        *_link_facts(model, peer),
        *_rtt_facts(model, peer_id),
        Fact("rate limit", ""),
        Fact("tokens", f"{peer.tokens:.0f} of {peer.tokens_capacity:.0f}"),
        Fact(
            "messages",
            f"{peer.allowed:,} allowed, {peer.throttled:,} throttled",
            "bad" if peer.throttled else "text",
        ),
        *_round_facts(model, peer_id),
        *_author_facts(model, peer_id),
    ]


def _format_address(peer: PeerInfo) -> str:
    """Where the packets of the peer go, and how they get there."""
    return str(peer.address) if peer.path is None else f"{peer.address}, {peer.path.value}"


def _advertised_facts(peer: PeerInfo) -> list[Fact]:
    """The addresses in the record of the peer, unless it is reached at the only one."""
    if set(peer.advertised) <= {peer.address}:
        return []
    return [Fact("advertised", printable(", ".join(map(str, peer.advertised))))]


def _format_health(peer: PeerInfo, now: float) -> tuple[str, str]:
    """Return the health with what reduces it, and a tone."""
    unheard_s = now - peer.last_seen_at
    if not peer.state.is_connected:
        return "-  not connected", "dim"
    if peer.health_reason:
        reason = peer.health_reason
    elif peer.state is PeerState.STALE:
        reason = f"silent for {format_duration(unheard_s)}"
    else:
        last_packet = f"last packet {format_duration(unheard_s)} ago"
        reason = "healthy" if peer.health >= HEALTHY_MIN else last_packet
    return f"{peer.health:.2f}  {reason}", health_tone(peer.health)


def _format_start(epoch: int) -> str:
    """Return when the node started. Its epoch is that Unix time, or a little more after two starts within
    one second."""
    if not epoch:
        return "unknown"
    try:
        started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(epoch))
    except (OverflowError, OSError, ValueError):  # the sender may have written any number
        return f"epoch {epoch}"
    ago_s = time.time() - epoch
    return f"{started}, {format_duration(ago_s)} ago" if ago_s >= 0 else started


def _link_facts(model: Model, peer: PeerInfo) -> list[Fact]:
    rates = model.peer_rates.get(peer.peer_id)
    is_connected = peer.connected_at is not None and peer.state is not PeerState.DISCONNECTED
    age = format_duration(model.now - peer.connected_at) if peer.connected_at is not None else ""
    return [
        Fact("connected", f"for {age}" if is_connected else "no"),
        Fact("last packet", f"{format_duration(model.now - peer.last_seen_at)} ago"),
        Fact(
            "received",
            f"{peer.received:,} datagrams" + (f", {rates.in_per_s:.1f}/s" if rates else ""),
        ),
        Fact("sent", f"{peer.sent:,} datagrams" + (f", {rates.out_per_s:.1f}/s" if rates else "")),
        Fact("send queue", f"{peer.queued:,} messages"),
        Fact("lost", *_format_loss(peer)),
        Fact("send limit", _format_send_rate(peer) if is_connected else "-"),
        Fact("round trip", *_format_rtt(model, peer)),
    ]


def _format_rtt(model: Model, peer: PeerInfo) -> tuple[str, str]:
    """Return the RTT of a connected peer, or the last one of a silent peer with its age."""
    if peer.state is PeerState.CONNECTED:
        return format_latency(peer.rtt_s), "text"
    if peer.state is PeerState.STALE and peer.rtt_s is not None:
        return (
            f"{format_latency(peer.rtt_s)}, {format_duration(model.now - peer.last_seen_at)} ago",
            "dim",
        )
    return "-", "dim"


def _format_loss(peer: PeerInfo) -> tuple[str, str]:
    ratio = peer.lost / peer.sent if peer.sent else 0.0
    return f"{peer.lost:,} datagrams, {ratio:.1%}", "warn" if ratio > LOSS_WARNING_RATIO else "text"


def _format_send_rate(peer: PeerInfo) -> str:
    """Return the send rate that congestion control allows, and the datagram size."""
    rate = f"{format_bytes(peer.send_rate)}/s" if math.isfinite(peer.send_rate) else "unlimited"
    return f"{rate}, MTU {peer.datagram_bytes:,} bytes"


def _round_facts(model: Model, peer_id: PeerId) -> list[Fact]:
    rounds = [entry for entry in model.rounds if entry.round.peer == peer_id][-MAX_ROUNDS:]
    if not rounds:
        return []
    facts = [Fact("rounds", "")]
    for entry in reversed(rounds):
        clock = time.strftime("%H:%M:%S", time.localtime(entry.at_unix))
        facts.append(Fact(f"round {entry.round.number}", f"{clock}  {format_round(entry.round)}"))
    return facts


def status_facts(model: Model) -> list[Fact]:
    """Return this node's identity, connections, counters, latest commands and notices."""
    local_node = model.local_node
    facts = [Fact("this node", "")]
    if local_node is not None:
        facts += [
            Fact("id", str(local_node.peer_id), "accent"),
            Fact("address", str(local_node.address)),
            *([Fact("seen at", f"{model.observed}, by peers")] if model.observed else []),
            *([Fact("mapped", f"{model.mapped}, by the router")] if model.mapped else []),
            Fact("epoch", str(local_node.epoch)),
            Fact("up", format_duration(model.wall_now() - local_node.started_at)),
        ]
    states = [peer.state for peer in model.peers.values()]
    connected = states.count(PeerState.CONNECTED)
    facts.append(Fact("peers", f"{connected} of {len(states)} connected"))
    if model.denied:
        facts.append(Fact("denied", f"{len(model.denied):,}"))
    facts.append(Fact("members", f"{len(model.members) + 1:,} with this node"))
    if model.tags:
        facts.append(Fact("tags", printable(format_tags(model.tags))))
    for title, labels in STATS_LABELS.items():
        counters = [
            Fact(label, format_bytes(value) if "bytes" in name else f"{value:,}")
            for name, label in labels.items()
            if (value := getattr(model.stats, name))
        ]
        if counters:
            facts += [Fact(title, ""), *counters]
    if model.stats.dropped:
        facts.append(Fact("dropped datagrams", ""))
        facts += [Fact(str(reason), f"{count:,}") for reason, count in model.stats.dropped]
    if model.stats.undelivered:
        facts.append(Fact("undelivered direct messages", ""))
        facts += [
            Fact(reason.value.replace("_", " "), f"{count:,}")
            for reason, count in model.stats.undelivered
        ]
    if model.commands:
        facts.append(Fact("command log", ""))
    for notice in list(model.commands)[-20:]:
        clock = time.strftime("%H:%M:%S", time.localtime(notice.at_unix))
        facts.append(Fact(clock, notice.text))
    if model.notices:
        facts.append(Fact("events", ""))
    for notice in list(model.notices)[-20:]:
        clock = time.strftime("%H:%M:%S", time.localtime(notice.at_unix))
        facts.append(Fact(clock, notice.text))
    return facts


def member_facts(model: Model, peer_id: PeerId) -> list[Fact] | None:
    """Return the facts about a member without a link, or None if it is unknown."""
    member = model.members.get(peer_id)
    if member is None:
        return None
    glyph, label, tone = member_status(model, member)
    return [
        Fact("status", f"{glyph} {label}", tone),
        *_reason_facts(model, peer_id),
        Fact("connection", _format_session(member)),
        Fact("name", printable(member.name) or "none"),
        Fact("id", str(peer_id), "accent"),
        Fact("started", _format_start(member.epoch)),
        Fact("address", printable(str(member.address)) if member.address else "not known"),
        Fact("zone", printable(member.zone) or "none"),
        *_tag_facts(model, peer_id),
        *_author_facts(model, peer_id),
    ]


def _format_session(member: MemberInfo) -> str:
    """How packets reach a member without a link."""
    match member.path:
        case None:
            return "none: known from other members"
        case PathKind.RELAYED:
            return "none; direct messages: relayed by a common peer"
        case path:
            return f"none; direct messages: {path.value}"


def node_facts(model: Model, peer_id: PeerId) -> list[Fact] | None:
    """Return the facts about a node, connected or not, or None if it is unknown."""
    return peer_facts(model, peer_id) or member_facts(model, peer_id)


def _reason_facts(model: Model, peer_id: PeerId) -> list[Fact]:
    """Why the member is suspect or down, or left."""
    member = model.members.get(peer_id)
    if member is None or member.status is MemberStatus.UP or not member.reason:
        return []
    return [Fact(member.status.value, printable(member.reason), "warn")]


def author_term(model: Model, peer_id: PeerId) -> str:
    """Return the term of a filter that matches the messages of one author and no other's."""
    name = model.name_of(peer_id).lower()
    others = (
        model.name_of(each).lower() for each in (*model.peers, *model.members) if each != peer_id
    )
    if '"' in name or printable(name) != name or any(name in other for other in others):
        return f"from:{peer_id}"
    return f'from:"{name}"' if " " in name else f"from:{name}"


def _tag_facts(model: Model, peer_id: PeerId) -> list[Fact]:
    tags = model.tags_of(peer_id)
    return [Fact("tags", printable(format_tags(tags)))] if tags else []


def _rtt_facts(model: Model, peer_id: PeerId) -> list[Fact]:
    history = model.rtts.get(peer_id)
    if not history:
        return []
    ordered = sorted(history)
    median = ordered[len(ordered) // 2]
    text = (
        f"{format_latency(ordered[0])} to {format_latency(ordered[-1])}, "
        f"median {format_latency(median)}"
    )
    curve = braille_graph(history, min(CURVE_CELLS, (len(history) + 1) // 2), 1)[0]
    return [
        Fact(f"rtt over {format_duration(len(history))}", curve, "good"),
        Fact("range", text, "dim"),
    ]


def _author_facts(model: Model, peer_id: PeerId) -> list[Fact]:
    """Return the message counts of one author and its latest messages."""
    author = model.authors.get(peer_id)
    if author is None:
        return [Fact("messages from it", ""), Fact("messages", "none yet")]
    repaired = f", {author.repaired:,} by repair" if author.repaired else ""
    facts = [
        Fact("messages from it", ""),
        Fact("messages", f"{author.messages:,}{repaired}, {author.per_s:.1f}/s"),
        Fact("bytes", format_bytes(author.bytes)),
    ]
    entries = (entry for entry in model.messages.newest_first() if entry.message.origin == peer_id)
    for entry in islice(entries, MAX_MESSAGES):
        clock = time.strftime("%H:%M:%S", time.localtime(entry.at_unix))
        facts.append(Fact(clock, format_payload(entry.message.payload, PREVIEW_BYTES)))
    return facts


def addressable_name(model: Model, peer_id: PeerId) -> str:
    """Return how ``/send`` can name the node: its name if that is unique and can be typed, else its ID."""
    node = model.peers.get(peer_id) or model.members.get(peer_id)
    name = node.name if node is not None else ""
    is_plain = bool(name) and printable(name) == name and '"' not in name
    is_unique = len(model.ids_named(name)) == 1
    return name if is_plain and is_unique else str(peer_id)


def resolve_node(model: Model, identity: str) -> PeerId | None:
    """Return the one node that `identity` names: by name, ID, at least `MIN_ID_PREFIX` digits of one, or
    address. None if it names none or several; the node then raises with the reason."""
    identity = identity.strip()
    nodes = model.members | model.peers
    matches = {
        peer_id
        for peer_id, each in nodes.items()
        if (identity and identity in (each.name, str(each.address)))
        or (len(identity) >= MIN_ID_PREFIX and str(peer_id).startswith(identity.lower()))
    }
    if not matches:
        with suppress(ValueError):
            return PeerId.parse(identity.lower())
    return matches.pop() if len(matches) == 1 else None


def deny_facts(model: Model, peer_id: PeerId, for_s: int | None = None) -> list[Fact]:
    """Return the facts of the confirmation to deny a node, for `for_s` seconds or without an end."""
    end = "this node restarts" if for_s is None else f"{format_age(for_s)} are over"
    return [
        *_identity_facts(model, peer_id),
        Fact("effect", "disconnected at once, and refused here"),
        Fact("until", f"it is allowed again, or {end}"),
    ]


def forget_facts(model: Model, peer_id: PeerId) -> list[Fact]:
    """Return the facts of the confirmation to forget a node."""
    return [
        *_identity_facts(model, peer_id),
        Fact("effect", "removed from the peers and members of this node"),
        Fact("until", "another node reports it; this cannot be undone"),
    ]


def _identity_facts(model: Model, peer_id: PeerId) -> list[Fact]:
    peer, member = model.peers.get(peer_id), model.members.get(peer_id)
    facts = [Fact("node", printable(model.name_of(peer_id))), Fact("id", str(peer_id), "accent")]
    if peer is not None:
        facts.append(
            Fact("now", f"{peer_status(model, peer).label}, {printable(str(peer.address))}")
        )
    elif member is not None:
        facts.append(Fact("now", member_status(model, member).label))
    return facts


def paste_facts(text: str) -> list[Fact]:
    """Return the facts of the confirmation of a large paste."""
    size = len(text.encode(errors="replace"))
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    facts = [
        Fact("characters", f"{len(text):,}"),
        Fact("bytes", f"{size:,}"),
        Fact("lines", f"{len(lines):,}"),
        Fact("begins with", ""),
    ]
    return facts + [
        Fact("", truncate(printable(line[:200]), PASTE_PREVIEW_CELLS)) for line in lines[:5]
    ]
