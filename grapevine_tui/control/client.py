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
from typing import Any, BinaryIO, Final

from grapevine_proto.errors import ConfigError, GrapevineError, NoMatchingMember
from grapevine_proto.storage.permissions import UntrustedFile
from grapevine_tui.config.settings import load_settings
from grapevine_tui.config.user_files import expand_user, user_state_directory
from grapevine_tui.control.jsonlines import NO_MEMBER_CODE, Object
from grapevine_tui.control.socket_file import SOCKET_NAME, check_server_owner, connectable_path

REPLY_TIMEOUT_S: Final = 30.0  # a broadcast may wait for backpressure; other replies are immediate
LEAVE_TIMEOUT_S: Final = 15.0  # for the node to stop after it acknowledged `leave`
PROBE_TIMEOUT_S: Final = 0.1  # to see whether another node listens


class NodeUnreachable(GrapevineError):
    """No node answers at the control socket, or the answer is not a node's."""


class CommandFailed(GrapevineError):
    """The node refused the command; the message is the node's."""


def send_command(state_dir: Path, command: Object, timeout_s: float = REPLY_TIMEOUT_S) -> Object:
    """Send one command to the node that runs on `state_dir` and return its reply, within `timeout_s`.

    Blocks until the reply is there; after `leave`, until the node has stopped. Raises NodeUnreachable,
    CommandFailed, and NoMatchingMember if a query asked no member.
    """
    with _connected(state_dir) as (sock, stream):
        sock.settimeout(timeout_s)
        sock.sendall(json.dumps(command).encode() + b"\n")
        line = stream.readline()
        if command["cmd"] == "leave" and line:
            sock.settimeout(LEAVE_TIMEOUT_S)
            stream.read()  # until the node has stopped and the socket closes
    return _checked_reply(state_dir, line)


def stream_events(
    state_dir: Path, command: Object, *, with_reply: bool = False
) -> Iterator[Object]:
    """Send a command that events follow to the node that runs on `state_dir`; yield each event, before them
    the reply if `with_reply`, until the node stops. Raises NodeUnreachable, CommandFailed."""
    with _connected(state_dir) as (sock, stream):
        sock.sendall(json.dumps(command).encode() + b"\n")
        reply = _checked_reply(state_dir, stream.readline())
        if with_reply:
            yield reply
        sock.settimeout(None)
        for line in stream:
            yield json.loads(line)


@contextmanager
def _connected(state_dir: Path) -> Iterator[tuple[socket.socket, BinaryIO]]:
    """A connection to the node, whose errors become NodeUnreachable."""
    if not hasattr(socket, "AF_UNIX"):
        raise NodeUnreachable("the control socket needs Unix sockets, which this system lacks")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(REPLY_TIMEOUT_S)
        try:
            with connectable_path(state_dir / SOCKET_NAME) as path:
                sock.connect(path)
            check_server_owner(sock, state_dir / SOCKET_NAME)
            with sock.makefile("rb") as stream:
                yield sock, stream
        except TimeoutError:
            raise NodeUnreachable(f"the node at {state_dir} does not answer") from None
        except UntrustedFile as error:
            raise NodeUnreachable(f"{state_dir / SOCKET_NAME}: {error.strerror}") from None
        except OSError as error:
            is_absent = error.errno in (errno.ENOENT, errno.ECONNREFUSED)
            reason = "no node is running there" if is_absent else error.strerror
            raise NodeUnreachable(
                f"no node answers at {state_dir / SOCKET_NAME}: {reason}"
                f"{_suggest_other_node(state_dir)}"
            ) from None


def _checked_reply(state_dir: Path, line: bytes) -> Object:
    try:
        reply: Object = json.loads(line)
        is_ok = reply["ok"]
    except (ValueError, KeyError, TypeError):
        raise NodeUnreachable(
            f"the process that answers at {state_dir} is not a Grapevine node"
        ) from None
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
