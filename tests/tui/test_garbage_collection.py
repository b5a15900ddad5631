"""What the program loads is never looked at by the garbage collector, and other programs keep theirs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from grapevine_proto import ClusterKey, NodeConfig
from grapevine_tui import garbage_collection
from grapevine_tui.host.local import Host
from tests.tui.runs import WAIT_S

SETTINGS = """
import gc, sys
sys.argv = [{0!r}, "--version"]
import grapevine_tui.cli.main as program
print(gc.isenabled(), gc.get_freeze_count() > 0)
program.run()
print(gc.isenabled(), gc.get_freeze_count() > 10_000)
"""


def settings_of(program: str) -> list[str]:
    """Whether the collector is on and anything is frozen: after loading and, last, in a command."""
    done = subprocess.run(
        [sys.executable, "-c", SETTINGS.format(program)],
        capture_output=True,
        timeout=WAIT_S,
        check=True,
        text=True,
    )
    lines = done.stdout.splitlines()
    return [lines[0], lines[-1]]


def test_the_collector_is_off_while_the_program_loads_and_on_in_its_commands() -> None:
    assert settings_of("/usr/bin/grapevine-tui") == ["False False", "True True"]


def test_a_program_that_only_imports_ours_keeps_its_collector() -> None:
    assert settings_of("/usr/bin/program") == ["True False", "True False"]


@pytest.mark.asyncio
async def test_what_a_node_has_loaded_when_it_starts_is_frozen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frozen: list[bool] = []
    monkeypatch.setattr(garbage_collection, "is_own_process", lambda: True)
    monkeypatch.setattr("gc.freeze", lambda: frozen.append(True))
    host = Host(NodeConfig.local(keys=(ClusterKey.generate(),)), None)
    await host.start()
    assert frozen == [True]
    await host.leave(0.5)
