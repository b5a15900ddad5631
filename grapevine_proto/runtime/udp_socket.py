"""A bound UDP socket on top of asyncio-dgram, with contained system errors.

Invariants:

- An error with one datagram affects no other. asyncio-dgram keeps an error for the *next* call; here it is
  counted, and what that call sends is sent.
- The receive queue is limited (asyncio-dgram's own is not): a flood costs datagrams, which are counted
  (`dropped_reads`), not memory.
- Every system error is counted (`error_count`) and none ends `receive` or `send`: a datagram that cannot
  be sent is lost, which the protocol tolerates.
- Addresses are in the usual notation: an IPv4 peer on an IPv6 socket is 1.2.3.4, not ::ffff:1.2.3.4, and a
  link-local one includes its scope.
- A reply leaves from the address that was dialed, even if the socket is bound to a wildcard (`pktinfo`).
- Only `open` raises BindError, which names the address and the cause.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import sys
from collections import deque
from typing import Any, Final, NamedTuple, Protocol, Self, cast

from asyncio_dgram.aio import DatagramServer
from asyncio_dgram.aio import Protocol as DatagramProtocol

from grapevine_proto.errors import BindError
from grapevine_proto.ids import (
    Address,
    check_host,
    is_link_local,
    is_wildcard,
    split_host_port,
    split_host_ports,
)
from grapevine_proto.runtime.daemon_threads import DaemonThreads
from grapevine_proto.runtime.fork_safety import detach_descriptor
from grapevine_proto.runtime.interfaces import dialable_hosts
from grapevine_proto.runtime.pktinfo import (
    PktinfoTransport,
    RawSource,
    SourceAddress,
    enable_pktinfo,
    make_reply_control,
)

SOCKET_BUFFER_BYTES: Final = 4 * 2**20
"""Requested from the kernel in each direction. Its default holds 92 datagrams of 1,200 bytes, fewer than a
peer can send while this node verifies one signature."""

MIN_SOCKET_BUFFER_BYTES: Final = 2**16  # smaller requests are pointless

MAX_RECEIVE_QUEUE_BYTES: Final = 32 * 2**20
"""Of datagrams that the node has not read yet: one second at its highest speed."""
DATAGRAM_OVERHEAD_BYTES: Final = 300  # of a datagram in Python, besides its content

IPV4_MAPPED_PREFIX: Final = "::ffff:"
MAX_UNSENDABLE_REPORTS: Final = 64  # per turn of the driver
MAX_LOOKUPS: Final = 64  # each may hang for half a minute or more
MAX_URGENT_LOOKUPS: Final = 8
BASE_DATAGRAM_BYTES: Final = 1200  # every path carries it
SOURCE_CACHE_SIZE: Final = 1024  # converted source addresses
IP_MTU_DISCOVER: Final = 10  # linux/in.h, linux/in6.h; Python 3.11 has no names for them
IPV6_MTU_DISCOVER: Final = 23
PMTUDISC_PROBE: Final = 3

_BIND_ERRORS: Final = {
    errno.EADDRNOTAVAIL: "not an address of this machine",
    errno.EACCES: "not permitted",
}

logger = logging.getLogger("grapevine")


class SocketClosed(Exception):
    """Internal: the socket was closed, by this node or by the system."""


class DatagramSocket(Protocol):
    """What carries the datagrams of a node: a `UdpSocket`, or one of a simulated network."""

    address: Address
    is_wildcard: bool
    error_count: int
    too_large: list[tuple[int, Address]]
    unsendable: deque[tuple[Address, str]]

    @property
    def dropped_reads(self) -> int: ...

    @property
    def is_readable(self) -> bool: ...

    @property
    def dialable_address(self) -> Address: ...

    def refresh_addresses(self) -> tuple[Address, ...]: ...

    async def receive(self) -> tuple[bytes, Address]: ...

    def send_nowait(self, datagram: bytes, to: Address) -> bool: ...

    async def send(self, datagram: bytes, to: Address) -> None: ...

    async def resolve(self, name: str, *, is_urgent: bool = False) -> tuple[Address, ...]: ...

    def close(self) -> None: ...

    def on_forked(self) -> None: ...


class ReceiveQueue:
    """The receive queue of asyncio-dgram, in place of its own: it drops datagrams when full, as the kernel
    does, and wakes its one reader cheaply."""

    __slots__ = ("_datagrams", "_size_bytes", "_waiter", "dropped_reads", "is_closed")

    def __init__(self) -> None:
        self.dropped_reads = 0
        self.is_closed = False
        self._datagrams: deque[tuple[bytes, Any]] = deque()
        self._size_bytes = 0
        self._waiter: asyncio.Future[None] | None = None

    def put_nowait(self, item: tuple[bytes | None, Any]) -> None:
        """Adds (datagram, source); the datagram None closes the queue."""
        datagram, source = item
        if datagram is None:
            self.is_closed = True
        elif self._size_bytes >= MAX_RECEIVE_QUEUE_BYTES:
            self.dropped_reads += 1
        else:
            self._size_bytes += DATAGRAM_OVERHEAD_BYTES + len(datagram)
            self._datagrams.append((datagram, source))
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def __len__(self) -> int:
        return len(self._datagrams)

    def pop(self) -> tuple[bytes, Any]:
        """Removes and returns the oldest entry. There must be one."""
        item = self._datagrams.popleft()
        self._size_bytes -= DATAGRAM_OVERHEAD_BYTES + len(item[0])
        return item

    def next_change(self) -> asyncio.Future[None]:
        """Returns a future that is done when something is added. Only one task may await it."""
        self._waiter = asyncio.get_running_loop().create_future()
        return self._waiter


class _Queues(NamedTuple):
    """What the protocol of asyncio-dgram fills: `drained` is set while the system takes datagrams."""

    received: ReceiveQueue
    errors: asyncio.Queue[Exception]
    drained: asyncio.Event


class UdpSocket:
    """A bound UDP socket. One task may call `receive`, another one `send`.

    `too_large` collects (size, address) of datagrams that the system refused for their size, `unsendable`
    addresses that this socket cannot send to, with the reason; the caller empties both. `address` is the
    bound address.
    """

    def __init__(
        self,
        transport: asyncio.DatagramTransport,
        queues: _Queues,
        sock: socket.socket,
        *,
        has_pktinfo: bool = False,
    ) -> None:
        self._transport = transport
        self._receive_queue = queues.received
        self._deferred_errors = queues.errors
        self._drained = queues.drained
        self._stream = DatagramServer(cast(Any, transport), *cast(Any, queues))
        self._fd = sock.fileno()
        self._is_ipv6 = sock.family == socket.AF_INET6
        self._has_pktinfo = has_pktinfo
        self._sources: dict[tuple[RawSource, Any], Address] = {}
        self._family = socket.AF_UNSPEC if self._is_ipv6 else socket.AF_INET
        self.address = _to_address(sock.getsockname())
        self.is_wildcard = is_wildcard(sock.getsockname()[0])
        self._addresses: tuple[Address, ...] = ()
        self.refresh_addresses()
        self._lookups = DaemonThreads("grapevine names", MAX_LOOKUPS)
        self._urgent_lookups = DaemonThreads("grapevine names", MAX_URGENT_LOOKUPS)
        self.error_count = 0
        self.too_large: list[tuple[int, Address]] = []
        self.unsendable: deque[tuple[Address, str]] = deque(maxlen=MAX_UNSENDABLE_REPORTS)
        self._last_large: tuple[int, Address] | None = (
            None  # the latest datagram that may be too large
        )

    @classmethod
    async def open(cls, bind: str) -> Self:
        """Binds a socket to `bind`, ``host:port`` (port 0: any free port) or ``host:first-last`` (the
        first free port). Raises BindError."""
        sock = await _bind_socket(bind)
        try:
            is_wildcard_bind = is_wildcard(sock.getsockname()[0])
            has_pktinfo = is_wildcard_bind and enable_pktinfo(sock)
            if is_wildcard_bind and not has_pktinfo:
                logger.warning(
                    "this system does not report which of its addresses was dialed; if this machine has"
                    " several, set bind to the address that peers dial"
                )
            transport, queues = await _open_transport(sock, has_pktinfo=has_pktinfo)
        except BaseException:
            sock.close()
            raise
        udp_socket = cls(transport, queues, sock, has_pktinfo=has_pktinfo)
        logger.info(
            "listening on %s; buffers granted: %d KiB to receive, %d KiB to send",
            udp_socket.address,
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 1024,
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 1024,
        )
        return udp_socket

    @property
    def dropped_reads(self) -> int:
        """Datagrams dropped because the receive queue was full."""
        return self._receive_queue.dropped_reads

    @property
    def is_readable(self) -> bool:
        """Whether `receive` would return at once."""
        return len(self._receive_queue) > 0

    @property
    def dialable_address(self) -> Address:
        """The best address for other nodes to dial, as of the latest `refresh_addresses`."""
        return self._addresses[0]

    def refresh_addresses(self) -> tuple[Address, ...]:
        """Determines the addresses that other nodes can dial, the most likely one first. If only loopback
        is left, keeps the previous ones, because an unplugged network usually returns. Cheap enough for every
        second."""
        family = socket.AF_INET6 if self._is_ipv6 else socket.AF_INET
        hosts = dialable_hosts(self.address.host, family)
        addresses = tuple(Address(host, self.address.port) for host in hosts)
        if not self._addresses or not addresses[0].is_loopback:
            self._addresses = addresses
        return self._addresses

    async def receive(self) -> tuple[bytes, Address]:
        """Returns the next datagram and its source. Returns without yielding while datagrams are queued,
        so the caller must yield regularly. Raises SocketClosed."""
        receive_queue = self._receive_queue
        while not receive_queue or receive_queue.is_closed:
            if receive_queue.is_closed:
                raise SocketClosed
            await receive_queue.next_change()
        self._count_deferred_errors()
        datagram, source = receive_queue.pop()
        if self._has_pktinfo:
            return datagram, self._to_source(*source)
        if self._is_ipv6:
            return datagram, _to_address(source)
        return datagram, Address(source[0], source[1])

    def _to_source(self, raw: RawSource, ancillary: list[tuple[int, int, bytes]]) -> Address:
        """Returns the source of a datagram, with the control messages for replies."""
        key = (raw, ancillary[0] if ancillary else None)
        cached = self._sources.get(key)
        if cached is None:
            if len(self._sources) >= SOURCE_CACHE_SIZE:
                self._sources.clear()
            cached = SourceAddress(*_to_address(raw))
            cached.reply_control = make_reply_control(ancillary)
            self._sources[key] = cached
        return cached

    def send_nowait(self, datagram: bytes, to: Address) -> bool:
        """Sends `datagram`, or counts the error. Returns False without sending while the system's buffer is
        full. Raises SocketClosed."""
        if not self._drained.is_set():
            return False
        transport = self._transport
        if transport.is_closing():
            raise SocketClosed
        target = self._target(to)
        if target is None:
            return True
        self._count_deferred_errors()
        try:
            transport.sendto(datagram, target)
        except (OSError, ValueError) as error:  # ValueError: uvloop rejects the address
            self._count_error(error)
        if len(datagram) > BASE_DATAGRAM_BYTES:
            self._last_large = (len(datagram), to)
            self._count_deferred_errors()  # the system reports EMSGSIZE at once
        return True

    async def send(self, datagram: bytes, to: Address) -> None:
        """As `send_nowait`, but waits while the system's buffer is full."""
        while not self.send_nowait(datagram, to):
            await self._drained.wait()

    def _target(self, to: Address) -> Any:
        """Returns `to` as the transport takes it; None if this socket cannot send to it, which is counted."""
        target: Any = (to[0], to[1])
        if self._is_ipv6:
            if ":" not in to.host:
                target = (IPV4_MAPPED_PREFIX + to.host, to.port)
            elif is_link_local(to.host):
                target = _to_link_local_sockaddr(to)
                if target is None:
                    self._on_unsendable(
                        to, "no such interface, or several and no scope (%eth0) given"
                    )
                    return None
        elif ":" in to.host:
            self._on_unsendable(to, "no IPv6 socket: this node listens on IPv4 only")
            return None
        if self._has_pktinfo:
            target = (target, to.reply_control if isinstance(to, SourceAddress) else ())
        return target

    def _on_unsendable(self, to: Address, reason: str) -> None:
        self.error_count += 1
        self.unsendable.append((to, reason))

    async def resolve(self, name: str, *, is_urgent: bool = False) -> tuple[Address, ...]:
        """Resolves the ``host:port`` in `name` to the addresses that this socket can reach; empty if there
        are none.

        `is_urgent`: a caller is waiting, so the lookup does not queue behind periodic ones.
        """
        host, port = split_host_port(name)
        threads = self._urgent_lookups if is_urgent else self._lookups
        try:
            resolved = await threads.run(
                socket.getaddrinfo, host, port, self._family, socket.SOCK_DGRAM
            )
        except (OSError, UnicodeError) as error:  # UnicodeError: a label is too long
            logger.info("%s does not resolve: %s", host, error)
            return ()
        return tuple(dict.fromkeys(_to_address(sockaddr) for *_, sockaddr in resolved))

    def close(self) -> None:
        """Closes the socket. The system still sends what it has accepted."""
        self._stream.close()
        self._receive_queue.put_nowait((None, None))

    def on_forked(self) -> None:
        """Called in a forked child: the socket stays with the parent."""
        detach_descriptor(self._fd)

    def _count_deferred_errors(self) -> None:
        """Counts the errors that the system reported since the last call."""
        while not self._deferred_errors.empty():
            self._count_error(self._deferred_errors.get_nowait())

    def _count_error(self, error: Exception) -> None:
        self.error_count += 1
        if (
            isinstance(error, OSError)
            and error.errno == errno.EMSGSIZE
            and self._last_large is not None
        ):
            self.too_large.append(self._last_large)
            self._last_large = None
        logger.debug("socket: %s", error)


async def _open_transport(
    sock: socket.socket, *, has_pktinfo: bool
) -> tuple[asyncio.DatagramTransport, _Queues]:
    """Like `asyncio_dgram.from_socket`, with our receive queue and, for a wildcard, our transport."""
    queues = _Queues(ReceiveQueue(), asyncio.Queue(), asyncio.Event())
    protocol = DatagramProtocol(*cast(Any, queues))
    loop = asyncio.get_running_loop()
    if has_pktinfo:
        return PktinfoTransport(loop, sock, protocol), queues
    transport, _ = await loop.create_datagram_endpoint(lambda: protocol, sock=sock)
    return transport, queues


async def _bind_socket(bind: str) -> socket.socket:
    host, ports = split_host_ports(bind)
    try:
        check_host(host)
    except ValueError as error:
        raise BindError(f"cannot bind {bind[:80]}: {error}") from None
    try:
        candidates = await DaemonThreads("grapevine names", 1).run(
            socket.getaddrinfo, host, ports[0], 0, socket.SOCK_DGRAM
        )
    except OSError as error:
        raise BindError(f"cannot bind {bind}: {error.strerror or error}") from None
    for port in ports:
        try:
            return _open_bound_socket(bind, candidates[0], port)
        except _PortInUse:
            continue
    cause = "the address is in use" if len(ports) == 1 else "all of these ports are in use"
    raise BindError(f"cannot bind {bind}: {cause}")


class _PortInUse(Exception):
    """Another socket is bound to this port."""


def _open_bound_socket(bind: str, candidate: tuple[Any, ...], port: int) -> socket.socket:
    """Returns a socket bound to `port`. Raises BindError or _PortInUse."""
    family, kind, protocol, _, (host, _, *rest) = candidate
    try:
        sock = socket.socket(family, kind, protocol)
    except OSError as error:
        raise BindError(f"cannot bind {bind}: {error.strerror}") from None
    try:
        sock.setblocking(False)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        _disable_fragmentation(sock)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            _request_buffer(sock, option)
        sock.bind((host, port, *rest))
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise _PortInUse from None
        cause = _BIND_ERRORS.get(error.errno or 0, error.strerror)
        raise BindError(f"cannot bind {bind}: {cause}") from None
    return sock


def _request_buffer(sock: socket.socket, option: int) -> None:
    """Requests the largest socket buffer that the system grants. Linux reduces a request, the BSDs refuse
    it."""
    size = SOCKET_BUFFER_BYTES
    while size >= MIN_SOCKET_BUFFER_BYTES:
        try:
            sock.setsockopt(socket.SOL_SOCKET, option, size)
        except OSError:
            size //= 2
        else:
            return
    logger.info("the system grants only its default socket buffer")


def _disable_fragmentation(sock: socket.socket) -> None:
    """Disables IP fragmentation and the system's path MTU discovery: links discover the MTU themselves
    (RFC 8899), and one lost fragment would lose the whole datagram."""
    if sys.platform == "linux":
        options = [(socket.IPPROTO_IP, IP_MTU_DISCOVER)]
        if sock.family == socket.AF_INET6:
            options.append((socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER))
        for level, option in options:
            with contextlib.suppress(OSError):
                sock.setsockopt(level, option, PMTUDISC_PROBE)


def dialable_host(host: str, family: socket.AddressFamily | int) -> str:
    """Returns the best address to dial for a socket bound to `host`; see `dialable_hosts`."""
    return dialable_hosts(host, family)[0]


def _to_address(source: tuple[Any, ...]) -> Address:
    """Converts a socket address: (host, port), for IPv6 also flow and scope."""
    host = source[0].partition("%")[0]
    if "." in host:
        host = host.removeprefix(IPV4_MAPPED_PREFIX)
    elif len(source) > 3 and source[3] and is_link_local(host):
        with contextlib.suppress(OSError):  # the interface no longer exists
            host = f"{host}%{socket.if_indextoname(source[3])}"
    return Address(host, source[1])


def _to_link_local_sockaddr(to: Address) -> tuple[str, int, int, int] | None:
    """Converts a link-local address to a socket address. Without a scope it uses the only interface besides
    loopback. Returns None if there is no such interface, or several."""
    host, _, zone = to.host.partition("%")
    try:
        if zone:
            scope = int(zone) if zone.isascii() and zone.isdigit() else socket.if_nametoindex(zone)
        else:
            (scope,) = (index for index, name in socket.if_nameindex() if not name.startswith("lo"))
    except (OSError, ValueError):
        return None
    return host, to.port, 0, scope
