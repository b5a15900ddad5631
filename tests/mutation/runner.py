"""Runs a module's tests over its mutants, in copies of the checkout.

Invariants:
- The checkout is only read. Each worker has a copy, and restores the mutated module after each run.
- A run is a fork of this process, which has loaded pytest and its plugins but nothing of the library: loading
  those costs more than most tests.
- A run is bounded in processor time and memory, because a mutant may loop for ever. Reaching a bound counts
  as found.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import _hypothesis_pytestplugin  # noqa: F401  these are loaded once, here, and not in each fork
import hypothesis.stateful  # noqa: F401
import msgpack  # noqa: F401
import nacl.signing  # noqa: F401
import pytest
import pytest_asyncio.plugin  # noqa: F401
import uvloop  # noqa: F401

from tests.mutation.own_tests import own_tests
from tests.sources import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.mutation.mutants import Mutant

CPU_LIMIT_S: Final = 40
"""Twice what the slowest tests of one module take."""
WALL_LIMIT_S: Final = 240.0
MEMORY_LIMIT: Final = 4 << 30
IDLE_S: Final = 0.02


@dataclass
class _Run:
    mutant: Mutant
    copy: Path
    started_at: float


def run_mutants(
    mutants: Iterable[Mutant], jobs: int, directory: Path
) -> Iterator[tuple[Mutant, bool]]:
    """Yield each mutant with whether its module's tests found it, in the order in which the runs end.

    `directory` receives one copy of the checkout per job.
    """
    free = [_copy(directory / f"copy-{number}") for number in range(jobs)]
    waiting = iter(mutants)
    running: dict[int, _Run] = {}
    try:
        while True:
            while free and (mutant := next(waiting, None)) is not None:
                copy = free.pop()
                _write(copy, mutant.module, mutant.mutated()[0])
                running[_fork(copy, mutant.module)] = _Run(mutant, copy, time.monotonic())
            if not running:
                return
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                _kill_overdue(running)
                time.sleep(IDLE_S)
                continue
            run = running.pop(pid)
            _restore(run.copy, run.mutant.module)
            free.append(run.copy)
            code = os.waitstatus_to_exitcode(status)
            yield run.mutant, code != 0
    finally:
        for pid in running:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def failing_unmutated(modules: Iterable[str], directory: Path) -> list[str]:
    """Those modules whose tests fail without any mutation; also compiles the copies' modules."""
    copy = _copy(directory / "unmutated")
    failing = []
    for module in modules:
        _, status = os.waitpid(_fork(copy, module), 0)
        if os.waitstatus_to_exitcode(status) != 0:
            failing.append(module)
    return failing


def _kill_overdue(running: dict[int, _Run]) -> None:
    for pid, run in running.items():
        if time.monotonic() - run.started_at > WALL_LIMIT_S:
            os.kill(pid, signal.SIGKILL)


def _copy(to: Path) -> Path:
    """A copy of what the tests of the core need, with the compiled modules."""
    for name in ("grapevine_proto", "tests"):
        shutil.copytree(ROOT / name, to / name, ignore=shutil.ignore_patterns("snapshots"))
    shutil.copy2(ROOT / "pyproject.toml", to)
    return to


def _write(copy: Path, module: str, text: str) -> None:
    path = copy / "grapevine_proto" / f"{module}.py"
    for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
        compiled.unlink()  # valid by its time and size, if the mutant is of the same length
    path.write_text(text, encoding="utf-8")


def _restore(copy: Path, module: str) -> None:
    name = f"grapevine_proto/{module}.py"
    shutil.copy2(ROOT / name, copy / name)


def _fork(copy: Path, module: str) -> int:
    """Run the tests of a module in a fork, which exits with the status of pytest."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    status = 1
    try:
        _bound()
        _enter(copy)
        # Their plugins are loaded already.
        options = ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
        options += ["-x", "-q", "-p", "no:xdist", "-p", "no:cacheprovider"]
        status = int(pytest.main([*options, *own_tests(module)]))
    finally:
        os._exit(status)


def _bound() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_LIMIT_S, CPU_LIMIT_S))
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))


def _enter(copy: Path) -> None:
    """Make this process one that was started in `copy`."""
    os.chdir(copy)
    sys.dont_write_bytecode = True
    sys.path[:] = [str(copy), *(path for path in sys.path if path and Path(path) != ROOT)]
    for name in [
        name for name in sys.modules if name.split(".")[0] in {"tests", "grapevine_proto"}
    ]:
        del sys.modules[name]
    os.environ["GRAPEVINE_HYPOTHESIS"] = "mutation"
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
