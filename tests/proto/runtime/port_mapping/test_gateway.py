"""Mapping a port by PCP or NAT-PMP, with a gateway on loopback."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Callable

import pytest

from grapevine_proto.ids import Address
from grapevine_proto.runtime.port_mapping import gateway, packets
from grapevine_proto.runtime.port_mapping.gateway import GatewayPort, NoAnswer, parse_routes
from tests.proto.runtime.port_mapping.fake_gateway import EXTERNAL_HOST, FakeGateway

pytestmark = pytest.mark.asyncio
PORT = 8000
OWN = Address("127.0.0.1", PORT)
OUTSIDE = Address(EXTERNAL_HOST, PORT)


def port_at(address: Address) -> GatewayPort:
    return GatewayPort(time.monotonic, address, OWN, (0.05, 0.05))


@pytest.mark.parametrize(
    ("speaks", "protocol"),
    [((True, True), "PCP"), ((True, False), "PCP"), ((False, True), "NAT-PMP")],
)
async def test_a_port_is_mapped_renewed_and_given_back(
    speaks: tuple[bool, bool], protocol: str
) -> None:
    server = FakeGateway(*speaks)
    port = port_at(await server.open())
    mapping = await port.map(None, 3600)
    assert (mapping.address.host, mapping.lifetime_s) == (EXTERNAL_HOST, 3600)
    assert (mapping.protocol, mapping.was_reset) == (protocol, False)
    assert server.mapped == {mapping.address.port: ("127.0.0.1", PORT, 3600)}
    assert await port.map(mapping.address, 3600) == mapping
    await port.remove(1.0)
    assert server.mapped == {}
    server.close()


async def test_the_port_that_another_machine_has_is_replaced_by_another_one() -> None:
    server = FakeGateway()
    server.mapped[PORT] = "127.0.0.9", PORT, 3600
    mapping = await port_at(await server.open()).map(OUTSIDE, 3600)
    assert mapping.address == Address(EXTERNAL_HOST, PORT + 1)
    server.close()


@pytest.mark.parametrize("speaks_pcp", [True, False])
async def test_a_refusal_is_raised_with_its_reason(speaks_pcp: bool) -> None:
    server = FakeGateway(speaks_pcp=speaks_pcp, result=2)
    with pytest.raises(packets.Refused, match="not authorized"):
        await port_at(await server.open()).map(None, 3600)
    server.close()


@pytest.mark.parametrize(
    "answers",
    [
        lambda answer: [],
        lambda answer: [b"nonsense", b"", b"\xff" * 1200],
        lambda answer: [answer[:-1]],
        lambda answer: [b"\x02\x81" + bytes(58)] * 200,
    ],
    ids=["silence", "garbage", "too short", "a flood"],
)
@pytest.mark.parametrize("speaks_pcp", [True, False])
async def test_a_gateway_that_answers_nothing_of_use_costs_a_bounded_time(
    speaks_pcp: bool, answers: Callable[[bytes], list[bytes]]
) -> None:
    server = FakeGateway(speaks_pcp=speaks_pcp, answers=answers)
    port = port_at(await server.open())
    async with asyncio.timeout(2.0):
        with pytest.raises(NoAnswer):
            await port.map(None, 3600)
    assert len(server.requests) <= 4, "two attempts for each protocol"
    server.close()


async def test_a_gateway_that_is_silent_to_pcp_is_asked_by_nat_pmp() -> None:
    server = FakeGateway(speaks_pcp=False)
    server.answers = lambda answer: [] if answer[2:4] == b"\0\1" else [answer]
    port = port_at(await server.open())
    assert (await port.map(None, 3600)).protocol == "NAT-PMP"
    asked = len(server.requests)
    await port.map(OUTSIDE, 3600)
    assert [each[0] for each in server.requests[asked:]] == [0, 0], (
        "and by nothing else from then on"
    )
    server.close()


async def test_a_gateway_that_learns_pcp_is_found_out() -> None:
    server = FakeGateway(speaks_pcp=False)
    port = port_at(await server.open())
    await port.map(None, 3600)
    server.speaks_pcp, server.speaks_nat_pmp = True, False
    with pytest.raises(NoAnswer, match="neither"):
        await port.map(OUTSIDE, 3600)
    assert (await port.map(OUTSIDE, 3600)).protocol == "PCP"
    server.close()


async def test_garbage_before_the_answer_is_ignored() -> None:
    server = FakeGateway(answers=lambda answer: [b"nonsense", answer[:-4], answer])
    port = port_at(await server.open())
    assert (await port.map(None, 3600)).address.host == EXTERNAL_HOST
    assert port.ignored == 2
    server.close()


async def test_an_answer_from_another_address_is_not_one() -> None:
    other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server = FakeGateway()

    def answer_from_elsewhere(answer: bytes) -> list[bytes]:
        other.sendto(answer, ("127.0.0.1", client_port[0]))
        return []

    client_port = [0]
    receive = server.datagram_received

    def note_client(data: bytes, addr: tuple[str, int]) -> None:
        client_port[0] = addr[1]
        receive(data, addr)

    server.answers = answer_from_elsewhere
    server.datagram_received = note_client  # type: ignore[method-assign]
    port = port_at(await server.open())
    with pytest.raises(NoAnswer):
        await port.map(None, 3600)
    assert port.ignored == 0
    server.close()
    other.close()


async def test_nobody_listening_is_found_out_at_once() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unused:
        unused.bind(("127.0.0.1", 0))
        address = Address(*unused.getsockname())
    with pytest.raises(NoAnswer):
        await port_at(address).map(None, 3600)


@pytest.mark.parametrize("speaks_pcp", [True, False])
async def test_a_gateway_that_restarted_is_noticed_and_maps_again(speaks_pcp: bool) -> None:
    server = FakeGateway(speaks_pcp=speaks_pcp)
    server.started_at -= 1000
    port = port_at(await server.open())
    mapping = await port.map(None, 3600)
    server.restart()
    again = await port.map(mapping.address, 3600)
    assert again.was_reset
    assert again.address == mapping.address
    assert list(server.mapped) == [mapping.address.port]
    assert not (await port.map(mapping.address, 3600)).was_reset
    server.close()


async def test_a_gateway_that_grants_no_time_refuses() -> None:
    server = FakeGateway(lifetime_s=0)
    with pytest.raises(packets.Refused, match="no time"):
        await port_at(await server.open()).map(None, 3600)
    server.close()


@pytest.mark.parametrize("speaks_pcp", [True, False])
async def test_a_mapping_never_counts_for_longer_than_was_asked_for(speaks_pcp: bool) -> None:
    server = FakeGateway(speaks_pcp=speaks_pcp, lifetime_s=2**32 - 1)
    assert (await port_at(await server.open()).map(None, 3600)).lifetime_s == 3600
    server.close()


async def test_the_address_of_the_node_is_mapped_and_not_the_one_of_the_route_to_the_gateway() -> (
    None
):
    server = FakeGateway()
    port = GatewayPort(time.monotonic, await server.open(), Address("127.0.0.3", PORT), (0.05,))
    await port.map(None, 3600)
    assert list(server.mapped.values()) == [("127.0.0.3", PORT, 3600)]
    server.close()


async def test_an_address_that_this_machine_has_lost_is_no_answer() -> None:
    server = FakeGateway()
    port = GatewayPort(time.monotonic, await server.open(), Address("192.0.2.1", PORT), (0.05,))
    with pytest.raises(NoAnswer):
        await port.map(None, 3600)
    assert server.requests == []
    server.close()


async def test_the_gateway_of_the_default_route_with_the_lowest_metric_is_found() -> None:
    def row(*columns: str) -> str:
        return "\t".join((*columns, "0", "0", "0"))

    def hexadecimal(host: str) -> str:
        packed = bytes(int(each) for each in host.split("."))
        return f"{struct.unpack('=I', packed)[0]:08X}"

    text = "\n".join(
        [
            "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask",
            row(
                "eth0", "00000000", hexadecimal("192.168.1.1"), "0003", "0", "0", "100", "00000000"
            ),
            row("wlan0", "00000000", hexadecimal("10.0.0.1"), "0003", "0", "0", "20", "00000000"),
            row("eth0", hexadecimal("10.0.0.0"), "00000000", "0001", "0", "0", "0", "00FFFFFF"),
            "garbage",
            row("tun\ufffd", "00000000", "1" * 9, "0003", "0", "0", "0", "00000000"),
        ]
    )
    found = parse_routes(text)
    assert found is not None
    assert (found.host, found.port) == ("10.0.0.1", packets.SERVER_PORT)
    assert parse_routes("") is None


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (("echo", "   gateway: 192.168.1.1"), Address("192.168.1.1", packets.SERVER_PORT)),
        (("echo", "   gateway: link#4"), None),
        (("false",), None),
        (("/nonexistent/route",), None),
        (("sleep", "60"), None),
    ],
)
async def test_where_the_system_has_no_table_of_routes_a_command_is_asked_for_a_limited_time(
    monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], expected: Address | None
) -> None:
    monkeypatch.setattr(gateway, "_IS_LINUX", False)
    monkeypatch.setattr(gateway, "ROUTE_COMMAND", command)
    monkeypatch.setattr(gateway, "ROUTE_COMMAND_S", 0.3)
    async with asyncio.timeout(5.0):
        assert await gateway.default_gateway() == expected
