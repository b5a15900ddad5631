"""Encoded messages that report what a peer acknowledges with them."""

from __future__ import annotations

from typing import TypeAlias

from grapevine_proto.ids import MessageId

TrackedKey: TypeAlias = tuple[int, int] | MessageId
"""A rumor of this node by epoch and first sequence, or a direct message of this node by its ID."""


class TrackedBytes(bytes):
    """An encoded message, or part of one, with messages of this node whose acknowledgment is tracked.

    The bytes are the same as without tracking.
    """

    tracked_keys: tuple[TrackedKey, ...] = ()
