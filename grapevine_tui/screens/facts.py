"""What the detail screen says of a peer, a message, the node and its counters.

What must stay true: pure functions from the model to printable facts.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import fields
from typing import Final

from grapevine_proto.events import PeerState, Stats
from grapevine_proto.ids import PeerId
from grapevine_tui.model import Entry, Model
from grapevine_tui.screens.detail import Fact
from grapevine_tui.text import printable, printable_lines
from grapevine_tui.widgets.look import (
    STATE_SIGNS,
    bytes_words,
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
PAYLOAD_BYTES: Final = 64 * 1024  # shown of one message: more is for a file, not a screen
ROUNDS_SHOWN: Final = 5


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
    for done in reversed(rounds):
        clock = time.strftime("%H:%M:%S", time.localtime(done.at_unix))
        facts.append(Fact(f"round {done.round.number}", f"{clock}  {round_words(done.round)}"))
    return facts


def _payload_lines(payload: bytes) -> list[str]:
    head = payload[:PAYLOAD_BYTES]
    try:
        text = head.decode()
    except UnicodeDecodeError:
        if len(head) == len(payload):
            return _hex_lines(head)
        text = head.decode(errors="ignore")
    if text[:1] in "{[" and len(head) == len(payload):
        with suppress(ValueError, RecursionError):  # it may only look like JSON
            text = json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    return printable_lines(text)


def _hex_lines(payload: bytes) -> list[str]:
    return [
        f"{start:06x}  {payload[start : start + 16].hex(' ')}"
        for start in range(0, len(payload), 16)
    ]


def message_facts(model: Model, entry: Entry) -> list[Fact]:
    """One message whole: where it is from, how it came, what it says."""
    message = entry.message
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry.at_unix))
    size = len(message.payload)
    facts = [
        Fact("from", printable(model.name_of(message.origin))),
        Fact("id", str(message.id), "$accent"),
        Fact("came", f"{stamp}, {message.via.value}, {message.hops} hops"),
        Fact("for", "this node alone" if message.private else "everyone"),
        Fact("size", bytes_words(size) + ("" if size < 1000 else f" ({size:,} bytes)")),
        Fact("payload", ""),
    ]
    facts += [Fact("", line) for line in _payload_lines(message.payload)]
    if size > PAYLOAD_BYTES:
        facts.append(Fact("", f"… {size - PAYLOAD_BYTES:,} bytes more", "$text-muted"))
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


def member_facts(model: Model) -> list[Fact]:
    """Everyone in the cluster, linked or not."""
    members = sorted(
        model.members.values(), key=lambda each: (each.status, each.name, each.peer_id)
    )
    return [
        Fact(
            f"{printable(model.name_of(member.peer_id))}",
            f"{member.status.value:<8} {member.peer_id.short}  "
            f"{printable(str(member.address or '-'))}  {printable(member.zone)}",
        )
        for member in members[:500]
    ] or [Fact("", "nobody else is known yet")]
