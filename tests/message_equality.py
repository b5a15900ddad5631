"""Has Python tell tuples of two types apart: importing this module is enough.

Tuples of two types are equal if their fields are. The core never compares them, but tests do, and keep them
as keys: a Graft must not pass for a Prune.
"""

from __future__ import annotations

from typing import Any, get_args

from grapevine_proto.overlay.effects import Effect
from grapevine_proto.transport.events import TransportEvent
from grapevine_proto.wire.messages import Frame, LinkFrame, OverlayMessage


def _is_same(one: tuple[Any, ...], other: object) -> bool:
    return type(one) is type(other) and tuple.__eq__(one, other)


for _type in get_args(OverlayMessage | Frame | LinkFrame | Effect | TransportEvent):
    _type.__eq__ = _is_same
    _type.__ne__ = lambda one, other: not _is_same(one, other)
