"""Runs all of the lab, also what takes minutes, and prints how long each wait took.

python -m tests.lab [--strict] [ARGUMENT OF PYTEST ...]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from tests.lab.network import why_not


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description=__doc__)
    parser.add_argument(
        "--strict",
        action="store_true",
        help="fail at the stated bounds: for a machine that is idle",
    )
    options, rest = parser.parse_known_args()
    if why_not():
        parser.exit(1, f"{why_not()}\n")
    environ = os.environ | {"GRAPEVINE_LAB_ALL": "1"}
    if options.strict:
        environ["GRAPEVINE_LAB_PATIENCE"] = "1"
    command = [sys.executable, "-m", "pytest", "-n", "0", "-rP", str(Path(__file__).parent), *rest]
    return subprocess.run(command, env=environ, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
