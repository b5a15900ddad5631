"""Identifiers on the wire: peer IDs, message IDs, streams and addresses.

Invariants:

- A `PeerId` is an Ed25519 public key (RFC 8032) and the only identity; an address never identifies
  a node.
- A `MessageId` identifies one payload permanently: (origin, epoch, sequence). Broadcast sequences
  are dense from 1 within a stream; direct messages have a sequence of their own.
- Every value is immutable, hashable and cheap. Nothing here reads a clock or a socket.
"""

from __future__ import annotations

import ipaddress
from typing import Final, NamedTuple

PEER_ID_BYTES = 32
EPOCH_LIMIT = 1 << 48  # epochs start at Unix seconds; 2^48 leaves nine million years of restarts
SEQUENCE_LIMIT = 1 << 53  # exact in JSON readers that keep numbers as doubles
SHORT_DIGITS = 8  # hex digits shown to people; scripts always get all of them

Zone = str
"""Location label of a node, chosen by its operator ("eu-west"); empty if unset."""


class PeerId(bytes):
    """The identity of a node: its Ed25519 public key, 32 bytes. `str()` is lowercase hex."""

    __slots__ = ()

    def __new__(cls, key: bytes) -> PeerId:
        if len(key) != PEER_ID_BYTES:
            raise ValueError(f"peer ID: expected {PEER_ID_BYTES} bytes, got {len(key)}")
        return super().__new__(cls, key)

    @classmethod
    def parse(cls, text: str) -> PeerId:
        """Parses 64 hex digits. Raises ValueError."""
        return cls(bytes.fromhex(text))

    @property
    def short(self) -> str:
        """The first eight hex digits, for display. Not unique: an attacker can generate a match."""
        return self[: SHORT_DIGITS // 2].hex()

    def __str__(self) -> str:
        return self.hex()

    def __format__(self, spec: str) -> str:
        """Formats the hex digits: ``f"{peer_id:.8}"`` is the same as `short`."""
        return format(str(self), spec)

    def __repr__(self) -> str:
        return f"PeerId({self.short}…)"


class Stream(NamedTuple):
    """The broadcasts of one run of one node. A restart starts the next epoch."""

    origin: PeerId
    epoch: int


class StreamRange(NamedTuple):
    """Sequences `first` to `last`, both included, of one stream."""

    stream: Stream
    first: int
    last: int

    @property
    def bounds(self) -> tuple[int, int]:
        """The first and the last sequence."""
        return self.first, self.last


class MessageId(NamedTuple):
    """Identifies one message. `str()` is ``origin:epoch:sequence``, for a direct message
    ``origin:epoch:pN``."""

    origin: PeerId
    epoch: int
    sequence: int
    is_direct: bool = False

    @property
    def stream(self) -> Stream:
        """The stream it belongs to."""
        return Stream(self.origin, self.epoch)

    @classmethod
    def parse(cls, text: str) -> MessageId:
        """Parses the result of `str()`. Raises ValueError."""
        origin, epoch, sequence = text.split(":")
        is_direct = sequence.startswith("p")
        return cls(PeerId.parse(origin), int(epoch), int(sequence[is_direct:]), is_direct)

    @property
    def short(self) -> str:
        """An abbreviation for display; not unique."""
        return f"{self.origin.short}:{'p' if self.is_direct else ''}{self.sequence}"

    def __str__(self) -> str:
        return f"{self.origin}:{self.epoch}:{'p' if self.is_direct else ''}{self.sequence}"

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)


RELAY_NETWORK: Final = ipaddress.IPv6Network("100::/64")  # discarded everywhere (RFC 6666)
RELAY_HOST_PREFIX: Final = str(RELAY_NETWORK.network_address)


class Address(NamedTuple):
    """An IP address and a UDP port. The host is always a literal; drivers resolve names.

    `parse` normalizes the spelling, see `canonical_host`.
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Parses ``1.2.3.4:8000`` or ``[::1]:8000``. Raises ValueError."""
        host, port = split_host_port(text)
        return cls(canonical_host(host), port)

    @property
    def is_loopback(self) -> bool:
        """Whether the host is a loopback address."""
        return ipaddress.ip_address(self.host).is_loopback

    @property
    def is_via_relay(self) -> bool:
        """Whether it stands for a way through a relay (`transport.relay`); no socket has such an address."""
        return self.host.startswith(RELAY_HOST_PREFIX)

    @property
    def is_private(self) -> bool:
        """Whether other networks use it too: a private IPv4 address (RFC 1918), or one of this machine."""
        host = ipaddress.ip_address(self.host)
        return host.version == 4 and any(host in network for network in _PRIVATE)

    @property
    def without_zone(self) -> Address:
        """The address without the scope of a link-local host, which names an interface of this
        machine."""
        return self._replace(host=self.host.partition("%")[0]) if "%" in self.host else self

    @property
    def undialable_reason(self) -> str:
        """Why no other node can dial this address; empty if it can. For people."""
        address = ipaddress.ip_address(self.host)
        if self.port == 0:
            return "port 0 cannot be dialed"
        if address.is_unspecified:
            return f"{self.host} means all addresses of a machine"
        if address.is_multicast:
            return f"{self.host} is a multicast address"
        if address.version == 4 and (address in _THIS_NETWORK or address in _RESERVED):
            return f"{self.host} is a broadcast or reserved address"
        return ""

    def __str__(self) -> str:
        return join_host_port(self.host, self.port)

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)


_THIS_NETWORK: Final = ipaddress.IPv4Network("0.0.0.0/8")  # RFC 1122
_PRIVATE: Final = tuple(
    map(ipaddress.IPv4Network, ("10.0.0.0/8", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"))
)
_RESERVED: Final = ipaddress.IPv4Network("240.0.0.0/4")  # RFC 1112, and 255.255.255.255


def canonical_host(text: str) -> str:
    """Returns the canonical spelling of the IP address `text`: lowercase, IPv6 compressed (RFC
    5952), IPv4-mapped IPv6 as IPv4, a scope only on link-local addresses. Raises ValueError."""
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    compressed = str(ipaddress.IPv6Address(int(address)))
    return (
        f"{compressed}%{address.scope_id}"
        if address.scope_id and is_link_local(compressed)
        else compressed
    )


def check_host(host: str) -> None:
    """Raises ValueError unless `host` is an IP address or a valid host name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        pass
    else:
        return
    if ":" in host or "%" in host:
        raise ValueError(f"invalid IPv6 address {host!r}")
    last_label = host.rstrip(".").rpartition(".")[2]
    if last_label.isdigit() or last_label[:2].lower() == "0x":
        # The system resolver reads 010.0.0.1 as 8.0.0.1, and 1.2 as 1.0.0.2.
        raise ValueError(
            f"invalid IPv4 address {host!r}: expected four numbers up to 255 without leading zeros"
        )
    try:
        encoded = host.removesuffix(".").encode("idna")
    except UnicodeError:
        raise ValueError(f"invalid host {host[:80]!r}: {INVALID_LABEL}") from None
    if len(encoded) > MAX_HOST_NAME_CHARS:
        raise ValueError(
            f"invalid host {host[:80]!r}...: longer than {MAX_HOST_NAME_CHARS} characters"
        )


def is_wildcard(host: str) -> bool:
    """Whether `host` is the unspecified address, 0.0.0.0 or ::."""
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_unspecified
    except ValueError:
        return False


def is_link_local(host: str) -> bool:
    """Whether the IP address `host` is IPv6 link-local, fe80::/10."""
    return host[:3].lower() in ("fe8", "fe9", "fea", "feb") and host[4:5] == ":"


def join_host_port(host: str, port: object) -> str:
    """Returns ``host:port``, with an IPv6 literal in brackets; the inverse of `split_host_port`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_literal(host_port: str) -> Address | None:
    """Parses ``host:port``. Returns None if the host is a name. Raises ValueError if it is neither
    a name nor an address."""
    host, port = split_host_port(host_port)
    check_host(host)
    try:
        return Address(canonical_host(host), port)
    except ValueError:
        return None


INVALID_LABEL: Final = "a part of the host name is empty or longer than 63 characters"  # RFC 1035
MAX_HOST_NAME_CHARS: Final = 253  # RFC 1035, without the trailing dot
# allowed besides digits and letters of any alphabet (RFC 1123, RFC 5890)
HOST_NAME_PUNCTUATION: Final = "-._"
MAX_PORTS: Final = 64  # of one range: each is dialed until a node answers there


def split_host_port(text: str) -> tuple[str, int]:
    """Returns the host (a name or a literal, without brackets) and the port of ``host:port``.
    Raises ValueError."""
    host, port = _split_host(text)
    return host, _parse_port(port, text)


def split_host_ports(text: str) -> tuple[str, range]:
    """Returns the host and the ports of ``host:port`` or ``host:first-last``. Raises ValueError."""
    host, ports = _split_host(text)
    first_text, dash, last_text = ports.partition("-")
    first = _parse_port(first_text, text)
    if not dash:
        return host, range(first, first + 1)
    last = _parse_port(last_text, text)
    if first == 0 or not first <= last < first + MAX_PORTS:
        raise ValueError(
            f"invalid ports in {text!r}: expected FIRST-LAST from 1, ascending, at most {MAX_PORTS}"
        )
    return host, range(first, last + 1)


def expand_ports(text: str) -> tuple[str, ...]:
    """Returns one ``host:port`` for each port of ``host:first-last``. Raises ValueError."""
    if "-" not in text.rpartition(":")[2]:
        return (text,)
    host, ports = split_host_ports(text)
    return tuple(join_host_port(host, port) for port in ports)


def _split_host(text: str) -> tuple[str, str]:
    """Returns the host and the text of the port. Raises ValueError."""
    host, colon, port = text.strip().rpartition(":")
    literal_punctuation = ""
    if host.startswith("[") and host.endswith("]"):
        host, literal_punctuation = host[1:-1], ":%"
    elif "://" in host:
        raise ValueError(f"expected host:port without a scheme, got {text!r}")
    elif ":" in host:
        raise ValueError(f"expected [{text}]:port for an IPv6 address, got {text!r}")
    if not colon or not host:
        raise ValueError(f"expected host:port, got {text!r}")
    invalid = next(
        (
            char
            for char in host
            if not (char.isalnum() or char in HOST_NAME_PUNCTUATION + literal_punctuation)
        ),
        None,
    )
    if invalid is not None:
        raise ValueError(f"invalid host in {text!r}: contains {invalid!r}")
    return host, port


def _parse_port(port: str, text: str) -> int:
    digits = port.lstrip("0")[:6] or "0"
    if not port.isascii() or not port.isdigit() or int(digits) > 65535:
        raise ValueError(f"invalid port in {text!r}: expected a number from 0 to 65535")
    return int(digits)
