"""Discovery among the nodes of one user on one machine: their state directories are the registry.

Invariants:

- A node writes the file `address` in its own state directory and removes it when it stops. A file whose
  process has ended is ignored.
- Nodes of other clusters are not named: the file has a mark that only holders of the cluster key can make.
- Only files that belong to this user or to root, and that no one else can write, are read.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Final

from grapevine_proto.errors import ConfigError
from grapevine_proto.ids import Address
from grapevine_proto.runtime.discovery.source import OwnNode
from grapevine_proto.storage.atomic_file import PRIVATE_MODE, atomic_write
from grapevine_proto.storage.permissions import read_trusted

FILE_NAME: Final = "address"
POLL_INTERVAL_S: Final = 0.25
MAX_FILE_BYTES: Final = 4096
MAX_DIRECTORIES: Final = 1024  # looked at
MARK_DOMAIN: Final = b"grapevine local 1"


class LocalDiscovery:
    """The running nodes whose state directories are beside that of this node. The node needs one."""

    name = "local"

    def __init__(self) -> None:
        self._own_directory: Path | None = None
        self._marks: set[str] = set()
        self._reported: list[str] | None = None

    async def announce(self, own: OwnNode) -> None:
        if own.state_dir is None:
            raise ConfigError("discovery", "local discovery needs a state directory")
        self._own_directory = Path(own.state_dir)
        marks = own.marks(MARK_DOMAIN)
        self._marks = set(marks)
        address = own.addresses[0]
        if own.is_wildcard:
            address = Address("::1" if ":" in address.host else "127.0.0.1", address.port)
        line = f"{os.getpid()} {address} {','.join(marks)}\n"
        atomic_write(self._own_directory / FILE_NAME, line.encode(), mode=PRIVATE_MODE)

    async def withdraw(self) -> None:
        if self._own_directory is not None:
            with contextlib.suppress(OSError):
                (self._own_directory / FILE_NAME).unlink()

    async def addresses(self) -> list[str]:
        while (found := self._look()) == self._reported:  # noqa: ASYNC110  files of other processes
            await asyncio.sleep(POLL_INTERVAL_S)
        self._reported = found
        return found

    def _look(self) -> list[str]:
        if self._own_directory is None:
            return []
        found = []
        with os.scandir(self._own_directory.parent) as entries:
            for _, entry in zip(range(MAX_DIRECTORIES), entries, strict=False):
                if entry.name != self._own_directory.name and entry.is_dir():
                    found += self._read(Path(entry.path) / FILE_NAME)
        return sorted(found)

    def _read(self, path: Path) -> list[str]:
        """Returns the address of the node that runs there, if it is one of this cluster."""
        try:
            data = read_trusted(
                path, limit_bytes=MAX_FILE_BYTES, forbidden_mode=0o022, has_strict_parents=False
            )
            pid, address, marks = data.decode("ascii").split()
            os.kill(int(pid), 0)
        except (OSError, ValueError, OverflowError):
            return []  # no node runs there
        return [address] if self._marks & set(marks.split(",")) else []
