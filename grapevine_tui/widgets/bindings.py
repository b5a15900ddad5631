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

from grapevine_tui.keys import Key

DISPLAYS = {"question_mark": "?", "colon": ":", "slash": "/"}


def bindings(*parts: Iterable[Key]) -> list[BindingType]:
    """A binding for each key of `parts`."""
    return [
        Binding(
            each.keys,
            each.action,
            each.words,
            show=each.shown,
            key_display=DISPLAYS.get(each.keys),
            id=each.name,
        )
        for part in parts
        for each in part
    ]


def words_of(node: DOMNode, binding: Binding) -> str:
    """What a key at `node` does now: a node may have other words for it than the table of keys."""
    named: Callable[[str], str] = getattr(node, "key_words", _no_words)
    return named(binding.action) or binding.description


def _no_words(_: str) -> str:
    return ""


NodeT = TypeVar("NodeT", bound=DOMNode)
OURS = "grapevine_tui"
UNOFFERED = frozenset(
    {"commands", "back"}
)  # by the palette, which is the one and closes by the other


class Offer(NamedTuple, Generic[NodeT]):
    """Something that can be done at `node`, with all its keys."""

    node: NodeT
    words: str
    bindings: list[Binding]


def offers(nodes: Sequence[NodeT], chosen: Mapping[str, str]) -> list[Offer[NodeT]]:
    """What can be done at `nodes`, by our own bindings with the keys of the config file in them."""
    found: dict[str, Offer[NodeT]] = {}
    for node in nodes:
        ours = [each for each in type(node).__mro__ if each.__module__.startswith(OURS)]
        declared = [each for kind in reversed(ours) for each in vars(kind).get("BINDINGS", ())]
        for each in declared:
            name = each.id or each.action
            if not each.description or name in UNOFFERED:
                continue
            keys = chosen.get(name, each.key)
            spelled = list(Binding.make_bindings([replace(each, key=keys)]))
            found[name] = Offer(node, words_of(node, each), spelled)
    return list(found.values())
