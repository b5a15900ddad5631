"""The key bindings of the app outside the compose box, and their overrides in a config file.

Invariants:

- These tables are the only list of keys. Bindings, key footer, help and palette are derived from them.
- A key that runs a command has the command's name or alias (`grapevine_tui.control.commands`); every
  other key is in `VIEW_KEYS`.
- A key that begins what is sent to others is no letter and no digit: a name typed on the wrong screen must
  not become a message. Only `write`, which shows where the line goes, is a letter.
- No two actions that are active at the same time share a key. A config file that would make them do
  so is rejected, and the error names both.
- Importing this module imports no Textual, so that `config check` can use it.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from grapevine_proto.errors import ConfigError
from grapevine_tui.config.named_entries import check_section

SECTION: Final = "app.keys"


class KeyBinding(NamedTuple):
    """One action: `name` is its name in a config file, `keys` are separated by commas, `action` is
    Textual's. `in_footer` shows it in the key footer first."""

    name: str
    keys: str
    action: str
    description: str
    in_footer: bool = False


GLOBAL_KEYS: Final = (
    KeyBinding("help", "question_mark", "help", "Help", in_footer=True),
    KeyBinding("commands", "colon", "command_palette", "Commands", in_footer=True),
    KeyBinding("members", "m", "members", "Members"),
    KeyBinding("events", "E", "events", "Events"),
    KeyBinding("history", "H", "history", "History"),
    KeyBinding("alerts", "exclamation_mark", "alerts", "Alerts"),
    KeyBinding("status", "S", "status", "Status and counters"),
    KeyBinding("traces", "t", "traces", "Traces"),
    KeyBinding("topology", "O", "topology", "Topology: zones and links"),
    KeyBinding("matrix", "X", "matrix", "Latency matrix"),
    KeyBinding("state", "K", "state", "Keyed state"),
    KeyBinding("traffic", "T", "traffic", "Traffic over time"),
    KeyBinding("settings", "C", "settings", "Settings"),
    KeyBinding("screenshot", "p", "save_screenshot", "Save a screenshot (SVG)"),
    KeyBinding("undo", "u", "undo", "Undo"),
    KeyBinding("quit", "q", "quit", "Quit", in_footer=True),
)
FIND_KEYS: Final = (
    KeyBinding("find", "ctrl+f", "find", "Find", in_footer=True),
    KeyBinding("next_match", "n", "next_match(1)", "Next match"),
    KeyBinding("previous_match", "b", "next_match(-1)", "Previous match"),
)
PANEL_KEYS: Final = (
    KeyBinding("next_panel", "tab", "next_panel(1)", "Next panel"),
    KeyBinding("previous_panel", "shift+tab", "next_panel(-1)", "Previous panel"),
    KeyBinding("peers", "1", "panel('peers')", "Peers"),
    KeyBinding("messages", "2", "panel('log')", "Messages"),
    KeyBinding("rates", "3", "panel('rates')", "Rate limits"),
    KeyBinding("rounds", "4", "panel('rounds')", "Anti-entropy"),
    KeyBinding("filter", "slash", "filter", "Filter", in_footer=True),
    KeyBinding("next_tab", "full_stop", "next_tab(1)", "Next saved filter"),
    KeyBinding("previous_tab", "comma", "next_tab(-1)", "Previous saved filter"),
    KeyBinding("write", "i", "write", "Write", in_footer=True),
    KeyBinding("zoom", "z", "zoom", "Zoom", in_footer=True),
    KeyBinding("layout", "V", "next_layout", "Next layout"),
    KeyBinding("pause", "space", "pause", "Pause", in_footer=True),
    KeyBinding("dial", "c", "dial", "Connect", in_footer=True),
    KeyBinding("round", "A", "round", "Start a round now"),
    KeyBinding("back", "escape", "back", "Clear the filter, then leave zoom"),
)
TABLE_KEYS: Final = (
    KeyBinding("details", "enter", "select", "Details", in_footer=True),
    KeyBinding("sort", "s", "sort", "Sort", in_footer=True),
    KeyBinding("reverse", "r", "reverse", "Reverse order"),
    KeyBinding("sort_name", "N", "sort_by('name')", "Sort by name"),
    KeyBinding("sort_rtt", "R", "sort_by('rtt')", "Slowest first"),
    KeyBinding("sort_load", "L", "sort_by('load')", "Busiest first"),
    KeyBinding("sort_zone", "Z", "sort_by('zone')", "Sort by zone"),
    KeyBinding("down", "down,j", "move(1)", "Down"),
    KeyBinding("up", "up,k", "move(-1)", "Up"),
    KeyBinding("page_down", "pagedown", "page(1)", "Page down"),
    KeyBinding("page_up", "pageup", "page(-1)", "Page up"),
    KeyBinding("first", "home,g", "first", "First"),
    KeyBinding("last", "end,G", "last", "Last"),
)
PEER_KEYS: Final = (
    KeyBinding("send", "greater_than_sign", "request('send')", "Message", in_footer=True),
    KeyBinding("redial", "d", "request('redial')", "Reconnect", in_footer=True),
    KeyBinding("deny", "D", "request('deny')", "Deny", in_footer=True),
    KeyBinding("forget", "F", "request('forget')", "Forget", in_footer=True),
    KeyBinding("follow", "f", "request('follow')", "Its messages", in_footer=True),
    KeyBinding("copy", "y", "request('copy')", "Copy", in_footer=True),
    KeyBinding("copy_id", "Y", "request('copy_id')", "Copy ID"),
)
RATE_KEYS: Final = (KeyBinding("authors", "a", "authors", "By author", in_footer=True),)
MESSAGE_KEYS: Final = (
    *FIND_KEYS,
    KeyBinding("follow", "f", "request('follow')", "This author only", in_footer=True),
    KeyBinding("has", "h", "request('has')", "Who has it", in_footer=True),
    KeyBinding("copy_id", "Y", "request('copy_id')", "Copy ID"),
    KeyBinding("export", "e", "export", "Export shown messages"),
    KeyBinding("details", "enter", "select", "Details", in_footer=True),
    KeyBinding("copy", "y", "request('copy')", "Copy", in_footer=True),
    KeyBinding("down", "down,j", "move(1)", "Down"),
    KeyBinding("up", "up,k", "move(-1)", "Up"),
    KeyBinding("page_down", "pagedown", "page(1)", "Page down"),
    KeyBinding("page_up", "pageup", "page(-1)", "Page up"),
    KeyBinding("first", "home,g", "first", "First"),
    KeyBinding("last", "end,G", "follow", "Latest"),
)
# On every screen in front of the main one, the key named `quit` goes back as well.
FRONT_SCREEN_KEYS: Final = (
    KeyBinding("back", "escape", "back", "Back", in_footer=True),
    KeyBinding("filter", "slash", "filter", "Filter", in_footer=True),
)
PAST_KEYS: Final = (
    *FRONT_SCREEN_KEYS,
    *FIND_KEYS,
    KeyBinding("go_to_time", "at", "go_to_time", "Go to a time", in_footer=True),
    KeyBinding("day_back", "left", "travel(-86400)", "A day earlier", in_footer=True),
    KeyBinding("day_on", "right", "travel(86400)", "A day later"),
    KeyBinding("hour_back", "left_curly_bracket", "travel(-3600)", "An hour earlier"),
    KeyBinding("hour_on", "right_curly_bracket", "travel(3600)", "An hour later"),
    KeyBinding("minute_back", "left_square_bracket", "travel(-60)", "A minute earlier"),
    KeyBinding("minute_on", "right_square_bracket", "travel(60)", "A minute later"),
)
NETWORK_KEYS: Final = (KeyBinding("ask_again", "U", "ask_again", "Ask again", in_footer=True),)
TREE_KEYS: Final = (KeyBinding("tree", "o", "tree", "Tree of the trace", in_footer=True),)
PROBLEM_KEYS: Final = (KeyBinding("problems", "w", "problems", "Problems only", in_footer=True),)
ALERT_KEYS: Final = (KeyBinding("mute", "M", "mute", "Mute", in_footer=True),)
EVENT_KEYS: Final = (*PAST_KEYS, *PROBLEM_KEYS)
SETTINGS_KEYS: Final = (
    KeyBinding("save", "ctrl+s", "save", "Apply and save", in_footer=True),
    *FRONT_SCREEN_KEYS,
)
TIME_RANGE_KEYS: Final = (
    KeyBinding("longer", "left", "time_range(1)", "Longer range", in_footer=True),
    KeyBinding("shorter", "right", "time_range(-1)", "Shorter range", in_footer=True),
)
NEW_TRACE_KEYS: Final = (KeyBinding("trace", "plus", "trace", "New trace", in_footer=True),)
NEW_QUERY_KEYS: Final = (KeyBinding("query", "plus", "query", "New query", in_footer=True),)
TRACE_KEYS: Final = (
    KeyBinding("older", "left", "older(1)", "Older", in_footer=True),
    KeyBinding("newer", "right", "older(-1)", "Newer", in_footer=True),
)
# Only where a recording is shown.
REPLAY_KEYS: Final = (
    KeyBinding("back_10_s", "left_square_bracket", "replay(-10)", "10 s back", in_footer=True),
    KeyBinding("on_10_s", "right_square_bracket", "replay(10)", "10 s on", in_footer=True),
    KeyBinding("back_60_s", "left_curly_bracket", "replay(-60)", "1 min back"),
    KeyBinding("on_60_s", "right_curly_bracket", "replay(60)", "1 min on"),
    KeyBinding("go_to", "at", "go_to_time_of_recording", "Go to a time", in_footer=True),
)
FLEET_KEYS: Final = (
    KeyBinding("compare", "equals_sign", "compare", "Compare members", in_footer=True),
    KeyBinding("mute_context", "M", "mute_context", "Mute here", in_footer=True),
)
# Where the tables are those of all contexts.
FLEET_APP_KEYS: Final = tuple(
    each for each in GLOBAL_KEYS if each.name in ("help", "commands", "screenshot", "quit")
)
FLEET_TABLE_KEYS: Final = (
    KeyBinding("members", "m", "fleet('members')", "Members", in_footer=True),
    KeyBinding("messages", "2", "fleet('messages')", "Messages", in_footer=True),
    KeyBinding("alerts", "exclamation_mark", "fleet('alerts')", "Alerts", in_footer=True),
)
# Where several contexts are looked after.
CONTEXT_KEYS: Final = (
    KeyBinding("fleet", "alt+0", "fleet('contexts')", "All contexts"),
    *(
        KeyBinding(name, f"alt+{number}", f"context({number})", f"Context {number}")
        for number, name in enumerate(
            ("context_1", "context_2", "context_3", "context_4", "context_5",
             "context_6", "context_7", "context_8", "context_9"), 1
        )
    ),
)  # fmt: skip
CONTEXT_NUMBER_KEYS: Final = CONTEXT_KEYS[1:]
# Sets of keys that are active together: those of the focused widget, its screen and the app.
SIMULTANEOUS_KEYS: Final = (
    (GLOBAL_KEYS, PANEL_KEYS, TABLE_KEYS, PEER_KEYS, RATE_KEYS, REPLAY_KEYS, CONTEXT_KEYS),
    (GLOBAL_KEYS, PANEL_KEYS, MESSAGE_KEYS, REPLAY_KEYS, CONTEXT_KEYS),
    (GLOBAL_KEYS, FRONT_SCREEN_KEYS, TABLE_KEYS, PEER_KEYS),
    (FLEET_APP_KEYS, FRONT_SCREEN_KEYS, TABLE_KEYS, FLEET_KEYS, FLEET_TABLE_KEYS, CONTEXT_KEYS),
    (GLOBAL_KEYS, SETTINGS_KEYS, TABLE_KEYS),
    (GLOBAL_KEYS, FRONT_SCREEN_KEYS, TRACE_KEYS, NEW_TRACE_KEYS),
    (GLOBAL_KEYS, FRONT_SCREEN_KEYS, TRACE_KEYS, NEW_QUERY_KEYS),
    (GLOBAL_KEYS, FRONT_SCREEN_KEYS, TIME_RANGE_KEYS),
    (GLOBAL_KEYS, FRONT_SCREEN_KEYS, NETWORK_KEYS, TREE_KEYS),
    (GLOBAL_KEYS, PAST_KEYS, PROBLEM_KEYS, TABLE_KEYS),
    (GLOBAL_KEYS, FRONT_SCREEN_KEYS, ALERT_KEYS, TABLE_KEYS),
)
# Keys that only move within what is shown, or open the palette: no command, nothing to script.
VIEW_KEYS: Final = frozenset(
    ("commands", "next_tab", "previous_tab", "next_match", "previous_match",
     "next_panel", "previous_panel", "back", "write", "details", "down", "up",
     "page_down", "page_up", "first", "last", "authors", "save", "longer",
     "back_10_s", "on_10_s", "back_60_s", "on_60_s",
     "sort_name", "sort_rtt", "sort_load", "sort_zone", "shorter", "older", "newer",
     "go_to_time", "day_back", "day_on", "hour_back", "hour_on", "minute_back", "minute_on", "problems",
     "ask_again", "tree", "compare", *(key.name for key in CONTEXT_NUMBER_KEYS))
)  # fmt: skip
ACTION_NAMES: Final = tuple(
    dict.fromkeys(key.name for group in SIMULTANEOUS_KEYS for part in group for key in part)
)
DEFAULT_KEYS: Final = {
    key.name: key.keys for group in SIMULTANEOUS_KEYS for part in group for key in part
}

_NAMED_KEYS: Final = frozenset(
    ("enter", "escape", "tab", "space", "backspace", "delete", "insert", "home", "end",
     "pageup", "pagedown", "up", "down", "left", "right",
     *(f"f{number}" for number in range(1, 25)))
)  # fmt: skip
# Textual's names, where they differ from the Unicode names.
_TEXTUAL_NAMES: Final = {
    "solidus": "slash",
    "reverse_solidus": "backslash",
    "commercial_at": "at",
    "hyphen_minus": "minus",
    "plus_sign": "plus",
    "low_line": "underscore",
}
_MODIFIERS: Final = ("ctrl", "alt", "shift")


def _key_name(character: str) -> str:
    """The name of the key of one character: ``?`` is ``question_mark``."""
    if character.isalnum():
        return character
    if character == " ":
        return "space"
    name = unicodedata.name(character, "").lower().replace("-", "_").replace(" ", "_")
    return _TEXTUAL_NAMES.get(name, name)


PUNCTUATION_KEYS: Final = frozenset(
    _key_name(chr(code)) for code in range(0x21, 0x7F) if not chr(code).isalnum()
)


def _parse_key(text: str, name: str) -> str:
    """Parse one key into its long spelling. Raises ConfigError."""
    *modifiers, last = text.split("+") if len(text) > 1 else [text]
    is_known = last in _NAMED_KEYS or last in PUNCTUATION_KEYS
    if len(last) == 1 and last.isprintable():
        last, is_known = _key_name(last), True
    if not is_known or not last or any(each not in _MODIFIERS for each in modifiers):
        close = difflib.get_close_matches(last, sorted(_NAMED_KEYS | PUNCTUATION_KEYS), n=1)
        suggestion = f"; did you mean {close[0]}?" if close else ""
        raise ConfigError(name, f"unknown key {text!r}{suggestion}")
    return "+".join([*modifiers, last])


def parse_keymap(given: Any) -> dict[str, str]:
    """Check what a config file has under [app.keys]: action name -> keys, in long spelling.

    Raises:
        ConfigError: an action or a key is unknown, or a key would have two meanings.
    """
    chosen: dict[str, str] = {}
    for name, value in check_section(SECTION, given).items():
        location = f"{SECTION}.{name}"
        if name not in ACTION_NAMES:
            close = difflib.get_close_matches(name, ACTION_NAMES, n=1)
            suggestion = (
                f"; did you mean {close[0]}?" if close else f"; actions: {', '.join(ACTION_NAMES)}"
            )
            raise ConfigError(location, f"unknown action{suggestion}")
        chosen[name] = parse_keys(value, location)
    _check_conflicts(chosen)
    return chosen


def parse_keys(value: Any, location: str) -> str:
    """Keys separated by commas, in long spelling. Raises ConfigError."""
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(location, f"expected keys separated by commas, not {value!r}")
    parts = [","] if value.strip() == "," else [each.strip() for each in value.split(",")]
    return ",".join(_parse_key(each, location) for each in parts)


def _check_conflicts(chosen: Mapping[str, str]) -> None:
    for group in SIMULTANEOUS_KEYS:
        owners: dict[str, str] = {}
        for each in (key for part in group for key in part):
            for key in chosen.get(each.name, each.keys).split(","):
                owner = owners.setdefault(key, each.name)
                if owner != each.name:
                    reported = each.name if each.name in chosen else owner
                    other = owner if reported == each.name else each.name
                    raise ConfigError(
                        f"{SECTION}.{reported}",
                        f"{key!r} is already the key of {other}",
                    )


def apply_keymap(part: tuple[KeyBinding, ...], chosen: Mapping[str, str]) -> tuple[KeyBinding, ...]:
    """`part` with the keys that a config file chose."""
    return tuple(each._replace(keys=chosen.get(each.name, each.keys)) for each in part)
