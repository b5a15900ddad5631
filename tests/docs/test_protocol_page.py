"""An implementation written from docs/reference/protocol.md alone joins: the page is complete and correct.

Invariants: `SpecNode` uses nothing of the library. The library's codec, link and identity only play the
other end. `golden_handshake.txt` has every packet of one handshake, for the author of a third one.
"""

from __future__ import annotations

import re
from dataclasses import replace
from hashlib import blake2b
from itertools import cycle
from pathlib import Path
from typing import Any

import msgpack
import pytest
from nacl import bindings

from grapevine_proto import ClusterKey, PeerId
from grapevine_proto.config.sections import LimitsConfig
from grapevine_proto.crypto.identity import Identity
from grapevine_proto.ids import Address, MessageId, Stream, StreamRange
from grapevine_proto.overlay.store.stream_digest import StreamDigest
from grapevine_proto.transport.handshake.responder import Responder
from grapevine_proto.wire import codec
from grapevine_proto.wire.attributes import encode_attributes, rumor_attributes
from grapevine_proto.wire.messages import (
    AnnounceTopic,
    Close,
    CloseReason,
    DirectMessage,
    DirectReceipt,
    Heartbeat,
    IHave,
    Kind,
    NeighborRequest,
    OpenTransient,
    Records,
    Repair,
    RumorCopy,
    Rumors,
    SwapRequest,
    Vector,
)
from grapevine_proto.wire.signed import (
    Accusation,
    AnswerCode,
    LargeAnswer,
    PeerRecord,
    QueryAnswer,
    Rumor,
    TraceReceipt,
)
from tests.proto.wire import test_codec
from tests.sources import ROOT

PAGE = (ROOT / "docs" / "reference" / "protocol.md").read_text()
GOLDEN = Path(__file__).with_name("golden_handshake.txt")
SECRET, CLUSTER = bytes(range(32)), "vineyard"
HERE = Address("10.0.0.1", 8000)


# --- second implementation, from the page ---------------------------------------------------------------


def h(domain: str, *parts: bytes | str | int, key: bytes = b"", size: int = 32) -> bytes:
    hashed = blake2b(key=key, digest_size=size)
    for part in (domain, *parts):
        if isinstance(part, int):
            part = part.to_bytes(8, "big")
        elif isinstance(part, str):
            part = part.encode()
        hashed.update(len(part).to_bytes(8, "big") + part)
    return hashed.digest()


class SpecNode:
    """The initiator of one handshake, and its end of the session."""

    def __init__(self, seed: bytes, ephemeral: bytes, session_id: bytes) -> None:
        self.public, self._secret = bindings.crypto_sign_seed_keypair(seed)
        self._ephemeral, self.id = ephemeral, session_id
        self.record = self._record()

    def sign(self, domain: str, *parts: bytes | str | int) -> bytes:
        return bindings.crypto_sign(h(domain, *parts), self._secret)[:64]

    def _record(self) -> bytes:
        signed_fields = ("10.0.0.2:8000,[::1]:9000", "eu", "stranger", 90, 45, 0)
        signature = self.sign("grapevine record 1", CLUSTER, self.public, 7, 0, *signed_fields)
        addresses = [[b"10.0.0.2", 8000], [b"::1", 9000]]
        fields = [self.public, 7, 0, addresses, b"eu", b"stranger", 90, 45, False, signature]
        return bytes(msgpack.packb(fields))

    @staticmethod
    def mac(label: str, context: bytes, body: bytes) -> bytes:
        return h(f"grapevine mac 1: {label}", CLUSTER, context, body, key=SECRET, size=16)

    def hello(self) -> bytes:
        public = bindings.crypto_scalarmult_base(self._ephemeral)
        self._hello = bytes((1, 1, 0, 0, 0)) + self.id + public
        return self._hello + self.mac("hello, by the initiator", b"", self._hello)

    def proof(self, challenge: bytes) -> bytes:
        self._challenge, mac = challenge[:-16], challenge[-16:]
        assert mac == self.mac("challenge, by the responder", self._hello, self._challenge)
        assert self._challenge[:10] == bytes((2,)) + self.id + bytes((1,))
        transcript = h("grapevine transcript 1", self._hello, self._challenge)
        role = "grapevine initiator 1"
        signature = self.sign(role, CLUSTER, transcript, self.public)
        key = h(role, b"", transcript, key=SECRET)
        box = bindings.crypto_secretbox(signature + self.record, bytes(24), key)
        self._proof = bytes((3,)) + self._hello[1:] + self._challenge[9:] + box
        return self._proof + self.mac("proof, by the initiator", b"", self._proof)

    def open_welcome(self, welcome: bytes) -> dict[str, Any]:
        """Opens Welcome; returns the public key and the name of the responder."""
        body, mac = welcome[:-16], welcome[-16:]
        assert mac == self.mac("welcome, by the responder", self._proof, body)
        head, box = body[:49], body[49:]
        assert head[:9] == bytes((4,)) + self.id
        shared = bindings.crypto_scalarmult(self._ephemeral, head[9:41])
        self._theirs = head[41:49]
        transcript = h("grapevine transcript 1", self._hello, self._challenge, self._proof, head)
        key = h("grapevine responder 1", shared, transcript, key=SECRET)
        opened = bindings.crypto_secretbox_open(box, bytes(24), key)
        fields = msgpack.unpackb(opened[64:], raw=True)
        signed = h("grapevine responder 1", CLUSTER, transcript, fields[0])
        assert bindings.crypto_sign_open(opened[:64] + signed, fields[0]) == signed
        transcript = h("grapevine transcript 1", self._hello, self._challenge, self._proof, body)
        self._keys = [
            h("grapevine data key 1", shared, transcript, way, key=SECRET) for way in (0, 1)
        ]
        return {"public": fields[0], "name": fields[5]}

    def seal(self, counter: int, plaintext: bytes) -> bytes:
        head = bytes((5,)) + self._theirs + counter.to_bytes(8, "big")
        nonce = bytes((5, 0)) + self._theirs + counter.to_bytes(8, "big") + bytes(6)
        return head + bindings.crypto_secretbox(plaintext, nonce, self._keys[0])

    def open(self, datagram: bytes) -> bytes:
        assert datagram[:9] == bytes((5,)) + self.id
        nonce = bytes((5, 1)) + datagram[1:17] + bytes(6)
        return bytes(bindings.crypto_secretbox_open(datagram[17:], nonce, self._keys[1]))


# --- against the library ----------------------------------------------------------------------------


def handshake() -> tuple[dict[str, str], SpecNode, Responder]:
    """Runs a handshake; returns its packets by name, and both ends."""
    fixed = cycle(range(7, 256))
    us = Identity(bytes([1]) * 32)
    responder = Responder(
        us,
        (ClusterKey(SECRET),),
        CLUSTER,
        LimitsConfig(),
        (),
        entropy=lambda size: bytes(next(fixed) for _ in range(size)),
        now=0.0,
    )
    record = PeerRecord(us.peer_id, 3, 0, (HERE,), "", "us", 90, 45, False).signed(us, CLUSTER)
    them = SpecNode(bytes([2]) * 32, bytes([3]) * 32, b"8 bytes.")

    def answer(datagram: bytes) -> bytes:
        packet = codec.decode_packet(datagram)
        assert isinstance(packet, codec.Hello | codec.Proof)
        return responder.receive(packet, datagram, HERE, record, 1.0, exempt=False)

    packets = {"hello": them.hello()}
    packets["challenge"] = answer(packets["hello"])
    packets["proof"] = them.proof(packets["challenge"])
    packets["welcome"] = answer(packets["proof"])
    assert them.open_welcome(packets["welcome"]) == {"public": us.peer_id, "name": b"us"}
    packets["data"] = them.seal(0, bytes.fromhex("0090"))
    return {name: datagram.hex() for name, datagram in packets.items()}, them, responder


def test_a_node_written_from_the_page_completes_the_handshake_and_exchanges_data() -> None:
    packets, them, responder = handshake()
    packet = codec.decode_packet(bytes.fromhex(packets["data"]))
    assert isinstance(packet, codec.Data)
    established = responder.confirm(packet, HERE, 1.0)
    assert established is not None
    assert established.record.peer_id == them.public
    assert established.record.name == "stranger"
    assert [str(each) for each in established.record.addresses] == ["10.0.0.2:8000", "[::1]:9000"]
    assert established.plaintext == b"\x00\x90"
    assert them.open(established.session.seal(b"hello back", 1.0)) == b"hello back"


def test_the_handshake_matches_the_golden_bytes() -> None:
    golden = dict(line.split(": ") for line in GOLDEN.read_text().splitlines() if line[:1] != "#")
    assert handshake()[0] == golden


def test_signatures_cover_what_the_page_lists() -> None:
    identity, them = Identity(bytes([2]) * 32), SpecNode(bytes([2]) * 32, bytes(32), bytes(8))
    rumor = Rumor.signed(identity, CLUSTER, 3, 5, (b"ab", b"c"))
    cuts = (2).to_bytes(4, "big") + (1).to_bytes(4, "big")
    parts: tuple[bytes | str | int, ...] = (CLUSTER, them.public, 3, 5, cuts, b"abc")
    assert rumor.signature == them.sign("grapevine rumor 1", *parts)
    traced = Rumor.signed(
        identity, CLUSTER, 3, 5, (b"abc",), attributes=rumor_attributes(trace_share=9)
    )
    assert traced.attributes == bytes.fromhex("920109")
    cuts, body_hash = (3).to_bytes(4, "big"), h("grapevine rumor body 1", b"abc")
    parts = (CLUSTER, them.public, 3, 5, cuts, body_hash, traced.attributes)
    assert traced.signature == them.sign("grapevine rumor 2", *parts)
    subject = PeerId(bytes([9]) * 32)
    receipt = TraceReceipt(identity.peer_id, 2, 30).signed(
        identity, CLUSTER, MessageId(subject, 3, 5)
    )
    parts = (CLUSTER, subject, 3, 5, them.public, 2, 30)
    assert receipt.signature == them.sign("grapevine receipt 1", *parts)
    answer = QueryAnswer(identity.peer_id, 1, 2, 30, AnswerCode.ANSWER, b"yes").signed(
        identity, CLUSTER, MessageId(subject, 3, 5)
    )
    parts = (CLUSTER, subject, 3, 5, them.public, 1, 2, 30, 1, b"yes")
    assert answer.signature == them.sign("grapevine answer 1", *parts)
    large = LargeAnswer.describing(b"much").to_payload()
    assert large == bytes((0, 0, 0, 4)) + h("grapevine answer body 1", b"much")
    attributes = encode_attributes({2: 7})
    record = PeerRecord(identity.peer_id, 3, 1, (), "eu", "n", 90, 45, False, attributes=attributes)
    parts = (CLUSTER, them.public, 3, 1, "", "eu", "n", 90, 45, 0)
    assert record.signed(identity, CLUSTER).signature == them.sign(
        "grapevine record 2", *parts, attributes
    )
    accused = PeerRecord(subject, 3, 1, (), "", "", 90, 45, False)
    accusation = Accusation.signed(identity, CLUSTER, accused)
    parts = (CLUSTER, them.public, subject, 3, 1)
    assert accusation.signature == them.sign("grapevine accusation 1", *parts)


def test_the_digest_is_computed_as_the_page_describes() -> None:
    origin, other = PeerId(bytes([9]) * 32), PeerId(bytes([8]) * 32)
    recent = StreamDigest(CLUSTER, 300.0)
    recent.update(Stream(origin, 3), 5, 0.0, 0.0)
    recent.update(Stream(other, 1), 2, 0.0, 0.0)
    terms = [
        int.from_bytes(h("grapevine digest 1", CLUSTER, *each, size=16), "big")
        for each in ((origin, 3, 5), (other, 1, 2))
    ]
    assert recent.digest(2.0) == (2, (sum(terms) % (1 << 128)).to_bytes(16, "big"))


# --- every kind -----------------------------------------------------------------------------------

ZEROS = PeerId(bytes(32))
RANGE = StreamRange(Stream(ZEROS, 1), 3, 300)
RANGE_BYTES = "94c420" + "00" * 32 + "0103cd012c"
COPY = RumorCopy(Rumor(ZEROS, 1, 1, (1,), b"a", bytes(64)), 2, 1000)
COPY_BYTES = "98c420" + "00" * 32 + "01019101c40161c440" + "00" * 64 + "02cd03e8"
ATTRIBUTED_COPY = COPY._replace(rumor=replace(COPY.rumor, attributes=bytes.fromhex("940109cc64c3")))
ATTRIBUTED_COPY_BYTES = "99" + COPY_BYTES[2:] + "c406940109cc64c3"
HEADER = RumorCopy(
    Rumor(ZEROS, 1, 1, (8193,), b"", bytes(64), bytes.fromhex("9202c40161"), b"\x11" * 32),
    2,
    1000,
    PeerId(b"\x22" * 32),
)
ATTRIBUTED_RECORD = replace(test_codec.GOLDEN_RECORD, attributes=bytes.fromhex("9264c40161"))
ATTRIBUTED_RECORD_BYTES = "9b" + test_codec.GOLDEN_RECORD_BYTES[2:] + "c4059264c40161"
RECORD_BYTES = "c472" + test_codec.GOLDEN_RECORD_BYTES

MORE: dict[Any, str] = {
    Close(CloseReason.SUPERSEDED, (test_codec.GOLDEN_RECORD,)): "01920591" + RECORD_BYTES,
    Heartbeat(5, 4, 1500, 20, 2, bytes(16), (test_codec.GOLDEN_RECORD,)): (
        "02970504cd05dc1402c410" + "00" * 16 + "91" + RECORD_BYTES
    ),
    Records((test_codec.GOLDEN_RECORD,)): "039191" + RECORD_BYTES,
    Vector(7, True, 0, 1, (RANGE,)): "089507c3000191" + RANGE_BYTES,
    Repair(7, True, False, (COPY,)): "0a9407c3c291" + COPY_BYTES,
    Rumors((ATTRIBUTED_COPY,)): "049191" + ATTRIBUTED_COPY_BYTES,
    Records((ATTRIBUTED_RECORD,)): "039191c479" + ATTRIBUTED_RECORD_BYTES,
    AnnounceTopic(HEADER, True): (
        "2b9bc420"
        + "00" * 32
        + "0101cd2001c420"
        + "11" * 32
        + "c440"
        + "00" * 64
        + "02cd03e8c4059202c40161c420"
        + "22" * 32
        + "c3"
    ),
    OpenTransient(): "1390",
    DirectReceipt(300): "3b91cd012c",
    NeighborRequest(): "1e90",
    SwapRequest(test_codec.GOLDEN_RECORD): "1f91" + RECORD_BYTES,
    IHave((RANGE,)): "0b919193c420" + "00" * 32 + "019203cd012c",
}


@pytest.mark.parametrize(
    ("message", "expected"), list(MORE.items()), ids=lambda v: type(v).__name__
)
def test_other_kinds_are_encoded_as_documented(message: DirectMessage, expected: str) -> None:
    assert codec.encode_message(message).hex() == expected
    assert codec.decode_message(bytes.fromhex(expected)) == message


def test_the_page_names_every_kind_and_every_kind_has_golden_bytes() -> None:
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|", PAGE.partition("## Messages")[2], re.M)
    named = {int(number): name.lower() for number, name in rows}
    golden = [*test_codec.GOLDEN.values(), *test_codec.GOLDEN_FRAMES.values(), *MORE.values()]
    have = {int(each[:2], 16) for each in golden}
    for kind in Kind:
        assert named.get(kind) == kind.name.replace("_", "").lower(), kind
        assert kind in have, f"no golden bytes of {kind.name}"


def test_the_page_names_every_reason_of_close() -> None:
    sentence = PAGE.partition("Reasons of `Close`:")[2].partition("\n\n")[0]
    named = {name: int(number) for number, name in re.findall(r"(\d) `(\w+)`", sentence)}
    assert named == {reason.name.lower(): reason.value for reason in CloseReason}
