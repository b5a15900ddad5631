"""What nodes say to each other: two unions, so that nonsense is unsayable.

`OverlayMessage` is what peers say about the cluster; `Frame` is what the two ends of one link say
about the link. What proves itself wherever it is carried is in `signed`, packets of the handshake are in
`codec`, which alone knows how any of this looks as bytes.

What must stay true:

- What travels *beside* a rumor (hops, age) is a claim of whoever sent it and decides nothing but
  how long to bother.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, TypeAlias

from grapevine_proto.ids import MessageId, PeerId, StreamRange
from grapevine_proto.signed import Accusation, PeerRecord, Rumor, TraceReceipt

DIRECT_MAIL_HOPS: Final = 255
"""In place of the hops of a copy: its origin gives it to every member itself, so nobody needs to pass
it on. Counts as one hop; a copy that truly came so far says one less."""


ID_PREFIX_BYTES: Final = 4  # of a member's id, enough to tell members apart in a `MemberDigest`


class Kind(IntEnum):
    """The first byte inside a sealed packet: what it is, and so what it is charged as."""

    CONFIRM = 0
    CLOSE = 1
    HEARTBEAT = 2
    RECORDS = 3
    RUMORS = 4
    DIRECT_MESSAGE = 5
    DIGEST = 6
    IN_SYNC = 7
    VECTOR = 8
    IWANT = 9
    REPAIR = 10
    IHAVE = 11
    PING = 25
    PING_REQ = 26
    PING_ACK = 27
    MEMBER_UPDATES = 28
    MEMBER_DIGEST = 29
    FRAGMENT = 12
    REPAIR_FRAGMENT = 13  # of a Repair, which whoever asked for it pays otherwise
    RETRANSMIT = 14
    ACK = 15
    MTU_PROBE = 16
    PATH_CHALLENGE = 17
    PATH_RESPONSE = 18
    OPEN_TRANSIENT = 19
    RECEIPTS = 35
    RECEIPT_ACK = 36
    SUBSCRIBE = 20
    GRAFT = 21
    PRUNE = 22
    OFFER = 23
    ANNOUNCE = 24
    NEIGHBOR_REQUEST = 30
    SWAP_REQUEST = 31
    PAUSE = 58


LINK_FRAME_KINDS: Final = frozenset(
    {
        Kind.FRAGMENT,
        Kind.REPAIR_FRAGMENT,
        Kind.RETRANSMIT,
        Kind.ACK,
        Kind.MTU_PROBE,
        Kind.PATH_CHALLENGE,
        Kind.PATH_RESPONSE,
    }
)
"""What the links say to each other and nobody beyond them hears."""


class CloseReason(IntEnum):
    """Why one end closes a link."""

    LEAVING = 0  # the node goes away
    FULL = 1  # no room for another peer; it says who may have some
    MISCONDUCT = 2  # bad signatures, or denied
    KEY_REMOVED = 3  # the cluster key of this session is no longer ours
    REDUNDANT = 4  # one of two links with the same peer, or one too many
    SUPERSEDED = 5  # a higher epoch of the receiver's own identity is about; its record came along


@dataclass(frozen=True, slots=True)
class MemberUpdate:
    """What is thought of a record's subject: that it does not answer, if there are accusations; if
    there are none, that it has lately said this of itself."""

    record: PeerRecord
    accusations: tuple[Accusation, ...] = ()

    @property
    def size_bytes(self) -> int:
        """How many bytes it takes in a message, at most: for filling a datagram without the codec."""
        return self.record.size_bytes + 2 + 102 * len(self.accusations)


@dataclass(frozen=True, slots=True)
class RumorCopy:
    """A rumor on its way: how many nodes relayed it and for how long it has been about."""

    rumor: Rumor
    hops: int
    age_ms: int


# --- overlay messages ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """I am here. `echo` is the number of the peer's last heartbeat, `echo_delay_us` how long ago it
    came, so that each end learns the round-trip time without a shared clock. `streams` and `checksum`
    are the digest of what was seen; `records` tell of other members."""

    number: int
    echo: int
    echo_delay_us: int
    load_permille: int
    streams: int
    checksum: bytes
    records: tuple[PeerRecord, ...]


@dataclass(frozen=True, slots=True)
class Records:
    """Members that the sender knows of, itself included when it changed or leaves."""

    records: tuple[PeerRecord, ...]


@dataclass(frozen=True, slots=True)
class Rumors:
    """Pushed rumors."""

    copies: tuple[RumorCopy, ...]


@dataclass(frozen=True, slots=True)
class DirectMessage:
    """A payload for the receiver alone, numbered apart from broadcasts."""

    sequence: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Digest:
    """Opens an anti-entropy round: do we differ?"""

    round: int
    streams: int
    checksum: bytes


@dataclass(frozen=True, slots=True)
class InSync:
    """Answers a Digest: we do not."""

    round: int


@dataclass(frozen=True, slots=True)
class Vector:
    """Which sequences of which streams the sender still holds (`first`: the lowest held, `last`: the
    highest seen), as one of `pages`. `is_reply`: the sender did not begin this round."""

    round: int
    is_reply: bool
    page: int
    pages: int
    entries: tuple[StreamRange, ...]


@dataclass(frozen=True, slots=True)
class IWant:
    """Please send what you hold of these."""

    round: int
    ranges: tuple[StreamRange, ...]


@dataclass(frozen=True, slots=True)
class Repair:
    """Rumors that were asked for. `has_more`: the answer was cut short, ask again."""

    round: int
    is_last: bool
    has_more: bool
    copies: tuple[RumorCopy, ...]


@dataclass(frozen=True, slots=True)
class IHave:
    """Rumors that the sender holds and did not send to the receiver, one range each."""

    ranges: tuple[StreamRange, ...]


@dataclass(frozen=True, slots=True)
class Ping:
    """Are you there? With what is to be told anyway, above all what is said against the receiver."""

    number: int
    updates: tuple[MemberUpdate, ...] = ()


@dataclass(frozen=True, slots=True)
class PingReq:
    """Please try to reach `subject` for me."""

    number: int
    subject: PeerId


@dataclass(frozen=True, slots=True)
class PingAck:
    """Answers a Ping; or a PingFor, when `is_alive` says whether the subject was heard."""

    number: int
    is_alive: bool


@dataclass(frozen=True, slots=True)
class MemberUpdates:
    """Who does not answer, and who was wrongly said not to."""

    updates: tuple[MemberUpdate, ...]


@dataclass(frozen=True, slots=True)
class MemberDigest:
    """Whom the sender knows of the members whose ids begin with four bytes from `first` to `last`: those
    four bytes of each, one after the other. `is_reply`: it wants records, and no roll in return."""

    first: int
    last: int
    id_prefixes: bytes
    is_reply: bool = False

    def to_prefixes(self) -> list[int]:
        """The four bytes of each, as numbers."""
        starts = range(0, len(self.id_prefixes), ID_PREFIX_BYTES)
        return [
            int.from_bytes(self.id_prefixes[start : start + ID_PREFIX_BYTES], "big")
            for start in starts
        ]


@dataclass(frozen=True, slots=True)
class Receipts:
    """Who has the traced message `message_id`: on their way to its origin. `number` is the sender's
    own, for `ReceiptAck`."""

    number: int
    message_id: MessageId
    receipts: tuple[TraceReceipt, ...]


@dataclass(frozen=True, slots=True)
class ReceiptAck:
    """The receipts that the receiver sent under `number` are here: it need not send them again."""

    number: int


@dataclass(frozen=True, slots=True)
class Offer:
    """Rumors that the sender holds and will not push to the receiver, who may ask at once."""

    ranges: tuple[StreamRange, ...]


@dataclass(frozen=True, slots=True)
class Announce:
    """A large rumor that the sender holds and will not push: the receiver may pull it."""

    ids: StreamRange
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Subscribe:
    """The sender wants to be pushed what the receiver hears first, or no longer."""

    is_subscribed: bool


@dataclass(frozen=True, slots=True)
class Graft:
    """From now on the link belongs to the tree along which rumors of `origin` are pushed; None: the
    tree of all origins that have none of their own."""

    origin: PeerId | None


@dataclass(frozen=True, slots=True)
class Prune:
    """The link no longer belongs to that tree: ids go over it instead."""

    origin: PeerId | None


@dataclass(frozen=True, slots=True)
class Pause:
    """The sender's application is behind: hold back rumors for it for `duration_ms`; 0: no longer."""

    duration_ms: int


OverlayMessage: TypeAlias = (
    Heartbeat
    | Records
    | Rumors
    | DirectMessage
    | Digest
    | InSync
    | Vector
    | IWant
    | Repair
    | IHave
    | Ping
    | PingReq
    | PingAck
    | MemberUpdates
    | MemberDigest
    | Receipts
    | ReceiptAck
    | Offer
    | Announce
    | Subscribe
    | Graft
    | Prune
    | Pause
)

# --- frames of one link -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Confirm:
    """Says nothing; that it opens says that the sender has the session's keys."""


@dataclass(frozen=True, slots=True)
class NeighborRequest:
    """An Empty by which somebody short of links begins a session: if you have no room, make some."""


@dataclass(frozen=True, slots=True)
class SwapRequest:
    """An Empty by which somebody near begins a session: if that is nearer than a link of yours, let it
    go for me. I let `swap_for` go for you, who has room then for whoever you let go."""

    swap_for: PeerRecord


@dataclass(frozen=True, slots=True)
class Close:
    """The sender closes the link; `records` are whom to try instead, where it has no room."""

    reason: CloseReason
    records: tuple[PeerRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class OpenTransient:
    """The first word of whoever began a session and wants no link: it will close when nothing is said."""


Frame: TypeAlias = Confirm | NeighborRequest | SwapRequest | Close | OpenTransient


@dataclass(frozen=True, slots=True)
class Fragment:
    """`body` from `offset` on of a message of `total_bytes`, which one packet does not hold. `number`
    tells the messages of one link apart. `is_repair`: the message is a Repair."""

    number: int
    total_bytes: int
    offset: int
    body: bytes
    is_repair: bool = False


@dataclass(frozen=True, slots=True)
class Retransmit:
    """The message that packet `counter` of the receiver's session `session_id` carried, and that
    seems lost. Whoever got it after all drops this one."""

    session_id: bytes
    counter: int
    plaintext: bytes


@dataclass(frozen=True, slots=True)
class Ack:
    """What arrived of the packets that bear `session_id`: all numbers from `first` on and before
    `end` but the `missing` ranges. `latest` came `delay_us` before this went."""

    session_id: bytes
    first: int
    end: int
    latest: int
    delay_us: int
    missing: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class MtuProbe:
    """Nothing, at a length that the path may or may not bear."""

    padding: int


@dataclass(frozen=True, slots=True)
class PathChallenge:
    """Say this back, if it finds you."""

    token: bytes


@dataclass(frozen=True, slots=True)
class PathResponse:
    """It found me."""

    token: bytes


LinkFrame: TypeAlias = Fragment | Retransmit | Ack | MtuProbe | PathChallenge | PathResponse
"""One for each of `LINK_FRAME_KINDS`, but for the two sorts of fragments."""
