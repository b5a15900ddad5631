"""``grapevine-tui attach``: runs the app for a running node, over its control socket.

Invariants:

- If the node cannot be reached, one line says so before anything is drawn.
- Theme, keys and alerts are those of this user, everything else is the node's.
- Without a target it never guesses: the only node that runs here, or the list of those that do.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import click

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.errors import GrapevineError
from grapevine_tui import logs
from grapevine_tui.app.on_terminal import run_on_terminal
from grapevine_tui.cli.ctl import format_table
from grapevine_tui.config.settings import load_settings
from grapevine_tui.control.client import find_state_dir, running_state_dirs, send_command
from grapevine_tui.control.jsonlines import Object

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


@click.command()
@click.option("--state-dir", metavar="DIR", help="State directory of the node [that of its port]")
@click.option("-p", "--port", metavar="N", help="UDP port of the node [from the settings, or 8000]")
@click.pass_obj
def attach(inherited: dict[str, Any] | None, state_dir: str | None, port: str | None) -> int:
    """Open the UI for a running node. Quitting detaches; the node keeps running.

    Without a target, here or in the settings, it is the only node of yours that runs; if several do, they are
    listed.
    """
    flags = dict(inherited or {})
    flags |= {"app.state_dir": state_dir} if state_dir is not None else {}
    flags |= {"port": port} if port is not None else {}
    if not _has_target(flags):
        running = running_state_dirs()
        if len(running) == 1:
            flags["app.state_dir"] = str(running[0])
        elif running:
            for line in _list_nodes(running):
                click.echo(line)
            return EXIT_SEVERAL
    logs.to_null()
    return run_on_terminal(lambda: run_attached_app(flags))


def _has_target(flags: dict[str, Any]) -> bool:
    """Return whether the command line or the settings say which node."""
    if "app.state_dir" in flags or "port" in flags:
        return True
    values = {each.name: each for each in load_settings(flags, os.environ).values}
    return any(
        values[name].origin != "default" and not values[name].origin.startswith("profile ")
        for name in ("port", "app.state_dir")
    )


def _list_nodes(state_dirs: list[Path]) -> Iterator[str]:
    """Yield a table of running nodes, and how to attach to one."""
    rows: list[Object] = []
    for state_dir in state_dirs:
        try:
            status = send_command(state_dir, {"cmd": "status"}, STATUS_TIMEOUT_S)
        except GrapevineError:
            status = {"name": "does not answer"}
        rows.append({**status, "target": f"--state-dir {state_dir}"})
    yield from format_table(rows, ("name", "address", "cluster", "peers", "members", "target"))
    yield "several nodes run here: attach to one of them with its --state-dir"


async def run_attached_app(flags: dict[str, Any]) -> int:
    """Run the app until it is quit and return its exit code. Raises NodeUnreachable."""
    from grapevine_tui.app.app import GrapevineApp
    from grapevine_tui.host.model import Model
    from grapevine_tui.remote.host import RemoteHost

    local = load_settings(flags, os.environ)
    host = RemoteHost(find_state_dir(flags), Model(max_messages=local.messages))
    await host.start()
    settings = RemoteAppSettings(
        host.config, local.theme, local.alert, None, local.preferences_file, local.keys
    )
    app = GrapevineApp(host, settings)
    host.on_config_changed = partial(app.call_later, app.main.apply_config, is_restarted=True)
    try:
        await app.run_async()
    finally:
        await host.leave(0.0)
    return app.exit_code
