"""A signal before the node starts ends the process at once, without output."""

from __future__ import annotations

import subprocess
import sys

import pytest

from grapevine_tui import early_signals
from tests.tui.runs import WAIT_S

# Sends a signal to itself when the first module is loaded that is not the package or `early`.
INTERRUPTED = """
import os, signal, sys
sys.argv[0] = "/usr/bin/grapevine-tui"
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("grapevine") and name not in ("grapevine_tui", "grapevine_tui.early_signals"):
            os.kill(os.getpid(), getattr(signal, "{0}"))
sys.meta_path.insert(0, Interrupting())
import grapevine_tui.cli.main
"""


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 0)])
def test_a_signal_while_the_program_is_loaded_ends_it_without_a_word(name: str, code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED.format(name)],
        capture_output=True,
        timeout=WAIT_S,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (code, b"", b"")


def test_a_program_that_only_imports_ours_keeps_its_signals() -> None:
    assert not early_signals.is_own_process()
