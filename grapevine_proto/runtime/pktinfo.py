"""Replies from the address that a datagram was sent to, for UDP sockets bound to a wildcard (RFC 3542,
IP_PKTINFO).

A wildcard socket sends from the address that the route to the peer selects. On a host with several
addresses that may not be the one that the peer dialed, and a peer behind NAT or a stateful firewall never
receives the reply. The system reports the destination address of each datagram and accepts it as the
source address of the reply.

Invariants:

- There is no state per peer: the address is part of the datagram's source (`SourceAddress`), and a
  datagram sent to that object leaves from it.
- An address that no longer exists costs no datagram: the system then chooses the source address.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
import sys
from collections import deque
from typing import Any, Final

from grapevine_proto.ids import Address

_IS_LINUX: Final = sys.platform == "linux"
_IP_PKTINFO: Final = (
    8 if _IS_LINUX else 26
)  # linux/in.h, Darwin's netinet/in.h; no names before 3.14
_IPV4: Final = struct.Struct("=I4s4s")  # in_pktinfo: interface, source for the reply, destination
_IPV6: Final = struct.Struct("=16sI")  # in6_pktinfo: destination, interface
_ANCILLARY_BYTES: Final = 128
_DATAGRAM_BYTES: Final = 65_536
READS_PER_TURN: Final = 32  # datagrams, before other callbacks of the loop run; as in libuv
READ_RETRY_S: Final = 0.05  # after the system ran out of memory
RESOURCE_ERRNOS: Final = frozenset({errno.ENOBUFS, errno.ENOMEM, errno.EMFILE, errno.ENFILE})
# errors for a source address that this host, or the interface, no longer has
_SOURCE_GONE_ERRNOS: Final = frozenset(
    {errno.EINVAL, errno.EADDRNOTAVAIL, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENODEV}
)

RawSource = tuple[Any, ...]  # as returned by `recvmsg`


class SourceAddress(Address):
    """The source of a datagram. `reply_control` makes a reply leave from the address the datagram was sent
    to.

    Equal to any other `Address` with the same host and port.
    """

    reply_control: tuple[tuple[int, int, bytes], ...] = ()


class PktinfoTransport(asyncio.DatagramTransport):
    """A replacement for the transport of `create_datagram_endpoint`, for a socket with `enable_pktinfo`.

    The protocol receives (datagram, (raw source, control)); `sendto` accepts the same pair as the address.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        protocol: asyncio.DatagramProtocol,
    ) -> None:
        super().__init__({"socket": sock, "sockname": sock.getsockname()})
        self._loop = loop
        self._sock = sock
        self._protocol = protocol
        self._send_buffer: deque[tuple[bytes, Any]] = deque()
        self._is_closing = False
        loop.add_reader(sock.fileno(), self._read)
        protocol.connection_made(self)

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            self._loop.remove_reader(self._sock.fileno())
            if not self._send_buffer:
                self._loop.call_soon(self._finish_close)

    def abort(self) -> None:
        self._send_buffer.clear()
        self.close()

    def _finish_close(self) -> None:
        self._sock.close()
        self._protocol.connection_lost(None)

    def _read(self) -> None:
        receive = self._sock.recvmsg
        deliver = self._protocol.datagram_received
        for _ in range(READS_PER_TURN):
            if self._is_closing:
                return
            try:
                datagram, ancillary, _, source = receive(_DATAGRAM_BYTES, _ANCILLARY_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._protocol.error_received(error)
                if error.errno in RESOURCE_ERRNOS:  # otherwise the loop would spin
                    self._loop.remove_reader(self._sock.fileno())
                    self._loop.call_later(READ_RETRY_S, self._resume_reading)
                return
            deliver(datagram, (source, ancillary))

    def _resume_reading(self) -> None:
        if not self._is_closing:
            self._loop.add_reader(self._sock.fileno(), self._read)

    def sendto(self, data: Any, addr: Any = None) -> None:
        if self._send_buffer:
            self._send_buffer.append((data, addr))
        elif not self._send(data, addr):
            self._send_buffer.append((data, addr))
            self._loop.add_writer(self._sock.fileno(), self._flush)
            self._protocol.pause_writing()

    def _send(self, data: bytes, addr: tuple[RawSource, Any]) -> bool:
        """Sends `data`, or reports an error. Returns False if the system's buffer is full."""
        target, control = addr
        try:
            try:
                if control:
                    self._sock.sendmsg((data,), control, 0, target)
                else:
                    self._sock.sendto(data, target)
            except OSError as error:
                if not control or error.errno not in _SOURCE_GONE_ERRNOS:
                    raise
                self._sock.sendto(data, target)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            self._protocol.error_received(error)
        return True

    def _flush(self) -> None:
        while self._send_buffer:
            if not self._send(*self._send_buffer[0]):
                return
            self._send_buffer.popleft()
        self._loop.remove_writer(self._sock.fileno())
        self._protocol.resume_writing()
        if self._is_closing:
            self._finish_close()


def enable_pktinfo(sock: socket.socket) -> bool:
    """Enables destination addresses for received datagrams. Returns whether the system supports it."""
    if not hasattr(sock, "recvmsg") or not (_IS_LINUX or sys.platform == "darwin"):
        return False
    try:
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        if sock.family == socket.AF_INET or not _IS_LINUX:
            # On IPv6 sockets Linux reports IPv4 datagrams as IPv6.
            sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
    except (OSError, AttributeError):
        return False
    return True


def make_reply_control(ancillary: Any) -> tuple[tuple[int, int, bytes], ...]:
    """Returns the control messages for a reply to a datagram with `ancillary` data, so that it leaves from
    the address the datagram was sent to; empty: the system chooses."""
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_IP and kind == _IP_PKTINFO and len(data) == _IPV4.size:
            _, spec_dst, destination = _IPV4.unpack(data)
            local_address = spec_dst if _IS_LINUX else destination
            if local_address[0] >= 224 or not any(
                local_address
            ):  # multicast is not a source address
                return ()
            return ((level, kind, _IPV4.pack(0, local_address, bytes(4))),)
        if (
            level == socket.IPPROTO_IPV6
            and kind == getattr(socket, "IPV6_PKTINFO", None)
            and len(data) == _IPV6.size
        ):
            local_address, _ = _IPV6.unpack(data)
            if local_address[0] == 0xFF or not any(local_address):
                return ()
            return ((level, kind, _IPV6.pack(local_address, 0)),)
    return ()
