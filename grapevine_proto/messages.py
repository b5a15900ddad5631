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
from grapevine_proto.signed import Accusation, Receipt, Record, Rumor

MAILED_HOPS: Final = 255
"""In place of the hops of a copy: its origin gives it to every member itself, so nobody needs to pass
it on. Counts as one hop; a copy that truly came so far says one less."""


MARK_BYTES: Final = 4  # of a member's id, enough to tell members apart in a `Roll`


class Kind(IntEnum):
    """The first byte inside a sealed packet: what it is, and so what it is charged as."""

    EMPTY = 0
    CLOSE = 1
    HEARTBEAT = 2
    RECORDS = 3
    RUMORS = 4
    PRIVATE = 5
    DIGEST = 6
    IN_SYNC = 7
    VECTOR = 8
    WANT = 9
    REPAIR = 10
    IDS = 11
    PING = 25
    PING_FOR = 26
    ACK = 27
    OPINIONS = 28
    ROLL = 29
    FRAGMENT = 12
    REPAIR_FRAGMENT = 13  # of a Repair, which whoever asked for it pays otherwise
    AGAIN = 14
    FEEDBACK = 15
    PROBE = 16
    PATH_CHECK = 17
    PATH_ANSWER = 18
    SHORT = 19
    RECEIPTS = 35
    RECEIPTS_TAKEN = 36
    SUBSCRIBE = 20
    GRAFT = 21
    PRUNE = 22
    OFFER = 23
    ANNOUNCE = 24
    ASK = 30
    NEAR = 31
    PAUSE = 58


LINK_KINDS: Final = frozenset(
    {
        Kind.FRAGMENT,
        Kind.REPAIR_FRAGMENT,
        Kind.AGAIN,
        Kind.FEEDBACK,
        Kind.PROBE,
        Kind.PATH_CHECK,
        Kind.PATH_ANSWER,
    }
)
"""What the links say to each other and nobody beyond them hears."""


class CloseReason(IntEnum):
    """Why one end closes a link."""

    LEAVING = 0  # the node goes away
    FULL = 1  # no room for another peer; it says who may have some
    MISCONDUCT = 2  # bad signatures, or denied
    KEY_REMOVED = 3  # the cluster key of this session is no longer ours
    SURPLUS = 4  # one of two links with the same peer, or one too many
    OUTRANKED = 5  # a higher epoch of the receiver's own identity is about; its record came along


@dataclass(frozen=True, slots=True)
class Opinion:
    """What is thought of a record's subject: that it does not answer, if there are accusations; if
    there are none, that it has lately said this of itself."""

    record: Record
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
    came, so that each end learns the round-trip time without a shared clock. `streams` and `total`
    are the digest of what was seen; `records` tell of other members."""

    number: int
    echo: int
    echo_delay_us: int
    load_permille: int
    streams: int
    total: bytes
    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class Records:
    """Members that the sender knows of, itself included when it changed or leaves."""

    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class Rumors:
    """Pushed rumors."""

    copies: tuple[RumorCopy, ...]


@dataclass(frozen=True, slots=True)
class Private:
    """A payload for the receiver alone, numbered apart from broadcasts."""

    sequence: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Digest:
    """Opens an anti-entropy round: do we differ?"""

    round: int
    streams: int
    total: bytes


@dataclass(frozen=True, slots=True)
class InSync:
    """Answers a Digest: we do not."""

    round: int


@dataclass(frozen=True, slots=True)
class Vector:
    """Which sequences of which streams the sender still holds (`first`: the lowest held, `last`: the
    highest seen), as one of `pages`. `answering`: the sender did not begin this round."""

    round: int
    answering: bool
    page: int
    pages: int
    entries: tuple[StreamRange, ...]


@dataclass(frozen=True, slots=True)
class Want:
    """Please send what you hold of these."""

    round: int
    ranges: tuple[StreamRange, ...]


@dataclass(frozen=True, slots=True)
class Repair:
    """Rumors that were asked for. `more`: the answer was cut short, ask again."""

    round: int
    is_last: bool
    more: bool
    copies: tuple[RumorCopy, ...]


@dataclass(frozen=True, slots=True)
class Ids:
    """Rumors that the sender holds and did not send to the receiver, one range each."""

    ranges: tuple[StreamRange, ...]


@dataclass(frozen=True, slots=True)
class Ping:
    """Are you there? With what is to be told anyway, above all what is said against the receiver."""

    number: int
    opinions: tuple[Opinion, ...] = ()


@dataclass(frozen=True, slots=True)
class PingFor:
    """Please try to reach `subject` for me."""

    number: int
    subject: PeerId


@dataclass(frozen=True, slots=True)
class Ack:
    """Answers a Ping; or a PingFor, when `is_alive` says whether the subject was heard."""

    number: int
    is_alive: bool


@dataclass(frozen=True, slots=True)
class Opinions:
    """Who does not answer, and who was wrongly said not to."""

    opinions: tuple[Opinion, ...]


@dataclass(frozen=True, slots=True)
class Roll:
    """Whom the sender knows of the members whose ids begin with four bytes from `first` to `last`: those
    four bytes of each, one after the other. `answering`: it wants records, and no roll in return."""

    first: int
    last: int
    marks: bytes
    answering: bool = False

    def marks_each(self) -> list[int]:
        """The four bytes of each, as numbers."""
        starts = range(0, len(self.marks), MARK_BYTES)
        return [int.from_bytes(self.marks[at : at + MARK_BYTES], "big") for at in starts]


@dataclass(frozen=True, slots=True)
class Receipts:
    """Who has the traced message `message_id`: on their way to its origin. `number` is the sender's
    own, for `ReceiptsTaken`."""

    number: int
    message_id: MessageId
    receipts: tuple[Receipt, ...]


@dataclass(frozen=True, slots=True)
class ReceiptsTaken:
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

    wanted: bool


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
    | Private
    | Digest
    | InSync
    | Vector
    | Want
    | Repair
    | Ids
    | Ping
    | PingFor
    | Ack
    | Opinions
    | Roll
    | Receipts
    | ReceiptsTaken
    | Offer
    | Announce
    | Subscribe
    | Graft
    | Prune
    | Pause
)

# --- frames of one link -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Empty:
    """Says nothing; that it opens says that the sender has the session's keys."""


@dataclass(frozen=True, slots=True)
class Ask:
    """An Empty by which somebody short of links begins a session: if you have no room, make some."""


@dataclass(frozen=True, slots=True)
class Near:
    """An Empty by which somebody near begins a session: if that is nearer than a link of yours, let it
    go for me. I let `instead` go for you, who has room then for whoever you let go."""

    instead: Record


@dataclass(frozen=True, slots=True)
class Close:
    """The sender closes the link; `records` are whom to try instead, where it has no room."""

    reason: CloseReason
    records: tuple[Record, ...] = ()


@dataclass(frozen=True, slots=True)
class Short:
    """The first word of whoever began a session and wants no link: it will close when nothing is said."""


Frame: TypeAlias = Empty | Ask | Near | Close | Short


@dataclass(frozen=True, slots=True)
class Fragment:
    """`body` from `offset` on of a message of `total_bytes`, which one packet does not hold. `number`
    tells the messages of one link apart. `of_repair`: the message is a Repair."""

    number: int
    total_bytes: int
    offset: int
    body: bytes
    of_repair: bool = False


@dataclass(frozen=True, slots=True)
class Again:
    """The message that packet `counter` of the receiver's session `session_id` carried, and that
    seems lost. Whoever got it after all drops this one."""

    session_id: bytes
    counter: int
    plaintext: bytes


@dataclass(frozen=True, slots=True)
class Feedback:
    """What arrived of the packets that bear `session_id`: all numbers from `first` on and before
    `end` but the `missing` ranges. `latest` came `delay_us` before this went."""

    session_id: bytes
    first: int
    end: int
    latest: int
    delay_us: int
    missing: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Probe:
    """Nothing, at a length that the path may or may not bear."""

    padding: int


@dataclass(frozen=True, slots=True)
class PathCheck:
    """Say this back, if it finds you."""

    token: bytes


@dataclass(frozen=True, slots=True)
class PathAnswer:
    """It found me."""

    token: bytes


LinkFrame: TypeAlias = Fragment | Again | Feedback | Probe | PathCheck | PathAnswer
"""One for each of `LINK_KINDS`, but for the two sorts of fragments."""
