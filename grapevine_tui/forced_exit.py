"""The last resort: a process that was asked to end, ends.

Invariants:

- What may hang at the end hangs on others: a disk or network file system that does not answer, a
  thread that waits for one. Neither keeps the process alive for longer than it was given.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress


def force_exit_after(
    seconds: float, code: int, before_exit: Callable[[], object] | None = None
) -> None:
    """End the process with `code` if it still runs in `seconds`; call `before_exit` before."""

    def force_exit() -> None:
        time.sleep(seconds)
        with suppress(Exception):
            if before_exit is not None:
                before_exit()
        os._exit(code)

    threading.Thread(target=force_exit, name="last resort", daemon=True).start()
