"""The part of an event that a trace hash covers: its values, without names and text.

Invariants:

- Renaming a class, a field or an enum member, or rewording text, does not change the hash of a run.
  Another value, order or kind of event does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    return _converter(value.__class__)(value)


def _position(value: Enum) -> int:
    return _positions(type(value))[value]


def _message(value: Message) -> tuple[Any, ...]:
    """Fields that a message gained later count only where they have a value; its age, which every copy has,
    does not count."""
    later = [
        each
        for name, each in zip(value._fields, value, strict=True)
        if name in LATER_MESSAGE_FIELDS
    ]
    return _items([*value[:FIRST_MESSAGE_FIELDS], *(later if any(later) else ())])


def _member(value: MemberInfo) -> tuple[Any, ...]:
    """Tags came later, and count only where there are any; the reason is text for people."""
    left_out = ("reason",) if value.tags else ("reason", "tags")
    return _items(
        [getattr(value, name) for name in _field_names(MemberInfo) if name not in left_out]
    )


def _peer(value: PeerInfo) -> tuple[Any, ...]:
    """Its path came later, and counts only where it is not direct; the addresses in its record never do."""
    return _items(value[: -1 if value.path in UNUSUAL_PATHS else -2])


def _pairs(value: Mapping[str, str]) -> tuple[Any, ...]:
    return tuple([(name.encode(), each.encode()) for name, each in sorted(value.items())])


def _items(values: Sequence[Any]) -> tuple[Any, ...]:
    return tuple([_plain(each) for each in values])


def _number(value: float) -> float:
    """A compiled core stores an int in a field for floats as a float."""
    return int(value) if value.is_integer() else value


def _object(value: Any) -> tuple[Any, ...]:
    return _items([getattr(value, name) for name in _field_names(value.__class__)])


_CONVERTERS: Final[tuple[tuple[type, Callable[[Any], Any]], ...]] = (
    (Enum, _position),
    (str, lambda _: None),  # a name, or text for people
    (Message, _message),
    (MemberInfo, _member),
    (PeerInfo, _peer),
    (Mapping, _pairs),
    (tuple, _items),
    (list, _items),
    (float, _number),
    (bytes, bytes),  # the repr of an ID contains its class name
)
"""The first whose type is a base of the value's."""


@cache
def _converter(cls: type) -> Callable[[Any], Any]:
    for base, convert in _CONVERTERS:
        if issubclass(cls, base):
            return convert
    return _object if _field_names(cls) else lambda value: value


@cache
def _field_names(cls: Any) -> tuple[str, ...]:
    return tuple(each.name for each in fields(cls)) if hasattr(cls, "__dataclass_fields__") else ()


@cache
def _positions(cls: type[Enum]) -> dict[Enum, int]:
    return {member: number for number, member in enumerate(cls)}
