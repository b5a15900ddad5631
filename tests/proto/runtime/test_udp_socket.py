"""UDP socket: a system error with one datagram affects no other."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from asyncio_dgram.aio import Protocol as DatagramProtocol

import grapevine_proto.runtime.udp_socket as endpoint_module
from grapevine_proto.errors import BindError
from grapevine_proto.ids import Address
from grapevine_proto.runtime.pktinfo import SourceAddress, make_reply_control
from grapevine_proto.runtime.udp_socket import MAX_UNSENDABLE_REPORTS, SocketClosed, UdpSocket
from tests.conftest import Run

ANY = "127.0.0.1:0"
TOO_LONG = bytes(70_000)  # beyond what UDP carries: EMSGSIZE


def test_a_sent_datagram_is_received(run: Run[Any]) -> None:
    async def main() -> None:
        ours, theirs = await UdpSocket.open(ANY), await UdpSocket.open(ANY)
        await ours.send(b"hello", theirs.address)
        assert await theirs.receive() == (b"hello", ours.address)
        ours.close()
        theirs.close()

    run(main())


def test_a_full_buffer_of_the_system_is_waited_for_and_costs_no_datagram(
    run: Run[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    protocols: list[asyncio.DatagramProtocol] = []

    def make_protocol(*queues: Any) -> asyncio.DatagramProtocol:
        protocols.append(DatagramProtocol(*queues))
        return protocols[-1]

    monkeypatch.setattr(endpoint_module, "DatagramProtocol", make_protocol)

    async def main() -> None:
        ours, theirs = await UdpSocket.open(ANY), await UdpSocket.open(ANY)
        assert ours.send_nowait(b"first", theirs.address)
        protocols[0].pause_writing()  # as the transport does
        assert not ours.send_nowait(b"refused", theirs.address)
        waiting = asyncio.create_task(ours.send(b"second", theirs.address))
        await asyncio.sleep(0)
        assert not waiting.done()
        protocols[0].resume_writing()
        await waiting
        assert [(await theirs.receive())[0] for _ in range(2)] == [b"first", b"second"]
        assert ours.error_count == 0
        ours.close()
        theirs.close()
        with pytest.raises(SocketClosed):
            ours.send_nowait(b"late", theirs.address)

    run(main())


def test_unsendable_datagrams_affect_no_others(run: Run[Any]) -> None:
    async def main() -> None:
        ours, theirs = await UdpSocket.open(ANY), await UdpSocket.open(ANY)
        nowhere = Address("255.255.255.255", 9)  # EACCES on a socket without the right to
        elsewhere = Address("::1", 9)  # another family
        for number in range(50):
            await ours.send(TOO_LONG, theirs.address)
            await ours.send(b"x", nowhere)
            await ours.send(b"x", elsewhere)
            await ours.send(b"%d" % number, theirs.address)
        got = [(await theirs.receive())[0] for _ in range(50)]
        assert got == [b"%d" % number for number in range(50)]
        assert ours.error_count >= 149  # the next call reports the last error
        ours.close()
        theirs.close()

    run(main())


def test_a_closed_port_affects_no_other_peer(run: Run[Any]) -> None:
    async def main() -> None:
        ours, theirs = await UdpSocket.open(ANY), await UdpSocket.open(ANY)
        dead = await UdpSocket.open(ANY)
        dead.close()
        for number in range(50):
            await ours.send(b"x", dead.address)
            await asyncio.sleep(0)
            await ours.send(b"%d" % number, theirs.address)
            assert (await theirs.receive())[0] == b"%d" % number
        ours.close()
        theirs.close()

    run(main())


def test_an_ipv6_socket_receives_both_families_and_reports_plain_ipv4(run: Run[Any]) -> None:
    async def main() -> None:
        try:
            both = await UdpSocket.open("[::]:0")
        except BindError as error:
            pytest.skip(str(error))
        ours = await UdpSocket.open(ANY)
        await ours.send(b"ping", Address("127.0.0.1", both.address.port))
        datagram, source = await both.receive()
        assert (datagram, source) == (b"ping", ours.address)
        await both.send(b"pong", source)
        assert (await ours.receive())[0] == b"pong"
        ours.close()
        both.close()

    run(main())


def test_close_ends_a_waiting_receive(run: Run[Any]) -> None:
    async def main() -> None:
        ours = await UdpSocket.open(ANY)
        waiting = asyncio.create_task(ours.receive())
        await asyncio.sleep(0)
        ours.close()
        with pytest.raises(SocketClosed):
            await waiting
        with pytest.raises(SocketClosed):
            await ours.send(b"x", ours.address)

    run(main())


def test_a_port_in_use_is_named_with_its_cause(run: Run[Any]) -> None:
    async def main() -> None:
        ours = await UdpSocket.open(ANY)
        with pytest.raises(BindError) as caught:
            await UdpSocket.open(str(ours.address))
        assert str(ours.address) in str(caught.value)
        assert "in use" in str(caught.value)
        ours.close()

    run(main())


@pytest.mark.parametrize(
    ("bind", "cause"),
    [
        ("192.0.2.77:0", "not an address of this machine"),
        ("no-such-host.invalid:0", "no-such-host.invalid"),
    ],
)
def test_a_foreign_address_is_named_with_its_cause(run: Run[Any], bind: str, cause: str) -> None:
    async def main() -> None:
        with pytest.raises(BindError, match=cause):
            await UdpSocket.open(bind)

    run(main())


def test_a_wildcard_is_never_advertised(run: Run[Any]) -> None:
    async def main() -> None:
        ours = await UdpSocket.open("0.0.0.0:0")
        assert ours.address.host == "0.0.0.0"
        assert ours.dialable_address.host != "0.0.0.0"
        assert ours.dialable_address.port == ours.address.port
        ours.close()

    run(main())


def test_a_known_address_survives_an_unplugged_network(
    run: Run[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    now: list[tuple[str, ...]] = [("10.8.0.1",)]
    monkeypatch.setattr(endpoint_module, "dialable_hosts", lambda *_: now[-1])

    async def main() -> None:
        ours = await UdpSocket.open("0.0.0.0:0")
        seen = []
        for hosts in (("127.0.0.1",), ("10.9.0.1", "172.17.0.1"), ("127.0.0.1",)):
            now.append(hosts)
            seen.append([each.host for each in ours.refresh_addresses()])
        assert seen == [["10.8.0.1"], ["10.9.0.1", "172.17.0.1"], ["10.9.0.1", "172.17.0.1"]]
        assert ours.dialable_address == Address("10.9.0.1", ours.address.port)
        ours.close()

    run(main())


def test_names_resolve_to_all_addresses_the_socket_can_reach(run: Run[Any]) -> None:
    async def main() -> None:
        ours = await UdpSocket.open(ANY)
        assert await ours.resolve("localhost:77") == (Address("127.0.0.1", 77),)
        assert await ours.resolve("no-such-host.invalid:77") == ()
        assert await ours.resolve("a" * 70 + ".invalid:77") == ()
        ours.close()

    run(main())


def test_an_unread_flood_costs_datagrams_and_not_memory(
    run: Run[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint_module, "MAX_RECEIVE_QUEUE_BYTES", 10_000)

    async def main() -> None:
        ours, theirs = await UdpSocket.open(ANY), await UdpSocket.open(ANY)
        sent = 0
        async with asyncio.timeout(10):
            while theirs.dropped_reads < 100:
                await ours.send(bytes(1000), theirs.address)
                sent += 1
                await asyncio.sleep(0)
        for _ in range(8):  # of 1,300 bytes each, the last one over the edge
            await theirs.receive()
        await ours.send(b"again", theirs.address)
        while (await theirs.receive())[0] != b"again":
            pass
        ours.close()
        theirs.close()

    run(main())


def test_a_datagram_too_large_for_the_system_is_reported_and_affects_no_other(
    run: Run[Any],
) -> None:
    async def main() -> None:
        ours, theirs = await UdpSocket.open("127.0.0.1:0"), await UdpSocket.open("127.0.0.1:0")
        await ours.send(bytes(65_508), theirs.address)  # one byte more than UDP over IPv4 holds
        await ours.send(b"after", theirs.address)
        assert (await theirs.receive())[0] == b"after"
        assert ours.too_large == [(65_508, theirs.address)]
        ours.close()
        theirs.close()

    run(main())


@pytest.mark.parametrize("wildcard", ["0.0.0.0:0", "[::]:0"])
def test_a_reply_leaves_from_the_address_that_was_dialed(run: Run[Any], wildcard: str) -> None:
    async def main() -> None:
        try:
            ours = await UdpSocket.open(wildcard)
        except BindError as error:
            pytest.skip(str(error))
        theirs = await UdpSocket.open(ANY)
        for host in ("127.0.0.1", "127.0.0.2", "127.0.0.3"):
            await theirs.send(b"ping", Address(host, ours.address.port))
            datagram, source = await ours.receive()
            assert (datagram, source) == (b"ping", theirs.address)
            await ours.send(b"pong", source)
            assert await theirs.receive() == (b"pong", Address(host, ours.address.port))
        ours.close()
        theirs.close()

    run(main())


def test_a_removed_source_address_costs_no_datagram(run: Run[Any]) -> None:
    async def main() -> None:
        ours, theirs = await UdpSocket.open("0.0.0.0:0"), await UdpSocket.open(ANY)
        gone = SourceAddress(*theirs.address)
        gone.reply_control = make_reply_control(
            [(socket.IPPROTO_IP, 8, struct.pack("=I4s4s", 1, socket.inet_aton("192.0.2.1"), b""))]
        )
        await ours.send(b"still here", gone)
        assert (await theirs.receive())[0] == b"still here"
        ours.close()
        theirs.close()

    run(main())


def test_a_wildcard_socket_sends_everything_before_it_closes(run: Run[Any]) -> None:
    async def main() -> None:
        ours, theirs = await UdpSocket.open("0.0.0.0:0"), await UdpSocket.open(ANY)
        for number in range(50):
            await ours.send(b"%d" % number, theirs.address)
        ours.close()
        got = [(await theirs.receive())[0] for _ in range(50)]
        assert got == [b"%d" % number for number in range(50)]
        with pytest.raises(SocketClosed):
            await ours.receive()
        theirs.close()

    run(main())


def test_a_refused_buffer_size_is_halved_and_not_fatal(
    run: Run[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The BSDs refuse what is above their limit (ENOBUFS), where Linux grants less."""
    requested: list[int] = []

    class Socket(socket.socket):
        def setsockopt(self, level: int, option: int, value: Any, *rest: Any) -> None:
            if option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                requested.append(value)
                if value > 2**20:
                    raise OSError(errno.ENOBUFS, "No buffer space available")
            super().setsockopt(level, option, value, *rest)

    async def main() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(socket, "socket", Socket)
            (await UdpSocket.open(ANY)).close()
        assert requested == [2**22, 2**21, 2**20] * 2

    run(main())


def test_an_unsendable_address_is_reported_with_the_reason(run: Run[Any]) -> None:
    async def main() -> None:
        ipv4, ipv6 = await UdpSocket.open(ANY), await UdpSocket.open("[::]:0")
        for socket_, host in ((ipv4, "2001:db8::7"), (ipv6, "fe80::1%no-such0")):
            await socket_.send(b"x", Address(host, 9))
        assert "no IPv6 socket" in ipv4.unsendable.pop()[1]
        assert "no such interface" in ipv6.unsendable.pop()[1]
        for _ in range(MAX_UNSENDABLE_REPORTS + 1):
            await ipv4.send(b"x", Address("2001:db8::7", 9))
        assert len(ipv4.unsendable) == MAX_UNSENDABLE_REPORTS
        ipv4.close()
        ipv6.close()

    run(main())


@pytest.mark.parametrize("host", ["a..b", "a" * 70, "010.0.0.1", "[::g]"])
def test_a_host_that_is_neither_address_nor_name_cannot_be_bound(run: Run[Any], host: str) -> None:
    async def main() -> None:
        with pytest.raises(BindError, match="cannot bind"):
            await UdpSocket.open(f"{host}:0")

    run(main())


def test_a_read_without_memory_pauses_and_resumes(
    run: Run[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = 0

    class Socket(socket.socket):
        def recvmsg(self, *args: Any) -> Any:
            nonlocal tries
            tries += 1
            if tries <= 3:
                raise OSError(errno.ENOBUFS, "No buffer space available")
            return super().recvmsg(*args)

    async def main() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(socket, "socket", Socket)
            ours = await UdpSocket.open("0.0.0.0:0")
        theirs = await UdpSocket.open(ANY)
        await theirs.send(b"late", Address("127.0.0.1", ours.address.port))
        assert (await ours.receive())[0] == b"late"
        assert ours.error_count == 3
        assert tries <= 6  # and not as often as the loop came round meanwhile
        ours.close()
        theirs.close()

    run(main())


def test_a_system_without_pktinfo_is_logged_and_the_node_runs(
    run: Run[Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(endpoint_module, "enable_pktinfo", lambda _: False)

    async def main() -> None:
        ours, theirs = await UdpSocket.open("0.0.0.0:0"), await UdpSocket.open(ANY)
        await theirs.send(b"ping", Address("127.0.0.1", ours.address.port))
        datagram, source = await ours.receive()
        await ours.send(datagram, source)
        assert (await theirs.receive())[0] == b"ping"
        ours.close()
        theirs.close()

    run(main())
    assert "which of its addresses was dialed" in caplog.text


@contextlib.contextmanager
def used_port() -> Iterator[int]:
    """A UDP port of loopback that is in use, with 64 valid ports above it."""
    with contextlib.ExitStack() as held:
        while True:
            sock = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sock.bind(("127.0.0.1", 0))
            if (port := sock.getsockname()[1]) < 65_000:
                yield port
                return


def test_a_range_binds_the_first_free_port(run: Run[Any]) -> None:
    async def main() -> None:
        with used_port() as used:
            ours = await UdpSocket.open(f"127.0.0.1:{used}-{used + 63}")
            assert used < ours.address.port <= used + 63
            taken = range(used, ours.address.port + 1)
            theirs = await UdpSocket.open(f"127.0.0.1:{used}-{used + 63}")
            assert theirs.address.port not in taken
            ours.close()
            theirs.close()

    run(main())


def test_a_range_of_used_ports_is_named_with_its_cause(run: Run[Any]) -> None:
    async def main() -> None:
        with used_port() as used, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            with contextlib.suppress(OSError):  # in use already
                sock.bind(("127.0.0.1", used + 1))
            ports = f"127.0.0.1:{used}-{used + 1}"
            with pytest.raises(
                BindError, match=f"cannot bind {ports}: all of these ports are in use"
            ):
                await UdpSocket.open(ports)

    run(main())
