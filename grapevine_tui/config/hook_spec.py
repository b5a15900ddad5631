"""``--on EVENT COMMAND`` as a value: which program to run when which event happens.

Invariants: the command is split once, here, and never passes through a shell.
"""

from __future__ import annotations

import shlex
import shutil
from typing import Final, NamedTuple

from grapevine_proto.errors import ConfigError
from grapevine_proto.storage.permissions import UntrustedFile, check_program

HOOK_EVENTS: Final = (
    *("started", "ready", "message", "peer", "member", "rate_limited", "standing"),
    *("round", "trace", "dropped", "dial_failed", "state_save_failed", "stopped"),
)


class Hook(NamedTuple):
    """A program to run when an event happens."""

    event: str
    command: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Hook:
        """Parse ``EVENT COMMAND``; the command is split like a shell would, without a shell.

        Raises ValueError whose message completes "expected ...".
        """
        event, _, command = text.strip().partition(" ")
        if event not in HOOK_EVENTS:
            raise ValueError(f"one of {', '.join(HOOK_EVENTS)}, then a command")
        try:
            parts = tuple(shlex.split(command))
        except ValueError:
            raise ValueError("a command whose quotes are closed") from None
        if not parts:
            raise ValueError(f"a command after {event}")
        return cls(event, parts)

    def check(self) -> None:
        """Raise ConfigError if another user can change the program.

        A missing program is not an error here; it is reported when it should run.
        """
        program = shutil.which(self.command[0])
        try:
            if program is not None:
                check_program(program)
        except UntrustedFile as error:
            raise ConfigError("app.on", f"{program}: {error.strerror}") from None
        except OSError:
            pass
