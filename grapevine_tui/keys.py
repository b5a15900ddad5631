"""Every key of the app outside the compose box: what it does, where, and what a config file may change.

What must stay true:

- This table is the only list of keys: the bindings, the key line, help and palette are made from it.
- No two actions that can be meant at the same time share a key; a config file that would make them
  do so is refused, in words that name both.
- Importing this imports no Textual, so that `config check` can use it.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from grapevine_proto.errors import ConfigError

SECTION: Final = "app.keys"


class Key(NamedTuple):
    """One action: `name` is what a config file calls it, `keys` are separated by commas, `action` is
    Textual's; `shown` puts it on the key line."""

    name: str
    keys: str
    action: str
    words: str
    shown: bool = False


EVERYWHERE: Final = (
    Key("help", "question_mark", "help", "Help", shown=True),
    Key("commands", "colon", "command_palette", "Commands", shown=True),
    Key("members", "m", "members", "Members"),
    Key("status", "S", "status", "Status and counters"),
    Key("trace", "t", "trace", "Traces: who has a message, how soon"),
    Key("traffic", "T", "traffic", "Traffic over time"),
    Key("settings", "C", "settings", "Settings"),
    Key("picture", "p", "picture", "Save a picture (SVG)"),
    Key("undo", "u", "undo", "Undo"),
    Key("quit", "q", "quit", "Quit", shown=True),
)
PANELS: Final = (
    Key("next_panel", "tab", "next_panel(1)", "Next panel"),
    Key("previous_panel", "shift+tab", "next_panel(-1)", "Panel before"),
    Key("peers", "1", "panel('peers')", "Peers"),
    Key("messages", "2", "panel('log')", "Messages"),
    Key("rates", "3", "panel('rates')", "Rate limits"),
    Key("rounds", "4", "panel('rounds')", "Anti-entropy"),
    Key("filter", "slash", "filter", "Filter", shown=True),
    Key("write", "i", "write", "Write", shown=True),
    Key("zoom", "z", "zoom", "Zoom", shown=True),
    Key("pause", "space", "pause", "Pause", shown=True),
    Key("connect", "c", "connect", "Connect", shown=True),
    Key("round", "A", "round", "Round now"),
    Key("back", "escape", "back", "Clear the filter, then all panels"),
)
TABLES: Final = (
    Key("details", "enter", "choose", "Details", shown=True),
    Key("sort", "s", "sort", "Sort", shown=True),
    Key("reverse", "r", "reverse", "Sort the other way"),
    Key("down", "down,j", "move(1)", "Down"),
    Key("up", "up,k", "move(-1)", "Up"),
    Key("page_down", "pagedown", "page(1)", "Page down"),
    Key("page_up", "pageup", "page(-1)", "Page up"),
    Key("first", "home,g", "first", "First"),
    Key("last", "end,G", "last", "Last"),
)
PEERS: Final = (
    Key("send_to", "w", "ask('send')", "Write to it", shown=True),
    Key("dial_again", "d", "ask('dial')", "Dial it again", shown=True),
    Key("deny", "D", "ask('deny')", "Deny it", shown=True),
    Key("forget", "F", "ask('forget')", "Forget it", shown=True),
    Key("copy", "y", "ask('copy')", "Copy", shown=True),
    Key("copy_id", "Y", "ask('copy_id')", "Copy its id"),
)
RATES: Final = (Key("authors", "a", "authors", "By author", shown=True),)
MESSAGES: Final = (
    Key("copy_id", "Y", "ask('copy_id')", "Copy the id"),
    Key("export", "e", "export", "Write what is shown to a file"),
    Key("details", "enter", "choose", "Details", shown=True),
    Key("copy", "y", "ask('copy')", "Copy", shown=True),
    Key("down", "down,j", "move(1)", "Down"),
    Key("up", "up,k", "move(-1)", "Up"),
    Key("page_down", "pagedown", "page(1)", "Page down"),
    Key("page_up", "pageup", "page(-1)", "Page up"),
    Key("first", "home,g", "first", "First"),
    Key("last", "end,G", "follow", "Follow the end"),
)
# On every screen in front of the main one the key named `quit` goes back, too.
FRONT: Final = (
    Key("back", "escape", "back", "Back", shown=True),
    Key("filter", "slash", "filter", "Filter", shown=True),
)
SETTINGS: Final = (
    Key("save", "ctrl+s", "save", "Apply and save", shown=True),
    *FRONT,
)
SPAN: Final = (
    Key("longer", "left", "span(1)", "Longer span", shown=True),
    Key("shorter", "right", "span(-1)", "Shorter span", shown=True),
)
AGAIN: Final = (Key("new_trace", "n", "new_trace", "New trace", shown=True),)
TRACES: Final = (
    Key("older", "left", "older(1)", "Older", shown=True),
    Key("newer", "right", "older(-1)", "Newer", shown=True),
)
# Sets of keys that are live together: what has the focus, over its screen, over the app.
TOGETHER: Final = (
    (EVERYWHERE, PANELS, TABLES, PEERS, RATES),
    (EVERYWHERE, PANELS, MESSAGES),
    (EVERYWHERE, FRONT, TABLES, PEERS),
    (EVERYWHERE, SETTINGS, TABLES),
    (EVERYWHERE, FRONT, TRACES, AGAIN),
    (EVERYWHERE, FRONT, SPAN),
)
NAMES: Final = tuple(
    dict.fromkeys(key.name for group in TOGETHER for part in group for key in part)
)
DEFAULT_KEYS: Final = {key.name: key.keys for group in TOGETHER for part in group for key in part}

_NAMED: Final = frozenset(
    ("enter", "escape", "tab", "space", "backspace", "delete", "insert", "home", "end",
     "pageup", "pagedown", "up", "down", "left", "right",
     *(f"f{number}" for number in range(1, 25)))
)  # fmt: skip
# How Textual calls these instead of by their Unicode names.
_RENAMED: Final = {
    "solidus": "slash",
    "reverse_solidus": "backslash",
    "commercial_at": "at",
    "hyphen_minus": "minus",
    "plus_sign": "plus",
    "low_line": "underscore",
}
_MODIFIERS: Final = ("ctrl", "alt", "shift")


def _spelled(character: str) -> str:
    """A single character as a key's name: ``?`` is ``question_mark``."""
    if character.isalnum():
        return character
    if character == " ":
        return "space"
    name = unicodedata.name(character, "").lower().replace("-", "_").replace(" ", "_")
    return _RENAMED.get(name, name)


_PUNCTUATION: Final = frozenset(
    _spelled(chr(code)) for code in range(0x21, 0x7F) if not chr(code).isalnum()
)


def _read_key(text: str, name: str) -> str:
    """The key that `text` means, in its long spelling. Raises ConfigError."""
    *modifiers, last = text.split("+") if len(text) > 1 else [text]
    is_known = last in _NAMED or last in _PUNCTUATION
    if len(last) == 1 and last.isprintable():
        last, is_known = _spelled(last), True
    if not is_known or not last or any(each not in _MODIFIERS for each in modifiers):
        close = difflib.get_close_matches(last, sorted(_NAMED | _PUNCTUATION), n=1)
        nearest = f"; did you mean {close[0]}?" if close else ""
        raise ConfigError(name, f"there is no key {text!r}{nearest}")
    return "+".join([*modifiers, last])


def read_keys(given: Any) -> dict[str, str]:
    """What stands under [app.keys], checked: name of an action -> its keys, in long spelling.
    Raises ConfigError for an unknown action, an unknown key, and a key that would mean two things."""
    if not isinstance(given, Mapping):
        raise ConfigError(SECTION, f"expected a section, [{SECTION}], not a value")
    chosen: dict[str, str] = {}
    for name, value in given.items():
        where = f"{SECTION}.{name}"
        if name not in NAMES:
            close = difflib.get_close_matches(name, NAMES, n=1)
            nearest = f"; did you mean {close[0]}?" if close else f"; there are: {', '.join(NAMES)}"
            raise ConfigError(where, f"there is no such action{nearest}")
        if not isinstance(value, str) or not value.strip():
            raise ConfigError(where, f"expected keys separated by commas, not {value!r}")
        parts = [","] if value.strip() == "," else [each.strip() for each in value.split(",")]
        chosen[name] = ",".join(_read_key(each, where) for each in parts)
    _check_clashes(chosen)
    return chosen


def _check_clashes(chosen: Mapping[str, str]) -> None:
    for group in TOGETHER:
        owners: dict[str, str] = {}
        for each in (key for part in group for key in part):
            for key in chosen.get(each.name, each.keys).split(","):
                owner = owners.setdefault(key, each.name)
                if owner != each.name:
                    blamed = each.name if each.name in chosen else owner
                    other = owner if blamed == each.name else each.name
                    raise ConfigError(
                        f"{SECTION}.{blamed}", f"{key!r} is the key of {other} already"
                    )


def with_keys(part: tuple[Key, ...], chosen: Mapping[str, str]) -> tuple[Key, ...]:
    """`part` as a config file has it."""
    return tuple(each._replace(keys=chosen.get(each.name, each.keys)) for each in part)
