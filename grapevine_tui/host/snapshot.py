"""What a node is and does at one moment, as JSON: its identity, status, tables, counters and traffic.

Invariants:

- Reading changes nothing, and no value is a secret: keys appear by fingerprint, programs by their number.
- Every list is as bounded as the table that it is read from.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from grapevine_proto import compiled
from grapevine_proto.events import PeerState
from grapevine_tui import __version__
from grapevine_tui.config.sources import SettingValue
from grapevine_tui.host.model import Model
from grapevine_tui.host.timeseries import SAMPLE_INTERVAL_S

if TYPE_CHECKING:
    from grapevine_proto.node import Node
    from grapevine_tui.host.local import Host

Object = dict[str, Any]

MAX_AUTHORS: Final = 100  # those with the most messages
PROGRAM_SETTINGS: Final = frozenset(
    {"app.on", "app.commands"}
)  # their arguments may contain a password
DEFAULT_ORIGINS: Final = ("default", "profile ")


def identity(host: Host) -> Object:
    """The fields of the event ``started``."""
    node, config = host.node, host.config
    return {
        "peer_id": str(node.peer_id),
        "address": str(node.address),
        "epoch": node.epoch,
        "name": config.name,
        "zone": config.zone,
        "cluster": config.cluster,
        "version": __version__,
        "compiled": compiled,
    }


def connected_count(host: Host) -> int:
    return sum(peer.state is PeerState.CONNECTED for peer in host.node.peers())


def status(host: Host) -> Object:
    """Identity, addresses, keys and health."""
    node = host.node
    return identity(host) | {
        "advertised": str(node.advertised),
        "observed": None if node.observed is None else str(node.observed),
        "mapped": None if node.mapped is None else str(node.mapped),
        "behind_nat": node.is_behind_nat,
        "tags": node.tags,
        "keys": [key.fingerprint for key in host.config.keys],
        "uptime_s": round(node.now() - host.started_at, 3),
        "peers": connected_count(host),
        "members": node.stats().members,
        "denied": [str(peer_id) for peer_id in host.config.denied],
        "unacknowledged": host.unacknowledged,
        "lag_ms": round(node.lag_s * 1000, 3),
        "strategy": host.config.strategy,
        "state_dir": None if host.state_dir is None else str(host.state_dir),
        "restart": list(host.pending_restart),
        "history": None if host.history is None else host.history.status(),
    }


def changing_values(host: Host) -> Object:
    """Values that change all the time."""
    node = host.node
    now, stats = node.now(), node.stats()
    return {
        "now_s": now,
        "lag_ms": round(node.lag_s * 1000, 3),
        "members": stats.members,
        "unacknowledged": host.unacknowledged,
        "denied": [str(peer_id) for peer_id in host.config.denied],
        "observed": None if node.observed is None else str(node.observed),
        "mapped": None if node.mapped is None else str(node.mapped),
        "tags": node.tags,
        **alerts(host),
        "peers": [peer.to_dict(now=now) for peer in node.peers()],
        "stats": stats.to_dict(now=now),
    }


def alerts(host: Host) -> Object:
    """How every alert stands, firing ones first."""
    found = []
    for each in host.alert_book.statuses(host.node.now()):
        name = "" if each.peer_id is None else host.name_of(each.peer_id)
        found.append(each.to_dict() | {"peer_name": name})
    return {"alerts": found}


def full_state(host: Host) -> Object:
    """Everything but the messages, for a client that starts to watch."""
    model, now_unix = host.model, time.time()
    return {
        "status": status(host),
        "max_peers": host.config.max_peers,
        "max_message_size": host.config.max_message_size,
        "snapshot": changing_values(host),
        "members": [member.to_dict() for member in host.node.members()],
        "discovered": discovered(host.node)["discovered"],
        "rounds": [
            each.round.to_dict() | {"ago_s": round(now_unix - each.at_unix, 3)}
            for each in model.rounds
        ],
        "traces": [
            each.trace.to_dict() | {"ago_s": round(now_unix - each.at_unix, 3)}
            for each in model.traces.values()
        ],
    }


def discovered(node: Node) -> Object:
    """What each source of discovery has named, and which peers are there."""
    peers = {each.address: each for each in node.peers()}
    sources = node.discovery_sources()
    rows = []
    for source in sources:
        for address in source.addresses:
            peer = peers.get(address)
            rows.append(
                {
                    "address": str(address),
                    "source": source.name,
                    "peer_id": None if peer is None else str(peer.peer_id),
                    "name": "" if peer is None else peer.name,
                    "state": None if peer is None else peer.state.value,
                }
            )
    return {
        "discovered": rows,
        "sources": [
            {
                "source": each.name,
                "addresses": len(each.addresses),
                "dropped": each.dropped,
                "problem": each.problem,
            }
            for each in sources
        ],
    }


def whole_snapshot(host: Host) -> Object:
    """Status, tables, counters, traffic and the settings that are not default, for people and programs."""
    state, taken_at = full_state(host), time.time()
    changing = state.pop("snapshot")
    return {
        "at": round(taken_at, 3),
        **state,
        "alerts": changing["alerts"],
        "peers": [
            each | {"denied": each["peer_id"] in changing["denied"]} for each in changing["peers"]
        ],
        "stats": changing["stats"],
        "authors": _authors(host.model),
        "traffic": _traffic(host.model),
        "settings": changed_settings(host.settings_values),
    }


def changed_settings(values: Iterable[SettingValue]) -> list[Object]:
    """The settings that are not default. Of programs only their number."""
    return [
        {"name": each.name, "value": _shown_value(each), "origin": each.origin}
        for each in values
        if not each.origin.startswith(DEFAULT_ORIGINS) and each.value not in ("", [], {}, None)
    ]


def _shown_value(each: SettingValue) -> Any:
    if each.name not in PROGRAM_SETTINGS:
        return each.value
    count = len(each.value)
    return f"{count} program{'s' * (count != 1)}"


def _authors(model: Model) -> list[Object]:
    found = sorted(model.authors.all().items(), key=lambda item: -item[1].messages)
    return [
        {
            "peer_id": str(peer_id),
            "name": model.name_of(peer_id),
            "messages": author.messages,
            "bytes": author.bytes,
            "repaired": author.repaired,
            "per_s": round(author.per_s, 3),
        }
        for peer_id, author in found[:MAX_AUTHORS]
    ]


def _traffic(model: Model) -> Object:
    """Rates per second, one every `interval_s`, the latest last."""
    traffic = model.traffic
    series: Mapping[str, Iterable[float]] = {
        "datagrams_in": traffic.datagrams_in.fine,
        "datagrams_out": traffic.datagrams_out.fine,
        "messages": traffic.messages.fine,
        "duplicates": traffic.duplicates.fine,
        "gaps_abandoned": traffic.gaps_abandoned.fine,
    }
    rates = {name: [round(each, 2) for each in values] for name, values in series.items()}
    return {"interval_s": SAMPLE_INTERVAL_S, **rates}
