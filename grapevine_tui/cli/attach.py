"""``grapevine-tui attach``: runs the app for a running node, over its control socket.

Invariants:

- If the node cannot be reached, one line says so before anything is drawn.
- Theme, keys and alerts are those of this user, everything else is the node's.
- Without a target it never guesses: the only node that runs here, or the one that is picked from the list.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import click

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.errors import GrapevineError
from grapevine_tui import logs
from grapevine_tui.app.on_terminal import run_on_terminal
from grapevine_tui.cli.ctl import format_table
from grapevine_tui.cli.ctl_session import read_only_option
from grapevine_tui.config.edit import SaveResult, SettingsEditor, reload_kept
from grapevine_tui.config.own_commands import OwnCommand
from grapevine_tui.config.settings import Settings, load_settings
from grapevine_tui.control.client import find_state_dir, send_command
from grapevine_tui.control.jsonlines import Object
from grapevine_tui.control.target import LocalTarget, Target
from grapevine_tui.remote.contexts import Context, find_context, running_contexts
from grapevine_tui.text import printable

EXIT_SEVERAL: Final = 1
STATUS_TIMEOUT_S: Final = 2.0  # of one node that is listed


@dataclass(frozen=True, slots=True)
class RemoteAppSettings:
    """Settings of an attached app: the node's configuration, this user's preferences."""

    node: NodeConfig
    theme: str
    alert: str
    state_dir: Path | None
    preferences_file: Path | None
    keys: Mapping[str, str]
    own_commands: tuple[OwnCommand, ...]
    columns_by_table: Mapping[str, tuple[str, ...]]
    filters: Mapping[str, str]
    highlights: Mapping[str, str]


@click.command()
@click.option("--state-dir", metavar="DIR", help="State directory of the node [that of its port]")
@click.option("-p", "--port", metavar="N", help="UDP port of the node [from the settings, or 8000]")
@read_only_option
@click.argument("name", required=False)
@click.pass_obj
def attach(
    inherited: dict[str, Any] | None,
    state_dir: str | None,
    port: str | None,
    is_readonly: bool,
    name: str | None,
) -> int:
    """Open the UI for a running node. Quitting detaches; the node keeps running.

    NAME is a context: a section of contexts.toml, or the directory name of a node that runs here. Without
    a target, here or in the settings, it is the only node of yours that runs; if several do, they are listed
    and you pick one.
    """
    flags = dict(inherited or {})
    flags |= {"app.state_dir": state_dir} if state_dir is not None else {}
    flags |= {"port": port} if port is not None else {}
    target: Target | None = None
    if name is not None:
        if state_dir is not None or port is not None:
            raise click.UsageError("give NAME, --state-dir or --port, not several of them")
        target = find_context(name).target
    elif not _has_target(flags):
        running = running_contexts()
        if len(running) > 1:
            for line in _list_nodes(running):
                click.echo(line)
            if not sys.stdin.isatty():
                click.echo("several nodes run here: attach to one of them by its context")
                return EXIT_SEVERAL
            target = _pick(running).target
        elif running:
            target = running[0].target
    chosen = target or LocalTarget(find_state_dir(flags))
    chosen = replace(chosen, is_readonly=chosen.is_readonly or is_readonly)
    logs.to_null()
    return run_on_terminal(lambda: run_attached_app(flags, chosen))


def _has_target(flags: dict[str, Any]) -> bool:
    """Return whether the command line or the settings say which node."""
    if "app.state_dir" in flags or "port" in flags:
        return True
    values = {each.name: each for each in load_settings(flags, os.environ).values}
    return any(
        values[name].origin != "default" and not values[name].origin.startswith("profile ")
        for name in ("port", "app.state_dir")
    )


def _list_nodes(contexts: list[Context]) -> Iterator[str]:
    """Yield a table of running nodes."""
    rows: list[Object] = []
    for number, context in enumerate(contexts, 1):
        try:
            status = send_command(context.target, {"cmd": "status"}, STATUS_TIMEOUT_S)
        except GrapevineError:
            status = {"name": "does not answer"}
        rows.append(
            {"number": number, "context": context.name, "node": status.pop("name"), **status}
        )
    yield from format_table(
        rows, ("number", "context", "node", "address", "cluster", "peers", "members")
    )


def _pick(contexts: list[Context]) -> Context:
    """Ask for one of the listed contexts, by number or name. Raises Abort."""
    by_word = {str(number): each for number, each in enumerate(contexts, 1)}
    by_word |= {each.name: each for each in contexts}

    def parse(text: str) -> Context:
        if text.strip() not in by_word:
            raise click.BadParameter(f"{printable(text.strip())!r} is none of them")
        return by_word[text.strip()]

    picked: Context = click.prompt("Attach to (number or context)", value_proc=parse)
    return picked


def attached_settings(node: NodeConfig, local: Settings) -> RemoteAppSettings:
    """The settings of an app that is attached to a node with the configuration `node`."""
    return RemoteAppSettings(
        node,
        local.theme,
        local.alert,
        None,
        local.preferences_file,
        local.keys,
        local.own_commands,
        local.columns_by_table,
        local.filters,
        local.highlights,
    )


class OwnSettings:
    """What the config file of this user says for attached apps, beginning with `local`."""

    def __init__(self, local: Settings) -> None:
        self._local = local

    def for_node(self, node: NodeConfig) -> RemoteAppSettings:
        """The settings of an app that is attached to a node with the configuration `node`."""
        return attached_settings(node, self._local)

    def reload(self) -> None:
        """Read the file again. Raises GrapevineError; nothing changed then."""
        self._local = reload_kept(self._local, self._local.node.keys)

    def save(self, name: str, text: str) -> SaveResult:
        """Set a setting and write it to the file. Raises GrapevineError, OSError."""
        self.reload()
        editor = SettingsEditor(self._local, lambda _: ())
        editor.set_value(name, text)
        result = editor.save()
        self._local = editor.settings
        return result


async def run_attached_app(flags: dict[str, Any], target: Target) -> int:
    """Run the app until it is quit and return its exit code. Raises NodeUnreachable."""
    from grapevine_tui.app.app import GrapevineApp
    from grapevine_tui.host.model import Model
    from grapevine_tui.remote.host import RemoteHost

    local = load_settings(flags, os.environ)
    host = RemoteHost(target, Model(max_messages=local.messages))
    await host.start()
    own = OwnSettings(local)
    app = GrapevineApp(host, own.for_node(host.config), own_settings=own)
    host.on_config_changed = partial(app.call_later, app.main.apply_config, is_restarted=True)
    try:
        await app.run_async()
    finally:
        await host.leave(0.0)
    return app.exit_code
