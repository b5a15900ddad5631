"""Columns that an operator chose: which are dropped first, fields of the JSON, and what stands out.

Invariants: cells are printable; a value stands out against the median of its column, never against a fixed
limit, and is marked by a sign besides its tone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, Final

from grapevine_tui.app.widgets.grid import Cell, Column
from grapevine_tui.config.columns import JSON_PREFIX
from grapevine_tui.config.own_commands import TAG_PREFIX
from grapevine_tui.json_path import find_field, format_field, parse_payload
from grapevine_tui.text import printable, truncate

NO_VALUE: Final = "-"
FIELD_CELLS: Final = 8
JSON_CELLS: Final = 12
MAX_FIELD_CHARACTERS: Final = 200
OUTLIER_FACTOR: Final = 3.0
MIN_COMPARED: Final = 4  # values, below which a median says little
OUTLIER_SIGN: Final = "!"


def columns_of(
    names: Sequence[str], specs: Mapping[str, Column], default: Sequence[str]
) -> list[Column]:
    """The columns of a table. Of chosen ones those at the right are dropped first, and the first never."""
    if tuple(names) == tuple(default):
        return [specs[name] for name in names]
    found = []
    for index, name in enumerate(names):
        title = name.removeprefix(TAG_PREFIX)
        spec = specs.get(name, Column(printable(title), max(FIELD_CELLS, len(title)), grow=1))
        found.append(spec._replace(drop_rank=index))
    return found


def field_cell(row: Mapping[str, Any], name: str) -> tuple[Cell, Any]:
    """The cell and the sort value of a field of JSON, or of ``tag.NAME``."""
    if name.startswith(TAG_PREFIX):
        value = row.get("tags", {}).get(name.removeprefix(TAG_PREFIX))
    else:
        value = row.get(name)
    if value is None or value == "":
        return Cell(NO_VALUE, "dim"), None
    if isinstance(value, bool):
        return Cell("yes" if value else "no"), value
    if isinstance(value, float):
        return Cell(f"{value:,.3f}".rstrip("0").rstrip(".")), value
    if isinstance(value, int):
        return Cell(f"{value:,}"), value
    return Cell(printable(str(value))), str(value).casefold()


def json_titles(names: Sequence[str]) -> list[str]:
    """The titles of the columns ``json:PATH``: the ends of their paths."""
    return [printable(name.removeprefix(JSON_PREFIX).rpartition(".")[2]) for name in names]


def json_texts(payload: bytes, names: Sequence[str]) -> list[str]:
    """What a message has in the columns ``json:PATH``, printable."""
    value = parse_payload(payload) if names else None
    found = (find_field(value, each.removeprefix(JSON_PREFIX)) for each in names)
    return [
        truncate(printable(format_field(each)[:MAX_FIELD_CHARACTERS]), JSON_CELLS) for each in found
    ]


def outlier_limit(values: Sequence[float], min_excess: float) -> float | None:
    """Beyond which value one stands out: three times the median, and at least `min_excess` above it. None
    if too few are known."""
    if len(values) < MIN_COMPARED:
        return None
    middle = median(values)
    return max(OUTLIER_FACTOR * middle, middle + min_excess)


def marked(cell: Cell, value: float | None, limit: float | None) -> Cell:
    """`cell` with a sign and a tone if its value is beyond the limit."""
    if value is None or limit is None or value <= limit:
        return cell
    return cell._replace(text=f"{OUTLIER_SIGN}{cell.text}", tone="warn")
