"""``invite`` and ``join``: prints an invitation, and joins a cluster with one.

Invariants: only the invitation goes to stdout; notes of ``invite`` go to stderr, so its output can
be piped.
"""

from __future__ import annotations

import getpass
import os
import socket
import sys
from contextlib import suppress
from typing import Any, Final

import click

from grapevine_proto.errors import KeyFileError
from grapevine_proto.ids import is_wildcard, join_host_port, split_host_port
from grapevine_proto.runtime.udp_socket import dialable_host
from grapevine_tui.cli.invitation import Invitation, accept_invitation, is_loopback
from grapevine_tui.cli.invitation import create_invitation as invitation_of
from grapevine_tui.config.settings import Settings, load_settings
from grapevine_tui.config.user_files import (
    CONFIG_FILE,
    ensure_user_key,
    expand_user,
    user_config_directory,
    user_config_file,
)
from grapevine_tui.control.client import find_state_dir, send_command
from grapevine_tui.control.jsonlines import Object
from grapevine_tui.control.target import NodeUnreachable
from grapevine_tui.text import printable

MAX_LINE_CHARACTERS: Final = 16_384


@click.command()
@click.option("--state-dir", metavar="DIR", help="State directory of the node [that of its port]")
@click.option("-p", "--port", metavar="N", help="UDP port of the node [from the settings, or 8000]")
@click.pass_obj
def invite(flags: dict[str, Any], state_dir: str | None, port: str | None) -> int:
    """Print an invitation for another machine. It contains the cluster key: keep it secret."""
    given = {"port": port, "app.state_dir": state_dir}
    flags = flags | {name: value for name, value in given.items() if value is not None}
    settings = load_settings(flags, os.environ)
    key_file = settings.key_files[0] if settings.key_files else ensure_user_key()
    status = _running_status(flags)
    if status is None:
        _print_note("no node is running; the invitation has the address it would use")
        invitation = invitation_of(key_file, settings.node.cluster, [_configured_address(settings)])
    else:
        invitation = invitation_of(key_file, status["cluster"], [status["advertised"]])
        if invitation.key.fingerprint not in status["keys"]:
            raise KeyFileError(
                f"key file {key_file}: not a key of the running node; pass its key with --key-file"
            )
    if all(is_loopback(each) for each in invitation.addresses):
        bound = settings.node.bind if status is None else str(status["address"])
        _print_note(_loopback_hint(bound, settings.node.advertise))
    addresses = ", ".join(invitation.addresses)
    _print_note(
        f"anyone with this line can join {invitation.cluster!r} at {addresses}; keep it secret"
    )
    click.echo(invitation.to_line())
    return 0


def _loopback_hint(bound: str, advertise: str) -> str:
    """Explain what to do if no address of an invitation can be reached from another machine. `bound`: where
    the node listens."""
    if not advertise and is_wildcard(split_host_port(bound)[0]):
        return (
            "warning: only this machine can reach that address: it has loopback addresses only; connect it"
            " to a network, or start the node with --advertise HOST:PORT"
        )
    return (
        "warning: only this machine can reach that address; start the node with --host 0.0.0.0"
        " or set --advertise"
    )


def _running_status(flags: dict[str, Any]) -> Object | None:
    try:
        return send_command(find_state_dir(flags), {"cmd": "status"})
    except NodeUnreachable:
        return None


def _configured_address(settings: Settings) -> str:
    """Addresses at which others would reach a node with these settings."""
    if settings.node.advertise:
        return settings.node.advertise
    host, port = split_host_port(settings.node.bind)
    with suppress(ValueError):  # a host name is resolved by the node that dials it
        host = dialable_host(host, socket.AF_INET6 if ":" in host else socket.AF_INET)
    return join_host_port(host, port)


@click.command()
@click.pass_obj
def join(flags: dict[str, Any]) -> int:
    """Join a cluster from an invitation (hidden prompt or stdin).

    Writes the key and the settings that the invitation contains. A key is never overwritten.
    """
    if sys.stdin.isatty():
        line = getpass.getpass("Invitation (hidden): ")
    else:
        line = sys.stdin.readline(MAX_LINE_CHARACTERS)
    invitation = Invitation.from_line(line)
    chosen = flags.get("app.config") or os.environ.get("GRAPEVINE_CONFIG")
    path = expand_user("app.config", chosen) if chosen else user_config_file()
    is_user_config = path == user_config_directory() / CONFIG_FILE
    result = accept_invitation(invitation, path, is_user_config=is_user_config)
    key = invitation.key.fingerprint
    verb = "saved" if result.is_new_key else "already had"
    click.echo(printable(f"{verb} cluster key {key} in {result.key_file}"))
    changed = ", ".join(result.changed) or "nothing new"
    click.echo(printable(f"set in {result.config_file}: {changed}"))
    option = "" if is_user_config else f" --config {path}"
    click.echo(printable(f"start the node: grapevine-tui{option}"))
    return 0


def _print_note(text: str) -> None:
    click.echo(printable(f"grapevine-tui: {text}"), err=True)
