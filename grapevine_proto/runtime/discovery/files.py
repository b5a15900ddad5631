"""Discovery from a file with one address per line, such as templates and cloud-init write.

Invariants: a file is read again when it was changed, and at no other time; a file that is missing or too
large names no address, and that is reported.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Final

from grapevine_proto.config.validate import check_host_port
from grapevine_proto.errors import ConfigError, GrapevineError
from grapevine_proto.ids import expand_ports

POLL_INTERVAL_S: Final = 1.0  # one stat
MAX_FILE_BYTES: Final = 64 * 1024


class FileDiscovery:
    """The addresses in the file at `path`: ``host:port`` or ``host:first-last`` per line. Blank lines and
    what follows a ``#`` are skipped. Another program may replace the file at any time."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        self._version: tuple[int, int, int] | None = None

    @property
    def name(self) -> str:
        return f"@{self.path}"

    async def addresses(self) -> list[str]:
        while (version := self._file_version()) == self._version:  # noqa: ASYNC110  a file tells no one
            await asyncio.sleep(POLL_INTERVAL_S)
        self._version = version
        return self._read()

    def _file_version(self) -> tuple[int, int, int]:
        status = os.stat(self.path)
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _read(self) -> list[str]:
        with self.path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise GrapevineError(f"{self.path}: more than {MAX_FILE_BYTES:,} bytes")
        found: list[str] = []
        for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
            if text := line.partition("#")[0].strip():
                try:
                    check_host_port("peer", text, is_dialed=True, allows_range=True)
                except ConfigError as error:
                    raise GrapevineError(f"{self.path}:{number}: {error}") from None
                found += expand_ports(text)
        return found
