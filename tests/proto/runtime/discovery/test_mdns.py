"""Discovery by multicast DNS, over the loopback interface."""

from __future__ import annotations

import asyncio
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from grapevine_proto import ClusterKey, ConfigError, MdnsDiscovery, Node, NodeConfig
from grapevine_proto.ids import Address
from grapevine_proto.runtime.discovery import mdns
from grapevine_proto.runtime.discovery.mdns import MARK_DOMAIN, MAX_INSTANCES, MAX_MARKS
from grapevine_proto.runtime.discovery.source import OwnNode

pytest.importorskip("zeroconf")
KEY = ClusterKey(bytes(range(32)))
OWN = OwnNode((Address("127.0.0.1", 9),), False, (KEY,), "default", None)


def info(mark: str | bytes | None, *hosts: str, port: int = 8000) -> Any:
    """What zeroconf tells of an instance."""
    mark = mark.encode() if isinstance(mark, str) else mark
    return SimpleNamespace(
        properties={b"c": mark}, port=port, parsed_scoped_addresses=lambda: list(hosts)
    )


@pytest.fixture
def source() -> MdnsDiscovery:
    made = MdnsDiscovery()
    made._own = OWN
    return made


def mark_of(day: int, own: OwnNode = OWN) -> str:
    return own.marks(MARK_DOMAIN, day)[0]


def test_two_nodes_meet_without_an_address_and_a_third_cluster_is_not_dialed() -> None:
    async def meet() -> None:
        # new keys: another run of this test on the same machine is another cluster
        ours = NodeConfig(keys=ClusterKey.generate(), bind="127.0.0.1:0")
        others = NodeConfig(keys=ClusterKey.generate(), bind="127.0.0.1:0")
        first, second, third = (
            Node(config, discovery=[MdnsDiscovery()]) for config in (ours, ours, others)
        )
        async with first, second, third:
            await first.ready(timeout=10)
            await second.ready(timeout=10)
            async with asyncio.timeout(10):
                while not third.discovery_sources():  # noqa: ASYNC110  its first report may take longer
                    await asyncio.sleep(0.01)
            assert [each.addresses for each in third.discovery_sources()] == [()]
            assert third.stats().dropped == ()
            assert first.stats().dropped == second.stats().dropped == ()

    asyncio.run(meet())


@pytest.mark.parametrize(
    ("days", "is_ours"), [(-2, False), (-1, True), (0, True), (1, True), (2, False)]
)
def test_a_mark_counts_for_its_day_and_the_days_beside_it(
    source: MdnsDiscovery, monkeypatch: pytest.MonkeyPatch, days: int, *, is_ours: bool
) -> None:
    monkeypatch.setattr(mdns, "_today", lambda: 20_000)
    source._note("x", info(mark_of(20_000 + days), "10.0.0.1"))
    assert source._instances == ({"x": ["10.0.0.1:8000"]} if is_ours else {})


@pytest.mark.parametrize("mark", [None, b"", b"\xff\x00", b",,,", b"0" * 255])
def test_an_instance_with_another_mark_is_not_named(
    source: MdnsDiscovery, mark: bytes | None
) -> None:
    source._note("x", info(mark, "10.0.0.1"))
    assert source._instances == {}


def test_a_key_of_a_rotation_is_recognized_among_several(source: MdnsDiscovery) -> None:
    today = mdns._today()
    others = ["0" * 16] * (MAX_MARKS - 1)
    source._note("last", info(",".join([*others, mark_of(today)]), "10.0.0.1"))
    source._note("beyond", info(",".join([*others, "1" * 16, mark_of(today)]), "10.0.0.2"))
    assert list(source._instances) == ["last"]


def test_instances_beyond_the_limit_are_counted(source: MdnsDiscovery) -> None:
    mark = mark_of(mdns._today())
    for number in range(MAX_INSTANCES + 1):
        source._note(f"{number}", info(mark, "10.0.0.1", port=number + 1))
    assert len(source._instances) == MAX_INSTANCES
    assert source.dropped == 1
    source._note("0", info(mark, "10.0.0.2"))
    assert source._instances["0"] == ["10.0.0.2:8000"]


def test_the_text_record_holds_no_name_of_the_node_or_the_cluster() -> None:
    own = OwnNode((Address("127.0.0.1", 9),), False, (KEY,), "secret-cluster", None)

    async def announced() -> Any:
        source = MdnsDiscovery()
        await source.announce(own)
        service = source._service()
        await source.withdraw()
        return service

    service = asyncio.run(announced())
    assert set(service.properties) == {b"v", b"c"}
    assert service.properties[b"v"] == b"1"
    assert service.properties[b"c"] == mark_of(mdns._today(), own).encode()
    assert "secret" not in service.name
    assert service.name.endswith("._grapevine._udp.local.")


def test_without_its_package_one_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zeroconf", None)
    with pytest.raises(ConfigError) as raised:
        MdnsDiscovery()
    assert str(raised.value) == "discovery: mdns needs: pip install 'grapevine-tui[mdns]'"
