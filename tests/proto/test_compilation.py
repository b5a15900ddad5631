"""Compiled or not: what is said of it, and the switch that loads sources."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

import grapevine_proto
from grapevine_proto.compilation import SWITCH, SourceFinder, describe

SUFFIX = EXTENSION_SUFFIXES[0]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    (tmp_path / "core").mkdir()
    for name in ("engine.py", f"engine{SUFFIX}", "core/__init__.py", f"only_compiled{SUFFIX}"):
        (tmp_path / name).touch()
    return tmp_path


def test_the_core_runs_as_its_environment_says() -> None:
    """Whoever runs the tests against a compiled wheel sets the variable, so that they do."""
    expected = os.environ.get("GRAPEVINE_COMPILED")
    assert expected is None or grapevine_proto.compiled == expected


def test_a_module_loaded_from_its_extension_is_compiled(package: Path) -> None:
    assert describe(str(package / f"engine{SUFFIX}")) == "yes"


def test_a_source_beside_an_extension_was_chosen_by_the_switch(package: Path) -> None:
    assert describe(str(package / "engine.py")) == f"no ({SWITCH} is set)"
    (package / f"engine{SUFFIX}").unlink()
    assert describe(str(package / "engine.py")) == "no (built without)"


def test_the_finder_prefers_sources_and_leaves_everything_else_alone(package: Path) -> None:
    finder, path = SourceFinder(), ["missing", str(package)]
    engine = finder.find_spec("grapevine_proto.engine", path)
    core = finder.find_spec("grapevine_proto.core", path)
    assert engine is not None
    assert core is not None
    assert engine.origin == str(package / "engine.py")
    assert core.submodule_search_locations == [str(package / "core")]
    assert finder.find_spec("grapevine_proto.only_compiled", path) is None
    assert finder.find_spec("grapevine_tui.engine", path) is None
    assert finder.find_spec("grapevine_proto", None) is None


def test_with_the_switch_the_library_runs_from_its_sources() -> None:
    script = (
        "import grapevine_proto, grapevine_proto.engine as e; "
        "print(e.__file__, grapevine_proto.compiled)"
    )
    environment = {**os.environ, SWITCH: "1"}
    command = [sys.executable, "-c", script]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    file, _, compiled = found.stdout.partition(" ")
    assert file.endswith("engine.py")
    assert compiled.startswith("no (")
    assert grapevine_proto.compiled.partition(" ")[0] in ("yes", "no")
