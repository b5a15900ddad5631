"""Discovery among the state directories of one user."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from grapevine_proto import ClusterKey, ConfigError, LocalDiscovery, Node, NodeConfig
from grapevine_proto.ids import Address
from grapevine_proto.runtime.discovery.local import FILE_NAME, MARK_DOMAIN
from grapevine_proto.runtime.discovery.source import OwnNode

KEY = ClusterKey(bytes(range(32)))
OTHER_KEY = ClusterKey(bytes(32))


def own(directory: Path, *, key: ClusterKey = KEY, cluster: str = "default") -> OwnNode:
    directory.mkdir(mode=0o700, exist_ok=True)
    return OwnNode((Address("127.0.0.1", 9),), False, (key,), cluster, directory)


async def found_beside(directory: Path) -> list[str]:
    source = LocalDiscovery()
    await source.announce(own(directory))
    return await source.addresses()


def write(directory: Path, text: str, mode: int = 0o600) -> None:
    directory.mkdir(mode=0o700)
    path = directory / FILE_NAME
    path.write_text(text)
    path.chmod(mode)


def test_three_nodes_with_free_ports_meet_by_their_state_directories(tmp_path: Path) -> None:
    async def meet() -> None:
        config = NodeConfig(keys=KEY, bind="0.0.0.0:0", gossip_interval=0.2)
        nodes = [
            Node(config, state_dir=tmp_path / name, discovery=[LocalDiscovery()])
            for name in ("a", "b", "c")
        ]
        async with nodes[0], nodes[1], nodes[2]:
            for each in nodes:
                await each.ready(min_peers=2, timeout=10)
            assert (tmp_path / "a" / FILE_NAME).exists()
        assert not any((tmp_path / name / FILE_NAME).exists() for name in ("a", "b", "c"))

    asyncio.run(meet())


def test_nodes_of_another_key_or_cluster_are_not_named(tmp_path: Path) -> None:
    async def look() -> None:
        await LocalDiscovery().announce(own(tmp_path / "ours"))
        await LocalDiscovery().announce(own(tmp_path / "key", key=OTHER_KEY))
        await LocalDiscovery().announce(own(tmp_path / "cluster", cluster="other"))
        assert await found_beside(tmp_path / "us") == ["127.0.0.1:9"]

    asyncio.run(look())


def test_a_node_that_has_ended_is_not_named(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    marks = ",".join(own(tmp_path / "marks").marks(MARK_DOMAIN))
    write(tmp_path / "ended", f"{ended.pid} 127.0.0.1:1 {marks}\n")
    write(tmp_path / "alive", f"{os.getpid()} 127.0.0.1:2 {marks}\n")
    assert asyncio.run(found_beside(tmp_path / "us")) == ["127.0.0.1:2"]


@pytest.mark.parametrize("text", ["", "x", "1 2", "99999999999999999999 a b", "1 a b c", "\x00"])
def test_a_damaged_file_names_nothing(tmp_path: Path, text: str) -> None:
    write(tmp_path / "damaged", text)
    assert asyncio.run(found_beside(tmp_path / "us")) == []


def test_a_file_that_others_can_write_names_nothing(tmp_path: Path) -> None:
    marks = ",".join(own(tmp_path / "marks").marks(MARK_DOMAIN))
    write(tmp_path / "open", f"{os.getpid()} 127.0.0.1:2 {marks}\n", mode=0o666)
    assert asyncio.run(found_beside(tmp_path / "us")) == []


def test_a_node_without_a_state_directory_cannot_be_found() -> None:
    without = OwnNode((Address("127.0.0.1", 9),), False, (KEY,), "default", None)
    with pytest.raises(ConfigError, match="needs a state directory"):
        asyncio.run(LocalDiscovery().announce(without))
