"""Effects: every action a state machine of the overlay may request from the engine.

Invariants:

- A state machine performs no I/O. It returns effects in the order in which the engine performs
  them.
- Every effect has exactly one `case` in the engine.
"""

from __future__ import annotations

import builtins  # mypyc looks up the type of a field by a name of the module
from dataclasses import dataclass
from typing import Protocol, TypeAlias, TypeVar

from grapevine_proto.dial_purpose import DialPurpose
from grapevine_proto.errors import DropReason, Offense
from grapevine_proto.events import Event, Message, PeerState
from grapevine_proto.ids import Address, PeerId
from grapevine_proto.wire.messages import CloseReason, OverlayMessage
from grapevine_proto.wire.signed import PeerRecord

MessageT_contra = TypeVar("MessageT_contra", contravariant=True)


@dataclass(frozen=True, slots=True)
class Send:
    """Send `message` to each of `peers`. The engine encodes it once and queues it on every link."""

    peers: tuple[PeerId, ...]
    message: OverlayMessage


@dataclass(frozen=True, slots=True)
class Dial:
    """Dial `address`, and drop an answer from any peer but `expected`, if that is known. Send at most
    `max_hellos` Hellos before the first answer; None: until the dial times out."""

    address: Address
    expected: PeerId | None
    purpose: DialPurpose
    max_hellos: int | None = None


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Close the link with `peer` and send it the reason and peers to try instead. With `reason`
    None, close the link without a message, because the peer does not answer.
    """

    peer: PeerId
    reason: CloseReason | None
    detail: str
    referrals: tuple[PeerRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class Emit:
    """Give `event` to the application."""

    event: Event


@dataclass(frozen=True, slots=True)
class Deliver:
    """Give `messages` to the application, each for the first time."""

    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class PeerTransitioned:
    """Report to the application that the state of `peer` changed from `previous`."""

    peer: PeerId
    previous: PeerState | None
    reason: str


@dataclass(frozen=True, slots=True)
class UpdateRecord:
    """Apply a newer record of a linked peer to its link."""

    record: PeerRecord


@dataclass(frozen=True, slots=True)
class CountDrop:
    """Count a dropped message of `peer` and charge its cost to the peer."""

    peer: PeerId
    reason: DropReason


@dataclass(frozen=True, slots=True)
class Penalize:
    """Record `count` offenses of `peer` against its identity; it is slowed, then disconnected.
    `count` may be fractional.
    """

    peer: PeerId
    offense: Offense
    count: float = 1


@dataclass(frozen=True, slots=True)
class Credit:
    """Credit `peer` with `count` deliveries of what it offered or announced; each makes up for a
    broken promise.
    """

    peer: PeerId
    count: int = 1


@dataclass(frozen=True, slots=True)
class BumpEpoch:
    """Start an epoch above `epoch`, because a record of our own identity with that epoch is in
    circulation.
    """

    epoch: int


@dataclass(frozen=True, slots=True)
class WriteEntry:
    """Set or delete (`value` is None) an entry of this node under `key`, as a rumor of its own.

    `ttl_s`: seconds after which it ends; 0: never. `topic`: it is a retained message as well. `clock` is None
    except for an entry that is taken over from another member.
    """

    key: str
    value: bytes | None
    ttl_s: int = 0
    is_durable: bool = False
    topic: str = ""
    clock: int | None = None


@dataclass(frozen=True, slots=True)
class InternalError:
    """A component met a bug: count it and report it."""

    error: builtins.Exception


@dataclass(frozen=True, slots=True)
class Shutdown:
    """Stop this node; `reason` explains why."""

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
    | WriteEntry
    | InternalError
    | Shutdown
)


class StateMachine(Protocol[MessageT_contra]):
    """A component that handles messages and has deadlines. `now` is monotonic seconds and never
    decreases.
    """

    @property
    def deadline(self) -> float:
        """When to call `advance` next, in monotonic seconds; math.inf for never."""
        ...

    def advance(self, now: float) -> list[Effect]:
        """Do what is due at `now`."""
        ...

    def handle(self, message: MessageT_contra, sender: PeerId, now: float) -> list[Effect]:
        """Handle a message of `sender`, which its session authenticated."""
        ...
