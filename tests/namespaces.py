"""Linux namespaces for tests that need networks of their own.

Invariants:

- Namespaces live as long as the process that holds them, which ends when its standard input closes: however
  the tests end, nothing is left behind.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

TOOLS: Final = ("unshare", "nsenter", "ip")


def why_not(purpose: str, trial: Sequence[str], *tools: str) -> str:
    """Returns why `purpose` has no namespaces here; empty: it has. It needs root, `TOOLS` and `tools`, and
    that the command `trial` succeeds."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return f"{purpose} needs root on Linux"
    missing = [name for name in (*TOOLS, *tools) if shutil.which(name) is None]
    if missing:
        return f"{purpose} needs {' and '.join(missing)} (packages iproute2, nftables, util-linux)"
    tried = subprocess.run(trial, capture_output=True, check=False)
    return "" if tried.returncode == 0 else f"{purpose} needs network namespaces"


class NamespaceHolder:
    """Holds new namespaces until it is closed.

    Args:
        unshare: which, as options of unshare(1).
    """

    def __init__(self, *unshare: str) -> None:
        self._process = subprocess.Popen(
            ["unshare", *unshare, "sh", "-c", "echo; exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        self._process.stdout.readline()  # the namespaces exist

    @property
    def pid(self) -> int:
        """The process that holds them: `nsenter -t PID` enters them."""
        return self._process.pid

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.kill()
        self._process.wait()
