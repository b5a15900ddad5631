"""``grapevine-tui attach``: runs the app for a running node, over its control socket.

Invariants: if the node cannot be reached, one line says so before anything is drawn; theme, keys and
alerts are those of this user, everything else is the node's.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click

from grapevine_proto.config.node import NodeConfig
from grapevine_tui import logs
from grapevine_tui.app.on_terminal import run_on_terminal
from grapevine_tui.config.settings import load_settings
from grapevine_tui.control.client import find_state_dir


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
    """Open the UI for a running node. Quitting detaches; the node keeps running."""
    flags = dict(inherited or {})
    flags |= {"app.state_dir": state_dir} if state_dir is not None else {}
    flags |= {"port": port} if port is not None else {}
    logs.to_null()
    return run_on_terminal(lambda: run_attached_app(flags))


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
