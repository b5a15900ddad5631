"""How the process ends: exit codes, time limits for leaving the cluster, and a forced exit.

Invariants:

- One table maps errors to exit codes; the command line, headless nodes and the app all use it.
- A disk or a network file system that hangs, or a thread that waits for one, does not keep the process
  alive beyond its time limit.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from grapevine_proto.errors import (
    BindError,
    ConfigError,
    KeyFileError,
    NoMatchingMember,
    StateLockedError,
    StorageError,
)

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_KEY_FILE, EXIT_BIND, EXIT_STATE_DIR = 0, 1, 2, 3, 4, 5
EXIT_NO_MEMBER: Final = 6
EXIT_INTERRUPTED: Final = 130
EXIT_CODE_BY_ERROR: Final[tuple[tuple[type[BaseException], int], ...]] = (
    (StorageError, EXIT_FAILED),  # may be temporary, so a service manager should retry
    (ConfigError, EXIT_USAGE),
    (KeyFileError, EXIT_KEY_FILE),
    (BindError, EXIT_BIND),
    (StateLockedError, EXIT_STATE_DIR),
    (NoMatchingMember, EXIT_NO_MEMBER),
)

INTERACTIVE_LEAVE_TIMEOUT_S: Final = 2.0  # a user waits for the shell; several round trips fit
SIGNAL_LEAVE_TIMEOUT_S: Final = 0.3  # of the 500 ms within which a signal ends the process


def exit_code_for(error: BaseException) -> int:
    """Return the exit code for `error`, EXIT_FAILED if the table does not list it."""
    return next((code for kind, code in EXIT_CODE_BY_ERROR if isinstance(error, kind)), EXIT_FAILED)


def force_exit_after(
    seconds: float, code: int, before_exit: Callable[[], object] | None = None
) -> None:
    """End the process with `code` if it still runs after `seconds`; call `before_exit` first."""

    def force_exit() -> None:
        time.sleep(seconds)
        with suppress(Exception):
            if before_exit is not None:
                before_exit()
        os._exit(code)

    threading.Thread(target=force_exit, name="forced exit", daemon=True).start()
