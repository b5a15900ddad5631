"""One bound UDP socket, as asyncio-dgram streams it, with the system's faults kept in their place.

What must stay true:

- What goes wrong with one datagram costs no other. asyncio-dgram tells of an error on the *next*
  call of `send` or `recv`, and a `send` that raises has sent nothing: it is called again.
- What waits to be read here is bounded (asyncio-dgram's own queue is not): a flood costs datagrams,
  which are counted (`dropped_reads`), and not memory.
- Every error of the system is counted (`error_count`) and none ends `receive` or `send`: a datagram that
  cannot go is a datagram lost, and the protocol above lives with loss anyway.
- Addresses are what people write: an IPv4 peer of an IPv6 socket is 1.2.3.4, not ::ffff:1.2.3.4, and a
  link-local one names its zone.
- An answer leaves from the address that was dialed, also where the socket is bound to a wildcard
  (`pktinfo`).

Raises `BindError`, naming address and cause, from `open` alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import sys
from collections import deque
from typing import Any, Final, Self, cast

from asyncio_dgram import TransportClosed
from asyncio_dgram.aio import DatagramServer, Protocol

from grapevine_proto.errors import BindError
from grapevine_proto.ids import Address, check_host, is_link_local, is_wildcard, split_host_port
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
"""Asked of the kernel each way: its own default holds 92 datagrams of 1,200 bytes, which a peer
sends in less than the time that one signature check of ours takes."""

MIN_SOCKET_BUFFER_BYTES: Final = 2**16  # less than this is not worth asking for

MAX_RECEIVE_QUEUE_BYTES: Final = 32 * 2**20
"""Of datagrams read from the kernel and not yet by the node: a second of them, at its quickest."""
DATAGRAM_OVERHEAD_BYTES: Final = 300  # what Python spends on one besides its content

IPV4_MAPPED_PREFIX: Final = "::ffff:"
MAX_UNSENDABLE_REPORTS: Final = 64  # by one turn of the pump
MAX_LOOKUPS: Final = 64  # each may hang for half a minute or more, and is asked again then
MAX_URGENT_LOOKUPS: Final = 8
BASE_DATAGRAM_BYTES: Final = 1200  # that every path bears
SOURCE_CACHE_SIZE: Final = (
    1024  # addresses made of what the system gives, so as not to make them again
)
IP_MTU_DISCOVER: Final = 10  # linux/in.h and linux/in6.h; Python 3.11 has no names for these
IPV6_MTU_DISCOVER: Final = 23
PMTUDISC_PROBE: Final = 3

_BIND_ERRORS: Final = {
    errno.EADDRINUSE: "the address is in use",
    errno.EADDRNOTAVAIL: "not an address of this machine",
    errno.EACCES: "not permitted",
}

logger = logging.getLogger("grapevine")


class SocketClosed(Exception):
    """Internal: the socket is closed, by us or by the system."""


class _ReceiveQueue:
    """Where asyncio-dgram puts what it reads, in place of a queue of its own: what finds no room is
    dropped, as the kernel would, and waking who waits costs as little as can be."""

    __slots__ = ("_datagrams", "_size_bytes", "_waiter", "dropped_reads", "is_closed")

    def __init__(self) -> None:
        self.dropped_reads = 0
        self.is_closed = False
        self._datagrams: deque[tuple[bytes, Any]] = deque()
        self._size_bytes = 0
        self._waiter: asyncio.Future[None] | None = None

    def put_nowait(self, item: tuple[bytes | None, Any]) -> None:
        """A datagram and its source came; None: no more will."""
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
        """The datagram that came first; there must be one."""
        item = self._datagrams.popleft()
        self._size_bytes -= DATAGRAM_OVERHEAD_BYTES + len(item[0])
        return item

    def next_change(self) -> asyncio.Future[None]:
        """Done when something is put. One task awaits it."""
        self._waiter = asyncio.get_running_loop().create_future()
        return self._waiter


class UdpSocket:
    """A bound socket, to receive from and send by. One task calls `receive`, one calls `send`.

    `too_large` collects what the system refused for its size, `unsendable` where this socket cannot send
    to at all and why, for the caller to take.
    `address` is where it listens, `refresh_addresses` gives what others may dial.
    """

    def __init__(
        self,
        stream: DatagramServer,
        receive_queue: _ReceiveQueue,
        deferred_errors: asyncio.Queue[Exception],
        sock: socket.socket,
        *,
        has_pktinfo: bool = False,
    ) -> None:
        self._stream = stream
        self._receive_queue = receive_queue
        self._deferred_errors = deferred_errors  # which asyncio-dgram keeps for the next call
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
        self._last_large: tuple[int, Address] | None = None  # the last that could be too large

    @classmethod
    async def open(cls, bind: str) -> Self:
        """Listen at `bind` (``host:port``, port 0: any). Raises BindError; then nothing is open."""
        sock = await _bind_socket(bind)
        try:
            is_wildcard_bind = is_wildcard(sock.getsockname()[0])
            has_pktinfo = is_wildcard_bind and enable_pktinfo(sock)
            if is_wildcard_bind and not has_pktinfo:
                logger.warning(
                    "this system does not tell which of its addresses was dialed: if this machine has"
                    " several, listen at the one that peers dial (bind)"
                )
            stream, receive_queue, deferred_errors = await _open_stream(
                sock, has_pktinfo=has_pktinfo
            )
        except BaseException:
            sock.close()
            raise
        udp_socket = cls(stream, receive_queue, deferred_errors, sock, has_pktinfo=has_pktinfo)
        logger.info(
            "listening on %s; buffers granted: %d KiB to receive, %d KiB to send",
            udp_socket.address,
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 1024,
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 1024,
        )
        return udp_socket

    @property
    def dropped_reads(self) -> int:
        """How many datagrams came quicker than they were read."""
        return self._receive_queue.dropped_reads

    @property
    def is_readable(self) -> bool:
        """Whether `receive` would return at once."""
        return len(self._receive_queue) > 0

    @property
    def dialable_address(self) -> Address:
        """What others may best dial, as of the last `refresh_addresses`."""
        return self._addresses[0]

    def refresh_addresses(self) -> tuple[Address, ...]:
        """What others may dial now, the likeliest first. Where nothing but loopback is left, an address
        found before stays: a cable that was pulled comes back. Cheap enough to call every second."""
        family = socket.AF_INET6 if self._is_ipv6 else socket.AF_INET
        hosts = dialable_hosts(self.address.host, family)
        addresses = tuple(Address(host, self.address.port) for host in hosts)
        if not self._addresses or not addresses[0].is_loopback:
            self._addresses = addresses
        return self._addresses

    async def receive(self) -> tuple[bytes, Address]:
        """The next datagram and where it came from. Returns at once while some are waiting, so the
        caller must yield now and then. Raises EndpointClosed."""
        receive_queue = self._receive_queue
        while not receive_queue or receive_queue.is_closed:
            if receive_queue.is_closed:
                raise SocketClosed
            await receive_queue.next_change()
        while not self._deferred_errors.empty():
            self._pop_deferred_error()
        datagram, source = receive_queue.pop()
        if self._has_pktinfo:
            return datagram, self._to_source(*source)
        if self._is_ipv6:
            return datagram, _to_address(source)
        return datagram, Address(source[0], source[1])

    def _to_source(self, raw: RawSource, ancillary: list[tuple[int, int, bytes]]) -> Address:
        """Where a datagram came from, with what makes an answer leave from where it came to."""
        key = (raw, ancillary[0] if ancillary else None)
        cached = self._sources.get(key)
        if cached is None:
            if len(self._sources) >= SOURCE_CACHE_SIZE:
                self._sources.clear()
            cached = SourceAddress(*_to_address(raw))
            cached.reply_control = make_reply_control(ancillary)
            self._sources[key] = cached
        return cached

    async def send(self, datagram: bytes, to: Address) -> None:
        """Send, or count why not; waits while the system's buffer is full. Raises EndpointClosed."""
        target: Any = (to[0], to[1])
        if self._is_ipv6:
            if ":" not in to.host:
                target = (IPV4_MAPPED_PREFIX + to.host, to.port)
            elif is_link_local(to.host):
                target = _to_link_local_sockaddr(to)
                if target is None:
                    self._on_unsendable(
                        to, "no such interface, or several and no zone (%eth0) given"
                    )
                    return
        elif ":" in to.host:
            self._on_unsendable(to, "no IPv6 socket: this node listens on IPv4 alone")
            return
        if self._has_pktinfo:
            target = (target, to.reply_control if isinstance(to, SourceAddress) else ())
        try:
            await self._stream.send(datagram, target)
            if len(datagram) > BASE_DATAGRAM_BYTES:
                self._last_large = (len(datagram), to)
                while (
                    self._pop_deferred_error()
                ):  # which the system raises at once for what is too large
                    pass
        except TransportClosed:
            raise SocketClosed from None
        except OSError as error:
            self._count_error(error)  # of an earlier datagram: this one has not been tried yet
            await self._retry_send(datagram, target)
        except ValueError:
            self.error_count += 1  # uvloop cannot read the address

    def _on_unsendable(self, to: Address, reason: str) -> None:
        self.error_count += 1
        self.unsendable.append((to, reason))

    async def _retry_send(self, datagram: bytes, target: Any) -> None:
        while self._pop_deferred_error():
            pass
        try:
            await self._stream.send(datagram, target)
        except TransportClosed:
            raise SocketClosed from None
        except (OSError, ValueError) as error:
            self._count_error(error)

    async def resolve(self, name: str, *, is_urgent: bool = False) -> tuple[Address, ...]:
        """All addresses that ``host:port`` in `name` means and this socket can reach; empty: none.
        `is_urgent`: somebody waits for it, so it does not stand in line with those that nobody does."""
        host, port = split_host_port(name)
        threads = self._urgent_lookups if is_urgent else self._lookups
        try:
            resolved = await threads.run(
                socket.getaddrinfo, host, port, self._family, socket.SOCK_DGRAM
            )
        except (OSError, UnicodeError) as error:  # a name with a label too long is a UnicodeError
            logger.info("%s does not resolve: %s", host, error)
            return ()
        return tuple(dict.fromkeys(_to_address(sockaddr) for *_, sockaddr in resolved))

    def close(self) -> None:
        """Stop receiving; what was handed to the system is still sent."""
        self._stream.close()
        self._receive_queue.put_nowait((None, None))

    def on_forked(self) -> None:
        """In a child of the process that opened it: the socket stays the parent's."""
        detach_descriptor(self._fd)

    def _pop_deferred_error(self) -> bool:
        """Whether asyncio-dgram kept an error of an earlier call; takes it."""
        try:
            _ = self._stream.exception
        except OSError as error:
            self._count_error(error)
            return True
        return False

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


async def _open_stream(
    sock: socket.socket, *, has_pktinfo: bool
) -> tuple[DatagramServer, _ReceiveQueue, asyncio.Queue[Exception]]:
    """What `asyncio_dgram.from_socket` makes, but for the inbox, and for the transport of a wildcard."""
    receive_queue, deferred_errors, drained = (
        _ReceiveQueue(),
        asyncio.Queue[Exception](),
        asyncio.Event(),
    )
    loop = asyncio.get_running_loop()
    protocol = Protocol(cast(Any, receive_queue), deferred_errors, drained)
    transport: asyncio.DatagramTransport
    if has_pktinfo:
        transport = PktinfoTransport(loop, sock, protocol)
    else:
        transport, _ = await loop.create_datagram_endpoint(lambda: protocol, sock=sock)
    return (
        DatagramServer(cast(Any, transport), cast(Any, receive_queue), deferred_errors, drained),
        receive_queue,
        deferred_errors,
    )


async def _bind_socket(bind: str) -> socket.socket:
    host, port = split_host_port(bind)
    try:
        check_host(host)
    except ValueError as error:
        raise BindError(f"cannot bind {bind[:80]}: {error}") from None
    try:
        candidates = await DaemonThreads("grapevine names", 1).run(
            socket.getaddrinfo, host, port, 0, socket.SOCK_DGRAM
        )
    except OSError as error:
        raise BindError(f"cannot bind {bind}: {error.strerror or error}") from None
    family, kind, protocol, _, sockaddr = candidates[0]
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
        sock.bind(sockaddr)
    except OSError as error:
        sock.close()
        cause = _BIND_ERRORS.get(error.errno or 0, error.strerror)
        raise BindError(f"cannot bind {bind}: {cause}") from None
    return sock


def _request_buffer(sock: socket.socket, option: int) -> None:
    """As much as the system grants: Linux grants less than it is asked for, the BSDs refuse."""
    size = SOCKET_BUFFER_BYTES
    while size >= MIN_SOCKET_BUFFER_BYTES:
        try:
            sock.setsockopt(socket.SOL_SOCKET, option, size)
        except OSError:
            size //= 2
        else:
            return
    logger.info("the system grants no larger socket buffer than its default")


def _disable_fragmentation(sock: socket.socket) -> None:
    """Let the system send no datagram in pieces, nor guess what the path bears: the links find out
    by themselves (RFC 8899), and a large datagram in pieces is lost with any of them."""
    if sys.platform == "linux":
        options = [(socket.IPPROTO_IP, IP_MTU_DISCOVER)]
        if sock.family == socket.AF_INET6:
            options.append((socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER))
        for level, option in options:
            with contextlib.suppress(OSError):
                sock.setsockopt(level, option, PMTUDISC_PROBE)


def dialable_host(host: str, family: socket.AddressFamily | int) -> str:
    """What others may best dial where `host` is bound; see `dialable_hosts`."""
    return dialable_hosts(host, family)[0]


def _to_address(source: tuple[Any, ...]) -> Address:
    """The address in what the system calls one: (host, port), for IPv6 with flow and scope after it."""
    host = source[0].partition("%")[0]
    if "." in host:
        host = host.removeprefix(IPV4_MAPPED_PREFIX)
    elif len(source) > 3 and source[3] and is_link_local(host):
        with contextlib.suppress(OSError):  # an interface that is gone by now
            host = f"{host}%{socket.if_indextoname(source[3])}"
    return Address(host, source[1])


def _to_link_local_sockaddr(to: Address) -> tuple[str, int, int, int] | None:
    """What the system calls a link-local address. Without a zone it is that of the only interface
    beside loopback; None: there is no such interface, or several."""
    host, _, zone = to.host.partition("%")
    try:
        if zone:
            scope = int(zone) if zone.isascii() and zone.isdigit() else socket.if_nametoindex(zone)
        else:
            (scope,) = (index for index, name in socket.if_nameindex() if not name.startswith("lo"))
    except (OSError, ValueError):
        return None
    return host, to.port, 0, scope
