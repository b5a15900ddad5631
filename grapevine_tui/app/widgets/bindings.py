"""Textual bindings from the key tables.

Invariants: a binding's ID is the name of its action in the config file, so that Textual's keymap
finds it.
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
    """A Textual binding for each key of `parts`."""
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
    """The label of `binding` at `node`, which may differ from the key table by state (`key_label`)."""
    get_label: Callable[[str], str] = getattr(node, "key_label", _no_label)
    return get_label(binding.action) or binding.description


def _no_label(_: str) -> str:
    return ""


NodeT = TypeVar("NodeT", bound=DOMNode)
OUR_PACKAGE = "grapevine_tui"
NOT_IN_PALETTE = frozenset({"commands", "back"})  # the palette itself, and what closes it


class AvailableAction(NamedTuple, Generic[NodeT]):
    """An action available at `node`, with all its keys. `name` is the binding's ID, or its action.
    `is_relabeled`: the node has a label of its own for what the action does now."""

    name: str
    node: NodeT
    label: str
    is_relabeled: bool
    bindings: list[Binding]


def available_actions(
    nodes: Sequence[NodeT], key_overrides: Mapping[str, str]
) -> list[AvailableAction[NodeT]]:
    """The actions available at `nodes` by our own bindings, with the keys of the config file.
    Where two nodes have an action of one name, the later node's wins."""
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
            label = label_of(node, each)
            actions_by_name[name] = AvailableAction(
                name, node, label, label != each.description, key_bindings
            )
    return list(actions_by_name.values())
