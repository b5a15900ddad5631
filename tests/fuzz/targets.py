"""The doors of a node, each as a function of bytes.

What must stay true: whatever comes in, only what is promised comes out: a refusal that is counted,
or an error that names what is wrong. Any other exception is a finding.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from grapevine_proto import ConfigError, NodeConfig
from grapevine_proto.errors import Dropped, DropReason
from grapevine_proto.ids import Address
from grapevine_proto.transport.session.session import Session
from grapevine_proto.wire import codec
from grapevine_proto.wire.codec import Data
from grapevine_proto.wire.messages import Kind
from grapevine_tui.control import commands, jsonlines
from grapevine_tui.host import query
from grapevine_tui.text import printable
from tests.proto.test_engine import HERE, Pair
from tests.sources import ROOT

STRANGER: Final = Address("192.0.2.66", 6666)
CONFIG: Final = ROOT / "config"
MOST_SAID: Final = 32  # messages in one input: beyond that only repetition


class Target(NamedTuple):
    """`check` raises where a promise is broken; `seeds` are what such input looks like."""

    check: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]


# --- the network's doors ------------------------------------------------------------------------


def strangers(data: bytes) -> None:
    """A datagram from nowhere: never raises, answers with no more bytes than came, keeps nothing."""
    engine = Pair(linked=False).other
    engine.receive(data, STRANGER, 1.0)
    answered = sum(len(datagram) for datagram, _ in engine.datagrams_to_send(1.0))
    assert answered <= len(data), "amplification"
    assert not engine.peers(1.0)
    assert not engine.members()
    assert DropReason.INTERNAL_ERROR not in dict(engine.stats().dropped)


def _packets() -> list[bytes]:
    """One of each packet of a handshake, and data."""
    return Pair().taken[:6]


def members(data: bytes) -> None:
    """A member that says anything at all: each message is a length, a pause and its bytes."""
    pair = Pair()
    liar = pair.one._transport.links[pair.other.peer_id].session
    for plaintext, pause_s in _said(data):
        pair.now += pause_s
        datagram = liar.seal(plaintext, pair.now)
        pair.other.receive(datagram, HERE, pair.now)
        if pair.other.deadline <= pair.now:
            pair.other.advance(pair.now)
        pair.other.datagrams_to_send(pair.now)
        pair.other.events()
    _look_at_everything(pair)


def _said(data: bytes) -> Iterator[tuple[bytes, float]]:
    for _ in range(MOST_SAID):
        if len(data) < 4:
            return
        size, pause_s = int.from_bytes(data[:2], "big") % codec.BASE_PLAINTEXT_BYTES, data[2] / 50
        yield data[3 : 3 + max(size, 1)], pause_s
        data = data[3 + max(size, 1) :]


def _look_at_everything(pair: Pair) -> None:
    engine, limits = pair.other, pair.other.config.limits
    assert DropReason.INTERNAL_ERROR not in dict(engine.stats().dropped)
    engine.peers(pair.now)
    engine.snapshot(pair.now)
    engine.rounds()
    assert len(engine.members()) <= limits.members
    assert engine.stats().cached_bytes <= limits.cache_bytes
    if engine.stop_reason is None:
        engine.broadcast(b"still here", pair.now)
        engine.datagrams_to_send(pair.now)


def _plaintexts() -> list[bytes]:
    """What two nodes say to each other in a minute, and all of it in one go."""
    heard: list[bytes] = []
    open_ = Session.open

    def listen(session: Session, packet: Data, now: float) -> bytes:
        heard.append(open_(session, packet, now))
        return heard[-1]

    Session.open = listen  # type: ignore[method-assign, assignment]
    try:
        pair = Pair()
        pair.one.broadcast(b"hello", pair.now)
        pair.one.send(pair.other.peer_id, b"psst", pair.now)
        pair.run(3.0)
        pair.one.start_round(pair.now)
        pair.run(40.0, step=0.5)
        pair.one.leave(pair.now)
        pair.run(1.0)
    finally:
        Session.open = open_  # type: ignore[method-assign]
    kinds = {plaintext[:1]: plaintext for plaintext in heard if plaintext}
    each = [len(said).to_bytes(2, "big") + b"\x05" + said for said in kinds.values()]
    return [*each, b"".join(each)]


def messages(data: bytes) -> None:
    """What is inside a sealed packet: decodes and encodes to the same again, or is refused."""
    with contextlib.suppress(Dropped):
        message = codec.decode_message(data)
        assert codec.decode_message(codec.encode_message(message)) == message


def _messages() -> list[bytes]:
    return [each[3:] for each in _plaintexts()[:-1]] + [bytes((kind,)) + b"\x90" for kind in Kind]


# --- people's doors -----------------------------------------------------------------------------


def text(data: bytes) -> None:
    """What is shown: no control byte, no line end, and showing it again changes nothing."""
    shown = printable(data.decode("utf-8", "surrogateescape"))
    assert not any(ord(each) < 32 or 127 <= ord(each) < 160 for each in shown)
    assert printable(shown) == shown
    shown.encode()


def lines(data: bytes) -> None:
    """A line on a headless node's stdin: a request, or words of what is wrong."""
    with contextlib.suppress(jsonlines.InvalidRequest, commands.CommandError):
        jsonlines.parse_request(data)


def typed(data: bytes) -> None:
    """A line in the compose box, and the same in a filter."""
    line = data.decode("utf-8", "replace")
    with contextlib.suppress(commands.CommandError):
        commands.parse_command(line)
    commands.complete_command(line, ("bob", "carol"))
    query.parse_query(line)


def settings(data: bytes) -> None:
    """A settings file: settings, or one line of what is wrong."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "grapevine.toml"
        path.write_bytes(data)
        try:
            NodeConfig.from_toml(path)
        except ConfigError as error:
            words = str(error)
        else:
            return
        assert "\n" not in words, "one line"


def _settings() -> list[bytes]:
    return [path.read_bytes() for path in sorted(CONFIG.glob("*.toml"))] + [b"fanout = 3"]


TARGETS: Final = {
    "strangers": Target(strangers, _packets),
    "members": Target(members, _plaintexts),
    "messages": Target(messages, _messages),
    "text": Target(text, lambda: ["é\x1b[31m\u202e‍👩‍👩‍👧 ok".encode(), b"\xff\xfe"]),
    "lines": Target(
        lines, lambda: [b'{"cmd":"send","to":"bob","text":"x"}', b"/send bob x", b"hello"]
    ),
    "typed": Target(typed, lambda: [b"/send bob hello", b"from:bob via:lazy disk", b"/h"]),
    "settings": Target(settings, _settings),
}
