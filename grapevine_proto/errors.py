"""Everything that can go wrong, drawn once.

    GrapevineError
    ├── ConfigError        a value that cannot work; nothing was started or changed
    │   └── StorageError   the disk is full, read-only or failing; it may be tried again as it is
    ├── KeyFileError       a key file that cannot be used; nothing was started or changed
    ├── BindError          the address is taken or not ours; nothing was started
    ├── StateLockedError   another node uses this state directory or this identity; this one stopped
    ├── MessageTooLarge    the payload was refused whole; nothing was sent, the node goes on
    ├── InvalidArgument    an argument of the wrong type (a TypeError too); nothing was done
    ├── NotRunning         the node has not started or has stopped; nothing was sent
    └── UnknownPeer        nobody by that id or address is linked here; nothing was sent

What must stay true: the receiving path raises none of these. What a datagram does wrong is told
by `Refused`, which never leaves the engine and carries one `DropReason`; the counters, the
operator's screen and the tests all use the same names.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any


class GrapevineError(Exception):
    """Base of all errors that this library raises on purpose.

    Every subclass can be pickled and copied, whatever its constructor takes, so that errors cross
    process pools and task queues as themselves.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (type(self), self.args, self.__dict__)


def _rebuilt(
    kind: type[GrapevineError], args: tuple[object, ...], attributes: dict[str, object]
) -> GrapevineError:
    """An error as it was, without calling its constructor, which may take other arguments."""
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(attributes)
    return error


class ConfigError(GrapevineError):
    """A setting that cannot work. `field` is its dotted name (``epidemic.fanout``)."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}" if field else problem)
        self.field = field
        self.problem = problem


class StorageError(ConfigError):
    """The disk does not take what must be kept: full, read-only, failing, or no descriptor is free. Nothing
    is wrong with the setting, and a later try may succeed (exit code 1, where a ConfigError is 2)."""


class KeyFileError(GrapevineError):
    """A key file is missing, unreadable, open to others or of the wrong length."""


class BindError(GrapevineError):
    """The UDP address cannot be bound."""


class StateLockedError(GrapevineError):
    """The state directory, or the identity in it, is in use by another running node."""


class MessageTooLarge(GrapevineError):
    """A payload is beyond what may be sent. Names both sizes, in bytes."""

    def __init__(self, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(
            f"the message has {size_bytes:,} bytes; at most {limit_bytes:,} can be sent"
        )
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes


class InvalidArgument(GrapevineError, TypeError):
    """An argument has the wrong type: nothing was sent or changed, and the node goes on."""


class NotRunning(GrapevineError):
    """The node has not been started, is leaving, or has stopped."""


class UnknownPeer(GrapevineError):
    """No linked peer has this id or address."""


class DropReason(StrEnum):
    """Why a datagram, or a message in it, was refused. Each refusal is counted under exactly one."""

    # before any key is used
    TOO_SHORT = "too_short"
    UNKNOWN_TYPE = "unknown_type"
    UNKNOWN_SESSION = "unknown_session"
    # handshake
    UNKNOWN_KEY = "unknown_key"  # no cluster key of ours made this MAC
    UNKNOWN_VERSION = "unknown_version"
    CHALLENGE_BUDGET = "challenge_budget"
    ADDRESS_BUDGET = "address_budget"
    STALE_COOKIE = "stale_cookie"
    REPLAYED_PROOF = "replayed_proof"
    BAD_PROOF = "bad_proof"
    BAD_RECORD = "bad_record"
    UNEXPECTED = "unexpected"  # an answer to nothing we asked
    WRONG_PEER = "wrong_peer"
    MYSELF = "myself"
    DENIED = "denied"
    MISCONDUCT = "misconduct"  # an identity that was disconnected for its offenses, for a while
    OLD_EPOCH = "old_epoch"
    TABLE_FULL = "table_full"
    # data
    REPLAY = "replay"
    NOT_OPENED = "not_opened"
    SPENT = "spent"  # a session past its age or packet limit
    UNKNOWN_KIND = "unknown_kind"
    RATE_LIMITED = "rate_limited"
    MALFORMED = "malformed"
    CONFLICT = (
        "conflict"  # fragments that cannot be of one message; a second content under one message id
    )
    TOO_LARGE = "too_large"  # a message beyond what this node takes
    # messages
    DUPLICATE = "duplicate"
    EXPIRED = "expired"
    NOT_ASKED = "not_asked"
    SIGNATURE_BUDGET = "signature_budget"
    BAD_SIGNATURE = "bad_signature"
    NO_ROOM = "no_room"
    # ours
    FAULT = "fault"  # an error of this program while it served a peer, whose link ended for it


class Offense(StrEnum):
    """What counts against the identity of a peer. `accounts.WEIGHTS` says how much each counts."""

    BAD_SIGNATURE = "bad_signature"
    PROTOCOL_VIOLATION = "protocol_violation"  # authenticated bytes that no honest node sends
    BROKEN_PROMISE = "broken_promise"  # offered or announced, asked for, and not given
    REPEATED_QUESTION = "repeated_question"  # the same body again, more often than loss explains
    IDLE_EXCHANGE = "idle_exchange"  # kept open to the end of its time and brought nothing
    EXCESS_WORK = "excess_work"  # cost more than its tokens pay for


class Refused(Exception):
    """Internal: what was received is not acceptable, and why. Nothing was changed by it."""

    def __init__(self, reason: DropReason) -> None:
        super().__init__(reason.value)
        self.reason = reason
