"""The part of an event that a trace hash covers: its values, without names and text.

Invariants:

- Renaming a class, a field or an enum member, or rewording text, does not change the hash of a run.
  Another value, order or kind of event does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from enum import Enum
from functools import cache
from typing import Any, Final, get_args

from grapevine_proto.events import Event, MemberInfo, Message, PathKind, PeerInfo

EVENT_NUMBERS: Final = {kind: number for number, kind in enumerate(get_args(Event))}

FIRST_MESSAGE_FIELDS: Final = 7  # fields of a message that every hash covers
LATER_MESSAGE_FIELDS: Final = ("topic",)
UNUSUAL_PATHS: Final = (PathKind.PUNCHED, PathKind.RELAYED)


def values_of(event: Event) -> tuple[Any, ...]:
    """Returns the number of the event's type and its values, in the order of declaration."""
    return EVENT_NUMBERS[type(event)], _plain(event)


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return _positions(type(value))[value]
    if isinstance(value, str):
        return None  # a name, or text for people
    if isinstance(value, Message):
        # Fields that a message gained later count only where they have a value; its age, which every copy
        # has, does not count.
        later = tuple(
            each
            for name, each in zip(value._fields, value, strict=True)
            if name in LATER_MESSAGE_FIELDS
        )
        value = value[:FIRST_MESSAGE_FIELDS] + (later if any(later) else ())
        return tuple([_plain(each) for each in value])
    if isinstance(value, MemberInfo):
        # Tags came later, and count only where there are any; the reason is text for people.
        left_out = ("reason",) if value.tags else ("reason", "tags")
        counting = [each for each in _field_names(MemberInfo) if each not in left_out]
        return tuple([_plain(getattr(value, name)) for name in counting])
    if isinstance(value, PeerInfo):
        # Its path came later, and counts only where it is not direct; the addresses in its record never do.
        return tuple([_plain(each) for each in value[: -1 if value.path in UNUSUAL_PATHS else -2]])
    if isinstance(value, Mapping):
        return tuple([(name.encode(), each.encode()) for name, each in sorted(value.items())])
    if isinstance(value, tuple | list):
        return tuple([_plain(each) for each in value])
    if isinstance(value, float) and value.is_integer():
        return int(value)  # a compiled core stores an int in a field for floats as a float
    if isinstance(value, bytes):
        return bytes(value)  # the repr of an ID contains its class name
    if names := _field_names(value.__class__):
        return tuple([_plain(getattr(value, name)) for name in names])
    return value


@cache
def _field_names(cls: Any) -> tuple[str, ...]:
    return tuple(each.name for each in fields(cls)) if hasattr(cls, "__dataclass_fields__") else ()


@cache
def _positions(cls: type[Enum]) -> dict[Enum, int]:
    return {member: number for number, member in enumerate(cls)}
