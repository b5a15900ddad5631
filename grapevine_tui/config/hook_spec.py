"""``--on EVENT COMMAND`` as a value: which program to run when which event happens.

``message:PATTERN`` in place of an event selects the messages of some topics.

Invariants: the command is split once, here, and never passes through a shell.
"""

from __future__ import annotations

import shlex
import shutil
from typing import Final, NamedTuple

from grapevine_proto.errors import ConfigError
from grapevine_proto.storage.permissions import UntrustedFile, check_program
from grapevine_proto.topics import TopicPatterns, pattern_fault

HOOK_EVENTS: Final = (
    *("started", "ready", "message", "peer", "member", "rate_limited", "standing"),
    *("round", "trace", "dropped", "dial_failed", "state_save_failed", "stopped"),
)


class Hook(NamedTuple):
    """A program to run when an event happens; with a `pattern`, for a message of these topics."""

    event: str
    command: tuple[str, ...]
    pattern: str = ""

    @property
    def trigger(self) -> str:
        """The event as it is written after ``--on``."""
        return f"{self.event}:{self.pattern}" if self.pattern else self.event

    def wants(self, event_name: str, topic: str) -> bool:
        """Whether to run for this event; `topic` is that of a message, or empty."""
        if event_name != self.event:
            return False
        return not self.pattern or bool(topic and TopicPatterns((self.pattern,)).matches(topic))

    @classmethod
    def parse(cls, text: str) -> Hook:
        """Parse ``EVENT COMMAND``; the command is split like a shell would, without a shell.

        Raises ValueError whose message completes "expected ...".
        """
        trigger, _, command = text.strip().partition(" ")
        event, colon, pattern = trigger.partition(":")
        if event not in HOOK_EVENTS or (colon and event != "message"):
            raise ValueError(f"one of {', '.join(HOOK_EVENTS)}, then a command")
        if colon and (fault := pattern_fault(pattern)):
            raise ValueError(f"a pattern of topics after message: ({fault})")
        try:
            parts = tuple(shlex.split(command))
        except ValueError:
            raise ValueError("a command whose quotes are closed") from None
        if not parts:
            raise ValueError(f"a command after {trigger}")
        return cls(event, parts, pattern)

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
