"""The table of anti-entropy rounds: its rows and its title.

Invariants: pure functions of the model, testable without a screen.
"""

from __future__ import annotations

import time
from typing import Final

from textual.content import Content

from grapevine_proto.events import (
    Round,
    RoundOutcome,
)
from grapevine_proto.ids import PeerId
from grapevine_tui.app.widgets.format import format_bytes, format_count, format_latency
from grapevine_tui.app.widgets.grid import Cell, Column, Row
from grapevine_tui.app.widgets.status_glyphs import OUTCOME_GLYPHS
from grapevine_tui.app.widgets.titles import format_title
from grapevine_tui.host.model import Model, RoundEntry
from grapevine_tui.text import printable

MAX_ROUND_ROWS: Final = 200
ROUND_COLUMNS: Final = (
    Column("time", 8, drop_rank=3),
    Column("peer", 7, grow=1),
    Column("outcome", 14, grow=2),
    Column("bytes", 7, is_right_aligned=True, drop_rank=1),
    Column("took", 6, is_right_aligned=True, drop_rank=2),
)


OUTCOMES: Final = tuple(RoundOutcome)


def round_rows(model: Model) -> list[Row]:
    """Return the newest `MAX_ROUND_ROWS` rounds, newest first."""
    latest = [model.rounds[-1 - back] for back in range(min(MAX_ROUND_ROWS, len(model.rounds)))]
    return [_round_row(model, entry) for entry in latest]


def format_round(round_info: Round) -> str:
    """Return the outcome of a round, with its message counts if any were repaired."""
    if round_info.in_sync or round_info.outcome not in (
        RoundOutcome.REPAIRED,
        RoundOutcome.PARTIAL,
    ):
        return OUTCOME_GLYPHS[round_info.outcome].label
    text = f"sent {format_count(round_info.sent)} got {format_count(round_info.received)}"
    if round_info.outcome is RoundOutcome.REPAIRED:
        return text
    return f"partial, {text}" if round_info.sent or round_info.received else "partial"


def round_key(entry: RoundEntry) -> tuple[int, PeerId]:
    return entry.round.number, entry.round.peer


def _round_row(model: Model, entry: RoundEntry) -> Row:
    round_info = entry.round
    glyph, _, tone = OUTCOME_GLYPHS[round_info.outcome]
    is_finished = round_info.outcome is not RoundOutcome.RUNNING
    return Row(
        round_key(entry),
        (
            Cell(time.strftime("%H:%M:%S", time.localtime(entry.at_unix)), "dim"),
            Cell(printable(model.name_of(round_info.peer)), "key"),
            Cell(f"{glyph} {format_round(round_info)}", tone),
            Cell(
                format_bytes(round_info.bytes) if is_finished and round_info.bytes else "", "text"
            ),
            Cell(format_latency(round_info.duration_s) if is_finished else "", "text"),
        ),
        sort_values=(
            entry.at_unix,
            model.name_of(round_info.peer).casefold(),
            OUTCOMES.index(round_info.outcome),
            round_info.bytes,
            round_info.duration_s,
        ),
    )


def seconds_to_round(model: Model, now: float) -> int | None:
    """Return whole seconds until the next round, or None if none is scheduled."""
    if not model.stats.next_round_at:
        return None
    wait_s = model.stats.next_round_at - now
    return max(0, round(wait_s)) if wait_s < 86_400 * 2 else None


def round_number(model: Model) -> int:
    return model.rounds[-1].round.number if model.rounds else 0


def round_title(
    model: Model, now: float, filtered: list[tuple[str, str]], *, is_short: bool = False
) -> Content:
    wait_s = seconds_to_round(model, now)
    number = round_number(model)
    parts = [("off", "$text-muted")] if wait_s is None else [(f"next in {wait_s} s", "$accent")]
    parts = [] if model.outdated_since else parts
    name = f"Anti-entropy {'' if is_short else 'round '}{number}" if number else "Anti-entropy"
    return format_title(name, *parts, *filtered)
