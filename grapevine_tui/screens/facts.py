"""What the detail screen says of a peer, a member, the node and its counters.

What must stay true: pure functions from the model to printable facts.
"""

from __future__ import annotations

import math
import time
from contextlib import suppress
from dataclasses import fields
from itertools import islice
from typing import Final

from grapevine_proto.events import PeerInfo, PeerState, Stats
from grapevine_proto.ids import PeerId
from grapevine_tui.model import Model
from grapevine_tui.text import cut, printable, show_payload
from grapevine_tui.widgets.look import (
    bytes_words,
    graph,
    health_tone,
    member_standing,
    ms_words,
    peer_standing,
    span_words,
)
from grapevine_tui.widgets.sheet import Fact
from grapevine_tui.widgets.tables import round_words

LEAST_PREFIX: Final = 4  # digits of an id that stand for it, as the node has it
ROUNDS_SHOWN: Final = 5
MESSAGES_SHOWN: Final = 5
PREVIEW_BYTES: Final = 60  # of each of them
CURVE_CELLS: Final = 45
PASTE_CELLS: Final = 60
LOSSY: Final = 0.01  # from here on a path is felt
HEALTHY: Final = 0.95


def peer_facts(model: Model, peer_id: PeerId) -> list[Fact] | None:
    """All that is known of one peer; None where it is no longer one."""
    peer = model.peers.get(peer_id)
    if peer is None:
        return None
    sign, word, tone = peer_standing(model, peer)
    return [
        Fact("state", f"{sign} {word}", tone),
        Fact("health", *_health(peer, model.now)),
        Fact("name", printable(peer.name) or "none"),
        Fact("key", str(peer_id), "accent"),
        Fact("epoch", _epoch_words(peer.epoch)),
        Fact("address", printable(str(peer.address))),
        Fact("zone", printable(peer.zone) or "none"),
        Fact("link", ""),
        *_link(model, peer),
        *_round_trips(model, peer_id),
        Fact("allowance", ""),
        Fact("tokens left", f"{peer.tokens:.0f} of {peer.tokens_capacity:.0f}"),
        Fact(
            "messages",
            f"{peer.allowed:,} allowed, {peer.throttled:,} throttled",
            "bad" if peer.throttled else "text",
        ),
        *_rounds(model, peer_id),
        *_said(model, peer_id),
    ]


def _health(peer: PeerInfo, now: float) -> tuple[str, str]:
    """The figure with what keeps it down, and its tone."""
    silent_s = now - peer.last_seen
    if peer.state not in (PeerState.CONNECTED, PeerState.STALE):
        return "-  not connected", "dim"
    if peer.health_reason:
        why = peer.health_reason
    elif peer.state is PeerState.STALE:
        why = f"silent for {span_words(silent_s)}"
    else:
        heard = f"last heard {span_words(silent_s)} ago"
        why = "answers what it is sent" if peer.health >= HEALTHY else heard
    return f"{peer.health:.2f}  {why}", health_tone(peer.health)


def _epoch_words(epoch: int) -> str:
    """An epoch is the time of the node's start, or a little more where it started twice in a second."""
    if not epoch:
        return "not known"
    try:
        began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(epoch))
    except (OverflowError, OSError, ValueError):  # whoever sent it may have written anything
        return str(epoch)
    return f"{epoch}  (started {began})"


def _link(model: Model, peer: PeerInfo) -> list[Fact]:
    flow = model.flows.get(peer.peer_id)
    is_linked = peer.connected_at is not None and peer.state is not PeerState.DISCONNECTED
    age = span_words(model.now - peer.connected_at) if peer.connected_at is not None else ""
    return [
        Fact("session", f"{age} old" if is_linked else "none"),
        Fact("last heard", f"{span_words(model.now - peer.last_seen)} ago"),
        Fact(
            "received",
            f"{peer.received:,} datagrams" + (f", {flow.in_per_s:.1f}/s" if flow else ""),
        ),
        Fact("sent", f"{peer.sent:,} datagrams" + (f", {flow.out_per_s:.1f}/s" if flow else "")),
        Fact("waiting", f"{peer.queued:,} messages"),
        Fact("lost", *_loss(peer)),
        Fact("may send", _rate_words(peer) if is_linked else "nothing"),
        Fact("round trip", *_round_trip(model, peer)),
    ]


def _round_trip(model: Model, peer: PeerInfo) -> tuple[str, str]:
    """As it is now; of a silent peer the last that was measured, with its age; of others none."""
    if peer.state is PeerState.CONNECTED:
        return ms_words(peer.rtt), "text"
    if peer.state is PeerState.STALE and peer.rtt is not None:
        return f"{ms_words(peer.rtt)}, {span_words(model.now - peer.last_seen)} ago", "dim"
    return "-", "dim"


def _loss(peer: PeerInfo) -> tuple[str, str]:
    share = peer.lost / peer.sent if peer.sent else 0.0
    return f"{peer.lost:,} datagrams, {share:.1%}", "warn" if share > LOSSY else "text"


def _rate_words(peer: PeerInfo) -> str:
    """What congestion control lets go, and in datagrams of which size."""
    rate = f"{bytes_words(peer.send_rate)}/s" if math.isfinite(peer.send_rate) else "without limit"
    return f"{rate}, datagrams of {peer.datagram_bytes:,} bytes"


def _rounds(model: Model, peer_id: PeerId) -> list[Fact]:
    rounds = [done for done in model.rounds if done.round.peer == peer_id][-ROUNDS_SHOWN:]
    if not rounds:
        return []
    facts = [Fact("latest rounds", "")]
    for done in reversed(rounds):
        clock = time.strftime("%H:%M:%S", time.localtime(done.at_unix))
        facts.append(Fact(f"round {done.round.number}", f"{clock}  {round_words(done.round)}"))
    return facts


def status_facts(model: Model) -> list[Fact]:
    """Who we are and how we do, with every counter."""
    me = model.me
    facts = [Fact("this node", "")]
    if me is not None:
        facts += [
            Fact("id", str(me.peer_id), "accent"),
            Fact("address", str(me.address)),
            Fact("epoch", str(me.epoch)),
            Fact("up", span_words(time.time() - me.started_at)),
        ]
    states = [peer.state for peer in model.peers.values()]
    up = states.count(PeerState.CONNECTED)
    facts.append(Fact("peers", f"{len(states)}, {up} connected"))
    if model.denied:
        facts.append(Fact("denied", f"{len(model.denied):,}"))
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
    if model.commands:
        facts.append(Fact("command log", ""))
    for notice in list(model.commands)[-20:]:
        clock = time.strftime("%H:%M:%S", time.localtime(notice.at_unix))
        facts.append(Fact(clock, notice.text))
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
    sign, word, tone = member_standing(model, member)
    return [
        Fact("status", f"{sign} {word}", tone),
        Fact("link", "none: known by hearsay"),
        Fact("name", printable(member.name) or "none"),
        Fact("key", str(peer_id), "accent"),
        Fact("epoch", _epoch_words(member.epoch)),
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
        Fact(f"last {span_words(len(history))}", curve, "good"),
        Fact("of these", words, "dim"),
    ]


def _said(model: Model, peer_id: PeerId) -> list[Fact]:
    """What one author said: how much, and the latest of it that is kept."""
    author = model.authors.get(peer_id)
    if author is None:
        return [Fact("said", ""), Fact("messages", "none yet")]
    repaired = f", {author.repaired:,} by repair" if author.repaired else ""
    facts = [
        Fact("said", ""),
        Fact("messages", f"{author.messages:,}{repaired}, {author.per_s:.1f}/s"),
        Fact("bytes", bytes_words(author.bytes)),
    ]
    found = (entry for entry in model.messages.latest() if entry.message.origin == peer_id)
    for entry in islice(found, MESSAGES_SHOWN):
        clock = time.strftime("%H:%M:%S", time.localtime(entry.at_unix))
        facts.append(Fact(clock, show_payload(entry.message.payload, PREVIEW_BYTES)))
    return facts


def callable_name(model: Model, peer_id: PeerId) -> str:
    """What `/send` understands as this node: its name, if nobody else bears it and it can be typed;
    else its id."""
    known = model.peers.get(peer_id) or model.members.get(peer_id)
    name = known.name if known is not None else ""
    is_plain = bool(name) and printable(name) == name and '"' not in name
    is_alone = len(model.ids_named(name)) == 1
    return name if is_plain and is_alone else str(peer_id)


def meant(model: Model, who: str) -> PeerId | None:
    """The one node that `who` means: a name, an id or at least four digits of one, an address. None where
    that is none or several: then the node says so."""
    who = who.strip()
    known = model.members | model.peers
    found = {
        peer_id
        for peer_id, each in known.items()
        if (who and who in (each.name, str(each.address)))
        or (len(who) >= LEAST_PREFIX and str(peer_id).startswith(who.lower()))
    }
    if not found:
        with suppress(ValueError):
            return PeerId.parse(who.lower())
    return found.pop() if len(found) == 1 else None


def deny_facts(model: Model, peer_id: PeerId) -> list[Fact]:
    """Who would be denied, and what that does."""
    return [
        *_who(model, peer_id),
        Fact("effect", "disconnected at once, and refused here"),
        Fact("until", "it is allowed again, or this node restarts"),
    ]


def forget_facts(model: Model, peer_id: PeerId) -> list[Fact]:
    """Who would be forgotten, and what that does."""
    return [
        *_who(model, peer_id),
        Fact("effect", "removed from the peers and members of this node"),
        Fact("until", "another node reports it; this cannot be undone"),
    ]


def _who(model: Model, peer_id: PeerId) -> list[Fact]:
    peer, member = model.peers.get(peer_id), model.members.get(peer_id)
    facts = [Fact("node", printable(model.name_of(peer_id))), Fact("id", str(peer_id), "accent")]
    if peer is not None:
        facts.append(
            Fact("now", f"{peer_standing(model, peer).word}, {printable(str(peer.address))}")
        )
    elif member is not None:
        facts.append(Fact("now", member_standing(model, member).word))
    return facts


def paste_facts(text: str) -> list[Fact]:
    """What somebody is about to paste."""
    size = len(text.encode(errors="replace"))
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    facts = [
        Fact("characters", f"{len(text):,}"),
        Fact("bytes", f"{size:,}"),
        Fact("lines", f"{len(lines):,}"),
        Fact("it begins", ""),
    ]
    return facts + [Fact("", cut(printable(line[:200]), PASTE_CELLS)) for line in lines[:5]]
