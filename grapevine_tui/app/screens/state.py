"""The keyed state: each key with its winner, and the entries of other members below it.

Invariants: rows are what the node returned last; the app fetches them again when an entry changes. All texts
are printable.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from textual.content import Content
from textual.message import Message

from grapevine_proto.ids import PeerId
from grapevine_tui.app.screens.table import TableScreen
from grapevine_tui.app.widgets.fact_sheet import Fact
from grapevine_tui.app.widgets.grid import Cell, Column, Grid, Row
from grapevine_tui.app.widgets.titles import filter_status, format_title
from grapevine_tui.host.model import Model, StateView
from grapevine_tui.text import json_payload_text, printable, truncate

Entry = Mapping[str, Any]
"""The JSON fields of an entry."""

MAX_VALUE_CELLS: Final = 200
EMPTY_TEXT: Final = "No keys yet. /state set KEY TEXT sets one."
COLUMNS: Final = (
    Column("key", 14, grow=2),
    Column("value", 14, grow=3),
    Column("owner", 9, grow=1),
    Column("note", 9, grow=1, drop_rank=1),
    Column("until", 8, drop_rank=3),
    Column("clock", 6, is_right_aligned=True, drop_rank=2),
)


def format_value(entry: Entry) -> str:
    """Return the value of an entry as printable text of one line."""
    if entry["deleted"]:
        return "(expired)" if entry["ttl_s"] else "(deleted)"
    return truncate(printable(json_payload_text(entry)), MAX_VALUE_CELLS) or "(empty)"


def entry_note(entry: Entry) -> tuple[str, str]:
    """Return what is unusual about an entry, and its tone."""
    if entry["conflict"]:
        return "conflict", "bad"
    if entry["clock_ahead"]:
        return "clock ahead", "warn"
    if entry["topic"]:
        return f"topic {printable(entry['topic'])}", "dim"
    if entry["durable"]:
        return "durable", "dim"
    return ("", "dim") if entry["winner"] else ("loses", "dim")


def format_end(entry: Entry, fetched_at_unix: float) -> str:
    """Return the time of day at which an entry ends."""
    if entry["remaining_s"] is None:
        return "-"
    end = fetched_at_unix + entry["remaining_s"]
    return time.strftime("%H:%M:%S", time.localtime(end))


def state_rows(model: Model, view: StateView) -> list[Row]:
    """Return a row for each entry: the winner of its key, then the others."""
    rows: list[Row] = []
    for key in view.keys:
        for entry in (key["winner"], *key["others"]):
            if entry is not None:
                rows.append(_entry_row(model, entry, view.fetched_at_unix))
    return rows


def _entry_row(model: Model, entry: Entry, fetched_at_unix: float) -> Row:
    is_winner = entry["winner"]
    owner = PeerId.parse(entry["owner"])
    key = printable(entry["key"])
    note, note_tone = entry_note(entry)
    tone = "text" if is_winner and not entry["deleted"] else "dim"
    end = format_end(entry, fetched_at_unix)
    name = printable(model.name_of(owner))
    return Row(
        (entry["key"], owner),
        (
            Cell(key if is_winner else f"└ {key}", "key" if tone == "text" else "dim"),
            Cell(format_value(entry), tone),
            Cell(name, tone),
            Cell(note or "-", note_tone),
            Cell(end, "dim"),
            Cell(f"{entry['clock']:,}", "dim"),
        ),
        sort_values=(
            key.casefold(),
            format_value(entry).casefold(),
            name.casefold(),
            note,
            end,
            entry["clock"],
        ),
    )


def _find_entry(view: StateView, key: str, owner: PeerId) -> Entry | None:
    found = next((each for each in view.keys if each["key"] == key), None)
    entries = [] if found is None else [found["winner"], *found["others"]]
    return next((each for each in entries if each and each["owner"] == str(owner)), None)


def entry_text(view: StateView, key: str, owner: PeerId) -> str:
    """Return the value of an entry as printable text that can be copied; empty if it is not text."""
    entry = _find_entry(view, key, owner)
    return "" if entry is None else printable(entry.get("text", ""))


def entry_facts(model: Model, view: StateView, key: str, owner: PeerId) -> list[Fact] | None:
    """Return the facts about one entry, or None if it is gone."""
    entry = _find_entry(view, key, owner)
    if entry is None:
        return None
    note, tone = entry_note(entry)
    rank = "winner: the key has this value" if entry["winner"] else "another entry is the winner"
    facts = [
        Fact("key", printable(key), "key"),
        Fact("value", format_value(entry)),
        Fact("owner", printable(model.name_of(owner))),
        Fact("owner id", str(owner), "accent"),
        Fact("rank", rank, "text" if entry["winner"] else "warn"),
        Fact("clock", f"{entry['clock']:,}"),
        Fact("version", f"epoch {entry['epoch']}, sequence {entry['sequence']:,}"),
    ]
    if entry["remaining_s"] is not None:
        facts.append(Fact("ends at", format_end(entry, view.fetched_at_unix)))
    return [*facts, Fact("note", note, tone)] if note and note != "loses" else facts


class StateScreen(TableScreen):
    """All keys that begin with a prefix in a table, with a filter."""

    FILTER_HINT = "words key:cfg owner:bob value:on -not"

    class EntrySelected(Message):
        """Enter was pressed on an entry."""

        def __init__(self, key: str, owner: PeerId) -> None:
            super().__init__()
            self.key = key
            self.owner = owner

    def __init__(self, model: Model, prefix: str = "") -> None:
        super().__init__("state", Grid(COLUMNS, empty=EMPTY_TEXT, id="state"))
        self._model = model
        self.prefix = prefix

    def show(self) -> None:
        """Show what was fetched last."""
        self.table.set_rows(state_rows(self._model, self._model.state))
        self.update_title()

    def build_title(self) -> Content:
        view = self._model.state
        parts: Sequence[tuple[str, str]] = (
            *([(printable(self.prefix), "$accent")] if self.prefix else []),
            *([("more keys follow: give a prefix", "$warning")] if view.has_more else []),
            *filter_status(self.table.filter_query, len(self.table.rows)),
        )
        return format_title(f"State {len(view.keys):,}", *parts)

    def on_grid_row_selected(self, message: Grid.RowSelected) -> None:
        message.stop()
        match message.key:
            case (str(key), PeerId() as owner):
                self.post_message(self.EntrySelected(key, owner))
