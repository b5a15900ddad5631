"""Finds the containers of a live engine by walking its objects."""

from __future__ import annotations

import ast
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tests.sources import tree_of

MUTABLE: Final = (dict, list, set, deque, bytearray)
PACKAGE: Final = "grapevine_proto"


def attributes(thing: object) -> Iterator[tuple[str, Any]]:
    """Yields every attribute that is set: in `__dict__`, in slots, or of a compiled class."""
    for cls in type(thing).__mro__:
        for name in _declared(cls):
            mangled = f"_{cls.__name__.lstrip('_')}{name}" if name.startswith("__") else name
            if hasattr(thing, mangled):
                yield name, getattr(thing, mangled)
    yield from vars(thing).items() if hasattr(thing, "__dict__") else ()


def _declared(cls: type) -> tuple[str, ...]:
    """The attributes that `cls` adds to its base class."""
    inherited = getattr(cls.__base__, "__mypyc_attrs__", ())
    compiled = [each for each in cls.__dict__.get("__mypyc_attrs__", ()) if each not in inherited]
    return (*cls.__dict__.get("__slots__", ()), *compiled)


def containers_of(root: object) -> dict[str, set[int]]:
    """Returns the containers of the package's objects reachable from `root`, as ``Class.attribute``, with
    the sizes found."""
    return {name: set(sizes) for name, sizes in sizes_of(root).items()}


def sizes_of(root: object) -> dict[str, list[int]]:
    """Like `containers_of`, with the size of each container."""
    found: dict[str, list[int]] = {}
    seen: set[int] = set()
    waiting: list[object] = [root]
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, dict):
            waiting += [*thing.keys(), *thing.values()]
        elif isinstance(thing, (list, tuple, set, frozenset, deque)):
            waiting += thing
        elif type(thing).__module__.startswith(PACKAGE) and not isinstance(thing, type):
            for name, value in attributes(thing):
                if isinstance(value, MUTABLE):
                    found.setdefault(f"{_owner(thing, name)}.{name}", []).append(len(value))
                waiting.append(value)
    return found


def _owner(thing: object, name: str) -> str:
    """Returns the name of the class that declares the attribute."""
    for cls in type(thing).__mro__:
        if name in getattr(cls, "__slots__", ()):
            return cls.__name__
    return type(thing).__name__


# --- what the source declares -----------------------------------------------------------------------

MAKERS: Final = frozenset(
    {"dict", "list", "set", "deque", "OrderedDict", "Counter", "defaultdict", "bytearray"}
)
DISPLAYS: Final = (ast.Dict, ast.List, ast.Set, ast.DictComp, ast.ListComp, ast.SetComp)


def declared_containers(directory: Path, outside: frozenset[str]) -> set[str]:
    """The containers that the source of classes below `folder` assigns to ``self``, as
    ``Class.attribute``; modules and packages named in `outside` are not looked at."""
    found: set[str] = set()
    for path in sorted(directory.rglob("*.py")):
        if path.relative_to(directory).parts[0].removesuffix(".py") in outside:
            continue
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ClassDef):
                found |= {f"{node.name}.{name}" for name in _assigned(node)}
    return found


def _assigned(cls: ast.ClassDef) -> Iterator[str]:
    for node in ast.walk(cls):
        targets: list[ast.expr] = []
        if isinstance(node, ast.AnnAssign):
            targets = [node.target]
        elif isinstance(node, ast.Assign):
            targets = node.targets
        else:
            continue
        if node.value is None or not _makes_container(node.value):
            continue
        for target in targets:
            if (
                isinstance(target, ast.Attribute)
                and isinstance(target.value, ast.Name)
                and target.value.id == "self"
            ):
                yield target.attr


def _makes_container(value: ast.expr) -> bool:
    if isinstance(value, DISPLAYS):
        return True
    if isinstance(value, ast.BinOp):  # [0] * n
        return _makes_container(value.left)
    if isinstance(value, ast.Subscript):
        return _makes_container(value.value)
    if not isinstance(value, ast.Call):
        return False
    called = value.func
    if isinstance(called, ast.Attribute):  # dict.fromkeys
        called = called.value
    return isinstance(called, ast.Name) and called.id in MAKERS
