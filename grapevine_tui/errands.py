"""``invite`` and ``join``: what is asked of the user, the running node and the files, and said back.

What must stay true: the invitation goes to stdout and nowhere else; every word to people goes to
stderr with ``invite``, so that its output can be piped to where it is wanted.
"""

from __future__ import annotations

import getpass
import os
import socket
import sys
from contextlib import suppress
from typing import Any, Final

import click

from grapevine_proto.endpoint import outside_host
from grapevine_proto.errors import KeyFileError
from grapevine_proto.ids import is_wildcard, join_host_port, split_host_port
from grapevine_tui.ctl import NoAnswer, ask, running_at
from grapevine_tui.folders import (
    CONFIG_FILE,
    expanded,
    own_config_file,
    own_config_folder,
    own_key,
)
from grapevine_tui.invitation import Invitation, accept, is_loopback
from grapevine_tui.invitation import invite as invitation_of
from grapevine_tui.jsonlines import Object
from grapevine_tui.settings import Settings, load
from grapevine_tui.text import printable

LINE_CHARACTERS: Final = 16_384


@click.command()
@click.option("--state-dir", metavar="DIR", help="State folder of the node [that of its port]")
@click.option("-p", "--port", metavar="N", help="UDP port of the node [as set, or 8000]")
@click.pass_obj
def invite(flags: dict[str, Any], state_dir: str | None, port: str | None) -> int:
    """Print one line that lets another machine into the cluster. It holds the key: keep it secret."""
    said = {"port": port, "app.state_dir": state_dir}
    flags = flags | {name: value for name, value in said.items() if value is not None}
    settings = load(flags, os.environ)
    key_file = settings.key_files[0] if settings.key_files else own_key()
    status = _status_of_running(flags)
    if status is None:
        _say("no node runs here now; the address is the one it would have")
        invitation = invitation_of(key_file, settings.node.cluster, [_address_set(settings)])
    else:
        invitation = invitation_of(key_file, status["cluster"], [status["advertised"]])
        if invitation.key.fingerprint not in status["keys"]:
            raise KeyFileError(
                f"key file {key_file}: not a key of the running node; name its own by --key-file"
            )
    if all(is_loopback(each) for each in invitation.addresses):
        _say(_why_loopback(settings))
    where = ", ".join(invitation.addresses)
    _say(f"whoever has this line can join {invitation.cluster!r} at {where}: keep it secret")
    click.echo(invitation.line())
    return 0


def _why_loopback(settings: Settings) -> str:
    """What to do where an invitation names nothing that another machine can dial."""
    if not settings.node.advertise and is_wildcard(split_host_port(settings.node.bind)[0]):
        return (
            "only this machine can dial that: it has no address but loopback now; bring its network up,"
            " or start the node with --advertise HOST:PORT, as others reach it"
        )
    return "only this machine can dial that; for others, start the node with --host 0.0.0.0"


def _status_of_running(flags: dict[str, Any]) -> Object | None:
    try:
        return ask(running_at(flags), {"cmd": "status"})
    except NoAnswer:
        return None


def _address_set(settings: Settings) -> str:
    """Where others would reach a node with these settings."""
    if settings.node.advertise:
        return settings.node.advertise
    host, port = split_host_port(settings.node.bind)
    with suppress(ValueError):  # a name is left to whoever dials it
        host = outside_host(host, socket.AF_INET6 if ":" in host else socket.AF_INET)
    return join_host_port(host, port)


@click.command()
@click.pass_obj
def join(flags: dict[str, Any]) -> int:
    """Take the line that `invite` printed, from stdin or typed without echo, and write key and settings."""
    if sys.stdin.isatty():
        line = getpass.getpass("The invitation (it is not shown): ")
    else:
        line = sys.stdin.readline(LINE_CHARACTERS)
    invitation = Invitation.read(line)
    chosen = flags.get("app.config") or os.environ.get("GRAPEVINE_CONFIG")
    path = expanded("app.config", chosen) if chosen else own_config_file()
    is_own = path == own_config_folder() / CONFIG_FILE
    joined = accept(invitation, path, is_own=is_own)
    key = invitation.key.fingerprint
    kept = "made" if joined.is_new_key else "had already"
    click.echo(printable(f"{kept} the cluster key {key} in {joined.key_file}"))
    changed = ", ".join(joined.changed) or "nothing; all was there"
    click.echo(printable(f"set in {joined.config_file}: {changed}"))
    option = "" if is_own else f" --config {path}"
    click.echo(printable(f"now start it: grapevine-tui{option}"))
    return 0


def _say(words: str) -> None:
    click.echo(printable(f"grapevine-tui: {words}"), err=True)
