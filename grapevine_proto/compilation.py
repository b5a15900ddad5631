"""Whether the core runs compiled, and the switch that runs its sources instead.

A wheel built with the hook `mypyc` holds a compiled module beside the source of each module of the core.
Python prefers the compiled one.

Importing this module obeys the switch, so `grapevine_proto` imports it first.

Invariants: with `SWITCH` set, no compiled module of this package is loaded. Both forms of the core do the
same: the same seed gives the same run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import EXTENSION_SUFFIXES, FileFinder, ModuleSpec, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Final, TypeVar

SWITCH: Final = "GRAPEVINE_INTERPRETED"  # environment variable; any value but the empty one
PACKAGE: Final = "grapevine_proto"


class SourceFinder:
    """A finder for `sys.meta_path`: the modules of this package by their sources alone."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if path is None or not fullname.startswith(f"{PACKAGE}."):
            return None
        for directory in path:
            spec = FileFinder(directory, (SourceFileLoader, [".py"])).find_spec(fullname, target)
            if spec is not None:
                return spec
        return None


if os.environ.get(SWITCH):
    sys.meta_path.insert(0, SourceFinder())


T = TypeVar("T")


def mypyc_attr(*attrs: str, **kwattrs: object) -> Callable[[T], T]:
    """The decorator of this name in `mypy_extensions`, which tells mypyc how to compile a class, for example
    with `allow_interpreted_subclasses`. Nothing else reads it."""
    return lambda decorated: decorated


def describe(module_file: str) -> str:
    """``yes``, or ``no`` with the reason, for the file from which a module of the core was loaded."""
    path = Path(module_file)
    if path.suffix != ".py":
        return "yes"
    has_compiled = any(path.with_suffix(suffix).exists() for suffix in EXTENSION_SUFFIXES)
    return f"no ({SWITCH} is set)" if has_compiled else "no (built without)"
