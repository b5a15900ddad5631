"""Help: every key and every command, made from the bindings and the table of commands themselves.

What must stay true: nothing is listed here by hand, so help cannot say what is not so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from textual.app import App
from textual.binding import Binding, BindingType

from grapevine_tui.app.screens.detail import DetailScreen
from grapevine_tui.app.screens.message import MessageScreen
from grapevine_tui.app.widgets.bindings import bindings
from grapevine_tui.app.widgets.draft import Draft
from grapevine_tui.app.widgets.fact_sheet import Fact
from grapevine_tui.config import keymap
from grapevine_tui.control.commands import COMMANDS, DETACH_HELP, command_help


def _binding(each: BindingType) -> Binding:
    return each if isinstance(each, Binding) else Binding(*each)


def key_facts(app: App[None], name: str, bindings: Iterable[BindingType]) -> list[Fact]:
    """A heading and a line for each thing that can be done, with its keys."""
    by_action: dict[str, tuple[list[str], str]] = {}
    for each in Binding.make_bindings([_binding(binding) for binding in bindings]):
        keys, _ = by_action.setdefault(each.action, ([], each.description))
        keys.append(app.get_key_display(each))
    facts = [
        Fact(" ".join(keys), description) for keys, description in by_action.values() if description
    ]
    return [Fact(name, ""), *facts]


def sections(key_overrides: Mapping[str, str]) -> list[tuple[str, list[BindingType]]]:
    """Every part of the app with its keys, as the config file has them."""
    parts = (
        ("Everywhere", keymap.GLOBAL_KEYS),
        ("Panels", keymap.PANEL_KEYS),
        ("Tables", keymap.TABLE_KEYS),
        ("Peers and members, in tables and details", keymap.PEER_KEYS),
        ("Rate limits", keymap.RATE_KEYS),
        ("Messages", keymap.MESSAGE_KEYS),
        ("Traces", (*keymap.NEW_TRACE_KEYS, *keymap.TRACE_KEYS)),
        ("Traffic over time", keymap.TIME_RANGE_KEYS),
        ("Settings", keymap.SETTINGS_KEYS[:1]),
    )
    return [
        *((name, bindings(keymap.apply_keymap(part, key_overrides))) for name, part in parts),
        ("Details", [*MessageScreen.BINDINGS, *DetailScreen.BINDINGS]),
        ("Compose box", Draft.BINDINGS),
    ]


def help_facts(
    app: App[None], key_overrides: Mapping[str, str], *, is_attached: bool = False
) -> list[Fact]:
    """All sections of keys, then what can be typed. `is_attached`: to a node elsewhere."""
    facts: list[Fact] = []
    for name, part in sections(key_overrides):
        quit_label = f"{DETACH_HELP if is_attached else 'Quit'}; on other screens: back"
        part_facts = key_facts(app, name, part)
        facts += [
            each._replace(value=quit_label) if each.value == "Quit" else each for each in part_facts
        ]
        facts.append(Fact("", ""))
    facts.append(Fact("Slash commands", ""))
    for spec in COMMANDS:
        aliases = "".join(f" /{alias}" for alias in spec.aliases)
        description = command_help(spec, is_attached=is_attached)
        facts.append(Fact(spec.usage, f"{description}{f' (also{aliases})' if aliases else ''}"))
    facts.append(Fact("//text", "Broadcast a text that begins with a slash"))
    return facts
