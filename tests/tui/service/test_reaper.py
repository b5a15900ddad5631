"""As process 1, a node reaps orphaned zombies that no other code waits for, and only those."""

from __future__ import annotations

import subprocess
import sys

from grapevine_tui.service.reaper import Reaper, zombie_children


def test_a_child_that_stays_dead_is_collected_at_the_second_sweep() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    while child.pid not in zombie_children():
        pass
    reaper = Reaper()
    assert reaper.reap() == 0
    assert child.pid in zombie_children()
    assert reaper.reap() >= 1
    assert child.pid not in zombie_children()
    child.wait()  # finds no child left


def test_a_child_that_lives_is_left_alone() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    reaper = Reaper()
    reaper.reap()
    reaper.reap()
    child.communicate(b"\n")
    assert child.returncode == 0
