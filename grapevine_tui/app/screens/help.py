"""Help: every key and every slash command.

Invariants: everything is read from the bindings and the registry of commands; nothing is listed by hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from textual.app import App
from textual.binding import Binding, BindingType

from grapevine_tui.app.screens.detail import DetailScreen
from grapevine_tui.app.screens.message import MessageScreen
from grapevine_tui.app.widgets.bindings import bindings
from grapevine_tui.app.widgets.draft import Draft
from grapevine_tui.app.widgets.fact_sheet import Fact
from grapevine_tui.config import keymap
from grapevine_tui.config.own_commands import OwnCommand
from grapevine_tui.control.commands import DETACH_HELP, Surface, command_help, commands_on
from grapevine_tui.text import printable


def _binding(each: BindingType) -> Binding:
    return each if isinstance(each, Binding) else Binding(*each)


def key_facts(app: App[None], name: str, bindings: Iterable[BindingType]) -> list[Fact]:
    """A heading, and a line for each action with its keys."""
    by_action: dict[str, tuple[list[str], str]] = {}
    for each in Binding.make_bindings([_binding(binding) for binding in bindings]):
        keys, _ = by_action.setdefault(each.action, ([], each.description))
        keys.append(app.get_key_display(each))
    facts = [
        Fact(" ".join(keys), description) for keys, description in by_action.values() if description
    ]
    return [Fact(name, ""), *facts]


def sections(
    key_overrides: Mapping[str, str],
    *,
    is_replay: bool = False,
    own: Sequence[tuple[str, tuple[keymap.KeyBinding, ...]]] = (),
) -> list[tuple[str, list[BindingType]]]:
    """Each part of the app with its bindings, including the keys of the config file. `own` are parts that
    only this kind of app has."""
    parts = (
        ("Everywhere", keymap.GLOBAL_KEYS),
        ("Panels", keymap.PANEL_KEYS),
        ("Tables", keymap.TABLE_KEYS),
        ("Peers and members, in tables and details", keymap.PEER_KEYS),
        ("Rate limits", keymap.RATE_KEYS),
        ("Messages", keymap.MESSAGE_KEYS),
        ("Traces", (*keymap.NEW_TRACE_KEYS, *keymap.TRACE_KEYS)),
        ("Queries", (*keymap.NEW_QUERY_KEYS, *keymap.TRACE_KEYS)),
        ("Topology, latency and holders", (*keymap.NETWORK_KEYS, *keymap.TREE_KEYS)),
        ("Traffic over time", keymap.TIME_RANGE_KEYS),
        ("Events and history", keymap.EVENT_KEYS[len(keymap.FRONT_SCREEN_KEYS) :]),
        ("Alerts", keymap.ALERT_KEYS),
        ("Settings", keymap.SETTINGS_KEYS[:1]),
        *((("Recordings", keymap.REPLAY_KEYS),) if is_replay else ()),
        *own,
    )
    return [
        *((name, bindings(keymap.apply_keymap(part, key_overrides))) for name, part in parts),
        ("Details", [*MessageScreen.BINDINGS, *DetailScreen.BINDINGS]),
        ("Compose box", Draft.BINDINGS),
    ]


def help_facts(
    app: App[None],
    key_overrides: Mapping[str, str],
    *,
    is_attached: bool = False,
    is_replay: bool = False,
    own_commands: Sequence[OwnCommand] = (),
    own: Sequence[tuple[str, tuple[keymap.KeyBinding, ...]]] = (),
) -> list[Fact]:
    """All sections of keys, own commands, then the slash commands. `is_attached`: the node runs in another
    process; `is_replay`: a recording is shown; `own` as in `sections`."""
    facts: list[Fact] = []
    for name, part in sections(key_overrides, is_replay=is_replay, own=own):
        quit_label = f"{DETACH_HELP if is_attached else 'Quit'}; on other screens: back"
        part_facts = key_facts(app, name, part)
        facts += [
            each._replace(value=quit_label) if each.value == "Quit" else each for each in part_facts
        ]
        facts.append(Fact("", ""))
    if own_commands:
        facts.append(Fact("Own commands, on the selected row", ""))
        facts += [
            Fact(each.key or "/run", f"{printable(each.words)} (/run {each.name})")
            for each in own_commands
        ]
        facts.append(Fact("", ""))
    facts.append(Fact("Slash commands", ""))
    for spec in commands_on(Surface.HELP):
        aliases = "".join(f" /{each}" for each in (*spec.aliases, *spec.shorthands))
        description = command_help(spec, is_attached=is_attached)
        facts.append(Fact(spec.usage, f"{description}{f' (also{aliases})' if aliases else ''}"))
    facts.append(Fact("TEXT", "Broadcast it, as /broadcast does"))
    facts.append(Fact("//TEXT", "Broadcast text that begins with a slash"))
    return facts
