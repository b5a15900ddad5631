"""``--on EVENT COMMAND`` as a value: which program to run when which event happens.

``message:PATTERN`` in place of an event selects the messages of some topics, ``entry:PREFIX`` the changes of
some keys, and ``alert:NAME`` one alert. ``query:NAME`` answers the queries of that name
with what the program prints.

Invariants: the command is split once, here, and never passes through a shell.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from grapevine_proto.errors import ConfigError, InvalidArgument
from grapevine_proto.overlay.query.request import check_query_name
from grapevine_proto.runtime.builtin_queries import BUILTIN_PREFIX
from grapevine_proto.storage.permissions import UntrustedFile, check_program
from grapevine_proto.topics import TopicPatterns, pattern_fault

HOOK_EVENTS: Final = (
    *("started", "ready", "message", "undelivered", "entry", "peer", "member", "rate_limited"),
    *("standing", "alert"),
    *(
        "round",
        "trace",
        "dropped",
        "dial_failed",
        "discovered",
        "port_mapping",
        "state_save_failed",
    ),
    "stopped",
)

MESSAGE: Final = "message"
ENTRY: Final = "entry"
ALERT: Final = "alert"
QUERY: Final = "query"


def _check_query_name(name: str) -> None:
    try:
        check_query_name(name)
    except InvalidArgument as error:
        raise ValueError(f"the name of a query after query: ({error})") from None
    if name.startswith(BUILTIN_PREFIX):  # the library answers these
        raise ValueError(f"a name that does not begin with {BUILTIN_PREFIX} after query:")


def _split_command(command: str, trigger: str) -> tuple[str, ...]:
    try:
        parts = tuple(shlex.split(command))
    except ValueError:
        raise ValueError("a command whose quotes are closed") from None
    if not parts:
        raise ValueError(f"a command after {trigger}")
    return parts


@dataclass(frozen=True)
class Hook:
    """A program to run when an event happens. A `selector` says for which: a pattern of topics for the event
    ``message``, the beginning of keys for ``entry``, a name for ``alert``; with ``query`` it is the
    name of the queries that the program answers."""

    event: str
    command: tuple[str, ...]
    selector: str = ""

    @property
    def trigger(self) -> str:
        """The event as it is written after ``--on``."""
        return f"{self.event}:{self.selector}" if self.selector else self.event

    @property
    def is_query_handler(self) -> bool:
        """Whether the program answers queries: it runs as their handler, for no event."""
        return self.event == QUERY

    def wants(self, event_name: str, fields: Mapping[str, Any]) -> bool:
        """Whether to run for the JSON event of this name and with these fields."""
        if event_name != self.event or self.is_query_handler:
            return False
        if not self.selector:
            return True
        if self.event == ENTRY:
            return bool(fields["key"].startswith(self.selector))
        if self.event == ALERT:
            return bool(fields["name"] == self.selector)
        return self._topics.matches(fields["topic"])

    @cached_property
    def _topics(self) -> TopicPatterns:
        return TopicPatterns((self.selector,))

    @classmethod
    def parse(cls, text: str) -> Hook:
        """Parse ``EVENT COMMAND``; the command is split like a shell would, without a shell.

        Raises ValueError whose message completes "expected ...".
        """
        trigger, _, command = text.strip().partition(" ")
        event, colon, selector = trigger.partition(":")
        if event == QUERY and selector:
            _check_query_name(selector)
        elif event not in HOOK_EVENTS or (
            colon and event != MESSAGE and not (event in (ENTRY, ALERT) and selector)
        ):
            raise ValueError(f"one of {', '.join(HOOK_EVENTS)}, then a command")
        elif event == MESSAGE and colon and (fault := pattern_fault(selector)):
            raise ValueError(f"a pattern of topics after message: ({fault})")
        return cls(event, _split_command(command, trigger), selector)

    def check(self) -> None:
        """Raise ConfigError if another user can change the program.

        A missing program is not an error here; it is reported when it should run.
        """
        import shutil  # loads three libraries of compression

        program = shutil.which(self.command[0])
        try:
            if program is not None:
                check_program(program)
        except UntrustedFile as error:
            raise ConfigError("app.on", f"{program}: {error.strerror}") from None
        except OSError:
            pass
