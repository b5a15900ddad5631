"""Client side of the control socket: finds a running node and sends it one command.

Invariants:

- Neither Textual nor an event loop is needed, so `ctl` starts quickly.
- A reply is accepted only from a process of this user or of root.
"""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Final, assert_never

from grapevine_proto.errors import ConfigError, GrapevineError, NoMatchingMember
from grapevine_proto.storage.permissions import UntrustedFile
from grapevine_tui.config.settings import load_settings
from grapevine_tui.config.user_files import expand_user, user_state_directory
from grapevine_tui.control.jsonlines import NO_MEMBER_CODE, Object
from grapevine_tui.control.read_only import refuse_act_request
from grapevine_tui.control.socket_file import SOCKET_NAME, check_server_owner, connectable_path
from grapevine_tui.control.target import (
    LocalTarget,
    NodeUnreachable,
    SshTarget,
    Target,
    as_target,
    start_ssh,
)

REPLY_TIMEOUT_S: Final = 30.0  # a broadcast may wait for backpressure; other replies are immediate
LEAVE_TIMEOUT_S: Final = 15.0  # for the node to stop after it acknowledged `leave`
CLOSED_TEXT: Final = "connection closed"
PROBE_TIMEOUT_S: Final = 0.1  # to see whether another node listens


class CommandFailed(GrapevineError):
    """The node refused the command; the message is the node's."""


def send_command(
    where: Target | Path, command: Object, timeout_s: float = REPLY_TIMEOUT_S
) -> Object:
    """Send one command to a node and return its reply, within `timeout_s`.

    Blocks until the reply is there; after `leave`, until the node has stopped. Raises NodeUnreachable,
    CommandFailed, ReadOnly, and NoMatchingMember if a query asked no member.
    """
    with _command_sent(where, command, timeout_s) as (sock, stream):
        line = stream.readline()
        if command["cmd"] == "leave" and line:
            sock.settimeout(LEAVE_TIMEOUT_S)
            stream.read()  # until the node has stopped and the socket closes
        return _checked_reply(where, line)


def stream_events(
    where: Target | Path, command: Object, *, with_reply: bool = False
) -> Iterator[Object]:
    """Send a command that events follow to a node; yield each event, before them the reply if `with_reply`,
    until the node stops. Raises NodeUnreachable, CommandFailed, ReadOnly."""
    with _command_sent(where, command, REPLY_TIMEOUT_S) as (sock, stream):
        reply = _checked_reply(where, stream.readline())
        if with_reply:
            yield reply
        sock.settimeout(None)
        for line in stream:
            yield json.loads(line)


@contextmanager
def _command_sent(
    where: Target | Path, command: Object, timeout_s: float
) -> Iterator[tuple[socket.socket, BinaryIO]]:
    """A connection to the node on which `command` was sent. Errors become NodeUnreachable."""
    target = as_target(where)
    if target.is_readonly:
        refuse_act_request(command)
    with connected(target) as sock:
        try:
            sock.settimeout(timeout_s)
            sock.sendall(json.dumps(command).encode() + b"\n")
            with sock.makefile("rb") as stream:
                yield sock, stream
        except TimeoutError:
            raise NodeUnreachable(f"the node at {_place(target)} does not answer") from None


@contextmanager
def connected(target: Target) -> Iterator[socket.socket]:
    """A connection to the node. Errors become NodeUnreachable."""
    match target:
        case LocalTarget():
            with _connected_here(target) as sock:
                yield sock
        case SshTarget():
            with _connected_over_ssh(target) as sock:
                yield sock
        case _:
            assert_never(target)


@contextmanager
def _connected_here(target: LocalTarget) -> Iterator[socket.socket]:
    if not hasattr(socket, "AF_UNIX"):
        raise NodeUnreachable("the control socket needs Unix sockets, which this system lacks")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(REPLY_TIMEOUT_S)
        try:
            with connectable_path(target.socket_path) as path:
                sock.connect(path)
            check_server_owner(sock, target.socket_path)
            yield sock
        except TimeoutError:
            raise NodeUnreachable(f"the node at {target.state_dir} does not answer") from None
        except UntrustedFile as error:
            raise NodeUnreachable(f"{target.socket_path}: {error.strerror}") from None
        except OSError as error:
            is_absent = error.errno in (errno.ENOENT, errno.ECONNREFUSED)
            reason = "no node is running there" if is_absent else error.strerror
            raise NodeUnreachable(
                f"no node answers at {target.socket_path}: {reason}"
                f"{_suggest_other_node(target.state_dir)}"
            ) from None


@contextmanager
def _connected_over_ssh(target: SshTarget) -> Iterator[socket.socket]:
    sock, ssh = start_ssh(target)
    with sock:
        try:
            yield sock
        except _NoReply:
            raise NodeUnreachable(f"{target}: {ssh.failure() or CLOSED_TEXT}") from None
        except TimeoutError:
            raise NodeUnreachable(f"{target}: no answer") from None
        except OSError as error:
            raise NodeUnreachable(f"{target}: {ssh.failure() or error.strerror}") from None
        finally:
            ssh.end()


class _NoReply(NodeUnreachable):
    """The other end closed the connection without a word."""


def _place(target: Target) -> str:
    return str(target.state_dir if isinstance(target, LocalTarget) else target)


def _checked_reply(where: Target | Path, line: bytes) -> Object:
    place = _place(as_target(where))
    try:
        reply: Object = json.loads(line)
        is_ok = reply["ok"]
    except (ValueError, KeyError, TypeError):
        error_type = NodeUnreachable if line else _NoReply
        raise error_type(f"the process that answers at {place} is not a Grapevine node") from None
    if not is_ok and reply.get("code") == NO_MEMBER_CODE:
        raise NoMatchingMember(str(reply.get("error")))
    if not is_ok:
        raise CommandFailed(str(reply.get("error")))
    return reply


def _suggest_other_node(state_dir: Path) -> str:
    """Return a hint to append to an error if another node of this user runs, else an empty string."""
    with suppress(OSError):
        own_dir = state_dir.resolve()
        for each in sorted(state_dir.parent.glob(f"*/{SOCKET_NAME}")):
            if each.parent.resolve() != own_dir and _is_node_listening(each):
                return f"; try --state-dir {each.parent}"
    return ""


def _is_node_listening(path: Path) -> bool:
    """Whether a node of this user listens at `path`. A killed node leaves its socket file behind."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock, suppress(OSError):
        sock.settimeout(PROBE_TIMEOUT_S)
        with connectable_path(path) as short:
            sock.connect(short)
        check_server_owner(sock, path)
        return True
    return False


def running_state_dirs() -> list[Path]:
    """Return the state directories of this user's nodes that run with the usual place for their state."""
    with suppress(ConfigError, OSError):  # a user without a home directory
        found = sorted(user_state_directory().glob(f"*/{SOCKET_NAME}"))
        return [each.parent for each in found if _is_node_listening(each)]
    return []


def find_state_dir(flags: dict[str, Any]) -> Path:
    """Return the state directory of the node that the command line selects.

    `flags` are settings by name, as given on the command line. Raises ConfigError, NodeUnreachable.
    """
    if "app.state_dir" in flags:  # an invalid config file must not get in the way
        return expand_user("app.state_dir", flags["app.state_dir"])
    settings = load_settings(flags, os.environ)
    if settings.state_dir is None:
        raise NodeUnreachable("a demo keeps no state and has no control socket")
    if not settings.spare_state_dirs:
        return settings.state_dir
    listening = [
        each for each in (settings.state_dir, *settings.spare_state_dirs) if _has_socket(each)
    ]
    if len(listening) > 1:
        listed = ", ".join(each.name for each in listening)
        raise NodeUnreachable(
            f"several nodes run in {user_state_directory()}: {listed}; choose one with --state-dir"
        )
    return listening[0] if listening else settings.state_dir


def _has_socket(state_dir: Path) -> bool:
    return (state_dir / SOCKET_NAME).exists()
