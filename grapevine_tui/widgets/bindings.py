"""Textual's bindings out of the table of keys.

What must stay true: a binding's id is its action's name in the config file, so that a keymap made
from there finds it.
"""

from __future__ import annotations

from collections.abc import Iterable

from textual.binding import Binding, BindingType

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
