"""The most expensive content that a member can send in each message kind, and a node in the most
expensive state.

Invariants:

- `WORST` has an entry for every kind the codec knows, so that a new kind cannot be forgotten.
- Content is well-formed and, where it must be, authentic: what is dropped early is cheap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from grapevine_proto.coordinate import Coordinate
from grapevine_proto.ids import Address, MessageId, Stream, StreamRange
from grapevine_proto.transport.session.session import Session
from grapevine_proto.wire import codec
from grapevine_proto.wire.attributes import encode_attributes, rumor_attributes
from grapevine_proto.wire.entry_terms import EntryTerms
from grapevine_proto.wire.fields import (
    MAX_ADDRESSES,
    MAX_ID_PREFIXES,
    MAX_IDS,
    MAX_PAYLOADS,
    MAX_RECEIPTS,
)
from grapevine_proto.wire.messages import (
    LINK_FRAME_KINDS,
    Ack,
    Announce,
    AnnounceTopic,
    AnswerAck,
    AnswerFetch,
    Answers,
    Close,
    CloseReason,
    Confirm,
    Digest,
    DirectMessage,
    DirectReceipt,
    Fragment,
    Frame,
    Graft,
    Heartbeat,
    IHave,
    InSync,
    Introduce,
    Introduction,
    IWant,
    Kind,
    LinkFrame,
    MemberDigest,
    MemberUpdate,
    MemberUpdates,
    MtuProbe,
    NeighborRequest,
    ObservedAddress,
    Offer,
    OpenTransient,
    OverlayMessage,
    PathChallenge,
    PathResponse,
    Pause,
    PiggybackedAck,
    Ping,
    PingAck,
    PingReq,
    Prune,
    ReceiptAck,
    Receipts,
    Records,
    Relayed,
    Repair,
    Retransmit,
    RumorCopy,
    Rumors,
    StateDelta,
    StateDigest,
    StateHead,
    StateHeads,
    StateRequest,
    StateWant,
    Subscribe,
    SwapRequest,
    Vector,
)
from grapevine_proto.wire.signed import (
    Accusation,
    AnswerCode,
    PeerRecord,
    QueryAnswer,
    Rumor,
    TraceReceipt,
)
from tests.cluster import Cluster, address_of
from tests.proto.overlay.builders import EPOCH, identity, peer_id, record
from tests.turn import take_turn

VICTIM, MALICIOUS = 1, 2
STREAMS: Final = 64  # with the maximum number of gaps
FAR_AWAY: Final = Coordinate((9.0,) * 8, 1.0, 0.0, 0.0).encode()
FIRST_ORIGIN: Final = 100
GAPS: Final = 256
MEMBERS: Final = 2000
MAX_SEQUENCE: Final = 2**53 - 1
PACKET_BYTES: Final = 1100  # of plaintext per datagram
FRAGMENT_BYTES: Final = 1000


def full_victim() -> Cluster:
    """A node with thousands of members, streams full of gaps and cached bodies, and a link to a
    malicious peer.
    """
    cluster = Cluster(2)
    victim, now = cluster[VICTIM], cluster.now
    for number in range(MEMBERS):
        unsigned = _record(10_000 + number)
        victim._overlay.membership.members.ensure(unsigned, now)
    for number in range(FIRST_ORIGIN, FIRST_ORIGIN + STREAMS):
        victim._overlay.membership.members.ensure(_record(number), now)
        for gap in range(GAPS + 1):
            rumor = Rumor(peer_id(number), EPOCH, 1 + 2 * gap, (1,), b"x", bytes(64))
            victim._overlay.store.insert(RumorCopy(rumor, 1, 0), peer_id(MALICIOUS), False, now)
    cluster.run(0.2)
    return cluster


def _record(number: int, addresses: int = 1) -> PeerRecord:
    addresses_ = tuple(
        Address(f"10.{each}.{number >> 8}.{number & 255}", 8000) for each in range(addresses)
    )
    return PeerRecord(peer_id(number), EPOCH, 0, addresses_, "", f"node {number}", 90, 45, False)


def _signed_record(number: int) -> PeerRecord:
    unsigned = replace(_record(number, MAX_ADDRESSES), incarnation=7)
    return unsigned.signed(identity(number), "default")


Sendable = OverlayMessage | Frame | LinkFrame | bytes
Scene = Cluster


def _streams() -> list[Stream]:
    return [Stream(peer_id(FIRST_ORIGIN + n), EPOCH) for n in range(STREAMS)]


def _all_sequences() -> tuple[StreamRange, ...]:
    """All sequences of streams that are full of gaps."""
    return tuple(StreamRange(stream, 1, MAX_SEQUENCE) for stream in _streams())


def _repeated_range() -> tuple[StreamRange, ...]:
    return (StreamRange(_streams()[0], 1, MAX_SEQUENCE),) * MAX_IDS


def _new_streams() -> tuple[StreamRange, ...]:
    return tuple(
        StreamRange(Stream(peer_id(500 + n), EPOCH), 1, MAX_SEQUENCE) for n in range(MAX_IDS)
    )


def _fitting(make: Callable[[tuple[StreamRange, ...]], OverlayMessage]) -> Iterator[bytes]:
    """Messages of ranges that fit one datagram, expensive in different ways."""
    for ranges in (_all_sequences(), _repeated_range(), _new_streams()):
        for count in range(len(ranges), 0, -1):
            encoded = codec.encode_message(make(ranges[:count]))
            if len(encoded) <= PACKET_BYTES:
                yield encoded
                break


def _rumors(kind: Kind) -> Iterator[bytes]:
    for payloads in (MAX_PAYLOADS, 60, 1):
        size = 0 if payloads == MAX_PAYLOADS else 900 // payloads
        rumor = Rumor.signed(
            identity(MALICIOUS + 1), "default", EPOCH, 1, (bytes(size),) * payloads
        )
        for hops in (1, 255):
            yield _carrying(kind, (RumorCopy(rumor, hops, 0),))
    small = [
        RumorCopy(Rumor.signed(identity(700 + n), "default", EPOCH, 1, (b"",)), 1, 0)
        for n in range(8)
    ]
    yield _carrying(kind, tuple(small))


def _topics() -> Iterator[AnnounceTopic]:
    """Authentic headers: with as many attributes as fit, for topics that the victim delivers and others."""
    filler: dict[int, object] = dict.fromkeys(range(20, 60), (1,) * 3)
    variants: tuple[dict[int, object], ...] = ({}, filler, filler | {200: 1})
    for number, more in enumerate(variants, 1):
        attributes = encode_attributes({2: b"deploy.web", **more})
        signer = identity(MALICIOUS + 1)
        body = (bytes(10_000),)
        rumor = Rumor.signed(signer, "default", EPOCH, 5000 + number, body, attributes=attributes)
        for has_body in (True, False):
            copy = RumorCopy(rumor.without_body(), 1, 0, peer_id(MALICIOUS + 2))
            yield AnnounceTopic(copy, has_body)


def _deltas() -> Iterator[StateDelta]:
    """Nobody requested them."""
    signer = identity(MALICIOUS + 1)
    attributes = rumor_attributes(entry=EntryTerms("key", 1))
    for count in (1, 3):
        rumors = [
            Rumor.signed(signer, "default", EPOCH, n + 1, (b"value",), attributes=attributes)
            for n in range(count)
        ]
        yield StateDelta(1, True, tuple(RumorCopy(each, 0, 0) for each in rumors))


def _carrying(kind: Kind, copies: tuple[RumorCopy, ...]) -> bytes:
    is_repair = kind is Kind.REPAIR
    return codec.encode_message(Repair(1, True, True, copies) if is_repair else Rumors(copies))


def _some_records(count: int) -> tuple[PeerRecord, ...]:
    return tuple(_signed_record(800 + n) for n in range(count))


def _some_updates(cluster: Cluster) -> tuple[MemberUpdate, ...]:
    updates = []
    for number in (MALICIOUS + 3, MALICIOUS + 4):
        record = _signed_record(number)
        accusers = [identity(900 + each) for each in range(3)]
        updates.append(
            MemberUpdate(
                record, tuple(Accusation.signed(accuser, "default", record) for accuser in accusers)
            )
        )
    return tuple(updates)


def _session(cluster: Cluster) -> Session:
    return cluster.link(MALICIOUS, VICTIM).session


def _one(message: Sendable) -> Callable[[Cluster], list[Sendable]]:
    return lambda _: [message]


WORST: Final[dict[Kind, Callable[[Cluster], list[Sendable]]]] = {
    Kind.CONFIRM: _one(Confirm()),
    Kind.NEIGHBOR_REQUEST: _one(NeighborRequest()),
    Kind.SWAP_REQUEST: lambda _: [SwapRequest(_signed_record(801))],
    Kind.OPEN_TRANSIENT: _one(OpenTransient()),
    Kind.CLOSE: lambda _: [Close(CloseReason.FULL, _some_records(3))],
    Kind.HEARTBEAT: lambda _: [
        Heartbeat(9, 1, 0, 1000, 7, bytes(range(16)), _some_records(3), FAR_AWAY)
    ],
    Kind.RECORDS: lambda _: [Records(_some_records(3))],
    Kind.RUMORS: lambda _: list(_rumors(Kind.RUMORS)),
    Kind.DIRECT_MESSAGE: _one(DirectMessage(1, bytes(1000))),
    Kind.DIRECT_RECEIPT: _one(DirectReceipt(1)),
    Kind.DIGEST: _one(Digest(1, STREAMS + 1, bytes(range(16)))),
    Kind.IN_SYNC: _one(InSync(1)),
    Kind.VECTOR: lambda _: [
        *_fitting(lambda ranges: Vector(1, False, 0, 1, ranges)),
        *_fitting(lambda ranges: Vector(1, True, 0, 1, ranges)),
    ],
    Kind.IWANT: lambda _: list(_fitting(lambda ranges: IWant(1, ranges))),
    Kind.REPAIR: lambda _: list(_rumors(Kind.REPAIR)),
    Kind.IHAVE: lambda _: list(_fitting(IHave)),
    Kind.OFFER: lambda _: list(_fitting(Offer)),
    Kind.PING: lambda cluster: [Ping(1, _some_updates(cluster)[:1])],
    Kind.PING_REQ: lambda _: [PingReq(1, peer_id(10_001))],
    Kind.PING_ACK: _one(PingAck(1, True)),
    Kind.MEMBER_UPDATES: lambda cluster: [MemberUpdates(_some_updates(cluster)[:1])],
    Kind.MEMBER_DIGEST: lambda _: [
        MemberDigest(0, 2**32 - 1, bytes(4 * MAX_ID_PREFIXES)),
        MemberDigest(0, 2**32 - 1, b""),
        MemberDigest(0, 2**32 - 1, b"", is_reply=True),
    ],
    Kind.RECEIPTS: lambda _: [
        Receipts(
            1,
            MessageId(peer_id(FIRST_ORIGIN), EPOCH, 1),
            (TraceReceipt(peer_id(900), 1, 1, 1, bytes(64)),) * min(MAX_RECEIPTS, 8),
        )
    ],
    Kind.RECEIPT_ACK: _one(ReceiptAck(1)),
    Kind.ANSWERS: lambda _: [
        Answers(
            number,
            MessageId(peer_id(FIRST_ORIGIN), EPOCH, 1),
            (QueryAnswer(peer_id(900), 1, 1, 1, AnswerCode.ANSWER, b"", 1, bytes(64)),) * 8,
        )
        for number in (0, 1)
    ],
    Kind.ANSWER_ACK: _one(AnswerAck(1)),
    Kind.ANSWER_FETCH: _one(AnswerFetch(MessageId(peer_id(FIRST_ORIGIN), EPOCH, 1), 0)),
    Kind.STATE_DIGEST: lambda _: [
        StateDigest(bytes(range(16))),
        StateDigest(bytes(range(16)), bytes(1020) + b"\xff" * 4),
    ],
    Kind.STATE_HEADS: lambda _: [
        StateHeads(is_reply, b"\xff" * 32, (StateHead(bytes(8), (EPOCH, 9), bytes(4)),) * 40)
        for is_reply in (False, True)
    ],
    Kind.STATE_REQUEST: lambda _: [
        StateRequest(
            1, tuple(StateWant(bytes(peer_id(FIRST_ORIGIN + n)[:8]), (0, 0)) for n in range(32))
        )
    ],
    Kind.STATE_DELTA: lambda _: list(_deltas()),
    Kind.ANNOUNCE: lambda _: [Announce(each, 2**20) for each in (*_all_sequences()[:1],)],
    Kind.ANNOUNCE_TOPIC: lambda _: list(_topics()),
    Kind.SUBSCRIBE: _one(Subscribe(True)),
    Kind.GRAFT: lambda _: [Graft(peer_id(FIRST_ORIGIN)), Graft(None)],
    Kind.PRUNE: lambda _: [Prune(peer_id(FIRST_ORIGIN)), Prune(None)],
    Kind.PAUSE: _one(Pause(2**32 - 1)),
    Kind.OBSERVED_ADDRESS: _one(ObservedAddress(Address("2001:db8::1", 8000))),
    Kind.RELAYED: lambda _: [
        Relayed(is_forwarded, bytes(peer_id(MALICIOUS)[:8]), bytes((kind,)) + bytes(1100))
        for is_forwarded in (False, True)
        for kind in range(6)
    ],
    Kind.INTRODUCE: lambda _: [Introduce(peer_id(MALICIOUS), True), Introduce(peer_id(99), False)],
    Kind.INTRODUCTION: lambda _: [
        Introduction(record(FIRST_ORIGIN + n), Address("2001:db8::1", 8000), False)
        for n in range(40)
    ],
    Kind.FRAGMENT: lambda _: [Fragment(1, 10 * 2**20, 3, bytes(FRAGMENT_BYTES))],
    Kind.REPAIR_FRAGMENT: lambda _: [
        Fragment(2, 10 * 2**20, 3, bytes(FRAGMENT_BYTES), is_repair=True)
    ],
    Kind.RETRANSMIT: lambda cluster: [
        Retransmit(
            _session(cluster).their_id, 1, codec.encode_message(Offer(_all_sequences()[:20]))
        )
    ],
    Kind.ACK: lambda cluster: [
        Ack(_session(cluster).our_id, 1, 1000, 999, 0, tuple((n, n + 1) for n in range(2, 98, 2)))
    ],
    Kind.PIGGYBACKED_ACK: lambda cluster: [
        PiggybackedAck(
            Ack(_session(cluster).our_id, 1, 1000, 999, 0, tuple((n, n) for n in range(2, 66, 2))),
            codec.encode_message(Offer(_all_sequences()[:20])),
        )
    ],
    Kind.MTU_PROBE: _one(MtuProbe(1000)),
    Kind.PATH_CHALLENGE: _one(PathChallenge(bytes(8))),
    Kind.PATH_RESPONSE: _one(PathResponse(bytes(8))),
}


def plaintexts(kind: Kind, cluster: Cluster) -> list[bytes]:
    """The most expensive messages of `kind` for the node in `cluster`."""
    sendables = WORST[kind](cluster)
    return [
        each
        if isinstance(each, bytes)
        else codec.encode_frame(each)
        if isinstance(each, LinkFrame)
        else codec.encode_message(each)
        for each in sendables
    ]


def packets(cluster: Cluster, plaintext: bytes) -> list[bytes]:
    """The same as datagrams of the malicious peer: one, or fragments."""
    session = _session(cluster)
    if len(plaintext) <= PACKET_BYTES or plaintext[0] in LINK_FRAME_KINDS:
        return [session.seal(plaintext, cluster.now)]
    parts = range(0, len(plaintext), FRAGMENT_BYTES)
    number = session.next_counter
    frames = [
        Fragment(number, len(plaintext), at, plaintext[at : at + FRAGMENT_BYTES]) for at in parts
    ]
    return [session.seal(codec.encode_frame(frame), cluster.now) for frame in frames]


def is_linked(cluster: Cluster) -> bool:
    """Whether both ends still have the link."""
    victim, malicious = cluster[VICTIM], cluster[MALICIOUS]
    return (
        victim.peer_id in malicious._transport.links
        and malicious.peer_id in victim._transport.links
    )


def receive(cluster: Cluster, datagram: bytes) -> None:
    """Everything the node does about one datagram at once."""
    victim = cluster[VICTIM]
    victim.receive(datagram, address_of(MALICIOUS), cluster.now)
    take_turn(victim, cluster.now)
    victim.events()
