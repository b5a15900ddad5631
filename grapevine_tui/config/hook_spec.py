"""``--on EVENT COMMAND`` as a value: which program to run when which event happens.

``message:PATTERN`` in place of an event selects the messages of some topics. ``query:NAME`` answers the
queries of that name with what the program prints.

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


QUERY: Final = "query"
MAX_QUERY_NAME_BYTES: Final = 64
BUILTIN_QUERIES: Final = "grapevine."  # answered by the library


def _split_command(command: str, trigger: str) -> tuple[str, ...]:
    try:
        parts = tuple(shlex.split(command))
    except ValueError:
        raise ValueError("a command whose quotes are closed") from None
    if not parts:
        raise ValueError(f"a command after {trigger}")
    return parts


class Hook(NamedTuple):
    """A program to run when an event happens; with a `pattern`, for a message of these topics. With
    `event` ``query`` it answers the queries named `query_name`."""

    event: str
    command: tuple[str, ...]
    pattern: str = ""
    query_name: str = ""

    @property
    def trigger(self) -> str:
        """The event as it is written after ``--on``."""
        selector = self.pattern or self.query_name
        return f"{self.event}:{selector}" if selector else self.event

    def wants(self, event_name: str, topic: str) -> bool:
        """Whether to run for this event; `topic` is that of a message, or empty."""
        if event_name != self.event:
            return False
        return not self.pattern or TopicPatterns((self.pattern,)).matches(topic)

    @classmethod
    def parse(cls, text: str) -> Hook:
        """Parse ``EVENT COMMAND``; the command is split like a shell would, without a shell.

        Raises ValueError whose message completes "expected ...".
        """
        trigger, _, command = text.strip().partition(" ")
        event, colon, pattern = trigger.partition(":")
        if event == QUERY and pattern:
            if pattern.startswith(BUILTIN_QUERIES) or len(pattern.encode()) > MAX_QUERY_NAME_BYTES:
                raise ValueError(
                    f"a name of at most {MAX_QUERY_NAME_BYTES} bytes after query:, which does not "
                    f"begin with {BUILTIN_QUERIES}"
                )
            return cls(event, _split_command(command, trigger), query_name=pattern)
        if event not in HOOK_EVENTS or (colon and event != "message"):
            raise ValueError(f"one of {', '.join(HOOK_EVENTS)}, then a command")
        if colon and (fault := pattern_fault(pattern)):
            raise ValueError(f"a pattern of topics after message: ({fault})")
        return cls(event, _split_command(command, trigger), pattern)

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
