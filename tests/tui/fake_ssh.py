"""A program ``ssh`` that runs the command on this machine, and a program ``grapevine-tui`` on the PATH.

Hosts: ``down`` cannot be reached; every other one is this machine.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

SSH = """#!/bin/sh
echo "$@" >> "$(dirname "$0")/ssh.log"
while [ "$1" != -- ]; do shift; done
host=$2
shift 2
[ "$host" = down ] && { echo "ssh: Could not resolve hostname down" >&2; exit 255; }
exec sh -c "$*"
"""


def install_fake_ssh(directory: Path) -> dict[str, str]:
    """Write both programs to `directory`; return the environment in which they are found first."""
    directory.mkdir()
    own = f'#!/bin/sh\nexec "{sys.executable}" -m grapevine_tui "$@"\n'
    for name, text in (("ssh", SSH), ("grapevine-tui", own)):
        (directory / name).write_text(text)
        (directory / name).chmod(0o755)
    return {"PATH": f"{directory}{os.pathsep}{os.environ['PATH']}"}


def ssh_calls(directory: Path) -> list[str]:
    """The arguments of every call of the fake ssh."""
    return (directory / "ssh.log").read_text().splitlines()
