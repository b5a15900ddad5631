"""Effects: every action a state machine of the overlay may request from the engine.

Invariants:

- A state machine performs no I/O. It returns effects in the order in which the engine performs
  them.
- Every effect has exactly one `case` in the engine. As messages, effects are distinguished by type.
"""

from __future__ import annotations

import builtins  # mypyc looks up the type of a field by a name of the module
from typing import NamedTuple, Protocol, TypeAlias, TypeVar

from grapevine_proto.dial_purpose import DialPurpose
from grapevine_proto.errors import DropReason, Offense
from grapevine_proto.events import Event, Message, PeerState
from grapevine_proto.ids import Address, PeerId
from grapevine_proto.wire.messages import CloseReason, OverlayMessage
from grapevine_proto.wire.signed import PeerRecord

MessageT_contra = TypeVar("MessageT_contra", contravariant=True)


class Send(NamedTuple):
    """Send `message` to each of `peers`. The engine encodes it once and queues it on every link."""

    peers: tuple[PeerId, ...]
    message: OverlayMessage


class Dial(NamedTuple):
    """Dial `address`, and drop an answer from any peer but `expected`, if that is known. Send at most
    `max_hellos` Hellos before the first answer; None: until the dial times out."""

    address: Address
    expected: PeerId | None
    purpose: DialPurpose
    max_hellos: int | None = None


class Disconnect(NamedTuple):
    """Close the link with `peer` and send it the reason and peers to try instead. With `reason`
    None, close the link without a message, because the peer does not answer.
    """

    peer: PeerId
    reason: CloseReason | None
    detail: str
    referrals: tuple[PeerRecord, ...] = ()


class Emit(NamedTuple):
    """Give `event` to the application."""

    event: Event


class Deliver(NamedTuple):
    """Give `messages` to the application, each for the first time."""

    messages: tuple[Message, ...]


class PeerTransitioned(NamedTuple):
    """Report to the application that the state of `peer` changed from `previous`."""

    peer: PeerId
    previous: PeerState | None
    reason: str


class UpdateRecord(NamedTuple):
    """Apply a newer record of a linked peer to its link."""

    record: PeerRecord


class UpdateRtt(NamedTuple):
    """A heartbeat of `peer` measured a round-trip time of `sample_s` seconds: apply it to the link."""

    peer: PeerId
    sample_s: float


class CountDrop(NamedTuple):
    """Count a dropped message of `peer` and charge its cost to the peer."""

    peer: PeerId
    reason: DropReason


class Penalize(NamedTuple):
    """Record `times` offenses of `peer` against its identity; it is slowed, then disconnected.
    `times` may be fractional.
    """

    peer: PeerId
    offense: Offense
    times: float = 1


class Credit(NamedTuple):
    """Credit `peer` with `deliveries` of what it offered or announced; each makes up for a broken
    promise.
    """

    peer: PeerId
    deliveries: int = 1


class BumpEpoch(NamedTuple):
    """Start an epoch above `epoch`, because a record of our own identity with that epoch is in
    circulation.
    """

    epoch: int


class WriteEntry(NamedTuple):
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


class InternalError(NamedTuple):
    """A component met a bug: count it and report it."""

    error: builtins.Exception


class Shutdown(NamedTuple):
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
    | UpdateRtt
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
