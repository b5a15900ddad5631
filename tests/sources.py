"""Python sources as syntax trees."""

from __future__ import annotations

import ast
import gc
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
"""Root of the repository."""


def tree_of(path: Path) -> ast.Module:
    """Returns the syntax tree of one file. On Python 3.11 `ast.parse` fails if the garbage collector runs a
    callback meanwhile, such as hypothesis's."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    finally:
        if was_enabled:
            gc.enable()
