"""Python sources as syntax trees."""

from __future__ import annotations

import ast
import gc
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
"""The checkout."""


def tree_of(path: Path) -> ast.Module:
    """The tree of one file. On Python 3.11 `ast.parse` fails where the collector runs a callback in the
    middle of it, as hypothesis has one."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    finally:
        if was_on:
            gc.enable()
