"""The inputs of a node, each as a function of bytes.

Invariants:

- Any input produces only what is promised: a counted drop, or an error that names the problem. Any
  other exception is a finding.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from nacl.bindings import crypto_secretbox_open

from grapevine_proto import ConfigError, NodeConfig
from grapevine_proto.errors import Dropped, DropReason
from grapevine_proto.ids import Address
from grapevine_proto.overlay.query.request import QueryRequest
from grapevine_proto.transport.session.session import Session
from grapevine_proto.wire import codec
from grapevine_proto.wire.codec import Data
from grapevine_proto.wire.messages import Kind
from grapevine_tui.control import commands, requests, slash_parser
from grapevine_tui.host import query
from grapevine_tui.text import printable
from tests.proto.overlay.state.owners import Owner, entry_of
from tests.proto.test_engine import HERE, Pair
from tests.sources import ROOT
from tests.turn import take_turn

UNAUTHENTICATED: Final = Address("192.0.2.66", 6666)
CONFIG: Final = ROOT / "config"
MESSAGES_LIMIT: Final = 32  # messages per input; more only repeat


class Target(NamedTuple):
    """`check` raises if a promise is broken; `seeds` are examples of well-formed input."""

    check: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]


# --- network ------------------------------------------------------------------------------------


def unauthenticated(data: bytes) -> None:
    """A datagram of an unauthenticated peer: never raises, is answered with no more bytes, leaves
    no state.
    """
    engine = Pair(linked=False).other
    engine.receive(data, UNAUTHENTICATED, 1.0)
    answered = sum(len(datagram) for datagram, _ in take_turn(engine, 1.0))
    assert answered <= len(data), "amplification"
    assert not engine.peers(1.0)
    assert not engine.members()
    assert DropReason.INTERNAL_ERROR not in dict(engine.stats().dropped)


def _packets() -> list[bytes]:
    """One packet of each kind in a handshake, and data."""
    return Pair().carried[:6]


def members(data: bytes) -> None:
    """Arbitrary messages of a member: each is a length, a pause and its bytes."""
    pair = Pair()
    session = pair.one._transport.links[pair.other.peer_id].session
    for plaintext, pause_s in _split_messages(data):
        pair.now += pause_s
        datagram = session.seal(plaintext, pair.now)
        pair.other.receive(datagram, HERE, pair.now)
        take_turn(pair.other, pair.now)
        pair.other.events()
    _check_engine(pair)


def _split_messages(data: bytes) -> Iterator[tuple[bytes, float]]:
    for _ in range(MESSAGES_LIMIT):
        if len(data) < 4:
            return
        size, pause_s = int.from_bytes(data[:2], "big") % codec.BASE_PLAINTEXT_BYTES, data[2] / 50
        yield data[3 : 3 + max(size, 1)], pause_s
        data = data[3 + max(size, 1) :]


def _check_engine(pair: Pair) -> None:
    engine, limits = pair.other, pair.other.config.limits
    assert DropReason.INTERNAL_ERROR not in dict(engine.stats().dropped)
    engine.peers(pair.now)
    engine.snapshot(pair.now)
    engine.rounds()
    assert len(engine.members()) <= limits.members
    assert engine.stats().cached_bytes <= limits.cache_bytes
    if engine.stop_reason is None:
        engine.broadcast(b"still here", pair.now)
        take_turn(engine, pair.now)


def _plaintexts() -> list[bytes]:
    """The messages that two nodes exchange in a minute, each and all together."""
    pair = Pair()
    links = pair.one._transport.links, pair.other._transport.links
    sessions = [link.session for each in links for link in each.values()]
    pair.one.broadcast(b"hello", pair.now)
    pair.one.send(pair.other.peer_id, b"psst", pair.now)
    pair.run(3.0)
    for size in (10, 5000):  # the second answer is fetched
        query_id = pair.one.query(QueryRequest("up"), pair.now)
        pair.run(0.1)
        pair.other.answer(query_id, bytes(size), pair.now)
        pair.run(1.0)
    pair.one.set_entry("key", b"value", pair.now)
    pair.one.state.take(entry_of(Owner(77).write("key", b"of another")), pair.now)
    pair.one.start_round(pair.now)
    pair.run(40.0, step=0.5)
    pair.one.leave(pair.now)
    pair.run(1.0)
    received = [each for datagram in pair.carried for each in _opened(datagram, sessions)]
    kinds = {plaintext[:1]: plaintext for plaintext in received if plaintext}
    assert len(kinds) > 10
    each = [len(plaintext).to_bytes(2, "big") + b"\x05" + plaintext for plaintext in kinds.values()]
    return [*each, b"".join(each)]


def _opened(datagram: bytes, sessions: list[Session]) -> Iterator[bytes]:
    """The plaintext of a datagram on one of `sessions`, whose state does not change."""
    packet = codec.decode_packet(datagram)
    for session in sessions:
        if isinstance(packet, Data) and packet.session_id == session.our_id:
            nonce = session._open_prefix + (packet.counter << 48).to_bytes(14, "big")
            yield crypto_secretbox_open(packet.box, nonce, session._open_key)


def messages(data: bytes) -> None:
    """A decrypted message: decodes and encodes to the same again, or is dropped."""
    with contextlib.suppress(Dropped):
        message = codec.decode_message(data)
        assert codec.decode_message(codec.encode_message(message)) == message


def _messages() -> list[bytes]:
    return [each[3:] for each in _plaintexts()[:-1]] + [bytes((kind,)) + b"\x90" for kind in Kind]


# --- users --------------------------------------------------------------------------------------


def text(data: bytes) -> None:
    """Displayed text: no control characters or line breaks, and escaping it again changes nothing."""
    shown = printable(data.decode("utf-8", "surrogateescape"))
    assert not any(ord(each) < 32 or 127 <= ord(each) < 160 for each in shown)
    assert printable(shown) == shown
    shown.encode()


def lines(data: bytes) -> None:
    """A line on a headless node's stdin: a request, or a description of the error."""
    with contextlib.suppress(requests.InvalidRequest, commands.CommandError):
        requests.parse_request(data)


def typed(data: bytes) -> None:
    """A line in the compose box, also used as a filter."""
    line = data.decode("utf-8", "replace")
    with contextlib.suppress(commands.CommandError):
        slash_parser.parse_command(line)
    slash_parser.intended_command(line)
    for each in slash_parser.complete_command(
        line, slash_parser.KnownNames(("bob",), ("deploy.web",))
    ):
        assert each.startswith(line[:1])
    query.parse_query(line)


def settings(data: bytes) -> None:
    """A config file: settings, or one line that describes the error."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "grapevine.toml"
        path.write_bytes(data)
        try:
            NodeConfig.from_toml(path)
        except ConfigError as error:
            description = str(error)
        else:
            return
        assert "\n" not in description, "one line"


def _settings() -> list[bytes]:
    return [path.read_bytes() for path in sorted(CONFIG.glob("*.toml"))] + [b"fanout = 3"]


TARGETS: Final = {
    "unauthenticated": Target(unauthenticated, _packets),
    "members": Target(members, _plaintexts),
    "messages": Target(messages, _messages),
    "text": Target(text, lambda: ["é\x1b[31m\u202e‍👩‍👩‍👧 ok".encode(), b"\xff\xfe"]),
    "lines": Target(
        lines, lambda: [b'{"cmd":"send","to":"bob","text":"x"}', b"/send bob x", b"hello"]
    ),
    "typed": Target(typed, lambda: [b"/send bob hello", b"from:bob via:lazy disk", b"/h"]),
    "settings": Target(settings, _settings),
}
