"""All that a machine may ask for.

What must stay true: a machine never does anything to the world. It returns effects, in the order
in which they should happen; the engine performs them. Whoever adds an effect adds one `case` there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, TypeAlias, TypeVar

from grapevine_proto.errors import DropReason, Offense
from grapevine_proto.events import Event, Message, PeerState
from grapevine_proto.ids import Address, PeerId
from grapevine_proto.wire.messages import CloseReason, OverlayMessage
from grapevine_proto.wire.signed import PeerRecord

MessageT_contra = TypeVar("MessageT_contra", contravariant=True)


@dataclass(frozen=True, slots=True)
class Send:
    """Say `message` to each of `peers`: made into bytes once, queued on every link."""

    peers: tuple[PeerId, ...]
    message: OverlayMessage


@dataclass(frozen=True, slots=True)
class Dial:
    """Knock at `address`; refuse whoever answers there but `expected`, if that is known. `wants_room`:
    whoever answers should make room for us, and we for it. `swap_for`: go on only if it answers within
    `max_rtt_s`, and offer it to let this link go for it."""

    address: Address
    expected: PeerId | None
    wants_room: bool = False
    swap_for: PeerRecord | None = None
    max_rtt_s: float = math.inf
    max_hellos: int | None = (
        None  # at most, until the first is answered; None: until the time is over
    )


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Close the link with `peer`, and tell it the reason, and whom to try instead; None: it is
    silent, there is nobody to tell."""

    peer: PeerId
    reason: CloseReason | None
    detail: str
    referrals: tuple[PeerRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class Emit:
    """Tell the application."""

    event: Event


@dataclass(frozen=True, slots=True)
class Deliver:
    """Give the application these messages, each for the first time."""

    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class PeerTransitioned:
    """`peer` changed its state: tell the application, with what there is to show of it."""

    peer: PeerId
    previous: PeerState | None
    reason: str


@dataclass(frozen=True, slots=True)
class UpdateRecord:
    """A linked peer's newer record came: keep to what it says now."""

    record: PeerRecord


@dataclass(frozen=True, slots=True)
class CountDrop:
    """What `peer` said was refused: count it, and charge what such a thing costs."""

    peer: PeerId
    reason: DropReason


@dataclass(frozen=True, slots=True)
class Penalize:
    """`peer` committed `offense` so many times: it counts against its identity, which is slowed, then
    disconnected. `count` may be a fraction."""

    peer: PeerId
    offense: Offense
    count: float = 1


@dataclass(frozen=True, slots=True)
class Credit:
    """`peer` kept `count` promises: it gave what it had offered or announced. Makes up for broken ones."""

    peer: PeerId
    count: int = 1


@dataclass(frozen=True, slots=True)
class BumpEpoch:
    """A record of our own identity above ours is about: begin anew in an epoch above `epoch`."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Shutdown:
    """This node must not go on; `words` say why."""

    reason: str


Effect: TypeAlias = (
    Send
    | Dial
    | Disconnect
    | Emit
    | Deliver
    | PeerTransitioned
    | UpdateRecord
    | CountDrop
    | Penalize
    | Credit
    | BumpEpoch
    | Shutdown
)


class StateMachine(Protocol[MessageT_contra]):
    """What owns messages and time. `now` is monotonic seconds, never less than before."""

    @property
    def deadline(self) -> float:
        """When to call `advance` next; math.inf: never."""
        ...

    def advance(self, now: float) -> list[Effect]:
        """Time passed."""
        ...

    def handle(self, message: MessageT_contra, sender: PeerId, now: float) -> list[Effect]:
        """`sender`, whose session proved it, said `message`."""
        ...
