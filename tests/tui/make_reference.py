"""Writes the generated tables of docs/reference/: ``python -m tests.tui.make_reference``.

Each table is between ``<!-- generated: NAME -->`` and ``<!-- end -->``. The prose around it is written
by hand.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import click
from prometheus_client.metrics_core import Metric

from grapevine_proto.events import Stats
from grapevine_tui.cli.main import PROGRAM, ROOT_COMMAND
from grapevine_tui.config import keymap
from grapevine_tui.config.alert_rules import READINGS
from grapevine_tui.config.edit import format_value, is_live
from grapevine_tui.config.options import OPTIONS, PROFILES
from grapevine_tui.config.sources import APP_DEFAULTS, FILE_SETTINGS
from grapevine_tui.config.template import setting_help
from grapevine_tui.control.commands import Kind, Surface, commands_on
from grapevine_tui.service.metrics import Metrics, NodeCollector, Snapshot
from tests.sources import ROOT

DIRECTORY: Final = ROOT / "docs" / "reference"
REGION: Final = re.compile(r"(<!-- generated: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(each.replace('|', '/') for each in line)} |\n" for line in lines)


def code(text: str) -> str:
    """`text` as a code span; empty stays empty."""
    return f"`{text}`" if text else ""


def sentence(text: str) -> str:
    """Help text in which Markdown has nothing to interpret."""
    return re.sub(r"([<>*_\[\]])", r"\\\1", " ".join(text.split()))


# --- the command line -----------------------------------------------------------------------------


def options() -> str:
    """Options of the program itself."""
    variables = {option.flag: option.env for option in OPTIONS}
    return table(
        ("Option", "Environment variable", "Meaning"),
        (
            (_flags(each, ROOT_COMMAND), code(variables.get(each.opts[-1], "")), _meaning(each))
            for each in ROOT_COMMAND.params
            if isinstance(each, click.Option)
        ),
    )


def commands() -> str:
    """A section for each subcommand."""
    return "\n".join(_sections(ROOT_COMMAND, PROGRAM, None))


def _sections(command: click.Command, name: str, parent: click.Context | None) -> Iterator[str]:
    context = click.Context(command, info_name=name, parent=parent, **command.context_settings)
    if parent is not None:
        path = context.command_path.removeprefix(f"{PROGRAM} ")
        usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
        yield f"### {path}\n\n```text\n{usage}\n```\n\n{_help(command)}\n"
        own = [
            each for each in command.params if isinstance(each, click.Option) and not each.hidden
        ]
        if own:
            yield table(
                ("Option", "Meaning"), ((_flags(each, command), _meaning(each)) for each in own)
            )
    if isinstance(command, click.Group):
        for each in command.list_commands(context):
            found = command.get_command(context, each)
            assert found is not None
            yield from _sections(found, each, context)


def _help(command: click.Command) -> str:
    paragraphs = (command.help or "").replace("\b\n", "").split("\n\n")
    return "\n\n".join(sentence(each) for each in paragraphs)


def _flags(option: click.Option, command: click.Command) -> str:
    if option.is_flag or option.count:
        metavar = ""
    elif isinstance(option.type, click.Choice):
        metavar = "NAME"
    else:
        metavar = option.make_metavar(click.Context(command)).replace("|", "/")
    metavar = re.sub(r"^(INTEGER|FLOAT)( RANGE)?$", "N", metavar)
    return code(f"{', '.join(option.opts)} {metavar}".strip())


def _meaning(option: click.Option) -> str:
    text = re.sub(r" \(\$[A-Z_]+\)$", "", option.help or "")
    more = []
    if isinstance(option.type, click.Choice):
        more.append(f"one of {', '.join(code(str(each)) for each in option.type.choices)}")
    if option.show_default and option.default is not None and not option.is_flag:
        more.append(f"default {code(str(option.default))}")
    return "; ".join(each for each in (sentence(text), *more) if each)


def slash_commands() -> str:
    """The slash commands of the compose box and of a headless node's stdin."""
    return table(
        ("Command", "Aliases", "Works in", "Meaning"),
        (
            (
                code(spec.usage),
                " ".join(code(f"/{each}") for each in (*spec.aliases, *spec.shorthands)),
                "app" if spec.kind is Kind.APP_ACT else "app, `ctl`, JSON",
                sentence(spec.help),
            )
            for spec in commands_on(Surface.SLASH)
        ),
    )


# --- settings -------------------------------------------------------------------------------------


def settings() -> str:
    """A table for each section of the config file."""
    flags = {option.name: option for option in OPTIONS}
    values = {name: profile().settings() for name, profile in PROFILES.items()}
    why = setting_help()
    why["bind"] = why["host"]
    known: dict[str, Any] = values["lan"] | dict(APP_DEFAULTS)
    defaults = {name: known.get(name, "") for name in FILE_SETTINGS}
    parts = []
    for section in dict.fromkeys(_section_of(name) for name in defaults):
        rows = []
        for name in (each for each in defaults if _section_of(each) == section):
            if name == "app.headless":
                given, default = code("--headless"), "false"
            elif name == "bind":
                given, default = "`--host` `--port`, `$BIND_HOST` `$BIND_PORT`", "127.0.0.1:8000"
            else:
                given, default = _given_by(flags.get(name)), format_value(defaults[name])
            rows.append(
                (
                    code(name.rpartition(".")[2] if section else name),
                    ", ".join([code(default) or "unset", *_of_profiles(name, values)]),
                    given,
                    "live" if name != "bind" and is_live(name) else "restart",
                    sentence(why.get(name, "")),
                )
            )
        head = f"### `[{section}]`" if section else "### Top level"
        columns = ("Setting", "Default", "Option, variable", "Applies", "Meaning")
        parts.append(f"{head}\n\n{table(columns, rows)}")
    return "\n".join(parts)


def _section_of(name: str) -> str:
    return name.rpartition(".")[0]


def _given_by(option: Any) -> str:
    if option is None:
        return ""
    variable = [code(f"${option.env}")] if option.env else []
    return ", ".join([code(option.flag), *variable])


def _of_profiles(name: str, values: dict[str, dict[str, Any]]) -> list[str]:
    """Values that differ in a profile other than `lan`, whose values are the defaults."""
    return [
        f"{profile} {code(format_value(own[name]))}"
        for profile, own in values.items()
        if name in own and name != "bind" and own[name] != values["lan"][name]
    ]


# --- keys -----------------------------------------------------------------------------------------

PARTS: Final = (
    ("Everywhere", keymap.GLOBAL_KEYS),
    ("Main screen", keymap.PANEL_KEYS),
    ("Tables", keymap.TABLE_KEYS),
    ("Peers and members, in tables and details", keymap.PEER_KEYS),
    ("Rate limits", keymap.RATE_KEYS),
    ("Messages", keymap.MESSAGE_KEYS),
    ("Screens other than the main one", keymap.FRONT_SCREEN_KEYS),
    ("Traces", (*keymap.NEW_TRACE_KEYS, *keymap.TRACE_KEYS)),
    ("Queries", (*keymap.NEW_QUERY_KEYS, *keymap.TRACE_KEYS)),
    ("Traffic over time", keymap.TIME_RANGE_KEYS),
    ("Events and history", keymap.EVENT_KEYS[len(keymap.FRONT_SCREEN_KEYS) :]),
    ("Alerts", keymap.ALERT_KEYS),
    ("Settings", keymap.SETTINGS_KEYS[:1]),
    ("Several contexts", (*keymap.FLEET_KEYS, *keymap.CONTEXT_KEYS)),
)
SHOWN: Final = {
    "question_mark": "?",
    "exclamation_mark": "!",
    "colon": ":",
    "slash": "/",
    "plus": "+",
    "greater_than_sign": ">",
    "at": "@",
    "equals_sign": "=",
    "left_curly_bracket": "{",
    "right_curly_bracket": "}",
    "left_square_bracket": "[",
    "right_square_bracket": "]",
    "escape": "Esc",
    "enter": "Enter",
    "tab": "Tab",
    "shift+tab": "Shift+Tab",
    "space": "Space",
    "ctrl+s": "Ctrl+S",
    "pagedown": "Page Down",
    "pageup": "Page Up",
    "home": "Home",
    "end": "End",
    "up": "Up",
    "down": "Down",
    "left": "Left",
    "right": "Right",
}


def app_keys() -> str:
    """A table for each part of the app."""
    parts = []
    for name, part in PARTS:
        rows = (
            (
                " ".join(code(SHOWN.get(each, each)) for each in key.keys.split(",")),
                code(key.name),
                sentence(key.description),
            )
            for key in part
        )
        parts.append(f"### {name}\n\n{table(('Key', 'Action', 'Meaning'), rows)}")
    return "\n".join(parts)


# --- metrics --------------------------------------------------------------------------------------


def metrics() -> str:
    """Every metric family, as a node serves it."""
    families: list[Metric] = [*NodeCollector(_empty_snapshot).collect()]
    host: Any = None  # only a snapshot of a running node would use it
    families += Metrics(host).registry.collect()
    suffix = {"counter": "_total", "info": "_info"}
    rows = []
    for each in sorted(families, key=lambda family: family.name):
        labels = sorted({label for sample in each.samples for label in sample.labels} - {"le"})
        labels = labels or list(getattr(each, "_labelnames", ()))
        if each.type == "info":
            labels += {"grapevine_peer": ["name", "zone", "address"]}.get(each.name, [])
        rows.append(
            (
                code(each.name + suffix.get(each.type, "")),
                each.type,
                " ".join(code(label) for label in labels),
                sentence(each.documentation),
            )
        )
    return table(("Metric", "Type", "Labels", "Meaning"), rows)


def _empty_snapshot() -> Snapshot:
    identity = dict.fromkeys(("peer_id", "name", "zone", "cluster", "version"), "")
    return Snapshot(
        stats=Stats(),
        peers=(),
        discovery=(),
        members=(),
        messages={},
        topics={},
        rounds={},
        rate_limited=0,
        now=0.0,
        started_at=0.0,
        lag_s=0.0,
        unacknowledged=0,
        pending_restart=0,
        identity=identity,
        hook_outcomes={},
        alerts={},
    )


def alert_readings() -> str:
    """What a rule of an alert can compare."""
    return table(
        ("Reading", "Limit", "Meaning"),
        ((code(name), each.unit.value, sentence(each.help)) for name, each in READINGS.items()),
    )


TABLES: Final[dict[str, Callable[[], str]]] = {
    "options": options,
    "commands": commands,
    "slash-commands": slash_commands,
    "settings": settings,
    "alert-readings": alert_readings,
    "keys": app_keys,
    "metrics": metrics,
}


def pages() -> Iterator[tuple[Path, str]]:
    """Each page that has a generated table, and what it should be."""
    for path in sorted(DIRECTORY.glob("*.md")):
        text = path.read_text(encoding="utf-8")
        if REGION.search(text):
            yield path, REGION.sub(lambda m: f"{m[1]}\n{TABLES[m[2]]()}\n{m[3]}", text)


if __name__ == "__main__":
    for page, text in pages():
        page.write_text(text, encoding="utf-8")
