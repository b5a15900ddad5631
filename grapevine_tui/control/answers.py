"""Answers to a query as people read them: equal ones together, because they ask which members differ.

Invariants: every text passes `printable`; a long one is cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from grapevine_tui.text import json_payload_text, printable, truncate

MAX_ANSWER_CELLS: Final = 200


class AnswerGroup(NamedTuple):
    """Members that gave the same answer: `text` for people, with the status unless it is an answer."""

    text: str
    status: str
    peer_ids: list[str]


def answer_summary(report: Mapping[str, Any]) -> str:
    """One line: how many of the asked members answered, how fast, and why the query ended."""
    within = "" if report["last_ms"] is None else f" within {report['last_ms']:,} ms"
    end = report["end"] or "running"
    return f"{report['answered']:,} of {report['asked']:,} members answered{within} ({end})"


def group_answers(answers: Sequence[Mapping[str, Any]]) -> list[AnswerGroup]:
    """The groups of equal answers, largest first. Each of `answers` is a JSON event ``answer``."""
    groups: dict[tuple[str, str], AnswerGroup] = {}
    for answer in answers:
        key = (answer["status"], answer["base64"])
        if key not in groups:
            groups[key] = AnswerGroup(_format_answer(answer), answer["status"], [])
        groups[key].peer_ids.append(answer["peer_id"])
    return sorted(groups.values(), key=lambda group: -len(group.peer_ids))


def _format_answer(answer: Mapping[str, Any]) -> str:
    shown = printable(json_payload_text(answer).rstrip("\n"))
    if answer["status"] != "answered":
        shown = f"{answer['status']}: {shown}" if shown else answer["status"]
    return truncate(shown or "(empty)", MAX_ANSWER_CELLS)
