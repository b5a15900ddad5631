"""Where the control socket of a node is: on this machine, or on a host that ssh reaches.

Invariants:

- Either way a connection is one stream socket: over ssh, ``grapevine-tui ctl stream`` on the host joins its
  stdin and stdout to the socket there, so no port opens.
- ssh runs as argv, without a terminal and without questions. A host name that begins with ``-`` is refused:
  it would be an option.
- A read-only target is reached through the socket that answers commands that read, and is sent no other
  (`control.read_only`).
"""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from grapevine_proto.errors import ConfigError, GrapevineError
from grapevine_tui.control.socket_file import SOCKET_NAME, WATCH_SOCKET_NAME

SSH: Final = (
    "ssh", "-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10",
    "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3", "--",
)  # fmt: skip
PROGRAM: Final = "grapevine-tui"
EXIT_WAIT_S: Final = 0.5  # for ssh to end and say why, once it has closed the connection
MAX_STDERR_BYTES: Final = 64 * 1024  # of ssh, as much as a pipe holds; the last line is shown


class NodeUnreachable(GrapevineError):
    """No node answers at the control socket, or the answer is not a node's."""


@dataclass(frozen=True, slots=True)
class LocalTarget:
    """The node that runs on `state_dir` of this machine."""

    state_dir: Path
    is_readonly: bool = False

    @property
    def socket_path(self) -> Path:
        return self.state_dir / (WATCH_SOCKET_NAME if self.is_readonly else SOCKET_NAME)

    def __str__(self) -> str:
        return str(self.socket_path)


@dataclass(frozen=True, slots=True)
class SshTarget:
    """The node on a host as ssh names it. `state_dir` is its directory there, if it is not that of the
    settings there, and `program` the command, if it is not on the PATH. Raises ConfigError."""

    host: str
    state_dir: str = ""
    program: str = PROGRAM
    is_readonly: bool = False

    def __post_init__(self) -> None:
        if not self.host or self.host.startswith("-") or not self.host.isprintable():
            raise ConfigError("ssh", f"expected a host name, got {self.host!r:.80}")

    def argv(self) -> list[str]:
        """The command that connects to the node. The words behind the host go to a shell there."""
        options = ["--state-dir", self.state_dir] if self.state_dir else []
        options += ["--read-only"] if self.is_readonly else []
        return [*SSH, self.host, shlex.join([self.program, "ctl", *options, "stream"])]

    def __str__(self) -> str:
        return f"ssh {self.host}"


Target: TypeAlias = LocalTarget | SshTarget


def as_target(where: Target | Path) -> Target:
    """A state directory stands for the node that runs on it."""
    return LocalTarget(where) if isinstance(where, Path) else where


class SshProcess:
    """One ssh, which ends when it is told to, or when it loses the host."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        assert process.stderr is not None
        self._stderr = process.stderr.fileno()
        os.set_blocking(self._stderr, False)

    def failure(self) -> str:
        """What ssh, or the program on the host, said last; empty if nothing. Blocks for a moment while it
        ends."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(EXIT_WAIT_S)
        text = b""
        with suppress(OSError):  # nothing is there to read
            text = os.read(self._stderr, MAX_STDERR_BYTES)
        lines = text.decode(errors="replace").strip().splitlines()
        return lines[-1].removeprefix(f"{PROGRAM}: ") if lines else ""

    def end(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()
        assert self._process.stderr is not None
        self._process.stderr.close()


def start_ssh(target: SshTarget) -> tuple[socket.socket, SshProcess]:
    """Start to connect to a node over ssh; return the connection and the process behind it. Raises
    NodeUnreachable."""
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            process = subprocess.Popen(
                target.argv(),
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=subprocess.PIPE,
                start_new_session=True,  # no terminal to ask on, and none whose Ctrl+C ends it
            )
        except OSError as error:
            ours.close()
            raise NodeUnreachable(f"{target}: cannot run ssh: {error.strerror}") from None
    return ours, SshProcess(process)
