"""The exceptions of the library, drop reasons and offenses.

    GrapevineError
    ├── ConfigError        invalid setting; nothing was started or changed
    │   └── StorageError   the disk is full, read-only or failing; a later try may succeed
    ├── KeyFileError       unusable key file; nothing was started or changed
    ├── BindError          the address is in use or not on this machine; nothing was started
    ├── StateLockedError   another node uses this state directory or identity; this one stopped
    ├── MessageTooLarge    the payload was rejected as a whole; the node continues
    ├── InvalidArgument    an argument of the wrong type (also a TypeError); nothing was done
    ├── NotRunning         the node has not started or has stopped; nothing was sent
    ├── UnknownPeer        no peer or member has this ID or address; nothing was sent
    │   └── NoMatchingMember   no member matches the filter of a query
    ├── TooManyQueries     too many queries at a time; nothing was sent
    └── StateFull          no room for another entry of this node; nothing was set

Invariants:

- Receiving raises none of these. `Dropped` reports a bad datagram inside the engine and never leaves it.
- `Dropped` carries one `DropReason`; counters, screens and tests use the same names.
"""

from __future__ import annotations

import traceback
from enum import StrEnum
from typing import Any, Final


class GrapevineError(Exception):
    """Base class of all errors that the library raises deliberately.

    Every subclass can be pickled and copied, so errors cross process pools and task queues.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_error, (type(self), self.args, self.__dict__)


def _rebuild_error(
    error_type: type[GrapevineError], args: tuple[object, ...], attributes: dict[str, object]
) -> GrapevineError:
    """Rebuilds an error without calling its constructor, which may take other arguments."""
    error = error_type.__new__(error_type)
    error.args = args
    error.__dict__.update(attributes)
    return error


class ConfigError(GrapevineError):
    """A setting is invalid. `field` is its dotted name (``epidemic.fanout``), `problem` the reason."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}" if field else problem)
        self.field = field
        self.problem = problem


class StorageError(ConfigError):
    """The state cannot be stored: the disk is full, read-only or failing, or no descriptor is free.
    The setting is valid and a later try may succeed (exit code 1; 2 for other ConfigErrors)."""


class KeyFileError(GrapevineError):
    """A key file is missing, unreadable, accessible to other users or of the wrong length."""


class BindError(GrapevineError):
    """The UDP address cannot be bound."""


class StateLockedError(GrapevineError):
    """The state directory, or the identity in it, is in use by another running node."""


class MessageTooLarge(GrapevineError):
    """A payload exceeds `max_message_size`. Carries both sizes, in bytes."""

    def __init__(self, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(
            f"the message has {size_bytes:,} bytes; at most {limit_bytes:,} can be sent"
        )
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes


class InvalidArgument(GrapevineError, TypeError):
    """An argument has the wrong type. Nothing was sent or changed."""


class NotRunning(GrapevineError):
    """The node has not been started, is leaving, or has stopped."""


class UnknownPeer(GrapevineError):
    """No peer or known member has this ID or address."""


class NoMatchingMember(UnknownPeer):
    """No member that is up matches the filter of a query. Nothing was asked."""


class TooManyQueries(GrapevineError):
    """Too many queries of this node are open or were begun within a few seconds."""


class StateFull(GrapevineError):
    """This node has as many entries, or as many bytes in them, as one may have."""


class DropReason(StrEnum):
    """Why a datagram, or a message in it, was dropped. Each is counted under exactly one reason."""

    # before any key is used
    TOO_SHORT = "too_short"
    UNKNOWN_TYPE = "unknown_type"
    UNKNOWN_SESSION = "unknown_session"
    # handshake
    UNKNOWN_KEY = "unknown_key"  # the MAC matches none of our cluster keys
    UNKNOWN_VERSION = "unknown_version"
    CHALLENGE_BUDGET = "challenge_budget"
    ADDRESS_BUDGET = "address_budget"
    STALE_COOKIE = "stale_cookie"
    REPLAYED_PROOF = "replayed_proof"
    BAD_PROOF = "bad_proof"
    BAD_RECORD = "bad_record"
    UNEXPECTED = "unexpected"  # a reply without a request
    WRONG_PEER = "wrong_peer"
    SELF_DIAL = "self_dial"
    DENIED = "denied"
    MISCONDUCT = "misconduct"  # disconnected for misconduct, and not admitted yet
    STALE_EPOCH = "stale_epoch"
    TABLE_FULL = "table_full"
    # data
    REPLAY = "replay"
    DECRYPT_FAILED = "decrypt_failed"
    SESSION_EXPIRED = "session_expired"  # the session is past its age or packet limit
    UNKNOWN_KIND = "unknown_kind"
    RATE_LIMITED = "rate_limited"
    MALFORMED = "malformed"
    # fragments that contradict each other; two contents under one message ID
    CONTENT_CONFLICT = "content_conflict"
    TOO_LARGE = "too_large"  # beyond `max_message_size`
    # messages
    DUPLICATE = "duplicate"
    MESSAGE_EXPIRED = "message_expired"
    UNSOLICITED = "unsolicited"
    SIGNATURE_BUDGET = "signature_budget"
    BAD_SIGNATURE = "bad_signature"
    REASSEMBLY_FULL = "reassembly_full"
    SOCKET_OVERRUN = "socket_overrun"  # lost in the socket's receive buffer, before it was read
    # internal
    INTERNAL_ERROR = "internal_error"  # while serving a peer, whose link was closed


class Offense(StrEnum):
    """Kinds of misconduct. `transport.peer_limits.OFFENSE_WEIGHTS` has the score of each."""

    BAD_SIGNATURE = "bad_signature"
    PROTOCOL_VIOLATION = "protocol_violation"  # authenticated bytes that no honest node sends
    BROKEN_PROMISE = "broken_promise"  # offered or announced, requested, and not supplied
    REPEATED_REQUEST = "repeated_request"  # the same body more often than loss explains
    STALLED_ROUND = "stalled_round"  # kept open until it timed out, without result
    EXCESS_WORK = "excess_work"  # more work than its tokens cover


class Dropped(Exception):
    """Internal: received data was rejected for `reason`. It changed nothing."""

    def __init__(self, reason: DropReason) -> None:
        super().__init__(reason.value)
        self.reason = reason


# --- unexpected errors ---------------------------------------------------------------------------

MAX_FRAMES: Final = 4  # innermost: locates the line and fits a screen
MAX_MESSAGE_CHARS: Final = 400  # an error may quote data from a peer


def format_error(error: BaseException) -> str:
    """Returns the type, message and location of `error`, innermost frame first, in one line."""
    frames = traceback.extract_tb(error.__traceback__)[-MAX_FRAMES:]
    location = " < ".join(
        f"{frame.name} ({frame.filename.rpartition('/')[2]}:{frame.lineno})"
        for frame in reversed(frames)
    )
    message = " ".join(str(error).split())[:MAX_MESSAGE_CHARS]
    return (
        f"{type(error).__name__}: {message} in {location}"
        if location
        else f"{type(error).__name__}: {message}"
    )
