"""One bound UDP socket, as asyncio-dgram streams it, with the system's faults kept in their place.

What must stay true:

- What goes wrong with one datagram costs no other. asyncio-dgram tells of an error on the *next*
  call of `send` or `recv`, and a `send` that raises has sent nothing: it is called again.
- What waits to be read here is bounded (asyncio-dgram's own queue is not): a flood costs datagrams,
  which are counted (`overruns`), and not memory.
- Every error of the system is counted (`errors`) and none ends `receive` or `send`: a datagram that
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
from grapevine_proto.forks import abandon
from grapevine_proto.ids import Address, check_host, is_link_local, is_wildcard, split_host_port
from grapevine_proto.interfaces import dialable_hosts
from grapevine_proto.pktinfo import (
    PktinfoTransport,
    RawSource,
    SourceAddress,
    answer_control,
    ask_for_pktinfo,
)
from grapevine_proto.threads import Threads

BUFFER_BYTES: Final = 4 * 2**20
"""Asked of the kernel each way: its own default holds 92 datagrams of 1,200 bytes, which a peer
sends in less than the time that one signature check of ours takes."""

LEAST_BUFFER_BYTES: Final = 2**16  # less than this is not worth asking for

INBOX_BYTES: Final = 32 * 2**20
"""Of datagrams read from the kernel and not yet by the node: a second of them, at its quickest."""
DATAGRAM_BYTES: Final = 300  # what Python spends on one besides its content

MAPPED: Final = "::ffff:"
UNSENDABLE_TOLD: Final = 64  # by one turn of the pump
LOOKUPS_AT_ONCE: Final = 64  # each may hang for half a minute or more, and is asked again then
URGENT_LOOKUPS_AT_ONCE: Final = 8
SAFE_BYTES: Final = 1200  # that every path bears
SOURCES_REMEMBERED: Final = (
    1024  # addresses made of what the system gives, so as not to make them again
)
IP_MTU_DISCOVER: Final = 10  # linux/in.h and linux/in6.h; Python 3.11 has no names for these
IPV6_MTU_DISCOVER: Final = 23
PMTUDISC_PROBE: Final = 3

_CAUSES: Final = {
    errno.EADDRINUSE: "the address is in use",
    errno.EADDRNOTAVAIL: "not an address of this machine",
    errno.EACCES: "not permitted",
}

logger = logging.getLogger("grapevine")


class EndpointClosed(Exception):
    """Internal: the socket is closed, by us or by the system."""


class _Inbox:
    """Where asyncio-dgram puts what it reads, in place of a queue of its own: what finds no room is
    dropped, as the kernel would, and waking who waits costs as little as can be."""

    __slots__ = ("_bytes", "_datagrams", "_waiter", "is_ended", "overruns")

    def __init__(self) -> None:
        self.overruns = 0
        self.is_ended = False
        self._datagrams: deque[tuple[bytes, Any]] = deque()
        self._bytes = 0
        self._waiter: asyncio.Future[None] | None = None

    def put_nowait(self, item: tuple[bytes | None, Any]) -> None:
        """A datagram and its source came; None: no more will."""
        datagram, source = item
        if datagram is None:
            self.is_ended = True
        elif self._bytes >= INBOX_BYTES:
            self.overruns += 1
        else:
            self._bytes += DATAGRAM_BYTES + len(datagram)
            self._datagrams.append((datagram, source))
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def __len__(self) -> int:
        return len(self._datagrams)

    def take(self) -> tuple[bytes, Any]:
        """The datagram that came first; there must be one."""
        item = self._datagrams.popleft()
        self._bytes -= DATAGRAM_BYTES + len(item[0])
        return item

    def change(self) -> asyncio.Future[None]:
        """Done when something is put. One task awaits it."""
        self._waiter = asyncio.get_running_loop().create_future()
        return self._waiter


class Endpoint:
    """A bound socket, to receive from and send by. One task calls `receive`, one calls `send`.

    `too_large` collects what the system refused for its size, `unsendable` where this socket cannot send
    to at all and why, for the caller to take.
    `address` is where it listens, `find_addresses` gives what others may dial.
    """

    def __init__(
        self,
        stream: DatagramServer,
        inbox: _Inbox,
        faults: asyncio.Queue[Exception],
        sock: socket.socket,
        *,
        has_pktinfo: bool = False,
    ) -> None:
        self._stream = stream
        self._inbox = inbox
        self._faults = faults  # which asyncio-dgram keeps for the next call
        self._file = sock.fileno()
        self._is_ipv6 = sock.family == socket.AF_INET6
        self._has_pktinfo = has_pktinfo
        self._sources: dict[tuple[RawSource, Any], Address] = {}
        self._family = socket.AF_UNSPEC if self._is_ipv6 else socket.AF_INET
        self.address = _plain(sock.getsockname())
        self.is_wildcard = is_wildcard(sock.getsockname()[0])
        self._addresses: tuple[Address, ...] = ()
        self.find_addresses()
        self._lookups = Threads("grapevine names", LOOKUPS_AT_ONCE)
        self._urgent_lookups = Threads("grapevine names", URGENT_LOOKUPS_AT_ONCE)
        self.errors = 0
        self.too_large: list[tuple[int, Address]] = []
        self.unsendable: deque[tuple[Address, str]] = deque(maxlen=UNSENDABLE_TOLD)
        self._large: tuple[int, Address] | None = None  # the last that could be too large

    @classmethod
    async def open(cls, bind: str) -> Self:
        """Listen at `bind` (``host:port``, port 0: any). Raises BindError; then nothing is open."""
        sock = await _bound_socket(bind)
        try:
            is_for_all = is_wildcard(sock.getsockname()[0])
            has_pktinfo = is_for_all and ask_for_pktinfo(sock)
            if is_for_all and not has_pktinfo:
                logger.warning(
                    "this system does not tell which of its addresses was dialed: if this machine has"
                    " several, listen at the one that peers dial (bind)"
                )
            stream, inbox, faults = await _stream_of(sock, has_pktinfo=has_pktinfo)
        except BaseException:
            sock.close()
            raise
        endpoint = cls(stream, inbox, faults, sock, has_pktinfo=has_pktinfo)
        logger.info(
            "listening on %s; buffers granted: %d KiB to receive, %d KiB to send",
            endpoint.address,
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 1024,
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 1024,
        )
        return endpoint

    @property
    def overruns(self) -> int:
        """How many datagrams came quicker than they were read."""
        return self._inbox.overruns

    @property
    def has_more(self) -> bool:
        """Whether `receive` would return at once."""
        return len(self._inbox) > 0

    @property
    def dialable(self) -> Address:
        """What others may best dial, as of the last `find_addresses`."""
        return self._addresses[0]

    def find_addresses(self) -> tuple[Address, ...]:
        """What others may dial now, the likeliest first. Where nothing but loopback is left, an address
        found before stays: a cable that was pulled comes back. Cheap enough to call every second."""
        family = socket.AF_INET6 if self._is_ipv6 else socket.AF_INET
        hosts = dialable_hosts(self.address.host, family)
        found = tuple(Address(host, self.address.port) for host in hosts)
        if not self._addresses or not found[0].is_loopback:
            self._addresses = found
        return self._addresses

    async def receive(self) -> tuple[bytes, Address]:
        """The next datagram and where it came from. Returns at once while some are waiting, so the
        caller must yield now and then. Raises EndpointClosed."""
        inbox = self._inbox
        while not inbox or inbox.is_ended:
            if inbox.is_ended:
                raise EndpointClosed
            await inbox.change()
        while not self._faults.empty():
            self._has_error()
        datagram, source = inbox.take()
        if self._has_pktinfo:
            return datagram, self._source(*source)
        if self._is_ipv6:
            return datagram, _plain(source)
        return datagram, Address(source[0], source[1])

    def _source(self, raw: RawSource, ancillary: list[tuple[int, int, bytes]]) -> Address:
        """Where a datagram came from, with what makes an answer leave from where it came to."""
        key = (raw, ancillary[0] if ancillary else None)
        known = self._sources.get(key)
        if known is None:
            if len(self._sources) >= SOURCES_REMEMBERED:
                self._sources.clear()
            known = SourceAddress(*_plain(raw))
            known.control = answer_control(ancillary)
            self._sources[key] = known
        return known

    async def send(self, datagram: bytes, to: Address) -> None:
        """Send, or count why not; waits while the system's buffer is full. Raises EndpointClosed."""
        target: Any = (to[0], to[1])
        if self._is_ipv6:
            if ":" not in to.host:
                target = (MAPPED + to.host, to.port)
            elif is_link_local(to.host):
                target = _scoped(to)
                if target is None:
                    self._cannot_send(to, "no such interface, or several and no zone (%eth0) given")
                    return
        elif ":" in to.host:
            self._cannot_send(to, "no IPv6 socket: this node listens on IPv4 alone")
            return
        if self._has_pktinfo:
            target = (target, to.control if isinstance(to, SourceAddress) else ())
        try:
            await self._stream.send(datagram, target)
            if len(datagram) > SAFE_BYTES:
                self._large = (len(datagram), to)
                while self._has_error():  # which the system raises at once for what is too large
                    pass
        except TransportClosed:
            raise EndpointClosed from None
        except OSError as error:
            self._count(error)  # of an earlier datagram: this one has not been tried yet
            await self._send_again(datagram, target)
        except ValueError:
            self.errors += 1  # uvloop cannot read the address

    def _cannot_send(self, to: Address, why: str) -> None:
        self.errors += 1
        self.unsendable.append((to, why))

    async def _send_again(self, datagram: bytes, target: Any) -> None:
        while self._has_error():
            pass
        try:
            await self._stream.send(datagram, target)
        except TransportClosed:
            raise EndpointClosed from None
        except (OSError, ValueError) as error:
            self._count(error)

    async def resolve(self, name: str, *, is_urgent: bool = False) -> tuple[Address, ...]:
        """All addresses that ``host:port`` in `name` means and this socket can reach; empty: none.
        `is_urgent`: somebody waits for it, so it does not stand in line with those that nobody does."""
        host, port = split_host_port(name)
        threads = self._urgent_lookups if is_urgent else self._lookups
        try:
            found = await threads.run(
                socket.getaddrinfo, host, port, self._family, socket.SOCK_DGRAM
            )
        except (OSError, UnicodeError) as error:  # a name with a label too long is a UnicodeError
            logger.info("%s does not resolve: %s", host, error)
            return ()
        return tuple(dict.fromkeys(_plain(where) for *_, where in found))

    def close(self) -> None:
        """Stop receiving; what was handed to the system is still sent."""
        self._stream.close()
        self._inbox.put_nowait((None, None))

    def on_forked(self) -> None:
        """In a child of the process that opened it: the socket stays the parent's."""
        abandon(self._file)

    def _has_error(self) -> bool:
        """Whether asyncio-dgram kept an error of an earlier call; takes it."""
        try:
            _ = self._stream.exception
        except OSError as error:
            self._count(error)
            return True
        return False

    def _count(self, error: Exception) -> None:
        self.errors += 1
        if isinstance(error, OSError) and error.errno == errno.EMSGSIZE and self._large is not None:
            self.too_large.append(self._large)
            self._large = None
        logger.debug("socket: %s", error)


async def _stream_of(
    sock: socket.socket, *, has_pktinfo: bool
) -> tuple[DatagramServer, _Inbox, asyncio.Queue[Exception]]:
    """What `asyncio_dgram.from_socket` makes, but for the inbox, and for the transport of a wildcard."""
    inbox, faults, drained = _Inbox(), asyncio.Queue[Exception](), asyncio.Event()
    loop = asyncio.get_running_loop()
    protocol = Protocol(cast(Any, inbox), faults, drained)
    transport: asyncio.DatagramTransport
    if has_pktinfo:
        transport = PktinfoTransport(loop, sock, protocol)
    else:
        transport, _ = await loop.create_datagram_endpoint(lambda: protocol, sock=sock)
    return DatagramServer(cast(Any, transport), cast(Any, inbox), faults, drained), inbox, faults


async def _bound_socket(bind: str) -> socket.socket:
    host, port = split_host_port(bind)
    try:
        check_host(host)
    except ValueError as error:
        raise BindError(f"cannot bind {bind[:80]}: {error}") from None
    try:
        found = await Threads("grapevine names", 1).run(
            socket.getaddrinfo, host, port, 0, socket.SOCK_DGRAM
        )
    except OSError as error:
        raise BindError(f"cannot bind {bind}: {error.strerror or error}") from None
    family, kind, protocol, _, where = found[0]
    try:
        sock = socket.socket(family, kind, protocol)
    except OSError as error:
        raise BindError(f"cannot bind {bind}: {error.strerror}") from None
    try:
        sock.setblocking(False)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        _forbid_fragments(sock)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            _ask_for_buffer(sock, option)
        sock.bind(where)
    except OSError as error:
        sock.close()
        cause = _CAUSES.get(error.errno or 0, error.strerror)
        raise BindError(f"cannot bind {bind}: {cause}") from None
    return sock


def _ask_for_buffer(sock: socket.socket, option: int) -> None:
    """As much as the system grants: Linux grants less than it is asked for, the BSDs refuse."""
    size = BUFFER_BYTES
    while size >= LEAST_BUFFER_BYTES:
        try:
            sock.setsockopt(socket.SOL_SOCKET, option, size)
        except OSError:
            size //= 2
        else:
            return
    logger.info("the system grants no larger socket buffer than its default")


def _forbid_fragments(sock: socket.socket) -> None:
    """Let the system send no datagram in pieces, nor guess what the path bears: the links find out
    by themselves (RFC 8899), and a large datagram in pieces is lost with any of them."""
    if sys.platform == "linux":
        options = [(socket.IPPROTO_IP, IP_MTU_DISCOVER)]
        if sock.family == socket.AF_INET6:
            options.append((socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER))
        for level, option in options:
            with contextlib.suppress(OSError):
                sock.setsockopt(level, option, PMTUDISC_PROBE)


def outside_host(host: str, family: socket.AddressFamily | int) -> str:
    """What others may best dial where `host` is bound; see `dialable_hosts`."""
    return dialable_hosts(host, family)[0]


def _plain(source: tuple[Any, ...]) -> Address:
    """The address in what the system calls one: (host, port), for IPv6 with flow and scope after it."""
    host = source[0].partition("%")[0]
    if "." in host:
        host = host.removeprefix(MAPPED)
    elif len(source) > 3 and source[3] and is_link_local(host):
        with contextlib.suppress(OSError):  # an interface that is gone by now
            host = f"{host}%{socket.if_indextoname(source[3])}"
    return Address(host, source[1])


def _scoped(to: Address) -> tuple[str, int, int, int] | None:
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
