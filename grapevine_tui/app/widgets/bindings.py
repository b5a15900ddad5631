"""Textual's bindings out of the table of keys.

What must stay true: a binding's id is its action's name in the config file, so that a keymap made
from there finds it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Generic, NamedTuple, TypeVar

from textual.binding import Binding, BindingType
from textual.dom import DOMNode

from grapevine_tui.config.keymap import KeyBinding

DISPLAYS = {"question_mark": "?", "colon": ":", "slash": "/"}


def bindings(*parts: Iterable[KeyBinding]) -> list[BindingType]:
    """A binding for each key of `parts`."""
    return [
        Binding(
            each.keys,
            each.action,
            each.description,
            show=each.in_footer,
            key_display=DISPLAYS.get(each.keys),
            id=each.name,
        )
        for part in parts
        for each in part
    ]


def label_of(node: DOMNode, binding: Binding) -> str:
    """What a key at `node` does now: a node may have other words for it than the table of keys."""
    get_label: Callable[[str], str] = getattr(node, "key_label", _no_label)
    return get_label(binding.action) or binding.description


def _no_label(_: str) -> str:
    return ""


NodeT = TypeVar("NodeT", bound=DOMNode)
OUR_PACKAGE = "grapevine_tui"
NOT_IN_PALETTE = frozenset(
    {"commands", "back"}
)  # by the palette, which is the one and closes by the other


class AvailableAction(NamedTuple, Generic[NodeT]):
    """Something that can be done at `node`, with all its keys."""

    node: NodeT
    label: str
    bindings: list[Binding]


def available_actions(
    nodes: Sequence[NodeT], key_overrides: Mapping[str, str]
) -> list[AvailableAction[NodeT]]:
    """What can be done at `nodes`, by our own bindings with the keys of the config file in them."""
    actions_by_name: dict[str, AvailableAction[NodeT]] = {}
    for node in nodes:
        our_classes = [
            each for each in type(node).__mro__ if each.__module__.startswith(OUR_PACKAGE)
        ]
        declared = [
            each
            for our_class in reversed(our_classes)
            for each in vars(our_class).get("BINDINGS", ())
        ]
        for each in declared:
            name = each.id or each.action
            if not each.description or name in NOT_IN_PALETTE:
                continue
            keys = key_overrides.get(name, each.key)
            key_bindings = list(Binding.make_bindings([replace(each, key=keys)]))
            actions_by_name[name] = AvailableAction(node, label_of(node, each), key_bindings)
    return list(actions_by_name.values())
