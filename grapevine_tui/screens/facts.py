"""What the detail screen says of a peer, a member, the node and its counters.

What must stay true: pure functions from the model to printable facts.
"""

from __future__ import annotations

import time
from dataclasses import fields
from itertools import islice
from typing import Final

from grapevine_proto.events import PeerState, Stats
from grapevine_proto.ids import PeerId
from grapevine_tui.model import Model
from grapevine_tui.screens.detail import Fact
from grapevine_tui.text import printable, show_payload
from grapevine_tui.widgets.look import (
    STATE_SIGNS,
    STATUS_SIGNS,
    bytes_words,
    graph,
    health_tone,
    ms_words,
    span_words,
)
from grapevine_tui.widgets.tables import round_words

COLOURS: Final = {
    "good": "$success",
    "warn": "$warning",
    "bad": "$error",
    "dim": "$text-muted",
}
ROUNDS_SHOWN: Final = 5
MESSAGES_SHOWN: Final = 5
PREVIEW_BYTES: Final = 60  # of each of them
CURVE_CELLS: Final = 45


def peer_facts(model: Model, peer_id: PeerId) -> list[Fact] | None:
    """All that is known of one peer; None where it is no longer one."""
    peer = model.peers.get(peer_id)
    if peer is None:
        return None
    sign, word, tone = STATE_SIGNS[peer.state]
    flow = model.flows.get(peer_id)
    is_linked = peer.connected_at is not None and peer.state is not PeerState.DISCONNECTED
    facts = [
        Fact("state", f"{sign} {word}", COLOURS[tone]),
        Fact("name", printable(peer.name) or "none"),
        Fact("id", str(peer_id), "$accent"),
        Fact("epoch", f"{peer.epoch}"),
        Fact("address", printable(str(peer.address))),
        Fact("zone", printable(peer.zone) or "none"),
        Fact("health", f"{peer.health:.2f}", COLOURS[health_tone(peer.health)]),
        Fact("round trip", ms_words(peer.rtt)),
        *_round_trips(model, peer_id),
        Fact(
            "linked for",
            span_words(model.now - peer.connected_at)
            if is_linked and peer.connected_at is not None
            else "not linked",
        ),
        Fact("last heard", f"{span_words(model.now - peer.last_seen)} ago"),
        Fact(
            "received",
            f"{peer.received:,} datagrams" + (f", {flow.in_per_s:.1f}/s" if flow else ""),
        ),
        Fact("sent", f"{peer.sent:,} datagrams" + (f", {flow.out_per_s:.1f}/s" if flow else "")),
        Fact("waiting", f"{peer.queued:,} messages"),
        Fact("tokens left", f"{peer.tokens:.0f} of {peer.tokens_capacity:.0f}"),
        Fact("allowed", f"{peer.allowed:,}"),
        Fact("throttled", f"{peer.throttled:,}", "$error" if peer.throttled else "$foreground"),
    ]
    rounds = [done for done in model.rounds if done.round.peer == peer_id][-ROUNDS_SHOWN:]
    if rounds:
        facts.append(Fact("latest rounds", ""))
    for done in reversed(rounds):
        clock = time.strftime("%H:%M:%S", time.localtime(done.at_unix))
        facts.append(Fact(f"round {done.round.number}", f"{clock}  {round_words(done.round)}"))
    facts += _said(model, peer_id)
    return facts


def status_facts(model: Model) -> list[Fact]:
    """Who we are and how we do, with every counter."""
    me = model.me
    facts = [Fact("this node", "")]
    if me is not None:
        facts += [
            Fact("id", str(me.peer_id), "$accent"),
            Fact("address", str(me.address)),
            Fact("epoch", str(me.epoch)),
            Fact("up", span_words(time.time() - me.started_at)),
        ]
    states = [peer.state for peer in model.peers.values()]
    facts.append(Fact("peers", f"{len(states)}, {states.count(PeerState.CONNECTED)} linked"))
    facts.append(Fact("members", f"{len(model.members):,} known"))
    facts.append(Fact("counters", ""))
    for each in fields(Stats):
        value = getattr(model.stats, each.name)
        if isinstance(value, int):
            words = bytes_words(value) if "bytes" in each.name else f"{value:,}"
            facts.append(Fact(each.name.replace("_", " "), words))
    if model.stats.dropped:
        facts.append(Fact("refused", ""))
        facts += [Fact(str(reason), f"{count:,}") for reason, count in model.stats.dropped]
    if model.notices:
        facts.append(Fact("notices", ""))
    for notice in list(model.notices)[-20:]:
        clock = time.strftime("%H:%M:%S", time.localtime(notice.at_unix))
        facts.append(Fact(clock, notice.text))
    return facts


def member_facts(model: Model, peer_id: PeerId) -> list[Fact] | None:
    """What is known of one member that is no peer of ours; None where nothing is."""
    member = model.members.get(peer_id)
    if member is None:
        return None
    sign, word, tone = STATUS_SIGNS[member.status]
    return [
        Fact("status", f"{sign} {word}", COLOURS[tone]),
        Fact("link", "none: known by hearsay"),
        Fact("name", printable(member.name) or "none"),
        Fact("id", str(peer_id), "$accent"),
        Fact("epoch", f"{member.epoch}"),
        Fact("address", printable(str(member.address)) if member.address else "not known"),
        Fact("zone", printable(member.zone) or "none"),
        *_said(model, peer_id),
    ]


def node_facts(model: Model, peer_id: PeerId) -> list[Fact] | None:
    """What is known of one node, linked or not."""
    return peer_facts(model, peer_id) or member_facts(model, peer_id)


def _round_trips(model: Model, peer_id: PeerId) -> list[Fact]:
    history = model.round_trips.get(peer_id)
    if not history:
        return []
    ordered = sorted(history)
    middle = ordered[len(ordered) // 2]
    words = f"least {ms_words(ordered[0])}, middle {ms_words(middle)}, most {ms_words(ordered[-1])}"
    curve = graph(history, min(CURVE_CELLS, (len(history) + 1) // 2), 1)[0]
    return [
        Fact(f"last {span_words(len(history))}", curve, "$success"),
        Fact("", words, "$text-muted"),
    ]


def _said(model: Model, peer_id: PeerId) -> list[Fact]:
    """The latest messages of one author, among those that are kept."""
    found = (entry for entry in model.messages.latest() if entry.message.origin == peer_id)
    latest = list(islice(found, MESSAGES_SHOWN))
    if not latest:
        return [Fact("messages", "none kept")]
    facts = [Fact("latest messages", "")]
    for entry in latest:
        clock = time.strftime("%H:%M:%S", time.localtime(entry.at_unix))
        facts.append(Fact(clock, show_payload(entry.message.payload, PREVIEW_BYTES)))
    return facts
