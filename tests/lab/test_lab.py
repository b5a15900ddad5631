"""The lab itself: what a crash leaves behind, and what it says where it cannot run."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab.network import why_not
from tests.sources import ROOT

CRASH = """
import os, signal, sys
from pathlib import Path
from tests.lab.lab import Lab
lab = Lab(Path(sys.argv[1]))
office = lab.network("192.0.2.0/24")
node = lab.node(lab.host("ada", office))
lab.until_started()
print(node._process.pid, *(each.pid for each in lab._namespaces), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_crash_of_the_lab_leaves_no_process_and_no_namespace(tmp_path: Path) -> None:
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    crashed = subprocess.run(
        [sys.executable, "-c", CRASH, str(tmp_path)],
        env=environ,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert crashed.returncode == -9, crashed.stderr
    pids = [int(line) for line in crashed.stdout.split("\n")[-2].split()]
    assert len(pids) == 3  # the node, the switch and the host
    for pid in pids:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        readable, _, _ = select.select([descriptor], [], [], 60)  # when the process has ended
        os.close(descriptor)
        assert readable, pid


def test_one_line_says_why_the_lab_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    assert why_not() == ""
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "nft" else which(name))
    assert why_not() == "the lab needs nft (packages iproute2, nftables, util-linux)"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert why_not() == "the lab needs root on Linux"
