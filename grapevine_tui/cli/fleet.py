"""``grapevine-tui fleet``: tables over all contexts, and the app over each of them.

Invariants: without the UI the output is one table, or one JSON object per row, whatever does not answer.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from grapevine_proto.errors import ConfigError
from grapevine_tui import logs
from grapevine_tui.app.on_terminal import require_terminal, run_on_terminal
from grapevine_tui.cli.attach import OwnSettings
from grapevine_tui.cli.ctl import format_table
from grapevine_tui.cli.ctl_session import read_only_option
from grapevine_tui.config.alert_rules import AlertRule
from grapevine_tui.config.settings import Settings, load_settings
from grapevine_tui.control.jsonlines import Object
from grapevine_tui.process_exit import EXIT_FAILED, EXIT_OK
from grapevine_tui.remote.contexts import Context, all_contexts
from grapevine_tui.text import json_payload_text

if TYPE_CHECKING:
    from grapevine_tui.remote.fleet import Fleet

ANSWER_TIMEOUT_S: Final = 5.0  # for the contexts to answer, without the UI
RATE_INTERVAL_S: Final = 2.5  # for two samples of what is counted
COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "contexts": (
        *("context", "state", "up", "suspect", "down", "messages_per_s", "loss", "lag_ms"),
        *("unacknowledged", "last_event"),
    ),
    "members": (
        *("context", "cluster", "name", "peer_id", "address", "zone", "status", "rtt_ms", "tags"),
        *("reason", "as_of"),
    ),
    "alerts": (
        "context",
        "state",
        "name",
        "peer_name",
        "value",
        "since_s",
        "muted",
        "rule",
        "as_of",
    ),
    "messages": ("time", "context", "cluster", "from_name", "via", "topic", "text", "as_of"),
}


@click.command()
@click.argument("table", type=click.Choice(tuple(COLUMNS)), default="contexts", required=False)
@click.option("--once", is_flag=True, help="Print the table and exit; exit code 1 if one is not up")
@click.option("--json", "is_json", is_flag=True, help="Print one JSON object per row and exit")
@read_only_option
@click.pass_obj
def fleet(
    inherited: dict[str, Any] | None, table: str, once: bool, is_json: bool, is_readonly: bool
) -> int:
    """Look after all contexts: one row each, and the app over the one you open.

    TABLE is contexts, members, messages or alerts: those of all contexts in one table. Contexts are the
    sections of contexts.toml; without that file, the nodes of yours that run here.
    """
    contexts = all_contexts()
    if not contexts:
        raise ConfigError("context", "there is no contexts.toml, and no node of yours runs here")
    if is_readonly:
        contexts = [each.as_readonly() for each in contexts]
    local = load_settings(dict(inherited or {}), os.environ)
    if once or is_json:
        return asyncio.run(_print_rows(contexts, local.alert_rules, table, is_json=is_json))
    require_terminal()
    logs.to_null()
    return run_on_terminal(lambda: _run(contexts, local, table))


async def _run(contexts: Iterable[Context], local: Settings, table: str) -> int:
    from grapevine_tui.app.fleet import run_fleet
    from grapevine_tui.remote.fleet import Fleet

    fleet, own = Fleet(list(contexts), rules=local.alert_rules), OwnSettings(local)
    fleet.start()
    try:
        return await run_fleet(fleet, local, own, lambda app: app.run_async(), table)
    finally:
        await fleet.leave()


async def _print_rows(
    contexts: Iterable[Context], rules: Sequence[AlertRule], table: str, *, is_json: bool
) -> int:
    """Print the rows of a table once all contexts have answered, or do not."""
    from grapevine_tui.remote.fleet import UP, Fleet
    from grapevine_tui.remote.fleet_tables import rows_of

    fleet = Fleet(list(contexts), rules=rules)
    fleet.start()
    refreshing = asyncio.create_task(fleet.run())
    try:
        await _until_answered(fleet)
        await asyncio.sleep(RATE_INTERVAL_S)
        objects = rows_of(fleet, table)
        states = [each.state for each in fleet.nodes.values()]
    finally:
        refreshing.cancel()
        await fleet.leave()
    if is_json:
        for each in objects:
            click.echo(json.dumps(each, allow_nan=False))
    else:
        for line in format_table([_shown(each) for each in objects], COLUMNS[table]):
            click.echo(line)
    return EXIT_OK if all(each == UP for each in states) else EXIT_FAILED


def _shown(row: Object) -> Object:
    """A row as people read it: times of day, and why there is no event."""
    shown = dict(row)
    for name, field in (("as_of", "as_of"), ("time", "at")):
        if at_unix := row.get(field):
            shown[name] = time.strftime("%H:%M:%S", time.localtime(at_unix))
    if row.get("reason") and "last_event" in row:
        shown["last_event"] = row["reason"]
    if "base64" in row:
        shown["text"] = json_payload_text(row)
    return shown


async def _until_answered(fleet: Fleet) -> None:
    """Wait until every context has answered or cannot be reached, at most `ANSWER_TIMEOUT_S`."""
    from grapevine_tui.remote.fleet import CONNECTING

    deadline = asyncio.get_running_loop().time() + ANSWER_TIMEOUT_S
    while any(each.state == CONNECTING for each in fleet.nodes.values()):
        if asyncio.get_running_loop().time() > deadline:
            return
        await asyncio.sleep(0.05)
