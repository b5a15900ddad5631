"""Samples of a running node: full ones, and what changed between them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.crypto.cluster_key import ClusterKey
from grapevine_proto.events import AntiEntropyRound, MemberStatus, RoundOutcome
from grapevine_tui.host.local import Host
from grapevine_tui.host.model import Model
from grapevine_tui.host.state_sampler import FULL_INTERVAL_S, StateSampler
from tests.tui.values import a_member, a_peer, a_round


def frames(sampler: StateSampler) -> tuple[list[str], list[Any], bool]:
    body, is_full = sampler.take()
    found = json.loads(body)
    return [kind for kind, _ in found], [fields for _, fields in found], is_full


@pytest.mark.asyncio
async def test_a_full_sample_comes_first_and_later_ones_have_what_changed() -> None:
    now = [1_790_000_000.0]
    host = Host(
        NodeConfig.local(keys=[ClusterKey.generate()], bind="127.0.0.1:0"),
        None,
        model=Model(wall_clock=lambda: now[0]),
    )
    await host.start()
    try:
        sampler, model = StateSampler(host), host.model
        assert frames(sampler)[0] == ["state"]
        now[0] += 10
        assert frames(sampler)[0] == ["poll"]
        now[0] += 10
        model.members = {each.peer_id: each for each in (a_member(3, "db-3"),)}
        model.apply(AntiEntropyRound(a_round(1, 3)))
        model.apply(AntiEntropyRound(a_round(2, 3)._replace(outcome=RoundOutcome.RUNNING)))
        peer = a_peer(3, "db-3", throttled=2)
        model.peers = {peer.peer_id: peer}
        kinds, fields, is_full = frames(sampler)
        assert (kinds, is_full) == (["members", "poll", "event"], False)
        assert [each["name"] for each in fields[0]["members"]] == ["db-3"]
        assert (fields[2]["event"], fields[2]["number"]) == ("round", 1), "none that runs"
        now[0] += 10
        model.peers = {peer.peer_id: peer._replace(throttled=7)}
        kinds, fields, _ = frames(sampler)
        assert kinds == ["poll", "event"], "nothing twice"
        assert (fields[1]["event"], fields[1]["dropped"]) == ("rate_limited", 5)
        now[0] += FULL_INTERVAL_S
        assert frames(sampler)[2]
    finally:
        await host.leave(0.1)


@pytest.mark.asyncio
async def test_the_members_of_a_large_cluster_are_sampled_less_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("grapevine_tui.host.state_sampler.SMALL_CLUSTER", 1)
    now = [1_790_000_000.0]
    host = Host(
        NodeConfig.local(keys=[ClusterKey.generate()], bind="127.0.0.1:0"),
        None,
        model=Model(wall_clock=lambda: now[0]),
    )
    await host.start()
    try:
        sampler = StateSampler(host)
        frames(sampler)
        seen = []
        for second in range(7):
            now[0] += 10
            status = (MemberStatus.UP, MemberStatus.DOWN)[second % 2]
            members = [replace(a_member(number), status=status) for number in (2, 3)]
            host.model.members = {each.peer_id: each for each in members}
            seen.append("members" in frames(sampler)[0])
        assert seen.count(True) == 1
    finally:
        await host.leave(0.1)
