"""A fleet of made-up contexts: no node runs, the tables and connections are set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.events import MemberStatus, NodeStarted, Stats
from grapevine_proto.ids import Address
from grapevine_tui.control.target import LocalTarget, SshTarget
from grapevine_tui.host.alerts import AlertStatus
from grapevine_tui.host.model import Notice, NoticeLevel
from grapevine_tui.remote.contexts import Context
from grapevine_tui.remote.fleet import Fleet, FleetNode
from tests.tui.values import a_member, a_message, a_peer, an_id

UP, SUSPECT, DOWN = MemberStatus.UP, MemberStatus.SUSPECT, MemberStatus.DOWN
SELF = 99  # the number of every context's own node
CLUSTERS = {
    "eu": "prod",
    "us": "prod",
    "dr": "prod",
    "asia": "asia",
    "staging": "test",
    "billing": "pay",
}


def show_state(
    node: FleetNode, statuses: Sequence[MemberStatus], rates: Sequence[int] = ()
) -> None:
    """Have a context that is connected list members, numbered from 1, and messages in each second."""
    node.host.config = NodeConfig(
        name=f"{node.context.name}-1", cluster=CLUSTERS[node.context.name]
    )
    node.model.own_name = node.host.config.name
    cast(Any, node.host)._connection = object()
    node.model.apply(NodeStarted(an_id(SELF), Address("127.0.0.1", 8000), 1))
    members = [
        replace(a_member(number, f"node-{number}"), status=status)
        for number, status in enumerate(statuses, 1)
    ]
    delivered = 0
    for second, rate in enumerate((0, *rates)):
        delivered += rate
        peers = [a_peer(1, sent=1_000 * second, lost=4 * second)] if rates else []
        node.model.refresh(peers, members, Stats(delivered=delivered), float(second))
        node.sample()


def a_fleet(now: float) -> Fleet:
    """Seven contexts in every state that there is, at Unix time `now`."""
    targets = {name: SshTarget(f"ops@{name}-1") for name in ("eu", "us", "asia", "dr", "lab")}
    fleet = Fleet(
        [
            Context("staging", LocalTarget(Path("/nowhere"))),
            *(Context(name, target) for name, target in targets.items()),
            Context("billing", SshTarget("billing", is_readonly=True)),
        ],
        wall_clock=lambda: now,
    )
    nodes = fleet.nodes
    wave = [40 + 30 * (second % 7) for second in range(30)]
    show_state(nodes["eu"], [UP] * 11, wave)
    show_state(nodes["us"], [UP] * 9 + [SUSPECT, DOWN], wave[3:])
    show_state(nodes["asia"], [UP] * 5 + [SUSPECT], wave[5:])
    show_state(nodes["staging"], [UP] * 2, [1, 0, 2, 0])
    show_state(nodes["billing"], [UP] * 3, [5] * 20)
    show_state(nodes["dr"], [UP] * 11, wave)
    nodes["dr"].model.on_silent(now - 20)
    nodes["lab"].model.disconnect_reason = "ssh ops@lab-1: connect to host lab-1: No route to host"
    for name, text, ago_s in (
        ("us", "node-11 is down: did not answer", 42),
        ("asia", "node-6 is suspect: did not answer", 8),
        ("eu", "throttling node-3: 7 beyond its limit", 190),
        ("billing", "node-2 connected", 3 * 3600),
    ):
        nodes[name].model.notices.append(Notice(now - ago_s, NoticeLevel.WARNING, text))
    for name, origin, text, ago_s in (
        ("eu", 3, "deploy of api 4.2 begins", 95),
        ("us", 2, "[@click=app.exit]quota[/] exceeded \x1b[2J", 61),
        ("dr", 3, "deploy of api 4.2 begins", 94),
        ("billing", SELF, "nightly run done", 20),
        ("eu", 7, "deploy of api 4.2 ends", 3),
    ):
        message = a_message(origin, int(1_000 - ago_s), text.encode(), topic="deploy.api")
        nodes[name].model.messages.append(message, now - ago_s)
    few = AlertStatus("few", "peers < 3 for 30s", "quiet")
    lossy = AlertStatus("loss", "peer.loss > 2%", "firing", an_id(10), "peer.loss 4.1 %", 42.0)
    for name in ("eu", "us", "asia", "staging", "billing", "dr"):
        nodes[name].model.alerts = (few,)
    nodes["us"].model.alerts = (lossy, few)
    nodes["staging"].model.alerts = (few._replace(state="firing", value="peers 1", since_s=190.0),)
    nodes["staging"].is_muted = True
    nodes["asia"].host.unacknowledged = 3
    cast(Any, nodes["us"].host)._lag_s = 0.31
    return fleet
