"""What may be asked of a node that is only looked at.

Invariants: whatever is not listed here is an act, so that a new command is refused until it is listed.
"""

from __future__ import annotations

import json
from typing import Any, Final, get_args

from grapevine_proto.errors import GrapevineError
from grapevine_tui.control.commands import (
    AppAct,
    ChangeTags,
    ClientAction,
    Command,
    HighlightCommand,
    MakeReport,
    SearchHistory,
    Show,
    ShowEvents,
    ShowHelp,
    ShowMembers,
    Subscribe,
)
from grapevine_tui.control.jsonlines import Object
from grapevine_tui.control.requests import parse_request
from grapevine_tui.host.access_state import AccessState
from grapevine_tui.host.views import ShowHolders, ShowMatrix, ShowRtt, ShowTopology

READS: Final[tuple[type[Any], ...]] = (
    *(Show, ShowMembers, ShowHelp, ShowEvents, SearchHistory, MakeReport, Subscribe, ClientAction),
    *(ShowRtt, ShowMatrix, ShowTopology, ShowHolders),
    *(*get_args(HighlightCommand), *get_args(AppAct)),  # they act on the screen only
)


REFUSED_TEXT: Final = "refused: this is read-only"


class ReadOnly(GrapevineError):
    """The command would change the node, or what it sends. Nothing was done."""


def is_act(command: Command) -> bool:
    """Whether `command` changes the node, its cluster or its files, or has the node send a message."""
    match command:
        case AccessState(action):
            return action not in ("list", "get", "watch")
        case ChangeTags(action):
            return action != "list"
    return not isinstance(command, READS)


def refuse_act(command: Command) -> None:
    """Raise ReadOnly if `command` is an act."""
    if is_act(command):
        raise ReadOnly(REFUSED_TEXT)


def refuse_act_request(request: Object) -> None:
    """Raise ReadOnly if the JSON command `request` is an act; InvalidRequest if it is none at all."""
    parsed = parse_request(json.dumps(request).encode())
    if parsed is not None:
        refuse_act(parsed.command)
